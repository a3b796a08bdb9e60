# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The network that makes fields in one pass."""

from __future__ import annotations

import pytest
import torch
from networks import generator

from monai_miadmark.diversity import gaussian_blur
from monai_miadmark.generator import LATENT_SIZE, PerturbationGenerator, _smooth


def inputs(size: tuple[int, int] = (24, 20), channels: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(2)
    images = torch.rand((2, channels, *size), generator=rng)
    budget = torch.rand((2, 1, *size), generator=rng) * 20 / 255
    return images, budget, torch.randn((2, LATENT_SIZE), generator=rng)


@pytest.mark.parametrize("size", [(1, 1), (1, 17), (3, 2), (7, 9), (8, 8), (24, 20), (31, 65)])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_size(size: tuple[int, int], channels: int) -> None:
    given = inputs(size, channels)
    with torch.inference_mode():
        fields = generator()(*given), generator()(*given, torch.randn_like(given[0]))
    for field in fields:
        assert field.shape == (2, channels, *size)
        assert field.isfinite().all() and field.abs().max() <= 1


def test_one_image_of_one_sample_can_be_trained_on() -> None:
    images, budget, latent = (t[:1] for t in inputs((1, 1)))
    generator().train()(images, budget, latent).sum().backward()


def test_hears_where_surrogates_err() -> None:
    """What it makes of a direction is its own, but it starts by following; no direction is one of zeros."""
    images, budget, latent = inputs()
    told = torch.randn(images.shape, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        alone, without = generator()(images, budget, latent), generator()(images, budget, latent, 0 * told)
        toward, away = (generator()(images, budget, latent, sign * told) for sign in (1, -1))
        louder = generator()(images, budget, latent, 100 * told)
    assert torch.equal(alone, without)
    assert ((toward - away) * told.sign()).mean() > 0.2
    torch.testing.assert_close(louder, toward)


@pytest.mark.parametrize("size", [(1, 1), (3, 9), (24, 20)])
def test_smoothing_is_a_mean(size: tuple[int, int]) -> None:
    planes = torch.randn((2, 3, *size), generator=torch.Generator().manual_seed(4))
    assert torch.equal(_smooth(planes, 0.0), planes)
    torch.testing.assert_close(_smooth(torch.ones_like(planes), 1.5), torch.ones_like(planes))
    assert _smooth(planes, 4.0).std() <= _smooth(planes, 1.5).std() <= planes.std()


def test_smoothing_is_that_of_the_gradient_steps() -> None:
    """Away from edges; there the steps reflect."""
    planes = torch.randn((2, 3, 40, 36), generator=torch.Generator().manual_seed(4))
    inner = ..., slice(8, -8), slice(8, -8)
    torch.testing.assert_close(_smooth(planes, 1.5)[inner], gaussian_blur(planes, 1.5)[inner], rtol=0, atol=0.02)


def test_is_deterministic() -> None:
    network = generator().eval()
    with torch.inference_mode():
        first, second = network(*inputs()), network(*inputs())
    assert torch.equal(first, second)


def test_color_planes_are_their_own_and_gray_is_not_weaker() -> None:
    """Gray images get the mean of the planes before the tanh: what is left of it where they differ is made up for."""
    images, budget, latent = inputs()
    with torch.inference_mode():
        gray = generator()(images, budget, latent)
        color = generator()(images.expand(-1, 3, -1, -1), budget, latent)
    assert (color[:, 0] - color[:, 1]).abs().mean() > 0.1
    assert gray.abs().mean() == pytest.approx(float(color.abs().mean()), abs=0.15)
    assert torch.corrcoef(torch.stack((gray.flatten(), color.mean(1).flatten())))[0, 1] > 0.85


def test_no_weights_saturate_the_field() -> None:
    network = generator()
    with torch.inference_mode():
        network.leave.conv.weight.mul_(1000)
        field = network(*inputs())
    assert 0.5 < field.abs().mean() < 0.9 and (field.abs() < 0.5).any()


@pytest.mark.parametrize("size", [(24, 20), (4, 60), (200, 150)])
def test_patterns_take_any_size(size: tuple[int, int]) -> None:
    given = inputs(size)
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(1)
        network = PerturbationGenerator(width=8, shallow=2, deep=1, patterns=3, pattern_side=32)
        field = network(*given)
        torch.nn.init.zeros_(network.patterns.patterns)
        without = network(*given)
    assert field.shape == (2, 1, *size) and not torch.allclose(field, without)


@pytest.mark.parametrize("patterns", [0, 2])
@pytest.mark.parametrize("norm", [True, False])
def test_parts_can_be_left_out(patterns: int, norm: bool) -> None:
    network = PerturbationGenerator(width=8, shallow=2, deep=1, patterns=patterns, pattern_side=16, norm=norm)
    assert (network.patterns is None) == (patterns == 0)
    assert any(isinstance(m, torch.nn.GroupNorm) for m in network.modules()) == norm
    assert network(*inputs()).isfinite().all()


@pytest.mark.parametrize("which", [0, 1, 2], ids=["image", "budget", "latent"])
def test_everything_that_goes_in_matters(which: int) -> None:
    network = generator()
    given = list(inputs())
    with torch.inference_mode():
        before = network(*given)
        given[which] = given[which] * 0.5
        after = network(*given)
    assert (before - after).abs().max() > 1e-4


def test_slices_of_a_batch_do_not_mix() -> None:
    network = generator()
    given = inputs()
    with torch.inference_mode():
        both = network(*given)
        alone = network(*(t[1:] for t in given))
    torch.testing.assert_close(both[1:], alone, atol=1e-5, rtol=1e-4)


def test_every_cell_has_its_own_value() -> None:
    """No block of 4 x 4 cells is flat, which a network at 1/4 resolution without depth-to-space would give."""
    with torch.inference_mode():
        field = generator()(*inputs())
    blocks = field.unfold(2, 4, 4).unfold(3, 4, 4).flatten(-2)
    assert (blocks.std(-1) > 0).all()


def test_every_weight_gets_a_gradient() -> None:
    network = PerturbationGenerator(width=8, shallow=2, deep=1).train()
    images, budget, latent = inputs()
    network(images, budget, latent, torch.randn_like(images)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())

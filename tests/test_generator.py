# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The network that makes fields in one pass."""

from __future__ import annotations

import pytest
import torch
from networks import generator

from monai_miadmark.generator import LATENT_SIZE, PerturbationGenerator


def inputs(size: tuple[int, int] = (24, 20), channels: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(2)
    images = torch.rand((2, channels, *size), generator=rng)
    budget = torch.rand((2, 1, *size), generator=rng) * 20 / 255
    return images, budget, torch.randn((2, LATENT_SIZE), generator=rng)


@pytest.mark.parametrize("size", [(1, 1), (1, 17), (3, 2), (7, 9), (8, 8), (24, 20), (31, 65)])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_size(size: tuple[int, int], channels: int) -> None:
    with torch.inference_mode():
        field = generator()(*inputs(size, channels))
    assert field.shape == (2, 1, *size)
    assert field.isfinite().all() and field.abs().max() <= 1


def test_one_image_of_one_sample_can_be_trained_on() -> None:
    images, budget, latent = (t[:1] for t in inputs((1, 1)))
    generator().train()(images, budget, latent).sum().backward()


def test_is_deterministic() -> None:
    network = generator().eval()
    with torch.inference_mode():
        first, second = network(*inputs()), network(*inputs())
    assert torch.equal(first, second)


def test_gray_is_the_same_as_three_equal_channels() -> None:
    images, budget, latent = inputs()
    with torch.inference_mode():
        network = generator()
        torch.testing.assert_close(
            network(images, budget, latent), network(images.expand(-1, 3, -1, -1), budget, latent)
        )


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
    network(*inputs()).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())

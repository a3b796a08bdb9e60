# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Removal networks, decomposition and adapted victims on tiny images."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from monai_miadmark.diversity import gaussian_blur
from monai_miadmark.evaluation.adapted_victims import fine_tune
from monai_miadmark.evaluation.decomposition import DecompositionNetwork, train_decomposition
from monai_miadmark.evaluation.random_noise import random_noise
from monai_miadmark.evaluation.removal_networks import (
    FEATURES,
    PatchUNet,
    RemovalNetwork,
    apply_network,
    as_remover,
    train_denoiser,
    train_remover,
)
from monai_miadmark.evaluation.removal_training import DiagnosticLoss, ImagePairs, display_units, optimize, seeded
from monai_miadmark.surrogates import Surrogate
from tests.networks import CLASSES, SIDE, classifier, pictures

TINY = (8, 8, 8, 8, 8, 8)


def clean_images(count: int = 6, channels: int = 1) -> Tensor:
    return torch.from_numpy(pictures(count, SIDE, SIDE, channels))


def marked(clean: Tensor, strength: float = 0.2) -> tuple[Tensor, Tensor]:
    """A pattern everywhere, ink in a corner, and where the ink is."""
    pattern = torch.ones(SIDE, SIDE)
    pattern[::2, 1::2] = -1
    pattern[1::2, ::2] = -1
    masks = torch.zeros(len(clean), 1, SIDE, SIDE, dtype=torch.bool)
    masks[..., 4:12, 4:20] = True
    inked = torch.where(masks, 0.5 * clean + 0.5, clean)
    return (inked + strength / 2 * pattern).clamp(0, 1), masks


def victim(seed: int = 0) -> Surrogate:
    return Surrogate(classifier(seed), "tiny", SIDE)


def state(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def error(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().mean())


def denoiser(seed: int = 0) -> nn.Module:
    return train_denoiser(clean_images(), 2, seed, batch_size=2, features=TINY)


def remover(seed: int = 0) -> nn.Module:
    clean = clean_images()
    return train_remover(
        marked(clean)[0], clean, 3, seed, victim(), torch.arange(6) % CLASSES, batch_size=2, features=TINY
    )


def decomposition(seed: int = 0) -> nn.Module:
    clean = clean_images()
    protected, masks = marked(clean)
    return train_decomposition(
        protected, clean, masks, 2, seed, victim(), batch_size=2, features=TINY, refinement_features=TINY
    )


def adapted(seed: int = 0) -> nn.Module:
    clean = clean_images()
    return fine_tune(victim(), marked(clean)[0], torch.arange(6) % CLASSES, 2, seed, clean, batch_size=4)


TRAINERS = [denoiser, remover, decomposition, adapted]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(SIDE, SIDE), (1, 1), (45, 33)])
def test_a_new_removal_network_changes_nothing(channels: int, size: tuple[int, int]) -> None:
    images = torch.rand(2, channels, *size, generator=torch.Generator().manual_seed(0))
    network = RemovalNetwork(channels, TINY)
    assert torch.equal(network.train()(images), images)
    assert torch.equal(network.eval()(images), images)


def test_the_default_network_has_about_a_million_weights() -> None:
    assert 1e6 < sum(p.numel() for p in PatchUNet(3, 3, FEATURES).parameters()) < 2e6


@pytest.mark.parametrize("train", TRAINERS)
def test_seeds_decide_and_nothing_else(train: Callable[[int], nn.Module]) -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = train(3)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    assert same(state(first), state(train(3)))
    assert not same(state(first), state(train(4)))
    assert not first.training


@pytest.mark.parametrize("train", [denoiser, remover, decomposition])
def test_what_comes_out_is_an_image_like_what_went_in(train: Callable[[int], nn.Module]) -> None:
    images = 3 * clean_images(5) - 1
    out = as_remover(train(0), batch_size=2)(images)
    assert out.shape == images.shape and out.dtype == torch.float32
    assert 0 <= float(out.min()) and float(out.max()) <= 1


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_a_remover_learns_to_remove(kind: torch.dtype) -> None:
    clean = clean_images()
    protected, _ = marked(clean)
    if kind == torch.uint8:
        protected, clean = ((255 * images).round().to(kind) for images in (protected, clean))
    network = train_remover(protected, clean, 30, 0, batch_size=2, features=TINY, learning_rate=1e-2)
    wanted = display_units(clean)
    assert error(apply_network(network, protected), wanted) < 0.6 * error(display_units(protected), wanted)


def test_a_denoiser_learns_to_denoise() -> None:
    clean = gaussian_blur(clean_images(), 1.5)
    noisy = (clean + 0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(9))).clamp(0, 1)
    network = train_denoiser(clean, 80, 0, batch_size=4, features=TINY, learning_rate=1e-2)
    assert error(apply_network(network, noisy), clean) < 0.96 * error(noisy, clean)


def test_a_decomposition_finds_the_logo_and_what_is_beneath() -> None:
    clean = clean_images()
    protected, masks = marked(clean, strength=0.05)
    network = train_decomposition(
        protected, clean, masks, 60, 0, batch_size=3, features=TINY, refinement_features=TINY, learning_rate=1e-2
    )
    with torch.inference_mode():
        found = network.decompose(protected)
    inside, outside = found.mask_logits.sigmoid()[masks].mean(), found.mask_logits.sigmoid()[~masks].mean()
    assert inside > outside + 0.3
    assert error(found.restored, clean) < 0.6 * error(protected, clean)
    assert float(found.alpha.max()) < 0.75
    assert 0 <= float(found.coarse.min()) and float(found.coarse.max()) <= 1


def test_stage_one_undoes_its_own_blending() -> None:
    network = DecompositionNetwork(3, TINY, TINY).eval()
    images = clean_images(2, 3) * 0.5 + 0.25
    with torch.inference_mode():
        found = network.decompose(images)
    blended = found.alpha * found.watermark + (1 - found.alpha) * found.coarse
    free = (found.coarse > 0) & (found.coarse < 1)
    assert bool(free.any())
    torch.testing.assert_close(blended[free], images[free])


def test_the_classifier_of_an_attacker_counts_and_stays_as_it_is() -> None:
    clean = clean_images()
    protected, _ = marked(clean)
    judge = victim().train()
    before = state(judge)
    with_judge = train_remover(protected, clean, 3, 0, [judge, victim(1)], batch_size=2, features=TINY)
    without = train_remover(protected, clean, 3, 0, batch_size=2, features=TINY)
    assert same(state(judge), before) and judge.training
    assert all(p.requires_grad and p.grad is None for p in judge.parameters())
    assert not same(state(with_judge), state(without))


def test_the_diagnostic_loss_is_least_where_the_model_sees_the_clean_image() -> None:
    clean = clean_images(4)
    protected, _ = marked(clean)
    batch = next(ImagePairs(protected, clean).batches(4, torch.Generator().manual_seed(0), changed=0))
    judge = DiagnosticLoss(victim(), every=2)
    assert float(judge(0, batch.clean, batch)) == pytest.approx(0, abs=1e-6)
    assert float(judge(0, batch.protected, batch)) > 1e-6
    assert float(judge(1, batch.protected, batch)) == 0
    with pytest.raises(ValueError, match="every"):
        DiagnosticLoss(victim(), every=0)


def test_fine_tuning_changes_a_copy() -> None:
    network = victim()
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    before, mode = state(network), network.training
    new = fine_tune(network, clean_images(), torch.arange(6) % CLASSES, 3, 0, batch_size=4)
    assert isinstance(new, Surrogate) and not new.training
    assert same(state(network), before) and network.training == mode
    assert not any(p.requires_grad for p in network.parameters())
    assert not same(state(new), before)


def test_fine_tuning_learns_the_labels() -> None:
    shades = torch.linspace(0.1, 0.9, CLASSES).repeat(4)
    images = shades[:, None, None, None].expand(-1, 1, SIDE, SIDE).contiguous()
    labels = torch.arange(CLASSES).repeat(4)
    new = fine_tune(victim(), images, labels, 40, 0, batch_size=12, learning_rate=1e-2)
    with torch.inference_mode():
        assert float((new(images).argmax(1) == labels).float().mean()) > 0.6


def test_both_images_of_a_pair_and_its_mask_are_changed_alike() -> None:
    clean = clean_images(4, 3)
    pairs = ImagePairs(clean * 0.5, clean, torch.arange(4), clean[:, :1] > 0.5)
    batches = pairs.batches(3, torch.Generator().manual_seed(0), changed=1)
    seen = [next(batches) for _ in range(4)]
    for batch in seen:
        torch.testing.assert_close(batch.protected, batch.clean * 0.5)
        assert torch.equal(batch.masks, (batch.clean[:, :1] > 0.5).float())
    # Three passes over four pairs.
    assert torch.bincount(torch.cat([batch.labels for batch in seen])).tolist() == [3, 3, 3, 3]
    assert any(not torch.equal(batch.clean, clean[batch.labels]) for batch in seen)
    unchanged = next(pairs.batches(4, torch.Generator().manual_seed(0), changed=0))
    assert torch.equal(unchanged.clean, clean[unchanged.labels])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [1, 2, 19])
def test_noise_stays_in_the_window_and_differs(channels: int, side: int) -> None:
    images = torch.full((40, channels, side, side), 0.5)
    noisy = random_noise(images, torch.Generator().manual_seed(0))
    assert noisy.shape == images.shape
    assert 0 <= float(noisy.min()) and float(noisy.max()) <= 1
    assert torch.equal(noisy, random_noise(images, torch.Generator().manual_seed(0)))
    if side > 2:
        spread = (noisy - images).flatten(1).std(1)
        assert float(spread.min()) < 0.03 < 0.05 < float(spread.max())


def test_apply_gives_the_mode_back() -> None:
    network = copy.deepcopy(denoiser()).train()
    images = (255 * clean_images(3)).to(torch.uint8)
    out = apply_network(network, images, batch_size=2)
    assert network.training
    torch.testing.assert_close(out, apply_network(network.eval(), display_units(images), batch_size=3))


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ((clean_images(2), clean_images(3)), "pairs"),
        ((clean_images(2, 2), clean_images(2, 2)), "pairs"),
        ((clean_images(2)[:0], clean_images(2)[:0]), "no pairs"),
        ((clean_images(2), clean_images(2), torch.arange(3)), "labels"),
        ((clean_images(2), clean_images(2), None, torch.ones(2, SIDE, SIDE, dtype=torch.bool)), "masks"),
    ],
)
def test_what_does_not_fit_is_refused(arguments: tuple[Tensor, ...], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        ImagePairs(*arguments)


def test_wrong_arguments_are_refused() -> None:
    clean = clean_images(2)
    with pytest.raises(ValueError, match="step"):
        train_denoiser(clean, 0, 0, features=TINY)
    with pytest.raises(ValueError, match="uint8"):
        display_units(torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ValueError, match="clean_share"):
        fine_tune(victim(), clean, torch.zeros(2), 1, 0, clean_share=1.5)
    with pytest.raises(ValueError, match="negative"):
        fine_tune(victim(), clean, torch.tensor([0, -1]), 1, 0)


def test_a_loss_that_explodes_ends_the_training() -> None:
    network = nn.Linear(1, 1)
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        optimize(network, lambda step: network(torch.ones(1, 1)).sum() * float("nan"), 3, 1e-3, "test")


def test_progress_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with seeded(0):
        network = nn.Linear(1, 1)
    with caplog.at_level(logging.INFO, "monai_miadmark.evaluation.removal_training"):
        optimize(network, lambda step: network(torch.ones(1, 1)).square().sum(), 60, 1e-3, "test")
    assert [record.getMessage().split(",")[0] for record in caplog.records] == [
        "test: step 50 of 60",
        "test: step 60 of 60",
    ]

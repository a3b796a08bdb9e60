# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Structural similarity without torch, against MONAI's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.metrics.regression import compute_ssim_and_cs
from numpy.typing import NDArray

from monai_miadmark.likeness import RADIUS, Likeness, smooth
from monai_miadmark.soft_likeness import SoftLikeness


def pair(channels: int, height: int, width: int, amplitude: float = 0.05) -> tuple[NDArray[np.float32], ...]:
    """An image and a changed version, ``(C, h, w)`` in [0, 1]."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    clean = 0.5 + 0.3 * np.sin(x / 5) * np.cos(y / 4) + rng.normal(0, 0.03, (channels, height, width))
    changed = clean + amplitude * rng.choice([-1, 1], clean.shape)
    return clean.clip(0, 1).astype(np.float32), changed.clip(0, 1).astype(np.float32)


def monai_ssim(clean: NDArray[np.float32], changed: NDArray[np.float32]) -> NDArray[np.float32]:
    """MONAI's map of whole windows, mean over the channels, ``(h - 10, w - 10)``."""
    planes = (torch.from_numpy(a[None]) for a in (changed, clean))
    ssim_map, _ = compute_ssim_and_cs(*planes, 2, kernel_size=[11, 11], kernel_sigma=[1.5, 1.5], data_range=1.0)
    similar: NDArray[np.float32] = ssim_map[0].mean(0).numpy()
    return similar


@pytest.mark.parametrize("shape", [(1, 11, 11), (1, 40, 33), (3, 24, 50)])
@pytest.mark.parametrize("amplitude", [0.01, 0.2])
def test_agrees_with_monai_away_from_borders(shape: tuple[int, int, int], amplitude: float) -> None:
    clean, changed = pair(*shape, amplitude)
    similar = Likeness(clean).ssim_map(changed)
    assert similar.shape == shape[1:] and similar.dtype == np.float32
    np.testing.assert_allclose(
        similar[RADIUS:-RADIUS, RADIUS:-RADIUS], monai_ssim(clean, changed), rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("shape", [(1, 40, 33), (3, 24, 50), (3, 9, 12)])
def test_the_differentiable_one_says_the_same(shape: tuple[int, int, int]) -> None:
    clean, changed = pair(*shape)
    judged = np.random.default_rng(1).random(shape[1:]) > 0.3
    likeness = Likeness(clean)
    cells, windows = likeness.counted(judged)
    planes = torch.from_numpy(changed[None]).requires_grad_()
    soft = SoftLikeness(torch.from_numpy(clean[None]), torch.from_numpy(judged[None, None]))
    assert soft.squared_error(planes).item() == pytest.approx(likeness.squared_error(changed)[cells].mean(), rel=1e-4)
    if min(shape[1:]) > 2 * RADIUS:
        assert soft.ssim(planes).item() == pytest.approx(likeness.ssim_map(changed)[windows].mean(), abs=1e-4)
    soft.ssim(planes).sum().backward()
    assert planes.grad is not None and planes.grad.isfinite().all() and planes.grad.any()


@pytest.mark.parametrize("shape", [(1, 40, 33), (3, 1, 12), (2, 17, 2)])
def test_windows_apart_are_those_of_all(shape: tuple[int, int, int]) -> None:
    clean, changed = pair(*shape)
    some, all_of_them = Likeness(clean, 2), Likeness(clean)
    np.testing.assert_allclose(some.ssim_map(changed), all_of_them.ssim_map(changed)[::2, ::2], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(some.variance, all_of_them.variance[:, ::2, ::2], atol=1e-6)


def test_flat_images_differ_in_brightness_alone() -> None:
    low, high = np.full((1, 15, 15), 0.2, np.float32), np.full((1, 15, 15), 0.5, np.float32)
    expected = (2 * 0.2 * 0.5 + 1e-4) / (0.2**2 + 0.5**2 + 1e-4)
    np.testing.assert_allclose(Likeness(low).ssim_map(high), expected, atol=1e-4)
    np.testing.assert_allclose(Likeness(low).variance, 0, atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 300), (16, 16)])
def test_any_size_has_a_value_everywhere(size: tuple[int, int]) -> None:
    clean, changed = pair(2, *size)
    likeness = Likeness(clean)
    np.testing.assert_allclose(likeness.ssim_map(clean), 1, atol=1e-5)
    similar = likeness.ssim_map(changed)
    assert similar.shape == size and np.isfinite(similar).all() and similar.max() < 1
    assert likeness.variance.shape == (2, *size) and (likeness.variance >= 0).all()


def test_squared_error_is_the_mean_over_the_channels() -> None:
    clean, changed = pair(3, 12, 9)
    np.testing.assert_allclose(Likeness(clean).squared_error(changed), ((changed - clean) ** 2).mean(0), rtol=1e-6)


def test_smoothing_is_a_mean_with_borders_repeated() -> None:
    np.testing.assert_allclose(smooth(np.full((2, 13, 6), 0.7, np.float32)), 0.7, rtol=1e-5)
    impulse = np.zeros((31, 31), np.float32)
    impulse[15, 15] = 1
    spread = smooth(impulse)
    assert spread[15, 15] == spread.max() and spread.sum() == pytest.approx(1, abs=1e-5)
    assert not spread[: 15 - RADIUS].any() and spread[15 - RADIUS, 15] > 0
    np.testing.assert_allclose(spread, spread.T, atol=1e-7)
    padded = np.pad(pair(1, 20, 20)[0], ((0, 0), (RADIUS,) * 2, (RADIUS,) * 2), mode="edge")
    inner = padded[:, RADIUS:-RADIUS, RADIUS:-RADIUS]
    np.testing.assert_allclose(smooth(inner), smooth(padded)[:, RADIUS:-RADIUS, RADIUS:-RADIUS], atol=1e-5)

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The visibility budget: what each place may change, and its blocks."""

from __future__ import annotations

import numpy as np
import pytest

from monai_miadmark.budget import Visibility, block_scales, cell_budget, visibility_map
from monai_miadmark.field import BLOCK, MAX_SCALE, UNITS

MODEL = Visibility()


def picture(height: int = 30, width: int = 26, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).random((2, channels, height, width)).astype(np.float32)


def test_the_map_is_the_formula_by_hand() -> None:
    display = picture(12, 10, 3)
    gray = display.astype(np.float64).mean(1)
    padded = np.pad(gray, ((0, 0), (3, 3), (3, 3)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (7, 7), axis=(1, 2))
    mean, deviation = windows.mean((3, 4)), windows.std((3, 4))
    by_hand = MODEL.floor + MODEL.contrast * deviation + MODEL.luminance * mean
    by_hand *= np.clip((mean + deviation) / MODEL.dark - 0.5, 0, 1)
    np.testing.assert_allclose(visibility_map(display, MODEL), np.minimum(by_hand, MODEL.ceiling), atol=1e-9)


def test_background_gets_nothing_and_flat_tissue_the_floor() -> None:
    display = np.zeros((1, 1, 40, 40), np.float32)
    display[:, :, :, 20:] = 0.5
    budget = visibility_map(display, MODEL)
    assert (budget[:, :, :16] == 0).all()
    np.testing.assert_allclose(budget[:, :, 24:], MODEL.floor + MODEL.luminance * 0.5)
    assert budget[0, 0, 20] > budget[0, 0, 30]  # contrast masks


def test_ceiling_and_gain() -> None:
    display = picture()
    plain = visibility_map(display, MODEL)
    assert plain.max() == MODEL.ceiling
    assert (plain >= visibility_map(display, Visibility(gain=0.5))).all()
    assert visibility_map(display, Visibility(gain=0.0)).max() == 0


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 2), (2, 300)])
def test_any_size(size: tuple[int, int]) -> None:
    budget = visibility_map(picture(*size), MODEL)
    assert budget.shape == (2, *size) and np.isfinite(budget).all()
    assert block_scales(budget).shape == (2, -(-size[0] // BLOCK), -(-size[1] // BLOCK))


def test_scales_round_down_and_keep_to_their_limits() -> None:
    one = 1 / UNITS
    for amplitude, expected in ((0, 0), (0.99 * one, 0), (one, 1), (2.5 * one, 2), (3 / 255, 6), (1.0, MAX_SCALE)):
        scales = block_scales(np.full((1, 5, 6), amplitude))
        assert scales.dtype == np.uint8 and scales.shape == (1, 2, 2)
        assert (scales == expected).all(), amplitude


def test_scales_are_means_of_blocks_with_edges_repeated() -> None:
    budget = np.zeros((1, 5, 4))
    budget[0, :4, :2] = 10 / UNITS
    budget[0, 4, 0] = 40 / UNITS
    assert block_scales(budget).tolist() == [[[5], [10]]]


def test_cells_have_the_scale_of_their_block() -> None:
    scales = np.array([[[1, 2], [3, 51]]], np.uint8)
    cells = cell_budget(scales, 7, 6)
    assert cells.shape == (1, 1, 7, 6) and cells.dtype == np.float32
    assert cells[0, 0, 0, 3] == np.float32(1 / UNITS) and cells[0, 0, 3, 4] == np.float32(2 / UNITS)
    assert cells[0, 0, 4, 0] == np.float32(3 / UNITS) and cells[0, 0, 6, 5] == np.float32(0.1)


def test_scales_of_cells_are_the_scales() -> None:
    scales = np.random.default_rng(1).integers(0, MAX_SCALE + 1, (2, 3, 4)).astype(np.uint8)
    assert (block_scales(cell_budget(scales, 12, 16)[:, 0].astype(np.float64) + 1e-9) == scales).all()

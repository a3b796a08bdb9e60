# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""How much each place of an image may change: a just-noticeable-difference map in display units.

The map is computed once, when an image is protected, in plain float64 numpy on the canonical grid, and travels in the
record as 8-bit block scales. Restoring never computes it again, so no machine has to reproduce it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from monai_miadmark.field import BLOCK, MAX_SCALE, UNITS, spread

__all__ = ["Visibility", "block_scales", "cell_budget", "visibility_map"]


@dataclass(frozen=True)
class Visibility:
    """Weights of the just-noticeable-difference model, all as fractions of the display window.

    Masking by contrast (Daly, Watson) is linear in the local standard deviation, Weber's law linear in the local mean;
    ``floor`` is what is hidden in any tissue, ``dark`` the mean below which a flat place counts as background.

    Attributes:
        floor: amplitude allowed in flat foreground.
        contrast: weight of the local standard deviation.
        luminance: weight of the local mean.
        ceiling: largest amplitude anywhere.
        dark: mean plus deviation below which a place is background and gets nothing.
        gain: factor on all of it; the presets differ by it.
    """

    floor: float = 7 / 255
    contrast: float = 0.15
    luminance: float = 0.02
    ceiling: float = 16 / 255
    dark: float = 0.035
    gain: float = 1.0


def visibility_map(display: NDArray[np.float32], model: Visibility) -> NDArray[np.float64]:
    """Amplitude that stays unnoticed at each cell.

    Args:
        display: ``(N, C, h, w)`` in [0, 1].
        model: weights.

    Returns:
        ``(N, h, w)`` amplitudes as fractions of the window, at most ``model.ceiling``.
    """
    gray = display.astype(np.float64).mean(axis=1)
    mean = _box_mean(gray, 3)
    deviation = np.sqrt(np.maximum(_box_mean(gray * gray, 3) - mean * mean, 0.0))
    budget = model.floor + model.contrast * deviation + model.luminance * mean
    # A ramp instead of a threshold: a hard edge between marked tissue and unmarked air would draw an outline.
    foreground = np.clip((mean + deviation) / model.dark - 0.5, 0.0, 1.0)
    return np.minimum(model.gain * budget * foreground, model.ceiling)


def block_scales(budget: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Quantize a budget map to one scale for every block.

    Args:
        budget: ``(N, h, w)`` amplitudes as fractions of the window.

    Returns:
        ``(N, ceil(h / 4), ceil(w / 4))`` uint8 field units, rounded down from the block's mean.
    """
    height, width = budget.shape[1:]
    padded = np.pad(budget, ((0, 0), (0, -height % BLOCK), (0, -width % BLOCK)), mode="edge")
    blocks = padded.reshape(len(budget), padded.shape[1] // BLOCK, BLOCK, padded.shape[2] // BLOCK, BLOCK).mean((2, 4))
    scales: NDArray[np.uint8] = np.minimum(np.floor(blocks * UNITS + 1e-9), MAX_SCALE).astype(np.uint8)
    return scales


def cell_budget(scales: NDArray[np.uint8], height: int, width: int) -> NDArray[np.float32]:
    """Amplitude of a full level at each cell, ``(N, 1, h, w)`` float32 fractions of the window."""
    cells = spread(scales, (len(scales), height, width))
    return (cells[:, None].astype(np.float32) / UNITS).astype(np.float32)


def _box_mean(planes: NDArray[np.float64], radius: int) -> NDArray[np.float64]:
    """Mean over a square window of side ``2 radius + 1``, edges repeated, by running sums: ``(N, h, w)``."""
    for axis in (1, 2):
        pad = [(0, 0)] * 3
        pad[axis] = (radius + 1, radius)
        sums = np.cumsum(np.pad(planes, pad, mode="edge"), axis=axis)
        size, side = planes.shape[axis], 2 * radius + 1
        first = np.take(sums, range(size), axis=axis)
        last = np.take(sums, range(side, side + size), axis=axis)
        planes = (last - first) / side
    return planes

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Where there is least to see in an image: for the logo, where nobody can tell where the lesion lies."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["content", "middle"]

_RIM = 1 / 6
"""Width of the border outside the middle, as a share of the image's sides."""

_ROUNDNESS = 4
"""Exponent of the superellipse that bounds the middle: 2 is an ellipse, more is nearer to a rectangle."""

_REACH = 1 / 12
"""Side of the window whose deviation counts as content, as a share of the longer side."""

_CENTRAL = 0.1
"""How much deviation the very center is worth: of two places alike, the outer one is taken."""


def middle(h: int, w: int) -> NDArray[np.bool_]:
    """The part of a grid where anatomy is expected: all but a border of a sixth and the corners, ``(h, w)`` bool."""
    y, x = (np.abs(np.arange(n) - (n - 1) / 2) / ((0.5 - _RIM) * n) for n in (h, w))
    return np.asarray(y[:, None] ** _ROUNDNESS + x[None, :] ** _ROUNDNESS < 1)


def content(display: NDArray[np.float32]) -> NDArray[np.float64]:
    """How much there is to see at each cell of a slice.

    Air, collimated borders and padding are flat, whether they are black or white; tissue, bones and letters are not.

    Args:
        display: ``(C, h, w)`` in [0, 1].

    Returns:
        ``(h, w)``, not negative.
    """
    _, h, w = display.shape
    reach = max(1, round(_REACH * max(h, w) / 2))
    gray = display.astype(np.float64).mean(0)
    mean = _box_mean(gray, reach)
    deviation = np.sqrt(np.maximum(_box_mean(gray * gray, reach) - mean * mean, 0))
    y, x = (1 - np.abs(np.linspace(-1, 1, n)) for n in (h, w))
    return np.asarray(deviation + _CENTRAL * np.minimum(y[:, None], x[None, :]))


def _box_mean(plane: NDArray[np.float64], reach: int) -> NDArray[np.float64]:
    """Means over squares that reach so many cells to each side; edge cells are repeated beyond the edge."""
    side = 2 * reach + 1
    sums = np.zeros((plane.shape[0] + side, plane.shape[1] + side))
    sums[1:, 1:] = np.pad(plane, reach, mode="edge").cumsum(0).cumsum(1)
    return np.asarray((sums[side:, side:] - sums[side:, :-side] - sums[:-side, side:] + sums[:-side, :-side]) / side**2)

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""PNG's row filters in NumPy, for pixels of several 16-bit samples, whose low bytes Pillow drops.

Section 9 of https://www.w3.org/TR/png-3/: each byte is the difference from a prediction made of the bytes one pixel to
the left (a), in the row above (b), and above on the left (c).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_miadmark.errors import TamperedError

__all__ = ["filtered", "unfiltered"]

_PAETH = 4


def unfiltered(raw: bytes, height: int, width: int, size: int) -> NDArray[np.uint8]:
    """Bytes of pixels from what PNG's compression holds.

    Args:
        raw: ``height`` rows, each a byte that names its filter and ``width * size`` bytes.
        height: rows, at least 1.
        width: pixels in a row, at least 1.
        size: bytes of a pixel.

    Returns:
        ``(height, width, size)`` uint8.

    Raises:
        TamperedError: another length, or an unknown filter.
    """
    if len(raw) != height * (1 + width * size):
        raise TamperedError("the PNG pixel data do not have the declared size")
    rows = np.frombuffer(raw, np.uint8).reshape(height, 1 + width * size)
    kinds = rows[:, 0]
    if kinds.max() > _PAETH:
        raise TamperedError("the PNG pixel data are damaged (unknown filter)")
    # One row and one column of zeros before the pixels are what the filters find there.
    grid = np.zeros((height + 1, width + 1, size), np.uint8)
    grid[1:, 1:] = rows[:, 1:].reshape(height, width, size)
    flat = grid.reshape(-1, size)
    # A pixel needs its neighbors to the left and above, so all pixels of one anti-diagonal can be done at once; from
    # one of them to the next it is always `width` pixels on, down and to the left.
    for diagonal in range(height + width - 1 if kinds.any() else 0):
        top, bottom = max(0, diagonal - width + 1), min(height - 1, diagonal)
        first = (top + 1) * (width + 1) + diagonal - top + 1
        stop = first + (bottom - top) * width + 1
        a, b, c = (flat[first - back : stop - back : width].astype(np.int16) for back in (1, width + 1, width + 2))
        flat[first:stop:width] += _predicted(kinds[top : bottom + 1, None], a, b, c)
    return grid[1:, 1:]


def filtered(pixels: NDArray[np.uint8]) -> bytes:
    """Rows as PNG's compression takes them, all with the Paeth filter; inverse of :func:`unfiltered`.

    Args:
        pixels: ``(height, width, size)`` uint8.
    """
    height, width, size = pixels.shape
    grid = np.zeros((height + 1, width + 1, size), np.int16)
    grid[1:, 1:] = pixels
    kinds = np.full((height, 1, 1), _PAETH, np.uint8)
    rows = np.empty((height, 1 + width * size), np.uint8)
    rows[:, 0] = _PAETH
    difference = pixels - _predicted(kinds, grid[1:, :-1], grid[:-1, 1:], grid[:-1, :-1])
    rows[:, 1:] = difference.reshape(height, width * size)
    return rows.tobytes()


def _predicted(kinds: NDArray[Any], a: NDArray[Any], b: NDArray[Any], c: NDArray[Any]) -> NDArray[np.uint8]:
    """Predictions by the filters named (0 none, 1 sub, 2 up, 3 average, 4 Paeth), from int16 neighbors."""
    # Paeth: the neighbor nearest to a + b - c; of equally near ones the first of a, b, c.
    to_a, to_b, to_c = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)
    paeth = np.where((to_a <= to_b) & (to_a <= to_c), a, np.where(to_b <= to_c, b, c))
    found: NDArray[np.uint8] = np.choose(kinds, [np.zeros_like(a), a, b, (a + b) >> 1, paeth]).astype(np.uint8)
    return found

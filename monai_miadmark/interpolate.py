# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Bilinear interpolation in integers, the same on every machine."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["FRACTION_BITS", "canonical_shape", "fixed_rows", "upsample", "upsample_rows"]

FRACTION_BITS = 16
"""Results are the interpolated value times ``2**FRACTION_BITS``, without any rounding."""

_WEIGHT_BITS = FRACTION_BITS // 2
_ONE = 1 << _WEIGHT_BITS


def canonical_shape(height: int, width: int, limit: int = 256) -> tuple[int, int]:
    """Size of the grid on which a mark is made for an image of ``height`` x ``width`` samples.

    Args:
        height: rows of the image, at least 1.
        width: columns of the image, at least 1.
        limit: longest side of the grid.

    Returns:
        The image's own size where both sides are at most ``limit``, else the size with the same aspect whose longer
        side is ``limit``; never less than one cell.

    Raises:
        ValueError: a size below 1.
    """
    if min(height, width, limit) < 1:
        raise ValueError(f"sizes must be at least 1, not {height} x {width} with limit {limit}")
    longest = max(height, width)
    if longest <= limit:
        return height, width
    # Round half up in integers: round() would go through floats and to even.
    grid_height, grid_width = (max(1, (2 * side * limit + longest) // (2 * longest)) for side in (height, width))
    return grid_height, grid_width


def upsample(grid: NDArray[Any], height: int, width: int) -> NDArray[np.int64]:
    """Bring the last two axes of an integer grid to ``height`` x ``width``.

    Half-pixel centers, edges clamped, weights of 8 bits an axis that sum to 256.

    Args:
        grid: integers ``(..., h, w)``; magnitudes below 2**46, so that nothing overflows.
        height: rows of the result.
        width: columns of the result.

    Returns:
        int64 ``(..., height, width)``: the interpolated values times 2**16, exact (values * 2**16 where sizes agree).

    Raises:
        TypeError: the grid is not of an integer type.
        ValueError: an empty grid or size.
    """
    return upsample_rows(grid, height, width, 0, height)


def upsample_rows(grid: NDArray[Any], height: int, width: int, start: int, stop: int) -> NDArray[np.int64]:
    """Rows ``start`` to ``stop`` of what :func:`upsample` gives, so that big images can be worked on in bands.

    Args:
        grid: integers ``(..., h, w)``; magnitudes below 2**46.
        height: rows of the whole result.
        width: columns of the whole result.
        start: first row wanted.
        stop: row after the last one wanted.

    Returns:
        int64 ``(..., stop - start, width)``.

    Raises:
        TypeError: the grid is not of an integer type.
        ValueError: an empty grid or size, or rows outside ``0..height``.
    """
    return fixed_rows(grid, height, width, start, stop).astype(np.int64, copy=False)


def fixed_rows(grid: NDArray[Any], height: int, width: int, start: int, stop: int) -> NDArray[Any]:
    """As :func:`upsample_rows`, but int32 for grids of 8 bits, which is twice as quick."""
    if grid.dtype.kind not in "iu":
        raise TypeError(f"the grid must be of an integer type, not {grid.dtype}")
    if grid.ndim < 2 or 0 in grid.shape[-2:] or height < 1 or width < 1:
        raise ValueError(f"cannot bring a grid {grid.shape} to {height} x {width}")
    if not 0 <= start < stop <= height:
        raise ValueError(f"rows {start}:{stop} are not within 0:{height}")
    # 8-bit cells: |value| <= 255, so |value| * 2**16 < 2**24, and the difference of two times a weight < 2**26.
    work = np.int32 if grid.dtype.itemsize == 1 else np.int64
    if grid.shape[-2:] == (height, width):
        same: NDArray[Any] = grid[..., start:stop, :].astype(work)
        same <<= FRACTION_BITS
        return same
    above, below, row_weight = _axis(grid.shape[-2], height, start, stop)
    first = int(above[0])
    used: NDArray[Any] = grid[..., first : int(below[-1]) + 1, :].astype(work)
    left, right, column_weight = _axis(grid.shape[-1], width, 0, width)
    wide = _mix(used, left, right, column_weight.astype(work), axis=-1)
    return _mix(wide, above - first, below - first, row_weight.astype(work)[:, None], axis=-2)


def _mix(
    grid: NDArray[Any], low: NDArray[np.int64], high: NDArray[np.int64], weight: NDArray[Any], axis: int
) -> NDArray[Any]:
    """Cells ``low`` times ``256 - weight`` plus cells ``high`` times ``weight``."""
    base = np.take(grid, low, axis=axis)
    slope = np.take(grid, high, axis=axis)
    slope -= base
    slope *= weight
    base <<= _WEIGHT_BITS
    base += slope
    return base


def _axis(
    cells: int, samples: int, start: int, stop: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Cell before, cell after and weight of the latter, for samples ``start`` to ``stop`` of an axis."""
    index = np.arange(start, stop, dtype=np.int64)
    # The center of sample i lies at (i + 1/2) * cells / samples - 1/2 cells; here in 1/256 cell, rounded half up.
    # Below 2**9 * samples * cells: no overflow for axes shorter than 2**27.
    position = (_ONE * ((2 * index + 1) * cells - samples) + samples) // (2 * samples)
    position = np.clip(position, 0, _ONE * (cells - 1))
    before = position >> _WEIGHT_BITS
    return before, np.minimum(before + 1, cells - 1), position & (_ONE - 1)

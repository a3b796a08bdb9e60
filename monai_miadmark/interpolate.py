# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Bilinear interpolation in integers, the same on every machine."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["FRACTION_BITS", "Upsampler", "canonical_shape", "upsample", "upsample_rows"]

FRACTION_BITS = 16
"""Results of :func:`upsample` are the interpolated value times ``2**FRACTION_BITS``, without any rounding."""

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
    if grid.dtype.kind not in "iu":
        raise TypeError(f"the grid must be of an integer type, not {grid.dtype}")
    if grid.ndim < 2:
        raise ValueError(f"a grid has two axes at least, not {grid.ndim}")
    upsampler = Upsampler(grid.shape[-2:], (height, width))
    if not 0 <= start < stop <= height:
        raise ValueError(f"rows {start}:{stop} are not within 0:{height}")
    wide: NDArray[np.int64] = upsampler.rows(grid, start, stop).astype(np.int64, copy=False)
    return wide << (FRACTION_BITS - upsampler.bits)


class Upsampler:
    """Where the samples of an image take their values from on a grid: worked out once, for all its bands and slices.

    Args:
        cells: rows and columns of the grid.
        samples: rows and columns of the image.

    Attributes:
        bits: results are the interpolated value times ``2**bits``. That is what the weights need, and no more: 0 where
            sizes agree, 4 where two samples share a cell in each direction, at most :data:`FRACTION_BITS`.

    Raises:
        ValueError: an empty grid or image.
    """

    def __init__(self, cells: tuple[int, int], samples: tuple[int, int]) -> None:
        if min(*cells, *samples) < 1:
            raise ValueError(f"cannot bring a grid {cells} to {samples[0]} x {samples[1]}")
        self.cells, self.samples = cells, samples
        self._axes = [_Axis.between(*axis) for axis in zip(cells, samples, strict=True)]
        self.bits = sum(axis.bits for axis in self._axes)

    def rows(self, grid: NDArray[Any], start: int, stop: int, columns: slice = slice(None)) -> NDArray[Any]:
        """Rows ``start`` to ``stop``, of all columns or some.

        Args:
            grid: integers ``(..., h, w)`` of the grid's size; magnitudes below 2**46.
            start: first row wanted.
            stop: row after the last one wanted.
            columns: a slice of the columns without a step, not empty.

        Returns:
            Signed integers ``(..., stop - start, columns)``, times ``2**bits``: of the narrowest type that holds every
            result for a grid of this type.
        """
        down, across = self._axes[0].part(slice(start, stop)), self._axes[1].part(columns)
        used = grid[..., down.first : down.last + 1, across.first : across.last + 1]
        wide = across.mixed(used.astype(_work_type(grid.dtype, self.bits)), -1)
        return down.mixed(wide, -2)

    def touched(self, axis: int, first: int, last: int) -> slice:
        """Samples of an axis (0: rows) that take something from the cells ``first`` to ``last``."""
        found = self._axes[axis]
        start = int(np.searchsorted(np.minimum(found.before + 1, self.cells[axis] - 1), first))
        return slice(start, int(np.searchsorted(found.before, last, side="right")))


class _Axis(NamedTuple):
    """Samples of one axis, or a run of them: the cell before each, and the share of the cell after that.

    Attributes:
        before: int64, in ascending order.
        weight: int64, in units of ``2**-bits``; 0 where there is no cell after.
        bits: what the weights of the whole axis need.
        same: whether the axis has a sample for each cell.
    """

    before: NDArray[np.int64]
    weight: NDArray[np.int64]
    bits: int
    same: bool

    @classmethod
    def between(cls, cells: int, samples: int) -> _Axis:
        """All samples of an axis."""
        index = np.arange(samples, dtype=np.int64)
        # The center of sample i lies at (i + 1/2) * cells / samples - 1/2 cells; here in 1/256 cell, rounded half up.
        # Below 2**9 * samples * cells: no overflow for axes shorter than 2**27.
        position = (_ONE * ((2 * index + 1) * cells - samples) + samples) // (2 * samples)
        position = np.clip(position, 0, _ONE * (cells - 1))
        weight = position & (_ONE - 1)
        common = math.gcd(_ONE, int(np.bitwise_or.reduce(weight)))  # the lowest bit that any weight has
        shift = common.bit_length() - 1
        return cls(position >> _WEIGHT_BITS, weight >> shift, _WEIGHT_BITS - shift, cells == samples)

    def part(self, run: slice) -> _Axis:
        """A run of the samples."""
        return self._replace(before=self.before[run], weight=self.weight[run])

    @property
    def first(self) -> int:
        """First cell that is needed."""
        return int(self.before[0])

    @property
    def last(self) -> int:
        """Last cell that is needed: before a sample with a weight there is another one after it."""
        return int(self.before[-1]) + bool(self.weight[-1])

    def mixed(self, grid: NDArray[Any], axis: int) -> NDArray[Any]:
        """Samples along an axis of cells :attr:`first` to :attr:`last`, times ``2**bits``; the cells are overwritten.

        What overflows on the way does so modulo a power of two, and is gone in the result, which fits.
        """
        if self.same:
            return grid
        index = self.before - self.first
        if grid.shape[axis] == 1:
            return np.take(grid, index, axis=axis) << self.bits
        # Worked out for the cells, which are fewer than the samples.
        slope = np.diff(grid, axis=axis)
        grid <<= self.bits
        base = np.take(grid, index, axis=axis)
        # The last cell has no slope; its weight is 0, so that the one before does.
        rise = np.take(slope, index, axis=axis, mode="clip")
        rise *= (self.weight if axis == -1 else self.weight[:, None]).astype(grid.dtype)
        base += rise
        return base


def _work_type(dtype: np.dtype[Any], bits: int) -> type[np.signedinteger[Any]]:
    """Narrowest type that holds every value of a type times ``2**bits``."""
    if dtype.itemsize > 1:
        return np.int64
    # -128 * 2**8 is the least int16; 255 * 2**7 is below the largest.
    return np.int16 if bits <= (8 if dtype.kind == "i" else 7) else np.int32

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Marks on stored numbers, their estimated inverse, and the correction that makes it exact.

``y = clip(blend(x) + delta)`` is computed from x, the mark and the bounds; ``x_hat`` from y, the mark and the bounds.
Both are plain arithmetic that every machine does alike (integers, or single IEEE 754 operations on float64), and the
correction is the difference of x and x_hat: exactness depends on no model, seed, device or library version. Subnormal
float32 samples never move and never come about, because a process may have been told to treat them as zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monai_miadmark.field import UNITS, Field
from monai_miadmark.image import Bounds, StoredImage, Window
from monai_miadmark.interpolate import FRACTION_BITS, canonical_shape, fixed_rows
from monai_miadmark.logo import Logo

__all__ = [
    "MAX_STEP",
    "ImageMark",
    "add_correction",
    "apply_mark",
    "check_mark",
    "estimate",
    "find_correction",
    "step_for",
]

MAX_STEP = (1 << 40) - 1
"""Largest step: a window of all 2**32 values of 32-bit samples needs 2**39.01."""

_NARROW_STEP = 1 << 31
_STEP_BITS = 16
_LATTICE_BITS = 8
_SHIFT = FRACTION_BITS + _STEP_BITS
_EXPONENTS = range(-1074, 1001)
_TINY = float(np.finfo(np.float32).tiny)
_BAND_SAMPLES = 1 << 17  # int64 temporaries of 1 MiB stay in the second-level cache, and small beside any stack


@dataclass(frozen=True, eq=False, repr=False)
class ImageMark:
    """What is done to an image.

    Attributes:
        field: the perturbation, or ``None``.
        logo: the visible logo, or ``None``.
        mask: bool ``(N, H, W)``, ``True`` where samples stay bit-identical; ``None`` = nowhere.
        step: stored units (float32: lattice units) of one field unit, times 65536; 0..:data:`MAX_STEP`.
        exponent: the lattice of float32 images is the multiples of ``2**exponent``; 0 for integer images.
    """

    field: Field | None = None
    logo: Logo | None = None
    mask: NDArray[np.bool_] | None = None
    step: int = 0
    exponent: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.step <= MAX_STEP:
            raise ValueError(f"step must be in 0..{MAX_STEP}, not {self.step}")
        if self.exponent not in _EXPONENTS:
            raise ValueError(f"exponent must be in {_EXPONENTS.start}..{_EXPONENTS.stop - 1}, not {self.exponent}")

    def __repr__(self) -> str:
        return f"ImageMark(field={self.field!r}, logo={self.logo!r}, mask={self.mask is not None})"


class _Limits(NamedTuple):
    """Bounds and padding as values of the working type; ``below``/``above`` are the samples next to the padding."""

    low: float
    high: float
    below: float | None
    above: float | None


def step_for(window: Window, dtype: np.dtype[Any] | type[np.generic] | str) -> tuple[int, int]:
    """Step and exponent with which one field unit is 1/510 of a window.

    Args:
        window: the display window, in stored units.
        dtype: type of the samples.

    Returns:
        ``(step, exponent)`` for :class:`ImageMark`. For float32 one field unit is 2**8 to 2**9 lattice units: a power
        of two as lattice keeps ``x + delta`` exact wherever x has some bits to spare.
    """
    unit = min(window.width, 2.0**140) / UNITS  # the difference of two large floats may be infinite
    if np.dtype(dtype).kind != "f":
        return max(1, min(MAX_STEP, round(unit * (1 << _STEP_BITS)))), 0
    exponent = max(math.frexp(unit)[1] - 1 - _LATTICE_BITS, _EXPONENTS.start)
    return max(1, round(math.ldexp(unit, _STEP_BITS - exponent))), exponent


def check_mark(mark: ImageMark, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Refuse a mark that does not fit samples ``(N, H, W, C)``.

    Raises:
        ValueError: what does not fit.
    """
    n, height, width, channels = shape
    if mark.field is not None:
        grid = mark.field.shape
        if grid[0] != n or grid[1] > height or grid[2] > width or grid[3] not in (1, channels):
            raise ValueError(f"a field {grid} does not fit samples {shape}")
    if mark.logo is not None and (len(mark.logo.positions) != n or len(mark.logo.values) != channels):
        raise ValueError(f"a logo for {len(mark.logo.positions)} slices does not fit samples {shape}")
    if mark.mask is not None and (mark.mask.dtype != np.bool_ or mark.mask.shape != (n, height, width)):
        raise ValueError(f"a mask {mark.mask.dtype} {mark.mask.shape} does not fit samples {shape}")
    if dtype.kind != "f" and mark.exponent != 0:
        raise ValueError("integer samples need exponent 0")


def apply_mark(image: StoredImage, mark: ImageMark) -> NDArray[Any]:
    """Protect: blend the logo, add the field, clip to the bounds.

    A sample stays bit-identical where the mask says so, in the padding, outside the bounds and where it is not
    finite; all others stay within the bounds and out of the padding, so that :func:`estimate` can tell them apart.

    Args:
        image: the original.
        mark: what to do; its step is that of :func:`step_for`.

    Returns:
        A new array of the shape and type of ``image.values``.

    Raises:
        ValueError: the mark does not fit the image.
    """
    check_mark(mark, image.values.shape, image.values.dtype)
    return _transform(image.values, mark, image.bounds, image.padding, undo=False)


def estimate(values: NDArray[Any], mark: ImageMark, bounds: Bounds, padding: tuple[int, int] | None) -> NDArray[Any]:
    """Undo a mark as far as can be done without the correction.

    Args:
        values: protected samples ``(N, H, W, C)``.
        mark: the mark that they bear.
        bounds: the bounds with which they were protected.
        padding: the padding with which they were protected.

    Returns:
        A new array of the shape and type of ``values``, within a few units of the original.

    Raises:
        ValueError: the mark does not fit the samples.
    """
    check_mark(mark, values.shape, values.dtype)
    return _transform(values, mark, bounds, padding, undo=True)


def find_correction(x: NDArray[Any], x_hat: NDArray[Any]) -> NDArray[Any]:
    """What turns the estimate into the original: their difference modulo 2**bits, exact for every input.

    float32 samples are taken as integers in the order of their values, so that near values differ by little.

    Args:
        x: original samples.
        x_hat: estimated samples, same shape and type.

    Returns:
        Unsigned integers of the width of the samples, same shape; zero where the estimate is right.
    """
    if x.shape != x_hat.shape or x.dtype != x_hat.dtype:
        raise ValueError(f"{x.dtype} {x.shape} and {x_hat.dtype} {x_hat.shape} do not match")
    word = np.dtype(f"u{x.dtype.itemsize}")
    result = np.empty(x.shape, word)
    for original, estimated, out in zip(x, x_hat, result, strict=True):
        np.subtract(_ordered(original), _ordered(estimated), out=out)
    return result


def add_correction(x_hat: NDArray[Any], correction: NDArray[Any]) -> NDArray[Any]:
    """Inverse of :func:`find_correction`: the original samples, bit for bit.

    Args:
        x_hat: estimated samples.
        correction: unsigned integers of the same shape and width.

    Returns:
        A new array of the type of ``x_hat``.
    """
    word = np.dtype(f"u{x_hat.dtype.itemsize}")
    if correction.shape != x_hat.shape or correction.dtype != word:
        raise ValueError(f"a correction {correction.dtype} {correction.shape} does not fit {x_hat.dtype} {x_hat.shape}")
    result = np.empty(x_hat.shape, x_hat.dtype)
    for estimated, difference, out in zip(x_hat, correction, result, strict=True):
        total = _ordered(estimated) + difference
        out.view(word)[...] = _unordered(total) if x_hat.dtype.kind == "f" else total
    return result


def _ordered(values: NDArray[Any]) -> NDArray[Any]:
    """Bit patterns; those of floats mapped so that unsigned order is the order of values (a bijection)."""
    bits = values.view(f"u{values.dtype.itemsize}")
    if values.dtype.kind != "f":
        return bits
    return np.where(bits >> 31, ~bits, bits | np.uint32(0x80000000))


def _unordered(mapped: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Inverse of :func:`_ordered` for floats."""
    return np.where(mapped >> 31, mapped & np.uint32(0x7FFFFFFF), ~mapped)


def _transform(
    values: NDArray[Any], mark: ImageMark, bounds: Bounds, padding: tuple[int, int] | None, undo: bool
) -> NDArray[Any]:
    """Apply or undo a mark band by band; samples that do not move are copied bit by bit."""
    result = values.copy()
    word = f"u{values.dtype.itemsize}"
    floats = values.dtype.kind == "f"
    limits = _limits(values.dtype, bounds, padding)
    unit = math.ldexp(1.0, mark.exponent)
    for index, rows, delta, cover in _bands(mark, values.shape):
        old = values[index, rows]
        still = _still(old, limits, None if mark.mask is None else mark.mask[index, rows])
        # Comparisons and casts of signalling NaN, and sums near the largest float32, raise flags that do not matter:
        # such samples are replaced before, and everything is clipped before it is cast back.
        with np.errstate(all="ignore"):
            if floats:
                work = (old if still is None else np.where(still, np.float32(limits.low), old)).astype(np.float64)
                shift: Any = None if delta is None else delta * unit
            else:
                # Samples of 16 bits and shifts below 2**22 fit 32 bits, which is twice as quick.
                narrow = old.dtype.itemsize <= 2 and mark.step <= _NARROW_STEP
                work, shift = old.astype(np.int32 if narrow else np.int64), delta
                if narrow and delta is not None:
                    shift = delta.astype(np.int32)
            new = (_undone if undo else _done)(work, shift, cover, mark.logo, limits)
            if floats:
                new = np.where(np.abs(new) < _TINY, 0.0, new)
            cast = _confined(new, work, limits).astype(values.dtype)
        if floats:
            # Equal numbers keep their bits: adding zero would turn -0.0 into 0.0.
            same = cast == old
            still = same if still is None else still | same
        if still is not None:
            cast = np.where(still, old.view(word), cast.view(word)).view(values.dtype)
        result[index, rows].view(word)[...] = cast.view(word)
    return result


def _bands(
    mark: ImageMark, shape: tuple[int, ...]
) -> Iterator[tuple[int, slice, NDArray[np.int64] | None, NDArray[np.int64] | None]]:
    """Slice, rows, field ``(rows, W, 1 or C)`` in stored units, ink ``(rows, W, 1)`` in 1/65536; no quiet bands."""
    n, height, width, channels = shape
    grid = mark.field.shape[1:3] if mark.field is not None else canonical_shape(height, width)
    step = max(1, _BAND_SAMPLES // (width * channels))
    for index in range(n):
        cells = None if mark.field is None else np.moveaxis(mark.field.slice_cells(index), 2, 0)
        plane = None if mark.logo is None else mark.logo.coverage(index, *grid)
        if cells is not None and not cells.any():
            cells = None
        if plane is not None and not plane.any():
            plane = None
        for start in range(0, height if cells is not None or plane is not None else 0, step):
            stop = min(start + step, height)
            delta = cover = None
            if cells is not None:
                wide = fixed_rows(cells, height, width, start, stop).astype(np.int64)
                # |cell| <= 127 and step < 2**40: |wide * step| < 127 * 2**56 < 2**63 - 2**31, so int64 holds it.
                wide *= mark.step
                wide += 1 << (_SHIFT - 1)
                wide >>= _SHIFT
                delta = np.moveaxis(wide, 0, 2)
            if plane is not None and mark.logo is not None:
                # 255 * 2**16 * 191 < 2**32 needs int64; the result is at most 255 * 191 = 0.743 * 2**16.
                ink = fixed_rows(plane, height, width, start, stop).astype(np.int64)
                ink *= mark.logo.opacity
                ink >>= FRACTION_BITS
                cover = ink[..., None] if ink.any() else None
            if delta is not None or cover is not None:
                yield index, slice(start, stop), delta, cover


def _done(work: Any, shift: Any, cover: Any, logo: Logo | None, limits: _Limits) -> Any:
    """Blended and shifted samples, not yet confined."""
    if cover is not None and logo is not None:
        where = _inked(cover, work.dtype)
        part = _wide(work[:, where])
        # Integers: |L - x| < 2**33 once L is within the bounds, times less than 2**16: below 2**49.
        work = work.copy()
        work[:, where] = part + _rounded((_ink(logo, limits, part.dtype) - part) * cover[:, where], 1 << FRACTION_BITS)
    # Integers: |delta| < 127 * 2**24 < 2**31, beside samples below 2**33.
    return work if shift is None else work + shift


def _undone(work: Any, shift: Any, cover: Any, logo: Logo | None, limits: _Limits) -> Any:
    """Samples before the shift and the blend, as near as they can be told, not yet confined."""
    if shift is not None:
        moved = work - shift
        # A sample at a limit towards which it was pushed was most likely there already: saturated backgrounds then
        # need no correction.
        for limit, pushed in ((limits.high, np.greater), (limits.low, np.less)):
            stuck = work == limit
            if stuck.any():
                stuck &= pushed(shift, 0)
                np.copyto(moved, work, where=stuck)
        work = moved
    if cover is not None and logo is not None:
        # y = x + (L - x) A  gives  x = y + (y - L) A / (1 - A), with A at most 0.743.
        whole = 1 << FRACTION_BITS
        where = _inked(cover, work.dtype)
        part, ink = _wide(work[:, where]), cover[:, where]
        if shift is None:
            work = work.copy()
        work[:, where] = part + _rounded((part - _ink(logo, limits, part.dtype)) * ink, whole - ink)
    return work


def _inked(cover: NDArray[np.int64], dtype: np.dtype[Any]) -> slice:
    """Columns from the first to the last that bears ink; the others would not change, at the cost of a division."""
    if dtype.kind == "f":
        return slice(None)
    columns = np.flatnonzero(cover.any(axis=(0, 2)))
    return slice(int(columns[0]), int(columns[-1]) + 1)


def _wide(work: NDArray[Any]) -> NDArray[Any]:
    """Integers in 64 bits, which blending needs."""
    return work if work.dtype.kind == "f" else work.astype(np.int64)


def _rounded(numerator: Any, denominator: Any) -> Any:
    """Quotient; halves up for integers (``(2 n + d) // (2 d)`` stays below 2**51), a float division else."""
    if numerator.dtype.kind == "f":
        return numerator / denominator
    if isinstance(denominator, int):  # a power of two: the shift is the same and quicker
        return (numerator + denominator // 2) >> (denominator.bit_length() - 1)
    return (2 * numerator + denominator) // (2 * denominator)


def _ink(logo: Logo, limits: _Limits, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Stored value of opaque ink for each channel, within the bounds (and so within 2**32 for integers)."""
    values = np.clip(np.asarray(logo.values, np.float64), limits.low, limits.high)
    return values if dtype.kind == "f" else np.rint(values).astype(np.int64)


def _limits(dtype: np.dtype[Any], bounds: Bounds, padding: tuple[int, int] | None) -> _Limits:
    """Bounds and neighbors of the padding that samples of a type can take."""
    if dtype.kind == "f":
        top = float(np.finfo(np.float32).max)
        low = _float32(_clamped(bounds.low, -top, top), up=True)
        high = _float32(_clamped(bounds.high, -top, top), up=False)
        if padding is None:
            return _Limits(low, high, None, None)
        first = np.float32(_float32(_clamped(min(padding), -top, top), up=True))
        last = np.float32(_float32(_clamped(max(padding), -top, top), up=False))
        infinity = np.float32(np.inf)
        with np.errstate(over="ignore"):  # beside the largest float32 lies infinity, where no sample can be
            below, above = float(np.nextafter(first, -infinity)), float(np.nextafter(last, infinity))
        return _Limits(low, high, below if abs(below) >= _TINY else -_TINY, above if abs(above) >= _TINY else _TINY)
    info = np.iinfo(dtype)
    # Clamped to one step outside of the type first: bounds may be infinite, padding a Python integer of any size.
    edges = (info.min - 1, info.max + 1)
    low_int = math.ceil(_clamped(bounds.low, info.min, edges[1]))
    high_int = math.floor(_clamped(bounds.high, edges[0], info.max))
    if padding is None:
        return _Limits(low_int, high_int, None, None)
    first_int, last_int = (int(_clamped(v, *edges)) for v in (min(padding), max(padding)))
    return _Limits(low_int, high_int, first_int - 1, last_int + 1)


def _clamped(value: float, low: float, high: float) -> float:
    """A value brought between two others; integers stay integers."""
    return max(low, min(high, value))


def _float32(value: float, up: bool) -> float:
    """Nearest float32 that is not subnormal, not below (``up``) or not above a finite value."""
    near = np.float32(value)
    if up and float(near) < value:
        near = np.nextafter(near, np.float32(np.inf))
    if not up and float(near) > value:
        near = np.nextafter(near, -np.float32(np.inf))
    if 0 < abs(float(near)) < _TINY:
        return math.copysign(_TINY if up == (near > 0) else 0.0, float(near))
    return float(near)


def _still(old: NDArray[Any], limits: _Limits, mask: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
    """Samples ``(rows, W, C)`` that must not move; ``None`` where there are none. The same before and after."""
    still: NDArray[np.bool_] | None = None if mask is None else np.broadcast_to(mask[..., None], old.shape)
    floats = old.dtype.kind == "f"
    if floats:
        # Subnormal: an exponent of zero and a mantissa that is not; zero minus one wraps to the largest word.
        subnormal = (old.view(np.uint32) & np.uint32(0x7FFFFFFF)) - np.uint32(1) < np.uint32(0x007FFFFF)
        still = subnormal if still is None else still | subnormal
    if floats or limits.low > np.iinfo(old.dtype).min or limits.high < np.iinfo(old.dtype).max:
        with np.errstate(invalid="ignore"):
            outside = ~((old >= limits.low) & (old <= limits.high))  # so written, NaN is outside
        still = outside if still is None else still | outside
    if limits.below is not None and limits.above is not None:
        with np.errstate(invalid="ignore"):
            padded = (old > limits.below) & (old < limits.above)
        if padded.any():
            still = padded if still is None else still | padded
    return still


def _confined(new: Any, old: Any, limits: _Limits) -> Any:
    """Samples within the bounds and on the side of the padding where they were."""
    new = np.clip(new, limits.low, limits.high)
    if limits.below is not None and limits.above is not None:
        under = old <= limits.below
        if under.any():
            return np.where(under, np.minimum(new, limits.below), np.maximum(new, limits.above))
        np.maximum(new, limits.above, out=new)  # padding is usually the least value: nothing is below it
    return new

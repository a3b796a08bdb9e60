# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Marks on stored numbers, their estimated inverse, and the correction that makes it exact.

``y = clip(blend(x) + delta)`` is computed from x, the mark and the bounds; ``x_hat`` from y, the mark and the bounds.
Ink blends with what a display shows, that is with x brought into the display window: else ink over air, which lies far
below the window of a CT, would only move samples from far below to less far below. How far x was outside of the window
is left to the correction. Marks of earlier versions name no windows; their ink blends with x itself.
Both are plain arithmetic that every machine does alike (integers, or single IEEE 754 operations on float64), and the
correction is the difference of x and x_hat: exactness depends on no model, seed, device or library version. Subnormal
float32 samples never move and never come about, because a process may have been told to treat them as zero.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monai_miadmark.field import UNITS, Field
from monai_miadmark.image import Bounds, StoredImage, Window
from monai_miadmark.interpolate import FRACTION_BITS, Upsampler, canonical_shape
from monai_miadmark.logo import Logo

__all__ = [
    "MAX_STEP",
    "ImageMark",
    "SparseCorrection",
    "add_correction",
    "apply_mark",
    "check_mark",
    "estimate",
    "find_correction",
    "step_for",
]

MAX_STEP = (1 << 40) - 1
"""Largest step: a window of all 2**32 values of 32-bit samples needs 2**39.01."""

_STEP_BITS = 16
_LATTICE_BITS = 8
_WHOLE = 1 << FRACTION_BITS
_EXPONENTS = range(-1074, 1001)
_TINY = float(np.finfo(np.float32).tiny)
_BAND_SAMPLES = 1 << 16  # temporaries of a quarter or half a MiB stay in the second-level cache


@dataclass(frozen=True, eq=False, repr=False)
class ImageMark:
    """What is done to an image.

    Attributes:
        field: the perturbation, or ``None``.
        logo: the visible logo, or ``None``.
        mask: bool ``(N, H, W)``, ``True`` where samples stay bit-identical; ``None`` = nowhere.
        step: stored units (float32: lattice units) of one field unit, times 65536; 0..:data:`MAX_STEP`. One for all,
            or one for each channel of the first group of slices, then of the second, and so on; groups are runs of
            slices of equal length.
        exponent: the lattice of float32 images is the multiples of ``2**exponent``; 0 for integer images. As many as
            steps.
        windows: stored values shown as black and white (or white and black), between which ink blends; as many as
            steps where there are several. ``None``: ink blends with all samples as they are.
    """

    field: Field | None = None
    logo: Logo | None = None
    mask: NDArray[np.bool_] | None = None
    step: int | tuple[int, ...] = 0
    exponent: int | tuple[int, ...] = 0
    windows: tuple[tuple[float, float], ...] | None = None

    def __post_init__(self) -> None:
        for name in ("step", "exponent"):
            several = _each(getattr(self, name))
            if len(set(several)) == 1:  # there is one way to say so
                object.__setattr__(self, name, several[0])
        if self.windows is not None and len(set(self.windows)) == 1:
            object.__setattr__(self, "windows", self.windows[:1])
        for step in _each(self.step):
            if not 0 <= step <= MAX_STEP:
                raise ValueError(f"step must be in 0..{MAX_STEP}, not {step}")
        for exponent in _each(self.exponent):
            if exponent not in _EXPONENTS:
                raise ValueError(f"exponent must be in {_EXPONENTS.start}..{_EXPONENTS.stop - 1}, not {exponent}")
        for low, high in self.windows or ():
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ValueError(f"a window needs finite low < high, not {low} and {high}")

    def __repr__(self) -> str:
        return f"ImageMark(field={self.field!r}, logo={self.logo!r}, mask={self.mask is not None})"


@dataclass(frozen=True, eq=False, repr=False)
class SparseCorrection:
    """A correction that is zero nearly everywhere, without the zeros.

    Attributes:
        shape: of the samples.
        where: numbers of the samples in C order that are to be corrected, ascending.
        differences: unsigned integers of the width of the samples, one for each.
    """

    shape: tuple[int, ...]
    where: NDArray[np.intp]
    differences: NDArray[Any]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the differences."""
        return self.differences.dtype

    def dense(self) -> NDArray[Any]:
        """With the zeros, as :func:`find_correction` gives it."""
        correction = np.zeros(self.shape, self.dtype)
        correction.reshape(-1)[self.where] = self.differences
        return correction


def _each(value: int | tuple[int, ...]) -> tuple[int, ...]:
    """One or several, as several."""
    return value if isinstance(value, tuple) else (value,)


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
    if mark.logo is not None and len(mark.logo.positions) != n:
        raise ValueError(f"a logo for {len(mark.logo.positions)} slices does not fit samples {shape}")
    for name, count, single in (
        ("steps", len(_each(mark.step)), True),
        ("exponents", len(_each(mark.exponent)), True),
        ("windows", len(mark.windows) if mark.windows is not None else 1, True),
        ("values of ink", len(mark.logo.values) if mark.logo is not None else channels, False),
    ):
        groups = count // channels
        if not (single and count == 1) and (not groups or count % channels or n % groups):
            raise ValueError(f"{count} {name} do not fit samples {shape}")
    if mark.mask is not None and (mark.mask.dtype != np.bool_ or mark.mask.shape != (n, height, width)):
        raise ValueError(f"a mask {mark.mask.dtype} {mark.mask.shape} does not fit samples {shape}")
    if dtype.kind != "f" and any(_each(mark.exponent)):
        raise ValueError("integer samples need exponent 0")


def apply_mark(image: StoredImage, mark: ImageMark) -> NDArray[Any]:
    """Protect: blend the logo into what the display shows, add the field, clip to the bounds.

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


def add_correction(
    x_hat: NDArray[Any], correction: NDArray[Any] | SparseCorrection, out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Inverse of :func:`find_correction`: the original samples, bit for bit.

    Args:
        x_hat: estimated samples.
        correction: unsigned integers of the same shape and width, all or those that are not zero.
        out: where to write the result: an array like ``x_hat``, in C order, which may be ``x_hat`` itself.

    Returns:
        ``out``, else a new array of the type of ``x_hat``.
    """
    word = np.dtype(f"u{x_hat.dtype.itemsize}")
    if correction.shape != x_hat.shape or correction.dtype != word:
        raise ValueError(f"a correction {correction.dtype} {correction.shape} does not fit {x_hat.dtype} {x_hat.shape}")
    result = np.empty(x_hat.shape, x_hat.dtype) if out is None else out
    if isinstance(correction, SparseCorrection):
        if result is not x_hat:
            result[...] = x_hat
        flat = result.reshape(-1)
        flat[correction.where] = _corrected(flat[correction.where], correction.differences)
        return result
    for estimated, difference, target in zip(x_hat, correction, result, strict=True):
        target.view(word)[...] = _corrected(estimated, difference).view(word)
    return result


def _corrected(estimated: NDArray[Any], difference: NDArray[Any]) -> NDArray[Any]:
    """Samples and their correction, of any shape."""
    total = _ordered(estimated) + difference
    return (_unordered(total) if estimated.dtype.kind == "f" else total).view(estimated.dtype)


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
    """Apply or undo a mark part by part; samples that do not move are copied bit by bit."""
    result = np.empty(values.shape, values.dtype)
    limits = _limits(values.dtype, bounds, padding)
    move: Any = _move_integers
    size = values.shape[1], values.shape[2]
    upsampler = Upsampler(mark.field.shape[1:3] if mark.field is not None else canonical_shape(*size), size)
    for index in range(len(values)):
        scale = _Scale.of_slice(mark, index, values)
        if values.dtype.kind == "f":
            move = functools.partial(_move_floats, unit=scale.unit)
        pen = _Pen.of_slice(mark, index, values, limits, scale)
        for part in _parts(mark, index, values.shape[3], upsampler, scale.step):
            old, out = (samples[index, part.rows, part.columns] for samples in (values, result))
            mask = None if mark.mask is None else mark.mask[index, part.rows, part.columns]
            if part.cover is not None and pen is not None:
                _inked(old, out, part.shift, part.cover, pen, mask, move, limits, undo)
            elif part.shift is None:
                out[...] = old
            else:
                move(old, out, part.shift, None, mask, limits, undo)
    return result


def _inked(
    old: NDArray[Any],
    out: NDArray[Any],
    shift: NDArray[Any] | None,
    cover: NDArray[np.uint32],
    pen: _Pen,
    mask: NDArray[np.bool_] | None,
    move: Any,
    limits: _Limits,
    undo: bool,
) -> None:
    """Apply or undo ink and field on samples ``old`` ``(rows, columns, C)``, into ``out``, where there is any ink."""
    channels = old.shape[2]
    # Only the samples that bear ink, one after the other; by number, since masks take several times as long.
    where = np.flatnonzero(cover != 0)  # of truth values, which is several times as quick
    each = (where[:, None] * channels + np.arange(channels)).reshape(-1)
    some = old.reshape(-1)[each].reshape(-1, channels)
    moved = np.empty_like(some)
    shifted = None if shift is None else shift.reshape(-1, shift.shape[2]).take(where, axis=0)
    ink = _Ink(cover.reshape(-1)[where].astype(np.float64)[:, None], pen)
    move(some, moved, shifted, ink, None if mask is None else mask.reshape(-1)[where], limits, undo)
    flat = out.reshape(-1)
    flat[each] = moved.reshape(-1)
    out[...] = flat.reshape(out.shape)


class _Scale(NamedTuple):
    """How much a field unit is on a slice, one for all channels where they are alike, else one for each.

    Attributes:
        step: as of :class:`ImageMark`, int64 ``(C,)`` if several.
        unit: lattice unit of float32 samples, float64 ``(C,)`` if several; 1 for integers.
    """

    step: Any
    unit: Any

    @classmethod
    def of_slice(cls, mark: ImageMark, index: int, values: NDArray[Any]) -> _Scale:
        """Of one slice of samples ``(N, H, W, C)``."""
        steps = _row(_each(mark.step), index, values)
        units = [math.ldexp(1.0, exponent) for exponent in _row(_each(mark.exponent), index, values)]
        return cls(
            steps[0] if len(set(steps)) == 1 else np.array(steps, np.int64),
            units[0] if len(set(units)) == 1 else np.array(units),
        )


class _Pen(NamedTuple):
    """Ink of a slice, ``(C,)`` float64 each; whole numbers for integer samples.

    Attributes:
        values: stored value of opaque ink, within the limits.
        whole: whether samples are integers, and so are blended ones: to the nearest, halves up.
        low: stored value below which nothing is told apart on a display; ``None``: ink blends with samples as they are.
        high: the same above.
        least: samples outside of the window that ink would move by less than this, times 65536, stay: half a step of
            an 8-bit display.
    """

    values: NDArray[np.float64]
    whole: bool
    low: NDArray[np.float64] | None
    high: NDArray[np.float64] | None
    least: NDArray[np.float64]

    @classmethod
    def of_slice(cls, mark: ImageMark, index: int, values: NDArray[Any], limits: _Limits, scale: _Scale) -> _Pen | None:
        """Of one slice of samples ``(N, H, W, C)``."""
        if mark.logo is None:
            return None
        whole = values.dtype.kind != "f"
        opaque = np.clip(np.asarray(_row(mark.logo.values, index, values), np.float64), limits.low, limits.high)
        low = high = None
        if mark.windows is not None:
            edges = np.array(_row(mark.windows, index, values), np.float64)
            if whole:  # the whole numbers that are black and white altogether
                edges = np.stack([np.floor(edges[:, 0]), np.ceil(edges[:, 1])], axis=1)
            low, high = np.clip(edges, limits.low, limits.high).T
        least = np.asarray(scale.step * scale.unit, np.float64)
        return cls(np.rint(opaque) if whole else opaque, whole, low, high, least)


def _row(items: tuple[Any, ...], index: int, values: NDArray[Any]) -> tuple[Any, ...]:
    """What belongs to the channels of a slice of samples ``(N, H, W, C)``: one for all, or C in groups of slices."""
    channels = int(values.shape[3])
    if len(items) == 1:
        return items * channels
    first = index * (len(items) // channels) // len(values) * channels
    return items[first : first + channels]


class _Part(NamedTuple):
    """A part of a mark, for a rectangle of a slice.

    Attributes:
        rows: of the rectangle.
        columns: of the rectangle.
        shift: the field in stored units, integers ``(rows, columns, 1 or C)``, or ``None``.
        cover: uint32 ``(rows, columns)``, share of ink in 1/65536, at most 255 * 191 = 0.743 * 2**16. Where it is zero
            nothing is to be done. ``None``: no ink.
    """

    rows: slice
    columns: slice
    shift: NDArray[Any] | None
    cover: NDArray[np.uint32] | None


class _Ink(NamedTuple):
    """Ink of some samples: ``cover`` as of :class:`_Part`, ``(samples, 1)``, whole numbers."""

    cover: NDArray[np.float64]
    pen: _Pen


def _parts(mark: ImageMark, index: int, channels: int, upsampler: Upsampler, step: Any) -> Iterator[_Part]:
    """Of a slice first the whole, with the field alone, then once more the samples that bear ink, with the ink.

    Ink takes many times the work of the field, and most logos are small.
    """
    (height, width), grid = upsampler.samples, upsampler.cells
    cells = None if mark.field is None else mark.field.slice_cells(index)
    top = 0 if cells is None else max(-int(cells.min()), int(cells.max()))
    planes = np.moveaxis(cells, 2, 0) if cells is not None and top else None
    if planes is not None:
        for rows in _bands(slice(0, height), width * channels):
            yield _Part(rows, slice(0, width), _shift(upsampler, planes, top, step, rows), None)
    else:
        yield _Part(slice(0, height), slice(0, width), None, None)
    plane = None if mark.logo is None else mark.logo.coverage(index, *grid)
    if plane is None or mark.logo is None or not plane.any():
        return
    box = []
    for axis, (first, size) in enumerate(zip(mark.logo.positions[index], mark.logo.alpha.shape, strict=True)):
        box.append(upsampler.touched(axis, max(0, int(first)), min(int(first) + size, grid[axis]) - 1))
    for rows in _bands(box[0], (box[1].stop - box[1].start) * channels):
        # 255 * 2**16 * 191 < 2**32.
        cover = upsampler.rows(plane, rows.start, rows.stop, box[1]).astype(np.uint32)
        cover *= mark.logo.opacity
        cover >>= upsampler.bits
        if cover.any():
            shift = None if planes is None else _shift(upsampler, planes, top, step, rows, box[1])
            yield _Part(rows, box[1], shift, cover)


def _bands(rows: slice, samples: int) -> Iterator[slice]:
    """Rows in runs of at most ``_BAND_SAMPLES``, with so many samples in a row."""
    step = max(1, _BAND_SAMPLES // samples)
    for start in range(rows.start, rows.stop, step):
        yield slice(start, min(start + step, rows.stop))


def _shift(
    upsampler: Upsampler, planes: NDArray[np.int8], top: int, step: Any, rows: slice, columns: slice = slice(None)
) -> NDArray[Any]:
    """Field ``(rows, columns, F or C)`` in stored units, of cells ``(F, h, w)`` of magnitude ``top`` at most."""
    wide = upsampler.rows(planes, rows.start, rows.stop, columns)
    # wide * step / 2**shift, to the nearest. |wide| <= 127 * 2**16 and step < 2**40: below 127 * 2**56 + 2**31 < 2**63.
    shift = upsampler.bits + _STEP_BITS
    half = 1 << (shift - 1)
    most = int(np.max(step))
    if not isinstance(step, int):  # channels have steps of their own, and a field of one plane becomes one of several
        step = step[:, None, None]
    product = np.multiply(wide, step, dtype=np.int32 if (top << upsampler.bits) * most + half < 1 << 31 else np.int64)
    product += half
    product >>= shift
    return np.moveaxis(product, 0, 2)


def _move_floats(
    old: NDArray[Any],
    out: NDArray[Any],
    shift: NDArray[Any] | None,
    ink: _Ink | None,
    mask: NDArray[np.bool_] | None,
    limits: _Limits,
    undo: bool,
    unit: Any,
) -> None:
    """Apply or undo a part of a mark on float32 samples ``old`` ``(..., C)``, into ``out``."""
    still = _still(old, limits, mask)
    # Comparisons and casts of signalling NaN, and sums near the largest float32, raise flags that do not matter:
    # such samples are replaced before, and everything is clipped before it is cast back.
    with np.errstate(all="ignore"):
        work = np.where(still, np.float32(limits.low), old).astype(np.float64)
        delta = None if shift is None else shift * unit
        new = _undone(work, delta, ink, limits, True) if undo else _done(work, delta, ink)
        new = np.where(np.abs(new) < _TINY, 0.0, new)
        cast = _confined(new, work, limits, True).astype(np.float32)
    # Equal numbers keep their bits: adding zero would turn -0.0 into 0.0.
    still |= cast == old
    out.view(np.uint32)[...] = np.where(still, old.view(np.uint32), cast.view(np.uint32))


def _move_integers(
    old: NDArray[Any],
    out: NDArray[Any],
    shift: NDArray[Any] | None,
    ink: _Ink | None,
    mask: NDArray[np.bool_] | None,
    limits: _Limits,
    undo: bool,
) -> None:
    """Apply or undo a part of a mark on integer samples ``old`` ``(..., C)``, into ``out``."""
    least, most = int(old.min()), int(old.max())
    # Blending leads anywhere between the limits, and back from there to anywhere.
    reach = None if ink is not None or shift is None else max(-int(shift.min()), int(shift.max()))
    clipped = reach is None or least - reach <= limits.low or most + reach >= limits.high
    below, above = limits.below, limits.above
    apart = below is None or above is None
    if reach is not None and below is not None and above is not None:
        apart = least - reach >= above or most + reach <= below
    if shift is not None and not clipped and apart:
        # No sample comes near a limit or the padding, so that nothing is clipped. A shift that is cast to a narrower
        # type wraps around, and the sum once more: what is right modulo 2**bits and fits is right.
        (np.subtract if undo else np.add)(old, shift, out=out, dtype=old.dtype, casting="unsafe")
        if mask is not None:
            np.copyto(out, old, where=mask[..., None])
        return
    still: NDArray[np.bool_] | None = None if mask is None else np.broadcast_to(mask[..., None], old.shape)
    if least < limits.low or most > limits.high:
        outside = (old < limits.low) | (old > limits.high)
        still = outside if still is None else still | outside
    if below is not None and above is not None and least < above and most > below:
        padded = (old > below) & (old < above)
        still = padded if still is None else still | padded
    # Samples of 16 bits and a shift below 2**30 fit 32 bits, which is twice as quick as 64. Blending is done in float64
    # (whole numbers below 2**53 are exact there), because integers are slow to divide.
    narrow = old.dtype.itemsize <= 2 and reach is not None and reach < 1 << 30
    work = old.astype(np.float64 if ink is not None else np.int32 if narrow else np.int64)
    if undo:
        new = _undone(work, shift, ink, limits, least <= limits.low or most >= limits.high)
    else:
        new = _done(work, shift, ink)
    out[...] = _confined(new, work, limits, below is not None and least <= below).astype(np.int64, copy=False)
    if still is not None:
        np.copyto(out, old, where=still)


def _done(work: Any, shift: Any, ink: _Ink | None) -> Any:
    """Blended and shifted samples, not yet confined."""
    if ink is not None:
        pen = ink.pen
        seen = work if pen.low is None else np.clip(work, pen.low, pen.high)
        # Integers: |L - x| < 2**33 once both are within the limits, times less than 2**16: below 2**49.
        part = (pen.values - seen) * ink.cover
        kept = None if pen.low is None else (seen != work) & (np.abs(part) < pen.least)
        if pen.whole:
            part += _WHOLE / 2
        part /= _WHOLE
        inked = seen + (np.floor(part, out=part) if pen.whole else part)
        work = inked if kept is None else np.where(kept, work, inked)
    # Integers: |delta| < 127 * 2**24 < 2**31, beside samples below 2**33.
    return work if shift is None else work + shift


def _undone(work: Any, shift: Any, ink: _Ink | None, limits: _Limits, extreme: bool) -> Any:
    """Samples before the shift and the blend, as near as they can be told, not yet confined.

    ``extreme``: there may be samples at a limit.
    """
    if shift is not None:
        moved = work - shift
        # A sample at a limit towards which it was pushed was most likely there already: saturated backgrounds then
        # need no correction.
        for limit, pushed in ((limits.high, np.greater), (limits.low, np.less)) if extreme else ():
            stuck = work == limit
            if stuck.any():
                stuck &= pushed(shift, 0)
                np.copyto(moved, work, where=stuck)
        work = moved
    if ink is not None:
        # y = x + (L - x) A  gives  x = y + (y - L) A / (1 - A), with A at most 0.743.
        pen = ink.pen
        part = (work - pen.values) * ink.cover
        rest = _WHOLE - ink.cover
        bare = work + (_quotients(part, rest) if pen.whole else part / rest)
        if pen.low is None or pen.high is None:
            return bare
        # What blended was within the window; what is outside of it now, on a side where ink moves nothing, stayed.
        kept = (work < pen.low) & (np.abs(pen.values - pen.low) * ink.cover < pen.least)
        kept |= (work > pen.high) & (np.abs(pen.values - pen.high) * ink.cover < pen.least)
        work = np.where(kept, work, np.clip(bare, pen.low, pen.high))
    return work


def _quotients(numerator: NDArray[np.float64], denominator: NDArray[np.float64]) -> NDArray[np.float64]:
    """Quotients of whole numbers below 2**50, which are overwritten, and of 1 .. 2**16: to the nearest, halves up.

    Each is the floor of ``(n + d / 2) / d``, that is of ``a / b`` with ``a = 2 n + d`` below 2**52 and ``b = 2 d`` to
    2**17; halving both is exact in float64 and changes no rounding. With ``a = k b + r`` and ``0 <= r < b``, the exact
    quotient is at most ``k + 1 - 1 / b``, and rounding moves it by ``2**-53 |a| / b`` at most, which is less than
    ``1 / b``: it stays below ``k + 1``. It stays at or above ``k`` because rounding never passes an exact number.
    """
    numerator += denominator / 2
    numerator /= denominator
    return np.floor(numerator, out=numerator)


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


def _still(old: NDArray[Any], limits: _Limits, mask: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    """Float samples ``(..., C)`` that must not move. The same before and after."""
    # Subnormal: an exponent of zero and a mantissa that is not; zero minus one wraps to the largest word.
    still: NDArray[np.bool_] = (old.view(np.uint32) & np.uint32(0x7FFFFFFF)) - np.uint32(1) < np.uint32(0x007FFFFF)
    if mask is not None:
        still |= mask[..., None]
    with np.errstate(invalid="ignore"):
        still |= ~((old >= limits.low) & (old <= limits.high))  # so written, NaN is outside
        if limits.below is not None and limits.above is not None:
            still |= (old > limits.below) & (old < limits.above)
    return still


def _confined(new: Any, old: Any, limits: _Limits, beneath: bool) -> Any:
    """Samples within the bounds and on the side of the padding where they were.

    ``beneath``: some may be below it. Padding is usually the least value.
    """
    new = np.clip(new, limits.low, limits.high)
    if limits.below is not None and limits.above is not None:
        if beneath:
            return np.where(old <= limits.below, np.minimum(new, limits.below), np.maximum(new, limits.above))
        np.maximum(new, limits.above, out=new)
    return new

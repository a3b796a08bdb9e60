# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Which display window an image gets, from what is said about it and from its samples; for files and arrays alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_miadmark.image import Window, percentile_window

__all__ = [
    "CT_WINDOW",
    "EIGHT_BITS",
    "WIDEST_WINDOW",
    "display_windows",
    "is_eight_bits",
    "looks_like_color",
    "trusted_window",
]

CT_WINDOW = (-160.0, 240.0)
"""Black and white in Hounsfield units of CT images that say nothing else: soft tissue, center 40 and width 400."""

EIGHT_BITS = Window(0, 255)
"""Window of images of 8 bits, which are shown as they are."""

WIDEST_WINDOW = 4.0
"""Largest width of a window that is trusted, as a multiple of the range of the samples; see :func:`trusted_window`."""

_EXTREMES = (0.05, 99.95)
"""Percentiles between which lies the range of the samples: a few dead or hot pixels say nothing about it."""

_FEW = 0.01
"""Share of the samples that lie in a window at least, where it is very narrow."""

_ALIKE = 2.0
"""Groups of slices share a window that is at most so many times as wide as that of any of them: then the budget of none
is more than twice what its own window would give it."""

_LIKE_COLORS = 1 / 8
"""Least range of a color channel as a share of the largest one's."""

_SAMPLED = 1 << 20


def trusted_window(
    low: float, high: float, inverted: bool, values: NDArray[Any], padding: tuple[int, int] | None = None
) -> Window | None:
    """A window that a file or its meta data name, or ``None`` where it says nothing about the samples.

    A window is not trusted where it is empty or not finite, where it shows all samples black or all white, and where it
    is more than :data:`WIDEST_WINDOW` times as wide as the range of the samples. Writers that know no window name the
    whole range of the type (65536), while samples lie between 27 and 300. The budget of a mark is a share of the window
    (about 0.03 of it, root mean square), and the standard deviation of an image is about a fifth of its range: in a
    window of twice the range the mark has a third of the deviation of the image, in one of four times two thirds (both
    still correlate with the original at more than 0.8), and in one of ten times there is less image than mark. Windows
    that were chosen by somebody are narrower: on CT much narrower than the range, on radiographs about as wide, on
    slices with little in them twice as wide.

    Nor is one trusted that is narrower than a step of 8 bits from the least to the greatest sample and in which hardly
    a sample lies (a width of 1, where nobody knew one): it shows two values, and there is nothing in it to mark. The
    narrowest windows in use, of 30 HU for strokes, have a hundredth of the range of a CT, and the brain in them.

    Args:
        low: value shown as black (or white if ``inverted``); may be above ``high``, then both swap roles.
        high: value shown as white.
        inverted: small values are bright.
        values: the samples, of any shape, in the units of the window.
        padding: inclusive range of values that are no pixels and do not count.
    """
    if low > high:
        low, high, inverted = high, low, not inverted
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        return None
    counted = _counted(values, padding)
    if not counted.size or high <= float(counted.min()) or low >= float(counted.max()):
        return None
    first, last = np.percentile(_some(counted), _EXTREMES)
    if not first < last:
        first, last = float(counted.min()), float(counted.max())
    # Of one value only: there is no image that a mark could spoil.
    if first < last and high - low > WIDEST_WINDOW * (last - first):
        return None
    if (high - low) * 256 < last - first:
        some = _some(counted)
        if np.count_nonzero((some > low) & (some < high)) < _FEW * some.size:
            return None
    return Window(low, high, inverted)


def display_windows(
    values: NDArray[Any],
    groups: int = 1,
    named: Sequence[tuple[float, float]] = (),
    inverted: bool = False,
    padding: tuple[int, int] | None = None,
    color: bool = False,
) -> Window | tuple[Window, ...]:
    """Windows of an image: those that are named, where they are to be trusted, else from percentiles.

    Args:
        values: ``(N, H, W, C)``.
        groups: runs of slices that may differ in their ranges, e.g. time points or contrasts; a divisor of N.
        named: values shown as black and white (or as white and black if ``inverted``), one pair for all slices or one
            for each group; both may be swapped. None: nothing is known.
        inverted: small values are bright.
        padding: inclusive range of values that are no pixels.
        color: the channels are colors, which share a window: else their hue would change. All other channels are
            images of their own, and have their own windows.

    Returns:
        What :class:`~monai_miadmark.image.StoredImage` takes.
    """
    slices, channels = values.shape[0], 1 if color else values.shape[3]
    if not named:
        groups = groups if slices % groups == 0 else 1
    elif len(named) > 1:
        groups = len(named)
    parts = [
        [part if color else part[..., c] for c in range(channels)]
        for part in values.reshape(groups, -1, *values.shape[1:])
    ]
    found: list[list[Window | None]] = [[None] * channels for _ in parts]
    if named:
        for g, part in enumerate(parts):
            low, high = named[g % len(named)]
            found[g] = [trusted_window(low, high, inverted, samples, padding) for samples in part]
    for c in range(channels):
        missing = [g for g in range(groups) if found[g][c] is None]
        for g, window in zip(
            missing, _percentile_windows([parts[g][c] for g in missing], inverted, padding), strict=True
        ):
            found[g][c] = window
    each = [window for row in found for window in row if window is not None]
    if len({window.inverted for window in each}) > 1:  # a named one was swapped, others are not
        each = [Window(window.low, window.high, each[0].inverted) for window in each]
    if len(set(each)) == 1:
        return each[0]
    return tuple(window for window in each for _ in range(values.shape[3] if color else 1))


def looks_like_color(values: NDArray[Any]) -> bool:
    """Whether three channels ``(N, H, W, 3)`` are taken for colors where nobody says what they are.

    They are if they are ``uint8``, or if all values are those of 8 bits (whole, from 0 to 255) or shares (from 0 to 1)
    and no channel has less than an eighth of another's range: contrasts of MR reach other maxima, and each its own.
    """
    if values.shape[3] != 3:
        return False
    if values.dtype == np.uint8:
        return True
    some = values.reshape(-1, 3)
    some = some[:: max(1, len(some) // (_SAMPLED // 4))]
    with np.errstate(invalid="ignore"):  # NaN is in no range
        shares = bool(((some >= 0) & (some <= 1)).all())
    if not (shares or is_eight_bits(values)):
        return False
    tops = np.percentile(some.astype(np.float64), 99.5, axis=0)
    return float(tops.min()) >= _LIKE_COLORS * float(tops.max())


def is_eight_bits(values: NDArray[Any]) -> bool:
    """Whether samples are those of an image of 8 bits, whatever holds them: whole, from 0 to 255, not 0 and 1 only."""
    if values.dtype == np.uint8:
        return True
    with np.errstate(invalid="ignore"):
        least, most = float(values.min()), float(values.max())
        if not (least >= 0 and 1 < most <= 255):  # so written, NaN is outside
            return False
        return values.dtype.kind != "f" or bool((np.rint(values) == values).all())


def _percentile_windows(parts: Sequence[NDArray[Any]], inverted: bool, padding: tuple[int, int] | None) -> list[Window]:
    """A window for each part: the same where their ranges are alike."""
    counted = [_some(_counted(part, padding), _SAMPLED // max(1, len(parts) // 4)) for part in parts]
    each = [percentile_window(samples, inverted) for samples in counted]
    if len(each) > 1:
        width = max(window.high for window in each) - min(window.low for window in each)
        if width <= _ALIKE * min(window.width for window in each):
            return [percentile_window(np.concatenate(counted), inverted)] * len(each)
    return each


def _counted(values: NDArray[Any], padding: tuple[int, int] | None) -> NDArray[Any]:
    """Samples that are pixels and numbers, in one row; all that are numbers where there is nothing but padding."""
    flat = values.reshape(-1)
    with np.errstate(invalid="ignore"):  # signalling NaN
        if flat.dtype.kind == "f":
            flat = flat[np.isfinite(flat)]
        if padding is not None:
            inside = flat[(flat < padding[0]) | (flat > padding[1])]
            flat = inside if inside.size else flat
    return flat


def _some(flat: NDArray[Any], most: int = _SAMPLED) -> NDArray[Any]:
    """At most so many of the samples, evenly spread."""
    return flat[:: -(-flat.size // most)] if flat.size else flat

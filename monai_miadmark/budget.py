# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""How much each place of an image may change: a just-noticeable-difference map in display units.

The map is computed once, when an image is protected, in plain float64 numpy on the canonical grid, and travels in the
record as 8-bit block scales. Restoring never computes it again, so no machine has to reproduce it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from types import EllipsisType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monai_miadmark.appearance import LEAST_GAIN, Appearance
from monai_miadmark.field import BLOCK, MAX_SCALE, UNITS, spread
from monai_miadmark.likeness import C2, RADIUS, Likeness
from monai_miadmark.threads import single_blas_thread

__all__ = [
    "MOST_GAIN",
    "SHARED",
    "Visibility",
    "block_scales",
    "blocks_with",
    "cell_budget",
    "fit_to_likeness",
    "likeness_budget",
    "visibility_map",
]


_POWER = 0.85
"""Mean square of a field as a share of its budget's: nearly all cells end at full amplitude, some at half."""

_ROUGH = 0.3
"""Share of a field's power that SSIM's window of 11 cells sees as contrast; the rest it takes for brightness."""

MOST_GAIN = 2.0
"""How far the amplitude may grow once the field is known: further, and the field would not be made for it."""

SHARED = 0.45
"""Share of a field that all images of a series have in common."""

_NEAR = 0.02
"""Share of the amplitude that is left unused rather than sought for in a hurry."""

_ENOUGH = 2048
"""Windows whose mean similarity is known to about 0.002."""


@dataclass(frozen=True)
class Visibility:
    """How much of a mark may be seen.

    Where the amplitude goes follows a just-noticeable-difference model: masking by contrast (Daly, Watson) is linear in
    the local standard deviation, Weber's law linear in the local mean; ``floor`` is what is hidden in any tissue. How
    much there is in all is solved for each slice, so that it keeps to a likeness with the original: smooth and rough
    images are marked as visibly as each other.

    Attributes:
        psnr: least peak signal-to-noise ratio outside the logo, in dB.
        ssim: least structural similarity outside the logo.
        region_ssim: least structural similarity inside the region.
        floor: share of flat foreground.
        contrast: weight of the local standard deviation.
        luminance: weight of the local mean.
        ceiling: largest amplitude anywhere outside the logo, fraction of the display window.
        dark: mean plus deviation below which a place is background and gets nothing.
        spot: largest change of brightness in a spot of the size of a lesion, fraction of the window
            (:mod:`monai_miadmark.lookalikes`).
        masking: how much larger it may be for each unit of what the image itself has of such spots around a place.
        patch: the same for each channel's distance from the mean of all, that is color, in a patch of such a size.
        cast: the same for what is broader.
        logo_tint: both within the logo's footprint.
    """

    psnr: float = 29.2
    ssim: float = 0.89
    region_ssim: float = 0.955
    floor: float = 7 / 255
    contrast: float = 0.15
    luminance: float = 0.02
    ceiling: float = 20 / 255
    dark: float = 0.035
    spot: float = 6 / 255
    masking: float = 0.15
    patch: float = 8 / 255
    cast: float = 16 / 255
    logo_tint: float = 32 / 255


def visibility_map(
    display: NDArray[np.float32], model: Visibility, dtype: type[np.floating[Any]] = np.float64
) -> NDArray[np.float64]:
    """How the amplitude is shared out among the cells before its amount is known.

    Args:
        display: ``(N, C, h, w)`` in [0, 1].
        model: weights.
        dtype: to work in; float32 takes half of the time, and sees deviations below 0.001 badly.

    Returns:
        ``(N, h, w)`` weights, not negative, about the size of a usual amplitude.
    """
    gray = display.astype(dtype).mean(axis=1)
    mean = _box_mean(gray, 3)
    deviation = np.sqrt(np.maximum(_box_mean(gray * gray, 3) - mean * mean, 0.0))
    # A ramp instead of a threshold: a hard edge between marked tissue and unmarked air would draw an outline.
    foreground = np.clip((mean + deviation) / model.dark - 0.5, 0.0, 1.0)
    weights = foreground * (model.floor + model.contrast * deviation + model.luminance * mean)
    return np.asarray(weights, np.float64)


def likeness_budget(
    display: NDArray[np.float32],
    model: Visibility,
    region: NDArray[np.bool_],
    region_budget: float,
    logo: NDArray[np.bool_],
    quick: bool = False,
    gain: NDArray[np.float32] | None = None,
) -> NDArray[np.float64]:
    """Amplitude at each cell outside the logo, as much as the likeness that is asked for will probably leave.

    Args:
        display: ``(N, C, h, w)`` in [0, 1].
        model: weights and likeness.
        region: ``(N, h, w)``, the part that a reader needs most.
        region_budget: largest amplitude there, fraction of the window.
        logo: ``(N, h, w)``, cells that likeness does not count.
        quick: a fiftieth less than what is left will do, as some cells tell it.
        gain: ``(N, h, w)``, share of an amplitude that a display shows (default: all of it). Where it shows next to
            nothing, the amplitude is zero; elsewhere the likeness is that of what is shown.

    Returns:
        ``(N, h, w)`` amplitudes as fractions of the window, at most ``model.ceiling``.
    """

    def of_slice(n: int) -> NDArray[np.float64]:
        weights = visibility_map(display[n : n + 1], model, np.float32 if quick else np.float64)[0]
        if gain is not None:
            weights = np.where(gain[n] >= LEAST_GAIN, weights, 0.0)
        inside, counted = region[n], ~logo[n]

        def largest_gain(
            amplitude: Callable[..., NDArray[np.float64]],
            maps: Sequence[NDArray[Any]],
            judged: NDArray[np.bool_],
            limits: _Limits,
        ) -> float:
            near = _around(judged)
            likeness = Likeness(display[n][near], _spacing(judged[near], quick))
            variance = likeness.variance.astype(np.float64)
            sparse = [likeness.at_windows(cells[near]) for cells in maps]
            seen = 1.0 if gain is None else likeness.at_windows(gain[n][near]).astype(np.float64)

            def ssim(made: NDArray[np.float64]) -> NDArray[np.float64]:
                # Noise that does not depend on the image adds to one variance in (2 cov + C2) / (var + var' + C2).
                noise = _ROUGH * _POWER * (made * seen) ** 2
                similar: NDArray[np.float64] = ((2 * variance + C2) / (2 * variance + noise + C2)).mean(axis=0)
                return similar

            return _largest_gain(
                lambda gain: amplitude(gain, *sparse),
                ssim,
                lambda made: _POWER * (made * seen) ** 2,
                *likeness.counted(judged[near]),
                limits,
                24,
                _NEAR if quick else 0.0,
            )

        flat = np.where(weights > 0, region_budget, 0.0)
        there = flat * largest_gain(
            lambda gain, flat: gain * flat, [flat], inside & counted, _Limits(model.region_ssim, 0.0, 1.0)
        )

        def amplitude(
            gain: float, inside: NDArray[np.bool_], there: NDArray[np.float64], weights: NDArray[np.float64]
        ) -> NDArray[np.float64]:
            return np.where(inside, there, np.minimum(gain * weights, model.ceiling))

        maps = inside, there, weights
        return amplitude(largest_gain(amplitude, maps, counted, _Limits(model.ssim, model.psnr, 32.0)), *maps)

    with single_blas_thread():
        return np.stack([of_slice(n) for n in range(len(display))])


def fit_to_likeness(
    display: NDArray[np.float32],
    seen: Appearance,
    fraction: NDArray[np.float32],
    budget: NDArray[np.float64],
    model: Visibility,
    region: NDArray[np.bool_],
    region_budget: float,
    logo: NDArray[np.bool_],
    quick: bool = False,
) -> NDArray[np.float64]:
    """Scale a budget so that the field that was made for it keeps to the likeness as it is measured.

    Args:
        display: ``(N, C, h, w)`` in [0, 1], the original.
        seen: the same with the logo in it, and what a display shows of a field on that.
        fraction: the field, ``(N, 1 or C, h, w)`` in [-1, 1].
        budget: ``(N, h, w)``, what it was made for.
        model: the likeness.
        region: ``(N, h, w)``.
        region_budget: largest amplitude there.
        logo: ``(N, h, w)``; stays as it is and is not counted.
        quick: a fiftieth less than what is left will do, as some cells tell it.

    Returns:
        ``(N, h, w)``: outside the region at most twice the budget, and at most ``model.ceiling``.
    """
    fitted = budget.copy()

    def fit(n: int) -> None:
        inside, counted = region[n] & ~logo[n], ~logo[n]
        for part, judged, most, limits in (
            (inside, inside, region_budget, _Limits(model.region_ssim, 0.0, MOST_GAIN)),
            (counted & ~region[n], counted, model.ceiling, _Limits(model.ssim, model.psnr, MOST_GAIN)),
        ):
            # What a window of SSIM does not reach from there need not be computed: the region is a small box.
            near = _around(judged)
            fitted[n][near] = _fitted_part(
                display[n][near],
                functools.partial(seen.changed, n, part=near),
                np.rint(fraction[n][near] * 2) / 2,
                budget[n][near],
                fitted[n][near],
                part[near],
                judged[near],
                most,
                limits,
                quick,
            )

    with single_blas_thread():
        for n in range(len(display)):
            fit(n)
    return fitted


def _fitted_part(
    plane: NDArray[np.float32],
    shown: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    levels: NDArray[np.float32],
    budget: NDArray[np.float64],
    fitted: NDArray[np.float64],
    part: NDArray[np.bool_],
    judged: NDArray[np.bool_],
    most: float,
    limits: _Limits,
    quick: bool,
) -> NDArray[np.float64]:
    """Amplitudes ``(h, w)`` with those of one part scaled, the others as they were fitted before."""
    likeness, others = Likeness(plane, _spacing(judged, quick)), ~part

    def scaled(gain: float) -> NDArray[np.float64]:
        amplitude = gain * budget
        np.minimum(amplitude, most, out=amplitude)
        np.copyto(amplitude, fitted, where=others)
        return amplitude

    def changed(gain: float) -> NDArray[np.float32]:
        # As it will be stored: a block has one scale, and cells beside the logo share that of its footprint.
        stored = cell_budget(block_scales(scaled(gain)[None]), *budget.shape)[0]
        return shown(levels * stored)

    measured = likeness.ssim_map, likeness.squared_error, *likeness.counted(judged)
    return scaled(_largest_gain(changed, *measured, limits, 12, _NEAR if quick else 0.0))


def _around(cells: NDArray[np.bool_]) -> tuple[EllipsisType, slice, slice]:
    """Index of the rows and columns that hold whole blocks and all windows of SSIM around some cells.

    It fits planes with any leading axes. Around no cells there is nothing.
    """
    spans = []
    for axis in (1, 0):
        found = np.nonzero(cells.any(axis=axis))[0]
        first, last = (int(found[0]) - RADIUS, int(found[-1]) + 1 + RADIUS) if len(found) else (0, 0)
        spans.append(slice(max(0, first // BLOCK * BLOCK), -(-last // BLOCK) * BLOCK))
    return ..., spans[0], spans[1]


def _spacing(judged: NDArray[np.bool_], quick: bool) -> int:
    """How far apart windows may stand: a few thousand of them tell the mean of any more."""
    spacing = math.isqrt(np.count_nonzero(judged) // _ENOUGH) if quick else 1
    return spacing if spacing > 1 and judged[::spacing, ::spacing].any() else 1


class _Limits(NamedTuple):
    """What a factor is limited by: least likeness, and its own largest value."""

    ssim: float
    psnr: float
    gain: float


def _largest_gain(
    made: Callable[[float], NDArray[Any]],
    ssim: Callable[[NDArray[Any]], NDArray[Any]],
    error: Callable[[NDArray[Any]], NDArray[Any]],
    judged: NDArray[np.bool_],
    windows: NDArray[np.bool_],
    limits: _Limits,
    steps: int,
    near: float = 0.0,
) -> float:
    """Largest factor, in ``2**steps`` steps, with which what is judged keeps to a likeness.

    Args:
        made: what comes of a factor: an amplitude, or a changed image.
        ssim: similarity around each place of what was made.
        error: squared error at each place.
        judged: places whose error counts.
        windows: places whose similarity counts.
        limits: likeness, and the largest factor that is wanted.
        steps: how finely factors are told apart.
        near: share of the factor that may be left unused.
    """
    if not judged.any():
        return limits.gain
    largest_error = 10 ** (-limits.psnr / 10)

    def excess(gain: float) -> float:
        """Above zero where the likeness does not hold; nearly a straight line, because errors grow with squares."""
        tried = made(gain)
        wrong = float(error(tried)[judged].mean())
        share = wrong / largest_error
        if share > 4:  # far off: the similarity costs more and decides nothing
            return math.sqrt(share) - 1
        similar = float(ssim(tried)[windows].mean())
        distance = math.sqrt(max(share, (1 - similar) / max(1 - limits.ssim, 1e-9), 0.0)) - 1
        # The sign is that of the comparisons themselves, whatever the divisions round.
        return min(distance, 0.0) if wrong <= largest_error and similar >= limits.ssim else max(distance, 1e-12)

    # Where a bisection in so many steps would end, by the Illinois method: false position that halves the value at an
    # end which stays. Without a factor nothing of the likeness is used up; the usual factor is about one.
    low, high, below, above, last = 0, 1 << steps, -1.0, 0.0, 0
    bounded = False  # whether anything was too much
    for tries in count():
        if bounded and high - low == 1:
            break
        if not bounded:  # the usual factor, where a line through it leads to, the largest
            aim = (high / limits.gain, low * (1 - near / 2) / max(1 + below, 1e-9), high)[min(tries, 2)]
        else:
            # Block scales are rounded: where the function is a staircase, its values lead nowhere.
            aim = low + (high - low) * (0.5 if tries >= 12 else (below + near / 2) / (below - above))
        middle = min(max(round(aim), low + 1), high - bounded)
        value = excess(limits.gain * middle / (1 << steps))
        side = 1 if value > 0 else -1
        if side > 0:
            high, above, bounded = middle, value, True
            below /= 2 if last == side else 1
        else:
            low, below = middle, value
            above /= 2 if last == side else 1
            if low == 1 << steps or value > -near:
                break
        last = side
    return limits.gain * low / (1 << steps)


def block_scales(budget: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Quantize a budget map to one scale for every block.

    Args:
        budget: ``(N, h, w)`` amplitudes as fractions of the window.

    Returns:
        ``(N, ceil(h / 4), ceil(w / 4))`` uint8 field units, rounded down from the block's mean.
    """
    # Slice by slice: what is worked on stays in the cache.
    return np.stack([_plane_scales(plane) for plane in budget])


def _plane_scales(budget: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Scales ``(bh, bw)`` of one slice ``(h, w)``."""
    height, width = budget.shape
    if height % BLOCK or width % BLOCK:
        budget = np.pad(budget, ((0, -height % BLOCK), (0, -width % BLOCK)), mode="edge")
    # Rows first: sums of whole rows are several times as quick as sums of squares.
    rows = budget.reshape(-1, BLOCK, budget.shape[1]).sum(1)
    blocks = rows.reshape(len(rows), -1, BLOCK).sum(2) / BLOCK**2
    scales: NDArray[np.uint8] = np.minimum(np.floor(blocks * UNITS + 1e-9), MAX_SCALE).astype(np.uint8)
    return scales


def blocks_with(cells: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Blocks ``(N, ceil(h / 4), ceil(w / 4))`` that hold any of some cells ``(N, h, w)``."""
    height, width = cells.shape[1:]
    padded = np.pad(cells, ((0, 0), (0, -height % BLOCK), (0, -width % BLOCK)))
    rows = padded.reshape(len(cells), -1, BLOCK, padded.shape[2]).any(2)
    return np.asarray(rows.reshape(*rows.shape[:2], -1, BLOCK).any(3))


def cell_budget(scales: NDArray[np.uint8], height: int, width: int) -> NDArray[np.float32]:
    """Amplitude of a full level at each cell, ``(N, 1, h, w)`` float32 fractions of the window."""
    cells = spread(scales, (len(scales), height, width))
    return (cells[:, None].astype(np.float32) / UNITS).astype(np.float32)


def _box_mean(planes: NDArray[Any], radius: int) -> NDArray[Any]:
    """Mean over a square window of side ``2 radius + 1``, edges repeated: ``(N, h, w)``."""
    for axis in (1, 2):
        pad = [(0, 0)] * 3
        pad[axis] = (radius, radius)
        padded = np.pad(planes, pad, mode="edge")
        size = planes.shape[axis]
        # Whole planes, moved and added: for so small a window quicker than running sums.
        sums = padded[:, :size].copy() if axis == 1 else padded[:, :, :size].copy()
        for first in range(1, 2 * radius + 1):
            sums += padded[:, first : first + size] if axis == 1 else padded[:, :, first : first + size]
        sums /= 2 * radius + 1
        planes = sums
    return planes

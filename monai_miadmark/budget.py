# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""How much each place of an image may change: a just-noticeable-difference map in display units.

The map is computed once, when an image is protected, in plain float64 numpy on the canonical grid, and travels in the
record as 8-bit block scales. Restoring never computes it again, so no machine has to reproduce it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from types import EllipsisType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_miadmark.field import BLOCK, MAX_SCALE, UNITS, spread
from monai_miadmark.likeness import C2, RADIUS, Likeness
from monai_miadmark.threads import in_threads, usable_threads

__all__ = ["Visibility", "block_scales", "cell_budget", "fit_to_likeness", "likeness_budget", "visibility_map"]


_POWER = 0.85
"""Mean square of a field as a share of its budget's: nearly all cells end at full amplitude, some at half."""

_ROUGH = 0.3
"""Share of a field's power that SSIM's window of 11 cells sees as contrast; the rest it takes for brightness."""

_MOST_GAIN = 2.0
"""How far the amplitude may grow once the field is known: further, and the field would not be made for it."""


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
    """

    psnr: float = 29.2
    ssim: float = 0.89
    region_ssim: float = 0.955
    floor: float = 7 / 255
    contrast: float = 0.15
    luminance: float = 0.02
    ceiling: float = 20 / 255
    dark: float = 0.035


def visibility_map(display: NDArray[np.float32], model: Visibility) -> NDArray[np.float64]:
    """How the amplitude is shared out among the cells before its amount is known.

    Args:
        display: ``(N, C, h, w)`` in [0, 1].
        model: weights.

    Returns:
        ``(N, h, w)`` weights, not negative, about the size of a usual amplitude.
    """
    gray = display.astype(np.float64).mean(axis=1)
    mean = _box_mean(gray, 3)
    deviation = np.sqrt(np.maximum(_box_mean(gray * gray, 3) - mean * mean, 0.0))
    # A ramp instead of a threshold: a hard edge between marked tissue and unmarked air would draw an outline.
    foreground = np.clip((mean + deviation) / model.dark - 0.5, 0.0, 1.0)
    weights: NDArray[np.float64] = foreground * (model.floor + model.contrast * deviation + model.luminance * mean)
    return weights


def likeness_budget(
    display: NDArray[np.float32],
    model: Visibility,
    region: NDArray[np.bool_],
    region_budget: float,
    logo: NDArray[np.bool_],
    quick: bool = False,
) -> NDArray[np.float64]:
    """Amplitude at each cell outside the logo, as much as the likeness that is asked for will probably leave.

    Args:
        display: ``(N, C, h, w)`` in [0, 1].
        model: weights and likeness.
        region: ``(N, h, w)``, the part that a reader needs most.
        region_budget: largest amplitude there, fraction of the window.
        logo: ``(N, h, w)``, cells that likeness does not count.
        quick: a hundredth less than what is left will do.

    Returns:
        ``(N, h, w)`` amplitudes as fractions of the window, at most ``model.ceiling``.
    """
    # Least factors that matter: 0.01 in the region, and outside, where a usual factor is about one, the same.
    region_steps, steps, every = (7, 12, 2) if quick else (24, 24, 1)

    def of_slice(n: int) -> NDArray[np.float64]:
        weights = visibility_map(display[n : n + 1], model)[0]
        variance = Likeness(display[n], every).variance.astype(np.float64)
        inside, counted = region[n], ~logo[n]

        def ssim(amplitude: NDArray[np.float64]) -> NDArray[np.float64]:
            # Noise that does not depend on the image adds to one variance in (2 cov + C2) / (var + var' + C2).
            noise = _ROUGH * _POWER * amplitude[::every, ::every] ** 2
            similar: NDArray[np.float64] = ((2 * variance + C2) / (2 * variance + noise + C2)).mean(axis=0)
            return similar

        def error(amplitude: NDArray[np.float64]) -> NDArray[np.float64]:
            return _POWER * amplitude**2

        flat = np.where(weights > 0, region_budget, 0.0)
        least = model.region_ssim
        there = flat * _largest_gain(
            lambda gain: gain * flat, ssim, error, inside & counted, least, 0.0, 1.0, region_steps, every
        )

        def amplitude(gain: float) -> NDArray[np.float64]:
            return np.where(inside, there, np.minimum(gain * weights, model.ceiling))

        return amplitude(_largest_gain(amplitude, ssim, error, counted, model.ssim, model.psnr, 32.0, steps, every))

    return np.stack(list(in_threads(of_slice, range(len(display)), usable_threads())))


def fit_to_likeness(
    display: NDArray[np.float32],
    images: NDArray[np.float32],
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
        images: the same with the logo in it.
        fraction: the field, ``(N, 1 or C, h, w)`` in [-1, 1].
        budget: ``(N, h, w)``, what it was made for.
        model: the likeness.
        region: ``(N, h, w)``.
        region_budget: largest amplitude there.
        logo: ``(N, h, w)``; stays as it is and is not counted.
        quick: a fiftieth less than what is left will do.

    Returns:
        ``(N, h, w)``: outside the region at most twice the budget, and at most ``model.ceiling``.
    """
    fitted = budget.copy()

    def fit(n: int) -> None:
        inside, counted = region[n] & ~logo[n], ~logo[n]
        for part, judged, most, least_ssim, least_psnr in (
            (inside, inside, region_budget, model.region_ssim, 0.0),
            (counted & ~region[n], counted, model.ceiling, model.ssim, model.psnr),
        ):
            # What a window of SSIM does not reach from there need not be computed: the region is a small box.
            near = _around(judged)
            fitted[n][near] = _fitted_part(
                display[n][near],
                images[n][near],
                np.rint(fraction[n][near] * 2) / 2,
                budget[n][near],
                fitted[n][near],
                part[near],
                judged[near],
                most,
                least_ssim,
                least_psnr,
                quick,
            )

    for _ in in_threads(fit, range(len(display)), usable_threads()):
        pass
    return fitted


def _fitted_part(
    plane: NDArray[np.float32],
    image: NDArray[np.float32],
    levels: NDArray[np.float32],
    budget: NDArray[np.float64],
    fitted: NDArray[np.float64],
    part: NDArray[np.bool_],
    judged: NDArray[np.bool_],
    most: float,
    least_ssim: float,
    least_psnr: float,
    quick: bool,
) -> NDArray[np.float64]:
    """Amplitudes ``(h, w)`` with those of one part scaled, the others as they were fitted before."""
    # Every second window in both directions says nearly the same, at a third of the cost.
    steps, every = (7, 2) if quick else (12, 1)
    likeness = Likeness(plane, every)

    def scaled(gain: float) -> NDArray[np.float64]:
        return np.asarray(np.where(part, np.minimum(gain * budget, most), fitted), np.float64)

    def changed(gain: float) -> NDArray[np.float32]:
        # As it will be stored: a block has one scale, and cells beside the logo share that of its footprint.
        stored = cell_budget(block_scales(scaled(gain)[None]), *budget.shape)[0]
        shown: NDArray[np.float32] = np.clip(image + levels * stored, 0, 1)
        return shown

    return scaled(
        _largest_gain(
            changed,
            likeness.ssim_map,
            likeness.squared_error,
            judged,
            least_ssim,
            least_psnr,
            _MOST_GAIN,
            steps,
            every,
        )
    )


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


def _largest_gain(
    made: Callable[[float], NDArray[Any]],
    ssim: Callable[[NDArray[Any]], NDArray[Any]],
    error: Callable[[NDArray[Any]], NDArray[Any]],
    judged: NDArray[np.bool_],
    least_ssim: float,
    least_psnr: float,
    most: float,
    steps: int,
    every: int = 1,
) -> float:
    """Largest factor up to ``most``, in ``2**steps`` steps, with which the judged cells keep to a likeness.

    Error and similarity are those of what is ``made`` with a factor: an amplitude, or a changed image. Similarity may
    be given for ``every`` second window only.
    SSIM counts whole windows only, as everyone measures it: windows that hang over a black border all look alike.
    """
    if not judged.any():
        return most
    whole = np.zeros_like(judged)
    whole[RADIUS : judged.shape[0] - RADIUS, RADIUS : judged.shape[1] - RADIUS] = True
    windows = (judged & whole if (judged & whole).any() else judged)[::every, ::every]
    if not windows.any():
        windows = np.ones_like(windows)  # all that are near
    largest_error = 10 ** (-least_psnr / 10)

    def excess(gain: float) -> float:
        """Above zero where the likeness does not hold; nearly a straight line, because errors grow with squares."""
        tried = made(gain)
        wrong = float(error(tried)[judged].mean())
        share = wrong / largest_error
        if share > 4:  # far off: the similarity costs more and decides nothing
            return math.sqrt(share) - 1
        similar = float(ssim(tried)[windows].mean())
        distance = math.sqrt(max(share, (1 - similar) / max(1 - least_ssim, 1e-9), 0.0)) - 1
        # The sign is that of the comparisons themselves, whatever the divisions round.
        return min(distance, 0.0) if wrong <= largest_error and similar >= least_ssim else max(distance, 1e-12)

    above = excess(most)
    if above <= 0:
        return most
    # Where a bisection in so many steps would end, by the Illinois method: false position that halves the value at an
    # end which stays. Without a factor nothing of the likeness is used up.
    low, high, below, last = 0, 1 << steps, -1.0, 0
    for tries in count():
        if high - low == 1:
            break
        # Block scales are rounded: where the function is a staircase, its values lead nowhere.
        aim = 0.5 if tries >= 12 else below / (below - above)
        middle = min(max(low + round((high - low) * aim), low + 1), high - 1)
        value = excess(most * middle / (1 << steps))
        side = 1 if value > 0 else -1
        if side > 0:
            high, above = middle, value
            below /= 2 if last == side else 1
        else:
            low, below = middle, value
            above /= 2 if last == side else 1
        last = side
    return most * low / (1 << steps)


def block_scales(budget: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Quantize a budget map to one scale for every block.

    Args:
        budget: ``(N, h, w)`` amplitudes as fractions of the window.

    Returns:
        ``(N, ceil(h / 4), ceil(w / 4))`` uint8 field units, rounded down from the block's mean.
    """
    height, width = budget.shape[1:]
    padded = np.pad(budget, ((0, 0), (0, -height % BLOCK), (0, -width % BLOCK)), mode="edge")
    # Rows first: sums of whole rows are several times as quick as sums of squares.
    rows = padded.reshape(len(budget), -1, BLOCK, padded.shape[2]).sum(2)
    blocks = rows.reshape(*rows.shape[:2], -1, BLOCK).sum(3) / BLOCK**2
    scales: NDArray[np.uint8] = np.minimum(np.floor(blocks * UNITS + 1e-9), MAX_SCALE).astype(np.uint8)
    return scales


def cell_budget(scales: NDArray[np.uint8], height: int, width: int) -> NDArray[np.float32]:
    """Amplitude of a full level at each cell, ``(N, 1, h, w)`` float32 fractions of the window."""
    cells = spread(scales, (len(scales), height, width))
    return (cells[:, None].astype(np.float32) / UNITS).astype(np.float32)


def _box_mean(planes: NDArray[np.float64], radius: int) -> NDArray[np.float64]:
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

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""What a display shows of a change of stored samples: nothing far outside of its window, whole units, no padding.

A mark is planned on the canonical grid, in fractions of the display window, and applied to stored samples. Where the
two differ, a plan would count on changes that nobody sees, be it a model or a reader.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import EllipsisType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from monai_miadmark.image import StoredImage, Window

__all__ = ["LEAST_GAIN", "Appearance", "appearance_of", "area_means", "inkable_share"]

LEAST_GAIN = 1 / 8
"""Cells of which a display shows less than this share of a change get none: it would be stored for nothing."""

_STEP = 1 / 255
_BLACK, _WHITE = np.float32(0), np.float32(1)

Part = tuple[EllipsisType, slice, slice]


def area_means(plane: NDArray[Any], h: int, w: int) -> NDArray[np.float32]:
    """Means of ``(H, W)`` samples under each cell of an ``(h, w)`` grid, float32."""
    plane = plane.astype(np.float32, copy=False)
    if plane.shape == (h, w):
        return plane
    # A box filter is what area averaging means; Pillow does it quickly and needs no torch.
    return np.asarray(Image.fromarray(np.ascontiguousarray(plane)).resize((w, h), Image.Resampling.BOX))


@dataclass(frozen=True, eq=False)
class Appearance:
    """How an image on its canonical grid answers to a field.

    Attributes:
        images: ``(N, C, h, w)`` float32 in [0, 1], what a display shows before the field, bright = 1.
        level: ``(N, C, h, w)``, mean of those samples of a cell that a field can be seen on, on a scale that goes on
            beyond black (0) and white (1). ``None`` where it is ``images``, and all is as the display has it.
        share: ``(N, C, h, w)``, share of such samples of the cell.
        limits: ``(2, N, C, 1, 1)``, what the bounds of the samples leave of black and white.
        grain: ``(N, C, 1, 1)``, one stored unit on the display, where that is more than a step of 8 bits; else 0.
        inverted: whether a brighter display is a lower stored value.
    """

    images: NDArray[np.float32]
    level: NDArray[np.float32] | None = None
    share: NDArray[np.float32] | None = None
    limits: NDArray[np.float32] | None = None
    grain: NDArray[np.float32] | None = None
    inverted: bool = False

    def changed(self, n: int, field: NDArray[np.float32], part: Part = np.s_[..., :, :]) -> NDArray[np.float32]:
        """A slice, or a part of it, with a field ``(1 or C, rows, columns)``, as a display will show it."""
        images = self.images[n][part]
        if self.level is None or self.share is None or self.limits is None or self.grain is None:
            plain: NDArray[np.float32] = np.clip(images + field, 0, 1)
            return plain
        level, (low, high) = self.level[n][part], self.limits[:, n]
        if not low.any() and (high == 1).all():  # scalars take half of the time
            low, high = _BLACK, _WHITE
        if self.grain[n].any():
            # Samples move by whole units, to the nearest, halves up.
            grain = np.where(self.grain[n] > 0, self.grain[n], 1)
            sign = -1 if self.inverted else 1
            field = np.where(self.grain[n] > 0, sign * grain * np.floor(sign * field / grain + 0.5), field)
        moved = level + field
        np.clip(moved, low, high, out=moved)
        moved -= np.clip(level, low, high)
        moved *= self.share[n][part]
        moved += images
        shown: NDArray[np.float32] = moved.astype(np.float32, copy=False)
        return shown

    def visible(self, amplitude: NDArray[np.float32]) -> NDArray[np.float32]:
        """What a display shows of an amplitude ``(N, 1, h, w)`` in the direction in which it shows more of it.

        The mean over the channels, as networks see it.
        """
        if self.level is None:
            return amplitude
        seen = np.empty_like(amplitude)
        for n, most in enumerate(amplitude):
            up, down = self.changed(n, most) - self.images[n], self.images[n] - self.changed(n, -most)
            seen[n] = np.maximum(up, down).mean(axis=0)
        return np.maximum(seen, 0)

    def gain(self, amplitude: float) -> NDArray[np.float32] | None:
        """Share of an amplitude that a display shows, ``(N, h, w)``; ``None`` where it shows all of it."""
        if self.level is None:
            return None
        flat = np.full((len(self.images), 1, *self.images.shape[2:]), amplitude, np.float32)
        return self.visible(flat)[:, 0] / np.float32(amplitude)


def appearance_of(image: StoredImage, images: NDArray[np.float32], reach: float) -> Appearance:
    """How an image answers to a field.

    Args:
        image: the samples as they are before the field, with ink.
        images: the same on its canonical grid as a display shows it, ``(N, C, h, w)``.
        reach: largest amplitude, fraction of the window: samples that are further outside of it never show.
    """
    if _plain(image):
        return Appearance(images)
    slices, channels, h, w = images.shape
    level, share = np.empty_like(images), np.empty_like(images)
    limits = np.empty((2, slices, channels, 1, 1), np.float32)
    grain = np.zeros((slices, channels, 1, 1), np.float32)
    for n in range(slices):
        for c, window in enumerate(image.windows_of(n)):
            samples = image.values[n, :, :, c]
            moving = _moving(samples, image)
            with np.errstate(invalid="ignore", over="ignore"):
                shown = _unclipped(samples, window)
                moving &= (shown >= -reach) & (shown <= 1 + reach)
            np.copyto(shown, 0, where=~moving)
            part, mean = area_means(moving, h, w), area_means(shown, h, w)
            share[n, c] = part
            level[n, c] = np.where(part > 0, mean / np.maximum(part, 1e-6), 0)
            ends = np.clip(_unclipped(np.array(_reachable(image, samples), np.float64), window), 0, 1)
            limits[:, n, c, 0, 0] = np.sort(ends)
            if samples.dtype.kind != "f" and window.width < 1 / _STEP:
                grain[n, c] = 1 / window.width
    return Appearance(images, level, share, limits, grain, image.inverted)


def inkable_share(image: StoredImage, h: int, w: int) -> NDArray[np.float32] | None:
    """Share of the samples of each cell that ink can move, ``(N, h, w)``; ``None`` where all of them can be.

    Padding, samples outside the bounds and those that are not finite stay.
    """
    moving = [_moving(values, image) for values in image.values]
    if all(each.all() for each in moving):
        return None
    return np.stack([area_means(np.asarray(each.all(axis=-1)), h, w) for each in moving])


def _plain(image: StoredImage) -> bool:
    """Whether every sample lies in its window and can move anywhere in it, in steps that are fine enough."""
    if image.padding is not None:
        return False
    fine = image.values.dtype.kind == "f"
    for n in range(len(image.values)):
        for c, window in enumerate(image.windows_of(n)):
            samples = image.values[n, :, :, c]
            # So written, NaN is outside.
            if not (float(samples.min()) >= window.low and float(samples.max()) <= window.high):
                return False
            if image.bounds.low > window.low or image.bounds.high < window.high:
                return False
            if not fine and window.width < 1 / _STEP:
                return False
    return True


def _moving(samples: NDArray[Any], image: StoredImage) -> NDArray[np.bool_]:
    """Samples that are neither padding nor outside the bounds nor without a number."""
    low, high = image.bounds
    with np.errstate(invalid="ignore"):
        # Comparing integers with floats would make floats of all of them; usually there is nothing to compare.
        if float(samples.min()) >= low and float(samples.max()) <= high:  # so written, NaN is outside
            moving = np.ones(samples.shape, np.bool_)
        else:
            moving = (samples >= low) & (samples <= high)
        if image.padding is not None:
            moving &= (samples < image.padding[0]) | (samples > image.padding[1])
    return moving


def _reachable(image: StoredImage, samples: NDArray[Any]) -> tuple[float, float]:
    """Least and largest stored value that samples can be moved to: padding at an end of the bounds is out of reach."""
    low, high = image.bounds
    unit = 0 if samples.dtype.kind == "f" else 1
    if image.padding is not None:
        first, last = image.padding
        moving = samples[_moving(samples, image)]
        if moving.size and float(moving.min()) > last:
            low = max(low, last + unit)
        if moving.size and float(moving.max()) < first:
            high = min(high, first - unit)
    return low, max(low, high)


def _unclipped(values: NDArray[Any], window: Window) -> NDArray[np.float32]:
    """Stored values on the scale of the display, on which black is 0 and white 1, and beyond."""
    shown = ((values.astype(np.float32) - np.float32(window.low)) / np.float32(window.width)).astype(np.float32)
    return 1 - shown if window.inverted else shown

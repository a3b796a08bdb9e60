# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""What a field may not look like: spots of the size of lesions, and patches of another color.

A radiologist reads a round change of brightness of some millimeters as a nodule, a reader of fundus images a red patch
as a haemorrhage. A field that is fine grained, or that changes slowly over the whole image, says nothing of the kind.
So what a field answers to filters is limited: its brightness to a difference of two Gaussians, which answers to spots
of a range of sizes; its colors to another such difference, and, where they hold over a good part of the image, to a
broad Gaussian. The limits are shares of the display window; where the image itself is uneven at that size, brightness
may change by more.

The same arithmetic serves arrays, when a mark is made, and tensors, in the gradient steps that look for it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_miadmark.budget import Visibility, cell_budget
from monai_miadmark.field import BLOCK

__all__ = ["Lookalikes", "dither_pattern", "dithered", "shrunk"]

_UNIT = 128
"""Cells along the longer side for which the sizes below are given."""

_SPOT = 1.5, 8.0
"""Deviations of the two Gaussians whose difference answers to spots of brightness, in cells."""

_PATCH = 1.5, 12.0
"""The same for patches of color; what is broader than the second is a cast."""

_AIM = 0.83
"""Share of a limit that a field is brought to, so that rounding seldom leads beyond it."""

_RELAXED = 1.5
"""A response is taken out with so much to spare: the Gaussians are no ideal filters."""

_LEAST_SHRINK = 0.97
"""Factor, at most, on the scales of blocks around a response that is still too large once the field is rounded."""

_TRIES = 40
"""Times that blocks shrink at most: hardly anything is left of them then."""

_THRESHOLDS = (np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]]) + 0.5).astype(np.float32) / 16
"""Bayer's matrix: an ordered dither leaves a regular texture where other roundings leave patches."""


class Lookalikes:
    """Limits on fields for some images.

    Args:
        clean: ``(N, C, h, w)`` in [0, 1], array or tensor.
        logo: ``(N, 1, h, w)``, 1 in the logo's footprint, else 0, of the same kind. Brightness is not limited there,
            nor does it count; color may change by ``model.logo_tint``.
        model: the limits.
        contrasts: channels are images of their own, not colors.
    """

    def __init__(self, clean: Any, logo: Any, model: Visibility, contrasts: bool = False) -> None:
        self._contrasts = contrasts
        height, width = clean.shape[2:]
        self._convert: Callable[[NDArray[np.float32]], Any] = lambda a: a
        if not isinstance(clean, np.ndarray):
            self._convert = lambda a: clean.new_tensor(a)
        unit = max(height, width) / _UNIT
        self._small, self._large = (self._blur(height, width, s * unit) for s in _SPOT)
        self._grain, self._cast = (self._blur(height, width, s * unit) for s in _PATCH)
        self._free = 1 - logo
        gray = self._brightness(clean)
        band = self._small(gray) - self._large(gray)
        uneven = self._large((band * band).mean(1, keepdims=True)) ** 0.5
        self.spot = model.spot + model.masking * uneven
        self.patch, self.cast = (most * self._free + model.logo_tint * logo for most in (model.patch, model.cast))

    def limited(self, field: Any, rounds: int = 3) -> Any:
        """The part of fields that keeps to the limits, nearly.

        Args:
            field: ``(N, F, h, w)``, fractions of the window; F is 1 or the number of channels.
            rounds: responses are taken out so often; each leads nearer.
        """
        bright = self._brightness(field)
        color = field - bright
        for _ in range(rounds):
            if bright.shape[1] < field.shape[1]:
                cast = self._cast(color)
                patch = self._grain(color) - cast
                color = color - _RELAXED * (_beyond(patch, _AIM * self.patch) + _beyond(cast, _AIM * self.cast))
            bright = bright - _RELAXED * self._free * _beyond(self._spots(bright), _AIM * self.spot)
        return bright + color

    def excess(self, field: Any) -> Any:
        """The largest response as a multiple of its limit, ``(N, h, w)``; above 1 where one is exceeded."""
        bright = self._brightness(field)
        answers = [abs(self._spots(bright)) / self.spot * self._free]
        if bright.shape[1] < field.shape[1]:
            cast = self._cast(field - bright)
            patch = self._grain(field - bright) - cast
            answers += [abs(patch) / self.patch, abs(cast) / self.cast]
        most = [answer[:, plane] for answer in answers for plane in range(answer.shape[1])]
        return reduce(np.maximum if isinstance(field, np.ndarray) else type(field).maximum, most)

    def _brightness(self, planes: Any) -> Any:
        alone = self._contrasts or planes.shape[1] == 1
        return planes if alone else planes.mean(1, keepdims=True)

    def _spots(self, bright: Any) -> Any:
        bright = bright * self._free
        return self._small(bright) - self._large(bright)

    def _blur(self, height: int, width: int, deviation: float) -> Callable[[Any], Any]:
        rows, columns = (self._convert(_gaussian_matrix(side, deviation)) for side in (height, width))
        return lambda planes: rows @ planes @ columns.T


def _beyond(response: Any, limit: Any) -> Any:
    """How far a response lies beyond a limit of its size, with its sign."""
    return response - response.clip(-limit, limit)


@lru_cache(maxsize=16)
def _gaussian_matrix(size: int, deviation: float) -> NDArray[np.float32]:
    """Matrix ``(size, size)`` that smooths along an axis; at the ends, weights sum to 1 over what is there."""
    at = np.arange(size)
    weights = np.exp(-((at[:, None] - at) ** 2) / (2 * deviation**2))
    return np.asarray(weights / weights.sum(1, keepdims=True), np.float32)


def dithered(fraction: Any, pattern: Any) -> Any:
    """Fractions ``(N, F, h, w)`` of a scale rounded to halves, by an ordered dither: blocks keep their mean.

    Args:
        fraction: in [-1, 1], array or tensor.
        pattern: :func:`dither_pattern`, of the same kind.
    """
    return ((2 * fraction + pattern) // 1).clip(-2, 2) / 2


def dither_pattern(height: int, width: int) -> NDArray[np.float32]:
    """Thresholds ``(h, w)`` in (0, 1) of an ordered dither."""
    whole: NDArray[np.float32] = np.tile(_THRESHOLDS, (-(-height // BLOCK), -(-width // BLOCK)))
    return whole[:height, :width]


def shrunk(lookalikes: Lookalikes, levels: NDArray[np.float32], scales: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Block scales with which rounded levels keep to the limits: smaller where they would not.

    Args:
        lookalikes: the limits.
        levels: ``(N, F, h, w)`` in [-1, 1], halves.
        scales: ``(N, bh, bw)`` uint8 field units.
    """
    scales = scales.copy()
    for _ in range(_TRIES):
        excess = lookalikes.excess(levels * cell_budget(scales, *levels.shape[2:]))
        if excess.max() <= 1:
            break
        height, width = excess.shape[1:]
        padded = np.pad(excess, ((0, 0), (0, -height % BLOCK), (0, -width % BLOCK)))
        worst = padded.reshape(len(padded), scales.shape[1], BLOCK, scales.shape[2], BLOCK).max((2, 4))
        factor = np.minimum(_LEAST_SHRINK, 1 / np.maximum(worst, 1))
        scales = np.where(worst > 1, np.floor(scales * factor), scales).astype(np.uint8)
    return scales

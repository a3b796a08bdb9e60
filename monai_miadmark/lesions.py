# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Where the lesion is: by image processing in modalities in which that is enough, else out of what a network tells.

Everything works on at most :data:`_WORKING` cells a side, so that a slice takes about ten milliseconds, large or
small. The thresholds were chosen on the ``tune`` part of the image sets; ``docs/experiments.md`` has the questions,
``docs/results.md`` the figures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from monai_miadmark.region import salient_boxes

__all__ = ["DETECTORS", "Lesion", "detect", "from_map"]

_WORKING = 128
"""Longest side of what the detectors look at, in cells."""

_BINS = 128

_PROBABLE = 0.05
"""Places are part of a lesion from this share of the greatest probability."""

_MAP_MARGIN = 0.04
"""Margin around them, as a share of the longer side."""

_MAP_SIDE = 0.3
"""Side of the box that a concentrated distribution fits into, as a share of the image's sides."""


class Lesion(NamedTuple):
    """What a detector found on a slice.

    Attributes:
        cells: ``(h, w)`` bool, the lesion and a margin; empty where there is none to be told.
        sure: 0 ... 1: how often findings as clear as this one held nine tenths of the lesion on ``tune`` images.
    """

    cells: NDArray[np.bool_]
    sure: float


def detect(modality: str | None, display: NDArray[np.float32]) -> Lesion | None:
    """Look for the lesion on one slice.

    Args:
        modality: a key of :data:`DETECTORS`, or anything else.
        display: ``(C, h, w)`` in [0, 1].

    Returns:
        What was found, on the grid of the slice; ``None`` for modalities without a detector, and for slices too small
        to tell.
    """
    if modality is None or modality not in DETECTORS or min(display.shape[1:]) < 32:
        return None
    h, w = display.shape[1:]
    factor = _WORKING / max(h, w)
    size = (h, w) if factor >= 1 else (max(1, round(h * factor)), max(1, round(w * factor)))
    planes = np.stack([_resized(plane, size) for plane in display]).astype(np.float64)
    found = DETECTORS[modality](planes)
    if size == (h, w):
        return found
    cells = _resized(found.cells.astype(np.float32), (h, w), Image.Resampling.BILINEAR) > 0
    return Lesion(np.asarray(cells), found.sure)


def from_map(display: NDArray[np.float32], places: NDArray[np.float32]) -> Lesion:
    """The lesion out of a network's distribution over places.

    Args:
        display: ``(C, h, w)`` in [0, 1].
        places: ``(h, w)``, how probably the lesion covers each cell, summing to 1.

    Returns:
        All places that are probable enough, with a margin. As sure as the distribution is concentrated, unless the
        image is no head in the dark: such networks answer to any image.
    """
    cells = _grown(places >= _PROBABLE * places.max(), max(1, round(_MAP_MARGIN * max(places.shape))))
    held = float(places[salient_boxes(places[None], _MAP_SIDE)[0]].sum()) if _in_the_dark(display) else 0.0
    return Lesion(cells, float(np.clip((held - 0.6) / 0.4, 0, 1)))


def _in_the_dark(display: NDArray[np.float32]) -> bool:
    """Whether the border of a slice ``(C, h, w)`` is air, as around a head."""
    gray = display.mean(0)
    edge = max(1, round(max(gray.shape) / 43))
    rim = np.ones(gray.shape, bool)
    rim[edge:-edge, edge:-edge] = False
    return bool((gray[rim] > 0.15).mean() <= 0.3)


def _skin_lesion(planes: NDArray[np.float64]) -> Lesion:
    """What is darker, or of another hue, than the skin along the border of the image; large and central parts first.

    Colors are compared as optical densities, because pigment and blood absorb light.
    """
    side = max(planes.shape[1:])
    skin = _inside_vignette(planes)
    smooth = np.stack([_mean_over(plane, skin, side / 85) for plane in planes])
    density = -np.log(np.clip(smooth, 0.02, 1))
    rim = skin & (_depth(skin) <= 0.08 * side)
    nothing = Lesion(np.zeros(skin.shape, bool), 0.0)
    if rim.sum() < 0.02 * skin.size:
        return nothing
    change = density - np.median(density[:, rim], axis=1)[:, None, None]
    darker = change.mean(0)
    distance = np.clip(darker, 0, None) + np.sqrt(((change - darker) ** 2).sum(0))
    parts = skin & (distance > _otsu(distance[skin]))
    parts = ndimage.binary_opening(parts, iterations=max(1, round(side / 96)))
    parts = ndimage.binary_closing(np.pad(parts, 8), iterations=3)[8:-8, 8:-8]
    lesion = _main_parts(ndimage.binary_fill_holes(parts), 0.25)
    beyond = skin & ~ndimage.binary_dilation(lesion, iterations=4)
    if not lesion.any() or beyond.sum() < 0.02 * skin.size:
        return nothing
    separation = _apart_from(distance, lesion, beyond)
    return Lesion(_grown(lesion, max(1, round(side / 32))), float(np.clip(0.5 * (separation - 2.2), 0, 1)))


def _optic_disc(planes: NDArray[np.float64]) -> Lesion:
    """The optic disc: the brightest spot of its size within the round field of a fundus camera."""
    field = _largest(ndimage.gaussian_filter(planes.max(0), 1) > 0.08)
    field = ndimage.binary_fill_holes(ndimage.binary_opening(field, iterations=2))
    nothing = Lesion(np.zeros(field.shape, bool), 0.0)
    if field.mean() < 0.12:
        return nothing
    radius = 0.125 * float(np.sqrt(field.sum() / np.pi))
    # Red and green: blue shows reflections, and red alone is often overexposed.
    gray = planes[:2].mean(0)
    bright = _mean_over(gray, field, 0.6 * radius) - _mean_over(gray, field, 3 * radius)
    inner = _depth(field) > 0.64 * radius
    if not inner.any():
        return nothing
    score = np.where(inner, bright / max(float(bright[inner].std()), 1e-6), -np.inf)
    row, column = np.unravel_index(score.argmax(), score.shape)
    y, x = np.ogrid[: field.shape[0], : field.shape[1]]
    near = np.hypot(y - row, x - column) <= 1.8 * radius
    rest = score[inner & ~near]
    lead = float(score.max() - rest.max()) if rest.size else 0.0
    return Lesion(near, float(np.clip(lead, 0, 1)))


def _inside_vignette(planes: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Everything but black padding and the dark corners of a dermatoscope."""
    dark = planes.max(0) < 0.16
    labels, _ = ndimage.label(dark)
    edge = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    outer = np.pad(np.isin(labels, edge[edge > 0]), 4, mode="edge")
    outer = ndimage.binary_opening(outer, iterations=2)[4:-4, 4:-4]
    return np.asarray(~ndimage.binary_dilation(outer, iterations=max(1, max(dark.shape) // 40)))


def _main_parts(mask: NDArray[np.bool_], share: float) -> NDArray[np.bool_]:
    """The connected part that is largest and most central, and those that come near it."""
    labels, count = ndimage.label(mask)
    if count == 0:
        return np.asarray(mask)
    numbers = range(1, count + 1)
    middle, reach = (np.asarray(mask.shape) - 1) / 2, max(mask.shape) / 2
    offset = (np.asarray(ndimage.center_of_mass(mask, labels, numbers)) - middle) / reach
    weight = ndimage.sum_labels(mask, labels, numbers) * np.exp(-2 * (offset**2).sum(1))
    return np.asarray(np.isin(labels, 1 + np.flatnonzero(weight >= share * weight.max())))


def _largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Its largest connected part."""
    labels, count = ndimage.label(mask)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    sizes[0] = 0
    return np.asarray((labels == sizes.argmax()) & mask)


def _grown(mask: NDArray[np.bool_], cells: int) -> NDArray[np.bool_]:
    """Dilation by a square that reaches so many cells to each side."""
    return np.asarray(ndimage.maximum_filter(mask, 2 * cells + 1))


def _depth(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Distance in cells from the nearest place outside the mask; what is beyond the image is outside."""
    return np.asarray(ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1])


def _mean_over(values: NDArray[Any], mask: NDArray[np.bool_], sigma: float) -> NDArray[np.float64]:
    """Gaussian mean over the mask alone (normalized convolution), so that its edge is no edge of the result."""
    total = ndimage.gaussian_filter(values * mask, sigma)
    return np.asarray(total / np.maximum(ndimage.gaussian_filter(mask.astype(np.float64), sigma), 1e-3))


def _otsu(values: NDArray[np.float64]) -> float:
    """The threshold between two groups of values whose variance between them is greatest."""
    counts, edges = np.histogram(values, _BINS)
    centers = (edges[:-1] + edges[1:]) / 2
    below, moment = counts.cumsum(), (counts * centers).cumsum()
    total = below[-1]
    inside = (below > 0) & (below < total)
    between = (moment[-1] * below / total - moment) ** 2 / np.where(inside, below * (total - below), 1)
    return float(centers[np.where(inside, between, -1.0).argmax()])


def _apart_from(values: NDArray[np.float64], mask: NDArray[np.bool_], around: NDArray[np.bool_]) -> float:
    """Difference of the means of two places in units of their mean standard deviation."""
    inside, outside = values[mask], values[around]
    return float(inside.mean() - outside.mean()) / (0.5 * float(inside.std() + outside.std()) + 1e-6)


def _resized(
    plane: NDArray[Any], size: tuple[int, int], method: Image.Resampling = Image.Resampling.BOX
) -> NDArray[np.float32]:
    """A plane at another size ``(h, w)``."""
    if plane.shape == size:
        return np.asarray(plane, np.float32)
    return np.asarray(Image.fromarray(np.ascontiguousarray(plane, np.float32)).resize(size[::-1], method))


DETECTORS: Mapping[str, Callable[[NDArray[np.float64]], Lesion]] = MappingProxyType(
    {"fundus": _optic_disc, "skin": _skin_lesion}
)
"""By modality: from ``(C, h, w)`` in [0, 1], at most 128 cells a side, to the lesion."""

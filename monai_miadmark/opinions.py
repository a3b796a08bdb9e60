# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""What the surrogates make of an image before and after it was marked: the effect that can be told beforehand.

PyTorch is imported only where there is an ensemble to ask, which is made of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monai_miadmark.image import StoredImage
from monai_miadmark.marking import Marker, Specialist, canonical_display, seen_by_networks

if TYPE_CHECKING:
    from monai_miadmark.surrogates import SurrogateEnsemble

__all__ = ["Opinion", "opinion", "opinion_of_mark", "predicted"]

_BATCH = 8

_SLICES = 8
"""Slices of a stack that are asked about."""


class Opinion(NamedTuple):
    """Means over surrogates and slices; a surrogate's class is the one that it takes the clean slice for.

    Attributes:
        before: probability of that class for the clean slice.
        after: probability of that class for the marked slice.
        kept: share of surrogates that take the marked slice for that class still.
    """

    before: float
    after: float
    kept: float


def predicted(marker: Marker, modality: str, clean: NDArray[np.float32], marked: NDArray[np.float32]) -> Opinion | None:
    """Ask the ensemble that a marker has for images; ``None`` where it has none.

    Args:
        marker: whatever made the marks.
        modality: of the images, or ``auto``.
        clean: ``(N, C, h, w)`` in [0, 1].
        marked: the same shape.

    Raises:
        ValueError: an unknown modality, no slices, or two different shapes.
    """
    ensemble = getattr(marker.specialist(modality, clean), "ensemble", None)
    return None if ensemble is None else opinion(ensemble, clean, marked)


def opinion_of_mark(specialist: Specialist, image: StoredImage, values: NDArray[Any]) -> Opinion | None:
    """What the ensemble that a mark was made against makes of it, as a display shows it.

    Args:
        specialist: whose perturber made the mark.
        image: before.
        values: ``(N, H, W, C)``, the protected samples.

    Returns:
        Its opinion on some slices, evenly spread; ``None`` where there is no ensemble that can be asked.
    """
    ensemble = getattr(specialist, "ensemble", None)
    if ensemble is None:
        return None
    count = len(values)
    slices = [(2 * i + 1) * count // (2 * min(count, _SLICES)) for i in range(min(count, _SLICES))]
    before = image.part(slices)
    pair = (before, before.with_values(values[slices]))
    return opinion(ensemble, *(seen_by_networks(each, canonical_display(each)) for each in pair))


def opinion(ensemble: SurrogateEnsemble, clean: NDArray[np.float32], marked: NDArray[np.float32]) -> Opinion:
    """Ask every surrogate about slices before and after.

    Args:
        ensemble: the surrogates; they are asked where their weights are.
        clean: ``(N, C, h, w)`` in [0, 1], with 1 to 4 channels.
        marked: the same shape.

    Raises:
        ValueError: no slices, or two different shapes.
    """
    import torch

    from monai_miadmark.numerics import own_numerics

    if clean.shape != marked.shape or not len(clean):
        raise ValueError(f"need slices of one shape, not {clean.shape} and {marked.shape}")
    device = next(ensemble.parameters()).device
    sums, asked = np.zeros(3), 0
    with own_numerics(), torch.inference_mode():
        for first in range(0, len(clean), _BATCH):
            batches = (
                torch.from_numpy(_colors(images[first : first + _BATCH])).to(device) for images in (clean, marked)
            )
            for before, after in zip(*(ensemble(batch) for batch in batches), strict=True):
                probability, label = before.softmax(1).max(1)
                left = after.softmax(1).gather(1, label[:, None])
                kept = after.argmax(1) == label
                sums += [float(probability.sum()), float(left.sum()), float(kept.sum())]
                asked += len(label)
    return Opinion(*(float(value) for value in sums / asked))


def _colors(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Three channels, as ensembles take them: gray repeated, two or four channels averaged first."""
    if images.shape[1] != 3:
        images = np.repeat(images.mean(axis=1, keepdims=True), 3, axis=1)
    return np.ascontiguousarray(images, np.float32)

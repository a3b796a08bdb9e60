# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Where a reader looks in an image that comes without a mask: detectors of lesions first, then what models look at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from monai_miadmark.region import SURE, Basis, Region, salient_boxes

if TYPE_CHECKING:
    from monai_miadmark.lesions import Lesion

__all__ = ["SaliencyJudge", "find_region"]

_BESIDE = frozenset({"fundus"})
"""Modalities in which the detector finds a structure that matters always, and findings may lie elsewhere as well."""


class SaliencyJudge(Protocol):
    """Tells what diagnostic models look at; every :class:`monai_miadmark.marking.MarkCritic` is one."""

    def saliency(self, images: NDArray[np.float32], quick: bool = False) -> NDArray[np.float32]:
        """Importance of each cell, ``(N, h, w)``, not negative, for ``(N, C, h, w)`` images in [0, 1]."""
        ...


def find_region(judge: SaliencyJudge, clean: NDArray[np.float32], quick: bool = False, unsure: bool = False) -> Region:
    """Region of each slice.

    Detectors are asked first: a network of the judge's modality (its method ``lesion``, where it has one), else image
    processing for that modality (its attribute ``modality``). One that is sure is believed. Else the box with the
    greatest saliency is part of the region, and the region is not sure.

    Args:
        judge: the ensemble.
        clean: ``(N, C, h, w)`` float32 in [0, 1].
        quick: one model's opinion is enough.
        unsure: nobody knows what the images show: detectors are not asked.
    """
    slices, _, h, w = clean.shape
    modality = None if unsure else getattr(judge, "modality", None)
    cells, sure = np.zeros((slices, h, w), bool), np.zeros(slices, np.float32)
    basis: list[Basis] = ["saliency"] * slices
    for n, lesion in enumerate(_told(judge, modality, clean)):
        if lesion is not None:
            cells[n], sure[n] = lesion
            if sure[n] >= SURE:
                basis[n] = "lesion detector"
    asked = [n for n in range(slices) if sure[n] < SURE or modality in _BESIDE]
    if asked:
        cells[asked] |= salient_boxes(judge.saliency(clean[asked], quick=quick))
    return Region(cells, sure, tuple(basis))


def _told(judge: SaliencyJudge, modality: str | None, clean: NDArray[np.float32]) -> list[Lesion | None]:
    """What detectors say about each slice."""
    # SciPy takes a third of a second to load, which those who only restore images need not wait for.
    from monai_miadmark.lesions import detect, from_map

    ask = getattr(judge, "lesion", None)
    maps = ask(clean) if ask is not None and modality is not None else None
    if maps is None:
        return [detect(modality, display) for display in clean]
    return [from_map(display, places) for display, places in zip(clean, maps, strict=True)]

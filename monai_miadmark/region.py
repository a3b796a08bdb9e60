# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The part of an image that a reader needs most: a lesion, a box around what a model looks at, or a given mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["SALIENT_SIDE", "SURE", "Basis", "Region", "grow", "mask_on_grid", "salient_boxes"]

Basis = Literal["mask", "none", "lesion detector", "saliency"]
"""What a region rests on: a mask that was given, nothing because none is wanted, a detector of lesions for the modality
(:mod:`monai_miadmark.lesions`), or the gradients of the surrogates."""

SURE = 0.5
"""From how sure a region is the logo may stand anywhere outside it."""

SALIENT_SIDE = 0.28
"""Side of the salient box as a fraction of the image's sides: 8 % of the area."""


@dataclass(frozen=True, eq=False)
class Region:
    """Where a reader looks, and how far that is to be trusted.

    Attributes:
        cells: ``(N, h, w)`` bool, cells that change little and bear no logo.
        sure: ``(N,)`` float32, 0 ... 1 for each slice: how often, on images with known lesions, regions that were found
            as clearly held nine tenths of the lesion; 1 for a given mask, and where none is wanted. Below :data:`SURE`
            the logo stands where there is least to see (:mod:`monai_miadmark.placement`).
        basis: for each slice, what the region rests on.
    """

    cells: NDArray[np.bool_]
    sure: NDArray[np.float32]
    basis: tuple[Basis, ...]

    @classmethod
    def certain(cls, cells: NDArray[np.bool_], basis: Basis) -> Region:
        """A region that nobody doubts, for the same reason on all slices."""
        return cls(cells, np.ones(len(cells), np.float32), (basis,) * len(cells))

    @property
    def unsure(self) -> NDArray[np.bool_]:
        """``(N,)`` bool: slices whose lesion may well lie elsewhere."""
        return np.asarray(self.sure < SURE)


def salient_boxes(saliency: NDArray[np.float32], side: float = SALIENT_SIDE) -> NDArray[np.bool_]:
    """Box with the greatest total saliency, slice by slice.

    Args:
        saliency: ``(N, h, w)``, not negative.
        side: the box's sides as a fraction of the image's.

    Returns:
        ``(N, h, w)`` bool, ``True`` inside the box.
    """
    slices, height, width = saliency.shape
    box_h, box_w = max(1, round(side * height)), max(1, round(side * width))
    sums = np.zeros((slices, height + 1, width + 1))
    sums[:, 1:, 1:] = saliency.astype(np.float64).cumsum(1).cumsum(2)
    totals = sums[:, box_h:, box_w:] - sums[:, :-box_h, box_w:] - sums[:, box_h:, :-box_w] + sums[:, :-box_h, :-box_w]
    best = totals.reshape(slices, -1).argmax(1)
    boxes = np.zeros((slices, height, width), bool)
    for box, at in zip(boxes, best, strict=True):
        top, left = divmod(int(at), totals.shape[2])
        box[top : top + box_h, left : left + box_w] = True
    return boxes


def mask_on_grid(mask: NDArray[np.bool_], height: int, width: int) -> NDArray[np.bool_]:
    """Canonical cells that touch a full-size mask.

    Args:
        mask: ``(N, H, W)``.
        height: cells down, at most H.
        width: cells across, at most W.

    Returns:
        ``(N, h, w)`` bool: ``True`` where any sample under the cell, or next to it, is masked, because interpolation
        spreads a cell over its neighbors.
    """
    if mask.shape[1:] == (height, width):
        return mask
    rows = np.arange(mask.shape[1]) * height // mask.shape[1]
    columns = np.arange(mask.shape[2]) * width // mask.shape[2]
    # Every cell has at least one row and column of samples: where a cell's begin, the last one's end.
    firsts = np.searchsorted(rows, np.arange(height)), np.searchsorted(columns, np.arange(width))
    cells = np.zeros((len(mask), height, width), bool)
    for plane, full in zip(cells, mask, strict=True):  # no coordinates: eight bytes each would dwarf the mask
        plane[:] = np.logical_or.reduceat(np.logical_or.reduceat(full, firsts[0], 0), firsts[1], 1)
    return grow(cells, 1)


def grow(mask: NDArray[np.bool_], cells: int) -> NDArray[np.bool_]:
    """Dilation of ``(N, h, w)`` by a square that reaches so many cells to each side."""
    out = mask.copy()
    for axis in (1, 2):
        for shift in range(1, cells + 1):
            ahead, behind = np.roll(mask, shift, axis), np.roll(mask, -shift, axis)
            index: list[slice] = [slice(None)] * 3
            index[axis] = slice(0, shift)
            ahead[tuple(index)] = False
            index[axis] = slice(-shift, None)
            behind[tuple(index)] = False
            out |= ahead | behind
        mask = out.copy()
    return out

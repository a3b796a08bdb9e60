# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""How the axes of a channel-first array lie on a display, and back.

An array has up to four channels of one image. Where it has more, or a fourth spatial axis, as functional MRI does, they
are images of their own, one after the other: time points, of one channel each.

Networks and logos want rows that run down and columns that run to the right, as a viewer shows the image. MONAI's
readers give the first spatial axis as x and the second as y, in the direction that the file happens to have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from monai_miadmark.errors import TamperedError
from monai_miadmark.image import MAX_CHANNELS
from monai_miadmark.transforms.metadata import LAYOUT_KEY

__all__ = ["Layout", "groups", "layout_of", "ras_affine"]

_UNKNOWN = np.eye(4)[:, [1, 0, 2, 3]]
"""What PydicomReader gives for files without orientation (ultrasound): the identity with its axes swapped."""


class Layout(NamedTuple):
    """Where rows and columns are in an array ``(C, H, W[, D])``, or ``(1, H, W, D, T)``.

    Attributes:
        axes: ``xy``: the first spatial axis runs along the columns' numbers (x), the second down the rows (y), as
            MONAI's readers have it; ``ij``: rows first.
        flips: whether rows and columns run backwards.
    """

    axes: str
    flips: tuple[bool, bool] = (False, False)

    def to_stored(self, array: NDArray[Any]) -> NDArray[Any]:
        """Samples ``(N, H, W, C)`` of an array ``(C, a, b)``, ``(C, a, b, N)`` or ``(1, a, b, N, T)``; copy or view.

        Of several groups, see :func:`groups`, there are ``(groups * N, H, W, 1)``.
        """
        volume = array[..., None] if array.ndim == 3 else array
        if array.ndim == 5:
            volume = np.moveaxis(array[0], -1, 0)
        stored = self._flipped(volume.transpose(self._order))
        if groups(array.shape) > 1:
            stored = np.moveaxis(stored, -1, 0).reshape(-1, *stored.shape[1:3], 1)
        return np.ascontiguousarray(stored)

    def to_array(self, values: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """Inverse of :meth:`to_stored`, for an array of this shape."""
        count = groups(shape)
        if count > 1:
            values = np.moveaxis(values.reshape(count, -1, *values.shape[1:3]), 0, -1)
        volume = self._flipped(values).transpose(self._order)
        if len(shape) == 5:
            volume = np.moveaxis(volume, 0, -1)[None]
        volume = np.ascontiguousarray(volume)
        return volume[..., 0] if len(shape) == 3 else volume

    @property
    def _order(self) -> tuple[int, int, int, int]:
        """Permutation of the axes; both are their own inverse."""
        return (3, 2, 1, 0) if self.axes == "xy" else (3, 1, 2, 0)

    def _flipped(self, values: NDArray[Any]) -> NDArray[Any]:
        return values[:, :: -1 if self.flips[0] else 1, :: -1 if self.flips[1] else 1]

    def __str__(self) -> str:
        return self.axes + "".join(sign for sign, flip in zip("hw", self.flips, strict=True) if flip)

    @classmethod
    def parse(cls, text: object) -> Layout:
        """Inverse of ``str``.

        Raises:
            TamperedError: not a layout.
        """
        for axes in ("xy", "ij"):
            for flips in ((False, False), (True, False), (False, True), (True, True)):
                if text == str(cls(axes, flips)):
                    return cls(axes, flips)
        raise TamperedError(f"the meta data's {LAYOUT_KEY} is not a layout")


def groups(shape: tuple[int, ...]) -> int:
    """Images that an array of this shape holds one after the other: time points, or channels beyond four.

    Args:
        shape: ``(C, H, W)``, ``(C, H, W, D)`` or ``(1, H, W, D, T)``.
    """
    if len(shape) == 5:
        return shape[4]
    return shape[0] if shape[0] > MAX_CHANNELS else 1


def ras_affine(meta: Mapping[str, Any]) -> NDArray[np.float64] | None:
    """Affine from array indices to RAS coordinates, or ``None`` where nobody knows it.

    Args:
        meta: of a MetaTensor. An affine alone means nothing, as every MetaTensor has one: only readers that found an
            orientation in the file leave ``original_affine``.
    """
    if "original_affine" not in meta or "affine" not in meta:
        return None
    affine = torch.as_tensor(meta["affine"], dtype=torch.float64).cpu().numpy()
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or np.array_equal(affine, _UNKNOWN):
        return None
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine if str(meta.get("space")) == "LPS" else affine


def layout_of(axes: str, meta: Mapping[str, Any]) -> Layout:
    """Layout of an image that is about to be protected.

    Args:
        axes: ``xy`` or ``ij``.
        meta: of the MetaTensor; empty for other arrays.

    Returns:
        For ``xy`` the directions follow from the affine, by the rule that the NIfTI format applies to its files: rows
        run from anterior or superior downwards, columns from the patient's right or from anterior. For ``ij``, the
        array is taken to be as a display has it.
    """
    affine = ras_affine(meta) if axes == "xy" else None
    if affine is None:
        return Layout(axes)
    backwards = []
    for column, turned in ((1, (1, 2)), (0, (0, 1))):
        main = int(np.abs(affine[:3, column]).argmax())
        backwards.append(bool(main in turned and affine[main, column] > 0))
    return Layout(axes, (backwards[0], backwards[1]))

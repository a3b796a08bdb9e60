# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Whether samples are labels: few integers that lie in flat areas, unlike anything that a scanner or camera gives."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["looks_like_labels"]

_FEW, _FLAT = 8, 0.6
_MANY, _VERY_FLAT = 256, 0.9
_SAMPLE = 1 << 16


def looks_like_labels(values: NDArray[Any]) -> bool:
    """Whether an image has the values of a segmentation or a mask.

    That is: one channel, only non-negative whole numbers, zero among them, and most neighbors outside the zeros alike.
    Images of up to eight different values need three in five alike; of up to 256 values nine in ten. Scanned and
    photographed areas are noisy, and even images enlarged eightfold stay below that.

    Args:
        values: ``(N, H, W, C)``.
    """
    if values.shape[3] != 1:
        return False
    plane = values[..., 0]
    sample = plane.reshape(-1)[:: max(1, plane.size // _SAMPLE)]
    if not _counts(sample) or len(np.unique(sample)) > _MANY or not _counts(plane):
        return False
    found = np.unique(plane)
    if not 2 <= len(found) <= _MANY or found[0] != 0:
        return False
    return _flatness(plane) >= (_FLAT if len(found) <= _FEW else _VERY_FLAT)


def _counts(values: NDArray[Any]) -> bool:
    """Whether all are whole numbers from zero on."""
    if values.dtype.kind != "f":
        return bool(values.dtype.kind == "u" or values.min() >= 0)
    return bool(np.isfinite(values).all() and (values >= 0).all() and (values == np.floor(values)).all())


def _flatness(plane: NDArray[Any]) -> float:
    """Share of neighbors in rows and columns that are equal, among those that are not both zero."""
    equal = pairs = 0
    for one, other in ((plane[:, :, 1:], plane[:, :, :-1]), (plane[:, 1:], plane[:, :-1])):
        shown = (one != 0) | (other != 0)
        pairs += int(np.count_nonzero(shown))
        equal += int(np.count_nonzero(shown & (one == other)))
    return equal / pairs if pairs else 0.0

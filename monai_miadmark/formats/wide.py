# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Samples of 64 bits: marked as the 32-bit type that holds them, written back in their own.

The arithmetic of marks is that of integers up to 32 bits and of float32 (``image.STORED_DTYPES``). Integers of 64 bits
are nearly always labels or counts that fit 32 bits. For float64, what the mark does not move keeps all its bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_miadmark.errors import UnsupportedImageError

__all__ = ["NARROW", "is_exact", "narrowed", "widened"]

NARROW = {"int64": "int32", "uint64": "uint32", "float64": "float32"}
"""The type in which samples of a wide type are marked; fixed, so that protected files are read as they were made."""

_TINY = float(np.finfo(np.float32).tiny)
_TOP = float(np.finfo(np.float32).max)


def narrowed(values: NDArray[Any]) -> NDArray[Any]:
    """Samples in a type of ``STORED_DTYPES``; the same array where they are of one.

    float64 is rounded to float32; what is not a number becomes the one quiet NaN, and what would be subnormal zero, so
    that all machines find the same bits.

    Args:
        values: any shape, one of the types of ``STORED_DTYPES`` or :data:`NARROW`.

    Raises:
        UnsupportedImageError: integers beyond 32 bits, or finite numbers beyond float32.
    """
    wide = values.dtype.name
    if wide not in NARROW:
        return values
    narrow = np.dtype(NARROW[wide])
    if wide != "float64":
        info = np.iinfo(narrow)
        if values.size and (values.min() < info.min or values.max() > info.max):
            raise UnsupportedImageError(f"{wide} samples beyond the range of {narrow} are not supported")
        return values.astype(narrow)
    size = np.abs(values)
    if (np.isfinite(values) & (size > _TOP)).any():
        raise UnsupportedImageError("float64 samples beyond the range of float32 are not supported")
    result = np.where(np.isnan(values) | (size < _TINY), np.copysign(0.0, values), values).astype(np.float32)
    result[np.isnan(values)] = np.float32("nan")
    return result


def widened(values: NDArray[Any], wide: str, original: NDArray[Any] | None = None) -> NDArray[Any]:
    """Samples in the wide type; those that are still the narrowed original's keep the original's bits.

    Args:
        values: of the type that :data:`NARROW` has for ``wide``.
        wide: name of the wide type.
        original: samples of the wide type and of the same shape, or ``None``.
    """
    result = values.astype(wide)
    if original is not None:
        word = f"u{values.dtype.itemsize}"
        same = values.view(word) == narrowed(original).view(word)
        result.view(np.uint64)[same] = original.view(np.uint64)[same]
    return result


def is_exact(values: NDArray[Any]) -> bool:
    """Whether narrowing keeps every bit, so that :func:`widened` alone leads back."""
    back = widened(narrowed(values), values.dtype.name)
    return bool(np.array_equal(back.view(np.uint64), values.view(np.uint64)))

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Bounds and display windows for samples of which the file itself says nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_miadmark.image import Bounds, Window
from monai_miadmark.windows import EIGHT_BITS, display_windows

__all__ = ["raster_window", "value_bounds", "volume_window"]


def value_bounds(values: NDArray[Any]) -> Bounds:
    """Range of the samples for floats, else of the type; samples of a purely positive image stay positive."""
    if values.dtype.kind == "f":
        finite = values[np.isfinite(values)]
        return Bounds(float(finite.min()), float(finite.max())) if finite.size else Bounds(0.0, 0.0)
    info = np.iinfo(values.dtype)
    return Bounds(0 if values.min() >= 0 else int(info.min), int(info.max))


def raster_window(values: NDArray[Any], inverted: bool = False) -> Window | tuple[Window, ...]:
    """Window of a raster image ``(N, H, W, C)``: all values of 8-bit samples and of colors, else percentiles.

    Gray samples of more than 8 bits are measurements as often as pictures: 12 bits of them, or fewer, may be in use.
    """
    if values.dtype == np.uint8 or (values.dtype == np.uint16 and values.shape[3] > 1):
        return Window(0, int(np.iinfo(values.dtype).max), inverted)
    return display_windows(values, inverted=inverted, color=values.shape[3] > 1)


def volume_window(values: NDArray[Any], groups: int, color: bool) -> Window | tuple[Window, ...]:
    """Window of a volume ``(N, H, W, C)``: all values of 8-bit samples, of colors too, else percentiles.

    Args:
        values: the samples.
        groups: time points or contrasts, each a run of slices.
        color: whether several channels are colors; if not, each has its own window.
    """
    if values.dtype == np.uint8:
        return EIGHT_BITS
    if color and values.shape[3] > 1:
        return raster_window(values)
    return display_windows(values, groups)

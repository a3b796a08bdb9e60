# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Structural similarity on the canonical grid, quick and without torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["C2", "RADIUS", "Likeness", "similarity", "smooth", "window_matrix"]

_C1 = 0.01**2
C2 = 0.03**2
"""Constant of SSIM's contrast term for a window of 1 (Wang et al. 2004)."""

RADIUS = 5
"""Cells from the middle of SSIM's window to its edge."""

_SIGMA = 1.5


class Likeness:
    """Compares changed versions of one image with it.

    Args:
        clean: ``(C, h, w)`` in [0, 1].
        every: windows stand this far apart in both directions.
    """

    def __init__(self, clean: NDArray[np.float32], every: int = 1) -> None:
        self.clean = clean.astype(np.float32)
        self.every = every
        self._mean = smooth(self.clean, every)
        self._square = smooth(self.clean * self.clean, every) - self._mean**2

    @property
    def variance(self) -> NDArray[np.float32]:
        """Local variance of the image, ``(C, h, w)``, one value for each window."""
        return np.asarray(np.maximum(self._square, 0.0), np.float32)

    def ssim_map(self, changed: NDArray[np.float32]) -> NDArray[np.float32]:
        """SSIM (Wang et al. 2004: Gaussian window of 11 cells, sigma 1.5), mean over the channels, ``(h, w)``.

        One value for each window.

        Borders are repeated instead of left out, so that small images have a value too; where an image is larger than
        the window, leave out :data:`RADIUS` cells at each side before taking a mean.
        """
        each = similarity(changed, self.clean, self._mean, self._square, lambda planes: smooth(planes, self.every))
        similar: NDArray[np.float32] = each.mean(axis=0)
        return similar

    def squared_error(self, changed: NDArray[np.float32]) -> NDArray[np.float32]:
        """Squared difference at the middle of each window, mean over the channels, ``(h, w)``."""
        difference = self.at_windows(changed) - self.at_windows(self.clean)
        error: NDArray[np.float32] = (difference**2).mean(axis=0)
        return error

    def at_windows(self, cells: NDArray[Any]) -> NDArray[Any]:
        """Those of ``(..., h, w)`` cells that are the middle of a window."""
        return cells[..., :: self.every, :: self.every]

    def counted(self, judged: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Where errors and similarities count if ``(h, w)`` cells are to be judged, one value for each window.

        SSIM counts whole windows only, as everyone measures it: windows that hang over a black border all look alike.
        Where there is none, all that are near are taken.
        """
        whole = np.zeros_like(judged)
        inner = np.s_[RADIUS : judged.shape[0] - RADIUS, RADIUS : judged.shape[1] - RADIUS]
        whole[inner] = judged[inner]
        cells, windows = self.at_windows(judged), self.at_windows(whole if whole.any() else judged)
        return cells, windows if windows.any() else np.ones_like(windows)


def similarity(changed: Any, clean: Any, mean: Any, variance: Any, smoothed: Callable[[Any], Any]) -> Any:
    """SSIM (Wang et al. 2004) around each place, of arrays or of tensors.

    Args:
        changed: ``(..., h, w)`` in [0, 1].
        clean: the original, of the same shape.
        mean: of the original in each window.
        variance: of the original in each window.
        smoothed: takes the mean in each window.
    """
    own = smoothed(changed)
    square = smoothed(changed * changed) - own**2
    product = smoothed(changed * clean) - own * mean
    luminance = (2 * own * mean + _C1) / (own**2 + mean**2 + _C1)
    contrast = (2 * product + C2) / (square + variance + C2)
    return luminance * contrast


def smooth(planes: NDArray[np.float32], every: int = 1) -> NDArray[np.float32]:
    """SSIM's Gaussian window over ``(..., h, w)``, around every second, third ... row and column if so wanted.

    Two matrix products are quicker than any loop over the window.
    """
    rows, columns = window_matrix(planes.shape[-2], every), window_matrix(planes.shape[-1], every)
    return np.asarray(rows @ planes @ columns.T, np.float32)


@lru_cache(maxsize=16)
def window_matrix(size: int, every: int = 1) -> NDArray[np.float32]:
    """Matrix that takes a position's weighted mean of its neighbors, the border repeated; a row for each position."""
    at = np.arange(-RADIUS, RADIUS + 1)
    kernel = np.exp(-(at**2) / (2 * _SIGMA**2))
    matrix = np.zeros((size, size))
    for offset, weight in zip(at, kernel / kernel.sum(), strict=True):
        np.add.at(matrix, (np.arange(size), np.clip(np.arange(size) + offset, 0, size - 1)), weight)
    return matrix[::every].astype(np.float32)

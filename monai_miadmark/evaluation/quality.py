# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""What a mark costs in image quality."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from monai.metrics.regression import compute_ms_ssim, compute_ssim_and_cs
from numpy.typing import NDArray
from torch import Tensor

from monai_miadmark.exact import ImageMark
from monai_miadmark.interpolate import upsample
from monai_miadmark.marking import footprint

__all__ = ["Quality", "logo_mask", "multiscale_ssim", "quality"]

_KERNEL = 11
_SIGMA = 1.5

_MS_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363)
"""The first four of the five scales of Wang et al. 2003: the fifth needs images of 176 pixels."""


class Quality(NamedTuple):
    """Likeness of two images on a part of them."""

    psnr: float
    """Peak signal-to-noise ratio in dB, peak = the display window."""
    ssim: float
    """Mean structural similarity (Wang et al. 2004: Gaussian window of 11 pixels, sigma 1.5)."""


def logo_mask(mark: ImageMark, shape: Sequence[int]) -> NDArray[np.bool_]:
    """Where a mark's logo stands, ``(N, H, W)``: its ink, and the two cells around it that share its budget."""
    slices, height, width = shape[:3]
    if mark.logo is None or mark.field is None:
        return np.zeros((slices, height, width), bool)
    planes = footprint(mark.logo, slices, *mark.field.shape[1:3])
    return np.stack([upsample(plane.astype(np.uint8), height, width) > 0 for plane in planes])


def quality(
    original: NDArray[np.float32], protected: NDArray[np.float32], leave_out: NDArray[np.bool_] | None = None
) -> Quality:
    """PSNR and SSIM of a part of an image, e.g. outside the logo.

    Args:
        original: ``(H, W)`` or ``(H, W, C)`` in display units [0, 1].
        protected: the same shape and units.
        leave_out: ``(H, W)``, ``True`` where pixels, and the SSIM windows centered on them, do not count.

    Raises:
        ValueError: images smaller than the 11-pixel window, or of different shapes.
    """
    if original.shape != protected.shape or min(original.shape[:2]) < _KERNEL:
        raise ValueError(f"need two images of one shape and at least 11 pixels a side: {original.shape}")
    keep = np.ones(original.shape[:2], bool) if leave_out is None else ~leave_out
    squared = (original.astype(np.float64) - protected) ** 2
    error = float(squared[keep].mean()) if keep.any() else 0.0
    planes = [_planes(a) for a in (protected, original)]
    ssim_map, _ = compute_ssim_and_cs(
        planes[0],
        planes[1],
        spatial_dims=2,
        kernel_size=[_KERNEL] * 2,
        kernel_sigma=[_SIGMA] * 2,
        data_range=1.0,
    )
    border = _KERNEL // 2
    inner = keep[border : keep.shape[0] - border, border : keep.shape[1] - border]
    similar = ssim_map[0].mean(0).numpy()
    return Quality(
        10 * float(np.log10(1 / error)) if error > 0 else float("inf"),
        float(similar[inner].mean()) if inner.any() else 1.0,
    )


def multiscale_ssim(original: NDArray[np.float32], protected: NDArray[np.float32]) -> float:
    """Multi-scale SSIM of whole images (Wang et al. 2003), with the first four scales.

    Args:
        original: ``(H, W)`` or ``(H, W, C)`` in display units [0, 1], at least 99 pixels a side.
        protected: the same shape and units.

    Raises:
        ValueError: smaller images.
    """
    weights = [w / sum(_MS_WEIGHTS) for w in _MS_WEIGHTS]
    planes = [_planes(a) for a in (protected, original)]
    return float(compute_ms_ssim(planes[0], planes[1], 2, kernel_size=_KERNEL, kernel_sigma=_SIGMA, weights=weights))


def _planes(image: NDArray[np.float32]) -> Tensor:
    """``(1, C, H, W)`` float32 of ``(H, W)`` or ``(H, W, C)``."""
    return torch.from_numpy(np.ascontiguousarray(np.atleast_3d(image).transpose(2, 0, 1)[None], np.float32))

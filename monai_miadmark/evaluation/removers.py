# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Filters by which someone without a key may try to undo a mark: the part of a removal suite that needs no training.

They ask for the extra ``evaluation`` (scikit-image, which brings SciPy, and PyWavelets).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from functools import partial
from io import BytesIO
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import torch
from monai.utils import optional_import
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

# Named here and missed only when used: without the extra everything else in `evaluation` still works.
ndimage, _ = optional_import("scipy.ndimage")
restoration, _ = optional_import("skimage.restoration")

__all__ = ["FILTERS", "Remover"]

Remover: TypeAlias = Callable[[Tensor], Tensor]
"""Tries to undo a mark without a key: ``(B, C, h, w)`` float32 in [0, 1], ``C`` 1 or 3, to the same shape and range."""

_Picture: TypeAlias = NDArray[np.float32]
"""One image as SciPy, scikit-image and Pillow take it, in [0, 1]: gray ``(h, w)``, color ``(h, w, 3)``."""

_NOISE = 8 / 255
"""Standard deviation that the denoisers are told to expect, about the size of a mark.

An estimate from the image instead would be zero or undefined where much of the image is flat, as the air around a head
is.
"""

_SEED = 20171101
"""Of all random choices; mixed with the image, so that they differ between images but not between runs."""


def _each(function: Callable[..., NDArray[Any]], images: Tensor, **parameters: Any) -> Tensor:
    """Apply a filter of single pictures to a batch; no image has any influence on another.

    Args:
        function: takes a picture and ``parameters``, gives a picture of the same size.
        images: ``(B, C, h, w)``; what lies outside [0, 1] is clipped.
        **parameters: strength of the filter.

    Returns:
        ``(B, C, h, w)`` float32 in [0, 1], on the device of ``images``, without gradient.

    Raises:
        ValueError: other than four dimensions, or neither one nor three channels.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"images must be (B, 1, h, w) or (B, 3, h, w), not {tuple(images.shape)}")
    # Contiguous, so that the result does not depend on the strides of what came in.
    pictures = images.detach().float().clamp(0, 1).cpu().permute(0, 2, 3, 1).contiguous().numpy()
    result = np.empty_like(pictures)
    for source, target in zip(pictures, result, strict=True):
        # Gray goes without a channel axis: scikit-image takes (h, w, 1) for color in part of its filters and spoils it.
        filtered = function(source[..., 0] if source.shape[-1] == 1 else source, **parameters)
        target[...] = filtered.reshape(source.shape).clip(0, 1)
    return torch.from_numpy(result).permute(0, 3, 1, 2).contiguous().to(images.device)


def _channel_axis(picture: _Picture) -> int | None:
    return -1 if picture.ndim == 3 else None


def _bytes(picture: _Picture) -> NDArray[np.uint8]:
    """As an 8-bit file stores it."""
    return np.rint(picture * 255).astype(np.uint8)


def _jpeg(picture: _Picture, quality: int) -> _Picture:
    """Encode and decode with Pillow; color with its default chroma subsampling (4:2:0)."""
    file = BytesIO()
    Image.fromarray(_bytes(picture)).save(file, "JPEG", quality=quality)
    with Image.open(file) as decoded:
        return np.asarray(decoded, np.float32) / np.float32(255)


def _gaussian(picture: _Picture, sigma: float) -> _Picture:
    """Blur within each channel; ``sigma`` in pixels. Edge pixels are repeated, so that borders do not darken."""
    blurred: _Picture = ndimage.gaussian_filter(picture, sigma, axes=(0, 1), mode="nearest")
    return blurred


def _median(picture: _Picture, size: int) -> _Picture:
    """Median of squares of ``size`` pixels within each channel (as a defense: Xu et al., arXiv:1704.01155)."""
    smoothed: _Picture = ndimage.median_filter(picture, size, axes=(0, 1), mode="nearest")
    return smoothed


def _bilateral(picture: _Picture, window: int, sigma_spatial: float, sigma_color: float) -> NDArray[Any]:
    """Tomasi and Manduchi 1998; ``window`` and ``sigma_spatial`` in pixels, ``sigma_color`` a fraction of [0, 1]."""
    smoothed: NDArray[Any] = restoration.denoise_bilateral(
        picture, window, sigma_color, sigma_spatial, mode="edge", channel_axis=_channel_axis(picture)
    )
    return smoothed


def _total_variation(picture: _Picture, weight: float) -> NDArray[Any]:
    """Chambolle 2004; as a defense: Guo et al., arXiv:1711.00117."""
    smoothed: NDArray[Any] = restoration.denoise_tv_chambolle(
        picture, weight=weight, channel_axis=_channel_axis(picture)
    )
    return smoothed


def _non_local_means(picture: _Picture, patch: int, distance: int, strength: float) -> NDArray[Any]:
    """Buades et al. 2005; ``patch`` and search ``distance`` in pixels, ``strength`` in units of the expected noise."""
    smoothed: NDArray[Any] = restoration.denoise_nl_means(
        picture, patch, distance, strength * _NOISE, sigma=_NOISE, channel_axis=_channel_axis(picture)
    )
    return smoothed


def _wavelet(picture: _Picture, wavelet: str) -> NDArray[Any]:
    """Soft thresholds of BayesShrink (Chang et al. 2000); color as luma and chroma."""
    smoothed: NDArray[Any] = restoration.denoise_wavelet(
        picture, _NOISE, wavelet, convert2ycbcr=picture.ndim == 3, channel_axis=_channel_axis(picture)
    )
    return smoothed


def _bit_depth(picture: _Picture, bits: int) -> _Picture:
    """Round to the nearest of ``2 ** bits`` levels from 0 to 1 (as a defense: Xu et al., arXiv:1704.01155)."""
    steps = np.float32(2**bits - 1)
    return np.rint(picture * steps) / steps


def _gamma(picture: _Picture, exponent: float) -> _Picture:
    """Change the intensity curve; exponents below 1 brighten."""
    return np.power(picture, np.float32(exponent))


def _mirrored(picture: _Picture) -> _Picture:
    """Left for right: models that were trained on mirrored images too lose nothing by it, a mark might."""
    return picture[:, ::-1]


def _turned(picture: _Picture, degrees: float) -> NDArray[Any]:
    """Turn counterclockwise about the middle, bilinear; the border is repeated outside."""
    turned: NDArray[Any] = ndimage.rotate(picture, degrees, reshape=False, order=1, mode="nearest")
    return turned


def _resized(picture: _Picture, size: tuple[int, int], mode: str) -> _Picture:
    """Bilinear or bicubic interpolation to ``size`` (height, width), low-pass filtered where it shrinks."""
    planes = torch.from_numpy(np.atleast_3d(picture)).permute(2, 0, 1)[None]
    resized = F.interpolate(planes, size, mode=mode, antialias=True)[0].permute(1, 2, 0).numpy()
    return resized.reshape(*size, *picture.shape[2:])


def _scaled(size: tuple[int, ...], factor: float) -> tuple[int, int]:
    """Height and width times ``factor``, at least one pixel each."""
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _down_up(picture: _Picture, factor: float) -> _Picture:
    """Shrink by ``factor`` (bilinear), and back to the size it had (bicubic)."""
    small = _resized(picture, _scaled(picture.shape, factor), "bilinear")
    return _resized(small, (picture.shape[0], picture.shape[1]), "bicubic")


def _resize_and_pad(picture: _Picture, smallest: float) -> _Picture:
    """Shrink to a random share of the size, from ``smallest`` to 1, and put it at a random place on black.

    After Xie et al., arXiv:1711.01991, who enlarge the image and the canvas instead; here the size must stay.
    """
    # The image is part of the seed: one fixed draw would be one fixed change, and it would depend on the batch.
    rng = np.random.default_rng((_SEED, zlib.crc32(_bytes(picture).tobytes())))
    height, width = _scaled(picture.shape, rng.uniform(smallest, 1))
    top = rng.integers(picture.shape[0] - height, endpoint=True)
    left = rng.integers(picture.shape[1] - width, endpoint=True)
    canvas = np.zeros_like(picture)
    canvas[top : top + height, left : left + width] = _resized(picture, (height, width), "bilinear")
    return canvas


# All strengths are here. They were looked at on `tune` images of the three modalities with Gaussian noise of 4/255 and
# 8/255 in place of a mark, never on `val`.
FILTERS: Mapping[str, Remover] = MappingProxyType(
    {
        # Hardly visible; Pillow's default; plainly visible.
        "JPEG 90": partial(_each, _jpeg, quality=90),
        "JPEG 75": partial(_each, _jpeg, quality=75),
        "JPEG 50": partial(_each, _jpeg, quality=50),
        # What scikit-image blurs by before it shrinks an image 2.4 and 3.4 times.
        "Gaussian 0.7": partial(_each, _gaussian, sigma=0.7),
        "Gaussian 1.2": partial(_each, _gaussian, sigma=1.2),
        # The smallest median there is, and the next.
        "median 3": partial(_each, _median, size=3),
        "median 5": partial(_each, _median, size=5),
        # Colors nearer than 0.05 are averaged: above a mark, below most edges. The window reaches two sigmas.
        "bilateral": partial(_each, _bilateral, window=9, sigma_spatial=2.0, sigma_color=0.05),
        # About the best denoising at 8/255, and one that flattens fine texture together with the mark.
        "total variation 0.02": partial(_each, _total_variation, weight=0.02),
        "total variation 0.05": partial(_each, _total_variation, weight=0.05),
        # What scikit-image advises for a known noise level in fast mode, with the patches of its example.
        "non-local means": partial(_each, _non_local_means, patch=5, distance=6, strength=0.6),
        # The shortest Daubechies wavelet that denoises better than Haar's.
        "wavelet": partial(_each, _wavelet, wavelet="db2"),
        # Steps of 17/255 and 36/255: rounding moves a value by up to half of that.
        "4 bits": partial(_each, _bit_depth, bits=4),
        "3 bits": partial(_each, _bit_depth, bits=3),
        # A quarter and half of the resolution lost.
        "scaling 0.75": partial(_each, _down_up, factor=0.75),
        "scaling 0.5": partial(_each, _down_up, factor=0.5),
        # Nearly the ratio of the paper's sizes, 299 to 331.
        "resize and pad": partial(_each, _resize_and_pad, smallest=0.85),
        # What training with flips and small rotations makes models indifferent to.
        "mirror": partial(_each, _mirrored),
        "rotation 10": partial(_each, _turned, degrees=10),
        # Middle gray becomes 0.62: a change far larger than a mark, but the same for equal values.
        "gamma 0.7": partial(_each, _gamma, exponent=0.7),
    }
)
"""Filters by the name that a report gives them.

Deterministic, on the CPU and without gradient, whatever the device of the images; below 0.1 s for an image of 128 x 128
pixels.
"""

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Random noise of many kinds, for a denoiser that knows nothing of marks."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["random_noise"]

_STRENGTH = 24 / 255
"""Largest standard deviation, fraction of the window."""

_COARSEST = 8
"""Largest grain in pixels."""

_BRIGHTEST = 0.5
"""Largest share of black or white that a random patch blends in."""


def random_noise(images: Tensor, generator: torch.Generator) -> Tensor:
    """Add noise, of another kind and strength to each image.

    White or smooth Gaussian noise, uniform noise in blocks, and random signs, in each color alike or for itself; by
    chance a bright or dark transparent rectangle as well. Strengths are uniform from 0 to 24/255, grains 1 to 8 pixels.

    Args:
        images: ``(B, C, h, w)`` float32 in [0, 1].
        generator: on the CPU.

    Returns:
        Noisy copy of the same shape, in [0, 1].
    """
    return torch.stack([_noisy(image, generator) for image in images]).clamp(0, 1)


def _noisy(image: Tensor, generator: torch.Generator) -> Tensor:
    """One image ``(C, h, w)`` with noise."""
    draw = torch.rand(5, generator=generator).tolist()
    channels, height, width = image.shape
    planes = 1 if draw[0] < 0.5 else channels
    grain = round(_COARSEST ** draw[1])
    size = (planes, -(-height // grain), -(-width // grain))
    kind = int(draw[2] * 4)
    if kind == 0:
        noise = _enlarged(torch.randn(size, generator=generator), height, width, "bilinear")
    elif kind == 1:
        noise = _enlarged(torch.rand(size, generator=generator) * 2 - 1, height, width, "nearest")
    elif kind == 2:
        noise = _enlarged(torch.randn(size, generator=generator), height, width, "bilinear").sign()
    else:
        noise = torch.randn((planes, height, width), generator=generator)
    # Interpolation takes strength away: the deviation is brought back to what was drawn.
    noise = draw[3] * _STRENGTH * noise / noise.std().clamp_min(1e-6) if noise.numel() > 1 else noise * 0
    noisy = image + noise.to(image.device)
    return _rectangle(noisy, generator) if draw[4] < 0.25 else noisy


def _enlarged(noise: Tensor, height: int, width: int, mode: str) -> Tensor:
    """``(C, h', w')`` brought to ``(C, height, width)``."""
    return F.interpolate(noise[None], (height, width), mode=mode)[0]


def _rectangle(image: Tensor, generator: torch.Generator) -> Tensor:
    """Blend black or white into a random rectangle of at most half of each side."""
    draw = torch.rand(6, generator=generator).tolist()
    height, width = image.shape[-2:]
    tall, wide = max(1, int(draw[0] * height / 2)), max(1, int(draw[1] * width / 2))
    top, left = int(draw[2] * (height - tall + 1)), int(draw[3] * (width - wide + 1))
    share = torch.zeros(height, width, device=image.device)
    share[top : top + tall, left : left + wide] = draw[4] * _BRIGHTEST
    return image + (round(draw[5]) - image) * share

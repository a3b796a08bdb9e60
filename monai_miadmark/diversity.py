# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Random changes that a victim's own preprocessing may make, differentiable, for attacks that survive them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["InputDiversity", "gaussian_blur"]


class InputDiversity:
    """Input diversity (DI-FGSM, arXiv:1803.06978) with the preprocessing of medical image pipelines.

    Every call draws one resize-and-crop, and by chance blur, gamma and noise, for the whole batch.

    Args:
        scale: smallest and largest factor of the random resize.
        crop: largest share of a side that a random crop takes away.
        blur: chance of a Gaussian blur of sigma 0.4 to 0.9 cells.
        gamma: largest exponent, and its inverse the smallest, of the intensity curve.
        noise: largest standard deviation of added noise, fraction of the window.
        chance: probability that an image batch is changed at all.
    """

    def __init__(
        self,
        scale: tuple[float, float] = (0.75, 1.25),
        crop: float = 0.1,
        blur: float = 0.25,
        gamma: float = 1.25,
        noise: float = 0.03,
        chance: float = 0.8,
    ) -> None:
        self.scale, self.crop, self.blur, self.gamma, self.noise, self.chance = scale, crop, blur, gamma, noise, chance

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Changed copy of ``(B, C, h, w)`` in [0, 1]; the size may differ, the range stays."""
        draw = torch.rand(9, generator=generator).tolist()
        if draw[0] >= self.chance:
            return images
        height, width = images.shape[-2:]
        keep_h = max(1, round(height * (1 - self.crop * draw[1])))
        keep_w = max(1, round(width * (1 - self.crop * draw[2])))
        top, left = int(draw[3] * (height - keep_h + 1)), int(draw[4] * (width - keep_w + 1))
        x = images[..., top : top + keep_h, left : left + keep_w]
        factor = self.scale[0] + draw[5] * (self.scale[1] - self.scale[0])
        size = (max(1, round(height * factor)), max(1, round(width * factor)))
        x = F.interpolate(x, size, mode="bilinear", antialias=factor < 1)
        if draw[6] < self.blur:
            x = gaussian_blur(x, 0.4 + 0.5 * draw[6] / self.blur)
        exponent = self.gamma ** (2 * draw[7] - 1)
        x = x.clamp(1e-3, 1) ** exponent
        if self.noise:
            noise = torch.randn(x.shape, generator=generator).to(x.device)
            x = x + self.noise * draw[8] * noise
        return x.clamp(0, 1)


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """Separable Gaussian blur of ``(B, C, h, w)`` with reflected edges (repeated ones on images under 4 cells)."""
    radius = max(1, round(3 * sigma))
    at = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-(at**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, 1, -1)
    mode = "reflect" if min(images.shape[-2:]) > radius else "replicate"
    x = F.conv2d(F.pad(images, (radius, radius, 0, 0), mode=mode), kernel, groups=images.shape[1])
    x = F.pad(x, (0, 0, radius, radius), mode=mode)
    return F.conv2d(x, kernel.transpose(2, 3), groups=images.shape[1])

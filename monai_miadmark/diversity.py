# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Random changes that a victim's own preprocessing may make, differentiable, for attacks that survive them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["BlockShuffle", "Diversity", "DrawnDiversity", "InputDiversity", "gaussian_blur", "jpeg_loss"]

_LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
) + ((99,) * 8,) * 4
"""Quantization tables of ITU-T T.81, tables K.1 and K.2, which most encoders scale."""

_TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
"""RGB to Y, Cb, Cr (JFIF 1.02), without the offset of the last two."""


class Diversity(Protocol):
    """Random changes of images, differentiable."""

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Changed copy of ``(B, C, h, w)`` in [0, 1]; the size may differ, the range stays."""
        ...


class InputDiversity:
    """Input diversity (DI-FGSM, arXiv:1803.06978) with the preprocessing of medical image pipelines.

    Every call draws one resize-and-crop, and by chance blur, JPEG loss, gamma and noise, for the whole batch.

    Args:
        scale: smallest and largest factor of the random resize.
        crop: largest share of a side that a random crop takes away.
        blur: chance of a Gaussian blur of sigma 0.4 to 0.9 cells.
        gamma: largest exponent, and its inverse the smallest, of the intensity curve.
        noise: largest standard deviation of added noise, fraction of the window.
        chance: probability that an image batch is changed at all.
        jpeg: chance of a JPEG compression; the default leaves it out, because it costs a third more time.
        quality: lowest and highest JPEG quality, 1 to 100.
        sides: smallest and largest longer side after the resize, in cells, drawn on a logarithmic scale; takes the
            place of ``scale`` (networks of others work on 64 to 512 cells).
    """

    def __init__(
        self,
        scale: tuple[float, float] = (0.75, 1.25),
        crop: float = 0.1,
        blur: float = 0.25,
        gamma: float = 1.25,
        noise: float = 0.03,
        chance: float = 0.8,
        jpeg: float = 0.0,
        quality: tuple[int, int] = (50, 95),
        sides: tuple[int, int] | None = None,
    ) -> None:
        self.scale, self.crop, self.blur, self.gamma, self.noise, self.chance = scale, crop, blur, gamma, noise, chance
        self.jpeg, self.quality, self.sides = jpeg, quality, sides

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Changed copy of ``(B, C, h, w)`` in [0, 1]; the size may differ, the range stays."""
        draw = torch.rand(11, generator=generator, dtype=torch.float32).tolist()
        if draw[0] >= self.chance:
            return images
        height, width = images.shape[-2:]
        keep_h = max(1, round(height * (1 - self.crop * draw[1])))
        keep_w = max(1, round(width * (1 - self.crop * draw[2])))
        top, left = int(draw[3] * (height - keep_h + 1)), int(draw[4] * (width - keep_w + 1))
        x = images[..., top : top + keep_h, left : left + keep_w]
        factor = self._factor(max(height, width), draw[5])
        size = (max(1, round(height * factor)), max(1, round(width * factor)))
        x = F.interpolate(x, size, mode="bilinear", antialias=factor < 1)
        if draw[6] < self.blur:
            x = gaussian_blur(x, 0.4 + 0.5 * draw[6] / self.blur)
        if draw[9] < self.jpeg:
            x = jpeg_loss(x, self.quality[0] + draw[10] * (self.quality[1] - self.quality[0]))
        exponent = self.gamma ** (2 * draw[7] - 1)
        x = x.clamp(1e-3, 1) ** exponent
        if self.noise:
            noise = torch.randn(x.shape, generator=generator, dtype=torch.float32).to(x.device)
            x = x + self.noise * draw[8] * noise
        return x.clamp(0, 1)

    def _factor(self, longer: int, draw: float) -> float:
        """Resize factor for a longer side and a number in [0, 1)."""
        if self.sides is None:
            return self.scale[0] + draw * (self.scale[1] - self.scale[0])
        low, high = (math.log(side / longer) for side in self.sides)
        return math.exp(low + draw * (high - low))


class BlockShuffle:
    """Block shuffle and rotation (BSR, arXiv:2308.10299): the same content in another arrangement.

    Networks of different families agree on what the parts of an image are worth, and differ in how they put them
    together: what misleads them in any arrangement carries over. An image is cut into a grid of blocks of random sizes,
    rows and the blocks of each row change places, and each block is turned about its center.

    Args:
        blocks: to a side.
        degrees: largest angle to either side; what turns in is black.
    """

    def __init__(self, blocks: int = 2, degrees: float = 24.0) -> None:
        if blocks < 1:
            raise ValueError(f"blocks must be at least 1, not {blocks}")
        self.blocks, self.degrees = blocks, degrees

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Changed copy of ``(B, C, h, w)`` in [0, 1]; images under four cells a block stay as they are."""
        if min(images.shape[-2:]) < 4 * self.blocks:
            return images
        rows = []
        for row in self._shuffled(images, 2, generator):
            blocks = [self._turned(block, generator) for block in self._shuffled(row, 3, generator)]
            rows.append(torch.cat(blocks, 3))
        return torch.cat(rows, 2)

    def _shuffled(self, images: Tensor, axis: int, generator: torch.Generator) -> list[Tensor]:
        """Strips along an axis, of which none is more than three times as wide as another, in random order."""
        side = images.shape[axis]
        shares = torch.rand(self.blocks, generator=generator, dtype=torch.float32) + 0.5
        ends = (shares.cumsum(0) / shares.sum() * side).round().int().tolist()[:-1]
        strips = images.tensor_split(ends, axis)
        return [strips[i] for i in torch.randperm(self.blocks, generator=generator).tolist()]

    def _turned(self, block: Tensor, generator: torch.Generator) -> Tensor:
        """A block turned by a random angle, in its own frame."""
        angle = math.radians(self.degrees * (2 * float(torch.rand((), generator=generator, dtype=torch.float32)) - 1))
        cos, sin = math.cos(angle), math.sin(angle)
        turn = block.new_tensor(((cos, -sin, 0.0), (sin, cos, 0.0))).expand(len(block), 2, 3)
        grid = F.affine_grid(turn, list(block.shape), align_corners=False)
        return F.grid_sample(block, grid, align_corners=False)


class DrawnDiversity:
    """One of several kinds of diversity, drawn anew for each batch.

    Args:
        kinds: at least one.
    """

    def __init__(self, kinds: Sequence[Diversity]) -> None:
        if not kinds:
            raise ValueError("needs at least one kind of diversity")
        self.kinds = tuple(kinds)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Changed copy of ``(B, C, h, w)`` in [0, 1]."""
        return self.kinds[int(torch.randint(len(self.kinds), (), generator=generator))](images, generator)


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


def jpeg_loss(images: Tensor, quality: float) -> Tensor:
    """What JPEG does to images, without its entropy coding and chroma subsampling.

    Forward, the coefficients of the 8 x 8 cosine transform are quantized as a file's are. Backward, rounding has the
    slope of the cubic approximation of Shin and Song (JPEG-resistant adversarial images, 2017): coefficients that
    vanish get next to no gradient, so that an attack does not lean on them.

    Args:
        images: ``(B, 1 or 3, h, w)`` in [0, 1], any size.
        quality: 1 to 100, scaled as libjpeg does.

    Returns:
        Same shape and range.
    """
    height, width = images.shape[-2:]
    x = F.pad(images, (0, -width % 8, 0, -height % 8), mode="replicate") * 255 - 128
    to_ycc = images.new_tensor(_TO_YCC)
    if images.shape[1] == 3:
        x = torch.einsum("ij,bjhw->bihw", to_ycc, x)
    percent = 5000 / quality if quality < 50 else 200 - 2 * quality
    tables = images.new_tensor((_LUMINANCE, _CHROMINANCE, _CHROMINANCE))[: images.shape[1]]
    steps = ((tables * percent + 50) / 100).floor().clamp(1, 255)[None, :, None, None]
    basis = _cosine_basis(images)
    rows, columns = x.shape[-2] // 8, x.shape[-1] // 8
    blocks = x.unflatten(2, (rows, 8)).unflatten(4, (columns, 8)).transpose(3, 4)  # (B, C, rows, columns, 8, 8)
    scaled = basis @ blocks @ basis.T / steps
    nearest = scaled.detach().round()
    soft = nearest + (scaled - nearest) ** 3
    quantized = soft + (nearest - soft).detach()
    x = (basis.T @ (quantized * steps) @ basis).transpose(3, 4).flatten(4, 5).flatten(2, 3)
    if images.shape[1] == 3:
        x = torch.einsum("ij,bjhw->bihw", torch.linalg.inv(to_ycc), x)
    return ((x + 128) / 255).clamp(0, 1)[..., :height, :width]


def _cosine_basis(like: Tensor) -> Tensor:
    """Orthonormal DCT-II of 8 samples as a matrix."""
    at = torch.arange(8, device=like.device, dtype=like.dtype)
    basis = torch.cos(math.pi / 8 * (at + 0.5) * at[:, None]) / 2
    basis[0] /= math.sqrt(2)
    return basis

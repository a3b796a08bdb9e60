# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The network that makes a perturbation field in one pass, and the same with one input."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from monai_miadmark.architectures import PlainConvolution

__all__ = ["LATENT_SIZE", "PerturbationGenerator", "PreviewGenerator", "led_field", "to_mean_one"]

LATENT_SIZE = 32
"""Length of the key-derived latent."""

_SMOOTHED = (0.0, 1.5, 4.0)
"""Standard deviations, in cells, over which what surrogates tell is smoothed; each has a gate of its own."""

_GATES = (0.3, 1.0, 0.0)
"""How far the gates are open before training."""


class _Layers(nn.Module):
    """What both networks are made of; weights of one fit the other."""

    _PATCH = 4
    _PLANES = 3

    def __init__(
        self,
        width: int = 48,
        shallow: int = 4,
        deep: int = 4,
        patterns: int = 0,
        pattern_side: int = 128,
        norm: bool = True,
        strength: float = 1.5,
    ) -> None:
        super().__init__()
        self.strength = strength
        self.multiple = 2 * self._PATCH  # of the instance, because TorchScript sees no constants of a class
        self.unshuffle = nn.PixelUnshuffle(self._PATCH)
        self.enter = PlainConvolution(7 * self._PATCH**2, width, kernel_size=3, conv_only=True)
        self.before = nn.ModuleList(_FilmBlock(width, norm) for _ in range(shallow // 2))
        self.down = PlainConvolution(width, 2 * width, strides=2, kernel_size=3, conv_only=True)
        self.deep = nn.ModuleList(_FilmBlock(2 * width, norm) for _ in range(deep))
        self.up = nn.Sequential(
            PlainConvolution(2 * width, 4 * width, kernel_size=1, conv_only=True), nn.PixelShuffle(2)
        )
        self.after = nn.ModuleList(_FilmBlock(width, norm) for _ in range(shallow - shallow // 2))
        self.leave = PlainConvolution(width, self._PLANES * self._PATCH**2, kernel_size=3, conv_only=True)
        self.shuffle = nn.PixelShuffle(self._PATCH)
        self.smoothed = list(_SMOOTHED)  # a list, which TorchScript takes
        self.gates = PlainConvolution(width, len(_SMOOTHED), kernel_size=3, conv_only=True)
        # Training begins at what surrogates tell, with a little of the network's own.
        nn.init.zeros_(self.gates.conv.weight)
        self.gates.conv.bias = nn.Parameter(torch.tensor(_GATES))
        self.leave.conv.weight.data *= 0.3
        self.patterns = _PatternMixture(patterns, pattern_side, 2 * width, self._PLANES) if patterns else None

    def field(self, images: Tensor, budget: Tensor, latent: Tensor, descent: Tensor | None = None) -> Tensor:
        """See :class:`PerturbationGenerator`."""
        gray = images.shape[1] == 1
        height, width = images.shape[-2:]
        told = torch.zeros_like(budget) if descent is None else to_mean_one(descent)
        seen = told / (1 + told.abs())
        # The budget is brought to about the range of the image: 20/255 is as much as it gets outside a logo.
        x = torch.cat((images * 2 - 1, budget * 12, seen if gray else seen.expand(-1, 3, -1, -1)), 1)
        x = nn.functional.pad(x, (0, -width % self.multiple, 0, -height % self.multiple), mode="replicate")
        x = self._entered(self.unshuffle(x), gray)
        for block in self.before:
            x = block(x, latent)
        y = self.down(x)
        for block in self.deep:
            y = block(y, latent)
        x = x + self.up(y)
        for block in self.after:
            x = block(x, latent)
        field: Tensor = self.shuffle(self._left(x, gray))[..., :height, :width]
        if descent is not None:
            gates = nn.functional.interpolate(self.gates(x), scale_factor=self.multiple / 2)[..., :height, :width]
            for number, sigma in enumerate(self.smoothed):
                field = field + gates[:, number : number + 1] * to_mean_one(_smooth(told, sigma))
        if self.patterns is not None:
            patterns = self.patterns(y.mean((2, 3)), latent, (height, width))
            field = field + (patterns.mean(1, keepdim=True) if gray else patterns)
        return _saturated(field.float(), self.strength)  # half precision would not hold the squares of small values

    def _entered(self, cells: Tensor, gray: bool) -> Tensor:
        """The first convolution. Gray images stand for three equal planes: weights are added instead of planes."""
        conv = self.enter.conv
        weight = conv.weight
        if gray:
            planes = weight.chunk(7, 1)  # three of the image, one of the budget, three of the direction
            image, told = planes[0] + planes[1] + planes[2], planes[4] + planes[5] + planes[6]
            weight = torch.cat((image, planes[3], told), 1)
        return nn.functional.conv2d(cells, weight, conv.bias, padding=1)

    def _left(self, features: Tensor, gray: bool) -> Tensor:
        """The last convolution; gray images get the mean of its planes."""
        weight, bias = self.leave.conv.weight, self.leave.conv.bias
        if gray:
            weight = torch.stack(weight.chunk(3)).mean(0)
            bias = None if bias is None else torch.stack(bias.chunk(3)).mean(0)
        return nn.functional.conv2d(features, weight, bias, padding=1)


class PerturbationGenerator(_Layers):
    """Image, budget and latent to a canonical field.

    All convolutions run at 1/4 and 1/8 of the resolution (space-to-depth first, depth-to-space last), which makes the
    network quick on a CPU and still gives every cell its own value. The latent scales and shifts the features of each
    block (FiLM, arXiv:1709.07871), so that every key gives another field for the same image.

    What misleads a model depends on the image in ways that a small network cannot know. So it may be told the direction
    in which an image misleads a few surrogates (:mod:`monai_miadmark.descent`): one gradient of each, a small part of
    what gradient steps cost. It sees that direction, and weighs it cell by cell into the field, as it is and smoothed
    (smoothed gradients carry over best, TI-FGSM, arXiv:1904.02884): how much of it is worth being seen, and carries
    over to other models, is what it learns.

    To what the convolutions say, learned patterns are added that are the same for all images (universal perturbations,
    arXiv:1610.08401). Latent and image choose the mixture.

    The sum is brought to one root mean square before the tanh. Without that, training drives almost all cells into
    saturation within some dozens of steps, where no gradient brings them back.

    Args:
        width: channels at 1/4 resolution; twice as many at 1/8.
        shallow: residual blocks at 1/4, half before and half after the deep part.
        deep: residual blocks at 1/8.
        patterns: learned universal patterns; 0 for none, because gradients of different images hardly agree.
        pattern_side: their side in cells; they are resized to the image, as networks resize images.
        norm: group normalization in the blocks.
        strength: root mean square before the tanh; 1.5 gives fields of 0.7 of the budget on average.

    Shape:
        - images: ``(B, 1 or 3, h, w)`` in [0, 1]; any size from 1x1 up (padded inside).
        - budget: ``(B, 1, h, w)``, full-level amplitude as a fraction of the window.
        - latent: ``(B, 32)``, standard normal.
        - descent: ``(B, 1 or 3, h, w)``, planes as the images or one for all, of any scale; ``None`` is the same as
          zeros: nobody is asked.
        - output: ``(B, 1 or 3, h, w)`` in [-1, 1], a fraction of the budget, as many planes as the images have. Gray
          images get the mean of three planes.
    """

    def forward(self, images: Tensor, budget: Tensor, latent: Tensor, descent: Tensor | None = None) -> Tensor:
        """Field for images."""
        return self.field(images, budget, latent, descent)


class PreviewGenerator(_Layers):
    """The generator for tools that know networks as image in, prediction out.

    Budget and latent are constants here: one amplitude everywhere, one latent for all, and no surrogate is asked. What
    comes out shows what fields look like; a real mark has a budget that follows the image, a latent that nobody knows,
    and gradients to go by. The weights are those of :class:`PerturbationGenerator`, by the same names. TorchScript
    takes it.

    Args:
        amplitude: of the budget, a fraction of the window.
        seed: of the latent.
        settings: those of :class:`PerturbationGenerator`.

    Shape:
        - images: ``(B, 1 or 3, x, y)`` or ``(B, 1 or 3, x, y, z)`` in [0, 1], as MONAI's readers give them; volumes are
          seen slice by slice along the last axis.
        - output: of the same shape, in [-1, 1].
    """

    def __init__(self, amplitude: float = 12 / 255, seed: int = 0, **settings: Any) -> None:
        super().__init__(**settings)
        self.amplitude = amplitude
        self.latent: Tensor  # TorchScript does not take the annotation in the class
        latent = torch.randn(1, LATENT_SIZE, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("latent", latent, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Fields for images."""
        if images.dim() == 4:
            return self._slice(images)
        return torch.stack([self._slice(images[..., z]) for z in range(images.shape[4])], 4)

    def _slice(self, images: Tensor) -> Tensor:
        """Fields for ``(B, C, x, y)``; the generator was trained on rows and columns."""
        rows = images.transpose(2, 3)
        budget = torch.full_like(rows[:, :1], self.amplitude)
        return self.field(rows, budget, self.latent.expand(rows.shape[0], -1)).transpose(2, 3)


def led_field(told: Tensor, strength: float = 1.5) -> Tensor:
    """The field that a generator begins its training with: what surrogates tell, for the most part smoothed.

    Args:
        told: ``(B, C, h, w)`` of any scale.
        strength: root mean square before the tanh.

    Returns:
        ``(B, C, h, w)`` in [-1, 1].
    """
    told = to_mean_one(told)
    shares = [gate * to_mean_one(_smooth(told, sigma)) for sigma, gate in zip(_SMOOTHED, _GATES, strict=True) if gate]
    return _saturated(torch.stack(shares).sum(0), strength)


def _saturated(field: Tensor, strength: float) -> Tensor:
    """A field of any scale in [-1, 1], as far as its root mean square before the tanh says."""
    size = field.square().mean((1, 2, 3), keepdim=True).add(1e-6).sqrt()
    return torch.tanh(field * (strength / size))


def _smooth(planes: Tensor, sigma: float) -> Tensor:
    """Gaussian mean over the cells around each, over fewer of them at the edges."""
    if sigma == 0:
        return planes
    # On CPUs two products with bands take a fraction of the time of convolutions.
    return _band(planes.shape[2], sigma, planes) @ planes @ _band(planes.shape[3], sigma, planes).mT


def _band(side: int, sigma: float, like: Tensor) -> Tensor:
    """``(side, side)``: row by row the weights of a mean around a cell."""
    at = torch.arange(side, device=like.device, dtype=like.dtype)
    away = (at[:, None] - at).abs() / sigma
    # Beyond four standard deviations nothing: denormal numbers would take many times as long, here and in the product.
    weights = torch.exp(-0.5 * away.clamp_max(4).square()) * (away < 4)
    return weights / weights.sum(1, keepdim=True)


def to_mean_one(direction: Tensor) -> Tensor:
    """A gradient ``(B, C, h, w)`` over its mean absolute value, image by image; zeros stay zeros."""
    return direction / direction.abs().mean((1, 2, 3), keepdim=True).clamp_min(1e-12)


class _PatternMixture(nn.Module):
    """Learned patterns, mixed by the latent and by what the image is like; ``(B, planes, h, w)`` comes out."""

    def __init__(self, count: int, side: int, features: int, planes: int) -> None:
        super().__init__()
        self.patterns = nn.Parameter(0.1 * torch.randn(count, planes, side, side))
        self.choice = nn.Linear(LATENT_SIZE + features, count)
        # The latent speaks loudly from the start: patterns that are always mixed alike would all become the same.
        nn.init.normal_(self.choice.weight[:, :LATENT_SIZE], std=0.5)

    def forward(self, features: Tensor, latent: Tensor, size: tuple[int, int]) -> Tensor:
        shares = self.choice(torch.cat((latent, features), 1)).softmax(1)
        mixed = torch.einsum("bk,kchw->bchw", shares, self.patterns)
        if size == mixed.shape[-2:]:
            return mixed
        return nn.functional.interpolate(mixed, size, mode="bilinear", antialias=max(size) < mixed.shape[-1])


class _FilmBlock(nn.Module):
    """Residual block whose features the latent scales and shifts; ``(B, C, h, w)`` in and out."""

    def __init__(self, channels: int, norm: bool) -> None:
        super().__init__()
        self.first = PlainConvolution(channels, channels, kernel_size=3, conv_only=True)
        self.second = PlainConvolution(channels, channels, kernel_size=3, conv_only=True)
        self.norm = nn.GroupNorm(8, channels) if norm else nn.Identity()
        self.film = nn.Linear(LATENT_SIZE, 2 * channels)

    def forward(self, x: Tensor, latent: Tensor) -> Tensor:
        scale, shift = self.film(latent)[:, :, None, None].chunk(2, 1)
        y = self.norm(self.first(x)) * (1 + scale) + shift
        z: Tensor = x + self.second(nn.functional.gelu(y))
        return z

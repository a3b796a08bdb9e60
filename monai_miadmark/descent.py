# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The direction in which an image misleads surrogates, by one gradient of each."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from monai_miadmark.generator import to_mean_one
from monai_miadmark.surrogates import Surrogate, SurrogateEnsemble, attack_margin, to_square

__all__ = ["descent_direction", "folded", "guides_among"]

_FEW = 2
"""Surrogates that are asked where no names are given."""


def guides_among(ensemble: SurrogateEnsemble, names: Sequence[str] = ()) -> list[Surrogate]:
    """Surrogates of an ensemble that guide a generator: those of these names; the first two where there are none."""
    members = [cast(Surrogate, member) for member in ensemble.members]
    return [member for member in members if member.name in names] or members[:_FEW]


def descent_direction(guides: Sequence[Surrogate], images: Tensor) -> Tensor:
    """Where the margins of what surrogates take images for fall fastest (FGSM, arXiv:1412.6572, without the sign).

    Each surrogate goes by its own opinion of the image, and counts alike whatever the scale of its logits.

    Args:
        guides: the surrogates; none give zeros.
        images: ``(B, 1 or 3, h, w)`` in [0, 1].

    Returns:
        ``(B, C, h, w)`` as the images, of mean absolute value 1 for a single surrogate, at the size that the guides
        see; larger images get it enlarged. No gradients lead through it.
    """
    with torch.inference_mode(False), torch.enable_grad():
        size = max((guide.input_size for guide in guides), default=0)
        # At the size that the guides see: on larger images the way there and back would take as long as they do.
        large = 0 < size < min(images.shape[2:])
        seen = (to_square(images, size) if large else images).detach().clone().requires_grad_()
        total = torch.zeros_like(seen)
        for guide in guides:
            logits = guide(seen)
            (gradient,) = torch.autograd.grad(attack_margin(logits, F.softmax(logits.detach(), 1)).sum(), seen)
            total = total - to_mean_one(gradient)
        total = total.detach()
        return F.interpolate(total, images.shape[2:], mode="bilinear") if large else total


@torch.inference_mode(False)  # weights that were made in that mode could not take part in gradients
@torch.no_grad()
def folded(surrogate: Surrogate) -> Surrogate:
    """A frozen copy whose batch normalizations are part of the convolutions before them: the same in less time.

    Which convolution a normalization follows is seen by passing an image through.
    """
    quick = copy.deepcopy(surrogate).eval().requires_grad_(False)
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def leave(layer: nn.Module, _: object, output: Tensor) -> None:
        made[id(output)] = cast(nn.Conv2d, layer), output  # kept, or another tensor might get its id

    def enter(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if found := made.get(id(inputs[0])):
            pairs.append((found[0], cast(nn.BatchNorm2d, layer)))

    hooks = [m.register_forward_hook(leave) for m in quick.modules() if isinstance(m, nn.Conv2d)]
    hooks += [m.register_forward_pre_hook(enter) for m in quick.modules() if isinstance(m, nn.BatchNorm2d)]
    device = next((p.device for p in quick.parameters()), None)
    side, seed = quick.input_size, torch.Generator().manual_seed(0)
    image = torch.rand((1, 3, side, side), generator=seed).to(device)
    expected = quick(image)
    for hook in hooks:
        hook.remove()
    names = {layer: name for name, layer in quick.named_modules()}
    for conv, norm in pairs:
        fused = fuse_conv_bn_eval(conv, norm)
        conv.weight, conv.bias = fused.weight, fused.bias
        quick.set_submodule(names[norm], nn.Identity())
    quick.requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    # A layer that is used twice, or skipped around, would show.
    return quick if torch.allclose(quick(image), expected, rtol=1e-3, atol=1e-3) else surrogate

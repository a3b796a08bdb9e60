# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The direction in which an image misleads surrogates, by one gradient of each, asked once an image."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from monai_miadmark.generator import to_mean_one
from monai_miadmark.stacks import as_tensor, beside_each_other
from monai_miadmark.surrogates import Surrogate, SurrogateEnsemble, attack_margin, to_square

__all__ = ["Guides", "descent_direction", "enlarged", "folded", "guides_among"]


def guides_among(ensemble: SurrogateEnsemble, names: Sequence[str] = ()) -> list[Surrogate]:
    """Surrogates of an ensemble that guide a generator: those of these names, else a robust one, else the first."""
    everyone = [cast(Surrogate, member) for member in (*ensemble.robust, *ensemble.members)]
    return [member for member in everyone if member.name in names] or everyone[:1]


class Guides:
    """A few surrogates that are asked quickly, and once an image.

    The gradient that tells what is salient in an image tells as well where the image misleads: what was found for the
    last images is kept for the next one who asks about the same.

    Args:
        surrogates: at least one; they are copied, in a quicker form, when they are first asked.
        device: where they run.
    """

    def __init__(self, surrogates: Sequence[Surrogate], device: torch.device | str = "cpu") -> None:
        if not surrogates:
            raise ValueError("somebody has to be asked")
        self.surrogates, self.device = tuple(surrogates), torch.device(device)
        self._last: tuple[bytes, NDArray[np.float32]] | None = None

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({[surrogate.name for surrogate in self.surrogates]}, device={str(self.device)!r})"
        )

    def __getstate__(self) -> dict[str, object]:
        """All but what was found for the last images: it does not travel to other processes."""
        return {**self.__dict__, "_last": None}

    @cached_property
    def quick(self) -> list[Surrogate]:
        """The surrogates, :func:`folded`."""
        return [folded(surrogate).to(self.device) for surrogate in self.surrogates]

    def directions(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """:func:`descent_direction` of images, not enlarged.

        Args:
            images: ``(N, C, h, w)`` float32 in [0, 1].

        Returns:
            ``(N, 1 or 3, s, s)``, or of the size of images that are smaller than what the surrogates see.
        """
        key = hashlib.sha256(repr(images.shape).encode() + np.ascontiguousarray(images).tobytes()).digest()
        last = self._last
        if last is not None and last[0] == key:
            return last[1]
        quick = self.quick

        def of_part(part: slice) -> NDArray[np.float32]:
            x = as_tensor(images[part], self.device)
            x = x if x.shape[1] in (1, 3) else x.mean(1, True)
            return np.asarray(_descent_as_seen(quick, x).cpu().numpy(), np.float32)

        found = np.concatenate(list(beside_each_other(of_part, len(images), self.device)))
        self._last = key, found
        return found


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
    return enlarged(_descent_as_seen(guides, images), images)


def enlarged(direction: Tensor, images: Tensor) -> Tensor:
    """A direction at the size of images ``(B, C, h, w)``."""
    if direction.shape[2:] == images.shape[2:]:
        return direction
    return F.interpolate(direction, images.shape[2:], mode="bilinear")


def _descent_as_seen(guides: Sequence[Surrogate], images: Tensor) -> Tensor:
    """See :func:`descent_direction`."""
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
        return total.detach()


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

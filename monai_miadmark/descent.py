# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The direction in which an image misleads surrogates, by one gradient of each."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from monai_miadmark.generator import led_field, to_mean_one
from monai_miadmark.numerics import loading, own_numerics
from monai_miadmark.stacks import as_tensor, beside_each_other, one_or_three
from monai_miadmark.surrogates import Surrogate, SurrogateEnsemble, attack_margin, to_square

__all__ = ["Guides", "descent_direction", "enlarged", "folded", "guides_among"]

_AHEAD = 0.6
"""How far ahead further guides look, as a share of the budget: a mark is fitted to the likeness only later."""


def guides_among(ensemble: SurrogateEnsemble, names: Sequence[str] = ()) -> list[Surrogate]:
    """Surrogates of an ensemble that guide a generator: those of these names in this order, else a robust one, else
    the first."""
    everyone = [cast(Surrogate, member) for member in (*ensemble.robust, *ensemble.members, *ensemble.aside)]
    named = {member.name: member for member in everyone}
    return [named[name] for name in names if name in named] or everyone[:1]


class Guides:
    """A few surrogates that are asked quickly, and each once about an image.

    The gradient that tells what is salient in an image tells as well where the image misleads: what the first of them
    said about the last images is kept for the next one who asks about the same.

    Args:
        surrogates: at least one; they are copied, in a quicker form, when they are first asked.
        device: where they run.
    """

    def __init__(self, surrogates: Sequence[Surrogate], device: torch.device | str = "cpu") -> None:
        if not surrogates:
            raise ValueError("somebody has to be asked")
        self.surrogates, self.device = tuple(surrogates), torch.device(device)
        self._quick: list[Surrogate] | None = None
        self._last: tuple[bytes, NDArray[np.float32], NDArray[np.float32]] | None = None

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({[surrogate.name for surrogate in self.surrogates]}, device={str(self.device)!r})"
        )

    def __getstate__(self) -> dict[str, object]:
        """All but what was found for the last images: it does not travel to other processes."""
        return {**self.__dict__, "_last": None}

    @property
    def quick(self) -> list[Surrogate]:
        """The surrogates, :func:`folded`."""
        with loading:
            if self._quick is None:
                self._quick = [folded(surrogate).to(self.device) for surrogate in self.surrogates]
            return self._quick

    @own_numerics()
    def directions(self, clean: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the first surrogate says about images, see :func:`descent_direction`; not enlarged.

        Args:
            clean: ``(N, C, h, w)`` float32 in [0, 1].

        Returns:
            ``(N, 1 or 3, s, s)``, or of the size of images that are smaller than what the surrogates see.
        """
        return self._first(clean)[0]

    @own_numerics()
    def led(
        self, clean: NDArray[np.float32], images: NDArray[np.float32], budget: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """What all of them say together: :func:`descent_direction`, not enlarged.

        Args:
            clean: ``(N, C, h, w)`` float32 in [0, 1].
            images: the same with their logos.
            budget: ``(N, 1, h, w)``, amplitude, fraction of the window.

        Returns:
            ``(N, 1 or 3, s, s)`` as :meth:`directions`.
        """
        told, posteriors = self._first(clean)
        if len(self.surrogates) == 1:
            return told
        further = self.quick[1:]

        def of_part(part: slice) -> NDArray[np.float32]:
            x, amplitude = one_or_three(as_tensor(images[part], self.device)), as_tensor(budget[part], self.device)
            said, posterior = (as_tensor(a[part], self.device) for a in (told, posteriors))
            return np.asarray(_followed(further, said, posterior, x, amplitude).cpu().numpy(), np.float32)

        return np.concatenate(list(beside_each_other(of_part, len(images), self.device)))

    def _first(self, clean: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Directions of the first surrogate, and its posteriors ``(N, classes)``."""
        key = hashlib.sha256(repr(clean.shape).encode() + np.ascontiguousarray(clean).tobytes()).digest()
        last = self._last
        if last is None or last[0] != key:
            first = self.quick[0]

            def of_part(part: slice) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
                said = _descent_as_seen(first, _seen(self.quick, one_or_three(as_tensor(clean[part], self.device))))
                return tuple(np.asarray(t.cpu().numpy(), np.float32) for t in said)  # type: ignore[return-value]

            parts = list(beside_each_other(of_part, len(clean), self.device))
            told, posteriors = (np.concatenate([part[i] for part in parts]) for i in range(2))
            self._last = last = key, told, posteriors
        return last[1:]


def descent_direction(guides: Sequence[Surrogate], clean: Tensor, images: Tensor, budget: Tensor) -> Tensor:
    """Where the margins of surrogates fall fastest (FGSM, arXiv:1412.6572, without the sign), one after the other.

    The first is asked about the clean image, each further one about the image as it would look if it were marked by
    what was said before: a gradient holds only near where it was taken. All go by the classes that the first one takes
    the clean image for, and each counts alike whatever the scale of its logits.

    Args:
        guides: the surrogates, of the same classes; none give zeros.
        clean: ``(B, 1 or 3, h, w)`` in [0, 1].
        images: the same with their logos.
        budget: ``(B, 1, h, w)``, amplitude, fraction of the window.

    Returns:
        ``(B, C, h, w)`` as the images, of mean absolute value 1 for a single surrogate, at the size that the guides
        see; larger images get it enlarged. No gradients lead through it.
    """
    if not guides:
        return torch.zeros_like(clean)
    told, posterior = _descent_as_seen(guides[0], _seen(guides, clean))
    return enlarged(_followed(guides[1:], told, posterior, images, budget), images)


def enlarged(direction: Tensor, images: Tensor) -> Tensor:
    """A direction at the size of images ``(B, C, h, w)``."""
    if direction.shape[2:] == images.shape[2:]:
        return direction
    return F.interpolate(direction, images.shape[2:], mode="bilinear")


def _seen(guides: Sequence[Surrogate], maps: Tensor) -> Tensor:
    """Maps ``(B, C, h, w)`` at the size that guides see, if that is smaller.

    On larger images the way there and back would take as long as the guides do.
    """
    size = max(guide.input_size for guide in guides)
    return to_square(maps, size) if size < min(maps.shape[2:]) else maps


def _followed(guides: Sequence[Surrogate], told: Tensor, posterior: Tensor, images: Tensor, budget: Tensor) -> Tensor:
    """What was told about images, and what further surrogates say where it leads; of the size of what was told."""
    if guides:
        size = told.shape[2:]
        images, budget = (m if m.shape[2:] == size else to_square(m, size[0]) for m in (images, budget))
    for guide in guides:
        with torch.no_grad():
            there = (images + _AHEAD * budget * led_field(told)).clamp(0, 1)
        told = told + _descent_as_seen(guide, there, posterior)[0]
    return told


def _descent_as_seen(guide: Surrogate, images: Tensor, posterior: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Direction and posterior of one surrogate; with a posterior, the direction away from that one's classes."""
    with torch.inference_mode(False), torch.enable_grad():
        x = images.detach().clone().requires_grad_()
        logits = guide(x)
        classes = F.softmax(logits.detach(), 1) if posterior is None else posterior.detach().clone()
        (gradient,) = torch.autograd.grad(attack_margin(logits, classes).sum(), x)
        return -to_mean_one(gradient), classes


@own_numerics()
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
    image = torch.rand((1, 3, side, side), generator=seed, dtype=torch.float32).to(device)
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

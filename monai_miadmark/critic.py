# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The surrogate ensemble as a judge: what is salient in an image, and how far a marked one misleads."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from monai_miadmark.descent import Guides, guides_among
from monai_miadmark.diversity import gaussian_blur
from monai_miadmark.locator import LesionLocator
from monai_miadmark.numerics import own_numerics
from monai_miadmark.stacks import as_tensor, batches, beside_each_other, three_channels
from monai_miadmark.surrogates import SurrogateEnsemble, attack_margin, to_square

__all__ = ["EnsembleCritic"]


class EnsembleCritic:
    """What the ensemble looks at, and how well a marked image misleads it.

    Args:
        ensemble: the surrogates.
        device: where it runs.
        guides: who is asked in a hurry; default: see :func:`monai_miadmark.descent.guides_among`.
        modality: what the ensemble was trained on, which says where to look for a lesion.
        locator: a network that says where the lesion lies, for modalities that have one.
    """

    def __init__(
        self,
        ensemble: SurrogateEnsemble,
        device: torch.device | str = "cpu",
        guides: Guides | None = None,
        modality: str | None = None,
        locator: LesionLocator | None = None,
    ) -> None:
        self.modality = modality
        self.locator = None if locator is None else locator.to(device).eval().requires_grad_(False)
        self.device = torch.device(device)
        self.ensemble = ensemble.to(self.device)
        self.guides = guides or Guides(guides_among(self.ensemble), self.device)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(members={len(self.ensemble.members)}, device={str(self.device)!r})"

    @own_numerics()
    def lesion(self, images: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """How probably the lesion covers each cell, ``(N, h, w)``, summing to 1 on each slice; ``None`` where there is
        no network for it.

        Args:
            images: ``(N, C, h, w)`` in [0, 1].
        """
        locator = self.locator
        if locator is None:
            return None

        def map_of(part: slice) -> NDArray[np.float32]:
            found = locator.places(as_tensor(images[part], self.device))
            return np.asarray(found.squeeze(1).cpu().numpy(), np.float32)

        return np.concatenate(list(beside_each_other(map_of, len(images), self.device)))

    @own_numerics()
    def saliency(self, images: NDArray[np.float32], quick: bool = False) -> NDArray[np.float32]:
        """Smoothed gradient-times-image of the consensus class, ``(N, h, w)``, summing to 1 on each slice.

        Args:
            images: ``(N, C, h, w)`` in [0, 1].
            quick: ask the guides only, for the gradient that a generator hears, and about larger images at the size
                that they see.
        """
        if quick:
            return self._guides_saliency(images)

        @torch.inference_mode(False)
        @torch.enable_grad()
        def map_of(part: slice) -> NDArray[np.float32]:
            x = three_channels(as_tensor(images[part], self.device)).clone().requires_grad_()
            told = self.ensemble(x)
            labels = torch.stack([F.softmax(logits.detach(), 1) for logits in told]).mean(0).argmax(1)
            total = x.new_zeros(x.shape[0], 1, *x.shape[2:])
            for logits in told:
                score = F.log_softmax(logits, 1).gather(1, labels[:, None]).sum()
                (gradient,) = torch.autograd.grad(score, x)
                total += _heat(gradient, x.detach())
            return np.asarray((total / len(told)).squeeze(1).cpu().numpy(), np.float32)

        return np.concatenate(list(beside_each_other(map_of, len(images), self.device)))

    def _guides_saliency(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """:meth:`saliency` in a hurry."""
        told = self.guides.directions(images)

        @torch.inference_mode()
        def map_of(part: slice) -> NDArray[np.float32]:
            x, direction = as_tensor(images[part], self.device), as_tensor(told[part], self.device)
            size, seen = x.shape[2:], direction.shape[2:]
            # Smoothing takes a third of the time at the full size.
            x = x if size == seen else to_square(x, seen[0])
            heat = _heat(direction, x)
            if size != seen:
                heat = _share(F.interpolate(heat, size, mode="bilinear"))
            return np.asarray(heat.squeeze(1).cpu().numpy(), np.float32)

        return np.concatenate(list(beside_each_other(map_of, len(images), self.device)))

    @own_numerics()
    def effect(self, images: NDArray[np.float32], clean: NDArray[np.float32]) -> NDArray[np.float32]:
        """Mean negative margin of the clean image's classes, ``(N,)``: higher where the marked image misleads more.

        Args:
            images: ``(N * K, C, h, w)`` candidates in [0, 1], K in a row for each clean image.
            clean: ``(N, C, h, w)`` in [0, 1].
        """
        scores = []
        each = len(images) // len(clean)
        with torch.inference_mode():
            posterior = self.ensemble.posterior(three_channels(as_tensor(clean, self.device)))
            posterior = posterior.repeat_interleave(each, 0)
            for part in batches(len(images), self.device):
                logits = self.ensemble(three_channels(as_tensor(images[part], self.device)))
                margins = torch.stack([attack_margin(z, posterior[part]) for z in logits]).mean(0)
                scores.append(-margins.cpu().numpy())
        return np.concatenate(scores).astype(np.float32)


def _heat(gradient: Tensor, images: Tensor) -> Tensor:
    """Gradient times image ``(B, C, h, w)``, smoothed: ``(B, 1, h, w)``, summing to 1."""
    return _share(gaussian_blur((gradient * images).abs().sum(1, True), max(images.shape[2:]) / 32))


def _share(heat: Tensor) -> Tensor:
    """``(B, 1, h, w)`` over its sum."""
    return heat / heat.sum((1, 2, 3), keepdim=True).clamp_min(1e-12)

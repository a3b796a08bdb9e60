# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""A small network that says where on an image the lesion lies."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_miadmark.architectures import PlainUNet
from monai_miadmark.surrogates import to_square

__all__ = ["LesionLocator", "location_loss"]


class LesionLocator(nn.Module):
    """A U-Net on thumbnails whose output is a distribution over places, not a mask: there is always one answer.

    Args:
        side: of the thumbnails, in pixels.

    Shape:
        - input: ``(B, 1 or 3, H, W)`` in [0, 1]; colors are averaged.
        - output: ``(B, 1, side, side)`` logits of places, to be normalized over all of them (:meth:`places`).
    """

    def __init__(self, side: int = 64) -> None:
        super().__init__()
        self.side = side
        self.network = PlainUNet(1, 1, (16, 32, 64, 96))

    def forward(self, images: Tensor) -> Tensor:
        """Logits of places."""
        logits: Tensor = self.network(to_square(images.mean(1, keepdim=True), self.side))
        return logits

    @torch.inference_mode()
    def places(self, images: Tensor) -> Tensor:
        """How probably the lesion covers each cell, ``(B, 1, H, W)``, summing to 1; left and right count alike."""
        logits = (self(images) + self(images.flip(3)).flip(3)) / 2
        spread = F.interpolate(logits.flatten(1).softmax(1).view_as(logits), images.shape[2:], mode="bilinear")
        return spread / spread.sum((1, 2, 3), keepdim=True).clamp_min(1e-12)


def location_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of distributions over places.

    Args:
        logits: ``(B, 1, h, w)``.
        target: ``(B, 1, h, w)``, not negative; normalized here. Images without a target do not count.

    Returns:
        Mean over images.
    """
    total = target.sum((1, 2, 3), keepdim=True)
    share = (target / total.clamp_min(1e-12)).flatten(1)
    losses = -(share * logits.flatten(1).log_softmax(1)).sum(1)
    return losses.sum() / (total > 0).sum().clamp_min(1)

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Tells what modality an image is of, so that the right ensemble is attacked without anybody saying so."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from monai_miadmark.architectures import PlainClassifier
from monai_miadmark.surrogates import to_square

__all__ = ["ModalityRouter"]


class ModalityRouter(nn.Module):
    """A small classifier of thumbnails.

    Args:
        names: modalities in the order of the logits.
        side: of the thumbnails, in pixels.

    Shape:
        - input: ``(B, 1 or 3, H, W)`` in [0, 1].
        - output: ``(B, len(names))`` logits.
    """

    def __init__(self, names: Sequence[str], side: int = 32) -> None:
        super().__init__()
        self.names, self.side = tuple(names), side
        self.network = PlainClassifier((3, side, side), len(self.names), channels=(8, 16, 16), strides=(2, 2, 2))

    def forward(self, images: Tensor) -> Tensor:
        """Logits of display images."""
        images = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
        logits: Tensor = self.network(to_square(images, self.side) * 2 - 1)
        return logits

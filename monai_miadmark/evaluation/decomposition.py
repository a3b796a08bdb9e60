# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""A removal network that takes an image apart: where the logo is, what it looks like, and what is beneath."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from monai.losses.dice import DiceCELoss
from torch import Tensor, nn
from torch.nn import functional as F

from monai_miadmark.evaluation.removal_networks import FEATURES, PatchUNet
from monai_miadmark.evaluation.removal_training import (
    DiagnosticLoss,
    ImagePairs,
    PairBatch,
    RestorationLoss,
    optimize,
    seeded,
)
from monai_miadmark.logo import MAX_OPACITY

__all__ = ["REFINEMENT_FEATURES", "Decomposition", "DecompositionNetwork", "train_decomposition"]

REFINEMENT_FEATURES = (32, 32, 48, 64, 64, 32)
"""As :data:`~monai_miadmark.evaluation.removal_networks.FEATURES`, of the second stage."""

_CONTEXT = 8
"""Channels that the first stage hands to the second beside its results."""

_MASK_WEIGHT, _BLEND_WEIGHT, _INSIDE_WEIGHT, _COARSE_SHARE = 1.0, 10.0, 10.0, 0.3
"""Weights beside :class:`RestorationLoss`. As in the paper's code the mask counts as much as the image beneath it, and
the coarse image 3 parts of 10."""


class Decomposition(NamedTuple):
    """What a marked image ``y`` is made of: ``y = alpha * watermark + (1 - alpha) * coarse``."""

    restored: Tensor
    """``(B, C, h, w)``: the coarse image, refined."""
    coarse: Tensor
    """``(B, C, h, w)`` in [0, 1]: the blending undone."""
    mask_logits: Tensor
    """``(B, 1, h, w)``: positive where the logo is."""
    alpha: Tensor
    """``(B, 1, h, w)``, share of ink; the attacker knows from the code that it never exceeds 191/256."""
    watermark: Tensor
    """``(B, C, h, w)`` in [0, 1]: what the ink looks like."""


class DecompositionNetwork(nn.Module):
    """Two stages in the manner of WDNet (Liu et al., "WDNet: Watermark-Decomposition Network for Visible Watermark
    Removal", WACV 2021, section 3, arXiv:2012.07616).

    Different from the paper, the second stage corrects the whole image and not just what is under the mask, since this
    mark has an invisible part everywhere; and both stages are small U-Nets of MONAI on patches of 2 x 2 pixels.

    Args:
        channels: of the images, 1 or 3.
        features: of the first stage's :class:`PatchUNet`.
        refinement_features: of the second stage's.

    Shape:
        - input: ``(B, channels, h, w)`` in [0, 1].
        - output: the same; in training mode it may leave [0, 1].
    """

    def __init__(
        self,
        channels: int,
        features: Sequence[int] = FEATURES,
        refinement_features: Sequence[int] = REFINEMENT_FEATURES,
    ) -> None:
        super().__init__()
        self.parts = (1, 1, channels, _CONTEXT)
        self.first = PatchUNet(channels, sum(self.parts), features)
        self.second = PatchUNet(2 * channels + 1 + _CONTEXT, channels, refinement_features, zero_start=True)

    def decompose(self, images: Tensor) -> Decomposition:
        """Take images ``(B, C, h, w)`` in [0, 1] apart."""
        mask_logits, ink, color, context = self.first(images).split(self.parts, 1)
        # Away from 1 by what the code promises: the division below stays harmless.
        alpha = torch.sigmoid(mask_logits) * torch.sigmoid(ink) * (MAX_OPACITY / 256)
        watermark = torch.sigmoid(color)
        coarse = ((images - alpha * watermark) / (1 - alpha)).clamp(0, 1)
        mask = torch.sigmoid(mask_logits)
        restored = coarse - self.second(torch.cat((coarse, images, mask, torch.relu(context)), 1))
        restored = restored if self.training else restored.clamp(0, 1)
        return Decomposition(restored, coarse, mask_logits, alpha, watermark)

    def forward(self, images: Tensor) -> Tensor:
        """Images without logo and perturbation."""
        return self.decompose(images).restored


class _DecompositionLoss(nn.Module):
    """What the parts of a decomposition should be, as far as pairs and masks tell."""

    def __init__(self) -> None:
        super().__init__()
        self.restoration = RestorationLoss()
        self.mask = DiceCELoss(sigmoid=True, batch=True)

    def forward(self, found: Decomposition, batch: PairBatch) -> Tensor:
        """Scalar loss of a batch."""
        # No pair says what alpha and ink are, but blended over the clean image they must give the marked one.
        blend = found.alpha * found.watermark + (1 - found.alpha) * batch.clean
        inside = _INSIDE_WEIGHT * (
            (1 - _COARSE_SHARE) * _masked_error(found.restored, batch.clean, batch.masks)
            + _COARSE_SHARE * _masked_error(found.coarse, batch.clean, batch.masks)
        )
        loss: Tensor = self.restoration(found.restored, batch.clean) + inside
        loss = loss + _BLEND_WEIGHT * _masked_error(blend, batch.protected, batch.masks)
        return loss + _MASK_WEIGHT * self.mask(found.mask_logits, batch.masks)


def train_decomposition(
    protected: Tensor,
    clean: Tensor,
    logo_masks: Tensor,
    steps: int,
    seed: int,
    classifier: nn.Module | Sequence[nn.Module] | None = None,
    labels: Tensor | None = None,
    *,
    batch_size: int = 8,
    learning_rate: float = 2e-3,
    diagnostic_weight: float = 0.2,
    diagnostic_every: int = 2,
    features: Sequence[int] = FEATURES,
    refinement_features: Sequence[int] = REFINEMENT_FEATURES,
    device: torch.device | str = "cpu",
) -> DecompositionNetwork:
    """Train a :class:`DecompositionNetwork` on pairs, both stages together.

    Args:
        protected: ``(N, C, h, w)``, C 1 or 3, uint8 or floating point in [0, 1]; at least 7 pixels a side.
        clean: the same images without marks.
        logo_masks: ``(N, 1, h, w)`` bool, where the logos stand; the attacker knows it of marks of his own.
        steps: of the optimizer.
        seed: of weights, order and changes. On one thread the same seed gives the same network.
        classifier: a diagnostic model of the attacker, or several, whose opinion of the clean image is to come back.
        labels: ``(N,)`` classes that the classifier is to find.
        batch_size: pairs a step; at least 2 if images are 32 pixels or smaller, for batch norm.
        learning_rate: the largest.
        diagnostic_weight: of the classifier's part of the loss.
        diagnostic_every: steps from one use of a classifier to the next.
        features: of the first stage.
        refinement_features: of the second.
        device: where to train.

    Returns:
        The network in evaluation mode, on ``device``.

    Raises:
        ValueError: shapes or types that do not fit, or no steps.
    """
    pairs = ImagePairs(protected, clean, labels, logo_masks)
    batches = pairs.batches(batch_size, torch.Generator().manual_seed(seed), device)
    decomposition = _DecompositionLoss().to(device)
    diagnostic = DiagnosticLoss(() if classifier is None else classifier, diagnostic_weight, diagnostic_every, device)
    with seeded(seed, device):
        network = DecompositionNetwork(clean.shape[1], features, refinement_features)
        network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

        def loss_at(step: int) -> Tensor:
            batch = next(batches)
            found = network.decompose(batch.protected)
            return decomposition(found, batch) + diagnostic(step, found.restored, batch)

        optimize(network.train(), loss_at, steps, learning_rate, "decomposition")
    return network.eval()


def _masked_error(found: Tensor, wanted: Tensor, masks: Tensor) -> Tensor:
    """Mean absolute error of ``(B, C, h, w)`` where ``masks`` ``(B, 1, h, w)`` is 1; zero if it is nowhere."""
    error = F.l1_loss(found, wanted, reduction="none").mean(1, keepdim=True)
    return (error * masks).sum() / masks.sum().clamp_min(1)

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Diagnostic models that were trained further on protected images: an attack that leaves the mark where it is."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_miadmark.evaluation.removal_training import ImagePairs, optimize, seeded

__all__ = ["fine_tune"]

_Victim = TypeVar("_Victim", bound=nn.Module)


def fine_tune(
    network: _Victim,
    images: Tensor,
    labels: Tensor,
    steps: int,
    seed: int,
    clean: Tensor | None = None,
    *,
    clean_share: float = 0.5,
    batch_size: int = 16,
    learning_rate: float = 5e-4,
    device: torch.device | str = "cpu",
) -> _Victim:
    """Train a copy of a diagnostic model on protected images whose classes the attacker knows.

    Args:
        network: display images ``(B, C, h, w)`` in [0, 1] to logits, for example a
            :class:`~monai_miadmark.surrogates.Surrogate`. Stays as it is.
        images: protected ones, ``(N, C, h, w)``, C 1 or 3, uint8 or floating point in [0, 1].
        labels: ``(N,)`` class indices.
        steps: of the optimizer.
        seed: of order, changes, mixture and dropout. On one thread the same seed gives the same model.
        clean: the same images without marks, ``(N, C, h, w)``, so that the model does not forget them.
        clean_share: share of each batch that is clean, if there are clean ones.
        batch_size: images a step.
        learning_rate: the largest. All weights are trained.
        device: where to train.

    Returns:
        The new model in evaluation mode, on ``device``.

    Raises:
        ValueError: shapes, types, labels or shares that do not fit, or no steps.
    """
    if not 0 <= clean_share <= 1:
        raise ValueError(f"clean_share must be in 0..1, not {clean_share}")
    if bool((labels < 0).any()):
        raise ValueError("labels must not be negative")
    pairs = ImagePairs(images, images if clean is None else clean, labels)
    generator = torch.Generator().manual_seed(seed)
    batches = pairs.batches(batch_size, generator, device)
    adapted = copy.deepcopy(network).to(device).requires_grad_(True)

    def loss_at(_: int) -> Tensor:
        batch = next(batches)
        unmarked = torch.rand(len(batch.labels), generator=generator) < clean_share
        shown = torch.where(unmarked.to(batch.clean.device)[:, None, None, None], batch.clean, batch.protected)
        return F.cross_entropy(adapted(shown), batch.labels)

    with seeded(seed, device):
        optimize(adapted.train(), loss_at, steps, learning_rate, "fine-tune")
    return adapted.eval()

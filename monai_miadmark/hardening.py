# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Slightly robust surrogates: networks trained on images that a small attack has just changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.engines.utils import default_prepare_batch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["AdversarialBatch"]


class AdversarialBatch:
    """``prepare_batch`` of a MONAI trainer that attacks part of each batch with the network being trained.

    One signed gradient step from a random start (fast adversarial training, arXiv:2001.03994). With a small ``epsilon``
    accuracy hardly suffers, and perturbations made against such a network transfer far better to networks that nobody
    trained so: its gradients follow features that all of them use (arXiv:2106.02105).

    Args:
        network: takes ``(B, C, h, w)`` in [0, 1].
        epsilon: half width of the box that the attacked images stay in, fraction of the window.
        share: part of each batch that is attacked, the first images of it.
    """

    def __init__(self, network: nn.Module, epsilon: float = 2 / 255, share: float = 1.0) -> None:
        if not 0 < share <= 1 or epsilon <= 0:
            raise ValueError(f"need epsilon > 0 and 0 < share <= 1, not {epsilon} and {share}")
        self.network, self.epsilon, self.share = network, epsilon, share

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """``(images, labels)`` on the device, the first images attacked."""
        images, labels = default_prepare_batch(batchdata, device, non_blocking, **kwargs)  # type: ignore[misc, arg-type]
        count = max(1, round(self.share * len(images)))
        attacked = self._attack(images[:count], labels[:count])
        return torch.cat((attacked, images[count:])), labels

    def _attack(self, images: Tensor, labels: Tensor) -> Tensor:
        """One step of 1.25 epsilon from a random point of the box, back into box and window."""
        start = images + (torch.rand_like(images) * 2 - 1) * self.epsilon
        start = start.clamp(0, 1).requires_grad_()
        training = self.network.training
        # Batch statistics of half-made images must not enter the running ones.
        self.network.eval()
        loss = F.cross_entropy(self.network(start), labels.long())
        (gradient,) = torch.autograd.grad(loss, start)
        self.network.train(training)
        moved = start.detach() + 1.25 * self.epsilon * gradient.sign()
        return torch.clamp(images + (moved - images).clamp(-self.epsilon, self.epsilon), 0, 1)

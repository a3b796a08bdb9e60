# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Adversarial training of classifiers, as a MONAI engine that bundle configurations assemble."""

from __future__ import annotations

from typing import Any

import torch
from monai.engines import SupervisedTrainer
from monai.utils import CommonKeys
from torch import Tensor, nn

__all__ = ["RobustTrainer"]


class RobustTrainer(SupervisedTrainer):
    """Trains on images that one signed gradient step has made harder, from a random start (arXiv:2001.03994).

    A network that withstands small perturbations goes by features that other networks go by too: its gradients carry
    over to them. Steps are computed in bfloat16 where ``bfloat16`` says so, on CPUs as well.

    Args:
        epsilon: largest perturbation of a sample, in units of the display window (images are in [0, 1]).
        reach: length of the step, as a multiple of ``epsilon``; what goes beyond it is clipped.
        max_norm: to which gradients of the weights are clipped.
        bfloat16: compute in bfloat16.
        settings: those of :class:`monai.engines.SupervisedTrainer`; batches have ``image`` ``(B, C, H, W)`` in [0, 1]
            and ``label`` ``(B,)``.

    Raises:
        ValueError: no perturbation, or one of more than the window.
    """

    def __init__(
        self, *, epsilon: float, reach: float = 1.25, max_norm: float = 5.0, bfloat16: bool = True, **settings: Any
    ) -> None:
        if not 0 < epsilon <= 1:
            raise ValueError(f"epsilon must be a fraction of the window in (0, 1], not {epsilon}")
        super().__init__(**settings)
        self.epsilon, self.reach, self.max_norm, self.bfloat16 = epsilon, reach, max_norm, bfloat16

    def _iteration(self, engine: Any, batchdata: dict[str, Any]) -> dict[str, Any]:
        """One step; MONAI calls it."""
        images, labels = self.prepare_batch(batchdata, self.state.device, self.non_blocking, **self.to_kwargs)
        self.network.train()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bfloat16):
            perturbed = self.perturbed(images, labels)
            loss = self._loss(perturbed, labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), self.max_norm)
        self.optimizer.step()
        return {CommonKeys.IMAGE: perturbed, CommonKeys.LABEL: labels, CommonKeys.LOSS: loss.item()}

    def perturbed(self, images: Tensor, labels: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` moved by at most ``epsilon`` to where the loss for ``labels`` is higher."""
        start = (torch.rand_like(images) * 2 - 1) * self.epsilon
        start.requires_grad_()
        (gradient,) = torch.autograd.grad(self._loss((images + start).clamp(0, 1), labels), start)
        moved = start.detach() + self.reach * self.epsilon * gradient.sign()
        return (images + moved.clamp(-self.epsilon, self.epsilon)).clamp(0, 1)

    def _loss(self, images: Tensor, labels: Tensor) -> Tensor:
        loss: Tensor = self.loss_function(self.inferer(images, self.network).float(), labels)
        return loss

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""A removal network that learns against the generator while the generator learns against it."""

from __future__ import annotations

from typing import Any

import torch
from monai.networks.nets import BasicUNet
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["RemovalLoop", "ResidualRemover"]


class ResidualRemover(nn.Module):
    """A small U-Net that predicts what was added to an image; the kind of network that an attacker trains on pairs.

    Args:
        features: channels of MONAI's :class:`BasicUNet`, from the finest level on; the last for its output.

    Shape:
        - input: ``(B, 1 or 3, h, w)`` in [0, 1], sides of at least 16.
        - output: the same shape, the mark taken away as far as the network can; not clipped.
    """

    def __init__(self, features: tuple[int, int, int, int, int, int] = (16, 16, 32, 32, 32, 16)) -> None:
        super().__init__()
        # Instance normalization, MONAI's default here, keeps no statistics: it does the same in training and use.
        self.network = BasicUNet(
            spatial_dims=2, in_channels=3, out_channels=3, features=features, upsample="nontrainable"
        )

    def forward(self, images: Tensor) -> Tensor:
        """Cleaned images."""
        added: Tensor = self.network(images.expand(-1, 3, -1, -1) * 2 - 1)
        # Differences are a few hundredths: the scale lets the last layer start there.
        added = 0.1 * (added if images.shape[1] == 3 else added.mean(1, keepdim=True))
        return images - added


class RemovalLoop(nn.Module):
    """The remover, its optimizer, and when each is used.

    Training of a generator calls :meth:`learn` in each step and shows the surrogates what :meth:`forward` gives in some
    of them: marks that the remover finds easily are worth nothing then.

    Args:
        remover: the network, see :class:`ResidualRemover`.
        every: the remover learns in every so many steps.
        share: chance that a step of the generator has to get through the remover.
        start: steps before the remover is trusted enough to be used.
        learning_rate: of the remover's Adam.
    """

    def __init__(
        self,
        remover: nn.Module,
        every: int = 2,
        share: float = 0.3,
        start: int = 100,
        learning_rate: float = 1e-3,
    ) -> None:
        super().__init__()
        if every < 1 or not 0 <= share <= 1:
            raise ValueError(f"need every >= 1 and 0 <= share <= 1, not {every} and {share}")
        self.remover = remover
        self.every, self.share, self.start = every, share, start
        self.optimizer = torch.optim.Adam(remover.parameters(), learning_rate)

    def forward(self, marked: Tensor) -> Tensor:
        """What the remover makes of marked images ``(B, C, h, w)``, in [0, 1]; gradients reach the images only."""
        frozen = {name: value.detach() for name, value in self.remover.named_parameters()}
        cleaned: Tensor = torch.func.functional_call(self.remover, frozen, (marked,))
        return cleaned.clamp(0, 1)

    def wanted(self, step: int, draw: float) -> bool:
        """Whether the generator has to get through the remover in a step, for a number drawn from [0, 1)."""
        return step >= self.start and draw < self.share

    def learn(self, marked: Tensor, clean: Tensor, step: int) -> float | None:
        """One step towards the clean images if it is the remover's turn.

        Args:
            marked: ``(B, C, h, w)`` in [0, 1]; its history is cut.
            clean: the same images without the mark.
            step: number of the step.

        Returns:
            Mean absolute error in units of the window, ``None`` if nothing was done.
        """
        if step % self.every:
            return None
        self.optimizer.zero_grad(set_to_none=True)
        loss = F.l1_loss(self.remover(marked.detach()), clean)
        torch.autograd.backward(loss)
        self.optimizer.step()
        return loss.item()

    def get_extra_state(self) -> dict[str, Any]:
        """The optimizer travels with the weights in checkpoints."""
        return self.optimizer.state_dict()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take over the optimizer's state."""
        self.optimizer.load_state_dict(state)

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Diagnostic networks with their bounds and preprocessing, and what is computed over an ensemble of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Surrogate", "SurrogateEnsemble", "load_weights", "margin", "resize", "save_weights"]


class Surrogate(nn.Module):
    """A classifier together with everything it does to an image first (a *Model with bounds*).

    Args:
        network: maps ``(B, 3, S, S)`` float32 to ``(B, classes)`` logits.
        name: what reports call it.
        input_size: side ``S`` of the square that the network was trained on, in pixels.
        mean: subtracted from images in [0, 1].
        std: divides the result.

    Shape:
        - input: ``(B, 1 or 3, H, W)`` in display units [0, 1]; gray images are repeated to three channels.
        - output: ``(B, classes)`` logits.
    """

    def __init__(
        self, network: nn.Module, name: str = "", input_size: int = 128, mean: float = 0.5, std: float = 0.25
    ) -> None:
        super().__init__()
        self.network = network
        self.name = name
        self.input_size = input_size
        self.mean = mean
        self.std = std

    def forward(self, images: Tensor) -> Tensor:
        """Logits of display images."""
        if images.shape[1] == 1:
            images = images.expand(-1, 3, -1, -1)
        images = resize(images, self.input_size)
        images = ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.network(images)
        return logits


class SurrogateEnsemble(nn.Module):
    """Several surrogates of one modality that are attacked together.

    The members are frozen and kept in evaluation mode: :meth:`train` does nothing, so that no trainer that owns the
    ensemble can start to change batch statistics.

    Args:
        members: the surrogates, best of different architectures.
    """

    def __init__(self, members: Sequence[Surrogate]) -> None:
        super().__init__()
        if not members:
            raise ValueError("an ensemble needs at least one surrogate")
        self.members = nn.ModuleList(members)
        self.requires_grad_(False)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        super().train(False)

    def train(self, mode: bool = True) -> SurrogateEnsemble:  # noqa: ARG002
        """Stay in evaluation mode whatever is asked."""
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        """Logits ``(B, classes)`` of every member for display images ``(B, C, H, W)`` in [0, 1]."""
        return [member(images) for member in self.members]

    @torch.no_grad()
    def consensus(self, images: Tensor) -> Tensor:
        """Class ``(B,)`` that the members agree on (mean log-probability): the label when nobody gives one."""
        return torch.stack([F.log_softmax(z, 1) for z in self(images)]).mean(0).argmax(1)


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Logit margin ``z_y - max_{j != y} z_j`` of Carlini and Wagner (arXiv:1608.04644), ``(B,)``.

    Positive while the model is right; scale-free gradients where cross-entropy has long vanished.
    """
    true = logits.gather(1, labels[:, None]).squeeze(1)
    other = logits.scatter(1, labels[:, None], float("-inf")).amax(1)
    return true - other


def resize(images: Tensor, size: int) -> Tensor:
    """Bring ``(B, C, H, W)`` to a square of ``size``, antialiased when it shrinks, as image loaders do."""
    if images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images, (size, size), mode="bilinear", antialias=images.shape[-1] > size)


def save_weights(network: nn.Module, path: str | Path) -> None:
    """Write the state dict as float16, half the size; what is measured is what the rounded weights do."""
    state = {k: v.detach().cpu().half() if v.is_floating_point() else v.cpu() for k, v in network.state_dict().items()}
    torch.save(state, path)


def load_weights(network: nn.Module, path: str | Path) -> nn.Module:
    """Read what :func:`save_weights` wrote (or any plain state dict) into ``network`` and return it."""
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    return network


def parameters_that_learn(modules: Iterable[nn.Module]) -> int:
    """Number of parameters that take gradients."""
    return sum(p.numel() for m in modules for p in m.parameters() if p.requires_grad)

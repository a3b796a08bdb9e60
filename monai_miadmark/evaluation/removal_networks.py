# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Networks that try to take marks away without a key: a blind denoiser, and one trained on pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from monai.networks.nets.basic_unet import BasicUNet
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from monai_miadmark.evaluation.random_noise import random_noise
from monai_miadmark.evaluation.removal_training import (
    DiagnosticLoss,
    ImagePairs,
    RestorationLoss,
    display_units,
    optimize,
    seeded,
)

__all__ = ["FEATURES", "PatchUNet", "RemovalNetwork", "apply_network", "as_remover", "train_denoiser", "train_remover"]

FEATURES = (32, 48, 96, 128, 128, 32)
"""Channels of the U-Net's levels, from half resolution down, and of its last layer: 1.4 million weights."""


class PatchUNet(nn.Module):
    """MONAI's ``BasicUNet`` on patches of 2 x 2 pixels.

    Space-to-depth first and depth-to-space last, as in FFDNet (arXiv:1710.04026): the same time buys four times the
    channels of a network at full resolution.

    Args:
        in_channels: channels of the images.
        out_channels: channels that come out.
        features: of ``BasicUNet``, six numbers.
        zero_start: the last layer begins at zero, and so does the output.

    Shape:
        - input: ``(B, in_channels, h, w)``, any size from 1x1 up (padded inside).
        - output: ``(B, out_channels, h, w)``, unbounded.
    """

    _PATCH = 2
    _MULTIPLE = 32
    """Four halvings inside the U-Net, after the patches."""

    def __init__(
        self, in_channels: int, out_channels: int, features: Sequence[int] = FEATURES, zero_start: bool = False
    ) -> None:
        super().__init__()
        area = self._PATCH**2
        self.unshuffle, self.shuffle = nn.PixelUnshuffle(self._PATCH), nn.PixelShuffle(self._PATCH)
        # Batch norm learns fastest: after 200 steps on random signs of 8/255 it was 1.9 dB ahead of group norm, and
        # without any norm nothing was learned yet (one run each).
        self.network = BasicUNet(
            spatial_dims=2,
            in_channels=in_channels * area,
            out_channels=out_channels * area,
            features=features,
            norm="batch",
            upsample="nontrainable",
        )
        if zero_start:
            nn.init.zeros_(self.network.final_conv.weight)
            nn.init.zeros_(self.network.final_conv.bias)

    def forward(self, images: Tensor) -> Tensor:
        """One pass."""
        height, width = images.shape[-2:]
        x = F.pad(images, (0, -width % self._MULTIPLE, 0, -height % self._MULTIPLE), mode="replicate")
        y: Tensor = self.shuffle(self.network(self.unshuffle(x)))
        return y[..., :height, :width]


class RemovalNetwork(nn.Module):
    """Predicts the mark and takes it away (residual learning as in DnCNN, arXiv:1608.03981).

    Args:
        channels: of the images, 1 or 3.
        features: of :class:`PatchUNet`.

    Shape:
        - input: ``(B, channels, h, w)`` in [0, 1].
        - output: the same; in training mode it may leave [0, 1], so that gradients do not vanish there.
    """

    def __init__(self, channels: int, features: Sequence[int] = FEATURES) -> None:
        super().__init__()
        self.mark = PatchUNet(channels, channels, features, zero_start=True)

    def forward(self, images: Tensor) -> Tensor:
        """Images without what the network takes for the mark."""
        restored = images - self.mark(images)
        return restored if self.training else restored.clamp(0, 1)


def train_denoiser(
    clean: Tensor,
    steps: int,
    seed: int,
    *,
    batch_size: int = 8,
    learning_rate: float = 2e-3,
    features: Sequence[int] = FEATURES,
    device: torch.device | str = "cpu",
) -> RemovalNetwork:
    """Train a blind denoiser: it has never seen a mark, only noise of many kinds and strengths.

    Args:
        clean: ``(N, C, h, w)``, C 1 or 3, uint8 or floating point in [0, 1]; at least 7 pixels a side.
        steps: of the optimizer.
        seed: of weights, order, changes and noise. On one thread the same seed gives the same network.
        batch_size: images a step; at least 2 if images are 32 pixels or smaller, for batch norm.
        learning_rate: the largest.
        features: of :class:`PatchUNet`.
        device: where to train.

    Returns:
        The network in evaluation mode, on ``device``.

    Raises:
        ValueError: shapes or types that do not fit, or no steps.
    """
    pairs = ImagePairs(clean, clean)
    generator = torch.Generator().manual_seed(seed)
    batches = pairs.batches(batch_size, generator, device)
    restoration = RestorationLoss().to(device)
    with seeded(seed, device):
        network = RemovalNetwork(clean.shape[1], features).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

        def loss_at(_: int) -> Tensor:
            batch = next(batches)
            noisy = random_noise(batch.clean, generator)
            return restoration(network(noisy), batch.clean)

        optimize(network.train(), loss_at, steps, learning_rate, "denoiser")
    return network.eval()


def train_remover(
    protected: Tensor,
    clean: Tensor,
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
    device: torch.device | str = "cpu",
) -> RemovalNetwork:
    """Train a removal network on pairs that the attacker made with the software and keys of his own.

    Args:
        protected: ``(N, C, h, w)``, C 1 or 3, uint8 or floating point in [0, 1]; at least 7 pixels a side.
        clean: the same images without marks.
        steps: of the optimizer.
        seed: of weights, order and changes. On one thread the same seed gives the same network.
        classifier: a diagnostic model of the attacker, or several, whose opinion of the clean image is to come back;
            display images to logits. Stays as it is.
        labels: ``(N,)`` classes that the classifier is to find; without them what it finds in the clean image counts.
        batch_size: pairs a step; at least 2 if images are 32 pixels or smaller, for batch norm.
        learning_rate: the largest.
        diagnostic_weight: of the classifier's part of the loss.
        diagnostic_every: steps from one use of a classifier to the next.
        features: of :class:`PatchUNet`.
        device: where to train.

    Returns:
        The network in evaluation mode, on ``device``.

    Raises:
        ValueError: shapes or types that do not fit, or no steps.
    """
    pairs = ImagePairs(protected, clean, labels)
    batches = pairs.batches(batch_size, torch.Generator().manual_seed(seed), device)
    restoration = RestorationLoss().to(device)
    diagnostic = DiagnosticLoss(() if classifier is None else classifier, diagnostic_weight, diagnostic_every, device)
    with seeded(seed, device):
        network = RemovalNetwork(clean.shape[1], features).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

        def loss_at(step: int) -> Tensor:
            batch = next(batches)
            restored = network(batch.protected)
            return restoration(restored, batch.clean) + diagnostic(step, restored, batch)

        optimize(network.train(), loss_at, steps, learning_rate, "remover")
    return network.eval()


@torch.inference_mode()
def apply_network(network: nn.Module, images: Tensor, batch_size: int = 32) -> Tensor:
    """Run a removal network over images, in batches.

    Args:
        network: ``(B, C, h, w)`` in [0, 1] to the same; run in evaluation mode, its own mode is given back afterwards.
        images: ``(N, C, h, w)``, uint8 or floating point in [0, 1].
        batch_size: images at a time.

    Returns:
        ``(N, C, h, w)`` float32 in [0, 1], on the device of ``images``.
    """
    device = next((p.device for p in network.parameters()), images.device)
    training = network.training
    network.eval()
    try:
        parts = [
            network(display_units(part).to(device)).clamp(0, 1).to(images.device)
            for part in tqdm(images.split(batch_size), desc="remove", unit="batch", disable=None, leave=False)
        ]
    finally:
        network.train(training)
    return torch.cat(parts)


def as_remover(network: nn.Module, batch_size: int = 32) -> Callable[[Tensor], Tensor]:
    """A network as the function that a removal suite calls, ``(B, C, h, w)`` float32 in [0, 1] to the same."""

    def remove(images: Tensor) -> Tensor:
        return apply_network(network, images, batch_size)

    return remove

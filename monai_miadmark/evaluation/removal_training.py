# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""What all trained removers share: pairs of images, losses, and the training loop."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from monai.losses.ssim_loss import SSIMLoss
from monai.optimizers.lr_scheduler import WarmupCosineSchedule
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

__all__ = ["DiagnosticLoss", "ImagePairs", "PairBatch", "RestorationLoss", "display_units", "optimize", "seeded"]

_log = logging.getLogger(__name__)

_LOG_EVERY = 50
"""Steps between two lines of the log."""

_SHIFT = 8
"""Largest shift in pixels."""


class PairBatch(NamedTuple):
    """Some pairs, changed alike."""

    protected: Tensor
    """``(B, C, h, w)`` float32 in [0, 1]."""
    clean: Tensor
    """The same shape and range."""
    labels: Tensor
    """``(B,)`` int64; -1 where no label was given."""
    masks: Tensor
    """``(B, 1, h, w)`` float32, 1 where a logo stands; 0 everywhere if no masks were given."""


class ImagePairs:
    """Images with and without a mark, as somebody makes them who has the software and keys of his own.

    Args:
        protected: ``(N, C, h, w)`` with C 1 or 3; uint8, or floating point in [0, 1].
        clean: the same images without marks, same shape.
        labels: ``(N,)`` class indices.
        masks: ``(N, 1, h, w)`` bool, where the logos stand.

    Raises:
        ValueError: shapes that do not fit, or no images.
    """

    def __init__(
        self, protected: Tensor, clean: Tensor, labels: Tensor | None = None, masks: Tensor | None = None
    ) -> None:
        if protected.shape != clean.shape or clean.ndim != 4 or clean.shape[1] not in (1, 3):
            raise ValueError(f"need pairs (N, 1 or 3, h, w), not {tuple(protected.shape)} and {tuple(clean.shape)}")
        count, _, height, width = clean.shape
        if count == 0:
            raise ValueError("there are no pairs to train on")
        if labels is not None and labels.shape != (count,):
            raise ValueError(f"need {count} labels, not {tuple(labels.shape)}")
        if masks is not None and masks.shape != (count, 1, height, width):
            raise ValueError(f"masks must be ({count}, 1, {height}, {width}), not {tuple(masks.shape)}")
        self.protected, self.clean, self.labels, self.masks = protected, clean, labels, masks

    def __len__(self) -> int:
        return len(self.clean)

    def batches(
        self,
        size: int,
        generator: torch.Generator,
        device: torch.device | str = "cpu",
        changed: float = 0.5,
    ) -> Iterator[PairBatch]:
        """Shuffled batches without end; each pass shows every pair once.

        Args:
            size: of every batch; batches go on from one pass into the next.
            generator: on the CPU, of order and changes.
            device: where the batches go.
            changed: share of pairs that are flipped, turned and shifted, both images alike. The others stay as they
                are, because a mark is not the same after a turn: it was made against networks that know what is up.
        """
        waiting = torch.empty(0, dtype=torch.int64)
        while True:
            while len(waiting) < size:
                waiting = torch.cat((waiting, torch.randperm(len(self), generator=generator)))
            chosen, waiting = waiting[:size], waiting[size:]
            yield self._batch(chosen, generator, torch.device(device), changed)

    def _batch(self, chosen: Tensor, generator: torch.Generator, device: torch.device, changed: float) -> PairBatch:
        """Pairs with these indices, each changed in its own way."""
        protected, clean = display_units(self.protected[chosen]), display_units(self.clean[chosen])
        masks = torch.zeros_like(clean[:, :1]) if self.masks is None else self.masks[chosen].float()
        labels = torch.full((len(chosen),), -1) if self.labels is None else self.labels[chosen].long()
        stacks = torch.cat((protected, clean, masks), 1)
        moved = torch.stack([_moved(stack, generator, changed) for stack in stacks]).to(device)
        channels = clean.shape[1]
        parts = [part.contiguous(memory_format=torch.channels_last) for part in moved.split((channels, channels, 1), 1)]
        return PairBatch(parts[0], parts[1], labels.to(device), parts[2])


class RestorationLoss(nn.Module):
    """Absolute error and structural dissimilarity (Zhao et al., "Loss Functions for Image Restoration with Neural
    Networks", 2017, arXiv:1511.08861).

    Args:
        absolute: weight of the mean absolute error.
        structure: weight of 1 - SSIM, in a window of 7 pixels (the usual 11 cost as much time as the network). Kept
            small, because short trainings suffer from it: 200 steps on random signs of 8/255 ended at 28.3 dB with a
            weight of 1 and at 30.4 dB without this part (27.1 dB before removal; one run each).

    Shape:
        - restored, clean: ``(B, C, h, w)``, at least 7 pixels a side.
        - output: scalar.
    """

    _WINDOW = 7

    def __init__(self, absolute: float = 10.0, structure: float = 0.2) -> None:
        super().__init__()
        self.absolute, self.structure = absolute, structure
        self.dissimilarity = SSIMLoss(spatial_dims=2, data_range=1.0, win_size=self._WINDOW)

    def forward(self, restored: Tensor, clean: Tensor) -> Tensor:
        """Loss of a batch."""
        loss: Tensor = self.absolute * F.l1_loss(restored, clean)
        return loss + self.structure * self.dissimilarity(restored, clean)


class DiagnosticLoss:
    """How far diagnostic models are from seeing in the restored images what they see in the clean ones.

    Divergence of their class probabilities at temperature 2, as in distillation (Hinton et al., arXiv:1503.02531);
    where a label is known, cross-entropy as well. The models are copied, so that those given stay as they are.

    Args:
        classifiers: display images to logits; one or several, which take turns.
        weight: of this loss beside :class:`RestorationLoss`. The divergence of a misled model is several times as large
            as the loss of structure, so that 0.2 makes them about equal at the start.
        every: steps from one turn to the next, to save time; the weight grows accordingly.
        device: where to run.
    """

    _TEMPERATURE = 2.0

    def __init__(
        self,
        classifiers: nn.Module | Sequence[nn.Module],
        weight: float = 0.2,
        every: int = 2,
        device: torch.device | str = "cpu",
    ) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1, not {every}")
        given = [classifiers] if isinstance(classifiers, nn.Module) else list(classifiers)
        self.classifiers = [copy.deepcopy(c).to(device).eval().requires_grad_(False) for c in given]
        self.weight, self.every = weight, every

    def __call__(self, step: int, restored: Tensor, batch: PairBatch) -> Tensor:
        """Scalar loss of restored images ``(B, C, h, w)``; zero where it is not this loss's turn."""
        if not self.classifiers or step % self.every:
            return restored.new_zeros(())
        classifier = self.classifiers[step // self.every % len(self.classifiers)]
        with torch.no_grad():
            target = F.log_softmax(classifier(batch.clean) / self._TEMPERATURE, 1)
        logits = classifier(restored.clamp(0, 1))
        found = F.log_softmax(logits / self._TEMPERATURE, 1)
        loss = self._TEMPERATURE**2 * F.kl_div(found, target, reduction="batchmean", log_target=True)
        if bool((batch.labels >= 0).all()):
            loss = (loss + F.cross_entropy(logits, batch.labels)) / 2
        return self.weight * self.every * loss


def display_units(images: Tensor) -> Tensor:
    """Float32 in [0, 1] of uint8 or floating-point display images.

    Raises:
        ValueError: any other type.
    """
    if images.dtype == torch.uint8:
        return images.float() / 255
    if not images.is_floating_point():
        raise ValueError(f"images must be uint8 or floating point, not {images.dtype}")
    return images.float()


@contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Let what draws from PyTorch's own generators (initial weights, dropout) start from a seed; undone afterwards."""
    device = torch.device(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def optimize(
    network: nn.Module,
    loss_at: Callable[[int], Tensor],
    steps: int,
    learning_rate: float,
    description: str,
    weight_decay: float = 1e-4,
) -> None:
    """Minimize a loss over a network's parameters: AdamW, short warm-up, cosine decay to zero, clipped gradients.

    Args:
        network: changed in place; its mode is the caller's affair.
        loss_at: scalar loss at a step, with gradients.
        steps: how many.
        learning_rate: the largest.
        description: of the progress bar and in the log.
        weight_decay: of AdamW.

    Raises:
        ValueError: no steps.
        FloatingPointError: the loss is no longer finite.
    """
    if steps < 1:
        raise ValueError(f"need at least one step, not {steps}")
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay)
    schedule = WarmupCosineSchedule(optimizer, steps // 20, steps, warmup_multiplier=0.05)
    recent: list[float] = []
    for step in tqdm(range(steps), desc=description, unit="step", disable=None):
        optimizer.zero_grad(set_to_none=True)
        loss = loss_at(step)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        recent.append(loss.item())
        if not math.isfinite(recent[-1]):
            raise FloatingPointError(f"{description}: the loss at step {step} is {recent[-1]}; lower the learning rate")
        if len(recent) == _LOG_EVERY or step == steps - 1:
            _log.info("%s: step %d of %d, mean loss %.4f", description, step + 1, steps, sum(recent) / len(recent))
            recent.clear()


def _moved(stack: Tensor, generator: torch.Generator, changed: float) -> Tensor:
    """``(C, h, w)`` by chance flipped, turned (if square) and shifted with mirrored edges."""
    draw = torch.rand(6, generator=generator).tolist()
    if draw[0] >= changed:
        return stack
    height, width = stack.shape[-2:]
    if draw[1] < 0.5:
        stack = stack.flip(-1)
    if draw[2] < 0.5:
        stack = stack.flip(-2)
    if draw[3] < 0.5 and height == width:
        stack = stack.rot90(1, (-2, -1))
    reach = min(_SHIFT, height - 1, width - 1)
    top, left = int(draw[4] * (2 * reach + 1)), int(draw[5] * (2 * reach + 1))
    padded = F.pad(stack[None], (reach, reach, reach, reach), mode="reflect")[0]
    return padded[:, top : top + height, left : left + width]

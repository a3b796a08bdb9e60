# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Training of a :class:`monai_miadmark.locator.LesionLocator`: much weak supervision, then a few marked boxes.

Classifiers that were trained on labels alone look at lesions, but not only there. A network that is trained to say
where they look, on many images at once, learns what these places have in common; a hundred boxes then teach it where
lesions begin and end.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from monai_miadmark.diversity import gaussian_blur
from monai_miadmark.locator import LesionLocator, location_loss

__all__ = ["looked_at", "marked_boxes", "thumbnails", "train_locator"]

_BATCH = 25


def thumbnails(paths: Sequence[str | Path], side: int) -> Tensor:
    """Gray images of raster files, ``(N, 1, side, side)`` in [0, 1]."""
    images = [Image.open(path).convert("L").resize((side, side), Image.Resampling.BOX) for path in paths]
    return torch.from_numpy(np.stack([np.asarray(image, np.float32) for image in images]) / 255)[:, None]


def marked_boxes(path: str | Path, section: str, dataset: str, side: int) -> tuple[list[str], Tensor]:
    """Boxes that were marked by hand: file names, and ``(N, 1, side, side)`` with ones inside.

    Args:
        path: JSON, section -> data set -> file name -> top, left, bottom, right in percent of the image's sides.
        section: ``fit`` or ``tune``.
        dataset: its name.
        side: of the result.
    """
    marked: Mapping[str, Sequence[int]] = json.loads(Path(path).read_text())[section][dataset]
    inside = torch.zeros(len(marked), 1, side, side)
    for plane, box in zip(inside[:, 0], marked.values(), strict=True):
        top, left, bottom, right = (round(edge / 100 * side) for edge in box)
        plane[top:bottom, left:right] = 1
    return list(marked), inside


def looked_at(networks: Sequence[nn.Module], items: Sequence[Mapping[str, Any]], size: int, side: int) -> Tensor:
    """Where networks look for the class that an image has: gradient times image, smoothed, squared.

    Args:
        networks: ``(B, 3, size, size)`` in [0, 1] to logits.
        items: ``{"image": path, "label": class}``.
        size: of the images that the networks are shown.
        side: of the result.

    Returns:
        ``(N, 1, side, side)``, summing to 1.
    """
    found = []
    for first in tqdm(range(0, len(items), 8), desc="saliency", unit="batch", disable=None):
        part = items[first : first + 8]
        images = thumbnails([item["image"] for item in part], size).expand(-1, 3, -1, -1)
        labels = torch.tensor([int(item["label"]) for item in part])
        heat = torch.zeros(len(part), 1, side, side)
        for network in networks:
            shown = images.clone().requires_grad_()
            score = F.log_softmax(network(shown), 1).gather(1, labels[:, None]).sum()
            (gradient,) = torch.autograd.grad(score, shown)
            importance = F.adaptive_avg_pool2d((gradient.abs() * shown.detach()).sum(1, True), side)
            heat += _share(gaussian_blur(importance, 1.5))
        found.append(_share(heat**2))
    return torch.cat(found)


def train_locator(
    locator: LesionLocator,
    weak: tuple[Tensor, Tensor],
    marked: tuple[Tensor, Tensor],
    epochs: tuple[int, int] = (16, 100),
    rates: tuple[float, float] = (2e-3, 1e-3),
) -> None:
    """Train in place: first on where networks look, then on marked boxes.

    Args:
        locator: what is trained; in evaluation mode afterwards.
        weak: images ``(N, 1, side, side)`` and where networks look, the same shape.
        marked: the same with boxes.
        epochs: of both parts.
        rates: highest learning rates of both parts.
    """
    for (images, targets), count, rate in zip((weak, marked), epochs, rates, strict=True):
        batches = max(1, len(images) // _BATCH)
        optimizer = torch.optim.AdamW(locator.parameters(), lr=rate, weight_decay=0.02)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=max(1, count * batches))
        locator.train()
        for _ in tqdm(range(count), desc="locator", unit="epoch", disable=None):
            for part in torch.randperm(len(images)).tensor_split(batches):
                shown, places = _varied(images[part], targets[part])
                loss = location_loss(locator(shown), places)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    locator.eval()


def _varied(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Images and targets turned, scaled, mirrored and moved together; images in other contrasts, with noise."""
    count = len(images)

    def around(width: float, *shape: int) -> Tensor:
        return (torch.rand(count, *shape) - 0.5) * width

    angle, scale, stretch = around(0.7), 1 + around(0.5), 1 + around(0.2)
    mirror = torch.where(torch.rand(count) < 0.5, -1.0, 1.0)
    matrix = torch.zeros(count, 2, 3)
    matrix[:, 0, 0], matrix[:, 0, 1] = torch.cos(angle) * scale * mirror, -torch.sin(angle) * scale
    matrix[:, 1, 0], matrix[:, 1, 1] = torch.sin(angle) * scale * mirror * stretch, torch.cos(angle) * scale * stretch
    matrix[:, :, 2] = around(0.25, 2)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    images, targets = (F.grid_sample(maps, grid, align_corners=False) for maps in (images, targets))
    images = images.clamp(1e-4, 1) ** torch.exp(around(0.9, 1, 1, 1)) * (1 + around(0.5, 1, 1, 1))
    return images + 0.02 * torch.rand(count, 1, 1, 1) * torch.randn_like(images), targets


def _share(maps: Tensor) -> Tensor:
    """Maps ``(B, 1, h, w)`` over their sums."""
    return maps / maps.sum((1, 2, 3), keepdim=True).clamp_min(1e-12)

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Tiny random networks, so that tests of what works on networks need neither weights nor time."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from monai_miadmark.generator import PerturbationGenerator
from monai_miadmark.surrogates import Surrogate, SurrogateEnsemble

CLASSES = 3
SIDE = 32


def classifier(seed: int = 0, classes: int = CLASSES) -> nn.Module:
    """A small network with batch norm and dropout, so that a wrong mode would show."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(128, classes),
        )


def ensemble(members: int = 2) -> SurrogateEnsemble:
    """Several of them."""
    return SurrogateEnsemble([Surrogate(classifier(i), f"tiny{i}", SIDE) for i in range(members)])


def generator(seed: int = 0) -> PerturbationGenerator:
    """The smallest generator, with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return PerturbationGenerator(width=8, shallow=2, deep=1)


def pictures(count: int = 2, height: int = 24, width: int = 20, channels: int = 1) -> NDArray[np.float32]:
    """``(N, C, h, w)`` float32 in [0, 1]."""
    noise = np.random.default_rng(5).random((count, channels, height, width))
    y, x = np.mgrid[:height, :width]
    return np.asarray((0.5 + 0.3 * np.sin(x / 4) * np.cos(y / 3) + 0.2 * (noise - 0.5)).clip(0, 1), np.float32)


def flat_budget(count: int = 2, height: int = 24, width: int = 20, amplitude: float = 16 / 255) -> NDArray[np.float32]:
    """``(N, 1, h, w)`` float32, the same everywhere."""
    return np.full((count, 1, height, width), amplitude, np.float32)

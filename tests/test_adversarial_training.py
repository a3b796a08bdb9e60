# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Adversarial training: what it trains on, and that networks come to withstand it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from networks import CLASSES, SIDE, classifier
from torch import Tensor
from torch.nn import functional as F

from monai_miadmark.adversarial_training import RobustTrainer
from monai_miadmark.surrogates import Surrogate

EPSILON = 8 / 255


def batch(seed: int, count: int = 24) -> dict[str, Tensor]:
    """Gray noise; the brightness of one corner tells the class, and so does a faint pattern."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=rng)
    images = 0.4 + 0.2 * torch.rand((count, 3, SIDE, SIDE), generator=rng)
    images[:, :, :12, :12] += 0.15 * (labels[:, None, None, None] - 1)
    return {"image": images.clamp(0, 1), "label": labels}


def trainer(surrogate: Surrogate, **settings: Any) -> RobustTrainer:
    defaults: dict[str, Any] = {
        "epsilon": EPSILON,
        "max_epochs": 4,
        "device": torch.device("cpu"),
        "train_data_loader": [batch(seed) for seed in range(40)],
        "network": surrogate,
        "optimizer": torch.optim.Adam(surrogate.parameters(), 0.003),
        "loss_function": torch.nn.CrossEntropyLoss(),
    }
    return RobustTrainer(**{**defaults, **settings})


def accuracy(surrogate: Surrogate, epsilon: float) -> float:
    """Right answers about images after one signed gradient step."""
    surrogate.eval()
    images, labels = batch(1000, 200).values()
    images.requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(surrogate(images), labels), images)
    return float((surrogate((images + epsilon * gradient.sign()).clamp(0, 1)).argmax(1) == labels).float().mean())


def trained(**settings: Any) -> Surrogate:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        surrogate = Surrogate(classifier(), "tiny", SIDE)
        trainer(surrogate, **settings).run()
    return surrogate


@pytest.mark.parametrize("bfloat16", [False, True])
def test_networks_come_to_withstand_it(bfloat16: bool) -> None:
    strong, weak = trained(bfloat16=bfloat16), trained(bfloat16=bfloat16, epsilon=1e-6)
    assert accuracy(strong, 0) > 0.8
    assert accuracy(strong, EPSILON) > accuracy(weak, EPSILON) + 0.1


def test_perturbed_images_are_near_and_harder() -> None:
    surrogate = trained(epsilon=1e-6)
    engine = trainer(surrogate)
    images, labels = batch(3).values()
    perturbed = engine.perturbed(images, labels)
    assert (perturbed - images).abs().max() <= EPSILON + 1e-6
    assert not perturbed.requires_grad and perturbed.min() >= 0 and perturbed.max() <= 1
    surrogate.eval()
    assert F.cross_entropy(surrogate(perturbed), labels) > F.cross_entropy(surrogate(images), labels) + 0.1


def test_steps_are_reported_as_monai_does() -> None:
    with torch.random.fork_rng():
        surrogate = Surrogate(classifier(), "tiny", SIDE)
        engine = trainer(surrogate, max_epochs=1)
        engine.run()
    output = engine.state.output
    assert output["image"].shape == (24, 3, SIDE, SIDE) and output["label"].shape == (24,)
    assert isinstance(output["loss"], float)
    assert engine.state.iteration == 40


@pytest.mark.parametrize("epsilon", [0, -0.1, 1.5])
def test_no_perturbation_is_refused(epsilon: float) -> None:
    with pytest.raises(ValueError, match="epsilon"):
        trainer(Surrogate(classifier(), "tiny", SIDE), epsilon=epsilon)

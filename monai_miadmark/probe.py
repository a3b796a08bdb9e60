# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""How far the generator misleads its surrogates by now: a small measurement while it trains."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.data import list_data_collate
from torch import Tensor, nn

from monai_miadmark.budget import Visibility
from monai_miadmark.descent import descent_direction, guides_among
from monai_miadmark.generator import LATENT_SIZE
from monai_miadmark.soft_likeness import SoftLikeness, fitted_budget
from monai_miadmark.surrogates import SurrogateEnsemble
from monai_miadmark.training_images import BUDGET, CLEAN, FITTED, JUDGED

__all__ = ["FooledProbe"]

logger = logging.getLogger(__name__)


class FooledProbe:
    """Ignite handler: accuracy of every surrogate on a few marked images, of the section ``tune`` best.

    The images are marked as files are: with their logos, as strong as the likeness allows, rounded to five levels,
    always with the same latents. The figures are logged and stand in ``engine.state.metrics`` as
    ``MODALITY/SURROGATE``.

    Args:
        generator: the network that trains; its mode is given back.
        ensembles: surrogates by modality.
        data: for each modality dictionaries with ``label`` and what
            :class:`monai_miadmark.training_images.PlannedMarkd` gives.
        visibility: the likeness that protection keeps to.
        count: images of each modality, spread evenly over the data (which is sorted by class).
        interval: steps between two measurements.
        remover: measured behind it too, as ``MODALITY/SURROGATE/removed``.
        guides: names of the surrogates that the generator hears.
        device: where the networks run.
    """

    def __init__(
        self,
        generator: nn.Module,
        ensembles: Mapping[str, SurrogateEnsemble],
        data: Mapping[str, Sequence[Mapping[str, Any]]],
        visibility: Visibility,
        count: int = 32,
        interval: int = 200,
        remover: nn.Module | None = None,
        guides: Sequence[str] = (),
        device: torch.device | str = "cpu",
    ) -> None:
        self.generator, self.ensembles, self.interval, self.remover = generator, ensembles, interval, remover
        self.visibility, self.guides, self.device = visibility, tuple(guides), torch.device(device)
        self.batches: dict[str, dict[str, Tensor]] = {}
        for name, items in data.items():
            chosen = [items[i * len(items) // min(count, len(items))] for i in range(min(count, len(items)))]
            self.batches[name] = list_data_collate([dict(item) for item in chosen])

    def attach(self, engine: Engine) -> None:
        """Measure before the first step and every ``interval`` steps."""
        engine.add_event_handler(Events.STARTED, self)
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.interval), self)

    def __call__(self, engine: Engine) -> None:
        """Measure, log, and leave the figures with the engine."""
        figures = self.measure()
        engine.state.metrics.update(figures)
        text = ", ".join(f"{name} {value:.0%}" for name, value in figures.items())
        logger.info("step %d, accuracy on marked images: %s", engine.state.iteration, text)

    @torch.inference_mode()
    def measure(self) -> dict[str, float]:
        """Accuracies in [0, 1] by ``MODALITY/SURROGATE``; ``MODALITY/SURROGATE/clean`` without marks."""
        training = self.generator.training
        self.generator.eval()
        figures: dict[str, float] = {}
        for name, batch in self.batches.items():
            keys = ("image", CLEAN, "label", BUDGET, FITTED, JUDGED)
            images, clean, labels, budget, fitted, judged = (batch[key].to(self.device) for key in keys)
            latent = torch.randn((len(images), LATENT_SIZE), generator=torch.Generator().manual_seed(0))
            told = descent_direction(guides_among(self.ensembles[name], self.guides), clean, images, budget)
            levels = torch.round(self.generator(images, budget, latent.to(self.device), told) * 2) / 2
            budget = fitted_budget(SoftLikeness(clean, judged), images, levels, budget, fitted, self.visibility)
            marked = (images + levels * budget).clamp(0, 1)
            views = {"": marked, "/clean": clean}
            if self.remover is not None:
                views["/removed"] = self.remover(marked).clamp(0, 1)
            for suffix, view in views.items():
                for member, logits in zip(self.ensembles[name].members, self.ensembles[name](view), strict=True):
                    right = (logits.argmax(1) == labels).float().mean()
                    figures[f"{name}/{member.name}{suffix}"] = right.item()
        self.generator.train(training)
        return figures

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Training of the generator against an ensemble, as a MONAI engine that bundle configurations assemble."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.engines import Trainer
from monai.handlers import CheckpointLoader
from monai.transforms import MapTransform
from monai.utils import CommonKeys
from torch import Tensor, nn
from torch.nn import functional as F

from monai_miadmark.budget import Visibility, block_scales, cell_budget, visibility_map
from monai_miadmark.diversity import InputDiversity
from monai_miadmark.generator import LATENT_SIZE, PerturbationGenerator
from monai_miadmark.perturbers import EnsembleCritic
from monai_miadmark.region import salient_boxes
from monai_miadmark.surrogates import SurrogateEnsemble, expected_margin

__all__ = ["BUDGET", "GeneratorTrainer", "LogoPlanes", "SoftBudgetd", "resume"]

BUDGET = "budget"
"""Dictionary key of the amplitude map."""


class SoftBudgetd(MapTransform):
    """Add the budget that protection with ``region="auto"`` would give an image, under the key ``budget``.

    Args:
        keys: the image, ``(C, h, w)`` in [0, 1].
        critic: finds the salient box.
        model: visibility weights.
        region_budget: largest amplitude inside the box, fraction of the window.
    """

    def __init__(
        self,
        keys: KeysCollection,
        critic: EnsembleCritic,
        model: Visibility | None = None,
        region_budget: float = 3 / 255,
    ) -> None:
        super().__init__(keys)
        self.critic, self.model, self.region_budget = critic, model or Visibility(), region_budget

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Copy of ``data`` with ``budget`` ``(1, h, w)`` float32."""
        out = dict(data)
        for key in self.key_iterator(out):
            display = np.asarray(out[key], np.float32)[None]
            budget = visibility_map(display, self.model)
            box = salient_boxes(self.critic.saliency(display))
            budget = np.where(box, np.minimum(budget, self.region_budget), budget)
            out[BUDGET] = torch.from_numpy(cell_budget(block_scales(budget), *display.shape[2:])[0])
        return out


class LogoPlanes:
    """Random visible logos for training: ``(B, 1, h, w)`` coverage in [0, 1].

    Args:
        alphas: drawings, ``(lh, lw)`` uint8 each.
        chance: share of images that get one.
    """

    def __init__(self, alphas: Sequence[np.ndarray], chance: float = 0.6) -> None:
        self.alphas = [torch.from_numpy(a.astype(np.float32) / 255) for a in alphas]
        self.chance = chance

    def __call__(self, shape: torch.Size, generator: torch.Generator) -> Tensor:
        """Draw planes for images of ``shape`` ``(B, C, h, w)``; logos larger than the image are left out."""
        planes = torch.zeros(shape[0], 1, *shape[2:])
        for plane in planes[:, 0]:
            draw = torch.rand(4, generator=generator).tolist()
            alpha = self.alphas[int(draw[0] * len(self.alphas))]
            room = (plane.shape[0] - alpha.shape[0], plane.shape[1] - alpha.shape[1])
            if draw[1] < self.chance and min(room) >= 0:
                top, left = int(draw[2] * (room[0] + 1)), int(draw[3] * (room[1] + 1))
                plane[top : top + alpha.shape[0], left : left + alpha.shape[1]] = alpha
        return planes


class GeneratorTrainer(Trainer):
    """Trains a generator so that its fields mislead an ensemble, whatever the latent.

    Each batch holds every image twice with two latents; fields of the same image that correlate by more than
    ``max_similarity`` are penalized, so that the mark really depends on the key.

    Args:
        device: where to run.
        max_epochs: epochs.
        train_data_loader: gives ``image`` ``(B, C, h, w)`` in [0, 1], ``label`` ``(B,)`` and ``budget``
            ``(B, 1, h, w)``.
        generator: the network to train.
        ensemble: frozen surrogates.
        optimizer: over the generator's parameters.
        diversity: random preprocessing in front of the surrogates.
        logos: random logos, or ``None`` for none.
        members_per_step: surrogates drawn for each step (all of them cost more than they give).
        footprint_budget: amplitude allowed under a logo, fraction of the window.
        opacity: of the logos.
        max_similarity: cosine above which two latents' fields are pushed apart.
        seed: of all random draws.
        train_handlers: ignite handlers.
        epoch_length: iterations an epoch; default: the loader's length.
    """

    def __init__(
        self,
        device: torch.device,
        max_epochs: int,
        train_data_loader: Any,
        generator: PerturbationGenerator,
        ensemble: SurrogateEnsemble,
        optimizer: torch.optim.Optimizer,
        diversity: InputDiversity,
        logos: LogoPlanes | None = None,
        members_per_step: int = 2,
        footprint_budget: float = 32 / 255,
        opacity: float = 0.35,
        max_similarity: float = 0.5,
        seed: int = 0,
        train_handlers: Sequence[Any] | None = None,
        epoch_length: int | None = None,
        postprocessing: Callable[..., Any] | None = None,
    ) -> None:
        super().__init__(
            device=device,
            max_epochs=max_epochs,
            data_loader=train_data_loader,
            epoch_length=epoch_length,
            postprocessing=postprocessing,
            handlers=train_handlers,
            decollate=False,
        )
        self.generator, self.ensemble, self.optimizer, self.diversity = generator, ensemble, optimizer, diversity
        self.logos, self.members_per_step, self.footprint_budget = logos, members_per_step, footprint_budget
        self.opacity, self.max_similarity = opacity, max_similarity
        self.random = torch.Generator().manual_seed(seed)

    def run(self) -> None:
        """Train up to the last epoch; ignite would begin anew where a checkpoint says that this is done already."""
        if self.state.epoch < self.state.max_epochs:
            super().run()

    def _iteration(self, engine: Trainer, batchdata: dict[str, Tensor]) -> dict[str, Any]:
        """One optimizer step; gives ``loss``, ``fooled`` (share of drawn surrogates that err) and ``similarity``."""
        device = self.state.device
        images, labels, budget = (
            batchdata[key].to(device).repeat_interleave(2, 0) for key in (CommonKeys.IMAGE, CommonKeys.LABEL, BUDGET)
        )
        if self.logos is not None:
            cover = self.logos(images.shape, self.random).to(device)
            images = images + (1 - images) * cover * self.opacity
            footprint = F.max_pool2d((cover > 0).float(), 5, 1, 2)
            budget = torch.maximum(budget, footprint * self.footprint_budget)
        latent = torch.randn(len(images), LATENT_SIZE, generator=self.random).to(device)
        self.generator.train()
        self.optimizer.zero_grad(set_to_none=True)
        field = self.generator(images, budget, latent)
        # Half of the steps see the five stored levels (straight-through), half the smooth field with better gradients.
        levels = field
        if float(torch.rand((), generator=self.random)) < 0.5:
            levels = field + (torch.round(field * 2) / 2 - field).detach()
        marked = self.diversity((images + levels * budget).clamp(0, 1), self.random)
        drawn = torch.randperm(len(self.ensemble.members), generator=self.random)[: self.members_per_step]
        logits = [self.ensemble.members[i](marked) for i in drawn.tolist()]
        truth = F.one_hot(labels.long(), logits[0].shape[1]).float()
        effect = torch.stack([expected_margin(z, truth).mean() for z in logits]).mean()
        weighted = (field * budget).flatten(1)
        similarity = F.cosine_similarity(weighted[0::2], weighted[1::2], dim=1)
        loss = effect + 2 * (similarity - self.max_similarity).clamp_min(0).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(self.generator.parameters(), 1.0)
        self.optimizer.step()
        fooled = torch.stack([(z.argmax(1) != labels).float().mean() for z in logits]).mean()
        return {"loss": loss.item(), "fooled": fooled.item(), "similarity": similarity.mean().item()}


def resume(trainer: Trainer, objects: Mapping[str, Any], folder: str | Path) -> None:
    """Go on from the newest checkpoint ``generator_*.pt`` in a folder, if there is one.

    Args:
        trainer: the engine that will run.
        objects: what ``CheckpointSaver`` saved, by the same names.
        folder: where it saved.
    """
    found = sorted(Path(folder).glob("generator_*.pt"), key=lambda path: path.stat().st_mtime)
    if found:
        CheckpointLoader(str(found[-1]), dict(objects), map_location="cpu")(trainer)

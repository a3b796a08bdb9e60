# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Training of the generator against an ensemble, as a MONAI engine that bundle configurations assemble."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from monai.engines import SupervisedTrainer, Trainer
from monai.handlers import CheckpointLoader
from monai.inferers import Inferer
from monai.utils import CommonKeys
from torch import Tensor, nn
from torch.nn import functional as F

from monai_miadmark.budget import Visibility
from monai_miadmark.descent import descent_direction, guides_among
from monai_miadmark.diversity import Diversity
from monai_miadmark.generator import LATENT_SIZE, PerturbationGenerator
from monai_miadmark.modalities import MODALITY, ModalityBatches
from monai_miadmark.removal_loop import RemovalLoop
from monai_miadmark.soft_likeness import SoftLikeness, fitted_budget
from monai_miadmark.surrogates import Surrogate, SurrogateEnsemble, expected_margin
from monai_miadmark.training_images import BUDGET, CLEAN, FITTED, JUDGED

__all__ = ["GeneratorTrainer", "logits_and_features", "resume"]


class _Batch(NamedTuple):
    """What a step works on."""

    clean: Tensor
    """``(B, C, h, w)`` in [0, 1]."""
    images: Tensor
    """The same with logos."""
    labels: Tensor
    """``(B,)`` int64."""
    budget: Tensor
    """``(B, 1, h, w)``, fraction of the window."""
    fitted: Tensor
    """``(B, 1, h, w)`` bool, cells whose amplitude follows the likeness."""
    judged: Tensor
    """``(B, 1, h, w)`` bool, cells by which likeness is judged."""
    gains: Tensor
    """``(B, 1, 1, 1)``, by how much more or less than the likeness allows."""
    latent: Tensor
    """``(B, LATENT_SIZE)``."""
    paired: bool
    """Second half: the images of the first half with other latents."""


class GeneratorTrainer(SupervisedTrainer):
    """Trains a generator so that its fields mislead ensembles, whatever the latent.

    A step sees images of one modality and draws one surrogate of it. Fields get the amplitude with which protection
    would let them be seen, and gradients know of it: a pattern that SSIM hardly notices may be stronger, so that is
    what the generator learns to make. In some steps half of the batch comes twice, with two latents; fields of the same
    image that correlate by more than ``max_similarity`` are penalized, so that the mark really depends on the key. In
    some, features of the surrogate are pushed away from those of the clean image as well, and in some the surrogate
    sees what a removal network left.

    Args:
        device: where to run; bfloat16 autocast on CUDA.
        max_epochs: epochs.
        train_data_loader: gives ``image`` and ``clean`` ``(B, C, h, w)`` in [0, 1], ``label`` ``(B,)``, ``budget``,
            ``fitted`` and ``judged`` ``(B, 1, h, w)``, see :class:`monai_miadmark.training_images.PlannedMarkd`; with
            several ensembles also ``modality``, the name of one. :class:`ModalityBatches` goes on where a checkpoint
            left it.
        generator: the network to train.
        ensembles: frozen surrogates, of one modality or by name.
        optimizer: over the generator's parameters.
        diversity: random preprocessing in front of the surrogates.
        visibility: the likeness that protection keeps to.
        removal: the removal network that learns along, or ``None`` for none.
        members_per_step: surrogates drawn for each step (all of them cost more than they give).
        feature_weight: of the cosine between features of marked and clean images; 0 for none.
        feature_every: steps between two that compute it.
        pair_every: steps between two with two latents an image.
        max_similarity: cosine above which two latents' fields are pushed apart.
        similarity_weight: of what is above.
        margin_floor: logit margins below it count as this: what errs by far is left alone.
        guides: names of the surrogates whose gradients the generator hears, see
            :func:`monai_miadmark.descent.guides_among`.
        gain: smallest and largest factor on the amplitude outside the logo, drawn for each image.
        seed: of all random draws.
        train_handlers: ignite handlers.
        epoch_length: iterations an epoch; default: the loader's length.
        postprocessing: of what a step gives, as in MONAI's trainers.
        inferer: not used: a step asks the generator for more than a prediction. Bundles have to name one.
    """

    def __init__(
        self,
        device: torch.device,
        max_epochs: int,
        train_data_loader: Any,
        generator: PerturbationGenerator,
        ensembles: SurrogateEnsemble | Mapping[str, SurrogateEnsemble],
        optimizer: torch.optim.Optimizer,
        diversity: Diversity,
        visibility: Visibility,
        removal: RemovalLoop | None = None,
        members_per_step: int = 1,
        feature_weight: float = 1.0,
        feature_every: int = 4,
        pair_every: int = 4,
        max_similarity: float = 0.7,
        similarity_weight: float = 4.0,
        margin_floor: float = -8.0,
        guides: Sequence[str] = (),
        gain: tuple[float, float] = (0.85, 1.15),
        seed: int = 0,
        train_handlers: Sequence[Any] | None = None,
        epoch_length: int | None = None,
        postprocessing: Callable[..., Any] | None = None,
        inferer: Inferer | None = None,
    ) -> None:
        super().__init__(
            device=device,
            max_epochs=max_epochs,
            train_data_loader=train_data_loader,
            network=generator,
            optimizer=optimizer,
            loss_function=expected_margin,
            epoch_length=epoch_length,
            inferer=inferer,
            postprocessing=postprocessing,
            train_handlers=train_handlers,
            decollate=False,
        )
        self.generator, self.diversity = generator, diversity
        self.ensembles = ensembles if isinstance(ensembles, Mapping) else {"": ensembles}
        self.visibility = visibility
        self.removal, self.members_per_step = removal, members_per_step
        self.feature_weight, self.feature_every, self.pair_every = feature_weight, feature_every, pair_every
        self.max_similarity, self.similarity_weight = max_similarity, similarity_weight
        self.margin_floor, self.guides, self.gain = margin_floor, tuple(guides), gain
        self.random = torch.Generator().manual_seed(seed)

    def state_dict(self) -> dict[str, Any]:
        """Ignite's state and that of the random draws."""
        return {**super().state_dict(), "random": self.random.get_state()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a state; one without random draws, of an earlier version, leaves them as they are."""
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "random"})
        if "random" in state_dict:
            self.random.set_state(state_dict["random"].cpu())

    def run(self) -> None:
        """Train up to the last epoch; ignite would begin anew where a checkpoint says that this is done already."""
        if self.state.epoch < self.state.max_epochs:
            if isinstance(self.data_loader, ModalityBatches):
                self.data_loader.seek(self.state.iteration)
            super().run()

    def _iteration(self, engine: SupervisedTrainer, batchdata: dict[str, Any]) -> dict[str, Any]:
        """One optimizer step.

        Returns:
            ``loss``; ``fooled``, the share of drawn surrogates that err; ``similarity`` of two latents' fields and
            ``removal``, the remover's error, where the step has them.
        """
        step = self.state.iteration - 1
        ensemble = self.ensembles[batchdata.get(MODALITY, "")]
        batch = self._draw(batchdata, step)
        self.generator.train()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16, enabled=self.state.device.type == "cuda"):
            guides = guides_among(ensemble, self.guides)
            descent = descent_direction(guides, batch.clean, batch.images, batch.budget)
            field = self.generator(batch.images, batch.budget, batch.latent, descent).float()
            # Half of the steps see the five stored levels (straight-through), half the smooth field: better gradients.
            levels = field
            if self._chance() < 0.5:
                levels = field + (torch.round(field * 2) / 2 - field).detach()
            likeness = SoftLikeness(batch.clean, batch.judged)
            budget = fitted_budget(likeness, batch.images, levels, batch.budget, batch.fitted, self.visibility)
            budget = torch.where(batch.fitted, budget * batch.gains, budget)
            marked = (batch.images + levels * budget).clamp(0, 1)
            output: dict[str, Any] = {}
            seen = marked
            if self.removal is not None and self.removal.wanted(step, self._chance()):
                seen = self.removal(marked).float()
            loss, output["fooled"] = self._effect(ensemble, seen, batch, step)
            if batch.paired:
                first, second = (field * budget).flatten(1).chunk(2)
                similarity = F.cosine_similarity(first, second, dim=1)
                excess = (similarity - self.max_similarity).clamp_min(0).mean()
                loss = loss + self.similarity_weight * excess
                output["similarity"] = similarity.mean().item()
        loss.backward()
        nn.utils.clip_grad_norm_(self.generator.parameters(), 1.0)
        self.optimizer.step()
        if self.removal is not None:
            error = self.removal.learn(marked, batch.clean, step)
            output |= {} if error is None else {"removal": error}
        return {"loss": loss.item(), **output}

    def _draw(self, batchdata: Mapping[str, Any], step: int) -> _Batch:
        """Images with budgets, logos, flips and latents of a step."""
        keys = (CommonKeys.IMAGE, CLEAN, CommonKeys.LABEL, BUDGET, FITTED, JUDGED)
        drawn = [batchdata[key].to(self.state.device) for key in keys]
        if self._chance() < 0.5:
            drawn = [maps.flip(-1) if maps.ndim == 4 else maps for maps in drawn]
        paired = self.pair_every > 0 and step % self.pair_every == 0
        if paired:  # as many images as in other steps, so that no step takes longer
            drawn = [t[: max(1, len(t) // 2)].repeat(2, *[1] * (t.ndim - 1)) for t in drawn]
        images, clean, labels, budget, fitted, judged = drawn
        low, high = self.gain
        gains = torch.rand((len(budget), 1, 1, 1), generator=self.random).to(budget) * (high - low) + low
        latent = torch.randn((len(images), LATENT_SIZE), generator=self.random).to(images)
        return _Batch(clean, images, labels.long(), budget, fitted, judged, gains, latent, paired)

    def _effect(self, ensemble: SurrogateEnsemble, seen: Tensor, batch: _Batch, step: int) -> tuple[Tensor, float]:
        """Loss against the drawn surrogates, and the share of them that errs."""
        views = self.diversity(seen, self.random)
        everyone = [*ensemble.members, *ensemble.robust]
        drawn = torch.randperm(len(everyone), generator=self.random)[: self.members_per_step].tolist()
        compare = self.feature_weight > 0 and step % self.feature_every == 0
        losses, errors = [], []
        for number in drawn:
            member = everyone[number]
            logits, features = logits_and_features(member, views)
            truth = F.one_hot(batch.labels, logits.shape[1]).float()
            loss = expected_margin(logits.float(), truth, self.margin_floor).mean()
            if compare:
                with torch.no_grad():
                    _, plain = logits_and_features(member, batch.clean)
                loss = loss + self.feature_weight * F.cosine_similarity(features, plain, dim=1).mean()
            losses.append(loss)
            errors.append((logits.argmax(1) != batch.labels).float().mean())
        return torch.stack(losses).mean(), torch.stack(errors).mean().item()

    def _chance(self) -> float:
        """A number from [0, 1)."""
        return float(torch.rand((), generator=self.random))


def logits_and_features(surrogate: Surrogate, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits ``(B, classes)`` and what the last linear layer (or, without one, the last layer) takes in, ``(B, n)``.

    Args:
        surrogate: any classifier.
        images: ``(B, 1 or 3, h, w)`` in [0, 1].
    """
    layers = [module for module in surrogate.modules() if not list(module.children())]
    last = next((layer for layer in reversed(layers) if isinstance(layer, nn.Linear)), layers[-1])
    taken: list[Tensor] = []
    handle = last.register_forward_pre_hook(lambda _module, inputs: taken.append(inputs[0]))
    try:
        logits: Tensor = surrogate(images)
    finally:
        handle.remove()
    return logits, taken[-1].flatten(1).float()


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

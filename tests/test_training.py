# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Training of the generator on tiny random networks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.handlers import CheckpointSaver
from networks import CLASSES, ensemble, generator

from monai_miadmark.budget import Visibility
from monai_miadmark.diversity import InputDiversity
from monai_miadmark.generator import LATENT_SIZE
from monai_miadmark.perturbers import EnsembleCritic
from monai_miadmark.surrogates import expected_margin
from monai_miadmark.training import BUDGET, GeneratorTrainer, LogoPlanes, SoftBudgetd, resume

CPU = torch.device("cpu")
ALPHA = np.full((4, 6), 255, np.uint8)


def batches(count: int = 2, size: int = 2) -> list[dict[str, torch.Tensor]]:
    rng = torch.Generator().manual_seed(0)
    return [
        {
            "image": torch.rand((size, 1, 24, 20), generator=rng),
            "label": torch.randint(CLASSES, (size,), generator=rng),
            BUDGET: torch.full((size, 1, 24, 20), 12 / 255),
        }
        for _ in range(count)
    ]


def trainer(epochs: int = 1, handlers: Sequence[Any] = (), loader: Any = None, **more: Any) -> GeneratorTrainer:
    network = more.pop("generator", None) or generator()
    return GeneratorTrainer(
        CPU,
        epochs,
        loader or batches(),
        network,
        more.pop("ensemble", None) or ensemble(3),
        torch.optim.Adam(network.parameters(), 1e-3),
        InputDiversity(),
        LogoPlanes([ALPHA]),
        train_handlers=list(handlers),
        **more,
    )


def objects(engine: GeneratorTrainer) -> dict[str, Any]:
    return {"generator": engine.generator, "optimizer": engine.optimizer, "trainer": engine}


def state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


class TestGeneratorTrainer:
    def test_two_iterations_change_the_generator_and_nothing_else(self) -> None:
        network, group, data = generator(), ensemble(), batches()
        copies = [{k: v.clone() for k, v in batch.items()} for batch in data]
        before, surrogates = state(network), state(group)
        engine = trainer(generator=network, ensemble=group, loader=data)
        engine.run()
        assert engine.state.iteration == 2
        assert all(not torch.equal(before[name], value) for name, value in network.state_dict().items())
        assert all(torch.equal(surrogates[name], value) for name, value in group.state_dict().items())
        assert not any(module.training for module in group.modules())
        assert all(parameter.grad is None for parameter in group.parameters())
        assert all(torch.equal(a[k], b[k]) for a, b in zip(data, copies, strict=True) for k in a)

    def test_reports_finite_figures(self) -> None:
        engine, seen = trainer(), []
        engine.add_event_handler(Events.ITERATION_COMPLETED, lambda e: seen.append(e.state.output))
        engine.run()
        for output in seen:
            assert set(output) == {"loss", "fooled", "similarity"}
            assert np.isfinite(list(output.values())).all()
            assert 0 <= output["fooled"] <= 1 and -1 <= output["similarity"] <= 1 + 1e-5

    def test_a_seed_repeats_a_run(self) -> None:
        def weights(seed: int) -> torch.Tensor:
            engine = trainer(seed=seed)
            engine.run()
            return torch.cat([p.detach().flatten() for p in engine.generator.parameters()])

        assert torch.equal(weights(1), weights(1))
        assert not torch.equal(weights(1), weights(2))

    def test_training_makes_fields_that_mislead_more(self) -> None:
        network, group, data = generator(), ensemble(), batches(1, 4)
        data[0][BUDGET].fill_(48 / 255)
        latents = torch.randn((4, LATENT_SIZE), generator=torch.Generator().manual_seed(9))
        truth = torch.nn.functional.one_hot(data[0]["label"], CLASSES).float()

        def mean_margin() -> float:
            with torch.inference_mode():
                field = network(data[0]["image"], data[0][BUDGET], latents)
                marked = (data[0]["image"] + field * data[0][BUDGET]).clamp(0, 1)
                return float(torch.stack([expected_margin(z, truth) for z in group(marked)]).mean())

        before = mean_margin()
        engine = trainer(30, generator=network, ensemble=group, loader=data, max_similarity=1.0)
        engine.diversity, engine.logos = InputDiversity(chance=0), None
        engine.run()
        assert mean_margin() < before - 0.02

    def test_fields_that_ignore_the_latent_are_penalized(self) -> None:
        """With all similarity forbidden the loss is the effect plus twice what two latents have in common."""
        outputs = []
        for limit in (1.0, -1.0):
            engine = trainer(loader=batches(1), max_similarity=limit, seed=3)
            engine.run()
            outputs.append(engine.state.output)
        assert outputs[0]["similarity"] == pytest.approx(outputs[1]["similarity"])
        expected = outputs[0]["loss"] + 2 * (outputs[1]["similarity"] + 1)
        assert outputs[1]["loss"] == pytest.approx(expected, rel=1e-3)


class TestResume:
    def test_goes_on_from_the_newest_checkpoint(self, tmp_path: Path) -> None:
        first = trainer(2)
        CheckpointSaver(str(tmp_path), objects(first), file_prefix="generator", save_interval=1, n_saved=1).attach(
            first
        )
        first.run()
        assert len(list(tmp_path.glob("generator_*.pt"))) == 1

        second = trainer(3)
        resume(second, objects(second), tmp_path)
        assert (second.state.iteration, second.state.epoch, second.state.max_epochs) == (4, 2, 3)
        assert all(torch.equal(v, second.generator.state_dict()[k]) for k, v in first.generator.state_dict().items())
        epochs: list[int] = []
        second.add_event_handler(Events.EPOCH_STARTED, lambda e: epochs.append(e.state.epoch))
        second.run()
        assert epochs == [3] and second.state.iteration == 6

    def test_a_finished_training_is_not_begun_again(self, tmp_path: Path) -> None:
        first = trainer(2)
        CheckpointSaver(str(tmp_path), objects(first), file_prefix="generator", save_interval=1).attach(first)
        first.run()
        second = trainer(2)
        resume(second, objects(second), tmp_path)
        before = state(second.generator)
        second.run()
        assert second.state.iteration == 4
        assert all(torch.equal(before[k], v) for k, v in second.generator.state_dict().items())

    def test_without_a_checkpoint_nothing_happens(self, tmp_path: Path) -> None:
        engine = trainer()
        before = state(engine.generator)
        resume(engine, objects(engine), tmp_path)
        resume(engine, objects(engine), tmp_path / "absent")
        assert engine.state.iteration == 0
        assert all(torch.equal(before[k], v) for k, v in engine.generator.state_dict().items())


class TestSoftBudgetd:
    def test_adds_a_budget_and_leaves_the_dictionary(self) -> None:
        critic = EnsembleCritic(ensemble())
        data = {"image": torch.rand(1, 40, 36), "label": 1}
        out = SoftBudgetd("image", critic)(data)
        assert set(data) == {"image", "label"} and out["image"] is data["image"]
        budget = out[BUDGET]
        assert budget.shape == (1, 40, 36) and budget.dtype == torch.float32
        assert 0 < budget.max() <= Visibility().ceiling + 1e-6 and budget.min() >= 0

    def test_the_salient_box_gets_little(self) -> None:
        critic = EnsembleCritic(ensemble())
        image = torch.rand(1, 40, 40)
        much = SoftBudgetd("image", critic, region_budget=1)({"image": image})[BUDGET]
        little = SoftBudgetd("image", critic, region_budget=0)({"image": image})[BUDGET]
        assert (little <= much).all() and (little == 0).any() and (much > 0).all()


class TestLogoPlanes:
    SHAPE = torch.Size((40, 1, 24, 20))

    def test_places_whole_logos_on_a_share_of_images(self) -> None:
        planes = LogoPlanes([ALPHA], chance=0.5)(self.SHAPE, torch.Generator().manual_seed(1))
        assert planes.shape == self.SHAPE
        ink = planes.sum((1, 2, 3))
        assert set(ink.tolist()) == {0.0, float(ALPHA.size)}
        assert 8 < (ink > 0).sum() < 32
        corners = {tuple(torch.nonzero(p[0])[0].tolist()) for p in planes if p.any()}
        assert len(corners) > 5

    def test_chance_zero_and_one(self) -> None:
        rng = torch.Generator().manual_seed(1)
        assert not LogoPlanes([ALPHA], chance=0)(self.SHAPE, rng).any()
        assert LogoPlanes([ALPHA], chance=1)(self.SHAPE, rng).flatten(1).any(1).all()

    def test_logos_larger_than_the_image_are_left_out(self) -> None:
        rng = torch.Generator().manual_seed(1)
        assert not LogoPlanes([ALPHA], chance=1)(torch.Size((4, 3, 3, 20)), rng).any()
        exact = LogoPlanes([ALPHA], chance=1)(torch.Size((4, 3, 4, 6)), rng)
        assert exact.shape == (4, 1, 4, 6) and (exact == 1).all()

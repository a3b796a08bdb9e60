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
from bundle_copies import tiny_bundle
from ignite.engine import Events
from image_sets import image_set
from monai.bundle import ConfigParser
from monai.handlers import CheckpointSaver
from networks import CLASSES, SIDE, classifier, ensemble, generator

from monai_miadmark.appearance import Appearance
from monai_miadmark.budget import Visibility, fit_to_likeness
from monai_miadmark.critic import EnsembleCritic
from monai_miadmark.diversity import InputDiversity
from monai_miadmark.generator import LATENT_SIZE
from monai_miadmark.modalities import ModalityBatches, modality_datasets, modality_ensembles
from monai_miadmark.options import PRESETS
from monai_miadmark.probe import FooledProbe
from monai_miadmark.removal_loop import RemovalLoop, ResidualRemover
from monai_miadmark.soft_likeness import SoftLikeness, fitted_budget
from monai_miadmark.surrogates import Surrogate, SurrogateEnsemble, expected_margin, load_pretrained, save_weights
from monai_miadmark.training import GeneratorTrainer, logits_and_features, resume
from monai_miadmark.training_images import BUDGET, CLEAN, FITTED, JUDGED, PlannedMarkd, guided_critics

CPU = torch.device("cpu")
EVERYTHING = Visibility(psnr=0.0, ssim=0.0, ceiling=1.0)
"""A likeness that asks for nothing: amplitudes double."""


def planned(image: torch.Tensor, budget: float) -> dict[str, torch.Tensor]:
    """Images ``(..., C, h, w)`` without a logo, with one amplitude that likeness decides everywhere."""
    plane = image[..., :1, :, :]
    everywhere = torch.ones_like(plane, dtype=torch.bool)
    amplitude = torch.full_like(plane, budget)
    return {"image": image, CLEAN: image.clone(), BUDGET: amplitude, FITTED: everywhere, JUDGED: everywhere.clone()}


def batches(count: int = 2, size: int = 2) -> list[dict[str, torch.Tensor]]:
    rng = torch.Generator().manual_seed(0)
    return [
        planned(torch.rand((size, 1, 24, 20), generator=rng), 12 / 255)
        | {"label": torch.randint(CLASSES, (size,), generator=rng)}
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
        more.pop("visibility", EVERYTHING),
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
        # A bias in front of a normalization has next to no gradient.
        moved = [not torch.equal(before[name], value) for name, value in network.state_dict().items()]
        assert sum(moved) > 0.85 * len(moved)
        assert all(torch.equal(surrogates[name], value) for name, value in group.state_dict().items())
        assert not any(module.training for module in group.modules())
        assert all(parameter.grad is None for parameter in group.parameters())
        assert all(torch.equal(a[k], b[k]) for a, b in zip(data, copies, strict=True) for k in a)

    def test_reports_finite_figures(self) -> None:
        engine, seen = trainer(), []
        engine.add_event_handler(Events.ITERATION_COMPLETED, lambda e: seen.append(e.state.output))
        engine.run()
        for output in seen:
            assert {"loss", "fooled"} <= set(output) <= {"loss", "fooled", "similarity", "removal"}
            assert np.isfinite(list(output.values())).all()
            assert 0 <= output["fooled"] <= 1 and -1 <= output.get("similarity", 0) <= 1 + 1e-5

    def test_a_seed_repeats_a_run(self) -> None:
        def weights(seed: int) -> torch.Tensor:
            engine = trainer(seed=seed)
            engine.run()
            return torch.cat([p.detach().flatten() for p in engine.generator.parameters()])

        assert torch.equal(weights(1), weights(1))
        assert not torch.equal(weights(1), weights(2))

    def test_training_makes_fields_that_mislead_more(self) -> None:
        network, group, data = generator(), ensemble(), batches(1, 4)
        data[0][BUDGET].fill_(24 / 255)
        latents = torch.randn((4, LATENT_SIZE), generator=torch.Generator().manual_seed(9))
        truth = torch.nn.functional.one_hot(data[0]["label"], CLASSES).float()

        def mean_margin() -> float:
            with torch.inference_mode():
                field = network(data[0]["image"], data[0][BUDGET], latents)
                marked = (data[0]["image"] + field * 2 * data[0][BUDGET]).clamp(0, 1)
                return float(torch.stack([expected_margin(z, truth) for z in group(marked)]).mean())

        before = mean_margin()
        engine = trainer(
            30, generator=network, ensemble=group, loader=data, feature_weight=0, pair_every=0, gain=(1, 1)
        )
        engine.diversity = InputDiversity(chance=0)
        engine.run()
        assert mean_margin() < before - 0.02

    def test_fields_that_ignore_the_latent_are_penalized(self) -> None:
        """With all similarity forbidden the loss is the effect plus the weight of what two latents have in common."""
        outputs = []
        for limit in (1.0, -1.0):
            engine = trainer(loader=batches(1), max_similarity=limit, seed=3)
            engine.run()
            outputs.append(engine.state.output)
        assert outputs[0]["similarity"] == pytest.approx(outputs[1]["similarity"])
        expected = outputs[0]["loss"] + 4 * (outputs[1]["similarity"] + 1)
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


def items(count: int, channels: int, side: int = 32) -> list[dict[str, Any]]:
    rng = torch.Generator().manual_seed(channels)
    return [
        planned(torch.rand((channels, side, side), generator=rng), 16 / 255) | {"label": i % CLASSES}
        for i in range(count)
    ]


def two_modalities() -> dict[str, SurrogateEnsemble]:
    """Gray with three classes, color with five."""
    color = SurrogateEnsemble([Surrogate(classifier(i, 5), f"color{i}", SIDE) for i in range(2)])
    return {"gray": ensemble(2), "color": color}


def removal(**more: Any) -> RemovalLoop:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return RemovalLoop(ResidualRemover((4, 4, 4, 4, 4, 4)), **more)


BOTH = {"gray": items(7, 1), "color": items(3, 3)}


class TestModalityBatches:
    def test_modalities_take_turns_and_passes_are_whole(self) -> None:
        batches = ModalityBatches(BOTH, 3, seed=1)
        drawn = [batch for batch, _ in zip(batches, range(8), strict=False)]
        assert [b["modality"] for b in drawn] == ["gray", "color"] * 4
        assert [tuple(b["image"].shape) for b in drawn[:2]] == [(3, 1, 32, 32), (3, 3, 32, 32)]
        assert len(batches) == 4
        seen = torch.cat([drawn[0]["image"], drawn[2]["image"]]).flatten(1).sum(1)
        assert len(set(seen.tolist())) == 6

    def test_a_step_is_the_same_wherever_one_starts(self) -> None:
        batches, later = ModalityBatches(BOTH, 3, seed=1), ModalityBatches(BOTH, 3, seed=1)
        later.seek(5)
        wanted = [batch for batch, _ in zip(batches, range(7), strict=False)][5:]
        for batch, other in zip(wanted, later, strict=False):
            assert batch["modality"] == other["modality"] and torch.equal(batch["image"], other["image"])
        assert len(ModalityBatches(BOTH, 3, seed=20230309).batch(10**9)["label"]) == 3  # no overflow
        assert not torch.equal(batches.batch(0)["image"], ModalityBatches(BOTH, 3, seed=2).batch(0)["image"])

    def test_small_modalities_and_none(self) -> None:
        assert len(ModalityBatches(BOTH, 5).batch(1)["label"]) == 3
        for nothing in ({}, {"gray": []}):
            with pytest.raises(ValueError, match="image"):
                ModalityBatches(nothing, 2)

    def test_datasets_know_their_modality(self, tmp_path: Path) -> None:
        root = image_set(image_set(tmp_path / "data", "one"), "two")
        made = modality_datasets(["one", "two"], "fit", root, lambda item: dict(item), limit=2)
        assert list(made) == ["one", "two"] and len(made["one"]) == 8
        assert {item["modality"] for item in made["two"]} == {"two"}

    def test_ensembles_have_the_classes_of_their_modality(self, tmp_path: Path) -> None:
        root = tiny_bundle(tmp_path)
        classes, config = {"one": 3, "two": 5}, root / "configs" / "networks.yaml"
        for name in classes:
            parser = ConfigParser()
            parser.read_config(str(config))
            parser.update({"dataset": name, "classes": classes})
            save_weights(parser.get_parsed_content("networks#plain"), root / "models" / f"{name}_plain.pt")
        made = modality_ensembles(config, list(classes), ["plain"], bundle_root=str(root), classes=classes)
        images = torch.rand(1, 3, 128, 128)
        assert {name: group(images)[0].shape[1] for name, group in made.items()} == classes
        assert set(guided_critics(made)) == set(classes)


class TestSeveralModalities:
    def engine(self, epochs: int, handlers: Sequence[Any] = (), **more: Any) -> GeneratorTrainer:
        data = {"gray": items(6, 1), "color": items(6, 3)}
        loader = ModalityBatches(data, 4, seed=3)
        more.setdefault("removal", removal(every=2, share=1.0, start=2))
        return trainer(epochs, handlers, loader, ensemble=two_modalities(), epoch_length=4, **more)

    def test_trains_on_gray_and_color_with_all_parts(self) -> None:
        outputs: list[dict[str, float]] = []
        engine = self.engine(1)
        before = state(engine.removal.remover)  # type: ignore[union-attr]
        engine.add_event_handler(Events.ITERATION_COMPLETED, lambda e: outputs.append(e.state.output))
        engine.run()
        assert ["similarity" in o for o in outputs] == [True, False, False, False]
        assert ["removal" in o for o in outputs] == [True, False, True, False]
        assert all(np.isfinite(list(o.values())).all() for o in outputs)
        assert any(not torch.equal(before[k], v) for k, v in engine.removal.remover.state_dict().items())  # type: ignore[union-attr]

    def test_going_on_is_the_same_as_not_having_stopped(self, tmp_path: Path) -> None:
        def saved(engine: GeneratorTrainer) -> dict[str, Any]:
            return objects(engine) | {"removal": engine.removal}

        whole = self.engine(2)
        whole.run()
        first = self.engine(1)
        CheckpointSaver(str(tmp_path), saved(first), file_prefix="generator", save_interval=1).attach(first)
        first.run()
        second = self.engine(2, generator=generator(7))
        resume(second, saved(second), tmp_path)
        second.run()
        assert second.state.iteration == 8
        for name, value in whole.generator.state_dict().items():
            torch.testing.assert_close(second.generator.state_dict()[name], value)

    def test_surrogates_stay_as_they_are(self) -> None:
        engine = self.engine(1)
        before = [state(group) for group in engine.ensembles.values()]
        engine.run()
        for old, group in zip(before, engine.ensembles.values(), strict=True):
            assert all(torch.equal(old[k], v) for k, v in group.state_dict().items())

    def test_probe_measures_each_surrogate(self) -> None:
        network, groups = generator(), two_modalities()
        data = {"gray": items(5, 1), "color": items(40, 3)}
        probe = FooledProbe(network, groups, data, Visibility(), count=8, interval=2, remover=removal().remover)
        assert {name: len(batch["label"]) for name, batch in probe.batches.items()} == {"gray": 5, "color": 8}
        engine = self.engine(1, [probe], generator=network)
        engine.run()
        names = {f"gray/tiny{i}" for i in range(2)} | {f"color/color{i}" for i in range(2)}
        assert set(engine.state.metrics) == {n + s for n in names for s in ("", "/clean", "/removed")}
        assert all(0 <= value <= 1 for value in engine.state.metrics.values())
        assert network.training


class TestRemovalLoop:
    def test_gradients_reach_the_images_and_not_the_remover(self) -> None:
        loop, images = removal(), torch.rand(2, 1, 32, 32, requires_grad=True)
        cleaned = loop(images)
        cleaned.square().sum().backward()
        assert cleaned.shape == images.shape and 0 <= cleaned.min() and cleaned.max() <= 1
        assert images.grad is not None and images.grad.any()
        assert all(p.grad is None for p in loop.remover.parameters())

    def test_learns_in_its_turn(self) -> None:
        loop, clean = removal(every=3, learning_rate=1e-2), torch.rand(2, 3, 32, 32) * 0.5
        errors = [loop.learn(clean + 0.1, clean, 3 * step) for step in range(40)]
        assert errors[0] is not None and errors[-1] is not None and errors[-1] < 0.7 * errors[0]
        assert loop.learn(clean, clean, 1) is None

    def test_when_it_is_used(self) -> None:
        loop = removal(share=0.5, start=10)
        assert not loop.wanted(9, 0.0) and loop.wanted(10, 0.49) and not loop.wanted(10, 0.5)
        with pytest.raises(ValueError, match="every"):
            removal(every=0)

    def test_its_state_has_the_optimizer(self) -> None:
        loop, other = removal(), removal()
        loop.learn(torch.rand(1, 1, 32, 32), torch.rand(1, 1, 32, 32), 0)
        other.load_state_dict(loop.state_dict())
        assert other.optimizer.state_dict()["state"].keys() == loop.optimizer.state_dict()["state"].keys() != set()


def test_features_are_what_the_last_linear_layer_takes() -> None:
    member = ensemble(1).members[0]
    images = torch.rand(2, 1, 24, 20)
    logits, features = logits_and_features(member, images)
    torch.testing.assert_close(logits, member(images))
    assert features.shape == (2, 128)
    torch.testing.assert_close(member.network[-1](features), logits)
    assert not member.network[-1]._forward_pre_hooks


def test_a_warm_start_takes_what_fits(tmp_path: Path) -> None:
    given, network = generator(1), generator(2)
    saved = {name: value for name, value in given.state_dict().items() if not name.startswith("leave")}
    torch.save(saved | {"leave.conv.weight": torch.zeros(16, 8, 3, 3)}, tmp_path / "model.pt")
    left = load_pretrained(network, tmp_path / "model.pt")
    assert left == [f"leave.{name}" for name in ("conv.bias", "conv.weight")]
    assert torch.equal(network.enter.conv.weight, given.enter.conv.weight)


class TestPlannedMarkd:
    IMAGE = torch.rand((1, 64, 60), generator=torch.Generator().manual_seed(5))

    def made(self, **more: Any) -> dict[Any, Any]:
        return PlannedMarkd("image", EnsembleCritic(ensemble()), **more)({"image": self.IMAGE, "label": 1})

    def test_adds_what_a_field_has_to_know_and_leaves_the_dictionary(self) -> None:
        data = {"image": self.IMAGE, "label": 1}
        out = PlannedMarkd("image", EnsembleCritic(ensemble()))(data)
        assert set(data) == {"image", "label"} and data["image"] is self.IMAGE
        assert set(out) == {"image", "label", CLEAN, BUDGET, FITTED, JUDGED}
        torch.testing.assert_close(out[CLEAN], self.IMAGE, atol=0.5 / 255 + 1e-6, rtol=0)
        assert out[BUDGET].shape == (1, 64, 60) and out[BUDGET].dtype == torch.float32 and out[BUDGET].min() >= 0
        assert all(out[key].shape == (1, 64, 60) and out[key].dtype == torch.bool for key in (FITTED, JUDGED))

    def test_the_logo_is_in_the_image_and_has_a_budget_of_its_own(self) -> None:
        out = self.made()
        ink = (out["image"] != out[CLEAN]).any(0, keepdim=True)
        logo = ~out[JUDGED]
        assert ink.any() and not (ink & out[JUDGED]).any() and not (logo & out[FITTED]).any()
        preset = PRESETS["fast"]
        # Blocks have one scale: those that reach into the salient box keep to its budget.
        assert out[BUDGET][logo].median() >= preset.footprint - 1 / 255
        # Blocks beside the footprint share its scale.
        assert out[BUDGET][out[FITTED]].median() <= preset.visibility.ceiling + 1e-6

    def test_the_salient_box_gets_little_and_is_judged_but_not_fitted(self) -> None:
        out = self.made(invisible=1.0)
        inside = ~out[FITTED]
        assert inside.any() and out[JUDGED].all() and torch.equal(out["image"], out[CLEAN])
        assert 0 < out[BUDGET][inside].max() <= 3 / 255 + 1e-6 and out[BUDGET][~inside].max() > 3 / 255

    def test_what_a_logo_says_follows_from_the_image(self) -> None:
        texts = [chr(65 + i) * 6 for i in range(20)]
        critic = EnsembleCritic(ensemble())
        images = [torch.rand((1, 48, 48), generator=torch.Generator().manual_seed(i)) for i in range(6)]

        def logos(some: float) -> list[torch.Tensor]:
            made = PlannedMarkd("image", critic, texts=texts, invisible=some)
            return [made({"image": image})["image"] - image for image in images]

        assert all(torch.equal(a, b) for a, b in zip(logos(0.5), logos(0.5), strict=True))
        shown = [bool((logo.abs() > 0.01).any()) for logo in logos(0.5)]
        assert any(shown) and not all(shown)

    def test_each_modality_has_its_critic(self) -> None:
        critics = {
            "one": EnsembleCritic(ensemble()),
            "two": EnsembleCritic(SurrogateEnsemble([ensemble(3).members[2]])),
        }
        for name, critic in critics.items():
            out = PlannedMarkd("image", critics)({"image": self.IMAGE, "modality": name})
            expected = PlannedMarkd("image", critic)({"image": self.IMAGE})
            assert all(torch.equal(out[key], expected[key]) for key in expected)

    def test_nonsense_is_refused(self) -> None:
        for more in ({"texts": ()}, {"invisible": 1.5}):
            with pytest.raises(ValueError, match="texts"):
                self.made(**more)


class TestFittedBudget:
    """The estimate in one go, against what protection finds by trying."""

    def test_agrees_with_protection(self) -> None:
        model = Visibility()
        rng = np.random.default_rng(0)
        y, x = np.mgrid[:64, :60]
        clean = (0.5 + 0.3 * np.sin(x / 5) * np.cos(y / 4) + rng.normal(0, 0.05, (1, 1, 64, 60))).clip(0, 1)
        clean = clean.astype(np.float32)
        levels = rng.choice([-1.0, -0.5, 0.5, 1.0], clean.shape).astype(np.float32)
        region, logo = np.zeros((2, 1, 64, 60), bool)
        budget = np.full((1, 64, 60), 10 / 255)
        tried = fit_to_likeness(clean, Appearance(clean), levels, budget, model, region, 0.0, logo)
        tensors = [torch.from_numpy(a) for a in (clean, levels, budget[:, None].astype(np.float32))]
        everywhere = torch.ones(1, 1, 64, 60, dtype=torch.bool)
        likeness = SoftLikeness(tensors[0], everywhere)
        made = fitted_budget(likeness, tensors[0], tensors[1], tensors[2], everywhere, model)
        assert float(made.mean()) == pytest.approx(tried.mean(), rel=0.05)
        assert not np.isclose(tried.mean(), budget.mean(), rtol=0.05)

    def test_what_is_not_fitted_stays_and_nothing_passes_the_ceiling(self) -> None:
        image = torch.rand(2, 3, 32, 32)
        fitted = torch.zeros(2, 1, 32, 32, dtype=torch.bool)
        fitted[..., :16, :] = True
        budget = torch.full((2, 1, 32, 32), 12 / 255)
        likeness = SoftLikeness(image, torch.ones_like(fitted))
        levels = torch.full((2, 1, 32, 32), 0.5)
        made = fitted_budget(likeness, image, levels, budget, fitted, Visibility(0.0, 0.0, ceiling=20 / 255))
        torch.testing.assert_close(made[~fitted], budget[~fitted])
        torch.testing.assert_close(made[fitted], torch.full_like(made[fitted], 20 / 255))

    def test_gradients_tell_that_noise_costs_more_than_brightness(self) -> None:
        rng = torch.Generator().manual_seed(0)
        image = 0.5 + 0.05 * torch.randn(1, 1, 40, 40, generator=rng)
        everywhere = torch.ones(1, 1, 40, 40, dtype=torch.bool)
        likeness = SoftLikeness(image, everywhere)
        noise = torch.randn(1, 1, 40, 40, generator=rng).sign() * 0.03
        slow = torch.full_like(noise, 0.03)
        model = Visibility(psnr=0.0, ssim=0.88)
        costs = [float(likeness.cost(image + change, model)) for change in (noise, slow)]
        assert costs[0] > 2 * costs[1]
        share = torch.tensor(0.5, requires_grad=True)
        likeness.cost(image + share * noise + (1 - share) * slow, model).sum().backward()
        assert share.grad is not None and share.grad > 0

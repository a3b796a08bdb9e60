# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Perturbers and the critic on tiny random networks."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from networks import SIDE, classifier, ensemble, flat_budget, generator, pictures

from monai_miadmark import gradient_steps, stacks
from monai_miadmark.budget import Visibility
from monai_miadmark.critic import EnsembleCritic
from monai_miadmark.descent import Guides, guides_among
from monai_miadmark.diversity import InputDiversity, gaussian_blur
from monai_miadmark.generator import LATENT_SIZE
from monai_miadmark.gradient_steps import GradientPerturber
from monai_miadmark.marking import MarkCritic, Perturber
from monai_miadmark.perturbers import (
    GeneratorPerturber,
    field_channels,
    latent_tensor,
    random_generator,
)
from monai_miadmark.soft_likeness import SoftLikeness, away_from_logo
from monai_miadmark.surrogates import Surrogate, SurrogateEnsemble, attack_margin, to_square

LATENT, OTHER = b"a" * 32, b"b" * 32


def by_generator() -> GeneratorPerturber:
    return GeneratorPerturber(generator())


def by_guided_generator() -> GeneratorPerturber:
    return by_generator().guided_by(Guides(list(ensemble().members)))  # type: ignore[arg-type]


def by_gradient(**more: Any) -> GradientPerturber:
    return GradientPerturber(ensemble(), **{"steps": 3, **more})


def by_both() -> GradientPerturber:
    return by_gradient(start=by_generator())


MAKERS = [by_generator, by_guided_generator, by_gradient, by_both]


@pytest.fixture(params=MAKERS, ids=lambda make: make.__name__)
def perturber(request: pytest.FixtureRequest) -> Perturber:
    made: Perturber = request.param()
    return made


def effect(fields: np.ndarray, images: np.ndarray, budget: np.ndarray, group: SurrogateEnsemble) -> float:
    """How far fields mislead an ensemble, as they will be stored: at five levels."""
    marked = np.clip(images + np.round(fields * 2) / 2 * budget, 0, 1)
    return float(EnsembleCritic(group).effect(marked.astype(np.float32), images).mean())


class TestProtocol:
    @pytest.mark.parametrize("size", [(1, 1), (1, 9), (17, 5), (24, 20)])
    @pytest.mark.parametrize("channels", [1, 2, 3, 4])
    def test_shape_type_and_range(self, perturber: Perturber, size: tuple[int, int], channels: int) -> None:
        images = pictures(2, *size, channels)
        fields = perturber.perturb(images, images, flat_budget(2, *size), LATENT)
        assert fields.shape == (2, field_channels(channels), *size) and fields.dtype == np.float32
        assert np.isfinite(fields).all() and np.abs(fields).max() <= 1

    @pytest.mark.parametrize(("channels", "planes"), [(1, 1), (2, 1), (3, 3), (4, 1)])
    def test_colors_alone_get_a_plane_each(self, channels: int, planes: int) -> None:
        assert field_channels(channels) == planes

    def test_planes_of_a_color_image_differ(self, perturber: Perturber) -> None:
        images = pictures(2, channels=3)
        fields = perturber.perturb(images, images, flat_budget(), LATENT)
        assert not np.array_equal(fields[:, 0], fields[:, 1]) and not np.array_equal(fields[:, 1], fields[:, 2])

    @pytest.mark.parametrize("make", MAKERS)
    def test_signature(self, make: Callable[[], Perturber]) -> None:
        assert list(inspect.signature(make().perturb).parameters) == ["images", "clean", "budget", "latent"]

    def test_long_stacks_go_in_batches(self, perturber: Perturber, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(stacks, "BATCH", 3)
        images = pictures(7, 9, 8)
        assert perturber.perturb(images, images, flat_budget(7, 9, 8), LATENT).shape == (7, 1, 9, 8)

    def test_batches_grow_with_the_memory_of_a_gpu(self) -> None:
        """A CPU has caches instead; what a batch is must not change between calls, so no free memory is asked."""
        assert stacks.batch_size(torch.device("cpu")) == stacks.BATCH == 8
        sizes = [stacks.batch_for(gigabytes << 30) for gigabytes in (1, 4, 8, 12, 24, 80, 140)]
        assert sizes == [8, 8, 16, 16, 32, 128, 128]

    def test_the_arrays_of_the_caller_stay(self, perturber: Perturber) -> None:
        arrays = [pictures(), pictures(), flat_budget()]
        copies = [array.copy() for array in arrays]
        perturber.perturb(*arrays, LATENT)
        assert all(np.array_equal(a, b) for a, b in zip(arrays, copies, strict=True))


class TestGuides:
    def test_a_guided_generator_misleads_those_it_hears(self) -> None:
        """Nothing is trained here: random weights alone mislead nobody, and what guides tell gets half of the way."""
        images, budget, group = pictures(4, SIDE, SIDE), flat_budget(4, SIDE, SIDE), ensemble()
        nothing = effect(np.zeros_like(images), images, budget, group)

        def gain(perturber: Perturber) -> float:
            return effect(perturber.perturb(images, images, budget, LATENT), images, budget, group) - nothing

        alone, steps = gain(by_generator()), gain(by_gradient())
        assert alone < 0.1 * steps and gain(by_generator().guided_by(Guides(list(group.members)))) > 0.4 * steps  # type: ignore[arg-type]

    def test_the_network_is_shared(self) -> None:
        alone = by_generator()
        guides = Guides(guides_among(ensemble(3)))
        guided = alone.guided_by(guides)
        assert guided.generator is alone.generator and guided.guides is guides and alone.guides is None

    def test_it_hears_of_the_image_without_its_logo(self) -> None:
        images, clean, budget, perturber = (
            pictures(2, 30, 30),
            pictures(3, 30, 30)[1:],
            flat_budget(2, 30, 30),
            by_guided_generator(),
        )
        perturber.perturb(images, clean, budget, LATENT)
        assert perturber.guides is not None and perturber.guides.directions(clean) is perturber.guides.directions(clean)
        unheard = perturber.guides.directions(images)
        assert not np.array_equal(unheard, perturber.guides.directions(clean))


class TestLatent:
    def test_same_latent_same_field(self, perturber: Perturber) -> None:
        given = pictures(), pictures(), flat_budget()
        first = perturber.perturb(*given, LATENT)
        torch.rand(5)  # the global state has no say
        assert np.array_equal(first, perturber.perturb(*given, LATENT))

    def test_other_latent_other_field(self, perturber: Perturber) -> None:
        given = pictures(), pictures(), flat_budget()
        assert not np.array_equal(perturber.perturb(*given, LATENT), perturber.perturb(*given, OTHER))

    def test_no_global_random_state_is_touched(self, perturber: Perturber) -> None:
        torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
        perturber.perturb(pictures(), pictures(), flat_budget(), LATENT)
        assert torch.equal(torch_state, torch.get_rng_state())
        assert np.array_equal(numpy_state, np.random.get_state()[1])

    def test_slices_have_latents_of_their_own(self) -> None:
        latents = latent_tensor(LATENT, 3)
        assert latents.shape == (3, LATENT_SIZE) and not torch.equal(latents[0], latents[1])
        assert torch.equal(latents, latent_tensor(LATENT, 3))

    def test_purposes_have_seeds_of_their_own(self) -> None:
        drawn = [torch.rand(4, generator=random_generator(k, p)) for k in (LATENT, OTHER) for p in ("latent", "start")]
        assert len({tuple(d.tolist()) for d in drawn}) == 4


class TestBudget:
    def test_without_budget_a_field_changes_nothing(self, perturber: Perturber) -> None:
        images, none = pictures(), flat_budget(amplitude=0)
        fields = perturber.perturb(images, images, none, LATENT)
        assert np.isfinite(fields).all() and np.array_equal(images + fields * none, images)

    def test_gradient_steps_leave_cells_without_budget_where_they_began(self) -> None:
        budget = flat_budget()
        budget[:, :, :12] = 0
        given = pictures(), pictures(), budget
        start = by_generator()
        fields = by_gradient(start=start, diversity=(), coarse=0.0).perturb(*given, LATENT)
        moved = np.abs(fields - start.perturb(*given, LATENT))
        # The smoothed gradient reaches a few cells across the border.
        assert not moved[:, :, :6].any() and moved[:, :, 12:].all()


class TestThrift:
    MODEL = Visibility(psnr=28.0, ssim=0.88)

    def used(self, thrift: float, **more: Any) -> tuple[float, float]:
        """Share of the likeness that fields use up, and how far they mislead when amplitudes use up all of it."""
        group, images, budget = ensemble(), pictures(4, 40, 36), flat_budget(4, 40, 36)
        made = GradientPerturber(group, 12, visibility=self.MODEL, thrift=thrift, persistence=0, **more)
        fields = made.perturb(images, images, budget, LATENT)
        clean, changed = torch.from_numpy(images), torch.from_numpy((images + fields * budget).clip(0, 1))
        cost = SoftLikeness(clean, torch.ones_like(clean, dtype=torch.bool)).cost(changed, self.MODEL).numpy()
        fitted = budget / np.sqrt(cost)[:, None, None, None]
        return float(cost.mean()), effect(fields, images, fitted.astype(np.float32), group)

    def test_what_hardly_misleads_is_given_up(self) -> None:
        (lavish, before), (thrifty, after) = (self.used(thrift) for thrift in (0.0, 0.3))
        assert thrifty < 0.9 * lavish and after > before

    def test_a_weight_of_zero_is_none(self) -> None:
        given = pictures(), pictures(), flat_budget()
        plain = by_gradient(visibility=self.MODEL, thrift=0.0).perturb(*given, LATENT)
        assert np.array_equal(plain, by_gradient(visibility=self.MODEL, thrift=0.0).perturb(*given, LATENT))
        assert not np.array_equal(plain, by_gradient(visibility=self.MODEL).perturb(*given, LATENT))
        assert not np.array_equal(plain, by_gradient().perturb(*given, LATENT))  # no limits, no fitted amplitude

    def test_under_the_logo_nothing_is_seen(self) -> None:
        clean = torch.from_numpy(pictures(1, 40, 36))
        logo, changed = clean.clone(), clean.clone()
        logo[..., 8:30, 8:30] = 1 - logo[..., 8:30, 8:30]
        judged = away_from_logo(logo, clean)
        inside = torch.zeros_like(judged)
        inside[..., 6:32, 6:32] = True
        assert torch.equal(judged, ~inside)
        changed[..., 14:24, 14:24] = 0
        assert SoftLikeness(clean, judged).cost(changed, self.MODEL).item() == pytest.approx(0, abs=1e-4)
        changed[..., 2:4, 14:24] = 0
        assert SoftLikeness(clean, judged).cost(changed, self.MODEL).item() > 0.1


class TestGradientSteps:
    def test_mislead_more_than_random_signs(self) -> None:
        group, images, budget = ensemble(), pictures(4), flat_budget(4)
        fields = GradientPerturber(group, steps=8).perturb(images, images, budget, LATENT)
        rng = np.random.default_rng(0)
        noise = [effect(rng.choice([-1.0, 1.0], fields.shape), images, budget, group) for _ in range(8)]
        nothing = effect(np.zeros_like(fields), images, budget, group)
        reached = effect(fields, images, budget, group)
        assert reached > max(noise) and reached > nothing

    def test_more_steps_mislead_more(self) -> None:
        group, images, budget = ensemble(), pictures(4), flat_budget(4)
        few, many = (
            effect(
                GradientPerturber(group, n, diversity=()).perturb(images, images, budget, LATENT),
                images,
                budget,
                group,
            )
            for n in (1, 12)
        )
        assert many > few

    def test_start_from_the_generator_and_improve_on_it(self) -> None:
        group, images, budget = ensemble(), pictures(4), flat_budget(4)
        start = by_generator()
        before = effect(start.perturb(images, images, budget, LATENT), images, budget, group)
        refined = GradientPerturber(group, 6, start).perturb(images, images, budget, LATENT)
        assert effect(refined, images, budget, group) > before

    def test_what_is_misled_is_the_view_of_the_clean_image(self) -> None:
        """With a logo in the image the classes are those that the ensemble sees without it."""
        group, clean, budget = ensemble(), pictures(2), flat_budget(2)
        logo = clean.copy()
        logo[:, :, :8] = 1
        fields = GradientPerturber(group, 3, diversity=()).perturb(logo, clean, budget, LATENT)
        other = GradientPerturber(group, 3, diversity=()).perturb(logo, 1 - clean, budget, LATENT)
        assert not np.array_equal(fields, other)

    def test_need_a_step(self) -> None:
        with pytest.raises(ValueError, match="steps must be at least 1, not 0"):
            GradientPerturber(ensemble(), steps=0)

    def test_color_images_are_misled_through_their_colors(self) -> None:
        group, images, budget = ensemble(), pictures(3, channels=3), flat_budget(3)
        fields = GradientPerturber(group, 6, diversity=()).perturb(images, images, budget, LATENT)
        gray = fields.mean(1, keepdims=True)
        nothing = effect(np.zeros_like(fields), images, budget, group)
        assert effect(fields, images, budget, group) > max(nothing, effect(gray, images, budget, group))

    def test_mix_weighs_rough_and_smooth(self) -> None:
        def wavy(mix: tuple[float, float]) -> float:
            """Share of neighbors with other signs."""
            made = by_gradient(diversity=(), mix=mix, coarse=0.0).perturb(pictures(), pictures(), flat_budget(), LATENT)
            signs = np.sign(made)
            return float((signs[..., 1:] != signs[..., :-1]).mean())

        assert wavy((1, 0)) > wavy((1, 1)) > wavy((0, 1))

    def test_without_any_gradient_the_field_stays(self) -> None:
        given = pictures(), pictures(), flat_budget()
        start = by_generator()
        stayed = by_gradient(start=start, mix=(0.0, 0.0), coarse=0.0).perturb(*given, LATENT)
        assert np.array_equal(stayed, start.perturb(*given, LATENT))

    @pytest.mark.parametrize(("asked", "each"), [(None, [6, 6, 6]), (2, [4, 4, 4]), (1, [2, 2, 2]), (7, [6, 6, 6])])
    def test_surrogates_take_turns(self, asked: int | None, each: list[int]) -> None:
        group, counts = ensemble(3), [0, 0, 0]
        made = GradientPerturber(group, 6, diversity=(), members_per_step=asked, settling=0.0, persistence=0)
        posterior = group.posterior  # asks all of them once
        group.posterior = lambda images: (posterior(images), counts.__setitem__(slice(None), [0, 0, 0]))[0]

        def count(number: int) -> Callable[..., None]:
            def called(*arguments: Any) -> None:
                counts[number] += 1

            return called

        for number, member in enumerate(group.members):
            member.register_forward_hook(count(number))
        made.perturb(pictures(), pictures(), flat_budget(), LATENT)
        assert counts == each

    @pytest.mark.parametrize(("settling", "last"), [(0.0, 0), (0.25, 2), (1.0, 8)])
    def test_last_steps_ask_all_surrogates_about_the_image_itself(self, settling: float, last: int) -> None:
        group = ensemble(3)
        made = GradientPerturber(group, 8, members_per_step=1, settling=settling, persistence=0)
        batches: list[list[int]] = [[], [], []]
        for number, member in enumerate(group.members):
            member.register_forward_hook(lambda _, given, __, n=number: batches[n].append(len(given[0])))
        made.perturb(pictures(), pictures(), flat_budget(), LATENT)
        count = len(pictures())
        for asked in batches:  # the first call of each is the one that asks what it sees in the clean images
            assert asked[len(asked) - last :] == [count] * last
        # Views come two by two; one surrogate a step sees them.
        assert sum(asked[1:].count(2 * count) for asked in batches) == 8 - last

    def test_surrogates_that_are_not_misled_by_far_are_asked_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        given = pictures(), pictures(), flat_budget(amplitude=2 / 255)  # too little to mislead by far

        def asked(persistence: int) -> list[int]:
            group = ensemble()
            counts = [0] * len(group.members)
            for number, member in enumerate(group.members):
                member.register_forward_hook(lambda *_, n=number: counts.__setitem__(n, counts[n] + 1))
            GradientPerturber(group, 3, diversity=(), persistence=persistence).perturb(*given, LATENT)
            return counts

        needed = asked(0)
        assert asked(5) == [count + 5 for count in needed]
        monkeypatch.setattr(gradient_steps, "_FAR", 100.0)  # whatever is done, they are misled by far
        assert asked(5) == [count + 1 for count in needed]

    def test_images_that_are_misled_by_far_stay(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """In a batch only those that are not are worked on, and asked about."""
        clean, budget = pictures(3), flat_budget(3)
        group = ensemble()
        before = GradientPerturber(group, 3, diversity=(), persistence=0).perturb(clean, clean, budget, LATENT)
        margins: list[torch.Tensor] = []
        sizes: list[int] = []
        original = GradientPerturber._settling_gradient

        def watched(self: GradientPerturber, *arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
            gradient, largest = original(self, *arguments)
            margins.append(largest)
            sizes.append(int(arguments[3].sum()))
            return gradient, largest

        monkeypatch.setattr(GradientPerturber, "_settling_gradient", watched)
        GradientPerturber(group, 3, diversity=(), persistence=1).perturb(clean, clean, budget, LATENT)
        reached = margins[-1].sort()  # after the last of the ordinary steps
        monkeypatch.setattr(
            gradient_steps, "_FAR", float(reached.values[1:].mean())
        )  # one image is above it, two below
        after = GradientPerturber(group, 3, diversity=(), persistence=2).perturb(clean, clean, budget, LATENT)
        moved = (after != before).any((1, 2, 3))
        assert moved.tolist() == [n == int(reached.indices[2]) for n in range(3)]
        assert sizes[-2:] == [3, 1]

    def test_persistence_misleads_more(self) -> None:
        group, images, budget = ensemble(), pictures(4), flat_budget(4)
        few, many = (
            effect(
                GradientPerturber(group, 2, diversity=(), persistence=n).perturb(images, images, budget, LATENT),
                images,
                budget,
                group,
            )
            for n in (0, 10)
        )
        assert many > few

    @pytest.mark.parametrize("coarse", [0.33, 0.6])
    def test_coarse_share_changes_slowly(self, coarse: float) -> None:
        def slow(share: float) -> float:
            """Share of a field's power that is left of it on a grid of 16 cells."""
            given = pictures(2, 64, 64), pictures(2, 64, 64), flat_budget(2, 64, 64)
            made = torch.from_numpy(by_gradient(steps=6, diversity=(), coarse=share).perturb(*given, LATENT))
            assert made.abs().max() <= 1
            return float(torch.nn.functional.avg_pool2d(made, 4).square().mean() / made.square().mean())

        assert slow(coarse) > slow(0.0)

    @pytest.mark.parametrize("coarse", [-0.1, 1.0])
    def test_coarse_is_a_share(self, coarse: float) -> None:
        with pytest.raises(ValueError, match=r"coarse must be a share in \[0, 1\)"):
            GradientPerturber(ensemble(), coarse=coarse)

    def test_the_scale_of_logits_gives_no_surrogate_more_say(self) -> None:
        class Loud(torch.nn.Module):
            def __init__(self, network: torch.nn.Module) -> None:
                super().__init__()
                self.network = network

            def forward(self, images: torch.Tensor) -> torch.Tensor:
                logits: torch.Tensor = 0.5 * self.network(images)
                return logits

        given = pictures(), pictures(), flat_budget()
        plain = ensemble()
        quiet = SurrogateEnsemble([plain.members[0], Surrogate(Loud(plain.members[1].network), "quiet", SIDE)])
        fields = []
        for group in (plain, quiet):
            # The classes that may be right must be the same: half the logits would make the posterior flatter.
            group.posterior = lambda images: torch.tensor([[0.8, 0.19, 0.01]]).repeat(len(images), 1)
            fields.append(
                GradientPerturber(group, 2, diversity=(), settling=0.0, persistence=0).perturb(*given, LATENT)
            )
        assert (fields[0] == fields[1]).mean() > 0.99

    def test_diversity_is_optional(self) -> None:
        plain = by_gradient(diversity=()).perturb(pictures(), pictures(), flat_budget(), LATENT)
        diverse = by_gradient(diversity=[InputDiversity(chance=1)]).perturb(
            pictures(), pictures(), flat_budget(), LATENT
        )
        assert not np.array_equal(plain, diverse)


class TestNetworksStay:
    def test_modes_gradients_and_statistics(self) -> None:
        group, network = ensemble(), generator().train()
        before = {name: value.clone() for name, value in group.state_dict().items()}
        made = GradientPerturber(group, 2, GeneratorPerturber(network))
        made.perturb(pictures(), pictures(), flat_budget(), LATENT)
        EnsembleCritic(group).saliency(pictures())
        EnsembleCritic(group).effect(pictures(), pictures())
        for module in (*group.modules(), *network.modules()):
            assert not module.training
        for parameter in (*group.parameters(), *network.parameters()):
            assert not parameter.requires_grad and parameter.grad is None
        assert all(torch.equal(before[name], value) for name, value in group.state_dict().items())

    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
    def test_works_inside_an_evaluation_of_the_caller(self, mode: Callable[[], Any]) -> None:
        made, critic = by_both(), EnsembleCritic(ensemble())
        given = pictures(), pictures(), flat_budget()
        expected = made.perturb(*given, LATENT), critic.saliency(given[0])
        with mode():
            inside = made.perturb(*given, LATENT), critic.saliency(given[0])
        assert all(np.array_equal(a, b) for a, b in zip(expected, inside, strict=True))


class TestCritic:
    @pytest.mark.parametrize("size", [(1, 1), (1, 30), (17, 5), (64, 20)])
    @pytest.mark.parametrize("channels", [1, 2, 3, 4])
    def test_saliency_is_a_share_of_each_slice(self, size: tuple[int, int], channels: int) -> None:
        critic: MarkCritic = EnsembleCritic(ensemble())
        saliency = critic.saliency(pictures(3, *size, channels))
        assert saliency.shape == (3, *size) and saliency.dtype == np.float32 and (saliency >= 0).all()
        np.testing.assert_allclose(saliency.sum((1, 2)), 1, rtol=1e-4)

    def test_quick_saliency_is_that_of_the_guides(self) -> None:
        group, images = ensemble(3), pictures(2, SIDE, SIDE)
        quick = EnsembleCritic(group).saliency(images, quick=True)
        direction = Guides([group.members[0]]).directions(images)  # type: ignore[list-item]
        heat = gaussian_blur(torch.from_numpy(np.abs(direction * images)), 1.0)[:, 0].numpy()
        np.testing.assert_allclose(quick, heat / heat.sum((1, 2), keepdims=True), rtol=1e-4)
        last = Guides([group.members[2]])  # type: ignore[list-item]
        assert not np.allclose(quick, EnsembleCritic(group, guides=last).saliency(images, quick=True), atol=1e-5)

    def test_quick_saliency_of_large_images_is_nearly_the_same(self) -> None:
        """They are looked at in the size that the surrogate sees, and smoothed there."""
        group, images = ensemble(1), pictures(3, 120, 96)
        images[:, :, :40, 60:] = 0  # something to find
        small = to_square(torch.from_numpy(images), SIDE)
        found = torch.from_numpy(EnsembleCritic(group).saliency(small.numpy(), quick=True))
        whole = torch.nn.functional.interpolate(found[:, None], (120, 96), mode="bilinear")[:, 0].numpy()
        quick = EnsembleCritic(group).saliency(images, quick=True)
        assert quick.shape == whole.shape and not np.array_equal(quick, whole) and (quick >= 0).all()
        np.testing.assert_allclose(quick.sum((1, 2)), 1, rtol=1e-4)
        for one, other in zip(quick, whole, strict=True):
            assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.9

    def test_saliency_of_black_is_nothing(self) -> None:
        saliency = EnsembleCritic(ensemble()).saliency(np.zeros((1, 1, 16, 16), np.float32))
        assert not saliency.any()

    def test_saliency_does_not_depend_on_the_batch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        critic, images = EnsembleCritic(ensemble()), pictures(5)
        together = critic.saliency(images)
        monkeypatch.setattr(stacks, "BATCH", 2)
        np.testing.assert_allclose(critic.saliency(images), together, rtol=1e-3, atol=1e-7)

    def test_effect_is_the_negative_margin_of_the_clean_classes(self) -> None:
        """Each class weighed by how probable it is, and all that may be right against those that cannot."""
        group, clean = ensemble(), pictures(2)
        candidates = pictures(6, channels=1)[::-1].copy()
        effects = EnsembleCritic(group).effect(candidates, clean)
        assert effects.shape == (6,) and effects.dtype == np.float32
        color = [torch.from_numpy(a).expand(-1, 3, -1, -1) for a in (candidates, clean)]
        posterior = group.posterior(color[1]).repeat_interleave(3, 0)
        assert len(posterior[0]) == 3 and (posterior.amin(1) > 0.05).all()  # so that all but the last are plausible
        by_hand = torch.zeros(6)
        for logits in group(color[0]):
            for row in range(6):
                last = int(posterior[row].argmin())
                for label in range(3):
                    others = torch.cat((logits[row, :label], logits[row, label + 1 :]))
                    by_hand[row] += posterior[row, label] * (logits[row, label] - others.max()).clamp_min(-8) / 2
                plausible = torch.cat((logits[row, :last], logits[row, last + 1 :]))
                by_hand[row] += (plausible.max() - logits[row, last]).clamp_min(-8) / 2
        np.testing.assert_allclose(effects, -by_hand.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", MAKERS)
def test_repr_tells_the_configuration(make: Callable[[], Perturber]) -> None:
    shown = repr(make())
    assert "Perturber(" in shown and "device='cpu'" in shown and "0x" not in shown
    assert repr(EnsembleCritic(ensemble())) == "EnsembleCritic(members=2, device='cpu')"


class TestRobustSurrogates:
    """Adversarially trained surrogates lend their gradients and are no judges."""

    def test_lend_their_gradients(self) -> None:
        images, budget = pictures(2, SIDE, SIDE), flat_budget(2, SIDE, SIDE)
        stranger = Surrogate(classifier(11), "robust", SIDE)
        members = list(ensemble(2).members)
        alone, helped = SurrogateEnsemble(members), SurrogateEnsemble(members, [stranger])  # type: ignore[arg-type]

        taken_for = alone.posterior(torch.from_numpy(images))

        def left(group: SurrogateEnsemble) -> float:
            """The stranger's margin of what the others take the images for."""
            steps = GradientPerturber(group, 12, diversity=(), members_per_step=None, settling=0, persistence=0)
            marked = (images + steps.perturb(images, images, budget, LATENT) * budget).clip(0, 1)
            return float(attack_margin(stranger(torch.from_numpy(marked)), taken_for).mean())

        assert left(helped) < left(alone) - 0.02

    def test_are_not_asked_whether_it_is_enough(self) -> None:
        """One that nothing misleads would keep the steps going."""

        class Sure(torch.nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                asked.append(len(x))
                return torch.stack([x.mean((1, 2, 3)) * 0 + 100, *[x.mean((1, 2, 3)) * 0] * 2], 1)

        asked: list[int] = []
        group = SurrogateEnsemble(list(ensemble(1).members), [Surrogate(Sure(), "sure", SIDE)])  # type: ignore[arg-type]
        steps = GradientPerturber(group, 4, settling=0.5, members_per_step=None, views=1)
        steps.perturb(pictures(1, SIDE, SIDE), pictures(1, SIDE, SIDE), flat_budget(1, SIDE, SIDE), LATENT)
        assert len(asked) == 2

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Classifiers with their preprocessing, ensembles that stay as they are, margins, weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from networks import CLASSES, SIDE, classifier, ensemble
from torch import nn

from monai_miadmark.surrogates import (
    Surrogate,
    SurrogateEnsemble,
    expected_margin,
    load_ensemble,
    load_pretrained,
    load_weights,
    margin,
    plausible_margin,
    save_weights,
    to_square,
)

IMAGES = torch.rand((3, 1, 40, 28), generator=torch.Generator().manual_seed(1))


class _Recorder(nn.Module):
    """Keeps what it is given."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen = images
        return images.mean((2, 3))


class TestSurrogate:
    def test_preprocessing(self) -> None:
        recorder = _Recorder()
        square = torch.rand(2, 1, SIDE, SIDE)
        Surrogate(recorder, "r", SIDE, mean=0.4, std=0.5)(square)
        assert recorder.seen.shape == (2, 3, SIDE, SIDE)
        torch.testing.assert_close(recorder.seen, (square.expand(-1, 3, -1, -1) - 0.4) / 0.5)
        Surrogate(recorder, "r", SIDE, mean=0, std=1, transposed=True)(square)
        torch.testing.assert_close(recorder.seen, square.expand(-1, 3, -1, -1).transpose(2, 3))

    @pytest.mark.parametrize("size", [(1, 1), (7, 90), (SIDE, SIDE), (65, 33)])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_any_size(self, size: tuple[int, int], channels: int) -> None:
        model = Surrogate(classifier().eval(), "tiny", SIDE)
        assert model(torch.rand(2, channels, *size)).shape == (2, CLASSES)

    def test_resizing_keeps_means_when_it_shrinks(self) -> None:
        fine = torch.zeros(1, 1, 64, 64)
        fine[..., ::4] = 1  # would vanish, or fill all, without an antialiasing filter
        torch.testing.assert_close(to_square(fine, 16).mean(), torch.tensor(0.25), atol=0.02, rtol=0)
        assert to_square(fine, 64) is fine


class TestEnsemble:
    def test_stays_frozen_and_in_evaluation_mode(self) -> None:
        group = ensemble()
        assert group.train() is group and group.train(True) is group
        nn.ModuleList([group]).train()  # as a trainer that owns it would
        assert not any(module.training for module in group.modules())
        assert not any(parameter.requires_grad for parameter in group.parameters())
        before = {name: value.clone() for name, value in group.state_dict().items()}
        first, second = group(IMAGES), group(IMAGES)
        assert len(first) == 2 and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        assert all(torch.equal(before[name], value) for name, value in group.state_dict().items())

    def test_gradients_reach_the_images(self) -> None:
        images = IMAGES.clone().requires_grad_()
        sum(z.sum() for z in ensemble()(images)).backward()
        assert images.grad is not None and images.grad.abs().sum() > 0

    def test_posterior_is_the_mean_of_probabilities(self) -> None:
        group = ensemble(3)
        expected = torch.stack([z.softmax(1) for z in group(IMAGES)]).mean(0)
        torch.testing.assert_close(group.posterior(IMAGES), expected)
        torch.testing.assert_close(group.posterior(IMAGES).sum(1), torch.ones(3))
        assert torch.equal(group.consensus(IMAGES), expected.argmax(1))
        assert not group.posterior(IMAGES.clone().requires_grad_()).requires_grad

    def test_needs_a_member(self) -> None:
        with pytest.raises(ValueError, match="at least one surrogate"):
            SurrogateEnsemble([])


class TestMargins:
    LOGITS = torch.tensor([[3.0, 1.0, -2.0], [0.0, 5.0, 4.0]])

    def test_known_values(self) -> None:
        assert margin(self.LOGITS, torch.tensor([0, 0])).tolist() == [2, -5]
        assert margin(self.LOGITS, torch.tensor([2, 1])).tolist() == [-5, 1]

    def test_expected_margin_of_a_sure_posterior_is_the_margin(self) -> None:
        labels = torch.tensor([1, 2])
        sure = nn.functional.one_hot(labels, 3).float()
        torch.testing.assert_close(expected_margin(self.LOGITS, sure), margin(self.LOGITS, labels))

    def test_expected_margin_weighs_and_is_floored(self) -> None:
        posterior = torch.tensor([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]])
        # Margins of the first row: 2, -2, -5; of the second and first class: -5.
        assert expected_margin(self.LOGITS, posterior).tolist() == [1 - 0.5 - 1.25, -5]
        assert expected_margin(self.LOGITS, posterior, floor=-3).tolist() == [1 - 0.5 - 0.75, -3]

    def test_a_model_that_errs_by_far_is_left_alone(self) -> None:
        logits = torch.tensor([[-50.0, 50.0]], requires_grad=True)
        expected_margin(logits, torch.tensor([[1.0, 0.0]])).sum().backward()
        assert logits.grad is not None and not logits.grad.any()

    def test_plausible_margin_by_hand(self) -> None:
        posterior = torch.tensor([[0.6, 0.3, 0.1], [0.97, 0.02, 0.01]])
        # First row: classes 0 and 1 may be right (0.1 would be probable enough, but is the least), 3 over -2. Second
        # row: only the first class, 0 under 5.
        assert plausible_margin(self.LOGITS, posterior).tolist() == [5, -5]
        assert plausible_margin(self.LOGITS, posterior, floor=-3).tolist() == [5, -3]
        assert plausible_margin(self.LOGITS, posterior, share=0.6).tolist() == [2, -5]

    def test_plausible_margin_of_a_sure_posterior_is_the_margin(self) -> None:
        labels = torch.tensor([1, 2])
        sure = nn.functional.one_hot(labels, 3).float()
        torch.testing.assert_close(plausible_margin(self.LOGITS, sure), margin(self.LOGITS, labels))

    def test_pushing_into_the_runner_up_gains_nothing(self) -> None:
        posterior = torch.tensor([[0.55, 0.44, 0.01]])
        into_runner_up, out_of_both = torch.tensor([[0.0, 4.0, 1.0]]), torch.tensor([[0.0, 1.0, 4.0]])
        assert plausible_margin(into_runner_up, posterior) > 0 > plausible_margin(out_of_both, posterior)

    @pytest.mark.parametrize("classes", [2, 3, 7])
    @pytest.mark.parametrize("measure", [expected_margin, plausible_margin])
    def test_no_posterior_breaks_the_gradient(
        self, measure: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], classes: int
    ) -> None:
        """Where all classes are equally probable nothing can be told apart; the descent must go on all the same."""
        sure = nn.functional.one_hot(torch.tensor(0), classes).float()
        posterior = torch.stack([torch.full((classes,), 1 / classes), sure, torch.linspace(1, 2, classes).softmax(0)])
        generator = torch.Generator().manual_seed(0)
        logits = (20 * torch.randn((3, classes), generator=generator)).requires_grad_()
        value = measure(logits, posterior)
        (gradient,) = torch.autograd.grad(value.sum(), logits)
        assert torch.isfinite(value).all() and torch.isfinite(gradient).all()


class TestWeights:
    def test_round_trip_at_half_precision(self, tmp_path: Path) -> None:
        network = classifier(3)
        save_weights(network, tmp_path / "w.pt")
        read = load_weights(classifier(4), tmp_path / "w.pt")
        for (name, value), got in zip(network.state_dict().items(), read.state_dict().values(), strict=True):
            expected = value.half().float() if value.is_floating_point() else value
            assert torch.equal(got, expected) and got.dtype == value.dtype, name

    def test_round_trip_in_a_quarter_of_the_size(self, tmp_path: Path) -> None:
        network, small = classifier(3), tmp_path / "small.pt"
        with torch.no_grad():
            network[0].weight[0] *= 1000  # one channel's scale is not another's
            network[0].weight[1] = 0
        save_weights(network, small, 8)
        save_weights(network, tmp_path / "large.pt")
        assert all(
            v[0].dtype == torch.int8 for v in torch.load(small, weights_only=True).values() if isinstance(v, tuple)
        )
        back = load_weights(classifier(4), small).state_dict()
        for name, value in network.state_dict().items():
            steps = value.abs().flatten(1).amax(1) / 127 if value.ndim > 1 else value.abs() / 1000
            steps = steps.view(-1, *[1] * (value.ndim - 1))
            assert ((back[name] - value).abs() <= 0.51 * steps + 1e-3 * (value.ndim < 2)).all(), name
        assert load_pretrained(classifier(4), small) == []

    def test_other_bits_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="8 or 16 bits, not 4"):
            save_weights(classifier(), tmp_path / "w.pt", 4)
        assert not list(tmp_path.iterdir())

    def test_robust_ones_come_with_their_architectures(self, tmp_path: Path) -> None:
        networks = {"a": classifier(1), "b": classifier(2)}
        for name, network in networks.items():
            save_weights(network, tmp_path / f"set_{name}.pt")
        save_weights(classifier(9), tmp_path / "set_a_robust.pt", 8)
        made = load_ensemble(networks, ["b", "a"], "set", tmp_path, ["a", "c"])
        assert [m.name for m in made.members] == ["b", "a"] and [m.name for m in made.robust] == ["a_robust"]
        assert not any(p.requires_grad for p in made.parameters()) and not made.robust[0].training
        # They have no say in what images are taken for, and are left out with their architecture.
        assert len(made(IMAGES)) == 2
        assert not load_ensemble(networks, ["b"], "set", tmp_path, ["a"]).robust
        # Those that only guide do not ask for another form of themselves, and need not be there.
        made = load_ensemble(networks, ["b"], "set", tmp_path, aside_names=["a", "b"])
        assert [m.name for m in made.aside] == ["a_robust"] and not made.robust and len(made(IMAGES)) == 1
        with pytest.raises(FileNotFoundError):
            load_ensemble(networks, ["b"], "set", tmp_path, ["b"])

    def test_other_architectures_are_refused(self, tmp_path: Path) -> None:
        save_weights(classifier(classes=5), tmp_path / "w.pt")
        with pytest.raises(RuntimeError, match="size mismatch"):
            load_weights(classifier(), tmp_path / "w.pt")

    def test_no_code_is_run_from_a_weight_file(self, tmp_path: Path) -> None:
        torch.save(classifier(), tmp_path / "w.pt")  # a pickled module instead of a state dict
        with pytest.raises(Exception, match=r"[Ww]eights.only"):
            load_weights(classifier(), tmp_path / "w.pt")

    def test_ensemble_of_files(self, tmp_path: Path) -> None:
        for number, name in enumerate(("a", "b", "c")):
            save_weights(classifier(number), tmp_path / f"set_{name}.pt")
        group = load_ensemble({n: classifier() for n in "abc"}, ["c", "a"], "set", tmp_path)
        assert [member.name for member in group.members] == ["c", "a"]
        assert all(member.transposed for member in group.members)
        c = load_weights(classifier(), tmp_path / "set_c.pt")
        expected = Surrogate(c.eval(), "c", transposed=True)(IMAGES)
        torch.testing.assert_close(group(IMAGES)[0], expected, atol=1e-5, rtol=1e-4)
        with pytest.raises(FileNotFoundError):
            load_ensemble({"d": classifier()}, ["d"], "set", tmp_path)

    def test_ensembles_of_the_same_networks_share_no_weights(self, tmp_path: Path) -> None:
        """A configuration gives one network by name; what is read for one data set must not change another's."""
        networks = {"a": classifier(7)}
        before = {name: value.clone() for name, value in networks["a"].state_dict().items()}
        for seed, dataset in enumerate(("brain", "skin")):
            save_weights(classifier(seed), tmp_path / f"{dataset}_a.pt")
        brain = load_ensemble(networks, ["a"], "brain", tmp_path)
        answers = brain(IMAGES)[0]
        skin = load_ensemble(networks, ["a"], "skin", tmp_path)
        assert torch.equal(brain(IMAGES)[0], answers) and not torch.equal(skin(IMAGES)[0], answers)
        assert all(torch.equal(before[name], value) for name, value in networks["a"].state_dict().items())

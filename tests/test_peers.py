# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Peers: their perturbers, their options, and their rows in a study's tables."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from bundle_copies import STRANGERS, tiny_bundle
from doubles import NoiseMarker
from image_sets import image_set
from networks import CLASSES, ensemble, flat_budget, pictures

from monai_miadmark.critic import EnsembleCritic
from monai_miadmark.datasets import DATA_ENV
from monai_miadmark.evaluation import peer_study, peers
from monai_miadmark.evaluation.peers import (
    PEERS,
    FixedPerturber,
    PeerMarker,
    RandomPerturber,
    universal_perturbation,
)
from monai_miadmark.evaluation.quality import quality
from monai_miadmark.evaluation.study import Study
from monai_miadmark.exact import apply_mark
from monai_miadmark.gradient_steps import GradientPerturber
from monai_miadmark.image import Bounds, StoredImage, Window
from monai_miadmark.marker import EnsembleMarker
from monai_miadmark.marking import make_mark
from monai_miadmark.options import PRESETS, ProtectOptions
from monai_miadmark.surrogates import SurrogateEnsemble

LATENT = bytes(range(32))


@pytest.fixture(scope="module")
def marker() -> EnsembleMarker:
    return EnsembleMarker(None, ensemble())


class TestFixedPerturber:
    @pytest.mark.parametrize(("planes", "channels", "expected"), [(3, 3, 3), (3, 1, 1), (1, 1, 1), (1, 3, 1)])
    def test_one_pattern_for_all_images(self, planes: int, channels: int, expected: int) -> None:
        pattern = np.random.default_rng(0).uniform(-1, 1, (planes, 24, 20)).astype(np.float32)
        images = pictures(channels=channels)
        field = FixedPerturber(pattern).perturb(images, images, flat_budget(), LATENT)
        assert field.shape == (2, expected, 24, 20) and np.array_equal(field[0], field[1])
        wanted = pattern if expected == planes else pattern.mean(0, keepdims=True)
        assert np.allclose(field[0], wanted, atol=1e-6)

    def test_is_resized_to_the_images(self) -> None:
        field = FixedPerturber(np.full((1, 5, 7), 0.5, np.float32)).perturb(
            pictures(), pictures(), flat_budget(), LATENT
        )
        assert field.shape == (2, 1, 24, 20) and (field == 0.5).all()


class TestRandomPerturber:
    @pytest.mark.parametrize(("channels", "planes"), [(1, 1), (3, 3), (2, 1)])
    def test_signs_of_the_key(self, channels: int, planes: int) -> None:
        images = pictures(channels=channels)
        one, again, other = (
            RandomPerturber().perturb(images, images, flat_budget(), latent) for latent in (LATENT, LATENT, bytes(32))
        )
        assert one.shape == (2, planes, 24, 20) and set(np.unique(one)) <= {-1, 0, 1}
        assert np.array_equal(one, again) and not np.array_equal(one, other)
        assert abs(one.mean()) < 0.2


class TestUniversal:
    def test_misleads_more_than_chance(self) -> None:
        members, images = ensemble(), torch.from_numpy(pictures(12, 32, 32, 3))
        pattern = universal_perturbation(members, images, 0.2, steps=12, batch_size=6)
        assert pattern.shape == (3, 32, 32) and pattern.dtype == np.float32 and np.abs(pattern).max() <= 1

        def loss(field: torch.Tensor) -> float:
            logits = members((images + 0.2 * field).clamp(0, 1))
            return float(sum(torch.nn.functional.cross_entropy(z, members.consensus(images)) for z in logits))

        signs = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(1)).sub(0.5).sign()
        assert loss(torch.from_numpy(pattern)) > loss(signs)

    def test_a_seed_repeats_it(self) -> None:
        images = torch.from_numpy(pictures(4, 32, 32, 1))
        state = torch.get_rng_state()
        first, again, other = (
            universal_perturbation(ensemble(1), images, 0.1, steps=2, batch_size=2, seed=seed) for seed in (0, 0, 1)
        )
        assert np.array_equal(first, again) and not np.array_equal(first, other)
        assert first.shape == (1, 32, 32) and torch.equal(state, torch.get_rng_state())


def gradient_peer(name: str, marker: EnsembleMarker) -> GradientPerturber:
    peer = PEERS[name].marker(marker, torch.zeros(1, 1, 8, 8))
    perturber = peer.specialist("auto", pictures()).perturber(PRESETS["standard"])
    assert isinstance(perturber, GradientPerturber)
    return perturber


class TestPeers:
    @pytest.mark.parametrize("name", PEERS)
    def test_options_name_data_set_and_likeness(self, name: str) -> None:
        options = PEERS[name].options("skin", 31.5)
        assert options.modality == "skin"
        if name == "logo alone":
            assert options.style == "visible" and options.strength.footprint == 0
        else:
            assert (options.style, options.region) == ("invisible", "none")
            assert options.strength.visibility.psnr == 31.5

    @pytest.mark.parametrize("name", PEERS)
    def test_markers_keep_the_psnr_and_the_critic(
        self, name: str, marker: EnsembleMarker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(peers, "universal_perturbation", partial(universal_perturbation, steps=2))
        images = pictures(4, 48, 40, 1)
        peer = PEERS[name].marker(marker, torch.from_numpy(images[:2]))
        assert isinstance(peer, PeerMarker) and isinstance(peer.critic, EnsembleCritic)
        assert peer.specialist("auto", images) is peer
        values = np.rint(255 * images[:1]).astype(np.uint8).transpose(0, 2, 3, 1)
        image = StoredImage(values, Bounds(0, 255), Window(0, 255))
        marked = apply_mark(image, make_mark(image, PEERS[name].options("brain_mri", 32.0), peer, LATENT))
        assert not np.array_equal(marked, values)
        if name != "logo alone":
            got = quality(values[0] / np.float32(255), marked[0] / np.float32(255)).psnr
            assert 31.8 <= got <= 33.5

    def test_the_gradient_peer_is_what_its_name_says(self, marker: EnsembleMarker) -> None:
        """Momentum, input diversity and smoothed gradients alone; ten steps on ordinary surrogates."""
        members = list(marker.ensemble.members)
        helped = SurrogateEnsemble(members, members[:1], members[1:2])  # type: ignore[arg-type]
        marker = EnsembleMarker(None, helped)
        perturber = gradient_peer("MI-DI-TI-FGSM", marker)
        assert (perturber.steps, perturber.views, perturber.mix) == (10, 1, (0.0, 1.0))
        assert list(perturber.ensemble.members) == members == perturber.asked and CLASSES == 3
        assert gradient_peer("MI-DI-TI-FGSM, robust surrogates as well", marker).asked == [*members, *members[:2]]

    def test_the_longer_gradient_peer_differs_in_its_steps_alone(self, marker: EnsembleMarker) -> None:
        made = []
        for name, steps in (("MI-DI-TI-FGSM", 10), ("MI-DI-TI-FGSM, 20 steps", 20)):
            perturber = gradient_peer(name, marker)
            assert perturber.steps == PEERS[name].options("skin", 30.0).strength.steps == steps
            made.append((perturber.views, perturber.mix, perturber.coarse, perturber.settled - steps, perturber.asked))
        assert made[0] == made[1]


def test_rows_of_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Own marks and a peer that is fitted, on the same images, for every model in the black box."""
    root = tiny_bundle(tmp_path, weights=True)
    monkeypatch.setenv(DATA_ENV, str(image_set(tmp_path / "data", train=2, val=1)))
    short = replace(PEERS["universal perturbation"], marker=lambda marker, images: _fitted(marker, images))
    monkeypatch.setattr(peer_study, "PEERS", {"universal perturbation": short, "random signs": PEERS["random signs"]})
    study = Study(
        root,
        "brain_mri",
        ProtectOptions("fast", modality="brain_mri"),
        limit=1,
        make_marker=lambda exclude: NoiseMarker(),
        cache=tmp_path / "sets",
    )
    rows = peer_study.peer_rows(study)
    methods = ("MIAD-MARK", "universal perturbation", "random signs")
    assert [(row["victim"], row["method"]) for row in rows] == [(name, how) for name in STRANGERS for how in methods]
    for number, row in enumerate(rows):
        assert (row["dataset"], row["setting"], row["images"]) == ("brain_mri", "black box", 4)
        assert 0 <= row["protected"] <= 1 and row["seconds"] > 0 and 0 < row["ssim"] < 1
        # A flat amplitude is stored in whole field units, rounded down: 8 units at 36 dB, and 7 would be 1.2 dB better.
        # The levels of a pattern of any shape are rounded either way; signs have nothing to round.
        less = 0.25 if row["method"] == "universal perturbation" else 0.05
        own = rows[number - number % len(methods)]
        assert -less < row["psnr"] - own["psnr"] < 1.2
        assert row["clean"] == own["clean"]
    assert len(list((tmp_path / "sets").iterdir())) == len(rows)


def test_peers_mark_the_very_images_of_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a part of the images this part alone."""
    root = tiny_bundle(tmp_path, weights=True)
    monkeypatch.setenv(DATA_ENV, str(image_set(tmp_path / "data", train=2, val=2)))
    monkeypatch.setattr(peer_study, "PEERS", {"random signs": PEERS["random signs"]})
    options = ProtectOptions("fast", modality="brain_mri")
    study = Study(root, "brain_mri", options, part=(1, 3), make_marker=lambda exclude: NoiseMarker())
    assert 1 < len(study.items) < 8
    rows = peer_study.peer_rows(study)
    assert {row["method"] for row in rows} == {"MIAD-MARK", "random signs"}
    assert {row["images"] for row in rows} == {len(study.items)}


def _fitted(marker: EnsembleMarker, images: torch.Tensor) -> PeerMarker:
    """The universal perturbation after a few steps on the images that a study hands it."""
    assert images.shape[1:] == (1, 32, 32) and len(images) >= 4 and 0 <= images.min() and images.max() <= 1
    return PeerMarker(marker.critic, FixedPerturber(universal_perturbation(marker.ensemble, images, 8 / 255, 2)))

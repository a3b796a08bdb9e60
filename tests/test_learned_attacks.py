# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Attackers who train on marks of their own: which pairs they get, what they train, and the rows that come of it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from bundle_copies import VICTIMS, tiny_bundle
from doubles import NoiseMarker
from image_sets import image_set

from monai_miadmark.datasets import DATA_ENV
from monai_miadmark.evaluation import learned_attacks
from monai_miadmark.evaluation.decomposition import DecompositionNetwork, train_decomposition
from monai_miadmark.evaluation.learned_attacks import FINE_TUNED, Effort, attack_rows, attacker_pairs, train_removers
from monai_miadmark.evaluation.removal_networks import RemovalNetwork, train_denoiser, train_remover
from monai_miadmark.evaluation.study import Study
from monai_miadmark.options import ProtectOptions

SHORT = Effort(remover=1, decomposition=1, denoiser=1, fine_tune=1)
REMOVERS = ["blind denoiser", "removal network", "removal network, diagnostic loss", "watermark decomposition"]
FEATURES = (8, 8, 8, 8, 8, 8)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("bundle"), weights=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return image_set(tmp_path_factory.mktemp("data"), train=8, val=1)


@pytest.fixture(autouse=True)
def _small(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made images, and networks of 8 channels."""
    monkeypatch.setenv(DATA_ENV, str(data))
    for function in (train_denoiser, train_remover):
        monkeypatch.setattr(learned_attacks, function.__name__, partial(function, features=FEATURES))
    smaller = partial(train_decomposition, features=FEATURES, refinement_features=FEATURES)
    monkeypatch.setattr(learned_attacks, "train_decomposition", smaller)


class Makers:
    """Gives studies of a kind, and notes what they were asked for."""

    def __init__(self, root: Path, style: Literal["visible", "invisible"] = "invisible") -> None:
        self.root, self.style = root, style
        self.asked: list[dict[str, Any]] = []
        self.excluded: list[tuple[str, ...]] = []

    def __call__(self, **given: Any) -> Study:
        self.asked.append(given)
        options = ProtectOptions(style=self.style, region="none", modality="brain_mri")
        return Study(self.root, "brain_mri", options, make_marker=self.marker, **given)

    def marker(self, exclude: tuple[str, ...]) -> NoiseMarker:
        self.excluded.append(exclude)
        return NoiseMarker()


class TestPairs:
    def test_are_of_images_that_nobody_reports_on_and_of_other_keys(self, root: Path) -> None:
        makers = Makers(root)
        study = makers(section="val")
        pairs = attacker_pairs(study, partial(makers, limit=2))
        asked = makers.asked[1:]
        assert {given["section"] for given in asked} == {"fit"} and all(given["seed"] != study.seed for given in asked)
        # Each marker that the study evaluates made an equal part of them.
        markers = [(), *((name,) for name in VICTIMS)]
        assert [given["part"] for given in asked] == [(n, len(markers)) for n in range(len(markers))]
        assert makers.excluded == markers
        assert len(pairs) == 8 and sorted(pairs.labels.tolist()) == [0, 0, 1, 1, 2, 2, 3, 3]
        assert len({image.tobytes() for image in pairs.clean}) == 8
        assert not {image.tobytes() for image in pairs.clean} & {image.tobytes() for image in study.protected().clean}


class TestRemovers:
    def test_are_trained_and_leave_the_own_model_alone(self, root: Path) -> None:
        study = Makers(root)(limit=1)
        pairs, model = study.protected(), study.victims["resnet"]
        before = {name: value.clone() for name, value in model.state_dict().items()}
        state = torch.get_rng_state()
        removers = train_removers(pairs, model, SHORT)
        assert list(removers) == REMOVERS and torch.equal(state, torch.get_rng_state())
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
        images = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
        for remove in removers.values():
            got = remove(images)
            assert got.shape == images.shape and 0 <= got.min() and got.max() <= 1

    def test_each_sees_what_it_may_see(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The denoiser never sees a mark; one removal network knows images alone, the other two have a model too."""
        study = Makers(root, "visible")(limit=1)
        pairs = study.protected()
        assert pairs.logos.any()
        seen: dict[str, tuple[Any, ...]] = {}

        def noted(name: str, network: Any, *given: Any, **more: Any) -> Any:
            seen[name if name not in seen else f"{name} again"] = given
            return network(1)

        for name, network in (("denoiser", RemovalNetwork), ("remover", RemovalNetwork)):
            monkeypatch.setattr(learned_attacks, f"train_{name}", partial(noted, name, network))
        monkeypatch.setattr(
            learned_attacks, "train_decomposition", partial(noted, "decomposition", DecompositionNetwork)
        )
        train_removers(pairs, study.victims["plain"], Effort(1, 2, 3, 4), seed=9)
        clean, protected = (torch.from_numpy(a).permute(0, 3, 1, 2) for a in (pairs.clean, pairs.protected))
        assert torch.equal(seen["denoiser"][0], clean) and seen["denoiser"][1:] == (3, 9)
        for name in ("remover", "remover again"):
            assert torch.equal(seen[name][0], protected) and torch.equal(seen[name][1], clean)
            assert seen[name][2:4] == (1, 9)
        assert len(seen["remover"]) == 4 and seen["remover again"][4] is study.victims["plain"]
        assert np.array_equal(seen["remover again"][5].numpy(), pairs.labels)
        assert np.array_equal(seen["decomposition"][2][:, 0].numpy(), pairs.logos)
        assert seen["decomposition"][3:5] == (2, 9) and seen["decomposition"][5] is study.victims["plain"]


def test_rows(root: Path) -> None:
    makers = Makers(root)
    study = makers(limit=1)
    pairs = attacker_pairs(study, partial(makers, limit=2))
    before = {name: value.clone() for name, value in study.victims["plain"].state_dict().items()}
    rows = attack_rows(study, pairs, SHORT)
    asked = [(name, remover) for name in VICTIMS for remover in ("", *REMOVERS)]
    expected = [(setting, *each) for setting in ("white box", "black box") for each in asked]
    expected += [("black box", name, FINE_TUNED) for name in VICTIMS]
    assert [(row["setting"], row["victim"], row["remover"]) for row in rows] == expected
    for row in rows:
        assert (row["dataset"], row["images"]) == ("brain_mri", 4)
        assert 0 <= row["clean"] <= 1 and 0 <= row["protected"] <= 1
    assert all(torch.equal(before[name], value) for name, value in study.victims["plain"].state_dict().items())

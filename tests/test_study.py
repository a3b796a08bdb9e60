# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Studies: which sets are made, when they are made anew, and the rows that come of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bundle_copies import STRANGERS, VICTIMS, tiny_bundle
from doubles import NoiseMarker
from image_sets import image_set
from torch import Tensor, nn

from monai_miadmark.datasets import DATA_ENV, class_names
from monai_miadmark.evaluation.study import Study, accuracy
from monai_miadmark.options import PRESETS, ProtectOptions
from monai_miadmark.surrogates import Surrogate


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("bundle"), weights=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = image_set(tmp_path_factory.mktemp("data"), train=12, val=2)
    return image_set(folder, "skin", train=1, val=1)


@pytest.fixture(autouse=True)
def _data(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATA_ENV, str(data))


class Counting:
    """A marker's maker that notes what it was asked to leave out."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []

    def __call__(self, exclude: tuple[str, ...]) -> NoiseMarker:
        self.asked.append(exclude)
        return NoiseMarker()


def noisy(root: Path, **more: Any) -> Study:
    """A study without networks in the marker."""
    options = more.pop("options", ProtectOptions(style="invisible", region="none", modality="brain_mri"))
    return Study(root, "brain_mri", options, **{"limit": 1, "make_marker": Counting(), "variant": "noise", **more})


class ByBrightness(nn.Module):
    """Tells the classes of the made image set apart by their brightness."""

    def __init__(self) -> None:
        super().__init__()
        self.centers = nn.Parameter(torch.tensor([[60.0, 110.0, 160.0, 210.0]]))

    def forward(self, images: Tensor) -> Tensor:
        means = (images.mean(1)[:, 8:24, 8:24].mean((1, 2)) * 255)[:, None]
        return -(means - self.centers).abs()


class TestAccuracy:
    def test_counts_right_answers(self, root: Path) -> None:
        made = noisy(root).protected()
        assert accuracy(ByBrightness(), made.clean, made.labels) == 1
        assert accuracy(ByBrightness(), made.clean, made.labels[::-1]) == 0

    def test_asks_after_the_remover(self, root: Path) -> None:
        made = noisy(root).protected()
        assert accuracy(ByBrightness(), made.clean, made.labels, lambda images: images * 0 + 1) == 0.25

    def test_of_more_images_than_a_batch(self) -> None:
        labels = np.arange(70) % 4
        images = (60 + 50 * labels[:, None, None, None] + np.zeros((70, 32, 32, 1))).astype(np.uint8)
        labels[69] = 3 - labels[69]
        assert accuracy(ByBrightness(), images, labels) == pytest.approx(69 / 70)


class TestImages:
    def test_of_the_section_and_the_limit(self, root: Path) -> None:
        assert len(noisy(root).items) == 4
        assert all("/val/" in str(item["image"]) for item in noisy(root).items)
        assert all("/train/" in str(item["image"]) for item in noisy(root, section="fit").items)

    def test_parts_share_all_images_out(self, root: Path) -> None:
        whole = [item["image"] for item in noisy(root).items]
        parts = [[item["image"] for item in noisy(root, part=(n, 3)).items] for n in range(3)]
        assert sorted(str(image) for part in parts for image in part) == sorted(map(str, whole))
        assert parts[1] == whole[1::3]

    def test_the_data_set_says_what_colors_there_are(self, root: Path) -> None:
        assert noisy(root).mode == "L" and noisy(root).names == list(VICTIMS)
        skin = Study(root, "skin", make_marker=Counting())
        assert skin.mode == "RGB" and skin.options == ProtectOptions(modality="skin")
        assert skin.protected().clean.shape == (4, 32, 32, 3)


class TestVictims:
    def test_are_the_bundles_for_the_data_set(self, root: Path) -> None:
        for dataset, classes in (("brain_mri", 4), ("skin", 7)):
            victims: Mapping[str, Surrogate] = Study(root, dataset).victims
            assert list(victims) == list(VICTIMS)
            with torch.inference_mode():
                assert all(victim(torch.zeros(1, 1, 32, 32)).shape == (1, classes) for victim in victims.values())

    def test_are_read_once(self, root: Path) -> None:
        study = noisy(root)
        assert study.victims["plain"] is study.victims["plain"]


class TestCache:
    def test_sets_are_made_once(self, root: Path, tmp_path: Path) -> None:
        first, second = Counting(), Counting()
        made = noisy(root, cache=tmp_path, make_marker=first).protected(("plain",))
        again = noisy(root, cache=tmp_path, make_marker=second).protected(("plain",))
        assert first.asked == [("plain",)] and second.asked == []
        assert np.array_equal(made.protected, again.protected)
        (path,) = tmp_path.iterdir()
        assert path.name.startswith("brain_mri_val_noise_without_plain_") and path.suffix == ".npz"

    def test_without_a_folder_nothing_is_kept(self, root: Path) -> None:
        maker = Counting()
        study = noisy(root, make_marker=maker)
        study.protected()
        study.protected()
        assert len(maker.asked) == 2

    @pytest.mark.parametrize(
        "change",
        [
            {"seed": 1},
            {"section": "fit"},
            {"part": (0, 2)},
            {"variant": "other"},
            {"options": ProtectOptions("strong", style="invisible", region="none")},
            {"options": ProtectOptions(replace(PRESETS["standard"], opacity=0.1), style="invisible", region="none")},
            {"options": ProtectOptions(style="invisible", region=np.zeros((32, 32), bool))},
        ],
        ids=["seed", "section", "part", "variant", "preset", "own preset", "mask"],
    )
    def test_other_questions_get_other_sets(self, root: Path, tmp_path: Path, change: dict[str, Any]) -> None:
        noisy(root, cache=tmp_path).protected()
        noisy(root, cache=tmp_path, **change).protected()
        assert len(list(tmp_path.iterdir())) == 2

    def test_masks_and_logos_count_by_content(self, root: Path, tmp_path: Path) -> None:
        """The text of a large array leaves out its middle, and a path says nothing of the file."""
        mask, other = np.zeros((64, 64), bool), np.zeros((64, 64), bool)
        other[30:33, 30:33] = True
        assert repr(mask) == repr(other)
        keys = {noisy(root, options=ProtectOptions(region=m))._key(()) for m in (mask, other, mask.copy())}
        assert len(keys) == 2
        for content in (b"one", b"two"):
            (tmp_path / "logo.png").write_bytes(content)
            keys.add(noisy(root, options=ProtectOptions(logo=tmp_path / "logo.png"))._key(()))
        assert len(keys) == 4

    def test_other_weights_get_other_sets(self, tmp_path: Path) -> None:
        own = tiny_bundle(tmp_path, weights=True)
        before = noisy(own)
        keys = before._key(()), before._key(("plain",)), before._key(("resnet",))
        assert len(set(keys)) == 3
        sums = own / "models" / "SHA256SUMS"
        lines = [
            "0" * 64 + line[64:] if line.endswith("brain_mri_plain.pt") else line
            for line in sums.read_text().splitlines()
        ]
        sums.write_text("\n".join(lines) + "\n")
        assert before._key(()) != keys[0] and before._key(("plain",)) == keys[1] and before._key(("resnet",)) != keys[2]


class TestRows:
    def test_white_box(self, root: Path) -> None:
        maker = Counting()
        study = noisy(root, make_marker=maker)
        rows = study.white_box()
        assert maker.asked == [()] and [row["victim"] for row in rows] == list(VICTIMS)
        made = study.protected()
        for row in rows:
            classes = row.pop("classes")
            assert {**row, "clean": 0, "protected": 0, "restored": 0} == {
                **{"dataset": "brain_mri", "setting": "white box", "victim": row["victim"], "remover": ""},
                **{"images": 4, "clean": 0, "protected": 0, "restored": 0},
            }
            assert list(classes) == class_names("brain_mri") and {c["images"] for c in classes.values()} == {1}
            for kind in ("clean", "protected"):
                assert np.mean([c[kind] for c in classes.values()]) == row[kind]
            assert row["clean"] == row["restored"] == accuracy(study.victims[row["victim"]], made.clean, made.labels)

    def test_black_box_leaves_the_model_that_is_asked_out(self, root: Path) -> None:
        maker = Counting()
        removers: dict[str, Callable[[Tensor], Tensor]] = {"white": torch.ones_like, "nothing": lambda images: images}
        rows = noisy(root, make_marker=maker).black_box(removers)
        assert maker.asked == [(name,) for name in VICTIMS]
        assert [(row["victim"], row["remover"]) for row in rows] == [
            (name, remover) for name in VICTIMS for remover in ("", "white", "nothing")
        ]
        for plain, white, nothing in zip(rows[::3], rows[1::3], rows[2::3], strict=True):
            assert {"restored", "classes"} <= set(plain) and not {"restored", "classes"} & set(white)
            assert white["clean"] == white["protected"] == 0.25  # one answer for all
            assert (nothing["clean"], nothing["protected"]) == (plain["clean"], plain["protected"])

    def test_each_class_counts_its_own_images(self, root: Path) -> None:
        """Of a part of the images, in which classes have unequal shares and some are not there at all."""
        study = noisy(root, part=(1, 3))
        study.items = [*study.items, *noisy(root, limit=2).items[:2]]
        made = study.protected()
        names = class_names("brain_mri")
        expected = {names[label]: int((made.labels == label).sum()) for label in sorted(set(made.labels))}
        assert sum(expected.values()) == len(made) and 1 < len(expected) < 4
        for row in study.white_box():
            assert {name: counts["images"] for name, counts in row["classes"].items()} == expected
            victim = study.victims[row["victim"]]
            for label in set(made.labels):
                here = made.labels == label
                counts = row["classes"][names[label]]
                assert counts["clean"] == accuracy(victim, made.clean[here], made.labels[here])
                assert counts["protected"] == accuracy(victim, made.protected[here], made.labels[here])

    def test_of_the_generator_alone_only_strangers_can_be_asked(self, root: Path) -> None:
        """It was trained against the others, and nothing takes them out of it."""
        study = Study(root, "brain_mri", ProtectOptions("fast", style="invisible", modality="brain_mri"), limit=1)
        assert study.black_box_names == list(STRANGERS)
        assert [row["victim"] for row in study.black_box()] == list(STRANGERS)
        assert noisy(root).black_box_names == list(VICTIMS)


def test_the_bundles_own_marker_is_the_default(root: Path) -> None:
    steps = replace(PRESETS["standard"], steps=1)
    study = Study(root, "brain_mri", ProtectOptions(steps, style="invisible", modality="brain_mri"), part=(0, 8))
    assert len(study.items) == 1
    made = study.protected(("resnet",))
    assert made.figures()["restored_identical"] == 1 and (made.protected != made.clean).mean() > 0.1

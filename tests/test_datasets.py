# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Data lists from folders of images."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from image_sets import CLASSES, image_set

from monai_miadmark import datasets
from monai_miadmark.datasets import DATA_ENV, class_names, data_list, dataset_root


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = image_set(tmp_path / "data", train=40, val=2, side=4)
    monkeypatch.setenv(DATA_ENV, str(folder))
    return folder


def names(section: str, **more: int) -> list[str]:
    return [str(item["image"]) for item in data_list("brain_mri", section, **more)]


def test_items_are_sorted_and_labelled_by_class_name(root: Path) -> None:
    assert class_names("brain_mri") == sorted(CLASSES)
    items = data_list("brain_mri", "val")
    assert [item["label"] for item in items] == [0, 0, 1, 1, 2, 2, 3, 3]
    for item in items:
        assert Path(str(item["image"])).parent.name == sorted(CLASSES)[int(item["label"])]
    assert names("val") == sorted(names("val"))


def test_fit_and_tune_are_disjoint_and_cover_train(root: Path) -> None:
    fit, tune = set(names("fit")), set(names("tune"))
    assert fit and tune and not fit & tune
    assert fit | tune == {str(path) for path in (root / "brain_mri" / "train").glob("*/*.jpg")}
    assert 0.04 < len(tune) / len(fit | tune) < 0.25
    assert not (fit | tune) & set(names("val"))


def test_new_images_move_no_others(root: Path) -> None:
    before = set(names("fit")), set(names("tune"))
    for number in range(30):
        path = root / "brain_mri" / "train" / CLASSES[0] / f"new{number}.jpg"
        path.write_bytes(next((root / "brain_mri" / "val").glob("*/*.jpg")).read_bytes())
    assert before[0] <= set(names("fit")) and before[1] <= set(names("tune"))


def test_the_split_is_the_one_that_the_released_weights_were_trained_on(root: Path) -> None:
    """Frozen: with another split, figures on ``tune`` would be figures on images that were fitted."""
    tune = [Path(name).name for name in names("tune") if Path(name).parent.name == CLASSES[0]]
    assert tune == ["train_021.jpg", "train_026.jpg"]


def test_limit_counts_by_class(root: Path) -> None:
    assert len(names("fit", limit=3)) == 3 * len(CLASSES)
    assert names("fit", limit=3)[:3] == names("fit")[:3]


def test_the_folder_may_be_given(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = data_list("brain_mri", "val")
    monkeypatch.delenv(DATA_ENV)
    assert data_list("brain_mri", "val", root) == expected
    assert data_list("brain_mri", "val", str(root)) == expected
    monkeypatch.chdir(root)
    here = data_list("brain_mri", "val", ".")
    assert all(os.path.samefile(a["image"], b["image"]) for a, b in zip(here, expected, strict=True))


def test_found_in_shared_data_above_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DATA_ENV, raising=False)
    (tmp_path / "shared" / "data").mkdir(parents=True)
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    assert dataset_root() == tmp_path / "shared" / "data"


class TestMissing:
    def test_variable_names_no_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(DATA_ENV, str(tmp_path / "absent"))
        with pytest.raises(FileNotFoundError, match=f"{DATA_ENV} names .*absent, which is not a folder"):
            dataset_root()

    def test_nothing_is_there_at_all(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv(DATA_ENV, raising=False)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(datasets, "__file__", str(tmp_path / "package" / "datasets.py"))
        with pytest.raises(FileNotFoundError, match=f"set {DATA_ENV} to the folder"):
            dataset_root()

    def test_unknown_data_set(self, root: Path) -> None:
        with pytest.raises(FileNotFoundError, match="no data set 'fundus'"):
            data_list("fundus", "fit")

    def test_no_images(self, root: Path) -> None:
        (root / "empty" / "train" / "class").mkdir(parents=True)
        with pytest.raises(FileNotFoundError, match=r"no images in .*empty for section 'val'"):
            data_list("empty", "val")

    def test_unknown_section(self, root: Path) -> None:
        with pytest.raises(ValueError, match="section must be fit, tune or val, not 'test'"):
            data_list("brain_mri", "test")

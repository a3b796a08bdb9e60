# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""What an image is taken for, and whether it looks like what the networks were trained on."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from bundle_copies import BUNDLE, MODALITIES
from PIL import Image
from recognizable import blobs, checks, disks, statistics, stripes

from monai_miadmark.datasets import data_list, dataset_root
from monai_miadmark.image import Origin
from monai_miadmark.marker import HASHES, STATISTICS
from monai_miadmark.recognition import Recognition, Statistics, features, is_gray
from monai_miadmark.recognition_fitting import gather, print_table, write_statistics

SHIPPED = BUNDLE / "models" / STATISTICS


class TestFeatures:
    def test_borders_scale_and_equal_channels_do_not_count(self) -> None:
        image = blobs(1, 5)[0]
        padded = np.pad(image, ((0, 0), (13, 7), (30, 2)))
        assert np.allclose(features(padded), features(image), atol=0.02)
        assert np.array_equal(features(image.repeat(3, 0)), features(image))
        larger = np.asarray(Image.fromarray(image[0]).resize((144, 144), Image.Resampling.NEAREST))[None]
        assert np.abs(features(larger) - features(image)).mean() < 0.05

    @pytest.mark.parametrize("value", [0.0, 1.0])
    @pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 300), (2, 40, 3)])
    def test_any_image_has_some(self, value: float, shape: tuple[int, int, int]) -> None:
        assert np.isfinite(features(np.full(shape, value, np.float32))).all()

    def test_gray(self) -> None:
        assert is_gray(blobs(2)) and is_gray(blobs(1).repeat(3, 1)) and is_gray(np.zeros((1, 4, 9, 9), np.float32))
        assert not is_gray(disks(2))


class TestStatistics:
    def test_known_kinds_are_known(self) -> None:
        made = statistics()
        assert sum((made.confidence("brain_mri", image[None]) or 0) >= 0.5 for image in blobs(20, 7)) >= 18
        assert made.confidence("knee", blobs(1)) is None

    @pytest.mark.parametrize("draw", [stripes, checks])
    def test_others_are_not(self, draw: object) -> None:
        assert callable(draw)
        told = [statistics().confidence("brain_mri", image[None]) for image in draw(20, 7)]
        assert sum(one is not None and one < 0.5 for one in told) == 20
        assert (statistics().confidence("fundus", blobs(1, 8)) or 0) < 0.5

    def test_a_stack_is_judged_by_its_middle(self) -> None:
        stack = np.concatenate([checks(4), blobs(10, 3), checks(4)])
        assert (statistics().confidence("brain_mri", stack) or 0) >= 0.5

    def test_the_same_numbers_are_the_same_file(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            statistics().save(tmp_path / name)
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
        loaded = Statistics.load(tmp_path / "a")
        for image in (*blobs(5, 4), *checks(5, 4)):
            one, other = (each.confidence("brain_mri", image[None]) for each in (loaded, statistics()))
            assert one == pytest.approx(other, abs=0.02)

    @pytest.mark.parametrize("content", [b"", b"PK\3\4nonsense", b"\x93NUMPY"])
    def test_other_files_are_refused(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "x.npz").write_bytes(content)
        with pytest.raises(ValueError):
            Statistics.load(tmp_path / "x.npz")

    def test_so_are_other_versions_and_objects(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "later.npz", version=np.array(99))
        np.savez(tmp_path / "object.npz", version=np.array([{}], dtype=object))
        np.savez(tmp_path / "empty.npz", version=np.array(1))
        for name in ("later", "object", "empty"):
            with pytest.raises(ValueError, match=r"version|allow_pickle|no statistics"):
                Statistics.load(tmp_path / f"{name}.npz")


class TestOrigin:
    FOUND = Recognition("brain_mri", 0.9, True, True, choices=MODALITIES)

    @pytest.mark.parametrize(
        "origin",
        [Origin(), Origin("MR"), Origin("MR", "BRAIN"), Origin("OT", ""), Origin("", "HEAD"), Origin("MR", "SCHAEDEL")],
    )
    def test_what_goes_with_it_changes_nothing(self, origin: Origin) -> None:
        assert self.FOUND.beside(origin) == self.FOUND

    @pytest.mark.parametrize(
        ("origin", "said"),
        [(Origin("CT", "HEAD"), "modality CT"), (Origin("US"), "modality US"), (Origin("MR", "KNEE"), "part KNEE")],
    )
    def test_what_does_not_go_with_it_makes_it_unknown(self, origin: Origin, said: str) -> None:
        told = self.FOUND.beside(origin)
        assert told.known is False and not told.measured and told.confidence == 0 and said in told.contradiction

    def test_skin_is_everywhere(self) -> None:
        skin = Recognition("skin", 0.9, True, True)
        assert skin.beside(Origin("DMS", "THIGH")) == skin and skin.beside(Origin("CT")).known is False

    def test_modalities_of_other_bundles_are_left_alone(self) -> None:
        found = Recognition("mammography", 0.9, True)
        assert found.beside(Origin("CT", "KNEE")) == found


class TestShipped:
    def test_is_listed_and_small(self) -> None:
        digest = hashlib.sha256(SHIPPED.read_bytes()).hexdigest()
        assert f"{digest}  {STATISTICS}" in (BUNDLE / "models" / HASHES).read_text().splitlines()
        assert SHIPPED.stat().st_size < 1.5e6 and Statistics.load(SHIPPED).names == MODALITIES

    @pytest.mark.parametrize("name", [*MODALITIES, "chest_xray", "kidney_ct", "breast_us", "lung_histology"])
    def test_tells_images_that_it_was_not_made_of(self, name: str) -> None:
        try:
            root = dataset_root()
        except FileNotFoundError as error:
            pytest.skip(str(error))
        root = root if name in MODALITIES else root.parent / "data256"
        if not (root / name).is_dir():
            pytest.skip(f"there is no data set {name} in {root}")
        made = Statistics.load(SHIPPED)
        rows = gather([name], "val", [root], limit=8)[name]
        known = np.stack([made.confidences(each, rows) for each in MODALITIES], 1) >= 0.5
        if name in MODALITIES:
            assert known[:, MODALITIES.index(name)].mean() >= 0.9
        else:
            assert known.any(1).mean() <= 0.1


def test_statistics_are_made_of_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As the bundle makes them: what is in ``val`` was not seen."""
    kinds = {"brain_mri": blobs, "fundus": disks, "stripes": stripes}
    for number, (name, draw) in enumerate(kinds.items()):
        for part, count in (("train", 130), ("val", 10)):
            folder = tmp_path / "data" / name / part / "any"
            folder.mkdir(parents=True)
            for i, image in enumerate(draw(count, number + len(part))):
                pixels = np.rint(image.transpose(1, 2, 0) * 255).astype(np.uint8)
                Image.fromarray(pixels.squeeze()).save(folder / f"{part}{i}.jpg", quality=95)
    roots = [tmp_path / "data"]
    assert len(data_list("fundus", "tune", roots[0])) > 1
    write_statistics(tmp_path / "one.npz", ["brain_mri", "fundus"], ["stripes"], roots)
    again = gather(["fundus"], "val", roots, variants=2)["fundus"]
    assert len(again) == 30 and np.array_equal(again, gather(["fundus"], "val", roots, variants=2)["fundus"])
    print_table(tmp_path / "one.npz", ["brain_mri", "fundus"], ["stripes"], roots)
    lines = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
    table = {cells[0]: cells[1:] for cells in lines[2:]}
    assert table["stripes"][0] == "10" and float(table["stripes"][3]) == 1
    assert float(table["fundus"][2]) >= 0.7 and len(table["stripes"]) == 5
    with pytest.raises(FileNotFoundError, match="no data set 'knee'"):
        gather(["knee"], "fit", roots)

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Sets of protected images: what is kept of them, what they cost, and the files they lie in."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from doubles import NoiseMarker
from image_sets import image_set
from PIL import Image

from monai_miadmark.datasets import data_list
from monai_miadmark.evaluation.protected import ProtectedSet, display, protect_set, stored_raster
from monai_miadmark.options import ProtectOptions

Items = list[dict[str, str | int]]


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> Items:
    """Four gray images of 32 x 32, one of each class."""
    return data_list("brain_mri", "val", image_set(tmp_path_factory.mktemp("data"), train=1, val=1))


@pytest.fixture(scope="module")
def made(items: Items) -> ProtectedSet:
    return protect_set(items, NoiseMarker())


def arrays(made: ProtectedSet) -> list[np.ndarray[Any, Any]]:
    """All that does not depend on the time of day."""
    return [getattr(made, f.name) for f in fields(made) if f.name != "seconds"]


class TestStoredRaster:
    @pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3)])
    def test_decodes_as_asked(self, mode: str, channels: int, tmp_path: Path) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "a.png")
        image = stored_raster(tmp_path / "a.png", mode)
        assert image.values.shape == (1, 9, 7, channels) and image.values.dtype == np.uint8
        assert image.window.width == 255 and image.bounds == (0, 255)
        if mode == "RGB":
            assert np.array_equal(image.values[0], pixels)


def test_display_is_what_networks_take() -> None:
    values = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), dtype=np.uint8)
    shown = display(values)
    assert shown.shape == (2, 3, 5, 4) and shown.dtype == torch.float32
    assert torch.equal((shown * 255).round().byte(), torch.from_numpy(values).permute(0, 3, 1, 2))


class TestProtectSet:
    def test_shapes_and_labels(self, made: ProtectedSet) -> None:
        assert len(made) == 4 and made.labels.tolist() == [0, 1, 2, 3] and made.labels.dtype == np.int64
        for values in (made.clean, made.protected, made.restored):
            assert values.shape == (4, 32, 32, 1) and values.dtype == np.uint8
        for masks in (made.logos, made.regions):
            assert masks.shape == (4, 32, 32) and masks.dtype == bool and masks.reshape(4, -1).any(1).all()
        assert (made.record_bytes > 100).all() and (made.seconds > 0).all()

    def test_everything_comes_back(self, made: ProtectedSet) -> None:
        assert np.array_equal(made.restored, made.clean) and not np.array_equal(made.protected, made.clean)

    def test_the_region_keeps_to_its_budget_and_the_logo_off_it(self, made: ProtectedSet) -> None:
        assert not (made.regions & made.logos).any()
        change = np.abs(made.protected.astype(int) - made.clean)[..., 0]
        assert change[made.regions].max() <= 3 < change[made.logos].max()

    def test_a_seed_repeats_a_run(self, items: Items) -> None:
        options = ProtectOptions(style="invisible")
        first, again, other = (protect_set(items[:1], NoiseMarker(), options, seed=seed) for seed in (1, 1, 2))
        assert all(np.array_equal(a, b) for a, b in zip(arrays(first), arrays(again), strict=True))
        assert not np.array_equal(first.protected, other.protected)

    def test_images_have_keys_of_their_own(self, items: Items) -> None:
        twice = protect_set([items[0], items[0]], NoiseMarker(), ProtectOptions(style="invisible"))
        assert np.array_equal(twice.clean[0], twice.clean[1])
        assert not np.array_equal(twice.protected[0], twice.protected[1])

    def test_images_above_the_canonical_grid_have_regions_of_their_own_size(self, tmp_path: Path) -> None:
        items = data_list("brain_mri", "val", image_set(tmp_path, side=280, train=1, val=1))[:1]
        made = protect_set(items, NoiseMarker())
        assert made.regions.shape == made.logos.shape == (1, 280, 280) and 0.05 < made.regions.mean() < 0.12
        assert made.figures()["psnr_region"] is not None

    def test_nothing_to_protect_is_said(self) -> None:
        with pytest.raises(ValueError, match="no images"):
            protect_set([], NoiseMarker())


class TestFigures:
    def test_of_the_standard_preset(self, made: ProtectedSet) -> None:
        figures = made.figures()
        assert {name for name in figures if name.startswith(("psnr", "ssim"))} == {
            f"{score}_{part}" for score in ("psnr", "ssim") for part in ("outside_logo", "whole", "region")
        }
        assert "ms_ssim_whole" not in figures  # the images are too small for it
        assert figures["restored_identical"] == 1 and figures["region_identical"] == 0
        whole, outside = figures["psnr_whole"], figures["psnr_outside_logo"]
        assert whole is not None and outside is not None and 15 < whole < outside < 60

    def test_a_mask_stays_as_it_is(self, items: Items) -> None:
        mask = np.zeros((32, 32), bool)
        mask[4:20, 6:30] = True
        made = protect_set(items[:2], NoiseMarker(), ProtectOptions(style="invisible", region=mask), mode="RGB")
        assert made.clean.shape == (2, 32, 32, 3) and (made.regions == mask).all()
        figures = made.figures()
        assert figures["region_identical"] == 1 and figures["psnr_region"] is None  # windows at the edge see beyond it
        assert not made.logos.any()

    def test_without_a_region_nothing_is_said_of_it(self, items: Items) -> None:
        figures = protect_set(items[:1], NoiseMarker(), ProtectOptions("subtle", region="none")).figures()
        assert figures["region_identical"] is None and "psnr_region" not in figures

    def test_what_did_not_come_back_shows(self, made: ProtectedSet) -> None:
        restored = made.restored.copy()
        restored[1, 3, 3] ^= 1
        assert replace(made, restored=restored).figures()["restored_identical"] == 0.75


class TestFiles:
    def test_come_back_as_they_were(self, made: ProtectedSet, tmp_path: Path) -> None:
        path = tmp_path / "sets" / "a.npz"
        made.save(path)
        again = ProtectedSet.load(path)
        for f in fields(made):
            one, other = getattr(made, f.name), getattr(again, f.name)
            assert one.dtype == other.dtype and np.array_equal(one, other), f.name
        assert [p.name for p in path.parent.iterdir()] == ["a.npz"]

    def test_joined_in_order(self, made: ProtectedSet) -> None:
        joined = ProtectedSet.joined([made, made])
        assert len(joined) == 8 and joined.labels.tolist() == [0, 1, 2, 3] * 2
        assert np.array_equal(joined.protected[4:], made.protected)

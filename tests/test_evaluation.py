# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Image quality against known values and MONAI's own, and reports."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from doubles import NoiseMarker
from image_sets import image_set
from monai.metrics import PSNRMetric, SSIMMetric
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from monai_miadmark.datasets import data_list
from monai_miadmark.evaluation import accuracy_table, evaluate, logo_mask, quality, stored_raster, write_report
from monai_miadmark.exact import ImageMark, apply_mark
from monai_miadmark.interpolate import upsample
from monai_miadmark.marking import make_mark
from monai_miadmark.options import PRESETS, ProtectOptions

LATENT = bytes(32)


def picture(*shape: int) -> NDArray[np.float32]:
    return np.asarray(np.random.default_rng(0).random(shape) * 0.8, np.float32)


class TestQuality:
    def test_identical_images(self) -> None:
        same = quality(picture(20, 30), picture(20, 30))
        assert same.psnr == math.inf and same.ssim == pytest.approx(1)

    @pytest.mark.parametrize("offset", [0.1, -0.01])
    def test_constant_offset(self, offset: float) -> None:
        original = picture(20, 30, 3)
        assert quality(original, original + np.float32(offset)).psnr == pytest.approx(-20 * math.log10(abs(offset)))

    def test_ssim_of_constants_is_the_luminance_term(self) -> None:
        low, high = np.full((15, 15), 0.2, np.float32), np.full((15, 15), 0.5, np.float32)
        expected = (2 * 0.2 * 0.5 + 1e-4) / (0.2**2 + 0.5**2 + 1e-4)
        assert quality(low, high).ssim == pytest.approx(expected, abs=1e-4)

    @pytest.mark.parametrize("shape", [(11, 11), (40, 33), (24, 20, 1), (24, 20, 3)])
    def test_agrees_with_monai_on_whole_images(self, shape: tuple[int, ...]) -> None:
        original = picture(*shape)
        noise = np.random.default_rng(1).normal(0, 0.05, shape)
        protected = np.clip(original + noise, 0, 1).astype(np.float32)
        mine = quality(original, protected)
        y, y_pred = (torch.from_numpy(np.atleast_3d(a).transpose(2, 0, 1)[None].copy()) for a in (original, protected))
        assert mine.psnr == pytest.approx(float(PSNRMetric(max_val=1.0)(y_pred, y)), rel=1e-5)
        assert mine.ssim == pytest.approx(float(SSIMMetric(spatial_dims=2, data_range=1.0)(y_pred, y)), rel=1e-5)

    def test_the_logo_does_not_count(self) -> None:
        original = picture(48, 48)
        protected, logo = original.copy(), np.zeros((48, 48), bool)
        protected[20:30, 5:40] = 1
        logo[20:30, 5:40] = True
        whole, outside = quality(original, protected), quality(original, protected, logo)
        assert whole.psnr < 20 and outside.psnr == math.inf
        # SSIM windows next to the logo still see some of it.
        assert outside.ssim > whole.ssim + 0.05
        far = logo.copy()
        far[14:36] = True
        assert quality(original, protected, far).ssim == pytest.approx(1)

    def test_psnr_counts_only_what_is_outside(self) -> None:
        original = picture(32, 32, 3)
        protected, logo = original.copy(), np.zeros((32, 32), bool)
        logo[:, :16] = True
        protected[:, 16:] += np.float32(0.1)
        protected[:, :16] += np.float32(0.7)
        assert quality(original, protected, logo).psnr == pytest.approx(20)

    def test_a_logo_all_over_leaves_nothing_to_compare(self) -> None:
        assert quality(picture(16, 16), 1 - picture(16, 16), np.ones((16, 16), bool)) == (math.inf, 1)

    @pytest.mark.parametrize(("one", "other"), [((10, 20), (10, 20)), ((20, 10), (20, 10)), ((20, 20), (20, 21))])
    def test_refused(self, one: tuple[int, ...], other: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="at least 11 pixels a side"):
            quality(picture(*one), picture(*other))


class TestLogoMask:
    def test_covers_all_ink_and_the_larger_budget(self, tmp_path: Path) -> None:
        image = stored_raster(image_set(tmp_path, side=300, train=1, val=0) / "brain_mri/train/glioma/train_000.jpg")
        mark = make_mark(image, ProtectOptions(region="none"), NoiseMarker(), LATENT)
        assert mark.logo is not None and mark.field is not None
        logo = logo_mask(mark, image.values.shape)
        grid = mark.field.shape[1:3]
        assert grid != image.values.shape[1:3] and logo.shape == image.values.shape[:3]
        ink = upsample(mark.logo.coverage(0, *grid), *logo.shape[1:]) > 0
        assert logo[0][ink].all() and 0.01 < logo.mean() < 0.4
        change = np.abs(apply_mark(image, mark).astype(int) - image.values)[0, ..., 0]
        # A block that holds one cell of the footprint has a share of its budget, up to three cells beyond.
        assert change[~logo[0]].max() <= 255 * PRESETS["standard"].footprint

    def test_without_a_logo_it_is_empty(self) -> None:
        assert not logo_mask(ImageMark(), (2, 9, 8, 1)).any() and logo_mask(ImageMark(), (2, 9, 8, 1)).shape == (
            2,
            9,
            8,
        )


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


class _ByBrightness(nn.Module):
    """Tells the classes of the made image set apart by their brightness."""

    def __init__(self, shift: float = 0.0) -> None:
        super().__init__()
        self.shift = shift

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        means = (images.mean(1)[:, 8:24, 8:24].mean((1, 2)) * 255 + self.shift)[:, None]
        return -(means - torch.tensor([[60.0, 110.0, 160.0, 210.0]])).abs()


class TestEvaluate:
    @pytest.fixture
    def report(self, tmp_path: Path) -> dict[str, Any]:
        items = data_list("brain_mri", "val", image_set(tmp_path, val=2))
        victims = {"good": _ByBrightness(), "bad": _ByBrightness(-60)}
        return evaluate(items, NoiseMarker(), victims, ProtectOptions("subtle"))

    def test_figures(self, report: dict[str, Any]) -> None:
        assert report["images"] == 8 and report["restored_identical"] == 1
        assert report["accuracy"]["good"]["clean"] == report["accuracy"]["good"]["restored"] == 1
        assert report["accuracy"]["bad"]["clean"] == report["accuracy"]["bad"]["restored"] <= 0.25
        assert set(report["accuracy"]["good"]) == {"clean", "protected", "restored"}
        assert 25 < report["psnr"] < 60 and 0.5 < report["ssim"] < 1
        assert (report["preset"], report["style"], report["region"]) == ("subtle", "visible", "auto")
        assert report["seconds_per_image"] > 0

    def test_a_mark_that_misleads_shows(self, tmp_path: Path) -> None:
        class Darker(NoiseMarker):
            def perturb(self, images: Any, clean: Any, budget: Any, latent: bytes) -> NDArray[np.float32]:
                return -np.ones_like(budget)

        items = data_list("brain_mri", "val", image_set(tmp_path, val=1))
        options = ProtectOptions("strong", style="invisible", region="none")
        row = evaluate(items, Darker(), {"edge": _ByBrightness(-20)}, options)["accuracy"]["edge"]
        assert row["clean"] == row["restored"] == 1 and row["protected"] < 1

    def test_a_seed_repeats_a_run(self, tmp_path: Path) -> None:
        items = data_list("brain_mri", "val", image_set(tmp_path, val=1), limit=1)
        first, again, other = (
            evaluate(items, NoiseMarker(), {}, ProtectOptions(style="invisible"), seed=seed)["psnr"]
            for seed in (1, 1, 2)
        )
        assert first == again != other

    def test_colors_and_masks(self, tmp_path: Path) -> None:
        items = data_list("brain_mri", "val", image_set(tmp_path, val=1))[:2]
        options = ProtectOptions(style="invisible", region=np.ones((32, 32), bool))
        report = evaluate(items, NoiseMarker(), {"good": _ByBrightness()}, options, mode="RGB")
        assert report["region"] == "mask" and report["psnr"] == math.inf and report["ssim"] == pytest.approx(1)

    def test_nothing_to_evaluate_is_said(self) -> None:
        with pytest.raises(ValueError, match="no images"):
            evaluate([], NoiseMarker(), {})

    def test_report_files(self, report: dict[str, Any], tmp_path: Path) -> None:
        roles = {"good": "white box", "bad": "black box"}
        table = write_report(report, roles, tmp_path / "val_subtle")
        assert (tmp_path / "val_subtle.md").read_text() == table == accuracy_table(report, roles)
        kept = json.loads((tmp_path / "val_subtle.json").read_text())
        assert kept == {**report, "roles": roles}
        assert "| good | white box | 100.0 % |" in table and "| bad | black box |" in table
        assert "8 images, preset subtle, visible, region auto" in table and "100.0 % restored bit for bit" in table

    def test_reports_are_strict_json(self, report: dict[str, Any], tmp_path: Path) -> None:
        """Images without any mark have no finite PSNR; the file can be read by any parser all the same."""

        def refuse(constant: str) -> None:
            raise AssertionError(constant)

        write_report({**report, "psnr": math.inf}, {}, tmp_path / "same")
        kept = json.loads((tmp_path / "same.json").read_text(), parse_constant=refuse)
        assert kept["psnr"] is None
        assert "PSNR inf dB" in (tmp_path / "same.md").read_text()

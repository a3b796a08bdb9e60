# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Image quality against known values and MONAI's own."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from doubles import NoiseMarker
from image_sets import image_set
from monai.metrics import MultiScaleSSIMMetric, PSNRMetric, SSIMMetric
from numpy.typing import NDArray

from monai_miadmark.evaluation.protected import stored_raster
from monai_miadmark.evaluation.quality import logo_mask, multiscale_ssim, quality
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


class TestMultiscale:
    def test_agrees_with_monai(self) -> None:
        """Given the weights of the first four scales, which sum to 0.8667, as a whole."""
        original = picture(180, 180)
        protected = np.clip(original + np.random.default_rng(1).normal(0, 0.05, original.shape), 0, 1)
        y_pred, y = (torch.from_numpy(a.astype(np.float32))[None, None] for a in (protected, original))
        four = [w / 0.8667 for w in (0.0448, 0.2856, 0.3001, 0.2363)]
        expected = MultiScaleSSIMMetric(2, 1.0, kernel_size=11, kernel_sigma=1.5, weights=four)(y_pred, y)
        assert multiscale_ssim(original, protected.astype(np.float32)) == pytest.approx(float(expected), abs=1e-4)

    def test_identical_and_colored_images(self) -> None:
        assert multiscale_ssim(picture(99, 110, 3), picture(99, 110, 3)) == pytest.approx(1)

    def test_noise_lowers_it(self) -> None:
        original, rng = picture(100, 100), np.random.default_rng(1)
        less, more = ((original + rng.normal(0, s, original.shape)).astype(np.float32) for s in (0.02, 0.2))
        assert 1 > multiscale_ssim(original, less) > multiscale_ssim(original, more) > 0

    def test_small_images_are_refused(self) -> None:
        with pytest.raises(ValueError, match="kernel"):
            multiscale_ssim(picture(98, 120), picture(98, 120))


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

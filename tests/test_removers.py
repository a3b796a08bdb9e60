# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Filters that try to undo a mark."""

from __future__ import annotations

import pickle
import warnings
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

pytest.importorskip("skimage")
pytest.importorskip("pywt")

from monai_miadmark.evaluation.removers import FILTERS

EVERY = pytest.mark.parametrize("name", FILTERS)
CHANNELS = pytest.mark.parametrize("channels", [1, 3])

DENOISERS = (
    "Gaussian 0.7",
    "Gaussian 1.2",
    "median 3",
    "median 5",
    "bilateral",
    "total variation 0.02",
    "total variation 0.05",
    "non-local means",
    "wavelet",
    "scaling 0.75",
    "scaling 0.5",
)


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Uniform in [0, 1)."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def disk(channels: int, side: int = 48) -> Tensor:
    """``(1, C, side, side)``: a shaded disk, another brightness in each channel."""
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, side)] * 2, indexing="ij")
    plane = 0.2 + 0.4 * torch.sigmoid(20 * (0.7 - torch.hypot(x, y))) + 0.1 * x
    return torch.stack([plane * (1 + 0.2 * c) for c in range(channels)])[None]


def psnr(images: Tensor, reference: Tensor) -> float:
    return float(-10 * torch.log10((images - reference).square().mean()))


def pillow(images: Tensor, quality: int) -> Tensor:
    """What Pillow makes of the first image, by way of a JPEG file."""
    pixels = (images[0] * 255).round().byte().permute(1, 2, 0).numpy()
    file = BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, "JPEG", quality=quality)
    decoded = np.array(Image.open(file))
    return torch.from_numpy(decoded.reshape(pixels.shape)).permute(2, 0, 1)[None] / 255


class TestEveryFilter:
    @EVERY
    @CHANNELS
    @pytest.mark.filterwarnings("ignore:Level value of:UserWarning")
    def test_shape_type_and_range(self, name: str, channels: int) -> None:
        for size in ((1, 1), (1, 9), (2, 3), (21, 33)):
            images = noise(2, channels, *size).round(decimals=1)
            before = images.clone()
            filtered = FILTERS[name](images)
            assert filtered.shape == images.shape and filtered.dtype == torch.float32 and filtered.is_contiguous()
            assert filtered.isfinite().all() and filtered.min() >= 0 and filtered.max() <= 1
            assert torch.equal(images, before)

    @EVERY
    @CHANNELS
    def test_is_deterministic_and_knows_no_neighbors_in_the_batch(self, name: str, channels: int) -> None:
        state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
        images = noise(3, channels, 24, 20)
        filtered = FILTERS[name](images)
        assert torch.equal(filtered, FILTERS[name](images))
        assert torch.equal(filtered, torch.cat([FILTERS[name](image[None]) for image in images]))
        assert torch.equal(state, torch.get_rng_state()) and np.array_equal(numpy_state, np.random.get_state()[1])

    @EVERY
    @CHANNELS
    def test_changes_an_image_and_keeps_what_it_shows(self, name: str, channels: int) -> None:
        # Several, because shrinking by a random share includes not at all.
        images = torch.cat([disk(channels) * shade for shade in (1, 0.9, 0.8)])
        filtered = FILTERS[name](images)
        assert not torch.equal(filtered, images)
        assert torch.corrcoef(torch.stack([images.flatten(), filtered.flatten()]))[0, 1] > 0.75

    def test_mirrored_and_turned_images_are_where_they_should_be(self) -> None:
        images = noise(2, 3, 24, 20)
        assert torch.equal(FILTERS["mirror"](images), images.flip(-1))
        dot = torch.zeros(1, 1, 65, 65)
        dot[..., 32, 60] = 1  # 28 to the right of the middle: counterclockwise is up
        row, column = np.unravel_index(int(FILTERS["rotation 10"](dot).argmax()), (65, 65))
        assert (row, column) == (round(32 - 28 * np.sin(np.pi / 18)), round(32 + 28 * np.cos(np.pi / 18)))

    @EVERY
    def test_gray_as_color_stays_gray(self, name: str) -> None:
        gray = noise(1, 1, 24, 20)
        filtered = FILTERS[name](gray.expand(-1, 3, -1, -1))
        torch.testing.assert_close(filtered, filtered[:, :1].expand_as(filtered), atol=2e-3, rtol=0)

    @EVERY
    def test_other_types_strides_and_gradients(self, name: str) -> None:
        images = noise(1, 3, 16, 16)
        flipped = images.flip(-1).double().requires_grad_().flip(-1)
        assert torch.equal(FILTERS[name](flipped), FILTERS[name](images))
        assert torch.equal(FILTERS[name](images + 0.5), FILTERS[name]((images + 0.5).clamp(0, 1)))
        assert FILTERS[name](images[:0]).shape == (0, 3, 16, 16)

    @EVERY
    def test_survives_pickling(self, name: str) -> None:
        image = disk(1, 16)
        assert torch.equal(pickle.loads(pickle.dumps(FILTERS[name]))(image), FILTERS[name](image))

    @EVERY
    def test_other_shapes_are_refused(self, name: str) -> None:
        for shape in ((16, 16), (3, 16, 16), (1, 2, 16, 16), (1, 4, 16, 16), (1, 1, 4, 16, 16)):
            with pytest.raises(ValueError, match=r"images must be \(B, 1, h, w\) or \(B, 3, h, w\)"):
                FILTERS[name](torch.zeros(shape))


class TestConstantImages:
    @pytest.mark.parametrize("name", [n for n in FILTERS if n != "resize and pad"])
    @CHANNELS
    @pytest.mark.parametrize("value", [0.0, 1.0])
    def test_black_and_white_stay(self, name: str, channels: int, value: float) -> None:
        images = torch.full((1, channels, 24, 20), value)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            filtered = FILTERS[name](images)
        torch.testing.assert_close(filtered, images, atol=1e-5, rtol=0)

    @pytest.mark.parametrize("name", DENOISERS)
    @CHANNELS
    def test_gray_stays_also_at_the_border(self, name: str, channels: int) -> None:
        images = torch.full((1, channels, 24, 20), 0.3)
        torch.testing.assert_close(FILTERS[name](images), images, atol=1e-5, rtol=0)


class TestDenoising:
    @pytest.mark.parametrize("name", DENOISERS)
    @CHANNELS
    def test_gaussian_noise_is_removed(self, name: str, channels: int) -> None:
        clean = disk(channels)
        noisy = clean + 8 / 255 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
        assert psnr(FILTERS[name](noisy), clean) > psnr(noisy, clean) + 1

    def test_stronger_settings_change_more(self) -> None:
        image = noise(1, 3, 32, 32)
        for mild, strong in (
            ("JPEG 90", "JPEG 75"),
            ("JPEG 75", "JPEG 50"),
            ("Gaussian 0.7", "Gaussian 1.2"),
            ("median 3", "median 5"),
            ("total variation 0.02", "total variation 0.05"),
            ("4 bits", "3 bits"),
            ("scaling 0.75", "scaling 0.5"),
        ):
            assert psnr(FILTERS[mild](image), image) > psnr(FILTERS[strong](image), image)


class TestSingleFilters:
    @pytest.mark.parametrize("quality", [90, 75, 50])
    @CHANNELS
    def test_jpeg_is_pillows(self, quality: int, channels: int) -> None:
        image = disk(channels)
        torch.testing.assert_close(FILTERS[f"JPEG {quality}"](image), pillow(image, quality), atol=1e-7, rtol=0)

    @pytest.mark.parametrize("bits", [3, 4])
    def test_bit_depth_rounds_to_the_nearest_level(self, bits: int) -> None:
        image = noise(1, 1, 32, 32)
        filtered = FILTERS[f"{bits} bits"](image)
        levels = torch.arange(2**bits) / (2**bits - 1)
        nearest = levels[(image[..., None] - levels).abs().argmin(-1)]
        torch.testing.assert_close(filtered, nearest)

    def test_gamma(self) -> None:
        image = noise(1, 3, 8, 8)
        torch.testing.assert_close(FILTERS["gamma 0.7"](image), image**0.7)

    def test_median_removes_single_pixels(self) -> None:
        image = torch.full((1, 1, 9, 9), 0.25)
        image[0, 0, 4, 4] = 1
        assert torch.equal(FILTERS["median 3"](image), torch.full_like(image, 0.25))

    def test_scaling_by_half_loses_a_checkerboard(self) -> None:
        board = (torch.arange(32)[:, None] + torch.arange(32)).remainder(2)[None, None].float()
        assert (FILTERS["scaling 0.5"](board)[..., 4:-4, 4:-4] - 0.5).abs().max() < 0.05

    def test_resize_and_pad_leaves_a_smaller_copy_at_random_places(self) -> None:
        whites = torch.stack([torch.full((1, 40, 60), 1 - i / 255) for i in range(12)])
        boxes = set()
        for image in FILTERS["resize and pad"](whites)[:, 0]:
            rows, columns = image.amax(1).nonzero()[:, 0], image.amax(0).nonzero()[:, 0]
            boxes.add((int(rows[0]), int(columns[0]), len(rows), len(columns)))
            assert 34 <= len(rows) <= 40 and 51 <= len(columns) <= 60
            assert len(columns) / 60 == pytest.approx(len(rows) / 40, abs=0.02)
            inside = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            assert torch.allclose(inside, inside[0, 0])
        assert len(boxes) > 8

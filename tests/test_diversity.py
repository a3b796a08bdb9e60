# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Random preprocessing in front of the surrogates."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from monai_miadmark.diversity import BlockShuffle, DrawnDiversity, InputDiversity, gaussian_blur, jpeg_loss


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


IMAGES = torch.rand((2, 3, 33, 21), generator=seeded(0))


class TestInputDiversity:
    @pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3), (33, 21)])
    def test_range_and_any_size(self, size: tuple[int, int]) -> None:
        images = torch.rand((2, 1, *size), generator=seeded(1))
        for seed in range(20):
            changed = InputDiversity(blur=0.5, jpeg=0.5)(images, seeded(seed))
            assert changed.shape[:2] == (2, 1) and min(changed.shape[2:]) >= 1
            assert changed.isfinite().all() and changed.min() >= 0 and changed.max() <= 1

    def test_all_randomness_comes_from_the_generator(self) -> None:
        state = torch.get_rng_state()
        diversity = InputDiversity(blur=0.5, jpeg=0.5)
        drawn = [diversity(IMAGES, seeded(seed)) for seed in range(12)]
        for seed, first in enumerate(drawn):
            assert torch.equal(first, diversity(IMAGES, seeded(seed)))
        assert len({tuple(d.shape) for d in drawn}) > 3
        assert torch.equal(state, torch.get_rng_state())

    def test_sizes_stay_within_scale_and_crop(self) -> None:
        diversity = InputDiversity(scale=(0.5, 2), crop=0.2, chance=1)
        for seed in range(30):
            height, width = diversity(IMAGES, seeded(seed)).shape[2:]
            assert 0.5 * 0.8 * 33 - 1 <= height <= 67 and 0.5 * 0.8 * 21 - 1 <= width <= 43

    def test_sides_take_the_place_of_scale(self) -> None:
        diversity = InputDiversity(scale=(9, 9), sides=(16, 64), crop=0, chance=1)
        longer = [max(diversity(IMAGES, seeded(seed)).shape[2:]) for seed in range(40)]
        assert min(longer) >= 16 and max(longer) <= 64
        assert sum(side < 32 for side in longer) > 10 < sum(side > 32 for side in longer)  # as many below as above 32

    def test_chance(self) -> None:
        assert all(InputDiversity(chance=0)(IMAGES, seeded(s)) is IMAGES for s in range(10))
        assert all(InputDiversity(chance=1)(IMAGES, seeded(s)) is not IMAGES for s in range(10))

    def test_nothing_to_draw_changes_nothing(self) -> None:
        plain = InputDiversity(scale=(1, 1), crop=0, blur=0, gamma=1, noise=0, chance=1)
        torch.testing.assert_close(plain(IMAGES, seeded(3)), IMAGES.clamp_min(1e-3))

    def test_gradients_pass_and_the_images_stay(self) -> None:
        before = IMAGES.clone()
        for seed in range(8):
            images = IMAGES.clone().requires_grad_()
            InputDiversity(chance=1, blur=1, jpeg=1)(images, seeded(seed)).sum().backward()
            assert images.grad is not None and images.grad.isfinite().all() and images.grad.any()
        assert torch.equal(before, IMAGES)


class TestBlockShuffle:
    @pytest.mark.parametrize("size", [(1, 1), (1, 9), (8, 8), (9, 40), (33, 21)])
    @pytest.mark.parametrize("blocks", [1, 2, 3])
    def test_size_and_range_stay(self, size: tuple[int, int], blocks: int) -> None:
        images = torch.rand((2, 3, *size), generator=seeded(1))
        for seed in range(20):
            changed = BlockShuffle(blocks)(images, seeded(seed))
            assert changed.shape == images.shape
            assert changed.isfinite().all() and changed.min() >= 0 and changed.max() <= 1 + 1e-6

    def test_without_turning_the_samples_only_change_places(self) -> None:
        arrangements = set()
        for seed in range(20):
            changed = BlockShuffle(degrees=0)(IMAGES, seeded(seed))
            torch.testing.assert_close(changed.flatten(1).sort().values, IMAGES.flatten(1).sort().values)
            arrangements.add(changed.sum((0, 1)).argmax().item())
        assert len(arrangements) > 5

    def test_a_single_block_is_turned_about_its_center(self) -> None:
        image = torch.zeros(1, 1, 41, 41)
        image[..., 20, 20], image[..., 20, 35] = 1, 1
        changed = BlockShuffle(1, degrees=40)(image, seeded(2))
        assert changed[0, 0, 20, 20] > 0.9 and changed[0, 0, 20, 35] < 0.1

    def test_blocks_are_neither_slivers_nor_nearly_all(self) -> None:
        columns = torch.arange(80.0).expand(1, 1, 16, 80) / 80
        for seed in range(40):
            changed = BlockShuffle(2, degrees=0)(columns, seeded(seed))[0, 0]
            for row in (changed[0], changed[-1]):
                (jump,) = torch.nonzero(row.diff().abs() > 0.02).flatten().tolist() or [39]
                assert 0.25 * 80 - 1 <= jump + 1 <= 0.75 * 80 + 1

    def test_all_randomness_comes_from_the_generator(self) -> None:
        state = torch.get_rng_state()
        for seed in range(5):
            assert torch.equal(BlockShuffle()(IMAGES, seeded(seed)), BlockShuffle()(IMAGES, seeded(seed)))
        assert not torch.equal(BlockShuffle()(IMAGES, seeded(0)), BlockShuffle()(IMAGES, seeded(1)))
        assert torch.equal(state, torch.get_rng_state())

    def test_images_that_are_too_small_stay(self) -> None:
        small = IMAGES[..., :7]
        assert BlockShuffle(2)(small, seeded(0)) is small

    def test_gradients_pass_and_the_images_stay(self) -> None:
        before = IMAGES.clone()
        images = IMAGES.clone().requires_grad_()
        BlockShuffle()(images, seeded(0)).sum().backward()
        assert images.grad is not None and (images.grad > 0).float().mean() > 0.7
        assert torch.equal(before, IMAGES)

    def test_needs_a_block(self) -> None:
        with pytest.raises(ValueError, match="blocks must be at least 1, not 0"):
            BlockShuffle(0)


class TestGaussianBlur:
    @pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 40), (33, 21)])
    @pytest.mark.parametrize("sigma", [0.01, 0.5, 1.5, 8])
    def test_keeps_constants_at_any_size(self, size: tuple[int, int], sigma: float) -> None:
        constant = torch.full((2, 3, *size), 0.7)
        torch.testing.assert_close(gaussian_blur(constant, sigma), constant)

    def test_of_a_point_is_the_kernel(self) -> None:
        point = torch.zeros(1, 1, 21, 21)
        point[..., 10, 10] = 1
        blurred = gaussian_blur(point, 2.0)[0, 0]
        at = torch.arange(-6, 7)
        kernel = torch.exp(-(at**2) / 8.0)
        kernel = kernel / kernel.sum()
        torch.testing.assert_close(blurred[4:17, 4:17], kernel[:, None] * kernel[None])
        assert not blurred[:4].any() and not blurred[:, 17:].any()

    def test_channels_do_not_mix(self) -> None:
        images = torch.zeros(1, 2, 9, 9)
        images[:, 0] = 1
        blurred = gaussian_blur(images, 1.0)
        torch.testing.assert_close(blurred, images)


class TestJpegLoss:
    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("quality", [20, 60, 95])
    def test_is_what_an_encoder_does(self, channels: int, quality: int) -> None:
        y, x = np.mgrid[:32, :48]
        smooth = 128 + 90 * np.sin(x / 5 + y / 7)
        noise = np.random.default_rng(0).normal(0, 12, (32, 48, channels))
        pixels = (smooth[..., None] * [1, 0.8, 0.6][:channels] + noise).clip(0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels.squeeze()).save(file, "JPEG", quality=quality, subsampling=0)
        decoded = np.asarray(Image.open(file), np.float32).reshape(32, 48, channels)
        ours = jpeg_loss(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255, quality)
        difference = ours[0].permute(1, 2, 0).numpy() * 255 - decoded
        # Encoders round after the color transform too, which flips some coefficients where the steps are small.
        assert np.abs(difference).mean() < (0.75 if channels == 1 else 2)

    @pytest.mark.parametrize("size", [(1, 1), (3, 20), (8, 8), (17, 9)])
    def test_any_size_and_range(self, size: tuple[int, int]) -> None:
        images = torch.rand((2, 3, *size), generator=seeded(2))
        lossy = jpeg_loss(images, 30)
        assert lossy.shape == images.shape and lossy.min() >= 0 and lossy.max() <= 1

    def test_what_vanishes_gets_hardly_any_gradient(self) -> None:
        at = torch.arange(8)
        stripes = (0.5 + 0.01 * torch.cos(torch.pi * 7 * (at + 0.5) / 8)).expand(1, 1, 8, 8)
        gentle, strong = stripes.clone().requires_grad_(), stripes.clone().requires_grad_()
        for images, quality in ((gentle, 100), (strong, 30)):
            (jpeg_loss(images, quality) * stripes.sub(0.5)).sum().backward()
        assert gentle.grad is not None and strong.grad is not None
        assert strong.grad.abs().max() < 0.2 * gentle.grad.abs().max()


class TestDrawnDiversity:
    def test_each_kind_is_drawn_and_none_is_mixed(self) -> None:
        kinds = [lambda x, _: x + 1, lambda x, _: x + 2]
        drawn = {float(DrawnDiversity(kinds)(torch.zeros(1), seeded(seed))) for seed in range(20)}
        assert drawn == {1, 2}

    def test_the_same_draws_give_the_same(self) -> None:
        both = DrawnDiversity([InputDiversity(), BlockShuffle()])
        for seed in range(4):
            assert torch.equal(both(IMAGES, seeded(seed)), both(IMAGES, seeded(seed)))

    def test_nothing_is_no_kind(self) -> None:
        with pytest.raises(ValueError, match="at least one"):
            DrawnDiversity([])

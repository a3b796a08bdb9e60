# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Derived masks of made images, Dice, and the training configuration of the segmenter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from image_sets import image_set
from numpy.typing import NDArray
from torch import Tensor, nn

pytest.importorskip("skimage")

from monai_miadmark.datasets import DATA_ENV, data_list
from monai_miadmark.evaluation.segmentation import (
    TARGETS,
    derive_mask,
    derive_masks,
    dice,
    dice_row,
    load_segmenter,
    masked_list,
)
from monai_miadmark.marker import load_config
from monai_miadmark.surrogates import save_weights

BUNDLE = Path(__file__).resolve().parents[1] / "bundles" / "miadmark"
SIDE = 128
Y, X = np.mgrid[:SIDE, :SIDE]


def circle(row: float, column: float, radius: float) -> NDArray[np.bool_]:
    """A filled circle on the grid."""
    return np.asarray(np.hypot(Y - row, X - column) <= radius)


def paint(*layers: tuple[NDArray[np.bool_], tuple[int, int, int]], noise: float = 2) -> NDArray[np.uint8]:
    """RGB image of flat layers, later ones above, with a little noise."""
    image = np.zeros((SIDE, SIDE, 3))
    for mask, color in layers:
        image[mask] = color
    lit = image.any(2, keepdims=True)
    return (image + lit * np.random.default_rng(0).normal(0, noise, image.shape)).clip(0, 255).astype(np.uint8)


EVERYWHERE = np.ones((SIDE, SIDE), bool)
LESION = circle(60, 70, 22)
HEAD = circle(64, 60, 45)
DISC = circle(58, 90, 7)


def skin() -> NDArray[np.uint8]:
    """A brown spot with a reflection in it, another, smaller one, and black padding on the left."""
    return paint(
        (EVERYWHERE, (225, 170, 160)),
        (LESION, (110, 65, 50)),
        (circle(60, 70, 3), (245, 240, 235)),
        (circle(110, 110, 6), (110, 65, 50)),
        (X < 12, (0, 0, 0)),
    )


def brain() -> NDArray[np.uint8]:
    """A gray head with a bright rim and dark ventricles."""
    return paint((HEAD, (200, 200, 200)), (circle(64, 60, 42), (90, 90, 90)), (circle(64, 60, 8), (10, 10, 10)))


def fundus() -> NDArray[np.uint8]:
    """A red field with a yellow disc where dark vessels meet, and a bright crescent at the rim."""
    field = circle(63.5, 63.5, 60)
    vessel = field & (np.abs(X - 90 - 6 * np.sin((Y - 58) / 9)) < 1)
    rim = field & ~circle(66, 66, 60)
    return paint((field, (150, 80, 40)), (rim, (190, 120, 60)), (DISC, (235, 190, 110)), (vessel, (110, 40, 25)))


IMAGES = {"skin": (skin, LESION), "brain_mri": (brain, HEAD), "fundus": (fundus, DISC)}


def overlap(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Dice coefficient."""
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


class Bright(nn.Module):
    """A segmenter of what is bright, at half the size, with a dropout that would tell training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, images: Tensor) -> Tensor:
        return self.dropout(nn.functional.avg_pool2d(images.mean(1, keepdim=True), 2) - 0.5)


class TestDeriveMask:
    @pytest.mark.parametrize("dataset", TARGETS)
    def test_finds_the_target(self, dataset: str) -> None:
        make, truth = IMAGES[dataset]
        mask = derive_mask(make(), dataset)
        assert mask.shape == (SIDE, SIDE) and mask.dtype == bool
        assert overlap(mask, truth) > (0.75 if dataset == "fundus" else 0.93)

    @pytest.mark.parametrize("dataset", TARGETS)
    def test_is_repeatable_and_leaves_the_image_alone(self, dataset: str) -> None:
        image = IMAGES[dataset][0]()
        copy = image.copy()
        assert np.array_equal(derive_mask(image, dataset), derive_mask(copy, dataset))
        assert np.array_equal(image, copy)

    @pytest.mark.parametrize("dataset", TARGETS)
    @pytest.mark.parametrize("value", [0, 130, 255])
    def test_nothing_in_flat_images(self, dataset: str, value: int) -> None:
        assert not derive_mask(np.full((SIDE, SIDE, 3), value, np.uint8), dataset).any()

    @pytest.mark.parametrize("dataset", TARGETS)
    def test_nothing_in_noise(self, dataset: str) -> None:
        noise = np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        assert not derive_mask(noise, dataset).any()

    def test_gray_images_may_have_one_channel_or_none(self) -> None:
        image = brain()[..., :1]
        expected = derive_mask(np.repeat(image, 3, 2), "brain_mri")
        assert expected.any()
        assert np.array_equal(derive_mask(image, "brain_mri"), expected)
        assert np.array_equal(derive_mask(image[..., 0], "brain_mri"), expected)

    def test_a_slice_on_gray_background_has_no_head(self) -> None:
        for background in (40, 60):  # darker than the threshold, and brighter
            image = paint((EVERYWHERE, (background,) * 3), (HEAD, (150, 150, 150)))
            assert not derive_mask(image, "brain_mri").any()
        framed = paint((np.abs(X - 64) < 50, (60, 60, 60)), (HEAD, (90, 90, 90)))
        assert not derive_mask(framed, "brain_mri").any()

    def test_a_field_without_a_disc_has_none(self) -> None:
        assert not derive_mask(paint((circle(63.5, 63.5, 60), (150, 80, 40))), "fundus").any()

    def test_bad_arguments(self) -> None:
        with pytest.raises(ValueError, match="no target is known for 'chest'"):
            derive_mask(skin(), "chest")
        with pytest.raises(ValueError, match="uint8"):
            derive_mask(skin().astype(np.float32), "skin")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="1 or 3"):
            derive_mask(np.zeros((8, 8, 4), np.uint8), "skin")

    def test_stacks(self) -> None:
        masks = derive_masks(np.stack([brain(), np.zeros_like(brain())]), "brain_mri")
        assert masks.shape == (2, 1, SIDE, SIDE) and masks.dtype == torch.float32
        assert masks[0].any() and not masks[1].any()


class TestMaskedList:
    def test_images_without_a_mask_are_left_out(self, tmp_path: Path) -> None:
        from PIL import Image

        paths = [tmp_path / f"{n}.png" for n in range(2)]
        Image.fromarray(brain()).save(paths[0])
        Image.fromarray(np.zeros((SIDE, SIDE), np.uint8)).save(paths[1])
        items = [{"image": str(path), "label": 3} for path in paths]
        found = masked_list(items, "brain_mri")
        assert [item["image"] for item in found] == [str(paths[0])]
        assert found[0]["label"].shape == (1, SIDE, SIDE) and found[0]["label"].dtype == np.float32
        assert np.array_equal(found[0]["label"][0] > 0, derive_mask(brain(), "brain_mri"))
        with pytest.raises(ValueError, match="no head was found in any of 1"):
            masked_list(items[1:], "brain_mri")


class TestDice:
    def test_a_perfect_and_a_useless_segmenter(self) -> None:
        masks = torch.from_numpy(np.stack([LESION, DISC]))[:, None].float()
        assert dice(nn.Identity(), masks - 0.5, masks) == 1
        assert dice(nn.Identity(), 0.5 - masks, masks) == 0

    def test_is_the_mean_over_images(self) -> None:
        masks = torch.zeros(40, 1, 8, 8)  # more than one batch
        masks[:, :, :4] = 1
        logits = masks - 0.5
        logits[:10] = -logits[:10]
        assert dice(nn.Identity(), logits, masks) == pytest.approx(0.75)

    def test_masks_without_target_do_not_count(self) -> None:
        masks = torch.zeros(2, 1, 8, 8)
        masks[0, :, :4] = 1
        assert dice(nn.Identity(), masks - 0.5, masks) == 1
        with pytest.raises(ValueError, match="every mask is empty"):
            dice(nn.Identity(), masks, torch.zeros(2, 1, 8, 8))

    def test_logits_are_resized_and_the_mode_is_kept(self) -> None:
        images = torch.zeros(1, 3, 16, 16)
        images[..., :8] = 1
        segmenter = Bright().train()
        assert dice(segmenter, images, images[:, :1]) > 0.9
        assert segmenter.training and segmenter.dropout.training

    def test_shapes_must_agree(self) -> None:
        with pytest.raises(ValueError, match="need"):
            dice(nn.Identity(), torch.zeros(2, 1, 8, 8), torch.zeros(2, 3, 8, 8))

    def test_row(self) -> None:
        masks = torch.from_numpy(LESION)[None, None].float()
        versions = {"clean": masks - 0.5, "protected": 0.5 - masks, "restored": masks - 0.5}
        assert dice_row(nn.Identity(), versions, masks) == {"clean": 1.0, "protected": 0.0, "restored": 1.0}


class TestBundle:
    def test_the_network_fits_the_limits_and_is_read_back(self, tmp_path: Path) -> None:
        network = load_config(BUNDLE, "networks.yaml", "train_segmenter.yaml").get_parsed_content("segmenter_def")
        assert 0.5e6 < sum(p.numel() for p in network.parameters()) < 1e6
        save_weights(network, tmp_path / "skin_segmenter.pt")
        assert (tmp_path / "skin_segmenter.pt").stat().st_size < 2e6
        segmenter = load_segmenter(network, tmp_path / "skin_segmenter.pt")
        assert not segmenter.training and not any(p.requires_grad for p in segmenter.parameters())
        with torch.inference_mode():
            assert segmenter(torch.rand(1, 1, 96, 128)).shape == (1, 1, 128, 128)

    def test_images_and_masks_are_loaded_alike(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Rows and columns of both are those of the file; augmentation moves both together."""
        from PIL import Image

        monkeypatch.setenv(DATA_ENV, str(image_set(tmp_path / "data", train=10, val=1, side=SIDE)))
        image = paint((circle(70, 40, 30), (150, 150, 150)))
        for item in data_list("brain_mri", "fit"):
            Image.fromarray(image).save(item["image"])
        parser = load_config(BUNDLE, "networks.yaml", "train_segmenter.yaml")
        plain = parser.get_parsed_content("load", instantiate=True)
        item = parser.get_parsed_content("fit_list")[0]
        sample = dict(item)
        for transform in plain:
            sample = transform(sample)
        assert sample["image"].shape == (3, SIDE, SIDE) and 0.9 * 150 / 255 < float(sample["image"].max()) <= 1
        assert overlap(sample["image"][0].numpy() > 0.3, np.asarray(sample["label"][0]) > 0) > 0.95
        for transform in parser.get_parsed_content("augment"):
            sample = transform(sample)
        assert sample["image"].shape[1:] == sample["label"].shape[1:] == (SIDE, SIDE)
        assert overlap(sample["image"].mean(0).numpy() > 0.25, np.asarray(sample["label"][0]) > 0) > 0.9

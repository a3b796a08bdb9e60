# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The network that says where the lesion lies: its answers, its training, and what follows for the region."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from monai_miadmark.critic import EnsembleCritic
from monai_miadmark.lesions import from_map
from monai_miadmark.locating import find_region
from monai_miadmark.locator import LesionLocator, location_loss
from monai_miadmark.locator_training import looked_at, marked_boxes, thumbnails, train_locator
from monai_miadmark.protocols import ByContrast
from monai_miadmark.region import SURE
from monai_miadmark.surrogates import Surrogate, SurrogateEnsemble

Array = NDArray[np.float32]


def spots(count: int, side: int = 32) -> tuple[Tensor, Tensor]:
    """Images with a bright square on noise, and where it is."""
    draw = torch.Generator().manual_seed(0)
    images, inside = 0.3 + 0.1 * torch.rand((count, 1, side, side), generator=draw), torch.zeros(count, 1, side, side)
    for n in range(count):
        top, left = (int(v) for v in torch.randint(4, side - 12, (2,), generator=draw))
        inside[n, 0, top : top + 8, left : left + 8] = 1
    return images + 0.5 * inside, inside


@pytest.mark.parametrize("size", [(64, 64), (128, 96), (200, 256)])
@pytest.mark.parametrize("channels", [1, 3])
def test_answers_are_distributions_on_the_image_s_grid(size: tuple[int, int], channels: int) -> None:
    torch.manual_seed(0)
    locator = LesionLocator(32).eval()
    images = torch.rand(2, channels, *size)
    places = locator.places(images)
    assert places.shape == (2, 1, *size) and (places >= 0).all()
    torch.testing.assert_close(places.sum((1, 2, 3)), torch.ones(2))
    torch.testing.assert_close(locator.places(images.flip(3)), places.flip(3), rtol=1e-3, atol=1e-7)


def test_loss_is_least_for_the_target_itself_and_leaves_out_empty_ones() -> None:
    target = torch.zeros(2, 1, 4, 4)
    target[0, 0, :2, :2] = 3
    right = (target / 3 + 1e-9).log()
    assert location_loss(right, target).item() == pytest.approx(np.log(4), abs=1e-3)
    assert location_loss(torch.zeros(2, 1, 4, 4), target).item() == pytest.approx(np.log(16), abs=1e-4)


def test_training_finds_what_is_marked() -> None:
    torch.manual_seed(0)
    images, inside = spots(60)
    locator = LesionLocator(32)
    train_locator(locator, (images[:50], inside[:50]), (images[:25], inside[:25]), (12, 4), (1e-2, 3e-3))
    assert not locator.training
    held = (locator.places(images[50:]) * inside[50:]).sum((1, 2, 3))
    assert held.median() > 0.4  # a sixteenth by chance


def test_looked_at_is_where_the_class_comes_from(tmp_path: Path) -> None:
    class LeftCorner(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([x[:, :, :16, :16].mean((1, 2, 3)), torch.zeros(len(x))], 1)

    Image.fromarray(np.full((64, 64), 200, np.uint8)).save(tmp_path / "a.png")
    items = [{"image": str(tmp_path / "a.png"), "label": label} for label in (0, 1)]
    found = looked_at([LeftCorner()], items, 64, 32)
    assert found.shape == (2, 1, 32, 32)
    assert (found[:, :, :10, :10].sum((1, 2, 3)) > 0.99).all()
    assert thumbnails([tmp_path / "a.png"], 16).shape == (1, 1, 16, 16)


def test_marked_boxes(tmp_path: Path) -> None:
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps({"fit": {"brain_mri": {"a.jpg": [25, 50, 75, 100]}}}))
    names, inside = marked_boxes(path, "fit", "brain_mri", 8)
    assert names == ["a.jpg"] and inside.sum() == 16 and inside[0, 0, 2:6, 4:].all()


def head(bright: bool = False) -> Array:
    """A head in the dark, or an image that fills its frame ``(1, 64, 64)``."""
    y, x = np.mgrid[:64, :64] / 63 - 0.5
    image = np.where(np.hypot(y, x) < 0.4, 0.5, 0.5 if bright else 0.0)
    return image[None].astype(np.float32)


def at(row: int, column: int, spread: float) -> Array:
    y, x = np.mgrid[:64, :64]
    places = np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * spread**2))
    return (places / places.sum()).astype(np.float32)


class TestRegionOfAMap:
    def test_holds_the_lesion_and_is_as_sure_as_the_map_is_narrow(self) -> None:
        narrow, wide = from_map(head(), at(20, 40, 3)), from_map(head(), at(20, 40, 20))
        assert narrow.sure > 0.9 > SURE > wide.sure
        assert narrow.cells[14:27, 34:47].all() and narrow.cells.mean() < 0.12

    def test_what_is_no_head_in_the_dark_is_not_believed(self) -> None:
        assert from_map(head(bright=True), at(20, 40, 3)).sure == 0

    def test_the_critic_s_network_is_asked(self) -> None:
        class Knows(LesionLocator):
            def places(self, images: Tensor) -> Tensor:
                return torch.from_numpy(at(20, 40, 3)).expand(len(images), 1, 64, 64)

        ensemble = SurrogateEnsemble([Surrogate(nn.Sequential(nn.Flatten(), nn.Linear(3 * 16, 2)), "any", 4)])
        images = np.repeat(head()[None], 2, 0)
        critic = EnsembleCritic(ensemble, modality="brain_mri", locator=Knows(32))
        region = find_region(critic, images)
        assert region.basis == ("lesion detector",) * 2 and region.cells[:, 20, 40].all()
        assert find_region(critic, images, unsure=True).unsure.all()
        assert EnsembleCritic(ensemble).lesion(images) is None

    def test_contrasts_are_looked_at_one_by_one(self) -> None:
        """In the first the lesion is to the left, in the second to the right: both places are spared."""

        class Knows:
            modality = "brain_mri"

            def lesion(self, images: Array) -> Array:
                assert images.shape == (2, 1, 64, 64)
                return np.stack([at(32, 18, 3), at(32, 44, 3)])

            def saliency(self, images: Array, quick: bool = False) -> Array:
                return np.ones((len(images), 64, 64), np.float32)

        class Gray:
            critic = Knows()

        region = find_region(ByContrast(Gray()).critic, np.repeat(head()[None], 2, 1))  # type: ignore[arg-type]
        assert region.cells.shape == (1, 64, 64) and region.cells[0, 32, 18] and region.cells[0, 32, 44]

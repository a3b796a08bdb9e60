# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Lesions that are told without a network, what follows where none is told, and where the logo stands then."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from bundle_copies import needs_weights
from doubles import NoiseMarker
from numpy.typing import NDArray

from monai_miadmark.datasets import data_list
from monai_miadmark.evaluation.protected import stored_raster
from monai_miadmark.evaluation.segmentation import derive_mask
from monai_miadmark.image import Bounds, StoredImage, Window
from monai_miadmark.lesions import detect
from monai_miadmark.locating import find_region
from monai_miadmark.marker import load_marker
from monai_miadmark.marking import canonical_display, plan_mark
from monai_miadmark.options import ProtectOptions
from monai_miadmark.quiet import content, middle
from monai_miadmark.region import SURE

Array = NDArray[np.float32]

SKIN = (0.85, 0.65, 0.58)
PIGMENT = (0.45, 0.28, 0.22)


class Skin(NoiseMarker):
    """A critic of dermatoscopic images that looks at the brightest place, which no lesion is."""

    modality = "skin"


def disk(size: tuple[int, int], at: tuple[float, float], radius: float) -> NDArray[np.bool_]:
    y, x = np.ogrid[: size[0], : size[1]]
    return np.hypot(y - at[0] * size[0], x - at[1] * size[1]) < radius * max(size)


def skin(lesion: NDArray[np.bool_] | None, size: tuple[int, int] = (128, 128), vignette: bool = False) -> Array:
    """Dermatoscopic image ``(3, h, w)``: uneven light, grain, a pigmented lesion, a bright reflection."""
    rng = np.random.default_rng(0)
    image = np.broadcast_to(np.array(SKIN)[:, None, None], (3, *size)).copy()
    if lesion is not None:
        image[:, lesion] = np.array(PIGMENT)[:, None]
    image *= np.linspace(0.9, 1.05, size[1])
    image[:, disk(size, (0.1, 0.9), 0.04)] = 1
    image += rng.normal(0, 0.02, image.shape)
    if vignette:
        image[:, ~disk(size, (0.5, 0.5), 0.6)] = 0.01
    return image.clip(0, 1).astype(np.float32)


def stored(display: Array) -> StoredImage:
    values = np.rint(display.transpose(1, 2, 0)[None] * 255).astype(np.uint8)
    return StoredImage(values, Bounds(0, 255), Window(0, 255))


class TestSkin:
    @pytest.mark.parametrize("vignette", [False, True])
    @pytest.mark.parametrize("size", [(128, 128), (256, 256), (96, 200)])
    @pytest.mark.parametrize(("at", "radius"), [((0.5, 0.5), 0.25), ((0.35, 0.6), 0.1), ((0.65, 0.4), 0.15)])
    def test_a_lesion_is_found(
        self, at: tuple[float, float], radius: float, size: tuple[int, int], vignette: bool
    ) -> None:
        lesion = disk(size, at, radius)
        found = detect("skin", skin(lesion, size, vignette))
        assert found is not None and found.sure >= SURE
        assert found.cells[lesion].all()
        margin = disk(size, at, radius + 0.09)
        assert not (found.cells & ~margin).any()

    def test_nothing_to_be_told_is_not_sure(self) -> None:
        found = detect("skin", skin(None))
        assert found is not None and found.sure < SURE

    def test_black_and_tiny_images(self) -> None:
        found = detect("skin", np.zeros((3, 64, 64), np.float32))
        assert found is not None and found.sure == 0 and not found.cells.any()
        assert detect("skin", np.zeros((3, 16, 64), np.float32)) is None


def test_the_optic_disc() -> None:
    size = (128, 128)
    field, disc = disk(size, (0.5, 0.5), 0.46), disk(size, (0.48, 0.7), 0.055)
    image = np.random.default_rng(0).normal(0, 0.01, (3, *size)) + 0.02
    image[:, field] += np.array([0.6, 0.25, 0.1])[:, None]
    image[:, disc] += np.array([0.3, 0.35, 0.2])[:, None]
    found = detect("fundus", image.clip(0, 1).astype(np.float32))
    assert found is not None and found.sure >= SURE
    assert found.cells[disc].all() and found.cells.mean() < 0.08


@pytest.mark.parametrize("modality", [None, "chest_xray", "brain_ct"])
def test_no_detector_says_nothing(modality: str | None) -> None:
    assert detect(modality, np.zeros((1, 64, 64), np.float32)) is None


class TestRegion:
    def test_a_sure_detector_is_believed_and_saliency_is_not_asked(self) -> None:
        class Deaf(Skin):
            def saliency(self, images: Array, quick: bool = False) -> Array:
                raise AssertionError("asked")

        lesion = disk((128, 128), (0.4, 0.4), 0.2)
        region = find_region(Deaf(), skin(lesion)[None])
        assert region.basis == ("lesion detector",) and not region.unsure.any()
        assert region.cells[0][lesion].all()

    def test_where_nothing_is_told_models_are_asked(self) -> None:
        images = np.stack([skin(None), skin(disk((128, 128), (0.5, 0.5), 0.2))])
        region = find_region(Skin(), images)
        assert region.basis == ("saliency", "lesion detector")
        assert region.unsure.tolist() == [True, False] and region.cells.any((1, 2)).all()

    def test_what_is_not_known_is_not_sure(self) -> None:
        images = skin(disk((128, 128), (0.5, 0.5), 0.2))[None]
        for region in (find_region(NoiseMarker(), images), find_region(Skin(), images, unsure=True)):
            assert region.basis == ("saliency",) and region.unsure.all()


class TestLogo:
    @pytest.mark.parametrize("logo", [None, "emblem", "banner"])
    @pytest.mark.parametrize("preset", ["standard", "fast"])
    @pytest.mark.parametrize(("at", "radius"), [((0.5, 0.5), 0.3), ((0.3, 0.65), 0.2), ((0.5, 0.5), 0.36)])
    def test_misses_the_lesion(self, at: tuple[float, float], radius: float, preset: str, logo: str | None) -> None:
        lesion = disk((128, 128), at, radius)
        plan = plan_mark(stored(skin(lesion)), ProtectOptions(preset, logo=logo), Skin())  # type: ignore[arg-type]
        assert plan.placed.footprint.any() and not (plan.placed.footprint[0] & lesion).any()
        assert plan.found.basis == ("lesion detector",)

    @pytest.mark.parametrize("logo", [None, "emblem", "banner"])
    @pytest.mark.parametrize("preset", ["standard", "fast"])
    def test_of_an_unknown_image_keeps_out_of_the_middle(self, preset: str, logo: str | None) -> None:
        """Air to the left, tissue with bones to the right: as a radiograph, which no network of ours knows."""
        rng = np.random.default_rng(0)
        image = rng.normal(0.5, 0.12, (1, 128, 128))
        image[:, :, :30] = 0.03
        image[:, ::9, 30:] += 0.2
        plan = plan_mark(
            stored(image.clip(0, 1).astype(np.float32)),
            ProtectOptions(preset, logo=logo),  # type: ignore[arg-type]
            NoiseMarker(),
        )
        assert plan.placed.footprint.any() and not (plan.placed.footprint[0] & middle(128, 128)).any()
        assert plan.found.unsure.all()

    def test_stands_in_the_air_where_there_is_any(self) -> None:
        rng = np.random.default_rng(0)
        image = rng.normal(0.5, 0.12, (1, 128, 128)).clip(0, 1)
        image[:, 100:] = 0.0
        plan = plan_mark(stored(image.astype(np.float32)), ProtectOptions("fast"), NoiseMarker())
        rows = np.argwhere(plan.placed.footprint[0])[:, 0]
        assert rows.min() >= 98

    def test_the_same_image_may_bear_it_anywhere_where_the_modality_is_known(self) -> None:
        image = stored(skin(disk((128, 128), (0.2, 0.2), 0.1)))
        options = ProtectOptions("fast")
        known, unknown = (plan_mark(image, options, Skin(), unsure=unsure) for unsure in (False, True))
        assert (known.placed.footprint[0] & middle(128, 128)).any()
        assert not (unknown.placed.footprint[0] & middle(128, 128)).any()


def test_content_is_least_in_air_and_at_the_border() -> None:
    image = np.full((1, 60, 60), 0.5, np.float32)
    image[0, 20:40, 20:40] = np.random.default_rng(0).random((20, 20))
    found = content(image)
    assert found.shape == (60, 60) and (found >= 0).all()
    assert found[22:38, 22:38].min() > 2 * found[:8].max() and found[0, 30] < found[12, 30]


def _images(dataset: str, section: str) -> list[Path]:
    try:
        return [Path(str(item["image"])) for item in data_list(dataset, section)]
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.mark.data
def test_skin_lesions_of_the_image_set_are_held() -> None:
    """Against masks that other code derives: nine tenths of the lesion on nine tenths of the images."""
    held, area = [], []
    for path in _images("skin", "tune")[::6]:
        image = stored_raster(path, "RGB")
        lesion = derive_mask(image.values[0], "skin")
        if lesion.any():
            found = detect("skin", canonical_display(image)[0])
            assert found is not None
            held.append((found.cells & lesion).sum() / lesion.sum())
            area.append(found.cells.mean())
    assert len(held) >= 25
    assert np.mean(np.array(held) >= 0.9) >= 0.9 and np.mean(area) < 0.35


@pytest.mark.data
@needs_weights
def test_brain_tumors_of_the_image_set_are_held() -> None:
    """Against boxes that were marked by hand."""
    boxes = json.loads((Path(__file__).parents[1] / "benchmarks" / "lesion_boxes.json").read_text())
    marked = boxes["tune"]["brain_mri"]
    paths = [path for path in _images("brain_mri", "tune") if path.name in marked]
    critic = load_marker().specialist("brain_mri", np.zeros((1, 1, 8, 8), np.float32)).critic
    images = np.concatenate([canonical_display(stored_raster(path, "L")) for path in paths])
    region = find_region(critic, images)
    h, w = images.shape[2:]
    held = []
    for path, cells in zip(paths, region.cells, strict=True):
        top, left, bottom, right = (round(v / 100 * n) for v, n in zip(marked[path.name], (h, w, h, w), strict=True))
        held.append(cells[top:bottom, left:right].mean())
    assert np.mean(np.array(held) >= 0.9) >= 0.9 and region.cells.mean() < 0.15
    assert region.unsure.mean() < 0.25

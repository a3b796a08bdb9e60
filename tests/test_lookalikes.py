# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""No perturber makes spots or colored patches beyond the limits, and the measures of such things see them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from doubles import NoiseMarker
from numpy.typing import NDArray

from monai_miadmark.budget import Visibility, cell_budget
from monai_miadmark.exact import apply_mark
from monai_miadmark.image import Bounds, StoredImage, Window
from monai_miadmark.lookalikes import Lookalikes, dither_pattern, dithered, shrunk
from monai_miadmark.marking import canonical_display, make_mark, plan_mark
from monai_miadmark.options import PRESETS, ProtectOptions

MODEL = Visibility(psnr=20, ssim=0.5, ceiling=60 / 255)
SIZE = 96


def spots(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Bright and dark disks of the size of lesions, all planes alike."""
    y, x = np.mgrid[: shape[2], : shape[3]]
    disks = np.sign(np.sin(x / 5) * np.sin(y / 5)) * ((np.abs(np.sin(x / 5)) * np.abs(np.sin(y / 5))) > 0.4)
    return np.broadcast_to(disks, shape).astype(np.float32)


def reddened(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Red where there are bright disks, green where there are dark ones."""
    field = np.zeros(shape, np.float32)
    disks = spots(shape)
    field[:, 0], field[:, min(1, shape[1] - 1)] = disks[:, 0], -disks[:, 0]
    return field


def violet(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The whole image."""
    field = np.ones(shape, np.float32)
    field[:, shape[1] // 2] = -1
    return field


def noise(shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.random.default_rng(1).uniform(-1, 1, shape).astype(np.float32)


FIELDS = [spots, reddened, violet, noise]


def picture(channels: int) -> NDArray[np.float32]:
    """Nearly even tissue, in which every spot is seen."""
    rng = np.random.default_rng(0)
    return (0.5 + 0.02 * rng.standard_normal((1, channels, SIZE, SIZE))).astype(np.float32)


def limits_for(channels: int) -> Lookalikes:
    return Lookalikes(picture(channels), np.zeros((1, 1, SIZE, SIZE), np.float32), MODEL)


@pytest.mark.parametrize("make", FIELDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_limited_field_nearly_keeps_to_the_limits(channels: int, make: Callable[..., Any]) -> None:
    limits = limits_for(channels)
    field = make((1, channels, SIZE, SIZE)) * np.float32(40 / 255)
    kept = limits.limited(field, 8)
    assert limits.excess(kept).max() < 1.4  # what is left, blocks that shrink take away
    if make is not noise and (channels == 3 or make is spots):
        assert limits.excess(field).max() > 1.5
    quiet = field / 40  # keeps to them already
    assert np.allclose(limits.limited(quiet, 8), quiet, atol=1e-6)


def test_fine_texture_is_left() -> None:
    y, x = np.mgrid[:SIZE, :SIZE]
    board = np.broadcast_to((-1.0) ** (x + y), (1, 3, SIZE, SIZE)).astype(np.float32) * 40 / 255
    inner = np.s_[:, :, 6:-6, 6:-6]
    assert np.allclose(limits_for(3).limited(board, 8)[inner], board[inner], atol=2 / 255)


def test_arrays_and_tensors_are_limited_alike() -> None:
    clean, logo = picture(3), np.zeros((1, 1, SIZE, SIZE), np.float32)
    logo[:, :, 40:60, 10:50] = 1
    field = reddened(clean.shape) * np.float32(0.2)
    torched = Lookalikes(torch.from_numpy(clean), torch.from_numpy(logo), MODEL)
    arrays = Lookalikes(clean, logo, MODEL)
    assert np.allclose(torched.limited(torch.from_numpy(field)).numpy(), arrays.limited(field), atol=1e-5)
    assert np.allclose(torched.excess(torch.from_numpy(field)).numpy(), arrays.excess(field), atol=1e-4)


def test_gradients_go_through() -> None:
    limits = Lookalikes(torch.from_numpy(picture(3)), torch.zeros(1, 1, SIZE, SIZE), MODEL)
    field = torch.from_numpy(reddened((1, 3, SIZE, SIZE))).mul(0.2).requires_grad_()
    (gradient,) = torch.autograd.grad(limits.limited(field).square().sum(), field)
    assert gradient.isfinite().all() and gradient.abs().max() > 0


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("make", FIELDS)
def test_scales_shrink_until_rounded_levels_keep_to_them(make: Callable[..., Any], channels: int) -> None:
    limits = limits_for(channels)
    levels = np.rint(make((1, channels, SIZE, SIZE)) * 2).astype(np.float32) / 2
    scales = shrunk(limits, levels, np.full((1, SIZE // 4, SIZE // 4), 90, np.uint8))
    assert limits.excess(levels * cell_budget(scales, SIZE, SIZE)).max() <= 1


def test_rounding_keeps_the_mean_of_blocks() -> None:
    fraction = np.broadcast_to(np.linspace(-1, 1, 33, dtype=np.float32)[:, None, None, None], (33, 1, 8, 8))
    levels = dithered(fraction, dither_pattern(8, 8))
    assert set(np.unique(levels)) <= {-1.0, -0.5, 0.0, 0.5, 1.0}
    assert np.abs(levels.mean((1, 2, 3)) - fraction[:, 0, 0, 0]).max() <= 1 / 64
    exact = np.array([-1, -0.5, 0, 0.5, 1], np.float32).reshape(5, 1, 1, 1) * np.ones((1, 1, 8, 8), np.float32)
    assert np.array_equal(dithered(exact, dither_pattern(8, 8)), exact)


class Gives(NoiseMarker):
    """A field of one kind, whatever the image."""

    def __init__(self, make: Callable[..., NDArray[np.float32]]) -> None:
        self.make = make

    def perturb(self, images: Any, clean: Any, budget: Any, latent: bytes) -> NDArray[np.float32]:
        return self.make(clean.shape if clean.shape[1] == 3 else budget.shape)


def written(make: Callable[..., Any], channels: int, model: Visibility, style: str) -> tuple[Any, Any, Any]:
    """Limits, changes of the written samples on the display, and where the logo is."""
    values = np.rint(255 * np.moveaxis(picture(channels), 1, 3)).astype(np.uint8)
    image = StoredImage(values, Bounds(0, 255), Window(0, 255))
    preset = replace(PRESETS["fast"], visibility=model)
    options = ProtectOptions(preset=preset, style=style, region="none")  # type: ignore[arg-type]
    marker = Gives(make)
    plan = plan_mark(image, options, marker.critic, canonical_display(image))
    changed = apply_mark(image, make_mark(image, options, marker, bytes(32))).astype(np.float32)
    limits = Lookalikes(plan.clean, plan.logo[:, None].astype(np.float32), MODEL)
    return limits, np.moveaxis(changed - values, 3, 1) / 255, plan.logo


@pytest.mark.parametrize("make", FIELDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_written_files_keep_to_the_limits_whatever_a_perturber_gives(channels: int, make: Callable[..., Any]) -> None:
    limits, change, _ = written(make, channels, MODEL, "invisible")
    # Samples are rounded to steps of the display: by half of one at most, and less where several are averaged.
    assert np.abs(change).max() > 3 / 255 and limits.excess(change).max() < 1.1


@pytest.mark.parametrize(("make", "channels"), [(spots, 1), (spots, 3), (reddened, 3), (violet, 3)])
def test_without_limits_the_same_perturbers_exceed_them(make: Callable[..., Any], channels: int) -> None:
    unlimited = replace(MODEL, spot=1, patch=1, cast=1, logo_tint=1)
    limits, change, _ = written(make, channels, unlimited, "invisible")
    assert limits.excess(change).max() > 2


def test_color_keeps_to_its_limit_in_letters_too() -> None:
    limits, change, logo = written(reddened, 3, MODEL, "visible")
    color = change - change.mean(1, keepdims=True)  # the ink is gray
    most = np.abs(limits._grain(color)).max(1)[logo].max()
    assert logo.any() and most < 2 * MODEL.logo_tint


def test_measures_see_what_is_planted() -> None:
    pytest.importorskip("skimage")
    from monai_miadmark.evaluation.artefacts import artefact_figures, artefact_table, new_spots
    from monai_miadmark.evaluation.protected import ProtectedSet

    plain = np.full((64, 64), 0.5)
    y, x = np.mgrid[:64, :64]
    spot = 0.2 * np.exp(-((y - 20) ** 2 + (x - 30) ** 2) / 32)
    everywhere = np.ones((64, 64), bool)
    assert new_spots(plain, plain + spot, everywhere) == new_spots(plain, plain - spot, everywhere) >= 1
    assert new_spots(plain + spot, plain + 1.2 * spot, everywhere) == 0
    assert new_spots(plain, plain + spot, x > 40) == 0

    clean = np.full((1, 64, 64, 3), 128, np.uint8)
    red = clean.copy()
    red[0, 20:40, 20:40, 0] += 20
    nowhere = np.zeros((1, 64, 64), bool)

    def of(protected: NDArray[np.uint8]) -> dict[str, float]:
        one = np.zeros(1, np.int64)
        return artefact_figures(ProtectedSet(clean, protected, clean, one, nowhere, nowhere, one, np.zeros(1)))

    assert of(clean)["color_99"] == 0 and of(red)["color_99"] > 5
    table = artefact_table({"clean": of(clean), "red": of(red)}).splitlines()
    assert len(table) == 4 and table[2].startswith("| clean | 0.00")

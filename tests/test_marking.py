# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""From image and options to a mark: regions, budgets, logos, and perturbers that are not to be trusted."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from doubles import NoiseMarker
from numpy.typing import NDArray

from monai_miadmark.budget import Visibility
from monai_miadmark.evaluation.quality import Quality, logo_mask, quality
from monai_miadmark.exact import ImageMark, add_correction, apply_mark, estimate, find_correction
from monai_miadmark.image import Bounds, StoredImage, Window, displayed
from monai_miadmark.interpolate import upsample
from monai_miadmark.marking import canonical_display, locate_region, make_mark
from monai_miadmark.options import PRESETS, Preset, ProtectOptions

LATENT = bytes(range(32))
SIZES = [(64, 48), (300, 413)]  # as it is, and with a canonical grid of its own


def stored(
    size: tuple[int, int] = (64, 48),
    dtype: str = "uint8",
    slices: int = 1,
    channels: int = 1,
    inverted: bool = False,
) -> StoredImage:
    """Smooth tissue with some texture and a dark rim; a 12-bit range for wider types."""
    y, x = (np.linspace(-1, 1, side) for side in size)
    tissue = np.clip(1.3 - np.hypot(*np.meshgrid(y, x, indexing="ij")), 0, 1)
    rng = np.random.default_rng(3)
    shape = (slices, *size, channels)
    picture = 0.7 * tissue[None, :, :, None] + 0.15 * tissue[None, :, :, None] * rng.random(shape)
    top = 255 if dtype == "uint8" else 4095
    values = picture * top
    if dtype.startswith("int"):
        values -= 1000
    low = -1000 if dtype.startswith("int") else 0
    return StoredImage(values.astype(dtype), Bounds(low, low + top), Window(low, low + top, inverted))


class AlwaysUp(NoiseMarker):
    """The largest field that there is."""

    def perturb(self, images: Any, clean: Any, budget: Any, latent: bytes) -> NDArray[np.float32]:
        return np.ones_like(budget)


class Gives(NoiseMarker):
    """Whatever it is told to."""

    def __init__(self, field: Any) -> None:
        self.field = field

    def perturb(self, images: Any, clean: Any, budget: Any, latent: bytes) -> Any:
        return self.field(budget)


def waves(budget: NDArray[np.float32]) -> NDArray[np.float32]:
    """Broad stripes, which SSIM hardly counts as contrast, ``(N, 1, h, w)``."""
    y, x = np.mgrid[: budget.shape[2], : budget.shape[3]]
    return np.broadcast_to(np.sign(np.sin(x / 7) * np.cos(y / 6)), budget.shape).astype(np.float32)


def colors(budget: NDArray[np.float32]) -> NDArray[np.float32]:
    """Signs of their own for each of three channels, ``(N, 3, h, w)``."""
    shape = (len(budget), 3, *budget.shape[2:])
    return np.random.default_rng(9).choice([-1.0, -0.5, 0.0, 0.5, 1.0], shape).astype(np.float32)


def invisible(**more: Any) -> ProtectOptions:
    return ProtectOptions(style="invisible", **more)


def moved(image: StoredImage, mark: ImageMark) -> NDArray[np.float64]:
    """Change of each sample as a fraction of the window, ``(N, H, W, C)``."""
    return (apply_mark(image, mark).astype(np.float64) - image.values) / image.window.width


def full_boxes(image: StoredImage, options: ProtectOptions) -> NDArray[np.bool_]:
    """The salient box in samples: with budget 0 it is the mark's mask."""
    mask = make_mark(image, ProtectOptions(style=options.style, region="auto", region_budget=0), AlwaysUp(), LATENT)
    assert mask.mask is not None
    return mask.mask


class TestRegion:
    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32"])
    @pytest.mark.parametrize("budget", [None, 0.0, 0.02])
    def test_auto_keeps_its_budget(self, size: tuple[int, int], dtype: str, budget: float | None) -> None:
        image = stored(size, dtype)
        options = ProtectOptions(region_budget=budget)
        change = np.abs(moved(image, make_mark(image, options, AlwaysUp(), LATENT)))
        inside = full_boxes(image, options)
        lattice = 1 / (510 * 2**8) if dtype == "float32" else 1 / image.window.width
        assert 0.05 < inside.mean() < 0.12
        assert change[inside].max() <= (3 / 255 if budget is None else budget) + lattice / 2 + 1e-7
        assert change[~inside].max() > 0.03
        if budget == 0:
            assert not change[inside].any()

    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize("style", ["visible", "invisible"])
    @pytest.mark.parametrize("flat", [False, True])
    def test_a_mask_stays_bit_identical(self, size: tuple[int, int], style: Any, flat: bool) -> None:
        image = stored(size, "int16", slices=2)
        mask = np.zeros((2, *size), bool)
        mask[:, size[0] // 3 : size[0] // 2, 5:31] = True
        mask[1, -1, -1] = not flat
        options = ProtectOptions(style=style, region=mask[0] if flat else mask)
        protected = apply_mark(image, make_mark(image, options, AlwaysUp(), LATENT))
        assert np.array_equal(protected[mask], image.values[mask])
        assert (protected != image.values).mean() > 0.3

    @pytest.mark.parametrize("size", SIZES)
    def test_a_mask_with_a_budget(self, size: tuple[int, int]) -> None:
        image = stored(size, "uint16")
        mask = np.random.default_rng(0).random((1, *size)) < 0.01
        options = invisible(region=mask, region_budget=0.01)
        mark = make_mark(image, options, AlwaysUp(), LATENT)
        change = np.abs(moved(image, mark))
        assert mark.mask is None
        assert 0 < change[mask].max() <= 0.01 + 0.5 / image.window.width

    def test_none_marks_everywhere(self) -> None:
        image = stored()
        mark = make_mark(image, invisible(region="none"), AlwaysUp(), LATENT)
        change = np.abs(moved(image, mark))[0, 10:-10, 10:-10]
        assert mark.mask is None and (change > 0).all()

    def test_a_full_mask_leaves_everything(self) -> None:
        image = stored()
        mark = make_mark(image, ProtectOptions(region=np.ones((64, 48), bool)), AlwaysUp(), LATENT)
        assert mark.logo is None and np.array_equal(apply_mark(image, mark), image.values)

    @pytest.mark.parametrize("shape", [(48, 64), (1, 64, 48), (3, 64, 48), (2, 64, 47)])
    def test_masks_that_do_not_fit_are_refused(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=r"region mask has shape .*, the image \(2, 64, 48\)"):
            make_mark(stored(slices=2), ProtectOptions(region=np.zeros(shape, bool)), NoiseMarker(), LATENT)

    def test_the_mask_of_the_caller_stays(self) -> None:
        mask = np.zeros((64, 48), bool)
        mask[:9] = True
        copy = mask.copy()
        made = make_mark(stored(), ProtectOptions(region=mask), AlwaysUp(), LATENT).mask
        assert np.array_equal(mask, copy) and made is not None and np.array_equal(made[0], copy)


class TestBudget:
    @pytest.mark.parametrize("preset", PRESETS)
    def test_presets_keep_to_their_ceiling_outside_the_logo(self, preset: str) -> None:
        image = stored(dtype="uint16")
        change = np.abs(moved(image, make_mark(image, invisible(preset=preset), AlwaysUp(), LATENT)))
        assert change.max() <= PRESETS[preset].visibility.ceiling + 0.5 / image.window.width

    def test_stronger_presets_change_more(self) -> None:
        image = stored(dtype="uint16")
        means = [
            np.abs(moved(image, make_mark(image, invisible(preset=p), AlwaysUp(), LATENT))).mean()
            for p in ("subtle", "standard", "strong")
        ]
        assert means == sorted(means) and means[0] > 0

    def test_background_stays(self) -> None:
        values = stored().values.copy()
        values[:, :, :24] = 0
        image = StoredImage(values, Bounds(0, 255), Window(0, 255))
        change = moved(image, make_mark(image, invisible(), AlwaysUp(), LATENT))
        assert not change[:, :, :20].any() and change[:, 20:40, 26:].all()

    @pytest.mark.parametrize(("channels", "planes"), [(1, 1), (2, 2), (3, 1), (4, 4)])
    def test_colors_get_the_same_field_and_contrasts_one_each(self, channels: int, planes: int) -> None:
        mark = make_mark(stored(channels=channels), invisible(), NoiseMarker(), LATENT)
        assert mark.field is not None and mark.field.shape == (1, 64, 48, planes)


class TestLikeness:
    """What a mark may cost, measured on what is stored, whatever the perturber gives."""

    PERTURBERS = pytest.mark.parametrize(
        "marker",
        [NoiseMarker(), AlwaysUp(), Gives(np.zeros_like), Gives(waves), Gives(colors)],
        ids=["noise", "ones", "zeros", "waves", "colors"],
    )

    def measured(
        self, image: StoredImage, options: ProtectOptions, marker: NoiseMarker
    ) -> tuple[Quality, Quality, NDArray[np.float64]]:
        """Likeness outside the logo and in the region, and the change of each sample in the region."""
        mark = make_mark(image, options, marker, LATENT)
        protected = apply_mark(image, mark)
        region = locate_region(options, marker, canonical_display(image), image.values.shape[:3])[1]
        region = upsample(region[0].astype(np.uint8), *image.values.shape[1:3])[None] > 0
        before, after = (displayed(v[0], image.window, None) for v in (image.values, protected))
        outside = quality(before, after, logo_mask(mark, image.values.shape)[0])
        return outside, quality(before, after, ~region[0]), np.abs(moved(image, mark))[region]

    @PERTURBERS
    @pytest.mark.parametrize("preset", PRESETS)
    @pytest.mark.parametrize("style", ["visible", "invisible"])
    def test_presets_keep_what_they_promise(self, marker: NoiseMarker, preset: str, style: Any) -> None:
        image = stored((88, 80), "uint16", channels=3)
        outside, region, change = self.measured(image, ProtectOptions(preset=preset, style=style), marker)
        asked = PRESETS[preset].visibility
        assert outside.psnr >= asked.psnr - 0.05 and outside.ssim >= asked.ssim - 0.01
        assert region.ssim >= asked.region_ssim - 0.01
        assert change.max() <= 3 / 255 + 0.5 / image.window.width

    @PERTURBERS
    @pytest.mark.parametrize(("dtype", "size"), [("uint8", (96, 96)), ("float32", (280, 300))])
    def test_other_types_and_sizes(self, marker: NoiseMarker, dtype: str, size: tuple[int, int]) -> None:
        asked = PRESETS["standard"].visibility
        outside, region, _ = self.measured(stored(size, dtype, channels=3), ProtectOptions(), marker)
        # A whole field of one sign meets the rounding of 8-bit samples everywhere on the same side.
        assert outside.psnr >= asked.psnr - (0.3 if dtype == "uint8" else 0.05)
        assert outside.ssim >= asked.ssim - 0.01 and region.ssim >= asked.region_ssim - 0.01

    def test_a_preset_of_ones_own(self) -> None:
        own = Preset(Visibility(psnr=38.0, ssim=0.97), steps=0, opacity=0.15, footprint=8 / 255, logo_area=0.05)
        asked: list[Preset] = []

        class Asking(NoiseMarker):
            def perturber(self, preset: Preset) -> NoiseMarker:
                asked.append(preset)
                return self

        image = stored((96, 96), "uint16")
        outside, _, _ = self.measured(image, ProtectOptions(preset=own), Asking())
        assert outside.psnr >= 37.95 and outside.ssim >= 0.96 and set(asked) == {own}
        assert outside.psnr < 39 or outside.ssim < 0.98  # and not left unused

    def test_a_weak_field_gets_more_amplitude_and_a_strong_one_less(self) -> None:
        image = stored((96, 96), "uint16")
        half, full = (
            make_mark(image, invisible(region="none"), Gives(lambda b, s=s: s * waves(b)), LATENT).field
            for s in (0.5, 1.0)
        )
        assert half is not None and full is not None and half.scales.mean() > 1.3 * full.scales.mean()


class TestColorFields:
    @pytest.mark.parametrize("dtype", ["uint8", "float32"])
    @pytest.mark.parametrize("inverted", [False, True])
    def test_come_back_as_they_were_given(self, dtype: str, inverted: bool) -> None:
        image = stored(dtype=dtype, channels=3, inverted=inverted)
        # Limits on color would change a field (tests/test_lookalikes.py).
        unlimited = replace(PRESETS["standard"].visibility, spot=1, patch=1, cast=1, logo_tint=1)
        options = ProtectOptions(replace(PRESETS["standard"], visibility=unlimited), region="none")
        mark = make_mark(image, options, Gives(colors), LATENT)
        assert mark.field is not None and mark.field.shape == (1, 64, 48, 3)
        given = np.moveaxis(2 * colors(np.zeros((1, 1, 64, 48), np.float32)), 1, 3) * (-1 if inverted else 1)
        active = mark.field.active()
        assert active.mean() > 0.5 and np.array_equal(mark.field.levels[active], given[active])
        assert not mark.field.levels[~active].any()

    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize("dtype", ["uint8", "float32"])
    def test_are_restored_exactly(self, size: tuple[int, int], dtype: str) -> None:
        image = stored(size, dtype, channels=3)
        mark = make_mark(image, ProtectOptions(), Gives(colors), LATENT)
        protected = apply_mark(image, mark)
        change = moved(image, mark)[0]
        assert (np.abs(change[..., 0] - change[..., 1]) > 1 / 255).mean() > 0.2
        guess = estimate(protected, mark, image.bounds, image.padding)
        assert np.array_equal(add_correction(guess, find_correction(image.values, guess)), image.values)

    @pytest.mark.parametrize("channels", [1, 2, 4])
    def test_have_as_many_planes_as_the_image(self, channels: int) -> None:
        with pytest.raises(ValueError, match=rf"instead of a field of shape \(1, {channels}, 64, 48\)"):
            make_mark(stored(channels=channels), invisible(), Gives(colors), LATENT)


class TestSpecialist:
    @pytest.mark.parametrize("modality", ["auto", "fundus"])
    def test_the_marker_is_asked_for_the_modality_and_shown_the_image(self, modality: str) -> None:
        asked: list[tuple[str, Any]] = []
        image = stored(channels=3)

        class Hospital:
            def specialist(self, modality: str, images: NDArray[np.float32]) -> NoiseMarker:
                asked.append((modality, images))
                return NoiseMarker()

        make_mark(image, ProtectOptions(modality=modality), Hospital(), LATENT)
        ((name, images),) = asked
        assert name == modality and np.array_equal(images, canonical_display(image))

    def test_a_modality_that_it_does_not_know_is_its_own_affair(self) -> None:
        class Picky(NoiseMarker):
            def specialist(self, modality: str, images: NDArray[np.float32]) -> NoiseMarker:
                raise ValueError(f"no networks for {modality}")

        with pytest.raises(ValueError, match="no networks for teeth"):
            make_mark(stored(), ProtectOptions(modality="teeth"), Picky(), LATENT)


class TestWindow:
    @pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
    def test_inverted_windows_negate_the_field(self, dtype: str) -> None:
        """The display brightens in both cases: what networks see gets the field that they asked for."""
        plain, inverted = stored(dtype=dtype), stored(dtype=dtype, inverted=True)
        turned = StoredImage(
            (plain.window.high + plain.window.low - plain.values.astype(np.float64)).astype(dtype),
            plain.bounds,
            inverted.window,
        )
        marks = [make_mark(image, invisible(region="none"), NoiseMarker(), LATENT) for image in (plain, turned)]
        assert marks[0].field is not None and marks[1].field is not None and marks[0].field.levels.any()
        if dtype == "uint8":  # wider types round 1 - x differently in the last bit, which may move a scale
            assert np.array_equal(marks[0].field.levels, -marks[1].field.levels)
        brighter = [moved(image, make_mark(image, invisible(), AlwaysUp(), LATENT)) for image in (plain, turned)]
        assert (brighter[0] >= 0).all() and (brighter[1] <= 0).all() and brighter[1].any()


class TestLogo:
    @pytest.mark.parametrize("size", [(64, 48), (256, 256), (300, 413), (40, 200)])
    @pytest.mark.parametrize("region", ["auto", "mask"])
    def test_never_covers_the_region(self, size: tuple[int, int], region: str) -> None:
        image = stored(size, slices=2)
        mask = np.zeros((2, *size), bool)
        mask[0, size[0] // 2 :] = True
        mask[1, :, size[1] // 2 :] = True
        mask[1, : size[0] // 2] = True
        options = ProtectOptions() if region == "auto" else ProtectOptions(region=mask)
        inside = full_boxes(image, options) if region == "auto" else mask
        mark = make_mark(image, options, NoiseMarker(), LATENT)
        assert mark.logo is not None and mark.field is not None
        for n in range(2):
            ink = upsample(mark.logo.coverage(n, *mark.field.shape[1:3]), *size) > 0
            assert not ink[inside[n]].any()
        assert (mark.logo.positions[0] >= 0).all()

    def test_invisible_has_none(self) -> None:
        assert make_mark(stored(), invisible(), NoiseMarker(), LATENT).logo is None

    @pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32"])
    @pytest.mark.parametrize("inverted", [False, True])
    @pytest.mark.parametrize("level", [0.25, 0.85])
    def test_networks_see_what_is_stored(self, dtype: str, inverted: bool, level: float) -> None:
        """White ink on dark and black ink on bright images, on the display, whichever way the window runs."""
        seen = []

        class Looking(NoiseMarker):
            def perturb(self, images: Any, clean: Any, budget: Any, latent: bytes) -> NDArray[np.float32]:
                seen.append((images, clean))
                return np.zeros_like(budget)

        pattern = stored(dtype=dtype, inverted=inverted)
        stand = 1 - level if inverted else level
        values = np.full_like(pattern.values, pattern.window.low + stand * pattern.window.width)
        image = StoredImage(values, pattern.bounds, pattern.window)
        mark = make_mark(image, ProtectOptions(region="none"), Looking(), LATENT)
        shown = canonical_display(StoredImage(apply_mark(image, mark), image.bounds, image.window))
        np.testing.assert_allclose(shown, seen[0][0], atol=1 / 255)
        changed = seen[0][0] - seen[0][1]
        assert (
            (changed.min() >= 0 and changed.max() > 0.1)
            if level < 0.5
            else (changed.max() <= 0 and changed.min() < -0.1)
        )


class TestTinyImages:
    @pytest.mark.parametrize("size", [(1, 1), (1, 2), (3, 1), (5, 7), (15, 15), (16, 16), (1, 1000), (17, 3000)])
    @pytest.mark.parametrize("options", [ProtectOptions(), invisible(), ProtectOptions(region="none")])
    def test_every_size_is_marked_and_restored(self, size: tuple[int, int], options: ProtectOptions) -> None:
        image = stored(size)
        mark = make_mark(image, options, NoiseMarker(), LATENT)
        protected = apply_mark(image, mark)
        guess = estimate(protected, mark, image.bounds, image.padding)
        assert np.array_equal(add_correction(guess, find_correction(image.values, guess)), image.values)

    def test_too_small_for_a_logo_is_said(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING):
            assert make_mark(stored((15, 80)), ProtectOptions(), NoiseMarker(), LATENT).logo is None
        assert "too small for a logo" in caplog.text

    @pytest.mark.parametrize("value", [0, 128, 255])
    def test_constant_images(self, value: int) -> None:
        image = StoredImage(np.full((1, 40, 40, 1), value, np.uint8), Bounds(0, 255), Window(0, 255))
        protected = apply_mark(image, make_mark(image, ProtectOptions(), AlwaysUp(), LATENT))
        assert value == 255 or (protected != image.values).any()


class TestUntrustedPerturbers:
    @pytest.mark.parametrize("factor", [1e6, -1e6, np.inf, -np.inf])
    def test_too_much_is_clipped(self, factor: float) -> None:
        image = stored(dtype="uint16")
        sign = np.sign(factor)
        full = make_mark(image, invisible(), Gives(lambda b: np.full_like(b, sign)), LATENT)
        wild = make_mark(image, invisible(), Gives(lambda b: np.full_like(b, factor)), LATENT)
        assert np.array_equal(apply_mark(image, wild), apply_mark(image, full))

    @pytest.mark.parametrize("kind", ["float64", "float16", "int8", "int64", "uint8", "bool"])
    def test_other_number_types_are_taken(self, kind: str) -> None:
        image = stored()
        mark = make_mark(image, invisible(), Gives(lambda b: np.full(b.shape, 1).astype(kind)), LATENT)
        assert mark.field is not None and mark.field.levels.max() == 2

    @pytest.mark.parametrize(
        "field",
        [
            lambda b: b[:, :, :-1],  # one cell less needs as many blocks, and would stretch the field
            lambda b: b[:, 0],
            lambda b: b[0],
            lambda b: np.repeat(b, 3, axis=1),
            lambda b: np.repeat(b, 2, axis=0),
            lambda b: np.moveaxis(b, 1, 3),
            lambda b: b.swapaxes(2, 3),
            lambda b: b.astype(complex),
            lambda b: b.astype(str),
            lambda b: 0.5,
            lambda b: None,
            lambda b: [],
        ],
        ids=range(12),
    )
    def test_what_is_no_field_is_refused(self, field: Any) -> None:
        with pytest.raises(ValueError, match=r"the perturber gave .* instead of a field of shape \(1, 1, 64, 48\)"):
            make_mark(stored(), invisible(), Gives(field), LATENT)

    def test_nan_is_refused(self) -> None:
        def one_nan(budget: NDArray[np.float32]) -> NDArray[np.float32]:
            field = np.zeros_like(budget)
            field[0, 0, 3, 4] = np.nan
            return field

        with pytest.raises(ValueError, match="the perturber gave NaN instead of a field"):
            make_mark(stored(), invisible(), Gives(one_nan), LATENT)

    @pytest.mark.parametrize("style", ["visible", "invisible"])
    def test_it_cannot_write_to_the_image(self, style: Any) -> None:
        class Vandal(NoiseMarker):
            def perturb(self, images: Any, clean: Any, budget: Any, latent: bytes) -> NDArray[np.float32]:
                for array in (images, clean, budget):
                    array[...] = 1
                return np.ones_like(budget)

        image = stored()
        before = image.values.copy()
        mark = make_mark(image, ProtectOptions(style=style), Vandal(), LATENT)
        assert np.array_equal(image.values, before)
        expected = apply_mark(image, make_mark(image, ProtectOptions(style=style), AlwaysUp(), LATENT))
        assert np.array_equal(apply_mark(image, mark), expected)


class TestWhatThePerturberGets:
    @pytest.mark.parametrize("size", SIZES)
    def test_shapes_types_and_ranges(self, size: tuple[int, int]) -> None:
        seen: list[Any] = []
        asked: list[Preset] = []

        class Looking(NoiseMarker):
            def perturber(self, preset: Preset) -> NoiseMarker:
                asked.append(preset)
                return self

            def perturb(self, *arguments: Any) -> NDArray[np.float32]:
                seen[:] = arguments  # the last time: before it, the common field of the slices is looked for
                return super().perturb(*arguments)

        image = stored(size, slices=2, channels=3)
        mark = make_mark(image, ProtectOptions(preset="strong"), Looking(), LATENT)
        images, clean, budget, latent = seen
        assert asked == [PRESETS["strong"]] and latent == LATENT and mark.field is not None
        grid = mark.field.shape[1:3]
        assert images.shape == clean.shape == (2, 3, *grid) and budget.shape == (2, 1, *grid)
        for array in (images, clean, budget):
            assert array.dtype == np.float32 and array.min() >= 0 and array.max() <= 1
        assert np.array_equal(clean, canonical_display(image))
        assert (images >= clean).all() and (images > clean).any()

    def test_canonical_display_is_area_means(self) -> None:
        values = np.random.default_rng(0).integers(0, 256, (1, 512, 512, 1)).astype(np.uint8)
        display = canonical_display(StoredImage(values, Bounds(0, 255), Window(0, 255)))
        by_hand = (values[0, ..., 0] / 255).reshape(256, 2, 256, 2).mean((1, 3))
        np.testing.assert_allclose(display[0, 0], by_hand, atol=1e-6)


def test_the_same_latent_makes_the_same_mark() -> None:
    image = stored()
    protected = [apply_mark(image, make_mark(image, ProtectOptions(), NoiseMarker(), k)) for k in (LATENT, LATENT)]
    other = apply_mark(image, make_mark(image, ProtectOptions(), NoiseMarker(), LATENT[::-1]))
    assert np.array_equal(*protected) and not np.array_equal(protected[0], other)


class TestContrasts:
    """Channels that are no colors are images of their own, for networks too."""

    def test_networks_see_each_by_itself(self) -> None:
        seen: list[tuple[str, tuple[int, ...]]] = []

        class Looking(NoiseMarker):
            def specialist(self, modality: str, images: NDArray[np.float32]) -> NoiseMarker:
                seen.append(("specialist", images.shape))
                return self

            def saliency(self, images: NDArray[np.float32], quick: bool = False) -> NDArray[np.float32]:
                seen.append(("saliency", images.shape))
                return super().saliency(images, quick)

            def perturb(self, images: Any, clean: Any, budget: Any, latent: bytes) -> NDArray[np.float32]:
                seen.append(("perturb", images.shape))
                assert clean.shape == images.shape == budget.shape
                return super().perturb(images, clean, budget, latent)

        image = stored(slices=2, channels=4)
        mark = make_mark(image, ProtectOptions(preset="fast"), Looking(), LATENT)
        assert {shape for _, shape in seen} == {(8, 1, 64, 48)} and {name for name, _ in seen} > {
            "specialist",
            "perturb",
        }
        assert mark.field is not None and mark.field.shape == (2, 64, 48, 4)

    def test_three_with_windows_of_their_own_are_no_colors(self) -> None:
        image = stored((64, 48), "uint16", channels=3)
        scaled = (image.values * np.array([1, 0.25, 0.0625])).astype(np.uint16)
        windows = tuple(Window(0, 4095 * scale) for scale in (1, 0.25, 0.0625))
        assert not image.contrasts
        contrasts = StoredImage(scaled, image.bounds, windows)
        assert contrasts.contrasts and contrasts.part([0]).contrasts
        mark = make_mark(contrasts, invisible(region="none"), AlwaysUp(), LATENT)
        assert isinstance(mark.step, tuple) and mark.step[0] == pytest.approx(16 * mark.step[2], rel=1e-3)
        change = apply_mark(contrasts, mark).astype(float) - scaled
        share = [change[..., c].mean() / windows[c].width for c in range(3)]
        assert share[0] > 0.01 and np.allclose(share, share[0], rtol=0.05)
        guess = estimate(apply_mark(contrasts, mark), mark, image.bounds, None)
        assert np.array_equal(add_correction(guess, find_correction(scaled, guess)), scaled)

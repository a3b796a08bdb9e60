# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""What is planned is what a display shows of the protected file, whatever its window, type, padding or direction."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import pytest
from doubles import NoiseMarker
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from samples import ct
from test_formats_dicom import made
from vectors import make_vectors

from monai_miadmark.appearance import appearance_of
from monai_miadmark.exact import apply_mark
from monai_miadmark.field import UNITS, Field
from monai_miadmark.formats import carrier_for
from monai_miadmark.image import Bounds, StoredImage, Window
from monai_miadmark.marking import canonical_display, make_mark, plan_mark
from monai_miadmark.options import PRESETS, ProtectOptions
from monai_miadmark.pipeline import protect_bytes, read_record, remove_bytes

ALICE = make_vectors.identity("alice")
LATENT = bytes(range(32))
STEP = 1 / 255


class Watched(NoiseMarker):
    """Keeps what the perturber is shown; with ``field=0`` it makes none."""

    def __init__(self, field: int = 1) -> None:
        self.field = field

    def perturb(self, images: Any, clean: Any, budget: Any, latent: bytes) -> NDArray[np.float32]:
        self.images, self.clean, self.budget = images, clean, budget
        return self.field * super().perturb(images, clean, budget, latent)


def body(size: tuple[int, int], seed: int, low: float, width: float, beyond: float) -> NDArray[np.float64]:
    """Tissue within a window, air far below it and bone far above, with some noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    tissue = low + width * (0.5 + 0.3 * np.sin(x / 5) * np.cos(y / 4) + 0.05 * rng.standard_normal(size))
    inside = ((y / size[0] - 0.5) / 0.42) ** 2 + ((x / size[1] - 0.5) / 0.38) ** 2 < 1
    air = low - beyond * width * (1 + 0.05 * rng.standard_normal(size))
    picture = np.where(inside, tissue, air)
    bone = (np.abs(x - size[1] // 2) < 4) & inside
    return np.where(bone, low + width * (1 + beyond / 3), picture)


class Kind(NamedTuple):
    """What a file is like; a failing one is told by this, and not by its bytes."""

    size: tuple[int, int]
    seed: int
    beyond: float
    nifti: tuple[float, float] | None
    signed: bool
    bits: int
    narrow: float
    start: float
    photometric: str
    padded: bool


KINDS = st.builds(
    Kind,
    st.sampled_from([(48, 40), (33, 61)]),
    st.integers(0, 2**16),
    st.sampled_from([0.0, 0.04, 0.3, 2.0]),
    st.sampled_from([None, None, None, None, None, None, (-160.0, 400.0), (0.0, 1.0), (-3.0, 1e5)]),
    st.booleans(),
    st.sampled_from([8, 10, 12, 16]),
    st.sampled_from([0.02, 0.1, 0.4, 1.0]),
    st.sampled_from([0.0, 0.3]),
    st.sampled_from(["MONOCHROME1", "MONOCHROME2", "RGB"]),
    st.booleans(),
)


def file_of(kind: Kind) -> tuple[bytes, str]:
    """A DICOM or NIfTI file with a window that holds a part of its samples only."""
    size, seed, beyond, signed, bits = kind.size, kind.seed, kind.beyond, kind.signed, kind.bits
    if kind.nifti is not None:
        low, width = kind.nifti
        samples = body(size, seed, low, width, beyond).astype(np.float32)
        image = nib.Nifti1Image(samples.T[:, :, None], np.diag([-1.0, -1.0, 2.0, 1.0]))
        image.header["cal_min"], image.header["cal_max"] = low, low + width
        return image.to_bytes(), "a.nii"
    top = 2**bits - 1
    width = max(2.0, round(kind.narrow * top))
    low = kind.start * (top - width) - (2 ** (bits - 1) if signed else 0)
    ends = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, top)
    samples = np.clip(np.rint(body(size, seed, low, width, beyond)), *ends)
    dtype = f"{'int' if signed else 'uint'}{8 if bits == 8 else 16}"
    values = samples.astype(dtype)[None, :, :, None]
    more: dict[str, Any] = {"WindowCenter": low + width / 2 + 0.5, "WindowWidth": width + 1}
    more["PhotometricInterpretation"] = kind.photometric
    if more["PhotometricInterpretation"] == "RGB":
        values = np.concatenate([values, values // 2, np.roll(values, 3, 1)], -1)
        values = (values - (values.min() if signed else 0)).astype(f"u{values.dtype.itemsize}")
    elif kind.padded:
        values = np.concatenate([values[:, :, :7] * 0 + ends[0], values[:, :, 7:]], axis=2).astype(dtype)
        more["PixelPaddingValue"] = int(ends[0])
    return made(values, bits_stored=bits, **more), "a.dcm"


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(KINDS, st.sampled_from(["visible", "invisible"]), st.sampled_from(["fast", "strong"]))
def test_what_is_planned_is_what_the_written_file_shows(kind: Kind, style: Any, preset: str) -> None:
    data, name = file_of(kind)
    options = ProtectOptions(style=style, preset=preset, text="AB")
    marker = Watched()
    protected = protect_bytes(data, name, [ALICE.recipient], marker, options)
    assert remove_bytes(protected.data, [ALICE]).data == data

    image = carrier_for(data, name).open_source(data, name).image
    held = carrier_for(protected.data, name).open_protected(protected.data)
    record = read_record(protected.envelope, held.values, [ALICE])
    assert record.mark is not None and record.mark.field is not None
    written = canonical_display(image.with_values(held.values))
    # The perturber saw the image with its logo, and what was left to do is the field, as far as it can be seen.
    plan = plan_mark(image, options, marker)
    assert np.array_equal(marker.images, plan.placed.images) and np.array_equal(marker.clean, canonical_display(image))
    field = np.moveaxis(record.mark.field.cells(), 3, 1).astype(np.float32) / UNITS * (-1 if image.inverted else 1)
    planned = np.stack([plan.appearance.changed(n, field[n]) for n in range(len(field))])
    assert np.abs(planned - written).max() <= STEP


def ct_like(side: int, dtype: str = "int16", seed: int = 0) -> StoredImage:
    """A slice in its 40/400 window: noisy air at -1000, tissue, lung and bone."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side - 0.5
    values = np.where((y / 0.3) ** 2 + (x / 0.45) ** 2 < 1, 40.0, -1000.0)
    for middle in (-0.2, 0.2):
        values[(y / 0.2) ** 2 + ((x - middle) / 0.12) ** 2 < 1] = -850
    values[(y - 0.2) ** 2 + x**2 < 0.004] = 700
    values = np.rint(values + rng.normal(0, 12, values.shape)).clip(-1024, 3071)
    return StoredImage(values.astype(dtype)[None, :, :, None], Bounds(-1024, 3071), Window(-160, 240))


@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_a_logo_in_the_air_of_a_ct_is_seen(dtype: str) -> None:
    """Air lies 840 HU below the window; the planned change was 0.33 of the display, and nothing was shown."""
    image = ct_like(256, dtype)
    region = np.abs(image.values[0, :, :, 0]) < 900  # leaves nothing but air to the logo
    marker = Watched(field=0)
    mark = make_mark(image, ProtectOptions(region=region, preset="fast"), marker, LATENT)
    shown = canonical_display(image.with_values(apply_mark(image, mark)))
    planned, seen = np.abs(marker.images - marker.clean), np.abs(shown - marker.clean)
    assert planned.max() > 0.3 and seen.max() > 0.3
    np.testing.assert_allclose(seen, planned, atol=STEP)


def test_a_field_neither_hides_in_air_nor_clips_bone_and_lung() -> None:
    image = ct_like(512)
    mark = make_mark(image, ProtectOptions(style="invisible", region="none"), Watched(), LATENT)
    change = np.abs(apply_mark(image, mark).astype(int) - image.values)[0, :, :, 0]
    values = image.values[0, :, :, 0]
    far = (values < -400) | (values > 450)
    inner = far & ~np.pad(~far, 8, mode="edge")[tuple(slice(8 + d, 520 + d) for d in (0, 0))]
    for step in (-8, 8):  # away from where tissue begins
        inner &= np.roll(far, step, 0) & np.roll(far, step, 1)
    assert inner.mean() > 0.3 and change[inner].mean() < 0.2 and change.max() <= 0.08 * 400 + 1
    assert change[~far].mean() > 5


def test_records_of_air_under_ink_stay_small() -> None:
    image = ct_like(512)
    rescale = {"Modality": "CT", "RescaleIntercept": -1024, "RescaleSlope": 1}
    data = made(image.values + 1024, WindowCenter=40, WindowWidth=400, **rescale)
    for source in (data, ct()):
        protected = protect_bytes(source, "a.dcm", [ALICE.recipient], NoiseMarker(), ProtectOptions(preset="fast"))
        assert len(protected.envelope) <= 26 * 1024
        assert remove_bytes(protected.data, [ALICE]).data == source


@pytest.mark.parametrize(
    ("name", "original"),
    [
        ("ct_int16.nii", "133d18f07097459801449c844af9c54bf22e9989853a5b7640961e48f4d2dfec"),
        ("ct_float32.nii", "b10b86552b292482ff506547e36689a285221bf31653b5a3e538463af2cffe4b"),
    ],
)
def test_files_in_which_ink_blended_with_samples_are_restored(name: str, original: str) -> None:
    """Protected by the version before ink was kept to the window, with ink over air."""
    data = (Path(make_vectors.HERE) / "protected" / name).read_bytes()
    assert hashlib.sha256(remove_bytes(data, [ALICE]).data).hexdigest() == original


class TestAppearance:
    def test_of_an_8_bit_image_is_the_image(self) -> None:
        values = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
        image = StoredImage(values, Bounds(0, 255), Window(0, 255))
        shown = canonical_display(image)
        seen = appearance_of(image, shown, 0.2)
        assert seen.level is None and seen.gain(0.1) is None
        assert np.array_equal(seen.changed(0, np.full((1, 16, 16), 0.1, np.float32))[0], (shown[0, 0] + 0.1).clip(0, 1))

    def test_half_a_cell_outside_shows_half(self) -> None:
        values = np.full((1, 512, 512, 1), 40, np.int16)
        values[:, :, ::2] = -1000
        image = StoredImage(values, Bounds(-1024, 3071), Window(-160, 240))
        gain = appearance_of(image, canonical_display(image), 0.2).gain(0.05)
        assert gain is not None and gain == pytest.approx(0.5, abs=1e-3)

    @pytest.mark.parametrize("preset", PRESETS)
    def test_amplitudes_below_half_a_stored_unit_show_nothing(self, preset: str) -> None:
        values = np.full((1, 32, 32, 1), 3, np.int16)
        image = StoredImage(values, Bounds(0, 100), Window(0, 6))
        gain = appearance_of(image, canonical_display(image), 0.2).gain(PRESETS[preset].visibility.ceiling / 2)
        assert gain is not None and not gain.any()

    def test_padding_does_not_show(self) -> None:
        values = np.full((1, 16, 16, 1), 50, np.uint16)
        values[0, :8] = 0
        image = StoredImage(values, Bounds(0, 4095), Window(0, 100), (0, 0))
        gain = appearance_of(image, canonical_display(image), 0.2).gain(0.05)
        assert gain is not None and not gain[0, :8].any() and (gain[0, 8:] > 0.9).all()


def test_a_logo_on_padding_is_not_planned() -> None:
    values = np.full((1, 64, 64, 1), 100, np.int16)
    values[0, :, :34] = -2000
    image = StoredImage(values, Bounds(-2048, 2047), Window(-160, 240), (-2000, -2000))
    marker = Watched()
    mark = make_mark(image, ProtectOptions(region="none", preset="fast", text="A"), marker, LATENT)
    assert mark.logo is not None and mark.logo.positions[0, 1] >= 34
    assert not np.abs(marker.images - marker.clean)[..., :34].any()


def test_levels_of_the_field_are_zero_where_nothing_shows() -> None:
    image = ct_like(128)
    field = make_mark(image, ProtectOptions(style="invisible", region="none"), Watched(), LATENT).field
    assert isinstance(field, Field)
    air = (image.values[0, :, :, 0] < -400) | (image.values[0, :, :, 0] > 450)
    assert not field.levels[0, :, :, 0][air].any() and field.levels[0, :, :, 0][~air].any()

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Display windows: of files and of arrays, by the same rules; one for each contrast, one for all colors."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from doubles import NoiseMarker
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from samples import ct, smooth
from test_formats_dicom import made
from vectors import make_vectors

from monai_miadmark.closeness import compare
from monai_miadmark.formats import carrier_for
from monai_miadmark.image import StoredImage, Window
from monai_miadmark.marking import canonical_display
from monai_miadmark.options import ProtectOptions
from monai_miadmark.pipeline import protect_bytes, remove_bytes
from monai_miadmark.transforms import ProtectWithMIADMarkd, RemoveMIADMarkd
from monai_miadmark.transforms.shown import window_of
from monai_miadmark.windows import CT_WINDOW, EIGHT_BITS, display_windows, looks_like_color, trusted_window

ALICE = make_vectors.identity("alice")
MAXIMA = (300, 1500, 800, 4000)
"""Of the contrasts of a study of the brain as scanners store them."""


def image_of(data: bytes, name: str = "a.dcm") -> StoredImage:
    return carrier_for(data, name).open_source(data, name).image


def head(side: int = 64, depth: int = 4, seed: int = 0) -> NDArray[np.float64]:
    """A volume ``(side, side, depth)`` of tissue with a dark background, in [0, 1]."""
    y, x, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in (side, side, depth)), indexing="ij")
    inside = (y / 0.9) ** 2 + (x / 0.75) ** 2 < 1
    rng = np.random.default_rng(seed)
    tissue = 0.5 + 0.3 * np.sin(5 * x + seed) * np.cos(4 * y + z) + 0.04 * rng.standard_normal(y.shape)
    return np.where(inside, np.clip(tissue, 0.02, 1), 0.0)


def psnr(before: NDArray[Any], after: NDArray[Any], peak: float) -> float:
    error = ((before.astype(np.float64) - after) ** 2).mean() / peak**2
    return float(10 * np.log10(1 / error))


class TestTrusted:
    VALUES = np.arange(27, 301, dtype=np.uint16)

    @pytest.mark.parametrize(
        ("low", "high", "trusted"),
        [
            (0, 300, True),
            (100, 120, True),  # somebody looks closely
            (-273, 546, True),  # three times the range
            (100.5, 101.5, False),  # shows two values
            (-1000, 1000, False),
            (0, 4095, False),
            (0, 65535, False),
            (-5e299, 5e299, False),
            (300, 400, False),  # all black
            (0, 27, False),  # all white
            (50, 50, False),
            (np.nan, 100, False),
            (0, np.inf, False),
        ],
    )
    def test_what_fits_the_samples(self, low: float, high: float, trusted: bool) -> None:
        assert trusted_window(low, high, False, self.VALUES) == (Window(low, high) if trusted else None)

    def test_swapped_ends_invert(self) -> None:
        assert trusted_window(300, 0, False, self.VALUES) == Window(0, 300, True)
        assert trusted_window(300, 0, True, self.VALUES) == Window(0, 300, False)

    def test_a_dead_pixel_makes_no_window_right(self) -> None:
        values = np.tile(self.VALUES, 100)
        values[7] = 65535
        assert trusted_window(0, 65535, False, values) is None

    def test_a_narrow_window_with_tissue_in_it_is_one(self) -> None:
        values = np.concatenate([np.full(500, -1000), np.arange(25, 40), np.full(500, 30000)]).astype(np.int16)
        assert trusted_window(20, 50, False, values) == Window(20, 50)
        assert trusted_window(400, 430, False, values) is None

    def test_padding_does_not_count(self) -> None:
        values = np.concatenate([self.VALUES, np.zeros(900, np.uint16), np.full(900, 4000, np.uint16)])
        assert trusted_window(0, 4095, False, values) is not None
        assert trusted_window(0, 4095, False, values, (4000, 4000)) is None

    def test_of_one_value_there_is_nothing_to_spoil(self) -> None:
        assert trusted_window(0, 255, False, np.full(9, 100, np.uint8)) == Window(0, 255)


class TestContrasts:
    def test_channels_have_their_own(self) -> None:
        values = np.stack([head() * top for top in MAXIMA], -1).transpose(2, 0, 1, 3).astype(np.float32)
        windows = display_windows(values)
        assert isinstance(windows, tuple) and len(windows) == 4
        for window, top in zip(windows, MAXIMA, strict=True):
            assert 0.6 * top < window.high <= top and window.low == 0
        image = StoredImage(values, *_bounds(values), windows)
        shown = canonical_display(image)
        np.testing.assert_allclose(shown[:, 0], shown[:, 3], atol=0.01)

    @pytest.mark.parametrize(("factor", "several"), [(1.02, False), (1.5, False), (4.0, True)])
    def test_time_points_share_one_where_their_ranges_are_alike(self, factor: float, several: bool) -> None:
        volume = head().transpose(2, 0, 1)[..., None]
        values = np.concatenate([volume * 400, volume * 400 * factor, volume * 400]).astype(np.int16)
        windows = display_windows(values, 3)
        assert isinstance(windows, tuple) == several
        if isinstance(windows, tuple):
            assert windows[0] == windows[2] and windows[1].high == pytest.approx(factor * windows[0].high, rel=0.02)

    def test_a_window_that_fits_some_only(self) -> None:
        volume = head().transpose(2, 0, 1)[..., None]
        values = np.concatenate([volume * 3000, volume * 100]).astype(np.int16)
        windows = display_windows(values, 2, [(0.0, 2500.0)])
        assert isinstance(windows, tuple) and windows[0] == Window(0, 2500) and windows[1].high < 110

    def test_colors_share_one(self) -> None:
        values = (np.stack([head() * top for top in (255, 120, 60)], -1).transpose(2, 0, 1, 3) * 16).astype(np.uint16)
        assert isinstance(display_windows(values, color=True), Window)


def _bounds(values: NDArray[Any]) -> tuple[Any]:
    from monai_miadmark.formats.ranges import value_bounds

    return (value_bounds(values),)


class TestColor:
    @pytest.mark.parametrize(
        ("tops", "dtype", "color"),
        [
            ((255, 255, 255), np.uint8, True),
            ((255, 120, 9), np.uint8, True),
            ((255, 120, 60), np.float32, True),
            ((1.0, 0.5, 0.3), np.float32, True),
            ((300, 1500, 800), np.float32, False),
            ((250, 20, 250), np.float32, False),
            ((300, 300, 300), np.int16, False),
        ],
    )
    def test_three_channels(self, tops: Any, dtype: Any, color: bool) -> None:
        values = np.stack([head() * top for top in tops], -1).transpose(2, 0, 1, 3)
        if max(tops) > 1:
            values = np.rint(values)
        assert looks_like_color(values.astype(dtype)) is color

    def test_negative_values_and_other_numbers_of_channels_are_not(self) -> None:
        values = np.random.default_rng(0).random((1, 9, 9, 3)).astype(np.float32)
        assert looks_like_color(values) and not looks_like_color(values - 0.5) and not looks_like_color(values[..., :2])


class TestFiles:
    @pytest.mark.parametrize(
        ("values", "window"),
        [
            ((27, 300), {"WindowCenter": 2048, "WindowWidth": 4096}),
            ((27, 300), {"WindowCenter": 32768, "WindowWidth": 65536}),
            ((909, 1180), {"WindowCenter": 40, "WindowWidth": "1e300"}),
        ],
    )
    def test_a_window_far_too_wide_spoils_nothing(self, values: tuple[int, int], window: dict[str, Any]) -> None:
        """The budget follows the window: anatomy was gone, the correlation about 0."""
        plane = head(80)[:, :, 0]
        samples = np.rint(values[0] + (values[1] - values[0]) * plane).astype(np.uint16)[None, :, :, None]
        data = made(samples, bits_stored=16, **window)
        assert 0.5 < image_of(data).windows[0].width / (values[1] - values[0]) <= 1
        protected = protect_bytes(data, "a.dcm", [ALICE.recipient], NoiseMarker(), ProtectOptions(preset="fast"))
        held = carrier_for(protected.data, "a.dcm").open_protected(protected.data)
        assert np.corrcoef(samples.ravel(), held.values.ravel())[0, 1] > 0.9
        assert remove_bytes(protected.data, [ALICE]).data == data

    @pytest.mark.parametrize("kind", ["diffusion", "functional"])
    def test_time_points_of_nifti(self, kind: str) -> None:
        """Each is as close to its source as the preset says, whatever its range."""
        scales = (2400.0, 500.0, 250.0) if kind == "diffusion" else (900.0, 905.0, 890.0)
        volumes = np.stack([head(64, 3, 1) * scale for scale in scales], 3).astype(np.int16)
        data = nib.Nifti1Image(volumes, np.diag([2.0, 2.0, 2.0, 1.0])).to_bytes()
        image = image_of(data, "a.nii")
        assert isinstance(image.window, tuple) == (kind == "diffusion")
        options = ProtectOptions(style="invisible", preset="fast")
        protected = protect_bytes(data, "a.nii", [ALICE.recipient], NoiseMarker(), options)
        assert remove_bytes(protected.data, [ALICE]).data == data
        held = carrier_for(protected.data, "a.nii").open_protected(protected.data).values
        for at, scale in enumerate(scales):
            part = slice(3 * at, 3 * at + 3)
            assert 28 < psnr(image.values[part], held[part], scale) < 36

    def test_frames_of_enhanced_dicom(self) -> None:
        planes = np.stack([head(48)[:, :, 0] * top for top in (300, 3000)])[..., None].astype(np.uint16)
        frames = []
        for center, width in ((150, 301), (1500, 3001)):
            frame, voi = Dataset(), Dataset()
            voi.WindowCenter, voi.WindowWidth = center, width
            frame.FrameVOILUTSequence = Sequence([voi])
            frames.append(frame)
        data = made(planes, PerFrameFunctionalGroupsSequence=Sequence(frames))
        assert image_of(data).window == (Window(-0.5, 299.5), Window(-0.5 - 0.0, 2999.5))

    def test_rgb_nifti_is_shown_as_it_is(self) -> None:
        colors = np.random.default_rng(0).integers(0, 90, (8, 9, 1, 3)).astype(np.uint8)
        voxels = colors.view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]
        data = nib.Nifti1Image(voxels, np.eye(4)).to_bytes()
        assert image_of(data, "a.nii").window == EIGHT_BITS

    def test_vectors_are_contrasts_and_colors_are_not(self) -> None:
        values = np.stack([head() * top for top in (300, 1500, 800)], -1).astype("<u2")  # (y, x, z, channel)
        body = values.transpose(2, 0, 1, 3).tobytes()
        head_ = "NRRD0004\ntype: uint16\ndimension: 4\nsizes: 3 64 64 4\nencoding: raw\nendian: little\nkinds: {}\n\n"
        for kind, single in (("vector", False), ("RGB-color", True)):
            data = head_.format(f"{kind} domain domain domain").encode() + body
            assert isinstance(image_of(data, "a.nrrd").window, Window) == single
        mha = b"ObjectType = Image\nNDims = 3\nBinaryData = True\nDimSize = 64 64 4\nElementNumberOfChannels = 3\n"
        mha += b"ElementType = MET_USHORT\nElementDataFile = LOCAL\n" + body
        assert len(image_of(mha, "a.mha").windows) == 3


class TestArrays:
    """Through LoadImaged and the transform."""

    def loaded(self, path: Path, axis: Any = "no_channel", **reader: Any) -> MetaTensor:
        load = Compose([LoadImaged("image", **reader), EnsureChannelFirstd("image", channel_dim=axis)])
        image: MetaTensor = load({"image": path})["image"]
        return image

    def window(self, image: MetaTensor, **more: Any) -> Window | tuple[Window, ...]:
        values = np.moveaxis(image.numpy(), 0, -1)[None] if image.ndim == 3 else image.numpy().transpose(3, 1, 2, 0)
        return window_of(values, image.meta, **more)

    @pytest.mark.parametrize("prune", [True, False])
    def test_ct_without_a_window_has_that_of_ct(self, tmp_path: Path, prune: bool) -> None:
        (tmp_path / "a.dcm").write_bytes(ct())
        image = self.loaded(tmp_path / "a.dcm", reader="PydicomReader", prune_metadata=prune)
        assert self.window(image) == Window(*CT_WINDOW)
        os_gone = MetaTensor(image.clone(), meta={**image.meta, "filename_or_obj": str(tmp_path / "gone.dcm")})
        assert (self.window(os_gone) == Window(*CT_WINDOW)) is not prune
        assert self.window(image, given=Window(0, 5)) == Window(0, 5)

    @pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
    def test_voi_of_dicom(self, tmp_path: Path, photometric: str) -> None:
        values = np.rint(head(48)[:, :, :1] * 3000).astype(np.uint16)[None]
        (tmp_path / "a.dcm").write_bytes(
            made(values, bits_stored=12, WindowCenter=900, WindowWidth=1201, PhotometricInterpretation=photometric)
        )
        expected = Window(299.5, 1499.5, photometric == "MONOCHROME1")
        assert self.window(self.loaded(tmp_path / "a.dcm", reader="PydicomReader")) == expected
        assert image_of((tmp_path / "a.dcm").read_bytes()).window == expected
        # As ITKReader leaves it: text, and MONOCHROME1 turned round.
        meta = {"0028|1050": "900\\40 ", "0028|1051": "1201\\400", "0028|0004": photometric, "0028|0101": "12"}
        turned = photometric == "MONOCHROME1"
        array = torch.from_numpy((4095 - values if turned else values).astype(np.float32)[..., 0])
        found = self.window(MetaTensor(array, meta=meta))
        assert found == (Window(4095 - 1499.5, 4095 - 299.5) if turned else Window(299.5, 1499.5))

    def test_cal_of_nifti(self, tmp_path: Path) -> None:
        volume = nib.Nifti1Image((head() * 1000).astype(np.int16), np.eye(4))
        volume.header["cal_min"], volume.header["cal_max"] = 100, 600
        nib.save(volume, tmp_path / "a.nii")
        assert self.window(self.loaded(tmp_path / "a.nii")) == Window(100, 600)
        volume.header["cal_max"] = 60000
        nib.save(volume, tmp_path / "b.nii")
        assert 500 < self.window(self.loaded(tmp_path / "b.nii")).high < 1001  # type: ignore[union-attr]

    @pytest.mark.parametrize("mode", ["L", "RGB"])
    def test_pictures_of_8_bits(self, tmp_path: Path, mode: str) -> None:
        Image.fromarray(smooth() // 4).convert(mode).save(tmp_path / "a.png")
        image = self.loaded(tmp_path / "a.png", -1 if mode == "RGB" else "no_channel")
        assert image.dtype == torch.float32 and self.window(image) == EIGHT_BITS

    def test_scaled_values_do_not_fit_the_window_of_the_file(self, tmp_path: Path) -> None:
        (tmp_path / "a.dcm").write_bytes(ct())
        image = self.loaded(tmp_path / "a.dcm", reader="PydicomReader")
        scaled = MetaTensor((image - image.min()) / (image.max() - image.min()), meta=image.meta)
        window = self.window(scaled)
        assert isinstance(window, Window) and 0 <= window.low < window.high <= 1

    def test_a_broken_header_is_no_reason_to_fail(self, tmp_path: Path) -> None:
        (tmp_path / "a.dcm").write_bytes(ct()[:300] + bytes(range(256)) * 4)
        image = MetaTensor(torch.rand(1, 9, 9), meta={"filename_or_obj": str(tmp_path / "a.dcm"), "cal_min": "x"})
        assert isinstance(self.window(image), Window)
        strange: dict[Any, Any] = {"00280004": {"vr": "CS", "Value": 3}, "0028|1050": "??", "mode": []}
        assert isinstance(self.window(MetaTensor(torch.rand(1, 9, 9), meta=strange)), Window)

    def test_explicit_choices(self) -> None:
        image = MetaTensor(torch.rand(3, 9, 9) * torch.tensor([1.0, 0.5, 0.3])[:, None, None])
        assert isinstance(self.window(image), Window)
        assert isinstance(self.window(image, channels="contrasts"), tuple)
        assert isinstance(self.window(image * 1000), tuple)
        assert isinstance(self.window(image * 1000, channels="color"), Window)
        pairs = (Window(0, 1), Window(0, 2), Window(0, 3))
        assert self.window(image, given=pairs) == pairs
        with pytest.raises(ValueError, match="2 windows were given for an image of 3 channels"):
            self.window(image, given=pairs[:2])
        for bad in ({"channels": "hues"}, {"window": (1, 2, 3)}, {"window": (2, 1)}):
            with pytest.raises(ValueError):
                ProtectWithMIADMarkd("image", ALICE.recipient, marker=NoiseMarker(), **bad)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.int16])
    def test_four_contrasts_of_mr(self, dtype: torch.dtype) -> None:
        """One window for all gave PSNR of 3, 17, 11 and 25 dB."""
        volume = np.stack([head(64, 6, 2) * top for top in MAXIMA])
        image = MetaTensor(torch.from_numpy(volume).to(dtype))
        protect = ProtectWithMIADMarkd("image", ALICE.recipient, marker=NoiseMarker(), style="invisible", preset="fast")
        made_ = protect({"image": image})
        for before, after, top in zip(image, made_["image"], MAXIMA, strict=True):
            assert 28 < psnr(before.numpy(), after.numpy(), top) < 36
        restored = RemoveMIADMarkd("image", ALICE)(made_)["image"]
        assert torch.equal(restored.as_tensor(), image.as_tensor())

    def test_ct_through_the_transform_is_as_close_as_through_the_command_line(self, tmp_path: Path) -> None:
        """At 40/400 it was 18.6 dB, where files reached 30.1."""
        (tmp_path / "a.dcm").write_bytes(ct())
        loaded = self.loaded(tmp_path / "a.dcm", reader="PydicomReader")
        protect = ProtectWithMIADMarkd("image", ALICE.recipient, marker=NoiseMarker(), style="invisible", preset="fast")
        shown = [np.clip((image.numpy() + 160) / 400, 0, 1) for image in (loaded, protect({"image": loaded})["image"])]
        options = ProtectOptions(style="invisible", preset="fast")
        protected = protect_bytes(ct(), "a.dcm", [ALICE.recipient], NoiseMarker(), options)
        held = carrier_for(protected.data, "a.dcm").open_protected(protected.data).values
        close = compare(image_of(ct()), held, None)
        assert close is not None and psnr(*shown, 1.0) == pytest.approx(close.psnr, abs=1.0) and close.psnr > 28


def test_pydicom_is_asked_for_nothing_but_the_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.dcm").write_bytes(ct())
    asked: list[Any] = []
    whole = pydicom.dcmread

    def watched(stream: io.BytesIO, **more: Any) -> Any:
        asked.append(more)
        return whole(stream, **more)

    monkeypatch.setattr(pydicom, "dcmread", watched)
    values = np.zeros((1, 4, 4, 1), np.float32)
    values[0, 0] = 1000
    window_of(values, {"filename_or_obj": str(tmp_path / "a.dcm")})
    assert [more["stop_before_pixels"] for more in asked] == [True]

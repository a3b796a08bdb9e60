# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""LoadImage on protected files gives what it gives for the originals; SaveImage keeps records."""

from __future__ import annotations

import builtins
import gzip
import io
import os
import pickle
import tempfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pydicom.data
import pytest
import samples
import test_formats_volumes as volumes
import torch
from doubles import BLUNT, NoiseMarker
from monai.data import ImageReader, ITKReader, MetaTensor, NibabelReader, NrrdReader, PILReader, PydicomReader
from monai.transforms import Compose, Flip, LoadImage, LoadImaged, SaveImage, SaveImaged
from numpy.typing import NDArray
from PIL import Image

from monai_miadmark.errors import (
    NotProtectedError,
    SignatureError,
    TamperedError,
    UnsupportedImageError,
    WrongKeyError,
)
from monai_miadmark.files import inspect_file, protect_file, sidecar_path, verify_file
from monai_miadmark.formats import carrier_for
from monai_miadmark.keys import load_recipient, load_signer
from monai_miadmark.options import ProtectOptions
from monai_miadmark.pipeline import protect_image
from monai_miadmark.transforms import (
    LAYOUT_KEY,
    RECORD_KEY,
    MIADMarkReader,
    MIADMarkWriter,
    ProtectWithMIADMark,
    ProtectWithMIADMarkd,
    RemoveMIADMark,
)
from monai_miadmark.transforms.in_memory import image_in_memory
from monai_miadmark.transforms.metadata import record_in

READERS: dict[str, type[ImageReader]] = {
    ".dcm": PydicomReader,
    ".nii": NibabelReader,
    ".gz": NibabelReader,
    ".mgh": NibabelReader,
    ".mgz": NibabelReader,
    ".nrrd": NrrdReader,
}


def scaled_nifti() -> bytes:
    """int16 samples with scl_slope 0.5 and scl_inter -10, compressed; a sheared orientation."""
    affine = np.array([[-0.9, 0.1, 0, 3], [0.1, 0.8, 0, 4], [0, 0, 2.5, 5], [0, 0, 0, 1]])
    volume = np.stack([samples.smooth(20, 24, seed).T.astype(np.int16) * 3 for seed in range(2)], 2)
    image = nib.Nifti1Image(volume, affine)
    image.header.set_slope_inter(0.5, -10)
    plain = bytearray(image.to_bytes())
    # nibabel would choose samples to fit the slope: here they are put in as they are.
    plain[112:120] = np.array([0.5, -10], "<f4").tobytes()
    plain[352:] = volume.tobytes(order="F")
    return gzip.compress(bytes(plain), mtime=0)


def four_dimensions() -> bytes:
    """float32 NIfTI of shape (7, 5, 3, 2)."""
    values = np.random.default_rng(1).normal(0, 100, (7, 5, 3, 2)).astype(np.float32)
    data: bytes = nib.Nifti1Image(values, np.diag([-1.0, -1, 2, 1])).to_bytes()
    return data


def nifti_2() -> bytes:
    """float64 NIfTI-2 of shape (12, 10, 3), whose samples float32 cannot hold."""
    values = np.random.default_rng(2).normal(0, 100, (12, 10, 3))
    data: bytes = nib.Nifti2Image(values, np.diag([-1.0, -1, 2, 1])).to_bytes()
    return data


def pydicom_file(name: str) -> bytes:
    path = pydicom.data.get_testdata_file(name, download=False)
    assert isinstance(path, str)
    return Path(path).read_bytes()


def raster(form: str, channels: int) -> bytes:
    out = io.BytesIO()
    planes = np.stack([samples.smooth(48, 40, seed) for seed in range(channels)], 2)
    Image.fromarray(planes[..., 0] if channels == 1 else planes).save(out, form)
    return out.getvalue()


def tiff(mode: str, pages: int = 1, **options: Any) -> bytes:
    pytest.importorskip("imagecodecs", reason="the extra tiff is not installed")
    out = io.BytesIO()
    colors = np.stack([samples.smooth(48, 40, seed) for seed in range(3)], 2)
    made = colors if mode == "RGB" else colors[..., 0].astype(mode) * 5
    first, *others = [Image.fromarray(made)] * pages
    first.save(out, "TIFF", save_all=True, append_images=others, **options)
    return out.getvalue()


def volume(kind: str, dtype: str, packed: bool = False) -> bytes:
    if kind == "nrrd":
        pytest.importorskip("nrrd", reason="the extra interop is not installed")
    array = np.stack([samples.smooth(seed=seed) for seed in range(3)])[..., None].astype(dtype)
    data: bytes = volumes.WRITERS[kind](array, packed=packed)
    return data


def compressed_dicom(name: str, decoder: str) -> bytes:
    pytest.importorskip(decoder, reason="the extra dicom is not installed")
    return pydicom_file(name)


FILES: dict[str, Any] = {
    "ct.dcm": lambda: pydicom_file("CT_small.dcm"),
    "mr.dcm": lambda: pydicom_file("MR_small.dcm"),
    "us.dcm": lambda: pydicom_file("examples_rgb_color.dcm"),
    "rle.dcm": lambda: pydicom_file("MR_small_RLE.dcm"),
    "jpeg.dcm": lambda: pydicom_file("SC_rgb_dcmtk_+eb+cy+np.dcm"),
    "deflated.dcm": lambda: pydicom_file("image_dfl.dcm"),
    "palette.dcm": lambda: pydicom_file("examples_palette.dcm"),
    "j2k.dcm": lambda: compressed_dicom("MR_small_jp2klossless.dcm", "openjpeg"),
    "jls.dcm": lambda: compressed_dicom("MR_small_jpeg_ls_lossless.dcm", "jpeg_ls"),
    "volume.nii": samples.nifti,
    "scaled.nii.gz": scaled_nifti,
    "functional.nii": four_dimensions,
    "second.nii": nifti_2,
    "gray.png": lambda: raster("PNG", 1),
    "color.png": lambda: raster("PNG", 3),
    "gray.jpg": lambda: raster("JPEG", 1),
    "color.jpg": lambda: raster("JPEG", 3),
    "gray.tif": lambda: tiff("uint8"),
    "gray16.tif": lambda: tiff("uint16", compression="tiff_lzw"),
    "float.tif": lambda: tiff("float32"),
    "color.tif": lambda: tiff("RGB", compression="tiff_deflate"),
    "short.nrrd": lambda: volume("nrrd", "int16"),
    "packed.nrrd": lambda: volume("nrrd", "float32", packed=True),
    "short.mgh": lambda: volume("mgh", "int16"),
    "float.mgz": lambda: volume("mgh", "float32", packed=True),
}


def put(folder: Path, name: str, keys: Path, **more: Any) -> tuple[Path, Path]:
    """Write an original, protect it for Alice; both paths."""
    original = folder / "original" / name
    original.parent.mkdir(parents=True, exist_ok=True)
    original.write_bytes(FILES[name]())
    recipients = [load_recipient(keys / "alice.pub")]
    target = folder / "protected"
    return original, protect_file(original, target, recipients, NoiseMarker(), ProtectOptions(BLUNT), **more)


def reference(path: Path | list[Path] | list[str], suffix: str, **options: Any) -> MetaTensor:
    """What LoadImage gives with MONAI's reader and no other, so that no fallback goes unseen."""
    load = LoadImage(**options)
    load.readers = [READERS.get(suffix, PILReader)()]
    load.auto_select = False
    image: MetaTensor = load(path)
    return image


def assert_same(found: MetaTensor, expected: MetaTensor) -> None:
    """Equal in type, values, affine and all meta data but the file name."""
    assert found.dtype == expected.dtype and found.shape == expected.shape
    np.testing.assert_array_equal(found.as_tensor().numpy(), expected.as_tensor().numpy())
    assert torch.equal(found.affine, expected.affine)
    a, b = ({k: v for k, v in image.meta.items() if k != "filename_or_obj"} for image in (found, expected))
    assert list(map(str, a)) == list(map(str, b))
    for key in a:
        assert type(a[key]) is type(b[key]), key
        np.testing.assert_equal(np.asarray(a[key]), np.asarray(b[key]), err_msg=str(key))


class TestReader:
    @pytest.mark.parametrize("name", FILES)
    def test_as_the_original(self, name: str, keys: Path, tmp_path: Path) -> None:
        original, protected = put(tmp_path, name, keys)
        choices: list[dict[str, Any]] = [{}, {"dtype": None}, {"dtype": None, "ensure_channel_first": True}]
        if "mg" in original.suffix:  # MONAI makes no tensor of big-endian samples in their own type
            choices = [{}, {"ensure_channel_first": True}]
        for options in choices:
            expected = reference(original, original.suffix, **options)
            # Only our reader: where it fails, so does the test.
            load = LoadImage(reader=MIADMarkReader(keys / "alice.key"), **options)
            load.readers = load.readers[-1:]
            found = load(protected)
            assert_same(found, expected)
            assert found.meta["filename_or_obj"] == str(protected)
            marked = reference(protected, protected.suffix, **options)
            assert not np.array_equal(marked.numpy(), expected.numpy(), equal_nan=True)

    def test_no_plain_text_on_disk(self, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        _, protected = put(tmp_path, "ct.dcm", keys)

        def refuse(path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            assert not set(mode) & set("wax+"), f"{path} is opened for writing"
            return opened(path, mode, *args, **kwargs)

        opened = builtins.open
        monkeypatch.setattr(builtins, "open", refuse)
        monkeypatch.setattr(tempfile, "mkstemp", lambda *a, **k: pytest.fail("a temporary file"))
        monkeypatch.setattr(tempfile, "mkdtemp", lambda *a, **k: pytest.fail("a temporary folder"))
        before = sorted(os.listdir(protected.parent))
        LoadImage(reader=MIADMarkReader(keys / "alice.key"))(protected)
        assert sorted(os.listdir(protected.parent)) == before

    def test_by_name_and_in_dictionaries(self, keys: Path, tmp_path: Path) -> None:
        original, protected = put(tmp_path, "mr.dcm", keys)
        expected = reference(original, ".dcm")
        named = LoadImage(reader="monai_miadmark.transforms.MIADMarkReader", identities=str(keys / "alice.key"))
        assert_same(named(protected), expected)
        mapped = LoadImaged("image", reader=MIADMarkReader(str(keys / "alice.key")))
        assert_same(mapped({"image": protected})["image"], expected)

    def test_sidecar(self, keys: Path, tmp_path: Path) -> None:
        original, protected = put(tmp_path, "gray.png", keys, sidecar=True)
        load = LoadImage(reader=MIADMarkReader(keys / "alice.key"))
        assert_same(load(protected), reference(original, ".png"))
        sidecar_path(protected).unlink()
        with pytest.raises(NotProtectedError, match="sidecar"):
            load(protected)

    def test_channel_stacking(self, keys: Path, tmp_path: Path) -> None:
        for name in ("gray.png", "volume.nii", "mr.dcm"):
            original, protected = put(tmp_path / name, name, keys)
            load = LoadImage(reader=MIADMarkReader(keys / "alice.key"))
            assert_same(load([protected, protected]), reference([original, original], original.suffix))
        _, other = put(tmp_path, "gray.png", keys)
        with pytest.raises(ValueError, match="different formats"):
            load([protected, other])

    def test_dicom_series(self, keys: Path, tmp_path: Path) -> None:
        source = Path(str(pydicom.__file__)).parent / "data/test_files/dicomdirtests/98892003/MR2"
        originals = tmp_path / "series"
        originals.mkdir()
        recipients = [load_recipient(keys / "alice.pub")]
        for number, path in enumerate(sorted(source.iterdir())[:3]):
            dataset = pydicom.dcmread(path)
            dataset.InstanceNumber = 3 - number  # MONAI leaves slices of one number in the order of the file system
            dataset.save_as(originals / path.name)
            protect_file(originals / path.name, tmp_path / "out", recipients, NoiseMarker(), ProtectOptions(BLUNT))
        found = LoadImage(reader=MIADMarkReader(keys / "alice.key"))(tmp_path / "out")
        assert found.ndim == 3 and found.shape[2] == 3
        assert_same(found, reference(originals, ".dcm"))

    def test_options_of_monai_readers(self, keys: Path, tmp_path: Path) -> None:
        original, protected = put(tmp_path, "us.dcm", keys)
        inner = PydicomReader(swap_ij=False, prune_metadata=False)
        load = LoadImage(reader=inner)
        load.readers = load.readers[-1:]
        expected = load(original)
        assert_same(LoadImage(reader=MIADMarkReader(keys / "alice.key", reader=inner))(protected), expected)
        original, protected = put(tmp_path, "gray.png", keys)
        with pytest.raises(ValueError, match="PydicomReader was given"):
            LoadImage(reader=MIADMarkReader(keys / "alice.key", reader=inner))(protected)
        to_rgb = PILReader(converter=lambda picture: picture.convert("RGB"), reverse_indexing=False)
        found = LoadImage(reader=MIADMarkReader(keys / "alice.key", reader=to_rgb))(protected)
        assert_same(found, LoadImage(reader=to_rgb)(original))

    def test_wrong_reader(self, keys: Path) -> None:
        class OnGpu(NibabelReader):
            to_gpu = True

            def __init__(self) -> None:
                pass

        with pytest.raises(ValueError, match="to_gpu"):
            MIADMarkReader(keys / "alice.key", reader=OnGpu())
        with pytest.raises(ValueError, match=r"must be one of PydicomReader, .* not a ITKReader"):
            MIADMarkReader(keys / "alice.key", reader=object.__new__(ITKReader))

    def test_pickles_the_path_only(self, keys: Path, tmp_path: Path) -> None:
        original, protected = put(tmp_path, "gray.png", keys)
        reader = MIADMarkReader(keys / "alice.key")
        LoadImage(reader=reader)(protected)
        again = pickle.loads(pickle.dumps(reader))
        assert again.identities._loaded is None
        assert_same(LoadImage(reader=again)(protected), reference(original, ".png"))


class TestMetaData:
    """The quick way to PydicomReader's meta data."""

    def test_all_files_of_pydicom(self) -> None:
        root = Path(pydicom.data.__file__).parent / "test_files"
        compared = 0
        for path in sorted(root.glob("*.dcm")):
            reader = PydicomReader()
            try:
                expected = reader._get_meta_dict(reader.read(str(path)))
            except Exception:  # damaged on purpose
                continue
            again = image_in_memory("dicom", path.read_bytes(), path.name, reader, {})
            found = reader._get_meta_dict(again)
            assert list(found) == list(expected) and repr(found) == repr(expected), path.name
            compared += 1
        assert compared > 50

    def test_json_for_others_is_whole(self) -> None:
        path = Path(pydicom.data.get_testdata_file("CT_small.dcm", download=False))
        again = image_in_memory("dicom", path.read_bytes(), path.name, PydicomReader(), {})
        assert again.to_json_dict() == pydicom.dcmread(path).to_json_dict()

    def test_readers_that_look_at_more(self) -> None:
        class Own(PydicomReader):
            def _get_meta_dict(self, img: Any) -> dict[str, Any]:
                return dict(img.to_json_dict(suppress_invalid_tags=True))

        path = Path(pydicom.data.get_testdata_file("CT_small.dcm", download=False))
        again = image_in_memory("dicom", path.read_bytes(), path.name, Own(), {})
        assert type(again) is pydicom.FileDataset and "7FE00010" in Own()._get_meta_dict(again)


class TestNothingFallsBack:
    """LoadImage goes on to its other readers where one raises: they would give the protected pixels."""

    @pytest.mark.parametrize("name", ["ct.dcm", "volume.nii", "scaled.nii.gz", "color.png", "gray.jpg"])
    def test_wrong_key(self, name: str, keys: Path, tmp_path: Path) -> None:
        _, protected = put(tmp_path, name, keys)
        for strict in (True, False):
            load = LoadImage(reader=MIADMarkReader(keys / "bob.key", strict=strict))
            assert len(load.readers) > 3
            with pytest.raises(WrongKeyError):
                load(protected)
        with pytest.raises(RuntimeError) as caught:
            Compose([load])(protected)
        assert isinstance(caught.value.__cause__, WrongKeyError)

    def test_missing_key_file(self, keys: Path, tmp_path: Path) -> None:
        _, protected = put(tmp_path, "volume.nii", keys)
        with pytest.raises(FileNotFoundError):
            LoadImage(reader=MIADMarkReader(tmp_path / "none.key"))(protected)
        with pytest.raises(ValueError, match="private key"):
            LoadImage(reader=MIADMarkReader(keys / "alice.pub"))(protected)

    @pytest.mark.parametrize("strict", [True, False])
    def test_tampered_files(self, strict: bool, keys: Path, tmp_path: Path) -> None:
        _, protected = put(tmp_path, "volume.nii", keys)
        data = protected.read_bytes()
        load = LoadImage(reader=MIADMarkReader(keys / "alice.key", strict=strict))
        for damaged in (
            data[:-1] + bytes([data[-1] ^ 1]),
            data[:-10],
            data[:500] + bytes([data[500] ^ 1]) + data[501:],
        ):
            protected.write_bytes(damaged)
            with pytest.raises(TamperedError):
                load(protected)

    def test_demanded_signature(self, keys: Path, tmp_path: Path) -> None:
        original, signed = put(tmp_path / "a", "gray.png", keys, signer=load_signer(keys / "custodian.key"))
        _, unsigned = put(tmp_path / "b", "gray.png", keys)
        load = LoadImage(reader=MIADMarkReader(keys / "alice.key", require_signer=keys / "custodian.pub"))
        assert_same(load(signed), reference(original, ".png"))
        with pytest.raises(SignatureError):
            load(unsigned)

    @pytest.mark.parametrize("name", FILES)
    def test_unprotected_files(self, name: str, keys: Path, tmp_path: Path) -> None:
        original = tmp_path / name
        original.write_bytes(FILES[name]())
        with pytest.raises((NotProtectedError, UnsupportedImageError)):
            LoadImage(reader=MIADMarkReader(keys / "alice.key"))(original)
        lenient = LoadImage(reader=MIADMarkReader(keys / "alice.key", strict=False))
        assert_same(lenient(original), reference(original, original.suffix))

    def test_other_formats(self, keys: Path, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", np.arange(6.0).reshape(2, 3))
        with pytest.raises(UnsupportedImageError):
            LoadImage(reader=MIADMarkReader(keys / "alice.key"))(tmp_path / "a.npy")
        lenient = LoadImage(reader=MIADMarkReader(keys / "alice.key", strict=False))
        assert lenient(tmp_path / "a.npy").shape == (2, 3)
        # MetaImage is protected and restored, but not while it is loaded: what is not protected goes to other readers.
        source = tmp_path / "a.mha"
        source.write_bytes(volume("metaimage", "int16"))
        recipients = [load_recipient(keys / "alice.pub")]
        protected = protect_file(source, tmp_path / "out", recipients, NoiseMarker(), ProtectOptions(BLUNT))
        for path in (source, protected):
            with pytest.raises(UnsupportedImageError, match="remove_file"):
                LoadImage(reader=MIADMarkReader(keys / "alice.key"))(path)
        with pytest.raises(UnsupportedImageError, match="remove_file"):
            lenient(protected)
        reader = MIADMarkReader(keys / "alice.key", strict=False)
        with pytest.raises(UnsupportedImageError, match="ever protected"):
            reader.read(source)

    def test_stacks_of_pages(self, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(FILES, "stack.tif", lambda: tiff("uint8", pages=3))
        original, protected = put(tmp_path, "stack.tif", keys)
        for strict in (True, False):
            with pytest.raises(UnsupportedImageError, match="stack of 3 pages"):
                LoadImage(reader=MIADMarkReader(keys / "alice.key", strict=strict))(protected)
        given = MIADMarkReader(keys / "alice.key", reader=PILReader())
        assert_same(LoadImage(reader=given)(protected), reference(original, ".tif"))

    def test_what_monai_cannot_read(self, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        tifffile = pytest.importorskip("tifffile", reason="the extra tiff is not installed")
        out = io.BytesIO()
        tifffile.imwrite(out, np.arange(216, dtype=np.int32).reshape(8, 9, 3), photometric="rgb")
        monkeypatch.setitem(FILES, "wide.tif", out.getvalue)
        original, protected = put(tmp_path, "wide.tif", keys)
        with pytest.raises(Image.UnidentifiedImageError):
            Image.open(original)
        with pytest.raises(UnsupportedImageError, match="PILReader cannot read"):
            LoadImage(reader=MIADMarkReader(keys / "alice.key"))(protected)

    def test_records_of_arrays_in_formats_that_hold_files(self, keys: Path, tmp_path: Path) -> None:
        data = volume("mgh", "int16")
        carrier = carrier_for(data, "a.mgh")
        opened = carrier.open_source(data, "a.mgh")
        recipients = [load_recipient(keys / "alice.pub")]
        values, envelope = protect_image(opened.image, recipients, NoiseMarker(), ProtectOptions(BLUNT))
        path = tmp_path / "a.mgh"
        path.write_bytes(carrier.carry(data, opened, values, envelope))
        with pytest.raises(TamperedError, match="the record of an array"):
            LoadImage(reader=MIADMarkReader(keys / "alice.key"))(path)

    @pytest.mark.parametrize("line", ["data file:={}", "Data File:={}", "ENCODING:=gzip", "data file: {}"])
    def test_nrrd_reads_no_other_file(self, line: str, tmp_path: Path) -> None:
        pytest.importorskip("nrrd", reason="the extra interop is not installed")
        values = np.arange(60, dtype=np.uint8).reshape(3, 4, 5, 1)
        (tmp_path / "secret").write_bytes(bytes(range(100, 160)))
        data = volumes.nrrd(values, extra=line.format(tmp_path / "secret"))
        with pytest.raises(UnsupportedImageError):
            image_in_memory("nrrd", data, "a.nrrd", NrrdReader(), {})
        plain = image_in_memory("nrrd", volumes.nrrd(values), "a.nrrd", NrrdReader(), {})
        np.testing.assert_array_equal(plain.array, values[..., 0].T)


def protect(array: NDArray[Any] | MetaTensor, keys: Path, **options: Any) -> MetaTensor:
    return ProtectWithMIADMark(keys / "alice.pub", ProtectOptions(BLUNT), marker=NoiseMarker(), **options)(array)


def save(image: Any, path: Path, **options: Any) -> Path:
    """SaveImage with our writer; the written file."""
    extension = "".join(path.suffixes)
    SaveImage(writer=MIADMarkWriter, output_ext=extension, print_log=False, **options)(
        image, filename=str(path).removesuffix(extension)
    )
    return path


def array_of(dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    noise = np.random.default_rng(3).integers(20, 100, shape)
    return (noise / 7).astype(np.float32) if dtype == "float32" else noise.astype(dtype)


class TestWriter:
    @pytest.mark.parametrize(
        ("dtype", "shape", "name"),
        [
            ("uint8", (1, 30, 22), "a.png"),
            ("uint8", (3, 30, 22), "a.png"),
            ("uint8", (1, 30, 22), "a.nii"),
            ("int16", (1, 30, 22, 3), "a.nii.gz"),
            ("int16", (1, 30, 22, 1), "a.nii"),
            ("int32", (1, 30, 22, 3), "a.nii"),
            ("float32", (1, 30, 22, 3), "a.nii.gz"),
            ("float32", (1, 30, 22), "a.nii"),
        ],
    )
    def test_the_record_is_kept(
        self, dtype: str, shape: tuple[int, ...], name: str, keys: Path, tmp_path: Path
    ) -> None:
        original = array_of(dtype, shape)
        protected = protect(original, keys)
        path = save(protected, tmp_path / name)
        assert inspect_file(path).recipients == verify_file(path).recipients
        kept = LoadImage(reader=MIADMarkReader(), dtype=None, ensure_channel_first=True)(path)
        np.testing.assert_array_equal(kept.numpy(), protected.numpy())
        assert record_in(kept.meta) == protected.meta[RECORD_KEY] and kept.meta[LAYOUT_KEY] == "xy"
        restored = RemoveMIADMark(keys / "alice.key")(kept)
        assert restored.dtype == torch.from_numpy(original).dtype
        np.testing.assert_array_equal(restored.numpy(), original)
        at_once = LoadImage(reader=MIADMarkReader(keys / "alice.key"), dtype=None, ensure_channel_first=True)(path)
        np.testing.assert_array_equal(at_once.numpy(), original)
        # A reader that knows nothing of all this sees the protected samples, not rescaled.
        plain = reference(path, path.suffix, dtype=None, ensure_channel_first=True)
        np.testing.assert_array_equal(plain.numpy(), protected.numpy())
        with pytest.raises(WrongKeyError):
            LoadImage(reader=MIADMarkReader(keys / "bob.key"))(path)

    @pytest.mark.parametrize("name", ["volume.nii", "scaled.nii.gz", "ct.dcm", "mr.dcm"])
    def test_orientation_is_kept(self, name: str, keys: Path, tmp_path: Path) -> None:
        original, _ = put(tmp_path, name, keys)
        load = LoadImage(reader=READERS[original.suffix], ensure_channel_first=True)
        image = load(original)
        path = save(protect(image, keys), tmp_path / "saved.nii.gz")
        assert verify_file(path).protected_pixels
        restored = LoadImage(reader=MIADMarkReader(keys / "alice.key"), ensure_channel_first=True)(path)
        np.testing.assert_array_equal(restored.numpy().reshape(image.shape), image.numpy())
        np.testing.assert_allclose(restored.affine, image.affine, rtol=1e-6, atol=1e-5)
        kept = LoadImage(reader=MIADMarkReader(), ensure_channel_first=True)(path)
        again = RemoveMIADMark(keys / "alice.key")(kept)
        np.testing.assert_array_equal(again.numpy().reshape(image.shape), image.numpy())

    @pytest.mark.parametrize("name", ["short.mgh", "gray.tif", "short.nrrd", "float.mgz"])
    def test_records_of_files(self, name: str, keys: Path, tmp_path: Path) -> None:
        original, protected = put(tmp_path, name, keys)
        options = {"dtype": {"short.mgh": np.int16, "float.mgz": np.float32}.get(name), "ensure_channel_first": True}
        load = LoadImage(reader=MIADMarkReader(), **options)
        if name == "short.nrrd":  # NrrdReader turns all samples into floats
            with pytest.raises(UnsupportedImageError, match="give identities"):
                load(protected)
            return
        kept = load(protected)
        if name == "float.mgz":
            with pytest.raises(ValueError, match="carries the source file"):
                RemoveMIADMark(keys / "alice.key")(kept)
            return
        restored = RemoveMIADMark(keys / "alice.key")(kept)
        expected = reference(original, original.suffix, **options)
        np.testing.assert_array_equal(restored.numpy(), expected.numpy())

    @pytest.mark.parametrize("name", ["gray16.tif", "short.nrrd", "short.mgh", "rle.dcm"])
    def test_arrays_out_of_any_file(self, name: str, keys: Path, tmp_path: Path) -> None:
        path = tmp_path / name
        path.write_bytes(FILES[name]())
        image = reference(path, path.suffix, ensure_channel_first=True)
        protect_and_save = save(protect(image, keys), tmp_path / "saved.nii.gz")
        restored = LoadImage(reader=MIADMarkReader(keys / "alice.key"), ensure_channel_first=True)(protect_and_save)
        np.testing.assert_array_equal(restored.numpy().reshape(image.shape), image.numpy())

    def test_floats_bit_by_bit(self, keys: Path, tmp_path: Path) -> None:
        original = array_of("float32", (1, 30, 22, 2))
        original[0, 0, :4, 0] = np.nan, -np.inf, -0.0, 1e-42
        path = save(protect(original, keys), tmp_path / "a.nii")
        found = LoadImage(reader=MIADMarkReader(keys / "alice.key"))(path).numpy()
        np.testing.assert_array_equal(np.ascontiguousarray(found).view("u4"), original[0].view("u4"))

    @pytest.mark.parametrize("dtype", ["uint16", "uint32", "int8"])
    def test_types_that_monai_widens(self, dtype: str, keys: Path, tmp_path: Path) -> None:
        original = array_of(dtype, (1, 30, 22))
        path = save(protect(original, keys), tmp_path / "a.nii")
        found = LoadImage(reader=MIADMarkReader(keys / "alice.key"), dtype=None)(path)
        np.testing.assert_array_equal(found.numpy(), original[0])

    def test_in_dictionaries_with_folders(self, keys: Path, tmp_path: Path) -> None:
        original, _ = put(tmp_path, "volume.nii", keys)
        pipeline = Compose(
            [
                LoadImaged("image", ensure_channel_first=True, dtype=None),
                ProtectWithMIADMarkd("image", keys / "alice.pub", marker=NoiseMarker()),
                SaveImaged(
                    "image",
                    writer=MIADMarkWriter,
                    output_dir=tmp_path / "out",
                    output_postfix="shared",
                    separate_folder=False,
                    print_log=False,
                ),
            ]
        )
        pipeline({"image": original})
        pipeline({"image": original})  # as MONAI's writers, it replaces what was there
        found = LoadImage(reader=MIADMarkReader(keys / "alice.key"), dtype=None)(tmp_path / "out/volume_shared.nii.gz")
        np.testing.assert_array_equal(found.numpy(), reference(original, ".nii", dtype=None).numpy())

    def test_rows_first(self, keys: Path, tmp_path: Path) -> None:
        original = array_of("uint8", (3, 30, 22))
        path = save(protect(original, keys, axes="ij"), tmp_path / "a.png")
        as_shown = PILReader(reverse_indexing=False)
        kept = LoadImage(reader=MIADMarkReader(reader=as_shown), dtype=None, ensure_channel_first=True)(path)
        np.testing.assert_array_equal(RemoveMIADMark(keys / "alice.key")(kept).numpy(), original)
        with pytest.raises(RuntimeError, match="x as their first spatial axis"):
            save(protect(original[:1], keys, axes="ij"), tmp_path / "a.nii")

    def test_what_cannot_be_kept_is_refused(self, keys: Path, tmp_path: Path) -> None:
        gray = protect(array_of("uint8", (1, 30, 22)), keys)
        refusals: list[tuple[Any, str, dict[str, Any], str]] = [
            (gray + 1, "a.png", {}, "TamperedError"),
            (gray.float(), "a.nii", {}, "TamperedError"),
            (Flip(0)(gray), "a.png", {}, "TamperedError"),
            (gray[0], "a.png", {"channel_dim": None}, "TamperedError"),
            (gray.as_tensor(), "a.png", {}, "NotProtectedError"),
            (gray, "a.png", {"scale": 255}, "ValueError: scaling"),
            (gray, "a.nii", {"resample": True}, "ValueError: resampling"),
            (gray, "a.png", {"channel_dim": -1}, "ValueError: protected arrays are channel-first"),
            (gray, "a.jpg", {}, "written as .nii, .nii.gz or .png"),
            (protect(array_of("int16", (1, 30, 22)), keys), "a.png", {}, "write NIfTI"),
            (protect(array_of("uint8", (1, 30, 22, 2)), keys), "a.png", {}, "write NIfTI"),
            (protect(array_of("uint8", (2, 30, 22)), keys), "a.png", {}, "write NIfTI"),
            (protect(array_of("int16", (2, 30, 22)), keys), "a.nii", {}, "one channel"),
        ]
        own = MetaTensor(
            torch.from_numpy(array_of("uint8", (1, 30, 22))), affine=torch.diag(torch.tensor([2.0, 2, 2, 1]))
        )
        refusals.append((protect(own, keys), "a.nii", {}, "not one that a reader found"))
        for image, name, options, message in refusals:
            with pytest.raises(RuntimeError, match=message):
                save(image, tmp_path / name, **options)
            assert list(tmp_path.iterdir()) == []

    def test_png_does_not_lose_an_orientation(self, keys: Path, tmp_path: Path) -> None:
        affine = np.diag([1.0, 1, 1, 1])
        (tmp_path / "a.nii").write_bytes(nib.Nifti1Image(array_of("uint8", (30, 22)), affine).to_bytes())
        image = LoadImage(ensure_channel_first=True, dtype=None)(tmp_path / "a.nii")
        with pytest.raises(RuntimeError, match="orientation"):
            save(protect(image, keys), tmp_path / "out.png")

    def test_the_source_is_never_replaced(self, keys: Path, tmp_path: Path) -> None:
        original, _ = put(tmp_path, "volume.nii", keys)
        before = original.read_bytes()
        image = LoadImage(ensure_channel_first=True)(original)
        with pytest.raises(RuntimeError, match="loaded from"):
            save(protect(image, keys), original)
        assert original.read_bytes() == before
        path = save(protect(image, keys), tmp_path / "b.nii")
        keep = SaveImage(writer=MIADMarkWriter, output_ext=".nii").set_options(write_kwargs={"overwrite": False})
        with pytest.raises(RuntimeError, match="FileExistsError"):
            keep(protect(image, keys), filename=str(path.with_suffix("")))

    def test_records_of_several_files_are_not_mixed(self, keys: Path, tmp_path: Path) -> None:
        path = save(protect(array_of("uint8", (1, 30, 22)), keys), tmp_path / "a.png")
        with pytest.raises(ValueError, match="one file at a time"):
            LoadImage(reader=MIADMarkReader())([path, path])

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""NIfTI carrier: types, byte orders, scaling, extensions, orientation, damaged input."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from monai_miadmark.errors import MIADMarkError, NotProtectedError, TamperedError, UnsupportedImageError
from monai_miadmark.formats import carrier_for
from monai_miadmark.formats.nifti import EXTENSION_CODE, NiftiCarrier, read_label

CARRIER = NiftiCarrier()
ENVELOPE = b"MIADMARK" + bytes(range(256)) + b"\0\0"
DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32")


def samples(dtype: str, shape: tuple[int, ...], seed: int = 3) -> NDArray[Any]:
    """Any bit pattern, NaNs with payload among them."""
    kind = np.dtype(dtype)
    raw = np.random.default_rng(seed).bytes(int(np.prod(shape)) * kind.itemsize)
    return np.frombuffer(raw, dtype=kind).reshape(shape)


def made(
    data: NDArray[Any],
    endian: str = "<",
    slope: float | None = None,
    intercept: float | None = None,
    affine: NDArray[Any] | None = None,
    extensions: tuple[tuple[int, bytes], ...] = (),
    version: int = 1,
    **fields: Any,
) -> bytes:
    """A .nii file by nibabel."""
    kind = {1: nib.Nifti1Image, 2: nib.Nifti2Image}[version]
    header = kind.header_class(endianness=endian)
    header.set_data_dtype(data.dtype.newbyteorder(endian))
    image = kind(data, affine, header, dtype=data.dtype)
    for key, value in fields.items():
        image.header[key] = value
    for code, content in extensions:
        image.header.extensions.append(nib.nifti1.Nifti1Extension(code, content))
    if slope is not None:
        image.header.set_slope_inter(slope, intercept)
    written: bytes = image.to_bytes()
    return written


def check(data: bytes, opened: Any, values: NDArray[Any], envelope: bytes | None) -> bytes:
    """Carry, open again, compare; returns the protected file."""
    protected: bytes = CARRIER.carry(data, opened, values, envelope)
    again = CARRIER.open_protected(protected)
    assert again.envelope == envelope and again.marked
    assert again.values.tobytes() == values.tobytes() and again.values.dtype == values.dtype
    assert again.values.shape == opened.image.values.shape
    with pytest.raises(UnsupportedImageError, match="protected already"):
        CARRIER.open_source(protected, "a.nii")
    return protected


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "version"), [((5, 4), 1), ((5, 4, 3), 2), ((3, 4, 2, 5), 1), ((1, 1, 1), 2)])
def test_round_trip(dtype: str, endian: str, shape: tuple[int, ...], version: int, compressed: bool) -> None:
    values = samples(dtype, shape)
    data = made(values, endian, slope=None if dtype == "float32" else 0.5, intercept=10, version=version)
    source = gzip.compress(data) if compressed else data
    carrier = carrier_for(source, "x.nii")
    assert carrier.name == "nifti"
    opened = carrier.open_source(source, "dir/x.nii.gz")
    image = opened.image
    # Slices along the last axes, the fastest axis in the file becomes the columns.
    expected = values.reshape(shape[0], shape[1], -1, order="F").transpose(2, 1, 0)[..., None]
    assert image.values.tobytes() == expected.tobytes() and image.values.shape == expected.shape
    assert opened.shell.name == "x.nii.gz"
    protected = check(source, opened, np.ascontiguousarray(image.values[::-1]), ENVELOPE)
    check(source, opened, image.values, None)
    rebuilt = carrier.rebuild(opened.shell, image.values)
    assert (gzip.decompress(rebuilt) if compressed else rebuilt) == data
    assert carrier.file_digest(rebuilt) == carrier.file_digest(source)
    assert protected.startswith(b"\x1f\x8b") == compressed
    assert carrier.carry(source, opened, image.values, None) == carrier.carry(source, opened, image.values, None)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("endian", ["<", ">"])
def test_nibabel_reads_what_was_written(endian: str, version: int) -> None:
    kind = {1: nib.Nifti1Image, 2: nib.Nifti2Image}[version]
    values = np.arange(60, dtype=np.int16).reshape(5, 4, 3)
    data = made(values, endian, 0.25, -3, extensions=((6, b"comment"), (4, b"<afni/>")), version=version)
    opened = CARRIER.open_source(data, "a.nii")
    protected = check(data, opened, opened.image.values + np.int16(1), ENVELOPE)
    image = kind.from_bytes(protected)
    assert np.array_equal(image.dataobj.get_unscaled(), values + 1)
    assert (image.dataobj.slope, image.dataobj.inter) == (0.25, -3)
    assert [ext.get_code() for ext in image.header.extensions] == [6, 4, EXTENSION_CODE]
    assert int(image.header["vox_offset"]) % 16 == 0
    # nibabel cuts trailing zeros off and pads anew: the record survives its load and save.
    image.header.set_slope_inter(0.25, -3)
    copied = kind(image.dataobj.get_unscaled(), None, image.header).to_bytes()
    assert CARRIER.open_protected(copied).envelope == ENVELOPE
    assert CARRIER.rebuild(opened.shell, opened.image.values) == data


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", [*DTYPES, "float64", "RGB24"])
def test_simpleitk_reads_what_was_written(dtype: str, compressed: bool, tmp_path: Path) -> None:
    itk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")
    colors = dtype == "RGB24"
    values = np.random.default_rng(1).integers(0, 100, (5, 4, 3, 3)[: 4 if colors else 3])
    values = values.astype("uint8" if colors else dtype)
    stored = values.view(np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))[..., 0] if colors else values
    data = made(stored, affine=np.eye(4))
    data = gzip.compress(data) if compressed else data
    opened = CARRIER.open_source(data, "a")
    path = tmp_path / ("a.nii.gz" if compressed else "b.nii")
    path.write_bytes(CARRIER.carry(data, opened, opened.image.values + opened.image.values.dtype.type(7), ENVELOPE))
    read = itk.GetArrayFromImage(itk.ReadImage(str(path)))
    assert np.array_equal(read, np.moveaxis(values, (2, 1, 0), (0, 1, 2)) + 7) and read.dtype == values.dtype


def test_padding_before_and_bytes_after_the_samples() -> None:
    data = made(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
    wide = bytearray(data[:352] + b"junk" * 40 + data[352:] + b"trailer")
    struct.pack_into("<f", wide, 108, 352 + 160)
    opened = CARRIER.open_source(bytes(wide), "a.nii")
    protected = check(bytes(wide), opened, opened.image.values, ENVELOPE)
    assert protected.endswith(b"trailer")
    assert np.array_equal(nib.Nifti1Image.from_bytes(protected).dataobj.get_unscaled().ravel(), np.arange(24))
    assert CARRIER.rebuild(opened.shell, opened.image.values) == bytes(wide)
    # Zeros instead of an extension, though byte 348 promises one.
    wide[348], wide[352:512] = 1, bytes(160)
    opened = CARRIER.open_source(bytes(wide), "a.nii")
    check(bytes(wide), opened, opened.image.values, ENVELOPE)


def test_replaced_envelope() -> None:
    data = made(np.arange(24, dtype=np.int16).reshape(2, 3, 4), extensions=((6, b"comment"),))
    for source in (data, gzip.compress(data)):
        opened = CARRIER.open_source(source, "a.nii")
        protected = CARRIER.carry(source, opened, opened.image.values, ENVELOPE)
        changed = CARRIER.replace_envelope(protected, b"x" * 5000)
        assert CARRIER.open_protected(changed).envelope == b"x" * 5000
        assert CARRIER.replace_envelope(changed, ENVELOPE) == protected
        for other in (source, CARRIER.carry(source, opened, opened.image.values, None)):
            with pytest.raises(NotProtectedError):
                CARRIER.replace_envelope(other, ENVELOPE)
        assert not CARRIER.open_protected(source).marked


def test_orientation_is_as_displayed() -> None:
    values = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    shown = values.transpose(2, 1, 0)
    for affine, expected in (
        (np.diag([1.0, 1, 1, 1]), shown[:, ::-1, ::-1]),  # R A S: anterior up, the patient's right on the left
        (np.diag([-1.0, 1, 1, 1]), shown[:, ::-1]),
        (np.diag([-1.0, -1, 1, 1]), shown),
        (np.array([[0, 0, 1.0, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]]), shown),  # sagittal, P I R
    ):
        data = made(values, affine=affine)
        opened = CARRIER.open_source(data, "a.nii")
        assert np.array_equal(opened.image.values[..., 0], expected)
        check(data, opened, opened.image.values, ENVELOPE)
        assert CARRIER.rebuild(opened.shell, opened.image.values) == data
        second = CARRIER.open_source(made(values, affine=affine, version=2), "a.nii")
        assert np.array_equal(second.image.values[..., 0], expected)
        # The same from the quaternion alone.
        turned = nib.Nifti1Image(values, None)
        turned.set_qform(affine, 1)
        assert np.array_equal(CARRIER.open_source(turned.to_bytes(), "a").image.values[..., 0], expected)


def test_label_on_the_grid_of_the_image() -> None:
    affine = np.diag([1.0, 1, 1, 1])
    shell = CARRIER.open_source(made(np.zeros((4, 3, 2), np.int16), affine=affine), "a").shell
    label = np.zeros((4, 3, 2), np.uint8)
    label[0, 0, 1] = 2
    mask = read_label(made(label, affine=affine), shell)
    assert mask.shape == (2, 3, 4) and mask.sum() == 1 and mask[1, 2, 3]
    with pytest.raises(UnsupportedImageError, match="orientation"):
        read_label(made(label, affine=np.diag([-1.0, 1, 1, 1])), shell)
    with pytest.raises(UnsupportedImageError, match="the mask is"):
        read_label(made(label[:2], affine=affine), shell)


def test_window_and_bounds() -> None:
    values = np.arange(1000, dtype=np.int16).reshape(10, 10, 10)
    image = CARRIER.open_source(made(values, slope=2, intercept=-100, cal_min=0, cal_max=100), "a").image
    assert (image.window.low, image.window.high, image.window.inverted) == (50, 100, False)
    assert tuple(image.bounds) == (0, 32767)
    image = CARRIER.open_source(made(values - np.int16(1), slope=-1, intercept=0), "a").image
    assert image.window.inverted and 0 < image.window.low < image.window.high < 999
    assert tuple(image.bounds) == (-32768, 32767)
    floats = values.astype(np.float32)
    floats[0, 0, 0], floats[1, 0, 0] = np.nan, np.inf
    image = CARRIER.open_source(made(floats), "a").image
    assert tuple(image.bounds) == (1, 999) and np.isfinite(image.window.width)
    empty = CARRIER.open_source(made(np.full((2, 2, 2), np.nan, np.float32)), "a").image
    assert tuple(empty.bounds) == (0, 0)


def test_nifti_2_says_the_same_as_nifti_1() -> None:
    values = np.arange(1000, dtype=np.int16).reshape(10, 10, 10)
    fields: dict[str, Any] = {"slope": 2, "intercept": -100, "cal_min": 0, "cal_max": 100, "affine": np.eye(4)}
    first, second = (CARRIER.open_source(made(values, version=version, **fields), "a").image for version in (1, 2))
    assert first.window == second.window and first.bounds == second.bounds
    assert np.array_equal(first.values, second.values)
    # Beyond 2**28 bytes of header, where vox_offset of NIfTI-1 has gaps, NIfTI-2 has none.
    data = made(values, version=2)
    opened = CARRIER.open_source(data, "a")
    assert CARRIER.open_protected(CARRIER.carry(data, opened, opened.image.values, b"x" * 1000)).envelope == b"x" * 1000


@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize(("wide", "narrow"), [("int64", "int32"), ("uint64", "uint32"), ("float64", "float32")])
def test_64_bit_samples(wide: str, narrow: str, endian: str) -> None:
    values = samples(narrow, (5, 4, 3))
    if wide == "float64":
        values = np.where(np.abs(values) > 1e-30, values, 0).astype(np.float32)
        values[np.isnan(values)] = np.nan
    data = made(values.astype(wide), endian)
    opened = CARRIER.open_source(data, "a.nii")
    assert opened.image.values.dtype == narrow and "file" not in opened.shell.blobs
    protected = check(data, opened, np.ascontiguousarray(opened.image.values[::-1]), ENVELOPE)
    read = np.asanyarray(nib.Nifti1Image.from_bytes(protected).dataobj)
    assert read.dtype.newbyteorder("=") == wide
    assert np.array_equal(read, values[..., ::-1].astype(wide), equal_nan=True)
    assert CARRIER.rebuild(opened.shell, opened.image.values) == data
    with pytest.raises(TamperedError):
        CARRIER.rebuild(opened.shell, opened.image.values.view(np.int8))


def test_float64_that_float32_cannot_hold() -> None:
    values = np.random.default_rng(5).normal(0, 1, (6, 5, 4))
    values[0, 0, 0], values[1, 0, 0], values[2, 0, 0], values[3, 0, 0] = np.inf, 1e-300, -0.0, np.nan
    values.view(np.uint64)[4, 0, 0] = 0xFFF8000000001234  # NaN with a payload
    for source in (made(values), gzip.compress(made(values), mtime=0)):
        opened = CARRIER.open_source(source, "a.nii")
        kept = opened.image.values
        assert np.array_equal(kept[..., 0], values.transpose(2, 1, 0).astype(np.float32), equal_nan=True)
        moved = kept.copy()
        moved[:, 2] += np.float32(0.5)
        protected = check(source, opened, moved, ENVELOPE)
        plain = gzip.decompress(protected) if source[:2] == b"\x1f\x8b" else protected
        read = np.asanyarray(nib.Nifti1Image.from_bytes(plain).dataobj).transpose(2, 1, 0)
        # What the mark does not move has the bits that it had, beyond what float32 holds.
        still = np.delete(np.arange(5), 2)
        assert read[:, still].tobytes() == values.transpose(2, 1, 0)[:, still].tobytes()
        assert np.array_equal(read[:, 2], moved[:, 2, :, 0].astype(np.float64))
        assert CARRIER.rebuild(opened.shell, None) == (
            source if source is plain else CARRIER.rebuild(opened.shell, kept)
        )
        assert CARRIER.file_digest(CARRIER.rebuild(opened.shell, None)) == CARRIER.file_digest(source)


@pytest.mark.parametrize(
    ("value", "dtype"), [(2**31, "int64"), (-(2**31) - 1, "int64"), (2**32, "uint64"), (1e300, "float64")]
)
def test_64_bit_samples_beyond_32_bits_are_refused(value: float, dtype: str) -> None:
    values = np.zeros((3, 3, 3), dtype)
    values[1, 1, 1] = value
    with pytest.raises(UnsupportedImageError, match=f"{dtype} samples beyond"):
        CARRIER.open_source(made(values), "a")
    # A protected file in which such a value turns up was changed.
    data = made(np.zeros((3, 3, 3), dtype))
    opened = CARRIER.open_source(data, "a")
    protected = bytearray(CARRIER.carry(data, opened, opened.image.values, ENVELOPE))
    protected[-8:] = np.asarray([value], f"<{np.dtype(dtype).str[1:]}").tobytes()
    with pytest.raises(TamperedError, match="was changed"):
        CARRIER.open_protected(bytes(protected))


@pytest.mark.parametrize("version", [1, 2])
def test_colors(version: int) -> None:
    colors = np.random.default_rng(4).integers(0, 256, (5, 4, 3, 3), dtype=np.uint8)
    values = colors.view(np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))[..., 0]
    data = made(values, version=version)
    opened = CARRIER.open_source(data, "a.nii")
    assert np.array_equal(opened.image.values, colors.transpose(2, 1, 0, 3))
    protected = check(data, opened, 255 - opened.image.values, ENVELOPE)
    read = np.asanyarray({1: nib.Nifti1Image, 2: nib.Nifti2Image}[version].from_bytes(protected).dataobj)
    assert np.ascontiguousarray(read).tobytes() == (255 - colors).tobytes()
    assert CARRIER.rebuild(opened.shell, opened.image.values) == data


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (np.complex64, "complex64"),
        (np.complex128, "complex128"),
        (np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1"), ("A", "u1")]), "RGBA32"),
    ],
)
def test_refused_types(dtype: Any, name: str) -> None:
    header = nib.Nifti1Header()
    header.set_data_dtype(dtype)
    data = nib.Nifti1Image(np.zeros((2, 2, 2), dtype), np.eye(4), header, dtype=dtype).to_bytes()
    with pytest.raises(UnsupportedImageError, match=name):
        CARRIER.open_source(data, "a")
    with pytest.raises(UnsupportedImageError, match=name):
        carrier_for(gzip.compress(data), "a").open_source(gzip.compress(data), "a")


def test_refused_kinds() -> None:
    values = np.zeros((2, 2, 2), np.int16)
    plain = made(values)
    pair = plain[:108] + bytes(4) + plain[112:344] + b"ni1\0" + plain[348:]
    header = plain[:344] + b"ni1\0" + bytes(4)
    analyze = plain[:344] + bytes(4) + plain[348:]
    for data, reason in (
        (pair, ".hdr/.img pair.*convert it"),
        (header, ".hdr/.img pair.*convert it"),
        (analyze, "ANALYZE 7.5.*convert it"),
        (made(np.zeros((2, 2, 2, 1, 3), np.int16)), "5 dimensions"),
        (made(np.zeros(8, np.int16)), "1 dimensions"),
        (plain[:-1], "truncated"),
        (plain[:200], "truncated"),
        (gzip.compress(plain)[:-9], "damaged or truncated"),
        (gzip.compress(plain + bytes(2**21)), "more than its NIfTI header declares"),
    ):
        with pytest.raises(UnsupportedImageError, match=reason):
            carrier_for(data, "a").open_source(data, "a")
    second = made(values, version=2)
    cifti = bytearray(second)
    struct.pack_into("<i", cifti, 504, 3001)
    for data, reason in (
        (bytes(cifti), "CIFTI-2"),
        (second[:4] + b"ni2\0" + second[8:544], ".hdr/.img pair"),
        (second[:8] + b"\n\n\x1a\n" + second[12:], "magic bytes"),
        (second[:541], "truncated"),
        (second[:100], "truncated"),
        (second[:-1], "truncated"),
    ):
        with pytest.raises(UnsupportedImageError, match=reason):
            carrier_for(data, "a").open_source(data, "a")
    endless = bytearray(second)
    struct.pack_into("<8q", endless, 16, 4, 2**62, 2**62, 2**62, 2**62, 1, 1, 1)
    with pytest.raises(UnsupportedImageError, match="truncated"):
        CARRIER.open_source(bytes(endless), "a")
    with pytest.raises(UnsupportedImageError, match="truncated"):
        CARRIER.open_source(gzip.compress(bytes(endless)), "a")
    bomb = bytearray(second)
    struct.pack_into("<8q", bomb, 16, 3, 2**10, 2**10, 2**10, 1, 1, 1, 1)
    with pytest.raises(UnsupportedImageError, match="stream is truncated"):
        CARRIER.open_source(gzip.compress(bytes(bomb)), "a")
    huge = bytearray(plain)
    struct.pack_into("<8h", huge, 40, 4, 32767, 32767, 32767, 32767, 1, 1, 1)
    with pytest.raises(UnsupportedImageError, match="truncated"):
        CARRIER.open_source(gzip.compress(bytes(huge)), "a")
    with pytest.raises(UnsupportedImageError, match="truncated"):
        CARRIER.open_source(bytes(huge), "a")


def test_wrong_arguments() -> None:
    data = made(np.zeros((2, 2, 2), np.int16))
    opened = CARRIER.open_source(data, "a")
    with pytest.raises(ValueError, match="empty"):
        CARRIER.carry(data, opened, opened.image.values, b"")
    with pytest.raises(ValueError, match="expected int16"):
        CARRIER.carry(data, opened, opened.image.values.astype(np.uint16), ENVELOPE)
    with pytest.raises(TamperedError):
        CARRIER.rebuild(opened.shell, None)


def test_damage_is_named() -> None:
    data = made(np.arange(24, dtype=np.int16).reshape(2, 3, 4))
    opened = CARRIER.open_source(data, "a")
    protected = CARRIER.carry(data, opened, opened.image.values, ENVELOPE)
    at = protected.index(ENVELOPE)
    for position in (at - 8, at - 24, at + len(ENVELOPE), at + len(ENVELOPE) + 1):
        broken = bytearray(protected)
        broken[position] ^= 0x41
        with pytest.raises(TamperedError):
            CARRIER.open_protected(bytes(broken))
    with pytest.raises(TamperedError, match="truncated"):
        CARRIER.open_protected(protected[:-1])
    squeezed = gzip.compress(protected)
    broken = bytearray(squeezed)
    broken[-6] ^= 1
    with pytest.raises(TamperedError, match="gzip"):
        CARRIER.open_protected(bytes(broken))


def test_mni152_head() -> None:
    nilearn = pytest.importorskip("nilearn")
    folder = Path(nilearn.__file__).parent / "datasets" / "data"
    path = folder / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
    if not path.exists():
        pytest.skip("this nilearn ships no MNI152 head")
    data = path.read_bytes()
    opened = carrier_for(data, path.name).open_source(data, path.name)
    assert opened.image.values.shape == (189, 233, 197, 1)
    protected = check(data, opened, opened.image.values ^ np.uint8(1), ENVELOPE)
    assert abs(len(protected) - len(data)) < len(data)
    assert gzip.decompress(CARRIER.rebuild(opened.shell, opened.image.values)) == gzip.decompress(data)


def protect(data: bytes) -> bytes:
    opened = CARRIER.open_source(data, "a")
    return CARRIER.carry(data, opened, opened.image.values, ENVELOPE)


def _seeds() -> list[bytes]:
    data = made(np.arange(24, dtype=np.int16).reshape(2, 3, 4), affine=np.eye(4), extensions=((6, b"comment"),))
    protected = CARRIER.carry(
        data, CARRIER.open_source(data, "a"), CARRIER.open_source(data, "a").image.values, ENVELOPE
    )
    second = made(np.arange(24.0).reshape(2, 3, 4) / 3, affine=np.eye(4), version=2)
    return [data, protected, second, gzip.compress(data, mtime=0), gzip.compress(protected, mtime=0), protect(second)]


SEEDS = _seeds()


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 2**20), st.binary(min_size=1, max_size=4)), max_size=4),
    st.one_of(st.none(), st.integers(0, 2**20)),
    st.booleans(),
)
def test_only_named_errors_escape(seed: bytes, edits: list[tuple[int, bytes]], cut: int | None, again: bool) -> None:
    data = bytearray(seed)
    for position, patch in edits:
        data[position % len(seed) : position % len(seed) + len(patch)] = patch
    broken = bytes(data if cut is None else data[: cut % (len(data) + 1)])
    if again:  # damage inside a sound gzip stream
        broken = gzip.compress(broken)
    for call in (CARRIER.open_protected, lambda b: CARRIER.replace_envelope(b, ENVELOPE), CARRIER.file_digest, protect):
        try:
            call(broken)
        except MIADMarkError:
            pass
    CARRIER.matches(broken)


def test_matches_by_content() -> None:
    for data in (b"", b"\x1f\x8b", b"\x5c\x01", gzip.compress(b"text"), gzip.compress(b"")):
        assert not CARRIER.matches(data)
    # Siemens left an ANALYZE header in the room before DICOM's mark.
    dicom = b"\x5c\1\0\0" + bytes(124) + b"DICM" + bytes(300)
    for inside, reason in (
        (b"text", "gzip of something else"),
        (dicom, "gzip of DICOM"),
        (b"\x89HDF\r\n\x1a\n", "gzip of HDF5"),
        (gzip.compress(b"text"), "gzip of something else"),
    ):
        with pytest.raises(UnsupportedImageError, match=reason):
            carrier_for(gzip.compress(inside), "a.nii.gz")
    with pytest.raises(UnsupportedImageError, match="damaged gzip"):
        carrier_for(b"\x1f\x8b\xff\xff" + bytes(30), "a.nii.gz")
    with pytest.raises(UnsupportedImageError, match="REC"):
        carrier_for(b"\1\2\3", "scan.REC")

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""MetaImage, NRRD and MGH carriers: types, byte orders, compression, what other readers see, damaged input."""

from __future__ import annotations

import base64
import gzip
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from monai_miadmark.errors import MIADMarkError, NotProtectedError, TamperedError, UnsupportedImageError
from monai_miadmark.formats import carrier_for, carrier_named
from monai_miadmark.formats.base import pack_block
from monai_miadmark.formats.wide import NARROW

ENVELOPE = b"MIADMARK" + bytes(range(256)) + b"\0\0"
KINDS = ("metaimage", "nrrd", "mgh")
META_TYPES = {
    "uint8": "MET_UCHAR", "int8": "MET_CHAR", "uint16": "MET_USHORT", "int16": "MET_SHORT", "uint32": "MET_UINT",
    "int32": "MET_INT", "uint64": "MET_ULONG_LONG", "int64": "MET_LONG_LONG", "float32": "MET_FLOAT",
    "float64": "MET_DOUBLE",
}  # fmt: skip
MGH_TYPES = {"uint8": 0, "int32": 1, "float32": 3, "int16": 4, "uint16": 10}
AXIAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


def samples(dtype: str, shape: tuple[int, ...], seed: int = 3) -> NDArray[Any]:
    """Any bit pattern, NaNs with payload among them; of 64-bit types what 32 bits can hold."""
    kind = np.dtype(NARROW.get(dtype, dtype))
    raw = np.random.default_rng(seed).bytes(int(np.prod(shape)) * kind.itemsize)
    values = np.frombuffer(raw, dtype=kind).reshape(shape)
    if dtype == "float64":
        values = np.where(np.abs(values) > 1e-30, values, 1).astype(np.float32)
    return values.astype(dtype) if kind != dtype else values


def metaimage(
    values: NDArray[Any], big: bool = False, packed: bool = False, axes: Any = AXIAL, extra: str = "", size: bool = True
) -> bytes:
    """An .mha file of samples ``(..., H, W, C)``."""
    dims = values.shape[-2::-1]
    raw = values.astype(values.dtype.newbyteorder(">" if big else "<")).tobytes()
    body = zlib.compress(raw) if packed else raw
    matrix = [str(v) for axis in axes for v in axis]
    lines = ["ObjectType = Image", f"NDims = {len(dims)}", "BinaryData = True", f"BinaryDataByteOrderMSB = {big}"]
    lines += [f"CompressedData = {packed}"] + ([f"CompressedDataSize = {len(body)}"] if packed and size else [])
    lines += ["TransformMatrix = " + " ".join(matrix)] if len(dims) == 3 else []
    lines += ["DimSize = " + " ".join(map(str, dims)), *extra.splitlines()]
    lines += [f"ElementNumberOfChannels = {values.shape[-1]}"] if values.shape[-1] > 1 else []
    lines += [f"ElementType = {META_TYPES[values.dtype.name]}", "ElementDataFile = LOCAL", ""]
    return "\n".join(lines).encode() + body


def nrrd(
    values: NDArray[Any], big: bool = False, packed: bool = False, axes: Any = AXIAL, extra: str = "", version: int = 4
) -> bytes:
    """A .nrrd file of samples ``(..., H, W, C)``."""
    colors = values.shape[-1] > 1
    sizes = values.shape[::-1] if colors else values.shape[-2::-1]
    raw = values.astype(values.dtype.newbyteorder(">" if big else "<")).tobytes()
    kinds = ["RGB-color"] * colors + ["domain"] * (len(sizes) - colors)
    names = {"int8": "signed char", "float32": "float", "float64": "double"}
    lines = [f"NRRD000{version}", "# a comment", f"type: {names.get(values.dtype.name, values.dtype.name)}"]
    lines += [f"dimension: {len(sizes)}", "sizes: " + " ".join(map(str, sizes)), "kinds: " + " ".join(kinds)]
    if len(sizes) - colors == 3:
        directions = [f"({','.join(map(str, axis))})" for axis in axes]
        lines += ["space: left-posterior-superior", "space directions: " + "none " * colors + " ".join(directions)]
        lines += ["space origin: (0,0,0)"]
    lines += [f"endian: {'big' if big else 'little'}", f"encoding: {'gzip' if packed else 'raw'}", *extra.splitlines()]
    return "\n".join([*lines, "", ""]).encode() + (gzip.compress(raw, mtime=0) if packed else raw)


def mgh(
    values: NDArray[Any], big: bool = True, packed: bool = False, axes: Any = AXIAL, rest: bytes = bytes(20)
) -> bytes:
    """An MGH file of samples ``(N, H, W, 1)`` or ``(frames, N, H, W, 1)``."""
    assert big
    dims = (*values.shape[-2::-1], 1, 1)[:4]
    head = struct.pack(">7ih", 1, *dims, MGH_TYPES[values.dtype.name], 0, 1)
    head += struct.pack(">15f", 1, 1, 2, *(-v if at < 2 else v for axis in axes for at, v in enumerate(axis)), 0, 0, 0)
    plain = head.ljust(284, b"\0") + values.astype(values.dtype.newbyteorder(">")).tobytes() + rest
    return gzip.compress(plain, mtime=0) if packed else plain


WRITERS: dict[str, Any] = {"metaimage": metaimage, "nrrd": nrrd, "mgh": mgh}


def check(data: bytes, values: NDArray[Any], kind: str, envelope: bytes | None = ENVELOPE) -> bytes:
    """Open, compare with ``(N, H, W, C)``, carry other samples, open again, rebuild; returns the protected file."""
    carrier = carrier_for(data, "x")
    assert carrier.name == kind
    opened = carrier.open_source(data, "dir/x.bin")
    image = opened.image
    assert image.values.tobytes() == values.tobytes() and image.values.shape == values.shape
    assert image.values.dtype == values.dtype and opened.shell.name == "x.bin"
    changed = np.ascontiguousarray(values[::-1])
    protected = carrier.carry(data, opened, changed, envelope)
    again = carrier_for(protected, "x").open_protected(protected)
    assert again.values.tobytes() == changed.tobytes() and again.values.dtype == values.dtype
    assert again.envelope == envelope and again.marked
    assert carrier_named(kind).rebuild(opened.shell, image.values) == data
    assert carrier.carry(data, opened, changed, envelope) == protected
    with pytest.raises(UnsupportedImageError, match="protected already"):
        carrier.open_source(protected, "x")
    return protected


CASES = [
    (kind, dtype, big, packed)
    for kind in KINDS
    for dtype in META_TYPES
    for big in (False, True)
    for packed in (False, True)
    if kind != "mgh" or (big and dtype in MGH_TYPES)
]


@pytest.mark.parametrize(("kind", "dtype", "big", "packed"), CASES)
def test_round_trip(kind: str, dtype: str, big: bool, packed: bool) -> None:
    for shape in ((3, 5, 4, 1), (2, 3, 5, 4, 1), (1, 1, 1, 1)) + (((3, 5, 4, 3),) if kind != "mgh" else ()):
        values = samples(dtype, shape)
        data = WRITERS[kind](values, big, packed)
        flat = values.reshape(-1, *shape[-3:]).astype(NARROW.get(dtype, dtype))
        protected = check(data, flat, kind)
        check(data, flat, kind, None)
        opened = carrier_for(data, "x").open_source(data, "x")
        assert set(opened.shell.blobs) == ({"file"} if packed else {"prefix", "suffix"})
        assert len(protected) < 2 * len(data) + 3000


@pytest.mark.parametrize("kind", KINDS)
def test_orientation_is_as_displayed(kind: str) -> None:
    values = samples("int16", (3, 5, 4, 1))
    for axes, shown in (
        # Directions in left, posterior, superior: as they are shown when all are positive.
        (AXIAL, values),
        (((-1.0, 0, 0), (0, 1.0, 0), (0, 0, 1.0)), values[:, :, ::-1]),
        (((1.0, 0, 0), (0, -1.0, 0), (0, 0, 1.0)), values[:, ::-1]),
        (((0, 1.0, 0), (0, 0, 1.0), (1.0, 0, 0)), values[:, ::-1]),  # sagittal, rows upwards
        (((1.0, 0, 0), (0, 0, -1.0), (0, 1.0, 0)), values),  # coronal, rows downwards
    ):
        check(WRITERS[kind](values, kind == "mgh", axes=axes), np.ascontiguousarray(shown), kind)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_replaced_envelope(kind: str, packed: bool) -> None:
    data = WRITERS[kind](samples("uint8", (3, 5, 4, 1)), kind == "mgh", packed)
    carrier = carrier_for(data, "a")
    opened = carrier.open_source(data, "a")
    protected = carrier.carry(data, opened, opened.image.values, ENVELOPE)
    changed = carrier.replace_envelope(protected, b"x" * 5000)
    assert carrier.open_protected(changed).envelope == b"x" * 5000
    assert carrier.replace_envelope(changed, ENVELOPE) == protected
    for other in (data, carrier.carry(data, opened, opened.image.values, None)):
        with pytest.raises(NotProtectedError):
            carrier.replace_envelope(other, ENVELOPE)
    for call in (carrier.replace_envelope, lambda d, e: carrier.carry(d, opened, opened.image.values, e)):
        with pytest.raises(ValueError, match="empty"):
            call(protected, b"")
    with pytest.raises(ValueError, match="expected uint8"):
        carrier.carry(data, opened, opened.image.values.astype(np.int16), ENVELOPE)
    if not packed:
        for values in (None, opened.image.values[:1]):
            with pytest.raises(TamperedError):
                carrier.rebuild(opened.shell, values)


def test_float64_that_float32_cannot_hold_is_carried() -> None:
    values = np.random.default_rng(5).normal(0, 1, (3, 5, 4, 1))
    for kind in ("metaimage", "nrrd"):
        data = WRITERS[kind](values)
        check(data, values.astype(np.float32), kind)
        assert set(carrier_for(data, "x").open_source(data, "x").shell.blobs) == {"file"}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
@pytest.mark.parametrize("kind", ["metaimage", "nrrd"])
def test_itk_and_pynrrd_read_what_was_written(kind: str, dtype: str, packed: bool, tmp_path: Path) -> None:
    itk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")
    pynrrd = pytest.importorskip("nrrd", reason="pynrrd is not installed")
    for colors in (False, True):
        values = np.random.default_rng(1).integers(0, 200, (3, 5, 4, 3)[: 4 if colors else 3]).astype(dtype)
        path = tmp_path / f"a.{'mha' if kind == 'metaimage' else 'nrrd'}"
        # A file by ITK, so that what it writes is what is tested.
        picture = itk.GetImageFromArray(values, isVector=colors)
        picture.SetSpacing((1, 2, 3))
        itk.WriteImage(picture, str(path), packed)
        data = path.read_bytes()
        carrier = carrier_for(data, "a")
        opened = carrier.open_source(data, "a")
        assert np.array_equal(opened.image.values.reshape(values.shape), values)
        large = bytes(300_000) + ENVELOPE
        path.write_bytes(carrier.carry(data, opened, opened.image.values[::-1], large))
        read = itk.ReadImage(str(path))
        assert np.array_equal(itk.GetArrayFromImage(read), values[::-1]) and read.GetSpacing() == (1, 2, 3)
        if kind == "nrrd":
            assert np.array_equal(pynrrd.read(str(path), index_order="C")[0], values[::-1])
        assert carrier.rebuild(opened.shell, opened.image.values) == data


@pytest.mark.parametrize("packed", [False, True])
def test_nibabel_reads_mgh(packed: bool) -> None:
    values = samples("int16", (3, 5, 4))
    image = nib.MGHImage(np.ascontiguousarray(values.T), np.diag([-1.0, -1, 2, 1]))
    data = gzip.compress(image.to_bytes(), mtime=0) if packed else image.to_bytes()
    protected = check(data, values[..., None], "mgh")
    plain = gzip.decompress(protected) if packed else protected
    read = nib.MGHImage.from_bytes(plain)
    assert np.array_equal(np.asarray(read.dataobj), values[::-1].T) and np.allclose(read.affine, image.affine)


def test_mgh_tags_stay() -> None:
    values = samples("uint8", (3, 5, 4, 1))
    tags = struct.pack(">5f", 2300, 0.1, 2, 900, 0) + struct.pack(">iq", 3, 5) + b"mri_c"
    protected = check(mgh(values, rest=tags), values, "mgh")
    at = 284 + values.size
    assert protected[at : at + len(tags)] == tags
    code, size = struct.unpack_from(">iq", protected, at + len(tags))
    assert code == 0x4D494144 and size == len(protected) - at - len(tags) - 12
    # A file that ends with its samples gets the five numbers that tags stand behind.
    protected = check(mgh(values, rest=b""), values, "mgh")
    assert protected[at : at + 20] == bytes(20)


def test_what_follows_the_samples_stays() -> None:
    values = samples("uint8", (3, 5, 4, 1))
    for kind in ("metaimage", "nrrd"):
        for packed in (False, True):
            data = WRITERS[kind](values, packed=packed) + b"trailer"
            assert b"trailer" in check(data, values, kind)
    # MetaIO of old wrote no size of the compressed samples; with the record behind them one is needed.
    data = metaimage(values, packed=True, size=False)
    assert b"CompressedDataSize" not in data and b"CompressedDataSize" in check(data, values, "metaimage")
    assert check(nrrd(values, version=1), values, "nrrd").startswith(b"NRRD0002")
    windows = nrrd(values).split(b"\n\n")[0].replace(b"\n", b"\r\n") + b"\r\n\r\n" + values.tobytes()
    check(windows, values, "nrrd")


V = samples("int16", (3, 5, 4, 1))
META, NRRD = metaimage(V), nrrd(V)


def without(data: bytes, start: bytes) -> bytes:
    """A header without the line that begins so."""
    at = data.index(b"\n" + start) + 1
    return data[:at] + data[data.index(b"\n", at) + 1 :]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (META.replace(b"= LOCAL", b"= x.raw"), "another file.*convert"),
        (META.replace(b"= Image", b"= Tube"), "other than images"),
        (META.replace(b"BinaryData = True", b"BinaryData = False"), "as text"),
        (META.replace(b"MET_SHORT", b"MET_LONG"), "unknown size"),
        (META.replace(b"NDims = 3", b"NDims = 2"), "contradicts itself"),
        (META.replace(b"4 5 3", b"4 5 x"), "numbers"),
        (META.replace(b"4 5 3", b"4 5 0"), "sizes"),
        (META.replace(b"4 5 3", b"4 5 4"), "truncated"),
        (META.replace(b"4 5 3", b"99999 99999 99999"), "more than"),
        (META.replace(b"DimSize", b"HeaderSize = 12\nDimSize"), "HeaderSize"),
        (META.replace(b"DimSize", b"DimSize = 1 2 3\nDimSize"), "damaged"),
        (META.replace(b"DimSize", b"ElementNumberOfChannels = 2\nDimSize"), "2 samples in a voxel"),
        (META.replace(b"1.0", b"one"), "TransformMatrix"),
        (metaimage(samples("uint8", (1, 1, 2, 3, 4, 1))), "5 dimensions"),
        (metaimage(V, packed=True)[:-5], "declared size"),
        (metaimage(V, packed=True).replace(b"4 5 3", b"4 5 4"), "declared size"),
        (metaimage(V, packed=True).replace(b"4 5 3", b"4 5 2"), "declared size"),
        (metaimage(V, packed=True).replace(b"4 5 3", b"999 999 999"), "truncated"),
        (b"ObjectType = Image\n", "MetaIO without"),
        (NRRD.replace(b"endian", b"data file: x.raw\nendian"), "another file.*convert"),
        (b"NRRD0004\ntype: short\ndata file: x.raw\n", "another file.*convert"),
        (b"NRRD0004\ntype: short\n", "no end"),
        (b"NRRD0009\n", "unknown version"),
        (NRRD.replace(b"encoding: raw", b"encoding: bzip2"), "another encoding"),
        (NRRD.replace(b"endian", b"byte skip: 7\nendian"), "skips"),
        (NRRD.replace(b"type: int16", b"type: block"), "a type other"),
        (NRRD.replace(b"dimension: 3", b"dimension: 2"), "contradicts itself"),
        (NRRD.replace(b"domain domain domain", b"domain domain"), "contradicts itself"),
        (NRRD.replace(b"domain domain domain", b"vector domain domain"), "4 samples in a voxel"),
        (NRRD.replace(b"domain domain domain", b"domain vector domain"), "vectors or matrices"),
        (NRRD.replace(b"sizes: 4", b"sizes: four"), "sizes"),
        (NRRD.replace(b"sizes: 4", b"sizes: 9"), "truncated"),
        (NRRD.replace(b"endian: little", b"endian: middle"), "endian"),
        (without(NRRD, b"endian"), "endian"),
        (NRRD.replace(b"type: int16", b"type: int16\ntype: int16"), "damaged"),
        (nrrd(V, packed=True)[:-3], "declared size"),
        (nrrd(V, packed=True).replace(b"sizes: 4", b"sizes: 9"), "declared size"),
        (mgh(V)[:300], "truncated"),
        (mgh(V, packed=True)[:-3], "damaged or truncated"),
        (mgh(V, packed=True) + gzip.compress(bytes(2**25)), "more than its MGH header"),
        (mgh(V)[:20] + struct.pack(">i", 2) + mgh(V)[24:], "data type 2"),
        (gzip.compress(mgh(V)[:4] + struct.pack(">3i", 999, 999, 999) + mgh(V)[16:]), "stream is truncated"),
        (mgh(V)[:4] + struct.pack(">3i", 2**20, 2**20, 2**20) + mgh(V)[16:], "more than"),
        (metaimage(samples("int64", (3, 5, 4, 1)) * 2**32), "beyond the range"),
    ],
)
def test_refused_by_name(data: bytes, reason: str) -> None:
    with pytest.raises(UnsupportedImageError, match=reason):
        carrier_for(data, "a").open_source(data, "a")


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_named(kind: str) -> None:
    data = WRITERS[kind](V, kind == "mgh")
    carrier = carrier_for(data, "a")
    opened = carrier.open_source(data, "a")
    protected = carrier.carry(data, opened, opened.image.values, ENVELOPE)
    assert not carrier.open_protected(data).marked
    if kind == "nrrd":
        pair = b"miadmark_record:=" + base64.b64encode(pack_block(ENVELOPE)) + b"\n"
        assert pair in protected
        broken = [protected.replace(pair, pair * 2), protected.replace(pair, pair[:40] + b"\n"), protected[:-1]]
        broken += [protected.replace(b":=TUl", b":=*Ul"), protected.replace(b":=TUl", b":=AUl")]
    else:
        at = protected.index(ENVELOPE)
        broken = [protected[:at], protected[:-1], protected + b"x", protected[: at - 8] + b"\xff" + protected[at - 7 :]]
    for damaged in broken:
        with pytest.raises(TamperedError):
            carrier.open_protected(damaged)


def _seeds() -> list[bytes]:
    found = []
    for kind in KINDS:
        for packed in (False, True):
            data = WRITERS[kind](V, kind == "mgh", packed)
            opened = carrier_for(data, "a").open_source(data, "a")
            found += [data, carrier_for(data, "a").carry(data, opened, opened.image.values, ENVELOPE)]
    return found


SEEDS = _seeds()


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 2**20), st.binary(min_size=1, max_size=4)), max_size=4),
    st.one_of(st.none(), st.integers(0, 2**20)),
)
def test_only_named_errors_escape(seed: bytes, edits: list[tuple[int, bytes]], cut: int | None) -> None:
    data = bytearray(seed)
    for position, patch in edits:
        data[position % len(seed) : position % len(seed) + len(patch)] = patch
    broken = bytes(data if cut is None else data[: cut % (len(data) + 1)])
    carriers = [carrier_named(kind) for kind in KINDS]

    for carrier in carriers:
        carrier.matches(broken)
        for call in (carrier.open_protected, lambda b, c=carrier: c.replace_envelope(b, ENVELOPE)):
            try:
                call(broken)
            except MIADMarkError:
                pass
        try:
            opened = carrier.open_source(broken, "a")
            carrier.carry(broken, opened, opened.image.values, ENVELOPE)
        except MIADMarkError:
            pass


def test_other_files_are_not_taken_for_mgh() -> None:
    stream = io.BytesIO()
    np.save(stream, V)
    for data in (b"\0\0\0\1", bytes(300), struct.pack(">I", 1) + b"\xff" * 300, stream.getvalue()):
        assert not carrier_named("mgh").matches(data) and not carrier_named("mgh").matches(gzip.compress(data))

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""TIFF carrier: types, strips and tiles, compressions, stacks, what other readers see, damaged input."""

from __future__ import annotations

import io
import struct
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageCms

from monai_miadmark.errors import MIADMarkError, NotProtectedError, TamperedError, UnsupportedImageError
from monai_miadmark.formats import carrier_for, carrier_named, tiff_writing
from monai_miadmark.formats.tiff import TiffCarrier
from monai_miadmark.formats.tiff_reading import RECORD_TAG, read_stack

tifffile = pytest.importorskip("tifffile", reason="the extra tiff is not installed")
pytest.importorskip("imagecodecs", reason="the extra tiff is not installed")

CARRIER = TiffCarrier()
ENVELOPE = b"MIADMARK" + bytes(range(256)) + b"\0\0"
DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32")
NO_TEXT = {"metadata": None, "software": False}


def samples(dtype: str, shape: tuple[int, ...], seed: int = 3) -> NDArray[Any]:
    """Any bit pattern, NaNs with payload among them."""
    kind = np.dtype(dtype)
    raw = np.random.default_rng(seed).bytes(int(np.prod(shape)) * kind.itemsize)
    return np.frombuffer(raw, dtype=kind).reshape(shape)


def made(pages: NDArray[Any], endian: str = "<", big: bool = False, **options: Any) -> bytes:
    """A TIFF file by tifffile, one directory for each page ``(H, W)`` or ``(H, W, C)``."""
    out = io.BytesIO()
    with tifffile.TiffWriter(out, byteorder=endian, bigtiff=big, ome=False, imagej=False, shaped=False) as writer:
        for page in pages:
            photometric = "rgb" if page.ndim == 3 and 3 in (page.shape[0], page.shape[2]) else "minisblack"
            writer.write(page, **{"photometric": photometric, "contiguous": False, **NO_TEXT, **options})
    return out.getvalue()


def check(data: bytes, values: NDArray[Any], envelope: bytes | None = ENVELOPE) -> bytes:
    """Open, compare with ``(N, H, W, C)``, carry other samples, open again, rebuild; returns the protected file."""
    carrier = carrier_for(data, "x")
    assert carrier.name == "tiff"
    opened = carrier.open_source(data, "dir/x.tif")
    assert opened.image.values.dtype == values.dtype and opened.image.values.shape == values.shape
    assert opened.image.values.tobytes() == values.tobytes() and opened.shell.name == "x.tif"
    changed = np.ascontiguousarray(values[:, ::-1, ::-1])
    protected = carrier.carry(data, opened, changed, envelope)
    again = CARRIER.open_protected(protected)
    assert again.values.tobytes() == changed.tobytes() and again.values.dtype == values.dtype
    assert again.envelope == envelope and again.marked
    assert carrier_named("tiff").rebuild(opened.shell, opened.image.values) == data
    assert carrier.carry(data, opened, changed, envelope) == protected
    with pytest.raises(UnsupportedImageError, match="protected already"):
        CARRIER.open_source(protected, "x.tif")
    read = tifffile.imread(io.BytesIO(protected), key=range(len(values)))
    assert read.reshape(*values.shape[:3], -1)[..., : values.shape[3]].tobytes() == changed.tobytes()
    return protected


@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 17, 33), (3, 16, 9), (2, 16, 17, 3), (1, 1, 1)])
def test_uncompressed_strips_are_spliced(shape: tuple[int, ...], dtype: str, big: bool, endian: str) -> None:
    values = samples(dtype, shape)
    for rows in (4, None):
        data = made(values, endian, big, rowsperstrip=rows)
        protected = check(data, values.reshape(*shape[:3], -1))
        blobs = CARRIER.open_source(data, "x").shell.blobs
        # The samples are not in the record twice: where they were the frame has zeros.
        assert set(blobs) == {"frame"} and len(blobs["frame"]) == len(data)
        assert protected[:4] == data[:4]


@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize(
    ("compression", "predictor"),
    [(None, False), ("packbits", False)]
    + [(name, predictor) for name in ("lzw", "deflate", "adobe_deflate") for predictor in (False, True)],
)
@pytest.mark.parametrize("tile", [None, (16, 32)])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_compressions_tiles_and_planes(
    planar: str, tile: tuple[int, int] | None, compression: str | None, predictor: bool, endian: str
) -> None:
    for dtype in ("uint8", "uint16", "int16", "float32"):
        colors = samples(dtype, (2, 40, 50, 3)) if dtype != "float32" else np.ones((2, 40, 50, 3), np.float32)
        stored = np.ascontiguousarray(np.moveaxis(colors, 3, 1)) if planar == "separate" else colors
        check(
            made(stored, endian, compression=compression, predictor=predictor, tile=tile, planarconfig=planar), colors
        )
        gray = np.ascontiguousarray(colors[..., 0])
        check(made(gray, endian, compression=compression, predictor=predictor, tile=tile), gray[..., None])


@pytest.mark.parametrize("extra", [0, 1, 2])
@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_is_kept_unmarked(channels: int, extra: int) -> None:
    values = samples("uint16", (2, 9, 8, channels))
    photometric = "rgb" if channels == 4 else "minisblack"
    data = made(values, photometric=photometric, extrasamples=[extra], planarconfig="contig")
    protected = check(data, np.ascontiguousarray(values[..., :-1]))
    with tifffile.TiffFile(io.BytesIO(protected)) as file:
        for page, source in zip(file.pages, values, strict=True):
            assert np.array_equal(page.asarray()[..., -1], source[..., -1])
            assert tuple(map(int, page.extrasamples)) == (extra,)


def test_what_says_how_pixels_lie_is_kept_and_other_text_is_not() -> None:
    values = samples("uint16", (4, 20, 10))
    for text in (
        b"ImageJ=1.54f\nimages=4\nslices=4\nunit=mm\nspacing=2.5\n",
        b'<?xml version="1.0" encoding="UTF-8"?>\n<OME><Image ID="Image:0"><Pixels SizeZ="4" /></Image></OME>',
        b'{"shape": [4, 20, 10]}',
    ):
        data = made(values, description=text, resolution=((300, 7), (25, 2)), resolutionunit="centimeter")
        protected = check(data, values[..., None])
        with tifffile.TiffFile(io.BytesIO(protected)) as file:
            page = file.pages[0]
            assert text in protected and page.tags[282].value == (300, 7) and page.tags[283].value == (25, 2)
            assert page.resolutionunit == 3
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    tags = [(274, 3, 1, 6, True), (34675, 7, len(profile), profile, True), (65000, 2, 9, "SOMEBODY", True)]
    data = made(values, description="Patient SOMEBODY", extratags=tags, datetime=True)
    protected = check(data, values[..., None])
    assert b"SOMEBODY" not in protected and profile in protected
    with tifffile.TiffFile(io.BytesIO(protected)) as file:
        assert file.pages[0].tags[274].value == 6 and 306 not in file.pages[0].tags
    with Image.open(io.BytesIO(protected)) as picture:
        assert picture.info["icc_profile"] == profile


def test_window_and_bounds() -> None:
    image = CARRIER.open_source(made(np.arange(4096, dtype=np.uint16).reshape(1, 64, 64)), "a").image
    assert tuple(image.bounds) == (0, 65535) and 0 < image.window.low < 50 < 4000 < image.window.high < 4096
    image = CARRIER.open_source(made(samples("uint8", (1, 9, 9)), photometric="miniswhite"), "a").image
    assert (image.window.low, image.window.high, image.window.inverted) == (0, 255, True)
    protected = check(made(samples("uint8", (1, 9, 9)), photometric="miniswhite"), samples("uint8", (1, 9, 9, 1)))
    assert CARRIER.open_protected(protected).values.shape == (1, 9, 9, 1) and read_stack(protected).inverted


@pytest.mark.parametrize("compression", [None, "lzw"])
@pytest.mark.parametrize("big", [False, True])
def test_replaced_envelope(big: bool, compression: str | None) -> None:
    values = samples("uint8", (2, 9, 8))
    data = made(values, big=big, compression=compression)
    protected = check(data, values[..., None])
    for envelope in (b"x", b"x" * 5000):
        changed = CARRIER.replace_envelope(protected, envelope)
        held = CARRIER.open_protected(changed)
        assert held.envelope == envelope and np.array_equal(held.values, CARRIER.open_protected(protected).values)
        assert CARRIER.replace_envelope(changed, ENVELOPE) == protected
    # Another tool may have put something behind the record; it stays.
    behind = CARRIER.replace_envelope(protected + b"more", b"y" * 99)
    assert CARRIER.open_protected(behind).envelope == b"y" * 99 and b"more" in behind and ENVELOPE not in behind
    for other in (data, CARRIER.carry(data, CARRIER.open_source(data, "a"), values[..., None], None)):
        with pytest.raises(NotProtectedError):
            CARRIER.replace_envelope(other, ENVELOPE)
    with pytest.raises(ValueError, match="empty"):
        CARRIER.replace_envelope(protected, b"")


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "float32"])
@pytest.mark.parametrize("compression", [None, "lzw"])
def test_pillow_and_itk_read_what_was_written(compression: str | None, dtype: str) -> None:
    values = np.random.default_rng(1).integers(0, 200, (3, 20, 30)).astype(dtype)
    data = made(values, compression=compression)
    protected = CARRIER.carry(
        data, CARRIER.open_source(data, "a"), values[..., None] + np.dtype(dtype).type(7), ENVELOPE
    )
    with Image.open(io.BytesIO(protected)) as picture:
        assert picture.n_frames == 3
        for index in range(3):
            picture.seek(index)
            assert np.array_equal(np.asarray(picture), values[index] + np.dtype(dtype).type(7))


@pytest.mark.parametrize("shape", [(3, 20, 30), (1, 20, 30, 3)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_simpleitk_reads_what_was_written(dtype: str, shape: tuple[int, ...], tmp_path: Any) -> None:
    itk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")
    values = np.random.default_rng(1).integers(0, 200, shape).astype(dtype)
    data = made(values, compression="lzw")
    opened = CARRIER.open_source(data, "a")
    (tmp_path / "a.tif").write_bytes(CARRIER.carry(data, opened, opened.image.values[:, ::-1], ENVELOPE))
    read = itk.GetArrayFromImage(itk.ReadImage(str(tmp_path / "a.tif")))
    assert np.array_equal(read.reshape(shape), values[:, ::-1])


def _pyramid() -> bytes:
    out = io.BytesIO()
    with tifffile.TiffWriter(out) as writer:
        writer.write(samples("uint8", (64, 64)), subifds=1, **NO_TEXT)
        writer.write(samples("uint8", (32, 32)), **NO_TEXT)
    return out.getvalue()


def _virtual(**options: Any) -> bytes:
    """Slices behind a single directory, as ImageJ and tifffile write large stacks."""
    out = io.BytesIO()
    tifffile.imwrite(out, samples("uint8", (5, 64, 64)), photometric="minisblack", **options)
    return out.getvalue()


def _of_two_sizes() -> bytes:
    out = io.BytesIO()
    with tifffile.TiffWriter(out) as writer:
        writer.write(samples("uint8", (64, 64)), **NO_TEXT)
        writer.write(samples("uint8", (32, 32)), **NO_TEXT)
    return out.getvalue()


def _by_pillow(picture: Image.Image, **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, "TIFF", **options)
    return out.getvalue()


COLORS = Image.fromarray(samples("uint8", (16, 16, 3)))
PAGE = samples("uint8", (1, 16, 16))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (_by_pillow(COLORS, compression="jpeg"), "JPEG TIFF"),
        (_by_pillow(COLORS.convert("CMYK")), "CMYK TIFF"),
        (_by_pillow(COLORS.quantize(16)), "palette TIFF"),
        (_by_pillow(COLORS.convert("LAB")), "L\\*a\\*b\\* TIFF"),
        (_by_pillow(COLORS.convert("1"), compression="group4"), "CCITT TIFF"),
        (_by_pillow(COLORS.convert("1")), "1-bit"),
        (made(samples("uint64", (1, 8, 8))), "64-bit unsigned integer"),
        (made(np.zeros((1, 8, 8))), "64-bit floating point"),
        (made(np.zeros((1, 8, 8), np.float16)), "16-bit floating point"),
        (made(np.zeros((1, 8, 8), np.complex64)), "64-bit complex"),
        (made(samples("uint16", (1, 8, 8)), bitspersample=12, compression=None), "12-bit"),
        (made(PAGE, compression="zstd"), "Zstandard TIFF"),
        (made(samples("uint8", (1, 8, 8, 5)), photometric="rgb", planarconfig="contig"), "5 samples in a pixel"),
        (_pyramid(), "SubIFDs"),
        (_of_two_sizes(), "differ in size"),
        (_virtual(imagej=True, truncate=True), "no directory of their own"),
        (_virtual(shaped=True, truncate=True), "no directory of their own"),
        (made(PAGE)[:-9], "not a valid TIFF.*truncated"),
        (b"II*\0\x08\0\0\0\0\0\0\0\0\0", "1-bit"),
        (b"MM\0*" + b"\xff" * 20, "not a valid TIFF"),
        (b"II*\0", "not a valid TIFF"),
    ],
)
def test_refused_by_name(data: bytes, reason: str) -> None:
    with pytest.raises(UnsupportedImageError, match=reason):
        carrier_for(data, "a").open_source(data, "a")


def entry(data: bytes, code: int) -> int:
    """Where the value of a tag of the first page is, in a little-endian file with the value in its entry."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        return int(file.pages[0].tags[code].valueoffset)


def patched(data: bytes, code: int, value: int) -> bytes:
    out = bytearray(data)
    struct.pack_into("<I", out, entry(data, code), value)
    return bytes(out)


def test_declared_sizes_are_checked_before_memory_is_taken() -> None:
    plain = made(samples("uint8", (1, 64, 64)), rowsperstrip=64)
    squeezed = made(np.zeros((1, 64, 64), np.uint8), compression="adobe_deflate", rowsperstrip=64)
    tiled = made(np.zeros((1, 64, 64), np.uint8), compression="adobe_deflate", tile=(64, 64))
    for data, reason in (
        (patched(plain, 256, 2**31 - 1), "does not hold"),
        (patched(squeezed, 257, 2**31 - 1), "does not hold"),
        (patched(squeezed, 256, 2**31 - 1), "does not hold"),
        (patched(plain, 279, 2**31 - 1), "truncated"),
        (patched(plain, 273, 2**31 - 1), "truncated"),
        (patched(squeezed, 278, 3), "do not fit"),
        (patched(patched(tiled, 322, 2**28), 323, 2**28), "do not fit"),
        (patched(tiled, 322, 0), "not a valid TIFF"),
    ):
        with pytest.raises(UnsupportedImageError, match=reason):
            CARRIER.open_source(data, "a")
    # More in a strip than it may hold: the decoder is told the size and does not go on.
    import imagecodecs

    bomb = imagecodecs.zlib_encode(bytes(2**24))
    swollen = patched(patched(squeezed + bomb, 273, len(squeezed)), 279, len(bomb))
    with pytest.raises(UnsupportedImageError, match="not a valid TIFF"):
        CARRIER.open_source(swollen, "a")


def test_pages_that_share_samples() -> None:
    data = bytearray(made(samples("uint8", (3, 64, 64))))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        first = file.pages[0].dataoffsets[0]
        for page in file.pages:
            struct.pack_into("<I", data, page.tags[273].valueoffset, first)
    # No larger than a file with samples for each page; the same samples are written three times when it is rebuilt.
    opened = CARRIER.open_source(bytes(data), "a")
    assert CARRIER.rebuild(opened.shell, opened.image.values) == bytes(data)
    # Two directories of samples that are stored once: pages without end would fit in a small file.
    one = made(samples("uint8", (1, 64, 64)), rowsperstrip=64)
    with tifffile.TiffFile(io.BytesIO(one)) as file:
        start, size = file.pages[0].offset, 2 + 12 * len(file.pages[0].tags)
    both = bytearray(one + bytes(len(one) % 2))
    struct.pack_into("<I", both, start + size, len(both))
    with pytest.raises(UnsupportedImageError, match="share their samples"):
        CARRIER.open_source(bytes(both) + one[start : start + size] + bytes(4), "a")


def test_damage_is_named() -> None:
    values = samples("uint8", (2, 9, 8))
    protected = check(made(values), values[..., None])
    at = protected.index(ENVELOPE)
    for position in (at - 16, at - 8, len(protected) - 1):
        broken = bytearray(protected)
        broken[position] ^= 0x41
        with pytest.raises(TamperedError):
            CARRIER.open_protected(bytes(broken))
    for length in (len(protected) - 1, at, at - 20, 100, 10):
        with pytest.raises(TamperedError):
            CARRIER.open_protected(protected[:length])
    stripped = CARRIER.open_protected(made(values))
    assert stripped.envelope is None and not stripped.marked
    opened = CARRIER.open_source(made(values), "a")
    with pytest.raises(TamperedError):
        CARRIER.rebuild(opened.shell, None)
    with pytest.raises(TamperedError, match="do not fit"):
        CARRIER.rebuild(opened.shell, opened.image.values[:1])
    with pytest.raises(ValueError, match="empty"):
        CARRIER.carry(made(values), opened, opened.image.values, b"")


def test_nothing_is_logged_that_quotes_the_file(caplog: pytest.LogCaptureFixture) -> None:
    data = made(PAGE, extratags=[(65000, 2, 9, "SOMEBODY", True)])
    broken = bytearray(data)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        struct.pack_into("<I", broken, file.pages[0].tags[65000].offset + 8, 2**31)
    CARRIER.open_source(bytes(broken), "a")
    assert not [record for record in caplog.records if record.name.startswith("tifffile")]


@pytest.mark.parametrize(("package", "compression"), [("tifffile", None), ("imagecodecs", "lzw")])
def test_missing_packages_are_named(package: str, compression: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    data = made(PAGE, compression=compression)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UnsupportedImageError, match=f"{package}.*pip install"):
        CARRIER.open_source(data, "a")


SEEDS = [
    made(PAGE, rowsperstrip=4),
    made(samples("uint16", (2, 16, 16, 3)), ">", True, compression="lzw", predictor=True, tile=(16, 16)),
    CARRIER.carry(made(PAGE), CARRIER.open_source(made(PAGE), "a"), PAGE[..., None], ENVELOPE),
]


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
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

    def protect(source: bytes) -> bytes:
        opened = CARRIER.open_source(source, "a")
        assert CARRIER.rebuild(opened.shell, opened.image.values) == source
        return CARRIER.carry(source, opened, opened.image.values, ENVELOPE)

    for call in (CARRIER.open_protected, lambda b: CARRIER.replace_envelope(b, ENVELOPE), protect):
        try:
            call(broken)
        except MIADMarkError:
            pass


def test_the_tag_is_a_private_one() -> None:
    assert 65000 <= RECORD_TAG <= 65535


RESOLUTIONS: dict[str, dict[int, Any]] = {
    "none": {},
    "without a unit": {282: (72, 1), 283: (36, 1)},
    "no absolute unit": {282: (2, 1), 283: (1, 1), 296: 1},
    "inch": {282: (300, 1), 283: (300, 1), 296: 2},
    "centimeter": {282: (1, 3), 283: (1, 7), 296: 3},
    "of value 0": {282: (0, 1), 283: (0, 1), 296: 2},
}


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", RESOLUTIONS)
def test_display_tags_are_those_of_the_source(kind: str, order: Any, big: bool) -> None:
    """Resolution with or without its unit, orientation of each page, color tags; ITK's spacing hangs on the first."""
    sitk = pytest.importorskip("SimpleITK")
    values = samples("uint8", (2, 30, 20))
    wanted = RESOLUTIONS[kind]
    colors = [(318, 5, 2, (3127, 10000, 3290, 10000), False), (301, 3, 256, tuple(range(256)), False)]
    out = io.BytesIO()
    with tifffile.TiffWriter(out, byteorder=order, bigtiff=big) as writer:
        for page, orientation in zip(values, (3, 6), strict=True):
            options = {"resolution": (wanted[282], wanted[283]), "resolutionunit": wanted.get(296, 1)} if wanted else {}
            tags = [(274, 3, 1, orientation, False), *colors]
            writer.write(page, photometric="minisblack", metadata=None, software=False, extratags=tags, **options)
    data = out.getvalue()
    drop = {282, 283, 296} - set(wanted)
    data = tiff_writing._without_tags(data, [tuple(drop)] * 2, order, big)
    protected = check(data, values[..., None])
    for place, got in ((0, data), (1, protected)):
        with tifffile.TiffFile(io.BytesIO(got)) as file:
            for page, orientation in zip(file.pages, (3, 6), strict=True):
                held = {code: page.tags[code].value for code in (282, 283, 296) if code in page.tags}
                assert held == wanted, place
                assert page.tags[274].value == orientation and page.tags[318].value == (3127, 10000, 3290, 10000)
                assert tuple(page.tags[301].value) == tuple(range(256))
    spacings = []
    for got in (data, protected):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "a.tif"
            path.write_bytes(got)
            spacings.append(sitk.ReadImage(str(path)).GetSpacing())
    assert spacings[0] == spacings[1]

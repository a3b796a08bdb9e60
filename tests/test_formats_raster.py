# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""PNG and JPEG carriers: exact source files back, chunks kept, everything else refused by name."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import png as pypng
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageCms, PngImagePlugin

from monai_miadmark.errors import MIADMarkError, NotProtectedError, TamperedError, UnsupportedImageError
from monai_miadmark.formats import carrier_for, carrier_named
from monai_miadmark.formats.raster import RECORD_CHUNK, JpegCarrier, PngCarrier

PNG, JPEG = PngCarrier(), JpegCarrier()
ENVELOPE = b"MIADMARK" + bytes(range(256)) + b"\0"
GRAY = np.random.default_rng(1).integers(0, 256, (9, 7), dtype=np.uint8)
COLOR = np.random.default_rng(2).integers(0, 256, (9, 7, 3), dtype=np.uint8)


def written(picture: Image.Image | NDArray[Any], kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_chunk(data: bytes, kind: bytes, body: bytes) -> bytes:
    """The PNG with one more chunk behind IHDR."""
    return data[:33] + chunk(kind, body) + data[33:]


def protect(data: bytes, envelope: bytes | None = ENVELOPE) -> bytes:
    carrier = carrier_for(data, "a")
    opened = carrier.open_source(data, "a")
    return carrier.carry(data, opened, np.iinfo(opened.image.values.dtype).max - opened.image.values, envelope)


@pytest.mark.parametrize("envelope", [ENVELOPE, None])
@pytest.mark.parametrize("pixels", [GRAY, COLOR, GRAY[:1, :1], COLOR[:1, :1]])
@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("JPEG", {"quality": 90}), ("JPEG", {"progressive": True})])
def test_round_trip(kind: str, options: dict[str, Any], pixels: NDArray[Any], envelope: bytes | None) -> None:
    data = written(pixels, kind, **options)
    carrier = carrier_for(data, "a.bin")
    opened = carrier.open_source(data, "some/dir/a.png")
    image = opened.image
    with Image.open(io.BytesIO(data)) as picture:
        expected = np.asarray(picture)
    assert image.values.shape == (1, *pixels.shape[:2], pixels.shape[2] if pixels.ndim == 3 else 1)
    assert np.array_equal(image.values.reshape(expected.shape), expected)
    assert (image.window.low, image.window.high, tuple(image.bounds)) == (0, 255, (0, 255))
    changed = 255 - image.values
    protected = carrier.carry(data, opened, changed, envelope)
    again = PNG.open_protected(protected)
    assert np.array_equal(again.values, changed) and again.envelope == envelope and again.marked
    with Image.open(io.BytesIO(protected)) as picture:
        assert picture.format == "PNG" and np.array_equal(np.asarray(picture).reshape(changed.shape), changed)
    assert carrier_named(opened.shell.format).rebuild(opened.shell, None) == data
    assert carrier.file_digest(carrier.rebuild(opened.shell, image.values)) == carrier.file_digest(data)
    assert carrier.carry(data, opened, changed, envelope) == protected
    with pytest.raises(UnsupportedImageError, match="protected already"):
        PNG.open_source(protected, "a.png")


def test_names() -> None:
    assert PNG.output_name("x/scan.PNG") == "scan.PNG"
    for name in ("scan.jpg", "scan.JPEG", "dir/scan.jpe"):
        assert JPEG.output_name(name) == "scan.png"
    assert JPEG.output_name("scan.v2.jpg") == "scan.v2.png"
    assert JPEG.output_name("scan") == "scan.png"


def test_png_chunks_that_stay_true_are_kept() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    text = PngImagePlugin.PngInfo()
    text.add_text("Modality", "fundus")
    data = written(COLOR, dpi=(300, 300), pnginfo=text, icc_profile=profile)
    data = with_chunk(with_chunk(data, b"gAMA", struct.pack(">I", 45455)), b"tIME", b"\x07\xe0\1\1\1\1\1")
    with Image.open(io.BytesIO(protect(data))) as picture:
        picture.load()
        assert picture.info["dpi"] == pytest.approx((300, 300), abs=0.1)
        assert picture.info["icc_profile"] == profile
        # Text and EXIF wait in the record: they may hold a thumbnail of the unprotected image.
        assert "Modality" not in picture.info
        assert picture.info["gamma"] == pytest.approx(0.45455)
    assert b"tIME" not in protect(data) and b"fundus" not in protect(data)


def test_jpeg_headers_are_kept_but_not_private_exif() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Camera of Somebody"
    data = written(COLOR, "JPEG", dpi=(72, 72), icc_profile=profile, exif=exif)
    protected = protect(data)
    with Image.open(io.BytesIO(protected)) as picture:
        assert picture.getexif().get(0x0112) == 6
        assert picture.info["icc_profile"] == profile
        assert picture.info["dpi"] == pytest.approx((72, 72), abs=0.1)
    assert b"Somebody" not in protected
    opened = JPEG.open_source(data, "a.jpg")
    assert JPEG.rebuild(opened.shell, None) == data


def test_replaced_envelope() -> None:
    protected = protect(written(COLOR))
    changed = PNG.replace_envelope(protected, b"other")
    assert PNG.open_protected(changed).envelope == b"other"
    assert PNG.replace_envelope(changed, ENVELOPE) == protected
    for other in (written(COLOR), protect(written(COLOR), None)):
        with pytest.raises(NotProtectedError):
            PNG.replace_envelope(other, ENVELOPE)
    with pytest.raises(NotProtectedError):
        JPEG.replace_envelope(written(COLOR, "JPEG"), ENVELOPE)
    with pytest.raises(ValueError, match="empty"):
        PNG.replace_envelope(protected, b"")


def test_interlaced_png_is_exact() -> None:
    # Pillow writes none: Adam7 of a 1x1 image is one pass with one pixel.
    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 1)
    data = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0\x2a")) + chunk(b"IEND", b"")
    )
    opened = PNG.open_source(data, "a")
    assert opened.image.values.item() == 42
    assert PNG.rebuild(opened.shell, None) == data


def _palette() -> Image.Image:
    return Image.fromarray(COLOR).quantize(16)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (written(COLOR, save_all=True, append_images=[Image.fromarray(255 - COLOR)]), "animated PNG"),
        (written(Image.fromarray(COLOR).convert("CMYK"), "JPEG"), "CMYK JPEG"),
        (written(COLOR, "MPO", save_all=True, append_images=[Image.fromarray(COLOR)]), "MPO"),
        (written(COLOR)[:-5], "truncated"),
        (written(COLOR, "JPEG")[:-40], "JPEG file is damaged"),
        (written(COLOR, "JPEG")[:10], "JPEG file is damaged"),
        (written(COLOR, "BMP"), "BMP"),
        (written(COLOR, "GIF"), "GIF"),
        (written(COLOR, "WEBP"), "WebP"),
        (b"", "empty"),
        (b"hello", "not an image"),
    ],
)
def test_refused_by_name(data: bytes, reason: str) -> None:
    with pytest.raises(UnsupportedImageError, match=reason):
        carrier_for(data, "a").open_source(data, "a")


def as_png(rows: NDArray[Any], depth: int, color: int, *, interlace: bool = False, **options: Any) -> bytes:
    """A PNG file by pypng, which shares no code with what is tested; rows are ``(H, W * samples)``."""
    alpha, gray = color in (4, 6), color in (0, 4)
    count = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    kinds = {} if color == 3 else {"greyscale": gray, "alpha": alpha}
    out = io.BytesIO()
    writer = pypng.Writer(rows.shape[1] // count, len(rows), bitdepth=depth, interlace=interlace, **kinds, **options)
    writer.write(out, rows.tolist())
    return out.getvalue()


def by_pypng(data: bytes) -> NDArray[Any]:
    """Samples ``(H, W, samples)`` as pypng reads them."""
    width, height, rows, _ = pypng.Reader(bytes=data).read()
    return np.array([list(row) for row in rows]).reshape(height, width, -1)


KINDS = [(depth, color) for color in (0, 2, 4, 6) for depth in (1, 2, 4, 8, 16) if depth >= 8 or color == 0]


@pytest.mark.parametrize("interlace", [False, True])
@pytest.mark.parametrize(("depth", "color"), KINDS)
@pytest.mark.parametrize("size", [(9, 7), (1, 1), (2, 33)])
def test_every_depth_and_color_type(size: tuple[int, int], depth: int, color: int, interlace: bool) -> None:
    count = {0: 1, 2: 3, 4: 2, 6: 4}[color]
    stored = np.random.default_rng(depth + color).integers(0, 2**depth, (*size, count))
    data = as_png(stored.reshape(size[0], -1), depth, color, interlace=interlace)
    opened = PNG.open_source(data, "a.png")
    shown = stored * (255 // (2**depth - 1)) if depth < 8 else stored
    colors = 3 if count > 2 else 1
    assert opened.image.values.dtype == (np.uint16 if depth == 16 else np.uint8)
    assert np.array_equal(opened.image.values[0], shown[..., :colors])
    changed = np.iinfo(opened.image.values.dtype).max - opened.image.values
    protected = PNG.carry(data, opened, changed, ENVELOPE)
    held = PNG.open_protected(protected)
    assert np.array_equal(held.values, changed) and held.envelope == ENVELOPE
    # Another reader finds the marked colors, and the alpha of the source.
    read = by_pypng(protected)
    assert np.array_equal(read[..., :colors], changed[0]) and np.array_equal(read[..., colors:], stored[..., colors:])
    if depth < 16 or count == 1:
        with Image.open(io.BytesIO(protected)) as picture:
            assert np.array_equal(np.asarray(picture).reshape(read.shape), read)
    assert PNG.rebuild(opened.shell, None) == data
    assert protected[25] == color and protected[24] == max(depth, 8)


# ITK has no pixels of gray and alpha.
@pytest.mark.parametrize(("depth", "color"), [(depth, color) for depth, color in KINDS if color != 4])
def test_simpleitk_reads_what_was_written(depth: int, color: int, tmp_path: Path) -> None:
    itk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")
    count = {0: 1, 2: 3, 6: 4}[color]
    stored = np.random.default_rng(depth).integers(0, 2**depth, (9, 7, count))
    data = as_png(stored.reshape(9, -1), depth, color)
    opened = PNG.open_source(data, "a")
    changed = np.iinfo(opened.image.values.dtype).max - opened.image.values
    (tmp_path / "a.png").write_bytes(PNG.carry(data, opened, changed, ENVELOPE))
    read = itk.GetArrayFromImage(itk.ReadImage(str(tmp_path / "a.png"))).reshape(9, 7, -1)
    colors = changed.shape[3]
    assert np.array_equal(read[..., :colors], changed[0]) and np.array_equal(read[..., colors:], stored[..., colors:])


@pytest.mark.parametrize("kind", range(5))
def test_every_filter_of_16_bit_rgb(kind: int) -> None:
    # pypng writes no filters: here each is used on all rows.
    stored = np.random.default_rng(kind).integers(0, 2**16, (6, 5, 3)).astype(">u2")
    raw = stored.view(np.uint8).reshape(6, 30)
    rows, before = [], bytes(30)
    for row in raw:
        line = bytearray(row.tobytes())
        rows.append(bytes([kind]) + _filter(kind, line, before))
        before = bytes(line)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 5, 6, 16, 2, 0, 0, 0))
    body = header + chunk(b"IDAT", zlib.compress(b"".join(rows))) + chunk(b"IEND", b"")
    data = b"\x89PNG\r\n\x1a\n" + body
    assert np.array_equal(by_pypng(data), stored)
    assert np.array_equal(PNG.open_source(data, "a").image.values[0], stored)


def _filter(kind: int, line: bytes, before: bytes, size: int = 6) -> bytes:
    """One row filtered as the standard says, byte by byte."""
    out = bytearray()
    for at, value in enumerate(line):
        a, b = (line[at - size] if at >= size else 0), before[at]
        c = before[at - size] if at >= size else 0
        p = a + b - c
        nearest = min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]
        out.append((value - (0, a, b, (a + b) // 2, nearest)[kind]) % 256)
    return bytes(out)


@pytest.mark.parametrize("interlace", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 4, 8])
@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize("gray", [False, True])
def test_palettes_become_colors(depth: int, gray: bool, transparent: bool, interlace: bool) -> None:
    rng = np.random.default_rng(depth)
    colors = rng.integers(0, 256, (2**depth, 3))
    colors[:, 1:] = colors[:, :1] if gray else colors[:, 1:]
    opacity = rng.integers(0, 256, len(colors))
    entries = [tuple(map(int, c)) + ((int(o),) if transparent else ()) for c, o in zip(colors, opacity, strict=True)]
    indices = rng.integers(0, 2**depth, (9, 7))
    data = as_png(indices, depth, 3, palette=entries, interlace=interlace)
    opened = PNG.open_source(data, "a.png")
    assert np.array_equal(opened.image.values[0], colors[indices][..., : 1 if gray else 3])
    protected = PNG.carry(data, opened, 255 - opened.image.values, ENVELOPE)
    read = by_pypng(protected)
    assert np.array_equal(read[..., : 1 if gray else 3], 255 - opened.image.values[0])
    assert read.shape[2] == (1 if gray else 3) + transparent
    assert not transparent or np.array_equal(read[..., -1], opacity[indices])
    assert np.array_equal(PNG.open_protected(protected).values, 255 - opened.image.values)
    assert PNG.rebuild(opened.shell, None) == data


@pytest.mark.parametrize(("depth", "color"), [(4, 0), (8, 0), (16, 0), (8, 2), (16, 2)])
def test_a_transparent_color_becomes_alpha(depth: int, color: int) -> None:
    count = 3 if color else 1
    stored = np.random.default_rng(1).integers(0, 2**depth, (6, 5, count))
    key = stored[2, 3].copy()
    data = as_png(stored.reshape(6, -1), depth, color, transparent=tuple(map(int, key)) if color else int(key[0]))
    opened = PNG.open_source(data, "a.png")
    # Samples brought onto the transparent color, or off it, are seen or not seen as before.
    changed = np.full_like(opened.image.values, 0)
    read = by_pypng(PNG.carry(data, opened, changed, ENVELOPE))
    opaque = (stored != key).any(axis=2)
    assert np.array_equal(read[..., -1] > 0, opaque) and not opaque.all() and not read[..., :-1].any()
    assert PNG.rebuild(opened.shell, None) == data


def test_window_of_16_bit_gray_is_where_its_samples_are() -> None:
    measured = (np.arange(4096) % 4096).astype(np.uint16).reshape(64, 64)
    image = PNG.open_source(written(measured), "a").image
    assert tuple(image.bounds) == (0, 65535) and 0 < image.window.low < 50 < 4000 < image.window.high < 4096
    colors = PNG.open_source(as_png(np.zeros((4, 12), int), 16, 2), "a").image
    assert (colors.window.low, colors.window.high) == (0, 65535)


def test_orientation_and_how_pixels_are_shown() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Camera of Somebody"
    data = with_chunk(written(COLOR, exif=exif), b"sBIT", b"\5\5\5")
    protected = protect(data)
    with Image.open(io.BytesIO(protected)) as picture:
        assert picture.getexif().get(0x0112) == 6
    assert b"Somebody" not in protected and b"sBIT" in protected
    assert b"eXIf" not in protect(with_chunk(written(COLOR), b"eXIf", b"damaged"))
    # A palette's background is an index: beside colors it would mean something else.
    palette = with_chunk(written(_palette()), b"gAMA", struct.pack(">I", 45455))
    at = palette.index(b"IDAT") - 4
    palette = palette[:at] + chunk(b"bKGD", b"\3") + palette[at:]
    assert b"bKGD" not in protect(palette) and b"gAMA" in protect(palette)


def test_damaged_kinds_are_named() -> None:
    rgb16 = as_png(np.arange(36).reshape(3, 12), 16, 2)
    plain = zlib.decompress(rgb16[rgb16.index(b"IDAT") + 4 : -16])

    def made(raw: bytes, packed: bytes | None = None, header: tuple[int, ...] = (4, 3, 16, 2, 0, 0, 0)) -> bytes:
        body = chunk(b"IDAT", zlib.compress(raw) if packed is None else packed)
        return rgb16[:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", *header)) + body + chunk(b"IEND", b"")

    assert PNG.open_source(made(plain), "a").image.values.max() == 35
    palette = written(_palette())
    at = palette.index(b"PLTE") - 4
    (length,) = struct.unpack_from(">I", palette, at)
    for data, reason in (
        (made(plain[:-1]), "truncated"),
        (made(plain + b"x"), "declared size"),
        (made(b"\5" + plain[1:]), "unknown filter"),
        (made(b"", zlib.compress(plain)[:-2]), "declared size"),
        (made(b"", b"no zlib stream, and long enough"), "damaged"),
        (made(plain, header=(4, 3, 4, 2, 0, 0, 0)), "does not exist"),
        (made(plain, header=(4, 3, 8, 5, 0, 0, 0)), "does not exist"),
        (made(plain, header=(4, 3, 16, 2, 0, 1, 0)), "unknown compression"),
        (palette[:at] + palette[at + 12 + length :], "palette is missing"),
        (palette[:at] + chunk(b"PLTE", b"abc") + palette[at + 12 + length :], "does not fit"),
        (with_chunk(palette, b"PLTE", b"abc"), "twice"),
        (with_chunk(written(COLOR), b"tRNS", b"abc"), "transparent color"),
    ):
        with pytest.raises(UnsupportedImageError, match=reason):
            PNG.open_source(data, "a")


def test_declared_sizes_are_checked_before_memory_is_taken() -> None:
    data = written(GRAY)
    for width, height, reason in ((60000, 60000, "more than"), (9000, 9000, "truncated"), (0, 1, "no pixels")):
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
        with pytest.raises(UnsupportedImageError, match=reason):
            PNG.open_source(data[:8] + header + data[33:], "a")


def test_text_of_any_size_does_not_stop_a_png() -> None:
    bomb = with_chunk(written(GRAY), b"zTXt", b"key\0\0" + zlib.compress(bytes(3 * 2**20)))
    opened = PNG.open_source(bomb, "a")
    assert np.array_equal(opened.image.values[0, :, :, 0], GRAY)


def test_damage_is_named() -> None:
    protected = protect(written(COLOR))
    assert RECORD_CHUNK in protected
    for position in range(0, len(protected), 7):
        broken = bytearray(protected)
        broken[position] ^= 0x10
        with pytest.raises(TamperedError):
            PNG.open_protected(bytes(broken))
    for length in range(0, len(protected), 11):
        with pytest.raises(TamperedError):
            PNG.open_protected(protected[:length])
    with pytest.raises(TamperedError, match="after its end"):
        PNG.open_protected(protected + b"x")
    with pytest.raises(TamperedError, match="more than one"):
        PNG.open_protected(with_chunk(protected, RECORD_CHUNK, b"x"))
    animated = written(COLOR, save_all=True, append_images=[Image.fromarray(255 - COLOR)])
    with pytest.raises(TamperedError, match="converted"):
        PNG.open_protected(with_chunk(animated, RECORD_CHUNK, ENVELOPE))
    stripped = PNG.open_protected(written(COLOR))
    assert stripped.envelope is None and not stripped.marked


def test_wrong_arguments() -> None:
    data = written(COLOR)
    opened = PNG.open_source(data, "a")
    with pytest.raises(ValueError, match="empty"):
        PNG.carry(data, opened, opened.image.values, b"")
    with pytest.raises(ValueError, match="expected uint8"):
        PNG.carry(data, opened, opened.image.values[..., :1], ENVELOPE)


SEEDS = [
    written(GRAY),
    protect(written(COLOR)),
    written(COLOR, "JPEG"),
    written(GRAY, "JPEG", progressive=True),
    written(_palette(), transparency=3),
    protect(as_png(np.arange(36).reshape(3, 12), 16, 2, interlace=True)),
    as_png(np.arange(32).reshape(4, 8), 16, 4, interlace=True),
]


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 2**20), st.binary(min_size=1, max_size=4)), max_size=4),
    st.one_of(st.none(), st.integers(0, 2**20)),
    st.booleans(),
)
def test_only_named_errors_escape(seed: bytes, edits: list[tuple[int, bytes]], cut: int | None, mended: bool) -> None:
    data = bytearray(seed)
    for position, patch in edits:
        data[position % len(seed) : position % len(seed) + len(patch)] = patch
    if mended and seed.startswith(b"\x89PNG"):  # right checksum, so that damage gets past it
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    broken = bytes(data if cut is None else data[: cut % (len(data) + 1)])
    for carrier in (PNG, JPEG):
        for call in (carrier.open_protected, lambda b, c=carrier: c.replace_envelope(b, ENVELOPE), protect):
            try:
                call(broken)
            except MIADMarkError:
                pass


@pytest.mark.parametrize("density", [(1, 2), (3, 1)])
def test_pixels_of_a_jpeg_that_are_not_square_stay_so(density: tuple[int, int]) -> None:
    """JFIF may name a ratio instead of a resolution; PNG has the same in pHYs."""
    data = bytearray(written(COLOR, "JPEG"))
    at = data.index(b"JFIF\0") + 7
    struct.pack_into(">BHH", data, at, 0, *density)
    carrier = carrier_for(bytes(data), "a.jpg")
    opened = carrier.open_source(bytes(data), "a.jpg")
    protected = carrier.carry(bytes(data), opened, opened.image.values, ENVELOPE)
    at = protected.index(b"pHYs") + 4
    assert struct.unpack_from(">IIB", protected, at) == (*density, 0)

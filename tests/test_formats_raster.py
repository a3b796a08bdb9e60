# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""PNG and JPEG carriers: exact source files back, chunks kept, everything else refused by name."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
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
    return carrier.carry(data, opened, 255 - opened.image.values, envelope)


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
        (written(GRAY.astype(np.uint16) * 257), "16-bit grayscale PNG"),
        (written(_palette()), "palette PNG"),
        (written(Image.fromarray(COLOR).convert("RGBA")), "RGBA PNG"),
        (written(Image.fromarray(GRAY).convert("LA")), "grayscale with alpha PNG"),
        (written(Image.fromarray(GRAY).convert("1")), "1-bit grayscale PNG"),
        (written(COLOR, transparency=(1, 2, 3)), "tRNS"),
        (written(COLOR, save_all=True, append_images=[Image.fromarray(255 - COLOR)]), "animated PNG"),
        (written(Image.fromarray(COLOR).convert("CMYK"), "JPEG"), "CMYK JPEG"),
        (written(COLOR, "MPO", save_all=True, append_images=[Image.fromarray(COLOR)]), "MPO"),
        (written(COLOR)[:-5], "truncated"),
        (written(COLOR, "JPEG")[:-40], "JPEG file is damaged"),
        (written(COLOR, "JPEG")[:10], "JPEG file is damaged"),
        (written(COLOR, "TIFF"), "TIFF"),
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


def test_16_bit_rgb_is_not_taken_for_8_bit() -> None:
    # Pillow would drop the low byte without a word.
    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" + bytes(6))) + chunk(b"IEND", b"")
    with pytest.raises(UnsupportedImageError, match="16-bit RGB PNG"):
        PNG.open_source(b"\x89PNG\r\n\x1a\n" + body, "a")


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
    palette = with_chunk(written(_palette()), RECORD_CHUNK, ENVELOPE)
    with pytest.raises(TamperedError, match="converted"):
        PNG.open_protected(palette)
    stripped = PNG.open_protected(written(COLOR))
    assert stripped.envelope is None and not stripped.marked


def test_wrong_arguments() -> None:
    data = written(COLOR)
    opened = PNG.open_source(data, "a")
    with pytest.raises(ValueError, match="empty"):
        PNG.carry(data, opened, opened.image.values, b"")
    with pytest.raises(ValueError, match="expected uint8"):
        PNG.carry(data, opened, opened.image.values[..., :1], ENVELOPE)


SEEDS = [written(GRAY), protect(written(COLOR)), written(COLOR, "JPEG"), written(GRAY, "JPEG", progressive=True)]


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

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""PNG and JPEG sources: protected as PNG, the whole source file carried in the shell.

Neither a deflate stream nor a JPEG can be made again from pixels, so the recovery record holds the source file itself.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterable
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from monai_miadmark.errors import MIADMarkError, TamperedError, UnsupportedImageError
from monai_miadmark.formats.base import (
    OpenedSource,
    ProtectedFile,
    check_values,
    file_digest,
    missing_envelope,
    refuse_protected,
)
from monai_miadmark.image import Bounds, StoredImage, Window
from monai_miadmark.shell import CARRIED_FILE, SourceShell

__all__ = ["MAX_PIXELS", "RECORD_CHUNK", "JpegCarrier", "PngCarrier"]

MAX_PIXELS = 89_000_000
"""Largest raster image that is decoded; just below the size at which Pillow warns of a decompression bomb."""

RECORD_CHUNK = b"miRc"
"""Private ancillary chunk of the envelope; the last letter says that an editor may keep it although it knows it not."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHUNK_LIMIT = 2**31 - 1
_COLOR_TYPES = {0: ("grayscale", 1), 2: ("RGB", 3), 3: ("palette", 1), 4: ("grayscale with alpha", 2), 6: ("RGBA", 4)}
# Chunks that say how pixels are to be shown stay true for the marked pixels. All others wait in the record: EXIF and
# XMP may hold a thumbnail, a small copy of the unprotected image.
_SHOWN_AS = {b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"cICP", b"mDCV", b"cLLI", b"sBIT", b"bKGD", b"pHYs"}


class _Chunk(NamedTuple):
    """One PNG chunk, checked."""

    kind: bytes
    body: bytes


def _chunk_bytes(kind: bytes, body: bytes) -> bytes:
    """A chunk as it lies in the file."""
    if len(body) > _CHUNK_LIMIT:
        raise UnsupportedImageError(f"{len(body)} bytes do not fit a PNG chunk: use a sidecar")
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _write_chunks(chunks: Iterable[_Chunk]) -> bytes:
    """A PNG file of these chunks."""
    return _SIGNATURE + b"".join(_chunk_bytes(kind, body) for kind, body in chunks)


def _read_chunks(data: bytes) -> tuple[list[_Chunk], int]:
    """Chunks up to IEND, and where the file goes on after it.

    Raises:
        TamperedError: no PNG, truncated, or a wrong checksum.
    """
    if not data.startswith(_SIGNATURE):
        raise TamperedError("the PNG signature is damaged")
    chunks: list[_Chunk] = []
    at = len(_SIGNATURE)
    while True:
        if len(data) - at < 12:
            raise TamperedError("the PNG file is truncated")
        length, kind = struct.unpack_from(">I4s", data, at)
        # Compared before slicing: no memory is taken for a length that the file does not hold.
        if length > _CHUNK_LIMIT or length > len(data) - at - 12:
            raise TamperedError("the PNG file is truncated, or a chunk length is damaged")
        body = data[at + 8 : at + 8 + length]
        (crc,) = struct.unpack_from(">I", data, at + 8 + length)
        if zlib.crc32(body, zlib.crc32(kind)) != crc:
            raise TamperedError("a PNG chunk is damaged (wrong CRC)")
        at += 12 + length
        chunks.append(_Chunk(kind, body))
        if kind == b"IEND":
            break
    if chunks[0].kind != b"IHDR" or len(chunks[0].body) != 13 or sum(c.kind == b"IHDR" for c in chunks) != 1:
        raise TamperedError("the PNG header chunk is missing or damaged")
    return chunks, at


def _decode_png(chunks: list[_Chunk]) -> NDArray[np.uint8]:
    """``(1, H, W, C)`` samples of an 8-bit gray or RGB PNG.

    Raises:
        UnsupportedImageError: another kind of PNG, by name.
        TamperedError: pixel data that do not decode.
    """
    width, height, depth, color, method, filtering, interlace = struct.unpack(">IIBBBBB", chunks[0].body)
    kinds = {chunk.kind for chunk in chunks}
    kind, channels = _COLOR_TYPES.get(color, (f"color type {color}", 0))
    if depth != 8 or color not in (0, 2):
        raise UnsupportedImageError(f"{depth}-bit {kind} PNG is not supported (8-bit grayscale and RGB are)")
    if b"acTL" in kinds:
        raise UnsupportedImageError("animated PNG is not supported")
    if b"tRNS" in kinds:
        raise UnsupportedImageError("PNG with a transparent color (tRNS) is not supported")
    if method or filtering or interlace > 1:
        raise UnsupportedImageError("PNG with an unknown compression, filter or interlace method is not supported")
    _check_size(width, height)
    packed = b"".join(chunk.body for chunk in chunks if chunk.kind == b"IDAT")
    # Deflate packs at most 1032:1, so fewer bytes than this cannot hold the pixels that the header declares.
    if width * height * channels > 1032 * len(packed) + 1032:
        raise TamperedError("the PNG pixel data are truncated")
    # Only the chunks that make pixels reach Pillow: text chunks of any size cannot stop it.
    plain = _write_chunks([chunks[0], _Chunk(b"IDAT", packed), _Chunk(b"IEND", b"")])
    try:
        with Image.open(io.BytesIO(plain), formats=["PNG"]) as picture:
            values = np.array(picture)
    except Exception as error:  # Pillow raises many kinds for damaged data; none may reach the caller raw
        raise TamperedError("the PNG pixel data are damaged") from error
    return _as_samples(values, height, width, channels)


def _as_samples(values: NDArray[Any], height: int, width: int, channels: int) -> NDArray[np.uint8]:
    """``(1, H, W, C)`` from what Pillow gave."""
    if values.dtype != np.uint8 or values.size != height * width * channels:
        raise TamperedError("the pixel data do not have the declared size")
    return np.ascontiguousarray(values).reshape(1, height, width, channels)


def _check_size(width: int, height: int) -> None:
    """Raise for images that are empty or too large to decode in bounded memory."""
    if not width or not height:
        raise UnsupportedImageError("the image has no pixels")
    if width * height > MAX_PIXELS:
        raise UnsupportedImageError(f"{width} x {height} pixels are more than the {MAX_PIXELS} that are supported")


def _encode_png(values: NDArray[Any], kept: Iterable[_Chunk], envelope: bytes | None) -> bytes:
    """PNG file of ``(1, H, W, C)`` uint8 samples; the record chunk is empty where the record goes to a sidecar."""
    plain = io.BytesIO()
    Image.fromarray(values[0, :, :, 0] if values.shape[3] == 1 else values[0]).save(plain, "PNG")
    chunks, _ = _read_chunks(plain.getvalue())
    pixels = [chunk for chunk in chunks if chunk.kind == b"IDAT"]
    # The record stands before the pixels, so that a file cut short in transfer loses pixels rather than the record.
    record = _Chunk(RECORD_CHUNK, envelope or b"")
    return _write_chunks([chunks[0], *kept, record, *pixels, _Chunk(b"IEND", b"")])


def _opened(values: NDArray[np.uint8], data: bytes, name: str, format_name: str) -> OpenedSource:
    """Source of 8-bit samples whose file is carried whole."""
    image = StoredImage(values, Bounds(0, 255), Window(0, 255))
    return OpenedSource(image, SourceShell(format_name, PurePath(name).name, {}, {CARRIED_FILE: data}))


def _carried_file(shell: SourceShell) -> bytes:
    """The whole source file in the shell."""
    try:
        return shell.blobs[CARRIED_FILE]
    except KeyError as error:
        raise TamperedError(f"the recovery record lacks the {shell.format} source file") from error


class PngCarrier:
    """8-bit gray and RGB PNG."""

    name = "png"

    def matches(self, data: bytes) -> bool:
        """See :class:`~monai_miadmark.formats.base.Carrier`."""
        return data.startswith(_SIGNATURE)

    def open_source(self, data: bytes, name: str) -> OpenedSource:
        """See :class:`~monai_miadmark.formats.base.Carrier`."""
        try:
            chunks, _ = _read_chunks(data)
            refuse_protected(any(chunk.kind == RECORD_CHUNK for chunk in chunks))
            values = _decode_png(chunks)
        except TamperedError as error:
            raise UnsupportedImageError(f"not a valid PNG file: {error}") from error
        return _opened(values, data, name, self.name)

    def rebuild(self, shell: SourceShell, values: NDArray[Any] | None) -> bytes:
        """See :class:`~monai_miadmark.formats.base.Carrier`; the samples are not looked at."""
        return _carried_file(shell)

    def carry(self, data: bytes, opened: OpenedSource, values: NDArray[Any], envelope: bytes | None) -> bytes:
        """See :class:`~monai_miadmark.formats.base.Carrier`; chunks that stay true for marked pixels are kept."""
        check_values(opened, values, envelope)
        chunks, _ = _read_chunks(data)
        kept = [chunk for chunk in chunks if chunk.kind in _SHOWN_AS]
        return _encode_png(values, kept, envelope)

    def open_protected(self, data: bytes) -> ProtectedFile:
        """See :class:`~monai_miadmark.formats.base.Carrier`."""
        chunks, end = _read_chunks(data)
        records = [chunk.body for chunk in chunks if chunk.kind == RECORD_CHUNK]
        try:
            if len(records) > 1:
                raise TamperedError("the PNG file holds more than one recovery record")
            if records and end != len(data):
                raise TamperedError("the protected PNG file has data after its end")
            return ProtectedFile(_decode_png(chunks), (records[0] or None) if records else None, bool(records))
        except UnsupportedImageError as error:
            if not records:
                raise
            raise TamperedError(f"the protected file was converted: {error}") from error

    def replace_envelope(self, data: bytes, envelope: bytes) -> bytes:
        """See :class:`~monai_miadmark.formats.base.Carrier`."""
        if not envelope:
            raise ValueError("the envelope is empty")
        if self.open_protected(data).envelope is None:
            raise missing_envelope()
        chunks, _ = _read_chunks(data)
        return _write_chunks(_Chunk(c.kind, envelope) if c.kind == RECORD_CHUNK else c for c in chunks)

    def output_name(self, name: str) -> str:
        """The same name."""
        return PurePath(name).name

    def file_digest(self, data: bytes) -> bytes:
        """SHA-256 of the file."""
        return file_digest(data)


class JpegCarrier:
    """Gray and RGB JPEG, as a source only: marked pixels would not survive lossy compression, so PNG is written."""

    name = "jpeg"

    def matches(self, data: bytes) -> bool:
        """See :class:`~monai_miadmark.formats.base.Carrier`."""
        return data.startswith(b"\xff\xd8\xff")

    def open_source(self, data: bytes, name: str) -> OpenedSource:
        """See :class:`~monai_miadmark.formats.base.Carrier`."""
        values, _ = self._decode(data)
        return _opened(values, data, name, self.name)

    def rebuild(self, shell: SourceShell, values: NDArray[Any] | None) -> bytes:
        """See :class:`~monai_miadmark.formats.base.Carrier`; the samples are not looked at."""
        return _carried_file(shell)

    def carry(self, data: bytes, opened: OpenedSource, values: NDArray[Any], envelope: bytes | None) -> bytes:
        """See :class:`~monai_miadmark.formats.base.Carrier`; color profile, resolution and orientation are kept."""
        check_values(opened, values, envelope)
        _, kept = self._decode(data)
        return _encode_png(values, kept, envelope)

    def open_protected(self, data: bytes) -> ProtectedFile:
        """A JPEG file is never a protected one: what is marked is written as PNG."""
        values, _ = self._decode(data)
        return ProtectedFile(values, None)

    def replace_envelope(self, data: bytes, envelope: bytes) -> bytes:
        """A JPEG file carries no envelope."""
        raise missing_envelope()

    def output_name(self, name: str) -> str:
        """The name with ``.png`` in place of ``.jpg`` or ``.jpeg``."""
        path = PurePath(PurePath(name).name)
        return f"{path.stem}.png" if path.suffix.lower() in (".jpg", ".jpeg", ".jpe", ".jfif") else f"{path.name}.png"

    def file_digest(self, data: bytes) -> bytes:
        """SHA-256 of the file."""
        return file_digest(data)

    def _decode(self, data: bytes) -> tuple[NDArray[np.uint8], list[_Chunk]]:
        """``(1, H, W, C)`` samples, and PNG chunks that say the same of them as the JPEG headers did."""
        try:
            # MPO is a JPEG with further pictures behind it; named here, so that it can be refused by name.
            with Image.open(io.BytesIO(data), formats=["JPEG", "MPO"]) as picture:
                if picture.format == "MPO" and getattr(picture, "n_frames", 1) > 1:
                    raise UnsupportedImageError("JPEG with more than one picture (MPO) is not supported")
                if picture.mode not in ("L", "RGB"):
                    raise UnsupportedImageError(f"{picture.mode} JPEG is not supported (grayscale and RGB are)")
                width, height = picture.size
                _check_size(width, height)
                kept = _described(picture)
                values = np.array(picture)
            return _as_samples(values, height, width, values.shape[2] if values.ndim == 3 else 1), kept
        except MIADMarkError:
            raise
        except Image.DecompressionBombError as error:
            raise UnsupportedImageError(f"JPEG of more than {MAX_PIXELS} pixels is not supported") from error
        except Exception as error:  # Pillow raises many kinds for damaged data; none may reach the caller raw
            raise UnsupportedImageError("the JPEG file is damaged, truncated or of an unknown kind") from error


def _described(picture: Image.Image) -> list[_Chunk]:
    """iCCP, pHYs and eXIf chunks from an open JPEG; of EXIF only the orientation, without which it shows turned."""
    chunks: list[_Chunk] = []
    profile = picture.info.get("icc_profile")
    if isinstance(profile, bytes) and profile:
        chunks.append(_Chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(profile)))
    density = picture.info.get("dpi")
    if isinstance(density, tuple) and len(density) == 2:
        per_metre = [round(float(value) / 0.0254) for value in density]
        if all(0 < value < 2**31 for value in per_metre):
            chunks.append(_Chunk(b"pHYs", struct.pack(">IIB", *per_metre, 1)))
    try:
        orientation = picture.getexif().get(0x0112)
    except Exception:  # damaged EXIF does not harm the pixels, and the source file is carried as it is
        orientation = None
    if isinstance(orientation, int) and 2 <= orientation <= 8:
        exif = Image.Exif()
        exif[0x0112] = orientation
        chunks.append(_Chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")))
    return chunks

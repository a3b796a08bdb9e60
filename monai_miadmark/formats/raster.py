# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""PNG and JPEG sources: protected as PNG, the whole source file carried in the shell.

Neither a deflate stream nor a JPEG can be made again from pixels, so the recovery record holds the source file itself.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from monai_miadmark.errors import MIADMarkError, TamperedError, TooLargeError, UnsupportedImageError, check_memory
from monai_miadmark.formats.base import (
    FoundRecord,
    OpenedSource,
    ProtectedFile,
    check_values,
    file_digest,
    missing_envelope,
    refuse_protected,
)
from monai_miadmark.formats.copies import clean_profile
from monai_miadmark.formats.display import digest_of
from monai_miadmark.formats.png_chunks import SIGNATURE, Chunk, read_chunks, write_chunks
from monai_miadmark.formats.png_pixels import MAX_PIXELS, check_size, decode_pixels, encode_pixels
from monai_miadmark.formats.ranges import raster_window, value_bounds
from monai_miadmark.image import StoredImage
from monai_miadmark.shell import CARRIED_FILE, SourceShell

__all__ = ["MAX_PIXELS", "RECORD_CHUNK", "JpegCarrier", "PngCarrier"]

RECORD_CHUNK = b"miRc"
"""Private ancillary chunk of the envelope; the last letter says that an editor may keep it although it knows it not."""

_START_OF_SCAN = b"\xff\xda"
_MAX_SCANS = 100
"""Encoders make about ten. Each takes its time for all pixels, an empty one only some twenty bytes: without a limit, a
file of some hundred kilobytes would take minutes."""

# Chunks that say how pixels are to be shown stay true for the marked pixels, the last two only where the samples keep
# their kind; with their lengths, since what is longer holds something else. All others wait in the record: text, EXIF
# and XMP may name the patient or hold a thumbnail, a small copy of the unprotected image.
_SHOWN_AS = {
    **{b"gAMA": (4,), b"cHRM": (32,), b"sRGB": (1,), b"cICP": (4,), b"mDCV": (24,), b"cLLI": (8,)},
    **{b"pHYs": (9,), b"oFFs": (9,), b"sTER": (1,)},
}
_OF_THIS_KIND = {b"sBIT": (1, 2, 3, 4), b"bKGD": (2, 6)}
_PROFILE_LIMIT = 1 << 23
# Chunks that the display does not hang on, or that samples and alpha speak for.
_NOT_SHOWN = {
    b"IHDR",
    b"IDAT",
    b"IEND",
    b"PLTE",
    b"tRNS",
    b"hIST",
    b"sPLT",
    b"tEXt",
    b"zTXt",
    b"iTXt",
    b"tIME",
    RECORD_CHUNK,
}


def _encode_png(
    values: NDArray[Any], alpha: NDArray[Any] | None, kept: Iterable[Chunk], envelope: bytes | None
) -> bytes:
    """PNG file of ``(1, H, W, C)`` samples; the record chunk is empty where the record goes to a sidecar."""
    header, *pixels = encode_pixels(values, alpha)
    # The record stands before the pixels, so that a file cut short in transfer loses pixels rather than the record.
    record = Chunk(RECORD_CHUNK, envelope or b"")
    return write_chunks([header, *kept, record, *pixels, Chunk(b"IEND", b"")])


def _opened(values: NDArray[Any], data: bytes, name: str, format_name: str) -> OpenedSource:
    """Source of 8-bit or 16-bit samples whose file is carried whole."""
    image = StoredImage(values, value_bounds(values), raster_window(values))
    return OpenedSource(image, SourceShell(format_name, PurePath(name).name, {}, {CARRIED_FILE: data}))


def _carried_file(shell: SourceShell) -> bytes:
    """The whole source file in the shell."""
    try:
        return shell.blobs[CARRIED_FILE]
    except KeyError as error:
        raise TamperedError(f"the recovery record lacks the {shell.format} source file") from error


class PngCarrier:
    """PNG of every color type and depth, still images only.

    Samples are colors of 8 or 16 bits: palettes and fewer bits are widened, so such files are protected as 8-bit gray
    or RGB. Transparency is kept as alpha and is neither marked nor part of the pixel digest.
    """

    name = "png"

    def matches(self, data: bytes) -> bool:
        """See :class:`~monai_miadmark.formats.base.Carrier`."""
        return data.startswith(SIGNATURE)

    def open_source(self, data: bytes, name: str) -> OpenedSource:
        """See :class:`~monai_miadmark.formats.base.Carrier`."""
        try:
            chunks, _ = read_chunks(data)
            refuse_protected(any(chunk.kind == RECORD_CHUNK for chunk in chunks))
            pixels = decode_pixels(chunks)
        except TamperedError as error:
            raise UnsupportedImageError(f"not a valid PNG file: {error}") from error
        labels = "palette of few colors in flat areas" if pixels.labels else None
        return replace(_opened(pixels.values, data, name, self.name), labels=labels)

    def rebuild(self, shell: SourceShell, values: NDArray[Any] | None) -> bytes:
        """See :class:`~monai_miadmark.formats.base.Carrier`; the samples are not looked at."""
        return _carried_file(shell)

    def carry(self, data: bytes, opened: OpenedSource, values: NDArray[Any], envelope: bytes | None) -> bytes:
        """See :class:`~monai_miadmark.formats.base.Carrier`; chunks that stay true for marked pixels are kept."""
        check_values(opened, values, envelope)
        alpha, kept = self._shown(data)
        return _encode_png(values, alpha, kept, envelope)

    def display_digest(self, data: bytes) -> bytes:
        """See :class:`~monai_miadmark.formats.base.Carrier`."""
        chunks, _ = read_chunks(data)
        if all(chunk.kind != RECORD_CHUNK for chunk in chunks):
            return _display_digest(*self._shown(data))
        return _display_digest(decode_pixels(chunks).alpha, [chunk for chunk in chunks if chunk.kind not in _NOT_SHOWN])

    def _shown(self, data: bytes) -> tuple[NDArray[Any] | None, list[Chunk]]:
        """Alpha of a source, and the chunks that stay true for marked pixels."""
        chunks, _ = read_chunks(data)
        pixels = decode_pixels(chunks)
        true = _SHOWN_AS | _OF_THIS_KIND if pixels.as_stored else _SHOWN_AS
        kept = [chunk for chunk in chunks if len(chunk.body) in true.get(chunk.kind, ())]
        kept += [made for chunk in chunks if chunk.kind == b"iCCP" for made in _profile_chunk(_profile_of(chunk))][:1]
        exif = [chunk for chunk in chunks if chunk.kind == b"eXIf"][:1]
        kept += [made for chunk in exif for made in _orientation(partial(_exif_of, chunk))]
        return pixels.alpha, kept

    def open_protected(self, data: bytes) -> ProtectedFile:
        """See :class:`~monai_miadmark.formats.base.Carrier`."""
        chunks, end = read_chunks(data)
        found = _record_of(chunks, end, data)
        try:
            return ProtectedFile(decode_pixels(chunks).values, found.envelope, found.marked)
        except UnsupportedImageError as error:
            if not found.marked or isinstance(error, TooLargeError):
                raise
            raise TamperedError(f"the protected file was converted: {error}") from error

    def open_record(self, data: bytes) -> FoundRecord:
        """See :class:`~monai_miadmark.formats.base.Carrier`."""
        chunks, end = read_chunks(data)
        return _record_of(chunks, end, data)

    def replace_envelope(self, data: bytes, envelope: bytes) -> bytes:
        """See :class:`~monai_miadmark.formats.base.Carrier`."""
        if not envelope:
            raise ValueError("the envelope is empty")
        if self.open_protected(data).envelope is None:
            raise missing_envelope()
        chunks, _ = read_chunks(data)
        return write_chunks(Chunk(c.kind, envelope) if c.kind == RECORD_CHUNK else c for c in chunks)

    def output_name(self, name: str) -> str:
        """The same name."""
        return PurePath(name).name

    def file_digest(self, data: bytes) -> bytes:
        """SHA-256 of the file."""
        return file_digest(data)


def _record_of(chunks: list[Chunk], end: int, data: bytes) -> FoundRecord:
    """The record among the chunks of a file."""
    records = [chunk.body for chunk in chunks if chunk.kind == RECORD_CHUNK]
    if len(records) > 1:
        raise TamperedError("the PNG file holds more than one recovery record")
    if records and end != len(data):
        raise TamperedError("the protected PNG file has data after its end")
    return FoundRecord((records[0] or None) if records else None, bool(records))


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
        return _encode_png(values, None, kept, envelope)

    def display_digest(self, data: bytes) -> bytes:
        """See :class:`~monai_miadmark.formats.base.Carrier`."""
        return _display_digest(None, self._decode(data)[1])

    def open_protected(self, data: bytes) -> ProtectedFile:
        """A JPEG file is never a protected one: what is marked is written as PNG."""
        values, _ = self._decode(data)
        return ProtectedFile(values, None)

    def open_record(self, data: bytes) -> FoundRecord:
        """There is none."""
        return FoundRecord(None, False)

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

    def _decode(self, data: bytes) -> tuple[NDArray[np.uint8], list[Chunk]]:
        """``(1, H, W, C)`` samples, and PNG chunks that say the same of them as the JPEG headers did."""
        if data.count(_START_OF_SCAN) > _MAX_SCANS:
            raise UnsupportedImageError(f"JPEG of more than {_MAX_SCANS} scans is not supported")
        try:
            # MPO is a JPEG with further pictures behind it; named here, so that it can be refused by name.
            with Image.open(io.BytesIO(data), formats=["JPEG", "MPO"]) as picture:
                if picture.format == "MPO" and getattr(picture, "n_frames", 1) > 1:
                    raise UnsupportedImageError("JPEG with more than one picture (MPO) is not supported")
                if picture.mode not in ("L", "RGB"):
                    raise UnsupportedImageError(f"{picture.mode} JPEG is not supported (grayscale and RGB are)")
                width, height = picture.size
                check_size(width, height)
                kept = _described(picture)
                values = np.array(picture)
            if values.dtype != np.uint8 or values.shape[:2] != (height, width):
                raise UnsupportedImageError("the JPEG pixels do not have the declared size")
            return values.reshape(1, height, width, -1), kept
        except MIADMarkError:
            raise
        except Image.DecompressionBombError as error:
            raise UnsupportedImageError(f"JPEG of more than {MAX_PIXELS} pixels is not supported") from error
        except Exception as error:  # Pillow raises many kinds for damaged data; none may reach the caller raw
            check_memory(error)
            raise UnsupportedImageError("the JPEG file is damaged, truncated or of an unknown kind") from error


def _display_digest(alpha: NDArray[Any] | None, chunks: list[Chunk]) -> bytes:
    """Digest of transparency and chunks; the same profile in another compression is the same."""
    parts = [
        (chunk.kind.decode("latin-1"), _profile_of(chunk) if chunk.kind == b"iCCP" else chunk.body) for chunk in chunks
    ]
    if alpha is not None:
        parts.append((f"alpha {alpha.dtype.name}", alpha.astype(alpha.dtype.newbyteorder("<")).tobytes()))
    return digest_of("png", parts)


def _described(picture: Image.Image) -> list[Chunk]:
    """iCCP, pHYs and eXIf chunks from an open JPEG; of EXIF only the orientation, without which it shows turned."""
    chunks: list[Chunk] = []
    profile = picture.info.get("icc_profile")
    if isinstance(profile, bytes):
        chunks += _profile_chunk(profile)
    density = picture.info.get("dpi")
    if isinstance(density, tuple) and len(density) == 2:
        per_metre = [round(float(value) / 0.0254) for value in density]
        if all(0 < value < 2**31 for value in per_metre):
            chunks.append(Chunk(b"pHYs", struct.pack(">IIB", *per_metre, 1)))
    ratio = picture.info.get("jfif_density")
    if not any(chunk.kind == b"pHYs" for chunk in chunks) and picture.info.get("jfif_unit") == 0 and ratio:
        if ratio[0] != ratio[1] and min(ratio) > 0:  # no resolution, but pixels that are not square
            chunks.append(Chunk(b"pHYs", struct.pack(">IIB", *ratio, 0)))
    return chunks + _orientation(picture.getexif)


def _profile_of(chunk: Chunk) -> bytes:
    """The color profile in an iCCP chunk; empty where it is damaged or longer than any that is kept."""
    _, zero, packed = chunk.body.partition(b"\0")
    if not zero or packed[:1] != b"\0":
        return b""
    stream = zlib.decompressobj()
    try:
        profile = stream.decompress(packed[1:], _PROFILE_LIMIT)
    except zlib.error:
        return b""
    return profile if stream.eof else b""


def _profile_chunk(profile: bytes) -> list[Chunk]:
    """iCCP chunk with what of a profile converts colors; empty where that is nothing."""
    clean = clean_profile(profile)
    return [] if clean is None else [Chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(clean))]


def _exif_of(chunk: Chunk) -> Image.Exif:
    """EXIF of an eXIf chunk."""
    exif = Image.Exif()
    exif.load(b"Exif\0\0" + chunk.body)
    return exif


def _orientation(read: Callable[[], Image.Exif]) -> list[Chunk]:
    """eXIf chunk with the orientation alone; empty where there is none, or the EXIF is damaged."""
    try:
        orientation = read().get(0x0112)
    except Exception as error:  # damaged EXIF does not harm the pixels, and the source file is carried as it is
        check_memory(error)
        return []
    if not isinstance(orientation, int) or not 2 <= orientation <= 8:
        return []
    exif = Image.Exif()
    exif[0x0112] = orientation
    return [Chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))]

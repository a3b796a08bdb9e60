# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""What a compressed frame says of its own size, read before any decoder allocates for it.

Decoders trust the code stream and not the data set around it: a few hundred bytes may ask for gigabytes.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from monai_miadmark.errors import UnsupportedImageError

__all__ = ["StreamHead", "jpeg2000_head", "jpeg_head"]

_MAX_MARKERS = 4096
_JP2_SIGNATURE = b"\0\0\0\x0cjP  "
_MAX_BOXES = 64
_MAX_TILES = 65535


class StreamHead(NamedTuple):
    """Size that a code stream declares.

    Attributes:
        rows: lines of the image.
        columns: samples of a line.
        samples: components.
        bits: precision of a sample.
        reversible: whether the coding can be without loss (JPEG 2000: the 5/3 transform; JPEG: lossless, JPEG-LS).
    """

    rows: int
    columns: int
    samples: int
    bits: int
    reversible: bool


def jpeg_head(frame: bytes) -> StreamHead:
    """Head of a JPEG or JPEG-LS code stream.

    Raises:
        UnsupportedImageError: not one, or its frame header is not found.
    """
    if frame[:2] != b"\xff\xd8":
        raise _damaged("JPEG")
    at = 2
    for _ in range(_MAX_MARKERS):
        if len(frame) - at < 4 or frame[at] != 0xFF:
            break
        kind = frame[at + 1]
        if kind == 0xFF:  # fill byte
            at += 1
            continue
        (length,) = struct.unpack_from(">H", frame, at + 2)
        if kind == 0xDA or length < 2 or length > len(frame) - at - 2:
            break
        if kind == 0xF7 or (0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC)):
            if length < 8:
                break
            bits, rows, columns, samples = struct.unpack_from(">BHHB", frame, at + 4)
            return StreamHead(rows, columns, samples, bits, kind in (0xC3, 0xF7))
        at += 2 + length
    raise _damaged("JPEG")


def jpeg2000_head(frame: bytes) -> StreamHead:
    """Head of a JPEG 2000 (HTJ2K) code stream, bare or in a JP2 file.

    Raises:
        UnsupportedImageError: not one, or of a kind that no decoder should be asked for.
    """
    at = _code_stream(frame)
    if frame[at : at + 4] != b"\xff\x4f\xff\x51" or len(frame) - at < 42:
        raise _damaged("JPEG 2000")
    size, _, x1, y1, x0, y0, tile_x, tile_y, tile_x0, tile_y0, samples = struct.unpack_from(">HH8IH", frame, at + 4)
    if size != 38 + 3 * samples or not samples or len(frame) - at - 4 < size or x1 <= x0 or y1 <= y0:
        raise _damaged("JPEG 2000")
    if not tile_x or not tile_y or tile_x0 > x0 or tile_y0 > y0:
        raise _damaged("JPEG 2000")
    if -(-(x1 - tile_x0) // tile_x) * -(-(y1 - tile_y0) // tile_y) > _MAX_TILES:
        raise UnsupportedImageError(f"JPEG 2000 of more than {_MAX_TILES} tiles is not supported")
    components = frame[at + 42 : at + 42 + 3 * samples]
    if components[1::3].strip(b"\x01") or components[2::3].strip(b"\x01"):
        raise UnsupportedImageError("JPEG 2000 with components of different sizes is not supported")
    reversible = _reversible(frame, at + 4 + size)
    return StreamHead(y1 - y0, x1 - x0, samples, max(b & 0x7F for b in components[::3]) + 1, reversible)


def _code_stream(frame: bytes) -> int:
    """Where the code stream begins; some writers wrap it in a JP2 file although DICOM wants it bare."""
    if not frame.startswith(_JP2_SIGNATURE):
        return 0
    at = 0
    for _ in range(_MAX_BOXES):
        if len(frame) - at < 16:
            break
        length, kind = struct.unpack_from(">I4s", frame, at)
        head = 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", frame, at + 8)
            head = 16
        if kind == b"jp2c":
            return at + head
        if length < head:
            break
        at += length
    raise _damaged("JPEG 2000")


def _reversible(frame: bytes, at: int) -> bool:
    """Whether the main header's coding style has the 5/3 transform; false where it is not found."""
    for _ in range(_MAX_MARKERS):
        if len(frame) - at < 14 or frame[at] != 0xFF or frame[at + 1] == 0x90:  # SOT ends the main header
            return False
        (length,) = struct.unpack_from(">H", frame, at + 2)
        if frame[at + 1] == 0x52:
            return length >= 12 and frame[at + 13] == 1
        if length < 2:
            return False
        at += 2 + length
    return False


def _damaged(kind: str) -> UnsupportedImageError:
    """Error for a stream that does not begin as its kind does."""
    return UnsupportedImageError(f"a compressed frame is not a valid {kind} code stream")

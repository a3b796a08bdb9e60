# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""PNG as a row of chunks: reading with every length and checksum checked, writing.

Layout: https://www.w3.org/TR/png-3/
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from typing import NamedTuple

from monai_miadmark.errors import TamperedError, UnsupportedImageError

__all__ = ["SIGNATURE", "Chunk", "read_chunks", "write_chunks"]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_LIMIT = 2**31 - 1
_MAX_CHUNKS = 1 << 18
"""Chunks that are read: twice what a gigabyte takes in the chunks of 8 KiB that libpng writes."""


class Chunk(NamedTuple):
    """One PNG chunk, checked."""

    kind: bytes
    body: bytes


def write_chunks(chunks: Iterable[Chunk]) -> bytes:
    """A PNG file of these chunks.

    Raises:
        UnsupportedImageError: one of them is longer than a chunk can be.
    """
    return SIGNATURE + b"".join(_chunk_bytes(kind, body) for kind, body in chunks)


def read_chunks(data: bytes) -> tuple[list[Chunk], int]:
    """Chunks up to IEND, and where the file goes on after it.

    Raises:
        TamperedError: no PNG, truncated, or a wrong checksum.
        UnsupportedImageError: more chunks than are read.
    """
    if not data.startswith(SIGNATURE):
        raise TamperedError("the PNG signature is damaged")
    chunks: list[Chunk] = []
    at = len(SIGNATURE)
    while True:
        if len(data) - at < 12:
            raise TamperedError("the PNG file is truncated")
        length, kind = struct.unpack_from(">I4s", data, at)
        # Compared before slicing: no memory is taken for a length that the file does not hold.
        if length > _LIMIT or length > len(data) - at - 12:
            raise TamperedError("the PNG file is truncated, or a chunk length is damaged")
        body = data[at + 8 : at + 8 + length]
        (crc,) = struct.unpack_from(">I", data, at + 8 + length)
        if zlib.crc32(body, zlib.crc32(kind)) != crc:
            raise TamperedError("a PNG chunk is damaged (wrong CRC)")
        at += 12 + length
        chunks.append(Chunk(kind, body))
        if len(chunks) > _MAX_CHUNKS:
            raise UnsupportedImageError(f"PNG of more than {_MAX_CHUNKS} chunks is not supported")
        if kind == b"IEND":
            break
    if chunks[0].kind != b"IHDR" or len(chunks[0].body) != 13 or sum(c.kind == b"IHDR" for c in chunks) != 1:
        raise TamperedError("the PNG header chunk is missing or damaged")
    return chunks, at


def _chunk_bytes(kind: bytes, body: bytes) -> bytes:
    """A chunk as it lies in the file."""
    if len(body) > _LIMIT:
        raise UnsupportedImageError(f"{len(body)} bytes do not fit a PNG chunk: use a sidecar")
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

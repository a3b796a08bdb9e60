# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""FreeSurfer's MGH (``.mgh``, ``.mgz``): samples by byte splice, the record as a tag at the end, which it skips.

Layout: https://surfer.nmr.mgh.harvard.edu/fswiki/FsTutorial/MghFormat
"""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from dataclasses import replace

from monai_miadmark.errors import TamperedError, UnsupportedImageError, check_memory
from monai_miadmark.formats.base import BLOCK_MAGIC, MAX_FILE_BYTES, SampleLayout
from monai_miadmark.formats.limits import check_decoded
from monai_miadmark.formats.orientation import flips_for_display
from monai_miadmark.formats.volumes import Volume, VolumeCarrier, shape_of

__all__ = ["RECORD_TAG", "MghCarrier"]

RECORD_TAG = 0x4D494144
"""Code of the tag that holds the carrier block; FreeSurfer numbers its own from 1 to a few thousand."""

_GZIP = b"\x1f\x8b"
_HEADER = 284
_DIRECTIONS = 90
"""Sizes, type, spacing and directions; the rest of the header is not used."""

_SCAN_PARAMETERS = 20
_COLOR_TABLE = b"\0\0\0\1"
_PIECE_BYTES = 1 << 20
_TAG = struct.Struct(">iq")
_TYPES = {0: "uint8", 1: "int32", 3: "float32", 4: "int16", 10: "uint16"}


class MghCarrier(VolumeCarrier):
    """MGH volumes, plain or in gzip."""

    name = "mgh"
    title = "MGH"

    def matches(self, data: bytes) -> bool:
        """See :class:`~monai_miadmark.formats.base.Carrier`."""
        if not data.startswith(_GZIP):
            return _is_header(data[:_HEADER])
        try:
            return _is_header(zlib.decompressobj(wbits=31).decompress(data[:65536], _HEADER))
        except zlib.error:
            return False

    def _read(self, data: bytes) -> Volume:
        packed = data.startswith(_GZIP)
        plain = _inflated(data) if packed else data
        layout = _layout(plain[:_HEADER])
        end = _HEADER + layout.nbytes
        if len(plain) < end:
            raise TamperedError("the MGH file is truncated")
        rest, block = _parted(plain[end:])
        (frames,) = struct.unpack_from(">i", plain, 16)
        return Volume(plain[:_HEADER], layout, plain[_HEADER:end], packed, rest, block, groups=frames)

    def _without_copies(self, volume: Volume, size: int) -> Volume:
        # Tags behind the numbers of the scan are transforms, history and color tables.
        rest = volume.rest if len(volume.rest) < size else volume.rest[:_SCAN_PARAMETERS]
        return replace(volume, rest=rest)

    def _facts(self, data: bytes) -> list[tuple[str, bytes]]:
        if not data.startswith(_GZIP):
            return [("header", data[:_DIRECTIONS])]
        try:
            return [("header", zlib.decompressobj(wbits=31).decompress(data[:65536], _DIRECTIONS))]
        except zlib.error as error:
            check_memory(error)
            raise TamperedError("the gzip stream is damaged") from error

    def _block(self, data: bytes) -> bytes | None:
        if data.startswith(_GZIP):
            return _parted(_inflated(data, samples=False))[1]
        return _parted(data[_HEADER + _layout(data[:_HEADER]).nbytes :])[1]

    def _labels(self, volume: Volume, name: str) -> str | None:
        first = volume.rest[_SCAN_PARAMETERS : _SCAN_PARAMETERS + 4]
        return "color table of labels in the MGH file" if first == _COLOR_TABLE else None

    def _assemble(self, volume: Volume, samples: bytes, block: bytes) -> bytes:
        # Tags begin behind five numbers of the scan, which old files do not have; zero says that they are not known.
        rest = volume.rest.ljust(_SCAN_PARAMETERS, b"\0")
        plain = b"".join((volume.header, samples, rest, _TAG.pack(RECORD_TAG, len(block)), block))
        return gzip.compress(plain, compresslevel=6, mtime=0) if volume.packed else plain


def _is_header(head: bytes) -> bool:
    """Whether bytes begin an MGH file, which has nothing but its version 1 for magic bytes."""
    if len(head) < _HEADER:
        return False
    version, *sizes, kind, _ = struct.unpack_from(">7i", head)
    good = struct.unpack_from(">h", head, 28)[0]
    return version == 1 and min(sizes) >= 1 and 0 <= kind <= 10 and good in (0, 1)


def _layout(head: bytes) -> SampleLayout:
    """Shape, type and orientation."""
    if not _is_header(head):
        raise TamperedError("the MGH header is damaged")
    _, width, height, depth, frames, kind, _ = struct.unpack_from(">7i", head)
    if kind not in _TYPES:
        raise UnsupportedImageError(f"MGH of data type {kind} is not supported")
    shape = shape_of([width, height, depth, frames], 1, _TYPES[kind], "MGH")
    flips = (False, False)  # without directions FreeSurfer takes them for coronal: left, inferior
    if struct.unpack_from(">h", head, 28)[0]:
        directions = struct.unpack_from(">6f", head, 42)
        flips = flips_for_display(directions[:3], directions[3:])
    return SampleLayout(shape, _TYPES[kind], True, flips=flips)


def _parted(rest: bytes) -> tuple[bytes, bytes | None]:
    """What stands behind the samples: without the record, and its carrier block."""
    at = rest.find(BLOCK_MAGIC)
    if at < 0:
        return rest, None
    tag = at - _TAG.size
    if tag < _SCAN_PARAMETERS or _TAG.unpack_from(rest, tag) != (RECORD_TAG, len(rest) - at):
        raise TamperedError("the recovery record in the MGH file is damaged")
    return rest[:tag], rest[at:]


def _inflated(data: bytes, samples: bool = True) -> bytes:
    """Decompressed bytes of a gzip file, no more than its header declares and what may follow the samples.

    Args:
        data: the file.
        samples: give all; else only what stands behind the samples, which are passed over piece by piece.
    """
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
            head = stream.read(_HEADER)
            size = _layout(head).nbytes
            # Deflate packs at most 1032:1; memory is not taken for what the stream cannot hold.
            if size > 1032 * len(data):
                raise TamperedError("the gzip stream is truncated")
            if samples:
                check_decoded(size, len(data))
            if not samples:
                head, left = b"", size
                while left and (piece := stream.read(min(left, _PIECE_BYTES))):
                    left -= len(piece)
                size = 0
            # Behind the samples come tags, color tables and, in protected files, the record.
            rest = stream.read(size + min(MAX_FILE_BYTES, 2**24 + 2 * len(data)))
            if stream.read(1):
                raise TamperedError("the gzip stream holds more than its MGH header declares")
    except (OSError, EOFError, zlib.error) as error:
        check_memory(error)
        raise TamperedError("the gzip stream is damaged or truncated") from error
    return head + rest

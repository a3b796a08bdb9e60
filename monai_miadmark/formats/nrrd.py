# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""NRRD in one file (``.nrrd``): samples by byte splice, the record as a key/value pair of the header.

Format: https://teem.sourceforge.net/nrrd/format.html
"""

from __future__ import annotations

import base64
import binascii
import gzip
import re

from monai_miadmark.errors import TamperedError, UnsupportedImageError
from monai_miadmark.formats.base import SampleLayout
from monai_miadmark.formats.orientation import flips_for_display
from monai_miadmark.formats.volumes import (
    MAX_HEADER_BYTES,
    MAX_SHOWN,
    Volume,
    VolumeCarrier,
    inflated,
    natural_numbers,
    shape_of,
)

__all__ = ["RECORD_KEY", "NrrdCarrier"]

RECORD_KEY = "miadmark_record"
"""Key of the pair whose value is the carrier block in Base64."""

_MAGIC = re.compile(rb"NRRD000[1-5]\r?\n")
_KEY_LINE = re.compile(rb"^" + RECORD_KEY.encode() + rb":=([^\r\n]*)\r?\n", re.MULTILINE)
_SEGMENT = re.compile(rb"^Segment(?:[0-9]{1,5}|ation)_", re.MULTILINE)
_END = re.compile(rb"\n\r?\n")
_TYPES = {
    "uint8": "uchar|unsigned char|uint8|uint8_t",
    "int8": "signed char|int8|int8_t",
    "uint16": "ushort|unsigned short|unsigned short int|uint16|uint16_t",
    "int16": "short|short int|signed short|signed short int|int16|int16_t",
    "uint32": "uint|unsigned int|uint32|uint32_t",
    "int32": "int|signed int|int32|int32_t",
    "uint64": "ulonglong|unsigned long long|unsigned long long int|uint64|uint64_t",
    "int64": "longlong|long long|long long int|signed long long|signed long long int|int64|int64_t",
    "float32": "float",
    "float64": "double",
}
_NAMED = {alias: dtype for dtype, aliases in _TYPES.items() for alias in aliases.split("|")}
# Signs that turn directions of a space into right, anterior, superior.
_SPACES = {
    "right-anterior-superior": (1, 1, 1),
    "ras": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1),
    "las": (-1, 1, 1),
    "left-posterior-superior": (-1, -1, 1),
    "lps": (-1, -1, 1),
}
_SHOWN = (
    *("type", "dimension", "sizes", "space", "space dimension", "space directions", "space origin", "space units"),
    *("kinds", "endian", "spacings", "thicknesses", "units", "min", "max", "old min", "oldmin", "old max", "oldmax"),
    *("axis mins", "axismins", "axis maxs", "axismaxs", "centers", "centerings", "measurement frame"),
)
_GZIP = ("gzip", "gz")


_SPATIAL = ("domain", "space", "time", "???", "none")


class NrrdCarrier(VolumeCarrier):
    """NRRD whose samples follow the header, raw or in gzip."""

    name = "nrrd"
    title = "NRRD"

    def matches(self, data: bytes) -> bool:
        """See :class:`~monai_miadmark.formats.base.Carrier`."""
        return _MAGIC.match(data) is not None

    def _block(self, data: bytes) -> bytes | None:
        return self._parts(data)[1]

    def _facts(self, data: bytes) -> list[tuple[str, bytes]]:
        fields = _fields(self._parts(data)[0])
        shown = [(name, value.encode("latin-1")) for name, value in fields.items() if name in _SHOWN]
        return [(name, value) for name, value in shown if len(value) <= MAX_SHOWN]

    def _is_shown(self, line: bytes) -> bool:
        name, _, value = line.decode("latin-1").partition(": ")
        return name.strip().lower() in _SHOWN and len(value.strip()) <= MAX_SHOWN

    def _parts(self, data: bytes) -> tuple[bytes, bytes | None, int]:
        """Header without a record, the record's carrier block, and where the samples begin."""
        end = _END.search(data)
        if end is None:
            if b"\ndata file:" in data or b"\ndatafile:" in data:
                raise _detached()
            raise TamperedError("the NRRD header has no end")
        whole = data[: end.end()]
        records = _KEY_LINE.findall(whole)
        if len(records) > 1:
            raise TamperedError("the NRRD file holds more than one recovery record")
        header = _KEY_LINE.sub(b"", whole) if records else whole
        try:
            block = base64.b64decode(records[0], validate=True) if records else None
        except binascii.Error as error:
            raise TamperedError("the recovery record in the NRRD header is damaged") from error
        return header, block, end.end()

    def _read(self, data: bytes) -> Volume:
        header, block, begin = self._parts(data)
        if len(header) > MAX_HEADER_BYTES:
            raise UnsupportedImageError(f"NRRD headers above {MAX_HEADER_BYTES} bytes are not supported")
        fields = _fields(header)
        if "data file" in fields or "datafile" in fields:
            raise _detached()
        for skip in ("byte skip", "byteskip", "line skip", "lineskip"):
            if fields.get(skip, "0") != "0":
                raise UnsupportedImageError("NRRD that skips lines or bytes before its samples is not supported")
        encoding = fields.get("encoding", "").lower()
        if encoding not in ("raw", *_GZIP):
            raise UnsupportedImageError("NRRD of another encoding than raw and gzip is not supported")
        dtype = _NAMED.get(fields.get("type", "").lower())
        if dtype is None:
            raise UnsupportedImageError("NRRD of a type other than numbers of 8 to 64 bits is not supported")
        layout = _layout(fields, dtype)
        body = data[begin:]
        if encoding == "raw":
            samples, taken = body[: layout.nbytes], layout.nbytes
        else:
            samples, taken = inflated(body, layout.nbytes, 31)
        if taken > len(body):
            raise TamperedError("the NRRD file is truncated")
        groups, color = _contents(fields)
        return Volume(header, layout, samples, encoding != "raw", body[taken:], block, groups, color)

    def _labels(self, volume: Volume, name: str) -> str | None:
        if _SEGMENT.search(volume.header):
            return "segments named in the NRRD header"
        return "name ends with .seg.nrrd" if name.lower().endswith(".seg.nrrd") else None

    def _assemble(self, volume: Volume, samples: bytes, block: bytes) -> bytes:
        end = _END.search(volume.header)
        if end is None:
            raise TamperedError("the NRRD header has no end")
        # Key/value pairs came with the second version of the format.
        head = volume.header[: end.start() + 1].replace(b"NRRD0001", b"NRRD0002", 1)
        line = RECORD_KEY.encode() + b":=" + base64.b64encode(block) + b"\n"
        if volume.packed:
            samples = gzip.compress(samples, compresslevel=6, mtime=0)
        return b"".join((head, line, volume.header[end.start() + 1 :], samples, volume.rest))


def _detached() -> UnsupportedImageError:
    """Error for headers whose samples are elsewhere."""
    return UnsupportedImageError(
        "NRRD with its samples in another file (.nhdr) is not supported: convert it to one .nrrd file first"
    )


def _fields(header: bytes) -> dict[str, str]:
    """Fields of a header; comments and key/value pairs left out."""
    fields: dict[str, str] = {}
    for line in header.decode("latin-1").split("\n")[1:]:
        text = line.rstrip("\r")
        if not text or text.startswith("#") or ":=" in text:
            continue
        name, colon, value = text.partition(": ")
        if not colon or name.strip().lower() in fields:
            raise TamperedError("the NRRD header is damaged")
        fields[name.strip().lower()] = value.strip()
    return fields


def _layout(fields: dict[str, str], dtype: str) -> SampleLayout:
    """Shape, byte order and orientation."""
    sizes = natural_numbers(fields.get("sizes", ""))
    if not sizes:
        raise TamperedError("the NRRD header is damaged (sizes)")
    if fields.get("dimension") != str(len(sizes)):
        raise TamperedError("the NRRD header contradicts itself (dimension)")
    kinds = fields.get("kinds", "").lower().split() or ["domain"] * len(sizes)
    if len(kinds) != len(sizes):
        raise TamperedError("the NRRD header contradicts itself (kinds)")
    first = 0 if kinds[0] in _SPATIAL else 1
    if any(kind not in (*_SPATIAL, "list") for kind in kinds[first:]) or "list" in kinds[first : first + 2]:
        raise UnsupportedImageError("NRRD of vectors or matrices is not supported (one color axis, the first, is)")
    channels = sizes[0] if first else 1
    shape = shape_of(sizes[first:], channels, dtype, "NRRD")
    endian = fields.get("endian", "little" if dtype in ("uint8", "int8") else "").lower()
    if endian not in ("little", "big"):
        raise TamperedError("the NRRD header is damaged (endian)")
    return SampleLayout(shape, dtype, endian == "big", flips=_flips(fields, len(sizes), first))


def _contents(fields: dict[str, str]) -> tuple[int, bool]:
    """Time points or contrasts, and whether the first axis is one of colors."""
    sizes = natural_numbers(fields.get("sizes", "")) or []
    kinds = fields.get("kinds", "").lower().split() or ["domain"] * len(sizes)
    first = len(sizes) - len(_slice_axes(kinds)) - 2
    groups = 1
    for at, (kind, size) in enumerate(zip(_slice_axes(kinds), sizes[first + 2 :], strict=True)):
        groups *= size if at or kind in ("time", "list") else 1
    return groups, kinds[0].endswith("-color")


def _slice_axes(kinds: list[str]) -> list[str]:
    """Kinds of the axes behind rows and columns."""
    return kinds[(0 if kinds[0] in _SPATIAL else 1) + 2 :]


def _flips(fields: dict[str, str], dimensions: int, first: int) -> tuple[bool, bool]:
    """How the image is to be turned, from the directions of its first two spatial axes."""
    signs = _SPACES.get(fields.get("space", "").lower())
    axes = re.findall(r"none|\([^()]*\)", fields.get("space directions", "").lower())
    if signs is None or len(axes) != dimensions:
        return False, False
    try:
        turned = [[float(word) for word in axis.strip("()").split(",")] for axis in axes[first : first + 2]]
    except ValueError:
        return False, False
    if any(len(axis) != 3 for axis in turned):
        return False, False
    columns, rows = ([sign * value for sign, value in zip(signs, axis, strict=True)] for axis in turned)
    return flips_for_display(columns, rows)

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""MetaImage in one file (``.mha``): samples by byte splice, the record behind them, where ITK does not look.

Fields: https://itk.org/Wiki/ITK/MetaIO/Documentation
"""

from __future__ import annotations

import zlib

from monai_miadmark.errors import TamperedError, UnsupportedImageError
from monai_miadmark.formats.base import BLOCK_MAGIC, SampleLayout
from monai_miadmark.formats.orientation import flips_for_display
from monai_miadmark.formats.volumes import MAX_SHOWN, Volume, VolumeCarrier, inflated, natural_numbers, shape_of

__all__ = ["MetaImageCarrier"]

_STARTS = (b"ObjectType", b"NDims", b"Comment")
_HEADER_LIMIT = 1 << 16
_LAST = b"ElementDataFile"
_PACKED_SIZE = b"CompressedDataSize"
_SHOWN = (
    *("NDims", "DimSize", "ElementType", "ElementNumberOfChannels", "BinaryDataByteOrderMSB", "ElementByteOrderMSB"),
    *("ElementSpacing", "ElementSize", "Offset", "Position", "Origin", "TransformMatrix", "Rotation", "Orientation"),
    *("CenterOfRotation", "AnatomicalOrientation", "ElementMin", "ElementMax", "ElementToIntensityFunctionSlope"),
    *("ElementToIntensityFunctionOffset", "DistanceUnits", "Modality"),
)
_TYPES = {
    "MET_UCHAR": "uint8",
    "MET_CHAR": "int8",
    "MET_USHORT": "uint16",
    "MET_SHORT": "int16",
    "MET_UINT": "uint32",
    "MET_INT": "int32",
    "MET_ULONG_LONG": "uint64",
    "MET_LONG_LONG": "int64",
    "MET_FLOAT": "float32",
    "MET_DOUBLE": "float64",
}


class MetaImageCarrier(VolumeCarrier):
    """MetaImage whose samples follow the header (``ElementDataFile = LOCAL``), as they are or zlib-compressed."""

    name = "metaimage"
    title = "MetaImage"

    def matches(self, data: bytes) -> bool:
        """See :class:`~monai_miadmark.formats.base.Carrier`."""
        return data.startswith(_STARTS) and b"ElementDataFile" in data[:_HEADER_LIMIT]

    def _read(self, data: bytes) -> Volume:
        lines = _header_lines(data)
        header = b"".join(lines)
        fields = _fields(header)
        if fields[_LAST.decode()].upper() != "LOCAL":
            raise UnsupportedImageError(
                "MetaImage with its samples in another file (.mhd with .raw) is not supported: "
                "convert it to one .mha file first"
            )
        if fields.get("ObjectType", "Image").lower() != "image":
            raise UnsupportedImageError("MetaIO objects other than images are not supported")
        if not _true(fields, "BinaryData"):
            raise UnsupportedImageError("MetaImage with its samples as text is not supported")
        if _integers(fields.get("HeaderSize", "0")) != [0]:
            raise UnsupportedImageError("MetaImage with a HeaderSize is not supported")
        dtype = _TYPES.get(fields.get("ElementType", ""))
        if dtype is None:
            raise UnsupportedImageError("MetaImage of an ElementType of unknown size is not supported")
        sizes = _integers(fields.get("DimSize", ""))
        if _integers(fields.get("NDims", "")) != [len(sizes)]:
            raise TamperedError("the MetaImage header contradicts itself (NDims)")
        channels = _integers(fields.get("ElementNumberOfChannels", "1"))
        shape = shape_of(sizes, channels[0] if len(channels) == 1 else 0, dtype, self.title)
        msb = _true(fields, "BinaryDataByteOrderMSB") or _true(fields, "ElementByteOrderMSB")
        layout = SampleLayout(shape, dtype, msb, flips=_flips(fields, len(sizes)))
        body = data[len(header) :]
        packed = _true(fields, "CompressedData")
        if packed:
            samples, taken = inflated(body, layout.nbytes, 15)
        else:
            samples, taken = body[: layout.nbytes], layout.nbytes
        if taken > len(body):
            raise TamperedError("the MetaImage file is truncated")
        rest = body[taken:]
        at = rest.find(BLOCK_MAGIC)
        rest, block = (rest, None) if at < 0 else (rest[:at], rest[at:])
        return Volume(header, layout, samples, packed, rest, block, groups=sizes[3] if len(sizes) > 3 else 1)

    def _facts(self, data: bytes) -> list[tuple[str, bytes]]:
        fields = _fields(b"".join(_header_lines(data)))
        shown = [(name, fields[name].encode("latin-1")) for name in _SHOWN if name in fields]
        return [(name, value) for name, value in shown if len(value) <= MAX_SHOWN]

    def _is_shown(self, line: bytes) -> bool:
        name, _, value = line.decode("latin-1").partition("=")
        return name.strip() in _SHOWN and len(value.strip()) <= MAX_SHOWN

    def _block(self, data: bytes) -> bytes | None:
        lines = _header_lines(data)
        body = memoryview(data)[sum(map(len, lines)) :]
        fields = _fields(b"".join(lines))
        if not _true(fields, "CompressedData"):
            return self._read(data).block  # nothing is decoded
        size = natural_numbers(fields.get("CompressedDataSize", "")) or [0]
        # Where the size of the stream is not stated, by a tool that wrote the file anew, nothing follows it.
        rest = bytes(body[size[0] :]) if 0 < size[0] <= len(body) else b""
        at = rest.find(BLOCK_MAGIC)
        return None if at < 0 else rest[at:]

    def _assemble(self, volume: Volume, samples: bytes, block: bytes) -> bytes:
        header = volume.header
        if volume.packed:
            # Without its size, ITK would take all that follows for the stream.
            samples = zlib.compress(samples, 6)
            line = b"CompressedDataSize = %d\n" % len(samples)
            *lines, last = (old for old in _header_lines(header) if not old.startswith(_PACKED_SIZE))
            header = b"".join((*lines, line, last))
        return b"".join((header, samples, volume.rest, block))


def _header_lines(data: bytes) -> list[bytes]:
    """Lines of the header with their ends; the last one names where the samples are.

    Raises:
        TamperedError: there is no such line.
    """
    lines: list[bytes] = []
    at = 0
    while (end := data.find(b"\n", at, _HEADER_LIMIT) + 1) > 0:
        line = data[at:end]
        lines.append(line)
        if line.partition(b"=")[0].rstrip(b" \t") == _LAST:
            return lines
        at = end
    raise TamperedError("the MetaImage header has no end")


def _fields(header: bytes) -> dict[str, str]:
    """Names and values of a header."""
    fields: dict[str, str] = {}
    for line in header.decode("latin-1").splitlines():
        name, equals, value = line.partition("=")
        if not equals or name.strip() in fields:
            raise TamperedError("the MetaImage header is damaged")
        fields[name.strip()] = value.strip()
    return fields


def _true(fields: dict[str, str], name: str) -> bool:
    """Whether a field says yes."""
    return fields.get(name, "").lower() in ("true", "t", "1", "yes")


def _integers(text: str) -> list[int]:
    """Natural numbers with spaces between them."""
    numbers = natural_numbers(text)
    if numbers is None:
        raise TamperedError("the MetaImage header is damaged (numbers)")
    return numbers


def _flips(fields: dict[str, str], dimensions: int) -> tuple[bool, bool]:
    """How the image is to be turned, from the directions of its first two axes."""
    text = next((fields[n] for n in ("TransformMatrix", "Rotation", "Orientation") if n in fields), "")
    try:
        matrix = [float(word) for word in text.split()]
    except ValueError as error:
        raise TamperedError("the MetaImage header is damaged (TransformMatrix)") from error
    if dimensions < 3 or len(matrix) != dimensions**2:
        return False, False
    # One axis after the other; MetaImage's world runs to the patient's left, posterior and superior.
    columns, rows = ((-axis[0], -axis[1], axis[2]) for axis in (matrix, matrix[dimensions:]))
    return flips_for_display(columns, rows)

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Protected DICOM files that lie as we write them, opened without pydicom, whose import takes longer than the work."""

from __future__ import annotations

from monai_miadmark.errors import UnsupportedImageError
from monai_miadmark.formats.base import ProtectedFile, unpack_block
from monai_miadmark.formats.dicom_pixels import describe
from monai_miadmark.formats.dicom_scanning import scan

__all__ = ["PRIVATE_CREATOR", "PRIVATE_GROUP", "RECORD_ELEMENT", "scanned_file"]

PRIVATE_GROUP = 0x0411
PRIVATE_CREATOR = "MIADMARK 1.0"
RECORD_ELEMENT = 0x02
"""Element of the envelope inside the private block, an OB."""

_PIXEL_DATA = 0x7FE00010
_FLOAT_PIXEL_DATA = 0x7FE00008
_DOUBLE_PIXEL_DATA = 0x7FE00009


def scanned_file(data: bytes) -> ProtectedFile | None:
    """A protected file whose samples lie in it as they are shown, or ``None`` for anything else.

    Raises:
        TamperedError: its record is cut short or damaged.
    """
    scanned = scan(data)
    if scanned is None or _DOUBLE_PIXEL_DATA in scanned.places:
        return None
    creators = range((PRIVATE_GROUP << 16) | 0x10, (PRIVATE_GROUP << 16) | 0x100)
    ours = [
        tag
        for tag, place in scanned.places.items()
        if tag in creators and scanned.value(place).strip(b" \0") == PRIVATE_CREATOR.encode()
    ]
    pixels = [scanned.places[tag] for tag in (_PIXEL_DATA, _FLOAT_PIXEL_DATA) if tag in scanned.places]
    if len(ours) != 1 or len(pixels) != 1:
        return None
    record = scanned.places.get((PRIVATE_GROUP << 16) | (ours[0] & 0xFF) << 8 | RECORD_ELEMENT)
    try:
        description = describe(scanned)
    except UnsupportedImageError:
        return None
    if record is None or not description.as_stored or pixels[0].length < description.nbytes:
        return None
    layout = description.layout(big_endian=False)
    values = layout.decode(memoryview(data)[pixels[0].start :][: layout.nbytes])
    return ProtectedFile(values, unpack_block(scanned.value(record)), True)

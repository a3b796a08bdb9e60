# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Elements of DICOM objects that may hold a copy of the image: left out of the protected object, wherever they are."""

from __future__ import annotations

import struct
from contextlib import suppress
from typing import Any

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from monai_miadmark.errors import UnsupportedImageError, check_memory
from monai_miadmark.formats.copies import clean_profile
from monai_miadmark.formats.dicom_vrs import MAX_NESTING

__all__ = ["drop_copies"]

_PIXEL_DATA = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_ICON, _PROFILE = 0x00880200, 0x00282000
# Icon images, encapsulated documents, pixel data of other kinds that nobody here marks.
_COPIES = (_ICON, 0x00420011, 0x7FE00001, 0x7FE00002, 0x7FE00020, 0x7FE00030, 0x7FE00040)
_SIEMENS_HEADER = b"SV10"
"""How Siemens' CSA headers begin: parameters of the scan, which converters need, in a form that is known."""

_TEXT_VRS = ("LT", "ST", "UC", "UT")
_ENCODED = 1024
"""Characters of Base64 in a row, with line ends between them, that text has only where bytes are encoded in it."""

_BASE64_ONLY = bytes(
    code if (chr(code).isalnum() and code < 128) or chr(code) in "+/=-_\r\n" else 0x20 for code in range(256)
)

# What is looked for in sequences that were not parsed: these tags in both byte orders.
_SIGNS = tuple(
    struct.pack(f"{order}HH", tag >> 16, tag & 0xFFFF) for tag in (_ICON, _PROFILE, *_PIXEL_DATA) for order in "<>"
)


class _TooDeepError(Exception):
    """Sequences nested deeper than what is written again."""


def drop_copies(data_set: Dataset, size: int) -> None:
    """Leave out, in place and in items of sequences, what may hold a copy of the image.

    These are icon images, documents, pixel data inside of sequences, and private elements that are large enough for a
    small picture of the image. Color profiles keep what converts colors.

    Args:
        data_set: of the protected object, with its own pixel data, without its record.
        size: private elements of so many bytes are left out.
    """
    with suppress(_TooDeepError):  # refused before it is written
        _drop(data_set, size, 0)


def _drop(data_set: Dataset, size: int, depth: int) -> None:
    """As :func:`drop_copies`, for an item at a depth."""
    for tag in list(data_set.keys()):
        element: Any = data_set.get_item(tag)
        value = element.value
        if tag in _COPIES or (depth and tag in _PIXEL_DATA):
            del data_set[tag]
        elif tag == _PROFILE:
            _clean_profile(data_set)
        elif element.VR == "SQ" or (isinstance(element, DataElement) and not isinstance(value, bytes | str)):
            _drop_inside(data_set, int(tag), size, depth)
        elif tag.is_private and _length(value) >= size and not _is_harmless(element.VR, value):
            del data_set[tag]


def _drop_inside(data_set: Dataset, tag: int, size: int, depth: int) -> None:
    """Items of a sequence; one that was not parsed is, if it may hold something."""
    held = data_set.get_item(tag)
    raw = getattr(held, "value", None)
    large = tag >> 16 & 1 and _length(raw) >= size
    if isinstance(raw, bytes) and not large and not any(sign in raw for sign in _SIGNS):
        return
    try:
        items = data_set[tag].value
    except Exception as error:  # what pydicom cannot parse is of no use in the protected object
        check_memory(error)
        del data_set[tag]
        return
    if data_set[tag].VR != "SQ":
        return
    if depth >= MAX_NESTING:
        raise _TooDeepError
    try:
        for item in items:
            _drop(item, size, depth + 1)
    except _TooDeepError:
        if depth or not isinstance(raw, bytes):
            raise
        data_set[tag] = held  # as bytes again, which are copied whatever they are


def _clean_profile(data_set: Dataset) -> None:
    """What of a color profile converts colors."""
    value = data_set[_PROFILE].value
    try:
        clean = clean_profile(value) if isinstance(value, bytes) else None
    except UnsupportedImageError:
        clean = None
    if clean is None:
        del data_set[_PROFILE]
    elif clean != value:
        data_set[_PROFILE].value = clean + bytes(len(clean) % 2)


def _length(value: Any) -> int:
    """Bytes of a value of text or bytes, of other values the numbers in them."""
    if isinstance(value, bytes | str):
        return len(value)
    return 8 * len(value) if isinstance(value, list | tuple) or hasattr(value, "__len__") else 0


def _is_harmless(kind: str | None, value: Any) -> bool:
    """Whether a large private value holds no picture: Siemens' headers, and text in which no bytes are encoded."""
    if kind in _TEXT_VRS:
        text = value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")
        return max(map(len, text.translate(_BASE64_ONLY).split(b" "))) < _ENCODED
    return isinstance(value, bytes) and value.startswith(_SIEMENS_HEADER)

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Where the elements of a plain DICOM file lie, found without making objects of them.

That takes a fraction of the time that parsing does. What is plain is narrow on purpose: little-endian, not compressed,
tags in ascending order, every length right to the last byte of the file. All else is for pydicom, and so is every
error.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

from monai_miadmark.formats.dicom_vrs import EXPLICIT, IMPLICIT, LONG_VRS, MAX_NESTING, SHORT_VRS, UNDEFINED_LENGTH

__all__ = ["Place", "ScannedFile", "UnusualError", "after_item", "after_sequence", "scan"]

_BEGIN = 132
_SYNTAX = 0x00020010
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_EXPLICIT_HEAD = struct.Struct("<HH2sH")
_IMPLICIT_HEAD = struct.Struct("<HHI")
_LENGTH = struct.Struct("<I")
_NUMBERS = {
    "SamplesPerPixel": 0x00280002,
    "PlanarConfiguration": 0x00280006,
    "Rows": 0x00280010,
    "Columns": 0x00280011,
    "BitsAllocated": 0x00280100,
    "BitsStored": 0x00280101,
    "HighBit": 0x00280102,
    "PixelRepresentation": 0x00280103,
}
_FRAMES = 0x00280008
_PHOTOMETRIC = 0x00280004
_FLOAT_PIXEL_DATA = 0x7FE00008
_NUMBER = re.compile(rb"..", re.DOTALL)
_WORD = re.compile(rb"[A-Z0-9_][A-Z0-9_ ]{0,15}")
_DIGITS = re.compile(rb" ?[0-9]{1,9} ?")


class Place(NamedTuple):
    """Where the value of an element lies in the file, and its VR where the file says it."""

    kind: bytes
    start: int
    length: int


class UnusualError(Exception):
    """Not plain."""


class ScannedFile:
    """Places of all top-level elements after the file meta information, and the attributes that describe samples.

    Args:
        data: the file.
        places: by tag.
    """

    def __init__(self, data: bytes, places: Mapping[int, Place]) -> None:
        self._data = data
        self.places = places

    def value(self, place: Place) -> bytes:
        """Bytes of a value."""
        return self._data[place.start : place.start + place.length]

    def __contains__(self, keyword: str) -> bool:
        return keyword == "FloatPixelData" and _FLOAT_PIXEL_DATA in self.places

    def get(self, keyword: str, default: Any = None) -> Any:
        """An attribute of the Image Pixel module, as ``Dataset.get`` gives it; the default for all others."""
        if keyword in _NUMBERS:
            place = self.places.get(_NUMBERS[keyword])
            return default if place is None else int.from_bytes(self.value(place), "little")
        place = self.places.get({"NumberOfFrames": _FRAMES, "PhotometricInterpretation": _PHOTOMETRIC}.get(keyword, 0))
        return default if place is None else self.value(place).decode("ascii").strip(" ")


def scan(data: bytes) -> ScannedFile | None:
    """Find the elements of a file.

    Args:
        data: the whole file.

    Returns:
        Where they lie, or ``None`` for a file that is not plain or not whole: parse it with pydicom then.
    """
    try:
        meta: dict[int, Place] = {}
        at = _walk(data, _BEGIN, True, meta, 2)
        place = meta[_SYNTAX]
        syntax = data[place.start : place.start + place.length].rstrip(b"\0").decode("ascii")
        if syntax not in (EXPLICIT, IMPLICIT):
            return None
        places: dict[int, Place] = {}
        if _walk(data, at, syntax == EXPLICIT, places) != len(data):
            return None
        scanned = ScannedFile(data, places)
        _check_description(scanned)
        return scanned
    except (UnusualError, struct.error, KeyError, UnicodeDecodeError):
        return None


def _check_description(scanned: ScannedFile) -> None:
    """Let through only values that can be read in one way."""
    expected = [(tag, b"US", _NUMBER) for tag in _NUMBERS.values()]
    for tag, kind, form in (*expected, (_FRAMES, b"IS", _DIGITS), (_PHOTOMETRIC, b"CS", _WORD)):
        place = scanned.places.get(tag)
        if place is not None and not (place.kind in (kind, b"") and form.fullmatch(scanned.value(place))):
            raise UnusualError


def _walk(data: bytes, at: int, explicit: bool, places: dict[int, Place], group: int | None = None) -> int:
    """Note the elements from a position on, to the end of the file or of a group; where that is."""
    end, last = len(data), -1
    head = _EXPLICIT_HEAD if explicit else _IMPLICIT_HEAD
    while at < end:
        if explicit:
            first, second, kind, length = head.unpack_from(data, at)
            start = at + 8
        else:
            first, second, length = head.unpack_from(data, at)
            kind, start = b"", at + 8
        if group is not None and first != group:
            return at
        tag = first << 16 | second
        if tag <= last or first == 0xFFFE or (group is None and first <= 2):
            raise UnusualError
        if explicit:
            if kind in LONG_VRS:
                (length,) = _LENGTH.unpack_from(data, at + 8)
                start = at + 12
            elif kind not in SHORT_VRS:
                raise UnusualError
        if length == UNDEFINED_LENGTH:
            # In explicit VR only a sequence is read in one way: what UN holds is in implicit VR.
            if tag >= 0x7FE00000 or (explicit and kind != b"SQ"):
                raise UnusualError
            at = after_sequence(data, start, explicit, 1)
        else:
            at = start + length
        places[tag] = Place(kind, start, at - start)
        last = tag
    if at != end:
        raise UnusualError
    return at


def after_sequence(data: bytes, at: int, explicit: bool, depth: int) -> int:
    """Where a sequence of undefined length ends; its items begin at ``at``.

    Raises:
        UnusualError: something else than items, or too deep.
        struct.error: the file ends before.
    """
    if depth > MAX_NESTING:
        raise UnusualError
    while True:
        first, second, length = _IMPLICIT_HEAD.unpack_from(data, at)
        tag = first << 16 | second
        at += 8
        if tag == _SEQUENCE_END and length == 0:
            return at
        if tag != _ITEM:
            raise UnusualError
        at = after_item(data, at, explicit, depth) if length == UNDEFINED_LENGTH else at + length


def after_item(data: bytes, at: int, explicit: bool, depth: int) -> int:
    """Where an item of undefined length ends; raises as :func:`after_sequence`."""
    while True:
        first, second, length = _IMPLICIT_HEAD.unpack_from(data, at)
        tag = first << 16 | second
        if tag == _ITEM_END:
            if length:
                raise UnusualError
            return at + 8
        if first == 0xFFFE:
            raise UnusualError
        start, kind = at + 8, b"SQ"
        if explicit:
            kind = data[at + 4 : at + 6]
            if kind in LONG_VRS:
                (length,) = _LENGTH.unpack_from(data, at + 8)
                start = at + 12
            elif kind in SHORT_VRS:
                length >>= 16
            else:
                raise UnusualError
        if length != UNDEFINED_LENGTH:
            at = start + length
        elif kind == b"SQ":
            at = after_sequence(data, start, explicit, depth + 1)
        else:
            raise UnusualError

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""DICOM files that break rules which readers forgive: told from other files, and made fit to be parsed and written.

Bytes are mended for reading and elements for writing. The protected object is made from what was mended; the recovery
record restores the source byte for byte.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element

from monai_miadmark.errors import UnsupportedImageError, check_memory
from monai_miadmark.formats.dicom_scanning import UnusualError, after_item, after_sequence
from monai_miadmark.formats.dicom_vrs import LONG_VRS, SHORT_VRS, UNDEFINED_LENGTH

__all__ = ["begin_of", "looks_like_dicom", "mend_elements", "mended"]

_PREAMBLE = 132
_PIXEL_DATA = 0x7FE00010
_PIXELS = (0x7FE00008, 0x7FE00009, _PIXEL_DATA)
_ITEM, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE0DD
_SYNTAX = 0x00020010
_BIG_ENDIAN = b"1.2.840.10008.1.2.2"
_IMPLICIT = b"1.2.840.10008.1.2"
_DELIMITER = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
_ITEM_END = struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
_WANTED = 3
_VRS = SHORT_VRS | LONG_VRS
_UNKNOWN = "UN"


class _Element(NamedTuple):
    """Head of an element: tag, VR (empty in implicit VR), where the value begins, its length."""

    tag: int
    kind: bytes
    start: int
    length: int


def begin_of(data: bytes) -> int:
    """Where the first element of a file is: behind the preamble, or at the start of a file without one."""
    return _PREAMBLE if data[128:_PREAMBLE] == b"DICM" else 0


def looks_like_dicom(data: bytes) -> bool:
    """Whether a file has DICOM's mark, or begins without a preamble with elements of group 2 or 8 in ascending order.

    Args:
        data: the file, or its first bytes (some hundred are enough).
    """
    if data[128:_PREAMBLE] == b"DICM":
        return True
    for order in "<>":
        if len(data) < 8 or struct.unpack_from(f"{order}H", data)[0] not in (2, 8):
            continue
        at, last, found = 0, -1, 0
        while found < _WANTED:
            element = _head(data, at, order)
            if element is None or element.tag <= last or element.tag >> 16 > 0x10 or element.length > 1 << 16:
                break
            if element.kind not in (_VRS if order == ">" else _VRS | {b""}):
                break
            found, last, at = found + 1, element.tag, element.start + element.length
            if at >= len(data):
                break
        if found == _WANTED:
            return True
    return False


def mended(data: bytes) -> bytes | None:
    """The same file without what ends or confuses a parser, or ``None`` where nothing had to be mended.

    Delimiters and items outside of sequences, groups 0000 and 0002 behind the file meta information, and bytes behind
    the last element are left out; encapsulated pixel data that end with the file get their end.

    Args:
        data: a whole file that is not deflated.
    """
    at, syntax = _after_meta(data)
    order = ">" if syntax == _BIG_ENDIAN or (not syntax and data[at : at + 1] == b"\0") else "<"
    explicit = syntax != _IMPLICIT if syntax else data[at + 4 : at + 6] in _VRS
    parts: list[bytes] = [data[:at]]
    changed = seen = False
    last = -1
    while len(data) - at >= 8:
        element = _head(data, at, order, explicit)
        if seen and (element is None or not _follows(element, last, data, explicit)):
            changed = True
            break  # bytes behind the last element
        if element is None:
            return None
        if element.tag >> 16 in (0, 2, 0xFFFE):
            changed, at = True, _after_stray(data, element, at, explicit)
            continue
        try:
            end, added = _after(data, element, order)
        except (UnusualError, struct.error):
            return None
        if end > len(data):
            return None  # truncated: the parser says so
        parts += [data[at:end], added]
        changed, at, last, seen = changed or bool(added), end, element.tag, seen or element.tag in _PIXELS
        if added:
            break
    return b"".join(parts) if changed else None


def mend_elements(data_set: Dataset) -> None:
    """Make a data set fit to be written, in place: what cannot be written becomes UN with its bytes, or is left out.

    Raises:
        UnsupportedImageError: an element of the file meta information cannot be written; its tag is named.
    """
    for tag in list(data_set.keys()):
        if tag != _PIXEL_DATA and not _can_be_written(data_set, int(tag)):
            raw = data_set.get_item(tag)
            value = getattr(raw, "value", None)
            del data_set[tag]
            if isinstance(raw, RawDataElement) and isinstance(value, bytes) and tag >> 16 > 8:
                data_set[tag] = DataElement(tag, _UNKNOWN, value)
    meta = getattr(data_set, "file_meta", None)
    for tag in list(meta.keys()) if meta is not None else []:
        if meta is not None and not _can_be_written(meta, int(tag)):
            number = f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
            raise UnsupportedImageError(f"the DICOM element {number} cannot be written again")


def _can_be_written(data_set: Dataset, tag: int) -> bool:
    """Whether the writer takes an element."""
    stream = DicomBytesIO()
    stream.is_little_endian, stream.is_implicit_VR = True, False
    try:
        write_data_element(stream, data_set.get_item(tag), "iso8859")
    except Exception as error:  # the writer raises nearly anything
        check_memory(error)
        return False
    return True


def _head(data: bytes, at: int, order: str, explicit: bool = True) -> _Element | None:
    """Head of the element at a position, ``None`` where the file ends before; as pydicom reads it.

    In explicit VR, what has no two capital letters is read in implicit VR, to which some writers change over.
    """
    if len(data) - at < 8:
        return None
    first, second = struct.unpack_from(f"{order}2H", data, at)
    tag, kind = first << 16 | second, data[at + 4 : at + 6]
    if not explicit or first == 0xFFFE or not b"AA" <= kind <= b"ZZ":
        return _Element(tag, b"", at + 8, struct.unpack_from(f"{order}I", data, at + 4)[0])
    if kind not in LONG_VRS:
        return _Element(tag, kind, at + 8, struct.unpack_from(f"{order}H", data, at + 6)[0])
    if len(data) - at < 12:
        return None
    return _Element(tag, kind, at + 12, struct.unpack_from(f"{order}I", data, at + 8)[0])


def _follows(element: _Element, last: int, data: bytes, explicit: bool) -> bool:
    """Whether this may be an element behind the pixel data: in order, or in explicit VR and within the file."""
    if element.tag >> 16 == 0xFFFE:
        return True
    if not explicit:
        return element.tag > last
    inside = element.length == UNDEFINED_LENGTH or element.start + element.length <= len(data)
    return element.kind in _VRS and inside and element.tag > 0xFFFF


def _after_meta(data: bytes) -> tuple[int, bytes]:
    """Where the file meta information ends, and the transfer syntax that it names."""
    at, syntax = begin_of(data), b""
    while data[at : at + 2] == b"\x02\0":
        element = _head(data, at, "<")
        if element is None or element.length > len(data) - element.start:
            break
        end = element.start + element.length
        if element.tag == _SYNTAX:
            syntax = data[element.start : end].rstrip(b"\0 ")
        at = end
    return at, syntax


def _after_stray(data: bytes, element: _Element, at: int, explicit: bool) -> int:
    """Where the file goes on after something that has no place there."""
    if element.tag == _ITEM and element.length == UNDEFINED_LENGTH:
        try:
            return after_item(data, element.start, explicit, 1)
        except (UnusualError, struct.error):
            return element.start
    if element.tag >> 16 == 0xFFFE and element.tag != _ITEM:
        return at + 8
    end = element.start + element.length
    return end if end <= len(data) else at + 8


def _after(data: bytes, element: _Element, order: str) -> tuple[int, bytes]:
    """Where an element ends, and what its end lacks.

    Raises:
        UnusualError: an undefined length that cannot be followed.
    """
    if element.length != UNDEFINED_LENGTH:
        return element.start + element.length, b""
    if order == ">":
        raise UnusualError
    if element.tag == _PIXEL_DATA and element.kind in (b"OB", b"OW", b"UN", b""):
        return _after_fragments(data, element.start)
    return after_sequence(data, element.start, element.kind not in (b"UN", b""), 1), b""


def _after_fragments(data: bytes, at: int) -> tuple[int, bytes]:
    """Where encapsulated pixel data end, and the delimiter if it is not there."""
    first = at
    while len(data) - at >= 8:
        tag, length = struct.unpack_from("<HH", data, at), struct.unpack_from("<I", data, at + 4)[0]
        if tag == (0xFFFE, 0xE0DD):
            return at + 8, b""
        if tag != (0xFFFE, 0xE000) or length > len(data) - at - 8:
            break
        at += 8 + length
    # Zeros, less than another item, or the wrong delimiter may stand where the right one should.
    rest = data[at:].removeprefix(_ITEM_END).strip(b"\0")
    if at == first or (rest and not (len(data) - at < 8 and _DELIMITER.startswith(data[at:]))):
        raise UnusualError
    return at, _DELIMITER

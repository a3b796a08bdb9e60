# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""DICOM files into data sets: deflated ones inflated within a bound, without raw exceptions or quoting warnings."""

from __future__ import annotations

import io
import logging
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import pydicom
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from monai_miadmark.errors import MIADMarkError, TamperedError, UnsupportedImageError, check_memory
from monai_miadmark.formats.dicom_mending import begin_of, mended
from monai_miadmark.formats.dicom_vrs import EXPLICIT, IMPLICIT, LONG_VRS, MAX_NESTING, UNDEFINED_LENGTH
from monai_miadmark.formats.limits import most_decoded

__all__ = [
    "BIG_ENDIAN",
    "DEFLATED",
    "EXPLICIT",
    "LONG_VRS",
    "MAX_NESTING",
    "NATIVE",
    "UNDEFINED_LENGTH",
    "Source",
    "check_nesting",
    "quiet",
    "raw_element",
    "read",
]

DEFLATED = "1.2.840.10008.1.2.1.99"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
NATIVE = frozenset((IMPLICIT, EXPLICIT, BIG_ENDIAN))
"""Transfer syntaxes whose samples lie in the file as they are."""

_SYNTAX_TAG = 0x00020010


@dataclass(frozen=True)
class Source:
    """A file as read.

    Attributes:
        data_set: the data set; nothing in it was converted yet.
        body: the bytes in which positions of ``data_set`` count: the file, or what it is once it is inflated or mended.
        syntax: transfer syntax UID of ``body``; where the file names none, that in which it was read.
        deflated: whether the file is a deflated one.
        mended: whether the file was mended, see :func:`~monai_miadmark.formats.dicom_mending.mended`.
    """

    data_set: Dataset
    body: bytes
    syntax: str
    deflated: bool
    mended: bool = False


_QUIET: ContextVar[bool] = ContextVar("_QUIET", default=False)


def _heard(record: logging.LogRecord) -> bool:
    """Filter of pydicom's loggers; a context variable, so that other threads' messages are not lost."""
    return not _QUIET.get()


# A filter counts for its own logger only: this is that of all of pydicom, and that of its decoders.
for _logger in ("pydicom", "pydicom.pixels.decoders.base"):
    logging.getLogger(_logger).addFilter(_heard)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence pydicom: its warnings and log messages quote values of the file, and what matters is checked here."""
    token = _QUIET.set(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        _QUIET.reset(token)


def read(data: bytes, mend: bool = True) -> Source:
    """The data set of a whole file, with or without its preamble.

    Args:
        data: the file.
        mend: leave out what no parser should stumble over.

    Raises:
        TamperedError: cannot be parsed.
        UnsupportedImageError: a deflated file that holds more than is taken into memory.
    """
    try:
        with quiet():
            # pydicom would inflate without any bound: a megabyte may hold a gigabyte.
            inflated = _inflated(data)
            body = data if inflated is None else inflated
            better = mended(body) if mend else None
            body = body if better is None else better
            data_set = pydicom.dcmread(io.BytesIO(body), force=begin_of(body) == 0)
            syntax = str(getattr(data_set, "file_meta", Dataset()).get("TransferSyntaxUID", "") or "")
    except MIADMarkError:
        raise
    except Exception as error:  # damaged files raise nearly anything; none may reach the caller raw
        check_memory(error)
        raise TamperedError("the DICOM file cannot be parsed") from error
    return Source(data_set, body, syntax or _found_syntax(data_set), inflated is not None, better is not None)


def _found_syntax(data_set: Dataset) -> str:
    """Transfer syntax in which a file was read that names none."""
    implicit, little = getattr(data_set, "original_encoding", (None, None))
    if implicit is None:  # pydicom 2
        implicit, little = getattr(data_set, "is_implicit_VR", None), getattr(data_set, "is_little_endian", None)
    if implicit is None or little is None:
        return ""
    return IMPLICIT if implicit else EXPLICIT if little else BIG_ENDIAN


def raw_element(data_set: Dataset, tag: int) -> tuple[bytes, int, int] | None:
    """Value bytes, declared length and position of a top-level element as read, or ``None`` where there is none.

    Raises:
        TamperedError: the element has no bytes.
    """
    if tag not in data_set:
        return None
    element: Any = data_set.get_item(tag)
    value, start = getattr(element, "value", None), getattr(element, "value_tell", None)
    if not isinstance(value, bytes) or not isinstance(start, int):
        raise TamperedError("a DICOM element is damaged")
    length = getattr(element, "length", None)
    return value, length if isinstance(length, int) else UNDEFINED_LENGTH, start


def check_nesting(data_set: Dataset) -> None:
    """Refuse what is nested deeper than any image needs, before it is written.

    An error inside pydicom's writer grows by a factor of 2.6 with each sequence around it: fourteen levels make a
    message of two gigabytes. Sequences that were not parsed are copied as bytes and do not count.

    Raises:
        UnsupportedImageError: more than :data:`MAX_NESTING` levels.
    """
    waiting = [(data_set, 0)]
    while waiting:
        inside, depth = waiting.pop()
        if depth > MAX_NESTING:
            raise UnsupportedImageError(f"DICOM sequences nested deeper than {MAX_NESTING} are not supported")
        for element in inside.values():
            if isinstance(element, DataElement) and element.VR == "SQ":
                waiting.extend((item, depth + 1) for item in element.value)


def _inflated(data: bytes) -> bytes | None:
    """The same file in Explicit VR Little Endian, or ``None`` where it is not a deflated one."""
    at, syntax, where = begin_of(data), b"", (0, 0)
    while data[at : at + 2] == b"\x02\0" and len(data) - at >= 12:
        tag = struct.unpack_from("<H", data, at)[0] << 16 | struct.unpack_from("<H", data, at + 2)[0]
        long = data[at + 4 : at + 6] in LONG_VRS
        start = at + (12 if long else 8)
        length: int = struct.unpack_from("<I" if long else "<H", data, at + (8 if long else 6))[0]
        if length > len(data) - start:
            return None  # damaged: pydicom says so
        if tag == _SYNTAX_TAG:
            syntax, where = data[start : start + length].rstrip(b"\0 "), (at, start + length)
        at = start + length
    if syntax != DEFLATED.encode():
        return None
    limit = min(most_decoded(), (1 << 28) + 64 * len(data))
    engine = zlib.decompressobj(-zlib.MAX_WBITS)
    body = engine.decompress(memoryview(data)[at:], limit)
    if engine.unconsumed_tail:
        raise UnsupportedImageError("the deflated DICOM file holds more than is taken into memory")
    if not engine.eof:
        raise TamperedError("the deflated DICOM file is truncated")
    plain = EXPLICIT.encode() + bytes(len(EXPLICIT) % 2)
    element = struct.pack("<HH2sH", 2, 0x10, b"UI", len(plain)) + plain
    # The group length becomes wrong by the difference; pydicom finds the end of the group by its tags.
    return b"".join((data[: where[0]], element, data[where[1] : at], body))

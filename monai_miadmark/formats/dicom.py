# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Uncompressed DICOM: samples by exact splice, the protected object as a derived image with a private block."""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import UID

from monai_miadmark.errors import MIADMarkError, TamperedError, UnsupportedImageError
from monai_miadmark.formats.base import (
    OpenedSource,
    ProtectedFile,
    SampleLayout,
    check_values,
    file_digest,
    missing_envelope,
    pack_block,
    refuse_protected,
    splice,
    unpack_block,
)
from monai_miadmark.formats.dicom_derivation import declare_derived
from monai_miadmark.formats.dicom_pixels import describe, display_window, pixel_bounds, pixel_padding
from monai_miadmark.image import StoredImage
from monai_miadmark.shell import SourceShell

__all__ = ["PRIVATE_CREATOR", "PRIVATE_GROUP", "RECORD_ELEMENT", "DicomCarrier"]

PRIVATE_GROUP = 0x0411
PRIVATE_CREATOR = "MIADMARK 1.0"
RECORD_ELEMENT = 0x02
"""Element of the envelope inside the private block, an OB."""

_PIXEL_DATA = 0x7FE00010
_OTHER_PIXELS = {0x7FE00008: "float pixel data", 0x7FE00009: "double float pixel data"}
_LITTLE_ENDIAN = {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1"}
_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_UNDEFINED_LENGTH = 0xFFFFFFFF


@dataclass(frozen=True)
class _Parsed:
    """A DICOM file with its samples located."""

    data_set: Dataset
    layout: SampleLayout
    bits_stored: int
    start: int
    length: int

    @property
    def end(self) -> int:
        """Where the samples end; padding may follow inside the element."""
        return self.start + self.layout.nbytes


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence pydicom: its warnings quote values of the file, and what matters is checked here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _read(data: bytes) -> Dataset:
    """The data set of a file.

    Raises:
        TamperedError: cannot be parsed.
    """
    try:
        with _quiet():
            return pydicom.dcmread(io.BytesIO(data))
    except Exception as error:  # damaged files raise nearly anything; none may reach the caller raw
        raise TamperedError("the DICOM file cannot be parsed") from error


def _raw(data_set: Dataset, tag: int) -> tuple[bytes, int, int] | None:
    """Value bytes, declared length and position of a top-level element as read, or ``None`` where there is none."""
    if tag not in data_set:
        return None
    element: Any = data_set.get_item(tag)
    value, start = getattr(element, "value", None), getattr(element, "value_tell", None)
    if not isinstance(value, bytes) or not isinstance(start, int):
        raise TamperedError("a DICOM element is damaged")
    length = getattr(element, "length", None)
    if getattr(element, "is_undefined_length", False) or not isinstance(length, int):
        length = _UNDEFINED_LENGTH
    return value, length, start


def _locate(data_set: Dataset, data: bytes) -> _Parsed:
    """Find and describe the samples.

    Raises:
        UnsupportedImageError: a kind that is not supported, by name.
    """
    syntax = str(getattr(data_set, "file_meta", Dataset()).get("TransferSyntaxUID", "") or "")
    if not syntax:
        raise UnsupportedImageError("DICOM without a transfer syntax is not supported")
    if syntax not in _LITTLE_ENDIAN and syntax != _BIG_ENDIAN:
        raise UnsupportedImageError(f"DICOM in {UID(syntax).name[:64]} is not supported (uncompressed is)")
    for tag, what in _OTHER_PIXELS.items():
        if tag in data_set:
            raise UnsupportedImageError(f"DICOM with {what} is not supported")
    found = _raw(data_set, _PIXEL_DATA)
    if found is None:
        if "DirectoryRecordSequence" in data_set:
            raise UnsupportedImageError("a DICOMDIR is not an image")
        kind = UID(str(data_set.get("SOPClassUID", "") or "")).name[:64] or "no SOP class"
        raise UnsupportedImageError(f"DICOM object without pixel data ({kind})")
    layout, bits_stored = describe(data_set, syntax == _BIG_ENDIAN)
    value, length, start = found
    if length == _UNDEFINED_LENGTH:
        raise UnsupportedImageError("DICOM with encapsulated pixel data is not supported (uncompressed is)")
    if len(value) != length or length < layout.nbytes:
        raise UnsupportedImageError("the DICOM pixel data are shorter than the image (truncated)")
    if data[start : start + length] != value:
        raise UnsupportedImageError("the DICOM pixel data cannot be located in the file")
    if layout.big_endian and layout.dtype in ("uint8", "int8") and data[start - 8 : start - 6] == b"OW":
        raise UnsupportedImageError("8-bit DICOM samples in big-endian words are not supported")
    return _Parsed(data_set, layout, bits_stored, start, length)


def _record_tags(data_set: Dataset) -> list[int]:
    """Tags of the envelope element, one for each block of ours; any block number, since writers may move blocks."""
    tags = []
    for block in range(0x10, 0x100):
        creator = (PRIVATE_GROUP << 16) | block
        if creator not in data_set:
            continue
        value = getattr(data_set.get_item(creator), "value", None)
        text = value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)
        if text.strip(" \0") == PRIVATE_CREATOR:
            tags.append((PRIVATE_GROUP << 16) | (block << 8) | RECORD_ELEMENT)
    return tags


def _record(data_set: Dataset) -> tuple[bytes, int, int] | None:
    """The packed envelope as :func:`_raw` gives it; ``None`` where the object was never marked."""
    tags = _record_tags(data_set)
    if not tags:
        return None
    if len(tags) > 1:
        raise TamperedError("the DICOM file holds more than one recovery record")
    found = _raw(data_set, tags[0])
    if found is None:
        raise TamperedError("the DICOM private block lacks its recovery record")
    return found


def _check_end(data_set: Dataset, data: bytes) -> None:
    """Refuse a protected file whose last element is not whole, or that goes on after it.

    pydicom takes a value that is cut short, and a cut element header, without a word.
    """
    last = data_set.get_item(max(data_set.keys()))
    start, length, value = (getattr(last, name, None) for name in ("value_tell", "length", "value"))
    if not isinstance(value, bytes) or not isinstance(start, int) or length == _UNDEFINED_LENGTH:
        return
    if len(value) != length or start + len(value) != len(data):
        raise TamperedError("the DICOM file is truncated, or something was appended to it")


class DicomCarrier:
    """Uncompressed DICOM files of 8 or 16 bits, monochrome or RGB, single and multi-frame."""

    name = "dicom"

    def matches(self, data: bytes) -> bool:
        """See :class:`~monai_miadmark.formats.base.Carrier`."""
        return data[128:132] == b"DICM"

    @_quiet()
    def open_source(self, data: bytes, name: str) -> OpenedSource:
        """See :class:`~monai_miadmark.formats.base.Carrier`."""
        try:
            data_set = _read(data)
            refuse_protected(bool(_record_tags(data_set)))
            parsed = _locate(data_set, data)
            values = parsed.layout.decode(memoryview(data)[parsed.start : parsed.end])
            shell = SourceShell(
                self.name,
                PurePath(name).name,
                parsed.layout.to_meta(),
                {"prefix": data[: parsed.start], "suffix": data[parsed.end :]},
            )
            if splice(shell, values) != data:
                raise UnsupportedImageError("the DICOM file cannot be rebuilt exactly")
            window = display_window(data_set, parsed.layout, parsed.bits_stored, values)
            bounds, padding = pixel_bounds(parsed.layout, parsed.bits_stored), pixel_padding(data_set, parsed.layout)
            return OpenedSource(StoredImage(values, bounds, window, padding), shell)
        except TamperedError as error:
            raise UnsupportedImageError(f"not a valid DICOM file: {error}") from error
        except MIADMarkError:
            raise
        except Exception as error:  # values are parsed on access, so damage may show anywhere above
            raise UnsupportedImageError("the DICOM file has attributes that cannot be read") from error

    def rebuild(self, shell: SourceShell, values: NDArray[Any] | None) -> bytes:
        """See :class:`~monai_miadmark.formats.base.Carrier`."""
        return splice(shell, values)

    def carry(self, data: bytes, opened: OpenedSource, values: NDArray[Any], envelope: bytes | None) -> bytes:
        """See :class:`~monai_miadmark.formats.base.Carrier`.

        The object becomes a derived image with new instance and series UIDs, see
        :func:`~monai_miadmark.formats.dicom_derivation.declare_derived`.
        """
        check_values(opened, values, envelope)
        try:
            with _quiet():
                data_set = _read(data)
                parsed = _locate(data_set, data)
                surplus = data[parsed.end : parsed.start + parsed.length]
                declare_derived(data_set, hashlib.sha256(data).digest(), values)
                data_set[_PIXEL_DATA].value = parsed.layout.encode(values) + surplus
                block = data_set.private_block(PRIVATE_GROUP, PRIVATE_CREATOR, create=True)
                packed = pack_block(envelope)
                block.add_new(RECORD_ELEMENT, "OB", packed + bytes(len(packed) % 2))
                buffer = io.BytesIO()
                data_set.save_as(buffer)
            written = buffer.getvalue()
            again = self.open_protected(written)
        except UnsupportedImageError:
            raise
        except Exception as error:  # pydicom cannot write everything that it reads
            raise UnsupportedImageError("the DICOM file has attributes that cannot be written again") from error
        # The data set was written by a library that repairs what it reads: look at what came out.
        if again.envelope != envelope or not np.array_equal(again.values, values):
            raise UnsupportedImageError("the protected DICOM file does not read back as it was written")
        return written

    @_quiet()
    def open_protected(self, data: bytes) -> ProtectedFile:
        """See :class:`~monai_miadmark.formats.base.Carrier`."""
        data_set = _read(data)
        marked = False
        try:
            found = _record(data_set)
            marked = found is not None
            if marked:
                _check_end(data_set, data)
            parsed = _locate(data_set, data)
            values = parsed.layout.decode(memoryview(data)[parsed.start : parsed.end])
            return ProtectedFile(values, unpack_block(found[0]) if found else None, marked)
        except UnsupportedImageError as error:
            if not marked:
                raise
            raise TamperedError(f"the protected file was changed: {error}") from error
        except MIADMarkError:
            raise
        except Exception as error:
            raise TamperedError("the DICOM file has attributes that cannot be read") from error

    def replace_envelope(self, data: bytes, envelope: bytes) -> bytes:
        """See :class:`~monai_miadmark.formats.base.Carrier`; only the element's length and value change."""
        if not envelope:
            raise ValueError("the envelope is empty")
        if self.open_protected(data).envelope is None:
            raise missing_envelope()
        data_set = _read(data)
        found = _record(data_set)
        if found is None or found[1] != len(found[0]) or data[found[2] : found[2] + found[1]] != found[0]:
            raise TamperedError("the recovery record cannot be located in the file")
        packed = pack_block(envelope)
        packed += bytes(len(packed) % 2)
        order = ">" if data_set.file_meta.TransferSyntaxUID == _BIG_ENDIAN else "<"
        start = found[2]
        # The four bytes before a value are its length, in explicit VR (OB, UN) as in implicit VR.
        changed = b"".join((data[: start - 4], struct.pack(f"{order}I", len(packed)), packed, data[start + found[1] :]))
        if self.open_protected(changed).envelope != envelope:
            raise TamperedError("the recovery record cannot be replaced in the file")
        return changed

    def output_name(self, name: str) -> str:
        """The same name."""
        return PurePath(name).name

    def file_digest(self, data: bytes) -> bytes:
        """SHA-256 of the file."""
        return file_digest(data)

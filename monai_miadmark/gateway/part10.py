# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Between data sets as they are sent (PS3.7) and files (PS3.10): the bytes of the data set are never written anew."""

from __future__ import annotations

import io
import re
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset

from monai_miadmark.errors import UnsupportedImageError
from monai_miadmark.formats.dicom_reading import BIG_ENDIAN, DEFLATED

__all__ = ["ObjectIdentity", "file_head", "identity_of_data_set", "identity_of_file", "valid_uid"]

_IMPLICIT = "1.2.840.10008.1.2"
_IMPLEMENTATION_CLASS = "2.25.172607654657441968389378901852169392008"
_HEAD_BYTES = 1 << 16
"""So much of a data set is looked at for its SOP Class and Instance UID, which are among its first elements."""

_META_BYTES = 1 << 16
_UID = re.compile(r"[0-9](?:\.?[0-9]){0,63}")
_SOP_INSTANCE = 0x00080018
_MAX_GENERATION = 9999


class ObjectIdentity(NamedTuple):
    """What an object is: SOP Class, SOP Instance and transfer syntax UID."""

    sop_class: str
    instance: str
    syntax: str


def valid_uid(text: str) -> bool:
    """Whether this is a UID (at most 64 digits and dots), and hence fit for a file name."""
    return len(text) <= 64 and _UID.fullmatch(text) is not None


def file_head(identity: ObjectIdentity, generation: int = 1) -> bytes:
    """Preamble and file meta information, to be followed by the data set.

    The same for the same object, whenever and from whomever it comes; only ``generation`` (from 1) makes another file
    of one data set.
    """
    elements = b"".join(
        (
            struct.pack("<HH2sHI2s", 2, 1, b"OB", 0, 2, b"\0\1"),
            _ui(0x02, identity.sop_class),
            _ui(0x03, identity.instance),
            _ui(0x10, identity.syntax),
            _ui(0x12, _IMPLEMENTATION_CLASS),
            _short(0x13, b"SH", f"MIADMARK_GW {min(generation, _MAX_GENERATION)}".encode(), b" "),
        )
    )
    return bytes(128) + b"DICM" + struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(elements)) + elements


def _ui(element: int, uid: str) -> bytes:
    """A UID of group 2."""
    return _short(element, b"UI", uid.encode("ascii"), b"\0")


def _short(element: int, vr: bytes, value: bytes, padding: bytes) -> bytes:
    """An element of group 2 with a length of 16 bits."""
    value += padding * (len(value) % 2)
    return struct.pack("<HH2sH", 2, element, vr, len(value)) + value


def identity_of_data_set(data: bytes | memoryview, syntax: str) -> ObjectIdentity:
    """SOP Class and Instance UID that stand in an encoded data set; only its first bytes are looked at.

    Raises:
        UnsupportedImageError: there are none, or they cannot be read.
    """
    try:
        if syntax == DEFLATED:
            head = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data[:_HEAD_BYTES], _HEAD_BYTES)
        else:
            head = bytes(data[:_HEAD_BYTES])
        found = read_dataset(
            io.BytesIO(head),
            syntax == _IMPLICIT,
            syntax != BIG_ENDIAN,
            stop_when=lambda tag, vr, length: tag > _SOP_INSTANCE,
        )
        sop_class, instance = (str(found.get(name, "") or "") for name in ("SOPClassUID", "SOPInstanceUID"))
    except Exception as error:  # damaged data sets raise nearly anything, and messages may quote them
        raise UnsupportedImageError("the data set cannot be read") from error
    if not valid_uid(sop_class) or not valid_uid(instance):
        raise UnsupportedImageError("the data set has no valid SOP Class and Instance UID")
    return ObjectIdentity(sop_class, instance, syntax)


def identity_of_file(path: Path) -> ObjectIdentity:
    """What a file says it is, in its meta information and, the same, in its data set.

    Raises:
        UnsupportedImageError: not a DICOM file, or it contradicts itself.
        OSError: it cannot be read.
    """
    with open(path, "rb") as stream:
        head = stream.read(132 + _META_BYTES + _HEAD_BYTES)
    if head[128:132] != b"DICM":
        raise UnsupportedImageError("not a DICOM file")
    try:
        meta, end = _meta(head)
        named = [str(meta.get(f"MediaStorage{name}UID", "") or "") for name in ("SOPClass", "SOPInstance")]
        syntax = str(meta.get("TransferSyntaxUID", "") or "")
    except Exception as error:
        raise UnsupportedImageError("the file's meta information cannot be read") from error
    identity = identity_of_data_set(head[end:], syntax)
    if named != [identity.sop_class, identity.instance] or not valid_uid(syntax):
        raise UnsupportedImageError("the file's meta information is not that of its data set")
    return identity


def _meta(head: bytes) -> tuple[Dataset, int]:
    """File meta information, and where the data set begins."""
    stream = io.BytesIO(head)
    stream.seek(132)
    meta = read_dataset(stream, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
    return meta, stream.tell()

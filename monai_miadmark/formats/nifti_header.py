# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Headers of NIfTI-1 and NIfTI-2 single files: what is needed to find, understand and turn their samples.

Layouts: https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h and
https://nifti.nimh.nih.gov/pub/dist/doc/nifti2.h
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from monai_miadmark.errors import TamperedError, UnsupportedImageError
from monai_miadmark.formats.base import MAX_FILE_BYTES, SampleLayout
from monai_miadmark.formats.orientation import flips_for_display

__all__ = [
    "HEAD_BYTES",
    "Fields",
    "NiftiHeader",
    "is_nifti",
    "pair_error",
    "parse_header",
    "with_offset",
    "without_texts",
]

_RGB24 = 128
_CODES = {
    2: "uint8",
    256: "int8",
    4: "int16",
    512: "uint16",
    8: "int32",
    768: "uint32",
    1024: "int64",
    1280: "uint64",
    16: "float32",
    64: "float64",
    _RGB24: "uint8",
}
_REFUSED = {
    0: "of unknown data type",
    1: "1-bit",
    32: "complex64",
    1536: "float128",
    1792: "complex128",
    2048: "complex256",
    2304: "RGBA32",
}


class Fields(NamedTuple):
    """Where a version of NIfTI keeps its fields: struct codes without byte order, and byte offsets."""

    version: int
    size: int
    dim: tuple[str, int]
    datatype: int
    offset: tuple[str, int]
    scale: tuple[str, int]
    shown: tuple[str, int]
    forms: tuple[str, int]
    quaternion: tuple[str, int]
    rows: tuple[str, int]
    intent: tuple[str, int]

    @property
    def first(self) -> int:
        """Where extensions begin, and samples at the earliest: the header and the four bytes of its flag."""
        return self.size + 4


_FIELDS = (
    Fields(
        1, 348, ("8h", 40), 70, ("f", 108), ("2f", 112), ("2f", 124), ("2h", 252), ("3f", 256), ("4f", 280), ("h", 68)
    ),
    Fields(
        2, 540, ("8q", 16), 12, ("q", 168), ("2d", 176), ("2d", 192), ("2i", 344), ("3d", 352), ("4d", 400), ("i", 504)
    ),
)

# data_type to dim_info, glmax and glmin, descrip and aux_file, intent_name; in NIfTI-2 the last three, and its end.
_TEXTS = {1: ((4, 39), (140, 148), (148, 252), (328, 344)), 2: ((240, 344), (508, 524), (525, 540))}
_ADVICE = "convert it to one .nii file first"
_SINGLE = b"n+1\0"

HEAD_BYTES = 544
"""Bytes from the start of a file that hold any header; NIfTI-1 needs fewer."""


@dataclass(frozen=True)
class NiftiHeader:
    """What is read of a header.

    Attributes:
        fields: the version's layout.
        order: byte order, ``<`` or ``>``.
        layout: the samples as the file has them; its type may be wider than those of ``STORED_DTYPES``.
        start: where the samples begin.
        slope: factor from stored values to the values that are meant; not zero.
        intercept: added to them.
        shown: ``cal_min`` and ``cal_max``.
        volumes: time points or contrasts, each a run of slices.
        color: whether voxels are colors.
        intent: ``intent_code``.
    """

    fields: Fields
    order: str
    layout: SampleLayout
    start: int
    slope: float
    intercept: float
    shown: tuple[float, float]
    intent: int = 0
    volumes: int = 1
    color: bool = False

    @property
    def end(self) -> int:
        """Where the samples end."""
        return self.start + self.layout.nbytes


def is_nifti(head: bytes) -> bool:
    """Whether bytes begin NIfTI-1, NIfTI-2 or ANALYZE 7.5: by four bytes, or of NIfTI-1 without its size by 348."""
    if len(head) < 4:
        return False
    sizes = {struct.unpack_from(f"{order}i", head)[0] for order in "<>"}
    return not sizes.isdisjoint(fields.size for fields in _FIELDS) or head[344:348] == _SINGLE


def parse_header(head: bytes) -> NiftiHeader:
    """Read the first :data:`HEAD_BYTES` of a file (all of it where it is shorter), or more.

    Raises:
        UnsupportedImageError: a kind that is not supported, by name.
        TamperedError: fields that contradict each other, or a header cut short.
    """
    fields, order = _version(head)
    dim = struct.unpack_from(order + fields.dim[0], head, fields.dim[1])
    (code,) = struct.unpack_from(f"{order}h", head, fields.datatype)
    (intent,) = struct.unpack_from(order + fields.intent[0], head, fields.intent[1])
    if fields.version == 2 and 3000 <= intent < 3100:
        raise UnsupportedImageError("CIFTI-2 (connectivity and surface data in NIfTI-2) is not supported: no image")
    if code not in _CODES:
        raise UnsupportedImageError(f"{_REFUSED.get(code, f'data type {code}')} NIfTI is not supported")
    channels = 3 if code == _RGB24 else 1
    # Bits per voxel follow from the type, and readers do not look at bitpix; lengths below one count as one to ITK.
    dim = (dim[0], dim[1], *(max(1, length) for length in dim[2:]))
    if not 1 <= dim[0] <= 7 or dim[1] < 1:
        raise TamperedError("the NIfTI dimensions are damaged")
    if dim[0] == 1 or any(length != 1 for length in dim[5 : dim[0] + 1]):
        raise UnsupportedImageError(f"NIfTI of {dim[0]} dimensions is not supported (2, 3 and 4 are)")
    width, height, *rest = dim[1 : min(dim[0], 4) + 1]
    shape = (math.prod(rest), height, width, channels)
    layout = SampleLayout(shape, _CODES[code], order == ">", flips=_flips(head, fields, order))
    (offset,) = struct.unpack_from(order + fields.offset[0], head, fields.offset[1])
    if not math.isfinite(offset) or offset > MAX_FILE_BYTES:
        raise TamperedError("the NIfTI voxel offset is damaged")
    if offset < fields.first:
        raise UnsupportedImageError(
            f"NIfTI whose samples begin inside its header (at {offset:g}) is not supported: readers disagree on where"
        )
    slope, intercept = struct.unpack_from(order + fields.scale[0], head, fields.scale[1])
    if not (math.isfinite(slope) and slope and math.isfinite(intercept)):
        slope, intercept = 1.0, 0.0  # "if scl_slope is nonzero": otherwise stored values are the values
    high, low = struct.unpack_from(order + fields.shown[0], head, fields.shown[1])
    volumes, color = rest[1] if len(rest) > 1 else 1, code == _RGB24
    return NiftiHeader(fields, order, layout, int(offset), slope, intercept, (low, high), intent, volumes, color)


def with_offset(head: bytes, header: NiftiHeader, offset: int) -> bytes:
    """The header's own bytes, without the extension flag, with another voxel offset.

    Fields that contradict what is in the file, which strict readers refuse, say what is: its size, the magic bytes of a
    single file, bits per voxel, lengths of axes.

    Raises:
        UnsupportedImageError: the version cannot name that offset.
    """
    fields = header.fields
    packed = struct.pack(header.order + fields.offset[0], offset)
    if struct.unpack(header.order + fields.offset[0], packed)[0] != offset:
        # vox_offset of NIfTI-1 is a float32: beyond 2**28 not every multiple of 16 exists.
        raise UnsupportedImageError("the recovery record is too large for a NIfTI header: use a sidecar")
    changed = bytearray(head[: fields.size])
    changed[fields.offset[1] : fields.offset[1] + len(packed)] = packed
    struct.pack_into(f"{header.order}i", changed, 0, fields.size)
    if fields.version == 1:
        changed[344:348] = _SINGLE
    else:
        changed[4:8] = b"n+2\0"
    channels = header.layout.shape[3]
    bits = np.dtype(header.layout.dtype).itemsize * 8 * channels
    struct.pack_into(f"{header.order}h", changed, fields.datatype + 2, bits)
    form, at = fields.dim
    dim = struct.unpack_from(header.order + form, changed, at)
    struct.pack_into(header.order + form, changed, at, dim[0], dim[1], *(max(1, length) for length in dim[2:]))
    return bytes(changed)


def without_texts(head: bytes, header: NiftiHeader) -> bytes:
    """Header bytes with zeros for what is free text or has no meaning: description, names of files and databases."""
    changed = bytearray(head)
    for start, stop in _TEXTS[header.fields.version]:
        changed[start:stop] = bytes(stop - start)
    return bytes(changed)


def _version(head: bytes) -> tuple[Fields, str]:
    """Layout and byte order, from the header's size and magic bytes."""
    if len(head) < 4:
        raise TamperedError("the NIfTI header is truncated")
    for fields in _FIELDS:
        for order in "<>":
            if struct.unpack_from(f"{order}i", head)[0] == fields.size:
                if len(head) < fields.size:
                    raise TamperedError("the NIfTI header is truncated")
                _check_magic(head, fields)
                if len(head) < fields.first:
                    raise TamperedError("the NIfTI header is truncated")
                return fields, order
    if head[344:348] == _SINGLE and len(head) >= _FIELDS[0].first:  # a writer that left its size out
        orders = [order for order in "<>" if 1 <= struct.unpack_from(f"{order}h", head, _FIELDS[0].dim[1])[0] <= 7]
        if orders:
            return _FIELDS[0], orders[0]
    raise TamperedError("the NIfTI header size is damaged")


def pair_error() -> UnsupportedImageError:
    """Error for headers whose samples are in another file."""
    return UnsupportedImageError(f"NIfTI as a .hdr/.img pair is not supported: {_ADVICE}")


def _check_magic(head: bytes, fields: Fields) -> None:
    """Refuse headers whose samples are in another file."""
    magic = head[344:348] if fields.version == 1 else head[4:12]
    if magic.startswith((b"ni1\0", b"ni2\0")):
        # Some tools write so although samples follow in the same file; the offset tells.
        kind, at = fields.offset
        for order in "<>":
            if struct.unpack_from(f"{order}i", head)[0] == fields.size:
                if struct.unpack_from(order + kind, head, at)[0] >= fields.first:
                    return
        raise pair_error()
    if fields.version == 1 and magic != _SINGLE:
        raise UnsupportedImageError(f"ANALYZE 7.5 (a pair without NIfTI's magic bytes) is not supported: {_ADVICE}")
    if fields.version == 2 and magic != b"n+2\0\r\n\x1a\n":
        # The line ends are there to tell transfers in text mode, which damage the samples too.
        raise TamperedError("the magic bytes of the NIfTI-2 header are damaged")


def _flips(head: bytes, fields: Fields, order: str) -> tuple[bool, bool]:
    """How the image is to be turned, from the sform, else the qform."""
    q_code, s_code = struct.unpack_from(order + fields.forms[0], head, fields.forms[1])
    if s_code > 0:
        form, first = fields.rows
        rows = [struct.unpack_from(order + form, head, first + row * struct.calcsize(form)) for row in range(3)]
        columns = [[rows[axis][column] for axis in range(3)] for column in range(2)]
    elif q_code > 0:
        b, c, d = struct.unpack_from(order + fields.quaternion[0], head, fields.quaternion[1])
        a = math.sqrt(max(0.0, 1.0 - (b * b + c * c + d * d)))
        columns = [
            [a * a + b * b - c * c - d * d, 2 * (b * c + a * d), 2 * (b * d - a * c)],
            [2 * (b * c - a * d), a * a + c * c - b * b - d * d, 2 * (c * d + a * b)],
        ]
    else:
        return False, False
    return flips_for_display(columns[0], columns[1])

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""NIfTI-1 in one file (``.nii``, ``.nii.gz``): samples and header extension by byte splice, nothing re-encoded.

Layout: https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h
"""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_miadmark.errors import TamperedError, UnsupportedImageError
from monai_miadmark.formats.base import (
    BLOCK_MAGIC,
    MAX_FILE_BYTES,
    OpenedSource,
    ProtectedFile,
    SampleLayout,
    check_values,
    missing_envelope,
    narrowed_window,
    pack_block,
    refuse_protected,
    splice,
    unpack_block,
)
from monai_miadmark.image import Bounds, StoredImage, Window, percentile_window
from monai_miadmark.shell import SourceShell

__all__ = ["EXTENSION_CODE", "NiftiCarrier", "read_label"]

EXTENSION_CODE = 6
"""NIFTI_ECODE_COMMENT: tools that know only registered codes keep it, and none of them parses what it holds."""

_HEADER = 348
_GZIP = b"\x1f\x8b"
_DTYPES = {2: "uint8", 256: "int8", 4: "int16", 512: "uint16", 8: "int32", 768: "uint32", 16: "float32"}
_REFUSED = {
    0: "of unknown data type",
    1: "1-bit",
    32: "complex64",
    64: "float64",
    128: "RGB24",
    1024: "int64",
    1280: "uint64",
    1536: "float128",
    1792: "complex128",
    2048: "complex256",
    2304: "RGBA32",
}


@dataclass(frozen=True)
class _Header:
    """What is read of a NIfTI-1 header."""

    order: str
    layout: SampleLayout
    start: int
    slope: float
    intercept: float
    shown: tuple[float, float]

    @property
    def end(self) -> int:
        """Where the samples end."""
        return self.start + self.layout.nbytes


def _is_header(head: bytes) -> bool:
    """Whether the first 348 bytes look like NIfTI-1, NIfTI-2 or ANALYZE."""
    if len(head) < 4:
        return False
    sizes = {struct.unpack_from(f"{order}i", head)[0] for order in "<>"}
    return bool(sizes & {348, 540})


def _parse(head: bytes) -> _Header:
    """Read the first 352 bytes or more of a file.

    Raises:
        UnsupportedImageError: a kind that is not supported, by name.
        TamperedError: fields that contradict each other, or a header cut short.
    """
    if len(head) < _HEADER + 4:
        raise TamperedError("the NIfTI header is truncated")
    order = "<" if struct.unpack_from("<i", head)[0] in (348, 540) else ">"
    (size,) = struct.unpack_from(f"{order}i", head)
    if size == 540:
        raise UnsupportedImageError("NIfTI-2 is not supported (NIfTI-1 is)")
    if size != _HEADER:
        raise TamperedError("the NIfTI header size is damaged")
    magic = head[344:348]
    if magic == b"ni1\0":
        raise UnsupportedImageError("NIfTI as a .hdr/.img pair is not supported (one .nii file is)")
    if magic != b"n+1\0":
        raise UnsupportedImageError("ANALYZE 7.5, or a NIfTI file without its magic bytes, is not supported")
    dim = struct.unpack_from(f"{order}8h", head, 40)
    code, bits = struct.unpack_from(f"{order}2h", head, 70)
    if code not in _DTYPES:
        raise UnsupportedImageError(f"{_REFUSED.get(code, f'data type {code}')} NIfTI is not supported")
    if bits != np.dtype(_DTYPES[code]).itemsize * 8:
        raise TamperedError("the NIfTI header contradicts itself (bitpix)")
    if not 1 <= dim[0] <= 7 or min(dim[1 : dim[0] + 1]) < 1:
        raise TamperedError("the NIfTI dimensions are damaged")
    if dim[0] == 1 or any(length != 1 for length in dim[5 : dim[0] + 1]):
        raise UnsupportedImageError(f"NIfTI of {dim[0]} dimensions is not supported (2, 3 and 4 are)")
    width, height, *rest = dim[1 : min(dim[0], 4) + 1]
    layout = SampleLayout((math.prod(rest), height, width, 1), _DTYPES[code], order == ">", flips=_flips(head, order))
    (offset,) = struct.unpack_from(f"{order}f", head, 108)
    if not 352 <= offset <= MAX_FILE_BYTES or offset != int(offset):
        raise TamperedError("the NIfTI voxel offset is damaged")
    slope, intercept = struct.unpack_from(f"{order}2f", head, 112)
    if not (math.isfinite(slope) and slope and math.isfinite(intercept)):
        slope, intercept = 1.0, 0.0  # "if scl_slope is nonzero": otherwise stored values are the values
    high, low = struct.unpack_from(f"{order}2f", head, 124)
    return _Header(order, layout, int(offset), slope, intercept, (low, high))


def _flips(head: bytes, order: str) -> tuple[bool, bool]:
    """Which of the axes (rows, columns) run away from the usual radiological display.

    Rows are wanted from anterior or superior downwards, columns from the patient's right or anterior rightwards, so
    that a logo can be read and a network sees heads the way up it learned them. Plain arithmetic on the header (sform,
    else qform), so that every machine finds the same.
    """
    q_code, s_code = struct.unpack_from(f"{order}2h", head, 252)
    if s_code > 0:
        rows = [struct.unpack_from(f"{order}4f", head, 280 + 16 * row) for row in range(3)]
        columns = [[rows[axis][column] for axis in range(3)] for column in range(2)]
    elif q_code > 0:
        b, c, d = struct.unpack_from(f"{order}3f", head, 256)
        a = math.sqrt(max(0.0, 1.0 - (b * b + c * c + d * d)))
        columns = [
            [a * a + b * b - c * c - d * d, 2 * (b * c + a * d), 2 * (b * d - a * c)],
            [2 * (b * c - a * d), a * a + c * c - b * b - d * d, 2 * (c * d + a * b)],
        ]
    else:
        return False, False
    # World axes run to the left-to-right R, posterior-to-anterior A, inferior-to-superior S of the patient.
    flips = []
    for axis, column in zip("HW", (columns[1], columns[0]), strict=True):
        if not all(math.isfinite(value) for value in column):
            return False, False
        main = max(range(3), key=lambda world: abs(column[world]))
        turned = main in ((1, 2) if axis == "H" else (0, 1))
        flips.append(turned and column[main] > 0)
    return flips[0], flips[1]


def _inflated(data: bytes) -> bytes:
    """Decompressed bytes of a gzip file, no more than a NIfTI header in it declares.

    Raises:
        UnsupportedImageError: a kind that is not supported.
        TamperedError: damaged, truncated, or more than declared.
    """
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
            head = stream.read(_HEADER + 4)
            if not _is_header(head):
                raise UnsupportedImageError("gzip of something else than NIfTI is not supported")
            end = _parse(head).end
            if end > MAX_FILE_BYTES:
                raise UnsupportedImageError(f"NIfTI files above {MAX_FILE_BYTES} bytes are not supported")
            # Some writers leave a little behind the samples; a bomb would leave much.
            rest = stream.read(end - len(head) + 2**20)
            if stream.read(1):
                raise TamperedError("the gzip stream holds more than its NIfTI header declares")
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise TamperedError("the gzip stream is damaged or truncated") from error
    return head + rest


def _plain(data: bytes) -> tuple[bytes, bool]:
    """Bytes of the ``.nii`` file, and whether they came out of gzip."""
    return (_inflated(data), True) if data.startswith(_GZIP) else (data, False)


def _sections(plain: bytes) -> tuple[_Header, NDArray[Any], list[tuple[int, bytes]]]:
    """Header, samples and extensions (code, content with padding) of a ``.nii`` file."""
    header = _parse(plain)
    if header.end > len(plain):
        raise TamperedError("the NIfTI file is truncated")
    values = header.layout.decode(memoryview(plain)[header.start : header.end])
    extensions: list[tuple[int, bytes]] = []
    at = _HEADER + 4
    while plain[_HEADER] and header.start - at >= 16:
        size, code = struct.unpack_from(f"{header.order}2i", plain, at)
        if size == 0 and not any(plain[at : header.start]):
            break  # zeros up to the samples: alignment, not an extension
        if size < 16 or size % 16 or size > header.start - at:
            raise TamperedError("a NIfTI header extension is damaged")
        extensions.append((code, plain[at + 8 : at + size]))
        at += size
    return header, values, extensions


def _is_record(extension: tuple[int, bytes]) -> bool:
    """Whether a header extension is ours."""
    return extension[0] == EXTENSION_CODE and extension[1].startswith(BLOCK_MAGIC)


def _assemble(head: bytes, order: str, extensions: list[tuple[int, bytes]], samples: bytes, rest: bytes) -> bytes:
    """A ``.nii`` file with these extensions; the voxel offset follows from them."""
    packed = b"".join(struct.pack(f"{order}2i", len(body) + 8, code) + body for code, body in extensions)
    offset = _HEADER + 4 + len(packed)
    if struct.unpack("<f", struct.pack("<f", offset))[0] != offset:
        # vox_offset is a float32: beyond 2**28 not every multiple of 16 exists.
        raise UnsupportedImageError("the recovery record is too large for a NIfTI header: use a sidecar")
    changed = bytearray(head[:_HEADER])
    struct.pack_into(f"{order}f", changed, 108, offset)
    return b"".join((bytes(changed), b"\x01\0\0\0", packed, samples, rest))


def _extension(envelope: bytes | None) -> tuple[int, bytes]:
    """Header extension that holds the envelope, padded so that its size with the 8 bytes before is 16 n."""
    block = pack_block(envelope)
    return EXTENSION_CODE, block + bytes(-(len(block) + 8) % 16)


def _compressed(plain: bytes, compress: bool) -> bytes:
    """The file as it is written; gzip without time and name, so that equal input gives equal output."""
    return gzip.compress(plain, compresslevel=6, mtime=0) if compress else plain


def _window(header: _Header, values: NDArray[Any]) -> Window:
    """Display window in stored units: cal_min..cal_max where they fit the samples, else percentiles."""
    low, high = ((value - header.intercept) / header.slope for value in header.shown)
    if header.shown[0] < header.shown[1]:
        window = narrowed_window(low, high, False, values)
        if window is not None:
            return window
    return percentile_window(values, inverted=header.slope < 0)


def _bounds(values: NDArray[Any]) -> Bounds:
    """Range of the samples for float32, else of the type; samples of a purely positive image stay positive."""
    if values.dtype.kind == "f":
        finite = values[np.isfinite(values)]
        return Bounds(float(finite.min()), float(finite.max())) if finite.size else Bounds(0.0, 0.0)
    info = np.iinfo(values.dtype)
    return Bounds(0 if values.min() >= 0 else int(info.min), int(info.max))


class NiftiCarrier:
    """NIfTI-1 single files, plain or in gzip; a volume is a stack of slices along its last axes."""

    name = "nifti"

    def matches(self, data: bytes) -> bool:
        """See :class:`~monai_miadmark.formats.base.Carrier`."""
        if not data.startswith(_GZIP):
            return _is_header(data[:4])
        try:
            return _is_header(zlib.decompressobj(wbits=31).decompress(data[:65536], 4))
        except zlib.error:
            return False

    def open_source(self, data: bytes, name: str) -> OpenedSource:
        """See :class:`~monai_miadmark.formats.base.Carrier`."""
        try:
            plain, compressed = _plain(data)
            header, values, extensions = _sections(plain)
        except TamperedError as error:
            raise UnsupportedImageError(f"not a valid NIfTI file: {error}") from error
        refuse_protected(any(map(_is_record, extensions)))
        shell = SourceShell(
            self.name,
            PurePath(name).name,
            {**header.layout.to_meta(), "gzip": compressed},
            {"prefix": plain[: header.start], "suffix": plain[header.end :]},
        )
        if splice(shell, values) != plain:
            raise UnsupportedImageError("the NIfTI file cannot be rebuilt exactly")
        return OpenedSource(StoredImage(values, _bounds(values), _window(header, values)), shell)

    def rebuild(self, shell: SourceShell, values: NDArray[Any] | None) -> bytes:
        """See :class:`~monai_miadmark.formats.base.Carrier`; of ``.nii.gz`` the decompressed bytes are exact."""
        return _compressed(splice(shell, values), bool(shell.meta.get("gzip")))

    def carry(self, data: bytes, opened: OpenedSource, values: NDArray[Any], envelope: bytes | None) -> bytes:
        """See :class:`~monai_miadmark.formats.base.Carrier`."""
        check_values(opened, values, envelope)
        plain, compressed = _plain(data)
        header, _, extensions = _sections(plain)
        samples = header.layout.encode(values)
        extensions.append(_extension(envelope))
        return _compressed(_assemble(plain, header.order, extensions, samples, plain[header.end :]), compressed)

    def open_protected(self, data: bytes) -> ProtectedFile:
        """See :class:`~monai_miadmark.formats.base.Carrier`."""
        _, values, extensions = _sections(_plain(data)[0])
        records = [body for _, body in filter(_is_record, extensions)]
        if len(records) > 1:
            raise TamperedError("the NIfTI file holds more than one recovery record")
        return ProtectedFile(values, unpack_block(records[0]) if records else None, bool(records))

    def replace_envelope(self, data: bytes, envelope: bytes) -> bytes:
        """See :class:`~monai_miadmark.formats.base.Carrier`."""
        if not envelope:
            raise ValueError("the envelope is empty")
        if self.open_protected(data).envelope is None:
            raise missing_envelope()
        plain, compressed = _plain(data)
        header, _, extensions = _sections(plain)
        changed = [_extension(envelope) if _is_record(old) else old for old in extensions]
        samples = plain[header.start : header.end]
        return _compressed(_assemble(plain, header.order, changed, samples, plain[header.end :]), compressed)

    def output_name(self, name: str) -> str:
        """The same name."""
        return PurePath(name).name

    def file_digest(self, data: bytes) -> bytes:
        """SHA-256 of the decompressed bytes: a gzip stream cannot be made again, what it holds can."""
        return hashlib.sha256(_plain(data)[0]).digest()


def read_label(data: bytes, shell: SourceShell) -> NDArray[np.bool_]:
    """Mask in the slice order and orientation of an opened NIfTI image.

    Args:
        data: a NIfTI-1 file on the image's grid; samples other than 0 are inside.
        shell: of the image, from :meth:`NiftiCarrier.open_source`.

    Returns:
        ``(N, H, W)`` bool.

    Raises:
        UnsupportedImageError: not a NIfTI file, or on another grid.
    """
    opened = NiftiCarrier().open_source(data, "label")
    layout, wanted = SampleLayout.from_meta(opened.shell.meta), SampleLayout.from_meta(shell.meta)
    if layout.shape != wanted.shape:
        raise UnsupportedImageError(f"the mask is {layout.shape[:3]}, the image {wanted.shape[:3]}")
    if layout.flips != wanted.flips:
        raise UnsupportedImageError("the mask does not have the orientation of the image: resample it first")
    mask: NDArray[np.bool_] = opened.image.values[..., 0] != 0
    return mask

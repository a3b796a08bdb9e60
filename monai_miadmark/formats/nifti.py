# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""NIfTI-1 and NIfTI-2 in one file (``.nii``, ``.nii.gz``): samples and extensions by byte splice."""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
import zlib
from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_miadmark.errors import TamperedError, TooLargeError, UnsupportedImageError, check_memory
from monai_miadmark.formats.base import (
    BLOCK_MAGIC,
    FoundRecord,
    OpenedSource,
    ProtectedFile,
    SampleLayout,
    check_values,
    missing_envelope,
    pack_block,
    refuse_protected,
    splice,
    unpack_block,
)
from monai_miadmark.formats.copies import copy_bytes
from monai_miadmark.formats.display import digest_of
from monai_miadmark.formats.limits import check_decoded
from monai_miadmark.formats.nifti_header import (
    HEAD_BYTES,
    NiftiHeader,
    is_nifti,
    pair_error,
    parse_header,
    with_offset,
    without_texts,
)
from monai_miadmark.formats.ranges import value_bounds
from monai_miadmark.formats.wide import NARROW, is_exact, narrowed, widened
from monai_miadmark.image import StoredImage, Window
from monai_miadmark.shell import CARRIED_FILE, SourceShell
from monai_miadmark.windows import EIGHT_BITS, display_windows

__all__ = ["EXTENSION_CODE", "NiftiCarrier", "read_label"]

EXTENSION_CODE = 6
"""NIFTI_ECODE_COMMENT: tools that know only registered codes keep it, and none of them parses what it holds."""

_GZIP = b"\x1f\x8b"

_MAX_EXTENSIONS = 10_000

_LABEL_INTENTS = {1002: "NIfTI intent LABEL", 1003: "NIfTI intent NEURONAMES"}


def _inflated(data: bytes) -> bytes:
    """Decompressed bytes of a gzip file, no more than a NIfTI header in it declares.

    Raises:
        UnsupportedImageError: a kind that is not supported.
        TamperedError: damaged, truncated, or more than declared.
    """
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
            head = stream.read(HEAD_BYTES)
            if not is_nifti(head):
                raise UnsupportedImageError("gzip of something else than NIfTI is not supported")
            end = parse_header(head).end
            # Deflate packs at most 1032:1; memory is not taken for what the stream cannot hold.
            if end > 1032 * len(data):
                raise TamperedError("the gzip stream is truncated")
            check_decoded(end, len(data))
            # Some writers leave a little behind the samples; a bomb would leave much.
            rest = stream.read(max(0, end - len(head)) + 2**20)
            if stream.read(1):
                raise TamperedError("the gzip stream holds more than its NIfTI header declares")
    except (OSError, EOFError, zlib.error, struct.error) as error:
        check_memory(error)
        raise TamperedError("the gzip stream is damaged or truncated") from error
    return head + rest


def _beginning(data: bytes) -> bytes:
    """What stands before the samples of a file, plain or in gzip, and at most some bytes of them."""
    if not data.startswith(_GZIP):
        return data
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
            head = stream.read(HEAD_BYTES)
            if not is_nifti(head):
                raise UnsupportedImageError("gzip of something else than NIfTI is not supported")
            start = parse_header(head).start
            check_decoded(start, len(data))
            return head + stream.read(max(0, start - len(head)))
    except (OSError, EOFError, zlib.error, struct.error) as error:
        check_memory(error)
        raise TamperedError("the gzip stream is damaged or truncated") from error


def _plain(data: bytes) -> tuple[bytes, bool]:
    """Bytes of the ``.nii`` file, and whether they came out of gzip."""
    return (_inflated(data), True) if data.startswith(_GZIP) else (data, False)


def _sections(plain: bytes) -> tuple[NiftiHeader, NDArray[Any], list[tuple[int, bytes]]]:
    """Header, samples in the type of the file, and extensions (code, content with padding) of a ``.nii`` file."""
    header = parse_header(plain[:HEAD_BYTES])
    if header.end > len(plain):
        pair = plain[344:348] == b"ni1\0" or plain[4:8] == b"ni2\0"
        raise pair_error() if pair else TamperedError("the NIfTI file is truncated")
    values = header.layout.decode(memoryview(plain)[header.start : header.end])
    return header, values, _extensions(header, plain)


def _extensions(header: NiftiHeader, plain: bytes) -> list[tuple[int, bytes]]:
    """Header extensions: code, content with padding."""
    extensions: list[tuple[int, bytes]] = []
    at = header.fields.first
    while plain[header.fields.size] and header.start - at >= 16:
        size, code = struct.unpack_from(f"{header.order}2i", plain, at)
        if size < 16 or size > header.start - at:
            break  # zeros up to the samples, or whatever a writer left there: readers do not look further
        if len(extensions) == _MAX_EXTENSIONS:
            raise UnsupportedImageError(f"NIfTI of more than {_MAX_EXTENSIONS} header extensions is not supported")
        extensions.append((code, plain[at + 8 : at + size]))
        at += size
    if BLOCK_MAGIC in plain[at : header.start]:
        raise TamperedError("the recovery record in the NIfTI header extensions is damaged")
    return extensions


def _is_record(extension: tuple[int, bytes]) -> bool:
    """Whether a header extension is ours."""
    return extension[0] == EXTENSION_CODE and extension[1].startswith(BLOCK_MAGIC)


def _record_of(extensions: list[tuple[int, bytes]]) -> FoundRecord:
    """The record among the header extensions of a file."""
    records = [body for _, body in filter(_is_record, extensions)]
    if len(records) > 1:
        raise TamperedError("the NIfTI file holds more than one recovery record")
    return FoundRecord(unpack_block(records[0]) if records else None, bool(records))


def _assemble(
    head: bytes, header: NiftiHeader, extensions: list[tuple[int, bytes]], samples: bytes, rest: bytes
) -> bytes:
    """A ``.nii`` file with these extensions; the voxel offset follows from them."""
    # Sizes are multiples of 16; nibabel reads others, but niftilib nothing behind one.
    bodies = [(code, body + bytes(-(len(body) + 8) % 16)) for code, body in extensions]
    packed = b"".join(struct.pack(f"{header.order}2i", len(body) + 8, code) + body for code, body in bodies)
    changed = with_offset(head, header, header.fields.first + len(packed))
    return b"".join((changed, b"\x01\0\0\0", packed, samples, rest))


def _extension(envelope: bytes | None) -> tuple[int, bytes]:
    """Header extension that holds the envelope, padded so that its size with the 8 bytes before is 16 n."""
    block = pack_block(envelope)
    return EXTENSION_CODE, block + bytes(-(len(block) + 8) % 16)


def _compressed(plain: bytes, compress: bool) -> bytes:
    """The file as it is written; gzip without time and name, so that equal input gives equal output."""
    return gzip.compress(plain, compresslevel=6, mtime=0) if compress else plain


def _window(header: NiftiHeader, values: NDArray[Any]) -> Window | tuple[Window, ...]:
    """Display windows in stored units: cal_min..cal_max where they fit the samples, else percentiles.

    Volumes whose ranges differ (a diffusion series, several contrasts) have windows of their own; colors are shown as
    they are.
    """
    if header.color:
        return EIGHT_BITS
    low, high = ((value - header.intercept) / header.slope for value in header.shown)
    inverted = header.slope < 0
    named = [(high, low) if inverted else (low, high)] if header.shown[0] < header.shown[1] else []
    return display_windows(values, header.volumes, named, inverted)


class NiftiCarrier:
    """NIfTI single files, plain or in gzip; a volume is a stack of slices along its last axes.

    Samples of 64 bits are marked as 32-bit ones (:mod:`~monai_miadmark.formats.wide`). Where that loses bits (float64),
    the record carries the source file.
    """

    name = "nifti"

    def matches(self, data: bytes) -> bool:
        """See :class:`~monai_miadmark.formats.base.Carrier`."""
        if not data.startswith(_GZIP):
            return is_nifti(data[:HEAD_BYTES])
        try:
            head = zlib.decompressobj(wbits=31).decompress(data[:65536], HEAD_BYTES)
            # Any bytes may stand before DICOM's mark; Siemens scanners left their own there, which begin like ANALYZE.
            return is_nifti(head) and head[128:132] != b"DICM"
        except zlib.error:
            return False

    def open_source(self, data: bytes, name: str) -> OpenedSource:
        """See :class:`~monai_miadmark.formats.base.Carrier`."""
        try:
            plain, compressed = _plain(data)
            header, stored, extensions = _sections(plain)
        except TamperedError as error:
            raise UnsupportedImageError(f"not a valid NIfTI file: {error}") from error
        refuse_protected(any(map(_is_record, extensions)))
        values = narrowed(stored)
        meta = {**header.layout.to_meta(), "gzip": compressed}
        if values is stored or is_exact(stored):
            blobs = {"prefix": plain[: header.start], "suffix": plain[header.end :]}
        else:
            blobs = {CARRIED_FILE: data}
        shell = SourceShell(self.name, PurePath(name).name, meta, blobs)
        if CARRIED_FILE not in blobs and _restored(shell, values) != plain:
            raise UnsupportedImageError("the NIfTI file cannot be rebuilt exactly")
        labels = _LABEL_INTENTS.get(header.intent)
        return OpenedSource(StoredImage(values, value_bounds(values), _window(header, values)), shell, labels)

    def rebuild(self, shell: SourceShell, values: NDArray[Any] | None) -> bytes:
        """See :class:`~monai_miadmark.formats.base.Carrier`; of ``.nii.gz`` the decompressed bytes are exact."""
        if CARRIED_FILE in shell.blobs:
            return shell.blobs[CARRIED_FILE]
        return _compressed(_restored(shell, values), bool(shell.meta.get("gzip")))

    def carry(self, data: bytes, opened: OpenedSource, values: NDArray[Any], envelope: bytes | None) -> bytes:
        """See :class:`~monai_miadmark.formats.base.Carrier`."""
        check_values(opened, values, envelope)
        plain, compressed = _plain(data)
        header, stored, extensions = _sections(plain)
        wide = header.layout.dtype
        samples = header.layout.encode(widened(values, wide, stored) if wide in NARROW else values)
        rest, size = plain[header.end :], copy_bytes(values)
        extensions = [old for old in extensions if len(old[1]) < size]
        extensions.append(_extension(envelope))
        changed = _assemble(plain, header, extensions, samples, rest if len(rest) < size else b"")
        return _compressed(changed, compressed)

    def open_protected(self, data: bytes) -> ProtectedFile:
        """See :class:`~monai_miadmark.formats.base.Carrier`."""
        _, values, extensions = _sections(_plain(data)[0])
        found = _record_of(extensions)
        try:
            return ProtectedFile(narrowed(values), found.envelope, found.marked)
        except UnsupportedImageError as error:
            if not found.marked or isinstance(error, TooLargeError):
                raise
            raise TamperedError(f"the protected file was changed: {error}") from error

    def open_record(self, data: bytes) -> FoundRecord:
        """See :class:`~monai_miadmark.formats.base.Carrier`."""
        plain = _beginning(data)
        header = parse_header(plain[:HEAD_BYTES])
        if header.start > len(plain):
            raise TamperedError("the NIfTI file is truncated")
        return _record_of(_extensions(header, plain))

    def display_digest(self, data: bytes) -> bytes:
        """See :class:`~monai_miadmark.formats.base.Carrier`; the header but for its free texts and the offset."""
        plain = _beginning(data)
        header = parse_header(plain[:HEAD_BYTES])
        return digest_of(self.name, [("header", without_texts(with_offset(plain, header, 0), header))])

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
        return _compressed(_assemble(plain, header, changed, samples, plain[header.end :]), compressed)

    def output_name(self, name: str) -> str:
        """The same name."""
        return PurePath(name).name

    def file_digest(self, data: bytes) -> bytes:
        """SHA-256 of the decompressed bytes: a gzip stream cannot be made again, what it holds can."""
        return hashlib.sha256(_plain(data)[0]).digest()


def _restored(shell: SourceShell, values: NDArray[Any] | None) -> bytes:
    """Decompressed bytes of a source file that is not carried whole.

    Raises:
        TamperedError: the shell lacks parts, or the samples do not fit it.
    """
    wide = shell.meta.get("dtype")
    if values is not None and isinstance(wide, str) and NARROW.get(wide) == values.dtype.name:
        values = widened(values, wide)
    return splice(shell, values)


def read_label(data: bytes, shell: SourceShell) -> NDArray[np.bool_]:
    """Mask in the slice order and orientation of an opened NIfTI image.

    Args:
        data: a NIfTI file on the image's grid; samples other than 0 are inside.
        shell: of the image, from :meth:`NiftiCarrier.open_source`.

    Returns:
        ``(N, H, W)`` bool.

    Raises:
        UnsupportedImageError: not a NIfTI file, or on another grid.
    """
    opened = NiftiCarrier().open_source(data, "label")
    layout, wanted = SampleLayout.from_meta(opened.shell.meta), SampleLayout.from_meta(shell.meta)
    if layout.shape[:3] != wanted.shape[:3]:
        raise UnsupportedImageError(f"the mask is {layout.shape[:3]}, the image {wanted.shape[:3]}")
    if layout.flips != wanted.flips:
        raise UnsupportedImageError("the mask does not have the orientation of the image: resample it first")
    mask: NDArray[np.bool_] = (opened.image.values != 0).any(axis=3)
    return mask

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""What every file format offers: exact samples out of a file, protected samples and the envelope into a file."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from monai_miadmark.errors import NotProtectedError, TamperedError, UnsupportedImageError
from monai_miadmark.image import STORED_DTYPES, StoredImage
from monai_miadmark.shell import CARRIED_FILE, SourceShell

__all__ = [
    "MAX_FILE_BYTES",
    "Carrier",
    "FoundRecord",
    "OpenedSource",
    "ProtectedFile",
    "SampleLayout",
    "file_digest",
    "pack_block",
    "unpack_block",
]

MAX_FILE_BYTES = 2**32
"""Largest decompressed file that is taken into memory; a gzip stream that holds more is refused."""

_SAMPLE_TYPES = frozenset((*STORED_DTYPES, "int64", "uint64", "float64"))

BLOCK_MAGIC = b"MIADMRC1"
_BLOCK_HEAD = struct.Struct("<8sQ")
_BLOCK_END = b"\x01"


@dataclass(frozen=True)
class OpenedSource:
    """A source file, taken apart.

    Attributes:
        image: the samples to mark.
        shell: all that is needed to write the file again.
        labels: what in the file says that its samples are labels (a segmentation), ``None`` where nothing does.
    """

    image: StoredImage
    shell: SourceShell
    labels: str | None = None


@dataclass(frozen=True)
class ProtectedFile:
    """A protected file, taken apart.

    Attributes:
        values: ``(N, H, W, C)`` as ``StoredImage.values`` of the source had them, with the mark.
        envelope: the sealed recovery record, or ``None`` where the file carries none (sidecar, or stripped).
        marked: whether the file says that this package protected it (also true where the record is in a sidecar).
    """

    values: NDArray[Any]
    envelope: bytes | None
    marked: bool = False


class FoundRecord(NamedTuple):
    """What of a protected file can be had without its pixels.

    Attributes:
        envelope: as of :class:`ProtectedFile`.
        marked: as of :class:`ProtectedFile`.
    """

    envelope: bytes | None
    marked: bool


class Carrier(Protocol):
    """One file format. All methods take and give whole files as bytes and touch no disk."""

    name: str

    def matches(self, data: bytes) -> bool:
        """Whether ``data`` looks like this format, by content; true does not promise that it is supported."""

    def open_source(self, data: bytes, name: str) -> OpenedSource:
        """Take a source file apart.

        Args:
            data: the whole file.
            name: its name; the base name is kept for restoring.

        Raises:
            UnsupportedImageError: naming what cannot be restored exactly, or that the file is protected already.
        """

    def rebuild(self, shell: SourceShell, values: NDArray[Any] | None) -> bytes:
        """Write the source file again from restored samples (``None`` where the shell carries the whole file).

        Raises:
            TamperedError: the shell does not describe a file of this format, or not one for these samples.
        """

    def carry(self, data: bytes, opened: OpenedSource, values: NDArray[Any], envelope: bytes | None) -> bytes:
        """Bytes of the protected file: protected samples, envelope (``None``: it goes to a sidecar), declared as such.

        Raises:
            UnsupportedImageError: the file's other content cannot be written again.
            ValueError: the samples are not of the source's shape and type, or the envelope is empty.
        """

    def open_protected(self, data: bytes) -> ProtectedFile:
        """Take a protected file apart; a file without any mark gives ``envelope=None, marked=False``.

        Raises:
            TamperedError: the file is damaged.
            UnsupportedImageError: an unmarked file of a kind that is never written by :meth:`carry`.
        """

    def open_record(self, data: bytes) -> FoundRecord:
        """What :meth:`open_protected` finds but for the samples, none of which is decoded or looked at.

        Raises:
            TamperedError: the record is damaged, or the file so that it cannot be found.
            UnsupportedImageError: a file of a kind that is never written by :meth:`carry`.
        """

    def display_digest(self, data: bytes) -> bytes:
        """SHA-256 (32 bytes) of what decides, beside the samples, how a file is shown; of a source, of what is kept.

        That is transparency, colors, orientation, resolution and the like, each in the form in which tools that write
        files anew without a change leave it. It is the same for a source and its protected file.

        Raises:
            TamperedError: the file is damaged.
            UnsupportedImageError: a file of a kind that is not supported.
        """

    def replace_envelope(self, data: bytes, envelope: bytes) -> bytes:
        """The same protected file with another envelope, every other byte kept (lengths and checksums apart).

        Raises:
            NotProtectedError: the file carries no envelope.
            TamperedError: the file is damaged.
        """

    def output_name(self, name: str) -> str:
        """Base name of the protected file."""

    def file_digest(self, data: bytes) -> bytes:
        """SHA-256 (32 bytes) of what restoring promises: the file, or for gzip its decompressed bytes."""


def file_digest(data: bytes) -> bytes:
    """SHA-256 of the whole file, 32 bytes."""
    return hashlib.sha256(data).digest()


@dataclass(frozen=True)
class SampleLayout:
    """How samples lie in a file: ``planes`` x rows x columns x samples, and how to read and write them exactly.

    Attributes:
        shape: ``(N, H, W, C)``.
        dtype: name of the sample type, one of ``STORED_DTYPES``.
        big_endian: byte order in the file.
        planar: all samples of one channel lie together within each slice (DICOM Planar Configuration 1).
        flips: which of the axes ``(H, W)`` run backwards in the file.
    """

    shape: tuple[int, int, int, int]
    dtype: str
    big_endian: bool = False
    planar: bool = False
    flips: tuple[bool, bool] = (False, False)

    @property
    def nbytes(self) -> int:
        """Bytes of all samples in the file; exact for any declared shape, as Python integers do not overflow."""
        count = self.shape[0] * self.shape[1] * self.shape[2] * self.shape[3]
        return count * np.dtype(self.dtype).itemsize

    def decode(self, data: bytes | memoryview) -> NDArray[Any]:
        """``(N, H, W, C)`` samples in native byte order; ``data`` is exactly :attr:`nbytes` long.

        They are those of ``data`` itself, and read-only, where they lie there as they are wanted; else a copy.
        """
        dtype = np.dtype(self.dtype)
        # Swapping as unsigned integers keeps the payload of a NaN, which a float conversion might not.
        raw = np.dtype(f"u{dtype.itemsize}").newbyteorder(">" if self.big_endian else "<")
        n, h, w, c = self.shape
        flat = np.frombuffer(data, dtype=raw)
        if not (raw.isnative and flat.flags.aligned):
            flat = flat.astype(raw.newbyteorder("="))
        values = flat.reshape(n, c, h, w).transpose(0, 2, 3, 1) if self.planar else flat.reshape(n, h, w, c)
        return np.ascontiguousarray(self._flipped(values)).view(dtype)

    def encode(self, values: NDArray[Any]) -> bytes:
        """The bytes in the file; inverse of :meth:`decode`.

        Raises:
            ValueError: other shape or type than the layout's.
        """
        return self.encoded(values).tobytes()

    def encoded(self, values: NDArray[Any]) -> memoryview:
        """What :meth:`encode` gives, as a view of the samples themselves where they lie in the file as they are."""
        if values.shape != self.shape or values.dtype != np.dtype(self.dtype):
            raise ValueError(f"expected {self.dtype} {self.shape}, found {values.dtype} {values.shape}")
        raw = np.dtype(f"u{values.dtype.itemsize}")
        bits = self._flipped(np.ascontiguousarray(values).view(raw))
        if self.planar:
            bits = bits.transpose(0, 3, 1, 2)
        ordered = np.ascontiguousarray(bits, raw.newbyteorder(">" if self.big_endian else "<"))
        return ordered.reshape(-1).view(np.uint8).data

    def _flipped(self, values: NDArray[Any]) -> NDArray[Any]:
        """Values with the axes H and W reversed where the file has them backwards."""
        return values[:, :: -1 if self.flips[0] else 1, :: -1 if self.flips[1] else 1]

    def to_meta(self) -> dict[str, Any]:
        """JSON-able form for :attr:`SourceShell.meta`."""
        return {
            "shape": list(self.shape),
            "dtype": self.dtype,
            "big_endian": self.big_endian,
            "planar": self.planar,
            "flips": list(self.flips),
        }

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any]) -> SampleLayout:
        """Inverse of :meth:`to_meta`.

        Raises:
            TamperedError: not such a mapping.
        """
        try:
            n, h, w, c = meta["shape"]
            rows, columns = (bool(flip) for flip in meta["flips"])
            # Nothing but what to_meta() writes: NumPy would make types, and sizes, of the strangest values.
            if meta["dtype"] not in _SAMPLE_TYPES or any(type(size) is not int or size < 1 for size in (n, h, w, c)):
                raise ValueError("not a layout of samples")
            return cls((n, h, w, c), meta["dtype"], bool(meta["big_endian"]), bool(meta["planar"]), (rows, columns))
        except (KeyError, TypeError, ValueError) as error:
            raise TamperedError("the recovery record's description of the source file is malformed") from error


def splice(shell: SourceShell, values: NDArray[Any] | None) -> bytes:
    """Source file from its bytes before the samples, the samples, and its bytes after them.

    Raises:
        TamperedError: parts are missing, or the samples are not of the source's shape and type.
    """
    if values is None:
        raise TamperedError(f"restored samples are needed to rebuild a {shell.format} file")
    try:
        prefix, suffix = shell.blobs["prefix"], shell.blobs["suffix"]
        return b"".join((prefix, SampleLayout.from_meta(shell.meta).encoded(values), suffix))
    except KeyError as error:
        raise TamperedError("the recovery record lacks parts of the source file") from error
    except ValueError as error:
        raise TamperedError("the restored samples do not fit the source file") from error


def carried_or_spliced(shell: SourceShell, values: NDArray[Any] | None) -> bytes:
    """The source file that a record carries whole, whose samples are not looked at, else :func:`splice`."""
    carried = shell.blobs.get(CARRIED_FILE)
    return splice(shell, values) if carried is None else carried


def check_values(opened: OpenedSource, values: NDArray[Any], envelope: bytes | None) -> None:
    """Raise ValueError for samples unlike the source's, or an empty envelope."""
    source = opened.image.values
    if values.shape != source.shape or values.dtype != source.dtype:
        raise ValueError(f"expected {source.dtype} {source.shape}, found {values.dtype} {values.shape}")
    if envelope is not None and not envelope:
        raise ValueError("the envelope is empty")


def pack_block(envelope: bytes | None) -> bytes:
    """Envelope as it lies in a file whose format may pad with zeros, or cut zeros off.

    Magic, length (u64, little-endian), envelope, one byte 0x01. Length 0 says that the record is in a sidecar.
    """
    body = envelope or b""
    return _BLOCK_HEAD.pack(BLOCK_MAGIC, len(body)) + body + _BLOCK_END


def unpack_block(block: bytes) -> bytes | None:
    """Inverse of :func:`pack_block`; zeros after it are ignored.

    Raises:
        TamperedError: cut short, or changed.
    """
    if len(block) < _BLOCK_HEAD.size:
        raise TamperedError("the recovery record in the file is cut short")
    magic, length = _BLOCK_HEAD.unpack_from(block)
    start = _BLOCK_HEAD.size
    if magic != BLOCK_MAGIC:
        raise TamperedError("the recovery record in the file is damaged (magic bytes)")
    if length > len(block) - start - 1:
        raise TamperedError("the recovery record in the file is cut short")
    tail = block[start + length :]
    if tail[:1] != _BLOCK_END or tail[1:].strip(b"\0"):
        raise TamperedError("the recovery record in the file is damaged (end mark)")
    return block[start : start + length] or None


def refuse_protected(marked: bool) -> None:
    """Raise for a source that is protected already: its mark would have to be removed twice."""
    if marked:
        raise UnsupportedImageError("the image is protected already (a MIAD-MARK recovery record is declared in it)")


def missing_envelope() -> NotProtectedError:
    """Error for replacing an envelope that is not there."""
    return NotProtectedError("the file carries no recovery record (never protected, stripped, or in a sidecar)")

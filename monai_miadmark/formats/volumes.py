# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""What volumes have in common that are a header, samples in one run of bytes, and perhaps something behind them."""

from __future__ import annotations

import abc
import zlib
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_miadmark.errors import TamperedError, TooLargeError, UnsupportedImageError, check_memory
from monai_miadmark.formats.base import (
    MAX_FILE_BYTES,
    FoundRecord,
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
from monai_miadmark.formats.copies import copy_bytes
from monai_miadmark.formats.display import digest_of
from monai_miadmark.formats.limits import check_decoded
from monai_miadmark.formats.ranges import value_bounds, volume_window
from monai_miadmark.formats.wide import NARROW, is_exact, narrowed, widened
from monai_miadmark.image import StoredImage
from monai_miadmark.shell import CARRIED_FILE, SourceShell

__all__ = ["MAX_HEADER_BYTES", "MAX_SHOWN", "Volume", "VolumeCarrier", "inflated", "natural_numbers", "shape_of"]

MAX_HEADER_BYTES = 1 << 20
"""Longest header of text that is read."""

MAX_SHOWN = 900
"""Longest value of a header line that decides how samples are shown."""

_MAX_DIGITS = 10


@dataclass(frozen=True, repr=False)
class Volume:
    """A file, taken apart.

    Attributes:
        header: all bytes before the samples, without a record.
        layout: of the samples, their type as in the file.
        samples: their bytes, decompressed.
        packed: whether they are compressed in the file.
        rest: bytes behind the samples, without a record.
        block: carrier block with what follows it, ``None`` without one.
        groups: time points or contrasts, each a run of slices.
        color: whether several samples of a voxel are said to be colors.
    """

    header: bytes
    layout: SampleLayout
    samples: bytes
    packed: bool
    rest: bytes
    block: bytes | None
    groups: int = 1
    color: bool = False


class VolumeCarrier(abc.ABC):
    """A :class:`~monai_miadmark.formats.base.Carrier` but for how a file is read and put together."""

    name: str
    title: str

    @abc.abstractmethod
    def matches(self, data: bytes) -> bool:
        """See :class:`~monai_miadmark.formats.base.Carrier`."""

    @abc.abstractmethod
    def _read(self, data: bytes) -> Volume:
        """Take a file apart.

        Raises:
            UnsupportedImageError: a kind that is not supported, by name.
            TamperedError: damaged.
        """

    def _without_copies(self, volume: Volume, size: int) -> Volume:
        """The file without pieces of metadata that have ``size`` bytes or more: lines of the header, what is behind.

        Lines that decide how the samples are shown stay, if they are no longer than such lines are.
        """
        lines = volume.header.split(b"\n")
        header = b"\n".join(line for line in lines if len(line) < size or self._is_shown(line))
        return replace(volume, header=header, rest=volume.rest if len(volume.rest) < size else b"")

    def _is_shown(self, line: bytes) -> bool:
        """Whether a line of the header is one that decides how the samples are shown."""
        return False

    @abc.abstractmethod
    def _block(self, data: bytes) -> bytes | None:
        """Carrier block with what follows it, ``None`` without one; samples are neither kept nor looked at.

        Raises:
            UnsupportedImageError: a kind that is not supported, by name.
            TamperedError: damaged.
        """

    @abc.abstractmethod
    def _assemble(self, volume: Volume, samples: bytes, block: bytes) -> bytes:
        """A file like the one that was read, with these samples and this carrier block."""

    def open_source(self, data: bytes, name: str) -> OpenedSource:
        """See :class:`~monai_miadmark.formats.base.Carrier`."""
        try:
            volume = self._read(data)
        except TamperedError as error:
            raise UnsupportedImageError(f"not a valid {self.title} file: {error}") from error
        refuse_protected(volume.block is not None)
        stored = volume.layout.decode(volume.samples)
        values = narrowed(stored)
        blobs = {CARRIED_FILE: data}
        if not volume.packed and (values is stored or is_exact(stored)):
            blobs = {"prefix": volume.header, "suffix": volume.rest}
        shell = SourceShell(self.name, PurePath(name).name, volume.layout.to_meta(), blobs)
        if self.rebuild(shell, values) != data:
            raise UnsupportedImageError(f"the {self.title} file cannot be rebuilt exactly")
        image = StoredImage(values, value_bounds(values), volume_window(values, volume.groups, volume.color))
        return OpenedSource(image, shell, self._labels(volume, shell.name))

    def _labels(self, volume: Volume, name: str) -> str | None:
        """What says that the samples are labels, see :class:`~monai_miadmark.formats.base.OpenedSource`."""
        return None

    def rebuild(self, shell: SourceShell, values: NDArray[Any] | None) -> bytes:
        """See :class:`~monai_miadmark.formats.base.Carrier`."""
        if CARRIED_FILE in shell.blobs:
            return shell.blobs[CARRIED_FILE]
        wide = shell.meta.get("dtype")
        if values is not None and isinstance(wide, str) and NARROW.get(wide) == values.dtype.name:
            values = widened(values, wide)
        return splice(shell, values)

    def carry(self, data: bytes, opened: OpenedSource, values: NDArray[Any], envelope: bytes | None) -> bytes:
        """See :class:`~monai_miadmark.formats.base.Carrier`."""
        check_values(opened, values, envelope)
        volume = self._read(data)
        wide = volume.layout.dtype
        if wide in NARROW:
            values = widened(values, wide, volume.layout.decode(volume.samples))
        volume = self._without_copies(volume, copy_bytes(values))
        return self._assemble(volume, volume.layout.encode(values), pack_block(envelope))

    def open_protected(self, data: bytes) -> ProtectedFile:
        """See :class:`~monai_miadmark.formats.base.Carrier`."""
        volume = self._read(data)
        marked = volume.block is not None
        envelope = None if volume.block is None else unpack_block(volume.block)
        try:
            return ProtectedFile(narrowed(volume.layout.decode(volume.samples)), envelope, marked)
        except UnsupportedImageError as error:
            if not marked or isinstance(error, TooLargeError):
                raise
            raise TamperedError(f"the protected file was changed: {error}") from error

    def open_record(self, data: bytes) -> FoundRecord:
        """See :class:`~monai_miadmark.formats.base.Carrier`."""
        block = self._block(data)
        return FoundRecord(None if block is None else unpack_block(block), block is not None)

    def display_digest(self, data: bytes) -> bytes:
        """See :class:`~monai_miadmark.formats.base.Carrier`; the fields of the header, comments apart."""
        return digest_of(self.name, self._facts(data))

    @abc.abstractmethod
    def _facts(self, data: bytes) -> list[tuple[str, bytes]]:
        """What in the header decides how the samples are shown."""

    def replace_envelope(self, data: bytes, envelope: bytes) -> bytes:
        """See :class:`~monai_miadmark.formats.base.Carrier`."""
        if not envelope:
            raise ValueError("the envelope is empty")
        if self.open_protected(data).envelope is None:
            raise missing_envelope()
        volume = self._read(data)
        return self._assemble(volume, volume.samples, pack_block(envelope))

    def output_name(self, name: str) -> str:
        """The same name."""
        return PurePath(name).name

    def file_digest(self, data: bytes) -> bytes:
        """SHA-256 of the file."""
        return file_digest(data)


def shape_of(sizes: list[int], channels: int, dtype: str, title: str) -> tuple[int, int, int, int]:
    """``(N, H, W, C)`` of axes that are named from the fastest on, channels apart.

    Raises:
        UnsupportedImageError: other than 2 to 4 axes, 1 or 3 channels, or more bytes than are taken into memory.
        TamperedError: an axis of no length.
    """
    if not 2 <= len(sizes) <= 4:
        raise UnsupportedImageError(f"{title} of {len(sizes)} dimensions is not supported (2, 3 and 4 are)")
    if channels not in (1, 3):
        raise UnsupportedImageError(f"{title} of {channels} samples in a voxel is not supported (1 and 3 are)")
    if min(sizes) < 1:
        raise TamperedError(f"the sizes in the {title} header are damaged")
    width, height, depth, times = (*sizes, 1, 1)[:4]
    if width * height * depth * times * channels * np.dtype(dtype).itemsize > MAX_FILE_BYTES:
        raise UnsupportedImageError(f"{title} of more than {MAX_FILE_BYTES} bytes of samples is not supported")
    return depth * times, height, width, channels


def natural_numbers(text: str) -> list[int] | None:
    """Decimal numbers with white space between them; ``None`` for any other text, or none at all."""
    words = text.split()
    if not words or any(len(word) > _MAX_DIGITS or not (word.isascii() and word.isdigit()) for word in words):
        return None
    return [int(word) for word in words]


def inflated(packed: bytes, size: int, wbits: int) -> tuple[bytes, int]:
    """Decompressed samples, no more than declared, and how many bytes of ``packed`` the stream takes.

    Args:
        packed: a zlib or gzip stream and what follows it.
        size: bytes that it holds.
        wbits: 15 for zlib, 31 for gzip.

    Raises:
        TamperedError: damaged, truncated, or not of that size.
    """
    # Deflate packs at most 1032:1; memory is not taken for what the stream cannot hold.
    if size > 1032 * len(packed):
        raise TamperedError("the compressed samples are truncated")
    check_decoded(size, len(packed))
    stream = zlib.decompressobj(wbits=wbits)
    try:
        found = stream.decompress(packed, size)
        # The checksum is read with what follows the last sample; more samples than declared would be found here too.
        more = stream.decompress(stream.unconsumed_tail, 1)
    except zlib.error as error:
        check_memory(error)
        raise TamperedError("the compressed samples are damaged") from error
    if len(found) != size or more or not stream.eof:
        raise TamperedError("the compressed samples do not have the declared size")
    return found, len(packed) - len(stream.unused_data)

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""TIFF and BigTIFF: stacks of pages that are alike, written anew as plain strips with the record in a private tag.

Of uncompressed strips the shell holds the source file with zeros for samples; of everything else the source file.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_miadmark.errors import TamperedError, UnsupportedImageError
from monai_miadmark.formats.base import (
    FoundRecord,
    OpenedSource,
    ProtectedFile,
    check_values,
    file_digest,
    missing_envelope,
    refuse_protected,
    unpack_block,
)
from monai_miadmark.formats.display import digest_of
from monai_miadmark.formats.ranges import raster_window, value_bounds
from monai_miadmark.formats.tiff_reading import read_record, read_stack
from monai_miadmark.formats.tiff_writing import filled, with_record, write_stack
from monai_miadmark.image import StoredImage, pixel_digest
from monai_miadmark.shell import CARRIED_FILE, SourceShell

__all__ = ["TiffCarrier"]

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_FRAME = "frame"


class TiffCarrier:
    """TIFF of gray or RGB samples of 8, 16 and 32 bits; each page is a slice."""

    name = "tiff"

    def matches(self, data: bytes) -> bool:
        """See :class:`~monai_miadmark.formats.base.Carrier`."""
        return data.startswith(_MAGIC)

    def open_source(self, data: bytes, name: str) -> OpenedSource:
        """See :class:`~monai_miadmark.formats.base.Carrier`."""
        try:
            stack = read_stack(data)
        except TamperedError as error:
            raise UnsupportedImageError(f"not a valid TIFF file: {error}") from error
        refuse_protected(stack.record is not None)
        image = StoredImage(stack.values, value_bounds(stack.values), raster_window(stack.values, stack.inverted))
        base, blobs = PurePath(name).name, {CARRIED_FILE: data}
        if stack.strips is not None:
            frame = filled(data, stack.strips, np.zeros_like(stack.values), stack.big_endian)
            framed = SourceShell(self.name, base, {}, {_FRAME: frame})
            try:
                if self.rebuild(framed, stack.values) == data:
                    return OpenedSource(image, framed)
            except TamperedError:  # strips that share bytes with each other or with a directory
                pass
        return OpenedSource(image, SourceShell(self.name, base, {}, blobs))

    def rebuild(self, shell: SourceShell, values: NDArray[Any] | None) -> bytes:
        """See :class:`~monai_miadmark.formats.base.Carrier`."""
        if CARRIED_FILE in shell.blobs:
            return shell.blobs[CARRIED_FILE]
        if values is None or _FRAME not in shell.blobs:
            raise TamperedError("the recovery record lacks parts of the TIFF source file")
        frame = shell.blobs[_FRAME]
        try:
            stack = read_stack(frame)
        except UnsupportedImageError as error:
            raise TamperedError(f"the recovery record does not describe a TIFF file: {error}") from error
        if stack.strips is None or stack.values.shape != values.shape or stack.values.dtype != values.dtype:
            raise TamperedError("the restored samples do not fit the source file")
        return filled(frame, stack.strips, values, stack.big_endian)

    def carry(self, data: bytes, opened: OpenedSource, values: NDArray[Any], envelope: bytes | None) -> bytes:
        """See :class:`~monai_miadmark.formats.base.Carrier`; the file is written anew, with the tags in TiffStack."""
        check_values(opened, values, envelope)
        written = write_stack(read_stack(data), values)
        return _resealed(written, envelope)

    def open_protected(self, data: bytes) -> ProtectedFile:
        """See :class:`~monai_miadmark.formats.base.Carrier`."""
        stack = read_stack(data)
        envelope = None if stack.record is None else unpack_block(stack.record)
        return ProtectedFile(stack.values, envelope, stack.record is not None)

    def open_record(self, data: bytes) -> FoundRecord:
        """See :class:`~monai_miadmark.formats.base.Carrier`."""
        block = read_record(data)
        return FoundRecord(None if block is None else unpack_block(block), block is not None)

    def display_digest(self, data: bytes) -> bytes:
        """See :class:`~monai_miadmark.formats.base.Carrier`."""
        stack = read_stack(data)
        places = (stack.orientation, stack.resolution, stack.descriptions)
        facts = (stack.inverted, stack.associated, places, stack.colors)
        parts = [("facts", repr(facts).encode("ascii")), ("profile", stack.profile or b"")]
        if stack.alpha is not None:
            parts.append(("alpha", pixel_digest(stack.alpha)))
        return digest_of(self.name, parts)

    def replace_envelope(self, data: bytes, envelope: bytes) -> bytes:
        """See :class:`~monai_miadmark.formats.base.Carrier`."""
        if not envelope:
            raise ValueError("the envelope is empty")
        if self.open_protected(data).envelope is None:
            raise missing_envelope()
        return _resealed(data, envelope)

    def output_name(self, name: str) -> str:
        """The same name."""
        return PurePath(name).name

    def file_digest(self, data: bytes) -> bytes:
        """SHA-256 of the file."""
        return file_digest(data)


def _resealed(data: bytes, envelope: bytes | None) -> bytes:
    """A file that has the record's tag, with this envelope in it."""
    stack = read_stack(data)
    if stack.place is None:
        raise TamperedError("the TIFF file has lost the tag of its recovery record")
    return with_record(data, stack.place, stack.big_endian, stack.big, envelope)

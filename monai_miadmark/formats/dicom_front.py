# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""DICOM as the other modules see it: pydicom is imported when a file needs it, which restoring seldom does."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from monai_miadmark.formats.base import FoundRecord, OpenedSource, ProtectedFile, carried_or_spliced, file_digest
from monai_miadmark.formats.dicom_scanned import scanned_file
from monai_miadmark.shell import SourceShell

if TYPE_CHECKING:
    from cryptography import x509

    from monai_miadmark.formats.dicom import DicomCarrier
    from monai_miadmark.formats.dicom_derivation import UidSecrets

__all__ = ["DicomFront"]

_MARK = slice(128, 132)


class DicomFront:
    """Satisfies :class:`~monai_miadmark.formats.base.Carrier` by way of ``dicom.DicomCarrier``."""

    name = "dicom"

    @cached_property
    def _carrier(self) -> DicomCarrier:
        """What reads and writes everything."""
        from monai_miadmark.formats.dicom import DicomCarrier

        return DicomCarrier()

    def matches(self, data: bytes) -> bool:
        """See :class:`~monai_miadmark.formats.base.Carrier`."""
        if data[_MARK] == b"DICM":
            return True
        # Without a preamble a file begins with an element of group 2 or 8.
        return data[:2] in (b"\2\0", b"\0\2", b"\x08\0", b"\0\x08") and self._carrier.matches(data)

    def open_source(self, data: bytes, name: str) -> OpenedSource:
        """See :class:`~monai_miadmark.formats.base.Carrier`."""
        return self._carrier.open_source(data, name)

    def rebuild(self, shell: SourceShell, values: NDArray[Any] | None) -> bytes:
        """See :class:`~monai_miadmark.formats.base.Carrier`; of a carried file the samples are not looked at."""
        return carried_or_spliced(shell, values)

    def carry(
        self,
        data: bytes,
        opened: OpenedSource,
        values: NDArray[Any],
        envelope: bytes | None,
        certificates: Sequence[x509.Certificate] = (),
        secrets: UidSecrets | None = None,
    ) -> bytes:
        """See :meth:`DicomCarrier.carry`."""
        return self._carrier.carry(data, opened, values, envelope, certificates, secrets)

    def open_protected(self, data: bytes) -> ProtectedFile:
        """See :class:`~monai_miadmark.formats.base.Carrier`."""
        return scanned_file(data) or self._carrier.open_protected(data)

    def open_record(self, data: bytes) -> FoundRecord:
        """See :class:`~monai_miadmark.formats.base.Carrier`."""
        found = scanned_file(data)  # its samples are where they lie in the file: nothing is decoded
        return self._carrier.open_record(data) if found is None else FoundRecord(found.envelope, found.marked)

    def display_digest(self, data: bytes) -> bytes:
        """See :class:`~monai_miadmark.formats.base.Carrier`."""
        return self._carrier.display_digest(data)

    def replace_envelope(self, data: bytes, envelope: bytes) -> bytes:
        """See :class:`~monai_miadmark.formats.base.Carrier`."""
        return self._carrier.replace_envelope(data, envelope)

    def output_name(self, name: str) -> str:
        """The same name."""
        return PurePath(name).name

    def file_digest(self, data: bytes) -> bytes:
        """SHA-256 of the file."""
        return file_digest(data)

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""File formats: which of them a file is, by its content."""

from __future__ import annotations

from monai_miadmark.errors import TamperedError, UnsupportedImageError
from monai_miadmark.formats.base import Carrier, OpenedSource, ProtectedFile
from monai_miadmark.formats.dicom import DicomCarrier
from monai_miadmark.formats.nifti import NiftiCarrier
from monai_miadmark.formats.raster import JpegCarrier, PngCarrier

__all__ = ["CARRIERS", "Carrier", "OpenedSource", "ProtectedFile", "carrier_for", "carrier_named"]

CARRIERS: tuple[Carrier, ...] = (DicomCarrier(), NiftiCarrier(), PngCarrier(), JpegCarrier())
"""All formats, in the order in which they are asked."""

_REFUSED = (
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "BigTIFF"),
    (b"MM\0+", "BigTIFF"),
    (b"BM", "BMP"),
    (b"GIF8", "GIF"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000 code stream"),
    (b"NRRD", "NRRD"),
    (b"ObjectType", "MetaImage"),
    (b"\x89HDF\r\n\x1a\n", "HDF5"),
    (b"CDF", "NetCDF"),
    (b"\x93NUMPY", "NumPy array"),
    (b"PK\x03\x04", "ZIP archive"),
    (b"%PDF", "PDF"),
    (b"MIADMARK", "recovery record (sidecar)"),
    (b"\x1f\x8b", "gzip of something else than NIfTI"),
    (b"\x02\0\0\0", "DICOM without its preamble"),
    (b"\x08\0\x05\0", "DICOM without its preamble"),
    (b"\x08\0\x08\0", "DICOM without its preamble"),
    (b"\x08\0\x16\0", "DICOM without its preamble"),
)


def carrier_for(data: bytes, name: str) -> Carrier:
    """The format of a file, by its content; the suffix is not looked at.

    Args:
        data: the whole file.
        name: its name, for the message.

    Raises:
        UnsupportedImageError: none of :data:`CARRIERS`; says what was found.
    """
    for carrier in CARRIERS:
        if carrier.matches(data):
            return carrier
    if not data:
        raise UnsupportedImageError(f"{name}: the file is empty")
    for magic, kind in _REFUSED:
        if data.startswith(magic):
            raise UnsupportedImageError(f"{name}: {kind} is not supported (DICOM, NIfTI-1, PNG and JPEG are)")
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        raise UnsupportedImageError(f"{name}: WebP is not supported (DICOM, NIfTI-1, PNG and JPEG are)")
    raise UnsupportedImageError(f"{name}: not an image of a known format (DICOM, NIfTI-1, PNG and JPEG are)")


def carrier_named(name: str) -> Carrier:
    """The format with this :attr:`Carrier.name`, to rebuild what :attr:`SourceShell.format` names.

    Raises:
        TamperedError: no such format.
    """
    for carrier in CARRIERS:
        if carrier.name == name:
            return carrier
    raise TamperedError("the recovery record names an unknown file format")

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""File formats: which of them a file is, by its content."""

from __future__ import annotations

from monai_miadmark.errors import TamperedError, UnsupportedImageError
from monai_miadmark.formats.base import Carrier, OpenedSource, ProtectedFile
from monai_miadmark.formats.dicom_front import DicomFront
from monai_miadmark.formats.foreign import foreign_name
from monai_miadmark.formats.metaimage import MetaImageCarrier
from monai_miadmark.formats.mgh import MghCarrier
from monai_miadmark.formats.nifti import NiftiCarrier
from monai_miadmark.formats.nrrd import NrrdCarrier
from monai_miadmark.formats.raster import JpegCarrier, PngCarrier
from monai_miadmark.formats.tiff import TiffCarrier

__all__ = ["CARRIERS", "Carrier", "OpenedSource", "ProtectedFile", "carrier_for", "carrier_named"]

CARRIERS: tuple[Carrier, ...] = (
    DicomFront(),
    NiftiCarrier(),
    PngCarrier(),
    JpegCarrier(),
    TiffCarrier(),
    MetaImageCarrier(),
    NrrdCarrier(),
    MghCarrier(),
)
"""All formats, in the order in which they are asked."""

_SUPPORTED = "DICOM, NIfTI, PNG, JPEG, TIFF, MetaImage, NRRD and MGH are"


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
    kind = foreign_name(data, name)
    if kind is not None:
        raise UnsupportedImageError(f"{name}: {kind} is not supported ({_SUPPORTED})")
    raise UnsupportedImageError(f"{name}: not an image of a known format ({_SUPPORTED})")


def carrier_named(name: str) -> Carrier:
    """The format with this :attr:`Carrier.name`, to rebuild what :attr:`SourceShell.format` names.

    Raises:
        TamperedError: no such format.
    """
    for carrier in CARRIERS:
        if carrier.name == name:
            return carrier
    raise TamperedError("the recovery record names an unknown file format")

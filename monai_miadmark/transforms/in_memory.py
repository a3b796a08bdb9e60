# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Restored files, in memory, as the image objects that MONAI's readers make of files on disk."""

from __future__ import annotations

import gzip
import io
from collections.abc import Mapping
from typing import Any

import nibabel as nib
import pydicom
from monai.data import NibabelReader, NrrdReader, PILReader, PydicomReader
from monai.data.image_reader import NrrdImage
from monai.data.utils import correct_nifti_header_if_necessary
from monai.utils import optional_import
from PIL import Image, UnidentifiedImageError

from monai_miadmark.errors import UnsupportedImageError
from monai_miadmark.formats import carrier_for

nrrd, _ = optional_import("nrrd")  # NrrdReader cannot be made without it

__all__ = ["ARRAY_FORMATS", "FIRST_FORMATS", "READERS", "image_in_memory"]

READERS: dict[str, type] = {
    "dicom": PydicomReader,
    "nifti": NibabelReader,
    "png": PILReader,
    "jpeg": PILReader,
    "tiff": PILReader,
    "nrrd": NrrdReader,
    "mgh": NibabelReader,
}
"""MONAI's readers by format, those that can read from memory: ITKReader, the only one for MetaImage, cannot."""

FIRST_FORMATS = frozenset({"dicom", "nifti", "png", "jpeg"})
"""Formats of which unprotected files are loaded too (``strict=False``); others are left to LoadImage's own choice."""

ARRAY_FORMATS = frozenset({"nifti", "png"})
"""Formats in which protected arrays are written: their records may be those of arrays, without a source file."""

_GZIP = b"\x1f\x8b"


def image_in_memory(
    kind: str, data: bytes, name: str, reader: Any, kwargs: Mapping[str, Any], first_page: bool = False
) -> Any:
    """What the ``read`` of MONAI's reader would give for a file with this content.

    Args:
        kind: its format, a key of :data:`READERS`.
        data: the file. Formats that are not among :data:`FIRST_FORMATS` are parsed here first: who made the record may
            have put anything into it, and other libraries take memory for whatever a header says.
        name: of the file, for messages.
        reader: the reader that is to work on the result.
        kwargs: arguments for the library behind it, before those of the reader.
        first_page: of a stack of pages, give the first, as PILReader does.

    Raises:
        UnsupportedImageError: MONAI's reader cannot read this, or only a part of it.
    """
    if kind not in FIRST_FORMATS:
        slices = len(carrier_for(data, name).open_protected(data).values)
    if kind == "nifti":
        plain = _plain(data)
        image = nib.Nifti2Image if plain[4:7] == b"n+2" else nib.Nifti1Image
        return correct_nifti_header_if_necessary(image.from_bytes(plain))
    if kind == "mgh":
        return correct_nifti_header_if_necessary(nib.MGHImage.from_bytes(_plain(data)))
    given = {**reader.kwargs, **kwargs}
    if kind == "dicom":
        return pydicom.dcmread(io.BytesIO(data), **given)
    if kind == "nrrd":
        return _nrrd(data, name, reader.index_order, **given)
    if kind == "tiff" and slices > 1 and not first_page:
        raise UnsupportedImageError(
            f"{name}: a stack of {slices} pages, of which PILReader reads the first: give reader=PILReader() if "
            "that is what you want, else use remove_file first"
        )
    try:
        picture = Image.open(io.BytesIO(data), **given)
    except UnidentifiedImageError as error:
        raise UnsupportedImageError(
            f"{name}: restored, but PILReader cannot read such files: use remove_file first"
        ) from error
    return reader.converter(picture) if callable(reader.converter) else picture


def _plain(data: bytes) -> bytes:
    """The file without gzip around it; that it is no bomb was seen when it was restored."""
    return gzip.decompress(data) if data.startswith(_GZIP) else data


def _nrrd(data: bytes, name: str, index_order: str, custom_field_map: Any = None) -> NrrdImage:
    """As ``nrrd.read`` does it, which takes names of files only."""
    stream = io.BytesIO(data)
    try:
        header = nrrd.read_header(stream, custom_field_map)
        # pynrrd takes key/value pairs for fields: another encoding than the one that was checked, or a file to be read.
        fields = [field.lower() for field in header]
        if len(set(fields)) == len(fields) and not {"data file", "datafile"}.intersection(fields):
            return NrrdImage(nrrd.read_data(header, stream, None, index_order), header)
    except Exception as error:
        raise UnsupportedImageError(f"{name}: restored, but pynrrd cannot read it: use remove_file first") from error
    raise UnsupportedImageError(f"{name}: an NRRD header that could be read in two ways")

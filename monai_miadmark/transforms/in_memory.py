# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Restored files, in memory, as the image objects that MONAI's readers make of files on disk."""

from __future__ import annotations

import gzip
import io
import logging
from collections.abc import Callable, Mapping
from typing import Any

import nibabel as nib
import pydicom
from monai.data import NibabelReader, NrrdReader, PILReader, PydicomReader
from monai.data.image_reader import NrrdImage
from monai.data.utils import correct_nifti_header_if_necessary
from monai.utils import optional_import
from PIL import Image, UnidentifiedImageError
from pydicom.dataelem import DataElement
from pydicom.tag import BaseTag
from pydicom.uid import UID
from pydicom.valuerep import IS, DSfloat

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

# What PydicomReader takes out of the JSON: the samples, and the trailing padding.
_NOT_META_DATA = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010, 0xFFFCFFFC})

# Value representations that JSON has as they are, as whole numbers, and as others.
_TEXTS = frozenset("AE AS CS DA DT LO LT SH ST TM UC UI UR UT".split())
_INTEGERS = frozenset("IS SL SS SV UL US UV".split())
_FLOATS = frozenset("DS FD FL".split())


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
        data_set = pydicom.dcmread(io.BytesIO(data), **given)
        if type(reader)._get_meta_dict is PydicomReader._get_meta_dict and type(data_set) is pydicom.FileDataset:
            object.__setattr__(data_set, "__class__", _ForMetaData)
        return data_set
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


class _ForMetaData(pydicom.FileDataset):
    """A data set that PydicomReader makes the same meta data of in less time; that is most of what loading takes.

    * Its JSON leaves out what that reader takes out of it again: the samples and the trailing padding.
    * Elements with a single text or number, which most are, become JSON without asking again what they hold.
    * Elements that were converted already, and usual ones that have just been, go out and in without the checks that
      ``Dataset`` makes for what its users may give it. It looks up each element four times.
    """

    def __getitem__(self, key: Any) -> Any:
        """As of the base class; see above."""
        found = self._dict.get(key) if type(key) is BaseTag else None
        return found if type(found) is DataElement else super().__getitem__(key)

    def __setitem__(self, key: Any, element: Any) -> None:
        """As of the base class; see above."""
        if type(element) is DataElement and key is element.tag and type(key) is BaseTag:
            group = key >> 16
            # Of samples and sequences the base class keeps more than the element itself.
            if group < 0x7FE0 and element.VR != "SQ":
                creator = BaseTag(group << 16 | (key & 0xFFFF) >> 8)
                if group % 2 and creator in self._dict and creator != key:
                    element.private_creator = self[creator].value
                self._dict[key] = element
                return
        super().__setitem__(key, element)

    def to_json_dict(
        self,
        bulk_data_threshold: int = 1024,
        bulk_data_element_handler: Callable[[DataElement], str] | None = None,
        suppress_invalid_tags: bool = False,
    ) -> dict[str, Any]:
        """As of the base class; see above."""
        if bulk_data_element_handler is not None or not suppress_invalid_tags:
            return super().to_json_dict(bulk_data_threshold, bulk_data_element_handler, suppress_invalid_tags)
        found: dict[str, Any] = {}
        with pydicom.config.strict_reading():
            for tag in self.keys():
                if tag in _NOT_META_DATA:
                    continue
                try:
                    element = self[tag]
                    found[f"{tag:08X}"] = _short_json(element) or element.to_json_dict(None, bulk_data_threshold)
                except Exception:  # as the base class does it; the reason might quote the file
                    logging.getLogger("pydicom").warning("Error while processing tag %08X", tag)
        return found


def _short_json(element: DataElement) -> dict[str, Any] | None:
    """What ``DataElement.to_json_dict`` gives for a single text or number, ``None`` for all else."""
    value, kind, form = element.value, element.VR, type(element.value)
    if form is str or form is UID:
        if kind in _TEXTS:
            return {"vr": kind, "Value": [value]} if value else {"vr": kind}
    elif kind in _INTEGERS:
        if form is int or form is IS:
            return {"vr": kind, "Value": [int(value)]}
    elif kind in _FLOATS and (form is float or form is DSfloat):
        return {"vr": kind, "Value": [float(value)]}
    return None


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

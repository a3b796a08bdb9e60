# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Which display window an array gets: that of the file that it was loaded from, as far as its meta data lead there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from monai_miadmark.formats.dicom_pixels import shown_limits
from monai_miadmark.image import Window
from monai_miadmark.windows import EIGHT_BITS, display_windows, is_eight_bits, looks_like_color

__all__ = ["CHANNELS", "window_of"]

CHANNELS = ("auto", "color", "contrasts")
"""What several channels may be."""

_KEYWORDS = (
    "Modality",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "BitsStored",
    "PixelRepresentation",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "RescaleType",
    "RescaleSlope",
    "RescaleIntercept",
    "ModalityLUTSequence",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)
_RGB24 = 128
_PIL_COLORS = ("RGB", "RGBA", "P", "YCbCr", "CMYK")
_PIL_EIGHT_BITS = (*_PIL_COLORS, "L", "LA")


class _Told(NamedTuple):
    """What meta data say.

    Attributes:
        limits: values shown as black and white, or as white and black if ``inverted``.
        inverted: small values are bright.
        color: whether channels are colors; ``None`` where they do not say.
    """

    limits: tuple[float, float] | None = None
    inverted: bool = False
    color: bool | None = None


def window_of(
    values: NDArray[Any],
    meta: Mapping[Any, Any],
    given: Window | tuple[Window, ...] | None = None,
    channels: str = "auto",
    groups: int = 1,
) -> Window | tuple[Window, ...]:
    """Display window of an array, or a window for each channel of each group of slices.

    The window that the caller gives; else that of the file, from the meta data or from the header of the file that they
    name (VOI window of DICOM, ``cal_min`` and ``cal_max`` of NIfTI); else that of the modality (CT: 40/400 HU) and 0 to
    255 for 8-bit images; else percentiles. What is said of one file is not taken for a stack of several contrasts, and
    a window that does not fit the samples, which may have been scaled since, is not trusted: see
    :func:`monai_miadmark.windows.trusted_window`.

    Args:
        values: ``(N, H, W, C)``.
        meta: of the MetaTensor, empty for other arrays.
        given: by the caller, for all channels or each.
        channels: whether several channels are one of :data:`CHANNELS`; ``auto``: what the meta data say, else what
            :func:`monai_miadmark.windows.looks_like_color` says.
        groups: runs of slices that may differ in their ranges, e.g. time points.

    Raises:
        ValueError: as many windows as do not fit.
    """
    count = values.shape[3]
    if given is not None:
        if isinstance(given, tuple) and len(given) != count:
            raise ValueError(f"{len(given)} windows were given for an image of {count} channels")
        return given
    if values.dtype == np.uint8:
        return EIGHT_BITS
    told = _told(meta)
    color = channels == "color"
    if channels == "auto" and count == 3:
        color = looks_like_color(values) if told.color is None else told.color
    if (told.limits == (EIGHT_BITS.low, EIGHT_BITS.high) or color) and is_eight_bits(values):
        return replace(EIGHT_BITS, inverted=told.inverted)
    named = [told.limits] if told.limits is not None and (count == 1 or color) else []
    return display_windows(values, groups, named, told.inverted, color=color)


def _told(meta: Mapping[Any, Any]) -> _Told:
    """What the meta data that MONAI's readers leave say, and if they leave nothing, the DICOM file that they name."""
    if "cal_min" in meta and "cal_max" in meta:
        low, high = (_number(meta[key]) for key in ("cal_min", "cal_max"))
        color = _number(meta.get("datatype")) == _RGB24
        limits = (low, high) if low is not None and high is not None and low < high else None
        return _Told(limits, color=color or None)
    if meta.get("mode") in _PIL_EIGHT_BITS:
        return _Told((EIGHT_BITS.low, EIGHT_BITS.high), color=meta["mode"] in _PIL_COLORS)
    header, turned = _header(meta)
    if header is None:
        return _Told()
    try:
        limits = shown_limits(header)
        inverted = header.get("PhotometricInterpretation") == "MONOCHROME1"
        if limits is None and (header.get("BitsStored"), header.get("PixelRepresentation")) == (8, 0):
            limits = EIGHT_BITS.low, EIGHT_BITS.high  # shown as it is
        elif limits is not None and inverted and turned:
            limits = _turned(limits, header)
        return _Told(limits, inverted and not turned, int(header.get("SamplesPerPixel", None) or 1) == 3 or None)
    except (ValueError, TypeError, AttributeError):  # values are parsed on access
        return _Told()


def _header(meta: Mapping[Any, Any]) -> tuple[Dataset | None, bool]:
    """DICOM attributes that say how samples are shown, and whether the reader has turned MONOCHROME1 round.

    PydicomReader leaves them as JSON if it is told to keep all (``prune_metadata=False``), ITKReader as text; where
    they are missing the file is asked, of which only the header is read.
    """
    tags = {keyword: Tag(keyword) for keyword in _KEYWORDS}
    as_json = {f"{tag:08X}": meta[f"{tag:08X}"] for tag in tags.values() if isinstance(meta.get(f"{tag:08X}"), dict)}
    as_text = {
        keyword: meta[key]
        for keyword, tag in tags.items()
        if isinstance(meta.get(key := f"{tag.group:04x}|{tag.element:04x}"), str)
    }
    try:
        if as_json.keys() & {"00080060", "00281050", "00280004"}:
            return Dataset.from_json(as_json), False
        if as_text:
            header = Dataset()
            for keyword, text in as_text.items():
                setattr(header, keyword, text.strip() if "\\" not in text else text.strip().split("\\"))
            return header, True
        return _read_header(meta.get("filename_or_obj")), False
    except Exception:  # whatever wrote the meta data or the file: the percentiles are always there
        return None, False


def _read_header(name: object) -> Dataset | None:
    """The header of a DICOM file, or of the first in a folder, without its samples; ``None`` if there is none."""
    if isinstance(name, (list, tuple)) and name:
        name = name[0]
    if not isinstance(name, (str, os.PathLike)):
        return None
    path = Path(name)
    if path.is_dir():
        path = min((each for each in path.iterdir() if each.is_file()), default=path)
    if not path.is_file():
        return None
    with path.open("rb") as stream:
        if stream.read(132)[128:] != b"DICM":
            return None
        stream.seek(0)
        return pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=list(_KEYWORDS))


def _turned(limits: tuple[float, float], header: Dataset) -> tuple[float, float]:
    """Limits of MONOCHROME1 for samples that ITK has turned round: the least possible one is now the greatest."""
    slope, intercept = float(header.get("RescaleSlope", 1) or 1), float(header.get("RescaleIntercept", 0) or 0)
    top = 2 ** int(header.BitsStored) - 1
    low, high = (slope * top + 2 * intercept - limit for limit in limits)
    return high, low


def _number(value: object) -> float | None:
    """A finite number out of a scalar of whatever library."""
    try:
        number = float(np.asarray(value).reshape(-1)[0])
    except (TypeError, ValueError, IndexError):
        return None
    return number if np.isfinite(number) else None

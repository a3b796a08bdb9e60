# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Data sets rewritten for samples that lie in them as they are shown, where those of the source did not.

Sources: PS3.3 C.7.6.3 (Image Pixel), C.7.6.1.1.5 (Lossy Image Compression), C.7.5.1.1.2 (Pixel Padding).
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import UID

from monai_miadmark.errors import UnsupportedImageError
from monai_miadmark.formats.base import SampleLayout
from monai_miadmark.formats.dicom_palette import PALETTE_KEYWORDS
from monai_miadmark.formats.dicom_reading import BIG_ENDIAN, EXPLICIT, NATIVE

__all__ = ["make_native"]

_PIXEL_DATA = 0x7FE00010
_IMPLICIT = "1.2.840.10008.1.2"
_ENCAPSULATION = ("ExtendedOffsetTable", "ExtendedOffsetTableLengths", "EncapsulatedPixelDataValueTotalLength")
# These count in palette indices.
_OF_INDICES = (
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "SmallestImagePixelValue",
    "LargestImagePixelValue",
    "SmallestPixelValueInSeries",
    "LargestPixelValueInSeries",
)
# Image Pixel of Nuclear Medicine is MONOCHROME2 or PALETTE COLOR, never RGB (PS3.3 C.8.4.8).
_NO_RGB = {"1.2.840.10008.5.1.4.1.1.20": "Nuclear Medicine"}


def make_native(data_set: Dataset, values: NDArray[Any], syntax: str, lossy: tuple[str, float] | None) -> None:
    """Rewrite what a data set says of its samples, in place, and put other samples in.

    Uncompressed sources keep their transfer syntax, since the byte order of other elements hangs on it; all others
    become Explicit VR Little Endian.

    Args:
        data_set: of the source.
        values: ``(N, H, W, C)``; three channels are RGB.
        syntax: transfer syntax of the source, for a deflated one that of its inflated form.
        lossy: method and ratio with which the source's pixel data are compressed, if that lost anything.

    Raises:
        UnsupportedImageError: the SOP class does not allow these samples.
    """
    color = values.shape[3] == 3
    if data_set.get("PhotometricInterpretation", None) == "PALETTE COLOR":
        _drop_palette(data_set)
    if color:
        data_set.PhotometricInterpretation = "RGB"
        data_set.SamplesPerPixel, data_set.PlanarConfiguration = 3, 0
    for keyword in _ENCAPSULATION:
        if keyword in data_set:
            delattr(data_set, keyword)
    if lossy is not None:
        _declare_lossy(data_set, *lossy)
    native = syntax if syntax in NATIVE else EXPLICIT
    if native != _IMPLICIT:
        _find_representations(data_set)
    data_set.file_meta.TransferSyntaxUID = UID(native)
    n, height, width, channels = values.shape
    layout = SampleLayout((n, height, width, channels), values.dtype.name, native == BIG_ENDIAN)
    body = layout.encode(values)
    del data_set[_PIXEL_DATA]
    # 8-bit samples may be either; as bytes they are the same in both byte orders. Implicit VR has no choice.
    words = values.dtype.itemsize > 1 or native == _IMPLICIT
    data_set.add_new(_PIXEL_DATA, "OW" if words else "OB", body + bytes(len(body) % 2))


def _find_representations(data_set: Dataset) -> None:
    """Give every element its VR where the data set is in implicit VR although its transfer syntax says otherwise."""
    if any(getattr(data_set.get_item(tag), "VR", "") is None for tag in data_set.keys()):
        for _ in data_set.iterall():  # reading an element is what looks its VR up
            pass


def _drop_palette(data_set: Dataset) -> None:
    """RGB of 8 bits instead of indices."""
    kind = _NO_RGB.get(str(data_set.get("SOPClassUID", "")))
    if kind is not None:
        raise UnsupportedImageError(f"{kind} DICOM in PALETTE COLOR is not supported (its SOP class has no RGB)")
    for keyword in (*PALETTE_KEYWORDS, *_OF_INDICES):
        if keyword in data_set:
            delattr(data_set, keyword)
    data_set.BitsAllocated, data_set.BitsStored, data_set.HighBit = 8, 8, 7
    data_set.PixelRepresentation = 0


def _declare_lossy(data_set: Dataset, method: str, ratio: float) -> None:
    """Say that something was lost, if the source did not: once 01, this stays 01 in whatever is made of it."""
    if data_set.get("LossyImageCompression", None) == "01":
        return
    data_set.LossyImageCompression = "01"
    for keyword, value in (
        ("LossyImageCompressionRatio", f"{ratio:.4g}"),
        ("LossyImageCompressionMethod", method),
    ):
        before = data_set.get(keyword, None)
        steps = list(before) if isinstance(before, MultiValue) else [before] if before not in (None, "") else []
        setattr(data_set, keyword, [*steps, value])

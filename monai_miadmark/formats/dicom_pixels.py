# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""What a DICOM data set says of its samples: how they lie, their limits, and how they are shown."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from monai_miadmark.errors import LabelMapError, UnsupportedImageError
from monai_miadmark.formats.base import SampleLayout
from monai_miadmark.image import Bounds, Origin, Window
from monai_miadmark.windows import CT_WINDOW, display_windows, trusted_window

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = [
    "Attributes",
    "PixelDescription",
    "describe",
    "display_window",
    "extended_signs",
    "image_origin",
    "pixel_bounds",
    "pixel_padding",
    "shown_limits",
]


_CODE = re.compile(r"[A-Z0-9 _]{1,16}")
"""A code string (CS) of DICOM."""


class Attributes(Protocol):
    """What :func:`describe` needs of a data set."""

    def get(self, keyword: str, default: Any = ..., /) -> Any:
        """Value of an attribute, or the default where it is absent."""

    def __contains__(self, keyword: str, /) -> bool: ...


def _integer(data_set: Attributes, keyword: str, default: int | None = None) -> int:
    """A whole number of the Image Pixel module."""
    value = data_set.get(keyword, None)
    if value is None and default is not None:
        return default
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise UnsupportedImageError(f"DICOM without a valid {keyword} is not supported") from error


_SAMPLES = {"MONOCHROME1": 1, "MONOCHROME2": 1, "PALETTE COLOR": 1, "RGB": 3}
_SAMPLES |= {f"YBR_{kind}": 3 for kind in ("FULL", "FULL_422", "RCT", "ICT")}
_AS_STORED = {"MONOCHROME1", "MONOCHROME2", "RGB"}


@dataclass(frozen=True)
class PixelDescription:
    """What the Image Pixel module says of the samples (PS3.3 C.7.6.3).

    Attributes:
        shape: ``(N, H, W, C)``, all at least 1.
        dtype: name of the type of a sample, of ``STORED_DTYPES``.
        photometric: Photometric Interpretation, one of those that are known.
        allocated: Bits Allocated.
        stored: Bits Stored.
        planar: Planar Configuration 1.
    """

    shape: tuple[int, int, int, int]
    dtype: str
    photometric: str
    allocated: int
    stored: int
    planar: bool

    @property
    def signed(self) -> bool:
        """Pixel Representation 1."""
        return self.dtype.startswith("int")

    @property
    def as_stored(self) -> bool:
        """Whether samples are shown without going through a palette or another color space."""
        return self.photometric in _AS_STORED

    @property
    def nbytes(self) -> int:
        """Bytes of all samples, not subsampled; exact for any declared shape."""
        n, height, width, samples = self.shape
        return n * height * width * samples * (self.allocated // 8)

    def layout(self, big_endian: bool) -> SampleLayout:
        """How the samples lie in a file that is not compressed, where they are :attr:`as_stored`."""
        return SampleLayout(self.shape, self.dtype, big_endian, self.planar)


def describe(data_set: Attributes) -> PixelDescription:
    """Check and read the Image Pixel module.

    Raises:
        UnsupportedImageError: a kind that is not supported, by name.
    """
    # Cut to the length of a CS: it goes into messages, and a damaged file may hold anything here.
    photometric = str(data_set.get("PhotometricInterpretation", "") or "")[:16]
    if not photometric and str(data_set.get("RecognitionCode", "") or "").startswith("ACR-NEMA"):
        photometric = "MONOCHROME2"  # ACR-NEMA has no other images, and so no such attribute
    if not photometric:
        raise UnsupportedImageError("DICOM without a photometric interpretation is not supported")
    samples = _integer(data_set, "SamplesPerPixel", 1)
    wanted = _SAMPLES.get(photometric)
    if wanted is None:
        raise UnsupportedImageError(f"{photometric} DICOM is not supported ({', '.join(_SAMPLES)} are)")
    if samples != wanted:
        raise UnsupportedImageError(f"{photometric} DICOM of {samples} samples per pixel is not supported")
    allocated = _integer(data_set, "BitsAllocated")
    floats = "FloatPixelData" in data_set
    if allocated == 1:
        raise LabelMapError("DICOM of 1 bits allocated is not supported (a label is not an image to protect)")
    if allocated not in ((32,) if floats else (8, 16, 32)):
        raise UnsupportedImageError(f"DICOM of {allocated} bits allocated is not supported (8, 16 and 32 are)")
    stored = allocated if floats else _integer(data_set, "BitsStored", allocated)
    if not 1 <= stored <= allocated or (not floats and _integer(data_set, "HighBit", stored - 1) != stored - 1):
        raise UnsupportedImageError("DICOM whose samples are not in the low bits is not supported")
    signed = 0 if floats else _integer(data_set, "PixelRepresentation", 0)
    if signed not in (0, 1):
        raise UnsupportedImageError("DICOM without a valid PixelRepresentation is not supported")
    planar = _integer(data_set, "PlanarConfiguration", 0) if samples > 1 else 0
    if planar not in (0, 1):
        raise UnsupportedImageError("DICOM without a valid PlanarConfiguration is not supported")
    frames = _integer(data_set, "NumberOfFrames", 1)
    rows, columns = _integer(data_set, "Rows"), _integer(data_set, "Columns")
    if min(frames, rows, columns) < 1:
        raise UnsupportedImageError("the DICOM image has no pixels")
    if floats and samples != 1:
        raise UnsupportedImageError("float DICOM of more than one sample per pixel is not supported")
    dtype = "float32" if floats else f"{'int' if signed else 'uint'}{allocated}"
    return PixelDescription((frames, rows, columns, samples), dtype, photometric, allocated, stored, planar == 1)


def pixel_padding(data_set: Dataset, layout: SampleLayout) -> tuple[int, int] | None:
    """Pixel Padding Value to Range Limit, both inclusive, in container integers (PS3.3 C.7.5.1.1.2)."""
    if layout.dtype == "float32":
        if data_set.get("FloatPixelPaddingValue", None) is not None:
            raise UnsupportedImageError("float DICOM with a padding value is not supported")
        return None
    if layout.shape[3] != 1 or data_set.get("PixelPaddingValue", None) is None:
        return None
    value = _integer(data_set, "PixelPaddingValue")
    limit = _integer(data_set, "PixelPaddingRangeLimit", value)
    bits = np.dtype(layout.dtype).itemsize * 8
    signed = layout.dtype.startswith("int")

    def contained(number: int) -> int:
        # Writers confuse US with SS: what counts is the bit pattern in the container.
        number &= (1 << bits) - 1
        return number - (1 << bits) if signed and number >> (bits - 1) else number

    low, high = sorted((contained(value), contained(limit)))
    return low, high


def _functional(data_set: Dataset, sequence: str, keyword: str, frame: int = 0) -> Any:
    """An attribute of the image, or of its shared, else a frame's own, functional groups in enhanced objects."""
    if data_set.get(keyword, None) is not None:
        return data_set.get(keyword)
    for groups, at in (("SharedFunctionalGroupsSequence", 0), ("PerFrameFunctionalGroupsSequence", frame)):
        items = data_set.get(groups, None)
        inner = items[at].get(sequence, None) if items and at < len(items) else None
        if inner and inner[0].get(keyword, None) is not None:
            return inner[0].get(keyword)
    return None


def _first_number(value: Any) -> float | None:
    """A finite number, or the first of several; ``None`` for anything else."""
    if isinstance(value, (list, tuple)) or (hasattr(value, "__iter__") and not isinstance(value, (str, bytes))):
        value = next(iter(value), None)
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None


def display_window(
    data_set: Dataset, layout: SampleLayout, bits_stored: int, values: NDArray[Any]
) -> Window | tuple[Window, ...]:
    """Display window in stored units: VOI window, else that of the modality, else percentiles.

    Frames of enhanced objects have windows of their own where their functional groups name such.
    """
    inverted = data_set.get("PhotometricInterpretation") == "MONOCHROME1"
    full = Window(0, 2**bits_stored - 1, inverted) if layout.dtype.startswith("uint") else None
    if layout.shape[3] == 3:
        return full or display_windows(values, color=True)
    padding = pixel_padding(data_set, layout)
    frames = layout.shape[0] if len(data_set.get("PerFrameFunctionalGroupsSequence", None) or ()) > 1 else 1
    named = [_stored_limits(data_set, frame) for frame in range(frames)]
    slope = _rescale(data_set, 0)[0]
    if slope < 0:  # limits run from black to white, which is downwards in stored values
        named = [limits and (limits[1], limits[0]) for limits in named]
    given = [limits for limits in named if limits is not None]
    if len(given) < len(named) or len(set(given)) == 1:
        given = given[:1]
    # An 8-bit image without a window is shown as it is.
    if full is not None and bits_stored == 8 and slope > 0:
        if not any(trusted_window(*limits, inverted, values, padding) for limits in given):
            return full
    return display_windows(values, 1, given, inverted != (slope < 0), padding)


def _rescale(data_set: Dataset, frame: int) -> tuple[float, float]:
    """Slope, not zero, and intercept of a frame."""
    slope, intercept = (
        _first_number(_functional(data_set, "PixelValueTransformationSequence", keyword, frame))
        for keyword in ("RescaleSlope", "RescaleIntercept")
    )
    return slope or 1.0, intercept or 0.0


def _stored_limits(data_set: Dataset, frame: int) -> tuple[float, float] | None:
    """What is shown as black and white in a frame, in stored values."""
    limits = shown_limits(data_set, frame)
    if limits is None:
        return None
    slope, intercept = _rescale(data_set, frame)
    return (limits[0] - intercept) / slope, (limits[1] - intercept) / slope


def shown_limits(data_set: Dataset, frame: int = 0) -> tuple[float, float] | None:
    """What is shown as black and white (or white and black, if MONOCHROME1) in rescaled units, as far as it is said.

    The VOI window, else that of CT numbers; ``None`` where there is neither, or a table stands in place of the slope:
    then a window cannot be carried back.
    """
    if data_set.get("ModalityLUTSequence", None):
        return None
    limits = _voi_limits(data_set, frame)
    unit = str(_functional(data_set, "PixelValueTransformationSequence", "RescaleType", frame) or "HU")
    if limits is None and str(data_set.get("Modality", "")) == "CT" and unit == "HU":
        limits = CT_WINDOW
    return limits


def _voi_limits(data_set: Dataset, frame: int) -> tuple[float, float] | None:
    """First VOI window as (black, white) in rescaled units (PS3.3 C.11.2.1.2 and C.11.2.1.3)."""
    center = _first_number(_functional(data_set, "FrameVOILUTSequence", "WindowCenter", frame))
    width = _first_number(_functional(data_set, "FrameVOILUTSequence", "WindowWidth", frame))
    if center is None or width is None or width <= 0:
        return None
    function = str(_functional(data_set, "FrameVOILUTSequence", "VOILUTFunction", frame) or "LINEAR")
    if function == "LINEAR" and width > 1:
        return center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2
    return center - width / 2, center + width / 2  # LINEAR_EXACT, and the near-linear part of SIGMOID


def pixel_bounds(dtype: str, bits_stored: int, values: NDArray[Any]) -> Bounds:
    """Range of Bits Stored; samples outside it may occur (overlay bits), protected ones are not moved there.

    For float samples it is the range of the finite ones.
    """
    if dtype == "float32":
        finite = values[np.isfinite(values)]
        return Bounds(float(finite.min()), float(finite.max())) if finite.size else Bounds(0.0, 0.0)
    if dtype.startswith("int"):
        return Bounds(-(2 ** (bits_stored - 1)), 2 ** (bits_stored - 1) - 1)
    return Bounds(0, 2**bits_stored - 1)


def extended_signs(values: NDArray[Any], data_set: Dataset, bits_stored: int) -> NDArray[Any] | None:
    """Signed samples whose writer left the bits above Bits Stored at zero, with those bits filled by the sign.

    ``None`` where the samples are right as they are, or where those bits are in use: for an overlay, or by samples
    that are larger than Bits Stored says.
    """
    shift = values.dtype.itemsize * 8 - bits_stored
    if values.dtype.kind != "i" or not shift or not int(values.max()) >> (bits_stored - 1):
        return None
    if int(values.min()) < 0 or int(values.max()) >> bits_stored:
        return None
    # An overlay without data of its own lies in the samples.
    groups = {tag >> 16 for tag in data_set.keys() if tag >> 16 & 0xFF01 == 0x6000}
    if any(group << 16 | 0x3000 not in data_set for group in groups):
        return None
    result: NDArray[Any] = (values << shift) >> shift
    return result


def image_origin(data_set: Attributes) -> Origin:
    """What a data set says about where its image comes from; values that are no code strings count as none."""
    told = (str(data_set.get(keyword, None) or "").strip().upper() for keyword in ("Modality", "BodyPartExamined"))
    return Origin(*(text if _CODE.fullmatch(text) else "" for text in told))

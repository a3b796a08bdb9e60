# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Region masks from files: PNG, NIfTI or NumPy, on the grid of the image that they belong to."""

from __future__ import annotations

import gzip
import io
import zlib
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray
from PIL import Image

from monai_miadmark.errors import UnsupportedImageError
from monai_miadmark.formats import carrier_for
from monai_miadmark.formats.nifti import read_label

__all__ = ["read_mask"]

_MAX_BYTES = 2**31
"""Largest decompressed mask."""


def read_mask(data: bytes, name: str, source: bytes, source_name: str) -> NDArray[np.bool_]:
    """Region of an image from a mask file; whatever is not zero is inside.

    Args:
        data: the mask: a PNG (one slice), a NIfTI file (for a NIfTI image, same orientation) or a ``.npy`` array
            ``(H, W)``, ``(N, H, W)`` or ``(N, H, W, 1)``.
        name: its name, for messages.
        source: the image file that the region lies in.
        source_name: its name.

    Returns:
        ``(H, W)`` or ``(N, H, W)`` bool, in the order of the image's stored samples.

    Raises:
        UnsupportedImageError: the mask is of another kind.
        ValueError: the mask is damaged, empty, or not on the grid of the image.
    """
    if data[128:132] == b"DICM":
        raise UnsupportedImageError(f"mask {name}: DICOM (SEG included) is not supported, a PNG, NIfTI or .npy mask is")
    if data.startswith(b"\x93NUMPY"):
        mask = _from_numpy(data, name)
    elif data.startswith(b"\x89PNG\r\n\x1a\n"):
        mask = _from_png(data, name)
    elif data[:2] == b"\x1f\x8b" or data[344:348] in (b"n+1\0", b"ni1\0") or data[4:8] == b"n+2\0":
        mask = _from_nifti(data, name, source, source_name)
    else:
        raise UnsupportedImageError(f"mask {name}: not a PNG, NIfTI or .npy file")
    shape = carrier_for(source, source_name).open_source(source, source_name).image.values.shape
    if mask.shape[-2:] != shape[1:3] or (mask.ndim == 3 and len(mask) != shape[0]):
        raise ValueError(f"mask {name} is {_size(mask.shape)}, the image {_size(shape[:3])}")
    return mask


def _from_numpy(data: bytes, name: str) -> NDArray[np.bool_]:
    """Mask of a ``.npy`` file."""
    try:
        # Pickled objects would run code of whoever made the file.
        array = np.load(io.BytesIO(data), allow_pickle=False)
        mask: NDArray[np.bool_] = np.asarray(array) != 0
    except (ValueError, EOFError, MemoryError, OSError) as error:
        raise ValueError(f"mask {name} is not a readable NumPy array") from error
    if mask.ndim == 4 and mask.shape[3] == 1:
        mask = mask[..., 0]
    if mask.ndim not in (2, 3):
        raise ValueError(f"mask {name} has {mask.ndim} dimensions: (H, W) or (N, H, W) is expected")
    return mask


def _from_png(data: bytes, name: str) -> NDArray[np.bool_]:
    """Mask of a PNG: palette index, gray value or any of the colors other than zero; transparency does not count."""
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            opaque = picture.convert(picture.mode[:-1]) if picture.mode in ("RGBA", "LA") else picture
            samples: NDArray[Any] = np.asarray(opaque)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"mask {name} is not a readable PNG") from error
    mask: NDArray[np.bool_] = samples != 0
    return mask if mask.ndim == 2 else np.asarray(mask.any(axis=2))


def _from_nifti(data: bytes, name: str, source: bytes, source_name: str) -> NDArray[np.bool_]:
    """Mask of a NIfTI file in the slice order and orientation of a NIfTI image."""
    carrier = carrier_for(source, source_name)
    if carrier.name != "nifti":
        raise UnsupportedImageError(
            f"mask {name}: a NIfTI mask fits a NIfTI image only (its axes are not those of other files)"
        )
    shell = carrier.open_source(source, source_name).shell
    try:
        if data[:2] == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
                data = stream.read(_MAX_BYTES)
        label: Any = (nib.Nifti2Image if data[4:7] == b"n+2" else nib.Nifti1Image).from_bytes(data)
        samples = np.asanyarray(label.dataobj)
        header = label.header.copy()
    except (OSError, EOFError, zlib.error, ValueError, ImageFileError) as error:
        raise ValueError(f"mask {name} is not a readable NIfTI file") from error
    # Tools write labels as int64 or float64 too; as bytes of 0 and 1 they are of a type that images may have.
    header.set_data_dtype(np.uint8)
    header.set_slope_inter(1, 0)
    return read_label(type(label)((samples != 0).astype(np.uint8), None, header).to_bytes(), shell)


def _size(shape: tuple[int, ...]) -> str:
    """A shape as people write it."""
    return " x ".join(str(length) for length in shape)

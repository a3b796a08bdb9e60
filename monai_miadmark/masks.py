# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Region masks from files: PNG, NIfTI or NumPy, on the grid of the image that they belong to."""

from __future__ import annotations

import gzip
import io
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from monai_miadmark.errors import UnsupportedImageError, check_memory
from monai_miadmark.formats import carrier_for
from monai_miadmark.formats.nifti import read_label

__all__ = ["read_mask"]

_SPARE_BYTES = 2**20
"""What may stand in a compressed mask beside its samples, which have 16 bytes at most."""


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
    carrier = carrier_for(source, source_name)
    opened = carrier.open_source(source, source_name)
    shape = opened.image.values.shape[:3]
    if data.startswith(b"\x93NUMPY"):
        mask = _from_numpy(data, name)
    elif data.startswith(b"\x89PNG\r\n\x1a\n"):
        mask = _from_png(data, name, shape)
    elif data[:2] == b"\x1f\x8b" or data[344:348] in (b"n+1\0", b"ni1\0") or data[4:8] == b"n+2\0":
        if carrier.name != "nifti":
            raise UnsupportedImageError(
                f"mask {name}: a NIfTI mask fits a NIfTI image only (its axes are not those of other files)"
            )
        mask = read_label(_plain_label(data, name, 16 * prod(shape) + _SPARE_BYTES), opened.shell)
    else:
        raise UnsupportedImageError(f"mask {name}: not a PNG, NIfTI or .npy file")
    if mask.shape[-2:] != shape[1:] or (mask.ndim == 3 and len(mask) != shape[0]):
        raise _misfit(name, mask.shape, shape)
    return mask


def _from_numpy(data: bytes, name: str) -> NDArray[np.bool_]:
    """Mask of a ``.npy`` file."""
    try:
        stream = io.BytesIO(data)
        version = np.lib.format.read_magic(stream)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(stream)
        # Pickled objects would run code of whoever made the file; and NumPy takes memory for any shape, before it looks
        # whether the samples are there.
        if dtype.kind not in "biuf" or prod(shape) * dtype.itemsize != len(data) - stream.tell():
            raise ValueError("not an array of numbers")
        mask: NDArray[np.bool_] = np.load(io.BytesIO(data), allow_pickle=False) != 0
    except Exception as error:  # the header is Python source: its parser raises many kinds, MemoryError too
        raise ValueError(f"mask {name} is not a readable NumPy array") from error
    if mask.ndim == 4 and mask.shape[3] == 1:
        mask = mask[..., 0]
    if mask.ndim not in (2, 3):
        raise ValueError(f"mask {name} has {mask.ndim} dimensions: (H, W) or (N, H, W) is expected")
    return mask


def _from_png(data: bytes, name: str, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Mask of a PNG: palette index, gray value or any of the colors other than zero; transparency does not count."""
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            size = picture.height, picture.width
            # Compared before anything is decoded: a small file may hold a very large picture.
            if size == shape[1:]:
                opaque = picture.convert(picture.mode[:-1]) if picture.mode in ("RGBA", "LA") else picture
                samples: NDArray[Any] = np.asarray(opaque)
    except Exception as error:  # Pillow raises many kinds for damaged data; none may reach the caller raw
        check_memory(error)
        raise ValueError(f"mask {name} is not a readable PNG") from error
    if size != shape[1:]:
        raise _misfit(name, size, shape)
    mask: NDArray[np.bool_] = samples != 0
    return mask if mask.ndim == 2 else np.asarray(mask.any(axis=2))


def _plain_label(data: bytes, name: str, limit: int) -> bytes:
    """A NIfTI file as one of zeros and ones: tools write labels in any type, with any scaling.

    Args:
        data: the file, plain or in gzip.
        name: its name, for messages.
        limit: bytes that it may hold when it is not compressed.
    """
    try:
        if data[:2] == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
                data = stream.read(limit)
                if stream.read(1):
                    raise ValueError("larger than a mask for the image")
        import nibabel as nib  # seldom needed, and not quickly imported

        label: Any = (nib.Nifti2Image if data[4:7] == b"n+2" else nib.Nifti1Image).from_bytes(data)
        inside = (np.asanyarray(label.dataobj) != 0).astype(np.uint8)
        header = label.header.copy()
        header.set_data_dtype(np.uint8)
        header.set_slope_inter(1, 0)
        plain: bytes = type(label)(inside, None, header).to_bytes()
    except Exception as error:  # nibabel has errors of its own, of many kinds
        check_memory(error)
        raise ValueError(f"mask {name} is not a readable NIfTI file") from error
    return plain


def _misfit(name: str, found: tuple[int, ...], shape: tuple[int, ...]) -> ValueError:
    """The mask is not on the grid of the image."""
    return ValueError(f"mask {name} is {_size(found)}, the image {_size(shape)}")


def _size(shape: tuple[int, ...]) -> str:
    """A shape as people write it."""
    return " x ".join(str(length) for length in shape)

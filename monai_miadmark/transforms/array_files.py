# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Files of arrays that never had a source file: NIfTI-1 and PNG, samples exactly as they are in memory."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from monai_miadmark.errors import UnsupportedImageError
from monai_miadmark.transforms.layout import Layout, groups, layout_of, ras_affine

__all__ = ["encode_nifti", "encode_png", "nifti_layout", "with_samples"]


def nifti_layout(image: Any) -> Layout:
    """Layout in which the samples of a NIfTI or MGH file were protected; see ``NiftiCarrier`` and ``MghCarrier``."""
    header = image.header
    codes = ("goodRASFlag",) if isinstance(image, nib.MGHImage) else ("sform_code", "qform_code")
    if not any(header[code] > 0 for code in codes):
        return Layout("xy")
    return layout_of("xy", {"original_affine": image.affine, "affine": image.affine})


def with_samples(image: Any, values: NDArray[Any]) -> Any:
    """A NIfTI or PNG image in memory with other samples ``(N, H, W, C)``."""
    if isinstance(image, Image.Image):
        picture = Image.fromarray(values[0, :, :, 0] if values.shape[3] == 1 else values[0])
        picture.format = image.format
        return picture
    shape = (1, *image.shape[:2], len(values))
    array = nifti_layout(image).to_array(values, shape)[0].reshape(image.shape, order="F")
    return nib.Nifti1Image(array, image.affine, image.header)


def encode_png(stored: NDArray[Any], layout: Layout) -> bytes:
    """PNG of one slice."""
    slices, _, _, channels = stored.shape
    if stored.dtype != np.uint8 or slices != 1 or channels not in (1, 3):
        found = f"{stored.dtype} {stored.shape}"
        raise UnsupportedImageError(f"PNG holds one slice of uint8 with 1 or 3 channels, not {found}: write NIfTI")
    if any(layout.flips):
        raise UnsupportedImageError("PNG cannot hold the orientation of this image: write NIfTI")
    out = io.BytesIO()
    Image.fromarray(stored[0, :, :, 0] if channels == 1 else stored[0]).save(out, "PNG")
    return out.getvalue()


def encode_nifti(array: NDArray[Any], layout: Layout, meta: Mapping[str, Any]) -> bytes:
    """NIfTI-1 file of an array ``(1, X, Y[, Z[, T]])``, or ``(T, X, Y, Z)`` of more than four time points.

    The header is by nibabel, samples are as they are.
    """
    if array.ndim == 4 and groups(array.shape) > 1:
        array = np.moveaxis(array, 0, -1)[None]
    if array.shape[0] != 1:
        channels = f"{array.shape[0]}: protect and write them one by one"
        raise UnsupportedImageError(
            f"NIfTI is written for one channel or more than four time points, not for {channels}"
        )
    if layout.axes != "xy":
        raise UnsupportedImageError("NIfTI is written for arrays with x as their first spatial axis (axes='xy')")
    header = nib.Nifti1Header()
    header.set_data_dtype(array.dtype)
    header.set_data_shape(array.shape[1:])
    affine = ras_affine(meta)
    if affine is not None:
        header.set_qform(affine, code=1)
        header.set_sform(affine, code=1)
    elif "affine" in meta and not torch.equal(torch.as_tensor(meta["affine"]).cpu().double(), torch.eye(4).double()):
        # Without a reader's word on it, the image was not turned by this affine before it was protected.
        raise UnsupportedImageError("the affine is not one that a reader found in a file: it could not be kept")
    header.set_slope_inter(1, 0)
    header["vox_offset"] = 352
    return bytes(header.binaryblock) + bytes(4) + array[0].tobytes(order="F")

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""CT-like slices of any size, made of the CT in pydicom's wheel: its content, enlarged, with the noise of a scanner."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
import pydicom
import pydicom.data
from numpy.typing import NDArray
from PIL import Image
from pydicom.uid import UID

NOISE = 12
"""Standard deviation of the noise, Hounsfield units."""


@lru_cache
def _source() -> bytes:
    path = pydicom.data.get_testdata_file("CT_small.dcm", download=False)
    assert isinstance(path, str)
    with open(path, "rb") as stream:
        return stream.read()


def pixels(side: int, seed: int = 0) -> NDArray[np.int16]:
    """``(side, side)`` stored values."""
    picture = Image.fromarray(pydicom.dcmread(io.BytesIO(_source())).pixel_array.astype(np.float32))
    large = np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC))
    noise = np.random.default_rng(seed).normal(0, NOISE, (side, side))
    return np.rint(large + noise).clip(-2000, 4000).astype(np.int16)


def slice_of(side: int, seed: int = 0, private: bool = True) -> bytes:
    """A DICOM file of one slice, 16 bits, Explicit VR Little Endian; two thirds of its elements are private ones."""
    data_set = pydicom.dcmread(io.BytesIO(_source()))
    if not private:
        data_set.remove_private_tags()
    data_set.Rows = data_set.Columns = side
    data_set.PixelData = pixels(side, seed).tobytes()
    del data_set.DataSetTrailingPadding
    data_set.WindowCenter, data_set.WindowWidth = 40, 400
    data_set.SOPInstanceUID = data_set.file_meta.MediaStorageSOPInstanceUID = UID(
        f"1.2.826.0.1.3680043.8.498.{seed + 1}"
    )
    data_set.InstanceNumber = seed + 1
    out = io.BytesIO()
    data_set.save_as(out)
    return out.getvalue()


def series_of(side: int, frames: int, seed: int = 0) -> bytes:
    """A DICOM file of many frames (the same few, again and again, so that making it takes little)."""
    data_set = pydicom.dcmread(io.BytesIO(slice_of(side)))
    few = [pixels(side, seed + number).tobytes() for number in range(min(frames, 8))]
    data_set.NumberOfFrames = frames
    data_set.PixelData = b"".join(few[index % len(few)] for index in range(frames))
    out = io.BytesIO()
    data_set.save_as(out)
    return out.getvalue()

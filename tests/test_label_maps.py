# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Segmentations and masks are refused by name in every format, unless they are asked for; images are not."""

from __future__ import annotations

import gzip
import io
import struct
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import samples
from doubles import BLUNT, NoiseMarker
from numpy.typing import NDArray
from PIL import Image

from monai_miadmark import keys
from monai_miadmark.errors import LabelMapError
from monai_miadmark.formats.label_maps import looks_like_labels
from monai_miadmark.options import ProtectOptions
from monai_miadmark.pipeline import protect_bytes, remove_bytes


def blobs(labels: int = 1, dtype: str = "uint8") -> NDArray[Any]:
    """``(48, 40)`` of zeros with a disk for each label."""
    y, x = np.mgrid[:48, :40]
    mask = np.zeros((48, 40), dtype)
    for label in range(1, labels + 1):
        mask[(x - 8 - 6 * label) ** 2 + (y - 10 - 6 * label) ** 2 < 81] = label
    return mask


def nifti(values: NDArray[Any], intent: int = 0) -> bytes:
    """NIfTI-1 of one slice."""
    image = nib.Nifti1Image(values.T[..., None], np.eye(4))
    image.header["intent_code"] = intent
    data: bytes = image.to_bytes()
    return data


def nrrd(values: NDArray[Any], pairs: bytes = b"") -> bytes:
    """Raw NRRD of one slice."""
    head = b"NRRD0004\ntype: uint8\ndimension: 2\nsizes: 40 48\nencoding: raw\n" + pairs + b"\n"
    return head + values.astype(np.uint8).tobytes()


def png(values: NDArray[Any], mode: str | None = None, palette: bytes = b"") -> bytes:
    """PNG of one slice."""
    picture = Image.fromarray(values)
    if palette:
        picture = Image.frombytes("P", picture.size, values.tobytes())
        picture.putpalette(palette)
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def mha(values: NDArray[Any]) -> bytes:
    """MetaImage of one slice."""
    head = b"ObjectType = Image\nNDims = 2\nBinaryData = True\nDimSize = 40 48\nElementType = MET_UCHAR\n"
    return head + b"ElementDataFile = LOCAL\n" + values.tobytes()


def mgh(values: NDArray[Any], rest: bytes = b"") -> bytes:
    """MGH of one slice."""
    head = struct.pack(">7ih", 1, 40, 48, 1, 1, 0, 0, 0).ljust(284, b"\0")
    return head + values.astype(np.uint8).tobytes() + rest


NOISE = samples.smooth()
LABELS = {
    "intent.nii": nifti(NOISE.astype(np.int16), 1002),
    "names.nii": nifti(NOISE.astype(np.int16), 1003),
    "plain.nii": nifti(blobs(3, "int16")),
    "packed.nii.gz": gzip.compress(nifti(blobs(1, "uint8"))),
    "float.nii": nifti(blobs(2, "float32")),
    "a.seg.nrrd": nrrd(NOISE),
    "slicer.nrrd": nrrd(NOISE, b"Segment0_ID:=Segment_1\n"),
    "blobs.nrrd": nrrd(blobs(2)),
    "blobs.mha": mha(blobs(1)),
    "table.mgz": mgh(NOISE, bytes(20) + struct.pack(">i", 1)),
    "blobs.mgz": mgh(blobs(1)),
    "gray.png": png(blobs(1)),
    "white.png": png(blobs(1) * np.uint8(255)),
    "bits.png": png(blobs(1).astype(bool)),
    "palette.png": png(blobs(3), palette=bytes((0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255))),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_are_refused_by_name_unless_they_are_asked_for(name: str) -> None:
    class Unused(NoiseMarker):
        def specialist(self, modality: str, images: NDArray[np.float32]) -> NoiseMarker:
            raise AssertionError("networks were asked for a file that is refused")

    data, key = LABELS[name], keys.generate_identity("x25519")
    with pytest.raises(LabelMapError, match="segmentation or a mask"):
        protect_bytes(data, name, [key.recipient], Unused(), ProtectOptions(preset=BLUNT, region="none"))
    wanted = ProtectOptions(preset=BLUNT, region="none", allow_label_maps=True)
    protected = protect_bytes(data, name, [key.recipient], NoiseMarker(), wanted)
    assert samples.plain(name, remove_bytes(protected.data, [key]).data) == samples.plain(name, data)


@pytest.mark.parametrize(
    "image",
    [
        NOISE,
        NOISE // 16,  # sixteen levels
        np.kron(NOISE // 16, np.ones((4, 4), np.uint8)),  # enlarged
        np.random.default_rng(0).integers(0, 2, (64, 64), np.uint8),  # dithered
        np.full((32, 32), 7, np.uint8),  # has nothing to mark, but is no mask
        (NOISE.astype(np.int16) - 128) // 16,
        NOISE.astype(np.float32) / 7,
    ],
)
def test_images_are_not_labels(image: NDArray[Any]) -> None:
    assert not looks_like_labels(image[None, ..., None])

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Small image files of every format, made in code or taken from pydicom's wheel."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom.data
from numpy.typing import NDArray
from PIL import Image


def smooth(height: int = 48, width: int = 40, seed: int = 0) -> NDArray[np.uint8]:
    """A gray picture ``(height, width)`` with light, dark and texture."""
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(seed).normal(0, 4, (height, width))
    picture = 110 + 80 * np.sin(x / 9) * np.cos(y / 7) + noise
    return np.asarray(picture.clip(0, 255).astype(np.uint8))


def png(seed: int = 0) -> bytes:
    """8-bit gray PNG."""
    out = io.BytesIO()
    Image.fromarray(smooth(seed=seed)).save(out, "PNG")
    return out.getvalue()


def jpeg(seed: int = 0) -> bytes:
    """RGB JPEG."""
    out = io.BytesIO()
    Image.fromarray(np.stack([smooth(seed=seed + i) for i in range(3)], 2)).save(out, "JPEG", quality=90)
    return out.getvalue()


def nifti(slices: int = 3) -> bytes:
    """int16 NIfTI-1 with slope and an orientation."""
    values = np.stack([smooth(seed=i).T.astype(np.int16) * 4 - 300 for i in range(slices)], 2)
    image = nib.Nifti1Image(values, np.diag([1.0, 1.0, 2.0, 1.0]))
    image.header.set_slope_inter(1, 0)
    data: bytes = image.to_bytes()
    return data


def nifti_gz() -> bytes:
    """The same, compressed."""
    return gzip.compress(nifti(), mtime=0)


def ct() -> bytes:
    """pydicom's 128 x 128 CT."""
    path = pydicom.data.get_testdata_file("CT_small.dcm", download=False)
    assert isinstance(path, str)
    return Path(path).read_bytes()


def tree(folder: Path) -> dict[str, bytes]:
    """Write a folder with one file of every format, two levels deep; what was written, by relative path."""
    made = {
        "ct.dcm": ct(),
        "head/t1.nii": nifti(),
        "head/t2.nii.gz": nifti_gz(),
        "head/deep/slice.png": png(),
        "photo.jpg": jpeg(),
    }
    for name, data in made.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return made


def plain(name: str, data: bytes) -> bytes:
    """What restoring promises: the file, or for ``.gz`` its decompressed bytes."""
    return gzip.decompress(data) if name.endswith(".gz") else data


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder by relative path."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""NIfTI headers that nibabel or ITK read are read alike, and the protected file is one that both read."""

from __future__ import annotations

import struct
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import samples
from doubles import BLUNT, NoiseMarker

from monai_miadmark.errors import TamperedError, UnsupportedImageError
from monai_miadmark.formats.nifti import NiftiCarrier
from monai_miadmark.keys import HpkeIdentity, generate_identity
from monai_miadmark.options import ProtectOptions
from monai_miadmark.pipeline import protect_bytes, remove_bytes

BASE = samples.nifti()
OPTIONS = ProtectOptions(preset=BLUNT, region="none", style="invisible")


@pytest.fixture(scope="module")
def alice() -> HpkeIdentity:
    return generate_identity("x25519")


def changed(offset: int, form: str, *values: Any) -> bytes:
    """The file with other header fields."""
    data = bytearray(BASE)
    struct.pack_into(form, data, offset, *values)
    return bytes(data)


def extended(block: bytes, flag: bytes = b"\1\0\0\0") -> bytes:
    """The file with bytes between header and samples."""
    head = changed(108, "<f", 352 + len(block))
    return head[:348] + flag + block + head[352:]


def extension(size: int, body: bytes) -> bytes:
    return struct.pack("<2i", size, 6) + body


FILES = {
    "bitpix 0": changed(72, "<h", 0),
    "bitpix 99": changed(72, "<h", 99),
    "offset with a fraction": changed(108, "<f", 352.5),
    "axis of length 0": changed(40, "<8h", 4, 40, 48, 3, 0, 0, 0, 0),
    "axes of length 0": changed(40, "<8h", 5, 40, 48, 3, 1, 0, 0, 0),
    "negative length": changed(40, "<8h", 4, 40, 48, 3, -1, 0, 0, 0),
    "magic of a pair": changed(344, "<4s", b"ni1\0"),
    "no header size": changed(0, "<i", 0),
    "slope not a number": changed(112, "<2f", float("nan"), 0),
    "extension of 30 bytes": extended(extension(30, b"x" * 22)),
    "two extensions, the first odd": extended(extension(21, b"x" * 13) + extension(16, b"y" * 8)),
    "extension of size 0": extended(extension(0, b"x" * 24)),
    "extension beyond the samples": extended(extension(4000, b"x" * 24)),
    "extension of negative size": extended(extension(-16, b"x" * 24)),
    "extension of 8 bytes": extended(extension(8, b"x" * 24)),
    "text in place of extensions": extended(b"anything" * 3),
    "extensions, but not flagged": extended(extension(32, b"x" * 24), bytes(4)),
    "another flag": extended(extension(32, b"x" * 24), b"\2\0\0\0"),
    "bytes behind": BASE + b"abc",
}


@pytest.mark.parametrize("name", FILES)
def test_what_others_read_is_protected_and_restored(name: str, alice: HpkeIdentity) -> None:
    data = FILES[name]
    made = protect_bytes(data, "a.nii", [alice.recipient], NoiseMarker(), OPTIONS).data
    assert remove_bytes(made, [alice]).data == data
    # Strict readers take the protected file, whose voxels are still the image.
    image = nib.Nifti1Image.from_bytes(made)
    voxels = np.asanyarray(image.dataobj)
    assert np.corrcoef(voxels.reshape(40, 48, 3).ravel(), _voxels().ravel())[0, 1] > 0.9
    assert all((8 + len(e.get_content())) % 16 == 0 or e.get_code() == 6 for e in image.header.extensions)
    assert image.header["vox_offset"] % 16 == 0


def _voxels() -> Any:
    """Stored numbers of the sound file."""
    return np.asanyarray(nib.Nifti1Image.from_bytes(BASE).dataobj)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (changed(108, "<f", 0), "inside its header .*readers disagree"),
        (changed(108, "<f", 348), "inside its header"),
        (changed(108, "<f", float("nan")), "voxel offset is damaged"),
        (changed(40, "<8h", 0, 40, 48, 3, 1, 1, 1, 1), "dimensions are damaged"),
        (changed(344, "<4s", b"ni1\0")[:348] + bytes(4), "pair"),
        (changed(344, "<4s", b"n+1 "), "ANALYZE"),
        (BASE[:-1], "truncated"),
    ],
)
def test_what_cannot_be_read_is_refused_with_what_is_true(data: bytes, reason: str) -> None:
    with pytest.raises(UnsupportedImageError, match=reason):
        NiftiCarrier().open_source(data, "a.nii")


def test_a_record_whose_size_is_damaged_is_found(alice: HpkeIdentity) -> None:
    made = bytearray(protect_bytes(BASE, "a.nii", [alice.recipient], NoiseMarker(), OPTIONS).data)
    for size in (0, 8, 1 << 30, -16):
        struct.pack_into("<i", made, 352, size)
        with pytest.raises(TamperedError, match="record"):
            remove_bytes(bytes(made), [alice])

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Files of every format but DICOM through the whole pipeline: protect, verify, grant, remove; sidecars; errors."""

from __future__ import annotations

import gzip
import io
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import samples
import test_formats_raster as rasters
import test_formats_volumes as volumes
from doubles import BLUNT, NoiseMarker
from PIL import Image

from monai_miadmark.errors import TamperedError, WrongKeyError
from monai_miadmark.formats import CARRIERS, carrier_for
from monai_miadmark.keys import generate_identity
from monai_miadmark.options import ProtectOptions
from monai_miadmark.pipeline import grant_bytes, protect_bytes, remove_bytes, verify_bytes

STACK = np.stack([samples.smooth(seed=seed) for seed in range(3)])
COLORS = np.moveaxis(STACK, 0, 2)
OPTIONS = ProtectOptions(BLUNT)


def tiff(values: Any, **options: Any) -> bytes:
    """A TIFF file by tifffile."""
    tifffile = pytest.importorskip("tifffile", reason="the extra tiff is not installed")
    pytest.importorskip("imagecodecs", reason="the extra tiff is not installed")
    out = io.BytesIO()
    tifffile.imwrite(out, values, **options)
    return out.getvalue()


def saved(picture: Image.Image) -> bytes:
    """A PNG file by Pillow."""
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


FILES: dict[str, Any] = {
    "gray16.png": lambda: saved(Image.fromarray(STACK[0].astype(np.uint16) * 16)),
    "color16.png": lambda: rasters.as_png((COLORS.astype(int) * 257).reshape(48, -1), 16, 2),
    "alpha.png": lambda: saved(Image.fromarray(np.dstack([COLORS, STACK[0]]))),
    "palette.png": lambda: saved(Image.fromarray(COLORS).quantize(64)),
    "two.nii": lambda: nib.Nifti2Image(STACK.T.astype(np.int16), np.eye(4)).to_bytes(),
    "double.nii.gz": lambda: gzip.compress(nib.Nifti1Image(STACK.T / 3.0, np.eye(4)).to_bytes(), mtime=0),
    "long.nii": lambda: nib.Nifti1Image(STACK.T.astype(np.int64), np.eye(4), dtype=np.int64).to_bytes(),
    "stack.tif": lambda: tiff(STACK.astype(np.uint16) * 16, photometric="minisblack"),
    "imagej.tif": lambda: tiff(STACK.astype(np.float32), imagej=True),
    "packed.tif": lambda: tiff(COLORS, photometric="rgb", compression="lzw", predictor=True),
    "ome.tiff": lambda: tiff(STACK, photometric="minisblack", ome=True, tile=(16, 16), compression="deflate"),
    "a.mha": lambda: volumes.metaimage(STACK[..., None].astype(np.int16)),
    "packed.mha": lambda: volumes.metaimage(STACK[..., None].astype(np.int16), packed=True),
    "a.nrrd": lambda: volumes.nrrd(STACK[..., None].astype(np.int16)),
    "packed.nrrd": lambda: volumes.nrrd(STACK[..., None].astype(np.float32), packed=True),
    "a.mgh": lambda: volumes.mgh(STACK[..., None]),
    "a.mgz": lambda: volumes.mgh(STACK[..., None].astype(np.float32), packed=True),
}


@pytest.mark.parametrize("sidecar", [False, True])
@pytest.mark.parametrize("name", FILES)
def test_protect_and_remove(name: str, sidecar: bool) -> None:
    data = FILES[name]()
    alice, bob = generate_identity("x25519"), generate_identity("x25519")
    protected = protect_bytes(data, name, [alice.recipient], NoiseMarker(), OPTIONS, sidecar=sidecar)
    beside = protected.envelope if sidecar else None
    carrier = carrier_for(data, name)
    marked = carrier.open_protected(protected.data).values
    original = carrier.open_source(data, name).image.values
    assert marked.shape == original.shape and (marked != original).mean() > 0.2
    verify_bytes(protected.data, beside)
    with pytest.raises(WrongKeyError):
        remove_bytes(protected.data, [bob], beside)
    shared, envelope = grant_bytes(protected.data, alice, [bob.recipient], beside)
    for identity in (alice, bob):
        restored = remove_bytes(shared, [identity], envelope if sidecar else None)
        assert restored.data == data and restored.name == name


@pytest.mark.parametrize("name", ["gray16.png", "stack.tif", "a.mha", "a.nrrd", "a.mgh", "two.nii"])
def test_a_changed_sample_is_found(name: str) -> None:
    alice = generate_identity("x25519")
    protected = protect_bytes(FILES[name](), name, [alice.recipient], NoiseMarker(), OPTIONS)
    carrier = carrier_for(protected.data, name)
    values = carrier.open_protected(protected.data).values
    changed = values.copy()
    changed[0, 20, 20] ^= 1
    # A file with the same record and other samples, made as an attacker would: by writing the format anew.
    plain = FILES[name]()
    forged = carrier.carry(plain, carrier.open_source(plain, name), changed, protected.envelope)
    with pytest.raises(TamperedError):
        remove_bytes(forged, [alice])
    same = carrier.carry(plain, carrier.open_source(plain, name), values, protected.envelope)
    assert remove_bytes(same, [alice]).data == plain


def test_names_of_formats_are_told_apart() -> None:
    names = [carrier.name for carrier in CARRIERS]
    assert len(set(names)) == len(names)
    for name in FILES:
        data = FILES[name]()
        assert sum(carrier.matches(data) for carrier in CARRIERS) == 1, name

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Protected objects under the validator dciodvfy, and read by DCMTK, GDCM, SimpleITK and pydicom.

A tool that is not installed skips its tests by name.
"""

from __future__ import annotations

import functools
import importlib.util
import re
import shutil
import subprocess
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_corpus import ROOT, files
from numpy.typing import NDArray
from PIL import Image
from pydicom.uid import ExplicitVRBigEndian
from test_formats_dicom import ENVELOPE, read
from test_formats_dicom_decoding import written

from monai_miadmark.errors import UnsupportedImageError
from monai_miadmark.formats.dicom import DicomCarrier

CARRIER = DicomCarrier()


def tool(name: str) -> pytest.MarkDecorator:
    """Skip where a program is not installed."""
    return pytest.mark.skipif(shutil.which(name) is None, reason=f"not installed: {name}")


def module(name: str) -> pytest.MarkDecorator:
    """Skip where a Python module is not installed."""
    return pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"not installed: {name}")


def supported() -> list[str]:
    """Files of pydicom's wheel that can be protected; of the many like each other in the DICOMDIR folders a few."""
    found = []
    for name in files():
        data = (ROOT / name).read_bytes()
        if not CARRIER.matches(data) or ("dicomdirtests" in name and "CT2/17106" not in name and "CR1" not in name):
            continue
        try:
            CARRIER.open_source(data, name)
        except UnsupportedImageError:
            continue
        found.append(name)
    return found


SUPPORTED = supported()


# GDCM aborts the process on these, and on their sources: RT Dose of one frame, without a grid frame offset vector.
GDCM_ABORTS = ("rtdose_1frame.dcm", "rtdose_expb_1frame.dcm", "rtdose_rle_1frame.dcm")
FOR_GDCM = [name for name in SUPPORTED if not name.endswith(GDCM_ABORTS)]


def protected(name: str, folder: Path) -> tuple[Path, NDArray[Any]]:
    """A protected object on disk, with samples that differ from the source's everywhere, and those samples.

    The lowest bit alone would do, but a reader that divides by something might lose it.
    """
    data, values = carried(name)
    path = folder / "protected.dcm"
    path.write_bytes(data)
    return path, values


@functools.cache
def carried(name: str) -> tuple[bytes, NDArray[Any]]:
    """The protected object and its samples, made once for all who read it (some 50 MB for all files)."""
    data = (ROOT / name).read_bytes()
    opened = CARRIER.open_source(data, name)
    values = opened.image.values ^ np.asarray(1, opened.image.values.dtype)
    low, high = opened.image.bounds
    values = np.clip(values, int(low), int(high)).astype(values.dtype)
    values.flags.writeable = False
    return CARRIER.carry(data, opened, values, ENVELOPE), values


def skip_wide_big_endian(ds: pydicom.Dataset) -> None:
    """Skip 32-bit samples in big-endian words: pydicom (and we) read other numbers than GDCM and DCMTK in any file."""
    if ds.BitsAllocated == 32 and ds.file_meta.TransferSyntaxUID == ExplicitVRBigEndian:
        pytest.skip("readers do not agree on the order of the words of 32-bit samples in big-endian files")


def messages(path: Path) -> Counter[str]:
    """What dciodvfy says."""
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, errors="replace", check=False)
    return Counter((done.stdout + done.stderr).splitlines())


@tool("dciodvfy")
@pytest.mark.parametrize("name", SUPPORTED)
def test_the_validator_finds_nothing_new(name: str, tmp_path: Path) -> None:
    path, _ = protected(name, tmp_path)
    source = ROOT / name
    ds = read(source.read_bytes())
    if ds.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1.99":
        source = tmp_path / "inflated.dcm"  # dciodvfy does not inflate
        source.write_bytes(written(ds, "1.2.840.10008.1.2.1"))
    found = messages(path)
    if any("bitsallocated <= bytesinword" in line for line in found):
        assert ds.BitsAllocated == 32
        pytest.skip("dciodvfy aborts on native 32-bit samples in explicit VR, whoever wrote them")
    new = found - messages(source)
    notes = [line for line in new.elements() if re.match(r"\(0x0411,0x10[0-9a-f]{2}\).*Unrecognized tag", line)]
    assert len(notes) <= 3 and Counter(notes) == new


@tool("dcmdump")
@pytest.mark.parametrize("name", SUPPORTED)
def test_dcmtk_parses_it(name: str, tmp_path: Path) -> None:
    path, _ = protected(name, tmp_path)
    done = subprocess.run(
        ["dcmdump", "+L", "-q", str(path)], capture_output=True, text=True, errors="replace", check=False
    )
    assert done.returncode == 0 and not [line for line in done.stderr.splitlines() if line.startswith("E:")]
    assert "DERIVED" in done.stdout


@tool("dcmdump")
@pytest.mark.parametrize("name", SUPPORTED)
def test_dcmtk_finds_the_same_samples(name: str, tmp_path: Path) -> None:
    """The raw value that DCMTK extracts, in the byte order of the file."""
    path, values = protected(name, tmp_path)
    subprocess.run(["dcmdump", "+W", str(tmp_path), str(path)], capture_output=True, check=True)
    ds = read(path.read_bytes())
    skip_wide_big_endian(ds)
    body = values.transpose(0, 3, 1, 2) if ds.get("PlanarConfiguration", 0) else values
    # DCMTK writes words in little-endian order, whatever the file's.
    expected = body.astype(values.dtype.newbyteorder("<")).tobytes()
    # It writes every binary value; one of those files must be the samples (overlays, records and others are there too).
    assert any(raw.read_bytes()[: len(expected)] == expected for raw in tmp_path.glob("protected.dcm.*.raw"))


@tool("dcm2pnm")
@pytest.mark.parametrize("name", ["test_files/examples_palette.dcm", "test_files/SC_rgb_rle.dcm"])
def test_dcmtk_shows_the_same_colors(name: str, tmp_path: Path) -> None:
    path, values = protected(name, tmp_path)
    picture = tmp_path / "shown.ppm"
    subprocess.run(["dcm2pnm", "-q", str(path), str(picture)], check=True, capture_output=True)
    assert np.array_equal(np.asarray(Image.open(picture)), values[0])


@module("gdcm")
@pytest.mark.parametrize("name", FOR_GDCM)
def test_gdcm_reads_the_same_samples(name: str, tmp_path: Path) -> None:
    import gdcm

    path, values = protected(name, tmp_path)
    skip_wide_big_endian(read(path.read_bytes()))
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    if not reader.Read() and values.dtype.itemsize == 4 and values.shape[3] == 3:
        pytest.skip("GDCM reads no 32-bit color")
    image = reader.GetImage()
    raw = np.frombuffer(image.GetBuffer().encode("utf-8", "surrogateescape"), values.dtype)
    n, height, width, channels = values.shape
    shape = (n, channels, height, width) if image.GetPlanarConfiguration() else values.shape
    found = raw.reshape(shape)
    assert np.array_equal(found.transpose(0, 2, 3, 1) if image.GetPlanarConfiguration() else found, values)


@module("SimpleITK")
@pytest.mark.parametrize("name", FOR_GDCM)
def test_simpleitk_reads_the_same_samples(name: str, tmp_path: Path) -> None:
    import SimpleITK as sitk  # noqa: N813

    path, values = protected(name, tmp_path)
    if values.dtype.itemsize == 4 and values.shape[3] == 3:
        pytest.skip("GDCM, which SimpleITK reads by, reads no 32-bit color")
    ds = read(path.read_bytes())
    skip_wide_big_endian(ds)
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    expected = values[..., 0] if values.shape[3] == 1 else values
    if ds.PhotometricInterpretation == "MONOCHROME1":
        expected = 2**ds.BitsStored - 1 - expected.astype(np.int64)  # what ITK's GDCM reader does with it
    slope, intercept = float(ds.get("RescaleSlope", 1) or 1), float(ds.get("RescaleIntercept", 0) or 0)
    assert np.allclose(found.reshape(expected.shape), expected * slope + intercept, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", SUPPORTED)
def test_pydicom_reads_the_same_samples(name: str, tmp_path: Path) -> None:
    path, values = protected(name, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = pydicom.dcmread(path).pixel_array
    assert np.array_equal(found.reshape(values.shape), values)

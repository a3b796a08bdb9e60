# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Images with nothing to mark are protected, with a warning and a figure that says so."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from doubles import BLUNT, NoiseMarker
from monai.data import MetaTensor
from samples import png
from test_formats_dicom import made
from vectors import make_vectors

from monai_miadmark.files import make_protected
from monai_miadmark.formats import carrier_for
from monai_miadmark.image import Bounds, StoredImage, Window
from monai_miadmark.options import ProtectOptions
from monai_miadmark.pipeline import protect_bytes, protect_image, remove_bytes
from monai_miadmark.tasks import drafted
from monai_miadmark.transforms import ProtectWithMIADMark

ALICE = make_vectors.identity("alice")
SIZE = (64, 48)


def nifti(values: Any) -> bytes:
    data: bytes = nib.Nifti1Image(values, np.eye(4)).to_bytes()
    return data


def two_valued() -> np.ndarray:
    values = np.zeros((*SIZE, 2), np.int16)
    values[20:40, 10:30] = 1
    return values


NOTHING = {
    "constant.nii": nifti(np.full((*SIZE, 2), 7, np.int16)),
    "zero.nii": nifti(np.zeros((*SIZE, 2), np.float32)),
    "two.dcm": made(two_valued().transpose(2, 0, 1)[:1, :, :, None].astype(np.uint16)),
    "padding.dcm": made(np.full((1, *SIZE, 1), -2000, np.int16), PixelPaddingValue=-2000),
    "nan.nii": nifti(np.full((*SIZE, 1), np.nan, np.float32)),
}


@pytest.mark.parametrize("name", NOTHING)
def test_is_said_and_restored(name: str, caplog: pytest.LogCaptureFixture) -> None:
    data = NOTHING[name]
    with caplog.at_level(logging.WARNING):
        protected = protect_bytes(data, name, [ALICE.recipient], NoiseMarker(), ProtectOptions(preset="fast"))
    assert protected.changed == 0
    assert f"{name}: nothing was marked, not one sample differs from the source" in caplog.text
    assert remove_bytes(protected.data, [ALICE]).data == data


def test_the_figure_is_that_of_the_written_file(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        protected = protect_bytes(png(), "a.png", [ALICE.recipient], NoiseMarker(), ProtectOptions(BLUNT))
    before = carrier_for(png(), "a.png").open_source(png(), "a.png").image.values
    after = carrier_for(protected.data, "a.png").open_protected(protected.data).values
    assert protected.changed == int((before != after).sum()) > 100 and "nothing was marked" not in caplog.text


def test_arrays_warn_too(caplog: pytest.LogCaptureFixture) -> None:
    image = StoredImage(np.full((1, *SIZE, 1), 9, np.int16), Bounds(0, 99), Window(9, 10))
    with caplog.at_level(logging.WARNING):
        protect_image(image, [ALICE.recipient], NoiseMarker(), ProtectOptions(BLUNT))
        assert caplog.text.count("nothing was marked") == 1
        ProtectWithMIADMark(ALICE.recipient, marker=NoiseMarker())(MetaTensor(np.full((1, *SIZE), 3.0, np.float32)))
    assert caplog.text.count("nothing was marked") == 2


@pytest.mark.parametrize(("name", "data"), [("a.nii", NOTHING["constant.nii"]), ("b.png", png())])
def test_stands_in_the_manifest(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    made_ = make_protected(tmp_path / name, tmp_path / "out", [ALICE.recipient], NoiseMarker(), ProtectOptions(BLUNT))
    changed = drafted(made_).facts["changed"]
    assert changed == made_.changed and (changed == 0) == (name == "a.nii")

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests of the MONAI Deploy app. They need the environment of ``make test-deploy``."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pydicom
import pytest
from deploy_series import SLICES, VARIABLES
from doubles import BLUNT, load_marker
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

from monai_miadmark.apps.deploy.settings import IDENTITY_ENV, RECIPIENTS_ENV, SIGNER_ENV
from monai_miadmark.keys import generate_identity, generate_signer, save_key_pair
from monai_miadmark.options import PRESETS

# The default environment has no MONAI Deploy App SDK: nothing is collected there.
collect_ignore_glob = ["test_*.py"] if importlib.util.find_spec("holoscan") is None else []


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    for name in ("alice", "eve"):
        save_key_pair(generate_identity("x25519"), folder / name)
    save_key_pair(generate_signer("ed25519"), folder / "custodian")
    return folder


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, keys: Path) -> None:
    """Keys of alice, no other settings, and a folder without anything that the SDK would pick up."""
    for name in (*VARIABLES, "HOLOSCAN_INPUT_PATH", "HOLOSCAN_OUTPUT_PATH", "HOLOSCAN_MODEL_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(IDENTITY_ENV, str(keys / "alice.key"))
    monkeypatch.setenv(RECIPIENTS_ENV, str(keys / "alice.pub"))
    monkeypatch.setenv("MIADMARK_PRESET", "standard")
    monkeypatch.setitem(PRESETS, "standard", BLUNT)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A series of five slices in two folders."""
    folder = tmp_path_factory.mktemp("source")
    series = generate_uid()
    for index in range(SLICES):
        data_set = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
        data_set.PixelData = np.roll(data_set.pixel_array, 9 * index, axis=1).astype("<i2").tobytes()
        data_set.InstanceNumber = index + 1
        del data_set.PatientSex  # should be there, at least empty; of real files many lack it
        x, y, z = data_set.ImagePositionPatient
        data_set.ImagePositionPatient = [x, y, z + 5 * index]
        data_set.SeriesInstanceUID = series
        data_set.SOPInstanceUID = data_set.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        path = folder / ("first" if index < 2 else "second") / f"slice{index}.dcm"
        path.parent.mkdir(exist_ok=True)
        data_set.save_as(path)
    return folder


@pytest.fixture(scope="session")
def protected(source: Path, keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The series as the app protects it, signed."""
    from monai_miadmark.apps.deploy.app import main

    folder = tmp_path_factory.mktemp("protected")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "standard", BLUNT)
        patch.setenv(RECIPIENTS_ENV, str(keys / "alice.pub"))
        patch.setenv(SIGNER_ENV, str(keys / "custodian.key"))
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        assert main(["protect", "-i", str(source), "-o", str(folder)], load_marker) == 0
    return folder

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The app on a folder of CT slices, with the SDK's own loader, selector, inference and writer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
import torch
from doubles import BLUNT, load_marker
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

from monai_miadmark.apps.deploy.app import main
from monai_miadmark.apps.deploy.settings import IDENTITY_ENV, RECIPIENTS_ENV, RULES_ENV, SIGNER_ENV, VERB_ENV
from monai_miadmark.keys import generate_identity, generate_signer, save_key_pair
from monai_miadmark.options import PRESETS

SLICES = 5
THRESHOLD = 40
VARIABLES = (IDENTITY_ENV, RECIPIENTS_ENV, RULES_ENV, SIGNER_ENV, VERB_ENV, "MIADMARK_REQUIRE_SIGNER")


def told(capture: pytest.CaptureFixture[str]) -> str:
    """What the app itself said last, among the lines of the scheduler."""
    return [line for line in capture.readouterr().err.splitlines() if line.startswith("miadmark deploy: ")][-1]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A series of five slices in two folders."""
    folder = tmp_path_factory.mktemp("source")
    series = generate_uid()
    for index in range(SLICES):
        data_set = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
        data_set.PixelData = np.roll(data_set.pixel_array, 9 * index, axis=1).astype("<i2").tobytes()
        data_set.InstanceNumber = index + 1
        x, y, z = data_set.ImagePositionPatient
        data_set.ImagePositionPatient = [x, y, z + 5 * index]
        data_set.SeriesInstanceUID = series
        data_set.SOPInstanceUID = data_set.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        path = folder / ("first" if index < 2 else "second") / f"slice{index}.dcm"
        path.parent.mkdir(exist_ok=True)
        data_set.save_as(path)
    return folder


@pytest.fixture(scope="module")
def protected(source: Path, keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The series as the app protects it, signed."""
    folder = tmp_path_factory.mktemp("protected")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "standard", BLUNT)
        patch.setenv(RECIPIENTS_ENV, str(keys / "alice.pub"))
        patch.setenv(SIGNER_ENV, str(keys / "custodian.key"))
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        assert main(["protect", "-i", str(source), "-o", str(folder)], load_marker) == 0
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that segments what is brighter than :data:`THRESHOLD` HU, as ``ckpt_export`` writes one."""

    class Threshold(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x > 40.0).to(torch.float32)

    tensor = {"num_channels": 1, "spatial_shape": ["*", "*", "*"], "dtype": "float32", "value_range": []}
    pred = {**tensor, "type": "image", "format": "segmentation", "channel_def": {"0": "background", "1": "bright"}}
    metadata = {
        "version": "0.1.0",
        "network_data_format": {
            "inputs": {"image": {**tensor, "type": "image", "format": "hounsfield"}},
            "outputs": {"pred": pred},
        },
    }
    steps = [
        {"_target_": "EnsureChannelFirstd", "keys": "image"},
        {"_target_": "EnsureTyped", "keys": "image", "dtype": "$torch.float32"},
    ]
    inference = {
        "imports": ["$import torch"],
        "device": "$torch.device('cpu')",
        "preprocessing": {"_target_": "Compose", "transforms": steps},
    }
    path = tmp_path_factory.mktemp("model") / "model.ts"
    extra = {"metadata.json": json.dumps(metadata), "inference.json": json.dumps(inference)}
    torch.jit.save(torch.jit.script(Threshold()), path, _extra_files=extra)
    return path


def test_a_series_comes_back_byte_for_byte(source: Path, protected: Path, tmp_path: Path) -> None:
    before, between = contents(source), contents(protected)
    assert between.keys() == before.keys() and len(before) == SLICES
    for name in before:
        old, new = (pydicom.dcmread(folder / name) for folder in (source, protected))
        assert not np.array_equal(old.pixel_array, new.pixel_array)
        assert new.SOPInstanceUID != old.SOPInstanceUID and new.ImageType[0] == "DERIVED"
    assert main(["remove", "-i", str(protected), "-o", str(tmp_path / "out")]) == 0
    assert contents(tmp_path / "out") == before


def test_settings_may_all_come_from_the_environment(
    source: Path, protected: Path, tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container; and the signer that is demanded is the one who signed."""
    (tmp_path / "models").mkdir()
    for name, value in (
        (VERB_ENV, "remove"),
        ("MIADMARK_REQUIRE_SIGNER", str(keys / "custodian.pub")),
        ("HOLOSCAN_INPUT_PATH", str(protected)),
        ("HOLOSCAN_OUTPUT_PATH", str(tmp_path / "out")),
        ("HOLOSCAN_MODEL_PATH", str(tmp_path / "models")),
    ):
        monkeypatch.setenv(name, value)
    assert main([]) == 0
    assert contents(tmp_path / "out") == contents(source)


def test_a_bundle_sees_the_originals(source: Path, protected: Path, model: Path, tmp_path: Path) -> None:
    """The segmentation is that of the originals, refers to them, and is all that is written."""
    out = tmp_path / "out"
    assert main(["remove", "-i", str(protected), "-o", str(out), "-m", str(model)]) == 0
    (path,) = out.iterdir()
    segmentation = highdicom.seg.segread(path)
    assert segmentation.get_segment_description(1).SegmentLabel == "bright"
    differ = 0
    for name in contents(source):
        old, new = (pydicom.dcmread(folder / name) for folder in (source, protected))
        wanted, marked = (d.pixel_array * d.RescaleSlope + d.RescaleIntercept > THRESHOLD for d in (old, new))
        found = segmentation.get_pixels_by_source_instance([old.SOPInstanceUID], assert_missing_frames_are_empty=True)
        assert np.array_equal(found[0, :, :, 0], wanted)
        differ += not np.array_equal(marked, wanted)
    assert differ == SLICES  # else this would not tell which of the two the network was given


def test_what_is_no_segmentation_bundle_is_refused(
    protected: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "models" / "model.ts"
    path.parent.mkdir()
    torch.jit.save(torch.jit.script(torch.nn.Identity()), path)
    out = tmp_path / "out"
    assert main(["remove", "-i", str(protected), "-o", str(out), "-m", str(path)]) == 1
    assert "metadata" in told(capfd) and contents(out) == {}


def test_a_wrong_key_stops_it(
    protected: Path, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(IDENTITY_ENV, str(keys / "eve.key"))
    assert main(["remove", "-i", str(protected), "-o", str(tmp_path / "out")]) == 1
    assert "WrongKeyError" in told(capfd) and contents(tmp_path / "out") == {}


def test_one_damaged_file_stops_all(protected: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Four of five would restore: none is written."""
    copy = tmp_path / "in"
    for name, data in contents(protected).items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(data)
    last = copy / sorted(contents(protected))[-1]
    data_set = pydicom.dcmread(last)
    data_set.PixelData = bytes([data_set.PixelData[0] ^ 1]) + data_set.PixelData[1:]
    data_set.save_as(last)
    assert main(["remove", "-i", str(copy), "-o", str(tmp_path / "out")]) == 1
    reason = told(capfd)
    assert "TamperedError" in reason and last.name in reason and contents(tmp_path / "out") == {}


def test_what_the_loader_drops_is_refused(source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Two objects at the same place: the SDK's loader keeps one, and says so to nobody."""
    copy = tmp_path / "in"
    copy.mkdir()
    for index in range(2):
        data_set = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
        data_set.SOPInstanceUID = data_set.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        data_set.save_as(copy / f"{index}.dcm")
    assert main(["protect", "-i", str(copy), "-o", str(tmp_path / "out")], load_marker) == 1
    assert "left out" in told(capfd) and contents(tmp_path / "out") == {}


def test_outputs_are_not_replaced(protected: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "first").mkdir(parents=True)
    (out / "first" / "slice1.dcm").write_bytes(b"mine")
    assert main(["remove", "-i", str(protected), "-o", str(out)]) == 1
    assert contents(out) == {"first/slice1.dcm": b"mine"}


@pytest.mark.parametrize("content", [None, b"no key"])
def test_without_a_usable_identity_nothing_starts(
    content: bytes | None,
    protected: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "identity"
    if content is None:
        monkeypatch.delenv(IDENTITY_ENV)
    else:
        path.write_bytes(content)
        monkeypatch.setenv(IDENTITY_ENV, str(path))
    assert main(["remove", "-i", str(protected), "-o", str(tmp_path / "out")]) == 2
    assert (IDENTITY_ENV if content is None else str(path)) in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_key_inside_the_package_is_refused(
    protected: Path, tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOLOSCAN_APPLICATION", str(keys))
    assert main(["remove", "-i", str(protected), "-o", str(tmp_path / "out")]) == 2
    assert "inside the app's package" in capfd.readouterr().err and not (tmp_path / "out").exists()


def test_the_exit_status_is_that_of_the_process(protected: Path, tmp_path: Path, keys: Path) -> None:
    command = [sys.executable, "-m", "monai_miadmark.apps.deploy", "remove", "-i", str(protected), "-o", "out"]
    variables = {**os.environ, IDENTITY_ENV: str(keys / "eve.key")}
    done = subprocess.run(command, env=variables, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "miadmark deploy: WrongKeyError" in done.stderr
    assert contents(tmp_path) == {}

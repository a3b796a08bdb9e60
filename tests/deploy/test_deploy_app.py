# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The app on a folder of CT slices, with the SDK's own loader, selector, inference and writer."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
import torch
from deploy_series import SLICES, contents
from doubles import load_marker
from monai.bundle import ckpt_export
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

from monai_miadmark.apps.deploy.app import main
from monai_miadmark.apps.deploy.settings import IDENTITY_ENV, RULES_ENV, VERB_ENV

THRESHOLD = 40
README = Path(__file__).parents[2] / "docs" / "monai-deploy.md"


def told(capture: pytest.CaptureFixture[str]) -> str:
    """What the app itself said last, among the lines of the scheduler."""
    return [line for line in capture.readouterr().err.splitlines() if line.startswith("miadmark deploy: ")][-1]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that segments what is brighter than :data:`THRESHOLD` HU, as MONAI exports it."""
    tensor = {"num_channels": 1, "spatial_shape": ["*", "*", "*"], "dtype": "float32", "value_range": []}
    pred = {**tensor, "type": "image", "format": "segmentation", "channel_def": {"0": "background", "1": "bright"}}
    metadata = {
        "version": "0.1.0",
        "network_data_format": {
            "inputs": {"image": {**tensor, "type": "image", "format": "hounsfield"}},
            "outputs": {"pred": pred},
        },
    }
    before = [
        {"_target_": "EnsureChannelFirstd", "keys": "image"},
        {"_target_": "EnsureTyped", "keys": "image", "dtype": "$torch.float32"},
    ]
    after = [{"_target_": "AsDiscreted", "keys": "pred", "threshold": THRESHOLD}]
    inference = {
        "imports": ["$import torch"],
        "device": "$torch.device('cpu')",
        "network_def": {"_target_": "torch.nn.Threshold", "threshold": float(THRESHOLD), "value": 0.0},
        "preprocessing": {"_target_": "Compose", "transforms": before},
        "postprocessing": {"_target_": "Compose", "transforms": after},
    }
    folder = tmp_path_factory.mktemp("bundle")
    (folder / "metadata.json").write_text(json.dumps(metadata))
    (folder / "inference.json").write_text(json.dumps(inference))
    torch.save({}, folder / "model.pt")
    ckpt_export(
        net_id="network_def",
        filepath=str(folder / "model.ts"),
        ckpt_file=str(folder / "model.pt"),
        meta_file=str(folder / "metadata.json"),
        config_file=str(folder / "inference.json"),
    )
    return folder / "model.ts"


def test_a_series_comes_back_byte_for_byte(source: Path, protected: Path, tmp_path: Path) -> None:
    before, between = contents(source), contents(protected)
    assert between.keys() == before.keys() and len(before) == SLICES
    for name in before:
        old, new = (pydicom.dcmread(folder / name) for folder in (source, protected))
        assert not np.array_equal(old.pixel_array, new.pixel_array)
        assert new.SOPInstanceUID != old.SOPInstanceUID and new.ImageType[0] == "DERIVED"
    assert main(["remove", "-i", str(protected), "-o", str(tmp_path / "out")]) == 0
    assert contents(tmp_path / "out") == before


def test_the_shipped_marker_protects_here_too(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This environment has all that its networks need."""
    monkeypatch.setenv("MIADMARK_PRESET", "fast")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "slice.dcm").write_bytes((source / "first" / "slice0.dcm").read_bytes())
    assert main(["protect", "-i", "in", "-o", "shared"]) == 0
    assert contents(tmp_path / "shared").keys() == contents(tmp_path / "in").keys()
    assert contents(tmp_path / "shared") != contents(tmp_path / "in")
    assert main(["remove", "-i", "shared", "-o", "restored"]) == 0
    assert contents(tmp_path / "restored") == contents(tmp_path / "in")


def test_rules_choose_series(
    source: Path, protected: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What rules leave out is left out, which without rules would be an error."""
    copy = tmp_path / "in"
    copy.mkdir()
    for name, data in contents(protected).items():
        (copy / Path(name).name).write_bytes(data)
    (copy / "mr.dcm").write_bytes(Path(get_testdata_file("MR_small.dcm")).read_bytes())
    assert main(["remove", "-i", str(copy), "-o", str(tmp_path / "none")]) == 1
    assert "NotProtectedError" in told(capfd) and contents(tmp_path / "none") == {}
    rules = tmp_path / "rules.json"
    rules.write_text(json.dumps({"selections": [{"name": "CT", "conditions": {"Modality": "(?i)CT"}}]}))
    monkeypatch.setenv(RULES_ENV, str(rules))
    assert main(["remove", "-i", str(copy), "-o", str(tmp_path / "out")]) == 0
    assert contents(tmp_path / "out") == {Path(name).name: data for name, data in contents(source).items()}


@pytest.mark.parametrize("content", ["{", "[]", '{"selections": []}'])
def test_rules_that_are_none_are_refused(
    content: str, protected: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    rules = tmp_path / "rules.json"
    rules.write_text(content)
    monkeypatch.setenv(RULES_ENV, str(rules))
    assert main(["remove", "-i", str(protected), "-o", str(tmp_path / "out")]) == 2
    assert RULES_ENV in told(capfd) and not (tmp_path / "out").exists()


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


def test_the_page_example_of_an_own_app_runs(
    source: Path, protected: Path, tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.setattr(sys, "argv", ["own.py", "-i", str(protected), "-o", str(tmp_path / "out")])
    (tmp_path / "clinic.key").write_bytes((keys / "alice.key").read_bytes())
    exec(compile(code, str(README), "exec"), {"__name__": "__main__"})
    assert contents(tmp_path / "out") == contents(source)

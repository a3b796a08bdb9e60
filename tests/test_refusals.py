# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""What is refused costs no load of networks: every check that needs none comes first."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import samples
from doubles import BLUNT, NoiseMarker
from numpy.typing import NDArray

from monai_miadmark.errors import UnsupportedImageError
from monai_miadmark.files import protect_file
from monai_miadmark.keys import HpkeIdentity, generate_identity, save_key_pair
from monai_miadmark.options import ProtectOptions
from monai_miadmark.pipeline import protect_bytes

RUN = """
import json, sys
from pathlib import Path
from monai_miadmark import cli
command = ["-o", "out", "-r", "a.pub"]
status = {name: cli.main(["protect", name, *command, *more]) for name, more in json.loads(sys.argv[1])}
heavy = [name for name in ("torch", "monai", "monai_miadmark.marker") if name in sys.modules]
print("RESULT", json.dumps([status, heavy]))
"""


class Unused(NoiseMarker):
    """Networks that must not be asked."""

    def specialist(self, modality: str, images: NDArray[np.float32]) -> NoiseMarker:
        raise AssertionError("networks were asked")


@pytest.fixture(scope="module")
def alice() -> HpkeIdentity:
    return generate_identity("x25519")


def too_deep() -> bytes:
    """A DICOM file with more sequences in sequences than are written again."""
    level = struct.pack("<HH2sHIHHI", 8, 0x1140, b"SQ", 0, 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF)
    ends = struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    data = samples.ct()
    at = data.index(b"\x10\0\x10\0PN")  # the first element of group 0010
    return data[:at] + level * 12 + ends * 12 + data[at:]


def test_no_refusal_of_the_command_loads_torch(tmp_path: Path, alice: HpkeIdentity) -> None:
    save_key_pair(alice, tmp_path / "a")
    source = _written(tmp_path / "in" / "protected.png", samples.png())
    protect_file(source, tmp_path, [alice.recipient], NoiseMarker(), _OPTIONS)
    made = {
        "protected.png": (tmp_path / "protected.png").read_bytes(),
        "there.png": samples.png(),
        "unknown.bin": b"no image",
        "cut.png": samples.png()[:-20],
        "cut.dcm": samples.ct()[:-2000],
        "deep.dcm": too_deep(),
        "photo.jpg": b"\xff\xd8\xff" + bytes(50),
        "large.png": samples.png(),
    }
    for name, data in made.items():
        _written(tmp_path / name, data)
    _written(tmp_path / "out" / "there.png", b"")
    np.save(tmp_path / "mask.npy", np.ones((3, 3), bool))
    asked = [(name, []) for name in made if name != "large.png"]
    asked += [("large.png", ["--region", "mask.npy"])]
    command = [sys.executable, "-c", RUN, json.dumps(asked)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert "RESULT" in done.stdout, done.stderr
    status, heavy = json.loads(done.stdout.split("RESULT")[1])
    assert heavy == [] and set(status.values()) <= {1, 2} and len(status) == 8, done.stderr
    assert set(path.name for path in (tmp_path / "out").iterdir()) <= {"there.png", "miadmark-manifest.jsonl"}


def _written(path: Path, data: bytes) -> Path:
    """A file."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return path


_OPTIONS = ProtectOptions(preset=BLUNT, region="none")


def test_what_cannot_be_written_again_is_refused_before_networks_are_asked(alice: HpkeIdentity) -> None:
    with pytest.raises(UnsupportedImageError, match="nested deeper"):
        protect_bytes(too_deep(), "a.dcm", [alice.recipient], Unused(), _OPTIONS)


def test_what_does_not_fit_is_refused_before_networks_are_asked(alice: HpkeIdentity) -> None:
    mask = ProtectOptions(preset=BLUNT, region=np.ones((3, 3), bool))
    with pytest.raises(ValueError, match="region mask has shape"):
        protect_bytes(samples.png(), "a.png", [alice.recipient], Unused(), mask)
    with pytest.raises(ValueError, match="at least one recipient"):
        protect_bytes(samples.png(), "a.png", [], Unused(), _OPTIONS)
    with pytest.raises(UnsupportedImageError, match="protected already"):
        made = protect_bytes(samples.png(), "a.png", [alice.recipient], NoiseMarker(), _OPTIONS)
        protect_bytes(made.data, "a.png", [alice.recipient], Unused(), _OPTIONS)

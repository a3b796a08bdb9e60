# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The MONAI example in README.md runs as it stands there, on other paths."""

from __future__ import annotations

import re
from pathlib import Path

import pydicom.data
import pytest
from doubles import NoiseMarker
from monai.transforms import LoadImage

from monai_miadmark import marker
from monai_miadmark.keys import generate_identity, save_key_pair
from monai_miadmark.transforms import marks

README = Path(__file__).resolve().parent.parent / "README.md"
NEEDLE = "ProtectWithMIADMarkd"


def example() -> str:
    """The fenced Python block of README.md that shows the transforms."""
    blocks = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    found = [block for block in blocks if NEEDLE in block]
    assert len(found) == 1, f"README.md must have exactly one python block with {NEEDLE}, found {len(found)}"
    return str(found[0])


def test_readme_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = example()
    assert len(code.strip().splitlines()) <= 14, "the README shows a short example"
    save_key_pair(generate_identity(), tmp_path / "clinic")
    scan = pydicom.data.get_testdata_file("MR_small.dcm", download=False)
    (tmp_path / "scan.dcm").write_bytes(Path(str(scan)).read_bytes())
    for name in ("clinic.pub", "clinic.key", "scan.dcm"):
        assert f'"{name}"' in code, f"the README example is expected to use {name!r}"
        code = code.replace(f'"{name}"', repr(str(tmp_path / name)))
    if not (marker.bundle_root() / "models" / marker.HASHES).is_file():
        monkeypatch.setattr(marks, "default_marker", lambda device: NoiseMarker())
    names: dict[str, object] = {}
    exec(compile(code, str(README), "exec"), names)
    assert "sample" in names and "original" in names, "the README example is expected to make `sample` and `original`"
    sample, original = names["sample"], names["original"]
    assert isinstance(sample, dict)
    expected = LoadImage(ensure_channel_first=True)(tmp_path / "scan.dcm")
    assert (original == expected).all() and not (sample["image"] == expected).all()

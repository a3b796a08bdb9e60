# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""What a wheel holds: code, types, the command, and the bundle without which the default marker would not work."""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path

import pytest

import monai_miadmark

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """A wheel built from this checkout, without network."""
    build = pytest.importorskip("hatchling.build")
    folder = tmp_path_factory.mktemp("wheel")
    before = Path.cwd()
    os.chdir(ROOT)  # build backends work in the current folder
    try:
        return zipfile.ZipFile(folder / build.build_wheel(str(folder)))
    finally:
        os.chdir(before)


def test_the_wheel_is_complete(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    assert {"monai_miadmark/cli.py", "monai_miadmark/py.typed", "monai_miadmark/formats/dicom.py"} <= names
    bundle = ROOT / "bundles" / "miadmark"
    for path in bundle.rglob("*"):
        if path.is_file() and not {"__pycache__", "eval"} & set(path.parts) and ".pyc" not in path.name:
            assert f"monai_miadmark/bundle/{path.relative_to(bundle).as_posix()}" in names
    assert not [name for name in names if name.startswith(("tests", "bundles", "docs")) or name.endswith(".pyc")]


def test_the_wheel_declares_itself(wheel: zipfile.ZipFile) -> None:
    info = f"monai_miadmark-{monai_miadmark.__version__}.dist-info"
    assert "miadmark = monai_miadmark.cli:main" in wheel.read(f"{info}/entry_points.txt").decode()
    metadata = wheel.read(f"{info}/METADATA").decode()
    assert "License-Expression: Apache-2.0" in metadata and "torchvision" not in metadata
    assert f"{info}/licenses/LICENSE" in wheel.namelist()


def test_no_file_of_the_bundle_is_too_large() -> None:
    for path in (ROOT / "bundles").rglob("*"):
        assert not path.is_file() or path.stat().st_size <= 25_000_000, f"{path.name} is above 25 MB"


def test_constraints_pin_all_that_is_declared() -> None:
    pins = dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M))
    declared = re.findall(r'^\s*"([A-Za-z0-9_-]+)>=', (ROOT / "pyproject.toml").read_text(), re.M)
    declared += re.findall(r'^(?:demo|requires) = \["([A-Za-z0-9_-]+)>=', (ROOT / "pyproject.toml").read_text(), re.M)
    assert len(declared) > 15
    normal = {re.sub(r"[-_.]+", "-", name).lower() for name in pins}
    assert [name for name in declared if re.sub(r"[-_.]+", "-", name).lower() not in normal] == []
    assert not [version for version in pins.values() if "+" in version]

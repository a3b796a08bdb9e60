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
    assert "miadmark = monai_miadmark.entry:main" in wheel.read(f"{info}/entry_points.txt").decode()
    metadata = wheel.read(f"{info}/METADATA").decode()
    assert "License-Expression: Apache-2.0" in metadata and "torchvision" not in metadata
    assert f"{info}/licenses/LICENSE" in wheel.namelist()


def test_no_file_of_the_bundle_is_too_large() -> None:
    for path in (ROOT / "bundles").rglob("*"):
        assert not path.is_file() or path.stat().st_size <= 25_000_000, f"{path.name} is above 25 MB"


def test_the_wheel_can_be_uploaded(wheel: zipfile.ZipFile) -> None:
    """Package indexes take files of at most 100 MB."""
    assert wheel.filename and Path(wheel.filename).stat().st_size < 100_000_000


def test_the_wheel_names_what_it_needs(wheel: zipfile.ZipFile) -> None:
    lines = wheel.read(f"monai_miadmark-{monai_miadmark.__version__}.dist-info/METADATA").decode().splitlines()
    extras = {line.removeprefix("Provides-Extra: ") for line in lines if line.startswith("Provides-Extra")}
    assert extras == {
        "cjk",
        "completion",
        "demo",
        "dev",
        "dicom",
        "docs",
        "evaluation",
        "gateway",
        "interop",
        "onnx",
        "pretrained",
        "ray",
        "remote",
        "report",
        "store",
        "tiff",
    }
    needed = [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist")]
    # The default marker's ensemble has a network of this package; without it nothing can be protected.
    assert [line for line in needed if line.startswith("efficientnet-lite-pytorch>") and "extra" not in line]
    extras = (
        "dev,demo,pretrained,evaluation,dicom,gateway,tiff,interop,onnx,report,completion,docs,ray,remote,store,cjk"
    )
    wanted = f"-e '.[{extras}]'"
    assert wanted in (ROOT / "Makefile").read_text()


def test_constraints_pin_all_that_is_declared() -> None:
    tomllib = pytest.importorskip("tomllib")
    pins = dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    declared = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    declared += [line for lines in project["project"]["optional-dependencies"].values() for line in lines]
    assert len(declared) > 20
    normal = {_normal(name) for name in pins}
    assert [line for line in declared if _normal(re.split("[<>=~! ]", line)[0]) not in normal] == []
    assert not [version for version in pins.values() if "+" in version]


def _normal(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()

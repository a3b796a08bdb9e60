# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The owner's secret: made once, kept for its owner only, refused where it cannot be trusted."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from power import Disk, Fault

from monai_miadmark.owner import OwnerKeyError, owner_key, owner_key_path


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the secret will be; it is not there yet."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    found = owner_key_path()
    assert found == tmp_path / "state" / "miadmark" / "owner.key"
    return found


def test_it_is_made_once_and_kept(path: Path) -> None:
    first = owner_key("manifest")
    assert owner_key("manifest") == first != owner_key("series") and len(first) == 32
    assert first.hex() not in path.read_text()
    script = "from monai_miadmark.owner import owner_key; print(owner_key('manifest').hex())"
    other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == first.hex()
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.skipif(os.name != "posix", reason="modes and links are those of POSIX")
def test_what_cannot_be_trusted_is_refused_by_name(path: Path, tmp_path: Path) -> None:
    before = owner_key("manifest")
    for mode in (0o640, 0o604, 0o620):
        path.chmod(mode)
        with pytest.raises(OwnerKeyError, match="chmod 600"):
            owner_key("manifest")
    path.chmod(0o600)
    assert owner_key("manifest") == before
    good = path.read_text()
    for content in ("", good[:-5], good.replace("miadmark", "other"), good + "ab"):
        path.write_text(content)
        with pytest.raises(OwnerKeyError, match="damaged"):
            owner_key("manifest")


def test_without_a_place_it_lives_as_long_as_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    first = owner_key("manifest")
    assert owner_key("manifest") == first
    monkeypatch.setenv("XDG_STATE_HOME", "relative")  # to be ignored, as the specification has it
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError))
    assert owner_key("manifest") == first


def test_the_disk_fails_while_it_is_made(path: Path, tmp_path: Path) -> None:
    """That is told, and not taken for a system without a place: jobs could not be resumed with a passing secret."""
    number = 0
    while True:
        shutil.rmtree(path.parent.parent, ignore_errors=True)
        fault = Fault(number, OSError(errno.EIO, "Input/output error"))
        with fault.injected():
            try:
                found = owner_key("manifest")
            except OSError:
                found = None
        if not fault.struck:
            break
        assert found in (None, owner_key("manifest"))
        assert [entry.name for entry in path.parent.iterdir()] == ["owner.key"]
        number += 1
    assert number > 6


def test_power_is_lost_while_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "disk"
    root.mkdir()
    monkeypatch.setenv("XDG_STATE_HOME", str(root / "state"))
    disk = Disk(root)
    with disk.watched():
        made = owner_key("manifest")
    for said, found in disk.losses(tmp_path / "found"):
        monkeypatch.setenv("XDG_STATE_HOME", str(found / "state"))
        for entry in found.rglob("owner.key"):
            entry.chmod(0o600)
            assert owner_key("manifest") == made, said
    disk.after_power_loss(len(disk.calls) - 1, tmp_path / "found", None)
    assert len(list((tmp_path / "found").rglob("owner.key"))) == 1

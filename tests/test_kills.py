# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Kills at any moment, a crash before every single step on disk, and disks that are really full."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kills
import pytest
import samples
from doubles import load_marker

from monai_miadmark import files
from monai_miadmark.batch import Report, plan, run_jobs
from monai_miadmark.engines import SerialEngine
from monai_miadmark.files import Where
from monai_miadmark.keys import generate_identity, save_key_pair
from monai_miadmark.locking import LOCK_NAME
from monai_miadmark.manifest import MANIFEST_NAME
from monai_miadmark.options import ProtectOptions
from monai_miadmark.tasks import KeyFile, ProtectTask, RemoveTask


@pytest.mark.slow
def test_kills_at_random_moments(tmp_path: Path) -> None:
    """A short form of ``make kill``."""
    tally = kills.torment(tmp_path, kills=10, images=12, seed=1)
    assert tally.wrong == [] and tally.kills == 10


STEPS = ("fsync", "link", "open", "replace", "unlink", "write")
"""Functions of ``os`` that change what is on disk; each file and each line of the manifest takes several of them."""

_CRASHED = 9


def crash_at(step: int) -> None:
    """Let this process end, as by ``kill -9``, just before its ``step``-th change on disk; writes are half done."""
    count = 0

    def watched(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*arguments: Any, **more: Any) -> Any:
            nonlocal count
            count += 1
            if count == step:
                if name == "write":
                    real(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
                os._exit(_CRASHED)
            return real(*arguments, **more)

        return call

    for name in STEPS:
        setattr(os, name, watched(name))


def job(root: Path, record: Where, overwrite: bool = False) -> Report:
    """Protect what is in ``root/in``."""
    options = ProtectOptions(preset="fast", style="invisible", region="none")
    task = ProtectTask((root / "k.pub",), options, record=record, overwrite=overwrite, load=load_marker)
    return run_jobs(plan([root / "in"], root / "p", files.protected_name), task, SerialEngine(), resume=True)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(("record", "links"), [("inside", True), ("sidecar", True), ("both", False)])
def test_a_crash_before_every_step(tmp_path: Path, record: Where, links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the step, going on gives the same as no crash at all; also on file systems without hard links."""

    def refuse(*arguments: Any, **more: Any) -> None:
        raise OSError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    save_key_pair(generate_identity("x25519"), tmp_path / "k")
    (tmp_path / "in").mkdir()
    made = {f"{n}.png": samples.png(seed=n) for n in range(2)}
    for name, data in made.items():
        (tmp_path / "in" / name).write_bytes(data)
    expected = {MANIFEST_NAME, *made, *(f"{name}.miadmark" for name in made if record != "inside")}
    out, step = tmp_path / "p", 0
    while True:
        step += 1
        shutil.rmtree(out, ignore_errors=True)
        child = os.fork()
        if child == 0:
            try:
                crash_at(step)
                job(tmp_path, record)
                os._exit(0)
            finally:
                os._exit(1)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status == 0:
            break
        assert status == _CRASHED
        report = job(tmp_path, record)
        assert report.failures == [] and len(report.done) + len(report.kept) == 2, f"step {step}"
        assert set(samples.contents(out)) == expected, f"step {step}"
        assert kills.noted(kills.lines(out)) == kills.digests(out), f"step {step}"
    assert step > 20
    alice = RemoveTask(identities=(KeyFile(tmp_path / "k.key"),))
    run_jobs(plan([out], tmp_path / "r", lambda path: None), alice, SerialEngine())
    assert {n: d for n, d in samples.contents(tmp_path / "r").items() if n != MANIFEST_NAME} == made


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here (needs root)")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_full(tmp_path: Path, small_disk: Path) -> None:
    """What fits is there, what does not is named; when there is room again, the rest is done."""
    save_key_pair(generate_identity("x25519"), tmp_path / "k")
    (tmp_path / "in").mkdir()
    made = {f"{n}.nii": samples.nifti(slices=12 + n) for n in range(8)}  # 46 KiB and more each
    for name, data in made.items():
        (tmp_path / "in" / name).write_bytes(data)
    (tmp_path / "p").symlink_to(small_disk)
    report = job(tmp_path, "inside")
    assert 0 < len(report.done) < 8 and len(report.done) + len(report.failures) == 8
    assert {failure.reason for failure in report.failures} == {"No space left on device"}
    written = samples.contents(small_disk)
    assert set(written) == {MANIFEST_NAME, *(path.name for _, path in report.done)}
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    again = job(tmp_path, "inside")
    assert not again.failures and len(again.kept) == len(report.done) and len(again.done) == len(report.failures)
    alice = RemoveTask(identities=(KeyFile(tmp_path / "k.key"),))
    assert not run_jobs(plan([small_disk], tmp_path / "r", lambda path: None), alice, SerialEngine()).failures
    assert {n: d for n, d in samples.contents(tmp_path / "r").items() if n != MANIFEST_NAME} == made


def test_files_that_may_not_grow(tmp_path: Path) -> None:
    """``RLIMIT_FSIZE``: the same without a file system of one's own."""
    save_key_pair(generate_identity("x25519"), tmp_path / "k")
    (tmp_path / "in").mkdir()
    for name, data in (("large.nii", samples.nifti(slices=20)), ("small.png", samples.png())):
        (tmp_path / "in" / name).write_bytes(data)
    code = f"""
import resource, sys
sys.path[:0] = {[str(Path(__file__).parent)]!r}
from pathlib import Path
from test_kills import job
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
report = job(Path({str(tmp_path)!r}), "inside")
print([f.path.name + ": " + f.reason for f in report.failures], len(report.done))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout == "['large.nii: File too large'] 1\n", result.stderr
    assert set(samples.contents(tmp_path / "p")) == {MANIFEST_NAME, "small.png"}
    assert not (tmp_path / "p" / LOCK_NAME).exists()


def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    save_key_pair(generate_identity("x25519"), tmp_path / "k")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(samples.png())
    (tmp_path / "p").mkdir(mode=0o555)
    with pytest.raises(PermissionError):
        job(tmp_path, "inside")

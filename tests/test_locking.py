# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""One job at a time in a folder: who holds it is named, and who was killed holds nothing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from monai_miadmark import locking
from monai_miadmark.locking import LOCK_NAME, FolderLock, LockedError

HOLD = """
import sys, time
from pathlib import Path
from monai_miadmark.locking import FolderLock
with FolderLock(Path(sys.argv[1]), "protect"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_taken_given_back_and_taken_again(tmp_path: Path) -> None:
    for _ in range(2):
        with FolderLock(tmp_path / "new" / "out", "protect"):
            assert (tmp_path / "new" / "out" / LOCK_NAME).exists()
        assert list(tmp_path.iterdir()) == []  # nothing was put into it
    with FolderLock(tmp_path, "protect"):
        (tmp_path / "result").touch()
    assert os.listdir(tmp_path) == ["result"]


def test_the_second_is_told_who_holds_it(tmp_path: Path) -> None:
    with FolderLock(tmp_path, "protect"):
        start = time.monotonic()
        with pytest.raises(LockedError) as told, FolderLock(tmp_path, "remove"):
            pass
        assert time.monotonic() - start < 2
    for word in ("miadmark protect", f"process {os.getpid()}", f"on {socket.gethostname()}", "since 20"):
        assert word in str(told.value)


@pytest.mark.parametrize("end", [signal.SIGKILL, None])
def test_another_process(tmp_path: Path, end: signal.Signals | None) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        try:
            if end is None:
                with pytest.raises(LockedError, match=f"process {process.pid} on"), FolderLock(tmp_path, "remove"):
                    pass
        finally:
            process.kill()
        process.wait()
    assert (tmp_path / LOCK_NAME).exists()
    with FolderLock(tmp_path, "remove"):
        pass
    assert os.listdir(tmp_path) == []


def test_copies_in_other_processes_hold_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that outlive the one that was killed may still write: nobody else begins before they are gone."""
    monkeypatch.setattr(locking, "_PATIENCE_SECONDS", 0.3)
    code = """
import subprocess, sys, os
from pathlib import Path
from monai_miadmark.locking import FolderLock
with FolderLock(Path(sys.argv[1]), "protect") as lock:
    child = subprocess.Popen(["sleep", "30"], pass_fds=[lock.descriptor], stdout=subprocess.DEVNULL)
    print(child.pid, flush=True)
    os.kill(os.getpid(), 9)
"""
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, check=False)
    child = int(run.stdout)
    try:
        with pytest.raises(LockedError), FolderLock(tmp_path, "remove"):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
    monkeypatch.setattr(locking, "_PATIENCE_SECONDS", 10)
    with FolderLock(tmp_path, "remove"):
        pass


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 20, b"{" * 5000, b"[1]", b'{"pid": 1e999}', b'{"pid": -1, "host": 1}']
)
def test_what_the_file_says_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(locking, "_PATIENCE_SECONDS", 0.1)
    with FolderLock(tmp_path, "protect"):
        (tmp_path / LOCK_NAME).write_bytes(content)
        with pytest.raises(LockedError, match="did not say"), FolderLock(tmp_path, "remove"):
            pass


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / LOCK_NAME).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError), FolderLock(tmp_path, "protect"):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_a_pipe_in_place_of_the_lock_holds_nobody_up(tmp_path: Path) -> None:
    """Whoever can write the folder puts a pipe there, locks it, and never writes anything."""
    os.mkfifo(tmp_path / LOCK_NAME)
    script = (
        "import fcntl, os, sys, time; d = os.open(sys.argv[1], os.O_RDWR); fcntl.flock(d, fcntl.LOCK_EX); "
        "print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / LOCK_NAME)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(locking, "_PATIENCE_SECONDS", 0.2)
                start = time.monotonic()
                with pytest.raises(LockedError, match="did not say who it is"), FolderLock(tmp_path, "remove"):
                    pass
                assert time.monotonic() - start < 5
        finally:
            process.kill()

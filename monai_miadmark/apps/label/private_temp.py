# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""A folder for temporary files that only this user can read, gone when the process is."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from pathlib import Path

__all__ = ["PrivateTemp"]

_PREFIX = "miadmark-label-"
_LOCK_NAME = ".lock"


class PrivateTemp:
    """Makes a folder of mode 0700 the place of all temporary files of this process and its children.

    Uploads lie there while they are protected, and restored files while they are sent. What a process left that was
    killed goes at the next start: whoever holds the lock of such a folder may empty it.
    """

    def __init__(self) -> None:
        parent = Path(tempfile.gettempdir())
        for folder in parent.glob(f"{_PREFIX}*"):
            _remove_stale(folder)
        made = Path(tempfile.mkdtemp(prefix=f".{_PREFIX}", dir=parent))
        self._lock = os.open(made / _LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        # Only now it gets the name under which others would take it for a stale one.
        self.path = made.with_name(made.name[1:])
        made.rename(self.path)
        tempfile.tempdir = os.environ["TMPDIR"] = str(self.path)

    def remove(self) -> None:
        """Remove the folder with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.close(self._lock)


def _remove_stale(folder: Path) -> None:
    """Remove a folder of ours that no process uses any more."""
    with contextlib.suppress(OSError):
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            return
        lock = os.open(folder / _LOCK_NAME, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises where a server lives
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)

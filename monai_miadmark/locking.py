# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""One folder job at a time in an output folder, however the one before it ended."""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

from monai_miadmark.atomic import make_folders

try:
    import fcntl
except ImportError:  # no POSIX system
    fcntl = None  # type: ignore[assignment]

__all__ = ["LOCK_NAME", "FolderLock", "LockedError"]

LOCK_NAME = ".miadmark.lock"

_MAX_HOLDER_BYTES = 4096
_PATIENCE_SECONDS = 10.0
_PAUSE_SECONDS = 0.05


class LockedError(Exception):
    """Another run works in the folder, or it cannot be locked; the message says who, or why."""


class FolderLock:
    """Exclusive lock on a folder, by ``flock`` on a file in it; the system gives it up when its last holder is gone.

    The file says who holds it (process, host, since when) and is deleted when the lock is given back. After ``kill -9``
    it stays, unlocked, and does no harm.

    Args:
        folder: made if it is missing, with those around it, and taken away again if it is empty at the end.
        what: what the holder does, for whoever finds the folder locked.
    """

    def __init__(self, folder: Path, what: str) -> None:
        self.folder, self.what = folder, what
        self.path = folder / LOCK_NAME
        self._descriptor = -1
        self._made: list[Path] = []

    @property
    def descriptor(self) -> int:
        """Open file that holds the lock; copies of it in other processes hold it too."""
        return self._descriptor

    def __enter__(self) -> FolderLock:
        """Take the lock.

        Raises:
            LockedError: somebody else has it.
            OSError: the folder cannot be made or written to.
        """
        self._made = [folder for folder in (self.folder, *self.folder.parents) if not folder.exists()]
        make_folders(self.folder)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not self._take():
            # A run that was killed may leave processes that need a moment to notice. They hold the lock so long.
            if not self._orphaned() or time.monotonic() > deadline:
                raise LockedError(f"another run works in {self.folder}: {self._holder_shown()}")
            time.sleep(_PAUSE_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the lock back."""
        try:
            with suppress(OSError):
                self.path.unlink()  # while it is still locked: who comes now makes a new one
        finally:
            os.close(self._descriptor)
            self._descriptor = -1
        with suppress(OSError):  # not empty, as it should be
            for folder in self._made:
                folder.rmdir()

    def _take(self) -> bool:
        """Try once."""
        if fcntl is None:
            raise LockedError("this system cannot lock folders")
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self.path, flags, 0o644)
        taken = False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held it before may have deleted the file that was opened here.
            taken = _same_file(descriptor, self.path)
            if taken:
                self._sign(descriptor)
        except BlockingIOError:
            pass
        except OSError as error:
            taken = False
            raise LockedError(f"{self.folder} cannot be locked ({error.strerror})") from error
        except BaseException:
            taken = False
            raise
        finally:
            if taken:
                self._descriptor = descriptor
            else:
                os.close(descriptor)
        return taken

    def _sign(self, descriptor: int) -> None:
        """Write down who holds the lock."""
        since = datetime.now(timezone.utc).isoformat(timespec="seconds")
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": since, "what": self.what}
        with suppress(OSError):  # on a full disk the lock is as good without a name
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(holder).encode(), 0)

    def _holder(self) -> dict[str, Any]:
        """What the file says; empty if it says nothing that can be understood."""
        try:
            # Whoever can write the folder may have put a pipe there, on which others would wait for ever.
            with open(os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as stream:
                found = json.loads(stream.read(_MAX_HOLDER_BYTES) or b"{}")
        except (OSError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def _orphaned(self) -> bool:
        """Whether the process that took the lock is gone, or gave it back just now."""
        holder = self._holder()
        pid = holder.get("pid")
        if not self.path.exists() or not isinstance(pid, int) or pid <= 0:
            return True
        if holder.get("host") != socket.gethostname():
            return False
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        except (OSError, OverflowError):
            return False
        return False

    def _holder_shown(self) -> str:
        """The holder, for a person."""
        holder = self._holder()
        if not {"pid", "host", "since", "what"} <= holder.keys():
            return "it did not say who it is"
        return f"miadmark {holder['what']}, process {holder['pid']} on {holder['host']}, since {holder['since']}"


def _same_file(descriptor: int, path: Path) -> bool:
    """Whether an open file is the one that has this name now."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False

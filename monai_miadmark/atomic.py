# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Writing files so that no half of one is ever seen under its name."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "TEMPORARY_SUFFIX",
    "Output",
    "atomic_write",
    "atomic_write_all",
    "is_leftover",
    "make_folders",
    "sync_folder",
    "write_new",
]

TEMPORARY_SUFFIX = ".miadmark-tmp"
"""End of the names under which outputs are written before they get their own."""

_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}
"""How file systems without hard links (exFAT, some network shares) say so."""

_CANNOT_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EACCES, errno.EPERM}
"""How systems say that folders cannot be synced there, which is no failure of the disk."""


class Output(NamedTuple):
    """A file to be written."""

    path: Path
    data: bytes


def atomic_write(path: Path, data: bytes, overwrite: bool = False, mode: int | None = None) -> None:
    """Write a file that either is there whole or is not there.

    Args:
        path: final name; its folder must exist.
        data: the content.
        overwrite: replace what has this name; otherwise that is an error.
        mode: permission bits before the umask; default 0o666.

    Raises:
        FileExistsError: the name is taken and ``overwrite`` is false.
        OSError: nothing was written, and no temporary file is left.
    """
    atomic_write_all([Output(path, data)], overwrite, mode)


def atomic_write_all(outputs: Sequence[Output], overwrite: bool = False, mode: int | None = None) -> None:
    """:func:`atomic_write` of files that belong together: all of them are complete on disk before the first is named.

    When it returns, the disk has the files and their names.

    Raises:
        FileExistsError: a name is taken and ``overwrite`` is false; none was written.
        OSError: none was written (with ``overwrite``, files replaced before the error stay replaced).
    """
    staged: list[tuple[Path, Path]] = []
    created: list[Path] = []
    try:
        for output in outputs:
            temporary = output.path.with_name(f".{secrets.token_hex(8)}{TEMPORARY_SUFFIX}")
            staged.append((temporary, output.path))
            _write_synced(temporary, output.data, 0o666 if mode is None else mode)
        for temporary, path in staged:
            if overwrite:
                os.replace(temporary, path)
            else:
                _name_new(temporary, path)
                created.append(path)
        for temporary, _ in staged:
            _discard(temporary)
        for folder in {path.parent for _, path in staged}:
            sync_folder(folder)
    except BaseException:
        # A file without its sidecar, or the other way round, would only mislead.
        for path in created:
            _discard(path)
        raise
    finally:
        for temporary, _ in staged:
            _discard(temporary)


def make_folders(folder: Path, mode: int = 0o777) -> None:
    """Make a folder and those around it that are missing, and wait until the disk has their names.

    Args:
        folder: the folder; may exist.
        mode: permission bits of new folders, before the umask.

    Raises:
        OSError: one of them cannot be made, or is a file.
    """
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        try:
            os.mkdir(path, mode)
        except FileExistsError:
            if not path.is_dir():
                raise
        sync_folder(path.parent)
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))


def write_new(path: Path, data: bytes, mode: int) -> None:
    """Write a file that must not exist yet, under its own name at once, and wait until the disk has it and its name.

    Args:
        path: where; a link that has the name is not followed.
        data: the content.
        mode: permission bits, which the file has from its first moment on.

    Raises:
        FileExistsError: the name is taken.
        OSError: nothing is left.
    """
    _write_synced(path, data, mode)
    try:
        sync_folder(path.parent)
    except BaseException:
        _discard(path)
        raise


def _write_synced(path: Path, data: bytes, mode: int) -> None:
    """Write a new file and wait until the disk has it; nothing is left where that fails."""
    # Never through a link that someone put there, never into a file that exists.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags, mode)
    try:
        with open(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    except BaseException:
        _discard(path)
        raise


def _name_new(temporary: Path, path: Path) -> None:
    """Give a finished file its name, which must be free."""
    try:
        os.link(temporary, path)  # fails where the name is taken, in one step; a rename would replace it
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))  # reserves the name, then
        try:
            os.replace(temporary, path)
        except BaseException:
            _discard(path)
            raise


def _discard(path: Path) -> None:
    """Take a file away that is not to stay; what is wrong with the disk or the memory is told by somebody else."""
    for _ in range(2):  # memory that was missing may be there a moment later
        with contextlib.suppress(OSError, MemoryError):
            path.unlink(missing_ok=True)
            return


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the names in a folder, where the system can.

    Raises:
        OSError: the disk fails.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise


def is_leftover(name: str) -> bool:
    """Whether a file name is one of those under which outputs are written before they get their own."""
    token = name.removeprefix(".").removesuffix(TEMPORARY_SUFFIX)
    return name == f".{token}{TEMPORARY_SUFFIX}" and len(token) == 16 and set(token) <= set("0123456789abcdef")

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""A secret of whoever runs jobs: tells own manifests from forged ones, and keeps derived series together.

It is a file of 32 random bytes that is made when it is first needed: ``$XDG_STATE_HOME/miadmark/owner.key`` (by default
``~/.local/state``; on Windows ``%LOCALAPPDATA%``), readable by its owner only. It opens no record. Where it is lost,
jobs that were begun with it cannot be resumed, and further files of a series get another derived series.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from monai_miadmark.atomic import atomic_write, make_folders

__all__ = ["SERIES_PURPOSE", "OwnerKeyError", "owner_key", "owner_key_path"]

SERIES_PURPOSE = "series uid"
"""What :func:`owner_key` is asked for to derive Series Instance UIDs."""

_HEAD = "miadmark owner key 1\n"
_SECRET_BYTES = 32
_NO_PLACE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.ELOOP}
"""How systems say that this user has no place for a file there."""
_MAX_FILE_BYTES = 4096


class OwnerKeyError(ValueError):
    """The file of the owner's secret cannot be trusted or is damaged; the message names it."""


def owner_key_path() -> Path | None:
    """Where the secret lies, or ``None`` on a system where this user has no folder for such things."""
    if os.name == "nt":
        base = os.environ.get("LOCALAPPDATA", "")
    else:
        base = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(base):  # the XDG specification: relative ones are to be ignored
        try:
            base = str(Path.home() / ".local" / "state")
        except RuntimeError:
            return None
    return Path(base, "miadmark", "owner.key")


def owner_key(purpose: str) -> bytes:
    """A key (32 bytes) for one purpose, derived from the owner's secret, which is made if there is none.

    Where the secret can be neither read nor written, as in a container without a home, one is drawn that lives as long
    as this process.

    Args:
        purpose: what the key is for; other purposes give independent keys.

    Raises:
        OwnerKeyError: others may read or write the file, or it is damaged.
        OSError: the disk fails.
    """
    return HKDFExpand(hashes.SHA256(), 32, b"miadmark owner key 1: " + purpose.encode()).derive(_secret())


def _secret() -> bytes:
    """The secret of this user."""
    path = owner_key_path()
    if path is None:
        return _of_this_process()
    try:
        try:
            return _read(path)
        except FileNotFoundError:
            make_folders(path.parent, 0o700)
            with suppress(FileExistsError):  # another process was quicker
                atomic_write(path, f"{_HEAD}{secrets.token_hex(_SECRET_BYTES)}\n".encode("ascii"), mode=0o600)
            return _read(path)
    except OSError as error:
        if error.errno not in _NO_PLACE:  # a disk that fails now may give the secret the next time
            raise
        return _of_this_process()


@lru_cache(maxsize=1)
def _of_this_process() -> bytes:
    """A secret that is kept nowhere."""
    return secrets.token_bytes(_SECRET_BYTES)


def _read(path: Path) -> bytes:
    """The secret in a file."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with open(os.open(path, flags), "rb") as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OwnerKeyError(f"{path} is not a regular file")
        if os.name == "posix" and (status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077):
            raise OwnerKeyError(f"{path} must belong to you and be for nobody else: chmod 600, or delete it")
        text = stream.read(_MAX_FILE_BYTES).decode("ascii", "replace")
    with suppress(ValueError):
        secret = bytes.fromhex(text.removeprefix(_HEAD).strip())
        if text.startswith(_HEAD) and len(secret) == _SECRET_BYTES:
            return secret
    raise OwnerKeyError(f"{path} is damaged: delete it, and begin jobs anew")

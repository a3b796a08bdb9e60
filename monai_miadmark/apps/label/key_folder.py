# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The server's keys: a folder that nobody else can read. Keys are named by their file's name, and never leave it."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection
from pathlib import Path

from monai_miadmark.keys import KeyIdentity, Recipient, load_identity, load_recipient

__all__ = ["KEYS_ENV", "KeyFolder", "KeyFolderError"]

KEYS_ENV = "MIADMARK_LABEL_KEYS"
"""Environment variable that names the folder."""

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_PRIVATE, _PUBLIC = ".key", (".pub", ".pem")


class KeyFolderError(Exception):
    """The folder, or a file in it, cannot be used. Names the path, quotes nothing."""


class KeyFolder:
    """Key files of a server: ``ID.key`` restores; ``NAME.pub`` and ``NAME.pem`` (certificates) are protected for.

    Files are read anew whenever they are needed, so that a key that was taken out of the folder is out of use.

    Args:
        path: the folder; it and its private files must belong to this user, and be closed to all others.

    Raises:
        KeyFolderError: it is not so, a file in it is no key file, or there is no key of one of the two kinds.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipients()
        if not self.identities(self.ids()):
            raise KeyFolderError(f"{path}: holds no private key (ID.key): nothing could be restored")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    @classmethod
    def from_environment(cls) -> KeyFolder:
        """The folder that :data:`KEYS_ENV` names.

        Raises:
            KeyFolderError: it names none, or one that cannot be used.
        """
        named = os.environ.get(KEYS_ENV, "")
        if not named:
            raise KeyFolderError(f"set {KEYS_ENV} to the folder with the server's keys")
        return cls(Path(named))

    def ids(self) -> list[str]:
        """Ids of the private keys, sorted.

        Raises:
            KeyFolderError: the folder is open to others, or gone.
        """
        return [path.name.removesuffix(_PRIVATE) for path in self._files((_PRIVATE,))]

    def identities(self, ids: Collection[str]) -> list[KeyIdentity]:
        """The private keys with these ids; ids that name none are left out.

        Raises:
            KeyFolderError: the folder or one of the files is open to others, or is no key file.
        """
        found: list[KeyIdentity] = []
        for path in self._files((_PRIVATE,)):
            if path.name.removesuffix(_PRIVATE) in ids:
                _check_private(path, folder=False)
                try:
                    found.append(load_identity(path))
                except (OSError, ValueError) as error:
                    raise _unusable(path, error) from None
        return found

    def recipients(self) -> list[Recipient]:
        """All public keys, each once.

        Raises:
            KeyFolderError: the folder is open to others, a file is no public key, or there is none.
        """
        found: dict[bytes, Recipient] = {}
        for path in self._files(_PUBLIC):
            try:
                recipient = load_recipient(path)
            except (OSError, ValueError) as error:
                raise _unusable(path, error) from None
            found.setdefault(recipient.key_id, recipient)
        if not found:
            raise KeyFolderError(f"{self.path}: holds no public key (NAME.pub): nothing could be protected")
        return list(found.values())

    def _files(self, suffixes: tuple[str, ...]) -> list[Path]:
        """Files with one of these endings, in a folder that is as it must be."""
        try:
            _check_private(self.path, folder=True)
            return sorted(
                path
                for path in self.path.iterdir()
                if path.name.endswith(suffixes) and _ID.fullmatch(path.name.rpartition(".")[0])
            )
        except OSError as error:
            raise KeyFolderError(f"{self.path}: {error.strerror or 'cannot be read'}") from None


def _check_private(path: Path, folder: bool) -> None:
    """Refuse what others may read or change."""
    status = path.stat()
    if not (stat.S_ISDIR if folder else stat.S_ISREG)(status.st_mode):
        raise KeyFolderError(f"{path}: must be a {'folder' if folder else 'regular file'}")
    if status.st_uid != os.geteuid():
        raise KeyFolderError(f"{path}: belongs to another user")
    if status.st_mode & 0o077:
        raise KeyFolderError(f"{path}: others may read it; chmod {'700' if folder else '600'} it")


def _unusable(path: Path, error: Exception) -> KeyFolderError:
    """Name a file; what is wrong with it is told by classes whose messages quote nothing of it."""
    text = (error.strerror or "cannot be read") if isinstance(error, OSError) else str(error)
    return KeyFolderError(text if str(path) in text else f"{path}: {text}")

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Keys that a pipeline holds: named by their files, read at first use, never pickled."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeAlias, TypeVar

from monai_miadmark.children import PASSPHRASE_ENV
from monai_miadmark.keys import (
    KeyIdentity,
    Recipient,
    Signer,
    Verifier,
    load_identity,
    load_recipient,
    load_signer,
    load_verifier,
    needs_passphrase,
)

__all__ = ["PASSPHRASE_ENV", "KeyRing", "KeySource", "identity_ring", "recipient_ring", "signer_ring", "verifier_ring"]

Key = TypeVar("Key")
KeySource: TypeAlias = str | os.PathLike[str] | Key
"""A key file, or a key."""


class KeyRing(Generic[Key]):
    """Keys given by path or as objects.

    A path is all that is pickled of a key file: each process reads the file when it first needs the key. Private keys
    given as objects refuse to be pickled by themselves.

    Args:
        sources: one or more paths or keys.
        load: reads a key file; must itself be picklable.

    Raises:
        ValueError: none was given.
        TypeError: neither a path nor a key.
    """

    def __init__(self, sources: KeySource[Key] | Sequence[KeySource[Key]], load: Callable[[str], Key]) -> None:
        given = list(sources) if isinstance(sources, list | tuple) else [sources]
        if not given:
            raise ValueError("at least one key is needed")
        for source in given:
            if not isinstance(source, str | os.PathLike) and not hasattr(source, "key_id"):
                raise TypeError(f"expected the path of a key file or a key, not {type(source).__name__}")
        self._sources: list[Any] = [os.fspath(s) if isinstance(s, os.PathLike) else s for s in given]
        self._load = load
        self._loaded: list[Key] | None = None

    @property
    def keys(self) -> list[Key]:
        """The keys.

        Raises:
            OSError: a file cannot be read.
            ValueError: it is not a key file of the kind, or its passphrase is missing or wrong.
        """
        if self._loaded is None:
            self._loaded = [self._load(s) if isinstance(s, str) else s for s in self._sources]
        return self._loaded

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": None}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._sources!r})"


def recipient_ring(sources: KeySource[Recipient] | Sequence[KeySource[Recipient]]) -> KeyRing[Recipient]:
    """Public keys or certificates of recipients."""
    return KeyRing(sources, load_recipient)


def identity_ring(
    sources: KeySource[KeyIdentity] | Sequence[KeySource[KeyIdentity]], passphrase_env: str
) -> KeyRing[KeyIdentity]:
    """Private keys of a recipient; encrypted files are opened with what the environment variable holds."""
    return KeyRing(sources, functools.partial(_read_identity, passphrase_env))


def signer_ring(source: KeySource[Signer], passphrase_env: str) -> KeyRing[Signer]:
    """A custodian's signing key; see :func:`identity_ring`."""
    return KeyRing(source, functools.partial(_read_signer, passphrase_env))


def verifier_ring(source: KeySource[Verifier]) -> KeyRing[Verifier]:
    """A custodian's public signature key."""
    return KeyRing(source, load_verifier)


def _read_identity(passphrase_env: str, path: str) -> KeyIdentity:
    return load_identity(path, _passphrase(passphrase_env, path))


def _read_signer(passphrase_env: str, path: str) -> Signer:
    return load_signer(path, _passphrase(passphrase_env, path))


def _passphrase(passphrase_env: str, path: str) -> str | None:
    """What the environment holds for an encrypted file; it is asked for each time and kept nowhere."""
    if not needs_passphrase(path):
        return None
    passphrase = os.environ.get(passphrase_env)
    if not passphrase:
        raise ValueError(f"{path}: the key is encrypted: put its passphrase into the environment as {passphrase_env}")
    return passphrase

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""What every kind of key is: a recipient wraps a content key, the identity that belongs to it unwraps it."""

from __future__ import annotations

import hashlib
from typing import NoReturn, Protocol

from monai_miadmark.errors import WrongKeyError

__all__ = [
    "CONTENT_KEY_BYTES",
    "HPKE_KINDS",
    "KEY_ID_BYTES",
    "KINDS",
    "KeyIdentity",
    "Recipient",
    "Secret",
    "cannot_unwrap",
    "checked_key",
    "checked_unwrapped",
    "key_id_of",
    "shown",
]

CONTENT_KEY_BYTES = 32
KEY_ID_BYTES = 16
HPKE_KINDS = ("hybrid", "x25519", "p256")
KINDS = (*HPKE_KINDS, "cms", "passphrase")


class Recipient(Protocol):
    """Wraps content keys for one key holder. Holds nothing secret, except where it is a passphrase."""

    @property
    def kind(self) -> str:
        """One of :data:`KINDS`."""

    @property
    def key_id(self) -> bytes:
        """16 bytes that name the key and tell nothing about it."""

    def wrap(self, content_key: bytes, context: bytes) -> bytes:
        """The content key (32 bytes), readable only by the identity of this recipient and only with this context."""

    def public_bytes(self) -> bytes:
        """What :func:`recipient_from_public_bytes` needs to wrap for this recipient again; empty for a passphrase."""


class KeyIdentity(Protocol):
    """Unwraps content keys. Never shows its secret and is never pickled."""

    @property
    def kind(self) -> str:
        """One of :data:`KINDS`."""

    @property
    def key_id(self) -> bytes | None:
        """Equal to that of the recipient; ``None`` for a passphrase, which has to be tried."""

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """The content key (32 bytes).

        Raises:
            WrongKeyError: it was wrapped for another key or context, or its bytes have been changed.
            TamperedError: it asks for more memory or time than is allowed.
        """


class Secret:
    """Base of what holds a secret: shown by kind and key id only, never pickled, copied only by reference."""

    __slots__ = ()
    kind: str
    key_id: bytes | None

    def __repr__(self) -> str:
        return shown(self)

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} holds a secret and cannot be pickled: pass the path of its key file")

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self


def key_id_of(public: bytes) -> bytes:
    """First 16 bytes of the SHA-256 of a public key (SubjectPublicKeyInfo DER) or certificate (DER)."""
    return hashlib.sha256(public).digest()[:KEY_ID_BYTES]


def shown(key: Recipient | Secret) -> str:
    """``repr`` of a key: kind and id, nothing else."""
    identifier = "" if key.key_id is None else f", key_id={key.key_id.hex()!r}"
    return f"{type(key).__name__}(kind={key.kind!r}{identifier})"


def checked_key(content_key: bytes) -> bytes:
    """The content key, if it is one."""
    if len(content_key) != CONTENT_KEY_BYTES:
        raise ValueError(f"a content key has {CONTENT_KEY_BYTES} bytes, not {len(content_key)}")
    return content_key


def checked_unwrapped(identity: Secret, content_key: bytes) -> bytes:
    """The content key that was unwrapped, if it is one."""
    if len(content_key) != CONTENT_KEY_BYTES:
        raise cannot_unwrap(identity)
    return content_key


def cannot_unwrap(identity: Secret) -> WrongKeyError:
    """One error for every way in which unwrapping fails, so that none of them tells an attacker more."""
    return WrongKeyError(f"{identity!r} cannot unwrap the content key")

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Passphrases as recipients: Argon2id (RFC 9106), HKDF and AES-256-GCM.

AES-GCM does not commit to its key: one ciphertext can be made that opens under several. The wrapped form therefore
holds a tag that HKDF derives from the Argon2id output beside the key that encrypts, so that a wrapped key opens for one
passphrase only, and tells a sender no more than whether a guess was that one. Envelopes of version 1 have an older form
without it, which is only read.
"""

from __future__ import annotations

import hmac
import os
import struct
import unicodedata
from collections import OrderedDict
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from monai_miadmark.errors import TamperedError
from monai_miadmark.wrapping import Secret, cannot_unwrap, checked_key, checked_unwrapped, key_id_of

__all__ = [
    "MIN_PASSPHRASE_COST",
    "SALT_BYTES",
    "WRAPPED_BYTES",
    "PassphraseIdentity",
    "PassphraseRecipient",
    "passphrase_bytes",
    "salt_of",
]

SALT_BYTES = 16
_NONCE_BYTES = 12
_COMMITTED = struct.Struct(">16sIBB12s32s48s")  # salt, memory in KiB, iterations, lanes, nonce, tag, AES-256-GCM
_LEGACY = struct.Struct(">16sIBB12s48s")  # the same without the tag
WRAPPED_BYTES = {1: _LEGACY.size, 2: _COMMITTED.size}
"""Length of a key wrapped for a passphrase, by the version of the envelope."""

_KEPT_KEYS = 256
"""Argon2id outputs that are remembered, those of failures too: a folder of records with one salt costs one run."""


class _Cost(NamedTuple):
    """What Argon2id is told."""

    memory_kib: int
    iterations: int
    lanes: int

    @property
    def work(self) -> int:
        """KiB that are filled in all passes."""
        return self.memory_kib * self.iterations


# RFC 9106 section 4, second recommended option.
_WRITTEN_COST = _Cost(64 * 1024, 3, 4)
# Whoever made a record chose its cost. What opening may take is bounded to four times what is written here; and a
# record that makes guesses cheap is not one of ours (OWASP's least: 19 MiB, 2 passes).
_MAX_MEMORY_KIB = 256 * 1024
_MAX_WORK = 4 * _WRITTEN_COST.work
_MAX_LANES = 8
_MIN_MEMORY_KIB = 16 * 1024
_MIN_WORK = 32 * 1024
MIN_PASSPHRASE_COST = _Cost(_MIN_MEMORY_KIB, 2, 1)
"""Memory in KiB, iterations and lanes that are just accepted."""


class PassphraseRecipient(Secret):
    """A passphrase. Its Argon2id output is derived once and serves all records that this object wraps for.

    The record holds no key to wrap with again, so a record cannot be resealed for a passphrase by someone else.
    """

    __slots__ = ("_cost", "_root", "_salt", "key_id", "kind")
    key_id: bytes

    def __init__(self, passphrase: str | bytes, salt: bytes | None = None) -> None:
        """The passphrase.

        Args:
            passphrase: not empty; text is normalized (NFC) and encoded in UTF-8.
            salt: 16 random bytes that serve this passphrase only; made here if not given. Processes that share a job
                are given one salt, so that its files name one key id.

        Raises:
            ValueError: the passphrase is empty, or the salt of another length.
        """
        salt = os.urandom(SALT_BYTES) if salt is None else salt
        if len(salt) != SALT_BYTES:
            raise ValueError(f"a salt has {SALT_BYTES} bytes, not {len(salt)}")
        self._set(salt, _WRITTEN_COST, _argon2(passphrase_bytes(passphrase), salt, _WRITTEN_COST))

    @classmethod
    def _with_parameters(
        cls, passphrase: str | bytes, salt: bytes, memory_kib: int, iterations: int, lanes: int
    ) -> PassphraseRecipient:
        """For tests: chosen salt and cost."""
        cost = _Cost(memory_kib, iterations, lanes)
        return cls._of_root(salt, cost, _argon2(passphrase_bytes(passphrase), salt, cost))

    @classmethod
    def _of_root(cls, salt: bytes, cost: _Cost, root: bytes) -> PassphraseRecipient:
        """With an Argon2id output that is known already."""
        made = cls.__new__(cls)
        made._set(salt, cost, root)
        return made

    def _set(self, salt: bytes, cost: _Cost, root: bytes) -> None:
        """Set all fields."""
        self.kind = "passphrase"
        # The id comes from the random salt: one that came from the passphrase could be used to guess it.
        self.key_id = key_id_of(salt)
        self._salt, self._cost, self._root = salt, cost, root

    def wrap(self, content_key: bytes, context: bytes) -> bytes:
        """Salt, cost, nonce, commitment to the key, and AES-256-GCM ciphertext. See :class:`Recipient`."""
        # One key for many records: 96 random bits keep nonces apart for far more records than there will be.
        nonce = os.urandom(_NONCE_BYTES)
        sealed = AESGCM(_derived(self._root, _KEY)).encrypt(nonce, checked_key(content_key), context)
        return _COMMITTED.pack(self._salt, *self._cost, nonce, _derived(self._root, _TAG), sealed)

    def public_bytes(self) -> bytes:
        """Nothing: only who knows the passphrase can wrap for it."""
        return b""


class PassphraseIdentity(Secret):
    """A passphrase that opens records. The last keys derived from it are kept, so that a folder of records is quick."""

    __slots__ = ("_passphrase", "_roots", "key_id", "kind")

    def __init__(self, passphrase: str | bytes) -> None:
        """The passphrase; see :class:`PassphraseRecipient`."""
        self.kind = "passphrase"
        self.key_id: bytes | None = None
        self._passphrase = passphrase_bytes(passphrase)
        self._roots: OrderedDict[tuple[bytes, _Cost], bytes] = OrderedDict()

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """See :class:`KeyIdentity`."""
        if len(wrapped) == _COMMITTED.size:
            salt, *cost, nonce, tag, sealed = _COMMITTED.unpack(wrapped)
            root = self._root(salt, _checked_cost(_Cost(*cost), _MIN_MEMORY_KIB, _MIN_WORK))
            if not hmac.compare_digest(tag, _derived(root, _TAG)):
                raise cannot_unwrap(self)
            key = _derived(root, _KEY)
        elif len(wrapped) == _LEGACY.size:
            salt, *cost, nonce, sealed = _LEGACY.unpack(wrapped)
            key = self._root(salt, _checked_cost(_Cost(*cost), 0, 0))
        else:
            raise cannot_unwrap(self)
        try:
            content_key = AESGCM(key).decrypt(nonce, sealed, context)
        except InvalidTag:
            raise cannot_unwrap(self) from None
        return checked_unwrapped(self, content_key)

    def recipient_of(self, wrapped: bytes) -> PassphraseRecipient:
        """The recipient that this passphrase is, under the salt of what was wrapped for it: to wrap for it again.

        Raises:
            TamperedError: ``wrapped`` is of another length.
        """
        salt = salt_of(wrapped)
        cost = _Cost(*_COMMITTED.unpack(wrapped)[1:4]) if len(wrapped) == _COMMITTED.size else _WRITTEN_COST
        return PassphraseRecipient._of_root(salt, cost, self._root(salt, cost))

    def _root(self, salt: bytes, cost: _Cost) -> bytes:
        """Argon2id output, remembered whether or not it opens anything: the same entry never costs twice."""
        known = salt, cost
        root = self._roots.get(known)
        if root is None:
            root = _argon2(self._passphrase, salt, cost)
            self._roots[known] = root
            if len(self._roots) > _KEPT_KEYS:  # foreign records must not fill the memory
                self._roots.popitem(last=False)
        else:
            self._roots.move_to_end(known)
        return root


def salt_of(wrapped: bytes) -> bytes:
    """Salt of what :meth:`PassphraseRecipient.wrap` gave.

    Raises:
        TamperedError: it is of another length.
    """
    if len(wrapped) not in WRAPPED_BYTES.values():
        raise TamperedError("the content key wrapped for a passphrase has another length")
    return wrapped[:SALT_BYTES]


def passphrase_bytes(passphrase: str | bytes) -> bytes:
    """Text in one form (NFC) and UTF-8, so that every keyboard and system gives the same bytes.

    Raises:
        ValueError: the passphrase is empty.
    """
    data = unicodedata.normalize("NFC", passphrase).encode("utf-8") if isinstance(passphrase, str) else passphrase
    if not data:
        raise ValueError("the passphrase is empty")
    return data


def _checked_cost(cost: _Cost, min_memory_kib: int, min_work: int) -> _Cost:
    """The cost, if it is within bounds."""
    if not (
        1 <= cost.lanes <= _MAX_LANES
        and max(8 * cost.lanes, min_memory_kib) <= cost.memory_kib <= _MAX_MEMORY_KIB
        and cost.iterations >= 1
        and min_work <= cost.work <= _MAX_WORK
    ):
        raise TamperedError(
            f"the record asks for Argon2id with {cost.memory_kib} KiB, {cost.iterations} iterations and {cost.lanes} "
            "lanes: that is outside of what is allowed"
        )
    return cost


def _argon2(passphrase: bytes, salt: bytes, cost: _Cost) -> bytes:
    """32 bytes from a passphrase."""
    kdf = Argon2id(salt=salt, length=32, iterations=cost.iterations, lanes=cost.lanes, memory_cost=cost.memory_kib)
    return kdf.derive(passphrase)


_KEY = b"monai_miadmark passphrase key 2"
_TAG = b"monai_miadmark passphrase commitment 2"


def _derived(root: bytes, purpose: bytes) -> bytes:
    """AES-256 key or commitment (32 bytes) from the Argon2id output, by HKDF-Expand with SHA-256."""
    return HKDFExpand(hashes.SHA256(), 32, purpose).derive(root)

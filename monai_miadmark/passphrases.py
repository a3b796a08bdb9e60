# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Passphrases as recipients: Argon2id (RFC 9106) and AES-256-GCM."""

from __future__ import annotations

import os
import struct
import unicodedata

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from monai_miadmark.errors import TamperedError
from monai_miadmark.wrapping import Secret, cannot_unwrap, checked_key, checked_unwrapped, key_id_of

__all__ = ["SALT_BYTES", "PassphraseIdentity", "PassphraseRecipient", "passphrase_bytes", "salt_of"]

# RFC 9106 section 4, second recommended option.
_ARGON2_MEMORY_KIB = 64 * 1024
_ARGON2_ITERATIONS = 3
_ARGON2_LANES = 4
# A record from outside must not make us take more memory or time than this.
_ARGON2_MAX_MEMORY_KIB = 1024 * 1024
_ARGON2_MAX_ITERATIONS = 16
_ARGON2_MAX_LANES = 16
SALT_BYTES = 16
_NONCE_BYTES = 12
_PASSPHRASE_WRAP = struct.Struct(">16sIBB12s48s")  # salt, memory in KiB, iterations, lanes, nonce, AES-256-GCM


class PassphraseRecipient(Secret):
    """A passphrase. Its Argon2id key is derived once and serves all records that this object wraps for.

    The record holds no key to wrap with again, so a record cannot be resealed for a passphrase by someone else.
    """

    __slots__ = ("_iterations", "_kek", "_lanes", "_memory_kib", "_salt", "key_id", "kind")
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
        self._derive(passphrase, salt, _ARGON2_MEMORY_KIB, _ARGON2_ITERATIONS, _ARGON2_LANES)

    @classmethod
    def _with_parameters(
        cls, passphrase: str | bytes, salt: bytes, memory_kib: int, iterations: int, lanes: int
    ) -> PassphraseRecipient:
        """For tests: chosen salt and cost."""
        made = cls.__new__(cls)
        made._derive(passphrase, salt, memory_kib, iterations, lanes)
        return made

    def _derive(self, passphrase: str | bytes, salt: bytes, memory_kib: int, iterations: int, lanes: int) -> None:
        """Set all fields."""
        self.kind = "passphrase"
        # The id comes from the random salt: one that came from the passphrase could be used to guess it.
        self.key_id = key_id_of(salt)
        self._salt, self._memory_kib, self._iterations, self._lanes = salt, memory_kib, iterations, lanes
        self._kek = _argon2(passphrase_bytes(passphrase), salt, memory_kib, iterations, lanes)

    def wrap(self, content_key: bytes, context: bytes) -> bytes:
        """Salt, cost, nonce and AES-256-GCM ciphertext. See :class:`Recipient`."""
        # One key for many records: 96 random bits keep nonces apart for far more records than there will be.
        nonce = os.urandom(_NONCE_BYTES)
        sealed = AESGCM(self._kek).encrypt(nonce, checked_key(content_key), context)
        return _PASSPHRASE_WRAP.pack(self._salt, self._memory_kib, self._iterations, self._lanes, nonce, sealed)

    def public_bytes(self) -> bytes:
        """Nothing: only who knows the passphrase can wrap for it."""
        return b""


class PassphraseIdentity(Secret):
    """A passphrase that opens records. The keys derived from it are kept, so that a folder of records is quick."""

    __slots__ = ("_keys", "_passphrase", "key_id", "kind")

    def __init__(self, passphrase: str | bytes) -> None:
        """The passphrase; see :class:`PassphraseRecipient`."""
        self.kind = "passphrase"
        self.key_id: bytes | None = None
        self._passphrase = passphrase_bytes(passphrase)
        self._keys: dict[tuple[bytes, int, int, int], bytes] = {}

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """See :class:`KeyIdentity`."""
        if len(wrapped) != _PASSPHRASE_WRAP.size:
            raise cannot_unwrap(self)
        salt, memory_kib, iterations, lanes, nonce, sealed = _PASSPHRASE_WRAP.unpack(wrapped)
        if not (
            1 <= lanes <= _ARGON2_MAX_LANES
            and 8 * lanes <= memory_kib <= _ARGON2_MAX_MEMORY_KIB
            and 1 <= iterations <= _ARGON2_MAX_ITERATIONS
        ):
            raise TamperedError(
                f"the record asks for Argon2id with {memory_kib} KiB, {iterations} iterations and {lanes} lanes: "
                "that is outside of what is allowed"
            )
        cost = (salt, memory_kib, iterations, lanes)
        key = self._keys.get(cost)
        if key is None:
            key = _argon2(self._passphrase, *cost)
        try:
            content_key = AESGCM(key).decrypt(nonce, sealed, context)
        except InvalidTag:
            raise cannot_unwrap(self) from None
        # Kept only where it opened something: foreign records must not fill the memory.
        self._keys[cost] = key
        return checked_unwrapped(self, content_key)


def salt_of(wrapped: bytes) -> bytes:
    """Salt of what :meth:`PassphraseRecipient.wrap` gave.

    Raises:
        TamperedError: it is of another length.
    """
    if len(wrapped) != _PASSPHRASE_WRAP.size:
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


def _argon2(passphrase: bytes, salt: bytes, memory_kib: int, iterations: int, lanes: int) -> bytes:
    """AES-256 key from a passphrase."""
    kdf = Argon2id(salt=salt, length=32, iterations=iterations, lanes=lanes, memory_cost=memory_kib)
    return kdf.derive(passphrase)

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""HPKE base mode by hand, from the text of RFC 9180: a second way to the same bytes, with a chosen ephemeral key.

Only single primitives of ``cryptography`` are used here (X25519, ML-KEM, HMAC, AES-GCM), not its HPKE.
"""

from __future__ import annotations

import hashlib
import hmac

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = ["open_hybrid", "open_x25519", "seal_x25519"]

_VERSION = b"HPKE-v1"
_KEM_X25519 = 0x0020
_KEM_XWING = 0x647A
_KDF_HKDF_SHA256 = 0x0001
_AEAD_AES_256_GCM = 0x0002
_XWING_LABEL = bytes.fromhex("5c2e2f2f5e5c")


def seal_x25519(plaintext: bytes, recipient: X25519PublicKey, info: bytes, ephemeral: X25519PrivateKey) -> bytes:
    """Section 6.1, SealBase: the encapsulated key, then the ciphertext."""
    encapsulated = ephemeral.public_key().public_bytes_raw()
    shared = _dhkem_shared(ephemeral.exchange(recipient), encapsulated, recipient.public_bytes_raw())
    key, nonce = _key_schedule(_KEM_X25519, shared, info)
    return encapsulated + AESGCM(key).encrypt(nonce, plaintext, b"")


def open_x25519(sealed: bytes, recipient: X25519PrivateKey, info: bytes) -> bytes:
    """Section 6.1, OpenBase."""
    encapsulated, ciphertext = sealed[:32], sealed[32:]
    agreed = recipient.exchange(X25519PublicKey.from_public_bytes(encapsulated))
    shared = _dhkem_shared(agreed, encapsulated, recipient.public_key().public_bytes_raw())
    key, nonce = _key_schedule(_KEM_X25519, shared, info)
    return AESGCM(key).decrypt(nonce, ciphertext, b"")


def open_hybrid(sealed: bytes, mlkem: MLKEM768PrivateKey, x25519: X25519PrivateKey, info: bytes) -> bytes:
    """The same with X-Wing (draft-connolly-cfrg-xwing-kem): ML-KEM-768 and X25519, combined by SHA3-256."""
    mlkem_ciphertext, x25519_ciphertext, ciphertext = sealed[:1088], sealed[1088:1120], sealed[1120:]
    agreed = x25519.exchange(X25519PublicKey.from_public_bytes(x25519_ciphertext))
    parts = mlkem.decapsulate(mlkem_ciphertext), agreed, x25519_ciphertext, x25519.public_key().public_bytes_raw()
    shared = hashlib.sha3_256(b"".join(parts) + _XWING_LABEL).digest()
    key, nonce = _key_schedule(_KEM_XWING, shared, info)
    return AESGCM(key).decrypt(nonce, ciphertext, b"")


def _dhkem_shared(agreed: bytes, encapsulated: bytes, recipient: bytes) -> bytes:
    """Section 4.1, ExtractAndExpand over the key agreement and both public keys."""
    suite = b"KEM" + _KEM_X25519.to_bytes(2, "big")
    extracted = _labeled_extract(suite, b"", b"eae_prk", agreed)
    return _labeled_expand(suite, extracted, b"shared_secret", encapsulated + recipient, 32)


def _key_schedule(kem: int, shared: bytes, info: bytes) -> tuple[bytes, bytes]:
    """Section 5.1 for mode_base: key and base nonce."""
    suite = b"HPKE" + b"".join(value.to_bytes(2, "big") for value in (kem, _KDF_HKDF_SHA256, _AEAD_AES_256_GCM))
    context = (
        b"\x00" + _labeled_extract(suite, b"", b"psk_id_hash", b"") + _labeled_extract(suite, b"", b"info_hash", info)
    )
    secret = _labeled_extract(suite, shared, b"secret", b"")
    return (
        _labeled_expand(suite, secret, b"key", context, 32),
        _labeled_expand(suite, secret, b"base_nonce", context, 12),
    )


def _labeled_extract(suite: bytes, salt: bytes, label: bytes, material: bytes) -> bytes:
    """HKDF-Extract (RFC 5869); an empty salt is a block of zeros, which HMAC makes of it by itself."""
    return hmac.digest(salt, _VERSION + suite + label + material, "sha256")


def _labeled_expand(suite: bytes, key: bytes, label: bytes, info: bytes, length: int) -> bytes:
    """HKDF-Expand for one block, which is enough for all lengths here."""
    assert length <= 32
    labeled = length.to_bytes(2, "big") + _VERSION + suite + label + info
    return hmac.digest(key, labeled + b"\x01", "sha256")[:length]

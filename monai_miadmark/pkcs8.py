# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Private keys under a passphrase: PKCS#8 with PBES2 (RFC 8018), scrypt (RFC 7914) and AES-256-CBC.

``cryptography`` reads this form, and so does ``openssl pkey``. What it writes itself is PBKDF2 with 2048 rounds and no
way to ask for more, which a graphics card tries many thousand times a second; only the few bytes of DER around
standard primitives are made here.
"""

from __future__ import annotations

import base64
import os

from cryptography.hazmat.primitives import padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

__all__ = ["encrypted_pkcs8_pem", "is_affordable"]

# 16 MiB five times over: OWASP's choice for this amount of memory. OpenSSL refuses to read more than 32 MiB.
_SCRYPT_N = 2**14
_SCRYPT_R = 8
_SCRYPT_P = 5

# What a key file from outside may ask for: about two seconds, and 256 MiB.
_MAX_ROUNDS = 10_000_000
_MAX_SCRYPT_BLOCKS = 2**23
_MAX_SCRYPT_MEMORY = 2**28
_MAX_DEPTH = 8

_LABEL = b"ENCRYPTED PRIVATE KEY"
_SEQUENCE = 0x30
_INTEGER = 0x02
_OCTET_STRING = 0x04
_OID_PBES2 = bytes.fromhex("06092a864886f70d01050d")
_OID_SCRYPT = bytes.fromhex("06092b06010401da47040b")
_OID_AES256_CBC = bytes.fromhex("060960864801650304012a")


def encrypted_pkcs8_pem(private_key_der: bytes, passphrase: bytes) -> bytes:
    """Encrypt a private key.

    Args:
        private_key_der: PrivateKeyInfo (PKCS#8), DER.
        passphrase: not empty.

    Returns:
        A PEM block ``ENCRYPTED PRIVATE KEY``.
    """
    salt, iv = os.urandom(16), os.urandom(16)
    key = Scrypt(salt=salt, length=32, n=_SCRYPT_N, r=_SCRYPT_R, p=_SCRYPT_P).derive(passphrase)
    padder = padding.PKCS7(128).padder()
    padded = padder.update(private_key_der) + padder.finalize()
    encryptor = Cipher(algorithms.AES256(key), modes.CBC(iv)).encryptor()
    ciphertext = encryptor.update(padded) + encryptor.finalize()

    cost = b"".join(_der_integer(value) for value in (_SCRYPT_N, _SCRYPT_R, _SCRYPT_P))
    derivation = _der(_SEQUENCE, _OID_SCRYPT + _der(_SEQUENCE, _der(_OCTET_STRING, salt) + cost))
    scheme = _der(_SEQUENCE, _OID_AES256_CBC + _der(_OCTET_STRING, iv))
    algorithm = _der(_SEQUENCE, _OID_PBES2 + _der(_SEQUENCE, derivation + scheme))
    der = _der(_SEQUENCE, algorithm + _der(_OCTET_STRING, ciphertext))

    text = base64.b64encode(der)
    lines = b"\n".join(text[start : start + 64] for start in range(0, len(text), 64))
    return b"-----BEGIN %b-----\n%b\n-----END %b-----\n" % (_LABEL, lines, _LABEL)


def is_affordable(pem: bytes) -> bool:
    """Whether an encrypted key (one PEM block of PKCS#8) asks for a cost that is allowed.

    The library that decrypts knows no limit: a file of a few hundred bytes could ask for years. What is not DER, or of
    another structure, is left to it to refuse.
    """
    try:
        der = base64.b64decode(b"".join(pem.splitlines()[1:-1]))
        outer = _elements(der, 1)[0][1]
        algorithm = _elements(outer, 1)[0][1]
        numbers = _integers(algorithm, _MAX_DEPTH)
    except (IndexError, ValueError):
        return True
    if _OID_SCRYPT in algorithm:
        # Salt, N, r, p, and perhaps the length of the key.
        n, r, p = [*numbers, 0, 0, 0][:3]
        return n * r * p <= _MAX_SCRYPT_BLOCKS and 128 * n * r <= _MAX_SCRYPT_MEMORY
    return max(numbers, default=0) <= _MAX_ROUNDS


def _elements(data: bytes, most: int | None = None) -> list[tuple[int, bytes]]:
    """Tag and content of the DER elements that follow each other; ValueError or IndexError where that is none."""
    found: list[tuple[int, bytes]] = []
    at = 0
    while at < len(data) and len(found) != most:
        tag, length = data[at], data[at + 1]
        at += 2
        if length > 127:
            size = length - 128
            length = int.from_bytes(data[at : at + size], "big")
            at += size
        if length > len(data) - at:
            raise ValueError("not DER")
        found.append((tag, data[at : at + length]))
        at += length
    return found


def _integers(data: bytes, depth: int) -> list[int]:
    """All INTEGERs of nested SEQUENCEs, in their order."""
    found: list[int] = []
    for tag, content in _elements(data):
        if tag == _INTEGER:
            found.append(int.from_bytes(content, "big"))
        elif tag == _SEQUENCE and depth:
            found += _integers(content, depth - 1)
    return found


def _der(tag: int, content: bytes) -> bytes:
    """One DER element."""
    length = len(content)
    if length < 128:
        return bytes([tag, length]) + content
    size = (length.bit_length() + 7) // 8
    return bytes([tag, 128 | size]) + length.to_bytes(size, "big") + content


def _der_integer(value: int) -> bytes:
    """A positive INTEGER; one more bit than it needs, for the sign."""
    return _der(_INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))

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

__all__ = ["encrypted_pkcs8_pem"]

# 16 MiB five times over: OWASP's choice for this amount of memory. OpenSSL refuses to read more than 32 MiB.
_SCRYPT_N = 2**14
_SCRYPT_R = 8
_SCRYPT_P = 5

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

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Who protected an image: a custodian's signature key, Ed25519 or ML-DSA-65."""

from __future__ import annotations

from typing import NoReturn

from cryptography.exceptions import InternalError, InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, mldsa

from monai_miadmark.errors import SignatureError
from monai_miadmark.names import SIGNATURE_KINDS
from monai_miadmark.wrapping import key_id_of

__all__ = ["SIGNATURE_KINDS", "Signer", "Verifier", "generate_signer"]


class Verifier:
    """The public key of a custodian."""

    __slots__ = ("_key", "_public", "key_id", "kind")

    def __init__(self, key: ed25519.Ed25519PublicKey | mldsa.MLDSA65PublicKey) -> None:
        """Ed25519 or ML-DSA-65 public key."""
        self.kind = "ed25519" if isinstance(key, ed25519.Ed25519PublicKey) else "mldsa65"
        self._key = key
        self._public = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        self.key_id = key_id_of(self._public)

    @classmethod
    def from_public_bytes(cls, data: bytes) -> Verifier:
        """The verifier whose :meth:`public_bytes` these are.

        Raises:
            ValueError: malformed, or not a signature key that is supported.
        """
        try:
            key = serialization.load_der_public_key(data)
        except UnsupportedAlgorithm as error:
            raise ValueError("public key of an unknown algorithm") from error
        except InternalError as error:  # what OpenSSL says of some damaged keys
            raise ValueError("the public key is malformed") from error
        if not isinstance(key, ed25519.Ed25519PublicKey | mldsa.MLDSA65PublicKey):
            raise ValueError("not a signature key: Ed25519 or ML-DSA-65 is needed")
        return cls(key)

    def verify(self, message: bytes, signature: bytes) -> None:
        """Return if the signature over the message is by this key.

        Raises:
            SignatureError: it is not.
        """
        try:
            self._key.verify(signature, message)
        except (InvalidSignature, ValueError):
            raise SignatureError(f"the signature is not a valid one by {self}") from None

    def public_bytes(self) -> bytes:
        """SubjectPublicKeyInfo DER."""
        return self._public

    def public_pem(self) -> bytes:
        """The same as a PEM block, as it stands in a key file."""
        return self._key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)

    def __repr__(self) -> str:
        return f"Verifier(kind={self.kind!r}, key_id={self.key_id.hex()!r})"

    def __str__(self) -> str:
        return f"{self.kind} {self.key_id.hex()}"  # as keygen and inspect name it

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Verifier) and other._public == self._public

    def __hash__(self) -> int:
        return hash(self._public)

    def __reduce__(self) -> tuple[object, ...]:
        return Verifier.from_public_bytes, (self._public,)


class Signer:
    """The private key of a custodian. Never shows its secret and is never pickled."""

    __slots__ = ("_key", "key_id", "kind", "verifier")

    def __init__(self, key: ed25519.Ed25519PrivateKey | mldsa.MLDSA65PrivateKey) -> None:
        """Ed25519 or ML-DSA-65 private key."""
        self._key = key
        self.verifier = Verifier(key.public_key())
        self.kind = self.verifier.kind
        self.key_id = self.verifier.key_id

    def sign(self, message: bytes) -> bytes:
        """Signature: 64 bytes for Ed25519, 3309 for ML-DSA-65."""
        return self._key.sign(message)

    def private_parts(self) -> tuple[ed25519.Ed25519PrivateKey | mldsa.MLDSA65PrivateKey]:
        """The private key to be saved."""
        return (self._key,)

    def __repr__(self) -> str:
        return f"Signer(kind={self.kind!r}, key_id={self.key_id.hex()!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("Signer holds a secret and cannot be pickled: pass the path of its key file")

    def __copy__(self) -> Signer:
        return self

    def __deepcopy__(self, memo: object) -> Signer:
        return self


def generate_signer(kind: str = "ed25519") -> Signer:
    """Make a fresh signature key.

    Args:
        kind: ``ed25519`` or ``mldsa65`` (post-quantum).

    Raises:
        ValueError: unknown kind.
    """
    if kind == "ed25519":
        return Signer(ed25519.Ed25519PrivateKey.generate())
    if kind == "mldsa65":
        return Signer(mldsa.MLDSA65PrivateKey.generate())
    raise ValueError(f"unknown kind of signature key {kind!r}: choose from {', '.join(SIGNATURE_KINDS)}")

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Who may open a record: a recipient wraps a content key, the identity that belongs to it unwraps it.

Every kind hands its work to ``cryptography``; nothing here is a primitive of our own:

========== ========================================================================== =============
kind       how the content key is wrapped                                             wrapped bytes
========== ========================================================================== =============
hybrid     HPKE base mode (RFC 9180), ML-KEM-768 + X25519, HKDF-SHA256, AES-256-GCM   1168
x25519     HPKE base mode, X25519, HKDF-SHA256, AES-256-GCM                           80
p256       HPKE base mode, P-256, HKDF-SHA256, AES-256-GCM                            113
cms        CMS EnvelopedData (RFC 5652) for an RSA certificate, AES-256-CBC           about 600
passphrase Argon2id (RFC 9106), HKDF-SHA256, AES-256-GCM (in ``passphrases``)         114
========== ========================================================================== =============

What is wrapped is bound to a context (the caller's bytes), so that a wrapped key taken out of one record is of no use
in another.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Sequence
from typing import TypeAlias

from cryptography import x509
from cryptography.exceptions import InternalError, InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hpke, serialization
from cryptography.hazmat.primitives.asymmetric import ec, mlkem, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.ciphers import algorithms
from cryptography.hazmat.primitives.serialization import pkcs7

from monai_miadmark.errors import TamperedError
from monai_miadmark.wrapping import (
    CONTENT_KEY_BYTES,
    HPKE_KINDS,
    Recipient,
    Secret,
    cannot_unwrap,
    checked_key,
    checked_unwrapped,
    key_id_of,
    shown,
)

__all__ = [
    "MAX_RECIPIENTS",
    "CmsIdentity",
    "CmsRecipient",
    "HpkeIdentity",
    "HpkeRecipient",
    "decode_roster",
    "encode_roster",
    "generate_identity",
    "recipient_from_public_bytes",
]

_KEMS = {"hybrid": hpke.KEM.MLKEM768_X25519, "x25519": hpke.KEM.X25519, "p256": hpke.KEM.P256}
_X25519_SPKI_BYTES = 44
_MIN_RSA_BITS = 2048
MAX_RECIPIENTS = 8192
"""More never fit the header of an envelope."""
_ROSTER_COUNT = struct.Struct(">H")
_ROSTER_ENTRY = struct.Struct(">BI")  # length of the kind's name, length of the public bytes

_PublicKey: TypeAlias = x25519.X25519PublicKey | ec.EllipticCurvePublicKey | hpke.MLKEM768X25519PublicKey
_PrivateKey: TypeAlias = x25519.X25519PrivateKey | ec.EllipticCurvePrivateKey | hpke.MLKEM768X25519PrivateKey


class HpkeRecipient:
    """A public key for HPKE: ML-KEM-768 + X25519 (``hybrid``), X25519 or P-256."""

    __slots__ = ("_key", "_parts", "_public", "key_id", "kind")

    def __init__(
        self,
        key: x25519.X25519PublicKey | ec.EllipticCurvePublicKey,
        mlkem_key: mlkem.MLKEM768PublicKey | None = None,
    ) -> None:
        """Public key or keys.

        Args:
            key: X25519 or P-256 public key.
            mlkem_key: ML-KEM-768 public key that makes an X25519 key a hybrid one.

        Raises:
            ValueError: the keys are not of a kind that is supported.
        """
        self.kind = _kind_of(key, mlkem_key is not None)
        self._parts = (key,) if mlkem_key is None else (mlkem_key, key)
        self._public = b"".join(map(_spki, self._parts))
        self.key_id = key_id_of(self._public)
        self._key: _PublicKey = key
        if mlkem_key is not None and isinstance(key, x25519.X25519PublicKey):
            self._key = hpke.MLKEM768X25519PublicKey(mlkem_key, key)

    def wrap(self, content_key: bytes, context: bytes) -> bytes:
        """HPKE base mode, one message: encapsulated key, then ciphertext and tag. See :class:`Recipient`."""
        return _suite(self.kind).encrypt(checked_key(content_key), self._key, info=context)

    def public_bytes(self) -> bytes:
        """SubjectPublicKeyInfo DER; for a hybrid key that of ML-KEM-768, then that of X25519."""
        return self._public

    def public_pem(self) -> bytes:
        """The same as PEM blocks, as they stand in a key file."""
        return b"".join(_spki(part, serialization.Encoding.PEM) for part in self._parts)

    def __repr__(self) -> str:
        return shown(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HpkeRecipient) and other._public == self._public

    def __hash__(self) -> int:
        return hash(self._public)

    def __reduce__(self) -> tuple[object, ...]:
        return recipient_from_public_bytes, (self.kind, self._public)


class HpkeIdentity(Secret):
    """A private key for HPKE: ML-KEM-768 + X25519 (``hybrid``), X25519 or P-256."""

    __slots__ = ("_key", "_parts", "key_id", "kind", "recipient")
    key_id: bytes

    def __init__(
        self,
        key: x25519.X25519PrivateKey | ec.EllipticCurvePrivateKey,
        mlkem_key: mlkem.MLKEM768PrivateKey | None = None,
    ) -> None:
        """Private key or keys.

        Args:
            key: X25519 or P-256 private key.
            mlkem_key: ML-KEM-768 private key that makes an X25519 key a hybrid one.

        Raises:
            ValueError: the keys are not of a kind that is supported.
        """
        self.recipient = HpkeRecipient(key.public_key(), None if mlkem_key is None else mlkem_key.public_key())
        self.kind = self.recipient.kind
        self.key_id = self.recipient.key_id
        self._key: _PrivateKey = key
        self._parts: tuple[mlkem.MLKEM768PrivateKey | x25519.X25519PrivateKey | ec.EllipticCurvePrivateKey, ...] = (
            key,
        )
        if mlkem_key is not None and isinstance(key, x25519.X25519PrivateKey):
            self._key = hpke.MLKEM768X25519PrivateKey(mlkem_key, key)
            self._parts = (mlkem_key, key)

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """See :class:`KeyIdentity`."""
        try:
            content_key = _suite(self.kind).decrypt(wrapped, self._key, info=context)
        except (InvalidTag, ValueError):
            raise cannot_unwrap(self) from None
        return checked_unwrapped(self, content_key)

    def private_parts(
        self,
    ) -> tuple[mlkem.MLKEM768PrivateKey | x25519.X25519PrivateKey | ec.EllipticCurvePrivateKey, ...]:
        """The private keys to be saved, in the order of the key file (ML-KEM-768 first)."""
        return self._parts


class CmsRecipient:
    """An X.509 certificate with an RSA key, as a hospital's PKI issues it. Its chain of trust is not checked here."""

    __slots__ = ("_public", "certificate", "key_id", "kind")

    def __init__(self, certificate: x509.Certificate) -> None:
        """The certificate.

        Raises:
            ValueError: its key is not RSA of at least 2048 bits, or it is not meant to encrypt keys.
        """
        try:
            key = certificate.public_key()
        except (UnsupportedAlgorithm, InternalError) as error:
            raise ValueError("the certificate's key is of an unknown algorithm, or damaged") from error
        if not isinstance(key, rsa.RSAPublicKey):
            raise ValueError("a certificate must hold an RSA key to be a recipient")
        if key.key_size < _MIN_RSA_BITS:
            raise ValueError(f"the certificate's RSA key has {key.key_size} bits: at least {_MIN_RSA_BITS} are needed")
        try:
            usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        except x509.ExtensionNotFound:
            usage = None
        except (x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
            raise ValueError("the certificate's extensions cannot be read") from error
        if usage is not None and not usage.key_encipherment:
            raise ValueError("the certificate's key usage does not allow key encipherment")
        self.kind = "cms"
        self.certificate = certificate
        self._public = certificate.public_bytes(serialization.Encoding.DER)
        # CMS names its recipient by issuer and serial number: a renewed certificate for the same key does not fit
        # what was wrapped for the old one, so the id is that of the certificate and not that of its key.
        self.key_id = key_id_of(self._public)

    def wrap(self, content_key: bytes, context: bytes) -> bytes:
        """CMS EnvelopedData, DER, of the content key and a MAC. See :class:`Recipient`."""
        content = checked_key(content_key) + _cms_mac(content_key, context)
        builder = pkcs7.PKCS7EnvelopeBuilder().set_data(content).add_recipient(self.certificate)
        builder = builder.set_content_encryption_algorithm(algorithms.AES256)
        # Without Binary, bytes that look like line ends are rewritten.
        return builder.encrypt(serialization.Encoding.DER, [pkcs7.PKCS7Options.Binary])

    def public_bytes(self) -> bytes:
        """The certificate, DER."""
        return self._public

    def public_pem(self) -> bytes:
        """The certificate, PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def __repr__(self) -> str:
        return shown(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CmsRecipient) and other._public == self._public

    def __hash__(self) -> int:
        return hash(self._public)

    def __reduce__(self) -> tuple[object, ...]:
        return recipient_from_public_bytes, (self.kind, self._public)


class CmsIdentity(Secret):
    """The RSA private key of a certificate."""

    __slots__ = ("_key", "key_id", "kind", "recipient")
    key_id: bytes

    def __init__(self, key: rsa.RSAPrivateKey, certificate: x509.Certificate) -> None:
        """Private key and certificate.

        Raises:
            ValueError: they do not belong together, or the certificate is not one for encryption.
        """
        self.recipient = CmsRecipient(certificate)
        if _spki(key.public_key()) != _spki(certificate.public_key()):
            raise ValueError("the certificate is not that of the private key")
        self.kind = self.recipient.kind
        self.key_id = self.recipient.key_id
        self._key = key

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """See :class:`KeyIdentity`."""
        certificate = self.recipient.certificate
        try:
            content = pkcs7.pkcs7_decrypt_der(wrapped, certificate, self._key, [])
        except (ValueError, TypeError, UnsupportedAlgorithm, InternalError):
            raise cannot_unwrap(self) from None
        # EnvelopedData is not authenticated: AES-CBC gives other bytes for a changed ciphertext without a word, and
        # knows of no context. The MAC under the content key itself makes up for both.
        content_key, mac = content[:CONTENT_KEY_BYTES], content[CONTENT_KEY_BYTES:]
        if not hmac.compare_digest(mac, _cms_mac(content_key, context)):
            raise cannot_unwrap(self)
        return checked_unwrapped(self, content_key)


def generate_identity(kem: str = "hybrid") -> HpkeIdentity:
    """Make a fresh private key.

    Args:
        kem: ``hybrid`` (ML-KEM-768 + X25519), ``x25519`` or ``p256``.

    Raises:
        ValueError: unknown ``kem``.
    """
    if kem == "hybrid":
        return HpkeIdentity(x25519.X25519PrivateKey.generate(), mlkem.MLKEM768PrivateKey.generate())
    if kem == "x25519":
        return HpkeIdentity(x25519.X25519PrivateKey.generate())
    if kem == "p256":
        return HpkeIdentity(ec.generate_private_key(ec.SECP256R1()))
    raise ValueError(f"unknown KEM {kem!r}: choose from {', '.join(HPKE_KINDS)}")


def recipient_from_public_bytes(kind: str, data: bytes) -> HpkeRecipient | CmsRecipient:
    """The recipient whose :meth:`~Recipient.public_bytes` these are.

    Raises:
        ValueError: unknown kind, a passphrase, or malformed bytes.
    """
    try:
        if kind == "cms":
            return CmsRecipient(x509.load_der_x509_certificate(data))
        if kind not in HPKE_KINDS:
            raise ValueError(f"no recipient of kind {kind!r} can be made from public bytes")
        mlkem_key = None
        if kind == "hybrid":
            mlkem_key = serialization.load_der_public_key(data[:-_X25519_SPKI_BYTES])
            data = data[-_X25519_SPKI_BYTES:]
        key = serialization.load_der_public_key(data)
    except UnsupportedAlgorithm as error:
        raise ValueError("public key of an unknown algorithm") from error
    except (x509.InvalidVersion, InternalError) as error:  # what OpenSSL says of some damaged keys
        raise ValueError("the public key cannot be read") from error
    if not isinstance(key, x25519.X25519PublicKey | ec.EllipticCurvePublicKey) or not isinstance(
        mlkem_key, mlkem.MLKEM768PublicKey | None
    ):
        raise ValueError(f"public key is not of kind {kind!r}")
    recipient = HpkeRecipient(key, mlkem_key)
    if recipient.kind != kind:
        raise ValueError(f"public key is of kind {recipient.kind!r}, not {kind!r}")
    return recipient


def encode_roster(recipients: Sequence[Recipient]) -> bytes:
    """Count, and for each its kind and public bytes; passphrases have none and are left out.

    Raises:
        ValueError: too many.
    """
    if len(recipients) > MAX_RECIPIENTS:
        raise ValueError(f"{len(recipients)} recipients are too many for one record")
    parts = []
    for recipient in recipients:
        public = recipient.public_bytes()
        if public:
            kind = recipient.kind.encode("ascii")
            parts += [_ROSTER_ENTRY.pack(len(kind), len(public)), kind, public]
    return b"".join([_ROSTER_COUNT.pack(len(parts) // 3), *parts])


def decode_roster(payload: bytes) -> tuple[dict[tuple[str, bytes], Recipient], int]:
    """Recipients by kind and key id, and the offset at which the roster ends.

    Raises:
        TamperedError: malformed.
    """
    recipients: dict[tuple[str, bytes], Recipient] = {}
    try:
        (count,) = _ROSTER_COUNT.unpack_from(payload)
        offset = _ROSTER_COUNT.size
        if count > MAX_RECIPIENTS:
            raise ValueError
        for _ in range(count):
            kind_bytes, public_bytes = _ROSTER_ENTRY.unpack_from(payload, offset)
            middle = offset + _ROSTER_ENTRY.size + kind_bytes
            offset = middle + public_bytes
            if offset > len(payload):
                raise ValueError
            kind = payload[middle - kind_bytes : middle].decode("ascii")
            recipient = recipient_from_public_bytes(kind, payload[middle:offset])
            recipients[recipient.kind, recipient.key_id] = recipient
    except (struct.error, ValueError):
        raise TamperedError("the sealed list of recipients is malformed") from None
    return recipients, offset


def _suite(kind: str) -> hpke.Suite:
    """HPKE suite of a kind."""
    return hpke.Suite(_KEMS[kind], hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)


def _spki(key: PublicKeyTypes, encoding: serialization.Encoding = serialization.Encoding.DER) -> bytes:
    """SubjectPublicKeyInfo of any public key."""
    return key.public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)


def _kind_of(key: object, has_mlkem: bool) -> str:
    """Kind of a public key."""
    if isinstance(key, x25519.X25519PublicKey):
        return "hybrid" if has_mlkem else "x25519"
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1) and not has_mlkem:
        return "p256"
    raise ValueError("not a key for encryption that is supported: ML-KEM-768 + X25519, X25519 or P-256")


def _cms_mac(content_key: bytes, context: bytes) -> bytes:
    """HMAC-SHA256 under the content key that binds it to its context."""
    return hmac.digest(content_key, b"monai_miadmark cms content key\x00" + context, "sha256")

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
passphrase Argon2id (RFC 9106), AES-256-GCM                                           82
========== ========================================================================== =============

What is wrapped is bound to a context (the caller's bytes), so that a wrapped key taken out of one record is of no use
in another.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
import unicodedata
from typing import NoReturn, Protocol, TypeAlias

from cryptography import x509
from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hpke, serialization
from cryptography.hazmat.primitives.asymmetric import ec, mlkem, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.ciphers import algorithms
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.serialization import pkcs7

from .errors import TamperedError, WrongKeyError

__all__ = [
    "CONTENT_KEY_BYTES",
    "HPKE_KINDS",
    "KEY_ID_BYTES",
    "KINDS",
    "CmsIdentity",
    "CmsRecipient",
    "HpkeIdentity",
    "HpkeRecipient",
    "Identity",
    "PassphraseIdentity",
    "PassphraseRecipient",
    "Recipient",
    "generate_identity",
    "key_id_of",
    "passphrase_bytes",
    "recipient_from_public_bytes",
]

CONTENT_KEY_BYTES = 32
KEY_ID_BYTES = 16
HPKE_KINDS = ("hybrid", "x25519", "p256")
KINDS = (*HPKE_KINDS, "cms", "passphrase")

_KEMS = {"hybrid": hpke.KEM.MLKEM768_X25519, "x25519": hpke.KEM.X25519, "p256": hpke.KEM.P256}
_X25519_SPKI_BYTES = 44
_MIN_RSA_BITS = 2048

# RFC 9106 section 4, second recommended option.
_ARGON2_MEMORY_KIB = 64 * 1024
_ARGON2_ITERATIONS = 3
_ARGON2_LANES = 4
# A record from outside must not make us take more memory or time than this.
_ARGON2_MAX_MEMORY_KIB = 1024 * 1024
_ARGON2_MAX_ITERATIONS = 16
_ARGON2_MAX_LANES = 16
_SALT_BYTES = 16
_NONCE_BYTES = 12
_PASSPHRASE_WRAP = struct.Struct(">16sIBB12s48s")  # salt, memory in KiB, iterations, lanes, nonce, AES-256-GCM

_PublicKey: TypeAlias = x25519.X25519PublicKey | ec.EllipticCurvePublicKey | hpke.MLKEM768X25519PublicKey
_PrivateKey: TypeAlias = x25519.X25519PrivateKey | ec.EllipticCurvePrivateKey | hpke.MLKEM768X25519PrivateKey


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


class Identity(Protocol):
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


class _Secret:
    """Base of what holds a secret: shown by kind and key id only, never pickled, copied only by reference."""

    __slots__ = ()
    kind: str
    key_id: bytes | None

    def __repr__(self) -> str:
        return _shown(self)

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} holds a secret and cannot be pickled: pass the path of its key file")

    def __copy__(self) -> _Secret:
        return self

    def __deepcopy__(self, memo: object) -> _Secret:
        return self


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
        return _suite(self.kind).encrypt(_checked_key(content_key), self._key, info=context)

    def public_bytes(self) -> bytes:
        """SubjectPublicKeyInfo DER; for a hybrid key that of ML-KEM-768, then that of X25519."""
        return self._public

    def public_pem(self) -> bytes:
        """The same as PEM blocks, as they stand in a key file."""
        return b"".join(_spki(part, serialization.Encoding.PEM) for part in self._parts)

    def __repr__(self) -> str:
        return _shown(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HpkeRecipient) and other._public == self._public

    def __hash__(self) -> int:
        return hash(self._public)

    def __reduce__(self) -> tuple[object, ...]:
        return recipient_from_public_bytes, (self.kind, self._public)


class HpkeIdentity(_Secret):
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
        """See :class:`Identity`."""
        try:
            content_key = _suite(self.kind).decrypt(wrapped, self._key, info=context)
        except (InvalidTag, ValueError):
            raise _cannot_unwrap(self) from None
        return _checked_unwrapped(self, content_key)

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
        key = certificate.public_key()
        if not isinstance(key, rsa.RSAPublicKey):
            raise ValueError("a certificate must hold an RSA key to be a recipient")
        if key.key_size < _MIN_RSA_BITS:
            raise ValueError(f"the certificate's RSA key has {key.key_size} bits: at least {_MIN_RSA_BITS} are needed")
        try:
            usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        except x509.ExtensionNotFound:
            usage = None
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
        content = _checked_key(content_key) + _cms_mac(content_key, context)
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
        return _shown(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CmsRecipient) and other._public == self._public

    def __hash__(self) -> int:
        return hash(self._public)

    def __reduce__(self) -> tuple[object, ...]:
        return recipient_from_public_bytes, (self.kind, self._public)


class CmsIdentity(_Secret):
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
        """See :class:`Identity`."""
        certificate = self.recipient.certificate
        try:
            content = pkcs7.pkcs7_decrypt_der(wrapped, certificate, self._key, [pkcs7.PKCS7Options.Binary])
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise _cannot_unwrap(self) from None
        # EnvelopedData is not authenticated: AES-CBC gives other bytes for a changed ciphertext without a word, and
        # knows of no context. The MAC under the content key itself makes up for both.
        content_key, mac = content[:CONTENT_KEY_BYTES], content[CONTENT_KEY_BYTES:]
        if not hmac.compare_digest(mac, _cms_mac(content_key, context)):
            raise _cannot_unwrap(self)
        return _checked_unwrapped(self, content_key)


class PassphraseRecipient(_Secret):
    """A passphrase. Its Argon2id key is derived once and serves all records that this object wraps for.

    The record holds no key to wrap with again, so a record cannot be resealed for a passphrase by someone else.
    """

    __slots__ = ("_iterations", "_kek", "_lanes", "_memory_kib", "_salt", "key_id", "kind")
    key_id: bytes

    def __init__(self, passphrase: str | bytes) -> None:
        """The passphrase.

        Args:
            passphrase: not empty; text is normalized (NFC) and encoded in UTF-8.
        """
        self._derive(passphrase, os.urandom(_SALT_BYTES), _ARGON2_MEMORY_KIB, _ARGON2_ITERATIONS, _ARGON2_LANES)

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
        sealed = AESGCM(self._kek).encrypt(nonce, _checked_key(content_key), context)
        return _PASSPHRASE_WRAP.pack(self._salt, self._memory_kib, self._iterations, self._lanes, nonce, sealed)

    def public_bytes(self) -> bytes:
        """Nothing: only who knows the passphrase can wrap for it."""
        return b""


class PassphraseIdentity(_Secret):
    """A passphrase that opens records. The keys derived from it are kept, so that a folder of records is quick."""

    __slots__ = ("_keys", "_passphrase", "key_id", "kind")

    def __init__(self, passphrase: str | bytes) -> None:
        """The passphrase; see :class:`PassphraseRecipient`."""
        self.kind = "passphrase"
        self.key_id: bytes | None = None
        self._passphrase = passphrase_bytes(passphrase)
        self._keys: dict[tuple[bytes, int, int, int], bytes] = {}

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """See :class:`Identity`."""
        if len(wrapped) != _PASSPHRASE_WRAP.size:
            raise _cannot_unwrap(self)
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
            raise _cannot_unwrap(self) from None
        # Kept only where it opened something: foreign records must not fill the memory.
        self._keys[cost] = key
        return _checked_unwrapped(self, content_key)


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
    if not isinstance(key, x25519.X25519PublicKey | ec.EllipticCurvePublicKey) or not isinstance(
        mlkem_key, mlkem.MLKEM768PublicKey | None
    ):
        raise ValueError(f"public key is not of kind {kind!r}")
    recipient = HpkeRecipient(key, mlkem_key)
    if recipient.kind != kind:
        raise ValueError(f"public key is of kind {recipient.kind!r}, not {kind!r}")
    return recipient


def key_id_of(public: bytes) -> bytes:
    """First 16 bytes of the SHA-256 of a public key (SubjectPublicKeyInfo DER) or certificate (DER)."""
    return hashlib.sha256(public).digest()[:KEY_ID_BYTES]


def passphrase_bytes(passphrase: str | bytes) -> bytes:
    """Text in one form (NFC) and UTF-8, so that every keyboard and system gives the same bytes.

    Raises:
        ValueError: the passphrase is empty.
    """
    data = unicodedata.normalize("NFC", passphrase).encode("utf-8") if isinstance(passphrase, str) else passphrase
    if not data:
        raise ValueError("the passphrase is empty")
    return data


def _shown(key: Recipient | _Secret) -> str:
    """``repr`` of a key: kind and id, nothing else."""
    identifier = "" if key.key_id is None else f", key_id={key.key_id.hex()!r}"
    return f"{type(key).__name__}(kind={key.kind!r}{identifier})"


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


def _checked_key(content_key: bytes) -> bytes:
    """The content key, if it is one."""
    if len(content_key) != CONTENT_KEY_BYTES:
        raise ValueError(f"a content key has {CONTENT_KEY_BYTES} bytes, not {len(content_key)}")
    return content_key


def _checked_unwrapped(identity: _Secret, content_key: bytes) -> bytes:
    """The content key that was unwrapped, if it is one."""
    if len(content_key) != CONTENT_KEY_BYTES:
        raise _cannot_unwrap(identity)
    return content_key


def _cannot_unwrap(identity: _Secret) -> WrongKeyError:
    """One error for every way in which unwrapping fails, so that none of them tells an attacker more."""
    return WrongKeyError(f"{identity!r} cannot unwrap the content key")


def _cms_mac(content_key: bytes, context: bytes) -> bytes:
    """HMAC-SHA256 under the content key that binds it to its context."""
    return hmac.digest(content_key, b"monai_miadmark cms content key\x00" + context, "sha256")


def _argon2(passphrase: bytes, salt: bytes, memory_kib: int, iterations: int, lanes: int) -> bytes:
    """AES-256 key from a passphrase."""
    kdf = Argon2id(salt=salt, length=32, iterations=iterations, lanes=lanes, memory_cost=memory_kib)
    return kdf.derive(passphrase)

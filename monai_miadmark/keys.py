# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Keys: made, kept in ordinary PEM files, and read from them. What keys do is in ``recipients`` and ``signatures``.

A private file holds one PKCS#8 block, a public one one SubjectPublicKeyInfo block; files of a hybrid key hold two,
ML-KEM-768 first. A CMS identity is an RSA private key and its certificate in one file, a CMS recipient the certificate
alone. Private files are readable by their owner only, are encrypted when a passphrase is given, and no file is ever
overwritten.
"""

from __future__ import annotations

import os
import re
import stat
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple, TypeAlias

from cryptography import x509
from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, mlkem, rsa, x25519

from monai_miadmark.atomic import write_new
from monai_miadmark.passphrases import SALT_BYTES, PassphraseIdentity, PassphraseRecipient, passphrase_bytes
from monai_miadmark.pkcs8 import encrypted_pkcs8_pem, is_affordable
from monai_miadmark.recipients import CmsIdentity, CmsRecipient, HpkeIdentity, HpkeRecipient, generate_identity
from monai_miadmark.signatures import SIGNATURE_KINDS, Signer, Verifier, generate_signer
from monai_miadmark.wrapping import HPKE_KINDS, KINDS, KeyIdentity, Recipient

__all__ = [
    "HPKE_KINDS",
    "KINDS",
    "SALT_BYTES",
    "SIGNATURE_KINDS",
    "CmsIdentity",
    "CmsRecipient",
    "HpkeIdentity",
    "HpkeRecipient",
    "KeyFileWarning",
    "KeyIdentity",
    "KeyPaths",
    "PassphraseIdentity",
    "PassphraseRecipient",
    "Recipient",
    "Signer",
    "Verifier",
    "generate_identity",
    "generate_signer",
    "holds_private_key",
    "load_certificate",
    "load_identity",
    "load_recipient",
    "load_signer",
    "load_verifier",
    "needs_passphrase",
    "readable_by_others",
    "save_identity",
    "save_key_pair",
    "save_recipient",
    "save_signer",
    "save_verifier",
]

# The largest file of ours, a public hybrid key, has less than 2 KiB; certificates with all their text stay far below.
_MAX_KEY_FILE_BYTES = 64 * 1024
_BEGIN = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----\r?\n")

_PathLike: TypeAlias = str | os.PathLike[str]
_PrivatePart: TypeAlias = (
    mlkem.MLKEM768PrivateKey
    | x25519.X25519PrivateKey
    | ec.EllipticCurvePrivateKey
    | ed25519.Ed25519PrivateKey
    | mldsa.MLDSA65PrivateKey
)


class KeyFileWarning(UserWarning):
    """A private key is kept where others can read it."""


class KeyPaths(NamedTuple):
    """The two files of a key."""

    private: Path
    public: Path


class _Block(NamedTuple):
    """One PEM block of a file."""

    label: str
    pem: bytes

    @property
    def private(self) -> bool:
        return self.label.endswith("PRIVATE KEY")

    @property
    def encrypted(self) -> bool:
        # The second form is the one that OpenSSL wrote before PKCS#8.
        return self.label == "ENCRYPTED PRIVATE KEY" or b"Proc-Type: 4,ENCRYPTED" in self.pem


def save_key_pair(key: HpkeIdentity | Signer, stem: _PathLike, passphrase: str | bytes | None = None) -> KeyPaths:
    """Write ``STEM.key`` (private, mode 0600) and ``STEM.pub``; both or none.

    Args:
        key: identity or signer.
        stem: path without the endings; its folder must exist.
        passphrase: encrypts the private file.

    Raises:
        FileExistsError: one of the files exists; it is left as it is.
        ValueError: the passphrase is empty.
    """
    paths = KeyPaths(Path(f"{os.fspath(stem)}.key"), Path(f"{os.fspath(stem)}.pub"))
    # A private file whose public one cannot be written is taken back: its name would be blocked for the next try.
    _write_private(paths.private, key.private_parts(), passphrase)
    try:
        write_new(paths.public, (key.verifier if isinstance(key, Signer) else key.recipient).public_pem(), 0o644)
    except BaseException:
        paths.private.unlink(missing_ok=True)
        raise
    return paths


def save_identity(identity: HpkeIdentity, path: _PathLike, passphrase: str | bytes | None = None) -> None:
    """Write a private key file, mode 0600. Raises as :func:`save_key_pair` does."""
    _write_private(Path(path), identity.private_parts(), passphrase)


def save_signer(signer: Signer, path: _PathLike, passphrase: str | bytes | None = None) -> None:
    """Write a private signature key file, mode 0600. Raises as :func:`save_key_pair` does."""
    _write_private(Path(path), signer.private_parts(), passphrase)


def save_recipient(recipient: HpkeRecipient | CmsRecipient, path: _PathLike) -> None:
    """Write a public key file or certificate.

    Raises:
        FileExistsError: the file exists; it is left as it is.
    """
    write_new(Path(path), recipient.public_pem(), 0o644)


def save_verifier(verifier: Verifier, path: _PathLike) -> None:
    """Write a public signature key file. Raises as :func:`save_recipient` does."""
    write_new(Path(path), verifier.public_pem(), 0o644)


def load_recipient(path: _PathLike) -> HpkeRecipient | CmsRecipient:
    """Read a public key file (``NAME.pub``) or an X.509 certificate with an RSA key.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not such a file, or the certificate is not valid today.
    """
    path = Path(path)
    blocks = _read_blocks(path)
    labels = [block.label for block in blocks]
    if labels == ["CERTIFICATE"]:
        certificate = _load_certificate(path, blocks[0])
        now = datetime.now(timezone.utc)
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            raise ValueError(f"{path}: the certificate is not valid today")
        with _about(path):
            return CmsRecipient(certificate)
    if labels not in (["PUBLIC KEY"], ["PUBLIC KEY"] * 2):
        if any(block.private for block in blocks):
            raise ValueError(f"{path}: holds a private key; a recipient is given by the public file (NAME.pub)")
        raise ValueError(f"{path}: neither a public key nor one certificate; found {_found(labels)}")
    *first, key = (_load_public(path, block) for block in blocks)
    if isinstance(key, ed25519.Ed25519PublicKey | mldsa.MLDSA65PublicKey):
        raise ValueError(f"{path}: holds a signature key; a recipient needs a key for encryption")
    if not isinstance(key, x25519.X25519PublicKey | ec.EllipticCurvePublicKey):
        raise ValueError(f"{path}: not a public key of a kind that is supported ({', '.join(HPKE_KINDS)})")
    if not first:
        with _about(path):
            return HpkeRecipient(key)
    if not isinstance(first[0], mlkem.MLKEM768PublicKey):
        raise ValueError(f"{path}: two public keys that are not ML-KEM-768 and X25519")
    with _about(path):
        return HpkeRecipient(key, first[0])


def load_certificate(path: _PathLike) -> x509.Certificate:
    """Read an X.509 certificate with an RSA key that may be encrypted for.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a certificate, not one for encryption, or not valid today.
    """
    recipient = load_recipient(path)
    if not isinstance(recipient, CmsRecipient):
        raise ValueError(f"{path}: not an X.509 certificate but a public key of this package")
    return recipient.certificate


def load_identity(path: _PathLike, passphrase: str | bytes | None = None) -> HpkeIdentity | CmsIdentity:
    """Read a private key file (``NAME.key``), or an RSA private key together with its certificate.

    Args:
        path: the file.
        passphrase: of the file, if it is encrypted.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not such a file, or the passphrase is missing, wrong, or not needed.
    """
    path = Path(path)
    keys, certificates = _load_private(path, passphrase)
    *first, key = keys
    if isinstance(key, rsa.RSAPrivateKey):
        if first or len(certificates) != 1:
            raise ValueError(f"{path}: an RSA key needs exactly one certificate beside it, found {len(certificates)}")
        with _about(path):
            return CmsIdentity(key, certificates[0])
    if certificates:
        raise ValueError(f"{path}: certificates are supported for RSA keys only")
    if isinstance(key, ed25519.Ed25519PrivateKey | mldsa.MLDSA65PrivateKey):
        raise ValueError(f"{path}: holds a signature key; an identity needs a key for encryption")
    if not isinstance(key, x25519.X25519PrivateKey | ec.EllipticCurvePrivateKey):
        raise ValueError(f"{path}: not a private key of a kind that is supported ({', '.join(HPKE_KINDS)})")
    if not first:
        with _about(path):
            return HpkeIdentity(key)
    if len(first) != 1 or not isinstance(first[0], mlkem.MLKEM768PrivateKey):
        raise ValueError(f"{path}: several private keys that are not ML-KEM-768 and X25519")
    with _about(path):
        return HpkeIdentity(key, first[0])


def load_signer(path: _PathLike, passphrase: str | bytes | None = None) -> Signer:
    """Read a private signature key file. Arguments and errors as of :func:`load_identity`."""
    path = Path(path)
    keys, certificates = _load_private(path, passphrase)
    key = keys[-1]
    if len(keys) != 1 or certificates or not isinstance(key, ed25519.Ed25519PrivateKey | mldsa.MLDSA65PrivateKey):
        raise ValueError(f"{path}: not a signature key of a kind that is supported ({', '.join(SIGNATURE_KINDS)})")
    return Signer(key)


def load_verifier(path: _PathLike) -> Verifier:
    """Read a public signature key file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not such a file.
    """
    path = Path(path)
    blocks = _read_blocks(path)
    labels = [block.label for block in blocks]
    if any(block.private for block in blocks):
        raise ValueError(f"{path}: holds a private key; signatures are checked with the public file (NAME.pub)")
    key = _load_public(path, blocks[0]) if labels == ["PUBLIC KEY"] else None
    if not isinstance(key, ed25519.Ed25519PublicKey | mldsa.MLDSA65PublicKey):
        raise ValueError(f"{path}: not a public signature key ({', '.join(SIGNATURE_KINDS)}); found {_found(labels)}")
    return Verifier(key)


def needs_passphrase(path: _PathLike) -> bool:
    """Whether a private key file is encrypted. Raises as :func:`load_identity` does."""
    return any(block.encrypted for block in _read_blocks(Path(path)))


def holds_private_key(path: _PathLike) -> bool:
    """Whether a key file holds a private key, encrypted or not. Raises as :func:`load_identity` does."""
    return any(block.private for block in _read_blocks(Path(path)))


def readable_by_others(path: Path) -> bool:
    """Whether a file may be read by its group or by all; ``False`` where that cannot be found out."""
    if os.name != "posix":
        return False
    try:
        return bool(stat.S_IMODE(path.stat().st_mode) & (stat.S_IRGRP | stat.S_IROTH))
    except OSError:
        return False


def _read_blocks(path: Path) -> list[_Block]:
    """The PEM blocks of a file; text around them is allowed, as in other PEM files."""
    with path.open("rb") as file:
        data = file.read(_MAX_KEY_FILE_BYTES + 1)
    if len(data) > _MAX_KEY_FILE_BYTES:
        raise ValueError(f"{path}: larger than {_MAX_KEY_FILE_BYTES} bytes, not a key file")
    blocks = []
    at = 0
    while (begin := _BEGIN.search(data, at)) is not None:
        at = begin.end()
        last = b"-----END " + begin[1] + b"-----"
        if (stop := data.find(last, at)) >= 0:
            at = stop + len(last)
            blocks.append(_Block(begin[1].decode("ascii"), data[begin.start() : at] + b"\n"))
    if not blocks:
        raise ValueError(f"{path}: not a key file, no PEM block found")
    return blocks


def _load_private(path: Path, passphrase: str | bytes | None) -> tuple[list[object], list[x509.Certificate]]:
    """All private keys (at least one) and certificates of a file."""
    blocks = _read_blocks(path)
    labels = [block.label for block in blocks]
    if not any(block.private for block in blocks) or not all(b.private or b.label == "CERTIFICATE" for b in blocks):
        raise ValueError(f"{path}: not a private key file; found {_found(labels)}")
    encrypted = any(block.encrypted for block in blocks)
    if encrypted and passphrase is None:
        raise ValueError(f"{path}: the private key is encrypted: its passphrase is needed")
    if not encrypted and passphrase is not None:
        raise ValueError(f"{path}: a passphrase was given, but the private key is not encrypted")
    password = None if passphrase is None else passphrase_bytes(passphrase)
    if readable_by_others(path):
        warnings.warn(f"{path}: others on this machine can read this private key (chmod 600)", KeyFileWarning, 4)
    keys: list[object] = []
    for block in blocks:
        if not block.private:
            continue
        if block.label == "ENCRYPTED PRIVATE KEY" and not is_affordable(block.pem):
            raise ValueError(f"{path}: asks for more time or memory than the passphrase of a key file may take")
        try:
            keys.append(serialization.load_pem_private_key(block.pem, password if block.encrypted else None))
        except (ValueError, TypeError, InternalError):
            # The causes are not told apart by the library, and what it says might quote the file.
            reason = "wrong passphrase, or the file is damaged" if block.encrypted else "the private key is malformed"
            raise ValueError(f"{path}: {reason}") from None
        except UnsupportedAlgorithm:
            raise ValueError(f"{path}: private key of an unknown algorithm") from None
    return keys, [_load_certificate(path, block) for block in blocks if not block.private]


def _load_public(path: Path, block: _Block) -> object:
    """The public key of a block."""
    try:
        return serialization.load_pem_public_key(block.pem)
    except (ValueError, InternalError):
        raise ValueError(f"{path}: the public key is malformed") from None
    except UnsupportedAlgorithm:
        raise ValueError(f"{path}: public key of an unknown algorithm") from None


def _load_certificate(path: Path, block: _Block) -> x509.Certificate:
    """The certificate of a block."""
    try:
        return x509.load_pem_x509_certificate(block.pem)
    except (ValueError, x509.InvalidVersion):
        raise ValueError(f"{path}: the certificate is malformed") from None


def _write_private(path: Path, parts: Iterable[_PrivatePart], passphrase: str | bytes | None) -> None:
    """Write private keys as PKCS#8 blocks."""
    password = None if passphrase is None else passphrase_bytes(passphrase)
    plain = serialization.NoEncryption()
    blocks = []
    for part in parts:
        if password is None:
            form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain
            blocks.append(part.private_bytes(*form))
        else:
            der = part.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, plain)
            blocks.append(encrypted_pkcs8_pem(der, password))
    write_new(path, b"".join(blocks), 0o600)


@contextmanager
def _about(path: Path) -> Iterator[None]:
    """Name the file in what a constructor says about its key."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _found(labels: list[str]) -> str:
    """PEM labels of a file, for a message."""
    return ", ".join(labels[:4]) + (", ..." if len(labels) > 4 else "")

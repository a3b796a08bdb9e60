# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Layout of a sealed record: bytes to fields and back, without any key.

All integers are big-endian::

    magic              8  b"MIADMARK"
    version            1  2 (1 is read too)
    header length      4  at most 1 MiB
    header                JSON, ASCII, see below; a space is put behind it where that makes the whole even, because
                          values in DICOM are padded to even length and must come back as they were
    ciphertext length  8
    ciphertext            AES-256-GCM of the payload (see ``seal``), tag at its end; all before it is associated data
    checksum          32  SHA-256 of all before it: tells plain damage from a wrong key, and protects from nothing else

The header is an object with exactly these members: ``suite`` (text), ``protected_pixels`` (SHA-256, hex),
``recipients`` (list of ``{kind, key_id (hex), wrapped (base64)}``), ``nonce`` (12 bytes, hex), ``commitment`` (SHA-256,
hex), ``notes`` (version 2 only) and ``signature`` (``{kind, public_key (base64), signature (base64)}`` or null).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from monai_miadmark.errors import NotProtectedError, TamperedError
from monai_miadmark.notes import Note, checked_notes
from monai_miadmark.passphrases import WRAPPED_BYTES
from monai_miadmark.signatures import Verifier
from monai_miadmark.wrapping import KEY_ID_BYTES, KINDS

__all__ = [
    "DIGEST_BYTES",
    "MAGIC",
    "MAX_PASSPHRASES",
    "NONCE_BYTES",
    "SUITE",
    "VERSION",
    "VERSIONS",
    "Envelope",
    "EnvelopeInfo",
    "Header",
    "HeaderSignature",
    "WrappedKey",
    "encode_prefix",
    "finish_envelope",
    "inspect_envelope",
    "parse_envelope",
    "peek_header",
]

MAGIC = b"MIADMARK"
VERSION = 2
"""Version that is written."""
VERSIONS = (1, 2)
"""Versions that are read."""
SUITE = "AES-256-GCM+SHA-256"
DIGEST_BYTES = 32
NONCE_BYTES = 12
# Each passphrase costs whoever opens a record one run of Argon2id with numbers that the record names.
MAX_PASSPHRASES = 4

_MAX_HEADER_BYTES = 1024 * 1024
_START = struct.Struct(">8sBI")
_LENGTH = struct.Struct(">Q")
_TAG_BYTES = 16
_HEX = re.compile(r"(?:[0-9a-f]{2})*")


@dataclass(frozen=True)
class WrappedKey:
    """The content key for one recipient.

    Attributes:
        kind: kind of the recipient's key.
        key_id: 16 bytes.
        wrapped: what ``Recipient.wrap`` gave.
    """

    kind: str
    key_id: bytes
    wrapped: bytes = field(repr=False)

    @property
    def name(self) -> tuple[str, bytes]:
        """What tells recipients apart."""
        return self.kind, self.key_id


@dataclass(frozen=True)
class HeaderSignature:
    """A custodian's signature; ``verifier`` is who it claims to be by until it has been verified."""

    verifier: Verifier
    signature: bytes = field(repr=False)


@dataclass(frozen=True)
class Header:
    """All that stands in the header, and the version of the envelope. Digests are 32 bytes, the nonce is 12."""

    protected_pixels: bytes
    wrapped_keys: tuple[WrappedKey, ...]
    nonce: bytes
    commitment: bytes
    signature: HeaderSignature | None
    notes: Mapping[str, Note] = field(default_factory=dict)
    version: int = VERSION


@dataclass(frozen=True)
class Envelope:
    """A sealed record whose layout and checksum are right; nothing in it is authentic before it has been opened."""

    header: Header
    associated_data: memoryview = field(repr=False)
    ciphertext: memoryview = field(repr=False)


@dataclass(frozen=True)
class EnvelopeInfo:
    """What can be told about a sealed record without a key.

    Attributes:
        version: of the envelope.
        suite: name of the algorithms that seal the record.
        recipients: kind and key id (hex) of each.
        protected_pixels: SHA-256 of the protected pixels, hex.
        signer: kind and key id (hex) of the custodian that it names as signer; not verified by ``inspect_envelope``.
        envelope_bytes: size of all.
        record_bytes: size of the sealed part.
        notes: public facts about the image, by name; authentic only if record or signature have been verified.
    """

    version: int
    suite: str
    recipients: tuple[tuple[str, str], ...]
    protected_pixels: str
    signer: tuple[str, str] | None
    envelope_bytes: int
    record_bytes: int
    notes: Mapping[str, Note] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        return {
            "version": self.version,
            "suite": self.suite,
            "recipients": [{"kind": kind, "key_id": key_id} for kind, key_id in self.recipients],
            "protected_pixels": self.protected_pixels,
            "signer": None if self.signer is None else {"kind": self.signer[0], "key_id": self.signer[1]},
            "envelope_bytes": self.envelope_bytes,
            "record_bytes": self.record_bytes,
            "notes": dict(self.notes),
        }


def inspect_envelope(envelope: bytes) -> EnvelopeInfo:
    """Tell what can be told without a key. Nothing is verified but layout and checksum.

    Raises:
        NotProtectedError: the bytes are no envelope at all.
        TamperedError: damaged, truncated, or of an unknown version.
    """
    parsed = parse_envelope(envelope)
    header = parsed.header
    signer = header.signature.verifier if header.signature is not None else None
    return EnvelopeInfo(
        version=header.version,
        suite=SUITE,
        recipients=tuple((key.kind, key.key_id.hex()) for key in header.wrapped_keys),
        protected_pixels=header.protected_pixels.hex(),
        signer=None if signer is None else (signer.kind, signer.key_id.hex()),
        envelope_bytes=len(envelope),
        record_bytes=len(parsed.ciphertext),
        notes=header.notes,
    )


def encode_prefix(header: Header, plaintext_bytes: int) -> bytes:
    """All bytes before the ciphertext, which are its associated data too. Always of the newest version.

    Raises:
        ValueError: too many recipients for one record, or notes that are none.
    """
    signature = header.signature
    content = {
        "suite": SUITE,
        "protected_pixels": header.protected_pixels.hex(),
        "recipients": [
            {"kind": key.kind, "key_id": key.key_id.hex(), "wrapped": _base64(key.wrapped)}
            for key in header.wrapped_keys
        ],
        "nonce": header.nonce.hex(),
        "commitment": header.commitment.hex(),
        "notes": checked_notes(header.notes),
        "signature": None
        if signature is None
        else {
            "kind": signature.verifier.kind,
            "public_key": _base64(signature.verifier.public_bytes()),
            "signature": _base64(signature.signature),
        },
    }
    encoded = json.dumps(content, separators=(",", ":"), ensure_ascii=True).encode("ascii")
    # What follows the plaintext (tag and checksum) is even already.
    if (_START.size + len(encoded) + _LENGTH.size + plaintext_bytes) % 2:
        encoded += b" "
    passphrases = sum(key.kind == "passphrase" for key in header.wrapped_keys)
    if passphrases > MAX_PASSPHRASES:
        raise ValueError(f"{passphrases} passphrases for one record: at most {MAX_PASSPHRASES} are supported")
    if len(encoded) > _MAX_HEADER_BYTES:
        raise ValueError(f"{len(header.wrapped_keys)} recipients are too many for one record")
    start = _START.pack(MAGIC, VERSION, len(encoded))
    return start + encoded + _LENGTH.pack(plaintext_bytes + _TAG_BYTES)


def finish_envelope(prefix: bytes, ciphertext: bytes) -> bytes:
    """The whole envelope."""
    digest = hashlib.sha256(prefix)
    digest.update(ciphertext)
    return b"".join([prefix, ciphertext, digest.digest()])


def parse_envelope(envelope: bytes) -> Envelope:
    """Take an envelope apart. Raises as :func:`inspect_envelope` does.

    Takes no memory beyond a few times the header, whatever lengths the bytes claim.
    """
    view = memoryview(envelope).toreadonly()
    if bytes(view[: len(MAGIC)]) != MAGIC:
        raise NotProtectedError("no sealed recovery record: the bytes do not begin as one")
    if len(view) < _START.size:
        raise TamperedError("the sealed record is truncated")
    _, version, header_bytes = _START.unpack_from(view)
    if version not in VERSIONS:
        raise TamperedError(f"unknown envelope version {version}: damaged, or made by a newer monai_miadmark")
    body = _START.size + header_bytes + _LENGTH.size
    if header_bytes > _MAX_HEADER_BYTES:
        raise TamperedError(f"the header of the sealed record claims {header_bytes} bytes: damaged")
    if len(view) < body:
        raise TamperedError("the sealed record is truncated")
    (ciphertext_bytes,) = _LENGTH.unpack_from(view, body - _LENGTH.size)
    end = body + ciphertext_bytes
    if len(view) != end + DIGEST_BYTES:
        raise TamperedError(f"the sealed record has {len(view)} bytes where {end + DIGEST_BYTES} are declared: damaged")
    if not hmac.compare_digest(hashlib.sha256(view[:end]).digest(), view[end:]):
        raise TamperedError("the checksum of the sealed record is wrong: damaged")
    if ciphertext_bytes < _TAG_BYTES:
        raise TamperedError("the sealed record is too short to be one")
    try:
        header = _decode_header(bytes(view[_START.size : body - _LENGTH.size]), version)
    except (ValueError, RecursionError) as error:
        # What json says may quote the file; what is said here does not.
        reason = str(error) if type(error) is _HeaderError else "not the JSON of one"
        raise TamperedError(f"the header of the sealed record is malformed: {reason}") from None
    return Envelope(header, view[:body], view[body:end])


def peek_header(stream: BinaryIO) -> Header:
    """The header of an envelope, from its first bytes alone: enough to find the image that it belongs to.

    The checksum is not looked at; take nothing of it for more than a hint.

    Args:
        stream: at the beginning of the envelope; read no further than to the end of the header.

    Raises:
        NotProtectedError: the bytes do not begin as an envelope.
        TamperedError: damaged, truncated, or of an unknown version.
        OSError: reading failed.
    """
    start = stream.read(_START.size)
    if start[: len(MAGIC)] != MAGIC:
        raise NotProtectedError("no sealed recovery record: the bytes do not begin as one")
    if len(start) < _START.size:
        raise TamperedError("the sealed record is truncated")
    _, version, header_bytes = _START.unpack(start)
    if version not in VERSIONS or header_bytes > _MAX_HEADER_BYTES:
        raise TamperedError("the sealed record is damaged, or made by a newer monai_miadmark")
    try:
        return _decode_header(stream.read(header_bytes), version)
    except (ValueError, RecursionError):
        raise TamperedError("the header of the sealed record is malformed") from None


class _HeaderError(ValueError):
    """A member of the header is not as it must be."""


def _decode_header(data: bytes, version: int) -> Header:
    """The header of its JSON; ValueError or RecursionError for anything unexpected."""
    names = ("suite", "protected_pixels", "recipients", "nonce", "commitment", "signature")
    members = _object(
        json.loads(data.decode("ascii"), object_pairs_hook=_unique, parse_constant=_no_constant),
        names if version == 1 else (*names, "notes"),
    )
    if members["suite"] != SUITE:
        raise _HeaderError("unknown suite")
    entries = members["recipients"]
    if not isinstance(entries, list) or not entries:
        raise _HeaderError("no recipients")
    keys = tuple(_decode_wrapped_key(entry) for entry in entries)
    if len({key.name for key in keys}) != len(keys):
        raise _HeaderError("a recipient occurs twice")
    if sum(key.kind == "passphrase" for key in keys) > MAX_PASSPHRASES:
        raise _HeaderError("too many passphrases")
    # Which form a wrapped key has is decided by the version alone: the older one does not commit to its key.
    if any(key.kind == "passphrase" and len(key.wrapped) != WRAPPED_BYTES[version] for key in keys):
        raise _HeaderError("a key wrapped for a passphrase has another length")
    return Header(
        protected_pixels=_from_hex(members["protected_pixels"], DIGEST_BYTES),
        wrapped_keys=keys,
        nonce=_from_hex(members["nonce"], NONCE_BYTES),
        commitment=_from_hex(members["commitment"], DIGEST_BYTES),
        signature=None if members["signature"] is None else _decode_signature(members["signature"]),
        notes=_decode_notes(members.get("notes", {})),
        version=version,
    )


def _decode_notes(value: object) -> dict[str, Note]:
    """The notes of the header."""
    if not isinstance(value, dict):
        raise _HeaderError("the notes are none")
    try:
        return checked_notes(value)
    except ValueError:
        raise _HeaderError("a note is malformed") from None


def _decode_wrapped_key(value: object) -> WrappedKey:
    """One entry of the recipients."""
    members = _object(value, ("kind", "key_id", "wrapped"))
    if members["kind"] not in KINDS:
        raise _HeaderError("unknown kind of recipient")
    return WrappedKey(members["kind"], _from_hex(members["key_id"], KEY_ID_BYTES), _from_base64(members["wrapped"]))


def _decode_signature(value: object) -> HeaderSignature:
    """The signature, not verified."""
    members = _object(value, ("kind", "public_key", "signature"))
    try:
        verifier = Verifier.from_public_bytes(_from_base64(members["public_key"]))
    except ValueError:
        raise _HeaderError("the signer's public key cannot be read") from None
    if members["kind"] != verifier.kind:
        raise _HeaderError("the signer's public key is not of the kind that is named")
    return HeaderSignature(verifier, _from_base64(members["signature"]))


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """JSON object without repeated names: readers differ in which of them counts."""
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _HeaderError("a name occurs twice")
    return members


def _no_constant(_: str) -> object:
    """NaN and Infinity are not JSON."""
    raise _HeaderError("a number that is none")


def _object(value: object, names: tuple[str, ...]) -> dict[str, Any]:
    """A JSON object with exactly these names."""
    if not isinstance(value, dict) or value.keys() != set(names):
        raise _HeaderError("members are missing or unknown")
    return value


def _from_hex(value: object, size: int) -> bytes:
    """Bytes of lower-case hex digits."""
    if not isinstance(value, str) or len(value) != 2 * size or not _HEX.fullmatch(value):
        raise _HeaderError("a value is not hex of its length")
    return bytes.fromhex(value)


def _base64(data: bytes) -> str:
    """Base64 with padding."""
    return base64.b64encode(data).decode("ascii")


def _from_base64(value: object) -> bytes:
    """Bytes of canonical base64."""
    if not isinstance(value, str):
        raise _HeaderError("a value is not base64")
    data = base64.b64decode(value, validate=True)
    if _base64(data) != value:
        raise _HeaderError("a value is not canonical base64")
    return data

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Seal a recovery record for recipients, open it, and change who may open it. Knows bytes only, nothing of images.

The payload under AES-256-GCM is the roster (public bytes of the recipients, so that any of them can wrap a new content
key for the others), a salt of 32 bytes, and the record. The header holds SHA-256(salt | record) as a commitment. A
custodian's signature is over it and everything else in the header: over the record, of which it tells nothing, and over
the recipients, so that nobody who once could open the record makes it over to others in the custodian's name. Whoever
changes the recipients signs anew, or the signature goes.

Envelopes of version 1, whose signature does not cover recipients, are read; what is sealed anew is of version 2.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from monai_miadmark.bindings import signed_message, wrap_context
from monai_miadmark.envelope import (
    DIGEST_BYTES,
    NONCE_BYTES,
    VERSION,
    Envelope,
    EnvelopeInfo,
    Header,
    HeaderSignature,
    WrappedKey,
    encode_prefix,
    finish_envelope,
    inspect_envelope,
    parse_envelope,
)
from monai_miadmark.errors import MIADMarkError, SignatureError, TamperedError, UnsupportedImageError, WrongKeyError
from monai_miadmark.notes import Note, checked_notes
from monai_miadmark.passphrases import PassphraseIdentity
from monai_miadmark.recipients import MAX_RECIPIENTS, decode_roster, encode_roster
from monai_miadmark.signatures import Signer, Verifier
from monai_miadmark.wrapping import CONTENT_KEY_BYTES, KeyIdentity, Recipient

__all__ = [
    "EnvelopeInfo",
    "Opened",
    "grant",
    "inspect_envelope",
    "open_envelope",
    "revoke",
    "seal",
    "verify_envelope",
]

_SALT_BYTES = 32
# AES-GCM of cryptography takes messages below 2 GiB; the rest is for the roster.
_MAX_RECORD_BYTES = 2**31 - 2**22
_SHOWN_RECIPIENTS = 4


@dataclass(frozen=True)
class Opened:
    """An opened record. All in it is authentic: made by someone who knew the content key.

    Attributes:
        record: the recovery record's bytes.
        protected_pixels: SHA-256 of the protected pixels that the record belongs to.
        recipients: kind and key id of all who can open it.
        opened_by: kind and key id of the recipient whose identity opened it.
        signer: who signed it; the signature has been verified. ``None`` without one.
        notes: public facts of the header.
    """

    record: bytes = field(repr=False)
    protected_pixels: bytes
    recipients: tuple[tuple[str, bytes], ...]
    opened_by: tuple[str, bytes]
    signer: Verifier | None
    notes: Mapping[str, Note] = field(default_factory=dict)


@dataclass(frozen=True, repr=False)
class _Unsealed:
    """What only holders of the content key see."""

    header: Header
    opened_by: WrappedKey
    content_key: bytes
    roster: dict[tuple[str, bytes], Recipient]
    salt: bytes
    record: bytes


def seal(
    record: bytes,
    recipients: Iterable[Recipient],
    protected_pixels: bytes,
    content_key: bytes | None = None,
    signer: Signer | None = None,
    notes: Mapping[str, Note] | None = None,
) -> bytes:
    """Seal a record.

    Args:
        record: recovery record, any bytes.
        recipients: who may open it, at least one; one that is named twice counts once.
        protected_pixels: SHA-256 of the protected pixels (32 bytes), which the record is bound to.
        content_key: 32 random bytes that serve no other record; made here if not given.
        signer: the custodian, if the record is to be signed.
        notes: public facts about the image that anyone may read, see :func:`~monai_miadmark.notes.checked_notes`.

    Returns:
        The envelope, of an even number of bytes.

    Raises:
        ValueError: no recipient or too many, an argument of a wrong length, or notes that are none.
        UnsupportedImageError: the record has 2 GiB or more.
    """
    key = os.urandom(CONTENT_KEY_BYTES) if content_key is None else content_key
    salt, nonce = os.urandom(_SALT_BYTES), os.urandom(NONCE_BYTES)
    return _seal(record, recipients, protected_pixels, key, salt, nonce, signer, notes or {})


def open_envelope(
    envelope: bytes,
    identities: Iterable[KeyIdentity],
    protected_pixels: bytes | None = None,
    require_signer: Verifier | None = None,
) -> Opened:
    """Open a sealed record.

    Args:
        envelope: what :func:`seal`, :func:`grant` or :func:`revoke` gave.
        identities: keys to try.
        protected_pixels: SHA-256 of the pixels at hand, to be the one that the record is bound to.
        require_signer: demand a signature by this custodian. One that is present is verified in any case.

    Raises:
        NotProtectedError: the bytes are no envelope at all.
        TamperedError: damaged, truncated, changed, of an unknown version, or not the record of these pixels.
        SignatureError: the signature is not valid, or it is not there or not by the one demanded.
        WrongKeyError: no identity fits.
    """
    parsed = parse_envelope(envelope)
    signer = _verify_header(parsed.header, protected_pixels, require_signer)
    unsealed = _unseal(parsed, identities)
    return Opened(
        record=unsealed.record,
        protected_pixels=parsed.header.protected_pixels,
        recipients=tuple(key.name for key in parsed.header.wrapped_keys),
        opened_by=unsealed.opened_by.name,
        signer=signer,
        notes=parsed.header.notes,
    )


def verify_envelope(envelope: bytes, protected_pixels: bytes | None, signer: Verifier | None = None) -> EnvelopeInfo:
    """Verify all that can be verified without a key: layout, checksum, pixels, signature.

    Without a signature this finds damage, but not a record that someone else made on purpose.

    Args:
        envelope: the sealed record.
        protected_pixels: SHA-256 of the pixels at hand; ``None`` leaves this check out.
        signer: demand a signature by this custodian.

    Raises:
        NotProtectedError: the bytes are no envelope at all.
        TamperedError: damaged, or not the record of these pixels.
        SignatureError: the signature is not valid, or it is not there or not by the one demanded.
    """
    _verify_header(parse_envelope(envelope).header, protected_pixels, signer)
    return inspect_envelope(envelope)


def grant(
    envelope: bytes, identity: KeyIdentity, recipients: Iterable[Recipient], signer: Signer | None = None
) -> bytes:
    """Let others open a record too, without the original image.

    Args:
        envelope: the sealed record.
        identity: of someone who can open it.
        recipients: to be added; those who can open it already are left as they are.
        signer: the custodian who signs the record for its new recipients.

    Returns:
        A new envelope with the same content key. Without ``signer`` it is not signed, whether or not the old one was.

    Raises:
        ValueError: too many recipients, or the envelope is of version 1 and for somebody else's passphrase, too.
        MIADMarkError: as :func:`open_envelope`.
    """
    parsed = parse_envelope(envelope)
    _verify_header(parsed.header, None, None)
    unsealed = _unseal(parsed, [identity])
    present = {key.name for key in unsealed.header.wrapped_keys}
    added = [recipient for recipient in _unique(recipients) if (recipient.kind, recipient.key_id) not in present]
    kept: Sequence[WrappedKey] = unsealed.header.wrapped_keys
    context = wrap_context(VERSION, unsealed.header.protected_pixels)
    if unsealed.header.version != VERSION:  # what was wrapped is bound to its version
        kept = _wrap(unsealed.content_key, _remaining(unsealed, kept, identity), context)
    wrapped = [*kept, *_wrap(unsealed.content_key, added, context)]
    return _reseal(unsealed, unsealed.content_key, wrapped, [*unsealed.roster.values(), *added], signer)


def revoke(
    envelope: bytes, identity: KeyIdentity, recipients: Iterable[Recipient | bytes], signer: Signer | None = None
) -> bytes:
    """Take recipients out of a record, without the original image.

    The rest get a fresh content key. Who was taken out can still open a copy of the old envelope.

    Args:
        envelope: the sealed record.
        identity: of someone who can open it.
        recipients: to be taken out, or their key ids.
        signer: the custodian who signs the record for its new recipients.

    Returns:
        A new envelope. Without ``signer`` it is not signed, whether or not the old one was.

    Raises:
        ValueError: one of them is no recipient, none would be left, or somebody else's passphrase would be left (only
            who knows it could wrap the fresh key for it: take it out, and grant it again).
        MIADMarkError: as :func:`open_envelope`.
    """
    parsed = parse_envelope(envelope)
    _verify_header(parsed.header, None, None)
    unsealed = _unseal(parsed, [identity])
    unwanted = {entry if isinstance(entry, bytes) else entry.key_id for entry in recipients}
    unknown = unwanted - {key.key_id for key in unsealed.header.wrapped_keys}
    if unknown:
        raise ValueError(f"not among the recipients of this record: {', '.join(sorted(k.hex() for k in unknown))}")
    left = [key for key in unsealed.header.wrapped_keys if key.key_id not in unwanted]
    if not left:
        raise ValueError("no recipient would be left to open the record")
    remaining = _remaining(unsealed, left, identity)
    content_key = os.urandom(CONTENT_KEY_BYTES)
    wrapped = _wrap(content_key, remaining, wrap_context(VERSION, unsealed.header.protected_pixels))
    return _reseal(unsealed, content_key, wrapped, remaining, signer)


def _remaining(unsealed: _Unsealed, left: Iterable[WrappedKey], identity: KeyIdentity) -> list[Recipient]:
    """The recipients of keys that are to be wrapped anew."""
    remaining: list[Recipient] = []
    for key in left:
        if key == unsealed.opened_by and isinstance(identity, PassphraseIdentity):
            remaining.append(identity.recipient_of(key.wrapped))
        elif key.kind == "passphrase":
            raise ValueError(
                f"the key for passphrase {key.key_id.hex()} cannot be wrapped anew: revoke it too, and grant it again"
            )
        elif key.name not in unsealed.roster:
            raise TamperedError(f"recipient {key.kind} {key.key_id.hex()} is not in the sealed list of recipients")
        else:
            remaining.append(unsealed.roster[key.name])
    return remaining


def _seal(
    record: bytes,
    recipients: Iterable[Recipient],
    protected_pixels: bytes,
    content_key: bytes,
    salt: bytes,
    nonce: bytes,
    signer: Signer | None,
    notes: Mapping[str, Note],
) -> bytes:
    """Seal with the randomness given, so that frozen vectors can be made; what recipients draw is not part of it."""
    wanted = _unique(recipients)
    if not wanted:
        raise ValueError("a record needs at least one recipient")
    for name, value, size in (
        ("protected_pixels", protected_pixels, DIGEST_BYTES),
        ("content_key", content_key, CONTENT_KEY_BYTES),
        ("salt", salt, _SALT_BYTES),
        ("nonce", nonce, NONCE_BYTES),
    ):
        if len(value) != size:
            raise ValueError(f"{name} must have {size} bytes, not {len(value)}")
    if len(record) > _MAX_RECORD_BYTES:
        raise UnsupportedImageError(f"its recovery record has {len(record)} bytes: at most {_MAX_RECORD_BYTES} fit")
    roster = encode_roster(wanted)
    wrapped = _wrap(content_key, wanted, wrap_context(VERSION, protected_pixels))
    header = Header(protected_pixels, tuple(wrapped), nonce, _commitment(salt, record), None, checked_notes(notes))
    return _encrypt(_signed(header, signer), content_key, b"".join([roster, salt, record]))


def _reseal(
    unsealed: _Unsealed,
    content_key: bytes,
    wrapped: Sequence[WrappedKey],
    roster: Sequence[Recipient],
    signer: Signer | None,
) -> bytes:
    """The same record for other recipients."""
    old = unsealed.header
    # The content key may be the same as before: a nonce must never come twice under one key.
    nonce = os.urandom(NONCE_BYTES)
    header = Header(old.protected_pixels, tuple(wrapped), nonce, old.commitment, None, old.notes)
    payload = b"".join([encode_roster(roster), unsealed.salt, unsealed.record])
    return _encrypt(_signed(header, signer), content_key, payload)


def _signed(header: Header, signer: Signer | None) -> Header:
    """The header with a signature, where there is somebody to sign."""
    if signer is None:
        return header
    return replace(header, signature=HeaderSignature(signer.verifier, signer.sign(signed_message(header))))


def _encrypt(header: Header, content_key: bytes, payload: bytes) -> bytes:
    """Header and payload to envelope."""
    prefix = encode_prefix(header, len(payload))
    return finish_envelope(prefix, AESGCM(content_key).encrypt(header.nonce, payload, prefix))


def _unseal(envelope: Envelope, identities: Iterable[KeyIdentity]) -> _Unsealed:
    """Find the content key, decrypt, and check the commitment."""
    header = envelope.header
    opened_by, content_key = _find_content_key(header, identities)
    try:
        payload = AESGCM(content_key).decrypt(header.nonce, envelope.ciphertext, envelope.associated_data)
    except InvalidTag:
        raise _unopened(header, opened_by, "the sealed record or its header has been changed") from None
    roster, offset = decode_roster(payload)
    salt, record = payload[offset : offset + _SALT_BYTES], payload[offset + _SALT_BYTES :]
    # AES-GCM alone would let a malicious custodian make one ciphertext that opens to different records under
    # different keys; and the signature is over the commitment, not over the record.
    if len(salt) != _SALT_BYTES or not hmac.compare_digest(_commitment(salt, record), header.commitment):
        raise _unopened(header, opened_by, "the record is not the one that its header commits to")
    return _Unsealed(header, opened_by, content_key, roster, salt, record)


def _unopened(header: Header, opened_by: WrappedKey, reason: str) -> MIADMarkError:
    """The error for a record that its content key does not open."""
    # What version 1 wrapped for passphrases may open under several that the sender chose. If that were told apart from
    # a wrong passphrase, each entry would test more than one guess.
    if header.version == 1 and opened_by.kind == "passphrase":
        return WrongKeyError("the passphrase does not open this record, or the record has been changed")
    return TamperedError(reason)


def _find_content_key(header: Header, identities: Iterable[KeyIdentity]) -> tuple[WrappedKey, bytes]:
    """The first wrapped key that one of the identities unwraps."""
    context = wrap_context(header.version, header.protected_pixels)
    # Passphrases last: they have to be tried, and each trial is meant to be slow.
    ordered = sorted(identities, key=lambda identity: identity.key_id is None)
    addressed: KeyIdentity | None = None
    for identity in ordered:
        for key in header.wrapped_keys:
            if key.kind != identity.kind or identity.key_id not in (None, key.key_id):
                continue
            try:
                return key, identity.unwrap(key.wrapped, context)
            except WrongKeyError:
                if identity.key_id is not None:
                    addressed = identity
    if addressed is not None:
        # The header names this very key: what was wrapped for it must have been changed, or the digest beside it.
        raise TamperedError(
            f"the header of the sealed record has been changed: it names {addressed!r}, whose key fails"
        )
    shown = [f"{key.kind} {key.key_id.hex()}" for key in header.wrapped_keys[:_SHOWN_RECIPIENTS]]
    more = len(header.wrapped_keys) - len(shown)
    raise WrongKeyError(
        f"none of the {len(ordered)} identities given can open this record; it is for "
        + ", ".join(shown)
        + (f" and {more} more" if more else "")
    )


def _verify_header(header: Header, protected_pixels: bytes | None, signer: Verifier | None) -> Verifier | None:
    """Check pixels and signature; who signed."""
    if protected_pixels is not None and not hmac.compare_digest(protected_pixels, header.protected_pixels):
        raise TamperedError("the pixels are not those that were protected with this record")
    signature = header.signature
    if signature is None:
        if signer is not None:
            raise SignatureError("the record is not signed, but a signature was demanded")
        return None
    if signer is not None and signature.verifier != signer:
        raise SignatureError(f"the record is signed by {signature.verifier}, not by {signer}")
    signature.verifier.verify(signed_message(header), signature.signature)
    return signature.verifier


def _unique(recipients: Iterable[Recipient]) -> list[Recipient]:
    """Each recipient once, in order."""
    unique = list({(recipient.kind, recipient.key_id): recipient for recipient in recipients}.values())
    if len(unique) > MAX_RECIPIENTS:  # before any of them costs a public-key operation
        raise ValueError(f"{len(unique)} recipients are too many for one record")
    return unique


def _wrap(content_key: bytes, recipients: Iterable[Recipient], context: bytes) -> list[WrappedKey]:
    """The content key for each recipient."""
    return [WrappedKey(who.kind, who.key_id, who.wrap(content_key, context)) for who in recipients]


def _commitment(salt: bytes, record: bytes) -> bytes:
    """Binds to the record; without the salt, which is sealed too, a guess at the record could be confirmed by it."""
    digest = hashlib.sha256(salt)
    digest.update(record)
    return digest.digest()

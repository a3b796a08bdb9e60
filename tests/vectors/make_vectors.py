# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Make the frozen vectors of the sealed record: ``cd tests && python -m vectors.make_vectors``.

Run it for a new version of the envelope, or to add vectors; files that exist are left as they are, because what is
frozen there must stay readable for ever. All keys, salts and nonces are fixed and good for nothing but tests. X25519
and passphrase recipients are made by hand (``rfc9180.py`` and single primitives), so those vectors are the same bytes
at every run and owe nothing to the code that they test; ML-KEM, P-256, CMS and ML-DSA draw randomness that cannot be
given. Names that begin with ``v2_`` are of envelope version 2, all others of version 1, which is no longer written.

Each file: ``outcome`` (one of OUTCOMES), ``message`` (a part of the error's text), ``identities`` (names in
``keys.json``), ``protected_pixels`` (of the pixels at hand, hex), ``require_signer`` (a name or null), ``envelope``
(base64), and for success ``record`` (hex) and ``signer`` (a name or null).
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import hashlib
import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, mlkem, rsa, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.x509.oid import NameOID
from vectors.rfc9180 import seal_x25519

from monai_miadmark import seal as sealing
from monai_miadmark.envelope import MAGIC
from monai_miadmark.keys import (
    CmsIdentity,
    HpkeIdentity,
    HpkeRecipient,
    KeyIdentity,
    PassphraseIdentity,
    Recipient,
    Signer,
)
from monai_miadmark.notes import Note

NOTES: dict[str, Note] = {"modality": "brain_mri", "confidence": 0.98, "slices": 24, "measured": True}
HERE = Path(__file__).resolve().parent
OUTCOMES = (
    "success",
    "wrong key",
    "wrong signer",
    "header tampered",
    "record tampered",
    "pixels tampered",
    "truncated",
    "unknown version",
    "not protected",
)
RECORD = bytes(range(256)) + b"recovery record of a test image\r\n"
PIXELS = hashlib.sha256(b"protected pixels").digest()
PASSPHRASE = "Zauberwürfel 7"
_START = struct.Struct(">8sBI")


def fixed(label: str, size: int = 32) -> bytes:
    """Bytes that look random and are the same at every run."""
    return hashlib.shake_256(b"monai_miadmark test vector: " + label.encode()).digest(size)


@dataclass(frozen=True)
class FixedX25519:
    """An X25519 recipient whose ephemeral key is fixed."""

    recipient: HpkeRecipient
    key: x25519.X25519PublicKey
    kind: str = "x25519"

    @property
    def key_id(self) -> bytes:
        return self.recipient.key_id

    def public_bytes(self) -> bytes:
        return self.recipient.public_bytes()

    def wrap(self, content_key: bytes, context: bytes) -> bytes:
        ephemeral = x25519.X25519PrivateKey.from_private_bytes(fixed(f"ephemeral {self.key_id.hex()}"))
        return seal_x25519(content_key, self.key, context, ephemeral)


@dataclass(frozen=True)
class FixedPassphrase:
    """A passphrase whose salt and nonce are fixed and which costs no more than it must."""

    passphrase: str
    memory_kib: int = 16 * 1024
    kind: str = "passphrase"

    @property
    def key_id(self) -> bytes:
        return hashlib.sha256(fixed("argon2 salt", 16)).digest()[:16]

    def public_bytes(self) -> bytes:
        return b""

    def wrap(self, content_key: bytes, context: bytes) -> bytes:
        salt, nonce = fixed("argon2 salt", 16), fixed("passphrase nonce", 12)
        cost = min(self.memory_kib, 16 * 1024)
        root = Argon2id(salt=salt, length=32, iterations=2, lanes=2, memory_cost=cost).derive(self.passphrase.encode())
        key, tag = (
            HKDFExpand(hashes.SHA256(), 32, b"monai_miadmark passphrase " + purpose).derive(root)
            for purpose in (b"key 2", b"commitment 2")
        )
        sealed = AESGCM(key).encrypt(nonce, content_key, context)
        return salt + struct.pack(">IBB", self.memory_kib, 2, 2) + nonce + tag + sealed


def load_keys() -> dict[str, dict[str, str]]:
    """The keys, as they stand in ``keys.json``."""
    keys: dict[str, dict[str, str]] = json.loads((HERE / "keys.json").read_text(encoding="ascii"))
    return keys


def identity(name: str) -> KeyIdentity:
    """An identity of ``keys.json``."""
    entry = load_keys()[name]
    kind = entry["kind"]
    if kind == "passphrase":
        return PassphraseIdentity(bytes.fromhex(entry["utf8"]))
    if kind == "cms":
        key = serialization.load_der_private_key(base64.b64decode(entry["private_der"]), None)
        assert isinstance(key, rsa.RSAPrivateKey)
        return CmsIdentity(key, x509.load_der_x509_certificate(base64.b64decode(entry["certificate_der"])))
    if kind == "p256":
        return HpkeIdentity(ec.derive_private_key(int(entry["private"], 16), ec.SECP256R1()))
    x25519_key = x25519.X25519PrivateKey.from_private_bytes(bytes.fromhex(entry["private"]))
    if kind == "x25519":
        return HpkeIdentity(x25519_key)
    return HpkeIdentity(x25519_key, mlkem.MLKEM768PrivateKey.from_seed_bytes(bytes.fromhex(entry["mlkem_seed"])))


def signer(name: str) -> Signer:
    """A signer of ``keys.json``."""
    entry = load_keys()[name]
    seed = bytes.fromhex(entry["private"])
    if entry["kind"] == "ed25519":
        return Signer(ed25519.Ed25519PrivateKey.from_private_bytes(seed))
    return Signer(mldsa.MLDSA65PrivateKey.from_seed_bytes(seed))


def recipient(name: str) -> Recipient:
    """The recipient of an identity, with fixed randomness where that can be had."""
    who = identity(name)
    if isinstance(who, PassphraseIdentity):
        return FixedPassphrase(PASSPHRASE)
    assert isinstance(who, HpkeIdentity | CmsIdentity)
    if who.kind == "x25519":
        private = x25519.X25519PrivateKey.from_private_bytes(bytes.fromhex(load_keys()[name]["private"]))
        assert isinstance(who.recipient, HpkeRecipient)
        return FixedX25519(who.recipient, private.public_key())
    return who.recipient


def seal_fixed(
    *names: str, signed_by: str | None = None, record: bytes = RECORD, notes: Mapping[str, Note] | None = None
) -> bytes:
    """An envelope with fixed content key, salt and nonce."""
    return seal_for([recipient(name) for name in names], signed_by, record, notes)


def seal_for(
    recipients: list[Recipient],
    signed_by: str | None = None,
    record: bytes = RECORD,
    notes: Mapping[str, Note] | None = None,
) -> bytes:
    """The same for recipients at hand."""
    custodian = None if signed_by is None else signer(signed_by)
    key, salt, nonce = fixed("content key"), fixed("salt"), fixed("nonce", 12)
    return sealing._seal(record, recipients, PIXELS, key, salt, nonce, custodian, notes or {})


def with_checksum(envelope: bytes) -> bytes:
    """The envelope with the checksum put right, as somebody who changes it on purpose would do."""
    return envelope[:-32] + hashlib.sha256(envelope[:-32]).digest()


def with_header(envelope: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """The envelope with another header and the checksum put right."""
    _, _, size = _START.unpack_from(envelope)
    header = json.loads(envelope[_START.size : _START.size + size])
    change(header)
    return with_header_bytes(envelope, json.dumps(header, separators=(",", ":")).encode())


def with_header_bytes(envelope: bytes, encoded: bytes) -> bytes:
    """The same with any bytes for a header."""
    _, version, size = _START.unpack_from(envelope)
    start = _START.pack(MAGIC, version, len(encoded))
    return with_checksum(start + encoded + envelope[_START.size + size :])


def flipped(data: bytes, index: int) -> bytes:
    """One bit changed."""
    index %= len(data)
    return data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :]


def make_keys() -> None:
    """``keys.json``, if it is not there."""
    path = HERE / "keys.json"
    if path.exists():
        return
    rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "monai_miadmark test")])
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
    builder = x509.CertificateBuilder(name, name, rsa_key.public_key(), 4711, start, start.replace(year=2126))
    der = serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    keys = {
        "hybrid": {"kind": "hybrid", "private": fixed("hybrid").hex(), "mlkem_seed": fixed("mlkem", 64).hex()},
        "alice": {"kind": "x25519", "private": fixed("alice").hex()},
        "bob": {"kind": "x25519", "private": fixed("bob").hex()},
        "mallory": {"kind": "x25519", "private": fixed("mallory").hex()},
        "p256": {"kind": "p256", "private": fixed("p256").hex()},
        "cms": {
            "kind": "cms",
            "private_der": base64.b64encode(rsa_key.private_bytes(*der)).decode(),
            "certificate_der": base64.b64encode(
                builder.sign(rsa_key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
            ).decode(),
        },
        "passphrase": {"kind": "passphrase", "utf8": PASSPHRASE.encode().hex()},
        "wrong passphrase": {"kind": "passphrase", "utf8": b"guess".hex()},
        "custodian": {"kind": "ed25519", "private": fixed("custodian").hex()},
        "other custodian": {"kind": "ed25519", "private": fixed("other custodian").hex()},
        "custodian mldsa65": {"kind": "mldsa65", "private": fixed("custodian mldsa65").hex()},
    }
    path.write_text(json.dumps(keys, indent=1) + "\n", encoding="ascii")


def write(
    name: str,
    outcome: str,
    envelope: bytes,
    identities: tuple[str, ...] = ("alice",),
    *,
    message: str = "",
    signed_by: str | None = None,
    require: str | None = None,
    pixels: bytes = PIXELS,
    record: bytes = RECORD,
) -> None:
    """One vector, if it is not there."""
    assert outcome in OUTCOMES
    vector: dict[str, object] = {
        "outcome": outcome,
        "identities": identities,
        "protected_pixels": pixels.hex(),
        "require_signer": require,
        "envelope": base64.b64encode(envelope).decode(),
    }
    vector |= {"record": record.hex(), "signer": signed_by} if outcome == "success" else {"message": message}
    path = HERE / f"v2_{name}.json"
    if not path.exists():
        path.write_text(json.dumps(vector, indent=1) + "\n", encoding="ascii")


def make_successes() -> None:
    """Every kind of recipient and signature."""
    for kind in ("alice", "hybrid", "p256", "cms", "passphrase"):
        write(f"success_{kind.replace('alice', 'x25519')}", "success", seal_fixed(kind), (kind,))
    write("success_empty_record", "success", seal_fixed("alice", record=b""), record=b"")
    write("success_second_of_two", "success", seal_fixed("alice", "bob"), ("mallory", "bob"))
    everyone = seal_fixed("hybrid", "alice", "p256", "cms", "passphrase", signed_by="custodian", notes=NOTES)
    write("success_everyone", "success", everyone, ("wrong passphrase", "p256"), signed_by="custodian")
    for custodian in ("custodian", "custodian mldsa65"):
        name = f"success_signed_{signer(custodian).kind}"
        write(name, "success", seal_fixed("alice", signed_by=custodian), signed_by=custodian, require=custodian)
    noted = seal_fixed("alice", signed_by="custodian", notes=NOTES)
    write("success_notes", "success", noted, signed_by="custodian", require="custodian")
    granted = sealing.grant(noted, identity("alice"), [recipient("bob")], signer("custodian"))
    write("success_granted", "success", granted, ("bob",), signed_by="custodian", require="custodian")
    revoked = sealing.revoke(granted, identity("bob"), [recipient("alice")], signer("custodian"))
    write("success_after_revoke", "success", revoked, ("bob",), signed_by="custodian", require="custodian")
    unsigned = sealing.grant(noted, identity("alice"), [recipient("bob")])
    write("success_granted_unsigned", "success", unsigned, ("bob",))
    write("wrong_signer_granted", "wrong signer", unsigned, ("bob",), message="is not signed", require="custodian")
    write("wrong_key_revoked", "wrong key", revoked, message="none of the 1 identities")


def make_refusals() -> None:
    """All that must not open."""
    plain, signed = seal_fixed("alice"), seal_fixed("alice", signed_by="custodian")
    write("wrong_key", "wrong key", plain, ("bob", "hybrid", "p256", "cms"), message="none of the 4 identities")
    guess = ("wrong passphrase",)
    write("wrong_key_passphrase", "wrong key", seal_fixed("passphrase"), guess, message="none of the 1 identities")
    write("wrong_signer", "wrong signer", signed, message="is signed by", require="other custodian")
    write("wrong_signer_unsigned", "wrong signer", plain, message="is not signed", require="custodian")
    forged = with_header(
        signed, lambda header: header["signature"].update(signature=base64.b64encode(bytes(64)).decode())
    )
    write("wrong_signer_forged", "wrong signer", forged, message="not a valid one")
    # Who once could open it seals the record anew for somebody else, and keeps the custodian's signature.
    unsealed = sealing._unseal(sealing.parse_envelope(signed), [identity("alice")])
    made_over = dataclasses.replace(
        sealing.parse_envelope(seal_fixed("bob")).header, signature=unsealed.header.signature
    )
    payload = b"".join([sealing.encode_roster([recipient("bob")]), unsealed.salt, unsealed.record])
    reused = sealing._encrypt(made_over, unsealed.content_key, payload)
    write("wrong_signer_made_over", "wrong signer", reused, ("bob",), message="not a valid one", require="custodian")
    renoted = with_header(seal_fixed("alice", signed_by="custodian", notes=NOTES), lambda h: h["notes"].popitem())
    write("wrong_signer_notes", "wrong signer", renoted, message="not a valid one")

    tampered = "header tampered"
    write("header_damaged", tampered, flipped(plain, 40), message="checksum")
    changed = with_header(plain, lambda header: header.update(nonce=fixed("other nonce", 12).hex()))
    write("header_nonce", tampered, changed, message="has been changed")
    stripped = with_header(signed, lambda header: header.update(signature=None))
    write("header_signature_stripped", tampered, stripped, message="has been changed")
    dropped = with_header(seal_fixed("alice", "bob"), lambda header: header["recipients"].pop())
    write("header_recipient_dropped", tampered, dropped, message="has been changed")
    other_key = base64.b64encode(bytes(80)).decode()
    rewrapped = with_header(plain, lambda header: header["recipients"][0].update(wrapped=other_key))
    write("header_wrapped_key", tampered, rewrapped, message="whose key fails")
    digest = with_header(plain, lambda header: header.update(protected_pixels=bytes(32).hex()))
    write("header_pixels_digest", tampered, digest, pixels=bytes(32), message="whose key fails")
    write(
        "header_unknown_suite", tampered, with_header(plain, lambda h: h.update(suite="ROT13")), message="unknown suite"
    )
    write(
        "header_unknown_member", tampered, with_header(plain, lambda h: h.update(extra=1)), message="missing or unknown"
    )
    repeated = with_header_bytes(plain, b'{"suite":1,"suite":1}')
    write("header_repeated_name", tampered, repeated, message="occurs twice")
    write("header_nested", tampered, with_header_bytes(plain, b"[" * 20_000), message="not the JSON of one")
    costly = seal_for([FixedPassphrase(PASSPHRASE, memory_kib=2**31)])
    write("header_argon2_cost", tampered, costly, ("passphrase",), message="outside of what is allowed")
    cheap = seal_for([FixedPassphrase(PASSPHRASE, memory_kib=1024)])
    write("header_argon2_cheap", tampered, cheap, ("passphrase",), message="outside of what is allowed")
    older = sealing.parse_envelope(seal_fixed("passphrase")).header.wrapped_keys[0].wrapped
    uncommitted = base64.b64encode(older[:34] + older[66:]).decode()
    form = with_header(seal_fixed("passphrase"), lambda h: h["recipients"][0].update(wrapped=uncommitted))
    write("header_passphrase_form", tampered, form, ("passphrase",), message="another length")
    untagged = base64.b64encode(older[:34] + bytes(32) + older[66:]).decode()
    tag = with_header(seal_fixed("passphrase"), lambda h: h["recipients"][0].update(wrapped=untagged))
    write("wrong_key_passphrase_tag", "wrong key", tag, ("passphrase",), message="none of the 1 identities")
    for name, notes in (("text", {"a": "b\n"}), ("name", {"A": 1}), ("nested", {"a": []}), ("list", [])):
        changed_notes = with_header(plain, lambda h, notes=notes: h.update(notes=notes))  # type: ignore[misc]
        write(f"header_note_{name}", tampered, changed_notes, message="the header of the sealed record is malformed")

    write("record_damaged", "record tampered", flipped(plain, -100), message="checksum")
    write("record_changed", "record tampered", with_checksum(flipped(plain, -100)), message="has been changed")
    commitment = sealing._commitment
    try:
        # What a custodian could do who wants one envelope to open to different records.
        sealing._commitment = lambda salt, record: hashlib.sha256(b"another record").digest()
        uncommitted = seal_fixed("alice")
    finally:
        sealing._commitment = commitment
    write("record_not_committed", "record tampered", uncommitted, message="commits to")
    write("pixels_tampered", "pixels tampered", plain, pixels=bytes(32), message="pixels are not those")
    for size in (8, 12, 13, 100, len(plain) - 33, len(plain) - 1):
        write(f"truncated_{size}", "truncated", plain[:size], message="")
    write("truncated_and_more", "truncated", plain + b"\0", message="are declared")
    newer = with_checksum(plain[:8] + b"\x03" + plain[9:])
    write("unknown_version", "unknown version", newer, message="unknown envelope version 3")
    older_version = with_checksum(plain[:8] + b"\x01" + plain[9:])
    write("older_version", "header tampered", older_version, message="missing or unknown")
    write("not_protected", "not protected", b"\x89PNG\r\n\x1a\n" + bytes(100), message="no sealed recovery record")
    write("not_protected_empty", "not protected", b"", message="no sealed recovery record")


if __name__ == "__main__":
    make_keys()
    make_successes()
    make_refusals()

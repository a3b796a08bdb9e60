# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Sealing, opening, granting, revoking; and that no changed byte is ever taken for a record."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import struct
import tracemalloc
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import x25519
from hypothesis import given, settings
from hypothesis import strategies as st
from vectors import make_vectors
from vectors.make_vectors import with_checksum, with_header, with_header_bytes

from monai_miadmark import keys, passphrases, seal
from monai_miadmark.envelope import MAX_PASSPHRASES
from monai_miadmark.errors import NotProtectedError, SignatureError, TamperedError, UnsupportedImageError, WrongKeyError
from monai_miadmark.notes import MAX_NOTES
from monai_miadmark.passphrases import MIN_PASSPHRASE_COST

PIXELS = hashlib.sha256(b"pixels").digest()
RECORD = b"a record"
REFUSALS = (NotProtectedError, TamperedError, WrongKeyError)

ALICE = make_vectors.identity("alice")
ENVELOPE = make_vectors.seal_fixed("alice", record=b"small")
SIGNED = make_vectors.seal_fixed("alice", "bob", signed_by="custodian", record=b"small")


@pytest.fixture(scope="module")
def people() -> list[keys.HpkeIdentity]:
    return [keys.generate_identity(kind) for kind in ("x25519", "p256", "x25519")]


@pytest.fixture(scope="module")
def custodian() -> keys.Signer:
    return keys.generate_signer()


def cheap_passphrase(passphrase: str) -> keys.PassphraseRecipient:
    return keys.PassphraseRecipient._with_parameters(passphrase, os.urandom(16), *MIN_PASSPHRASE_COST)


def refused(envelope: bytes) -> Exception:
    """The error that opening gives; any other outcome fails the test."""
    try:
        seal.open_envelope(envelope, [ALICE])
    except REFUSALS as error:
        return error
    raise AssertionError("a changed envelope was opened")


# --- the way it is meant ----------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(record=st.binary(max_size=5000), kind=st.sampled_from(keys.HPKE_KINDS), signed=st.booleans())
def test_records_come_back(record: bytes, kind: str, signed: bool) -> None:
    identity = keys.generate_identity(kind)
    signer = keys.generate_signer() if signed else None
    envelope = seal.seal(record, [identity.recipient], PIXELS, signer=signer)
    opened = seal.open_envelope(envelope, [identity], PIXELS)
    assert opened.record == record
    assert opened.opened_by == (kind, identity.key_id)
    assert opened.signer == (signer and signer.verifier)
    assert len(envelope) % 2 == 0
    assert record not in envelope or len(record) < 12  # short ones may stand there by chance, or as the magic


def test_every_recipient_opens_and_nobody_else(cms_and_others: list[keys.KeyIdentity]) -> None:
    recipients = [who.recipient for who in cms_and_others if isinstance(who, keys.HpkeIdentity | keys.CmsIdentity)]
    envelope = seal.seal(RECORD, [*recipients, cheap_passphrase("pw")], PIXELS)
    for identity in [*cms_and_others, keys.PassphraseIdentity("pw")]:
        assert seal.open_envelope(envelope, [identity], PIXELS).record == RECORD
    strangers = [keys.generate_identity("x25519"), keys.PassphraseIdentity("pW")]
    with pytest.raises(WrongKeyError, match=r"none of the 2 identities .* and 1 more"):
        seal.open_envelope(envelope, strangers, PIXELS)
    assert seal.open_envelope(envelope, [*strangers, cms_and_others[0]], PIXELS).record == RECORD
    with pytest.raises(WrongKeyError, match="none of the 0"):
        seal.open_envelope(envelope, [])


@pytest.fixture
def cms_and_others() -> list[keys.KeyIdentity]:
    return [*(keys.generate_identity(kind) for kind in keys.HPKE_KINDS), make_vectors.identity("cms")]


def test_the_second_of_two_passphrases_opens() -> None:
    envelope = seal.seal(RECORD, [cheap_passphrase("one"), cheap_passphrase("two")], PIXELS)
    assert seal.open_envelope(envelope, [keys.PassphraseIdentity("two")]).record == RECORD


def test_each_seal_is_different(people: list[keys.HpkeIdentity]) -> None:
    first, second = (seal.seal(RECORD, [people[0].recipient], PIXELS) for _ in range(2))
    assert first != second
    assert seal.inspect_envelope(first).to_dict() == seal.inspect_envelope(second).to_dict()


def test_content_key_of_the_caller(people: list[keys.HpkeIdentity]) -> None:
    content_key = os.urandom(32)
    envelope = seal.seal(RECORD, [people[0].recipient], PIXELS, content_key)
    wrapped = json.loads(envelope[13 : 13 + struct.unpack_from(">I", envelope, 9)[0]])["recipients"][0]["wrapped"]
    assert seal.open_envelope(envelope, [people[0]]).record == RECORD
    assert content_key not in envelope and wrapped


def test_wrong_arguments(people: list[keys.HpkeIdentity], monkeypatch: pytest.MonkeyPatch) -> None:
    who = people[0].recipient
    with pytest.raises(ValueError, match="at least one recipient"):
        seal.seal(RECORD, [], PIXELS)
    with pytest.raises(ValueError, match="protected_pixels"):
        seal.seal(RECORD, [who], b"short")
    with pytest.raises(ValueError, match="content_key"):
        seal.seal(RECORD, [who], PIXELS, b"short")
    with pytest.raises(ValueError, match="passphrases for one record"):
        seal.seal(RECORD, [cheap_passphrase("p") for _ in range(MAX_PASSPHRASES + 1)], PIXELS)
    monkeypatch.setattr(seal, "_MAX_RECORD_BYTES", 5)
    with pytest.raises(UnsupportedImageError, match="8 bytes"):
        seal.seal(RECORD, [who], PIXELS)


def test_many_recipients(people: list[keys.HpkeIdentity]) -> None:
    crowd = [keys.generate_identity("x25519").recipient for _ in range(300)]
    envelope = seal.seal(RECORD, [*crowd, *crowd, people[0].recipient], PIXELS)
    assert len(seal.open_envelope(envelope, [people[0]]).recipients) == 301
    many = [keys.generate_identity("hybrid").recipient for _ in range(700)]
    with pytest.raises(ValueError, match="too many"):
        seal.seal(RECORD, many, PIXELS)


def test_size_of_an_envelope() -> None:
    """A recipient of the default kind must leave most of the 24 KB to the record."""
    who = keys.generate_identity().recipient
    assert len(seal.seal(b"", [who], PIXELS)) < 3600


# --- digest, signer ---------------------------------------------------------------------------------------------------


def test_inspect(people: list[keys.HpkeIdentity], custodian: keys.Signer) -> None:
    envelope = seal.seal(RECORD, [people[0].recipient, people[1].recipient], PIXELS, signer=custodian)
    info = seal.inspect_envelope(envelope)
    as_json = json.loads(json.dumps(info.to_dict()))
    assert as_json == info.to_dict()
    assert as_json["version"] == 2 and as_json["notes"] == {}
    assert as_json["recipients"] == [{"kind": p.kind, "key_id": p.key_id.hex()} for p in people[:2]]
    assert as_json["signer"] == {"kind": "ed25519", "key_id": custodian.key_id.hex()}
    assert as_json["protected_pixels"] == PIXELS.hex()
    assert as_json["envelope_bytes"] == len(envelope) > as_json["record_bytes"] > len(RECORD)


def test_verify(people: list[keys.HpkeIdentity], custodian: keys.Signer) -> None:
    who, other = people[0].recipient, keys.generate_signer("mldsa65")
    plain, signed = seal.seal(RECORD, [who], PIXELS), seal.seal(RECORD, [who], PIXELS, signer=custodian)
    assert seal.verify_envelope(plain, PIXELS).signer is None
    assert seal.verify_envelope(signed, PIXELS, custodian.verifier) == seal.verify_envelope(signed, None)
    with pytest.raises(TamperedError, match="pixels"):
        seal.verify_envelope(signed, bytes(32))
    for envelope, signer in ((plain, custodian), (signed, other)):
        with pytest.raises(SignatureError):
            seal.verify_envelope(envelope, PIXELS, signer.verifier)
        with pytest.raises(SignatureError):
            seal.open_envelope(envelope, [people[0]], PIXELS, signer.verifier)


def test_a_signature_is_verified_without_being_demanded() -> None:
    forged = with_header(SIGNED, lambda header: header["signature"].update(signature="AAAA"))
    for act in (
        lambda: seal.verify_envelope(forged, None),
        lambda: seal.open_envelope(forged, [ALICE]),
        lambda: seal.grant(forged, ALICE, [keys.generate_identity("x25519").recipient]),
        lambda: seal.revoke(forged, ALICE, [make_vectors.recipient("bob")]),
    ):
        with pytest.raises(SignatureError):
            act()


def test_a_recipient_cannot_put_another_record_under_a_signature() -> None:
    """Who holds the content key can make any ciphertext, but the signature covers the record."""
    opened = seal._unseal(seal.parse_envelope(SIGNED), [ALICE])
    for salt, record in ((opened.salt, b"other"), (bytes(32), b"small")):
        payload = seal.encode_roster(list(opened.roster.values())) + salt + record
        with pytest.raises(TamperedError, match="commits to"):
            seal.open_envelope(seal._encrypt(opened.header, opened.content_key, payload), [ALICE])


@pytest.mark.parametrize(
    "payload", [b"", b"\0", b"\0\0short", b"\0\1", b"\0\1\4\xff\xff\xff\xffx255", b"\xff\xff" * 40]
)
def test_malformed_payloads(payload: bytes) -> None:
    opened = seal._unseal(seal.parse_envelope(ENVELOPE), [ALICE])
    with pytest.raises(TamperedError):
        seal.open_envelope(seal._encrypt(opened.header, opened.content_key, payload), [ALICE])


# --- grant and revoke -------------------------------------------------------------------------------------------------


def test_grant(people: list[keys.HpkeIdentity], custodian: keys.Signer) -> None:
    first, second, third = people
    envelope = seal.seal(RECORD, [first.recipient], PIXELS, signer=custodian)
    granted = seal.grant(envelope, first, [second.recipient, first.recipient, cheap_passphrase("pw")])
    assert len(seal.inspect_envelope(granted).recipients) == 3
    assert len(granted) % 2 == 0
    for identity in (first, second, keys.PassphraseIdentity("pw")):
        assert seal.open_envelope(granted, [identity], PIXELS).record == RECORD
    # Whoever was granted can grant.
    again = seal.grant(granted, keys.PassphraseIdentity("pw"), [third.recipient])
    assert seal.open_envelope(again, [third], PIXELS).record == RECORD
    with pytest.raises(WrongKeyError):
        seal.grant(envelope, third, [third.recipient])


def test_only_a_custodian_signs_for_other_recipients(people: list[keys.HpkeIdentity], custodian: keys.Signer) -> None:
    first, second, third = people
    envelope = seal.seal(RECORD, [first.recipient, third.recipient], PIXELS, signer=custodian, notes={"a": 1})
    for act in (
        lambda **more: seal.grant(envelope, first, [second.recipient], **more),
        lambda **more: seal.revoke(envelope, first, [third.recipient], **more),
    ):
        unsigned, signed = act(), act(signer=custodian)
        assert seal.open_envelope(unsigned, [first], PIXELS).signer is None
        with pytest.raises(SignatureError, match="not signed"):
            seal.open_envelope(unsigned, [first], PIXELS, custodian.verifier)
        opened = seal.open_envelope(signed, [first], PIXELS, custodian.verifier)
        assert opened.record == RECORD and opened.notes == {"a": 1}


def test_who_was_revoked_cannot_seal_anew_under_the_signature(
    people: list[keys.HpkeIdentity], custodian: keys.Signer
) -> None:
    """All that a former recipient kept: record, salt, content key, and the header with its signature."""
    first, second, _ = people
    kept = seal._unseal(
        seal.parse_envelope(seal.seal(RECORD, [first.recipient, second.recipient], PIXELS, signer=custodian)), [second]
    )
    mine = seal.parse_envelope(seal.seal(RECORD, [second.recipient], PIXELS)).header
    for header in (
        replace(mine, signature=kept.header.signature, commitment=kept.header.commitment, nonce=kept.header.nonce),
        replace(kept.header, wrapped_keys=kept.header.wrapped_keys[1:]),
        replace(kept.header, wrapped_keys=kept.header.wrapped_keys[::-1]),
        replace(kept.header, notes={"modality": "other"}),
    ):
        payload = seal.encode_roster([second.recipient]) + kept.salt + RECORD
        with pytest.raises(SignatureError, match="not a valid one"):
            seal.verify_envelope(seal._encrypt(header, kept.content_key, payload), PIXELS, custodian.verifier)


def test_envelopes_of_version_1_are_sealed_anew_as_version_2() -> None:
    """Their keys are wrapped again: for public keys, and for the passphrase that opens."""
    old = base64.b64decode(json.loads((make_vectors.HERE / "success_everyone.json").read_text())["envelope"])
    bob = make_vectors.identity("bob")
    passphrase = make_vectors.identity("passphrase")
    granted = seal.grant(old, passphrase, [make_vectors.recipient("bob")])
    assert seal.inspect_envelope(granted).version == 2
    for identity in (bob, passphrase, make_vectors.identity("hybrid"), make_vectors.identity("cms")):
        assert seal.open_envelope(granted, [identity], make_vectors.PIXELS).record == make_vectors.RECORD
    with pytest.raises(ValueError, match="revoke it too"):
        seal.grant(old, ALICE, [make_vectors.recipient("bob")])
    slot = next(key_id for kind, key_id in seal.open_envelope(old, [ALICE]).recipients if kind == "passphrase")
    assert seal.inspect_envelope(seal.revoke(old, ALICE, [slot])).version == 2


def test_a_record_for_many_passphrases_tests_one_guess() -> None:
    """In version 1 a wrapped key could be made for several passphrases; what opens it must not tell which."""
    old = json.loads((make_vectors.HERE / "success_passphrase.json").read_text())
    changed = with_checksum(bytes(make_vectors.flipped(base64.b64decode(old["envelope"]), -100)))
    for identity in (make_vectors.identity("passphrase"), make_vectors.identity("wrong passphrase")):
        with pytest.raises(WrongKeyError):
            seal.open_envelope(changed, [identity])


def test_passphrases_that_fail_cost_once(monkeypatch: pytest.MonkeyPatch) -> None:
    envelope = seal.seal(RECORD, [cheap_passphrase("one"), cheap_passphrase("two")], PIXELS)
    guess, runs = keys.PassphraseIdentity("three"), []
    derive = passphrases._argon2
    monkeypatch.setattr(passphrases, "_argon2", lambda *given: runs.append(1) or derive(*given))
    for _ in range(3):
        with pytest.raises(WrongKeyError):
            seal.open_envelope(envelope, [guess])
    assert len(runs) == 2


def test_notes_are_bounded_and_typed(people: list[keys.HpkeIdentity]) -> None:
    who = people[0]
    notes = {"modality": "ct", "confidence": 0.5, "slices": 3, "measured": False}
    envelope = seal.seal(RECORD, [who.recipient], PIXELS, notes=notes)
    assert seal.inspect_envelope(envelope).to_dict()["notes"] == notes == seal.open_envelope(envelope, [who]).notes
    wrong: list[dict[str, object]] = [
        {f"n{number}": 1 for number in range(MAX_NOTES + 1)},
        {"Name": 1}, {"a" * 33: 1}, {"": 1}, {"a": None}, {"a": [1]}, {"a": "x" * 201}, {"a": "\x1b[2J"},
        {"a": float("nan")}, {"a": 2**53}, {"a": "\u202e"},
    ]  # fmt: skip
    for some in wrong:
        with pytest.raises(ValueError, match="note"):
            seal.seal(RECORD, [who.recipient], PIXELS, notes=some)  # type: ignore[arg-type]


def test_crowds_are_refused_by_name(people: list[keys.HpkeIdentity], monkeypatch: pytest.MonkeyPatch) -> None:
    """65 535 keys do not fit; that is said before any of them costs a public-key operation."""
    envelope = seal.seal(RECORD, [people[0].recipient], PIXELS)
    key = x25519.X25519PrivateKey.generate().public_key()
    crowd = [keys.HpkeRecipient(key) for _ in range(65_535)]
    for number, one in enumerate(crowd):
        one.key_id = number.to_bytes(16, "big")
    monkeypatch.setattr(keys.HpkeRecipient, "wrap", lambda *_: pytest.fail("wrapped"))
    for act in (lambda: seal.seal(RECORD, crowd, PIXELS), lambda: seal.grant(envelope, people[0], crowd)):
        with pytest.raises(ValueError, match="65535 recipients are too many"):
            act()


def test_grant_never_repeats_a_nonce(people: list[keys.HpkeIdentity]) -> None:
    envelope = seal.seal(RECORD, [people[0].recipient], PIXELS)
    envelopes = [envelope, *(seal.grant(envelope, people[0], [people[1].recipient]) for _ in range(3))]
    assert len({seal.parse_envelope(each).header.nonce for each in envelopes}) == 4


def test_revoke(people: list[keys.HpkeIdentity], custodian: keys.Signer) -> None:
    first, second, third = people
    everyone = [who.recipient for who in people]
    envelope = seal.seal(RECORD, everyone, PIXELS, signer=custodian)
    revoked = seal.revoke(envelope, first, [second.recipient])
    for identity in (first, third):
        assert seal.open_envelope(revoked, [identity], PIXELS).record == RECORD
    with pytest.raises(WrongKeyError):
        seal.open_envelope(revoked, [second])
    old, new = (seal._unseal(seal.parse_envelope(each), [first]) for each in (envelope, revoked))
    assert old.content_key != new.content_key
    # The one who revokes can go too; and who was granted again is in again.
    alone = seal.revoke(revoked, first, [first.key_id])
    assert seal.open_envelope(seal.grant(alone, third, [second.recipient]), [second], PIXELS).record == RECORD
    assert [kind for kind, _ in seal.inspect_envelope(alone).recipients] == ["x25519"]


def test_revoke_of_wrong_recipients(people: list[keys.HpkeIdentity]) -> None:
    first, second, third = people
    envelope = seal.seal(RECORD, [first.recipient, second.recipient], PIXELS)
    with pytest.raises(ValueError, match=f"not among the recipients.*{third.key_id.hex()}"):
        seal.revoke(envelope, first, [third.recipient])
    with pytest.raises(ValueError, match="no recipient would be left"):
        seal.revoke(envelope, first, [first.recipient, second.recipient])
    with pytest.raises(WrongKeyError):
        seal.revoke(envelope, third, [first.recipient])


def test_revoke_beside_a_passphrase(people: list[keys.HpkeIdentity]) -> None:
    first, second, _ = people
    passphrase = cheap_passphrase("pw")
    envelope = seal.seal(RECORD, [first.recipient, second.recipient, passphrase], PIXELS)
    with pytest.raises(ValueError, match=f"{passphrase.key_id.hex()}.*revoke it too"):
        seal.revoke(envelope, first, [second.recipient])
    # Whoever knows the passphrase stays: the fresh key is wrapped under it again.
    kept = seal.revoke(envelope, keys.PassphraseIdentity("pw"), [second.recipient])
    for identity in (first, keys.PassphraseIdentity("pw")):
        assert seal.open_envelope(kept, [identity]).record == RECORD
    revoked = seal.revoke(envelope, first, [second.recipient, passphrase.key_id])
    assert seal.open_envelope(revoked, [first]).record == RECORD
    with pytest.raises(WrongKeyError):
        seal.open_envelope(revoked, [keys.PassphraseIdentity("pw")])


# --- damage and malice ------------------------------------------------------------------------------------------------


def test_every_flipped_bit_is_found() -> None:
    for index in range(8 * len(ENVELOPE)):
        changed = bytearray(ENVELOPE)
        changed[index // 8] ^= 1 << index % 8
        error = refused(bytes(changed))
        # Plain damage is never taken for a wrong key.
        assert isinstance(error, NotProtectedError if index < 64 else TamperedError)


def test_every_flipped_bit_is_found_with_the_checksum_put_right() -> None:
    for index in range(8 * (len(ENVELOPE) - 32)):
        changed = bytearray(ENVELOPE)
        changed[index // 8] ^= 1 << index % 8
        refused(with_checksum(bytes(changed)))


def test_every_truncation_is_found() -> None:
    for size in range(len(ENVELOPE)):
        error = refused(ENVELOPE[:size])
        assert isinstance(error, NotProtectedError if size < 8 else TamperedError)


@st.composite
def mutations(draw: st.DrawFn) -> bytes:
    """An envelope with some of its bytes cut out, replaced or put in."""
    data = draw(st.sampled_from([ENVELOPE, SIGNED]))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        stop = draw(st.integers(start, min(len(data), start + 40)))
        data = data[:start] + draw(st.binary(max_size=40)) + data[stop:]
    return with_checksum(data) if draw(st.booleans()) and len(data) > 32 else data


@settings(deadline=None, max_examples=400)
@given(mutations())
def test_mutations_are_refused(data: bytes) -> None:
    if data not in (ENVELOPE, SIGNED):
        refused(data)
        for act in (seal.inspect_envelope, lambda envelope: seal.verify_envelope(envelope, None)):
            try:
                act(data)
            except REFUSALS:
                pass


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=300))
def test_any_bytes_are_refused(data: bytes) -> None:
    for start in (b"", ENVELOPE[:8], ENVELOPE[:9]):
        refused(start + data)
        refused(with_checksum(start + data + bytes(32)))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
MEMBERS = ("suite", "protected_pixels", "recipients", "nonce", "commitment", "signature", "notes")


@settings(deadline=None, max_examples=200)
@given(where=st.sampled_from([*MEMBERS, "kind", "key_id", "wrapped", "public_key"]), value=JSON)
def test_any_json_in_the_header_is_refused(where: str, value: object) -> None:
    if where == "notes" and value == {}:
        return  # as it is

    def change(header: dict[str, object]) -> None:
        if where in MEMBERS:
            header[where] = value
        elif where == "public_key":
            header["signature"][where] = value  # type: ignore[index]
        else:
            header["recipients"][0][where] = value  # type: ignore[index]

    refused(with_header(SIGNED, change))
    refused(with_header_bytes(SIGNED, json.dumps(value).encode()))


@pytest.mark.parametrize(
    "header", [b"", b"null", b"{", b"\xff", b"[" * 50_000, b"1" * 10_000, b"NaN", b'{"a":1,"a":1}', b'"\\ud800"']
)
def test_headers_that_trip_parsers(header: bytes) -> None:
    assert isinstance(refused(with_header_bytes(ENVELOPE, header)), TamperedError)


def test_a_recipient_twice_and_none_are_refused() -> None:
    doubled = with_header(ENVELOPE, lambda header: header["recipients"].append(header["recipients"][0]))
    assert "occurs twice" in str(refused(doubled))
    assert "no recipients" in str(refused(with_header(ENVELOPE, lambda header: header["recipients"].clear())))
    slots = [{"kind": "passphrase", "key_id": f"{n:032x}", "wrapped": ""} for n in range(MAX_PASSPHRASES + 1)]
    assert "too many passphrases" in str(
        refused(with_header(ENVELOPE, lambda header: header["recipients"].extend(slots)))
    )


@pytest.mark.parametrize("length", [2**20, 2**20 + 1, 2**31, 2**32 - 1])
def test_claimed_lengths_take_no_memory(length: int) -> None:
    header = ENVELOPE[:9] + struct.pack(">I", length) + ENVELOPE[13:]
    prefix = 13 + struct.unpack_from(">I", ENVELOPE, 9)[0]
    body = ENVELOPE[:prefix] + struct.pack(">Q", length << 30) + ENVELOPE[prefix + 8 :]
    tracemalloc.start()
    try:
        for data in (header, body, with_checksum(header), with_checksum(body)):
            assert isinstance(refused(data), TamperedError)
        assert tracemalloc.get_traced_memory()[1] < 500_000
    finally:
        tracemalloc.stop()


def test_what_is_opened_is_not_shown(people: list[keys.HpkeIdentity]) -> None:
    envelope = seal.seal(b"patient data", [people[0].recipient], PIXELS, bytes(range(32)))
    opened = seal.open_envelope(envelope, [people[0]])
    unsealed = seal._unseal(seal.parse_envelope(envelope), [people[0]])
    for shown in (repr(opened), str(opened), repr(unsealed)):
        assert "patient data" not in shown and repr(bytes(range(32)))[2:20] not in shown

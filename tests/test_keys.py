# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Keys, their files, and what wraps and unwraps content keys."""

from __future__ import annotations

import copy
import datetime
import os
import pickle
import shutil
import stat
import struct
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mlkem, rsa, x25519
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st
from vectors import make_vectors, rfc9180

from monai_miadmark import keys, passphrases
from monai_miadmark.errors import SignatureError, TamperedError, WrongKeyError
from monai_miadmark.passphrases import MIN_PASSPHRASE_COST, passphrase_bytes, salt_of
from monai_miadmark.recipients import recipient_from_public_bytes

CONTENT_KEY = bytes(range(32))
CONTEXT = b"context"
OPENSSL = shutil.which("openssl")
needs_openssl = pytest.mark.skipif(OPENSSL is None, reason="no openssl binary")


@pytest.fixture(scope="module")
def cms() -> keys.CmsIdentity:
    identity = make_vectors.identity("cms")
    assert isinstance(identity, keys.CmsIdentity)
    return identity


@pytest.fixture(scope="module")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def cheap_passphrase(passphrase: str | bytes) -> keys.PassphraseRecipient:
    return keys.PassphraseRecipient._with_parameters(passphrase, os.urandom(16), *MIN_PASSPHRASE_COST)


def make_certificate(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey,
    usage: bool | None = None,
    years: tuple[int, int] = (2020, 2120),
) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    begin, end = (datetime.datetime(year, 1, 1, tzinfo=datetime.timezone.utc) for year in years)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, begin, end)
    if usage is not None:
        off = {"content_commitment", "data_encipherment", "key_agreement", "key_cert_sign", "crl_sign"}
        flags = dict.fromkeys((*off, "encipher_only", "decipher_only"), False)
        builder = builder.add_extension(x509.KeyUsage(True, key_encipherment=usage, **flags), critical=True)
    return builder.sign(key, hashes.SHA256())


def private_pem(key: object) -> bytes:
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    encoded: bytes = key.private_bytes(*form)  # type: ignore[attr-defined]
    return encoded


def identity_of(kind: str) -> tuple[keys.KeyIdentity, keys.Recipient]:
    if kind == "passphrase":
        return keys.PassphraseIdentity("Grüße"), cheap_passphrase("Grüße")
    identity = make_vectors.identity("cms") if kind == "cms" else keys.generate_identity(kind)
    assert isinstance(identity, keys.HpkeIdentity | keys.CmsIdentity)
    return identity, identity.recipient


# --- wrapping ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", keys.KINDS)
def test_only_the_identity_and_the_context_unwrap(kind: str) -> None:
    identity, recipient = identity_of(kind)
    wrapped = recipient.wrap(CONTENT_KEY, CONTEXT)
    assert CONTENT_KEY not in wrapped
    assert recipient.wrap(CONTENT_KEY, CONTEXT) != wrapped
    assert identity.unwrap(wrapped, CONTEXT) == CONTENT_KEY
    assert identity.kind == recipient.kind == kind
    assert len(recipient.key_id) == 16
    with pytest.raises(WrongKeyError):
        identity.unwrap(wrapped, CONTEXT + b".")
    for short in (b"", wrapped[:-1], wrapped[:40], wrapped + b"\0"):
        with pytest.raises(WrongKeyError):
            identity.unwrap(short, CONTEXT)
    with pytest.raises(ValueError, match="32 bytes"):
        recipient.wrap(b"short", CONTEXT)


@pytest.mark.parametrize("kind", keys.HPKE_KINDS)
def test_another_identity_does_not_unwrap(kind: str) -> None:
    wrapped = keys.generate_identity(kind).recipient.wrap(CONTENT_KEY, CONTEXT)
    with pytest.raises(WrongKeyError):
        keys.generate_identity(kind).unwrap(wrapped, CONTEXT)


@pytest.mark.parametrize("kind", [kind for kind in keys.KINDS if kind != "passphrase"])
def test_public_bytes_make_the_recipient_again(kind: str) -> None:
    identity, recipient = identity_of(kind)
    again = recipient_from_public_bytes(kind, recipient.public_bytes())
    assert again == recipient and hash(again) == hash(recipient)
    assert again.key_id == recipient.key_id == identity.key_id
    assert identity.unwrap(again.wrap(CONTENT_KEY, CONTEXT), CONTEXT) == CONTENT_KEY
    assert pickle.loads(pickle.dumps(recipient)) == recipient


@given(data=st.binary(max_size=200), kind=st.sampled_from(["", "rot13", *keys.KINDS]))
def test_malformed_public_bytes_are_a_value_error(data: bytes, kind: str) -> None:
    with pytest.raises(ValueError):
        recipient_from_public_bytes(kind, data)


def test_public_bytes_of_another_kind_are_refused() -> None:
    x25519_public = keys.generate_identity("x25519").recipient.public_bytes()
    p256_public = keys.generate_identity("p256").recipient.public_bytes()
    p384 = ec.generate_private_key(ec.SECP384R1()).public_key()
    p384_public = p384.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    signer_public = keys.generate_signer().verifier.public_bytes()
    for kind, data in [
        ("p256", x25519_public),
        ("x25519", p256_public),
        ("p256", p384_public),
        ("x25519", signer_public),
        ("hybrid", x25519_public + x25519_public),
    ]:
        with pytest.raises(ValueError):
            recipient_from_public_bytes(kind, data)
    with pytest.raises(ValueError, match="unknown KEM"):
        keys.generate_identity("rsa")


def test_hpke_x25519_by_hand() -> None:
    """The library and the text of RFC 9180 agree in both directions."""
    identity = keys.generate_identity("x25519")
    (private,) = identity.private_parts()
    assert isinstance(private, x25519.X25519PrivateKey)
    assert rfc9180.open_x25519(identity.recipient.wrap(CONTENT_KEY, CONTEXT), private, CONTEXT) == CONTENT_KEY
    ephemeral = x25519.X25519PrivateKey.generate()
    sealed = rfc9180.seal_x25519(CONTENT_KEY, private.public_key(), CONTEXT, ephemeral)
    assert identity.unwrap(sealed, CONTEXT) == CONTENT_KEY
    with pytest.raises(InvalidTag):
        rfc9180.open_x25519(sealed, private, b"another")


def test_hpke_hybrid_by_hand() -> None:
    """What is sealed for the default suite can be opened with single primitives, should HPKE of the library go."""
    identity = keys.generate_identity("hybrid")
    mlkem_key, x25519_key = identity.private_parts()
    assert isinstance(mlkem_key, mlkem.MLKEM768PrivateKey) and isinstance(x25519_key, x25519.X25519PrivateKey)
    wrapped = identity.recipient.wrap(CONTENT_KEY, CONTEXT)
    assert len(wrapped) == 1168
    assert rfc9180.open_hybrid(wrapped, mlkem_key, x25519_key, CONTEXT) == CONTENT_KEY


WRAPPED = {
    name: (make_vectors.identity(name), make_vectors.recipient(name).wrap(CONTENT_KEY, CONTEXT))
    for name in ("hybrid", "alice", "p256", "cms")
}


@settings(deadline=None, max_examples=400)
@given(data=st.data())
def test_changed_wrapped_keys_do_not_unwrap(data: st.DataObject) -> None:
    name, (identity, sealed) = data.draw(st.sampled_from(sorted(WRAPPED.items())))
    wrapped = bytearray(sealed)
    index = data.draw(st.integers(0, len(wrapped) - 1))
    wrapped[index] ^= data.draw(st.integers(1, 255))
    try:
        assert identity.unwrap(bytes(wrapped), CONTEXT) == CONTENT_KEY
    except WrongKeyError:
        return
    # CMS has bytes that do not matter (the version number); no such change may give another key.
    assert name == "cms"


# --- CMS --------------------------------------------------------------------------------------------------------------


@needs_openssl
def test_openssl_opens_the_cms_wrap(cms: keys.CmsIdentity, tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(private_pem(cms._key))
    (tmp_path / "certificate.pem").write_bytes(cms.recipient.public_pem())
    # Line ends of both kinds must come through: without the Binary option they would be rewritten.
    content_key = b"\n" * 8 + b"\r\n" * 8 + b"\r" * 8
    (tmp_path / "wrapped.der").write_bytes(cms.recipient.wrap(content_key, CONTEXT))
    command = "cms -decrypt -binary -inform DER -in wrapped.der -inkey key.pem -recip certificate.pem"
    opened = subprocess.run([str(OPENSSL), *command.split()], cwd=tmp_path, capture_output=True, check=True).stdout
    assert opened[:32] == content_key and len(opened) == 64
    assert cms.unwrap((tmp_path / "wrapped.der").read_bytes(), CONTEXT) == content_key


def test_certificates_that_cannot_receive_are_refused(rsa_key: rsa.RSAPrivateKey, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="RSA key"):
        keys.CmsRecipient(make_certificate(ec.generate_private_key(ec.SECP256R1())))
    with pytest.raises(ValueError, match="1024 bits"):
        keys.CmsRecipient(make_certificate(rsa.generate_private_key(public_exponent=65537, key_size=1024)))
    with pytest.raises(ValueError, match="key encipherment"):
        keys.CmsRecipient(make_certificate(rsa_key, usage=False))
    path = tmp_path / "old.pem"
    keys.save_recipient(keys.CmsRecipient(make_certificate(rsa_key, usage=True, years=(2001, 2002))), path)
    with pytest.raises(ValueError, match=r"old\.pem.*not valid today"):
        keys.load_recipient(path)


def test_cms_files(cms: keys.CmsIdentity, rsa_key: rsa.RSAPrivateKey, tmp_path: Path) -> None:
    certificate = cms.recipient.public_pem()
    (tmp_path / "both.pem").write_bytes(b"Bag Attributes: any text\n" + certificate + private_pem(cms._key))
    (tmp_path / "certificate.pem").write_bytes(certificate)
    identity, recipient = keys.load_identity(tmp_path / "both.pem"), keys.load_recipient(tmp_path / "certificate.pem")
    assert identity.unwrap(recipient.wrap(CONTENT_KEY, CONTEXT), CONTEXT) == CONTENT_KEY
    traditional = serialization.PrivateFormat.TraditionalOpenSSL, serialization.BestAvailableEncryption(b"pw")
    pem = cms._key.private_bytes(serialization.Encoding.PEM, *traditional)
    (tmp_path / "old.pem").write_bytes(pem + certificate)
    assert keys.needs_passphrase(tmp_path / "old.pem")
    assert keys.load_identity(tmp_path / "old.pem", "pw").key_id == cms.key_id
    for name, data, message in [
        ("alone", private_pem(cms._key), "exactly one certificate"),
        ("chain", private_pem(cms._key) + 2 * certificate, "exactly one certificate"),
        ("stranger", private_pem(rsa_key) + certificate, "not that of the private key"),
        ("x25519", private_pem(x25519.X25519PrivateKey.generate()) + certificate, "RSA keys only"),
    ]:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=f"{name}: .*{message}"):
            keys.load_identity(tmp_path / name)


# --- passphrases ------------------------------------------------------------------------------------------------------


def test_passphrase_cost_is_that_of_rfc_9106() -> None:
    recipient = keys.PassphraseRecipient("correct horse")
    wrapped = recipient.wrap(CONTENT_KEY, CONTEXT)
    assert struct.unpack_from(">IBB", wrapped, 16) == (64 * 1024, 3, 4)
    assert keys.PassphraseIdentity("correct horse").unwrap(wrapped, CONTEXT) == CONTENT_KEY


def test_passphrases_are_normalized() -> None:
    wrapped = cheap_passphrase("Zu\u0308rich").wrap(CONTENT_KEY, CONTEXT)
    assert keys.PassphraseIdentity("Z\u00fcrich").unwrap(wrapped, CONTEXT) == CONTENT_KEY
    assert passphrase_bytes(b"\xff") == b"\xff"
    with pytest.raises(WrongKeyError):
        keys.PassphraseIdentity("Zurich").unwrap(wrapped, CONTEXT)
    for make in (keys.PassphraseRecipient, keys.PassphraseIdentity):
        with pytest.raises(ValueError, match="empty"):
            make("")


def test_passphrase_key_ids_do_not_come_from_the_passphrase() -> None:
    assert cheap_passphrase("a").key_id != cheap_passphrase("a").key_id


@pytest.mark.parametrize(
    ("memory_kib", "iterations", "lanes"),
    [
        (256 * 1024 + 1, 1, 1), (2**32 - 1, 1, 1), (256 * 1024, 4, 1), (64 * 1024, 13, 1), (16 * 1024, 0, 1),
        (64 * 1024, 3, 0), (64 * 1024, 3, 9),
        # What makes guesses cheap:
        (64, 1, 1), (16 * 1024 - 1, 255, 1), (16 * 1024, 1, 1),
    ],
)  # fmt: skip
def test_argon2_cost_from_outside_is_bounded(
    memory_kib: int, iterations: int, lanes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapped = bytearray(cheap_passphrase("a").wrap(CONTENT_KEY, CONTEXT))
    struct.pack_into(">IBB", wrapped, 16, memory_kib, iterations, lanes)
    monkeypatch.setattr(passphrases, "_argon2", lambda *_: pytest.fail("derived"))
    with pytest.raises(TamperedError, match="Argon2id"):
        keys.PassphraseIdentity("a").unwrap(bytes(wrapped), CONTEXT)


def test_what_is_wrapped_opens_for_one_passphrase_only() -> None:
    """AES-GCM takes any key that gives the right tag; that of the passphrase is told by a commitment of its own."""
    mine, other = cheap_passphrase("mine"), cheap_passphrase("other")
    wrapped, foreign = (one.wrap(CONTENT_KEY, CONTEXT) for one in (mine, other))
    spliced = wrapped[:34] + foreign[34:66] + wrapped[66:]
    with pytest.raises(WrongKeyError):
        keys.PassphraseIdentity("mine").unwrap(spliced, CONTEXT)


def test_foreign_records_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    identity = keys.PassphraseIdentity("a")
    monkeypatch.setattr(passphrases, "_argon2", lambda *_: bytes(32))
    wrapped = cheap_passphrase("a").wrap(CONTENT_KEY, CONTEXT)
    for number in range(passphrases._KEPT_KEYS + 50):
        with pytest.raises(WrongKeyError):
            identity.unwrap(number.to_bytes(16, "big") + wrapped[16:34] + bytes(32) + wrapped[66:], CONTEXT)
    assert len(identity._roots) == passphrases._KEPT_KEYS


# --- signatures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", keys.SIGNATURE_KINDS)
def test_signatures(kind: str) -> None:
    signer = keys.generate_signer(kind)
    signature = signer.sign(b"message")
    assert signer.kind == signer.verifier.kind == kind
    signer.verifier.verify(b"message", signature)
    again = pickle.loads(pickle.dumps(signer.verifier))
    assert again == signer.verifier and again.key_id == signer.key_id and len({again, signer.verifier}) == 1
    for verifier, message, signed in [
        (signer.verifier, b"other", signature),
        (signer.verifier, b"message", signature[:-1]),
        (signer.verifier, b"message", b""),
        (keys.generate_signer(kind).verifier, b"message", signature),
    ]:
        with pytest.raises(SignatureError, match="not a valid one"):
            verifier.verify(message, signed)


def test_signature_keys_of_other_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown kind"):
        keys.generate_signer("dsa")
    for public in (b"", keys.generate_identity("x25519").recipient.public_bytes()):
        with pytest.raises(ValueError):
            keys.Verifier.from_public_bytes(public)


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("passphrase", [None, "öffne dich"])
@pytest.mark.parametrize("kind", keys.HPKE_KINDS)
def test_key_files_of_identities(kind: str, passphrase: str | None, tmp_path: Path) -> None:
    identity = keys.generate_identity(kind)
    paths = keys.save_key_pair(identity, tmp_path / "name.v1", passphrase)
    assert [path.name for path in paths] == ["name.v1.key", "name.v1.pub"]
    assert keys.needs_passphrase(paths.private) == (passphrase is not None)
    recipient, again = keys.load_recipient(paths.public), keys.load_identity(paths.private, passphrase)
    assert recipient == identity.recipient == again.recipient
    assert again.unwrap(recipient.wrap(CONTENT_KEY, CONTEXT), CONTEXT) == CONTENT_KEY
    assert paths.private.read_bytes().count(b"-----BEGIN ") == (2 if kind == "hybrid" else 1)


@pytest.mark.parametrize("passphrase", [None, "pw"])
@pytest.mark.parametrize("kind", keys.SIGNATURE_KINDS)
def test_key_files_of_signers(kind: str, passphrase: str | None, tmp_path: Path) -> None:
    signer = keys.generate_signer(kind)
    paths = keys.save_key_pair(signer, tmp_path / "custodian", passphrase)
    keys.load_verifier(paths.public).verify(b"m", keys.load_signer(paths.private, passphrase).sign(b"m"))


def test_single_files(tmp_path: Path) -> None:
    identity, signer = keys.generate_identity(), keys.generate_signer()
    keys.save_identity(identity, tmp_path / "i")
    keys.save_recipient(identity.recipient, tmp_path / "r")
    keys.save_signer(signer, tmp_path / "s")
    keys.save_verifier(signer.verifier, tmp_path / "v")
    assert keys.load_identity(tmp_path / "i").recipient == keys.load_recipient(str(tmp_path / "r"))
    assert keys.load_signer(tmp_path / "s").verifier == keys.load_verifier(tmp_path / "v")


@pytest.mark.skipif(os.name != "posix", reason="modes are those of POSIX")
def test_private_files_are_for_their_owner_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        paths = keys.save_key_pair(keys.generate_identity("x25519"), tmp_path / "n")
    finally:
        os.umask(before)
    assert stat.S_IMODE(paths.private.stat().st_mode) == 0o600
    assert stat.S_IMODE(paths.public.stat().st_mode) == 0o644


@pytest.mark.skipif(os.name != "posix", reason="modes are those of POSIX")
def test_a_private_key_that_others_can_read_is_warned_of(tmp_path: Path) -> None:
    identity = keys.save_key_pair(keys.generate_identity("x25519"), tmp_path / "a").private
    signer = keys.save_key_pair(keys.generate_signer(), tmp_path / "s").private
    for load, path in ((keys.load_identity, identity), (keys.load_signer, signer)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            load(path)
        for mode in (0o640, 0o604):
            path.chmod(mode)
            with pytest.warns(keys.KeyFileWarning, match="others on this machine can read"):
                load(path)


@pytest.mark.parametrize("ending", ["key", "pub"])
def test_key_files_are_never_overwritten(ending: str, tmp_path: Path) -> None:
    (tmp_path / f"n.{ending}").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        keys.save_key_pair(keys.generate_identity("x25519"), tmp_path / "n")
    assert [path.name for path in tmp_path.iterdir()] == [f"n.{ending}"]
    assert (tmp_path / f"n.{ending}").read_bytes() == b"mine"


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "n.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        keys.save_key_pair(keys.generate_identity("x25519"), tmp_path / "n")
    assert not (tmp_path / "elsewhere").exists()


def test_passphrases_of_files(tmp_path: Path) -> None:
    locked = keys.save_key_pair(keys.generate_identity("x25519"), tmp_path / "locked", "right").private
    plain = keys.save_key_pair(keys.generate_signer(), tmp_path / "plain").private
    with pytest.raises(ValueError, match="wrong passphrase") as raised:
        keys.load_identity(locked, "wrong secret")
    assert "wrong secret" not in str(raised.value) and raised.value.__suppress_context__
    with pytest.raises(ValueError, match="passphrase is needed"):
        keys.load_identity(locked)
    with pytest.raises(ValueError, match="not encrypted"):
        keys.load_signer(plain, "pw")
    with pytest.raises(ValueError, match="empty"):
        keys.save_key_pair(keys.generate_signer(), tmp_path / "empty", "")
    assert not list(tmp_path.glob("empty*"))


@pytest.mark.parametrize("load", [keys.load_identity, keys.load_recipient, keys.load_signer, keys.load_verifier])
def test_files_that_are_no_keys(load: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(FileNotFoundError):
        load(path)
    junk = b"-----BEGIN %b-----\nAAAA\n-----END %b-----\n"
    labels = [b"PUBLIC KEY", b"PRIVATE KEY", b"ENCRYPTED PRIVATE KEY", b"CERTIFICATE", b"OTHER"]
    for data in (b"", bytes(100), b"x" * 70_000, *(junk % (label, label) for label in labels)):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="file: "):
            load(path)


def test_files_of_another_purpose(tmp_path: Path) -> None:
    identity = keys.save_key_pair(keys.generate_identity("x25519"), tmp_path / "identity")
    signer = keys.save_key_pair(keys.generate_signer(), tmp_path / "signer")
    for load, path, message in [
        (keys.load_recipient, identity.private, "holds a private key"),
        (keys.load_recipient, signer.public, "signature key"),
        (keys.load_identity, identity.public, "not a private key file; found PUBLIC KEY"),
        (keys.load_identity, signer.private, "signature key"),
        (keys.load_verifier, signer.private, "holds a private key"),
        (keys.load_verifier, identity.public, "not a public signature key"),
        (keys.load_signer, identity.private, "not a signature key"),
    ]:
        with pytest.raises(ValueError, match=message):
            load(path)
    p384, one = ec.generate_private_key(ec.SECP384R1()), x25519.X25519PrivateKey.generate()
    alone = mlkem.MLKEM768PrivateKey.generate()
    for name, data in [("p384", private_pem(p384)), ("two", 2 * private_pem(one)), ("mlkem", private_pem(alone))]:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=r"supported|several"):
            keys.load_identity(tmp_path / name)
    (tmp_path / "twice").write_bytes(2 * identity.public.read_bytes())
    with pytest.raises(ValueError, match="two public keys"):
        keys.load_recipient(tmp_path / "twice")


@needs_openssl
@pytest.mark.parametrize("kind", ["x25519", "p256", "ed25519"])
@pytest.mark.parametrize("passphrase", [None, "pass"])
def test_openssl_reads_the_key_files(kind: str, passphrase: str | None, tmp_path: Path) -> None:
    key = keys.generate_signer(kind) if kind == "ed25519" else keys.generate_identity(kind)
    paths = keys.save_key_pair(key, tmp_path / "n", passphrase)
    unlock = [] if passphrase is None else ["-passin", f"pass:{passphrase}"]
    made = subprocess.run(
        [str(OPENSSL), "pkey", "-in", str(paths.private), "-pubout", *unlock], capture_output=True, check=True
    )
    assert made.stdout == paths.public.read_bytes()


# --- secrets stay secret ----------------------------------------------------------------------------------------------


def secrets() -> list[tuple[object, bytes]]:
    hybrid, p256 = keys.generate_identity("hybrid"), keys.generate_identity("p256")
    signer = make_vectors.signer("custodian")
    mlkem_key = hybrid.private_parts()[0]
    assert isinstance(mlkem_key, mlkem.MLKEM768PrivateKey)
    (p256_key,) = p256.private_parts()
    assert isinstance(p256_key, ec.EllipticCurvePrivateKey)
    return [
        (hybrid, mlkem_key.private_bytes_raw()),
        (p256, p256_key.private_numbers().private_value.to_bytes(32, "big")),
        (make_vectors.identity("alice"), make_vectors.fixed("alice")),
        (make_vectors.identity("cms"), b"RSA"),
        (keys.PassphraseIdentity("swordfish"), b"swordfish"),
        (cheap_passphrase("swordfish"), b"swordfish"),
        (signer, make_vectors.fixed("custodian")),
    ]


@pytest.mark.parametrize(
    ("holder", "secret"), secrets(), ids=["hybrid", "p256", "x25519", "cms", "passphrase", "recipient", "signer"]
)
def test_secrets_are_not_shown_nor_pickled(holder: object, secret: bytes) -> None:
    for shown in (repr(holder), str(holder), f"{holder}", repr([holder])):
        assert secret.hex() not in shown and secret.decode("latin-1") not in shown and repr(secret)[2:-1] not in shown
        assert type(holder).__name__ in shown and "object at" not in shown
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="holds a secret"):
            pickle.dumps(holder, protocol)
    # MONAI copies its transforms deeply: that must work, and must not double the secret.
    assert copy.copy(holder) is holder and copy.deepcopy(holder) is holder
    assert not hasattr(holder, "__dict__")


@pytest.mark.parametrize("kind", keys.KINDS)
def test_errors_hold_no_secret(kind: str) -> None:
    identity, recipient = identity_of(kind)
    wrapped = recipient.wrap(CONTENT_KEY, CONTEXT)
    with pytest.raises(WrongKeyError) as raised:
        identity.unwrap(wrapped, b"another")
    assert CONTENT_KEY.hex() not in str(raised.value) and "Grüße" not in str(raised.value)
    assert raised.value.__suppress_context__ or raised.value.__context__ is None


def test_ed25519_is_not_an_identity() -> None:
    with pytest.raises(ValueError, match="not a key for encryption"):
        keys.HpkeRecipient(ed25519.Ed25519PrivateKey.generate().public_key())  # type: ignore[arg-type]


def test_a_salt_that_processes_share_is_one_key_id() -> None:
    salt = bytes(range(keys.SALT_BYTES))
    first, second = keys.PassphraseRecipient("correct horse", salt), keys.PassphraseRecipient("correct horse", salt)
    assert first.key_id == second.key_id and salt_of(first.wrap(CONTENT_KEY, CONTEXT)) == salt
    for wrong in (b"", salt[:-1], salt + b"0"):
        with pytest.raises(ValueError, match="16 bytes"):
            keys.PassphraseRecipient("correct horse", wrong)
    with pytest.raises(TamperedError):
        salt_of(b"short")

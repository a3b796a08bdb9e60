# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Encrypted Attributes Sequence: restored with OpenSSL and pydicom alone."""

from __future__ import annotations

import datetime
import io
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import NamedTuple

import doubles
import numpy as np
import pydicom
import pytest
import samples
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import pkcs7
from cryptography.x509.oid import NameOID
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian
from test_formats_dicom import ENVELOPE, GRADIENT, ROOT, made, moved, read
from test_formats_dicom_decoding import written
from test_formats_dicom_interop import messages, tool

from monai_miadmark import cli
from monai_miadmark.commands import jobs
from monai_miadmark.errors import UnsupportedImageError
from monai_miadmark.formats import dicom_ps315
from monai_miadmark.formats.dicom import DicomCarrier
from monai_miadmark.keys import generate_identity
from monai_miadmark.options import PRESETS
from monai_miadmark.pipeline import protect_bytes

CARRIER = DicomCarrier()
OPENSSL = pytest.mark.skipif(shutil.which("openssl") is None, reason="not installed: openssl")


class Holder(NamedTuple):
    """A hospital's key and certificate."""

    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


def holder(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> Holder:
    """A self-signed certificate."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Clinic")])
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=36500))
    return Holder(key, builder.sign(key, hashes.SHA256()))


@pytest.fixture(scope="module")
def clinic() -> Holder:
    return holder(rsa.generate_private_key(65537, 2048))


@pytest.fixture(scope="module")
def other() -> Holder:
    return holder(rsa.generate_private_key(65537, 2048))


def protect(data: bytes, *holders: Holder) -> bytes:
    """A protected object with encrypted attributes."""
    opened = CARRIER.open_source(data, "a")
    values = moved(opened.image.values)
    return CARRIER.carry(data, opened, values, ENVELOPE, [each.certificate for each in holders])


def decrypted(ds: Dataset, who: Holder, folder: Path) -> Dataset:
    """The original attributes, by OpenSSL."""
    (item,) = ds.EncryptedAttributesSequence
    (folder / "key.pem").write_bytes(
        who.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    (folder / "certificate.pem").write_bytes(who.certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "content.der").write_bytes(item.EncryptedContent)
    command = ["openssl", "cms", "-decrypt", "-binary", "-inform", "DER", "-in", "content.der", "-out", "plain"]
    subprocess.run(
        [*command, "-inkey", "key.pem", "-recip", "certificate.pem"], cwd=folder, check=True, capture_output=True
    )
    content = read_dataset(io.BytesIO((folder / "plain").read_bytes()), is_implicit_VR=False, is_little_endian=True)
    assert [element.keyword for element in content] == ["ModifiedAttributesSequence"]
    (modified,) = content.ModifiedAttributesSequence
    return modified


def put_back(ds: Dataset, modified: Dataset) -> None:
    """What PS3.15 E.1.2 asks of whoever restores, and the attributes that were added taken out."""
    for keyword in dicom_ps315.ADDED_KEYWORDS:
        if keyword in ds:
            delattr(ds, keyword)
    for tag in [tag for tag in ds.keys() if tag >> 16 == 0x0411]:
        del ds[tag]
    for element in modified:
        ds[element.tag] = element
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID


@OPENSSL
def test_ct_comes_back_byte_for_byte(clinic: Holder, tmp_path: Path) -> None:
    data = (ROOT / "CT_small.dcm").read_bytes()
    protected = protect(data, clinic)
    assert CARRIER.open_protected(protected).envelope == ENVELOPE
    ds = read(protected)
    assert np.any(ds.pixel_array != read(data).pixel_array)
    put_back(ds, decrypted(ds, clinic, tmp_path))
    assert written(ds) == data
    assert 1.7 < len(protected) / len(data) < 2.3


@OPENSSL
@pytest.mark.parametrize(
    "name",
    [
        "MR_small_RLE.dcm",
        "MR_small_jp2klossless.dcm",
        "SC_rgb_dcmtk_+eb+cy+np.dcm",
        "examples_palette.dcm",
        "image_dfl.dcm",
        "MR_small_implicit.dcm",
        "examples_overlay.dcm",
    ],
)
def test_data_sets_come_back(name: str, clinic: Holder, other: Holder, tmp_path: Path) -> None:
    data = (ROOT / name).read_bytes()
    source, ds = read(data), read(protect(data, other, clinic))
    (item,) = ds.EncryptedAttributesSequence
    syntax = item.EncryptedContentTransferSyntaxUID
    assert not syntax.is_implicit_VR and syntax.is_little_endian
    modified = decrypted(ds, clinic, tmp_path)
    # Everything that tells how to read the pixels comes back with them.
    assert modified["PixelData"].value == source["PixelData"].value
    if source.file_meta.TransferSyntaxUID.is_encapsulated:
        assert syntax == source.file_meta.TransferSyntaxUID
    put_back(ds, modified)
    assert {e.tag for e in ds} == {e.tag for e in source if e.tag.element or e.tag.group < 8}
    for element in source:
        if element.tag.element:
            assert ds[element.tag].value == element.value, element.keyword
    ds.file_meta.TransferSyntaxUID = source.file_meta.TransferSyntaxUID
    if source.file_meta.TransferSyntaxUID.is_encapsulated:
        ds["PixelData"].is_undefined_length = True
        again = read(written(ds))
        assert np.array_equal(again.pixel_array, source.pixel_array)


def test_text_in_another_character_set(clinic: Holder) -> None:
    data = made(GRADIENT, SpecificCharacterSet="ISO_IR 192", SeriesDescription="Schädel größer")
    ds = read(protect(data, clinic))
    der = ds.EncryptedAttributesSequence[0].EncryptedContent
    length = 4 + int.from_bytes(der[2:4], "big")
    assert der[1] == 0x82 and set(der[length:]) <= {0}
    plain = pkcs7.pkcs7_decrypt_der(der[:length], clinic.certificate, clinic.key, [])
    content = read_dataset(io.BytesIO(plain), is_implicit_VR=False, is_little_endian=True)
    assert content.ModifiedAttributesSequence[0].SeriesDescription == "Schädel größer"


@tool("dciodvfy")
@pytest.mark.parametrize("name", ["CT_small.dcm", "SC_rgb_rle.dcm", "examples_palette.dcm"])
def test_the_validator_finds_nothing_new(name: str, clinic: Holder, tmp_path: Path) -> None:
    path = tmp_path / "protected.dcm"
    path.write_bytes(protect((ROOT / name).read_bytes(), clinic))
    new = messages(path) - messages(ROOT / name)
    assert [line for line in new if "(0x0411,0x10" not in line] == []


def test_refusals(clinic: Holder, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="RSA"):
        protect(made(GRADIENT), holder(ec.generate_private_key(ec.SECP256R1())))
    with pytest.raises(UnsupportedImageError, match="big-endian"):
        protect(made(GRADIENT, ExplicitVRBigEndian), clinic)
    again = read(made(GRADIENT))
    item = Dataset()
    item.EncryptedContentTransferSyntaxUID, item.EncryptedContent = ImplicitVRLittleEndian, b"ab"
    again.EncryptedAttributesSequence = pydicom.sequence.Sequence([item])
    with pytest.raises(UnsupportedImageError, match="already"):
        protect(written(again), clinic)
    assert "EncryptedAttributesSequence" not in read(protect(made(GRADIENT)))
    monkeypatch.setattr(dicom_ps315, "MAX_CONTENT_BYTES", 100)
    with pytest.raises(UnsupportedImageError, match="more than 100 bytes"):
        protect(made(GRADIENT), clinic)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clinic: Holder, other: Holder) -> Path:
    """A current folder with keys, certificates and images, where the command makes noise instead of using networks."""
    marker = types.ModuleType("monai_miadmark.marker")
    marker.load_marker = doubles.load_marker  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "monai_miadmark.marker", marker)
    monkeypatch.setitem(PRESETS, "standard", doubles.BLUNT)
    monkeypatch.setattr(jobs, "usable_cores", lambda: 1)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["keygen", "alice", "--kem", "x25519"]) == 0
    for name, who in (("clinic", clinic), ("other", other)):
        Path(f"{name}.pem").write_bytes(who.certificate.public_bytes(serialization.Encoding.PEM))
    Path("in").mkdir()
    Path("in/ct.dcm").write_bytes((ROOT / "CT_small.dcm").read_bytes())
    return tmp_path


PROTECT = ["protect", "in", "-o", "out", "-r", "alice.pub"]


@OPENSSL
def test_the_command_line_for_two_certificates(workplace: Path, clinic: Holder, other: Holder) -> None:
    data = Path("in/ct.dcm").read_bytes()
    assert cli.main([*PROTECT, "--ps315", "clinic.pem", "--ps315", "other.pem"]) == 0
    protected = Path("out/ct.dcm").read_bytes()
    assert np.any(read(protected).pixel_array != read(data).pixel_array)
    for who in (clinic, other):  # without this package
        ds = read(protected)
        put_back(ds, decrypted(ds, who, workplace))
        assert written(ds) == data
    assert cli.main(["remove", "out/ct.dcm", "-o", "back", "-i", "alice.key"]) == 0
    assert Path("back/ct.dcm").read_bytes() == data


def test_whose_certificates_belongs_to_the_job(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*PROTECT, "--ps315", "clinic.pem"]) == 0
    first = Path("out/ct.dcm").read_bytes()
    assert cli.main([*PROTECT, "--resume", "--ps315", "clinic.pem"]) == 0
    capsys.readouterr()
    for more in ([], ["--ps315", "other.pem"]):
        assert cli.main([*PROTECT, "--resume", *more]) == 2
        assert "options" in capsys.readouterr().err
    assert Path("out/ct.dcm").read_bytes() == first


def test_the_command_line_refuses(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    Path("ec.pem").write_bytes(holder(key).certificate.public_bytes(serialization.Encoding.PEM))
    for path, reason in (("none.pem", "No such file"), ("alice.pub", "not an X.509 certificate"), ("ec.pem", "RSA")):
        assert cli.main([*PROTECT, "--ps315", path]) == 2
        said = capsys.readouterr().err
        assert reason in said and "hint:" in said
        assert not Path("out").exists()
    Path("in/a.png").write_bytes(samples.png())
    assert cli.main([*PROTECT, "--ps315", "clinic.pem"]) == 1
    assert "a.png: UnsupportedImageError: encrypted attributes (PS3.15)" in capsys.readouterr().err
    assert Path("out/ct.dcm").exists() and not Path("out/a.png").exists()


def test_a_certificate_that_cannot_be_encrypted_for_is_found_before_the_image_is_marked() -> None:
    class Untouched:
        """A marker that nobody may ask."""

    with pytest.raises(ValueError, match="RSA"):
        protect_bytes(
            made(GRADIENT),
            "a.dcm",
            [generate_identity("x25519").recipient],
            Untouched(),  # type: ignore[arg-type]
            certificates=[holder(ec.generate_private_key(ec.SECP256R1())).certificate],
        )

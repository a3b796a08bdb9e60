# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Files that lost record and name are restored from sidecars anywhere, matched by their pixels."""

from __future__ import annotations

import io
import json
import os
import struct
from pathlib import Path

import nibabel as nib
import pydicom
import pytest
import samples
from doubles import NoiseMarker
from hypothesis import given
from hypothesis import strategies as st

from monai_miadmark import files
from monai_miadmark.envelope import inspect_envelope, peek_header
from monai_miadmark.errors import MIADMarkError, NotProtectedError, SidecarsDifferError, TamperedError, WrongKeyError
from monai_miadmark.keys import HpkeIdentity, generate_identity, generate_signer
from monai_miadmark.options import ProtectOptions
from monai_miadmark.pipeline import protect_bytes
from monai_miadmark.seal import open_envelope, seal
from monai_miadmark.sidecars import find_sidecars


@pytest.fixture(scope="module")
def alice() -> HpkeIdentity:
    return generate_identity("x25519")


def protect(source: Path, folder: Path, alice: HpkeIdentity) -> Path:
    """With the record inside and beside."""
    made = files.make_protected(
        source, folder, [alice.recipient], NoiseMarker(), ProtectOptions(preset="fast"), record="both"
    )
    return made.write()


def de_identified(data: bytes) -> bytes:
    """A DICOM file as de-identifiers leave it: no private elements, other names and UIDs."""
    data_set = pydicom.dcmread(io.BytesIO(data))
    data_set.remove_private_tags()
    data_set.PatientName, data_set.PatientID = "ANON", "0"
    data_set.SOPInstanceUID = data_set.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    out = io.BytesIO()
    data_set.save_as(out)
    return out.getvalue()


def test_a_de_identified_file_is_restored(tmp_path: Path, alice: HpkeIdentity) -> None:
    (tmp_path / "ct.dcm").write_bytes(samples.ct())
    (tmp_path / "other.png").write_bytes(samples.png())
    protected = protect(tmp_path / "ct.dcm", tmp_path / "p", alice)
    protect(tmp_path / "other.png", tmp_path / "p", alice)
    stripped = tmp_path / "shared" / "IM0001"
    stripped.parent.mkdir()
    stripped.write_bytes(de_identified(protected.read_bytes()))
    with pytest.raises(NotProtectedError):
        files.make_restored(stripped, tmp_path / "r", [alice])
    found = find_sidecars(tmp_path)
    assert len(found) == 2
    made = files.make_restored(stripped, tmp_path / "r", [alice], sidecars=found)
    assert made.path == tmp_path / "r" / "ct.dcm" and made.outputs[0].data == samples.ct()


def test_of_several_the_one_that_opens_counts(tmp_path: Path, alice: HpkeIdentity) -> None:
    """Resealed ones lie about; damaged ones do no harm."""
    bob = generate_identity("x25519")
    (tmp_path / "a.nii").write_bytes(samples.nifti())
    protected = protect(tmp_path / "a.nii", tmp_path / "1", alice)
    granted = files.grant_file(protected, tmp_path / "2", alice, [bob.recipient])
    revoked = files.revoke_file(granted, tmp_path / "3", bob, [alice.key_id])
    for number, path in enumerate((protected, granted, revoked)):
        assert files.sidecar_path(path).exists(), "a record that lay inside and beside does so still"
        os.utime(files.sidecar_path(path), (number, number))
    damaged = tmp_path / "0.miadmark"
    damaged.write_bytes(files.sidecar_path(revoked).read_bytes()[:-1] + b"?")
    found = find_sidecars(tmp_path)
    (paths,) = found.values()
    assert paths == (damaged, *(files.sidecar_path(path) for path in (revoked, granted, protected)))

    stripped = tmp_path / "s.nii"
    image = nib.Nifti1Image.from_bytes(protected.read_bytes())
    image.header.extensions.clear()
    slope, inter = image.dataobj.slope, image.dataobj.inter
    bare = nib.Nifti1Image(image.dataobj.get_unscaled(), None, image.header)
    bare.header.set_slope_inter(slope, inter)
    stripped.write_bytes(bare.to_bytes())
    for identity in (alice, bob):
        made = files.make_restored(stripped, tmp_path / "r", [identity], sidecars=found)
        assert made.outputs[0].data == samples.nifti()
    with pytest.raises((WrongKeyError, TamperedError)):
        files.make_restored(stripped, tmp_path / "r", [generate_identity("x25519")], sidecars=found)


def forged_record(alice: HpkeIdentity, picture: bytes, pixels: str) -> bytes:
    """A record that carries any picture for these pixels, as whoever knows alice's public key can make it."""
    made = protect_bytes(picture, "a.png", [alice.recipient], NoiseMarker(), ProtectOptions(preset="fast"))
    record = open_envelope(made.envelope, [alice]).record
    start = struct.Struct("<8sHI")
    magic, version, size = start.unpack_from(record)
    head = json.loads(record[start.size : start.size + size])
    head["digests"]["protected_pixels"] = pixels
    text = json.dumps(head).encode()
    return start.pack(magic, version, len(text)) + text + record[start.size + size :]


def test_a_newer_forgery_does_not_shadow_the_genuine_one(tmp_path: Path, alice: HpkeIdentity) -> None:
    """Records that restore different files are all named; who demands the signer gets the genuine one."""
    custodian, stranger = generate_signer(), generate_signer()
    (tmp_path / "a.png").write_bytes(samples.png())
    options = ProtectOptions(preset="fast")
    folder = tmp_path / "genuine"
    made = files.protect_file(
        tmp_path / "a.png", folder, [alice.recipient], NoiseMarker(), options, signer=custodian, sidecar=True
    )
    pixels = inspect_envelope(files.sidecar_path(made).read_bytes()).protected_pixels
    fake = seal(forged_record(alice, samples.png(7), pixels), [alice.recipient], bytes.fromhex(pixels), signer=stranger)
    (tmp_path / "forged").mkdir()
    (tmp_path / "forged" / "b.png.miadmark").write_bytes(fake)
    bare = tmp_path / "bare.png"
    bare.write_bytes(made.read_bytes())
    for lying in (bare, made):  # the genuine one lies beside the second
        with pytest.raises(SidecarsDifferError, match=r"b\.png\.miadmark") as raised:
            files.make_restored(lying, tmp_path / "r", [alice], sidecars=find_sidecars(tmp_path))
        assert str(files.sidecar_path(made)) in str(raised.value)
        restored = files.make_restored(
            lying, tmp_path / "r", [alice], sidecars=find_sidecars(tmp_path), require_signer=custodian.verifier
        )
        assert restored.outputs[0].data == samples.png() and restored.signature == "demanded"


def test_what_only_looks_like_sidecars(tmp_path: Path, alice: HpkeIdentity) -> None:
    (tmp_path / "a.png").write_bytes(samples.png())
    protected = protect(tmp_path / "a.png", tmp_path / "p", alice)
    (tmp_path / "empty.miadmark").touch()
    (tmp_path / "text.miadmark").write_text("MIADMARK")
    (tmp_path / "folder.miadmark").mkdir()
    (tmp_path / "link.miadmark").symlink_to(tmp_path / "absent")
    os.mkfifo(tmp_path / "pipe.miadmark")
    (tmp_path / "huge.miadmark").write_bytes(b"MIADMARK\x01\xff\xff\xff\xff" + b"x" * 100)
    assert [path for paths in find_sidecars(tmp_path).values() for path in paths] == [files.sidecar_path(protected)]
    with pytest.raises(OSError):
        find_sidecars(tmp_path / "absent")


def test_the_header_alone_names_the_pixels(tmp_path: Path, alice: HpkeIdentity) -> None:
    (tmp_path / "a.png").write_bytes(samples.png())
    envelope = files.sidecar_path(protect(tmp_path / "a.png", tmp_path / "p", alice)).read_bytes()
    stream = io.BytesIO(envelope)
    assert peek_header(stream).protected_pixels.hex() == inspect_envelope(envelope).protected_pixels
    assert stream.tell() < len(envelope) - 1000


@given(data=st.binary(max_size=80), magic=st.booleans())
def test_no_bytes_get_an_exception_of_a_parser_out(data: bytes, magic: bool) -> None:
    with pytest.raises(MIADMarkError):
        peek_header(io.BytesIO((b"MIADMARK\x01\0\0\0\x20" if magic else b"") + data))

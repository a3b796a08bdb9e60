# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""DICOM that other readers forgive is protected and comes back byte for byte, or is refused with what is true."""

from __future__ import annotations

import io
import time
from pathlib import Path

import numpy as np
import pydicom
import pytest
import samples
from doubles import BLUNT, NoiseMarker
from foreign_dicom import FILES, PICTURE, element, file, fragments, identity, image, meta, pixels, plain

from monai_miadmark.errors import MIADMarkError, TamperedError, UnsupportedImageError
from monai_miadmark.formats import carrier_for
from monai_miadmark.formats.dicom_mending import looks_like_dicom, mended
from monai_miadmark.keys import HpkeIdentity, generate_identity
from monai_miadmark.options import ProtectOptions
from monai_miadmark.pipeline import protect_bytes, remove_bytes, verify_bytes

OPTIONS = ProtectOptions(preset=BLUNT, region="none", style="invisible")


@pytest.fixture(scope="module")
def alice() -> HpkeIdentity:
    return generate_identity("x25519")


@pytest.mark.parametrize("name", FILES)
def test_what_readers_forgive_is_protected_and_restored(name: str, alice: HpkeIdentity) -> None:
    data = FILES[name]()
    made = protect_bytes(data, "a.dcm", [alice.recipient], NoiseMarker(), OPTIONS)
    assert remove_bytes(made.data, [alice]).data == data
    verify_bytes(made.data)
    protected = pydicom.dcmread(io.BytesIO(made.data))  # without force
    assert not protected.file_meta.TransferSyntaxUID.is_encapsulated and protected.SOPClassUID
    assert protected.SOPInstanceUID == protected.file_meta.MediaStorageSOPInstanceUID != "1.2.3.4"
    assert all(tag.group > 2 and tag.group != 0xFFFE for tag in protected.keys())
    if name != "odd pixels" and "end" not in name and "JPEG" not in name:
        shown = carrier_for(data, "a").open_source(data, "a").image.values[0, ..., 0]
        assert np.array_equal(shown, PICTURE)
        assert np.corrcoef(protected.pixel_array.ravel(), PICTURE.ravel())[0, 1] > 0.5


def test_sound_files_are_not_mended() -> None:
    sound = [samples.ct(), plain(), plain() + element(0xFFFA, 0xFFFA, "SQ", b"")]
    sound.append(file(identity(), image(), element(0xFFFC, 0xFFFC, "OB", b"ab"), pixels()))  # out of order
    for name in ("MR_small.dcm", "SC_rgb_jpeg_dcmtk.dcm", "examples_palette.dcm", "MR_small_RLE.dcm", "rtdose.dcm"):
        path = pydicom.data.get_testdata_file(name, download=False)
        assert isinstance(path, str)
        sound.append(Path(path).read_bytes())
    for data in sound:
        assert mended(data) is None


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (file(identity(), image(), fragments()[:-300], head=meta("1.2.840.10008.1.2.4.50")), "truncated|damaged|SOP"),
        (file(identity(), image(), pixels()[:-8]), "truncated"),
        (file(identity(), image()), "without pixel data"),
        (identity() + image(), "without pixel data"),
        (file(identity(sop_class=b"Canary^Patient\0\0"), image()), r"\(no valid SOP class\)"),
        (file(identity(), image(photometric=None), pixels()), "photometric"),
    ],
)
def test_what_is_broken_is_refused_with_what_is_true(data: bytes, reason: str) -> None:
    with pytest.raises(UnsupportedImageError, match=reason):
        carrier_for(data, "a").open_source(data, "a")


@pytest.mark.parametrize(
    "data", [b"", b"\2\0", b"\x08\0\x05\0CS", bytes(200), b"\x08\0" * 100, samples.png(), b"\0\x08" * 9]
)
def test_other_bytes_do_not_pass_for_dicom(data: bytes) -> None:
    assert not looks_like_dicom(data)


def test_what_was_appended_to_a_protected_file_is_found(alice: HpkeIdentity) -> None:
    made = protect_bytes(plain(), "a.dcm", [alice.recipient], NoiseMarker(), OPTIONS).data
    for tail in (bytes(512), b"\xfe\xff\xdd\xe0\0\0\0\0", b"text of some length"):
        with pytest.raises(TamperedError):
            verify_bytes(made + tail)


def test_much_behind_the_end_takes_no_time() -> None:
    data = plain() + bytes(1 << 25)
    start = time.process_time()
    assert mended(data) is not None and time.process_time() - start < 1


def test_every_cut_is_a_named_error_or_an_image() -> None:
    for name in ("item with content", "no end", "bare", "private UN sequence"):
        data = FILES[name]()
        for stop in range(0, len(data), 7):
            try:
                carrier_for(data[:stop], "a").open_source(data[:stop], "a")
            except MIADMarkError:
                pass

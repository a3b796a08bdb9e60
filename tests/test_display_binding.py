# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""``verify`` finds what changes how a protected image is shown; ``remove`` gives the original all the same."""

from __future__ import annotations

import gzip
import io
import struct
from collections.abc import Callable

import numpy as np
import pydicom
import pytest
import samples
import tifffile
from doubles import BLUNT, NoiseMarker
from fuzz.mutations import png_chunks, png_file
from PIL import Image
from test_label_maps import mgh, mha, nrrd

from monai_miadmark.errors import TamperedError
from monai_miadmark.formats import carrier_for
from monai_miadmark.keys import HpkeIdentity, generate_identity
from monai_miadmark.options import ProtectOptions
from monai_miadmark.pipeline import DISPLAY_NOTE, grant_bytes, protect_bytes, remove_bytes, verify_bytes
from monai_miadmark.seal import inspect_envelope

OPTIONS = ProtectOptions(preset=BLUNT, region="none", style="invisible")


@pytest.fixture(scope="module")
def alice() -> HpkeIdentity:
    return generate_identity("x25519")


def picture(mode: str, kind: str = "PNG", **options: object) -> bytes:
    """A picture of a mode of Pillow's."""
    planes = [samples.smooth(seed=seed) for seed in range(4)]
    stack = planes[0] if mode == "L" else np.stack(planes[: len(mode)], 2)
    out = io.BytesIO()
    Image.fromarray(stack).save(out, kind, **options)  # type: ignore[arg-type]
    return out.getvalue()


def tiff() -> bytes:
    """A page with resolution and orientation."""
    out = io.BytesIO()
    tags = [(274, 3, 1, 6, True)]
    tifffile.imwrite(out, samples.smooth(), metadata=None, resolution=(300, 300), resolutionunit=2, extratags=tags)
    return out.getvalue()


def transparent(data: bytes) -> bytes:
    """The PNG with nothing to be seen in it: alpha 0."""
    pixels = np.array(Image.open(io.BytesIO(data)))
    pixels[..., -1] = 0
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    [row] = [c for c in png_chunks(data) if c[0] == b"miRc"]
    head, *rest = png_chunks(out.getvalue())
    return png_file([head, row, *rest])


def with_chunk(kind: bytes, body: bytes) -> Callable[[bytes], bytes]:
    """A PNG with another chunk behind its header."""

    def change(data: bytes) -> bytes:
        head, *rest = png_chunks(data)
        return png_file([head, (kind, body), *(chunk for chunk in rest if chunk[0] != kind)])

    return change


def field(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    """The file with other bytes in one place."""

    def change(data: bytes) -> bytes:
        assert old in data
        return data.replace(old, new, 1)

    return change


def packed(offset: int, form: str, value: float) -> Callable[[bytes], bytes]:
    """The file with another number."""

    def change(data: bytes) -> bytes:
        changed = bytearray(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)
        struct.pack_into(form, changed, offset, value)
        return gzip.compress(changed) if data[:2] == b"\x1f\x8b" else bytes(changed)

    return change


def tag(code: int, value: int) -> Callable[[bytes], bytes]:
    """The TIFF file with another value of a short tag."""

    def change(data: bytes) -> bytes:
        changed = bytearray(data)
        with tifffile.TiffFile(io.BytesIO(data)) as opened:
            struct.pack_into("<H", changed, opened.pages[0].tags[code].valueoffset, value)
        return bytes(changed)

    return change


def attribute(keyword: str, value: object) -> Callable[[bytes], bytes]:
    """The DICOM file with another value."""

    def change(data: bytes) -> bytes:
        data_set = pydicom.dcmread(io.BytesIO(data))
        setattr(data_set, keyword, value)
        out = io.BytesIO()
        data_set.save_as(out)
        return out.getvalue()

    return change


RGBA, GRAY = picture("RGBA"), picture("L", dpi=(72, 72))
CHANGES: dict[str, tuple[str, bytes, Callable[[bytes], bytes]]] = {
    "alpha": ("a.png", RGBA, transparent),
    "transparent color": ("a.png", GRAY, with_chunk(b"tRNS", b"\0\x80")),
    "gamma": ("a.png", GRAY, with_chunk(b"gAMA", struct.pack(">I", 9))),
    "PNG orientation": ("a.png", GRAY, with_chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0")),
    "PNG resolution": ("a.png", GRAY, with_chunk(b"pHYs", struct.pack(">IIB", 1, 99, 1))),
    "of a JPEG": ("a.jpg", picture("RGB", "JPEG", dpi=(72, 72)), with_chunk(b"pHYs", struct.pack(">IIB", 1, 99, 1))),
    "TIFF orientation": ("a.tif", tiff(), tag(274, 3)),
    "TIFF unit": ("a.tif", tiff(), tag(296, 3)),
    "TIFF photometric": ("a.tif", tiff(), tag(262, 0)),
    "NIfTI spacing": ("a.nii", samples.nifti(), packed(80, "<f", 9.0)),
    "NIfTI form": ("a.nii.gz", samples.nifti_gz(), packed(280, "<f", 3.0)),
    "NIfTI range": ("a.nii", samples.nifti(), packed(124, "<f", 9.0)),
    "NRRD space": (
        "a.nrrd",
        nrrd(samples.smooth(), b"space origin: (1,2)\n"),
        field(b"space origin: (1,2)", b"space origin: (9,2)"),
    ),
    "MetaImage": (
        "a.mha",
        mha(samples.smooth()).replace(b"ElementType", b"ElementSpacing = 1 2\nElementType"),
        field(b"Spacing = 1 2", b"Spacing = 1 9"),
    ),
    "MGH": ("a.mgh", mgh(samples.smooth()), packed(30, ">f", 7.0)),
    "DICOM window": ("a.dcm", samples.ct(), attribute("WindowCenter", "9")),
    "DICOM spacing": ("a.dcm", samples.ct(), attribute("PixelSpacing", [1, 9])),
    "DICOM slope": ("a.dcm", samples.ct(), attribute("RescaleSlope", "-1")),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_what_changes_the_display_is_found_and_the_original_still_comes_back(kind: str, alice: HpkeIdentity) -> None:
    name, source, change = CHANGES[kind]
    made = protect_bytes(source, name, [alice.recipient], NoiseMarker(), OPTIONS).data
    verify_bytes(made)
    granted, _ = grant_bytes(made, alice, [generate_identity("x25519").recipient])
    verify_bytes(granted)
    changed = change(made)
    assert np.array_equal(
        carrier_for(changed, name).open_protected(changed).values, carrier_for(made, name).open_protected(made).values
    )
    with pytest.raises(TamperedError, match="how the image is shown"):
        verify_bytes(changed)
    assert samples.plain(name, remove_bytes(changed, [alice]).data) == samples.plain(name, source)


UNCHANGED: dict[str, tuple[str, bytes, Callable[[bytes], bytes]]] = {
    "PNG text": ("a.png", GRAY, with_chunk(b"tEXt", b"Comment\0hello")),
    "NIfTI description": ("a.nii", samples.nifti(), lambda data: data[:148] + b"hello" + data[153:]),
    "DICOM patient": ("a.dcm", samples.ct(), attribute("PatientName", "SOMEBODY ELSE")),
    "DICOM numbers in other words": ("a.dcm", samples.ct(), attribute("RescaleSlope", "1.0")),
    "NRRD comment": ("a.nrrd", nrrd(samples.smooth(), b"# a\n"), field(b"# a\n", b"# b\n")),
}


@pytest.mark.parametrize("kind", UNCHANGED)
def test_what_tools_change_without_changing_the_display_is_let_through(kind: str, alice: HpkeIdentity) -> None:
    name, source, change = UNCHANGED[kind]
    made = protect_bytes(source, name, [alice.recipient], NoiseMarker(), OPTIONS).data
    changed = change(made)
    assert changed != made
    verify_bytes(changed)


def test_the_note_is_signed_and_old_records_have_none(alice: HpkeIdentity) -> None:
    made = protect_bytes(GRAY, "a.png", [alice.recipient], NoiseMarker(), OPTIONS)
    info = inspect_envelope(made.envelope)
    digest = carrier_for(GRAY, "a.png").display_digest(GRAY)
    assert info.notes[DISPLAY_NOTE] == digest.hex() == carrier_for(made.data, "a").display_digest(made.data).hex()

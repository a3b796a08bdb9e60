# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Protected files hold no copy of the image beside it; what shows the image stays, and the record restores it all."""

from __future__ import annotations

import base64
import gzip
import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pydicom
import pytest
import samples
import tifffile
from doubles import BLUNT, NoiseMarker
from foreign_dicom import element, file, identity, image, item, pixels, plain
from PIL import Image, ImageCms
from test_label_maps import mgh, mha, nrrd

from monai_miadmark.errors import UnsupportedImageError
from monai_miadmark.formats.copies import clean_description, clean_profile, copy_bytes
from monai_miadmark.keys import HpkeIdentity, generate_identity
from monai_miadmark.options import ProtectOptions
from monai_miadmark.pipeline import protect_bytes, remove_bytes

OPTIONS = ProtectOptions(preset=BLUNT, region="none", style="invisible")
COPY = samples.smooth(32, 40, seed=5).tobytes()
"""Stands for a copy of an image: 1280 bytes that are in no file by chance."""

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture(scope="module")
def alice() -> HpkeIdentity:
    return generate_identity("x25519")


def profile_with(name: bytes, data: bytes) -> bytes:
    """sRGB with a further tag."""
    (count,) = struct.unpack_from(">I", SRGB, 128)
    tags = [list(struct.unpack_from(">4sII", SRGB, 132 + 12 * i)) for i in range(count)]
    table = b"".join(struct.pack(">4sII", tag, start + 12, size) for tag, start, size in tags)
    table += struct.pack(">4sII", name, len(SRGB) + 12, len(data))
    whole = SRGB[:128] + struct.pack(">I", count + 1) + table + SRGB[132 + 12 * count :] + data
    return struct.pack(">I", len(whole)) + whole[4:]


def raster(kind: str, **options: object) -> bytes:
    """A picture in color."""
    out = io.BytesIO()
    picture = Image.fromarray(np.stack([samples.smooth(seed=seed) for seed in range(3)], 2))
    picture.save(out, kind, **options)  # type: ignore[arg-type]
    return out.getvalue()


def with_chunk(kind: bytes, body: bytes) -> bytes:
    """A PNG with a chunk before its pixels."""
    data = samples.png()
    at = data.index(b"IDAT") - 4
    return (
        data[:at] + struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) + data[at:]
    )


def tiff(**options: object) -> bytes:
    """A stack of two pages."""
    out = io.BytesIO()
    stack = np.stack([samples.smooth(seed=seed) for seed in range(2)])
    tifffile.imwrite(out, stack, photometric="minisblack", metadata=None, **options)  # type: ignore[arg-type]
    return out.getvalue()


def ome(inside: str) -> bytes:
    """OME-XML of a stack of two."""
    return (
        '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        '<Image ID="Image:0" Name="NAME^PATIENT"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="40" '
        'SizeY="48" SizeZ="2" SizeC="1" SizeT="1" PhysicalSizeX="0.5"><Channel ID="Channel:0:0" SamplesPerPixel="1"/>'
        f'{inside}<TiffData IFD="0" PlaneCount="2"/></Pixels></Image></OME>'
    ).encode()


def nifti_with(block: bytes, tail: bytes = b"") -> bytes:
    """NIfTI with an extension."""
    data = samples.nifti()
    size = len(block) + 8 + -(len(block) + 8) % 16
    head = bytearray(data[:352])
    struct.pack_into("<f", head, 108, 352 + size)
    head[348] = 1
    return bytes(head) + struct.pack("<2i", size, 4) + block.ljust(size - 8, b"\0") + data[352:] + tail


LARGE = samples.smooth(48, 80, seed=6).tobytes()
ENCODED = base64.b64encode(COPY)
PRIVATE = element(0x29, 0x10, "LO", b"VENDOR")
ICON = element(0x88, 0x200, "SQ", item(element(0x28, 0x10, "US", b"\x20\0") + pixels(value=COPY)))

SOURCES: dict[str, tuple[str, Callable[[], bytes], bytes]] = {
    "OME pixel data": ("a.tif", lambda: tiff(description=ome(f"<BinData>{ENCODED.decode()}</BinData>")), ENCODED),
    "other XML": ("a.tif", lambda: tiff(description=b"<?xml version='1.0'?><scan>" + ENCODED + b"</scan>"), ENCODED),
    "ImageJ text": ("a.tif", lambda: tiff(description=b"ImageJ=1\nimages=2\nInfo=" + ENCODED + b"\n"), ENCODED),
    "tifffile JSON": ("a.tif", lambda: tiff(description=b'{"shape": [2, 48, 40], "x": "' + ENCODED + b'"}'), ENCODED),
    "TIFF profile": ("a.tif", lambda: tiff(iccprofile=profile_with(b"copy", COPY)), COPY),
    "PNG text": ("a.png", lambda: with_chunk(b"tEXt", b"Comment\0" + ENCODED), ENCODED),
    "PNG chunk of another length": ("a.png", lambda: with_chunk(b"pHYs", COPY), COPY),
    "unknown PNG chunk": ("a.png", lambda: with_chunk(b"coPy", COPY), COPY),
    "private DICOM bytes": ("a.dcm", lambda: plain(PRIVATE, element(0x29, 0x1010, "OB", COPY)), COPY),
    "private DICOM text": ("a.dcm", lambda: plain(PRIVATE, element(0x29, 0x1010, "UT", ENCODED)), ENCODED),
    "private UN": ("a.dcm", lambda: plain(PRIVATE, element(0x29, 0x1010, "UN", COPY)), COPY),
    "icon": ("a.dcm", lambda: plain(ICON), COPY),
    "icon in a sequence": ("a.dcm", lambda: plain(element(0x40, 0x275, "SQ", item(ICON))), COPY),
    "icon in an undefined sequence": (
        "a.dcm",
        lambda: plain(element(0x40, 0x275, "SQ", item(ICON) + b"\xfe\xff\xdd\xe0\0\0\0\0", length=0xFFFFFFFF)),
        COPY,
    ),
    "private sequence": ("a.dcm", lambda: plain(PRIVATE, element(0x29, 0x1010, "SQ", item(pixels(value=COPY)))), COPY),
    "document": ("a.dcm", lambda: plain(element(0x42, 0x11, "OB", COPY)), COPY),
    "DICOM profile": (
        "a.dcm",
        lambda: file(identity(), image(), element(0x28, 0x2000, "OB", profile_with(b"copy", COPY)), pixels()),
        COPY,
    ),
    "NIfTI extension": ("a.nii", lambda: nifti_with(LARGE), LARGE),
    "behind NIfTI": ("a.nii", lambda: samples.nifti() + LARGE, LARGE),
    "NRRD pair": ("a.nrrd", lambda: nrrd(samples.smooth(), b"copy:=" + ENCODED + b"\n"), ENCODED),
    "NRRD comment": ("a.nrrd", lambda: nrrd(samples.smooth(), b"# " + ENCODED + b"\n"), ENCODED),
    "behind NRRD": ("a.nrrd", lambda: nrrd(samples.smooth()) + COPY, COPY),
    "MetaImage comment": ("a.mha", lambda: b"Comment = " + ENCODED + b"\n" + mha(samples.smooth()), ENCODED),
    "behind MetaImage": ("a.mha", lambda: mha(samples.smooth()) + COPY, COPY),
    "MGH tag": ("a.mgh", lambda: mgh(samples.smooth(), bytes(20) + struct.pack(">iq", 5, len(COPY)) + COPY), COPY),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_no_copy_of_the_image_stays(kind: str, alice: HpkeIdentity) -> None:
    name, make, copy = SOURCES[kind]
    data = make()
    assert copy in data
    made = protect_bytes(data, name, [alice.recipient], NoiseMarker(), OPTIONS).data
    assert copy not in made and copy[len(copy) // 3 :][:64] not in made
    assert remove_bytes(made, [alice]).data == data


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_profiles_keep_what_converts_colors(kind: str, alice: HpkeIdentity) -> None:
    data = raster(kind, icc_profile=profile_with(b"copy", COPY))
    made = protect_bytes(data, f"a.{kind.lower()}", [alice.recipient], NoiseMarker(), OPTIONS).data
    with Image.open(io.BytesIO(made)) as picture:
        profile = picture.info["icc_profile"]
    assert COPY not in profile and remove_bytes(made, [alice]).data == data
    shown = [ImageCms.ImageCmsProfile(io.BytesIO(p)) for p in (profile, SRGB)]
    colors = Image.fromarray(np.arange(3 * 256, dtype=np.uint8).reshape(16, 16, 3))
    target = ImageCms.createProfile("LAB")
    one, other = (ImageCms.profileToProfile(colors, p, target, outputMode="LAB") for p in shown)
    assert np.array_equal(np.asarray(one), np.asarray(other))


def test_profiles() -> None:
    assert clean_profile(SRGB) == SRGB  # nothing to leave out, nothing changed
    for gap in (SRGB + COPY, profile_with(b"cprt", COPY), SRGB[:100] + COPY[:28] + SRGB[128:]):
        clean = clean_profile(gap)
        assert clean is not None and COPY[:28] not in clean
    assert clean_profile(b"") is None and clean_profile(b"profile" * 99) is None
    with pytest.raises(UnsupportedImageError, match="profile"):
        clean_profile(profile_with(b"A2B0", bytes(1 << 21)))
    for stop in range(0, len(SRGB), 5):
        clean_profile(SRGB[:stop])


def test_axes_are_read_as_before(alice: HpkeIdentity) -> None:
    data = tiff(description=ome(""))
    made = protect_bytes(data, "a.tif", [alice.recipient], NoiseMarker(), OPTIONS).data
    with tifffile.TiffFile(io.BytesIO(made)) as opened:
        assert opened.is_ome and opened.series[0].axes == "ZYX" and opened.series[0].shape == (2, 48, 40)
        assert 'PhysicalSizeX="0.5"' in opened.pages[0].description and b"PATIENT" not in made
    assert clean_description(b"ImageJ=1.5\nimages=2\nslices=2\n") == b"ImageJ=1.5\nimages=2\nslices=2\n"


@pytest.mark.parametrize(
    "text",
    [
        b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b 'c'>]><OME>&b;</OME>",
        b"<OME>" * 100,
        b"<OME>" + b"<a>" * 100_000 + b"</a>" * 100_000 + b"</OME>",
        b'{"shape": [[1]]}',
        b'{"shape": ' + b"[" * 100_000,
        b"free text",
        b"<?xml version='1.0' encoding='nonsense'?><OME/>",
    ],
)
def test_hostile_descriptions_do_no_harm(text: bytes) -> None:
    assert len(clean_description(text)) < 200


def test_what_converters_need_stays(alice: HpkeIdentity) -> None:
    header = b"SV10" + COPY
    config = b"<config>" + b"<line key='value'/> " * 200 + b"</config>"
    private = (
        element(0x29, 0x1010, "OB", header),
        element(0x29, 0x1020, "UT", config),
        element(0x29, 0x1030, "OB", b"few"),
    )
    made = protect_bytes(plain(PRIVATE, *private), "a.dcm", [alice.recipient], NoiseMarker(), OPTIONS).data
    data_set = pydicom.dcmread(io.BytesIO(made))
    block = data_set.private_block(0x29, "VENDOR")
    assert block[0x10].value.startswith(b"SV10") and "config" in block[0x20].value and block[0x30].value[:3] == b"few"


def test_long_lines_that_place_the_image_stay(alice: HpkeIdentity) -> None:
    long = b"space directions: (" + b"0." + b"1" * 300 + b",0) (0,1)\n"
    data = nrrd(samples.smooth(), b"space dimension: 2\n" + long)[: -48 * 40] + samples.smooth().tobytes()
    assert long in protect_bytes(data, "a.nrrd", [alice.recipient], NoiseMarker(), OPTIONS).data
    values = np.zeros((1, 11, 14, 1), np.uint8)
    assert copy_bytes(values) < len(long)


def test_small_extensions_stay_in_nifti(alice: HpkeIdentity) -> None:
    data = nifti_with(b"a comment")
    made = protect_bytes(gzip.compress(data), "a.nii.gz", [alice.recipient], NoiseMarker(), OPTIONS).data
    assert b"a comment" in gzip.decompress(made)
    assert copy_bytes(np.zeros((1, 512, 512, 1), np.int16)) == 8192 and copy_bytes(np.zeros((1, 8, 8, 1))) == 256

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Small valid inputs to start from: images of every format, and what protecting them gave."""

from __future__ import annotations

import gzip
import io
import json
import tempfile
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import foreign_dicom
import nibabel as nib
import numpy as np
import pydicom
import pydicom.data
from cryptography.hazmat.primitives import serialization
from doubles import NoiseMarker
from numpy.typing import NDArray
from PIL import Image, ImageCms, PngImagePlugin
from vectors import make_vectors

from monai_miadmark import pipeline
from monai_miadmark.files import Stamp
from monai_miadmark.keys import HpkeIdentity
from monai_miadmark.manifest import Manifest, Settings
from monai_miadmark.options import ProtectOptions

PATIENT = "Canary^Patient"
"""Stands in every DICOM file of the corpus; no message may hold it."""

ALICE = make_vectors.identity("alice")
assert isinstance(ALICE, HpkeIdentity)
PASSPHRASE = make_vectors.identity("passphrase")


@dataclass(frozen=True)
class Protected:
    """A source file with its protected form.

    Attributes:
        name: of the source file.
        source: the file.
        data: the protected file, record inside.
        bare: the same with its record in a sidecar.
        envelope: the sidecar.
    """

    name: str
    source: bytes
    data: bytes
    bare: bytes
    envelope: bytes


def picture(height: int = 14, width: int = 11, top: int = 255, seed: int = 0) -> NDArray[np.float64]:
    """Smooth ``(height, width)`` with some texture, from 0 to ``top``."""
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(seed).normal(0, 0.02, (height, width))
    shown: NDArray[np.float64] = (0.5 + 0.3 * np.sin(x / 3) * np.cos(y / 4) + noise).clip(0, 1) * top
    return shown


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    """A file that Pillow writes."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def faulty_dicoms() -> list[bytes]:
    """DICOM as faulty writers leave it, with a patient."""
    patient = foreign_dicom.element(0x10, 0x10, "PN", PATIENT.encode())
    return [make().replace(b"\x10\0\x20\0LO", patient + b"\x10\0\x20\0LO") for make in foreign_dicom.FILES.values()]


def profiles() -> list[bytes]:
    """Color profiles."""
    return [ImageCms.ImageCmsProfile(ImageCms.createProfile(kind)).tobytes() for kind in ("sRGB", "XYZ", "LAB")]


def descriptions() -> list[bytes]:
    """What ImageDescription says of axes."""
    pixels = '<Pixels ID="Pixels:0" SizeX="4" SizeY="4" SizeZ="2"><BinData>AAAA</BinData><TiffData IFD="0"/></Pixels>'
    return [
        f'<?xml version="1.0"?><OME xmlns="http://a/2016"><Image ID="Image:0">{pixels}</Image></OME>'.encode(),
        b"ImageJ=1.54f\nimages=4\nslices=4\nunit=mm\nspacing=2.5\n",
        b'{"shape": [4, 20, 10], "axes": "ZYX"}',
    ]


@lru_cache
def pngs() -> tuple[bytes, ...]:
    """Gray, color with text, palette with transparency, 16 bits, one bit, alpha."""
    gray = Image.fromarray(picture().astype(np.uint8))
    color = Image.fromarray(np.stack([picture(seed=i).astype(np.uint8) for i in range(3)], 2))
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", PATIENT)
    files = [_saved(gray, "PNG"), _saved(color, "PNG", pnginfo=text, dpi=(72, 72))]
    files.append(_saved(color.quantize(8), "PNG", transparency=bytes([0, 128])))
    files.append(_saved(Image.fromarray(picture(top=60000).astype(np.uint16)), "PNG"))
    files.append(_saved(gray.convert("1"), "PNG"))
    files.append(_saved(Image.merge("RGBA", [*color.split(), gray]), "PNG"))
    return tuple(files)


@lru_cache
def deep_pngs() -> tuple[bytes, ...]:
    """Several samples of 16 bits, plain and interlaced, which do not go through Pillow."""
    import png as pypng

    rows = [list(map(int, row)) for row in np.repeat(picture(top=60000), 3, axis=1)]
    files = []
    for interlaced in (False, True):
        out = io.BytesIO()
        pypng.Writer(11, 14, greyscale=False, bitdepth=16, interlace=interlaced).write(out, rows)
        files.append(out.getvalue())
    return tuple(files)


@lru_cache
def jpegs() -> tuple[bytes, ...]:
    """Gray, color, progressive with EXIF."""
    gray = Image.fromarray(picture().astype(np.uint8))
    color = Image.fromarray(np.stack([picture(seed=i).astype(np.uint8) for i in range(3)], 2))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, PATIENT
    rich = _saved(color, "JPEG", quality=80, progressive=True, exif=exif, dpi=(300, 300))
    return _saved(gray, "JPEG", quality=70), _saved(color, "JPEG", quality=90), rich


@lru_cache
def tiffs() -> tuple[bytes, ...]:
    """Gray, color, 16 bits, tiled and packed in several ways."""
    gray = Image.fromarray(picture().astype(np.uint8))
    deep = Image.fromarray(picture(top=60000).astype(np.uint16))
    color = Image.fromarray(np.stack([picture(seed=i).astype(np.uint8) for i in range(3)], 2))
    files = [_saved(gray, "TIFF"), _saved(deep, "TIFF"), _saved(color, "TIFF", description=PATIENT)]
    files += [_saved(color, "TIFF", compression=kind) for kind in ("tiff_lzw", "tiff_adobe_deflate", "packbits")]
    files.append(_saved(gray, "TIFF", save_all=True, append_images=[gray, gray]))
    return tuple(files)


@lru_cache
def niftis() -> tuple[bytes, ...]:
    """NIfTI-1 and NIfTI-2 of several types, with extensions, both byte orders."""
    stack = np.stack([picture(seed=i).T for i in range(2)], 2)
    files = []
    for kind, dtype in ((nib.Nifti1Image, ">i2"), (nib.Nifti1Image, "<f4"), (nib.Nifti2Image, "<f8")):
        header = (nib.Nifti1Header if kind is nib.Nifti1Image else nib.Nifti2Header)(endianness=dtype[0])
        header.set_data_dtype(np.dtype(dtype))
        image = kind(stack.astype(dtype), np.diag([1.0, 1.0, 2.0, 1.0]), header)
        image.header.extensions.append(nib.nifti1.Nifti1Extension(6, PATIENT.encode()))
        files.append(image.to_bytes())
    return tuple(files)


def gzipped(files: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """Each in gzip."""
    return tuple(gzip.compress(data, 6, mtime=0) for data in files)


@lru_cache
def nrrds() -> tuple[bytes, ...]:
    """NRRD with samples inside, raw and in gzip."""
    stack = np.stack([picture(seed=i).T for i in range(2)], 2).astype("<i2")
    head = "NRRD0004\n# x\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 11 14 2\n"
    head += "space directions: (1,0,0) (0,1,0) (0,0,2)\nkinds: domain domain domain\nendian: little\n"
    head += f"space origin: (0,0,0)\npatient:={PATIENT}\nencoding: "
    samples = stack.tobytes(order="F")
    plain = f"{head}raw\n\n".encode() + samples
    return plain, f"{head}gzip\n\n".encode() + gzip.compress(samples, mtime=0)


@lru_cache
def metaimages() -> tuple[bytes, ...]:
    """MetaImage in one file."""
    stack = np.stack([picture(seed=i) for i in range(2)], 0).astype("<i2")
    head = "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = False\n"
    head += "TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\nCenterOfRotation = 0 0 0\nElementSpacing = 1 1 2\n"
    head += f"Name = {PATIENT}\nDimSize = 11 14 2\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    return (head.encode() + stack.tobytes(),)


def _dicom(name: str) -> bytes:
    """A file of pydicom's wheel under another patient's name."""
    path = pydicom.data.get_testdata_file(name, download=False)
    assert isinstance(path, str)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data_set = pydicom.dcmread(path)
        data_set.PatientName = data_set.PatientID = PATIENT
        out = io.BytesIO()
        data_set.save_as(out)
    return out.getvalue()


@lru_cache
def dicoms() -> tuple[bytes, ...]:
    """Uncompressed and deflated DICOM: gray, color, palette, implicit, big endian, frames."""
    data_set = pydicom.dcmread(io.BytesIO(_dicom("CT_small.dcm")))
    data_set.PixelData = np.ascontiguousarray(data_set.pixel_array[40:56, 40:56]).tobytes()
    data_set.Rows = data_set.Columns = 16
    data_set.WindowCenter, data_set.WindowWidth = 40, 400
    del data_set.DataSetTrailingPadding
    out = io.BytesIO()
    data_set.save_as(out)
    names = ("MR_small_implicit.dcm", "MR_small_bigendian.dcm", "SC_rgb_small_odd.dcm", "rtdose.dcm")
    return out.getvalue(), *(_dicom(name) for name in names)


@lru_cache
def compressed_dicoms() -> tuple[bytes, ...]:
    """RLE, JPEG-LS, JPEG 2000 and JPEG in DICOM."""
    names = (
        "MR_small_RLE.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
        "MR_small_jp2klossless.dcm",
        "SC_rgb_small_odd_jpeg.dcm",
    )
    return tuple(_dicom(name) for name in (*names, "SC_rgb_rle_2frame.dcm"))


@lru_cache
def protected() -> tuple[Protected, ...]:
    """One or two files of each format, protected for ALICE; the DICOM ones for a passphrase too."""
    made = []
    visible = ProtectOptions(preset="fast", region="none", text="X")
    invisible = ProtectOptions(preset="fast", region="none", style="invisible")
    large = _saved(Image.fromarray(picture(44, 40).astype(np.uint8)), "PNG")
    volume = nib.Nifti1Image(picture(44, 40).astype(np.int16)[:, :, None], np.diag([1.0, 1.0, 2.0, 1.0])).to_bytes()
    sources = [
        ("a.png", large, visible),
        ("b.png", pngs()[3], invisible),
        ("a.jpg", jpegs()[1], invisible),
        ("a.nii", volume, visible),
        ("b.nii", niftis()[1], invisible),
        ("c.nii", niftis()[0], invisible),
        ("a.nii.gz", gzipped(niftis())[2], invisible),
        ("a.dcm", dicoms()[0], invisible),
        ("b.dcm", compressed_dicoms()[3], invisible),
    ]
    for name, source, options in sources:
        recipients = [ALICE.recipient]
        if name.endswith("dcm"):
            recipients.append(make_vectors.recipient("passphrase"))
        inside = pipeline.protect_bytes(source, name, recipients, NoiseMarker(), options)
        beside = pipeline.protect_bytes(source, name, recipients, NoiseMarker(), options, sidecar=True)
        made.append(Protected(name, source, inside.data, beside.data, beside.envelope))
    return tuple(made)


@lru_cache
def key_files() -> tuple[bytes, ...]:
    """PEM of every kind of key; the encrypted one costs little, its passphrase is ``pw``."""
    plain = serialization.NoEncryption()
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    files = []
    for name in ("alice", "hybrid", "p256", "custodian", "custodian mldsa65"):
        key = make_vectors.signer(name) if "custodian" in name else make_vectors.identity(name)
        public = getattr(key, "verifier", None) or key.recipient
        files += [b"".join(part.private_bytes(pem, pkcs8, plain) for part in key.private_parts()), public.public_pem()]
    cms = make_vectors.identity("cms")
    secret = cms._key.private_bytes(pem, pkcs8, plain)
    files += [cms.recipient.public_pem(), secret + cms.recipient.public_pem()]
    part = ALICE.private_parts()[0]
    files.append(part.private_bytes(pem, pkcs8, serialization.BestAvailableEncryption(b"pw")))
    old = cms._key.private_bytes(pem, serialization.PrivateFormat.TraditionalOpenSSL, plain)
    return *files, old


@lru_cache
def wrapped_keys() -> tuple[tuple[str, bytes], ...]:
    """Content keys, wrapped for each kind of recipient."""
    kinds = ("alice", "hybrid", "p256", "cms", "passphrase")
    return tuple((name, make_vectors.recipient(name).wrap(make_vectors.fixed("content key"), b"c")) for name in kinds)


@lru_cache
def masks() -> tuple[bytes, ...]:
    """Masks for the first NIfTI file, and for the first PNG of the corpus, of every kind."""
    inside = picture() > 140
    files = []
    for array in (inside, np.stack([inside, inside]), inside.astype(">f4"), np.array(["a"]), np.zeros(3, "i4,i4")):
        out = io.BytesIO()
        np.save(out, array)
        files.append(out.getvalue())
    files += [_saved(Image.fromarray(inside), "PNG"), _saved(Image.fromarray(inside).convert("RGBA"), "PNG")]
    files += [_saved(Image.fromarray(inside).convert("P"), "PNG")]
    label = np.stack([inside.T, inside.T], 2)
    for dtype in ("u1", "i8", "f8"):
        image = nib.Nifti1Image(label.astype(dtype), np.diag([1.0, 1.0, 2.0, 1.0]), dtype=np.dtype(dtype))
        files.append(image.to_bytes())
    files += [gzip.compress(files[-3], mtime=0), nib.Nifti2Image(label.astype("u1"), np.eye(4)).to_bytes()]
    return tuple(files)


@lru_cache
def manifests() -> tuple[bytes, ...]:
    """The manifest of a folder job: intended, done and failed."""
    stamp = Stamp("ab" * 32, 10, 20)
    facts = {"recipients": [{"kind": "x25519", "key_id": "00" * 16}], "signer": None, "quality": {"psnr": 29.1}}
    with tempfile.TemporaryDirectory() as folder:
        with Manifest(Path(folder), Settings("protect", {"preset": "fast", "deep": [[1, {"a": None}]]}), False) as made:
            made.intend("a/b.png", stamp, {"a/b.png.miadmark": stamp, "a/b.png": stamp}, facts)
            made.done("a/b.png", stamp, {"a/b.png.miadmark": stamp, "a/b.png": stamp}, facts, 0.1)
            made.failed("c.dcm", "TamperedError", "why", 0.2)
            made.intend("d.nii", stamp, {"d.nii": stamp}, facts)
        data = (Path(folder) / "miadmark-manifest.jsonl").read_bytes()
    return data, data[: len(data) // 2], json.dumps({"schema": 1, "kind": "run"}).encode() + b"\n"

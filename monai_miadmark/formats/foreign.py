# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Names of file formats that are not supported, so that a refusal says what was found."""

from __future__ import annotations

import zlib
from pathlib import PurePath

__all__ = ["foreign_name"]

_MAGIC = (
    (b"BM", "BMP"),
    (b"GIF8", "GIF"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000 code stream"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL code stream"),
    (b"NRRD", "NRRD of an unknown version"),
    (b"ObjectType", "MetaIO without ElementDataFile"),
    (b"\x89HDF\r\n\x1a\n", "HDF5 (MINC 2 is of this kind)"),
    (b"CDF", "NetCDF (MINC 1 is of this kind)"),
    (b"# === DATA DESCRIPTION FILE", "Philips PAR/REC (header and samples in two files)"),
    (b"\ntype ", "AFNI HEAD/BRIK (header and samples in two files)"),
    (b"type ", "AFNI HEAD/BRIK (header and samples in two files)"),
    (b"MATRIX7", "ECAT 7"),
    (b"\x93NUMPY", "NumPy array"),
    (b"PK\x03\x04", "ZIP archive"),
    (b"%PDF", "PDF"),
    (b"MIADMARK", "recovery record (sidecar)"),
    (b"\x02\0\0\0", "DICOM without its preamble"),
    (b"\x08\0\x05\0", "DICOM without its preamble"),
    (b"\x08\0\x08\0", "DICOM without its preamble"),
    (b"\x08\0\x16\0", "DICOM without its preamble"),
)

# Raw samples have no magic bytes; their usual suffix is all that can be said of them.
_RAW = {
    ".rec": "raw samples, by the suffix of Philips PAR/REC (header and samples in two files),",
    ".brik": "raw samples, by the suffix of AFNI HEAD/BRIK (header and samples in two files),",
    ".img": "raw samples, by the suffix of a .hdr/.img pair,",
    ".raw": "raw samples, by the suffix,",
}


def foreign_name(data: bytes, name: str) -> str | None:
    """What a file is that no carrier takes, or ``None`` where nothing is known of it.

    Args:
        data: the file, or its first bytes (200 are enough).
        name: its name; looked at for raw samples only.
    """
    if data.startswith(b"\x1f\x8b"):
        try:
            inside = zlib.decompressobj(wbits=31).decompress(data[:65536], 200)
        except zlib.error:
            return "a damaged gzip stream"
        kind = foreign_name(inside, PurePath(name).stem) if not inside.startswith(b"\x1f\x8b") else None
        kind = "DICOM" if inside[128:132] == b"DICM" else kind
        return f"gzip of {kind}" if kind else "gzip of something else than NIfTI"
    for magic, kind in _MAGIC:
        if data.startswith(magic):
            return kind
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WebP"
    return _RAW.get(PurePath(name).suffix.lower())

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Every image file in nibabel's wheel, protected and restored: the table in docs/formats-other.md.

DICOM files are tried too, but stand in no row: the page is about other formats.

``python tests/nibabel_corpus.py`` writes the table anew, ``test_formats_corpus.py`` compares it.
"""

from __future__ import annotations

import gzip
from collections import defaultdict
from pathlib import Path

import nibabel
from doubles import BLUNT, NoiseMarker

from monai_miadmark.errors import UnsupportedImageError
from monai_miadmark.formats import carrier_for
from monai_miadmark.keys import generate_identity
from monai_miadmark.options import ProtectOptions
from monai_miadmark.pipeline import protect_bytes, remove_bytes

ROOT = Path(nibabel.__file__).resolve().parent
PAGE = Path(__file__).resolve().parents[1] / "docs" / "formats-other.md"
BEGIN, END = "<!-- corpus: begin -->\n", "<!-- corpus: end -->\n"

# All files but code and text, surfaces (.gii), streamlines (.trk, .tck) and single DICOM elements (.bin).
SUFFIXES = {".nii", ".hdr", ".mnc", ".mgz", ".par", ".rec", ".head", ".brik", ".dcm", ".v", ".gz"}
NOT_IMAGES = {"external.gii.gz", "csa2_zero_len.bin.gz"}


def image_files() -> list[Path]:
    """The files, sorted."""
    found = (path for path in ROOT.rglob("*") if path.is_file() and path.suffix.lower() in SUFFIXES)
    return sorted(path for path in found if path.name not in NOT_IMAGES)


def verdict(path: Path) -> str:
    """What becomes of a file; raises where it is neither restored exactly nor refused by name."""
    data = path.read_bytes()
    identity = generate_identity("x25519")
    options = ProtectOptions(BLUNT, region="none")
    try:
        protected = protect_bytes(data, path.name, [identity.recipient], NoiseMarker(), options)
    except UnsupportedImageError as error:
        return "refused: " + str(error).removeprefix(f"{path.name}: ").split(" (DICOM, ")[0]
    if protected.data == data:
        raise AssertionError(f"{path.name} was not changed")
    restored = remove_bytes(protected.data, [identity]).data
    if restored == data:
        values = carrier_for(protected.data, protected.name).open_protected(protected.data).values
        return f"exact ({values.dtype.name}, {' x '.join(map(str, values.shape[:3]))})"
    if data[:2] == b"\x1f\x8b" and gzip.decompress(restored) == gzip.decompress(data):
        values = carrier_for(protected.data, protected.name).open_protected(protected.data).values
        return f"exact in what gzip holds ({values.dtype.name}, {' x '.join(map(str, values.shape[:3]))})"
    raise AssertionError(f"{path.name} was not restored")


def table() -> str:
    """The table, files of one verdict in one row."""
    rows: dict[str, list[str]] = defaultdict(list)
    files = [path for path in image_files() if path.suffix != ".dcm"]
    for path in files:
        rows[verdict(path)].append(path.relative_to(ROOT).as_posix().replace("tests/data/", ""))
    lines = [f"nibabel {nibabel.__version__}, {len(files)} files.", "", "| files | result |", "|---|---|"]
    for result, names in sorted(rows.items()):
        named = ", ".join(f"`{name}`" for name in names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
        lines.append(f"| {named} | {result} |")
    return "\n".join(lines) + "\n"


def written() -> str:
    """The table as the page has it."""
    return PAGE.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0]


if __name__ == "__main__":
    page = PAGE.read_text(encoding="utf-8")
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    PAGE.write_text(before + BEGIN + table() + END + after, encoding="utf-8")

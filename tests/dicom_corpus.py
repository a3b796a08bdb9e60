# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Every image file of pydicom's wheel, protected and restored; what the table in docs/formats-dicom.md is made of.

Write the table anew (from the root of a checkout, with the extra ``dicom`` installed)::

    python tests/dicom_corpus.py
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import NamedTuple

import pydicom
from doubles import BLUNT, NoiseMarker
from pydicom.uid import UID

from monai_miadmark.errors import UnsupportedImageError
from monai_miadmark.formats import carrier_for
from monai_miadmark.keys import generate_identity
from monai_miadmark.options import ProtectOptions
from monai_miadmark.pipeline import protect_bytes, remove_bytes
from monai_miadmark.shell import CARRIED_FILE

ROOT = Path(pydicom.__file__).parent / "data"
PAGE = Path(__file__).parents[1] / "docs" / "formats-dicom.md"
BEGIN, END = "<!-- corpus: made by tests/dicom_corpus.py -->", "<!-- end of corpus -->"
IDENTITY = generate_identity("x25519")


class Outcome(NamedTuple):
    """What became of a file: ``way`` is ``spliced``, ``carried`` or ``refused``."""

    name: str
    way: str
    detail: str


def files() -> list[str]:
    """All files of the wheel's data folder, those that are no DICOM included."""
    skipped = (".py", ".pyc", ".json")
    return sorted(
        path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*") if path.is_file() and path.suffix not in skipped
    )


def try_file(name: str) -> Outcome:
    """Protect a file and remove the mark again.

    Raises:
        AssertionError: the restored file is not the source.
    """
    data = (ROOT / name).read_bytes()
    try:
        result = protect_bytes(data, name, [IDENTITY.recipient], NoiseMarker(), ProtectOptions(preset=BLUNT))
    except UnsupportedImageError as error:
        # Without the list of formats that are supported, which is none of this page's business.
        return Outcome(name, "refused", str(error).removeprefix(f"{name}: ").partition(" (DICOM, ")[0])
    assert remove_bytes(result.data, [IDENTITY]).data == data, name
    shell = carrier_for(data, name).open_source(data, name).shell
    return Outcome(name, "carried" if CARRIED_FILE in shell.blobs else "spliced", _kind(data))


def _kind(data: bytes) -> str:
    """Transfer syntax, color and bits of a source, for the table."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True)
        syntax = UID(ds.file_meta.TransferSyntaxUID).name
        frames = f", {ds.NumberOfFrames} frames" if int(ds.get("NumberOfFrames", 1) or 1) > 1 else ""
        sign = " signed" if ds.PixelRepresentation else ""
        return f"{syntax}; {ds.PhotometricInterpretation} {ds.BitsStored} of {ds.BitsAllocated} bits{sign}{frames}"


def table(outcomes: list[Outcome]) -> str:
    """The part of the page between the two marks."""
    lines = [BEGIN, ""]
    supported = [outcome for outcome in outcomes if outcome.way != "refused"]
    lines += ["| source | files | record holds |", "|---|---|---|"]
    kinds: dict[tuple[str, str], list[str]] = {}
    for outcome in supported:
        kinds.setdefault((outcome.detail, outcome.way), []).append(Path(outcome.name).name)
    for (kind, way), names in sorted(kinds.items()):
        shown = ", ".join(f"`{name}`" for name in names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")
        lines.append(f"| {kind} | {shown} | {'the source file' if way == 'carried' else 'field and header'} |")
    lines += ["", "| refused | files | reason |", "|---|---|---|"]
    reasons: dict[str, list[str]] = {}
    for outcome in outcomes:
        if outcome.way == "refused":
            reasons.setdefault(outcome.detail, []).append(outcome.name)
    for reason, names in sorted(reasons.items(), key=lambda entry: entry[1]):
        shown = ", ".join(f"`{name}`" for name in names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")
        lines.append(f"| {len(names)} | {shown} | {reason} |")
    lines += ["", f"{len(supported)} files supported, {len(outcomes) - len(supported)} refused.", "", END]
    return "\n".join(lines)


def main() -> None:
    """Put the table into the page."""
    text = PAGE.read_text(encoding="utf-8")
    before, after = text[: text.index(BEGIN)], text[text.index(END) + len(END) :]
    PAGE.write_text(before + table([try_file(name) for name in files()]) + after, encoding="utf-8")


if __name__ == "__main__":
    main()

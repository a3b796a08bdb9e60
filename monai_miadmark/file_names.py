# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""File names that come out of a record: what they may be, whatever system the file is written on.

A record is made by whoever has a recipient's public key. A name must lead nowhere, must not be one that a shell or a
system takes for something else, and its ending must be one of the format that the file is of.
"""

from __future__ import annotations

import os
import re
from pathlib import PurePath

from monai_miadmark.atomic import TEMPORARY_SUFFIX
from monai_miadmark.names import SIDECAR_SUFFIX

__all__ = ["MAX_NAME_BYTES", "restored_name", "safe_name"]

MAX_NAME_BYTES = 255
"""Of a file's name, on every file system of today."""

_OWN_NAMES = ("miadmark-manifest.", ".miadmark")
"""How the manifest and the lock of an output folder begin."""

_SUFFIXES: dict[str, tuple[str, ...]] = {
    "dicom": (".dcm", ".dicom", ".dic", ".dc3", ".ima", ".img", ".acr"),
    "nifti": (".nii", ".nii.gz"),
    "png": (".png",),
    "jpeg": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "tiff": (".tif", ".tiff", ".btf", ".tf8", ".lsm", ".stk", ".svs", ".scn"),
    "metaimage": (".mha",),
    "nrrd": (".nrrd",),
    "mgh": (".mgh", ".mgz", ".mgh.gz"),
}
"""Endings that files of a format may have, the usual one first."""

_GZIPPED = {"nifti": ".nii.gz", "mgh": ".mgz"}
"""The usual ending of a format's files inside gzip."""

# Devices of Windows, whatever ending follows.
_RESERVED = re.compile(r"(?:con|prn|aux|nul|clock\$|conin\$|conout\$|(?:com|lpt)[0-9¹²³]) *(?:\..*)?", re.IGNORECASE)
_NOT_ON_WINDOWS = str.maketrans(dict.fromkeys('<>:"|?*', "_"))
# Scanners and archives name DICOM files without an ending (IM000001), or by UIDs.
_NUMBER = re.compile(r"[0-9]{1,64}")


def _numbered(name: str) -> bool:
    """Whether a name without an ending has a digit, or the ending is a number."""
    _, dot, ending = name.rpartition(".")
    return _NUMBER.fullmatch(ending) is not None if dot else _NUMBER.search(name) is not None


def safe_name(name: str) -> str:
    """A file name that came out of a record, if it is one.

    Raises:
        ValueError: empty, a path, a parent folder, with characters that no file name has, or one of our own files'.
    """
    if not name or name in (".", "..") or any(c in "/\\" or not c.isprintable() for c in name) or name[1:2] == ":":
        raise ValueError("the record's file name is not a plain file name: refused")
    # Folder jobs believe what such files say: one that a record brings could make them take a file for done.
    if name.lower().startswith(_OWN_NAMES) or name.lower().endswith((SIDECAR_SUFFIX, TEMPORARY_SUFFIX)):
        raise ValueError("the record's file name is one of those that this package gives its own files: refused")
    return name


def restored_name(name: str, kind: str, gzipped: bool = False) -> str:
    """Name under which a restored file is written: that of its source, made safe where it is not.

    An ending that the format does not have is followed by one that it has; ``_`` comes before names that begin with a
    dot, a dash or a space, or are those of devices; dots and spaces at the end go, and what is too long is cut.

    Args:
        name: of the source, as the record has it.
        kind: its format, a :attr:`~monai_miadmark.formats.base.Carrier.name`.
        gzipped: whether it is inside gzip.

    Raises:
        ValueError: it leads elsewhere, or is one of our own files'; see :func:`safe_name`.
    """
    made = safe_name(name).rstrip(". ") or "_"
    if os.name == "nt":
        made = made.translate(_NOT_ON_WINDOWS)
    if made[0] in ".-~ " or _RESERVED.fullmatch(made):
        made = f"_{made}"
    suffixes = _SUFFIXES.get(kind, (".bin",))
    ending = next((suffix for suffix in suffixes[::-1] if made.lower().endswith(suffix)), None)
    if ending is None and not (kind == "dicom" and _numbered(made)):
        ending = _GZIPPED.get(kind, suffixes[0]) if gzipped else suffixes[0]
        made += ending
    if len(os.fsencode(made)) > MAX_NAME_BYTES:
        ending = ending or PurePath(made).suffix
        stem = os.fsencode(made)[: MAX_NAME_BYTES - len(ending)]
        made = stem.decode("utf-8", "ignore").rstrip(". ") + made[len(made) - len(ending) :]
    return safe_name(made)

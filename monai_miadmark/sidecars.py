# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Sidecars anywhere in a folder, found by the pixels that they belong to: for files that lost record and name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from monai_miadmark.envelope import peek_header
from monai_miadmark.errors import MIADMarkError
from monai_miadmark.files import SIDECAR_SUFFIX, open_regular

__all__ = ["find_sidecars"]


def find_sidecars(folder: Path) -> Mapping[str, tuple[Path, ...]]:
    """Sidecars below a folder by the pixel digest (hex) that they name. No key is needed.

    Files that only look like sidecars are left out. Links to folders are not followed.

    Args:
        folder: searched with all folders in it.

    Returns:
        The paths for each digest, that of the newest sidecar first: resealing makes another one for the same pixels.

    Raises:
        OSError: the folder cannot be read.
    """
    found: dict[str, list[tuple[int, Path]]] = {}
    for path in _candidates(folder):
        try:
            with open_regular(path) as (stream, status):
                digest = peek_header(stream).protected_pixels.hex()
        except (MIADMarkError, OSError):
            continue
        found.setdefault(digest, []).append((status.st_mtime_ns, path))
    return {
        digest: tuple(path for _, path in sorted(entries, key=lambda entry: (-entry[0], entry[1])))
        for digest, entries in found.items()
    }


def _candidates(folder: Path) -> Iterator[Path]:
    """Files with the name of a sidecar."""
    os.listdir(folder)  # that it cannot be read is an error, that a folder in it cannot is not
    for base, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if name.endswith(SIDECAR_SUFFIX):
                yield Path(base, name)

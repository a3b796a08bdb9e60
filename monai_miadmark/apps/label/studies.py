# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Which files of a studies folder are protected, and which are not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from monai_miadmark.errors import MIADMarkError
from monai_miadmark.files import SIDECAR_SUFFIX, is_leftover, sidecar_path, verify_file

__all__ = ["CONFIG_NAME", "LABELS_NAME", "Audit", "image_files"]

CONFIG_NAME = "datastore_v2.json"
LABELS_NAME = "labels"


class _Stamp(NamedTuple):
    """What changes when a file does: inode, size, time of the last change in nanoseconds."""

    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> _Stamp | None:
        try:
            status = path.stat()
        except OSError:
            return None
        return cls(status.st_ino, status.st_size, status.st_mtime_ns)


class Audit:
    """Tells protected files from others; each version of a file is read once."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[_Stamp, _Stamp | None, bool]] = {}

    def protected(self, path: Path) -> bool:
        """Whether a file is a protected image whose pixels are those that its record was made for.

        A record that was put into some other image does not make that one protected.
        """
        stamp, beside = _Stamp.of(path), _Stamp.of(sidecar_path(path))
        if stamp is None:
            self._known.pop(path, None)
            return False
        if (known := self._known.get(path)) is not None and known[:2] == (stamp, beside):
            return known[2]
        try:
            verify_file(path)
            answer = True
        except (MIADMarkError, OSError, ValueError):
            answer = False
        self._known[path] = stamp, beside, answer
        return answer

    def unprotected(self, folder: Path) -> list[Path]:
        """Files of :func:`image_files` that are not protected."""
        return [path for path in image_files(folder) if not self.protected(path)]


def image_files(folder: Path) -> Iterator[Path]:
    """Regular files below a studies folder that should be images: no labels, sidecars, hidden or own files. Sorted."""
    for root, folders, names in os.walk(folder):
        top = Path(root) == folder
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not (top and name == LABELS_NAME))
        for name in sorted(names):
            own = (top and name == CONFIG_NAME) or name.endswith(SIDECAR_SUFFIX) or is_leftover(name)
            path = Path(root, name)
            if not own and not name.startswith(".") and path.is_file():
                yield path

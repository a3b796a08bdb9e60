# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""A digest of all that decides, beside the samples, how an image is shown: it stands in the notes of new records."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

__all__ = ["digest_of"]


def digest_of(kind: str, parts: Iterable[tuple[str, bytes]]) -> bytes:
    """SHA-256 over named facts of one kind of file, 32 bytes, in whatever order they are given.

    Args:
        kind: the format's name.
        parts: names and values; names may repeat.
    """
    digest = hashlib.sha256(b"miadmark display 1\0" + kind.encode("ascii") + b"\0")
    for name, value in sorted(parts):
        label = name.encode("utf-8")
        digest.update(len(label).to_bytes(2, "little") + label + len(value).to_bytes(8, "little") + value)
    return digest.digest()

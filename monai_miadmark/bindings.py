# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""What wrapped keys and signatures of a sealed record are bound to, as bytes."""

from __future__ import annotations

import struct

from monai_miadmark.envelope import Header
from monai_miadmark.notes import notes_message

__all__ = ["signed_message", "wrap_context"]

_COUNT = struct.Struct(">I")
_ENTRY = struct.Struct(">BI")  # length of the kind's name, length of the wrapped key


def wrap_context(version: int, protected_pixels: bytes) -> bytes:
    """What wrapped keys are bound to: this format, its version, these pixels (their SHA-256, 32 bytes)."""
    return b"monai_miadmark content key\x00" + bytes([version]) + protected_pixels


def signed_message(header: Header) -> bytes:
    """What a custodian signs: the header without the signature. All parts have fixed lengths, or say theirs.

    In version 1 the pixels and the commitment to the record, in version 2 nonce, recipients and notes too.
    """
    start = b"monai_miadmark signature\x00" + bytes([header.version]) + header.protected_pixels + header.commitment
    if header.version == 1:
        return start
    parts = [start, header.nonce, _COUNT.pack(len(header.wrapped_keys))]
    for key in header.wrapped_keys:
        kind = key.kind.encode("ascii")
        parts += [_ENTRY.pack(len(kind), len(key.wrapped)), kind, key.key_id, key.wrapped]
    return b"".join([*parts, notes_message(header.notes)])

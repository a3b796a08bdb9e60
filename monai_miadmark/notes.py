# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Notes: the few public facts that stand in the header of a sealed record, authenticated with it.

Anyone can read them without a key. They hold nothing that comes from a patient: names of methods, numbers, yes and no.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from typing import Any, TypeAlias

__all__ = ["MAX_NOTES", "MAX_NOTE_TEXT", "Note", "checked_notes", "notes_message"]

Note: TypeAlias = str | int | float | bool

MAX_NOTES = 16
MAX_NOTE_TEXT = 200
"""Characters of a note that is text."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_MAX_INTEGER = 2**53 - 1  # beyond it, readers of JSON differ


def checked_notes(notes: Mapping[str, Any]) -> dict[str, Note]:
    """The notes by name, in alphabetical order, if they are as they must be.

    Args:
        notes: names (lower-case letters, digits and ``_``, at most 32) and values: printable text of at most 200
            characters, integers below 2^53, finite floats, booleans.

    Raises:
        ValueError: too many, or one of them is something else.
    """
    if len(notes) > MAX_NOTES:
        raise ValueError(f"{len(notes)} notes: at most {MAX_NOTES} are supported")
    for name, value in notes.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError("a note's name is not made of lower-case letters, digits and _")
        if isinstance(value, str):
            fits = len(value) <= MAX_NOTE_TEXT and value.isprintable()
        elif isinstance(value, float):
            fits = math.isfinite(value)
        else:
            fits = type(value) in (int, bool) and abs(value) <= _MAX_INTEGER
        if not fits:
            raise ValueError(f"note {name} is not short printable text, a finite number or a boolean")
    return dict(sorted(notes.items()))


def notes_message(notes: Mapping[str, Note]) -> bytes:
    """Notes as a signature covers them: count, then name, type and value of each, in alphabetical order."""
    parts = [struct.pack(">B", len(notes))]
    for name, value in sorted(notes.items()):
        parts.append(struct.pack(">B", len(name)) + name.encode("ascii"))
        if isinstance(value, bool):
            parts.append(struct.pack(">cB", b"b", value))
        elif isinstance(value, int):
            parts.append(struct.pack(">cq", b"i", value))
        elif isinstance(value, float):
            parts.append(struct.pack(">cd", b"f", value))
        else:
            text = value.encode("utf-8")
            parts.append(struct.pack(">cH", b"s", len(text)) + text)
    return b"".join(parts)

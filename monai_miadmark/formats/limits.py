# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""How much a file may hold once it is decoded: a small file of strangers must not take all memory.

``MIADMARK_MEMORY_LIMIT`` (mebibytes) or :func:`lower_limit` bound what is decoded at most; servers set it low.
"""

from __future__ import annotations

import os

from monai_miadmark.errors import TooLargeError

__all__ = ["SERVER_MIB", "VARIABLE", "check_decoded", "lower_limit", "most_decoded", "serve_within_limit"]

VARIABLE = "MIADMARK_MEMORY_LIMIT"

SERVER_MIB = 1024
"""Limit of servers that were told none."""

_MOST = 1 << 32
_FREE = 1 << 28
_RATIO = 128
"""Beyond 256 MiB, images with content come nowhere near this many bytes for one that is stored."""

_lowered = [_MOST]


def lower_limit(size: int) -> None:
    """Decode nothing that takes more than ``size`` bytes from now on, in this process."""
    _lowered[0] = min(_lowered[0], max(1, size))


def serve_within_limit() -> None:
    """Give this process and those that it starts the limit of servers, unless the environment names one."""
    os.environ.setdefault(VARIABLE, str(SERVER_MIB))


def most_decoded() -> int:
    """Bytes that a decoded file may take in any case."""
    text = os.environ.get(VARIABLE, "")
    wanted = int(text) << 20 if text.isascii() and text.isdigit() and len(text) < 10 else _MOST
    return min(_lowered[0], max(1, wanted))


def check_decoded(size: int, stored: int) -> None:
    """Refuse, before memory is taken, what decodes to more than a file of its size should.

    Args:
        size: bytes that the decoded samples take.
        stored: bytes that they take in the file.

    Raises:
        TooLargeError: more than the limit, or than 256 MiB and 128 times what is stored.
    """
    most = most_decoded()
    if size > most:
        raise TooLargeError(f"the image takes {size} bytes when decoded, more than the limit of {most} ({VARIABLE})")
    if size > _FREE + _RATIO * stored:
        raise TooLargeError(f"the image takes {size} bytes when decoded, too many for the {stored} in the file")

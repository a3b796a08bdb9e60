# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""How much a request may send, and how long it may take over it."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from typing import Any

__all__ = ["UPLOAD_ENV", "BodyLimits", "Incoming", "TooLargeError", "content_length"]

UPLOAD_ENV = "MIADMARK_LABEL_MAX_UPLOAD"
"""Environment variable with the largest upload in MiB; default 1024."""

_DEFAULT_UPLOAD_MIB = 1024
_MAX_OTHER = 1 << 20
_TOGETHER = 4


class TooLargeError(Exception):
    """A body is longer than it may be (``status`` 413), or all that are coming in are, together (503)."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class BodyLimits:
    """Bytes that bodies may have, each and all that are coming in together.

    Args:
        upload: most of an upload, which goes to disk as it comes; four times as much may come in at a time.
        other: most of anything else, which is read into memory.
    """

    def __init__(self, upload: int, other: int = _MAX_OTHER) -> None:
        self.upload, self.other, self.together = upload, other, _TOGETHER * upload
        self._coming = 0

    @classmethod
    def from_environment(cls) -> BodyLimits:
        """What the environment says.

        Raises:
            ValueError: it is no whole number of MiB above zero.
        """
        text = os.environ.get(UPLOAD_ENV) or str(_DEFAULT_UPLOAD_MIB)
        if not text.isdecimal() or not 0 < int(text) < 1 << 20:
            raise ValueError(f"{UPLOAD_ENV} is the largest upload in MiB, a whole number above 0, not {text!r}")
        return cls(int(text) << 20)

    def most(self, scope: MutableMapping[str, Any]) -> int:
        """Most bytes that the body of a request may have."""
        kind = _header(scope, b"content-type").partition(b";")[0].strip().lower()
        return self.upload if kind == b"multipart/form-data" else self.other

    def take(self, more: int) -> None:
        """Count bytes that came in; raises TooLargeError where that is too much for one machine."""
        if self._coming + more > self.together:
            raise TooLargeError(503, "too much is being uploaded at the moment: try again later")
        self._coming += more

    def give(self, held: int) -> None:
        """Bytes that have been dealt with."""
        self._coming -= held


class Incoming:
    """Counts the body of one request.

    Args:
        limits: of the server.
        scope: of the request, as ASGI has it.

    Raises:
        TooLargeError: the request says beforehand that it is too long.
    """

    def __init__(self, limits: BodyLimits, scope: MutableMapping[str, Any]) -> None:
        self._limits, self._most, self._held = limits, limits.most(scope), 0
        announced = content_length(scope)
        if announced is not None and announced > self._most:
            raise TooLargeError(413, self._text())

    def add(self, piece: bytes) -> None:
        """Raises TooLargeError where this piece is too much."""
        if self._held + len(piece) > self._most:
            raise TooLargeError(413, self._text())
        self._limits.take(len(piece))
        self._held += len(piece)

    def close(self) -> None:
        """The request has been answered."""
        self._limits.give(self._held)
        self._held = 0

    def _text(self) -> str:
        return f"the body is longer than {self._most} bytes"


def content_length(scope: MutableMapping[str, Any]) -> int | None:
    """Bytes that a request announces; ``None`` where it does not say, 0 where it has no body."""
    length = _header(scope, b"content-length")
    if length.isdigit():
        return int(length)
    return None if _header(scope, b"transfer-encoding") else 0


def _header(scope: MutableMapping[str, Any], name: bytes) -> bytes:
    """A header, empty where there is none."""
    found: bytes = dict(scope["headers"]).get(name, b"")
    return found

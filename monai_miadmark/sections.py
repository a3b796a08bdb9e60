# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Named runs of bytes with a table in strict JSON, read without trust in any size that the table states."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_miadmark.compression import compress, decompress
from monai_miadmark.errors import TamperedError

__all__ = ["SectionReader", "SectionWriter", "keys", "parse_json", "planes", "require", "typed", "unplanes"]


class SectionWriter:
    """Sections in the making: their table for the head, and their bytes."""

    def __init__(self) -> None:
        self.table: list[list[Any]] = []
        self.chunks: list[bytes] = []

    def add(self, name: str, data: bytes, pack: bool = True) -> None:
        """Append a section, compressed if that makes it smaller."""
        packed = compress(data) if pack else data
        if len(packed) < len(data):
            self.table.append([name, "zstd", len(data), len(packed)])
            self.chunks.append(packed)
        else:
            self.table.append([name, "raw", len(data), len(data)])
            self.chunks.append(data)


class SectionReader:
    """Sections of a record, each of which must be taken exactly once."""

    def __init__(self, table: Any, body: memoryview, limit: int) -> None:
        self._sections: dict[str, tuple[str, int, memoryview]] = {}
        offset = total = 0
        for row in typed(table, list):
            name, codec, size, stored = row
            require(type(name) is str and name not in self._sections and codec in ("raw", "zstd"), "table")
            require(_natural(size) and _natural(stored) and stored <= len(body) - offset, "table")
            require(codec == "zstd" or size == stored, "table")
            total += size
            self._sections[name] = (codec, size, body[offset : offset + stored])
            offset += stored
        require(offset == len(body) and total <= limit, "sizes")

    def take(self, name: str, size: int | None) -> bytes:
        """Bytes of a section that must have ``size`` bytes (``None``: what the table says)."""
        require(name in self._sections, f"section {name!r}")
        codec, declared, body = self._sections.pop(name)
        require(size is None or size == declared, f"section {name!r}")
        return bytes(body) if codec == "raw" else decompress(body, declared)

    @property
    def names(self) -> list[str]:
        """Sections that were not taken yet."""
        return list(self._sections)


def planes(words: NDArray[Any]) -> bytes:
    """Words as bytes of small magnitude first: zigzag, then all low bytes, all next bytes and so on."""
    bits = 8 * words.dtype.itemsize
    folded = (words << 1) ^ (0 - (words >> (bits - 1)))  # 0, -1, 1, -2 ... become 0, 1, 2, 3 ...
    return folded.astype(folded.dtype.newbyteorder("<")).view(np.uint8).reshape(-1, bits // 8).T.tobytes()


def unplanes(data: bytes, width: int) -> NDArray[Any]:
    """Inverse of :func:`planes`."""
    columns = np.ascontiguousarray(np.frombuffer(data, np.uint8).reshape(width, -1).T)
    folded = columns.view(f"<u{width}").reshape(-1).astype(f"u{width}")
    words: NDArray[Any] = (folded >> 1) ^ (0 - (folded & 1))
    return words


def parse_json(text: memoryview) -> Any:
    """Strict JSON in ASCII: no repeated keys, no NaN, no Infinity.

    Raises:
        TamperedError: a repeated key.
        ValueError: not JSON.
    """
    return json.loads(str(text, "ascii"), object_pairs_hook=_unique, parse_constant=_no_constant)


def require(condition: bool, part: str) -> None:
    """Refuse a record with the part that is wrong."""
    if not condition:
        raise TamperedError(f"the recovery record is damaged ({part})")


def _natural(value: Any) -> bool:
    """A JSON integer that is not negative (``True`` is an ``int`` to Python, but not to us)."""
    return type(value) is int and value >= 0


def typed(value: Any, kind: type) -> Any:
    """A value of exactly this type."""
    require(type(value) is kind, "type of a value")
    return value


def keys(value: Any, names: set[str]) -> Mapping[str, Any]:
    """An object with exactly these keys."""
    require(type(value) is dict and value.keys() == names, "keys")
    found: Mapping[str, Any] = value
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON objects without repeated keys, of which readers disagree which one counts."""
    found = dict(pairs)
    require(len(found) == len(pairs), "repeated key")
    return found


def _no_constant(name: str) -> float:
    """NaN and Infinity are not JSON."""
    raise ValueError(name)

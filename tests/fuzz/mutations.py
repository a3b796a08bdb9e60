# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Changes to valid inputs: of bytes that know nothing of formats, of JSON trees, and with checksums put right."""

from __future__ import annotations

import copy
import gzip
import json
import struct
import zlib
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, TypeAlias

Mutator: TypeAlias = Callable[[Random, bytes, Sequence[bytes]], bytes]
"""Random source, an input, and all inputs of its kind (for splices); the changed input."""

MAX_BYTES = 1 << 18
"""Mutated inputs are cut to this, so that repeated doubling does not turn a run into one of large files."""

_BYTES = (0, 1, 2, 0x0A, 0x20, 0x22, 0x2F, 0x5C, 0x7F, 0x80, 0xFE, 0xFF)
_EDGES = (0, 1, 7, 8, 15, 16, 31, 32, 63, 64, 127, 128)


def _flip(rng: Random, data: bytearray, others: Sequence[bytes]) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _set(rng: Random, data: bytearray, others: Sequence[bytes]) -> None:
    data[rng.randrange(len(data))] = rng.choice(_BYTES) if rng.random() < 0.7 else rng.randrange(256)


def _extreme(rng: Random, data: bytearray, others: Sequence[bytes]) -> None:
    """What may be a length, an offset or a count becomes zero, the largest of its kind, or one beside a power of 2."""
    size = rng.choice((1, 2, 2, 4, 4, 4, 8))
    at = rng.randrange(len(data))
    value = ((1 << min(rng.choice(_EDGES), 8 * size)) + rng.choice((-1, 0, 0, 1))) % (1 << 8 * size)
    if rng.random() < 0.2:
        value = (len(data) + rng.choice((-1, 0, 1, -at))) % (1 << 8 * size)
    data[at : at + size] = value.to_bytes(size, rng.choice(("little", "big")))


def _nudge(rng: Random, data: bytearray, others: Sequence[bytes]) -> None:
    at = rng.randrange(len(data))
    data[at] = (data[at] + rng.choice((-16, -2, -1, 1, 2, 16))) % 256


def _truncate(rng: Random, data: bytearray, others: Sequence[bytes]) -> None:
    del data[rng.randrange(len(data)) :]


def _delete(rng: Random, data: bytearray, others: Sequence[bytes]) -> None:
    at = rng.randrange(len(data))
    del data[at : at + rng.randint(1, 40)]


def _insert(rng: Random, data: bytearray, others: Sequence[bytes]) -> None:
    count = rng.randint(1, 40)
    new = rng.randbytes(count) if rng.random() < 0.5 else bytes([rng.choice(_BYTES)]) * count
    at = rng.randint(0, len(data))
    data[at:at] = new


def _duplicate(rng: Random, data: bytearray, others: Sequence[bytes]) -> None:
    start = rng.randrange(len(data))
    piece = data[start : start + rng.choice((1, 4, 12, 16, 100, len(data)))]
    at = start if rng.random() < 0.7 else rng.randint(0, len(data))
    data[at:at] = piece * rng.choice((1, 1, 1, 2, 50))


def _swap(rng: Random, data: bytearray, others: Sequence[bytes]) -> None:
    size = rng.randint(1, 16)
    a, b = rng.randrange(len(data)), rng.randrange(len(data))
    data[a : a + size], data[b : b + size] = bytes(data[b : b + size]), bytes(data[a : a + size])


def _splice(rng: Random, data: bytearray, others: Sequence[bytes]) -> None:
    """The beginning of this input and the end of another, or a piece of another in the middle."""
    other = rng.choice(others)
    if not other:
        return
    start = rng.randrange(len(other))
    if rng.random() < 0.5:
        data[rng.randint(0, len(data)) :] = other[start:]
    else:
        at, size = rng.randint(0, len(data)), rng.randint(1, 200)
        data[at : at + size] = other[start : start + size]


_CHANGES = (_flip, _flip, _set, _set, _extreme, _extreme, _extreme, _nudge, _truncate, _delete, _insert, _duplicate)
_CHANGES = (*_CHANGES, _swap, _splice)


def mutate(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """One to five changes that know nothing of the format."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5))):
        if changed:
            rng.choice(_CHANGES)(rng, changed, others)
        del changed[MAX_BYTES:]
    return bytes(changed)


def near_start(size: int) -> Mutator:
    """Changes in the first ``size`` bytes three times of four: headers are short, samples are many."""

    def change(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
        if rng.random() < 0.25:
            return mutate(rng, data, others)
        return mutate(rng, data[:size], [other[:size] for other in others]) + data[size:]

    return change


# --- JSON -------------------------------------------------------------------------------------------------------------

_INFINITE = "@infinite@"
_NUMBERS = (-1, 0, 1, 2, 3, 4, 17, 255, 65536, 2**31, 2**32 - 1, 2**40, 2**63, 2**64, 10**30, 1.5, -0.0, 1e308)
_TEXTS = (
    "",
    "x",
    "zstd",
    "raw",
    "dense",
    "sparse",
    "nan",
    "inf",
    "-0x1p5",
    "0x1p2000",
    "../x",
    "a\0b",
    "\ud800",
    "\uff0f",
)
_TYPES = ("int16", "int64", "float64", "O", "V8", "S0", "U3", "i4,i4", "(2,3)i4", "datetime64[ns]", ">f4", "bool", "m8")
_TREES: tuple[Any, ...] = ([], [1], [1, 1, 1, 1], [0, 0, 0, 0], [[]], {}, {"form": "dense", "count": 3}, [[[[]]] * 9])
STRANGE: tuple[Any, ...] = (None, True, False, *_NUMBERS, *_TEXTS, *_TYPES, *_TREES, _INFINITE)
"""Values that a JSON member may have and should not."""


def _places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all values in a JSON tree."""
    inside = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path, *(found for key, value in inside for found in _places(value, (*path, key)))]


def _at(tree: Any, path: tuple[Any, ...]) -> Any:
    """The node at a path."""
    for key in path:
        tree = tree[key]
    return tree


def mutate_json(rng: Random, tree: Any) -> Any:
    """A tree in which one to three values are others, gone, doubled, or under another name."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 2, 3))):
        paths = [path for path in _places(tree) if path]
        if not paths:
            break
        path = rng.choice(paths)
        holder, key = _at(tree, path[:-1]), path[-1]
        old, action = holder[key], rng.random()
        if action < 0.55:
            holder[key] = copy.deepcopy(rng.choice(STRANGE))
        elif action < 0.7 and type(old) is int:
            holder[key] = old + rng.choice((-1, 1, 8, 1 << 20)) if rng.random() < 0.7 else -old
        elif action < 0.8:
            holder[key] = copy.deepcopy(_at(tree, rng.choice(paths)))
        elif action < 0.9:
            del holder[key]
        elif isinstance(holder, list):
            holder.insert(key, copy.deepcopy(old))
        else:
            holder[rng.choice(("x", key + "x", ""))] = holder.pop(key)
    return tree


def json_bytes(tree: Any) -> bytes:
    """JSON in ASCII; numbers may be too large for a float, which JSON allows."""
    return json.dumps(tree).replace(f'"{_INFINITE}"', "1e999").encode("ascii")


def nested(rng: Random) -> bytes:
    """JSON that is deep, long or not quite JSON."""
    depth = rng.choice((10, 300, 900, 990, 1000, 5000, 100_000))
    opening, closing = rng.choice(((b"[", b"]"), (b'{"a":', b"}")))
    return rng.choice((opening * depth, opening * depth + b"1" + closing * depth, b"9" * depth, b'"' + b"\\u0000" * 99))


# --- checksums --------------------------------------------------------------------------------------------------------


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Kind and body of each chunk of a valid PNG."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        length = struct.unpack_from(">I", data, at)[0]
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return chunks


def png_file(chunks: Sequence[tuple[bytes, bytes]]) -> bytes:
    """A PNG whose checksums are right, whatever its chunks hold."""
    parts = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def mutate_png(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Bytes; or chunks with their checksums put right, at times what the compressed ones hold."""
    if rng.random() < 0.25:
        return mutate(rng, data, others)
    chunks = png_chunks(data)
    action = rng.random()
    at = rng.randrange(len(chunks))
    kind, body = chunks[at]
    if action < 0.1:
        chunks.insert(rng.randint(0, len(chunks)), chunks[at])
    elif action < 0.2:
        del chunks[at]
    elif action < 0.3:
        chunks.insert(rng.randint(0, len(chunks)), rng.choice(png_chunks(rng.choice(others))))
    elif action < 0.5:
        chunks[0] = (chunks[0][0], mutate(rng, chunks[0][1], [chunks[0][1]]))
    elif action < 0.7:
        where = [i for i, (name, _) in enumerate(chunks) if name == b"IDAT"]
        raw = zlib.decompress(b"".join(chunks[i][1] for i in where))
        chunks[where[0]] = (b"IDAT", zlib.compress(mutate(rng, raw, [raw])))
        for i in reversed(where[1:]):
            del chunks[i]
    else:
        chunks[at] = (
            mutate(rng, kind, [kind])[:4].ljust(4, b"x") if rng.random() < 0.1 else kind,
            mutate(rng, body, [body]),
        )
    return png_file(chunks)


def mutate_gzip(inner: Mutator) -> Mutator:
    """Bytes of the stream; or what it holds, compressed again."""

    def change(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
        if rng.random() < 0.3:
            return mutate(rng, data, others)
        plain = inner(rng, gzip.decompress(data), [gzip.decompress(other) for other in others])
        return gzip.compress(plain, 1, mtime=0)

    return change

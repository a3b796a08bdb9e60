# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Encapsulated pixel data into frames (PS3.5 A.4), with every offset and length checked before it is used."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import pairwise

from monai_miadmark.errors import UnsupportedImageError

__all__ = ["MAX_FRAGMENTS", "frame_spans"]

MAX_FRAGMENTS = 1 << 20
"""More items than this are refused: a file of empty ones would take minutes to walk."""

_ITEM = b"\xfe\xff\x00\xe0"
_DELIMITER = b"\xfe\xff\xdd\xe0"
_STARTS = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51")
"""How a JPEG (JPEG-LS) and a JPEG 2000 code stream begin."""


def frame_spans(
    value: bytes, frames: int, extended: Sequence[int] | None = None, lengths: Sequence[int] | None = None
) -> list[list[tuple[int, int]]]:
    """Where the frames of an encapsulated pixel data element lie.

    Args:
        value: the element's value, from the item of the Basic Offset Table on.
        frames: how many frames there have to be, at least 1.
        extended: Extended Offset Table, one entry a frame.
        lengths: Extended Offset Table Lengths.

    Returns:
        For each frame ``(start, stop)`` in ``value`` of each of its fragments.

    Raises:
        UnsupportedImageError: items that are cut, offsets that are not those of fragments, another number of frames.
    """
    items = _items(value)
    if not items:
        raise UnsupportedImageError("the encapsulated DICOM pixel data have no offset table item")
    (first, last), fragments = items[0], items[1:]
    if (last - first) % 4:
        raise UnsupportedImageError("the DICOM Basic Offset Table has an odd length")
    if len(fragments) < frames:
        raise UnsupportedImageError(f"the DICOM pixel data have {len(fragments)} fragments for {frames} frames")
    basic = struct.unpack(f"<{(last - first) // 4}I", value[first:last])
    # Offsets count from the item tag of the first fragment.
    origin = fragments[0][0] - 8
    starts = [start - 8 - origin for start, _ in fragments]
    if extended is not None:
        if basic:
            raise UnsupportedImageError("the DICOM pixel data have both a Basic and an Extended Offset Table")
        spans = _by_offsets(fragments, starts, extended, frames)
        return _cut(spans, lengths) if lengths is not None else spans
    if basic:
        return _by_offsets(fragments, starts, basic, frames)
    if frames == 1:
        return [fragments]
    if len(fragments) == frames:
        return [[fragment] for fragment in fragments]
    # Several fragments a frame and no table: code streams tell where they begin.
    found = [i for i, (start, _) in enumerate(fragments) if value.startswith(_STARTS, start)]
    if len(found) != frames or found[0] != 0:
        raise UnsupportedImageError("the frames of the DICOM pixel data cannot be told apart without an offset table")
    return [fragments[i:k] for i, k in pairwise([*found, len(fragments)])]


def _items(value: bytes) -> list[tuple[int, int]]:
    """Start and stop of the value of each item."""
    items: list[tuple[int, int]] = []
    at = 0
    while at < len(value):
        tag = value[at : at + 4]
        if tag == _DELIMITER:
            break
        if tag != _ITEM or len(value) - at < 8:
            raise UnsupportedImageError("the encapsulated DICOM pixel data are damaged or truncated")
        length: int = struct.unpack_from("<I", value, at + 4)[0]
        if length > len(value) - at - 8:
            raise UnsupportedImageError("the encapsulated DICOM pixel data are truncated")
        items.append((at + 8, at + 8 + length))
        if len(items) > MAX_FRAGMENTS + 1:
            raise UnsupportedImageError(f"DICOM of more than {MAX_FRAGMENTS} fragments is not supported")
        at += 8 + length
    return items


def _by_offsets(
    fragments: list[tuple[int, int]], starts: list[int], offsets: Sequence[int], frames: int
) -> list[list[tuple[int, int]]]:
    """Fragments grouped by a table of the offsets of frames."""
    index = {start: i for i, start in enumerate(starts)}
    if len(offsets) != frames or offsets[0] != 0 or any(a >= b for a, b in pairwise(offsets)):
        raise UnsupportedImageError("the DICOM offset table does not fit the number of frames")
    if any(offset not in index for offset in offsets):
        raise UnsupportedImageError("the DICOM offset table points to where no fragment begins")
    edges = [*(index[offset] for offset in offsets), len(fragments)]
    return [fragments[i:k] for i, k in pairwise(edges)]


def _cut(spans: list[list[tuple[int, int]]], lengths: Sequence[int]) -> list[list[tuple[int, int]]]:
    """Frames without their padding byte; the standard has one fragment a frame here."""
    if len(lengths) != len(spans) or any(len(span) != 1 for span in spans):
        raise UnsupportedImageError("the DICOM Extended Offset Table Lengths do not fit the fragments")
    result = []
    for [(start, stop)], length in zip(spans, lengths, strict=True):
        if not 0 <= stop - start - length <= 1:
            raise UnsupportedImageError("the DICOM Extended Offset Table Lengths do not fit the fragments")
        result.append([(start, start + length)])
    return result

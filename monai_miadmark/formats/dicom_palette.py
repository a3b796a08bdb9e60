# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""PALETTE COLOR samples as the 8-bit RGB that viewers show (PS3.3 C.7.6.3.1.5, C.7.6.3.1.6 and C.7.9.2)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from monai_miadmark.errors import UnsupportedImageError

__all__ = ["PALETTE_KEYWORDS", "apply_palette"]

_COLORS = ("Red", "Green", "Blue")
PALETTE_KEYWORDS = (
    *(f"{color}PaletteColorLookupTableDescriptor" for color in (*_COLORS, "Alpha")),
    *(f"{color}PaletteColorLookupTableData" for color in (*_COLORS, "Alpha")),
    *(f"Segmented{color}PaletteColorLookupTableData" for color in (*_COLORS, "Alpha")),
    "PaletteColorLookupTableUID",
)
"""Attributes that mean nothing once samples are RGB."""

_MAX_ENTRIES = 1 << 16
_MAX_SEGMENTS = 1 << 17


def apply_palette(indices: NDArray[Any], data_set: Dataset, big_endian: bool) -> NDArray[np.uint8]:
    """Look colors up.

    Args:
        indices: ``(N, H, W, 1)`` samples.
        data_set: with the palette.
        big_endian: byte order of 16-bit entries.

    Returns:
        ``(N, H, W, 3)``.

    Raises:
        UnsupportedImageError: no palette, or a malformed one.
    """
    result = np.empty((*indices.shape[:3], 3), np.uint8)
    for channel, color in enumerate(_COLORS):
        entries, first = _entries(data_set, color, big_endian)
        # In the wider type: an index minus the first one mapped may be below the type of the samples.
        at = np.clip(indices[..., 0].astype(np.int64) - first, 0, len(entries) - 1)
        result[..., channel] = entries[at]
    return result


def _entries(data_set: Dataset, color: str, big_endian: bool) -> tuple[NDArray[np.uint8], int]:
    """Entries of one color in 8 bits, and the sample value of the first of them."""
    descriptor = data_set.get(f"{color}PaletteColorLookupTableDescriptor", None)
    try:
        count, first, bits = (int(number) for number in descriptor or ())
    except (TypeError, ValueError) as error:
        raise _malformed() from error
    # 0 stands for 65536 entries; the first value may be signed whatever its VR says.
    count = count % _MAX_ENTRIES or _MAX_ENTRIES
    if first >= 1 << 15 and data_set.get("PixelRepresentation", 0) == 1:
        first -= 1 << 16
    if bits not in (8, 16):
        raise _malformed()
    data = data_set.get(f"{color}PaletteColorLookupTableData", None)
    if isinstance(data, bytes):
        return _eight_bits(*_direct(data, count, big_endian), bits), first
    data = data_set.get(f"Segmented{color}PaletteColorLookupTableData", None)
    if isinstance(data, bytes):
        return _eight_bits(_segmented(data, count, bits, big_endian), bits, bits), first
    raise _malformed()


def _direct(data: bytes, count: int, big_endian: bool) -> tuple[NDArray[Any], int]:
    """Plain entries, and how many bits each takes in the data: 8-bit ones may lie in 16-bit words."""
    if len(data) >= 2 * count:
        return np.frombuffer(data, ">u2" if big_endian else "<u2", count), 16
    if len(data) >= count:
        return np.frombuffer(data, np.uint8, count), 8
    raise _malformed()


def _eight_bits(entries: NDArray[Any], allocated: int, bits: int) -> NDArray[np.uint8]:
    """Entries as 8-bit ones. The low byte is meant where no entry needs more, whatever the descriptor says."""
    if allocated == 16 and int(entries.max()) > 255:
        return (entries >> 8).astype(np.uint8)
    return entries.astype(np.uint8)


def _segmented(data: bytes, count: int, bits: int, big_endian: bool) -> NDArray[Any]:
    """Entries of a table of discrete, linear and indirect segments, never more than it may have."""
    order = ">" if big_endian else "<"
    words = np.frombuffer(data[: len(data) - len(data) % (bits // 8)], f"{order}u{bits // 8}").tolist()
    lut: list[int] = []
    segments = 0

    def expand(at: int, limit: int | None) -> None:
        nonlocal segments
        while at + 1 < len(words) and limit != 0:
            segments += 1
            kind, length = words[at], words[at + 1]
            at += 2
            # Checked before anything grows: segments may repeat each other, and may be empty.
            if segments > _MAX_SEGMENTS or (kind != 2 and len(lut) + length > count):
                raise _malformed()
            if kind == 0:
                lut.extend(words[at : at + length])
                at += length
            elif kind == 1 and lut and length and at < len(words):
                steps = np.linspace(lut[-1], words[at], length + 1)[1:]
                lut.extend(int(step) for step in np.around(steps))
                at += 1
            elif kind == 2 and lut and limit is None:
                size = 4 if bits == 8 else 2
                parts = words[at : at + size]
                if len(parts) < size:
                    raise _malformed()
                # Least significant word first; bytes within an 8-bit table in the order of its words.
                if bits == 8:
                    parts = (
                        [parts[i] << 8 | parts[i + 1] for i in (0, 2)]
                        if big_endian
                        else [parts[i] | parts[i + 1] << 8 for i in (0, 2)]
                    )
                expand((parts[0] | parts[1] << 16) // (bits // 8), length)
                at += size
            else:
                raise _malformed()
            limit = None if limit is None else limit - 1

    expand(0, None)
    if len(lut) != count:
        raise _malformed()
    return np.array(lut, np.uint16)


def _malformed() -> UnsupportedImageError:
    """Error for palettes."""
    return UnsupportedImageError("DICOM whose color palette is missing or malformed is not supported")

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Protected TIFF files: new pages by ``tifffile``, the record as a private tag whose value ends the file."""

from __future__ import annotations

import io
import struct
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from monai_miadmark.errors import UnsupportedImageError
from monai_miadmark.formats.base import pack_block
from monai_miadmark.formats.tiff_reading import RECORD_TAG, Place, TiffStack

__all__ = ["filled", "with_record", "write_stack"]

_LIMIT = 2**32 - 2
_ADOBE_DEFLATE = 8
_X, _Y, _UNIT = 282, 283, 296


def write_stack(stack: TiffStack, values: NDArray[Any]) -> bytes:
    """A TIFF file like the source, with other samples and nothing in it that was not understood.

    Strips, Deflate where the source was compressed; the record's tag has a place in the first page but no record yet.

    Args:
        stack: the source.
        values: ``(N, H, W, C)`` samples of its shape and type.
    """
    import tifffile

    out = io.BytesIO()
    surplus: list[tuple[int, ...]] = []
    size = values.nbytes + (stack.alpha.nbytes if stack.alpha is not None else 0)
    # Half a GiB is left for directories, descriptions and the record.
    big = stack.big or size > _LIMIT - 2**29
    order: Literal[">", "<"] = ">" if stack.big_endian else "<"
    with tifffile.TiffWriter(out, bigtiff=big, byteorder=order, ome=False, imagej=False, shaped=False) as writer:
        for index, page in enumerate(values):
            alpha = None if stack.alpha is None else stack.alpha[index]
            pixels = page if alpha is None else np.concatenate([page, alpha], axis=2)
            tags: list[tuple[int, int, int, Any, bool]] = []
            if index == 0:
                tags.append((RECORD_TAG, 7, 25, bytes(25), True))
                if stack.profile:
                    tags.append((34675, 7, len(stack.profile), stack.profile, True))
            if 2 <= stack.orientation[index] <= 8:
                tags.append((274, 3, 1, stack.orientation[index], False))
            tags += [(*tag, False) for tag in stack.colors[index]]
            options: dict[str, Any] = {}
            resolution = stack.resolution[index]
            if resolution is not None:
                options = {"resolution": resolution[:2], "resolutionunit": resolution.unit}
                surplus.append((_UNIT,) if resolution.unit is None else ())
            else:
                surplus.append((_X, _Y, _UNIT))
            if alpha is not None:
                options["extrasamples"] = [{True: 1, False: 2, None: 0}[stack.associated]]
            writer.write(
                pixels if pixels.shape[2] > 1 else pixels[..., 0],
                photometric="rgb" if values.shape[3] == 3 else "miniswhite" if stack.inverted else "minisblack",
                planarconfig="contig" if pixels.shape[2] > 1 else None,
                compression=_ADOBE_DEFLATE if stack.compressed else None,
                description=stack.descriptions[index] or None,
                metadata=None,
                software=False,
                contiguous=False,
                extratags=tags,
                **options,
            )
    return _without_tags(out.getvalue(), surplus, order, big)


def _without_tags(data: bytes, surplus: list[tuple[int, ...]], order: str, big: bool) -> bytes:
    """A file without tags that tifffile writes although the source has none, which say something of its pixels.

    Args:
        data: the file.
        surplus: for each page the codes.
        order: byte order, ``<`` or ``>``.
        big: BigTIFF.
    """
    count_form, offset_form, size, first = ("Q", "Q", 20, 8) if big else ("H", "I", 12, 4)
    changed = bytearray(data)
    (at,) = struct.unpack_from(order + offset_form, data, first)
    for codes in surplus:
        (count,) = struct.unpack_from(order + count_form, data, at)
        begin = at + struct.calcsize(count_form)
        end = begin + count * size
        entries = [data[start : start + size] for start in range(begin, end, size)]
        kept = [entry for entry in entries if struct.unpack_from(f"{order}H", entry)[0] not in codes]
        following = data[end : end + struct.calcsize(offset_form)]
        directory = struct.pack(order + count_form, len(kept)) + b"".join(kept) + following
        length = end + len(following) - at
        changed[at : at + length] = directory.ljust(length, b"\0")
        (at,) = struct.unpack(order + offset_form, following)
    return bytes(changed)


def with_record(data: bytes, place: Place, big_endian: bool, big: bool, envelope: bytes | None) -> bytes:
    """The file with another carrier block as value of the record's tag; every other byte is kept.

    Args:
        data: the file.
        place: of the tag.
        big_endian: its byte order.
        big: BigTIFF.
        envelope: the sealed record, ``None`` where it goes to a sidecar.

    Raises:
        UnsupportedImageError: the file would be larger than a TIFF file can be.
    """
    block = pack_block(envelope)
    if place.start + place.size == len(data):
        kept = data[: place.start]
    else:  # as tifffile left it, or another tool: the old value becomes zeros
        kept = data[: place.start] + bytes(place.size) + data[place.start + place.size :]
    kept += bytes(-len(kept) % 2)  # values begin at even places
    if not big and len(kept) + len(block) > _LIMIT:
        raise UnsupportedImageError("the protected file would be too large for TIFF: use a sidecar")
    entry = struct.pack((">" if big_endian else "<") + ("2Q" if big else "2I"), len(block), len(kept))
    at = place.entry + 4
    return b"".join((kept[:at], entry, kept[at + len(entry) :], block))


def filled(frame: bytes, strips: list[list[tuple[int, int]]], values: NDArray[Any], big_endian: bool) -> bytes:
    """The bytes of a file with samples put where they belong.

    Args:
        frame: the file, whatever stands where its samples are.
        strips: places for each page, all within the frame.
        values: ``(N, H, W, C)``.
        big_endian: byte order of the samples.

    Raises:
        ValueError: the places do not hold these samples.
    """
    result = bytearray(frame)
    word = np.dtype(f"u{values.dtype.itemsize}")
    for page, places in zip(values, strips, strict=True):
        # Swapping as unsigned integers keeps the payload of a NaN.
        raw = np.ascontiguousarray(page).view(word).astype(word.newbyteorder(">" if big_endian else "<")).tobytes()
        if sum(size for _, size in places) != len(raw):
            raise ValueError("the samples do not fit their places")
        at = 0
        for start, size in places:
            result[start : start + size] = raw[at : at + size]
            at += size
    return bytes(result)

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""What around the pixels may be a copy of them: protected files are written without it, the record restores it all.

Color profiles keep the tables that colors hang on, descriptions of axes the numbers that say what an axis is. Whatever
is as large as a small picture of the image and has no meaning for the display is left out.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from typing import Any
from xml.etree import ElementTree

from numpy.typing import NDArray

from monai_miadmark.errors import UnsupportedImageError

__all__ = ["clean_description", "clean_profile", "copy_bytes"]

_LEAST_BYTES = 4096
_SHARE = 64

_PROFILE_BYTES = 1 << 20
_ICC_HEADER = 128
# Tags of ICC.1 that a conversion of colors reads, and how long they may be: curves of 4096 entries, tables, texts.
_SMALL_TAGS = frozenset(b"wtpt bkpt chad chrm rXYZ gXYZ bXYZ lumi view meas tech cicp".split())
_TEXT_TAGS = frozenset(b"desc cprt dmnd dmdd vued".split())
_CURVES = frozenset(b"rTRC gTRC bTRC kTRC".split())
_TABLES = frozenset(b"A2B0 A2B1 A2B2 B2A0 B2A1 B2A2 D2B0 D2B1 B2D0 B2D1 gamt".split())
_LENGTHS = {
    **dict.fromkeys(_SMALL_TAGS, 64),
    **dict.fromkeys(_TEXT_TAGS, 2048),
    **dict.fromkeys(_CURVES, 12 + 2 * 4096),
    **dict.fromkeys(_TABLES, _PROFILE_BYTES),
}

_MAX_DESCRIPTION = 1 << 22
_MAX_WORD = 64
_OME = {
    "Image": ("ID",),
    "Pixels": tuple(
        "ID DimensionOrder Type SizeX SizeY SizeZ SizeC SizeT SignificantBits Interleaved BigEndian PhysicalSizeX "
        "PhysicalSizeY PhysicalSizeZ PhysicalSizeXUnit PhysicalSizeYUnit PhysicalSizeZUnit TimeIncrement "
        "TimeIncrementUnit".split()
    ),
    "Channel": ("ID", "SamplesPerPixel", "Color"),
    "TiffData": ("IFD", "FirstC", "FirstT", "FirstZ", "PlaneCount"),
}
_IMAGEJ = frozenset(
    "ImageJ images channels slices frames hyperstack mode unit yunit zunit tunit vunit finterval fps spacing loop min "
    "max xorigin yorigin zorigin cf c0 c1".split()
)


def copy_bytes(values: NDArray[Any]) -> int:
    """From how many bytes on a piece of metadata could be a small picture of an image.

    That is a sixty-fourth of a slice: a thumbnail with an eighth of its rows and columns. Less than 4 KiB are too few
    where the slice itself has more.

    Args:
        values: ``(N, H, W, C)`` samples.
    """
    piece = values[:1].nbytes
    return max(piece // _SHARE, min(_LEAST_BYTES, piece // 2), 64)


def clean_profile(profile: bytes) -> bytes | None:
    """An ICC profile with nothing in it but what converts colors, or ``None`` where that is none.

    Args:
        profile: of a source, any bytes.

    Raises:
        UnsupportedImageError: tables of more than a mebibyte, with which nobody could tell a profile from a picture.
    """
    if len(profile) < _ICC_HEADER + 4 or profile[36:40] != b"acsp":
        return None
    (count,) = struct.unpack_from(">I", profile, _ICC_HEADER)
    if count > 100 or _ICC_HEADER + 4 + 12 * count > len(profile):
        return None
    kept: dict[bytes, bytes] = {}
    for index in range(count):
        name, start, size = struct.unpack_from(">4sII", profile, _ICC_HEADER + 4 + 12 * index)
        if name not in _LENGTHS or name in kept or start + size > len(profile):
            continue
        if size > _LENGTHS[name] and name not in _TEXT_TAGS:
            raise UnsupportedImageError(f"a color profile with tables of {size} bytes is not supported")
        if size <= _LENGTHS[name]:
            kept[name] = profile[start : start + size]
    if not kept.keys() - _TEXT_TAGS - {b"wtpt", b"bkpt"}:
        return None
    if sum(map(len, kept.values())) > _PROFILE_BYTES:
        raise UnsupportedImageError(f"a color profile of {len(profile)} bytes is not supported")
    rest = _beside_tags(profile, count)
    if len(kept) == count and not rest.strip(b"\0"):
        return profile
    return _profile(profile[:_ICC_HEADER], kept)


def _beside_tags(profile: bytes, count: int) -> bytes:
    """Bytes of a profile that belong to no tag: those that the header reserves, those between and behind tags."""
    places = [struct.unpack_from(">II", profile, _ICC_HEADER + 8 + 12 * index) for index in range(count)]
    rest, at = [profile[100:_ICC_HEADER]], _ICC_HEADER + 4 + 12 * count
    for start, size in sorted(places):
        rest.append(profile[at:start])
        at = max(at, start + size)
    return b"".join((*rest, profile[at:]))


def _profile(header: bytes, tags: dict[bytes, bytes]) -> bytes:
    """A profile of these tags; equal ones share their bytes, as in the profiles that come with systems."""
    table, body, places = [], b"", {}
    begin = _ICC_HEADER + 4 + 12 * len(tags)
    for name, data in tags.items():
        if data not in places:
            places[data] = begin + len(body)
            body += data + bytes(-len(data) % 4)
        table.append(struct.pack(">4sII", name, places[data], len(data)))
    size = struct.pack(">I", begin + len(body))
    # The digest of the profile (16 bytes) is not that of this one; zero says that there is none.
    head = size + header[4:84] + bytes(_ICC_HEADER - 84)
    return b"".join((head, struct.pack(">I", len(tags)), *table, body))


def clean_description(text: bytes) -> bytes:
    """What an ImageDescription of OME-TIFF, ImageJ or tifffile says of axes and their scales; else empty.

    Pixel data, names, annotations and free text are left out: each may hold a copy of the image, or name the patient.
    """
    if len(text) > _MAX_DESCRIPTION:
        return b""
    if text.startswith((b"<?xml", b"<OME")):
        return _clean_ome(text)
    if text.startswith(b"ImageJ="):
        pairs = (line.partition(b"=") for line in text.split(b"\n"))
        kept = b"".join(b"=".join((name, value)) + b"\n" for name, _, value in pairs if _plain(name, value))
        return kept if kept.startswith(b"ImageJ=") else b""
    if text.startswith(b'{"shape"'):
        return _clean_json(text)
    return b""


def _plain(name: bytes, value: bytes) -> bool:
    """Whether a line of ImageJ is one of its numbers or words."""
    return name.decode("ascii", "replace") in _IMAGEJ and len(value) <= _MAX_WORD


def _clean_json(text: bytes) -> bytes:
    """Shape and axes of tifffile's description."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return b""
    shape, axes = found.get("shape"), found.get("axes")
    if not isinstance(shape, list) or len(shape) > 16 or not all(type(length) is int for length in shape):
        return b""
    kept: dict[str, Any] = {"shape": shape}
    if isinstance(axes, str) and len(axes) == len(shape):
        kept["axes"] = axes
    if found.get("truncated") is True:
        kept["truncated"] = True
    return json.dumps(kept).encode("ascii")


def _clean_ome(text: bytes) -> bytes:
    """OME-XML of images with their axes and channels."""
    if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
        return b""
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError, LookupError):
        return b""
    namespace, _, name = root.tag.rpartition("}")
    if name != "OME" or len(namespace) > 2 * _MAX_WORD:
        return b""
    clean = ElementTree.Element(root.tag)
    for image in _children(root, "Image"):
        inside = _copied(clean, image, "Image")
        for pixels in _children(image, "Pixels"):
            axes = _copied(inside, pixels, "Pixels")
            for kind in ("Channel", "TiffData"):
                for child in _children(pixels, kind):
                    _copied(axes, child, kind)
    ElementTree.register_namespace("", namespace.lstrip("{"))
    written: bytes = ElementTree.tostring(clean, encoding="us-ascii", xml_declaration=True)
    return written.replace(b"<?xml version='1.0' encoding='us-ascii'?>", b'<?xml version="1.0" encoding="UTF-8"?>')


def _children(parent: ElementTree.Element, kind: str) -> Iterable[ElementTree.Element]:
    """Child elements of a name in any namespace."""
    return (child for child in parent if isinstance(child.tag, str) and child.tag.rpartition("}")[2] == kind)


def _copied(parent: ElementTree.Element, child: ElementTree.Element, kind: str) -> ElementTree.Element:
    """An element with the attributes that are kept."""
    attributes = {name: value for name in _OME[kind] if len(value := child.get(name, "")) <= _MAX_WORD and value}
    return ElementTree.SubElement(parent, child.tag, attributes)

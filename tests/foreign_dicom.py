# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""DICOM files as faulty writers leave them, each readable by force; made element by element."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable

import samples
from PIL import Image

EXPLICIT, IMPLICIT, BIG, JPEG = (f"1.2.840.10008.1.2{end}" for end in (".1", "", ".2", ".4.50"))
LONG = ("OB", "OW", "SQ", "UN", "UT")
DELIMITER, ITEM_END = (struct.pack("<HHI", 0xFFFE, tag, 0) for tag in (0xE0DD, 0xE00D))
PICTURE = samples.smooth(32, 40)


def element(group: int, number: int, kind: str, value: bytes, form: str = EXPLICIT, length: int | None = None) -> bytes:
    """An element; ``length`` in place of the true one."""
    order = ">" if form == BIG else "<"
    size = len(value) if length is None else length
    head = struct.pack(f"{order}2H", group, number)
    if form == IMPLICIT:
        return head + struct.pack("<I", size) + value
    if kind in LONG:
        return head + kind.encode() + b"\0\0" + struct.pack(f"{order}I", size) + value
    return head + kind.encode() + struct.pack(f"{order}H", size) + value


def item(content: bytes, length: int | None = None) -> bytes:
    """An item."""
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(content) if length is None else length) + content


def meta(form: str = EXPLICIT, drop: int = 0, written: str = EXPLICIT) -> bytes:
    """File meta information, without its first ``drop`` elements."""
    texts = ((0x02, "1.2.840.10008.5.1.4.1.1.7\0"), (0x03, "1.2.3.4\0"), (0x10, form + "\0" * (len(form) % 2)))
    rest = [element(2, 1, "OB", b"\0\1", written)]
    rest += [element(2, number, "UI", text.encode(), written) for number, text in texts]
    parts = [element(2, 0, "UL", struct.pack("<I", sum(map(len, rest))), written), *rest]
    return b"".join(parts[drop:])


def identity(
    form: str = EXPLICIT, sop_class: bytes | None = b"1.2.840.10008.5.1.4.1.1.7\0", uid: bytes | None = b"1.2.3.4\0"
) -> bytes:
    """Group 0008."""
    parts = [element(8, 8, "CS", b"ORIGINAL\\PRIMARY", form)]
    if sop_class is not None:
        parts.append(element(8, 0x16, "UI", sop_class, form))
    if uid is not None:
        parts.append(element(8, 0x18, "UI", uid, form))
    return b"".join((*parts, element(8, 0x60, "CS", b"OT", form)))


def image(form: str = EXPLICIT, photometric: bytes | None = b"MONOCHROME2 ") -> bytes:
    """Groups 0010 to 0028."""
    short = ">H" if form == BIG else "<H"
    numbers = {0x02: 1, 0x10: 32, 0x11: 40, 0x100: 8, 0x101: 8, 0x102: 7, 0x103: 0}
    parts = {number: element(0x28, number, "US", struct.pack(short, value), form) for number, value in numbers.items()}
    if photometric is not None:
        parts[0x04] = element(0x28, 4, "CS", photometric, form)
    return element(0x10, 0x20, "LO", b"ID", form) + b"".join(parts[number] for number in sorted(parts))


def pixels(form: str = EXPLICIT, value: bytes | None = None) -> bytes:
    """Native pixel data."""
    return element(
        0x7FE0, 0x10, "OW" if form == IMPLICIT else "OB", PICTURE.tobytes() if value is None else value, form
    )


def fragments() -> bytes:
    """Encapsulated pixel data without their end."""
    out = io.BytesIO()
    Image.fromarray(PICTURE).save(out, "JPEG", quality=90)
    stream = out.getvalue() + b"\0" * (len(out.getvalue()) % 2)
    return element(0x7FE0, 0x10, "OB", item(b"") + item(stream), length=0xFFFFFFFF)


def file(*body: bytes, head: bytes | None = None) -> bytes:
    """A file with its preamble."""
    return bytes(128) + b"DICM" + (meta() if head is None else head) + b"".join(body)


def plain(*extra: bytes, form: str = EXPLICIT) -> bytes:
    """A sound file, with something between its attributes and its pixels."""
    return file(identity(form), image(form), *extra, pixels(form), head=meta(form))


def swapped(data: bytes) -> bytes:
    """A delimiter in big endian."""
    return struct.pack(">HHI", *struct.unpack("<HHI", data))


NESTED = item(element(0x40, 0xA043, "LO", b"AB"))
BEFORE = element(0x40, 0x275, "SQ", NESTED)
PRIVATE = element(0x29, 0x10, "LO", b"VENDOR")
INSIDE = element(0x40, 0xA043, "LO", b"ab", IMPLICIT)
UNDEFINED = 0xFFFFFFFF

FILES: dict[str, Callable[[], bytes]] = {
    "delimiter before pixels": lambda: plain(DELIMITER),
    "delimiter in implicit VR": lambda: plain(DELIMITER, form=IMPLICIT),
    "delimiter in big endian": lambda: plain(swapped(DELIMITER), form=BIG),
    "item delimiter before pixels": lambda: plain(ITEM_END),
    "delimiters first": lambda: file(DELIMITER, ITEM_END, identity(), image(), pixels()),
    "delimiter behind a sequence": lambda: plain(BEFORE, DELIMITER),
    "both behind an undefined sequence": lambda: plain(
        element(0x40, 0x275, "SQ", NESTED + DELIMITER, length=UNDEFINED), ITEM_END, DELIMITER
    ),
    "delimiter in a defined item": lambda: plain(
        element(0x40, 0x275, "SQ", item(element(0x40, 0xA043, "LO", b"AB") + ITEM_END) + DELIMITER)
    ),
    "empty item": lambda: plain(item(b"")),
    "item with content": lambda: plain(NESTED),
    "undefined item": lambda: plain(item(element(0x40, 0xA043, "LO", b"AB") + ITEM_END, UNDEFINED)),
    "delimiters at the end": lambda: plain() + ITEM_END + DELIMITER + DELIMITER,
    "item at the end": lambda: plain() + item(b"abcd"),
    "command elements first": lambda: file(
        element(0, 0, "UL", b"\4\0\0\0"), element(0, 2, "UI", b"1.2\0"), identity(), image(), pixels()
    ),
    "command element inside": lambda: plain(element(0, 0x100, "US", b"\1\0")),
    "command element at the end": lambda: plain() + element(0, 0x100, "US", b"\1\0"),
    "meta element inside": lambda: plain(element(2, 0x16, "AE", b"ME")),
    "zeros behind": lambda: plain() + bytes(512),
    "text behind": lambda: plain() + b"this is no element at all, whoever left it",
    "a byte behind": lambda: plain() + b"\x1a",
    "padding and zeros behind": lambda: plain() + element(0xFFFC, 0xFFFC, "OB", bytes(16)) + bytes(64),
    "unknown VR": lambda: plain(element(0x40, 0xA168, "ZZ", b"AB")),
    "unknown VR in a sequence": lambda: plain(element(0x40, 0x275, "SQ", item(element(0x40, 0xA043, "ZZ", b"AB")))),
    "unknown VR in an undefined sequence": lambda: plain(
        element(0x40, 0x275, "SQ", item(element(0x40, 0xA043, "ZZ", b"AB")) + DELIMITER, length=UNDEFINED)
    ),
    "IS of text": lambda: file(identity(), element(0x20, 0x13, "IS", b"one."), image(), pixels()),
    "DS of text": lambda: plain(element(0x28, 0x1052, "DS", b"minus two ")),
    "DS in an undefined sequence": lambda: plain(
        element(0x40, 0x275, "SQ", item(element(0x40, 0xA30A, "DS", b"minus two ")) + DELIMITER, length=UNDEFINED)
    ),
    "US of three bytes": lambda: plain(element(0x28, 0x106, "US", b"abc")),
    "FD of three bytes": lambda: plain(element(0x18, 0x9087, "FD", b"abc")),
    "AT of three bytes": lambda: plain(element(0x28, 9, "AT", b"abc")),
    "UI of text": lambda: file(identity(), element(0x20, 0xE, "UI", b"series"), image(), pixels()),
    "odd length": lambda: plain(element(0x28, 0x1055, "LO", b"odd")),
    "odd pixels": lambda: file(
        identity(), image().replace(b"\x28\0\x11\0US\2\0\x28\0", b"\x28\0\x11\0US\2\0\x03\0").replace(
            b"\x28\0\x10\0US\2\0\x20\0", b"\x28\0\x10\0US\2\0\x0b\0"), pixels(value=PICTURE.tobytes()[:33])
    ),
    "implicit sequence in explicit": lambda: plain(
        element(0x40, 0x275, "SQ", item(INSIDE + ITEM_END, UNDEFINED) + DELIMITER, length=UNDEFINED)
    ),
    "private UN sequence": lambda: plain(
        PRIVATE, element(0x29, 0x1010, "UN", item(INSIDE + ITEM_END, UNDEFINED) + DELIMITER, length=UNDEFINED)
    ),
    "private UN of explicit items": lambda: plain(
        PRIVATE, element(0x29, 0x1010, "UN", NESTED + DELIMITER, length=UNDEFINED)
    ),
    "private UN of bytes": lambda: plain(PRIVATE, element(0x29, 0x1010, "UN", b"anything at all.")),
    "UN of known attributes": lambda: file(
        identity(), element(0x18, 0x50, "UN", b"1.5 "), image(), element(0x28, 0x1050, "UN", b"40"), pixels()
    ),
    "implicit meta": lambda: file(identity(), image(), pixels(), head=meta(written=IMPLICIT)),
    "no meta": lambda: file(identity(), image(), pixels(), head=b""),
    "no meta, implicit": lambda: file(identity(IMPLICIT), image(IMPLICIT), pixels(IMPLICIT), head=b""),
    "no transfer syntax": lambda: file(identity(), image(), pixels(), head=meta()[:-len(element(2, 0x10, "UI", b"1.2.840.10008.1.2.1\0"))]),  # noqa: E501
    "no end": lambda: file(identity(), image(), fragments(), head=meta(JPEG)),
    "zeros for an end": lambda: file(identity(), image(), fragments() + bytes(8), head=meta(JPEG)),
    "half an end": lambda: file(identity(), image(), fragments() + DELIMITER[:4], head=meta(JPEG)),
    "item delimiter for an end": lambda: file(identity(), image(), fragments() + ITEM_END, head=meta(JPEG)),
    "two ends": lambda: file(identity(), image(), fragments() + DELIMITER * 2, head=meta(JPEG)),
    "no UIDs": lambda: file(identity(sop_class=None, uid=None), image(), pixels(), head=meta()[:0]),
    "empty UIDs": lambda: file(identity(sop_class=b"", uid=b""), image(), pixels()),
    "no instance": lambda: file(identity(uid=None), image(), pixels()),
    "bare": lambda: meta() + identity() + image() + pixels(),
    "bare from 0002,0001": lambda: meta(drop=1) + identity() + image() + pixels(),
    "bare from 0002,0002": lambda: meta(drop=2) + identity() + image() + pixels(),
    "bare from 0002,0010": lambda: meta(drop=4) + identity() + image() + pixels(),
    "bare, implicit meta": lambda: meta(written=IMPLICIT) + identity() + image() + pixels(),
    "bare data set": lambda: identity() + image() + pixels(),
    "bare data set, implicit": lambda: identity(IMPLICIT) + image(IMPLICIT) + pixels(IMPLICIT),
    "bare data set, big endian": lambda: identity(BIG) + image(BIG) + pixels(BIG),
    "bare JPEG": lambda: meta(JPEG) + identity() + image() + fragments() + DELIMITER,
    "ACR-NEMA": lambda: element(8, 0, "UL", b"\x1e\0\0\0", IMPLICIT) + element(8, 1, "UL", b"\0\1\0\0", IMPLICIT)
    + element(8, 0x10, "LO", b"ACR-NEMA 2.0", IMPLICIT) + image(IMPLICIT, None) + pixels(IMPLICIT),
}  # fmt: skip
"""By what is wrong with them."""

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""TIFF files into stacks of samples by ``tifffile``: every size is checked before memory is taken.

``tifffile`` and ``imagecodecs`` are in the extra ``tiff`` and are imported when the first TIFF file is read.
"""

from __future__ import annotations

import contextlib
import io
import logging
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monai_miadmark.errors import MIADMarkError, TamperedError, UnsupportedImageError, check_memory
from monai_miadmark.formats.copies import clean_description, clean_profile
from monai_miadmark.formats.limits import check_decoded

__all__ = [
    "COLOR_TAGS",
    "MAX_PAGES",
    "RECORD_TAG",
    "Place",
    "Resolution",
    "TiffStack",
    "parsing",
    "read_record",
    "read_stack",
]

RECORD_TAG = 65077
"""Private tag of the first page that holds the carrier block; 65000 to 65535 are free for everyone."""

MAX_PAGES = 1 << 14
"""Most pages that are read."""

_DTYPES = {(1, 8): "uint8", (1, 16): "uint16", (1, 32): "uint32", (2, 8): "int8", (2, 16): "int16", (2, 32): "int32"}
_DTYPES[(3, 32)] = "float32"
_KINDS = {1: "unsigned integer", 2: "signed integer", 3: "floating point", 4: "untyped", 5: "complex", 6: "complex"}
_PHOTOMETRIC = {
    3: "palette", 4: "mask", 5: "CMYK", 6: "YCbCr", 8: "CIE L*a*b*", 9: "ICC L*a*b*", 32803: "color filter array",
    32844: "LogL", 32845: "LogLuv", 34892: "linear raw",
}  # fmt: skip
_COMPRESSION = {
    2: "CCITT", 3: "CCITT", 4: "CCITT", 6: "JPEG", 7: "JPEG", 34712: "JPEG 2000", 33003: "JPEG 2000",
    33005: "JPEG 2000", 34887: "LERC", 34925: "LZMA", 34933: "PNG", 34892: "JPEG", 50000: "Zstandard", 50001: "WebP",
    50002: "JPEG XL", 52546: "JPEG XL", 22610: "JPEG XR", 34934: "JPEG XR",
}  # fmt: skip
_UNCOMPRESSED = 1
# How many bytes one byte can become: LZW, Deflate (two codes), PackBits.
_EXPANSION = {_UNCOMPRESSED: 1, 5: 4096, 8: 1032, 32946: 1032, 32773: 64}
_PREDICTORS = (1, 2, 3)


COLOR_TAGS = {290: 1, 291: 1 << 16, 301: 3 << 16, 318: 2, 319: 6}
"""Tags that say what color a sample is, and how many values they have at most: gray response with its unit, transfer
function, white point, primary chromaticities."""


class Resolution(NamedTuple):
    """X and Y resolution as fractions, and the number of their unit, ``None`` where the file has no such tag."""

    x: tuple[int, int]
    y: tuple[int, int]
    unit: int | None


class Place(NamedTuple):
    """Where the record's tag lies: its entry in the directory, its value, and how long that is."""

    entry: int
    start: int
    size: int


@dataclass(frozen=True, repr=False)
class TiffStack:
    """A TIFF file, taken apart.

    Attributes:
        values: ``(N, H, W, C)`` color samples of N pages that are alike.
        alpha: ``(N, H, W, 1)``: the sample beside the colors, or ``None``.
        associated: whether the colors are multiplied by alpha; ``None`` where the file does not say what it is.
        big_endian: byte order of the file.
        big: BigTIFF.
        compressed: whether the pages are.
        inverted: zero is white.
        strips: for each page the places (offset, size) whose bytes are its samples, in order; ``None`` where samples
            lie otherwise (compressed, tiled, planar, with alpha).
        descriptions: for each page what ImageDescription says of the axes (OME, ImageJ, tifffile), else empty; see
            :func:`~monai_miadmark.formats.copies.clean_description`.
        resolution: for each page X and Y resolution as fractions, and their unit (``None`` where the file has no such
            tag); ``None`` without a resolution.
        orientation: of each page, 1 where it is not given.
        profile: ICC profile of the first page, without what converts no colors.
        colors: for each page the tags of :data:`COLOR_TAGS` that it has: code, type, count, value.
        record: carrier block with what stands behind it, ``None`` without one.
        place: where that is.
    """

    values: NDArray[Any]
    alpha: NDArray[Any] | None
    associated: bool | None
    big_endian: bool
    big: bool
    compressed: bool
    inverted: bool
    strips: list[list[tuple[int, int]]] | None
    descriptions: list[bytes]
    resolution: list[Resolution | None]
    orientation: list[int]
    profile: bytes | None
    colors: list[list[tuple[int, int, int, Any]]]
    record: bytes | None
    place: Place | None


class _Like(NamedTuple):
    """What all pages of a stack must have in common."""

    height: int
    width: int
    samples: int
    dtype: str
    planar: int
    photometric: int
    compression: int
    extra: tuple[int, ...]


def read_stack(data: bytes) -> TiffStack:
    """Read all pages.

    Raises:
        UnsupportedImageError: a kind of TIFF that is not supported, by name; or ``tifffile`` is not installed.
        TamperedError: damaged.
    """
    with parsing(data) as file:
        pages = _pages(file)
        like = _checked(pages[0], data)
        for page in pages[1:]:
            if _checked(page, data) != like:
                raise UnsupportedImageError("TIFF whose pages differ in size or kind is not supported")
        # Strips that several pages share would let a small file become a large stack.
        if sum(sum(page.databytecounts) for page in pages) > len(data):
            raise TamperedError("pages of the TIFF file share their samples")
        check_decoded(len(pages) * _page_bytes(like), sum(sum(page.databytecounts) for page in pages))
        described = [_tag_bytes(page, 270, data) or b"" for page in pages]
        _check_hidden_slices(described[0], len(pages))
        stack = np.empty((len(pages), like.height, like.width, like.samples), like.dtype)
        for index, page in enumerate(pages):
            found = page.asarray(maxworkers=1)
            if found.dtype.name != like.dtype:
                raise TamperedError("the TIFF samples do not have the declared type")
            size = like.height, like.width
            found = found.reshape((like.samples, *size) if like.planar == 2 else (*size, like.samples))
            stack[index] = np.moveaxis(found, 0, 2) if like.planar == 2 else found
        colors = like.samples - len(like.extra)
        simple = like.compression == _UNCOMPRESSED and not like.extra and (like.planar == 1 or like.samples == 1)
        places = [_strips(page, like) for page in pages] if simple else []
        record, place = _record(pages[0], data)
        return TiffStack(
            values=stack if not like.extra else np.ascontiguousarray(stack[..., :colors]),
            alpha=np.ascontiguousarray(stack[..., colors:]) if like.extra else None,
            associated=None if like.extra not in ((1,), (2,)) else like.extra == (1,),
            big_endian=file.byteorder == ">",
            big=bool(file.is_bigtiff),
            compressed=like.compression != _UNCOMPRESSED,
            inverted=like.photometric == 0,
            strips=[p for p in places if p is not None] if simple and None not in places else None,
            descriptions=[clean_description(text) for text in described],
            resolution=[_resolution(page) for page in pages],
            orientation=[_number(page, 274, 1) for page in pages],
            profile=clean_profile(_tag_bytes(pages[0], 34675, data) or b""),
            colors=[_color_tags(page) for page in pages],
            record=record,
            place=place,
        )


def read_record(data: bytes) -> bytes | None:
    """The carrier block with what stands behind it, ``None`` without one; no sample is decoded.

    Raises:
        TamperedError: damaged.
        UnsupportedImageError: ``tifffile`` is not installed.
    """
    with parsing(data) as file:
        return _record(file.pages[0], data)[0]


@contextlib.contextmanager
def parsing(data: bytes) -> Iterator[Any]:
    """``tifffile.TiffFile`` of bytes; whatever it raises becomes a TamperedError, and it logs nothing meanwhile."""
    try:
        import tifffile
    except ImportError as error:
        raise UnsupportedImageError(
            "TIFF needs the packages tifffile and imagecodecs: pip install 'monai-miadmark[tiff]'"
        ) from error
    logger, quiet = logging.getLogger("tifffile"), _Quiet()
    logger.addFilter(quiet)
    try:
        # Names in OME-XML must not make it open other files.
        with tifffile.TiffFile(io.BytesIO(data), _multifile=False) as file:
            yield file
    except MIADMarkError:
        raise
    except Exception as error:  # many kinds for damaged files; none may reach the caller raw, since it may quote them
        check_memory(error)
        raise TamperedError("the TIFF file is damaged, or of an unknown kind") from error
    finally:
        logger.removeFilter(quiet)


class _Quiet(logging.Filter):
    """Drops what is logged in this thread: it may quote the file."""

    def __init__(self) -> None:
        super().__init__()
        self.thread = threading.get_ident()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a message is another thread's."""
        return record.thread != self.thread


def _pages(file: Any) -> list[Any]:
    """All pages, at least one."""
    if file.is_stk:
        raise UnsupportedImageError("MetaMorph STK is not supported: its slices have no directory of their own")
    pages: list[Any] = []
    for page in file.pages:
        if len(pages) == MAX_PAGES:
            raise UnsupportedImageError(f"TIFF of more than {MAX_PAGES} pages is not supported")
        pages.append(page)
    if not pages:
        raise TamperedError("the TIFF file has no page")
    return pages


def _checked(page: Any, data: bytes) -> _Like:
    """Kind of a page, after all that is needed to decode it in bounded memory was checked."""
    compression, photometric = int(page.compression), int(page.photometric)
    if compression not in _EXPANSION:
        name = _COMPRESSION.get(compression, f"of compression {compression}")
        raise UnsupportedImageError(f"{name} TIFF is not supported (uncompressed, LZW, Deflate and PackBits are)")
    if photometric not in (0, 1, 2):
        name = _PHOTOMETRIC.get(photometric, f"of photometric interpretation {photometric}")
        raise UnsupportedImageError(f"{name} TIFF is not supported (grayscale and RGB are)")
    if page.subifds:
        raise UnsupportedImageError("TIFF with smaller copies of its pages (SubIFDs) is not supported")
    if page.imagedepth != 1 or page.tiledepth not in (0, 1):
        raise UnsupportedImageError("TIFF with volumes in a page is not supported")
    if page.fillorder != 1:
        raise UnsupportedImageError("TIFF with reversed bits is not supported")
    bits, sample_format, samples = page.bitspersample, int(page.sampleformat), int(page.samplesperpixel)
    dtype = _DTYPES.get((sample_format, bits)) if isinstance(bits, int) else None
    if dtype is None:
        raise UnsupportedImageError(f"{bits}-bit {_KINDS.get(sample_format, 'unknown')} TIFF is not supported")
    extra = tuple(int(kind) for kind in page.extrasamples or ())
    if samples - len(extra) != (3 if photometric == 2 else 1) or len(extra) > 1 or page.planarconfig not in (1, 2):
        raise UnsupportedImageError(
            f"TIFF of {samples} samples in a pixel, {len(extra)} of them extra, is not supported"
        )
    height, width = int(page.imagelength), int(page.imagewidth)
    if not height or not width:
        raise UnsupportedImageError("the TIFF image has no pixels")
    like = _Like(height, width, samples, dtype, int(page.planarconfig), photometric, compression, extra)
    _check_segments(page, like, data)
    return like


def _check_segments(page: Any, like: _Like, data: bytes) -> None:
    """Compare the strips or tiles of a page with the file and with the page's size."""
    compressed = like.compression != _UNCOMPRESSED
    if compressed or int(page.predictor) != 1:
        try:
            import imagecodecs  # noqa: F401  (its decoders take the size to give; tifffile's own do not)
        except ImportError as error:
            raise UnsupportedImageError(
                "compressed TIFF needs the package imagecodecs: pip install 'monai-miadmark[tiff]'"
            ) from error
    if int(page.predictor) not in _PREDICTORS:
        raise UnsupportedImageError(f"TIFF of predictor {int(page.predictor)} is not supported")
    offsets, counts = page.dataoffsets, page.databytecounts
    if len(offsets) != len(counts) or any(
        start < 8 or size < 1 or start + size > len(data) for start, size in zip(offsets, counts, strict=True)
    ):
        raise TamperedError("the TIFF file is truncated, or the places of its samples are damaged")
    total = _page_bytes(like)
    stored = sum(counts)
    if stored * _EXPANSION[like.compression] < total or (not compressed and not page.is_tiled and stored != total):
        raise TamperedError("the TIFF file does not hold the samples that it declares")
    planes = like.samples if like.planar == 2 else 1
    if page.is_tiled:
        rows, columns = int(page.tilelength), int(page.tilewidth)
        if not rows or not columns:
            raise TamperedError("the tiles of the TIFF file are damaged")
        segments = -(-like.height // rows) * -(-like.width // columns)
    else:
        rows, columns = min(max(1, int(page.rowsperstrip)), like.height), like.width
        segments = -(-like.height // rows)
    # A tile may be larger than the page by its margin only: nothing else bounds what is decoded at once.
    if rows * columns > 4 * like.height * like.width + (1 << 24) or len(offsets) != segments * planes:
        raise TamperedError("the strips or tiles of the TIFF file do not fit its size")


def _page_bytes(like: _Like) -> int:
    """Bytes of the samples of a page."""
    return like.height * like.width * like.samples * np.dtype(like.dtype).itemsize


def _strips(page: Any, like: _Like) -> list[tuple[int, int]] | None:
    """Places of a page whose bytes are its samples in order, or ``None``."""
    if page.is_tiled or int(page.predictor) != 1:
        return None
    return [(int(start), int(size)) for start, size in zip(page.dataoffsets, page.databytecounts, strict=True)]


def _check_hidden_slices(description: bytes, pages: int) -> None:
    """Refuse stacks that ImageJ and tifffile keep behind a single directory: only their first slice would be marked."""
    images = None
    if description.startswith(b"ImageJ="):
        named = (line[7:].strip() for line in description.split(b"\n") if line.startswith(b"images="))
        images = next((int(text) for text in named if text.isdigit() and len(text) <= 12), None)
    if (images is not None and images != pages) or b'"truncated": true' in description[:1000]:
        raise UnsupportedImageError("TIFF with slices that have no directory of their own is not supported")


def _tag_bytes(page: Any, code: int, data: bytes) -> bytes | None:
    """Bytes of a tag of bytes or text, without zeros at the end of text; ``None`` without it."""
    tag = page.tags.get(code)
    if tag is None or int(tag.dtype) not in (1, 2, 7):
        return None
    # The file's own bytes: tifffile decodes text.
    value = data[tag.valueoffset : tag.valueoffset + tag.count]
    return value.rstrip(b"\0") if int(tag.dtype) == 2 else value


def _number(page: Any, code: int, default: int) -> int:
    """Value of a tag of one integer."""
    tag = page.tags.get(code)
    value = default if tag is None else tag.value
    return int(value) if isinstance(value, int) else default


def _resolution(page: Any) -> Resolution | None:
    """X and Y resolution and their unit, where all of it makes sense."""
    values = [tag.value for tag in (page.tags.get(282), page.tags.get(283)) if tag is not None]
    if len(values) != 2 or any(not isinstance(v, tuple) or len(v) != 2 or min(v) < 0 or not v[1] for v in values):
        return None
    unit = _number(page, 296, 0)
    return Resolution(values[0], values[1], unit if unit in (1, 2, 3) else None)


def _color_tags(page: Any) -> list[tuple[int, int, int, Any]]:
    """The tags of :data:`COLOR_TAGS` of a page, those of plain numbers."""
    found = []
    for code, most in COLOR_TAGS.items():
        tag = page.tags.get(code)
        if tag is not None and int(tag.dtype) in (3, 5) and tag.count <= most:
            value = tuple(tag.value.tolist()) if isinstance(tag.value, np.ndarray) else tag.value
            found.append((code, int(tag.dtype), int(tag.count), value))
    return found


def _record(page: Any, data: bytes) -> tuple[bytes | None, Place | None]:
    """Value and place of the record's tag."""
    tags = page.tags.getall(RECORD_TAG) or []
    if len(tags) != _entries(page, data).count(RECORD_TAG):  # tifffile leaves out what it cannot read
        raise TamperedError("the recovery record in the TIFF file is cut short")
    if not tags:
        return None, None
    if len(tags) > 1:
        raise TamperedError("the TIFF file holds more than one recovery record")
    tag = tags[0]
    if int(tag.dtype) != 7 or tag.count < 9 or tag.valueoffset + tag.count > len(data):
        raise TamperedError("the recovery record in the TIFF file is damaged")
    place = Place(int(tag.offset), int(tag.valueoffset), int(tag.count))
    return data[place.start : place.start + place.size], place


def _entries(page: Any, data: bytes) -> list[int]:
    """Codes of all tags in the directory of a page."""
    order, big = page.parent.byteorder, bool(page.parent.is_bigtiff)
    form, size = (f"{order}Q", 20) if big else (f"{order}H", 12)
    first = page.offset + struct.calcsize(form)
    (count,) = struct.unpack_from(form, data, page.offset)
    if first + count * size > len(data):
        raise TamperedError("the TIFF file is truncated")
    return [struct.unpack_from(f"{order}H", data, first + index * size)[0] for index in range(count)]

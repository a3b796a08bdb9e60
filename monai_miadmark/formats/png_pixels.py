# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Pixels of PNG files of every color type and depth, without loss; and PNG's pixel chunks from samples.

What is marked are colors: palettes and samples of fewer than 8 bits are widened to the 8 bits that displays show, and
transparency is set aside.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from monai_miadmark.errors import TamperedError, UnsupportedImageError, check_memory
from monai_miadmark.formats.label_maps import looks_like_labels
from monai_miadmark.formats.limits import check_decoded
from monai_miadmark.formats.png_chunks import Chunk, read_chunks, write_chunks
from monai_miadmark.formats.png_filters import filtered, unfiltered

__all__ = ["MAX_PIXELS", "Pixels", "check_size", "decode_pixels", "encode_pixels"]

MAX_PIXELS = 89_000_000
"""Largest raster image that is decoded; just below the size at which Pillow warns of a decompression bomb."""

_GRAY, _RGB, _PALETTE, _GRAY_ALPHA, _RGBA = 0, 2, 3, 4, 6
_SAMPLES = {_GRAY: 1, _RGB: 3, _PALETTE: 1, _GRAY_ALPHA: 2, _RGBA: 4}
_DEPTHS = {_GRAY: (1, 2, 4, 8, 16), _RGB: (8, 16), _PALETTE: (1, 2, 4, 8), _GRAY_ALPHA: (8, 16), _RGBA: (8, 16)}
# First column, first row, steps right and down of the seven passes of an interlaced image.
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_IDAT_BYTES = 1 << 20

_MAX_SIDES = 100_000
"""Rows and columns together of what is unfiltered here, in so many steps: without a limit, a small file of one long
column would take hours."""


class Pixels(NamedTuple):
    """Decoded pixels.

    Attributes:
        values: ``(1, H, W, 1 or 3)`` uint8 or uint16.
        alpha: ``(H, W)`` of the same type, or ``None`` where everything is opaque.
        as_stored: the file has these very samples (no palette, transparent color or fewer than 8 bits).
        labels: the file has palette indices that look like labels.
    """

    values: NDArray[Any]
    alpha: NDArray[Any] | None
    as_stored: bool
    labels: bool = False


class _Header(NamedTuple):
    """IHDR."""

    width: int
    height: int
    depth: int
    color: int
    method: int
    filtering: int
    interlace: int


def check_size(width: int, height: int) -> None:
    """Raise UnsupportedImageError for images that are empty or too large to decode in bounded memory."""
    if not width or not height:
        raise UnsupportedImageError("the image has no pixels")
    if width * height > MAX_PIXELS:
        raise UnsupportedImageError(f"{width} x {height} pixels are more than the {MAX_PIXELS} that are supported")


def decode_pixels(chunks: list[Chunk]) -> Pixels:
    """Colors and transparency of a PNG.

    Args:
        chunks: from :func:`~monai_miadmark.formats.png_chunks.read_chunks`.

    Raises:
        UnsupportedImageError: another kind of PNG, by name.
        TamperedError: pixel data that do not decode.
    """
    header = _Header(*struct.unpack(">IIBBBBB", chunks[0].body))
    if header.depth not in _DEPTHS.get(header.color, ()):
        raise UnsupportedImageError(f"{header.depth}-bit PNG of color type {header.color} does not exist")
    if any(chunk.kind == b"acTL" for chunk in chunks):
        raise UnsupportedImageError("animated PNG is not supported")
    if header.method or header.filtering or header.interlace > 1:
        raise UnsupportedImageError("PNG with an unknown compression, filter or interlace method is not supported")
    check_size(header.width, header.height)
    packed = b"".join(chunk.body for chunk in chunks if chunk.kind == b"IDAT")
    # Deflate packs at most 1032:1, so fewer bytes than this cannot hold the pixels that the header declares.
    bits = header.width * header.height * _SAMPLES[header.color] * header.depth
    if bits > 8 * 1032 * (len(packed) + 1):
        raise TamperedError("the PNG pixel data are truncated")
    width = 1 if header.depth < 16 else 2
    check_decoded(header.width * header.height * max(3, _SAMPLES[header.color]) * width, len(packed))
    palette, transparent = _only(chunks, b"PLTE"), _only(chunks, b"tRNS")
    samples = _samples(header, packed)
    if header.color == _PALETTE:
        return _from_palette(samples[..., 0], palette, transparent)
    if transparent is not None:
        return _keyed(samples, header, transparent)
    if header.color in (_GRAY_ALPHA, _RGBA):
        return Pixels(np.ascontiguousarray(samples[None, ..., :-1]), np.ascontiguousarray(samples[..., -1]), True)
    return Pixels(_widened(samples, header.depth)[None], None, header.depth >= 8)


def encode_pixels(values: NDArray[Any], alpha: NDArray[Any] | None = None) -> list[Chunk]:
    """IHDR and IDAT of samples, the least color type that holds them.

    Args:
        values: ``(1, H, W, 1 or 3)`` uint8 or uint16.
        alpha: ``(H, W)`` of the same type, or ``None``.
    """
    samples = values[0] if alpha is None else np.concatenate([values[0], alpha[..., None]], axis=2)
    height, width, channels = samples.shape
    if samples.dtype == np.uint16:
        color = {1: _GRAY, 2: _GRAY_ALPHA, 3: _RGB, 4: _RGBA}[channels]
        raw = filtered(np.ascontiguousarray(samples.astype(">u2")).view(np.uint8).reshape(height, width, 2 * channels))
        packed = zlib.compress(raw, 6)
        header = Chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, color, 0, 0, 0))
        starts = range(0, len(packed), _IDAT_BYTES)
        return [header, *(Chunk(b"IDAT", packed[start : start + _IDAT_BYTES]) for start in starts)]
    plain = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(samples[..., 0] if channels == 1 else samples)).save(plain, "PNG")
    return [chunk for chunk in read_chunks(plain.getvalue())[0] if chunk.kind in (b"IHDR", b"IDAT")]


def _only(chunks: list[Chunk], kind: bytes) -> bytes | None:
    """Content of a chunk that may be there once."""
    found = [chunk.body for chunk in chunks if chunk.kind == kind]
    if len(found) > 1:
        raise TamperedError("the PNG file has a chunk twice that may be there once")
    return found[0] if found else None


def _samples(header: _Header, packed: bytes) -> NDArray[Any]:
    """``(H, W, samples)`` uint8 or uint16 as the file has them; 1 to 8 bits in uint8."""
    width, height, depth, color = header[:4]
    count = _SAMPLES[color]
    if depth == 16 and color != _GRAY:
        return _samples_of_16_bits(header, packed)
    # Only the chunks that make pixels reach Pillow: text chunks of any size cannot stop it. As gray, palette indices
    # of 8 bits are left as they are, with fewer bits they would be scaled: Pillow gets the palette's color type then.
    header_bytes = struct.pack(">IIBBBBB", *header)
    parts = [Chunk(b"IHDR", header_bytes), Chunk(b"IDAT", packed), Chunk(b"IEND", b"")]
    if color == _PALETTE:
        parts.insert(1, Chunk(b"PLTE", bytes(768)))
    try:
        with Image.open(io.BytesIO(write_chunks(parts)), formats=["PNG"]) as picture:
            found: NDArray[Any] = np.array(picture)
    except Exception as error:  # Pillow raises many kinds for damaged data; none may reach the caller raw
        check_memory(error)
        raise TamperedError("the PNG pixel data are damaged") from error
    if found.size != height * width * count or (depth == 16) != (found.dtype.itemsize > 1):
        raise TamperedError("the pixel data do not have the declared size")
    samples = found.reshape(height, width, count)
    if color == _GRAY and depth < 8:
        # Pillow shows them in 8 bits; back to what the file has.
        return (samples > 0).astype(np.uint8) if depth == 1 else samples // (255 // (2**depth - 1))
    return samples.astype(np.uint16 if depth == 16 else np.uint8)


def _samples_of_16_bits(header: _Header, packed: bytes) -> NDArray[np.uint16]:
    """``(H, W, samples)`` of an image with several samples of 16 bits, which Pillow would cut to 8."""
    if header.width + header.height > _MAX_SIDES:
        raise UnsupportedImageError(f"16-bit PNG of {header.width} x {header.height} pixels is not supported")
    size = 2 * _SAMPLES[header.color]
    passes = list(_passes(header))
    total = sum(rows * (1 + columns * size) for rows, columns, _ in passes)
    try:
        stream = zlib.decompressobj()
        raw = stream.decompress(packed, total)
        # The checksum is read with what follows the last pixel; more pixels than declared would be found here too.
        if len(raw) == total and (stream.decompress(stream.unconsumed_tail, 1) or not stream.eof):
            raise TamperedError("the PNG pixel data do not have the declared size")
    except zlib.error as error:
        check_memory(error)
        raise TamperedError("the PNG pixel data are damaged") from error
    if len(raw) != total:
        raise TamperedError("the PNG pixel data are truncated")
    pixels = np.empty((header.height, header.width, size), np.uint8)
    at = 0
    for rows, columns, where in passes:
        length = rows * (1 + columns * size)
        pixels[where] = unfiltered(raw[at : at + length], rows, columns, size)
        at += length
    return pixels.view(">u2").astype(np.uint16)


def _passes(header: _Header) -> Iterator[tuple[int, int, tuple[slice, slice]]]:
    """Rows, columns and place of each pass that is not empty; one for an image that is not interlaced."""
    if not header.interlace:
        yield header.height, header.width, (slice(None), slice(None))
        return
    for column, row, right, down in _ADAM7:
        rows, columns = len(range(row, header.height, down)), len(range(column, header.width, right))
        if rows and columns:
            yield rows, columns, (slice(row, None, down), slice(column, None, right))


def _from_palette(indices: NDArray[Any], palette: bytes | None, transparent: bytes | None) -> Pixels:
    """Colors of palette indices; one channel where the whole palette is gray."""
    if palette is None or not palette or len(palette) % 3 or len(palette) > 768:
        raise TamperedError("the PNG palette is missing or damaged")
    colors = np.frombuffer(palette, np.uint8).reshape(-1, 3)
    if indices.max() >= len(colors) or len(transparent or b"") > len(colors):
        raise TamperedError("the PNG palette does not fit its pixels")
    gray = bool((colors == colors[:, :1]).all())
    alpha = None
    if transparent is not None:
        opacity = np.full(len(colors), 255, np.uint8)
        opacity[: len(transparent)] = np.frombuffer(transparent, np.uint8)
        alpha = opacity[indices]
    labels = looks_like_labels(indices[None, ..., None])
    return Pixels((colors[:, :1] if gray else colors)[indices][None], alpha, False, labels)


def _keyed(samples: NDArray[Any], header: _Header, transparent: bytes) -> Pixels:
    """Colors of an image in which one color is transparent; marks would make or lose it, so it becomes alpha."""
    count = samples.shape[2]
    if header.color not in (_GRAY, _RGB) or len(transparent) != 2 * count:
        raise TamperedError("the transparent color of the PNG file is damaged")
    key = np.frombuffer(transparent, ">u2")
    values = _widened(samples, header.depth)
    opaque = (samples != key).any(axis=2)
    return Pixels(values[None], opaque.astype(values.dtype) * np.iinfo(values.dtype).max, False)


def _widened(samples: NDArray[Any], depth: int) -> NDArray[Any]:
    """Gray samples of fewer than 8 bits as displays show them: the largest becomes 255."""
    return samples * np.uint8(255 // (2**depth - 1)) if depth < 8 else samples

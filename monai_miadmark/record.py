# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The recovery record: everything that leads from protected samples back to the original file.

Layout of versions 1 and 2, integers little-endian::

    8 bytes   b"MIADREC" and a zero byte
    2 bytes   version
    4 bytes   length of the head
    head      JSON (ASCII): shapes, types, digests, and the table of the sections
    sections  bytes, one after the other, in the order of the table, up to the end

Version 2 is written where version 1 has no room for the mark: where ink blends within windows, or channels or groups of
slices have scales of their own. All else is written as version 1.

A record is read only after it was authenticated, and is still not trusted: every size is checked against the shape
that the head declares, and that shape against a limit, before memory is taken.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_miadmark import exact
from monai_miadmark.errors import TamperedError, UnsupportedImageError
from monai_miadmark.exact import ImageMark, SparseCorrection, check_mark
from monai_miadmark.field import Field
from monai_miadmark.image import MAX_CHANNELS, STORED_DTYPES, Bounds, StoredImage, pixel_digest
from monai_miadmark.logo import Logo
from monai_miadmark.sections import SectionReader, SectionWriter, keys, parse_json, planes, require, typed, unplanes
from monai_miadmark.shell import CARRIED_FILE, SourceShell

__all__ = ["DEFAULT_LIMIT", "VERSION", "RecoveryRecord", "check_shell"]

VERSION = 2
"""Newest version of the layout; 1 is read and written too, others are refused."""

DEFAULT_LIMIT = 1 << 34
"""Bytes that the samples, and all sections together, may take when a record is read (16 GiB)."""

_MAGIC = b"MIADREC\0"
_PREFIX = struct.Struct("<8sHI")
_MAX_HEAD = 1 << 24
_DIGEST_BYTES = 32
_BLOB = "blob:"
_HEAD_KEYS = {"shape", "dtype", "bounds", "padding", "mark", "correction", "shell", "digests", "sections"}


@dataclass(frozen=True, eq=False, repr=False)
class RecoveryRecord:
    """What is sealed beside a protected image.

    Attributes:
        shape: ``(N, H, W, C)`` of the samples.
        dtype: name of their type, of ``STORED_DTYPES``.
        bounds: bounds with which the mark was applied.
        padding: padding with which it was applied.
        mark: the mark; ``None`` where the whole source file is carried, or nothing was done.
        correction: unsigned integers ``(N, H, W, C)`` of the width of the samples, or those that are not zero, or
            ``None`` (all zero).
        shell: how to rebuild the source file; ``None`` for images that came from memory.
        original_pixels: :func:`~monai_miadmark.image.pixel_digest` of the original samples.
        protected_pixels: the same of the protected samples.
        original_file: SHA-256 of the source file (for ``.nii.gz`` of the decompressed bytes), ``None`` without one.

    Raises:
        ValueError: parts that do not fit each other.
    """

    shape: tuple[int, int, int, int]
    dtype: str
    bounds: Bounds
    padding: tuple[int, int] | None
    mark: ImageMark | None
    correction: NDArray[Any] | SparseCorrection | None
    shell: SourceShell | None
    original_pixels: bytes
    protected_pixels: bytes
    original_file: bytes | None = None

    def __post_init__(self) -> None:
        if self.dtype not in STORED_DTYPES:
            raise ValueError(f"samples of type {self.dtype!r} are not supported")
        if len(self.shape) != 4 or min(self.shape) < 1 or self.shape[3] > MAX_CHANNELS:
            raise ValueError(f"expected a shape (N, H, W, 1 to {MAX_CHANNELS}), not {self.shape}")
        if not self.bounds.low <= self.bounds.high:
            raise ValueError(f"empty bounds {self.bounds}")
        if self.mark is not None:
            check_mark(self.mark, self.shape, np.dtype(self.dtype))
        word = np.dtype(f"u{np.dtype(self.dtype).itemsize}")
        if self.correction is not None and (self.correction.shape != self.shape or self.correction.dtype != word):
            raise ValueError(f"a correction {self.correction.dtype} {self.correction.shape} does not fit {self.shape}")
        for digest in (self.original_pixels, self.protected_pixels, self.original_file):
            if digest is not None and len(digest) != _DIGEST_BYTES:
                raise ValueError(f"a digest has {_DIGEST_BYTES} bytes, not {len(digest)}")

    def __repr__(self) -> str:
        # No field, correction or header byte: each would give away part of what is sealed.
        return f"RecoveryRecord(shape={self.shape}, dtype={self.dtype!r}, shell={self.shell!r})"

    @classmethod
    def build(
        cls,
        image: StoredImage,
        mark: ImageMark,
        protected: NDArray[Any],
        shell: SourceShell | None = None,
        original_file: bytes | None = None,
    ) -> RecoveryRecord:
        """Record of an image and what :func:`~monai_miadmark.exact.apply_mark` made of it.

        Where the shell carries the whole source file, mark and correction would only cost room and are left out.

        Args:
            image: the original.
            mark: the mark that was applied.
            protected: samples as they will be read from the protected file.
            shell: how to rebuild the source file.
            original_file: SHA-256 of the source file.

        Raises:
            ValueError: parts that do not fit each other.
        """
        carried = shell is not None and CARRIED_FILE in shell.blobs
        correction = None
        if not carried:
            guess = exact.estimate(protected, mark, image.bounds, image.padding)
            correction = exact.find_correction(image.values, guess)
        n, height, width, channels = image.values.shape
        return cls(
            shape=(n, height, width, channels),
            dtype=image.values.dtype.name,
            bounds=image.bounds,
            padding=image.padding,
            mark=None if carried else mark,
            correction=correction if correction is not None and correction.any() else None,
            shell=shell,
            original_pixels=pixel_digest(image.values),
            protected_pixels=pixel_digest(protected),
            original_file=original_file,
        )

    @property
    def carries_file(self) -> bool:
        """Whether the whole source file is in the record, so that its format restores it and not :meth:`restore`."""
        return self.shell is not None and CARRIED_FILE in self.shell.blobs

    def check_protected(self, values: NDArray[Any], digest: bytes | None = None) -> None:
        """Make sure that ``values`` are the samples that were protected.

        Args:
            values: the samples.
            digest: their :func:`~monai_miadmark.image.pixel_digest`, where it is known already.

        Raises:
            TamperedError: they are not.
        """
        if values.shape != self.shape or values.dtype.name != self.dtype:
            raise TamperedError(
                f"the pixels are not those that were protected: {values.dtype.name} {values.shape}, "
                f"protected were {self.dtype} {self.shape}"
            )
        if (pixel_digest(values) if digest is None else digest) != self.protected_pixels:
            raise TamperedError("the pixels were changed after protection, or belong to another image")

    def check_original(self, values: NDArray[Any]) -> None:
        """Make sure that ``values`` are the original samples.

        Raises:
            TamperedError: they are not.
        """
        if pixel_digest(values) != self.original_pixels:
            raise TamperedError("the record does not lead back to the original pixels")

    def restore(self, values: NDArray[Any], checked: bool = False) -> NDArray[Any]:
        """Original samples of protected ones, bit for bit, checked before they are returned.

        Args:
            values: protected samples ``(N, H, W, C)``.
            checked: :meth:`check_protected` was called with these samples, which need not be hashed again.

        Returns:
            A new array of the same shape and type.

        Raises:
            TamperedError: the samples are not those that were protected, or the record does not lead to the original.
            ValueError: the original is the carried file (:attr:`carries_file`), which the format has to read.
        """
        if not checked:
            self.check_protected(values)
        original = self.undone(values)
        self.check_original(original)
        return original

    def undone(self, values: NDArray[Any]) -> NDArray[Any]:
        """What :meth:`restore` gives, with no digest compared: for callers who have one of more than the samples.

        Raises:
            ValueError: as of :meth:`restore`, or samples of another shape or type.
        """
        if self.mark is None and self.correction is None and self.carries_file:
            raise ValueError("the record carries the source file: read the original pixels from that")
        if self.mark is None:
            original = values.copy()
        else:
            original = exact.estimate(values, self.mark, self.bounds, self.padding)
        return original if self.correction is None else exact.add_correction(original, self.correction, out=original)

    def to_bytes(self) -> bytes:
        """Serialize; equal records give equal bytes with one version of Zstandard.

        Raises:
            UnsupportedImageError: the shell cannot be kept (its name has a path in it, or its facts are too large).
            ValueError: facts of the shell that are not JSON.
        """
        parts = SectionWriter()
        head: dict[str, Any] = {
            "shape": list(self.shape),
            "dtype": self.dtype,
            "bounds": [float(v).hex() for v in self.bounds],
            "padding": None if self.padding is None else [int(v) for v in self.padding],
            "mark": None if self.mark is None else _mark_head(self.mark, self.shape, parts),
            "correction": None if self.correction is None else _correction_head(self.correction, parts),
            "shell": None if self.shell is None else _shell_head(self.shell, parts),
            "digests": {
                "original_pixels": self.original_pixels.hex(),
                "protected_pixels": self.protected_pixels.hex(),
                "original_file": None if self.original_file is None else self.original_file.hex(),
            },
            "sections": parts.table,
        }
        text = json.dumps(head, separators=(",", ":"), sort_keys=True, allow_nan=False).encode("ascii")
        if len(text) > _MAX_HEAD:
            raise UnsupportedImageError(f"the facts about the source file take {len(text)} bytes, at most {_MAX_HEAD}")
        version = VERSION if self.mark is not None and _needs_lists(self.mark, self.shape) else 1
        return b"".join([_PREFIX.pack(_MAGIC, version, len(text)), text, *parts.chunks])

    @classmethod
    def from_bytes(
        cls, data: bytes, limit: int = DEFAULT_LIMIT, shape: tuple[int, ...] | None = None
    ) -> RecoveryRecord:
        """Inverse of :meth:`to_bytes`.

        Args:
            data: a whole record.
            limit: bytes that the samples may take, and all sections together; more is refused unread.
            shape: of the samples at hand; a record for others is refused unread.

        Raises:
            TamperedError: anything that ``to_bytes`` would not have written, or more than ``limit``.
        """
        try:
            return _read(data, limit, shape)
        except TamperedError:
            raise
        # Wrong types and values inside the head surface as these, in whatever part first meets them.
        except (ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError, struct.error) as error:
            raise TamperedError("the recovery record is damaged") from error


def _read(data: bytes, limit: int, samples: tuple[int, ...] | None) -> RecoveryRecord:
    """Parse a record for samples of a shape; errors of many types, which the caller unites."""
    require(len(data) >= _PREFIX.size, "length")
    magic, version, length = _PREFIX.unpack_from(data)
    require(magic == _MAGIC, "magic")
    if not 1 <= version <= VERSION:
        raise TamperedError(f"unknown record version {version}")
    view = memoryview(data)[_PREFIX.size :]
    require(length <= min(len(view), _MAX_HEAD), "length of the head")
    head = parse_json(view[:length])
    keys(head, _HEAD_KEYS)
    n, height, width, channels = (typed(v, int) for v in typed(head["shape"], list))
    shape = (n, height, width, channels)
    require(min(shape) >= 1 and channels <= MAX_CHANNELS and head["dtype"] in STORED_DTYPES, "shape")
    dtype = np.dtype(head["dtype"])
    require(math.prod(shape) * dtype.itemsize <= limit, "shape (larger than allowed)")
    require(samples is None or shape == samples, "shape (not that of the pixels)")
    sections = SectionReader(head["sections"], view[length:], limit)
    low, high = (float.fromhex(v) for v in typed(head["bounds"], list))
    padding = None
    if head["padding"] is not None:
        first, last = (typed(v, int) for v in typed(head["padding"], list))
        padding = (first, last)
    digests = keys(head["digests"], {"original_pixels", "protected_pixels", "original_file"})
    record = RecoveryRecord(
        shape=shape,
        dtype=dtype.name,
        bounds=Bounds(low, high),
        padding=padding,
        mark=None if head["mark"] is None else _read_mark(head["mark"], shape, sections, version),
        correction=None if head["correction"] is None else _read_correction(head["correction"], shape, dtype, sections),
        shell=None if head["shell"] is None else _read_shell(head["shell"], sections),
        original_pixels=bytes.fromhex(digests["original_pixels"]),
        protected_pixels=bytes.fromhex(digests["protected_pixels"]),
        original_file=None if digests["original_file"] is None else bytes.fromhex(digests["original_file"]),
    )
    require(not sections.names, "table")
    lists = record.mark is not None and _needs_lists(record.mark, shape)
    require(version == (VERSION if lists else 1), "version")
    return record


def _needs_lists(mark: ImageMark, shape: tuple[int, int, int, int]) -> bool:
    """Whether version 1 has no room for a mark."""
    several = isinstance(mark.step, tuple) or isinstance(mark.exponent, tuple)
    return several or mark.windows is not None or (mark.logo is not None and len(mark.logo.values) != shape[3])


def _mark_head(mark: ImageMark, shape: tuple[int, int, int, int], parts: SectionWriter) -> dict[str, Any]:
    """Head and sections of a mark."""
    head: dict[str, Any] = {"field": None, "logo": None, "mask": mark.mask is not None}
    lists = _needs_lists(mark, shape)
    for name, value in (("step", mark.step), ("exponent", mark.exponent)):
        several = [int(each) for each in value] if isinstance(value, tuple) else [int(value)]
        head[name] = several if lists else several[0]
    if lists:
        windows = mark.windows
        head["windows"] = None if windows is None else [[float(edge).hex() for edge in pair] for pair in windows]
    if mark.field is not None:
        head["field"] = list(mark.field.shape)
        parts.add("field", mark.field.pack(), pack=False)
    if (logo := mark.logo) is not None:
        head["logo"] = {
            "alpha": list(logo.alpha.shape),
            "opacity": int(logo.opacity),
            "values": [float(v).hex() for v in logo.values],
        }
        parts.add("alpha", logo.alpha.tobytes())
        parts.add("positions", logo.positions.astype("<i4").tobytes())
    if mark.mask is not None:
        parts.add("mask", np.packbits(mark.mask).tobytes())
    return head


def _read_mark(head: Any, shape: tuple[int, int, int, int], sections: SectionReader, version: int) -> ImageMark:
    """Inverse of :func:`_mark_head`."""
    keys(head, {"step", "exponent", "field", "logo", "mask"} | ({"windows"} if version > 1 else set()))
    n, height, width, channels = shape
    step: int | tuple[int, ...]
    exponent: int | tuple[int, ...]
    field = logo = mask = windows = None
    if version == 1:
        step, exponent = typed(head["step"], int), typed(head["exponent"], int)
    else:
        step, exponent = (_integers(head[name], n * channels) for name in ("step", "exponent"))
        if head["windows"] is not None:
            pairs = typed(head["windows"], list)
            require(1 <= len(pairs) <= n * channels and all(len(typed(pair, list)) == 2 for pair in pairs), "windows")
            windows = tuple((float.fromhex(low), float.fromhex(high)) for low, high in pairs)
    if head["field"] is not None:
        grid_n, grid_height, grid_width, planes = (typed(v, int) for v in typed(head["field"], list))
        # What unpacking takes follows from the grid: it must be no larger than the samples.
        require(grid_n == n and 1 <= grid_height <= height and 1 <= grid_width <= width, "field")
        require(planes in (1, channels), "field")
        field = Field.unpack(sections.take("field", None), (grid_n, grid_height, grid_width, planes))
    if head["logo"] is not None:
        keys(head["logo"], {"alpha", "opacity", "values"})
        rows, columns = (typed(v, int) for v in typed(head["logo"]["alpha"], list))
        require(min(rows, columns) >= 1, "logo")
        alpha = np.frombuffer(sections.take("alpha", rows * columns), np.uint8).reshape(rows, columns)
        positions = np.frombuffer(sections.take("positions", 8 * n), "<i4").reshape(n, 2).astype(np.int32)
        inks = typed(head["logo"]["values"], list)
        require(len(inks) <= n * channels and (version > 1 or len(inks) == channels), "logo")
        values = tuple(float.fromhex(v) for v in inks)
        logo = Logo(alpha, positions, typed(head["logo"]["opacity"], int), values)
    if typed(head["mask"], bool):
        packed = np.frombuffer(sections.take("mask", -(-n * height * width // 8)), np.uint8)
        mask = np.unpackbits(packed, count=n * height * width).view(np.bool_).reshape(n, height, width)
    return ImageMark(field, logo, mask, step, exponent, windows)


def _integers(items: Any, most: int) -> int | tuple[int, ...]:
    """Integers of a list with at most so many; a single one as such."""
    found = tuple(typed(item, int) for item in typed(items, list))
    require(1 <= len(found) <= most, "list")
    return found[0] if len(found) == 1 else found


def _correction_head(correction: NDArray[Any] | SparseCorrection, parts: SectionWriter) -> dict[str, Any]:
    """Head and sections of a correction: every sample, or a bit for each and the samples that are not zero."""
    if isinstance(correction, SparseCorrection):
        correction = correction.dense()
    where = correction != 0
    count = int(np.count_nonzero(where))
    bits, values = SectionWriter(), SectionWriter()
    bits.add("where", np.packbits(where).tobytes())
    values.add("values", planes(correction[where]))
    best = bits.chunks + values.chunks
    table = bits.table + values.table
    form = "sparse"
    if 8 * count > correction.size:  # else the bits cost less than a symbol for each zero
        dense = SectionWriter()
        dense.add("values", planes(correction.reshape(-1)))
        if len(dense.chunks[0]) < sum(map(len, best)):
            best, table, form = dense.chunks, dense.table, "dense"
    parts.chunks += best
    parts.table += table
    return {"form": form, "count": count if form == "sparse" else correction.size}


def _read_correction(
    head: Any, shape: tuple[int, int, int, int], dtype: np.dtype[Any], sections: SectionReader
) -> NDArray[Any] | SparseCorrection:
    """Inverse of :func:`_correction_head`."""
    keys(head, {"form", "count"})
    size, width = math.prod(shape), dtype.itemsize
    count = typed(head["count"], int)
    require(head["form"] in ("dense", "sparse") and 0 <= count <= size, "correction")
    if head["form"] == "dense":
        require(count == size, "correction")
        return unplanes(sections.take("values", size * width), width).reshape(shape)
    packed = np.frombuffer(sections.take("where", -(-size // 8)), np.uint8)
    if 64 * count > size:
        every = np.unpackbits(packed, count=size).view(np.bool_)
        require(int(np.count_nonzero(every)) == count, "correction")
        correction = np.zeros(size, f"u{width}")
        correction[every] = unplanes(sections.take("values", count * width), width)
        return correction.reshape(shape)
    # Few: a number for each takes less room than a word for each sample, and less time.
    filled = np.flatnonzero(packed != 0)
    require(len(filled) <= count, "correction")
    bit = np.flatnonzero(np.unpackbits(packed[filled]).view(np.bool_))
    where = 8 * filled[bit >> 3] + (bit & 7)
    require(len(where) == count and (not count or int(where[-1]) < size), "correction")
    return SparseCorrection(shape, where, unplanes(sections.take("values", count * width), width))


def check_shell(shell: SourceShell) -> None:
    """Raise UnsupportedImageError for a source file whose name a record cannot keep."""
    if not _is_base_name(shell.name):
        raise UnsupportedImageError("the source file has a name that cannot be kept (it holds a path separator)")


def _shell_head(shell: SourceShell, parts: SectionWriter) -> dict[str, Any]:
    """Head and sections of a shell."""
    check_shell(shell)
    for name, blob in shell.blobs.items():
        parts.add(_BLOB + name, bytes(blob))
    return {"format": shell.format, "name": shell.name, "meta": dict(shell.meta)}


def _read_shell(head: Any, sections: SectionReader) -> SourceShell:
    """Inverse of :func:`_shell_head`."""
    keys(head, {"format", "name", "meta"})
    name = typed(head["name"], str)
    # The restored file gets this name: it must not lead out of the folder that the recipient chose.
    require(_is_base_name(name), "name of the source file")
    blobs = {full[len(_BLOB) :]: sections.take(full, None) for full in sections.names if full.startswith(_BLOB)}
    return SourceShell(typed(head["format"], str), name, typed(head["meta"], dict), blobs)


def _is_base_name(name: str) -> bool:
    """Whether a name stays in its folder, on POSIX and on Windows."""
    return name not in (".", "..") and not any(character in name for character in "/\\\0")

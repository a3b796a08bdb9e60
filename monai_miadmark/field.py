# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The perturbation on the canonical grid: few levels times a coarse map of scales."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_miadmark.compression import compress, decompress
from monai_miadmark.errors import TamperedError
from monai_miadmark.threads import in_threads, usable_threads

__all__ = ["BLOCK", "LEVELS", "MAX_SCALE", "UNITS", "Field", "block_shape", "quantize", "spread"]

BLOCK = 4
"""Side of the square of cells that share one scale."""

LEVELS = (-2, -1, 0, 1, 2)
"""What a cell can be; 2 is the full scale of its block."""

UNITS = 510
"""Field units from black to white of the display window (two for one step of an 8-bit display)."""

MAX_SCALE = 127
"""Largest scale of a block in field units, so that a cell fits int8."""

_TOP = LEVELS[-1]
_DIGITS = len(LEVELS)
_PACK_HEAD = struct.Struct("<BBI")

_LARGE = 1 << 17
"""Bytes that take longer to compress than a thread to start."""

_TRIPLES = (np.indices((_DIGITS,) * 3).reshape(3, -1).T - _TOP).astype(np.int8)
"""Three levels for each number that three digits make, the first digit counting most."""


def block_shape(height: int, width: int) -> tuple[int, int]:
    """Size of the map of scales for a grid of ``height`` x ``width`` cells."""
    return -(-height // BLOCK), -(-width // BLOCK)


@dataclass(frozen=True, eq=False, repr=False)
class Field:
    """A perturbation in field units: ``levels * scales / 2``.

    Attributes:
        levels: int8 ``(N, h, w, F)`` in -2..2, zero where the scale is zero; F is 1 (all channels alike) or C.
        scales: uint8 ``(N, ceil(h / 4), ceil(w / 4))`` in 0..127: field units of level 2 in each block.

    Raises:
        ValueError: shapes, types or values that do not fit.
    """

    levels: NDArray[np.int8]
    scales: NDArray[np.uint8]

    def __post_init__(self) -> None:
        levels, scales = self.levels, self.scales
        if levels.dtype != np.int8 or levels.ndim != 4 or levels.size == 0:
            raise ValueError(f"levels must be non-empty int8 (N, h, w, F), not {levels.dtype} {levels.shape}")
        if scales.dtype != np.uint8 or scales.shape != (levels.shape[0], *block_shape(*levels.shape[1:3])):
            raise ValueError(f"scales {scales.dtype} {scales.shape} do not fit levels {levels.shape}")
        if int(scales.max()) > MAX_SCALE:
            raise ValueError(f"scales must be at most {MAX_SCALE}, found {int(scales.max())}")
        if int(levels.min()) < -_TOP or int(levels.max()) > _TOP:
            raise ValueError(f"levels must be in -{_TOP}..{_TOP}")
        if ((levels != 0) & ~self.active()[..., None]).any():
            raise ValueError("levels must be zero where the scale is zero")

    def __repr__(self) -> str:
        return f"Field(shape={self.shape})"  # the values undo the mark: they do not belong in a log

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """``(N, h, w, F)``."""
        n, height, width, planes = self.levels.shape
        return n, height, width, planes

    def active(self) -> NDArray[np.bool_]:
        """Cells ``(N, h, w)`` whose scale is not zero."""
        return spread(self.scales > 0, self.levels.shape)

    def cells(self) -> NDArray[np.int8]:
        """The perturbation in field units, int8 ``(N, h, w, F)`` in -127..127."""
        return _cells(self.levels, self.scales)

    def slice_cells(self, index: int) -> NDArray[np.int8]:
        """:meth:`cells` of one slice, ``(h, w, F)``, without the memory of the whole stack."""
        cells: NDArray[np.int8] = _cells(self.levels[index : index + 1], self.scales[index : index + 1])[0]
        return cells

    def pack(self) -> bytes:
        """Compact bytes: one to two bits for a cell of a usual field, nearly nothing where the scale is zero."""
        digits = (self.levels[self.active()].reshape(-1) + _TOP).astype(np.uint8)
        # Huffman codes spend at least one bit a symbol, so three cells in a byte often beat one.
        padded = np.concatenate([digits, np.full(-len(digits) % 3, _TOP, np.uint8)]).reshape(-1, 3)
        triples = (padded[:, 0] * _DIGITS + padded[:, 1]) * _DIGITS + padded[:, 2]
        level_mode, levels = _smallest(digits, triples)
        scale_mode, scales = _smallest(self.scales, np.diff(self.scales, axis=2, prepend=np.uint8(0)))
        return _PACK_HEAD.pack(level_mode, scale_mode, len(scales)) + scales + levels

    @classmethod
    def unpack(cls, data: bytes, shape: tuple[int, int, int, int]) -> Field:
        """Inverse of :meth:`pack`.

        Args:
            data: what ``pack`` gave.
            shape: ``(N, h, w, F)`` of the levels; nothing larger than it implies is allocated.

        Raises:
            TamperedError: the data are damaged or of another shape.
        """
        if len(data) < _PACK_HEAD.size:
            raise TamperedError("the field of the record is truncated")
        level_mode, scale_mode, scale_bytes = _PACK_HEAD.unpack_from(data)
        if level_mode > 1 or scale_mode > 1 or scale_bytes > len(data) - _PACK_HEAD.size:
            raise TamperedError("the field of the record is damaged")
        view = memoryview(data)[_PACK_HEAD.size :]
        n, height, width, planes = shape
        block_height, block_width = block_shape(height, width)
        packed = decompress(view[:scale_bytes], n * block_height * block_width)
        scales = np.frombuffer(packed, np.uint8).reshape(n, block_height, block_width)
        if scale_mode:
            scales = np.cumsum(scales, axis=2, dtype=np.uint8)  # modulo 256, as the differences are
        active = spread(scales > 0, shape)
        count = int(np.count_nonzero(active)) * planes
        digits = np.frombuffer(decompress(view[scale_bytes:], -(-count // 3) if level_mode else count), np.uint8)
        if digits.size and int(digits.max()) >= (len(_TRIPLES) if level_mode else _DIGITS):
            raise TamperedError("the field of the record is damaged")
        found = np.take(_TRIPLES, digits, axis=0).reshape(-1)[:count] if level_mode else digits.view(np.int8) - _TOP
        if count == active.size * planes:
            levels = found.reshape(shape)
        else:
            levels = np.zeros(shape, np.int8)
            # One plane is the usual case, and a mask of all axes several times as quick as one of all but the last.
            if planes == 1:
                levels[..., 0][active] = found
            else:
                levels[active] = found.reshape(-1, planes)
        try:
            return cls(levels, scales)
        except ValueError as error:
            raise TamperedError("the field of the record is damaged") from error


def quantize(fraction: NDArray[np.float32], scales: NDArray[np.uint8]) -> Field:
    """Round a perturbation to the nearest levels.

    Args:
        fraction: float32 ``(N, h, w, F)``, share of the scale in [-1, 1]; larger values are clipped.
        scales: uint8 ``(N, ceil(h / 4), ceil(w / 4))`` in 0..127, the budget of each block in field units.

    Returns:
        The field; zero where the scale is zero.

    Raises:
        ValueError: values that are not finite, or shapes that do not fit.
    """
    if fraction.ndim != 4 or not np.isfinite(fraction).all():
        raise ValueError("a perturbation must be finite and of shape (N, h, w, F)")
    if scales.ndim != 3 or scales.shape != (fraction.shape[0], *block_shape(*fraction.shape[1:3])):
        raise ValueError(f"scales {scales.shape} do not fit a perturbation {fraction.shape}")
    # Clip first: a cast of large floats to int8 is undefined.
    levels = np.rint(np.clip(fraction, -1, 1) * _TOP).astype(np.int8)
    levels *= spread(scales > 0, fraction.shape)[..., None]
    return Field(levels, scales)


def spread(blocks: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Repeat values of blocks ``(N, bh, bw)``, a byte each, over their cells ``(N, h, w)``."""
    # Four times the same byte is a word, in either byte order: much quicker than to repeat single bytes.
    words = np.multiply(blocks.view(np.uint8), 0x01010101, dtype=np.uint32, order="C")
    cells: NDArray[Any] = words.view(blocks.dtype).repeat(BLOCK, axis=1)[:, : shape[1], : shape[2]]
    return cells


def _cells(levels: NDArray[np.int8], scales: NDArray[np.uint8]) -> NDArray[np.int8]:
    """``levels * scales / 2``, halves away from zero; at most 2 * 127 before halving, so int16 holds it."""
    product = levels * spread(scales, levels.shape)[..., None].astype(np.int16)
    product += product > 0
    product >>= 1  # rounds down, which is away from zero for negative halves
    return product.astype(np.int8)


def _smallest(*candidates: NDArray[np.uint8]) -> tuple[int, bytes]:
    """Index and compressed bytes of the form that compresses best."""
    parts = [np.ascontiguousarray(form).data.cast("B") if form.size else b"" for form in candidates]
    packed = list(in_threads(compress, parts, usable_threads() if max(map(len, parts)) > _LARGE else 1))
    best = min(range(len(packed)), key=lambda index: len(packed[index]))
    return best, packed[best]

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Hypothesis strategies for stored images and marks, with values at the limits of every type."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from monai_miadmark.exact import MAX_STEP, ImageMark, step_for
from monai_miadmark.field import Field, block_shape
from monai_miadmark.image import STORED_DTYPES, Bounds, StoredImage, Window
from monai_miadmark.logo import Logo

# Bit patterns: zeros of both signs, subnormals, the smallest normal, the largest, infinities, quiet and signalling NaN.
_ZEROS, _SUBNORMALS, _NORMALS = [0, 1 << 31], [1, 0x807FFFFF], [0x00800000, 0x7F7FFFFF, 0xFF7FFFFF]
_NOT_FINITE = [0x7F800000, 0xFF800000, 0x7FC00001, 0xFFA5A5A5, 0x7F800001]
FLOAT_CORNERS = np.array(_ZEROS + _SUBNORMALS + _NORMALS + _NOT_FINITE, np.uint32)


def bits(values: NDArray[Any]) -> NDArray[Any]:
    """Bit patterns, so that NaN equals itself and 0.0 does not equal -0.0."""
    return values.view(f"u{values.dtype.itemsize}")


def _samples(kind: str, shape: tuple[int, ...], dtype: np.dtype[Any], rng: np.random.Generator) -> NDArray[Any]:
    """Samples of one sort."""
    if dtype.kind == "f":
        if kind == "limits":
            return rng.choice(FLOAT_CORNERS, shape).view(np.float32)
        if kind == "any":
            return rng.integers(0, 1 << 32, shape, np.uint32).view(np.float32)
        smooth = rng.normal(0, 10.0 ** rng.integers(-6, 7), shape).astype(np.float32)
        return np.where(rng.random(shape) < 0.1, rng.choice(FLOAT_CORNERS, shape).view(np.float32), smooth)
    info = np.iinfo(dtype)
    if kind == "limits":
        near = [info.min, info.min + 1, info.min + 2, 0, 1, info.max // 2, info.max - 2, info.max - 1, info.max]
        return rng.choice(np.array(near), shape).astype(dtype)
    if kind == "any":
        return rng.integers(info.min, info.max, shape, dtype, endpoint=True)
    return np.clip(rng.normal(100, 60, shape), info.min, info.max).astype(dtype)


@st.composite
def images(draw: st.DrawFn, longest: int = 21) -> StoredImage:
    """Stored images of every type and odd sizes from 1 x 1."""
    dtype = np.dtype(draw(st.sampled_from(STORED_DTYPES)))
    side = st.one_of(st.integers(1, 3), st.integers(1, longest))
    shape = (draw(st.integers(1, 3)), draw(side), draw(side), draw(st.integers(1, 4)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = _samples(draw(st.sampled_from(["limits", "any", "smooth"])), shape, dtype, rng)
    if draw(st.booleans()):  # arrays come in with any strides, and often read-only
        values = np.asfortranarray(values)
    values.flags.writeable = False
    finite = values[np.isfinite(values)].astype(np.float64)
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    bounds = draw(
        st.sampled_from(
            [(low, high), (-np.inf, np.inf), (-(2.0**31), 2.0**32), (low / 2 + 0.3, high + 0.4), (0.3, 0.4), (0, 255)]
        )
    )
    at = int(rng.choice(finite)) if finite.size else 0
    padding = draw(st.sampled_from([None, None, (at, at), (at - 3, at + 1), (0, 0), (-(10**12), -(10**11))]))
    inverted = draw(st.booleans())
    count = draw(st.sampled_from([1, shape[3], shape[0] * shape[3]]))  # one for all, for each channel, for each slice

    def window() -> Window:
        width = draw(st.sampled_from([2.0**-30, 1.0, 3.3, 255.0, 400.0, 65535.0, 2.0**32]))
        black = draw(st.sampled_from([low, low, (low + high) / 2, high]))
        return Window(black, max(black + width, black + abs(black) / 1024 + 2**-20), inverted)

    found = tuple(window() for _ in range(count))
    return StoredImage(values, Bounds(min(bounds), max(bounds)), found[0] if count == 1 else found, padding)


@st.composite
def fields(draw: st.DrawFn, n: int, height: int, width: int, channels: int) -> Field:
    """Fields on grids no larger than the image."""
    shape = (n, draw(st.integers(1, height)), draw(st.integers(1, width)), draw(st.sampled_from([1, channels])))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    top = draw(st.sampled_from([0, 1, 20, 127]))
    scales = rng.integers(0, top, (n, *block_shape(*shape[1:3])), np.uint8, endpoint=True)
    active = scales.repeat(4, 1).repeat(4, 2)[:, : shape[1], : shape[2], None] > 0
    return Field(rng.integers(-2, 2, shape, np.int8, endpoint=True) * active, scales)


@st.composite
def logos(draw: st.DrawFn, n: int, channels: int, groups: int = 1) -> Logo:
    """Logos at, across and beyond the borders of the image, with ink of any value."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    alpha = rng.integers(0, 255, (draw(st.integers(1, 9)), draw(st.integers(1, 9))), np.uint8, endpoint=True)
    positions = rng.integers(-2, 12, (n, 2)).astype(np.int32)
    ink = st.sampled_from([0.0, 255.0, -(2.0**31), 2.0**32 - 1, 3.4e38, 1e300, 0.1])
    return Logo(alpha, positions, draw(st.integers(0, 191)), tuple(draw(ink) for _ in range(groups * channels)))


@st.composite
def marks(draw: st.DrawFn, image: StoredImage) -> ImageMark:
    """Marks with any of their parts, that fit an image."""
    n, height, width, channels = image.values.shape
    field = draw(st.none() | fields(n, height, width, channels))
    groups = len(image.windows) // channels or 1
    logo = draw(st.none() | logos(n, channels, groups))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    mask = rng.random((n, height, width)) < 0.5 if draw(st.booleans()) else None
    steps, exponents = zip(*(step_for(window, image.values.dtype) for window in image.windows), strict=True)
    if draw(st.booleans()):
        steps = tuple(draw(st.integers(0, MAX_STEP)) for _ in steps)
        exponents = tuple(draw(st.integers(-1074, 1000)) if image.values.dtype.kind == "f" else 0 for _ in steps)
    windows = tuple((window.low, window.high) for window in image.windows)
    return ImageMark(field, logo, mask, steps, exponents, draw(st.sampled_from([None, windows, windows])))


@st.composite
def marked_images(draw: st.DrawFn, longest: int = 21) -> tuple[StoredImage, ImageMark]:
    """An image and a mark for it."""
    image = draw(images(longest))
    return image, draw(marks(image))

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_miadmark.interpolate import FRACTION_BITS, Upsampler, canonical_shape, upsample, upsample_rows


def _weights(cells: int, samples: int, index: int) -> dict[int, int]:
    """Weights of cells for a sample in 1/256, from exact fractions."""
    position = (Fraction(2 * index + 1, 2) * cells / samples - Fraction(1, 2)) * 256
    fixed = (2 * position + 1) // 2  # to the nearest, halves up
    fixed = min(max(fixed, 0), 256 * (cells - 1))
    found = {fixed // 256: 256 - fixed % 256}
    if fixed % 256:
        found[fixed // 256 + 1] = fixed % 256
    return found


def _reference(grid: np.ndarray, height: int, width: int) -> list[list[int]]:
    """Bilinear interpolation in Python integers."""
    h, w = grid.shape
    return [
        [
            sum(
                int(grid[r, c]) * a * b
                for r, a in _weights(h, height, i).items()
                for c, b in _weights(w, width, j).items()
            )
            for j in range(width)
        ]
        for i in range(height)
    ]


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(*[st.integers(1, 9)] * 2),
    st.tuples(*[st.integers(1, 23)] * 2),
    st.sampled_from(["int8", "uint8", "int16", "int64"]),
    st.integers(0, 2**32),
)
def test_equals_exact_fractions(grid_shape, size, dtype, seed):
    limits = np.iinfo(dtype) if dtype != "int64" else None
    low, high = (limits.min, limits.max) if limits else (-(2**46) + 1, 2**46 - 1)
    grid = np.random.default_rng(seed).choice([low, high, 0, 1], grid_shape).astype(dtype)
    result = upsample(grid, *size)
    assert result.dtype == np.int64 and result.shape == size
    assert result.tolist() == _reference(grid, *size)


def test_hand_computed_row():
    # Two cells to four samples: positions -1/4, 1/4, 3/4, 5/4.
    assert upsample(np.array([[0, 4]], np.int8), 1, 4).tolist() == [[0, 1 << 16, 3 << 16, 4 << 16]]


def test_identity_and_constant():
    grid = np.random.default_rng(0).integers(-127, 128, (2, 7, 5)).astype(np.int8)
    assert np.array_equal(upsample(grid, 7, 5), grid.astype(np.int64) << 16)
    assert np.array_equal(upsample(np.full((1, 3, 4), -127, np.int8), 50, 61), np.full((1, 50, 61), -127 << 16))


@settings(max_examples=40, deadline=None)
@given(st.tuples(*[st.integers(1, 9)] * 2), st.tuples(*[st.integers(1, 40)] * 2), st.data())
def test_bands_equal_the_whole(grid_shape, size, data):
    start = data.draw(st.integers(0, size[0] - 1))
    stop = data.draw(st.integers(start + 1, size[0]))
    grid = np.random.default_rng(1).integers(0, 256, (3, *grid_shape)).astype(np.uint8)
    assert np.array_equal(upsample_rows(grid, *size, start, stop), upsample(grid, *size)[:, start:stop])


@settings(max_examples=80, deadline=None)
@given(
    st.tuples(*[st.integers(1, 9)] * 2),
    st.tuples(*[st.integers(1, 40)] * 2),
    st.sampled_from(["int8", "uint8"]),
    st.data(),
)
def test_parts_equal_the_whole(grid_shape, size, dtype, data):
    top, left = (data.draw(st.integers(0, side - 1)) for side in size)
    bottom, right = data.draw(st.integers(top + 1, size[0])), data.draw(st.integers(left + 1, size[1]))
    limits = np.iinfo(dtype)
    grid = np.random.default_rng(1).choice([limits.min, limits.max, 0, 1], grid_shape).astype(dtype)
    before = grid.copy()
    upsampler = Upsampler(grid_shape, size)
    part = upsampler.rows(grid, top, bottom, slice(left, right))
    assert np.array_equal(grid, before)
    whole = upsample(grid, *size) >> (FRACTION_BITS - upsampler.bits)
    assert np.array_equal(part, whole[top:bottom, left:right])


@pytest.mark.parametrize(("samples", "bits"), [(256, 0), (512, 4), (1024, 6), (2048, 8), (4096, 10), (300, 16)])
def test_as_many_bits_as_weights_need(samples, bits):
    upsampler = Upsampler((256, 256), (samples, samples))
    assert upsampler.bits == bits
    part = upsampler.rows(np.full((256, 256), -128, np.int8), 0, 2)
    assert (part == -128 << bits).all() and part.dtype == (np.int16 if bits <= 8 else np.int32)


@given(st.integers(1, 12), st.integers(1, 60), st.data())
def test_touched_samples(cells, samples, data):
    first = data.draw(st.integers(0, cells - 1))
    last = data.draw(st.integers(first, cells - 1))
    grid = np.zeros((cells, 1), np.uint8)
    grid[first : last + 1] = 255
    touched = Upsampler((cells, 1), (samples, 1)).touched(0, first, last)
    inked = np.flatnonzero(upsample(grid, samples, 1)[:, 0])
    assert not inked.size or touched.start <= inked[0] <= inked[-1] < touched.stop
    assert touched.stop - touched.start <= inked.size + samples / cells + 2  # half a cell at each end, and rounding


def test_frozen_vector():
    """Any change here makes every record written before unreadable."""
    grid = (np.arange(35).reshape(5, 7) * 37 % 255 - 127).astype(np.int8)
    result = upsample(grid, 13, 17)
    assert [int(result[i, j]) for i, j in ((0, 0), (1, 5), (6, 8), (9, 2), (12, 16))] == [
        -8323072,
        -4021248,
        -524288,
        -6208512,
        7274496,
    ]
    assert int(result.sum()) == -115867648


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1, 1), (1, 1)),
        ((256, 256), (256, 256)),
        ((256, 255), (256, 255)),
        ((257, 257), (256, 256)),
        ((512, 512), (256, 256)),
        ((4096, 3072), (256, 192)),
        ((10000, 1), (256, 1)),
        ((3, 100000), (1, 256)),
        ((513, 511), (256, 255)),
    ],
)
def test_canonical_shape(size, expected):
    assert canonical_shape(*size) == expected


@given(st.integers(1, 70000), st.integers(1, 70000), st.integers(1, 512))
def test_canonical_shape_fits(height, width, limit):
    h, w = canonical_shape(height, width, limit)
    assert 1 <= h <= min(height, limit) and 1 <= w <= min(width, limit)


def test_wrong_arguments():
    grid = np.zeros((2, 2), np.int8)
    with pytest.raises(TypeError, match="integer"):
        upsample(grid.astype(np.float32), 4, 4)
    for bad in ((0, 4), (4, 0)):
        with pytest.raises(ValueError):
            upsample(grid, *bad)
    with pytest.raises(ValueError):
        upsample(np.zeros((0, 2), np.int8), 4, 4)
    with pytest.raises(ValueError):
        upsample(np.zeros(4, np.int8), 4, 4)
    for rows in ((-1, 2), (2, 2), (3, 5)):
        with pytest.raises(ValueError, match="rows"):
            upsample_rows(grid, 4, 4, *rows)
    with pytest.raises(ValueError):
        canonical_shape(0, 4)

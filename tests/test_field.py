# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import strategies
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_miadmark.errors import TamperedError
from monai_miadmark.field import Field, block_shape, quantize

shapes = st.tuples(st.integers(1, 3), st.integers(1, 19), st.integers(1, 19), st.integers(1, 4))


def _any_field(shape: tuple[int, int, int, int], seed: int = 0, top: int = 127) -> Field:
    rng = np.random.default_rng(seed)
    scales = rng.integers(0, top, (shape[0], *block_shape(*shape[1:3])), np.uint8, endpoint=True)
    return quantize(rng.uniform(-1, 1, shape).astype(np.float32), scales)


@settings(max_examples=60, deadline=None)
@given(shapes.flatmap(lambda shape: strategies.fields(*shape)))
def test_pack_round_trip(field):
    again = Field.unpack(field.pack(), field.shape)
    assert np.array_equal(again.levels, field.levels) and np.array_equal(again.scales, field.scales)


@settings(max_examples=30, deadline=None)
@given(shapes.flatmap(lambda shape: strategies.fields(*shape)))
def test_cells_round_halves_away_from_zero(field):
    cells = field.cells()
    assert cells.dtype == np.int8 and cells.shape == field.shape
    for (n, i, j, f), level in np.ndenumerate(field.levels):
        double = int(level) * int(field.scales[n, i // 4, j // 4])
        expected = (abs(double) + 1) // 2 * (1 if double > 0 else -1)
        assert cells[n, i, j, f] == expected
    assert np.array_equal(np.stack([field.slice_cells(n) for n in range(field.shape[0])]), cells)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_bytes_are_tampered(data):
    field = _any_field((2, 9, 11, 3), data.draw(st.integers(0, 3)), 20)
    packed = bytearray(field.pack())
    if data.draw(st.booleans()):
        packed = packed[: data.draw(st.integers(0, len(packed) - 1))]
    for _ in range(data.draw(st.integers(0 if len(packed) < len(field.pack()) else 1, 4))):
        if packed:
            packed[data.draw(st.integers(0, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        again = Field.unpack(bytes(packed), field.shape)
    except TamperedError:
        return
    assert again.shape == field.shape  # a flipped literal may still be a field; the digest of the pixels catches that


def test_other_shape_is_tampered():
    packed = _any_field((1, 16, 16, 1)).pack()
    for shape in ((1, 16, 64, 1), (2, 16, 16, 1), (1, 32, 32, 3), (1, 10**5, 10**5, 4)):
        with pytest.raises(TamperedError):
            Field.unpack(packed, shape)


def test_zeros_cost_next_to_nothing():
    blank = quantize(np.ones((4, 256, 256, 1), np.float32), np.zeros((4, 64, 64), np.uint8))
    assert not blank.levels.any() and len(blank.pack()) < 64
    half = _any_field((1, 256, 256, 1))
    half.scales[:, 32:] = 0
    half.levels[:, 128:] = 0
    assert len(half.pack()) < 0.6 * len(_any_field((1, 256, 256, 1)).pack())


def test_uniform_levels_cost_their_entropy():
    rng = np.random.default_rng(5)
    field = Field(rng.integers(-2, 3, (1, 256, 256, 1)).astype(np.int8), np.full((1, 64, 64), 16, np.uint8))
    assert len(field.pack()) < 256 * 256 * np.log2(5) / 8 * 1.01 + 64


def test_quantize_rounds_and_clips():
    fraction = np.array([-3, -1, -0.76, -0.7, -0.26, -0.2, 0, 0.24, 0.3, 0.74, 0.8, 1.5], np.float32).reshape(
        1, 1, 12, 1
    )
    field = quantize(fraction, np.full((1, 1, 3), 8, np.uint8))
    assert field.levels.ravel().tolist() == [-2, -2, -2, -1, -1, 0, 0, 0, 1, 1, 2, 2]
    assert field.cells().ravel().tolist() == [-8, -8, -8, -4, -4, 0, 0, 0, 4, 4, 8, 8]


def test_quantize_refuses():
    scales = np.ones((1, 1, 1), np.uint8)
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="finite"):
            quantize(np.full((1, 2, 2, 1), bad, np.float32), scales)
    with pytest.raises(ValueError, match="fit"):
        quantize(np.zeros((1, 9, 2, 1), np.float32), scales)
    with pytest.raises(ValueError, match="127"):
        quantize(np.zeros((1, 2, 2, 1), np.float32), scales * 128)


def test_field_refuses():
    levels, scales = np.zeros((1, 4, 4, 1), np.int8), np.ones((1, 1, 1), np.uint8)
    for bad_levels, bad_scales in (
        (levels.astype(np.int16), scales),
        (levels[0], scales),
        (levels[:, :0], scales),
        (levels, scales.astype(np.int8)),
        (levels, np.ones((1, 2, 1), np.uint8)),
        (levels + np.int8(3), scales),
        (levels - np.int8(3), scales),
        (levels + np.int8(1), scales * np.uint8(0)),
    ):
        with pytest.raises(ValueError):
            Field(bad_levels, bad_scales)


def test_repr_shows_no_values():
    assert repr(_any_field((1, 4, 4, 1))) == "Field(shape=(1, 4, 4, 1))"

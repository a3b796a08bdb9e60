# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import strategies
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import bits

from monai_miadmark.exact import (
    MAX_STEP,
    ImageMark,
    SparseCorrection,
    _quotients,
    add_correction,
    apply_mark,
    check_mark,
    estimate,
    find_correction,
    step_for,
)
from monai_miadmark.field import Field, quantize
from monai_miadmark.image import STORED_DTYPES, Bounds, StoredImage, Window, pixel_digest
from monai_miadmark.interpolate import upsample
from monai_miadmark.logo import Logo


def _restored(image: StoredImage, mark: ImageMark, protected: np.ndarray) -> np.ndarray:
    """What a recipient gets: the correction is found once, the estimate is made again."""
    correction = find_correction(image.values, estimate(protected, mark, image.bounds, image.padding))
    return add_correction(estimate(protected.copy(), mark, image.bounds, image.padding), correction)


def _field(values: np.ndarray, scale: int = 20, seed: int = 0, grid: tuple[int, int] | None = None) -> Field:
    n, height, width, _ = values.shape
    h, w = grid or (height, width)
    levels = np.random.default_rng(seed).uniform(-1, 1, (n, h, w, 1)).astype(np.float32)
    return quantize(levels, np.full((n, -(-h // 4), -(-w // 4)), scale, np.uint8))


@settings(max_examples=400, deadline=None)
@given(strategies.marked_images())
def test_restored_is_original_and_the_rest_stays(pair):
    image, mark = pair
    values = image.values
    before = pixel_digest(values)
    protected = apply_mark(image, mark)
    assert pixel_digest(values) == before
    assert protected.dtype == values.dtype and protected.shape == values.shape
    assert np.array_equal(bits(_restored(image, mark, protected)), bits(values))

    wide = np.where(np.isfinite(values), values, 0).astype(np.float64)
    still = ~np.isfinite(values) | ~((wide >= image.bounds.low) & (wide <= image.bounds.high))
    if mark.mask is not None:
        still |= mark.mask[..., None]
    if image.padding is not None:
        still |= (wide >= image.padding[0]) & (wide <= image.padding[1])
    assert np.array_equal(bits(protected)[still], bits(values)[still])
    moved = protected[~still].astype(np.float64)
    assert np.isfinite(moved).all()
    assert ((moved >= image.bounds.low) & (moved <= image.bounds.high)).all()
    if image.padding is not None:
        assert not ((moved >= image.padding[0]) & (moved <= image.padding[1])).any()


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(STORED_DTYPES), st.integers(0, 2**32), st.integers(1, 4), st.booleans())
def test_large_and_narrow_images(dtype, seed, channels, tall):
    """More than one band, and grids that are smaller than the image."""
    shape = (1, 3001, 67, channels) if tall else (1, 67, 3001, channels)
    rng = np.random.default_rng(seed)
    words = rng.integers(0, 256, (*shape, np.dtype(dtype).itemsize), np.uint8)
    values = words.view(dtype).reshape(shape)
    image = StoredImage(values, Bounds(-np.inf, np.inf), Window(0, 255), (3, 9))
    logo = Logo(np.full((5, 30), 255, np.uint8), np.array([[1, 1]], np.int32), 150, (255.0,) * channels)
    field = _field(values, 100, seed, grid=(256, 6) if tall else (6, 256))
    mark = ImageMark(field, logo, None, *step_for(image.window, values.dtype))
    protected = apply_mark(image, mark)
    assert not np.array_equal(bits(protected), bits(values))
    assert np.array_equal(bits(_restored(image, mark, protected)), bits(values))


@pytest.mark.parametrize("dtype", [d for d in STORED_DTYPES if d != "float32"])
@pytest.mark.parametrize("step", [0, 1, 51400, MAX_STEP])
def test_integers_equal_arithmetic_without_limits(dtype, step):
    """Against Python integers, which cannot overflow: samples at the limits, cells of 127, the largest step."""
    info = np.iinfo(dtype)
    rng = np.random.default_rng(7)
    values = rng.choice([info.min, info.min + 1, 0, 100, info.max - 1, info.max], (1, 7, 9, 2)).astype(dtype)
    field = _field(values, 127, grid=(3, 4))
    logo = Logo(np.full((3, 4), 255, np.uint8), np.array([[0, 1]], np.int32), 191, (float(info.max), float(info.min)))
    mark = ImageMark(field, logo, None, step)
    image = StoredImage(values, Bounds(info.min + 1, info.max), Window(0, 1))
    protected = apply_mark(image, mark)
    wide = upsample(field.cells()[0, :, :, 0], 7, 9)
    ink = upsample(logo.coverage(0, 3, 4), 7, 9)
    for (_, i, j, c), sample in np.ndenumerate(values):
        x = int(sample)
        cover = int(ink[i, j]) * 191 >> 16
        y = x + (((max(info.min + 1, int(logo.values[c])) - x) * cover + (1 << 15)) >> 16)
        y += (int(wide[i, j]) * step + (1 << 31)) >> 32
        expected = x if x == info.min else min(max(y, info.min + 1), info.max)
        assert protected[0, i, j, c] == expected
    assert np.array_equal(_restored(image, mark, protected), values)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint32"])
def test_no_correction_where_nothing_clips(dtype):
    values = np.random.default_rng(0).integers(60, 100, (2, 33, 31, 3)).astype(dtype)
    image = StoredImage(values, Bounds(0, 127), Window(0, 255))
    mark = ImageMark(_field(values), None, None, *step_for(image.window, values.dtype))
    protected = apply_mark(image, mark)
    assert (protected != values).mean() > 0.5
    assert not find_correction(values, estimate(protected, mark, image.bounds, None)).any()


def test_no_correction_for_floats_with_bits_to_spare():
    values = np.random.default_rng(0).integers(-1000, 3000, (1, 64, 64, 1)).astype(np.float32)
    image = StoredImage(values, Bounds(-10000, 10000), Window(-160, 240))
    mark = ImageMark(_field(values), None, None, *step_for(image.window, values.dtype))
    protected = apply_mark(image, mark)
    assert (protected != values).mean() > 0.5
    assert not find_correction(values, estimate(protected, mark, image.bounds, None)).any()


def test_saturated_background_needs_no_correction():
    values = np.zeros((1, 64, 64, 1), np.uint8)
    values[:, :, 32:] = 255
    image = StoredImage(values, Bounds(0, 255), Window(0, 255))
    mark = ImageMark(_field(values), None, None, *step_for(image.window, values.dtype))
    protected = apply_mark(image, mark)
    assert not np.array_equal(protected, values)
    assert not find_correction(values, estimate(protected, mark, image.bounds, None)).any()


def test_blend_is_undone_to_a_few_units():
    values = np.random.default_rng(0).integers(0, 4096, (1, 40, 50, 1)).astype(np.uint16)
    image = StoredImage(values, Bounds(0, 4095), Window(0, 4095))
    logo = Logo(np.full((40, 50), 255, np.uint8), np.zeros((1, 2), np.int32), 191, (4095.0,))
    mark = ImageMark(None, logo)
    guess = estimate(apply_mark(image, mark), mark, image.bounds, None)
    assert np.abs(guess.astype(int) - values.astype(int)).max() <= 2


@pytest.mark.parametrize("dtype", STORED_DTYPES)
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32))
def test_correction_is_exact_for_any_pair(dtype, seed):
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 256, (2, 2, 5, 7, 1, np.dtype(dtype).itemsize), np.uint8)
    x, guess = raw.view(dtype)[..., 0]
    if dtype == "float32":
        x = rng.choice(strategies.FLOAT_CORNERS, x.shape).view(np.float32)
    correction = find_correction(x, guess)
    assert correction.dtype == np.dtype(f"u{x.dtype.itemsize}")
    assert np.array_equal(bits(add_correction(guess, correction)), bits(x))
    assert not find_correction(x, x).any()


@pytest.mark.parametrize("dtype", STORED_DTYPES)
def test_few_corrections(dtype):
    rng = np.random.default_rng(3)
    guess = rng.integers(0, 256, (2, 5, 7, 3, np.dtype(dtype).itemsize), np.uint8).view(dtype)[..., 0]
    where = np.array([0, 17, 209])
    few = SparseCorrection(guess.shape, where, np.array([1, 200, 3]).astype(f"u{guess.itemsize}"))
    expected = add_correction(guess, few.dense())
    before = bits(guess).copy()
    assert np.array_equal(bits(add_correction(guess, few)), bits(expected))
    assert np.array_equal(bits(guess), before) and np.flatnonzero(bits(expected) != before).tolist() == where.tolist()
    assert add_correction(guess, few, out=guess) is guess and np.array_equal(bits(guess), bits(expected))


def test_quotients_are_those_of_integers():
    """Every denominator, at whole and half quotients and beside them, up to the largest numerators."""
    denominators = np.arange((1 << 16) - 255 * 191, (1 << 16) + 1)
    rng = np.random.default_rng(0)
    for exponent in (4, 20, 33, 49):
        near = rng.integers(-(1 << exponent), 1 << exponent, len(denominators)) // denominators * denominators
        for offset in (0, -1, 1):
            for half in (0, denominators // 2, -(denominators // 2)):
                numerators = near + half + offset
                expected = (2 * numerators + denominators) // (2 * denominators)
                assert np.array_equal(_quotients(numerators.astype(float), denominators.astype(float)), expected)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32"])
@pytest.mark.parametrize("padding", [None, (0, 0), (-5, 3), (120, 121)])
def test_samples_far_from_limits_equal_those_near_them(dtype, padding):
    """The quick way is taken where no sample is near a limit; one that is must not change what others become."""
    values = np.random.default_rng(0).integers(50, 110, (1, 60, 64, 2)).astype(dtype)
    image = StoredImage(values, Bounds(np.iinfo(dtype).min, np.iinfo(dtype).max), Window(0, 255), padding)
    mask = np.zeros((1, 60, 64), np.bool_)
    mask[0, 20:30] = True
    mark = ImageMark(_field(values, grid=(30, 32)), None, mask, *step_for(image.window, values.dtype))
    corner = values.copy()
    corner[0, 0, 0] = np.iinfo(dtype).max
    quick = apply_mark(image, mark)
    slow = apply_mark(StoredImage(corner, image.bounds, image.window, padding), mark)
    assert np.array_equal(quick[0, 1:], slow[0, 1:]) and not np.array_equal(quick, values)
    back = [estimate(marked, mark, image.bounds, padding) for marked in (quick, slow)]
    assert np.array_equal(back[0][0, 1:], back[1][0, 1:]) and np.array_equal(back[0], values)


def test_float_corrections_of_near_values_are_small():
    x = np.array([[1.0, -1.0, 0.0, 1e30]], np.float32)
    near = np.nextafter(x, np.float32(np.inf))
    assert find_correction(near, x).tolist() == [[1, 1, 1, 1]]
    assert find_correction(x, near).astype(np.int32).tolist() == [[-1, -1, -1, -1]]


def test_subnormal_samples_neither_move_nor_arise():
    tiny = np.finfo(np.float32).tiny
    values = np.array([tiny / 2, -tiny / 4, tiny, 0.0, 3 * tiny, -0.0], np.float32).reshape(1, 1, 6, 1)
    image = StoredImage(values, Bounds(-1, 1), Window(0, float(tiny)))
    mark = ImageMark(_field(values, 127), None, None, *step_for(image.window, values.dtype))
    protected = apply_mark(image, mark)
    assert np.array_equal(bits(protected)[..., :2, :], bits(values)[..., :2, :])
    assert not ((protected != 0) & (np.abs(protected) < tiny))[..., 2:, :].any()
    assert np.array_equal(bits(_restored(image, mark, protected)), bits(values))


def test_negative_zero_keeps_its_sign_where_nothing_is_added():
    values = np.full((1, 8, 8, 1), -0.0, np.float32)
    levels = np.zeros((1, 8, 8, 1), np.int8)
    levels[0, 0, 0] = 2
    mark = ImageMark(Field(levels, np.full((1, 2, 2), 9, np.uint8)), None, None, *step_for(Window(-1, 1), np.float32))
    protected = apply_mark(StoredImage(values, Bounds(-1, 1), Window(-1, 1)), mark)
    assert protected[0, 0, 0, 0] > 0 and np.signbit(protected.ravel()[1:]).all()


@pytest.mark.parametrize("dtype", [d for d in STORED_DTYPES if d != "float32"])
@pytest.mark.parametrize("width", [1.0, 255.0, 400.0, 65535.0, 2.0**32 - 1])
def test_step_is_the_share_of_the_window(dtype, width):
    step, exponent = step_for(Window(0, width), np.dtype(dtype))
    assert exponent == 0 and abs(step - width / 510 * 65536) <= 0.5 and step <= MAX_STEP


@pytest.mark.parametrize("width", [1e-30, 0.1, 1.0, 400.0, 1e30])
def test_float_lattice(width):
    step, exponent = step_for(Window(0, width), np.float32)
    assert 2**8 <= step / 65536 <= 2**9
    assert abs(step * 2.0**exponent / 65536 / (width / 510) - 1) < 1e-6


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_extreme_windows_give_marks_that_are_allowed(dtype):
    for window in (Window(-1.7e308, 1.7e308), Window(0, 5e-324), Window(0, 2.0**100)):
        ImageMark(None, None, None, *step_for(window, dtype))


def test_marks_that_do_not_fit():
    values = np.zeros((2, 8, 9, 3), np.uint8)
    image = StoredImage(values, Bounds(0, 255), Window(0, 255))
    logo = Logo(np.ones((2, 2), np.uint8), np.zeros((2, 2), np.int32), 9, (1.0, 1.0, 1.0))
    good = ImageMark(_field(values), logo, np.zeros((2, 8, 9), bool), 1)
    check_mark(good, values.shape, values.dtype)
    for bad in (
        ImageMark(_field(values[:1])),
        ImageMark(_field(values, grid=(9, 9))),
        ImageMark(_field(values, grid=(8, 10))),
        ImageMark(Field(np.zeros((2, 8, 9, 2), np.int8), np.zeros((2, 2, 3), np.uint8))),
        ImageMark(None, Logo(logo.alpha, logo.positions[:1], 9, logo.values)),
        ImageMark(None, Logo(logo.alpha, logo.positions, 9, (1.0,))),
        ImageMark(None, None, np.zeros((2, 9, 8), bool)),
        ImageMark(None, None, np.zeros((2, 8, 9), np.uint8)),
        ImageMark(exponent=1),
    ):
        with pytest.raises(ValueError):
            apply_mark(image, bad)
        with pytest.raises(ValueError):
            estimate(values, bad, image.bounds, None)
    for step, exponent in ((-1, 0), (MAX_STEP + 1, 0), (1, 5000), (1, -5000)):
        with pytest.raises(ValueError):
            ImageMark(None, None, None, step, exponent)
    with pytest.raises(ValueError):
        find_correction(values, values.astype(np.int8))
    with pytest.raises(ValueError):
        add_correction(values, values.astype(np.uint16))


def test_memory_is_that_of_the_stack_and_not_of_a_wide_copy():
    values = np.zeros((40, 512, 512, 1), np.int16)
    image = StoredImage(values, Bounds(-1024, 3071), Window(-160, 240))
    mark = ImageMark(_field(values, grid=(64, 64)), None, None, *step_for(image.window, values.dtype))
    tracemalloc.start()
    try:
        protected = apply_mark(image, mark)
        assert tracemalloc.get_traced_memory()[1] < 1.6 * values.nbytes  # an int64 copy would add 4
        tracemalloc.reset_peak()
        guess = estimate(protected, mark, image.bounds, None)
        find_correction(values, guess)
        assert tracemalloc.get_traced_memory()[1] < 3.6 * values.nbytes
    finally:
        tracemalloc.stop()


def test_repr_shows_no_values():
    assert "array" not in repr(ImageMark(None, None, np.zeros((1, 2, 2), bool), 5))

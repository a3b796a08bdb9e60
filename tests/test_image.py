# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Stored images, windows and digests."""

from __future__ import annotations

import hashlib
import struct
from typing import Any

import numpy as np
import pytest

from monai_miadmark.errors import UnsupportedImageError
from monai_miadmark.image import (
    STORED_DTYPES,
    Bounds,
    StoredImage,
    Window,
    displayed,
    percentile_window,
    pixel_digest,
)

WINDOW = Window(0, 100)
BOUNDS = Bounds(0, 255)


@pytest.mark.parametrize("dtype", STORED_DTYPES)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_supported_samples(dtype: str, channels: int) -> None:
    image = StoredImage(np.zeros((1, 1, 1, channels), dtype), BOUNDS, WINDOW)
    assert image.padding is None


@pytest.mark.parametrize(
    "values",
    [
        np.zeros((2, 2)),
        np.zeros((1, 2, 2, 5), np.uint8),
        np.zeros((1, 2, 2, 0), np.uint8),
        np.zeros((0, 2, 2, 1), np.uint8),
        np.zeros((1, 2, 2, 1), np.float64),
        np.zeros((1, 2, 2, 1), np.int64),
        np.zeros((1, 2, 2, 1), bool),
        np.zeros((1, 2, 2, 1), ">i2"),
    ],
    ids=lambda values: f"{values.dtype} {values.shape}",
)
def test_other_samples_are_refused(values: Any) -> None:
    with pytest.raises(UnsupportedImageError):
        StoredImage(values, BOUNDS, WINDOW)


@pytest.mark.parametrize("bounds", [Bounds(1, 0), Bounds(np.nan, 1), Bounds(0, np.nan)])
def test_empty_bounds_are_refused(bounds: Bounds) -> None:
    with pytest.raises(ValueError, match="empty bounds"):
        StoredImage(np.zeros((1, 1, 1, 1), np.uint8), bounds, WINDOW)


@pytest.mark.parametrize(("low", "high"), [(1, 1), (2, 1), (np.nan, 1), (0, np.inf), (-np.inf, 0)])
def test_a_window_is_finite_and_not_empty(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="window needs finite low < high"):
        Window(low, high)


class TestDigest:
    def test_is_what_its_description_says(self) -> None:
        values = np.arange(12, dtype=np.int16).reshape(1, 2, 3, 2)
        expected = hashlib.sha256(
            b"miadmark pixels 1\0int16\0" + struct.pack("<4Q", 1, 2, 3, 2) + values.astype("<i2").tobytes()
        )
        assert pixel_digest(values) == expected.digest()

    def test_strides_do_not_matter(self) -> None:
        values = np.arange(24, dtype=np.float32).reshape(1, 4, 3, 2)
        assert pixel_digest(np.asfortranarray(values)) == pixel_digest(values)
        assert pixel_digest(np.repeat(values, 2, axis=2)[:, :, ::2]) == pixel_digest(values)

    def test_shape_type_and_every_bit_matter(self) -> None:
        values = np.zeros((1, 2, 2, 1), np.float32)
        other = [
            values.reshape(1, 1, 4, 1),
            values.reshape(1, 1, 2, 2),
            values.view(np.int32),
            values.view(np.uint32),
            np.where([[[[True], [False]], [[False], [False]]]], np.float32(-0.0), values),
        ]
        digests = {pixel_digest(v) for v in (values, *other)}
        assert len(digests) == len(other) + 1


class TestDisplayed:
    def test_known_values(self) -> None:
        values = np.array([-5, 0, 25, 50, 100, 200], np.int16)
        np.testing.assert_array_equal(displayed(values, WINDOW), np.float32([0, 0, 0.25, 0.5, 1, 1]))
        np.testing.assert_array_equal(displayed(values, Window(0, 100, True)), np.float32([1, 1, 0.75, 0.5, 0, 0]))

    @pytest.mark.parametrize("inverted", [False, True])
    def test_samples_that_are_not_finite_are_black(self, inverted: bool) -> None:
        values = np.float32([np.nan, np.inf, -np.inf, 50])
        shown = displayed(values, Window(0, 100, inverted))
        assert shown.dtype == np.float32
        np.testing.assert_array_equal(shown, np.float32([0, 0, 0, 0.5]))

    @pytest.mark.parametrize("inverted", [False, True])
    def test_padding_is_black(self, inverted: bool) -> None:
        values = np.array([-2000, -1500, -1000, 50], np.int16)
        shown = displayed(values, Window(0, 100, inverted), (-2000, -1500))
        np.testing.assert_array_equal(shown, np.float32([0, 0, float(inverted), 0.5]))

    def test_extreme_windows_warn_of_nothing(self, recwarn: pytest.WarningsRecorder) -> None:
        values = np.float32([-3.4e38, 0, 3.4e38, np.nan])
        for window in (Window(-3e38, 3e38), Window(0, 1e-300), Window(-1e300, 1e300)):
            shown = displayed(values, window)
            assert np.isfinite(shown).all() and shown.min() >= 0 and shown.max() <= 1
        assert not recwarn.list

    @pytest.mark.parametrize("dtype", STORED_DTYPES)
    def test_the_samples_are_not_written_to(self, dtype: str) -> None:
        values = np.arange(8).astype(dtype)
        values.flags.writeable = False
        shown = displayed(values, Window(0, 7), (3, 3))
        assert shown[7] == 1 and shown[3] == 0 and not np.shares_memory(shown, values)


class TestPercentileWindow:
    def test_leaves_out_the_tails(self) -> None:
        window = percentile_window(np.arange(1001, dtype=np.uint16))
        assert (window.low, window.high, window.inverted) == (5, 995, False)
        assert percentile_window(np.arange(1001, dtype=np.uint16), True).inverted

    def test_ignores_what_is_not_finite(self) -> None:
        values = np.concatenate([np.arange(1001, dtype=np.float32), np.float32([np.nan, np.inf, -np.inf])])
        assert percentile_window(values) == percentile_window(values[:1001])

    @pytest.mark.parametrize("value", [0.0, 7.0, -1e9, 3e38, -3e38, 1e-30])
    def test_of_a_constant_is_not_empty(self, value: float) -> None:
        window = percentile_window(np.full((1, 3, 3, 1), value, np.float32))
        assert window.low == np.float32(value) and window.width > 0

    def test_of_a_rare_outlier_is_the_whole_range(self) -> None:
        values = np.zeros(10000, np.int16)
        values[17] = 40
        assert percentile_window(values) == Window(0, 40)

    def test_of_nothing_finite(self) -> None:
        assert percentile_window(np.full(3, np.nan, np.float32)) == Window(0, 1)

    def test_of_large_stacks_takes_a_sample(self) -> None:
        values = np.tile(np.arange(1000, dtype=np.int16), 3001)
        window = percentile_window(values)
        assert window.low == pytest.approx(5, abs=2) and window.high == pytest.approx(994, abs=2)

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Salient boxes and masks on the canonical grid."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_miadmark.interpolate import upsample
from monai_miadmark.region import SALIENT_SIDE, mask_on_grid, salient_boxes


class TestSalientBoxes:
    def test_surrounds_what_matters_slice_by_slice(self) -> None:
        saliency = np.zeros((2, 50, 40), np.float32)
        saliency[0, 5:9, 3:8] = 1
        saliency[1, 40:45, 30:35] = 1
        boxes = salient_boxes(saliency)
        assert boxes[0, 5:9, 3:8].all() and boxes[1, 40:45, 30:35].all()
        assert (boxes.sum((1, 2)) == round(SALIENT_SIDE * 50) * round(SALIENT_SIDE * 40)).all()

    def test_is_the_best_of_all_boxes(self) -> None:
        saliency = np.random.default_rng(0).random((3, 11, 13)).astype(np.float32)
        for plane, box in zip(saliency, salient_boxes(saliency, 0.3), strict=True):
            totals = np.lib.stride_tricks.sliding_window_view(plane.astype(float), (3, 4)).sum((2, 3))
            assert plane[box].sum(dtype=float) == pytest.approx(totals.max())

    @pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 3), (256, 1)])
    def test_any_size_has_a_box(self, size: tuple[int, int]) -> None:
        boxes = salient_boxes(np.ones((1, *size), np.float32))
        assert boxes.shape == (1, *size) and boxes.any()

    def test_nothing_salient_still_gives_a_box(self) -> None:
        assert salient_boxes(np.zeros((1, 20, 20), np.float32)).sum() == 36


class TestMaskOnGrid:
    def test_equal_sizes_keep_the_mask(self) -> None:
        mask = np.random.default_rng(0).random((2, 9, 7)) < 0.3
        assert (mask_on_grid(mask, 9, 7) == mask).all()

    def test_known_cells(self) -> None:
        mask = np.zeros((1, 40, 40), bool)
        mask[0, 20, 0] = True  # in cell (5, 0)
        expected = np.zeros((1, 10, 10), bool)
        expected[0, 4:7, :2] = True
        assert (mask_on_grid(mask, 10, 10) == expected).all()

    @settings(max_examples=40, deadline=None)
    @given(st.data())
    def test_cells_outside_never_reach_a_masked_sample(self, data: st.DataObject) -> None:
        """The very property that it exists for: interpolation of what lies outside leaves masked samples alone."""
        height, width = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
        h, w = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
        rng = np.random.default_rng(data.draw(st.integers(0, 99)))
        mask = rng.random((2, height, width)) < rng.choice([0, 0.02, 0.3, 1])
        cells = mask_on_grid(mask, h, w)
        assert cells.shape == (2, h, w)
        spread = upsample((~cells).astype(np.uint8) * 100, height, width)
        assert not spread[mask].any()

    def test_an_empty_mask_stays_empty_and_the_argument_as_it_was(self) -> None:
        mask = np.zeros((1, 33, 21), bool)
        mask.flags.writeable = False
        assert not mask_on_grid(mask, 8, 5).any()
        assert mask_on_grid(np.broadcast_to(np.True_, (3, 33, 21)), 8, 5).all()

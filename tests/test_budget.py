# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The visibility budget: what each place may change, and its blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from monai_miadmark.appearance import Appearance
from monai_miadmark.budget import (
    Visibility,
    _largest_gain,
    _Limits,
    block_scales,
    cell_budget,
    fit_to_likeness,
    likeness_budget,
    visibility_map,
)
from monai_miadmark.field import BLOCK, MAX_SCALE, UNITS
from monai_miadmark.likeness import RADIUS, Likeness

MODEL = Visibility()


def picture(height: int = 30, width: int = 26, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).random((2, channels, height, width)).astype(np.float32)


def tissue(slices: int = 1, channels: int = 1, side: int = 48, texture: float = 0.03) -> NDArray[np.float32]:
    """Smooth waves with some texture, all of it foreground, ``(N, C, h, w)``."""
    y, x = np.mgrid[:side, :side]
    noise = np.random.default_rng(1).normal(0, texture, (slices, channels, side, side))
    return np.asarray((0.5 + 0.25 * np.sin(x / 6) * np.cos(y / 5) + noise).clip(0, 1), np.float32)


def box(shape: tuple[int, ...], rows: slice, columns: slice) -> NDArray[np.bool_]:
    """``(N, h, w)``, true in a box."""
    mask = np.zeros((shape[0], *shape[2:]), bool)
    mask[:, rows, columns] = True
    return mask


def nowhere(display: NDArray[np.float32]) -> NDArray[np.bool_]:
    return box(display.shape, slice(0), slice(0))


def likeness(clean: NDArray[np.float32], changed: NDArray[np.float32], part: NDArray[np.bool_]) -> tuple[float, float]:
    """PSNR and SSIM of one slice on a part, windows that hang over the border left out."""
    judge = Likeness(clean)
    windows = part.copy()
    for edge in (np.s_[:RADIUS], np.s_[-RADIUS:], np.s_[:, :RADIUS], np.s_[:, -RADIUS:]):
        windows[edge] = False
    psnr = -10 * np.log10(max(1e-12, float(judge.squared_error(changed)[part].mean())))
    return psnr, float(judge.ssim_map(changed)[windows].mean())


def test_the_map_is_the_formula_by_hand() -> None:
    display = picture(12, 10, 3)
    gray = display.astype(np.float64).mean(1)
    padded = np.pad(gray, ((0, 0), (3, 3), (3, 3)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (7, 7), axis=(1, 2))
    mean, deviation = windows.mean((3, 4)), windows.std((3, 4))
    by_hand = MODEL.floor + MODEL.contrast * deviation + MODEL.luminance * mean
    by_hand *= np.clip((mean + deviation) / MODEL.dark - 0.5, 0, 1)
    np.testing.assert_allclose(visibility_map(display, MODEL), by_hand, atol=1e-9)


def test_background_gets_nothing_and_flat_tissue_the_floor() -> None:
    display = np.zeros((1, 1, 40, 40), np.float32)
    display[:, :, :, 20:] = 0.5
    budget = visibility_map(display, MODEL)
    assert (budget[:, :, :16] == 0).all()
    np.testing.assert_allclose(budget[:, :, 24:], MODEL.floor + MODEL.luminance * 0.5)
    assert budget[0, 0, 20] > budget[0, 0, 30]  # contrast masks


def test_the_targets_do_not_change_how_the_amplitude_is_shared_out() -> None:
    display = picture()
    assert np.array_equal(
        visibility_map(display, MODEL), visibility_map(display, Visibility(psnr=20, ssim=0.5, ceiling=0.01))
    )


class TestLikenessBudget:
    """What is allowed before the field is known."""

    def test_keeps_to_its_ceilings(self) -> None:
        display = tissue(2, 3)
        region, logo = box(display.shape, slice(10, 20), slice(10, 30)), box(display.shape, slice(30, 40), slice(40))
        free = Visibility(psnr=0, ssim=-1, region_ssim=-1)
        budget = likeness_budget(display, free, region, 3 / 255, logo)
        assert budget.shape == (2, 48, 48) and (budget >= 0).all()
        np.testing.assert_allclose(budget[region], 3 / 255)
        assert budget[~region].max() == free.ceiling

    def test_more_likeness_leaves_less(self) -> None:
        display = tissue()
        none = nowhere(display)
        means = [
            likeness_budget(display, Visibility(psnr=psnr, ssim=ssim), none, 0, none).mean()
            for psnr, ssim in ((36, 0.5), (30, 0.5), (26, 0.5))
        ]
        assert means == sorted(means) and means[0] < 0.7 * means[1]
        by_ssim = [
            likeness_budget(display, Visibility(psnr=0, ssim=ssim), none, 0, none).mean() for ssim in (0.99, 0.95, 0.9)
        ]
        assert by_ssim == sorted(by_ssim) and by_ssim[0] < 0.7 * by_ssim[1]

    def test_amplitude_follows_the_map_below_the_ceiling(self) -> None:
        display = tissue()
        none = nowhere(display)
        model = Visibility(psnr=38, ssim=0.5)
        ratio = likeness_budget(display, model, none, 0, none) / visibility_map(display, model)
        np.testing.assert_allclose(ratio, ratio.mean(), rtol=1e-6)

    def test_slices_are_judged_each_by_itself(self) -> None:
        display = np.concatenate([tissue(texture=0.0), tissue(texture=0.15)])
        none = nowhere(display)
        model = Visibility(psnr=0, ssim=0.93)
        together = likeness_budget(display, model, none, 0, none)
        for n in range(2):
            alone = likeness_budget(display[n : n + 1], model, none[:1], 0, none[:1])
            np.testing.assert_allclose(together[n], alone[0])
        assert together[0].mean() < together[1].mean()  # on rough tissue more can hide

    @pytest.mark.parametrize("level", [0.0, 0.01])
    def test_background_gets_nothing_inside_the_region_either(self, level: float) -> None:
        display = np.full((1, 1, 24, 24), level, np.float32)
        region = box(display.shape, slice(4, 12), slice(4, 12))
        assert not likeness_budget(display, MODEL, region, 3 / 255, nowhere(display)).any()

    def test_all_logo_or_all_region(self) -> None:
        display = tissue()
        every = ~nowhere(display)
        assert likeness_budget(display, MODEL, nowhere(display), 0, every).max() <= MODEL.ceiling
        assert likeness_budget(display, MODEL, every, 2 / 255, nowhere(display)).max() <= 2 / 255


class TestFitToLikeness:
    """What is allowed once the field is known."""

    REGION, LOGO = (slice(10, 22), slice(12, 26)), (slice(33, 41), slice(6, 34))

    def fit(
        self, fraction: NDArray[np.float32], model: Visibility, channels: int = 1, cap: float = 3 / 255
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float32], NDArray[np.float32]]:
        """Budget before and after, the image, and what becomes of it."""
        display = tissue(1, channels)
        region, logo = box(display.shape, *self.REGION), box(display.shape, *self.LOGO)
        budget = likeness_budget(display, model, region, cap, logo)
        budget = np.where(logo, 24 / 255, budget)
        fitted = fit_to_likeness(display, Appearance(display), fraction, budget, model, region, cap, logo)
        stored = cell_budget(block_scales(fitted), *display.shape[2:])
        changed = (display + np.rint(fraction * 2) / 2 * stored).clip(0, 1).astype(np.float32)
        return budget, fitted, display, changed

    @pytest.mark.parametrize("kind", ["noise", "ones", "zeros", "halves", "color", "waves"])
    @pytest.mark.parametrize("model", [MODEL, Visibility(psnr=33, ssim=0.5), Visibility(psnr=20, ssim=0.95)])
    def test_the_likeness_holds_as_it_is_stored(self, kind: str, model: Visibility) -> None:
        rng = np.random.default_rng(4)
        y, x = np.mgrid[:48, :48]
        shape = (1, 3 if kind == "color" else 1, 48, 48)
        fraction = {
            "noise": rng.choice([-1.0, 1.0], shape),
            "ones": np.ones(shape),
            "zeros": np.zeros(shape),
            "halves": rng.choice([-0.5, 0.0, 0.5], shape),
            "color": rng.choice([-1.0, 1.0], shape),
            "waves": np.sign(np.sin(x / 5) * np.cos(y / 7))[None, None],
        }[kind].astype(np.float32)
        budget, fitted, display, changed = self.fit(fraction, model, shape[1])
        region, logo = box(display.shape, *self.REGION), box(display.shape, *self.LOGO)
        psnr, ssim = likeness(display[0], changed[0], ~logo[0])
        assert psnr >= model.psnr - 1e-3 and ssim >= model.ssim - 1e-5
        assert likeness(display[0], changed[0], region[0])[1] >= model.region_ssim - 0.01
        assert np.array_equal(fitted[logo], budget[logo])
        assert fitted[region].max() <= 3 / 255 + 1e-12
        outside = ~region & ~logo
        assert (fitted[outside] <= np.minimum(2 * budget[outside], model.ceiling) + 1e-12).all()

    def test_what_is_left_over_is_used(self) -> None:
        """A weak field may get twice the amplitude, and no more."""
        none = np.zeros((1, 1, 48, 48), np.float32)
        budget, fitted, _, _ = self.fit(none, MODEL)
        outside = ~box((1, 1, 48, 48), *self.REGION) & ~box((1, 1, 48, 48), *self.LOGO)
        np.testing.assert_allclose(fitted[outside], np.minimum(2 * budget[outside], MODEL.ceiling))

    def test_the_limit_that_binds_is_reached(self) -> None:
        fraction = np.random.default_rng(4).choice([-1.0, 1.0], (1, 1, 48, 48)).astype(np.float32)
        for model in (Visibility(psnr=33, ssim=0.5), Visibility(psnr=0, ssim=0.95)):
            _, _, display, changed = self.fit(fraction, model)
            psnr, ssim = likeness(display[0], changed[0], ~box(display.shape, *self.LOGO)[0])
            assert psnr < model.psnr + 0.3 or ssim < model.ssim + 0.01

    @pytest.mark.parametrize("channels", [1, 3])
    def test_quick_is_nearly_the_same(self, channels: int) -> None:
        """And never far beyond what may be seen, though it looks at some of the windows only."""
        display = tissue(1, channels, 96)
        region, logo = box(display.shape, *self.REGION), box(display.shape, *self.LOGO)
        fraction = np.random.default_rng(4).choice([-1.0, 1.0], (1, channels, 96, 96)).astype(np.float32)
        amounts, similar = [], []
        for quick in (False, True):
            budget = likeness_budget(display, MODEL, region, 3 / 255, logo, quick)
            fitted = fit_to_likeness(
                display, Appearance(display), fraction, budget, MODEL, region, 3 / 255, logo, quick
            )
            changed = (display + fraction * cell_budget(block_scales(fitted), 96, 96)).clip(0, 1).astype(np.float32)
            amounts.append(fitted[~logo].mean())
            similar.append(likeness(display[0], changed[0], ~logo[0]))
        assert amounts[1] == pytest.approx(amounts[0], rel=0.03)
        assert similar[1][0] >= MODEL.psnr - 0.1 and similar[1][1] >= MODEL.ssim - 0.003

    def test_a_region_without_a_budget_gets_none(self) -> None:
        _, fitted, display, _ = self.fit(np.ones((1, 1, 48, 48), np.float32), MODEL, cap=0)
        assert not fitted[box(display.shape, *self.REGION)].any()

    @pytest.mark.parametrize("size", [(1, 1), (1, 9), (8, 30), (11, 11)])
    def test_any_size(self, size: tuple[int, int]) -> None:
        display = picture(*size)
        none, budget = nowhere(display), np.full((2, *size), 0.05)
        fraction = np.ones((2, 1, *size), np.float32)
        fitted = fit_to_likeness(display, Appearance(display), fraction, budget, MODEL, none, 0, none)
        assert fitted.shape == budget.shape and np.isfinite(fitted).all() and fitted.max() <= MODEL.ceiling
        assert np.array_equal(budget, np.full((2, *size), 0.05))  # the caller's stays


@given(
    st.floats(0.001, 40),
    st.floats(0.2, 4),
    st.sampled_from([0.0, 0.05, 0.5]),
    st.sampled_from([1.0, 2.0, 32.0]),
    st.integers(1, 24),
)
def test_the_largest_gain_is_where_a_bisection_ends(
    root: float, power: float, stair: float, most: float, steps: int
) -> None:
    """For functions straight, bent and with steps, as rounded scales make them."""

    def error(made: NDArray[np.float64]) -> NDArray[np.float64]:
        gain = made if not stair else np.floor(made / stair) * stair
        return np.asarray((gain / root) ** power / 10, np.float64)

    judged = np.ones((1, 1), bool)
    calls = []

    def made(gain: float) -> NDArray[np.float64]:
        calls.append(gain)
        return np.full((1, 1), gain)

    limits = _Limits(0.5, 10, most)
    found = _largest_gain(made, lambda made: np.ones_like(made), error, judged, judged, limits, steps)
    if error(np.full((1, 1), most))[0, 0] <= 0.1:
        assert found == most and len(calls) <= 3
        return
    low, high = 0.0, most
    for _ in range(steps):
        middle = (low + high) / 2
        holds = error(np.full((1, 1), middle))[0, 0] <= 0.1
        low, high = (middle, high) if holds else (low, middle)
    assert found == low and len(calls) <= 15 + steps
    quickly = _largest_gain(made, lambda made: np.ones_like(made), error, judged, judged, limits, steps, 0.05)
    assert quickly <= found + most / 2**steps
    share = (error(np.full((1, 1), quickly))[0, 0] / 0.1) ** 0.5
    assert quickly >= found - most / 2**steps or share >= 0.95


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 2), (2, 300)])
def test_any_size(size: tuple[int, int]) -> None:
    budget = visibility_map(picture(*size), MODEL)
    assert budget.shape == (2, *size) and np.isfinite(budget).all()
    assert block_scales(budget).shape == (2, -(-size[0] // BLOCK), -(-size[1] // BLOCK))


def test_scales_round_down_and_keep_to_their_limits() -> None:
    one = 1 / UNITS
    for amplitude, expected in ((0, 0), (0.99 * one, 0), (one, 1), (2.5 * one, 2), (3 / 255, 6), (1.0, MAX_SCALE)):
        scales = block_scales(np.full((1, 5, 6), amplitude))
        assert scales.dtype == np.uint8 and scales.shape == (1, 2, 2)
        assert (scales == expected).all(), amplitude


def test_scales_are_means_of_blocks_with_edges_repeated() -> None:
    budget = np.zeros((1, 5, 4))
    budget[0, :4, :2] = 10 / UNITS
    budget[0, 4, 0] = 40 / UNITS
    assert block_scales(budget).tolist() == [[[5], [10]]]


def test_cells_have_the_scale_of_their_block() -> None:
    scales = np.array([[[1, 2], [3, 51]]], np.uint8)
    cells = cell_budget(scales, 7, 6)
    assert cells.shape == (1, 1, 7, 6) and cells.dtype == np.float32
    assert cells[0, 0, 0, 3] == np.float32(1 / UNITS) and cells[0, 0, 3, 4] == np.float32(2 / UNITS)
    assert cells[0, 0, 4, 0] == np.float32(3 / UNITS) and cells[0, 0, 6, 5] == np.float32(0.1)


def test_scales_of_cells_are_the_scales() -> None:
    scales = np.random.default_rng(1).integers(0, MAX_SCALE + 1, (2, 3, 4)).astype(np.uint8)
    assert (block_scales(cell_budget(scales, 12, 16)[:, 0].astype(np.float64) + 1e-9) == scales).all()

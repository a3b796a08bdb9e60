# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""What a custodian may ask for, and what is refused at once."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monai_miadmark.budget import Visibility
from monai_miadmark.logo import MAX_OPACITY
from monai_miadmark.options import PRESETS, Preset, ProtectOptions

MASK = np.zeros((4, 5), bool)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preset": "extreme"}, "preset must be one of subtle, standard, strong, fast, not 'extreme'"),
        ({"style": "loud"}, "style must be visible or invisible, not 'loud'"),
        ({"region": "box"}, "region must be auto, none or a mask, not 'box'"),
        ({"region": MASK.astype(np.uint8)}, "a region mask is bool"),
        ({"region": MASK[0]}, "a region mask is bool"),
        ({"region": MASK[None, None]}, "a region mask is bool"),
        ({"region_budget": -0.1}, "fraction of the window"),
        ({"region_budget": 1.1}, "fraction of the window"),
        ({"region_budget": float("nan")}, "fraction of the window"),
        ({"text": "  "}, "needs a text or a logo"),
    ],
)
def test_what_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProtectOptions(**arguments)


def test_no_text_is_needed_where_none_is_shown() -> None:
    ProtectOptions(style="invisible", text="")
    ProtectOptions(logo=Path("logo.png"), text="")
    ProtectOptions(logo=Path("emblem"), text="")


@pytest.mark.parametrize(
    ("region", "budget", "effective"),
    [
        ("auto", None, 3 / 255),
        ("none", None, 3 / 255),
        (MASK, None, 0),
        (MASK[None], 0.02, 0.02),
        ("auto", 0, 0),
        ("auto", 1, 1),
    ],
)
def test_region_budget(region: Any, budget: float | None, effective: float) -> None:
    assert ProtectOptions(region=region, region_budget=budget).effective_region_budget == effective


def test_presets_grow_in_strength() -> None:
    order = [PRESETS[name] for name in ("subtle", "standard", "strong")]
    assert set(PRESETS) == {"subtle", "standard", "strong", "fast"}
    for weak, strong in itertools.pairwise(order):
        assert weak.visibility.psnr > strong.visibility.psnr and weak.visibility.ssim > strong.visibility.ssim
        assert weak.steps < strong.steps and weak.logo_area < strong.logo_area
        assert weak.opacity < strong.opacity and weak.footprint < strong.footprint
    assert all(256 * preset.opacity <= MAX_OPACITY for preset in PRESETS.values())
    assert ProtectOptions().preset == "standard"


def test_fast_is_standard_by_the_generator_alone() -> None:
    assert PRESETS["fast"] == replace(PRESETS["standard"], steps=0, search=False)
    assert all(preset.steps > 0 and preset.search for name, preset in PRESETS.items() if name != "fast")


@pytest.mark.parametrize("name", PRESETS)
def test_a_name_stands_for_its_preset(name: str) -> None:
    assert ProtectOptions(preset=name).strength is PRESETS[name]


def test_a_preset_of_ones_own() -> None:
    own = Preset(Visibility(psnr=40.0, ssim=0.98), steps=3, opacity=0.1, footprint=8 / 255, logo_area=0.05)
    options = ProtectOptions(preset=own)
    assert options.strength is own and options.preset is own
    assert own not in PRESETS.values()


def test_modality_goes_by_the_image_unless_it_is_named() -> None:
    assert ProtectOptions().modality == "auto"
    assert ProtectOptions(modality="fundus").modality == "fundus"


def test_the_limit_of_a_region_grows_with_its_area() -> None:
    limits = [ProtectOptions().region_limit(area) for area in (0.0, 0.08, 0.1, 0.175, 0.25, 0.9)]
    np.testing.assert_allclose(np.array(limits) * 255, [3, 3, 3, 6.5, 10, 10])
    assert ProtectOptions(region_budget=0.01).region_limit(0.9) == 0.01
    assert ProtectOptions(region=np.ones((2, 2), bool)).region_limit(1.0) == 0

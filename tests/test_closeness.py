# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""How close a protected file is to its source: the likeness that the preset asks for, found in what was written."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import samples
from doubles import NoiseMarker
from PIL import Image

from monai_miadmark import files
from monai_miadmark.closeness import Closeness, closeness
from monai_miadmark.keys import generate_identity
from monai_miadmark.options import PRESETS, ProtectOptions


def measured(path: Path, out: Path, options: ProtectOptions) -> Closeness:
    """Protect with noise and measure."""
    made = files.make_protected(
        path, out, [generate_identity("x25519").recipient], NoiseMarker(), options, measure=True
    )
    assert made.quality is not None
    return made.quality


@pytest.mark.parametrize("style", ["visible", "invisible"])
@pytest.mark.parametrize("preset", ["subtle", "strong"])
@pytest.mark.parametrize("name", ["a.png", "ct.dcm", "photo.jpg"])
def test_the_preset_is_kept(tmp_path: Path, name: str, preset: str, style: str) -> None:
    """Where the logo's own budget reaches over its footprint there is a little less."""
    data = {"a.png": samples.png, "ct.dcm": samples.ct, "photo.jpg": samples.jpeg}[name]()
    (tmp_path / name).write_bytes(data)
    options = ProtectOptions(preset=preset, style=style, region="none")  # type: ignore[arg-type]
    found = measured(tmp_path / name, tmp_path / "out", options)
    asked = PRESETS[preset].visibility
    assert found.psnr > asked.psnr - 1 and found.ssim > asked.ssim - 0.02
    assert found.psnr < 50 and found.ssim < 0.9999


def png(values: np.ndarray) -> bytes:
    """An 8-bit PNG."""
    out = io.BytesIO()
    Image.fromarray(values).save(out, "PNG")
    return out.getvalue()


def test_only_what_is_outside_the_ink_counts() -> None:
    before = samples.smooth()
    after = before.copy()
    after[10:14, 10:14] ^= 0x40
    ink = np.zeros((1, *before.shape), bool)
    ink[0, 4:20, 4:20] = True  # SSIM's window reaches five cells around what was changed
    assert closeness(png(before), png(after), "a.png", ink) == (float("inf"), pytest.approx(1, abs=1e-4))
    bare = closeness(png(before), png(after), "a.png", None)
    error = (64 / 255) ** 2 * 16 / before.size
    assert bare is not None and bare.psnr == pytest.approx(-10 * np.log10(error), rel=1e-4) and bare.ssim < 0.99
    assert closeness(png(before), png(after), "a.png", np.ones_like(ink)) is None

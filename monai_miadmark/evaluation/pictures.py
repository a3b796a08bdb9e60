# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""What a reader looks at first: original, protected, and the difference between them, side by side."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from monai_miadmark.evaluation.protected import ProtectedSet

__all__ = ["contact_sheet", "write_contact_sheet"]

_GAIN = 8
_TILE = 256
_CAPTION = 22
_HEADS = ("original", "protected", f"difference x {_GAIN}")


def contact_sheet(made: ProtectedSet, chosen: Sequence[int]) -> Image.Image:
    """One row an image: original, protected, difference times eight around gray.

    Args:
        made: the images.
        chosen: indices of those to show.

    Returns:
        RGB.
    """
    font = ImageFont.load_default(size=14)
    sheet = Image.new("RGB", (3 * _TILE, len(chosen) * _TILE + _CAPTION), "black")
    draw = ImageDraw.Draw(sheet)
    for column, head in enumerate(_HEADS):
        draw.text((column * _TILE + 4, 3), head, fill="white", font=font)
    for row, index in enumerate(chosen):
        before, after = made.clean[index], made.protected[index]
        change = np.clip(128 + _GAIN * (after.astype(int) - before), 0, 255).astype(np.uint8)
        for column, pixels in enumerate((before, after, change)):
            sheet.paste(_tile(pixels), (column * _TILE, row * _TILE + _CAPTION))
    return sheet


def write_contact_sheet(made: ProtectedSet, path: str | os.PathLike[str], each: int = 1) -> Path:
    """Write the sheet of the first images of every class as PNG and return its path.

    Args:
        made: the images.
        path: of the file; its folder is made.
        each: images of a class.
    """
    chosen = [int(i) for label in np.unique(made.labels) for i in np.nonzero(made.labels == label)[0][:each]]
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(made, chosen).save(target, optimize=True)
    return target


def _tile(pixels: NDArray[np.uint8]) -> Image.Image:
    """``(H, W, C)`` as a tile, enlarged without smoothing: smoothing would hide the mark."""
    shown = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).convert("RGB")
    return shown.resize((_TILE, _TILE), Image.Resampling.NEAREST)

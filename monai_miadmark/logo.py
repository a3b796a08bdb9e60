# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The visible part of a mark: ink on the canonical grid."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

__all__ = ["MAX_OPACITY", "Logo", "load_logo", "render_text"]

MAX_OPACITY = 191
"""Of 256: at least a quarter of the image shows through, so that blending can be undone to within a few units."""

_MAX_TEXT = 200
_OVERSAMPLING = 4


@dataclass(frozen=True, eq=False, repr=False)
class Logo:
    """A logo and where it stands on each slice.

    Attributes:
        alpha: uint8 ``(lh, lw)``, share of ink (255 = opaque) on the canonical grid.
        positions: int32 ``(N, 2)``, row and column of the top left corner in cells; a negative row means that the
            slice bears no logo.
        opacity: 0..191 (of 256), strength of opaque ink.
        values: what opaque ink looks like, one stored value for each channel.

    Raises:
        ValueError: shapes, types or values that do not fit.
    """

    alpha: NDArray[np.uint8]
    positions: NDArray[np.int32]
    opacity: int
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.alpha.dtype != np.uint8 or self.alpha.ndim != 2 or self.alpha.size == 0:
            raise ValueError(f"alpha must be non-empty uint8 (h, w), not {self.alpha.dtype} {self.alpha.shape}")
        if self.positions.dtype != np.int32 or self.positions.ndim != 2 or self.positions.shape[1] != 2:
            raise ValueError(f"positions must be int32 (N, 2), not {self.positions.dtype} {self.positions.shape}")
        if not 0 <= self.opacity <= MAX_OPACITY:
            raise ValueError(f"opacity must be in 0..{MAX_OPACITY}, not {self.opacity}")
        if not self.values or not np.isfinite(self.values).all():
            raise ValueError("a logo needs a finite value for each channel")

    def __repr__(self) -> str:
        return f"Logo(alpha={self.alpha.shape}, slices={len(self.positions)}, opacity={self.opacity})"

    def coverage(self, n: int, h: int, w: int) -> NDArray[np.uint8]:
        """Ink of slice ``n`` on a grid of ``h`` x ``w`` cells; what would stand outside is cut off.

        Returns:
            uint8 ``(h, w)``.
        """
        plane = np.zeros((h, w), np.uint8)
        top, left = (int(v) for v in self.positions[n])
        if top < 0:
            return plane
        ink = self.alpha[: max(0, h - top), max(0, -left) : max(0, w - left)]
        if ink.size:
            plane[top : top + ink.shape[0], max(0, left) : max(0, left) + ink.shape[1]] = ink
        return plane


def render_text(text: str, height_px: int) -> NDArray[np.uint8]:
    """Draw a text with the font that comes with Pillow.

    Args:
        text: one or more lines, at most 200 characters.
        height_px: height of the result in cells.

    Returns:
        uint8 alpha ``(height_px, width)``, cropped to the ink.

    Raises:
        ValueError: nothing to draw, too much of it, or no height.
    """
    if height_px < 1:
        raise ValueError(f"the height must be at least 1, not {height_px}")
    if not text.strip() or len(text) > _MAX_TEXT:
        raise ValueError(f"the text must have 1 to {_MAX_TEXT} characters")
    # Drawn larger than needed and averaged down: thin strokes keep their weight at a dozen cells.
    font = ImageFont.load_default(size=max(8, _OVERSAMPLING * height_px))
    left, top, right, bottom = ImageDraw.Draw(Image.new("L", (1, 1))).textbbox((0, 0), text, font=font)
    canvas = Image.new("L", (int(right - left) + 2, int(bottom - top) + 2))
    ImageDraw.Draw(canvas).text((1 - left, 1 - top), text, fill=255, font=font)
    ink = _crop(canvas, "the text leaves no ink")
    width = max(1, round(ink.width * height_px / ink.height))
    return np.array(ink.resize((width, height_px), Image.Resampling.BOX))


def load_logo(path: str | os.PathLike[str], max_px: int) -> NDArray[np.uint8]:
    """Read a logo from an image file.

    Transparency is the ink where the image has any; else what is dark on white.

    Args:
        path: any image that Pillow reads.
        max_px: longest side of the result in cells; smaller images keep their size.

    Returns:
        uint8 alpha ``(h, w)``, cropped to the ink.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not an image, too large, or blank.
    """
    if max_px < 1:
        raise ValueError(f"the longest side must be at least 1, not {max_px}")
    name = os.path.basename(path)
    try:
        with Image.open(path) as image:
            colors = image.convert("RGBA")
    except FileNotFoundError:
        raise
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"the logo {name!r} is not an image that can be read") from error
    alpha = colors.getchannel("A")
    if alpha.getextrema() == (255, 255):
        alpha = colors.convert("L").point([255 - level for level in range(256)])
    ink = _crop(alpha, f"the logo {name!r} is blank")
    if max(ink.size) > max_px:
        ink.thumbnail((max_px, max_px), Image.Resampling.BOX, reducing_gap=None)
    return np.array(ink)


def _crop(ink: Image.Image, problem: str) -> Image.Image:
    """Cut to the smallest box with all the ink."""
    box = ink.getbbox()
    if box is None:
        raise ValueError(problem)
    return ink.crop(box)

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The visible part of a mark: ink on the canonical grid."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from monai_miadmark.fonts import font_for, normalized

__all__ = [
    "BUILT_IN_LOGOS",
    "MAX_OPACITY",
    "Logo",
    "draw_logo",
    "load_logo",
    "render_banner",
    "render_emblem",
    "render_text",
]

BUILT_IN_LOGOS = ("banner", "emblem")
"""Names that may stand in place of a logo file: a strip with the text cut out of it, and a cross in a ring."""

MAX_OPACITY = 191
"""Of 256: at least a quarter of the image shows through, so that blending can be undone to within a few units."""

_MAX_TEXT = 200
_OVERSAMPLING = 4

_DRAWN = 128
"""Height in cells at which text and emblem are drawn, before they are turned and brought to their size."""

_BANNER_ASPECT = 8
"""Least width of a banner as a multiple of its height; a longer text makes it longer."""


@dataclass(frozen=True, eq=False, repr=False)
class Logo:
    """A logo and where it stands on each slice.

    Attributes:
        alpha: uint8 ``(lh, lw)``, share of ink (255 = opaque) on the canonical grid.
        positions: int32 ``(N, 2)``, row and column of the top left corner in cells; a negative row means that the
            slice bears no logo.
        opacity: 0..191 (of 256), strength of opaque ink.
        values: what opaque ink looks like, one stored value for each channel; where groups of slices have ink of their
            own, those of the first group, then those of the second, and so on.

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
    """Draw a text with the first font that has all its characters.

    Args:
        text: one or more lines, at most 200 characters.
        height_px: height of the result in cells.

    Returns:
        uint8 alpha ``(height_px, width)``, cropped to the ink.

    Raises:
        ValueError: nothing to draw, too much of it, characters that no font has, or no height.
    """
    if height_px < 1:
        raise ValueError(f"the height must be at least 1, not {height_px}")
    if not text.strip() or len(text) > _MAX_TEXT:
        raise ValueError(f"the text must have 1 to {_MAX_TEXT} characters")
    # Drawn larger than needed and averaged down: thin strokes keep their weight at a dozen cells.
    text = normalized(text)
    font = font_for(text, max(8, _OVERSAMPLING * height_px))
    left, top, right, bottom = ImageDraw.Draw(Image.new("L", (1, 1))).textbbox((0, 0), text, font=font)
    canvas = Image.new("L", (int(right - left) + 2, int(bottom - top) + 2))
    ImageDraw.Draw(canvas).text((1 - left, 1 - top), text, fill=255, font=font)
    ink = _crop(canvas, "the text leaves no ink")
    width = max(1, round(ink.width * height_px / ink.height))
    return np.array(ink.resize((width, height_px), Image.Resampling.BOX))


def render_emblem(size: int) -> NDArray[np.uint8]:
    """Draw an upright cross with equal arms in a ring, as hospitals are marked on signs.

    Args:
        size: side of the result in cells.

    Returns:
        uint8 alpha ``(size, size)``; the ring touches all four borders.

    Raises:
        ValueError: no size.
    """
    if size < 1:
        raise ValueError(f"the side must be at least 1, not {size}")
    side = max(64, _OVERSAMPLING * size)
    canvas = Image.new("L", (side, side))
    pen = ImageDraw.Draw(canvas)
    pen.ellipse((0, 0, side - 1, side - 1), outline=255, width=round(0.09 * side))
    near, far = round(0.22 * side), round(0.40 * side)  # where arms begin, and where the middle bar begins
    for box in ((far, near), (near, far)):
        pen.rectangle((*box, side - 1 - box[0], side - 1 - box[1]), fill=255)
    return np.array(canvas.resize((size, size), Image.Resampling.BOX))


def render_banner(text: str, width: int, height: int) -> NDArray[np.uint8]:
    """Draw a strip of ink out of which a text is cut.

    Args:
        text: one or more lines, at most 200 characters; made smaller where it is too long for the strip.
        width: of the result in cells.
        height: of the result in cells.

    Returns:
        uint8 alpha ``(height, width)``.

    Raises:
        ValueError: nothing to write, too much of it, or no size.
    """
    if min(width, height) < 1:
        raise ValueError(f"a banner needs a size of at least 1 x 1, not {height} x {width}")
    letters = render_text(text, max(1, round(0.56 * height)))
    fitting = round(width - 0.6 * height)  # leaves as much ink at both ends as letters have above and below
    if letters.shape[1] > fitting:
        letters = render_text(text, max(1, int(letters.shape[0] * max(1, fitting) / letters.shape[1])))
    strip = np.full((height, width), 255, np.uint8)
    top, left = (max(0, (strip.shape[axis] - letters.shape[axis]) // 2) for axis in (0, 1))
    cut = letters[: height - top, : width - left]
    strip[top : top + cut.shape[0], left : left + cut.shape[1]] -= cut
    return strip


def draw_logo(logo: str | os.PathLike[str] | None, text: str) -> NDArray[np.uint8]:
    """The drawing that a custodian chose, upright and larger than it will be used.

    Args:
        logo: an image file; or one of :data:`BUILT_IN_LOGOS` where no such file exists; or ``None`` for the text alone.
        text: what text and banner say.

    Returns:
        uint8 alpha ``(h, w)``, cropped to the ink.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not an image, too large, blank, or a text that cannot be drawn.
    """
    if logo is None:
        return _drawn_text(text)
    if os.fspath(logo) not in BUILT_IN_LOGOS or Path(logo).exists():
        return load_logo(logo, 2 * _DRAWN)
    if os.fspath(logo) == "emblem":
        return render_emblem(_DRAWN)
    letters = _drawn_text(text)
    needed = 0.56 * letters.shape[1] / letters.shape[0] + 0.6
    return render_banner(text, round(max(_BANNER_ASPECT, needed) * _DRAWN), _DRAWN)


@lru_cache(maxsize=4)
def _drawn_text(text: str) -> NDArray[np.uint8]:
    """A text as large as logos are drawn; folders of images bear the same one, and fonts are slow."""
    drawn = render_text(text, _DRAWN)
    drawn.flags.writeable = False
    return drawn


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

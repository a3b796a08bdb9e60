# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""What presets and styles would make of one image, side by side, before anything is protected."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from monai_miadmark.closeness import Closeness, InkWatch, compare
from monai_miadmark.exact import apply_mark
from monai_miadmark.fonts import normalized, readable_font
from monai_miadmark.formats import carrier_for
from monai_miadmark.marking import Marker, canonical_display, make_mark, seen_by_networks
from monai_miadmark.masks import read_mask
from monai_miadmark.opinions import Opinion, predicted
from monai_miadmark.options import ProtectOptions

__all__ = ["Preview", "Sample", "default_name", "draw_preview", "preview"]

_TILE = 320
"""Pixels of a tile's side: enough to read the logo, and five of them fit on a screen."""

_FONT_SIZE, _LINE, _GAP = 17, 23, 10
_PAPER, _INK, _QUIET = (255, 255, 255), (20, 28, 36), (85, 96, 108)


@dataclass(frozen=True, repr=False)
class Sample:
    """The image under one choice of options.

    Attributes:
        options: the choice.
        plane: ``(H, W, C)`` float32 in [0, 1], as a viewer shows it.
        closeness: likeness outside the logo; ``None`` where the logo leaves nothing to compare.
        opinion: what the surrogates make of it; ``None`` where the marker has none.
    """

    options: ProtectOptions
    plane: NDArray[np.float32]
    closeness: Closeness | None
    opinion: Opinion | None


@dataclass(frozen=True, repr=False)
class Preview:
    """One slice, as it is and under several choices.

    Attributes:
        original: ``(H, W, C)`` float32 in [0, 1], as a viewer shows it.
        samples: one for each choice.
        slice_number: of the slice, from 1.
        slices: of the stack.
    """

    original: NDArray[np.float32]
    samples: tuple[Sample, ...]
    slice_number: int
    slices: int


def preview(
    data: bytes,
    name: str,
    marker: Marker,
    choices: Sequence[ProtectOptions],
    *,
    slice_number: int | None = None,
    mask: tuple[bytes, str] | None = None,
    step: Callable[[], None] = lambda: None,
) -> Preview:
    """Mark one slice under several choices, in memory.

    The marks are of the kind that ``protect`` would make; each key gives others. A stack is protected as a whole, with
    one search for the place of the logo: on another slice than the one shown it may stand elsewhere.

    Args:
        data: the source file.
        name: its name, for messages.
        marker: makes the marks.
        choices: options to compare.
        slice_number: which slice of a stack, from 1; default: the middle one.
        mask: content and name of a file that is the region of all choices.
        step: is called after each choice.

    Raises:
        MIADMarkError: the image, or the mask, is of a kind that cannot be used.
        ValueError: there is no such slice, or the mask does not fit.
    """
    image = carrier_for(data, name).open_source(data, name).image
    slices = len(image.values)
    number = slices // 2 + 1 if slice_number is None else slice_number
    if not 1 <= number <= slices:
        raise ValueError(f"there is no slice {number}: the image has {slices}")
    at = number - 1
    if mask is not None:
        drawn = read_mask(*mask, data, name)
        region = drawn if drawn.ndim == 2 else drawn[at]
        choices = [replace(options, region=np.ascontiguousarray(region)) for options in choices]
    one = image.part([at])
    clean = seen_by_networks(one, canonical_display(one))
    samples = []
    for options in choices:
        watch = InkWatch(marker)
        values = apply_mark(one, make_mark(one, options, watch, os.urandom(32)))
        marked = one.with_values(values)
        samples.append(
            Sample(
                options,
                marked.shown(0),
                compare(one, values, watch.ink),
                predicted(marker, options.modality, clean, seen_by_networks(one, canonical_display(marked))),
            )
        )
        step()
    return Preview(one.shown(0), tuple(samples), number, slices)


def draw_preview(made: Preview, title: str) -> bytes:
    """A picture of a preview: the original, then presets across and styles down, each with its figures.

    Args:
        made: the preview.
        title: stands on top, as far as it fits.

    Returns:
        A PNG file.
    """
    presets = list(dict.fromkeys(_preset(sample) for sample in made.samples))
    styles = list(dict.fromkeys(sample.options.style for sample in made.samples))
    font, small = ImageFont.load_default(size=_FONT_SIZE), ImageFont.load_default(size=_FONT_SIZE - 3)
    captions = 4 * _LINE
    row = _TILE + captions + _GAP
    width = (1 + len(presets)) * (_TILE + _GAP) + _GAP
    top = 2 * _LINE + _GAP
    picture = Image.new("RGB", (width, top + max(1, len(styles)) * row), _PAPER)
    draw = ImageDraw.Draw(picture)
    where = f"slice {made.slice_number} of {made.slices}" if made.slices > 1 else ""
    head = normalized(f"{title}   {where}".rstrip())
    of_head = readable_font(head, _FONT_SIZE)  # of a file's name, in any language
    draw.text((_GAP, _GAP // 2), _fitting(head, of_head, width - 2 * _GAP), fill=_INK, font=of_head)
    about = "PSNR and SSIM outside the logo; answers are those of the models that marks are made against."
    draw.text((_GAP, _GAP // 2 + _LINE), _fitting(about, small, width - 2 * _GAP), fill=_QUIET, font=small)

    def put(plane: NDArray[np.float32], column: int, line: int, texts: Sequence[str]) -> None:
        x, y = _GAP + column * (_TILE + _GAP), top + line * row
        tile = _tile(plane)
        draw.rectangle((x, y, x + _TILE - 1, y + _TILE - 1), fill=(0, 0, 0))
        picture.paste(tile, (x + (_TILE - tile.width) // 2, y + (_TILE - tile.height) // 2))
        for number, text in enumerate(texts):
            kind, fill = (font, _INK) if number == 0 else (small, _QUIET)
            draw.text((x, y + _TILE + 2 + number * _LINE), _fitting(text, kind, _TILE), fill=fill, font=kind)

    told = [sample.opinion for sample in made.samples if sample.opinion is not None]
    first = ["original"] + ([f"models are {told[0].before:.0%} sure of their class"] if told else [])
    put(made.original, 0, 0, first)
    for sample in made.samples:
        put(sample.plane, 1 + presets.index(_preset(sample)), styles.index(sample.options.style), _texts(sample))
    out = io.BytesIO()
    picture.save(out, "PNG", optimize=True)
    return out.getvalue()


def default_name(source: Path) -> str:
    """Name of the picture of a file."""
    return f"{source.name}-preview.png"


def _preset(sample: Sample) -> str:
    """Name of a sample's preset."""
    return sample.options.preset if isinstance(sample.options.preset, str) else "own preset"


def _texts(sample: Sample) -> list[str]:
    """What stands below a sample."""
    texts = [f"{_preset(sample)}, {sample.options.style}"]
    found, told = sample.closeness, sample.opinion
    texts.append("nothing to compare" if found is None else f"PSNR {found.psnr:.1f} dB, SSIM {found.ssim:.3f}")
    if told is not None:
        texts.append(f"own class: {told.before:.0%} before, {told.after:.0%} after")
        texts.append(f"answers that stay the same: {told.kept:.0%}")
    return texts


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Text that is no wider than so many pixels; what is cut off is three dots."""
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:500])
    if font.getlength(shown) <= width:
        return shown
    while shown and font.getlength(shown + "...") > width:
        shown = shown[:-1]
    return shown + "..."


def _tile(plane: NDArray[np.float32]) -> Image.Image:
    """A plane as a picture of at most a tile; enlarged without smoothing, which would hide the mark."""
    pixels = np.rint(255 * plane).astype(np.uint8)
    shown = Image.fromarray(pixels[:, :, :3] if pixels.shape[2] >= 3 else pixels[:, :, 0]).convert("RGB")
    scale = _TILE / max(shown.size)
    kind = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST
    return shown.resize((max(1, round(shown.width * scale)), max(1, round(shown.height * scale))), kind)

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Small pictures of an image before and after, as ``data:`` URIs.

Whoever has a protected picture and the exact difference has the original. So both are never shown together, except
where originals are asked for: otherwise the difference is shown as its amount in coarse blocks, without its sign. That
is no original, but a hint for whoever tries to remove marks: pages are for those who may know the originals.
"""

from __future__ import annotations

import base64
import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from monai_miadmark.errors import MIADMarkError, UnsupportedImageError
from monai_miadmark.files import open_regular
from monai_miadmark.formats import carrier_for
from monai_miadmark.image import StoredImage
from monai_miadmark.marking import Marker, canonical_display, region_of, seen_by_networks, specialist_for
from monai_miadmark.masks import read_mask
from monai_miadmark.options import ProtectOptions
from monai_miadmark.protocols import recognized
from monai_miadmark.region import grow

__all__ = ["GAIN", "ChangedError", "Pair", "Picture", "Slot", "open_pair", "pictures", "sampled_slices"]

GAIN = 8
"""How much differences are amplified."""

_SIDE = 208
"""Pixels of the longer side of a picture."""

_BLOCK = 8
"""Cells of the canonical grid whose changes are shown as one."""

_MAX_ASKED = 8
"""Slices of a stack that models are asked about."""

_MAX_BYTES = 1 << 30
"""Larger files are not opened again for a picture."""

_REGION, _LOGO = (0, 190, 210), (240, 140, 30)


class ChangedError(MIADMarkError):
    """A file is not what the manifest says any more."""


class Slot(NamedTuple):
    """A file that belongs to a pair: its path, and the SHA-256 (hex) that it must have."""

    path: Path
    sha256: str


@dataclass(frozen=True, repr=False)
class Pair:
    """An image before and after.

    Attributes:
        original: as the source file holds it.
        protected: ``(N, H, W, C)``, of the same shape and type.
        source: the source file's bytes.
        name: its name.
    """

    original: StoredImage
    protected: NDArray[Any]
    source: bytes
    name: str

    def part(self, slices: list[int]) -> tuple[StoredImage, StoredImage]:
        """Some slices of both."""
        return self.original.part(slices), self.original.with_values(self.protected).part(slices)


class Picture(NamedTuple):
    """One small picture.

    Attributes:
        title: what it shows.
        uri: the picture itself.
        coarse: whether its pixels are blocks that are to be seen as such.
    """

    title: str
    uri: str
    coarse: bool = False


def open_pair(original: Slot, protected: Slot) -> Pair:
    """Open an original and its protected form again.

    Raises:
        ChangedError: one of them is not the file that the manifest names.
        MIADMarkError: one of them cannot be opened.
        OSError: one of them cannot be read.
    """
    source = _read(original)
    data = _read(protected)
    name = original.path.name
    image = carrier_for(source, name).open_source(source, name).image
    values = carrier_for(data, name).open_protected(data).values
    if (values.shape, values.dtype) != (image.values.shape, image.values.dtype):
        raise ChangedError("the protected file does not hold the samples of its source")
    return Pair(image, values, source, name)


def sampled_slices(count: int) -> list[int]:
    """Up to eight slices of a stack, evenly spread, the middle one of each part."""
    asked = min(count, _MAX_ASKED)
    return [(2 * i + 1) * count // (2 * asked) for i in range(asked)]


def pictures(
    pair: Pair, originals: bool, options: ProtectOptions | None, mask: Path | None, marker: Marker | None
) -> tuple[list[Picture], str]:
    """Pictures of the middle slice, and a caption that says which slice that is.

    Args:
        pair: the image.
        originals: show the original, and the difference exactly.
        options: with which it was protected; ``None`` where that is not known: then neither region nor logo is shown.
        mask: file of the region that was given.
        marker: finds the salient region again, where none was given.

    Raises:
        MIADMarkError: the mask cannot be used.
        OSError: the mask cannot be read.
        ValueError: the mask does not fit.
    """
    count = len(pair.original.values)
    at = count // 2
    before, after = pair.part([at])
    shown = [image.shown(0) for image in (before, after)]
    made = [Picture("original", _photo(_tile(shown[0])))] if originals else []
    made.append(Picture("protected", _photo(_tile(shown[1]))))
    cells = [canonical_display(image)[0] for image in (before, after)]
    change = cells[1] - cells[0]
    if originals:
        exact = np.clip(0.5 + GAIN * (shown[1] - shown[0]), 0, 1).astype(np.float32)
        made.append(Picture(f"difference x {GAIN}", _photo(_tile(exact))))
    else:
        blocks = np.clip(GAIN * _block_means(np.abs(change).mean(axis=0)), 0, 1)
        made.append(Picture(f"amount of change x {GAIN}, in blocks", _drawing(_gray(blocks[:, :, None])), coarse=True))
    if options is not None:
        region = _region(pair, before, at, options, mask, marker)
        logo = _logo(change, options)
        found = [name for name, cell in (("region", region), ("logo", logo)) if cell is not None and cell.any()]
        if found:
            made.append(Picture(" and ".join(found), _drawing(_outlined(_tile(shown[1]), region, logo))))
    return made, f"slice {at + 1} of {count}" if count > 1 else ""


def _read(slot: Slot) -> bytes:
    """A file, if it is the one that is meant."""
    with open_regular(slot.path) as (stream, status):
        if status.st_size > _MAX_BYTES:
            raise UnsupportedImageError("too large for a picture (more than 1 GiB)")
        data: bytes = stream.read(_MAX_BYTES + 1)
    if hashlib.sha256(data).hexdigest() != slot.sha256:
        raise ChangedError("changed since the job")
    return data


def _region(
    pair: Pair, before: StoredImage, at: int, options: ProtectOptions, mask: Path | None, marker: Marker | None
) -> NDArray[np.bool_] | None:
    """Cells of the region of one slice, ``(h, w)``; ``None`` where nobody can tell."""
    if mask is None and options.region == "none":
        return None
    clean = canonical_display(before)
    h, w = clean.shape[2:]
    if mask is not None:
        with open_regular(mask) as (stream, _):
            drawn = read_mask(stream.read(), mask.name, pair.source, pair.name)
        plane = drawn if drawn.ndim == 2 else drawn[at]
        rows, columns = np.arange(h) * plane.shape[0] // h, np.arange(w) * plane.shape[1] // w
        return np.asarray(plane[rows[:, None], columns], bool)
    if marker is None:
        return None
    # The same networks look at the same slice: they find what they found when the mark was made.
    height, width = before.values.shape[1:3]
    recognition = recognized(marker, options.modality, seen_by_networks(before, clean))
    recognition = None if recognition is None else recognition.beside(before.origin)
    doubtful = recognition is not None and recognition.known is False
    modality = options.modality if recognition is None else recognition.modality
    critic = specialist_for(before, modality, marker, clean).critic
    found = region_of(options, critic, clean, (1, height, width), doubtful)[1]
    return np.asarray(found.cells[0])


def _logo(change: NDArray[np.float32], options: ProtectOptions) -> NDArray[np.bool_] | None:
    """Cells that changed by more than any cell outside a logo may, ``(h, w)``."""
    if options.style != "visible":
        return None
    limit = options.strength.visibility.ceiling + 1.5 / 255
    cells: NDArray[np.bool_] = grow((np.abs(change).max(axis=0) > limit)[None], 1)[0]
    return cells


def _block_means(cells: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means over blocks of ``(h, w)`` cells; smaller blocks at the lower and right edges."""
    rows, columns = np.arange(0, cells.shape[0], _BLOCK), np.arange(0, cells.shape[1], _BLOCK)
    sums = np.add.reduceat(np.add.reduceat(cells.astype(np.float64), rows, 0), columns, 1)
    counts = np.outer(*(np.diff(np.append(a, n)) for a, n in ((rows, cells.shape[0]), (columns, cells.shape[1]))))
    return np.asarray(sums / counts, np.float32)


def _gray(plane: NDArray[np.float32]) -> Image.Image:
    """``(H, W, C)`` in [0, 1] as a picture: gray, or RGB where there are three channels or more."""
    pixels = np.rint(255 * plane).astype(np.uint8)
    return Image.fromarray(pixels[:, :, :3] if pixels.shape[2] >= 3 else pixels[:, :, 0])


def _tile(plane: NDArray[np.float32]) -> Image.Image:
    """A picture with a longer side of :data:`_SIDE` pixels, the other at least one."""
    picture = _gray(plane)
    scale = _SIDE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    kind: Literal[Image.Resampling.BOX, Image.Resampling.NEAREST]
    kind = Image.Resampling.BOX if scale < 1 else Image.Resampling.NEAREST
    return picture.resize(size, kind)


def _outlined(tile: Image.Image, region: NDArray[np.bool_] | None, logo: NDArray[np.bool_] | None) -> Image.Image:
    """The picture, dimmed, with the logo tinted and the region framed."""
    pixels = np.asarray(tile.convert("RGB"), np.float32) * 0.55
    if logo is not None:
        inside = _resized(logo, tile.size)
        pixels[inside] = 0.35 * pixels[inside] + 0.65 * np.asarray(_LOGO, np.float32)
    if region is not None:
        inside = _resized(region, tile.size)
        frame = inside & grow(~inside[None], 3)[0]
        frame[[0, 1, -2, -1]] |= inside[[0, 1, -2, -1]]
        frame[:, [0, 1, -2, -1]] |= inside[:, [0, 1, -2, -1]]
        pixels[frame] = _REGION
    return Image.fromarray(np.rint(pixels).astype(np.uint8))


def _resized(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """A mask on the grid of a picture."""
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST), bool)


def _photo(picture: Image.Image) -> str:
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode("ascii")


def _drawing(picture: Image.Image) -> str:
    out = io.BytesIO()
    picture.save(out, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode("ascii")

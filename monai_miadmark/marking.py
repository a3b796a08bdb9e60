# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""From an image and a custodian's options to a mark: region, budget, logo and field, in display units.

Networks come in through two protocols; this module and all below it know no torch.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from monai_miadmark.budget import block_scales, cell_budget, visibility_map
from monai_miadmark.exact import ImageMark, step_for
from monai_miadmark.field import quantize
from monai_miadmark.image import StoredImage, displayed
from monai_miadmark.interpolate import canonical_shape
from monai_miadmark.logo import Logo, load_logo, render_text
from monai_miadmark.options import PRESETS, Preset, ProtectOptions
from monai_miadmark.region import grow, mask_on_grid, salient_boxes

__all__ = ["MarkCritic", "Marker", "Perturber", "canonical_display", "footprint", "make_mark"]

_log = logging.getLogger(__name__)

_FOOTPRINT = 2
"""Cells around the ink of a logo that share its larger budget."""

_POSITIONS = 9
"""Places of the logo that are tried on each slice."""

_SEARCHED = 16
"""Slices of a stack on which places are tried."""

_OPACITIES = (0.7, 0.85, 1.0)
"""Opacities that are tried, as factors on the preset's."""


class Perturber(Protocol):
    """Makes perturbation fields."""

    def perturb(
        self, images: NDArray[np.float32], clean: NDArray[np.float32], budget: NDArray[np.float32], latent: bytes
    ) -> NDArray[np.float32]:
        """Fields for images.

        Args:
            images: ``(N, C, h, w)`` in [0, 1]: what will be perturbed, logo included.
            clean: the same without the logo.
            budget: ``(N, 1, h, w)``, amplitude allowed at each cell, fraction of the display window.
            latent: 32 bytes, drawn from the content key; the same latent gives the same field on one machine.

        Returns:
            ``(N, 1, h, w)``, or ``(N, C, h, w)`` for colors of their own, in [-1, 1], fraction of the budget. Whatever
            else comes back is clipped by the caller.
        """
        ...


class MarkCritic(Protocol):
    """Tells what diagnostic models look at and how far they are misled."""

    def saliency(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Importance of each cell, ``(N, h, w)``, not negative, for ``(N, C, h, w)`` images in [0, 1]."""
        ...

    def effect(self, images: NDArray[np.float32], clean: NDArray[np.float32]) -> NDArray[np.float32]:
        """How far ``(N * K, C, h, w)`` candidates, K for each of the N clean images, mislead: ``(N * K,)``."""
        ...


class Marker(Protocol):
    """What :func:`make_mark` needs from the network side."""

    @property
    def critic(self) -> MarkCritic:
        """The ensemble as a judge."""
        ...

    def perturber(self, preset: Preset) -> Perturber:
        """The perturber that a preset asks for."""
        ...


@dataclass(frozen=True)
class _Placement:
    """A logo and the canonical planes that follow from it."""

    logo: Logo | None
    images: NDArray[np.float32]  # (N, C, h, w) display, logo blended in
    footprint: NDArray[np.bool_]  # (N, h, w)


def canonical_display(image: StoredImage) -> NDArray[np.float32]:
    """The image on its canonical grid as a display shows it, ``(N, C, h, w)`` float32 in [0, 1], bright = 1.

    Padding and samples that are not finite are shown black.
    """
    slices, height, width, channels = image.values.shape
    h, w = canonical_shape(height, width)
    display = np.empty((slices, channels, h, w), np.float32)
    for n in range(slices):
        plane = displayed(image.values[n], image.window, image.padding)
        for c in range(channels):
            channel = plane[:, :, c]
            if (h, w) != (height, width):
                # A box filter is what area averaging means; Pillow does it quickly and needs no torch.
                shrunk = Image.fromarray(np.ascontiguousarray(channel)).resize((w, h), Image.Resampling.BOX)
                channel = np.asarray(shrunk)
            display[n, c] = channel
    return display


def make_mark(image: StoredImage, options: ProtectOptions, marker: Marker, latent: bytes) -> ImageMark:
    """Choose region, budget, logo and field for an image.

    Args:
        image: the stored samples.
        options: the custodian's choices.
        marker: networks.
        latent: 32 bytes from the content key.

    Returns:
        The mark in stored units, ready for :func:`monai_miadmark.exact.apply_mark`.

    Raises:
        ValueError: a region mask that does not fit the image, or a perturber that gives no field.
    """
    preset = PRESETS[options.preset]
    slices, height, width, _ = image.values.shape
    clean = canonical_display(image)
    h, w = clean.shape[2:]
    mask, region = locate_region(options, marker, clean, (slices, height, width))
    placed = _place_logo(image, options, preset, marker, clean, region)
    budget = visibility_map(clean, preset.visibility)
    budget = np.where(placed.footprint, np.maximum(budget, preset.footprint), budget)
    budget = np.where(region, np.minimum(budget, options.effective_region_budget), budget)
    if (h, w) != (height, width):  # interpolation spreads a cell over its neighbors
        region = grow(region, 1)
    scales = _capped_scales(budget, region, options.effective_region_budget)
    fraction = marker.perturber(preset).perturb(placed.images, clean, cell_budget(scales, h, w), latent)
    field = quantize(np.ascontiguousarray(np.moveaxis(_checked(fraction, clean.shape), 1, 3)), scales)
    if image.window.inverted:  # bright is small here: what the networks add, the stored values lose
        field = type(field)(-field.levels, field.scales)
    step, exponent = step_for(image.window, image.values.dtype)
    return ImageMark(field=field, logo=placed.logo, mask=mask, step=step, exponent=exponent)


def footprint(logo: Logo, slices: int, h: int, w: int) -> NDArray[np.bool_]:
    """Cells that share a logo's larger budget: its ink and two cells around it, ``(N, h, w)``."""
    return grow(np.stack([logo.coverage(n, h, w) > 0 for n in range(slices)]), _FOOTPRINT)


def _checked(fraction: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """What a perturber gave, clipped; nothing is known of it, and the budget must hold whatever it is."""
    field = np.asarray(fraction)
    fits = field.shape in (shape, (shape[0], 1, *shape[2:]))
    if not fits or field.dtype.kind not in "fiub" or np.isnan(field).any():
        found = "NaN" if fits and field.dtype.kind == "f" else f"{field.dtype} {field.shape}"
        raise ValueError(f"the perturber gave {found} instead of a field of shape {shape}")
    return np.clip(field, -1, 1).astype(np.float32, copy=False)


def locate_region(
    options: ProtectOptions, marker: Marker, clean: NDArray[np.float32], shape: tuple[int, int, int]
) -> tuple[NDArray[np.bool_] | None, NDArray[np.bool_]]:
    """Full-size mask of samples that stay as they are (or ``None``), and the region on the canonical grid."""
    slices, height, width = shape
    h, w = clean.shape[2:]
    if isinstance(options.region, str):
        if options.region == "none":
            return None, np.zeros((slices, h, w), bool)
        region = salient_boxes(marker.critic.saliency(clean))
        if options.effective_region_budget > 0:
            return None, region
        rows, columns = np.arange(height) * h // height, np.arange(width) * w // width
        return region[:, rows[:, None], columns], region
    mask = options.region
    if mask.shape[-2:] != (height, width) or (mask.ndim == 3 and len(mask) != slices):
        raise ValueError(f"the region mask has shape {mask.shape}, the image {shape}")
    mask = np.broadcast_to(mask, shape)
    region = mask_on_grid(mask, h, w)
    return (np.ascontiguousarray(mask) if options.effective_region_budget == 0 else None), region


def _capped_scales(budget: NDArray[np.float64], region: NDArray[np.bool_], cap: float) -> NDArray[np.uint8]:
    """Block scales in which every block that touches the region keeps to the region's budget."""
    scales = block_scales(budget)
    touched = block_scales(region.astype(np.float64)) > 0
    return np.where(touched, np.minimum(scales, block_scales(np.full((1, 1, 1), cap))[0, 0, 0]), scales)


def _place_logo(
    image: StoredImage,
    options: ProtectOptions,
    preset: Preset,
    marker: Marker,
    clean: NDArray[np.float32],
    region: NDArray[np.bool_],
) -> _Placement:
    """Search the place and opacity of the logo, slice by slice, outside the region."""
    slices, channels, h, w = clean.shape
    nothing = _Placement(None, clean, np.zeros((slices, h, w), bool))
    if options.style == "invisible":
        return nothing
    alpha = _drawing(options, preset, h, w)
    if alpha is None:
        _log.warning("the image is too small for a logo: only the perturbation is applied")
        return nothing
    positions = _positions(marker.critic, clean, region, alpha, preset.opacity)
    if (positions[:, 0] < 0).any():
        _log.warning(
            "%d of %d slices have no room for the logo outside the region", (positions[:, 0] < 0).sum(), slices
        )
    if (positions[:, 0] < 0).all():
        return nothing
    opacity = _choose_opacity(clean, alpha, positions, preset, marker)
    ink = image.window.low if image.window.inverted else image.window.high
    if image.values.dtype.kind != "f":
        ink = round(ink)
    logo = Logo(alpha, positions, opacity, (float(np.clip(ink, *image.bounds)),) * channels)
    cover = np.stack([logo.coverage(n, h, w) for n in range(slices)])
    blended = clean + (1 - clean) * (cover[:, None].astype(np.float32) / 255 * opacity / 256)
    return _Placement(logo, blended.astype(np.float32), footprint(logo, slices, h, w))


def _positions(
    critic: MarkCritic,
    clean: NDArray[np.float32],
    region: NDArray[np.bool_],
    alpha: NDArray[np.uint8],
    opacity: float,
) -> NDArray[np.int32]:
    """Most misleading free place of the logo on each slice, ``(N, 2)``; a negative row where there is none.

    In a long stack only some slices are searched. The others take over from the last one searched as long as their own
    region allows it, which also keeps the logo from jumping about while a reader scrolls.
    """
    slices = len(clean)
    every = -(-slices // _SEARCHED)
    positions = np.full((slices, 2), -1, np.int32)
    for n in range(slices):
        free = _free_positions(clean[n].mean(0), region[n], alpha.shape)
        last = (int(positions[n - 1, 0]), int(positions[n - 1, 1])) if n % every else None
        if last in free:
            positions[n] = last
        elif len(free) > 1:
            candidates = np.stack([_blend(clean[n], alpha, at, opacity) for at in free[:_POSITIONS]])
            positions[n] = free[int(critic.effect(candidates, clean[n : n + 1]).argmax())]
        elif free:
            positions[n] = free[0]
    return positions


def _drawing(options: ProtectOptions, preset: Preset, h: int, w: int) -> NDArray[np.uint8] | None:
    """The logo's alpha at a size that gives its box the preset's share of the image; ``None`` if nothing fits."""
    if min(h, w) < 16:
        return None
    probe = render_text(options.text, 128) if options.logo is None else load_logo(options.logo, 256)
    aspect = probe.shape[1] / probe.shape[0]
    tall = min(np.sqrt(preset.logo_area * h * w / aspect), 0.5 * h, 0.9 * w / aspect)
    size = (max(1, round(tall)), max(1, round(tall * aspect)))
    drawn = np.asarray(Image.fromarray(probe).resize((size[1], size[0]), Image.Resampling.BOX))
    return drawn if drawn.any() else None


def _free_positions(
    gray: NDArray[np.float32], region: NDArray[np.bool_], size: tuple[int, ...]
) -> list[tuple[int, int]]:
    """Places whose box, footprint included, misses the region, those with most tissue first."""
    h, w = gray.shape
    margin = _FOOTPRINT + 1
    rows = np.unique(np.linspace(0, h - size[0], 13).astype(int))
    columns = np.unique(np.linspace(0, w - size[1], 5).astype(int))
    found: list[tuple[float, int, int]] = []
    for top in rows:
        for left in columns:
            box = np.s_[max(0, top - margin) : top + size[0] + margin, max(0, left - margin) : left + size[1] + margin]
            if not region[box].any():
                found.append((-float(gray[box].mean()), int(top), int(left)))
    return [(top, left) for _, top, left in sorted(found)]


def _blend(
    clean: NDArray[np.float32], alpha: NDArray[np.uint8], at: tuple[int, int], opacity: float
) -> NDArray[np.float32]:
    """One slice ``(C, h, w)`` with white ink at a place."""
    out = clean.copy()
    box = np.s_[:, at[0] : at[0] + alpha.shape[0], at[1] : at[1] + alpha.shape[1]]
    out[box] += (1 - out[box]) * (alpha.astype(np.float32) / 255 * opacity)
    return out


def _choose_opacity(
    clean: NDArray[np.float32], alpha: NDArray[np.uint8], positions: NDArray[np.int32], preset: Preset, marker: Marker
) -> int:
    """Lightest of the candidate opacities that keeps 90 % of the effect of the strongest, in 1/256.

    A stack is judged by at most eight of its slices: opacity is one value for all of them.
    """
    bearing = np.nonzero(positions[:, 0] >= 0)[0]
    bearing = bearing[:: max(1, len(bearing) // 8)][:8]
    levels = [0.0, *(preset.opacity * f for f in _OPACITIES)]
    tried = np.stack(
        [
            _blend(clean[n], alpha, (int(positions[n, 0]), int(positions[n, 1])), level)
            for n in bearing
            for level in levels
        ]
    )
    effect = marker.critic.effect(tried, clean[bearing]).reshape(len(bearing), len(levels)).mean(0)
    most = effect[1:].max()
    enough = min(most, effect[0] + 0.9 * (most - effect[0]))  # the second is above the first where a logo only helps
    chosen = next(i for i, value in enumerate(effect[1:], 1) if value >= enough)
    return round(levels[chosen] * 256)

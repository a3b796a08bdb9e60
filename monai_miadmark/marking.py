# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""From an image and a custodian's options to a mark: region, budget, logo and field, in display units.

Networks come in through protocols; this module and all below it know no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from monai_miadmark.appearance import LEAST_GAIN, Appearance, appearance_of, area_means
from monai_miadmark.budget import block_scales, blocks_with, cell_budget, fit_to_likeness, likeness_budget
from monai_miadmark.exact import ImageMark, apply_mark, step_for
from monai_miadmark.field import Field, quantize
from monai_miadmark.image import StoredImage
from monai_miadmark.interpolate import canonical_shape
from monai_miadmark.locating import find_region
from monai_miadmark.logo import Logo
from monai_miadmark.lookalikes import Lookalikes, dither_pattern, dithered, shrunk
from monai_miadmark.options import Preset, ProtectOptions
from monai_miadmark.placement import Placement, Standing, footprint, place_logo
from monai_miadmark.protocols import (
    ByContrast,
    MarkCritic,
    Marker,
    Perturber,
    Specialist,
    split_contrasts,
    together,
    upon,
)
from monai_miadmark.region import Region, grow, mask_on_grid

__all__ = [
    "MarkCritic",
    "MarkPlan",
    "Marker",
    "Perturber",
    "SharedMark",
    "Specialist",
    "canonical_display",
    "check_region",
    "footprint",
    "locate_region",
    "make_mark",
    "mark_with",
    "plan_mark",
    "region_of",
    "seen_by_networks",
    "shared_field",
    "specialist_for",
]

_FEW = 6
"""Slices of a stack, or images of a series, on which the field is found that all have in common."""

_THOROUGH = 8
"""Rounds in which what could pass for a finding is taken out of a field that is to be stored."""


def canonical_display(image: StoredImage) -> NDArray[np.float32]:
    """The image on its canonical grid as a display shows it, ``(N, C, h, w)`` float32 in [0, 1], bright = 1.

    Each channel of each slice is shown in its own window; padding and samples that are not finite are black.
    """
    slices, height, width, channels = image.values.shape
    h, w = canonical_shape(height, width)
    display = np.empty((slices, channels, h, w), np.float32)
    for n in range(slices):
        plane = image.shown(n)
        for c in range(channels):
            display[n, c] = area_means(plane[:, :, c], h, w)
    return display


def seen_by_networks(image: StoredImage, display: NDArray[np.float32]) -> NDArray[np.float32]:
    """An image on a display ``(N, C, h, w)`` as networks are shown it: several contrasts as a gray image each.

    Returns:
        ``(N, 1 or 3, h, w)``, or ``(N * C, 1, h, w)`` where channels are contrasts.
    """
    return split_contrasts(display) if image.contrasts else display


def specialist_for(image: StoredImage, modality: str, marker: Marker, clean: NDArray[np.float32]) -> Specialist:
    """The networks for an image, which is ``clean`` on a display; they see its contrasts one by one."""
    specialist = marker.specialist(modality, seen_by_networks(image, clean))
    return ByContrast(specialist) if image.contrasts else specialist


@dataclass(frozen=True, eq=False)
class MarkPlan:
    """All of a mark but its field, on the canonical grid.

    Attributes:
        clean: ``(N, C, h, w)`` float32 in [0, 1], the image as a display shows it.
        mask: full-size mask of samples that stay as they are, ``(N, H, W)`` bool, or ``None``.
        region: ``(N, h, w)`` bool, the part that a reader needs most.
        touched: ``(N, h, w)`` bool, cells whose amplitude reaches the region: in images of another size than the
            grid's, interpolation spreads a cell over its neighbors.
        cap: largest amplitude there, fraction of the window.
        placed: the logo, and the image with it as a display shows it once it is stored.
        appearance: the same image, and what a display shows of a field on it.
        gain: ``(N, h, w)``, share of a usual amplitude that it shows; ``None``: all.
        logo: ``(N, h, w)`` bool, cells that share the logo's budget; likeness does not count them.
        budget: ``(N, h, w)``, largest amplitude at each cell, fraction of the window.
        scales: block scales that hold the budget.
        found: the region with how sure it is, and what it rests on.
    """

    clean: NDArray[np.float32]
    mask: NDArray[np.bool_] | None
    region: NDArray[np.bool_]
    touched: NDArray[np.bool_]
    cap: float
    placed: Placement
    appearance: Appearance
    gain: NDArray[np.float32] | None
    logo: NDArray[np.bool_]
    budget: NDArray[np.float64]
    scales: NDArray[np.uint8]
    found: Region

    def cells(self) -> NDArray[np.float32]:
        """What a display shows of the budget at each cell as the record can hold it, ``(N, 1, h, w)``."""
        return self.appearance.visible(cell_budget(self.scales, *self.clean.shape[2:]))


@dataclass(frozen=True, eq=False)
class SharedMark:
    """What the marks of a series have in common.

    Attributes:
        standing: how the logo stands; ``None`` where there is none.
        base: ``(F, h, w)`` float32 in [-1, 1], the field that a share of each field is.
    """

    standing: Standing | None
    base: NDArray[np.float32]


def plan_mark(
    image: StoredImage,
    options: ProtectOptions,
    critic: MarkCritic,
    clean: NDArray[np.float32] | None = None,
    unsure: bool = False,
    standing: Standing | None = None,
) -> MarkPlan:
    """Choose region, logo and budget for an image.

    Args:
        image: the stored samples.
        options: the custodian's choices.
        critic: says what is salient and where the logo misleads.
        clean: :func:`canonical_display` of the image, where it is known.
        unsure: what the image shows is not known: no detector of lesions is believed, and the logo keeps to the border.
        standing: how the logo stands on other images of the series; default: it is searched.

    Raises:
        FileNotFoundError: there is no such logo file.
        ValueError: a region mask that does not fit the image, or a logo that cannot be drawn.
    """
    preset = options.strength
    slices, height, width, _ = image.values.shape
    clean = canonical_display(image) if clean is None else clean
    mask, found = region_of(options, critic, clean, (slices, height, width), unsure)
    region = found.cells
    placed = place_logo(image, options, critic, clean, region, found.unsure | unsure, standing)
    placed, inked = _stored_logo(image, placed, mask)
    seen = appearance_of(inked, placed.images, max(preset.visibility.ceiling, preset.footprint))
    cap = options.region_limit(float(region.mean(axis=(1, 2)).max()))
    logo = placed.footprint & ~region
    gain = seen.gain(preset.visibility.ceiling / 2)
    budget = likeness_budget(clean, preset.visibility, region, cap, logo, quick=not preset.search, gain=gain)
    np.maximum(budget, preset.footprint, out=budget, where=logo if gain is None else logo & (gain >= LEAST_GAIN))
    touched = grow(region, 1) if region.shape[1:] != (height, width) else region
    scales = _capped_scales(budget, touched, cap)
    return MarkPlan(clean, mask, region, touched, cap, placed, seen, gain, logo, budget, scales, found)


def _stored_logo(
    image: StoredImage, placed: Placement, mask: NDArray[np.bool_] | None
) -> tuple[Placement, StoredImage]:
    """A placement with what a display shows of its logo once that is stored, and the image with that logo."""
    if placed.logo is None:
        return placed, image
    inked = image.with_values(apply_mark(image, _in_stored_units(image, None, placed.logo, mask)))
    return replace(placed, images=canonical_display(inked)), inked


def _in_stored_units(
    image: StoredImage, field: Field | None, logo: Logo | None, mask: NDArray[np.bool_] | None
) -> ImageMark:
    """A mark for an image. Where all samples lie within their windows, ink needs not be told of these."""
    steps, exponents = zip(*(step_for(window, image.values.dtype) for window in image.windows), strict=True)
    windows = None
    if logo is not None and not _within_windows(image):
        windows = tuple((window.low, window.high) for window in image.windows)
    return ImageMark(field, logo, mask, steps, exponents, windows)


def _within_windows(image: StoredImage) -> bool:
    """Whether bringing samples into their windows would change none of them."""
    for n in range(len(image.values)):
        for c, window in enumerate(image.windows_of(n)):
            samples = image.values[n, :, :, c]
            if not (float(samples.min()) >= np.floor(window.low) and float(samples.max()) <= np.ceil(window.high)):
                return False
    return True


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
        FileNotFoundError: there is no such logo file.
        ValueError: a region mask that does not fit the image, a logo that cannot be drawn, or a perturber that gives no
            field.
    """
    clean = canonical_display(image)
    return mark_with(specialist_for(image, options.modality, marker, clean), image, options, latent, clean)[0]


def mark_with(
    specialist: Specialist,
    image: StoredImage,
    options: ProtectOptions,
    latent: bytes,
    clean: NDArray[np.float32],
    unsure: bool = False,
    shared: SharedMark | None = None,
) -> tuple[ImageMark, Region]:
    """As :func:`make_mark`, with the networks of a modality that is known.

    Args:
        specialist: the networks.
        image: the stored samples.
        options: the custodian's choices.
        latent: 32 bytes from the content key.
        clean: :func:`canonical_display` of the image.
        unsure: what the image shows is not known; see :func:`plan_mark`.
        shared: what it has in common with other images of its series. The slices of a stack are a series of their own.

    Returns:
        The mark, and the region that it spares.
    """
    preset = options.strength
    standing = None if shared is None else shared.standing
    plan = plan_mark(image, options, specialist.critic, clean, unsure, standing)
    perturber = specialist.perturber(preset)
    if shared is not None:
        perturber = upon(perturber, shared.base)
    elif len(clean) > 1:
        perturber = upon(perturber, shared_field(perturber, plan, latent))
    # Copies: what a perturber does to its arguments must not change what its field is measured against.
    shown = plan.placed.images.copy(), clean.copy()
    fraction = _checked(perturber.perturb(*shown, plan.cells(), latent), clean.shape)
    if plan.gain is not None:  # a block has one scale, also where not all of its cells show
        fraction = fraction * (plan.gain >= LEAST_GAIN)[:, None]
    levels, scales = _fitted(plan, fraction, preset, image.contrasts)
    field = quantize(np.ascontiguousarray(np.moveaxis(levels, 1, 3)), scales)
    if image.inverted:  # bright is small here: what the networks add, the stored values lose
        field = Field(-field.levels, field.scales)
    return _in_stored_units(image, field, plan.placed.logo, plan.mask), plan.found


def shared_field(perturber: Perturber, plan: MarkPlan, latent: bytes) -> NDArray[np.float32]:
    """A field for all slices of a plan, found on a few of them, ``(F, h, w)`` in [-1, 1].

    Neighbouring slices of a volume look alike. Fields that have nothing to do with each other flicker while a reader
    scrolls, and whoever averages neighbours takes most of them away.
    """
    count = len(plan.clean)
    few = [(2 * i + 1) * count // (2 * min(count, _FEW)) for i in range(min(count, _FEW))]
    parts = (plan.placed.images[few], plan.clean[few], plan.cells()[few])
    found = _checked(together(perturber).perturb(*parts, latent), parts[1].shape)
    base = found.mean(axis=0)
    # The mean of fields that differ is weak: as strong as they are, it can bear a share of the budget.
    strength = float(np.abs(found).mean()) / max(float(np.abs(base).mean()), 1e-6)
    return np.asarray(np.clip(base * np.float32(strength), -1, 1), np.float32)


def _fitted(
    plan: MarkPlan, fraction: NDArray[np.float32], preset: Preset, contrasts: bool
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """A field rounded to levels, and scales with which it keeps to the likeness and to :class:`Lookalikes`."""
    lookalikes = Lookalikes(plan.clean, plan.logo[:, None].astype(np.float32), preset.visibility, contrasts)
    size, scales = plan.clean.shape[2:], plan.scales
    for _ in range(2):  # what is limited leaves room for more of the rest, of which some has to be limited again
        cells = cell_budget(scales, *size)
        kept = lookalikes.limited(fraction * cells, _THOROUGH) / np.maximum(cells, np.float32(1e-6))
        levels = np.asarray(dithered(np.clip(kept, -1, 1), dither_pattern(*size)), np.float32)
        budget = fit_to_likeness(
            plan.clean,
            plan.appearance,
            levels,
            plan.budget,
            preset.visibility,
            plan.region,
            plan.cap,
            plan.logo,
            quick=not preset.search,
        )
        scales = _capped_scales(budget, plan.touched, plan.cap)
    return levels, shrunk(lookalikes, levels, scales)


def _checked(fraction: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """What a perturber gave, clipped; nothing is known of it, and the budget must hold whatever it is."""
    field = np.asarray(fraction)
    fits = field.shape in (shape, (shape[0], 1, *shape[2:]))
    if not fits or field.dtype.kind not in "fiub" or np.isnan(field).any():
        found = "NaN" if fits and field.dtype.kind == "f" else f"{field.dtype} {field.shape}"
        raise ValueError(f"the perturber gave {found} instead of a field of shape {shape}")
    return np.clip(field, -1, 1).astype(np.float32, copy=False)


def check_region(mask: NDArray[np.bool_], shape: tuple[int, ...]) -> None:
    """Raise ValueError for a region mask that is not on the grid ``(N, H, W)`` of the image."""
    if mask.shape[-2:] != shape[1:] or (mask.ndim == 3 and len(mask) != shape[0]):
        raise ValueError(f"the region mask has shape {mask.shape}, the image {shape}")


def region_of(
    options: ProtectOptions,
    critic: MarkCritic,
    clean: NDArray[np.float32],
    shape: tuple[int, int, int],
    unsure: bool = False,
) -> tuple[NDArray[np.bool_] | None, Region]:
    """Full-size mask of samples that stay as they are (or ``None``), and the region on the canonical grid.

    Args:
        options: the custodian's choices.
        critic: says what is salient where a region is to be found, and by its attribute ``modality``, if it has one,
            which detector of lesions to ask.
        clean: ``(N, C, h, w)`` in [0, 1].
        shape: slices, height and width of the image.
        unsure: what the image shows is not known.

    Raises:
        ValueError: a region mask that does not fit the image.
    """
    slices, height, width = shape
    h, w = clean.shape[2:]
    if isinstance(options.region, str):
        if options.region == "none":
            return None, Region.certain(np.zeros((slices, h, w), bool), "none")
        found = find_region(critic, clean, quick=not options.strength.search, unsure=unsure)
        if options.effective_region_budget > 0:
            return None, found
        rows, columns = np.arange(height) * h // height, np.arange(width) * w // width
        return found.cells[:, rows[:, None], columns], found
    mask = options.region
    check_region(mask, shape)
    mask = np.broadcast_to(mask, shape)
    found = Region.certain(mask_on_grid(mask, h, w), "mask")
    return (np.ascontiguousarray(mask) if options.effective_region_budget == 0 else None), found


def locate_region(
    options: ProtectOptions, critic: MarkCritic, clean: NDArray[np.float32], shape: tuple[int, int, int]
) -> tuple[NDArray[np.bool_] | None, NDArray[np.bool_]]:
    """:func:`region_of` with the region's cells alone."""
    mask, found = region_of(options, critic, clean, shape)
    return mask, found.cells


def _capped_scales(budget: NDArray[np.float64], region: NDArray[np.bool_], cap: float) -> NDArray[np.uint8]:
    """Block scales in which every block that touches the region keeps to the region's budget."""
    scales = block_scales(budget)
    touched = blocks_with(region)
    return np.where(touched, np.minimum(scales, block_scales(np.full((1, 1, 1), cap))[0, 0, 0]), scales)

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Where the visible logo stands, how large, how turned, in which ink and how strong: what misleads most is taken.

The search goes from coarse to fine, because every candidate costs a pass through the ensemble: places and inks with the
drawing upright at its middle size, then sizes and angles around the best place, then opacity. For a single image that
is at most 12 + 11 + 4 candidates and three clean images. Where the region is not sure, the logo keeps to the border,
and places with the least content are tried (:mod:`monai_miadmark.quiet`). Nothing here takes part in restoring: the
record holds the drawing as it was turned and scaled.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from monai_miadmark.appearance import inkable_share
from monai_miadmark.image import StoredImage, Window
from monai_miadmark.logo import Logo, draw_logo
from monai_miadmark.options import ProtectOptions
from monai_miadmark.quiet import content, middle
from monai_miadmark.region import grow

__all__ = ["EffectJudge", "Placement", "Standing", "footprint", "place_logo"]

_log = logging.getLogger(__name__)

_FOOTPRINT = 2
"""Cells around the ink of a logo that share its larger budget."""

_MARGIN = _FOOTPRINT + 1
"""Cells between ink and region: the footprint, and one more over which interpolation spreads it."""

_PLACES = 6
"""Places of the logo that are tried on each slice, each in every ink that can be read there."""

_QUIET_PLACES = 3
"""Places that are tried where the logo keeps to the border: the first has least content, and few others come near."""

_SEARCHED = 16
"""Slices of a stack on which places are tried."""

_JUDGED = 8
"""Slices of a stack by which size, angle and opacity are judged: they are one for the whole stack."""

_AREAS = (1.0, 0.8, 1.25)
"""Sizes that are tried, as factors on the preset's share of the image; the first is the middle."""

_TIGHT_AREAS = (0.64, 0.5, 0.36, 0.25, 0.16, 0.09)
"""Sizes where the region leaves no room for those; the least is still read on a grid of 128 cells."""

_ENOUGH_SLICES = 0.9
"""A larger drawing is kept if it has room on this share of the slices that the smallest has room on."""

_ANGLES = (0, -20, 20)
"""Degrees, counterclockwise; long drawings are tried at 90 too."""

_LONG = 6
"""Width over height from which a drawing may also run up the side of an image."""

_LEGIBLE = 0.2
"""Ink can be read where it differs from nearly all that lies under it by so much of the display window."""

_LOST = 0.08
"""Share of the ink that may be lost on ground of its own color without the logo counting as hard to read."""

_EDGE = 0.02
"""Free border as a share of the image's sides, where there is room for it: ink flush with the edge looks cut off."""

_OPACITIES = (0.7, 0.85, 1.0)
"""Opacities that are tried, as factors on the preset's."""

_NOWHERE = (-1, -1)

_Place = tuple[int, int]  # row and column of the top left corner, in cells


class EffectJudge(Protocol):
    """Tells how far diagnostic models are misled; every :class:`monai_miadmark.marking.MarkCritic` is one."""

    def effect(self, images: NDArray[np.float32], clean: NDArray[np.float32]) -> NDArray[np.float32]:
        """How far ``(N * K, C, h, w)`` candidates, K for each of the N clean images, mislead: ``(N * K,)``."""
        ...


@dataclass(frozen=True, eq=False)
class Standing:
    """How a logo stands on the images of a series, so that others of it get the same one.

    Attributes:
        alpha: uint8 ``(lh, lw)``, the drawing on the canonical grid.
        opacity: 0..191 (of 256).
        bright: white ink; else black.
        place: row and column of its top left corner, in cells.
    """

    alpha: NDArray[np.uint8]
    opacity: int
    bright: bool
    place: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Placement:
    """A logo and the canonical planes that follow from it.

    Attributes:
        logo: ``None`` where there is no logo.
        images: ``(N, C, h, w)`` float32 in [0, 1], bright = 1, logo blended in (here on the grid itself, which differs
            a little at the edges of the ink from what is stored later).
        footprint: ``(N, h, w)`` bool, cells that share the logo's budget.
        standing: how the logo stands on most of the slices; ``None`` where there is no logo.
    """

    logo: Logo | None
    images: NDArray[np.float32]
    footprint: NDArray[np.bool_]
    standing: Standing | None = None


@dataclass(frozen=True, eq=False)
class _Ink:
    """White or black.

    Attributes:
        stored: a stored value for each window of the image, in their order.
        shown: ``(N, C, 1, 1)`` float32 in [0, 1], the same on the display.
    """

    stored: tuple[float, ...]
    shown: NDArray[np.float32]


def place_logo(
    image: StoredImage,
    options: ProtectOptions,
    judge: EffectJudge,
    clean: NDArray[np.float32],
    region: NDArray[np.bool_],
    unsure: NDArray[np.bool_] | None = None,
    standing: Standing | None = None,
) -> Placement:
    """Search place, ink, size, angle and opacity of the logo, outside the region.

    Drawing, ink, opacity and place are one for a stack; only where the region of a slice is in the way does the logo
    stand elsewhere on it, as near as it can.

    Args:
        image: the stored samples, for window, bounds and type.
        options: the custodian's choices.
        judge: the ensemble; not asked by presets that do not search.
        clean: ``(N, C, h, w)`` float32 in [0, 1], the image on its canonical grid.
        region: ``(N, h, w)`` bool, cells that neither ink nor footprint may touch.
        unsure: ``(N,)`` bool, slices on which the lesion may as well lie outside the region: the logo keeps out of the
            middle, and stands where there is least to see. Default: none.
        standing: how the logo stands on other images of the series: then nothing is searched.

    Returns:
        The logo blended in; without a logo if none is wanted or none fits.

    Raises:
        FileNotFoundError: there is no such logo file.
        ValueError: a logo that cannot be drawn.
    """
    slices, channels, h, w = clean.shape
    nothing = Placement(None, clean, np.zeros((slices, h, w), bool))
    if options.style == "invisible":
        return nothing
    preset = options.strength
    angles = _ANGLES if preset.search else (0,)  # the others would be drawn for nothing
    upright = draw_logo(options.logo, options.text)
    drawings = _drawings(upright, preset.logo_area, h, w, angles)
    if not drawings:
        _log.warning("the image is too small for a logo: only the perturbation is applied")
        return nothing
    quiet = np.zeros(slices, bool) if unsure is None else unsure
    closed = region | (quiet[:, None, None] & middle(h, w))
    search = _Search(
        judge if preset.search else None, clean, closed, _inks(image), preset.opacity, quiet, inkable_share(image, h, w)
    )
    if standing is not None:
        ink = search.inks[0 if standing.bright else 1]
        alpha, positions = standing.alpha, search.around(standing.alpha, standing.place)
    else:
        tight = _drawings(upright, preset.logo_area, h, w, (0, 90), _TIGHT_AREAS)
        alpha, positions, ink = search.places([*drawings[:2], *sorted(tight, key=lambda drawing: -drawing.size)])
    without = int((positions[:, 0] < 0).sum())
    if without:
        _log.warning("%d of %d slices have no room for the logo outside the region", without, slices)
    if without == slices:
        return nothing
    opacity = round(preset.opacity * 256) if standing is None else standing.opacity
    if preset.search and standing is None:
        alpha, positions = search.drawing(judge, drawings, alpha, positions, ink)
        opacity = search.opacity_for(judge, alpha, positions, ink)
    logo = Logo(alpha, positions, opacity, ink.stored if len(ink.stored) > 1 else ink.stored * channels)
    blended = np.stack(
        [
            search.blend(n, alpha, _at(positions, n), ink, opacity / 256) if positions[n, 0] >= 0 else clean[n]
            for n in range(slices)
        ]
    )
    most = Counter(_at(positions, n) for n in range(slices) if positions[n, 0] >= 0).most_common(1)[0][0]
    made = Standing(alpha, opacity, ink is search.inks[0], most)
    return Placement(logo, blended, footprint(logo, slices, h, w), made)


def footprint(logo: Logo, slices: int, h: int, w: int) -> NDArray[np.bool_]:
    """Cells that share a logo's larger budget: its ink and two cells around it, ``(N, h, w)``."""
    return grow(np.stack([logo.coverage(n, h, w) > 0 for n in range(slices)]), _FOOTPRINT)


def _box_counts(
    plane: NDArray[np.bool_],
    above: NDArray[np.int64],
    below: NDArray[np.int64],
    before: NDArray[np.int64],
    after: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Cells of a mask in the boxes of all pairs of row and column ranges, ``(rows, columns)``."""
    sums = np.zeros((plane.shape[0] + 1, plane.shape[1] + 1), np.int64)
    sums[1:, 1:] = plane.cumsum(0).cumsum(1)
    strips = sums[below] - sums[above]
    boxes: NDArray[np.int64] = strips[:, after] - strips[:, before]
    return boxes


def _inks(image: StoredImage) -> tuple[_Ink, ...]:
    """White and black as the image can store them; whatever the bounds allow, the display tells how it looks."""
    found = []
    for bright in (True, False):
        levels = {window: _ink_level(image, window, bright) for window in image.windows}
        shown = [[levels[window][1] for window in image.windows_of(n)] for n in range(len(image.values))]
        stored = tuple(levels[window][0] for window in image.windows)
        found.append(_Ink(stored, np.array(shown, np.float32)[:, :, None, None]))
    return tuple(found)


def _ink_level(image: StoredImage, window: Window, bright: bool) -> tuple[float, float]:
    """Stored value of white or black ink in a window, and what a display makes of it, 0 ... 1."""
    value = window.high if bright != window.inverted else window.low
    if image.values.dtype.kind != "f":
        value = round(value)
    value = float(np.clip(value, *image.bounds))
    share = float(np.clip((value - window.low) / window.width, 0, 1))
    return value, 1 - share if window.inverted else share


def _drawings(
    upright: NDArray[np.uint8],
    area: float,
    h: int,
    w: int,
    angles: tuple[int, ...] = _ANGLES,
    areas: tuple[float, ...] = _AREAS,
) -> list[NDArray[np.uint8]]:
    """The drawing in all sizes and angles that fit the image, those upright first, the middle size before all.

    The area is that of the drawing's own box, which turning leaves as it is. An upright drawing that would be too large
    is made smaller; one that is turned is left out.
    """
    if min(h, w) < 16:
        return []
    aspect = upright.shape[1] / upright.shape[0]
    if len(angles) > 1 and aspect >= _LONG:
        angles = tuple(dict.fromkeys((*angles, 90)))
    sources = {angle: _turned(upright, angle) for angle in angles}
    found: dict[tuple[int, tuple[int, ...]], NDArray[np.uint8]] = {}
    for angle, source in sources.items():
        across, along = (h, w) if angle != 90 else (w, h)
        for factor in areas:
            tall = min(np.sqrt(factor * area * h * w / aspect), 0.5 * across, 0.9 * along / aspect)
            shrink = tall / upright.shape[0]
            size = max(1, round(source.shape[0] * shrink)), max(1, round(source.shape[1] * shrink))
            if size[0] > 0.9 * h + 0.5 or size[1] > 0.9 * w + 0.5:
                continue
            drawn = np.asarray(Image.fromarray(source).resize((size[1], size[0]), Image.Resampling.BOX))
            if drawn.any():
                found.setdefault((angle, size), drawn)
    return list(found.values())


def _turned(alpha: NDArray[np.uint8], angle: int) -> NDArray[np.uint8]:
    """The drawing turned counterclockwise and cropped to its ink."""
    if angle == 0:
        return alpha
    turned = Image.fromarray(alpha).rotate(angle, Image.Resampling.BICUBIC, expand=True)
    return np.asarray(turned.crop(turned.getbbox()))


@dataclass(frozen=True, eq=False)
class _Search:
    """What stays the same while a logo is searched.

    Attributes:
        judge: the ensemble; ``None`` where places are only to be read well.
        clean: ``(N, C, h, w)`` in [0, 1].
        region: ``(N, h, w)``, not to be touched.
        inks: candidates.
        opacity: of the preset.
        quiet: ``(N,)`` bool, slices on which places with the least content are tried instead of those with most tissue.
        inkable: ``(N, h, w)``, share of the samples of a cell that ink can move; ``None``: all of them.
    """

    judge: EffectJudge | None
    clean: NDArray[np.float32]
    region: NDArray[np.bool_]
    inks: tuple[_Ink, ...]
    opacity: float
    quiet: NDArray[np.bool_]
    inkable: NDArray[np.float32] | None = None

    def places(self, drawings: Sequence[NDArray[np.uint8]]) -> tuple[NDArray[np.uint8], NDArray[np.int32], _Ink]:
        """First drawing that has room, its places on the slices ``(N, 2)``, and the ink.

        All slices share the place that misleads most among those that the regions of most of them allow, so that the
        logo does not jump about while a reader scrolls. In a long stack only some slices are asked.
        """
        slices = len(self.clean)
        alpha, free = self.roomy(drawings)
        bearing = [n for n in range(slices) if free[n]]
        if not bearing:
            return alpha, np.full((slices, 2), -1, np.int32), self.inks[0]
        shared = _shared([free[n] for n in bearing])
        asked = [n for n in bearing if shared[0] in free[n]]
        quiet = bool(self.quiet[asked].any())
        places = _apart(shared, alpha.shape, _QUIET_PLACES if quiet else _PLACES)
        found: dict[tuple[_Place, _Ink], list[float]] = {}
        for n in asked[:: -(-len(asked) // _SEARCHED)]:
            own = [place for place in places if place in free[n]]
            for key, effect in self.effects(n, alpha, own, self.inks).items() if own else ():
                found.setdefault(key, []).append(effect)
        # What can be read on more slices goes before what misleads more.
        place, ink = max(found, key=lambda key: (len(found[key]), float(np.mean(found[key]))))
        return alpha, self.around(alpha, place, free), ink

    def around(
        self, alpha: NDArray[np.uint8], place: _Place, free: Sequence[list[_Place]] | None = None
    ) -> NDArray[np.int32]:
        """A place on all slices ``(N, 2)``: where a region is in the way the nearest one that is free, else none."""
        spread = _spread_ink(alpha)
        positions = np.full((len(self.clean), 2), -1, np.int32)
        for n in range(len(self.clean)):
            if self.misses(n, spread, place):
                positions[n] = place
            elif own := self.free(n, alpha) if free is None else free[n]:
                positions[n] = min(own, key=lambda at: ((at[0] - place[0]) ** 2 + (at[1] - place[1]) ** 2, at))
        return positions

    def roomy(self, drawings: Sequence[NDArray[np.uint8]]) -> tuple[NDArray[np.uint8], list[list[_Place]]]:
        """First of the drawings that has room on nearly all slices that any has room on, and its places on each."""
        slices = range(len(self.clean))
        least: int | None = None
        for alpha in drawings:
            free = [self.free(n, alpha) for n in slices]
            count = sum(map(bool, free))
            if count < len(slices) and least is None:
                least = sum(bool(self.free(n, drawings[-1])) for n in slices)
            if count == len(slices) or (count and count >= _ENOUGH_SLICES * (least or 0)):
                break
        return alpha, free

    def free(self, n: int, alpha: NDArray[np.uint8]) -> list[_Place]:
        """Places on a slice where ink and footprint miss the region, with most tissue, or least content, first."""
        ground = content(self.clean[n]) if self.quiet[n] else -self.clean[n].mean(0)
        (h, w), (lh, lw) = ground.shape, alpha.shape
        spread = _spread_ink(alpha)
        rows, columns = (_room(side, size) for side, size in ((h, lh), (w, lw)))
        tops = np.unique(np.linspace(*rows, 13).astype(int))
        lefts = np.unique(np.linspace(*columns, 7).astype(int))
        (above, below), (before, after) = (
            (np.maximum(first - _MARGIN, 0), np.minimum(first - _MARGIN + size, side))
            for first, size, side in ((tops, spread.shape[0], h), (lefts, spread.shape[1], w))
        )
        # Most places are so far away from the region that their ink need not be looked at.
        near = _box_counts(self.region[n], above, below, before, after) > 0
        found = [
            (float(ground[above[i] : below[i], before[j] : after[j]].mean()), top, left)
            for i, top in enumerate(tops.tolist())
            for j, left in enumerate(lefts.tolist())
            if not near[i, j] or self.misses(n, spread, (top, left))
        ]
        return [(top, left) for _, top, left in sorted(found)]

    def misses(self, n: int, spread: NDArray[np.bool_], at: _Place) -> bool:
        """Whether ink with its margin (``_spread_ink``) touches no region when the drawing stands at a place."""
        top, left = at[0] - _MARGIN, at[1] - _MARGIN
        box = self.region[n, max(0, top) : top + spread.shape[0], max(0, left) : left + spread.shape[1]]
        cut = spread[max(0, -top) :, max(0, -left) :][: box.shape[0], : box.shape[1]]
        return not (box & cut).any()

    def effects(
        self, n: int, alpha: NDArray[np.uint8], places: Sequence[_Place], inks: Sequence[_Ink]
    ) -> dict[tuple[_Place, _Ink], float]:
        """Effect of the places and inks that can be read on a slice; of those that can best, if none can."""
        contrasts = {(at, ink): self.contrast(n, alpha, at, ink) for at in places for ink in inks}
        enough = min(_LEGIBLE, 0.5 * max(contrasts.values()))
        tried = [key for key, contrast in contrasts.items() if contrast >= enough]
        # Nobody judges: what is read best, but near the border what comes first.
        effects = [contrasts[key] - (places.index(key[0]) if self.quiet[n] else 0) for key in tried]
        if self.judge is not None:
            candidates = np.stack([self.blend(n, alpha, at, ink, self.opacity) for at, ink in tried])
            effects = self.judge.effect(candidates, self.clean[n : n + 1]).tolist()
        return dict(zip(tried, effects, strict=True))

    def contrast(self, n: int, alpha: NDArray[np.uint8], at: _Place, ink: _Ink) -> float:
        """Difference between ink and what lies under it that nearly all inked cells exceed, 0 ... 1.

        Not the mean: a logo half of which is white on white has a good mean and cannot be read.
        """
        box = np.s_[..., at[0] : at[0] + alpha.shape[0], at[1] : at[1] + alpha.shape[1]]
        difference = np.abs(ink.shown[n] - self.clean[n][box]).mean(0)
        if self.inkable is not None:  # ink on padding is never seen
            difference = difference * self.inkable[n][box]
        return float(np.quantile(difference[2 * alpha.astype(int) >= alpha.max()], _LOST))

    def blend(self, n: int, alpha: NDArray[np.uint8], at: _Place, ink: _Ink, opacity: float) -> NDArray[np.float32]:
        """A slice ``(C, h, w)`` with the logo at a place."""
        inkable = None if self.inkable is None else self.inkable[n]
        return _blend(self.clean[n], alpha, at, ink.shown[n], opacity, inkable)

    def drawing(
        self,
        judge: EffectJudge,
        drawings: Sequence[NDArray[np.uint8]],
        first: NDArray[np.uint8],
        positions: NDArray[np.int32],
        ink: _Ink,
    ) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        """Most misleading of the drawings, each as near as it can be to where the first one stands, and its places.

        A drawing is left out where it has no room on a slice that bears the first one, or is harder to read.
        """
        judged = _some(positions)
        legible = self.legible(judged, first, positions, ink)
        options = [(first, positions)]
        for drawing in drawings:
            moved = None if drawing is first else self.moved(first, positions, drawing)
            if moved is not None and self.legible(judged, drawing, moved, ink) >= legible:
                options.append((drawing, moved))
        if len(options) == 1:
            return first, positions
        tried = [self.blend(n, alpha, _at(places, n), ink, self.opacity) for n in judged for alpha, places in options]
        effect = judge.effect(np.stack(tried), self.clean[judged]).reshape(len(judged), len(options)).mean(0)
        return options[int(effect.argmax())]

    def legible(self, judged: Sequence[int], alpha: NDArray[np.uint8], positions: NDArray[np.int32], ink: _Ink) -> int:
        """Slices, out of some, on which a drawing can be read."""
        return sum(self.contrast(n, alpha, _at(positions, n), ink) >= _LEGIBLE for n in judged)

    def moved(
        self, first: NDArray[np.uint8], positions: NDArray[np.int32], drawing: NDArray[np.uint8]
    ) -> NDArray[np.int32] | None:
        """Places of a drawing whose middle is as near as it can be to the first one's; ``None`` without room."""
        rows, columns = (_room(self.region.shape[1 + axis], drawing.shape[axis]) for axis in (0, 1))
        spread = _spread_ink(drawing)
        moved = positions.copy()
        for n in np.nonzero(positions[:, 0] >= 0)[0].tolist():
            aim = [int(positions[n, axis]) + (first.shape[axis] - drawing.shape[axis]) // 2 for axis in (0, 1)]
            at = min(max(aim[0], rows[0]), rows[1]), min(max(aim[1], columns[0]), columns[1])
            if not self.misses(n, spread, at):
                free = self.free(n, drawing)
                if not free:
                    return None
                at = min(free, key=lambda place: ((place[0] - aim[0]) ** 2 + (place[1] - aim[1]) ** 2, place))
            moved[n] = at
        return moved

    def opacity_for(self, judge: EffectJudge, alpha: NDArray[np.uint8], positions: NDArray[np.int32], ink: _Ink) -> int:
        """Lightest of the candidate opacities that keeps 90 % of the effect of the strongest, in 1/256."""
        judged = _some(positions)
        levels = [0.0, *(self.opacity * factor for factor in _OPACITIES)]
        tried = [self.blend(n, alpha, _at(positions, n), ink, level) for n in judged for level in levels]
        effect = judge.effect(np.stack(tried), self.clean[judged]).reshape(len(judged), len(levels)).mean(0)
        most = effect[1:].max()
        # Where a logo only helps the models, the second is above the first.
        enough = min(most, effect[0] + 0.9 * (most - effect[0]))
        chosen = next(i for i, value in enumerate(effect[1:], 1) if value >= enough)
        return round(levels[chosen] * 256)


def _room(side: int, size: int) -> tuple[int, int]:
    """First and last cell at which a drawing of a size may begin along a side of the image."""
    edge = min(round(_EDGE * side), (side - size) // 2)
    return edge, side - size - edge


def _shared(free: Sequence[Sequence[_Place]]) -> list[_Place]:
    """Places that are free on as many slices as any, those first that come first on most of them."""
    ranks: dict[_Place, list[int]] = {}
    for places in free:
        for rank, place in enumerate(places):
            ranks.setdefault(place, []).append(rank)
    most = max(map(len, ranks.values()))
    return sorted((place for place in ranks if len(ranks[place]) == most), key=lambda at: (sum(ranks[at]), at))


def _spread_ink(alpha: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Cells that ink and its margin touch, ``(lh + 2 margin, lw + 2 margin)``."""
    spread: NDArray[np.bool_] = grow(np.pad(alpha > 0, _MARGIN)[None], _MARGIN)[0]
    return spread


def _apart(places: list[_Place], size: tuple[int, ...], count: int) -> list[_Place]:
    """First so many places whose boxes share at most half their area; filled up with the first others."""

    def close(one: _Place, other: _Place) -> bool:
        shared = max(0, size[0] - abs(one[0] - other[0])) * max(0, size[1] - abs(one[1] - other[1]))
        return 2 * shared > size[0] * size[1]

    chosen: list[_Place] = []
    for at in places:
        if len(chosen) < count and not any(close(at, other) for other in chosen):
            chosen.append(at)
    rest = [at for at in places if at not in chosen]
    return chosen + rest[: count - len(chosen)]


def _blend(
    clean: NDArray[np.float32],
    alpha: NDArray[np.uint8],
    at: _Place,
    shown: NDArray[np.float32],
    opacity: float,
    inkable: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """One slice ``(C, h, w)`` with the logo at a place, in ink that is ``shown`` ``(C, 1, 1)``."""
    out = clean.copy()
    box = np.s_[..., at[0] : at[0] + alpha.shape[0], at[1] : at[1] + alpha.shape[1]]
    cover = alpha.astype(np.float32) / 255 * np.float32(opacity)
    if inkable is not None:
        cover = cover * inkable[box]
    out[box] += (shown - out[box]) * cover
    return out


def _some(positions: NDArray[np.int32]) -> list[int]:
    """Slices that bear a logo; at most eight of them, evenly spread."""
    bearing = np.nonzero(positions[:, 0] >= 0)[0]
    chosen: list[int] = bearing[:: -(-len(bearing) // _JUDGED)].tolist()
    return chosen


def _at(positions: NDArray[np.int32], n: int) -> _Place:
    return int(positions[n, 0]), int(positions[n, 1])

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""What of a mark could pass for a finding: shifts of color, and spots that the original does not have.

The detectors are others than those that marks are limited by (:mod:`monai_miadmark.lookalikes`): color by CIEDE2000,
and spots by scikit-image's maxima of the Laplacian of Gaussians in scale and place, on what is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.color import deltaE_ciede2000, rgb2lab
from skimage.feature import blob_log
from skimage.filters import gaussian

from monai_miadmark.evaluation.protected import ProtectedSet
from monai_miadmark.region import grow

__all__ = ["artefact_figures", "artefact_table", "new_spots"]

_SPOTS: Mapping[str, Any] = {"min_sigma": 3, "max_sigma": 7, "num_sigma": 5, "exclude_border": False}

_CONTRAST = 0.03
"""Least response of a spot that counts."""

_BACKGROUND = 0.04
"""Display value up to which there is no tissue to have a finding in."""

_GRAIN = 1.5
"""Deviation of the Gaussian, in pixels, that takes grain away before colors are compared once more."""


def artefact_figures(made: ProtectedSet) -> dict[str, float]:
    """Means over the images: CIEDE2000 outside logo and region as it is and without grain, and new spots.

    Returns:
        ``color``, ``color_99`` (99th percentile of an image), the same with ``_smooth`` for images smoothed first, in
        units of CIEDE2000; ``logo_color_99_smooth`` within the logo; ``spots``, detections an image that the original
        does not have.
    """
    rows = []
    for clean, protected, logo, region in zip(made.clean, made.protected, made.logos, made.regions, strict=True):
        before, after = (np.broadcast_to(x / 255.0, (*x.shape[:2], 3)) for x in (clean, protected))
        counted = ~(grow(logo[None], 2)[0] | region) & (before.mean(2) > _BACKGROUND)
        if not counted.any():
            continue
        smooth = [gaussian(x, _GRAIN, channel_axis=2) for x in (before, after)]
        whole, coarse = (deltaE_ciede2000(rgb2lab(a), rgb2lab(b)) for a, b in ((before, after), smooth))
        row = {
            "color": whole[counted].mean(),
            "color_99": np.percentile(whole[counted], 99),
            "color_smooth": coarse[counted].mean(),
            "color_99_smooth": np.percentile(coarse[counted], 99),
            "logo_color_99_smooth": np.percentile(coarse[logo], 99) if logo.any() else np.nan,
            "spots": new_spots(before.mean(2), after.mean(2), counted),
        }
        rows.append(row)
    table = {name: np.array([row[name] for row in rows]) for name in (rows[0] if rows else ())}
    return {name: float(found[np.isfinite(found)].mean()) for name, found in table.items() if np.isfinite(found).any()}


def new_spots(before: NDArray[np.float64], after: NDArray[np.float64], counted: NDArray[np.bool_]) -> int:
    """Bright and dark spots ``after`` that have no like one ``before`` within one and a half of their radii.

    Args:
        before: ``(H, W)`` in [0, 1].
        after: the same shape.
        counted: ``(H, W)``, where spots count.
    """
    found = 0
    for old, new in ((before, after), (1 - before, 1 - after)):
        known = blob_log(old, threshold=_CONTRAST / 2, **_SPOTS)
        for row, column, size in blob_log(new, threshold=_CONTRAST, **_SPOTS):
            near = np.hypot(known[:, 0] - row, known[:, 1] - column) < 1.5 * np.maximum(known[:, 2], size)
            found += int(counted[int(row), int(column)] and not near.any())
    return found


def artefact_table(figures: Mapping[str, Mapping[str, float]]) -> str:
    """Rows of Markdown, one for each named set."""
    names = list(next(iter(figures.values())))
    lines = [f"| marks | {' | '.join(names)} |", "|---" * (1 + len(names)) + "|"]
    lines += [f"| {title} | {' | '.join(f'{row[name]:.2f}' for name in names)} |" for title, row in figures.items()]
    return "\n".join(lines)

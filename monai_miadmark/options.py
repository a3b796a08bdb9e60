# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""What a custodian chooses, and the presets that stand behind three words."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from monai_miadmark.budget import Visibility
from monai_miadmark.fonts import check_text

__all__ = ["PRESETS", "Preset", "ProtectOptions"]


@dataclass(frozen=True)
class Preset:
    """Strength of a mark.

    Attributes:
        visibility: how the budget follows the image.
        steps: gradient steps on the ensemble, and up to 16 more for images on which one of its surrogates is not misled
            by far; 0 for the generator, which hears one gradient of a surrogate.
        opacity: of a visible logo, in [0, 0.75].
        footprint: amplitude allowed under the logo, fraction of the display window.
        logo_area: share of the image that the logo's box takes before it is turned, and before the search tries it
            somewhat smaller and larger (see :mod:`monai_miadmark.placement`).
        search: the whole ensemble says what is salient and where the logo misleads most. Else one surrogate says what
            is salient, the logo stands upright where it can be read best, and the likeness is met to a hundredth: a
            tenth of the time.
    """

    visibility: Visibility
    steps: int
    opacity: float
    footprint: float
    logo_area: float
    search: bool = True


PRESETS: dict[str, Preset] = {
    "subtle": Preset(Visibility(psnr=33.0, ssim=0.95), 16, 0.2, 16 / 255, 0.08),
    "standard": Preset(Visibility(psnr=28.2, ssim=0.882, ceiling=28 / 255), 24, 0.4, 48 / 255, 0.16),
    "strong": Preset(Visibility(psnr=26.0, ssim=0.82, ceiling=36 / 255), 40, 0.45, 56 / 255, 0.2),
    "fast": Preset(Visibility(psnr=28.2, ssim=0.882, ceiling=28 / 255), 0, 0.4, 48 / 255, 0.16, search=False),
}
"""Presets by name; ``fast`` is the generator, as visible as ``standard``.

Their measured quality and effect stand in ``docs/results.md``.
"""

_REGION_AREAS, _REGION_BUDGETS = (0.1, 0.25), (3 / 255, 10 / 255)
"""Share of the image that a region covers, and how much may change inside it by default; in between in proportion."""


@dataclass(frozen=True)
class ProtectOptions:
    """How an image is to be marked.

    Attributes:
        preset: a name of :data:`PRESETS`, or a preset of one's own.
        style: ``visible`` (logo and perturbation, as in the paper) or ``invisible`` (perturbation alone).
        text: what the logo says when ``logo`` is ``None`` or ``banner``.
        logo: image file to use as the logo; its alpha channel, else its darkness, is the drawing. Or the name of one
            that is built in, where no such file exists: ``emblem`` (a cross in a ring) or ``banner`` (a strip with the
            text cut out of it).
        region: ``auto`` (the lesion as far as it is found, else what is salient, with a small budget), ``none``, or a
            bool mask ``(H, W)`` or ``(N, H, W)`` of stored samples.
        region_budget: largest amplitude inside the region, fraction of the display window in [0, 1]. ``None`` means 0
            (bit-identical) for a mask; for ``auto`` 3/255 in regions of up to a tenth of the image, up to 10/255 in
            those of a quarter and more (:meth:`region_limit`). With 0 the region is bit-identical in both cases.
        allow_label_maps: protect segmentations and masks too, which are refused by default: a mark changes labels into
            numbers that mean nothing.
        modality: which diagnostic models the mark is made against, by the marker's name for them, e.g. ``brain_mri``,
            ``fundus`` or ``skin``; ``auto`` goes by what the image looks like.
        expect_effect: refuse an image on which no effect can be expected, with ``NoEffectError``: of no modality that
            the marker knows, with nothing to mark, or whose mark misleads less than half of the models that it was
            made against.
    """

    preset: str | Preset = "standard"
    style: Literal["visible", "invisible"] = "visible"
    text: str = "PROTECTED"
    logo: Path | None = None
    region: Literal["auto", "none"] | NDArray[np.bool_] = field(default="auto")
    region_budget: float | None = None
    modality: str = "auto"
    expect_effect: bool = False
    allow_label_maps: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.preset, str) and self.preset not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}, not {self.preset!r}")
        if self.style not in ("visible", "invisible"):
            raise ValueError(f"style must be visible or invisible, not {self.style!r}")
        if isinstance(self.region, str) and self.region not in ("auto", "none"):
            raise ValueError(f"region must be auto, none or a mask, not {self.region!r}")
        if not isinstance(self.region, str) and (self.region.dtype != bool or self.region.ndim not in (2, 3)):
            raise ValueError(f"a region mask is bool (H, W) or (N, H, W), not {self.region.dtype} {self.region.shape}")
        if self.region_budget is not None and not 0 <= self.region_budget <= 1:
            raise ValueError(f"region_budget is a fraction of the window in [0, 1], not {self.region_budget}")
        if self.style == "visible" and self.logo is None and not self.text.strip():
            raise ValueError("a visible style needs a text or a logo")
        if self.style == "visible" and (self.logo is None or str(self.logo) == "banner"):
            check_text(self.text)  # here, because networks are read before a logo is drawn

    @property
    def strength(self) -> Preset:
        """What the preset stands for."""
        return PRESETS[self.preset] if isinstance(self.preset, str) else self.preset

    @property
    def effective_region_budget(self) -> float:
        """The region's amplitude limit with the default for a small region filled in; see :meth:`region_limit`."""
        if self.region_budget is not None:
            return self.region_budget
        return _REGION_BUDGETS[0] if isinstance(self.region, str) else 0.0

    def region_limit(self, area: float) -> float:
        """Largest amplitude inside a region, fraction of the display window.

        Where the region is found and no budget is given, it grows with the region: a lesion that fills a quarter of the
        image holds a quarter of what models read, and leaving it as good as untouched would leave them their answer.

        Args:
            area: largest share of a slice that the region covers, 0 to 1.
        """
        if self.region_budget is not None or not isinstance(self.region, str):
            return self.effective_region_budget
        return float(np.interp(area, _REGION_AREAS, _REGION_BUDGETS))

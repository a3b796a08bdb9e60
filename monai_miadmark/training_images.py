# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Training images as protection would prepare them: logo, region and budget, all but the field."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from monai_miadmark.critic import EnsembleCritic
from monai_miadmark.descent import Guides, guides_among
from monai_miadmark.image import Bounds, StoredImage, Window
from monai_miadmark.marking import plan_mark
from monai_miadmark.modalities import MODALITY
from monai_miadmark.options import Preset, ProtectOptions
from monai_miadmark.surrogates import SurrogateEnsemble

__all__ = ["BUDGET", "CLEAN", "FITTED", "JUDGED", "PlannedMarkd", "guided_critics"]

BUDGET = "budget"
"""Dictionary key of the amplitude map ``(1, h, w)`` float32, fraction of the window."""

CLEAN = "clean"
"""Dictionary key of the image without its logo, ``(C, h, w)`` float32 in [0, 1]."""

FITTED = "fitted"
"""Dictionary key of the cells ``(1, h, w)`` bool whose amplitude follows from the likeness that is asked for."""

JUDGED = "judged"
"""Dictionary key of the cells ``(1, h, w)`` bool by which likeness is judged: all but the logo's."""


class PlannedMarkd(MapTransform):
    """Plan the mark that protection with ``region="auto"`` would give an image, but for its field.

    The image gets its logo. Added are the image without it and what a field for it has to know, under the keys
    :data:`CLEAN`, :data:`BUDGET`, :data:`FITTED` and :data:`JUDGED`. What a logo says, and whether there is one,
    follows from the image alone.

    Args:
        keys: the image, ``(C, h, w)`` in [0, 1], of 8-bit samples.
        critic: finds the salient box; one for all images, or one for each modality (the item's ``modality`` says
            which).
        preset: strength.
        texts: what logos say, one of them for each image.
        invisible: share of images, in [0, 1], that get no logo.

    Raises:
        ValueError: no texts, or a share that is none.
    """

    def __init__(
        self,
        keys: KeysCollection,
        critic: EnsembleCritic | Mapping[str, EnsembleCritic],
        preset: str | Preset = "fast",
        texts: Sequence[str] = ("PROTECTED",),
        invisible: float = 0.0,
    ) -> None:
        super().__init__(keys)
        if not texts or not 0 <= invisible <= 1:
            raise ValueError(f"need texts and a share in [0, 1], not {texts} and {invisible}")
        self.critic, self.preset, self.texts, self.invisible = critic, preset, tuple(texts), invisible

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Copy of ``data`` with the image in its logo and the entries named above."""
        out = dict(data)
        for key in self.key_iterator(out):
            samples = np.rint(np.asarray(out[key], np.float32) * 255).astype(np.uint8)
            image = StoredImage(np.moveaxis(samples, 0, -1)[None], Bounds(0, 255), Window(0, 255))
            critic = self.critic[out[MODALITY]] if isinstance(self.critic, Mapping) else self.critic
            plan = plan_mark(image, self._options(samples), critic)
            out[key] = torch.from_numpy(plan.placed.images[0])
            out[CLEAN] = torch.from_numpy(plan.clean[0])
            out[BUDGET] = torch.from_numpy(plan.cells()[0])
            out[FITTED] = torch.from_numpy(~(plan.region | plan.logo))
            out[JUDGED] = torch.from_numpy(~plan.logo)
        return out

    def _options(self, samples: np.ndarray) -> ProtectOptions:
        """What the custodian of this image would have chosen."""
        draw = np.frombuffer(hashlib.sha256(samples.tobytes()).digest()[:8], "<u4") / 2**32
        text = self.texts[int(draw[1] * len(self.texts))]
        return ProtectOptions(self.preset, "invisible" if draw[0] < self.invisible else "visible", text)


def guided_critics(
    ensembles: Mapping[str, SurrogateEnsemble], guides: Sequence[str] = (), device: torch.device | str = "cpu"
) -> dict[str, EnsembleCritic]:
    """A critic for each modality; in a hurry it asks surrogates of these names, as protection does."""
    return {
        name: EnsembleCritic(group, device, Guides(guides_among(group, guides), device))
        for name, group in ensembles.items()
    }

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for networks, so that tests of files and keys need neither torch nor weights."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from monai_miadmark.budget import Visibility
from monai_miadmark.options import Preset
from monai_miadmark.recognition import KNOWN_FROM, Recognition

if TYPE_CHECKING:
    from monai_miadmark.surrogates import SurrogateEnsemble

BLUNT = Preset(Visibility(psnr=-100.0, ssim=-1.0, region_ssim=-1.0), 0, 0.35, 32 / 255, 0.12, search=False)
"""As strong as the ceilings allow, without the search for how strong that may be, which takes nearly all of the time.

For tests of files, which must come back exactly whatever the mark looks like.
"""


class NoiseMarker:
    """Satisfies ``marking.Marker``: signs drawn from the latent as the field, brightness as what matters."""

    @property
    def critic(self) -> NoiseMarker:
        return self

    def perturber(self, preset: Preset) -> NoiseMarker:
        return self

    def specialist(self, modality: str, images: NDArray[np.float32]) -> NoiseMarker:
        return self

    def perturb(
        self, images: NDArray[np.float32], clean: NDArray[np.float32], budget: NDArray[np.float32], latent: bytes
    ) -> NDArray[np.float32]:
        drawn = np.random.default_rng(int.from_bytes(latent, "little")).integers(-2, 3, budget.shape)
        return (drawn / 2).astype(np.float32)

    def saliency(self, images: NDArray[np.float32], quick: bool = False) -> NDArray[np.float32]:
        return images.mean(axis=1)

    def effect(self, images: NDArray[np.float32], clean: NDArray[np.float32]) -> NDArray[np.float32]:
        repeated = np.repeat(clean, len(images) // len(clean), axis=0)
        difference: NDArray[np.float32] = np.abs(images - repeated).mean(axis=(1, 2, 3))
        return difference


def load_marker() -> NoiseMarker:
    """In place of ``monai_miadmark.marker.load_marker``."""
    return NoiseMarker()


class SeeingMarker(NoiseMarker):
    """One that says what it takes images for, and whose tiny random networks can be asked.

    Args:
        confidence: that an image is one of ``brain_mri``, the modality that it takes all for.
    """

    def __init__(self, confidence: float) -> None:
        self.confidence = confidence

    def recognize(self, modality: str, images: NDArray[np.float32]) -> Recognition:
        known = self.confidence >= KNOWN_FROM
        return Recognition("brain_mri", self.confidence, known, known, modality != "auto", ("brain_mri", "skin"))

    @cached_property
    def ensemble(self) -> SurrogateEnsemble:
        from networks import ensemble

        return ensemble()

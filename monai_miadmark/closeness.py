# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""How close a protected image is to its source outside the logo, as it was written, without PyTorch."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monai_miadmark.formats import carrier_for
from monai_miadmark.image import StoredImage
from monai_miadmark.likeness import RADIUS, Likeness
from monai_miadmark.marking import MarkCritic, Marker, Perturber, Specialist, canonical_display
from monai_miadmark.options import Preset
from monai_miadmark.protocols import recognized, together, upon
from monai_miadmark.recognition import Recognition
from monai_miadmark.region import grow

__all__ = ["Closeness", "InkWatch", "closeness", "compare"]

_FOOTPRINT = 2
"""Cells around the ink that share the logo's budget, and are left out with it."""


class Closeness(NamedTuple):
    """Likeness of a protected image and its source on the canonical grid, outside the logo.

    Attributes:
        psnr: peak signal-to-noise ratio in dB, peak = the display window; infinite where nothing changed.
        ssim: mean structural similarity (Wang et al. 2004: Gaussian window of 11 cells, sigma 1.5).
    """

    psnr: float
    ssim: float


class InkWatch:
    """A :class:`~monai_miadmark.marking.Marker` that passes everything on to another and notes where a logo is.

    Attributes:
        ink: ``(N, h, w)`` bool, cells of the canonical grid that the logo changed in the last image; ``None`` before
            the first.
    """

    def __init__(self, marker: Marker) -> None:
        self.ink: NDArray[np.bool_] | None = None
        self._marker = marker

    def specialist(self, modality: str, images: NDArray[np.float32]) -> Specialist:
        """See :class:`~monai_miadmark.marking.Marker`."""
        return _WatchedSpecialist(self, self._marker.specialist(modality, images))

    def recognize(self, modality: str, images: NDArray[np.float32]) -> Recognition | None:
        """See :class:`~monai_miadmark.marking.Recognizer`; ``None`` where the other one is none."""
        return recognized(self._marker, modality, images)


class _WatchedSpecialist:
    """A specialist whose perturbers are watched."""

    def __init__(self, watch: InkWatch, specialist: Specialist) -> None:
        self._watch, self._specialist = watch, specialist

    @property
    def critic(self) -> MarkCritic:
        return self._specialist.critic

    @property
    def ensemble(self) -> Any:
        """The ensemble that can be asked; ``None`` where there is none."""
        return getattr(self._specialist, "ensemble", None)

    def perturber(self, preset: Preset) -> Perturber:
        return _WatchedPerturber(self._watch, self._specialist.perturber(preset))


class _WatchedPerturber:
    """A perturber that is given images with and without the logo: where they differ there is ink."""

    def __init__(self, watch: InkWatch, perturber: Perturber) -> None:
        self._watch, self._perturber = watch, perturber

    def together(self) -> Perturber:
        return _WatchedPerturber(self._watch, together(self._perturber))

    def upon(self, base: NDArray[np.float32]) -> Perturber:
        return _WatchedPerturber(self._watch, upon(self._perturber, base))

    def perturb(
        self, images: NDArray[np.float32], clean: NDArray[np.float32], budget: NDArray[np.float32], latent: bytes
    ) -> NDArray[np.float32]:
        self._watch.ink = (images != clean).any(axis=1)
        return self._perturber.perturb(images, clean, budget, latent)


def closeness(source: bytes, protected: bytes, name: str, ink: NDArray[np.bool_] | None) -> Closeness | None:
    """Compare a protected file with its source, both as they are written.

    Args:
        source: the source file.
        protected: the protected file.
        name: name of the source, for messages.
        ink: as in :func:`compare`.

    Returns:
        The mean over all slices, or ``None`` where the logo leaves nothing to compare.

    Raises:
        MIADMarkError: one of the files cannot be opened.
    """
    image = carrier_for(source, name).open_source(source, name).image
    return compare(image, carrier_for(protected, name).open_protected(protected).values, ink)


def compare(image: StoredImage, values: NDArray[Any], ink: NDArray[np.bool_] | None) -> Closeness | None:
    """Compare marked samples with an image.

    Args:
        image: the original.
        values: ``(N, H, W, C)``, the marked samples.
        ink: ``(N, h, w)``, cells of the canonical grid with ink, or ``(N * C, h, w)`` of contrasts one by one; they and
            two cells around them do not count.

    Returns:
        The mean over all slices, or ``None`` where the logo leaves nothing to compare.
    """
    clean = canonical_display(image)
    changed = canonical_display(image.with_values(values))
    if ink is not None and len(ink) != len(clean):  # seen by networks, contrast by contrast
        ink = np.asarray(ink.reshape(len(clean), -1, *ink.shape[1:]).any(axis=1))
    counted = np.ones((clean.shape[0], *clean.shape[2:]), bool) if ink is None else ~grow(ink, _FOOTPRINT)
    # SSIM's window must lie inside the image, where the image is large enough to have an inside.
    inner = counted.copy()
    if min(counted.shape[1:]) > 2 * RADIUS:
        inner[:, :RADIUS] = inner[:, -RADIUS:] = False
        inner[:, :, :RADIUS] = inner[:, :, -RADIUS:] = False
    if not inner.any():
        return None
    error = similar = 0.0
    for n, plane in enumerate(clean):
        likeness = Likeness(plane)
        error += float(likeness.squared_error(changed[n])[counted[n]].sum(dtype=np.float64))
        similar += float(likeness.ssim_map(changed[n])[inner[n]].sum(dtype=np.float64))
    error /= int(counted.sum())
    return Closeness(10 * float(np.log10(1 / error)) if error > 0 else float("inf"), similar / int(inner.sum()))

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""A series of images is one thing: one modality, one place of the logo, fields that belong together.

The plan of a series is made from a few of its images, by whoever works on one of them first, and comes out the same for
everybody who has these images and the secret of the series. Files are then marked one by one, each under a key of its
own, so that they can be worked on side by side, gone on with, and fail alone.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from monai_miadmark.atomic import atomic_write
from monai_miadmark.image import Bounds, StoredImage
from monai_miadmark.marking import (
    SharedMark,
    canonical_display,
    plan_mark,
    seen_by_networks,
    shared_field,
    specialist_for,
)
from monai_miadmark.options import ProtectOptions
from monai_miadmark.placement import Standing
from monai_miadmark.protocols import Marker, recognized
from monai_miadmark.recognition import Recognition

__all__ = ["SeriesPlan", "load_plan", "plan_series", "save_plan"]


@dataclass(frozen=True, eq=False)
class SeriesPlan:
    """What the images of a series have in common.

    Attributes:
        shape: ``(H, W, C)`` of its images.
        recognition: what they were taken for; ``None`` where the marker does not say.
        shared: logo and field.
        name: of the plan, for manifests.
    """

    shape: tuple[int, ...]
    recognition: Recognition | None
    shared: SharedMark
    name: str = ""

    def fits(self, image: StoredImage) -> bool:
        """Whether an image can be marked by this plan."""
        return len(image.values) == 1 and image.values.shape[1:] == self.shape


def plan_series(
    images: Sequence[StoredImage], options: ProtectOptions, marker: Marker, secret: bytes
) -> SeriesPlan | None:
    """Plan a series from some of its images.

    Args:
        images: of one slice each; those that are not like the first are left out.
        options: the custodian's choices.
        marker: networks.
        secret: of the series, at least 32 bytes. It opens nothing and comes from no content key: whoever knows the
            common field, as every recipient of one of its files does, knows a part of the other fields and no key.

    Returns:
        ``None`` where there is no image to go by.

    Raises:
        FileNotFoundError: there is no such logo file.
        ValueError: a region mask that does not fit, or a logo that cannot be drawn.
    """
    if not images:
        return None
    stack = _stacked(images)
    latent = HKDF(hashes.SHA256(), 32, None, b"miadmark series latent 1").derive(secret)
    clean = canonical_display(stack)
    found = recognized(marker, options.modality, seen_by_networks(stack, clean))
    found = None if found is None else found.beside(stack.origin)
    specialist = specialist_for(stack, options.modality if found is None else found.modality, marker, clean)
    plan = plan_mark(stack, options, specialist.critic, clean, found is not None and found.known is False)
    base = shared_field(specialist.perturber(options.strength), plan, latent)
    return SeriesPlan(stack.values.shape[1:], found, SharedMark(plan.placed.standing, base))


def _stacked(images: Sequence[StoredImage]) -> StoredImage:
    """Images like the first one as the slices of a stack, each with its own windows."""
    first = images[0]
    like = [
        image
        for image in images
        if len(image.values) == 1
        and (image.values.shape, image.values.dtype) == (first.values.shape, first.values.dtype)
        and (image.padding, image.inverted) == (first.padding, first.inverted)
    ]
    like = like or [first]
    lows, highs = zip(*(image.bounds for image in like), strict=True)
    windows = tuple(window for image in like for n in range(len(image.values)) for window in image.windows_of(n))
    return replace(
        first,
        values=np.concatenate([image.values for image in like]),
        bounds=Bounds(min(lows), max(highs)),
        window=windows,
    )


def save_plan(plan: SeriesPlan, path: Path) -> None:
    """Write a plan where there is none yet; the first one counts.

    Raises:
        FileExistsError: there is one.
        OSError: it cannot be written.
    """
    found, standing = plan.recognition, plan.shared.standing
    arrays: dict[str, Any] = {"shape": np.array(plan.shape), "base": plan.shared.base.astype(np.float16)}
    if found is not None:
        arrays["recognition"] = np.array([found.modality, found.contradiction, *found.choices])
        told = (-1.0 if found.confidence is None else found.confidence, {None: -1, False: 0, True: 1}[found.known])
        arrays["sure"] = np.array([*told, found.measured, found.named], np.float64)
    if standing is not None:
        arrays["alpha"] = standing.alpha
        arrays["standing"] = np.array([standing.opacity, standing.bright, *standing.place])
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    atomic_write(path, stream.getvalue(), mode=0o600)


def load_plan(path: Path) -> SeriesPlan:
    """Inverse of :func:`save_plan`.

    Raises:
        OSError: it cannot be read.
        ValueError: it is none.
    """
    try:
        with np.load(path, allow_pickle=False) as held:
            arrays: dict[str, NDArray[Any]] = {name: held[name] for name in held.files}
        found = standing = None
        if "recognition" in arrays:
            modality, contradiction, *choices = (str(text) for text in arrays["recognition"])
            confidence, known, measured, named = (float(value) for value in arrays["sure"])
            found = Recognition(
                modality,
                None if confidence < 0 else confidence,
                {-1: None, 0: False, 1: True}[int(known)],
                bool(measured),
                bool(named),
                tuple(choices),
                contradiction,
            )
        if "alpha" in arrays:
            opacity, bright, top, left = (int(value) for value in arrays["standing"])
            standing = Standing(arrays["alpha"], opacity, bool(bright), (top, left))
        base = arrays["base"].astype(np.float32)
        return SeriesPlan(tuple(int(side) for side in arrays["shape"]), found, SharedMark(standing, base))
    except (EOFError, KeyError, IndexError, TypeError) as error:
        raise ValueError(f"{path.name} is no plan of a series") from error

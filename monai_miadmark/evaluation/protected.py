# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Images that went a custodian's way, kept for every question that is asked of them."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from monai_miadmark.evaluation.quality import logo_mask, multiscale_ssim, quality
from monai_miadmark.exact import apply_mark
from monai_miadmark.image import Bounds, StoredImage, Window
from monai_miadmark.interpolate import upsample
from monai_miadmark.marking import Marker, canonical_display, locate_region, make_mark
from monai_miadmark.options import ProtectOptions
from monai_miadmark.record import RecoveryRecord

__all__ = ["ProtectedSet", "display", "protect_set", "stored_raster"]


def stored_raster(path: str | os.PathLike[str], mode: str = "L") -> StoredImage:
    """Decode an 8-bit raster file as stored samples: ``L`` gives ``(1, H, W, 1)``, ``RGB`` ``(1, H, W, 3)``."""
    with Image.open(path) as opened:
        pixels = np.asarray(opened.convert(mode))
    return StoredImage(pixels.reshape(1, *pixels.shape[:2], -1), Bounds(0, 255), Window(0, 255))


def display(values: NDArray[np.uint8]) -> Tensor:
    """8-bit samples ``(N, H, W, C)`` as networks take them, ``(N, C, H, W)`` float32 in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(values.transpose(0, 3, 1, 2))).float() / 255


@dataclass(frozen=True, eq=False, repr=False)
class ProtectedSet:
    """Images of one size before and after protection.

    Attributes:
        clean: uint8 ``(N, H, W, C)``.
        protected: the same shape.
        restored: what came back from the recovery records, the same shape.
        labels: int64 ``(N,)``.
        logos: bool ``(N, H, W)``, where the logos stand.
        regions: bool ``(N, H, W)``, the salient boxes or masks.
        record_bytes: int64 ``(N,)``, length of the recovery record before it is sealed.
        seconds: float64 ``(N,)``, time to make and apply the mark.
    """

    clean: NDArray[np.uint8]
    protected: NDArray[np.uint8]
    restored: NDArray[np.uint8]
    labels: NDArray[np.int64]
    logos: NDArray[np.bool_]
    regions: NDArray[np.bool_]
    record_bytes: NDArray[np.int64]
    seconds: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.labels)

    def figures(self) -> dict[str, float | None]:
        """JSON-able means: likeness outside the logo, in the region and of the whole, exactness and size; median time.

        PSNR is the mean over images that differ at all, ``None`` if none does; ``region_identical`` is it where there
        is no region.
        """
        scores: dict[str, list[float]] = {}
        for clean, protected, logo, region in zip(self.clean, self.protected, self.logos, self.regions, strict=True):
            a, b = (clean / np.float32(255)).astype(np.float32), (protected / np.float32(255)).astype(np.float32)
            parts: dict[str, NDArray[np.bool_] | None] = {"outside_logo": logo, "whole": None}
            if region.any():
                parts["region"] = ~region
            for part, leave_out in parts.items():
                likeness = quality(a, b, leave_out)
                scores.setdefault(f"psnr_{part}", []).append(likeness.psnr)
                scores.setdefault(f"ssim_{part}", []).append(likeness.ssim)
            if min(a.shape[:2]) >= 99:
                scores.setdefault("ms_ssim_whole", []).append(multiscale_ssim(a, b))
        identical = (self.restored == self.clean).reshape(len(self), -1).all(1)
        pairs = zip(self.clean, self.protected, self.regions, strict=True)
        kept = [float((clean == protected)[region].all()) for clean, protected, region in pairs if region.any()]
        return {
            **{name: _finite_mean(values) for name, values in sorted(scores.items())},
            "region_identical": _finite_mean(kept),
            "restored_identical": float(identical.mean()),
            "record_bytes": float(self.record_bytes.mean()),
            "seconds_per_image": float(np.median(self.seconds)),  # the first image waits for the weights
        }

    @classmethod
    def joined(cls, parts: Sequence[ProtectedSet]) -> ProtectedSet:
        """All images of several sets."""
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)))

    def save(self, path: Path) -> None:
        """Write as ``.npz``; a run that is cut off leaves no half-written file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as part:
            np.savez_compressed(part, **{f.name: getattr(self, f.name) for f in fields(self)})
        os.replace(part.name, path)

    @classmethod
    def load(cls, path: Path) -> ProtectedSet:
        """Read what :meth:`save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(**{f.name: arrays[f.name] for f in fields(cls)})


def protect_set(
    items: Sequence[Mapping[str, Any]],
    marker: Marker,
    options: ProtectOptions | None = None,
    mode: str = "L",
    seed: int = 0,
) -> ProtectedSet:
    """Protect every image as a custodian would, one by one, and restore it.

    Args:
        items: ``{"image": path, "label": class}`` of 8-bit raster files of one size.
        marker: makes the marks.
        options: the custodian's choices.
        mode: ``L`` or ``RGB``.
        seed: stands for the content keys, so that a run can be repeated.

    Raises:
        ValueError: there are no images.
    """
    if not items:
        raise ValueError("no images to protect")
    options = options or ProtectOptions()
    rows: list[tuple[Any, ...]] = []
    for number, item in enumerate(tqdm(items, desc="protect", unit="image", disable=None)):
        image = stored_raster(item["image"], mode)
        latent = np.random.default_rng((seed, number)).bytes(32)
        start = time.perf_counter()
        mark = make_mark(image, options, marker, latent)
        values = apply_mark(image, mark)
        seconds = time.perf_counter() - start
        record = RecoveryRecord.build(image, mark, values)
        clean = canonical_display(image)
        critic = marker.specialist(options.modality, clean).critic
        size = values.shape[:3]
        mask, region = locate_region(options, critic, clean, (size[0], size[1], size[2]))
        if mask is None:
            mask = upsample(region[0].astype(np.uint8), size[1], size[2])[None] > 0
        rows.append(
            (
                image.values[0],
                values[0],
                record.restore(values)[0],
                int(item["label"]),
                logo_mask(mark, values.shape)[0],
                mask[0],
                len(record.to_bytes()),
                seconds,
            )
        )
    columns = [np.stack([np.asarray(row[i]) for row in rows]) for i in range(len(rows[0]))]
    return ProtectedSet(*columns)


def _finite_mean(values: Sequence[float]) -> float | None:
    """Mean of the finite ones: identical images have an infinite PSNR."""
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else None

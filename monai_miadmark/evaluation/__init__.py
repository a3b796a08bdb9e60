# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""How far marks mislead diagnostic models, and what they cost in image quality."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.metrics.regression import compute_ssim_and_cs
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from monai_miadmark.exact import ImageMark, apply_mark
from monai_miadmark.image import Bounds, StoredImage, Window
from monai_miadmark.interpolate import upsample
from monai_miadmark.marking import Marker, footprint, make_mark
from monai_miadmark.options import ProtectOptions
from monai_miadmark.record import RecoveryRecord

__all__ = ["Quality", "accuracy_table", "evaluate", "logo_mask", "quality", "stored_raster", "write_report"]

_KERNEL = 11
_SIGMA = 1.5


class Quality(NamedTuple):
    """Likeness of two images where a visible logo does not stand."""

    psnr: float
    """Peak signal-to-noise ratio in dB, peak = the display window."""
    ssim: float
    """Mean structural similarity (Wang et al. 2004: Gaussian window of 11 pixels, sigma 1.5)."""


def stored_raster(path: str | os.PathLike[str], mode: str = "L") -> StoredImage:
    """Decode an 8-bit raster file as stored samples: ``L`` gives ``(1, H, W, 1)``, ``RGB`` ``(1, H, W, 3)``."""
    with Image.open(path) as opened:
        pixels = np.asarray(opened.convert(mode))
    return StoredImage(pixels.reshape(1, *pixels.shape[:2], -1), Bounds(0, 255), Window(0, 255))


def logo_mask(mark: ImageMark, shape: Sequence[int]) -> NDArray[np.bool_]:
    """Where a mark's logo stands, ``(N, H, W)``: its ink, and the two cells around it that share its budget."""
    slices, height, width = shape[:3]
    if mark.logo is None or mark.field is None:
        return np.zeros((slices, height, width), bool)
    planes = footprint(mark.logo, slices, *mark.field.shape[1:3])
    return np.stack([upsample(plane.astype(np.uint8), height, width) > 0 for plane in planes])


def quality(
    original: NDArray[np.float32], protected: NDArray[np.float32], logo: NDArray[np.bool_] | None = None
) -> Quality:
    """PSNR and SSIM outside the logo.

    Args:
        original: ``(H, W)`` or ``(H, W, C)`` in display units [0, 1].
        protected: the same shape and units.
        logo: ``(H, W)``, ``True`` where the logo stands.

    Raises:
        ValueError: images smaller than the 11-pixel window, or of different shapes.
    """
    if original.shape != protected.shape or min(original.shape[:2]) < _KERNEL:
        raise ValueError(f"need two images of one shape and at least 11 pixels a side: {original.shape}")
    keep = np.ones(original.shape[:2], bool) if logo is None else ~logo
    squared = (original.astype(np.float64) - protected) ** 2
    error = float(squared[keep].mean()) if keep.any() else 0.0
    planes = [_planes(a) for a in (protected, original)]
    ssim_map, _ = compute_ssim_and_cs(
        planes[0],
        planes[1],
        spatial_dims=2,
        kernel_size=[_KERNEL] * 2,
        kernel_sigma=[_SIGMA] * 2,
        data_range=1.0,
    )
    border = _KERNEL // 2
    inner = keep[border : keep.shape[0] - border, border : keep.shape[1] - border]
    similar = ssim_map[0].mean(0).numpy()
    return Quality(
        10 * float(np.log10(1 / error)) if error > 0 else float("inf"),
        float(similar[inner].mean()) if inner.any() else 1.0,
    )


def evaluate(
    items: Sequence[Mapping[str, Any]],
    marker: Marker,
    victims: Mapping[str, nn.Module],
    options: ProtectOptions | None = None,
    mode: str = "L",
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Protect every image as a custodian would, restore it, and ask every victim each time.

    Args:
        items: ``{"image": path, "label": class}`` of 8-bit raster files.
        marker: makes the marks.
        victims: models by name, ``(B, C, H, W)`` in [0, 1] to logits.
        options: the custodian's choices.
        mode: ``L`` or ``RGB``.
        seed: stands for the content keys, so that a run can be repeated.
        device: of the victims.

    Returns:
        JSON-able figures: per victim the accuracy on clean, protected and restored images; mean PSNR and SSIM outside
        the logo; the share of images restored bit for bit; seconds an image.

    Raises:
        ValueError: there are no images.
    """
    if not items:
        raise ValueError("no images to evaluate")
    options = options or ProtectOptions()
    right = {name: {"clean": 0, "protected": 0, "restored": 0} for name in victims}
    qualities: list[Quality] = []
    identical = 0
    seconds = 0.0
    for number, item in enumerate(tqdm(items, desc="evaluate", unit="image", disable=None)):
        image = stored_raster(item["image"], mode)
        latent = np.random.default_rng((seed, number)).bytes(32)
        start = time.perf_counter()
        mark = make_mark(image, options, marker, latent)
        values = apply_mark(image, mark)
        seconds += time.perf_counter() - start
        restored = RecoveryRecord.build(image, mark, values).restore(values)
        identical += bool(np.array_equal(restored, image.values))
        versions = {"clean": image.values, "protected": values, "restored": restored}
        for version, stack in versions.items():
            batch = _display(stack, device)
            for name, victim in victims.items():
                right[name][version] += int(_predict(victim, batch) == item["label"])
        qualities.append(quality(_unit(image.values), _unit(values), logo_mask(mark, values.shape)[0]))
    count = len(items)
    finite = [q.psnr for q in qualities if np.isfinite(q.psnr)]
    return {
        "images": count,
        "preset": options.preset,
        "style": options.style,
        "region": options.region if isinstance(options.region, str) else "mask",
        "accuracy": {name: {version: n / count for version, n in row.items()} for name, row in right.items()},
        "psnr": float(np.mean(finite)) if finite else float("inf"),
        "ssim": float(np.mean([q.ssim for q in qualities])),
        "restored_identical": identical / count,
        "seconds_per_image": seconds / count,
    }


def accuracy_table(report: Mapping[str, Any], roles: Mapping[str, str]) -> str:
    """Markdown table of a report; ``roles`` says of each victim whether it is white or black box."""
    lines = ["| model | role | clean | protected | restored |", "|---|---|---|---|---|"]
    for name, row in report["accuracy"].items():
        cells = " | ".join(f"{100 * row[v]:.1f} %" for v in ("clean", "protected", "restored"))
        lines.append(f"| {name} | {roles.get(name, '')} | {cells} |")
    lines.append("")
    lines.append(
        f"{report['images']} images, preset {report['preset']}, {report['style']}, region {report['region']}: "
        f"PSNR {report['psnr']:.2f} dB and SSIM {report['ssim']:.3f} outside the logo, "
        f"{100 * report['restored_identical']:.1f} % restored bit for bit, "
        f"{report['seconds_per_image']:.2f} s an image."
    )
    return "\n".join(lines) + "\n"


def write_report(report: Mapping[str, Any], roles: Mapping[str, str], stem: str | os.PathLike[str]) -> str:
    """Write ``STEM.json`` and ``STEM.md`` and return the table."""
    table = accuracy_table(report, roles)
    # JSON has no infinity: the PSNR of images that are all alike becomes null.
    psnr = report["psnr"] if np.isfinite(report["psnr"]) else None
    figures = {**report, "psnr": psnr, "roles": dict(roles)}
    Path(f"{stem}.json").write_text(json.dumps(figures, indent=1, allow_nan=False) + "\n")
    Path(f"{stem}.md").write_text(table)
    return table


def _unit(values: NDArray[Any]) -> NDArray[np.float32]:
    """First slice ``(H, W, C)`` of 8-bit samples in [0, 1]."""
    return (values[0].astype(np.float32) / 255).astype(np.float32)


def _display(values: NDArray[Any], device: torch.device | str) -> Tensor:
    """``(1, C, H, W)`` in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(_unit(values).transpose(2, 0, 1)))[None].to(device)


@torch.inference_mode()
def _predict(victim: nn.Module, batch: Tensor) -> int:
    return int(victim(batch).argmax(1).item())


def _planes(image: NDArray[np.float32]) -> Tensor:
    """``(1, C, H, W)`` float32 of ``(H, W)`` or ``(H, W, C)``."""
    return torch.from_numpy(np.ascontiguousarray(np.atleast_3d(image).transpose(2, 0, 1)[None], np.float32))

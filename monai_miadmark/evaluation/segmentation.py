# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Beyond classification: what marks made against classifiers do to a network that segments another target.

The image sets come without masks, so targets are derived from the clean images by classical image processing:
the lesion in ``skin``, the outline of the head in ``brain_mri``, the optic disc in ``fundus``. These masks are no
ground truth of any clinician; they are a stable reference that a network can learn and that marked images can be held
against. Deriving them needs scikit-image (extra ``evaluation``).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from monai.metrics import DiceMetric
from monai.networks.utils import eval_mode
from monai.utils import optional_import
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from monai_miadmark.surrogates import Surrogate, load_weights

# Named here and missed only when a mask is derived: networks are loaded and compared without the extra.
ndimage, _ = optional_import("scipy.ndimage")
color, _ = optional_import("skimage.color")
filters, _ = optional_import("skimage.filters")
measure, _ = optional_import("skimage.measure")
morphology, _ = optional_import("skimage.morphology")

__all__ = ["TARGETS", "derive_mask", "derive_masks", "dice", "dice_row", "load_segmenter", "masked_list"]

TARGETS = MappingProxyType({"brain_mri": "head", "fundus": "optic disc", "skin": "lesion"})
"""What is segmented in each data set."""

_BATCH = 32
"""Images that go through the segmenter at once."""


def derive_mask(image: NDArray[np.uint8], dataset: str) -> NDArray[np.bool_]:
    """Find the target of a data set in a clean image.

    Sizes of filters suit images of about 128 pixels a side. Thresholds were chosen by looking at ``fit`` images.

    Args:
        image: ``(H, W)`` or ``(H, W, C)`` uint8, gray or RGB, rows and columns as files have them.
        dataset: a key of :data:`TARGETS`.

    Returns:
        ``(H, W)`` bool, ``True`` in the target. All ``False`` where the target cannot be told reliably (diffuse
        lesions, discs behind a cataract, slices on a gray background): such images are best left out.

    Raises:
        ValueError: an unknown data set, or not an image of one or three channels in uint8.
    """
    if dataset not in _DERIVE:
        raise ValueError(f"no target is known for {dataset!r}: use one of {sorted(_DERIVE)}")
    pixels = np.asarray(image)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
        raise ValueError(f"need (H, W, 1 or 3) uint8, not {pixels.shape} {pixels.dtype}")
    return _DERIVE[dataset](np.broadcast_to(pixels, (*pixels.shape[:2], 3)))


def derive_masks(images: NDArray[np.uint8], dataset: str) -> Tensor:
    """Masks of a stack of clean images ``(N, H, W, C)`` uint8: ``(N, 1, H, W)`` float32 of 0 and 1, empty ones too."""
    return torch.from_numpy(np.stack([derive_mask(image, dataset) for image in images])[:, None]).float()


def masked_list(items: Sequence[Mapping[str, Any]], dataset: str) -> list[dict[str, Any]]:
    """Add derived masks to a data list and leave out images without one.

    Args:
        items: ``{"image": path, ...}`` of 8-bit raster files, as :func:`monai_miadmark.datasets.data_list` gives them.
        dataset: a key of :data:`TARGETS`.

    Returns:
        ``{"image": path, "label": (1, H, W) float32 of 0 and 1}`` in the same order, rows and columns as in the files
        (MONAI's ``PILReader`` swaps them in images: transpose these).

    Raises:
        ValueError: an unknown data set, or no image has a mask.
    """
    found: list[dict[str, Any]] = []
    for item in tqdm(items, desc=f"{dataset} masks", unit="image", disable=None):
        if (mask := derive_mask(_read_rgb(item["image"]), dataset)).any():
            found.append({"image": item["image"], "label": mask[None].astype(np.float32)})
    if not found:
        raise ValueError(f"no {TARGETS[dataset]} was found in any of {len(items)} images")
    return found


def load_segmenter(network: nn.Module, path: str | os.PathLike[str]) -> Surrogate:
    """Read what ``train_segmenter.yaml`` wrote into its network.

    Args:
        network: maps ``(B, 3, 128, 128)`` to ``(B, 1, 128, 128)`` logits.
        path: weights ``DATASET_segmenter.pt``.

    Returns:
        The network with its preprocessing, frozen, in evaluation mode: display images ``(B, 1 or 3, H, W)`` in [0, 1],
        rows and columns as in files, to logits ``(B, 1, 128, 128)``.
    """
    return Surrogate(load_weights(network, Path(path)), "segmenter").requires_grad_(False).eval()


def dice(segmenter: nn.Module, images: Tensor, masks: Tensor) -> float:
    """Mean Dice coefficient of predicted and given masks (MONAI's ``DiceMetric``).

    Args:
        segmenter: display images to logits ``(B, 1, h', w')``, which are resized to the masks; its mode is kept.
        images: ``(N, C, h, w)`` float32 in [0, 1]: clean, protected or restored.
        masks: ``(N, 1, h, w)`` of 0 and 1, derived from the *clean* images. Empty ones do not count.

    Returns:
        Mean over images in [0, 1].

    Raises:
        ValueError: shapes do not agree, or every mask is empty.
    """
    if images.ndim != 4 or masks.shape != (len(images), 1, *images.shape[2:]):
        raise ValueError(f"need (N, C, h, w) and (N, 1, h, w), not {tuple(images.shape)} and {tuple(masks.shape)}")
    if not masks.any():
        raise ValueError("every mask is empty: there is nothing to compare with")
    metric = DiceMetric(reduction="mean")
    with eval_mode(segmenter):
        for batch, truth in zip(images.split(_BATCH), masks.split(_BATCH), strict=True):
            logits = segmenter(batch)
            if logits.shape[-2:] != truth.shape[-2:]:
                logits = F.interpolate(logits, truth.shape[-2:], mode="bilinear")
            metric(logits > 0, truth.to(logits.device, torch.bool))
    return float(metric.aggregate().item())


def dice_row(segmenter: nn.Module, versions: Mapping[str, Tensor], masks: Tensor) -> dict[str, float]:
    """Row of a report: Dice of every version of the same images against the masks of the clean ones.

    Args:
        segmenter: as in :func:`dice`.
        versions: ``clean``, ``protected`` and ``restored`` images, ``(N, C, h, w)`` in [0, 1] each.
        masks: ``(N, 1, h, w)``.

    Returns:
        ``{"clean": dice, "protected": dice, "restored": dice}``.
    """
    return {version: dice(segmenter, images, masks) for version, images in versions.items()}


def _read_rgb(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Pixels ``(H, W, 3)`` of a raster file."""
    with Image.open(path) as opened:
        return np.asarray(opened.convert("RGB"), np.uint8)


def _lesion(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Skin lesion: what differs in color from the skin along the border of the image, largest and most central."""
    skin = _inside_vignette(image)
    lab = color.rgb2lab(filters.gaussian(image, 2, channel_axis=2))
    border = skin & (_depth(skin) <= 10)
    if border.sum() < 100:
        return np.zeros_like(skin)
    lightness, red_green, blue_yellow = np.moveaxis(lab - np.median(lab[border], axis=0), 2, 0)
    # Lesions are darker, or of another hue; brighter spots are reflections.
    distance = np.clip(-lightness, 0, None) + 0.7 * np.hypot(red_green, blue_yellow)
    mask = skin & (distance > filters.threshold_otsu(distance[skin]))
    mask = morphology.closing(morphology.opening(mask, morphology.disk(2)), morphology.disk(3))
    labels = measure.label(ndimage.binary_fill_holes(mask))
    if not labels.any():
        return np.zeros_like(skin)
    middle, reach = (np.asarray(skin.shape) - 1) / 2, max(skin.shape) / 2

    def weight(part: Any) -> float:
        return float(part.area * np.exp(-2 * np.sum(((part.centroid - middle) / reach) ** 2)))

    best = max(measure.regionprops(labels), key=weight)
    mask = labels == best.label
    gap, separation = _contrast(distance, mask, skin & ~ndimage.binary_dilation(mask, iterations=4))
    share = mask.sum() / skin.sum()
    clear = separation > 3 and gap > 12 and 0.01 < share < 0.7 and best.solidity > 0.75
    return mask if clear else np.zeros_like(mask)


def _inside_vignette(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Everything but black padding and the dark corners of a dermatoscope."""
    labels = measure.label(image.max(2) < 40)
    edge = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    dark = np.isin(labels, edge[edge > 0])
    dark = morphology.opening(np.pad(dark, 4, mode="edge"), morphology.disk(2))[4:-4, 4:-4]
    return np.asarray(~ndimage.binary_dilation(dark, iterations=3))


def _head(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Head in a slice: the largest bright part with its holes and notches filled."""
    gray = filters.gaussian(image.max(2), 1, preserve_range=True)
    if np.ptp(gray) < 1:
        return np.zeros(gray.shape, bool)
    # Half of Otsu's threshold, because marrow and air cells are darker than what Otsu parts from the rest.
    mask = _largest(morphology.opening(gray > 0.5 * filters.threshold_otsu(gray), morphology.disk(2)))
    mask = morphology.isotropic_closing(np.pad(mask, 8), 6)[8:-8, 8:-8]
    mask = ndimage.binary_fill_holes(mask)
    if not 0.1 < mask.mean() < 0.85:
        return np.zeros_like(mask)
    outside = ndimage.distance_transform_edt(~mask)
    ring = (outside > 3) & (outside < 9)
    leak = gray[ring].mean() / gray[mask].mean() if ring.sum() > 100 else 1.0
    # A bright surrounding, or a full rectangle, is the background of the slice and not the head.
    clear = leak < 0.2 and measure.regionprops(mask.astype(np.uint8))[0].extent < 0.93
    return np.asarray(mask if clear else np.zeros_like(mask))


def _optic_disc(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Optic disc: the bright spot of the expected size where the vessels meet."""
    field = filters.gaussian(image.max(2), 1, preserve_range=True) > 20
    field = ndimage.binary_fill_holes(morphology.opening(_largest(field), morphology.disk(3)))
    nothing = np.zeros_like(field)
    if field.mean() < 0.12:
        return nothing
    radius = 0.125 * float(np.sqrt(field.sum() / np.pi))
    # Red and green: blue shows reflections, and red alone is often overexposed.
    gray = _filled(image[..., :2].mean(2), field)
    background = _blur(gray, field, 3 * radius)
    core = _depth(field) > 0.64 * radius
    vessels = morphology.black_tophat(_filled(image[..., 1].astype(float), field), morphology.disk(3)) * core
    if not core.any():
        return nothing
    score = _standard(_blur(gray, field, 0.6 * radius) - background, core)
    score = np.where(core, score + 0.5 * _standard(_blur(vessels, field, 1.2 * radius), core), -np.inf)
    row, column = np.unravel_index(score.argmax(), score.shape)
    y, x = np.ogrid[: field.shape[0], : field.shape[1]]
    from_peak = np.hypot(y - row, x - column)
    window = field & (from_peak < 2.6 * radius)
    # Vessels that cross the disc are closed before it is cut out.
    bright = _blur(morphology.closing(gray, morphology.disk(2)), field, 1) - background
    cut = morphology.opening(window & (bright > filters.threshold_otsu(bright[window])), morphology.disk(1))
    labels = measure.label(cut)
    near = labels[cut & (from_peak < radius)]
    if not near.size:
        return nothing
    # The disc is the largest part that reaches the peak.
    sizes = np.bincount(labels.ravel())
    part = labels == max(np.unique(near), key=lambda label: int(sizes[label]))
    mask = np.asarray(morphology.convex_hull_image(part))
    _, separation = _contrast(bright, mask, window & ~mask)
    shape = measure.regionprops(mask.astype(np.uint8))[0]
    clear = 0.008 < mask.sum() / field.sum() < 0.05 and part.sum() > 0.88 * mask.sum() and shape.eccentricity < 0.9
    return mask if clear and separation > 2.8 and score.max() > 6 else nothing


def _largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Its largest connected part."""
    labels = measure.label(mask)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray((labels == sizes.argmax()) & mask)


def _depth(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Distance in pixels from the nearest place outside the mask; what is beyond the image is outside."""
    return np.asarray(ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1])


def _blur(values: NDArray[Any], mask: NDArray[np.bool_], sigma: float) -> NDArray[np.float64]:
    """Gaussian mean over the mask alone (normalized convolution), so that its edge is no edge of the result."""
    total = filters.gaussian(values * mask, sigma, preserve_range=True)
    return np.asarray(total / np.maximum(filters.gaussian(mask.astype(float), sigma), 1e-3))


def _filled(values: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Values with what is outside the mask continued from inside."""
    return np.where(mask, values, _blur(values, mask, 4))


def _standard(values: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Values in standard deviations over the mask."""
    return np.asarray(values / max(float(values[mask].std()), 1e-6))


def _contrast(values: NDArray[Any], mask: NDArray[np.bool_], around: NDArray[np.bool_]) -> tuple[float, float]:
    """Difference of the means of two places, and the same in units of their mean standard deviation."""
    if min(mask.sum(), around.sum()) < 20:
        return 0.0, 0.0
    inside, outside = values[mask], values[around]
    gap = float(inside.mean() - outside.mean())
    return gap, gap / (0.5 * float(inside.std() + outside.std()) + 1e-6)


_DERIVE: Mapping[str, Callable[[NDArray[np.uint8]], NDArray[np.bool_]]] = MappingProxyType(
    {"brain_mri": _head, "fundus": _optic_disc, "skin": _lesion}
)

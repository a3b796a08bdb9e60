# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""What an image was taken for, how sure that is, and whether it looks like what the networks were trained on.

A router always names one of the modalities that a bundle has networks for; what is none of them has to be noticed by
other means. Here that is done with statistics of simple features (a thumbnail, orientations of edges, the spectrum,
colors), without networks: a linear classifier that also knows other kinds of images tells modalities apart, and the
distance from the training images of a modality tells what is like none of what it knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from monai_miadmark.image import Origin

__all__ = ["KNOWN_FROM", "Recognition", "Statistics", "Typical", "features", "is_gray"]

KNOWN_FROM = 0.5
"""Confidence from which an image counts as one of its modality."""

_SIDE = 64
"""Features are taken from the content of an image at this size."""

_CONTENT, _CONTENT_SHARE = 0.06, 0.02
"""Brighter than this is content; rows and columns with less of it than this share are border."""

_SLICES = 8
"""Slices of a stack that are looked at, from its middle."""

_STEEPNESS = 12.0
"""How fast confidence falls around the largest distance that still counts as known."""

_VERSION = 1

_BODY_PARTS = frozenset(
    "ABDOMEN ANKLE AORTA ARM BLADDER BRAIN BREAST BRONCHUS BUTTOCK CALF CAROTID CERVIX CHEST CLAVICLE COLON CSPINE EAR "
    "ELBOW ESOPHAGUS EXTREMITY EYE FEMUR FINGER FOOT HAND HEAD HEADNECK HEART HIP HUMERUS KIDNEY KNEE LEG LIVER LSPINE "
    "LUNG NECK OVARY PANCREAS PELVIS PROSTATE RETINA RIB SHOULDER SKIN SKULL SPINE SPLEEN SSPINE STERNUM STOMACH "
    "TESTIS THIGH THORAX THUMB THYROID TIBIA TOE TSPINE UTERUS WRIST".split()
)
"""Defined terms of Body Part Examined that say more than that it is some part; free text says nothing here."""


@dataclass(frozen=True)
class Recognition:
    """What an image was taken for.

    Attributes:
        modality: whose networks make the mark.
        confidence: in [0, 1], that the image is one of this modality; ``None`` where nothing can tell.
        known: whether it looks like what the networks of the modality were trained on; ``None`` where nothing can tell.
        measured: whether the effect of marks was measured on images like this.
        named: whether a person named the modality; else it was recognized.
        choices: modalities that there are networks for.
        contradiction: what the file says that does not go with the modality; empty where nothing does.
    """

    modality: str
    confidence: float | None = None
    known: bool | None = None
    measured: bool = False
    named: bool = False
    choices: tuple[str, ...] = ()
    contradiction: str = ""

    def beside(self, origin: Origin) -> Recognition:
        """The same in view of what the file says: that it is something else counts, that it is this proves nothing."""
        fitting = _ORIGINS.get(self.modality)
        if fitting is None:
            return self
        told = ""
        if origin.modality and origin.modality not in fitting.modalities | _SAYS_NOTHING:
            told = f"DICOM modality {origin.modality}"
        elif origin.body_part in _BODY_PARTS - fitting.body_parts:
            told = f"body part {origin.body_part}"
        if not told:
            return self
        return replace(self, confidence=0.0, known=False, measured=False, contradiction=told)


class _Fitting(NamedTuple):
    """Defined terms of DICOM that go with a modality."""

    modalities: frozenset[str]
    body_parts: frozenset[str]


_SAYS_NOTHING = frozenset({"", "OT", "SC", "DOC", "KO", "PR"})
"""Modalities of which nothing follows: other, secondary captures, scanned documents."""

_ORIGINS = {
    "brain_mri": _Fitting(frozenset({"MR"}), frozenset({"BRAIN", "HEAD", "HEADNECK", "SKULL"})),
    "fundus": _Fitting(frozenset({"OP", "XC"}), frozenset({"EYE", "RETINA", "HEAD"})),
    # Skin is everywhere.
    "skin": _Fitting(frozenset({"DMS", "XC", "GM"}), _BODY_PARTS),
}


def is_gray(images: NDArray[np.float32]) -> bool:
    """Whether images ``(N, C, h, w)`` in [0, 1] have no colors: two or four channels count as gray."""
    return images.shape[1] != 3 or float((images.max(1) - images.min(1)).mean()) < 0.01


def features(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Features of one slice ``(C, h, w)`` in [0, 1]; gray images and colored ones of equal planes have the same."""
    content = _content(image if image.shape[0] == 3 else image.mean(0, keepdims=True).repeat(3, 0))
    planes = np.stack([_resized(plane, _SIDE) for plane in content])
    gray = planes.mean(0)
    down, right = np.gradient(gray)
    strength, angle = np.hypot(down, right), np.mod(np.arctan2(down, right), np.pi)
    which = np.minimum((angle / np.pi * 8).astype(int), 7)
    edges = np.stack([_pooled(strength * (which == k), 4) for k in range(8)])
    spread = np.sqrt(np.maximum(_pooled(gray**2, 16) - _pooled(gray, 16) ** 2, 0))
    tint = np.stack([_pooled(plane, 4) for plane in planes])
    parts = (
        _pooled(gray, 16),
        np.sqrt(edges),
        np.sqrt(np.histogram(gray, 16, (0, 1))[0] / gray.size),
        _spectrum(gray),
        np.quantile(spread, (0.05, 0.25, 0.5, 0.75, 0.95)),
        tint - tint.mean(0),
        np.quantile(planes.max(0) - planes.min(0), (0.1, 0.5, 0.9)),
    )
    return np.concatenate([np.ravel(part) for part in parts]).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Typical:
    """Training images of a modality as principal components of their features.

    Attributes:
        middle: ``(F,)`` mean of the standardized features.
        axes: ``(K, F)`` principal components over the square roots of their variances: whitened.
        back: ``(F, K)``, from whitened components to features.
        rest: mean square of what the components leave out, over the training images.
        examples: ``(M, K)`` whitened training images.
        limits: largest distances that count as known: from the mean and in what is left out, and from examples.
    """

    middle: NDArray[np.float32]
    axes: NDArray[np.float32]
    back: NDArray[np.float32]
    rest: float
    examples: NDArray[np.float32]
    limits: tuple[float, float]

    def distances(self, standard: NDArray[np.float32]) -> NDArray[np.float64]:
        """Distances ``(N, 2)`` of standardized features ``(N, F)``, before they are divided by the limits."""
        centered = standard - self.middle
        whitened = centered @ self.axes.T
        left = ((centered - whitened @ self.back.T) ** 2).mean(1) / self.rest
        squares = (whitened**2).sum(1)[:, None] - 2 * whitened @ self.examples.T + (self.examples**2).sum(1)
        nearest = np.sqrt(np.maximum(np.sort(squares, 1)[:, :5], 0)).mean(1)
        return np.stack([(whitened**2).mean(1) + left, nearest], 1)


@dataclass(frozen=True, eq=False)
class Statistics:
    """Statistics of the training images, by which images are judged.

    Attributes:
        mean: ``(F,)`` of the features.
        scale: ``(F,)``, standard deviations.
        names: modalities, in the order of the classifier's first columns; further ones are other kinds of images.
        weights: ``(F, classes)`` of the linear classifier.
        bias: ``(classes,)``.
        typical: of each modality.
    """

    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    names: tuple[str, ...]
    weights: NDArray[np.float32]
    bias: NDArray[np.float32]
    typical: Mapping[str, Typical]

    def confidence(self, modality: str, images: NDArray[np.float32]) -> float | None:
        """How sure it is that images are of a modality, in [0, 1]; ``None`` for one that there are no statistics of.

        Args:
            modality: its name.
            images: ``(N, C, h, w)`` in [0, 1], one image or the slices of a stack; some from the middle are looked at.
        """
        if modality not in self.names:
            return None
        found = np.stack([features(image) for image in images[_middle(len(images))]])
        return float(np.median(self.confidences(modality, found)))

    def confidences(self, modality: str, found: NDArray[np.float32]) -> NDArray[np.float64]:
        """Confidence ``(N,)`` for each row of features ``(N, F)``."""
        standard = (found - self.mean) / self.scale
        scores = standard.astype(np.float64) @ self.weights + self.bias
        odds = np.exp(scores - scores.max(1, keepdims=True))
        share = odds[:, self.names.index(modality)] / odds.sum(1)
        typical = self.typical[modality]
        farthest = (typical.distances(standard) / np.array(typical.limits)).max(1)
        # Both have to agree: it is most probably of this modality, and it is not far from all that was seen of it.
        fit = 1 / (1 + np.exp(np.clip(_STEEPNESS * (farthest - 1), -60, 60)))
        confidence: NDArray[np.float64] = np.minimum(share, fit)
        return confidence

    def save(self, path: Path) -> None:
        """Write a file that holds numbers and names only; the same statistics give the same bytes."""
        arrays: dict[str, Any] = {
            "version": np.array(_VERSION),
            "names": np.array(self.names),
            **{name: getattr(self, name) for name in ("mean", "scale", "weights", "bias")},
        }
        for name, typical in self.typical.items():
            for part in ("middle", "axes", "back"):
                arrays[f"{name}.{part}"] = getattr(typical, part)
            arrays[f"{name}.examples"] = typical.examples.astype(np.float16)
            arrays[f"{name}.limits"] = np.array([typical.rest, *typical.limits])
        with path.open("wb") as stream:
            np.savez_compressed(stream, **arrays)

    @classmethod
    def load(cls, path: Path) -> Statistics:
        """Inverse of :meth:`save`.

        Raises:
            OSError: it cannot be read.
            ValueError: not such a file, or of another version.
        """
        try:
            with np.load(path, allow_pickle=False) as held:
                arrays = {name: held[name] for name in held.files}
            if int(arrays["version"]) != _VERSION:
                raise ValueError(f"{path.name} is of a version that is not known here")
            names = tuple(str(name) for name in arrays["names"])
            typical = {name: _typical_of(arrays, name) for name in names}
            plain = (arrays[part].astype(np.float32) for part in ("mean", "scale", "weights", "bias"))
            mean, scale, weights, bias = plain
            return cls(mean, scale, names, weights, bias, typical)
        except (AttributeError, BadZipFile, EOFError, IndexError, KeyError, TypeError) as error:
            raise ValueError(f"{path.name} holds no statistics of images") from error


def _typical_of(arrays: Mapping[str, NDArray[Any]], name: str) -> Typical:
    """The part of a file that is about one modality."""
    middle, axes, back, examples = (
        arrays[f"{name}.{part}"].astype(np.float32) for part in ("middle", "axes", "back", "examples")
    )
    rest, first, second = (float(value) for value in arrays[f"{name}.limits"])
    return Typical(middle, axes, back, rest, examples, (first, second))


def _middle(count: int) -> Sequence[int]:
    """Slices that are looked at: evenly spread, without the outer quarters, which show little."""
    first, last = count // 4, count - count // 4
    inner = range(first, last)
    return inner[:: -(-len(inner) // _SLICES)]


def _content(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """The image ``(C, h, w)`` without dark borders, which say more about the file than about what it shows."""
    bright = image.max(0) > _CONTENT
    rows, columns = (np.nonzero(bright.mean(axis) > _CONTENT_SHARE)[0] for axis in (1, 0))
    if len(rows) < 8 or len(columns) < 8:
        return image
    return image[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _resized(plane: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """A square of a plane, antialiased."""
    picture = Image.fromarray(np.ascontiguousarray(plane, np.float32))
    # Unlike a box, this filter is smooth where an image is enlarged, and an average where it is shrunk.
    return np.asarray(picture.resize((side, side), Image.Resampling.BILINEAR))


def _pooled(plane: NDArray[Any], cells: int) -> NDArray[Any]:
    """Means over a grid of cells."""
    step = len(plane) // cells
    pooled: NDArray[Any] = plane.reshape(cells, step, cells, step).mean((1, 3))
    return pooled


def _spectrum(gray: NDArray[np.float32]) -> NDArray[np.float64]:
    """Logarithm of the power at 15 rising frequencies."""
    window = np.hanning(_SIDE)
    power = np.abs(np.fft.fftshift(np.fft.fft2((gray - gray.mean()) * np.outer(window, window)))) ** 2
    y, x = np.mgrid[-_SIDE // 2 : _SIDE // 2, -_SIDE // 2 : _SIDE // 2]
    ring = (np.hypot(y, x) - 1) // 2
    return np.array([np.log(power[ring == k].mean() + 1e-3) for k in range(15)]) / 10

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Images of kinds that are easy to tell apart, and statistics that know some of them."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from monai_miadmark.recognition import Statistics, features
from monai_miadmark.recognition_fitting import fit_statistics

__all__ = ["blobs", "checks", "disks", "statistics", "stripes"]

Images = NDArray[np.float32]
_SIDE = 48


def _grid() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    y, x = np.mgrid[:_SIDE, :_SIDE] / _SIDE
    return y, x


def _images(planes: list[NDArray[np.float64]]) -> Images:
    return np.stack(planes).clip(0, 1).astype(np.float32)


def blobs(count: int, seed: int = 0) -> Images:
    """Gray: a bright ellipse with a few spots, as ``brain_mri``; ``(N, 1, h, w)``."""
    rng, (y, x) = np.random.default_rng(seed), _grid()
    planes = []
    for _ in range(count):
        a, b = rng.uniform(0.36, 0.44, 2)
        inside = ((y - 0.5) / a) ** 2 + ((x - 0.5) / b) ** 2 < 1
        spot = np.exp(-((y - rng.uniform(0.35, 0.65)) ** 2 + (x - rng.uniform(0.35, 0.65)) ** 2) / 0.01)
        planes.append(inside * (0.45 + 0.3 * spot + 0.05 * rng.random(inside.shape))[None])
    return _images(planes)


def disks(count: int, seed: int = 0) -> Images:
    """Orange disks, as ``fundus``; ``(N, 3, h, w)``."""
    rng, (y, x) = np.random.default_rng(seed), _grid()
    inside = (y - 0.5) ** 2 + (x - 0.5) ** 2 < 0.2
    tones = np.array([0.8, 0.4, 0.15])[:, None, None]
    return _images(
        [inside * tones * rng.uniform(0.8, 1.1) + 0.03 * rng.random((3, _SIDE, _SIDE)) for _ in range(count)]
    )


def skins(count: int, seed: int = 0) -> Images:
    """Pink ground with a dark patch, as ``skin``; ``(N, 3, h, w)``."""
    rng, (y, x) = np.random.default_rng(seed), _grid()
    ground = np.array([0.9, 0.7, 0.65])[:, None, None]
    patches = [
        np.exp(-((y - 0.5) ** 2 + (x - 0.5) ** 2) / rng.uniform(0.02, 0.05)) + 0.03 * rng.random(y.shape)
        for _ in range(count)
    ]
    return _images([ground * (1 - 0.6 * patch) for patch in patches])


def stripes(count: int, seed: int = 0) -> Images:
    """Gray stripes: a kind that the statistics have met, and no modality; ``(N, 1, h, w)``."""
    rng, (y, x) = np.random.default_rng(seed), _grid()
    return _images([(0.5 + 0.4 * np.sin(40 * x + rng.uniform(0, 6)) + 0 * y)[None] for _ in range(count)])


def checks(count: int, seed: int = 0) -> Images:
    """Gray checks: a kind that the statistics have never met; ``(N, 1, h, w)``."""
    rng, (y, x) = np.random.default_rng(seed), _grid()
    return _images(
        [(0.5 + 0.4 * np.sign(np.sin(25 * x + rng.uniform(0, 6)) * np.sin(25 * y)))[None] for _ in range(count)]
    )


def _rows(images: Images) -> NDArray[np.float32]:
    return np.stack([features(image) for image in images])


@cache
def statistics() -> Statistics:
    """Statistics of ``brain_mri``, ``fundus`` and ``skin`` as they are drawn here."""
    kinds = {"brain_mri": blobs, "fundus": disks, "skin": skins}
    known = {name: _rows(draw(120, 1)) for name, draw in kinds.items()}
    tune = {name: _rows(draw(80, 2)) for name, draw in kinds.items()}
    return fit_statistics(known, {"stripes": _rows(stripes(60, 1))}, tune)

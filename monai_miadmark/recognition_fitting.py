# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Makes the statistics by which images are recognized, and tells how well they do on images that they were not made of.

Weights are of a linear classifier, so that this takes a minute on two cores; the features are numbers, not networks.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

from monai_miadmark.datasets import data_list
from monai_miadmark.recognition import KNOWN_FROM, Statistics, Typical, features
from monai_miadmark.threads import in_threads, usable_threads

__all__ = ["fit_statistics", "gather", "print_table", "write_statistics"]

_COMPONENTS = 40
_EXAMPLES = 800
_KEPT = 0.9875
"""Share of a modality's tune images that either distance lets pass."""

_DECAY = 1e-3
"""Of the classifier's weights."""

Rows = dict[str, NDArray[np.float32]]
"""Features ``(N, F)`` by the name of the data set."""


def gather(
    names: Sequence[str],
    section: str,
    roots: Sequence[str | os.PathLike[str]],
    variants: int = 0,
    limit: int | None = None,
) -> Rows:
    """Features of data sets' images, from all folders that have a data set of the name.

    Args:
        names: data sets.
        section: ``fit``, ``tune`` or ``val``; see :func:`monai_miadmark.datasets.data_list`.
        roots: folders of data sets.
        variants: how often each image comes changed at random beside itself: brightness, contrast, mirrored, turned,
            cropped.
        limit: at most so many images of each class.

    Raises:
        FileNotFoundError: a data set is in none of the folders.
    """
    found: Rows = {}
    for name in names:
        paths = []
        for root in roots:
            if (Path(root) / name).is_dir():
                paths += [str(item["image"]) for item in data_list(name, section, root, limit)]
        if not paths:
            raise FileNotFoundError(f"there is no data set {name!r} in {', '.join(map(str, roots))}")

        def of(path: str) -> list[NDArray[np.float32]]:
            return [features(image) for image in _pictures(path, variants)]

        found[name] = np.stack([row for rows in in_threads(of, paths, usable_threads()) for row in rows])
    return found


def fit_statistics(known: Rows, others: Rows, tune: Rows) -> Statistics:
    """Statistics of images.

    Args:
        known: features of the modalities that there are networks for, ``fit`` part.
        others: of other kinds of images.
        tune: of the modalities, images that were not fitted: the limits come from them.
    """
    everything = np.concatenate([*known.values(), *others.values()])
    mean, scale = everything.mean(0), np.maximum(everything.std(0), 1e-3)
    classes = [(rows - mean) / scale for rows in (*known.values(), *others.values())]
    weights, bias = _classifier(classes)
    typical = {name: _typical((rows - mean) / scale, (tune[name] - mean) / scale) for name, rows in known.items()}
    return Statistics(mean, scale, tuple(known), weights, bias, typical)


def write_statistics(
    path: str | os.PathLike[str],
    names: Sequence[str],
    others: Sequence[str],
    roots: Sequence[str | os.PathLike[str]],
) -> None:
    """Make the statistics of a bundle and write them.

    Args:
        path: the file.
        names: modalities that there are networks for.
        others: data sets of other kinds of images.
        roots: folders of data sets.
    """
    known = gather(names, "fit", roots, variants=1)
    fit_statistics(known, gather(others, "fit", roots, variants=1), gather(names, "tune", roots)).save(Path(path))


def print_table(
    path: str | os.PathLike[str],
    names: Sequence[str],
    others: Sequence[str],
    roots: Sequence[str | os.PathLike[str]],
    strangers: bool = True,
) -> None:
    """Print, as Markdown, what becomes of images that the statistics were not made of (``val``).

    Args:
        path: the file of :func:`write_statistics`.
        names: modalities.
        others: data sets of other kinds of images.
        roots: folders of data sets.
        strangers: fit again without each of the other kinds in turn, to see what becomes of a kind never met.
    """
    made = Statistics.load(Path(path))
    val = {**gather(names, "val", roots), **gather(others, "val", roots)}
    print(f"| images | of them | {' | '.join(names)} | unknown | unknown if never met |")
    print("|---|---|" + "---|" * (len(names) + 2))
    fit: Mapping[str, Rows] = {}
    if strangers:
        fit = {
            "known": gather(names, "fit", roots, variants=1),
            "others": gather(others, "fit", roots, variants=1),
            "tune": gather(names, "tune", roots),
        }
    for name, rows in val.items():
        taken = _taken(made, rows)
        shares = [f"{(taken == i).mean():.3f}" for i in (*range(len(names)), -1)]
        never = ""
        if name in others and strangers:
            rest = {other: found for other, found in fit["others"].items() if other != name}
            never = f"{(_taken(fit_statistics(fit['known'], rest, fit['tune']), rows) == -1).mean():.3f}"
        print(f"| {name} | {len(rows)} | {' | '.join(shares)} | {never} |")


def _taken(statistics: Statistics, rows: NDArray[np.float32]) -> NDArray[np.int64]:
    """Number of the modality that each image counts as one of, ``-1`` for none."""
    told = np.stack([statistics.confidences(name, rows) for name in statistics.names], 1)
    best: NDArray[np.int64] = np.where(told.max(1) >= KNOWN_FROM, told.argmax(1), -1)
    return best


def _pictures(path: str, variants: int) -> Iterator[NDArray[np.float32]]:
    """An image ``(C, h, w)`` in [0, 1] and then so many changed ones; the same ones for the same name."""
    with Image.open(path) as opened:
        picture = opened if opened.mode in ("L", "RGB") else opened.convert("RGB")
        picture.thumbnail((160, 160), Image.Resampling.BOX)
        plain = np.asarray(picture, np.float32) / np.float32(255)
    plain = plain[None] if plain.ndim == 2 else plain.transpose(2, 0, 1)
    yield plain
    rng = np.random.default_rng(zlib.crc32(Path(path).name.encode()))
    for _ in range(variants):
        changed = np.clip(plain * rng.uniform(0.75, 1.3), 0, 1) ** rng.uniform(0.7, 1.5)
        changed = changed[:, :, ::-1] if rng.random() < 0.5 else changed
        if rng.random() < 0.3:
            changed = np.rot90(changed, int(rng.integers(1, 4)), (1, 2))
        height, width = changed.shape[1:]
        top, bottom, left, right = (
            int(share * side)
            for share, side in zip(rng.uniform(0, 0.08, 4), (height, height, width, width), strict=True)
        )
        yield np.ascontiguousarray(changed[:, top : height - bottom, left : width - right], np.float32)


def _classifier(classes: Sequence[NDArray[np.float32]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weights ``(F, classes)`` and bias of a linear classifier, every class counting alike."""
    rows = torch.from_numpy(np.concatenate(classes)).double()
    labels = torch.cat([torch.full((len(part),), i) for i, part in enumerate(classes)])
    counts = torch.tensor([1 / len(part) for part in classes], dtype=torch.float64)
    weights = torch.zeros(rows.shape[1], len(classes), dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(len(classes), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=150, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(rows @ weights + bias, labels, counts) + _DECAY * weights.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return weights.detach().float().numpy(), bias.detach().float().numpy()


def _typical(rows: NDArray[np.float32], tune: NDArray[np.float32]) -> Typical:
    """Principal components of a modality's images, examples of them, and how far the tune images lie."""
    middle = rows.mean(0)
    centered = rows - middle
    _, values, axes = np.linalg.svd(centered, full_matrices=False)
    deviations = values[:_COMPONENTS] / np.sqrt(len(rows))
    axes = axes[:_COMPONENTS]
    whitening, back = axes / deviations[:, None], (axes * deviations[:, None]).T
    whitened = centered @ whitening.T
    rest = float(((centered - whitened @ back.T) ** 2).mean())
    examples = whitened[:: -(-len(whitened) // _EXAMPLES)].astype(np.float16).astype(np.float32)
    made = Typical(middle, whitening, back, rest, examples, (1.0, 1.0))
    first, second = (float(limit) for limit in np.quantile(made.distances(tune), _KEPT, axis=0))
    return Typical(middle, whitening, back, rest, examples, (first, second))

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Several modalities in one training: their surrogates, their images, and batches of one after the other."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.data import CacheDataset, list_data_collate

from monai_miadmark.datasets import data_list
from monai_miadmark.surrogates import SurrogateEnsemble

__all__ = ["MODALITY", "ModalityBatches", "modality_datasets", "modality_ensembles"]

MODALITY = "modality"
"""Dictionary key of the name of an image's modality."""


class ModalityBatches:
    """Batches of one modality at a time, the modalities in turn, without end.

    What a step sees is a function of the seed and the number of the step alone, so that a training that goes on from a
    checkpoint sees what it would have seen. Every modality comes equally often, however many images it has; each goes
    through its images in a new order in every pass and drops what does not fill a batch.

    Args:
        data: for each modality a map-style dataset of dictionaries that collate.
        batch_size: images a batch; less for a modality that has fewer.
        seed: of the orders.

    Raises:
        ValueError: no modality, or one without images.
    """

    def __init__(self, data: Mapping[str, Sequence[Mapping[str, Any]]], batch_size: int, seed: int = 0) -> None:
        if not data or not all(len(items) for items in data.values()):
            raise ValueError("every modality needs at least one image")
        self.data, self.batch_size, self.seed = dict(data), batch_size, seed
        self.step = 0

    def __len__(self) -> int:
        """Batches until each modality has been gone through once, or more often where it is smaller than others."""
        return len(self.data) * max(self._batches(name) for name in self.data)

    def seek(self, step: int) -> None:
        """Go on at this step; a second iterator goes on where the first one is."""
        self.step = step

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Batches as :func:`monai.data.list_data_collate` makes them, with the name under ``modality``."""
        while True:
            self.step += 1
            yield self.batch(self.step - 1)

    def batch(self, step: int) -> dict[str, Any]:
        """The batch of a step, counted from 0."""
        which = step % len(self.data)
        name = list(self.data)[which]
        turn, place = divmod(step // len(self.data), self._batches(name))
        # Large odd factors keep the streams apart; torch takes seeds below 2^63.
        rng = torch.Generator().manual_seed(((self.seed * 1_000_003 + which) * 1_000_003 + turn) % 2**63)
        order = torch.randperm(len(self.data[name]), generator=rng).tolist()
        chosen = order[place * self.batch_size : (place + 1) * self.batch_size]
        batch: dict[str, Any] = list_data_collate([dict(self.data[name][i]) for i in chosen])
        return batch | {MODALITY: name}

    def _batches(self, name: str) -> int:
        """Batches in one pass over a modality."""
        return max(1, len(self.data[name]) // self.batch_size)


def modality_datasets(
    names: Sequence[str],
    section: str,
    root: str | os.PathLike[str] | None,
    transform: Any,
    limit: int | None = None,
) -> dict[str, CacheDataset]:
    """Cached images of several data sets; each item knows its modality before the transforms run.

    Args:
        names: data sets, see :func:`monai_miadmark.datasets.data_list`.
        section: ``fit`` or ``tune``; ``val`` is for reports.
        root: folder of the data sets.
        transform: deterministic MONAI transforms.
        limit: at most so many images of each class.

    Raises:
        FileNotFoundError: a data set without images.
    """
    return {
        name: CacheDataset([item | {MODALITY: name} for item in data_list(name, section, root, limit)], transform)
        for name in names
    }


def modality_ensembles(
    networks_config: str | os.PathLike[str],
    names: Sequence[str],
    surrogate_names: Sequence[str],
    device: torch.device | str = "cpu",
    **overrides: Any,
) -> dict[str, SurrogateEnsemble]:
    """An ensemble for each modality from one description of the architectures, with as many classes as each has.

    Args:
        networks_config: ``networks.yaml`` of the bundle.
        names: modalities, the values that ``dataset`` takes there.
        surrogate_names: weights to take of each.
        device: where they run.
        overrides: of other entries, e.g. ``classes`` or ``models_dir``.

    Raises:
        FileNotFoundError: weights are missing.
    """
    ensembles = {}
    for name in names:
        parser = ConfigParser()
        parser.read_config(str(Path(networks_config)))
        parser.update({**overrides, "dataset": name, "surrogate_names": list(surrogate_names)})
        ensembles[name] = parser.get_parsed_content("ensemble").to(device)
    return ensembles

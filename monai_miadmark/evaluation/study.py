# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""One data set under one choice of options: sets of protected images, made once, and how models fare on them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from monai_miadmark.datasets import class_names, data_list
from monai_miadmark.evaluation.protected import ProtectedSet, display, protect_set
from monai_miadmark.marker import check_listed, load_config, load_marker, surrogates_without
from monai_miadmark.marking import Marker
from monai_miadmark.options import ProtectOptions
from monai_miadmark.surrogates import Surrogate, robust_name

__all__ = ["Study", "accuracy", "right_answers"]

_BATCH = 32

Removers = Mapping[str, Callable[[Tensor], Tensor]]
"""What is done to display images ``(B, C, h, w)`` before a model sees them, by the name that tables give it."""


@torch.inference_mode()
def right_answers(
    victim: nn.Module,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    remover: Callable[[Tensor], Tensor] | None = None,
) -> NDArray[np.bool_]:
    """Which images a model puts into the right class.

    Args:
        victim: ``(B, C, H, W)`` in [0, 1] to logits.
        images: uint8 ``(N, H, W, C)``.
        labels: ``(N,)``.
        remover: applied to the images first.

    Returns:
        ``(N,)``.
    """
    parts = []
    for first in range(0, len(labels), _BATCH):
        batch = display(images[first : first + _BATCH])
        if remover is not None:
            batch = remover(batch)
        logits = victim(batch.to(next(victim.parameters()).device))
        parts.append(logits.argmax(1).cpu().numpy() == labels[first : first + _BATCH])
    return np.concatenate(parts)


def accuracy(
    victim: nn.Module,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    remover: Callable[[Tensor], Tensor] | None = None,
) -> float:
    """Share of images that a model puts into the right class; arguments as for :func:`right_answers`."""
    return float(right_answers(victim, images, labels, remover).mean())


class Study:
    """Protected images of one data set, kept in files so that no question makes them anew.

    Args:
        root: bundle folder.
        dataset: ``brain_mri``, ``fundus`` or ``skin``.
        options: the custodian's choices; their ``modality`` is the data set.
        section: ``val`` to report, ``tune`` to choose, ``fit`` for an attacker's pairs.
        limit: at most so many images of each class.
        part: index and count: of so many equal parts of the images only this one, every so many-th image.
        seed: stands for the content keys.
        cache: folder for the sets.
        device: of the networks.
        make_marker: gives the marker without the architectures named; default: the bundle's own.
        variant: name of ``make_marker`` in the cache, for markers other than the bundle's.
    """

    def __init__(
        self,
        root: str | Path,
        dataset: str,
        options: ProtectOptions | None = None,
        section: str = "val",
        limit: int | None = None,
        part: tuple[int, int] = (0, 1),
        seed: int = 0,
        cache: str | Path | None = None,
        device: torch.device | str = "cpu",
        make_marker: Callable[[tuple[str, ...]], Marker] | None = None,
        variant: str = "bundle",
    ) -> None:
        self.root, self.dataset, self.section, self.limit, self.seed = Path(root), dataset, section, limit, seed
        self.options = options or ProtectOptions(modality=dataset)
        self.part, self.cache = part, Path(cache) if cache else None
        self.device, self.variant = torch.device(device), variant
        self.items = data_list(dataset, section, limit=limit)[part[0] :: part[1]]
        self.classes = class_names(dataset)
        self.parser = load_config(self.root, dataset=dataset)
        self.names: list[str] = list(self.parser.get_parsed_content("victim_names"))
        self.mode: str = self.parser.get_parsed_content("modes")[dataset]
        self._make_marker = make_marker or (lambda exclude: load_marker(self.root, self.device, exclude))
        self._victims: dict[str, Surrogate] | None = None

    @property
    def victims(self) -> Mapping[str, Surrogate]:
        """The diagnostic models that are asked, by architecture."""
        if self._victims is None:
            members = self.parser.get_parsed_content("victims").to(self.device).members
            self._victims = {member.name: member for member in members}
        return self._victims

    @property
    def black_box_names(self) -> list[str]:
        """Models whose architectures can be left out: of a generator nothing can, so only those it never met."""
        met = self.parser["generator_surrogates"] if self.options.strength.steps == 0 else ()
        return [name for name in self.names if name not in met]

    def protected(self, exclude: Sequence[str] = ()) -> ProtectedSet:
        """The images, marked without the help of the architectures ``exclude``."""
        path = self.cache / f"{self._key(tuple(exclude))}.npz" if self.cache else None
        if path and path.is_file():
            return ProtectedSet.load(path)
        made = protect_set(self.items, self._make_marker(tuple(exclude)), self.options, self.mode, self.seed)
        if path:
            made.save(path)
        return made

    def white_box(self, removers: Removers | None = None) -> list[dict[str, Any]]:
        """Rows of every model against marks made with the whole ensemble, as they are and after removers."""
        made = self.protected()
        return [row for name in self.names for row in self._rows("white box", name, made, removers)]

    def black_box(self, removers: Removers | None = None) -> list[dict[str, Any]]:
        """Rows of every model against marks that its architecture had no part in, as they are and after removers."""
        return [
            row
            for name in self.black_box_names
            for row in self._rows("black box", name, self.protected((name,)), removers)
        ]

    def _rows(self, setting: str, name: str, made: ProtectedSet, removers: Removers | None) -> list[dict[str, Any]]:
        """One model on clean, protected and restored images, then on clean and protected ones after each remover."""
        asked = {"": None, **(removers or {})}
        return [self._row(setting, name, made, attack, remover) for attack, remover in asked.items()]

    def _row(
        self,
        setting: str,
        name: str,
        made: ProtectedSet,
        remover_name: str,
        remover: Callable[[Tensor], Tensor] | None = None,
    ) -> dict[str, Any]:
        victim = self.victims[name]
        clean, protected = (right_answers(victim, x, made.labels, remover) for x in (made.clean, made.protected))
        row = {
            "dataset": self.dataset,
            "setting": setting,
            "victim": name,
            "remover": remover_name,
            "images": len(made),
            "clean": float(clean.mean()),
            "protected": float(protected.mean()),
        }
        if remover is None:
            row["restored"] = accuracy(victim, made.restored, made.labels)
            row["classes"] = self._by_class(made.labels, clean, protected)
        return row

    def _by_class(
        self, labels: NDArray[np.int64], clean: NDArray[np.bool_], protected: NDArray[np.bool_]
    ) -> dict[str, dict[str, float]]:
        """Images of every class, and the share of right answers about them before and after protection."""
        return {
            self.classes[label]: {
                "images": int(np.count_nonzero(labels == label)),
                "clean": float(clean[labels == label].mean()),
                "protected": float(protected[labels == label].mean()),
            }
            for label in np.unique(labels)
        }

    def _key(self, exclude: tuple[str, ...]) -> str:
        """File name of a set: readable, with a digest of everything that it depends on."""
        hashes = check_listed(self.root / "models")
        names, robust, aside = surrogates_without(self.parser, exclude)
        asked = [*names, *map(robust_name, (*robust, *aside))]
        facts = {
            "options": {**asdict(self.options), "preset": asdict(self.options.strength)},
            "weights": [hashes[f"{self.dataset}_{name}.pt"] for name in asked],
            "generator": hashes["model.pt"] if self.options.strength.steps == 0 else None,
            "items": [Path(str(item["image"])).name for item in self.items],
            "seed": self.seed,
            "variant": self.variant,
        }
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=_told).encode()).hexdigest()[:12]
        without = "_".join(("without", *exclude)) if exclude else "all"
        return f"{self.dataset}_{self.section}_{self.variant}_{without}_{digest}"


def _told(value: Any) -> Any:
    """What stands for a value that JSON has no word for: of masks and logo files it is the content that counts."""
    if isinstance(value, np.ndarray):
        return [list(value.shape), hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()]
    if isinstance(value, Path):
        return hashlib.sha256(value.read_bytes()).hexdigest() if value.is_file() else str(value)
    return repr(value)

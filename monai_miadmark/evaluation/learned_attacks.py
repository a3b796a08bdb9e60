# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Attackers who know everything but the keys: networks trained on marks that they made themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from monai_miadmark.evaluation.adapted_victims import fine_tune
from monai_miadmark.evaluation.decomposition import train_decomposition
from monai_miadmark.evaluation.protected import ProtectedSet
from monai_miadmark.evaluation.removal_networks import as_remover, train_denoiser, train_remover
from monai_miadmark.evaluation.study import Study, accuracy

__all__ = ["FINE_TUNED", "Effort", "attack_rows", "attacker_pairs", "train_removers"]

FINE_TUNED = "fine-tuned model"
"""What tables call a victim that was trained on protected images with labels."""

_OWN_KEYS = 1_000_003
"""Seed of the attackers' content keys: never that of a custodian."""


@dataclass(frozen=True)
class Effort:
    """How long an attacker trains, in optimizer steps.

    Attributes:
        remover: a removal network, once for likeness alone and once for a diagnostic model's opinion as well.
        decomposition: a two-stage watermark decomposition network.
        denoiser: a blind denoiser.
        fine_tune: a diagnostic model on protected images.
    """

    remover: int = 600
    decomposition: int = 400
    denoiser: int = 400
    fine_tune: int = 150


def attacker_pairs(study: Study, make_study: Callable[..., Study]) -> ProtectedSet:
    """Images that nobody reports on, marked by the attacker with each of the markers that the study evaluates.

    Those are the one with all architectures, for the white box, and those that leave one out.

    Args:
        study: what will be attacked.
        make_study: gives a study with the same options on other images: ``section``, ``seed`` and ``part`` are passed.
    """
    left_out: list[tuple[str, ...]] = [(), *((name,) for name in study.black_box_names)]
    parts = [
        make_study(section="fit", seed=_OWN_KEYS, part=(number, len(left_out))).protected(exclude)
        for number, exclude in enumerate(left_out)
    ]
    return ProtectedSet.joined(parts)


def train_removers(
    pairs: ProtectedSet, own_model: nn.Module, effort: Effort, seed: int = 0, device: torch.device | str = "cpu"
) -> dict[str, Callable[[Tensor], Tensor]]:
    """Removal networks by the name that tables give them.

    Args:
        pairs: what the attacker marked.
        own_model: a diagnostic model that the attacker has.
        effort: how long to train.
        seed: of weights and order.
        device: where to train.
    """
    protected, clean = _planes(pairs.protected), _planes(pairs.clean)
    labels, masks = torch.from_numpy(pairs.labels), torch.from_numpy(pairs.logos)[:, None]
    networks: dict[str, nn.Module] = {
        "blind denoiser": train_denoiser(clean, effort.denoiser, seed, device=device),
        "removal network": train_remover(protected, clean, effort.remover, seed, device=device),
        "removal network, diagnostic loss": train_remover(
            protected, clean, effort.remover, seed, own_model, labels, device=device
        ),
        "watermark decomposition": train_decomposition(
            protected, clean, masks, effort.decomposition, seed, own_model, labels, device=device
        ),
    }
    return {name: as_remover(network) for name, network in networks.items()}


def attack_rows(
    study: Study, pairs: ProtectedSet, effort: Effort | None = None, own_model: str = "resnet", seed: int = 0
) -> list[dict[str, Any]]:
    """Rows of every model in the white and the black box after each learned attack.

    Args:
        study: what is attacked.
        pairs: of :func:`attacker_pairs`.
        effort: how long the attacker trains.
        own_model: the architecture of the diagnostic model that helps to train removers.
        seed: of all training.
    """
    effort = effort or Effort()
    removers = train_removers(pairs, study.victims[own_model], effort, seed, study.device)
    rows = [*study.white_box(removers), *study.black_box(removers)]
    for name in study.black_box_names:
        made = study.protected((name,))
        adapted = fine_tune(
            study.victims[name],
            _planes(pairs.protected),
            torch.from_numpy(pairs.labels),
            effort.fine_tune,
            seed,
            _planes(pairs.clean),
            device=study.device,
        )
        rows.append(
            {
                "dataset": study.dataset,
                "setting": "black box",
                "victim": name,
                "remover": FINE_TUNED,
                "images": len(made),
                "clean": accuracy(adapted, made.clean, made.labels),
                "protected": accuracy(adapted, made.protected, made.labels),
            }
        )
    return rows


def _planes(images: np.ndarray[Any, Any]) -> Tensor:
    """``(N, H, W, C)`` samples as ``(N, C, H, W)``."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))

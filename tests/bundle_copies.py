# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The bundle of this checkout, and a copy of it whose networks are tiny."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from monai_miadmark.marker import HASHES, load_config
from monai_miadmark.surrogates import robust_name, save_weights

BUNDLE = Path(__file__).resolve().parents[1] / "bundles" / "miadmark"
MODALITIES = ("brain_mri", "fundus", "skin")
VICTIMS = ("resnet", "plain", "densenet", "efficientnet", "thinresnet", "mobilenet")
"""Architectures whose weights the bundle has for every modality."""

_NETWORKS = yaml.safe_load((BUNDLE / "configs" / "networks.yaml").read_text())
STRANGERS = tuple(name for name in VICTIMS if name not in _NETWORKS["generator_surrogates"])
"""Those that the generator was not trained against."""

ROBUST = tuple(_NETWORKS["robust_names"])
"""Architectures of which ensembles have an adversarially trained surrogate as well."""

GUIDES = tuple(_NETWORKS["guide_names"])
"""Surrogates whose gradients the generator hears."""

ASIDE = tuple(_NETWORKS["aside_names"])
"""Architectures of which the bundle has adversarially trained surrogates only, which guide the generator."""

NETWORKS = {name: f"networks#{name}" for name in (*VICTIMS, *ASIDE, "seresnext")}
"""All architectures that can be trained, with their places in the configuration."""

WEIGHTS = {"model.pt": ("network_def", "brain_mri"), "router.pt": ("router_def", "brain_mri")} | {
    f"{modality}_{name}.pt": (NETWORKS[name], modality) for modality in MODALITIES for name in VICTIMS
}
WEIGHTS |= {
    f"{modality}_{robust_name(name)}.pt": (NETWORKS[name], modality)
    for modality in MODALITIES
    for name in (*ROBUST, *ASIDE)
}
WEIGHTS |= {f"{name}_locator.pt": ("locator_def", name) for name in _NETWORKS["located_names"]}
"""Weight files, which network each is for, and the data set that says how many classes it has."""

_missing = [name for name in (*WEIGHTS, HASHES) if not (BUNDLE / "models" / name).is_file()]

needs_weights = pytest.mark.skipif(bool(_missing), reason=f"not in the bundle's models folder: {', '.join(_missing)}")
"""Skips, by name, what needs weights that are not trained yet."""

_TINY: dict[str, dict[str, Any]] = {
    "resnet": {"layers": [1, 1, 1, 1], "block_inplanes": [4, 4, 8, 8]},
    "plain": {"channels": [4, 4, 4, 4, 4, 4, 4]},
    "densenet": {"init_features": 4, "growth_rate": 4, "block_config": [1, 1]},
}
_KERNELS = {"seresnext": 5, "efficientnet": 7, "thinresnet": 9, "mobilenet": 11, "inception": 13}
"""These cannot be had tiny: plain networks with other kernels take their places."""


def tiny_bundle(folder: Path, weights: bool = False) -> Path:
    """Copy configurations and documents, shrink the networks; with random weights and their hashes on request."""
    root = folder / "miadmark"
    shutil.copytree(BUNDLE, root, ignore=shutil.ignore_patterns("models", "eval"))
    (root / "models").mkdir()
    path = root / "configs" / "networks.yaml"
    config = yaml.safe_load(path.read_text())
    for name, smaller in _TINY.items():
        config["networks"][name].update(smaller)
    for name, kernel_size in _KERNELS.items():
        config["networks"][name] = dict(config["networks"]["plain"], kernel_size=kernel_size)
    config["network_def"].update(width=8, shallow=2, deep=1)
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    if weights:
        write_weights(root)
    return root


def write_weights(root: Path) -> None:
    """Random weights for every network, and their hashes."""
    parsers = {modality: load_config(root, dataset=modality) for modality in MODALITIES}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for name, (place, modality) in WEIGHTS.items():
            save_weights(parsers[modality].get_parsed_content(place), root / "models" / name)
    write_hashes(root)


def write_hashes(root: Path) -> None:
    """``models/SHA256SUMS`` as ``sha256sum *.npz *.pt`` writes it."""
    files = [*sorted((root / "models").glob("*.npz")), *sorted((root / "models").glob("*.pt"))]
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (root / "models" / HASHES).write_text("".join(lines))

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
from monai_miadmark.surrogates import save_weights

BUNDLE = Path(__file__).resolve().parents[1] / "bundles" / "miadmark"
HELD_OUT, PRETRAINED = "seresnext", "efficientnet"
NETWORKS = {name: f"networks#{name}" for name in ("resnet", "plain", "densenet")} | {
    HELD_OUT: f"heldout_networks#{HELD_OUT}",
    PRETRAINED: f"pretrained_networks#{PRETRAINED}",
}
"""Classifiers by name, with their places in the configuration."""

WEIGHTS = {"model.pt": "network_def"} | {f"brain_mri_{name}.pt": place for name, place in NETWORKS.items()}
"""Weight files, and which network each is for."""

_missing = [name for name in (*WEIGHTS, HASHES) if not (BUNDLE / "models" / name).is_file()]

needs_weights = pytest.mark.skipif(bool(_missing), reason=f"not in the bundle's models folder: {', '.join(_missing)}")
"""Skips, by name, what needs weights that are not trained yet."""

_TINY: dict[str, dict[str, Any]] = {
    "resnet": {"layers": [1, 1, 1, 1], "block_inplanes": [4, 4, 8, 8]},
    "plain": {"channels": [4, 4, 4, 4, 4, 4, 4]},
    "densenet": {"init_features": 4, "growth_rate": 4, "block_config": [1, 1]},
}


def tiny_bundle(folder: Path, weights: bool = False) -> Path:
    """Copy configurations and documents, shrink the networks; with random weights and their hashes on request."""
    root = folder / "miadmark"
    shutil.copytree(BUNDLE, root, ignore=shutil.ignore_patterns("models", "eval"))
    (root / "models").mkdir()
    path = root / "configs" / "networks.yaml"
    config = yaml.safe_load(path.read_text())
    for name, smaller in _TINY.items():
        config["networks"][name].update(smaller)
    # The held-out networks are too slow for a test: plain ones take their places.
    config["heldout_networks"] = {HELD_OUT: dict(config["networks"]["plain"], kernel_size=5)}
    config["pretrained_networks"] = {PRETRAINED: dict(config["networks"]["plain"], kernel_size=7)}
    config["network_def"].update(width=8, shallow=2, deep=1)
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    if weights:
        parser = load_config(root)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            for name, place in WEIGHTS.items():
                save_weights(parser.get_parsed_content(place), root / "models" / name)
        write_hashes(root)
    return root


def write_hashes(root: Path) -> None:
    """``models/SHA256SUMS`` as ``sha256sum *.pt`` writes it."""
    files = sorted((root / "models").glob("*.pt"))
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (root / "models" / HASHES).write_text("".join(lines))

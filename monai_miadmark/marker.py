# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The default marker: generator and ensemble as the bundle ships them."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from monai_miadmark.marking import Perturber
from monai_miadmark.options import Preset
from monai_miadmark.perturbers import EnsembleCritic, GeneratorPerturber, GradientPerturber
from monai_miadmark.surrogates import SurrogateEnsemble

__all__ = ["HASHES", "EnsembleMarker", "bundle_root", "check_weights", "load_config", "load_marker"]

HASHES = "SHA256SUMS"
"""File in ``models/`` that names every weight file with its SHA-256, as ``sha256sum`` writes it."""


class EnsembleMarker:
    """Satisfies :class:`monai_miadmark.marking.Marker` with a generator and a surrogate ensemble.

    Args:
        generator: first guess of every field.
        ensemble: refines fields, finds the salient region and judges logos.
        device: where the networks run.
    """

    def __init__(
        self, generator: GeneratorPerturber, ensemble: SurrogateEnsemble, device: torch.device | str = "cpu"
    ) -> None:
        self.generator, self.ensemble, self.device = generator, ensemble, torch.device(device)
        self.critic = EnsembleCritic(ensemble, device)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(members={[m.name for m in self.ensemble.members]}, device={str(self.device)!r})"

    def perturber(self, preset: Preset) -> Perturber:
        """The generator alone, or gradient steps that start from its field, as the preset asks."""
        if preset.steps == 0:
            return self.generator
        return GradientPerturber(self.ensemble, preset.steps, self.generator, device=self.device)


def bundle_root() -> Path:
    """Folder of the MIAD-MARK bundle: inside the installed package, or beside it in a source checkout.

    Raises:
        FileNotFoundError: the bundle is in neither place.
    """
    package = Path(str(files("monai_miadmark")))
    for place in (package / "bundle", package.parent / "bundles" / "miadmark"):
        if (place / "configs" / "networks.yaml").is_file():
            return place
    raise FileNotFoundError("the miadmark bundle is not installed with the package")


def check_weights(models_dir: Path) -> None:
    """Compare the weight files with :data:`HASHES`.

    Raises:
        ValueError: a file is not the one that was released, or is not listed at all.
    """
    lines = [line.split() for line in (models_dir / HASHES).read_text().splitlines()]
    listed = {name: digest for digest, name in lines}
    if unknown := {path.name for path in models_dir.glob("*.pt")} - set(listed):
        raise ValueError(f"{HASHES} does not name {', '.join(sorted(unknown))}")
    for name, digest in listed.items():
        if hashlib.sha256((models_dir / name).read_bytes()).hexdigest() != digest:
            raise ValueError(f"weights {name} do not have the SHA-256 that {HASHES} names")


def load_config(root: Path, *names: str, **overrides: Any) -> ConfigParser:
    """Parser over some configuration files of the bundle; with ``networks.yaml`` alone if none is named."""
    parser = ConfigParser()
    parser.read_config([str(root / "configs" / name) for name in (names or ("networks.yaml",))])
    parser.update({"bundle_root": str(root), **overrides})
    return parser


def load_marker(
    root: str | Path | None = None, device: torch.device | str | None = None, exclude: tuple[str, ...] = ()
) -> EnsembleMarker:
    """The marker of a bundle.

    Args:
        root: bundle folder; default: the one that comes with the package.
        device: default: CUDA if there is any, else the CPU.
        exclude: surrogates to leave out, for leave-one-out measurements.

    Raises:
        FileNotFoundError: no bundle, or weights are missing.
        ValueError: weights that are not the released ones.
    """
    root = Path(root) if root else bundle_root()
    check_weights(root / "models")
    parser = load_config(root)
    device = torch.device(device) if device else parser.get_parsed_content("device")
    if exclude:
        parser["surrogate_names"] = [name for name in parser["surrogate_names"] if name not in exclude]
    ensemble = parser.get_parsed_content("ensemble")
    generator = GeneratorPerturber(parser.get_parsed_content("generator"), device)
    return EnsembleMarker(generator, ensemble, device)

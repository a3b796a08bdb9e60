# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The default marker: generator and ensemble as the bundle ships them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from monai_miadmark.critic import EnsembleCritic
from monai_miadmark.descent import Guides, guides_among
from monai_miadmark.gradient_steps import GradientPerturber
from monai_miadmark.locator import LesionLocator
from monai_miadmark.marking import Perturber
from monai_miadmark.network_config import NetworkConfig, UnknownConfigError, Values
from monai_miadmark.numerics import building_networks, loading, own_numerics
from monai_miadmark.options import Preset
from monai_miadmark.perturbers import GeneratorPerturber
from monai_miadmark.recognition import KNOWN_FROM, Recognition, Statistics, is_gray
from monai_miadmark.stacks import as_tensor, one_or_three
from monai_miadmark.surrogates import SurrogateEnsemble, robust_name

if TYPE_CHECKING:
    from monai.bundle import ConfigParser

__all__ = [
    "HASHES",
    "STATISTICS",
    "BundleMarker",
    "EnsembleMarker",
    "bundle_root",
    "check_weights",
    "default_marker",
    "load_config",
    "load_marker",
    "surrogates_without",
    "usable_device",
]

HASHES = "SHA256SUMS"
"""File in ``models/`` that names every weight file with its SHA-256, as ``sha256sum`` writes it."""

STATISTICS = "recognition.npz"
"""File in ``models/`` with the statistics by which images of other modalities are noticed; a bundle may have none."""


class EnsembleMarker:
    """Satisfies :class:`monai_miadmark.marking.Marker` with a generator and the surrogate ensemble of one modality.

    Args:
        generator: gives the perturber of presets without gradient steps; called when it is first needed. ``None`` where
            none may be used, e.g. because it was trained against a model that is to be left out.
        ensemble: refines fields, finds the salient region and judges logos.
        device: where the networks run.
        guides: names of the surrogates that the generator hears, and that say what is salient where it has to be quick;
            see :func:`monai_miadmark.descent.guides_among`.
        modality: its name, which says where to look for a lesion.
        locator: a network that says where it lies.
    """

    def __init__(
        self,
        generator: Callable[[], GeneratorPerturber] | None,
        ensemble: SurrogateEnsemble,
        device: torch.device | str = "cpu",
        guides: Sequence[str] = (),
        modality: str | None = None,
        locator: LesionLocator | None = None,
    ) -> None:
        self._generator, self.ensemble, self.device = generator, ensemble, torch.device(device)
        self.guides = Guides(guides_among(ensemble, guides), device)
        self.critic = EnsembleCritic(ensemble, device, self.guides, modality, locator)
        self._guided: GeneratorPerturber | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(members={[m.name for m in self.ensemble.members]}, device={str(self.device)!r})"

    def specialist(self, modality: str, images: NDArray[np.float32]) -> EnsembleMarker:
        """This marker: it knows one modality only."""
        return self

    def perturber(self, preset: Preset) -> Perturber:
        """The generator, guided by a few surrogates, or gradient steps on all of them, as the preset asks.

        Raises:
            ValueError: the preset takes no steps, and this marker has no generator.
        """
        if preset.steps == 0:
            if self._generator is None:
                raise ValueError("this preset needs a generator, and this marker may use none")
            if self._guided is None:
                self._guided = self._generator().guided_by(self.guides)
            return self._guided
        return GradientPerturber(self.ensemble, preset.steps, visibility=preset.visibility, device=self.device)


class BundleMarker:
    """The marker of a bundle: a generator for all modalities, an ensemble for each, read when it is first needed.

    Args:
        root: bundle folder.
        device: where the networks run.
        exclude: architectures to leave out, for leave-one-out measurements.

    Raises:
        FileNotFoundError: weights are missing.
        ValueError: weights that are not the released ones.
    """

    def __init__(self, root: Path, device: torch.device, exclude: tuple[str, ...] = ()) -> None:
        self.root, self.device, self.exclude = root, device, exclude
        parser = network_config(root)
        self.modes: dict[str, str] = parser.get_parsed_content("modes")
        self._measured: list[str] = []
        with suppress(KeyError):  # bundles of before do not say
            self._measured = list(parser["measured"])
        models = root / "models"
        check_listed(models)
        self._generator_allowed = not set(exclude) & set(parser["generator_surrogates"])
        check_weights(models, ["router.pt"])
        self._router = _built(parser, "router", device).eval().requires_grad_(False)
        self._specialists: dict[str, EnsembleMarker] = {}
        self._generator: GeneratorPerturber | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(modalities={list(self.modes)}, device={str(self.device)!r})"

    @property
    def generator(self) -> GeneratorPerturber:
        """The generator of the bundle."""
        with loading:
            if self._generator is None:
                check_weights(self.root / "models", ["model.pt"])
                built = _built(network_config(self.root), "generator", self.device)
                self._generator = GeneratorPerturber(built, self.device)
            return self._generator

    @property
    def modalities(self) -> list[str]:
        """Names that ``modality`` can have."""
        return list(self.modes)

    def specialist(self, modality: str, images: NDArray[np.float32]) -> EnsembleMarker:
        """The marker for a modality, or for what images ``(N, C, h, w)`` look like where it is ``auto``.

        Raises:
            ValueError: no such modality.
        """
        name = self._nearest(images) if modality == "auto" else self._checked(modality)
        with loading:
            if name not in self._specialists:
                self._specialists[name] = self._loaded(name)
            return self._specialists[name]

    def _loaded(self, name: str) -> EnsembleMarker:
        """The marker for a modality, its weights just read."""
        parser = network_config(self.root, name)
        names, robust, aside = surrogates_without(parser, self.exclude)
        forms = [*names, *map(robust_name, (*robust, *aside))]
        located = _located(parser, name)
        check_weights(self.root / "models", [f"{name}_{n}.pt" for n in (*forms, *["locator"] * located)])
        parser["surrogate_names"], parser["aside_names"] = names, aside
        ensemble = _built(parser, "ensemble", self.device)
        locator = _built(parser, "locator", self.device) if located else None
        generator = (lambda: self.generator) if self._generator_allowed else None
        return EnsembleMarker(generator, ensemble, self.device, parser["guide_names"], name, locator)

    def recognize(self, modality: str, images: NDArray[np.float32]) -> Recognition:
        """What images are taken for, and whether they look like what the networks for it were trained on.

        Args:
            modality: a name, or ``auto``.
            images: ``(N, C, h, w)`` in [0, 1], one image or the slices of a stack.

        Raises:
            ValueError: no such modality, or statistics that are not the released ones.
        """
        name = self._nearest(images) if modality == "auto" else self._checked(modality)
        confidence = None if self._statistics is None else self._statistics.confidence(name, images)
        known = None if confidence is None else confidence >= KNOWN_FROM
        measured = known is not False and name in self._measured
        return Recognition(name, confidence, known, measured, modality != "auto", tuple(self.modes))

    @cached_property
    def _statistics(self) -> Statistics | None:
        """By which images of other modalities are noticed; ``None`` where the bundle has none."""
        models = self.root / "models"
        if not (models / STATISTICS).is_file():
            return None
        check_weights(models, [STATISTICS])
        return Statistics.load(models / STATISTICS)

    def _checked(self, modality: str) -> str:
        """The name of a modality, if it is one."""
        if modality not in self.modes:
            raise ValueError(f"modality must be auto or one of {', '.join(self.modes)}, not {modality!r}")
        return modality

    @own_numerics()
    @torch.inference_mode()
    def _nearest(self, images: NDArray[np.float32]) -> str:
        """The modality that images ``(N, C, h, w)`` in [0, 1] are taken for: gray or color ones only, as they are.

        Where a bundle has none for images without colors, or none but such, all are asked.
        """
        names, color = list(self.modes), not is_gray(images)
        fitting = [i for i, mode in enumerate(self.modes.values()) if (mode == "RGB") == color] or range(len(names))
        if len(fitting) == 1:
            return names[fitting[0]]
        scores = self._router(one_or_three(as_tensor(images, self.device))).log_softmax(1).mean(0)
        return names[max(fitting, key=lambda i: float(scores[i]))]


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


def surrogates_without(parser: Values, exclude: Iterable[str] = ()) -> tuple[list[str], list[str], list[str]]:
    """Architectures of an ensemble that leaves some out: its members, and those that it has in a robust form as well
    and in that form alone."""
    left_out = set(exclude)
    names, aside = ([n for n in parser[key] if n not in left_out] for key in ("victim_names", "aside_names"))
    return names, [n for n in parser["robust_names"] if n in names], aside


def check_listed(models_dir: Path) -> dict[str, str]:
    """SHA-256 of every file of weights or statistics as :data:`HASHES` names it.

    Raises:
        ValueError: a weight file is not listed: else taking a line out would be all it takes to bring in others.
    """
    lines = [line.split() for line in (models_dir / HASHES).read_text().splitlines()]
    listed = {name: digest for digest, name in lines}
    held = {path.name for path in models_dir.iterdir() if path.suffix in (".npz", ".pt")}
    if unknown := held - set(listed):
        raise ValueError(f"{HASHES} does not name {', '.join(sorted(unknown))}")
    return listed


def check_weights(models_dir: Path, names: Iterable[str]) -> None:
    """Compare weight files with :data:`HASHES` before anything is read from them.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is not the one that was released, or is not listed at all.
    """
    listed = check_listed(models_dir)
    for name in names:
        if hashlib.sha256((models_dir / name).read_bytes()).hexdigest() != listed.get(name):
            raise ValueError(f"weights {name} do not have the SHA-256 that {HASHES} names")


def load_config(root: Path, *names: str, **overrides: Any) -> ConfigParser:
    """Parser over some configuration files of the bundle; with ``networks.yaml`` alone if none is named."""
    from monai.bundle import ConfigParser  # takes seconds, and marking with the bundle that ships needs none of it

    parser = ConfigParser()
    parser.read_config([str(root / "configs" / name) for name in (names or ("networks.yaml",))])
    parser.update({"bundle_root": str(root), **overrides})
    return parser


def network_config(root: Path, dataset: str | None = None) -> Values:
    """``networks.yaml`` of a bundle, read without MONAI if it says nothing that only MONAI understands."""
    try:
        return NetworkConfig(root, dataset)
    except (UnknownConfigError, AttributeError, KeyError, TypeError):
        return load_config(root) if dataset is None else load_config(root, dataset=dataset)


def _located(parser: Values, name: str) -> bool:
    """Whether a bundle has a network that says where the lesion lies on images of a modality; older ones have none."""
    try:
        return name in parser["located_names"]
    except KeyError:
        return False


def _built(parser: Values, name: str, device: torch.device) -> Any:
    """Networks of a configuration on a device."""
    with building_networks():
        return parser.get_parsed_content(name).to(device)


def load_marker(
    root: str | Path | None = None, device: torch.device | str | None = None, exclude: tuple[str, ...] = ()
) -> BundleMarker:
    """The marker of a bundle.

    Args:
        root: bundle folder; default: the one that comes with the package.
        device: see :func:`usable_device`; default: what the bundle says, CUDA if there is any, else the CPU.
        exclude: architectures to leave out, for leave-one-out measurements.

    Raises:
        FileNotFoundError: no bundle, or weights are missing.
        ValueError: weights that are not the released ones, or a device that is not here.
    """
    root = Path(root) if root else bundle_root()
    chosen = usable_device(device if device else network_config(root).get_parsed_content("device"))
    return BundleMarker(root, chosen, exclude)


_defaults: dict[torch.device, BundleMarker] = {}


def default_marker(device: torch.device | str | None = None) -> BundleMarker:
    """The marker of the bundle that comes with the package, loaded once per process, however many threads ask for it.

    Args:
        device: see :func:`usable_device`.

    Raises:
        as :func:`load_marker`.
    """
    chosen = usable_device(device)
    with loading:
        if chosen not in _defaults:
            _defaults[chosen] = load_marker(device=chosen)
        return _defaults[chosen]


def usable_device(device: torch.device | str | None = None) -> torch.device:
    """A device that works, by its name in PyTorch.

    Args:
        device: e.g. ``cpu``, ``cuda`` or ``cuda:1``; default: CUDA if there is any, else the CPU.

    Raises:
        ValueError: there is no such device here.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=device).cpu()
        return torch.device(device)
    except Exception as error:  # each backend that is absent, or cannot be used, raises another kind
        reason = (str(error).splitlines() or [type(error).__name__])[0].partition(". ")[0]
        raise ValueError(f"device {str(device)!r} cannot be used here: {reason}") from error

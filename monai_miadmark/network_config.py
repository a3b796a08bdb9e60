# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""``networks.yaml`` of a bundle, read without MONAI where it says what the one that ships says.

A bundle of one's own may say anything that MONAI's ``ConfigParser`` understands: then that reads it. Here everything is
compared with what is known word for word, so that nothing is understood by half.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
import yaml
from efficientnet_lite_pytorch import EfficientNet
from torch import nn

from monai_miadmark import classifiers, surrogates
from monai_miadmark.architectures import PlainClassifier, PlainDenseNet, PlainResNet
from monai_miadmark.generator import PerturbationGenerator
from monai_miadmark.locator import LesionLocator
from monai_miadmark.router import ModalityRouter

__all__ = ["NetworkConfig", "UnknownConfigError", "Values"]

_EXPRESSIONS = {
    "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
    "ensemble": "$surrogates.load_ensemble(@networks, @surrogate_names, @dataset, @models_dir, @robust_names, "
    "@aside_names).to(@device)",
    "generator": "$surrogates.load_weights(@network_def, @models_dir / 'model.pt').to(@device)",
    "models_dir": "$Path(@bundle_root) / 'models'",
    "num_classes": "$@classes[@dataset]",
    "router": "$surrogates.load_weights(@router_def, @models_dir / 'router.pt').to(@device)",
    "surrogate_names": "$list(@victim_names)",
}
"""What these entries must say to be understood here."""

_LOCATOR = {
    "locator": "$surrogates.load_weights(@locator_def, @models_dir / (@dataset + '_locator.pt')).to(@device)",
    "locator_def": {"_target_": "monai_miadmark.locator.LesionLocator"},
}
"""The same for entries that bundles need not have."""

_CLASSES = "@num_classes"


class Values(Protocol):
    """What the marker asks a configuration; MONAI's ``ConfigParser`` has it too."""

    def __getitem__(self, name: str) -> Any:
        """An entry as it stands there."""

    def __setitem__(self, name: str, value: Any) -> None:
        """Say something else."""

    def get_parsed_content(self, name: str) -> Any:
        """What an entry means: networks, for most."""


class UnknownConfigError(Exception):
    """The configuration says something that only MONAI understands."""


class NetworkConfig:
    """Satisfies :class:`Values` for a ``networks.yaml`` that says what is known here.

    Args:
        root: bundle folder.
        dataset: data set of the ensemble; default: the one that stands in the file.

    Raises:
        UnknownConfigError: it does not.
        OSError: it cannot be read.
    """

    def __init__(self, root: Path, dataset: str | None = None) -> None:
        try:
            self._content = dict(yaml.safe_load((root / "configs" / "networks.yaml").read_text(encoding="utf-8")))
        except (yaml.YAMLError, TypeError, ValueError) as error:
            raise UnknownConfigError(str(error)) from error
        self._models = root / "models"
        for name, text in _EXPRESSIONS.items():
            if self._content.get(name) != text:
                raise UnknownConfigError(name)
        self._content["surrogate_names"] = list(self._content["victim_names"])
        if dataset is not None:
            self._content["dataset"] = dataset
        asked = {*self._content["victim_names"], *self._content["robust_names"], *self._content["aside_names"]}
        for name in asked:
            self._architecture(name, check=True)
        if any(self._content.get(name, known) != known for name, known in _LOCATOR.items()):
            raise UnknownConfigError("locator")
        if set(self._content["router_def"]) != {"_target_", "names"} or not self._targets_known():
            raise UnknownConfigError("router_def or network_def")

    def __getitem__(self, name: str) -> Any:
        """An entry; names of networks are lists."""
        return self._content[name]

    def __setitem__(self, name: str, value: Any) -> None:
        """Say something else."""
        self._content[name] = value

    def get_parsed_content(self, name: str) -> Any:
        """See :class:`Values`.

        Raises:
            KeyError: no entry of those that are known here.
        """
        if name == "device":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if name == "ensemble":
            content = self._content
            return surrogates.load_ensemble(
                _Architectures(self),
                content["surrogate_names"],
                content["dataset"],
                self._models,
                content["robust_names"],
                content["aside_names"],
            )
        if name in ("generator", "router"):
            with torch.device("meta"):
                network = self._generator() if name == "generator" else ModalityRouter(list(self._content["modes"]))
            return surrogates.load_weights(network, self._models / {"generator": "model.pt"}.get(name, "router.pt"))
        if name == "locator":
            with torch.device("meta"):
                locator = LesionLocator()
            return surrogates.load_weights(locator, self._models / f"{self._content['dataset']}_locator.pt")
        if name in ("modes", "classes"):
            return dict(self._content[name])
        raise KeyError(name)

    def _targets_known(self) -> bool:
        """Whether generator and router are those of this package, with arguments that can be read."""
        router, generator = self._content["router_def"], self._content["network_def"]
        arguments = [value for key, value in generator.items() if key != "_target_"]
        return (
            router == {"_target_": "monai_miadmark.router.ModalityRouter", "names": "$list(@modes)"}
            and generator["_target_"] == "monai_miadmark.generator.PerturbationGenerator"
            and not any(isinstance(value, str) for value in arguments)
        )

    def _generator(self) -> nn.Module:
        """The generator without weights."""
        return PerturbationGenerator(**{k: v for k, v in self._content["network_def"].items() if k != "_target_"})

    def _architecture(self, name: str, check: bool = False) -> nn.Module | None:
        """An architecture without weights; with ``check``, none, but an error where it is not known."""
        definition = dict(self._content["networks"][name])
        target = str(definition.pop("_target_"))
        if target not in _KNOWN:
            raise UnknownConfigError(target)
        fixed, wanted, build = _KNOWN[target]
        given = {key: value for key, value in definition.items() if key not in fixed}
        if any(definition.get(key) != value for key, value in fixed.items()) or set(given) != wanted:
            raise UnknownConfigError(f"{name}: {target}")
        if [value for value in given.values() if isinstance(value, str) and value.startswith(("$", "@"))] != [_CLASSES]:
            raise UnknownConfigError(f"{name}: {target}")
        if check:
            return None
        classes = self._content["classes"][self._content["dataset"]]
        with torch.device("meta"):  # without random numbers, which weights would replace
            return build(**{key: classes if value == _CLASSES else value for key, value in given.items()})


class _Architectures(Mapping[str, nn.Module]):
    """Architectures by name, made when they are asked for."""

    def __init__(self, config: NetworkConfig) -> None:
        self._config = config

    def __getitem__(self, name: str) -> nn.Module:
        made = self._config._architecture(name)
        assert made is not None
        return made

    def __iter__(self) -> Iterator[str]:
        return iter(self._config["networks"])

    def __len__(self) -> int:
        return len(self._config["networks"])


_KNOWN: dict[str, tuple[dict[str, Any], set[str], Callable[..., nn.Module]]] = {
    "monai.networks.nets.ResNet": (
        {"block": "basic", "spatial_dims": 2},
        {"layers", "block_inplanes", "n_input_channels", "conv1_t_stride", "num_classes"},
        PlainResNet,
    ),
    "monai.networks.nets.Classifier": (
        {"kernel_size": 3, "num_res_units": 0, "norm": "batch", "act": "relu"},
        {"in_shape", "classes", "channels", "strides", "dropout"},
        lambda **given: PlainClassifier(act="relu", **given),
    ),
    "monai.networks.nets.DenseNet": (
        {"spatial_dims": 2},
        {"in_channels", "out_channels", "init_features", "growth_rate", "block_config"},
        PlainDenseNet,
    ),
    "efficientnet_lite_pytorch.EfficientNet.from_name": (
        {"model_name": "efficientnet-lite0"},
        {"num_classes", "image_size", "batch_norm_momentum"},
        lambda **given: EfficientNet.from_name("efficientnet-lite0", **given),
    ),
    "monai_miadmark.classifiers.ThinResNet": ({}, {"num_classes"}, classifiers.ThinResNet),
    "monai_miadmark.classifiers.mobilenet_v2": ({}, {"num_classes", "image_size"}, classifiers.mobilenet_v2),
    "monai_miadmark.classifiers.TruncatedInception": ({}, {"num_classes", "blocks"}, classifiers.TruncatedInception),
}
"""By target: arguments that must be these, arguments that must be there, and what makes the network."""

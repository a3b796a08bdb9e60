# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The bundle: configurations that resolve and run, metadata, weights that are the ones named."""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import logging
import os
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import monai
import numpy as np
import pytest
import torch
import yaml
from bundle_copies import BUNDLE, HELD_OUT, NETWORKS, PRETRAINED, WEIGHTS, tiny_bundle, write_hashes
from image_sets import CLASSES, image_set
from monai.bundle import ComponentLocator, ConfigParser

import monai_miadmark
from monai_miadmark.datasets import DATA_ENV
from monai_miadmark.generator import PerturbationGenerator
from monai_miadmark.marker import HASHES, load_config

CONFIGS = ("networks.yaml", "train_surrogate.yaml", "pretrained.yaml", "train.yaml", "evaluate.yaml")
MAX_BYTES = 25 * 1000 * 1000


def needs(place: str) -> None:
    """Skip, by name, what the held-out network is needed for where its package is not installed."""
    if place.startswith("pretrained"):
        pytest.importorskip("efficientnet_lite_pytorch")


def ambiguous() -> set[str]:
    """Names defined both here and in MONAI, which looks for short names in all modules that begin with ``monai``."""
    for name in ("cli", "demo", "evaluation", "marker", "pipeline", "training", "transforms"):
        importlib.import_module(f"monai_miadmark.{name}")
    locator = ComponentLocator()
    locator.get_component_module_name("ResNet")  # fills the table
    assert locator._components_table
    packages = {name: {m.partition(".")[0] for m in modules} for name, modules in locator._components_table.items()}
    return {name for name, found in packages.items() if {"monai", "monai_miadmark"} <= found}


def targets(config: Any) -> Iterator[str]:
    """Every ``_target_`` below a configuration."""
    if isinstance(config, dict):
        if "_target_" in config:
            yield config["_target_"]
        for value in config.values():
            yield from targets(value)
    elif isinstance(config, list):
        for value in config:
            yield from targets(value)


class TestConfigurations:
    @pytest.mark.parametrize("name", CONFIGS)
    def test_parse(self, name: str) -> None:
        parser = load_config(BUNDLE, *dict.fromkeys(("networks.yaml", name)))
        assert parser["dataset"] == "brain_mri" and parser["bundle_root"] == str(BUNDLE)

    @pytest.mark.parametrize("name", CONFIGS)
    def test_every_target_resolves(self, name: str) -> None:
        config = yaml.safe_load((BUNDLE / "configs" / name).read_text())
        names = set(targets(config))
        assert names or name == "pretrained.yaml"  # which only says where weights start
        locator = ComponentLocator()
        for target in names:
            if target.startswith("efficientnet_lite_pytorch"):
                pytest.importorskip("efficientnet_lite_pytorch")
            if "." in target:
                assert callable(pkgutil.resolve_name(target)), target
            else:  # short names must mean one class, and a MONAI one: bundles of others scan this package too
                found = locator.get_component_module_name(target)
                assert isinstance(found, str) and found.startswith("monai."), (target, found)

    def test_no_short_name_of_monai_becomes_ambiguous(self) -> None:
        # ``_target_: Identity`` in a bundle of others would fail where this package was imported before MONAI.
        assert not ambiguous()

    @pytest.mark.parametrize("place", NETWORKS.values())
    def test_architectures_classify(self, place: str) -> None:
        needs(place)
        network = load_config(BUNDLE).get_parsed_content(place).eval()
        with torch.inference_mode():
            assert network(torch.zeros(1, 3, 128, 128)).shape == (1, len(CLASSES))

    def test_the_held_out_architecture_is_no_surrogate(self) -> None:
        parser = load_config(BUNDLE)
        assert set(parser["surrogate_names"]) <= set(parser["networks"])
        assert parser["heldout_name"] == HELD_OUT and parser["pretrained_name"] == PRETRAINED
        assert {HELD_OUT} == set(parser["heldout_networks"]) and {PRETRAINED} == set(parser["pretrained_networks"])
        assert not {HELD_OUT, PRETRAINED} & {*parser["surrogate_names"], *parser["networks"]}

    def test_the_generator_is_the_one_of_the_package(self) -> None:
        network = load_config(BUNDLE).get_parsed_content("network_def")
        assert isinstance(network, PerturbationGenerator)
        assert sum(p.numel() for p in network.parameters()) * 2 < MAX_BYTES

    def test_expressions_compile(self) -> None:
        for name in CONFIGS:
            for text in _strings(yaml.safe_load((BUNDLE / "configs" / name).read_text())):
                if text.startswith("$"):
                    source = text[1:].replace("@", "").replace("#", "_")
                    compile(source, name, "exec" if source.startswith(("import", "from")) else "eval")


def _strings(config: Any) -> Iterator[str]:
    if isinstance(config, str):
        yield config
    elif isinstance(config, dict | list):
        for value in config.values() if isinstance(config, dict) else config:
            yield from _strings(value)


class TestContents:
    def test_what_a_bundle_must_have(self) -> None:
        for name in ("LICENSE", "configs/metadata.json", "docs/README.md", "docs/data_license.txt"):
            assert (BUNDLE / name).stat().st_size > 0, name
        metadata = json.loads((BUNDLE / "configs" / "metadata.json").read_text())
        for key in ("version", "changelog", "monai_version", "pytorch_version", "numpy_version", "task", "authors"):
            assert metadata[key], key
        assert metadata["version"] == monai_miadmark.__version__ and metadata["version"] in metadata["changelog"]
        outputs = metadata["network_data_format"]["outputs"]["pred"]
        assert outputs["num_channels"] == 1 and outputs["value_range"] == [-1, 1]

    def test_metadata_describes_the_network(self) -> None:
        """The declared inputs go through the declared network and give the declared output."""
        described = json.loads((BUNDLE / "configs" / "metadata.json").read_text())["network_data_format"]
        channels = [described["inputs"][name]["num_channels"] for name in ("image", "budget")]
        network = load_config(BUNDLE).get_parsed_content("network_def").eval()
        with torch.inference_mode():
            made = network(*(torch.rand(1, c, 16, 16) for c in channels), torch.randn(1, 32))
        assert made.shape == (1, described["outputs"]["pred"]["num_channels"], 16, 16) and made.abs().max() <= 1

    def test_no_file_is_too_large(self) -> None:
        for path in BUNDLE.rglob("*"):
            if path.is_file() and "eval" not in path.relative_to(BUNDLE).parts:
                assert path.stat().st_size <= MAX_BYTES, path.name

    @pytest.mark.parametrize("name", WEIGHTS)
    def test_weights_are_the_ones_named(self, name: str) -> None:
        path = BUNDLE / "models" / name
        if not path.is_file():
            pytest.skip(f"{name} is not trained yet")
        if not (BUNDLE / "models" / HASHES).is_file():
            pytest.skip(f"{HASHES} is not written yet: training goes on")
        listed = dict(reversed(line.split()) for line in (BUNDLE / "models" / HASHES).read_text().splitlines())
        assert listed[name] == hashlib.sha256(path.read_bytes()).hexdigest()

    @pytest.mark.parametrize("name", WEIGHTS)
    def test_weights_fit_the_networks(self, name: str) -> None:
        path = BUNDLE / "models" / name
        if not path.is_file():
            pytest.skip(f"{name} is not trained yet")
        state = torch.load(path, map_location="cpu", weights_only=True)
        needs(WEIGHTS[name])
        load_config(BUNDLE).get_parsed_content(WEIGHTS[name]).load_state_dict(state)
        for key, value in state.items():
            assert not value.is_floating_point() or (value.dtype == torch.float16 and value.isfinite().all()), key


class TestRuns:
    """``python -m monai.bundle run`` on a tiny made image set, with tiny networks."""

    @pytest.fixture(autouse=True)
    def _elsewhere(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """Work in a temporary folder, and undo what ``initialize`` sets for the whole process."""
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv(DATA_ENV, str(image_set(tmp_path / "data", train=22, val=2, side=128)))
        torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()
        deterministic, benchmark = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
        level = logging.getLogger().level
        yield
        monai.utils.set_determinism(None)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = deterministic, benchmark
        torch.set_rng_state(torch_state)
        np.random.set_state(numpy_state)
        logging.getLogger().setLevel(level)

    @staticmethod
    def run(root: Path, config: str, **overrides: Any) -> None:
        monai.bundle.run(
            config_file=[str(root / "configs" / name) for name in ("networks.yaml", config)],
            bundle_root=str(root),
            **overrides,
        )

    @staticmethod
    def made(root: Path) -> set[str]:
        return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}

    @pytest.mark.slow
    def test_surrogates_generator_and_evaluation(self, tmp_path: Path) -> None:
        """The whole way, each step on the weights of the one before; everything is written below the bundle."""
        root = tiny_bundle(tmp_path)
        outside = _listing(BUNDLE), _listing(tmp_path / "data")
        before = self.made(root)
        small = {"epochs": 1, "batch_size": 8, "num_workers": 0}
        for name in NETWORKS:
            more = {"network_def": f"@{NETWORKS[name]}", "pretrained": None} if name == PRETRAINED else {}
            self.run(root, "train_surrogate.yaml", architecture=name, **small, **more)
            assert (root / "models" / f"brain_mri_{name}.pt").is_file()
        self.run(root, "train.yaml", epochs=1, steps_per_epoch=2, images_per_step=2)
        assert (root / "models" / "model.pt").is_file()
        assert any(path.name.startswith("generator_") for path in (root / "eval").iterdir())

        # The same command again goes on: here there is nothing left to do, with two epochs one more.
        weights = (root / "models" / "model.pt").read_bytes()
        self.run(root, "train.yaml", epochs=1, steps_per_epoch=2, images_per_step=2)
        assert _same_weights(weights, root / "models" / "model.pt")
        self.run(root, "train.yaml", epochs=2, steps_per_epoch=2, images_per_step=2)
        assert not _same_weights(weights, root / "models" / "model.pt")

        write_hashes(root)
        self.run(root, "evaluate.yaml", limit=1)
        report = json.loads((root / "eval" / "brain_mri_val_standard_visible_auto.json").read_text())
        assert report["images"] == 4 and report["restored_identical"] == 1
        assert set(report["accuracy"]) == set(NETWORKS)
        held = dict.fromkeys((HELD_OUT, PRETRAINED), "black box")
        assert report["roles"] == dict.fromkeys(NETWORKS, "white box") | held
        added = self.made(root) - before
        assert all(path.startswith(("models/", "eval/")) for path in added)
        assert (_listing(BUNDLE), _listing(tmp_path / "data")) == outside
        assert {path.name for path in tmp_path.iterdir()} == {"miadmark", "data"}

    def test_evaluation_takes_its_options(self, tmp_path: Path) -> None:
        root = tiny_bundle(tmp_path, weights=True)
        options = {"preset": "subtle", "style": "invisible", "section": "tune", "region": "none", "limit": 1}
        self.run(root, "evaluate.yaml", **options, region_budget=0.02, mode="RGB", output_dir="$Path('out')")
        report = json.loads((tmp_path / "out" / "brain_mri_tune_subtle_invisible_none.json").read_text())
        assert (report["preset"], report["style"], report["region"]) == ("subtle", "invisible", "none")
        assert not (root / "eval").exists()

    def test_missing_images_are_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(DATA_ENV, str(tmp_path / "absent"))
        with pytest.raises(RuntimeError) as caught:
            self.run(tiny_bundle(tmp_path), "train_surrogate.yaml")
        causes, error = [], caught.value
        while error is not None:
            causes.append(str(error))
            error = error.__cause__
        assert any(DATA_ENV in text for text in causes)


def _listing(folder: Path) -> dict[str, int]:
    """Files by size, without weights and logs: a training may be under way."""
    skipped = {"models", "eval"} if folder == BUNDLE else set()
    found = {}
    for base, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in skipped]
        found.update({os.path.join(base, name): os.path.getsize(os.path.join(base, name)) for name in files})
    return found


def _same_weights(data: bytes, path: Path) -> bool:
    one, other = torch.load(io.BytesIO(data), weights_only=True), torch.load(path, weights_only=True)
    return all(torch.equal(one[key], other[key]) for key in one)


def test_parser_leaves_the_process_alone() -> None:
    """Reading configurations alone must not build networks or seed anything."""
    state = torch.get_rng_state()
    ConfigParser(ConfigParser.load_config_files([str(BUNDLE / "configs" / name) for name in CONFIGS])).parse()
    assert torch.equal(state, torch.get_rng_state())

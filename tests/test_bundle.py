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
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import monai
import numpy as np
import pytest
import torch
import yaml
from bundle_copies import BUNDLE, MODALITIES, NETWORKS, STRANGERS, VICTIMS, WEIGHTS, tiny_bundle
from image_sets import image_set
from monai.bundle import ComponentLocator, ConfigParser

import monai_miadmark
from monai_miadmark.datasets import DATA_ENV, data_list
from monai_miadmark.evaluation import peer_study
from monai_miadmark.evaluation.learned_attacks import FINE_TUNED
from monai_miadmark.evaluation.peers import PEERS
from monai_miadmark.evaluation.removers import FILTERS
from monai_miadmark.generator import PerturbationGenerator
from monai_miadmark.marker import HASHES, load_config
from monai_miadmark.surrogates import load_weights, robust_name

CONFIGS = (
    "networks.yaml",
    "train_surrogate.yaml",
    "pretrained.yaml",
    "robust.yaml",
    "train_locator.yaml",
    "train_router.yaml",
    "recognition.yaml",
    "train.yaml",
    "multi_gpu_train.yaml",
    "train_segmenter.yaml",
    "evaluate.yaml",
    "attack.yaml",
    "artefacts.yaml",
    "peers.yaml",
    "segment.yaml",
    "inference.yaml",
    "protect.yaml",
    "one_modality.yaml",
    "remove.yaml",
)
BEFORE = {name: () for name in ("inference.yaml", "protect.yaml", "remove.yaml")} | {
    "multi_gpu_train.yaml": ("networks.yaml", "train.yaml"),
    "one_modality.yaml": ("networks.yaml", "protect.yaml"),
    "robust.yaml": ("networks.yaml", "train_surrogate.yaml"),
}
"""Configurations that stand before another one, where that is not ``networks.yaml`` alone."""

MAX_BYTES = 25 * 1000 * 1000


def ambiguous() -> set[str]:
    """Names defined both here and in MONAI, which looks for short names in all modules that begin with ``monai``."""
    for name in (
        "cli",
        "demo",
        "evaluation.learned_attacks",
        "evaluation.peer_study",
        "evaluation.removers",
        "evaluation.segmentation",
        "marker",
        "pipeline",
        "router",
        "training",
        "transforms",
    ):
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
    def test_all_are_here(self) -> None:
        assert {path.name for path in (BUNDLE / "configs").glob("*.yaml")} == set(CONFIGS)

    @pytest.mark.parametrize("name", CONFIGS)
    def test_parse(self, name: str) -> None:
        names = dict.fromkeys((*BEFORE.get(name, ("networks.yaml",)), name))
        parser = load_config(BUNDLE, *names)
        assert parser["bundle_root"] == str(BUNDLE)
        assert "networks.yaml" not in names or parser["dataset"] == "brain_mri"

    @pytest.mark.parametrize("name", CONFIGS)
    def test_every_target_resolves(self, name: str) -> None:
        config = yaml.safe_load((BUNDLE / "configs" / name).read_text())
        names = set(targets(config))
        assert names or name in (
            "pretrained.yaml",
            "robust.yaml",
            "peers.yaml",
            "segment.yaml",
            "artefacts.yaml",
            "recognition.yaml",
            "train_locator.yaml",
        )  # which only set what others use, or call functions
        locator = ComponentLocator()
        for target in names:
            if "." in target:
                assert callable(pkgutil.resolve_name(target)), target
            else:  # short names must mean one class, and a MONAI one: bundles of others scan this package too
                found = locator.get_component_module_name(target)
                assert isinstance(found, str) and found.startswith("monai."), (target, found)

    def test_no_short_name_of_monai_becomes_ambiguous(self) -> None:
        # ``_target_: Identity`` in a bundle of others would fail where this package was imported before MONAI.
        assert not ambiguous()

    @pytest.mark.parametrize(("dataset", "classes"), [("brain_mri", 4), ("fundus", 4), ("skin", 7)])
    def test_architectures_classify(self, dataset: str, classes: int) -> None:
        parser = load_config(BUNDLE, dataset=dataset)
        with torch.inference_mode():
            for place in NETWORKS.values():
                network = parser.get_parsed_content(place).eval()
                assert network(torch.zeros(1, 3, 128, 128)).shape == (1, classes), place

    def test_names_agree(self) -> None:
        parser = load_config(BUNDLE)
        assert list(parser["modes"]) == list(parser["classes"]) == list(MODALITIES)
        assert parser["victim_names"] == parser.get_parsed_content("surrogate_names") == list(VICTIMS)
        assert set(parser["networks"]) == set(NETWORKS)
        # Somebody must be left whom the generator has never met.
        met = set(parser["generator_surrogates"])
        assert met < set(VICTIMS)
        # Nor may the guides know those.
        robust = {
            robust_name(name) for name in (*parser["robust_names"], *parser["aside_names"]) if name not in STRANGERS
        }
        assert set(parser["guide_names"]) <= met | robust
        assert set(parser["robust_names"]) <= set(VICTIMS) and not set(parser["aside_names"]) & set(VICTIMS)

    def test_every_architecture_has_its_epochs(self) -> None:
        config = yaml.safe_load((BUNDLE / "configs" / "train_surrogate.yaml").read_text())
        assert set(config["epochs_of"]) == set(NETWORKS)

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
        assert outputs["num_channels"] == 3 and outputs["value_range"] == [-1, 1]

    def test_metadata_describes_the_network(self) -> None:
        """The declared inputs go through the declared generator and give the declared output; so do gray images."""
        metadata = json.loads((BUNDLE / "configs" / "metadata.json").read_text())
        described = metadata["generator_data_format"]
        # Other programs know networks of one image only: the same network, see tests/test_bundle_zoo.py.
        shown = metadata["network_data_format"]
        assert shown == {"inputs": {"image": described["inputs"]["image"]}, "outputs": described["outputs"]}
        image, budget, latent, descent = (each["num_channels"] for each in described["inputs"].values())
        assert (image, descent, described["outputs"]["pred"]["num_channels"]) == (3, 3, 3)
        assert list(described["inputs"]) == ["image", "budget", "latent", "descent"]
        network = load_config(BUNDLE).get_parsed_content("network_def").eval()
        for channels in (1, image):
            with torch.inference_mode():
                given = torch.rand(1, channels, 16, 16), torch.rand(1, budget, 16, 16), torch.randn(1, latent)
                made = network(*given, torch.randn(1, channels, 16, 16))
            assert made.shape == (1, channels, 16, 16) and made.abs().max() <= 1

    def test_metadata_names_what_is_needed(self) -> None:
        required = json.loads((BUNDLE / "configs" / "metadata.json").read_text())["required_packages_version"]
        pins = dict(
            line.split("==")
            for line in (BUNDLE.parents[1] / "constraints.txt").read_text().splitlines()
            if "==" in line and not line.startswith("#")
        )
        assert "efficientnet-lite-pytorch" in required
        assert required.pop("monai-miadmark") == monai_miadmark.__version__
        assert {name: pins[name] for name in required} == required

    def test_documents_name_what_is_there(self) -> None:
        """Every configuration is in the table, with an identifier that it has."""
        text = (BUNDLE / "docs" / "README.md").read_text()
        lines = re.findall(r"^\| `configs/([a-z_]+\.yaml)` \| .* \| (?:`(\w+)`)? ?\|$", text, re.MULTILINE)
        assert {name for name, _ in lines} == set(CONFIGS)
        for name, run_id in lines:
            assert not run_id or run_id in yaml.safe_load((BUNDLE / "configs" / name).read_text()), name
        assert "heldout" not in text

    def test_no_weights_but_those_that_the_marker_uses(self) -> None:
        found = {path.name for path in (BUNDLE / "models").glob("*.pt") if not path.name.endswith("_segmenter.pt")}
        assert found <= set(WEIGHTS)

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
        network = load_weights(_network(BUNDLE, name), path)
        assert all(value.isfinite().all() for value in network.state_dict().values())
        for key, value in torch.load(path, map_location="cpu", weights_only=True).items():
            small = value[0].dtype == torch.int8 if isinstance(value, tuple) else value.dtype == torch.float16
            assert small or not value.is_floating_point(), key


class TestRuns:
    """``python -m monai.bundle run`` on a tiny made image set, with tiny networks."""

    @pytest.fixture(autouse=True)
    def _elsewhere(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """Work in a temporary folder, and undo what ``initialize`` sets for the whole process."""
        monkeypatch.chdir(tmp_path)
        data = image_set(tmp_path / "data", train=22, val=2)
        for name in MODALITIES[1:]:
            image_set(data, name, train=22, val=1)
        monkeypatch.setenv(DATA_ENV, str(data))
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
    def run(root: Path, *configs: str, **overrides: Any) -> None:
        monai.bundle.run(
            config_file=[str(root / "configs" / name) for name in ("networks.yaml", *configs)],
            bundle_root=str(root),
            **overrides,
        )

    @staticmethod
    def made(root: Path) -> set[str]:
        return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}

    @pytest.mark.slow
    def test_surrogates_and_router(self, tmp_path: Path) -> None:
        """Weights land where ensembles and markers read them; everything is written below the bundle."""
        root = tiny_bundle(tmp_path)
        outside = _listing(BUNDLE), _listing(tmp_path / "data")
        before = self.made(root)
        small = {"epochs": 1, "batch_size": 8, "num_workers": 0}
        self.run(root, "train_surrogate.yaml", architecture="resnet", **small)
        self.run(root, "train_surrogate.yaml", "pretrained.yaml", dataset="fundus", pretrained=None, **small)
        self.run(root, "train_router.yaml", epochs=1)
        made = {f"models/{name}.pt" for name in ("brain_mri_resnet", "fundus_efficientnet", "router")}
        assert self.made(root) - before == made
        for name in made:
            load_weights(_network(root, Path(name).name), root / name)
        assert (_listing(BUNDLE), _listing(tmp_path / "data")) == outside
        assert {path.name for path in tmp_path.iterdir()} == {"miadmark", "data"}

    @pytest.mark.slow
    def test_locator(self, tmp_path: Path) -> None:
        """What networks look at, then boxes; the weights are what the marker reads."""
        root = tiny_bundle(tmp_path, weights=True)
        names = [Path(str(item["image"])).name for item in data_list("brain_mri", "fit", tmp_path / "data", limit=1)]
        boxes = tmp_path / "boxes.json"
        boxes.write_text(json.dumps({"fit": {"brain_mri": {name: [10, 20, 60, 50] for name in names}}}))
        before = (root / "models" / "brain_mri_locator.pt").read_bytes()
        self.run(root, "train_locator.yaml", epochs=[1, 1], boxes=str(boxes), side=32)
        after = root / "models" / "brain_mri_locator.pt"
        assert not _same_weights(before, after)
        load_weights(_network(root, after.name), after)

    @pytest.mark.slow
    def test_generator(self, tmp_path: Path) -> None:
        """Training starts, leaves a checkpoint, and goes on from it."""
        root = tiny_bundle(tmp_path, weights=True)
        self.run(root, "train.yaml", epochs=1, steps_per_epoch=2, images_per_step=2)
        assert (root / "models" / "model.pt").is_file()
        assert any(path.name.startswith("generator_") for path in (root / "eval" / "generator").iterdir())

        # The same command again goes on: here there is nothing left to do, with two epochs one more.
        weights = (root / "models" / "model.pt").read_bytes()
        self.run(root, "train.yaml", epochs=1, steps_per_epoch=2, images_per_step=2)
        assert _same_weights(weights, root / "models" / "model.pt")
        self.run(root, "train.yaml", epochs=2, steps_per_epoch=2, images_per_step=2)
        assert not _same_weights(weights, root / "models" / "model.pt")

    @pytest.mark.slow
    def test_evaluation(self, tmp_path: Path) -> None:
        """A data set of its own colors; results and tables below ``eval``, sets kept for the next question."""
        root = tiny_bundle(tmp_path, weights=True)
        options = {"dataset": "fundus", "preset": "fast", "section": "val", "limit": 1}
        self.run(root, "evaluate.yaml", **options)
        (result,) = self.results(root / "eval")
        assert (result["dataset"], result["section"], result["images"]) == ("fundus", "val", 4)
        assert result["title"] == "fast, visible, soft" and result["figures"]["restored_identical"] == 1
        white = [row["victim"] for row in result["rows"] if row["setting"] == "white box"]
        assert white == list(VICTIMS)
        removers = {row["remover"] for row in result["rows"] if row["setting"] == "black box"}
        assert removers == {"", *FILTERS}
        assert "### fast, visible, soft" in (root / "eval" / "results" / "tables.md").read_text()
        sets = {path.name: path.stat().st_mtime_ns for path in (root / "eval" / "sets").iterdir()}
        assert len(sets) == 1 + len(STRANGERS)  # with all, and without each stranger
        self.run(root, "evaluate.yaml", run_id="evaluate", filters={}, **options)
        assert sets == {path.name: path.stat().st_mtime_ns for path in (root / "eval" / "sets").iterdir()}

    def test_evaluation_takes_its_options(self, tmp_path: Path) -> None:
        root = tiny_bundle(tmp_path, weights=True)
        options = {"preset": "fast", "style": "invisible", "section": "tune", "region": "none", "limit": 1}
        self.run(root, "evaluate.yaml", **options, seed=3, filters={}, output_dir="$Path('out')")
        (result,) = self.results(tmp_path / "out")
        assert result["title"] == "fast, invisible, none" and result["section"] == "tune"
        assert (tmp_path / "out" / "results" / "brain_mri_tune_fast_invisible_none.json").is_file()
        assert not (root / "eval").exists()
        part = {"part": [1, 3], "filters": {}, "output_dir": "$Path('part')"}
        self.run(root, "evaluate.yaml", **options, **part)
        (result,) = self.results(tmp_path / "part")
        assert result["title"] == "fast, invisible, none, one image in 3, offset 1" and result["images"] == 1
        assert (
            tmp_path / "part" / "results" / "brain_mri_tune_fast_invisible_none_one_image_in_3_offset_1.json"
        ).is_file()

    @pytest.mark.slow
    def test_attack_and_peers(self, tmp_path: Path) -> None:
        root = tiny_bundle(tmp_path, weights=True)
        options = {"preset": "fast", "style": "invisible", "region": "none", "limit": 1}
        effort = {f"effort#{name}": 1 for name in ("remover", "decomposition", "denoiser", "fine_tune")}
        self.run(root, "evaluate.yaml", "attack.yaml", run_id="attack", pairs=1, **effort, **options)
        (result,) = self.results(root / "eval")
        assert result["title"] == "fast, invisible, none, learned attacks"
        assert [row["remover"] for row in result["rows"]][-1] == FINE_TUNED
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(peer_study, "PEERS", {"random signs": PEERS["random signs"]})
            self.run(root, "evaluate.yaml", "peers.yaml", run_id="peers", **options)
        (peers,) = (r for r in self.results(root / "eval") if "peers" in r["title"])
        assert {row["method"] for row in peers["rows"]} == {"MIAD-MARK", "random signs"}

    @staticmethod
    def results(folder: Path) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in sorted((folder / "results").glob("*.json"))]

    def test_missing_images_are_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(DATA_ENV, str(tmp_path / "absent"))
        with pytest.raises(RuntimeError) as caught:
            self.run(tiny_bundle(tmp_path), "train_surrogate.yaml")
        causes, error = [], caught.value
        while error is not None:
            causes.append(str(error))
            error = error.__cause__
        assert any(DATA_ENV in text for text in causes)


def _network(root: Path, name: str) -> torch.nn.Module:
    """The architecture that a weight file of a bundle is for."""
    place, dataset = WEIGHTS[name]
    network: torch.nn.Module = load_config(root, dataset=dataset).get_parsed_content(place)
    return network


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

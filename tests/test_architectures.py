# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Networks that are made without MONAI are those that MONAI makes, to the bit; and marking starts without MONAI."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from monai_miadmark.architectures import PlainUNet
from monai_miadmark.marker import bundle_root, load_config, load_marker, network_config
from monai_miadmark.network_config import NetworkConfig, UnknownConfigError

ROOT = bundle_root()
DATASETS = ("brain_mri", "fundus", "skin")


def weights() -> bool:
    return (ROOT / "models" / "SHA256SUMS").is_file()


needs_weights = pytest.mark.skipif(not weights(), reason="the bundle's weights are not there")


def same(one: nn.Module, other: nn.Module, images: torch.Tensor) -> None:
    """Equal weights, results and gradients."""
    assert {k: v.shape for k, v in one.state_dict().items()} == {k: v.shape for k, v in other.state_dict().items()}
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    gradients = []
    for network in (one, other):
        given = images.clone().requires_grad_(True)
        result = network(given)
        total = sum(part.square().sum() for part in result) if isinstance(result, list) else result.square().sum()
        gradients.append((result, torch.autograd.grad(total, given)[0]))
    (first, first_gradient), (second, second_gradient) = gradients
    pairs = zip(first, second, strict=True) if isinstance(first, list) else [(first, second)]
    assert all(torch.equal(a, b) for a, b in pairs)
    assert torch.equal(first_gradient, second_gradient)


@needs_weights
class TestTheBundle:
    @pytest.mark.parametrize("dataset", DATASETS)
    def test_ensembles_are_those_of_monai(self, dataset: str) -> None:
        images = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(1))
        quick = NetworkConfig(ROOT, dataset).get_parsed_content("ensemble")
        monai = load_config(ROOT, dataset=dataset).get_parsed_content("ensemble").cpu()
        assert [m.name for m in quick.members] == [m.name for m in monai.members]
        same(quick, monai, images)
        for one, other in zip([*quick.robust, *quick.aside], [*monai.robust, *monai.aside], strict=True):
            assert one.name == other.name
            same(one, other, images)

    def test_so_are_router_generator_and_what_is_said(self) -> None:
        quick, monai = NetworkConfig(ROOT), load_config(ROOT)
        router = quick.get_parsed_content("router").eval()
        same(router, monai.get_parsed_content("router").cpu().eval(), torch.rand(2, 3, 64, 48))
        ours, theirs = (config.get_parsed_content("generator").cpu().eval() for config in (quick, monai))
        assert all(
            torch.equal(a, b) for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True)
        )
        assert quick.get_parsed_content("modes") == monai.get_parsed_content("modes")
        assert quick.get_parsed_content("device") == monai.get_parsed_content("device")
        for name in ("victim_names", "robust_names", "aside_names", "guide_names", "generator_surrogates"):
            assert quick[name] == monai[name]

    def test_marking_imports_no_monai_and_starts_quickly(self, tmp_path: Path) -> None:
        code = """
import resource, sys
import numpy as np
from monai_miadmark.marker import load_marker
marker = load_marker(device="cpu")
marker.specialist("auto", np.full((1, 3, 128, 128), 0.4, np.float32))
used = resource.getrusage(resource.RUSAGE_SELF)
print([name for name in ("monai", "ignite", "matplotlib") if name in sys.modules], used.ru_utime + used.ru_stime)
"""
        alone = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=alone)
        found, _, seconds = done.stdout.partition("] ")
        assert found == "[", done.stderr
        assert float(seconds) < 6  # 2.2 where nothing else runs; 5.6 with MONAI


class TestOtherConfigurations:
    @pytest.fixture
    def copy(self, tmp_path: Path) -> Path:
        (tmp_path / "configs").mkdir()
        shutil.copy(ROOT / "configs" / "networks.yaml", tmp_path / "configs")
        return tmp_path

    @pytest.mark.parametrize(
        ("place", "value"),
        [
            (("networks", "resnet", "block"), "bottleneck"),
            (("networks", "resnet", "no_max_pool"), True),
            (("networks", "plain", "num_res_units"), 2),
            (("networks", "plain", "channels"), "$[1, 2]"),
            (("networks", "densenet", "_target_"), "monai.networks.nets.DenseNet121"),
            (("router_def", "side"), 16),
            (("network_def", "width"), "$24"),
            (("ensemble",), "$mine()"),
            (("networks",), None),
        ],
    )
    def test_are_read_by_monai(self, copy: Path, place: tuple[str, ...], value: object) -> None:
        path = copy / "configs" / "networks.yaml"
        content = yaml.safe_load(path.read_text())
        part = content
        for name in place[:-1]:
            part = part[name]
        part[place[-1]] = value
        path.write_text(yaml.safe_dump(content))
        with pytest.raises((UnknownConfigError, TypeError)):
            NetworkConfig(copy)
        assert type(network_config(copy)).__name__ == "ConfigParser"

    def test_sizes_may_differ(self, copy: Path) -> None:
        path = copy / "configs" / "networks.yaml"
        path.write_text(path.read_text().replace("[2, 2, 2, 2]", "[1, 1, 1, 1]", 1))
        assert isinstance(network_config(copy), NetworkConfig)


@needs_weights
def test_the_marker_is_what_it_was() -> None:
    marker = load_marker(device="cpu")
    assert marker.modalities == list(DATASETS)
    assert isinstance(network_config(ROOT), NetworkConfig)


def test_a_u_net_is_that_of_monai() -> None:
    from monai.networks.nets import UNet

    torch.manual_seed(0)
    given = {"channels": (4, 8, 12, 16), "strides": (2, 2, 2), "num_res_units": 1, "norm": "batch"}
    monai = UNet(spatial_dims=2, in_channels=1, out_channels=1, **given).eval()  # type: ignore[arg-type]
    plain = PlainUNet(1, 1, (4, 8, 12, 16)).eval()
    plain.load_state_dict(monai.state_dict())
    same(plain, monai, torch.rand(2, 1, 32, 48))

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Gradients prefer shortcuts and soften rectifiers, and nothing else changes."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet
from monai.networks.blocks.squeeze_and_excitation import SEBlock
from monai.networks.nets import DenseNet, EfficientNetBN, ResNet, SENet
from monai.networks.nets.densenet import _DenseLayer
from monai.networks.nets.efficientnet import MBConvBlock
from monai.networks.nets.resnet import ResNetBlock
from networks import classifier, flat_budget, pictures
from numpy.typing import NDArray
from torch import Tensor, nn

from monai_miadmark.classifiers import Bottleneck, ThinResNet
from monai_miadmark.gradient_steps import GradientPerturber
from monai_miadmark.lent_gradients import lending
from monai_miadmark.surrogates import Surrogate, SurrogateEnsemble


def resnet(block: str) -> nn.Module:
    return ResNet(
        block, [1, 1, 1, 1], [4, 8, 8, 8], spatial_dims=2, n_input_channels=3, num_classes=3, bias_downsample=False
    )


def senet() -> nn.Module:
    return SENet(2, 3, "se_resnetxt_bottleneck", [1, 1, 1, 1], 8, 4, None, inplanes=16, num_classes=3)


RESIDUAL: dict[str, Callable[[], nn.Module]] = {
    "resnet": lambda: resnet("basic"),
    "deeper resnet": lambda: resnet("bottleneck"),
    "senet": senet,
    "densenet": lambda: DenseNet(2, 3, 3, init_features=8, growth_rate=4, block_config=(2, 2)),
    "efficientnet": lambda: EfficientNetBN("efficientnet-b0", pretrained=False, num_classes=3),
    "lite": lambda: EfficientNet.from_name("efficientnet-lite0", num_classes=3),
    "thin resnet": lambda: ThinResNet(3),
}


def made(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().eval().requires_grad_(False)


def answer(network: nn.Module, image: Tensor) -> tuple[Tensor, Tensor]:
    """What a network says, and its gradient."""
    x = image.clone().requires_grad_()
    said = network(x)
    (gradient,) = torch.autograd.grad(said.square().sum(), x)
    return said.detach(), gradient


IMAGE = torch.rand((2, 3, 64, 64), generator=torch.Generator().manual_seed(1))


CHANGES: dict[str, dict[str, Any]] = {"branches": {"softened": False}, "rectifiers": {"branches": 1.0}, "both": {}}
"""What is changed, by arguments of their own."""


@pytest.mark.parametrize("name", RESIDUAL)
class TestKnownNetworks:
    @pytest.mark.parametrize("change", CHANGES)
    def test_answers_are_the_same_and_gradients_are_not(self, name: str, change: str) -> None:
        network = made(RESIDUAL[name])
        said, gradient = answer(network, IMAGE)
        same, other = answer(lending(network, **CHANGES[change]), IMAGE)
        assert torch.equal(same, said)
        rectified = any(isinstance(layer, nn.ReLU | nn.ReLU6) for layer in network.modules())
        changed = not torch.allclose(other, gradient, rtol=0.05, atol=0)
        assert changed == (rectified or change != "rectifiers")  # MONAI's EfficientNet has Swish

    def test_the_network_itself_stays_as_it_is(self, name: str) -> None:
        network = made(RESIDUAL[name])
        before = answer(network, IMAGE)[1]
        copy = lending(network, 0.1)
        answer(copy, IMAGE)
        assert torch.equal(answer(network, IMAGE)[1], before)
        assert all(a is b for a, b in zip(copy.parameters(), network.parameters(), strict=True))
        assert all(a is b for a, b in zip(copy.buffers(), network.buffers(), strict=True))

    def test_the_usual_gradient_needs_no_copy(self, name: str) -> None:
        network = made(RESIDUAL[name])
        assert lending(network, 1.0, softened=False) is network


class AroundNothing(nn.Module):
    """Takes the place of the layer at the end of a branch: what gradients are left come through the shortcut."""

    def __init__(self, end: nn.Module) -> None:
        super().__init__()
        self.end = end

    def forward(self, x: Tensor) -> Tensor:
        return self.end(x).detach()


BLOCKS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "resnet": (lambda: ResNetBlock(3, 3, spatial_dims=2), "bn2"),
    "senet": (lambda: SEBlock(2, 3, 4, 4, 3, r=2), "se_layer"),
    "densenet": (lambda: _DenseLayer(2, 3, 4, 2, 0.0), "layers"),
    "efficientnet": (lambda: MBConvBlock(2, 3, 3, 3, 1, [64, 64], 2, 0.25), "_bn2"),
    "thin resnet": (lambda: Bottleneck(12, 3, 1), "expand"),
}


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("share", [0.5, 0.2])
def test_a_block_lessens_its_branch_and_not_its_shortcut(name: str, share: float) -> None:
    make, end = BLOCKS[name]
    block = made(make)
    image = IMAGE.repeat(1, 4, 1, 1) if name == "thin resnet" else IMAGE

    def gradient(of: nn.Module) -> Tensor:
        x = image.clone().requires_grad_()
        (found,) = torch.autograd.grad(of(x).sum(), x)
        return found

    whole, lessened = gradient(block), gradient(lending(block, share, softened=False))
    setattr(block, end, AroundNothing(getattr(block, end)))
    shortcut = gradient(block)
    assert not torch.allclose(whole, shortcut)
    torch.testing.assert_close(lessened, shortcut + share * (whole - shortcut))


def test_blocks_without_a_shortcut_are_left_alone() -> None:
    block = made(lambda: MBConvBlock(2, 3, 5, 3, 1, [64, 64], 2, 0.25))
    assert torch.equal(answer(lending(block, softened=False), IMAGE)[1], answer(block, IMAGE)[1])


@pytest.mark.parametrize(("rectifier", "top"), [(nn.ReLU(), None), (nn.ReLU6(), 6.0), (nn.ReLU(inplace=True), None)])
def test_rectifiers_pass_on_what_silu_would(rectifier: nn.Module, top: float | None) -> None:
    x = torch.linspace(-9, 15, 97).requires_grad_()
    other = x.detach().clone().requires_grad_()
    passed = lending(nn.Sequential(rectifier))(x)
    (found,) = torch.autograd.grad(passed.sum(), x)
    scale = other.detach().std()
    (expected,) = torch.autograd.grad((nn.functional.silu(other / scale) * scale).sum(), other)
    if top is not None:
        expected = expected * torch.sigmoid((top - other.detach()) / scale)
    torch.testing.assert_close(found, expected)
    assert torch.equal(passed, x.clamp(0, top))


def test_a_feature_that_is_nowhere_passes_on_numbers() -> None:
    x = torch.zeros(4, requires_grad=True)
    (found,) = torch.autograd.grad(lending(nn.Sequential(nn.ReLU()))(x).sum(), x)
    assert torch.isfinite(found).all()


def test_a_rectifier_that_layers_share_is_softened_for_all() -> None:
    rectifier = nn.ReLU()
    shared = nn.Sequential(nn.Sequential(rectifier), rectifier)
    assert not [layer for layer in lending(shared).modules() if isinstance(layer, nn.ReLU)]
    assert [layer for layer in shared.modules() if isinstance(layer, nn.ReLU)]


def test_networks_without_either_are_left_alone() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU())
    assert lending(network) is network


def test_steps_follow_them_on_views_alone() -> None:
    group = SurrogateEnsemble([Surrogate(made(RESIDUAL["resnet"]), "residual", 32)])
    images, budget = pictures(channels=3), flat_budget()

    def field(settling: float, **how: Any) -> NDArray[np.float32]:
        steps = GradientPerturber(group, 4, settling=settling, persistence=0, coarse=0.0, **how)
        return steps.perturb(images, images, budget, b"a" * 32)

    usual: dict[str, Any] = {"branches": 1.0, "softened": False}
    for how in ({}, {**usual, "branches": 0.5}, {**usual, "softened": True}):
        assert (field(0.0, **how) != field(0.0, **usual)).any()
        np.testing.assert_array_equal(field(1.0, **how), field(1.0, **usual))


def test_the_copy_can_be_told_to_another_process() -> None:
    copy = lending(made(RESIDUAL["resnet"]))
    again = pickle.loads(pickle.dumps(copy))
    assert torch.equal(answer(again, IMAGE)[1], answer(copy, IMAGE)[1])


@pytest.mark.parametrize("share", [0, -0.5, 1.5, float("nan")])
def test_a_share_that_is_none(share: float) -> None:
    with pytest.raises(ValueError, match="gradient must be in"):
        lending(made(classifier), share)

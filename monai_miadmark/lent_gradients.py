# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Surrogates whose gradients are less their own: what misleads them carries over to other networks further."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import chain
from typing import Any, TypeVar, cast

import torch
from efficientnet_lite_pytorch.model import MBConvBlock as LiteBlock
from monai.networks.blocks.squeeze_and_excitation import SEBlock
from monai.networks.nets.densenet import _DenseLayer
from monai.networks.nets.efficientnet import MBConvBlock
from monai.networks.nets.resnet import ResNetBlock, ResNetBottleneck
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from monai_miadmark.classifiers import Bottleneck

__all__ = ["lending"]

Network = TypeVar("Network", bound=nn.Module)


def lending(network: Network, branches: float = 0.5, softened: bool = True) -> Network:
    """A copy that gives the same answers and other gradients.

    * Residual branches pass on less of them (SGM, arXiv:2002.05990): what a branch adds to the features is more a
      network's own than what its shortcut passes on. Blocks whose branches are known: MONAI's ``ResNet``, ``SENet``
      (all kinds), ``DenseNet`` and ``EfficientNet``, EfficientNet-Lite, and those of
      :mod:`monai_miadmark.classifiers`.
    * Rectifiers, ``nn.ReLU`` and ``nn.ReLU6``, pass them on as SiLU would (BPA, arXiv:2306.15166), at the scale of what
      they see: those of units that are just off are not lost.

    Args:
        network: any module; its parameters and buffers are shared with the copy, so that it costs no memory.
        branches: share of a branch's gradient that is left, in (0, 1]; with each further branch that a gradient comes
            through it is left once more.
        softened: whether rectifiers are.

    Returns:
        The copy, or the network itself where nothing changes.

    Raises:
        ValueError: no such share.
    """
    if not 0 < branches <= 1:
        raise ValueError(f"what is left of a gradient must be in (0, 1], not {branches}")
    lessened = branches < 1 and next(_branch_ends(network), None) is not None
    softened = softened and next(_rectifiers(network), None) is not None
    if not (lessened or softened):
        return network
    kept = {id(tensor): tensor for tensor in chain(network.parameters(), network.buffers())}
    made = copy.deepcopy(network, cast("dict[int, Any]", kept))
    if lessened:
        for end in _branch_ends(made):
            end.register_forward_hook(_Lessening(branches))
    if softened:
        for name, rectifier in list(_rectifiers(made)):
            made.set_submodule(name, _Softened(6.0 if isinstance(rectifier, nn.ReLU6) else None))
    return made


class _Lessening:
    """Forward hook: what comes back to the output is worth less before it enters the layer."""

    def __init__(self, share: float) -> None:
        self.share = share

    def __call__(self, layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        if output.requires_grad:
            # Of the value as it is here: blocks add their shortcuts to it in place.
            output.register_hook(self._lessened)  # type: ignore[no-untyped-call]

    def _lessened(self, gradient: Tensor) -> Tensor:
        return gradient * self.share


def _branch_ends(network: nn.Module) -> Iterator[nn.Module]:
    """The layer of each residual branch whose output joins a shortcut."""
    for block in network.modules():
        if isinstance(block, ResNetBlock):
            yield block.bn2
        elif isinstance(block, ResNetBottleneck):
            yield block.bn3
        elif isinstance(block, SEBlock):
            yield block.se_layer
        elif isinstance(block, _DenseLayer):
            yield block.layers
        elif isinstance(block, Bottleneck):
            yield block.expand
        elif isinstance(block, MBConvBlock) and block.id_skip:
            if block.stride == 1 and block.in_channels == block.out_channels:
                yield block._bn2
        elif isinstance(block, LiteBlock) and block.id_skip:
            sizes = block._block_args
            if _stride(sizes.stride) == 1 and sizes.input_filters == sizes.output_filters:
                yield block._bn2


def _stride(given: int | list[int]) -> int:
    """The package has strides as numbers, or as lists of one."""
    return given if isinstance(given, int) else given[0]


def _rectifiers(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Rectifiers by every name that they have: several layers may share one."""
    for name, layer in network.named_modules(remove_duplicate=False):
        if name and isinstance(layer, nn.ReLU | nn.ReLU6):
            yield name, layer


class _Softened(nn.Module):
    """A rectifier with another gradient.

    Args:
        top: largest value that it gives; ``None`` for any.
    """

    def __init__(self, top: float | None) -> None:
        super().__init__()
        self.top = top

    def forward(self, x: Tensor) -> Tensor:
        passed: Tensor = _Rectified.apply(x, self.top)  # type: ignore[no-untyped-call]
        return passed

    def extra_repr(self) -> str:
        return f"top={self.top}"


class _Rectified(torch.autograd.Function):
    """``min(max(x, 0), top)``; its gradient is that of SiLU at the bottom and of a sigmoid at the top."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, top: float | None) -> Tensor:
        ctx.save_for_backward(x)
        ctx.top = top
        return x.clamp(0, top)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        # Features of networks without normalization have any scale.
        scale = x.std().clamp_min(1e-6)
        if ctx.top is not None:
            gradient = gradient * torch.sigmoid((ctx.top - x) / scale)
        return torch.ops.aten.silu_backward(gradient, x / scale), None

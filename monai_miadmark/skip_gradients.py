# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Gradients that prefer the shortcuts of residual networks (SGM, arXiv:2002.05990)."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import chain
from typing import Any, TypeVar, cast

from efficientnet_lite_pytorch.model import MBConvBlock as LiteBlock
from monai.networks.blocks.squeeze_and_excitation import SEBlock
from monai.networks.nets.densenet import _DenseLayer
from monai.networks.nets.efficientnet import MBConvBlock
from monai.networks.nets.resnet import ResNetBlock, ResNetBottleneck
from torch import Tensor, nn

from monai_miadmark.classifiers import Bottleneck

__all__ = ["favoring_skips"]

Network = TypeVar("Network", bound=nn.Module)


def favoring_skips(network: Network, share: float = 0.5) -> Network:
    """A copy whose gradients lose some of what comes through residual branches; its answers are the same.

    What a branch adds to the features is more a network's own than what its shortcuts pass on: gradients with less of
    it mislead other networks further. Blocks whose branches are known: MONAI's ``ResNet``, ``SENet`` (all kinds),
    ``DenseNet`` and ``EfficientNet``, EfficientNet-Lite, and those of :mod:`monai_miadmark.classifiers`.

    Args:
        network: any module; its parameters and buffers are shared with the copy, so that it costs no memory.
        share: of a branch's gradient that is left, in (0, 1]; with each further branch that a gradient comes through it
            is left once more.

    Returns:
        The copy, or the network itself where nothing is to be lessened: it has no such branches, or all is left.

    Raises:
        ValueError: no such share.
    """
    if not 0 < share <= 1:
        raise ValueError(f"what is left of a gradient must be in (0, 1], not {share}")
    if share == 1 or next(_branch_ends(network), None) is None:
        return network
    kept = {id(tensor): tensor for tensor in chain(network.parameters(), network.buffers())}
    made = copy.deepcopy(network, cast("dict[int, Any]", kept))
    for end in _branch_ends(made):
        end.register_forward_hook(_Lessening(share))
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

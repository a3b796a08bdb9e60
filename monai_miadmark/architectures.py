# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Networks of MONAI as the bundle uses them, for marking without MONAI, whose import takes longer than torch's.

Weights of MONAI's classes fit these, and the results are the same bits (``tests/test_architectures.py``). Training and
everything that a configuration says beyond this take MONAI's own.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["PlainClassifier", "PlainConvolution", "PlainDenseNet", "PlainResNet", "PlainUNet"]


class PlainConvolution(nn.Sequential):
    """A convolution, and behind it normalization, dropout and activation; ``monai.networks.blocks.Convolution`` in 2D.

    Args:
        channels: of the input.
        out_channels: of the output.
        strides: of the convolution.
        kernel_size: side of the kernel; the padding keeps the size.
        conv_only: nothing behind it.
        act: ``relu`` or ``prelu``.
        dropout: probability; ``None`` for no dropout.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        strides: int = 1,
        kernel_size: int = 3,
        conv_only: bool = False,
        act: str = "prelu",
        dropout: float | None = None,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, kernel_size, strides, kernel_size // 2)
        if not conv_only:
            parts: list[tuple[str, nn.Module]] = [("N", nn.BatchNorm2d(out_channels))]
            if dropout is not None:
                parts.append(("D", nn.Dropout(dropout)))
            self.adn = nn.Sequential(OrderedDict([*parts, ("A", _activation(act))]))


class PlainClassifier(nn.Module):
    """Strided convolutions and a linear layer; ``monai.networks.nets.Classifier`` without residual units.

    Args:
        in_shape: channels, rows and columns of the images.
        classes: logits.
        channels: of each convolution.
        strides: of each convolution.
        act: ``relu`` or ``prelu``.
        dropout: probability; ``None`` for no dropout.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        classes: int,
        channels: Sequence[int],
        strides: Sequence[int],
        act: str = "prelu",
        dropout: float | None = None,
    ) -> None:
        super().__init__()
        before, *sides = in_shape
        self.net = nn.Sequential()
        for index, (after, stride) in enumerate(zip(channels, strides, strict=True)):
            last = index == len(channels) - 1
            layer = PlainConvolution(before, after, stride, conv_only=last, act=act, dropout=dropout)
            self.net.add_module(f"layer_{index}", layer)
            before, sides = after, [(side - 1) // stride + 1 for side in sides]
        self.final = nn.Sequential(nn.Flatten(), nn.Linear(before * math.prod(sides), classes))

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, classes)``."""
        logits: Tensor = self.final(self.net(images))
        return logits


class _BasicBlock(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, channels: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.act = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample: nn.Module | None = None
        if stride != 1 or channels != planes:
            self.downsample = nn.Sequential(nn.Conv2d(channels, planes, 1, stride), nn.BatchNorm2d(planes))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn2(self.conv2(self.act(self.bn1(self.conv1(x)))))
        out += x if self.downsample is None else self.downsample(x)
        result: Tensor = self.act(out)
        return result


class PlainResNet(nn.Module):
    """Residual network of basic blocks; ``monai.networks.nets.ResNet`` with its default shortcuts.

    Args:
        layers: blocks of each of four stages.
        block_inplanes: channels of each stage.
        n_input_channels: of the images.
        conv1_t_stride: stride of the first convolution.
        num_classes: logits.
    """

    def __init__(
        self,
        layers: Sequence[int],
        block_inplanes: Sequence[int],
        n_input_channels: int,
        conv1_t_stride: int,
        num_classes: int,
    ) -> None:
        super().__init__()
        width = block_inplanes[0]
        self.conv1 = nn.Conv2d(n_input_channels, width, 7, conv1_t_stride, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.act = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        stages = []
        for stage, (blocks, planes) in enumerate(zip(layers, block_inplanes, strict=True)):
            made = []
            for number in range(blocks):
                made.append(_BasicBlock(width, planes, 2 if stage and not number else 1))
                width = planes
            stages.append(nn.Sequential(*made))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, num_classes)``."""
        x = self.maxpool(self.act(self.bn1(self.conv1(images))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = self.avgpool(x)
        logits: Tensor = self.fc(x.view(x.size(0), -1))
        return logits


class _GrowingLayer(nn.Module):
    """Adds channels to those that come in."""

    def __init__(self, channels: int, growth_rate: int, middle: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            OrderedDict(
                norm1=nn.BatchNorm2d(channels),
                relu1=nn.ReLU(inplace=True),
                conv1=nn.Conv2d(channels, middle, 1, bias=False),
                norm2=nn.BatchNorm2d(middle),
                relu2=nn.ReLU(inplace=True),
                conv2=nn.Conv2d(middle, growth_rate, 3, padding=1, bias=False),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.layers(x)], 1)


class PlainDenseNet(nn.Module):
    """Densely connected network; ``monai.networks.nets.DenseNet`` in 2D.

    Args:
        in_channels: of the images.
        out_channels: logits.
        init_features: channels of the first convolution.
        growth_rate: channels that each layer adds.
        block_config: layers of each block.
    """

    _BOTTLENECK = 4

    def __init__(
        self, in_channels: int, out_channels: int, init_features: int, growth_rate: int, block_config: Sequence[int]
    ) -> None:
        super().__init__()
        features: OrderedDict[str, nn.Module] = OrderedDict(
            conv0=nn.Conv2d(in_channels, init_features, 7, 2, 3, bias=False),
            norm0=nn.BatchNorm2d(init_features),
            relu0=nn.ReLU(inplace=True),
            pool0=nn.MaxPool2d(3, 2, 1),
        )
        width, middle = init_features, self._BOTTLENECK * growth_rate
        for number, layers in enumerate(block_config, 1):
            block = nn.Sequential()
            for layer in range(1, layers + 1):
                block.add_module(f"denselayer{layer}", _GrowingLayer(width, growth_rate, middle))
                width += growth_rate
            features[f"denseblock{number}"] = block
            if number < len(block_config):
                features[f"transition{number}"] = nn.Sequential(
                    OrderedDict(
                        norm=nn.BatchNorm2d(width),
                        relu=nn.ReLU(inplace=True),
                        conv=nn.Conv2d(width, width // 2, 1, bias=False),
                        pool=nn.AvgPool2d(2, 2),
                    )
                )
                width //= 2
        features["norm5"] = nn.BatchNorm2d(width)
        self.features = nn.Sequential(features)
        self.class_layers = nn.Sequential(
            OrderedDict(
                relu=nn.ReLU(inplace=True),
                pool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(1),
                out=nn.Linear(width, out_channels),
            )
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, out_channels)``."""
        logits: Tensor = self.class_layers(self.features(images))
        return logits


def _activation(name: str) -> nn.Module:
    """The activation of a name."""
    kinds: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "prelu": nn.PReLU}
    return kinds[name]()


class PlainUNet(nn.Module):
    """``monai.networks.nets.UNet`` in 2D with one residual unit a level, batch normalization and strides of 2.

    Args:
        in_channels: of the images.
        out_channels: of the logits.
        channels: of each level, from the top.
    """

    def __init__(self, in_channels: int, out_channels: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.model = _u_level(in_channels, out_channels, channels, top=True)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, out_channels, H, W)`` of images whose sides all levels divide."""
        logits: Tensor = self.model(x)
        return logits


def _u_level(channels: int, out_channels: int, below: Sequence[int], top: bool = False) -> nn.Sequential:
    """One level of a U-Net: down, what lies below beside what went down, and up."""
    first = below[0]
    inner: nn.Module
    if len(below) > 2:
        inner, reached = _u_level(first, first, below[1:]), 2 * first
    else:
        inner, reached = _ResidualUnit(first, below[1], 1), first + below[1]
    up = PlainConvolution(reached, out_channels)
    up.conv = nn.ConvTranspose2d(reached, out_channels, 3, 2, 1, 1)  # type: ignore[assignment]
    last = _ResidualUnit(out_channels, out_channels, 1, conv_only=top)
    return nn.Sequential(_ResidualUnit(channels, first, 2), _Beside(inner), nn.Sequential(up, last))


class _ResidualUnit(nn.Module):
    """``monai.networks.blocks.ResidualUnit`` with one convolution."""

    def __init__(self, channels: int, out_channels: int, strides: int, conv_only: bool = False) -> None:
        super().__init__()
        unit = PlainConvolution(channels, out_channels, strides, conv_only=conv_only)
        self.conv = nn.Sequential(OrderedDict([("unit0", unit)]))
        kernel = 3 if strides > 1 else 1
        same = channels == out_channels and strides == 1
        self.residual = nn.Identity() if same else nn.Conv2d(channels, out_channels, kernel, strides, kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.residual(x)
        out: Tensor = self.conv(x) + residual
        return out


class _Beside(nn.Module):
    """``monai.networks.layers.SkipConnection``: the input, and beside it what is made of it."""

    def __init__(self, submodule: nn.Module) -> None:
        super().__init__()
        self.submodule = submodule

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.submodule(x)], 1)

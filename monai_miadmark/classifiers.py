# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Classifier architectures that MONAI does not have, in the form in which weights pretrained on ImageNet exist."""

from __future__ import annotations

import torch
from efficientnet_lite_pytorch import EfficientNet
from efficientnet_lite_pytorch.utils import BlockArgs, GlobalParams
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["INVERTED", "STAGES", "ThinResNet", "TruncatedInception", "mobilenet_v2"]

STAGES = ((32, 3), (64, 4), (128, 6), (256, 3))
"""Width inside the bottlenecks of each stage of the residual network, and how many of them there are."""

INVERTED = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Stages of MobileNetV2 (arXiv:1801.04381, table 2): expansion, channels, blocks, stride of the first of them."""


class _Bottleneck(nn.Module):
    """Three convolutions beside a shortcut; the first of them strides, as in the original (arXiv:1512.03385)."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, width, 1, stride)
        self.middle = nn.Conv2d(width, width, 3, padding=1)
        self.expand = nn.Conv2d(width, 4 * width, 1)
        same = channels == 4 * width
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels, 4 * width, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        around = self.shortcut(x)
        return F.relu(self.expand(F.relu(self.middle(F.relu(self.reduce(x))))) + around)


class ThinResNet(nn.Module):
    """ResNet-50 of half the width without normalization layers: those of the pretrained one were folded away.

    From random weights it would hardly learn; it is made to start from given ones, with a low learning rate.

    Args:
        num_classes: logits.

    Shape:
        - input: ``(B, 3, H, W)``, about zero mean and unit variance.
        - output: ``(B, num_classes)``.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 7, 2, padding=3)
        # A window more where the stride leaves a rest, as padding "same" of other frameworks has it.
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        blocks, channels = [], 64
        for stage, (width, count) in enumerate(STAGES):
            for number in range(count):
                blocks.append(_Bottleneck(channels, width, 2 if stage and not number else 1))
                channels = 4 * width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.blocks(self.pool(F.relu(self.stem(x))))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


class _ConvNormed(nn.Sequential):
    """Convolution, normalization without scale, ReLU: all that Inception V3 is made of."""

    def __init__(
        self, channels: int, width: int, kernel: int | tuple[int, int], stride: int = 1, same: bool = True
    ) -> None:
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (sides[0] // 2, sides[1] // 2) if same else 0
        super().__init__(
            nn.Conv2d(channels, width, sides, stride, padding, bias=False),
            nn.BatchNorm2d(width, eps=1e-3),
            nn.ReLU(),
        )


class _Branches(nn.Module):
    """What several branches make of the same features, side by side."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class TruncatedInception(nn.Module):
    """The first layers of Inception V3 (arXiv:1512.00567), at most up to a block with 1 x 7 kernels, and a head.

    What follows would be five sixths of the weights, and sees 6 x 6 cells of an image of 128 x 128. Layers stand in the
    order in which Keras counts them.

    Args:
        num_classes: logits.
        blocks: of the five blocks of branches so many, the first ones.
        dropout: in front of the head.

    Raises:
        ValueError: another number of blocks.

    Shape:
        - input: ``(B, 3, H, W)``, about zero mean and unit variance; at least 75 x 75.
        - output: ``(B, num_classes)``.
    """

    def __init__(self, num_classes: int, blocks: int = 5, dropout: float = 0.2) -> None:
        super().__init__()
        if not 1 <= blocks <= 5:
            raise ValueError(f"blocks must be 1 to 5, not {blocks}")
        layer = _ConvNormed

        def around(channels: int, width: int) -> nn.Sequential:
            return nn.Sequential(nn.AvgPool2d(3, 1, 1, count_include_pad=False), layer(channels, width, 1))

        def squares(channels: int, pooled: int) -> _Branches:
            return _Branches(
                layer(channels, 64, 1),
                nn.Sequential(layer(channels, 48, 1), layer(48, 64, 5)),
                nn.Sequential(layer(channels, 64, 1), layer(64, 96, 3), layer(96, 96, 3)),
                around(channels, pooled),
            )

        stem = nn.Sequential(
            layer(3, 32, 3, 2, same=False),
            layer(32, 32, 3, same=False),
            layer(32, 64, 3),
            nn.MaxPool2d(3, 2),
            layer(64, 80, 1, same=False),
            layer(80, 192, 3, same=False),
            nn.MaxPool2d(3, 2),
        )
        mixed = (
            squares(192, 32),
            squares(256, 64),
            squares(288, 64),
            _Branches(
                layer(288, 384, 3, 2, same=False),
                nn.Sequential(layer(288, 64, 1), layer(64, 96, 3), layer(96, 96, 3, 2, same=False)),
                nn.MaxPool2d(3, 2),
            ),
            _Branches(
                layer(768, 192, 1),
                nn.Sequential(layer(768, 128, 1), layer(128, 128, (1, 7)), layer(128, 192, (7, 1))),
                nn.Sequential(
                    layer(768, 128, 1),
                    layer(128, 128, (7, 1)),
                    layer(128, 128, (1, 7)),
                    layer(128, 128, (7, 1)),
                    layer(128, 192, (1, 7)),
                ),
                around(768, 192),
            ),
        )
        self.features = nn.Sequential(*stem, *mixed[:blocks])
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear((256, 288, 288, 768, 768)[blocks - 1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.head(self.dropout(self.features(x).mean((2, 3))))
        return logits


def mobilenet_v2(num_classes: int, image_size: int, dropout: float = 0.2) -> EfficientNet:
    """MobileNetV2 (arXiv:1801.04381) of the full width, put together from the blocks of EfficientNet-Lite.

    Both are inverted residuals with ReLU6 and padding as TensorFlow has it; kernels, widths and depths differ.

    Args:
        num_classes: logits.
        image_size: side of the square input, in pixels.
        dropout: in front of the last layer.
    """
    blocks, channels = [], 32
    for expansion, width, count, stride in INVERTED:
        blocks.append(BlockArgs(count, 3, [stride], expansion, channels, width, None, True))
        channels = width
    params = GlobalParams(
        image_size=image_size,
        dropout_rate=dropout,
        num_classes=num_classes,
        batch_norm_momentum=0.9,
        batch_norm_epsilon=1e-3,
        relu_fn="relu6",
        fix_head_stem=False,
    )
    return EfficientNet(blocks, params)

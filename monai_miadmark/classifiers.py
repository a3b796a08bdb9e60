# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Classifier architectures that MONAI does not have, in the form in which weights pretrained on ImageNet exist."""

from __future__ import annotations

from efficientnet_lite_pytorch import EfficientNet
from efficientnet_lite_pytorch.utils import BlockArgs, GlobalParams
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["INVERTED", "STAGES", "ThinResNet", "mobilenet_v2"]

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

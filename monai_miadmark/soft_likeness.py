# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Likeness as :mod:`monai_miadmark.likeness` measures it, for gradients."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from monai_miadmark.budget import MOST_GAIN, Visibility
from monai_miadmark.likeness import RADIUS, similarity, window_matrix

__all__ = ["SoftLikeness", "away_from_logo", "fitted_budget"]


class SoftLikeness:
    """Compares changed versions of images with them, differentiably.

    Args:
        clean: ``(B, C, h, w)`` in [0, 1].
        judged: ``(B, 1, h, w)`` bool, cells that count; of SSIM's windows those that lie whole in the image and have
            such a cell in the middle. Where there are none, all cells count.
    """

    def __init__(self, clean: Tensor, judged: Tensor) -> None:
        self.clean = clean
        height, width = clean.shape[2:]
        self._rows, self._columns = (torch.from_numpy(window_matrix(side)).to(clean) for side in (height, width))
        self._mean = self._smooth(clean)
        self._square = self._smooth(clean * clean) - self._mean**2
        whole = torch.zeros_like(judged)
        inner = ..., slice(RADIUS, height - RADIUS), slice(RADIUS, width - RADIUS)
        whole[inner] = judged[inner]
        self._cells, self._windows = _weights(judged), _weights(whole)

    def ssim(self, changed: Tensor) -> Tensor:
        """Mean structural similarity (Wang et al. 2004) of ``(B, C, h, w)``, ``(B,)``."""
        similar: Tensor = similarity(changed, self.clean, self._mean, self._square, self._smooth)
        return (similar.mean(1, keepdim=True) * self._windows).sum((1, 2, 3))

    def squared_error(self, changed: Tensor) -> Tensor:
        """Mean squared difference, ``(B,)``."""
        return ((changed - self.clean).square().mean(1, keepdim=True) * self._cells).sum((1, 2, 3))

    def cost(self, changed: Tensor, model: Visibility) -> Tensor:
        """How much of the likeness that a model asks for a change uses up, ``(B,)``; 1 is all of it.

        The larger of the shares of ``1 - SSIM`` and of squared error; both grow about as the square of an amplitude.

        Args:
            changed: ``(B, C, h, w)`` in [0, 1].
            model: least SSIM and PSNR.
        """
        by_ssim = (1 - self.ssim(changed)) / max(1 - model.ssim, 1e-9)
        by_psnr = self.squared_error(changed) * 10 ** (model.psnr / 10)
        return torch.maximum(by_ssim, by_psnr)

    def _smooth(self, planes: Tensor) -> Tensor:
        smoothed: Tensor = self._rows @ planes @ self._columns.T
        return smoothed


def fitted_budget(
    likeness: SoftLikeness, images: Tensor, levels: Tensor, budget: Tensor, fitted: Tensor, model: Visibility
) -> Tensor:
    """The budget with as much in some cells as the likeness leaves these fields there, ``(B, 1, h, w)``.

    What :func:`monai_miadmark.budget.fit_to_likeness` finds by trying, estimated in one go.

    Args:
        likeness: of the originals.
        images: ``(B, C, h, w)`` in [0, 1], with logos.
        levels: the fields, ``(B, 1 or C, h, w)`` in [-1, 1].
        budget: ``(B, 1, h, w)``, what they were made for, fraction of the window.
        fitted: ``(B, 1, h, w)`` bool, cells that are scaled; the others keep their budget.
        model: the likeness that is asked for, and the largest amplitude.
    """
    changed = (images + levels * budget).clamp(0, 1)
    gain = likeness.cost(changed, model).clamp_min(1e-6).rsqrt().clamp(1 / MOST_GAIN, MOST_GAIN)
    return torch.where(fitted, (budget * gain[:, None, None, None]).clamp_max(model.ceiling), budget)


def away_from_logo(images: Tensor, clean: Tensor, cells: int = 2) -> Tensor:
    """Cells ``(B, 1, h, w)`` bool that are so far from all that differs between two versions of images."""
    ink = (images != clean).any(1, keepdim=True).float()
    return F.max_pool2d(ink, 2 * cells + 1, 1, cells) == 0


def _weights(counted: Tensor) -> Tensor:
    """Shares that sum to 1 over the counted cells of each image, over all where there are none."""
    counted = torch.where(counted.any((2, 3), True), counted, torch.ones_like(counted)).float()
    return counted / counted.sum((1, 2, 3), keepdim=True)

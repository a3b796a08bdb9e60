# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""What a study's marks do to a network that segments a target which no surrogate was trained on."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from monai_miadmark.evaluation.protected import display
from monai_miadmark.evaluation.segmentation import TARGETS, derive_masks, dice_row
from monai_miadmark.evaluation.study import Study

__all__ = ["segmentation_figures"]


def segmentation_figures(study: Study, segmenter: nn.Module) -> dict[str, Any]:
    """Dice coefficients of clean, protected and restored images against masks of the clean ones.

    Args:
        study: whose images, marked with the whole ensemble, are segmented; those without a target are left out.
        segmenter: display images to logits.
    """
    made = study.protected()
    masks = derive_masks(made.clean, study.dataset)
    with_target = masks.flatten(1).any(1)
    versions = {"clean": made.clean, "protected": made.protected, "restored": made.restored}
    images = {name: display(values)[with_target].to(study.device) for name, values in versions.items()}
    with torch.inference_mode():
        row = dice_row(segmenter, images, masks[with_target].to(study.device))
    return {"target": TARGETS[study.dataset], "images": int(with_target.sum()), **row}

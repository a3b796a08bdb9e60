# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""A tiny labelled image set, made in code, in the layout that training and evaluation read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("glioma", "meningioma", "no_tumor", "pituitary")


def image_set(
    folder: Path,
    name: str = "brain_mri",
    train: int = 12,
    val: int = 2,
    side: int = 32,
    classes: Sequence[str] = CLASSES,
) -> Path:
    """Write ``FOLDER/NAME/{train,val}/CLASS/*.jpg``, gray: a disk whose brightness tells the class.

    Args:
        folder: made if it is not there; returned.
        name: of the data set.
        train: images of each class.
        val: images of each class.
        side: of the images, in pixels.
        classes: names of the classes.
    """
    y, x = np.mgrid[:side, :side] / side - 0.5
    disk = np.hypot(x, y) < 0.4
    rng = np.random.default_rng(0)
    for label, kind in enumerate(classes):
        for section, count in (("train", train), ("val", val)):
            target = folder / name / section / kind
            target.mkdir(parents=True)
            for number in range(count):
                gray = disk * (60 + 50 * label + 20 * np.sin(9 * x)) + rng.normal(0, 5, (side, side))
                Image.fromarray(gray.clip(0, 255).astype(np.uint8)).save(target / f"{section}_{number:03}.jpg")
    return folder

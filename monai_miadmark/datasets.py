# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Where the training and evaluation images lie, as MONAI data lists."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

__all__ = ["DATA_ENV", "ENDINGS", "class_names", "data_list", "dataset_root"]

DATA_ENV = "MIADMARK_DATA"
"""Environment variable that names the folder with ``brain_mri``, ``fundus`` and ``skin``."""

ENDINGS = (
    *(".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".dcm"),
    *(".nii", ".nii.gz", ".mgh", ".mgz", ".nrrd", ".mha"),
)
"""What names of images end in, capitals or not; :class:`monai_miadmark.display_reader.DisplayReader` reads them."""

_TUNE_FRACTION = 0.12
"""Share of ``train`` that is kept for choosing hyper-parameters and checkpoints, never for fitting."""


def dataset_root() -> Path:
    """Folder of the image sets.

    Returns:
        ``$MIADMARK_DATA``, else ``shared/data`` beside one of the parents of the working folder or of this package.

    Raises:
        FileNotFoundError: none of these exists.
    """
    if named := os.environ.get(DATA_ENV):
        if not Path(named).is_dir():
            raise FileNotFoundError(f"{DATA_ENV} names {named}, which is not a folder")
        return Path(named)
    for start in (Path.cwd(), Path(__file__).resolve().parent):
        for parent in (start, *start.parents):
            if (found := parent / "shared" / "data").is_dir():
                return found
    raise FileNotFoundError(
        f"the image sets are absent: set {DATA_ENV} to the folder that holds brain_mri, fundus, skin"
    )


def class_names(dataset: str, root: str | os.PathLike[str] | None = None) -> list[str]:
    """Class names of ``dataset`` in label order (sorted by name).

    Raises:
        FileNotFoundError: there is no such data set.
    """
    train = (Path(root) if root else dataset_root()) / dataset / "train"
    if not train.is_dir():
        raise FileNotFoundError(f"there is no data set {dataset!r}: {train} is not a folder")
    return sorted(path.name for path in train.iterdir() if path.is_dir())


def data_list(
    dataset: str, section: str, root: str | os.PathLike[str] | None = None, limit: int | None = None
) -> list[dict[str, str | int]]:
    """List the images of a data set as MONAI dictionaries.

    Args:
        dataset: ``brain_mri``, ``fundus`` or ``skin`` (a folder ``NAME/{train,val}/CLASS/*``, of images
            that end as :data:`ENDINGS`).
        section: ``fit`` or ``tune`` (two fixed parts of ``train``: weights are fitted on one, choices are made on
            the other) or ``val`` (for reporting only).
        root: folder of the data sets; default :func:`dataset_root`.
        limit: at most so many images of each class, the first by name.

    Returns:
        ``{"image": path, "label": class index}`` sorted by class, then name.

    Raises:
        ValueError: an unknown section.
        FileNotFoundError: no image is found.
    """
    if section not in ("fit", "tune", "val"):
        raise ValueError(f"section must be fit, tune or val, not {section!r}")
    base = Path(root) if root else dataset_root()
    items: list[dict[str, str | int]] = []
    for label, name in enumerate(class_names(dataset, base)):
        folder = base / dataset / ("val" if section == "val" else "train") / name
        files = sorted(f for f in folder.glob("*") if f.name.lower().endswith(ENDINGS) and not f.name.startswith("."))
        if section != "val":
            files = [f for f in files if _is_tune(f.name) == (section == "tune")]
        items += [{"image": str(f), "label": label} for f in files[:limit]]
    if not items:
        raise FileNotFoundError(f"no images in {base / dataset} for section {section!r}")
    return items


def _is_tune(name: str) -> bool:
    """Split by a hash of the name, so that adding files never moves others from one part to the other."""
    return hashlib.sha256(name.encode()).digest()[0] < 256 * _TUNE_FRACTION

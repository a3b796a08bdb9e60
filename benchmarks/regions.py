# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""How much of the lesion the region holds, and whether the logo touches it: ``python benchmarks/regions.py``.

Lesions are the masks that :mod:`monai_miadmark.evaluation.segmentation` derives (``skin``; the optic disc in
``fundus``), and boxes that were marked by hand (``lesion_boxes.json``: brain tumors, and skin lesions too diffuse
for a derived mask). Logos are placed by the real networks; no field is made.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_miadmark.datasets import data_list
from monai_miadmark.evaluation.protected import stored_raster
from monai_miadmark.evaluation.segmentation import derive_mask
from monai_miadmark.image import StoredImage
from monai_miadmark.marker import load_marker
from monai_miadmark.marking import plan_mark
from monai_miadmark.options import ProtectOptions

BOXES = Path(__file__).with_name("lesion_boxes.json")
"""Section, data set, file name -> top, left, bottom, right in percent of the image's sides."""

MODES = {"brain_mri": "L", "fundus": "RGB", "skin": "RGB"}

Found = tuple[Path, StoredImage, NDArray[np.bool_]]


def lesions(dataset: str, section: str, source: str, limit: int | None) -> Iterator[Found]:
    """Images of a data set with their lesions: ``masks`` that are derived, or ``boxes`` that were marked."""
    marked = json.loads(BOXES.read_text()).get(section, {}).get(dataset, {}) if source == "boxes" else None
    items = [Path(str(item["image"])) for item in data_list(dataset, section)]
    if marked is not None:
        items = [path for path in items if path.name in marked]
    for path in items[:: max(1, len(items) // limit)] if limit else items:
        image = stored_raster(path, MODES[dataset])
        if marked is None:
            lesion = derive_mask(image.values[0], dataset)
        else:
            h, w = image.values.shape[1:3]
            top, left, bottom, right = (
                round(v / 100 * n) for v, n in zip(marked[path.name], (h, w, h, w), strict=True)
            )
            lesion = np.zeros((h, w), bool)
            lesion[top:bottom, left:right] = True
        if lesion.any():
            yield path, image, lesion


def measured(dataset: str, section: str, source: str, options: ProtectOptions, limit: int | None) -> dict[str, Any]:
    """One row of the table."""
    critic = load_marker().specialist(dataset, np.zeros((1, 3, 8, 8), np.float32)).critic
    rows = []
    for _, image, lesion in lesions(dataset, section, source, limit):
        start = time.process_time()
        plan = plan_mark(image, options, critic)
        spent = time.process_time() - start
        region, logo = plan.region[0], plan.placed.logo
        ink = logo.coverage(0, *region.shape) > 0 if logo is not None else np.zeros_like(region)
        sure = float(plan.found.sure[0]) if hasattr(plan, "found") else float("nan")
        held = float((region & lesion).sum() / lesion.sum())
        rows.append((held, bool((ink & lesion).any()), float(region.mean()), sure, float(ink.mean()), spent))
    held, touched, area, sure, inked, spent = (np.array(column, float) for column in zip(*rows, strict=True))
    believed = sure >= 0.5
    return {
        "set": f"{dataset} {section} {source}",
        "images": len(rows),
        "held": float(held.mean()),
        "nine tenths held": float((held >= 0.9).mean()),
        "logo touches": float(touched.mean()),
        "area": float(area.mean()),
        "area 90 %": float(np.quantile(area, 0.9)),
        "no logo": float((inked == 0).mean()),
        "sure": float(believed.mean()),
        "nine tenths held where sure": float((held[believed] >= 0.9).mean()) if believed.any() else float("nan"),
        "CPU seconds": float(np.median(spent)),
    }


def main() -> None:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--section", choices=("tune", "val"), default="tune")
    parser.add_argument("--preset", default="standard")
    parser.add_argument("--limit", type=int, help="about so many images of each set")
    parser.add_argument("sets", nargs="*", default=["skin:masks", "brain_mri:boxes", "skin:boxes", "fundus:masks"])
    arguments = parser.parse_args()
    for number, name in enumerate(arguments.sets):
        dataset, source = name.split(":")
        row = measured(
            dataset, arguments.section, source, ProtectOptions(arguments.preset, modality=dataset), arguments.limit
        )
        if number == 0:
            print("| " + " | ".join(row) + " |\n|" + "---|" * len(row))
        cells = (f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values())
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()

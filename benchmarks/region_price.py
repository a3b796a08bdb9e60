# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""What regions that hold lesions cost: models on the same images, marked with the former region and with today's.

``python benchmarks/region_price.py skin fast 24 densenet,mobilenet``: data set, preset, ``tune`` images, models that
the marks are made without (for ``fast``: that the generator never met). Prints right answers and the mean probability
of the right class.
"""

from __future__ import annotations

import sys
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray

from monai_miadmark import marking
from monai_miadmark.datasets import data_list
from monai_miadmark.evaluation.protected import display, stored_raster
from monai_miadmark.exact import apply_mark
from monai_miadmark.locating import SaliencyJudge, find_region
from monai_miadmark.marker import load_config, load_marker
from monai_miadmark.options import ProtectOptions
from monai_miadmark.region import Region, salient_boxes


def former(judge: SaliencyJudge, clean: NDArray[np.float32], quick: bool = False, unsure: bool = False) -> Region:
    """The box with the greatest saliency, which nobody doubted."""
    return Region.certain(salient_boxes(judge.saliency(clean, quick=quick)), "saliency")


def main(dataset: str, preset: str, count: int, names: list[str]) -> None:
    """Print a line for each model and version of the images."""
    items = data_list(dataset, "tune")
    items = items[2 :: len(items) // count][:count]
    marker = load_marker(exclude=() if preset == "fast" else tuple(names))
    members = load_config(marker.root, dataset=dataset).get_parsed_content("victims").members
    victims = {member.name: member for member in members if member.name in names}
    cases = [("former", former, None), ("today", find_region, None), ("today, 6/255", find_region, 6 / 255)]
    told: dict[tuple[str, str], list[tuple[bool, float]]] = {}
    for number, item in enumerate(items):
        image = stored_raster(str(item["image"]), marker.modes[dataset])
        latent, versions = np.random.default_rng((0, number)).bytes(32), {"clean": image.values}
        for name, find, budget in cases:
            options = ProtectOptions(preset, modality=dataset, region_budget=budget)
            with mock.patch.object(marking, "find_region", find):
                versions[name] = apply_mark(image, marking.make_mark(image, options, marker, latent))
        for name, values in versions.items():
            for victim, network in victims.items():
                with torch.inference_mode():
                    posterior = network(display(values)).softmax(1)[0]
                right = int(posterior.argmax()) == item["label"], float(posterior[int(item["label"])])
                told.setdefault((victim, name), []).append(right)
    for (victim, name), answers in sorted(told.items()):
        share, probability = np.mean(answers, axis=0)
        print(f"{dataset} {preset} {victim:12} {name:14} {share:.3f} right, {probability:.3f} for the right class")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4].split(","))

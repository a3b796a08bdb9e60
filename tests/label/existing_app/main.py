# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""An app as others have it: one trained network that segments, and no idea of protected images."""

from __future__ import annotations

import os
import tempfile
from typing import Any

import numpy as np
import torch
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from PIL import Image

from monai_miadmark.marker import bundle_root, load_config
from monai_miadmark.surrogates import Surrogate, load_weights


def segmented(path: str) -> np.ndarray:
    """What the bundle's segmenter of heads says, ``(128, 128)`` float32."""
    root = bundle_root()
    network = load_config(root).get_parsed_content("segmenter_def")
    surrogate = Surrogate(load_weights(network, root / "models" / "brain_mri_segmenter.pt"), "segmenter").eval()
    pixels = np.asarray(Image.open(path).convert("L"), np.float32)[None, None] / 255
    with torch.inference_mode():
        return surrogate(torch.from_numpy(pixels))[0, 0].sigmoid().numpy()


class SegmentHead(InferTask):
    def __init__(self) -> None:
        super().__init__(InferType.SEGMENTATION, ["head"], 2, "Segments the head")

    def is_valid(self) -> bool:
        return True

    def __call__(self, request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        descriptor, name = tempfile.mkstemp(suffix=".png")
        os.close(descriptor)
        Image.fromarray(np.rint(segmented(request["image"]) * 255).astype(np.uint8)).save(name)
        return name, {"label_names": {"head": 1}}


class ExistingApp(MONAILabelApp):
    def init_infers(self) -> dict[str, InferTask]:
        return {"segment_head": SegmentHead()}

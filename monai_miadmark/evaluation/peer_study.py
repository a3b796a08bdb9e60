# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Peers on the images of a study, with the same surrogates, at the PSNR that the study's own marks have."""

from __future__ import annotations

from typing import Any

import numpy as np

from monai_miadmark.datasets import data_list
from monai_miadmark.evaluation.peers import PEERS, Peer
from monai_miadmark.evaluation.protected import ProtectedSet, display, stored_raster
from monai_miadmark.evaluation.study import Study, accuracy
from monai_miadmark.marker import load_marker
from monai_miadmark.marking import Marker

__all__ = ["peer_rows"]

_FITTED = 24
"""Images of each class that a universal perturbation is fitted on."""


def peer_rows(study: Study) -> list[dict[str, Any]]:
    """Rows of every model in the black box against this package and every peer, with PSNR and SSIM outside logos."""
    rows = []
    for name in study.black_box_names:
        own = study.protected((name,))
        rows.append(_row(study, name, "MIAD-MARK", own))
        psnr = own.figures()["psnr_outside_logo"] or 0.0
        for method, peer in PEERS.items():
            rows.append(_row(study, name, method, _peer_study(study, method, peer, psnr).protected((name,))))
    return rows


def _peer_study(study: Study, method: str, peer: Peer, psnr: float) -> Study:
    """The same images under a peer's marker."""

    def make_marker(exclude: tuple[str, ...]) -> Marker:
        # The modality is named: no image has to be looked at.
        nothing = np.zeros((1, 1, 8, 8), np.float32)
        specialist = load_marker(study.root, study.device, exclude).specialist(study.dataset, nothing)
        items = data_list(study.dataset, "fit", limit=_FITTED) if peer.fits else study.items[:1]
        samples = np.concatenate([stored_raster(str(item["image"]), study.mode).values for item in items])
        return peer.marker(specialist, display(samples).to(study.device))

    return Study(
        study.root,
        study.dataset,
        peer.options(study.dataset, round(psnr, 2)),
        study.section,
        study.limit,
        study.part,
        study.seed,
        cache=study.cache,
        device=study.device,
        make_marker=make_marker,
        variant=method.replace(" ", "-"),
    )


def _row(study: Study, victim: str, method: str, made: ProtectedSet) -> dict[str, Any]:
    figures = made.figures()
    return {
        "dataset": study.dataset,
        "setting": "black box",
        "victim": victim,
        "remover": "",
        "method": method,
        "images": len(made),
        "clean": accuracy(study.victims[victim], made.clean, made.labels),
        "protected": accuracy(study.victims[victim], made.protected, made.labels),
        "psnr": figures["psnr_outside_logo"],
        "ssim": figures["ssim_outside_logo"],
        "seconds": figures["seconds_per_image"],
    }

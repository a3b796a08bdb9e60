# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""What an ensemble is said to make of images, against what its members answer one by one."""

from __future__ import annotations

import networks
import numpy as np
import pytest
import torch
from doubles import NoiseMarker

from monai_miadmark.marker import EnsembleMarker
from monai_miadmark.opinions import opinion, predicted


@pytest.mark.parametrize(("count", "channels"), [(1, 1), (11, 1), (2, 3), (1, 4)])
def test_is_the_mean_of_all_answers(count: int, channels: int) -> None:
    ensemble = networks.ensemble(3)
    clean = networks.pictures(count, channels=channels)
    marked = np.asarray(1 - clean, np.float32)
    before, after, kept = [], [], []
    for member in ensemble.members:
        for slice_before, slice_after in zip(clean, marked, strict=True):
            answers = []
            for plane in (slice_before, slice_after):
                x = plane if channels == 3 else np.repeat(plane.mean(0, keepdims=True), 3, 0)
                with torch.inference_mode():
                    answers.append(member(torch.from_numpy(x[None])).softmax(1)[0].numpy())
            label = answers[0].argmax()
            before.append(answers[0][label])
            after.append(answers[1][label])
            kept.append(answers[1].argmax() == label)
    found = opinion(ensemble, clean, marked)
    assert found == pytest.approx((np.mean(before), np.mean(after), np.mean(kept)), abs=1e-5)
    same = opinion(ensemble, clean, clean)
    assert same.before == same.after and same.kept == 1


def test_what_cannot_be_compared_is_refused() -> None:
    clean = networks.pictures(2)
    for marked in (clean[:1], clean[:, :, :-1]):
        with pytest.raises(ValueError, match="one shape"):
            opinion(networks.ensemble(1), clean, marked)
    with pytest.raises(ValueError, match="one shape"):
        opinion(networks.ensemble(1), clean[:0], clean[:0])


def test_only_markers_with_an_ensemble_are_asked() -> None:
    clean = networks.pictures(1)
    ensemble = networks.ensemble(2)
    assert predicted(NoiseMarker(), "auto", clean, clean) is None
    assert predicted(EnsembleMarker(None, ensemble), "auto", clean, 1 - clean) == opinion(ensemble, clean, 1 - clean)

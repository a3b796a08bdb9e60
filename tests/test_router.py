# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The network that tells what modality an image is of."""

from __future__ import annotations

import pytest
import torch
from bundle_copies import BUNDLE, MODALITIES
from torch import nn

from monai_miadmark.marker import load_config
from monai_miadmark.router import ModalityRouter


@pytest.fixture(scope="module")
def router() -> ModalityRouter:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ModalityRouter(["a", "b", "c"]).eval()


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [(32, 32), (9, 40), (300, 200)])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_logit_for_each_modality(router: ModalityRouter, channels: int, size: tuple[int, int]) -> None:
    with torch.inference_mode():
        logits = router(noise(2, channels, *size))
    assert logits.shape == (2, 3) and logits.isfinite().all()


def test_gray_images_are_colored_ones_of_equal_planes(router: ModalityRouter) -> None:
    gray = noise(1, 1, 40, 40)
    with torch.inference_mode():
        assert torch.allclose(router(gray), router(gray.repeat(1, 3, 1, 1)), atol=1e-6)


def test_thumbnails_are_antialiased(router: ModalityRouter) -> None:
    """Fine noise is gone from a thumbnail: the answer is that for gray."""
    checks = (torch.arange(256)[:, None] + torch.arange(256)) % 2
    with torch.inference_mode():
        got, gray = router(checks[None, None].float()), router(torch.full((1, 1, 32, 32), 0.5))
    assert torch.allclose(got, gray, atol=0.05)


def test_learns(router: ModalityRouter) -> None:
    """Three colors are three modalities after some steps."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = ModalityRouter(["a", "b", "c"], side=16)
        optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
        labels = torch.arange(3).repeat(4)
        images = torch.eye(3)[labels][:, :, None, None] * 0.5 + 0.3 * noise(12, 3, 20, 20)
        for _ in range(30):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images), labels).backward()
            optimizer.step()
    with torch.inference_mode():
        assert torch.equal(network.eval()(images).argmax(1), labels)


def test_the_bundles_router_knows_its_modalities_and_is_small() -> None:
    network = load_config(BUNDLE).get_parsed_content("router_def")
    assert isinstance(network, ModalityRouter) and network.names == MODALITIES and network.side == 32
    assert sum(p.numel() for p in network.parameters()) < 20_000

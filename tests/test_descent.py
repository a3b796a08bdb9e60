# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The direction that surrogates tell a generator."""

from __future__ import annotations

import pytest
import torch
from networks import SIDE, ensemble, pictures
from torch import nn
from torch.nn import functional as F

from monai_miadmark.descent import descent_direction, folded, guides_among
from monai_miadmark.surrogates import Surrogate, attack_margin, to_square


@pytest.mark.parametrize("channels", [1, 3])
def test_margins_fall_along_it(channels: int) -> None:
    images, group = torch.from_numpy(pictures(4, 32, 32, channels)), ensemble(1)
    guides = guides_among(group)
    direction = descent_direction(guides, images)
    assert direction.shape == images.shape and not direction.requires_grad
    torch.testing.assert_close(direction.abs().mean((1, 2, 3)), torch.ones(4))

    seen = images.expand(-1, 3, -1, -1)
    posterior = F.softmax(guides[0](seen), 1)

    def after(step: float) -> torch.Tensor:
        return attack_margin(guides[0](seen + step * direction.sign()), posterior)

    assert (after(2 / 255) < after(0)).all() and (after(0) < after(-2 / 255)).all()


def test_every_surrogate_counts_alike() -> None:
    """Logits of a larger scale have larger gradients."""
    images, guides = torch.from_numpy(pictures(2, 32, 32)), guides_among(ensemble(2))
    alone = [descent_direction([guide], images) for guide in guides]
    torch.testing.assert_close(descent_direction(guides, images), alone[0] + alone[1])


def test_large_images_are_asked_about_at_the_size_of_the_guides() -> None:
    images, guides = torch.from_numpy(pictures(2, 96, 64)), guides_among(ensemble(2))
    direction = descent_direction(guides, images)
    assert direction.shape == images.shape
    small = descent_direction(guides, to_square(images, SIDE))
    torch.testing.assert_close(F.interpolate(small, (96, 64), mode="bilinear"), direction)


def test_an_image_does_not_depend_on_its_neighbors() -> None:
    images, guides = torch.from_numpy(pictures(3, 32, 32)), guides_among(ensemble(2))
    torch.testing.assert_close(descent_direction(guides, images)[1:2], descent_direction(guides, images[1:2]))


def test_within_an_evaluation_without_gradients() -> None:
    images, guides = torch.from_numpy(pictures(2, 32, 32)), guides_among(ensemble(2))
    expected = descent_direction(guides, images)
    with torch.inference_mode():
        torch.testing.assert_close(descent_direction(guides, images.clone()), expected)


def test_without_surrogates_there_is_none() -> None:
    images = torch.from_numpy(pictures(2))
    assert torch.equal(descent_direction([], images), torch.zeros_like(images))


def test_guides_go_by_name() -> None:
    group = ensemble(4)
    members = list(group.members)
    assert guides_among(group, ["tiny3", "tiny1", "unknown"]) == [members[1], members[3]]
    assert guides_among(group) == guides_among(group, ["unknown"]) == members[:2]
    assert len(guides_among(ensemble(1))) == 1


def test_folded_surrogates_say_the_same() -> None:
    images, whole = torch.from_numpy(pictures(2, 32, 32)), guides_among(ensemble(1))[0]
    for layer in whole.modules():
        if isinstance(layer, nn.BatchNorm2d):  # as training leaves them
            layer.running_mean += 0.3
            layer.running_var *= 2
    with torch.inference_mode():  # a caller's
        state, quick = torch.get_rng_state(), folded(whole)
    assert torch.equal(state, torch.get_rng_state())
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in quick.modules())
    assert any(isinstance(layer, nn.BatchNorm2d) for layer in whole.modules())
    torch.testing.assert_close(quick(images), whole(images), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        descent_direction([quick], images), descent_direction([whole], images), rtol=1e-3, atol=1e-3
    )


def test_what_cannot_be_folded_stays() -> None:
    """One convolution in front of two normalizations: folding the first into it would change what the second sees."""

    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.one, self.two = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)
            self.two.running_mean += 1

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            return (self.one(y) - 2 * self.two(y)).mean((2, 3))

    whole = Surrogate(Fork(), "fork", 16).eval().requires_grad_(False)
    kept = folded(whole)
    torch.testing.assert_close(kept(torch.ones(1, 3, 16, 16)), whole(torch.ones(1, 3, 16, 16)))

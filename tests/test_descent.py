# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The direction that surrogates tell a generator."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from networks import SIDE, classifier, ensemble, pictures
from torch import nn
from torch.nn import functional as F

from monai_miadmark.descent import Guides, descent_direction, folded, guides_among
from monai_miadmark.surrogates import Surrogate, SurrogateEnsemble, attack_margin, to_square


def surrogates(count: int) -> list[Surrogate]:
    """Members of an ensemble of so many."""
    return list(ensemble(count).members)  # type: ignore[arg-type]


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
    images, guides = torch.from_numpy(pictures(2, 32, 32)), surrogates(2)
    alone = [descent_direction([guide], images) for guide in guides]
    torch.testing.assert_close(descent_direction(guides, images), alone[0] + alone[1])


def test_large_images_are_asked_about_at_the_size_of_the_guides() -> None:
    images, guides = torch.from_numpy(pictures(2, 96, 64)), surrogates(2)
    direction = descent_direction(guides, images)
    assert direction.shape == images.shape
    small = descent_direction(guides, to_square(images, SIDE))
    torch.testing.assert_close(F.interpolate(small, (96, 64), mode="bilinear"), direction)


def test_an_image_does_not_depend_on_its_neighbors() -> None:
    images, guides = torch.from_numpy(pictures(3, 32, 32)), surrogates(2)
    torch.testing.assert_close(descent_direction(guides, images)[1:2], descent_direction(guides, images[1:2]))


def test_within_an_evaluation_without_gradients() -> None:
    images, guides = torch.from_numpy(pictures(2, 32, 32)), surrogates(2)
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
    assert guides_among(group) == guides_among(group, ["unknown"]) == members[:1]
    withstanding = Surrogate(classifier(7), "tiny1_robust", SIDE)
    both = SurrogateEnsemble(surrogates(2), [withstanding])
    assert guides_among(both) == guides_among(both, ["tiny1_robust"]) == [withstanding]


class TestGuides:
    @pytest.mark.parametrize("channels", [1, 2, 3, 4])
    def test_tell_the_direction(self, channels: int) -> None:
        images = pictures(9, 32, 32, channels)
        told = Guides(surrogates(2)).directions(images)
        x = torch.from_numpy(images)
        expected = descent_direction(surrogates(2), x if channels in (1, 3) else x.mean(1, True))
        np.testing.assert_allclose(told, expected.numpy(), rtol=1e-3, atol=1e-3)

    def test_are_asked_once_about_the_same(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = []
        forward = Surrogate.forward
        monkeypatch.setattr(Surrogate, "forward", lambda self, x: asked.append(len(x)) or forward(self, x))
        guides, images = Guides(surrogates(1)), pictures(2, 32, 32)
        first = guides.directions(images)
        asked.clear()
        assert guides.directions(images.copy()) is first and not asked
        other = images + np.float32(1e-6)
        assert guides.directions(other) is not first and asked == [2]
        # The same bytes in another shape are another question.
        assert guides.directions(images.reshape(1, 2, 32, 32)).shape == (1, 1, 32, 32)

    def test_images_do_not_travel_with_them(self) -> None:
        guides, images = Guides(surrogates(1)), pictures(1, 32, 32)
        first = guides.directions(images)
        copied = pickle.loads(pickle.dumps(guides))
        assert copied._last is None and guides.directions(images) is first
        np.testing.assert_allclose(copied.directions(images), first, rtol=1e-4, atol=1e-5)

    def test_large_images_stay_small(self) -> None:
        assert Guides(surrogates(1)).directions(pictures(1, 96, 64)).shape == (1, 1, SIDE, SIDE)

    def test_somebody_is_asked(self) -> None:
        with pytest.raises(ValueError, match="somebody"):
            Guides([])

    def test_repr_tells_who(self) -> None:
        assert repr(Guides(surrogates(2))) == "Guides(['tiny0', 'tiny1'], device='cpu')"


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

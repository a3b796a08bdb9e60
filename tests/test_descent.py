# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The direction that surrogates tell a generator."""

from __future__ import annotations

import pickle
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from networks import SIDE, classifier, ensemble, pictures
from torch import nn
from torch.nn import functional as F

from monai_miadmark.descent import Guides, descent_direction, folded, guides_among
from monai_miadmark.generator import led_field, to_mean_one
from monai_miadmark.surrogates import Surrogate, SurrogateEnsemble, attack_margin, to_square


def surrogates(count: int) -> list[Surrogate]:
    """Members of an ensemble of so many."""
    return list(ensemble(count).members)  # type: ignore[arg-type]


def asked(guides: Sequence[Surrogate], images: torch.Tensor, amplitude: float = 8 / 255) -> torch.Tensor:
    """What guides say of images without logos."""
    return descent_direction(guides, images, images, torch.full_like(images[:, :1], amplitude))


@pytest.mark.parametrize("channels", [1, 3])
def test_margins_fall_along_it(channels: int) -> None:
    images, group = torch.from_numpy(pictures(4, 32, 32, channels)), ensemble(1)
    guides = guides_among(group)
    direction = asked(guides, images)
    assert direction.shape == images.shape and not direction.requires_grad
    torch.testing.assert_close(direction.abs().mean((1, 2, 3)), torch.ones(4))

    seen = images.expand(-1, 3, -1, -1)
    posterior = F.softmax(guides[0](seen), 1)

    def after(step: float) -> torch.Tensor:
        return attack_margin(guides[0](seen + step * direction.sign()), posterior)

    assert (after(2 / 255) < after(0)).all() and (after(0) < after(-2 / 255)).all()


def test_each_is_asked_where_those_before_it_lead() -> None:
    """The gradient is another one there, and the classes to leave are those that the first one sees."""
    images, (first, second) = torch.from_numpy(pictures(2, 32, 32)), surrogates(2)
    budget = torch.full_like(images, 40 / 255)
    logos = (images + 0.1).clamp(0, 1)
    told = asked([first], images)
    there = (logos + 0.6 * budget * led_field(told)).clamp(0, 1).requires_grad_()
    margins = attack_margin(second(there), F.softmax(first(images), 1))
    (gradient,) = torch.autograd.grad(margins.sum(), there)
    found = descent_direction([first, second], images, logos, budget)
    torch.testing.assert_close(found, told - to_mean_one(gradient), rtol=1e-3, atol=1e-4)
    # Without an amplitude there is nowhere to lead.
    still = descent_direction([first, first], images, images, torch.zeros_like(budget))
    torch.testing.assert_close(still, 2 * told, rtol=1e-3, atol=1e-4)


def test_a_second_gradient_misleads_further() -> None:
    """More margin is lost by the sum of two than by the first alone, by the same guide at the same amplitude."""
    images, (guide,) = torch.from_numpy(pictures(8, 32, 32)), surrogates(1)
    posterior, amplitude = F.softmax(guide(images), 1), 32 / 255

    def left(direction: torch.Tensor) -> torch.Tensor:
        return attack_margin(guide((images + amplitude * direction.sign()).clamp(0, 1)), posterior).mean()

    assert left(asked([guide, guide], images, amplitude)) < left(asked([guide], images, amplitude))


def test_large_images_are_asked_about_at_the_size_of_the_guides() -> None:
    images, guides = torch.from_numpy(pictures(2, 96, 64)), surrogates(2)
    direction = asked(guides, images)
    assert direction.shape == images.shape
    small = asked(guides, to_square(images, SIDE))
    torch.testing.assert_close(F.interpolate(small, (96, 64), mode="bilinear"), direction, rtol=1e-3, atol=1e-4)


def test_an_image_does_not_depend_on_its_neighbors() -> None:
    images, guides = torch.from_numpy(pictures(3, 32, 32)), surrogates(2)
    torch.testing.assert_close(asked(guides, images)[1:2], asked(guides, images[1:2]), rtol=1e-4, atol=1e-5)


def test_within_an_evaluation_without_gradients() -> None:
    images, guides = torch.from_numpy(pictures(2, 32, 32)), surrogates(2)
    expected = asked(guides, images)
    with torch.inference_mode():
        torch.testing.assert_close(asked(guides, images.clone()), expected)


def test_without_surrogates_there_is_none() -> None:
    images = torch.from_numpy(pictures(2))
    assert torch.equal(asked([], images), torch.zeros_like(images))


def test_guides_go_by_name() -> None:
    group = ensemble(4)
    members = list(group.members)
    assert guides_among(group, ["tiny3", "tiny1", "unknown"]) == [members[3], members[1]]
    assert guides_among(group) == guides_among(group, ["unknown"]) == members[:1]
    withstanding = Surrogate(classifier(7), "tiny1_robust", SIDE)
    both = SurrogateEnsemble(surrogates(2), [withstanding])
    assert guides_among(both) == guides_among(both, ["tiny1_robust"]) == [withstanding]
    aside = Surrogate(classifier(8), "aside", SIDE)
    three = SurrogateEnsemble(surrogates(2), [withstanding], [aside])
    assert guides_among(three) == [withstanding] and guides_among(three, ["aside", "tiny0"])[0] is aside
    assert not aside.training and not any(p.requires_grad for p in aside.parameters())


class TestGuides:
    @pytest.mark.parametrize("channels", [1, 2, 3, 4])
    def test_tell_the_direction(self, channels: int) -> None:
        images = pictures(9, 32, 32, channels)
        guides, both = Guides(surrogates(2)), surrogates(2)
        x = torch.from_numpy(images)
        x = x if channels in (1, 3) else x.mean(1, True)
        np.testing.assert_allclose(guides.directions(images), asked(both[:1], x).numpy(), rtol=1e-3, atol=1e-3)
        budget = np.full((9, 1, 32, 32), 8 / 255, np.float32)
        logos = np.clip(images + np.float32(0.1), 0, 1)
        seen = torch.from_numpy(logos)
        seen = seen if channels in (1, 3) else seen.mean(1, True)
        expected = descent_direction(both, x, seen, torch.from_numpy(budget)).numpy()
        np.testing.assert_allclose(guides.led(images, logos, budget), expected, rtol=1e-2, atol=2e-2)
        alone = Guides(surrogates(1))
        assert alone.led(images, images, budget) is alone.directions(images)

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
        images, guides = pictures(1, 96, 64), Guides(surrogates(2))
        assert guides.directions(images).shape == (1, 1, SIDE, SIDE)
        assert guides.led(images, images, np.full((1, 1, 96, 64), 0.1, np.float32)).shape == (1, 1, SIDE, SIDE)

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
    torch.testing.assert_close(asked([quick], images), asked([whole], images), rtol=1e-3, atol=1e-3)


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

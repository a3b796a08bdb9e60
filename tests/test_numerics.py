# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Marks are the same whatever a program around them has told PyTorch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bundle_copies import tiny_bundle
from doubles import BLUNT, NoiseMarker
from monai.data import MetaTensor
from networks import SIDE, classifier, ensemble, flat_budget, generator, pictures
from numpy.typing import NDArray

from monai_miadmark.critic import EnsembleCritic
from monai_miadmark.descent import Guides
from monai_miadmark.gradient_steps import GradientPerturber
from monai_miadmark.marker import load_marker
from monai_miadmark.numerics import building_networks, own_numerics
from monai_miadmark.opinions import opinion
from monai_miadmark.options import PRESETS
from monai_miadmark.perturbers import GeneratorPerturber
from monai_miadmark.surrogates import Surrogate
from monai_miadmark.transforms import ProtectWithMIADMark, RemoveMIADMark

LATENT = b"a" * 32


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def default_device() -> Iterator[None]:
    """Tensors without values, as good as any other device that is not the CPU."""
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def everything() -> Iterator[None]:
    with default_dtype(torch.float64), deterministic(), default_device(), torch.autocast("cpu", torch.bfloat16):
        with torch.inference_mode():
            yield


SURROUNDINGS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "half": lambda: torch.autocast("cpu", torch.float16),
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "inference_mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "deterministic": deterministic,
    "default_device": default_device,
    "everything": everything,
}


Work = Callable[[], NDArray[np.float32]]


def by_steps() -> Work:
    images, perturber = pictures(), GradientPerturber(ensemble(), 4, persistence=1)
    return lambda: perturber.perturb(images, images, flat_budget(), LATENT)


def by_generator() -> Work:
    guides = Guides([Surrogate(classifier(i), f"tiny{i}", SIDE) for i in range(2)])
    images, perturber = pictures(channels=3), GeneratorPerturber(generator()).guided_by(guides)
    return lambda: perturber.perturb(images, images, flat_budget(), LATENT)


def saliency() -> Work:
    critic = EnsembleCritic(ensemble())
    return lambda: np.concatenate([critic.saliency(pictures()), critic.saliency(pictures(), quick=True)])


def effect() -> Work:
    images, critic = pictures(4, channels=3), EnsembleCritic(ensemble())
    return lambda: critic.effect(images, images[2:])


def told() -> Work:
    images, asked = pictures(4), ensemble()
    return lambda: np.asarray(opinion(asked, images[:2], images[2:]), np.float32)


@pytest.mark.parametrize("name", SURROUNDINGS)
@pytest.mark.parametrize("make", [by_steps, by_generator, saliency, effect, told], ids=lambda make: make.__name__)
def test_networks_say_the_same(make: Callable[[], Work], name: str) -> None:
    expected, work = make()(), make()
    with SURROUNDINGS[name]():
        found = work()
    assert np.array_equal(found, expected)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("bundle"), weights=True)


def asked(root: Path) -> list[NDArray[Any]]:
    """What networks say that are loaded where they are asked: the generator with its guides, and all surrogates."""
    images, specialist = pictures(1), load_marker(root, "cpu").specialist("auto", pictures(1))
    field = specialist.perturber(PRESETS["fast"]).perturb(images, images, flat_budget(1), LATENT)
    return [field, specialist.critic.saliency(images)]


@pytest.fixture(scope="module")
def expected(root: Path) -> list[NDArray[Any]]:
    return asked(root)


@pytest.mark.parametrize("name", ["autocast", "bfloat16", "inference_mode", "default_device", "everything"])
def test_markers_may_be_loaded_anywhere(name: str, root: Path, expected: list[NDArray[Any]]) -> None:
    with SURROUNDINGS[name]():
        found = asked(root)
    assert all(map(np.array_equal, found, expected))


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_transforms_protect_and_restore(name: str, keys: Path) -> None:
    original = (80 + 60 * np.random.default_rng(0).random((1, 40, 36))).astype(np.float32)
    tensor = torch.from_numpy(original)
    images = original, tensor, MetaTensor(tensor)
    with SURROUNDINGS[name]():
        protect = ProtectWithMIADMark(keys / "alice.pub", preset=BLUNT, marker=NoiseMarker())
        for image in images:
            protected = protect(image)
            assert protected.dtype == torch.float32 and protected.device.type == "cpu"
            restored = RemoveMIADMark(keys / "alice.key")(protected)
            assert np.array_equal(restored.numpy(), original)


def test_what_was_set_is_set_again() -> None:
    def state() -> list[Any]:
        return [
            torch.get_default_dtype(),
            torch.get_default_device(),
            torch.are_deterministic_algorithms_enabled(),
            torch.is_autocast_enabled("cpu"),
            torch.is_inference_mode_enabled(),
        ]

    with everything():
        before = state()
        with building_networks():
            with building_networks():
                assert state()[:2] == [torch.float32, torch.device("cpu")] and state()[3:] == [False, False]
            assert torch.get_default_dtype() == torch.float32
        assert state() == before
        with pytest.raises(ZeroDivisionError), own_numerics():
            raise ZeroDivisionError
        assert state() == before


def test_threads_that_build_networks_wait_for_the_last_one() -> None:
    inside, leave, seen = threading.Event(), threading.Event(), []

    def first() -> None:
        with building_networks():
            inside.set()
            leave.wait(10)
            seen.append(torch.get_default_dtype())

    with default_dtype(torch.float64):
        thread = threading.Thread(target=first)
        thread.start()
        assert inside.wait(10)
        with building_networks():
            pass
        leave.set()
        thread.join()
        assert seen == [torch.float32] and torch.get_default_dtype() == torch.float64

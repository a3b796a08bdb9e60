# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Threads of a stack: order, errors, how many, and that marks do not depend on them."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from networks import ensemble, flat_budget, generator, pictures
from threadpoolctl import threadpool_info

from monai_miadmark import stacks
from monai_miadmark.appearance import Appearance
from monai_miadmark.budget import Visibility, fit_to_likeness, likeness_budget
from monai_miadmark.critic import EnsembleCritic
from monai_miadmark.gradient_steps import GradientPerturber
from monai_miadmark.perturbers import GeneratorPerturber
from monai_miadmark.threads import in_threads, usable_threads


@pytest.mark.parametrize(("said", "count"), [("3", 3), ("4,2", 4), (" 2 ", 2)])
def test_the_environment_says_how_many(said: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert usable_threads() == count


@pytest.mark.parametrize("said", ["", "0", "many"])
def test_else_there_are_as_many_as_cores(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    count = usable_threads()
    assert count >= 1
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert usable_threads() == count


@pytest.mark.parametrize(("threads", "items", "started"), [(1, 5, 0), (4, 1, 0), (2, 5, 2), (8, 3, 3), (2, 0, 0)])
def test_results_come_in_order(threads: int, items: int, started: int) -> None:
    names, prepared = set(), []
    together = threading.Barrier(started) if started else None

    def work(item: int) -> int:
        if together is not None and item < started:
            together.wait(30)  # only passed if so many run at a time
        names.add(threading.current_thread().name)
        return item * item

    assert list(in_threads(work, range(items), threads, lambda: prepared.append(1))) == [n * n for n in range(items)]
    assert len(prepared) == started
    assert (threading.current_thread().name in names) == (items > 0 and not started)


def test_blas_has_one_thread_meanwhile() -> None:
    def blas(_: int = 0) -> list[int]:
        return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]

    before = blas()
    assert before, "NumPy has a BLAS"
    assert all(threads == 1 for found in in_threads(blas, range(4), 2) for threads in found)
    assert blas() == before


def test_an_error_ends_it() -> None:
    begun = []

    def work(item: int) -> None:
        begun.append(item)
        raise KeyError(item)

    with pytest.raises(KeyError):
        list(in_threads(work, range(1000), 2))
    assert len(begun) < 1000


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_marks_of_a_stack_do_not_depend_on_threads(threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three batches, gradients among them, inside a caller's inference mode."""
    images, budget = pictures(20), flat_budget(20)
    made = GeneratorPerturber(generator()), GradientPerturber(ensemble(), 3), EnsembleCritic(ensemble())
    none = np.zeros((20, 24, 20), bool)
    found = []
    for count in (1, 3):
        torch.set_num_threads(count)
        monkeypatch.setenv("OMP_NUM_THREADS", str(count))
        with torch.inference_mode():
            fields = [
                made[0].perturb(images, images, budget, b"k" * 32),
                made[1].perturb(images, images, budget, b"k" * 32),
                made[2].saliency(images),
            ]
        assert torch.get_num_threads() == count
        amounts = likeness_budget(images, Visibility(), none, 0, none)
        fields += [
            amounts,
            fit_to_likeness(images, Appearance(images), fields[1], amounts, Visibility(), none, 0, none),
        ]
        found.append(fields)
    for alone, beside in zip(*found, strict=True):
        np.testing.assert_allclose(alone, beside, rtol=1e-4, atol=1e-5)


def test_memory_does_not_grow_with_the_cores_of_the_machine(threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each batch has its activations: only some are worked on at a time, and share the threads that there are."""
    torch.set_num_threads(8)
    monkeypatch.setattr(stacks, "BATCH", 1)
    at_once, most, lock = set(), [0], threading.Lock()
    together = threading.Barrier(4)
    inside = generator()

    def seen(*arguments: torch.Tensor) -> torch.Tensor:
        with lock:
            at_once.add(threading.get_ident())
            most[0] = max(most[0], len(at_once))
        together.wait(30)
        assert torch.get_num_threads() == 2
        with lock:
            at_once.discard(threading.get_ident())
        together.wait(30)
        return arguments[1] * 0

    monkeypatch.setattr(inside, "forward", seen)
    GeneratorPerturber(inside).perturb(pictures(12), pictures(12), flat_budget(12), b"k" * 32)
    assert most == [4]

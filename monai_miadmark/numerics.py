# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The numerics of marking, whatever the caller has set for its own networks.

A transform runs in the middle of somebody else's program: within ``torch.autocast``, with float64 or bfloat16 as the
default type, with a default device, with deterministic algorithms demanded. Fields are made in float32 all the same.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

__all__ = ["building_networks", "loading", "own_numerics"]

_DEVICE_TYPES = ("cpu", "cuda", "mps", "xpu")


@contextmanager
def own_numerics() -> Iterator[None]:
    """Within it, as a context or a decorator, PyTorch works as it does where nobody has changed a setting.

    Autocast is off, and new tensors lie on the CPU unless a device is named. These two belong to the thread. Where
    there is an accelerator, deterministic algorithms are not demanded meanwhile: some gradients have none there, and
    PyTorch would raise. On a CPU they stay demanded. The default type stays as it is, since threads share it: whoever
    makes tensors here says of which type.
    """
    with ExitStack() as stack:
        for kind in _DEVICE_TYPES:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if torch.accelerator.is_available():
            stack.enter_context(_undemanded)
        yield


@contextmanager
def building_networks() -> Iterator[None]:
    """:func:`own_numerics` for making networks and reading their weights: float32, and ready for gradients.

    Random weights leave no trace in PyTorch's generator. Parameters are no inference tensors, which could not take part
    in gradients later.
    """
    with own_numerics(), torch.inference_mode(False), torch.random.fork_rng(devices=[]), _float32:
        yield


class _Loading:
    """A lock that may be taken again by who has it, and that is free in forked children whoever had it."""

    def __init__(self) -> None:
        self._renew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


loading = _Loading()
"""Taken where networks are loaded when they are first needed: threads that need the same ones wait for the first."""


class _ForAll:
    """A setting that all threads share, changed while at least one of them is within and put back by the last one."""

    def __init__(self) -> None:
        self._lock, self._within = threading.Lock(), 0

    def __enter__(self) -> None:
        with self._lock:
            self._within += 1
            if self._within == 1:
                self._change()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._within -= 1
            if self._within == 0:
                self._restore()

    def _change(self) -> None:
        raise NotImplementedError

    def _restore(self) -> None:
        raise NotImplementedError


class _Undemanded(_ForAll):
    """Deterministic algorithms are not demanded."""

    def _change(self) -> None:
        self._before = (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        )
        if self._before[0]:
            torch.use_deterministic_algorithms(False)

    def _restore(self) -> None:
        demanded, warn_only = self._before
        if demanded:
            torch.use_deterministic_algorithms(True, warn_only=warn_only)


class _Float32(_ForAll):
    """float32 is the default type."""

    def _change(self) -> None:
        self._before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)

    def _restore(self) -> None:
        torch.set_default_dtype(self._before)


_undemanded, _float32 = _Undemanded(), _Float32()

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Stacks of slices in front of networks: batches, several at a time on a CPU, as tensors with three channels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from monai_miadmark.threads import in_threads

__all__ = ["BATCH", "as_tensor", "batch_size", "batches", "beside_each_other", "one_or_three", "three_channels"]

T = TypeVar("T")

BATCH = 8
"""Slices handled at once on a CPU: caches stay warm, and memory stays bounded for long stacks."""

_MOST = 128
_SLICE_BYTES = 1 << 28
"""Memory for a slice with the gradients of a step, generously."""

_BESIDE = 4
"""Batches at a time, at most: each has its activations in memory, and machines may have very many cores."""


def batch_size(device: torch.device) -> int:
    """Slices handled at once on a device: a GPU has use for more of them than a CPU, as far as its memory goes.

    It is the same on every call, since random draws are made for each batch.
    """
    if device.type != "cuda":
        return BATCH
    return batch_for(torch.cuda.get_device_properties(device).total_memory)


def batch_for(memory: int) -> int:
    """Slices that half of a GPU's memory of so many bytes has room for, a power of two from ``BATCH`` to 128."""
    room = max(BATCH, min(_MOST, memory // 2 // _SLICE_BYTES))
    return 1 << (int(room).bit_length() - 1)


def batches(count: int, device: torch.device) -> Iterator[slice]:
    """Slices of at most :func:`batch_size` that cover ``count``."""
    size = batch_size(device)
    return (slice(i, min(i + size, count)) for i in range(0, count, size))


def beside_each_other(work: Callable[[slice], T], count: int, device: torch.device) -> Iterator[T]:
    """Results for the batches of a stack, in their order; on a CPU several batches at a time.

    Small convolutions share a second core badly: two batches with a thread each take about half of the time of one
    batch after the other with two.
    """
    parts = list(batches(count, device))
    threads = torch.get_num_threads()
    workers = min(threads, len(parts), _BESIDE) if device.type == "cpu" else 1
    try:
        # What a thread is told here holds for that thread, but for MKL, which is told anew afterwards.
        yield from in_threads(work, parts, workers, lambda: torch.set_num_threads(threads // workers))
    finally:
        if workers > 1:
            torch.set_num_threads(threads)


def as_tensor(array: NDArray[np.float32], device: torch.device) -> Tensor:
    """The array as a tensor on a device."""
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)


def one_or_three(images: Tensor) -> Tensor:
    """Gray or color as it is, ``(B, 1 or 3, h, w)``; two or four channels averaged."""
    return images if images.shape[1] in (1, 3) else images.mean(1, keepdim=True)


def three_channels(images: Tensor) -> Tensor:
    """Three channels for the networks: gray repeated, two or four channels averaged first."""
    return images if images.shape[1] == 3 else images.mean(1, keepdim=True).expand(-1, 3, -1, -1)

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Parts of a stack beside each other, in threads of this process, and BLAS without threads of its own.

PyTorch and Zstandard let go of the interpreter while they work. Threads that each have slices of their own wait for
each other far less than threads that share the small arrays of one slice. NumPy lets go of it too, but for so short a
time with planes of 256 x 256 cells that threads would only wait for each other: such work is done slice after slice.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import TypeVar

from threadpoolctl import ThreadpoolController

__all__ = ["in_threads", "single_blas_thread", "usable_threads"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def usable_threads() -> int:
    """Threads that this process may use: what ``OMP_NUM_THREADS`` says, else the cores it may run on; at least 1."""
    said = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if said.isdecimal() and int(said) > 0:
        return int(said)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_threads(
    work: Callable[[_Item], _Result],
    items: Sequence[_Item],
    threads: int,
    prepare: Callable[[], object] | None = None,
) -> Iterator[_Result]:
    """Results of some work, in the order of the items; BLAS has one thread while several of these run.

    (Its threads would be as many for each of ours, and they spin while they wait for each other.)

    Args:
        work: is called for each item once; calls must not depend on each other.
        items: what there is to do.
        threads: at most so many at a time; with 1, or a single item, no thread is started.
        prepare: called first in each thread that is started.

    Raises:
        whatever ``work`` raises; what has not been begun is not done then.
    """
    if min(threads, len(items)) < 2:
        yield from map(work, items)
        return
    with single_blas_thread():
        pool = ThreadPoolExecutor(min(threads, len(items)), "slices", prepare)
        try:
            yield from pool.map(work, items)
        finally:
            pool.shutdown(cancel_futures=True)


def single_blas_thread() -> AbstractContextManager[object]:
    """Small matrix products on one thread: with more they spend their time on waking each other."""
    limiter: AbstractContextManager[object] = _libraries().limit(limits=1, user_api="blas")
    return limiter


@lru_cache(maxsize=1)
def _libraries() -> ThreadpoolController:
    """The libraries with threads of their own that are loaded; to look for them takes milliseconds."""
    return ThreadpoolController()

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""``--dry-run``: what a job would do, without networks and without a file."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Collection
from pathlib import Path

from monai_miadmark import files
from monai_miadmark.batch import Plan, Report
from monai_miadmark.tasks import Failure, Job, ProtectTask, Task

__all__ = ["rehearse"]


def rehearse(planned: Plan, task: Task, skip: Collection[str], failed: Callable[[Failure], None]) -> Report:
    """Go through a plan: what is to be protected is opened and checked, all else is done in memory.

    Args:
        planned: the plan.
        task: what would be done with each file.
        skip: kinds of errors with which files are left out.
        failed: is told of each file that would not be done.

    Returns:
        What would become of the files; ``done`` are those that would be.

    Raises:
        UnfitError: the task cannot be done at all.
    """
    report = Report()
    start = time.monotonic()
    work = _checked(task) if isinstance(task, ProtectTask) else _made(task)

    def lost(failure: Failure) -> None:
        (report.skipped if failure.kind in skip else report.failures).append(failure)
        failed(failure)

    for failure in planned.failures:
        lost(failure)
    for job in planned.jobs:
        try:
            out = work(job)
        except Exception as error:  # as an engine takes it
            lost(Failure.of(job.source, error))
        else:
            report.done.append((job.source, out))
    report.seconds = time.monotonic() - start
    return report


def _checked(task: ProtectTask) -> Callable[[Job], Path]:
    """Checks of a file that is to be protected."""

    def work(job: Job) -> Path:
        return files.check_protectable(
            job.source,
            job.folder,
            task.options,
            mask=task.mask,
            record=task.record,
            overwrite=task.overwrite,
            name=job.name,
        )

    return work


def _made(task: Task) -> Callable[[Job], Path]:
    """Work in memory, and a look at the place of its result."""
    make = task.prepare()

    def work(job: Job) -> Path:
        made = make(job)
        if not made.overwrite and made.path.exists():
            raise FileExistsError(errno.EEXIST, "the output exists (--overwrite replaces it)", str(made.path))
        return made.path

    return work

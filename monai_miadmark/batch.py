# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Folders in, folders out: which files there are, where results go, and failures that do not stop the rest."""

from __future__ import annotations

import errno
import logging
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from monai_miadmark.errors import MIADMarkError
from monai_miadmark.files import SIDECAR_SUFFIX, TEMPORARY_SUFFIX

__all__ = ["BatchError", "Failure", "Job", "Plan", "Report", "plan", "run_jobs"]

_log = logging.getLogger(__name__)


class BatchError(ValueError):
    """The sources and the output folder do not go together; nothing was written."""


@dataclass(frozen=True)
class Job:
    """A file to be worked on.

    Attributes:
        source: the file.
        folder: where its result goes, below the output folder as the source is below its own.
    """

    source: Path
    folder: Path


@dataclass(frozen=True)
class Failure:
    """A file that was not done, and why."""

    path: Path
    error: Exception

    @property
    def reason(self) -> str:
        """One line for a person. Errors that nobody foresaw are named only: their text could hold a patient's value."""
        if isinstance(self.error, MIADMarkError):
            # The path stands in front already: what the error says of the name again is left out.
            text = str(self.error).removeprefix(self.path.name).removeprefix(": ")
            return f"{type(self.error).__name__}: {text}"
        if isinstance(self.error, OSError):
            where = self.error.filename2 or self.error.filename
            text = self.error.strerror or str(self.error) or type(self.error).__name__
            return text if where is None or Path(str(where)) == self.path else f"{text}: {where}"
        if isinstance(self.error, ValueError):
            return str(self.error)
        if isinstance(self.error, MemoryError):
            return "not enough memory"
        return f"unexpected {type(self.error).__name__} (--verbose shows where)"


@dataclass(frozen=True)
class Plan:
    """What there is to do, and what was found that cannot be done."""

    jobs: tuple[Job, ...]
    failures: tuple[Failure, ...]


@dataclass
class Report:
    """What became of a plan."""

    done: list[tuple[Path, Path]] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    seconds: float = 0.0


def plan(sources: Sequence[Path], out: Path, name: Callable[[Path], str | None]) -> Plan:
    """Find the files and where their results go.

    Folders are walked; links in them are followed only to files that lie in the same folder, so that nothing from
    outside gets in. Sidecars belong to the file beside them and are no sources of their own. An output folder inside a
    source folder is left out.

    Args:
        sources: files and folders.
        out: the output folder; need not exist.
        name: gives the name of a file's result, ``None`` where there will be none.

    Returns:
        Jobs in the order of their sources, and a failure for each thing that is no readable file.

    Raises:
        BatchError: the output folder is a file or a source folder, a result would be a source, or two sources would
            meet in one result.
    """
    if out.exists() and not out.is_dir():
        raise BatchError(f"the output {out} is a file: a folder is needed")
    jobs: list[Job] = []
    failures: list[Failure] = []
    for source in dict.fromkeys(sources):
        if source.is_dir():
            if out.exists() and source.samefile(out):
                raise BatchError(f"the output folder {out} is the input folder: choose another")
            for path, relative, error in _walk(source, out):
                if error is None:
                    jobs.append(Job(path, out / relative.parent))
                else:
                    failures.append(Failure(path, error))
        elif (error := _not_a_file(source)) is not None:
            failures.append(Failure(source, error))
        else:
            jobs.append(Job(source, out))
    _check_results(jobs, name)
    return Plan(tuple(jobs), tuple(failures))


def run_jobs(
    planned: Plan,
    work: Callable[[Job], Path],
    track: Callable[[Sequence[Job]], Iterable[Job]] = iter,
    failed: Callable[[Failure], None] = lambda failure: None,
) -> Report:
    """Work on all jobs of a plan, one after the other.

    Args:
        planned: the plan; its failures are part of the report.
        work: does one job and returns the file that it wrote.
        track: wraps the jobs, for a progress bar.
        failed: is told of each failure when it happens.
    """
    start = time.monotonic()
    report = Report()

    def note(failure: Failure) -> None:
        report.failures.append(failure)
        failed(failure)

    for failure in planned.failures:
        note(failure)
    for job in track(planned.jobs):
        try:
            result = work(job)
        except Exception as error:  # one bad file must not keep the others from being done
            _log.debug("%s failed", job.source, exc_info=True)
            note(Failure(job.source, error))
            continue
        report.done.append((job.source, result))
    report.seconds = time.monotonic() - start
    return report


def _walk(folder: Path, out: Path) -> Iterator[tuple[Path, Path, OSError | None]]:
    """All files of a folder, sorted: path, path below the folder, and why it is no source."""
    root, skipped = folder.resolve(), out.resolve()
    errors: list[OSError] = []
    for base, folders, names in os.walk(folder, onerror=errors.append):
        here = Path(base)
        for name in sorted(folders):
            path = here / name
            if path.is_symlink():
                yield (
                    path,
                    path.relative_to(folder),
                    OSError(errno.ELOOP, "a link to a folder is not followed", str(path)),
                )
        folders[:] = sorted(n for n in folders if not (here / n).is_symlink() and (here / n).resolve() != skipped)
        present = set(names)
        for name in sorted(names):
            path = here / name
            is_sidecar = name.endswith(SIDECAR_SUFFIX) and name.removesuffix(SIDECAR_SUFFIX) in present
            if is_sidecar or name.endswith(TEMPORARY_SUFFIX):
                continue
            yield path, path.relative_to(folder), _not_a_file(path, root)
    for error in errors:
        path = Path(str(error.filename))
        yield path, path.relative_to(folder), error


def _not_a_file(path: Path, root: Path | None = None) -> OSError | None:
    """Why a path cannot be a source, or ``None``; with ``root``, links must stay below it."""
    try:
        target = path.resolve(strict=True)
        if root is not None and path.is_symlink() and not target.is_relative_to(root):
            return OSError(errno.ELOOP, "a link that leads out of the folder is not followed", str(path))
        if not stat.S_ISREG(target.stat().st_mode):
            return OSError(errno.EINVAL, "not a regular file", str(path))
    except FileNotFoundError:
        return FileNotFoundError(errno.ENOENT, "a broken link" if path.is_symlink() else "no such file", str(path))
    except RuntimeError:  # Python before 3.13 says so of links in a circle
        return OSError(errno.ELOOP, "links that lead in a circle", str(path))
    except OSError as error:
        return error
    return None


def _check_results(jobs: Sequence[Job], name: Callable[[Path], str | None]) -> None:
    """Refuse plans in which one file would take the place of another."""
    inputs = {job.source.resolve(): job.source for job in jobs}
    results: dict[Path, Path] = {}
    for job in jobs:
        result_name = name(job.source)
        if result_name is None:
            continue
        shown = job.folder / result_name
        result = job.folder.resolve() / result_name
        if (other := results.get(result)) is not None:
            raise BatchError(f"{other} and {job.source} would both become {shown}: use one output folder for each")
        if (taken := inputs.get(result)) is not None:
            raise BatchError(f"{job.source} would become {shown}, which is the input {taken}: choose another folder")
        results[result] = job.source

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Work on the files of a plan: what is done already, what may be written, what became of the rest."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from monai_miadmark.engines import PROCESS_DIED, Engine, Outcome
from monai_miadmark.errors import MIADMarkError
from monai_miadmark.files import Stamp, is_leftover, stamp_file, verify_file
from monai_miadmark.locking import FolderLock
from monai_miadmark.manifest import Entry, Manifest, ManifestError, Settings
from monai_miadmark.planning import BatchError, Filters, Plan, beside, check_not_mixed, notes_folder, plan
from monai_miadmark.series_files import grouped
from monai_miadmark.stores import RemotePath
from monai_miadmark.tasks import Draft, Failure, Job, Task

__all__ = [
    "BatchError",
    "ClashError",
    "Filters",
    "Plan",
    "Report",
    "check_not_mixed",
    "job_settings",
    "notes_folder",
    "plan",
    "run_jobs",
]


_PROTECTING = ("protect", "grant", "revoke")
"""Verbs whose results are protected files."""


class ClashError(ValueError):
    """A file stands in the way of another one of the same job; it was not worked on, or nothing of it was written."""


@dataclass
class Report:
    """What became of a plan; filled while it is worked on, so that it is true when work is broken off.

    Attributes:
        done: sources and their results.
        kept: sources that earlier runs did, and their results.
        failures: what was not done.
        skipped: what was not done and need not be, by the caller's word.
        facts: by source: what a manifest tells of what was done now, for JSON.
        seconds: what it took.
        signatures: for each of ``done``, what is known of a custodian's signature (``files.Signature``).
        replanned: sources that earlier runs did, by other plans of their series than it has now.
        ignored_lines: lines of the manifest that somebody else wrote or changed, and that count for nothing.
    """

    done: list[tuple[Path, Path]] = field(default_factory=list)
    kept: list[tuple[Path, Path]] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    skipped: list[Failure] = field(default_factory=list)
    facts: dict[Path, dict[str, Any]] = field(default_factory=dict)
    seconds: float = 0.0
    signatures: list[str] = field(default_factory=list)
    replanned: list[Path] = field(default_factory=list)
    ignored_lines: int = 0


def run_jobs(
    planned: Plan,
    task: Task,
    engine: Engine,
    *,
    resume: bool = False,
    verify: bool = False,
    noted: Path | None = None,
    skip: Collection[str] = (),
    report: Report | None = None,
    failed: Callable[[Failure], None] = lambda failure: None,
    step: Callable[[], None] = lambda: None,
) -> Report:
    """Work on all jobs of a plan, and note in the output folder's manifest what became of each.

    Args:
        planned: the plan; its failures are part of the report.
        task: what to do with each file.
        engine: who does it.
        resume: leave out what the manifest says is done, as far as it still holds, and take away what killed runs left.
        verify: with ``resume``, trust digests only, and open protected files as ``verify`` does; otherwise size and
            time of last change are enough, where both hold.
        noted: folder of this machine for the manifest, locked as the output folder is; needed where that is one of a
            store, which has neither locks nor files that grow. Default: the output folder.
        skip: kinds of errors (names of classes) with which a file is left out, and has not failed.
        report: to be filled; made here if not given.
        failed: is told of each failure when it happens.
        step: is called after each file.

    Raises:
        ManifestError: the folder's manifest is damaged, or of a job with other settings.
        LockedError: another run works in the folder.
        UnfitError: the task cannot be done at all.
        OSError: the folder or its manifest cannot be written to.
        ValueError: a key file is none, or the output folder is one of a store and ``noted`` is not given.
    """
    notes = planned.out if noted is None else noted
    if isinstance(notes, RemotePath):
        raise ValueError("a store cannot hold manifest and lock: a folder of this machine is needed for them")
    report = Report() if report is None else report
    start = time.monotonic()
    try:
        if planned.jobs:
            settings = job_settings(planned, task, notes)
            with ExitStack() as held:
                # The output folder first: whoever works there has its own manifest too, wherever that is.
                folders = [folder for folder in (planned.out, notes) if not isinstance(folder, RemotePath)]
                locks = [held.enter_context(FolderLock(folder, task.verb)) for folder in _apart(folders)]
                manifest = held.enter_context(Manifest(notes, settings, read=resume))
                report.ignored_lines = manifest.ignored
                if resume:
                    task = _continued(task, manifest, planned.out)
                if task.verb == "protect":
                    series = grouped(job.source for job in planned.jobs)
                    planned = replace(
                        planned, jobs=tuple(j._replace(series=series.get(j.source)) for j in planned.jobs)
                    )
                run = _Run(planned, manifest, report, resume and verify, skip, failed, step)
                run.work(task, engine, [lock.descriptor for lock in locks], clean=resume)
        else:
            for failure in planned.failures:
                (report.skipped if failure.kind in skip else report.failures).append(failure)
                failed(failure)
    finally:
        report.seconds = time.monotonic() - start
    return report


def _apart(folders: Sequence[Path]) -> list[Path]:
    """The folders, each once."""
    return list({folder.resolve(): folder for folder in folders}.values())


def job_settings(planned: Plan, task: Task, noted: Path | None = None) -> Settings:
    """What the results of a job depend on; a manifest that lies anywhere else also says whose it is.

    Args:
        planned: the plan.
        task: what to do with each file.
        noted: where the manifest lies, as :func:`run_jobs` has it.

    Raises:
        OSError: a file that belongs to the settings cannot be read.
        ValueError: a key file is none.
    """
    out = planned.out
    told = task.settings()
    if isinstance(out, RemotePath):
        told = {**told, "out": str(out)}
    elif noted is not None and noted.resolve() not in (out.resolve(), beside(out)):
        told = {**told, "out": str(out.resolve())}
    return Settings(task.verb, told)


def _continued(task: Task, manifest: Manifest, out: Path) -> Task:
    """The task in step with what it did before; refuses to go on with a job that has other settings."""
    now, earlier = manifest.settings, manifest.earlier
    if earlier is None:
        return task
    if now.key == earlier.key:
        entries = (entry for entry in manifest.finished.values() if entry.settings == now.key)
        done = next((path for entry in entries if (path := out / entry.outputs[-1][0]).is_file()), None)
        try:
            return task if done is None else task.continued(done)
        except ValueError as error:
            raise ManifestError(f"cannot go on with the job in {out}: {error}") from error
    if now.verb != earlier.verb:
        raise ManifestError(
            f"the job in {manifest.path.parent} is {earlier.verb}, not {now.verb}: cannot go on with it"
        )
    names = sorted(n for n in {*now.options, *earlier.options} if now.options.get(n) != earlier.options.get(n))
    raise ManifestError(
        f"the job in {manifest.path.parent} was begun with other options ({', '.join(names)}): cannot go on with it"
    )


class _Run:
    """A plan that is being worked on."""

    def __init__(
        self,
        planned: Plan,
        manifest: Manifest,
        report: Report,
        verify: bool,
        skip: Collection[str],
        failed: Callable[[Failure], None],
        step: Callable[[], None],
    ) -> None:
        self.planned, self.manifest, self.report, self.verify = planned, manifest, report, verify
        self.skip, self.failed, self.step = skip, failed, step
        self.inputs = {job.source.resolve() for job in planned.jobs}
        self.claims: dict[Path, Path] = {}
        self.lost: dict[Path, list[Draft]] = {}
        """By source: what was about to be written by workers that died and were replaced."""

    def work(self, task: Task, engine: Engine, locks: Sequence[int], clean: bool) -> None:
        """Do all that is left to do."""
        if clean:
            self._clean()
        for failure in self.planned.failures:
            self._note_failure(failure, self._name(failure.path, self.planned.out), 0.0)
        died = False
        try:
            with closing(engine.run(task, self._left(), self._admit, locks)) as outcomes:
                for outcome in outcomes:
                    died = died or (outcome.failure is not None and outcome.failure.kind == PROCESS_DIED)
                    if self._settle(outcome, engine):
                        self.step()
        except BaseException:
            died = True
            raise
        finally:
            if died:
                self._clean()

    def _name(self, source: Path, folder: Path) -> str:
        """How the manifest names a source."""
        return PurePosixPath(*folder.relative_to(self.planned.out).parts, source.name).as_posix()

    def _left(self) -> Iterator[Job]:
        """Jobs that are left to do; those that are done are noted on the way."""
        for job in self.planned.jobs:
            name = self._name(job.source, job.folder)
            try:
                result = self._adopted(job, name) or self._held(job, name)
            except OSError as error:
                self._note_failure(Failure.of(job.source, error), name, 0.0)
                self.step()
                continue
            if result is None:
                yield job
            else:
                self.report.kept.append((job.source, result))
                entry = self.manifest.finished.get(name)
                now = None if job.series is None else job.series.name
                if entry is not None and now is not None and entry.facts.get("series") != now:
                    self.report.replanned.append(job.source)
                self.step()

    def _held(self, job: Job, name: str) -> Path | None:
        """The result of a source that is done, if both are still what they were."""
        entry = self.manifest.finished.get(name)
        if entry is None or entry.settings != self.manifest.settings.key:
            return None
        if not _same(job.source, entry.source, self.verify):
            return None
        outputs = self._paths(entry)
        if any(self._leads_out(path.parent) for path in outputs):
            return None
        if not all(_same(path, stamp, self.verify, output=True) for path, stamp in outputs.items()):
            return None
        if self.verify and self.manifest.settings.verb in _PROTECTING and not _is_protected([*outputs][-1]):
            return None
        return self._claim(job.source, outputs)

    def _adopted(self, job: Job, name: str) -> Path | None:
        """The result of a source whose run died before it could say that it is in place, if it is."""
        for entry in reversed(self.manifest.intended.get(name, ())):
            if entry.settings != self.manifest.settings.key:
                continue
            outputs = self._paths(entry)
            if any(self._leads_out(path.parent) for path in outputs):
                continue
            whole = _whole_ones(outputs)
            if len(whole) == len(outputs) and _same(job.source, entry.source, always=True):
                self.manifest.done(name, entry.source, self._relative(whole), {**entry.facts, "adopted": True}, None)
                return self._claim(job.source, whole)
            if len(whole) < len(outputs):
                _take_away_half(outputs, whole)
        return None

    def _admit(self, job: Job, draft: Draft) -> None:
        """Whether a result may be written; if so, note that it is going to be."""
        paths = [product.path for product in draft.products]
        for path in paths:
            if self._leads_out(path.parent):
                raise ClashError(f"a link leads out of the output folder: {path.parent}")
            place = path.parent.resolve() / path.name
            if place in self.inputs:
                raise ClashError(f"{path} is an input of this job")
            if (other := self.claims.get(place)) is not None:
                raise ClashError(f"{path} is the result of {other} already")
        outputs = _stamps(draft)
        self.manifest.intend(self._name(job.source, job.folder), draft.source, self._relative(outputs), draft.facts)
        self._claim(job.source, outputs)

    def _settle(self, outcome: Outcome, engine: Engine) -> bool:
        """Note what became of a job; ``False`` if it is not over, because the engine tries it once more."""
        job, draft, failure, seconds = outcome
        name = self._name(job.source, job.folder)
        died = failure is not None and failure.kind == PROCESS_DIED
        lost = self.lost.pop(job.source, [])
        if draft is not None and died:
            lost.append(draft)
        try:
            # Who wrote it may have died before it could say so; then what is on disk decides.
            for written in [draft] if draft is not None and failure is None else reversed(lost):
                stamps = _stamps(written)
                if failure is None or len(_whole_ones(stamps)) == len(stamps):
                    placed = {p: stamp._replace(mtime_ns=p.stat().st_mtime_ns) for p, stamp in stamps.items()}
                    self.manifest.done(name, written.source, self._relative(placed), written.facts, seconds)
                    self.report.done.append((job.source, self._claim(job.source, stamps)))
                    self.report.signatures.append(str(written.facts.get("signature", "none")))
                    self.report.facts[job.source] = dict(written.facts)
                    return True
        except OSError as error:
            text = f"written, but not noted in the manifest: {error.strerror} (--resume will take it up)"
            failure, died = Failure(job.source, type(error).__name__, text), False
        else:
            for path in () if draft is None else _stamps(draft):
                self.claims.pop(path.parent.resolve() / path.name, None)
        if died and engine.again(job):
            for begun in map(_stamps, lost):
                with suppress(OSError):  # what stays is in the way of the next attempt, which then says so
                    _take_away_half(begun, _whole_ones(begun))
            self.lost[job.source] = lost
            return False
        if failure is not None:
            self._note_failure(failure, name, seconds)
        return True

    def _note_failure(self, failure: Failure, name: str, seconds: float) -> None:
        """A file that is not done."""
        (self.report.skipped if failure.kind in self.skip else self.report.failures).append(failure)
        with suppress(OSError):  # it is said on the terminal anyway, and --resume will try again
            self.manifest.failed(name, failure.kind, failure.reason if failure.named else None, seconds)
        self.failed(failure)

    def _claim(self, source: Path, outputs: Iterable[Path]) -> Path:
        """Remember whose results these are; the image file."""
        for path in outputs:
            self.claims[path.parent.resolve() / path.name] = source
        return path

    def _paths(self, entry: Entry) -> dict[Path, Stamp]:
        """Outputs of an entry as paths."""
        return {self.planned.out / path: stamp for path, stamp in entry.outputs}

    def _relative(self, outputs: Mapping[Path, Stamp]) -> dict[str, Stamp]:
        """Outputs as the manifest names them."""
        out = self.planned.out
        return {PurePosixPath(*path.relative_to(out).parts).as_posix(): stamp for path, stamp in outputs.items()}

    def _leads_out(self, folder: Path) -> bool:
        """Whether links lead a folder out of the output folder, where nothing is read, written or deleted."""
        if isinstance(folder, RemotePath):
            return False
        return not folder.resolve().is_relative_to(self.planned.out.resolve())

    def _clean(self) -> None:
        """Take away what killed runs left of files that they had not finished."""
        if isinstance(self.planned.out, RemotePath):
            return  # a store shows nothing that is not whole
        for folder in {self.planned.out, *(job.folder for job in self.planned.jobs)}:
            if self._leads_out(folder):
                continue
            with suppress(OSError):
                for entry in list(os.scandir(folder)):
                    if is_leftover(entry.name) and entry.is_file(follow_symlinks=False):
                        with suppress(OSError):
                            os.unlink(entry.path)


def _same(path: Path, stamp: Stamp, always: bool, output: bool = False) -> bool:
    """Whether a file is what it was: by size and time, else (or ``always``) by its digest; ``False`` if it is gone.

    Outputs are never links: one that is has been put there by somebody else.
    """
    try:
        status = path.lstat() if output else path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size != stamp.size:
            return False
        # A time of 0 says that nobody knows it.
        unchanged = not always and status.st_mtime_ns == stamp.mtime_ns != 0
        return unchanged or stamp_file(path).sha256 == stamp.sha256
    except FileNotFoundError:
        return False


def _is_protected(path: Path) -> bool:
    """Whether a file is one that restores: its pixels, record and signature belong together."""
    try:
        verify_file(path)
    except MIADMarkError:
        return False
    return True


def _whole(path: Path, stamp: Stamp) -> Stamp | None:
    """The stamp of an output on disk, if it is the one that was intended."""
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_size != stamp.size:
            return None
        found = stamp_file(path)
    except OSError:
        return None
    return found if found.sha256 == stamp.sha256 else None


def _stamps(draft: Draft) -> dict[Path, Stamp]:
    """Outputs of a draft; their times are not known."""
    return {product.path: Stamp(product.sha256, product.size, 0) for product in draft.products}


def _whole_ones(outputs: Mapping[Path, Stamp]) -> dict[Path, Stamp]:
    """Outputs that are on disk and are those that were intended, with their stamps."""
    return {path: found for path, stamp in outputs.items() if (found := _whole(path, stamp)) is not None}


def _take_away_half(outputs: Iterable[Path], whole: Iterable[Path]) -> None:
    """Delete half of a pair, or a name that was reserved: the digest, or that it is empty, says that it is ours."""
    for path in outputs:
        if path in whole or _is_empty(path):
            path.unlink()


def _is_empty(path: Path) -> bool:
    """Whether a file of this name is there and holds nothing."""
    if isinstance(path, RemotePath):
        return False  # nothing reserves names in a store: an empty object is somebody's
    with suppress(OSError):
        status = path.lstat()
        return stat.S_ISREG(status.st_mode) and status.st_size == 0
    return False

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Who works on the files of a job: this process, or several.

An engine takes jobs as it can use them, so that only as many files are in memory as there are processes. Work on a file
has two steps: all is made in memory, the engine's caller is asked to admit it, and then it is written.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import suppress
from multiprocessing import connection
from typing import NamedTuple, NoReturn, Protocol, TypeAlias

from monai_miadmark.children import ChildProcess
from monai_miadmark.files import Made
from monai_miadmark.tasks import Draft, Failure, Job, Task, UnfitError, drafted
from monai_miadmark.terminal import TerminalFormatter

__all__ = [
    "FILE_SECONDS",
    "PROCESS_DIED",
    "TOO_SLOW",
    "Admit",
    "Engine",
    "Outcome",
    "Outcomes",
    "ProcessEngine",
    "SerialEngine",
    "WorkerProcess",
    "run_alone",
    "usable_cores",
]

_log = logging.getLogger(__name__)

PROCESS_DIED = "ProcessDied"
"""Kind of the failure of a file whose process died."""

TOO_SLOW = "TooSlow"
"""Kind of the failure of a file that was given up after its time was over."""

FILE_SECONDS = 6 * 3600.0
"""Time that a file may take unless somebody says otherwise: more than any volume needs, and less than a weekend."""

_FILES_PER_PROCESS = 1000
"""After so many files a process gives way to a fresh one, so that what leaks in a library stays small."""

_START_SECONDS = 300.0
"""How long a process may take until it can begin."""

_STARTS = 3
"""So often a process is started that is killed before it can begin, as a machine does that is short of memory."""

_ORDERLY_SECONDS = 3.0
"""How long processes that are asked to end may take before they are killed."""

_ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}

Admit = Callable[[Job, Draft], None]
"""Asked before a result is written; raises an error to refuse, which becomes the file's failure."""


class Outcome(NamedTuple):
    """What became of a job.

    Attributes:
        job: the job.
        draft: what was made, where it was admitted.
        failure: why it is not done; ``None`` if it is.
        seconds: what it took.
    """

    job: Job
    draft: Draft | None
    failure: Failure | None
    seconds: float


Outcomes: TypeAlias = Generator[Outcome, None, None]


class Engine(Protocol):
    """Works on jobs."""

    def run(self, task: Task, jobs: Iterable[Job], admit: Admit, hold: Sequence[int] = ()) -> Outcomes:
        """Do a task with many files.

        Args:
            task: what to do with each.
            jobs: taken one by one, when somebody is free to work on it.
            admit: asked, in this process, before a result is written.
            hold: file descriptors (of locks) that other processes keep open while they live.

        Returns:
            Outcomes as they come. Closing the iterator ends all work.

        Raises:
            UnfitError: the task cannot be done at all.
        """
        ...

    def again(self, job: Job) -> bool:
        """Take a job back whose process died, which is to be done once more; asked between outcomes.

        Returns:
            ``False`` if this engine does not do so, or has tried it often enough.
        """
        ...


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class SerialEngine:
    """Works in this process, file after file.

    Args:
        seconds: time that a file may take before it is given up, where this process can measure it (in its main thread,
            not on Windows); ``None`` for any time.
    """

    def __init__(self, seconds: float | None = FILE_SECONDS) -> None:
        self.seconds = seconds

    def run(self, task: Task, jobs: Iterable[Job], admit: Admit, hold: Sequence[int] = ()) -> Outcomes:
        """See :class:`Engine`."""
        work: Callable[[Job], Made] | None = None
        for job in jobs:
            if work is None:  # not before there is something to do: weights take seconds
                work = task.prepare()
            start = time.monotonic()
            limited = _limited(work, self.seconds)
            draft, failure = _attempt(limited, job, lambda draft, job=job: admit(job, draft))  # type: ignore[misc]
            yield Outcome(job, draft, failure, time.monotonic() - start)

    def again(self, job: Job) -> bool:
        """Never asked: where this process dies, nobody is left to ask."""
        return False


class ProcessEngine:
    """Works in several processes on this machine, which are started anew: PyTorch does not survive a fork.

    Each has one thread for its computations, holds keys and weights of its own, and works on one file at a time. One
    that dies costs the file that it had. All end when this process does, however it ends.

    Args:
        processes: how many, at least one.
        verbose: let them log to standard error.
        files_per_process: after so many files a process is replaced.
        seconds: time that a file may take before its process is ended and the file given up; ``None`` for any time.
    """

    def __init__(
        self,
        processes: int,
        verbose: bool = False,
        files_per_process: int = _FILES_PER_PROCESS,
        seconds: float | None = FILE_SECONDS,
    ) -> None:
        if processes < 1 or files_per_process < 1:
            raise ValueError(f"at least one process and one file each, not {processes} and {files_per_process}")
        self.processes, self.verbose, self.files_per_process = processes, verbose, files_per_process
        self.seconds = seconds

    def run(self, task: Task, jobs: Iterable[Job], admit: Admit, hold: Sequence[int] = ()) -> Outcomes:
        """See :class:`Engine`."""
        workers: dict[connection.Connection, WorkerProcess] = {}
        waiting = iter(jobs)
        orderly = False
        try:
            job = next(waiting, None)
            while job is not None or workers:
                while job is not None and len(workers) < self.processes:
                    worker = WorkerProcess(task, job, hold, self.verbose)
                    workers[worker.connection] = worker
                    job = next(waiting, None)
                for ready in connection.wait(list(workers), _least_left(workers.values(), self.seconds)):
                    worker = workers[ready]  # type: ignore[index]
                    outcome = worker.advance(admit)
                    if outcome is None:
                        if worker.connection is not ready:
                            del workers[ready]  # type: ignore[arg-type]
                            workers[worker.connection] = worker
                        continue
                    if worker.alive and job is not None and worker.files < self.files_per_process:
                        worker.give(job)
                        job = next(waiting, None)
                    else:
                        del workers[worker.connection]
                        worker.dismiss()
                    yield outcome
                for late in [worker for worker in workers.values() if worker.left(self.seconds) <= 0]:
                    del workers[late.connection]
                    yield late.give_up(self.seconds)
            orderly = True
        finally:
            if not orderly:
                _end(list(workers.values()))

    def again(self, job: Job) -> bool:
        """Never: on one machine it is most likely the file that its process dies of."""
        return False


class WorkerProcess:
    """The other process, as this one sees it; begins with a job.

    Args:
        task: what to do with each file.
        job: the first.
        hold: file descriptors (of locks) that it keeps open while it lives.
        verbose: let it log to standard error.
    """

    def __init__(self, task: Task, job: Job, hold: Sequence[int], verbose: bool) -> None:
        self.files = 0
        self.alive = True
        self._fit = False
        self._given = task, verbose, tuple(hold)
        self._starts_left = _STARTS - 1
        self.process = self._begin()
        self.connection = self.process.connection
        self.give(job)

    def _begin(self) -> ChildProcess:
        """A process that waits for files."""
        task, verbose, hold = self._given
        return ChildProcess(_serve, (task, verbose), hold, _ONE_THREAD)

    def give(self, job: Job) -> None:
        """The next file."""
        self.job, self.draft = job, None
        self._start = time.monotonic()
        self._send(job)

    def advance(self, admit: Admit) -> Outcome | None:
        """Take a message; the outcome if the job is over.

        A process that was killed before it could begin is replaced by another one, with another :attr:`connection`.

        Raises:
            UnfitError: the process cannot do the task.
        """
        try:
            kind, content = self.connection.recv()
        except (EOFError, OSError):
            return self._lost()
        if kind == "fit":
            self._fit = True
            self._start = time.monotonic()  # what it took to start is not the file's time
        elif kind == "unfit":
            raise UnfitError(content)
        elif kind == "draft":
            try:
                admit(self.job, content)
            except Exception as error:  # one refusal must not keep the others from being done
                _log.debug("%s refused", self.job.source, exc_info=True)
                self._send(Failure.of(self.job.source, error))
            else:
                self.draft = content
                self._send(None)
        else:
            self.files += 1
            return Outcome(self.job, self.draft, *content)
        return None

    def left(self, seconds: float | None) -> float:
        """Seconds until the file in work has taken ``seconds``; infinite where there is no limit."""
        if seconds is None:
            return float("inf")
        return self._start + (seconds if self._fit else max(seconds, _START_SECONDS)) - time.monotonic()

    def give_up(self, seconds: float | None) -> Outcome:
        """End the process because its file has taken ``seconds``; the outcome that this is."""
        self.end()
        self.alive = False
        return Outcome(self.job, self.draft, _late(self.job, seconds), time.monotonic() - self._start)

    def dismiss(self) -> None:
        """No more work: the process ends by itself."""
        self._send(None)
        self.connection.close()
        self.process.join(_ORDERLY_SECONDS)
        if self.process.is_alive():
            _end([self])

    def end(self) -> None:
        """End it in the middle of its work, orderly if it can, at once if not."""
        _end([self])

    def _lost(self) -> Outcome | None:
        """The process has ended in the middle of its work; ``None`` if another one has begun with it."""
        self.process.join()
        if not self._fit and (self.process.exitcode or 0) < 0 and self._starts_left > 0:
            _log.debug("a process was killed before it could begin; another one is started")
            self._starts_left -= 1
            self.connection.close()
            self.process = self._begin()
            self.connection = self.process.connection
            self.give(self.job)
            return None
        self.alive = False
        code = self.process.exitcode or 0
        how = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with status {code}"
        if code == -signal.SIGKILL:
            how += ", perhaps for lack of memory"
        if not self._fit:
            raise UnfitError(f"a process for this work {how} before it could begin")
        failure = Failure(self.job.source, PROCESS_DIED, f"the process that worked on it {how}")
        return Outcome(self.job, self.draft, failure, time.monotonic() - self._start)

    def _send(self, message: object) -> None:
        with suppress(OSError):  # a process that is gone is noticed when its messages are read
            self.connection.send(message)


def run_alone(task: Task, job: Job, seconds: float, admit: Admit | None = None) -> Outcome:
    """Work on one file in a process of its own, which is ended when the time is over: for servers.

    Args:
        task: what to do.
        job: the file.
        seconds: time that it may take, with the start of the process.
        admit: asked before the result is written; anything may be written without it.

    Raises:
        UnfitError: the task cannot be done at all.
    """
    (outcome,) = ProcessEngine(1, seconds=seconds).run(task, [job], admit or _admit_all)
    return outcome


def _admit_all(job: Job, draft: Draft) -> None:
    """Everything may be written."""


def _least_left(workers: Iterable[WorkerProcess], seconds: float | None) -> float | None:
    """Seconds until the first process has had its time; ``None`` without a limit."""
    return None if seconds is None else max(0.0, min(worker.left(seconds) for worker in workers))


def _late(job: Job, seconds: float | None) -> Failure:
    """The failure of a file that took too long."""
    return Failure(job.source, TOO_SLOW, f"given up: not done within {seconds or 0:g} seconds")


class _TimeOverError(BaseException):
    """Time is over; no ``Exception``, because readers turn those into damaged files."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds


def _limited(work: Callable[[Job], Made], seconds: float | None) -> Callable[[Job], Made]:
    """Work in this process that is broken off when its time is over, where a signal can do so."""
    if seconds is None or not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        return work

    def stop(number: int, frame: object) -> None:
        raise _TimeOverError(seconds)

    def limited(job: Job) -> Made:
        before = signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            return work(job)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    return limited


def _end(workers: Sequence[WorkerProcess]) -> None:
    """End processes that may be in the middle of something: orderly if they can, at once if not."""
    try:
        for worker in workers:
            worker.process.terminate()
        deadline = time.monotonic() + _ORDERLY_SECONDS
        for worker in workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
    finally:  # also when somebody presses Ctrl-C once more
        for worker in workers:
            worker.process.kill()
            worker.process.join()
            worker.connection.close()


def _attempt(
    work: Callable[[Job], Made], job: Job, admit: Callable[[Draft], None]
) -> tuple[Draft | None, Failure | None]:
    """Work on one file: the draft if it was admitted, and what went wrong."""
    draft: Draft | None = None
    try:
        made = work(job)
        asked = drafted(made)
        admit(asked)
        draft = asked
        made.write()
    except _RefusedError as error:
        return None, error.failure
    except _TimeOverError as error:
        return None, _late(job, error.seconds)
    except UnfitError:  # networks are loaded with the first image that needs them
        raise
    except Exception as error:  # one bad file must not keep the others from being done
        _log.debug("%s failed", job.source, exc_info=True)
        return draft, Failure.of(job.source, error)
    return draft, None


class _RefusedError(Exception):
    """The other process refused a draft."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


def _serve(pipe: connection.Connection, task: Task, verbose: bool) -> None:
    """Life of a process: prepare, then files until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first one decides
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    signal.signal(signal.SIGTERM, _leave)
    if verbose:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(TerminalFormatter())
        logging.captureWarnings(True)
        logging.getLogger().addHandler(handler)
        logging.getLogger("monai_miadmark").setLevel(logging.DEBUG)
    else:
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
    try:
        work = task.prepare()
    except UnfitError as error:
        with suppress(OSError):
            pipe.send(("unfit", str(error)))
        return

    def admit(draft: Draft) -> None:
        pipe.send(("draft", draft))
        refusal = pipe.recv()
        if refusal is not None:
            raise _RefusedError(refusal)

    with suppress(EOFError, OSError):  # nobody is there any more: there is nothing left to do
        pipe.send(("fit", None))
        while (job := pipe.recv()) is not None:
            start = time.monotonic()
            try:
                failure = _attempt(work, job, admit)[1]
            except UnfitError as error:
                pipe.send(("unfit", str(error)))
                return
            pipe.send(("over", (failure, time.monotonic() - start)))


def _leave(number: int, frame: object) -> NoReturn:
    """Unwind, so that no temporary file stays."""
    raise SystemExit(128 + number)

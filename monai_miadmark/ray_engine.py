# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Folder jobs on a Ray cluster: the same work on files, done by actors on many machines.

What decides and notes stays in one process, the one that runs the job. Between it and the actors travel tasks, jobs and
drafts: paths, settings and digests, no image and no secret. Ray is imported when a job begins, not before.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import tempfile
import threading
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from monai_miadmark import __version__
from monai_miadmark.children import PASSPHRASE_ENV
from monai_miadmark.engines import PROCESS_DIED, Admit, Outcome, Outcomes, usable_cores
from monai_miadmark.files import Made
from monai_miadmark.tasks import Draft, Failure, Job, Task, UnfitError, carries_secret, drafted

__all__ = ["RayEngine"]

_log = logging.getLogger(__name__)

_ATTEMPTS = 3
"""A file is given up when so many workers have died of it; machines of a cluster may go at any time."""

_STARTS = 3
"""A job is given up when so many workers in a row died before they could begin."""

_FILES_PER_WORKER = 1000
"""After so many files a worker gives way to a fresh one, so that what leaks in a library stays small."""

_STORE_BYTES = 80 << 20
"""Shared memory of a Ray that is started here; nearly the least it takes, since no image goes through it."""


class RayEngine:
    """Works in actors of a Ray cluster, each of which reserves one CPU and has one file at a time.

    An actor loads keys and weights once. One that dies is replaced, and its file is done once more, up to three times.
    All end with the process that runs the job; unlike local processes they hold no lock, see docs/scale-out.md.

    Args:
        workers: how many actors at most; default: one for each CPU.
        address: of a cluster to which this machine belongs (``auto``, ``HOST:PORT``); default: Ray is started for the
            job, on this machine and for nobody else.
        files_per_worker: after so many files an actor is replaced.

    Raises:
        ValueError: less than one worker or file, or an address of Ray Client.
    """

    def __init__(
        self, workers: int | None = None, address: str | None = None, files_per_worker: int = _FILES_PER_WORKER
    ) -> None:
        if (workers is not None and workers < 1) or files_per_worker < 1:
            raise ValueError(f"at least one worker and one file each, not {workers} and {files_per_worker}")
        if address is not None and "://" in address:
            raise ValueError("a job must run on a machine of the cluster: give HOST:PORT or auto")
        self.workers, self.address, self.files_per_worker = workers, address, files_per_worker
        self._deaths: Counter[Path] = Counter()
        self._again: deque[Job] = deque()

    def run(self, task: Task, jobs: Iterable[Job], admit: Admit, hold: Sequence[int] = ()) -> Outcomes:
        """See :class:`~monai_miadmark.engines.Engine`. ``hold`` is not used: other machines cannot have it."""
        if carries_secret(task):
            raise UnfitError("Ray would keep the passphrase in the memory of its servers: use keys without one")
        self._deaths.clear()
        self._again.clear()
        with _cluster(self.address, self.workers) as ray:
            workers = self.workers or int(ray.cluster_resources().get("CPU", 0))
            if workers < 1:
                raise UnfitError("the Ray cluster has no CPU")
            # What is started here works where this process does; other machines have folders of their own.
            crew = _Crew(ray, task, workers, os.getcwd() if self.address is None else None)
            try:
                yield from self._work(crew, iter(jobs), admit)
            finally:
                crew.end()

    def again(self, job: Job) -> bool:
        """See :class:`~monai_miadmark.engines.Engine`: up to three times in all."""
        if self._deaths[job.source] >= _ATTEMPTS:
            return False
        self._again.append(job)
        return True

    def _work(self, crew: _Crew, waiting: Iterator[Job], admit: Admit) -> Outcomes:
        """Give jobs to workers until there are no more of either."""
        taken: deque[Job] = deque()

        def more(count: int) -> bool:
            """Whether there are so many jobs without a worker; takes only as many as that."""
            while len(self._again) + len(taken) < count and (job := next(waiting, None)) is not None:
                taken.append(job)
            return len(self._again) + len(taken) >= count

        while True:
            while crew.has_room and more(crew.starting + 1):
                crew.hire()
            if not crew.seats:
                return
            for seat, answer in crew.answers():
                if answer is _LOST:
                    if seat.job is not None:
                        yield self._lost(seat, seat.job)  # whoever gets it may want the job done again
                    continue
                outcome = crew.advance(seat, answer, admit)
                if seat.job is None and seat.files < self.files_per_worker and more(1):
                    crew.give(seat, self._again.popleft() if self._again else taken.popleft())
                elif seat.job is None:
                    crew.dismiss(seat)
                if outcome is not None:
                    yield outcome

    def _lost(self, seat: _Seat, job: Job) -> Outcome:
        """A worker has died in the middle of its work."""
        self._deaths[job.source] += 1
        count = self._deaths[job.source]
        reason = "the Ray worker that worked on it died" + (f", {count} times" if count > 1 else "")
        failure = Failure(job.source, PROCESS_DIED, reason)
        return Outcome(job, seat.draft, failure, time.monotonic() - seat.start)


@dataclass(eq=False)
class _Seat:
    """An actor, as the process that runs the job sees it.

    Attributes:
        actor: handle of it.
        stage: what it was asked for.
        job: what it works on.
        draft: what it was allowed to write.
        files: how many it has done.
        start: when it got its job, on the monotonic clock.
    """

    actor: Any
    stage: Literal["prepare", "make", "write"] = "prepare"
    job: Job | None = None
    draft: Draft | None = None
    files: int = 0
    start: float = 0.0


_LOST = object()
"""In place of an answer: the actor is gone."""


class _Crew:
    """All actors of a job.

    Args:
        ray: the module, connected.
        task: what to do with each file.
        size: actors at a time, at most.
        folder: current folder of the actors; ``None``: the one that Ray gives them.
    """

    def __init__(self, ray: Any, task: Task, size: int, folder: str | None) -> None:
        self.ray, self.size, self.folder = ray, size, folder
        self.seats: dict[Any, _Seat] = {}
        """By the answer that is awaited."""
        # Actors are given up by their driver, never started again by Ray: only the driver knows what they had.
        self._kind = ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)(_Worker)
        self._task = ray.put(task)
        self._deaths = 0

    @property
    def has_room(self) -> bool:
        """Whether one more can be hired."""
        return len(self.seats) < self.size

    @property
    def starting(self) -> int:
        """How many are not ready yet; jobs are kept for them here, because Ray may not have room for them."""
        return sum(seat.stage == "prepare" for seat in self.seats.values())

    def hire(self) -> None:
        """Start one more."""
        actor = self._kind.remote()
        self.seats[actor.prepare.remote(__version__, self._task, self.folder)] = _Seat(actor)

    def give(self, seat: _Seat, job: Job) -> None:
        """The next file."""
        seat.stage, seat.job, seat.draft, seat.start = "make", job, None, time.monotonic()
        self.seats[seat.actor.make.remote(job)] = seat

    def answers(self) -> Iterator[tuple[_Seat, Any]]:
        """Wait for answers, and give all that have come.

        Raises:
            UnfitError: workers die before they can begin.
        """
        self.ray.wait(list(self.seats), num_returns=1)
        ready, _ = self.ray.wait(list(self.seats), num_returns=len(self.seats), timeout=0)
        for answer in ready:
            seat = self.seats.pop(answer)
            try:
                yield seat, self.ray.get(answer)
            except self.ray.exceptions.RayError as error:
                _log.debug("a Ray worker is lost: %s", type(error).__name__)
                self._bury(seat)
                yield seat, _LOST

    def advance(self, seat: _Seat, answer: Any, admit: Admit) -> Outcome | None:
        """What follows from an answer; the outcome if the job is over.

        Raises:
            UnfitError: the worker cannot do the task.
        """
        job = seat.job
        if seat.stage == "prepare" or job is None:
            if answer is not None:
                raise UnfitError(answer)
            self._deaths = 0
            return None
        if seat.stage == "make":
            draft, failure = answer
            if failure is not None and failure.kind == UnfitError.__name__:
                raise UnfitError(failure.reason)
            if failure is None:
                try:
                    admit(job, draft)
                except Exception as error:  # one refusal must not keep the others from being done
                    _log.debug("%s refused", job.source, exc_info=True)
                    failure = Failure.of(job.source, error)
            if failure is None:
                seat.stage, seat.draft = "write", draft
                self.seats[seat.actor.write.remote()] = seat
                return None
        else:
            failure = answer
        seat.job = None
        seat.files += 1
        return Outcome(job, seat.draft, failure, time.monotonic() - seat.start)

    def dismiss(self, seat: _Seat) -> None:
        """No more work for it."""
        self.ray.kill(seat.actor, no_restart=True)

    def end(self) -> None:
        """End all, in the middle of their work if they are."""
        for seat in self.seats.values():
            with suppress(Exception):  # the cluster may be gone
                self.dismiss(seat)
        self.seats.clear()

    def _bury(self, seat: _Seat) -> None:
        """One is gone, or cannot be reached; it shall not come back."""
        with suppress(Exception):
            self.dismiss(seat)
        if seat.job is None:
            self._deaths += 1
            if self._deaths >= _STARTS:
                raise UnfitError(
                    f"Ray workers die before they can begin: is monai-miadmark {__version__} installed on all machines?"
                )


class _Worker:
    """What an actor does. No exception leaves it: Ray would log what it says, and that may be a patient's."""

    def __init__(self) -> None:
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        self._work: Callable[[Job], Made] | None = None
        self._source = Path()
        self._made: Made | None = None

    def prepare(self, version: str, task: Task, folder: str | None) -> str | None:
        """Go to a folder, if one is named, and read keys and weights; why that cannot be done."""
        if version != __version__:
            return f"a machine of the cluster has monai-miadmark {__version__}, not {version}"
        try:
            if folder is not None:
                os.chdir(folder)
            self._work = task.prepare()
        except UnfitError as error:
            return str(error)
        except Exception as error:
            return f"unexpected {type(error).__name__} on a machine of the cluster"
        return None

    def make(self, job: Job) -> tuple[Draft | None, Failure | None]:
        """Work on a file in memory: what is about to be written, or why nothing is."""
        self._made, self._source = None, job.source
        try:
            if self._work is None:
                raise RuntimeError("not prepared")
            made = self._work(job)
            draft = drafted(made)
        except UnfitError as error:  # networks are loaded with the first image that needs them
            return None, Failure(job.source, UnfitError.__name__, str(error))
        except Exception as error:  # one bad file must not keep the others from being done
            return None, _failure(job.source, error)
        self._made = made
        return draft, None

    def write(self) -> Failure | None:
        """Write what was made last; why that cannot be done."""
        made, self._made = self._made, None
        try:
            if made is None:
                raise RuntimeError("nothing made")
            made.write()
        except Exception as error:
            return _failure(self._source, error)
        return None


def _failure(path: Path, error: Exception) -> Failure:
    """The failure that an error is; workers log nothing, whatever the command was told."""
    failure = Failure.of(path, error)
    return failure._replace(reason=failure.reason.replace("(--verbose", "(--engine local --verbose"))


@contextmanager
def _cluster(address: str | None, workers: int | None) -> Iterator[Any]:
    """Ray, connected to a cluster, or to one that is started for the time being; the module.

    Raises:
        UnfitError: Ray is not installed, or there is no cluster at this address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise UnfitError("Ray is not installed: pip install 'monai-miadmark[ray]'") from error
    if ray.is_initialized():  # somebody's who calls us from Python
        yield ray
        return
    # Ray lets everybody write into its own folder, so it gets one inside of ours; names are short, because sockets in
    # it may not have longer ones.
    folder = tempfile.mkdtemp(prefix="miadmark-")
    try:
        # Ray has its workers import from the driver's current folder, and images may come with modules.
        with _own_handlers(), _working_in(folder):
            try:
                if address is not None:
                    ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)
                else:
                    with _environment(_of_local_ray()):
                        ray.init(
                            address="local",
                            num_cpus=workers or usable_cores(),
                            include_dashboard=False,
                            log_to_driver=False,
                            logging_level=logging.CRITICAL,
                            object_store_memory=_STORE_BYTES,
                            _temp_dir=os.path.join(folder, "r"),
                        )
            except (OSError, RuntimeError, ValueError) as error:
                where = "Ray cannot be started" if address is None else "no Ray cluster can be reached there"
                raise UnfitError(f"{where} ({type(error).__name__})") from error
        yield ray
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def _of_local_ray() -> dict[str, str | None]:
    """Environment of a Ray that is started here: one thread for each worker, and nobody else may use it."""
    variables: dict[str, str | None] = {
        name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    }
    # Ray would let its workers wait for everything else on the machine; they are to do as local processes do.
    variables["RAY_worker_niceness"] = os.environ.get("RAY_worker_niceness", "0")
    # Ray 2.59 and later ask for a token unless told otherwise, and put one into the home folder if there is none.
    return variables | {PASSPHRASE_ENV: None, "RAY_AUTH_TOKEN": os.environ.get("RAY_AUTH_TOKEN", _token())}


@contextmanager
def _working_in(folder: str) -> Iterator[None]:
    """Another current folder for the time being."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@cache
def _token() -> str:
    """Who knows it may use a Ray that this process starts; Ray reads it once in a process."""
    return secrets.token_hex(32)


@contextmanager
def _environment(variables: dict[str, str | None]) -> Iterator[None]:
    """Environment of the processes that are started inside; ``None`` takes a variable away."""
    before = {name: os.environ.get(name) for name in variables}
    _set_environment(variables)
    try:
        yield
    finally:
        _set_environment(before)


def _set_environment(variables: dict[str, str | None]) -> None:
    """Set variables, or take them away."""
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextmanager
def _own_handlers() -> Iterator[None]:
    """What is done on SIGTERM stays as it is: Ray would leave the process at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

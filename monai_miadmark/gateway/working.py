# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The part of the gateway that protects or restores, in processes of their own.

A decoder that crashes on a damaged object costs that process, not the gateway; what an object did to its process is
counted, so that none can keep the others from being done.
"""

from __future__ import annotations

import builtins
import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from multiprocessing import connection

from monai_miadmark.engines import PROCESS_DIED, Outcome, WorkerProcess
from monai_miadmark.errors import (
    LabelMapError,
    NotProtectedError,
    OutOfMemoryError,
    TooLargeError,
    UnsupportedImageError,
)
from monai_miadmark.gateway.part10 import identity_of_file
from monai_miadmark.gateway.settings import GatewaySettings
from monai_miadmark.gateway.spool import Entry, Spool
from monai_miadmark.series_files import Series, series_key
from monai_miadmark.tasks import Draft, Failure, Job, Task, UnfitError

__all__ = ["Workers"]

_log = logging.getLogger("monai_miadmark.gateway")

_OBJECTS_PER_PROCESS = 1000
"""After so many objects a process gives way to a fresh one, so that what leaks in a library stays small."""

_DEATHS = 3
"""An object that so many processes died of is dead itself."""

_TROUBLES = 10
"""Attempts where the machine is to blame (no space, no memory) before an object is laid aside."""

_PLANS = "series"
"""Folder of the queue with the plans of series, the last ones that were begun."""

_GLANCE_SECONDS = 0.25
_UNPROTECTABLE = tuple(
    kind.__name__ for kind in (UnsupportedImageError, LabelMapError, TooLargeError, NotProtectedError)
)


class Workers:
    """Threads with a process each, which take what was received.

    Args:
        settings: how the gateway works.
        spool: the queue.
        task: what is to be done with each object.
        failed: called when the task cannot be done at all, or a thread ends that should not.
    """

    def __init__(self, settings: GatewaySettings, spool: Spool, task: Task, failed: Callable[[str], None]) -> None:
        self._settings, self._spool, self._task, self._failed = settings, spool, task, failed
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, name=f"gateway worker {n}") for n in range(settings.workers)
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End; what is being worked on is begun anew by the next run."""
        self._stopping.set()
        with self._spool.changed:
            self._spool.changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        """Life of a thread."""
        worker: WorkerProcess | None = None
        try:
            while not self._stopping.is_set():
                try:
                    entry = self._spool.claim()
                    if entry is None:
                        with self._spool.changed:
                            self._spool.changed.wait(1.0)
                        continue
                    worker = self._work(entry, worker)
                except sqlite3.OperationalError as error:  # a full disk, mostly: what was done is done again
                    _log.error("the queue cannot be written to (%s)", type(error).__name__)
                    self._stopping.wait(self._settings.pause)
        except UnfitError as error:
            self._failed(str(error))
        except Exception as error:
            _log.debug("worker failed", exc_info=True)
            self._failed(f"unexpected {type(error).__name__} while working")
        finally:
            if worker is not None:
                worker.end()

    def _work(self, entry: Entry, worker: WorkerProcess | None) -> WorkerProcess | None:
        """Work on one object, in a process that is given or in a new one; the process that may have the next."""
        try:
            start = time.monotonic()
            try:
                self._spool.clear(entry)
                job = Job(entry.path, entry.results, series=self._series(entry))
                if worker is None:
                    worker = WorkerProcess(self._task, job, [self._spool.descriptor], False)
                else:
                    worker.give(job)
            except OSError as error:
                self._note_failure(entry, Failure.of(entry.path, error))
                return worker
            outcome = self._outcome(worker, start + self._settings.work_seconds)
            if outcome is None:
                worker.end()
                if not self._stopping.is_set():
                    self._spool.died(entry, f"not done within {self._settings.work_seconds:.0f} seconds")
                    _log.error("object %d: dead, it took too long", entry.number)
                return None
            self._note(entry, outcome)
            if worker.alive and worker.files < _OBJECTS_PER_PROCESS:
                return worker
            worker.dismiss()
            return None
        finally:
            self._spool.unclaim(entry)

    def _series(self, entry: Entry) -> Series | None:
        """The series of an object; its plan is made from whichever comes first, and lies in the queue for the others.

        Objects come one by one, in any order: nobody knows the series before its last one is there.
        """
        told = series_key(entry.path) if self._task.verb == "protect" else None
        if told is None:
            return None
        return Series(f"{self._spool.settings}/{told[0]}", (entry.path,), self._spool.folder / _PLANS)

    def _outcome(self, worker: WorkerProcess, deadline: float) -> Outcome | None:
        """What came of it; ``None`` where there is no more time."""
        while not self._stopping.is_set() and time.monotonic() < deadline:
            if connection.wait([worker.connection], _GLANCE_SECONDS):
                outcome = worker.advance(_admit)
                if outcome is not None:
                    return outcome
        return None

    def _note(self, entry: Entry, outcome: Outcome) -> None:
        """Tell the queue."""
        if outcome.failure is not None or outcome.draft is None:
            failure = outcome.failure or Failure(entry.path, "RuntimeError", "no result")
            self._note_failure(entry, failure)
            return
        path = outcome.draft.products[-1].path
        try:
            identity = identity_of_file(path)
        except UnsupportedImageError as error:
            self._die(entry, f"what was restored cannot be sent: {error}")
            return
        except OSError as error:
            self._note_failure(entry, Failure.of(path, error))
            return
        self._spool.made(entry, path, identity)
        _log.info("object %d: %s in %.1f s", entry.number, _DONE[self._task.verb], outcome.seconds)

    def _note_failure(self, entry: Entry, failure: Failure) -> None:
        """Forward, wait or give up."""
        # Only our own errors are known to hold no value of a patient.
        reason = failure.reason if failure.named or failure.kind == PROCESS_DIED else f"unexpected {failure.kind}"
        if failure.kind in _UNPROTECTABLE and self._settings.pass_unsupported:
            self._spool.passed(entry)
            _log.warning("object %d: forwarded as it came (%s)", entry.number, reason)
            return
        error = getattr(builtins, failure.kind, None)
        trouble = failure.kind == OutOfMemoryError.__name__
        trouble = trouble or (isinstance(error, type) and issubclass(error, OSError | MemoryError))
        attempts = _DEATHS if failure.kind == PROCESS_DIED else _TROUBLES if trouble else 1
        if entry.attempts + 1 < attempts:
            pause = min(self._settings.pause * 2**entry.attempts, self._settings.longest_pause)
            self._spool.postponed(entry, pause, reason)
            _log.warning("object %d: to be tried again (%s)", entry.number, reason)
        else:
            self._die(entry, reason)

    def _die(self, entry: Entry, reason: str) -> None:
        """Give up."""
        self._spool.died(entry, reason)
        _log.error("object %d: dead (%s)", entry.number, reason)


_DONE = {"protect": "protected", "remove": "restored"}


def _admit(job: Job, draft: Draft) -> None:
    """Results may always be written: there is a folder for each object."""

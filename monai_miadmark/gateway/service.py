# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The gateway as a whole: from start to an orderly end."""

from __future__ import annotations

import hashlib
import json
import logging
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from monai_miadmark.formats.limits import serve_within_limit
from monai_miadmark.gateway.settings import GatewaySettings
from monai_miadmark.gateway.spool import Spool
from monai_miadmark.tasks import Task
from monai_miadmark.terminal import TerminalFormatter

__all__ = ["serve"]

_log = logging.getLogger("monai_miadmark.gateway")

_GLANCE_SECONDS = 0.2
_FOREIGN_LOGS = ("pynetdicom", "pydicom")


def serve(
    settings: GatewaySettings,
    task: Task,
    stopping: threading.Event | None = None,
    started: Callable[[int], None] | None = None,
) -> str | None:
    """Run a gateway until it is told to end.

    Args:
        settings: how it works.
        task: a :class:`~monai_miadmark.tasks.ProtectTask` or :class:`~monai_miadmark.tasks.RemoveTask`, which replaces
            existing outputs and keeps records inside.
        stopping: ends the gateway; default: SIGTERM and SIGINT do.
        started: called with the port when callers may come.

    Returns:
        ``None`` after an orderly end; else what made it impossible to go on.

    Raises:
        SpoolError: the queue cannot be used.
        OSError: an address or a TLS file cannot be used.
        ImportError: pynetdicom is not installed.
    """
    from monai_miadmark.gateway.listening import Listener
    from monai_miadmark.gateway.sending import Sender
    from monai_miadmark.gateway.working import Workers

    reasons: list[str] = []

    def failed(reason: str) -> None:
        reasons.append(reason)

    spool = Spool(
        settings.queue,
        task.verb,
        _digest(task),
        settings.limit_bytes,
        settings.reserve_bytes,
        settings.keep_seconds,
    )
    with _own_log(), _signals(stopping is None) as asked, spool:
        sender = Sender(settings, spool, failed)
        serve_within_limit()
        workers = Workers(settings, spool, task, failed)
        listener = Listener(settings, spool)
        sender.start()
        workers.start()
        try:
            port = listener.start()
            waiting = spool.status().counts
            _log.info(
                "%s listens on port %d; %d objects wait", settings.title, port, waiting["received"] + waiting["ready"]
            )
            if started is not None:
                started(port)
            while not (reasons or asked or (stopping is not None and stopping.is_set())):
                time.sleep(_GLANCE_SECONDS)
            _log.info("ending")
        finally:
            listener.stop()
            workers.stop()
            sender.stop()
        if reasons:
            _log.critical("cannot go on: %s", reasons[0])
    return reasons[0] if reasons else None


def _digest(task: Task) -> str:
    """Of what results depend on."""
    return hashlib.sha256(json.dumps(task.settings(), sort_keys=True).encode()).hexdigest()


@contextmanager
def _own_log() -> Iterator[None]:
    """Lines of the gateway on standard error, and none of the libraries': those quote what they read."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(TerminalFormatter("%(asctime)s %(levelname)s %(message)s"))
    level, propagate = _log.level, _log.propagate
    foreign = [logging.getLogger(name) for name in _FOREIGN_LOGS]
    before = [(log.level, log.propagate) for log in foreign]
    _log.addHandler(handler)
    _log.setLevel(logging.INFO)
    _log.propagate = False
    for log in foreign:
        log.setLevel(logging.CRITICAL + 1)
        log.propagate = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        _log.removeHandler(handler)
        _log.setLevel(level)
        _log.propagate = propagate
        for log, (old, passing) in zip(foreign, before, strict=True):
            log.setLevel(old)
            log.propagate = passing


@contextmanager
def _signals(heard: bool) -> Iterator[list[int]]:
    """SIGTERM and SIGINT are put into a list, if they are to be heard and this is the main thread.

    Not into an event: its lock may be held by the very thread that the signal interrupts.
    """
    asked: list[int] = []
    before = {}
    if heard and threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            before[number] = signal.signal(number, lambda received, frame: asked.append(received))
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

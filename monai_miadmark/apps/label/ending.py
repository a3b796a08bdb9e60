# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The end of the server: within seconds of SIGTERM, whatever its clients and threads are doing."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

__all__ = ["end_in_time"]

_ANSWERS_SECONDS = 3
"""For requests that are being answered. Uvicorn then gives them up; by itself it waits for them for ever."""

_END_SECONDS = 8.0
"""For everything. A thread that computes, or one that waits for somebody else's answer, cannot be given up."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def end_in_time(clean: Callable[[], None]) -> None:
    """Bound the time that the server takes to end; to be called from the main thread once Uvicorn handles signals.

    Args:
        clean: removes what must not stay behind; called from another thread if the process has to be ended.
    """
    if threading.current_thread() is not threading.main_thread():
        return  # a test client, which handles no signals
    for number in _SIGNALS:
        handler = signal.getsignal(number)
        server = getattr(handler, "__self__", None)
        if server is None or not callable(handler):
            continue  # not Uvicorn's
        if server.config.timeout_graceful_shutdown is None:
            server.config.timeout_graceful_shutdown = _ANSWERS_SECONDS
        signal.signal(number, _Ending(handler, clean))


class _Ending:
    """A signal handler that does what another one does, and looks at the clock."""

    def __init__(self, handler: Callable[[int, FrameType | None], Any], clean: Callable[[], None]) -> None:
        self._handler, self._clean = handler, clean

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self._handler(number, frame)
        timer = threading.Timer(_END_SECONDS, self._end, (number,))
        timer.daemon = True
        timer.start()

    def _end(self, number: int) -> None:
        try:
            self._clean()
        finally:
            os._exit(128 + number)

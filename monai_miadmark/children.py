# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Python processes that run this package's code, whatever lies in the current folder.

``python -c``, with which :mod:`multiprocessing` starts processes and its resource tracker, looks for modules in the
current folder first, and folders of images come from others. A child of this module is started isolated (``-I``),
imports from where its parent imports, and gets all that it is told, secrets included, through a pipe.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, Pipe
from types import FrameType
from typing import Any

from monai_miadmark.names import PASSPHRASE_ENV

__all__ = ["PASSPHRASE_ENV", "ChildProcess", "child_environment", "interrupts_later", "main"]

# Nothing but the standard library is imported before the parent's path is known. The first argument is the pipe.
_BOOT = """
import json, sys
from multiprocessing.connection import Connection
pipe = Connection(int(sys.argv[1]))
sys.path[:] = json.loads(pipe.recv_bytes())
from monai_miadmark.children import main
main(pipe, int(sys.argv[2]))
"""


def child_environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Environment for processes that are started: this process's without the passphrase, and ``more``."""
    return {name: value for name, value in os.environ.items() if name != PASSPHRASE_ENV} | dict(more or {})


class ChildProcess:
    """A process that calls a function of some module and ends. It ends with its parent, however that ends.

    Args:
        target: a function at the top of a module; called with the child's end of the connection and ``arguments``.
        arguments: whatever pickles; sent through the connection.
        keep: file descriptors that the child gets a copy of, under the same numbers.
        environment: variables that it gets beside its parent's.

    Attributes:
        connection: the parent's end.
    """

    def __init__(
        self,
        target: Callable[..., None],
        arguments: Sequence[Any] = (),
        keep: Sequence[int] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.connection: Connection
        self.connection, theirs = Pipe()
        life, self._life = os.pipe()  # its other end is closed when this process ends, whatever it dies of
        try:
            with _without_interrupts():
                self._process = subprocess.Popen(
                    [*_interpreter(), "-c", _BOOT, str(theirs.fileno()), str(life)],
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(), life, *keep),
                    env=child_environment(environment),
                )
        except BaseException:
            self.connection.close()
            os.close(self._life)
            raise
        finally:
            theirs.close()
            os.close(life)
        with suppress(OSError):  # one that ended at once is noticed by whoever reads from it
            self.connection.send_bytes(json.dumps([place for place in sys.path if os.path.isabs(place)]).encode())
            self.connection.send((target.__module__, target.__qualname__))
            self.connection.send(tuple(arguments))

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    @property
    def exitcode(self) -> int | None:
        """Its exit status, or minus the number of the signal that killed it; ``None`` while it runs."""
        return self._process.poll()

    def is_alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended, or for so many seconds."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout)
        if not self.is_alive():
            self._release()

    def terminate(self) -> None:
        """Ask it to end (SIGTERM)."""
        self._process.terminate()

    def kill(self) -> None:
        """End it at once (SIGKILL)."""
        self._process.kill()

    def _release(self) -> None:
        """Close what only a living child needs."""
        if self._life >= 0:
            os.close(self._life)
            self._life = -1

    def __del__(self) -> None:
        if hasattr(self, "_process"):
            self._release()


def main(pipe: Connection, life: int) -> None:
    """Life of a child: called by what :class:`ChildProcess` starts, with its two descriptors."""
    threading.Thread(target=_end_with_parent, args=(life,), daemon=True).start()
    try:
        module, name = pipe.recv()
        target = getattr(importlib.import_module(module), name)
        arguments = pipe.recv()
    except (EOFError, OSError):  # nobody is there any more
        return
    target(pipe, *arguments)


def _end_with_parent(life: int) -> None:
    """End at once when the parent is gone, even if it was killed: nobody would note what is written."""
    os.read(life, 1)  # nothing is ever written to it
    os._exit(1)


def _interpreter() -> list[str]:
    """This Python, isolated, with the options that this process was given."""
    options = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    utf8 = ["-X", "utf8"] if sys.flags.utf8_mode else []  # -I also ignores PYTHONUTF8
    return [sys.executable, *options, *utf8, "-I"]


@contextmanager
def interrupts_later() -> Iterator[None]:
    """Ctrl-C counts at the end: code in C++ that runs while PyTorch is imported loses it, or aborts because of it.

    A handler, since a mask of this thread would leave the signal to another one. Only the main thread hears of Ctrl-C.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    heard: list[tuple[int, FrameType | None]] = []
    signal.signal(signal.SIGINT, lambda number, frame: heard.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if heard:
            before(*heard[0])


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Ctrl-C waits: a process that is just being started would take it for its own and print a traceback."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

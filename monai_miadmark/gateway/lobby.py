# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Where callers wait until they have said who they are: one thread for all of them, and no place for long.

pynetdicom gives every connection threads and waits for its request as long as for anything else. Here a connection is
a socket and a buffer until its whole association request is there, which callers that mean it send at once. Only then,
and only if the titles in it may call, it becomes an association.
"""

from __future__ import annotations

import logging
import selectors
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

__all__ = ["PLACES", "REQUEST_SECONDS", "ROOM_SECONDS", "Lobby", "rejection"]

_log = logging.getLogger("monai_miadmark.gateway")

REQUEST_SECONDS = 5.0
"""Time from the connection to the end of the request, TLS handshake included."""

ROOM_SECONDS = 10.0
"""Time that a whole request waits for room; callers wait for an answer half a minute, usually."""

PLACES = 64
"""Connections in the lobby."""

_MOST_REQUEST_BYTES = 1 << 19
"""Association requests take 300 kB at most."""

_REQUEST_PDU = 0x01
_HEAD_BYTES = 6
_TITLES_BYTES = 42
"""Bytes of a request up to the end of both titles."""

_WRONG_CALLED, _WRONG_CALLING, _FULL = (1, 1, 7), (1, 1, 3), (2, 3, 2)
"""Result, source and reason of rejections (PS3.8 9.3.4): permanent by the user twice, transient by the provider."""


def rejection(result: int, source: int, reason: int) -> bytes:
    """An A-ASSOCIATE-RJ PDU."""
    return bytes((3, 0, 0, 0, 0, 4, 0, result, source, reason))


@dataclass(eq=False)
class _Visitor:
    """Somebody who waits.

    Attributes:
        connection: not blocking.
        address: as ``accept`` gives it.
        deadline: by when the request must be whole.
        greeted: whether the TLS handshake is done, or there is none.
        heard: what was read of the request.
    """

    connection: socket.socket
    address: Any
    deadline: float
    greeted: bool
    heard: bytearray = field(default_factory=bytearray)

    @property
    def host(self) -> str:
        """Address without port."""
        return str(self.address[0])

    @property
    def wanted(self) -> int:
        """Bytes that are still missing of what must be there next.

        Raises:
            ValueError: this is no association request, or none of a sensible length.
        """
        if len(self.heard) < _HEAD_BYTES:
            return _HEAD_BYTES - len(self.heard)
        length = int.from_bytes(self.heard[2:_HEAD_BYTES], "big")
        if self.heard[0] != _REQUEST_PDU or not _TITLES_BYTES <= _HEAD_BYTES + length <= _MOST_REQUEST_BYTES:
            raise ValueError("no association request")
        return _HEAD_BYTES + length - len(self.heard)


class Lobby:
    """Reads association requests.

    Args:
        called: own AE title.
        calling: titles that may call.
        admit: takes over a blocking connection, its address and its request; ``False`` where there is no room yet, and
            the caller waits on.
        context: TLS of those who call.
    """

    def __init__(
        self,
        called: str,
        calling: tuple[str, ...],
        admit: Callable[[socket.socket, Any, bytes], bool],
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._called, self._calling, self._admit, self._context = called, calling, admit, context
        self._visitors: dict[_Visitor, None] = {}  # in the order in which they came
        self._new: list[tuple[socket.socket, Any]] = []
        self._lock = threading.Lock()
        self._selector = selectors.DefaultSelector()
        self._bell, self._ear = socket.socketpair()
        self._ear.setblocking(False)
        self._bell.setblocking(False)
        self._selector.register(self._ear, selectors.EVENT_READ)
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="gateway lobby", daemon=True)

    def start(self) -> None:
        """Open."""
        self._thread.start()

    def stop(self) -> None:
        """Send everybody away."""
        self._ending = True
        self._ring()
        self._thread.join()

    def enter(self, connection: socket.socket, address: Any) -> None:
        """A new connection, from any thread."""
        with self._lock:
            self._new.append((connection, address))
        self._ring()

    def _ring(self) -> None:
        try:
            self._bell.send(b"!")
        except BlockingIOError:
            pass  # it is ringing already

    def _run(self) -> None:
        try:
            while not self._ending:
                for key, _ in self._selector.select(self._patience()):
                    if key.data is None:
                        self._seat()
                    else:
                        self._guarded(key.data)
                for visitor in [v for v in self._visitors if self._is_whole(v)]:
                    self._show_in(visitor)
                self._send_away()
        finally:
            for visitor in list(self._visitors):
                self._dismiss(visitor)
            for connection, _ in self._new:
                connection.close()
            self._selector.close()
            self._bell.close()
            self._ear.close()

    def _patience(self) -> float:
        """Seconds until somebody has been here for too long, or may be let in."""
        if any(map(self._is_whole, self._visitors)):
            return 0.1
        if not self._visitors:
            return 60.0
        return max(0.0, min(v.deadline for v in self._visitors) - time.monotonic())

    def _seat(self) -> None:
        """Take in those who came; where the places do not suffice, somebody of the most frequent address leaves."""
        try:
            while self._ear.recv(4096):
                pass
        except BlockingIOError:
            pass
        with self._lock:
            came, self._new = self._new, []
        for connection, address in came:
            try:
                connection.setblocking(False)
                if self._context is not None:
                    connection = self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
            except OSError:
                connection.close()
                continue
            visitor = _Visitor(connection, address, time.monotonic() + REQUEST_SECONDS, self._context is None)
            self._visitors[visitor] = None
            self._selector.register(connection, selectors.EVENT_READ, visitor)
            if len(self._visitors) > PLACES:
                silent = [v for v in self._visitors if not self._is_whole(v)] or list(self._visitors)
                most = Counter(v.host for v in silent).most_common(1)[0][0]
                self._dismiss(next(v for v in silent if v.host == most))
                _log.warning("too many connections: the oldest of %s is closed", most)

    def _guarded(self, visitor: _Visitor) -> None:
        """Read on; whatever is wrong concerns nobody else."""
        if visitor not in self._visitors:
            return
        try:
            self._listen(visitor)
        except (ssl.SSLWantReadError, BlockingIOError, InterruptedError):
            pass
        except ssl.SSLWantWriteError:
            self._selector.modify(visitor.connection, selectors.EVENT_READ | selectors.EVENT_WRITE, visitor)
        except (OSError, ValueError):
            _log.warning("a connection failed before it was an association")
            self._dismiss(visitor)

    def _listen(self, visitor: _Visitor) -> None:
        """Handshake, and read what has come of the request."""
        if not visitor.greeted:
            assert isinstance(visitor.connection, ssl.SSLSocket)
            visitor.connection.do_handshake()
            visitor.greeted = True
            self._selector.modify(visitor.connection, selectors.EVENT_READ, visitor)
        while wanted := visitor.wanted:
            piece = visitor.connection.recv(wanted)
            if not piece:
                raise ConnectionError("closed by the caller")
            visitor.heard += piece
        visitor.deadline = time.monotonic() + ROOM_SECONDS
        self._selector.unregister(visitor.connection)

    @staticmethod
    def _is_whole(visitor: _Visitor) -> bool:
        return len(visitor.heard) > _HEAD_BYTES and visitor.wanted == 0

    def _show_in(self, visitor: _Visitor) -> None:
        """Let somebody in whose request is whole, if the titles are right and there is room."""
        request = bytes(visitor.heard)
        called, calling = (request[at : at + 16].decode("ascii", "replace").strip(" \0") for at in (10, 26))
        if called != self._called or calling not in self._calling:
            self._reject(visitor, _WRONG_CALLED if called != self._called else _WRONG_CALLING)
            return
        if self._admit(visitor.connection, visitor.address, request):
            del self._visitors[visitor]

    def _send_away(self) -> None:
        """Those who were silent for too long, and those for whom there was no room for so long."""
        now = time.monotonic()
        for visitor in [v for v in self._visitors if v.deadline <= now]:
            if self._is_whole(visitor):
                self._reject(visitor, _FULL)
            else:
                _log.warning("a connection from %s did not say in time who it is: closed", visitor.host)
                self._dismiss(visitor)

    def _reject(self, visitor: _Visitor, why: tuple[int, int, int]) -> None:
        reason = "too many callers" if why == _FULL else "title not allowed, or wrong called title"
        _log.warning("association from %s refused: %s", visitor.host, reason)
        try:
            visitor.connection.send(rejection(*why))
        except OSError:
            pass
        self._dismiss(visitor)

    def _dismiss(self, visitor: _Visitor) -> None:
        """Close a connection."""
        del self._visitors[visitor]
        try:
            self._selector.unregister(visitor.connection)
        except KeyError:
            pass
        try:
            visitor.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        visitor.connection.close()

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""What stands around every request: who asks, which files it leaves, and no private key in its body."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from fastapi import HTTPException

from monai_miadmark.apps.label.access import Caller, current_caller
from monai_miadmark.apps.label.refusals import PRIVATE_KEY_MARK

__all__ = ["RequestGuard", "remove_after_request"]

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_App = Callable[[_Message, _Receive, _Send], Awaitable[None]]

_logger = logging.getLogger(__name__)
_files: ContextVar[list[Path] | None] = ContextVar("files_of_the_request", default=None)


def remove_after_request(path: Path) -> None:
    """Have a file removed when the answer has been sent or has failed; at once outside of requests."""
    files = _files.get()
    if files is None:
        path.unlink(missing_ok=True)
    else:
        files.append(path)


class RequestGuard:
    """Pure ASGI middleware: one that works on whole requests would run the endpoints in another context.

    It sets :data:`access.current_caller`, removes the files of :func:`remove_after_request` whatever happens (also
    when the client has gone), and refuses bodies with a private key before anything of them is logged.

    Args:
        app: what answers.
        caller_of: user of a bearer token, ``None`` where the token is not good.
    """

    def __init__(self, app: _App, caller_of: Callable[[str], Caller | None]) -> None:
        self._app, self._caller_of = app, caller_of

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        """See ASGI 3."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        files: list[Path] = []
        caller = current_caller.set(self._caller(scope))
        registered = _files.set(files)
        try:
            await self._app(scope, _Watched(scope, receive), send)
        finally:
            _files.reset(registered)
            current_caller.reset(caller)
            for path in files:
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)

    def _caller(self, scope: _Message) -> Caller | None:
        """Who sent a request."""
        for name, value in scope["headers"]:
            if name == b"authorization":
                kind, _, token = value.decode("latin-1").partition(" ")
                return self._caller_of(token.strip()) if kind.lower() == "bearer" else None
        return None


class _Watched:
    """Receives a body piece by piece and stops at a private key."""

    def __init__(self, scope: _Message, receive: _Receive) -> None:
        self._receive = receive
        # The address is looked at together with the first piece, which endpoints with parameters always ask for.
        self._tail = unquote_to_bytes(scope.get("query_string", b"")) + b"\n"

    async def __call__(self) -> _Message:
        message = await self._receive()
        seen = self._tail + bytes(message.get("body", b""))
        if PRIVATE_KEY_MARK in seen:
            _logger.warning("a request with a private key in it was refused")
            raise HTTPException(400, "the request holds a private key: refused; keys stay on the server")
        self._tail = seen[-len(PRIVATE_KEY_MARK) :]
        return message

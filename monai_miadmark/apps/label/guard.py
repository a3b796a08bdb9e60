# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""What stands around every request: who asks, how much is read, which files it leaves, and no private key in it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from fastapi import HTTPException

from monai_miadmark.apps.label.access import Caller, current_caller
from monai_miadmark.apps.label.limits import BodyLimits, Incoming, TooLargeError, content_length
from monai_miadmark.apps.label.refusals import PRIVATE_KEY_MARK

__all__ = ["RequestGuard", "remove_after_request"]

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_App = Callable[[_Message, _Receive, _Send], Awaitable[None]]

_OPEN = frozenset({"/auth", "/auth/", "/auth/token"})
"""Where clients without a token find out where to get one."""

_PIECE_SECONDS = 60.0
"""Longest time between two pieces of a body."""

_HARMLESS_BYTES = 1 << 16
"""A refused body that is no longer is read and thrown away, so that the connection can go on."""

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

    Nothing of a request is read whose token is not good or has none of the roles: else anybody could fill the memory
    and the disk. It sets :data:`access.current_caller`, removes the files of :func:`remove_after_request` whatever
    happens (also when the client has gone), and refuses bodies that are too long, that come too slowly, or that hold a
    private key, before anything of them is logged.

    Args:
        app: what answers.
        caller_of: user of a bearer token, ``None`` where the token is not good.
        limits: of bodies.
        roles: of which callers must have one; ``None`` where authentication is off.
    """

    def __init__(
        self,
        app: _App,
        caller_of: Callable[[str], Caller | None],
        limits: BodyLimits,
        roles: Collection[str] | None,
    ) -> None:
        self._app, self._caller_of, self._limits = app, caller_of, limits
        self._roles = None if roles is None else frozenset(roles)

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        """See ASGI 3."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asking = self._caller(scope)
        if self._roles is not None and scope["path"].removeprefix(scope.get("root_path", "")) not in _OPEN:
            if asking is None:
                await _refuse(scope, send, 401, "Could not validate credentials")
                return
            if not self._roles & asking.roles:
                await _refuse(scope, send, 403, "none of your roles may use this server")
                return
        try:
            incoming = Incoming(self._limits, scope)
        except TooLargeError as error:
            await _refuse(scope, send, error.status, str(error))
            return
        files: list[Path] = []
        caller = current_caller.set(asking)
        registered = _files.set(files)
        try:
            await self._app(scope, _Watched(scope, receive, incoming), send)
        finally:
            incoming.close()
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
    """Receives a body piece by piece and stops where it is too long, too slow, or a private key."""

    def __init__(self, scope: _Message, receive: _Receive, incoming: Incoming) -> None:
        self._receive, self._incoming, self._whole = receive, incoming, False
        # The address is looked at together with the first piece, which endpoints with parameters always ask for.
        self._tail = unquote_to_bytes(scope.get("query_string", b"")) + b"\n"

    async def __call__(self) -> _Message:
        if self._whole:
            return await self._receive()  # waits for the client to go, however long
        try:
            message = await asyncio.wait_for(self._receive(), _PIECE_SECONDS)
        except asyncio.TimeoutError:
            raise HTTPException(408, "the body did not come", {"Connection": "close"}) from None
        piece = bytes(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        try:
            self._incoming.add(piece)
        except TooLargeError as error:
            raise HTTPException(error.status, str(error), {"Connection": "close"}) from None
        seen = self._tail + piece
        if PRIVATE_KEY_MARK in seen:
            _logger.warning("a request with a private key in it was refused")
            raise HTTPException(400, "the request holds a private key: refused; keys stay on the server")
        self._tail = seen[-len(PRIVATE_KEY_MARK) :]
        return message


async def _refuse(scope: _Message, send: _Send, status: int, text: str) -> None:
    """Answer without having read anything; what is on its way is not waited for."""
    body = json.dumps({"detail": text}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    announced = content_length(scope)
    if announced is None or announced > _HARMLESS_BYTES:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""What a server reads of strangers, how much of others, and how long it takes to end."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import samples
from fastapi import HTTPException
from label_server import Realm, Server, start

from monai_miadmark.apps.label import guard
from monai_miadmark.apps.label.access import Caller
from monai_miadmark.apps.label.limits import BodyLimits, Incoming, TooLargeError

MIB = 1 << 20


@pytest.fixture(scope="module")
def small(realm: Realm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that takes uploads of 1 MiB."""
    made = start(tmp_path_factory.mktemp("small"), realm, MIADMARK_LABEL_MAX_UPLOAD="1")
    yield made
    if made.process.poll() is None:
        made.stop()


def resident(server: Server) -> int:
    """Memory of a server in bytes."""
    lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS"))


def connected(server: Server, path: str, kind: str, *headers: str) -> socket.socket:
    """A request whose body is still to come."""
    host, port = server.url.removeprefix("http://").split(":")
    client = socket.create_connection((host, int(port)), 30)
    lines = (f"POST {path} HTTP/1.1", f"Host: {host}", f"Content-Type: {kind}", *headers, "", "")
    client.sendall("\r\n".join(lines).encode())
    return client


def status_of(client: socket.socket) -> int:
    return int(client.recv(65536).split()[1])


FORM = 'multipart/form-data; boundary="x"'
HEAD = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'


@pytest.mark.parametrize("path", ["/infer/protect", "/activelearning/random", "/nowhere"])
@pytest.mark.parametrize("kind", [FORM, "application/json"])
@pytest.mark.parametrize("who", ["", "Authorization: Bearer nonsense", "Authorization: Basic cm9vdDpyb290"])
def test_nothing_of_strangers_is_read(small: Server, path: str, kind: str, who: str) -> None:
    before = resident(small)
    with connected(small, path, kind, f"Content-Length: {600 * MIB}", *filter(None, [who])) as client:
        assert status_of(client) == 401  # before a single byte was sent
        try:
            for _ in range(64):
                client.sendall(bytes(MIB))
        except OSError:
            pass  # hung up on
    with connected(small, path, kind, "Transfer-Encoding: chunked", *filter(None, [who])) as client:
        assert status_of(client) == 401
    assert resident(small) - before < 20 * MIB and small.left_in_temp() == []


def test_clients_without_a_role_are_told_at_once(small: Server, realm: Realm) -> None:
    token = realm.token("anna", realm_access={"roles": ["miadmark-restore"]})
    with connected(
        small, "/infer/protect", FORM, f"Content-Length: {600 * MIB}", f"Authorization: Bearer {token}"
    ) as client:
        assert status_of(client) == 403


def test_bodies_have_a_length_that_is_allowed(small: Server) -> None:
    token = f"Authorization: {small.auth('paul')['Authorization']}"
    for kind, length in ((FORM, MIB + 1), ("application/json", 2 * MIB), ("application/x-www-form-urlencoded", 9**15)):
        with connected(small, "/infer/protect", kind, f"Content-Length: {length}", token) as client:
            assert status_of(client) == 413

    def pieces() -> Iterator[bytes]:
        yield HEAD
        for _ in range(40):
            yield bytes(MIB // 8)

    for path in ("/infer/protect", "/datastore/label?image=a"):
        call = requests.post if path.startswith("/infer") else requests.put
        headers = {**small.auth("paul"), "Content-Type": FORM}
        try:
            answer = call(small.url + path, data=pieces(), headers=headers, timeout=60)
            assert answer.status_code == 413 and "longer than" in answer.text
        except requests.ConnectionError:
            pass  # hung up on before all was sent
    assert small.left_in_temp() == [] and not list(small.studies.rglob("a*"))
    fits = requests.post(
        f"{small.url}/infer/protect?output=image",
        files={"file": ("a.png", samples.png())},
        headers=small.auth("paul"),
        timeout=300,
    )
    assert fits.status_code == 200, fits.text


def test_login_is_open_and_small(small: Server) -> None:
    assert requests.get(f"{small.url}/auth/", timeout=30).json()["enabled"] is True
    with connected(small, "/auth/token", "application/x-www-form-urlencoded", f"Content-Length: {2 * MIB}") as client:
        assert status_of(client) == 413


def test_a_server_ends_while_a_request_hangs(small: Server) -> None:
    """Runs last of those with this server: half of an upload is there, and its client says no more."""
    token = f"Authorization: {small.auth('paul')['Authorization']}"
    with connected(small, "/infer/protect", FORM, f"Content-Length: {MIB - 1}", token) as client:
        client.sendall(HEAD + bytes(MIB // 2))
        time.sleep(0.5)
        begun = time.monotonic()
        assert small.stop() in (0, -15)
        assert time.monotonic() - begun < 15
    assert small.private_folders() == []


def request(**headers: str) -> dict[str, Any]:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "path": "/infer/protect", "headers": raw, "query_string": b""}


def test_all_uploads_together_have_a_limit_too() -> None:
    limits = BodyLimits(upload=10, other=3)
    form = request(content_type=FORM)
    coming = [Incoming(limits, form) for _ in range(5)]
    for each in coming[:4]:
        each.add(bytes(10))
    with pytest.raises(TooLargeError) as caught:
        coming[4].add(b"x")
    assert caught.value.status == 503
    coming[0].close()
    coming[0].close()
    coming[4].add(b"x")
    with pytest.raises(TooLargeError, match="longer than 3 bytes"):
        Incoming(limits, request(content_type="application/json")).add(b"1234")


def test_settings_that_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("0", "-1", "1.5", "many", "99999999999"):
        monkeypatch.setenv("MIADMARK_LABEL_MAX_UPLOAD", text)
        with pytest.raises(ValueError, match="MIADMARK_LABEL_MAX_UPLOAD"):
            BodyLimits.from_environment()
    monkeypatch.setenv("MIADMARK_LABEL_MAX_UPLOAD", "5")
    assert BodyLimits.from_environment().upload == 5 * MIB


def test_bodies_that_do_not_come_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_PIECE_SECONDS", 0.05)
    seen: list[object] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        seen.append("whole")
        seen.append((await receive())["type"])

    async def asked(messages: list[Any], waits: float) -> None:
        async def receive() -> Any:
            if len(messages) < 2:
                await asyncio.sleep(waits)
            return messages.pop(0)

        async def send(message: Any) -> None:
            seen.append(message)

        around = guard.RequestGuard(app, lambda token: Caller(token, frozenset({"user"})), BodyLimits(MIB), {"user"})
        await around(request(authorization="Bearer anna", content_length="9"), receive, send)

    piece = {"type": "http.request", "body": b"abc", "more_body": True}
    with pytest.raises(HTTPException) as caught:
        asyncio.run(asked([piece, {**piece, "more_body": False}], 5))
    assert caught.value.status_code == 408 and seen == []
    # What comes after a whole body may take its time: it is the client that goes.
    asyncio.run(asked([piece, {**piece, "more_body": False}, {"type": "http.disconnect"}], 0.2))
    assert seen == ["whole", "http.disconnect"]

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Callers that say nothing, half of something or nothing further keep nobody else out of a gateway."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

pytest.importorskip("pynetdicom")

from gateway_peers import Archive, Running, protecting, running
from pynetdicom import AE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]
from test_gateway import certificates

from monai_miadmark.gateway import ClientTLS, ServerTLS, listening, lobby

QUICK = 3.0
"""Seconds in which a caller that is allowed to must get an answer."""


@pytest.fixture(scope="module")
def gateway(keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Four associations at a time, of which one is kept for other addresses."""
    archive = Archive()
    with running(tmp_path_factory.mktemp("lobby") / "queue", protecting(keys), archive.node, associations=4) as run:
        yield run
    archive.stop()


def echo(port: int, source: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> float:
    """C-ECHO by a caller that may call: seconds until the answer."""
    entity = AE("CT1")
    entity.add_requested_context(Verification)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 30
    begun = time.monotonic()
    association = entity.associate(
        "127.0.0.1",
        port,
        ae_title="MIADMARK",
        bind_address=(source, 0),
        tls_args=None if tls is None else (tls, "localhost"),
    )
    assert association.is_established
    assert association.send_c_echo().Status == 0
    took = time.monotonic() - begun
    association.release()
    return took


def request_of(called: str = "MIADMARK", calling: str = "CT1") -> bytes:
    """An A-ASSOCIATE-RQ for C-ECHO."""
    from pynetdicom import build_context
    from pynetdicom.pdu import A_ASSOCIATE_RQ
    from pynetdicom.pdu_primitives import (
        A_ASSOCIATE,
        ImplementationClassUIDNotification,
        MaximumLengthNotification,
    )

    primitive = A_ASSOCIATE()
    primitive.application_context_name = "1.2.840.10008.3.1.1.1"
    primitive.called_ae_title, primitive.calling_ae_title = called, calling
    length, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
    length.maximum_length_received, implementation.implementation_class_uid = 16382, "1.2.3"
    primitive.user_information = [length, implementation]
    context = build_context(Verification)
    context.context_id = 1
    primitive.presentation_context_definition_list = [context]
    pdu = A_ASSOCIATE_RQ()
    pdu.from_primitive(primitive)
    encoded: bytes = pdu.encode()
    return encoded


def connected(port: int, said: bytes = b"", source: str = "127.0.0.1") -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), 20, (source, 0))
    client.sendall(said)
    return client


@contextmanager
def many(number: int, port: int, said: bytes = b"", source: str = "127.0.0.1") -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        yield [stack.enter_context(connected(port, said, source)) for _ in range(number)]


@pytest.mark.parametrize("said", [b"", b"\x01", request_of()[:-1]], ids=["silent", "a byte", "half-sent"])
def test_silence_keeps_nobody_out(gateway: Running, said: bytes) -> None:
    with many(24, gateway.port, said):
        time.sleep(0.2)
        assert echo(gateway.port) < QUICK


def test_nor_does_a_loop_of_it(gateway: Running) -> None:
    """Forty sockets that are opened again as soon as they are closed."""
    ending = threading.Event()

    def flood() -> None:
        while not ending.is_set():
            with many(40, gateway.port):
                ending.wait(0.05)

    flooding = threading.Thread(target=flood)
    flooding.start()
    try:
        assert all(echo(gateway.port) < QUICK for _ in range(4))
    finally:
        ending.set()
        flooding.join()


def test_a_burst_starts_no_threads(gateway: Running) -> None:
    before, most = threading.active_count(), 0
    with ExitStack() as stack:
        for number in range(600):
            stack.enter_context(connected(gateway.port, request_of(calling="STRANGER") if number % 3 == 0 else b""))
            most = max(most, threading.active_count())
        assert echo(gateway.port) < QUICK
        most = max(most, threading.active_count())
    assert most <= before + 2 * 4


def test_the_silent_are_sent_away(gateway: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lobby, "REQUEST_SECONDS", 0.3)
    for said in (b"", request_of()[:50]):
        with connected(gateway.port, said) as client:
            assert client.recv(1) == b""


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (request_of(calling="STRANGER"), lobby.rejection(1, 1, 3)),
        (request_of(called="OTHER"), lobby.rejection(1, 1, 7)),
        (b"GET / HTTP/1.1\r\n\r\n", b""),
        (b"\x01\0\0\0\0\x04abcd", b""),
        (b"\x04" + request_of()[1:], b""),
    ],
    ids=["stranger", "other", "http", "short", "data"],
)
def test_who_may_not_call_becomes_no_association(gateway: Running, said: bytes, answer: bytes) -> None:
    with connected(gateway.port, said) as client:
        assert client.recv(100) == answer and client.recv(1) == b""


def test_requests_in_pieces(gateway: Running) -> None:
    said = request_of()
    with connected(gateway.port) as client:
        for at in range(0, len(said), 37):
            client.sendall(said[at : at + 37])
            time.sleep(0.01)
        assert client.recv(100)[0] == 2  # A-ASSOCIATE-AC


def test_idle_associations_make_room(gateway: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them are taken, by silent ones and by one that stopped in the middle of a message."""
    monkeypatch.setattr(listening, "_IDLE_SECONDS", 1.0)
    with many(3, gateway.port, request_of(), "127.0.0.2") as taken, many(1, gateway.port, request_of()) as more:
        assert [client.recv(100)[0] for client in (*taken, *more)] == [2] * 4
        taken[0].sendall(b"\x04\0\0\0\x01\0half of it")
        assert echo(gateway.port) < QUICK + 2
        assert echo(gateway.port, "127.0.0.3") < QUICK + 2


def test_no_address_has_all_the_room(gateway: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Associations that are kept alive by one address leave one to the others, and a fifth waits in vain."""
    monkeypatch.setattr(lobby, "ROOM_SECONDS", 1.0)
    with many(6, gateway.port, request_of(), "127.0.0.2") as clients:
        assert sorted(client.recv(100)[0] for client in clients) == [2, 2, 2, 3, 3, 3]  # accepted, and rejected
        assert echo(gateway.port) < QUICK


def test_the_same_with_tls(keys: Path, tmp_path: Path) -> None:
    certificates(tmp_path)
    root = tmp_path / "root.pem"
    server = ServerTLS(tmp_path / "server.pem", tmp_path / "server.pk8", root)
    client = ClientTLS(root, tmp_path / "client.pem", tmp_path / "client.pk8")
    archive = Archive()
    try:
        with running(tmp_path / "queue", protecting(keys), archive.node, server_tls=server) as gateway:
            with many(24, gateway.port), many(8, gateway.port, b"\x16\x03\x01\x02\0\x01"):
                assert echo(gateway.port, tls=client.context()) < QUICK
    finally:
        archive.stop()

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""What a gateway is told: who it is, whom it listens to, where objects go, and how much it may hold."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["MIB", "ClientTLS", "GatewaySettings", "Node", "ServerTLS", "checked_title"]

MIB = 1 << 20

_MAX_TITLE = 16
_PORT = re.compile(r"[0-9]{1,5}")


def checked_title(title: str) -> str:
    """An AE title: 1 to 16 printable ASCII characters without backslash, not only spaces (PS3.5 6.2).

    Raises:
        ValueError: it is none.
    """
    title = title.strip(" ")
    if not 1 <= len(title) <= _MAX_TITLE or not (title.isascii() and title.isprintable()) or "\\" in title:
        raise ValueError(f"an AE title has 1 to {_MAX_TITLE} printable ASCII characters and no backslash")
    return title


@dataclass(frozen=True)
class Node:
    """A place on the network.

    Attributes:
        host: name or address.
        port: TCP port, 1 to 65535 (0 to listen: any that is free).
        title: AE title; empty where it is told apart.
    """

    host: str
    port: int
    title: str = ""

    @classmethod
    def parse(cls, text: str) -> Node:
        """``TITLE@HOST:PORT``.

        Raises:
            ValueError: it is not of this form.
        """
        title, at, address = text.rpartition("@")
        if not at:
            raise ValueError(f"{text!r} is not of the form TITLE@HOST:PORT")
        host, port = _address(address, "")
        return cls(host, port, checked_title(title))

    @classmethod
    def parse_listening(cls, text: str) -> Node:
        """``[HOST:]PORT``; without a host only this machine is served.

        Raises:
            ValueError: it is not of this form.
        """
        return cls(*_address(text, "127.0.0.1"))


def _address(text: str, default: str) -> tuple[str, int]:
    """Host and port; IPv6 addresses in brackets."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") or default
    if not host or not _PORT.fullmatch(port) or int(port) > 65535:
        raise ValueError(f"{text!r} is not of the form HOST:PORT")
    return host, int(port)


@dataclass(frozen=True)
class ServerTLS:
    """TLS of those who call, who must show a certificate themselves.

    Attributes:
        certificate: PEM, with what leads to a root.
        key: PEM, not encrypted.
        authority: PEM; who signed the certificates of those who may call.
    """

    certificate: Path
    key: Path
    authority: Path

    def context(self) -> ssl.SSLContext:
        """TLS 1.2 or newer.

        Raises:
            OSError: a file cannot be read, or (``ssl.SSLError``) is not what it should be.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(self.certificate, self.key, password=_no_password)
        context.load_verify_locations(self.authority)
        return context


@dataclass(frozen=True)
class ClientTLS:
    """TLS to the next node, whose certificate must be valid for its host name.

    Attributes:
        authority: PEM; who signed the next node's certificate.
        certificate: PEM, shown to the next node if it asks.
        key: PEM, not encrypted.
    """

    authority: Path
    certificate: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """TLS 1.2 or newer; raises as :meth:`ServerTLS.context`."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies certificate and host name
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_verify_locations(self.authority)
        if self.certificate is not None:
            context.load_cert_chain(self.certificate, self.key, password=_no_password)
        return context


def _no_password() -> bytes:
    """In place of a question at the terminal, which a service cannot answer."""
    return b""


@dataclass(frozen=True)
class GatewaySettings:
    """How a gateway works.

    Attributes:
        queue: folder of the queue; one gateway at a time.
        listening: where to listen.
        title: own AE title; calls to another are refused.
        callers: AE titles that may call, at least one.
        next_node: where objects go.
        pass_unsupported: forward as they came what cannot be protected (or, restoring, is not protected).
        server_tls: TLS of those who call.
        client_tls: TLS to the next node.
        workers: processes that protect or restore.
        limit_bytes: objects on disk, of all states together; more are refused.
        reserve_bytes: free space of the file system that is never used.
        object_bytes: largest object that is taken; also bounds memory, see :mod:`~monai_miadmark.gateway.listening`.
        associations: callers at a time.
        keep_seconds: how long what was sent is kept, to be sent again unchanged if it comes again.
        work_seconds: longest time for one object before its process is ended.
        longest_pause: seconds between two attempts to send, at most.
        pause: seconds before the second attempt; doubled for each further one.
        idle_seconds: after so long without a message a connection is closed.
    """

    queue: Path
    listening: Node
    title: str
    callers: tuple[str, ...]
    next_node: Node
    pass_unsupported: bool = False
    server_tls: ServerTLS | None = None
    client_tls: ClientTLS | None = None
    workers: int = 1
    limit_bytes: int = 20_480 * MIB
    reserve_bytes: int = 1024 * MIB
    object_bytes: int = 512 * MIB
    associations: int = 10
    keep_seconds: float = 24 * 3600.0
    work_seconds: float = 3600.0
    longest_pause: float = 300.0
    pause: float = field(default=1.0)
    idle_seconds: float = 60.0

    def __post_init__(self) -> None:
        if not self.callers:
            raise ValueError("nobody is allowed to call: name at least one AE title")
        for title in (self.title, self.next_node.title, *self.callers):
            if checked_title(title) != title:
                raise ValueError("an AE title begins or ends with a space")
        if self.next_node.port < 1:
            raise ValueError("the next node's port is from 1 to 65535")
        counts = (self.workers, self.object_bytes, self.associations)
        if min(counts) < 1 or self.limit_bytes < self.object_bytes:
            raise ValueError("the queue must hold at least one object, and somebody must be able to work on it")

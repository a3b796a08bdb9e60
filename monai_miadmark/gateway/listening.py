# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The side of the gateway that is called: C-ECHO and C-STORE for those who are allowed to.

Around pynetdicom's server there is what it lacks for callers that nobody vouches for: a lobby for those who have not
said yet who they are (:mod:`~monai_miadmark.gateway.lobby`), sockets with a time limit, bounds on the length of a
message and on the memory of all of them together, and room that no address has for itself.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import socket
import sqlite3
import threading
import time
import weakref
from collections import Counter
from io import BytesIO
from typing import Any

from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

from monai_miadmark.errors import UnsupportedImageError
from monai_miadmark.gateway.lobby import Lobby
from monai_miadmark.gateway.part10 import ObjectIdentity, identity_of_data_set, valid_uid
from monai_miadmark.gateway.settings import GatewaySettings
from monai_miadmark.gateway.spool import FullError, Spool

__all__ = ["TRANSFER_SYNTAXES", "Listener", "accepted_syntaxes"]

_log = logging.getLogger("monai_miadmark.gateway")

TRANSFER_SYNTAXES: dict[str, str | None] = {
    "1.2.840.10008.1.2.1": None,
    "1.2.840.10008.1.2": None,
    "1.2.840.10008.1.2.1.99": None,
    "1.2.840.10008.1.2.2": None,
    "1.2.840.10008.1.2.5": None,
    "1.2.840.10008.1.2.4.50": None,
    "1.2.840.10008.1.2.4.51": "gdcm",
    "1.2.840.10008.1.2.4.57": "gdcm",
    "1.2.840.10008.1.2.4.70": "gdcm",
    "1.2.840.10008.1.2.4.80": "jpeg_ls",
    "1.2.840.10008.1.2.4.81": "jpeg_ls",
    "1.2.840.10008.1.2.4.90": "openjpeg",
    "1.2.840.10008.1.2.4.91": "openjpeg",
    "1.2.840.10008.1.2.4.201": "openjpeg",
    "1.2.840.10008.1.2.4.202": "openjpeg",
    "1.2.840.10008.1.2.4.203": "openjpeg",
}
"""What the DICOM carrier decodes, in the order of preference, and the module that it takes to do so."""

_STORED, _OUT_OF_RESOURCES, _MISMATCH, _INVALID_INSTANCE, _NOT_UNDERSTOOD = 0x0000, 0xA700, 0xA900, 0x0117, 0xC000

_PDU_BYTES = 1 << 16
_MAX_PDU_BYTES = 1 << 20
"""Longest message unit that is read. Ours are :data:`_PDU_BYTES`; association requests take 300 kB at most."""

_MEMORY_OBJECTS = 2
"""Largest objects that may be in memory while they arrive, over all callers."""

_KEPT = 4
"""Of the associations, one in so many is kept for callers from other addresses than those that have the most."""

_IDLE_SECONDS = 5.0
"""After so long without a whole message unit, an association makes room for a caller who would find none."""

_END_SECONDS = 5.0


def accepted_syntaxes() -> list[str]:
    """Transfer syntaxes whose decoder is installed: what comes in others could not be protected."""
    return [
        syntax
        for syntax, module in TRANSFER_SYNTAXES.items()
        if module is None or importlib.util.find_spec(module) is not None
    ]


class _Memory:
    """Bytes that callers hold in memory, each and all together.

    Args:
        each: most that one may hold.
        together: most that all may hold.
    """

    def __init__(self, each: int, together: int) -> None:
        self._each, self._together = each, together
        self._lock = threading.Lock()
        # Counted anew each time: pynetdicom has many ways to drop a connection, and none may leave a debt.
        self._sockets: weakref.WeakSet[_BoundedSocket] = weakref.WeakSet()

    def join(self, client: _BoundedSocket) -> None:
        """Count a caller."""
        with self._lock:
            self._sockets.add(client)

    def take(self, client: _BoundedSocket, more: int) -> bool:
        """Whether a caller may have ``more`` bytes; then they are its own."""
        with self._lock:
            others = sum(other.held for other in self._sockets if other is not client and other.assoc.is_alive())
            after = client.held + more
            if after > self._each or others + after > self._together:
                return False
            client.held = after
            return True


class _BoundedSocket(AssociationSocket):
    """A caller's socket, which reads no more than it may.

    Attributes:
        held: bytes that were read since the last object was dealt with: pynetdicom keeps them.
        heard: when the caller last sent something whole, by the monotonic clock; infinite while we are at work on it.
        leaving: whether it was hung up on, to make room.
    """

    def __init__(self, association: Association, client: socket.socket, memory: _Memory, request: bytes) -> None:
        super().__init__(association, client_socket=client)
        self.held = 0
        self.heard, self.leaving = time.monotonic(), False
        self._memory, self._request = memory, bytearray(request)
        memory.join(self)

    @property
    def ready(self) -> bool:
        """Whether there is something to read: first of all the request, which the lobby has read."""
        return bool(self._request) or super().ready

    def recv(self, nr_bytes: int) -> bytearray:
        """Read as pynetdicom wants it; an ``OSError`` ends the association."""
        if self._request:
            taken, self._request = self._request[:nr_bytes], self._request[nr_bytes:]
            return taken
        if nr_bytes > _MAX_PDU_BYTES:
            _log.warning("a caller announced a message unit of %d bytes: connection closed", nr_bytes)
            raise OSError("message unit too long")
        if not self._memory.take(self, nr_bytes):
            _log.warning("a caller sends more than an object may have, or than there is memory for: connection closed")
            raise OSError("message too long")
        whole = super().recv(nr_bytes)
        self.heard = time.monotonic()
        return whole

    def hang_up(self) -> None:
        """Wake whoever reads or writes: the association ends."""
        self.leaving = True
        try:
            if self.socket is not None:
                self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


class _Handler(RequestHandler):
    """Gives each caller a bounded socket; its request is the connection with the association request read from it."""

    server: _Server

    def _create_association(self) -> Association:
        self.request, heard = self.request
        association = super()._create_association()
        # pynetdicom's own socket has said that somebody connected; ours says it once more.
        association.dul.event_queue.get_nowait()
        association.dul.socket = _BoundedSocket(association, self.request, self.server.memory, heard)
        return association


class _Server(ThreadedAssociationServer):
    """A server whose callers pass through the lobby, and that keeps room for those who did not come yet."""

    request_queue_size = 128

    def __init__(self, *arguments: Any, settings: GatewaySettings, memory: _Memory, **more: Any) -> None:
        self.settings, self.memory = settings, memory
        context = None if settings.server_tls is None else settings.server_tls.context()
        self.lobby = Lobby(settings.title, settings.callers, self._admit, context)
        super().__init__(*arguments, **more)

    def process_request(self, request: Any, client_address: Any) -> None:
        """A new connection goes into the lobby."""
        self.lobby.enter(request, client_address)

    def _admit(self, connection: socket.socket, address: Any, request: bytes) -> bool:
        """Make an association of a connection, if there is room; else see to it that there will be."""
        inside = [(str(a.requestor.address), a.dul.socket) for a in self.active_associations]
        most = self.settings.associations
        hosts = Counter(host for host, _ in inside)
        crowded = str(address[0])
        if len(inside) < most and hosts[crowded] < most - most // _KEPT:
            self._begin(connection, address, request)
            return True
        if len(inside) >= most:
            crowded = hosts.most_common(1)[0][0]
        sockets = [s for host, s in inside if host == crowded and isinstance(s, _BoundedSocket)]
        if not any(s.leaving for s in sockets):
            idle = [s for s in sockets if time.monotonic() - s.heard > _IDLE_SECONDS]
            if idle:
                _log.warning("no room: an association of %s in which nothing is said is ended", crowded)
                min(idle, key=lambda s: s.heard).hang_up()
        return False

    def _begin(self, connection: socket.socket, address: Any, request: bytes) -> None:
        """Start an association, in threads of its own."""
        connection.settimeout(self.settings.idle_seconds)
        try:
            _Handler((connection, request), address, self)  # type: ignore[arg-type]
        except Exception:  # whatever it is, its trace might quote what the caller sent
            _log.warning("a connection failed before it was an association")
            connection.close()


class Listener:
    """The gateway's ear.

    Args:
        settings: how the gateway works.
        spool: where objects go.
    """

    def __init__(self, settings: GatewaySettings, spool: Spool) -> None:
        self._settings, self._spool = settings, spool
        entity = AE(ae_title=settings.title)
        entity.require_called_aet = True
        entity.require_calling_aet = list(settings.callers)
        entity.maximum_associations = settings.associations
        entity.maximum_pdu_size = _PDU_BYTES
        entity.network_timeout = settings.idle_seconds
        entity.acse_timeout = entity.dimse_timeout = settings.idle_seconds
        syntaxes = accepted_syntaxes()
        for context in AllStoragePresentationContexts:
            entity.add_supported_context(context.abstract_syntax or "", syntaxes)
        entity.add_supported_context(Verification)
        self._entity = entity
        self._server: _Server | None = None

    def start(self) -> int:
        """Listen; the port.

        Raises:
            OSError: the address cannot be had, or a TLS file not be used.
        """
        settings = self._settings
        memory = _Memory(
            settings.object_bytes + _MAX_PDU_BYTES, _MEMORY_OBJECTS * (settings.object_bytes + _MAX_PDU_BYTES)
        )
        server = self._entity.make_server(
            (settings.listening.host, settings.listening.port),
            evt_handlers=[(evt.EVT_C_STORE, self._store), (evt.EVT_REJECTED, _refused)],
            server_class=_Server,
            request_handler=_Handler,
            settings=settings,
            memory=memory,
        )
        assert isinstance(server, _Server)
        self._server = server
        self._entity._servers.append(server)
        server.lobby.start()
        threading.Thread(target=server.serve_forever, name="gateway listener", daemon=True).start()
        return int(server.server_address[1])

    def stop(self) -> None:
        """No new callers; those who are there may finish what they are sending, for some seconds."""
        if self._server is None:
            return
        server, self._server = self._server, None
        server.shutdown()
        server.lobby.stop()
        deadline = time.monotonic() + _END_SECONDS
        while server.active_associations and time.monotonic() < deadline:
            time.sleep(0.05)
        for association in server.active_associations:
            association.abort()

    def _store(self, event: evt.Event) -> int:
        """C-STORE: the status, which is success only for what is on disk."""
        request: Any = event.request
        caller = event.assoc.requestor.ae_title
        data = request.DataSet
        client = event.assoc.dul.socket
        try:
            if isinstance(client, _BoundedSocket):
                client.heard = math.inf
            return self._taken(request, data, str(event.context.transfer_syntax), caller)
        finally:
            request.DataSet = None
            if isinstance(client, _BoundedSocket):
                client.held, client.heard = 0, time.monotonic()

    def _taken(self, request: Any, data: BytesIO | None, syntax: str, caller: str) -> int:
        """Put an object into the queue."""
        named = ObjectIdentity(str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID), syntax)
        if data is None:
            return _MISMATCH
        if not valid_uid(named.instance) or not valid_uid(named.sop_class):
            return _INVALID_INSTANCE
        view = data.getbuffer()
        try:
            try:
                found = identity_of_data_set(view, syntax)
            except UnsupportedImageError as error:
                _log.warning("object from %s refused: %s", caller, error)
                return _NOT_UNDERSTOOD
            if found != named:
                _log.warning("object from %s refused: the data set is not of the instance that was announced", caller)
                return _MISMATCH
            accepted = self._spool.accept(found, view, caller)
        except FullError:
            _log.warning("object from %s refused: the queue is full", caller)
            return _OUT_OF_RESOURCES
        except (OSError, sqlite3.Error) as error:
            _log.error("object from %s refused: it could not be written (%s)", caller, type(error).__name__)
            return _OUT_OF_RESOURCES
        finally:
            view.release()
        _log.info("object from %s, %d bytes: %s", caller, data.getbuffer().nbytes, accepted.value)
        return _STORED


def _refused(event: evt.Event) -> None:
    """Somebody was not let in."""
    host = event.assoc.requestor.address
    _log.warning("association from %s refused: title not allowed, wrong called title, or too many callers", host)

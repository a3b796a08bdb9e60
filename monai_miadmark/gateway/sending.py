# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The side of the gateway that calls: C-STORE to the next node until it has each object.

Bytes of data sets are sent as they lie in the file; nothing is converted on the way.
"""

from __future__ import annotations

import logging
import random
import sqlite3
import threading
from collections.abc import Callable, Sequence

from pynetdicom import AE, _config, build_context, evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext

from monai_miadmark.gateway.settings import GatewaySettings
from monai_miadmark.gateway.spool import Entry, Spool

__all__ = ["Sender", "pause_after"]

_log = logging.getLogger("monai_miadmark.gateway")

_BATCH = 64
"""Objects that are asked for at a time; fewer than the 128 presentation contexts that an association may have."""
_REFUSALS = 8
"""Answers that will hardly change, before an object is laid aside."""

_LINGER_SECONDS = 1.0
"""How long an association stays open for the next object."""

_RESPONSE_SECONDS = 300.0
_CONNECT_SECONDS = 30.0
_ELEMENTS_DISCARDED = 0xB006


def pause_after(attempts: int, first: float, longest: float) -> float:
    """Seconds before the next attempt: doubled each time, with up to a quarter more, so that not all come at once."""
    return min(first * 2.0 ** min(attempts, 30), longest) * random.uniform(1.0, 1.25)


class Sender:
    """A thread that sends what is ready.

    Args:
        settings: how the gateway works.
        spool: the queue.
        failed: called when the thread ends that should not.
    """

    def __init__(self, settings: GatewaySettings, spool: Spool, failed: Callable[[str], None]) -> None:
        self._settings, self._spool, self._failed = settings, spool, failed
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gateway sender")
        self._tls = None if settings.client_tls is None else settings.client_tls.context()
        _config.STORE_SEND_CHUNKED_DATASET = True  # files are sent as they are, and not decoded
        entity = AE(ae_title=settings.title)
        entity.acse_timeout = entity.connection_timeout = _CONNECT_SECONDS
        entity.network_timeout = entity.dimse_timeout = _RESPONSE_SECONDS
        self._entity = entity

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after the object that is being sent."""
        self._stopping.set()
        with self._spool.changed:
            self._spool.changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        """Life of the thread."""
        failures = 0
        try:
            while not self._stopping.is_set():
                try:
                    self._spool.purge()
                    entries = self._spool.ready(_BATCH)
                    if not entries:
                        with self._spool.changed:
                            self._spool.changed.wait(1.0)
                    elif self._send(entries):
                        failures = 0
                    else:
                        self._stopping.wait(pause_after(failures, self._settings.pause, self._settings.longest_pause))
                        failures += 1
                except sqlite3.OperationalError as error:  # a full disk: what was sent is sent again, the same
                    _log.error("the queue cannot be written to (%s)", type(error).__name__)
                    self._stopping.wait(self._settings.pause)
        except Exception as error:
            _log.debug("sender failed", exc_info=True)
            self._failed(f"unexpected {type(error).__name__} while sending")

    def _send(self, entries: Sequence[Entry]) -> bool:
        """Send objects over one association, and what becomes ready meanwhile; whether the next node takes objects."""
        association = self._associate(entries)
        if association is None:
            return False
        fine = True
        try:
            offered = _kinds(entries)
            while fine and entries and not self._stopping.is_set():
                for entry in entries:
                    fine = self._send_one(association, entry)
                    if not fine or self._stopping.is_set():
                        break
                entries = self._next() if fine else []
                if not _kinds(entries) <= offered:
                    break  # needs an association of its own
        finally:
            if association.is_established:
                association.release()
            else:
                association.abort()
        return fine

    def _next(self) -> list[Entry]:
        """What is ready now, or in a moment."""
        entries = self._spool.ready(_BATCH)
        if not entries and not self._stopping.is_set():
            with self._spool.changed:
                self._spool.changed.wait(_LINGER_SECONDS)
            entries = self._spool.ready(_BATCH)
        return entries

    def _associate(self, entries: Sequence[Entry]) -> Association | None:
        """An association for these kinds of objects; ``None`` where the next node cannot be reached, or refuses."""
        node = self._settings.next_node
        contexts: list[PresentationContext] = [
            build_context(sop_class, syntax) for sop_class, syntax in sorted(_kinds(entries))
        ]
        association = self._entity.associate(
            node.host,
            node.port,
            contexts,
            node.title,
            tls_args=None if self._tls is None else (self._tls, node.host),
            evt_handlers=[(evt.EVT_CONN_OPEN, _limit_waiting)],
        )
        if association.is_established:
            return association
        rejected = association.is_rejected
        _log.warning("the next node %s", "refuses the association" if rejected else "cannot be reached")
        return None

    def _send_one(self, association: Association, entry: Entry) -> bool:
        """Send one object; whether the next node takes further ones."""
        if not association.is_established:
            return False
        kind = (entry.identity.sop_class, entry.identity.syntax)
        accepted = {(str(c.abstract_syntax), str(c.transfer_syntax[0])) for c in association.accepted_contexts}
        if kind not in accepted:
            self._refused(entry, "the next node does not take this SOP class in this transfer syntax")
            return True
        try:
            answer = association.send_c_store(entry.path)
        except OSError as error:
            self._refused(entry, f"the file cannot be read ({type(error).__name__})")
            return True
        except (AttributeError, RuntimeError, ValueError):  # the association ended under our hands
            return False
        status = answer.get("Status", None)
        if status is None:
            self._spool.postponed(entry, 0.0, "no answer from the next node", counted=False)
            return False
        return self._answered(entry, int(status))

    def _answered(self, entry: Entry, status: int) -> bool:
        """Act on the status of a C-STORE (PS3.4 B.2.3); whether further objects may be sent."""
        if status == _ELEMENTS_DISCARDED and self._spool.mode == "protect":
            # The record is such an element: what the next node has may never be restored.
            self._spool.died(entry, "the next node discarded elements (status B006), perhaps the recovery record")
            _log.error("object %d: dead, the next node discarded elements", entry.number)
        elif status == 0 or status & 0xF000 == 0xB000:
            self._spool.sent(entry)
            _log.info("object %d: sent%s", entry.number, "" if status == 0 else f" (warning {status:04X})")
        elif status & 0xFF00 == 0xA900 or status & 0xF000 == 0xC000 or status in (0x0117, 0x0122):
            self._refused(entry, f"the next node refused it with status {status:04X}")
        else:  # no resources (A7xx), or something that passes
            _log.warning("the next node answered with status %04X: it is tried again", status)
            self._spool.postponed(entry, 0.0, f"the next node answered with status {status:04X}", counted=False)
            return False
        return True

    def _refused(self, entry: Entry, reason: str) -> None:
        """An answer about this object; after some of them it is laid aside."""
        if entry.attempts + 1 >= _REFUSALS:
            self._spool.died(entry, reason)
            _log.error("object %d: dead (%s)", entry.number, reason)
        else:
            pause = pause_after(entry.attempts, self._settings.pause, self._settings.longest_pause)
            self._spool.postponed(entry, pause, reason)
            _log.warning("object %d: to be sent again (%s)", entry.number, reason)


def _kinds(entries: Sequence[Entry]) -> set[tuple[str, str]]:
    """SOP classes with transfer syntaxes of objects."""
    return {(entry.identity.sop_class, entry.identity.syntax) for entry in entries}


def _limit_waiting(event: evt.Event) -> None:
    """A peer that stops in the middle of a message must not hold the sender for ever."""
    connection = event.assoc.dul.socket
    if connection is not None and connection.socket is not None:
        connection.socket.settimeout(_RESPONSE_SECONDS)

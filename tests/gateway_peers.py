# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""What stands around a gateway in its tests: an archive that remembers all it was sent, gateways in threads, tasks."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from doubles import load_marker
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from monai_miadmark.files import Made
from monai_miadmark.gateway import GatewaySettings, Node, serve
from monai_miadmark.gateway.listening import TRANSFER_SYNTAXES
from monai_miadmark.options import ProtectOptions
from monai_miadmark.tasks import Job, KeyFile, ProtectTask, RemoveTask, Task


class Archive:
    """An SCP on a port of its own.

    Attributes:
        files: by SOP Instance UID, every file that was sent, in Part 10 form without preamble and meta.
        answers: statuses to give before objects are taken.
    """

    def __init__(self, tls: Any = None) -> None:
        self.files: dict[str, list[bytes]] = defaultdict(list)
        self.answers: list[int] = []
        self._tls = tls
        self._entity = AE("ARCHIVE")
        for context in AllStoragePresentationContexts:
            self._entity.add_supported_context(context.abstract_syntax, list(TRANSFER_SYNTAXES))
        self._entity.add_supported_context(Verification)
        self.port = 0
        self.start()

    def start(self) -> None:
        """Listen, on the same port as before."""
        self._server = self._entity.start_server(
            ("127.0.0.1", self.port),
            block=False,
            evt_handlers=[(evt.EVT_C_STORE, self._store)],
            ssl_context=self._tls,
        )
        self.port = self._server.server_address[1]

    def stop(self) -> None:
        """Hang up on everybody."""
        self._entity.shutdown()

    @property
    def node(self) -> Node:
        return Node("127.0.0.1", self.port, "ARCHIVE")

    def _store(self, event: evt.Event) -> int:
        if self.answers:
            return self.answers.pop(0)
        request: Any = event.request
        self.files[str(request.AffectedSOPInstanceUID)].append(request.DataSet.getvalue())
        return 0


@dataclass
class Running:
    """A gateway in a thread."""

    port: int
    queue: Path

    def node(self, title: str = "MIADMARK") -> Node:
        return Node("127.0.0.1", self.port, title)


@contextmanager
def running(folder: Path, task: Task, next_node: Node, **more: Any) -> Iterator[Running]:
    """A gateway; ends, in an orderly way, with the context."""
    settings = GatewaySettings(
        **{
            "queue": folder,
            "listening": Node("127.0.0.1", 0),
            "title": "MIADMARK",
            "callers": ("CT1", "MIADMARK"),
            "next_node": next_node,
            "reserve_bytes": 0,
            "pause": 0.02,
            "longest_pause": 0.1,
            **more,
        }
    )
    stopping, ports, ends = threading.Event(), queue.Queue[int](), queue.Queue[Any]()

    def run() -> None:
        try:
            ends.put(serve(settings, task, stopping, ports.put))
        except BaseException as error:
            ends.put(error)
            raise

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield Running(ports.get(timeout=60), folder)
    finally:
        stopping.set()
        thread.join()
    assert ends.get_nowait() is None


def send(node: Node, path: Path, title: str = "CT1", tls: Any = None) -> int | None:
    """C-STORE a file as it is: the status, ``None`` where no answer came, -1 where the association was refused."""
    import pydicom
    from pynetdicom import _config, build_context

    _config.STORE_SEND_CHUNKED_DATASET = True
    meta = pydicom.filereader.read_file_meta_info(path)
    context = build_context(meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID)
    entity = AE(title)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 30
    association = entity.associate(
        node.host, node.port, [context], node.title, tls_args=None if tls is None else (tls, "localhost")
    )
    if not association.is_established:
        return -1
    try:
        status: int | None = association.send_c_store(path).get("Status", None)
        return status
    finally:
        if association.is_established:
            association.release()
        else:
            association.abort()


def until(condition: Callable[[], bool], seconds: float = 90.0) -> None:
    """Wait for something to happen."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def protecting(keys: Path) -> ProtectTask:
    """For alice, with noise."""
    options = ProtectOptions(style="invisible", region="none")
    return ProtectTask((keys / "alice.pub",), options, overwrite=True, load=load_marker)


def restoring(keys: Path) -> RemoveTask:
    """With alice's key."""
    return RemoveTask((KeyFile(keys / "alice.key"),), overwrite=True)


@dataclass(frozen=True)
class Fragile(ProtectTask):
    """Dies of objects that hold certain bytes, as a decoder might."""

    def prepare(self) -> Callable[[Job], Made]:
        work = super().prepare()

        def fragile(job: Job) -> Made:
            if b"DEADLY" in job.source.read_bytes():
                os.abort()
            if b"LIKE PATIENT" in job.source.read_bytes():
                raise ValueError("unexpected value 'LIKE PATIENT'")
            return work(job)

        return fragile

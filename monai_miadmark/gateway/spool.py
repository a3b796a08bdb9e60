# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The gateway's queue on disk: whatever was acknowledged is in it until the next node has it.

Bytes are files, one folder for each object; what state an object is in stands in an SQLite database (WAL, synced at
every commit). A file is complete and synced before the database names it, and the database forgets it before it is
deleted: after a crash at any moment the database is right, and what it does not name is rubbish.

    received --(worker)--> ready --(sender)--> sent --(later)--> gone
        \\___________________\\___ dead

What an object was made into is on disk before it is sent for the first time. So each attempt sends the same bytes, also
after a crash between sending and noting that it was sent.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from monai_miadmark.atomic import atomic_write, make_folders
from monai_miadmark.gateway.part10 import ObjectIdentity, file_head
from monai_miadmark.locking import LOCK_NAME, FolderLock, LockedError

try:
    import fcntl
except ImportError:  # no POSIX system: FolderLock refuses
    fcntl = None  # type: ignore[assignment]

__all__ = ["Accepted", "Entry", "FullError", "Spool", "SpoolError", "SpoolStatus", "read_status", "requeue"]

_DATABASE = "queue.sqlite"
_OBJECTS, _DEAD = "objects", "dead"
_RESULT = "result"
_REASON = "reason.json"
_SCHEMA = 1
_MAX_REASON = 500
_ENTRY_BYTES = 16_384
"""What an object takes on disk beside its bytes: folders, blocks that are not full, its line in the database."""

_TABLES = """
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE objects (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    token TEXT NOT NULL,
    digest BLOB NOT NULL,
    generation INTEGER NOT NULL,
    settings TEXT NOT NULL,
    state TEXT NOT NULL,
    file TEXT NOT NULL,
    sop_class TEXT NOT NULL,
    instance TEXT NOT NULL,
    syntax TEXT NOT NULL,
    caller TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    due REAL NOT NULL DEFAULT 0,
    reason TEXT NOT NULL DEFAULT '',
    accepted REAL NOT NULL,
    changed REAL NOT NULL
);
CREATE INDEX by_digest ON objects (digest, id);
CREATE INDEX by_state ON objects (state, due, id);
CREATE UNIQUE INDEX by_token ON objects (token);
"""


class SpoolError(Exception):
    """The queue cannot be used; the message says why."""


class FullError(Exception):
    """There is no room for another object now."""


class Accepted(Enum):
    """What became of an object that came in; it is on disk in any case."""

    NEW = "new"
    KNOWN = "known"
    """The same bytes wait already."""
    AGAIN = "again"
    """The same bytes were sent, or failed, before: they are tried again."""


class Entry(NamedTuple):
    """An object in the queue.

    Attributes:
        number: in the order of arrival; the name of the object in logs.
        path: the file that the object's state is about: what came in, or what is to be sent.
        results: folder for what is made of it.
        identity: of the file at ``path``.
        attempts: that failed in this state, and counted.
    """

    number: int
    path: Path
    results: Path
    identity: ObjectIdentity
    attempts: int


@dataclass(frozen=True)
class SpoolStatus:
    """What is in a queue.

    Attributes:
        mode: ``protect`` or ``remove``.
        running: whether a gateway works on it now.
        counts: number of objects by state (``received``, ``ready``, ``sent``, ``dead``, ``gone``).
        bytes: on disk.
        oldest_seconds: age of the oldest object that is still to be sent; ``None`` if there is none.
        waiting: reasons why objects wait for another attempt, with their number.
        dead: reasons of dead objects, with their number.
    """

    mode: str
    running: bool
    counts: dict[str, int]
    bytes: int
    oldest_seconds: float | None
    waiting: dict[str, int]
    dead: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dict(vars(self))


class Spool:
    """The queue, open; to be used in a context. Its methods may be called from any thread.

    Args:
        folder: made if it is missing, for the owner only.
        mode: ``protect`` or ``remove``; a queue keeps to one.
        settings: digest of what results depend on; what was made with others is not sent again.
        limit_bytes: see :class:`~monai_miadmark.gateway.settings.GatewaySettings`.
        reserve_bytes: the same.
        keep_seconds: the same.
    """

    def __init__(
        self,
        folder: Path,
        mode: str,
        settings: str = "",
        limit_bytes: int = 1 << 40,
        reserve_bytes: int = 0,
        keep_seconds: float = 0.0,
    ) -> None:
        self.folder, self.mode, self.settings = folder, mode, settings
        self.limit_bytes, self.reserve_bytes, self.keep_seconds = limit_bytes, reserve_bytes, keep_seconds
        self.changed = threading.Condition()
        """Notified when an object arrives or changes its state."""
        self._lock = threading.RLock()
        self._held = FolderLock(folder, f"gateway --{mode}")
        self._arriving: set[bytes] = set()
        self._claimed: set[int] = set()
        self._used = 0

    @property
    def descriptor(self) -> int:
        """Of the lock; processes that hold a copy keep the queue locked."""
        return self._held.descriptor

    @property
    def used(self) -> int:
        """On disk, with what is arriving."""
        with self._lock:
            return self._used

    def __enter__(self) -> Spool:
        """Lock the queue and bring it in order.

        Raises:
            SpoolError: another gateway has it, or it cannot be used.
            OSError: the same, as the system says it.
        """
        make_folders(self.folder.parent)
        make_folders(self.folder, 0o700)
        if self.folder.stat().st_mode & 0o077:
            raise SpoolError("the queue holds images of patients, but its folder is open to others: chmod 700")
        try:
            self._held.__enter__()
        except LockedError as error:
            raise SpoolError(str(error)) from error
        try:
            for name in (_OBJECTS, _DEAD):
                (self.folder / name).mkdir(mode=0o700, exist_ok=True)
            with _database_errors():
                self._database = self._opened()
                self._recover()
            _sync(self.folder)
        except BaseException:
            self._held.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        with self._lock:
            self._database.close()
        self._held.__exit__(kind, error, trace)

    def accept(self, identity: ObjectIdentity, data: bytes | memoryview, caller: str) -> Accepted:
        """Take an object; it is durable when this returns.

        Args:
            identity: of the data set.
            data: the encoded data set.
            caller: AE title of who sent it.

        Raises:
            FullError: no room, or the same object is arriving from elsewhere just now.
            OSError: it could not be written; nothing is left of it.
            sqlite3.Error: the same.
        """
        digest = hashlib.sha256(file_head(identity))
        digest.update(data)
        key = digest.digest()
        need = len(data) + _ENTRY_BYTES
        with self._lock:
            if key in self._arriving:
                raise FullError
            before = self._last(key)
            if before is not None and self._revived(before):
                return Accepted.KNOWN if before["state"] in ("received", "ready") else Accepted.AGAIN
            # A further object made of the same source has other pixels: it must not have the same UID.
            generation = 1 if before is None or self.mode == "remove" else before["generation"] + 1
            self._make_room(need)
            self._arriving.add(key)
            self._used += need
        token = secrets.token_hex(16)
        folder = self.folder / _OBJECTS / token
        try:
            folder.mkdir(mode=0o700)
            (folder / _RESULT).mkdir(mode=0o700)
            file = f"{identity.instance}.dcm"
            atomic_write(folder / file, b"".join((file_head(identity, generation), data)), mode=0o600)
            _sync(folder.parent)
            now = time.time()
            columns = (token, key, generation, self.settings, "received", file, *identity, caller, need, now, now)
            with self._lock:
                self._database.execute(
                    "INSERT INTO objects (token, digest, generation, settings, state, file, sop_class, instance, syntax"
                    f", caller, bytes, accepted, changed) VALUES ({', '.join('?' * len(columns))})",
                    columns,
                )
        except BaseException:
            with self._lock:
                self._used -= need
            shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            with self._lock:
                self._arriving.discard(key)
        self._notify()
        return Accepted.NEW

    def claim(self) -> Entry | None:
        """The next object to be worked on, for the caller alone until it is told on or :meth:`unclaim` is called."""
        with self._lock:
            # Results may be larger than what came in. While there is no room, sending what is ready makes some; where
            # nothing is ready, one object at a time may exceed the limit, or nothing would ever move again.
            full = self._used >= self.limit_bytes
            if full and (self._claimed or self._count("ready")):
                return None
            # Claimed ones are few, and they are the first.
            rows = self._rows(
                "state = 'received' AND due <= ? ORDER BY id LIMIT ?", time.time(), len(self._claimed) + 1
            )
            row = next((row for row in rows if row["id"] not in self._claimed), None)
            if row is None:
                return None
            entry = self._entry(row)
            self._claimed.add(entry.number)
        return entry

    def clear(self, entry: Entry) -> None:
        """Delete what a run that was killed may have made of an object: nothing names it, and it was never sent.

        Raises:
            OSError: the object's folder cannot be used.
        """
        shutil.rmtree(entry.results, ignore_errors=True)
        entry.results.mkdir(mode=0o700)
        _sync(entry.results.parent)

    def unclaim(self, entry: Entry) -> None:
        """Give back an object that was not done."""
        with self._lock:
            self._claimed.discard(entry.number)

    def made(self, entry: Entry, result: Path, identity: ObjectIdentity) -> None:
        """The object's result is on disk; its source is deleted.

        Args:
            entry: as claimed.
            result: a file in ``entry.results``.
            identity: of the result.
        """
        size = result.stat().st_size + _ENTRY_BYTES
        file = f"{_RESULT}/{result.name}"
        self._change(entry, "ready", size=size, file=file, **identity._asdict())
        entry.path.unlink(missing_ok=True)

    def passed(self, entry: Entry) -> None:
        """The object is to be sent as it came."""
        self._change(entry, "ready")

    def ready(self, limit: int) -> list[Entry]:
        """Objects that may be sent now, the oldest first."""
        with self._lock:
            return [
                self._entry(row)
                for row in self._rows("state = 'ready' AND due <= ? ORDER BY id LIMIT ?", time.time(), limit)
            ]

    def sent(self, entry: Entry) -> None:
        """The next node has the object."""
        self._change(entry, "sent")

    def postponed(self, entry: Entry, seconds: float, reason: str, counted: bool = True) -> None:
        """An attempt failed, for which the object is to blame if it is ``counted``; the next one in ``seconds``."""
        with self._lock:
            self._database.execute(
                "UPDATE objects SET attempts = attempts + ?, due = ?, reason = ? WHERE id = ?",
                (int(counted), time.time() + seconds, reason[:_MAX_REASON], entry.number),
            )
            self._claimed.discard(entry.number)

    def died(self, entry: Entry, reason: str) -> None:
        """The object cannot be worked on, or sent: it stays in the folder ``dead``, with the reason."""
        folder = entry.results.parent
        note = {
            "object": entry.number,
            "reason": reason[:_MAX_REASON],
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        with contextlib.suppress(OSError):  # the database has it too
            atomic_write(folder / _REASON, json.dumps(note).encode(), overwrite=True, mode=0o600)
        self._change(entry, "dead", reason[:_MAX_REASON])
        with self._lock:
            self._place(folder.name, _DEAD)

    def requeue(self) -> int:
        """Try all dead objects again; how many there are."""
        with self._lock:
            rows = list(self._rows("state = 'dead'"))
            for row in rows:
                self._revived(row)
        return len(rows)

    def purge(self) -> None:
        """Delete what was sent long enough ago."""
        with self._lock:
            for row in self._rows("state = 'sent' AND changed <= ? ORDER BY id", time.time() - self.keep_seconds):
                self._forget(row)

    def status(self) -> SpoolStatus:
        """What is in it."""
        with self._lock:
            return _status(self._database, True)

    def _opened(self) -> sqlite3.Connection:
        """The database, made if it is missing."""
        path = self.folder / _DATABASE
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600))
        # Every statement is its own transaction unless one is begun.
        database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            database.row_factory = sqlite3.Row
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
            if not database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                lines = f"INSERT INTO about VALUES ('schema', '{_SCHEMA}'), ('mode', '{self.mode}');"
                database.executescript(f"BEGIN; {_TABLES} {lines} COMMIT;")
            about = dict(database.execute("SELECT name, value FROM about").fetchall())
            if about.get("schema") != str(_SCHEMA):
                raise SpoolError("the queue is of another version of this package")
            if about.get("mode") != self.mode:
                raise SpoolError(f"the queue belongs to a gateway --{about.get('mode')}")
        except BaseException:
            database.close()
            raise
        return database

    def _recover(self) -> None:
        """After whatever happened: delete what the database does not know, and put the rest where it belongs."""
        for place in (_OBJECTS, _DEAD):
            for folder in (self.folder / place).iterdir():
                row = self._database.execute("SELECT state FROM objects WHERE token = ?", (folder.name,)).fetchone()
                if row is None or row["state"] == "gone":
                    shutil.rmtree(folder)
                else:
                    self._place(folder.name, _DEAD if row["state"] == "dead" else _OBJECTS)
        self._database.execute("UPDATE objects SET due = 0 WHERE state IN ('received', 'ready')")
        total = self._database.execute("SELECT sum(bytes) FROM objects WHERE state != 'gone'").fetchone()[0]
        self._used = total or 0

    def _place(self, token: str, place: str) -> None:
        """Move an object's folder below ``place``, if it is not there."""
        source, target = (self.folder / name / token for name in ((_DEAD, _OBJECTS)[place == _DEAD], place))
        if source.is_dir():
            if place == _OBJECTS:
                (source / _REASON).unlink(missing_ok=True)
            os.rename(source, target)
            _sync(source.parent)
            _sync(target.parent)

    def _last(self, key: bytes) -> sqlite3.Row | None:
        """The newest object of a digest."""
        return next(iter(self._rows("digest = ? ORDER BY id DESC LIMIT 1", key)), None)

    def _revived(self, row: sqlite3.Row) -> bool:
        """Whether an object that came before does for the same that comes again; if it was over, it is not any more."""
        state = row["state"]
        if state in ("received", "ready"):
            return True
        if state == "gone" or (state == "sent" and row["settings"] != self.settings):
            return False
        made = row["file"].startswith(f"{_RESULT}/") or state == "sent"
        self._database.execute(
            "UPDATE objects SET state = ?, attempts = 0, due = 0, reason = '', changed = ? WHERE id = ?",
            ("ready" if made else "received", time.time(), row["id"]),
        )
        self._place(row["token"], _OBJECTS)
        self._notify()
        return True

    def _make_room(self, need: int) -> None:
        """Delete what was sent, the oldest first, until ``need`` bytes fit.

        Raises:
            FullError: they do not.
        """
        while self._used + need > self.limit_bytes:
            row = next(iter(self._rows("state = 'sent' ORDER BY id LIMIT 1")), None)
            if row is None:
                raise FullError
            self._forget(row)
        if shutil.disk_usage(self.folder).free - need < self.reserve_bytes:
            raise FullError

    def _forget(self, row: sqlite3.Row) -> None:
        """Delete what was sent. That it was stays known: what is made of the same source later is another object."""
        if self.mode == "remove":  # there, it is always the same object
            self._database.execute("DELETE FROM objects WHERE id = ?", (row["id"],))
        else:
            self._database.execute(
                "UPDATE objects SET state = 'gone', settings = '', file = '', sop_class = '', instance = '', "
                "syntax = '', caller = '', bytes = 0 WHERE id = ?",
                (row["id"],),
            )
        self._used -= row["bytes"]
        shutil.rmtree(self.folder / _OBJECTS / row["token"], ignore_errors=True)

    def _change(self, entry: Entry, state: str, reason: str = "", size: int | None = None, **columns: object) -> None:
        """Bring an object into its next state, in one statement.

        Args:
            entry: the object.
            state: the next state.
            reason: of death.
            size: what it takes on disk from now on.
            columns: further columns and their values.
        """
        with self._lock:
            before = self._row(entry)["bytes"]
            after = before if size is None else size
            columns |= {"state": state, "reason": reason, "bytes": after, "attempts": 0, "due": 0.0}
            columns["changed"] = time.time()
            assignments = ", ".join(f"{name} = ?" for name in columns)
            self._database.execute(f"UPDATE objects SET {assignments} WHERE id = ?", (*columns.values(), entry.number))
            self._used += after - before
            self._claimed.discard(entry.number)
        self._notify()

    def _row(self, entry: Entry) -> sqlite3.Row:
        """The line of an object."""
        return self._rows("id = ?", entry.number)[0]

    def _rows(self, condition: str, *values: object) -> list[sqlite3.Row]:
        """Objects that meet a condition."""
        return self._database.execute(f"SELECT * FROM objects WHERE {condition}", values).fetchall()

    def _count(self, state: str) -> int:
        """Objects in a state."""
        number: int = self._database.execute("SELECT count(*) FROM objects WHERE state = ?", (state,)).fetchone()[0]
        return number

    def _entry(self, row: sqlite3.Row) -> Entry:
        """An object as others see it."""
        folder = self.folder / _OBJECTS / row["token"]
        identity = ObjectIdentity(row["sop_class"], row["instance"], row["syntax"])
        return Entry(row["id"], folder / row["file"], folder / _RESULT, identity, row["attempts"])

    def _notify(self) -> None:
        """Wake whoever waits for work."""
        with self.changed:
            self.changed.notify_all()


def requeue(folder: Path) -> int:
    """Let the dead objects of a queue be tried again; how many there are. No gateway may be working on it.

    Raises:
        SpoolError: there is no queue, or a gateway has it.
    """
    mode = read_status(folder).mode
    with _database_errors(), Spool(folder, mode) as spool:
        return spool.requeue()


def read_status(folder: Path) -> SpoolStatus:
    """What is in the queue of a gateway, which may be running.

    Raises:
        SpoolError: there is no queue, or it cannot be read.
    """
    path = folder / _DATABASE
    if not path.is_file():
        raise SpoolError(f"{folder} holds no queue of a gateway")
    with _database_errors(), contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
        db.row_factory = sqlite3.Row
        return _status(db, _is_locked(folder / LOCK_NAME))


def _status(database: sqlite3.Connection, running: bool) -> SpoolStatus:
    """What a database says."""
    counts = {"received": 0, "ready": 0, "sent": 0, "dead": 0, "gone": 0}
    counts.update(database.execute("SELECT state, count(*) FROM objects GROUP BY state").fetchall())
    total, oldest = database.execute(
        "SELECT (SELECT sum(bytes) FROM objects WHERE state != 'gone'), "
        "(SELECT min(accepted) FROM objects WHERE state IN ('received', 'ready'))"
    ).fetchone()
    reasons = "SELECT reason, count(*) FROM objects WHERE state {} AND reason != '' GROUP BY reason LIMIT 20"
    return SpoolStatus(
        mode=database.execute("SELECT value FROM about WHERE name = 'mode'").fetchone()[0],
        running=running,
        counts=counts,
        bytes=total or 0,
        oldest_seconds=None if oldest is None else round(max(0.0, time.time() - oldest), 1),
        waiting=dict(map(tuple, database.execute(reasons.format("IN ('received', 'ready')")).fetchall())),
        dead=dict(map(tuple, database.execute(reasons.format("= 'dead'")).fetchall())),
    )


def _is_locked(path: Path) -> bool:
    """Whether a gateway holds the lock."""
    if fcntl is None or not path.is_file():
        return False
    with open(path, "rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@contextmanager
def _database_errors() -> Iterator[None]:
    """What SQLite says of a file that is damaged, none of its own, or not to be written."""
    try:
        yield
    except sqlite3.Error as error:
        raise SpoolError(f"the queue's database cannot be used ({error})") from error


def _sync(folder: Path) -> None:
    """Wait until the disk has the names in a folder.

    Raises:
        OSError: it has not: nothing may be acknowledged then.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

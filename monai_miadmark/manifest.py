# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The manifest of an output folder: what was done with each file, so that a job can be audited and gone on with.

``miadmark-manifest.jsonl`` is text, one JSON object a line, only ever appended to. Each line is on disk before the next
step is taken. There are three kinds:

* ``run``: a run begins; verb, version of the package, settings.
* ``intent``: a result is complete in memory and is going to be written: digests of source and outputs. If the run dies
  between the output and its ``file`` line, these digests prove that an output is whole, and whose it is.
* ``file``: one for each file that is done or has failed; complete in itself.

Each line ends with a MAC under a key of whoever runs jobs (``owner``), over the line and the MAC of the line before it;
a chain begins with each ``run``. What somebody else wrote, changed, moved or took out of the middle of a run counts as
not written: neither does an original pass for done, nor is anything deleted because of it.

Paths are relative: sources to the folder that was named on the command line, outputs to the output folder. No
line holds a secret, or a value out of an image's header; file names are as they are.
"""

from __future__ import annotations

import hmac
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple

from monai_miadmark import __version__
from monai_miadmark.atomic import sync_folder
from monai_miadmark.files import Stamp, open_regular
from monai_miadmark.owner import OwnerKeyError, owner_key

__all__ = [
    "MANIFEST_NAME",
    "SCHEMA",
    "Entry",
    "Manifest",
    "ManifestError",
    "Settings",
    "authentic_line",
    "manifest_key",
    "manifest_lines",
]

MANIFEST_NAME = "miadmark-manifest.jsonl"
SCHEMA = 2
_SCHEMAS = (1, SCHEMA)
"""Versions of lines that are known; those of version 1 had no MAC, and none of them is authentic."""

_MAX_LINE_BYTES = 1 << 20
"""Longer lines are no work of ours: a line names one file, and at most some thousand recipients."""

_LINES_AT_ONCE = 2
"""Lines that are appended in one step, at most."""

_MAX_INTENTS = 8
"""As many intents of one source are remembered: more than a file is tried, in more than one run."""

_FACTS = (
    *("recipients", "signer", "signature", "quality"),
    *("changed", "modality", "region", "effect", "warnings", "series"),
)
"""What an intent tells beside digests and sizes."""

_OPENING = b'{"schema"'
"""How every line begins."""

_HEX = frozenset("0123456789abcdef")

_MAC_BYTES = 32
_NO_MAC = bytes(_MAC_BYTES)
"""Stands before the first line of a run."""
_MAC_START, _MAC_END = b', "mac": "', b'"}'
_MAC_LENGTH = len(_MAC_START) + 2 * _MAC_BYTES + len(_MAC_END)


class ManifestError(ValueError):
    """The manifest is damaged, of a later version, or of a job that this one cannot go on with."""


class Settings(NamedTuple):
    """What results depend on: the verb, and its options as JSON values."""

    verb: str
    options: dict[str, Any]

    @property
    def key(self) -> str:
        """Equal for equal settings."""
        return json.dumps([self.verb, self.options], sort_keys=True)


@dataclass(frozen=True)
class Entry:
    """What the manifest says of one source.

    Attributes:
        settings: :attr:`Settings.key` of the run.
        source: stamp of the source; of an intent, as it was read.
        outputs: path below the folder (POSIX) and stamp, the image file last; ``mtime_ns`` is 0 in intents.
        facts: of an intent, what its ``file`` line was going to say beside that.
    """

    settings: str
    source: Stamp
    outputs: tuple[tuple[str, Stamp], ...]
    facts: Mapping[str, Any]


class Manifest:
    """The manifest of a folder, open for appending.

    Use it inside the folder's lock, as a context.

    Args:
        folder: the output folder.
        settings: of this run.
        read: take in what earlier runs noted.
        key: that lines are authenticated with; default: :func:`manifest_key`.

    Attributes:
        finished: by source: the outputs that were last said to be in place. Empty without ``read``.
        intended: by source: the intents after which they were not said to be in place, the last one last; several
            where a worker that was given up may still have written what it was about to. Empty without ``read``.
        earlier: settings of the last run; ``None`` if there is none, or without ``read``.
        ignored: lines that are not authentic, and were not taken in.

    Raises:
        ManifestError: the file is not a manifest that this version understands.
        OSError: it cannot be read or written.
    """

    def __init__(self, folder: Path, settings: Settings, read: bool, key: bytes | None = None) -> None:
        self.path = folder / MANIFEST_NAME
        self.settings = settings
        self.finished: dict[str, Entry] = {}
        self.intended: dict[str, tuple[Entry, ...]] = {}
        self.earlier: Settings | None = None
        self.ignored = 0
        self._begun = False
        self._key = manifest_key() if key is None else key
        self._mac = _NO_MAC
        self._worth = True
        """Whether it says more than what this run could not do."""
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        self._descriptor = os.open(self.path, flags, 0o644)
        try:
            sync_folder(folder)  # an intent is of no use where the name of its manifest is lost
            self._size = self._cut_tail()
            self._worth = self._size > 0
            if read:
                self._read()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Manifest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; one in which nothing stands, or nothing but failures, is taken away."""
        if self._descriptor >= 0:
            try:
                with suppress(OSError):
                    if not self._worth:
                        self.path.unlink()
            finally:
                os.close(self._descriptor)
                self._descriptor = -1

    def intend(self, source: str, stamp: Stamp, outputs: Mapping[str, Stamp], facts: Mapping[str, Any]) -> None:
        """Note what is about to be written.

        Raises:
            OSError: it cannot be noted, and must not be written then.
        """
        self._worth = True
        self._append(
            {
                "kind": "intent",
                "source": source,
                "source_sha256": stamp.sha256,
                "source_bytes": stamp.size,
                "source_mtime_ns": stamp.mtime_ns,
                "outputs": [{"path": path, "sha256": out.sha256, "bytes": out.size} for path, out in outputs.items()],
                "facts": facts,
            }
        )

    def done(
        self,
        source: str,
        stamp: Stamp,
        outputs: Mapping[str, Stamp],
        facts: Mapping[str, Any],
        seconds: float | None,
    ) -> None:
        """Note that the outputs of a source are in place.

        Args:
            source: path of the source.
            stamp: of the source.
            outputs: paths and stamps, the image file last; a sidecar may stand before it.
            facts: ``recipients``, ``signer``, ``signature``, ``quality`` and ``changed``.
            seconds: what it took; ``None`` where an earlier run did it and could not say so.

        Raises:
            OSError: it cannot be noted.
        """
        self._worth = True
        *sidecars, (path, written) = outputs.items()
        line = {
            **self._head(source, "done", seconds),
            "source_sha256": stamp.sha256,
            "source_bytes": stamp.size,
            "source_mtime_ns": stamp.mtime_ns,
            "output": path,
            "output_sha256": written.sha256,
            "output_bytes": written.size,
            "output_mtime_ns": written.mtime_ns,
            "sidecar": None,
            **facts,
        }
        for path, written in sidecars:
            line["sidecar"] = {
                "path": path,
                "sha256": written.sha256,
                "bytes": written.size,
                "mtime_ns": written.mtime_ns,
            }
        self._append(line)

    def failed(self, source: str, kind: str, message: str | None, seconds: float) -> None:
        """Note that a source was not done.

        Args:
            source: its path.
            kind: class of the error.
            message: what the error says, where that is known to hold no value of a patient.
            seconds: what it took.

        Raises:
            OSError: it cannot be noted.
        """
        self._append({**self._head(source, "failed", seconds), "reason": {"class": kind, "message": message}})

    def _head(self, source: str, status: str, seconds: float | None) -> dict[str, Any]:
        """What all ``file`` lines have in common."""
        return {
            "kind": "file",
            "verb": self.settings.verb,
            "source": source,
            "status": status,
            "seconds": None if seconds is None else round(seconds, 3),
            "options": self.settings.options,
        }

    def _append(self, content: Mapping[str, Any]) -> None:
        """Append a line, and the line of the run before the first one; on disk when this returns."""
        lines = []
        if not self._begun:
            verb, options = self.settings
            lines.append({"kind": "run", "verb": verb, "version": __version__, "options": options})
        lines.append(dict(content))
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        mac, data = self._mac, b""
        for line in lines:
            written, mac = authentic_line({"schema": SCHEMA, "time": now, **line}, self._key, mac)
            data += written
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(self._descriptor, left) :]
            os.fsync(self._descriptor)
        except BaseException:
            # Half a line in the middle of the file would spoil it; at its end, the next run would cut it off.
            with suppress(OSError):
                os.ftruncate(self._descriptor, self._size)
            raise
        self._size += len(data)
        self._begun, self._mac = True, mac

    def _cut_tail(self) -> int:
        """Cut off what a run that was killed left of its last lines; the size of what stays."""
        size = os.fstat(self._descriptor).st_size
        start = max(0, size - 2 * _MAX_LINE_BYTES)
        tail = os.pread(self._descriptor, size - start, start)
        *lines, rest = tail.split(b"\n")
        kept = len(tail) - len(rest)
        # A crash of the machine may also leave lines of which only the end is there: those of the last step.
        for _ in range(_LINES_AT_ONCE):
            if lines and _parsed(lines[-1]) is None:
                kept -= len(lines.pop()) + 1
        whole = _parsed(lines[-1]) is not None if lines else not start and _OPENING.startswith(tail[: len(_OPENING)])
        if not whole and tail.strip(b"\0"):
            raise ManifestError(f"{self.path} is not a manifest, or it is damaged")
        kept += start
        if kept != size:
            os.ftruncate(self._descriptor, kept)
            os.fsync(self._descriptor)
        return kept

    def _read(self) -> None:
        """Take in all lines."""
        current: Settings | None = None
        for number, line in self._lines():
            if line is None:
                self.ignored += 1
                continue
            try:
                kind = line["kind"]
                if kind == "run":
                    current = self.earlier = Settings(str(line["verb"]), dict(line["options"]))
                    key = current.key
                    continue
                source = _relative(line["source"])
                if current is None:
                    raise ValueError("no run has begun")
                if kind == "file" and line["status"] == "failed":
                    continue  # what was done before, or at least begun, is judged by what is on disk
                if kind == "file" and line["status"] == "done":
                    facts = {"series": line.get("series")}
                    self.finished[source] = Entry(key, _stamp(line, "source_"), _outputs(line), facts)
                    self.intended.pop(source, None)
                elif kind == "intent":
                    stamps = tuple((_relative(out["path"]), _stamp(out, "")) for out in line["outputs"])
                    if not stamps:
                        raise ValueError("nothing is intended")
                    facts = {name: line["facts"].get(name) for name in _FACTS}
                    entry = Entry(key, _stamp(line, "source_"), stamps, facts)
                    self.intended[source] = (*self.intended.get(source, ())[-_MAX_INTENTS + 1 :], entry)
                else:
                    raise ValueError("neither run, intent nor file")
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise ManifestError(f"{self.path}: line {number} is not one of a manifest") from error

    def _lines(self) -> Iterator[tuple[int, dict[str, Any] | None]]:
        """All lines with their numbers, from 1; ``None`` for those that are not authentic."""
        with open(os.dup(self._descriptor), "rb") as stream:
            stream.seek(0)
            yield from _numbered(stream, self.path, self._key)


def manifest_key() -> bytes:
    """Key (32 bytes) of this user for manifests.

    Raises:
        ManifestError: the owner's secret cannot be used.
    """
    try:
        return owner_key("manifest")
    except OwnerKeyError as error:
        raise ManifestError(str(error)) from error


def authentic_line(content: Mapping[str, Any], key: bytes, before: bytes) -> tuple[bytes, bytes]:
    """A line of a manifest with its MAC.

    Args:
        content: JSON object of the line, not empty.
        key: 32 bytes.
        before: MAC of the line before it (32 bytes); zeros at the beginning of a run.

    Returns:
        The line with its line end, and its MAC.
    """
    text = json.dumps(content).encode("ascii")
    mac = hmac.digest(key, before + text, "sha256")
    return text[:-1] + _MAC_START + mac.hex().encode() + _MAC_END + b"\n", mac


def _mac_of(line: bytes, key: bytes, before: bytes) -> bytes | None:
    """MAC of a line, or ``None`` if the line does not end with it."""
    line = line.removesuffix(b"\n")
    text, end = line[:-_MAC_LENGTH] + b"}", line[-_MAC_LENGTH:]
    mac = hmac.digest(key, before + text, "sha256")
    return mac if hmac.compare_digest(end, _MAC_START + mac.hex().encode() + _MAC_END) else None


def manifest_lines(folder: Path, key: bytes | None = None) -> Iterator[dict[str, Any]]:
    """What the manifest of a folder says, line by line, without changing it; for whoever tells of a job.

    Half a line at its end, which a run that was killed may leave, is left out, and so are lines that are not authentic.

    Args:
        folder: the folder of the manifest.
        key: that lines are authenticated with; default: :func:`manifest_key`.

    Raises:
        ManifestError: the file is not a manifest that this version understands.
        OSError: there is none, or it cannot be read.
    """
    path = folder / MANIFEST_NAME
    with open_regular(path) as (stream, _):
        for _, found in _numbered(stream, path, manifest_key() if key is None else key, unfinished=True):
            if found is not None:
                yield found


def _numbered(
    stream: BinaryIO, path: Path, key: bytes, unfinished: bool = False
) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """All lines with their numbers, from 1; ``None`` for those that are not authentic.

    ``unfinished``: the last one may be half a line.
    """
    number = 0
    before: bytes | None = None  # no run of ours has begun, or its chain is broken
    while line := stream.readline(_MAX_LINE_BYTES):
        number += 1
        found = _parsed(line)
        if found is None:
            if unfinished and not line.endswith(b"\n") and not stream.read(1):
                return
            raise ManifestError(f"{path}: line {number} is damaged")
        if found.get("schema") not in _SCHEMAS:
            raise ManifestError(f"{path}: line {number} is of a version that is not known here")
        if found.get("kind") == "run":
            before = _NO_MAC
        before = None if before is None else _mac_of(line, key, before)
        yield number, None if before is None else found


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The object of a line, or ``None``."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _relative(path: Any) -> str:
    """A path that stays below its folder."""
    if not isinstance(path, str) or not path or "\0" in path:
        raise ValueError("not a path")
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or not pure.parts:
        raise ValueError("a path that leads out of the folder")
    return path


def _stamp(line: Mapping[str, Any], prefix: str) -> Stamp:
    """The stamp whose members begin with ``prefix``."""
    digest, size, time = line[f"{prefix}sha256"], line[f"{prefix}bytes"], line.get(f"{prefix}mtime_ns", 0)
    if not isinstance(digest, str) or len(digest) != 64 or not set(digest) <= _HEX:
        raise ValueError("not a digest")
    if not isinstance(size, int) or not isinstance(time, int):
        raise ValueError("not a number")
    return Stamp(digest, size, time)


def _outputs(line: Mapping[str, Any]) -> tuple[tuple[str, Stamp], ...]:
    """Outputs of a ``file`` line, the image file last."""
    image = (_relative(line["output"]), _stamp(line, "output_"))
    sidecar = line.get("sidecar")
    return (image,) if sidecar is None else ((_relative(sidecar["path"]), _stamp(sidecar, "")), image)

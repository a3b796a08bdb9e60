# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""A disk that loses power, and calls that fail: what SQLite's tests do to SQLite, done to files of this package.

A :class:`Disk` watches a folder while something is written there. After each call of the system it knows what the disk
has for certain (content of files since their last ``fsync``, names in folders since the last ``fsync`` of the folder),
and what it may have: any of the states between. :meth:`Disk.after_power_loss` builds folders as they may be found then.

A :class:`Fault` lets one call fail, the first, the second, and so on.
"""

from __future__ import annotations

import builtins
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest

from monai_miadmark import atomic

CALLS = ("open", "write", "fsync", "ftruncate", "link", "replace", "rename", "unlink", "remove", "mkdir", "rmdir")
"""Functions of ``os`` that change a disk, or wait for one."""

Listing = dict[str, int]
"""Names of a folder with their inodes."""


@dataclass
class State:
    """What a disk has, and may have, at one moment.

    Attributes:
        names: by inode of a folder: its listings since the last sync, that of the sync first.
        durable: by inode of a file: its content at the last sync.
        content: the same now.
        folders: inodes of folders.
    """

    names: dict[int, list[Listing]]
    durable: dict[int, bytes]
    content: dict[int, bytes]
    folders: set[int]


@dataclass
class Disk:
    """Watches a folder that is on the disk already, with all that is in it.

    Attributes:
        root: the folder.
        states: after each call.
        calls: their names.
    """

    root: Path
    states: list[State] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        found = self._look()
        self._root = os.stat(self.root).st_ino
        self._names = {inode: [listing] for inode, listing in found.names.items()}
        self._durable = dict(found.content)
        self._content: dict[int, bytes] = {}
        self._keep("", found)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Watch what is done inside."""
        with pytest.MonkeyPatch.context() as patch:
            for name in CALLS:
                patch.setattr(os, name, self._watched(name, getattr(os, name)))
            yield

    def _watched(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **more: Any) -> Any:
            known = self._inodes() if name == "open" else set()
            result = call(*arguments, **more)
            with pytest.MonkeyPatch.context() as patch:  # looking is no call
                for each in CALLS:
                    patch.setattr(os, each, getattr(os, each))
                self._seen(name, arguments, result, known)
            return result

        return watched

    def _seen(self, name: str, arguments: tuple[Any, ...], result: Any, known: set[int]) -> None:
        """Take in what a call did."""
        found = self._look()
        if name == "open":
            inode = os.fstat(result).st_ino
            if inode not in known:  # made just now; its number may have been another file's
                self._durable.pop(inode, None)
                self._content.pop(inode, None)
        for inode, listing in found.names.items():
            listings = self._names.setdefault(inode, [{}])
            if listings[-1] != listing:
                listings.append(listing)
        if name == "fsync":
            inode = os.fstat(arguments[0]).st_ino
            if inode in found.names:
                self._names[inode] = [found.names[inode]]
            elif inode in found.content:
                self._durable[inode] = found.content[inode]
        self._keep(name, found)

    def _keep(self, name: str, found: State) -> None:
        """Remember this moment, if anything is different from the one before."""
        names = {inode: list(listings) for inode, listings in self._names.items()}
        self._content |= found.content  # what lost its last name is there still, for a disk that has not heard of it
        self.states.append(State(names, dict(self._durable), dict(self._content), set(found.names)))
        self.calls.append(name)

    def _inodes(self) -> set[int]:
        return {path.lstat().st_ino for path in self.root.rglob("*")}

    def _look(self) -> State:
        """The folder as the system shows it."""
        found = State({}, {}, {}, set())
        for base, _, _ in os.walk(self.root):
            entries = list(os.scandir(base))
            found.names[os.stat(base).st_ino] = {entry.name: entry.inode() for entry in entries}
            for entry in entries:
                if entry.is_file(follow_symlinks=False):
                    with builtins.open(entry.path, "rb") as stream:
                        found.content[entry.inode()] = stream.read()
        return found

    def after_power_loss(self, index: int, target: Path, rng: Random | None, reordered: bool = False) -> None:
        """Build the folder as it may be found when power was lost after a call.

        Args:
            index: of the call.
            target: where, which may be the folder itself; what is there is deleted.
            rng: what the disk has of that which it need not have; ``None``: nothing.
            reordered: it has all names, and of contents that were not synced half or nothing.
        """
        state = self.states[index]
        shutil.rmtree(target, ignore_errors=True)

        def listing(inode: int) -> Listing:
            listings = state.names.get(inode, [{}])
            return listings[-1] if reordered else rng.choice(listings) if rng else listings[0]

        def content(inode: int) -> bytes:
            now, before = state.content.get(inode, b""), state.durable.get(inode, b"")
            if now == before:
                return now
            kept = before if now.startswith(before) else b""  # what was appended to has what it had
            rest = now[len(kept) :]
            half, zeros = kept + rest[: len(rest) // 2], kept + bytes(len(rest))
            return half if reordered else rng.choice([before, now, half, zeros]) if rng else before

        def build(inode: int, path: Path) -> None:
            path.mkdir()
            for name, each in listing(inode).items():
                if each in state.folders:
                    build(each, path / name)
                else:
                    (path / name).write_bytes(content(each))

        build(self._root, target)

    def losses(self, target: Path, seed: int = 0, more: int = 2) -> Iterator[tuple[str, Path]]:
        """Folders as they may be found, after each call, with a description of each."""
        for index, name in enumerate(self.calls):
            variants: list[tuple[str, Random | None, bool]] = [("nothing more", None, False), ("names", None, True)]
            variants += [(f"some {n}", Random(seed * 1000 + index * 10 + n), False) for n in range(more)]
            for what, rng, reordered in variants:
                self.after_power_loss(index, target, rng, reordered)
                yield f"after call {index} ({name}), the disk has {what}", target


class Fault:
    """Lets one call fail.

    Args:
        number: which one, from 0.
        error: what it raises.
    """

    def __init__(self, number: int, error: BaseException) -> None:
        self.number, self.error = number, error
        self.seen = 0

    @property
    def struck(self) -> bool:
        """Whether there were that many calls."""
        return self.seen > self.number

    @contextmanager
    def injected(self) -> Iterator[None]:
        """Count the calls inside, and let one fail."""
        with pytest.MonkeyPatch.context() as patch:
            for name in CALLS:
                patch.setattr(os, name, self._failing(getattr(os, name)))
            patch.setattr(atomic, "open", self._stream, raising=False)
            yield

    def _failing(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def failing(*arguments: Any, **more: Any) -> Any:
            self._strike()
            return call(*arguments, **more)

        return failing

    def _strike(self) -> None:
        self.seen += 1
        if self.seen == self.number + 1:
            raise self.error

    def _stream(self, descriptor: int, mode: str) -> Any:
        """A stream whose writing is a call too, of which half may be done when it fails."""
        stream = builtins.open(descriptor, mode)
        write, fault = stream.write, self

        class Failing:
            def __enter__(self) -> Failing:
                return self

            def __exit__(self, *raised: object) -> None:
                stream.close()

            def write(self, data: bytes) -> int:
                try:
                    fault._strike()
                except BaseException:
                    write(data[: len(data) // 2])
                    raise
                return write(data)

            def flush(self) -> None:
                stream.flush()

            def fileno(self) -> int:
                return stream.fileno()

        return Failing()


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder, by relative path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if stat.S_ISREG(path.lstat().st_mode)
    }

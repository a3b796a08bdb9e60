# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Files by URL: objects of an S3 store under paths that do what paths of files do, as far as folder jobs need it.

Which store that is, and who may use it, is said where all programs for S3 look: environment, ``~/.aws``, role of the
machine (``AWS_ENDPOINT_URL`` for stores other than Amazon's). No URL here holds a secret, and no secret is passed on.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path, PosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

__all__ = ["RemotePath", "parse_place", "put_all"]

_SCHEME = "s3"
_MARK = f"{_SCHEME}:/"
"""How a path begins that stands for a URL: what ``pathlib`` makes of ``s3://``."""

_NANOSECONDS = 10**9

_CONNECTION = {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 5, "mode": "standard"}}
"""botocore's, in seconds; a store that is slow is asked again, and one that is gone does not hold a job up for ever."""


class RemotePath(PosixPath):
    """Path of an object, ``s3://BUCKET/KEY``, or of all objects whose keys begin with ``KEY/``.

    What ``pathlib`` does by computing works. What it does on disk is done in the store, where this class says how; all
    else raises ``TypeError``, because such a path is none of this machine's. Errors of the store are ``OSError`` with
    texts of our own: what a store says may quote keys and credentials' names. Make them with :func:`parse_place`.
    """

    def __str__(self) -> str:
        """The URL."""
        text = super().__str__()
        return f"{_SCHEME}://{text.removeprefix(_MARK)}" if text.startswith(_MARK) else text

    def __fspath__(self) -> str:
        """There is none."""
        raise TypeError(f"{self} is no file of this machine")

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Size and time of last change (whole seconds, as stores keep it) of an object.

        Raises:
            FileNotFoundError: there is no such object.
            OSError: the store cannot be asked.
        """
        with _told(self):
            found = _store().info(self._place)
        if found["type"] != "file":
            raise FileNotFoundError(errno.ENOENT, "no such object", str(self))
        return _status(found)

    def lstat(self) -> os.stat_result:
        """The same as :meth:`stat`: stores have no links."""
        return self.stat()

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        """Whether there is an object of this name.

        Raises:
            OSError: the store cannot be asked.
        """
        try:
            self.stat()
        except FileNotFoundError:
            return False
        return True

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """The same as :meth:`exists`."""
        return self.exists()

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """Whether there are objects below this name, and none of this name.

        Raises:
            OSError: the store cannot be asked.
        """
        try:
            with _told(self):
                return bool(_store().info(self._place)["type"] == "directory")
        except FileNotFoundError:
            return False

    def is_symlink(self) -> bool:
        """Never."""
        return False

    def resolve(self, strict: bool = False) -> RemotePath:
        """The path itself; ``strict``: which must exist."""
        if strict:
            self.stat()
        return self

    def samefile(self, other_path: str | os.PathLike[str]) -> bool:
        """Whether both are the same object."""
        return self == other_path

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: stores have no folders."""

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete an object.

        Raises:
            FileNotFoundError: there is none, and ``missing_ok`` is false.
            OSError: the store cannot be asked, or refuses.
        """
        if not missing_ok:
            self.stat()  # a store does not mind that there is nothing to delete
        with suppress(FileNotFoundError), _told(self):
            _store().rm_file(self._place)

    def read_bytes(self) -> bytes:
        """The content.

        Raises:
            FileNotFoundError: there is no such object.
            OSError: the store cannot be asked.
        """
        with _told(self):
            data: bytes = _store().cat_file(self._place, max_concurrency=1)
        return data

    def walk_objects(self) -> Iterator[tuple[RemotePath, os.stat_result | None]]:
        """All objects below this name, sorted, with size and time; ``None`` for keys that no path has.

        Raises:
            OSError: the store cannot be asked.
        """
        prefix = f"{self._place}/"
        with _told(self):
            found = _store().find(prefix, detail=True)
        for name in sorted(found):
            if found[name]["type"] != "file" or name.endswith("/"):
                continue  # what consoles make in place of folders
            path = RemotePath(f"{_MARK}{name}")
            yield path, _status(found[name]) if _is_plain(name) else None

    @property
    def _place(self) -> str:
        """Bucket and key."""
        return str(self).removeprefix(f"{_SCHEME}://")


def parse_place(text: str) -> Path:
    """A path or URL as a person names it.

    Args:
        text: a path, ``file:///PATH``, ``s3://BUCKET`` or ``s3://BUCKET/KEY``.

    Returns:
        A path of this machine, or a :class:`RemotePath`.

    Raises:
        ValueError: a URL that is not understood, or that holds more than bucket and key.
        ModuleNotFoundError: what S3 needs is not installed.
    """
    scheme, separator, rest = text.partition("://")
    if not separator or "/" in scheme:
        return Path(text)
    if scheme == "file":
        parts = urlsplit(text)
        if parts.netloc not in ("", "localhost") or not parts.path or parts.query or parts.fragment:
            raise ValueError("a file:// URL names a file of this machine: file:///PATH")
        return Path(unquote(parts.path))
    if scheme != _SCHEME:
        raise ValueError("URLs are s3://BUCKET/KEY or file:///PATH")
    place = rest.removesuffix("/")
    if "@" in place.partition("/")[0] or ":" in place.partition("/")[0]:
        raise ValueError("a URL names bucket and key only; credentials come from the environment or ~/.aws")
    if not _is_plain(place):
        raise ValueError("a key that has empty parts, '.', '..', '?' or control characters cannot be named")
    if find_spec("s3fs") is None:
        raise ModuleNotFoundError("s3fs is not installed: pip install 'monai-miadmark[remote]'", name="s3fs")
    return RemotePath(f"{_MARK}{place}")


def put_all(outputs: Sequence[tuple[RemotePath, bytes]], overwrite: bool) -> None:
    """Write objects that belong together, each whole or not at all, one after the other.

    A store shows an object when all of it has arrived. Without ``overwrite`` it is asked to take it only under a name
    that is free (``If-None-Match: *``), which it decides in one step.

    Raises:
        FileExistsError: a name is taken and ``overwrite`` is false; what was written before it is taken away.
        OSError: the store cannot be asked, or refuses; what was new is taken away, as far as the store lets us.
    """
    created: list[RemotePath] = []
    try:
        for path, data in outputs:
            if overwrite:
                with _told(path):
                    _store().pipe_file(path._place, data)
            else:
                _create(path, data)
                created.append(path)
    except BaseException:
        # A file without its sidecar, or the other way round, would only mislead.
        for path in created:
            with suppress(OSError):
                path.unlink(missing_ok=True)
        raise


def _create(path: RemotePath, data: bytes) -> None:
    """Write an object whose name must be free."""
    try:
        with _told(path):
            _store().pipe_file(path._place, data, mode="create")
    except OSError as error:
        if not path.exists():
            raise
        # The answer to a first attempt may have been lost: then what is there are these very bytes.
        if path.stat().st_size != len(data) or path.read_bytes() != data:
            raise FileExistsError(errno.EEXIST, "the object exists", str(path), None, str(path)) from error


def _store() -> Any:
    """The file system of ``fsspec``; one for each thread, nothing that it was told is kept from call to call."""
    import fsspec

    return fsspec.filesystem(_SCHEME, use_listings_cache=False, config_kwargs=_CONNECTION)


def _is_plain(place: str) -> bool:
    """Whether bucket and key are the parts of a path, and nothing in them has a meaning of its own."""
    parts = place.split("/")
    return all(part not in ("", ".", "..") for part in parts) and place.isprintable() and "?" not in place


def _status(found: dict[str, Any]) -> os.stat_result:
    """What ``stat`` would say of an object."""
    changed: Any = found.get("LastModified")
    seconds = int(changed.timestamp()) if changed else 0
    fields = (stat.S_IFREG | 0o644, 0, 0, 1, 0, 0, int(found["size"]), seconds, seconds, seconds)
    return os.stat_result(fields, {"st_mtime_ns": seconds * _NANOSECONDS})


@contextmanager
def _told(path: RemotePath) -> Iterator[None]:
    """Errors of the store as those of a disk, without what the store says."""
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, "no such object", str(path)) from None
    except PermissionError:
        raise PermissionError(errno.EACCES, "the store refuses access", str(path)) from None
    except Exception as error:  # botocore, aiohttp and s3fs have classes of their own for many things
        text = f"the store failed ({type(error).__name__})"
        raise OSError(errno.EIO, text, str(path)) from None

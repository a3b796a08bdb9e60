# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""One file in, one file out: reading, sidecars, names, and writing so that no half of a file is ever seen."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from monai_miadmark import pipeline
from monai_miadmark.errors import MIADMarkError, UnsupportedImageError
from monai_miadmark.formats import carrier_for
from monai_miadmark.keys import KeyIdentity, Recipient, Signer, Verifier
from monai_miadmark.marking import Marker
from monai_miadmark.masks import read_mask
from monai_miadmark.options import ProtectOptions
from monai_miadmark.seal import EnvelopeInfo

__all__ = [
    "SIDECAR_SUFFIX",
    "TEMPORARY_SUFFIX",
    "Output",
    "ProtectedSource",
    "atomic_write",
    "atomic_write_all",
    "grant_file",
    "inspect_file",
    "protect_file",
    "protected_name",
    "read_protected",
    "remove_file",
    "restored_name",
    "revoke_file",
    "safe_name",
    "sidecar_path",
    "verify_file",
]

SIDECAR_SUFFIX = ".miadmark"
"""``NAME.EXT.miadmark`` beside a protected file holds its sealed record where the file itself does not."""

TEMPORARY_SUFFIX = ".miadmark-tmp"
"""End of the names under which outputs are written before they get their own."""

_HEAD_BYTES = 65536
"""Enough of a file to tell its format."""

_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}
"""How file systems without hard links (exFAT, some network shares) say so."""


class Output(NamedTuple):
    """A file to be written."""

    path: Path
    data: bytes


@dataclass(frozen=True, repr=False)
class ProtectedSource:
    """A protected file as it lies on disk.

    Attributes:
        path: the image file.
        data: its bytes.
        envelope: the sidecar's bytes, ``None`` where there is no sidecar (the record is in the file then).
        mode: permission bits of the image file.
    """

    path: Path
    data: bytes
    envelope: bytes | None
    mode: int


def sidecar_path(path: Path) -> Path:
    """Where the sidecar of an image file lies."""
    return path.with_name(path.name + SIDECAR_SUFFIX)


def safe_name(name: str) -> str:
    """A file name that came out of a record, if it is one.

    A record is made by whoever protected the file, and that may be an attacker who knows our public key: the name must
    not lead anywhere.

    Raises:
        ValueError: empty, a path, a parent folder, or with characters that no file name has.
    """
    if not name or name in (".", "..") or any(c in "/\\" or not c.isprintable() for c in name) or name[1:2] == ":":
        raise ValueError("the record's file name is not a plain file name: refused")
    return name


def atomic_write(path: Path, data: bytes, overwrite: bool = False, mode: int | None = None) -> None:
    """Write a file that either is there whole or is not there.

    Args:
        path: final name; its folder must exist.
        data: the content.
        overwrite: replace what has this name; otherwise that is an error.
        mode: permission bits before the umask; default 0o666.

    Raises:
        FileExistsError: the name is taken and ``overwrite`` is false.
        OSError: nothing was written, and no temporary file is left.
    """
    atomic_write_all([Output(path, data)], overwrite, mode)


def atomic_write_all(outputs: Sequence[Output], overwrite: bool = False, mode: int | None = None) -> None:
    """:func:`atomic_write` of files that belong together: all of them are complete on disk before the first is named.

    Raises:
        FileExistsError: a name is taken and ``overwrite`` is false; none was written.
        OSError: none was written (with ``overwrite``, files replaced before the error stay replaced).
    """
    staged: list[tuple[Path, Path]] = []
    created: list[Path] = []
    try:
        for output in outputs:
            temporary = output.path.with_name(f".{secrets.token_hex(8)}{TEMPORARY_SUFFIX}")
            staged.append((temporary, output.path))
            _write_synced(temporary, output.data, 0o666 if mode is None else mode)
        for temporary, path in staged:
            if overwrite:
                os.replace(temporary, path)
            else:
                _name_new(temporary, path)
                created.append(path)
    except BaseException:
        # A file without its sidecar, or the other way round, would only mislead.
        for path in created:
            path.unlink(missing_ok=True)
        raise
    finally:
        for temporary, _ in staged:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
    for folder in {path.parent for _, path in staged}:
        _sync_folder(folder)


def _write_synced(path: Path, data: bytes, mode: int) -> None:
    """Write a new file and wait until the disk has it."""
    # Never through a link that someone put there, never into a file that exists.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    with open(os.open(path, flags, mode), "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _name_new(temporary: Path, path: Path) -> None:
    """Give a finished file its name, which must be free."""
    try:
        os.link(temporary, path)  # fails where the name is taken, in one step; a rename would replace it
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))  # reserves the name, then
        try:
            os.replace(temporary, path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def _sync_folder(folder: Path) -> None:
    """Wait until the disk has the names in a folder, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def protected_name(path: Path) -> str:
    """Name that the protected form of a file will have, from its first bytes; unreadable files keep theirs."""
    with contextlib.suppress(MIADMarkError, OSError, ValueError):
        return carrier_for(_read(path, _HEAD_BYTES)[0], path.name).output_name(path.name)
    return path.name


def restored_name(path: Path, identities: Sequence[KeyIdentity]) -> str | None:
    """Name that the restored form of a protected file will have, or ``None`` where it cannot be restored."""
    with contextlib.suppress(MIADMarkError, OSError, ValueError):
        source = read_protected(path)
        held = carrier_for(source.data, path.name).open_protected(source.data)
        if (envelope := held.envelope or source.envelope) is not None:
            shell = pipeline.read_record(envelope, held.values, identities).shell
            return None if shell is None else safe_name(shell.name)
    return None


def read_protected(path: Path) -> ProtectedSource:
    """Read a protected file and, where there is one, its sidecar.

    Raises:
        OSError: it cannot be read or is not a regular file.
    """
    data, mode = _read(path)
    sidecar = sidecar_path(path)
    return ProtectedSource(path, data, _read(sidecar)[0] if sidecar.is_file() else None, mode)


def protect_file(
    src: Path,
    folder: Path,
    recipients: Sequence[Recipient],
    marker: Marker,
    options: ProtectOptions,
    *,
    mask: Path | None = None,
    signer: Signer | None = None,
    sidecar: bool = False,
    overwrite: bool = False,
) -> Path:
    """Protect one file.

    Args:
        src: a DICOM, NIfTI, PNG or JPEG file; never changed.
        folder: where the protected file goes, under the name of the source (``.png`` for ``.jpg``); made if missing.
        recipients: who may restore it.
        marker: makes the mark.
        options: how strong and where.
        mask: image file of the same size; what is not zero there is the region (instead of ``options.region``).
        signer: the custodian's signing key.
        sidecar: put the record beside the file instead of into it.
        overwrite: replace existing outputs.

    Returns:
        The protected file.

    Raises:
        MIADMarkError: nothing was written.
        OSError: reading or writing failed, or an output exists; nothing was written.
        ValueError: mask and image do not fit; nothing was written.
    """
    if sidecar_path(src).exists():
        raise UnsupportedImageError("the image is protected already (its record lies beside it)")
    _check_free(folder / protected_name(src), overwrite)
    data, mode = _read(src)
    if mask is not None:
        options = replace(options, region=read_mask(_read(mask)[0], mask.name, data, src.name))
    result = pipeline.protect_bytes(data, src.name, recipients, marker, options, signer=signer, sidecar=sidecar)
    path = folder / safe_name(result.name)
    _check_apart(path, src)
    _check_free(path, overwrite)
    outputs = [Output(path, result.data)]
    if sidecar:
        # First the record: a protected file without one cannot be restored.
        outputs.insert(0, Output(sidecar_path(path), result.envelope))
    _write(outputs, overwrite, mode)
    if not sidecar and overwrite:
        sidecar_path(path).unlink(
            missing_ok=True
        )  # belonged to the file that was replaced, and would be taken for ours
    return path


def remove_file(
    src: Path,
    folder: Path,
    identities: Sequence[KeyIdentity],
    *,
    require_signer: Verifier | None = None,
    overwrite: bool = False,
) -> Path:
    """Restore one file.

    Args:
        src: a protected file; its sidecar is found by itself. Never changed.
        folder: where the restored file goes, under its source's name; made if missing.
        identities: keys to try.
        require_signer: accept only what this custodian signed.
        overwrite: replace an existing file.

    Returns:
        The restored file.

    Raises:
        MIADMarkError: not protected, no key fits, or tampered with; nothing was written.
        OSError: reading or writing failed, or the output exists; nothing was written.
        ValueError: the record names a file that it must not name; nothing was written.
    """
    source = read_protected(src)
    result = pipeline.remove_bytes(source.data, identities, envelope=source.envelope, require_signer=require_signer)
    path = folder / safe_name(result.name)
    _check_apart(path, src)
    _write([Output(path, result.data)], overwrite, source.mode)
    return path


def grant_file(
    src: Path, folder: Path, identity: KeyIdentity, recipients: Sequence[Recipient], *, overwrite: bool = False
) -> Path:
    """Copy a protected file into ``folder``, sealed for further recipients; errors as :func:`remove_file`."""
    source = _for_resealing(src, folder, overwrite)
    data, envelope = pipeline.grant_bytes(source.data, identity, recipients, envelope=source.envelope)
    return _write_resealed(source, folder, data, envelope, overwrite)


def revoke_file(
    src: Path, folder: Path, identity: KeyIdentity, recipients: Sequence[Recipient | bytes], *, overwrite: bool = False
) -> Path:
    """Copy a protected file into ``folder``, no longer sealed for ``recipients`` (or key ids).

    Raises as :func:`remove_file`.
    """
    source = _for_resealing(src, folder, overwrite)
    data, envelope = pipeline.revoke_bytes(source.data, identity, recipients, envelope=source.envelope)
    return _write_resealed(source, folder, data, envelope, overwrite)


def inspect_file(path: Path) -> EnvelopeInfo:
    """What a protected file tells without a key.

    Raises:
        MIADMarkError: not protected, or damaged.
        OSError: it cannot be read.
    """
    source = read_protected(path)
    return pipeline.inspect_bytes(source.data, envelope=source.envelope)


def verify_file(path: Path, signer: Verifier | None = None) -> EnvelopeInfo:
    """Check a protected file without a key: pixels against the record's digest, and the signature if there is one.

    Raises:
        MIADMarkError: not protected, changed, or not signed by ``signer``.
        OSError: it cannot be read.
    """
    source = read_protected(path)
    return pipeline.verify_bytes(source.data, envelope=source.envelope, signer=signer)


def _read(path: Path, size: int = -1) -> tuple[bytes, int]:
    """Content (or its first bytes) and permission bits of a regular file."""
    # Without O_NONBLOCK, opening a named pipe would wait for a writer for ever.
    with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb") as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return stream.read(size), stat.S_IMODE(status.st_mode) & 0o777


def _check_free(path: Path, overwrite: bool) -> None:
    """Refuse an output that exists before any work is done for it; writing checks again."""
    if not overwrite:
        for taken in (path, sidecar_path(path)):
            if os.path.lexists(taken):
                raise FileExistsError(errno.EEXIST, "the output exists (--overwrite replaces it)", str(taken))


def _check_apart(path: Path, src: Path) -> None:
    """Refuse to write over the input, under whatever name it is reached."""
    if path.exists() and path.samefile(src):
        raise FileExistsError(errno.EEXIST, "the output is the input itself", str(path))


def _write(outputs: Sequence[Output], overwrite: bool, mode: int) -> None:
    """Write outputs of one folder, which is made if it is missing."""
    outputs[0].path.parent.mkdir(parents=True, exist_ok=True)
    if any(output.path.is_dir() for output in outputs):
        raise IsADirectoryError(errno.EISDIR, "the output is a folder", str(outputs[-1].path))
    try:
        atomic_write_all(outputs, overwrite, mode)
    except FileExistsError as error:
        raise FileExistsError(errno.EEXIST, "the output exists (--overwrite replaces it)", error.filename2) from error


def _for_resealing(src: Path, folder: Path, overwrite: bool) -> ProtectedSource:
    """Read a protected file that will be written to ``folder`` under its own name."""
    path = folder / src.name
    _check_apart(path, src)
    _check_free(path, overwrite)
    return read_protected(src)


def _write_resealed(source: ProtectedSource, folder: Path, data: bytes, envelope: bytes, overwrite: bool) -> Path:
    """Write a resealed file: with its record inside, or as it was and the record in a new sidecar."""
    path = folder / source.path.name
    outputs = [Output(path, data)]
    if data == source.data:
        outputs.insert(0, Output(sidecar_path(path), envelope))
    _write(outputs, overwrite, source.mode)
    return path

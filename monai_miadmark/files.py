# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""One file in, one file out: reading, sidecars, names, and writing so that no half of a file is ever seen.

Work on a file has two steps. ``make_protected``, ``make_restored``, ``make_granted`` and ``make_revoked`` read and
compute: what they give is complete in memory, and nothing is on disk. :meth:`Made.write` writes it. ``protect_file``,
``remove_file``, ``grant_file`` and ``revoke_file`` do both at once; folder jobs note in between what is to come.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import stat
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NamedTuple

from monai_miadmark import pipeline
from monai_miadmark.atomic import (
    TEMPORARY_SUFFIX,
    Output,
    atomic_write,
    atomic_write_all,
    is_leftover,
    make_folders,
    sync_folder,
)
from monai_miadmark.closeness import Closeness, InkWatch, closeness
from monai_miadmark.errors import MIADMarkError, SidecarsDifferError, UnsupportedImageError
from monai_miadmark.file_names import MAX_NAME_BYTES, safe_name
from monai_miadmark.findings import Findings
from monai_miadmark.formats import carrier_for
from monai_miadmark.image import pixel_digest
from monai_miadmark.keys import KeyIdentity, Recipient, Signer, Verifier
from monai_miadmark.marking import Marker
from monai_miadmark.masks import read_mask
from monai_miadmark.names import SIDECAR_SUFFIX
from monai_miadmark.options import ProtectOptions
from monai_miadmark.seal import EnvelopeInfo, inspect_envelope
from monai_miadmark.series import SeriesPlan
from monai_miadmark.stores import RemotePath, put_all

if TYPE_CHECKING:
    from cryptography import x509

__all__ = [
    "MAX_NAME_BYTES",
    "SIDECAR_SUFFIX",
    "TEMPORARY_SUFFIX",
    "Made",
    "Output",
    "ProtectedSource",
    "Signature",
    "Stamp",
    "Where",
    "atomic_write",
    "atomic_write_all",
    "check_protectable",
    "first_bytes",
    "grant_file",
    "inspect_file",
    "instance_uid",
    "is_leftover",
    "make_copy",
    "make_folders",
    "make_granted",
    "make_protected",
    "make_restored",
    "make_revoked",
    "open_regular",
    "protect_file",
    "protected_name",
    "read_envelope",
    "read_protected",
    "remove_file",
    "revoke_file",
    "safe_name",
    "sidecar_exists",
    "sidecar_path",
    "stamp_file",
    "verify_file",
]

Where = Literal["inside", "sidecar", "both"]
"""Where the sealed record of a protected file goes: into the file, beside it, or both."""

Signature = Literal["none", "made", "dropped", "valid", "demanded"]
"""A custodian's: none; made; dropped (there was one before); valid, but nobody asked by whom; by whom was demanded."""

_HEAD_BYTES = 65536
"""Enough of a file to tell its format, and the SOP Instance UID of a DICOM object."""

_CHUNK_BYTES = 1 << 20

_SOP_INSTANCE_UID = 0x00080018


class Stamp(NamedTuple):
    """What tells one version of a file from another.

    Attributes:
        sha256: of the content, hex.
        size: bytes.
        mtime_ns: time of the last change, nanoseconds since 1970; 0 for what is not on disk yet.
    """

    sha256: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, repr=False)
class Made:
    """The result of work on one file, complete in memory.

    Attributes:
        source: stamp of the file that was read.
        outputs: what is to be written, the image file last: one without its record could not be restored.
        mode: permission bits of the source.
        overwrite: whether existing files are replaced.
        envelope: the sealed record that belongs to it (the one that was opened, where the result is a restored file).
        stale: a sidecar that belongs to the file that is replaced, and would be taken for that of the new one.
        quality: how close a protected image is to its source, where that was measured.
        signature: what is known of a custodian's signature, see :data:`Signature`.
        copied: the output is the source as it was: nothing protects it.
        findings: what was found out about an image that was marked.
    """

    source: Stamp
    outputs: tuple[Output, ...]
    mode: int
    overwrite: bool
    envelope: bytes | None
    stale: Path | None = None
    quality: Closeness | None = None
    signature: Signature = "none"
    copied: bool = False
    findings: Findings | None = None

    @property
    def path(self) -> Path:
        """The image file."""
        return self.outputs[-1].path

    @property
    def changed(self) -> int | None:
        """Samples that a mark changed; ``None`` where none was made."""
        return None if self.findings is None else self.findings.changed

    def write(self) -> Path:
        """Write all outputs, whole or not at all; the folder is made if it is missing.

        Returns:
            The image file.

        Raises:
            FileExistsError: an output exists and is not to be replaced; nothing was written.
            OSError: nothing was written.
        """
        _write(self.outputs, self.overwrite, self.mode)
        if self.stale is not None:
            self.stale.unlink(missing_ok=True)
            if not isinstance(self.stale, RemotePath):
                sync_folder(self.stale.parent)
        return self.path


class _Content(NamedTuple):
    """A file as it was read: content, permission bits, time of the last change."""

    data: bytes
    mode: int
    mtime_ns: int

    @property
    def stamp(self) -> Stamp:
        return Stamp(hashlib.sha256(self.data).hexdigest(), len(self.data), self.mtime_ns)


@dataclass(frozen=True, repr=False)
class ProtectedSource:
    """A protected file as it lies on disk.

    Attributes:
        path: the image file.
        data: its bytes.
        envelope: the sidecar's bytes, ``None`` where there is no sidecar (the record is in the file then).
        mode: permission bits of the image file.
        mtime_ns: when the image file was last changed, nanoseconds since 1970.
    """

    path: Path
    data: bytes
    envelope: bytes | None
    mode: int
    mtime_ns: int

    @property
    def stamp(self) -> Stamp:
        """Stamp of the image file."""
        return _Content(self.data, self.mode, self.mtime_ns).stamp


def sidecar_path(path: Path) -> Path:
    """Where the sidecar of an image file lies."""
    return path.with_name(path.name + SIDECAR_SUFFIX)


def sidecar_exists(path: Path) -> bool:
    """Whether there is a sidecar of an image file; names of 247 bytes and more leave no room for one."""
    sidecar = sidecar_path(path)
    return not _is_too_long(sidecar) and (sidecar.exists() or sidecar.is_symlink())


def _is_too_long(path: Path) -> bool:
    """Whether file systems have no name of this length."""
    return not isinstance(path, RemotePath) and len(os.fsencode(path.name)) > MAX_NAME_BYTES


@contextlib.contextmanager
def open_regular(path: Path) -> Iterator[tuple[BinaryIO, os.stat_result]]:
    """A regular file, open for reading in a context, and its status; an object of a store is read as a whole.

    Raises:
        OSError: it cannot be read or is not a regular file.
    """
    if isinstance(path, RemotePath):
        status = path.stat()
        yield io.BytesIO(path.read_bytes()), status
        return
    # Without O_NONBLOCK, opening a named pipe would wait for a writer for ever.
    with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb") as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        yield stream, status


def stamp_file(path: Path) -> Stamp:
    """Stamp of a regular file on disk, read piece by piece.

    Raises:
        OSError: it cannot be read or is not a regular file.
    """
    digest = hashlib.sha256()
    size = 0
    with open_regular(path) as (stream, status):
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return Stamp(digest.hexdigest(), size, status.st_mtime_ns)


def first_bytes(path: Path) -> bytes:
    """The first bytes of a file: enough to tell what it is.

    Raises:
        OSError: it cannot be read or is not a regular file.
    """
    return _read(path, _HEAD_BYTES).data


def instance_uid(path: Path) -> str | None:
    """SOP Instance UID of a DICOM file, from its first bytes; ``None`` where there is none to be found."""
    # Damaged files raise nearly anything. That they are damaged is said, by name, when they are worked on.
    with contextlib.suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        head = _read(path, _HEAD_BYTES).data
        if head[128:132] == b"DICM":
            from pydicom.filereader import read_partial
            from pydicom.tag import Tag

            found: Any = read_partial(
                io.BytesIO(head),
                stop_when=lambda tag, vr, length: tag > _SOP_INSTANCE_UID,
                specific_tags=[Tag(_SOP_INSTANCE_UID)],
            )
            return str(found.get("SOPInstanceUID", "") or "") or None
    return None


def protected_name(path: Path) -> str:
    """Name that the protected form of a file will have, from its first bytes; unreadable files keep theirs."""
    with contextlib.suppress(OSError):
        return _protected_name(_read(path, _HEAD_BYTES).data, path.name)
    return path.name


def read_protected(path: Path) -> ProtectedSource:
    """Read a protected file and, where there is one, its sidecar.

    Raises:
        OSError: it cannot be read or is not a regular file.
    """
    content = _read(path)
    sidecar = sidecar_path(path)
    envelope = _read(sidecar).data if sidecar_exists(path) and sidecar.is_file() else None
    return ProtectedSource(path, content.data, envelope, content.mode, content.mtime_ns)


def make_protected(
    src: Path,
    folder: Path,
    recipients: Sequence[Recipient],
    marker: Marker,
    options: ProtectOptions,
    *,
    mask: Path | None = None,
    signer: Signer | None = None,
    record: Where = "inside",
    certificates: Sequence[x509.Certificate] = (),
    overwrite: bool = False,
    measure: bool = False,
    name: str | None = None,
    series_secret: bytes | None = None,
    series: SeriesPlan | None = None,
) -> Made:
    """Protect one file in memory.

    Args:
        src: a DICOM, NIfTI, PNG or JPEG file, or an object of a store; never changed.
        folder: where the protected file is to go, under the name of the source (``.png`` for ``.jpg``).
        recipients: who may restore it.
        marker: makes the mark.
        options: how strong and where.
        mask: image file of the same size; what is not zero there is the region (instead of ``options.region``).
        signer: the custodian's signing key.
        record: where the sealed record goes.
        certificates: of those who may restore DICOM without this package (PS3.15); see
            :func:`~monai_miadmark.pipeline.protect_bytes`.
        overwrite: replace existing outputs.
        measure: compare the protected image with its source.
        name: of the protected file, where it may not be the one above.
        series_secret: keeps derived DICOM series together; see :func:`~monai_miadmark.pipeline.protect_bytes`.
        series: what the mark has in common with others of its series; see there.

    Raises:
        MIADMarkError: the image cannot be protected.
        OSError: reading failed, or an output exists.
        ValueError: mask and image do not fit, or a certificate cannot be encrypted for.
    """
    _refuse_protected(src)
    content = _read(src)
    data = content.data
    expected = folder / (name or _protected_name(data, src.name))
    _check_length(expected, record)
    _check_free(expected, overwrite)
    if mask is not None:
        options = replace(options, region=read_mask(_read(mask).data, mask.name, data, src.name))
    watch = InkWatch(marker)
    result = pipeline.protect_bytes(
        data,
        src.name,
        recipients,
        watch,
        options,
        signer=signer,
        sidecar=record == "sidecar",
        certificates=certificates,
        series_secret=series_secret,
        series=series,
    )
    path = folder / safe_name(name or result.name)
    _check_apart(path, src)
    if path != expected:
        _check_free(path, overwrite)
    outputs = [Output(path, result.data)]
    if record != "inside":
        outputs.insert(0, Output(sidecar_path(path), result.envelope))
    return Made(
        source=content.stamp,
        outputs=tuple(outputs),
        mode=content.mode,
        overwrite=overwrite,
        envelope=result.envelope,
        stale=sidecar_path(path) if record == "inside" and overwrite and sidecar_exists(path) else None,
        quality=closeness(data, result.data, src.name, watch.ink) if measure else None,
        signature="none" if signer is None else "made",
        findings=result.findings,
    )


def check_protectable(
    src: Path,
    folder: Path,
    options: ProtectOptions,
    *,
    mask: Path | None = None,
    record: Where = "inside",
    overwrite: bool = False,
    name: str | None = None,
) -> Path:
    """Refuse what :func:`make_protected` would refuse, without a marker; arguments and errors as there.

    Returns:
        Where the protected file would go.
    """
    _refuse_protected(src)
    data = _read(src).data
    path = folder / safe_name(name or _protected_name(data, src.name))
    _check_length(path, record)
    _check_free(path, overwrite)
    _check_apart(path, src)
    if mask is not None:
        read_mask(_read(mask).data, mask.name, data, src.name)
    pipeline.check_source(data, src.name, options)
    return path


def make_copy(src: Path, folder: Path, *, overwrite: bool = False) -> Made:
    """A copy of a file, unprotected, under its name.

    Raises:
        OSError: reading failed, or the output exists.
    """
    path = folder / src.name
    _check_free(path, overwrite)
    _check_apart(path, src)
    content = _read(src)
    return Made(content.stamp, (Output(path, content.data),), content.mode, overwrite, None, copied=True)


def _refuse_protected(src: Path) -> None:
    """Refuse an image whose record lies beside it."""
    if sidecar_exists(src):
        raise UnsupportedImageError("the image is protected already (its record lies beside it)")


def read_envelope(path: Path) -> bytes | None:
    """The record that counts for a protected file: the one inside, else the one beside it.

    Raises:
        MIADMarkError: the file is damaged, or of no known format.
        OSError: it cannot be read.
    """
    source = read_protected(path)
    held = carrier_for(source.data, path.name).open_protected(source.data)
    return source.envelope if held.envelope is None else held.envelope


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
    certificates: Sequence[x509.Certificate] = (),
    overwrite: bool = False,
) -> Path:
    """Protect one file and write the result; arguments as of :func:`make_protected`, ``sidecar``: record beside it.

    Returns:
        The protected file.

    Raises:
        MIADMarkError: nothing was written.
        OSError: reading or writing failed, or an output exists; nothing was written.
        ValueError: mask and image do not fit, or a certificate cannot be encrypted for; nothing was written.
    """
    record: Where = "sidecar" if sidecar else "inside"
    made = make_protected(
        src,
        folder,
        recipients,
        marker,
        options,
        mask=mask,
        signer=signer,
        record=record,
        certificates=certificates,
        overwrite=overwrite,
    )
    return made.write()


def make_restored(
    src: Path,
    folder: Path,
    identities: Sequence[KeyIdentity],
    *,
    require_signer: Verifier | None = None,
    sidecars: Mapping[str, Sequence[Path]] | None = None,
    overwrite: bool = False,
) -> Made:
    """Restore one file in memory.

    Args:
        src: a protected file; its sidecar is found by itself. Never changed.
        folder: where the restored file is to go, under its source's name.
        identities: keys to try.
        require_signer: accept only what this custodian signed.
        sidecars: by pixel digest (hex), where else to look if the file has no record in it. All records that open must
            restore the same.
        overwrite: replace an existing file.

    Raises:
        MIADMarkError: not protected, no key fits, or tampered with.
        OSError: reading failed, or the output is the input.
        ValueError: the record names a file that it must not name.
    """
    source = read_protected(src)
    held = carrier_for(source.data, src.name).open_protected(source.data)
    if held.envelope is not None:
        return _restored(source, folder, identities, held.envelope, require_signer, overwrite)
    others = () if sidecars is None else sidecars.get(pixel_digest(held.values).hex(), ())
    beside = sidecar_path(src)
    candidates = [] if source.envelope is None and others else [(beside, source.envelope)]
    candidates += [(other, _read(other).data) for other in others if not _is_same_file(other, beside)]
    failures: list[Exception] = []
    fitting: list[tuple[Path, Made]] = []
    for path, envelope in candidates:
        try:
            fitting.append((path, _restored(source, folder, identities, envelope, require_signer, overwrite)))
        except (MIADMarkError, ValueError) as error:  # damaged, or resealed for somebody else: another one may open
            failures.append(error)
    if not fitting:
        raise failures[0]
    # Records that were resealed restore one and the same; anything else was made by somebody who wants to be taken for
    # the custodian, and being newer or nearer is no proof.
    if any(made.outputs != fitting[0][1].outputs for _, made in fitting):
        named = ", ".join(str(path) for path, _ in fitting)
        raise SidecarsDifferError(
            f"{len(fitting)} records fit its pixels and restore different files: {named}; take away those that are not "
            "genuine, or demand the signer"
        )
    return fitting[0][1]


def _restored(
    source: ProtectedSource,
    folder: Path,
    identities: Sequence[KeyIdentity],
    envelope: bytes | None,
    require_signer: Verifier | None,
    overwrite: bool,
) -> Made:
    """What one record makes of a protected file."""
    result = pipeline.remove_bytes(source.data, identities, envelope=envelope, require_signer=require_signer)
    path = folder / result.file_name
    _check_apart(path, source.path)
    signature: Signature = "none" if require_signer is None else "demanded"
    if require_signer is None and envelope is not None and inspect_envelope(envelope).signer is not None:
        signature = "valid"
    output = Output(path, result.data)
    # An image is nothing to be executed, whatever bits its protected form came with.
    return Made(source.stamp, (output,), source.mode & 0o666, overwrite, envelope, signature=signature)


def _is_same_file(one: Path, other: Path) -> bool:
    """Whether two sidecars are one file, under whatever names."""
    if isinstance(one, RemotePath) or isinstance(other, RemotePath):
        return one == other
    return one.exists() and other.exists() and one.samefile(other)


def remove_file(
    src: Path,
    folder: Path,
    identities: Sequence[KeyIdentity],
    *,
    require_signer: Verifier | None = None,
    overwrite: bool = False,
) -> Path:
    """Restore one file and write it; arguments as of :func:`make_restored`.

    Returns:
        The restored file.

    Raises:
        MIADMarkError: not protected, no key fits, or tampered with; nothing was written.
        OSError: reading or writing failed, or the output exists; nothing was written.
        ValueError: the record names a file that it must not name; nothing was written.
    """
    return make_restored(src, folder, identities, require_signer=require_signer, overwrite=overwrite).write()


def make_granted(
    src: Path,
    folder: Path,
    identity: KeyIdentity,
    recipients: Sequence[Recipient],
    *,
    signer: Signer | None = None,
    overwrite: bool = False,
) -> Made:
    """A copy of a protected file, sealed for further recipients; errors as :func:`make_restored`.

    ``signer`` signs the new record; without one it is not signed, even if the old one was.
    """
    source = _for_resealing(src, folder, overwrite)
    resealed = pipeline.grant_bytes(source.data, identity, recipients, source.envelope, signer)
    return _resealed(source, folder, *resealed, overwrite)


def grant_file(
    src: Path,
    folder: Path,
    identity: KeyIdentity,
    recipients: Sequence[Recipient],
    *,
    signer: Signer | None = None,
    overwrite: bool = False,
) -> Path:
    """Write what :func:`make_granted` makes; errors as :func:`remove_file`."""
    return make_granted(src, folder, identity, recipients, signer=signer, overwrite=overwrite).write()


def make_revoked(
    src: Path,
    folder: Path,
    identity: KeyIdentity,
    recipients: Sequence[Recipient | bytes],
    *,
    signer: Signer | None = None,
    overwrite: bool = False,
) -> Made:
    """A copy of a protected file, no longer sealed for ``recipients`` (or key ids); errors as :func:`make_restored`.

    ``signer`` signs the new record; without one it is not signed, even if the old one was.
    """
    source = _for_resealing(src, folder, overwrite)
    resealed = pipeline.revoke_bytes(source.data, identity, recipients, source.envelope, signer)
    return _resealed(source, folder, *resealed, overwrite)


def revoke_file(
    src: Path,
    folder: Path,
    identity: KeyIdentity,
    recipients: Sequence[Recipient | bytes],
    *,
    signer: Signer | None = None,
    overwrite: bool = False,
) -> Path:
    """Write what :func:`make_revoked` makes; errors as :func:`remove_file`."""
    return make_revoked(src, folder, identity, recipients, signer=signer, overwrite=overwrite).write()


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


def _read(path: Path, size: int = -1) -> _Content:
    """A regular file, or its first bytes."""
    with open_regular(path) as (stream, status):
        # The time is taken before the content: what changes in between has another time afterwards.
        return _Content(stream.read(size), stat.S_IMODE(status.st_mode) & 0o777, status.st_mtime_ns)


def _protected_name(data: bytes, name: str) -> str:
    """Name of the protected form of a file that begins with ``data``; its own if it is of no known format."""
    with contextlib.suppress(MIADMarkError, ValueError):
        return carrier_for(data[:_HEAD_BYTES], name).output_name(name)
    return name


def _check_free(path: Path, overwrite: bool) -> None:
    """Refuse an output that exists before any work is done for it; writing checks again."""
    if not overwrite:
        taken = path if path.exists() or path.is_symlink() else sidecar_path(path) if sidecar_exists(path) else None
        if taken is not None:
            raise FileExistsError(errno.EEXIST, "the output exists (--overwrite replaces it)", str(taken))


def _check_length(path: Path, record: Where) -> None:
    """Refuse an output whose name no file can have, before any work is done for it."""
    longest = path if record == "inside" else sidecar_path(path)
    if _is_too_long(longest):
        raise OSError(errno.ENAMETOOLONG, f"the output's name is longer than {MAX_NAME_BYTES} bytes", str(longest))


def _check_apart(path: Path, src: Path) -> None:
    """Refuse to write over the input, under whatever name it is reached."""
    remote = isinstance(path, RemotePath) or isinstance(src, RemotePath)
    if path == src if remote else path.exists() and path.samefile(src):
        raise FileExistsError(errno.EEXIST, "the output is the input itself", str(path))


def _write(outputs: Sequence[Output], overwrite: bool, mode: int) -> None:
    """Write outputs of one folder, which is made if it is missing."""
    remote = [(output.path, output.data) for output in outputs if isinstance(output.path, RemotePath)]
    if remote:
        put_all(remote, overwrite)
        return
    make_folders(outputs[0].path.parent)
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


def _resealed(source: ProtectedSource, folder: Path, data: bytes, envelope: bytes, overwrite: bool) -> Made:
    """A resealed file: its new record lies where the old one did, inside, beside it, or both."""
    path = folder / source.path.name
    outputs = [Output(path, data)]
    if source.envelope is not None or data == source.data:
        outputs.insert(0, Output(sidecar_path(path), envelope))
    signature: Signature = "none"
    if inspect_envelope(envelope).signer is not None:
        signature = "made"
    elif pipeline.inspect_bytes(source.data, source.envelope).signer is not None:
        signature = "dropped"
    return Made(source.stamp, tuple(outputs), source.mode, overwrite, envelope, signature=signature)

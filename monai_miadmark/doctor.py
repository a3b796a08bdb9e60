# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Whether an installation works: what is there, what is missing, and what to do about it.

Each check does the thing instead of asking whether it could: keys are made, a record is sealed and opened, a folder is
locked. Nothing is left behind.
"""

from __future__ import annotations

import importlib
import os
import platform
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from pydicom.uid import UID

from monai_miadmark import __version__, keys, seal
from monai_miadmark.atomic import atomic_write
from monai_miadmark.errors import MIADMarkError, UnsupportedImageError
from monai_miadmark.formats.dicom_decoding import TRANSFER_SYNTAXES, decoder_name
from monai_miadmark.image import pixel_digest
from monai_miadmark.locking import FolderLock, LockedError

__all__ = ["Check", "Status", "examine", "is_broken"]

_PACKAGE = "monai-miadmark"

_FOR_DEVELOPERS = frozenset({"dev", "docs", "interop", "store"})
"""Extras that only tests and pages of this package need: nobody else misses them."""

Status = Literal["ok", "missing", "broken"]
"""``missing``: something that can be done without; ``broken``: something that cannot."""


class Check(NamedTuple):
    """One thing that was looked at.

    Attributes:
        group: what it belongs to.
        name: what was looked at.
        status: what came of it.
        detail: in words.
        advice: what to do, empty where nothing is to be done.
    """

    group: str
    name: str
    status: Status
    detail: str
    advice: str = ""


def examine(folder: Path | None = None) -> Iterator[Check]:
    """Look at everything, one thing after the other.

    Args:
        folder: where jobs are to write; default: the folder for temporary files.
    """
    yield Check("versions", "Python", "ok", f"{platform.python_version()} on {platform.platform(terse=True)}")
    yield Check("versions", _PACKAGE, "ok", __version__)
    yield from _required()
    yield from _secrets()
    yield from _storage(folder)
    yield from _networks()
    yield from _decoders()
    yield from _extras()


def is_broken(checks: list[Check]) -> bool:
    """Whether something is missing that cannot be done without."""
    return any(check.status == "broken" for check in checks)


def _required() -> Iterator[Check]:
    """Packages that are needed for everything."""
    for name, extra in _requirements():
        if extra is None:
            version = _version(name)
            status: Status = "broken" if version is None else "ok"
            advice = f"pip install {name}" if version is None else ""
            yield Check("versions", name, status, version or "not installed", advice)


def _extras() -> Iterator[Check]:
    """Packages that users need for something, by extra."""
    by_extra: dict[str, list[str]] = {}
    for name, extra in _requirements():
        if extra is not None and extra not in _FOR_DEVELOPERS:
            by_extra.setdefault(extra, []).append(name)
    for extra, names in sorted(by_extra.items()):
        absent = [name for name in names if _version(name) is None]
        if not absent:
            yield Check("extras", extra, "ok", ", ".join(names))
        else:
            advice = f"pip install '{_PACKAGE}[{extra}]'"
            yield Check("extras", extra, "missing", f"not installed: {', '.join(absent)}", advice)


def _secrets() -> Iterator[Check]:
    """Random numbers, keys, records, signatures, passphrases."""

    def entropy() -> str:
        drawn = {os.urandom(32) for _ in range(16)}
        if len(drawn) != 16:
            raise ValueError("the system gives the same random bytes again")
        if hasattr(os, "getrandom"):
            os.getrandom(1, os.GRND_NONBLOCK)  # fails while the system has not gathered enough since it started
        return "the system's generator is seeded"

    def round_trip(kind: str) -> Callable[[], str]:
        def run() -> str:
            identity = keys.generate_identity(kind)
            _sealed_and_opened(identity.recipient, identity)
            return "a record was sealed and opened"

        return run

    def signature(kind: str) -> Callable[[], str]:
        def run() -> str:
            signer = keys.generate_signer(kind)
            digest = pixel_digest(np.zeros((1, 1, 1, 1), np.uint8))
            envelope = seal.seal(b"doctor", [keys.generate_identity("x25519").recipient], digest, signer=signer)
            seal.verify_envelope(envelope, digest, signer.verifier)
            return "a record was signed and verified"

        return run

    def passphrase() -> str:
        phrase = os.urandom(16).hex()
        _sealed_and_opened(keys.PassphraseRecipient(phrase), keys.PassphraseIdentity(phrase))
        return "a record was sealed and opened (Argon2id)"

    update = "pip install --upgrade cryptography"
    yield _tried("secrets", "random numbers", entropy, "give the machine a source of entropy, then try again")
    for kind in keys.HPKE_KINDS:
        yield _tried("secrets", f"keys of kind {kind}", round_trip(kind), update)
    for kind in keys.SIGNATURE_KINDS:
        yield _tried("secrets", f"signatures of kind {kind}", signature(kind), update)
    yield _tried("secrets", "passphrases", passphrase, update)


def _sealed_and_opened(recipient: keys.Recipient, identity: keys.KeyIdentity) -> None:
    """A record on its way to a recipient and back."""
    digest = pixel_digest(np.zeros((1, 1, 1, 1), np.uint8))
    record = os.urandom(64)
    opened = seal.open_envelope(seal.seal(record, [recipient], digest), [identity], digest)
    if opened.record != record:
        raise ValueError("another record came back")


def _storage(folder: Path | None) -> Iterator[Check]:
    """Whether files can be written whole, and folders locked."""
    place = Path(tempfile.gettempdir()) if folder is None else folder
    name = "temporary files" if folder is None else "output folder"

    def write() -> str:
        with tempfile.TemporaryDirectory(dir=place, prefix=".miadmark-doctor-") as made:
            path = Path(made) / "a"
            atomic_write(path, b"1")
            with suppress(FileExistsError):
                atomic_write(path, b"2")
                raise ValueError("a file was replaced that was to be kept")
            atomic_write(path, b"3", overwrite=True)
            if path.read_bytes() != b"3":
                raise ValueError("what was written was not read again")
        return f"{place}: files are written whole or not at all"

    def lock() -> str:
        with tempfile.TemporaryDirectory(dir=place, prefix=".miadmark-doctor-") as made:
            with FolderLock(Path(made), "doctor"):
                try:
                    with FolderLock(Path(made), "doctor"):
                        pass
                except LockedError:
                    return "a second job is kept out while one works"
            raise ValueError("two jobs could work in one folder at a time")

    advice = "name a folder that can be written to" if folder else "set TMPDIR to a folder that can be written to"
    yield _tried("storage", name, write, advice)
    yield _tried("storage", "locking", lock, "use a file system with flock (NFS from version 4, or a local disk)")


def _networks() -> Iterator[Check]:
    """PyTorch, the device, and the weights of the default marker."""
    try:
        torch = importlib.import_module("torch")
        marker = importlib.import_module("monai_miadmark.marker")
    except Exception as error:  # a broken installation raises nearly anything
        advice = "see pytorch.org for the installation that fits this machine; restoring works without it"
        yield Check("networks", "PyTorch", "broken", f"cannot be imported ({type(error).__name__})", advice)
        return
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "CPU (no CUDA device)"
    yield Check("networks", "device", "ok", f"{device}, {torch.get_num_threads()} threads")
    reinstall = f"pip install --force-reinstall --no-deps {_PACKAGE}"
    try:
        models = marker.bundle_root() / "models"
        listed = marker.check_listed(models)
    except (OSError, ValueError) as error:
        yield Check("networks", "weights", "broken", _words(error), reinstall)
        return
    for name in sorted(listed):
        yield _tried("networks", name, partial(_checked, marker, models, name, listed[name]), reinstall)


def _checked(marker: Any, models: Path, name: str, digest: str) -> str:
    """A weight file is the one that was released."""
    marker.check_weights(models, [name])
    return f"SHA-256 {digest[:16]}... as released"


def _decoders() -> Iterator[Check]:
    """Who decodes each transfer syntax of DICOM."""
    for syntax, stored in TRANSFER_SYNTAXES:
        name = UID(syntax).name + (f", {stored} bits" if stored != 8 else "")
        try:
            decoder = decoder_name(syntax, stored)
        except UnsupportedImageError as error:
            yield Check("DICOM", name, "missing", str(error), f"pip install '{_PACKAGE}[dicom]'")
        else:
            yield Check("DICOM", name, "ok", decoder or "needs no decoder")


def _tried(group: str, name: str, run: Callable[[], str], advice: str) -> Check:
    """Do something and say what came of it."""
    try:
        return Check(group, name, "ok", run())
    except Exception as error:  # whatever goes wrong here is what the caller wants to know
        return Check(group, name, "broken", _words(error), advice)


def _words(error: Exception) -> str:
    """An error in words."""
    if isinstance(error, OSError):
        where = "" if error.filename is None else f": {error.filename}"
        return f"{error.strerror or str(error) or type(error).__name__}{where}"
    named = isinstance(error, MIADMarkError | LockedError | ValueError)
    return str(error) if named and str(error) else type(error).__name__


def _requirements() -> list[tuple[str, str | None]]:
    """Packages that this one asks for, with the extra that each belongs to."""
    try:
        lines = metadata.requires(_PACKAGE) or []
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return []
    found = []
    for line in lines:
        name = re.match(r"[A-Za-z0-9._-]+", line)
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", line)
        if name is not None:
            found.append((name[0], None if extra is None else extra[1]))
    return found


def _version(name: str) -> str | None:
    """The installed version of a package."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Folders protected and restored from Python in one call each; the bundle's ``protect`` and ``remove`` are these.

The command line does the same in several processes. Passphrases of key files come from the environment, never from
arguments, which a process list and the logs of ``monai.bundle`` show.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from tqdm import tqdm

from monai_miadmark import files, keys
from monai_miadmark.batch import Report, notes_folder, plan, run_jobs
from monai_miadmark.children import PASSPHRASE_ENV
from monai_miadmark.engines import SerialEngine
from monai_miadmark.files import Where
from monai_miadmark.marking import Marker
from monai_miadmark.options import ProtectOptions
from monai_miadmark.tasks import Failure, KeyFile, ProtectTask, RemoveTask, Task

__all__ = ["FailedFilesError", "protect_folders", "restore_folders"]

_log = logging.getLogger(__name__)

Paths: TypeAlias = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""One path, or several."""


class FailedFilesError(Exception):
    """Some files were not done; the others are.

    Attributes:
        report: what became of all of them.
    """

    def __init__(self, report: Report) -> None:
        count = len(report.failures)
        super().__init__(f"{count} {'file' if count == 1 else 'files'} not done (the reasons stand above)")
        self.report = report


def protect_folders(
    sources: Paths,
    out: str | os.PathLike[str],
    recipients: Paths,
    marker: Marker,
    options: ProtectOptions | None = None,
    *,
    signer: str | os.PathLike[str] | None = None,
    mask: str | os.PathLike[str] | None = None,
    record: Where = "inside",
    ps315: Paths = (),
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> Report:
    """Protect files and folders.

    Args:
        sources: files and folders; never changed.
        out: the output folder; made if it is missing.
        recipients: public key files or certificates of those who may restore.
        marker: makes the marks.
        options: the custodian's choices.
        signer: private key file of the custodian.
        mask: image file that is the region of all images.
        record: where the sealed records go.
        ps315: certificate files of those who may restore DICOM without this package (PS3.15 E.1.1); all files must be
            DICOM then.
        resume: go on with an earlier run of the same job.
        overwrite: replace existing outputs.
        progress: a bar on standard error.

    Returns:
        What became of the files.

    Raises:
        FailedFilesError: not all files were done.
        ValueError: nobody could restore, nothing to protect, or the job does not go with what is in the output folder.
        UnfitError: keys or weights cannot be read; nothing was written.
        LockedError: another run works in the output folder.
        OSError: the output folder cannot be used.
    """
    public = _paths(recipients)
    if not public:
        raise ValueError("nobody could restore the images: name the public key files of recipients")
    task = ProtectTask(
        recipients=public,
        options=options or ProtectOptions(),
        signer=None if signer is None else _unlocked(Path(signer)),
        mask=None if mask is None else Path(mask),
        record=record,
        ps315=_paths(ps315),
        overwrite=overwrite,
        load=lambda: marker,
    )
    return _run(sources, out, task, files.protected_name, True, resume, progress)


def restore_folders(
    sources: Paths,
    out: str | os.PathLike[str],
    identities: Paths,
    *,
    require_signer: str | os.PathLike[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> Report:
    """Restore files and folders, bit for bit; arguments, result and errors as of :func:`protect_folders`.

    Args:
        identities: private key files to try.
        require_signer: public key file of the custodian who must have signed.
    """
    private = _paths(identities)
    if not private:
        raise ValueError("no key is given: name private key files")
    task = RemoveTask(
        identities=tuple(_unlocked(path) for path in private),
        require_signer=None if require_signer is None else Path(require_signer),
        overwrite=overwrite,
    )
    # Restoring is never barred: restored files are what they were, copies among them.
    return _run(sources, out, task, lambda path: None, False, resume, progress)


def _run(
    sources: Paths,
    out: str | os.PathLike[str],
    task: Task,
    name: Callable[[Path], str | None],
    unique_instances: bool,
    resume: bool,
    progress: bool,
) -> Report:
    """Work on all files in this process."""
    planned = plan(_paths(sources), Path(out), name, unique_instances)
    if not planned.jobs and not planned.failures:
        raise ValueError("there are no files to work on")
    with tqdm(total=len(planned.jobs), unit="file", desc=task.verb, file=sys.stderr, disable=not progress) as bar:

        def failed(failure: Failure) -> None:
            bar.write(f"{_shown(failure.path)}: {_shown(failure.reason)}", file=sys.stderr)

        noted = notes_folder(planned.out, resume)
        report = run_jobs(planned, task, SerialEngine(), resume=resume, noted=noted, failed=failed, step=bar.update)
    unsigned = report.signatures.count("none") if isinstance(task, RemoveTask) else 0
    if unsigned:
        _log.warning("%d restored files are not signed: whoever has the public key could have made them", unsigned)
    if report.failures:
        raise FailedFilesError(report)
    return report


def _paths(given: Paths) -> tuple[Path, ...]:
    """The paths."""
    several: Any = (given,) if isinstance(given, str | os.PathLike) else given
    return tuple(Path(path) for path in several)


def _unlocked(path: Path) -> KeyFile:
    """A private key file, with the passphrase from the environment if it is encrypted.

    Raises:
        OSError: it cannot be read.
        ValueError: the environment has no passphrase for it.
    """
    if not keys.needs_passphrase(path):
        return KeyFile(path)
    passphrase = os.environ.get(PASSPHRASE_ENV)
    if not passphrase:
        raise ValueError(f"{path}: the key is encrypted: put its passphrase into the environment as {PASSPHRASE_ENV}")
    return KeyFile(path, passphrase)


def _shown(text: object) -> str:
    """Text from outside, fit for a terminal: a file name may hold control characters."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text))

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""``protect``, ``remove``, ``grant`` and ``revoke``: folders in, folders out."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from monai_miadmark import batch, files, keys
from monai_miadmark.arguments import MAX_DEFAULT_JOBS, UsageError
from monai_miadmark.commands.console import FAILED, Terminated, ask_yes, say, shown, shown_progress
from monai_miadmark.commands.key_files import checked, new_passphrase, opening_of, recipients_of, unlocked
from monai_miadmark.commands.rehearsal import rehearse
from monai_miadmark.commands.summary import JobTeller, skipped_kinds
from monai_miadmark.engines import Engine, ProcessEngine, SerialEngine, usable_cores
from monai_miadmark.errors import MIADMarkError
from monai_miadmark.locking import LockedError
from monai_miadmark.logo import BUILT_IN_LOGOS, draw_logo
from monai_miadmark.manifest import ManifestError
from monai_miadmark.options import ProtectOptions
from monai_miadmark.owner import SERIES_PURPOSE, OwnerKeyError, owner_key
from monai_miadmark.planning import walk_folder
from monai_miadmark.sidecars import find_sidecars
from monai_miadmark.stores import RemotePath
from monai_miadmark.tasks import (
    ProtectTask,
    RemoveTask,
    ResealTask,
    Task,
    UnfitError,
    carries_secret,
    default_marker,
)

if TYPE_CHECKING:
    from monai_miadmark.reporting import job_report

__all__ = ["check_report_packages", "grant", "protect", "protect_options", "protect_task", "remove", "revoke"]


def protect(options: Namespace) -> int:
    """Protect files for recipients."""
    return _run(options, protect_task(options), files.protected_name, "protected")


def protect_task(options: Namespace) -> ProtectTask:
    """What the command line says of protecting."""
    recipients_of(options)
    passphrase = None
    if options.passphrase and options.recipient and not options.passphrase_beside_keys:
        raise UsageError(
            "a passphrase beside keys makes records only as safe as the passphrase",
            "leave out --passphrase or -r, or add --passphrase-beside-keys",
        )
    if options.passphrase:
        passphrase = new_passphrase("Passphrase for restoring: ")
    if not options.recipient and passphrase is None:
        raise UsageError(
            "nobody could restore the images", "name recipients with -r RECIPIENT.pub, or use --passphrase"
        )
    _check_certificates(options.ps315)
    choices, mask = protect_options(options)
    try:
        series_secret = owner_key(SERIES_PURPOSE)
    except OwnerKeyError as error:
        raise UsageError(shown(error), "it keeps derived series together and authenticates manifests") from error
    return ProtectTask(
        recipients=tuple(options.recipient),
        options=choices,
        passphrase=passphrase,
        salt=None if passphrase is None else os.urandom(keys.SALT_BYTES),
        signer=None if options.signer is None else unlocked(options.signer, keys.load_signer),
        mask=mask,
        record=options.record,
        ps315=tuple(options.ps315),
        overwrite=options.overwrite,
        copy_label_maps=options.label_maps == "copy",
        series_secret=series_secret,
        load=default_marker if options.device is None else partial(default_marker, options.device),
    )


def protect_options(options: Namespace) -> tuple[ProtectOptions, Path | None]:
    """The custodian's choices, and the mask file if there is one."""
    if options.style == "invisible" and (options.logo is not None or options.text is not None):
        raise UsageError("an invisible mark has no logo", "leave out --logo and --text, or --style invisible")
    text = "PROTECTED" if options.text is None else options.text
    if options.logo is not None and options.text is not None and str(options.logo) != "banner":
        raise UsageError("this logo says no text", "leave out --text, or take --logo banner")
    if options.style == "visible":
        _check_logo(options.logo, text)
    mask = None if options.region in ("auto", "none") else Path(options.region)
    if mask is not None and not mask.is_file():
        raise UsageError(f"--region {shown(mask)}: no such file", "give auto, none, or a PNG, NIfTI or .npy mask")
    budget = options.region_budget
    if mask is not None and budget is None:
        budget = 0.0  # a mask that a person drew is to stay bit-identical
    try:
        choices = ProtectOptions(
            preset=options.preset,
            style=options.style,
            text=text,
            logo=options.logo,
            region="auto" if mask is not None else options.region,
            region_budget=budget,
            modality=options.modality,
            expect_effect=getattr(options, "expect_effect", False),
            allow_label_maps=options.label_maps == "protect",
        )
    except ValueError as error:
        raise UsageError(str(error), "miadmark protect --help shows what is expected") from error
    return choices, mask


def _check_certificates(paths: Sequence[Path]) -> None:
    """Read the certificates of ``--ps315`` before any image is."""
    for path in paths:
        try:
            keys.load_certificate(path)
        except OSError as error:
            raise UsageError(f"{shown(path)}: {error.strerror or 'not readable'}", "check the path") from error
        except (MIADMarkError, ValueError) as error:
            hint = "--ps315 takes an X.509 certificate (PEM) with an RSA key of 2048 bits or more, valid today"
            raise UsageError(shown(error), hint) from error


def _check_logo(logo: Path | None, text: str) -> None:
    """Draw the logo before any image is read."""
    try:
        draw_logo(logo, text)
    except OSError as error:
        hint = f"name an image file, or one of {', '.join(BUILT_IN_LOGOS)}"
        raise UsageError(f"{shown(logo)}: {error.strerror or 'not readable'}", hint) from error
    except ValueError as error:
        raise UsageError(shown(error), "miadmark protect --help shows what is expected") from error


def remove(options: Namespace) -> int:
    """Restore files."""
    if options.require_signer is not None:
        checked(keys.load_verifier, options.require_signer)
    opening = opening_of(options)
    sidecars: Mapping[str, Sequence[Path]] = {}
    if options.sidecars is not None:
        try:
            sidecars = find_sidecars(options.sidecars)
        except OSError as error:
            raise UsageError(f"{shown(options.sidecars)}: {error.strerror}", "name a folder with sidecars") from error
    task = RemoveTask(**opening, require_signer=options.require_signer, sidecars=sidecars)
    return _run(options, task, lambda path: None, "restored")


def grant(options: Namespace) -> int:
    """Seal for further recipients."""
    return _reseal(options, "grant", "granted")


def revoke(options: Namespace) -> int:
    """Seal without some recipients."""
    return _reseal(options, "revoke", "revoked")


def _reseal(options: Namespace, verb: Literal["grant", "revoke"], done: str) -> int:
    """Grant or revoke."""
    key_ids = tuple(getattr(options, "id", []))
    opening = opening_of(options)
    recipients = recipients_of(options)
    if not [*recipients, *key_ids]:
        raise UsageError("no recipient is named", "name recipients with -r RECIPIENT.pub")
    if verb == "revoke" and not options.dry_run and not options.yes:
        mine = _own(options, opening, {*(recipient.key_id for recipient in recipients), *key_ids})
        question = f"{', '.join(mine)} will not open the new files any more"
        if mine and not ask_yes(question, "add --yes if that is meant"):
            say("nothing was written")
            return FAILED
    signer = None if options.signer is None else unlocked(options.signer, keys.load_signer)
    task = ResealTask(**opening, verb=verb, recipients=tuple(options.recipient), key_ids=key_ids, signer=signer)
    return _run(options, task, lambda path: path.name, done)


def _own(options: Namespace, opening: Mapping[str, Any], unwanted: Collection[bytes]) -> list[str]:
    """What opens the files and is to be taken away from them: key files by their names, and the passphrase."""
    found = [
        shown(key.path)
        for key in opening["identities"]
        if keys.load_identity(key.path, key.passphrase).key_id in unwanted
    ]
    if opening["passphrase"] is not None:
        sources = (path for source in options.sources for path in islice(_protected_files(source), 1))
        for path in sources:
            with suppress(MIADMarkError, OSError, ValueError):
                told = files.inspect_file(path).to_dict()["recipients"]
                if any(who["kind"] == "passphrase" and bytes.fromhex(who["key_id"]) in unwanted for who in told):
                    return [*found, "the passphrase"]
    return found


def _protected_files(source: Path) -> Iterator[Path]:
    """The file, or those of the folder."""
    if not source.is_dir():
        yield source
        return
    for found in walk_folder(source, None):
        if found.error is None and not found.skipped:
            yield found.path


def _plan(options: Namespace, name: Callable[[Path], str | None], told: JobTeller) -> batch.Plan:
    """Files to work on."""
    if options.verify and not options.resume:
        raise UsageError("--verify is for --resume", "use miadmark verify FILE to check a protected file")
    if options.dry_run and options.resume:
        raise UsageError("--dry-run does not look at what is done already", "leave out --resume")
    _check_notes(options)
    try:
        # Restored files are what they were, copies among them.
        unique = options.verb != "remove"
        filters = batch.Filters(tuple(options.include), tuple(options.exclude))
        planned = batch.plan(options.sources, options.out, name, unique_instances=unique, filters=filters)
    except batch.BatchError as error:
        raise UsageError(shown(error), "nothing was written") from error
    if options.verb in ("protect", "remove") and not options.allow_mixed:
        try:
            batch.check_not_mixed(options.sources, options.out, options.verb == "remove")
        except batch.BatchError as error:
            hint = "choose another output folder, or --allow-mixed if whoever gets that folder may have the originals"
            raise UsageError(shown(error), hint) from error
    for notice in planned.notices:
        told.note(notice)
    if not planned.jobs and not planned.failures:
        raise UsageError("the folders hold no files that are meant", "name files, or folders with files in them")
    return planned


def _run(options: Namespace, task: Task, name: Callable[[Path], str | None], done: str) -> int:
    """Work on files, with a progress bar on a terminal, and sum up."""
    told = JobTeller(options, done)
    planned = _plan(options, name, told)
    wishes = _wishes(options, task)
    if options.dry_run:
        try:
            return told.sum_up(rehearse(planned, task, skipped_kinds(options), told.failed))
        except UnfitError as error:
            return told.stopped(str(error))
    engine = _engine(options, task, len(planned.jobs))
    noted = options.manifest
    if noted is None and not isinstance(options.out, RemotePath):
        noted = batch.notes_folder(options.out, options.resume)
    report = batch.Report()
    try:
        with shown_progress(len(planned.jobs), "file", options.quiet) as bar:
            batch.run_jobs(
                planned,
                task,
                engine,
                resume=options.resume,
                verify=options.verify,
                noted=noted,
                skip=skipped_kinds(options),
                report=report,
                failed=told.failed,
                step=bar.update,
            )
    except UnfitError as error:
        told.error = str(error)
        say(shown(error))
        told.sum_up(report, noted)
        return FAILED
    except LockedError as error:
        return told.stopped(str(error))
    except ManifestError as error:
        raise UsageError(shown(error), "choose another output folder, or the options of that job") from error
    except OSError as error:
        return told.stopped(f"{error.filename or options.out}: {error.strerror or 'cannot be used'}")
    except (KeyboardInterrupt, Terminated):
        told.sum_up(report, noted, interrupted=True)
        say("hint: --resume goes on from here")
        raise
    page = None if wishes is None else _write_report(planned, task, wishes, report, noted)
    status = told.sum_up(report, noted, page=page)
    return FAILED if wishes is not None and page is None else status


def _engine(options: Namespace, task: Task, files: int) -> Engine:
    """Who works on the files."""
    processes = min(options.jobs or min(usable_cores(), MAX_DEFAULT_JOBS), files)
    if options.engine == "local":
        if options.address is not None:
            raise UsageError("--address is for --engine ray", "leave it out, or add --engine ray")
        seconds = float(options.file_timeout)
        return ProcessEngine(processes, options.verbose, seconds=seconds) if processes > 1 else SerialEngine(seconds)
    if find_spec("ray") is None:
        raise UsageError("Ray is not installed", "pip install 'monai-miadmark[ray]'")
    if carries_secret(task):
        hint = "use key files without a passphrase, or leave --engine ray out"
        raise UsageError("a passphrase must not travel to other machines", hint)
    from monai_miadmark.ray_engine import RayEngine

    try:
        return RayEngine(options.jobs if options.address is not None else processes or 1, options.address)
    except ValueError as error:
        raise UsageError(shown(error), "miadmark protect --help shows what is expected") from error


def _check_notes(options: Namespace) -> None:
    """See that there is a place for manifest and lock, and no more than one."""
    remote = isinstance(options.out, RemotePath)
    if remote and options.manifest is None:
        raise UsageError("a store cannot hold manifest and lock", "name a folder of this machine with --manifest DIR")
    if getattr(options, "report", None) is not None and any(
        isinstance(path, RemotePath) for path in (options.out, *options.sources)
    ):
        raise UsageError("there are no reports of files in a store", "leave out --report")


def _wishes(options: Namespace, task: Task) -> job_report.Wishes | None:
    """What the command line says of a report; ``None`` where none is asked for."""
    if getattr(options, "report", None) is None:
        if getattr(options, "report_originals", False) or getattr(options, "report_images", None) is not None:
            raise UsageError("no report is asked for", "name its folder with --report DIR")
        return None
    from monai_miadmark.reporting import job_report
    from monai_miadmark.reporting.page import PageError

    check_report_packages()
    try:
        job_report.check_place(options.report, options.out, [path for path in options.sources if path.is_dir()])
    except PageError as error:
        raise UsageError(shown(error), "nothing was written") from error
    names = {}
    if isinstance(task, ProtectTask):
        names = {keys.load_recipient(path).key_id.hex(): path.name for path in task.recipients}
        signer = None if task.signer is None else keys.load_signer(task.signer.path, task.signer.passphrase)
        if signer is not None and task.signer is not None:
            names[signer.key_id.hex()] = task.signer.path.name
    logo = task.options.logo if isinstance(task, ProtectTask) else None
    images = job_report.DEFAULT_IMAGES if options.report_images is None else options.report_images
    return job_report.Wishes(options.report, options.report_originals, images, names, "" if logo is None else logo.name)


def _write_report(
    planned: batch.Plan, task: Task, wishes: job_report.Wishes, report: batch.Report, noted: Path | None
) -> Path | None:
    """Write the page of a job; ``None`` if that could not be done."""
    from monai_miadmark.reporting import job_report
    from monai_miadmark.reporting.page import PageError

    if not isinstance(task, ProtectTask | RemoveTask):
        raise TypeError("only protect and remove have reports")
    try:
        with shown_progress(0, "image") as bar:

            def step(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            wishes = replace(wishes, skipped=[failure.path for failure in report.skipped])
            return job_report.write_job_report(planned, task, wishes, report.failures, step, noted)
    except (PageError, ManifestError) as error:
        say(f"no report: {shown(error)}")
    except OSError as error:
        say(f"no report: {shown(error.filename or wishes.folder)}: {error.strerror or 'cannot be written'}")
    return None


def check_report_packages() -> None:
    """See that a page can be written before any work is done."""
    from monai_miadmark.reporting.page import missing_packages

    if missing := missing_packages():
        raise UsageError(f"not installed: {', '.join(missing)}", "pip install 'monai-miadmark[report]'")

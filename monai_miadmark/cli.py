# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The command ``miadmark``: the only module that talks to a person.

Messages go to standard error and start with ``miadmark:``; what was asked for (``inspect``, ``verify``) goes to
standard output. Exit status: 0 all done, 1 some files failed, 2 wrong usage.
"""

from __future__ import annotations

import getpass
import json
import logging
import os
import signal
import sys
import threading
import warnings
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

from tqdm import tqdm

from monai_miadmark import batch, files, gateway, keys
from monai_miadmark import doctor as examination
from monai_miadmark import preview as previews
from monai_miadmark.arguments import MAX_DEFAULT_JOBS, UsageError, command_line, place
from monai_miadmark.children import PASSPHRASE_ENV
from monai_miadmark.engines import Engine, ProcessEngine, SerialEngine, usable_cores
from monai_miadmark.errors import MIADMarkError
from monai_miadmark.locking import LockedError
from monai_miadmark.logo import BUILT_IN_LOGOS, draw_logo
from monai_miadmark.manifest import ManifestError
from monai_miadmark.options import PRESETS, ProtectOptions
from monai_miadmark.ray_engine import RayEngine
from monai_miadmark.reporting import evaluation_report, job_report
from monai_miadmark.reporting.page import PageError, missing_packages
from monai_miadmark.sidecars import find_sidecars
from monai_miadmark.stores import RemotePath
from monai_miadmark.tasks import (
    Failure,
    KeyFile,
    ProtectTask,
    RemoveTask,
    ResealTask,
    Task,
    UnfitError,
    carries_secret,
    default_marker,
)

__all__ = ["main"]

_FAILED, _USAGE, _INTERRUPTED, _PIPE_CLOSED, _TERMINATED = 1, 2, 130, 141, 143

_HINTS = {
    "WrongKeyError": "miadmark inspect FILE lists the key ids that open it; give one of these keys with -i",
    "NotProtectedError": "where the record was stripped, --sidecars DIR finds the one that was kept beside the file",
    "SignatureError": "miadmark inspect FILE shows who signed; ask the custodian for the right public key",
    "TamperedError": "get the file anew from whoever protected it; miadmark verify FILE says what does not fit",
    "UnsupportedImageError": "docs/formats-dicom.md and formats-other.md say what can be done; see miadmark doctor too",
    "FileExistsError": "--resume leaves out what is done, --overwrite does it anew",
}
"""What to do about files that failed, by the class of the error."""

_Key = TypeVar("_Key")


class _Terminated(BaseException):
    """Somebody asked the process to end; like KeyboardInterrupt, it unwinds and removes temporary files."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: the command line without the program's name; default: ``sys.argv``.

    Returns:
        The exit status.
    """
    try:
        options = command_line(_VERBS).parse_args(arguments)
        with _environment(options.verbose):
            status: int = options.run(options)
            sys.stdout.flush()
            return status
    except BrokenPipeError:
        # Whoever read the output has had enough, as `head` does; the interpreter must not try to write the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _PIPE_CLOSED
    except UsageError as error:
        _say(str(error))
        _say(f"hint: {error.hint}")
        return _USAGE
    except KeyboardInterrupt:
        _say("interrupted")
        return _INTERRUPTED
    except _Terminated:
        _say("terminated")
        return _TERMINATED


def _keygen(options: Namespace) -> int:
    """Make a key pair."""
    try:
        name = files.safe_name(options.name)
    except ValueError as error:
        raise UsageError(f"{_shown(options.name)} is not a plain name", "name a folder with --dir") from error
    kind = options.sign_with or ("ed25519" if options.sign else None)
    passphrase = _passphrase(f"Passphrase for {name}.key: ", repeat=True) if options.passphrase else None
    key = keys.generate_signer(kind) if kind else keys.generate_identity(options.kem or "hybrid")
    try:
        options.dir.mkdir(parents=True, exist_ok=True)
        paths = keys.save_key_pair(key, options.dir / name, passphrase)
    except FileExistsError as error:
        _say(f"{_shown(error.filename)} exists and is left as it is: choose another name")
        return _FAILED
    except OSError as error:
        _say(f"{_shown(error.filename or options.dir)}: {error.strerror}")
        return _FAILED
    except ValueError as error:
        raise UsageError(str(error), "give a passphrase that is not empty") from error
    private, public = (_shown(path) for path in paths)
    _say(f"wrote {private} (keep it secret and safe) and {public} ({key.kind} {key.key_id.hex()})")
    return 0


def _protect(options: Namespace) -> int:
    """Protect files for recipients."""
    return _run(options, _protect_task(options), files.protected_name, "protected")


def _protect_task(options: Namespace) -> ProtectTask:
    """What the command line says of protecting."""
    _recipients(options)
    passphrase = None
    if options.passphrase:
        passphrase = _passphrase("Passphrase for restoring: ", repeat=True)
        _checked(keys.PassphraseIdentity, passphrase)  # an empty one is wrong usage
    if not options.recipient and passphrase is None:
        raise UsageError(
            "nobody could restore the images", "name recipients with -r RECIPIENT.pub, or use --passphrase"
        )
    _check_certificates(options.ps315)
    choices, mask = _protect_options(options)
    return ProtectTask(
        recipients=tuple(options.recipient),
        options=choices,
        passphrase=passphrase,
        salt=None if passphrase is None else os.urandom(keys.SALT_BYTES),
        signer=None if options.signer is None else _unlocked(options.signer, keys.load_signer),
        mask=mask,
        record=options.record,
        ps315=tuple(options.ps315),
        overwrite=options.overwrite,
    )


def _protect_options(options: Namespace) -> tuple[ProtectOptions, Path | None]:
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
        raise UsageError(f"--region {_shown(mask)}: no such file", "give auto, none, or a PNG, NIfTI or .npy mask")
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
            raise UsageError(f"{_shown(path)}: {error.strerror or 'not readable'}", "check the path") from error
        except (MIADMarkError, ValueError) as error:
            hint = "--ps315 takes an X.509 certificate (PEM) with an RSA key of 2048 bits or more, valid today"
            raise UsageError(_shown(error), hint) from error


def _check_logo(logo: Path | None, text: str) -> None:
    """Draw the logo before any image is read."""
    try:
        draw_logo(logo, text)
    except OSError as error:
        hint = f"name an image file, or one of {', '.join(BUILT_IN_LOGOS)}"
        raise UsageError(f"{_shown(logo)}: {error.strerror or 'not readable'}", hint) from error
    except ValueError as error:
        raise UsageError(_shown(error), "miadmark protect --help shows what is expected") from error


def _remove(options: Namespace) -> int:
    """Restore files."""
    if options.require_signer is not None:
        _checked(keys.load_verifier, options.require_signer)
    opening = _opening(options)
    sidecars: Mapping[str, Sequence[Path]] = {}
    if options.sidecars is not None:
        try:
            sidecars = find_sidecars(options.sidecars)
        except OSError as error:
            raise UsageError(f"{_shown(options.sidecars)}: {error.strerror}", "name a folder with sidecars") from error
    task = RemoveTask(**opening, require_signer=options.require_signer, sidecars=sidecars)
    return _run(options, task, lambda path: None, "restored")


def _grant(options: Namespace) -> int:
    """Seal for further recipients."""
    return _reseal(options, "grant", "granted")


def _revoke(options: Namespace) -> int:
    """Seal without some recipients."""
    return _reseal(options, "revoke", "revoked")


def _reseal(options: Namespace, verb: Literal["grant", "revoke"], done: str) -> int:
    """Grant or revoke."""
    key_ids = tuple(getattr(options, "id", []))
    opening = _opening(options)
    if not [*_recipients(options), *key_ids]:
        raise UsageError("no recipient is named", "name recipients with -r RECIPIENT.pub")
    task = ResealTask(**opening, verb=verb, recipients=tuple(options.recipient), key_ids=key_ids)
    return _run(options, task, lambda path: path.name, done)


def _inspect(options: Namespace) -> int:
    """Tell what a protected file says of itself."""
    return _tell(options, lambda: files.inspect_file(options.file).to_dict())


def _verify(options: Namespace) -> int:
    """Check a protected file without a key."""
    signer = None if options.signer is None else _checked(keys.load_verifier, options.signer)

    def result() -> dict[str, Any]:
        told = files.verify_file(options.file, signer).to_dict()
        return {"verified": True, "signer_demanded": signer is not None, **told}

    return _tell(options, result)


def _gateway(options: Namespace) -> int:
    """Run a DICOM node, or look after its queue."""
    try:
        if options.status is not None:
            return _tell_status(options)
        if options.requeue is not None:
            number = gateway.requeue(options.requeue)
            _say(f"{number} dead object{'' if number == 1 else 's'} will be tried again")
            return 0
        settings = _gateway_settings(options)
        task: Task
        if options.protect:
            task = _protect_task(options)
        else:
            if options.require_signer is not None:
                _checked(keys.load_verifier, options.require_signer)
            task = RemoveTask(**_opening(options), require_signer=options.require_signer)
        reason = gateway.serve(settings, task)
    except ImportError as error:
        raise UsageError("pynetdicom is not installed", "pip install 'monai-miadmark[gateway]'") from error
    except gateway.SpoolError as error:
        _say(_shown(error))
        return _FAILED
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _say(_shown(f"{where}{error.strerror or 'cannot be used'}"))
        return _FAILED
    return 0 if reason is None else _FAILED


def _tell_status(options: Namespace) -> int:
    """What is in a queue."""
    told = gateway.read_status(options.status).to_dict()
    if options.json:
        print(json.dumps(told, indent=2))
        return 0
    for name, value in told.items():
        lines = [f"{number} {_shown(key)}" for key, number in value.items()] if isinstance(value, dict) else [value]
        for line in lines:
            print(f"{name.replace('_', ' ')}: {line}")
    return 0


def _gateway_settings(options: Namespace) -> gateway.GatewaySettings:
    """How the command line says that a node is to work."""
    missing = [name for name in ("queue", "listen", "next") if getattr(options, name) is None]
    if missing:
        raise UsageError(f"--{missing[0]} is not given", "miadmark gateway --help shows what is expected")
    for group in (("cert", "key", "ca"), ("next_cert", "next_key")):
        given = [getattr(options, name) is not None for name in group]
        if any(given) and not all(given):
            names = ", ".join(f"--{name.replace('_', '-')}" for name in group)
            raise UsageError(f"{names} belong together", "give all of them or none")
    if options.next_cert is not None and options.next_ca is None:
        raise UsageError("--next-cert needs --next-ca", "name who signs the next node's certificate")
    try:
        server = None if options.cert is None else gateway.ServerTLS(options.cert, options.key, options.ca)
        client = None
        if options.next_ca is not None:
            client = gateway.ClientTLS(options.next_ca, options.next_cert, options.next_key)
        return gateway.GatewaySettings(
            queue=options.queue,
            listening=gateway.Node.parse_listening(options.listen),
            title=options.aet,
            callers=tuple(options.allow),
            next_node=gateway.Node.parse(options.next),
            pass_unsupported=options.pass_unsupported,
            server_tls=server,
            client_tls=client,
            workers=options.jobs,
            limit_bytes=int(options.limit * 1024 * gateway.MIB),
            reserve_bytes=int(options.reserve * 1024 * gateway.MIB),
            object_bytes=options.max_object * gateway.MIB,
            associations=options.associations,
            keep_seconds=options.keep * 3600,
        )
    except (ValueError, OverflowError) as error:
        raise UsageError(_shown(error), "miadmark gateway --help shows what is expected") from error


def _preview(options: Namespace) -> int:
    """Draw what presets and styles would make of an image."""
    first = Namespace(**{**vars(options), "preset": "standard", "style": "visible"})
    choice, mask = _protect_options(first)
    presets = [name for name in PRESETS if not options.preset or name in options.preset]
    styles: list[Literal["visible", "invisible"]] = ["visible", "invisible"]
    styles = [name for name in styles if not options.style or name in options.style]
    choices = [replace(choice, preset=preset, style=style) for style in styles for preset in presets]
    out = Path(previews.default_name(options.file)) if options.out is None else options.out
    if out.exists() and not options.overwrite:
        _say(f"{_shown(out)} exists and is left as it is: choose another name with -o, or --overwrite")
        return _FAILED
    try:
        drawn = None if mask is None else (mask.read_bytes(), mask.name)
        data = options.file.read_bytes()
        marker = default_marker()
        with _bar(len(choices), "preset") as bar:
            made = previews.preview(
                data,
                options.file.name,
                marker,
                choices,
                slice_number=options.slice,
                mask=drawn,
                step=bar.update,
            )
        out.parent.mkdir(parents=True, exist_ok=True)
        files.atomic_write(out, previews.draw_preview(made, options.file.name), overwrite=options.overwrite)
    except (MIADMarkError, OSError, ValueError) as error:
        failure = Failure.of(options.file, error)
        _say(f"{_shown(options.file)}: {_shown(failure.reason)}")
        _say_hints({failure.kind})
        return _FAILED
    _say(f"wrote {_shown(out)}; it shows the original: keep it as you keep the source")
    return 0


def _doctor(options: Namespace) -> int:
    """Say what works here and what does not."""
    checks = []
    group = ""
    for check in examination.examine(options.folder):
        checks.append(check)
        if options.json:
            continue
        if check.group != group:
            print(f"{check.group}:")
            group = check.group
        print(f"  {check.status:<8}{check.name}: {_shown(check.detail)}", flush=True)
        if check.advice:
            print(f"          -> {_shown(check.advice)}")
    broken = examination.is_broken(checks)
    if options.json:
        print(json.dumps({"broken": broken, "checks": [check._asdict() for check in checks]}, indent=2))
    missing = sum(check.status == "missing" for check in checks)
    rest = f"; {missing} things that can be done without are missing" if missing else ""
    _say(f"{'something essential is broken: see the advice above' if broken else 'all that is needed works'}{rest}")
    return _FAILED if broken else 0


def _evaluate(options: Namespace) -> int:
    """Measure the bundle on data sets, and write a page of tables."""
    _check_report_packages()
    if not options.page_only and (absent := evaluation_report.missing_packages()):
        raise UsageError(f"not installed: {', '.join(absent)}", "pip install 'monai-miadmark[evaluation]'")
    try:
        if not options.page_only:
            from monai_miadmark.marker import bundle_root

            root = bundle_root() if options.bundle is None else options.bundle
            folder, found = evaluation_report.data_sets(options.folder, root)
            if unknown := set(options.dataset) - set(found):
                hint = f"{folder} has {', '.join(found)}"
                raise UsageError(f"there is no data set {', '.join(sorted(unknown))}", hint)
            wanted = evaluation_report.Measurement(
                options.preset, options.style, options.section, options.limit, (0, options.every)
            )
            for name in options.dataset or found:
                evaluation_report.measure(root, folder, name, wanted, options.out)
        shown = options.out / "pictures" if options.report_originals else None
        page = evaluation_report.write_evaluation_page(options.out / "results", options.out, shown)
    except PageError as error:
        _say(_shown(error))
        return _FAILED
    except (OSError, ValueError) as error:
        said = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
        where = getattr(error, "filename", None)
        _say(_shown(said if where is None else f"{where}: {said}"))
        _say("hint: name the folder of the data sets, or set MIADMARK_DATA; --page-only shows what was measured before")
        return _FAILED
    _say(f"wrote {_shown(page)}")
    return 0


def _completion(options: Namespace) -> int:
    """Print a script that completes command lines."""
    try:
        import shtab
    except ImportError as error:
        raise UsageError("shtab is not installed", "pip install 'monai-miadmark[completion]'") from error
    parser = command_line(_VERBS)
    _complete_paths(parser, shtab.FILE)
    print(shtab.complete(parser, options.shell))
    return 0


def _complete_paths(parser: ArgumentParser, how: object) -> None:
    """Let file names be completed wherever one is expected."""
    for action in parser._actions:
        if isinstance(action.choices, dict):
            for verb in action.choices.values():
                _complete_paths(verb, how)
        elif action.type in (Path, place):
            action.complete = how  # type: ignore[attr-defined]


def _tell(options: Namespace, result: Callable[[], dict[str, Any]]) -> int:
    """Print a mapping, or the reason why there is none."""
    try:
        told = result()
    except (MIADMarkError, OSError, ValueError) as error:
        failure = Failure.of(options.file, error)
        if options.json:
            print(json.dumps({"error": type(error).__name__, "message": failure.reason}))
        _say(f"{_shown(options.file)}: {_shown(failure.reason)}")
        return _FAILED
    if options.json:
        print(json.dumps(told, indent=2))
        return 0
    for name, value in told.items():
        for line in value if isinstance(value, list) and value else [value]:
            text = " ".join(str(part) for part in line.values()) if isinstance(line, dict) else str(line)
            print(f"{name.replace('_', ' ')}: {_shown(text)}")
    return 0


def _plan(options: Namespace, name: Callable[[Path], str | None]) -> batch.Plan:
    """Files to work on."""
    if options.verify and not options.resume:
        raise UsageError("--verify is for --resume", "use miadmark verify FILE to check a protected file")
    _check_notes(options)
    try:
        # Restoring is never barred: restored files are what they were, copies among them.
        unique = options.run is not _remove
        planned = batch.plan(options.sources, options.out, name, unique_instances=unique)
    except batch.BatchError as error:
        raise UsageError(_shown(error), "nothing was written") from error
    if not planned.jobs and not planned.failures:
        raise UsageError("the folders hold no files", "name files, or folders with files in them")
    return planned


def _run(options: Namespace, task: Task, name: Callable[[Path], str | None], done: str) -> int:
    """Work on files, with a progress bar on a terminal, and sum up."""
    planned = _plan(options, name)
    wishes = _wishes(options, task)
    engine = _engine(options, task, len(planned.jobs))
    report = batch.Report()

    def failed(failure: Failure) -> None:
        tqdm.write(f"miadmark: {_shown(failure.path)}: {_shown(failure.reason)}", file=sys.stderr)

    try:
        with _bar(len(planned.jobs), "file") as bar:
            batch.run_jobs(
                planned,
                task,
                engine,
                resume=options.resume,
                verify=options.verify,
                noted=options.manifest,
                report=report,
                failed=failed,
                step=bar.update,
            )
    except UnfitError as error:
        _say(_shown(error))
        _say_sum(report, done)
        return _FAILED
    except LockedError as error:
        _say(_shown(error))
        return _FAILED
    except ManifestError as error:
        raise UsageError(_shown(error), "choose another output folder, or the options of that job") from error
    except OSError as error:
        _say(f"{_shown(error.filename or options.out)}: {error.strerror or 'cannot be used'}")
        return _FAILED
    except (KeyboardInterrupt, _Terminated):
        _say_sum(report, done)
        _say("hint: --resume goes on from here")
        raise
    _say_sum(report, done)
    told = wishes is None or _write_report(planned, task, wishes, report)
    return _FAILED if report.failures or not told else 0


def _engine(options: Namespace, task: Task, files: int) -> Engine:
    """Who works on the files."""
    processes = min(options.jobs or min(usable_cores(), MAX_DEFAULT_JOBS), files)
    if options.engine == "local":
        if options.address is not None:
            raise UsageError("--address is for --engine ray", "leave it out, or add --engine ray")
        return ProcessEngine(processes, options.verbose) if processes > 1 else SerialEngine()
    if find_spec("ray") is None:
        raise UsageError("Ray is not installed", "pip install 'monai-miadmark[ray]'")
    if carries_secret(task):
        hint = "use key files without a passphrase, or leave --engine ray out"
        raise UsageError("a passphrase must not travel to other machines", hint)
    try:
        return RayEngine(options.jobs if options.address is not None else processes or 1, options.address)
    except ValueError as error:
        raise UsageError(_shown(error), "miadmark protect --help shows what is expected") from error


def _check_notes(options: Namespace) -> None:
    """See that there is a place for manifest and lock, and no more than one."""
    remote = isinstance(options.out, RemotePath)
    if remote and options.manifest is None:
        raise UsageError("a store cannot hold manifest and lock", "name a folder of this machine with --manifest DIR")
    if not remote and options.manifest is not None:
        raise UsageError("the manifest lies in the output folder", "leave out --manifest, which is for URLs")
    if getattr(options, "report", None) is not None and any(
        isinstance(path, RemotePath) for path in (options.out, *options.sources)
    ):
        raise UsageError("there are no reports of files in a store", "leave out --report")


def _bar(total: int, unit: str) -> tqdm:
    """A progress bar on a terminal, nothing elsewhere."""
    return tqdm(total=total, unit=unit, leave=False, file=sys.stderr, disable=not sys.stderr.isatty())


def _wishes(options: Namespace, task: Task) -> job_report.Wishes | None:
    """What the command line says of a report; ``None`` where none is asked for."""
    if getattr(options, "report", None) is None:
        if getattr(options, "report_originals", False) or getattr(options, "report_images", None) is not None:
            raise UsageError("no report is asked for", "name its folder with --report DIR")
        return None
    _check_report_packages()
    try:
        job_report.check_place(options.report, options.out, [path for path in options.sources if path.is_dir()])
    except PageError as error:
        raise UsageError(_shown(error), "nothing was written") from error
    names = {}
    if isinstance(task, ProtectTask):
        names = {keys.load_recipient(path).key_id.hex(): path.name for path in task.recipients}
        signer = None if task.signer is None else keys.load_signer(task.signer.path, task.signer.passphrase)
        if signer is not None and task.signer is not None:
            names[signer.key_id.hex()] = task.signer.path.name
    images = job_report.DEFAULT_IMAGES if options.report_images is None else options.report_images
    return job_report.Wishes(options.report, options.report_originals, images, names)


def _write_report(planned: batch.Plan, task: Task, wishes: job_report.Wishes, report: batch.Report) -> bool:
    """Write the page of a job; whether that could be done."""
    if not isinstance(task, ProtectTask | RemoveTask):
        raise TypeError("only protect and remove have reports")
    try:
        with _bar(0, "image") as bar:

            def step(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            page = job_report.write_job_report(planned, task, wishes, report.failures, step)
    except (PageError, ManifestError) as error:
        _say(f"no report: {_shown(error)}")
        return False
    except OSError as error:
        _say(f"no report: {_shown(error.filename or wishes.folder)}: {error.strerror or 'cannot be written'}")
        return False
    _say(f"wrote {_shown(page)}" + ("; it shows originals" if wishes.originals else ""))
    return True


def _check_report_packages() -> None:
    """See that a page can be written before any work is done."""
    if missing := missing_packages():
        raise UsageError(f"not installed: {', '.join(missing)}", "pip install 'monai-miadmark[report]'")


def _say_sum(report: batch.Report, done: str) -> None:
    """What became of all files, in one line."""
    count, kept, lost = len(report.done), len(report.kept), len(report.failures)
    more = f", {kept} done before" if kept else ""
    more += f", {lost} failed" if lost else ""
    _say(f"{done} {count} file{'' if count == 1 else 's'}{more} in {report.seconds:.1f} s")
    _say_hints({failure.kind for failure in report.failures})


def _say_hints(kinds: set[str]) -> None:
    """What to do about failures, once for each kind."""
    for kind, hint in _HINTS.items():
        if kind in kinds:
            _say(f"hint: {hint}")


def _recipients(options: Namespace) -> list[keys.Recipient]:
    """Public keys of ``-r``, each once."""
    found: dict[bytes, keys.Recipient] = {}
    for path in options.recipient:
        recipient = _checked(keys.load_recipient, path)
        found.setdefault(recipient.key_id, recipient)
    return list(found.values())


def _opening(options: Namespace) -> dict[str, Any]:
    """What tasks that open records have in common: private keys of ``-i``, and the passphrase."""
    identities = tuple(_unlocked(path, keys.load_identity) for path in options.identity)
    passphrase = _passphrase("Passphrase: ") if options.passphrase else None
    if passphrase is not None:
        _checked(keys.PassphraseIdentity, passphrase)
    if not identities and passphrase is None:
        raise UsageError("no key is given", "name a private key with -i IDENTITY.key, or use --passphrase")
    return {"identities": identities, "passphrase": passphrase, "overwrite": options.overwrite}


def _unlocked(path: Path, load: Callable[[Path, str | None], object]) -> KeyFile:
    """A private key file with its passphrase, if it needs one; read once, to see that it can be."""
    locked = _checked(keys.needs_passphrase, path)
    passphrase = _passphrase(f"Passphrase of {_shown(path)}: ") if locked else None
    _checked(lambda given: load(given, passphrase), path)
    return KeyFile(path, passphrase)


def _checked(load: Callable[[Any], _Key], argument: Any) -> _Key:
    """Use something that the command line named; if that fails, the usage is wrong."""
    try:
        return load(argument)
    except OSError as error:
        raise UsageError(f"{_shown(argument)}: {error.strerror or 'not readable'}", "check the path") from error
    except (MIADMarkError, ValueError) as error:
        raise UsageError(_shown(error), "miadmark keygen makes keys; NAME.pub protects, NAME.key restores") from error


def _passphrase(prompt: str, repeat: bool = False) -> str:
    """A passphrase from the environment or a person."""
    if (given := os.environ.get(PASSPHRASE_ENV)) is not None:
        return given
    if not sys.stdin.isatty():
        raise UsageError("a passphrase is needed and there is no terminal to ask at", f"set {PASSPHRASE_ENV}")
    passphrase = getpass.getpass(prompt)
    if repeat and getpass.getpass("The same again: ") != passphrase:
        raise UsageError("the passphrases differ", "try again")
    return passphrase


def _say(message: str) -> None:
    """A message to a person."""
    print(f"miadmark: {message}", file=sys.stderr, flush=True)


def _shown(text: object) -> str:
    """Text from outside, fit for a terminal: a file name may hold control characters."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text))


@contextmanager
def _environment(verbose: bool) -> Iterator[None]:
    """Logs and warnings of libraries only on request, and an orderly end when asked to end; all undone afterwards."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("miadmark: %(name)s: %(message)s"))
    handler.setLevel(logging.DEBUG if verbose else logging.CRITICAL)
    ours, root = logging.getLogger("monai_miadmark"), logging.getLogger()
    level = ours.level

    def end(number: int, frame: object) -> NoReturn:
        raise _Terminated

    in_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, end) if in_main else None
    root.addHandler(handler)
    ours.setLevel(logging.DEBUG if verbose else level)
    try:
        with warnings.catch_warnings():
            if not verbose:
                warnings.simplefilter("ignore")
            yield
    finally:
        root.removeHandler(handler)
        ours.setLevel(level)
        if in_main:
            signal.signal(signal.SIGTERM, before)


_VERBS: dict[str, Callable[[Namespace], int]] = {
    "keygen": _keygen,
    "protect": _protect,
    "remove": _remove,
    "inspect": _inspect,
    "verify": _verify,
    "grant": _grant,
    "revoke": _revoke,
    "preview": _preview,
    "doctor": _doctor,
    "evaluate": _evaluate,
    "completion": _completion,
    "gateway": _gateway,
}

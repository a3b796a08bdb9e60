# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""``preview``, ``doctor``, ``evaluate``, ``completion``."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from pathlib import Path
from typing import Literal

from monai_miadmark.argument_types import local_path
from monai_miadmark.arguments import UsageError, command_line, place
from monai_miadmark.commands import VERBS
from monai_miadmark.commands.console import FAILED, say, say_hints, shown, shown_progress
from monai_miadmark.commands.fish import fish_script
from monai_miadmark.errors import MIADMarkError

__all__ = ["completion", "doctor", "evaluate", "preview"]


def preview(options: Namespace) -> int:
    """Draw what presets and styles would make of an image."""
    from monai_miadmark import files
    from monai_miadmark import preview as previews
    from monai_miadmark.commands.jobs import protect_options
    from monai_miadmark.options import PRESETS
    from monai_miadmark.tasks import Failure, default_marker

    first = Namespace(**{**vars(options), "preset": "standard", "style": "visible"})
    choice, mask = protect_options(first)
    presets = [name for name in PRESETS if not options.preset or name in options.preset]
    styles: list[Literal["visible", "invisible"]] = ["visible", "invisible"]
    styles = [name for name in styles if not options.style or name in options.style]
    choices = [replace(choice, preset=preset, style=style) for style in styles for preset in presets]
    out = Path(previews.default_name(options.file)) if options.out is None else options.out
    if out.exists() and not options.overwrite:
        say(f"{shown(out)} exists and is left as it is: choose another name with -o, or --overwrite")
        return FAILED
    try:
        drawn = None if mask is None else (mask.read_bytes(), mask.name)
        data = options.file.read_bytes()
        marker = default_marker(options.device)
        with shown_progress(len(choices), "preset") as bar:
            made = previews.preview(
                data,
                options.file.name,
                marker,
                choices,
                slice_number=options.slice,
                mask=drawn,
                step=bar.update,
            )
        files.make_folders(out.parent)
        files.atomic_write(out, previews.draw_preview(made, options.file.name), overwrite=options.overwrite)
    except (MIADMarkError, OSError, ValueError) as error:
        failure = Failure.of(options.file, error)
        say(f"{shown(options.file)}: {shown(failure.reason)}")
        say_hints({failure.kind})
        return FAILED
    say(f"wrote {shown(out)}; it shows the original: keep it as you keep the source")
    return 0


def doctor(options: Namespace) -> int:
    """Say what works here and what does not."""
    from monai_miadmark import doctor as examination

    checks = []
    group = ""
    for check in examination.examine(options.folder):
        checks.append(check)
        if options.json:
            continue
        if check.group != group:
            print(f"{check.group}:")
            group = check.group
        print(f"  {check.status:<8}{check.name}: {shown(check.detail)}", flush=True)
        if check.advice:
            print(f"          -> {shown(check.advice)}")
    broken = examination.is_broken(checks)
    if options.json:
        print(json.dumps({"broken": broken, "checks": [check._asdict() for check in checks]}, indent=2))
    missing = sum(check.status == "missing" for check in checks)
    rest = f"; {missing} things that can be done without are missing" if missing else ""
    say(f"{'something essential is broken: see the advice above' if broken else 'all that is needed works'}{rest}")
    return FAILED if broken else 0


def evaluate(options: Namespace) -> int:
    """Measure the bundle on data sets, and write a page of tables."""
    from monai_miadmark.commands.jobs import check_report_packages
    from monai_miadmark.reporting import evaluation_report
    from monai_miadmark.reporting.page import PageError

    check_report_packages()
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
        pictures = options.out / "pictures" if options.report_originals else None
        page = evaluation_report.write_evaluation_page(options.out / "results", options.out, pictures)
    except PageError as error:
        say(shown(error))
        return FAILED
    except (OSError, ValueError) as error:
        said = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
        where = getattr(error, "filename", None)
        say(shown(said if where is None else f"{where}: {said}"))
        say("hint: name the folder of the data sets, or set MIADMARK_DATA; --page-only shows what was measured before")
        return FAILED
    say(f"wrote {shown(page)}")
    return 0


def completion(options: Namespace) -> int:
    """Print a script that completes command lines."""
    if options.shell == "fish":
        print(fish_script(command_line(VERBS)))
        return 0
    try:
        import shtab
    except ImportError as error:
        raise UsageError("shtab is not installed", "pip install 'monai-miadmark[completion]'") from error
    parser = command_line(VERBS)
    _complete_paths(parser, shtab.FILE)
    print(shtab.complete(parser, options.shell))
    return 0


def _complete_paths(parser: ArgumentParser, how: object) -> None:
    """Let file names be completed wherever one is expected."""
    for action in parser._actions:
        if isinstance(action.choices, dict):
            for verb in action.choices.values():
                _complete_paths(verb, how)
        elif action.type in (local_path, place):
            action.complete = how  # type: ignore[attr-defined]

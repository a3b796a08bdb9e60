# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""What is said of a folder job: notes and failures while it runs, one line of sums, or one JSON document."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from monai_miadmark.batch import Report
from monai_miadmark.commands.console import FAILED, say, say_hints, shown
from monai_miadmark.manifest import MANIFEST_NAME
from monai_miadmark.tasks import Failure

__all__ = ["SCHEMA", "JobTeller", "skipped_kinds"]

SCHEMA = 1
"""Of the JSON document; see docs/automation.md."""

_DROPPED = "no longer signed: a signature is for certain recipients, and only --signer makes a new one"
_SIGNATURE_WARNINGS = {
    ("restored", "none"): "not signed: whoever has a recipient's public key could have made {them}, with any image",
    ("restored", "valid"): "signed, but by whom was not asked: --require-signer SIGNER.pub accepts one custodian only",
    ("granted", "dropped"): _DROPPED,
    ("revoked", "dropped"): _DROPPED,
}
"""What is said aloud of results, by what was done and what is known of their signature."""

_MAX_WARNINGS = 20
"""Warnings about single files that are said aloud."""

_UNSUPPORTED = ("UnsupportedImageError", "LabelMapError", "TooLargeError")


def skipped_kinds(options: Namespace) -> frozenset[str]:
    """Names of the errors with which files are left out and have not failed."""
    kinds: set[str] = set()
    if options.skip_unsupported:
        kinds.update(_UNSUPPORTED)
        if options.verb != "protect":
            kinds.add("NotProtectedError")
    if getattr(options, "label_maps", None) == "skip":
        kinds.add("LabelMapError")
    return frozenset(kinds)


class JobTeller:
    """Tells of one job: to a person on standard error, to a program on standard output.

    Args:
        options: what the command line says.
        done: what was done with files, as a participle.
    """

    def __init__(self, options: Namespace, done: str) -> None:
        self.options, self.done = options, done
        self.skip = skipped_kinds(options)
        self.notes: list[str] = []
        self.error: str | None = None
        """Why the job as a whole was not done."""

    def note(self, text: str) -> None:
        """Something that a person should know before the files are looked for."""
        self.notes.append(text)
        if not self.options.quiet:
            say(f"note: {shown(text)}")

    def failed(self, failure: Failure) -> None:
        """A file that was not done."""
        skipped = failure.kind in self.skip
        if not (skipped and self.options.quiet):
            why = f"skipped: {failure.reason}" if skipped else failure.reason
            tqdm.write(f"miadmark: {shown(failure.path)}: {shown(why)}", file=sys.stderr)

    def stopped(self, error: str) -> int:
        """Say why nothing could be begun; the exit status."""
        self.error = error
        say(shown(error))
        if self.options.json:
            print(json.dumps(self._document(Report(), None, None, False), indent=2), flush=True)
        return FAILED

    def sum_up(
        self, report: Report, noted: Path | None = None, page: Path | None = None, interrupted: bool = False
    ) -> int:
        """Say what became of all files.

        Args:
            report: of the job.
            noted: folder of the manifest.
            page: the report for people.
            interrupted: the job was broken off.

        Returns:
            The exit status.
        """
        manifest = None if noted is None else noted / MANIFEST_NAME
        if manifest is not None and not manifest.is_file():
            manifest = None
        if self.options.dry_run and not self.options.json and not self.options.quiet:
            for source, out in report.done:
                print(f"{shown(source)} -> {shown(out)}")
        if not self.options.quiet:
            say(self._sums(report))
            if page is not None:
                originals = "; it shows originals" if self.options.report_originals else ""
                say(f"wrote {shown(page)}{originals}")
            if manifest is not None:
                inside = "; do not share it with the images" if manifest.parent == self.options.out else ""
                say(f"manifest: {shown(manifest)}{inside}")
        if report.ignored_lines:
            lines = f"{report.ignored_lines} line{'' if report.ignored_lines == 1 else 's'}"
            say(f"warning: {lines} of the manifest count for nothing: not written by you, or changed")
        if not self.options.quiet:
            _say_modalities(report)
            _say_regions(report)
        _say_warnings(report)
        if count := len(report.replanned):
            files_shown = "1 file was" if count == 1 else f"{count} files were"
            say(f"note: {files_shown} done when the series had other files: logo and field may differ from the rest")
        _say_signatures(report, self.done)
        kinds = {failure.kind for failure in report.failures}
        if "WrongKeyError" in kinds and getattr(self.options, "passphrase", False):
            kinds.add("WrongPassphrase")
            if not self.options.identity:
                kinds.remove("WrongKeyError")
        if self.options.verb != "remove":
            kinds.discard("NotProtectedError")  # what it advises is an option of remove
        say_hints(kinds)
        if self.options.json:
            print(json.dumps(self._document(report, manifest, page, interrupted), indent=2), flush=True)
        return FAILED if report.failures else 0

    def _sums(self, report: Report) -> str:
        """What became of all files, in one line."""
        count, kept = len(report.done), len(report.kept)
        left, lost = len(report.skipped), len(report.failures)
        copied = sum(bool(facts.get("copied")) for facts in report.facts.values())
        text = f"would have {self.done}" if self.options.dry_run else self.done
        more = f", {kept} done before" if kept else ""
        more += f", {copied} of them COPIED UNPROTECTED" if copied else ""
        more += f", {left} skipped" if left else ""
        more += f", {lost} failed" if lost else ""
        return f"{text} {count} file{'' if count == 1 else 's'}{more} in {report.seconds:.1f} s"

    def _document(self, report: Report, manifest: Path | None, page: Path | None, interrupted: bool) -> dict[str, Any]:
        """The same for a program."""
        done = "planned" if self.options.dry_run else "done"
        files: list[dict[str, Any]] = [
            {"source": str(source), "status": done, "output": str(out), **report.facts.get(source, {})}
            for source, out in report.done
        ]
        files += [{"source": str(source), "status": "kept", "output": str(out)} for source, out in report.kept]
        for status, failures in (("skipped", report.skipped), ("failed", report.failures)):
            files += [{"source": str(f.path), "status": status, "error": f.kind, "message": f.reason} for f in failures]
        return {
            "schema": SCHEMA,
            "command": self.options.verb,
            "dry_run": self.options.dry_run,
            "interrupted": interrupted,
            "error": self.error,
            "out": str(self.options.out),
            "manifest": None if manifest is None else str(manifest),
            "report": None if page is None else str(page),
            "seconds": round(report.seconds, 3),
            "counts": {
                "done": len(report.done),
                "kept": len(report.kept),
                "skipped": len(report.skipped),
                "failed": len(report.failures),
            },
            "notes": self.notes,
            "files": files,
        }


def _say_modalities(report: Report) -> None:
    """Say what the images were taken for."""
    counts: Counter[str] = Counter()
    sure: defaultdict[str, list[float]] = defaultdict(list)
    for facts in report.facts.values():
        if (found := facts.get("modality")) is None:
            continue
        if found["known"] is False:
            text = f"unknown, marked as {found['name']}"
        else:
            text = f"{found['name']}{'' if found['measured'] else ' (effect not measured)'}"
            if found["confidence"] is not None:
                sure[text].append(found["confidence"])
        counts[text] += 1
    if counts:
        told = [f"{count} {text}{_confidence(sure[text])}" for text, count in counts.most_common()]
        say(f"modality: {'; '.join(told)}")


def _say_regions(report: Report) -> None:
    """Say what the images' regions rest on, and where the lesion may lie elsewhere."""
    counts: Counter[str] = Counter()
    for facts in report.facts.values():
        if (found := facts.get("region")) is not None:
            counts["unsure" if found["unsure_slices"] else " and ".join(found["basis"])] += 1
    if counts.keys() - {"mask", "none"}:
        told = ", ".join(f"{count} {text}" for text, count in counts.most_common())
        hint = "; where it is unsure the logo keeps to the border (--region MASK says where a lesion is)"
        say(f"region: {told}{hint if counts['unsure'] else ''}")


def _confidence(sure: list[float]) -> str:
    """How sure, as far as anything is known of it."""
    if not sure:
        return ""
    low, high = (f"{value:.2f}" for value in (min(sure), max(sure)))
    return f", confidence {low}" if low == high else f", confidence {low} to {high}"


def _say_warnings(report: Report) -> None:
    """Say of which images no effect can be expected, and what to do about it."""
    told = [(path, text) for path, facts in report.facts.items() for text in facts.get("warnings", ())]
    for path, text in told[:_MAX_WARNINGS]:
        say(f"warning: {shown(path)}: {text}")
    if len(told) > _MAX_WARNINGS:
        say(f"warning: {len(told) - _MAX_WARNINGS} more of these, in the manifest")


def _say_signatures(report: Report, done: str) -> None:
    """Say of how many results nobody knows who made them."""
    for (verb, signature), text in _SIGNATURE_WARNINGS.items():
        count = report.signatures.count(signature)
        if verb == done and count:
            files_shown = "1 file is" if count == 1 else f"{count} files are"
            say(f"warning: {files_shown} {text.format(them='it' if count == 1 else 'them')}")

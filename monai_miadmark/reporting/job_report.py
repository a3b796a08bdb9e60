# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The page of a folder job: what was done with each file, for whom, at what cost, and what it looks like.

It is made of the manifest, which knows all runs of a job, and of the files themselves, which are opened again: a job
that was broken off and gone on with has a whole report.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from monai_miadmark.batch import Plan, job_settings
from monai_miadmark.errors import MIADMarkError
from monai_miadmark.manifest import Settings
from monai_miadmark.reporting import charts
from monai_miadmark.reporting.gallery import Pair, Slot, open_pair, pictures
from monai_miadmark.reporting.history import FileFacts, History, KeyName, read_history
from monai_miadmark.reporting.page import PageError, render, write_page
from monai_miadmark.tasks import Failure, Job, ProtectTask, RemoveTask

__all__ = ["DEFAULT_IMAGES", "MAX_IMAGES", "Wishes", "check_place", "write_job_report"]

DEFAULT_IMAGES, MAX_IMAGES = 24, 200
"""Images with pictures: without being asked for, and at most."""

_MAX_ROWS = 1000

_MAX_PICTURE_BYTES = 12 << 20
"""All pictures of a page together: browsers and mail take what is smaller."""


@dataclass(frozen=True)
class Wishes:
    """What a report is to hold.

    Attributes:
        folder: where the page goes.
        originals: show originals and exact differences.
        images: how many images have pictures.
        key_names: file names of keys by key id (hex), as far as they are known.
        logo: name of the logo's file; empty where there is none.
        skipped: sources that were left out and have not failed.
    """

    folder: Path
    originals: bool = False
    images: int = DEFAULT_IMAGES
    key_names: Mapping[str, str] = field(default_factory=dict)
    logo: str = ""
    skipped: Sequence[Path] = ()


def check_place(folder: Path, out: Path, sources: Iterable[Path]) -> None:
    """See that a report does not come to lie among images: the next job would take it for one, or hand it on.

    Raises:
        PageError: it would, or the name is that of a file.
    """
    place = folder.resolve()
    for other in (out, *sources):
        if place.is_relative_to(other.resolve()):
            raise PageError(f"the report would lie in {other}, among images: choose a folder beside it")
    if folder.exists() and not folder.is_dir():
        raise PageError(f"{folder} is a file: a folder is needed")


def write_job_report(
    planned: Plan,
    task: ProtectTask | RemoveTask,
    wishes: Wishes,
    failures: Sequence[Failure] = (),
    step: Callable[[int, int], None] = lambda done, total: None,
    noted: Path | None = None,
) -> Path:
    """Write the page of a job that has ended.

    Args:
        planned: its plan.
        task: what was done with each file.
        wishes: what the page is to hold.
        failures: of this run; those that the manifest does not know are taken from here.
        step: is told how many images were looked at, of how many.
        noted: folder of the manifest; default: the output folder.

    Returns:
        The page.

    Raises:
        PageError: a package is missing, or the name is taken.
        ManifestError: the manifest is damaged.
        OSError: the page cannot be written.
    """
    settings = job_settings(planned, task, noted)
    try:
        history = read_history(noted or planned.out, settings)
    except FileNotFoundError:
        history = History(settings)  # nothing could be begun
    looked = _look(history, planned, task, wishes, step)
    return write_page(wishes.folder, render("job.html.j2", _facts(history, planned, failures, wishes, looked)))


@dataclass
class _Looked:
    """What came of opening images again.

    Attributes:
        gallery: items of the page.
        cut: whether pictures were left out for their size.
    """

    gallery: list[dict[str, Any]] = field(default_factory=list)
    cut: bool = False


def _look(
    history: History,
    planned: Plan,
    task: ProtectTask | RemoveTask,
    wishes: Wishes,
    step: Callable[[int, int], None],
) -> _Looked:
    """Open images again, for pictures."""
    looked = _Looked()
    sources = {_source_name(job, planned.out): job.source for job in planned.jobs}
    done = [facts for facts in history.files.values() if facts.done and facts.source in sources]
    shown = _spread(done, min(wishes.images, MAX_IMAGES))
    options, mask, marker = None, None, None
    if isinstance(task, ProtectTask) and shown:
        options, mask = task.options, task.mask
        with suppress(OSError, ValueError):  # pictures do without what networks say of them
            marker = task.load()
    size = 0
    for number, facts in enumerate(shown, 1):
        item: dict[str, Any] = {"source": _named(facts), "caption": "", "problem": "", "pictures": []}
        try:
            pair = _pair(facts, sources[facts.source], planned.out, isinstance(task, ProtectTask))
            item["pictures"], item["caption"] = pictures(pair, wishes.originals, options, mask, marker)
        except (MIADMarkError, OSError, ValueError) as error:
            # Only our own messages are known to hold nothing of the file.
            why = str(error) if isinstance(error, MIADMarkError) else type(error).__name__
            item["problem"] = f"No picture: {why}."
        size += sum(len(picture.uri) for picture in item["pictures"])
        step(number, len(shown))
        looked.cut = size > _MAX_PICTURE_BYTES
        if looked.cut:
            break
        looked.gallery.append(item)
    return looked


def _pair(facts: FileFacts, source: Path, out: Path, protecting: bool) -> Pair:
    """The image of a finished file, before and after its protection."""
    taken = Slot(source, facts.source_sha256 or "")
    made = Slot(out / (facts.output or ""), facts.output_sha256 or "")
    return open_pair(taken, made) if protecting else open_pair(made, taken)


def _facts(
    history: History, planned: Plan, failures: Sequence[Failure], wishes: Wishes, looked: _Looked
) -> dict[str, Any]:
    """All that the template names."""
    verb = history.settings.verb
    done = [facts for facts in history.files.values() if facts.done]
    lost = _lost(history, planned, failures, wishes.skipped)
    protecting = verb == "protect"
    return {
        "title": f"{'Protected' if protecting else 'Restored'} images: {planned.out.resolve().name}",
        "verb": verb,
        "when": _when(history.begun, history.ended),
        "runs": history.runs,
        "version": history.version,
        "cards": _cards(done, len(lost), protecting),
        "notes": _notes(wishes, protecting),
        "recipients": _recipients(done, wishes.key_names),
        "signers": [_key(signer, wishes.key_names) for signer in sorted({f.signer for f in done if f.signer})],
        "settings": _settings(history.settings, wishes.key_names, wishes.logo),
        "failures": lost[:_MAX_ROWS],
        "failures_left_out": max(0, len(lost) - _MAX_ROWS),
        "charts": _charts(done),
        "chart_notes": _chart_notes(done) if protecting else [],
        "warnings": [{"source": f.source, "text": text} for f in done for text in f.warnings][:_MAX_ROWS],
        "gallery": looked.gallery,
        "gallery_note": _gallery_note(len(done), looked),
        "rows": [_row(facts) for facts in done[:_MAX_ROWS]],
        "rows_left_out": max(0, len(done) - _MAX_ROWS),
    }


def _lost(
    history: History, planned: Plan, failures: Sequence[Failure], skipped: Sequence[Path]
) -> list[dict[str, str]]:
    """What was not done, and why: in the words of the command line where it failed in this run."""
    names = {job.source: _source_name(job, planned.out) for job in planned.jobs}
    now = {names.get(failure.path, failure.path.name): failure.reason for failure in failures}
    left_out = {names.get(path, path.name) for path in skipped}
    earlier = {facts.source: facts.reason or "" for facts in history.files.values() if not facts.done}
    lost = {**earlier, **now}
    return [{"source": name, "reason": reason} for name, reason in lost.items() if name not in left_out]


def _source_name(job: Job, out: Path) -> str:
    """How the manifest names the source of a job."""
    return (job.folder.relative_to(out) / job.source.name).as_posix()


def _named(facts: FileFacts) -> str:
    """A file, and what it has become where that is another name."""
    same = not facts.output or facts.output == facts.source
    return facts.source if same else f"{facts.source} → {facts.output}"


def _cards(done: Sequence[FileFacts], lost: int, protecting: bool) -> list[dict[str, Any]]:
    """The figures that stand on top."""
    cards: list[dict[str, Any]] = [
        {"value": str(len(done)), "label": "protected" if protecting else "restored, digests verified", "bad": False},
        {"value": str(lost), "label": "not done", "bad": lost > 0},
    ]
    psnr = [f.psnr for f in done if f.psnr is not None and math.isfinite(f.psnr)]
    ssim = [f.ssim for f in done if f.ssim is not None]
    if psnr:
        cards.append(_card(f"{statistics.fmean(psnr):.2f} dB", f"mean PSNR outside the logo (least {min(psnr):.2f})"))
    if ssim:
        cards.append(_card(f"{statistics.fmean(ssim):.4f}", f"mean SSIM outside the logo (least {min(ssim):.4f})"))
    if told := [f.effect for f in done if f.effect is not None]:
        before, after = statistics.fmean(o.before for o in told), statistics.fmean(o.after for o in told)
        kept = statistics.fmean(o.kept for o in told)
        cards.append(_card(f"{before:.0%} → {after:.0%}", "probability that models give their own class"))
        cards.append(_card(f"{kept:.0%}", "of the models' answers stay what they were"))
    seconds = [f.seconds for f in done if f.seconds is not None]
    if seconds:
        cards.append(_card(f"{statistics.fmean(seconds):.1f} s", "a file, on average"))
    return cards


def _card(value: str, label: str) -> dict[str, Any]:
    return {"value": value, "label": label, "bad": False}


def _notes(wishes: Wishes, protecting: bool) -> list[str]:
    """What a reader must know before the page is given to anybody."""
    if wishes.originals:
        notes = ["This page shows originals. Treat it as you treat the source files: it is not protected by any key."]
    else:
        notes = [
            "This page shows no original, but it names files and tells how much was changed where: keep it private."
        ]
    if protecting:
        notes.append(
            "The effect is what the models that the marks were made against say of these images (white box). Models "
            "of others err less; nobody can promise that a certain model errs."
        )
    return notes


def _recipients(done: Sequence[FileFacts], names: Mapping[str, str]) -> list[dict[str, Any]]:
    """For whom, most files first."""
    counts = Counter(key for facts in done for key in set(facts.recipients))
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [{**_key(key, names), "files": count} for key, count in ranked[:_MAX_ROWS]]


def _key(key: KeyName, names: Mapping[str, str]) -> dict[str, Any]:
    return {"kind": key[0], "key_id": key[1], "file": names.get(key[1], "")}


def _settings(settings: Settings, names: Mapping[str, str], logo: str) -> list[tuple[str, str]]:
    """Options, readable; secrets are not among them."""
    shown = [("verb", settings.verb)]
    for name, value in settings.options.items():
        if isinstance(value, list):
            text = ", ".join(f"{item} ({names[item]})" if item in names else str(item) for item in value) or "none"
        elif isinstance(value, dict):
            text = ", ".join(f"{inner} {what}" for inner, what in value.items())
            text = f"{logo} ({text})" if name == "logo" and logo else text
        elif isinstance(value, bool):
            text = "yes" if value else "no"
        else:
            text = "default" if value is None and name == "region_budget" else "none" if value is None else str(value)
        shown.append((name.replace("_", " "), text))
    return shown


def _charts(done: Sequence[FileFacts]) -> list[dict[str, str]]:
    """Charts, where there is more than one figure to show."""
    made = []
    psnr = [f.psnr for f in done if f.psnr is not None and math.isfinite(f.psnr)]
    ssim = [f.ssim for f in done if f.ssim is not None]
    for values, label in ((psnr, "PSNR outside the logo (dB)"), (ssim, "SSIM outside the logo")):
        if len(values) > 1:
            made.append({"title": label, "uri": charts.spread(values, label)})
    told = [f.effect for f in done if f.effect is not None]
    if len(told) > 1:
        label = "probability of the models' own class"
        uri = charts.before_and_after([o.before for o in told], [o.after for o in told], label)
        made.append({"title": f"{label}, before and after", "uri": uri})
    return made


def _chart_notes(done: Sequence[FileFacts]) -> list[str]:
    """What figures are missing, and why."""
    told = sum(facts.effect is not None for facts in done)
    if done and not told:
        return ["The effect was not measured: the marker has no ensemble that could be asked."]
    if told < len(done):
        return [f"The effect was measured on {told} of {len(done)} images."]
    return []


def _gallery_note(done: int, looked: _Looked) -> str:
    """How many images are shown."""
    note = f"{len(looked.gallery)} of {done} images, evenly spread over the job"
    return note + ("; more would have made the page too large." if looked.cut else ".")


def _row(facts: FileFacts) -> dict[str, str]:
    """A line of the table of files."""
    told = facts.effect
    psnr = facts.psnr
    return {
        "source": facts.source,
        "output": facts.output or "",
        "psnr": "" if psnr is None else f"{psnr:.2f} dB" if math.isfinite(psnr) else "identical",
        "ssim": "" if facts.ssim is None else f"{facts.ssim:.4f}",
        "modality": facts.modality,
        "effect": "" if told is None else f"{told.before:.0%} → {told.after:.0%}",
        "kept": "" if told is None else f"{told.kept:.0%}",
        "seconds": "" if facts.seconds is None else f"{facts.seconds:.1f} s",
    }


def _spread(facts: Sequence[FileFacts], count: int) -> list[FileFacts]:
    """At most so many, evenly spread."""
    total = len(facts)
    if total <= count:
        return list(facts)
    return [facts[(2 * i + 1) * total // (2 * count)] for i in range(count)]


def _when(begun: str, ended: str) -> str:
    """From when to when."""
    try:
        first, last = (datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M:%S") for text in (begun, ended))
    except ValueError:
        return "Nothing was begun"
    return f"{first} to {last} UTC" if first != last else f"{first} UTC"

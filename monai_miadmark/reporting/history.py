# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""What became of every file of a job, over all its runs, as the manifest of its output folder has it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai_miadmark.manifest import ManifestError, Settings, manifest_lines
from monai_miadmark.opinions import Opinion

__all__ = ["FileFacts", "History", "KeyName", "read_history"]

_MAX_TEXT = 300
"""Characters of a text that is shown."""

KeyName = tuple[str, str]
"""Kind and key id (hex) of a key."""


@dataclass(frozen=True)
class FileFacts:
    """What the last line of the manifest about a source says.

    Attributes:
        source: path below the folder that was named on the command line, with ``/``.
        done: whether its output is in place.
        output: path of the image file below the output folder; ``None`` if it failed.
        source_sha256: hex; ``None`` if it failed.
        output_sha256: hex; ``None`` if it failed.
        recipients: who can restore it.
        signer: the custodian who signed.
        psnr: dB outside the logo, infinite where nothing changed; ``None`` where it was not measured.
        ssim: outside the logo; ``None`` where it was not measured.
        modality: what the image was taken for, and how sure that was; empty where nobody said.
        effect: what the ensemble makes of the image before and after; ``None`` where there was none to ask.
        warnings: why no effect can be expected.
        seconds: what it took, where that is known.
        reason: why it failed: class of the error, and its message where that may be kept.
    """

    source: str
    done: bool
    output: str | None = None
    source_sha256: str | None = None
    output_sha256: str | None = None
    recipients: tuple[KeyName, ...] = ()
    signer: KeyName | None = None
    psnr: float | None = None
    ssim: float | None = None
    modality: str = ""
    effect: Opinion | None = None
    warnings: tuple[str, ...] = ()
    seconds: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class History:
    """One job: all runs of the same settings.

    Attributes:
        settings: verb and options.
        version: of the package, in the last of the runs.
        begun: when the first run began, ISO 8601 in UTC; empty if none did.
        ended: when the last line was written.
        runs: how often the job was begun or gone on with.
        files: by source, in the order in which they were first named.
    """

    settings: Settings
    version: str = ""
    begun: str = ""
    ended: str = ""
    runs: int = 0
    files: Mapping[str, FileFacts] = field(default_factory=dict)


def read_history(folder: Path, settings: Settings) -> History:
    """Read the manifest of an output folder.

    Args:
        folder: the output folder.
        settings: of the job; what other jobs did in the same folder is left out.

    Raises:
        ManifestError: the manifest is damaged, or not of a version that is understood.
        OSError: there is none, or it cannot be read.
    """
    runs, version, begun, ended = 0, "", "", ""
    files: dict[str, FileFacts] = {}
    ours = False
    for number, line in enumerate(manifest_lines(folder), 1):
        try:
            if line["kind"] == "run":
                ours = Settings(str(line["verb"]), dict(line["options"])).key == settings.key
                runs += ours
            if not ours:
                continue
            ended = str(line["time"])[:40]
            begun = begun or ended
            if line["kind"] == "run":
                version = str(line["version"])[:40]
            elif line["kind"] == "file":
                facts = _facts(line)
                files[facts.source] = facts
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise ManifestError(f"{folder.name}: line {number} of the manifest cannot be understood") from error
    return History(settings, version, begun, ended, runs, files)


def _facts(line: Mapping[str, Any]) -> FileFacts:
    """Facts of a ``file`` line."""
    source, seconds = str(line["source"]), _number(line["seconds"])
    if line["status"] != "done":
        reason = line["reason"]
        message = reason["message"]
        text = str(reason["class"]) if message is None else str(message)
        return FileFacts(source, done=False, seconds=seconds, reason=text)
    quality = line.get("quality")
    psnr = ssim = None
    if quality is not None:
        psnr, ssim = _number(quality["psnr"]), _number(quality["ssim"])
        psnr = math.inf if psnr is None else psnr  # JSON has no infinity: the manifest says null
    signer = line.get("signer")
    return FileFacts(
        source,
        done=True,
        output=str(line["output"]),
        source_sha256=str(line["source_sha256"]),
        output_sha256=str(line["output_sha256"]),
        recipients=tuple(_key(recipient) for recipient in line.get("recipients") or ()),
        signer=None if signer is None else _key(signer),
        psnr=psnr,
        ssim=ssim,
        modality=_modality(line.get("modality")),
        effect=_effect(line.get("effect")),
        warnings=tuple(str(text)[:_MAX_TEXT] for text in line.get("warnings") or ()),
        seconds=seconds,
    )


def _modality(told: Any) -> str:
    """What an image was taken for."""
    if told is None:
        return ""
    name = str(told["name"])[:_MAX_TEXT]
    if told["known"] is False:
        return f"unknown, marked as {name}"
    confidence = _number(told["confidence"])
    text = name if confidence is None else f"{name} ({confidence:.0%} sure)"
    return text if told["measured"] else f"{text}, effect not measured"


def _effect(told: Any) -> Opinion | None:
    """What an ensemble says."""
    if told is None:
        return None
    before, after, kept = (_number(told[name]) for name in Opinion._fields)
    if before is None or after is None or kept is None:
        raise ValueError("not a number")
    return Opinion(before, after, kept)


def _key(told: Mapping[str, Any]) -> KeyName:
    """A key as the manifest names it."""
    return str(told["kind"]), str(told["key_id"])


def _number(value: Any) -> float | None:
    """A finite number or ``None``."""
    if value is None:
        return None
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("not a finite number")
    return number

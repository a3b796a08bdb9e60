# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""``inspect`` and ``verify``: what protected files, sidecars and key files tell without a key."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from monai_miadmark import files, keys
from monai_miadmark.arguments import UsageError
from monai_miadmark.commands.console import FAILED, say, say_hints, shown
from monai_miadmark.commands.key_files import checked
from monai_miadmark.envelope import MAGIC, inspect_envelope
from monai_miadmark.errors import MIADMarkError
from monai_miadmark.key_facts import is_key_file, key_facts
from monai_miadmark.planning import Filters, walk_folder
from monai_miadmark.tasks import Failure

__all__ = ["inspect", "verify"]

SCHEMA = 1
"""Of the JSON documents about several files."""


def inspect(options: Namespace) -> int:
    """Tell what protected files, sidecars and key files say of themselves."""
    return _tell(options, _inspected, _brief)


def verify(options: Namespace) -> int:
    """Check protected files without a key."""
    signer = None if options.signer is None else checked(keys.load_verifier, options.signer)

    def result(path: Path) -> dict[str, Any]:
        told = files.verify_file(path, signer).to_dict()
        return {"verified": True, "signer_demanded": signer is not None, **told}

    return _tell(options, result, _verified)


def _inspected(path: Path) -> dict[str, Any]:
    """What a file says of itself."""
    head = files.first_bytes(path)
    if is_key_file(head):
        return key_facts(path)
    if head.startswith(MAGIC):
        with files.open_regular(path) as (stream, _):
            return {"sidecar": True, **inspect_envelope(stream.read()).to_dict()}
    return files.inspect_file(path).to_dict()


def _tell(options: Namespace, result: Callable[[Path], dict[str, Any]], brief: Callable[[dict[str, Any]], str]) -> int:
    """Tell of one file all that there is, of several one line each; ``--json``: all of it of each."""
    if len(options.files) == 1 and not options.files[0].is_dir():
        return _tell_one(options.files[0], result, options.json)
    told: list[dict[str, Any]] = []
    kinds: list[str] = []
    for path, problem in _found(options):
        try:
            if problem is not None:
                raise problem
            facts = result(path)
        except (MIADMarkError, OSError, ValueError) as error:
            failure = Failure.of(path, error)
            kinds.append(failure.kind)
            told.append({"path": str(path), "error": failure.kind, "message": failure.reason})
            say(f"{shown(path)}: {shown(failure.reason)}")
            continue
        told.append({"path": str(path), **facts})
        if not options.json:
            print(f"{shown(path)}: {shown(brief(facts))}")
    if not told:
        raise UsageError("the folders hold no files", "name files, or folders with files in them")
    if options.json:
        print(json.dumps({"schema": SCHEMA, "files": told}, indent=2))
    done = "verified" if options.verb == "verify" else "inspected"
    say(f"{done} {len(told) - len(kinds)} of {len(told)} files" + (f", {len(kinds)} failed" if kinds else ""))
    say_hints(set(kinds))
    return FAILED if kinds else 0


def _tell_one(path: Path, result: Callable[[Path], dict[str, Any]], as_json: bool) -> int:
    """All that a file says, or the reason why it says nothing."""
    try:
        told = result(path)
    except (MIADMarkError, OSError, ValueError) as error:
        failure = Failure.of(path, error)
        if as_json:
            print(json.dumps({"error": type(error).__name__, "message": failure.reason}))
        say(f"{shown(path)}: {shown(failure.reason)}")
        return FAILED
    if as_json:
        print(json.dumps(told, indent=2))
        return 0
    for name, value in told.items():
        if name == "notes":
            for note, part in value.items():
                print(f"note {note}: {shown(part)}")
            continue
        for line in value if isinstance(value, list) and value else [value]:
            text = " ".join(str(part) for part in line.values()) if isinstance(line, dict) else str(line)
            print(f"{name.replace('_', ' ')}: {shown(text)}")
    return 0


def _found(options: Namespace) -> Iterator[tuple[Path, OSError | None]]:
    """The files that are meant, and why one cannot be looked at; sidecars beside their images are part of these."""
    filters = Filters(tuple(options.include), tuple(options.exclude))
    for source in dict.fromkeys(options.files):
        if source.is_dir():
            for found in walk_folder(source, None, filters):
                if not found.skipped:
                    yield found.path, found.error
        else:
            yield source, None


def _brief(told: dict[str, Any]) -> str:
    """A line about a file."""
    if "key_id" in told:
        return f"{told['type']}, {told['kind'] or 'encrypted'}" + (f" {told['key_id']}" if told["key_id"] else "")
    kind = "sidecar" if told.get("sidecar") else "protected"
    return f"{kind} for {_keys(told['recipients'])}; {_signed(told)}"


def _verified(told: dict[str, Any]) -> str:
    """A line about a file that was checked."""
    return f"verified; {_signed(told)}"


def _signed(told: dict[str, Any]) -> str:
    """By whom."""
    return f"signed by {_keys([told['signer']])}" if told["signer"] else "not signed"


def _keys(told: Iterable[dict[str, Any]]) -> str:
    """Keys as they are named everywhere."""
    return ", ".join(f"{key['kind']} {key['key_id']}" for key in told)

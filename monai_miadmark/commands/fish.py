# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Completion for the shell fish, which shtab does not know."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from monai_miadmark.argument_types import local_path, place

__all__ = ["fish_script"]

_NO_VERB = "__fish_use_subcommand"


def fish_script(parser: argparse.ArgumentParser) -> str:
    """A script for ``~/.config/fish/completions/miadmark.fish``.

    Args:
        parser: of the whole command.
    """
    lines = ["# Completion of miadmark; made by: miadmark completion fish", "complete -c miadmark -f"]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, verb in action.choices.items():
                lines.append(f"complete -c miadmark -n {_NO_VERB} -a {name} -d {_quoted(helps.get(name, ''))}")
                lines += _of_verb(name, verb)
        elif action.option_strings:
            lines.append(f"complete -c miadmark -n {_NO_VERB} {_names(action)} -d {_quoted(action.help or '')}")
    return "\n".join(lines)


def _of_verb(name: str, verb: argparse.ArgumentParser) -> Iterator[str]:
    """Lines for the arguments of a verb."""
    start = f"complete -c miadmark -n '__fish_seen_subcommand_from {name}'"
    for action in verb._actions:
        files = action.type in (local_path, place)
        choices = "" if action.choices is None else f" -a {_quoted(' '.join(map(str, action.choices)))}"
        if not action.option_strings:
            if files or choices:
                yield start + (" -F" if files else choices)
            continue
        takes = "" if action.nargs == 0 else " -r" + (" -F" if files else " -f") + choices
        yield f"{start} {_names(action)}{takes} -d {_quoted(action.help or '')}"


def _names(action: argparse.Action) -> str:
    """The spellings of an option."""
    return " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in action.option_strings)


def _quoted(text: str) -> str:
    """Text in quotes, as fish reads it."""
    plain = text.replace("%%", "%").replace("\\", "\\\\").replace("'", "\\'")
    return f"'{plain}'"

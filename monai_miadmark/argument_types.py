# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Single words of a command line: what they stand for, and what is said where they stand for nothing."""

from __future__ import annotations

import argparse
import difflib
import math
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from monai_miadmark.stores import parse_place
from monai_miadmark.wrapping import KEY_ID_BYTES

__all__ = [
    "ArgumentParser",
    "UsageError",
    "count",
    "did_you_mean",
    "key_id",
    "local_path",
    "number",
    "place",
    "positive",
    "word",
]

_MAX_PICTURES = 200


class UsageError(Exception):
    """Wrong usage: a message, and what to do instead."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class ArgumentParser(argparse.ArgumentParser):
    """argparse that leaves printing and exit status to the command, and knows what was meant."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing usage and leaving."""
        raise UsageError(message, f"{self.prog} --help shows what is expected")

    def _check_value(self, action: argparse.Action, value: object) -> None:
        """Values of a choice, as a person reads them."""
        choices = None if action.choices is None else [str(choice) for choice in action.choices]
        if choices is not None and str(value) not in choices:
            text = f"{value!s} is not one of {', '.join(choices)}{did_you_mean(str(value), choices)}"
            raise argparse.ArgumentError(action, text)

    def check_options(self, words: Iterable[str]) -> None:
        """Refuse an option that there is none of, before what is missing beside it is complained of.

        Raises:
            UsageError: says which one was meant, if any is like it.
        """
        known = [name for name in self._option_string_actions if name.startswith("--")]
        for given in words:
            if given == "--":
                return
            name = given.partition("=")[0]
            if name.startswith("--") and name not in known:
                raise UsageError(
                    f"there is no option {name}{did_you_mean(name, known)}", f"{self.prog} --help shows what there is"
                )


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """``"; did you mean X?"`` where something that is known is like what was given, else nothing."""
    close = difflib.get_close_matches(given, list(known), 1, 0.6)
    return f"; did you mean {close[0]}?" if close else ""


def word(text: str) -> str:
    """Any text but an empty one: that comes from a variable that is not set."""
    if not text.strip():
        raise argparse.ArgumentTypeError("empty (is a variable not set?)")
    return text


def local_path(text: str) -> Path:
    """A path of this machine. An empty one would be the current folder."""
    return Path(word(text))


def place(text: str) -> Path:
    """A path, or a URL."""
    try:
        return parse_place(word(text))
    except (ModuleNotFoundError, ValueError) as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def positive(text: str) -> int:
    """A number of things, at least one."""
    found = _whole(text)
    if found < 1:
        raise argparse.ArgumentTypeError(f"at least 1 is needed, not {text}")
    return found


def count(text: str) -> int:
    """A number of pictures."""
    found = _whole(text)
    if not 0 <= found <= _MAX_PICTURES:
        raise argparse.ArgumentTypeError(f"0 to {_MAX_PICTURES}, not {text}")
    return found


def number(text: str) -> float:
    """A finite number."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise argparse.ArgumentTypeError(f"a number is needed, not {text!r}")
    return found


def key_id(text: str) -> bytes:
    """A key id in hexadecimal digits."""
    try:
        identifier = bytes.fromhex(text)
    except ValueError:
        identifier = b""
    if len(identifier) != KEY_ID_BYTES:
        raise argparse.ArgumentTypeError(f"a key id has {2 * KEY_ID_BYTES} hexadecimal digits, as inspect shows it")
    return identifier


def _whole(text: str) -> int:
    """A whole number."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"a whole number is needed, not {text!r}") from None

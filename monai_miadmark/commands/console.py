# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""What a person sees and is asked: messages, passphrases, key files by name, progress, hints."""

from __future__ import annotations

import getpass
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from monai_miadmark.arguments import UsageError
from monai_miadmark.names import PASSPHRASE_ENV
from monai_miadmark.terminal import TerminalFormatter, shown, shown_lines

if TYPE_CHECKING:
    from tqdm import tqdm

__all__ = [
    "FAILED",
    "INTERRUPTED",
    "PIPE_CLOSED",
    "TERMINATED",
    "USAGE",
    "Terminated",
    "ask_passphrase",
    "ask_yes",
    "environment",
    "say",
    "say_hints",
    "shown",
    "shown_progress",
]

FAILED, USAGE, INTERRUPTED, PIPE_CLOSED, TERMINATED = 1, 2, 130, 141, 143
"""Exit statuses."""

HINTS = {
    "WrongKeyError": "miadmark inspect FILE lists the key ids that open it; give one of these keys with -i",
    "WrongPassphrase": "the passphrase is not the one that the images were protected with, or they have none (inspect)",
    "LabelMapError": "--label-maps skip leaves segmentations and masks out, --label-maps copy copies them unprotected",
    "NoEffectError": "without --expect-effect they are protected all the same, with a warning",
    "NotProtectedError": "where the record was stripped, --sidecars DIR finds the one that was kept beside the file",
    "OutOfMemoryError": "nothing is said of the file: give it a machine, or fewer --jobs, with more memory",
    "TooLargeError": "MIADMARK_MEMORY_LIMIT (MiB) is the limit, where one is set (docs/limits.md)",
    "SignatureError": "miadmark inspect FILE shows who signed; ask the custodian for the right public key",
    "TamperedError": "get the file anew from whoever protected it; miadmark verify FILE says what does not fit",
    "UnsupportedImageError": "docs/formats-dicom.md and formats-other.md say what can be done; see miadmark doctor; "
    "--skip-unsupported leaves such files out",
    "FileExistsError": "--resume leaves out what is done, --overwrite does it anew",
}
"""What to do about files that failed, by the class of the error."""


class Terminated(BaseException):
    """Somebody asked the process to end; like KeyboardInterrupt, it unwinds and removes temporary files."""


@contextmanager
def environment(verbose: bool) -> Iterator[None]:
    """Logs and warnings of libraries only on request, and an orderly end when asked to end; all undone afterwards."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(TerminalFormatter())
    handler.setLevel(logging.DEBUG if verbose else logging.CRITICAL)
    ours, root = logging.getLogger("monai_miadmark"), logging.getLogger()
    level = ours.level

    def end(number: int, frame: object) -> NoReturn:
        raise Terminated

    in_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, end) if in_main else None
    root.addHandler(handler)
    ours.setLevel(logging.DEBUG if verbose else level)
    try:
        with warnings.catch_warnings():
            logging.captureWarnings(verbose)  # what libraries warn of may quote a file name
            if not verbose:
                warnings.simplefilter("ignore")
            yield
    finally:
        logging.captureWarnings(False)
        root.removeHandler(handler)
        ours.setLevel(level)
        if in_main:
            signal.signal(signal.SIGTERM, before)


def say(message: str) -> None:
    """A message to a person; whatever it quotes, the terminal acts on nothing of it."""
    print(f"miadmark: {shown_lines(message)}", file=sys.stderr, flush=True)


def say_hints(kinds: Collection[str]) -> None:
    """What to do about failures, once for each kind."""
    for kind, hint in HINTS.items():
        if kind in kinds:
            say(f"hint: {hint}")


def shown_progress(total: int, unit: str, quiet: bool = False) -> tqdm:
    """A progress bar on a terminal, nothing elsewhere."""
    from tqdm import tqdm  # not before there is something to show: it takes as long as all the rest of --help

    return tqdm(total=total, unit=unit, leave=False, file=sys.stderr, disable=quiet or not sys.stderr.isatty())


def ask_passphrase(prompt: str, repeat: bool = False) -> str:
    """A passphrase from the environment or a person."""
    if (given := os.environ.get(PASSPHRASE_ENV)) is not None:
        return given
    if not sys.stdin.isatty():
        raise UsageError("a passphrase is needed and there is no terminal to ask at", f"set {PASSPHRASE_ENV}")
    try:
        passphrase = getpass.getpass(prompt)
        again = getpass.getpass("The same again: ") if repeat else passphrase
    except EOFError:
        raise UsageError("no passphrase was typed", "try again") from None
    if again != passphrase:
        raise UsageError("the passphrases differ", "try again")
    return passphrase


def ask_yes(question: str, instead: str) -> bool:
    """Whether a person says yes.

    Raises:
        UsageError: nobody is there to be asked; ``instead`` is what to do.
    """
    if not sys.stdin.isatty():
        raise UsageError(question, instead)
    print(f"miadmark: {question}. Go on? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")

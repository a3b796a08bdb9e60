# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Text on its way to a terminal: file names, and what other libraries say of them, may hold escape sequences."""

from __future__ import annotations

import logging

__all__ = ["TerminalFormatter", "shown", "shown_lines"]

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def shown(text: object) -> str:
    """Text from outside in one line, with nothing that a terminal would act on."""
    return "".join(c if c.isprintable() else _REPLACEMENT for c in str(text))


def shown_lines(text: object) -> str:
    """The same with its line ends and tabs, as tracebacks have them."""
    return "".join(c if c.isprintable() or c in "\n\t" else _REPLACEMENT for c in str(text))


class TerminalFormatter(logging.Formatter):
    """Log lines of the command and its processes, fit for a terminal."""

    def __init__(self, form: str = "miadmark: %(name)s: %(message)s") -> None:
        super().__init__(form)

    def format(self, record: logging.LogRecord) -> str:
        """The line, with the traceback if there is one."""
        return shown_lines(super().format(record))

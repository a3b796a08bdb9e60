# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The command ``miadmark``.

Messages go to standard error and start with ``miadmark:``; what was asked for (``inspect``, ``verify``, ``--json``)
goes to standard output. Exit status: 0 all done, 1 some files failed, 2 wrong usage, 130 interrupted (Ctrl-C).
"""

from __future__ import annotations

if __name__ == "__main__":  # python -m puts the current folder first among those of modules: __main__ knows better
    from runpy import run_module

    run_module("monai_miadmark", run_name="__main__")

import os
import sys
from collections.abc import Sequence

from monai_miadmark.arguments import UsageError, command_line
from monai_miadmark.commands import VERBS
from monai_miadmark.commands.console import (
    FAILED,
    INTERRUPTED,
    PIPE_CLOSED,
    TERMINATED,
    USAGE,
    Terminated,
    environment,
    say,
    shown,
)

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: the command line without the program's name; default: ``sys.argv``.

    Returns:
        The exit status.
    """
    try:
        options = command_line(VERBS).parse_args(arguments)
        with environment(options.verbose):
            status: int = options.run(options)
            sys.stdout.flush()
            return status
    except BrokenPipeError:
        # Whoever read the output has had enough, as `head` does; the interpreter must not try to write the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except OSError as error:  # of paths that cannot be, and folders that are closed: what knows more says more
        where = error.filename2 or error.filename
        say(shown(f"{where}: " if where else "") + (error.strerror or type(error).__name__))
        return FAILED
    except UsageError as error:
        say(str(error))
        say(f"hint: {error.hint}")
        return USAGE
    except KeyboardInterrupt:
        say("interrupted")
        return INTERRUPTED
    except Terminated:
        say("terminated")
        return TERMINATED

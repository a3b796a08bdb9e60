# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The console script ``miadmark``: Ctrl-C while modules are imported ends it as it does later, without a traceback.

Imports nothing but what the interpreter has loaded already, as long as the current folder may be where modules come
from.
"""

from __future__ import annotations

import os
import sys


def forget_current_folder() -> None:
    """Import nothing from the current folder any more, unless this package itself lies there.

    ``python -m`` puts the current folder first on ``sys.path``.
    """
    here = os.getcwd()
    package = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    if sys.path and sys.path[0] in ("", here) and os.path.realpath(here) != package:
        del sys.path[0]


def main() -> int:
    """Import the command and run it; its exit status."""
    import signal

    before = signal.signal(signal.SIGINT, _leave)
    from monai_miadmark import cli

    signal.signal(signal.SIGINT, before)
    status = cli.main()
    # What the interpreter does at its end is nothing that an interrupt should be told of.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return status


def _leave(number: int, frame: object) -> None:
    """End at once: nothing has been begun."""
    os.write(2, b"miadmark: interrupted\n")
    os._exit(130)

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The console script ``miadmark``: Ctrl-C while modules are imported ends it as it does later, without a traceback."""

import os
import signal
from types import FrameType
from typing import NoReturn


def main() -> int:
    """Import the command and run it; its exit status."""
    before = signal.signal(signal.SIGINT, _leave)
    from monai_miadmark import cli

    signal.signal(signal.SIGINT, before)
    status = cli.main()
    # What the interpreter does at its end is nothing that an interrupt should be told of.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return status


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    """End at once: nothing has been begun."""
    os.write(2, b"miadmark: interrupted\n")
    os._exit(130)

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The command line, run in the test's own process with noise instead of networks."""

from __future__ import annotations

import signal
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import doubles
import pytest

from monai_miadmark import cli
from monai_miadmark.commands import jobs


class Said(NamedTuple):
    """What a run of the command gave."""

    status: int
    out: str
    err: str


Run = Callable[..., Said]


def runner(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs the command in ``tmp_path``; all that it says to people must begin with its name."""
    marker = types.ModuleType("monai_miadmark.marker")
    marker.load_marker = doubles.load_marker  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "monai_miadmark.marker", marker)
    # In this process, where the noise is: spawned ones would load the networks. tests/test_engines.py has those.
    monkeypatch.setattr(jobs, "usable_cores", lambda: 1)
    monkeypatch.delenv("MIADMARK_PASSPHRASE", raising=False)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Said:
        capsys.readouterr()
        status = cli.main([str(a) for a in arguments])
        said = capsys.readouterr()
        assert all(line.startswith("miadmark: ") for line in said.err.splitlines()), said.err
        return Said(status, said.out, said.err)

    return run


def heed_interrupts() -> None:
    """What is started in the background of a shell ignores SIGINT, and so would all that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)

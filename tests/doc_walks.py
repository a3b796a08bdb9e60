# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Runs the blocks of pages in order, as a reader would: shell blocks in one shell, Python blocks in one namespace.

``python tests/doc_walks.py docs/tutorials/custodian.md ...`` walks through pages and writes what was printed into their
``console`` blocks and into the ``text`` blocks behind Python blocks; ``test_docs_snippets.py`` compares it.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from doc_blocks import ROOT, SHELLS, Block, Command, blocks, commands

PATIENCE = 600
"""Seconds that one command may take before everything is ended."""

# What differs from run to run: digests and key ids, measured numbers, UIDs.
_VARIES = (
    (re.compile(r"\b[0-9a-f]{16,}\b"), "HEX"),
    (re.compile(r"\b\d+(?:\.\d+){3,}\b"), "UID"),
    (re.compile(r"-?\b\d+\.\d+\b"), "NUMBER"),
    (re.compile(r"\b\d+(?= bytes)|(?<=bytes: )\d+"), "NUMBER"),
)


# Ports that pages name, which others may be using where this runs.
PORTS = ("11112", "11113")


class Shell:
    """A bash that is typed into, with no terminal; what it leaves running ends with it.

    It has one core, because jobs take one process for each core unless they are told otherwise.

    Args:
        folder: where it begins.
        others: words that are replaced in what is typed, and put back in what is printed.
    """

    def __init__(self, folder: Path, others: Mapping[str, str]) -> None:
        self._others = others
        self._status = 0
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MIADMARK")}
        environment |= {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "HOME": str(folder),
        }
        self._process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        if hasattr(os, "sched_setaffinity"):
            cores = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(self._process.pid, {cores[os.getpid() % len(cores)]})

    def run(self, text: str) -> tuple[str, int | None]:
        """Type text; what it printed, and the exit status (``None``: the shell is gone, or took too long)."""
        process, end = self._process, uuid.uuid4().hex
        assert process.stdin and process.stdout
        timer = threading.Timer(PATIENCE, self.close)
        timer.start()
        try:
            for name, other in self._others.items():
                text = text.replace(name, other)
            # The status of the command before is there again for this one, as $?.
            process.stdin.write(f"{{ (exit {self._status})\n{text}\n}} < /dev/null\nprintf '\\n{end} %s\\n' $?\n")
            process.stdin.flush()
            printed: list[str] = []
            for line in process.stdout:
                if line.startswith(end):
                    self._status = int(line.split()[1])
                    return self._told(printed), self._status
                printed.append(line)
            return self._told(printed), None
        finally:
            timer.cancel()

    def _told(self, printed: Sequence[str]) -> str:
        """What was printed, without the empty lines at its end."""
        text = "".join(printed).rstrip("\n")
        for name, other in self._others.items():
            text = text.replace(other, name)
        return text

    def close(self) -> None:
        """End the shell and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def walk(pages: Sequence[Path], folder: Path) -> Iterator[tuple[Block, Command, str]]:
    """Run the blocks of pages one after the other in a folder.

    Args:
        pages: each goes on where the one before it ended.
        folder: where the shell begins; Python blocks work there too.

    Yields:
        Each command with what it printed. A Python block counts as one command, whose declared output is in the
        ``text`` block that follows it.

    Raises:
        AssertionError: a ``bash`` block failed.
    """
    shell = Shell(folder, {port: str(free_port()) for port in PORTS})
    names: dict[str, object] = {}
    try:
        for page in pages:
            found = blocks(page)
            for number, block in enumerate(found):
                if block.not_run:
                    continue
                if block.language in SHELLS:
                    for command in commands(block):
                        text = command.text if block.language == "console" else f"set -euo pipefail\n{command.text}"
                        printed, status = shell.run(text)
                        assert status == 0 or block.language == "console", f"{block} failed:\n{printed}"
                        if block.language == "bash":
                            shell.run("set +euo pipefail")
                        yield block, command, printed
                elif block.language == "python":
                    after = found[number + 1] if number + 1 < len(found) else None
                    expected = after.code.rstrip("\n") if after and after.language == "text" else ""
                    yield block, Command(block.code, expected), run_python(block, names, folder)
    finally:
        shell.close()


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def run_python(block: Block, names: dict[str, object], folder: Path) -> str:
    """Execute a Python block in a namespace; what it printed."""
    before = Path.cwd()
    printed = io.StringIO()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile("\n" * (block.line - 1) + block.code, str(block.page), "exec"), names)
    finally:
        os.chdir(before)
    return printed.getvalue().rstrip("\n")


def difference(expected: str, printed: str) -> str:
    """How what was printed differs from what a page says, where that is more than what differs from run to run.

    ``...`` in a page stands for anything, also for several lines where it stands alone.
    """
    parts = [re.escape(part) for part in re.split(r"\.\.\.", _steady(expected))]
    if re.fullmatch(".*".join(parts), _steady(printed), re.DOTALL):
        return ""
    lines = difflib.unified_diff(expected.splitlines(), printed.splitlines(), "on the page", "printed", lineterm="")
    return "\n".join(lines) or "the same but for what is left out"


def _steady(text: str) -> str:
    """Text without what differs from run to run."""
    for pattern, name in _VARIES:
        text = pattern.sub(name, text)
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines())


def write(pages: Sequence[Path], folder: Path) -> None:
    """Walk through pages and put what was printed in the place of what they say, but where they leave something out."""
    texts = {page: page.read_text(encoding="utf-8") for page in pages}
    for _, command, printed in list(walk(pages, folder)):
        if not difference(command.output, printed):
            continue
        print(f"$ {command.text}\n{printed}\n")
        for page, text in texts.items():
            typed = f"$ {command.text}\n"
            if typed not in text:
                typed = "$ " + command.text.replace("\n", "\n> ") + "\n"
            behind = f"{command.text}```\n\n```text\n"
            for start in (typed, behind):
                old = f"{start}{command.output}\n" if command.output else start
                if text.count(old) == 1 and "..." not in command.output and (printed or command.output):
                    texts[page] = text = text.replace(old, f"{start}{printed}\n" if printed else start)
    for page, text in texts.items():
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    scratch = Path(tempfile.mkdtemp())
    try:
        write([Path(name).resolve() for name in sys.argv[1:]], scratch)
    finally:
        shutil.rmtree(scratch)

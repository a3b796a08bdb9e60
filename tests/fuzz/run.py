# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Many changed inputs for everything that reads bytes from outside: ``make fuzz``, or ``cd tests; python -m fuzz.run``.

Each piece of the work runs in a process of its own, which the kernel keeps from taking more than 4 GiB of addresses.
Looked for: errors that are not documented, crashes of the interpreter, inputs that take more than 5 seconds of
processor time or 512 MiB, and results that are wrong. What was found is written to a folder, with the bytes; exit
status 1 then. The same seed, number of inputs and target change the same bytes in the same way; keys that are drawn
when the corpus is made differ, so a finding is repeated from its bytes: ``python -m fuzz.run --replay FILE``.
"""

from __future__ import annotations

import argparse
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import FrameType

from fuzz import targets
from fuzz.targets import TARGETS, Broken, Target

SECONDS = 5.0
"""Processor time that one input may take."""

PEAK_BYTES = 512 << 20
"""Memory that one input may take beyond what the process has."""

ADDRESS_BYTES = 4 << 30
_WALL = 120.0
_PIECE = 1000


class Hang(BaseException):
    """An input took too long; no ``except Exception`` may stop it."""


@dataclass
class Tally:
    """What became of the inputs of one target.

    Attributes:
        outcomes: how many ended in which way.
        findings: kind and text of what must not be.
        seconds: processor time.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    findings: list[tuple[str, str]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def inputs(self) -> int:
        return sum(self.outcomes.values())


def input_of(target: Target, seed: int, index: int) -> bytes:
    """The input with a number."""
    return target.input(Random(f"{seed}/{target.name}/{index}"))


def _alarm(signum: int, frame: FrameType | None) -> None:
    raise Hang


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def judged(target: Target, data: bytes) -> tuple[str, str]:
    """Outcome of an input, and what is wrong with it (empty: nothing)."""
    before = _peak()
    signal.signal(signal.SIGPROF, _alarm)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        outcome, wrong = target.probe(data), ""
    except Hang:
        outcome, wrong = "hang", f"more than {SECONDS} s of processor time\n{traceback.format_exc(limit=-6)}"
    except Broken as error:
        outcome, wrong = "wrong", str(error)
    except BaseException as error:  # panics of Rust are no Exception
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        outcome, wrong = "raw error", f"{type(error).__name__}\n{traceback.format_exc(limit=-6)}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    taken = _peak() - before
    if not wrong and taken > PEAK_BYTES:
        outcome, wrong = "memory", f"{taken >> 20} MiB"
    return outcome, wrong


def _work(target: Target, seed: int, start: int, stop: int, pipe: int) -> None:
    """A piece of the work, in a process of its own; one line before and one after each input."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_BYTES, ADDRESS_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    targets._folder.cache_clear()
    begun = time.process_time()
    try:
        for index in range(start, stop):
            os.write(pipe, b"B%d\n" % index)
            outcome, wrong = judged(target, input_of(target, seed, index))
            if wrong:
                text = wrong.encode("utf-8", "replace")[:3000].replace(b"\n", b"\x00")
                os.write(pipe, b"F%d %b\x01%b\n" % (index, outcome.encode(), text))
            os.write(pipe, b"E%b\n" % outcome.encode())
            if outcome == "memory":
                break  # the peak of a process never goes down again
        os.write(pipe, b"T%f\n" % (time.process_time() - begun))
    finally:
        if targets._folder.cache_info().currsize:
            shutil.rmtree(targets._folder(), ignore_errors=True)


@dataclass
class _Piece:
    """A running piece of the work."""

    target: Target
    start: int
    stop: int
    child: int
    pipe: int
    seen: float
    index: int = -1
    rest: bytes = b""


class Run:
    """A whole run.

    Args:
        seed: from which all changes are drawn.
        folder: where findings are written.
    """

    def __init__(self, seed: int, folder: Path) -> None:
        self.seed = seed
        self.folder = folder
        self.tallies: dict[str, Tally] = {}

    def run(self, plan: Sequence[tuple[Target, int]], processes: int) -> None:
        """Work through the plan of targets and numbers of inputs."""
        waiting = []
        for target, count in plan:
            self.tallies[target.name] = Tally()
            target.seeds()  # made once, here, and inherited by all processes
            waiting += [(target, start, min(start + _PIECE, count)) for start in range(0, count, _PIECE)]
        waiting.reverse()
        running: list[_Piece] = []
        while waiting or running:
            while waiting and len(running) < processes:
                running.append(self._start(*waiting.pop()))
            ready, _, _ = select.select([piece.pipe for piece in running], [], [], 1.0)
            for piece in list(running):
                over = piece.pipe in ready and not self._take(piece)
                late = time.monotonic() - piece.seen > _WALL
                if late and not over:
                    os.kill(piece.child, signal.SIGKILL)
                if over or late:
                    running.remove(piece)
                    again = self._end(piece, late and not over)
                    print(f"{piece.target.name}: {self.tallies[piece.target.name].inputs}", file=sys.stderr, flush=True)
                    if again < piece.stop:
                        waiting.append((piece.target, again, piece.stop))

    def _start(self, target: Target, start: int, stop: int) -> _Piece:
        reading, writing = os.pipe()
        sys.stdout.flush()
        child = os.fork()
        if not child:
            status = 1
            try:
                os.close(reading)
                _work(target, self.seed, start, stop, writing)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        os.close(writing)
        return _Piece(target, start, stop, child, reading, time.monotonic(), start - 1)

    def _take(self, piece: _Piece) -> bool:
        """Lines of a process; false at their end."""
        data = os.read(piece.pipe, 1 << 16)
        *lines, piece.rest = (piece.rest + data).split(b"\n")
        tally = self.tallies[piece.target.name]
        for line in lines:
            piece.seen = time.monotonic()
            if line.startswith(b"B"):
                piece.index = int(line[1:])
            elif line.startswith(b"E"):
                tally.outcomes[line[1:].decode()] += 1
            elif line.startswith(b"T"):
                tally.seconds += float(line[1:])
            elif line.startswith(b"F"):
                kind, text = line[1:].split(b" ", 1)[1].split(b"\x01", 1)
                self._note(piece, kind.decode(), text.replace(b"\x00", b"\n").decode("utf-8", "replace"))
        return bool(data)

    def _end(self, piece: _Piece, killed: bool) -> int:
        """The process is gone; the index at which to go on."""
        os.close(piece.pipe)
        _, status = os.waitpid(piece.child, 0)
        if status and piece.index >= piece.start:
            kind = "hang" if killed else "crash"
            self.tallies[piece.target.name].outcomes[kind] += 1
            self._note(piece, kind, f"{_WALL} s without an end" if killed else f"wait status {status}")
        elif status:
            raise RuntimeError("a process died before its first input")
        return piece.index + 1

    def _note(self, piece: _Piece, kind: str, text: str) -> None:
        name = f"{piece.target.name.replace(' ', '-')}-{piece.index}"
        self.tallies[piece.target.name].findings.append((kind, f"{name}: {text}"))
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_bytes(input_of(piece.target, self.seed, piece.index))
        (self.folder / f"{name}.txt").write_text(f"{kind}\n{text}\n", encoding="utf-8")
        print(f"{kind}: {name}: {text.splitlines()[0] if text else ''}", flush=True)


def plan_of(count: int, names: Sequence[str] = ()) -> list[tuple[Target, int]]:
    """Inputs for each target by its weight."""
    chosen = [target for target in TARGETS if not names or target.name in names]
    total = sum(target.weight for target in chosen)
    return [(target, max(1, round(count * target.weight / total))) for target in chosen]


def table(tallies: dict[str, Tally]) -> str:
    """What happened, as Markdown."""
    kinds = ("raw error", "crash", "hang", "memory", "wrong")
    lines = ["| target | inputs | refused | read or same | " + " | ".join(f"{kind}s" for kind in kinds) + " | CPU s |"]
    lines.append("|---|" + "---:|" * 9)
    whole: Counter[str] = Counter()
    for name, tally in tallies.items():
        bad = [tally.outcomes[kind] for kind in kinds]
        good = sum(n for outcome, n in tally.outcomes.items() if "read" in outcome or "same" in outcome)
        row = [tally.inputs, tally.inputs - good - sum(bad), good, *bad, round(tally.seconds, 1)]
        lines.append(f"| {name} | " + " | ".join(map(str, row)) + " |")
        whole.update({str(i): value for i, value in enumerate(row)})
    lines.append("| all | " + " | ".join(str(round(whole[str(i)], 1)) for i in range(9)) + " |")
    return "\n".join(lines)


def replay(path: Path) -> int:
    """Read an input once more, with what goes wrong in full."""
    names = [target for target in TARGETS if path.name.startswith(target.name.replace(" ", "-"))]
    target = max(names, key=lambda found: len(found.name))
    outcome, wrong = judged(target, path.read_bytes())
    print(outcome, wrong, sep="\n")
    return 1 if wrong else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000, help="in all, shared out by the targets' weights")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--target", action="append", default=[], choices=[target.name for target in TARGETS])
    parser.add_argument("--findings", type=Path, help="folder for what was found (default: a temporary one)")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="a finding")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    if options.replay is not None:
        return replay(options.replay)
    folder = options.findings or Path(tempfile.gettempdir()) / f"miadmark-findings-{os.getpid()}"
    run = Run(options.seed, folder)
    run.run(plan_of(options.inputs, options.target), options.processes)
    print(table(run.tallies))
    found = sum(len(tally.findings) for tally in run.tallies.values())
    print(f"\n{found} findings" + (f", in {folder}" if found else ""))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

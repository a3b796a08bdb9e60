# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""How much faster two Ray workers are than one: ``python benchmarks/ray_scaling.py`` protects 400 CT-like slices.

Runs with one worker and with two are taken in turns, each in a fresh process with a Ray of its own. For each: the whole
job as a person waits for it (Ray started, actors with their networks loaded, all files done and noted), and the part of
its second half, when all actors have their networks, which is what remains when there are many files. Beside it stands
the processor time that all processes took for a file, Ray's own among them: that says the same on a machine that others
use too, and two workers that need no more of it than one are twice as fast on two cores of their own. ``--limits``
measures instead what each file of a very large job takes: of a worker at each preset, and of the one process that lists
and notes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path
from statistics import median

import images

from monai_miadmark.batch import plan, run_jobs
from monai_miadmark.engines import Engine, ProcessEngine
from monai_miadmark.files import Stamp, protected_name
from monai_miadmark.keys import generate_identity, save_key_pair
from monai_miadmark.manifest import MANIFEST_NAME, Manifest, Settings
from monai_miadmark.marker import load_marker
from monai_miadmark.options import PRESETS, ProtectOptions
from monai_miadmark.pipeline import protect_bytes
from monai_miadmark.ray_engine import RayEngine
from monai_miadmark.tasks import ProtectTask

_SIDE = 128
_LISTED = 20_000
_NOTED = 2_000
_TIMED = 3


def job(root: Path, engine_name: str, workers: int, preset: str) -> dict[str, float]:
    """One run, as the subprocess does it: seconds and files."""
    engine: Engine = RayEngine(workers) if engine_name == "ray" else ProcessEngine(workers)
    ends: list[float] = []
    used: list[float] = []
    start = time.monotonic()
    with tempfile.TemporaryDirectory(dir=root) as folder:
        planned = plan([root / "in"], Path(folder) / "out", protected_name, unique_instances=True)
        task = ProtectTask((root / "k.pub",), ProtectOptions(preset=preset))
        # The last file of each worker is left out: then the others have nothing to do any more.
        half, last = len(planned.jobs) // 2, len(planned.jobs) - workers

        def step() -> None:
            ends.append(time.monotonic())
            if len(ends) in (half, last):
                used.append(processor_seconds())

        report = run_jobs(planned, task, engine, step=step)
        whole = time.monotonic() - start
        if report.failures:
            raise SystemExit(f"{len(report.failures)} files failed: {report.failures[0].reason}")
    return {
        "files": len(report.done),
        "whole": whole,
        "first": ends[0] - start,
        "rate": (last - half) / (ends[last - 1] - ends[half - 1]),
        "cpu": (used[1] - used[0]) / (last - half),
        "load": os.getloadavg()[0],
    }


def processor_seconds() -> float:
    """Processor time of this process and all below it, those that ended left out."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        pid = int(path.parent.name)
        parents[pid], ticks[pid] = int(fields[1]), int(fields[11]) + int(fields[12])

    def is_ours(pid: int) -> bool:
        while pid and pid != os.getpid():
            pid = parents.get(pid, 0)
        return bool(pid)

    return sum(ticks[pid] for pid in ticks if is_ours(pid)) / os.sysconf("SC_CLK_TCK")


def measure(slices: int, side: int, rounds: int, engine: str, preset: str) -> None:
    """Runs in turns, and what they say."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "in").mkdir()
        for number in range(slices):
            (root / "in" / f"{number:04}.dcm").write_bytes(images.slice_of(side, number))
        save_key_pair(generate_identity("hybrid"), root / "k")
        print(f"{slices} slices of {side} x {side}, preset {preset}, engine {engine}")
        print("workers  job s  first file s  files/s in the second half  CPU s a file  load")
        found: dict[int, list[dict[str, float]]] = {1: [], 2: []}
        for _ in range(rounds):
            for workers in found:
                command = [sys.executable, __file__, "--run", folder, "--engine", engine, "--workers", str(workers)]
                done = subprocess.run([*command, "--preset", preset], stdout=subprocess.PIPE, text=True, check=True)
                told = json.loads(done.stdout.splitlines()[-1])
                found[workers].append(told)
                line = f"{workers:7}  {told['whole']:5.1f}  {told['first']:12.1f}  {told['rate']:26.2f}"
                print(f"{line}  {told['cpu']:12.3f}  {told['load']:4.1f}", flush=True)
    one, two = found[1], found[2]
    rate = median(run["rate"] for run in two) / median(run["rate"] for run in one)
    whole = median(run["whole"] for run in one) / median(run["whole"] for run in two)
    cpu = median(run["cpu"] for run in two) / median(run["cpu"] for run in one)
    print(f"two workers are {rate:.2f} times as fast as one; with the start of Ray and of its actors {whole:.2f} times")
    print(f"processor time of a file with two workers: {cpu:.2f} of that with one")


def limits() -> None:
    """What each file takes of a worker, and of the one process that lists and notes."""
    marker = load_marker()
    recipient = generate_identity("hybrid").recipient
    for preset in PRESETS:
        seconds = []
        for number in range(_TIMED):
            data = images.slice_of(_SIDE, number)
            start = time.process_time()
            protect_bytes(data, "slice.dcm", [recipient], marker, ProtectOptions(preset=preset))
            seconds.append(time.process_time() - start)
        print(f"protect, {preset}: {median(seconds):.2f} CPU s")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "in").mkdir()
        head = images.slice_of(16)
        for number in range(_LISTED):
            (root / "in" / f"1.2.826.0.1.3680043.8.498.{number:06}.dcm").write_bytes(
                head.replace(b"8.498.1", b"8.498.%d" % (number % 9))
            )
        start = time.monotonic()
        planned = plan([root / "in"], root / "out", protected_name)
        seconds = time.monotonic() - start
        tracemalloc.start()
        kept = plan([root / "in"], root / "out", protected_name)
        size, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        count = len(kept.jobs)
        print(f"list: {count / seconds:.0f} files/s, {peak / count:.0f} bytes of memory each, {size / count:.0f} stay")
        settings = ProtectTask((), ProtectOptions(preset="fast")).settings()
        (root / "out").mkdir()
        stamp = Stamp("0" * 64, 40_000, 1_800_000_000_000_000_000)
        facts = {
            "recipients": [{"kind": "hybrid", "key_id": "0" * 32}],
            "signer": None,
            "quality": {"psnr": 44.0, "ssim": 0.99},
        }
        with Manifest(root / "out", Settings("protect", settings), read=False) as manifest:
            start, cpu = time.monotonic(), time.process_time()
            for job in planned.jobs[:_NOTED]:
                outputs = {job.source.name: stamp}
                manifest.intend(job.source.name, stamp, outputs, facts)
                manifest.done(job.source.name, stamp, outputs, facts, 0.2)
            seconds, cpu = time.monotonic() - start, time.process_time() - cpu
        lines = (root / "out" / MANIFEST_NAME).stat().st_size
        print(f"note: {_NOTED / seconds:.0f} files/s (CPU alone {_NOTED / cpu:.0f}), {lines / _NOTED:.0f} bytes each")
        tracemalloc.start()
        start = time.monotonic()
        with Manifest(root / "out", Settings("protect", settings), read=True) as manifest:
            seconds = time.monotonic() - start
            size = tracemalloc.get_traced_memory()[0]
            count = len(manifest.finished)
        tracemalloc.stop()
        print(f"read for --resume: {size / count:.0f} bytes of memory each, {count / seconds:.0f} files/s (traced)")


def main() -> None:
    """The script."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--slices", type=int, default=400)
    parser.add_argument("--side", type=int, default=_SIDE, help="of the slices, in pixels")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--engine", choices=("ray", "local"), default="ray")
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--limits", action="store_true", help="the costs of listing and noting instead")
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run is not None:
        print(json.dumps(job(options.run, options.engine, options.workers, options.preset)))
    elif options.limits and os.environ.get("OMP_NUM_THREADS") != "1":
        # Libraries read it when they are loaded; a thread that waits for another one would count as work.
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, __file__, "--limits"], check=True, env=environment)
    elif options.limits:
        limits()
    else:
        measure(options.slices, options.side, options.rounds, options.engine, options.preset)


if __name__ == "__main__":
    main()

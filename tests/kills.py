# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Folder jobs that are killed again and again: is anything lost, or left half-written?

``python tests/kills.py --kills 200`` protects and restores a folder of small synthetic images in subprocesses, kills
them (SIGKILL) at random moments, goes on with ``--resume`` each time, and in the end compares with the sources:
every file done once in the manifest, every output whole, every restored file what it was. Noise stands in for networks,
so that writing and noting, which are what is tested, take most of the time. Exit status 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom.data
from doubles import load_marker
from PIL import Image

from monai_miadmark import batch, files
from monai_miadmark.engines import Engine, ProcessEngine, SerialEngine
from monai_miadmark.keys import generate_identity, save_key_pair
from monai_miadmark.locking import LOCK_NAME
from monai_miadmark.manifest import MANIFEST_NAME
from monai_miadmark.options import ProtectOptions
from monai_miadmark.tasks import KeyFile, ProtectTask, RemoveTask, Task


@dataclass
class Tally:
    """What was seen.

    Attributes:
        kills: blows that hit a running job.
        rounds: folders that were protected and restored from beginning to end.
        left: what lay in the output folder after kills: temporary files, outputs without their line.
        wrong: what must not be.
    """

    kills: int = 0
    rounds: int = 0
    left: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def write_images(folder: Path, count: int) -> None:
    """Small images of all formats in a tree."""
    y, x = np.mgrid[:40, :36]
    for number in range(count):
        rng = np.random.default_rng(number)
        values = (120 + 60 * np.sin(x / (4 + number % 5)) * np.cos(y / 7) + rng.normal(0, 5, x.shape)).clip(0, 255)
        path = folder / f"patient{number % 3}" / f"image{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = ("png", "nii", "jpg", "dcm")[number % 4]
        if kind in ("png", "jpg"):
            out = io.BytesIO()
            Image.fromarray(values.astype(np.uint8)).save(out, "PNG" if kind == "png" else "JPEG")
            data = out.getvalue()
        elif kind == "nii":
            data = nib.Nifti1Image(values.astype(np.int16)[:, :, None], np.eye(4)).to_bytes()
        else:
            source = pydicom.dcmread(str(pydicom.data.get_testdata_file("MR_small.dcm", download=False)))
            source.SOPInstanceUID = source.file_meta.MediaStorageSOPInstanceUID = f"1.2.826.0.1.3680043.8.498.{number}"
            buffer = io.BytesIO()
            source.save_as(buffer)
            data = buffer.getvalue()
        path.with_suffix(f".{kind}").write_bytes(data)


def run(root: Path, verb: str, processes: int) -> int:
    """One run of a job, as the subprocess does it; the exit status."""
    engine: Engine = SerialEngine() if processes == 1 else ProcessEngine(processes)
    task: Task
    if verb == "protect":
        options = ProtectOptions(preset="fast", region="none", style="invisible")
        # Pairs are harder to keep together than files with their record inside.
        task = ProtectTask((root / "k.pub",), options, record="sidecar", load=load_marker)
        planned = batch.plan([root / "in"], root / "protected", files.protected_name)
    else:
        task = RemoveTask(identities=(KeyFile(root / "k.key"),))
        planned = batch.plan([root / "protected"], root / "restored", lambda path: None)
    report = batch.run_jobs(planned, task, engine, resume=True)
    for failure in report.failures:
        print(failure.path.name, failure.reason, flush=True)
    return 1 if report.failures else 0


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 by relative path, without manifest and lock."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in (MANIFEST_NAME, LOCK_NAME)
    }


def lines(folder: Path) -> list[dict[str, Any]]:
    """Whole lines of a folder's manifest; none where there is no manifest."""
    path = folder / MANIFEST_NAME
    return [json.loads(text) for text in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []


def noted(found: list[dict[str, Any]]) -> dict[str, str]:
    """Digests of all outputs that lines of a manifest say are done."""
    done = [line for line in found if line["kind"] == "file" and line["status"] == "done"]
    images = {line["output"]: line["output_sha256"] for line in done}
    return images | {line["sidecar"]["path"]: line["sidecar"]["sha256"] for line in done if line["sidecar"]}


def check_half(folder: Path, tally: Tally) -> None:
    """After a kill: what has its own name is whole, whether the manifest says so already or not."""
    found = lines(folder)
    intended: dict[str, set[str]] = {}
    for line in found:
        for out in line["outputs"] if line["kind"] == "intent" else ():
            intended.setdefault(out["path"], set()).add(out["sha256"])
    done = noted(found)
    for path, digest in digests(folder).items():
        if files.is_leftover(Path(path).name):
            tally.left["temporary files"] += 1
        elif digest not in intended.get(path, ()):
            tally.wrong.append(f"{path} is not what was going to be written")
        elif path not in done:
            tally.left["outputs without their line"] += 1
    for path in done:
        if not (folder / path).exists():
            tally.wrong.append(f"{path} is said to be done and is not there")


def finish(root: Path, verb: str, processes: int, rng: random.Random, kills: int, tally: Tally) -> None:
    """Kill a job and go on with it until it is done, or ``kills`` are reached; then let it end."""
    out = root / ("protected" if verb == "protect" else "restored")
    command = [sys.executable, __file__, "--run", str(root), "--verb", verb, "--processes", str(processes)]
    while True:
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            if tally.kills < kills:
                # Importing takes a second, in which nothing can go wrong: blows fall when work has begun.
                wait_until_begun(process, out)
                # Mostly soon, so that a job takes many of them; sometimes late, when processes have their files.
                time.sleep(rng.choice((0.05, 0.3, 0.3 + 1.5 * (processes > 1))) * rng.random())
                if process.poll() is None:
                    process.send_signal(signal.SIGKILL)
                    tally.kills += 1
            said, _ = process.communicate(timeout=300)
        if process.returncode == -signal.SIGKILL:
            check_half(out, tally)
            continue
        if process.returncode:
            tally.wrong.append(f"{verb} ended with status {process.returncode}: {said[-500:]}")
        return


def wait_until_begun(process: subprocess.Popen[str], out: Path) -> None:
    """Wait until a run has the lock, or is over."""
    while process.poll() is None:
        try:
            if f'"pid": {process.pid},' in (out / LOCK_NAME).read_text():
                return
        except OSError:
            pass
        time.sleep(0.002)


def one_round(root: Path, images: int, processes: int, rng: random.Random, kills: int, tally: Tally) -> None:
    """Protect and restore a folder under blows, and compare."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    write_images(root / "in", images)
    save_key_pair(generate_identity("x25519"), root / "k")
    before = digests(root / "in")
    for verb, out in (("protect", root / "protected"), ("remove", root / "restored")):
        finish(root, verb, processes, rng, kills, tally)
        if noted(lines(out)) != digests(out):
            tally.wrong.append(f"{verb}: the manifest and the folder differ")
        if (out / LOCK_NAME).exists():
            tally.wrong.append(f"{verb}: the lock is left")
    if digests(root / "in") != before:
        tally.wrong.append("sources were changed")
    if digests(root / "restored") != before:
        tally.wrong.append("restored files are not the sources")
    tally.rounds += 1


def torment(folder: Path, kills: int, images: int, seed: int) -> Tally:
    """Rounds with one process and with two in turn, until so many blows have hit."""
    rng, tally = random.Random(seed), Tally()
    while tally.kills < kills and not tally.wrong:
        one_round(folder / "round", images, 1 + tally.rounds % 2, rng, kills, tally)
    return tally


def main() -> int:
    """The script."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--verb", default="protect", help=argparse.SUPPRESS)
    parser.add_argument("--processes", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run is not None:
        return run(options.run, options.verb, options.processes)
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        tally = torment(Path(folder), options.kills, options.images, options.seed)
        left = ", ".join(f"{count} {what}" for what, count in sorted(tally.left.items())) or "nothing"
        print(f"{tally.kills} kills in {tally.rounds} rounds, {time.monotonic() - start:.0f} s; after kills lay {left}")
        for text in tally.wrong:
            print(f"WRONG: {text}")
        print("nothing was lost, nothing half-written" if not tally.wrong else "FAILED")
    return 1 if tally.wrong else 0


if __name__ == "__main__":
    sys.exit(main())

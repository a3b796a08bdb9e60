# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Measures what docs/benchmarks.md reports: ``make bench``, or ``python benchmarks/run.py --only load``.

Ratios come first, because they say the same on every machine; all times of a ratio are taken in turns, in one run, on
one thread. Times are processor time of the process (wall time beside it), the median of the repetitions. Each section
runs in a process of its own, so that none warms up or fills the memory for the next.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import images
import numpy as np

REPORT = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
MIB = 1 << 20

_THREADS, _FRAMES = 2, 64
"""Of one process that protects a series: as many as the machine that targets are for has cores; and how long it is."""


class Times(NamedTuple):
    """Medians, in milliseconds."""

    cpu: float
    wall: float


class Ratio(NamedTuple):
    """One line of the first table.

    Attributes:
        what: two things that are compared, or one thing and its limit.
        value: as measured.
        target: what it should be, with the relation; empty where there is none.
        holds: whether it is so.
    """

    what: str
    value: str
    target: str = ""
    holds: bool | None = None


class Section(NamedTuple):
    """What a section found."""

    title: str
    ratios: list[Ratio]
    head: list[str]
    rows: list[list[str]]
    note: str = ""


def in_turns(repeat: int, works: Sequence[Callable[[], Any]]) -> list[Times]:
    """Median times of several works, each run ``repeat`` times, one after the other in turns."""
    for work in works:
        work()
    taken: list[list[Times]] = [[] for _ in works]
    for _ in range(repeat):
        for work, times in zip(works, taken, strict=True):
            cpu, wall = time.process_time(), time.perf_counter()
            work()
            times.append(Times(1e3 * (time.process_time() - cpu), 1e3 * (time.perf_counter() - wall)))
    return [Times(median(t.cpu for t in times), median(t.wall for t in times)) for times in taken]


def _shown(times: Times) -> list[str]:
    return [f"{times.cpu:.1f}", f"{times.wall:.1f}"]


def _keys(folder: Path, kind: str, name: str = "key") -> tuple[Path, Any]:
    """Path of a fresh private key, and its recipient."""
    from monai_miadmark.keys import generate_identity, save_key_pair

    who = generate_identity(kind)
    return save_key_pair(who, folder / name).private, who.recipient


def load(folder: Path, options: argparse.Namespace) -> Section:
    """Authorized loading in memory against plain loading of the original."""
    import pydicom
    from monai.transforms import LoadImage

    from monai_miadmark import pipeline
    from monai_miadmark.marker import load_marker
    from monai_miadmark.options import ProtectOptions
    from monai_miadmark.transforms import MIADMarkReader

    marker = load_marker()
    plain = LoadImage(reader="PydicomReader")
    plain.readers = plain.readers[-1:]  # LoadImage keeps its other readers, and asks them first where it may
    ratios, rows = [], []
    # The header that the file has, and, for comparison, a short one: of plain loading, most is spent on the header.
    for kind, private in (("hybrid", True), ("x25519", True), ("hybrid", False)):
        source = images.slice_of(512, private=private)
        original = folder / "original.dcm"
        original.write_bytes(source)
        elements = len(pydicom.dcmread(original))
        key, recipient = _keys(folder, kind, f"{kind}-{private}")
        for style in ("visible", "invisible"):
            protected = folder / f"{kind}-{style}.dcm"
            made = pipeline.protect_bytes(
                source, "a.dcm", [recipient], marker, ProtectOptions(preset="fast", modality="brain_mri", style=style)
            )
            protected.write_bytes(made.data)
            ours = LoadImage(reader=MIADMarkReader(key))
            ours.readers = ours.readers[-1:]
            assert (ours(protected).numpy() == plain(original).numpy()).all()
            theirs, times = in_turns(options.repeat, [lambda p=original: plain(p), lambda o=ours, p=protected: o(p)])
            share = theirs.cpu / times.cpu
            what = f"authorized loading, throughput as a share of plain loading ({kind}, {style}"
            if private:
                ratios.append(Ratio(f"{what})", f"{share:.2f}", "≥ 0.8", share >= 0.8))
            else:
                ratios.append(Ratio(f"{what}, header of {elements} elements)", f"{share:.2f}"))
            rows.append([kind, style, str(elements), *_shown(theirs), *_shown(times), f"{times.cpu - theirs.cpu:.1f}"])
    head = [
        "recipient",
        "style",
        "elements",
        "plain, CPU ms",
        "plain, wall ms",
        "authorized, CPU ms",
        "authorized, wall ms",
        "more, CPU ms",
    ]
    return Section(
        "Loading a 512 x 512 int16 DICOM file",
        ratios,
        head,
        rows,
        "Plain: PydicomReader of the original. Most of its time goes into the header, element by element.",
    )


def remove(folder: Path, options: argparse.Namespace) -> Section:
    """RemoveMIADMarkd in a DataLoader against the same DataLoader with the original arrays."""
    import torch
    from monai.data import DataLoader, Dataset, MetaTensor
    from monai.transforms import Compose

    from monai_miadmark.marker import load_marker
    from monai_miadmark.transforms import ProtectWithMIADMarkd, RemoveMIADMarkd

    key, recipient = _keys(folder, "hybrid")
    marker = load_marker()
    ratios, rows = [], []
    for side in (256, 512):
        originals = [
            {"image": MetaTensor(torch.from_numpy(images.pixels(side, seed)[None]))} for seed in range(options.images)
        ]
        protect = ProtectWithMIADMarkd("image", recipient, preset="fast", marker=marker, modality="brain_mri")
        protected = [protect(item) for item in originals]
        plain = DataLoader(Dataset(originals, Compose([])), batch_size=2)
        ours = DataLoader(Dataset(protected, Compose([RemoveMIADMarkd("image", key)])), batch_size=2)
        for one, other in zip(plain, ours, strict=True):
            assert torch.equal(one["image"].as_tensor(), other["image"].as_tensor())
        times = in_turns(max(3, options.repeat // 3), [lambda p=plain: list(p), lambda o=ours: list(o)])
        each = (times[1].cpu - times[0].cpu) / len(originals)
        what = f"RemoveMIADMarkd in a DataLoader, CPU ms a megapixel ({side} x {side})"
        ratios.append(Ratio(what, f"{each / side**2 * 1e6:.0f}"))
        rows.append([f"{side} x {side}", *_shown(times[0]), *_shown(times[1]), f"{each:.1f}"])
    head = [
        "image",
        "plain, CPU ms",
        "plain, wall ms",
        "restoring, CPU ms",
        "restoring, wall ms",
        "more, CPU ms an image",
    ]
    return Section(f"A DataLoader over {options.images} images", ratios, head, rows)


def protect(folder: Path, options: argparse.Namespace) -> Section:
    """Protecting slices with the preset fast."""
    from monai_miadmark import pipeline
    from monai_miadmark.marker import load_marker
    from monai_miadmark.options import ProtectOptions

    _, recipient = _keys(folder, "hybrid")
    marker = load_marker()
    chosen = ProtectOptions(preset="fast", modality="brain_mri")
    ratios, rows = [], []
    unit = 0.0
    for side in options.sides:
        # Two in turns: what guides said about the last image is kept, and no image may profit from that.
        sources = cycle([images.slice_of(side, seed) for seed in range(2)])
        (times,) = in_turns(
            max(1, options.repeat // (3 if side <= 1024 else 10)),
            [lambda s=sources: pipeline.protect_bytes(next(s), "a.dcm", [recipient], marker, chosen)],
        )
        pixel = times.wall / side**2 * 1e6
        unit = unit or pixel
        rows.append(
            [f"{side} x {side}", *_shown(times), f"{1e3 / times.wall:.1f}", f"{pixel:.0f}", f"{pixel / unit:.2f}"]
        )
        if side == 512:
            alone = 1e3 / times.wall
            ratios.append(Ratio("files of one slice of 512 x 512 protected in a second, one thread", f"{alone:.1f}"))
            speed = _child("speed", side, _FRAMES, _THREADS)
            what = f"slices of 512 x 512 protected in a second, one process, {_THREADS} threads, a file of {_FRAMES}"
            ratios.append(Ratio(what, f"{speed:.1f}", "≥ 20", speed >= 20))
    if len(rows) > 1:
        ratios.append(Ratio(f"time a megapixel, {rows[-1][0]} as a share of {rows[0][0]}", rows[-1][-1]))
    head = ["image", "CPU ms", "wall ms", "slices a second", "wall ms a megapixel", "as a share of the first"]
    return Section("Protecting a slice, preset fast, one process", ratios, head, rows)


def record(folder: Path, options: argparse.Namespace) -> Section:
    """Bytes of the sealed record."""
    from monai_miadmark import pipeline
    from monai_miadmark.marker import load_marker
    from monai_miadmark.options import ProtectOptions

    _, recipient = _keys(folder, "hybrid")
    marker = load_marker()
    limits = {512: 24, 4096: 28}
    ratios, rows = [], []
    for style in ("invisible", "visible"):
        for side in options.sides:
            source = images.slice_of(side)
            chosen = ProtectOptions(preset="fast", modality="brain_mri", style=style)
            size = len(pipeline.protect_bytes(source, "a.dcm", [recipient], marker, chosen).envelope)
            rows.append([style, f"{side} x {side}", f"{size / 1024:.1f}", f"{100 * size / len(source):.2f}"])
            if style == "invisible" and side in limits:
                what = f"KiB of a record, invisible, {side} x {side}"
                ratios.append(Ratio(what, f"{size / 1024:.1f}", f"≤ {limits[side]}", size <= limits[side] * 1024))
    return Section("Size of the sealed record of a slice", ratios, ["style", "image", "KiB", "% of the file"], rows)


def _child(what: str, side: int, count: int, threads: int = 1) -> float:
    """Peak memory in MiB of a process that does one thing; of ``speed``, slices a second."""
    command = [sys.executable, str(Path(__file__).resolve()), "--child", what, str(side), str(count)]
    # What waits must not spin: that would be counted as work.
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environment)
    return float(json.loads(done.stdout.splitlines()[-1]))


def child(what: str, side: int, count: int) -> float:
    """What :func:`_child` measures, in the child."""
    from monai_miadmark import files, pipeline
    from monai_miadmark.keys import generate_identity
    from monai_miadmark.marker import load_marker
    from monai_miadmark.options import ProtectOptions

    who = generate_identity("hybrid")
    chosen = ProtectOptions(preset="fast", modality="brain_mri", style="invisible")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if what == "nothing":
            load_marker().specialist("brain_mri", images.pixels(64)[None, :, :, None].astype("float32") / 4000)
        elif what == "speed":
            series, marker = [images.series_of(side, count, seed) for seed in (0, count)], load_marker()
            visible = ProtectOptions(preset="fast", modality="brain_mri")
            walls = []
            for turn in range(4):
                start = time.perf_counter()
                pipeline.protect_bytes(series[turn % 2], "a.dcm", [who.recipient], marker, visible)
                walls.append(time.perf_counter() - start)
            return count / median(walls[1:])  # the first loads the weights
        elif what == "frames":
            (folder / "a.dcm").write_bytes(images.series_of(side, count))
            files.protect_file(folder / "a.dcm", folder / "p", [who.recipient], load_marker(), chosen)
        else:
            marker = load_marker()
            for index in range(count):
                made = pipeline.protect_bytes(
                    images.slice_of(side, index % 8), "a.dcm", [who.recipient], marker, chosen
                )
                assert made.data
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def memory(folder: Path, options: argparse.Namespace) -> Section:
    """Peak memory of processes that protect."""
    idle = _child("nothing", 0, 0)
    rows = [["nothing: networks and libraries", f"{idle:.0f}", ""]]
    ratios = []
    for side in options.sides:
        peak = _child("files", side, 1)
        rows.append([f"one file of {side} x {side}", f"{peak:.0f}", f"{(peak - idle) * MIB / side**2:.0f}"])
    count = options.slices
    for number in (max(1, count // 10), count):
        peak = _child("files", 512, number)
        rows.append([f"{number} files of 512 x 512, one after the other", f"{peak:.0f}", ""])
    what = f"GB at most, a series of {count} files of 512 x 512"
    ratios.append(Ratio(what, f"{peak * MIB / 1e9:.2f}", "≤ 1.5", peak * MIB <= 1.5e9))
    frames = [max(1, count // 100), max(2, count // 20)]
    peaks = [_child("frames", 512, number) for number in frames]
    for number, peak in zip(frames, peaks, strict=True):
        rows.append(
            [f"one file of {number} frames of 512 x 512", f"{peak:.0f}", f"{(peak - idle) * MIB / number / 512**2:.0f}"]
        )
    growth = (peaks[1] - peaks[0]) * MIB / (frames[1] - frames[0]) / (2 * 512**2)
    ratios.append(Ratio("memory that a further frame of one file takes, as a multiple of its samples", f"{growth:.1f}"))
    head = ["protecting", "peak, MiB", "bytes a pixel beyond the first line"]
    return Section("Peak memory (ru_maxrss of a process of its own)", ratios, head, rows)


def peers(folder: Path, options: argparse.Namespace) -> Section:
    """Marks by the generator against MI-DI-TI-FGSM on gray images of 128 x 128, one model left out."""
    import torch

    from monai_miadmark.evaluation.peers import PEERS
    from monai_miadmark.exact import apply_mark
    from monai_miadmark.image import Bounds, StoredImage, Window
    from monai_miadmark.marker import load_marker
    from monai_miadmark.marking import make_mark
    from monai_miadmark.options import ProtectOptions

    marker = load_marker(exclude=("densenet",))
    specialist = marker.specialist("brain_mri", np.zeros((1, 1, 8, 8), np.float32))
    methods = {"fast": (marker, ProtectOptions("fast", modality="brain_mri"))}
    for name in PEERS:
        if name.startswith("MI-DI-TI-FGSM"):
            methods[name] = PEERS[name].marker(specialist, torch.zeros(1)), PEERS[name].options("brain_mri", 29.0)
    # One image more than methods: each gets another one in each turn, since what guides said about the last is kept.
    seeds = range(len(methods) + 1)
    pixels = [np.clip(images.pixels(128, seed) / 8, 0, 255).astype(np.uint8)[None, ..., None] for seed in seeds]
    sources = cycle([StoredImage(values, Bounds(0, 255), Window(0, 255)) for values in pixels])

    def work(name: str) -> None:
        image, (by, chosen) = next(sources), methods[name]
        apply_mark(image, make_mark(image, chosen, by, bytes(32)))

    measured = in_turns(max(3, options.repeat // 3), [lambda n=name: work(n) for name in methods])
    times = dict(zip(methods, measured, strict=True))
    ratios = [
        Ratio(f"time of {name} as a multiple of the preset fast", f"{times[name].cpu / times['fast'].cpu:.1f}")
        for name in list(methods)[1:]
    ]
    rows = [[name, *_shown(took)] for name, took in times.items()]
    return Section("A mark on a gray image of 128 x 128", ratios, ["method", "CPU ms", "wall ms"], rows)


SECTIONS: dict[str, Callable[[Path, argparse.Namespace], Section]] = {
    "load": load,
    "remove": remove,
    "protect": protect,
    "record": record,
    "peers": peers,
    "memory": memory,
}


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def report(sections: Sequence[Section], options: argparse.Namespace, seconds: float) -> str:
    """All sections as Markdown, ratios first; how long it took to measure them."""
    verdict = {None: "", True: "yes", False: "no"}
    ratios = [[r.what, r.value, r.target, verdict[r.holds]] for section in sections for r in section.ratios]
    cores = os.cpu_count()
    load = os.getloadavg()[0]
    parts = [
        "# Benchmarks",
        "Made by `make bench` (`benchmarks/run.py`); do not edit. CT-like slices, made of the CT in pydicom's wheel.\n"
        "Times are medians of processor time of one thread, wall time beside it. Absolute times are those of the\n"
        "machine and of what else ran on it; ratios were taken in turns, in one run.",
        f"{platform.machine()}, {cores} cores, load {load:.1f} when this was written, "
        f"Python {platform.python_version()}, {options.repeat} repetitions; measured in {seconds / 60:.0f} minutes.",
        "## Ratios",
        _table(["what", "measured", "target", "holds"], ratios),
    ]
    for section in sections:
        parts += [f"## {section.title}", _table(section.head, section.rows), *([section.note] if section.note else [])]
    return "\n\n".join(parts) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=list(SECTIONS), help="this section (may be repeated)")
    parser.add_argument("--repeat", type=int, default=30, help="repetitions of what takes milliseconds")
    parser.add_argument("--images", type=int, default=8, help="images in the DataLoader")
    parser.add_argument("--sides", type=int, nargs="+", default=[256, 512, 1024, 2048, 4096])
    parser.add_argument("--slices", type=int, default=1000, help="files of the series whose memory is measured")
    parser.add_argument("--write", action="store_true", help=f"write {REPORT.parent.name}/{REPORT.name}")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--json", choices=list(SECTIONS), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    if options.child:
        print(child(options.child[0], *map(int, options.child[1:])))
        return 0
    if options.json:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(SECTIONS[options.json](Path(folder), options)))
        return 0
    sections = []
    start = time.monotonic()
    for name in options.only or SECTIONS:
        print(f"{time.monotonic() - start:.0f} s: {name}", file=sys.stderr)
        numbers = ["--repeat", options.repeat, "--images", options.images, "--slices", options.slices, "--sides"]
        command = [sys.executable, str(Path(__file__).resolve()), "--json", name, *map(str, [*numbers, *options.sides])]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environment)
        title, ratios, *rest = json.loads(done.stdout.splitlines()[-1])
        sections.append(Section(title, [Ratio(*ratio) for ratio in ratios], *rest))
    text = report(sections, options, time.monotonic() - start)
    print(text)
    if options.write:
        REPORT.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

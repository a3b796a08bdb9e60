# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Actors of Ray over files: what they give is what one process gives, and what dies costs nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import samples
import store
from commands import heed_interrupts
from doubles import BLUNT, load_marker
from test_engines import Acting, act, admit, jobs, wait_for

from monai_miadmark import cli, files
from monai_miadmark.batch import Report, plan, run_jobs
from monai_miadmark.engines import SerialEngine
from monai_miadmark.files import Made, Output, stamp_file
from monai_miadmark.keys import generate_identity, save_key_pair
from monai_miadmark.manifest import MANIFEST_NAME
from monai_miadmark.options import ProtectOptions
from monai_miadmark.ray_engine import RayEngine
from monai_miadmark.tasks import Draft, Job, KeyFile, ProtectTask, RemoveTask, UnfitError

ray = pytest.importorskip("ray", reason="Ray is not installed")

HERE = str(Path(__file__).parent)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A store; begun before Ray, whose workers have the environment that Ray was started with."""
    with store.running() as address:
        yield address


@pytest.fixture(scope="module")
def cluster(server: str) -> Iterator[None]:
    """Ray with two CPUs, whose workers find the modules of the tests; started once, because that takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", HERE)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_TOKEN", "0" * 64)
        patch.setenv("RAY_worker_niceness", "0")  # by itself Ray lets its workers wait for everything else
        ray.init(
            address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=80 << 20
        )
        try:
            yield
        finally:
            ray.shutdown()


def worker_pids() -> list[int]:
    """Processes of actors of the Ray that this process started; others may run on the same machine."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            command = path.with_name("cmdline").read_bytes()
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            grandparent = int(Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
        if command.startswith(b"ray::_Worker") and grandparent == os.getpid():
            found.append(int(path.parent.name))
    return found


def test_jobs_are_taken_as_they_are_needed_and_refusals_are_kept(cluster: None, tmp_path: Path) -> None:
    taken: list[int] = []

    def counted() -> Iterator[Job]:
        for number, job in enumerate(jobs(tmp_path, *["copy"] * 5)):
            taken.append(number)
            yield job

    def refuse(job: Job, draft: Draft) -> None:
        if job.source.name == "0":
            raise ValueError("stands in the way")

    done = 0
    for outcome in RayEngine(2, files_per_worker=2).run(Acting(), counted(), refuse):
        done += 1
        assert len(taken) <= done + 3
        assert (outcome.failure is not None) == (outcome.job.source.name == "0")
    written = samples.contents(tmp_path / "out")
    assert done == 5 and set(written) == set("1234")
    assert max(Counter(written.values()).values()) <= 2, "workers are replaced"


@pytest.mark.parametrize("unfit", ["the marker cannot be loaded: no weights", "die"])
def test_a_task_that_cannot_be_done_is_said_once(cluster: None, tmp_path: Path, unfit: str) -> None:
    reason = "Ray workers die before they can begin" if unfit == "die" else unfit
    with pytest.raises(UnfitError, match=reason):
        list(RayEngine(1).run(Acting(unfit), jobs(tmp_path, "copy", "copy"), admit))


def test_passphrases_do_not_travel(tmp_path: Path, keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    locked = (KeyFile(keys / "alice.key", "correct horse"),)
    tasks = (RemoveTask(passphrase="correct horse"), RemoveTask(identities=locked))
    for task in (*tasks, ProtectTask((), ProtectOptions(), signer=locked[0])):
        with pytest.raises(UnfitError, match="passphrase"):
            next(RayEngine(1).run(task, iter(()), admit))
    with pytest.raises(ValueError, match="HOST:PORT or auto"):
        RayEngine(1, "ray://head:10001")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(samples.png())
    save_key_pair(generate_identity("x25519"), tmp_path / "locked", "correct horse")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIADMARK_PASSPHRASE", "correct horse")
        base = ["remove", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--engine", "ray"]
        assert cli.main([*base, "-i", str(tmp_path / "locked.key")]) == 2
    assert "a passphrase must not travel" in capsys.readouterr().err and not (tmp_path / "out").exists()


@dataclass(frozen=True, repr=False)
class DyingMade(Made):
    """Written as far as ``whole`` says; then the process dies."""

    whole: bool = True

    def write(self) -> Path:
        written = self.outputs if self.whole else self.outputs[:1]
        Made(self.source, written, self.mode, self.overwrite, None).write()
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("still alive")


@dataclass(frozen=True)
class Dying(Acting):
    """Also does what ``after`` and ``between`` say: the worker dies once while it writes a pair."""

    def prepare(self) -> Callable[[Job], Made]:
        return die_while_writing


def die_while_writing(job: Job) -> Made:
    """The work of :class:`Dying`."""
    word = job.source.read_text()
    if word not in ("after", "between"):
        return act(job)
    content = f"{os.getpid()}".encode()
    pair = tuple(Output(job.folder / f"{job.source.name}{end}", content) for end in (".miadmark", ""))
    seen = job.folder.parent / f"{job.source.name}.seen"
    if seen.exists():
        return Made(stamp_file(job.source), pair, 0o644, False, None)
    seen.write_text(word)
    return DyingMade(stamp_file(job.source), pair, 0o644, False, None, whole=word == "after")


def test_what_fails_or_kills_costs_its_file_only(cluster: None, tmp_path: Path) -> None:
    """A file whose worker dies is tried three times; what a worker finished before it died counts."""
    (tmp_path / "in").mkdir()
    words = ("copy", "die", "raise", "after", "between", "threads")
    for word in words:
        (tmp_path / "in" / word).write_text(word)
    report = run_jobs(plan([tmp_path / "in"], tmp_path / "out", lambda path: path.name), Dying(), RayEngine(1))
    assert sorted(path.name for path, _ in report.done) == ["after", "between", "copy", "threads"]
    assert {failure.path.name: failure.reason for failure in report.failures} == {
        "die": "the Ray worker that worked on it died, 3 times",
        "raise": "unexpected RuntimeError (--engine local --verbose shows where)",
    }
    written = samples.contents(tmp_path / "out")
    manifest = [json.loads(line) for line in written.pop(MANIFEST_NAME).splitlines()]
    assert set(written) == {"copy", "threads", "after", "after.miadmark", "between", "between.miadmark"}
    assert written["threads"] == b"1" and int(written["copy"]) != os.getpid()
    assert all(written[name] == written[f"{name}.miadmark"] for name in ("after", "between")), "half of a pair"
    kinds = Counter((line["kind"], line.get("source")) for line in manifest)
    assert kinds[("intent", "after")] == 1 and kinds[("intent", "between")] == 2 and kinds[("intent", "die")] == 0
    assert {kinds[("file", word)] for word in words} == {1}


def protect(
    folder: Path, out: Path, keys: Path, engine: Any, step: Callable[[], None] = lambda: None, **more: Any
) -> Report:
    """Protect a folder with noise for networks."""
    task = ProtectTask((keys / "alice.pub",), ProtectOptions(preset=BLUNT), record="both", load=load_marker)
    return run_jobs(plan([folder], out, files.protected_name, True), task, engine, step=step, **more)


def test_workers_killed_in_mid_job_lose_nothing(cluster: None, tmp_path: Path, keys: Path) -> None:
    """``kill -9`` of workers that have work: every file is done once, and restored it is what it was."""
    (tmp_path / "in").mkdir()
    made = {f"{number:02}.png": samples.png(number) for number in range(16)}
    for name, data in made.items():
        (tmp_path / "in" / name).write_bytes(data)
    killed: list[int] = []
    done = 0

    def kill() -> None:
        nonlocal done
        done += 1
        if done in (3, 8) and (found := worker_pids()):
            os.kill(found[-1], signal.SIGKILL)
            killed.append(found[-1])

    report = protect(tmp_path / "in", tmp_path / "out", keys, RayEngine(2), kill)
    assert len(killed) == 2 and not report.failures
    assert sorted(path.name for path, _ in report.done) == sorted(made) and done == len(made)
    written = samples.contents(tmp_path / "out")
    manifest = [json.loads(line) for line in written.pop(MANIFEST_NAME).splitlines()]
    assert set(written) == {name + end for name in made for end in ("", ".miadmark")}
    assert Counter(line["source"] for line in manifest if line["kind"] == "file") == Counter(list(made))
    again = protect(tmp_path / "in", tmp_path / "out", keys, SerialEngine(), resume=True, verify=True)
    assert len(again.kept) == len(made), "another engine goes on with the same manifest"

    task = RemoveTask(identities=(KeyFile(keys / "alice.key"),))
    back = run_jobs(plan([tmp_path / "out"], tmp_path / "back", lambda path: None), task, SerialEngine())
    assert not back.failures
    restored = samples.contents(tmp_path / "back")
    del restored[MANIFEST_NAME]
    assert restored == made


def test_from_and_to_a_store(cluster: None, tmp_path: Path, keys: Path) -> None:
    made = samples.tree(tmp_path / "in")
    source, shared = store.remote("s3://scans/ray/in"), store.remote("s3://scans/ray/protected")
    store.upload(tmp_path / "in", source)
    report = protect(source, shared, keys, RayEngine(1), noted=tmp_path / "notes")
    assert not report.failures and len(report.done) == len(made)
    task = RemoveTask(identities=(KeyFile(keys / "alice.key"),))
    planned = plan([shared], store.remote("s3://scans/ray/back"), lambda path: None)
    assert not run_jobs(planned, task, SerialEngine(), noted=tmp_path / "back").failures
    restored = store.contents(store.remote("s3://scans/ray/back"))
    assert {n: samples.plain(n, d) for n, d in restored.items()} == {n: samples.plain(n, d) for n, d in made.items()}


def test_breaking_off_ends_the_workers(cluster: None, tmp_path: Path) -> None:
    with closing(RayEngine(1).run(Acting(), jobs(tmp_path, "copy", "wait"), admit)) as outcomes:
        assert next(outcomes).failure is None
        waiting = wait_for(tmp_path / "out", 1)  # it has the next file before the first is noted
    assert gone(waiting)


DRIVER = """
import sys
from pathlib import Path
from test_engines import Acting
from monai_miadmark import batch, cli
from monai_miadmark.ray_engine import RayEngine
if __name__ == "__main__":
    folder = Path(sys.argv[1])
    with cli.environment(False):
        batch.run_jobs(batch.plan([folder / "in"], folder / "out", lambda p: p.name), Acting(), RayEngine(1))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_process_outlives_the_first(tmp_path: Path, number: signal.Signals) -> None:
    """A Ray that was started for a job ends with it, however that ends, and takes its folder away if it can."""
    (tmp_path / "in").mkdir()
    (tmp_path / "tmp").mkdir()
    (tmp_path / "in" / "a").write_text("wait")
    (tmp_path / "driver.py").write_text(DRIVER)
    # Names of sockets may not be long, and those of pytest's folders are.
    short = Path(f"/tmp/r{os.getpid()}{number}")
    short.symlink_to(tmp_path / "tmp")
    environment = {**os.environ, "PYTHONPATH": HERE, "TMPDIR": str(short), "MIADMARK_PASSPHRASE": "correct horse"}
    command = [sys.executable, str(tmp_path / "driver.py"), str(tmp_path)]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, env=environment, start_new_session=True, preexec_fn=heed_interrupts
    ) as process:
        try:
            waiting = wait_for(tmp_path / "out", 1)
            for pid in waiting:
                assert b"correct horse" not in Path(f"/proc/{pid}/environ").read_bytes()
            folder = next((tmp_path / "tmp").iterdir())
            assert folder.stat().st_mode & 0o777 == 0o700
        finally:
            if number is signal.SIGINT:
                os.killpg(process.pid, number)  # as a terminal does
            else:
                process.send_signal(number)
            process.wait(60)
            short.unlink()
    assert gone(waiting)
    assert number is signal.SIGKILL or not any((tmp_path / "tmp").iterdir())
    assert not any(files.is_leftover(path.name) for path in (tmp_path / "out").iterdir())


def gone(pids: list[int]) -> bool:
    """Whether processes end within some seconds."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return True
        time.sleep(0.1)
    return False


def test_the_command_line_starts_ray_by_itself(tmp_path: Path, keys: Path) -> None:
    made = samples.tree(tmp_path / "in")
    assert not protect(tmp_path / "in", tmp_path / "p", keys, SerialEngine()).failures
    command = [sys.executable, "-m", "monai_miadmark", "remove", str(tmp_path / "p"), "-o", str(tmp_path / "back")]
    command += ["-i", str(keys / "alice.key"), "--engine", "ray", "--jobs", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0 and done.stdout == "", done.stderr
    assert "restored 5 files" in done.stderr, done.stderr
    assert all(line.startswith("miadmark: ") for line in done.stderr.splitlines()), done.stderr  # no word of Ray's
    restored = samples.contents(tmp_path / "back")
    assert {n: samples.plain(n, d) for n, d in restored.items() if n != MANIFEST_NAME} == {
        n: samples.plain(n, d) for n, d in made.items()
    }

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Processes over files: what they give is what one process gives, what dies costs one file, and nothing outlives it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import samples
from commands import heed_interrupts
from doubles import load_marker

from monai_miadmark import files
from monai_miadmark.batch import ClashError, Report, plan, run_jobs
from monai_miadmark.engines import TOO_SLOW, Engine, Outcome, ProcessEngine, SerialEngine, run_alone
from monai_miadmark.files import Made, Output, stamp_file
from monai_miadmark.locking import FolderLock, LockedError
from monai_miadmark.manifest import MANIFEST_NAME
from monai_miadmark.options import ProtectOptions
from monai_miadmark.tasks import Draft, Job, KeyFile, ProtectTask, RemoveTask, ResealTask, UnfitError


@dataclass(frozen=True)
class Acting:
    """Does what a file says: ``copy``, ``die``, ``raise``, ``wait``, ``spin``, ``unfit`` or ``threads``."""

    unfit: str = ""

    verb = "act"

    def settings(self) -> dict[str, Any]:
        return {}

    def continued(self, done: Path) -> Acting:
        return self

    def prepare(self) -> Callable[[Job], Made]:
        if self.unfit.startswith("killed "):
            _, often, folder = self.unfit.split(" ", 2)
            if len(list(Path(folder).glob("*.killed"))) < int(often):
                Path(folder, f"{os.getpid()}.killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return act
        if self.unfit == "die":
            os._exit(3)
        if self.unfit:
            raise UnfitError(self.unfit)
        return act


def act(job: Job) -> Made:
    """The work of :class:`Acting`."""
    word = job.source.read_text()
    data = f"{os.getpid()}"
    if word == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif word == "raise":
        raise RuntimeError("PatientName^Secret")
    elif word == "wait":
        (job.folder / f"{job.source.name}.waiting").write_text(data)
        time.sleep(60)
    elif word == "spin":
        try:
            re.match("(a+)+b", "a" * 60)
        except Exception:  # as readers do, which make a damaged file of everything
            data = "damaged"
    elif word == "unfit":
        raise UnfitError("the marker cannot be loaded: no weights")
    elif word == "threads":
        data = os.environ.get("OMP_NUM_THREADS", "")
    output = Output(job.folder / job.source.name, data.encode())
    return Made(stamp_file(job.source), (output,), 0o644, False, None)


def jobs(folder: Path, *words: str) -> Iterator[Job]:
    """One job for each word."""
    (folder / "out").mkdir()
    for number, word in enumerate(words):
        (folder / f"{number}").write_text(word)
        yield Job(folder / f"{number}", folder / "out")


def admit(job: Job, draft: Draft) -> None:
    """Everything may be written."""


def run(engine: Engine, task: Acting, given: Iterator[Job]) -> dict[str, Outcome]:
    """Outcomes by source."""
    return {outcome.job.source.name: outcome for outcome in engine.run(task, given, admit)}


def test_what_dies_or_fails_costs_its_file(tmp_path: Path) -> None:
    outcomes = run(ProcessEngine(2), Acting(), jobs(tmp_path, "copy", "die", "raise", "copy", "die", "copy"))
    reasons = {name: None if o.failure is None else o.failure.reason for name, o in outcomes.items()}
    killed = "the process that worked on it was killed (SIGKILL), perhaps for lack of memory"
    unexpected = "unexpected RuntimeError (--verbose shows where)"
    assert reasons == {"0": None, "1": killed, "2": unexpected, "3": None, "4": killed, "5": None}
    written = samples.contents(tmp_path / "out")
    assert set(written) == {"0", "3", "5"}
    assert not {int(pid) for pid in written.values()} & {os.getpid()}


def test_processes_take_jobs_when_they_are_free(tmp_path: Path) -> None:
    """Not all at once: there may be a million."""
    taken: list[int] = []

    def counted() -> Iterator[Job]:
        for number, job in enumerate(jobs(tmp_path, *["copy"] * 8)):
            taken.append(number)
            yield job

    done = 0
    for _ in ProcessEngine(2).run(Acting(), counted(), admit):
        done += 1
        assert len(taken) <= done + 3
    assert done == 8


def test_processes_are_replaced(tmp_path: Path) -> None:
    run(ProcessEngine(1, files_per_process=2), Acting(), jobs(tmp_path, *["copy"] * 5))
    pids = [samples.contents(tmp_path / "out")[str(number)] for number in range(5)]
    assert pids[0] == pids[1] and pids[2] == pids[3] and len(set(pids)) == 3


def test_one_thread_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    run(ProcessEngine(1), Acting(), jobs(tmp_path, "threads"))
    assert samples.contents(tmp_path / "out") == {"0": b"1"} and os.environ["OMP_NUM_THREADS"] == "7"


@pytest.mark.parametrize("engine", [SerialEngine(), ProcessEngine(1)])
def test_refused_drafts_are_not_written(tmp_path: Path, engine: Engine) -> None:
    def refuse(job: Job, draft: Draft) -> None:
        assert draft.products[0].path == tmp_path / "out" / job.source.name
        if job.source.name == "0":
            raise ClashError("stands in the way")

    first, second = engine.run(Acting(), jobs(tmp_path, "copy", "copy"), refuse)
    assert first.failure is not None and first.failure.kind == "ClashError" and first.draft is None
    assert second.failure is None and set(samples.contents(tmp_path / "out")) == {"1"}


@pytest.mark.parametrize("unfit", ["the marker cannot be loaded: no weights", "die"])
def test_a_task_that_cannot_be_done_is_said_once(tmp_path: Path, unfit: str) -> None:
    with pytest.raises(UnfitError, match="ended with status 3 before" if unfit == "die" else unfit):
        list(ProcessEngine(2).run(Acting(unfit), jobs(tmp_path, "copy", "copy"), admit))
    if unfit != "die":
        with pytest.raises(UnfitError, match=unfit):
            list(SerialEngine().run(Acting(unfit), iter([Job(tmp_path / "0", tmp_path)]), admit))


def test_a_process_that_is_killed_at_its_start_is_replaced(tmp_path: Path) -> None:
    """As often as three times; then the job ends, with the reason."""
    for often in (2, 9):
        (tmp_path / f"{often}").mkdir()
        work = ProcessEngine(1).run(Acting(f"killed {often} {tmp_path}"), jobs(tmp_path / f"{often}", "copy"), admit)
        if often == 2:
            assert [outcome.failure for outcome in work] == [None]
            assert len(list(tmp_path.glob("*.killed"))) == 2
        else:
            with pytest.raises(UnfitError, match=r"was killed \(SIGKILL\), perhaps for lack of memory before it could"):
                list(work)
            assert len(list(tmp_path.glob("*.killed"))) == 2 + 3


@pytest.mark.parametrize("engine", [ProcessEngine(1), SerialEngine()])
def test_networks_that_cannot_be_loaded_for_a_file_end_the_job(tmp_path: Path, engine: Engine) -> None:
    with pytest.raises(UnfitError, match="no weights"):
        list(engine.run(Acting(), jobs(tmp_path, "copy", "unfit", "copy"), admit))
    assert set(samples.contents(tmp_path / "out")) == {"0"}


@pytest.mark.parametrize("engine", [ProcessEngine(2, seconds=1.0), SerialEngine(1.0)])
def test_a_file_that_takes_too_long_is_given_up_and_the_others_go_on(tmp_path: Path, engine: Engine) -> None:
    start = time.monotonic()
    outcomes = run(engine, Acting(), jobs(tmp_path, "copy", "spin", "copy", "wait", "copy"))
    kinds = {name: o.failure and o.failure.kind for name, o in outcomes.items()}
    assert kinds == {"0": None, "1": TOO_SLOW, "2": None, "3": TOO_SLOW, "4": None}
    late = outcomes["1"].failure
    assert late is not None and late.path == tmp_path / "1" and late.reason == "given up: not done within 1 seconds"
    assert {"0", "2", "4"} <= set(samples.contents(tmp_path / "out")) and time.monotonic() - start < 45
    if isinstance(engine, ProcessEngine):
        assert not any(alive(pid) for pid in wait_for(tmp_path / "out", 1))
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_a_server_can_work_on_one_file_within_a_time(tmp_path: Path) -> None:
    first, second = jobs(tmp_path, "copy", "wait")
    assert run_alone(Acting(), first, 30).failure is None
    failure = run_alone(Acting(), second, 1).failure
    assert failure is not None and failure.kind == TOO_SLOW
    assert not any(alive(pid) for pid in wait_for(tmp_path / "out", 1))


def test_breaking_off_ends_all_processes_soon(tmp_path: Path) -> None:
    with closing(ProcessEngine(2).run(Acting(), jobs(tmp_path, "copy", "wait", "wait"), admit)) as outcomes:
        assert next(outcomes).failure is None
        waiting = wait_for(tmp_path / "out", 2)
        start = time.monotonic()
    assert time.monotonic() - start < 10
    assert not any(alive(pid) for pid in waiting)


DRIVER = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[2:3]
from test_engines import Acting
from monai_miadmark import batch, cli
from monai_miadmark.engines import ProcessEngine
if __name__ == "__main__":
    folder = Path(sys.argv[1])
    with cli.environment(False):
        batch.run_jobs(batch.plan([folder / "in"], folder / "out", lambda p: p.name), Acting(), ProcessEngine(2))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_process_outlives_the_first(tmp_path: Path, number: signal.Signals) -> None:
    """Even ``kill -9`` of the first one ends the others, and frees the folder."""
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        (tmp_path / "in" / name).write_text("wait")
    (tmp_path / "driver.py").write_text(DRIVER)
    command = [sys.executable, str(tmp_path / "driver.py"), str(tmp_path), str(Path(__file__).parent)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, preexec_fn=heed_interrupts) as process:
        try:
            waiting = wait_for(tmp_path / "out", 2)
            with pytest.raises(LockedError, match=f"process {process.pid}"), FolderLock(tmp_path / "out", "remove"):
                pass
        finally:
            process.send_signal(number)
        process.wait(10)
    with FolderLock(tmp_path / "out", "remove"):
        assert not any(alive(pid) for pid in waiting)


def wait_for(folder: Path, count: int) -> list[int]:
    """Process ids of those that wait."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = [path.read_text() for path in folder.glob("*.waiting")]
        if len(found) == count and all(found):
            return [int(pid) for pid in found]
        time.sleep(0.05)
    raise TimeoutError("nobody waits")


def alive(pid: int) -> bool:
    """Whether a process runs (and is no zombie)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_real_files_in_two_processes(tmp_path: Path, keys: Path) -> None:
    """All four verbs; a passphrase is one recipient, whoever used it."""
    made = samples.tree(tmp_path / "in")
    engine = ProcessEngine(2)
    protect = ProtectTask(
        recipients=(keys / "alice.pub",),
        options=ProtectOptions(preset="fast"),
        passphrase="correct horse",
        salt=bytes(range(16)),
        load=load_marker,
    )
    assert "correct horse" not in repr(protect)
    assert good(run_jobs(plan([tmp_path / "in"], tmp_path / "p", files.protected_name), protect, engine)) == 5
    images = [path for path in (tmp_path / "p").rglob("*.*") if path.name != MANIFEST_NAME]
    assert len({files.inspect_file(path).recipients for path in images}) == 1
    assert b"correct horse" not in (tmp_path / "p" / MANIFEST_NAME).read_bytes()

    alice, bob = KeyFile(keys / "alice.key"), KeyFile(keys / "bob.key")
    grant = ResealTask(identities=(bob, alice), verb="grant", recipients=(keys / "bob.pub",))
    assert good(run_jobs(plan([tmp_path / "p"], tmp_path / "g", lambda path: path.name), grant, engine)) == 5
    key_id = dict(files.inspect_file(images[0]).recipients)["passphrase"]
    revoke = ResealTask(
        identities=(alice,), verb="revoke", recipients=(keys / "alice.pub",), key_ids=(bytes.fromhex(key_id),)
    )
    assert good(run_jobs(plan([tmp_path / "g"], tmp_path / "v", lambda path: path.name), revoke, engine)) == 5
    for folder, task in (
        ("p", RemoveTask(passphrase="correct horse")),
        ("v", RemoveTask(identities=(bob,))),
    ):
        out = tmp_path / f"r-{folder}"
        assert good(run_jobs(plan([tmp_path / folder], out, lambda path: None), task, engine)) == 5
        restored = {n: d for n, d in samples.contents(out).items() if n != MANIFEST_NAME}
        assert {n: samples.plain(n, d) for n, d in restored.items()} == {
            n: samples.plain(n, d) for n, d in made.items()
        }
    refused = run_jobs(
        plan([tmp_path / "v"], tmp_path / "r", lambda path: None), RemoveTask(identities=(alice,)), engine
    )
    assert [failure.kind for failure in refused.failures] == ["WrongKeyError"] * 5


def good(report: Report) -> int:
    """Files that were done, if all were."""
    assert not report.failures, report.failures
    return len(report.done)

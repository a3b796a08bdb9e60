# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Folders of images come from others: what lies in the current one is never imported, and children hear no secret."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import pydicom.data
import pytest
import samples

import monai_miadmark
from monai_miadmark.children import PASSPHRASE_ENV, ChildProcess, child_environment, interrupts_later
from monai_miadmark.entry import forget_current_folder

HOSTILE = (
    *("multiprocessing", "json", "struct", "subprocess", "pickle", "random", "sitecustomize", "usercustomize"),
    *("numpy", "torch", "monai", "ray", "gdcm", "pydicom", "PIL", "zstandard", "cryptography", "monai_miadmark"),
)
SCRIPT = "import sys\nfrom monai_miadmark.cli import main\nsys.exit(main())\n"
STEAL = f"""
import os
with open("stolen", "a") as file:
    print(__name__, os.environ.get({PASSPHRASE_ENV!r}), file=file)
raise ImportError("not the module that was meant")
"""


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder with images and modules, as somebody shared it."""
    folder = tmp_path / "shared"
    folder.mkdir()
    for name in HOSTILE:
        (folder / f"{name}.py").write_text(STEAL)
    for number in range(2):
        (folder / f"{number}.png").write_bytes(samples.png(number))
    return folder


def miadmark(folder: Path, *arguments: str, passphrase: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder, as the console script that ``pip`` writes does: from a file elsewhere."""
    script = folder.parent / "bin" / "miadmark"
    script.parent.mkdir(exist_ok=True)
    script.write_text(SCRIPT)
    environment = child_environment({"PYTHONPATH": str(Path(monai_miadmark.__file__).parents[1])})
    if passphrase is not None:
        environment[PASSPHRASE_ENV] = passphrase
    command = [sys.executable, str(script), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)
    stolen = folder / "stolen"
    assert not stolen.exists(), f"{arguments[0]} imported {stolen.read_text()}"
    return done


def test_no_command_runs_modules_of_the_current_folder(hostile: Path, keys: Path) -> None:
    """All verbs that work on files, with two processes each where there can be several."""
    alice, bob = (str(keys / f"{name}.pub") for name in ("alice", "bob"))
    identity = ("-i", str(keys / "alice.key"))
    commands: tuple[tuple[str, ...], ...] = (
        ("keygen", "own", "--passphrase"),
        ("protect", "0.png", "1.png", "-o", "p", "-r", alice, "--preset", "fast", "--jobs", "2"),
        ("inspect", "p/0.png"),
        ("verify", "p/0.png"),
        ("grant", "p", "-o", "g", "-r", bob, *identity, "--jobs", "2"),
        ("revoke", "g", "-o", "v", "-r", bob, *identity, "--jobs", "2"),
        ("remove", "v", "-o", "r", *identity, "--jobs", "2"),
        ("--help",),
    )
    for command in commands:
        done = miadmark(hostile, *command, passphrase="correct horse battery staple")
        assert done.returncode == 0, (command, done.stderr)
    for number in range(2):
        assert (hostile / "r" / f"{number}.png").read_bytes() == samples.png(number)


def test_lossless_jpeg_is_decoded_by_no_module_of_the_current_folder(hostile: Path, keys: Path) -> None:
    pytest.importorskip("gdcm", reason="GDCM is not installed")
    path = pydicom.data.get_testdata_file("JPGExtended.dcm", download=False)
    assert isinstance(path, str)
    done = miadmark(hostile, "preview", path, "-o", "preview.png", "--preset", "fast")
    assert done.returncode == 0 and (hostile / "preview.png").is_file(), done.stderr


def test_ray_imports_nothing_from_the_current_folder(hostile: Path, keys: Path, tmp_path: Path) -> None:
    """Ray would have its workers import from the driver's current folder before anything else."""
    pytest.importorskip("ray", reason="Ray is not installed")
    done = miadmark(hostile, "protect", "0.png", "-o", "p", "-r", str(keys / "alice.pub"), "--preset", "fast")
    assert done.returncode == 0, done.stderr
    command = ("remove", "p", "-o", "r", "-i", str(keys / "alice.key"), "--engine", "ray", "--jobs", "1")
    done = miadmark(hostile, *command, passphrase="correct horse battery staple")
    assert done.returncode == 0, done.stderr
    assert (hostile / "r" / "0.png").read_bytes() == samples.png(0)


def told(pipe: Connection, *names: str) -> None:
    """What a child sees of environment and path."""
    pipe.send(({name: os.environ.get(name) for name in names}, sys.path, sys.flags.isolated))


def test_a_child_gets_the_path_and_no_passphrase(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(PASSPHRASE_ENV, "correct horse battery staple")
    monkeypatch.setenv("MIADMARK_TEST", "kept")
    monkeypatch.setattr(sys, "path", ["", "relative", *sys.path])
    child = ChildProcess(told, (PASSPHRASE_ENV, "MIADMARK_TEST", "MIADMARK_MORE"), environment={"MIADMARK_MORE": "1"})
    environment, path, isolated = child.connection.recv()
    child.join()
    assert environment == {PASSPHRASE_ENV: None, "MIADMARK_TEST": "kept", "MIADMARK_MORE": "1"}
    assert path == [place for place in sys.path if os.path.isabs(place)] and isolated == 1
    assert child.exitcode == 0 and not child.is_alive()


def wait(pipe: Connection) -> None:
    """Never end by itself."""
    pipe.send(os.getpid())
    time.sleep(600)


def test_a_child_ends_with_its_parent(tmp_path: Path) -> None:
    """A parent that is killed cannot tell anybody."""
    code = f"""
import os, signal, sys
sys.path[:] = {sys.path!r}
from test_children import wait
from monai_miadmark.children import ChildProcess
child = ChildProcess(wait)
print(child.connection.recv(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    place = Path(f"/proc/{int(done.stdout)}/stat")
    deadline = time.monotonic() + 10
    while place.exists() and place.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline, "the child lives on"
        time.sleep(0.05)


def read_kept(pipe: Connection, descriptor: int) -> None:
    """Tell what stands in a file that is open here."""
    pipe.send(os.read(descriptor, 100))


def test_descriptors_are_kept_under_their_numbers(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    with open(tmp_path / "file", "rb") as stream:
        child = ChildProcess(read_kept, (stream.fileno(),), keep=[stream.fileno()])
        assert child.connection.recv() == b"content"
        child.join()


@pytest.mark.parametrize("first", [[""], ["here"]])
def test_python_m_forgets_the_current_folder(
    first: Sequence[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    place = str(tmp_path) if first == ["here"] else ""
    monkeypatch.setattr(sys, "path", [place, "/elsewhere"])
    forget_current_folder()
    assert sys.path == ["/elsewhere"]
    forget_current_folder()
    assert sys.path == ["/elsewhere"]
    monkeypatch.chdir(Path(monai_miadmark.__file__).parents[1])
    monkeypatch.setattr(sys, "path", [os.getcwd()])
    forget_current_folder()
    assert sys.path == [os.getcwd()]


def test_an_interrupt_counts_when_imports_are_over() -> None:
    """PyTorch's C++ loses one that comes while it is imported, or aborts."""
    reached = []
    with pytest.raises(KeyboardInterrupt):
        with interrupts_later():
            signal.raise_signal(signal.SIGINT)
            reached.append(1)
        reached.append(2)
    assert reached == [1] and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with interrupts_later():
        pass

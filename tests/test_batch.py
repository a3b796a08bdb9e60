# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Folders: what is found, where it goes, what is refused, and that one failure does not stop the rest."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import samples
from doubles import NoiseMarker

from monai_miadmark import batch, files
from monai_miadmark.batch import BatchError, Failure, Job, Plan, plan, run_jobs
from monai_miadmark.errors import TamperedError
from monai_miadmark.keys import generate_identity
from monai_miadmark.options import ProtectOptions


def same(path: Path) -> str:
    """Results keep their names."""
    return path.name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """``in`` with three small files in two folders."""
    root = tmp_path / "in"
    for name in ("b.txt", "a.txt", "sub/c.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def found(planned: Plan, root: Path) -> list[str]:
    """Sources below a folder."""
    return [job.source.relative_to(root).as_posix() for job in planned.jobs]


class TestPlan:
    def test_walks_in_order_and_mirrors_the_tree(self, folder: Path, tmp_path: Path) -> None:
        planned = plan([folder], tmp_path / "out", same)
        assert found(planned, folder) == ["a.txt", "b.txt", "sub/c.txt"]
        assert [job.folder for job in planned.jobs] == [tmp_path / "out"] * 2 + [tmp_path / "out" / "sub"]
        assert planned.failures == ()
        assert not (tmp_path / "out").exists()

    def test_files_go_straight_to_the_output(self, folder: Path, tmp_path: Path) -> None:
        planned = plan([folder / "sub" / "c.txt", folder / "a.txt"], tmp_path / "out", same)
        assert planned.jobs == (
            Job(folder / "sub" / "c.txt", tmp_path / "out"),
            Job(folder / "a.txt", tmp_path / "out"),
        )

    def test_what_is_not_there_is_a_failure(self, folder: Path, tmp_path: Path) -> None:
        planned = plan([folder / "absent", folder / "a.txt"], tmp_path / "out", same)
        assert found(planned, folder) == ["a.txt"]
        assert [failure.reason for failure in planned.failures] == ["no such file"]

    def test_sources_that_meet_are_refused_by_name(self, folder: Path, tmp_path: Path) -> None:
        other = tmp_path / "other"
        shutil.copytree(folder, other)
        with pytest.raises(BatchError, match=r"in/a\.txt and .*other/a\.txt would both become .*out/a\.txt"):
            plan([folder, other], tmp_path / "out", same)
        with pytest.raises(BatchError, match=r"both become .*out/x\.png"):
            plan([folder], tmp_path / "out", lambda path: "x.png")

    def test_the_same_source_twice_is_one(self, folder: Path, tmp_path: Path) -> None:
        assert len(plan([folder, folder], tmp_path / "out", same).jobs) == 3

    def test_input_is_not_output(self, folder: Path, tmp_path: Path) -> None:
        with pytest.raises(BatchError, match="is the input folder"):
            plan([folder], folder, same)
        with pytest.raises(BatchError, match="which is the input"):
            plan([folder / "a.txt"], folder, same)
        (tmp_path / "link").symlink_to(folder)
        with pytest.raises(BatchError, match="is the input folder"):
            plan([folder], tmp_path / "link", same)
        with pytest.raises(BatchError, match="is a file"):
            plan([folder], folder / "a.txt", same)

    def test_an_output_of_one_source_is_not_another(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub" / "c.txt").write_text("above")
        with pytest.raises(BatchError, match="which is the input"):
            plan([folder, tmp_path / "sub"], tmp_path, same)

    def test_the_output_inside_the_input_is_left_out(self, folder: Path) -> None:
        (folder / "out").mkdir()
        (folder / "out" / "old.txt").write_text("earlier result")
        assert found(plan([folder], folder / "out", same), folder) == ["a.txt", "b.txt", "sub/c.txt"]

    def test_sidecars_and_leftovers_are_no_sources(self, folder: Path, tmp_path: Path) -> None:
        for name in ("a.txt.miadmark", "orphan.miadmark", ".0123.miadmark-tmp"):
            (folder / name).write_bytes(b"MIADMARK")
        planned = plan([folder], tmp_path / "out", same)
        assert found(planned, folder) == ["a.txt", "b.txt", "orphan.miadmark", "sub/c.txt"]

    def test_links_are_not_followed_out_of_the_tree(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "secret.txt").write_text("outside")
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "deep.txt").write_text("outside")
        (folder / "out of it").symlink_to(tmp_path / "secret.txt")
        (folder / "folder").symlink_to(tmp_path / "elsewhere")
        (folder / "circle").symlink_to(folder)
        (folder / "broken").symlink_to(folder / "absent")
        (folder / "inside").symlink_to(folder / "sub" / "c.txt")
        planned = plan([folder], tmp_path / "out", same)
        assert found(planned, folder) == ["a.txt", "b.txt", "inside", "sub/c.txt"]
        reasons = {failure.path.name: failure.reason for failure in planned.failures}
        assert reasons == {
            "out of it": "a link that leads out of the folder is not followed",
            "folder": "a link to a folder is not followed",
            "circle": "a link to a folder is not followed",
            "broken": "a broken link",
        }

    def test_a_named_pipe_is_named(self, folder: Path, tmp_path: Path) -> None:
        os.mkfifo(folder / "pipe")
        (failure,) = plan([folder], tmp_path / "out", same).failures
        assert failure.reason == "not a regular file"


class TestRun:
    def test_failures_do_not_stop_the_rest(self, folder: Path, tmp_path: Path) -> None:
        told: list[str] = []

        def work(job: Job) -> Path:
            if job.source.name == "b.txt":
                raise TamperedError("changed")
            if job.source.name == "a.txt":
                raise KeyError("PatientName^Secret")
            return job.folder / job.source.name

        planned = plan([folder, folder / "absent"], tmp_path / "out", same)
        report = run_jobs(planned, work, failed=lambda failure: told.append(failure.reason))
        assert [source.name for source, _ in report.done] == ["c.txt"]
        assert told == ["no such file", "unexpected KeyError (--verbose shows where)", "TamperedError: changed"]
        assert [failure.reason for failure in report.failures] == told
        assert report.seconds >= 0

    def test_interrupts_get_through(self, folder: Path, tmp_path: Path) -> None:
        def work(job: Job) -> Path:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_jobs(plan([folder], tmp_path / "out", same), work)

    def test_reasons_are_one_line_for_a_person(self, tmp_path: Path) -> None:
        path = tmp_path / "a"
        assert Failure(path, PermissionError(13, "Permission denied", str(path))).reason == "Permission denied"
        assert Failure(path, FileExistsError(17, "exists", str(tmp_path / "b"))).reason == f"exists: {tmp_path / 'b'}"
        assert Failure(path, MemoryError()).reason == "not enough memory"
        assert Failure(path, ValueError("a mask")).reason == "a mask"


def test_a_folder_of_every_format_comes_back(tmp_path: Path) -> None:
    alice = generate_identity("x25519")
    made = samples.tree(tmp_path / "in")
    (tmp_path / "in" / "empty.dcm").touch()
    (tmp_path / "in" / "head" / "notes.txt").write_text("no image")

    planned = plan([tmp_path / "in"], tmp_path / "p", files.protected_name)
    report = batch.run_jobs(
        planned,
        lambda job: files.protect_file(job.source, job.folder, [alice.recipient], NoiseMarker(), ProtectOptions()),
    )
    assert sorted(failure.path.name for failure in report.failures) == ["empty.dcm", "notes.txt"]
    assert all(failure.reason.startswith("UnsupportedImageError: ") for failure in report.failures)
    names = {name.replace(".jpg", ".png") for name in made}
    assert set(samples.contents(tmp_path / "p")) == names

    planned = plan([tmp_path / "p"], tmp_path / "r", lambda path: files.restored_name(path, [alice]))
    report = batch.run_jobs(planned, lambda job: files.remove_file(job.source, job.folder, [alice]))
    assert not report.failures
    restored = samples.contents(tmp_path / "r")
    assert {n: samples.plain(n, d) for n, d in restored.items()} == {n: samples.plain(n, d) for n, d in made.items()}


def test_restored_names_that_meet_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    alice = generate_identity("x25519")
    (tmp_path / "photo.jpg").write_bytes(samples.jpeg())
    protected = files.protect_file(
        tmp_path / "photo.jpg", tmp_path / "p", [alice.recipient], NoiseMarker(), ProtectOptions()
    )
    shutil.copy(protected, protected.with_name("copy.png"))
    with pytest.raises(BatchError, match=r"copy\.png and .*photo\.png would both become .*photo\.jpg"):
        plan([tmp_path / "p"], tmp_path / "r", lambda path: files.restored_name(path, [alice]))

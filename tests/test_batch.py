# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Folders: what is found, where it goes, what is refused, and that one failure does not stop the rest."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import manifests
import pytest
import samples
from doubles import load_marker

from monai_miadmark import files
from monai_miadmark.batch import BatchError, Filters, Plan, Report, plan, run_jobs
from monai_miadmark.engines import SerialEngine
from monai_miadmark.errors import TamperedError
from monai_miadmark.files import Made, Output, Stamp, stamp_file
from monai_miadmark.locking import LOCK_NAME
from monai_miadmark.manifest import MANIFEST_NAME, Manifest, ManifestError
from monai_miadmark.options import ProtectOptions
from monai_miadmark.tasks import Failure, Job, KeyFile, ProtectTask, RemoveTask


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

    def test_several_folders_keep_their_names(self, folder: Path, tmp_path: Path) -> None:
        for other in (tmp_path / "other", tmp_path / "deep" / "in"):
            shutil.copytree(folder, other)
        out = tmp_path / "out"
        planned = plan([folder, tmp_path / "other", tmp_path / "deep" / "in"], out, same)
        assert planned.failures == () and len(planned.jobs) == 9
        assert {job.folder.relative_to(out).as_posix() for job in planned.jobs} == {
            *("in", "in/sub", "other", "other/sub", "in-2", "in-2/sub")
        }
        (notice,) = planned.notices
        assert "another folder is called in too" in notice

    def test_files_of_one_name_get_folders_of_their_own(self, folder: Path, tmp_path: Path) -> None:
        """Also where only work on the files will tell the names of their results."""
        for name in ("b", "deep/b"):
            (tmp_path / name).mkdir(parents=True)
            shutil.copy(folder / "a.txt", tmp_path / name)
        sources = [folder / "a.txt", tmp_path / "b" / "a.txt", tmp_path / "deep" / "b" / "a.txt"]
        planned = plan(sources, tmp_path / "out", lambda path: None)
        assert planned.failures == () and len(planned.notices) == 2
        assert [job.folder.relative_to(tmp_path).as_posix() for job in planned.jobs] == ["out", "out/b", "out/b-2"]

    def test_results_of_one_name_get_names_of_their_own(self, tmp_path: Path) -> None:
        """What keeps its name has it, whatever comes first; the others say what they were."""
        (tmp_path / "in").mkdir()
        for name in ("x.jpeg", "x.jpg", "x.jpg.png", "x.png", "y.jpg"):
            (tmp_path / "in" / name).write_text(name)
        planned = plan([tmp_path / "in"], tmp_path / "out", lambda path: f"{path.stem}.png")
        assert {job.source.name: job.name for job in planned.jobs} == {
            "x.jpeg": "x.jpeg.png",
            "x.jpg": "x.jpg-2.png",
            "x.jpg.png": None,
            "x.png": None,
            "y.jpg": None,
        }
        assert planned.failures == () and len(planned.notices) == 2
        assert "x.png is what" in planned.notices[0]

    def test_a_shared_instance_is_told_and_stops_nobody(self, tmp_path: Path) -> None:
        """Copies, and other images with the same SOP Instance UID, a truncated one first."""
        data = samples.ct()
        for name, content in (("a.dcm", data[:2000]), ("b/copy.dcm", data), ("b/ct.dcm", data), ("c.dcm", b"x")):
            (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "in" / name).write_bytes(content)
        assert plan([tmp_path / "in"], tmp_path / "out", same).notices == ()
        planned = plan([tmp_path / "in"], tmp_path / "out", same, unique_instances=True)
        assert len(planned.jobs) == 4 and planned.failures == ()
        (notice,) = planned.notices
        assert "copy.dcm" in notice and "ct.dcm" in notice and "not the same as" in notice
        planned = plan([tmp_path / "in" / "b"], tmp_path / "out", same, unique_instances=True)
        (notice,) = planned.notices
        assert "ct.dcm: the same as" in notice and "each copy is protected" in notice

    def test_filters_and_what_file_managers_leave(self, folder: Path, tmp_path: Path) -> None:
        (folder / ".DS_Store").write_bytes(b"Bud1")
        (folder / "._a.txt").write_bytes(b"\x00\x05\x16\x07 attributes")
        (folder / "._real").write_bytes(b"an image whose name begins so")
        (folder / "in.miadmark-job").mkdir()
        (folder / "in.miadmark-job" / "x").touch()
        planned = plan([folder], tmp_path / "out", same)
        assert found(planned, folder) == ["._real", "a.txt", "b.txt", "sub/c.txt"]
        assert [path.name for path in planned.skipped] == [".DS_Store", "._a.txt"]
        for filters, expected in (
            (Filters(include=("[ab].txt",)), ["a.txt", "b.txt"]),
            (Filters(include=("sub/*", "b.*")), ["b.txt", "sub/c.txt"]),
            (Filters(exclude=("sub/**", "._*")), ["a.txt", "b.txt"]),
        ):
            assert found(plan([folder], tmp_path / "out", same, filters=filters), folder) == expected
        assert len(plan([folder / "a.txt"], tmp_path / "out", same, filters=Filters(("*.dcm",))).jobs) == 1

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
        for name in ("a.txt.miadmark", "orphan.miadmark", ".0123.miadmark-tmp", MANIFEST_NAME, LOCK_NAME):
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


class Copies:
    """Copies files; those named in ``faults`` raise instead. Needs no keys."""

    verb = "copy"

    def __init__(self, faults: Mapping[str, BaseException] | None = None, option: int = 0) -> None:
        self.faults, self.option = faults or {}, option
        self.worked: list[str] = []
        self.overwrite = False

    def settings(self) -> dict[str, Any]:
        return {"option": self.option}

    def continued(self, done: Path) -> Copies:
        assert done.is_file()
        return self

    def prepare(self) -> Callable[[Job], Made]:
        return self._work

    def _work(self, job: Job) -> Made:
        if job.source.name in self.faults:
            raise self.faults[job.source.name]
        self.worked.append(job.source.name)
        data = job.source.read_bytes()
        output = Output(job.folder / job.source.name, data + b" done")
        return Made(stamp_file(job.source), (output,), 0o644, self.overwrite, None)


def lines(out: Path, kind: str = "file") -> list[dict[str, Any]]:
    """Lines of a manifest of one kind."""
    found = [json.loads(line) for line in (out / MANIFEST_NAME).read_text().splitlines()]
    return [line for line in found if line["kind"] == kind]


class TestRun:
    def run(self: Any, folder: Path, task: Copies, **more: Any) -> Report:
        planned = plan([folder], folder.parent / "out", same)
        return run_jobs(planned, task, SerialEngine(), **more)

    def test_failures_do_not_stop_the_rest(self, folder: Path, tmp_path: Path) -> None:
        told: list[str] = []
        task = Copies({"b.txt": TamperedError("changed"), "a.txt": KeyError("PatientName^Secret")})
        planned = plan([folder, folder / "absent"], tmp_path / "out", same)
        report = run_jobs(planned, task, SerialEngine(), failed=lambda failure: told.append(failure.reason))
        assert [source.name for source, _ in report.done] == ["c.txt"]
        assert told == ["no such file", "unexpected KeyError (--verbose shows where)", "TamperedError: changed"]
        assert [failure.reason for failure in report.failures] == told
        assert report.seconds >= 0
        noted = {line["source"]: line for line in lines(tmp_path / "out")}
        assert noted["a.txt"]["reason"] == {"class": "KeyError", "message": None}
        assert noted["b.txt"]["reason"] == {"class": "TamperedError", "message": "TamperedError: changed"}
        assert "Secret" not in (tmp_path / "out" / MANIFEST_NAME).read_text()

    def test_interrupts_get_through(self, folder: Path) -> None:
        report = Report()
        with pytest.raises(KeyboardInterrupt):
            self.run(folder, Copies({"b.txt": KeyboardInterrupt()}), report=report)
        assert [source.name for source, _ in report.done] == ["a.txt"]
        assert not (folder.parent / "out" / LOCK_NAME).exists()

    def test_reasons_are_one_line_for_a_person(self, tmp_path: Path) -> None:
        path = tmp_path / "a"
        assert Failure.of(path, PermissionError(13, "Permission denied", str(path))).reason == "Permission denied"
        exists = FileExistsError(17, "exists", str(tmp_path / "b"))
        assert Failure.of(path, exists).reason == f"exists: {tmp_path / 'b'}"
        assert Failure.of(path, MemoryError()).reason == "not enough memory"
        assert Failure.of(path, ValueError("a mask")).reason == "a mask"

    def test_nothing_to_do_leaves_nothing(self, tmp_path: Path) -> None:
        report = run_jobs(plan([tmp_path / "absent"], tmp_path / "out", same), Copies(), SerialEngine())
        assert len(report.failures) == 1 and not (tmp_path / "out").exists()

    def test_an_unreadable_file_is_named(self, folder: Path) -> None:
        error = PermissionError(13, "Permission denied", str(folder / "a.txt"))
        report = self.run(folder, Copies({"a.txt": error}))
        assert [failure.reason for failure in report.failures] == ["Permission denied"]
        assert len(report.done) == 2


class TestResume:
    run = TestRun.run

    def test_what_is_done_is_left(self, folder: Path) -> None:
        first = Copies({"b.txt": KeyboardInterrupt()})
        with pytest.raises(KeyboardInterrupt):
            self.run(folder, first)
        second = Copies()
        report = self.run(folder, second, resume=True)
        assert second.worked == ["b.txt", "c.txt"]
        assert [source.name for source, _ in report.kept] == ["a.txt"] and not report.failures
        third = Copies()
        assert len(self.run(folder, third, resume=True, verify=True).kept) == 3 and third.worked == []

    def test_failures_are_tried_again(self, folder: Path) -> None:
        self.run(folder, Copies({"b.txt": TamperedError("changed")}))
        again = Copies()
        self.run(folder, again, resume=True)
        assert again.worked == ["b.txt"]

    def test_a_run_without_resume_does_not_spoil_it(self, folder: Path) -> None:
        self.run(folder, Copies())
        assert len(self.run(folder, Copies()).failures) == 3  # the outputs exist
        assert len(self.run(folder, Copies(), resume=True).kept) == 3

    def test_changed_sources_and_lost_outputs_are_done_again(self, folder: Path) -> None:
        self.run(folder, Copies())
        out = folder.parent / "out"
        (folder / "a.txt").write_text("other")
        (out / "a.txt").unlink()
        (out / "b.txt").unlink()
        again = Copies()
        report = self.run(folder, again, resume=True)
        assert again.worked == ["a.txt", "b.txt"] and len(report.kept) == 1
        assert (out / "a.txt").read_text() == "other done"

    def test_changed_outputs_are_not_touched(self, folder: Path) -> None:
        self.run(folder, Copies())
        edited = folder.parent / "out" / "a.txt"
        edited.write_text("edited by hand")
        report = self.run(folder, Copies(), resume=True)
        assert [failure.path.name for failure in report.failures] == ["a.txt"]
        assert edited.read_text() == "edited by hand"

    def test_time_alone_does_not_matter(self, folder: Path) -> None:
        """A copied folder has other times; digests decide then."""
        self.run(folder, Copies())
        for path in (folder / "a.txt", folder.parent / "out" / "b.txt"):
            os.utime(path, (1, 1))
        assert len(self.run(folder, Copies(), resume=True).kept) == 3

    def test_only_verify_sees_a_change_that_hides(self, folder: Path) -> None:
        self.run(folder, Copies())
        path = folder.parent / "out" / "a.txt"
        before = path.stat()
        path.write_bytes(path.read_bytes()[::-1])
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert len(self.run(folder, Copies(), resume=True).kept) == 3
        assert len(self.run(folder, Copies(), resume=True, verify=True).failures) == 1

    def test_other_options_are_refused(self, folder: Path) -> None:
        self.run(folder, Copies(option=1))
        with pytest.raises(ManifestError, match=r"other options \(option\)"):
            self.run(folder, Copies(option=2), resume=True)
        other = Copies(option=1)
        other.verb = "move"
        with pytest.raises(ManifestError, match="is copy, not move"):
            self.run(folder, other, resume=True)

    @pytest.mark.parametrize("source_changes", [False, True])
    def test_an_output_without_its_line_is_adopted(self, folder: Path, source_changes: bool) -> None:
        """Killed after the output has its name and before the manifest has its line."""
        self.run(folder, Copies())
        out = folder.parent / "out"
        text = (out / MANIFEST_NAME).read_text().splitlines(keepends=True)
        assert json.loads(text.pop())["status"] == "done"
        (out / MANIFEST_NAME).write_text("".join(text))
        if source_changes:
            (folder / "sub" / "c.txt").write_text("other")
        again = Copies()
        report = self.run(folder, again, resume=True)
        if source_changes:  # the output is no longer that of its source: it is left, and named
            assert [failure.path.name for failure in report.failures] == ["c.txt"]
            assert (out / "sub" / "c.txt").read_text() == "sub/c.txt done"
        else:
            assert len(report.kept) == 3 and again.worked == []
            assert lines(out)[-1]["adopted"] is True

    def test_an_output_of_an_earlier_intent_is_adopted(self, folder: Path) -> None:
        """A worker that was given up wrote what it was about to, after another had been asked to do the file."""
        self.run(folder, Copies())
        out = folder.parent / "out"
        *text, done = (out / MANIFEST_NAME).read_text().splitlines(keepends=True)
        later = json.loads(text[-1])
        assert later["kind"] == "intent" and json.loads(done)["status"] == "done"
        later["outputs"][0]["sha256"] = hashlib.sha256(b"another mark").hexdigest()
        manifests.rewrite(out / MANIFEST_NAME, [*map(json.loads, text), later])
        again = Copies()
        report = self.run(folder, again, resume=True)
        assert len(report.kept) == 3 and again.worked == [] and lines(out)[-1]["adopted"] is True

    def test_half_of_a_pair_is_made_anew(self, folder: Path) -> None:
        """Killed between the sidecar and its image."""
        out = folder.parent / "out"

        class Pairs(Copies):
            def _work(self, job: Job) -> Made:
                made = super()._work(job)
                sidecar = Output(made.path.with_name(made.path.name + ".miadmark"), b"record")
                return Made(made.source, (sidecar, *made.outputs), 0o644, False, None)

        self.run(folder, Pairs())
        text = (out / MANIFEST_NAME).read_text().splitlines(keepends=True)
        (out / MANIFEST_NAME).write_text("".join(text[:-1]))
        (out / "sub" / "c.txt").unlink()
        again = Pairs()
        report = self.run(folder, again, resume=True)
        assert again.worked == ["c.txt"] and not report.failures
        assert lines(out)[-1]["sidecar"]["path"] == "sub/c.txt.miadmark"

    def test_leftovers_are_taken_away(self, folder: Path) -> None:
        out = folder.parent / "out"
        (out / "sub").mkdir(parents=True)
        left = [out / ".0123456789abcdef.miadmark-tmp", out / "sub" / ".fedcba9876543210.miadmark-tmp"]
        own = out / "notes.miadmark-tmp"
        for path in (*left, own):
            path.write_bytes(b"half")
        self.run(folder, Copies())
        assert all(path.exists() for path in left)
        self.run(folder, Copies(), resume=True)
        assert not any(path.exists() for path in left) and own.exists()

    def test_a_forged_line_makes_no_original_pass_for_done(self, folder: Path) -> None:
        """Whoever can write the folder puts originals there, and lines that say they are done; also with --verify."""
        out = folder.parent / "out"
        self.run(folder, Copies())
        forged = manifests.read(out / MANIFEST_NAME)
        stolen = folder.parent / "stolen"
        stolen.mkdir()
        self.run(folder, Copies())  # fails: the outputs exist
        for name in ("a.txt", "b.txt", "sub/c.txt"):
            (out / name).write_bytes((folder / name).read_bytes())
        for line in forged:
            if line.get("status") == "done":
                stamp = stamp_file(out / line["output"])
                line |= {"output_sha256": stamp.sha256, "output_bytes": stamp.size, "output_mtime_ns": stamp.mtime_ns}
        (out / MANIFEST_NAME).write_text("".join(json.dumps(line) + "\n" for line in forged))
        for verify in (False, True):
            report = self.run(folder, Copies(), resume=True, verify=verify)
            assert report.kept == [] and len(report.failures) == 3 and report.ignored_lines > 0

    def test_a_forged_intent_deletes_nothing(self, folder: Path) -> None:
        out = folder.parent / "out"
        elsewhere = folder.parent / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / "empty").touch()
        self.run(folder, Copies())
        os.symlink(elsewhere, out / "link")
        lines_now = manifests.read(out / MANIFEST_NAME)
        intent = next(line for line in lines_now if line["kind"] == "intent") | {"source": "a.txt"}
        intent["outputs"] = [
            {"path": "link/empty", "sha256": "ab" * 32, "bytes": 1},
            {"path": "nothing", "sha256": "ab" * 32, "bytes": 1},
        ]
        with (out / MANIFEST_NAME).open("a") as stream:
            stream.write(json.dumps(intent) + "\n")
        self.run(folder, Copies(), resume=True)
        assert (elsewhere / "empty").exists()

    def test_links_never_lead_out_of_the_folder(self, folder: Path) -> None:
        """Also where the manifest is genuine, and somebody put a link in place of a folder or a file afterwards."""
        out, elsewhere = folder.parent / "out", folder.parent / "elsewhere"
        self.run(folder, Copies())
        path = out / MANIFEST_NAME
        begun = [line for line in manifests.read(path) if line.get("source") != "sub/c.txt" or line["kind"] != "file"]
        manifests.rewrite(path, begun)  # killed after the intent
        shutil.move(out / "sub", elsewhere)
        (elsewhere / "c.txt").write_bytes(b"")  # as a name that was reserved
        (elsewhere / ".0123456789abcdef.miadmark-tmp").touch()
        os.symlink(elsewhere, out / "sub")
        report = self.run(folder, Copies(), resume=True)
        assert [(failure.path.name, failure.kind) for failure in report.failures] == [("c.txt", "ClashError")]
        assert "leads out of the output folder" in report.failures[0].reason
        assert {entry.name for entry in elsewhere.iterdir()} == {"c.txt", ".0123456789abcdef.miadmark-tmp"}
        (out / "a.txt").rename(elsewhere / "a.txt")
        os.symlink(elsewhere / "a.txt", out / "a.txt")
        assert out / "a.txt" not in [result for _, result in self.run(folder, Copies(), resume=True).kept]

    def test_results_that_meet_are_refused_before_they_are_written(self, folder: Path) -> None:
        """Names that only work on the files tells, and even if existing files are to be replaced."""

        class One(Copies):
            def _work(self, job: Job) -> Made:
                made = super()._work(job)
                return made_as(made, folder.parent / "out" / "one")

        def made_as(made: Made, path: Path) -> Made:
            return Made(made.source, (Output(path, made.outputs[0].data),), 0o644, True, None)

        planned = plan([folder], folder.parent / "out", lambda path: None)
        report = run_jobs(planned, One(), SerialEngine())
        assert [failure.kind for failure in report.failures] == ["ClashError"] * 2
        assert (folder.parent / "out" / "one").read_text() == "a.txt done"

    def test_a_manifest_that_cannot_be_written(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """No intent, no output; and an output whose line fails is adopted later."""
        append = Manifest._append

        def fail(self: Manifest, content: Mapping[str, Any]) -> None:
            if content["source"] == "a.txt" and content["kind"] == "intent":
                raise OSError(errno.ENOSPC, "No space left on device")
            if content["source"] == "b.txt" and content["kind"] == "file":
                raise OSError(errno.ENOSPC, "No space left on device")
            append(self, content)

        out = folder.parent / "out"
        with monkeypatch.context() as patch:
            patch.setattr(Manifest, "_append", fail)
            report = self.run(folder, Copies())
        assert [failure.path.name for failure in report.failures] == ["a.txt", "b.txt"]
        assert not (out / "a.txt").exists() and (out / "b.txt").exists()
        again = Copies()
        report = self.run(folder, again, resume=True)
        assert again.worked == ["a.txt"] and len(report.kept) == 2 and not report.failures


class TestFormats:
    """Real files through the whole of it."""

    def test_a_folder_of_every_format_comes_back(self, tmp_path: Path, keys: Path) -> None:
        made = samples.tree(tmp_path / "in")
        (tmp_path / "in" / "empty.dcm").touch()
        (tmp_path / "in" / "head" / "notes.txt").write_text("no image")
        planned = plan([tmp_path / "in"], tmp_path / "p", files.protected_name)
        report = run_jobs(planned, protecting(keys), SerialEngine())
        assert sorted(failure.path.name for failure in report.failures) == ["empty.dcm", "notes.txt"]
        assert all(failure.reason.startswith("UnsupportedImageError: ") for failure in report.failures)
        names = {name.replace(".jpg", ".png") for name in made}
        assert set(samples.contents(tmp_path / "p")) == {*names, MANIFEST_NAME}

        noted = {line["source"]: line for line in lines(tmp_path / "p") if line["status"] == "done"}
        assert set(noted) == set(made)
        for name, line in noted.items():
            assert line["verb"] == "protect" and line["options"]["preset"] == "fast"
            assert line["source_sha256"] == hashlib.sha256(made[name]).hexdigest()
            output = tmp_path / "p" / line["output"]
            assert Stamp(line["output_sha256"], line["output_bytes"], line["output_mtime_ns"]) == stamp_file(output)
            assert [who["kind"] for who in line["recipients"]] == ["x25519"] and line["signer"]["kind"] == "ed25519"
            assert 15 < line["quality"]["psnr"] < 60 and 0.5 < line["quality"]["ssim"] < 1 and line["changed"] > 100
        assert [line["status"] for line in lines(tmp_path / "p")].count("failed") == 2

        planned = plan([tmp_path / "p"], tmp_path / "r", lambda path: None)
        task = RemoveTask(identities=(KeyFile(keys / "alice.key"),))
        report = run_jobs(planned, task, SerialEngine())
        assert not report.failures
        restored = {n: d for n, d in samples.contents(tmp_path / "r").items() if n != MANIFEST_NAME}
        assert {n: samples.plain(n, d) for n, d in restored.items()} == {
            n: samples.plain(n, d) for n, d in made.items()
        }

    def test_restored_names_that_meet(self, tmp_path: Path, keys: Path) -> None:
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "photo.jpg").write_bytes(samples.jpeg())
        run_jobs(plan([tmp_path / "in"], tmp_path / "p", files.protected_name), protecting(keys), SerialEngine())
        shutil.copy(tmp_path / "p" / "photo.png", tmp_path / "p" / "copy.png")
        planned = plan([tmp_path / "p"], tmp_path / "r", lambda path: None)
        task = RemoveTask(identities=(KeyFile(keys / "alice.key"),), overwrite=True)
        report = run_jobs(planned, task, SerialEngine())
        (failure,) = report.failures
        assert failure.path.name == "photo.png" and "is the result of" in failure.reason
        assert (tmp_path / "r" / "photo.jpg").read_bytes() == samples.jpeg()


def test_verify_opens_what_it_verifies(keys: Path, tmp_path: Path) -> None:
    """A line that its owner wrote of a file that was none of the protected: digests fit, and it restores nothing."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(samples.png())
    task, out = protecting(keys), tmp_path / "p"
    run = lambda **more: run_jobs(plan([tmp_path / "in"], out, same), task, SerialEngine(), **more)  # noqa: E731
    assert len(run().done) == 1
    assert len(run(resume=True, verify=True).kept) == 1
    (out / "a.png").write_bytes(samples.png())
    path = out / MANIFEST_NAME
    found, stamp = manifests.read(path), stamp_file(out / "a.png")
    found[-1] |= {"output_sha256": stamp.sha256, "output_bytes": stamp.size, "output_mtime_ns": stamp.mtime_ns}
    manifests.rewrite(path, found)
    report = run(resume=True, verify=True)
    assert not report.kept and [failure.kind for failure in report.failures] == ["FileExistsError"]


def protecting(keys: Path) -> ProtectTask:
    """Protect for alice, with noise."""
    return ProtectTask(
        recipients=(keys / "alice.pub",),
        options=ProtectOptions(preset="fast"),
        signer=KeyFile(keys / "custodian.key"),
        load=load_marker,
    )

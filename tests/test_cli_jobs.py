# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Folder jobs as people run them: where things go, what is left out, what is said, to people and to programs."""

from __future__ import annotations

import json
import os
import sys
import types
from pathlib import Path

import doubles
import numpy as np
import pytest
import samples
from commands import Run, runner
from PIL import Image

from monai_miadmark.locking import FolderLock
from monai_miadmark.manifest import MANIFEST_NAME
from monai_miadmark.options import PRESETS


@pytest.fixture
def miadmark(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run the command in ``tmp_path`` with noise instead of networks; keys of alice and bob, ``in`` with two images."""
    for name in PRESETS:
        monkeypatch.setitem(PRESETS, name, doubles.BLUNT)
    run = runner(capsys, monkeypatch, tmp_path)
    for name in ("alice", "bob"):
        assert run("keygen", name, "--kem", "x25519").status == 0
    Path("in").mkdir()
    Path("in/a.png").write_bytes(samples.png())
    Path("in/b.dcm").write_bytes(samples.ct())
    return run


PROTECT = ("protect", "in", "-o", "p", "-r", "alice.pub")
REMOVE = ("remove", "p", "-o", "r", "-i", "alice.key")


class TestPlaces:
    @pytest.mark.parametrize("empty", ["", "  "])
    def test_an_empty_path_is_nobodys_folder(self, miadmark: Run, empty: str) -> None:
        for arguments in (
            ("protect", "in", "-o", empty, "-r", "alice.pub"),
            ("protect", empty, "-o", "p", "-r", "alice.pub"),
            ("protect", "in", "-o", "p", "-r", empty),
            ("protect", "in", "-o", "p", "-r", "alice.pub", "--region", empty),
            ("protect", "in", "-o", "p", "-r", "alice.pub", "--manifest", empty),
            ("inspect", empty),
            ("keygen", "k", "--dir", empty),
            ("preview", empty),
        ):
            said = miadmark(*arguments)
            assert said.status == 2 and "empty" in said.err, arguments
        assert not Path("p").exists()

    def test_originals_do_not_land_among_protected_files(self, miadmark: Run) -> None:
        assert miadmark(*PROTECT).status == 0
        Path("in/x.jpg").write_bytes(samples.jpeg())
        before = samples.contents(Path("p"))
        for arguments, text in (
            (("remove", "p/a.png", "-o", "p", "-i", "alice.key"), "among the protected files of p/a.png"),
            (("remove", "p", "-o", "p/r", "-i", "alice.key"), "among the protected files of p"),
            (("protect", "in/x.jpg", "-o", "in", "-r", "alice.pub"), "which holds the source in/x.jpg"),
            (("protect", "in", "-o", ".", "-r", "alice.pub"), "which holds the source in"),
        ):
            said = miadmark(*arguments)
            assert said.status == 2 and text in said.err and "--allow-mixed" in said.err
        assert samples.contents(Path("p")) == before and set(samples.contents(Path("in"))) == {
            "a.png",
            "b.dcm",
            "x.jpg",
        }
        assert miadmark("remove", "p", "-o", "p/r", "-i", "alice.key", "--allow-mixed").status == 0
        assert Path("p/r/a.png").read_bytes() == samples.png()

    def test_the_manifest_lies_beside_what_is_shared(self, miadmark: Run) -> None:
        said = miadmark(*PROTECT)
        assert f"manifest: p.miadmark-job/{MANIFEST_NAME}" in said.err
        assert set(samples.contents(Path("p"))) == {"a.png", "b.dcm"}
        assert set(samples.contents(Path("p.miadmark-job"))) == {MANIFEST_NAME}
        assert "2 done before" in miadmark(*PROTECT, "--resume").err
        # A folder that is read as a whole takes no manifest for an image.
        assert miadmark("protect", ".", "-o", "p/deep", "-r", "alice.pub", "--include", "*.jsonl").status == 2

    def test_it_lies_where_it_is_told_to(self, miadmark: Run) -> None:
        assert miadmark(*PROTECT, "--manifest", "notes").status == 0
        assert Path("notes", MANIFEST_NAME).is_file() and not Path("p.miadmark-job").exists()
        assert "2 done before" in miadmark(*PROTECT, "--manifest", "notes", "--resume").err
        said = miadmark("protect", "in", "-o", "q", "-r", "alice.pub", "--manifest", "notes", "--resume")
        assert said.status == 2 and "begun with other options (out)" in said.err

    def test_the_current_folder_and_closed_ones_hold_their_own(
        self, miadmark: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        Path("out").mkdir()
        monkeypatch.chdir("out")
        said = miadmark("protect", "../in", "-o", ".", "-r", "../alice.pub")
        assert f"manifest: {MANIFEST_NAME}; do not share it" in said.err
        monkeypatch.chdir(tmp_path)
        assert "2 done before" in miadmark("protect", "in", "-o", "out", "-r", "alice.pub", "--resume").err
        assert not Path("out.miadmark-job").exists()
        monkeypatch.setattr(os, "access", lambda path, mode: False)
        assert miadmark("protect", "in", "-o", "closed/deep", "-r", "alice.pub").status == 0
        assert Path("closed/deep", MANIFEST_NAME).is_file()

    @pytest.mark.parametrize("arguments", [("remove", "p", "-o", "r/deep", "-i", "bob.key"), (*PROTECT[:3], "p2/deep")])
    def test_where_nothing_was_done_nothing_is_left(
        self, miadmark: Run, arguments: tuple[str, ...], tmp_path: Path
    ) -> None:
        assert miadmark(*PROTECT).status == 0
        for path in Path("in").iterdir():
            path.write_text("no image")
        before = sorted(tmp_path.rglob("*"))
        more = ("-r", "alice.pub") if arguments[0] == "protect" else ()
        said = miadmark(*arguments, *more)
        assert said.status == 1 and "0 files, 2 failed" in said.err
        assert sorted(tmp_path.rglob("*")) == before

    def test_names_as_long_as_names_can_be(self, miadmark: Run) -> None:
        long = ["a" * 242 + ".png", "b" * 251 + ".png", "\u533b" * 82 + ".png"]  # 246, 255 and 250 bytes
        Path("long").mkdir()
        for name in long:
            Path("long", name).write_bytes(samples.png())
        assert miadmark("protect", "long", "-o", "p", "-r", "alice.pub").status == 0
        assert miadmark(*REMOVE).status == 0
        assert samples.contents(Path("r")) == dict.fromkeys(long, samples.png())
        assert miadmark("grant", "p", "-o", "g", "-i", "alice.key", "-r", "bob.pub").status == 0
        assert miadmark("protect", "long", "-o", "p", "-r", "alice.pub", "--overwrite").status == 0
        said = miadmark("protect", "long", "-o", "s", "-r", "alice.pub", "--sidecar")
        assert said.status == 1 and said.err.count("the output's name is longer than 255 bytes") == 2
        assert set(samples.contents(Path("s"))) == {long[0], f"{long[0]}.miadmark"}

    def test_places_that_cannot_be_are_named(self, miadmark: Run) -> None:
        for arguments, text in (
            (("protect", "in", "-o", "o" * 256, "-r", "alice.pub"), "File name too long"),
            (("preview", "in/a.png", "-o", "o" * 256), "File name too long"),
            (("protect", "in", "-o", "in/a.png/deep", "-r", "alice.pub"), "Not a directory"),
            (("inspect", "in/a.png/deep"), "Not a directory"),
        ):
            said = miadmark(*arguments)
            assert said.status in (1, 2) and text in said.err, said.err
        # No room for the name of the folder beside: then the manifest lies inside.
        assert miadmark("protect", "in", "-o", "o" * 250, "-r", "alice.pub").status == 0
        assert set(samples.contents(Path("o" * 250))) == {"a.png", "b.dcm", MANIFEST_NAME}
        Path("in/c.png").write_bytes(samples.jpeg())  # becomes c.png.png
        Path("in", "d" * 251 + ".png").write_bytes(samples.jpeg())
        for more in ((), ("--dry-run",)):
            said = miadmark("protect", "in", "-o", f"q{len(more)}", "-r", "alice.pub", *more)
            assert said.status == 1 and "the output's name is longer than 255 bytes" in said.err

    def test_several_folders_keep_their_names(self, miadmark: Run) -> None:
        Path("other").mkdir()
        Path("other/a.png").write_bytes(samples.png(1))
        assert miadmark("protect", "in", "other", "-o", "p", "-r", "alice.pub").status == 0
        assert set(samples.contents(Path("p"))) == {"in/a.png", "in/b.dcm", "other/a.png"}


class TestLeavingOut:
    def test_what_file_managers_leave(self, miadmark: Run) -> None:
        Path("in/.DS_Store").write_bytes(b"Bud1")
        said = miadmark(*PROTECT)
        assert said.status == 0 and set(samples.contents(Path("p"))) == {"a.png", "b.dcm"}

    def test_what_is_not_supported(self, miadmark: Run) -> None:
        Path("in/notes.txt").write_text("no image")
        assert miadmark(*PROTECT).status == 1
        said = miadmark(*PROTECT, "--overwrite", "--skip-unsupported")
        assert said.status == 0 and "in/notes.txt: skipped: UnsupportedImageError" in said.err
        assert "protected 2 files, 1 skipped in" in said.err
        Path("p/plain.png").write_bytes(samples.png())
        assert miadmark(*REMOVE).status == 1
        assert miadmark(*REMOVE, "--skip-unsupported", "--overwrite").status == 0
        assert miadmark("remove", "p", "-o", "r2", "-i", "bob.key", "--skip-unsupported").status == 1

    def test_filters(self, miadmark: Run) -> None:
        assert miadmark(*PROTECT, "--include", "*.png").status == 0
        assert set(samples.contents(Path("p"))) == {"a.png"}
        assert miadmark("protect", "in", "-o", "q", "-r", "alice.pub", "--exclude", "*.png").status == 0
        assert set(samples.contents(Path("q"))) == {"b.dcm"}
        said = miadmark("protect", "in", "-o", "s", "-r", "alice.pub", "--include", "*.mha")
        assert said.status == 2 and "no files that are meant" in said.err

    def test_label_maps(self, miadmark: Run) -> None:
        labels = np.zeros((48, 40), np.uint8)
        labels[5:25, 5:25] = 1
        picture = Image.fromarray(labels, "P")
        picture.putpalette([0, 0, 0, 255, 0, 0])
        picture.save("in/mask.png")
        said = miadmark(*PROTECT)
        assert said.status == 1 and "in/mask.png: LabelMapError" in said.err and "--label-maps copy" in said.err
        said = miadmark("protect", "in", "-o", "skip", "-r", "alice.pub", "--label-maps", "skip")
        assert said.status == 0 and not Path("skip/mask.png").exists()
        said = miadmark("protect", "in", "-o", "copy", "-r", "alice.pub", "--label-maps", "copy")
        assert said.status == 0 and "3 files, 1 of them COPIED UNPROTECTED" in said.err
        assert Path("copy/mask.png").read_bytes() == Path("in/mask.png").read_bytes()
        said = miadmark("protect", "in", "-o", "mark", "-r", "alice.pub", "--label-maps", "protect")
        assert said.status == 0 and Path("mark/mask.png").read_bytes() != Path("in/mask.png").read_bytes()
        assert miadmark("remove", "mark", "-o", "r", "-i", "alice.key").status == 0
        assert Path("r/mask.png").read_bytes() == Path("in/mask.png").read_bytes()


class TestSaying:
    def test_json(self, miadmark: Run) -> None:
        Path("in/notes.txt").write_text("no image")
        Path("in/x.jpg").write_bytes(samples.jpeg())
        Path("in/x.png").write_bytes(samples.png())
        told = json.loads(miadmark(*PROTECT, "--json").out)
        assert set(told) == {
            *("schema", "command", "dry_run", "interrupted", "error", "out", "manifest", "report", "seconds", "counts"),
            *("notes", "files"),
        }
        assert told["schema"] == 1 and told["counts"] == {"done": 4, "kept": 0, "skipped": 0, "failed": 1}
        files = {file["source"]: file for file in told["files"]}
        assert files["in/a.png"]["status"] == "done" and files["in/a.png"]["output"] == "p/a.png"
        assert files["in/a.png"]["recipients"][0]["kind"] == "x25519" and files["in/a.png"]["quality"]["psnr"] > 0
        assert files["in/notes.txt"]["error"] == "UnsupportedImageError" and "not an image" in str(
            files["in/notes.txt"]
        )
        assert files["in/x.jpg"]["output"] == "p/x.jpg.png" and len(told["notes"]) == 1
        said = miadmark(*REMOVE, "--json", "--quiet")
        assert json.loads(said.out)["counts"]["done"] == 4 and "restored" not in said.err
        told = json.loads(miadmark(*PROTECT, "--resume", "--json").out)
        assert told["counts"]["kept"] == 4 and told["manifest"] == f"p.miadmark-job/{MANIFEST_NAME}"

    def test_json_of_a_job_that_could_not_begin(self, miadmark: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        with FolderLock(Path("p"), "remove"):
            told = json.loads(miadmark(*PROTECT, "--json").out)
        assert "another run works in p" in told["error"] and told["files"] == []

        def fail() -> None:
            raise FileNotFoundError("the miadmark bundle is not installed with the package")

        monkeypatch.setattr(sys.modules["monai_miadmark.marker"], "load_marker", fail)
        said = miadmark(*PROTECT, "--json")
        assert said.status == 1 and "not installed" in json.loads(said.out)["error"]

    def test_quiet(self, miadmark: Run) -> None:
        assert miadmark(*PROTECT, "--quiet") == (0, "", "")
        said = miadmark("remove", "p", "-o", "r", "-i", "bob.key", "--quiet")
        assert said.status == 1 and said.err.count("WrongKeyError: ") == 2 and "restored" not in said.err

    def test_dry_run(self, miadmark: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        Path("in/notes.txt").write_text("no image")
        loaded: list[int] = []
        monkeypatch.setattr(sys.modules["monai_miadmark.marker"], "load_marker", lambda: loaded.append(1))
        before = sorted(tmp_path.rglob("*"))
        said = miadmark(*PROTECT, "--dry-run", "--json")
        assert said.status == 1 and "would have protected 2 files, 1 failed" in said.err
        assert {file["status"] for file in json.loads(said.out)["files"]} == {"planned", "failed"}
        assert sorted(tmp_path.rglob("*")) == before and loaded == []

    def test_dry_runs_of_what_is_protected(self, miadmark: Run, tmp_path: Path) -> None:
        assert miadmark(*PROTECT).status == 0
        before = sorted(tmp_path.rglob("*"))
        said = miadmark(*REMOVE, "--dry-run")
        assert said.status == 0 and "p/a.png -> r/a.png" in said.out
        assert miadmark("remove", "p", "-o", "r", "-i", "bob.key", "--dry-run").status == 1
        assert miadmark("grant", "p", "-o", "g", "-i", "alice.key", "-r", "bob.pub", "--dry-run").status == 0
        assert miadmark(*PROTECT, "--dry-run").status == 1  # the outputs exist
        assert sorted(tmp_path.rglob("*")) == before


class TestRevokingOneself:
    def test_needs_yes(self, miadmark: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        command = ("revoke", "p", "-o", "v", "-i", "alice.key", "-r", "alice.pub")
        assert miadmark("protect", "in", "-o", "p", "-r", "alice.pub", "-r", "bob.pub").status == 0
        said = miadmark(*command)
        assert said.status == 2 and "alice.key will not open the new files" in said.err and "--yes" in said.err
        for answer, status in (("n", 1), ("", 1), ("y", 0)):
            stdin = types.SimpleNamespace(isatty=lambda: True, readline=lambda answer=answer: f"{answer}\n")
            monkeypatch.setattr(sys, "stdin", stdin)
            said = miadmark(*command)
            assert said.status == status and Path("v").exists() == (status == 0)
        assert miadmark("remove", "v", "-o", "r", "-i", "bob.key").status == 0
        assert miadmark("revoke", "p", "-o", "v2", "-i", "bob.key", "-r", "alice.pub").status == 0

    def test_the_passphrase_is_oneself_too(self, miadmark: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MIADMARK_PASSPHRASE", "five words that nobody guesses")
        command = ("protect", "in", "-o", "p", "-r", "bob.pub", "--passphrase", "--passphrase-beside-keys")
        assert miadmark(*command).status == 0
        told = json.loads(miadmark("inspect", "p/a.png", "--json").out)["recipients"]
        (own,) = (who["key_id"] for who in told if who["kind"] == "passphrase")
        said = miadmark("revoke", "p", "-o", "v", "--passphrase", "--id", own)
        assert said.status == 2 and "the passphrase will not open the new files" in said.err
        assert miadmark("revoke", "p", "-o", "v", "--passphrase", "-r", "bob.pub").status == 0
        assert miadmark("revoke", "p", "-o", "w", "-i", "bob.key", "--id", own).status == 0
        assert miadmark("revoke", "p", "-o", "x", "--passphrase", "--id", own, "--yes").status == 0

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The command ``miadmark``: help, hints, reports, previews, doctor, evaluations, completion, as a person uses them."""

from __future__ import annotations

import html
import io
import json
import subprocess
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import doubles
import numpy as np
import pytest
import samples
from commands import Run, runner
from PIL import Image

from monai_miadmark import cli, doctor
from monai_miadmark.arguments import command_line
from monai_miadmark.commands import VERBS
from monai_miadmark.errors import UnsupportedImageError
from monai_miadmark.options import PRESETS, ProtectOptions
from monai_miadmark.preview import draw_preview, preview
from monai_miadmark.reporting import evaluation_report, page
from monai_miadmark.reporting.page import missing_packages

needs_report = pytest.mark.skipif(bool(missing_packages()), reason=f"not installed: {', '.join(missing_packages())}")
needs_shtab = pytest.mark.skipif(find_spec("shtab") is None, reason="shtab is not installed")


@pytest.fixture
def miadmark(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run the command in ``tmp_path`` with noise instead of networks."""
    return runner(capsys, monkeypatch, tmp_path)


@pytest.fixture
def tree(miadmark: Run, tmp_path: Path) -> Path:
    """``in`` with three images, and keys of alice."""
    (tmp_path / "in").mkdir()
    for number in range(3):
        (tmp_path / "in" / f"{number}.png").write_bytes(samples.png(number))
    assert miadmark("keygen", "alice", "--kem", "x25519").status == 0
    return tmp_path / "in"


class TestHelp:
    def test_names_every_verb_with_an_example(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            cli.main(["--help"])
        told = capsys.readouterr().out
        for verb in VERBS:
            assert f"\n  {verb} " in told and f"miadmark {verb}" in told
        assert all(len(line) <= 120 for line in told.splitlines())

    def test_examples_are_valid(self) -> None:
        import shlex

        from monai_miadmark.arguments import _GROUPS

        parser = command_line(VERBS)
        told = {name: example for verbs in _GROUPS.values() for name, (_, example) in verbs.items()}
        assert set(told) == set(VERBS)
        for name, example in told.items():
            plain = example.removeprefix('eval "$(').removesuffix(')"')
            assert parser.parse_args(shlex.split(plain)[1:]).run is VERBS[name]

    @pytest.mark.parametrize("verb", sorted(VERBS))
    def test_of_a_verb(self, verb: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            cli.main([verb, "--help"])
        told = capsys.readouterr().out
        assert told.startswith(f"usage: miadmark {verb} ") and "\nexample:\n  " in told


class TestHints:
    def test_say_what_to_do_once_for_each_kind(self, miadmark: Run, tree: Path) -> None:
        assert miadmark("keygen", "bob", "--kem", "x25519").status == 0
        assert miadmark("protect", "in", "-o", "p", "-r", "alice.pub").status == 0
        said = miadmark("remove", "p", "-o", "r", "-i", "bob.key")
        assert said.status == 1 and said.err.count("hint: miadmark inspect FILE lists") == 1
        said = miadmark("remove", "in", "-o", "r", "-i", "alice.key")
        assert said.status == 1 and said.err.count("hint: where the record was stripped") == 1
        said = miadmark("protect", "in", "-o", "p", "-r", "alice.pub")
        assert said.status == 1 and "hint: --resume leaves out" in said.err
        Path("x.txt").write_text("no image")
        said = miadmark("protect", "x.txt", "-o", "q", "-r", "alice.pub")
        assert said.status == 1 and "hint: docs/formats-dicom.md" in said.err


@needs_report
class TestReport:
    def test_of_protecting_and_restoring(self, miadmark: Run, tree: Path) -> None:
        said = miadmark("protect", "in", "-o", "p", "-r", "alice.pub", "--report", "told")
        assert said.status == 0 and "wrote told/report.html" in said.err and "originals" not in said.err
        page = Path("told/report.html").read_text()
        assert "alice.pub" in page and page.count("image/jpeg") == 3
        said = miadmark(
            "protect", "in", "-o", "p", "-r", "alice.pub", "--resume", "--report", "told", "--report-originals"
        )
        assert said.status == 0 and "3 done before" in said.err and "it shows originals" in said.err
        assert Path("told/report.html").read_text().count("image/jpeg") == 9
        said = miadmark("remove", "p", "-o", "r", "-i", "alice.key", "--report", "told2", "--report-images", "1")
        assert said.status == 0 and Path("told2/report.html").read_text().count("image/jpeg") == 1

    def test_says_what_the_command_line_says(self, miadmark: Run, tree: Path) -> None:
        """Reasons in its words, the logo by its name, what was left out apart, restored files by their own names."""
        (tree / "notes.txt").write_text("no image")
        (tree / "photo.jpg").write_bytes(samples.jpeg())
        Path("p").mkdir()
        Path("p/1.png").write_bytes(b"in the way")
        Image.fromarray(np.eye(64, dtype=np.uint8) * 255).save("seal.png")
        said = miadmark("protect", "in", "-o", "p", "-r", "alice.pub", "--report", "told", "--logo", "seal.png")
        assert said.status == 1
        page = Path("told/report.html").read_text()
        assert "seal.png (sha256 " in page
        for line in said.err.splitlines():
            if line.startswith("miadmark: in/"):
                reason = line.split(": ", 2)[2]
                assert html.escape(reason) in page or reason in html.unescape(page), reason
        assert "the output exists (--overwrite replaces it): p/1.png" in html.unescape(page)
        skipping = ("protect", "in", "-o", "q", "-r", "alice.pub", "--report", "told2", "--skip-unsupported")
        assert miadmark(*skipping).status == 0
        assert "notes.txt" not in Path("told2/report.html").read_text()
        assert miadmark("remove", "q", "-o", "r", "-i", "alice.key", "--report", "told3").status == 0
        assert "photo.png → photo.jpg" in Path("told3/report.html").read_text()

    def test_wrong_usage(self, miadmark: Run, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        command = ("protect", "in", "-o", "p", "-r", "alice.pub")
        for more, text in (
            (("--report", "p/told"), "among images"),
            (("--report", "in"), "among images"),
            (("--report", "alice.pub"), "is a file"),
            (("--report-originals",), "no report is asked for"),
            (("--report-images", "3"), "no report is asked for"),
            (("--report", "told", "--report-images", "201"), "--report-images"),
        ):
            said = miadmark(*command, *more)
            assert said.status == 2 and text in said.err and "hint:" in said.err
        monkeypatch.setattr(page, "missing_packages", lambda: ["matplotlib"])
        said = miadmark(*command, "--report", "told")
        assert said.status == 2 and "monai-miadmark[report]" in said.err
        assert not Path("p").exists() and not Path("told").exists()

    def test_that_cannot_be_written(self, miadmark: Run, tree: Path) -> None:
        Path("told").mkdir()
        Path("told/report.html").write_text("mine")
        said = miadmark("protect", "in", "-o", "p", "-r", "alice.pub", "--report", "told")
        assert said.status == 1 and "protected 3 files" in said.err and "no report:" in said.err
        assert Path("told/report.html").read_text() == "mine"


class TestPreview:
    def test_draws_every_preset_in_both_styles(self, miadmark: Run) -> None:
        Path("a.png").write_bytes(samples.png())
        said = miadmark("preview", "a.png")
        assert said.status == 0 and "wrote a.png-preview.png; it shows the original" in said.err
        with Image.open("a.png-preview.png") as picture:
            assert picture.width > 5 * 320 and picture.height > 2 * 320
        before = Path("a.png-preview.png").read_bytes()
        again = miadmark("preview", "a.png")
        assert again.status == 1 and "left as it is" in again.err
        assert miadmark("preview", "a.png", "--overwrite", "--preset", "fast", "--style", "visible").status == 0
        assert Path("a.png-preview.png").read_bytes() != before

    def test_shows_what_it_says(self) -> None:
        data = samples.nifti(5)
        steps: list[int] = []
        choices = [ProtectOptions(preset, style) for style in ("visible", "invisible") for preset in PRESETS]  # type: ignore[arg-type]
        made = preview(data, "t1.nii", doubles.NoiseMarker(), choices, slice_number=2, step=lambda: steps.append(1))
        assert (made.slice_number, made.slices, len(steps)) == (2, 5, 8)
        for sample in made.samples:
            asked = PRESETS[str(sample.options.preset)].visibility
            assert sample.opinion is None and sample.closeness is not None
            assert sample.closeness.psnr > asked.psnr - 1 and sample.closeness.ssim > asked.ssim - 0.03
            assert sample.plane.shape == made.original.shape and (sample.plane != made.original).any()
        other = preview(data, "t1.nii", doubles.NoiseMarker(), [])
        assert other.slice_number == 3 and (other.original != made.original).any()
        with Image.open(io.BytesIO(draw_preview(made, "x" * 900))) as picture:
            pixels = np.asarray(picture.convert("L"), int)
        assert (pixels[:40] < 128).any()  # a title that was cut to fit
        column = pixels[60:380, 10:330]  # the tile of the original: the picture itself, enlarged
        shown = np.asarray(Image.fromarray(np.rint(255 * made.original[:, :, 0]).astype(np.uint8)))
        assert abs(int(column[:, 27:293].mean()) - int(shown.mean())) <= 3

    def test_a_mask_stays_as_it_is(self, miadmark: Run) -> None:
        mask = np.zeros((48, 40), bool)
        mask[8:20, 8:20] = True
        out = io.BytesIO()
        np.save(out, mask)
        options = ProtectOptions("fast", region_budget=0.0)
        made = preview(samples.png(), "a.png", doubles.NoiseMarker(), [options], mask=(out.getvalue(), "m.npy"))
        assert (made.samples[0].plane[mask] == made.original[mask]).all()
        Path("a.png").write_bytes(samples.png())
        Path("m.npy").write_bytes(out.getvalue())
        assert miadmark("preview", "a.png", "--region", "m.npy", "--preset", "fast", "-o", "d/o.png").status == 0
        assert Path("d/o.png").is_file()

    def test_refuses(self, miadmark: Run) -> None:
        Path("a.png").write_bytes(samples.png())
        Path("x.txt").write_text("no image")
        for arguments, text in (
            (("x.txt",), "UnsupportedImageError"),
            (("absent.png",), "No such file"),
            (("a.png", "--slice", "2"), "there is no slice 2"),
        ):
            said = miadmark("preview", *arguments)
            assert said.status == 1 and text in said.err
        assert miadmark("preview", "a.png", "--style", "invisible", "--logo", "absent.png").status == 2
        assert not list(Path().glob("*preview*"))


class TestDoctor:
    def test_finds_this_installation_sound(self) -> None:
        checks = list(doctor.examine())
        assert not doctor.is_broken(checks), [c for c in checks if c.status == "broken"]
        groups = {check.group for check in checks}
        assert {"versions", "secrets", "storage", "networks", "DICOM"} <= groups
        named = {check.name: check for check in checks}
        assert named["numpy"].detail == metadata.version("numpy")
        assert "as released" in named["model.pt"].detail
        assert named["RLE Lossless"].detail == "pydicom"
        assert all(check.advice for check in checks if check.status != "ok")

    def test_of_another_process_in_json(self, tmp_path: Path) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "monai_miadmark", "doctor", "--json", str(tmp_path)],
            capture_output=True,
            text=True,
            check=False,
        )
        told = json.loads(done.stdout)
        assert done.returncode == 0 and told["broken"] is False
        assert {"group", "name", "status", "detail", "advice"} == set(told["checks"][0])
        assert [c["name"] for c in told["checks"] if c["group"] == "storage"] == ["output folder", "locking"]
        assert list(tmp_path.iterdir()) == []

    def test_damaged_weights_are_broken(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from monai_miadmark import marker

        models = tmp_path / "models"
        models.mkdir()
        (models / "a.pt").write_bytes(b"1")
        (models / marker.HASHES).write_text(f"{'0' * 64}  a.pt\n{'1' * 64}  b.pt\n")
        monkeypatch.setattr(marker, "bundle_root", lambda: tmp_path)
        found = {check.name: check for check in doctor._networks()}
        assert found["a.pt"].status == "broken" and "SHA-256" in found["a.pt"].detail
        assert found["b.pt"].status == "broken" and found["b.pt"].advice
        (models / "c.pt").write_bytes(b"1")
        assert next(c for c in doctor._networks() if c.name == "weights").status == "broken"

    def test_a_folder_that_cannot_be_used(self, miadmark: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(doctor, "_networks", lambda: iter(()))
        said = miadmark("doctor", "absent")
        assert said.status == 1 and "broken  output folder" in said.out and "-> name a folder" in said.out
        assert "essential is broken" in said.err

    def test_missing_decoders_are_no_catastrophe(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def nobody(syntax: str, stored: int = 8) -> str:
            raise UnsupportedImageError("decoding it needs a-package")

        monkeypatch.setattr(doctor, "decoder_name", nobody)
        checks = list(doctor._decoders())
        assert len(checks) > 15 and {c.status for c in checks} == {"missing"} and not doctor.is_broken(checks)
        assert all("monai-miadmark[dicom]" in c.advice for c in checks)

    def test_locks_that_do_not_lock_are_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Nothing:
            def __init__(self, folder: Path, what: str) -> None: ...
            def __enter__(self) -> None: ...
            def __exit__(self, *error: object) -> None: ...

        monkeypatch.setattr(doctor, "FolderLock", Nothing)
        (found,) = [check for check in doctor._storage(None) if check.name == "locking"]
        assert found.status == "broken" and "two jobs" in found.detail

    def test_packages_that_are_not_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(metadata, "requires", lambda name: ["absent-a>=1", "absent-b; extra == 'more'", "numpy"])
        (broken, fine), (missing,) = list(doctor._required()), list(doctor._extras())
        assert (broken.status, fine.status, missing.status) == ("broken", "ok", "missing")
        assert missing.advice == "pip install 'monai-miadmark[more]'"

    def test_what_only_developers_miss_is_not_told(self) -> None:
        declared = set(metadata.metadata("monai-miadmark").get_all("Provides-Extra") or [])
        told = {check.name for check in doctor._extras()}
        assert {"dicom", "gateway", "tiff", "report"} <= told
        assert declared - told == {"dev", "docs", "interop", "store"}


@needs_report
class TestEvaluate:
    def test_the_page_of_what_was_measured(self, miadmark: Run) -> None:
        rows = [
            {"dataset": "skin", "setting": "white box", "victim": "v", "remover": "", "clean": 0.9, "protected": 0.1}
        ]
        Path("e/results").mkdir(parents=True)
        content = {"title": "t", "dataset": "skin", "section": "val", "images": 1, "rows": rows}
        Path("e/results/a.json").write_text(json.dumps(content))
        said = miadmark("evaluate", "-o", "e", "--page-only")
        assert said.status == 0 and "wrote e/report.html" in said.err
        assert "90.0 → 10.0 %" in Path("e/report.html").read_text()
        said = miadmark("evaluate", "-o", "nothing", "--page-only")
        assert said.status == 1 and "no results" in said.err and not Path("nothing").exists()

    def test_measures_with_the_bundle(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The configuration is the bundle's; what it computes is replaced by a line that says with what."""
        if evaluation_report.missing_packages():
            pytest.skip(f"not installed: {', '.join(evaluation_report.missing_packages())}")
        root, data = tmp_path / "bundle", tmp_path / "data"
        (root / "configs").mkdir(parents=True)
        (root / "configs" / "networks.yaml").write_text("modes: {brain_mri: L, skin: RGB}\n")
        result = (
            "dict(title='%d of %d' % tuple(@part), dataset=@dataset, section=@section, images=@limit, rows=[], "
            "figures={'psnr_whole': 9.0})"
        )
        (root / "configs" / "evaluate.yaml").write_text(
            "imports:\n- $import os\n- $import monai_miadmark.evaluation.report as report\n"
            "- $from monai_miadmark.datasets import data_list\n- $from pathlib import Path\n"
            "preset: none\nstyle: none\nsection: none\nlimit: null\npart: null\n"
            "output_dir: $Path(@bundle_root) / 'eval'\n"
            "evaluate:\n- $data_list(@dataset, @section, limit=@limit)\n"
            f"- \"$report.write_json(@output_dir / 'results' / (@dataset + '_' + @preset + '.json'), {result})\"\n"
        )
        for name in ("brain_mri", "skin"):
            for section in ("train", "val"):
                (data / name / section / "c").mkdir(parents=True)
                (data / name / section / "c" / "0.jpg").write_bytes(samples.jpeg())
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("MIADMARK_DATA", raising=False)
        command = ["evaluate", "data", "-o", "out", "--bundle", str(root), "--preset", "fast", "--limit", "7"]
        assert cli.main(command) == 0
        assert sorted(p.name for p in (tmp_path / "out/results").glob("*.json")) == [
            "brain_mri_fast.json",
            "skin_fast.json",
        ]
        page = (tmp_path / "out" / "report.html").read_text()
        assert "skin: 7 images (val)" in page and "9.00 dB" in page and "0 of 1" in page
        assert cli.main([*command, "--dataset", "skin", "--every", "3"]) == 0
        assert "0 of 3" in (tmp_path / "out" / "report.html").read_text()
        assert cli.main([*command, "--dataset", "fundus"]) == 2
        assert cli.main(["evaluate", "nowhere", *command[2:]]) == 1
        assert not (root / "eval").exists() and "MIADMARK_DATA" not in __import__("os").environ


@needs_shtab
class TestCompletion:
    @pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
    def test_prints_a_script(self, miadmark: Run, shell: str) -> None:
        said = miadmark("completion", shell)
        assert said.status == 0 and said.err == "" and all(verb in said.out for verb in VERBS)

    def test_bash_takes_it(self, miadmark: Run, tmp_path: Path) -> None:
        (tmp_path / "complete.sh").write_text(miadmark("completion", "bash").out)
        (tmp_path / "scan.dcm").touch()

        def completed(*words: str) -> list[str]:
            line = " ".join(f"'{word}'" for word in words)
            script = (
                f"source complete.sh; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; "
                f'_shtab_miadmark "" "$2" ""; printf "%s\\n" "${{COMPREPLY[@]}}"'
            )
            done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
            return done.stdout.split()

        assert completed("miadmark", "pro") == ["protect"]
        assert completed("miadmark", "protect", "--rec") == ["--recipient", "--record"]
        assert completed("miadmark", "inspect", "sc") == ["scan.dcm"]

    def test_without_its_package(self, miadmark: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "shtab", None)
        said = miadmark("completion", "bash")
        assert said.status == 2 and "monai-miadmark[completion]" in said.err

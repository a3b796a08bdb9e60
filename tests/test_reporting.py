# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Pages: what they tell of a job, what they never tell, and what a browser makes of them."""

from __future__ import annotations

import base64
import html
import io
import json
import os
import re
import shutil
import stat
from dataclasses import dataclass
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import manifests
import numpy as np
import pytest
import samples
from doubles import NoiseMarker, SeeingMarker
from PIL import Image

from monai_miadmark.batch import Plan, plan, run_jobs
from monai_miadmark.engines import SerialEngine
from monai_miadmark.files import protected_name
from monai_miadmark.manifest import MANIFEST_NAME, ManifestError, Settings, manifest_lines
from monai_miadmark.options import ProtectOptions
from monai_miadmark.reporting import job_report
from monai_miadmark.reporting.evaluation_report import write_evaluation_page
from monai_miadmark.reporting.gallery import ChangedError, Slot, open_pair, pictures, sampled_slices
from monai_miadmark.reporting.history import read_history
from monai_miadmark.reporting.job_report import Wishes, check_place, write_job_report
from monai_miadmark.reporting.page import PageError, missing_packages, render, write_page
from monai_miadmark.tasks import KeyFile, ProtectTask, RemoveTask

pytestmark = pytest.mark.skipif(bool(missing_packages()), reason=f"not installed: {', '.join(missing_packages())}")

_CHROMIUM = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)


@dataclass
class Job:
    """A job and how to tell of it."""

    planned: Plan
    task: ProtectTask | RemoveTask
    folder: Path

    def run(self, **more: Any) -> None:
        run_jobs(self.planned, self.task, SerialEngine(), **more)

    def page(self, **wishes: Any) -> str:
        path = write_job_report(self.planned, self.task, Wishes(self.folder / "report", **wishes))
        return path.read_text(encoding="utf-8")


@pytest.fixture
def job(tmp_path: Path, keys: Path) -> Job:
    """Five files of several formats, protected for alice and signed."""
    samples.tree(tmp_path / "in")
    task = ProtectTask(
        (keys / "alice.pub",), ProtectOptions("fast"), signer=KeyFile(keys / "custodian.key"), load=NoiseMarker
    )
    made = Job(plan([tmp_path / "in"], tmp_path / "out", protected_name), task, tmp_path)
    made.run()
    return made


class _Reader(HTMLParser):
    """Collects what a page refers to, its scripts and the text of its cells."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.tags: list[str] = []
        self.handlers: list[str] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset", "action", "data", "poster"):
                self.targets.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)

    def handle_data(self, data: str) -> None:
        self.text.append(data.strip())


def images(page: str, kind: str) -> list[Image.Image]:
    """Pictures of a page, in its order."""
    return [
        Image.open(io.BytesIO(base64.b64decode(found)))
        for found in re.findall(f'data:image/{kind};base64,([^"]+)', page)
    ]


class TestJobs:
    def test_tells_all_that_the_manifest_tells(self, job: Job, keys: Path) -> None:
        page = job.page()
        told = _Reader(page).text
        lines = [line for line in manifest_lines(job.planned.out) if line["kind"] == "file"]
        assert len(lines) == 5
        for line in lines:
            assert line["source"] in told and line["output"] in told
            assert f"{line['quality']['psnr']:.2f} dB" in told and f"{line['quality']['ssim']:.4f}" in told
        (recipient,) = {r["key_id"] for line in lines for r in line["recipients"]}
        assert recipient in told
        (signer,) = {line["signer"]["key_id"] for line in lines}
        assert signer in told
        mean = np.mean([line["quality"]["psnr"] for line in lines])
        assert f"{mean:.2f} dB" in told
        assert "alice.pub" not in page
        named = job.page(key_names={recipient: "alice.pub"})
        assert "alice.pub" in _Reader(named).text

    def test_the_page_is_alone_and_asks_for_nothing(self, job: Job) -> None:
        page = job.page()
        read = _Reader(page)
        assert read.targets and all(target.startswith("data:") for target in read.targets)
        assert "script" not in read.tags and not read.handlers
        assert "default-src 'none'" in page and "@import" not in page and "url(" not in page
        assert "@media print" in page
        path = job.folder / "report" / "report.html"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert sorted(p.name for p in path.parent.iterdir()) == ["report.html"]

    def test_nothing_secret_and_no_patient(self, job: Job, keys: Path) -> None:
        page = job.page()
        for path in keys.glob("*.key"):
            assert path.read_text().split("\n")[1] not in page
        # Four letters turn up in the base64 of a picture by chance: its bytes are looked at instead.
        coded = re.findall(r'base64,([^"]+)', page)
        told = [re.sub(r'base64,[^"]+', "", page).encode(), *map(base64.b64decode, coded)]
        assert len(coded) > 2
        # Of pydicom's CT: name, id, birth date, study date; and where the files lie here.
        for value in ("CompressedSamples", "1CT1", "20040119", str(job.folder)):
            assert not any(value.encode() in part for part in told)
        assert b"CompressedSamples" in (job.folder / "in" / "ct.dcm").read_bytes()

    def test_names_are_escaped(self, tmp_path: Path, keys: Path) -> None:
        bad = [
            "<script>alert(1)<!-- .png",
            "\"onerror='alert(2)' x=.png",
            "a\u202egnp.png",
            "b\nc\x1b[31m.png",
            "&lt;.png",
        ]
        for number, name in enumerate(bad):
            (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
            (tmp_path / "in" / name).write_bytes(samples.png(number))
        (tmp_path / "in" / "<img src=x onerror=alert(3)>.txt").write_text("no image")
        task = ProtectTask((keys / "alice.pub",), ProtectOptions("fast"), load=NoiseMarker)
        job = Job(plan([tmp_path / "in"], tmp_path / "out", protected_name), task, tmp_path)
        job.run()
        page = job.page()
        read = _Reader(page)
        assert "script" not in read.tags and not read.handlers
        assert all(target.startswith("data:") for target in read.targets)
        assert bad[0] in read.text and bad[4] in read.text
        assert not [c for c in page if not c.isprintable() and c != "\n"]
        assert html.escape(bad[1], quote=True) in page.replace("&#39;", "&#x27;").replace("&#34;", "&quot;")

    def test_failures_have_reasons(self, job: Job, keys: Path) -> None:
        (job.folder / "in" / "notes.txt").write_text("no image")
        again = Job(plan([job.folder / "in"], job.planned.out, protected_name), job.task, job.folder)
        again.run(resume=True)
        told = " ".join(_Reader(again.page()).text)
        assert "Not done" in told and "notes.txt" in told and "not an image of a known format" in told
        assert "in 2 runs" in told
        for name in ("ct.dcm", "photo.jpg"):
            assert name in told

    def test_a_resumed_job_has_a_whole_report(self, job: Job) -> None:
        (job.planned.out / "ct.dcm").unlink()
        (job.folder / "in" / "new.png").write_bytes(samples.png(7))
        again = Job(plan([job.folder / "in"], job.planned.out, protected_name), job.task, job.folder)
        again.run(resume=True)
        read = _Reader(again.page())
        for name in ("ct.dcm", "head/t1.nii", "head/t2.nii.gz", "head/deep/slice.png", "photo.jpg", "new.png"):
            assert name in read.text
        assert read.text.count("protected, digests verified") == 0 and "6" in read.text

    def test_other_jobs_of_the_folder_are_left_out(self, job: Job, keys: Path) -> None:
        other = ProtectTask((keys / "bob.pub",), ProtectOptions("fast"), overwrite=True, load=NoiseMarker)
        (job.folder / "one").mkdir()
        (job.folder / "one" / "z.png").write_bytes(samples.png(3))
        second = Job(plan([job.folder / "one"], job.planned.out, protected_name), other, job.folder)
        second.run()
        told = _Reader(second.page()).text
        assert "z.png" in told and "photo.jpg" not in told

    def test_a_job_that_could_do_nothing(self, tmp_path: Path, keys: Path) -> None:
        task = ProtectTask((keys / "alice.pub",), ProtectOptions("fast"), load=NoiseMarker)
        planned = plan([tmp_path / "absent.png"], tmp_path / "out", protected_name)
        report = run_jobs(planned, task, SerialEngine())
        path = write_job_report(planned, task, Wishes(tmp_path / "report"), report.failures)
        told = _Reader(path.read_text()).text
        assert "absent.png" in told and "No file was done." in told and "Nothing was begun" in told

    def test_of_restoring(self, job: Job, keys: Path) -> None:
        back = RemoveTask(identities=(KeyFile(keys / "alice.key"),))
        planned = plan([job.planned.out], job.folder / "back", lambda path: None)
        removing = Job(planned, back, job.folder)
        removing.run()
        page = removing.page()
        told = _Reader(page).text
        assert "restored, digests verified" in told and "photo.jpg" in told
        assert (
            "PSNR" not in told and "original" not in told and "original" in _Reader(removing.page(originals=True)).text
        )


class TestPictures:
    def test_originals_only_if_asked_for(self, job: Job) -> None:
        captions = _Reader(job.page()).text
        assert "original" not in captions and captions.count("protected") >= 5
        with_originals = _Reader(job.page(originals=True)).text
        assert with_originals.count("original") == 5 and with_originals.count("difference x 8") == 5
        assert any("shows originals" in text for text in with_originals)

    def test_without_originals_they_cannot_be_computed(self, job: Job) -> None:
        """Protected minus difference is the original: the one is there, the other only as an amount in blocks."""
        source = samples.smooth().astype(float)
        page = job.page()
        photos = [np.asarray(p.convert("L"), float) for p in images(page, "jpeg")]
        drawn = [p for p in images(page, "png")]
        assert len(photos) == 5 and all(max(p.size) <= 32 for p in drawn[::2])
        with Image.open(job.planned.out / "head/deep/slice.png") as opened:
            marked = np.asarray(opened, float)
        assert np.abs(marked - source).mean() > 2  # there is something to be hidden
        for coarse in drawn[::2]:
            assert coarse.mode == "L"

    def test_the_exact_difference_is_exact(self, job: Job, keys: Path) -> None:
        source, out = job.folder / "in/head/deep/slice.png", job.planned.out / "head/deep/slice.png"
        lines = {line["source"]: line for line in manifest_lines(job.planned.out) if line["kind"] == "file"}
        line = lines["head/deep/slice.png"]
        pair = open_pair(Slot(source, line["source_sha256"]), Slot(out, line["output_sha256"]))
        made, caption = pictures(pair, True, job.task.options, None, NoiseMarker())  # type: ignore[union-attr]
        assert [p.title for p in made] == ["original", "protected", "difference x 8", "region and logo"]
        assert caption == ""
        tiles = [images(f'"{p.uri}"', "(?:jpeg|png)")[0] for p in made]
        assert all(max(tile.size) == 208 for tile in tiles)
        before, after, difference, _ = (np.asarray(tile.convert("L"), float) for tile in tiles)
        expected = np.clip(127.5 + 8 * (after - before), 0, 255)
        assert np.corrcoef(expected.ravel(), difference.ravel())[0, 1] > 0.8  # JPEG costs a little

    def test_stacks_show_their_middle(self, job: Job) -> None:
        assert "(slice 2 of 3)" in _Reader(job.page()).text
        assert sampled_slices(1) == [0] and sampled_slices(3) == [0, 1, 2]
        assert sampled_slices(80) == [5, 15, 25, 35, 45, 55, 65, 75]

    def test_a_mask_is_the_region(self, tmp_path: Path, keys: Path) -> None:
        mask = np.zeros((48, 40), np.uint8)
        mask[10:20, 8:30] = 255
        Image.fromarray(mask).save(tmp_path / "mask.png")
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "a.png").write_bytes(samples.png())
        options = ProtectOptions("fast", style="invisible", region_budget=0)
        task = ProtectTask((keys / "alice.pub",), options, mask=tmp_path / "mask.png", load=NoiseMarker)
        job = Job(plan([tmp_path / "in"], tmp_path / "out", protected_name), task, tmp_path)
        job.run()
        page = job.page()
        assert "region" in _Reader(page).text and "region and logo" not in _Reader(page).text
        outlined = np.asarray(images(page, "png")[-1].convert("RGB"), int)
        frame = (outlined == (0, 190, 210)).all(2)
        rows, columns = np.nonzero(frame)
        scale = 208 / 48
        assert np.allclose([rows.min(), columns.min()], [10 * scale, 8 * scale], atol=2)
        assert np.allclose([rows.max(), columns.max()], [20 * scale, 30 * scale], atol=2)

    def test_files_that_changed_are_not_shown(self, job: Job) -> None:
        path = job.planned.out / "photo.png"
        path.write_bytes(samples.png(9))
        told = " ".join(_Reader(job.page()).text)
        assert "No picture: changed since the job." in told
        with pytest.raises(ChangedError):
            open_pair(Slot(job.folder / "in/photo.jpg", "0" * 64), Slot(path, "0" * 64))

    def test_their_number_and_size_are_bounded(self, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
        assert "2 of 5 images, evenly spread over the job." in _Reader(job.page(images=2)).text
        assert "Pictures" not in _Reader(job.page(images=0)).text
        monkeypatch.setattr(job_report, "_MAX_PICTURE_BYTES", 60_000)
        told = _Reader(job.page()).text
        assert any("more would have made the page too large" in text for text in told)
        monkeypatch.setattr(job_report, "_MAX_ROWS", 2)
        assert any("The first 2 of 5" in text for text in _Reader(job.page()).text)


class TestEffect:
    def test_without_an_ensemble_it_is_not_told(self, job: Job) -> None:
        told = _Reader(job.page()).text
        assert "The effect was not measured: the marker has no ensemble that could be asked." in told

    def test_modality_effect_and_warnings_are_what_the_manifest_says(self, tmp_path: Path, keys: Path) -> None:
        """Once with a marker that knows what it sees, once with one that does not."""
        (tmp_path / "in").mkdir()
        for number in range(3):
            (tmp_path / "in" / f"{number}.png").write_bytes(samples.png(number))
        for sure, shown in ((0.9, "brain_mri (90% sure)"), (0.1, "unknown, marked as brain_mri")):
            task = ProtectTask((keys / "alice.pub",), ProtectOptions("fast"), load=partial(SeeingMarker, sure))
            job = Job(plan([tmp_path / "in"], tmp_path / str(sure), protected_name), task, tmp_path)
            job.run()
            told = _Reader(job.page()).text
            lines = [line for line in manifest_lines(job.planned.out) if line["kind"] == "file"]
            assert told.count(shown) == 3 and all(line["effect"]["kept"] in (0, 0.5, 1) for line in lines)
            assert all(f"{line['effect']['kept']:.0%}" in told for line in lines)
            warned = {text for line in lines for text in line["warnings"]}
            assert warned <= set(told) and bool(warned) == ("No effect to be expected" in told)
            assert any(text.startswith("unknown modality, marked as brain_mri") for text in warned) == (sure < 0.5)


class TestPlaces:
    def test_not_among_images(self, tmp_path: Path) -> None:
        for folder in ("out", "out/report", "in/x", "in"):
            with pytest.raises(PageError, match="among images"):
                check_place(tmp_path / folder, tmp_path / "out", [tmp_path / "in"])
        (tmp_path / "file").touch()
        with pytest.raises(PageError, match="is a file"):
            check_place(tmp_path / "file", tmp_path / "out", [])
        check_place(tmp_path / "report", tmp_path / "out", [tmp_path / "in"])

    def test_replaces_only_its_own(self, tmp_path: Path) -> None:
        page = render("evaluation.html.j2", {"title": "a", "when": "", "note": "", "sections": [], "pictures": []})
        write_page(tmp_path, page)
        write_page(tmp_path, page.replace("<title>a", "<title>b"))
        assert "<title>b" in (tmp_path / "report.html").read_text()
        (tmp_path / "report.html").write_text("mine")
        with pytest.raises(PageError, match="left as it is"):
            write_page(tmp_path, page)
        (tmp_path / "report.html").unlink()
        (tmp_path / "real.html").write_text(page)
        os.symlink("real.html", tmp_path / "report.html")
        with pytest.raises(PageError, match="left as it is"):
            write_page(tmp_path, page)


class TestHistory:
    def test_damaged_manifests_are_refused(self, job: Job) -> None:
        path = job.planned.out / MANIFEST_NAME
        good = path.read_bytes()
        settings = Settings(job.task.verb, job.task.settings())
        assert len(read_history(job.planned.out, settings).files) == 5
        path.write_bytes(good + b'{"schema": 1, "time"')  # a run was killed
        assert len(read_history(job.planned.out, settings).files) == 5
        path.write_bytes(good)
        lines = manifests.read(path)
        for change in ({"recipients": 3}, {"quality": {"psnr": "x", "ssim": 1}}, {"seconds": [1]}, {"status": None}):
            manifests.rewrite(path, [*lines[:-1], {**lines[-1], **change}])
            with pytest.raises(ManifestError):
                read_history(job.planned.out, settings)
        path.write_bytes(good + json.dumps({**lines[-1], "source": "forged.png"}).encode() + b"\n")
        assert "forged.png" not in read_history(job.planned.out, settings).files
        path.write_bytes(b"no manifest\n")
        with pytest.raises(ManifestError, match="damaged"):
            read_history(job.planned.out, settings)


def results(folder: Path) -> Path:
    """Results as evaluations leave them."""
    folder.mkdir(parents=True)
    for dataset in ("brain_mri", "skin"):
        rows = [
            {
                "dataset": dataset,
                "setting": setting,
                "victim": victim,
                "remover": remover,
                "images": 4,
                "clean": 0.9,
                "protected": 0.125,
                "restored": 0.9,
            }
            for setting in ("white box", "black box")
            for victim in ("resnet", "plain<b>")
            for remover in ("", "median 3 x 3")
        ]
        content = {
            "title": "fast, visible, soft",
            "dataset": dataset,
            "section": "val",
            "images": 4,
            "rows": rows,
            "figures": {"psnr_outside_logo": 29.25, "restored_identical": 1.0},
        }
        (folder / f"{dataset}.json").write_text(json.dumps(content))
    return folder


class TestEvaluation:
    def test_has_the_tables(self, tmp_path: Path) -> None:
        found = results(tmp_path / "results")
        (tmp_path / "pictures").mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / "pictures" / "skin.png")
        page = write_evaluation_page(found, tmp_path / "report").read_text()
        read = _Reader(page)
        for cell in (
            "fast, visible, soft",
            "plain<b>",
            "90.0 → 12.5 %",
            "median 3 x 3",
            "29.25 dB",
            "white box",
            "100.0%",
        ):
            assert cell in read.text
        assert "**" not in page and "skin: 4 images (val)" in page
        assert page.count("data:image/svg+xml") == 2 and "data:image/png" not in page
        shown = write_evaluation_page(found, tmp_path / "report", tmp_path / "pictures").read_text()
        assert shown.count("data:image/png") == 1

    def test_refuses_what_is_no_result(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            write_evaluation_page(tmp_path, tmp_path / "report")
        (tmp_path / "a.json").write_text('{"title": "x"}')
        with pytest.raises(PageError, match="cannot be understood"):
            write_evaluation_page(tmp_path, tmp_path / "report")
        assert not (tmp_path / "report").exists()


@pytest.mark.skipif(_CHROMIUM is None, reason="there is no Chromium")
class TestInABrowser:
    """The page in a headless Chromium without a network: nothing is asked for, and nothing goes wrong."""

    @pytest.mark.parametrize("kind", ["job", "evaluation"])
    def test_loads_quietly(self, tmp_path: Path, job: Job, kind: str) -> None:
        sync_api = pytest.importorskip("playwright.sync_api")
        if kind == "job":
            job.page(originals=True)
            path = job.folder / "report" / "report.html"
        else:
            path = write_evaluation_page(results(tmp_path / "results"), tmp_path / "evaluation")
        said: list[str] = []
        asked: list[str] = []
        with sync_api.sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=_CHROMIUM, args=["--no-sandbox"])
            try:
                page = browser.new_context(offline=True).new_page()
                page.on("console", lambda message: said.append(message.text))
                page.on("pageerror", lambda error: said.append(str(error)))
                page.on("request", lambda request: asked.append(request.url))
                page.goto(path.as_uri())
                page.wait_for_load_state("load")
                broken = page.evaluate(
                    "() => [...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.alt)"
                )
                count = page.evaluate("() => document.images.length")
                wide = page.evaluate(
                    "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
                )
                printed = page.pdf()
            finally:
                browser.close()
        assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
        assert said == [] and broken == [] and count > 1
        assert wide <= 0  # nothing sticks out
        assert printed.startswith(b"%PDF-")

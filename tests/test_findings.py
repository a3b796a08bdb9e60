# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""What was found out about an image: in results, records and manifests, said aloud, and as a reason to refuse."""

from __future__ import annotations

import json
import logging
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import samples
from doubles import BLUNT, NoiseMarker, SeeingMarker
from numpy.typing import NDArray
from test_formats_dicom import made as dicom
from vectors import make_vectors

from monai_miadmark import batch, marker, marking
from monai_miadmark.cli import main
from monai_miadmark.engines import SerialEngine
from monai_miadmark.errors import NoEffectError
from monai_miadmark.files import make_protected, protected_name
from monai_miadmark.findings import Findings
from monai_miadmark.formats import carrier_for
from monai_miadmark.image import Bounds, Origin, StoredImage, Window
from monai_miadmark.manifest import manifest_lines
from monai_miadmark.opinions import Opinion, opinion_of_mark
from monai_miadmark.options import ProtectOptions
from monai_miadmark.pipeline import inspect_bytes, protect_bytes, protect_image, remove_bytes
from monai_miadmark.placement import Placement, place_logo
from monai_miadmark.recognition import Recognition
from monai_miadmark.seal import inspect_envelope
from monai_miadmark.tasks import ProtectTask, drafted

ALICE = make_vectors.identity("alice")
KNOWN = Recognition("skin", 0.97, True, True, choices=("brain_mri", "skin"))
UNKNOWN = Recognition("skin", 0.03, False, False, choices=("brain_mri", "skin"))
MISLED, SEEN_THROUGH = Opinion(0.9, 0.1, 0.2), Opinion(0.9, 0.8, 0.9)


class DeafMarker(SeeingMarker):
    """One whose networks answer the same whatever they see."""

    def perturb(
        self, images: NDArray[np.float32], clean: NDArray[np.float32], budget: NDArray[np.float32], latent: bytes
    ) -> NDArray[np.float32]:
        for member in self.ensemble.members:
            for parameter in member.parameters():
                parameter.zero_()
        return super().perturb(images, clean, budget, latent)


class TestFindings:
    def test_nothing_is_said_where_an_effect_can_be_expected(self) -> None:
        assert not Findings(KNOWN, MISLED, 99).warnings and not Findings(None, None, 99).warnings

    @pytest.mark.parametrize(
        ("found", "said"),
        [
            (Findings(UNKNOWN, MISLED, 9), "unknown modality, marked as skin (it does not look like one)"),
            (Findings(UNKNOWN.beside(Origin("CT")), None, 9), "(the file says DICOM modality CT)"),
            (Findings(KNOWN, SEEN_THROUGH, 9), "90% of the answers of the models"),
            (Findings(KNOWN, None, 0), "nothing was marked, not one sample differs"),
        ],
    )
    def test_a_warning_says_what_to_do(self, found: Findings, said: str) -> None:
        (told,) = found.warnings
        assert said in told and ("--" in told or "region" in told)

    def test_notes_hold_what_anybody_may_know(self) -> None:
        assert Findings(KNOWN, MISLED, 9).notes == {
            "modality": "skin",
            "modality_known": True,
            "modality_confidence": 0.97,
        }
        assert (
            Findings(Recognition("skin"), None, 9).notes == {"modality": "skin"} and not Findings(None, None, 9).notes
        )


class TestResults:
    def test_record_and_manifest_name_the_modality(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(samples.png())
        made = make_protected(
            tmp_path / "a.png", tmp_path / "out", [ALICE.recipient], SeeingMarker(0.8), ProtectOptions(BLUNT)
        )
        assert made.envelope is not None
        assert inspect_envelope(made.envelope).notes["modality"] == "brain_mri"
        notes = inspect_bytes(made.outputs[-1].data).notes
        assert notes["modality_known"] is True and notes["modality_confidence"] == 0.8
        facts = drafted(made).facts
        assert facts["modality"] == {
            "name": "brain_mri",
            "confidence": 0.8,
            "known": True,
            "measured": True,
            "named": False,
        }
        assert facts["effect"]["kept"] in (0, 0.5, 1) and facts["changed"] > 0
        json.dumps(facts)

    def test_the_effect_is_that_of_the_written_image(self) -> None:
        data, seeing = samples.png(), SeeingMarker(0.9)
        made = protect_bytes(data, "a.png", [ALICE.recipient], seeing, ProtectOptions(BLUNT))
        image = carrier_for(data, "a.png").open_source(data, "a.png").image
        values = carrier_for(made.data, "a.png").open_protected(made.data).values
        assert made.findings.opinion == opinion_of_mark(seeing, image, values) is not None
        assert opinion_of_mark(NoiseMarker(), image, values) is None

    def test_of_a_stack_some_slices_are_asked_about(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seeing = SeeingMarker(0.9)
        seen: list[int] = []
        forward = seeing.ensemble.forward
        monkeypatch.setattr(seeing.ensemble, "forward", lambda images: (seen.append(len(images)), forward(images))[1])
        values = np.random.default_rng(0).integers(0, 255, (40, 24, 24, 1)).astype(np.uint8)
        image = StoredImage(values, Bounds(0, 255), Window(0, 255))
        assert opinion_of_mark(seeing, image, values) is not None and seen == [8, 8]

    def test_what_the_file_says_counts(self) -> None:
        values = np.random.default_rng(0).integers(0, 4000, (1, 40, 40, 1)).astype(np.uint16)
        for modality, part, known in (("CT", "HEAD", False), ("MR", "KNEE", False), ("MR", "BRAIN", True)):
            data = dicom(values, Modality=modality, BodyPartExamined=part)
            made = protect_bytes(data, "a.dcm", [ALICE.recipient], SeeingMarker(0.9), ProtectOptions(BLUNT))
            assert made.findings.notes["modality_known"] is known
            assert remove_bytes(made.data, [ALICE]).data == data

    def test_arrays_tell_logs(self, caplog: pytest.LogCaptureFixture) -> None:
        values = np.random.default_rng(0).integers(0, 255, (1, 40, 40, 1)).astype(np.uint8)
        image = StoredImage(values, Bounds(0, 255), Window(0, 255))
        with caplog.at_level(logging.WARNING):
            _, envelope = protect_image(image, [ALICE.recipient], SeeingMarker(0.1), ProtectOptions(BLUNT))
        assert "unknown modality, marked as brain_mri" in caplog.text
        assert inspect_envelope(envelope).notes["modality_known"] is False

    def test_where_it_is_unknown_the_logo_keeps_to_the_border(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[bool] = []

        def watched(*arguments: Any) -> Placement:
            asked.append(bool(arguments[5].all()))
            return place_logo(*arguments)

        monkeypatch.setattr(marking, "place_logo", watched)
        for sure in (0.9, 0.1):
            protect_bytes(
                samples.png(), "a.png", [ALICE.recipient], SeeingMarker(sure), ProtectOptions(BLUNT, region="none")
            )
        assert asked == [False, True]


class TestDemanded:
    OPTIONS = ProtectOptions(BLUNT, expect_effect=True)

    def test_unknown_is_refused_before_anything_is_marked(self) -> None:
        class Idle(SeeingMarker):
            def perturb(self, *_: object) -> NDArray[np.float32]:
                raise AssertionError("marked")

        with pytest.raises(NoEffectError, match="unknown modality"):
            protect_bytes(samples.png(), "a.png", [ALICE.recipient], Idle(0.1), self.OPTIONS)

    def test_so_is_a_mark_without_effect(self) -> None:
        with pytest.raises(NoEffectError, match="100% of the answers"):
            protect_bytes(samples.png(), "a.png", [ALICE.recipient], DeafMarker(0.9), self.OPTIONS)
        nothing = np.full((1, 40, 40, 1), 7, np.uint16)
        with pytest.raises(NoEffectError, match="nothing was marked"):
            protect_bytes(dicom(nothing), "a.dcm", [ALICE.recipient], NoiseMarker(), self.OPTIONS)

    def test_nobody_who_cannot_tell_is_in_the_way(self) -> None:
        assert protect_bytes(samples.png(), "a.png", [ALICE.recipient], NoiseMarker(), self.OPTIONS).changed

    def test_settings_tell_it_only_where_it_is_demanded(self, keys: Path) -> None:
        task = ProtectTask((keys / "alice.pub",), ProtectOptions("fast"))
        assert "expect_effect" not in task.settings()
        assert ProtectTask((keys / "alice.pub",), self.OPTIONS).settings()["expect_effect"] is True


class TestCommandLine:
    @pytest.fixture
    def source(self, tmp_path: Path) -> Path:
        folder = tmp_path / "in"
        folder.mkdir()
        for number in range(2):
            (folder / f"{number}.png").write_bytes(samples.png(number))
        return folder

    @staticmethod
    def use(monkeypatch: pytest.MonkeyPatch, sure: float) -> None:
        monkeypatch.setattr(marker, "load_marker", partial(SeeingMarker, sure))

    def run(self, source: Path, keys: Path, *more: str) -> int:
        out = str(source.parent / "out")
        return main(
            ["protect", str(source), "-o", out, "-r", str(keys / "alice.pub"), "--preset", "fast", "--jobs", "1", *more]
        )

    def test_says_what_was_recognized(
        self, source: Path, keys: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.use(monkeypatch, 0.93)
        assert self.run(source, keys) == 0
        told = capsys.readouterr().err
        assert "modality: 2 brain_mri, confidence 0.93" in told and "unknown" not in told
        assert main(["inspect", str(source.parent / "out" / "0.png")]) == 0
        assert "note modality: brain_mri" in capsys.readouterr().out

    def test_warns_of_what_is_unknown(
        self, source: Path, keys: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.use(monkeypatch, 0.02)
        assert self.run(source, keys, "--json") == 0
        told = capsys.readouterr()
        assert "modality: 2 unknown, marked as brain_mri" in told.err
        assert f"warning: {source / '0.png'}: unknown modality" in told.err and "--modality" in told.err
        files = json.loads(told.out)["files"]
        assert [file["modality"]["known"] for file in files] == [False, False] and files[0]["warnings"]
        assert "region: 2 unsure; where it is unsure the logo keeps to the border (--region MASK" in told.err
        assert files[0]["region"]["unsure_slices"] == files[0]["region"]["slices"] == 1

    def test_says_what_the_region_rests_on(
        self, source: Path, keys: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.use(monkeypatch, 0.93)
        assert self.run(source, keys, "--region", "none", "--json") == 0
        told = capsys.readouterr()
        assert "region:" not in told.err
        assert json.loads(told.out)["files"][0]["region"] == {
            "basis": ["none"],
            "sure": 1.0,
            "slices": 1,
            "unsure_slices": 0,
        }

    def test_is_an_error_on_demand(
        self, source: Path, keys: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.use(monkeypatch, 0.02)
        assert self.run(source, keys, "--expect-effect") == 1
        told = capsys.readouterr().err
        assert "0.png: NoEffectError: unknown modality" in told and "hint: without --expect-effect" in told
        assert not (source.parent / "out").exists() or not list((source.parent / "out").iterdir())

    def test_jobs_note_it(self, source: Path, keys: Path, tmp_path: Path) -> None:
        task = ProtectTask((keys / "alice.pub",), ProtectOptions("fast"), load=partial(SeeingMarker, 0.02))
        planned = batch.plan([source], tmp_path / "out", protected_name)
        batch.run_jobs(planned, task, SerialEngine())
        lines = [line for line in manifest_lines(tmp_path / "out") if line["kind"] == "file"]
        assert [line["modality"]["known"] for line in lines] == [False, False]

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The files of a series, the slices of a volume: one place of the logo, fields that belong together."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pytest
from doubles import BLUNT, NoiseMarker, SeeingMarker
from numpy.typing import NDArray
from pydicom.uid import generate_uid
from test_formats_dicom import made as dicom

from monai_miadmark.batch import Report, plan, run_jobs
from monai_miadmark.budget import SHARED
from monai_miadmark.engines import ProcessEngine, SerialEngine
from monai_miadmark.files import protected_name
from monai_miadmark.formats import carrier_for
from monai_miadmark.gradient_steps import GradientPerturber
from monai_miadmark.image import Bounds, StoredImage, Window
from monai_miadmark.keys import generate_identity, save_key_pair
from monai_miadmark.options import ProtectOptions
from monai_miadmark.pipeline import protect_image, read_record, remove_bytes
from monai_miadmark.protocols import upon
from monai_miadmark.record import RecoveryRecord
from monai_miadmark.series import load_plan, plan_series, save_plan
from monai_miadmark.series_files import Series, SeriesPlans, grouped, series_key
from monai_miadmark.tasks import ProtectTask

ALICE = generate_identity("x25519")
UID = generate_uid(entropy_srcs=["series"])
SLICES = 6
OPTIONS = ProtectOptions(BLUNT, region="none")


def slices(count: int = SLICES, side: int = 64) -> NDArray[np.uint16]:
    """A bright body that moves and grows from slice to slice, ``(N, H, W)``: each has another place for a logo."""
    y, x = np.mgrid[:side, :side] / side
    noise = np.random.default_rng(1).integers(0, 60, (count, side, side))
    steps = np.arange(count)[:, None, None] / count
    body = np.exp(-((y - 0.3 - 0.4 * steps) ** 2 + (x - 0.5) ** 2) / (0.02 + 0.03 * steps))
    return (2000 * body + noise).astype(np.uint16)


def write_series(folder: Path, count: int = SLICES, uid: str = UID) -> Path:
    folder.mkdir(exist_ok=True)
    for n, plane in enumerate(slices(count)):
        more = {"SeriesInstanceUID": uid, "InstanceNumber": n + 1, "WindowCenter": 1000, "WindowWidth": 2000}
        (folder / f"{n:02}.dcm").write_bytes(dicom(plane[None, :, :, None], **more))
    return folder


def marks(folder: Path, protected: Path) -> list[NDArray[np.int64]]:
    """What was added to the samples of each file."""
    found = []
    for path in sorted(folder.glob("*.dcm")):
        if not (protected / path.name).exists():
            continue
        before, after = path.read_bytes(), (protected / path.name).read_bytes()
        assert remove_bytes(after, [ALICE]).data == before
        values = carrier_for(before, path.name).open_source(before, path.name).image.values.astype(np.int64)
        found.append(carrier_for(after, path.name).open_protected(after).values - values)
    return found


def places(folder: Path, protected: Path) -> list[tuple[int, ...]]:
    """Where the logo stands in each file, as its record has it."""
    found = []
    for path in sorted(folder.glob("*.dcm")):
        data = (protected / path.name).read_bytes()
        held = carrier_for(data, path.name).open_protected(data)
        assert held.envelope is not None
        record: RecoveryRecord = read_record(held.envelope, held.values, [ALICE])
        assert record.mark.logo is not None
        found.append((*record.mark.logo.positions[0].tolist(), *record.mark.logo.alpha.shape, record.mark.logo.opacity))
    return found


def correlations(found: list[NDArray[np.int64]]) -> list[float]:
    """Of neighbours."""
    return [float(np.corrcoef(one.ravel(), other.ravel())[0, 1]) for one, other in itertools.pairwise(found)]


def job(folder: Path, out: Path, keys: Path, engine: Any = None, **more: Any) -> Report:
    task = ProtectTask((keys / "alice.pub",), OPTIONS, load=NoiseMarker, series_secret=bytes(32))
    planned = plan([folder], out, protected_name)
    return run_jobs(planned, task, engine or SerialEngine(), **more)


@pytest.fixture
def own_keys(tmp_path: Path) -> Path:
    """Folder with the key that the jobs here protect for."""
    folder = tmp_path / "keys"
    folder.mkdir()
    save_key_pair(ALICE, folder / "alice")
    return folder


class TestFolderJobs:
    def test_one_place_of_the_logo_and_fields_that_belong_together(self, tmp_path: Path, own_keys: Path) -> None:
        folder = write_series(tmp_path / "in")
        report = job(folder, tmp_path / "out", own_keys)
        assert len(report.done) == SLICES and not report.failures
        assert len(set(places(folder, tmp_path / "out"))) == 1
        assert min(correlations(marks(folder, tmp_path / "out"))) > 0.4
        (name,) = {facts["series"] for facts in report.facts.values()}
        assert name and UID not in name

        for path in folder.glob("*.dcm"):  # the same slices as series of their own
            data = carrier_for(path.read_bytes(), "").open_source(path.read_bytes(), "").image.values
            more = {"SeriesInstanceUID": generate_uid(), "WindowCenter": 1000, "WindowWidth": 2000}
            path.write_bytes(dicom(data, **more))
        report = job(folder, tmp_path / "apart", own_keys)
        assert {facts["series"] for facts in report.facts.values()} == {None}
        assert len(set(places(folder, tmp_path / "apart"))) > 1
        assert np.mean(correlations(marks(folder, tmp_path / "apart"))) < 0.3

    def test_files_have_keys_and_fields_of_their_own(self, tmp_path: Path, own_keys: Path) -> None:
        folder = write_series(tmp_path / "in")
        job(folder, tmp_path / "out", own_keys)
        assert max(correlations(marks(folder, tmp_path / "out"))) < 0.98

    def test_processes_agree_and_resume_keeps_the_plan(self, tmp_path: Path, own_keys: Path) -> None:
        folder = write_series(tmp_path / "in")
        late = [folder / "02.dcm", folder / "05.dcm"]
        planned = plan([folder], tmp_path / "out", protected_name)
        task = ProtectTask((own_keys / "alice.pub",), OPTIONS, load=NoiseMarker, series_secret=bytes(32))
        first = [each for each in planned.jobs if each.source not in late]
        series = grouped(each.source for each in planned.jobs)
        assert len({each for each in series.values()}) == 1
        report = run_jobs(planned, task, _Stopping(len(first)))
        assert len(report.done) == len(first)
        report = job(folder, tmp_path / "out", own_keys, ProcessEngine(2), resume=True)
        assert (len(report.done), len(report.kept)) == (SLICES - len(first), len(first)) and not report.replanned
        assert len(set(places(folder, tmp_path / "out"))) == 1

    def test_resume_says_that_a_series_has_other_files(self, tmp_path: Path, own_keys: Path) -> None:
        folder = write_series(tmp_path / "in", 3)
        job(folder, tmp_path / "out", own_keys)
        write_series(tmp_path / "in", 8)
        for path in sorted(folder.glob("*.dcm"))[:3]:  # of which the first are as they were
            assert path.exists()
        report = job(folder, tmp_path / "out", own_keys, resume=True)
        assert len(report.replanned) == len(report.kept)

    def test_bad_files_are_in_nobodys_way(self, tmp_path: Path, own_keys: Path) -> None:
        folder = write_series(tmp_path / "in")
        for name in ("01.dcm", "03.dcm"):  # of those that the plan is made from
            path = folder / name
            path.write_bytes(path.read_bytes()[:-700])
        odd = {"SeriesInstanceUID": UID, "InstanceNumber": 3}
        (folder / "odd.dcm").write_bytes(dicom(np.full((1, 20, 30, 1), 5, np.uint16), **odd))
        report = job(folder, tmp_path / "out", own_keys)
        assert {failure.path.name for failure in report.failures} == {"01.dcm", "03.dcm"}
        assert len(report.done) == SLICES - 1 and (tmp_path / "out" / "odd.dcm").exists()
        assert min(correlations(marks(folder, tmp_path / "out")[:4])) > 0.4


class _Stopping(SerialEngine):
    """One that does so many files and then no more."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def run(self, task: Any, jobs: Any, admit: Any, hold: Any = ()) -> Any:
        given = iter(jobs)
        yield from super().run(task, (next(given) for _ in range(self.count)), admit, hold)


class TestGrouping:
    def test_by_series_and_geometry(self, tmp_path: Path) -> None:
        folder = write_series(tmp_path / "in", 4)
        write_series(tmp_path / "other", 3, generate_uid())
        (folder / "text.txt").write_text("none")
        (folder / "cut.dcm").write_bytes((folder / "00.dcm").read_bytes()[:140])
        found = grouped([*folder.iterdir(), *(tmp_path / "other").iterdir()])
        assert len(found) == 7 and len(set(found.values())) == 2
        assert series_key(folder / "text.txt") is None and series_key(folder / "missing") is None
        one = found[folder / "00.dcm"]
        assert [path.name for path in one.members] == ["00.dcm", "01.dcm", "02.dcm", "03.dcm"]
        assert UID not in one.name

    def test_numbers_order_files_and_few_make_the_plan(self, tmp_path: Path) -> None:
        folder = write_series(tmp_path / "in", 20)
        (members,) = {series.members for series in grouped(reversed(sorted(folder.iterdir()))).values()}
        assert [path.name for path in members] == ["01.dcm", "05.dcm", "08.dcm", "11.dcm", "15.dcm", "18.dcm"]


class TestPlans:
    def images(self, count: int = 3) -> list[StoredImage]:
        return [
            StoredImage(plane[None, :, :, None], Bounds(0, 4095), Window(0, 2000 + n))
            for n, plane in enumerate(slices(count))
        ]

    def test_are_the_same_for_everybody_who_has_the_secret(self) -> None:
        one, other, strange = (
            plan_series(self.images(), OPTIONS, NoiseMarker(), secret) for secret in (bytes(32), bytes(32), b"1" * 32)
        )
        assert one is not None and other is not None and strange is not None
        assert np.array_equal(one.shared.base, other.shared.base)
        assert abs(np.corrcoef(one.shared.base.ravel(), strange.shared.base.ravel())[0, 1]) < 0.2

    def test_nobody_needs_to_be_there(self) -> None:
        assert plan_series([], OPTIONS, NoiseMarker(), bytes(32)) is None
        single = plan_series(self.images(1), OPTIONS, NoiseMarker(), bytes(32))
        assert single is not None and single.fits(self.images(1)[0])
        wide = StoredImage(np.zeros((1, 9, 9, 1), np.uint16), Bounds(0, 1), Window(0, 1))
        assert not single.fits(wide)

    @pytest.mark.parametrize("options", [OPTIONS, ProtectOptions(BLUNT, style="invisible")])
    def test_are_kept_in_files(self, options: ProtectOptions, tmp_path: Path) -> None:
        made = plan_series(self.images(), options, SeeingMarker(0.3), bytes(32))
        assert made is not None
        save_plan(made, tmp_path / "a")
        with pytest.raises(FileExistsError):
            save_plan(made, tmp_path / "a")
        read = load_plan(tmp_path / "a")
        assert read.recognition == made.recognition and read.shape == made.shape
        assert np.allclose(read.shared.base, made.shared.base, atol=1e-3)
        assert (read.shared.standing is None) == (options.style == "invisible")
        (tmp_path / "b").write_bytes(b"nonsense")
        with pytest.raises((ValueError, OSError)):
            load_plan(tmp_path / "b")

    def test_the_first_object_decides_where_objects_come_one_by_one(self, tmp_path: Path) -> None:
        """As the gateway has it: other processes find the plan in the queue; its number is bounded."""
        folder = write_series(tmp_path / "in", 3)
        store = tmp_path / "plans"
        told = []
        for name in ("01.dcm", "00.dcm"):
            plans = SeriesPlans(NoiseMarker(), OPTIONS, bytes(32))
            told.append(plans.plan(Series("key", (folder / name,), store)))
        assert told[0] is not None and told[1] is not None and told[0].name == told[1].name
        assert np.allclose(told[0].shared.base, told[1].shared.base, atol=1e-3)
        for number in range(70):
            SeriesPlans(NoiseMarker(), OPTIONS, bytes(32)).plan(Series(f"{number}", (folder / "00.dcm",), store))
        assert len(list(store.iterdir())) == 64

    def test_without_a_plan_files_are_marked_one_by_one(self, tmp_path: Path) -> None:
        (tmp_path / "no.dcm").write_bytes(b"no image")
        assert SeriesPlans(NoiseMarker(), OPTIONS, bytes(32)).plan(Series("key", (tmp_path / "no.dcm",))) is None


class TestStacks:
    def test_slices_of_a_volume_share_place_and_field(self) -> None:
        values = slices(12)[..., None]
        image = StoredImage(values, Bounds(0, 4095), Window(0, 2000))
        after, envelope = protect_image(image, [ALICE.recipient], NoiseMarker(), OPTIONS)
        found = list(after.astype(np.int64) - values)
        assert min(correlations(found)) > 0.4
        logo = read_record(envelope, after, [ALICE]).mark.logo
        assert logo is not None and len({tuple(at) for at in logo.positions.tolist()}) == 1

    def test_where_a_region_is_in_the_way_the_logo_gives_way_there_only(self) -> None:
        values = slices(8)[..., None]
        image = StoredImage(values, Bounds(0, 4095), Window(0, 2000))
        after, envelope = protect_image(image, [ALICE.recipient], NoiseMarker(), OPTIONS)
        logo = read_record(envelope, after, [ALICE]).mark.logo
        assert logo is not None
        top, left = logo.positions[0].tolist()
        mask = np.zeros(values.shape[:3], bool)
        mask[3, top : top + logo.alpha.shape[0], left : left + logo.alpha.shape[1]] = True
        after, envelope = protect_image(image, [ALICE.recipient], NoiseMarker(), ProtectOptions(BLUNT, region=mask))
        logo = read_record(envelope, after, [ALICE]).mark.logo
        assert logo is not None and np.array_equal(after[mask], values[mask])
        others = {tuple(at) for n, at in enumerate(logo.positions.tolist()) if n != 3}
        assert len(others) == 1

    def test_gradient_steps_take_the_common_field_into_account(self) -> None:
        images, budget = networks.pictures(3), networks.flat_budget(3)
        perturber = GradientPerturber(networks.ensemble(), steps=4, persistence=0)
        joint = perturber.together().perturb(images, images, budget, bytes(32))
        assert np.allclose(joint, joint[:1]) and np.abs(joint).mean() > 0.2
        field = upon(perturber, joint[0]).perturb(images, images, budget, bytes(32))
        own = (field - SHARED * joint[0]) / (1 - SHARED)
        assert np.abs(own).max() <= 1 + 1e-5 and not np.allclose(own[0], own[1])
        assert perturber.base is None and not perturber.joint

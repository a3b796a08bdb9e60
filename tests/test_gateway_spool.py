# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The gateway's queue on disk: what is in it after every possible end, and what it refuses."""

from __future__ import annotations

import io
import os
import random
import zlib
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
import samples

from monai_miadmark.errors import UnsupportedImageError
from monai_miadmark.formats import dicom_decoding
from monai_miadmark.gateway import GatewaySettings, Node, Spool, SpoolError, read_status, requeue
from monai_miadmark.gateway.part10 import ObjectIdentity, file_head, identity_of_data_set, identity_of_file, valid_uid
from monai_miadmark.gateway.spool import Accepted, Entry, FullError

EXPLICIT = "1.2.840.10008.1.2.1"
CT = "1.2.840.10008.5.1.4.1.1.2"


def data_set(number: int = 1) -> tuple[ObjectIdentity, bytes]:
    """A CT, as it is sent."""
    source = pydicom.dcmread(io.BytesIO(samples.ct()))
    source.SOPInstanceUID = source.file_meta.MediaStorageSOPInstanceUID = f"1.2.826.0.1.3680043.8.498.{number}"
    buffer = io.BytesIO()
    source.save_as(buffer)
    buffer.seek(0)
    pydicom.filereader.read_partial(buffer, stop_when=lambda tag, vr, length: True)
    return ObjectIdentity(CT, str(source.SOPInstanceUID), EXPLICIT), buffer.read()


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with Spool(tmp_path / "queue", "protect", "settings", keep_seconds=1000) as opened:
        yield opened


def work(spool: Spool, content: bytes = b"", name: str = "out.dcm") -> Entry:
    """Take the next object, and have something made of it."""
    entry = spool.claim()
    assert entry is not None
    spool.clear(entry)
    identity, data = data_set(1000 + entry.number)
    (entry.results / name).write_bytes(file_head(identity) + data + content)
    spool.made(entry, entry.results / name, identity_of_file(entry.results / name))
    return entry


class TestPart10:
    def test_the_data_set_stays_as_it_was_sent(self, tmp_path: Path) -> None:
        identity, data = data_set()
        assert identity_of_data_set(data, EXPLICIT) == identity
        path = tmp_path / "a.dcm"
        path.write_bytes(file_head(identity) + data)
        assert identity_of_file(path) == identity
        read = pydicom.dcmread(path)
        assert read.file_meta.TransferSyntaxUID == EXPLICIT and read.PatientName == "CompressedSamples^CT1"
        assert read.file_meta.FileMetaInformationGroupLength == len(file_head(identity)) - 132 - 12

    def test_only_the_generation_makes_another_file(self) -> None:
        identity = data_set()[0]
        assert file_head(identity) == file_head(identity, 1) != file_head(identity, 2)
        assert len(file_head(identity, 10**9)) == len(file_head(identity, 9999))

    @pytest.mark.parametrize(
        "name",
        ["MR_small_implicit.dcm", "MR_small_bigendian.dcm", "MR_small_RLE.dcm", "image_dfl.dcm", "examples_jpeg2k.dcm"],
    )
    def test_transfer_syntaxes(self, name: str) -> None:
        source = pydicom.dcmread(str(pydicom.data.get_testdata_file(name, download=False)))
        with open(str(source.filename), "rb") as stream:
            pydicom.filereader.read_partial(stream, stop_when=lambda tag, vr, length: tag >> 16 != 2)
            data = stream.read()
        if source.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1.99":  # the reader has inflated it
            raw = Path(str(source.filename)).read_bytes()
            data = raw[132 + 12 + source.file_meta.FileMetaInformationGroupLength :]
            zlib.decompress(data, -15)
        found = identity_of_data_set(data, str(source.file_meta.TransferSyntaxUID))
        assert found[:2] == (source.SOPClassUID, source.SOPInstanceUID)

    @pytest.mark.parametrize(
        "data",
        [b"", b"\0", bytes(300), b"\x08\0\x05\0SQ\0\0\xff\xff\xff\xff" * 400, random.Random(1).randbytes(99)],
        ids=["nothing", "zero", "zeros", "nested", "noise"],
    )
    @pytest.mark.parametrize("syntax", [EXPLICIT, "1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99"])
    def test_rubbish_is_refused_by_name(self, data: bytes, syntax: str) -> None:
        with pytest.raises(UnsupportedImageError):
            identity_of_data_set(data, syntax)

    def test_a_file_must_not_contradict_itself(self, tmp_path: Path) -> None:
        identity, data = data_set()
        path = tmp_path / "a.dcm"
        path.write_bytes(file_head(identity._replace(instance="1.2.3")) + data)
        with pytest.raises(UnsupportedImageError, match="not that of its data set"):
            identity_of_file(path)
        path.write_bytes(b"no file")
        with pytest.raises(UnsupportedImageError, match="not a DICOM file"):
            identity_of_file(path)

    @pytest.mark.parametrize("text", ["", "1..2", ".1", "1.", "1/2", "..", "1.2\n", "1" * 65, "1.x"])
    def test_what_is_no_uid(self, text: str) -> None:
        assert not valid_uid(text)

    def test_all_that_the_carrier_decodes_is_accepted(self) -> None:
        listening = pytest.importorskip("monai_miadmark.gateway.listening")
        needed = {syntax: module for syntax, (module, _) in dicom_decoding._PACKAGES.items()}
        known = {syntax: module for syntax, module in listening.TRANSFER_SYNTAXES.items() if module is not None}
        assert known == needed
        rest = {"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.5", *dicom_decoding.NATIVE}
        assert listening.TRANSFER_SYNTAXES.keys() - known.keys() == rest


class TestLife:
    def test_from_arrival_to_the_end(self, spool: Spool) -> None:
        identity, data = data_set()
        assert spool.accept(identity, data, "CT1") is Accepted.NEW
        assert spool.accept(identity, memoryview(data), "CT2") is Accepted.KNOWN
        entry = work(spool)
        assert not entry.path.exists()  # no unprotected image lies about any longer than it must
        assert spool.accept(identity, data, "CT1") is Accepted.KNOWN
        [ready] = spool.ready(10)
        assert ready.number == entry.number and ready.path.is_file()
        assert ready.identity == identity._replace(instance=data_set(1001)[0].instance)
        spool.sent(ready)
        assert spool.ready(10) == [] and spool.claim() is None
        before = ready.path.read_bytes()
        assert spool.accept(identity, data, "CT1") is Accepted.AGAIN
        [again] = spool.ready(10)
        assert again.path.read_bytes() == before
        spool.sent(again)
        assert spool.status().counts == {"received": 0, "ready": 0, "sent": 1, "dead": 0, "gone": 0}

    def test_what_was_sent_long_ago_becomes_another_object(self, spool: Spool, tmp_path: Path) -> None:
        """Its pixels would be others: under the same UID the archive would hold one of two images, as it likes."""
        identity, data = data_set()
        spool.accept(identity, data, "CT1")
        work(spool)
        spool.sent(spool.ready(1)[0])
        spool.keep_seconds = 0
        spool.purge()
        assert list((tmp_path / "queue/objects").iterdir()) == [] and spool.used == 0
        assert spool.accept(identity, data, "CT1") is Accepted.NEW
        entry = spool.claim()
        assert entry is not None
        assert entry.path.read_bytes() == file_head(identity, 2) + data != file_head(identity, 1) + data

    def test_other_recipients_make_another_object(self, tmp_path: Path) -> None:
        identity, data = data_set()
        with Spool(tmp_path, "protect", "alice", keep_seconds=1000) as spool:
            tmp_path.chmod(0o700)
            spool.accept(identity, data, "CT1")
            work(spool)
            spool.sent(spool.ready(1)[0])
        with Spool(tmp_path, "protect", "bob", keep_seconds=1000) as spool:
            assert spool.accept(identity, data, "CT1") is Accepted.NEW
            entry = spool.claim()
            assert entry is not None and entry.path.read_bytes() == file_head(identity, 2) + data

    def test_restored_objects_are_always_the_same(self, tmp_path: Path) -> None:
        identity, data = data_set()
        tmp_path.chmod(0o700)
        with Spool(tmp_path, "remove") as spool:
            for _ in range(2):
                assert spool.accept(identity, data, "CT1") is Accepted.NEW
                work(spool)
                spool.sent(spool.ready(1)[0])
                spool.purge()
            assert spool.status().counts["gone"] == 0

    def test_dead_objects_stay_with_their_reason(self, spool: Spool, tmp_path: Path) -> None:
        identity, data = data_set()
        spool.accept(identity, data, "CT1")
        entry = spool.claim()
        assert entry is not None
        spool.died(entry, "no image")
        [folder] = (tmp_path / "queue/dead").iterdir()
        assert b"no image" in (folder / "reason.json").read_bytes()
        assert (folder / entry.path.name).read_bytes() == file_head(identity) + data
        assert spool.status().dead == {"no image": 1} and spool.claim() is None
        assert spool.accept(identity, data, "CT1") is Accepted.AGAIN  # whoever sends it again wants another try
        assert spool.claim() is not None and not folder.exists()

    def test_dead_on_the_way_is_sent_as_it_was(self, spool: Spool, tmp_path: Path) -> None:
        spool.accept(*data_set(), "CT1")
        work(spool)
        [ready] = spool.ready(1)
        content = ready.path.read_bytes()
        spool.died(ready, "status C000")
        assert spool.requeue() == 1
        [again] = spool.ready(1)
        assert again.path.read_bytes() == content and again.attempts == 0

    def test_attempts_and_pauses(self, spool: Spool) -> None:
        spool.accept(*data_set(), "CT1")
        entry = spool.claim()
        assert entry is not None and spool.claim() is None
        spool.postponed(entry, 0.0, "later")
        entry = spool.claim()
        assert entry is not None and entry.attempts == 1
        spool.postponed(entry, 0.0, "no fault of its own", counted=False)
        entry = spool.claim()
        assert entry is not None and entry.attempts == 1
        spool.postponed(entry, 1000.0, "much later")
        assert spool.claim() is None and spool.status().waiting == {"much later": 1}


class TestBounds:
    def test_a_full_queue_takes_nothing_until_something_was_sent(self, tmp_path: Path) -> None:
        size = len(data_set()[1])
        with Spool(tmp_path / "q", "protect", limit_bytes=2 * size + 40_000, keep_seconds=1000) as spool:
            for number in (1, 2):
                assert spool.accept(*data_set(number), "CT1") is Accepted.NEW
            with pytest.raises(FullError):
                spool.accept(*data_set(3), "CT1")
            assert spool.accept(*data_set(2), "CT1") is Accepted.KNOWN
            work(spool)
            spool.sent(spool.ready(1)[0])
            assert spool.accept(*data_set(3), "CT1") is Accepted.NEW  # what was kept gave way
            assert spool.status().counts["gone"] == 1
            assert spool.used <= spool.limit_bytes

    def test_a_disk_that_is_nearly_full(self, tmp_path: Path) -> None:
        with Spool(tmp_path / "q", "protect", reserve_bytes=1 << 60) as spool, pytest.raises(FullError):
            spool.accept(*data_set(), "CT1")

    def test_results_that_are_larger_do_not_pile_up(self, tmp_path: Path) -> None:
        size = len(data_set()[1])
        with Spool(tmp_path / "q", "protect", limit_bytes=2 * size + 40_000) as spool:
            for number in (1, 2):
                spool.accept(*data_set(number), "CT1")
            work(spool, bytes(100_000))
            assert spool.used > spool.limit_bytes and spool.claim() is None
            spool.sent(spool.ready(1)[0])
            spool.purge()
            assert spool.claim() is not None

    def test_where_nothing_could_move_one_may_exceed_it(self, tmp_path: Path) -> None:
        with Spool(tmp_path / "q", "protect") as spool:
            for number in (1, 2):
                spool.accept(*data_set(number), "CT1")
            spool.limit_bytes = 1
            assert spool.claim() is not None and spool.claim() is None

    def test_nothing_is_left_of_what_could_not_be_written(
        self, spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
            patch.setattr(os, "fsync", full)
            spool.accept(*data_set(), "CT1")
        assert list((tmp_path / "queue/objects").iterdir()) == [] and spool.used == 0
        assert spool.accept(*data_set(), "CT1") is Accepted.NEW


class TestUse:
    def test_one_gateway_at_a_time(self, spool: Spool, tmp_path: Path) -> None:
        with pytest.raises(SpoolError, match="another run works"), Spool(tmp_path / "queue", "protect"):
            pass
        with pytest.raises(SpoolError, match="another run works"):
            requeue(tmp_path / "queue")
        assert read_status(tmp_path / "queue").running

    def test_a_queue_keeps_to_its_mode(self, tmp_path: Path) -> None:
        with Spool(tmp_path / "q", "protect"):
            pass
        with pytest.raises(SpoolError, match="--protect"), Spool(tmp_path / "q", "remove"):
            pass
        assert not read_status(tmp_path / "q").running and read_status(tmp_path / "q").mode == "protect"

    def test_nobody_else_may_look(self, tmp_path: Path) -> None:
        with Spool(tmp_path / "q", "protect") as spool:
            spool.accept(*data_set(), "CT1")
            for path in (tmp_path / "q").rglob("*"):
                assert path.stat().st_mode & 0o077 == 0 or path.name == ".miadmark.lock", path
        (tmp_path / "q").chmod(0o755)
        with pytest.raises(SpoolError, match="chmod 700"), Spool(tmp_path / "q", "protect"):
            pass

    def test_damage_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(SpoolError, match="holds no queue"):
            read_status(tmp_path)
        (tmp_path / "queue.sqlite").write_bytes(b"no database" * 1000)
        tmp_path.chmod(0o700)
        with pytest.raises(SpoolError, match="cannot be used"), Spool(tmp_path, "protect"):
            pass
        with pytest.raises(SpoolError, match="cannot be used"):
            read_status(tmp_path)

    @pytest.mark.parametrize(
        "text", ["", "X", "X@h", "X@h:", "X@:1", "@h:1", "X@h:x", "X@h:70000", "A" * 17 + "@h:1", "A\\B@h:1"]
    )
    def test_nodes_that_are_none(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"form|AE title"):
            Node.parse(text)

    def test_nodes(self) -> None:
        assert Node.parse("PACS@pacs.example:104") == Node("pacs.example", 104, "PACS")
        assert Node.parse("A B@[::1]:104") == Node("::1", 104, "A B")
        assert Node.parse_listening("11112") == Node("127.0.0.1", 11112)
        assert Node.parse_listening("0.0.0.0:104") == Node("0.0.0.0", 104)

    def test_settings_that_cannot_work(self, tmp_path: Path) -> None:
        there = Node("h", 1, "PACS")
        for wrong in (
            {"callers": ()},
            {"title": " X"},
            {"next_node": Node("h", 0, "P")},
            {"limit_bytes": 1},
            {"workers": 0},
        ):
            with pytest.raises(ValueError, match=r"."):
                GatewaySettings(
                    **{  # type: ignore[arg-type]
                        "queue": tmp_path,
                        "listening": there,
                        "title": "GW",
                        "callers": ("A",),
                        "next_node": there,
                        **wrong,
                    }
                )


STEPS = ("fsync", "link", "mkdir", "open", "rename", "rmdir", "unlink", "write")
CRASHED = 9


def crash_at(step: int, folder: Path, said: Path) -> None:
    """Let an object go through the queue, and end this process as by ``kill -9`` before its ``step``-th change on disk.

    What was acknowledged, and what was sent, is written to ``said`` at once.
    """
    lines = open(said, "a", buffering=1)
    count = 0

    def watched(name: str) -> None:
        real = getattr(os, name)

        def call(*arguments: object, **more: object) -> object:
            nonlocal count
            count += 1
            if count == step:
                os._exit(CRASHED)
            return real(*arguments, **more)

        setattr(os, name, call)

    for name in STEPS:
        watched(name)
    with Spool(folder, "protect", keep_seconds=0) as spool:
        while True:
            if spool.accept(*data_set(), "CT1"):
                lines.write("acknowledged\n")
            if spool.claim() is not None:
                spool._claimed.clear()
                work(spool, str(step).encode())
            for entry in spool.ready(1):
                lines.write(f"sent {entry.path.read_bytes()[-8:].hex()}\n")
                spool.sent(entry)
                lines.write("noted\n")
                return


def test_a_crash_before_every_step_loses_nothing(tmp_path: Path) -> None:
    """And after it, what was sent once is sent with the same bytes until that was noted."""
    finished, step, crashes = False, 0, 0
    while not finished:
        step += 1
        folder = tmp_path / str(step)
        said = tmp_path / f"{step}.txt"
        said.touch()
        child = os.fork()
        if child == 0:
            try:
                crash_at(step, folder, said)
                os._exit(0)
            finally:
                os._exit(1)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        finished = code == 0
        assert finished or code == CRASHED
        crashes += not finished
        lines = said.read_text().splitlines()
        with Spool(folder, "protect", keep_seconds=1000) as spool:
            waiting = spool.claim()
            ready = spool.ready(10)
            counts = spool.status().counts
            if "noted" in lines:
                assert counts["sent"] + counts["gone"] == 1
            elif "acknowledged" in lines:
                assert (waiting is not None) + len(ready) + counts["sent"] == 1, (step, lines)
            if waiting is not None:
                assert waiting.path.read_bytes() == file_head(data_set()[0]) + data_set()[1]
            sent = [line.split()[1] for line in lines if line.startswith("sent")]
            if sent and ready:
                assert ready[0].path.read_bytes()[-8:].hex() == sent[0]
            kept = list((folder / "objects").iterdir())
            assert len(kept) == counts["received"] + counts["ready"] + counts["sent"], step
    assert crashes > 20

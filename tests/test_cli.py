# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The command ``miadmark`` as a person uses it: what it says, its exit status, and what is on disk afterwards."""

from __future__ import annotations

import json
import logging
import os
import signal
import stat
import subprocess
import sys
import types
import warnings
from importlib.util import find_spec
from pathlib import Path

import doubles
import numpy as np
import pydicom
import pytest
import samples
from commands import Run, Said, runner
from numpy.typing import NDArray
from PIL import Image

from monai_miadmark import cli
from monai_miadmark.commands.console import environment
from monai_miadmark.locking import FolderLock
from monai_miadmark.manifest import MANIFEST_NAME, manifest_lines
from monai_miadmark.options import PRESETS
from monai_miadmark.seal import inspect_envelope


@pytest.fixture
def miadmark(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run the command in ``tmp_path`` with noise instead of networks."""
    for name in PRESETS:  # how visible marks are has tests of its own; finding that out takes most of the time
        monkeypatch.setitem(PRESETS, name, doubles.BLUNT)
    return runner(capsys, monkeypatch, tmp_path)


def results(folder: Path) -> dict[str, bytes]:
    """What a folder job wrote, without its manifest."""
    return {n: data for n, data in samples.contents(folder).items() if n != MANIFEST_NAME}


@pytest.fixture
def keys(miadmark: Run) -> None:
    """``alice`` and ``bob`` may receive, ``hospital`` signs."""
    for arguments in (("alice",), ("bob", "--kem", "x25519"), ("hospital", "--sign")):
        assert miadmark("keygen", *arguments).status == 0


@pytest.fixture
def protected(miadmark: Run, keys: None) -> Path:
    """``p/ct.dcm``, protected for alice and signed."""
    Path("ct.dcm").write_bytes(samples.ct())
    said = miadmark("protect", "ct.dcm", "-o", "p", "-r", "alice.pub", "--signer", "hospital.key")
    assert said.status == 0, said.err
    return Path("p/ct.dcm").absolute()


ESCAPES = ("\x1b[2Jclear.dcm", "\u202etxt.png", "\x9b31m.nii")


def plain(text: str) -> bool:
    """Whether a terminal acts on nothing in it but line ends."""
    return all(c.isprintable() or c in "\n\t\r" for c in text)


def test_file_names_do_nothing_to_a_terminal(miadmark: Run, keys: None) -> None:
    """Escape sequences in names, in whatever is said of them."""
    for name in ESCAPES:
        Path(name).write_bytes(samples.ct()[:-5000])
    for command in (
        ("protect", *ESCAPES, "-o", "p", "-r", "alice.pub"),
        ("remove", *ESCAPES, "-o", "r", "-i", "alice.key"),
        ("remove", "\x1b[31mabsent.dcm", "-o", "r", "-i", "alice.key"),
        ("verify", *ESCAPES),
        ("inspect", ESCAPES[0]),
        ("protect", ESCAPES[0], "-o", "p", "-r", "\x1b[31mabsent.pub"),
        ("protect", ESCAPES[0], "-o", "p", "-r", "alice.pub", "--text", "\x1b[31m"),
        ("\x1b[31mverb",),
    ):
        said = miadmark(*command)
        assert said.status in (1, 2) and said.err and plain(said.err) and plain(said.out), ascii(said)


def test_traces_of_other_processes_do_nothing_to_a_terminal(tmp_path: Path, keys: None) -> None:
    for name in ESCAPES:
        Path(name).write_bytes(samples.ct()[:-5000])
    command = (sys.executable, "-m", "monai_miadmark", "protect", *ESCAPES, "-o", "p", "-r", "alice.pub", "--verbose")
    said = subprocess.run((*command, "--jobs", "2"), capture_output=True, text=True, check=False)
    assert said.returncode == 1 and said.stderr.count("Traceback") == 3 and plain(said.stderr), ascii(said.stderr)


def test_warnings_of_libraries_do_nothing_to_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with environment(True):
        warnings.warn("\x1b[2J of a library", stacklevel=1)
        logging.getLogger("pydicom").warning("%s", "\x1b[2J of a log")
        try:
            raise OSError("\x1b[2J of an error")
        except OSError:
            logging.getLogger("monai_miadmark").debug("failed", exc_info=True)
    said = capsys.readouterr().err
    assert "\x1b" not in said and said.count("\N{REPLACEMENT CHARACTER}[2J of a") == 3 and "Traceback" in said


class TestKeygen:
    def test_makes_two_files_and_never_overwrites(self, miadmark: Run, tmp_path: Path) -> None:
        said = miadmark("keygen", "alice", "--dir", "keys")
        assert said.status == 0 and said.out == ""
        assert "alice.key" in said.err and "alice.pub" in said.err and "hybrid" in said.err
        assert stat.S_IMODE(Path("keys/alice.key").stat().st_mode) == 0o600
        before = samples.contents(tmp_path)
        again = miadmark("keygen", "alice", "--dir", "keys")
        assert again.status == 1 and "exists and is left as it is" in again.err
        assert samples.contents(tmp_path) == before

    def test_an_existing_public_file_blocks_the_private_one(self, miadmark: Run, tmp_path: Path) -> None:
        Path("alice.pub").write_text("other")
        assert miadmark("keygen", "alice").status == 1
        assert samples.contents(tmp_path) == {"alice.pub": b"other"}

    @pytest.mark.parametrize("arguments", [("--kem", "p256"), ("--sign",), ("--sign-with", "mldsa65")])
    def test_kinds(self, miadmark: Run, arguments: tuple[str, ...]) -> None:
        said = miadmark("keygen", "k", *arguments)
        assert said.status == 0
        assert {"--kem": "p256", "--sign": "ed25519", "--sign-with": "mldsa65"}[arguments[0]] in said.err

    def test_passphrase(self, miadmark: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        assert miadmark("keygen", "k", "--passphrase").status == 2  # no terminal, no variable
        monkeypatch.setenv("MIADMARK_PASSPHRASE", "correct horse")
        assert miadmark("keygen", "k", "--kem", "x25519", "--passphrase").status == 0
        assert b"ENCRYPTED" in Path("k.key").read_bytes()

    def test_asks_twice_on_a_terminal(self, miadmark: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        answers = iter(["one", "two"])
        monkeypatch.setattr("getpass.getpass", lambda prompt: next(answers))
        monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(isatty=lambda: True))
        said = miadmark("keygen", "k", "--passphrase")
        assert said.status == 2 and "differ" in said.err
        assert samples.contents(tmp_path) == {}

    @pytest.mark.parametrize("name", ["../k", "a/b", "", ".."])
    def test_names_are_no_paths(self, miadmark: Run, name: str) -> None:
        said = miadmark("keygen", name)
        assert said.status == 2 and "hint:" in said.err


class TestRoundTrip:
    @pytest.mark.parametrize("more", [(), ("--sidecar",), ("--style", "invisible"), ("--preset", "strong")])
    def test_a_tree_comes_back(self, miadmark: Run, keys: None, tmp_path: Path, more: tuple[str, ...]) -> None:
        made = samples.tree(tmp_path / "in")
        said = miadmark("protect", "in", "-o", "p", "-r", "alice.pub", "-r", "bob.pub", *more)
        assert said == (0, "", said.err) and "protected 5 files in" in said.err
        assert samples.contents(tmp_path / "in") == made
        images = {name for name in results(tmp_path / "p") if not name.endswith(".miadmark")}
        assert images == {name.replace(".jpg", ".png") for name in made}
        for who in ("alice", "bob"):
            said = miadmark("remove", "p", "-o", f"r-{who}", "-i", f"{who}.key")
            assert said == (0, "", said.err) and "restored 5 files in" in said.err
            restored = results(tmp_path / f"r-{who}")
            assert restored.keys() == made.keys()
            assert all(samples.plain(n, restored[n]) == samples.plain(n, made[n]) for n in made)
            assert restored["photo.jpg"] == made["photo.jpg"]

    def test_by_passphrase(self, miadmark: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        Path("a.png").write_bytes(samples.png())
        monkeypatch.setenv("MIADMARK_PASSPHRASE", "correct horse")
        assert miadmark("protect", "a.png", "-o", "p", "--passphrase").status == 0
        assert miadmark("remove", "p", "-o", "r", "--passphrase").status == 0
        assert Path("r/a.png").read_bytes() == samples.png()
        monkeypatch.setenv("MIADMARK_PASSPHRASE", "wrong")
        said = miadmark("remove", "p", "-o", "r2", "--passphrase")
        assert said.status == 1 and "WrongKeyError" in said.err and not results(Path("r2"))

    def test_with_an_encrypted_key(self, miadmark: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        Path("a.png").write_bytes(samples.png())
        monkeypatch.setenv("MIADMARK_PASSPHRASE", "correct horse")
        assert miadmark("keygen", "k", "--passphrase").status == 0
        assert miadmark("protect", "a.png", "-o", "p", "-r", "k.pub").status == 0
        assert miadmark("remove", "p", "-o", "r", "-i", "k.key").status == 0
        monkeypatch.setenv("MIADMARK_PASSPHRASE", "wrong")
        assert miadmark("remove", "p", "-o", "r2", "-i", "k.key").status == 2

    def test_mask_logo_and_budget(self, miadmark: Run, keys: None) -> None:
        Path("a.png").write_bytes(samples.png())
        mask = np.zeros((48, 40), np.uint8)
        mask[5:25, 5:25] = 255
        Image.fromarray(mask).save("mask.png")
        Image.fromarray(255 - mask).save("logo.png")
        for name, more in (("exact", ()), ("small", ("--region-budget", "0.01"))):
            said = miadmark(
                "protect", "a.png", "-o", name, "-r", "bob.pub", "--region", "mask.png", "--logo", "logo.png", *more
            )
            assert said.status == 0, said.err
        with Image.open("exact/a.png") as exact:
            assert (np.asarray(exact)[mask > 0] == samples.smooth()[mask > 0]).all()
        with Image.open("small/a.png") as small:
            difference = np.asarray(small).astype(int) - samples.smooth()
        assert 0 < np.abs(difference[mask > 0]).max() <= 3
        assert miadmark("remove", "small", "-o", "r", "-i", "bob.key").status == 0
        assert Path("r/a.png").read_bytes() == samples.png()

    @pytest.mark.parametrize(
        "more",
        [("--logo", "emblem"), ("--logo", "banner"), ("--logo", "banner", "--text", "NOT FOR AI"), ("--text", "X")],
    )
    def test_logos_that_need_no_file(self, miadmark: Run, keys: None, more: tuple[str, ...]) -> None:
        Path("a.png").write_bytes(samples.png())
        for name, drawing in (("own", more), ("other", ("--text", "PROTECTED"))):
            said = miadmark("protect", "a.png", "-o", name, "-r", "bob.pub", "--region", "none", *drawing)
            assert said.status == 0, said.err
        with Image.open("own/a.png") as own, Image.open("other/a.png") as other:
            assert (np.asarray(own) != np.asarray(other)).any()
        assert miadmark("remove", "own", "-o", "r", "-i", "bob.key").status == 0
        assert Path("r/a.png").read_bytes() == samples.png()

    def test_the_device_reaches_the_marker(self, miadmark: Run, keys: None, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[object] = []
        Path("a.png").write_bytes(samples.png())

        def load_marker(root: object = None, device: object = None) -> doubles.NoiseMarker:
            asked.append(device)
            return doubles.NoiseMarker()

        monkeypatch.setattr(sys.modules["monai_miadmark.marker"], "load_marker", load_marker)
        for number, more in enumerate([(), ("--device", "cuda:1")]):
            said = miadmark("protect", "a.png", "-o", f"p{number}", "-r", "bob.pub", *more)
            assert said.status == 0, said.err
        assert asked == [None, "cuda:1"]

    @pytest.mark.parametrize("modality", ["auto", "skin"])
    def test_the_modality_reaches_the_marker(
        self, miadmark: Run, keys: None, monkeypatch: pytest.MonkeyPatch, modality: str
    ) -> None:
        asked: list[str] = []

        class Asking(doubles.NoiseMarker):
            def specialist(self, modality: str, images: NDArray[np.float32]) -> doubles.NoiseMarker:
                asked.append(modality)
                return self

        monkeypatch.setattr(sys.modules["monai_miadmark.marker"], "load_marker", Asking)
        Path("a.png").write_bytes(samples.png())
        more = () if modality == "auto" else ("--modality", modality)
        assert miadmark("protect", "a.png", "-o", "p", "-r", "bob.pub", *more).status == 0
        assert asked == [modality]


class TestRemoveFails:
    """Exit status 1, an error by name, and no output."""

    def refused(self, miadmark: Run, error: str, key: str = "alice.key", *more: str) -> Said:
        said = miadmark("remove", "p", "-o", "r", "-i", key, *more)
        assert said.status == 1 and said.out == ""
        assert f"p/ct.dcm: {error}: " in said.err and "restored 0 files, 1 failed in" in said.err
        assert not results(Path("r"))
        return said

    def test_wrong_key(self, miadmark: Run, protected: Path) -> None:
        self.refused(miadmark, "WrongKeyError", "bob.key")

    def test_unknown_signer(self, miadmark: Run, protected: Path) -> None:
        miadmark("keygen", "other", "--sign")
        self.refused(miadmark, "SignatureError", "alice.key", "--require-signer", "other.pub")

    def test_demanded_signer(self, miadmark: Run, protected: Path) -> None:
        assert miadmark("remove", "p", "-o", "r", "-i", "alice.key", "--require-signer", "hospital.pub").status == 0

    def test_flipped_bit_in_the_record(self, miadmark: Run, protected: Path) -> None:
        data = bytearray(protected.read_bytes())
        envelope = self.envelope(bytes(data))
        start, length = data.index(envelope), inspect_envelope(envelope).envelope_bytes
        for offset in np.random.default_rng(0).integers(0, length, 12):
            changed = data.copy()
            changed[start + int(offset)] ^= 1 << int(offset % 8)
            protected.write_bytes(changed)
            self.refused(miadmark, "TamperedError")

    def envelope(self, data: bytes) -> bytes:
        from monai_miadmark.formats import carrier_for

        held = carrier_for(data, "").open_protected(data).envelope
        assert held is not None
        assert held in data
        return held

    def test_flipped_bit_in_the_pixels(self, miadmark: Run, protected: Path) -> None:
        from monai_miadmark.formats import carrier_for

        data = bytearray(protected.read_bytes())
        values = carrier_for(bytes(data), "").open_protected(bytes(data)).values
        start = data.index(values.astype("<i2").tobytes())
        for offset in (0, 16_001, 32_767):
            changed = data.copy()
            changed[start + offset] ^= 1
            protected.write_bytes(changed)
            self.refused(miadmark, "TamperedError")

    def test_truncated(self, miadmark: Run, protected: Path) -> None:
        data = protected.read_bytes()
        for size in (len(data) // 4, len(data) // 2, len(data) - 1000):
            protected.write_bytes(data[:size])
            self.refused(miadmark, "TamperedError")

    def test_stripped(self, miadmark: Run, protected: Path) -> None:
        protected.write_bytes(samples.ct())
        self.refused(miadmark, "NotProtectedError")

    def test_the_others_are_done(self, miadmark: Run, protected: Path, tmp_path: Path) -> None:
        Path("p/broken.dcm").write_bytes(protected.read_bytes()[:20_000])
        Path("p/empty.dcm").touch()
        Path("p/notes.txt").write_text("no image")
        said = miadmark("remove", "p", "-o", "r", "-i", "alice.key")
        assert said.status == 1 and "restored 1 file, 3 failed" in said.err
        for name, error in (
            ("broken.dcm", "TamperedError"),
            ("empty.dcm", "UnsupportedImageError"),
            ("notes.txt", "UnsupportedImageError"),
        ):
            assert f"p/{name}: {error}: " in said.err
        assert results(tmp_path / "r") == {"ct.dcm": samples.ct()}


class TestOutputs:
    def test_existing_ones_are_refused(self, miadmark: Run, protected: Path) -> None:
        before = protected.read_bytes()
        said = miadmark("protect", "ct.dcm", "-o", "p", "-r", "alice.pub")
        assert said.status == 1 and "--overwrite replaces it" in said.err
        assert protected.read_bytes() == before
        assert miadmark("protect", "ct.dcm", "-o", "p", "-r", "alice.pub", "--overwrite").status == 0
        assert protected.read_bytes() != before

    def test_the_input_is_refused(self, miadmark: Run, protected: Path) -> None:
        before = protected.read_bytes()
        for arguments, status in ((("p", "-o", "p"), 2), (("p/ct.dcm", "-o", "p", "--allow-mixed"), 1)):
            said = miadmark("remove", *arguments, "-i", "alice.key", "--overwrite")
            assert said.status == status and "input" in said.err
        assert miadmark("grant", "p/ct.dcm", "-o", "p", "-i", "alice.key", "-r", "bob.pub").status == 2
        assert protected.read_bytes() == before

    def test_sources_of_one_stem_are_both_done(self, miadmark: Run, keys: None, tmp_path: Path) -> None:
        Path("in").mkdir()
        Path("in/a.jpg").write_bytes(samples.jpeg())
        Path("in/a.png").write_bytes(samples.png())
        said = miadmark("protect", "in", "-o", "p", "-r", "alice.pub")
        assert said.status == 0 and "note: in/a.jpg becomes p/a.jpg.png: a.png is what in/a.png becomes" in said.err
        assert set(results(tmp_path / "p")) == {"a.png", "a.jpg.png"}
        assert miadmark("remove", "p", "-o", "r", "-i", "alice.key").status == 0
        assert results(tmp_path / "r") == {"a.jpg": samples.jpeg(), "a.png": samples.png()}

    def test_a_full_disk_leaves_nothing(
        self, miadmark: Run, protected: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        def fail(*arguments: object, **more: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "link", fail)
        said = miadmark("remove", "p", "-o", "r", "-i", "alice.key")
        assert said.status == 1 and "No space left on device" in said.err
        assert results(tmp_path / "r") == {}


class TestFolderJobs:
    """What only the command line has to do with jobs; the rest is in test_batch, test_engines and test_kills."""

    def test_several_processes(self, miadmark: Run, keys: None, tmp_path: Path) -> None:
        made = samples.tree(tmp_path / "in")
        assert miadmark("protect", "in", "-o", "p", "-r", "alice.pub", "--jobs", "1").status == 0
        said = miadmark("remove", "p", "-o", "r", "-i", "alice.key", "--jobs", "2")
        assert said.status == 0 and "restored 5 files in" in said.err
        assert results(tmp_path / "r").keys() == made.keys()

    def test_a_passphrase_is_asked_for_once(self, miadmark: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("a.png", "b.png"):
            Path(name).write_bytes(samples.png())
        answers = iter(["correct horse", "correct horse", "correct horse"])
        monkeypatch.setattr("getpass.getpass", lambda prompt: next(answers))
        monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(isatty=lambda: True))
        assert miadmark("protect", "a.png", "b.png", "-o", "p", "--passphrase").status == 0
        assert miadmark("remove", "p", "-o", "r", "--passphrase", "--jobs", "2").status == 0
        assert next(answers, None) is None
        assert b"horse" not in Path("p.miadmark-job", MANIFEST_NAME).read_bytes()

    def test_resume(self, miadmark: Run, keys: None, tmp_path: Path) -> None:
        samples.tree(tmp_path / "in")
        command = ("protect", "in", "-o", "p", "-r", "alice.pub")
        assert miadmark(*command, "--resume").status == 0  # nothing to go on with yet
        before = samples.contents(tmp_path / "p")
        Path("p/ct.dcm").unlink()
        said = miadmark(*command, "--resume", "--verify")
        assert said.status == 0 and "protected 1 file, 4 done before in" in said.err
        assert {n for n, d in results(tmp_path / "p").items() if d != before[n]} == {"ct.dcm"}
        said = miadmark(*command, "--resume", "--preset", "strong", "-r", "bob.pub")
        assert said.status == 2 and "other options (preset, recipients)" in said.err

    def test_resume_with_a_passphrase(self, miadmark: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        """It must be the same one, and it stays one recipient."""
        for name in ("a.png", "b.png"):
            Path(name).write_bytes(samples.png())
        monkeypatch.setenv("MIADMARK_PASSPHRASE", "correct horse")
        command = ("protect", "a.png", "b.png", "-o", "p", "--passphrase", "--record", "both")
        assert miadmark(*command).status == 0
        for path in Path("p").glob("b.*"):
            path.unlink()
        monkeypatch.setenv("MIADMARK_PASSPHRASE", "other")
        said = miadmark(*command, "--resume")
        assert said.status == 2 and "the passphrase is not the one that the job was begun with" in said.err
        assert set(results(Path("p"))) == {"a.png", "a.png.miadmark"}
        monkeypatch.setenv("MIADMARK_PASSPHRASE", "correct horse")
        assert miadmark(*command, "--resume").status == 0
        first, second = (json.loads(miadmark("inspect", f"p/{n}.png", "--json").out)["recipients"] for n in "ab")
        assert first == second
        assert miadmark("remove", "p", "-o", "r", "--passphrase").status == 0

    def test_verify_is_for_resume(self, miadmark: Run, keys: None) -> None:
        Path("a.png").write_bytes(samples.png())
        assert miadmark("protect", "a.png", "-o", "p", "-r", "bob.pub", "--verify").status == 2
        assert miadmark("protect", "a.png", "-o", "p", "-r", "bob.pub", "--jobs", "0").status == 2

    def test_a_damaged_manifest(self, miadmark: Run, keys: None) -> None:
        Path("a.png").write_bytes(samples.png())
        manifest = Path("p.miadmark-job", MANIFEST_NAME)
        manifest.parent.mkdir()
        manifest.write_text("my notes\n")
        said = miadmark("protect", "a.png", "-o", "p", "-r", "bob.pub")
        assert said.status == 2 and "is not a manifest" in said.err
        assert manifest.read_text() == "my notes\n" and not Path("p").exists()

    def test_two_runs_in_one_folder(self, miadmark: Run, keys: None) -> None:
        Path("a.png").write_bytes(samples.png())
        with FolderLock(Path("p"), "protect"):
            said = miadmark("protect", "a.png", "-o", "p", "-r", "bob.pub")
        assert said.status == 1 and f"miadmark protect, process {os.getpid()} on" in said.err

    def test_broken_off(self, miadmark: Run, keys: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        for number in range(3):
            Path(f"{number}.png").write_bytes(samples.png(number))
        sources = ["0.png", "1.png", "2.png"]

        class Interrupting(doubles.NoiseMarker):
            count = 0

            def specialist(self, modality: str, images: NDArray[np.float32]) -> doubles.NoiseMarker:
                Interrupting.count += 1
                if Interrupting.count == 2:
                    os.kill(os.getpid(), signal.SIGTERM)
                return self

        monkeypatch.setattr(sys.modules["monai_miadmark.marker"], "load_marker", Interrupting)
        said = miadmark("protect", *sources, "-o", "p", "-r", "bob.pub")
        assert said.status == 143 and "protected 1 file in" in said.err and "hint: --resume goes on" in said.err
        assert set(results(tmp_path / "p")) == {"0.png"}
        said = miadmark("protect", *sources, "-o", "p", "-r", "bob.pub", "--resume")
        assert said.status == 0 and "protected 2 files, 1 done before" in said.err

    def test_instances_that_come_twice(self, miadmark: Run, keys: None, tmp_path: Path) -> None:
        """A truncated file, the whole one, and a copy of it."""
        Path("in").mkdir()
        for name, size in (("a.dcm", 20_000), ("b.dcm", None), ("c.dcm", None)):
            Path("in", name).write_bytes(samples.ct()[:size])
        said = miadmark("protect", "in", "-o", "p", "-r", "bob.pub")
        assert said.status == 1 and "protected 2 files, 1 failed" in said.err and "in/a.dcm: " in said.err
        assert "note: in/b.dcm, in/c.dcm: not the same as in/a.dcm but of the same SOP Instance UID" in said.err
        assert set(results(tmp_path / "p")) == {"b.dcm", "c.dcm"}
        uids = {pydicom.dcmread(path).SOPInstanceUID for path in Path("p").glob("*.dcm")}
        assert pydicom.dcmread("in/b.dcm").SOPInstanceUID not in uids
        assert miadmark("remove", "p/b.dcm", "-o", "r", "-i", "bob.key").status == 0
        assert Path("r/b.dcm").read_bytes() == samples.ct()

    def test_records_inside_and_beside(self, miadmark: Run, keys: None, tmp_path: Path) -> None:
        """The one beside restores when the one inside is stripped, wherever it is and whatever the file is called."""
        Path("a.png").write_bytes(samples.png())
        assert miadmark("protect", "a.png", "-o", "p", "-r", "bob.pub", "--record", "both").status == 0
        assert set(results(tmp_path / "p")) == {"a.png", "a.png.miadmark"}
        Path("kept/deep").mkdir(parents=True)
        Path("p/a.png.miadmark").rename("kept/deep/0001.miadmark")
        Path("kept/notes.miadmark").write_text("no record")
        Path("stripped").mkdir()
        with Image.open("p/a.png") as picture:
            picture.save("stripped/renamed.png")
        assert miadmark("remove", "stripped", "-o", "r", "-i", "bob.key").status == 1
        said = miadmark("remove", "stripped", "-o", "r", "-i", "bob.key", "--sidecars", "kept")
        assert said.status == 0 and Path("r/a.png").read_bytes() == samples.png()
        assert miadmark("remove", "stripped", "-o", "r2", "-i", "alice.key", "--sidecars", "kept").status == 1
        assert miadmark("remove", "stripped", "-o", "r2", "-i", "bob.key", "--sidecars", "absent").status == 2
        assert miadmark("protect", "a.png", "-o", "q", "-r", "bob.pub", "--record", "both", "--sidecar").status == 2


class TestInspectAndVerify:
    def test_inspect(self, miadmark: Run, protected: Path) -> None:
        told = json.loads(miadmark("inspect", "p/ct.dcm", "--json").out)
        assert [r["kind"] for r in told["recipients"]] == ["hybrid"]
        assert told["signer"]["kind"] == "ed25519"
        said = miadmark("inspect", "p/ct.dcm")
        assert said.status == 0 and "recipients: hybrid " in said.out and "signer: ed25519 " in said.out

    def test_verify(self, miadmark: Run, protected: Path) -> None:
        assert json.loads(miadmark("verify", "p/ct.dcm", "--json").out)["verified"] is True
        assert miadmark("verify", "p/ct.dcm", "--signer", "hospital.pub").status == 0
        miadmark("keygen", "other", "--sign")
        said = miadmark("verify", "p/ct.dcm", "--signer", "other.pub")
        assert said.status == 1 and "SignatureError" in said.err

    def test_a_sidecar_is_found(self, miadmark: Run, keys: None) -> None:
        Path("a.png").write_bytes(samples.png())
        assert miadmark("protect", "a.png", "-o", "p", "-r", "bob.pub", "--sidecar").status == 0
        assert Path("p/a.png.miadmark").is_file()
        assert miadmark("verify", "p/a.png").status == 0
        Path("p/a.png.miadmark").unlink()
        said = miadmark("verify", "p/a.png", "--json")
        assert said.status == 1 and json.loads(said.out)["error"] == "NotProtectedError"

    @pytest.mark.parametrize("verb", ["inspect", "verify"])
    def test_what_is_not_protected(self, miadmark: Run, verb: str) -> None:
        Path("ct.dcm").write_bytes(samples.ct())
        said = miadmark(verb, "ct.dcm")
        assert said.status == 1 and "ct.dcm: NotProtectedError: " in said.err
        assert miadmark(verb, "absent.dcm").status == 1


class TestGrantAndRevoke:
    @pytest.mark.parametrize("more", [(), ("--sidecar",)])
    def test_without_the_original(self, miadmark: Run, keys: None, tmp_path: Path, more: tuple[str, ...]) -> None:
        made = samples.tree(tmp_path / "in")
        miadmark("protect", "in", "-o", "p", "-r", "alice.pub", *more)
        said = miadmark("grant", "p", "-o", "g", "-i", "alice.key", "-r", "bob.pub")
        assert said.status == 0 and "granted 5 files" in said.err
        assert miadmark("remove", "g", "-o", "r1", "-i", "bob.key").status == 0
        assert Path("r1/ct.dcm").read_bytes() == made["ct.dcm"]
        said = miadmark("revoke", "g", "-o", "v", "-i", "bob.key", "-r", "alice.pub")
        assert said.status == 0 and "revoked 5 files" in said.err
        said = miadmark("remove", "v", "-o", "r2", "-i", "alice.key")
        assert said.status == 1 and said.err.count(": WrongKeyError: none of") == 5
        assert miadmark("remove", "v", "-o", "r3", "-i", "bob.key").status == 0
        assert results(tmp_path / "r3").keys() == made.keys()

    def test_a_passphrase_is_revoked_by_its_id(
        self, miadmark: Run, keys: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Path("a.png").write_bytes(samples.png())
        monkeypatch.setenv("MIADMARK_PASSPHRASE", "correct horse")
        said = miadmark("protect", "a.png", "-o", "p", "-r", "bob.pub", "--passphrase")
        assert said.status == 2 and "only as safe as the passphrase" in said.err and not Path("p").exists()
        miadmark("protect", "a.png", "-o", "p", "-r", "bob.pub", "--passphrase", "--passphrase-beside-keys")
        told = json.loads(miadmark("inspect", "p/a.png", "--json").out)["recipients"]
        (identifier,) = (r["key_id"] for r in told if r["kind"] == "passphrase")
        assert miadmark("revoke", "p", "-o", "v", "-i", "bob.key", "--id", identifier).status == 0
        assert miadmark("remove", "v", "-o", "r", "--passphrase").status == 1
        assert miadmark("remove", "v", "-o", "r", "-i", "bob.key").status == 0

    def test_signatures_are_renewed_or_dropped_aloud(self, miadmark: Run, keys: None) -> None:
        Path("a.png").write_bytes(samples.png())
        miadmark("protect", "a.png", "-o", "p", "-r", "alice.pub", "--signer", "hospital.key")
        said = miadmark("grant", "p", "-o", "g", "-i", "alice.key", "-r", "bob.pub")
        assert said.status == 0 and "warning: 1 file is no longer signed" in said.err
        (line,) = (line for line in manifest_lines(Path("g.miadmark-job")) if line["kind"] == "file")
        assert line["signature"] == "dropped" and line["signer"] is None
        asked = ("-i", "bob.key", "--require-signer", "hospital.pub")
        said = miadmark("remove", "g", "-o", "r", *asked)
        assert said.status == 1 and "is not signed, but a signature was demanded" in said.err
        said = miadmark("grant", "p", "-o", "g2", "-i", "alice.key", "-r", "bob.pub", "--signer", "hospital.key")
        assert said.status == 0 and "warning" not in said.err
        said = miadmark("remove", "g2", "-o", "r2", *asked)
        assert said.status == 0 and "warning" not in said.err
        said = miadmark("remove", "g2", "-o", "r3", "-i", "bob.key")
        assert said.status == 0 and "warning: 1 file is signed, but by whom was not asked" in said.err

    def test_what_is_not_signed_is_said_aloud(self, miadmark: Run, keys: None) -> None:
        Path("a.png").write_bytes(samples.png())
        miadmark("protect", "a.png", "-o", "p", "-r", "alice.pub")
        said = miadmark("remove", "p", "-o", "r", "-i", "alice.key")
        assert said.status == 0 and "warning: 1 file is not signed: whoever has" in said.err
        (line,) = (line for line in manifest_lines(Path("r.miadmark-job")) if line["kind"] == "file")
        assert line["signature"] == "none"

    def test_the_last_recipient_stays(self, miadmark: Run, protected: Path) -> None:
        said = miadmark("revoke", "p", "-o", "v", "-i", "alice.key", "-r", "alice.pub", "--yes")
        assert said.status == 1 and not Path("v").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("sing",),
        ("protect", "ct.dcm", "-r", "alice.pub"),
        ("protect", "ct.dcm", "-o", "p"),
        ("protect", "ct.dcm", "-o", "p", "-r", "absent.pub"),
        ("protect", "ct.dcm", "-o", "p", "-r", "alice.key"),
        ("protect", "ct.dcm", "-o", "p", "-r", "hospital.pub"),
        ("protect", "ct.dcm", "-o", "p", "-r", "ct.dcm"),
        ("protect", "ct.dcm", "-o", "p", "-r", "alice.pub", "--preset", "maximal"),
        ("protect", "ct.dcm", "-o", "p", "-r", "alice.pub", "--region", "absent.png"),
        ("protect", "ct.dcm", "-o", "p", "-r", "alice.pub", "--region-budget", "1.5"),
        ("protect", "ct.dcm", "-o", "p", "-r", "alice.pub", "--region-budget", "nan"),
        ("protect", "ct.dcm", "-o", "p", "-r", "alice.pub", "--style", "invisible", "--text", "X"),
        ("protect", "ct.dcm", "-o", "p", "-r", "alice.pub", "--logo", "alice.pub"),
        ("protect", "ct.dcm", "-o", "p", "-r", "alice.pub", "--logo", "absent.png"),
        ("protect", "ct.dcm", "-o", "p", "-r", "alice.pub", "--logo", "emblem", "--text", "X"),
        ("protect", "ct.dcm", "-o", "p", "-r", "alice.pub", "--logo", "banner", "--text", " "),
        ("protect", "ct.dcm", "-o", "p", "-r", "alice.pub", "--style", "invisible", "--logo", "emblem"),
        ("protect", "ct.dcm", "-o", "p", "-r", "alice.pub", "--text", "x" * 201),
        ("protect", "ct.dcm", "-o", "p", "-r", "alice.pub", "--modality", "teeth"),
        ("protect", "ct.dcm", "-o", "ct.dcm", "-r", "alice.pub"),
        ("protect", "ct.dcm", "-o", "p", "-r", "alice.pub", "--signer", "alice.key"),
        ("protect", "empty", "-o", "p", "-r", "alice.pub"),
        ("remove", "ct.dcm", "-o", "r"),
        ("remove", "ct.dcm", "-o", "r", "-i", "alice.pub"),
        ("remove", "ct.dcm", "-o", "r", "-i", "alice.key", "--require-signer", "alice.pub"),
        ("grant", "ct.dcm", "-o", "g", "-i", "alice.key"),
        ("revoke", "ct.dcm", "-o", "g", "-i", "alice.key", "--id", "abc"),
        ("keygen", "k", "--kem", "rsa"),
        ("keygen", "k", "--kem", "x25519", "--sign"),
    ],
)
def test_wrong_usage(miadmark: Run, keys: None, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """Exit status 2, a hint, and nothing written."""
    Path("ct.dcm").write_bytes(samples.ct())
    Path("empty").mkdir()
    before = samples.contents(tmp_path)
    said = miadmark(*arguments)
    assert said.status == 2 and said.out == ""
    assert said.err.splitlines()[-1].startswith("miadmark: hint: ")
    assert samples.contents(tmp_path) == before


def test_a_marker_that_cannot_be_loaded_is_said_once(
    miadmark: Run, keys: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail() -> None:
        raise FileNotFoundError("the miadmark bundle is not installed with the package")

    monkeypatch.setattr(sys.modules["monai_miadmark.marker"], "load_marker", fail)
    samples.tree(tmp_path / "in")
    said = miadmark("protect", "in", "-o", "p", "-r", "alice.pub")
    assert said.status == 1 and said.err.count("bundle is not installed") == 1
    assert not Path("p").exists()


def test_file_names_cannot_write_to_the_terminal(miadmark: Run, keys: None) -> None:
    Path("in").mkdir()
    Path("in/\x1b[31mred").write_text("no image")
    said = miadmark("protect", "in", "-o", "p", "-r", "alice.pub")
    assert said.status == 1 and "\x1b" not in said.err


def test_removing_imports_no_torch(protected: Path, tmp_path: Path) -> None:
    """In a process of its own, as the console script does it."""
    code = """
import sys
from monai_miadmark.cli import main
status = main(sys.argv[1:])
print(status, [name for name in ("torch", "monai", "ignite") if name in sys.modules])
"""
    command = [sys.executable, "-c", code, "remove", "p/ct.dcm", "-o", "r", "-i", "alice.key"]
    paths = os.pathsep.join([str(Path(cli.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    result = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": paths}
    )
    assert result.stdout == "0 []\n", result.stderr
    assert "%" not in result.stderr  # no progress bar where there is no terminal
    assert (tmp_path / "r" / "ct.dcm").read_bytes() == samples.ct()


def test_a_reader_that_has_had_enough(protected: Path, tmp_path: Path) -> None:
    """``miadmark inspect ... | head -1`` ends without a trace, in a process of its own."""
    command = [sys.executable, "-m", "monai_miadmark", "inspect", "p/ct.dcm", "--json"]
    paths = os.pathsep.join([str(Path(cli.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**os.environ, "PYTHONPATH": paths}
    result = subprocess.run(command, cwd=tmp_path, stdout=writing, stderr=subprocess.PIPE, check=False, env=environment)
    os.close(writing)
    assert (result.returncode, result.stderr) == (141, b"")


def _weights() -> bool:
    """Whether the bundle has its weights, without importing torch."""
    spec = find_spec("monai_miadmark")
    assert spec is not None and spec.origin is not None
    package = Path(spec.origin).parent
    places = (package / "bundle", package.parent / "bundles" / "miadmark")
    return any((place / "models" / "SHA256SUMS").is_file() for place in places)


@pytest.mark.skipif(not _weights(), reason="the bundle's weights are not there")
def test_the_default_marker(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("ct.dcm").write_bytes(samples.ct())
    assert cli.main(["keygen", "k"]) == 0
    assert cli.main(["protect", "ct.dcm", "-o", "p", "-r", "k.pub", "--preset", "subtle"]) == 0
    assert cli.main(["remove", "p", "-o", "r", "-i", "k.key"]) == 0
    assert Path("r/ct.dcm").read_bytes() == samples.ct()
    assert Path("p/ct.dcm").read_bytes() != samples.ct()

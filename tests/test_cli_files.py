# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""``inspect``, ``verify``, ``pubkey`` and key files as people use them, what is said where they are misused, Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import doubles
import pytest
import samples
from commands import Run, heed_interrupts, runner

import monai_miadmark
from monai_miadmark import keys
from monai_miadmark.names import MODALITIES, PRESET_NAMES, SIGNATURE_KINDS
from monai_miadmark.options import PRESETS

MODULES = str(Path(monai_miadmark.__file__).parents[1])


@pytest.fixture
def miadmark(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run the command in ``tmp_path`` with noise instead of networks; ``p`` is protected for alice and signed."""
    for name in PRESETS:
        monkeypatch.setitem(PRESETS, name, doubles.BLUNT)
    run = runner(capsys, monkeypatch, tmp_path)
    assert run("keygen", "alice", "--kem", "x25519").status == 0
    assert run("keygen", "hospital", "--sign").status == 0
    samples.tree(tmp_path / "in")
    command = ("protect", "in", "-o", "p", "-r", "alice.pub", "--signer", "hospital.key", "--record", "both")
    assert run(*command).status == 0
    return run


class TestManyFiles:
    def test_verify(self, miadmark: Run) -> None:
        said = miadmark("verify", "p", "--signer", "hospital.pub")
        assert said.status == 0 and said.err == "miadmark: verified 5 of 5 files\n"
        assert said.out.count(": verified; signed by ed25519 ") == 5
        Path("p/ct.dcm").write_bytes(samples.ct())
        said = miadmark("verify", "p", "--json", "--exclude", "*.nii*")
        told = json.loads(said.out)
        assert said.status == 1 and told["schema"] == 1 and "p/ct.dcm: " in said.err
        files = {file["path"]: file for file in told["files"]}
        assert files["p/ct.dcm"]["error"] in ("TamperedError", "NotProtectedError") and files["p/photo.png"]["verified"]
        assert not any(".nii" in path for path in files)

    def test_inspect(self, miadmark: Run) -> None:
        said = miadmark("inspect", "p", "alice.pub")
        assert said.status == 0 and said.out.count(": protected for x25519 ") == 5
        assert "alice.pub: public key, x25519 " in said.out
        several = json.loads(miadmark("inspect", "p/photo.png", "p/photo.png.miadmark", "--json").out)["files"]
        image, sidecar = several
        assert sidecar.pop("sidecar") is True
        assert {**image, "path": ""} == {**sidecar, "path": ""}
        assert miadmark("inspect", "in").status == 1
        Path("empty").mkdir()
        assert miadmark("inspect", "empty").status == 2

    def test_one_file_tells_all(self, miadmark: Run) -> None:
        told = json.loads(miadmark("inspect", "p/photo.png.miadmark", "--json").out)
        assert told["sidecar"] is True and told["signer"]["kind"] == "ed25519"
        assert "recipients: x25519 " in miadmark("inspect", "p/photo.png.miadmark").out


class TestKeyFiles:
    @pytest.mark.parametrize(("arguments", "use"), [((), "encryption"), (("--sign-with", "mldsa65"), "signing")])
    def test_are_inspected_and_give_their_public_keys(
        self, miadmark: Run, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], use: str
    ) -> None:
        for name, more in (("plain", ()), ("locked", ("--passphrase",))):
            monkeypatch.setenv("MIADMARK_PASSPHRASE", "five words that nobody guesses")
            assert miadmark("keygen", name, *arguments, *more).status == 0
            public = json.loads(miadmark("inspect", f"{name}.pub", "--json").out)
            assert public["type"] == "public key" and public["use"] == use and len(public["key_id"]) == 32
            private = json.loads(miadmark("inspect", f"{name}.key", "--json").out)
            assert private["encrypted"] == bool(more) and private["key_id"] == (None if more else public["key_id"])
            assert miadmark("pubkey", f"{name}.key").out == Path(f"{name}.pub").read_text()
            said = miadmark("pubkey", f"{name}.key", "-o", f"{name}2.pub")
            assert said.status == 0 and public["key_id"] in said.err
            assert Path(f"{name}2.pub").read_bytes() == Path(f"{name}.pub").read_bytes()
            assert miadmark("pubkey", f"{name}.key", "-o", f"{name}2.pub").status == 1
        assert miadmark("pubkey", "plain.pub").status == 2
        Path("x.pem").write_text("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n")
        assert miadmark("inspect", "x.pem").status == 1

    def test_one_that_others_can_read_is_warned_of(self, miadmark: Run) -> None:
        for mode, warned in ((0o600, False), (0o640, True), (0o604, True)):
            Path("alice.key").chmod(mode)
            said = miadmark("remove", "p", "-o", f"r{mode}", "-i", "alice.key", "--quiet")
            assert ("warning: alice.key can be read by others" in said.err) == warned
        Path("hospital.key").chmod(0o644)
        said = miadmark("protect", "in", "-o", "q", "-r", "alice.pub", "--signer", "hospital.key", "--quiet")
        assert "warning: hospital.key can be read by others" in said.err

    @pytest.mark.parametrize(
        ("passphrase", "weak"),
        [("hunter2", True), ("aaaaaaaaaaaaaaaaaaaa", True), ("five words nobody guesses", False)],
    )
    def test_weak_passphrases_are_warned_of(
        self, miadmark: Run, monkeypatch: pytest.MonkeyPatch, passphrase: str, weak: bool
    ) -> None:
        monkeypatch.setenv("MIADMARK_PASSPHRASE", passphrase)
        for said in (
            miadmark("keygen", "k", "--passphrase"),
            miadmark("protect", "in/photo.jpg", "-o", "q", "--passphrase"),
        ):
            assert said.status == 0 and ("warning: a weak passphrase" in said.err) == weak
            assert passphrase not in said.err
        assert "weak" not in miadmark("remove", "q", "-o", "r", "--passphrase").err

    def test_hints_say_what_helps(self, miadmark: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        protect = ("protect", "in", "-o", "q")
        for arguments, hint in (
            ((*protect, "-r", "alice"), "did you mean alice.pub?"),
            ((*protect, "-r", "alcie.pub"), "did you mean alice.pub?"),
            ((*protect, "-r", "alice.key"), "miadmark pubkey NAME.key -o NAME.pub"),
            ((*protect, "-r", "hospital.pub"), "miadmark inspect FILE says what a key file is"),
            (protect, "name recipients with -r RECIPIENT.pub"),
            (("remove", "p", "-o", "r"), "name a private key with -i"),
        ):
            said = miadmark(*arguments)
            assert said.status == 2 and hint in said.err.splitlines()[-1], said.err
        monkeypatch.setenv("MIADMARK_PASSPHRASE", "five words that nobody guesses")
        assert miadmark("keygen", "locked", "--passphrase").status == 0
        monkeypatch.setenv("MIADMARK_PASSPHRASE", "wrong")
        said = miadmark("remove", "p", "-o", "r", "-i", "locked.key")
        assert (
            said.status == 2
            and "wrong passphrase" in said.err
            and "the one in MIADMARK_PASSPHRASE was taken" in said.err
        )
        assert miadmark("protect", "in/photo.jpg", "-o", "q", "--passphrase").status == 0
        monkeypatch.setenv("MIADMARK_PASSPHRASE", "other")
        said = miadmark("remove", "q", "-o", "r", "--passphrase")
        assert (
            said.status == 1
            and "the passphrase is not the one that" in said.err
            and "give one of these" not in said.err
        )


class TestMeaning:
    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            (("protcet", "in"), "there is no command protcet; did you mean protect?"),
            (("wibble",), "there is no command wibble"),
            (("protect", "in", "-o", "q", "--recipent", "a"), "no option --recipent; did you mean --recipient?"),
            (("protect", "in", "--ouput=q"), "no option --ouput; did you mean --out?"),
            (("protect", "in", "-o", "q", "-r", "alice.pub", "--preset", "standart"), "did you mean standard?"),
            (("protect", "in", "-o", "q", "-r", "alice.pub", "--jobs", "0"), "--jobs: at least 1 is needed, not 0"),
            (("protect", "in", "-o", "q", "-r", "alice.pub", "--jobs", "two"), "a whole number is needed, not 'two'"),
            (("protect", "in", "-o", "q", "-r", "a", "--report-images", "900"), "0 to 200, not 900"),
            (("protect", "in", "-o", "q", "-r", "a", "--region-budget", "much"), "a number is needed, not 'much'"),
            (("revoke", "p", "-o", "q", "-i", "alice.key", "--id", "12"), "32 hexadecimal digits"),
        ],
    )
    def test_what_was_meant(self, miadmark: Run, arguments: tuple[str, ...], text: str) -> None:
        said = miadmark(*arguments)
        assert said.status == 2 and text in said.err and "hint: " in said.err
        assert "_positive" not in said.err and "invalid" not in said.err

    def test_names_are_those_of_what_they_name(self) -> None:
        assert tuple(PRESETS) == PRESET_NAMES
        assert keys.SIGNATURE_KINDS == SIGNATURE_KINDS
        assert MODALITIES[0] == "auto"


class TestProcesses:
    """The command in processes of its own."""

    def run(self, *arguments: str, module: str = "monai_miadmark", **more: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", module, *arguments]
        environment = {**os.environ, "PYTHONPATH": MODULES}
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, **more)  # type: ignore[call-overload,no-any-return]

    def test_the_module_cli_is_the_command_too(self, tmp_path: Path) -> None:
        for hostile in ("argparse", "difflib", "getpass", "logging"):
            (tmp_path / f"{hostile}.py").write_text("raise SystemExit('hostile')\n")
        done = self.run("--version", module="monai_miadmark.cli", cwd=tmp_path)
        assert done.returncode == 0 and done.stdout.startswith("miadmark ") and done.stderr == ""

    def test_help_imports_next_to_nothing(self) -> None:
        code = """
import sys
from monai_miadmark.entry import main
try:
    sys.argv = ["miadmark", "--help"]
    main()
except SystemExit:
    pass
heavy = ("numpy", "pydicom", "PIL", "cryptography", "nibabel", "tqdm", "torch", "monai")
sys.exit(", ".join(name for name in heavy if name in sys.modules) or None)
"""
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": MODULES},
        )
        assert done.returncode == 0, done.stderr

    def test_looking_and_restoring_import_little(self, miadmark: Run, tmp_path: Path) -> None:
        """No pydicom, whose import takes longer than all the rest, for files that lie as they were written."""
        code = """
import resource, sys
from monai_miadmark.entry import main
sys.argv[0] = "miadmark"
status = main()
used = resource.getrusage(resource.RUSAGE_SELF)
heavy = [name for name in ("pydicom", "nibabel", "torch", "scipy") if name in sys.modules]
print(status, heavy, used.ru_utime + used.ru_stime, file=sys.stderr)
"""
        for arguments in (
            ("inspect", "p/ct.dcm"),
            ("verify", "p/photo.png"),
            ("remove", "p", "-o", "r", "-i", "alice.key", "--jobs", "1"),
        ):
            done = subprocess.run(
                [sys.executable, "-c", code, *arguments],
                capture_output=True,
                text=True,
                check=False,
                cwd=tmp_path,
                env={**os.environ, "PYTHONPATH": MODULES, "OMP_NUM_THREADS": "1"},
            )
            status, heavy, seconds = done.stderr.splitlines()[-1].split(maxsplit=2)[0], "[]", done.stderr.split()[-1]
            assert status == "0" and f" {heavy} " in done.stderr, done.stderr
            assert float(seconds) < 3  # 0.35 where nothing else runs

    @pytest.mark.parametrize("seconds", [0.03, 0.06, 0.1, 0.2, 0.4, 0.8])
    def test_ctrl_c_at_any_time_leaves_no_traceback(self, tmp_path: Path, seconds: float) -> None:
        """While modules are imported, keys read, networks loaded, images marked."""
        (tmp_path / "in").mkdir()
        for number in range(40):
            (tmp_path / "in" / f"{number}.png").write_bytes(samples.png(number))
        keys.save_key_pair(keys.generate_identity("x25519"), tmp_path / "k")
        begun = tmp_path / "begun"
        code = f"""
import os
from monai_miadmark.entry import main
os.close(os.open({str(begun)!r}, os.O_CREAT))
raise SystemExit(main())
"""
        process = subprocess.Popen(
            [sys.executable, "-c", code, "protect", "in", "-o", "p", "-r", "k.pub", "--jobs", "1"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": MODULES},
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=heed_interrupts,
        )
        while not begun.exists():
            time.sleep(0.002)
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130, err
        assert "Traceback" not in err and "miadmark: interrupted" in err


def test_fish_completes(miadmark: Run) -> None:
    said = miadmark("completion", "fish")
    assert said.status == 0
    assert "complete -c miadmark -n __fish_use_subcommand -a protect -d 'protect images for recipients'" in said.out
    assert "__fish_seen_subcommand_from protect' -l preset -r -f -a 'subtle standard strong fast'" in said.out
    assert "__fish_seen_subcommand_from protect' -s o -l out -r -F" in said.out
    if find_spec("shtab") is None or not any(Path(p, "fish").exists() for p in os.environ["PATH"].split(os.pathsep)):
        return
    Path("c.fish").write_text(said.out)
    done = subprocess.run(["fish", "--no-execute", "c.fish"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

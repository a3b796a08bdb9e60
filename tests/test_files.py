# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""One file in, one file out: whole outputs or none, sidecars, names from records, masks."""

from __future__ import annotations

import dataclasses
import errno
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import samples
from doubles import BLUNT, NoiseMarker
from PIL import Image

from monai_miadmark import files, pipeline
from monai_miadmark.errors import NotProtectedError, SignatureError, TamperedError, UnsupportedImageError, WrongKeyError
from monai_miadmark.files import Output, atomic_write, atomic_write_all, safe_name, sidecar_path
from monai_miadmark.formats import carrier_for
from monai_miadmark.keys import HpkeIdentity, generate_identity, generate_signer
from monai_miadmark.masks import read_mask
from monai_miadmark.options import ProtectOptions


@pytest.fixture(scope="module")
def alice() -> HpkeIdentity:
    return generate_identity("x25519")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "ct.dcm"
    path.parent.mkdir()
    path.write_bytes(samples.ct())
    return path


def protect(source: Path, folder: Path, alice: HpkeIdentity, **more: Any) -> Path:
    """Protect with defaults."""
    return files.protect_file(source, folder, [alice.recipient], NoiseMarker(), ProtectOptions(BLUNT), **more)


class TestAtomicWrite:
    def test_writes_and_leaves_nothing_else(self, tmp_path: Path) -> None:
        atomic_write(tmp_path / "a", b"data")
        assert samples.contents(tmp_path) == {"a": b"data"}

    def test_refuses_an_existing_name(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b"old")
        with pytest.raises(FileExistsError):
            atomic_write(tmp_path / "a", b"new")
        assert samples.contents(tmp_path) == {"a": b"old"}

    def test_refuses_a_broken_link_too(self, tmp_path: Path) -> None:
        (tmp_path / "a").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(FileExistsError):
            atomic_write(tmp_path / "a", b"new")
        assert not (tmp_path / "elsewhere").exists()

    def test_overwrites_on_request(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b"old")
        atomic_write(tmp_path / "a", b"new", overwrite=True)
        assert samples.contents(tmp_path) == {"a": b"new"}

    def test_mode_is_set_under_the_umask(self, tmp_path: Path) -> None:
        before = os.umask(0o027)
        try:
            atomic_write(tmp_path / "a", b"", mode=0o666)
            atomic_write(tmp_path / "b", b"", mode=0o600)
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640
        assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o600

    @pytest.mark.parametrize(("name", "overwrite"), [("link", False), ("replace", True), ("fsync", False)])
    def test_a_failing_disk_leaves_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, overwrite: bool
    ) -> None:
        def fail(*arguments: Any, **more: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        (tmp_path / "b").write_bytes(b"old")
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises(OSError, match="No space"):
                atomic_write(tmp_path / ("b" if overwrite else "a"), b"data", overwrite=overwrite)
        assert samples.contents(tmp_path) == {"b": b"old"}

    def test_file_systems_without_hard_links(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*arguments: Any, **more: Any) -> None:
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)
        atomic_write(tmp_path / "a", b"data")
        with pytest.raises(FileExistsError):
            atomic_write(tmp_path / "a", b"other")
        assert samples.contents(tmp_path) == {"a": b"data"}

    def test_files_that_belong_together_come_together(self, tmp_path: Path) -> None:
        (tmp_path / "b").write_bytes(b"old")
        with pytest.raises(FileExistsError):
            atomic_write_all([Output(tmp_path / "a", b"1"), Output(tmp_path / "b", b"2")])
        assert samples.contents(tmp_path) == {"b": b"old"}

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
    def test_killed_in_the_middle(self, tmp_path: Path, number: signal.Signals) -> None:
        """The final name never shows half a file; an orderly end also takes the temporary one away."""
        code = f"""
import os, sys, time
from pathlib import Path
from monai_miadmark import cli, files
fsync = os.fsync
def slow(descriptor):
    print("writing", flush=True)
    time.sleep(30)
os.fsync = slow
with cli.environment(False):
    files.atomic_write(Path({str(tmp_path)!r}) / "out.dcm", b"x" * 100_000)
"""
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"writing\n"
            process.send_signal(number)
            process.communicate(timeout=20)
        left = samples.contents(tmp_path)
        assert "out.dcm" not in left
        if number == signal.SIGTERM:
            assert left == {}
        else:
            assert all(name.endswith(files.TEMPORARY_SUFFIX) for name in left)


@pytest.mark.parametrize("name", ["a.dcm", ".hidden", "Bild ü 1.nii.gz", "a..b", "IM000001"])
def test_plain_names_are_taken(name: str) -> None:
    assert safe_name(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../a", "a/b", "/etc/passwd", "a\\b", "..\\a", "C:\\a", "C:a", "a\0b", "a\nb", "a\x1b[31mb"]
)
def test_paths_and_control_characters_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not a plain file name"):
        safe_name(name)


@pytest.mark.parametrize("sidecar", [False, True])
@pytest.mark.parametrize(
    ("name", "make", "protected_name"),
    [
        ("ct.dcm", samples.ct, "ct.dcm"),
        ("t1.nii", samples.nifti, "t1.nii"),
        ("t1.nii.gz", samples.nifti_gz, "t1.nii.gz"),
        ("a.png", samples.png, "a.png"),
        ("a.jpg", samples.jpeg, "a.png"),
        ("no suffix 1", samples.ct, "no suffix 1"),
    ],
)
def test_round_trip(
    tmp_path: Path, alice: HpkeIdentity, name: str, make: Callable[[], bytes], protected_name: str, sidecar: bool
) -> None:
    source = tmp_path / name
    source.write_bytes(make())
    os.chmod(source, 0o640)
    protected = protect(source, tmp_path / "p", alice, sidecar=sidecar)
    assert protected == tmp_path / "p" / protected_name
    assert sidecar_path(protected).exists() == sidecar
    assert stat.S_IMODE(protected.stat().st_mode) == 0o640
    assert source.read_bytes() == make()
    before = carrier_for(make(), name).open_source(make(), name).image.values
    held = carrier_for(protected.read_bytes(), name).open_protected(protected.read_bytes())
    assert (held.values != before).any()
    restored = files.remove_file(protected, tmp_path / "r", [alice])
    assert restored == tmp_path / "r" / name
    assert samples.plain(name, restored.read_bytes()) == samples.plain(name, make())


class TestProtect:
    def test_existing_outputs_are_refused_before_any_work(
        self, source: Path, tmp_path: Path, alice: HpkeIdentity
    ) -> None:
        out = tmp_path / "out"
        out.mkdir()
        (out / "ct.dcm").write_bytes(b"other")
        with pytest.raises(FileExistsError):
            files.protect_file(source, out, [alice.recipient], None, ProtectOptions())  # type: ignore[arg-type]
        assert samples.contents(out) == {"ct.dcm": b"other"}

    def test_a_stray_sidecar_blocks_the_name(self, source: Path, tmp_path: Path, alice: HpkeIdentity) -> None:
        out = tmp_path / "out"
        protect(source, out, alice, sidecar=True)
        (out / "ct.dcm").unlink()
        with pytest.raises(FileExistsError):
            protect(source, out, alice)
        protect(source, out, alice, overwrite=True)
        assert sorted(samples.contents(out)) == ["ct.dcm"]

    def test_input_is_never_the_output(self, source: Path, alice: HpkeIdentity) -> None:
        before = source.read_bytes()
        with pytest.raises(FileExistsError, match="input itself"):
            protect(source, source.parent, alice, overwrite=True)
        assert samples.contents(source.parent) == {"ct.dcm": before}

    def test_twice_is_refused(self, source: Path, tmp_path: Path, alice: HpkeIdentity) -> None:
        for sidecar in (False, True):
            once = protect(source, tmp_path / f"once{sidecar}", alice, sidecar=sidecar)
            with pytest.raises(UnsupportedImageError, match="protected already"):
                protect(once, tmp_path / "twice", alice)
        assert not (tmp_path / "twice").exists()

    def test_no_half_of_a_pair_stays(
        self, source: Path, tmp_path: Path, alice: HpkeIdentity, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        link, seen = os.link, []

        def fail_second(*arguments: Any, **more: Any) -> None:
            seen.append(arguments)
            if len(seen) == 2:
                raise OSError(errno.EIO, "Input/output error")
            link(*arguments, **more)

        monkeypatch.setattr(os, "link", fail_second)
        with pytest.raises(OSError, match="Input/output"):
            protect(source, tmp_path / "out", alice, sidecar=True)
        assert samples.contents(tmp_path / "out") == {}

    def test_a_named_pipe_does_not_block(self, tmp_path: Path, alice: HpkeIdentity) -> None:
        os.mkfifo(tmp_path / "pipe")
        start = time.monotonic()
        with pytest.raises(OSError, match="not a regular file"):
            protect(tmp_path / "pipe", tmp_path / "out", alice)
        assert time.monotonic() - start < 5


class TestRemove:
    @pytest.fixture
    def protected(self, source: Path, tmp_path: Path, alice: HpkeIdentity) -> Path:
        return protect(source, tmp_path / "p", alice)

    def refused(
        self, protected: Path, tmp_path: Path, error: type[Exception], identity: HpkeIdentity, **more: Any
    ) -> None:
        with pytest.raises(error):
            files.remove_file(protected, tmp_path / "r", [identity], **more)
        assert not (tmp_path / "r").exists()

    def test_wrong_key(self, protected: Path, tmp_path: Path) -> None:
        self.refused(protected, tmp_path, WrongKeyError, generate_identity("x25519"))

    def test_not_signed(self, protected: Path, tmp_path: Path, alice: HpkeIdentity) -> None:
        signer = generate_signer().verifier
        self.refused(protected, tmp_path, SignatureError, alice, require_signer=signer)

    @pytest.mark.parametrize("kept", [0.2, 0.6, 0.99])
    def test_truncated(self, protected: Path, tmp_path: Path, alice: HpkeIdentity, kept: float) -> None:
        data = protected.read_bytes()
        protected.write_bytes(data[: int(len(data) * kept)])
        self.refused(protected, tmp_path, TamperedError, alice)

    def test_never_protected(self, source: Path, tmp_path: Path, alice: HpkeIdentity) -> None:
        self.refused(source, tmp_path, NotProtectedError, alice)

    def test_sidecar_of_another_file(self, source: Path, tmp_path: Path, alice: HpkeIdentity) -> None:
        first = protect(source, tmp_path / "a", alice, sidecar=True)
        second = protect(source, tmp_path / "b", alice, sidecar=True)
        sidecar_path(first).write_bytes(sidecar_path(second).read_bytes())
        self.refused(first, tmp_path, TamperedError, alice)
        sidecar_path(first).unlink()
        self.refused(first, tmp_path, NotProtectedError, alice)

    @pytest.mark.parametrize("name", ["../escaped.dcm", "/tmp/escaped.dcm", "..", "a\0.dcm"])
    def test_names_from_records_lead_nowhere(
        self, protected: Path, tmp_path: Path, alice: HpkeIdentity, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        remove = pipeline.remove_bytes

        def evil(*arguments: Any, **more: Any) -> pipeline.RestoredBytes:
            return dataclasses.replace(remove(*arguments, **more), name=name)

        monkeypatch.setattr(pipeline, "remove_bytes", evil)
        self.refused(protected, tmp_path, ValueError, alice)
        assert not (tmp_path / "escaped.dcm").exists()


@pytest.mark.parametrize("sidecar", [False, True])
def test_grant_and_revoke(source: Path, tmp_path: Path, alice: HpkeIdentity, sidecar: bool) -> None:
    bob = generate_identity("p256")
    first = protect(source, tmp_path / "1", alice, sidecar=sidecar)
    second = files.grant_file(first, tmp_path / "2", alice, [bob.recipient])
    assert sidecar_path(second).exists() == sidecar
    third = files.revoke_file(second, tmp_path / "3", bob, [alice.key_id])
    assert [kind for kind, _ in files.inspect_file(third).recipients] == ["p256"]
    files.verify_file(third)
    with pytest.raises(WrongKeyError):
        files.remove_file(third, tmp_path / "r", [alice])
    assert files.remove_file(third, tmp_path / "r", [bob]).read_bytes() == source.read_bytes()


class TestMask:
    BOX = np.s_[10:30, 12:25]

    def box(self, shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.bool_]]:
        mask = np.zeros(shape, bool)
        mask[(..., *self.BOX)] = True
        return mask

    def test_region_stays_bit_identical(self, tmp_path: Path, alice: HpkeIdentity) -> None:
        (tmp_path / "a.png").write_bytes(samples.png())
        mask = self.box((48, 40))
        Image.fromarray(mask).save(tmp_path / "mask.png")  # 1 bit per sample
        out = protect(tmp_path / "a.png", tmp_path / "out", alice, mask=tmp_path / "mask.png")
        with Image.open(out) as picture:
            values = np.asarray(picture)
        assert (values[mask] == samples.smooth()[mask]).all()
        assert (values != samples.smooth()).any()

    @pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "I;16"])
    def test_kinds_of_png(self, tmp_path: Path, mode: str) -> None:
        mask = self.box((48, 40))
        if mode == "I;16":
            picture = Image.fromarray(mask.astype(np.uint16))
        elif mode == "P":
            picture = Image.fromarray(mask.astype(np.uint8))
            picture.putpalette([255, 0, 0, 0, 0, 0])
        else:
            picture = Image.fromarray(mask.astype(np.uint8) * 200).convert(mode, dither=Image.Dither.NONE)
        picture.save(tmp_path / "mask.png")
        data = (tmp_path / "mask.png").read_bytes()
        assert (read_mask(data, "mask.png", samples.png(), "a.png") == mask).all()

    @pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
    @pytest.mark.parametrize("dtype", ["uint8", "int64", "float64"])
    def test_nifti_label(self, dtype: str, kind: Any) -> None:
        label = np.zeros((40, 48, 3), dtype)
        label[5:9, 20:30, 1] = 3
        header = nib.Nifti1Image.from_bytes(samples.nifti()).header
        affine = header.get_best_affine()
        data = kind(label, affine, dtype=dtype).to_bytes()
        mask = read_mask(data, "label.nii", samples.nifti(), "t1.nii")
        image = np.asarray(nib.Nifti1Image.from_bytes(samples.nifti()).dataobj).astype(np.int16)
        stored = carrier_for(samples.nifti(), "a").open_source(samples.nifti(), "a").image.values[..., 0]
        assert sorted(stored[mask]) == sorted(image[label != 0])

    @pytest.mark.parametrize("shape", [(3, 48, 40), (3, 48, 40, 1)])
    def test_numpy(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        np.save(tmp_path / "m.npy", np.ones(shape, np.int8))
        mask = read_mask((tmp_path / "m.npy").read_bytes(), "m.npy", samples.nifti(), "t1.nii")
        assert mask.shape == (3, 48, 40) and mask.all()

    def test_what_is_no_mask(self, tmp_path: Path) -> None:
        np.save(tmp_path / "o.npy", np.array([{}], object), allow_pickle=True)
        np.save(tmp_path / "s.npy", np.ones((4, 4)))
        with pytest.raises(UnsupportedImageError, match="SEG"):
            read_mask(samples.ct(), "seg.dcm", samples.png(), "a.png")
        with pytest.raises(UnsupportedImageError, match=r"not a PNG, NIfTI or \.npy"):
            read_mask(b"text", "m.txt", samples.png(), "a.png")
        with pytest.raises(UnsupportedImageError, match="NIfTI image only"):
            read_mask(samples.nifti(), "m.nii", samples.png(), "a.png")
        with pytest.raises(ValueError, match="not a readable NumPy"):
            read_mask((tmp_path / "o.npy").read_bytes(), "o.npy", samples.png(), "a.png")
        with pytest.raises(ValueError, match="4 x 4"):
            read_mask((tmp_path / "s.npy").read_bytes(), "s.npy", samples.png(), "a.png")
        with pytest.raises(ValueError, match="not a readable PNG"):
            read_mask(samples.png()[:60], "m.png", samples.png(), "a.png")

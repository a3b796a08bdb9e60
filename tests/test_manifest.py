# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The manifest: what it says, what is cut off, and that foreign bytes are refused and not destroyed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import manifests
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monai_miadmark.files import Stamp
from monai_miadmark.manifest import MANIFEST_NAME, Manifest, ManifestError, Settings, manifest_lines

SETTINGS = Settings("protect", {"preset": "fast", "region_budget": 0.01})
SOURCE, OUTPUT = Stamp("ab" * 32, 10, 5), Stamp("cd" * 32, 20, 6)
FACTS = {"recipients": [], "signer": None, "quality": None}


def filled(folder: Path) -> Path:
    """A manifest with a done file, a failed one, and an intent."""
    with Manifest(folder, SETTINGS, read=False) as manifest:
        manifest.intend("a.dcm", SOURCE, {"a.dcm.miadmark": OUTPUT, "a.dcm": OUTPUT}, FACTS)
        manifest.done("a.dcm", SOURCE, {"a.dcm.miadmark": OUTPUT, "a.dcm": OUTPUT}, FACTS, 1.23456)
        manifest.failed("sub/b.dcm", "TamperedError", "changed", 0.5)
        manifest.intend("c.dcm", SOURCE, {"c.dcm": OUTPUT}, FACTS)
    return folder / MANIFEST_NAME


def read(folder: Path) -> Manifest:
    """The manifest as the next run reads it, closed."""
    with Manifest(folder, SETTINGS, read=True) as manifest:
        return manifest


def test_what_is_noted_is_read(tmp_path: Path) -> None:
    filled(tmp_path)
    manifest = read(tmp_path)
    assert manifest.earlier == SETTINGS
    assert manifest.finished["a.dcm"].source == SOURCE
    assert manifest.finished["a.dcm"].outputs == (("a.dcm.miadmark", OUTPUT), ("a.dcm", OUTPUT))
    assert set(manifest.finished) == {"a.dcm"} and set(manifest.intended) == {"c.dcm"}
    assert manifest.intended["c.dcm"][-1].outputs == (("c.dcm", OUTPUT._replace(mtime_ns=0)),)


def test_lines(tmp_path: Path) -> None:
    found = [json.loads(line) for line in filled(tmp_path).read_text().splitlines()]
    assert [line["kind"] for line in found] == ["run", "intent", "file", "file", "intent"]
    assert all(line["schema"] == 2 and len(line["mac"]) == 64 and line["time"].endswith("+00:00") for line in found)
    assert found[2]["options"] == SETTINGS.options and found[2]["seconds"] == 1.235
    assert found[3]["reason"] == {"class": "TamperedError", "message": "changed"}


def test_an_unused_one_is_not_left(tmp_path: Path) -> None:
    with Manifest(tmp_path, SETTINGS, read=False):
        pass
    assert list(tmp_path.iterdir()) == []


def test_names_that_are_not_text(tmp_path: Path) -> None:
    name = b"\xff\xfe \xc3\xa9.dcm".decode("utf-8", "surrogateescape")
    with Manifest(tmp_path, SETTINGS, read=False) as manifest:
        manifest.done(name, SOURCE, {name: OUTPUT}, FACTS, 0.0)
    assert set(read(tmp_path).finished) == {name}


def test_cut_at_every_byte(tmp_path: Path) -> None:
    """Whatever a kill leaves, the whole lines before it are read, and the next line follows them."""
    path = filled(tmp_path)
    data = path.read_bytes()
    for size in range(len(data)):
        path.write_bytes(data[:size])
        with Manifest(tmp_path, SETTINGS, read=True) as manifest:
            assert path.read_bytes() == data[: data.rfind(b"\n", 0, size) + 1]
            assert ("a.dcm" in manifest.finished) == (data[:size].count(b"\n") >= 3)
            manifest.failed("d.dcm", "TamperedError", None, 0.0)
            assert all(json.loads(line) for line in path.read_bytes().splitlines())
        # Nothing but failures is nothing: a job that did nothing leaves nothing.
        assert path.exists() == (b"\n" in data[:size])
        path.unlink(missing_ok=True)


@pytest.mark.parametrize("tail", [b"\0" * 300, b"\0" * 30 + b'class": null}}\n', b'{"schema": 1, "ti\0\0\0}\n{"sch'])
def test_what_a_crash_of_the_machine_leaves(tmp_path: Path, tail: bytes) -> None:
    path = filled(tmp_path)
    before = path.read_bytes()
    path.write_bytes(before + tail)
    assert set(read(tmp_path).finished) == {"a.dcm"}
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"notes", b"notes\n", b"a\nb\nc\nd\n", b"x" * 3_000_000, b"[1]\n[2]\n[3]\n"])
def test_other_files_are_left_as_they_are(tmp_path: Path, content: bytes) -> None:
    (tmp_path / MANIFEST_NAME).write_bytes(content)
    with pytest.raises(ManifestError):
        Manifest(tmp_path, SETTINGS, read=False)
    assert (tmp_path / MANIFEST_NAME).read_bytes() == content


@pytest.mark.parametrize(
    ("number", "change"),
    [
        (0, {"schema": 3}),
        (0, {"options": None}),
        (1, {"outputs": []}),
        (1, {"outputs": [{"path": "../a.dcm", "sha256": "ab" * 32, "bytes": 1}]}),
        (1, {"outputs": [{"path": "a.dcm", "sha256": "AB" * 32, "bytes": 1}]}),
        (1, {"outputs": 5}),
        (1, {"facts": None}),
        (2, {"output": "/etc/passwd"}),
        (2, {"output": "sub/../../a.dcm"}),
        (2, {"output": ""}),
        (2, {"output": 3}),
        (2, {"output_bytes": "10"}),
        (2, {"sidecar": {"path": ".."}}),
        (2, {"source_sha256": None}),
        (2, {"status": "perhaps"}),
        (2, {"source": None}),
        (3, {"kind": "other"}),
    ],
)
def test_malformed_lines_are_refused_by_number(tmp_path: Path, number: int, change: dict[str, Any]) -> None:
    path = filled(tmp_path)
    found = [json.loads(line) for line in path.read_text().splitlines()]
    found[number].update(change)
    manifests.rewrite(path, found)
    with pytest.raises(ManifestError, match=f"line {number + 1} is"):
        read(tmp_path)


def forged(lines: list[dict[str, Any]]) -> bytes:
    """What somebody writes who does not have the owner's key."""
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def test_lines_of_others_count_for_nothing(tmp_path: Path) -> None:
    """Changed, invented, moved, left out, copied from another run, or of a version without MAC."""
    path = filled(tmp_path)
    good = path.read_bytes().splitlines(keepends=True)
    found = manifests.read(path)
    changed = json.loads(good[2]) | {"output": "b.dcm"}
    old = [{**line, "schema": 1} for line in found]
    for line in old:
        del line["mac"]
    trials: list[tuple[bytes, int]] = [
        (b"".join([*good[:2], json.dumps(changed).encode() + b"\n", *good[3:]]), 3),
        (b"".join([good[0], *good[2:]]), 3),  # the intent is left out, and what follows hangs on it
        (b"".join([good[0], good[2], good[1], *good[3:]]), 4),
        (b"".join([*good, good[2]]), 1),
        (b"".join([*good, forged([{**found[2], "source": "x.dcm", "mac": "00" * 32}])]), 1),
        (forged(old), 5),
        (forged(old) + b"".join(good), 5),
    ]
    for content, ignored in trials:
        path.write_bytes(content)
        manifest = read(tmp_path)
        assert manifest.ignored == ignored
        assert set(manifest.finished) <= {"a.dcm"} and (
            ignored != 5 or content.endswith(good[-1]) or not manifest.finished
        )
        assert len(list(manifest_lines(tmp_path))) == content.count(b"\n") - ignored


def test_runs_of_two_owners_stand_beside_each_other(tmp_path: Path) -> None:
    mine, other = bytes(32), b"\1" * 32
    for key, name in ((mine, "a"), (other, "b"), (mine, "c")):
        with Manifest(tmp_path, SETTINGS, read=False, key=key) as manifest:
            manifest.done(name, SOURCE, {name: OUTPUT}, FACTS, 0.0)
    with Manifest(tmp_path, SETTINGS, read=True, key=mine) as manifest:
        assert set(manifest.finished) == {"a", "c"} and manifest.ignored == 2
        manifest.done("d", SOURCE, {"d": OUTPUT}, FACTS, 0.0)
    with Manifest(tmp_path, SETTINGS, read=True, key=other) as manifest:
        assert set(manifest.finished) == {"b"}
    with Manifest(tmp_path, SETTINGS, read=True, key=mine) as manifest:
        assert set(manifest.finished) == {"a", "c", "d"}


def test_damage_in_the_middle_is_refused(tmp_path: Path) -> None:
    path = filled(tmp_path)
    path.write_bytes(path.read_bytes().replace(b'"kind": "file"', b'"kind: "file"', 1))
    with pytest.raises(ManifestError, match="line 3 is damaged"):
        read(tmp_path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 2000), value=st.binary(min_size=1, max_size=6))
def test_any_damage_is_read_or_refused(tmp_path: Path, position: int, value: bytes) -> None:
    path = tmp_path / MANIFEST_NAME
    path.unlink(missing_ok=True)
    data = filled(tmp_path).read_bytes()
    position %= len(data)
    path.write_bytes(data[:position] + value + data[position + len(value) :])
    try:
        manifest = read(tmp_path)
    except ManifestError:
        return
    intents = [entry for entries in manifest.intended.values() for entry in entries]
    entries = [*manifest.finished.values(), *intents]
    assert not any(".." in path.split("/") or path.startswith("/") for entry in entries for path, _ in entry.outputs)


def test_a_line_that_could_not_be_written_leaves_no_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    with Manifest(tmp_path, SETTINGS, read=False) as manifest:
        manifest.failed("a.dcm", "X", None, 0.0)

        def half(descriptor: int, data: bytes) -> int:
            write(descriptor, bytes(data)[:20])
            raise OSError(28, "No space left on device")

        manifest.done("b.dcm", SOURCE, {"b.dcm": OUTPUT}, FACTS, 0.0)
        before = (tmp_path / MANIFEST_NAME).read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", half)
            with pytest.raises(OSError, match="No space"):
                manifest.failed("b.dcm", "X", None, 0.0)
        assert (tmp_path / MANIFEST_NAME).read_bytes() == before
        manifest.failed("c.dcm", "X", None, 0.0)
    assert (tmp_path / MANIFEST_NAME).read_bytes().startswith(before)

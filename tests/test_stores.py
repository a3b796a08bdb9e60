# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""URLs: what they mean, what a store is asked, and folder jobs from and to a store, against a real S3 interface."""

from __future__ import annotations

import copy
import json
import os
import pickle
import re
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import manifests
import pytest
import samples
import store
from doubles import BLUNT, load_marker
from store import remote

from monai_miadmark import cli, files, stores
from monai_miadmark.batch import BatchError, Report, plan, run_jobs
from monai_miadmark.engines import SerialEngine
from monai_miadmark.files import Where
from monai_miadmark.manifest import MANIFEST_NAME, ManifestError
from monai_miadmark.options import ProtectOptions
from monai_miadmark.stores import RemotePath, parse_place, put_all
from monai_miadmark.tasks import KeyFile, ProtectTask, RemoveTask


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A store with an empty bucket; its address."""
    with store.running() as address:
        yield address


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("scans/a.dcm", Path("scans/a.dcm")),
        ("./s3://odd", Path("./s3:/odd")),
        ("file:///data/a%20b.dcm", Path("/data/a b.dcm")),
        ("file://localhost/data", Path("/data")),
    ],
)
def test_paths_of_this_machine(text: str, path: Path) -> None:
    assert parse_place(text) == path and not isinstance(parse_place(text), RemotePath)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("https://host/a.dcm", "URLs are"),
        ("gs://bucket/a.dcm", "URLs are"),
        ("file://server/share/a.dcm", "this machine"),
        ("s3://key:secret@bucket/a.dcm", "credentials come from"),
        ("s3://bucket:9000/a.dcm", "credentials come from"),
        ("s3://bucket//a.dcm", "cannot be named"),
        ("s3://bucket/../a.dcm", "cannot be named"),
        ("s3://bucket/a.dcm?versionId=1", "cannot be named"),
        ("s3://bucket/a\n.dcm", "cannot be named"),
        ("s3://", "cannot be named"),
    ],
)
def test_urls_that_are_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        parse_place(text)
    assert "secret" not in str(caught.value)


def test_paths_of_a_store_compute_and_never_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a file of this machine has what would be the path's name."""
    pytest.importorskip("s3fs")
    path = remote("s3://scans/in/a.dcm")
    assert str(path) == f"{path}" == "s3://scans/in/a.dcm" and path.parent.name == "in"
    assert path.with_name("b.dcm") == remote("s3://scans/in") / "b.dcm" == remote("s3://scans/in/b.dcm/")
    assert path in {remote("s3://scans/in/a.dcm")} and copy.copy(path) == path
    again = pickle.loads(pickle.dumps(path))
    assert again == path and isinstance(again, RemotePath)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s3:" / "scans" / "in").mkdir(parents=True)
    (tmp_path / "s3:" / "scans" / "in" / "a.dcm").write_bytes(b"of this machine")
    for use in (
        path.open,
        path.read_text,
        path.touch,
        path.rmdir,
        lambda: os.unlink(path),
        lambda: list(path.iterdir()),
    ):
        with pytest.raises(TypeError, match="no file of this machine"):
            use()


def test_objects(server: str) -> None:
    path = remote("s3://scans/objects/a/one")
    assert not path.exists() and not path.is_dir() and not path.parent.is_dir()
    with pytest.raises(FileNotFoundError, match="no such object"):
        path.read_bytes()
    with pytest.raises(FileNotFoundError):
        path.unlink()
    store.write(path, b"12345")
    status = path.stat()
    assert status.st_size == 5 and status.st_mtime_ns % 10**9 == 0 and status.st_mtime_ns > 10**18
    assert path.is_file() and not path.is_dir() and path.parent.is_dir() and not path.parent.exists()
    with files.open_regular(path) as (stream, _):
        assert stream.read() == b"12345"
    assert path.resolve(strict=True) is path and path.samefile(remote("s3://scans/objects/a/one"))
    path.unlink()
    path.unlink(missing_ok=True)
    assert not path.exists()


def test_writing_takes_free_names_only(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = remote("s3://scans/writing")
    first, second = folder / "a.miadmark", folder / "a.png"
    put_all([(first, b"record"), (second, b"image")], overwrite=False)
    assert store.contents(folder) == {"a.miadmark": b"record", "a.png": b"image"}
    put_all([(second, b"image")], overwrite=False)  # the same bytes: an answer was lost, and they were sent again
    with pytest.raises(FileExistsError) as caught:
        put_all([(second, b"other")], overwrite=False)
    assert caught.value.filename2 == str(second)
    third = folder / "b.miadmark"
    with pytest.raises(FileExistsError):
        put_all([(third, b"record"), (second, b"other")], overwrite=False)
    assert not third.exists(), "a record without its image"
    # It is the store that decides: a look before would leave a gap.
    monkeypatch.setattr(RemotePath, "exists", lambda path: False)
    with pytest.raises(OSError):
        put_all([(second, b"other")], overwrite=False)
    assert second.read_bytes() == b"image"
    put_all([(second, b"other")], overwrite=True)
    assert second.read_bytes() == b"other"


def test_a_store_that_fails_is_an_error_without_its_words(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(stores, "_CONNECTION", {"connect_timeout": 1, "retries": {"max_attempts": 0}})
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    path = remote("s3://scans/a.png")
    for use in (path.stat, path.read_bytes, lambda: put_all([(path, b"image")], overwrite=True)):
        with pytest.raises(OSError, match=r"the store failed \(\w+\)") as caught:
            use()
        assert caught.value.filename == str(path) and store.SECRET not in repr(caught.value)
    planned = plan([path], Path("out"), lambda path: None)
    assert [failure.reason.partition(" (")[0] for failure in planned.failures] == ["the store failed"]
    s3fs.S3FileSystem.clear_instance_cache()


def protect(
    keys: Path, out: Path, notes: Path | None, *sources: Path, record: Where = "inside", **more: bool
) -> Report:
    """Protect from and to a store with noise for networks."""
    options = ProtectOptions(preset=BLUNT)
    task = ProtectTask((keys / "alice.pub",), options, record=record, load=load_marker)
    return run_jobs(plan(sources, out, files.protected_name, True), task, SerialEngine(), noted=notes, **more)


def restore(keys: Path, out: Path, notes: Path | None, *sources: Path, **more: bool) -> Report:
    """Restore from and to a store."""
    task = RemoveTask(identities=(KeyFile(keys / "alice.key"),))
    return run_jobs(plan(sources, out, lambda path: None), task, SerialEngine(), noted=notes, **more)


def lines(notes: Path) -> list[dict[str, object]]:
    """The manifest of a job."""
    return [json.loads(line) for line in (notes / MANIFEST_NAME).read_text().splitlines()]


def test_jobs_from_and_to_a_store(server: str, keys: Path, tmp_path: Path) -> None:
    """Every format, records beside the images, there and back; and what is done is left at the second time."""
    made = samples.tree(tmp_path / "in")
    source, shared = remote("s3://scans/jobs/in"), remote("s3://scans/jobs/in/protected")
    store.upload(tmp_path / "in", source)
    store.write_key("jobs/in/folder/", b"")  # what consoles make
    report = protect(keys, shared, tmp_path / "p", source, record="both")
    assert not report.failures and len(report.done) == len(made)
    protected = store.contents(shared)
    assert set(protected) == {
        name for n in made for name in (n.replace(".jpg", ".png"),) for name in (name, name + ".miadmark")
    }
    assert not any(data == made.get(name) for name, data in protected.items())
    noted = [line for line in lines(tmp_path / "p") if line["kind"] == "file"]
    assert sorted(str(line["source"]) for line in noted) == sorted(made)
    assert all(line["status"] == "done" and "://" not in str(line["output"]) for line in noted)

    kept = protect(keys, shared, tmp_path / "p", source, record="both", resume=True)
    assert len(kept.kept) == len(made) and not kept.done
    assert store.contents(shared) == protected, "the output folder lies in the source folder and is left out"
    refused = protect(keys, shared, tmp_path / "p2", source, record="both")
    assert {failure.kind for failure in refused.failures} == {"FileExistsError"}
    assert store.contents(shared) == protected

    assert not restore(keys, tmp_path / "back", None, shared).failures
    assert not restore(keys, remote("s3://scans/jobs/back"), tmp_path / "r", shared).failures
    here = {name: data for name, data in samples.contents(tmp_path / "back").items() if name != MANIFEST_NAME}
    there = store.contents(remote("s3://scans/jobs/back"))
    for restored in (here, there):
        assert {n: samples.plain(n, d) for n, d in restored.items()} == {
            n: samples.plain(n, d) for n, d in made.items()
        }


def test_a_job_that_died_before_it_could_note(server: str, keys: Path, tmp_path: Path) -> None:
    """What lies in the store is recognized by the digests of the intent; half of a pair is made anew."""
    (tmp_path / "in").mkdir()
    for number in range(3):
        (tmp_path / "in" / f"{number}.png").write_bytes(samples.png(number))
    out, notes = remote("s3://scans/died"), tmp_path / "notes"
    assert not protect(keys, out, notes, tmp_path / "in", record="sidecar").failures
    before = store.contents(out)
    found = manifests.read(notes / MANIFEST_NAME)
    manifests.rewrite(notes / MANIFEST_NAME, [line for line in found if line["kind"] != "file"])
    (out / "1.png").unlink()
    store.write(out / "2.png", b"somebody else's")
    report = protect(keys, out, notes, tmp_path / "in", record="sidecar", resume=True)
    assert [path.name for path, _ in report.kept] == ["0.png"] and [path.name for path, _ in report.done] == ["1.png"]
    assert [(failure.path.name, failure.kind) for failure in report.failures] == [("2.png", "FileExistsError")]
    after = store.contents(out)
    assert after["0.png"] == before["0.png"] and after["0.png.miadmark"] == before["0.png.miadmark"]
    assert after["1.png"] != before["1.png"] and after["2.png"] == b"somebody else's"
    store.write(out / "0.png", before["0.png"][::-1])
    verified = protect(keys, out, notes, tmp_path / "in", record="sidecar", resume=True, verify=True)
    assert [path.name for path, _ in verified.kept] == ["1.png"], "same size, other content"


def test_odd_objects_and_wrong_folders(server: str, keys: Path, tmp_path: Path) -> None:
    source, out, notes = remote("s3://scans/odd/in"), remote("s3://scans/odd/out"), tmp_path / "notes"
    store.write(source / "a.png", samples.png(1))
    store.write(source / "b.txt", b"no image")
    store.write(source / "a.png.miadmark-tmp", b"no image either")
    store.write_key("odd/in//twice.png", samples.png(2))
    report = protect(keys, out, notes, source)
    kinds = {failure.path.name: failure.reason for failure in report.failures}
    assert set(kinds) == {"b.txt", "a.png.miadmark-tmp", "twice.png"} and kinds["twice.png"].startswith("a key that")
    assert [path.name for path, _ in report.done] == ["a.png"]
    with pytest.raises(ManifestError, match="other options \\(out\\)"):
        protect(keys, remote("s3://scans/odd/other"), notes, source, resume=True)
    with pytest.raises(BatchError, match="is the input folder"):
        protect(keys, source, notes, source)
    with pytest.raises(ValueError, match="folder of this machine"):
        protect(keys, out, None, source)


def test_how_many_requests_a_file_takes(
    server: str, keys: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What docs/scale-out.md says of it."""
    source, out = remote("s3://scans/requests/in"), remote("s3://scans/requests/out")
    for number in range(3):
        store.write(source / f"{number}.png", samples.png(number))
    caplog.clear()
    with caplog.at_level("INFO", "werkzeug"):
        protect(keys, out, tmp_path / "p", source)
        first = requests(caplog)
        protect(keys, out, tmp_path / "p", source, resume=True)
        again = requests(caplog)
    # To plan, both folders are looked at (HEAD, LIST) and the sources listed; the rest is for the three files.
    assert first == {"HEAD": 2 + 3 * 5, "GET": 3 + 3 * 4, "PUT": 3}
    # One result is looked for, which would tell whether a passphrase is the same; then each source and each result.
    assert again == {"HEAD": 3 + 3 * 2, "GET": 3}


def requests(caplog: pytest.LogCaptureFixture) -> dict[str, int]:
    """How often the store was asked since the last time, by method; lists and contents are both ``GET``."""
    methods = re.findall(r'"(?:\x1b\[[0-9;]*m)*([A-Z]+) /', "\n".join(record.getMessage() for record in caplog.records))
    caplog.clear()
    return dict(Counter(methods))


def test_what_the_command_line_refuses(
    server: str, keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["remove", "s3://scans/none", "-i", str(keys / "alice.key")]
    cases = {
        "--manifest DIR": [*base, "-o", "s3://scans/out"],
        "no reports of files in a store": [*base, "-o", str(tmp_path), "--report", str(tmp_path / "r")],
        "URLs are s3://BUCKET/KEY": [*base, "-o", "gs://scans/out"],
        "--address is for --engine ray": [*base, "-o", str(tmp_path / "o"), "--address", "auto"],
    }
    for message, arguments in cases.items():
        assert cli.main(arguments) == 2
        assert message in capsys.readouterr().err, message
    assert cli.main([*base, "-o", str(tmp_path / "o")]) == 1
    assert "s3://scans/none: no such file" in capsys.readouterr().err


def test_the_command_line_restores_from_a_store(server: str, keys: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(samples.png())
    out = remote("s3://scans/command")
    protect(keys, out, tmp_path / "p", tmp_path / "in")
    back = ["-o", "s3://scans/command-back", "--manifest", str(tmp_path / "r"), "-i", str(keys / "alice.key")]
    assert cli.main(["remove", str(out), *back]) == 0
    assert store.contents(remote("s3://scans/command-back")) == {"a.png": samples.png()}

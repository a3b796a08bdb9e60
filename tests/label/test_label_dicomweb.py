# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The app on the series of a DICOMweb server."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
import requests
import samples
from dicomweb_server import LOGIN, DicomWebServer
from doubles import NoiseMarker
from label_server import Realm, Server, start
from numpy.typing import NDArray
from pydicom.uid import generate_uid

from monai_miadmark import pipeline
from monai_miadmark.errors import UnsupportedImageError
from monai_miadmark.keys import generate_identity, load_identity, load_recipient, save_key_pair

MEAN_APP = """
import os, tempfile
import nibabel as nib, numpy as np
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

class Mean(InferTask):
    def __init__(self):
        super().__init__(InferType.OTHERS, [], 3, "Mean of a volume")
    def is_valid(self):
        return True
    def __call__(self, request):
        return None, {"mean": float(np.asanyarray(nib.load(request["image"]).dataobj).mean())}

class MeanApp(MONAILabelApp):
    def init_infers(self):
        return {"mean": Mean()}
"""


@pytest.fixture(scope="module")
def archive() -> Iterator[DicomWebServer]:
    made = DicomWebServer()
    yield made
    made.close()


@pytest.fixture(scope="module")
def server(archive: DicomWebServer, realm: Realm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("remote")
    (folder / "mean_app").mkdir()
    (folder / "mean_app" / "main.py").write_text(MEAN_APP)
    made = start(
        folder,
        realm,
        studies=archive.url,
        MONAI_LABEL_DICOMWEB_USERNAME=LOGIN[0],
        MONAI_LABEL_DICOMWEB_PASSWORD=LOGIN[1],
        MIADMARK_LABEL_APP=str(folder / "mean_app"),
    )
    yield made
    if made.process.poll() is None:
        made.stop()


def ct_series(slices: int = 3) -> list[bytes]:
    """CT slices of a new series, the highest first."""
    study, series, made = generate_uid(), generate_uid(), []
    for number in reversed(range(slices)):
        head = pydicom.dcmread(io.BytesIO(samples.ct()))
        head.StudyInstanceUID, head.SeriesInstanceUID = study, series
        head.SOPInstanceUID = head.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        head.InstanceNumber, head.ImagePositionPatient = slices - number, [-100.0, -100.0, 2.5 * number]
        head.PixelData = np.roll(head.pixel_array, 7 * number, axis=0).tobytes()
        out = io.BytesIO()
        head.save_as(out, write_like_original=False)
        made.append(out.getvalue())
    return made


def units(slices: list[bytes]) -> NDArray[np.float64]:
    """Hounsfield units ``(columns, rows, slices)`` of slices, the highest first."""
    heads = [pydicom.dcmread(io.BytesIO(data)) for data in reversed(slices)]
    return np.stack([h.pixel_array.T * float(h.RescaleSlope) + float(h.RescaleIntercept) for h in heads], 2)


def volume(data: bytes) -> NDArray[np.float64]:
    image = nib.Nifti1Image.from_bytes(gzip.decompress(data))
    assert np.isclose(image.header.get_zooms()[2], 2.5) or image.shape[2] == 1
    return np.asarray(image.dataobj, np.float64)


def protected_series(slices: list[bytes], recipients: list[Any]) -> list[bytes]:
    """As the gateway or the command line store it."""
    return [
        pipeline.protect_bytes(data, f"{n}.dcm", recipients, NoiseMarker(), series_secret=bytes(32)).data
        for n, data in enumerate(slices)
    ]


def image(server: Server, user: str, series: str) -> requests.Response:
    return requests.get(
        f"{server.url}/datastore/image", params={"image": series}, headers=server.auth(user), timeout=300
    )


def infer(server: Server, user: str, task: str, series: str, output: str = "image") -> requests.Response:
    return requests.post(
        f"{server.url}/infer/{task}",
        params={"image": series, "output": output},
        headers=server.auth(user),
        timeout=300,
    )


def cached(server: Server, series: str) -> list[Path]:
    return sorted((server.folder / "home").rglob(f"images/{series}/*"))


def check_private(server: Server, originals: list[bytes]) -> None:
    """Nothing that others can read, and no original, also not in part, in any file that the server keeps."""
    (root,) = (server.folder / "home").rglob("miadmark-*")
    pixels = [pydicom.dcmread(io.BytesIO(data)).PixelData for data in originals]
    for path in [root, *root.rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path
        if path.is_file():
            data = path.read_bytes()
            assert not any(part[8192:8704] in data for part in pixels), path
    assert server.left_in_temp() == []


@pytest.mark.parametrize("where", ["at the server", "here"])
def test_series_are_protected_for_most_and_restored_for_the_role(
    server: Server, archive: DicomWebServer, where: str
) -> None:
    slices = ct_series()
    remote = slices
    if where == "at the server":
        remote = protected_series(slices, [load_recipient(server.keys / "server.pub")])
    (series,) = {archive.add(data) for data in remote}
    before = archive.retrieved
    seen = image(server, "paul", series)
    assert seen.status_code == 200 and seen.headers["X-MIAD-MARK"] == "protected", seen.text
    assert seen.headers["Content-Disposition"].endswith(f"{series}.nii.gz")
    files = [path.read_bytes() for path in cached(server, series)]
    assert len(files) == 3 and all(pipeline.verify_bytes(data).recipients for data in files)
    key = load_identity(server.keys / "server.key")
    assert sorted(pipeline.remove_bytes(data, [key]).data for data in files) == sorted(slices)
    marked = volume(seen.content)
    assert marked.shape == (128, 128, 3) and np.mean(marked != units(slices)) > 0.05
    if where == "at the server":
        assert sorted(files) == sorted(remote) and np.array_equal(marked, units(remote))

    for restored in (image(server, "anna", series), infer(server, "anna", "remove_mark", series)):
        assert restored.status_code == 200, restored.text
        assert np.array_equal(volume(restored.content), units(slices))
    for user in ("root", "other"):
        assert image(server, user, series).headers["X-MIAD-MARK"] == "protected"
        assert infer(server, user, "remove_mark", series).status_code == 403
    assert archive.retrieved == before + 3  # each was asked for once
    assert [data for uid, data in sorted(archive.files.items()) if uid[1] == series] == [
        data for _, data in sorted((_instance(data), data) for data in remote)
    ]
    for user, told, values in (("anna", "restored", units(slices)), ("paul", "as stored", marked)):
        said = infer(server, user, "mean", series, "json").json()
        assert said["input"] == told and np.isclose(said["mean"], values.mean())
    check_private(server, slices)


def _instance(data: bytes) -> str:
    return str(pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True).SOPInstanceUID)


def test_series_of_other_custodians_are_served_as_they_are(server: Server, archive: DicomWebServer) -> None:
    slices = protected_series(ct_series(2), [generate_identity("x25519").recipient])
    (series,) = {archive.add(data) for data in slices}
    for user in ("anna", "paul"):
        seen = image(server, user, series)
        assert seen.headers["X-MIAD-MARK"] == "protected" and np.array_equal(volume(seen.content), units(slices))
    assert infer(server, "anna", "remove_mark", series).status_code == 403


def test_a_right_to_one_key_opens_nothing_that_was_made_for_another(
    archive: DicomWebServer, server: Server, realm: Realm
) -> None:
    second = generate_identity("x25519")
    save_key_pair(second, server.keys / "second")
    try:
        slices = ct_series(2)
        for data in protected_series(slices, [second.recipient]):
            series = archive.add(data)
        for key, opens in (("second", True), ("server", False)):
            roles = ["monailabel-user", f"miadmark-restore:{key}"]
            token = realm.token("anna", realm_access={"roles": roles})
            seen = requests.get(
                f"{server.url}/datastore/image",
                params={"image": series},
                headers={"Authorization": f"Bearer {token}"},
                timeout=60,
            )
            assert seen.headers["X-MIAD-MARK"] == ("restored" if opens else "protected")
            assert np.array_equal(volume(seen.content), units(slices)) is opens
    finally:
        (server.keys / "second.key").unlink()
        (server.keys / "second.pub").unlink()


def test_uploads_are_protected_before_they_are_stored(server: Server, archive: DicomWebServer) -> None:
    (source,) = ct_series(1)
    answers = [_upload(server, "ct.dcm", source) for _ in range(2)]
    assert all(answer.status_code == 200 for answer in answers), answers[0].text
    first, second = (answer.json()["image"] for answer in answers)
    assert first != second  # one upload is one image, and replaces none
    (stored,) = (data for uid, data in archive.files.items() if uid[1] == first)
    assert pipeline.verify_bytes(stored).recipients and source not in archive.files.values()
    assert np.array_equal(volume(image(server, "anna", first).content), units([source]))
    assert image(server, "paul", first).headers["X-MIAD-MARK"] == "protected"
    before = len(archive.files)
    for name, data in (("a.nii.gz", samples.nifti_gz()), ("again.dcm", stored), ("text.dcm", b"no image")):
        refused = _upload(server, name, data)
        assert refused.status_code == 415, refused.text
    assert len(archive.files) == before
    check_private(server, [source])


def _upload(server: Server, name: str, data: bytes) -> requests.Response:
    return requests.put(
        f"{server.url}/datastore/image",
        params={"image": "name"},
        files={"file": (name, data)},
        headers=server.auth("paul"),
        timeout=300,
    )


def test_samples_labels_and_what_is_refused(server: Server, archive: DicomWebServer) -> None:
    series = [archive.add(ct_series(1)[0]) for _ in range(5)][-1]
    before = archive.retrieved
    sample = requests.post(f"{server.url}/activelearning/random", headers=server.auth("paul"), json={}, timeout=60)
    assert sample.status_code == 200 and "path" not in sample.json(), sample.text
    assert sample.json()["id"] in {uid[1] for uid in archive.files} and archive.retrieved == before
    label = samples.nifti_gz()
    where = {"image": series, "tag": "final"}
    put = requests.put(
        f"{server.url}/datastore/label",
        params=where,
        files={"label": ("label.nii.gz", label)},
        headers=server.auth("paul"),
        timeout=60,
    )
    assert put.status_code == 200, put.text
    got = requests.get(
        f"{server.url}/datastore/label",
        params={"label": series, "tag": "final"},
        headers=server.auth("paul"),
        timeout=60,
    )
    assert got.content == label
    for verb, path in (("delete", f"image?id={series}"), ("get", "dataset"), ("get", "?output=train")):
        refused = requests.request(verb, f"{server.url}/datastore/{path}", headers=server.auth("root"), timeout=60)
        assert refused.status_code == 400 and "DICOMweb" in refused.text
    for unknown in ("1.2.3", "../../keys/server", "nonsense"):
        assert image(server, "anna", unknown).status_code == 404
    check_private(server, [])


def test_what_the_archive_has_no_more_or_damaged(server: Server, archive: DicomWebServer) -> None:
    slices = protected_series(ct_series(2), [load_recipient(server.keys / "server.pub")])
    (series,) = {archive.add(data) for data in slices}
    assert image(server, "paul", series).status_code == 200
    archive.down = True
    try:
        answer = image(server, "paul", series)
        assert answer.status_code == 502 and "status 503" in answer.text and archive.url not in answer.text
        assert requests.get(f"{server.url}/auth/", timeout=30).status_code == 200
    finally:
        archive.down = False
    # A file that somebody put there is not served.
    cached(server, series)[0].write_bytes(ct_series(1)[0])
    assert np.array_equal(volume(image(server, "paul", series).content), units(slices))
    for uid in [uid for uid in archive.files if uid[1] == series]:
        kept = archive.files.pop(uid)
    assert image(server, "paul", series).status_code == 404 and cached(server, series) == []
    head = pydicom.dcmread(io.BytesIO(kept))
    head.PixelData = head.PixelData[:-2] + b"\x01\x07"
    out = io.BytesIO()
    head.save_as(out)
    archive.add(out.getvalue())
    for user in ("anna", "paul"):
        answer = image(server, user, series)
        assert answer.status_code == 409 and answer.text.startswith('{"detail":"TamperedError'), answer.text
    assert cached(server, series) == []


def test_secrets_of_the_archive_are_not_logged(server: Server) -> None:
    assert LOGIN[1] not in server.logs()
    (config,) = (server.folder / "home").rglob("datastore_v2.json")
    assert LOGIN[1] not in config.read_text() and isinstance(json.loads(config.read_text()), dict)


def test_a_folder_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    from monai_miadmark.apps.label.remote_datastore import make_private

    (tmp_path / "made").mkdir(mode=0o755)
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("made", "link"):
        with pytest.raises(RuntimeError, match="others may not read"):
            make_private(tmp_path / name)
    make_private(tmp_path / "new")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


def test_long_series_are_protected_over_several_requests(
    archive: DicomWebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastapi import HTTPException

    from monai_miadmark.apps.label import remote_datastore
    from monai_miadmark.apps.label.dicomweb import DicomWeb
    from monai_miadmark.apps.label.key_folder import KeyFolder
    from monai_miadmark.apps.label.vault import Vault
    from monai_miadmark.options import ProtectOptions

    (tmp_path / "keys").mkdir(mode=0o700)
    save_key_pair(generate_identity("x25519"), tmp_path / "keys" / "server")
    vault = Vault(KeyFolder(tmp_path / "keys"), NoiseMarker, ProtectOptions())
    (series,) = {archive.add(data) for data in ct_series(3)}
    remote = DicomWeb(archive.url, LOGIN)
    made = remote_datastore.RemoteDatastore(tmp_path / "kept", vault, remote, {"Modality": "CT"})
    monkeypatch.setattr(remote_datastore, "_FILL_SECONDS", 0)
    for ready in (1, 2):
        with pytest.raises(HTTPException) as later:
            made.get_image_uri(series)
        assert later.value.status_code == 503 and later.value.detail.startswith(f"{ready} of 3 instances")
    assert len(list(Path(made.get_image_uri(series)).iterdir())) == 3
    assert series in made.list_images() and series in made.get_unlabeled_images()


_BAD_UID = '[{"0020000D": {"Value": ["1.2"]}, "0020000E": {"Value": ["%s"]}}]'


@pytest.mark.parametrize(
    "says",
    ["{}", "no JSON", "[" * 100_000, "[[]]", "[{}]", _BAD_UID % "../../keys", _BAD_UID % ("1." * 40 + "1"), " " * 2000],
    ids=["object", "text", "deep", "list", "empty", "path", "long", "too much"],
)
def test_answers_that_are_none(archive: DicomWebServer, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from monai_miadmark.apps.label import dicomweb

    remote = dicomweb.DicomWeb(archive.url, LOGIN, most=1000)
    monkeypatch.setattr(dicomweb, "_MAX_JSON", 1000 if says.isspace() else 1 << 20)
    monkeypatch.setattr(dicomweb, "_OWN_PARTS", 0)
    monkeypatch.setattr(archive, "says", says.encode())
    for asked in (lambda: remote.series({}), lambda: remote.instances("1.2.3")):
        with pytest.raises(dicomweb.RemoteError):
            asked()
    with pytest.raises(dicomweb.RemoteError):
        remote.retrieve(dicomweb.Instance("1.2", "1.2.3", "1.2.3.4"))


@pytest.mark.parametrize("head", ["Content-Length: 64", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("slow", [True, False], ids=["slow", "broken off"])
def test_answers_that_do_not_end(head: str, slow: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then would hold the server up, and half an answer is none."""
    from monai_miadmark.apps.label import dicomweb

    monkeypatch.setattr(dicomweb, "_SEARCH_SECONDS", 1.0)
    byte = b"1\r\n[\r\n" if "chunked" in head else b"["
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            client, _ = listening.accept()
            with client, contextlib.suppress(OSError):
                client.recv(65536)
                client.sendall(f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n".encode() + byte)
                for _ in range(30 if slow else 0):
                    time.sleep(0.2)
                    client.sendall(byte)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        remote = dicomweb.DicomWeb(f"http://127.0.0.1:{listening.getsockname()[1]}")
        before = time.monotonic()
        with pytest.raises(dicomweb.RemoteError, match="too long" if slow else "broke off|not reached"):
            remote.series({})
        assert time.monotonic() - before < 3
        thread.join(5)


def test_the_only_instance_is_served_byte_for_byte_where_nothing_is_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    from monailabel.config import settings

    from monai_miadmark.apps.label.series_volume import packed_series

    slices = ct_series(2)
    with pytest.raises(UnsupportedImageError, match="at one place"):
        packed_series([slices[0], slices[0]], "1.2.3")
    monkeypatch.setattr(settings, "MONAI_LABEL_DICOMWEB_CONVERT_TO_NIFTI", False)
    assert packed_series(slices[:1], "1.2.3").data == slices[0]
    with pytest.raises(UnsupportedImageError, match="one NIfTI file only"):
        packed_series(slices, "1.2.3")

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The app on Orthanc with its DICOMweb plugin; for machines that have both (Debian: orthanc, orthanc-dicomweb)."""

from __future__ import annotations

import glob
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests
from dicomweb_server import LOGIN
from label_server import Realm, free_port, start
from test_label_dicomweb import check_private, ct_series, image, protected_series, units, volume

from monai_miadmark import pipeline
from monai_miadmark.keys import load_recipient

_PROGRAM = shutil.which("Orthanc")
_PLUGINS = glob.glob("/usr/share/orthanc/plugins/libOrthancDicomWeb*.so*")

pytestmark = pytest.mark.skipif(not (_PROGRAM and _PLUGINS), reason="no Orthanc with DICOMweb here")


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[str]:
    """Address of a started Orthanc."""
    port = free_port()
    settings = {
        "StorageDirectory": str(tmp_path / "archive"),
        "IndexDirectory": str(tmp_path / "archive"),
        "HttpPort": port,
        "DicomServerEnabled": False,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {LOGIN[0]: LOGIN[1]},
        "Plugins": _PLUGINS[:1],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (tmp_path / "orthanc.json").write_text(json.dumps(settings))
    with (tmp_path / "orthanc.txt").open("wb") as output:
        process = subprocess.Popen([str(_PROGRAM), str(tmp_path / "orthanc.json")], stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 60
        while True:
            assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "orthanc.txt").read_text()
            try:
                requests.get(f"http://127.0.0.1:{port}/system", auth=LOGIN, timeout=5).raise_for_status()
                break
            except requests.RequestException:
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def test_series_of_orthanc(orthanc: str, realm: Realm, tmp_path: Path) -> None:
    server = start(
        tmp_path,
        realm,
        studies=f"{orthanc}/dicom-web",
        MONAI_LABEL_DICOMWEB_USERNAME=LOGIN[0],
        MONAI_LABEL_DICOMWEB_PASSWORD=LOGIN[1],
    )
    try:
        plain, slices = ct_series(4), ct_series(5)
        protected = protected_series(slices, [load_recipient(server.keys / "server.pub")])
        for data in [*plain, *protected]:
            requests.post(f"{orthanc}/instances", data=data, auth=LOGIN, timeout=30).raise_for_status()
        listed = requests.get(f"{server.url}/info/", headers=server.auth("paul"), timeout=30).json()["datastore"]
        assert listed["total"] == 2
        found = requests.get(f"{orthanc}/dicom-web/series", auth=LOGIN, timeout=30).json()
        for series in (row["0020000E"]["Value"][0] for row in found):
            source = slices if series.startswith("2.25.") else plain
            for user, restored in (("paul", False), ("anna", True)):
                seen = image(server, user, series)
                assert seen.status_code == 200, seen.text
                assert np.array_equal(volume(seen.content), units(source)) is restored
        put = requests.put(
            f"{server.url}/datastore/image",
            files={"file": ("ct.dcm", plain[0])},
            headers=server.auth("paul"),
            timeout=120,
        )
        assert put.status_code == 200, put.text
        series = put.json()["image"]
        rows = requests.get(f"{orthanc}/dicom-web/instances?SeriesInstanceUID={series}", auth=LOGIN, timeout=30).json()
        uid = rows[0]["00080018"]["Value"][0]
        (found,) = requests.post(f"{orthanc}/tools/lookup", data=uid, auth=LOGIN, timeout=30).json()
        stored = requests.get(f"{orthanc}{found['Path']}/file", auth=LOGIN, timeout=30).content
        assert pipeline.verify_bytes(stored).recipients
        assert np.array_equal(volume(image(server, "anna", series).content), units(plain[:1]))
        check_private(server, plain + slices)
    finally:
        server.stop()

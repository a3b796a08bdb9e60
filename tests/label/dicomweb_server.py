# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""A small DICOMweb server on the loopback interface: QIDO-RS, WADO-RS and STOW-RS as the app uses them."""

from __future__ import annotations

import base64
import io
import json
import re
import threading
import time
import uuid
from typing import Any

import pydicom
import uvicorn
from fastapi import FastAPI, Request, Response
from label_server import free_port

LOGIN = ("archive", "archive-password")

_TAGS = {
    "0020000D": "StudyInstanceUID",
    "0020000E": "SeriesInstanceUID",
    "00080018": "SOPInstanceUID",
    "00080060": "Modality",
}


class DicomWebServer:
    """Keeps files as they come; gives two rows of a search at a time, as servers do with long ones."""

    def __init__(self) -> None:
        self.files: dict[tuple[str, str, str], bytes] = {}
        self.retrieved = 0
        self.down = False
        self.says: bytes | None = None
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/dicom-web"
        self._server = uvicorn.Server(uvicorn.Config(self._app(), "127.0.0.1", port, log_level="error"))
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        deadline = time.monotonic() + 30
        while not self._server.started:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def add(self, data: bytes) -> str:
        """Store a file and give the UID of its series back."""
        head = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True)
        self.files[str(head.StudyInstanceUID), str(head.SeriesInstanceUID), str(head.SOPInstanceUID)] = data
        return str(head.SeriesInstanceUID)

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)

    def _rows(self, asked: dict[str, str], level: str) -> list[dict[str, Any]]:
        offset = int(asked.pop("offset", 0))
        rows: dict[str, dict[str, Any]] = {}
        for data in self.files.values():
            head = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True)
            if all(str(head.get(name)) == value for name, value in asked.items()):
                row = {tag: {"vr": "UI", "Value": [str(head.get(name))]} for tag, name in _TAGS.items()}
                rows[row[level]["Value"][0]] = row
        return list(rows.values())[offset : offset + 2]

    def _app(self) -> FastAPI:
        app = FastAPI()
        expected = "Basic " + base64.b64encode(":".join(LOGIN).encode()).decode()

        @app.middleware("http")
        async def login(request: Request, call_next: Any) -> Response:
            if self.down:
                return Response(status_code=503)
            if request.headers.get("authorization") != expected:
                return Response(status_code=401)
            if self.says is not None:
                return Response(self.says, media_type="application/dicom+json")
            return await call_next(request)

        @app.get("/dicom-web/series")
        def series(request: Request) -> Response:
            return _json(self._rows(dict(request.query_params), "0020000E"))

        @app.get("/dicom-web/studies/{study}/series/{uid}/instances")
        def instances(study: str, uid: str, request: Request) -> Response:
            asked = {**request.query_params, "StudyInstanceUID": study, "SeriesInstanceUID": uid}
            return _json(self._rows(asked, "00080018"))

        @app.get("/dicom-web/studies/{study}/series/{series}/instances/{uid}")
        def instance(study: str, series: str, uid: str, request: Request) -> Response:
            data = self.files.get((study, series, uid))
            if data is None:
                return Response(status_code=404)
            assert "multipart/related" in request.headers["accept"]
            self.retrieved += 1
            mark = uuid.uuid4().hex.encode()
            body = b"--%s\r\nContent-Type: application/dicom\r\n\r\n%s\r\n--%s--\r\n" % (mark, data, mark)
            kind = f'multipart/related; type="application/dicom"; boundary="{mark.decode()}"'
            return Response(body, headers={"Content-Type": kind})

        @app.post("/dicom-web/studies")
        async def store(request: Request) -> Response:
            mark = re.search(r'boundary="?([^";]+)', request.headers["content-type"])
            assert mark is not None
            _, *parts = (await request.body()).split(b"--" + mark[1].encode())
            for part in parts[:-1]:
                self.add(part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n"))
            return _json({})

        return app


def _json(value: Any) -> Response:
    if value == []:
        return Response(status_code=204)
    return Response(json.dumps(value), media_type="application/dicom+json")

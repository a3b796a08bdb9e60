# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""What the app asks of a DICOMweb server: which series and instances there are, whole instances, and storing one.

The client that MONAI Label uses parses what it is sent and writes it anew; protected files must come as they lie there.
"""

from __future__ import annotations

import json
import re
import secrets
import threading
import time
from collections.abc import Iterable, Mapping
from http.client import HTTPException
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import requests
from requests_toolbelt.multipart.decoder import (
    ImproperBodyPartContentException,
    MultipartDecoder,
    NonMultipartContentTypeException,
)
from urllib3.exceptions import HTTPError

__all__ = ["DicomWeb", "Instance", "RemoteError", "is_uid"]

_COMPONENT = re.compile(r"[0-9]{1,64}")
_CONNECT_SECONDS, _READ_SECONDS = 5.0, 20.0
_SEARCH_SECONDS, _FILE_SECONDS = 30.0, 300.0
_MAX_JSON = 64 << 20
_MAX_INSTANCES = 4096
_MAX_ROWS = 100_000
_PIECE = 1 << 18
_NO_MULTIPART = (ImproperBodyPartContentException, NonMultipartContentTypeException)
_OWN_PARTS = 1 << 16
"""What a multipart answer may be longer than the one file in it."""


class RemoteError(Exception):
    """The DICOMweb server does not answer, or not as it should. Names no address, credentials or patient."""


class Instance(NamedTuple):
    """An instance of a series, by its UIDs."""

    study: str
    series: str
    instance: str


class DicomWeb:
    """A DICOMweb server: QIDO-RS, WADO-RS and STOW-RS.

    Args:
        url: its address.
        login: user and password, if it wants them.
        prefixes: of the addresses for QIDO-RS, WADO-RS and STOW-RS, where they differ.
        most: bytes that an instance may have.

    Raises:
        ValueError: the address has a user, a query or a fragment in it, which would be logged, or lead elsewhere.
    """

    def __init__(
        self,
        url: str,
        login: tuple[str, str] | None = None,
        prefixes: tuple[str | None, str | None, str | None] = (None, None, None),
        most: int = 1 << 30,
    ) -> None:
        parts = urlsplit(url)
        if not parts.hostname or "@" in parts.netloc or parts.query or parts.fragment:
            raise ValueError("the address of a DICOMweb server is http(s)://HOST[:PORT][/PATH], without user and query")
        self.url = url.rstrip("/")
        self._login, self._most = login, most
        self._qido, self._wado, self._stow = (
            f"{self.url}/{prefix.strip('/')}" if prefix else self.url for prefix in prefixes
        )
        self._sessions = threading.local()  # sessions of requests are not made for several threads

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def series(self, search: Mapping[str, Any]) -> list[str]:
        """UIDs of the series that a search finds, sorted."""
        return sorted({uid for (uid,) in self._search("series", search, ("0020000E",))})

    def instances(self, series: str) -> list[Instance]:
        """The instances of a series, sorted; empty where there is no such series."""
        rows = self._search("series", {"SeriesInstanceUID": series}, ("0020000D", "0020000E"))
        # There are servers that take no notice of what they are asked for.
        studies = {study for study, uid in rows if uid == series}
        if not studies:
            return []
        if len(studies) > 1:
            raise RemoteError("the DICOMweb server has series of one UID in several studies")
        (study,) = studies
        found = self._search(f"studies/{study}/series/{series}/instances", {}, ("00080018",))
        if len(found) > _MAX_INSTANCES:
            raise RemoteError(f"the series has more than {_MAX_INSTANCES} instances")
        return sorted({Instance(study, series, uid) for (uid,) in found})

    def retrieve(self, instance: Instance) -> bytes:
        """The file of an instance, byte for byte as the server has it."""
        path = f"studies/{instance.study}/series/{instance.series}/instances/{instance.instance}"
        headers = {"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}
        kind, body = self._get(f"{self._wado}/{path}", {}, headers, self._most + _OWN_PARTS, _FILE_SECONDS)
        if kind.partition(";")[0].strip().lower() == "application/dicom":
            return body  # there are servers that do not wrap what is one
        try:
            parts = MultipartDecoder(body, kind).parts
        except (*_NO_MULTIPART, ValueError, AttributeError, KeyError, IndexError) as error:
            raise RemoteError(f"the DICOMweb server's answer is no multipart message: {type(error).__name__}") from None
        if len(parts) != 1:
            raise RemoteError(f"the DICOMweb server answered with {len(parts)} files for one instance")
        data: bytes = parts[0].content
        return data

    def store(self, data: bytes) -> None:
        """Store a file."""
        boundary = secrets.token_hex(16)
        kind = f'multipart/related; type="application/dicom"; boundary="{boundary}"'
        head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        headers = {"Content-Type": kind, "Accept": "application/dicom+json"}
        try:
            answer = self._session().post(
                f"{self._stow}/studies",
                data=head + data + f"\r\n--{boundary}--\r\n".encode(),
                headers=headers,
                timeout=(_CONNECT_SECONDS, _FILE_SECONDS),
                allow_redirects=False,
                stream=True,
            )
        except requests.RequestException as error:
            raise _unreached(error) from None
        with answer:
            if answer.status_code != 200:  # 202: some of it was not stored
                raise RemoteError(f"the DICOMweb server did not store the image: status {answer.status_code}")

    def _search(self, path: str, search: Mapping[str, Any], tags: tuple[str, ...]) -> list[tuple[str, ...]]:
        """UIDs of all that a search finds, each once. Servers may give parts: it ends where one has nothing new."""
        found: dict[tuple[str, ...], None] = {}
        until = time.monotonic() + _SEARCH_SECONDS
        rows = 0
        while True:
            params = {name: str(value) for name, value in search.items()} | ({"offset": str(rows)} if rows else {})
            page = self._page(path, params, until - time.monotonic())
            new = dict.fromkeys(_uids(page, tags)).keys() - found.keys()
            if not new:
                return list(found)
            found |= dict.fromkeys(new)
            rows += len(page)
            if rows > _MAX_ROWS:
                raise RemoteError(f"the DICOMweb server found more than {_MAX_ROWS} of what was asked for")

    def _page(self, path: str, params: dict[str, str], seconds: float) -> list[Any]:
        """A part of what a search finds."""
        _, body = self._get(f"{self._qido}/{path}", params, {"Accept": "application/dicom+json"}, _MAX_JSON, seconds)
        try:
            found = json.loads(body or b"[]")  # 204: nothing is found
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, list):
            raise RemoteError("the DICOMweb server's answer to a search is no JSON array")
        return found

    def _get(
        self, url: str, params: dict[str, str], headers: dict[str, str], most: int, seconds: float
    ) -> tuple[str, bytes]:
        """Kind and body of an answer, of at most so many bytes and seconds."""
        until = time.monotonic() + seconds
        try:
            with self._session().get(
                url,
                params=params,
                headers={**headers, "Accept-Encoding": "identity"},
                timeout=(_CONNECT_SECONDS, _READ_SECONDS),
                allow_redirects=False,
                stream=True,
            ) as answer:
                if answer.status_code not in (200, 204):
                    raise RemoteError(f"the DICOMweb server answered with status {answer.status_code}")
                body = bytearray()
                # As it comes: a full piece of a server that sends a byte now and then would take for ever.
                while piece := answer.raw.read1(_PIECE, decode_content=False):
                    body += piece
                    if len(body) > most:
                        raise RemoteError(f"the DICOMweb server's answer is longer than {most} bytes")
                    if time.monotonic() > until:
                        raise RemoteError("the DICOMweb server's answer took too long")
                announced = answer.headers.get("Content-Length")
                if announced is not None and announced != str(len(body)):
                    raise RemoteError("the DICOMweb server's answer broke off")
                return answer.headers.get("Content-Type", ""), bytes(body)
        except (requests.RequestException, HTTPError, OSError, HTTPException) as error:
            raise _unreached(error) from None

    def _session(self) -> requests.Session:
        """This thread's session."""
        session: requests.Session | None = getattr(self._sessions, "held", None)
        if session is None:
            session = self._sessions.held = requests.Session()
            session.auth = self._login
        return session


def is_uid(text: object) -> bool:
    """Whether this is a UID: also a plain name for a file."""
    if not isinstance(text, str) or len(text) > 64:
        return False
    components = text.split(".")
    return len(components) > 1 and all(map(_COMPONENT.fullmatch, components))


def _uids(rows: Iterable[Any], tags: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Values of these attributes in each row of a DICOM JSON array, all of which must be UIDs."""
    found = []
    for row in rows:
        try:
            values = tuple(row[tag]["Value"][0] for tag in tags)
        except (KeyError, IndexError, TypeError):
            raise RemoteError("the DICOMweb server found something without its UIDs") from None
        if not all(map(is_uid, values)):
            raise RemoteError("the DICOMweb server gave something for a UID that is none")
        found.append(values)
    return found


def _unreached(error: Exception) -> RemoteError:
    """What is told of a failed request: its message would have the address in it."""
    return RemoteError(f"the DICOMweb server is not reached: {type(error).__name__}")

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""A store with S3's interface on this machine, for tests of URLs."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from monai_miadmark.stores import RemotePath, parse_place

SECRET = "wJalrXUtnFEMI-not-a-real-key"


@contextmanager
def running() -> Iterator[str]:
    """A store with an empty bucket ``scans``, to which the environment leads; its address."""
    server = pytest.importorskip("moto.server", reason="moto, flask and flask-cors are not installed")
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")
    threaded = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    with pytest.MonkeyPatch.context() as patch:
        threaded.start()
        host, port = threaded.get_host_and_port()
        address = f"http://{host}:{port}"
        for name, value in {
            "AWS_ENDPOINT_URL": address,
            "AWS_ACCESS_KEY_ID": "tests",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        # What moto holds is of the process, not of the server: buckets of an earlier one would still be there.
        urllib.request.urlopen(urllib.request.Request(f"{address}/moto-api/reset", method="POST"), timeout=30).close()
        try:
            s3fs.S3FileSystem(use_listings_cache=False).mkdir("scans")
            yield address
        finally:
            s3fs.S3FileSystem.clear_instance_cache()
            threaded.stop()


def remote(url: str) -> RemotePath:
    """The path of a URL."""
    path = parse_place(url)
    assert isinstance(path, RemotePath)
    return path


def upload(folder: Path, to: RemotePath) -> None:
    """Copy all files of a folder."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            write(to / path.relative_to(folder).as_posix(), path.read_bytes())


def write(path: RemotePath, data: bytes) -> None:
    """Write an object by other means than those that are tested."""
    write_key(str(path).removeprefix("s3://scans/"), data)


def write_key(key: str, data: bytes) -> None:
    """The same, for keys that no path has."""
    import boto3

    boto3.client("s3").put_object(Bucket="scans", Key=key, Body=data)


def contents(folder: RemotePath) -> dict[str, bytes]:
    """All objects below a path."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path, _ in folder.walk_objects()}

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Gateways among peers that speak DICOM: what arrives, what is refused, and what happens when the next node is ill."""

from __future__ import annotations

import datetime
import io
import logging
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from monai_miadmark import cli
from monai_miadmark.gateway import ClientTLS, ServerTLS, read_status
from monai_miadmark.gateway.part10 import ObjectIdentity, file_head
from monai_miadmark.keys import load_identity
from monai_miadmark.pipeline import remove_bytes, verify_bytes

pytest.importorskip("pynetdicom")

from gateway_peers import Archive, Fragile, Running, protecting, restoring, running, send, until
from pynetdicom import AE

EXPLICIT = "1.2.840.10008.1.2.1"


def image(folder: Path, number: int, name: str = "MR_small.dcm", **attributes: Any) -> Path:
    """An image from pydicom's wheel under another SOP Instance UID."""
    source = pydicom.dcmread(str(pydicom.data.get_testdata_file(name, download=False)))
    source.SOPInstanceUID = source.file_meta.MediaStorageSOPInstanceUID = f"1.2.826.0.1.3680043.8.498.{number}"
    for keyword, value in attributes.items():
        setattr(source, keyword, value)
    path = folder / f"{number}.dcm"
    source.save_as(path)
    return path


def sent_part(path: Path) -> bytes:
    """The data set of a file, which is what goes over the wire."""
    data = path.read_bytes()
    meta = pydicom.filereader.read_file_meta_info(path)
    return data[132 + 12 + meta.FileMetaInformationGroupLength :]


def as_file(data: bytes, syntax: str = EXPLICIT) -> bytes:
    """A data set that arrived, as a file."""
    found = pydicom.filereader.read_dataset(io.BytesIO(data), syntax == "1.2.840.10008.1.2", True)
    return file_head(ObjectIdentity(str(found.SOPClassUID), str(found.SOPInstanceUID), syntax)) + data


@pytest.fixture(scope="module")
def archive() -> Iterator[Archive]:
    made = Archive()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def gateway(archive: Archive, keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Protects for alice; objects of at most 1 MiB."""
    folder = tmp_path_factory.mktemp("gateway") / "queue"
    task = protecting(keys)
    fragile = Fragile(task.recipients, task.options, overwrite=True, load=task.load)
    with running(folder, fragile, archive.node, object_bytes=1 << 20) as run:
        yield run


@pytest.fixture(autouse=True)
def nothing_else_arrives(request: pytest.FixtureRequest) -> None:
    """Each test looks at what arrives from now on."""
    if "archive" in request.fixturenames:
        request.getfixturevalue("archive").files.clear()


class TestProtecting:
    def test_what_arrives_is_protected_and_comes_back(
        self, gateway: Running, archive: Archive, keys: Path, tmp_path: Path
    ) -> None:
        names = ["MR_small.dcm", "MR_small_RLE.dcm", "MR_small_implicit.dcm"]
        paths = [image(tmp_path, number, name) for number, name in enumerate(names)]
        assert [send(gateway.node(), path) for path in paths] == [0, 0, 0]
        until(lambda: len(archive.files) == 3)
        assert not {pydicom.dcmread(path).SOPInstanceUID for path in paths} & archive.files.keys()
        restored = set()
        for [data] in archive.files.values():
            implicit = data[4:6].isalpha() is False
            protected = as_file(data, "1.2.840.10008.1.2" if implicit else EXPLICIT)
            verify_bytes(protected)
            back = remove_bytes(protected, [load_identity(keys / "alice.key")])
            assert back.name == f"{pydicom.dcmread(io.BytesIO(back.data)).SOPInstanceUID}.dcm"
            meta = pydicom.filereader.read_partial(io.BytesIO(back.data)).file_meta
            restored.add(back.data[132 + 12 + meta.FileMetaInformationGroupLength :])
        assert restored == {sent_part(path) for path in paths}

    def test_the_same_again_is_the_same(self, gateway: Running, archive: Archive, tmp_path: Path) -> None:
        path = image(tmp_path, 10)
        for times in (1, 2):
            assert send(gateway.node(), path) == 0
            until(lambda: [len(v) for v in archive.files.values()] == [times])  # noqa: B023
        [[first, second]] = archive.files.values()
        assert first == second

    def test_nothing_unprotected_passes(self, gateway: Running, archive: Archive, tmp_path: Path) -> None:
        report = image(tmp_path, 11, "test-SR.dcm")
        assert send(gateway.node(), report) == 0
        until(lambda: any("without pixel data" in reason for reason in read_status(gateway.queue).dead))
        assert send(gateway.node(), image(tmp_path, 12)) == 0
        until(lambda: len(archive.files) == 1)
        assert "1.2.826.0.1.3680043.8.498.11" not in archive.files

    def test_an_object_that_kills_its_process(self, gateway: Running, archive: Archive, tmp_path: Path) -> None:
        assert send(gateway.node(), image(tmp_path, 13, PatientComments="DEADLY")) == 0
        assert send(gateway.node(), image(tmp_path, 14)) == 0
        until(lambda: any("SIGABRT" in reason for reason in read_status(gateway.queue).dead))
        until(lambda: len(archive.files) == 1)

    def test_no_value_of_a_patient_is_told(self, gateway: Running, tmp_path: Path) -> None:
        told = io.StringIO()
        handler = logging.StreamHandler(told)
        logging.getLogger("monai_miadmark.gateway").addHandler(handler)
        try:
            send(gateway.node(), image(tmp_path, 15, PatientComments="LIKE PATIENT"))
            until(lambda: "unexpected ValueError" in read_status(gateway.queue).dead)
        finally:
            logging.getLogger("monai_miadmark.gateway").removeHandler(handler)
        said = told.getvalue() + str(read_status(gateway.queue))
        assert "dead (unexpected ValueError)" in said
        assert "LIKE PATIENT" not in said and "8.498.15" not in said


class TestCallers:
    def test_echo(self, gateway: Running) -> None:
        entity = AE("CT1")
        entity.add_requested_context("1.2.840.10008.1.1")
        association = entity.associate("127.0.0.1", gateway.port, ae_title="MIADMARK")
        assert association.is_established and association.send_c_echo().Status == 0
        association.release()

    def test_strangers_are_refused(self, gateway: Running, archive: Archive, tmp_path: Path) -> None:
        path = image(tmp_path, 20)
        assert send(gateway.node(), path, "STRANGER") == -1
        assert send(gateway.node("OTHER"), path) == -1
        counts = read_status(gateway.queue).counts
        assert counts["received"] == counts["ready"] == 0 and not archive.files

    def test_an_object_under_another_name(self, gateway: Running, tmp_path: Path) -> None:
        path = image(tmp_path, 21)
        data = path.read_bytes().replace(b"8.498.21", b"8.498.22", 1)  # in the meta information only
        path.write_bytes(data)
        assert send(gateway.node(), path) == 0xA900

    def test_rubbish(self, gateway: Running, tmp_path: Path) -> None:
        path = image(tmp_path, 23)
        whole = path.read_bytes()
        path.write_bytes(whole[: -len(sent_part(path))] + b"\x08\0\x05\0CS\xff\xff rubbish")
        assert send(gateway.node(), path) == 0xC000

    def test_too_large(self, gateway: Running, archive: Archive, tmp_path: Path) -> None:
        path = image(tmp_path, 24, PatientComments="x" * (3 << 20))
        assert send(gateway.node(), path) in (None, -1)
        assert send(gateway.node(), image(tmp_path, 25)) == 0
        until(lambda: len(archive.files) == 1)

    def test_messages_of_gigabytes_take_no_memory(self, gateway: Running) -> None:
        import socket

        with socket.create_connection(("127.0.0.1", gateway.port), 30) as stranger:
            stranger.sendall(b"\x01\0\xff\xff\xff\xff" + bytes(100))
            with pytest.raises(OSError, match=r".") if os.name == "nt" else _closed():
                assert stranger.recv(1) == b""


def _closed() -> Any:
    """A connection that is reset counts as closed."""
    import contextlib

    return contextlib.suppress(ConnectionResetError)


class TestNextNode:
    def test_it_may_be_away_or_out_of_resources(self, gateway: Running, archive: Archive, tmp_path: Path) -> None:
        archive.stop()
        try:
            assert send(gateway.node(), image(tmp_path, 30)) == 0
            until(lambda: read_status(gateway.queue).counts["ready"] == 1)
            archive.answers = [0xA700, 0xA701, 0x0110]
        finally:
            archive.start()
        until(lambda: len(archive.files) == 1)
        assert archive.answers == []
        until(lambda: read_status(gateway.queue).counts["ready"] == 0)

    def test_it_may_refuse_for_good(self, gateway: Running, archive: Archive, tmp_path: Path) -> None:
        archive.answers = [0xC001] * 8
        assert send(gateway.node(), image(tmp_path, 31)) == 0
        until(lambda: read_status(gateway.queue).dead.get("the next node refused it with status C001") == 1)
        assert not archive.files

    def test_an_archive_that_drops_elements_may_drop_the_record(
        self, gateway: Running, archive: Archive, tmp_path: Path
    ) -> None:
        archive.answers = [0xB006, 0xB000]
        assert send(gateway.node(), image(tmp_path, 32)) == 0
        until(lambda: any("B006" in reason for reason in read_status(gateway.queue).dead))
        assert send(gateway.node(), image(tmp_path, 33)) == 0
        until(lambda: archive.answers == [])


def certificates(folder: Path) -> None:
    """A root, and certificates for ``server`` and ``client`` (both localhost and 127.0.0.1)."""
    now = datetime.datetime.now(datetime.timezone.utc)
    root_key = ec.generate_private_key(ec.SECP256R1())
    root_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root")])
    for name in ("root", "server", "client"):
        key = root_key if name == "root" else ec.generate_private_key(ec.SECP256R1())
        import ipaddress

        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        made = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(root_name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(1))
            .not_valid_after(now + datetime.timedelta(1))
            .add_extension(x509.BasicConstraints(name == "root", None), True)
            .add_extension(x509.SubjectAlternativeName(names), False)
            .sign(root_key, hashes.SHA256())
        )
        (folder / f"{name}.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
        (folder / f"{name}.pk8").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )


def test_protected_by_one_gateway_and_restored_by_another_over_tls(
    archive: Archive, keys: Path, tmp_path: Path
) -> None:
    """Also the way of what is not protected: to the dead, or with the option on."""
    certificates(tmp_path)
    root = tmp_path / "root.pem"
    server = ServerTLS(tmp_path / "server.pem", tmp_path / "server.pk8", root)
    client = ClientTLS(root, tmp_path / "client.pem", tmp_path / "client.pk8")
    path = image(tmp_path, 40, "MR_small_RLE.dcm")
    with running(tmp_path / "b", restoring(keys), archive.node, server_tls=server) as second:
        assert send(second.node(), path) == -1  # without TLS
        assert send(second.node(), path, tls=ClientTLS(root).context()) == -1  # without a certificate
        with running(
            tmp_path / "a", protecting(keys), second.node(), server_tls=server, client_tls=client, pass_unsupported=True
        ) as first:
            report = image(tmp_path, 41, "test-SR.dcm")
            for sent in (path, report):
                assert send(first.node(), sent, tls=client.context()) == 0
            until(lambda: len(archive.files) == 1 and len(read_status(second.queue).dead) == 1)
            assert list(read_status(first.queue).dead) == []
    assert archive.files == {"1.2.826.0.1.3680043.8.498.40": [sent_part(path)]}
    assert "without pixel data" in next(iter(read_status(tmp_path / "b").dead))


def test_tls_files_that_are_none(archive: Archive, keys: Path, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    wrong = ServerTLS(tmp_path / "x", tmp_path / "x", tmp_path / "x")
    with pytest.raises(ssl.SSLError):
        wrong.context()


class TestCommand:
    @pytest.fixture
    def said(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
        monkeypatch.chdir(tmp_path)

        def run(*arguments: object) -> tuple[int, str, str]:
            status = cli.main(["gateway", *map(str, arguments)])
            out, err = capsys.readouterr()
            return status, out, err

        return run

    @pytest.mark.parametrize(
        ("more", "message"),
        [
            ((), "--queue is not given"),
            (("--queue", "q", "--listen", "0", "--next", "X"), "TITLE@HOST:PORT"),
            (("--queue", "q", "--listen", "0", "--next", "X@h:1"), "nobody is allowed to call"),
            (("--queue", "q", "--listen", "x", "--next", "X@h:1", "--allow", "A"), "HOST:PORT"),
            (("--queue", "q", "--listen", "0", "--next", "X@h:1", "--allow", "A", "--cert", "c"), "belong together"),
            (("--queue", "q", "--listen", "0", "--next", "X@h:1", "--allow", "A"), "no key is given"),
        ],
    )
    def test_wrong_usage(self, said: Any, more: tuple[str, ...], message: str) -> None:
        status, _, err = said("--remove", *more)
        assert status == 2 and message in err, err

    def test_status_of_nothing(self, said: Any, tmp_path: Path) -> None:
        status, _, err = said("--status", tmp_path)
        assert status == 1 and "holds no queue" in err

    def test_status_and_requeue(self, said: Any, gateway: Running) -> None:
        status, out, _ = said("--status", gateway.queue)
        assert status == 0 and "running: True" in out and "mode: protect" in out
        status, out, _ = said("--status", gateway.queue, "--json")
        assert status == 0 and '"running": true' in out
        status, _, err = said("--requeue", gateway.queue)
        assert status == 1 and "another run works" in err

    def test_it_runs_until_it_is_told_to_end(self, keys: Path, tmp_path: Path) -> None:
        command = [sys.executable, "-m", "monai_miadmark", "gateway", "--remove", "-i", str(keys / "alice.key")]
        command += ["--queue", "q", "--listen", "0", "--allow", "CT1", "--next", "X@127.0.0.1:1"]
        process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        try:
            assert process.stderr is not None
            assert "MIADMARK listens on port" in process.stderr.readline()
            assert read_status(tmp_path / "q").running
            process.send_signal(signal.SIGTERM)
            rest = process.communicate(timeout=60)[1]
        finally:
            process.kill()
        assert process.returncode == 0 and "ending" in rest
        assert not read_status(tmp_path / "q").running

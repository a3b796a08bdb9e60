# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Gateways between real programs, killed again and again: storescu, gateway, Orthanc, gateway, storescp.

``python tests/gateway_pacs.py --objects 2000 --kills 10`` sends small objects with DCMTK through a gateway that
protects them (noise stands in for the networks, unless ``--real``) into Orthanc, and kills the gateway (SIGKILL) while
it does. Then all objects are fetched from Orthanc and restored; some also go back by C-STORE, through a gateway that
restores, to DCMTK's storescp. Exit status 1 if one is missing, there twice, or not what it was, or if a stranger was
let in.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydicom
import pydicom.data

from monai_miadmark.gateway import GatewaySettings, Node, SpoolError, read_status, serve
from monai_miadmark.keys import generate_identity, load_identity, save_key_pair
from monai_miadmark.options import ProtectOptions
from monai_miadmark.pipeline import remove_bytes, verify_bytes
from monai_miadmark.tasks import KeyFile, ProtectTask, RemoveTask

TOOLS = ("Orthanc", "storescu", "storescp")
SOURCES = {
    "MR_small.dcm": "-x=",
    "MR_small_implicit.dcm": "-xi",
    "MR_small_RLE.dcm": "-xr",
    "MR_small_jpeg_ls_lossless.dcm": "-xt",
}
"""Images of pydicom's wheel, and the option by which storescu proposes their transfer syntax: it offers one only."""

ROOT = "1.2.826.0.1.3680043.8.498"
STAND_IN = f"{ROOT}.99999999"
"""In a pattern, where objects have UIDs of their own of the same length."""

BATCH = 25
"""Objects that one run of storescu sends."""


@dataclass
class Tally:
    """What was seen.

    Attributes:
        kills: blows that hit the gateway.
        repeats: batches that had to be sent again.
        seconds: by part.
        wrong: what must not be.
    """

    kills: int = 0
    repeats: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def data_set_of(data: bytes) -> bytes:
    """What follows the meta information of a file."""
    meta = pydicom.filereader.read_partial(io.BytesIO(data)).file_meta
    return data[132 + 12 + meta.FileMetaInformationGroupLength :]


def write_objects(folder: Path, count: int) -> dict[str, bytes]:
    """Small images in batches of one transfer syntax each; data sets by SOP Instance UID."""
    made = {}
    patterns = []
    for name in SOURCES:
        source = pydicom.dcmread(str(pydicom.data.get_testdata_file(name, download=False)))
        # What DCMTK's storescu would put right before it sends: this is about what the gateway gets.
        source.pop("DataSetTrailingPadding", None)
        if source.file_meta.TransferSyntaxUID.is_encapsulated:
            source["PixelData"].VR = "OB"
        source.SOPInstanceUID = source.file_meta.MediaStorageSOPInstanceUID = STAND_IN
        buffer = io.BytesIO()
        source.save_as(buffer)
        patterns.append(buffer.getvalue())
    for number in range(count):
        uid = f"{ROOT}.{10_000_000 + number}"
        data = patterns[number // BATCH % len(patterns)].replace(STAND_IN.encode(), uid.encode())
        path = folder / f"{number // BATCH:04d}" / f"{number:06d}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        made[uid] = data_set_of(data)
    return made


class Orthanc:
    """An Orthanc of its own, with an empty storage."""

    def __init__(self, folder: Path, modalities: dict[str, list[Any]]) -> None:
        self.port, self._http = free_port(), free_port()
        folder.mkdir()
        configuration = {
            "Name": "test",
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "DicomAet": "ORTHANC",
            "DicomPort": self.port,
            "HttpPort": self._http,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomModalities": modalities,
            "Plugins": [],
            "OverwriteInstances": False,
        }
        (folder / "orthanc.json").write_text(json.dumps(configuration))
        log = open(folder / "log.txt", "wb")
        self.process = subprocess.Popen(["Orthanc", str(folder / "orthanc.json")], stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while True:
            try:
                self.get("/system")
                break
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise
                time.sleep(0.2)

    def get(self, path: str) -> bytes:
        """Of the REST interface."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._http}{path}", timeout=60) as answer:
            data: bytes = answer.read()
            return data

    def post(self, path: str, body: Any) -> bytes:
        """The same."""
        request = urllib.request.Request(f"http://127.0.0.1:{self._http}{path}", json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=600) as answer:
            data: bytes = answer.read()
            return data

    def count(self) -> int:
        """Instances that it has."""
        return int(json.loads(self.get("/statistics"))["CountInstances"])

    def close(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(30)


class Gateway:
    """This file, run as a gateway in a process of its own."""

    def __init__(self, arguments: list[str], log: Path) -> None:
        self._command = [sys.executable, __file__, *arguments]
        self._log = log
        self.start()

    def start(self) -> None:
        """Start it, or start it again."""
        with open(self._log, "ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log)

    def kill(self) -> None:
        """As by ``kill -9``."""
        self.process.kill()
        self.process.wait()

    def close(self) -> int:
        """End it in an orderly way; the exit status."""
        self.process.terminate()
        return self.process.wait(60)


def gateway_main(options: argparse.Namespace) -> int:
    """Life of :class:`Gateway`'s process."""
    keys: Path = options.keys
    task: ProtectTask | RemoveTask
    if options.serve == "protect":
        choices = ProtectOptions(preset="fast")
        task = ProtectTask((keys / "alice.pub",), choices, overwrite=True)
        if not options.real:
            from doubles import load_marker

            choices = ProtectOptions(style="invisible", region="none")
            task = ProtectTask((keys / "alice.pub",), choices, overwrite=True, load=load_marker)
    else:
        task = RemoveTask((KeyFile(keys / "alice.key"),), overwrite=True)
    settings = GatewaySettings(
        queue=options.queue,
        listening=Node("127.0.0.1", options.port),
        title="MIADMARK",
        callers=("CT1", "ORTHANC"),
        next_node=Node.parse(options.next),
        reserve_bytes=0,
        longest_pause=5.0,
    )
    return 0 if serve(settings, task) is None else 1


def storescu(port: int, folder: Path, title: str = "CT1", called: str = "MIADMARK") -> subprocess.CompletedProcess[str]:
    """Send a folder; transfer syntaxes as they are."""
    syntax = list(SOURCES.values())[int(folder.name) % len(SOURCES)]
    command = ["storescu", "-aet", title, "-aec", called, syntax, "+sd", "-R", "-to", "30", "127.0.0.1", str(port)]
    command.append(str(folder))
    return subprocess.run(command, capture_output=True, text=True, check=False)


def waiting(queue: Path) -> int:
    """Objects that are still to be worked on or sent."""
    counts = read_status(queue).counts
    return counts["received"] + counts["ready"]


def torment(folder: Path, objects: int, kills: int, real: bool = False, back: int = 100, seed: int = 0) -> Tally:
    """Send objects through gateways that are killed, and look what became of them."""
    tally, rng = Tally(), random.Random(seed)
    keys = folder / "keys"
    keys.mkdir()
    save_key_pair(generate_identity("x25519"), keys / "alice")
    originals = write_objects(folder / "in", objects)
    port, back_port, end_port = free_port(), free_port(), free_port()
    orthanc = Orthanc(folder / "orthanc", {"back": ["MIADMARK", "127.0.0.1", back_port]})
    queue = folder / "queue"
    more = ["--real"] if real else []
    arguments = ["--serve", "protect", "--keys", str(keys), "--queue", str(queue), "--port", str(port)]
    gateway = Gateway([*arguments, "--next", f"ORTHANC@127.0.0.1:{orthanc.port}", *more], folder / "gateway.log")
    over = threading.Event()

    def strike() -> None:
        """Kill the gateway whenever a further share of the objects has arrived, at an odd moment."""
        shares = [objects * (n + 0.5) / (kills + 1) for n in range(kills)]
        while shares and not over.wait(0.2):
            if orthanc.count() >= shares[0]:
                time.sleep(rng.uniform(0, 2))
                gateway.kill()
                tally.kills += 1
                shares.pop(0)
                gateway.start()

    striker = threading.Thread(target=strike)
    try:
        start = time.monotonic()
        striker.start()
        for batch in sorted((folder / "in").iterdir()):
            tries = 0
            while storescu(port, batch).returncode != 0:
                tries += 1
                tally.repeats += 1
                if tries > 60:
                    raise RuntimeError("the gateway does not take objects any more")
                time.sleep(0.5)
        tally.seconds["sent"] = time.monotonic() - start
        deadline = time.monotonic() + 3600
        while waiting(queue) or orthanc.count() < objects:
            if time.monotonic() > deadline or (not waiting(queue) and read_status(queue).dead):
                break
            time.sleep(0.5)
        over.set()
        striker.join()
        tally.seconds["arrived"] = time.monotonic() - start

        stranger = storescu(port, folder / "in/0000", title="STRANGER")
        if stranger.returncode == 0 or "Calling AE Title Not Recognized" not in stranger.stderr + stranger.stdout:
            tally.wrong.append("a stranger was let in")
        if gateway.close() != 0:
            tally.wrong.append("the gateway did not end in an orderly way")
        status = read_status(queue)
        if status.dead or status.counts["sent"] + status.counts["gone"] != objects:
            tally.wrong.append(f"the queue says {status.counts} {status.dead}")

        start = time.monotonic()
        identity = load_identity(keys / "alice.key")
        found: dict[str, str] = {}
        instances = json.loads(orthanc.get("/instances"))
        for instance in instances:
            protected = orthanc.get(f"/instances/{instance}/file")
            verify_bytes(protected)
            restored = remove_bytes(protected, [identity])
            uid = restored.name.removesuffix(".dcm")
            if uid in found:
                tally.wrong.append(f"{uid} is there twice")
            found[uid] = instance
            if data_set_of(restored.data) != originals.get(uid):
                tally.wrong.append(f"{uid} is not what it was")
        if found.keys() != originals.keys() or len(instances) != objects:
            tally.wrong.append(f"{len(instances)} of {objects} instances")
        tally.seconds["fetched and restored"] = time.monotonic() - start

        start = time.monotonic()
        chosen = [found[uid] for uid in rng.sample(sorted(found), min(back, len(found)))]
        _send_back(folder, keys, orthanc, chosen, back_port, end_port, originals, tally)
        tally.seconds["sent back"] = time.monotonic() - start
    finally:
        over.set()
        gateway.process.kill()
        orthanc.close()
    return tally


def _send_back(
    folder: Path,
    keys: Path,
    orthanc: Orthanc,
    instances: list[str],
    port: int,
    end: int,
    originals: dict[str, bytes],
    tally: Tally,
) -> None:
    """Some objects by C-STORE from Orthanc, through a gateway that restores, to DCMTK's storescp."""
    received, queue = folder / "received", folder / "queue-back"
    received.mkdir()
    # +xa accepts all transfer syntaxes, +B writes what came as it came.
    scp = subprocess.Popen(["storescp", "-aet", "END", "+xa", "+B", "-od", str(received), str(end)])
    arguments = ["--serve", "remove", "--keys", str(keys), "--queue", str(queue), "--port", str(port)]
    gateway = Gateway([*arguments, "--next", f"END@127.0.0.1:{end}"], folder / "gateway-back.log")
    try:
        deadline = time.monotonic() + 600
        while True:  # the gateway may not listen yet
            try:
                orthanc.post("/modalities/back/store", instances)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(1)
        while len(list(received.iterdir())) < len(instances) or waiting(queue):
            if time.monotonic() > deadline:
                break
            time.sleep(0.5)
        restored = [path.read_bytes() for path in sorted(received.iterdir())]
        wanted = {pydicom.dcmread(io.BytesIO(data)).SOPInstanceUID: data_set_of(data) for data in restored}
        if len(wanted) != len(instances) or any(originals[uid] != data for uid, data in wanted.items()):
            tally.wrong.append(f"{len(wanted)} of {len(instances)} came back, or not as they were")
    except SpoolError as error:
        tally.wrong.append(str(error))
    finally:
        gateway.close()
        scp.terminate()
        scp.wait()


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, default=200)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--back", type=int, default=100, help="objects that go back by C-STORE")
    parser.add_argument("--real", action="store_true", help="the real networks, preset fast")
    parser.add_argument("--keep", type=Path, help="folder to work in, which is kept")
    parser.add_argument("--serve", choices=("protect", "remove"), help=argparse.SUPPRESS)
    for name in ("--keys", "--queue"):
        parser.add_argument(name, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--next", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return gateway_main(options)
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        print(f"not installed: {', '.join(missing)} (Debian: apt-get install orthanc dcmtk)", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as made:
        folder = options.keep or Path(made)
        folder.mkdir(exist_ok=True)
        tally = torment(folder, options.objects, options.kills, options.real, options.back)
    parts = ", ".join(f"{name} in {seconds:.0f} s" for name, seconds in tally.seconds.items())
    print(f"{options.objects} objects, {tally.kills} kills, {tally.repeats} batches sent again; {parts}")
    for line in tally.wrong[:20]:
        print(f"WRONG: {line}")
    return 1 if tally.wrong or tally.kills < options.kills else 0


if __name__ == "__main__":
    sys.exit(main())

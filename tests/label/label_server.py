# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""A real server, and a realm for its tokens on the loopback interface."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from monai_miadmark.apps import label
from monai_miadmark.keys import generate_identity, save_key_pair

ROLES = {
    "anna": ["monailabel-user", "monailabel-annotator", "miadmark-restore"],
    "paul": ["monailabel-user", "monailabel-annotator"],
    "other": ["monailabel-user", "miadmark-restore:elsewhere"],
    "root": ["monailabel-user", "monailabel-annotator", "monailabel-admin"],
}
"""``root`` administrates the server and still may not see an original."""

_START_SECONDS = 300


class Realm:
    """What MONAI Label asks of Keycloak: the public key of a realm, and tokens signed with the private one."""

    def __init__(self) -> None:
        self.key = rsa.generate_private_key(65537, 2048)
        public = self.key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        answer = json.dumps({"public_key": base64.b64encode(public).decode()}).encode()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self._server.server_port}/realms/test"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def token(self, name: str, seconds: int = 3600, key: Any = None, **more: Any) -> str:
        """A token of a user of :data:`ROLES`."""
        import jwt

        payload = {
            "preferred_username": name,
            "realm_access": {"roles": ROLES[name]},
            "exp": int(time.time()) + seconds,
            **more,
        }
        return jwt.encode(payload, key or self.key, algorithm="RS256")

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@dataclass
class Server:
    """A started server and where its files are."""

    url: str
    folder: Path
    process: subprocess.Popen[bytes]
    realm: Realm | None

    @property
    def studies(self) -> Path:
        return self.folder / "studies"

    @property
    def keys(self) -> Path:
        return self.folder / "keys"

    @property
    def temp(self) -> Path:
        return self.folder / "temp"

    def auth(self, name: str) -> dict[str, str]:
        """Headers of a user."""
        assert self.realm is not None
        return {"Authorization": f"Bearer {self.realm.token(name)}"}

    def logs(self) -> str:
        """All that the server has said and logged."""
        texts = [(self.folder / "output.txt").read_text()]
        return "\n".join(texts + [path.read_text() for path in (self.folder / "app").rglob("*.log*")])

    def private_folders(self) -> list[Path]:
        """Folders for temporary files of servers; what lies beside them is MONAI Label's configuration of its log."""
        return list(self.temp.glob("*miadmark-label-*"))

    def left_in_temp(self) -> list[Path]:
        """Files in folders for temporary files, other than their locks."""
        deadline = time.monotonic() + 10
        while True:
            found = [path for folder in self.private_folders() for path in folder.rglob("*")]
            left = [path for path in found if path.is_file() and path.name != ".lock"]
            # Files go when the answer has been sent, which is a moment after it has been received.
            if not left or time.monotonic() > deadline:
                return left
            time.sleep(0.05)

    def stop(self) -> int:
        """End it as a service manager would."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(120)


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def start(folder: Path, realm: Realm | None, wait: bool = True, studies: str = "", **environment: str) -> Server:
    """Start a server with everything below ``folder``; ``studies`` is the address of those that lie elsewhere."""
    import requests

    for name in ("app", "studies", "temp", "home"):
        (folder / name).mkdir(exist_ok=True)
    if not (folder / "keys").exists():
        (folder / "keys").mkdir(mode=0o700)
        save_key_pair(generate_identity("hybrid"), folder / "keys" / "server")
    # A copy of the package's folder, since the server writes its logs into that of the app.
    ignored = shutil.ignore_patterns("__pycache__", "logs", "model", "lib", "bin")
    shutil.copytree(Path(label.__file__).parent, folder / "app", dirs_exist_ok=True, ignore=ignored)
    port = free_port()
    variables = {
        **os.environ,
        "MIADMARK_LABEL_KEYS": str(folder / "keys"),
        "TMPDIR": str(folder / "temp"),
        "HOME": str(folder / "home"),
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        **environment,
    }
    if realm is not None:
        variables |= {"MONAI_LABEL_AUTH_ENABLE": "true", "MONAI_LABEL_AUTH_REALM_URI": realm.uri}
    command = [
        *(sys.executable, "-m", "monailabel.main", "start_server"),
        *("--app", str(folder / "app"), "--studies", studies or str(folder / "studies")),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--uvicorn_app", "monai_miadmark.apps.label.server:app"),
        *("--conf", "preset", "fast", "--conf", "modality", "brain_mri"),
    ]
    with (folder / "output.txt").open("ab") as output:
        process = subprocess.Popen(command, env=variables, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
    server = Server(f"http://127.0.0.1:{port}", folder, process, realm)
    deadline = time.monotonic() + _START_SECONDS
    while wait:
        assert process.poll() is None, server.logs()
        assert time.monotonic() < deadline, server.logs()
        try:
            requests.get(f"{server.url}/info/", timeout=5)
            break
        except requests.ConnectionError:
            time.sleep(0.3)
    return server

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""``monai-deploy package`` up to the point where it calls a container engine, and the entry script of its image."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from deploy_series import contents

import monai_miadmark
from monai_miadmark.apps import deploy
from monai_miadmark.apps.deploy.settings import IDENTITY_ENV

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("__main__.py", "app.yaml", "requirements.txt")

# What a release of Holoscan says of itself; the packager would download it.
ARTIFACTS = {
    "4.2.0": {
        "holoscan": {
            "wheel-version": "4.2.0",
            "debian-version": "4.2.0",
            "base-images": {"dgpu": "IMAGE"},
            "build-images": {"dgpu": {}, "igpu": {}, "cpu": {}},
        },
        "health-probes": {},
    }
}

# The packager itself, but the folder that it would give to `docker buildx build` is kept instead.
KEEP = """
import os, shutil, sys
from holoscan_cli.__main__ import main
from holoscan_cli.packager.container_builder import BuilderBase
from holoscan_cli.packager.parameters import PlatformBuildResults

def keep(self, dockerfile, parameters):
    shutil.copytree(self._temp_dir, os.environ["KEPT"])
    result = PlatformBuildResults(parameters)
    result.succeeded = True
    return result

BuilderBase._build_internal = keep
sys.argv[0] = "monai-deploy"
main()
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the image would be built of, made as docs/monai-deploy.md says."""
    folder = tmp_path_factory.mktemp("package")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", folder / "map", ROOT], check=True)
    for name in PARTS:
        shutil.copy(folder / "map" / "monai_miadmark" / "apps" / "deploy" / name, folder / "map")
    (folder / "artifacts.json").write_text(json.dumps(ARTIFACTS))
    (folder / "cache").mkdir()
    command = [sys.executable, "-c", KEEP, "package", "map", "-c", "map/app.yaml", "-t", "miadmark:0.1.0"]
    more = ["--platform", "x86_64", "--source", "artifacts.json", "--build-cache", "cache"]
    variables = {**os.environ, "KEPT": str(folder / "image")}
    done = subprocess.run([*command, *more], cwd=folder, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "image"


def launched(image: Path, tmp_path: Path, protected: Path, **variables: str) -> tuple[Path, str]:
    """Run the image's entry script with ``remove`` on this machine; the output folder and all that was said."""
    manifest = json.loads((image / "map" / "app.json").read_text())
    assert json.loads(manifest["command"]) == ["python3", "/opt/holoscan/app"]
    manifest["command"] = json.dumps([sys.executable, str(image / "app")])
    (tmp_path / "app.json").write_text(json.dumps(manifest))
    out = tmp_path / "out"
    places = {
        "HOLOSCAN_APPLICATION": image / "app",
        "HOLOSCAN_APP_MANIFEST_PATH": tmp_path / "app.json",
        "HOLOSCAN_CONFIG_PATH": image / "app.config",
        "HOLOSCAN_INPUT_PATH": protected,
        "HOLOSCAN_MODEL_PATH": image / "models",
        "HOLOSCAN_OUTPUT_PATH": out,
        "HOLOSCAN_PKG_MANIFEST_PATH": image / "map" / "pkg.json",
    }
    done = subprocess.run(
        ["bash", image / "tools", "remove"],
        env={**os.environ, **{name: str(path) for name, path in places.items()}, **variables},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    return out, done.stdout + done.stderr


def test_the_image_holds_the_app_its_weights_and_no_key(image: Path) -> None:
    app = image / "app"
    assert (app / "monai_miadmark" / "bundle" / "models" / "SHA256SUMS").is_file()
    assert all((app / name).is_file() for name in PARTS)
    assert [path for path in image.rglob("*") if path.suffix in (".key", ".pem", ".pub")] == []
    assert (image / "pip" / "requirements.txt").read_text() == (app / "requirements.txt").read_text()
    assert "monai-deploy-app-sdk==4.0.0" in (image / "Dockerfile").read_text()
    assert json.loads((image / "map" / "app.json").read_text())["version"] == monai_miadmark.__version__


@pytest.mark.skipif(shutil.which("jq") is None, reason="the image's entry script needs jq")
def test_the_entry_script_restores(image: Path, source: Path, protected: Path, tmp_path: Path) -> None:
    """The script's own status is 0 in any case."""
    out, said = launched(image, tmp_path, protected)
    assert "Application exited with 0" in said
    assert contents(out) == contents(source)


@pytest.mark.skipif(shutil.which("jq") is None, reason="the image's entry script needs jq")
def test_a_key_in_the_image_is_refused(image: Path, protected: Path, keys: Path, tmp_path: Path) -> None:
    inside = image / "app" / "secret"
    shutil.copy(keys / "alice.key", inside)
    try:
        out, said = launched(image, tmp_path, protected, **{IDENTITY_ENV: str(inside)})
    finally:
        inside.unlink()
    assert "Application exited with 2" in said and "inside the app's package" in said
    assert not out.exists()


def test_the_image_gets_the_versions_that_were_tested() -> None:
    pins = (ROOT / "constraints-deploy.txt").read_text().splitlines()
    wanted = (Path(deploy.__file__).parent / "requirements.txt").read_text().splitlines()
    assert [line for line in wanted if not line.startswith("#") and line not in pins] == []

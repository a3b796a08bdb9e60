# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""A trained model of another app, on images that are stored protected."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path

import numpy as np
import requests
import samples
from label_server import Realm, start
from PIL import Image

APP = Path(__file__).parent / "existing_app"


def test_a_trained_model_sees_what_its_user_may_see(realm: Realm, tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("existing_app_of_the_test", APP / "main.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    server = start(tmp_path, realm, MIADMARK_LABEL_APP=str(APP))
    try:
        told = requests.get(f"{server.url}/info/", headers=server.auth("paul"), timeout=60).json()
        assert {"protect", "remove_mark", "segment_head"} <= told["models"].keys()
        (tmp_path / "original.png").write_bytes(samples.png())
        put = requests.put(
            f"{server.url}/datastore/image?image=head",
            files={"file": ("head.png", samples.png())},
            headers=server.auth("paul"),
            timeout=300,
        )
        assert put.status_code == 200, put.text
        masks = []
        for user, seen in (("anna", tmp_path / "original.png"), ("paul", server.studies / "head.png")):
            url = f"{server.url}/infer/segment_head?image=head&output="
            answer = requests.post(url + "image", headers=server.auth(user), timeout=300)
            assert answer.status_code == 200, answer.text
            mask = np.asarray(Image.open(io.BytesIO(answer.content)))
            np.testing.assert_allclose(mask, module.segmented(str(seen)) * 255, atol=1)
            said = requests.post(url + "json", headers=server.auth(user), timeout=300).json()
            assert said["input"] == ("restored" if user == "anna" else "as stored")
            masks.append(mask)
        assert (masks[0] != masks[1]).any()
        assert requests.post(f"{server.url}/infer/segment_head?image=head", timeout=60).status_code == 401
        assert server.left_in_temp() == []
    finally:
        server.stop()

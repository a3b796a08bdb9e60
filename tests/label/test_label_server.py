# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The calls that clients make, against the real server."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import os
import time
from pathlib import Path
from typing import Any

import jwt
import nibabel as nib
import numpy as np
import pytest
import requests
import samples
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from label_server import Realm, Server, start
from PIL import Image

from monai_miadmark import files, pipeline
from monai_miadmark.apps.label import protect_studies
from monai_miadmark.datasets import data_list, dataset_root
from monai_miadmark.keys import generate_identity, save_key_pair


def upload(server: Server, user: str, image_id: str, name: str, data: bytes, /, **params: Any) -> requests.Response:
    return requests.put(
        f"{server.url}/datastore/image",
        params={"image": image_id},
        data={"params": json.dumps(params)},
        files={"file": (name, data)},
        headers=server.auth(user),
        timeout=300,
    )


def stored(server: Server, user: str, image_id: str) -> requests.Response:
    return requests.get(
        f"{server.url}/datastore/image", params={"image": image_id}, headers=server.auth(user), timeout=60
    )


def infer(server: Server, user: str | None, task: str, image_id: str, /, **params: Any) -> requests.Response:
    return requests.post(
        f"{server.url}/infer/{task}",
        params={"image": image_id, "output": "image"},
        data={"params": json.dumps(params)},
        headers={} if user is None else server.auth(user),
        timeout=300,
    )


CASES = {
    "slice.png": samples.png(),
    "volume.nii": samples.nifti(),
    "packed.nii.gz": samples.nifti_gz(),
    "ct.dcm": samples.ct(),
    "photo.jpg": samples.jpeg(),
}


@pytest.mark.parametrize("name", CASES)
def test_uploads_are_stored_protected_and_restored_for_the_role_only(server: Server, name: str) -> None:
    data, image_id = CASES[name], f"case-{name.split('.')[0]}"
    answer = upload(server, "paul", image_id, name, data)
    assert answer.status_code == 200 and answer.json() == {"image": image_id}, answer.text
    (path,) = (p for p in server.studies.iterdir() if p.name.startswith(f"{image_id}."))
    assert files.verify_file(path).recipients and path.read_bytes() != data
    assert path.stat().st_mode & 0o077 == 0

    for user, status in ((None, 401), ("paul", 403), ("root", 403), ("other", 403)):
        refused = infer(server, user, "remove_mark", image_id)
        assert refused.status_code == status
        assert data[:64] not in refused.content
    restored = infer(server, "anna", "remove_mark", image_id)
    assert restored.status_code == 200, restored.text
    assert samples.plain(name, restored.content) == samples.plain(name, data)

    for user in ("paul", "root", "other"):
        seen = stored(server, user, image_id)
        assert seen.status_code == 200 and seen.content == path.read_bytes()
        assert seen.headers["X-MIAD-MARK"] == "protected"
    original = stored(server, "anna", image_id)
    assert samples.plain(name, original.content) == samples.plain(name, data)
    assert original.headers["X-MIAD-MARK"] == "restored" and "no-store" in original.headers["Cache-Control"]
    assert server.left_in_temp() == []


def test_restored_volumes_have_the_exact_header(server: Server) -> None:
    assert upload(server, "paul", "header", "header.nii.gz", samples.nifti_gz()).status_code == 200
    restored = nib.Nifti1Image.from_bytes(gzip.decompress(infer(server, "anna", "remove_mark", "header").content))
    source = nib.Nifti1Image.from_bytes(samples.nifti())
    assert restored.header.binaryblock == source.header.binaryblock
    assert restored.get_data_dtype() == np.int16 and np.array_equal(restored.affine, source.affine)
    # What others get is a volume of the same shape and place, with other values.
    marked = nib.Nifti1Image.from_bytes(gzip.decompress(stored(server, "paul", "header").content))
    assert marked.shape == source.shape and np.array_equal(marked.affine, source.affine)
    assert np.any(np.asanyarray(marked.dataobj) != np.asanyarray(source.dataobj))


def test_tokens_that_are_not_good_are_401(server: Server, realm: Realm) -> None:
    public = realm.key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    stranger = rsa.generate_private_key(65537, 2048)
    payload = {"preferred_username": "anna", "realm_access": {"roles": ["monailabel-user", "miadmark-restore"]}}

    def part(value: dict[str, Any]) -> bytes:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")

    unsigned = part({"alg": "none", "typ": "JWT"}) + b"." + part({**payload, "exp": int(time.time()) + 60}) + b"."
    # An HMAC made with the public key, which verifiers took that believed the token's own algorithm.
    head = part({"alg": "HS256", "typ": "JWT"}) + b"." + part({**payload, "exp": int(time.time()) + 60})
    confused = head + b"." + base64.urlsafe_b64encode(_hmac(public, head)).rstrip(b"=")
    tokens = [
        "nonsense",
        realm.token("anna", seconds=-10),
        realm.token("anna", key=stranger),
        unsigned.decode(),
        confused.decode(),
        jwt.encode(payload, realm.key, algorithm="RS256"),  # valid for ever
    ]
    for token in tokens:
        for path in ("/info/", "/datastore/image?image=header", "/datastore/?output=all"):
            answer = requests.get(f"{server.url}{path}", headers={"Authorization": f"Bearer {token}"}, timeout=30)
            assert answer.status_code == 401
    assert requests.get(f"{server.url}/info/", timeout=30).status_code == 401
    assert requests.get(f"{server.url}/info/", headers=server.auth("paul"), timeout=30).status_code == 200


def _hmac(key: bytes, data: bytes) -> bytes:
    import hmac

    return hmac.new(key, data, hashlib.sha256).digest()


def test_roles_that_are_of_another_shape_open_nothing(server: Server, realm: Realm) -> None:
    for access in (None, "miadmark-restore", ["monailabel-user"], {"roles": "monailabel-user"}, {"roles": {"x": 1}}):
        token = realm.token("anna", realm_access=access)
        answer = requests.get(f"{server.url}/info/", headers={"Authorization": f"Bearer {token}"}, timeout=30)
        assert answer.status_code == 403


def test_keys_are_named_by_id_and_an_id_is_a_right(server: Server) -> None:
    assert upload(server, "paul", "by-id", "a.png", samples.png(7)).status_code == 200
    assert infer(server, "anna", "remove_mark", "by-id", key_id="server").content == samples.png(7)
    for key_id in ("elsewhere", "../keys/server", "", 7, ["server"]):
        assert infer(server, "anna", "remove_mark", "by-id", key_id=key_id).status_code == 403


SECRETS = (
    {"key": "abc"},
    {"private_key": 1},
    {"deep": [{"passphrase": "open sesame"}]},
    {"note": "-----BEGIN PRIVATE KEY-----"},
    {"note": base64.b64encode(os.urandom(32)).decode()},
    {"note": os.urandom(32).hex()},
    {"apiToken_token": "x"},
)


@pytest.mark.parametrize("params", SECRETS, ids=range(len(SECRETS)))
def test_parameters_that_look_like_keys_are_refused_unlogged(server: Server, params: dict[str, Any]) -> None:
    params = {**params, "trace": f"trace-{os.urandom(4).hex()}"}
    form = {"params": json.dumps(params)}
    headers = server.auth("anna")
    label = {"label": ("label.nii", b"x")}
    answers = [
        infer(server, "anna", "remove_mark", "by-id", **params),
        infer(server, "anna", "protect", "by-id", **params),
        upload(server, "anna", "secret", "a.png", samples.png(), **params),
        requests.put(f"{server.url}/datastore/label?image=by-id", data=form, files=label, headers=headers, timeout=30),
        requests.put(
            f"{server.url}/datastore/image/info?image=by-id",
            data={"info": json.dumps(params)},
            headers=headers,
            timeout=30,
        ),
        requests.post(f"{server.url}/activelearning/random", json=params, headers=headers, timeout=30),
    ]
    assert [answer.status_code for answer in answers] == [400] * len(answers)
    for place in (server.logs(), (server.studies / "datastore_v2.json").read_text(), *(a.text for a in answers)):
        assert params["trace"] not in place


def test_a_private_key_file_is_refused_wherever_it_stands(server: Server) -> None:
    pem = (server.keys / "server.key").read_bytes()
    answer = upload(server, "anna", "pem", "server.key", pem)
    assert answer.status_code == 400 and "private key" in answer.text
    padded = b"x" * 262_100 + pem  # over the borders of the pieces in which a body comes
    assert upload(server, "anna", "pem", "a.png", padded).status_code == 400
    assert not list(server.studies.glob("pem*")) and server.left_in_temp() == []


def test_parameters_may_not_name_files_of_the_server(server: Server) -> None:
    """MONAI Label would take ``image`` from the parameters, and any path for an image."""
    path = str(server.studies / "by-id.png")
    for params in ({"image": path}, {"model": "protect"}, {"save_label": True}, {"session": {"x": 1}}):
        assert infer(server, "anna", "remove_mark", "by-id", **params).status_code == 400
    for image in (path, str(server.keys / "server.key"), "output.txt", "../keys/server.key", "", "nothing"):
        assert infer(server, "anna", "remove_mark", image).status_code in (404, 500)
        assert stored(server, "anna", image).status_code == 404
    assert infer(server, "anna", "no_such_model", "by-id").status_code == 404


@pytest.mark.parametrize("image_id", ["../out", "a/b", ".hidden", "a\\b", "x" * 201, "a\nb", " a"])
def test_uploads_stay_in_the_folder(server: Server, image_id: str) -> None:
    before = samples.contents(server.folder / "studies").keys()
    assert upload(server, "anna", image_id, "a.png", samples.png()).status_code == 400
    assert samples.contents(server.folder / "studies").keys() == before and server.left_in_temp() == []
    label = {"label": ("label.nii", samples.nifti())}
    answer = requests.put(
        f"{server.url}/datastore/label",
        params={"image": "by-id", "tag": image_id},
        files=label,
        headers=server.auth("anna"),
        timeout=30,
    )
    assert answer.status_code == 400 and server.left_in_temp() == []


def test_images_are_never_replaced(server: Server) -> None:
    assert upload(server, "paul", "once", "a.png", samples.png(1)).status_code == 200
    assert upload(server, "paul", "once", "a.png", samples.png(2)).status_code == 409
    assert upload(server, "paul", "once", "a.nii", samples.nifti()).status_code == 409
    assert infer(server, "anna", "remove_mark", "once").content == samples.png(1)
    delete = f"{server.url}/datastore/image?id=once"
    assert requests.delete(delete, headers=server.auth("paul"), timeout=30).status_code == 403
    assert requests.delete(delete, headers=server.auth("root"), timeout=30).status_code == 200
    assert not list(server.studies.glob("once*"))


def test_what_cannot_be_protected_is_refused_and_not_kept(server: Server) -> None:
    for name, data in (("a.png", b"not an image"), ("a.bmp", b"BM" + bytes(60)), ("a.png", b"")):
        assert upload(server, "paul", "refused", name, data).status_code == 415
    protected = (server.studies / "by-id.png").read_bytes()
    assert upload(server, "paul", "refused", "a.png", protected).status_code == 415
    assert not list(server.studies.glob("refused*")) and server.left_in_temp() == []


def test_files_that_came_by_themselves(server: Server, tmp_path: Path) -> None:
    """Reported, not served, and protected by the command while the server runs."""
    before = _info(server)["datastore"]["unprotected"]
    drop = server.studies / "dropped.png"
    drop.write_bytes(samples.png(5))
    (server.studies / "series").mkdir()
    (server.studies / "series" / "0001.dcm").write_bytes(samples.ct())
    assert _info(server)["datastore"]["unprotected"] == before + 2
    assert f"{before + 2} file(s) in the studies folder are not protected" in server.logs()
    assert stored(server, "anna", "dropped").status_code == 404
    assert "dropped" not in _datastore(server)["objects"]

    arguments = [str(server.studies), "--keys", str(server.keys), "--preset", "fast", "--modality", "brain_mri"]
    assert protect_studies.main([*arguments, "--check"]) == 1
    assert protect_studies.main(arguments) == 0
    assert protect_studies.main([*arguments, "--check"]) == 0
    assert _info(server)["datastore"]["unprotected"] == 0
    assert files.verify_file(server.studies / "series" / "0001.dcm").recipients
    assert stored(server, "anna", "dropped").content == samples.png(5)
    assert stored(server, "paul", "dropped").content == drop.read_bytes() != samples.png(5)

    drop.write_bytes(samples.png(5))  # somebody puts the plain file back
    assert stored(server, "paul", "dropped").status_code == 404
    assert infer(server, "anna", "remove_mark", "dropped").status_code == 404
    drop.unlink()
    # A record of another image does not protect it either.
    (server.studies / "glued.png").write_bytes(samples.png(6))
    envelope = pipeline.protect_bytes(samples.png(1), "a.png", [generate_identity("x25519").recipient], _noise())
    files.sidecar_path(server.studies / "glued.png").write_bytes(envelope.envelope)
    assert _info(server)["datastore"]["unprotected"] == 1
    assert stored(server, "paul", "glued").status_code == 404
    files.sidecar_path(server.studies / "glued.png").unlink()
    (server.studies / "glued.png").unlink()


def test_files_protected_elsewhere_are_served(server: Server) -> None:
    """Sealed for others: the server shows them, and cannot restore them for anybody."""
    made = pipeline.protect_bytes(samples.png(9), "a.png", [generate_identity("x25519").recipient], _noise())
    (server.studies / "foreign.png").write_bytes(made.data)
    assert _info(server)["datastore"]["unprotected"] == 0
    for user in ("paul", "anna"):
        seen = stored(server, user, "foreign")
        assert seen.content == made.data and seen.headers["X-MIAD-MARK"] == "protected"
    assert infer(server, "anna", "remove_mark", "foreign").status_code == 403


def test_damaged_files_are_not_shown_as_originals(server: Server) -> None:
    assert upload(server, "paul", "damaged", "a.png", samples.png(3)).status_code == 200
    path = server.studies / "damaged.png"
    picture = np.asarray(Image.open(path)).copy()
    picture[0, 0] ^= 1
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "PNG")
    path.write_bytes(out.getvalue())
    assert stored(server, "anna", "damaged").status_code == 404
    path.unlink()


def test_protect_gives_back_and_stores_nothing(server: Server) -> None:
    before = samples.contents(server.studies).keys()
    answer = requests.post(
        f"{server.url}/infer/protect?output=image",
        data={"params": json.dumps({"style": "invisible", "preset": "fast"})},
        files={"file": ("a.nii", samples.nifti())},
        headers=server.auth("paul"),
        timeout=300,
    )
    assert answer.status_code == 200, answer.text
    assert pipeline.verify_bytes(answer.content).recipients
    assert samples.contents(server.studies).keys() == before and server.left_in_temp() == []
    # And a file that was sent is restored for those who may.
    for user, status in (("paul", 403), ("anna", 200)):
        restored = requests.post(
            f"{server.url}/infer/remove_mark?output=image",
            files={"file": ("a.nii", answer.content)},
            headers=server.auth(user),
            timeout=60,
        )
        assert restored.status_code == status
        assert (restored.content == samples.nifti()) == (status == 200)
    for params in ({"preset": "no such"}, {"preset": {"a": 1}}, {"text": "x" * 65}, {"modality": "nonsense"}):
        wrong = requests.post(
            f"{server.url}/infer/protect?output=image",
            data={"params": json.dumps(params)},
            files={"file": ("a.png", samples.png())},
            headers=server.auth("paul"),
            timeout=60,
        )
        assert wrong.status_code == 400
    assert server.left_in_temp() == []


def test_what_slicer_calls(server: Server, realm: Realm, tmp_path: Path) -> None:
    """MONAI Label's own client, which is that of the 3D Slicer module."""
    from monailabel.client import MONAILabelClient
    from monailabel.client.client import MONAILabelClientException

    (tmp_path / "t1.nii.gz").write_bytes(samples.nifti_gz())
    (tmp_path / "label.nii.gz").write_bytes(samples.nifti_gz())
    client = MONAILabelClient(server.url, str(tmp_path), "slicer")
    assert client.auth_enabled() and not client.auth_valid_token()
    client.update_auth({"token_type": "Bearer", "access_token": realm.token("anna")})
    assert client.auth_valid_token()
    assert set(client.info()["models"]) == {"protect", "remove_mark"}
    assert client.upload_image(str(tmp_path / "t1.nii.gz"), "slicer-t1")["image"] == "slicer-t1"
    sample = client.next_sample("random", {})
    assert sample["id"] in client.datastore()["objects"] and "path" not in sample
    image, answer = client.infer("remove_mark", "slicer-t1", {"result_extension": ".nrrd"})
    assert gzip.decompress(Path(image).read_bytes()) == samples.nifti() and answer["restored"] is True
    assert client.save_label("slicer-t1", str(tmp_path / "label.nii.gz"), "final", {"label_info": []})
    label = client.download_label("slicer-t1", "final")
    assert Path(label).read_bytes() == samples.nifti_gz()
    with pytest.raises(MONAILabelClientException):
        client.create_session(str(tmp_path / "t1.nii.gz"))
    # The check with which Slicer asks whether its copy is still that of the server.
    url, headers = f"{server.url}/datastore/image?image=slicer-t1", server.auth("anna")
    digest = hashlib.sha256(requests.get(url, headers=headers, timeout=60).content).hexdigest()
    assert requests.head(f"{url}&check_sum=SHA256:{digest}", headers=headers, timeout=60).status_code == 200
    assert requests.head(f"{url}&check_sum=SHA256:{'0' * 64}", headers=headers, timeout=60).status_code == 404
    for user in ("anna", "paul"):
        archive = requests.get(f"{server.url}/datastore/dataset", headers=server.auth(user), timeout=60)
        assert archive.status_code == 200 and samples.nifti()[400:464] not in archive.content
    assert server.left_in_temp() == []
    client.update_auth({"token_type": "Bearer", "access_token": realm.token("paul")})
    with pytest.raises(MONAILabelClientException, match="403"):
        client.infer("remove_mark", "slicer-t1", {})


def test_what_ohif_calls(server: Server) -> None:
    """The requests of ``MonaiLabelClient.js``."""
    assert upload(server, "paul", "ohif", "a.nii.gz", samples.nifti_gz()).status_code == 200
    headers = {**server.auth("anna"), "accept": "application/json, multipart/form-data"}
    assert requests.get(f"{server.url}/info/", headers=headers, timeout=30).json()["name"] == "MIAD-MARK"
    params = {
        "result_extension": ".nrrd",
        "result_dtype": "uint16",
        "result_compress": False,
        "restore_label_idx": False,
    }
    answer = requests.post(
        f"{server.url}/infer/remove_mark?image=ohif&output=all",
        files={"params": (None, json.dumps(params))},
        headers=headers,
        timeout=60,
    )
    assert answer.headers["content-type"].startswith("multipart/form-data")
    assert b'"restored": true' in answer.content
    saved = requests.put(
        f"{server.url}/datastore/label?image=ohif",
        files={"params": (None, json.dumps({"label_info": []})), "label": ("label.bin", bytes(99))},
        headers=headers,
        timeout=30,
    )
    assert saved.status_code == 200 and saved.json()["image"] == "ohif"
    running = requests.get(f"{server.url}/train/?check_if_running=true", headers=headers, timeout=30)
    assert running.status_code == 404  # MONAI Label's way to say no
    next_sample = requests.post(f"{server.url}/activelearning/random", json={}, headers=headers, timeout=30)
    assert next_sample.status_code == 200 and "id" in next_sample.json()
    assert requests.get(f"{server.url}/info/", timeout=30).status_code == 401  # OHIF sends no token by itself


def test_endpoints_that_would_show_or_keep_too_much_are_not_there(server: Server) -> None:
    for method, path in (
        ("POST", "/batch/infer/remove_mark"),
        ("GET", "/proxy/dicom/studies"),
        ("POST", "/reload"),
        ("GET", "/model/protect"),
        ("GET", "/openapi.json"),
        ("GET", "/docs"),
    ):
        answer = requests.request(method, server.url + path, headers=server.auth("root"), timeout=30)
        assert answer.status_code in (404, 405), path


@pytest.mark.data
def test_a_model_that_the_generator_never_saw_errs_on_what_is_stored(server: Server) -> None:
    """MobileNetV2: preset ``fast`` asks the generator, which was trained against others."""
    import torch

    from monai_miadmark.marker import bundle_root, load_config

    try:
        dataset_root()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    parser = load_config(bundle_root(), dataset="brain_mri")
    assert "mobilenet" not in parser["generator_surrogates"]
    parser["surrogate_names"] = ["mobilenet"]
    model = parser.get_parsed_content("ensemble").cpu().members[0]

    @torch.inference_mode()
    def scores(data: bytes) -> Any:
        picture = np.asarray(Image.open(io.BytesIO(data)).convert("L"), np.float32) / 255
        return model(torch.from_numpy(picture)[None, None].expand(1, 3, -1, -1)).softmax(1)[0].numpy()

    before, after, changed, seconds = [], [], [], []
    for number, item in enumerate(data_list("brain_mri", "val", limit=3)):
        out = io.BytesIO()
        Image.open(str(item["image"])).convert("L").save(out, "PNG")
        began = time.monotonic()
        assert upload(server, "paul", f"mri-{number}", "mri.png", out.getvalue()).status_code == 200
        seconds.append(time.monotonic() - began)
        marked = stored(server, "paul", f"mri-{number}").content
        label, clean = int(item["label"]), scores(out.getvalue())
        before.append(clean[label])
        after.append(scores(marked)[label])
        pixels = [np.asarray(Image.open(io.BytesIO(data)).convert("L"), int) for data in (out.getvalue(), marked)]
        changed.append((pixels[0] != pixels[1]).mean())
        assert np.array_equal(scores(stored(server, "anna", f"mri-{number}").content), clean)
    print(
        f"\n{len(before)} uploads, {np.median(seconds):.2f} s each (the first {seconds[0]:.2f} s); mean probability of "
        f"the true class {np.mean(before):.3f} -> {np.mean(after):.3f}; pixels changed {np.mean(changed):.0%}"
    )
    assert min(changed) > 0.2
    assert np.all(np.abs(np.subtract(before, after)) > 1e-4) and np.mean(after) < np.mean(before) - 0.05


def test_a_server_that_is_not_guarded_does_not_start(tmp_path: Path) -> None:
    """No keys, or a key folder that others can read."""
    made = start(tmp_path, None, wait=False, MIADMARK_LABEL_KEYS="")
    assert made.process.wait(300) != 0 and "set MIADMARK_LABEL_KEYS" in made.logs()
    (tmp_path / "keys").chmod(0o750)
    made = start(tmp_path, None, wait=False)
    assert made.process.wait(300) != 0 and "others may read it" in made.logs()
    assert made.private_folders() == []


def test_the_app_refuses_other_servers_and_remote_studies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from monailabel.config import settings
    from monailabel.endpoints.user import auth

    from monai_miadmark.apps.label import bearer
    from monai_miadmark.apps.label.app import LabelApp

    with pytest.raises(RuntimeError, match="--uvicorn_app"):  # as in MONAI Label's own application
        LabelApp(str(tmp_path), str(tmp_path), {})
    monkeypatch.setattr(auth, "from_token", bearer.from_token)
    for name, value, address, said in (
        ("MONAI_LABEL_DATASTORE", "xnat", "https://pacs.example.org", "only a folder or a DICOMweb server"),
        ("MONAI_LABEL_DATASTORE", "DSA", "https://pacs.example.org", "only a folder or a DICOMweb server"),
        ("MONAI_LABEL_DICOMWEB_FETCH_BY_FRAME", True, "https://pacs.example.org", "got whole, not by frames"),
        ("MONAI_LABEL_DATASTORE", "", "https://healthcare.googleapis.com/v1", "Google's DICOM stores"),
        ("MONAI_LABEL_DATASTORE", "", "https://user:password@pacs.example.org/dicom-web", "without user and query"),
    ):
        with monkeypatch.context() as context, pytest.raises(RuntimeError, match=said) as refused:
            context.setattr(settings, name, value)
            LabelApp(str(tmp_path), address, {})
        assert "password" not in str(refused.value)
    with pytest.raises(ValueError, match="preset must be one of"):
        LabelApp(str(tmp_path), str(tmp_path), {"preset": "harmless"})
    assert list(tmp_path.iterdir()) == []


def test_without_authentication_nothing_is_restored(tmp_path: Path) -> None:
    """And a server that was killed leaves nothing for ever: the next one cleans up."""
    save = tmp_path / "studies"
    save.mkdir()
    (tmp_path / "keys").mkdir(mode=0o700)
    key = generate_identity("x25519")
    save_key_pair(key, tmp_path / "keys" / "server")
    (save / "a.png").write_bytes(pipeline.protect_bytes(samples.png(), "a.png", [key.recipient], _noise()).data)
    made = start(tmp_path, None)
    image = requests.get(f"{made.url}/datastore/image?image=a", timeout=60)
    assert image.status_code == 200 and image.headers["X-MIAD-MARK"] == "protected"
    assert requests.post(f"{made.url}/infer/remove_mark?image=a", timeout=60).status_code == 403
    (left,) = made.private_folders()
    assert left.stat().st_mode & 0o777 == 0o700
    made.process.kill()
    made.process.wait(60)
    (left / "upload.png").write_bytes(samples.png())
    again = start(tmp_path, None)
    assert not left.exists()
    assert again.stop() in (0, -15) and again.private_folders() == []


def test_secrets_are_nowhere(server: Server) -> None:
    """Runs last: searches all that the server wrote for its private key, as text, as bytes and in hexadecimal."""
    text = (server.keys / "server.key").read_bytes()
    key = serialization.load_pem_private_key(text[text.rindex(b"-----BEGIN") :], None)
    raw = key.private_bytes_raw()  # type: ignore[union-attr]
    lines = [line for line in text.splitlines() if line and not line.startswith(b"-----")]
    needles = [raw, raw.hex().encode(), base64.b64encode(raw), *lines]
    searched = 0
    for path in server.folder.rglob("*"):
        if path.is_file() and path.parent != server.keys:
            searched += 1
            content = path.read_bytes()
            assert not [needle for needle in needles if needle in content], path.name
    assert searched > 15 and server.left_in_temp() == []
    answers = [
        requests.get(f"{server.url}{path}", headers=server.auth("root"), timeout=60).content
        for path in ("/info/", "/datastore/?output=all", "/logs/?lines=100000&text=true", "/datastore/?output=train")
    ]
    assert b"restored 'by-id' for 'anna'" in answers[2]  # who saw what is in the log
    for answer in answers:
        assert not [needle for needle in needles if needle in answer]
    token = server.auth("anna")["Authorization"].split()[1]
    assert token.split(".")[0] + "." not in server.logs()  # nor does any token's head stand there
    assert server.stop() in (0, -15)
    assert server.private_folders() == []


def _info(server: Server) -> dict[str, Any]:
    answer: dict[str, Any] = requests.get(f"{server.url}/info/", headers=server.auth("paul"), timeout=60).json()
    return answer


def _datastore(server: Server) -> dict[str, Any]:
    url = f"{server.url}/datastore/?output=all"
    answer: dict[str, Any] = requests.get(url, headers=server.auth("paul"), timeout=60).json()
    return answer


def _noise() -> Any:
    from doubles import NoiseMarker

    return NoiseMarker()

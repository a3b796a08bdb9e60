# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The server: ``--uvicorn_app monai_miadmark.apps.label.server:app`` of ``python -m monailabel.main start_server``.

MONAI Label's own application has endpoints that keep or show more than they should here: sessions and batch inference
(images and results in the clear), a proxy, model files, reloading without a token. So this module puts together one of
its own, from those of its routers that clients need, with images, uploads and inference answered here.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Depends, FastAPI, File, Form, HTTPException, Request, Response, UploadFile
from fastapi.background import BackgroundTasks
from fastapi.middleware.cors import CORSMiddleware
from monailabel.config import settings
from monailabel.endpoints import activelearning, datastore, info, login, logs, train
from monailabel.endpoints.datastore import add_image
from monailabel.endpoints.infer import ResultType, run_inference
from monailabel.endpoints.user.auth import RBAC, User
from monailabel.interfaces.utils.app import app_instance
from monailabel.utils.others.generic import get_mime_type

from monai_miadmark.apps.label import bearer
from monai_miadmark.apps.label.access import current_caller, usable_key_ids
from monai_miadmark.apps.label.app import LabelApp
from monai_miadmark.apps.label.ending import end_in_time
from monai_miadmark.apps.label.guard import RequestGuard
from monai_miadmark.apps.label.infers import as_stored, restore_for_caller
from monai_miadmark.apps.label.limits import BodyLimits
from monai_miadmark.apps.label.private_temp import PrivateTemp
from monai_miadmark.apps.label.refusals import RESERVED, checked_params

__all__ = ["app"]

_user = RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER)
_annotator = RBAC(settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR)

_ROLES = {
    settings.MONAI_LABEL_AUTH_ROLE_ADMIN,
    settings.MONAI_LABEL_AUTH_ROLE_REVIEWER,
    settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR,
    settings.MONAI_LABEL_AUTH_ROLE_USER,
}

_DIGESTS = {"SHA256": hashlib.sha256, "SHA512": hashlib.sha512}


async def no_keys(request: Request) -> None:
    """Refuse parameters that look like keys, in forms and in JSON bodies, before MONAI Label logs them."""
    if request.method in ("GET", "HEAD"):
        return  # MONAI Label's client says of some that they have a body, and sends none
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    texts: list[str] = []
    if kind in ("multipart/form-data", "application/x-www-form-urlencoded"):
        form = await request.form()
        texts = [value for name, value in form.multi_items() if name in ("params", "info") and isinstance(value, str)]
    elif body := await request.body():
        texts = [body.decode("utf-8", "replace")]
    for text in texts:
        try:
            checked_params(text)
        except ValueError as error:
            raise HTTPException(400, str(error)) from None


router = APIRouter()


# Plain functions, not coroutines: FastAPI runs them in threads, so that the server answers others meanwhile.
@router.put("/datastore/")
@router.put("/datastore/image")
def put_image(
    background_tasks: BackgroundTasks,
    file: Annotated[UploadFile, File()],
    user: Annotated[User, Depends(_annotator)],
    image: str | None = None,
    params: Annotated[str, Form()] = "{}",
) -> dict[str, str]:
    """Protect and store an image."""
    stored: dict[str, str] = add_image(background_tasks, image, params, file, user.username)
    return stored


@router.api_route("/datastore/image", methods=["GET", "HEAD"])
def get_image(
    request: Request, image: str, user: Annotated[User, Depends(_user)], check_sum: str | None = None
) -> Response:
    """An image: restored for users with the role, protected for all others."""
    data, name, restored = _image_for_caller(image)
    if request.method == "HEAD" and check_sum:
        algorithm, _, digest = check_sum.rpartition(":")
        made = _DIGESTS.get((algorithm or "SHA256").upper())
        if made is None or made(data).hexdigest() != digest.lower():
            raise HTTPException(404, "the image has another checksum")
    headers = {
        "Content-Disposition": f"attachment; filename*=utf-8''{quote(name, safe='')}",
        "Cache-Control": "no-store, private" if restored else "private",
        "X-MIAD-MARK": "restored" if restored else "protected",
    }
    return Response(b"" if request.method == "HEAD" else data, media_type=get_mime_type(name), headers=headers)


@router.post("/infer/{model}")
def infer(
    background_tasks: BackgroundTasks,
    model: str,
    user: Annotated[User, Depends(_user)],
    image: str = "",
    session_id: str = "",
    params: Annotated[str, Form()] = "{}",
    file: Annotated[UploadFile | None, File()] = None,
    output: ResultType | None = None,
) -> object:
    """Run a task. A label that clients send along is of no use to these tasks and is not read."""
    instance: LabelApp = app_instance()
    if session_id:
        raise HTTPException(400, "this server keeps no sessions")
    if output == ResultType.dicom_seg:
        raise HTTPException(400, "results of this server are images, not segmentations")
    if any(value for name, value in checked_params(params).items() if name in RESERVED):
        raise HTTPException(400, f"parameters may not set {', '.join(sorted(RESERVED))}")
    if file is None and not instance.datastore().get_image_uri(image):
        raise HTTPException(404, "there is no such image")
    return run_inference(background_tasks, model, image, "", params, file, None, output)


refusing = APIRouter()


@refusing.api_route("/session/{rest:path}", methods=["GET", "PUT", "DELETE"])
def session(rest: str, user: Annotated[User, Depends(_user)]) -> None:
    """What clients are told that want a session; the image that they send along is not read."""
    raise HTTPException(403, "this server keeps no sessions: they would hold images in the clear; upload the image")


def _image_for_caller(image_id: str) -> tuple[bytes, str, bool]:
    """Content and name of an image, and whether it is restored. Restored images are in memory only."""
    instance: LabelApp = app_instance()
    path = Path(instance.datastore().get_image_uri(image_id) or os.devnull)
    if not (path.is_file() or path.is_dir()):
        raise HTTPException(404, "there is no such image")
    if usable_key_ids(current_caller.get(), instance.vault.keys.ids()):
        try:
            restored = restore_for_caller(instance.vault, path, image_id)
            return restored.data, restored.file_name, True
        except HTTPException as error:
            if error.status_code != 403:
                raise  # tampered with: not to be shown to somebody who expects the original
    return *as_stored(path), False


@asynccontextmanager
async def _lifespan(application: FastAPI) -> AsyncIterator[None]:
    """Start MONAI Label's part, and leave nothing behind."""
    try:
        end_in_time(_temp.remove)
        instance = app_instance()
        instance.server_mode(True)
        instance.on_init_complete()
        yield
    finally:
        _temp.remove()


os.umask(0o077)
_temp = PrivateTemp()
bearer.install()
app = FastAPI(title="MIAD-MARK", docs_url=None, redoc_url=None, openapi_url=None, lifespan=_lifespan)
app.add_middleware(
    RequestGuard,
    caller_of=bearer.caller_of,
    limits=BodyLimits.from_environment(),
    roles=_ROLES if settings.MONAI_LABEL_AUTH_ENABLE else None,
)
if settings.MONAI_LABEL_CORS_ORIGINS:
    app.add_middleware(
        CORSMiddleware,
        allow_origins=[str(origin).rstrip("/") for origin in settings.MONAI_LABEL_CORS_ORIGINS],
        allow_credentials=True,
        allow_methods=["*"],
        allow_headers=["*"],
    )
app.include_router(refusing)
app.include_router(login.router)  # its form has a password in it, and goes to the realm
app.include_router(router, dependencies=[Depends(no_keys)])  # before those that have the same addresses
for _part in (info, activelearning, datastore, train, logs):
    app.include_router(_part.router, dependencies=[Depends(no_keys)])

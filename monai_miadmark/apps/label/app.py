# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The application class of MONAI Label."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from monailabel.config import settings
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import DefaultLabelTag
from monailabel.interfaces.tasks.infer_v2 import InferTask

import monai_miadmark
from monai_miadmark.apps.label import bearer
from monai_miadmark.apps.label.datastore import ProtectedDatastore
from monai_miadmark.apps.label.existing import APP_ENV, tasks_of_existing_app
from monai_miadmark.apps.label.guard import remove_after_request
from monai_miadmark.apps.label.infers import ProtectImage, RemoveMark
from monai_miadmark.apps.label.key_folder import KeyFolder
from monai_miadmark.apps.label.remote_datastore import RemoteDatastore
from monai_miadmark.apps.label.remote_settings import check_remote_settings, remote_datastore
from monai_miadmark.apps.label.vault import CHOICES, Vault, chosen_options
from monai_miadmark.formats.limits import serve_within_limit
from monai_miadmark.marker import load_marker
from monai_miadmark.options import ProtectOptions

__all__ = ["LabelApp"]

_REMOTE = ("http://", "https://")


class LabelApp(MONAILabelApp):
    """Keeps protected images, and restores them for those who may see them.

    Args:
        app_dir: as the server gives it.
        studies: folder with the images, or address of a DICOMweb server.
        conf: ``--conf``: preset, style, text and modality of uploads.

    Raises:
        KeyFolderError: the server's keys cannot be used.
        RuntimeError: the server was started without the module that guards it, or a remote datastore of another kind.
        ValueError: an option that is none.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        if not bearer.installed():
            raise RuntimeError("start the server with --uvicorn_app monai_miadmark.apps.label.server:app")
        if studies.startswith(_REMOTE):
            check_remote_settings(studies)
        serve_within_limit()
        given = {name: conf[name] for name in CHOICES if name in (conf or {})}
        options = chosen_options(ProtectOptions(), given)
        self.vault = Vault(KeyFolder.from_environment(), load_marker, options)
        super().__init__(
            app_dir,
            studies,
            conf,
            name="MIAD-MARK",
            description="Images are stored protected; users with the role see them restored",
            version=monai_miadmark.__version__,
        )

    def init_datastore(self) -> ProtectedDatastore | RemoteDatastore:
        """The datastore of protected images: a folder, or the series of a DICOMweb server."""
        if self.studies.startswith(_REMOTE):
            return remote_datastore(self.studies, self.vault)
        return ProtectedDatastore(self.studies, self.vault, settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD)

    def init_infers(self) -> dict[str, InferTask]:
        """The two tasks, and those of the app that the environment names."""
        own: dict[str, InferTask] = {"protect": ProtectImage(self.vault), "remove_mark": RemoveMark(self.vault)}
        if folder := os.environ.get(APP_ENV):
            own |= tasks_of_existing_app(folder, self, self.conf, self.vault)
        return own

    def infer(self, request: dict[str, Any], datastore: object = None) -> dict[str, Any]:
        """Run a task on a stored image, or on an upload in the private folder for temporary files.

        MONAI Label's own method takes any path of the server for an image, and can store results as labels: a restored
        image would lie there in the clear.

        Raises:
            HTTPException: 404 no such task or image, 400 the result was to be stored, and what the task raises.
        """
        task = self._infers.get(request.get("model"))
        if task is None:
            raise HTTPException(404, "there is no such model")
        if request.get("save_label"):
            raise HTTPException(400, "results of this server are images: they are not stored as labels")
        image = request.get("image")
        stored = self.datastore().get_image_uri(image) if isinstance(image, str) else ""
        if stored:
            path, result = task({**request, "image": stored, "image_id": image})
        elif _is_upload(image):
            remove_after_request(Path(str(image)))
            path, result = task({**request, "image": image, "image_id": None})
        else:
            raise HTTPException(404, "there is no such image")
        return {"label": path, "tag": DefaultLabelTag.ORIGINAL, "file": path, "params": result}

    def next_sample(self, request: dict[str, Any]) -> dict[str, Any]:
        """The next image to work on, without its path: clients on the same machine would read it there."""
        asked = {**request, "strategy": request.get("strategy") or "random"}
        strategy = self._strategies.get(asked["strategy"])
        if strategy is None:
            raise HTTPException(404, "there is no such strategy")
        # MONAI Label would ask for the path, for which a series would have to be got and protected.
        sample: dict[str, Any] = strategy(asked, self.datastore()) or {}
        return sample

    def _load_sessions(self, load: bool = False) -> None:
        """No sessions: they keep images as they were sent."""


def _is_upload(image: object) -> bool:
    """Whether this is a path of a file that lies directly in the folder for temporary files."""
    if not isinstance(image, str) or not os.path.isabs(image):
        return False
    path = Path(image)
    return path.parent == Path(tempfile.gettempdir()) and path.is_file() and not path.is_symlink()

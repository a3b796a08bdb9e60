# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Infer tasks of another MONAI Label app, on images that lie here protected."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.utils.others.class_utils import get_class_of_subclass_from_file

from monai_miadmark.apps.label.access import current_caller, usable_key_ids
from monai_miadmark.apps.label.guard import remove_after_request
from monai_miadmark.apps.label.infers import as_stored, restore_for_caller, written
from monai_miadmark.apps.label.vault import Vault

__all__ = ["APP_ENV", "RestoredInput", "tasks_of_existing_app"]

APP_ENV = "MIADMARK_LABEL_APP"
"""Environment variable with the folder of an app whose infer tasks are offered too."""


class RestoredInput(InferTask):
    """A task that sees the restored image where the user may, and the protected one where not.

    Args:
        task: of the other app.
        vault: restores.
    """

    def __init__(self, task: InferTask, vault: Vault) -> None:
        super().__init__(task.type, task.labels, task.dimension, task.description)
        self._task, self._vault = task, vault

    def info(self) -> dict[str, Any]:
        """As the task has it."""
        told: dict[str, Any] = self._task.info()
        return told

    def config(self) -> dict[str, Any]:
        """As the task has it."""
        told: dict[str, Any] = self._task.config()
        return told

    def is_valid(self) -> bool:
        """As the task has it."""
        return bool(self._task.is_valid())

    def __call__(self, request: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
        """Run the task on ``request["image"]``; what it writes is gone when the answer has been sent.

        Returns:
            File and JSON of the task; ``input`` in it says whether the image was ``restored`` or ``as stored``.

        Raises:
            HTTPException: 409 the image was tampered with, and what the task raises.
        """
        restored = self._restored(request)
        seen = restored
        if restored is None and Path(request["image"]).is_dir():
            seen = written(as_stored(Path(request["image"]))[0])  # tasks know files
        given = dict(request) if seen is None else {**request, "image": seen}
        path, told = self._task(given)
        if path:
            remove_after_request(Path(path))
        return path, {**told, "input": "as stored" if restored is None else "restored"}

    def _restored(self, request: Mapping[str, Any]) -> str | None:
        """Path of the restored image in the private folder; ``None`` where the task works on what is there."""
        path, image_id = Path(request["image"]), request.get("image_id")
        if not usable_key_ids(current_caller.get(), self._vault.keys.ids()):
            return None
        try:
            return written(restore_for_caller(self._vault, path, image_id).data)
        except HTTPException as error:
            unprotected = image_id is None and str(error.detail).startswith("NotProtectedError")
            if error.status_code == 403 or unprotected:
                return None  # no key of this user opens it, or an upload that was never protected
            raise


def tasks_of_existing_app(folder: str, app: Any, conf: dict[str, str], vault: Vault) -> dict[str, InferTask]:
    """Infer tasks of the app in a folder, each as :class:`RestoredInput`.

    Args:
        folder: of the app: what ``--app`` would name, with a ``main.py``.
        app: this server's, whose studies and datastore the other one gets.
        conf: ``--conf`` of this server.
        vault: restores.

    Raises:
        RuntimeError: there is no app, or it has a task of a name that is taken.
    """
    main = os.path.join(folder, "main.py")
    found = (
        get_class_of_subclass_from_file("existing_app_main", main, "MONAILabelApp") if os.path.isfile(main) else None
    )
    if found is None:
        raise RuntimeError(f"{APP_ENV} names {folder}, in which no MONAI Label app is found")
    sys.path.append(folder)

    class Quiet(found):  # type: ignore[valid-type, misc]
        """The other app without a datastore, trainings and sessions of its own: they would keep images in the clear."""

        def init_datastore(self) -> Any:
            return app.datastore()

        def init_trainers(self) -> dict[str, Any]:
            return {}

        def _load_sessions(self, load: bool = False) -> None:
            return None

    tasks = Quiet(folder, app.studies, conf)._infers
    if taken := {"protect", "remove_mark"} & tasks.keys():
        raise RuntimeError(f"the app in {folder} has tasks of names that are taken: {', '.join(sorted(taken))}")
    return {name: RestoredInput(task, vault) for name, task in tasks.items()}

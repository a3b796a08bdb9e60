# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""A local datastore that takes in, lists and gives out protected images only."""

from __future__ import annotations

import logging
import re
import threading
import time
from pathlib import Path
from typing import Any

from filelock import FileLock
from monailabel.datastore.local import DataModel, ImageLabelModel, LocalDatastore

from monai_miadmark.apps.label.answers import http_errors
from monai_miadmark.apps.label.guard import remove_after_request
from monai_miadmark.apps.label.studies import Audit
from monai_miadmark.apps.label.vault import Vault, source_extension
from monai_miadmark.files import atomic_write, sidecar_exists, sidecar_path

__all__ = ["EXTENSIONS", "ProtectedDatastore", "checked_name"]

EXTENSIONS = ("*.nii.gz", "*.nii", "*.dcm", "*.png", "*.tif", "*.tiff", "*.mha", "*.nrrd", "*.mgh", "*.mgz")
"""What protected files are called."""

_ID = re.compile(r"[^\s./\\\x00-\x1f\x7f][^/\\\x00-\x1f\x7f]{0,199}")

_logger = logging.getLogger(__name__)


class ProtectedDatastore(LocalDatastore):
    """Protects what is uploaded; other files in its folder do not exist for it until they are protected.

    Args:
        folder: the studies.
        vault: protects.
        auto_reload: watch the folder.
    """

    def __init__(self, folder: str, vault: Vault, auto_reload: bool = False) -> None:
        self._vault, self._audit = vault, Audit()
        self._change = threading.RLock()  # uploads and the folder's observer work in threads of their own
        self._told: int | None = None
        super().__init__(folder, extensions=EXTENSIONS, auto_reload=auto_reload)

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Protect an upload and store the result, whole or not at all; the upload is removed in any case.

        Args:
            image_id: its name in the datastore, with or without the file's ending.
            image_filename: the upload, in the private folder for temporary files.
            image_info: what the client tells of it.

        Raises:
            HTTPException: 400 not a plain name, 409 the id is taken, 415 the image cannot be protected.
        """
        upload = Path(image_filename)
        remove_after_request(upload)
        with http_errors():
            data = upload.read_bytes()
            extension = source_extension(data, "the upload")
            image_id = checked_name(image_id.removesuffix(extension))
            self._check_free(image_id)
            protected = self._vault.protect(data, f"{image_id}{extension}")
            stored = self._extension_of(protected.name)
            with self._change, FileLock(self._lock_file):
                self._check_free(image_id)
                atomic_write(self._folder / f"{image_id}{stored}", protected.data, mode=0o600)
                info = {**(image_info or {}), "ts": int(time.time()), "name": f"{image_id}{stored}"}
                self._datastore.objects[image_id] = ImageLabelModel(image=DataModel(info=info, ext=stored))
                self._update_datastore_file(lock=False)
        _logger.info("protected and stored %r", image_id)
        return image_id

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Store a label; the upload is removed in any case.

        Raises:
            HTTPException: 400 the tag is not a plain name.
        """
        remove_after_request(Path(label_filename))
        with http_errors():
            checked_name(label_tag)
        with self._change:
            label_id: str = super().save_label(image_id, label_filename, label_tag, label_info)
        return label_id

    def remove_image(self, image_id: str) -> None:
        """Remove an image with its labels and its sidecar."""
        path = self.get_image_uri(image_id)
        with self._change:
            super().remove_image(image_id)
        if path and sidecar_exists(Path(path)):
            sidecar_path(Path(path)).unlink(missing_ok=True)

    def get_image_uri(self, image_id: str) -> str:
        """Path of a protected image; empty where there is none, or where the file is not protected (any more)."""
        path: str = super().get_image_uri(image_id)
        return path if path and self._audit.protected(Path(path)) else ""

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """What is known of an image, without its path: clients on the same machine would read it there."""
        info: dict[str, Any] = super().get_image_info(image_id)
        info.pop("path", None)
        return info

    def datalist(self, full_path: bool = True) -> list[dict[str, Any]]:
        """Pairs of protected images and labels."""
        whole = super().datalist(True)
        asked = whole if full_path else super().datalist(False)
        return [item for item, full in zip(asked, whole, strict=True) if self._audit.protected(Path(full["image"]))]

    def get_dataset_archive(self, limit_cases: int | None) -> str:
        """Path of an archive of protected images and labels, which is gone when the answer has been sent."""
        path: str = super().get_dataset_archive(limit_cases)
        remove_after_request(Path(path))
        return path

    def status(self) -> dict[str, Any]:
        """Counts, for ``/info/``: ``unprotected`` are files of the folder that are not served."""
        with self._change:
            self.refresh()
            return {**super().status(), "unprotected": self._told or 0}

    @property
    def _folder(self) -> Path:
        """Where images lie."""
        return Path(self._datastore.image_path())

    def _check_free(self, image_id: str) -> None:
        """Never replace an image: what is stored is all that is left of its original."""
        taken = image_id in self._datastore.objects
        if taken or any((self._folder / f"{image_id}{e[1:]}").exists() for e in self._extensions):
            raise FileExistsError(image_id)

    def _extension_of(self, name: str) -> str:
        """Ending of a stored file."""
        extension: str = self._to_id(name)[1]
        return extension

    def _reconcile_datastore(self) -> None:
        with self._change:
            super()._reconcile_datastore()
            count = len(self._audit.unprotected(self._folder))
        if count != self._told and (count or self._told):
            _logger.warning(
                "%d file(s) in the studies folder are not protected and are not served; protect them with "
                "python -m monai_miadmark.apps.label.protect_studies",
                count,
            )
        self._told = count

    def _init_from_datastore_file(self, throw_exception: bool = False) -> None:
        with self._change:
            super()._init_from_datastore_file(throw_exception)

    def _list_files(self, path: str, patterns: list[str]) -> dict[str, str]:
        found: dict[str, str] = super()._list_files(path, patterns)
        if Path(path) != self._folder:
            return found
        return {name: file for name, file in found.items() if self._audit.protected(self._folder / file)}

    def _remove_non_existing(self) -> int:
        """Forget images that are gone, and those that an earlier server listed unprotected."""
        changes: int = super()._remove_non_existing()
        for image_id in [known for known in self._datastore.objects if not self.get_image_uri(known)]:
            del self._datastore.objects[image_id]
            changes += 1
        return changes


def checked_name(name: str) -> str:
    """A name that leads to a file of the folder and nowhere else."""
    if not _ID.fullmatch(name):
        raise ValueError("not a plain name: at most 200 characters, none of / and \\, no point or blank in front")
    return name

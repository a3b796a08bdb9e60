# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""A datastore whose images are the series of a DICOMweb server; on this machine they lie protected only."""

from __future__ import annotations

import io
import logging
import os
import secrets
import stat
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydicom
from fastapi import HTTPException
from monailabel.datastore.local import DataModel, ImageLabelModel, LocalDatastore
from monailabel.interfaces.exception import ImageNotFoundException

from monai_miadmark import pipeline
from monai_miadmark.apps.label.answers import http_errors
from monai_miadmark.apps.label.datastore import checked_name
from monai_miadmark.apps.label.dicomweb import DicomWeb, Instance, is_uid
from monai_miadmark.apps.label.guard import remove_after_request
from monai_miadmark.apps.label.studies import Audit
from monai_miadmark.apps.label.vault import Vault, source_extension
from monai_miadmark.errors import NotProtectedError, UnsupportedImageError
from monai_miadmark.files import atomic_write

__all__ = ["RemoteDatastore"]

_LIST_SECONDS = 30.0
_FILL_SECONDS = 60.0
"""Longest time that one request spends on getting the instances of a series, and protecting those that are not."""

_IMAGES = "images"
_LABELS = ("*.nii.gz", "*.nii", "*.nrrd", "*.dcm", "*.png", "*.mha", "*.json")

_logger = logging.getLogger(__name__)


class RemoteDatastore(LocalDatastore):
    """Series of a DICOMweb server. Instances that are protected there stay as they are; others are protected here.

    Args:
        folder: for the protected instances of series that were asked for, and the labels.
        vault: protects.
        remote: the server.
        search: which series to list, as QIDO-RS has it.

    Raises:
        RuntimeError: others may read or change the folder.
    """

    def __init__(self, folder: Path, vault: Vault, remote: DicomWeb, search: Mapping[str, Any]) -> None:
        self._vault, self._remote, self._search, self._audit = vault, remote, dict(search), Audit()
        self._change = threading.RLock()
        self._series_locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._listed: tuple[float, list[str]] | None = None
        for private in (folder, folder / _IMAGES):
            make_private(private)
        # "Read only" leaves out the search for files: images come and go at the server, and labels stay when they do.
        super().__init__(str(folder), images_dir=_IMAGES, extensions=_LABELS, read_only=True)

    def name(self) -> str:
        """Address of the server."""
        return self._remote.url

    def list_images(self) -> list[str]:
        """UIDs of the series that the search finds; asked for twice a minute at most."""
        held = self._listed
        if held is None or time.monotonic() > held[0]:
            with http_errors():
                held = self._listed = time.monotonic() + _LIST_SECONDS, self._remote.series(self._search)
        return list(held[1])

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Series without a final label here."""
        return sorted(set(self.list_images()) - set(self.get_labeled_images(label_tag, labels)))

    def get_image_uri(self, image_id: str) -> str:
        """Folder with the protected instances of a series, got and protected now where they are not there.

        Raises:
            HTTPException: 502 the server does not answer, 415 an instance cannot be protected, 409 one was tampered
                with, 503 it takes too long for one request: the next one goes on.
        """
        if not is_uid(image_id):
            return ""
        with http_errors():
            wanted = self._remote.instances(image_id)
            with self._change:
                lock = self._series_locks[image_id] if wanted else threading.Lock()
            with lock:
                folder = self._folder / image_id
                self._drop_others(folder, wanted)
                if not wanted:
                    return ""
                make_private(folder)
                self._fill(folder, wanted)
        return str(folder)

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """What is known of an image, without its path: clients on the same machine would read it there."""
        info: dict[str, Any] = super().get_image_info(image_id)
        info.pop("path", None)
        return info

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Store what a client tells of a series; raises ImageNotFoundException."""
        with self._change:
            self._note(image_id)
            super().update_image_info(image_id, info)

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Protect a DICOM file and store it at the server; the upload is removed in any case.

        Returns:
            UID of its series, which is a new one: the name that the client gives means nothing to the server.

        Raises:
            HTTPException: 415 no DICOM file, or it cannot be protected; 502 the server did not store it.
        """
        upload = Path(image_filename)
        remove_after_request(upload)
        with http_errors():
            data = upload.read_bytes()
            if source_extension(data, "the upload") != ".dcm":
                raise UnsupportedImageError("a DICOMweb server takes DICOM files only")
            # One upload is one image: it must not become a slice of another one's series.
            protected = self._vault.protect(data, "upload.dcm", series_secret=secrets.token_bytes(32)).data
            series = _series_of(protected)
            self._remote.store(protected)
            self._listed = None
        _logger.info("protected and stored series %s", series)
        return series

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Store a label on this machine; the upload is removed in any case.

        Raises:
            HTTPException: 400 the tag is not a plain name.
        """
        remove_after_request(Path(label_filename))
        with http_errors():
            checked_name(label_tag)
        with self._change:
            self._note(image_id)
            label_id: str = super().save_label(image_id, label_filename, label_tag, label_info)
        return label_id

    def remove_image(self, image_id: str) -> None:
        """Refused: what is at the server is removed there."""
        raise HTTPException(400, "images of a DICOMweb server are removed there")

    def get_dataset_archive(self, limit_cases: int | None) -> str:
        """Refused: the archive would have all series of the server in it."""
        raise HTTPException(400, "no archives are made of the images of a DICOMweb server")

    def datalist(self, full_path: bool = True) -> list[dict[str, Any]]:
        """Refused: it would name paths of images that are not there yet."""
        raise HTTPException(400, "images of a DICOMweb server have no paths")

    @property
    def _folder(self) -> Path:
        """Where images lie, each in a folder of its own."""
        return Path(self._datastore.image_path())

    def _note(self, image_id: str) -> None:
        """Have a place for what is told of a series."""
        if image_id in self._datastore.objects:
            return
        with http_errors():
            known = is_uid(image_id) and bool(self._remote.instances(image_id))
        if not known:
            raise ImageNotFoundException(f"Image {image_id} not found")
        info = {"ts": int(time.time()), "name": image_id}
        self._datastore.objects[image_id] = ImageLabelModel(image=DataModel(info=info, ext=""))

    def _fill(self, folder: Path, wanted: list[Instance]) -> None:
        """Get what is missing, and what lies there that is not protected."""
        until, got = time.monotonic() + _FILL_SECONDS, 0
        for number, instance in enumerate(wanted):
            path = folder / f"{instance.instance}.dcm"
            if self._audit.protected(path):
                continue
            path.unlink(missing_ok=True)
            if got and time.monotonic() > until:
                text = f"{number} of {len(wanted)} instances of the series are ready: ask again"
                raise HTTPException(503, text, {"Retry-After": "1"})
            atomic_write(path, self._protected(self._remote.retrieve(instance)), mode=0o600)
            got += 1

    def _protected(self, data: bytes) -> bytes:
        """An instance as it may lie here."""
        if source_extension(data, "an instance of the series") != ".dcm":
            raise UnsupportedImageError("the DICOMweb server sent something else than a DICOM file")
        try:
            pipeline.verify_bytes(data)
        except NotProtectedError:
            return self._vault.protect(data, "instance.dcm").data
        return data

    def _drop_others(self, folder: Path, wanted: list[Instance]) -> None:
        """Remove what the server does not have (any more)."""
        names = {f"{instance.instance}.dcm" for instance in wanted}
        if not folder.is_dir():
            return
        for path in folder.iterdir():
            if path.name not in names:
                path.unlink(missing_ok=True)
        if not wanted:
            folder.rmdir()

    def _reconcile_datastore(self) -> None:
        """Forget labels whose files are gone."""
        with self._change:
            for image_id, held in self._datastore.objects.items():
                for tag in [tag for tag in held.labels if not os.path.exists(self.get_label_uri(image_id, tag))]:
                    del held.labels[tag]
            self._update_datastore_file()


def make_private(folder: Path) -> None:
    """Make a folder that only this user can read, or see that it is one.

    Raises:
        RuntimeError: it is not.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise RuntimeError(f"{folder}: must be a folder of this user that others may not read; chmod 700 it")


def _series_of(data: bytes) -> str:
    """Series Instance UID of a DICOM file of this package's."""
    head = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True, specific_tags=["SeriesInstanceUID"])
    return str(head.SeriesInstanceUID)

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Infer tasks whose result is an image: protect, and remove_mark."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from monai_miadmark.apps.label.access import current_caller, usable_key_ids
from monai_miadmark.apps.label.answers import http_errors
from monai_miadmark.apps.label.guard import remove_after_request
from monai_miadmark.apps.label.series_volume import packed_series, read_series
from monai_miadmark.apps.label.vault import CHOICES, Vault, chosen_options, source_extension
from monai_miadmark.options import PRESETS
from monai_miadmark.pipeline import RestoredBytes

__all__ = ["ProtectImage", "RemoveMark", "as_stored", "restore_for_caller", "written"]

_Result = tuple[str, dict[str, Any]]

_logger = logging.getLogger(__name__)


class ProtectImage(InferTask):
    """Protects an image that comes with the request, as it would be stored, and stores nothing.

    Parameters: ``preset``, ``style``, ``text``, ``modality``; the server's own where they are not given.
    """

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        first = vault.options.preset
        presets = [first, *(name for name in PRESETS if name != first)]
        super().__init__(
            InferType.OTHERS, labels=[], dimension=3, description="Protect an image", config={"preset": presets}
        )

    def is_valid(self) -> bool:
        """It needs no network of its own."""
        return True

    def __call__(self, request: Mapping[str, Any]) -> _Result:
        """Protect ``request["image"]``; raises HTTPException 400 or 415."""
        path = Path(request["image"])
        with http_errors():
            data = path.read_bytes()
            given = {name: request[name] for name in CHOICES if name in request}
            options = chosen_options(self._vault.options, given)
            protected = self._vault.protect(data, f"image{source_extension(data, 'the image')}", options)
        return written(protected.data), {"protected": True, "label_names": {}}


class RemoveMark(InferTask):
    """Restores an image, stored or sent, for users whose role allows it.

    Parameter: ``key_id``, the server's key to use; all that the user may use where it is not given.
    """

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        super().__init__(InferType.OTHERS, labels=[], dimension=3, description="Restore a protected image")

    def is_valid(self) -> bool:
        """It needs no network."""
        return True

    def __call__(self, request: Mapping[str, Any]) -> _Result:
        """Restore ``request["image"]``; raises HTTPException 400, 403 or 409."""
        asked = request.get("key_id")
        restored = restore_for_caller(self._vault, Path(request["image"]), request.get("image_id"), asked)
        return written(restored.data), {"restored": True, "label_names": {}}


def restore_for_caller(vault: Vault, path: Path, image_id: str | None, key_id: object = None) -> RestoredBytes:
    """Restore a file for the user whose request is being answered.

    Args:
        vault: restores.
        path: the protected file, or the folder with the protected instances of a series.
        image_id: its name in the datastore, for the log.
        key_id: the key to use; default: any that the user may use.

    Raises:
        HTTPException: 403 the user may not, or no key fits; 409 not protected or tampered with.
    """
    caller = current_caller.get()
    with http_errors():
        ids = usable_key_ids(caller, vault.keys.ids())
        if key_id is not None:
            ids = [known for known in ids if known == key_id]
        if caller is None or not ids:
            # Whether there is such a key is nobody's business who may not use it.
            raise HTTPException(403, "restoring is not allowed to you, or not with this key")
        if path.is_dir():
            restored = packed_series([vault.restore(file, ids).data for file in sorted(path.glob("*.dcm"))], path.name)
        else:
            restored = vault.restore(path, ids)
    _logger.info("restored %r for %r", image_id or "an upload", caller.name)
    return restored


def as_stored(path: Path) -> tuple[bytes, str]:
    """Content and name of what users without the role see.

    Args:
        path: the protected file, or the folder with the protected instances of a series.

    Raises:
        HTTPException: 415 the series makes no volume.
    """
    if not path.is_dir():
        return path.read_bytes(), path.name
    with http_errors():
        packed = packed_series(read_series(path), path.name)
    return packed.data, packed.name


def written(data: bytes) -> str:
    """Path of a file that is gone when the answer has been sent."""
    descriptor, name = tempfile.mkstemp(suffix=source_extension(data, "the result"))
    remove_after_request(Path(name))
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
    return name

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Protecting and restoring with the server's keys, in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from pathlib import Path

from monai_miadmark import pipeline
from monai_miadmark.apps.label.key_folder import KeyFolder
from monai_miadmark.errors import WrongKeyError
from monai_miadmark.files import read_protected
from monai_miadmark.formats import carrier_for
from monai_miadmark.marking import Marker
from monai_miadmark.options import PRESETS, ProtectOptions
from monai_miadmark.pipeline import ProtectedBytes, RestoredBytes

__all__ = ["CHOICES", "Vault", "chosen_options", "source_extension"]

CHOICES = ("preset", "style", "text", "modality")
"""Fields of :class:`ProtectOptions` that may come from outside: none of them names a file."""

_TEXT_LENGTH = 64
_GZIP_MAGIC = b"\x1f\x8b"
_EXTENSIONS = {"dicom": ".dcm", "jpeg": ".jpg", "metaimage": ".mha", "nifti": ".nii", "tiff": ".tif"}


class Vault:
    """The server's keys, marker and options.

    Args:
        keys: where the keys are.
        load_marker: gives what makes the marks; called once, when it is first needed.
        options: for all images that say nothing else.
    """

    def __init__(self, keys: KeyFolder, load_marker: Callable[[], Marker], options: ProtectOptions) -> None:
        self.keys, self.options = keys, options
        self._load_marker = load_marker
        self._marker: Marker | None = None
        self._lock = threading.Lock()  # networks take memory: one image at a time

    def protect(
        self, data: bytes, name: str, options: ProtectOptions | None = None, series_secret: bytes | None = None
    ) -> ProtectedBytes:
        """Protect a file for all recipients of the key folder.

        The result is opened with one of the folder's own private keys and compared with the source: a server that
        stores only what comes out of here never loses an image, whatever public keys somebody put there.

        Args:
            data: the file.
            name: its name.
            options: default: the server's.
            series_secret: see :func:`pipeline.protect_bytes`.

        Raises:
            MIADMarkError: the file cannot be protected; :class:`WrongKeyError` if no own key would open it again.
            KeyFolderError: the folder cannot be used.
            ValueError: the options do not fit the file.
        """
        recipients = self.keys.recipients()
        with self._lock:
            if self._marker is None:
                self._marker = self._load_marker()
            protected = pipeline.protect_bytes(
                data, name, recipients, self._marker, options or self.options, series_secret=series_secret
            )
        restored = pipeline.remove_bytes(protected.data, self.keys.identities(self.keys.ids()))
        digest = carrier_for(data, name).file_digest
        if digest(restored.data) != digest(data):
            raise WrongKeyError("the protected file did not give the source back: refused")
        return protected

    def restore(self, path: Path, key_ids: Collection[str]) -> RestoredBytes:
        """Restore a protected file (its sidecar is found by itself) with those keys of the folder.

        Raises:
            MIADMarkError: not protected, tampered with, or none of the keys opens it.
            KeyFolderError: the folder cannot be used.
            OSError: the file cannot be read.
        """
        source = read_protected(path)
        identities = self.keys.identities(key_ids)
        if not identities:
            raise WrongKeyError("none of the server's keys may be used for this")
        return pipeline.remove_bytes(source.data, identities, envelope=source.envelope)


def chosen_options(base: ProtectOptions, given: Mapping[str, object]) -> ProtectOptions:
    """Options with those of :data:`CHOICES` that are given.

    Raises:
        ValueError: a value that is none.
    """
    values = {field.name: getattr(base, field.name) for field in fields(base)}
    for name in CHOICES:
        if name in given:
            value = given[name]
            if not isinstance(value, str) or len(value) > _TEXT_LENGTH or not value.isprintable():
                raise ValueError(f"{name} must be a text of at most {_TEXT_LENGTH} printable characters")
            values[name] = value
    if isinstance(values["preset"], str) and values["preset"] not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}")
    return ProtectOptions(**values)


def source_extension(data: bytes, name: str) -> str:
    """Ending that fits the content of a file, whatever it is called: ``.dcm``, ``.nii``, ``.nii.gz``, ``.png``, ...

    Raises:
        UnsupportedImageError: none of the formats.
    """
    kind, packed = carrier_for(data, name).name, data.startswith(_GZIP_MAGIC)
    if kind == "mgh":
        return ".mgz" if packed else ".mgh"
    return _EXTENSIONS.get(kind, f".{kind}") + (".gz" if packed and kind == "nifti" else "")

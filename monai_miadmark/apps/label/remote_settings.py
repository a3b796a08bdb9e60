# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""MONAI Label's settings of a DICOMweb server, and which of them the app cannot follow."""

from __future__ import annotations

import hashlib
from pathlib import Path

from monailabel.config import settings

from monai_miadmark.apps.label.dicomweb import DicomWeb
from monai_miadmark.apps.label.limits import BodyLimits
from monai_miadmark.apps.label.remote_datastore import RemoteDatastore
from monai_miadmark.apps.label.vault import Vault

__all__ = ["check_remote_settings", "remote_datastore"]


def check_remote_settings(address: str) -> None:
    """Refuse what is no DICOMweb server, or one that would have to be asked in another way.

    Raises:
        RuntimeError: names the setting.
    """
    kind = settings.MONAI_LABEL_DATASTORE.lower()
    if kind not in ("", "dicom", "dicomweb"):
        raise RuntimeError(f"MONAI_LABEL_DATASTORE={kind}: only a folder or a DICOMweb server can hold the studies")
    if settings.MONAI_LABEL_DICOMWEB_FETCH_BY_FRAME:
        raise RuntimeError("MONAI_LABEL_DICOMWEB_FETCH_BY_FRAME: protected instances are got whole, not by frames")
    if "googleapis.com" in address:
        raise RuntimeError("Google's DICOM stores are not supported: they want credentials of their own kind")
    try:
        DicomWeb(address)
    except ValueError as error:
        raise RuntimeError(str(error)) from None


def remote_datastore(address: str, vault: Vault) -> RemoteDatastore:
    """The datastore of a DICOMweb server.

    Raises:
        RuntimeError: its folder on this machine can be read by others.
    """
    user = settings.MONAI_LABEL_DICOMWEB_USERNAME or settings.MONAI_LABEL_DATASTORE_USERNAME
    password = settings.MONAI_LABEL_DICOMWEB_PASSWORD or settings.MONAI_LABEL_DATASTORE_PASSWORD
    prefixes = settings.MONAI_LABEL_QIDO_PREFIX, settings.MONAI_LABEL_WADO_PREFIX, settings.MONAI_LABEL_STOW_PREFIX
    most = BodyLimits.from_environment().upload
    remote = DicomWeb(address, (user, password) if user and password else None, prefixes, most)
    named = (settings.MONAI_LABEL_DICOMWEB_CACHE_PATH or settings.MONAI_LABEL_DATASTORE_CACHE_PATH).strip()
    base = Path(named) if named else Path.home() / ".cache" / "monailabel" / "dicom"
    # Not MONAI Label's own folder for this address, in which originals may lie.
    folder = base / f"miadmark-{hashlib.sha256(remote.url.encode()).hexdigest()[:32]}"
    return RemoteDatastore(folder, vault, remote, settings.MONAI_LABEL_DICOMWEB_SEARCH_FILTER)

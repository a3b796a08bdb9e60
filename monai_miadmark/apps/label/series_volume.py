# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Series of DICOM instances as clients get them: one NIfTI file, or the only instance as it is."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK
from monailabel.config import settings

from monai_miadmark.errors import UnsupportedImageError
from monai_miadmark.pipeline import RestoredBytes

__all__ = ["packed_series", "read_series"]

_TAGS = ["ImagePositionPatient", "ImageOrientationPatient", "InstanceNumber"]
_MAX_BYTES = 4 << 30


def read_series(folder: Path) -> list[bytes]:
    """The files of a folder with the instances of a series.

    Raises:
        UnsupportedImageError: too many bytes for one image.
        OSError: they cannot be read.
    """
    paths = sorted(folder.glob("*.dcm"))
    if sum(path.stat().st_size for path in paths) > _MAX_BYTES:
        raise UnsupportedImageError(f"the series has more than {_MAX_BYTES} bytes")
    return [path.read_bytes() for path in paths]


def packed_series(instances: Sequence[bytes], series: str) -> RestoredBytes:
    """One file for a series.

    A NIfTI volume, whose values are rescaled as the instances say (Hounsfield units for CT); or, with
    ``MONAI_LABEL_DICOMWEB_CONVERT_TO_NIFTI=false``, the instance itself of a series that has one only.

    Args:
        instances: the files.
        series: UID of the series, which the file is named by.

    Raises:
        UnsupportedImageError: they make no volume, or are several and not to be converted.
    """
    if not settings.MONAI_LABEL_DICOMWEB_CONVERT_TO_NIFTI:
        if len(instances) != 1:
            raise UnsupportedImageError("a series of several instances is served as one NIfTI file only")
        return RestoredBytes(instances[0], f"{series}.dcm", "dicom")
    # In the private folder of the server; nothing of it stays, whatever happens.
    with tempfile.TemporaryDirectory(prefix="series-") as name:
        folder = Path(name)
        paths = [folder / f"{number:05d}.dcm" for number in range(len(instances))]
        for path, data in zip(paths, _in_order(instances), strict=True):
            path.write_bytes(data)
        target = folder / "volume.nii.gz"
        try:
            SimpleITK.WriteImage(_volume([str(path) for path in paths]), str(target))
        except RuntimeError:  # its text names files and libraries
            raise UnsupportedImageError("the instances of the series make no volume") from None
        return RestoredBytes(target.read_bytes(), f"{series}.nii.gz", "nifti")


def _volume(names: list[str]) -> Any:
    """One image of all files, in the order given."""
    if len(names) == 1:
        single = SimpleITK.ImageFileReader()
        single.SetImageIO("GDCMImageIO")
        single.SetFileName(names[0])
        return single.Execute()
    reader = SimpleITK.ImageSeriesReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileNames(names)
    return reader.Execute()


def _in_order(instances: Sequence[bytes]) -> list[bytes]:
    """Slices along their normal, as GDCM sorts them; by number where they say no place.

    Protected instances of a series that was protected file by file are in series of their own, so readers that look
    for series would find one slice.
    """
    heads = []
    for data in instances:
        try:
            head = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True, force=True, specific_tags=_TAGS)
            place = [float(value) for value in head.get("ImagePositionPatient") or ()]
            axes = [float(value) for value in head.get("ImageOrientationPatient") or ()]
            number = int(head.get("InstanceNumber") or 0)
        except Exception as error:  # whatever pydicom raises on what it cannot read
            raise UnsupportedImageError(f"an instance of the series cannot be read: {type(error).__name__}") from None
        heads.append((place, axes, number))
    if all(len(place) == 3 and len(axes) == 6 for place, axes, _ in heads):
        normal = np.cross(heads[0][1][:3], heads[0][1][3:])
        keys = [float(np.dot(normal, place)) for place, _, _ in heads]
    else:
        keys = [float(number) for _, _, number in heads]
    if len(set(keys)) != len(keys):
        raise UnsupportedImageError("several instances of the series are at one place: they make no volume")
    return [instances[index] for index in sorted(range(len(instances)), key=keys.__getitem__)]

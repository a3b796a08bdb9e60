# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""What stands between restored series and a DICOM segmentation: the bundle, the volume that it is given, the writer."""

from __future__ import annotations

import json
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from monai.deploy.core import AppContext, TorchScriptModel
from monai.deploy.core.domain.dicom_series import DICOMSeries
from monai.deploy.operators.dicom_seg_writer_operator import DICOMSegmentationWriterOperator, SegmentDescription
from monai.deploy.operators.dicom_series_to_volume_operator import DICOMSeriesToVolumeOperator
from numpy.typing import NDArray
from pydicom.sr.coding import Code

from monai_miadmark.errors import UnsupportedImageError
from monai_miadmark.files import atomic_write

__all__ = ["ExactVolumeOperator", "SegmentationBundle", "WholeSegmentationWriterOperator", "find_bundle"]

_TISSUE = Code("85756007", "SCT", "Tissue")
_MAX_METADATA_BYTES = 1 << 20
_LABEL_LENGTH = 64

# What the writer copies from the first image of a series and cannot do without.
_MAY_BE_EMPTY = (
    "AccessionNumber",
    "PatientBirthDate",
    "PatientID",
    "PatientName",
    "PatientSex",
    "StudyDate",
    "StudyID",
    "StudyTime",
)


@dataclass(frozen=True)
class SegmentationBundle:
    """What the app has to know of a bundle.

    Attributes:
        name: of the model, as the SDK calls it.
        path: TorchScript file with the bundle's configuration.
        version: of the bundle.
        image: name of the network's input.
        pred: name of its output.
        labels: of the values 1, 2, ... of the output.
    """

    name: str
    path: Path
    version: str
    image: str
    pred: str
    labels: tuple[str, ...]

    def descriptions(self) -> list[SegmentDescription]:
        """Segments for the writer. A bundle has no codes for what it finds, so each is a tissue with a label."""
        algorithm, version = self.name[:_LABEL_LENGTH], self.version[:_LABEL_LENGTH]
        return [SegmentDescription(label, _TISSUE, _TISSUE, algorithm, version) for label in self.labels]


def find_bundle(context: AppContext) -> SegmentationBundle | None:
    """The bundle that the app was given (``-m``, ``HOLOSCAN_MODEL_PATH``), if it was given one.

    Raises:
        UnsupportedImageError: several, none in the form that the SDK loads, or not for segmentation.
    """
    path = Path(context.model_path)
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return None
    models = dict(context.models.items()) if context.models else {}
    found = [(name, model) for name, model in models.items() if isinstance(model, TorchScriptModel)]
    if len(found) != 1 or len(models) != 1:
        raise UnsupportedImageError(
            f"{path}: expected one TorchScript file made by `monai.bundle ckpt_export`, or a folder NAME/model.ts; "
            f"found {len(found)}"
        )
    name, model = found[0]
    return _described(name, Path(model.path))


def _described(name: str, path: Path) -> SegmentationBundle:
    """Read a bundle's metadata; nothing of it is executed."""
    try:
        with zipfile.ZipFile(path) as archive:
            (member,) = (m for m in archive.infolist() if m.filename.endswith("extra/metadata.json"))
            if member.file_size > _MAX_METADATA_BYTES:
                raise ValueError
            metadata = json.loads(archive.read(member))
        formats = metadata["network_data_format"]
        ((image, _),) = formats["inputs"].items()
        ((pred, output),) = formats["outputs"].items()
        kind = output["type"], output["format"]
        channels = {int(value): str(label) for value, label in output["channel_def"].items()}
    except (AttributeError, KeyError, OSError, RecursionError, TypeError, ValueError, zipfile.BadZipFile):
        raise UnsupportedImageError(
            f"{path}: its metadata does not describe one input and one output with channel_def"
        ) from None
    labels = [channels[value][:_LABEL_LENGTH] for value in sorted(channels) if value > 0]
    if kind != ("image", "segmentation") or not labels or max(channels) != len(labels):
        raise UnsupportedImageError(f"{path}: not a segmentation bundle: only segmentations are written as DICOM")
    return SegmentationBundle(name, path, str(metadata.get("version", "")), image, pred, tuple(labels))


class ExactVolumeOperator(DICOMSeriesToVolumeOperator):
    """The SDK's operator, but the volume is float32, as ``LoadImage`` gives it.

    The SDK takes the type of all slices from the first one: where that has no negative number, those of later slices
    wrap around to 65535.
    """

    def generate_voxel_data(self, series: DICOMSeries) -> NDArray[np.float32]:
        """Rescaled values ``(D, H, W)``, float32."""
        slices = []
        for instance in series.get_sop_instances():
            alone = DICOMSeries(series.get_series_instance_uid())
            alone.add_sop_instance(instance.get_native_sop_instance())
            slices.append(np.asarray(super().generate_voxel_data(alone), dtype=np.float32))
        return np.concatenate(slices)


class WholeSegmentationWriterOperator(DICOMSegmentationWriterOperator):
    """The SDK's operator, but the object is written whole or not at all, and images need not have empty attributes.

    DICOM wants certain attributes to be there even if they are empty (type 2). Real files lack some of them, and the
    SDK's operator then fails.
    """

    def create_dicom_seg(self, image: NDArray[np.uint8], dicom_series: DICOMSeries, output_dir: Path) -> None:
        """Write the segmentation ``(D, H, W)`` of a series, whose data sets are made complete in memory.

        Raises:
            OSError: nothing was written.
        """
        for instance in dicom_series.get_sop_instances():
            data_set = instance.get_native_sop_instance()
            for keyword in _MAY_BE_EMPTY:
                if keyword not in data_set:
                    setattr(data_set, keyword, "")
        with tempfile.TemporaryDirectory() as folder:
            super().create_dicom_seg(image, dicom_series, Path(folder))
            (made,) = Path(folder).iterdir()
            data = made.read_bytes()
        output_dir.mkdir(parents=True, exist_ok=True)
        atomic_write(output_dir / made.name, data)

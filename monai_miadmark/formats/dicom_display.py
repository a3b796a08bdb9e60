# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Attributes of a DICOM object that decide how its samples are shown, in a form that archives do not change."""

from __future__ import annotations

from typing import Any

from pydicom.dataset import Dataset

__all__ = ["shown_attributes"]

# Photometric interpretation and bits are left out: they change when an archive compresses, and the samples speak for
# them. So do padding and extrema, which the mark itself changes for palettes.
_SHOWN = (
    "RescaleSlope",
    "RescaleIntercept",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "PresentationLUTShape",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "PixelAspectRatio",
    "SliceThickness",
    "SpacingBetweenSlices",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "PatientOrientation",
    "ImageLaterality",
    "Laterality",
)


def shown_attributes(data_set: Dataset) -> list[tuple[str, bytes]]:
    """Names and values, of the top level; attributes without a value count as absent."""
    found = []
    for keyword in _SHOWN:
        value: Any = data_set.get(keyword, None)
        values = list(value) if not isinstance(value, str) and hasattr(value, "__iter__") else [value]
        words = [_word(part) for part in values if part is not None and str(part) != ""]
        if words:
            found.append((keyword, "\\".join(words).encode("utf-8", "replace")))
    return found


def _word(value: Any) -> str:
    """A number by its value, text without padding."""
    try:
        return repr(float(value))
    except (TypeError, ValueError):
        return str(value).strip(" \0")

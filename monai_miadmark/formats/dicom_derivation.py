# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""What a DICOM object has to say once its pixels were changed.

Sources: PS3.3 C.7.6.1.1.2 (Image Type), C.12.4.1 (derivation), C.7.6.16.2.6 (enhanced objects), C.12.1.1.5
(contributing equipment); codes from PS3.16 CID 7202, 7203 and 7005.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID

from monai_miadmark import __version__
from monai_miadmark.formats.copies import copy_bytes
from monai_miadmark.formats.dicom_copies import drop_copies

__all__ = ["SERIES_PREFIX", "UNKNOWN_INSTANCE", "UidSecrets", "complete_head", "declare_derived", "derived_uid"]

SERIES_PREFIX = "MIAD-MARK protected: "
_DESCRIPTION = (
    "MIAD-MARK: a removable adversarial watermark was added to the pixels; "
    "authorized recipients can restore the original object"
)
UNKNOWN_INSTANCE = "2.25.0"
"""Stands for the SOP Instance UID of a source that has none."""

_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_SIGNATURES = (0xFFFAFFFA, 0x4FFE0001)
_TRAILING_PADDING = 0xFFFCFFFC
"""Means nothing, and where it is the last element a cut inside the file's end would go unnoticed."""
# An icon is a small copy of the unprotected image; the series extrema no longer hold.
_OUTDATED = ("IconImageSequence", "SmallestPixelValueInSeries", "LargestPixelValueInSeries")
# When this instance was made: a date would make two runs give different objects, and the source's is not true of it.
_OF_CREATION = ("InstanceCreationDate", "InstanceCreationTime")
_CODE_ADDITION = ("113042", "Pixel by pixel addition")
_CODE_SOURCE = ("121322", "Source image for image processing operation")
_CODE_EQUIPMENT = ("109103", "Modifying Equipment")
# Their fourth value of Image and Frame Type says what operation made the pixels, NONE "not a calculated image" (PS3.3
# C.8.16.1.4). Other enhanced objects, XA and XRF for one, allow nothing but NONE.
_DERIVED_CONTRAST = {
    "1.2.840.10008.5.1.4.1.1.2.1",  # Enhanced CT
    "1.2.840.10008.5.1.4.1.1.2.2",  # Legacy Converted Enhanced CT
    "1.2.840.10008.5.1.4.1.1.4.1",  # Enhanced MR
    "1.2.840.10008.5.1.4.1.1.4.3",  # Enhanced MR Color
    "1.2.840.10008.5.1.4.1.1.4.4",  # Legacy Converted Enhanced MR
}


def _drawn() -> bytes:
    """A fresh secret."""
    return os.urandom(32)


@dataclass(frozen=True, repr=False)
class UidSecrets:
    """Keys (32 bytes) of derived UIDs. Without them, nobody can tell from a UID what it was derived from.

    Attributes:
        instance: of SOP Instance UIDs; belongs to one protected object.
        series: of Series Instance UIDs; the same for all objects whose series are to stay together.
    """

    instance: bytes = field(default_factory=_drawn)
    series: bytes = field(default_factory=_drawn)


def derived_uid(secret: bytes, *parts: bytes) -> str:
    """A UID below 2.25 from HMAC-SHA256 under a secret over the parts, each with its length.

    The same secret and parts give the same UID. Without a secret, whoever sees the UID could confirm a guess at them.
    """
    digest = hmac.new(secret, b"miadmark uid 2\0", "sha256")
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    number = int.from_bytes(digest.digest()[:16], "big")
    # Version 8 (free form) and variant of RFC 9562, as 2.25 takes UUIDs (PS3.5 B.2).
    number = number & ~(0xF << 76) | 8 << 76
    number = number & ~(0b11 << 62) | 0b10 << 62
    return f"2.25.{number}"


def declare_derived(data_set: Dataset, file_digest: bytes, values: NDArray[Any], secrets: UidSecrets) -> None:
    """Turn a data set in place into that of an image derived from it.

    Args:
        data_set: of the source; pixel data and private block are left to the caller.
        file_digest: SHA-256 of the source file.
        values: ``(N, H, W, C)`` protected samples, for the extrema.
        secrets: keys of the new UIDs.
    """
    sop_class, instance = (str(data_set.get(key, "") or "") for key in ("SOPClassUID", "SOPInstanceUID"))
    data_set.ImageType = _derived_type(data_set.get("ImageType", None), sop_class)
    # Enhanced IODs have no General Reference module: there the functional groups say it, and only they.
    if not _declare_in_frames(data_set, sop_class, instance):
        _declare_derivation(data_set, sop_class, instance)
    data_set.SOPInstanceUID = derived_uid(secrets.instance, b"instance", instance.encode(), file_digest)
    data_set.file_meta.MediaStorageSOPInstanceUID = UID(data_set.SOPInstanceUID)
    series = str(data_set.get("SeriesInstanceUID", "") or "")
    if series:
        data_set.SeriesInstanceUID = derived_uid(secrets.series, b"series", series.encode())
    else:
        data_set.SeriesInstanceUID = derived_uid(secrets.instance, b"series", file_digest)
    _declare_series(data_set)
    _declare_equipment(data_set)
    _update_extrema(data_set, values)
    for tag in (*_SIGNATURES, _TRAILING_PADDING):
        if tag in data_set:
            del data_set[tag]
    for keyword in (*_OUTDATED, *_OF_CREATION):
        if keyword in data_set:
            delattr(data_set, keyword)
    drop_copies(data_set, copy_bytes(values))


def complete_head(data_set: Dataset, syntax: str) -> None:
    """Give a data set, in place, what every DICOM file has and some sources lack.

    That is a preamble, file meta information, a SOP Class UID (that of the file meta information, else Secondary
    Capture) and a SOP Instance UID: that of the file meta information, else none of the source's can be named, and the
    derived object refers to no source.

    Args:
        data_set: of the source.
        syntax: its transfer syntax UID.
    """
    if not getattr(data_set, "preamble", None):
        data_set.preamble = bytes(128)
    meta = getattr(data_set, "file_meta", None)
    if meta is None:
        meta = data_set.file_meta = FileMetaDataset()
    if any(getattr(meta.get_item(tag), "VR", "") is None for tag in meta.keys()):
        for _ in meta.iterall():  # in implicit VR, which the writer does not know here; reading looks VRs up
            pass
    for keyword, named, default in (
        ("SOPClassUID", "MediaStorageSOPClassUID", _SECONDARY_CAPTURE),
        ("SOPInstanceUID", "MediaStorageSOPInstanceUID", UNKNOWN_INSTANCE),
    ):
        if not str(data_set.get(keyword, "") or ""):
            setattr(data_set, keyword, str(meta.get(named, "") or "") or default)
        if not str(meta.get(named, "") or ""):
            setattr(meta, named, UID(str(data_set.get(keyword))))
    if not data_set.get("PhotometricInterpretation", None):
        data_set.PhotometricInterpretation = "MONOCHROME2"  # of ACR-NEMA, no other file without it is opened
    if not str(meta.get("TransferSyntaxUID", "") or ""):
        meta.TransferSyntaxUID = UID(syntax)


def _code(code: tuple[str, str]) -> Sequence:
    """A code sequence of one DCM code."""
    item = Dataset()
    item.CodeValue, item.CodeMeaning = code
    item.CodingSchemeDesignator = "DCM"
    return Sequence([item])


def _source(sop_class: str, instance: str, frame: int | None = None) -> Sequence:
    """Source Image Sequence with the one image that was marked, or the one frame of it (from 1)."""
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class
    item.ReferencedSOPInstanceUID = instance
    if frame is not None:
        item.ReferencedFrameNumber = frame
    item.SpatialLocationsPreserved = "YES"
    item.PurposeOfReferenceCodeSequence = _code(_CODE_SOURCE)
    return Sequence([item])


def _derived_type(value: Any, sop_class: str) -> list[str]:
    """Image Type or Frame Type with value 1 DERIVED, the rest kept."""
    kept = [value] if isinstance(value, str) else [str(part) for part in value or []]
    derived = ["DERIVED", *(kept[1:] or ["PRIMARY"])]
    if sop_class in _DERIVED_CONTRAST and derived[3:4] == ["NONE"]:
        derived[3] = "ADDITION"
    return derived


def _declare_derivation(data_set: Dataset, sop_class: str, instance: str) -> None:
    """Description, code and source of the object."""
    earlier = str(data_set.get("DerivationDescription", "") or "")
    data_set.DerivationDescription = (f"{_DESCRIPTION}; before: {earlier}" if earlier else _DESCRIPTION)[:1024]
    # Earlier derivations (lossy compression, above all) stay true of the protected image.
    codes = list(data_set.get("DerivationCodeSequence", None) or [])
    data_set.DerivationCodeSequence = Sequence([*codes, *_code(_CODE_ADDITION)])
    if instance != UNKNOWN_INSTANCE:
        data_set.SourceImageSequence = _source(sop_class, instance)


def _declare_in_frames(data_set: Dataset, sop_class: str, instance: str) -> bool:
    """Frame Type and Derivation Image in the functional groups of enhanced objects; whether there are such groups."""
    shared = list(data_set.get("SharedFunctionalGroupsSequence", None) or [])
    frames = list(data_set.get("PerFrameFunctionalGroupsSequence", None) or [])
    for group in (*shared, *frames):
        for item in _frame_type_items(group):
            item.FrameType = _derived_type(item.FrameType, sop_class)
    # A functional group is either shared or per frame, never both (PS3.3 C.7.6.16.1.1).
    in_frames = not shared or any("DerivationImageSequence" in frame for frame in frames)
    for number, group in enumerate(frames if in_frames else shared[:1], 1):
        derivation = Dataset()
        derivation.DerivationDescription = _DESCRIPTION
        derivation.DerivationCodeSequence = _code(_CODE_ADDITION)
        derivation.SourceImageSequence = _source(sop_class, instance, number if in_frames else None)
        before = list(group.get("DerivationImageSequence", None) or [])
        group.DerivationImageSequence = Sequence([*before, derivation])
    if shared or frames:
        _declare_evidence(data_set, sop_class, instance)
    return bool(shared or frames)


def _declare_evidence(data_set: Dataset, sop_class: str, instance: str) -> None:
    """Study and series of the source image, required where functional groups name it."""
    study, series = (str(data_set.get(key, "") or "") for key in ("StudyInstanceUID", "SeriesInstanceUID"))
    image, of_series, of_study = Dataset(), Dataset(), Dataset()
    image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = sop_class, instance
    of_series.ReferencedSOPSequence = Sequence([image])
    of_series.SeriesInstanceUID = series
    of_study.ReferencedSeriesSequence = Sequence([of_series])
    of_study.StudyInstanceUID = study
    before = list(data_set.get("SourceImageEvidenceSequence", None) or [])
    data_set.SourceImageEvidenceSequence = Sequence([*before, of_study])


def _frame_type_items(group: Dataset) -> Iterator[Dataset]:
    """Items with a Frame Type in one item of a functional groups sequence."""
    for element in group:
        if element.VR == "SQ":
            yield from (item for item in element.value if "FrameType" in item)


def _declare_series(data_set: Dataset) -> None:
    """Series Description that shows what this series is, within the 64 characters of an LO."""
    value = data_set.get("SeriesDescription", None) or ""
    text = value if isinstance(value, str) else " ".join(map(str, value))
    data_set.SeriesDescription = (SERIES_PREFIX + text)[:64].strip(" :")


def _declare_equipment(data_set: Dataset) -> None:
    """Append this software to the equipment that contributed; no time, so that a re-run gives the same object."""
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = _code(_CODE_EQUIPMENT)
    item.Manufacturer = "MIAD-MARK"
    item.ManufacturerModelName = "monai-miadmark"
    item.SoftwareVersions = __version__
    item.ContributionDescription = "Added a removable watermark"
    before = list(data_set.get("ContributingEquipmentSequence", None) or [])
    data_set.ContributingEquipmentSequence = Sequence([*before, item])


def _update_extrema(data_set: Dataset, values: NDArray[Any]) -> None:
    """Smallest and Largest Image Pixel Value, where the source has them and their 16 bits hold the new ones."""
    signed = np.issubdtype(values.dtype, np.signedinteger)
    limits = np.iinfo(np.int16 if signed else np.uint16)
    for keyword in ("SmallestImagePixelValue", "LargestImagePixelValue"):
        if keyword not in data_set:
            continue
        del data_set[keyword]
        number = values.min() if keyword.startswith("Smallest") else values.max()
        if values.dtype.kind != "f" and limits.min <= number <= limits.max:
            data_set.add_new(keyword, "SS" if signed else "US", int(number))

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""What derived objects have to say. Validators see none of it: pixels changed under the same UID pass them all."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import RLELossless
from test_formats_dicom import ENVELOPE, GRADIENT, ROOT, made, protect, read
from test_formats_dicom_decoding import compressed
from test_formats_dicom_interop import messages, tool

from monai_miadmark.formats.dicom import DicomCarrier

CARRIER = DicomCarrier()
ENHANCED_MR, ENHANCED_XA = "1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.12.1.1"
STACK = np.repeat(GRADIENT, 3, axis=0)


def group(kind: str | None, frame_type: list[str] | None = None, derivation: bool = False) -> Dataset:
    """An item of a functional groups sequence."""
    item = Dataset()
    if kind is not None:
        inner = Dataset()
        inner.FrameType = frame_type
        setattr(item, kind, Sequence([inner]))
    if derivation:
        earlier = Dataset()
        earlier.DerivationDescription = "earlier"
        item.DerivationImageSequence = Sequence([earlier])
    return item


ORIGINAL = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]


@pytest.mark.parametrize(
    ("sop_class", "kind", "fourth"),
    [(ENHANCED_MR, "MRImageFrameTypeSequence", "ADDITION"), (ENHANCED_XA, "XAXRFFrameCharacteristicsSequence", "NONE")],
)
def test_fourth_value_of_image_type(sop_class: str, kind: str, fourth: str) -> None:
    """C.8.16.1.4 names the operation; C.8.19.2.1.1.4 (XA, XRF) allows nothing but NONE."""
    ds = read(
        protect(
            made(
                STACK,
                SOPClassUID=sop_class,
                ImageType=ORIGINAL,
                SharedFunctionalGroupsSequence=Sequence([group(None)]),
                PerFrameFunctionalGroupsSequence=Sequence([group(kind, ORIGINAL) for _ in STACK]),
            )
        )
    )
    assert list(ds.ImageType) == ["DERIVED", "PRIMARY", "VOLUME", fourth]
    for frame in ds.PerFrameFunctionalGroupsSequence:
        assert list(frame[kind][0].FrameType) == ["DERIVED", "PRIMARY", "VOLUME", fourth]


@pytest.mark.parametrize(
    "values", [["DERIVED", "PRIMARY", "VOLUME", "MAXIMUM"], ["MIXED", "PRIMARY", "VOLUME", "MIXED"]]
)
def test_other_contrasts_stay(values: list[str]) -> None:
    ds = read(protect(made(GRADIENT, SOPClassUID=ENHANCED_MR, ImageType=values)))
    assert list(ds.ImageType) == ["DERIVED", *values[1:]]


@pytest.mark.parametrize(
    ("shared", "frames", "where"),
    [
        ([group(None)], [group(None) for _ in STACK], "shared"),
        ([group(None)], [], "shared"),
        ([], [group(None) for _ in STACK], "frames"),
        ([group(None)], [group(None, derivation=True), group(None), group(None)], "frames"),
        ([group(None, derivation=True)], [group(None) for _ in STACK], "shared"),
    ],
)
def test_derivation_functional_group_is_shared_or_per_frame(
    shared: list[Dataset], frames: list[Dataset], where: str
) -> None:
    attributes: dict[str, Any] = {"SOPClassUID": ENHANCED_MR}
    if shared:
        attributes["SharedFunctionalGroupsSequence"] = Sequence(shared)
    if frames:
        attributes["PerFrameFunctionalGroupsSequence"] = Sequence(frames)
    source = made(STACK, **attributes)
    ds = read(protect(source))
    in_shared = [g for g in ds.get("SharedFunctionalGroupsSequence", []) if "DerivationImageSequence" in g]
    in_frames = [g for g in ds.get("PerFrameFunctionalGroupsSequence", []) if "DerivationImageSequence" in g]
    assert (len(in_shared), len(in_frames)) == ((1, 0) if where == "shared" else (0, len(STACK)))
    for number, item in enumerate(in_shared or in_frames, 1):
        added = item.DerivationImageSequence[-1]
        assert added.DerivationCodeSequence[0].CodeValue == "113042"
        (reference,) = added.SourceImageSequence
        assert reference.ReferencedSOPInstanceUID == "1.2.3.4"
        assert reference.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
        # A frame comes from one frame; a shared group speaks of all of them.
        assert reference.get("ReferencedFrameNumber") == (None if where == "shared" else number)
    # Required with it (C.8.13.2.1 and others); and enhanced IODs have no such attributes at the top.
    (evidence,) = ds.SourceImageEvidenceSequence
    (series,) = evidence.ReferencedSeriesSequence
    assert (evidence.StudyInstanceUID, series.SeriesInstanceUID) == ("1.2.3", "1.2.3.5")
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "1.2.3.4"
    assert not {"SourceImageSequence", "DerivationDescription", "DerivationCodeSequence"} & set(ds.dir())
    if any("DerivationImageSequence" in g for g in (*shared, *frames)):
        assert (in_shared or in_frames)[0].DerivationImageSequence[0].DerivationDescription == "earlier"


def test_decoded_sources_are_declared_like_all_others() -> None:
    data = compressed(
        GRADIENT,
        RLELossless,
        ImageType=["ORIGINAL", "PRIMARY"],
        SmallestImagePixelValue=0,
        InstanceCreationDate="20200101",
    )
    opened = CARRIER.open_source(data, "a")
    ds = read(CARRIER.carry(data, opened, np.clip(opened.image.values, 9, 99), ENVELOPE))
    assert list(ds.ImageType) == ["DERIVED", "PRIMARY"] and ds.SmallestImagePixelValue == 9
    assert ds.SOPInstanceUID.startswith("2.25.") and ds.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID
    assert ds.SourceImageSequence[0].ReferencedSOPInstanceUID == "1.2.3.4"
    assert ds.SeriesDescription.startswith("MIAD-MARK protected") and "InstanceCreationDate" not in ds


def test_extrema_that_do_not_fit_their_sixteen_bits() -> None:
    big = np.full((1, 4, 4, 1), 70000, np.uint32)
    ds = read(protect(made(big, SmallestImagePixelValue=3, LargestImagePixelValue=9)))
    assert "SmallestImagePixelValue" not in ds and "LargestImagePixelValue" not in ds


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small_RLE.dcm", "examples_palette.dcm", "examples_ybr_color.dcm"])
def test_private_groups_of_the_source_stay(name: str) -> None:
    data = (ROOT / name).read_bytes()
    source, ds = read(data), read(protect(data))
    for element in source:
        if element.tag.is_private:
            assert ds[element.tag].value == element.value and ds[element.tag].VR == element.VR
    added = {e.tag for e in ds if e.tag.is_private} - {e.tag for e in source if e.tag.is_private}
    assert added == {0x04110010, 0x04111002}


@tool("dciodvfy")
@pytest.mark.parametrize(
    ("sop_class", "kind"),
    [
        (ENHANCED_MR, "MRImageFrameTypeSequence"),
        (ENHANCED_XA, "XAXRFFrameCharacteristicsSequence"),
        ("1.2.840.10008.5.1.4.1.1.2.1", "CTImageFrameTypeSequence"),
    ],
)
def test_the_validator_finds_nothing_new_in_enhanced_objects(sop_class: str, kind: str, tmp_path: Path) -> None:
    """The objects themselves lack most of what their IODs want; what counts is the difference."""
    source = made(
        STACK,
        SOPClassUID=sop_class,
        ImageType=ORIGINAL,
        SharedFunctionalGroupsSequence=Sequence([group(None)]),
        PerFrameFunctionalGroupsSequence=Sequence([group(kind, ORIGINAL) for _ in STACK]),
    )
    found = []
    for name, data in (("source.dcm", source), ("protected.dcm", protect(source))):
        (tmp_path / name).write_bytes(data)
        found.append(messages(tmp_path / name))
    new = found[1] - found[0]
    allowed = r"\(0x0411,0x10..\).*Unrecognized tag|.*Standard Extended SOP Class"  # for the private elements
    assert [line for line in new if not re.match(allowed, line)] == []

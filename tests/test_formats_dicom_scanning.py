# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Places of elements in plain DICOM files: those that pydicom finds, or none at all."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID

from monai_miadmark.errors import TamperedError, UnsupportedImageError
from monai_miadmark.formats.dicom import DicomCarrier, _scanned
from monai_miadmark.formats.dicom_pixels import describe
from monai_miadmark.formats.dicom_reading import read
from monai_miadmark.formats.dicom_scanning import scan

ROOT = Path(pydicom.__file__).parent / "data" / "test_files"
FILES = sorted(path for path in ROOT.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc"))
PIXEL_DATA = 0x7FE00010
ENVELOPE = b"envelope"


def _described(source: object) -> object:
    try:
        return describe(source)  # type: ignore[arg-type]
    except UnsupportedImageError as error:
        return str(error)


def test_as_pydicom_has_it():
    found = 0
    for path in FILES:
        data = path.read_bytes()
        scanned = scan(data)
        if scanned is None:
            continue
        found += 1
        data_set = read(data).data_set
        assert set(scanned.places) == {int(tag) for tag in data_set.keys()}, path.name
        for tag in data_set.keys():
            element = data_set.get_item(tag)
            if isinstance(element.value, bytes):  # sequences are parsed at once
                place = scanned.places[int(tag)]
                assert (scanned.value(place), place.start) == (element.value, element.value_tell), path.name
        if PIXEL_DATA in scanned.places:
            assert _described(scanned) == _described(data_set), path.name
    assert found > 10


def _protected(name: str) -> bytes:
    """A file as it is carried, in the transfer syntax of its source."""
    carrier, data = DicomCarrier(), (ROOT / name).read_bytes()
    opened = carrier.open_source(data, name)
    values = opened.image.values.copy()
    values[0, :3] += 1
    return carrier.carry(data, opened, values, ENVELOPE)


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small_implicit.dcm", "SC_rgb_small_odd.dcm"])
def test_protected_files(name):
    data = _protected(name)
    quick, slow = _scanned(data), DicomCarrier()._parsed(data)
    assert quick is not None
    assert quick.values.dtype == slow.values.dtype and np.array_equal(quick.values, slow.values)
    assert (quick.envelope, quick.marked) == (slow.envelope, slow.marked) == (ENVELOPE, True)
    assert DicomCarrier().open_protected(data).values.base is not None  # the file's own bytes, not a copy


def test_what_is_not_whole_is_not_plain():
    data = _protected("CT_small.dcm")
    for cut in (*range(1, 300, 7), *range(300, len(data), 1009)):
        assert scan(data[:-cut]) is None
    for more in (b"\0", b"\0" * 8, data[-100:]):
        assert scan(data + more) is None
        with pytest.raises(TamperedError):
            DicomCarrier().open_protected(data + more)


@pytest.mark.parametrize("explicit", [True, False])
def test_sequences_of_undefined_length(explicit):
    deepest = Dataset()
    deepest.PatientID = "inner"
    nested = Dataset()
    nested.ReferencedImageSequence = Sequence([deepest])
    data_set = pydicom.dcmread(ROOT / "CT_small.dcm")
    data_set.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.1" if explicit else "1.2.840.10008.1.2")
    data_set.SourceImageSequence = Sequence([nested, deepest])
    for sequence in (data_set["SourceImageSequence"], nested["ReferencedImageSequence"]):
        sequence.is_undefined_length = True
    nested.is_undefined_length_sequence_item = deepest.is_undefined_length_sequence_item = True
    out = io.BytesIO()
    data_set.save_as(out, implicit_vr=not explicit, little_endian=True)
    scanned = scan(out.getvalue())
    assert scanned is not None
    again = read(out.getvalue()).data_set
    assert scanned.places[PIXEL_DATA].start == again.get_item(PIXEL_DATA).value_tell
    assert out.getvalue().count(struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)) == 2


def _element(tag: int, kind: bytes, value: bytes) -> bytes:
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, kind)
    long = kind in (b"OB", b"OW", b"UN", b"SQ")
    return head + (struct.pack("<HI", 0, len(value)) if long else struct.pack("<H", len(value))) + value


@pytest.mark.parametrize(
    "elements",
    [
        [(0x00280010, b"US", b"\2\0"), (0x00280010, b"US", b"\4\0")],  # twice
        [(0x00280011, b"US", b"\2\0"), (0x00280010, b"US", b"\2\0")],  # not in order
        [(0x00280010, b"IS", b"16")],  # two bytes that are a text
        [(0x00280010, b"US", b"\2\0\2\0")],  # two values
        [(0x00280004, b"CS", b"RGB\\RGB ")],
        [(0x00280008, b"IS", b"-1")],
        [(0x00280010, b"ZZ", b"\2\0")],  # no such VR
        [(0x00020010, b"UI", b"1.2\0")],  # file meta information after the data set began
    ],
)
def test_what_could_be_read_in_two_ways_is_not_plain(elements):
    meta = _element(0x00020010, b"UI", b"1.2.840.10008.1.2.1\0")
    start = bytes(128) + b"DICM" + meta + _element(0x00080060, b"CS", b"CT")
    assert scan(start + _element(0x00280010, b"US", b"\2\0")) is not None
    assert scan(start + b"".join(_element(*element) for element in elements)) is None


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damage_gives_what_pydicom_gives_or_nothing(data):
    """What is found in a damaged file is there: nothing else could be made of it."""
    damaged = bytearray(_DAMAGED)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(132, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    scanned = scan(bytes(damaged))
    if scanned is not None:
        assert sorted(scanned.places) == list(scanned.places)
        assert max(place.start + place.length for place in scanned.places.values()) == len(damaged)


_DAMAGED = _protected("SC_rgb_small_odd.dcm")

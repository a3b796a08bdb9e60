# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Names of restored files: tied to the format, harmless on every system, those of their sources where that may be."""

from __future__ import annotations

import os
from pathlib import PurePath, PureWindowsPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_miadmark import file_names
from monai_miadmark.file_names import MAX_NAME_BYTES, restored_name
from monai_miadmark.formats import CARRIERS

HONEST = [
    ("ct.dcm", "dicom"),
    ("IM000001", "dicom"),
    ("CT.1.2.840.113619", "dicom"),
    ("scan 12.IMA", "dicom"),
    ("T1w.nii", "nifti"),
    ("sub-01_T1w.nii.gz", "nifti"),
    ("Bild ü 1.PNG", "png"),
    ("名前.jpeg", "jpeg"),
    ("a.ome.tif", "tiff"),
    ("brain.mgz", "mgh"),
    ("con_0001.nii", "nifti"),
    ("x" * 251 + ".png", "png"),
]


@pytest.mark.parametrize(("name", "kind"), HONEST)
def test_names_of_images_stay(name: str, kind: str) -> None:
    assert restored_name(name, kind) == name


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("report.exe", "png", "report.exe.png"),
        ("run.sh", "dicom", "run.sh.dcm"),
        ("Makefile", "dicom", "Makefile.dcm"),
        (".bashrc", "png", "_.bashrc.png"),
        (".htaccess", "nifti", "_.htaccess.nii"),
        ("-rf", "png", "_-rf.png"),
        ("~", "nifti", "_~.nii"),
        (" a.png", "png", "_ a.png"),
        ("NUL", "dicom", "_NUL.dcm"),
        ("nul.png", "png", "_nul.png"),
        ("COM1", "dicom", "_COM1"),
        ("Lpt³.dcm", "dicom", "_Lpt³.dcm"),
        ("a.exe.", "png", "a.exe.png"),
        ("a.png. . ", "png", "a.png"),
        ("...", "png", "_.png"),
        ("a.nii.gz", "png", "a.nii.gz.png"),
        ("a.png", "nifti", "a.png.nii"),
        ("x" * 256, "png", "x" * 251 + ".png"),
        ("é" * 200 + ".dcm", "dicom", "é" * 125 + ".dcm"),
        ("x" * 250 + ".nii.gz", "nifti", "x" * 248 + ".nii.gz"),
    ],
)
def test_other_names_are_made_safe(name: str, kind: str, expected: str) -> None:
    assert restored_name(name, kind) == expected


def test_what_is_inside_gzip_says_so() -> None:
    assert restored_name("scan", "nifti", gzipped=True) == "scan.nii.gz"
    assert restored_name("scan", "mgh", gzipped=True) == "scan.mgz"


@pytest.mark.parametrize(
    "name", ["../a.png", "a/b.png", "C:a.png", "a\\b", "", ".", "\u202egnp.exe", "a\nb.png", "a.png.miadmark"]
)
def test_what_leads_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="refused"):
        restored_name(name, "png")


def test_on_windows_no_other_stream_and_no_wildcard(monkeypatch: pytest.MonkeyPatch) -> None:
    class Windows:
        name = "nt"
        fsencode = staticmethod(os.fsencode)

    monkeypatch.setattr(file_names, "os", Windows)
    assert restored_name("ab:evil.exe", "png") == "ab_evil.exe.png"
    assert restored_name('a?*<>"|.png', "png") == "a______.png"


@settings(deadline=None, max_examples=500)
@given(
    name=st.text(max_size=300) | st.text("./\\:-~ \u00b9CONaux.\u202e", max_size=12),
    kind=st.sampled_from([carrier.name for carrier in CARRIERS]),
    gzipped=st.booleans(),
)
def test_whatever_a_record_says(name: str, kind: str, gzipped: bool) -> None:
    try:
        made = restored_name(name, kind, gzipped)
    except ValueError:
        return
    assert PurePath(made).name == made == PureWindowsPath(made).name and made.isprintable()
    assert made[0] not in ".-~ " and made[-1] not in ". " and len(os.fsencode(made)) <= MAX_NAME_BYTES
    assert not PureWindowsPath(made).is_reserved()
    suffix = PurePath(made).suffix.lower()
    known = suffix in {ending for each in file_names._SUFFIXES[kind] for ending in (each, PurePath(each).suffix)}
    assert known or (kind == "dicom" and (not suffix or suffix[1:].isdigit()))

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Every image file in nibabel's wheel comes back byte for byte or is refused by name, as the page of formats says."""

from __future__ import annotations

import nibabel
import nibabel_corpus
import pytest


def test_the_page_says_what_becomes_of_every_file() -> None:
    if not (nibabel_corpus.ROOT / "tests" / "data").is_dir():
        pytest.skip("this nibabel was installed without its tests")
    found = nibabel_corpus.table()  # raises for a file that is neither restored nor refused by name
    # A file without any known mark must not be among them: each refusal says what was found.
    assert "not an image of a known format" not in found and "gzip of something else" not in found
    if f"nibabel {nibabel.__version__}," not in nibabel_corpus.written():
        pytest.skip(f"the page was written for another nibabel than {nibabel.__version__}")
    assert found == nibabel_corpus.written()


def test_dicom_files_of_the_wheel() -> None:
    results = {
        path.name: nibabel_corpus.verdict(path) for path in nibabel_corpus.image_files() if path.suffix == ".dcm"
    }
    if not results:
        pytest.skip("this nibabel was installed without its tests")
    assert results["0.dcm"].startswith("exact") and results["csa_slice_norm.dcm"].startswith("refused")

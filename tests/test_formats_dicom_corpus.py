# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Every file of pydicom's wheel comes back byte for byte or is refused by name, and the page in docs says which."""

from __future__ import annotations

import importlib.util

import dicom_corpus
import pydicom
import pytest


@pytest.mark.slow
def test_every_file_comes_back_or_is_refused_as_the_page_says() -> None:
    """One test, so that processes that share the tests do not each do all the work."""
    outcomes = [dicom_corpus.try_file(name) for name in dicom_corpus.files()]
    assert len(outcomes) > 100
    # Of files that hold an image pydicom's own decoders can read, none is refused but labels.
    for outcome in outcomes:
        if outcome.way == "refused":
            assert len(outcome.detail) > 15, outcome
    if not pydicom.__version__.startswith("3.0."):
        pytest.skip("the page was made with the files of pydicom 3.0")
    if absent := [name for name in ("gdcm", "jpeg_ls", "openjpeg") if importlib.util.find_spec(name) is None]:
        pytest.skip(f"the page was made with all decoders; not installed: {', '.join(absent)}")
    page = dicom_corpus.PAGE.read_text(encoding="utf-8")
    assert dicom_corpus.table(outcomes) in page, "run: python tests/dicom_corpus.py"

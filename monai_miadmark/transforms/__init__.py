# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""MIAD-MARK in MONAI pipelines: array and dictionary transforms, a reader for LoadImage, a writer for SaveImage."""

from __future__ import annotations

from monai_miadmark.transforms.dictionary import (
    ProtectWithMIADMarkD,
    ProtectWithMIADMarkd,
    ProtectWithMIADMarkDict,
    RemoveMIADMarkD,
    RemoveMIADMarkd,
    RemoveMIADMarkDict,
)
from monai_miadmark.transforms.io import MIADMarkReader, MIADMarkWriter
from monai_miadmark.transforms.marks import ProtectWithMIADMark, RemoveMIADMark
from monai_miadmark.transforms.metadata import LAYOUT_KEY, RECORD_KEY
from monai_miadmark.transforms.saving import LostRecordWarning, watch_saving

__all__ = [
    "LAYOUT_KEY",
    "RECORD_KEY",
    "LostRecordWarning",
    "MIADMarkReader",
    "MIADMarkWriter",
    "ProtectWithMIADMark",
    "ProtectWithMIADMarkD",
    "ProtectWithMIADMarkDict",
    "ProtectWithMIADMarkd",
    "RemoveMIADMark",
    "RemoveMIADMarkD",
    "RemoveMIADMarkDict",
    "RemoveMIADMarkd",
]

watch_saving()

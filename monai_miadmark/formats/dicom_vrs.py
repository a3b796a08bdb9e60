# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Constants of DICOM's encoding (PS3.5 7.1)."""

from __future__ import annotations

__all__ = ["EXPLICIT", "IMPLICIT", "LONG_VRS", "MAX_NESTING", "SHORT_VRS", "UNDEFINED_LENGTH"]

EXPLICIT = "1.2.840.10008.1.2.1"
IMPLICIT = "1.2.840.10008.1.2"

UNDEFINED_LENGTH = 0xFFFFFFFF

MAX_NESTING = 10
"""Sequences in sequences that are written again; functional groups take five."""

LONG_VRS = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
"""Value representations whose length takes four bytes."""

SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
"""Those whose length takes two."""

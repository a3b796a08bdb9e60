# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""All of a source file that is not its pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["CARRIED_FILE", "SourceShell"]

CARRIED_FILE = "file"
"""Name of the blob that holds the whole source file, where its bytes cannot be rebuilt from pixels (PNG, JPEG)."""


@dataclass(frozen=True, repr=False)
class SourceShell:
    """How a format rebuilds a source file from restored samples.

    Attributes:
        format: name of the carrier in ``formats`` that made it and reads it again.
        name: base name of the source file, so that the restored file gets it back.
        meta: JSON-able facts (byte order, offsets, ...).
        blobs: bytes by name (header before the samples, trailer after them, or :data:`CARRIED_FILE`).
    """

    format: str
    name: str
    meta: Mapping[str, Any] = field(default_factory=dict)
    blobs: Mapping[str, bytes] = field(default_factory=dict)

    def __repr__(self) -> str:
        # Header bytes of a medical image name a patient: they must not reach a log by way of repr().
        return f"SourceShell(format={self.format!r}, blobs={sorted(self.blobs)})"

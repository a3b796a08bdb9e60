# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""What the tests of the MONAI Deploy app know of their series and settings."""

from __future__ import annotations

from pathlib import Path

from monai_miadmark.apps.deploy.settings import IDENTITY_ENV, RECIPIENTS_ENV, RULES_ENV, SIGNER_ENV, VERB_ENV

SLICES = 5
"""Of the series, in two folders."""

VARIABLES = (IDENTITY_ENV, RECIPIENTS_ENV, RULES_ENV, SIGNER_ENV, VERB_ENV, "MIADMARK_REQUIRE_SIGNER")
"""Settings that must not come from the shell that runs the tests."""


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder, by their relative paths."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}

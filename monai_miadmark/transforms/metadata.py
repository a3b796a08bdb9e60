# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""What travels in the meta data of a protected MetaTensor."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from monai_miadmark.errors import NotProtectedError, TamperedError

__all__ = ["LAYOUT_KEY", "RECORD_KEY", "record_in"]

RECORD_KEY = "miadmark_record"
"""Where ``MetaTensor.meta`` keeps the sealed recovery record (bytes, which collate functions leave as they are)."""

LAYOUT_KEY = "miadmark_layout"
"""Where ``MetaTensor.meta`` keeps the layout that an image was protected in."""


def record_in(meta: Mapping[str, Any]) -> bytes:
    """The sealed record in meta data: bytes, or Base64 text, as LoadImage takes no bytes from a reader.

    Raises:
        NotProtectedError: there is none.
        TamperedError: there is something else.
    """
    record = meta.get(RECORD_KEY)
    if record is None:
        raise NotProtectedError(f"no recovery record: neither given nor in the meta data ({RECORD_KEY})")
    if isinstance(record, str):
        try:
            return base64.b64decode(record, validate=True)
        except ValueError as error:
            raise TamperedError(f"the meta data's {RECORD_KEY} is not Base64") from error
    if not isinstance(record, bytes):
        raise TamperedError(f"the meta data's {RECORD_KEY} is of type {type(record).__name__}, not bytes")
    return record

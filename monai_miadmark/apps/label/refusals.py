# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""What clients may not send: MONAI Label logs and stores parameters, so a key in them would be a key in a log."""

from __future__ import annotations

import json
import re
from typing import Any

__all__ = ["PRIVATE_KEY_MARK", "RESERVED", "check_params", "checked_params"]

PRIVATE_KEY_MARK = b"PRIVATE KEY-----"
"""What every PEM file of a private key has in its first line."""

RESERVED = frozenset({"file", "image", "image_id", "label", "model", "save_label", "session", "session_id"})
"""Names that MONAI Label would take from the parameters in place of the request's own; true values are refused."""

_MAX_BYTES = 1 << 18
_MAX_DEPTH = 32
_NAMES = re.compile(
    r"(?:.*[_-])?(?:keys?|pem|secrets?|passphrases?|passwords?|passwd|tokens?|identity|credentials?)", re.IGNORECASE
)
_HARMLESS_NAMES = frozenset({"key_id", "key_ids"})
# 32 bytes in base64 are 43 characters, in hexadecimal 64; UIDs have points, and sentences have blanks.
_KEY_LIKE = re.compile(r"[A-Za-z0-9+/_=-]{43,}")


def check_params(text: str) -> None:
    """Refuse parameters that look as if they held a key or a passphrase.

    Args:
        text: JSON.

    Raises:
        ValueError: they do, or are not JSON, too long or too deep. Nothing of them is quoted.
    """
    checked_params(text)


def checked_params(text: str) -> dict[str, Any]:
    """The parameters that :func:`check_params` has nothing against; raises as it does, and where they are no object."""
    if len(text) > _MAX_BYTES:
        raise ValueError(f"parameters are longer than {_MAX_BYTES} characters")
    try:
        params = json.loads(text or "{}")
    except (ValueError, RecursionError):
        raise ValueError("parameters are not JSON") from None
    if params is None:
        params = {}
    if not isinstance(params, dict):
        raise ValueError("parameters are not a JSON object")
    _check(params, 0)
    return params


def _check(value: Any, depth: int) -> None:
    """Look at all names and texts."""
    if depth > _MAX_DEPTH:
        raise ValueError("parameters are nested too deeply")
    if isinstance(value, dict):
        for name, held in value.items():
            if _NAMES.fullmatch(name) and name not in _HARMLESS_NAMES:
                raise ValueError("parameters name a key or a secret: keys stay on the server, send its key_id")
            _check(name, depth + 1)
            _check(held, depth + 1)
    elif isinstance(value, list):
        for held in value:
            _check(held, depth + 1)
    elif isinstance(value, str) and (PRIVATE_KEY_MARK.decode() in value or _KEY_LIKE.search(value)):
        raise ValueError("parameters hold something that looks like a key: keys stay on the server, send its key_id")

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""What a key file tells of itself without its passphrase, and whether others could read it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from monai_miadmark import keys
from monai_miadmark.keys import readable_by_others

__all__ = ["is_key_file", "key_facts", "readable_by_others", "weakness"]

_MIN_PASSPHRASE = 12
"""Characters. Argon2id and scrypt make a guess cost a tenth of a second, which shorter ones do not stand up to."""

_MIN_KINDS = 5
"""Different characters."""


def is_key_file(head: bytes) -> bool:
    """Whether a file that begins so is meant to hold keys."""
    return (b"-----BEGIN " in head and b"KEY-----" in head) or head.lstrip().startswith(b"-----BEGIN CERTIFICATE")


def key_facts(path: Path) -> dict[str, Any]:
    """Type, use, kind and id of the key in a file, for JSON.

    The id of an encrypted private key is not known (``None``) without its passphrase.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no key file of a kind that is supported.
    """
    if keys.holds_private_key(path):
        if keys.needs_passphrase(path):
            return _facts("private key", None, None, None, True)
        try:
            identity = keys.load_identity(path)
            return _facts("private key", "encryption", identity.kind, identity.key_id, False)
        except ValueError:
            with suppress(ValueError):
                signer = keys.load_signer(path)
                return _facts("private key", "signing", signer.kind, signer.key_id, False)
            raise
    try:
        recipient = keys.load_recipient(path)
        kind = "certificate" if isinstance(recipient, keys.CmsRecipient) else "public key"
        return _facts(kind, "encryption", recipient.kind, recipient.key_id, False)
    except ValueError:
        with suppress(ValueError):
            verifier = keys.load_verifier(path)
            return _facts("public key", "signing", verifier.kind, verifier.key_id, False)
        raise


def weakness(passphrase: str) -> str | None:
    """Why a passphrase would be found by guessing, or ``None`` where that does not show."""
    if len(passphrase) < _MIN_PASSPHRASE:
        return f"it has {len(passphrase)} characters; {_MIN_PASSPHRASE} or more, or five words, are hard to guess"
    if len(set(passphrase)) < _MIN_KINDS:
        return "it repeats a few characters"
    return None


def _facts(kind: str, use: str | None, algorithm: str | None, key_id: bytes | None, encrypted: bool) -> dict[str, Any]:
    """The facts in their order."""
    shown = None if key_id is None else key_id.hex()
    return {"type": kind, "use": use, "kind": algorithm, "key_id": shown, "encrypted": encrypted}

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Frozen envelopes, each with its declared outcome: what was sealed once must open, or be refused, for ever."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from vectors import make_vectors

from monai_miadmark.errors import NotProtectedError, SignatureError, TamperedError, WrongKeyError
from monai_miadmark.seal import inspect_envelope, open_envelope

VECTORS = sorted(path for path in make_vectors.HERE.glob("*.json") if path.name != "keys.json")
ERRORS = {
    "wrong key": WrongKeyError,
    "wrong signer": SignatureError,
    "header tampered": TamperedError,
    "record tampered": TamperedError,
    "pixels tampered": TamperedError,
    "truncated": TamperedError,
    "unknown version": TamperedError,
    "not protected": NotProtectedError,
}


def _load(path: Path) -> dict[str, Any]:
    vector: dict[str, Any] = json.loads(path.read_text(encoding="ascii"))
    return vector


def test_every_outcome_has_a_vector() -> None:
    assert {_load(path)["outcome"] for path in VECTORS} == set(make_vectors.OUTCOMES) == {"success", *ERRORS}


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_declared_outcome(path: Path) -> None:
    vector = _load(path)
    envelope = base64.b64decode(vector["envelope"])
    identities = [make_vectors.identity(name) for name in vector["identities"]]
    pixels = bytes.fromhex(vector["protected_pixels"])
    required = vector["require_signer"] and make_vectors.signer(vector["require_signer"]).verifier
    if vector["outcome"] == "success":
        opened = open_envelope(envelope, identities, pixels, required)
        assert opened.record.hex() == vector["record"]
        assert opened.signer == (vector["signer"] and make_vectors.signer(vector["signer"]).verifier)
        assert inspect_envelope(envelope).protected_pixels == vector["protected_pixels"]
    else:
        error = ERRORS[vector["outcome"]]
        with pytest.raises(error) as raised:
            open_envelope(envelope, identities, pixels, required)
        assert raised.type is error
        assert vector["message"] in str(raised.value)


@pytest.mark.parametrize(
    ("name", "recipients", "signer"),
    [
        ("v2_success_x25519", ["alice"], None),
        ("v2_success_passphrase", ["passphrase"], None),
        ("v2_success_signed_ed25519", ["alice"], "custodian"),
    ],
)
def test_sealing_gives_the_frozen_bytes(name: str, recipients: list[str], signer: str | None) -> None:
    """Where all randomness can be given, writing is frozen too, not only reading."""
    frozen = base64.b64decode(_load(make_vectors.HERE / f"{name}.json")["envelope"])
    assert make_vectors.seal_fixed(*recipients, signed_by=signer) == frozen

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Fixtures that several test modules share."""

from __future__ import annotations

from pathlib import Path

import pytest

from monai_miadmark.keys import generate_identity, generate_signer, save_key_pair


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with alice.key/.pub, bob.key/.pub and custodian.key/.pub."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("alice", "bob"):
        save_key_pair(generate_identity("x25519"), folder / name)
    save_key_pair(generate_signer("ed25519"), folder / "custodian")
    return folder

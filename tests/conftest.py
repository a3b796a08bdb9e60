# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Fixtures that several test modules share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from monai_miadmark.keys import generate_identity, generate_signer, save_key_pair

# With PyTorch 2.13.0, training networks as tiny as those of the tests ends in aborts and segmentation faults on
# processors that have AVX2 and no AVX-512. The kernels that oneDNN has for the generation before do not; it reads this
# when it is first used. Networks of a usual width have been trained on such processors as they are.
_CPU = Path("/proc/cpuinfo")
if _CPU.is_file() and "avx512" not in _CPU.read_text():
    os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX")


@pytest.fixture(scope="session", autouse=True)
def _state_of_the_owner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests, and the processes that they start, leave nothing in the home of whoever runs them."""
    before = os.environ.get("XDG_STATE_HOME")
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))
    yield
    if before is None:
        del os.environ["XDG_STATE_HOME"]
    else:
        os.environ["XDG_STATE_HOME"] = before


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with alice.key/.pub, bob.key/.pub and custodian.key/.pub."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("alice", "bob"):
        save_key_pair(generate_identity("x25519"), folder / name)
    save_key_pair(generate_signer("ed25519"), folder / "custodian")
    return folder

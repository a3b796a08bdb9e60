# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Key files are as docs/format.md describes them."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest
from doc_blocks import ROOT

from monai_miadmark.keys import HPKE_KINDS, SIGNATURE_KINDS, generate_identity, generate_signer, save_key_pair

ROWS = {
    kind: [[int(number) for number in cell.split(", ")] for cell in cells]
    for kind, *cells in re.findall(
        r"^\| `(\w+)` \| [^|]+ \| ([\d, ]+) \| ([\d, ]+) \|", (ROOT / "docs" / "format.md").read_text(), re.MULTILINE
    )
}


def _blocks(path: Path) -> list[tuple[str, bytes]]:
    """Labels and DER of the PEM blocks of a file."""
    found = re.findall(r"-----BEGIN ([A-Z ]+)-----\n(.*?)-----END \1-----\n", path.read_text("ascii"), re.DOTALL)
    return [(label, base64.b64decode(body)) for label, body in found]


@pytest.mark.parametrize("kind", [*HPKE_KINDS, *SIGNATURE_KINDS])
def test_sizes_and_parts(kind: str, tmp_path: Path) -> None:
    assert set(ROWS) == {*HPKE_KINDS, *SIGNATURE_KINDS}
    key = generate_signer(kind) if kind in SIGNATURE_KINDS else generate_identity(kind)
    private, public = (_blocks(path) for path in save_key_pair(key, tmp_path / "key"))
    assert {label for label, _ in public} == {"PUBLIC KEY"} and {label for label, _ in private} == {"PRIVATE KEY"}
    assert [[len(der) for _, der in blocks] for blocks in (public, private)] == ROWS[kind]


def test_encrypted_files(tmp_path: Path) -> None:
    private, _ = save_key_pair(generate_identity("hybrid"), tmp_path / "key", "a long sentence")
    pbes2, scrypt = bytes.fromhex("06092a864886f70d01050d"), bytes.fromhex("06092b06010401da47040b")
    cost = bytes.fromhex("02024000 020108 020105")  # N, r and p
    for label, der in _blocks(private):
        assert label == "ENCRYPTED PRIVATE KEY" and all(part in der for part in (pbes2, scrypt, cost))

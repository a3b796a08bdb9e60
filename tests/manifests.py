# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Manifests as tests change them: with MACs that fit, as only their owner can make them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from monai_miadmark.manifest import authentic_line, manifest_key


def written(lines: Iterable[dict[str, Any]]) -> bytes:
    """Lines with the MACs of their owner."""
    parts, mac = [], bytes(32)
    for line in lines:
        content = {name: value for name, value in line.items() if name != "mac"}
        part, mac = authentic_line(content, manifest_key(), bytes(32) if line.get("kind") == "run" else mac)
        parts.append(part)
    return b"".join(parts)


def rewrite(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Replace a manifest."""
    path.write_bytes(written(lines))


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a manifest."""
    return [json.loads(line) for line in path.read_bytes().splitlines()]

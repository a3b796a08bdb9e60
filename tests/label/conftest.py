# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests of the MONAI Label app. They need the environment of ``make test-label``."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest
from label_server import Realm, Server, start

# The default environment has no MONAI Label: nothing is collected there.
collect_ignore_glob = ["test_*.py"] if importlib.util.find_spec("monailabel") is None else []


@pytest.fixture(scope="session")
def realm() -> Iterator[Realm]:
    made = Realm()
    yield made
    made.close()


@pytest.fixture(scope="session")
def server(realm: Realm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests that need no other; each takes image ids of its own."""
    made = start(tmp_path_factory.mktemp("server"), realm)
    yield made
    if made.process.poll() is None:
        made.stop()

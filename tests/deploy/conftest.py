# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The tests of the MONAI Deploy app need the environment of ``make test-deploy``."""

from __future__ import annotations

import importlib.util

# The default environment has no MONAI Deploy App SDK: nothing is collected there.
collect_ignore_glob = ["test_*.py"] if importlib.util.find_spec("holoscan") is None else []

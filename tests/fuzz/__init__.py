# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Damaged and hostile bytes for everything that reads bytes from outside: ``make fuzz``, and in part the tests."""

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""MIAD-MARK for MONAI: removable adversarial watermarks for medical images."""

__version__ = "0.1.0"

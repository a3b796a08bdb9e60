# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Integrations: the same engine inside tools that hospitals have. Nothing below knows of them."""

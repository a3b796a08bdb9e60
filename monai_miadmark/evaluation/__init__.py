# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""How far marks mislead diagnostic models, what they cost in image quality, and what removers win back."""

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""MONAI Label app: a datastore of protected images, restored for those who may see them. See docs/monai-label.md."""

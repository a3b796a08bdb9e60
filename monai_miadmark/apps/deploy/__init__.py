# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""MONAI Deploy operators and app: DICOM restored, or protected, at the edge of a pipeline. See docs/monai-deploy.md."""

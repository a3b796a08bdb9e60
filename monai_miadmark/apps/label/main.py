# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""What ``monailabel start_server --app FOLDER`` looks for in FOLDER: a class whose base is MONAILabelApp."""

from monai_miadmark.apps.label.app import LabelApp

__all__ = ["LabelApp"]

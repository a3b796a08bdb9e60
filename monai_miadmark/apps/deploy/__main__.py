# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""``python -m monai_miadmark.apps.deploy`` is the MONAI Deploy app."""

import sys

from monai_miadmark.apps.deploy.app import main

if __name__ == "__main__":
    sys.exit(main())

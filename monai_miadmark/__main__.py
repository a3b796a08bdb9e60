# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""``python -m monai_miadmark`` is the command ``miadmark``."""

import sys

from monai_miadmark.entry import forget_current_folder, main

if __name__ == "__main__":
    forget_current_folder()
    sys.exit(main())

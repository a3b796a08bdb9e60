# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""``python -m monai_miadmark`` is the command ``miadmark``."""

import sys

from monai_miadmark.children import forget_current_folder

forget_current_folder()

from monai_miadmark.entry import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""pydicom's decoders, which are new in pydicom 3; with pydicom 2.4, which MONAI Label 0.8.5 needs, nothing is decoded.

Samples that lie in the file as they are shown need no decoder, and restoring needs none for any file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["convert_color_space", "get_decoder"]

if TYPE_CHECKING:
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.pixels.processing import convert_color_space
else:
    try:
        from pydicom.pixels.decoders.base import get_decoder
        from pydicom.pixels.processing import convert_color_space
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("pydicom.pixels"):
            raise

        def get_decoder(uid: Any) -> Any:
            """As pydicom 3 says that it has no decoder for a transfer syntax."""
            raise NotImplementedError("pydicom 2 has no decoders")

        def convert_color_space(*arguments: Any, **options: Any) -> Any:
            """Never reached: nothing was decoded."""
            raise NotImplementedError("pydicom 2 has no decoders")

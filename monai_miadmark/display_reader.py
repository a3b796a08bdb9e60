# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""A reader for ``LoadImage`` that gives images as a display shows them, whatever their format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from monai.config import PathLike
from monai.data import PILReader
from monai.utils import ensure_tuple
from PIL import Image, UnidentifiedImageError

from monai_miadmark.formats import carrier_for

__all__ = ["DisplayReader"]

_GRAY = ("1", "L", "LA")
_EIGHT_BITS = (*_GRAY, "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")


class DisplayReader(PILReader):
    """Reads what networks of displayed images are trained on: 8 bits, gray or color.

    Pictures of 8 bits are read as Pillow reads them. All else (DICOM, NIfTI, MGH, NRRD, MetaImage, pictures of more
    bits) is shown in the display window in which protection sees it; of a volume the slice in the middle is taken.

    Args:
        mode: ``RGB`` or ``L``; ``None``: as the image is.
    """

    def __init__(self, mode: Literal["RGB", "L"] | None = None) -> None:
        super().__init__()
        self.mode = mode

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> Any:
        """Pillow's images.

        Raises:
            UnsupportedImageError: a format that is not read, or a file that is protected.
            OSError: a file cannot be read.
        """
        pictures = [self._picture(Path(name)) for name in ensure_tuple(data)]
        return pictures if len(pictures) > 1 else pictures[0]

    def _picture(self, path: Path) -> Image.Image:
        picture: Image.Image
        try:
            picture = Image.open(path)
            if picture.mode not in _EIGHT_BITS:
                picture = _shown(path)
        except UnidentifiedImageError:
            picture = _shown(path)
        mode = self.mode or ("L" if picture.mode in _GRAY else "RGB")
        converted = picture.convert(mode)
        converted.format = picture.format
        return converted


def _shown(path: Path) -> Image.Image:
    """The slice in the middle of a file as a display shows it."""
    data = path.read_bytes()
    image = carrier_for(data, path.name).open_source(data, path.name).image
    plane = np.rint(image.shown(len(image.values) // 2) * 255).astype(np.uint8)
    if plane.shape[2] != 3:
        return Image.fromarray(np.rint(plane.mean(axis=2)).astype(np.uint8))
    return Image.fromarray(plane)

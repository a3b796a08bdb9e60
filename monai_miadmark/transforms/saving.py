# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""A word where a protected image is saved without its record: nobody could ever restore it."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

from monai.data import MetaTensor
from monai.transforms import SaveImage

from monai_miadmark.transforms.io import MIADMarkWriter
from monai_miadmark.transforms.metadata import RECORD_KEY

__all__ = ["LostRecordWarning", "watch_saving"]


class LostRecordWarning(UserWarning):
    """A protected image was saved by a writer that does not keep its record."""


def watch_saving() -> None:
    """Have :class:`monai.transforms.SaveImage`, and so ``SaveImaged``, warn of what its writers cannot know.

    MONAI has no place for this: its writers look at the affine and at nothing else of the meta data. What is saved, and
    how, stays as it is.
    """
    if not hasattr(SaveImage.__call__, "__wrapped__"):
        SaveImage.__call__ = _watched(SaveImage.__call__)


def _watched(call: Callable[..., Any]) -> Callable[..., Any]:
    """``SaveImage.__call__`` with an eye on the meta data."""

    @functools.wraps(call)
    def watched(self: SaveImage, img: Any, meta_data: dict | None = None, *args: Any, **kwargs: Any) -> Any:
        meta = img.meta if isinstance(img, MetaTensor) else meta_data or {}
        keeps = all(isinstance(writer, type) and issubclass(writer, MIADMarkWriter) for writer in self.writers)
        if RECORD_KEY in meta and not keeps:
            warnings.warn(
                "a protected image is saved without its recovery record, and cannot be restored from that file: use "
                "SaveImage(writer=MIADMarkWriter)",
                LostRecordWarning,
                stacklevel=2,
            )
        return call(self, img, meta_data, *args, **kwargs)

    return watched

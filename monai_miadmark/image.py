# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Images as the numbers that their files store."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monai_miadmark.errors import UnsupportedImageError

__all__ = [
    "STORED_DTYPES",
    "Bounds",
    "Origin",
    "StoredImage",
    "Window",
    "displayed",
    "percentile_window",
    "pixel_digest",
]

STORED_DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32")
"""The sample types that are restored exactly, all in native byte order."""

MAX_CHANNELS = 4


class Bounds(NamedTuple):
    """Smallest and largest stored value that a protected sample may take (inclusive)."""

    low: float
    high: float


@dataclass(frozen=True)
class Window:
    """The display window, in stored units: what eyes and networks see as black and white.

    Attributes:
        low: stored value shown as black (white if ``inverted``).
        high: stored value shown as white; greater than ``low``.
        inverted: ``True`` where small values are bright (DICOM MONOCHROME1).
    """

    low: float
    high: float
    inverted: bool = False

    def __post_init__(self) -> None:
        if not (np.isfinite(self.low) and np.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"a window needs finite low < high, not {self.low} and {self.high}")

    @property
    def width(self) -> float:
        """Stored units from black to white."""
        return self.high - self.low


class Origin(NamedTuple):
    """What a file says about where its image comes from, in terms that DICOM defines; empty where it says nothing.

    Attributes:
        modality: ``MR``, ``CT``, ``OP``, ... (Modality).
        body_part: ``HEAD``, ``KNEE``, ... (Body Part Examined).
    """

    modality: str = ""
    body_part: str = ""


_UNKNOWN = Origin()


@dataclass(frozen=True)
class StoredImage:
    """Values exactly as stored (before rescale slope, before windowing), and what is needed to treat them well.

    Attributes:
        values: ``(N, H, W, C)``: N slices or frames, 1 to 4 channels; a type of :data:`STORED_DTYPES`; never
            written to.
        bounds: limits of protected samples (from Bits Stored, or the range of the data for float32).
        window: the display window in stored units; or, where channels or groups of slices (time points, contrasts)
            have ranges of their own, a window for each channel of the first group of slices, then for each channel of
            the second, and so on. Groups are runs of slices of equal length. Windows that are all alike become one.
        padding: inclusive range of stored values that mark "no pixel here" (DICOM Pixel Padding Value): such samples
            stay, and no other sample is moved there.
        origin: what the file says about where the image comes from.
    """

    values: NDArray[Any]
    bounds: Bounds
    window: Window | tuple[Window, ...]
    padding: tuple[int, int] | None = None
    origin: Origin = _UNKNOWN

    def __post_init__(self) -> None:
        if self.values.ndim != 4 or not 1 <= self.values.shape[3] <= MAX_CHANNELS or 0 in self.values.shape:
            raise UnsupportedImageError(f"expected non-empty (N, H, W, 1 to 4) samples, found {self.values.shape}")
        if self.values.dtype.name not in STORED_DTYPES or not self.values.dtype.isnative:
            raise UnsupportedImageError(f"samples of type {self.values.dtype} are not supported")
        if not self.bounds.low <= self.bounds.high:
            raise ValueError(f"empty bounds {self.bounds}")
        if isinstance(self.window, tuple):
            object.__setattr__(self, "window", _fewest(self.window, len(self.values), self.values.shape[3]))

    @property
    def windows(self) -> tuple[Window, ...]:
        """A window for each channel of each group of slices; a single one where one serves all."""
        return self.window if isinstance(self.window, tuple) else (self.window,)

    @property
    def inverted(self) -> bool:
        """Whether small values are bright; it is the same for all windows."""
        return self.windows[0].inverted

    @property
    def contrasts(self) -> bool:
        """Whether channels are images of their own, not colors: two or four, or three with different windows."""
        channels = self.values.shape[3]
        return channels in (2, 4) or any(
            len(set(self.windows[first : first + channels])) > 1 for first in range(0, len(self.windows), channels)
        )

    def windows_of(self, index: int) -> tuple[Window, ...]:
        """The windows of the channels of a slice, C of them."""
        channels = int(self.values.shape[3])
        if isinstance(self.window, Window):
            return (self.window,) * channels
        groups = len(self.window) // channels
        first = index * groups // len(self.values) * channels
        return self.window[first : first + channels]

    def shown(self, index: int) -> NDArray[np.float32]:
        """A slice as a display shows it, ``(H, W, C)`` float32 in [0, 1], bright = 1; see :func:`displayed`."""
        window = self.window if isinstance(self.window, Window) else self.windows_of(index)
        return displayed(self.values[index], window, self.padding)

    def part(self, slices: Sequence[int]) -> StoredImage:
        """Some of the slices, each with the windows that it has here."""
        window = self.window
        if isinstance(window, tuple):
            window = tuple(each for index in slices for each in self.windows_of(index))
        return replace(self, values=self.values[list(slices)], window=window)

    def with_values(self, values: NDArray[Any]) -> StoredImage:
        """Other samples ``(N, H, W, C)``, e.g. protected ones, to be shown as these are."""
        return replace(self, values=values)


def _fewest(windows: tuple[Window, ...], slices: int, channels: int) -> Window | tuple[Window, ...]:
    """Windows without those that only repeat others: one for all, or those of one group where groups are alike.

    Raises:
        ValueError: not as many as channels of equal groups of slices, or some of them inverted.
    """
    groups = len(windows) // channels
    if not groups or len(windows) % channels or slices % groups:
        raise ValueError(f"{len(windows)} windows do not fit {slices} slices of {channels} channels")
    if len({window.inverted for window in windows}) > 1:
        raise ValueError("some of the windows are inverted, others are not")
    if len(set(windows)) == 1:
        return windows[0]
    first = windows[:channels]
    return first if windows == first * groups else windows


def pixel_digest(values: NDArray[Any]) -> bytes:
    """SHA-256 over shape, type and little-endian samples of ``(N, H, W, C)`` values, 32 bytes."""
    digest = hashlib.sha256(b"miadmark pixels 1\0")
    digest.update(values.dtype.name.encode() + b"\0" + struct.pack("<4Q", *values.shape))
    digest.update(np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<")).data)
    return digest.digest()


def displayed(
    values: NDArray[Any], window: Window | Sequence[Window], padding: tuple[int, int] | None = None
) -> NDArray[np.float32]:
    """Samples as a display shows them: float32 in [0, 1], bright = 1, of the shape of ``values``.

    Padding and samples that are not finite are black.

    Args:
        values: the samples, of any shape.
        window: the display window; or one for each channel of ``(..., C)`` samples.
        padding: as of :class:`StoredImage`.
    """
    if not isinstance(window, Window):
        return np.stack([displayed(values[..., c], each, padding) for c, each in enumerate(window)], axis=-1)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        shown = np.clip((values.astype(np.float32) - np.float32(window.low)) / np.float32(window.width), 0, 1)
    if window.inverted:
        shown = 1 - shown
    # Infinities would pass for black or white, and a window wider than float32 can tell gives NaN.
    shown[~(np.isfinite(values) & np.isfinite(shown))] = 0
    if padding is not None:
        shown[(values >= padding[0]) & (values <= padding[1])] = 0
    result: NDArray[np.float32] = shown.astype(np.float32, copy=False)
    return result


def percentile_window(values: NDArray[Any], inverted: bool = False) -> Window:
    """Window from the 0.5th to the 99.5th percentile of the finite samples; never empty."""
    with np.errstate(invalid="ignore"):  # signalling NaN
        sample = values.reshape(-1)[:: max(1, values.size // 1_000_000)].astype(np.float64)
    sample = sample[np.isfinite(sample)]
    low, high = (float(v) for v in np.percentile(sample, (0.5, 99.5))) if sample.size else (0.0, 1.0)
    if not low < high:  # constant image, or nearly so: fall back to the whole range, then to one unit
        low, high = (float(sample.min()), float(sample.max())) if sample.size else (0.0, 1.0)
    return Window(low, high, inverted) if low < high else Window(low, low + max(1.0, abs(low) * 2.0**-20), inverted)

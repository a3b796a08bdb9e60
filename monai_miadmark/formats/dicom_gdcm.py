# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""JPEG lossless and 12-bit JPEG frames, decoded by GDCM in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_miadmark.children import child_environment
from monai_miadmark.formats.dicom_pixels import PixelDescription

__all__ = ["decode_frames", "installed"]

_WORKER = Path(__file__).with_name("gdcm_worker.py")
_SECONDS = 60
_SECONDS_PER_MIB = 1


def installed() -> bool:
    """Whether there is a GDCM."""
    return _folder() is not None


def _folder() -> Path | None:
    """Where GDCM is."""
    found = importlib.util.find_spec("gdcm")
    return None if found is None or found.origin is None else Path(found.origin).parent


def decode_frames(frames: Sequence[bytes], description: PixelDescription, syntax: str) -> NDArray[Any]:
    """Decode JPEG code streams whose heads were checked.

    Args:
        frames: code streams, one for each frame.
        description: what they hold.
        syntax: transfer syntax UID.

    Returns:
        ``(N, H, W, C)`` in the color space of the stream, bits above Bits Stored filled by zero or by the sign.

    Raises:
        ValueError: GDCM could not decode them, or did not end.
    """
    _, rows, columns, samples = description.shape
    head = {
        "frames": len(frames),
        "frame_bytes": description.nbytes // description.shape[0],
        "rows": rows,
        "columns": columns,
        "samples": samples,
        "allocated": description.allocated,
        "stored": description.stored,
        "signed": int(description.signed),
        "photometric": description.photometric,
        "syntax": syntax,
    }
    message = [json.dumps(head).encode() + b"\n"]
    for frame in frames:
        message += [struct.pack("<Q", len(frame)), frame]
    try:
        # -I: neither the current folder nor the environment decides what is imported, hence the folder as argument.
        done = subprocess.run(
            [sys.executable, "-I", str(_WORKER), str(_folder())],
            input=b"".join(message),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_SECONDS + _SECONDS_PER_MIB * (description.nbytes >> 20),
            check=True,
            env=child_environment(),
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ValueError("GDCM did not decode the frames") from error
    values = np.frombuffer(done.stdout, np.dtype(description.dtype).newbyteorder("=")).reshape(description.shape)
    shift = description.allocated - description.stored
    result: NDArray[Any] = (values << shift) >> shift
    return result

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""A process of its own for GDCM, which calls ``abort()`` on some damaged JPEG streams: run by :mod:`.dicom_gdcm`.

Argument: the folder of GDCM. Standard input: one line of JSON with the attributes of
:func:`~.dicom_gdcm.decode_frames`, then for each frame its length (8 bytes, little-endian) and its bytes. Standard
output: the samples of all frames. Any failure: exit status other than 0.
"""

from __future__ import annotations

import importlib
import json
import struct
import sys
from typing import Any


def main() -> None:
    """Decode what comes in."""
    sys.path.append(sys.argv[1])
    gdcm: Any = importlib.import_module("gdcm")
    head = json.loads(sys.stdin.buffer.readline())
    for _ in range(head["frames"]):
        (length,) = struct.unpack("<Q", sys.stdin.buffer.read(8))
        samples = _decode(gdcm, head, sys.stdin.buffer.read(length))
        if len(samples) != head["frame_bytes"]:
            sys.exit(1)
        sys.stdout.buffer.write(samples)


def _decode(gdcm: Any, head: dict[str, Any], frame: bytes) -> bytes:
    """Samples of one frame, channels interleaved."""
    fragment, fragments = gdcm.Fragment(), gdcm.SequenceOfFragments.New()
    fragment.SetByteStringValue(frame)
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((head["columns"], head["rows"], 1))
    image.SetDataElement(element)
    kind = gdcm.PhotometricInterpretation.GetPIType(head["photometric"])
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(kind))
    if head["samples"] > 1:
        image.SetPlanarConfiguration(0)
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(head["syntax"])))
    stored = head["stored"]
    image.SetPixelFormat(gdcm.PixelFormat(head["samples"], head["allocated"], stored, stored - 1, head["signed"]))
    # GDCM's bytes come as str; None, which has no encode, says that it could not decode.
    samples: bytes = image.GetBuffer().encode("utf-8", "surrogateescape")
    return samples


if __name__ == "__main__":
    main()

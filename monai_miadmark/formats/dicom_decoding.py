# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Samples of DICOM pixel data that do not lie in the file as they are shown: compressed, subsampled, YBR, palette.

Decoders are those that pydicom finds. What they make of a lossy stream may differ by a level between libraries: that is
of no matter, since the recovery record carries the source file and nothing is ever encoded again.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.encaps import encapsulate
from pydicom.uid import UID

from monai_miadmark.errors import UnsupportedImageError, check_memory
from monai_miadmark.formats import dicom_gdcm
from monai_miadmark.formats.dicom_codestreams import StreamHead, jpeg2000_head, jpeg_head
from monai_miadmark.formats.dicom_fragments import frame_spans
from monai_miadmark.formats.dicom_palette import apply_palette
from monai_miadmark.formats.dicom_pixels import PixelDescription
from monai_miadmark.formats.dicom_plugins import convert_color_space, get_decoder
from monai_miadmark.formats.dicom_reading import BIG_ENDIAN, DEFLATED, NATIVE, Source, raw_element
from monai_miadmark.formats.limits import check_decoded

__all__ = ["PIXEL_DATA", "TRANSFER_SYNTAXES", "Decoded", "decode", "decoder_name", "lossy_method"]

PIXEL_DATA = 0x7FE00010

_RLE = "1.2.840.10008.1.2.5"
_JPEG_12_BIT = "1.2.840.10008.1.2.4.51"
_JPEG_LOSSLESS = ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
_GDCM = "GDCM process"
_JPEG_2000 = "1.2.840.10008.1.2.4.91"
_HTJ2K = "1.2.840.10008.1.2.4.203"
_JPEG = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70, 80, 81))
_JPEG2000 = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (90, 91, 201, 202, 203))

# Module that decodes a transfer syntax best, and the package that brings it. RLE and native need none; JPEG baseline
# only Pillow, which is always there. GDCM rather than pylibjpeg-libjpeg, which is under the GPL.
_PACKAGES: dict[str, tuple[str, str]] = {
    _JPEG_12_BIT: ("gdcm", "python-gdcm"),
    "1.2.840.10008.1.2.4.57": ("gdcm", "python-gdcm"),
    "1.2.840.10008.1.2.4.70": ("gdcm", "python-gdcm"),
    "1.2.840.10008.1.2.4.80": ("jpeg_ls", "pyjpegls"),
    "1.2.840.10008.1.2.4.81": ("jpeg_ls", "pyjpegls"),
    **{syntax: ("openjpeg", "pylibjpeg and pylibjpeg-openjpeg") for syntax in sorted(_JPEG2000)},
}

# Which of pydicom's plugins decode what, the first that is installed. Left out on purpose: GDCM, which aborts the whole
# process on some damaged data and is asked in one of its own, and pylibjpeg-rle, whose panics are no Exceptions.
_PLUGINS: dict[str, tuple[str, ...]] = {
    _RLE: ("pydicom",),
    "1.2.840.10008.1.2.4.50": ("pillow", "pylibjpeg"),
    _JPEG_12_BIT: ("pillow", "pylibjpeg"),
    "1.2.840.10008.1.2.4.57": ("pylibjpeg",),
    "1.2.840.10008.1.2.4.70": ("pylibjpeg",),
    "1.2.840.10008.1.2.4.80": ("pyjpegls", "pylibjpeg"),
    "1.2.840.10008.1.2.4.81": ("pyjpegls", "pylibjpeg"),
    **dict.fromkeys(sorted(_JPEG2000), ("pylibjpeg", "pillow")),
}

# Defined Terms of Lossy Image Compression Method (PS3.3 C.7.6.1.1.5.1).
_METHODS = {
    "1.2.840.10008.1.2.4.50": "ISO_10918_1",
    _JPEG_12_BIT: "ISO_10918_1",
    "1.2.840.10008.1.2.4.81": "ISO_14495_1",
    _JPEG_2000: "ISO_15444_1",
    _HTJ2K: "ISO_15444_15",
}

# What a compressed stream may hold at most. Small images are decoded whatever their streams look like; beyond that
# RLE has a hard limit (2 bytes for 128), and the others one that no image with content comes near.
_FREE_BYTES = 1 << 26
_RATIO_RLE = 64
_RATIO = 4096

_SHOWN = {"MONOCHROME1": 1, "MONOCHROME2": 1, "RGB": 3}


TRANSFER_SYNTAXES: tuple[tuple[str, int], ...] = tuple(
    (syntax, bits)
    for syntax in (*sorted(NATIVE), DEFLATED, *_PLUGINS)
    for bits in ((8, 12) if syntax == _JPEG_12_BIT else (8,))
)
"""All that can be opened, if their decoders are installed: UID, and Bits Stored where the decoder depends on it."""


@dataclass(frozen=True)
class Decoded:
    """Samples as they are shown.

    Attributes:
        values: ``(N, H, W, C)`` in native byte order; three channels are RGB.
        photometric: MONOCHROME1, MONOCHROME2 or RGB.
        bits_stored: significant bits of a sample.
    """

    values: NDArray[Any]
    photometric: str
    bits_stored: int


def decode(source: Source, description: PixelDescription) -> Decoded:
    """Decode all frames.

    Args:
        source: the file.
        description: what it says of its samples.

    Raises:
        UnsupportedImageError: a kind that is not supported, damaged data, or a decoder that is not installed; by name.
    """
    native = source.syntax in NATIVE
    plugin = _plugin(source.syntax, description)
    found = raw_element(source.data_set, PIXEL_DATA)
    if found is None:
        raise UnsupportedImageError("DICOM object without pixel data")
    frames = [found[0]] if native else list(_frames(source, description, found[0]))
    n, height, width, samples = description.shape
    options: dict[str, Any] = {
        "rows": height,
        "columns": width,
        "number_of_frames": n if native else 1,
        "samples_per_pixel": samples,
        "photometric_interpretation": description.photometric,
        "bits_allocated": description.allocated,
        "bits_stored": description.stored,
        "pixel_representation": int(description.signed),
        "pixel_keyword": "PixelData",
        "planar_configuration": int(description.planar),
        "allow_excess_frames": False,
    }
    if source.syntax == BIG_ENDIAN:
        start = found[2]
        options["pixel_vr"] = source.body[start - 8 : start - 6].decode("ascii", "replace")
    shape = (n if native else 1, height, width, samples)
    values: NDArray[Any] = np.empty(description.shape, description.dtype)
    shown = set()
    try:
        if plugin == _GDCM:
            values, photometric = _by_gdcm(frames, description, source.syntax)
            shown.add(photometric)
            frames = []
        decoder = get_decoder(UID(source.syntax))
        for index, frame in enumerate(frames):
            decoded, meta = decoder.as_array(
                frame if native else encapsulate([frame], has_bot=False),
                index=None,
                raw=False,
                decoding_plugin=plugin,
                **options,
            )
            place = values if native else values[index : index + 1]
            place[...] = decoded.reshape(shape)
            shown.add(str(meta["photometric_interpretation"]))
    except Exception as error:  # decoders raise nearly anything, with words that nobody here chose
        check_memory(error)
        raise _failure(source.syntax) from error
    (photometric, *others) = sorted(shown)
    if others:
        raise UnsupportedImageError("DICOM with frames of different color spaces is not supported")
    if photometric == "PALETTE COLOR":
        return Decoded(apply_palette(values, source.data_set, source.syntax == BIG_ENDIAN), "RGB", 8)
    if _SHOWN.get(photometric) != samples:
        raise UnsupportedImageError(f"{description.photometric} DICOM is not supported in this transfer syntax")
    return Decoded(values, photometric, description.stored)


def lossy_method(source: Source, description: PixelDescription) -> tuple[str, float] | None:
    """Defined Term and compression ratio if the pixel data are lossy compressed now; ``None`` if they are not."""
    method = _METHODS.get(source.syntax)
    found = raw_element(source.data_set, PIXEL_DATA)
    if method is None or found is None:
        return None
    frames = list(_frames(source, description, found[0]))
    # These two transfer syntaxes are for both kinds. A reversible transform may have been cut short and so lost
    # something: then the source's word counts, and where it says nothing, the safe side.
    denied = source.data_set.get("LossyImageCompression", None) == "00"
    if source.syntax in (_JPEG_2000, _HTJ2K) and denied and all(jpeg2000_head(frame).reversible for frame in frames):
        return None
    return method, description.nbytes / max(1, sum(map(len, frames)))


def decoder_name(syntax: str, stored: int = 8) -> str:
    """Who decodes a transfer syntax in this installation: a plugin of pydicom or our GDCM process; empty for none.

    Args:
        syntax: transfer syntax UID.
        stored: Bits Stored.

    Raises:
        UnsupportedImageError: nobody does; where a package is missing, the message names it.
    """
    if syntax == DEFLATED:  # inflated when the file is read, native from then on
        return ""
    allocated = 8 if stored <= 8 else 16
    return _plugin(syntax, PixelDescription((1, 1, 1, 1), f"uint{allocated}", "MONOCHROME2", allocated, stored, False))


def _plugin(syntax: str, description: PixelDescription) -> str:
    """Which plugin is to decode a transfer syntax: one of pydicom's, none for native ones, or our GDCM process."""
    name = UID(syntax).name[:64]
    if syntax not in _PLUGINS and syntax not in NATIVE:
        raise UnsupportedImageError(f"DICOM in {name} is not supported")
    try:
        decoder = get_decoder(UID(syntax))
    except NotImplementedError as error:  # an older pydicom
        raise UnsupportedImageError(f"this version of pydicom does not decode pixel data in {name}") from error
    if syntax in NATIVE:
        return ""
    available = decoder.available_plugins
    wide = syntax == _JPEG_12_BIT and description.stored > 8
    for plugin in _PLUGINS[syntax]:
        if plugin in available and not (wide and plugin == "pillow"):
            return plugin
    if (wide or syntax in _JPEG_LOSSLESS) and dicom_gdcm.installed():
        return _GDCM
    raise _failure(syntax)


def _by_gdcm(frames: list[bytes], description: PixelDescription, syntax: str) -> tuple[NDArray[Any], str]:
    """Samples and their color space."""
    values = dicom_gdcm.decode_frames(frames, description, syntax)
    if description.photometric in ("YBR_FULL", "YBR_FULL_422"):
        return convert_color_space(values, description.photometric, "RGB", per_frame=True), "RGB"
    return values, description.photometric


def _failure(syntax: str) -> UnsupportedImageError:
    """Why frames were not decoded: the package that may be missing, or else the data."""
    module, package = _PACKAGES.get(syntax, ("", ""))
    name = UID(syntax).name[:64]
    if module and importlib.util.find_spec(module) is None:
        return UnsupportedImageError(
            f"decoding {name} needs {package}: pip install 'monai-miadmark[dicom]', or that package alone"
        )
    return UnsupportedImageError(f"the DICOM pixel data cannot be decoded ({name})")


def _frames(source: Source, description: PixelDescription, value: bytes) -> Iterator[bytes]:
    """Code streams of the frames, each checked to be of the size that the data set says.

    Raises:
        UnsupportedImageError: streams that do not fit the data set, or more samples than they can hold.
    """
    rle = source.syntax == _RLE
    if description.nbytes > _FREE_BYTES + (_RATIO_RLE if rle else _RATIO) * len(value):
        raise UnsupportedImageError("the DICOM image is larger than its compressed pixel data can hold")
    check_decoded(description.nbytes, len(value))
    data_set = source.data_set
    tables = [_offsets(data_set.get(f"ExtendedOffsetTable{suffix}", None)) for suffix in ("", "Lengths")]
    for spans in frame_spans(value, description.shape[0], *tables):
        frame = b"".join(value[start:stop] for start, stop in spans)
        if rle:
            _check_rle(frame, description)
        else:
            _check_head(jpeg_head(frame) if source.syntax in _JPEG else jpeg2000_head(frame), description)
        yield frame


def _offsets(value: Any) -> list[int] | None:
    """Entries of an Extended Offset Table element."""
    if value is None:
        return None
    if not isinstance(value, bytes) or len(value) % 8:
        raise UnsupportedImageError("the DICOM Extended Offset Table is damaged")
    entries: list[int] = np.frombuffer(value, "<u8").tolist()
    return entries


def _check_head(head: StreamHead, description: PixelDescription) -> None:
    """Refuse a code stream of another size than the data set's; decoders would allocate what the stream asks for."""
    _, rows, columns, samples = description.shape
    if (head.rows, head.columns, head.samples) != (rows, columns, samples):
        raise UnsupportedImageError("a compressed frame is not of the size that the DICOM attributes say")
    if not 1 <= head.bits <= description.allocated:
        raise UnsupportedImageError("a compressed frame has more bits than the DICOM attributes say")


def _check_rle(frame: bytes, description: PixelDescription) -> None:
    """Refuse an RLE frame whose header does not name its segments (PS3.5 G.5)."""
    wanted = description.shape[3] * description.allocated // 8
    head = np.frombuffer(frame[:64], "<u4").tolist() if len(frame) >= 64 else []
    if not head or head[0] != wanted or wanted > 15:
        raise UnsupportedImageError("an RLE frame has not the segments that the DICOM attributes say")
    offsets = [*head[1 : wanted + 1], len(frame)]
    if offsets[0] != 64 or any(a > b for a, b in pairwise(offsets)):
        raise UnsupportedImageError("an RLE frame has segments outside of itself")

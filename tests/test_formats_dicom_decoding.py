# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""DICOM sources that have to be decoded: what is marked, what the protected object says, what is refused."""

from __future__ import annotations

import base64
import importlib.util
import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from doubles import BLUNT, NoiseMarker
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
from test_formats_dicom import ENVELOPE, GRADIENT, ROOT, made, moved, protect, read

from monai_miadmark.errors import TamperedError, UnsupportedImageError
from monai_miadmark.formats import dicom_gdcm
from monai_miadmark.formats.dicom import DicomCarrier
from monai_miadmark.formats.dicom_codestreams import jpeg2000_head, jpeg_head
from monai_miadmark.formats.dicom_fragments import frame_spans
from monai_miadmark.formats.dicom_reading import read as read_source
from monai_miadmark.keys import generate_identity
from monai_miadmark.options import ProtectOptions
from monai_miadmark.pipeline import protect_bytes, remove_bytes
from monai_miadmark.shell import CARRIED_FILE

CARRIER = DicomCarrier()
OPTIONS = ProtectOptions(BLUNT)
# 8 x 12 samples 0, 40, 80 ... as HTJ2K, made by OpenJPH 0.26.3.
HTJ2K_STREAM = base64.b64decode(
    "/0//UQApQAAAAAAMAAAACAAAAAAAAAAAAAAADAAAAAgAAAAAAAAAAAABDwEB/1AACAACAAAACv9SAAwAAgABAAUEBEAB/1wAEyCIkJCQkJCQkJCQ"
    "kJCQiIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAAGwAAf+TwAAmI/YFB3QAAMAAEwCs/gIHdADAABLAABUA9QDHdAAaUSP+AOI0"
    "AMAAE0AAFWCysoELdABu6AY3/AAhAHdWAMAAKiAAFeCO4zjacIJ1AL779u3bt+/gIPZCAey4AP/Z"
)


def needs(*modules: str) -> pytest.MarkDecorator:
    """Skip, by name, where a decoder is not installed."""
    absent = [module for module in modules if importlib.util.find_spec(module) is None]
    return pytest.mark.skipif(bool(absent), reason=f"not installed: {', '.join(absent)}")


def written(ds: Dataset, syntax: str | None = None) -> bytes:
    """A data set as a file."""
    if syntax is not None:
        ds.file_meta.TransferSyntaxUID = syntax
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds.save_as(buffer)
    return buffer.getvalue()


def encapsulated(streams: list[bytes], syntax: str, pixels: NDArray[Any], **attributes: Any) -> bytes:
    """A secondary capture whose pixel data are these code streams."""
    ds = read(made(pixels, **attributes))
    ds.PixelData = encapsulate(streams)
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    return written(ds, syntax)


def compressed(pixels: NDArray[Any], syntax: str, **attributes: Any) -> bytes:
    """A secondary capture that pydicom compressed."""
    ds = read(made(pixels, **attributes))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds.compress(syntax, encoding_plugin="", generate_instance_uid=False)
    return written(ds)


NOISE = np.random.default_rng(3).integers(0, 256, (2, 6, 10, 3), np.uint8)


@pytest.mark.parametrize(
    "syntax",
    [
        pytest.param(RLELossless),
        pytest.param(JPEGLSLossless, marks=needs("jpeg_ls")),
        pytest.param(JPEG2000Lossless, marks=needs("openjpeg")),
    ],
)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_lossless_syntaxes(syntax: str, dtype: str, channels: int) -> None:
    if channels == 3 and dtype == "int16":
        pytest.skip("DICOM has no signed color")
    info = np.iinfo(dtype)
    shape = (2, 48, 40, channels)  # OpenJPEG's encoder wants 32 at least
    pixels = np.random.default_rng(1).integers(info.min, info.max, shape, dtype, endpoint=True)
    data = compressed(pixels, syntax)
    opened = CARRIER.open_source(data, "a.dcm")
    assert np.array_equal(opened.image.values, pixels) and opened.image.values.dtype == pixels.dtype
    assert opened.shell.blobs == {CARRIED_FILE: data}
    protected = CARRIER.carry(data, opened, moved(pixels), ENVELOPE)
    ds = read(protected)
    assert ds.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian and not ds["PixelData"].is_undefined_length
    assert ds.PhotometricInterpretation == ("RGB" if channels == 3 else "MONOCHROME2")
    assert "LossyImageCompression" not in ds
    assert np.array_equal(ds.pixel_array.reshape(pixels.shape), moved(pixels))
    assert CARRIER.rebuild(opened.shell, None) == data


@needs("openjpeg")
def test_htj2k() -> None:
    pixels = (np.arange(96).reshape(1, 8, 12, 1) * 40).astype(np.uint16)
    data = encapsulated([HTJ2K_STREAM], HTJ2KLossless, pixels)
    assert np.array_equal(CARRIER.open_source(data, "a").image.values, pixels)
    assert read(protect(data)).file_meta.TransferSyntaxUID == ExplicitVRLittleEndian


@pytest.mark.parametrize("name", ["MR_small_RLE.dcm", "image_dfl.dcm", "examples_palette.dcm", "SC_rgb_jpeg_dcmtk.dcm"])
def test_protect_and_remove_give_the_same_bytes(name: str) -> None:
    data, identity = (ROOT / name).read_bytes(), generate_identity("x25519")
    result = protect_bytes(data, name, [identity.recipient], NoiseMarker(), OPTIONS)
    restored = remove_bytes(result.data, [identity])
    assert restored.data == data and restored.name == name
    assert result.data != data and b"MIADMARK" in result.data


@pytest.mark.parametrize("syntax", [RLELossless, DeflatedExplicitVRLittleEndian])
def test_protected_files_may_be_compressed_without_loss(syntax: str) -> None:
    """Archives do that; the record is found and the samples are the same."""
    identity = generate_identity("x25519")
    data = (ROOT / "CT_small.dcm").read_bytes()
    ds = read(protect_bytes(data, "ct.dcm", [identity.recipient], NoiseMarker(), OPTIONS).data)
    if syntax == RLELossless:
        ds.compress(syntax, generate_instance_uid=False)
    assert remove_bytes(written(ds, syntax), [identity]).data == data


def test_palette_becomes_rgb() -> None:
    data = (ROOT / "examples_palette.dcm").read_bytes()
    source = read(data)
    values = CARRIER.open_source(data, "a").image.values
    expected = pydicom.pixels.processing.apply_color_lut(source.pixel_array, source) >> 8
    assert np.array_equal(values[0], expected) and values.dtype == np.uint8
    ds = read(protect(data))
    assert (ds.PhotometricInterpretation, ds.SamplesPerPixel, ds.PlanarConfiguration) == ("RGB", 3, 0)
    assert (ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation) == (8, 8, 7, 0)
    assert not [element for element in ds if "Palette" in element.keyword]
    assert ds.file_meta.TransferSyntaxUID == source.file_meta.TransferSyntaxUID
    source.SOPClassUID = "1.2.840.10008.5.1.4.1.1.20"
    with pytest.raises(UnsupportedImageError, match="Nuclear Medicine"):
        protect(written(source))


def palette(indices: NDArray[Any], entries: int, bits: int, first: int, **tables: bytes) -> bytes:
    """A PALETTE COLOR secondary capture."""
    ds = read(made(indices))
    ds.PhotometricInterpretation = "PALETTE COLOR"
    for color in ("Red", "Green", "Blue"):
        tag = pydicom.datadict.tag_for_keyword(f"{color}PaletteColorLookupTableDescriptor")
        ds.add_new(tag, "SS" if first < 0 else "US", [entries % 65536, first, bits])
        for prefix, table in tables.items():
            tag = pydicom.datadict.tag_for_keyword(f"{prefix.strip('_')}{color}PaletteColorLookupTableData")
            ds.add_new(tag, "OW", table)
    return written(ds)


INDICES = np.array([[0, 1, 2, 3, 4, 250]], np.uint8).reshape(1, 1, 6, 1)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        # Samples below the first one mapped have its color, samples above the last one that.
        (palette(INDICES, 3, 8, 1, _=b"\x0a\x14\x1e\0"), [10, 10, 20, 30, 30, 30]),
        (palette(INDICES, 2, 16, 0, _=struct.pack("<2H", 0x1000, 0xFFFF)), [16, 255, 255, 255, 255, 255]),
        # A writer that calls 8-bit entries 16-bit ones, and one that puts 8-bit ones into words.
        (palette(INDICES, 2, 16, 0, _=struct.pack("<2H", 7, 255)), [7, 255, 255, 255, 255, 255]),
        (palette(INDICES, 2, 8, 0, _=struct.pack("<2H", 7, 255)), [7, 255, 255, 255, 255, 255]),
        # Discrete 10; then linear to 40 in three steps.
        (palette(INDICES, 4, 8, 0, Segmented=bytes([0, 1, 10, 1, 3, 40])), [10, 20, 30, 40, 40, 40]),
        (
            palette(INDICES, 4, 16, 0, Segmented=struct.pack("<6H", 0, 1, 2560, 1, 3, 10240)),
            [10, 20, 30, 40, 40, 40],
        ),
        # Discrete 10 and 20, then once more the segment at offset 0.
        (palette(INDICES, 4, 8, 0, Segmented=bytes([0, 2, 10, 20, 2, 1, 0, 0, 0, 0])), [10, 20, 10, 20, 20, 20]),
        (
            palette(INDICES, 4, 16, 0, Segmented=struct.pack("<7H", 0, 2, 2560, 5120, 2, 1, 0) + b"\0\0"),
            [10, 20, 10, 20, 20, 20],
        ),
    ],
)
def test_palette_tables(data: bytes, expected: list[int]) -> None:
    values = CARRIER.open_source(data, "a").image.values
    assert values[0, 0, :, 0].tolist() == expected and (values == values[..., :1]).all()


@pytest.mark.parametrize(
    "data",
    [
        palette(INDICES, 256, 8, 0, _=b"\0\0"),
        palette(INDICES, 3, 12, 0, _=bytes(6)),
        palette(INDICES, 3, 8, 0, Segmented=bytes([1, 3, 40, 0])),
        palette(INDICES, 3, 8, 0, Segmented=bytes([0, 9, 40, 0])),
        palette(INDICES, 3, 8, 0, Segmented=bytes([9, 9, 40, 0])),
        # Segments that repeat each other, or repeat nothing for ever.
        palette(
            INDICES, 65536, 16, 0, Segmented=struct.pack("<4H", 0, 1, 5, 0) + struct.pack("<4H", 2, 65535, 0, 0) * 99
        ),
        palette(INDICES, 65536, 16, 0, Segmented=struct.pack("<3H", 0, 1, 5) + struct.pack("<4H", 0, 0, 0, 0) * 70000),
    ],
)
def test_malformed_palettes(data: bytes) -> None:
    with pytest.raises(UnsupportedImageError, match="palette is missing or malformed"):
        CARRIER.open_source(data, "a")


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("planar", [0, 1])
def test_ybr_full(syntax: str, planar: int) -> None:
    data = made(NOISE, syntax, planar, PhotometricInterpretation="YBR_FULL")
    expected = pydicom.pixels.processing.convert_color_space(NOISE.copy(), "YBR_FULL", "RGB")
    opened = CARRIER.open_source(data, "a")
    assert np.array_equal(opened.image.values, expected)
    ds = read(CARRIER.carry(data, opened, moved(expected), ENVELOPE))
    assert ds.PhotometricInterpretation == "RGB" and ds.PlanarConfiguration == 0
    assert ds.file_meta.TransferSyntaxUID == syntax
    assert np.array_equal(ds.pixel_array, moved(expected))


def test_lossy_once_is_lossy_for_ever() -> None:
    known = read(protect((ROOT / "SC_rgb_dcmtk_+eb+cr.dcm").read_bytes()))
    source = read((ROOT / "SC_rgb_dcmtk_+eb+cr.dcm").read_bytes())
    for keyword in ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"):
        assert known.get(keyword) == source.get(keyword)
    assert known.LossyImageCompression == "01"
    # Where the source forgot to say so, it is said.
    for keyword in ("LossyImageCompressionRatio", "LossyImageCompressionMethod"):
        if keyword in source:
            del source[keyword]
    for before in (None, "00"):
        if before is None:
            del source.LossyImageCompression
        else:
            source.LossyImageCompression = before
        ds = read(protect(written(source)))
        assert (ds.LossyImageCompression, ds.LossyImageCompressionMethod) == ("01", "ISO_10918_1")
        assert 5 < ds.LossyImageCompressionRatio < 50


def test_jpeg2000_of_either_kind() -> None:
    """One transfer syntax for both; 5/3 streams may be cut short, as this one is: 146 to 1."""
    source = read((ROOT / "693_J2KI.dcm").read_bytes())
    for keyword in ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"):
        source.pop(pydicom.datadict.tag_for_keyword(keyword), None)
    ds = read(protect(written(source)))
    assert (ds.LossyImageCompression, ds.LossyImageCompressionMethod) == ("01", "ISO_15444_1")
    assert ds.LossyImageCompressionRatio > 100
    source.LossyImageCompression = "00"
    ds = read(protect(written(source)))
    assert ds.LossyImageCompression == "00" and "LossyImageCompressionMethod" not in ds


def test_signs_that_the_writer_left_out() -> None:
    pixels = np.array([-5, 7, -2048, 2047], np.int16).reshape(1, 1, 4, 1)
    data = made(pixels & np.int16(0x0FFF), bits_stored=12)
    opened = CARRIER.open_source(data, "a")
    assert np.array_equal(opened.image.values, pixels) and CARRIED_FILE in opened.shell.blobs
    again = CARRIER.open_protected(CARRIER.carry(data, opened, pixels + np.int16(1), ENVELOPE))
    assert np.array_equal(again.values, pixels + np.int16(1))
    # An overlay in those bits, or samples that need them: nothing is changed above Bits Stored.
    for other in (made(pixels, bits_stored=8), made(pixels, bits_stored=12)):
        assert CARRIED_FILE not in CARRIER.open_source(other, "a").shell.blobs
    embedded = read(made(pixels & np.int16(0x0FFF), bits_stored=12))
    embedded.add_new(0x60000100, "US", 16)
    embedded.add_new(0x60000102, "US", 12)
    opened = CARRIER.open_source(written(embedded), "a")
    assert CARRIED_FILE not in opened.shell.blobs and opened.image.values.max() == 0x0FFB


def test_float_pixel_data() -> None:
    pixels = np.linspace(-3, 9, 20, dtype=np.float32).reshape(1, 4, 5, 1)
    pixels[0, 0, 0] = np.nan
    ds = read(made(np.zeros((1, 4, 5, 1), np.uint16)))
    for keyword in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(ds, keyword)
    ds.BitsAllocated, ds.FloatPixelData = 32, pixels.tobytes()
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        data = written(ds, syntax)
        opened = CARRIER.open_source(data, "a")
        assert np.array_equal(opened.image.values, pixels, equal_nan=True) and opened.image.values.dtype == np.float32
        assert tuple(opened.image.bounds) == (np.nanmin(pixels), 9.0)
        again = CARRIER.open_protected(CARRIER.carry(data, opened, pixels * 2, ENVELOPE))
        assert np.array_equal(again.values, pixels * 2, equal_nan=True)
        assert CARRIER.rebuild(opened.shell, opened.image.values) == data
    identity = generate_identity("x25519")
    protected = protect_bytes(data, "a", [identity.recipient], NoiseMarker(), OPTIONS).data
    assert remove_bytes(protected, [identity]).data == data
    ds.FloatPixelPaddingValue = 1.5
    with pytest.raises(UnsupportedImageError, match="padding value"):
        CARRIER.open_source(written(ds), "a")


def test_extended_offset_table() -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (3, 8, 8, 1), np.uint8)
    source = read(compressed(pixels, RLELossless))
    frames = [source.PixelData[start:stop] for [(start, stop)] in frame_spans(source.PixelData, 3)]
    value, offsets, lengths = encapsulate_extended(frames)
    source.PixelData, source.ExtendedOffsetTable, source.ExtendedOffsetTableLengths = value, offsets, lengths
    data = written(source)
    assert np.array_equal(CARRIER.open_source(data, "a").image.values, pixels)
    ds = read(protect(data))
    assert "ExtendedOffsetTable" not in ds and "ExtendedOffsetTableLengths" not in ds
    for wrong in (bytes(24), offsets[8:], offsets[:-8] + b"\xff" * 8, offsets[:-3]):
        source.ExtendedOffsetTable = wrong
        with pytest.raises(UnsupportedImageError, match=r"[Tt]able"):
            CARRIER.open_source(written(source), "a")
    source.ExtendedOffsetTable, source.ExtendedOffsetTableLengths = offsets, b"\xff" * 24
    with pytest.raises(UnsupportedImageError, match="Lengths do not fit"):
        CARRIER.open_source(written(source), "a")


def item(body: bytes) -> bytes:
    """An item with its tag."""
    return b"\xfe\xff\x00\xe0" + struct.pack("<I", len(body)) + body


JPEG = b"\xff\xd8\xff\xe0"


def test_frames_of_several_fragments() -> None:
    fragments = [JPEG, b"ab", JPEG, b"cd", b"ef"]
    body = b"".join(map(item, fragments))
    second = 8 + len(JPEG) + 8 + 2
    for table in (b"", struct.pack("<2I", 0, second)):
        value = item(table) + body
        frames = [b"".join(value[a:b] for a, b in spans) for spans in frame_spans(value, 2)]
        assert frames == [JPEG + b"ab", JPEG + b"cdef"]
    assert len(frame_spans(item(b"") + body, 1)[0]) == 5
    assert len(frame_spans(item(b"") + body, 5)) == 5


@pytest.mark.parametrize(
    ("value", "frames", "reason"),
    [
        (b"", 1, "no offset table"),
        (item(b""), 1, "0 fragments for 1 frames"),
        (item(b"abc") + item(b"x"), 1, "odd length"),
        (item(b"") + item(b"x"), 2, "1 fragments for 2"),
        (item(b"") + item(b"x") + b"\xfe\xff\x00\xe0\xff\xff\xff\xff", 1, "truncated"),
        (item(b"") + item(b"x") + b"\xfe\xff", 1, "truncated"),
        (item(b"") + b"junk" * 4, 1, "damaged"),
        (item(struct.pack("<2I", 0, 4)) + item(b"xy") + item(b"z"), 2, "no fragment begins"),
        (item(struct.pack("<2I", 0, 0)) + item(b"xy") + item(b"z"), 2, "number of frames"),
        (item(struct.pack("<2I", 10, 0)) + item(b"xy") + item(b"z"), 2, "number of frames"),
        (item(struct.pack("<I", 0)) + item(b"xy") + item(b"z"), 2, "number of frames"),
        (item(b"") + item(b"xy") + item(b"z") + item(b"z"), 2, "cannot be told apart"),
        (item(b"") * (2**20 + 3), 1, "fragments is not supported"),
    ],
)
def test_damaged_encapsulation(value: bytes, frames: int, reason: str) -> None:
    with pytest.raises(UnsupportedImageError, match=reason):
        frame_spans(value, frames)


def frame_of(name: str) -> bytes:
    """The code stream of a file of one frame."""
    value = read((ROOT / name).read_bytes()).PixelData
    return b"".join(value[a:b] for a, b in frame_spans(value, 1)[0])


def test_heads_of_code_streams() -> None:
    assert jpeg_head(frame_of("JPGExtended.dcm")) == (1024, 256, 1, 12, False)
    assert jpeg_head(frame_of("SC_rgb_jpeg_gdcm.dcm")) == (100, 100, 3, 8, True)
    assert jpeg_head(frame_of("MR_small_jpeg_ls_lossless.dcm")) == (64, 64, 1, 16, True)
    assert jpeg2000_head(frame_of("693_J2KI.dcm")) == (512, 512, 1, 16, True)
    assert jpeg2000_head(frame_of("MR_small_jp2klossless.dcm")) == (64, 64, 1, 16, True)
    assert jpeg2000_head(HTJ2K_STREAM) == (8, 12, 1, 16, True)
    boxed = b"\0\0\0\x0cjP  \r\n\x87\n" + struct.pack(">I4s", 8 + len(HTJ2K_STREAM), b"jp2c") + HTJ2K_STREAM
    assert jpeg2000_head(boxed) == (8, 12, 1, 16, True)


@pytest.mark.parametrize("read_head", [jpeg_head, jpeg2000_head])
def test_heads_of_damaged_code_streams(read_head: Any) -> None:
    for seed in (
        frame_of("SC_rgb_jpeg_gdcm.dcm"),
        HTJ2K_STREAM,
        b"\0\0\0\x0cjP  " + bytes(99),
        b"\xff\xd8" + b"\xff" * 9999,
    ):
        for length in range(0, min(len(seed), 170)):
            try:
                read_head(seed[:length])
            except UnsupportedImageError:
                pass
    for stream in (b"", b"\xff\xd8", b"\xff\xd8\xff\xda\0\2", b"\xff\xd8" + b"\xff" * 99999):
        with pytest.raises(UnsupportedImageError, match="not a valid"):
            read_head(stream)


def test_code_streams_that_ask_for_more_than_the_attributes_say() -> None:
    """What decoders allocate is what the stream declares."""
    jpeg = bytearray(frame_of("SC_rgb_dcmtk_+eb+cr.dcm"))
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = b"\xff\xff\xff\xff"
    pixels = np.zeros((1, 100, 100, 3), np.uint8)
    with pytest.raises(UnsupportedImageError, match="not of the size"):
        CARRIER.open_source(encapsulated([bytes(jpeg)], JPEGBaseline8Bit, pixels), "a")
    j2k = bytearray(HTJ2K_STREAM)
    j2k[8:16] = struct.pack(">2I", 60000, 60000)
    gray = np.zeros((1, 8, 12, 1), np.uint16)
    with pytest.raises(UnsupportedImageError, match="65535 tiles"):
        CARRIER.open_source(encapsulated([bytes(j2k)], HTJ2KLossless, gray), "a")
    j2k[24:32] = struct.pack(">2I", 60000, 60000)
    with pytest.raises(UnsupportedImageError, match="not of the size"):
        CARRIER.open_source(encapsulated([bytes(j2k)], HTJ2KLossless, gray), "a")
    with pytest.raises(UnsupportedImageError, match="more bits"):
        CARRIER.open_source(encapsulated([HTJ2K_STREAM], HTJ2KLossless, gray.astype(np.uint8)), "a")


def test_sizes_that_the_stream_cannot_explain() -> None:
    for syntax, stream in ((JPEGBaseline8Bit, frame_of("SC_rgb_dcmtk_+eb+cr.dcm")), (RLELossless, bytes(64))):
        ds = read(encapsulated([stream], syntax, np.zeros((1, 100, 100, 3), np.uint8)))
        ds.Rows, ds.Columns, ds.NumberOfFrames = 65535, 65535, 2**31 - 1
        with pytest.raises(UnsupportedImageError, match="larger than its compressed"):
            CARRIER.open_source(written(ds), "a")


@pytest.mark.parametrize(
    "stream", [bytes(2), bytes(64), struct.pack("<16I", 1, 64, *[0] * 14), struct.pack("<16I", 2, 64, 4096, *[0] * 13)]
)
def test_damaged_rle(stream: bytes) -> None:
    with pytest.raises(UnsupportedImageError, match="RLE"):
        CARRIER.open_source(encapsulated([stream], RLELossless, GRADIENT), "a")
    good = read(compressed(GRADIENT, RLELossless))
    good.PixelData = good.PixelData[:100] + bytes([255]) * (len(good.PixelData) - 100)
    with pytest.raises(UnsupportedImageError):
        CARRIER.open_source(written(good), "a")


def test_deflated_bombs_and_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    data = (ROOT / "image_dfl.dcm").read_bytes()
    with pytest.raises(UnsupportedImageError, match="truncated"):
        CARRIER.open_source(data[:-500], "a")
    for length in range(130, 400, 7):
        with pytest.raises(UnsupportedImageError):
            CARRIER.open_source(data[:length], "a")
    monkeypatch.setattr("monai_miadmark.formats.dicom_reading.most_decoded", lambda: 100_000)
    with pytest.raises(UnsupportedImageError, match="more than is taken into memory"):
        CARRIER.open_source(data, "a")


def test_deflated_file_is_read_as_pydicom_does() -> None:
    data = (ROOT / "image_dfl.dcm").read_bytes()
    source, theirs = read_source(data), read(data)
    assert source.deflated and source.syntax == ExplicitVRLittleEndian
    assert source.data_set == theirs
    assert np.array_equal(CARRIER.open_source(data, "a").image.values[0, ..., 0], theirs.pixel_array)
    assert zlib.crc32(source.data_set.PixelData) == zlib.crc32(theirs.PixelData)


def nested(depth: int, undefined: bool) -> bytes:
    """An object with Referenced Image Sequences in each other."""
    body = b""
    for _ in range(depth):
        if undefined:
            body = b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + body + b"\xfe\xff\x0d\xe0\0\0\0\0"
            body = b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff" + body + b"\xfe\xff\xdd\xe0\0\0\0\0"
        else:
            body = item(body)
            body = b"\x08\0\x40\x11SQ\0\0" + struct.pack("<I", len(body)) + body
    base = made(GRADIENT)
    at = base.index(b"\x20\0\x0d\0UI")  # the first element after group 0008
    return base[:at] + body + base[at:]


def test_nested_sequences() -> None:
    for data in (nested(10, True), nested(10, False), nested(3000, False)):
        opened = CARRIER.open_source(data, "a")
        assert CARRIER.open_protected(CARRIER.carry(data, opened, opened.image.values, ENVELOPE)).envelope == ENVELOPE
    # An error inside the writer would take longer than anyone waits.
    with pytest.raises(UnsupportedImageError, match="nested deeper than 10"):
        protect(nested(11, True))
    with pytest.raises(UnsupportedImageError):
        protect(nested(3000, True))


@pytest.mark.parametrize("name", ["MR_small_RLE.dcm", "SC_rgb_dcmtk_+eb+cr.dcm", "examples_palette.dcm"])
def test_truncated_and_changed_files_are_named_errors(name: str) -> None:
    data = (ROOT / name).read_bytes()
    rng = np.random.default_rng(7)
    for _ in range(40):
        broken = bytearray(data)
        for position in rng.integers(132, len(data), 6):
            broken[position] = rng.integers(256)
        cut = int(rng.integers(132, len(data)))
        for version in (bytes(broken), data[:cut]):
            for call in (CARRIER.open_protected, lambda d: CARRIER.open_source(d, "a")):
                try:
                    call(version)
                except (UnsupportedImageError, TamperedError):
                    pass


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [
        ("JPGExtended.dcm", "gdcm", "python-gdcm"),
        ("SC_rgb_jpeg_gdcm.dcm", "gdcm", "python-gdcm"),
        ("MR_small_jpeg_ls_lossless.dcm", "jpeg_ls", "pyjpegls"),
    ],
)
def test_missing_decoders_are_named(name: str, module: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = (ROOT / name).read_bytes()
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n == module else found(n, *a))
    decoder = get_decoder(read(data).file_meta.TransferSyntaxUID)
    monkeypatch.setattr(decoder, "_available", {})
    with pytest.raises(UnsupportedImageError, match=f"needs {package}: pip install 'monai-miadmark\\[dicom\\]'"):
        CARRIER.open_source(data, "a")


def test_pixel_data_that_contradict_the_transfer_syntax() -> None:
    data = (ROOT / "MR_small_RLE.dcm").read_bytes()
    assert data.count(b"1.2.840.10008.1.2.5\0") == 1
    for source, old, new in (
        (data, b"1.2.840.10008.1.2.5\0", b"1.2.840.10008.1.2.1\0"),
        (made(GRADIENT), b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.5\0"),
    ):
        with pytest.raises(UnsupportedImageError, match="do not lie as its transfer syntax says"):
            CARRIER.open_source(source.replace(old, new, 1), "a")
    unknown = data.replace(b"1.2.840.10008.1.2.5\0", b"1.2.840.10008.1.2.9\0", 1)
    with pytest.raises(UnsupportedImageError, match=r"DICOM in 1\.2\.840\.10008\.1\.2\.9 is not supported"):
        CARRIER.open_source(unknown, "a")


@needs("gdcm")
@pytest.mark.parametrize(
    "program", ["import os; os.abort()", "import time; time.sleep(60)", "print('too short')", "raise SystemExit(1)"]
)
def test_a_decoder_that_crashes_or_hangs_is_a_named_error(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GDCM aborts on some damaged streams: that must not take this process with it."""
    worker = tmp_path / "worker.py"
    worker.write_text(program)
    monkeypatch.setattr(dicom_gdcm, "_WORKER", worker)
    monkeypatch.setattr(dicom_gdcm, "_SECONDS", 2)
    with pytest.raises(UnsupportedImageError, match="cannot be decoded"):
        CARRIER.open_source((ROOT / "JPGExtended.dcm").read_bytes(), "a")


@needs("gdcm")
def test_a_stream_that_crashes_gdcm() -> None:
    data = bytearray((ROOT / "SC_rgb_jpeg_gdcm.dcm").read_bytes())
    at = data.index(frame_of("SC_rgb_jpeg_gdcm.dcm")[:32])
    data[at + 22] = 129
    with pytest.raises(UnsupportedImageError):
        CARRIER.open_source(bytes(data), "a")


@needs("gdcm")
def test_gdcm_reads_what_pydicom_reads() -> None:
    """The one lossless file that pydicom decodes by GDCM too; several frames go to one process."""
    data = (ROOT / "SC_rgb_jpeg_gdcm.dcm").read_bytes()
    expected = read(data).pixel_array
    assert np.array_equal(CARRIER.open_source(data, "a").image.values[0], expected)
    frame = frame_of("SC_rgb_jpeg_gdcm.dcm")
    twice = encapsulated([frame, frame], JPEGLosslessSV1, np.zeros((2, 100, 100, 3), np.uint8))
    values = CARRIER.open_source(twice, "a").image.values
    assert np.array_equal(values, np.stack([expected, expected]))
    twelve = CARRIER.open_source((ROOT / "JPGExtended.dcm").read_bytes(), "a").image.values
    assert (int(twelve.min()), int(twelve.max())) == (0, 264)  # as DCMTK's dcmdjpeg gives

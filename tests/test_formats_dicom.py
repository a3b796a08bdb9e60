# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""DICOM carrier: every file in pydicom's wheel, rules for derived images, damaged input."""

from __future__ import annotations

import importlib.util
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from monai_miadmark.errors import MIADMarkError, NotProtectedError, TamperedError, UnsupportedImageError
from monai_miadmark.formats import carrier_for, carrier_named
from monai_miadmark.formats.dicom import PRIVATE_CREATOR, PRIVATE_GROUP, DicomCarrier
from monai_miadmark.formats.dicom_derivation import UidSecrets, derived_uid
from monai_miadmark.formats.dicom_front import DicomFront
from monai_miadmark.shell import CARRIED_FILE

ROOT = Path(pydicom.__file__).parent / "data" / "test_files"
FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in ROOT.rglob("*")
    if path.is_file() and path.suffix not in (".py", ".pyc")
)
SUPPORTED = {
    "CT_small.dcm": ((1, 128, 128, 1), "int16"),
    "MR_small.dcm": ((1, 64, 64, 1), "int16"),
    "MR_small_bigendian.dcm": ((1, 64, 64, 1), "int16"),
    "MR_small_expb.dcm": ((1, 64, 64, 1), "int16"),
    "MR_small_implicit.dcm": ((1, 64, 64, 1), "int16"),
    "MR_small_padded.dcm": ((1, 64, 64, 1), "int16"),
    "ExplVR_BigEnd.dcm": ((1, 60, 80, 3), "uint8"),
    "SC_rgb_jpeg_dcmd.dcm": ((1, 256, 256, 3), "uint8"),
    "SC_rgb_small_odd.dcm": ((1, 3, 3, 3), "uint8"),
    "dicomdirtests/77654033/CR1/6154": ((1, 16, 16, 1), "uint16"),
    "dicomdirtests/98892001/CT5N/2062": ((1, 16, 16, 1), "int16"),
    "examples_overlay.dcm": ((1, 300, 484, 1), "uint16"),
    "examples_rgb_color.dcm": ((1, 240, 320, 3), "uint8"),
}
CARRIED = {
    "693_J2KI.dcm": ((1, 512, 512, 1), "int16"),
    "J2K_pixelrep_mismatch.dcm": ((1, 512, 512, 1), "int16"),
    "JPEGLSNearLossless_08.dcm": ((1, 45, 10, 1), "uint8"),
    "JPGExtended.dcm": ((1, 1024, 256, 1), "uint16"),
    "MR_small_RLE.dcm": ((1, 64, 64, 1), "int16"),
    "MR_small_jp2klossless.dcm": ((1, 64, 64, 1), "int16"),
    "MR_small_jpeg_ls_lossless.dcm": ((1, 64, 64, 1), "int16"),
    "SC_rgb_jpeg.dcm": ((1, 256, 256, 3), "uint8"),
    "SC_rgb_jpeg_gdcm.dcm": ((1, 100, 100, 3), "uint8"),
    "SC_rgb_rle_16bit_2frame.dcm": ((2, 100, 100, 3), "uint16"),
    "SC_rgb_rle_32bit.dcm": ((1, 100, 100, 3), "uint32"),
    "SC_rgb_small_odd_big_endian.dcm": ((1, 3, 3, 3), "uint8"),
    "SC_ybr_full_422_uncompressed.dcm": ((1, 100, 100, 3), "uint8"),
    "examples_palette.dcm": ((1, 350, 800, 3), "uint8"),
    "examples_ybr_color.dcm": ((30, 240, 320, 3), "uint8"),
    "image_dfl.dcm": ((1, 512, 512, 1), "uint8"),
    "rtdose_rle.dcm": ((15, 10, 10, 1), "uint32"),
}
"""Files whose samples do not lie in them as they are shown: shape and type of what is marked."""
# Decoders that are not installed everywhere; the carrier names the package then.
NEEDS = {
    "JPGExtended.dcm": "gdcm",
    "SC_rgb_jpeg_gdcm.dcm": "gdcm",
    "JPEGLSNearLossless_08.dcm": "jpeg_ls",
    "MR_small_jpeg_ls_lossless.dcm": "jpeg_ls",
}
REFUSED = {
    "JPEG2000-embedded-sequence-delimiter.dcm": "65535 tiles",
    "MR_truncated.dcm": "truncated",
    "badVR.dcm": "NumberOfFrames",
    "liver_1frame.dcm": "a label is not an image",
    "meta_missing_tsyntax.dcm": "photometric",
    "nested_priv_SQ.dcm": "photometric",
    "dicomdirtests/DICOMDIR": "DICOMDIR",
    "reportsi.dcm": "Basic Text SR Storage",
    "rtplan.dcm": "RT Plan Storage",
    "ExplVR_LitEndNoMeta.dcm": "without pixel data",
    "README.txt": "not an image of a known format",
    "zipMR.gz": "gzip of",
}
CARRIER = DicomCarrier()
ENVELOPE = b"MIADMARK" + bytes(range(256)) + b"\0"


def moved(values: NDArray[Any]) -> NDArray[Any]:
    """Other samples of the same type: the lowest bit of each is turned."""
    changed = values.copy()
    changed ^= np.ones((), values.dtype)
    return changed


def stored(name: str) -> bytes:
    """A file of pydicom's wheel; older versions ship fewer."""
    if name not in FILES:
        pytest.skip(f"this pydicom ships no {name}")
    return (ROOT / name).read_bytes()


def missing() -> list[str]:
    """Decoders that are not installed."""
    return [name for name in sorted(set(NEEDS.values())) if importlib.util.find_spec(name) is None]


def read(data: bytes) -> Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.dcmread(io.BytesIO(data))


def protect(data: bytes, envelope: bytes | None = ENVELOPE) -> bytes:
    opened = CARRIER.open_source(data, "a.dcm")
    return CARRIER.carry(data, opened, moved(opened.image.values), envelope)


def made(
    pixels: NDArray[Any],
    syntax: str = ExplicitVRLittleEndian,
    planar: int = 0,
    bits_stored: int | None = None,
    **attributes: Any,
) -> bytes:
    """A secondary capture of (N, H, W, C) samples."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.2.3.4"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.Modality = "1.2.3", "1.2.3.5", "OT"
    n, ds.Rows, ds.Columns, ds.SamplesPerPixel = pixels.shape
    if n > 1:
        ds.NumberOfFrames = n
    ds.PhotometricInterpretation = "RGB" if ds.SamplesPerPixel == 3 else "MONOCHROME2"
    if ds.SamplesPerPixel == 3:
        ds.PlanarConfiguration = planar
    ds.BitsAllocated = pixels.dtype.itemsize * 8
    ds.BitsStored = bits_stored or ds.BitsAllocated
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    body = (pixels.transpose(0, 3, 1, 2) if planar else pixels).astype(pixels.dtype.newbyteorder(order)).tobytes()
    ds.PixelData = body + bytes(len(body) % 2)
    ds["PixelData"].VR = "OB" if ds.BitsAllocated == 8 and syntax != ImplicitVRLittleEndian else "OW"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # Deprecated in pydicom 3, but the only spelling that 2.4 and 3 share.
        warnings.simplefilter("ignore")
        ds.is_little_endian, ds.is_implicit_VR = syntax != ExplicitVRBigEndian, syntax == ImplicitVRLittleEndian
        ds.save_as(buffer, write_like_original=False)
    return buffer.getvalue()


GRADIENT = (np.arange(12 * 10, dtype=np.uint16).reshape(1, 12, 10, 1) * 30).astype(np.uint16)


@pytest.mark.parametrize("name", FILES)
def test_every_file_of_pydicom(name: str) -> None:
    data = (ROOT / name).read_bytes()
    try:
        carrier = carrier_for(data, name)
        opened = carrier.open_source(data, name)
    except UnsupportedImageError as error:
        assert name not in SUPPORTED and (name not in CARRIED or NEEDS.get(name) in missing())
        assert len(str(error)) > 10
        return
    assert carrier.name == "dicom" and name not in REFUSED
    found = opened.image.values.shape, opened.image.values.dtype.name
    if name in SUPPORTED:
        assert found == SUPPORTED[name] and CARRIED_FILE not in opened.shell.blobs
    if name in CARRIED:
        assert found == CARRIED[name] and opened.shell.blobs == {CARRIED_FILE: data}
    values = moved(opened.image.values)
    assert isinstance(carrier, DicomFront)
    secrets = UidSecrets()
    protected = carrier.carry(data, opened, values, ENVELOPE, secrets=secrets)
    again = carrier.open_protected(protected)
    assert again.envelope == ENVELOPE and again.marked
    assert np.array_equal(again.values, values) and again.values.dtype == values.dtype
    assert carrier.rebuild(opened.shell, opened.image.values) == data
    assert opened.shell.name == Path(name).name and carrier.output_name(name) == Path(name).name
    assert read(protected).ImageType[0] == "DERIVED"
    # The same again: nothing depends on the clock.
    assert carrier.carry(data, opened, values, ENVELOPE, secrets=secrets) == protected
    with pytest.raises(UnsupportedImageError, match="protected already"):
        carrier.open_source(protected, name)


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name: str) -> None:
    data = stored(name)
    with pytest.raises(UnsupportedImageError, match=REFUSED[name]):
        carrier_for(data, name).open_source(data, name)


def test_values_are_those_of_pydicom() -> None:
    for name in ("CT_small.dcm", "examples_overlay.dcm", "examples_rgb_color.dcm", "ExplVR_BigEnd.dcm"):
        if name not in FILES:
            continue
        values = CARRIER.open_source(stored(name), name).image.values
        assert np.array_equal(np.squeeze(values), pydicom.dcmread(ROOT / name).pixel_array)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32"])
@pytest.mark.parametrize(("channels", "planar"), [(1, 0), (3, 0), (3, 1)])
def test_round_trip(syntax: str, dtype: str, channels: int, planar: int) -> None:
    info = np.iinfo(dtype)
    rng = np.random.default_rng(5)
    pixels = rng.integers(info.min, info.max, (3, 5, 7, channels), dtype=dtype, endpoint=True)
    data = made(pixels, syntax, planar)
    opened = CARRIER.open_source(data, "a")
    assert np.array_equal(opened.image.values, pixels) and opened.image.values.flags.c_contiguous
    assert tuple(opened.image.bounds) == (info.min, info.max)
    other = rng.integers(info.min, info.max, pixels.shape, dtype=dtype, endpoint=True)
    for envelope in (ENVELOPE, ENVELOPE[:-1], None):
        again = CARRIER.open_protected(CARRIER.carry(data, opened, other, envelope))
        assert np.array_equal(again.values, other) and again.envelope == envelope and again.marked
    assert CARRIER.rebuild(opened.shell, opened.image.values) == data


def test_derived_image_rules() -> None:
    data = (ROOT / "CT_small.dcm").read_bytes()
    source, ds = read(data), read(protect(data))
    assert list(ds.ImageType) == ["DERIVED", *list(source.ImageType)[1:]]
    assert ds.SOPInstanceUID != source.SOPInstanceUID and ds.SOPInstanceUID.startswith("2.25.")
    assert len(ds.SOPInstanceUID) <= 64 and ds.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID
    assert ds.SeriesInstanceUID != source.SeriesInstanceUID and ds.StudyInstanceUID == source.StudyInstanceUID
    (item,) = ds.SourceImageSequence
    assert item.ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert item.ReferencedSOPClassUID == source.SOPClassUID
    assert item.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
    code = ds.DerivationCodeSequence[0]
    expected = ("113042", "DCM", "Pixel by pixel addition")
    assert (code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning) == expected
    assert "MIAD-MARK" in ds.DerivationDescription
    assert ds.SeriesDescription.startswith("MIAD-MARK protected")
    assert ds.ContributingEquipmentSequence[-1].PurposeOfReferenceCodeSequence[0].CodeValue == "109103"
    assert ds.ContributingEquipmentSequence[-1].Manufacturer
    assert ds[PRIVATE_GROUP, 0x10].value == PRIVATE_CREATOR and ds[PRIVATE_GROUP, 0x1002].VR == "OB"
    assert len(ds[PRIVATE_GROUP, 0x1002].value) % 2 == 0
    # Trailing padding means nothing, and would hide that a file ends early; when the source was made is not true of
    # this instance. All else is there.
    lost = {element.tag for element in source} - {element.tag for element in ds}
    assert lost <= {0xFFFCFFFC, 0x00080012, 0x00080013}


def test_what_the_source_had_is_kept_or_brought_up_to_date() -> None:
    lossy = Dataset()
    lossy.CodeValue, lossy.CodingSchemeDesignator, lossy.CodeMeaning = "113040", "DCM", "Lossy Compression"
    signature, icon = Dataset(), Dataset()
    signature.MACIDNumber = 1
    icon.Rows = 1
    data = made(
        GRADIENT,
        ImageType=["ORIGINAL", "SECONDARY", "AXIAL"],
        SeriesDescription="x" * 60,
        DerivationDescription="lossy",
        DerivationCodeSequence=Sequence([lossy]),
        SmallestImagePixelValue=0,
        LargestImagePixelValue=int(GRADIENT.max()),
        DigitalSignaturesSequence=Sequence([signature]),
        IconImageSequence=Sequence([icon]),
        BurnedInAnnotation="NO",
        LossyImageCompression="01",
    )
    opened = CARRIER.open_source(data, "a")
    values = np.clip(opened.image.values, 7, 1000)
    ds = read(CARRIER.carry(data, opened, values, ENVELOPE))
    assert list(ds.ImageType) == ["DERIVED", "SECONDARY", "AXIAL"]
    assert len(ds.SeriesDescription) == 64 and ds.SeriesDescription.startswith("MIAD-MARK protected: xxx")
    assert ds.DerivationDescription.endswith("before: lossy")
    assert [item.CodeValue for item in ds.DerivationCodeSequence] == ["113040", "113042"]
    assert (ds.SmallestImagePixelValue, ds.LargestImagePixelValue) == (7, 1000)
    assert "DigitalSignaturesSequence" not in ds and "IconImageSequence" not in ds
    assert ds.BurnedInAnnotation == "NO" and ds.LossyImageCompression == "01"
    assert CARRIER.rebuild(opened.shell, opened.image.values) == data


def test_uids_follow_from_source_and_secret() -> None:
    """Objects of a series stay together under one secret; without it, no guess at a source can be confirmed."""
    series, sources = bytes(32), (made(GRADIENT), made(GRADIENT + np.uint16(1)), made(GRADIENT))
    opened = [CARRIER.open_source(data, "a.dcm") for data in sources]

    def protected(index: int, secrets: UidSecrets | None = None) -> Dataset:
        source = opened[index]
        return read(CARRIER.carry(sources[index], source, moved(source.image.values), ENVELOPE, secrets=secrets))

    objects = [protected(index, UidSecrets(series=series)) for index in range(3)]
    assert len({each.SOPInstanceUID for each in objects}) == 3
    assert len({each.SeriesInstanceUID for each in objects}) == 1
    alone = [protected(0), protected(0)]
    assert len({str(each[name].value) for each in alone for name in ("SOPInstanceUID", "SeriesInstanceUID")}) == 4
    fixed = [protected(0, UidSecrets(bytes(32), bytes(32))) for _ in range(2)]
    assert fixed[0].SOPInstanceUID == fixed[1].SOPInstanceUID
    assert derived_uid(bytes(32), b"a", b"bc") != derived_uid(bytes(32), b"ab", b"c")
    assert derived_uid(b"key", b"a") == "2.25.141822748864360012436434336668632520074"


def test_objects_without_a_series_have_no_oracle_either() -> None:
    data = made(GRADIENT, SeriesInstanceUID="")
    source = CARRIER.open_source(data, "a.dcm")
    first, second = (
        read(CARRIER.carry(data, source, source.image.values, ENVELOPE, secrets=UidSecrets(series=bytes(32))))
        for _ in range(2)
    )
    assert first.SeriesInstanceUID != second.SeriesInstanceUID


def test_enhanced_objects_declare_it_in_their_functional_groups() -> None:
    frame_type, voi, rescale, group = Dataset(), Dataset(), Dataset(), Dataset()
    frame_type.FrameType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    voi.WindowCenter, voi.WindowWidth, voi.VOILUTFunction = 400, 1000, "LINEAR_EXACT"
    rescale.RescaleSlope, rescale.RescaleIntercept, rescale.RescaleType = 2, -100, "HU"
    group.CTImageFrameTypeSequence = Sequence([frame_type])
    group.FrameVOILUTSequence = Sequence([voi])
    group.PixelValueTransformationSequence = Sequence([rescale])
    data = made(GRADIENT, Modality="CT", SharedFunctionalGroupsSequence=Sequence([group]))
    opened = CARRIER.open_source(data, "a")
    assert (opened.image.window.low, opened.image.window.high) == (0, 500)
    (shared,) = read(CARRIER.carry(data, opened, opened.image.values, ENVELOPE)).SharedFunctionalGroupsSequence
    assert shared.CTImageFrameTypeSequence[0].FrameType[0] == "DERIVED"
    item = shared.DerivationImageSequence[0]
    assert item.DerivationCodeSequence[0].CodeValue == "113042"
    assert item.SourceImageSequence[0].ReferencedSOPInstanceUID == "1.2.3.4"


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"WindowCenter": 1000, "WindowWidth": 400}, (800.0, 1199.0, False)),
        ({"WindowCenter": [1000, 5], "WindowWidth": [400, 5]}, (800.0, 1199.0, False)),
        ({"WindowCenter": 1000, "WindowWidth": 400, "PhotometricInterpretation": "MONOCHROME1"}, (800.0, 1199.0, True)),
        (
            {"WindowCenter": -1000, "WindowWidth": 400, "RescaleSlope": -1, "RescaleIntercept": 0},
            (801.0, 1200.0, True),
        ),
        (
            {
                "WindowCenter": -1000,
                "WindowWidth": 400,
                "RescaleSlope": -1,
                "RescaleIntercept": 0,
                "PhotometricInterpretation": "MONOCHROME1",
            },
            (801.0, 1200.0, False),
        ),
        ({"Modality": "CT", "RescaleSlope": 1, "RescaleIntercept": -1024}, (864.0, 1264.0, False)),
        ({"WindowCenter": 100, "WindowWidth": 1, "VOILUTFunction": "LINEAR"}, None),
    ],
)
def test_window(attributes: dict[str, Any], expected: tuple[float, float, bool] | None) -> None:
    window = CARRIER.open_source(made(GRADIENT, **attributes), "a").image.window
    if expected is None:  # shows two values: percentiles instead
        assert 0 < window.low < 100 and 3500 < window.high < GRADIENT.max()
    else:
        assert (window.low, window.high, window.inverted) == expected


def test_window_without_any_hint() -> None:
    eight = (GRADIENT % 200).astype(np.uint8)
    assert CARRIER.open_source(made(eight), "a").image.window.high == 255
    window = CARRIER.open_source(made(GRADIENT, PhotometricInterpretation="MONOCHROME1"), "a").image.window
    assert 0 <= window.low < window.high <= GRADIENT.max() and window.inverted
    padded = GRADIENT.copy()
    padded[:, :6] = 60000
    assert CARRIER.open_source(made(padded, PixelPaddingValue=60000), "a").image.window.high < 4000
    outside = CARRIER.open_source(made(GRADIENT, WindowCenter=-5000, WindowWidth=10), "a").image.window
    assert outside.low >= 0
    assert CARRIER.open_source((ROOT / "CT_small.dcm").read_bytes(), "a").image.window.low == 864


def test_bounds_and_padding() -> None:
    image = CARRIER.open_source(made(GRADIENT, bits_stored=12), "a").image
    assert tuple(image.bounds) == (0, 4095) and image.padding is None
    signed = GRADIENT.astype(np.int16)
    image = CARRIER.open_source(made(signed, bits_stored=12, PixelPaddingValue=-2000), "a").image
    assert tuple(image.bounds) == (-2048, 2047) and image.padding == (-2000, -2000)
    image = CARRIER.open_source(made(GRADIENT, PixelPaddingValue=9, PixelPaddingRangeLimit=4), "a").image
    assert image.padding == (4, 9)
    assert CARRIER.open_source((ROOT / "CT_small.dcm").read_bytes(), "a").image.padding == (-2000, -2000)


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"HighBit": 15, "bits_stored": 12}, "low bits"),
        ({"PhotometricInterpretation": "YBR_FULL"}, "YBR_FULL DICOM of 1 samples"),
        ({"PhotometricInterpretation": "YBR_PARTIAL_420", "SamplesPerPixel": 3}, "YBR_PARTIAL_420"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "palette is missing"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4"}, "a label is not an image"),
        ({"SamplesPerPixel": 2}, "2 samples per pixel"),
        ({"Rows": 65535, "Columns": 65535, "NumberOfFrames": 2**31 - 1}, "truncated"),
        ({"Rows": 0}, "no pixels"),
        ({"FloatPixelData": b"\0\0\0\0"}, "two kinds of pixel data"),
        ({"DoubleFloatPixelData": bytes(8)}, "double float"),
        ({"BitsAllocated": 64, "bits_stored": 64, "HighBit": 63}, "64 bits allocated"),
    ],
)
def test_refused_attributes(attributes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnsupportedImageError, match=reason):
        CARRIER.open_source(made(GRADIENT, **attributes), "a")


def test_object_without_uids_gets_one_and_names_no_source() -> None:
    data = made(GRADIENT)
    ds = read(data)
    del ds.SOPInstanceUID, ds.file_meta.MediaStorageSOPInstanceUID
    buffer = io.BytesIO()
    ds.save_as(buffer)
    made_of_it = read(protect(buffer.getvalue()))
    assert made_of_it.SOPInstanceUID.startswith("2.25.") and "SourceImageSequence" not in made_of_it


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_record_in_any_block_and_replaced(syntax: str) -> None:
    data = made(GRADIENT, syntax)
    ds = read(data)
    ds.private_block(PRIVATE_GROUP, "SOMEBODY ELSE", create=True).add_new(1, "LO", "kept")
    buffer = io.BytesIO()
    ds.save_as(buffer)
    protected = protect(buffer.getvalue())
    assert read(protected)[PRIVATE_GROUP, 0x11].value.strip() == PRIVATE_CREATOR
    changed = CARRIER.replace_envelope(protected, b"other envelope")
    assert CARRIER.open_protected(changed).envelope == b"other envelope"
    assert CARRIER.replace_envelope(changed, ENVELOPE) == protected
    # Another program's rewriting, in another transfer syntax, keeps it readable.
    again = read(protected)
    again.file_meta.TransferSyntaxUID = syntax
    buffer = io.BytesIO()
    again.save_as(buffer)
    assert CARRIER.open_protected(buffer.getvalue()).envelope == ENVELOPE


def test_stripped_and_sidecar() -> None:
    protected = protect(made(GRADIENT))
    ds = read(protected)
    ds.remove_private_tags()
    buffer = io.BytesIO()
    ds.save_as(buffer)
    stripped = CARRIER.open_protected(buffer.getvalue())
    assert stripped.envelope is None and not stripped.marked
    assert np.array_equal(stripped.values, moved(GRADIENT))
    beside = protect(made(GRADIENT), None)
    assert CARRIER.open_protected(beside).envelope is None and CARRIER.open_protected(beside).marked
    with pytest.raises(UnsupportedImageError, match="protected already"):
        CARRIER.open_source(beside, "a")
    for data in (beside, buffer.getvalue()):
        with pytest.raises(NotProtectedError):
            CARRIER.replace_envelope(data, ENVELOPE)


def test_damage_is_named() -> None:
    protected = protect(made(GRADIENT))
    at = protected.index(ENVELOPE)
    for position in (at - 16, at - 8, at + len(ENVELOPE)):
        broken = bytearray(protected)
        broken[position] ^= 0xFF
        with pytest.raises(TamperedError):
            CARRIER.open_protected(bytes(broken))
    for length in (len(protected) - 1, at + 9):
        with pytest.raises(TamperedError):
            CARRIER.open_protected(protected[:length])
    again = CARRIER.open_protected((ROOT / "MR_small_RLE.dcm").read_bytes())
    assert again.envelope is None and not again.marked


def test_wrong_arguments() -> None:
    data = made(GRADIENT)
    opened = CARRIER.open_source(data, "a")
    with pytest.raises(ValueError, match="expected uint16"):
        CARRIER.carry(data, opened, opened.image.values.astype(np.int16), ENVELOPE)
    with pytest.raises(ValueError, match="empty"):
        CARRIER.carry(data, opened, opened.image.values, b"")
    with pytest.raises(TamperedError):
        CARRIER.rebuild(opened.shell, None)
    with pytest.raises(TamperedError):
        CARRIER.rebuild(opened.shell, opened.image.values[:, :3])
    with pytest.raises(TamperedError):
        carrier_named("none such")


def test_no_warning_and_no_patient_in_messages(recwarn: pytest.WarningsRecorder) -> None:
    for name in ("CT_small.dcm", "UN_sequence.dcm", "badVR.dcm"):
        data = (ROOT / name).read_bytes()
        try:
            opened = CARRIER.open_source(data, name)
            CARRIER.open_protected(CARRIER.carry(data, opened, opened.image.values, ENVELOPE))
            assert "Compressed" not in repr(opened.shell)
        except UnsupportedImageError:
            pass
    assert not recwarn.list


SEEDS = [
    made(GRADIENT[:, :3, :4]),
    protect(made(GRADIENT[:, :3, :4])),
    protect(made(GRADIENT[:, :3, :4], ImplicitVRLittleEndian)),
    (ROOT / "MR_small_RLE.dcm").read_bytes(),
    (ROOT / "SC_rgb_small_odd_jpeg.dcm").read_bytes(),
    (ROOT / "image_dfl.dcm").read_bytes(),
]


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 2**20), st.binary(min_size=1, max_size=4)), max_size=4),
    st.one_of(st.none(), st.integers(0, 2**20)),
)
def test_only_named_errors_escape(seed: bytes, edits: list[tuple[int, bytes]], cut: int | None) -> None:
    data = bytearray(seed)
    for position, patch in edits:
        position = 128 + position % (len(seed) - 128)
        data[position : position + len(patch)] = patch
    broken = bytes(data if cut is None else data[: cut % (len(data) + 1)])
    for call in (
        lambda: CARRIER.open_protected(broken),
        lambda: CARRIER.replace_envelope(broken, ENVELOPE),
        lambda: protect(broken),
        lambda: carrier_for(broken, "a"),
    ):
        try:
            call()
        except MIADMarkError:
            pass

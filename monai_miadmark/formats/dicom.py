# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""DICOM: samples spliced where they lie as they are shown, else decoded and the source file carried.

The protected object is a derived image with a private block, uncompressed in any case.
"""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
from cryptography import x509
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import UID

from monai_miadmark.errors import (
    LabelMapError,
    MIADMarkError,
    TamperedError,
    TooLargeError,
    UnsupportedImageError,
    check_memory,
)
from monai_miadmark.formats.base import (
    FoundRecord,
    OpenedSource,
    ProtectedFile,
    SampleLayout,
    carried_or_spliced,
    check_values,
    file_digest,
    missing_envelope,
    pack_block,
    refuse_protected,
    splice,
    unpack_block,
)
from monai_miadmark.formats.dicom_decoding import PIXEL_DATA, decode, lossy_method
from monai_miadmark.formats.dicom_derivation import UidSecrets, complete_head, declare_derived
from monai_miadmark.formats.dicom_display import shown_attributes
from monai_miadmark.formats.dicom_mending import looks_like_dicom, mend_elements
from monai_miadmark.formats.dicom_native import make_native
from monai_miadmark.formats.dicom_pixels import (
    PixelDescription,
    describe,
    display_window,
    extended_signs,
    image_origin,
    pixel_bounds,
    pixel_padding,
)
from monai_miadmark.formats.dicom_ps315 import add_encrypted_attributes, check_certificates
from monai_miadmark.formats.dicom_reading import (
    BIG_ENDIAN,
    NATIVE,
    UNDEFINED_LENGTH,
    Source,
    check_nesting,
    quiet,
    raw_element,
    read,
)
from monai_miadmark.formats.dicom_scanned import PRIVATE_CREATOR, PRIVATE_GROUP, RECORD_ELEMENT
from monai_miadmark.formats.dicom_scanned import scanned_file as _scanned
from monai_miadmark.formats.display import digest_of
from monai_miadmark.image import StoredImage
from monai_miadmark.shell import CARRIED_FILE, SourceShell

__all__ = ["PRIVATE_CREATOR", "PRIVATE_GROUP", "RECORD_ELEMENT", "DicomCarrier"]

_FLOAT_PIXEL_DATA = 0x7FE00008
_DOUBLE_PIXEL_DATA = 0x7FE00009
_LABELS = {
    "1.2.840.10008.5.1.4.1.1.66.4": "Segmentation",
    "1.2.840.10008.5.1.4.1.1.66.7": "Label Map Segmentation",
}


@dataclass(frozen=True)
class _Samples:
    """Samples of a file.

    Attributes:
        values: ``(N, H, W, C)``.
        bits_stored: significant bits.
        spliced: layout and position in the file where they lie there as they are, else ``None``.
    """

    values: NDArray[Any]
    bits_stored: int
    spliced: tuple[SampleLayout, int] | None

    @property
    def layout(self) -> SampleLayout:
        """Shape and type in the form that the rules for windows and padding take."""
        n, height, width, channels = self.values.shape
        return SampleLayout((n, height, width, channels), self.values.dtype.name)


def _describe(source: Source) -> PixelDescription:
    """What a file says of its samples.

    Raises:
        UnsupportedImageError: no image, or a kind that is not supported, by name.
    """
    if not source.syntax:
        raise UnsupportedImageError("DICOM without a transfer syntax is not supported")
    data_set = source.data_set
    if _DOUBLE_PIXEL_DATA in data_set:
        raise UnsupportedImageError("DICOM with double float pixel data is not supported (64 bits a sample)")
    if (PIXEL_DATA in data_set) == (_FLOAT_PIXEL_DATA in data_set):
        if PIXEL_DATA in data_set:
            raise UnsupportedImageError("DICOM with two kinds of pixel data is not supported")
        if "DirectoryRecordSequence" in data_set:
            raise UnsupportedImageError("a DICOMDIR is not an image")
        # A damaged file may hold anything there: what is no UID is not repeated.
        uid = UID(str(data_set.get("SOPClassUID", "") or ""))
        kind = (uid.name[:64] if uid.is_valid else "no valid SOP class") if uid else "no SOP class"
        raise UnsupportedImageError(f"DICOM object without pixel data ({kind})")
    return describe(data_set)


def _located(source: Source, description: PixelDescription) -> tuple[SampleLayout, int, int] | None:
    """Layout, position and length of pixel data that lie in the body as they are shown; ``None``: to be decoded.

    Raises:
        UnsupportedImageError: truncated, or not where they seem to be.
    """
    floats = description.dtype == "float32"
    found = raw_element(source.data_set, _FLOAT_PIXEL_DATA if floats else PIXEL_DATA)
    if found is None:
        raise TamperedError("a DICOM element is damaged")
    value, length, start = found
    if (length == UNDEFINED_LENGTH) == (source.syntax in NATIVE):
        raise UnsupportedImageError("DICOM whose pixel data do not lie as its transfer syntax says is not supported")
    if source.syntax not in NATIVE or not description.as_stored:
        if floats:
            raise UnsupportedImageError("compressed float DICOM is not supported")
        return None
    layout = description.layout(source.syntax == BIG_ENDIAN)
    if len(value) != length or length < layout.nbytes:
        raise UnsupportedImageError("the DICOM pixel data are shorter than the image (truncated)")
    if source.body[start : start + length] != value:
        raise UnsupportedImageError("the DICOM pixel data cannot be located in the file")
    if layout.big_endian and description.allocated == 8 and source.body[start - 8 : start - 6] == b"OW":
        return None  # bytes are swapped in pairs
    return layout, start, length


def _samples(source: Source) -> _Samples:
    """Samples of a file as they are shown.

    Raises:
        UnsupportedImageError: a kind that is not supported, by name.
    """
    description = _describe(source)
    found = _located(source, description)
    if found is None:
        decoded = decode(source, description)
        return _Samples(decoded.values, decoded.bits_stored, None)
    layout, start, _ = found
    values = layout.decode(memoryview(source.body)[start : start + layout.nbytes])
    return _Samples(values, description.stored, None if source.deflated or source.mended else (layout, start))


def _record_tags(data_set: Dataset) -> list[int]:
    """Tags of the envelope element, one for each block of ours; any block number, since writers may move blocks."""
    tags = []
    for block in range(0x10, 0x100):
        creator = (PRIVATE_GROUP << 16) | block
        if creator not in data_set:
            continue
        value = getattr(data_set.get_item(creator), "value", None)
        text = value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)
        if text.strip(" \0") == PRIVATE_CREATOR:
            tags.append((PRIVATE_GROUP << 16) | (block << 8) | RECORD_ELEMENT)
    return tags


def _record(data_set: Dataset) -> tuple[bytes, int, int] | None:
    """The packed envelope as :func:`raw_element` gives it; ``None`` where the object was never marked."""
    tags = _record_tags(data_set)
    if not tags:
        return None
    if len(tags) > 1:
        raise TamperedError("the DICOM file holds more than one recovery record")
    found = raw_element(data_set, tags[0])
    if found is None:
        raise TamperedError("the DICOM private block lacks its recovery record")
    return found


def _as_written(data: bytes) -> Source:
    """The data set of a file; we write nothing that has to be mended, so a marked one is read as it is."""
    source = read(data)
    return read(data, mend=False) if source.mended and _record_tags(source.data_set) else source


def _check_end(data_set: Dataset, data: bytes) -> None:
    """Refuse a protected file whose last element is not whole, or that goes on after it.

    pydicom takes a value that is cut short, and a cut element header, without a word.
    """
    last = data_set.get_item(max(data_set.keys()))
    start, length, value = (getattr(last, name, None) for name in ("value_tell", "length", "value"))
    if not isinstance(value, bytes) or not isinstance(start, int) or length == UNDEFINED_LENGTH:
        return
    if len(value) != length or start + len(value) != len(data):
        raise TamperedError("the DICOM file is truncated, or something was appended to it")


@contextmanager
def _damage_is_tampering() -> Iterator[None]:
    """Errors of pydicom, which parses values on access, are damage of a file that was protected."""
    try:
        yield
    except MIADMarkError:
        raise
    except Exception as error:
        check_memory(error)
        raise TamperedError("the DICOM file has attributes that cannot be read") from error


class DicomCarrier:
    """DICOM images of 8, 16 or 32 bits and of single floats, gray or color, single and multi-frame.

    Samples that lie in the file as they are shown are spliced. All others (compressed, deflated, palette, YBR, bytes
    in big-endian words) are decoded, and the record carries the source file.
    """

    name = "dicom"

    def matches(self, data: bytes) -> bool:
        """See :class:`~monai_miadmark.formats.base.Carrier`."""
        return looks_like_dicom(data)

    @quiet()
    def open_source(self, data: bytes, name: str) -> OpenedSource:
        """See :class:`~monai_miadmark.formats.base.Carrier`."""
        try:
            source = read(data)
            refuse_protected(bool(_record_tags(source.data_set)))
            label = _LABELS.get(str(source.data_set.get("SOPClassUID", "")))
            if label is not None:
                raise LabelMapError(f"{label} DICOM is not supported (a label is not an image to protect)")
            samples = _samples(source)
            values, shell = samples.values, None
            signed = extended_signs(values, source.data_set, samples.bits_stored)
            if signed is not None:
                values = signed
            elif samples.spliced is not None:
                layout, start = samples.spliced
                end = start + layout.nbytes
                blobs = {"prefix": data[:start], "suffix": data[end:]}
                shell = SourceShell(self.name, PurePath(name).name, layout.to_meta(), blobs)
                if splice(shell, values) != data:
                    raise UnsupportedImageError("the DICOM file cannot be rebuilt exactly")
            if shell is None:
                shell = SourceShell(self.name, PurePath(name).name, {}, {CARRIED_FILE: data})
            window = display_window(source.data_set, samples.layout, samples.bits_stored, values)
            bounds = pixel_bounds(values.dtype.name, samples.bits_stored, values)
            padding = pixel_padding(source.data_set, samples.layout)
            origin = image_origin(source.data_set)
            return OpenedSource(StoredImage(values, bounds, window, padding, origin), shell)
        except TamperedError as error:
            raise UnsupportedImageError(f"not a valid DICOM file: {error}") from error
        except MIADMarkError:
            raise
        except Exception as error:  # values are parsed on access, so damage may show anywhere above
            check_memory(error)
            raise UnsupportedImageError("the DICOM file has attributes that cannot be read") from error

    def rebuild(self, shell: SourceShell, values: NDArray[Any] | None) -> bytes:
        """See :class:`~monai_miadmark.formats.base.Carrier`; of a carried file the samples are not looked at."""
        return carried_or_spliced(shell, values)

    def carry(
        self,
        data: bytes,
        opened: OpenedSource,
        values: NDArray[Any],
        envelope: bytes | None,
        certificates: Sequence[x509.Certificate] = (),
        secrets: UidSecrets | None = None,
    ) -> bytes:
        """See :class:`~monai_miadmark.formats.base.Carrier`.

        For ``certificates``, if there are any, the original attributes are added once more in the standard's own
        envelope, see :func:`~monai_miadmark.formats.dicom_ps315.add_encrypted_attributes`; that about doubles the file.
        ``ValueError`` for a certificate that cannot be encrypted for.

        The object becomes a derived image with new instance and series UIDs (by ``secrets``, else by fresh ones), see
        :func:`~monai_miadmark.formats.dicom_derivation.declare_derived`; where the source file is carried, an
        uncompressed one, see :func:`~monai_miadmark.formats.dicom_native.make_native`.
        """
        check_values(opened, values, envelope)
        check_certificates(certificates)
        try:
            with quiet():
                data_set = self._derived(data, opened, values, secrets or UidSecrets())
                if certificates:
                    add_encrypted_attributes(data_set, read(data), certificates)
                block = data_set.private_block(PRIVATE_GROUP, PRIVATE_CREATOR, create=True)
                packed = pack_block(envelope)
                block.add_new(RECORD_ELEMENT, "OB", packed + bytes(len(packed) % 2))
                check_nesting(data_set)
                written = _written(data_set)
            again = self.open_protected(written)
        except UnsupportedImageError:
            raise
        except Exception as error:  # pydicom cannot write everything that it reads
            check_memory(error)
            raise UnsupportedImageError("the DICOM file has attributes that cannot be written again") from error
        # The data set was written by a library that repairs what it reads: look at what came out.
        if again.envelope != envelope or not np.array_equal(_bits(again.values), _bits(values)):
            raise UnsupportedImageError("the protected DICOM file does not read back as it was written")
        return written

    def _derived(self, data: bytes, opened: OpenedSource, values: NDArray[Any], secrets: UidSecrets) -> Dataset:
        """The protected data set without its record."""
        source = read(data)
        data_set, description = source.data_set, _describe(source)
        complete_head(data_set, source.syntax)
        # All that is taken from the source's pixel data comes first: they are replaced below.
        if CARRIED_FILE in opened.shell.blobs:
            lossy = lossy_method(source, description)
            declare_derived(data_set, hashlib.sha256(data).digest(), values, secrets)
            make_native(data_set, values, source.syntax, lossy)
            return data_set
        found = _located(source, description)
        if found is None:
            raise TamperedError("the samples are not where they were")
        layout, start, length = found
        declare_derived(data_set, hashlib.sha256(data).digest(), values, secrets)
        tag = _FLOAT_PIXEL_DATA if description.dtype == "float32" else PIXEL_DATA
        data_set[tag].value = layout.encode(values) + data[start + layout.nbytes : start + length]
        return data_set

    def open_protected(self, data: bytes) -> ProtectedFile:
        """See :class:`~monai_miadmark.formats.base.Carrier`.

        What was compressed without loss after it was protected reads as before.
        """
        return _scanned(data) or self._parsed(data)

    @quiet()
    def open_record(self, data: bytes) -> FoundRecord:
        """See :class:`~monai_miadmark.formats.base.Carrier`."""
        source = _as_written(data)
        with _damage_is_tampering():
            found = _record(source.data_set)
            if found is None:
                return FoundRecord(None, False)
            _check_end(source.data_set, source.body)
            return FoundRecord(unpack_block(found[0]), True)

    @quiet()
    def display_digest(self, data: bytes) -> bytes:
        """See :class:`~monai_miadmark.formats.base.Carrier`; top-level attributes, numbers by their value."""
        with _damage_is_tampering():
            return digest_of(self.name, shown_attributes(read(data).data_set))

    @quiet()
    def _parsed(self, data: bytes) -> ProtectedFile:
        """As :meth:`open_protected`, of any file."""
        source = _as_written(data)
        marked = False
        with _damage_is_tampering():
            try:
                found = _record(source.data_set)
                marked = found is not None
                if marked:
                    _check_end(source.data_set, source.body)
                values = _samples(source).values
                return ProtectedFile(values, unpack_block(found[0]) if found else None, marked)
            except UnsupportedImageError as error:
                if not marked or isinstance(error, TooLargeError):
                    raise
                raise TamperedError(f"the protected file was changed: {error}") from error

    def replace_envelope(self, data: bytes, envelope: bytes) -> bytes:
        """See :class:`~monai_miadmark.formats.base.Carrier`; only the element's length and value change."""
        if not envelope:
            raise ValueError("the envelope is empty")
        if self.open_protected(data).envelope is None:
            raise missing_envelope()
        data_set = read(data).data_set
        found = _record(data_set)
        if found is None or found[1] != len(found[0]) or data[found[2] : found[2] + found[1]] != found[0]:
            raise TamperedError("the recovery record cannot be located in the file")
        packed = pack_block(envelope)
        packed += bytes(len(packed) % 2)
        order = ">" if data_set.file_meta.TransferSyntaxUID == BIG_ENDIAN else "<"
        start = found[2]
        # The four bytes before a value are its length, in explicit VR (OB, UN) as in implicit VR.
        changed = b"".join((data[: start - 4], struct.pack(f"{order}I", len(packed)), packed, data[start + found[1] :]))
        if self.open_protected(changed).envelope != envelope:
            raise TamperedError("the recovery record cannot be replaced in the file")
        return changed

    def output_name(self, name: str) -> str:
        """The same name."""
        return PurePath(name).name

    def file_digest(self, data: bytes) -> bytes:
        """SHA-256 of the file."""
        return file_digest(data)


def _written(data_set: Dataset) -> bytes:
    """The file of a data set; elements that pydicom reads but cannot write are mended."""
    buffer = io.BytesIO()
    try:
        data_set.save_as(buffer)
    except Exception as error:  # the writer raises nearly anything
        check_memory(error)
        mend_elements(data_set)
        buffer = io.BytesIO()
        data_set.save_as(buffer)
    return buffer.getvalue()


def _bits(values: NDArray[Any]) -> NDArray[Any]:
    """Bit patterns: NaN does not equal itself."""
    return values.view(f"u{values.dtype.itemsize}")

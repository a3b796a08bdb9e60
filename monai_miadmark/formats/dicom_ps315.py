# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The original attributes once more, in the standard's own envelope, for software that knows nothing of this package.

Encrypted Attributes Sequence of PS3.3 C.12.1.1.4.1 and PS3.15 E.1.1: CMS EnvelopedData (RSA, AES-256-CBC) of a data set
with one Modified Attributes Sequence, whose only item has the original value of each attribute that was changed or
removed, pixel data included. That attributes were added the standard has no way to say: who wants the original and
nothing else deletes :data:`ADDED_KEYWORDS` and group 0411 before putting the originals back.

EnvelopedData is not authenticated: whoever changes the ciphertext changes what comes out, and nothing notices. The
record of this package is; this is a second way, not a replacement.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.ciphers import algorithms
from cryptography.hazmat.primitives.serialization import pkcs7
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import UID

from monai_miadmark.errors import UnsupportedImageError
from monai_miadmark.formats.dicom_reading import BIG_ENDIAN, EXPLICIT, NATIVE, Source, check_nesting
from monai_miadmark.recipients import CmsRecipient

__all__ = ["ADDED_KEYWORDS", "MAX_CONTENT_BYTES", "add_encrypted_attributes", "check_certificates"]

ADDED_KEYWORDS = (
    "ContributingEquipmentSequence",
    "DerivationCodeSequence",
    "DerivationDescription",
    "EncryptedAttributesSequence",
    "ImageType",
    "LossyImageCompression",
    "LossyImageCompressionMethod",
    "LossyImageCompressionRatio",
    "PlanarConfiguration",
    "SeriesDescription",
    "SeriesInstanceUID",
    "SourceImageEvidenceSequence",
    "SourceImageSequence",
)
"""What protecting may add. Where the source has one of these, its value is always among the encrypted ones."""

MAX_CONTENT_BYTES = (1 << 31) - (1 << 16)
"""Largest data set that is encrypted: it is held in memory several times, and an element of DICOM has 2^32 bytes."""


def add_encrypted_attributes(data_set: Dataset, source: Source, certificates: Sequence[x509.Certificate]) -> None:
    """Add the Encrypted Attributes Sequence to a protected data set, in place.

    Args:
        data_set: of the protected object, complete but for the record of this package.
        source: the source file, read anew; its elements are parsed here.
        certificates: X.509 certificates with RSA keys of at least 2048 bits, one for each who may decrypt.

    Raises:
        ValueError: no certificate, or one that is not for encryption.
        UnsupportedImageError: a source that cannot be carried this way.
    """
    check_certificates(certificates)
    if not certificates:
        raise ValueError("at least one certificate is needed")
    if "EncryptedAttributesSequence" in source.data_set:
        raise UnsupportedImageError("DICOM that holds encrypted attributes already cannot take further ones")
    if source.syntax == BIG_ENDIAN:
        # Content has to be little-endian, and what a word is depends on the element.
        raise UnsupportedImageError("encrypted attributes of big-endian DICOM are not supported")
    # The content may be in any transfer syntax with explicit VR and little-endian: compressed frames stay as they are.
    syntax = EXPLICIT if source.syntax in NATIVE else source.syntax
    content = _content(_modified(data_set, source.data_set))
    builder = pkcs7.PKCS7EnvelopeBuilder().set_data(content)
    for certificate in certificates:
        builder = builder.add_recipient(certificate)
    # Without Binary, line ends in the content would be rewritten: pixels destroyed, and no error.
    sealed = builder.set_content_encryption_algorithm(algorithms.AES256).encrypt(
        serialization.Encoding.DER, [pkcs7.PKCS7Options.Binary]
    )
    item = Dataset()
    item.EncryptedContentTransferSyntaxUID = UID(syntax)
    item.add_new("EncryptedContent", "OB", sealed + bytes(len(sealed) % 2))
    data_set.EncryptedAttributesSequence = DicomSequence([item])


def check_certificates(certificates: Sequence[x509.Certificate]) -> None:
    """Make sure that certificates can be encrypted for.

    Raises:
        ValueError: one has no RSA key of at least 2048 bits, or its key usage does not allow key encipherment.
    """
    for certificate in certificates:
        CmsRecipient(certificate)


def _modified(data_set: Dataset, source: Dataset) -> Dataset:
    """Elements of the source that are others in the protected data set, or not there, or could be taken for added."""
    modified = Dataset()
    for element in source:
        if element.tag.element == 0:  # group lengths: retired, and never written again
            continue
        if element.keyword in ADDED_KEYWORDS or element.tag not in data_set or data_set[element.tag] != element:
            modified.add(element)
    if "SpecificCharacterSet" in source:  # without it the text would be encoded otherwise
        modified.SpecificCharacterSet = source.SpecificCharacterSet
    return modified


def _content(modified: Dataset) -> bytes:
    """The data set that is encrypted, explicit VR little-endian, read back and compared."""
    inner = Dataset()
    inner.ModifiedAttributesSequence = DicomSequence([modified])
    check_nesting(inner)
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, inner)
    content = buffer.getvalue()
    if len(content) > MAX_CONTENT_BYTES:
        raise UnsupportedImageError(f"encrypted attributes of more than {MAX_CONTENT_BYTES} bytes are not supported")
    again = read_dataset(io.BytesIO(content), is_implicit_VR=False, is_little_endian=True)
    (item,) = again.ModifiedAttributesSequence
    if item != modified:
        raise UnsupportedImageError("attributes of the DICOM file do not read back from the encrypted content")
    return content

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Protect and restore, whole files or arrays, all in memory: nothing is given out before it has been checked."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from monai_miadmark import seal
from monai_miadmark.errors import (
    LabelMapError,
    NoEffectError,
    NotProtectedError,
    TamperedError,
    UnsupportedImageError,
    check_memory,
)
from monai_miadmark.exact import apply_mark
from monai_miadmark.file_names import restored_name
from monai_miadmark.findings import Findings
from monai_miadmark.formats import carrier_for, carrier_named
from monai_miadmark.formats.base import Carrier, FoundRecord, OpenedSource, ProtectedFile
from monai_miadmark.formats.dicom_front import DicomFront
from monai_miadmark.formats.label_maps import looks_like_labels
from monai_miadmark.image import StoredImage, pixel_digest
from monai_miadmark.marking import Marker, canonical_display, check_region, mark_with, seen_by_networks, specialist_for
from monai_miadmark.opinions import opinion_of_mark
from monai_miadmark.options import ProtectOptions
from monai_miadmark.owner import SERIES_PURPOSE, owner_key
from monai_miadmark.protocols import recognized
from monai_miadmark.record import RecoveryRecord, check_shell
from monai_miadmark.series import SeriesPlan
from monai_miadmark.shell import SourceShell
from monai_miadmark.signatures import Signer, Verifier
from monai_miadmark.wrapping import KeyIdentity, Recipient

if TYPE_CHECKING:
    from cryptography import x509

    from monai_miadmark.formats.dicom_derivation import UidSecrets

__all__ = [
    "ProtectedBytes",
    "RestoredBytes",
    "check_source",
    "grant_bytes",
    "inspect_bytes",
    "protect_bytes",
    "protect_image",
    "read_record",
    "remove_bytes",
    "restore_image",
    "restored_bytes",
    "revoke_bytes",
    "verify_bytes",
]

_log = logging.getLogger(__name__)

_KEY_BYTES = 32

DISPLAY_NOTE = "display"
"""Note of new records: :meth:`Carrier.display_digest` of the protected file, hex."""

_SHELL_BYTES, _SHELL_RATIO = 1 << 26, 256
"""Headers, or a carried source file, that a record may hold beyond what its samples explain: so much, and so many times
its own size."""


_Params = ParamSpec("_Params")
_Result = TypeVar("_Result")


def _naming_memory(function: Callable[_Params, _Result]) -> Callable[_Params, _Result]:
    """The function, with OutOfMemoryError where memory runs out in it."""

    @functools.wraps(function)
    def named(*args: _Params.args, **kwargs: _Params.kwargs) -> _Result:
        try:
            return function(*args, **kwargs)
        except MemoryError as error:
            check_memory(error)
            raise

    return named


@dataclass(frozen=True, repr=False)
class ProtectedBytes:
    """A protected file.

    Attributes:
        data: the file's bytes, with the envelope inside unless a sidecar was asked for.
        envelope: the sealed recovery record.
        name: base name for the output file.
        findings: what was found out about the image and its mark.
    """

    data: bytes
    envelope: bytes
    name: str
    findings: Findings

    @property
    def changed(self) -> int:
        """Samples that the mark changed; 0 where there is nothing to mark, as in an image of one value."""
        return self.findings.changed


@dataclass(frozen=True, repr=False)
class RestoredBytes:
    """A restored file.

    Attributes:
        data: its bytes.
        name: base name that the source had, as the record says: not checked for use as a path.
        kind: its format.
    """

    data: bytes
    name: str
    kind: str

    @property
    def file_name(self) -> str:
        """Name under which it may be written, see :func:`~monai_miadmark.file_names.restored_name`.

        Raises:
            ValueError: the record names a file that it must not name.
        """
        return restored_name(self.name, self.kind, self.data[:2] == b"\x1f\x8b")


@_naming_memory
def protect_image(
    image: StoredImage,
    recipients: Sequence[Recipient],
    marker: Marker,
    options: ProtectOptions | None = None,
    signer: Signer | None = None,
) -> tuple[NDArray[Any], bytes]:
    """Mark stored samples and seal what undoes it.

    Args:
        image: the samples.
        recipients: who may restore, at least one.
        marker: networks that make the mark.
        options: the custodian's choices; default: standard preset, visible, region auto.
        signer: the custodian's signing key.

    Returns:
        Protected samples ``(N, H, W, C)`` of the same type, and the envelope.

    Raises:
        ValueError: no recipient, or a region mask that does not fit.
    """
    made = _protect(image, recipients, marker, options, None, None)
    # Raises if the mark would not come off exactly.
    _record_of(made.record, made.values, made.digest).restore(made.values, checked=True)
    _warn("array in memory", made.findings)
    return made.values, seal.seal(made.record, recipients, made.digest, made.key, signer, made.findings.notes)


@_naming_memory
def restore_image(
    values: NDArray[Any], envelope: bytes, identities: Sequence[KeyIdentity], require_signer: Verifier | None = None
) -> NDArray[Any]:
    """Undo :func:`protect_image`, bit for bit.

    Args:
        values: protected samples ``(N, H, W, C)``.
        envelope: what :func:`protect_image` gave with them.
        identities: keys to try.
        require_signer: custodian who must have signed.

    Returns:
        The original samples.

    Raises:
        NotProtectedError: ``envelope`` is not one.
        WrongKeyError: no identity fits.
        TamperedError: samples or envelope were changed, or do not belong together.
        SignatureError: not signed by the custodian that was demanded.
    """
    return read_record(envelope, values, identities, require_signer).restore(values, checked=True)


@_naming_memory
def protect_bytes(
    data: bytes,
    name: str,
    recipients: Sequence[Recipient],
    marker: Marker,
    options: ProtectOptions | None = None,
    signer: Signer | None = None,
    sidecar: bool = False,
    certificates: Sequence[x509.Certificate] = (),
    series_secret: bytes | None = None,
    series: SeriesPlan | None = None,
) -> ProtectedBytes:
    """Protect a whole file and prove in memory that it can be restored before giving it out.

    Args:
        data: the source file.
        name: its name; restored files get its base name back.
        recipients: who may restore, at least one.
        marker: networks that make the mark.
        options: the custodian's choices.
        signer: the custodian's signing key.
        sidecar: keep the envelope out of the file.
        certificates: X.509 certificates with RSA keys, for whose holders DICOM files get the original attributes once
            more in the standard's own envelope (PS3.15 E.1.1); see :meth:`DicomFront.carry`.
        series_secret: DICOM objects of one series that are protected with the same one (32 bytes) stay one series;
            default: that of the user, see ``owner``.
        series: what the mark is to have in common with others of its series; not used where it does not fit the image.

    Raises:
        UnsupportedImageError: the file is of a kind that cannot be restored exactly, or there are certificates and it
            is not DICOM.
        ValueError: no recipient, a certificate that cannot be encrypted for, a region mask that does not fit, or an
            owner's secret that cannot be trusted.
    """
    carrier = carrier_for(data, name)
    if certificates and not isinstance(carrier, DicomFront):
        raise UnsupportedImageError(
            f"{name}: encrypted attributes (PS3.15) are an element of DICOM, a {carrier.name} file cannot have them"
        )
    if certificates:
        from monai_miadmark.formats.dicom_ps315 import check_certificates

        check_certificates(certificates)
    opened = carrier.open_source(data, name)
    if not (options or ProtectOptions()).allow_label_maps:
        _refuse_labels(carrier, opened)
    _rehearse(carrier, data, opened, certificates, recipients, options)
    display = _display_of(carrier, data)
    made = _protect(opened.image, recipients, marker, options, opened.shell, carrier.file_digest(data), series)
    values, record, digest = made.values, made.record, made.digest
    notes = {**made.findings.notes, DISPLAY_NOTE: display}
    envelope = seal.seal(record, recipients, digest, made.key, signer, notes)
    # Each object has a content key of its own, which nobody but its recipients knows, and hence a UID of its own.
    instance = HKDF(hashes.SHA256(), 32, None, b"miadmark instance uid 1").derive(made.key)
    from monai_miadmark.formats.dicom_derivation import UidSecrets  # restoring needs none of pydicom

    secrets = UidSecrets(instance, owner_key(SERIES_PURPOSE) if series_secret is None else series_secret)
    protected = _carried(carrier, data, opened, values, None if sidecar else envelope, certificates, secrets)
    written = carrier_for(protected, name).open_protected(protected)
    if not _same_samples(written.values, values) or written.envelope != (None if sidecar else envelope):
        raise UnsupportedImageError(f"the {carrier.name} file would not keep the protected samples and their record")
    if carrier_for(protected, name).display_digest(protected).hex() != notes[DISPLAY_NOTE]:
        raise UnsupportedImageError(f"the {carrier.name} file would not be shown as its source")
    # What recipients will read is what must restore the file: the record is parsed again from its bytes.
    try:
        restored_bytes(_record_of(record, written.values, digest), written.values, checked=True)
    except TamperedError as error:  # nobody tampered with it: the format lost something
        raise UnsupportedImageError(f"the {carrier.name} file cannot be restored byte for byte") from error
    _warn(name, made.findings)
    return ProtectedBytes(protected, envelope, carrier.output_name(name), made.findings)


def check_source(data: bytes, name: str, options: ProtectOptions | None = None) -> None:
    """Refuse what :func:`protect_bytes` would refuse of a source file, without marking it.

    Raises:
        UnsupportedImageError: the file is of a kind that cannot be restored exactly.
        ValueError: it holds what no such file holds.
    """
    carrier = carrier_for(data, name)
    opened = carrier.open_source(data, name)
    if not (options or ProtectOptions()).allow_label_maps:
        _refuse_labels(carrier, opened)


@_naming_memory
def remove_bytes(
    data: bytes,
    identities: Sequence[KeyIdentity],
    envelope: bytes | None = None,
    require_signer: Verifier | None = None,
) -> RestoredBytes:
    """Restore a file.

    Args:
        data: the protected file.
        identities: keys to try.
        envelope: the sidecar's bytes, used where the file carries no record.
        require_signer: custodian who must have signed.

    Raises:
        NotProtectedError: there is no record.
        WrongKeyError: no identity fits.
        TamperedError: header, record or pixels were changed.
        SignatureError: not signed by the custodian that was demanded.
    """
    _, held, sealed = _open_protected(data, envelope)
    record = read_record(sealed, held.values, identities, require_signer)
    return restored_bytes(record, held.values, checked=True)


@_naming_memory
def restored_bytes(record: RecoveryRecord, values: NDArray[Any], checked: bool = False) -> RestoredBytes:
    """Rebuild a source file from its record and the protected samples, and compare it with the original's digest.

    Args:
        record: the record.
        values: protected samples ``(N, H, W, C)``.
        checked: the record came from :func:`read_record` with these samples. Then two digests are not taken: that of
            the protected samples, which was compared there, and that of the original ones. The file's own digest covers
            the latter: what has the SHA-256 of the original file is that file, with its samples in it.

    Raises:
        UnsupportedImageError: the record is one of an array, there is no file to go back to.
        TamperedError: record and samples do not give the original.
    """
    if record.shell is None:
        raise UnsupportedImageError("an array in memory was protected, not a file: restore it with RemoveMIADMark")
    # A JPEG source comes back out of a PNG file: the shell knows the format, the content does not.
    carrier = carrier_named(record.shell.format)
    samples = None
    if not record.carries_file:
        samples = record.undone(values) if checked else record.restore(values)
    data = carrier.rebuild(record.shell, samples)
    if carrier.file_digest(data) != record.original_file:
        raise TamperedError("the restored file does not have the digest of the original")
    if not carrier.matches(data):  # the digest is the record's word; what it carries may be anything
        raise TamperedError(f"the record does not hold a {carrier.name} file, as it says")
    return RestoredBytes(data, record.shell.name, carrier.name)


@_naming_memory
def inspect_bytes(data: bytes, envelope: bytes | None = None) -> seal.EnvelopeInfo:
    """Tell what a protected file says of itself; needs no key and promises nothing about its truth.

    Raises:
        NotProtectedError: there is no record.
        TamperedError: the record is damaged.
    """
    return seal.inspect_envelope(_open_record(data, envelope)[2])


@_naming_memory
def verify_bytes(data: bytes, envelope: bytes | None = None, signer: Verifier | None = None) -> seal.EnvelopeInfo:
    """Check without a key that record, pixels and signature belong together.

    Args:
        data: the protected file.
        envelope: the sidecar's bytes.
        signer: custodian who must have signed; a signature that is there is checked in any case.

    Raises:
        NotProtectedError: there is no record.
        TamperedError: record or pixels were changed.
        SignatureError: the signature is missing, false or another's.
    """
    _open_record(data, envelope)  # before memory is taken for pixels
    carrier, held, sealed = _open_protected(data, envelope)
    info = seal.verify_envelope(sealed, pixel_digest(held.values), signer)
    stated = info.notes.get(DISPLAY_NOTE)
    if stated is not None and stated != carrier.display_digest(data).hex():
        raise TamperedError(
            "how the image is shown was changed after protection (transparency, colors, orientation, resolution or "
            "window): the pixels are those that were protected, and the original can be restored"
        )
    return info


@_naming_memory
def grant_bytes(
    data: bytes,
    identity: KeyIdentity,
    recipients: Sequence[Recipient],
    envelope: bytes | None = None,
    signer: Signer | None = None,
) -> tuple[bytes, bytes]:
    """Add recipients, without the original: the file with its new record (unchanged with a sidecar), the envelope.

    The record is signed by ``signer``, or no longer signed.
    """
    return _resealed(data, envelope, lambda sealed: seal.grant(sealed, identity, recipients, signer))


@_naming_memory
def revoke_bytes(
    data: bytes,
    identity: KeyIdentity,
    recipients: Sequence[Recipient | bytes],
    envelope: bytes | None = None,
    signer: Signer | None = None,
) -> tuple[bytes, bytes]:
    """Take recipients away, without the original; what they copied before stays readable to them.

    The record is signed by ``signer``, or no longer signed.
    """
    return _resealed(data, envelope, lambda sealed: seal.revoke(sealed, identity, recipients, signer))


@dataclass(frozen=True, repr=False)
class _Marked:
    """What marking gives.

    Attributes:
        values: protected samples ``(N, H, W, C)``.
        record: the serialized record.
        digest: of the protected samples.
        key: the content key that the latent came from.
        findings: what was found out on the way.
    """

    values: NDArray[Any]
    record: bytes
    digest: bytes
    key: bytes
    findings: Findings


def _protect(
    image: StoredImage,
    recipients: Sequence[Recipient],
    marker: Marker,
    options: ProtectOptions | None,
    shell: SourceShell | None,
    original_file: bytes | None,
    series: SeriesPlan | None = None,
) -> _Marked:
    """Mark an image and make the record that undoes it.

    Raises:
        NoEffectError: no effect can be expected, and it was demanded.
    """
    options = options or ProtectOptions()
    _check_asked(image, recipients, options)
    key = os.urandom(_KEY_BYTES)
    # HKDF is one-way: whoever learns the latent from the field knows nothing about the key.
    latent = HKDF(hashes.SHA256(), 32, None, b"miadmark latent 1").derive(key)
    clean = canonical_display(image)
    series = series if series is not None and series.fits(image) else None
    recognition = series.recognition if series else recognized(marker, options.modality, seen_by_networks(image, clean))
    recognition = None if recognition is None else recognition.beside(image.origin)
    if options.expect_effect:  # before the marking, which takes long
        _demand(Findings(recognition, None, image.values.size))
    modality = options.modality if recognition is None else recognition.modality
    specialist = specialist_for(image, modality, marker, clean)
    doubtful = recognition is not None and recognition.known is False
    shared = None if series is None else series.shared
    mark, region = mark_with(specialist, image, options, latent, clean, doubtful, shared)
    values = apply_mark(image, mark)
    opinion = opinion_of_mark(specialist, image, values)
    changed, plan = _changed_samples(image.values, values), series.name if series else ""
    findings = Findings(recognition, opinion, changed, plan, region)
    if options.expect_effect:
        _demand(findings)
    record = RecoveryRecord.build(image, mark, values, shell, original_file)
    return _Marked(values, record.to_bytes(), record.protected_pixels, key, findings)


def _demand(findings: Findings) -> None:
    """Raise NoEffectError where no effect can be expected."""
    if findings.warnings:
        raise NoEffectError(findings.warnings[0])


def _warn(name: str, findings: Findings) -> None:
    """Tell programs; the command line has words of its own."""
    for text in findings.warnings:
        _log.warning("%s: %s", name, text)


def _rehearse(
    carrier: Carrier,
    data: bytes,
    opened: OpenedSource,
    certificates: Sequence[x509.Certificate],
    recipients: Sequence[Recipient],
    options: ProtectOptions | None,
) -> None:
    """Refuse, before any network is loaded, what would be refused after the marking.

    DICOM and TIFF are written by libraries that cannot repeat all that they read: the protected file is made once with
    the samples of the source and a record of one byte.
    """
    _check_asked(opened.image, recipients, options)
    check_shell(opened.shell)
    if carrier.name in ("dicom", "tiff"):
        _carried(carrier, data, opened, opened.image.values, b"\0", certificates)


def _check_asked(image: StoredImage, recipients: Sequence[Recipient], options: ProtectOptions | None) -> None:
    """Raise ValueError for no recipient, or a region mask that is not on the grid of the image."""
    if not recipients:
        raise ValueError("at least one recipient is needed, or nobody could restore the image")
    region = None if options is None else options.region
    if region is not None and not isinstance(region, str):
        check_region(region, image.values.shape[:3])


def _display_of(carrier: Carrier, data: bytes) -> str:
    """Digest (hex) of how a source is shown."""
    try:
        return carrier.display_digest(data).hex()
    except TamperedError as error:
        raise UnsupportedImageError(str(error)) from error


def _refuse_labels(carrier: Carrier, opened: OpenedSource) -> None:
    """Raise for a segmentation or a mask, by what the file says or, where it says nothing, by its samples.

    DICOM names its segmentations by SOP class, so that its samples are not asked.
    """
    reason = opened.labels
    if reason is None and carrier.name != "dicom" and looks_like_labels(opened.image.values):
        reason = "few values in flat areas"
    if reason is not None:
        raise LabelMapError(
            f"this is a segmentation or a mask ({reason}), not an image: marking would change its labels"
        )


def _carried(
    carrier: Carrier,
    data: bytes,
    opened: OpenedSource,
    values: NDArray[Any],
    envelope: bytes | None,
    certificates: Sequence[x509.Certificate],
    secrets: UidSecrets | None = None,
) -> bytes:
    """The protected file; certificates and secrets of UIDs are for DICOM only."""
    if isinstance(carrier, DicomFront):
        return carrier.carry(data, opened, values, envelope, certificates, secrets)
    return carrier.carry(data, opened, values, envelope)


def _open_protected(data: bytes, envelope: bytes | None) -> tuple[Carrier, ProtectedFile, bytes]:
    """Carrier, content and envelope of a protected file; the envelope inside wins over a sidecar."""
    carrier = carrier_for(data, "")
    held = carrier.open_protected(data)
    return carrier, held, _sealed(carrier, held, envelope)


def _open_record(data: bytes, envelope: bytes | None) -> tuple[Carrier, FoundRecord, bytes]:
    """As :func:`_open_protected`, but no pixel is decoded."""
    carrier = carrier_for(data, "")
    found = carrier.open_record(data)
    return carrier, found, _sealed(carrier, found, envelope)


def _sealed(carrier: Carrier, found: ProtectedFile | FoundRecord, envelope: bytes | None) -> bytes:
    """The envelope that counts."""
    sealed = found.envelope if found.envelope is not None else envelope
    if sealed is None:
        hint = "its record is in a sidecar" if found.marked else "it was never protected, or its record was stripped"
        raise NotProtectedError(f"no recovery record in this {carrier.name} file: {hint}")
    return sealed


def read_record(
    envelope: bytes, values: NDArray[Any], identities: Sequence[KeyIdentity], require_signer: Verifier | None = None
) -> RecoveryRecord:
    """Unseal the record that belongs to protected samples ``(N, H, W, C)``; raises as :func:`restore_image`.

    Its :meth:`~monai_miadmark.record.RecoveryRecord.check_protected` has been called with them.
    """
    digest = pixel_digest(values)
    opened = seal.open_envelope(envelope, identities, digest, require_signer)
    return _record_of(opened.record, values, digest)


def _same_samples(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Whether two arrays are alike, bit for bit: what :func:`pixel_digest` tells, without the time it takes."""
    first, second = (np.ascontiguousarray(array, array.dtype.newbyteorder("=")) for array in (one, other))
    word = f"u{first.dtype.itemsize}"  # NaN is never equal to itself
    return first.dtype == second.dtype and np.array_equal(first.view(word), second.view(word))


def _changed_samples(one: NDArray[Any], other: NDArray[Any]) -> int:
    """Samples that differ, bit for bit."""
    first, second = (np.ascontiguousarray(array) for array in (one, other))
    word = f"u{first.dtype.itemsize}"  # NaN is never equal to itself
    return int(np.count_nonzero(first.view(word) != second.view(word)))


def _record_of(record: bytes, values: NDArray[Any], digest: bytes) -> RecoveryRecord:
    """The record that belongs to samples with this digest, as recipients read it."""
    parsed = _parsed(record, values)
    parsed.check_protected(values, digest)
    return parsed


def _parsed(record: bytes, values: NDArray[Any]) -> RecoveryRecord:
    """A record for samples that are at hand: whoever made it, it may not claim to hold much more than they do."""
    return RecoveryRecord.from_bytes(
        record, limit=4 * values.nbytes + _SHELL_BYTES + _SHELL_RATIO * len(record), shape=values.shape
    )


def _resealed(data: bytes, envelope: bytes | None, change: Callable[[bytes], bytes]) -> tuple[bytes, bytes]:
    """Change the envelope where it is: in the file, or beside it."""
    carrier, held, sealed = _open_record(data, envelope)
    changed = change(sealed)
    return (carrier.replace_envelope(data, changed) if held.envelope is not None else data), changed

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""What is to be done with one file of a folder job, in a form that other processes can be told.

A task names key files by their paths; :meth:`Task.prepare` reads them, once in each process. Passphrases have to travel
with the task: hand tasks to processes through pipes, never through files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from monai_miadmark import files, keys
from monai_miadmark.children import interrupts_later
from monai_miadmark.envelope import parse_envelope
from monai_miadmark.errors import LabelMapError, MIADMarkError, WrongKeyError
from monai_miadmark.files import Made, Stamp, Where
from monai_miadmark.marking import Marker, Specialist
from monai_miadmark.options import ProtectOptions
from monai_miadmark.owner import SERIES_PURPOSE, owner_key
from monai_miadmark.passphrases import salt_of
from monai_miadmark.protocols import recognized
from monai_miadmark.recognition import Recognition
from monai_miadmark.seal import inspect_envelope, open_envelope
from monai_miadmark.series_files import Series, SeriesPlans

__all__ = [
    "Draft",
    "Failure",
    "Job",
    "KeyFile",
    "LazyMarker",
    "Product",
    "ProtectTask",
    "RemoveTask",
    "ResealTask",
    "Task",
    "UnfitError",
    "carries_secret",
    "default_marker",
    "drafted",
]


_NO_FINDINGS: dict[str, Any] = {
    "changed": None,
    "modality": None,
    "region": None,
    "effect": None,
    "warnings": [],
    "series": None,
}
"""Facts of what was not marked."""

_Same = TypeVar("_Same", bound="_Opening")


class UnfitError(Exception):
    """A process cannot do its task at all: weights or keys are missing. The message is for a person."""


class Job(NamedTuple):
    """A file to be worked on.

    Attributes:
        source: the file, or object of a store.
        folder: where its result goes, below the output folder as the source is below its own.
        name: of the result, where it may not have the one that it would get by itself.
        series: that it is one of several files of.
    """

    source: Path
    folder: Path
    name: str | None = None
    series: Series | None = None


class Failure(NamedTuple):
    """A file that was not done, and why.

    Attributes:
        path: the file.
        kind: name of the error's class.
        reason: one line for a person; holds no patient's value, but may hold paths.
        named: whether the error is one of this package, whose message may be kept.
    """

    path: Path
    kind: str
    reason: str
    named: bool = False

    @classmethod
    def of(cls, path: Path, error: Exception) -> Failure:
        """The failure that an error is. Of errors that nobody foresaw only the class is told."""
        named = isinstance(error, MIADMarkError)
        if named:
            # The path stands in front already: what the error says of the name again is left out.
            text = str(error).removeprefix(path.name).removeprefix(": ")
            reason = f"{type(error).__name__}: {text}"
        elif isinstance(error, OSError):
            where = error.filename2 or error.filename
            text = error.strerror or str(error) or type(error).__name__
            told = where is None or str(where) == str(path) or Path(str(where)) == path
            reason = text if told else f"{text}: {where}"
        elif isinstance(error, ValueError):
            reason = str(error)
        elif isinstance(error, MemoryError):
            reason = "not enough memory"
        else:
            reason = f"unexpected {type(error).__name__} (--verbose shows where)"
        return cls(path, type(error).__name__, reason, named)


class Product(NamedTuple):
    """A file that is about to be written, without its bytes: path, SHA-256 (hex), size."""

    path: Path
    sha256: str
    size: int


@dataclass(frozen=True)
class Draft:
    """What is about to be written for one file, without the bytes: enough to decide on it and to note it.

    Attributes:
        source: stamp of the source as it was read.
        products: the image file last.
        facts: what a manifest tells beside that, for JSON: ``recipients``, ``signer``, ``signature``, ``quality``,
            ``changed``.
    """

    source: Stamp
    products: tuple[Product, ...]
    facts: dict[str, Any]


class Task(Protocol):
    """One verb of the command line with all that it needs. Instances pickle."""

    @property
    def verb(self) -> str:
        """``protect``, ``remove``, ``grant`` or ``revoke``."""

    def settings(self) -> dict[str, Any]:
        """What results depend on, for JSON and without secrets: equal settings may share a folder.

        Raises:
            OSError: a file that belongs to the settings cannot be read.
            ValueError: a key file is none.
        """

    def continued(self, done: Path) -> Task:
        """This task, in step with an earlier run of equal settings.

        Args:
            done: a result of that run.

        Raises:
            ValueError: a secret, which settings do not tell, is not the same.
        """

    def prepare(self) -> Callable[[Job], Made]:
        """Read keys and weights, and give what works on one file: in memory, nothing is written yet.

        Raises:
            UnfitError: something is missing.
        """


@dataclass(frozen=True)
class KeyFile:
    """A private key file and, where it is encrypted, its passphrase."""

    path: Path
    passphrase: str | None = field(default=None, repr=False)


def default_marker(device: str | None = None) -> Marker:
    """The bundle's marker, on a device or where it is quickest; PyTorch is imported here and nowhere else.

    Raises:
        ValueError: there is no such device here.
    """
    with interrupts_later():
        from monai_miadmark.marker import load_marker

    return load_marker() if device is None else load_marker(device=device)


class LazyMarker:
    """A marker whose networks are loaded when the first image is to be marked: a refusal costs no load.

    Args:
        load: gives the marker.
    """

    def __init__(self, load: Callable[[], Marker]) -> None:
        self._load = load
        self._marker: Marker | None = None

    def specialist(self, modality: str, images: NDArray[np.float32]) -> Specialist:
        """See :class:`~monai_miadmark.marking.Marker`.

        Raises:
            UnfitError: the marker cannot be loaded.
        """
        return self._loaded().specialist(modality, images)

    def recognize(self, modality: str, images: NDArray[np.float32]) -> Recognition | None:
        """See :class:`~monai_miadmark.marking.Recognizer`; ``None`` where the marker is none.

        Raises:
            UnfitError: the marker cannot be loaded.
        """
        return recognized(self._loaded(), modality, images)

    def _loaded(self) -> Marker:
        """The marker."""
        if self._marker is None:
            try:
                self._marker = self._load()
            except (OSError, ValueError) as error:
                raise UnfitError(f"the marker cannot be loaded: {error}") from error
        return self._marker


@dataclass(frozen=True)
class ProtectTask:
    """Protect files.

    Attributes:
        recipients: public key files.
        options: the custodian's choices.
        passphrase: one that restores too.
        salt: of the passphrase, 16 random bytes, the same in all processes.
        signer: the custodian's signing key.
        mask: image file that is the region of all images.
        record: where sealed records go.
        ps315: certificate files of those who may restore DICOM without this package.
        overwrite: replace existing outputs.
        copy_label_maps: put segmentations and masks into the output folder as they are, instead of refusing them.
        load: gives the marker; a function of some module, so that it pickles.
        series_secret: keeps derived DICOM series together, in all processes and on all machines that work on the task;
            default: that of the user.
    """

    recipients: tuple[Path, ...]
    options: ProtectOptions
    passphrase: str | None = field(default=None, repr=False)
    salt: bytes | None = None
    signer: KeyFile | None = None
    mask: Path | None = None
    record: Where = "inside"
    ps315: tuple[Path, ...] = ()
    overwrite: bool = False
    copy_label_maps: bool = False
    load: Callable[[], Marker] = default_marker
    series_secret: bytes = field(default_factory=partial(owner_key, SERIES_PURPOSE), repr=False)

    verb = "protect"

    def settings(self) -> dict[str, Any]:
        """See :class:`Task`."""
        options = self.options
        drawn = options.style == "visible"
        signer = None if self.signer is None else _loaded_signer(self.signer)
        return {
            "preset": options.preset if isinstance(options.preset, str) else repr(options.preset),
            "style": options.style,
            "text": options.text if drawn else None,
            "logo": _file_or_name(options.logo) if drawn else None,
            "modality": options.modality,
            "region": options.region if self.mask is None else {"sha256": files.stamp_file(self.mask).sha256},
            "region_budget": options.region_budget,
            "record": self.record,
            "ps315": _key_ids(self.ps315),
            "recipients": _key_ids(self.recipients),
            "passphrase": self.passphrase is not None,
            "signer": None if signer is None else signer.key_id.hex(),
            **({"label_maps": "protect"} if options.allow_label_maps else {}),
            **({"label_maps": "copy"} if self.copy_label_maps else {}),
            # Only where it is asked for: jobs that were begun before there was such an option can be gone on with.
            **({"expect_effect": True} if options.expect_effect else {}),
        }

    def continued(self, done: Path) -> ProtectTask:
        """See :class:`Task`. Results of both runs have one key id for the passphrase."""
        if self.passphrase is None:
            return self
        try:
            envelope = files.read_envelope(done)
            wrapped_keys = () if envelope is None else parse_envelope(envelope).header.wrapped_keys
            for key in wrapped_keys:
                if envelope is not None and key.kind == "passphrase":
                    open_envelope(envelope, [keys.PassphraseIdentity(self.passphrase)])
                    return replace(self, salt=salt_of(key.wrapped))
        except WrongKeyError:
            raise ValueError("the passphrase is not the one that the job was begun with") from None
        except (MIADMarkError, OSError):
            pass  # a result that was damaged since tells nothing; that it does not hold is noticed elsewhere
        return self

    def prepare(self) -> Callable[[Job], Made]:
        """See :class:`Task`."""
        recipients: list[keys.Recipient]
        with _unfit_without_keys():
            recipients = [keys.load_recipient(path) for path in self.recipients]
            if self.passphrase is not None:
                recipients.append(keys.PassphraseRecipient(self.passphrase, self.salt))
            signer = None if self.signer is None else _loaded_signer(self.signer)
            certificates = [keys.load_certificate(path) for path in self.ps315]
        marker = LazyMarker(self.load)
        plans = SeriesPlans(marker, self.options, self.series_secret)

        def work(job: Job) -> Made:
            try:
                return protect(job)
            except LabelMapError:
                if not self.copy_label_maps:
                    raise
                return files.make_copy(job.source, job.folder, overwrite=self.overwrite)

        def protect(job: Job) -> Made:
            return files.make_protected(
                job.source,
                job.folder,
                recipients,
                marker,
                self.options,
                mask=self.mask,
                signer=signer,
                record=self.record,
                certificates=certificates,
                overwrite=self.overwrite,
                measure=True,
                name=job.name,
                series_secret=self.series_secret,
                series=None if job.series is None else plans.plan(job.series),
            )

        return work


@dataclass(frozen=True)
class _Opening:
    """What all tasks need that open records.

    Attributes:
        identities: private key files.
        passphrase: one that opens too.
        overwrite: replace existing outputs.
    """

    identities: tuple[KeyFile, ...] = ()
    passphrase: str | None = field(default=None, repr=False)
    overwrite: bool = False

    def continued(self: _Same, done: Path) -> _Same:
        """See :class:`Task`. With whose key records are opened makes no difference."""
        return self

    def _identities(self) -> list[keys.KeyIdentity]:
        loaded: list[keys.KeyIdentity] = [keys.load_identity(key.path, key.passphrase) for key in self.identities]
        if self.passphrase is not None:
            loaded.append(keys.PassphraseIdentity(self.passphrase))
        return loaded


@dataclass(frozen=True)
class RemoveTask(_Opening):
    """Restore files.

    Attributes:
        require_signer: public key file of the custodian who must have signed.
        sidecars: by pixel digest (hex), where to look for the record of a file that has none; see
            :func:`~monai_miadmark.sidecars.find_sidecars`.
    """

    require_signer: Path | None = None
    sidecars: Mapping[str, Sequence[Path]] = field(default_factory=dict, repr=False)

    verb = "remove"

    def settings(self) -> dict[str, Any]:
        """See :class:`Task`. With whose key a file was restored makes no difference to it."""
        signer = None if self.require_signer is None else keys.load_verifier(self.require_signer)
        return {"require_signer": None if signer is None else signer.key_id.hex()}

    def prepare(self) -> Callable[[Job], Made]:
        """See :class:`Task`."""
        with _unfit_without_keys():
            identities = self._identities()
            signer = None if self.require_signer is None else keys.load_verifier(self.require_signer)

        def work(job: Job) -> Made:
            return files.make_restored(
                job.source,
                job.folder,
                identities,
                require_signer=signer,
                sidecars=self.sidecars,
                overwrite=self.overwrite,
            )

        return work


@dataclass(frozen=True)
class ResealTask(_Opening):
    """Seal protected files for further recipients, or for fewer.

    Attributes:
        verb: ``grant`` or ``revoke``.
        recipients: public key files.
        key_ids: recipients by their key ids (``revoke`` only).
        signer: the custodian's signing key, for the new records.
    """

    verb: Literal["grant", "revoke"] = "grant"
    recipients: tuple[Path, ...] = ()
    key_ids: tuple[bytes, ...] = ()
    signer: KeyFile | None = None

    def settings(self) -> dict[str, Any]:
        """See :class:`Task`."""
        signer = None if self.signer is None else _loaded_signer(self.signer)
        return {
            "recipients": sorted({*_key_ids(self.recipients), *(key_id.hex() for key_id in self.key_ids)}),
            "signer": None if signer is None else signer.key_id.hex(),
        }

    def prepare(self) -> Callable[[Job], Made]:
        """See :class:`Task`."""
        with _unfit_without_keys():
            identities = self._identities()
            recipients = [keys.load_recipient(path) for path in self.recipients]
            signer = None if self.signer is None else _loaded_signer(self.signer)

        def reseal(job: Job, identity: keys.KeyIdentity) -> Made:
            if self.verb == "grant":
                return files.make_granted(
                    job.source, job.folder, identity, recipients, signer=signer, overwrite=self.overwrite
                )
            unwanted = [*recipients, *self.key_ids]
            return files.make_revoked(
                job.source, job.folder, identity, unwanted, signer=signer, overwrite=self.overwrite
            )

        def work(job: Job) -> Made:
            *others, last = identities
            for identity in others:
                try:
                    return reseal(job, identity)
                except WrongKeyError:
                    continue
            return reseal(job, last)

        return work


def carries_secret(task: object) -> bool:
    """Whether a passphrase travels with a task, its own or that of a key file."""
    if isinstance(task, tuple):
        return any(carries_secret(part) for part in task)
    if not is_dataclass(task):
        return False
    if getattr(task, "passphrase", None) is not None:
        return True
    return any(carries_secret(getattr(task, part.name)) for part in fields(task))


def drafted(made: Made) -> Draft:
    """What stands in a manifest of a result."""
    products = tuple(
        Product(output.path, hashlib.sha256(output.data).hexdigest(), len(output.data)) for output in made.outputs
    )
    told = None if made.envelope is None else inspect_envelope(made.envelope).to_dict()
    quality = None
    if made.quality is not None:
        psnr = round(made.quality.psnr, 2) if made.quality.psnr != float("inf") else None
        quality = {"psnr": psnr, "ssim": round(made.quality.ssim, 4)}
    facts = {
        "recipients": [] if told is None else told["recipients"],
        "signer": None if told is None else told["signer"],
        "signature": made.signature,
        "quality": quality,
        **({"copied": True} if made.copied else {}),
        **(_NO_FINDINGS if made.findings is None else made.findings.facts),
    }
    return Draft(made.source, products, facts)


@contextmanager
def _unfit_without_keys() -> Iterator[None]:
    """A key file that cannot be used makes the process unfit."""
    try:
        yield
    except OSError as error:
        raise UnfitError(f"{error.filename}: {error.strerror or 'not readable'}") from error
    except (MIADMarkError, ValueError) as error:
        raise UnfitError(str(error)) from error


def _loaded_signer(key: KeyFile) -> keys.Signer:
    """A signing key from its file."""
    return keys.load_signer(key.path, key.passphrase)


def _key_ids(paths: Sequence[Path]) -> list[str]:
    """Key ids (hex) of public key files, sorted, each once."""
    return sorted({keys.load_recipient(path).key_id.hex() for path in paths})


def _file_or_name(logo: Path | None) -> Any:
    """A logo as settings name it: by its content where it is a file, else by its name."""
    if logo is None or not logo.is_file():
        return None if logo is None else str(logo)
    return {"sha256": files.stamp_file(logo).sha256}

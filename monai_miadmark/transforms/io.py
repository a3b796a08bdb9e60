# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""A reader for ``LoadImage`` that restores protected files in memory, a writer for ``SaveImage`` that keeps records."""

from __future__ import annotations

import base64
import copy
import gzip
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import torch
from monai.config import PathLike
from monai.data import ImageReader, ImageWriter
from monai.utils import ensure_tuple
from numpy.typing import NDArray

from monai_miadmark.errors import NotProtectedError, TamperedError, UnsupportedImageError
from monai_miadmark.files import atomic_write, read_protected
from monai_miadmark.formats import carrier_for
from monai_miadmark.formats.base import ProtectedFile
from monai_miadmark.image import pixel_digest
from monai_miadmark.keys import KeyIdentity, Verifier
from monai_miadmark.pipeline import read_record, restored_bytes
from monai_miadmark.seal import inspect_envelope
from monai_miadmark.transforms.array_files import encode_nifti, encode_png, nifti_layout, with_samples
from monai_miadmark.transforms.in_memory import ARRAY_FORMATS, FIRST_FORMATS, READERS, image_in_memory
from monai_miadmark.transforms.keyring import PASSPHRASE_ENV, KeySource, identity_ring, verifier_ring
from monai_miadmark.transforms.layout import Layout
from monai_miadmark.transforms.metadata import LAYOUT_KEY, RECORD_KEY, record_in

__all__ = ["MIADMarkReader", "MIADMarkWriter"]

_HEAD_BYTES = 65536


@dataclass(repr=False)
class _Read:
    """What :meth:`MIADMarkReader.read` gives to :meth:`MIADMarkReader.get_data`.

    Attributes:
        reader: MONAI's reader for this kind of file, which knows the names of the files.
        images: what that reader's own ``read`` would have given.
        meta: to be added to the meta data.
        error: why there is no image.
    """

    reader: Any = None
    images: Any = None
    meta: dict[str, Any] = field(default_factory=dict)
    error: Exception | None = None


@dataclass(repr=False)
class _Opened:
    """One file: its format, the backend's image object in memory, the record and layout where they are kept."""

    kind: str
    image: Any
    meta: dict[str, Any] = field(default_factory=dict)


class MIADMarkReader(ImageReader):
    """Reads protected files as if they had never been protected: DICOM, NIfTI, PNG, JPEG, TIFF, NRRD and MGH.

    Use it as ``LoadImage(reader=MIADMarkReader("alice.key"))``: values, type, affine and meta data are those that
    MONAI's own reader (PydicomReader for DICOM, NibabelReader for NIfTI and MGH, NrrdReader for NRRD, else PILReader)
    gives for the original file; only the file name is that of the protected one. PILReader reads the first page of a
    TIFF file: a stack is an error, unless that reader was given. MetaImage, which MONAI reads with ITK, and ITK from
    disk only, is an error too: restore it first. The original is never written to disk. Records in sidecars
    (``NAME.EXT.miadmark``) are found. A list of files is stacked along the channels, a folder is one DICOM series, as
    in those readers.

    ``LoadImage`` lets its other readers try where one fails, and they would load the protected pixels without a word.
    Therefore :meth:`read` does not raise; :meth:`get_data` does, where ``LoadImage`` no longer looks away.

    Args:
        identities: private keys to try: paths of key files, or identities (which cannot be sent to spawned workers).
            Without any, protected samples are loaded as they are; ``meta["miadmark_record"]`` holds the record
            (Base64), so that :class:`RemoveMIADMark` can restore what :class:`MIADMarkWriter` wrote
            (``LoadImage(dtype=None)``).
        require_signer: custodian who must have signed: path of a public signature key, or verifier.
        strict: raise for files that are not protected. ``False``: load them as MONAI does.
        reader: a PydicomReader, NibabelReader, NrrdReader or PILReader with options of your own, used instead of a
            default one.
        passphrase_env: environment variable with the passphrase of encrypted key files.

    Raises:
        ValueError: a ``reader`` of another kind, or one that would read the file itself.
    """

    def __init__(
        self,
        identities: KeySource[KeyIdentity] | Sequence[KeySource[KeyIdentity]] | None = None,
        *,
        require_signer: KeySource[Verifier] | None = None,
        strict: bool = True,
        reader: ImageReader | None = None,
        passphrase_env: str = PASSPHRASE_ENV,
    ) -> None:
        super().__init__()
        if reader is not None and not isinstance(reader, tuple(READERS.values())):
            names = ", ".join(dict.fromkeys(kind.__name__ for kind in READERS.values()))
            raise ValueError(f"reader must be one of {names}, not a {type(reader).__name__}")
        if getattr(reader, "to_gpu", False):
            raise ValueError("a reader with to_gpu=True reads the file by itself and would get the protected samples")
        self.identities = None if identities is None else identity_ring(identities, passphrase_env)
        self.require_signer = None if require_signer is None else verifier_ring(require_signer)
        self.strict = strict
        self.reader = reader

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Always true: the content decides, and what cannot be restored must not go to another reader."""
        return True

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> _Read:
        """Restore files in memory; whatever is wrong with them is raised by :meth:`get_data`.

        Args:
            data: file or files; a folder is a DICOM series.
            kwargs: additional arguments for ``pydicom.dcmread`` or ``PIL.Image.open``.

        Raises:
            UnsupportedImageError: with ``strict=False``, files of formats that are never protected: LoadImage then
                tries its other readers.
        """
        paths = [Path(path) for path in ensure_tuple(data)]
        if not self.strict and not any(map(_is_known, paths)):
            raise UnsupportedImageError("not a format that is ever protected")
        try:
            return self._read(paths, kwargs)
        except Exception as error:  # LoadImage takes any exception here as a hint to try other readers
            return _Read(error=error)

    def get_data(self, img: _Read) -> tuple[NDArray[Any], dict[str, Any]]:
        """Array and meta data, as MONAI's reader gives them for the original file.

        Raises:
            NotProtectedError: no record in the file or beside it.
            WrongKeyError: no identity fits.
            TamperedError: header, record or pixels were changed.
            UnsupportedImageError: not a kind of file that is ever protected.
            OSError, ValueError: a file, or a key file, cannot be read.
        """
        if img.error is not None:
            raise img.error
        array, meta = img.reader.get_data(img.images)
        meta.update(img.meta)
        return array, meta

    def _read(self, paths: list[Path], kwargs: dict[str, Any]) -> _Read:
        """Open all files and hand them to one of MONAI's readers."""
        folders = [path.is_dir() for path in paths]
        names: list[list[Path]] = [self._series(p) if folder else [p] for p, folder in zip(paths, folders, strict=True)]
        opened = [[self._open(name, kwargs) for name in group] for group in names]
        flat = [entry for group in opened for entry in group]
        kinds = {READERS[entry.kind] for entry in flat}
        if len(kinds) != 1:
            raise ValueError("files of different formats cannot be stacked")
        if len(flat) > 1 and any(entry.meta for entry in flat):
            raise ValueError("records can be kept for one file at a time: give identities, or load one file")
        reader = self._delegate(flat[0].kind)
        # What the readers' own read() leaves behind for their get_data().
        reader.has_series = any(len(group) > 1 for group in opened)
        reader.filenames = [list(map(str, g)) if len(g) > 1 else str(g[0]) for g in names]
        images = [[e.image for e in group] if len(group) > 1 else group[0].image for group in opened]
        return _Read(reader, images if len(images) > 1 else images[0], flat[0].meta)

    def _series(self, folder: Path) -> list[Path]:
        """DICOM files of a folder, chosen as PydicomReader does."""
        pattern = getattr(self.reader, "fname_regex", None)
        found = [p for p in sorted(folder.iterdir()) if p.is_file() and not p.name.startswith(".")]
        found = [p for p in found if (re.match(pattern, str(p)) if pattern else pydicom.misc.is_dicom(p))]
        if not found:
            raise ValueError(f"no DICOM file in {folder}")
        return found

    def _delegate(self, kind: str) -> Any:
        """MONAI's reader for a format: a copy, because the readers keep state between read() and get_data()."""
        if self.reader is None:
            return READERS[kind]()
        if not isinstance(self.reader, READERS[kind]):
            raise ValueError(f"a {kind} file was found, but a {type(self.reader).__name__} was given to read it")
        return copy.copy(self.reader)

    def _open(self, path: Path, kwargs: dict[str, Any]) -> _Opened:
        """Restore one file, or load it as it is where that was asked for."""
        source = read_protected(path)
        carrier = carrier_for(source.data, path.name)
        if carrier.name not in READERS:
            raise UnsupportedImageError(
                f"{path.name}: {carrier.name} files are not restored while they are loaded: use remove_file first"
            )
        try:
            held = carrier.open_protected(source.data)
        except UnsupportedImageError:
            if self.strict or source.envelope is not None:
                raise
            held = ProtectedFile(np.empty(0), None)  # a kind that is never protected
        envelope = held.envelope if held.envelope is not None else source.envelope
        if envelope is None:
            if self.strict or held.marked:
                hint = "its record was stripped, or its sidecar is missing" if held.marked else "it is not protected"
                raise NotProtectedError(f"no recovery record in or beside {path.name}: {hint}")
            return _Opened(carrier.name, self._delegate(carrier.name).read(str(path), **kwargs))
        if self.identities is None:
            if carrier.name == "nrrd":
                raise UnsupportedImageError(f"{path.name}: records of NRRD files are not kept: give identities")
            image = self._in_memory(carrier.name, source.data, path.name, kwargs)
            return _Opened(carrier.name, image, self._kept(carrier.name, image, envelope))
        identities = self.identities.keys
        signer = None if self.require_signer is None else self.require_signer.keys[0]
        record = read_record(envelope, held.values, identities, signer)
        if record.shell is None:
            if carrier.name not in ARRAY_FORMATS:
                raise TamperedError(f"{path.name}: a {carrier.name} file with the record of an array")
            image = self._in_memory(carrier.name, source.data, path.name, kwargs)
            return _Opened(carrier.name, with_samples(image, record.restore(held.values, checked=True)))
        restored = restored_bytes(record, held.values, checked=True).data
        kind = carrier_for(restored, path.name).name
        return _Opened(kind, self._in_memory(kind, restored, path.name, kwargs))

    def _in_memory(self, kind: str, data: bytes, name: str, kwargs: dict[str, Any]) -> Any:
        """What the ``read`` of MONAI's reader would give for a file with this content."""
        if kind not in READERS:
            raise UnsupportedImageError(f"{name}: the source is a {kind} file: use remove_file first")
        return image_in_memory(kind, data, name, self._delegate(kind), kwargs, first_page=self.reader is not None)

    def _kept(self, kind: str, image: Any, envelope: bytes) -> dict[str, Any]:
        """Meta data with which RemoveMIADMark can work on what will be loaded."""
        if kind in ("nifti", "mgh"):
            layout = nifti_layout(image)
        else:
            swapped = self._delegate(kind)
            layout = Layout("xy" if getattr(swapped, "reverse_indexing", getattr(swapped, "swap_ij", True)) else "ij")
        return {RECORD_KEY: base64.b64encode(envelope).decode(), LAYOUT_KEY: str(layout)}


class MIADMarkWriter(ImageWriter):
    """Writes protected arrays with their record: NIfTI-1 (one channel; more than four are time points), or 8-bit PNG of
    1 or 3 channels and one slice.

    Use it as ``SaveImage(writer=MIADMarkWriter, output_ext=".nii.gz")`` on what :class:`ProtectWithMIADMark` gave.
    Samples are written in their own type exactly as they are: ``output_dtype`` of SaveImage is not followed, resampling
    and scaling are refused, and so is an array that is no longer the one that the record belongs to. ``miadmark
    inspect``, ``verify``, ``grant`` and ``revoke`` work on the file (``remove`` does not: there is no source file);
    ``LoadImage(reader=MIADMarkReader("alice.key"), dtype=None)`` gives the original array.

    Args:
        output_dtype: accepted because SaveImage always gives one; not used.
        scale: must be ``None``.
        kwargs: kept as attributes, as in MONAI's writers.

    Raises:
        ValueError: scaling was asked for.
    """

    def __init__(self, output_dtype: Any = None, scale: int | None = None, **kwargs: Any) -> None:
        if scale is not None:
            raise ValueError("scaling would change the protected samples: they could not be restored")
        super().__init__(**kwargs)
        self._meta: Mapping[str, Any] = {}

    def set_data_array(
        self, data_array: NDArray[Any] | torch.Tensor, channel_dim: int | None = 0, **kwargs: Any
    ) -> None:
        """The protected array ``(C, H, W[, D[, T]])``; dimensions are not squeezed.

        Raises:
            ValueError: ``channel_dim`` is another than the first (``None`` is what SaveImage makes of it at times).
        """
        if channel_dim not in (0, None):
            raise ValueError(f"protected arrays are channel-first: channel_dim must be 0, not {channel_dim}")
        tensor = data_array.detach().cpu() if isinstance(data_array, torch.Tensor) else data_array
        self.data_obj = np.asarray(tensor)

    def set_metadata(self, meta_dict: Mapping[str, Any] | None, resample: bool = False, **options: Any) -> None:
        """Meta data of the protected array.

        Raises:
            ValueError: resampling was asked for.
            NotProtectedError: there is no record in them.
        """
        if resample:
            raise ValueError("resampling would change the protected samples: they could not be restored")
        self._meta = dict(meta_dict or {})
        record_in(self._meta)

    def write(self, filename: PathLike, verbose: bool = True, overwrite: bool = True, **kwargs: Any) -> None:
        """Write the file under a temporary name, then give it its own.

        Args:
            filename: ends in ``.nii``, ``.nii.gz`` or ``.png``.
            verbose: log the name.
            overwrite: replace an existing file, as MONAI's writers do; never the one that the image was loaded from.

        Raises:
            UnsupportedImageError: the format cannot hold these samples or their orientation exactly.
            TamperedError: the array was changed after it was protected.
            FileExistsError: the file exists.
        """
        path = Path(filename)
        if self.data_obj is None or RECORD_KEY not in self._meta:
            raise ValueError("set_data_array and set_metadata come first")
        source = self._meta.get("filename_or_obj")
        if isinstance(source, str) and path.exists() and Path(source).exists() and path.samefile(source):
            raise FileExistsError(f"{path} is the file that the image was loaded from")
        super().write(filename, verbose=verbose)
        atomic_write(path, self._encoded(path.name), overwrite)

    def _encoded(self, name: str) -> bytes:
        """The protected file."""
        array: NDArray[Any] = self.data_obj
        envelope = record_in(self._meta)
        digest = inspect_envelope(envelope).protected_pixels
        layout = Layout.parse(self._meta.get(LAYOUT_KEY, "xy"))
        stored = layout.to_stored(array) if array.ndim in (3, 4, 5) else np.empty((0, 0, 0, 0), array.dtype)
        if pixel_digest(stored).hex() != digest:
            raise TamperedError("the array was changed after it was protected (values, type or shape): not written")
        lowered = name.lower()
        if lowered.endswith(".png"):
            plain = encode_png(stored, layout)
        elif lowered.endswith((".nii", ".nii.gz")):
            plain = encode_nifti(array, layout, self._meta)
            plain = gzip.compress(plain, compresslevel=1, mtime=0) if lowered.endswith(".gz") else plain
        else:
            raise UnsupportedImageError(f"{name}: protected arrays are written as .nii, .nii.gz or .png")
        carrier = carrier_for(plain, name)
        data = carrier.carry(plain, carrier.open_source(plain, name), stored, envelope)
        held = carrier.open_protected(data)
        if held.envelope != envelope or pixel_digest(held.values).hex() != digest:
            raise UnsupportedImageError(f"{name}: the {carrier.name} file would not hold these samples as protected")
        return data


def _is_known(path: Path) -> bool:
    """Whether a file is of a format that may be protected; a folder may."""
    if path.is_dir():
        return True
    with path.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    try:
        carrier = carrier_for(head, path.name)
        if carrier.name in FIRST_FORMATS:
            return True
        # Which of MONAI's readers is to have other formats LoadImage knows, unless they are protected.
        source = read_protected(path)
        return source.envelope is not None or carrier.open_protected(source.data).marked
    except UnsupportedImageError:
        return False
    except TamperedError:
        return True

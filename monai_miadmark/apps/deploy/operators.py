# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Operators that restore and protect the selected DICOM series, file by file and on the values that the files store.

They do not work on the ``image`` of ``DICOMSeriesToVolumeOperator``: rescaled volumes do not lead back to the file.
"""

from __future__ import annotations

import io
import os
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pydicom
from monai.deploy.core import ConditionType, Fragment, Operator, OperatorSpec
from monai.deploy.core.domain.dicom_series import DICOMSeries
from monai.deploy.core.domain.dicom_series_selection import SelectedSeries, StudySelectedSeries
from monai.deploy.core.domain.dicom_study import DICOMStudy
from monai.deploy.operators.dicom_data_loader_operator import DICOMDataLoaderOperator

from monai_miadmark import pipeline
from monai_miadmark.atomic import make_folders
from monai_miadmark.errors import MIADMarkError, UnsupportedImageError
from monai_miadmark.files import Output, ProtectedSource, atomic_write_all, read_protected, safe_name
from monai_miadmark.keys import KeyIdentity, Recipient, Signer, Verifier
from monai_miadmark.marking import Marker
from monai_miadmark.options import ProtectOptions

__all__ = ["SERIES", "MIADMarkProtectOperator", "MIADMarkRemoveOperator"]

SERIES = "study_selected_series_list"
"""Name of the input and of the output, as the SDK's own operators call it."""

_PREAMBLE_BYTES, _MAGIC = 128, b"DICM"
_DICOMDIR = "1.2.840.10008.1.3.10"


class _Worked(NamedTuple):
    """The result for one file: bytes and base name, and the permission bits of its source."""

    data: bytes
    name: str
    mode: int


class _FilesOperator(Operator):
    """Works on all files of the selected series in memory; only when each of them is done, anything is written.

    Input ``study_selected_series_list``: series that ``DICOMDataLoaderOperator`` loaded from files.
    Output of the same name, which nobody has to receive: the same series, made of the results.

    Args:
        fragment: the app.
        input_folder: where the files were loaded from; results keep their folders below it.
        output_folder: where results are written; ``None``: nowhere, they are only handed on.
        all_files: refuse to leave out a DICOM file of the input folder. The loader leaves out some without a word,
            of two slices at the same place for example.
        single_series: refuse more than one selected series.
    """

    def __init__(
        self,
        fragment: Fragment,
        *args: Any,
        input_folder: Path,
        output_folder: Path | None,
        all_files: bool = False,
        single_series: bool = False,
        **kwargs: Any,
    ) -> None:
        self._input, self._output = Path(input_folder), None if output_folder is None else Path(output_folder)
        self._all_files, self._single_series = all_files, single_series
        self._reader = DICOMDataLoaderOperator(fragment, name=f"{kwargs.get('name', 'miadmark')}_attributes")
        super().__init__(fragment, *args, **kwargs)  # calls setup: comes last

    def setup(self, spec: OperatorSpec) -> None:
        """Declare the ports."""
        spec.input(SERIES)
        spec.output(SERIES).condition(ConditionType.NONE)

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Work on what was selected.

        Raises:
            MIADMarkError: a file that cannot be restored or protected; nothing was written.
            OSError: reading or writing failed, or an output exists; nothing was written.
            ValueError: a record names a file that it must not name; nothing was written.
        """
        op_output.emit(self.process(op_input.receive(SERIES)), SERIES)

    def process(self, selected: Sequence[StudySelectedSeries]) -> list[StudySelectedSeries]:
        """What :meth:`compute` does, without ports."""
        chosen = [series for study in selected or () for series in study.selected_series]
        if not chosen:
            raise UnsupportedImageError("no DICOM series was selected")
        if self._single_series and len({one.series.get_series_instance_uid() for one in chosen}) > 1:
            raise UnsupportedImageError(
                "several series were selected, and the model takes one: give rules that name it"
            )
        paths = dict.fromkeys(_path_of(instance) for one in chosen for instance in one.series.get_sop_instances())
        if self._all_files:
            self._check_complete(paths)
        worked = {path: self._named_work(path) for path in paths}
        targets = {} if self._output is None else self._targets(worked, self._output)
        rebuilt = [self._rebuilt(study, worked, targets) for study in selected]
        _write(worked, targets)  # the last thing that may fail
        return rebuilt

    @abstractmethod
    def _work(self, source: ProtectedSource) -> _Worked:
        """The result for one file, proved in memory."""

    def _named_work(self, path: Path) -> _Worked:
        """The result for one file; errors name the file."""
        try:
            return self._work(read_protected(path))
        except MIADMarkError as error:
            raise type(error)(f"{path}: {error}") from error

    def _check_complete(self, selected: dict[Path, None]) -> None:
        """Refuse where files of the input folder are not among those that were selected."""
        known = {os.path.realpath(path) for path in selected}
        # As the loader goes through folders: links to folders are followed.
        walked = os.walk(self._input, followlinks=True)
        paths = sorted(Path(folder, name) for folder, _, names in walked for name in names)
        missing = [p for p in paths if os.path.realpath(p) not in known and p.is_file() and _is_image_file(p)]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise UnsupportedImageError(
                f"{missing[0]}{more}: left out by the DICOM loader (unreadable, or at the place of another slice)"
            )

    def _targets(self, worked: dict[Path, _Worked], folder: Path) -> dict[Path, Path]:
        """Where each source's result is to be written."""
        targets: dict[Path, Path] = {}
        base = self._input.resolve()
        for path, result in worked.items():
            below = path.parent.resolve()
            relative = below.relative_to(base) if below.is_relative_to(base) else Path()
            targets[path] = folder / relative / safe_name(result.name)
        if len(set(targets.values())) < len(targets):
            raise UnsupportedImageError("two results would have the same name in the same folder")
        return targets

    def _rebuilt(
        self, selected: StudySelectedSeries, worked: dict[Path, _Worked], targets: dict[Path, Path]
    ) -> StudySelectedSeries:
        """The selection of a study, made of results in place of their sources."""
        made: list[tuple[str, DICOMSeries]] = []
        study = None
        for one in selected.selected_series:
            sets = []
            for instance in one.series.get_sop_instances():
                path = _path_of(instance)
                data_set = pydicom.dcmread(io.BytesIO(worked[path].data))
                # Not the source's name: a next operator would take that file for this image.
                data_set.filename = str(targets[path]) if path in targets else None
                sets.append(data_set)
            series = DICOMSeries(str(sets[0].SeriesInstanceUID))
            self._reader.populate_series_attributes(series, sets[0])
            for data_set in sets:
                series.add_sop_instance(data_set)
            made.append((one.selection_name, series))
            if study is None:
                study = DICOMStudy(str(sets[0].StudyInstanceUID))
                self._reader.populate_study_attributes(study, sets[0])
            study.add_series(series)
        rebuilt = StudySelectedSeries(study)
        for name, series in made:
            rebuilt.add_selected_series(SelectedSeries(name, series))
        return rebuilt


class MIADMarkRemoveOperator(_FilesOperator):
    """Restores the selected series.

    Args:
        fragment: the app.
        identities: keys to try.
        require_signer: accept only what this custodian signed.
        input_folder, output_folder, all_files, single_series: as of :class:`_FilesOperator`; without an output folder
            originals exist in memory only.
    """

    def __init__(
        self,
        fragment: Fragment,
        *args: Any,
        identities: Sequence[KeyIdentity],
        require_signer: Verifier | None = None,
        input_folder: Path,
        output_folder: Path | None = None,
        **kwargs: Any,
    ) -> None:
        self._identities, self._require_signer = tuple(identities), require_signer
        super().__init__(fragment, *args, input_folder=input_folder, output_folder=output_folder, **kwargs)

    def _work(self, source: ProtectedSource) -> _Worked:
        restored = pipeline.remove_bytes(source.data, self._identities, source.envelope, self._require_signer)
        return _Worked(restored.data, restored.file_name, source.mode & 0o666)


class MIADMarkProtectOperator(_FilesOperator):
    """Protects the selected series, each file with a content key and a mark of its own.

    Args:
        fragment: the app.
        recipients: who may restore, at least one.
        load_marker: gives what makes the marks; called when the first file is protected.
        options: the custodian's choices.
        signer: the custodian's signing key.
        input_folder, output_folder, all_files, single_series: as of :class:`_FilesOperator`.
    """

    def __init__(
        self,
        fragment: Fragment,
        *args: Any,
        recipients: Sequence[Recipient],
        load_marker: Callable[[], Marker],
        options: ProtectOptions | None = None,
        signer: Signer | None = None,
        input_folder: Path,
        output_folder: Path | None,
        **kwargs: Any,
    ) -> None:
        self._recipients, self._options, self._signer = tuple(recipients), options, signer
        self._load_marker = load_marker
        self._marker: Marker | None = None
        super().__init__(fragment, *args, input_folder=input_folder, output_folder=output_folder, **kwargs)

    def _work(self, source: ProtectedSource) -> _Worked:
        if source.envelope is not None:
            raise UnsupportedImageError("the image is protected already (its record lies beside it)")
        if self._marker is None:
            self._marker = self._load_marker()
        protected = pipeline.protect_bytes(
            source.data, source.path.name, self._recipients, self._marker, self._options, self._signer
        )
        return _Worked(protected.data, protected.name, source.mode)


def _write(worked: dict[Path, _Worked], targets: dict[Path, Path]) -> None:
    """Write all results or none, readable by nobody who could not read all sources."""
    mode = 0o666
    for path in targets:
        mode &= worked[path].mode | 0o600
    for target in targets.values():
        make_folders(target.parent)
    atomic_write_all([Output(target, worked[path].data) for path, target in targets.items()], mode=mode)


def _path_of(instance: Any) -> Path:
    """The file that an instance was loaded from."""
    name = getattr(instance.get_native_sop_instance(), "filename", None)
    if not isinstance(name, str | os.PathLike) or not os.path.isfile(name):
        raise UnsupportedImageError("a DICOM instance was not loaded from a file, only files can be restored exactly")
    return Path(name)


def _is_image_file(path: Path) -> bool:
    """Whether a file is a DICOM file (Part 10) other than a directory of such."""
    with path.open("rb") as stream:
        if stream.read(_PREAMBLE_BYTES + len(_MAGIC))[_PREAMBLE_BYTES:] != _MAGIC:
            return False
    try:
        meta = pydicom.filereader.read_file_meta_info(path)
        return str(meta.get("MediaStorageSOPClassUID", "")) != _DICOMDIR
    except Exception:  # damaged: still a file that its sender took for an image
        return True

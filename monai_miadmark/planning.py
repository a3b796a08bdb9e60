# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""What a folder job works on: which files there are, where results go, and under which names, so that none meet."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePath, PurePosixPath
from typing import NamedTuple

from monai_miadmark.files import MAX_NAME_BYTES, SIDECAR_SUFFIX, TEMPORARY_SUFFIX, first_bytes, instance_uid, stamp_file
from monai_miadmark.locking import LOCK_NAME
from monai_miadmark.manifest import MANIFEST_NAME
from monai_miadmark.stores import RemotePath
from monai_miadmark.tasks import Failure, Job

__all__ = [
    "JOB_SUFFIX",
    "BatchError",
    "Filters",
    "Found",
    "Plan",
    "beside",
    "check_not_mixed",
    "notes_folder",
    "plan",
    "walk_folder",
]

JOB_SUFFIX = ".miadmark-job"
"""``OUT.miadmark-job`` beside the output folder holds its manifest: what is shared holds images only."""

_OWN_FILES = {MANIFEST_NAME, LOCK_NAME}

_SYSTEM_FILES = {".DS_Store", ".localized", "Thumbs.db", "ehthumbs.db", "desktop.ini"}
"""What file managers leave in folders."""

_APPLE_DOUBLE = b"\x00\x05\x16\x07"
"""How the file ``._NAME`` begins, in which macOS keeps attributes of ``NAME`` on foreign disks."""

_MAX_NAMED = 3
"""Files that a notice names; the rest is counted."""


class BatchError(ValueError):
    """The sources and the output folder do not go together; nothing was written."""


class Filters(NamedTuple):
    """Which files of folders are meant: those that match some ``include`` (or there is none) and no ``exclude``.

    A pattern with a slash is held against the path below the folder, any other against the name; ``*`` stands for
    slashes too.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def pass_on(self, relative: PurePath) -> bool:
        """Whether a file is meant, by its path below the folder."""

        def fits(pattern: str) -> bool:
            return fnmatchcase(relative.as_posix() if "/" in pattern else relative.name, pattern)

        return (not self.include or any(map(fits, self.include))) and not any(map(fits, self.exclude))


class Found(NamedTuple):
    """A file in a folder.

    Attributes:
        path: the file.
        relative: its path below the folder.
        error: why it cannot be a source.
        skipped: it is not meant: filtered out, or no image but what a file manager left.
    """

    path: Path
    relative: PurePath
    error: OSError | None = None
    skipped: bool = False


@dataclass(frozen=True)
class Plan:
    """What there is to do, and what was found that cannot be done.

    Attributes:
        out: the output folder; may be one of a store.
        jobs: in the order of their sources.
        failures: things that are no files to work on.
        skipped: files of folders that are not meant.
        notices: for a person: files that do not go where they would be looked for, or share a SOP Instance UID.
    """

    out: Path
    jobs: tuple[Job, ...]
    failures: tuple[Failure, ...]
    skipped: tuple[Path, ...] = ()
    notices: tuple[str, ...] = ()


def plan(
    sources: Sequence[Path],
    out: Path,
    name: Callable[[Path], str | None],
    unique_instances: bool = False,
    filters: Filters = Filters(),  # noqa: B008 (it cannot change)
) -> Plan:
    """Find the files and where their results go.

    Folders are walked; links in them are followed only to files that lie in the same folder, so that nothing from
    outside gets in. Sidecars belong to the file beside them and are no sources of their own. An output folder inside a
    source folder is left out. The files of one folder go into the output folder as they lie; several folders keep
    their names in it. Files whose names or results would meet get names or folders of their own, and a notice.

    Of objects in a store only names are looked at, because every look inside is a request: results that meet are
    noticed when they are made, and instances that are there twice are not noticed.

    Args:
        sources: files and folders, of this machine or of a store.
        out: the output folder; need not exist.
        name: gives the name of a file's result, ``None`` where only work on it will tell.
        unique_instances: give notice of DICOM files that share a SOP Instance UID.
        filters: which files of folders are meant.

    Returns:
        Jobs in the order of their sources, and a failure for each thing that is no readable file.

    Raises:
        BatchError: the output folder is a file or a source folder, or a result would be a source.
    """
    if out.exists() and not out.is_dir():
        raise BatchError(f"the output {out} is a file: a folder is needed")
    jobs: list[Job] = []
    failures: list[Failure] = []
    skipped: list[Path] = []
    notices: list[str] = []
    places = _places(sources, out, notices)
    for source in dict.fromkeys(sources):
        try:
            if source in places:
                if _is_same_folder(source, out):
                    raise BatchError(f"the output folder {out} is the input folder: choose another")
                for found in walk_folder(source, out, filters):
                    if found.skipped:
                        skipped.append(found.path)
                    elif found.error is None:
                        jobs.append(Job(found.path, places[source] / found.relative.parent))
                    else:
                        failures.append(Failure.of(found.path, found.error))
            elif (error := _not_a_file(source)) is not None:
                failures.append(Failure.of(source, error))
            else:
                jobs.append(Job(source, out))
        except OSError as failed:  # a store that does not answer
            failures.append(Failure.of(source, failed))
    apart = _apart(_each_place_once(jobs, notices), name, notices)
    if unique_instances:
        notices += _shared_instances(apart)
    return Plan(out, tuple(apart), tuple(failures), tuple(skipped), tuple(notices))


def beside(out: Path) -> Path:
    """Where the manifest of an output folder of this machine lies by default: beside it."""
    whole = out.resolve()
    return whole.with_name(whole.name + JOB_SUFFIX) if whole.name else whole


def notes_folder(out: Path, resume: bool = False) -> Path:
    """Where the manifest of an output folder is to be: beside it, so that it is not shared with the images.

    In the folder itself where there is no better place: where it holds the current folder, or the one around it cannot
    be written to; and where an earlier job that is gone on with has its manifest there.

    Args:
        out: the output folder, of this machine; need not exist.
        resume: an earlier job is to be gone on with.
    """
    whole, place = out.resolve(), beside(out)
    shown = out.with_name(place.name) if out.name == whole.name else place  # as the output folder was named
    if place == whole or len(os.fsencode(place.name)) > MAX_NAME_BYTES:
        return out
    if (place / MANIFEST_NAME).exists():
        return shown
    if resume and (whole / MANIFEST_NAME).exists():
        return out
    around = next(folder for folder in whole.parents if folder.exists())
    return out if Path.cwd().is_relative_to(whole) or not os.access(around, os.W_OK) else shown


def check_not_mixed(sources: Sequence[Path], out: Path, restoring: bool) -> None:
    """See that originals and protected files do not come to lie in one folder: whoever shares it would share both.

    Args:
        sources: files and folders.
        out: the output folder.
        restoring: originals go into it; otherwise protected files do.

    Raises:
        BatchError: they would.
    """
    target = out.resolve()
    for source in sources:
        is_folder = source.is_dir()
        holder = source.resolve() if is_folder else source.resolve().parent
        if restoring and (target == holder or (is_folder and target.is_relative_to(holder))):
            raise BatchError(f"restored originals would lie in {out}, among the protected files of {source}")
        if not restoring and holder.is_relative_to(target):
            raise BatchError(f"protected files would lie in {out}, which holds the source {source}")


def _is_same_folder(source: Path, out: Path) -> bool:
    """Whether the output folder is a source folder."""
    if isinstance(source, RemotePath) or isinstance(out, RemotePath):
        return source == out
    return out.exists() and source.samefile(out)


def walk_folder(folder: Path, out: Path | None, filters: Filters = Filters()) -> Iterator[Found]:  # noqa: B008
    """All files of a folder, sorted; of a store, all objects below a name.

    Args:
        folder: walked with all folders in it.
        out: an output folder, which is left out.
        filters: which files are meant; others are said to be skipped.
    """
    for found in _walk_store(folder, out) if isinstance(folder, RemotePath) else _walk(folder, out):
        meant = filters.pass_on(found.relative) and (found.error is not None or not _is_of_the_system(found.path))
        yield found if meant else found._replace(skipped=True)


def _walk_store(folder: RemotePath, out: Path | None) -> Iterator[Found]:
    """All objects below a folder of a store."""
    objects = list(folder.walk_objects())
    present = {str(path) for path, _ in objects}
    for path, status in objects:
        name = str(path)
        is_sidecar = name.endswith(SIDECAR_SUFFIX) and name.removesuffix(SIDECAR_SUFFIX) in present
        if is_sidecar or path.name in _OWN_FILES or out in path.parents:
            continue
        error = None if status is not None else OSError(errno.EINVAL, "a key that is no path", name)
        yield Found(path, PurePosixPath(*path.relative_to(folder).parts), error)


def _walk(folder: Path, out: Path | None) -> Iterator[Found]:
    """All files of a folder."""
    root, skipped = folder.resolve(), None if out is None else out.resolve()
    errors: list[OSError] = []
    for base, folders, names in os.walk(folder, onerror=errors.append):
        here = Path(base)
        for name in sorted(folders):
            path = here / name
            if path.is_symlink():
                error = OSError(errno.ELOOP, "a link to a folder is not followed", str(path))
                yield Found(path, path.relative_to(folder), error)
        folders[:] = sorted(
            n
            for n in folders
            if not (here / n).is_symlink() and (here / n).resolve() != skipped and not n.endswith(JOB_SUFFIX)
        )
        present = set(names)
        for name in sorted(names):
            path = here / name
            is_sidecar = name.endswith(SIDECAR_SUFFIX) and name.removesuffix(SIDECAR_SUFFIX) in present
            if is_sidecar or name.endswith(TEMPORARY_SUFFIX) or name in _OWN_FILES:
                continue
            yield Found(path, path.relative_to(folder), _not_a_file(path, root))
    for error in errors:
        path = Path(str(error.filename))
        yield Found(path, path.relative_to(folder), error)


def _is_of_the_system(path: Path) -> bool:
    """Whether a file is what a file manager left beside images."""
    if path.name in _SYSTEM_FILES:
        return True
    if not path.name.startswith("._") or isinstance(path, RemotePath):
        return False
    with suppress(OSError):
        return first_bytes(path).startswith(_APPLE_DOUBLE)
    return False


def _not_a_file(path: Path, root: Path | None = None) -> OSError | None:
    """Why a path cannot be a source, or ``None``; with ``root``, links must stay below it."""
    try:
        target = path.resolve(strict=True)
        if root is not None and path.is_symlink() and not target.is_relative_to(root):
            return OSError(errno.ELOOP, "a link that leads out of the folder is not followed", str(path))
        if not stat.S_ISREG(target.stat().st_mode):
            return OSError(errno.EINVAL, "not a regular file", str(path))
    except FileNotFoundError:
        return FileNotFoundError(errno.ENOENT, "a broken link" if path.is_symlink() else "no such file", str(path))
    except RuntimeError:  # Python before 3.13 says so of links in a circle
        return OSError(errno.ELOOP, "links that lead in a circle", str(path))
    except OSError as error:
        return error
    return None


def _places(sources: Sequence[Path], out: Path, notices: list[str]) -> dict[Path, Path]:
    """Where the files of each source folder go."""
    folders = []
    for source in dict.fromkeys(sources):
        with suppress(OSError):  # a store that does not answer is told of when its objects are asked for
            if source.is_dir():
                folders.append(source)
    if len(folders) < 2:
        return dict.fromkeys(folders, out)
    places: dict[Path, Path] = {}
    for folder in folders:
        name = folder.resolve().name or "root"
        place = _free(out / name, set(places.values()))
        if place.name != name:
            notices.append(f"the files of {folder} go to {place}: another folder is called {name} too")
        places[folder] = place
    return places


def _each_place_once(jobs: Sequence[Job], notices: list[str]) -> list[Job]:
    """Jobs whose sources have names of their own in their folders: those of one name go to folders of their own."""
    taken: dict[Path, Path] = {}
    apart: list[Job] = []
    for job in jobs:
        folder = job.folder
        if (other := taken.get(folder.resolve() / job.source.name)) is not None:
            folder = job.folder / (job.source.resolve().parent.name or "root")
            folder = _free(folder, {place.parent for place in taken if place.name == job.source.name}, resolve=True)
            notices.append(f"{job.source} goes to {folder}: {other} has the same name")
        taken[folder.resolve() / job.source.name] = job.source
        apart.append(job._replace(folder=folder))
    return apart


def _apart(jobs: Sequence[Job], name: Callable[[Path], str | None], notices: list[str]) -> list[Job]:
    """Jobs whose results do not meet.

    Raises:
        BatchError: a result would be an input.
    """
    inputs = {job.source.resolve(): job.source for job in jobs}
    results = [None if isinstance(job.source, RemotePath) else name(job.source) for job in jobs]
    taken: dict[Path, Path] = {}
    names: dict[int, str] = {}
    # What keeps its name has the first claim to it; what becomes another format comes after.
    order = sorted(range(len(jobs)), key=lambda index: results[index] not in (None, jobs[index].source.name))
    for index in order:
        job, wanted = jobs[index], results[index]
        if wanted is None:
            continue
        folder = job.folder.resolve()
        place = folder / wanted
        if (other := taken.get(place)) is not None:
            place = _free(folder / f"{job.source.name}{Path(wanted).suffix}", set(taken))
            names[index] = place.name
            notices.append(f"{job.source} becomes {job.folder / place.name}: {wanted} is what {other} becomes")
        if (source := inputs.get(place)) is not None:
            shown = job.folder / place.name
            raise BatchError(f"{job.source} would become {shown}, which is the input {source}: choose another folder")
        taken[place] = job.source
    return [job._replace(name=names.get(index)) for index, job in enumerate(jobs)]


def _shared_instances(jobs: Sequence[Job]) -> list[str]:
    """Notices of DICOM files that share a SOP Instance UID: copies, or images that cannot be told apart by it."""
    instances: dict[str, list[Path]] = {}
    for job in jobs:
        if not isinstance(job.source, RemotePath) and (uid := instance_uid(job.source)) is not None:
            instances.setdefault(uid, []).append(job.source)
    notices = []
    for first, *others in instances.values():
        copies: list[Path] = []
        different: list[Path] = []
        with suppress(OSError):
            digest = stamp_file(first).sha256 if others else ""
            for other in others:
                (copies if stamp_file(other).sha256 == digest else different).append(other)
        if copies:
            notices.append(f"{_named(copies)}: the same as {first}; each copy is protected")
        if different:
            notices.append(
                f"{_named(different)}: not the same as {first} but of the same SOP Instance UID; each protected file "
                "gets a UID of its own"
            )
    return notices


def _named(paths: Sequence[Path]) -> str:
    """The first of some files, and how many more."""
    more = len(paths) - _MAX_NAMED
    return ", ".join(map(str, paths[:_MAX_NAMED])) + (f" and {more} more" if more > 0 else "")


def _free(place: Path, taken: set[Path], resolve: bool = False) -> Path:
    """A place that is not taken: the one that is wanted, else with a number behind the stem."""
    candidate, number = place, 1
    while (candidate.resolve() if resolve else candidate) in taken:
        number += 1
        candidate = place.with_name(f"{place.stem}-{number}{place.suffix}")
    return candidate

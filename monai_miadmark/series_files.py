# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Which DICOM files are one series, and the plan that they share, for whoever works on them file by file."""

from __future__ import annotations

import hashlib
import hmac
import io
import logging
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from monai_miadmark.errors import MIADMarkError
from monai_miadmark.formats import carrier_for
from monai_miadmark.image import StoredImage
from monai_miadmark.options import ProtectOptions
from monai_miadmark.protocols import Marker
from monai_miadmark.series import SeriesPlan, load_plan, plan_series, save_plan
from monai_miadmark.stores import RemotePath

__all__ = ["Series", "SeriesPlans", "grouped", "series_key"]

_log = logging.getLogger(__name__)

_HEAD_BYTES = 1 << 16
_PLANNED_BY = 6
"""Files of a series that its plan is made from, evenly spread."""

_KEPT_PLANS = 4
"""Plans that a process remembers: files of a series mostly come one after the other."""

_STORED_PLANS, _PLAN_SUFFIX = 64, ".series"

_PIXELS = 0x7FE00000
_GEOMETRY = ("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "PixelRepresentation")
_KEYWORDS = ("SeriesInstanceUID", "InstanceNumber", "NumberOfFrames", *_GEOMETRY)


@dataclass(frozen=True)
class Series:
    """A series as a job names it.

    Attributes:
        key: tells series apart; see :func:`series_key`.
        members: files that the plan is made from; those that cannot be read are left out.
        store: folder in which plans are kept for other processes; ``None`` where everybody makes them anew.
    """

    key: str
    members: tuple[Path, ...]
    store: Path | None = None

    @property
    def name(self) -> str:
        """Of the plan: another one if it is made from other files."""
        files = [path.name for path in self.members] if self.store is None else []
        told = "\n".join((self.key, *files))
        return hashlib.sha256(told.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def series_key(path: Path) -> tuple[str, int] | None:
    """What single-frame DICOM files of one series and geometry have in common, and the number of this one.

    ``None`` for all other files. Only the first bytes are read; that a file is damaged is said when it is worked on.
    """
    if isinstance(path, RemotePath):
        return None
    head = b""
    with suppress(OSError), path.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    if head[128:132] != b"DICM":
        return None
    from pydicom.filereader import read_partial
    from pydicom.tag import Tag

    with suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found: Any = read_partial(
            io.BytesIO(head),
            stop_when=lambda tag, vr, length: tag >= _PIXELS,
            specific_tags=[Tag(keyword) for keyword in _KEYWORDS],
        )
        uid = str(found.get("SeriesInstanceUID", "") or "")
        if not uid or int(found.get("NumberOfFrames", 1) or 1) > 1 or "Rows" not in found:
            return None
        geometry = "/".join(str(found.get(keyword, "")) for keyword in _GEOMETRY)
        number = str(found.get("InstanceNumber", "") or "0")
        return f"{uid}/{geometry}", int(number) if number.lstrip("+-").isdecimal() else 0
    return None


def grouped(paths: Iterable[Path]) -> Mapping[Path, Series]:
    """The series of each file that is one of several of its series."""
    found: dict[str, list[tuple[int, str, Path]]] = {}
    for path in paths:
        if (told := series_key(path)) is not None:
            found.setdefault(told[0], []).append((told[1], path.name, path))
    series: dict[Path, Series] = {}
    for key, files in found.items():
        if len(files) < 2:
            continue
        ordered = [path for _, _, path in sorted(files)]
        count = min(len(ordered), _PLANNED_BY)
        members = tuple(ordered[(2 * i + 1) * len(ordered) // (2 * count)] for i in range(count))
        series.update(dict.fromkeys(ordered, Series(key, members)))
    return series


class SeriesPlans:
    """Makes plans, each once in a process as long as its files come one after the other.

    Whatever goes wrong with a plan is in the way of no file: they are marked one by one then.

    Args:
        marker: networks.
        options: the custodian's choices.
        secret: keeps series together in all processes that work on a job; see :func:`plan_series`.
    """

    def __init__(self, marker: Marker, options: ProtectOptions, secret: bytes) -> None:
        self._marker, self._options, self._secret = marker, options, secret
        self._made: OrderedDict[str, SeriesPlan | None] = OrderedDict()

    def plan(self, series: Series) -> SeriesPlan | None:
        """The plan of a series; ``None`` where there is none to be had."""
        name = series.name
        if name in self._made:
            self._made.move_to_end(name)
            return self._made[name]
        try:
            plan = self._stored(series) or self._new(series)
        except (MIADMarkError, OSError, ValueError):
            _log.debug("a series could not be planned", exc_info=True)
            plan = None
        self._made[name] = None if plan is None else replace(plan, name=name)
        while len(self._made) > _KEPT_PLANS:
            self._made.popitem(last=False)
        return self._made[name]

    def _stored(self, series: Series) -> SeriesPlan | None:
        """The plan that another process has made."""
        if series.store is None:
            return None
        with suppress(FileNotFoundError):
            return load_plan(series.store / f"{series.name}{_PLAN_SUFFIX}")
        return None

    def _new(self, series: Series) -> SeriesPlan | None:
        """A plan made here; the one of who was first, where plans are kept for others."""
        images: list[StoredImage] = []
        for path in series.members:
            with suppress(MIADMarkError, OSError, ValueError):
                data = path.read_bytes()
                images.append(carrier_for(data, path.name).open_source(data, path.name).image)
        # Whoever has the secret of one series knows nothing about that of another.
        secret = hmac.digest(self._secret, b"miadmark series marks 1\0" + series.key.encode(), "sha256")
        plan = plan_series(images, self._options, self._marker, secret)
        if plan is None or series.store is None:
            return plan
        path = series.store / f"{series.name}{_PLAN_SUFFIX}"
        series.store.mkdir(mode=0o700, exist_ok=True)
        _forget_oldest(series.store)
        try:
            save_plan(plan, path)
        except FileExistsError:
            return load_plan(path)
        return plan


def _forget_oldest(folder: Path) -> None:
    """Keep the number of plans in a folder bounded."""
    with suppress(OSError):
        found = sorted(folder.glob(f"*{_PLAN_SUFFIX}"), key=lambda path: path.stat().st_mtime_ns)
        for path in found[: max(0, len(found) - _STORED_PLANS + 1)]:
            path.unlink(missing_ok=True)

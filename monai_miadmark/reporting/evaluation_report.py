# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Evaluations from the command line: the bundle's own configuration run over data sets, and the page of its tables."""

from __future__ import annotations

import base64
import importlib.util
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from monai_miadmark.datasets import DATA_ENV, dataset_root
from monai_miadmark.reporting import charts
from monai_miadmark.reporting.page import PageError, render, write_page

__all__ = ["Measurement", "data_sets", "measure", "missing_packages", "write_evaluation_page"]

_PACKAGES = {"skimage": "scikit-image", "pywt": "PyWavelets", "scipy": "scipy"}
_MAX_RESULT_BYTES = 64 << 20
_MAX_PICTURE_BYTES = 16 << 20
_NOTE = (
    "Accuracy of diagnostic models on clean and on protected images. White box: the model is one of those that the "
    "marks were made against. Black box: its architecture had no part in them. These figures hold for these models and "
    "these images; nobody can promise that a certain other model errs."
)


@dataclass(frozen=True)
class Measurement:
    """What is to be measured on each data set.

    Attributes:
        preset: strength.
        style: ``visible`` or ``invisible``.
        section: ``val`` to report, ``tune`` to choose.
        limit: at most so many images of each class; ``None`` for all.
        part: index and count: of so many equal parts of these only this one, every so many-th image.
    """

    preset: str = "standard"
    style: str = "visible"
    section: str = "val"
    limit: int | None = None
    part: tuple[int, int] = (0, 1)


def missing_packages() -> list[str]:
    """Names of the packages of the extra ``evaluation`` that are not installed."""
    return [name for module, name in _PACKAGES.items() if importlib.util.find_spec(module) is None]


def data_sets(folder: Path | None, root: Path) -> tuple[Path, list[str]]:
    """The folder of the data sets, and which of those that the bundle knows are in it.

    Args:
        folder: named by the caller; default: where training looks for them.
        root: bundle folder.

    Raises:
        FileNotFoundError: none is there.
    """
    from monai_miadmark.marker import load_config

    base = dataset_root() if folder is None else folder
    known = list(load_config(root)["modes"])
    found = [name for name in known if (base / name / "train").is_dir()]
    if not found:
        raise FileNotFoundError(f"none of {', '.join(known)} is in {base}: each is a folder with train and val")
    return base, found


def measure(root: Path, folder: Path, dataset: str, wanted: Measurement, out: Path) -> None:
    """Run the bundle's ``evaluate`` on a data set, as ``python -m monai.bundle run evaluate`` does.

    Results go to ``OUT/results``, pictures to ``OUT/pictures``; protected images are kept in ``OUT/sets``, so that the
    same question is answered from them the next time. Tables are printed.

    Args:
        root: bundle folder.
        folder: of the data sets.
        dataset: one of them.
        wanted: what to measure.
        out: output folder.

    Raises:
        FileNotFoundError: images or weights are missing.
        ValueError: weights that are not the released ones.
    """
    from monai_miadmark.marker import load_config

    parser = load_config(root, "networks.yaml", "evaluate.yaml", dataset=dataset)
    # Expressions of the configuration compute with a Path, which only an expression can make.
    parser.update({"output_dir": f"$Path({str(out.resolve())!r})", **vars(wanted)})
    with _data_from(folder):
        parser.get_parsed_content("evaluate")


def write_evaluation_page(results: Path, folder: Path, pictures: Path | None = None) -> Path:
    """Write the page of all results in a folder.

    Args:
        results: folder of the JSON files that evaluations left.
        folder: where the page goes.
        pictures: folder of contact sheets, which show originals; ``None`` shows none.

    Raises:
        FileNotFoundError: there are no results.
        PageError: a package is missing, the name is taken, or a result cannot be understood.
        OSError: something cannot be read or written.
    """
    from monai_miadmark.evaluation.report import read_results, write_tables

    size = sum(path.stat().st_size for path in results.glob("*.json"))
    if size > _MAX_RESULT_BYTES:
        raise PageError(f"the results in {results} have {size} bytes, more than a page can show")
    try:
        found = read_results(results)
        tables = _sections(write_tables(results))
        sections = [
            {"title": title, "about": _about(found, title), "charts": list(_charts(found, title)), "tables": parts}
            for title, parts in tables.items()
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise PageError(f"the results in {results} cannot be understood ({type(error).__name__})") from error
    facts = {
        "title": "Evaluation of protected images",
        "when": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "note": _NOTE,
        "sections": sections,
        "pictures": [] if pictures is None else _sheets(pictures),
    }
    return write_page(folder, render("evaluation.html.j2", facts))


@contextmanager
def _data_from(folder: Path) -> Iterator[None]:
    """Let the data sets be looked for in a folder, as the environment variable would."""
    before = os.environ.get(DATA_ENV)
    os.environ[DATA_ENV] = str(folder.resolve())
    try:
        yield
    finally:
        if before is None:
            del os.environ[DATA_ENV]
        else:
            os.environ[DATA_ENV] = before


def _sections(markdown: str) -> dict[str, list[dict[str, Any]]]:
    """Tables by title, out of the Markdown that the evaluation makes of its results."""
    sections: dict[str, list[dict[str, Any]]] = {}
    tables: list[dict[str, Any]] = []
    before = ""
    for line in markdown.splitlines():
        if line.startswith("### "):
            tables = sections.setdefault(line.removeprefix("### "), [])
        elif line.startswith("| "):
            cells = line.removeprefix("| ").removesuffix(" |").split(" | ")
            if not before.startswith("|"):
                tables.append({"heads": [_plain(cell)["text"] for cell in cells], "lines": []})
            else:
                tables[-1]["lines"].append([_plain(cell) for cell in cells])
        before = line
    return sections


def _plain(cell: str) -> dict[str, Any]:
    """A cell without Markdown's marks."""
    strong = re.fullmatch(r"\*\*(.*)\*\*", cell.strip())
    return {"text": (strong[1] if strong else cell.strip()).replace(" > ", " → "), "strong": strong is not None}


def _about(results: Sequence[Mapping[str, Any]], title: str) -> str:
    """How many images of what stand behind a section."""
    parts = [f"{r['dataset']}: {r['images']} images ({r['section']})" for r in results if r["title"] == title]
    return "; ".join(parts)


def _charts(results: Sequence[Mapping[str, Any]], title: str) -> Iterator[dict[str, str]]:
    """Bars of the models' accuracy, one chart for each data set."""
    for result in results:
        rows = [row for row in result["rows"] if result["title"] == title and not row.get("remover")]
        rows = [row for row in rows if "victim" in row and "setting" in row and "method" not in row]
        if rows:
            names = [f"{row['victim']} ({row['setting']})" for row in rows]
            clean, marked = ([float(row[key]) for row in rows] for key in ("clean", "protected"))
            label = f"accuracy on {result['dataset']} (%)"
            yield {"title": label, "uri": charts.paired_bars(names, clean, marked, label)}


def _sheets(folder: Path) -> list[dict[str, str]]:
    """Contact sheets as they are, as long as they are not too large together."""
    sheets, size = [], 0
    for path in sorted(folder.glob("*.png")):
        size += path.stat().st_size
        if size > _MAX_PICTURE_BYTES:
            break
        data = base64.b64encode(path.read_bytes()).decode("ascii")
        sheets.append({"title": path.stem, "uri": f"data:image/png;base64,{data}"})
    return sheets

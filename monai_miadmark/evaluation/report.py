# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Results as JSON files that runs leave behind, and as Markdown tables that are made of them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["mean_over", "read_results", "table", "write_json", "write_tables"]

Row = Mapping[str, Any]

OVERVIEW = "All evaluations"
"""Title of the table that compares them."""


def write_json(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Write through a temporary name, so that a run that is cut off leaves no half of a file.

    Raises:
        ValueError: a number that is not finite: JSON has none.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    os.replace(part, target)


def read_results(folder: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """All results in a folder, by file name.

    Raises:
        FileNotFoundError: there is none.
    """
    found = sorted(Path(folder).glob("*.json"))
    if not found:
        raise FileNotFoundError(f"no results in {folder}")
    return [json.loads(path.read_text()) for path in found]


def mean_over(rows: Iterable[Row], value: str, over: str = "dataset") -> float | None:
    """Mean of the means within each data set, so that none counts more for having more rows; ``None`` of nothing."""
    groups: dict[Any, list[float]] = {}
    for row in rows:
        if row.get(value) is not None:
            groups.setdefault(row[over], []).append(float(row[value]))
    return float(np.mean([np.mean(values) for values in groups.values()])) if groups else None


def table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    shown = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    return "\n".join([*shown, *(f"| {' | '.join(line)} |" for line in lines)]) + "\n"


def write_tables(folder: str | os.PathLike[str]) -> str:
    """Tables of all results in a folder, as Markdown; written to ``FOLDER/tables.md`` as well."""
    results = read_results(folder)
    parts = [f"### {OVERVIEW}\n", overview] if (overview := _overview(results)) else []
    for title, group in _groups(results).items():
        rows = [row for result in group for row in result["rows"]]
        datasets = sorted({row["dataset"] for row in rows})
        parts.append(f"### {title}\n")
        if any(row.get("method") for row in rows):
            parts.append(_method_table(rows, datasets))
            continue
        if rows:
            parts.append(_accuracy_table(rows, datasets))
        if classes := _class_table(rows, datasets):
            parts.append(classes)
        if any(row["remover"] for row in rows):
            parts.append(_remover_table(rows, datasets))
        if found := [{"dataset": result["dataset"], **result["dice"]} for result in group if result.get("dice")]:
            parts.append(_dice_table(found))
        if figures := {result["dataset"]: result["figures"] for result in group if result.get("figures")}:
            parts.append(_figures_table(figures))
    text = "\n".join(parts)
    (Path(folder) / "tables.md").write_text(text)
    return text


def _overview(results: Sequence[dict[str, Any]]) -> str:
    """Evaluations down, in one line each: means over models and data sets. Empty if there is only one."""
    lines = []
    for title, group in _groups(results).items():
        rows = [row for result in group for row in result["rows"] if not row.get("method")]
        figures = [{"dataset": result["dataset"], **result["figures"]} for result in group if result.get("figures")]
        if not rows or not figures:
            continue
        plain = [row for row in rows if not row["remover"]]
        box = {name: [row for row in plain if row["setting"] == name] for name in ("white box", "black box")}
        filtered = [row for row in rows if row["setting"] == "black box" and row["remover"]]
        by_filter = [mean_over([r for r in filtered if r["remover"] == n], "protected") for n in _names(filtered)]
        best = max((value for value in by_filter if value is not None), default=None)
        quality = [(mean_over(figures, key), form) for key, (_, form) in _FIGURES.items() if key in _OVERVIEW_FIGURES]
        lines.append(
            [
                title,
                ", ".join(f"{result.get('images', '?')} {result['dataset']}" for result in group),
                *(_cell(chosen) for chosen in box.values()),
                "" if best is None else f"{100 * best:.1f} %",
                *("" if value is None else form.format(value) for value, form in quality),
            ]
        )
    heads = [_FIGURES[key][0] for key in _FIGURES if key in _OVERVIEW_FIGURES]
    if len(lines) < 2:
        return ""
    return table(["evaluation", "images", "white box", "black box", "black box, best filter", *heads], lines)


def _names(rows: Iterable[Row]) -> list[str]:
    """Removers, each once."""
    return list(dict.fromkeys(row["remover"] for row in rows))


def _groups(results: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Results with one title belong into one table."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        groups.setdefault(result["title"], []).append(result)
    return groups


def _accuracy_table(rows: Sequence[Row], datasets: Sequence[str]) -> str:
    """Victims down, data sets across: clean > protected, as they are."""
    lines = []
    plain = [row for row in rows if not row["remover"]]
    for setting in dict.fromkeys(row["setting"] for row in plain):
        chosen = [row for row in plain if row["setting"] == setting]
        for victim in dict.fromkeys(row["victim"] for row in chosen):
            lines.append([setting, victim, *_cells(chosen, datasets, victim=victim)])
        lines.append([f"**{setting}**", "**mean**", *_cells(chosen, datasets)])
        restored = [row for row in chosen if row.get("restored") is not None]
        if restored and all(row["restored"] == row["clean"] for row in restored):
            lines[-1][-1] += ", restored = clean"
    return table(["setting", "model", *datasets, "mean"], lines)


def _class_table(rows: Sequence[Row], datasets: Sequence[str]) -> str:
    """Classes down, settings across: accuracy on images of each class, mean over the models; then the mean of these.

    Empty where rows do not tell classes apart. Where a class has few images, as in most data sets of medicine, the mean
    over classes says what the accuracy over all images hides.
    """
    told: list[Row] = [
        {"dataset": row["dataset"], "setting": row["setting"], "class": label, **counts}
        for row in rows
        for label, counts in (row.get("classes") or {}).items()
    ]
    settings = list(dict.fromkeys(row["setting"] for row in told))
    lines = []
    for name in datasets:
        here = [row for row in told if row["dataset"] == name]
        for label in dict.fromkeys(row["class"] for row in here):
            chosen = [row for row in here if row["class"] == label]
            lines.append([name, label, str(chosen[0]["images"]), *_by_setting(chosen, settings)])
        if here:
            lines.append([name, "**mean of classes**", "", *_by_setting(here, settings)])
    return table(["data set", "class", "images", *settings], lines) if lines else ""


def _by_setting(rows: Sequence[Row], settings: Sequence[str]) -> list[str]:
    """``clean > protected`` in each setting."""
    return [_cell([row for row in rows if row["setting"] == setting]) for setting in settings]


def _remover_table(rows: Sequence[Row], datasets: Sequence[str]) -> str:
    """Removers down, data sets across: accuracy on removed images, mean over the models."""
    lines = []
    for setting in dict.fromkeys(row["setting"] for row in rows):
        chosen = [row for row in rows if row["setting"] == setting]
        if not any(row["remover"] for row in chosen):
            continue
        for remover in dict.fromkeys(row["remover"] for row in chosen):
            lines.append([setting, remover or "none", *_cells(chosen, datasets, remover=remover)])
    return table(["setting", "remover", *datasets, "mean"], lines)


def _method_table(rows: Sequence[Row], datasets: Sequence[str]) -> str:
    """Methods down, data sets across: accuracy, mean over the models; then what the marks cost."""
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        chosen = [row for row in rows if row["method"] == method]
        costs = [(mean_over(chosen, value), form) for value, form in _COSTS.values()]
        cells = ("" if mean is None else form.format(mean) for mean, form in costs)
        lines.append([method, *_cells(chosen, datasets), *cells])
    return table(["method", *datasets, "mean", *_COSTS], lines)


def _cells(rows: Sequence[Row], datasets: Sequence[str], **where: str) -> list[str]:
    """``clean > protected`` for each data set and over all of them."""
    chosen = [row for row in rows if all(row[key] == value for key, value in where.items())]
    parts = [[row for row in chosen if row["dataset"] == name] for name in datasets]
    return [_cell(part) for part in (*parts, chosen)]


def _cell(rows: Sequence[Row]) -> str:
    clean, protected = mean_over(rows, "clean"), mean_over(rows, "protected")
    return "" if clean is None or protected is None else f"{100 * clean:.1f} > {100 * protected:.1f} %"


_COSTS = {
    "PSNR outside logo": ("psnr", "{:.2f} dB"),
    "SSIM outside logo": ("ssim", "{:.3f}"),
    "time an image": ("seconds", "{:.3g} s"),
}


def _dice_table(found: Sequence[Row]) -> str:
    """Data sets down: what is segmented and the Dice coefficients."""
    versions = ("clean", "protected", "restored")
    lines = [
        [row["dataset"], row["target"], str(row["images"]), *(f"{row[version]:.3f}" for version in versions)]
        for row in found
    ]
    return table(["data set", "target", "images", *versions], lines)


_FIGURES = {
    "psnr_outside_logo": ("PSNR outside logo", "{:.2f} dB"),
    "ssim_outside_logo": ("SSIM outside logo", "{:.3f}"),
    "psnr_region": ("PSNR in region", "{:.2f} dB"),
    "ssim_region": ("SSIM in region", "{:.3f}"),
    "region_identical": ("region bit-identical", "{:.0%}"),
    "psnr_whole": ("PSNR", "{:.2f} dB"),
    "ssim_whole": ("SSIM", "{:.3f}"),
    "ms_ssim_whole": ("MS-SSIM", "{:.3f}"),
    "restored_identical": ("restored bit for bit", "{:.1%}"),
    "record_bytes": ("record", "{:.0f} bytes"),
    "seconds_per_image": ("time an image", "{:.3g} s"),
}

_OVERVIEW_FIGURES = ("psnr_outside_logo", "ssim_outside_logo", "ssim_region", "restored_identical")


def _figures_table(figures: Mapping[str, Mapping[str, float | None]]) -> str:
    """Figures of the sets down, data sets across."""
    lines = []
    for key, (label, form) in _FIGURES.items():
        values = [row.get(key) for row in figures.values()]
        if any(value is not None for value in values):
            known = [value for value in values if value is not None]
            lines.append([label, *("" if v is None else form.format(v) for v in values), form.format(np.mean(known))])
    return table(["", *figures, "mean"], lines)

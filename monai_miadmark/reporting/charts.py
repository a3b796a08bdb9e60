# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Charts as SVG, drawn by Matplotlib without a display, ready to stand inside a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["before_and_after", "paired_bars", "spread"]

# Colors that differ in lightness too: they hold on gray paper and for color-blind readers.
_DARK, _LIGHT, _LINE = "#1f4e79", "#e07b39", "#444444"

_SIZE = (4.6, 2.6)
"""Inches."""

_FEW = 10
"""Fewer values than these are no histogram."""


def spread(values: Sequence[float], label: str) -> str:
    """How values are spread, with their mean as a line: each as a dot where they are few, else as a histogram.

    Args:
        values: finite, at least one.
        label: of the axis.

    Returns:
        The chart as a ``data:`` URI.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.subplots()
    if len(values) < _FEW:
        axes.plot(values, range(1, len(values) + 1), "o", color=_DARK, markersize=8)
        axes.set_ylim(0.5, len(values) + 0.5)
        axes.set_xlim(*_limits(values))
        axes.set_ylabel("image")
    else:
        axes.hist(values, bins=min(30, max(5, len(values) // 2)), color=_DARK, edgecolor="white")
        axes.set_ylabel("images")
    mean = sum(values) / len(values)
    axes.axvline(mean, color=_LIGHT, linewidth=2, linestyle="--", label=f"mean {mean:.4g}")
    axes.set_xlabel(label)
    axes.ticklabel_format(axis="x", useOffset=False)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False)
    return _svg(figure)


def before_and_after(before: Sequence[float], after: Sequence[float], label: str) -> str:
    """Probabilities of the same images before and after: an arrow each where they are few, else two histograms.

    Args:
        before: in [0, 1].
        after: of the same images.
        label: of the axis.

    Returns:
        The chart as a ``data:`` URI.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.subplots()
    if len(before) < _FEW:
        rows = range(1, len(before) + 1)
        axes.hlines(rows, before, after, color=_LINE, linewidth=1)
        axes.plot(before, rows, "o", color=_LIGHT, markersize=8, label="before")
        axes.plot(after, rows, "D", color=_DARK, markersize=7, label="protected")
        axes.set_ylim(0.5, len(before) + 0.5)
        axes.set_xlim(-0.03, 1.03)
        axes.set_ylabel("image")
    else:
        bins = [i / 20 for i in range(21)]
        axes.hist(before, bins=bins, color=_LIGHT, alpha=0.75, label="before")
        axes.hist(after, bins=bins, histtype="step", linewidth=2, color=_DARK, label="protected")
        axes.set_xlim(0, 1)
        axes.set_ylabel("images")
    axes.set_xlabel(label)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False)
    return _svg(figure)


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """Ends of an axis with room around values, also where all are the same."""
    low, high = min(values), max(values)
    room = max(0.15 * (high - low), 0.02 * max(abs(low), abs(high)), 1e-3)
    return low - room, high + room


def paired_bars(names: Sequence[str], before: Sequence[float], after: Sequence[float], label: str) -> str:
    """Shares before and after, two horizontal bars for each name, in percent; a ``data:`` URI."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 0.8 + 0.42 * len(names)), layout="constrained")
    axes = figure.subplots()
    places = range(len(names))
    axes.barh([p - 0.19 for p in places], [100 * v for v in before], height=0.36, color=_LIGHT, label="clean")
    axes.barh([p + 0.19 for p in places], [100 * v for v in after], height=0.36, color=_DARK, label="protected")
    for place, left, right in zip(places, before, after, strict=True):
        for shift, value in ((-0.19, left), (0.19, right)):
            axes.text(100 * value + 1, place + shift, f"{100 * value:.1f}", va="center", fontsize=7, color=_LINE)
    axes.set_yticks(list(places), [_plain(name) for name in names])
    axes.invert_yaxis()
    axes.set_xlim(0, 110)
    axes.set_xlabel(label)
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, 1.0 + 0.9 / (1 + len(names))), ncols=2)
    return _svg(figure)


def _plain(text: str) -> str:
    """Text that Matplotlib takes as it is: a dollar would begin a formula."""
    return text.replace("$", r"\$")


def _svg(figure: Figure) -> str:
    """The figure as a ``data:`` URI: in an image of its own, names inside do not meet those of other charts."""
    import matplotlib

    out = io.BytesIO()
    # Letters as paths: a page that loads nothing has no fonts of its own. No date, so that equal data give equal pages.
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "miadmark", "font.size": 9}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(out.getvalue()).decode("ascii")

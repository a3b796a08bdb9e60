# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Charts of reports hold with a few images as with many: each image is seen, and no axis is without room."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("matplotlib", reason="the extra report is not installed")

from monai_miadmark.reporting import charts


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Axes of the charts that were drawn; they are also written, as always."""
    found: list[Any] = []
    write = charts._svg

    def seen(figure: Any) -> str:
        found.extend(figure.axes)
        return write(figure)

    monkeypatch.setattr(charts, "_svg", seen)
    return found


@pytest.mark.parametrize("values", [[29.0], [29.0, 31.5], [29.0, 29.0], [0.0, 0.0], [25.0 + i for i in range(9)]])
def test_a_few_values_are_a_dot_each(drawn: list[Any], values: list[float]) -> None:
    assert charts.spread(values, "PSNR").startswith("data:image/svg+xml;base64,")
    (axes,) = drawn
    assert list(axes.lines[0].get_xdata()) == values and not axes.patches
    low, high = axes.get_xlim()
    assert low < min(values) <= max(values) < high


@pytest.mark.parametrize("before", [[0.9], [0.9, 0.4], [1.0, 0.0]])
def test_a_few_images_are_two_marks_each(drawn: list[Any], before: list[float]) -> None:
    after = [0.5 * value for value in before]
    charts.before_and_after(before, after, "probability")
    (axes,) = drawn
    assert [list(line.get_xdata()) for line in axes.lines] == [before, after] and not axes.patches
    low, high = axes.get_xlim()
    assert low < 0 and high > 1


def test_many_are_histograms(drawn: list[Any]) -> None:
    values = [0.01 * i for i in range(40)]
    charts.spread(values, "PSNR")
    charts.before_and_after(values, values, "probability")
    for axes in drawn:
        assert sum(patch.get_height() for patch in axes.patches if hasattr(patch, "get_height")) == len(values)

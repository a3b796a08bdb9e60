# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Which way the axes of a volume run on a display."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["flips_for_display"]


def flips_for_display(columns: Sequence[float], rows: Sequence[float]) -> tuple[bool, bool]:
    """Which of the axes (rows, columns) run away from the usual radiological display.

    Rows are wanted from anterior or superior downwards, columns from the patient's right or anterior rightwards, so
    that a logo can be read and a network sees heads the way up it learned them. Plain comparisons, so that every
    machine finds the same; nothing is turned where a number is not finite.

    Args:
        columns: direction in which the column number grows, along left-to-right R, posterior-to-anterior A and
            inferior-to-superior S of the patient.
        rows: direction in which the row number grows.
    """
    flips = []
    for direction, wanted_down in ((rows, (1, 2)), (columns, (0, 1))):
        if not all(math.isfinite(value) for value in direction):
            return False, False
        main = max(range(3), key=lambda world: abs(direction[world]))
        flips.append(main in wanted_down and direction[main] > 0)
    return flips[0], flips[1]

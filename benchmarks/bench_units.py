# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The steps of authorized loading, one by one, by pytest-benchmark: ``cd benchmarks; python -m pytest bench_units.py``.

Compare them with each other in one run (``--benchmark-columns=median,ops``); no limit is set here.
"""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any

import images
import pydicom
import pytest
from doubles import NoiseMarker

from monai_miadmark import pipeline, seal
from monai_miadmark.exact import estimate
from monai_miadmark.formats import carrier_for
from monai_miadmark.image import pixel_digest
from monai_miadmark.keys import generate_identity
from monai_miadmark.options import ProtectOptions
from monai_miadmark.record import RecoveryRecord

pytest.importorskip("pytest_benchmark")


@lru_cache
def case(style: str) -> dict[str, Any]:
    """A protected slice and what its steps start from."""
    who = generate_identity("hybrid")
    source = images.slice_of(512)
    options = ProtectOptions(preset="fast", region="none", style=style)  # type: ignore[arg-type]
    made = pipeline.protect_bytes(source, "a.dcm", [who.recipient], NoiseMarker(), options)
    held = carrier_for(made.data, "").open_protected(made.data)
    sealed = seal.open_envelope(made.envelope, [who]).record
    return {"who": who, "source": source, "data": made.data, "held": held, "sealed": sealed, "envelope": made.envelope}


@pytest.mark.parametrize("style", ["invisible", "visible"])
@pytest.mark.parametrize("step", ["pydicom", "open file", "digest", "unseal", "parse record", "undo", "restore", "all"])
def test_step(benchmark: Any, step: str, style: str) -> None:
    it = case(style)
    values = it["held"].values
    record = RecoveryRecord.from_bytes(it["sealed"])
    assert record.mark is not None
    works = {
        "pydicom": lambda: pydicom.dcmread(io.BytesIO(it["source"])).pixel_array,
        "open file": lambda: carrier_for(it["data"], "").open_protected(it["data"]),
        "digest": lambda: pixel_digest(values),
        "unseal": lambda: seal.open_envelope(it["envelope"], [it["who"]]),
        "parse record": lambda: RecoveryRecord.from_bytes(it["sealed"]),
        "undo": lambda: estimate(values, record.mark, record.bounds, record.padding),
        "restore": lambda: pipeline.restored_bytes(record, values, checked=True),
        "all": lambda: pipeline.remove_bytes(it["data"], [it["who"]]),
    }
    benchmark(works[step])

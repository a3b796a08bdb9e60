# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The same targets for a fuzzer that follows coverage: ``cd tests; python -m fuzz.atheris_targets nifti -runs=100000``.

Needs atheris (Linux). The first argument names a target of ``targets.py``; those behind it are libFuzzer's. Inputs are
its own changes to the corpus, and at times one of ours to its, which knows of checksums and of JSON in headers.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path
from random import Random

import atheris

with atheris.instrument_imports(include=["monai_miadmark"]):
    from fuzz import run, targets


def main(arguments: list[str]) -> None:
    """The command line."""
    target = targets.target_named(arguments[1])
    warnings.simplefilter("ignore")
    seeds = target.seeds()

    def change(data: bytes, size: int, seed: int) -> bytes:
        rng = Random(seed)
        if rng.random() < 0.5:
            try:
                return target.mutate(rng, data, seeds)[:size]
            except Exception:  # ours expect what is still valid
                pass
        return bytes(atheris.Mutate(data, size))

    def tried(data: bytes) -> None:
        outcome, wrong = run.judged(target, data)
        if (
            wrong and outcome != "memory"
        ):  # the peak of a process never goes down again: left to libFuzzer's -rss_limit_mb
            raise RuntimeError(f"{outcome}: {wrong}")

    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(seeds):
            (Path(folder) / f"seed{number}").write_bytes(seed)
        atheris.Setup([arguments[0], *arguments[2:], folder], tried, custom_mutator=change)
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv)

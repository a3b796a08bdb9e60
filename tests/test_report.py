# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Results as JSON, and the tables that are made of them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from monai_miadmark.evaluation.report import mean_over, read_results, table, write_json, write_tables


def row(dataset: str, victim: str, clean: float, protected: float, **more: Any) -> dict[str, Any]:
    given = {"dataset": dataset, "setting": "black box", "victim": victim, "remover": ""}
    return {**given, "clean": clean, "protected": protected, **more}


class TestJson:
    def test_is_written_whole_with_its_folder(self, tmp_path: Path) -> None:
        write_json(tmp_path / "new" / "a.json", {"title": "t", "value": 1.5})
        assert json.loads((tmp_path / "new" / "a.json").read_text()) == {"title": "t", "value": 1.5}
        assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.json"]

    def test_replaces_what_was_there(self, tmp_path: Path) -> None:
        for value in (1, 2):
            write_json(tmp_path / "a.json", {"value": value})
        assert read_results(tmp_path) == [{"value": 2}]

    def test_is_strict(self, tmp_path: Path) -> None:
        """Any parser can read what is written; what cannot be written leaves the old file."""
        write_json(tmp_path / "a.json", {"value": 1})
        with pytest.raises(ValueError, match="not JSON compliant"):
            write_json(tmp_path / "a.json", {"value": math.inf})
        assert read_results(tmp_path) == [{"value": 1}]

    def test_results_come_by_name(self, tmp_path: Path) -> None:
        for name in ("b", "a"):
            write_json(tmp_path / f"{name}.json", {"name": name})
        assert [result["name"] for result in read_results(tmp_path)] == ["a", "b"]

    def test_an_empty_folder_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=tmp_path.name):
            read_results(tmp_path)


class TestMean:
    def test_counts_every_data_set_alike(self) -> None:
        rows = [row("a", "x", 1.0, 0.2), row("a", "y", 0.8, 0.4), row("b", "x", 0.5, 0.0)]
        assert mean_over(rows, "clean") == pytest.approx(0.7) and mean_over(rows, "protected") == pytest.approx(0.15)
        assert mean_over(rows, "clean", over="victim") == pytest.approx((0.75 + 0.8) / 2)

    def test_skips_what_is_not_there(self) -> None:
        rows = [row("a", "x", 1.0, 0.2), row("b", "x", 1.0, 0.2, psnr=None), row("c", "x", 1.0, 0.2, psnr=30.0)]
        assert mean_over(rows, "psnr") == 30 and mean_over(rows, "ssim") is None and mean_over([], "clean") is None


def test_a_table_is_markdown() -> None:
    assert table(["a", "b"], [["1", "2"], ["3", ""]]) == "| a | b |\n|---|---|\n| 1 | 2 |\n| 3 |  |\n"


class TestTables:
    def test_accuracy_with_means_and_restoring(self, tmp_path: Path) -> None:
        for name, clean in (("skin", 0.5), ("brain_mri", 0.9)):
            rows = [row(name, "x", clean, 0.2, restored=clean), row(name, "y", clean, 0.4, restored=clean)]
            write_json(tmp_path / f"{name}.json", {"title": "standard, visible", "rows": rows})
        text = write_tables(tmp_path)
        assert (tmp_path / "tables.md").read_text() == text and text.count("### standard, visible\n") == 1
        assert "| setting | model | brain_mri | skin | mean |" in text
        assert "| black box | x | 90.0 > 20.0 % | 50.0 > 20.0 % | 70.0 > 20.0 % |" in text
        assert "**mean** | 90.0 > 30.0 % | 50.0 > 30.0 % | 70.0 > 30.0 %, restored = clean |" in text
        assert "remover" not in text and "class" not in text

    def test_classes_and_the_mean_of_them(self, tmp_path: Path) -> None:
        """Of 10 images of one class and 2 of another, each class counts alike in the mean over classes."""

        def told(victim: str, setting: str, many: float, few: float) -> dict[str, Any]:
            parts = {"many": (10, many), "few": (2, few)}
            classes = {name: {"images": n, "clean": 1.0, "protected": p} for name, (n, p) in parts.items()}
            return row("skin", victim, 1.0, (10 * many + 2 * few) / 12, setting=setting, classes=classes)

        rows = [told("x", "white box", 0.0, 0.0), told("x", "black box", 0.1, 1.0), told("y", "black box", 0.3, 0.5)]
        rows.append(row("fundus", "x", 1.0, 0.5, setting="black box"))  # of an older run
        write_json(tmp_path / "a.json", {"title": "t", "rows": rows})
        text = write_tables(tmp_path)
        assert "| data set | class | images | white box | black box |" in text
        assert "| skin | many | 10 | 100.0 > 0.0 % | 100.0 > 20.0 % |" in text
        assert "| skin | few | 2 | 100.0 > 0.0 % | 100.0 > 75.0 % |" in text
        assert "| skin | **mean of classes** |  | 100.0 > 0.0 % | 100.0 > 47.5 % |" in text
        assert "\n| fundus |" not in text

    def test_several_evaluations_are_compared(self, tmp_path: Path) -> None:
        """Means of the data sets' means; the best filter is the one that leaves most right answers over all of them."""
        for name, clean in (("skin", 0.5), ("brain_mri", 0.9)):
            for title, left in (("standard", 0.4), ("strong", 0.2)):
                rows = [row(name, "x", clean, left), {**row(name, "x", clean, left / 2), "setting": "white box"}]
                rows += [row(name, "x", clean, left + 0.04, remover="JPEG"), row(name, "x", clean, 0.1, remover="blur")]
                figures = {"psnr_outside_logo": 30 + clean, "restored_identical": 1.0}
                result = {"title": title, "dataset": name, "images": 7, "rows": rows, "figures": figures}
                write_json(tmp_path / f"{name}_{title}.json", result)
        text = write_tables(tmp_path)
        heads = "| white box | black box | black box, best filter | PSNR outside logo |"
        assert heads in text and text.count("All evaluations") == 1
        assert "| strong | 7 brain_mri, 7 skin | 70.0 > 10.0 % | 70.0 > 20.0 % | 24.0 % | 30.70 dB |" in text

    def test_what_did_not_come_back_is_not_claimed(self, tmp_path: Path) -> None:
        rows = [row("skin", "x", 0.5, 0.2, restored=0.5), row("skin", "y", 0.5, 0.2, restored=0.4)]
        write_json(tmp_path / "a.json", {"title": "t", "rows": rows})
        assert "restored = clean" not in write_tables(tmp_path)

    def test_removers(self, tmp_path: Path) -> None:
        rows = [row("skin", v, 0.8, p, remover=r) for v in "xy" for r, p in (("", 0.1), ("JPEG 75", 0.3))]
        rows.append(row("skin", "x", 0.8, 0.0, setting="white box"))
        write_json(tmp_path / "a.json", {"title": "t", "rows": rows})
        text = write_tables(tmp_path)
        assert "| black box | none | 80.0 > 10.0 % | 80.0 > 10.0 % |" in text
        assert "| black box | JPEG 75 | 80.0 > 30.0 % | 80.0 > 30.0 % |" in text
        assert "| white box | none |" not in text  # nobody removed anything there
        assert "| black box | x | 80.0 > 10.0 %" in text  # removed images do not count where they are asked as they are

    def test_figures(self, tmp_path: Path) -> None:
        for name, psnr in (("skin", 30.0), ("fundus", None)):
            figures = {"psnr_outside_logo": psnr, "restored_identical": 1.0, "ms_ssim_whole": None}
            content = {"rows": [row(name, "x", 1, 0)], "figures": figures}
            write_json(tmp_path / f"{name}.json", {"title": "t", "dataset": name, **content})
        text = write_tables(tmp_path)
        assert "|  | fundus | skin | mean |" in text
        assert "| PSNR outside logo |  | 30.00 dB | 30.00 dB |" in text
        assert "| restored bit for bit | 100.0% | 100.0% | 100.0% |" in text and "MS-SSIM" not in text

    def test_methods_stand_apart(self, tmp_path: Path) -> None:
        """Peers share victims and setting with this package's marks: their accuracies must not be averaged."""
        rows = [
            row("skin", v, 0.8, p, method=m, psnr=db, ssim=0.9, seconds=None)
            for m, p, db in (("MIAD-MARK", 0.1, 30.0), ("random signs", 0.7, None))
            for v in "xy"
        ]
        write_json(tmp_path / "a.json", {"title": "peers", "rows": rows})
        text = write_tables(tmp_path)
        assert "| MIAD-MARK | 80.0 > 10.0 % | 80.0 > 10.0 % | 30.00 dB | 0.900 |  |" in text
        assert "| random signs | 80.0 > 70.0 % | 80.0 > 70.0 % |  | 0.900 |  |" in text
        assert "40.0" not in text

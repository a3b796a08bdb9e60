# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Blocks of the pages: tutorials, how-tos and README.md are walked through, all others name what exists."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import time
from pathlib import Path

import pydicom.data
import pytest
from bundle_copies import needs_weights
from doc_blocks import NOT_RUN, ROOT, SHELLS, Block, blocks, calls, check_call, commands, pages
from doc_walks import Shell, difference, free_port, run_python, walk

from monai_miadmark.arguments import UsageError

README = ROOT / "README.md"
TUTORIALS = ROOT / "docs" / "tutorials"

# Pages that are walked through; those of one walk share a folder, and each goes on where the one before it ended.
WALKS = [
    [TUTORIALS / "custodian.md", TUTORIALS / "recipient.md"],
    [TUTORIALS / "monai.md"],
    [TUTORIALS / "pacs.md"],
    [ROOT / "docs" / "howto" / "own-data.md"],
]

_ALL = [block for page in pages() for block in blocks(page)]
_SHELL = [block for block in _ALL if block.language in SHELLS]
_PYTHON = [block for block in _ALL if block.language == "python"]


def _walked(block: Block) -> bool:
    return block.page == README or block.page in [page for pages in WALKS for page in pages]


def test_every_tutorial_is_walked_through() -> None:
    found = {page for folder in ("tutorials", "howto") for page in (ROOT / "docs" / folder).rglob("*.md")}
    assert found == {page for walked in WALKS for page in walked}
    for page in found:
        assert [block for block in blocks(page) if block.language in (*SHELLS, "python") and not block.not_run], page


@pytest.mark.parametrize("block", _SHELL, ids=str)
def test_commands_could_work(block: Block) -> None:
    """Also where they are not run: options, targets, extras, modules, configurations and what they override exist."""
    known = "".join(other.code for other in _SHELL if other.page == block.page and other.line < block.line)
    variables = "".join(f"{line}\n" for line in known.splitlines() if re.match(r"[A-Z]+=", line))
    found = [call for command in commands(block) for call in calls(variables + command.text)]
    assert found, "no command in it"
    for call in found:
        check_call(call)


@pytest.mark.parametrize("block", _PYTHON, ids=str)
def test_python_could_work(block: Block) -> None:
    """Also where it is not run: it is Python, and the names that it imports from the package are there."""
    for node in ast.walk(ast.parse(block.code)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "monai_miadmark":
            path = ROOT.joinpath(*node.module.split("."))
            source = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
            assert not {name.name for name in node.names} - _defined(source), node.module


def _defined(source: Path) -> set[str]:
    """Names that a module has: defined or imported."""
    found: set[str] = set()
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            found |= {name.asname or name.name for name in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


def test_what_is_not_run_has_a_reason() -> None:
    """A mark stands right before a block that would be run, says why, and names tests that exist."""
    marked = [block for block in _ALL if block.not_run]
    assert marked and all(_walked(block) and block.language in (*SHELLS, "python") for block in marked)
    lines = [line.strip() for page in pages() for line in page.read_text(encoding="utf-8").splitlines()]
    assert len(marked) == sum(1 for line in lines if NOT_RUN.fullmatch(line))
    for block in marked:
        assert block.not_run and len(block.not_run) > 10
        assert all((ROOT / name).is_file() for name in re.findall(r"tests/\w+\.py", block.not_run)), block.not_run


@pytest.mark.slow
@needs_weights
@pytest.mark.parametrize("walked", WALKS, ids=lambda walked: walked[-1].stem)
def test_walk(walked: list[Path], tmp_path: Path) -> None:
    """Everything that is typed works, and prints what the pages say."""
    for module in ("jinja2", "matplotlib") if walked == WALKS[0] else ("pynetdicom",) if walked == WALKS[2] else ():
        pytest.importorskip(module)
    for block, command, printed in walk(walked, tmp_path):
        if block.language != "bash":
            told = difference(command.output, printed)
            assert not told, f"{block}\n{command.text}\n{told}"


@pytest.mark.slow
@needs_weights
def test_readme(tmp_path: Path) -> None:
    """The blocks of README.md, on one small image; make itself is not run here."""
    scan = pydicom.data.get_testdata_file("MR_small.dcm", download=False)
    (tmp_path / "images").mkdir()
    for target in ("scan.dcm", "images/scan.dcm"):
        (tmp_path / target).write_bytes(Path(str(scan)).read_bytes())
    names: dict[str, object] = {}
    shell = Shell(tmp_path, {})
    ran = []
    try:
        for block in blocks(README):
            if block.language == "python":
                run_python(block, names, tmp_path)
            elif block.language in SHELLS and not all(call[0] == "make" for call in calls(block.code)):
                shutil.rmtree(tmp_path / "shared", ignore_errors=True)
                printed, status = shell.run(f"set -eu\n{block.code}")
                assert status == 0, f"{block} failed:\n{printed}"
                assert (tmp_path / "shared" / "scan.dcm").read_bytes() != (tmp_path / "scan.dcm").read_bytes()
            ran.append(block.language)
    finally:
        shell.close()
    assert {"bash", "python"} <= set(ran)
    assert (tmp_path / "restored" / "scan.dcm").read_bytes() == (tmp_path / "scan.dcm").read_bytes()
    sample, original = names["sample"], names["original"]
    assert isinstance(sample, dict)
    from monai.transforms import LoadImage

    expected = LoadImage(ensure_channel_first=True)(tmp_path / "scan.dcm")
    assert (original == expected).all() and not (sample["image"] == expected).all()


def _runs(pid: int) -> bool:
    """Whether a process is there, and more than what is left of one that nobody has asked for yet."""
    listed = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return bool(listed) and not listed.startswith("Z")


class TestWalking:
    """What walks through the pages finds what is wrong with them."""

    @staticmethod
    def page(folder: Path, text: str) -> Path:
        path = folder / "page.md"
        path.write_text(text)
        return path

    def test_output_that_differs(self, tmp_path: Path) -> None:
        page = self.page(tmp_path, "```console\n$ echo one; false\none\n$ echo $?\n0\n```\n")
        told = [difference(command.output, printed) for _, command, printed in walk([page], tmp_path)]
        assert told[0] == "" and "+1" in told[1]

    def test_what_varies(self) -> None:
        assert not difference("key 0123456789abcdef0123, 1.5 s", "key ffffffffffffffffffff, 12.25 s")
        assert not difference("one\n...\nlast", "one\ntwo\nthree\nlast") and difference("one\n...\nlast", "one\ntwo")
        assert difference("2 files in 1.5 s", "3 files in 1.5 s") and difference("", "more")

    def test_failing_commands(self, tmp_path: Path) -> None:
        page = self.page(tmp_path, "```bash\ntrue\nfalse\ntrue\n```\n")
        with pytest.raises(AssertionError, match="failed"):
            list(walk([page], tmp_path))

    def test_blocks_that_are_not_run(self, tmp_path: Path) -> None:
        page = self.page(tmp_path, "<!-- not run: it would fail -->\n```bash\nfalse\n```\n\n```bash\ntrue\n```\n")
        assert [command.text for _, command, _ in walk([page], tmp_path)] == ["true\n"]

    def test_python_prints(self, tmp_path: Path) -> None:
        page = self.page(tmp_path, "```python\nx = 1\n```\n\n```python\nprint(x + 1)\n```\n\n```text\n2\n```\n")
        assert [(command.output, printed) for _, command, printed in walk([page], tmp_path)] == [("", ""), ("2", "2")]

    def test_what_is_left_running_ends(self, tmp_path: Path) -> None:
        page = self.page(tmp_path, "```console\n$ sleep 600 &\n$ echo $! > pid\n```\n")
        list(walk([page], tmp_path))
        pid = int((tmp_path / "pid").read_text())
        patience = time.monotonic() + 20
        while _runs(pid) and time.monotonic() < patience:
            time.sleep(0.05)
        assert not _runs(pid)

    def test_ports_are_free(self, tmp_path: Path) -> None:
        shell = Shell(tmp_path, {"11112": (port := str(free_port()))})
        try:
            assert shell.run("echo 11112 | tee said") == ("11112", 0)
        finally:
            shell.close()
        assert (tmp_path / "said").read_text() == f"{port}\n"

    @pytest.mark.parametrize(
        "text",
        [
            "miadmark protect images -o out --no-such-option",
            "x=$(miadmark inspekt file)",
            "echo a | miadmark keygen",
            "pip install 'monai-miadmark[nonsense]'",
            "make nonsense",
            "python -m monai_miadmark.nonsense",
            "python -m monai.bundle run protect --config_file configs/protect.yaml --nonsense 1",
            "python -m monai.bundle run nonsense --config_file configs/protect.yaml",
            "for x in a; do\n  miadmark remove \\\n    shared\ndone",
        ],
    )
    def test_wrong_commands(self, text: str) -> None:
        with pytest.raises((UsageError, ValueError)):
            for call in calls(text):
                check_call(call)

    def test_calls(self) -> None:
        text = "B=$(python -c 'f(1)')\nOWN=\"--a 1\"\nrun $OWN > log 2>&1 &\nmiadmark keygen x && cmp a b\n"
        assert calls(text) == [
            ["python", "-c", "f(1)"],
            ["run", "--a", "1"],
            ["miadmark", "keygen", "x"],
            ["cmp", "a", "b"],
        ]

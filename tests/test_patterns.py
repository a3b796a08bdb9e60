# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Regular expressions take time in proportion to their input: a rule for all of them, and inputs made to be slow."""

from __future__ import annotations

import ast
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import monai_miadmark
from monai_miadmark import keys
from monai_miadmark.envelope import _HEX
from monai_miadmark.errors import MIADMarkError
from monai_miadmark.formats import carrier_for
from monai_miadmark.formats.dicom_scanning import scan
from monai_miadmark.formats.tiff_reading import _check_hidden_slices
from monai_miadmark.gateway.part10 import valid_uid

if sys.version_info >= (3, 11):
    from re import _constants as sre_constants
    from re import _parser as sre_parse
else:
    import sre_constants
    import sre_parse

ROOT = Path(monai_miadmark.__file__).resolve().parent
FUNCTIONS = {"compile", "findall", "finditer", "fullmatch", "match", "search", "split", "sub", "subn"}
MANY = 1000
CATEGORIES = {"DIGIT": r"\d", "NOT_DIGIT": r"\D", "SPACE": r"\s", "NOT_SPACE": r"\S", "WORD": r"\w", "NOT_WORD": r"\W"}
ALL = frozenset(range(256))


def patterns() -> Iterator[tuple[str, str | bytes]]:
    """Place and text of every regular expression of the package; one that is no literal fails, but for a user's own."""
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
                continue
            if node.func.attr in FUNCTIONS and isinstance(node.func.value, ast.Name) and node.func.value.id == "re":
                where = f"{path.relative_to(ROOT).as_posix()}:{node.lineno}"
                yield where, _text(node.args[0], where)


def _text(node: ast.expr, where: str) -> str | bytes:
    """A pattern's literal; names of our own constants stand for a word."""
    if isinstance(node, ast.Constant):
        assert isinstance(node.value, str | bytes)
        return node.value
    if isinstance(node, ast.BinOp):
        left, right = _text(node.left, where), _text(node.right, where)
        return left + right if isinstance(left, str) else left + bytes(right)  # type: ignore[operator, arg-type]
    if isinstance(node, ast.Call):  # NAME.encode()
        return b"name"
    assert where.startswith("transforms/io.py"), f"{where}: a pattern that the rule cannot read"
    return ""


def faults(pattern: str | bytes) -> list[str]:
    """What in a pattern may take more than linear time."""
    found: list[str] = []
    _walk(list(sre_parse.parse(pattern)), False, found)
    return found


def _walk(items: list[Any], repeated: bool, found: list[str]) -> None:
    """Look for repetition inside of unbounded repetition, and for one next to another that takes the same letters."""
    open_ends: set[int] = set()  # letters that an unbounded repetition just before could have taken as well
    for operation, argument in items:
        name = str(operation)
        if name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
            least, most, inner = argument
            unbounded = most is sre_constants.MAXREPEAT or most > MANY
            if unbounded and repeated:
                found.append("repetition inside of repetition")
            letters = _letters(list(inner))
            if unbounded and open_ends & letters:
                found.append("repetitions of the same letters beside each other")
            _walk(list(inner), repeated or unbounded, found)
            if unbounded:
                open_ends = open_ends | letters if least == 0 else set(letters)
            elif least:
                open_ends &= letters
        elif name == "SUBPATTERN":
            # As if its content stood here.
            inner = list(argument[3])
            if open_ends & _opened(inner):
                found.append("repetitions of the same letters beside each other")
            _walk(inner, repeated, found)
            open_ends = _opened(inner) or (open_ends & _letters(inner))
        elif name == "BRANCH":
            firsts = [_letters(list(branch)[:1]) for branch in argument[1]]
            if repeated and any(a & b for i, a in enumerate(firsts) for b in firsts[:i]):
                found.append("alternatives that begin alike inside of repetition")
            for branch in argument[1]:
                _walk(list(branch), repeated, found)
            open_ends &= set().union(*firsts)
        elif name != "AT":
            # A letter between two repetitions parts them unless the first can take it too: then it may stand anywhere.
            open_ends &= _letters([(operation, argument)])


def _opened(items: list[Any]) -> set[int]:
    """Letters of unbounded repetitions in a run of items."""
    letters: set[int] = set()
    for operation, argument in items:
        if str(operation) in ("MAX_REPEAT", "MIN_REPEAT") and argument[1] is sre_constants.MAXREPEAT:
            letters |= _letters(list(argument[2]))
        elif str(operation) == "SUBPATTERN":
            letters |= _opened(list(argument[3]))
    return letters


def _letters(items: list[Any]) -> set[int]:
    """Letters that any of the items can take."""
    letters: set[int] = set()
    for operation, argument in items:
        name = str(operation)
        if name == "LITERAL":
            letters.add(argument)
        elif name == "NOT_LITERAL":
            letters |= ALL - {argument}
        elif name == "ANY":
            letters |= ALL
        elif name == "IN":
            inside = _letters([part for part in argument if str(part[0]) != "NEGATE"])
            letters |= ALL - inside if any(str(part[0]) == "NEGATE" for part in argument) else inside
        elif name == "RANGE":
            letters |= set(range(argument[0], argument[1] + 1))
        elif name == "CATEGORY":
            form = re.compile(CATEGORIES[str(argument).removeprefix("CATEGORY_")], re.ASCII)
            letters |= {code for code in ALL if form.match(chr(code))}
        elif name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
            letters |= _letters(list(argument[2]))
        elif name == "SUBPATTERN":
            letters |= _letters(list(argument[3]))
        elif name == "BRANCH":
            letters |= set().union(*(_letters(list(branch)) for branch in argument[1]))
        elif name == "GROUPREF":
            letters |= ALL
    return letters


@pytest.mark.parametrize(("where", "pattern"), list(patterns()))
def test_no_pattern_of_the_package_repeats_in_a_repetition(where: str, pattern: str | bytes) -> None:
    assert not faults(pattern), f"{where}: {pattern!r}"


@pytest.mark.parametrize(
    "pattern",
    [
        r"(?:[0-9]{1,10}\s*)+",
        r"(a+)+b",
        r"[ \t]*=[ \t]*([^\r\n]*?)[ \t]*\r?\n",
        r"(?:[^\n]*\n)*?images=",
        r"(?:ab|[a-c]b)*d",
        r"x*x*y",
        r"\s*(\s+)x",
        r"x*.x*y",
    ],
)
def test_the_rule_finds(pattern: str) -> None:
    assert faults(pattern)


def test_the_rule_lets_linear_patterns_pass() -> None:
    for pattern in (r"[0-9](?:\.?[0-9]){0,63}", r"a[^\r\n]*\r?\n", r"\([^()]*\)", r"a*b*c", r"(?:[0-9a-f]{2})*"):
        assert not faults(pattern), pattern
    assert sum(1 for _ in patterns()) > 10


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail, and stop, what takes longer."""

    def late(number: int, frame: object) -> None:
        raise AssertionError(f"not done within {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


NRRD = b"NRRD0004\ntype: uint8\ndimension: 2\nencoding: raw\n"
META = b"ObjectType = Image\nNDims = 2\nBinaryData = True\nElementType = MET_UCHAR\n"
HOSTILE: dict[str, Callable[[int], bytes]] = {
    "nrrd sizes": lambda n: NRRD + b"sizes: " + b"1" * n + b"x\n\n",
    "nrrd sizes apart": lambda n: NRRD + b"sizes: " + b"1 " * n + b"x\n\n",
    "nrrd spaces": lambda n: NRRD + b"sizes: 2 2\nspace directions: " + b"(" * n + b"\n\n1234",
    "nrrd record": lambda n: NRRD + b"miadmark_record:=" * n + b"\n\n",
    "nrrd lines": lambda n: NRRD + b"sizes: 2 2\n" + b"a\n" * n,
    "nrrd segments": lambda n: NRRD + b"sizes: 2 2\n" + b"Segment1" * n + b"\n\n1234",
    "mha sizes": lambda n: META + b"DimSize = " + b"1" * n + b"x\nElementDataFile = LOCAL\n",
    "mha sizes apart": lambda n: META + b"DimSize = " + b"1 " * n + b"x\nElementDataFile = LOCAL\n",
    "mha blanks": lambda n: META + b"ElementDataFile" + b" " * n + b"=" + b" " * n + b"\r" + b" " * n,
    "mha tabs": lambda n: META + b"ElementDataFile =" + b"\t" * n + b"x" + b"\t" * n,
    "mha last": lambda n: META + b"ElementDataFile" * n,
    "mha lines": lambda n: META + b"\n" * n,
    "mha matrix": lambda n: META + b"DimSize = 2 2\nTransformMatrix = " + b"1 " * n + b"\nElementDataFile = LOCAL\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_headers_made_to_be_slow_are_read_in_no_time(name: str) -> None:
    for n in (18, 24, 40, 3000, 200_000):
        data = HOSTILE[name](n)
        with within(2):
            try:
                carrier = carrier_for(data, name)
                carrier.open_protected(data)
                carrier.open_source(data, name)
            except MIADMarkError:
                pass


def test_other_patterns_take_hostile_text_in_no_time(tmp_path: Path) -> None:
    path = tmp_path / "many.pub"
    path.write_bytes((b"-----BEGIN A-----\n" * 3600)[: 1 << 16])
    with within(2):
        with pytest.raises(ValueError, match="no PEM block"):
            keys.load_recipient(path)
        _check_hidden_slices(b"ImageJ=1\n" + b"a\n" * 500_000, 1)
        _check_hidden_slices(b"ImageJ=" + b"images=1" * 100_000, 1)
        assert not valid_uid("1." * 32 + "x") and valid_uid("1.20.3") and not valid_uid("1..2") and not valid_uid("1.")
        assert not _HEX.fullmatch("a" * 500_001)
        assert scan(bytes(128) + b"DICM" + b"A " * 100_000) is None


def test_time_grows_with_the_input_and_no_faster() -> None:
    """Of the two headers that hung: four times the digits take at most some four times as long."""
    for name in ("nrrd sizes", "mha blanks"):
        times = []
        for n in (100_000, 400_000):
            data = HOSTILE[name](n)
            best = 60.0
            for _ in range(3):
                start = time.process_time()
                with pytest.raises(MIADMarkError):
                    carrier_for(data, name).open_protected(data)
                best = min(best, time.process_time() - start)
            times.append(best)
        assert times[1] < 12 * times[0] + 0.02, name

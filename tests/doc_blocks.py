# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Fenced blocks of the pages: found, split into commands, and the commands found out about without running them."""

from __future__ import annotations

import re
import shlex
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from monai_miadmark.arguments import command_line

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "bundles" / "miadmark" / "configs"
SHELLS = ("bash", "console")

# The line before a block that is not to be run, with the reason.
NOT_RUN = re.compile(r"<!-- not run: (?P<reason>.+) -->")

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[\w{}-]*)(?: .*)?$")
_CONTROL = {"if", "then", "else", "fi", "do", "done", "while", "until", "export", "eval", "!", "{", "}"}


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: file that it stands in.
        line: number of its first line, counted from 1.
        language: what its fence names.
        code: its lines, without the indent of the fence.
        not_run: why it is not run, or ``None``.
    """

    page: Path
    line: int
    language: str
    code: str
    not_run: str | None

    def __str__(self) -> str:
        page = self.page.relative_to(ROOT) if self.page.is_relative_to(ROOT) else self.page
        return f"{page}:{self.line}"


@dataclass(frozen=True)
class Command:
    """A command as it is typed, several lines where it goes on, and what the page says that it prints."""

    text: str
    output: str


def pages() -> list[Path]:
    """Every page whose blocks are looked at."""
    docs = sorted((ROOT / "docs").rglob("*.md"))
    return [ROOT / "README.md", ROOT / "bundles" / "miadmark" / "docs" / "README.md", *docs]


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page in their order."""
    found: list[Block] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    fence: re.Match[str] | None = None
    start, reason, before = 0, None, ""
    for number, line in enumerate(lines, 1):
        if fence is None:
            fence = _FENCE.match(line)
            if fence:
                start, mark = number + 1, NOT_RUN.fullmatch(before.strip())
                reason = mark["reason"] if mark else None
            elif line.strip():
                before = line
        elif line.strip() == "```":
            inside = (text.removeprefix(fence["indent"]) for text in lines[start - 1 : number - 1])
            found.append(Block(page, start, fence["language"], "".join(f"{text}\n" for text in inside), reason))
            fence, before = None, ""
    if fence is not None:
        raise ValueError(f"{page}: the block of line {start} has no end")
    return found


def commands(block: Block) -> list[Command]:
    """What is typed: in a ``console`` block what stands behind prompts, else the whole block at once."""
    if block.language != "console":
        return [Command(block.code, "")]
    found: list[Command] = []
    typed: list[str] = []
    printed: list[str] = []
    for line in block.code.splitlines():
        if line.startswith("$ "):
            if typed:
                found.append(Command("\n".join(typed), "\n".join(printed)))
            typed, printed = [line[2:]], []
        elif typed and not printed and (line.startswith("> ") or typed[-1].endswith("\\")):
            typed.append(line.removeprefix("> "))
        elif typed:
            printed.append(line)
        else:
            raise ValueError(f"{block} begins without a prompt")
    return [*found, Command("\n".join(typed), "\n".join(printed))]


def calls(text: str) -> list[list[str]]:
    """The programs that a piece of shell calls, each with its arguments; also those in ``$(...)``.

    Variables that are set in the text are filled in; redirections, comments and control words are left out.
    """
    text, substitutions = _without_substitutions(text.replace("\\\n", " "))
    found = [call for inner in substitutions for call in calls(inner)]
    for name, quoted, plain in re.findall(r"^(\w+)=(?:\"([^\"]*)\"|(\S*))$", text, re.MULTILINE):
        text = re.sub(rf"\$(?:{name}\b|\{{{name}\}})", lambda _, value=quoted or plain: str(value), text)
    text = re.sub(r"<<-?\s*['\"]?(\w+)['\"]?(.*)\n(?:.*\n)*?\s*\1$", r"\2", text, flags=re.MULTILINE)
    text = re.sub(r"(?:^|(?<=\s))#.*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"\s\d?>&\d|(?<=\s)\d(?=>)", " ", text)  # 2>&1, and the 2 of 2> file
    lexer = shlex.shlex(text, posix=True, punctuation_chars=";|&()<>\n")
    lexer.commenters, lexer.whitespace, lexer.whitespace_split = "", " \t\r", True
    call: list[str] = []
    file_follows = False
    for token in [*lexer, ";"]:
        if set(token) <= set("<>&|") and set(token) & set("<>"):
            file_follows = True
        elif set(token) <= set(";|&()\n"):
            if call:
                found.append(call)
            call, file_follows = [], False
        elif file_follows:
            file_follows = False
        elif call or (token not in _CONTROL and not re.match(r"\w+=", token)):
            call.append(token)
    return [call for call in found if call[0] != "for"]


def _without_substitutions(text: str) -> tuple[str, list[str]]:
    """A piece of shell with a word in the place of each ``$(...)``, and what was inside of them."""
    inside: list[str] = []
    while (start := text.find("$(")) >= 0:
        depth, end = 1, start + 2
        while depth and end < len(text):
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            end += 1
        inside.append(text[start + 2 : end - 1])
        text = f"{text[:start]}SUBSTITUTED{text[end:]}"
    return text, inside


def check_call(call: list[str]) -> None:
    """Find out whether a call could work: of ``miadmark``, pip with our extras, make, and bundles of MONAI.

    Raises:
        ValueError: it could not, with what is wrong.
        UsageError: by the parser of ``miadmark``.
    """
    program, arguments = Path(call[0]).name, call[1:]
    if program == "miadmark":
        _check_miadmark(arguments)
    elif program == "make":
        targets = set(re.findall(r"^([a-z-]+(?: [a-z-]+)*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        known = {name for names in targets for name in names.split()}
        for target in arguments:
            if "=" not in target and target not in known:
                raise ValueError(f"the Makefile has no target {target}")
    elif "pip" in call or program == "pip":
        for wanted in arguments:
            if found := re.fullmatch(r"(?:monai-miadmark|\.)\[([\w,-]+)\].*", wanted):
                for extra in found[1].split(","):
                    if not re.search(rf"^{extra} = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE):
                        raise ValueError(f"there is no extra {extra}")
    elif "monai.bundle" in call and "run" in call:
        _check_bundle_run(call[call.index("run") + 1 :])
    elif len(call) > 2 and call[1] == "-m" and call[2].startswith("monai_miadmark"):
        path = ROOT.joinpath(*call[2].split("."))
        if not (path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()):
            raise ValueError(f"there is no module {call[2]}")


def _check_miadmark(arguments: list[str]) -> None:
    """Ask the parser of the command line, which does not run anything."""
    verbs = re.findall(r'^        "(\w+)": \(', (ROOT / "monai_miadmark" / "arguments.py").read_text(), re.MULTILINE)
    parser = command_line(dict.fromkeys(verbs, _nothing))
    if arguments not in (["--help"], ["--version"]) and arguments[1:] != ["--help"] and arguments[-1:] != ["..."]:
        parser.parse_args(arguments)


def _nothing(options: Namespace) -> int:
    return 0


def _check_bundle_run(arguments: list[str]) -> None:
    """Configurations exist, have what is to be run, and know what is overridden."""
    options = dict(zip((a for a in arguments if a.startswith("--")), _values(arguments), strict=True))
    names = re.findall(r"(\w+\.yaml)", options["--config_file"])
    config: dict[str, object] = {}
    for name in names:
        config |= yaml.safe_load((CONFIGS / name).read_text())
    run_id = arguments[0] if not arguments[0].startswith("--") else "run"
    if run_id not in config:
        raise ValueError(f"{' + '.join(names)} has no {run_id}")
    for option in options:
        name = option.removeprefix("--").split("#")[0]
        if name not in config and name not in ("bundle_root", "config_file", "meta_file"):
            raise ValueError(f"{' + '.join(names)} has no {name}")


def _values(arguments: list[str]) -> Iterator[str]:
    """What follows each option, which must be one word."""
    for number, word in enumerate(arguments):
        if word.startswith("--"):
            if number + 1 == len(arguments) or arguments[number + 1].startswith("--"):
                raise ValueError(f"{word} has no value")
            yield arguments[number + 1]

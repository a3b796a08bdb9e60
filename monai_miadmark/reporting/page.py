# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""From facts to one HTML file that needs nothing else: no script, no font, no picture from outside."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_miadmark import __version__
from monai_miadmark.atomic import atomic_write, make_folders

__all__ = ["PAGE_NAME", "PageError", "missing_packages", "printable", "render", "write_page"]

PAGE_NAME = "report.html"

_SIGN = '<meta name="generator" content="miadmark'
"""How a page of ours can be told from other files."""

_HEAD_BYTES = 2048


class PageError(Exception):
    """The page cannot be written; the message says why."""


def missing_packages() -> list[str]:
    """Names of the packages of the extra ``report`` that are not installed."""
    needed = {"jinja2": "Jinja2", "matplotlib": "matplotlib"}
    return [name for module, name in needed.items() if importlib.util.find_spec(module) is None]


def printable(text: str) -> str:
    """Text from outside without characters that change what stands around them (controls, text direction)."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def render(template: str, facts: Mapping[str, Any]) -> str:
    """Fill a template; all text is escaped.

    Args:
        template: name of a file in ``templates``.
        facts: what the template names.

    Raises:
        PageError: a package is missing.
    """
    if missing := missing_packages():
        raise PageError(f"a report needs {' and '.join(missing)}: pip install 'monai-miadmark[report]'")
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    def finalize(value: Any) -> Any:
        return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = Environment(
        loader=PackageLoader("monai_miadmark.reporting", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=finalize,
    )
    return environment.get_template(template).render(**facts, package_version=__version__)


def write_page(folder: Path, page: str) -> Path:
    """Write a page into a folder, which is made if it is missing; an earlier page of ours is replaced.

    Raises:
        PageError: another file has the name.
        OSError: nothing was written.
    """
    make_folders(folder)
    path = folder / PAGE_NAME
    if path.exists() or path.is_symlink():
        with open(path, "rb") as stream:
            head = stream.read(_HEAD_BYTES)
        if path.is_symlink() or _SIGN.encode() not in head:
            raise PageError(f"{path} is not a report of miadmark and is left as it is: choose another folder")
    # Nobody else needs to read it: it tells what was protected, and may show originals.
    atomic_write(path, page.encode("utf-8"), overwrite=True, mode=0o600)
    return path

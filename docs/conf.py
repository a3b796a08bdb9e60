# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The documentation site: ``make docs`` builds it, ``tests/test_docs_site.py`` holds it to having no warnings."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from monai_miadmark import __version__

ROOT = Path(__file__).resolve().parent.parent

project = "monai_miadmark"
author = "The monai_miadmark authors"
copyright = "2026 The monai_miadmark authors"
version = release = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["**.ipynb_checkpoints"]

# Links such as format.md#carriers, with the anchors that hosts of repositories give to headings.
myst_heading_anchors = 4

# The notebook is executed by every build, and one that raises fails the build. Its outputs are not in the repository.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_default_options = {"no-value": True}
autodoc_typehints_format = "short"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
# As a list in the text of the class: as entries they would stand beside those that autodoc makes of the same fields.
napoleon_use_ivar = True
napoleon_use_rtype = False  # what stands before a colon in "Returns" is not always a type
python_maximum_signature_line_length = 100

html_theme = "furo"
html_title = f"monai_miadmark {__version__}"
html_copy_source = False
html_show_sourcelink = False
html_static_path = ["static"]
html_css_files = ["site.css"]

# What pages outside docs/ are called on the site.
_ON_THE_SITE = {"bundles/miadmark/docs/README.md": "bundle.md", "README.md": "index.md"}


def _links(text: str, folder: Path, page: Path) -> str:
    """Links of a page, so that those to pages outside ``docs/`` lead to their copies on the site.

    Args:
        text: Markdown.
        folder: where the text lies: what its links are relative to.
        page: folder of the page that the text becomes a part of.
    """

    def rewritten(found: re.Match[str]) -> str:
        target, anchor = found["target"], found["anchor"] or ""
        path = (folder / target).resolve()
        if not path.is_relative_to(ROOT):
            return found[0]
        name = path.relative_to(ROOT).as_posix()
        there = ROOT / "docs" / _ON_THE_SITE[name] if name in _ON_THE_SITE else path
        return f"]({Path(os.path.relpath(there, page)).as_posix()}{anchor})"

    return re.sub(r"\]\((?P<target>[^)#:\s]+\.md)(?P<anchor>#[^)\s]*)?\)", rewritten, text)


def _page(app: Any, docname: str, source: list[str]) -> None:
    """Links of the pages in ``docs/``."""
    path = Path(app.env.doc2path(docname))
    if path.suffix == ".md":
        source[0] = _links(source[0], path.parent, path.parent)


def _included(app: Any, relative_path: Path, parent: str, content: list[str]) -> None:
    """Links of pages that are parts of others, and headings of MONAI's template, which leaves out levels."""
    path = (ROOT / "docs" / relative_path).resolve()
    content[0] = _links(content[0], path.parent, ROOT / "docs")  # pages with parts of others lie directly there
    if path.name == "README.md":
        content[0] = re.sub(r"^#(?=###? )", "", content[0], flags=re.MULTILINE)


def _signature(
    app: Any, what: str, name: str, obj: object, options: object, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """``NDArray[X]`` again for what Python makes of it."""

    def short(text: str | None) -> str | None:
        long = r"(?:~?numpy\.)?ndarray\[tuple\[(?:~?typing\.)?Any, \.\.\.\], (?:~?numpy\.)?dtype\[([^\[\]]+)\]\]"
        return text and re.sub(long, r"NDArray[\1]", text)

    return short(signature), short(returned)


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _page)
    app.connect("include-read", _included)
    app.connect("autodoc-process-signature", _signature)

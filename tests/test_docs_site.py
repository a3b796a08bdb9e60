# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The site: built without a warning, notebook included, and asking nobody else for anything."""

from __future__ import annotations

import html.parser
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from bundle_copies import needs_weights
from doc_blocks import ROOT, pages

# What a browser fetches by itself; links that a reader may follow are not among it.
_FETCHED = {"src", "srcset", "poster", "data"}
_LINKS_FETCHED = {
    "stylesheet",
    "icon",
    "preload",
    "prefetch",
    "preconnect",
    "dns-prefetch",
    "modulepreload",
    "manifest",
}
_ELSEWHERE = re.compile(r"\s*(?:https?:)?//", re.IGNORECASE)


class _Fetches(html.parser.HTMLParser):
    """Addresses on other hosts that a page makes a browser fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = {name: value or "" for name, value in attrs}
        wanted = [told[name] for name in _FETCHED & told.keys()]
        if tag == "link" and _LINKS_FETCHED & set(told.get("rel", "").lower().split()):
            wanted.append(told.get("href", ""))
        self.found += [address for address in wanted if _ELSEWHERE.match(address)]


def fetches(page: str) -> list[str]:
    """Addresses on other hosts that a page makes a browser fetch by itself."""
    parser = _Fetches()
    parser.feed(page)
    return parser.found + style_fetches(page)


def style_fetches(style: str) -> list[str]:
    """The same for style sheets."""
    return re.findall(r"(?:url\(|@import)\s*['\"]?\s*((?:https?:)?//[^'\")]+)", style)


@pytest.mark.slow
@needs_weights
def test_the_site(tmp_path: Path) -> None:
    """One test, because the site is built only once then, wherever tests run at the same time."""
    for module in ("sphinx", "furo", "myst_nb", "nilearn", "matplotlib"):
        pytest.importorskip(module)
    site = tmp_path / "site"
    built = subprocess.run(
        [
            sys.executable,
            "-m",
            "sphinx",
            "-E",
            "-W",
            "--keep-going",
            "-q",
            "-d",
            tmp_path / "trees",
            ROOT / "docs",
            site,
        ],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},  # threads that wait for each other take minutes
    )
    # Not that nothing is said: the notebook's kernel speaks of its sockets.
    assert built.returncode == 0 and "WARNING:" not in built.stderr and "ERROR:" not in built.stderr, built.stderr

    found = sorted(site.rglob("*.html"))
    sources = [path for path in (ROOT / "docs").rglob("*") if path.suffix in (".md", ".ipynb")]
    for source in sources:
        assert site / source.relative_to(ROOT / "docs").with_suffix(".html") in found
    for page in found:
        assert not fetches(page.read_text(encoding="utf-8")), page
    for sheet in site.rglob("*.css"):
        assert not style_fetches(sheet.read_text(encoding="utf-8")), sheet

    text = (site / "notebooks" / "protect_and_restore.html").read_text(encoding="utf-8")
    assert "restored: byte for byte" in text and "WrongKeyError - written: False" in text and text.count("<img") >= 2
    text = (site / "api" / "transforms.html").read_text(encoding="utf-8")
    assert 'id="monai_miadmark.transforms.ProtectWithMIADMarkd"' in text
    # The headline figures stand in one page, from which the other takes them.
    results = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    row = re.search(r"^\| white box \|.*?([\d.]+ %)", results, re.MULTILINE)
    assert row and row[1] in (site / "limits.html").read_text(encoding="utf-8")


def test_what_is_fetched_is_found() -> None:
    page = (
        '<script src="https://x/a.js"></script><link rel="Stylesheet" href="//x/a.css"><img srcset="http://x/a.png 2x">'
    )
    assert len(fetches(page)) == 3
    assert len(fetches("<style>@import 'https://x/a.css'; a { b: url(//x/c.woff) }</style>")) == 2
    assert not fetches('<a href="https://x">x</a><img src="a.png"><link rel="next" href="https://x">')


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    """Relative links of pages, also those that the site leaves out, name files that exist, and headings in them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for target, anchor in re.findall(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]+))?\)", text):
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{target} is not there"
        if anchor and path.suffix == ".md":
            headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {_anchor(heading) for heading in headings}, f"{target} has no #{anchor}"


def _anchor(heading: str) -> str:
    """What hosts of repositories call a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")

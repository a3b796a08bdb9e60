# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Fonts for the text of a logo: the first that has all its characters, or an error that names those which none has."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

__all__ = ["check_text", "font_for", "normalized", "readable_font"]

_NOTO = Path(__file__).parent / "noto" / "NotoSans-Medium.ttf"
"""Latin, Greek and Cyrillic, in the weight of :data:`_WEIGHT`."""

_CJK = "manimgx_fonts_cjk", "NotoSansCJK-VF.otf.ttc"
"""Package and file of the extra ``cjk``."""

_JAPANESE, _KOREAN, _CHINESE = range(3)
"""Faces of the collection: they hold the same characters, some of them drawn as each language does."""

_WEIGHT = 500
"""Medium: thinner strokes fade where letters are a dozen cells high."""

_PROBED = 24
"""Size in pixels at which glyphs are compared with the one for what is missing."""

_NAMED = 10
"""Characters that an error names at most."""


def normalized(text: str) -> str:
    """The text as it is drawn: letters and accents that have a common character become it, tabs become spaces."""
    lines = unicodedata.normalize("NFC", text).splitlines()
    return "\n".join(line.replace("\t", " ") for line in lines)


def check_text(text: str) -> None:
    """Make sure that a text can be drawn, without opening a font where every font has all its characters.

    Raises:
        ValueError: characters that no font has or that cannot be drawn one by one; it names them.
    """
    drawn = normalized(text)
    if not (drawn.isascii() and drawn.replace("\n", "").isprintable()):
        font_for(drawn, _PROBED)


def font_for(text: str, size: int) -> FreeTypeFont:
    """A font that has all characters of a text.

    The font that comes with Pillow has little more than ASCII; after it come Noto Sans (Latin, Greek, Cyrillic) and,
    with the extra ``cjk``, Noto Sans CJK. All lay characters out one after the other, so that a text looks the same
    wherever it is drawn: what needs more is refused.

    Args:
        text: :func:`normalized`, one or more lines.
        size: in pixels.

    Raises:
        ValueError: characters that no font has, or that have to be joined, stacked or written from right to left.
    """
    characters = sorted(set(text) - {"\n"})
    if wrong := [c for c in characters if _needs_shaping(c)]:
        raise ValueError(
            f"the text cannot be drawn: {_names(wrong)}. Characters that are combined with others or written from right"
            " to left have to come as a picture (a logo file)"
        )
    fewest = characters
    for load in _candidates(characters):
        font = load(size)
        missing = [c for c in characters if not _has(load, c)]
        if not missing:
            return font
        fewest = min(fewest, missing, key=len)
    hint = "a logo file can say it"
    if find_spec(_CJK[0]) is None:
        hint = f"the extra cjk has Chinese, Japanese and Korean (pip install 'monai-miadmark[cjk]'); else {hint}"
    raise ValueError(f"no font here has all characters of the text: {_names(fewest)}; {hint}")


def readable_font(text: str, size: int) -> FreeTypeFont:
    """:func:`font_for` a caption: where none has all of its characters, the font that comes with Pillow."""
    try:
        return font_for(text, size)
    except ValueError:
        return _built_in(size)


def _candidates(characters: list[str]) -> Iterator[Callable[[int], FreeTypeFont]]:
    """Loaders of the fonts that are installed, the preferred ones first."""
    yield _built_in
    yield _loader(_NOTO, None)
    spec = find_spec(_CJK[0])
    if spec is not None and spec.submodule_search_locations:
        path = Path(next(iter(spec.submodule_search_locations))) / _CJK[1]
        if path.is_file():
            yield _loader(path, _face(characters))


def _built_in(size: int) -> FreeTypeFont:
    """The font that comes with Pillow."""
    from PIL import ImageFont

    font = ImageFont.load_default(size=size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise ValueError("text cannot be drawn: this Pillow comes without FreeType")
    return font


@lru_cache(maxsize=8)
def _loader(path: Path, face: int | None) -> Callable[[int], FreeTypeFont]:
    """One loader for each font, so that what is known of it can be kept; a face is one of a collection with weights."""

    def load(size: int) -> FreeTypeFont:
        from PIL import ImageFont

        font = ImageFont.truetype(path, size, index=face or 0, layout_engine=ImageFont.Layout.BASIC)
        if face is not None:
            font.set_variation_by_axes([_WEIGHT])
        return font

    return load


def _face(characters: list[str]) -> int:
    """Which language's face of the collection a text asks for: kana tell Japanese, Hangul Korean; else Chinese."""
    names = [unicodedata.name(c, "") for c in characters]
    if any(name.startswith(("HIRAGANA", "KATAKANA")) for name in names):
        return _JAPANESE
    return _KOREAN if any(name.startswith("HANGUL") for name in names) else _CHINESE


@lru_cache(maxsize=1024)
def _has(load: Callable[[int], FreeTypeFont], character: str) -> bool:
    """Whether a font draws a character as something else than what it has for missing ones."""
    font = load(_PROBED)
    return _glyph(font, character) != _glyph(font, "\uffff")  # never a character


def _glyph(font: FreeTypeFont, character: str) -> tuple[float, tuple[int, int], bytes]:
    mask = font.getmask(character)
    return font.getlength(character), mask.size, bytes(mask)


def _needs_shaping(character: str) -> bool:
    """Whether a character is a mark on others, joins them, or is written from right to left."""
    joined = unicodedata.category(character) in ("Mn", "Mc", "Me", "Cf", "Cc")
    jamo = unicodedata.name(character, "").startswith(("HANGUL CHOSEONG", "HANGUL JUNGSEONG", "HANGUL JONGSEONG"))
    return joined or jamo or unicodedata.bidirectional(character) in ("R", "AL", "AN")


def _names(characters: list[str]) -> str:
    """Characters with their code points and names; control characters by code point alone."""
    listed = [
        " ".join(filter(None, (repr(c) if c.isprintable() else "", f"U+{ord(c):04X}", unicodedata.name(c, ""))))
        for c in characters[:_NAMED]
    ]
    more = len(characters) - len(listed)
    return ", ".join(listed) + (f" and {more} more" if more else "")

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Text of logos: a font that has its characters, or an error that names them."""

from __future__ import annotations

import io
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_miadmark import cli, fonts
from monai_miadmark.fonts import check_text, font_for
from monai_miadmark.logo import draw_logo, render_banner, render_text
from monai_miadmark.options import ProtectOptions

needs_cjk = pytest.mark.skipif(find_spec("manimgx_fonts_cjk") is None, reason="needs the extra cjk")

TEXTS = [
    "PROTECTED",
    "Klinik Süd",
    "Hôpital Cœur · Łódź Žižkov",
    "ΝΟΣΟΚΟΜΕΙΟ Αθηνών",
    "Больница №1, Київ",
    "Bệnh viện",
    "Su\u0308d\tNord\r\nzwei Zeilen",
    pytest.param("東京病院 さくら", marks=needs_cjk),
    pytest.param("北京协和医院 MRI", marks=needs_cjk),
    pytest.param("서울 병원", marks=needs_cjk),
]


def _characters(font):
    """Characters of a font by its own table, read with another library."""
    ttlib = pytest.importorskip("fontTools.ttLib")
    data = getattr(font, "font_bytes", None) or Path(font.path).read_bytes()
    return set(ttlib.TTFont(io.BytesIO(data), fontNumber=0).getBestCmap())


@pytest.mark.parametrize("text", TEXTS)
def test_the_font_of_a_text_has_all_of_its_characters(text):
    drawn = fonts.normalized(text)
    assert {ord(c) for c in drawn} - {10} <= _characters(font_for(drawn, 20))
    check_text(text)


@pytest.mark.parametrize("text", TEXTS)
def test_no_letter_is_drawn_as_a_missing_one(text):
    drawn = fonts.normalized(text)
    missing = font_for(drawn, 40).getmask("\uffff")
    for letter in set(drawn) - set(" \n"):
        assert bytes(font_for(drawn, 40).getmask(letter)) != bytes(missing)
        assert render_text(letter, 32).any()


def test_every_letter_is_another_drawing():
    assert not np.array_equal(draw_logo(None, "Süd"), draw_logo(None, "Söd"))
    assert not np.array_equal(render_banner("Αθήνα", 200, 24), render_banner("Αθήνο", 200, 24))
    assert np.array_equal(draw_logo(None, "Süd"), draw_logo(None, "Su\u0308d"))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("Praxis \U0001f3e5", "U[+]1F3E5 HOSPITAL"),
        ("a\u0000b", "U[+]0000"),
        ("מרפאה", "U[+]05DE HEBREW LETTER MEM.*right to left"),
        ("مستشفى", "ARABIC LETTER SEEN.*right to left"),
        ("अस्पताल", "DEVANAGARI SIGN VIRAMA"),
        ("q\u0304", "COMBINING MACRON"),  # no single character exists for it
        ("zero\u200bwidth", "ZERO WIDTH SPACE"),
        ("\U000f0000" * 3, "U[+]F0000"),
    ],
)
def test_what_cannot_be_drawn_is_named(text, named):
    for refusing in (check_text, lambda t: render_text(t, 20), lambda t: ProtectOptions(text=t)):
        with pytest.raises(ValueError, match=named):
            refusing(text)


def test_many_characters_are_counted():
    with pytest.raises(ValueError, match="and 16 more"):
        check_text("".join(chr(0x16A0 + i) for i in range(26)))


def test_without_the_extra_the_error_names_it(monkeypatch):
    found = fonts.find_spec
    monkeypatch.setattr(fonts, "find_spec", lambda name: None if name == "manimgx_fonts_cjk" else found(name))
    with pytest.raises(ValueError, match=r"U\+533B CJK UNIFIED IDEOGRAPH-533B, '院' .*monai-miadmark\[cjk\]"):
        check_text("医院 Süd")


def test_options_that_draw_no_text_take_any(tmp_path):
    ProtectOptions(style="invisible", text="مستشفى")
    ProtectOptions(logo=tmp_path / "logo.png", text="مستشفى")
    with pytest.raises(ValueError, match="ARABIC"):
        ProtectOptions(logo=Path("banner"), text="مستشفى")


def test_the_command_line_refuses_before_networks_are_read(tmp_path, capsys, keys):
    Image.new("L", (64, 64), 90).save(tmp_path / "a.png")
    command = ["protect", str(tmp_path / "a.png"), "-o", str(tmp_path / "out"), "-r", str(keys / "alice.pub")]
    had = "monai_miadmark.marker" in sys.modules
    assert cli.main([*command, "--text", "مستشفى"]) == 2
    assert "ARABIC LETTER SEEN" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert had or "monai_miadmark.marker" not in sys.modules

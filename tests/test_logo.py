# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from monai_miadmark.logo import BUILT_IN_LOGOS, Logo, draw_logo, load_logo, render_banner, render_emblem, render_text


@pytest.mark.parametrize("height", [1, 2, 7, 20, 64])
@pytest.mark.parametrize("text", ["PROTECTED", "a", "two\nlines", "Ünïcode 文"])
def test_text_is_cropped_to_its_ink(text, height):
    alpha = render_text(text, height)
    assert alpha.dtype == np.uint8 and alpha.shape[0] == height and alpha.shape[1] >= 1
    assert alpha[0].any() and alpha[-1].any() and alpha[:, 0].any() and alpha[:, -1].any()


def test_text_has_ink_and_gaps():
    alpha = render_text("PROTECTED", 24)
    assert alpha.max() > 240 and alpha.min() == 0 and 0.2 < (alpha > 127).mean() < 0.7


@pytest.mark.parametrize(("text", "height"), [("", 10), (" \n", 10), ("x" * 201, 10), ("x", 0)])
def test_text_refuses(text, height):
    with pytest.raises(ValueError):
        render_text(text, height)


@pytest.mark.parametrize("size", [1, 2, 7, 20, 64, 129])
def test_emblem_is_a_cross_in_a_ring(size):
    alpha = render_emblem(size)
    assert alpha.dtype == np.uint8 and alpha.shape == (size, size)
    assert alpha[0].any() and alpha[-1].any() and alpha[:, 0].any() and alpha[:, -1].any()
    if size >= 20:
        assert np.array_equal(alpha, alpha[::-1]) and np.array_equal(alpha, alpha[:, ::-1])
        assert np.array_equal(alpha, alpha.T)
        middle = alpha[size // 2] > 127
        assert np.count_nonzero(np.diff(middle.astype(int))) == 4  # ring, gap, cross, gap, ring
        assert not alpha[0, 0] and alpha[size // 2, size // 2] == 255


@pytest.mark.parametrize("text", ["PROTECTED", "a", "two\nlines", "x" * 200])
@pytest.mark.parametrize("size", [(1, 1), (9, 1), (3, 8), (64, 8), (160, 20)])
def test_banner_is_a_strip_with_letters_cut_out(text, size):
    alpha = render_banner(text, *size)
    assert alpha.dtype == np.uint8 and alpha.shape == size[::-1]
    if size[0] >= 64 and len(text) < 200:
        assert (alpha[0] == 255).all() and (alpha[-1] == 255).all()
        assert (alpha[:, 0] == 255).all() and (alpha[:, -1] == 255).all() and alpha.min() < 160


def test_built_in_logos_refuse():
    with pytest.raises(ValueError, match="side"):
        render_emblem(0)
    with pytest.raises(ValueError, match="size"):
        render_banner("a", 0, 9)
    with pytest.raises(ValueError, match="text"):
        draw_logo(None, "")


def test_names_stand_for_built_in_logos_unless_there_is_such_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert np.array_equal(draw_logo(None, "TEXT"), render_text("TEXT", 128))
    drawn = {name: draw_logo(name, "TEXT") for name in BUILT_IN_LOGOS}
    assert np.array_equal(drawn["emblem"], render_emblem(128))
    assert np.array_equal(drawn["banner"], render_banner("TEXT", 1024, 128))
    assert draw_logo("banner", "A LONG TEXT THAT NEEDS MORE ROOM").shape[1] > 1024
    with pytest.raises(FileNotFoundError):
        draw_logo(tmp_path / "emblem", "TEXT")
    Image.new("L", (20, 10), 0).save(tmp_path / "emblem", format="png")
    assert draw_logo("emblem", "TEXT").shape == (10, 20)


def test_logo_from_transparency(tmp_path):
    pixels = np.zeros((20, 40, 4), np.uint8)
    pixels[5:15, 10:30] = (255, 255, 255, 200)  # white ink
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(load_logo(tmp_path / "a.png", 64), np.full((10, 20), 200))
    assert load_logo(tmp_path / "a.png", 8).shape == (4, 8)


def test_logo_from_darkness(tmp_path):
    pixels = np.full((20, 40), 255, np.uint8)
    pixels[3:7, 8:20] = 55
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(load_logo(tmp_path / "a.png", 64), np.full((4, 12), 200))


def test_logo_refuses(tmp_path):
    Image.new("L", (9, 9), 255).save(tmp_path / "blank.png")
    with pytest.raises(ValueError, match="blank"):
        load_logo(tmp_path / "blank.png", 64)
    (tmp_path / "text.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"text\.png"):
        load_logo(tmp_path / "text.png", 64)
    whole = (tmp_path / "blank.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:-25])
    with pytest.raises(ValueError):
        load_logo(tmp_path / "cut.png", 64)
    with pytest.raises(FileNotFoundError):
        load_logo(tmp_path / "absent.png", 64)
    with pytest.raises(ValueError, match="side"):
        load_logo(tmp_path / "blank.png", 0)


def test_coverage_is_cut_at_the_borders():
    alpha = np.arange(1, 7, dtype=np.uint8).reshape(2, 3)
    places = [(0, 0), (3, 3), (1, -1), (-1, 0), (9, 0), (0, 9), (0, -3)]
    logo = Logo(alpha, np.array(places, np.int32), 100, (1.0,))
    planes = [logo.coverage(n, 4, 5) for n in range(len(places))]
    assert planes[0][:2, :3].tolist() == alpha.tolist() and planes[0].sum() == alpha.sum()
    assert planes[1].sum() == 1 + 2 and planes[1][3, 3:].tolist() == [1, 2]
    assert planes[2][1:3, :2].tolist() == [[2, 3], [5, 6]] and planes[2].sum() == 16
    assert all(not plane.any() for plane in planes[3:])
    assert all(plane.shape == (4, 5) and plane.dtype == np.uint8 for plane in planes)


def test_logo_refuses_parts_that_do_not_fit():
    alpha, places = np.ones((2, 2), np.uint8), np.zeros((1, 2), np.int32)
    for bad in (
        (alpha.astype(np.int16), places, 1, (1.0,)),
        (alpha[0], places, 1, (1.0,)),
        (alpha[:0], places, 1, (1.0,)),
        (alpha, places.astype(np.int64), 1, (1.0,)),
        (alpha, places[0], 1, (1.0,)),
        (alpha, places, 192, (1.0,)),
        (alpha, places, -1, (1.0,)),
        (alpha, places, 1, ()),
        (alpha, places, 1, (np.nan,)),
    ):
        with pytest.raises(ValueError):
            Logo(*bad)

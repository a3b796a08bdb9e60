# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import base64
import copy
import dataclasses
import json
import struct
import tracemalloc
from typing import Any

import numpy as np
import pytest
import strategies
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import bits

from monai_miadmark.errors import TamperedError, UnsupportedImageError
from monai_miadmark.exact import ImageMark, SparseCorrection, apply_mark, step_for
from monai_miadmark.field import Field, quantize
from monai_miadmark.image import STORED_DTYPES, Bounds, StoredImage, Window
from monai_miadmark.logo import Logo
from monai_miadmark.record import RecoveryRecord
from monai_miadmark.sections import planes, unplanes
from monai_miadmark.shell import CARRIED_FILE, SourceShell

LIMIT = 1 << 20
PREFIX = struct.Struct("<8sHI")
SHELL = SourceShell(
    "dicom", "scan 1.dcm", {"order": "<", "at": [1, 2]}, {"head": b"h" * 500, "tail": bytes(range(256))}
)


def _example(dtype: str = "int16") -> tuple[StoredImage, np.ndarray, RecoveryRecord]:
    """A record with every part that there is."""
    rng = np.random.default_rng(3)
    values = rng.integers(0, 120, (2, 17, 19, 1)).astype(dtype)
    image = StoredImage(values, Bounds(0, 110), Window(0, 100), (5, 5))
    field = quantize(rng.uniform(-1, 1, (2, 9, 10, 1)).astype(np.float32), np.full((2, 3, 3), 90, np.uint8))
    logo = Logo(np.full((3, 4), 99, np.uint8), np.array([[1, 2], [-1, 0]], np.int32), 120, (100.0,))
    mark = ImageMark(field, logo, rng.random((2, 17, 19)) < 0.2, *step_for(image.window, values.dtype))
    protected = apply_mark(image, mark)
    return image, protected, RecoveryRecord.build(image, mark, protected, SHELL, b"f" * 32)


def _split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Head and sections of a record."""
    length = PREFIX.unpack_from(data)[2]
    return json.loads(data[PREFIX.size : PREFIX.size + length]), data[PREFIX.size + length :]


def _join(head: Any, body: bytes) -> bytes:
    """A record with another head."""
    text = json.dumps(head).encode()
    return PREFIX.pack(b"MIADREC\0", 1, len(text)) + text + body


@settings(max_examples=120, deadline=None)
@given(strategies.marked_images(), st.booleans())
def test_round_trip(pair, with_shell):
    image, mark = pair
    protected = apply_mark(image, mark)
    shell = SHELL if with_shell else None
    record = RecoveryRecord.build(image, mark, protected, shell, b"f" * 32 if with_shell else None)
    data = record.to_bytes()
    again = RecoveryRecord.from_bytes(data)
    assert again.to_bytes() == data
    assert np.array_equal(bits(again.restore(protected)), bits(image.values))
    assert (again.shape, again.dtype, again.bounds, again.shell) == (record.shape, record.dtype, record.bounds, shell)
    assert again.padding == record.padding and again.original_file == record.original_file
    assert again.mark is not None
    assert (again.mark.step, again.mark.exponent, again.mark.windows) == (mark.step, mark.exponent, mark.windows)
    lists = isinstance(mark.step, tuple) or isinstance(mark.exponent, tuple) or mark.windows is not None
    lists = lists or (mark.logo is not None and len(mark.logo.values) != image.values.shape[3])
    assert data[8:10] == (b"\2\0" if lists else b"\1\0")
    assert (again.mark.mask is None) == (mark.mask is None)
    if mark.mask is not None:
        assert np.array_equal(again.mark.mask, mark.mask)
    if mark.logo is not None:
        assert again.mark.logo is not None and again.mark.logo.values == mark.logo.values
        assert np.array_equal(again.mark.logo.positions, mark.logo.positions)


@pytest.mark.parametrize("dtype", STORED_DTYPES)
def test_every_type_with_every_part(dtype):
    image, protected, record = _example(dtype)
    again = RecoveryRecord.from_bytes(record.to_bytes())
    assert np.array_equal(bits(again.restore(protected)), bits(image.values))
    assert not np.array_equal(protected, image.values)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["uint8", "uint16", "uint32"]), st.integers(0, 2**32), st.sampled_from([0, 0.001, 0.2, 0.9, 1]))
def test_corrections_of_any_density(dtype, seed, density):
    rng = np.random.default_rng(seed)
    shape = (2, 13, 11, 3)
    correction = rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    correction[rng.random(shape) >= density] = 0
    assert np.array_equal(unplanes(planes(correction.ravel()), correction.itemsize), correction.ravel())
    record = RecoveryRecord(
        shape, dtype, Bounds(0, 9), None, None, correction, None, b"o" * 32, b"p" * 32
    )  # fmt: skip
    again = RecoveryRecord.from_bytes(record.to_bytes()).correction
    assert again is not None
    assert np.array_equal(again.dense() if isinstance(again, SparseCorrection) else again, correction)


def _survives(data: bytes, image: StoredImage, protected: np.ndarray) -> None:
    """A damaged record is refused, or does no harm: what it restores is the original."""
    tracemalloc.start()
    try:
        record = RecoveryRecord.from_bytes(data, LIMIT)
        assert np.array_equal(bits(record.restore(protected)), bits(image.values))
    except TamperedError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 4 * LIMIT


EXAMPLE = _example()
EXAMPLE_BYTES = EXAMPLE[2].to_bytes()


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_mutated_bytes(data):
    mutated = bytearray(EXAMPLE_BYTES)
    for _ in range(data.draw(st.integers(1, 4))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        at, length = data.draw(st.integers(0, len(mutated) - 1)), data.draw(st.integers(1, 40))
        mutated[at : at + length] = data.draw(st.sampled_from([b"", b"\xff" * 40, b"0" * length]))
    _survives(bytes(mutated), EXAMPLE[0], EXAMPLE[1])


def test_truncated_or_longer_bytes():
    for length in [*range(200), *range(200, len(EXAMPLE_BYTES), 7), len(EXAMPLE_BYTES) - 1]:
        with pytest.raises(TamperedError):
            RecoveryRecord.from_bytes(EXAMPLE_BYTES[:length])
    with pytest.raises(TamperedError):
        RecoveryRecord.from_bytes(EXAMPLE_BYTES + b"\0")


def _places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all values in a JSON tree."""
    inside = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path, *(found for key, value in inside for found in _places(value, (*path, key)))]


NUMBERS = [-1, 0, 1, 2, 3, 4, 17, 65536, 2**31, 2**40, 2**64, 10**30, 1.5, -0.0]
TEXTS = ["", "x", "zstd", "dense", "nan", "inf", "-0x1p5", "0x1p2000", "../x"]
TREES = [[], [1], [1, 1], [1, 1, 1, 1], [[]], {}, {"form": "dense", "count": 3}]
STRANGE = st.sampled_from([None, True, False, *NUMBERS, *TEXTS, *TREES])


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_strange_heads(data):
    """The head is valid JSON, but one value or two is not what it should be."""
    head, body = _split(EXAMPLE_BYTES)
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from(_places(head)))
        if not path:
            head = copy.deepcopy(data.draw(STRANGE))
            break
        node = head
        for key in path[:-1]:
            node = node[key]
        if data.draw(st.integers(0, 4)):
            node[path[-1]] = copy.deepcopy(data.draw(STRANGE))
        else:
            del node[path[-1]]
    _survives(_join(head, body), EXAMPLE[0], EXAMPLE[1])


@pytest.mark.parametrize(
    "text",
    [
        b"{" * 100_000,
        b"[" * 100_000,
        b'{"a":NaN}',
        b'{"a":1,"a":1}',
        b'"\xff"',
        b"",
        b"1" * 5000,
        b"null",
        b"\xef\xbb\xbf{}",
    ],
    ids=range(9),
)
def test_heads_that_are_not_strict_json(text):
    with pytest.raises(TamperedError):
        RecoveryRecord.from_bytes(PREFIX.pack(b"MIADREC\0", 1, len(text)) + text)


def _bomb(size: int) -> bytes:
    """A small frame that unpacks to ``size`` zeros."""
    return zstandard.ZstdCompressor(level=19).compress(bytes(size))


def test_frames_that_grow_are_not_unpacked():
    head, body = _split(EXAMPLE_BYTES)
    names = [row[0] for row in head["sections"]]
    offsets = np.cumsum([0] + [row[3] for row in head["sections"]]).tolist()
    bomb = _bomb(1 << 26)
    for index, name in enumerate(names):
        grown = body[: offsets[index]] + bomb + body[offsets[index + 1] :]
        for declared in (head["sections"][index][2], 1 << 26):
            changed = json.loads(json.dumps(head))
            changed["sections"][index] = [name, "zstd", declared, len(bomb)]
            _survives(_join(changed, grown), EXAMPLE[0], EXAMPLE[1])
    changed = json.loads(json.dumps(head))
    changed["shape"] = [1, 1 << 20, 1 << 20, 4]
    _survives(_join(changed, body), EXAMPLE[0], EXAMPLE[1])


def test_frames_without_a_size_are_refused():
    head, body = _split(EXAMPLE_BYTES)
    at = head["sections"][-1][3]
    frame = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(range(256)))
    head["sections"][-1] = [head["sections"][-1][0], "zstd", 256, len(frame)]
    with pytest.raises(TamperedError):
        RecoveryRecord.from_bytes(_join(head, body[:-at] + frame))


def test_limit_counts_samples_and_sections():
    samples, sections = EXAMPLE[1].nbytes, sum(row[2] for row in _split(EXAMPLE_BYTES)[0]["sections"])
    RecoveryRecord.from_bytes(EXAMPLE_BYTES, max(samples, sections))
    for limit in (samples - 1, sections - 1):
        with pytest.raises(TamperedError):
            RecoveryRecord.from_bytes(EXAMPLE_BYTES, limit)


def test_unknown_version():
    changed = EXAMPLE_BYTES[:8] + struct.pack("<H", 7) + EXAMPLE_BYTES[10:]
    with pytest.raises(TamperedError, match="unknown record version 7"):
        RecoveryRecord.from_bytes(changed)


def test_restore_refuses_other_pixels():
    _, protected, record = EXAMPLE
    flipped = protected.copy()
    flipped[1, 3, 4, 0] ^= 1
    for values in (flipped, protected[:1], protected.astype(np.int32), protected.transpose(0, 2, 1, 3)):
        with pytest.raises(TamperedError, match="pixels"):
            record.restore(values)


def test_restore_refuses_a_record_that_leads_elsewhere():
    _, protected, record = EXAMPLE
    assert record.mark is not None
    for changed in (
        dataclasses.replace(record, mark=dataclasses.replace(record.mark, step=record.mark.step + 20000)),
        dataclasses.replace(record, correction=None),
        dataclasses.replace(record, mark=None),
        dataclasses.replace(record, original_pixels=b"x" * 32),
    ):
        with pytest.raises(TamperedError, match="original"):
            changed.restore(protected)


def test_carried_file_needs_no_mark():
    image, protected, record = EXAMPLE
    shell = SourceShell("png", "a.png", {}, {CARRIED_FILE: b"\x89PNG" + bytes(300)})
    carried = dataclasses.replace(record, mark=None, correction=None, shell=shell)
    again = RecoveryRecord.from_bytes(carried.to_bytes())
    assert again.carries_file and again.shell == shell and not record.carries_file
    again.check_protected(protected)
    again.check_original(image.values)
    with pytest.raises(ValueError, match="carries"):
        again.restore(protected)
    with pytest.raises(TamperedError):
        again.restore(image.values)


@pytest.mark.parametrize("name", ["../a", "/a", "a\\b", "..", ".", "a\0"])
def test_names_with_a_path_are_refused(name):
    record = dataclasses.replace(EXAMPLE[2], shell=dataclasses.replace(SHELL, name=name))
    with pytest.raises(UnsupportedImageError):
        record.to_bytes()
    head, body = _split(EXAMPLE_BYTES)
    head["shell"]["name"] = name
    with pytest.raises(TamperedError):
        RecoveryRecord.from_bytes(_join(head, body))


@pytest.mark.parametrize("name", ["", "a.nii.gz", "Ünï 文.dcm", "\udcff.dcm", ".hidden"])
def test_other_names_are_kept(name):
    record = dataclasses.replace(EXAMPLE[2], shell=dataclasses.replace(SHELL, name=name))
    again = RecoveryRecord.from_bytes(record.to_bytes()).shell
    assert again is not None and again.name == name


def test_parts_that_do_not_fit():
    record = EXAMPLE[2]
    for changes in (
        {"dtype": "float64"},
        {"shape": (2, 17, 19)},
        {"shape": (2, 17, 19, 5)},
        {"shape": (1, 17, 19, 1)},
        {"bounds": Bounds(1, 0)},
        {"original_pixels": b"short"},
        {"correction": np.zeros((2, 17, 19, 1), np.int16)},
    ):
        with pytest.raises(ValueError):
            dataclasses.replace(record, **changes)


def test_repr_shows_neither_pixels_nor_header():
    assert repr(EXAMPLE[2]) == (
        "RecoveryRecord(shape=(2, 17, 19, 1), dtype='int16', shell=SourceShell(format='dicom', blobs=['head', 'tail']))"
    )


def test_record_of_a_slice_is_small():
    """512 x 512 int16, invisible: random levels with the skew of a usual field, scales that differ by block."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:512, :512] / 512
    body = (rows - 0.5) ** 2 + (columns - 0.5) ** 2 < 0.2
    values = np.where(body, rng.normal(50, 25, (512, 512)), -1000).round().astype(np.int16)[None, :, :, None]
    image = StoredImage(values, Bounds(-1024, 3071), Window(-160, 240))
    levels = rng.choice([-1, -0.5, 0, 0.5, 1], (1, 256, 256, 1), p=[0.22, 0.13, 0.3, 0.13, 0.22]).astype(np.float32)
    scales = rng.integers(6, 20, (1, 64, 64)).astype(np.uint8)
    mark = ImageMark(quantize(levels, scales), None, None, *step_for(image.window, values.dtype))
    record = RecoveryRecord.build(image, mark, apply_mark(image, mark))
    assert len(record.to_bytes()) <= 22 * 1024


FROZEN = base64.b85decode(
    "O-"
    "VsSQbj`m0RRjG004U;VsCYBWOE`qTOutmcrh+CFfcGMFfcGMFfcGMa4R(;EFv&?F)m~<FfcGMFfcGMFfcH1D>WirEFxoXa&l#3bZKvHB075_V{"
    "dhCbRs%9EFxxaa&00yB6DzIa&u)OeJmnmX=i0~baNs)dm?XgX=iC}VQgP!X>4U8IwCeUHa0dkHa0dkHa0dkHa0dkHa0dkHa0dkHa0dkHa0dkHa"
    "0dkHa0dkHa0dkHa0dkHa0dkHa0dkHa0dkHZ~$GB5!hOXK8L>Y+rC`cx7yJB03^6F*P(YHZwS8HezHmWn(onG%#ghHDWO_G-Nn8V>L54V>M-"
    "AW@9okW;QW0W??cjWi>HnV`OAxI5sk5I5lA+EFy4nZ**m2bY)~;aA|mDY;z(yA~QKQG&D12FgIZ~H8(S4IW{seV=y%~V`64DV>e_pF*IRgW;9|"
    "oVKOvkHDqKoVPrXFFgRl|Wi?|oIbu08I3j&4B4l)VaAhJoB57`PF*YJBB5h%EYa%*(B4v1RZ*FC7bRs%1EFxxUWo%?3I$JU<H7qtPF<mSoY;R|"
    "8B075_VQg?{VIn$PGAuJ)EFy1kVPk1@c_KP7GB_+Ec42IFWpg4rTOu%cF)n2=FfcGMFfcGMFfcH1D>WireJmnvVRLIDI&^Y%Wh^3dbY*ZNIx#X"
    "hH86cFB5+}3WNB_^B05_)EH_;&B6DS9bZKvHb0RuhTOwv@Wo%?3EFyAYcOon^IV>|dT`XH7VQg?{VInLda$$EOEH*4QT`XH7aBp*IbZKvHb0RD"
    "va$$EOEHO4LF*aQ+TOw^?b88|jB64AOA}ldBEHO4+EL$RXXk~I`A}k_uVRs@dF*YnQHeD=RB6eYHb!BrREFyAYcOon?HY_nVT`XH7Vr*|>I%s8"
    "KWFjmga$$EOEHo@MU0p09b7*03Wg<FTGAubPH!Lw-EFyDgWo&FBI(s5!Z*py6bRs$;WNBk>Z6YipZDn*}B075_Ya%)^eJmnwVQpn1IwD~%WMge"
    "2eSH7`3;+NCD77#BAP5}*06`xBD77#BAUtIN05AXn0s{m90RY2Uipa>w$jHb60000100030|Ns900000000000000002mjyz000000AT?D1V8`"
    "*00000000OU0Y)wb0|Ej7000000000)NkdH"
)
"""A record of version 1 as first written. It must stay readable: what was protected then has no other way back."""


def test_frozen_record():
    original = (np.arange(126) * 37 % 101 - 40).astype(np.int16).reshape(2, 9, 7, 1)
    levels = (np.arange(60) % 5 - 2).astype(np.int8).reshape(2, 5, 6, 1)
    logo = Logo(np.full((2, 3), 200, np.uint8), np.array([[1, 1], [-1, 0]], np.int32), 128, (60.0,))
    mask = np.zeros((2, 9, 7), bool)
    mask[1, 2:4] = True
    window = Window(-40, 60)
    mark = ImageMark(Field(levels, np.full((2, 2, 2), 31, np.uint8)), logo, mask, *step_for(window, original.dtype))
    protected = apply_mark(StoredImage(original, Bounds(-40, 58), window, (7, 7)), mark)
    record = RecoveryRecord.from_bytes(FROZEN)
    assert record.protected_pixels.hex() == "396443f07a6573d9621c056cbf6c7d414acf4b5a24f5dd4ad9e08c1e5c49b938"
    assert np.array_equal(record.restore(protected), original)
    assert record.shell == SourceShell("dicom", "a.dcm", {"k": 1}, {"head": b"DICM"})
    assert record.original_file == b"f" * 32

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Bytes made to harm: damaged inputs for every reader, authentic records with hostile content, names that lead away.

The many inputs are those of ``make fuzz`` (``fuzz/``), here some for each reader; what they and reading the code have
found is here one by one.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import samples
import zstandard
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from fuzz import corpus, run, targets
from fuzz.mutations import png_chunks, png_file
from hypothesis import given, settings
from hypothesis import strategies as st
from vectors import make_vectors

from monai_miadmark import files, keys, pipeline, pkcs8, seal
from monai_miadmark.errors import MIADMarkError, TamperedError, UnsupportedImageError
from monai_miadmark.file_names import restored_name
from monai_miadmark.formats import carrier_for, carrier_named
from monai_miadmark.image import pixel_digest
from monai_miadmark.masks import read_mask
from monai_miadmark.record import RecoveryRecord
from monai_miadmark.shell import CARRIED_FILE

PREFIX = struct.Struct("<8sHI")
DENSE = zstandard.ZstdCompressor(level=19, write_content_size=True)


# --- some of what make fuzz does --------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", targets.TARGETS, ids=lambda target: target.name)
def test_changed_inputs_are_refused_by_name_or_do_no_harm(target: targets.Target) -> None:
    assert {target.probe(seed) for seed in target.seeds()}  # what is not changed is read, or refused by name

    @settings(deadline=None, max_examples=25)
    @given(st.integers(0, 2**64))
    def tried(seed: int) -> None:
        data = target.input(Random(seed))
        outcome, wrong = run.judged(target, data)
        assert not wrong, f"{outcome}: {wrong}\n{base64.b64encode(data).decode()}"

    tried()


@pytest.mark.parametrize(
    ("check", "found"),
    [
        (lambda data: "read", ""),
        (lambda data: str(1 / 0), "raw error"),
        (lambda data: str(sum(0 for _ in iter(int, 1))), "hang"),
        (lambda data: targets._right(pipeline.RestoredBytes(samples.png(), "x.png", "png")), "wrong"),
        (lambda data: (_ for _ in ()).throw(TamperedError(f"of {corpus.PATIENT}")), "wrong"),
        (lambda data: (_ for _ in ()).throw(TamperedError("why")), ""),
    ],
    ids=["nothing", "raw error", "hang", "wrong file", "quoted", "refused"],
)
def test_the_harness_finds(check: Callable[[bytes], str], found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    targets._digests()  # what is made once must not count as a hang
    monkeypatch.setattr(run, "SECONDS", 0.2)
    outcome, wrong = run.judged(targets.Target("x", lambda: [b"x"], check), b"x")
    assert (outcome if wrong else "") == found


def test_the_harness_survives_crashes_and_floods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that dies, or takes too much memory, is noted with its input, and the work goes on behind that."""

    def check(data: bytes) -> str:
        if data.endswith(b"!"):
            os.abort()
        return str(len(bytearray(128 << 20))) if data == b"large" else "read"

    monkeypatch.setattr(run, "PEAK_BYTES", 64 << 20)
    target = targets.Target("dies", lambda: [b"a", b"b!", b"large"], check, mutate=lambda rng, data, others: data)
    job = run.Run(7, tmp_path / "found")
    job.run([(target, 12)], 1)
    tally = job.tallies["dies"]
    good = 12 - tally.outcomes["crash"] - tally.outcomes["memory"]
    assert tally.inputs == 12 and min(tally.outcomes["crash"], tally.outcomes["memory"], good) > 0
    saved = [path.read_bytes() for path in (tmp_path / "found").glob("dies-*[0-9]")]
    assert saved.count(b"b!") == tally.outcomes["crash"] and saved.count(b"large") == tally.outcomes["memory"]
    assert len(saved) == len(tally.findings) == 12 - good
    assert f"| dies | 12 | 0 | {good} |" in run.table(job.tallies)


# --- every bit --------------------------------------------------------------------------------------------------------


def protected(name: str) -> corpus.Protected:
    """A protected file of the corpus."""
    return next(item for item in corpus.protected() if item.name == name)


def test_every_flipped_bit_of_a_files_envelope_is_refused() -> None:
    item = protected("c.nii")
    assert pipeline.remove_bytes(item.bare, [corpus.ALICE], envelope=item.envelope).data == item.source
    digest = pixel_digest(carrier_for(item.bare, "x").open_protected(item.bare).values)
    for index in range(8 * len(item.envelope)):
        changed = bytearray(item.envelope)
        changed[index // 8] ^= 1 << index % 8
        with pytest.raises(MIADMarkError):
            seal.open_envelope(bytes(changed), [corpus.ALICE], digest)
        if not index % 97:
            with pytest.raises(MIADMarkError):
                pipeline.remove_bytes(item.bare, [corpus.ALICE], envelope=bytes(changed))


def test_every_flipped_bit_of_a_protected_file_restores_the_source_or_nothing() -> None:
    """Bits around samples and record may change without harm, as after other software wrote the file again."""
    item = protected("c.nii")
    outcomes = set()
    for index in range(0, 8 * len(item.data), 29):
        changed = bytearray(item.data)
        changed[index // 8] ^= 1 << index % 8
        try:
            assert pipeline.remove_bytes(bytes(changed), [corpus.ALICE]).data == item.source
            outcomes.add("restored")
        except MIADMarkError as error:
            outcomes.add(type(error).__name__)
    assert {"restored", "TamperedError"} <= outcomes


# --- authentic records with hostile content ---------------------------------------------------------------------------


def unsealed(item: corpus.Protected) -> tuple[dict[str, Any], bytes, np.ndarray]:
    """Head and sections of the record, and the protected samples."""
    values = carrier_for(item.bare, "x").open_protected(item.bare).values
    record = seal.open_envelope(item.envelope, [corpus.ALICE], pixel_digest(values)).record
    size = PREFIX.unpack_from(record)[2]
    return json.loads(record[PREFIX.size : PREFIX.size + size]), record[PREFIX.size + size :], values


def joined(text: bytes, body: bytes, version: int = 1) -> bytes:
    """A record."""
    return PREFIX.pack(b"MIADREC\0", version, len(text)) + text + body


def restoring(item: corpus.Protected, record: bytes) -> pipeline.RestoredBytes:
    """What someone gets to whom this record was sealed for these pixels, by whoever has their public key."""
    values = carrier_for(item.bare, "x").open_protected(item.bare).values
    envelope = seal.seal(record, [corpus.ALICE.recipient], pixel_digest(values))
    return pipeline.remove_bytes(item.bare, [corpus.ALICE], envelope=envelope)


def test_records_sealed_again_restore() -> None:
    """The way that hostile records take is one that works."""
    for item in corpus.protected():
        head, body, values = unsealed(item)
        record = seal.open_envelope(item.envelope, [corpus.ALICE], pixel_digest(values)).record
        restored = restoring(item, joined(json.dumps(head).encode(), body, PREFIX.unpack_from(record)[1]))
        carrier = carrier_for(item.source, "x")
        assert carrier.file_digest(restored.data) == carrier.file_digest(item.source)


def change(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Set a member of the head."""

    def act(head: dict[str, Any]) -> None:
        *outer, last = path.split("/")
        for name in outer:
            head = head[name]
        head[last] = value

    return act


SHAPES = (
    [1, 40_000, 40_000, 4],
    [2**31, 2**31, 1, 1],
    [1, 14, 11, 1],
    [2, 14, 12, 1],
    [0, 14, 11, 1],
    [2.0, 14, 11, 1],
)
MAP = {"shape": [2, 14, 11, 1], "dtype": "int16", "big_endian": True, "planar": False, "flips": [True, True]}
HOSTILE = {
    **{f"shape {shape}": change("shape", shape) for shape in SHAPES},
    "another type": change("dtype", "uint16"),
    "bounds": change("bounds", ["nan", "0x1p0"]),
    "padding": change("padding", [10**400, -(10**400)]),
    "step": change("mark/step", 2**40),
    "exponent": change("mark/exponent", 10**9),
    "grid": change("mark/field", [2, 10**6, 10**6, 1]),
    "grid as large as the image": change("mark/field", [2, 14, 10, 1]),
    "no mark": change("mark", None),
    "no shell": change("shell", None),
    "no file's digest": change("digests/original_file", None),
    "another file's digest": change("digests/original_file", "00" * 32),
    "other pixels": change("digests/protected_pixels", "00" * 32),
    "format": change("shell/format", "zip"),
    "format of another kind": change("shell/format", "png"),
    "no facts": change("shell/meta", {}),
    **{
        f"dtype {kind}": change("shell/meta", {**MAP, "dtype": kind})
        for kind in ("V8", "i4,i4", "(2,3)i4", "U3", "O", "M8[ns]", ">i2", "x" * 5000, 3, None, ["int16"])
    },
    **{
        f"layout {shape}": change("shell/meta", {**MAP, "shape": shape})
        for shape in ([float("inf"), 14, 11, 1], [10**30, 1, 1, 1], [2, 14, 11], [-2, -14, 11, 1], ["2", 14, 11, 1], {})
    },
    "flips": change("shell/meta", {**MAP, "flips": [None]}),
    "gzip": change("shell/meta", {**MAP, "gzip": True}),
    "sections gone": change("sections", []),
    "a section twice": lambda head: head["sections"].append(head["sections"][0]),
    "sizes beyond the file": change("sections", [["field", "raw", 2**62, 2**62]]),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_heads_are_refused(what: str) -> None:
    item = protected("c.nii")
    head, body, _ = unsealed(item)
    HOSTILE[what](head)
    text = json.dumps(head).replace("Infinity", "1e999").encode()
    tracemalloc.start()
    try:
        if what == "gzip":  # what it says is not what the digest is of: .nii.gz is compared decompressed
            assert carrier_for(item.source, "x").file_digest(restoring(item, joined(text, body)).data)
        else:
            with pytest.raises(TamperedError):
                restoring(item, joined(text, body))
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()


def test_a_record_of_an_image_that_is_not_at_hand_takes_no_memory() -> None:
    """256 million samples with a mask, a field and a correction, all of zeros: some kilobytes."""
    item = protected("c.nii")
    head, _, _ = unsealed(item)
    size = 16_384
    field = struct.pack("<BBI", 0, 0, len(DENSE.compress(bytes(size * size // 16))))
    parts = {
        "field": field + DENSE.compress(bytes(size * size // 16)) + DENSE.compress(b""),
        "mask": DENSE.compress(bytes(size * size // 8)),
        "where": DENSE.compress(bytes(size * size // 8)),
        "values": DENSE.compress(b""),
    }
    full = {"field": len(parts["field"]), "mask": size * size // 8, "where": size * size // 8, "values": 0}
    head.update(shape=[1, size, size, 1], dtype="uint8", correction={"form": "sparse", "count": 0})
    head["mark"].update(field=[1, size, size, 1], mask=True)
    head["sections"] = [
        [name, "raw" if name == "field" else "zstd", full[name], len(data)] for name, data in parts.items()
    ]
    record = joined(json.dumps(head).encode(), b"".join(parts.values()))
    assert len(record) < 20_000
    with pytest.raises(TamperedError, match="shape"):
        RecoveryRecord.from_bytes(record, 1 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(TamperedError, match="shape"):
            restoring(item, record)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


LARGE = pipeline._SHELL_BYTES + (1 << 20)


@pytest.mark.parametrize("claimed", ["what it holds", "what is wanted", "nothing"])
@pytest.mark.parametrize("part", ["blob:prefix", "field"])
def test_bombs_in_sections(part: str, claimed: str) -> None:
    """More zeros than a record may hold for these pixels, in some kilobytes."""
    item = protected("c.nii")
    head, body, _ = unsealed(item)
    engine = zstandard.ZstdCompressor(level=1).compressobj(size=LARGE if claimed != "nothing" else -1)
    bomb = b"".join(engine.compress(bytes(1 << 20)) for _ in range(LARGE >> 20)) + engine.flush()
    assert len(bomb) < 50_000
    wanted = next(row[2] for row in head["sections"] if row[0] == part)
    at, sections = 0, []
    for row in head["sections"]:
        sections.append(body[at : at + row[3]])
        at += row[3]
    place = [row[0] for row in head["sections"]].index(part)
    if part == "field":  # its frames are inside: one for scales, one for levels
        sections[place] = struct.pack("<BBI", 0, 0, len(bomb)) + bomb + bomb
        head["sections"][place] = [part, "raw", len(sections[place]), len(sections[place])]
    else:
        sections[place] = bomb
        size = LARGE if claimed == "what it holds" else wanted
        head["sections"][place] = [part, "zstd", size, len(bomb)]
    tracemalloc.start()
    try:
        with pytest.raises(TamperedError):
            restoring(item, joined(json.dumps(head).encode(), b"".join(sections)))
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "text", [b"[" * 1_000_000, b'{"a":' * 200_000, b"9" * 1_000_000, b"[" + b"[]," * 100_000 + b"1]"]
)
def test_heads_that_trip_parsers(text: bytes) -> None:
    begun = time.process_time()
    with pytest.raises(TamperedError):
        restoring(protected("c.nii"), joined(text, b""))
    assert time.process_time() - begun < 5


def test_a_carried_file_is_that_of_the_digest() -> None:
    """PNG and JPEG sources are in the record: another file in there has another digest."""
    item = protected("a.png")
    head, _, _ = unsealed(item)
    assert [row[0] for row in head["sections"]] == [f"blob:{CARRIED_FILE}"]
    other = samples.png(seed=5)
    head["sections"] = [[f"blob:{CARRIED_FILE}", "raw", len(other), len(other)]]
    with pytest.raises(TamperedError, match="digest"):
        restoring(item, joined(json.dumps(head).encode(), other))
    head["shell"]["format"] = "nifti"
    with pytest.raises(MIADMarkError):
        restoring(item, joined(json.dumps(head).encode(), other))


# --- names ------------------------------------------------------------------------------------------------------------

LEADING_AWAY = [
    "../x",
    "..",
    ".",
    "",
    "/tmp/x",
    "a/../../x",
    "x/",
    "..\\x",
    "C:x",
    "C:\\x",
    "\\\\host\\x",
    "a\0b",
    "a\0/../x",
]
NOT_SHOWN = ["\u202egnp.exe", "a\nb", "\x1b[2J", "\ud800", "a\u200bb", "\ufeffa", "\u2028"]
OUR_OWN = ["miadmark-manifest.jsonl", "MIADMARK-manifest.jsonl", ".miadmark.lock", "a.png.miadmark", "A.PNG.MIADMARK"]
OUR_OWN += [".0123456789abcdef.miadmark-tmp"]
STRANGE_BUT_PLAIN = [
    "-rf",
    "~",
    "%2e%2e%2fx",
    "\uff0e\uff0e\uff0fx",
    "CON",
    "a b",
    "名前.nii",
    "x" * 255,
    "x" * 256,
    "é" * 200,
]


@pytest.mark.parametrize("name", LEADING_AWAY + NOT_SHOWN + OUR_OWN + STRANGE_BUT_PLAIN, ids=ascii)
def test_a_record_writes_nowhere_else(name: str, tmp_path: Path) -> None:
    """Whatever name a record gives its file, it lands in the folder of the recipient's choice, or nowhere."""
    item = protected("c.nii")
    head, body, values = unsealed(item)
    head["shell"]["name"] = name
    record = joined(json.dumps(head).encode(), body)
    outside, folder = tmp_path / "outside", tmp_path / "outside" / "out"
    folder.mkdir(parents=True)
    (folder / "keep").write_bytes(b"as it was")
    source = outside / "scan.nii"
    source.write_bytes(item.bare)
    files.sidecar_path(source).write_bytes(seal.seal(record, [corpus.ALICE.recipient], pixel_digest(values)))
    before = samples.contents(tmp_path)
    try:
        written = files.remove_file(source, folder, [corpus.ALICE], overwrite=True)
    except (MIADMarkError, ValueError, OSError):
        assert name not in STRANGE_BUT_PLAIN
        assert samples.contents(tmp_path) == before
    else:
        assert name in STRANGE_BUT_PLAIN
        made = restored_name(name, "nifti")
        assert made.endswith(".nii") and made[0] not in "-~." and written == folder / made
        assert sorted(os.listdir(folder)) == sorted(["keep", made])
        after = samples.contents(tmp_path)
        assert after.pop(f"outside/out/{made}") == item.source
        assert after == before


def test_a_record_holds_the_kind_of_file_that_it_names() -> None:
    """A program in place of a picture, under a digest that is its own: anybody makes that who has the public key."""
    item = next(item for item in corpus.protected() if item.name.endswith(".png"))
    head, body, _ = unsealed(item)
    (section,) = head["sections"]
    assert section[0] == f"blob:{CARRIED_FILE}" and restoring(item, joined(json.dumps(head).encode(), body))
    content = b"MZ\x90\0 a program"
    head["shell"]["name"] = "report.exe"
    head["digests"]["original_file"] = hashlib.sha256(content).hexdigest()
    head["sections"] = [[section[0], "raw", len(content), len(content)]]
    with pytest.raises(TamperedError, match="does not hold a png file"):
        restoring(item, joined(json.dumps(head).encode(), content))


@settings(deadline=None, max_examples=300)
@given(st.text(max_size=30) | st.text("./\\:\0~ \u202e\uff0e\uff0f" + "a", max_size=9))
def test_safe_names_stay_in_their_folder(name: str) -> None:
    try:
        assert files.safe_name(name) == name
    except ValueError:
        return
    path = Path("/out") / name
    assert path.parent == Path("/out") and os.path.normpath(path) == str(path) and name.isprintable()


def test_the_layout_of_the_hostile_heads_is_otherwise_right() -> None:
    assert unsealed(protected("c.nii"))[0]["shell"]["meta"] == {**MAP, "gzip": False}


# --- found one by one -------------------------------------------------------------------------------------------------


def test_a_png_of_one_long_column_is_refused() -> None:
    """16-bit colors are unfiltered a diagonal at a time: millions of rows would take hours."""

    def column(height: int) -> bytes:
        head = struct.pack(">IIBBBBB", 1, height, 16, 2, 0, 0, 0)
        return png_file([(b"IHDR", head), (b"IDAT", zlib.compress((b"\4" + bytes(6)) * height)), (b"IEND", b"")])

    assert carrier_named("png").open_source(column(1000), "x").image.values.shape == (1, 1000, 1, 3)
    with pytest.raises(UnsupportedImageError, match="2000000 pixels"):
        carrier_named("png").open_source(column(2_000_000), "x")


def test_a_jpeg_of_many_scans_is_refused() -> None:
    """Each scan of a few bytes takes the decoder through all pixels again."""
    data = corpus.jpegs()[2]
    scans = [at for at in range(len(data)) if data.startswith(b"\xff\xda", at)]
    assert 1 < len(scans) < 20 and carrier_named("jpeg").open_source(data, "x").image.values.size
    last = data[scans[-1] : -2]
    with pytest.raises(UnsupportedImageError, match="100 scans"):
        carrier_named("jpeg").open_source(data[:-2] + last * 200 + data[-2:], "x")


def numpy_file(head: bytes, body: bytes = b"") -> bytes:
    """A ``.npy`` file, version 1."""
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(head)) + head + body


@pytest.mark.parametrize(
    "head",
    [
        b"{'descr': '<f8', 'fortran_order': False, 'shape': (14, 11",
        b"(" * 9000,
        b"-" * 9000 + b"1",
        b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999, 99999), }",
        b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999999999999999, 99999), }",
        b"{'descr': '<f8', 'fortran_order': False, 'shape': (-1, -154), }",
        b"{'descr': [('a', '<i4'), ('b', '<i4')], 'fortran_order': False, 'shape': (14, 11), }",
        b"{'descr': '<U1', 'fortran_order': False, 'shape': (14, 11), }",
        b"{'descr': '<M8[s]', 'fortran_order': False, 'shape': (14, 11), }",
        b"{'descr': '|O', 'fortran_order': False, 'shape': (14, 11), }",
    ],
    ids=range(10),
)
def test_numpy_masks_that_are_none(head: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="not a readable NumPy array"):
            read_mask(numpy_file(head, bytes(14 * 11 * 8)), "m.npy", corpus.pngs()[0], "a.png")
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["?", "<u2", ">f4", "i1"])
def test_numpy_masks_of_every_kind(order: str, dtype: str) -> None:
    inside = np.arange(154).reshape(14, 11) % 3 == 0
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
    head = str({"descr": descr, "fortran_order": order == "F", "shape": (14, 11)}).encode()
    body = inside.astype(dtype).tobytes(order="F" if order == "F" else "C")
    mask = read_mask(numpy_file(head, body), "m.npy", corpus.pngs()[0], "a.png")
    assert np.array_equal(mask, inside)


def test_nifti_masks_that_are_none() -> None:
    label = corpus.masks()[8]
    assert label[344:348] == b"n+1\0"
    for at, value in ((344, b"xx"), (70, b"\xff\x7f"), (108, struct.pack("<f", 3.0)), (42, b"\xff\xff")):
        with pytest.raises((ValueError, UnsupportedImageError)):
            read_mask(label[:at] + value + label[at + len(value) :], "m.nii", corpus.niftis()[0], "a.nii")
    bomb = zlib.compressobj(9, wbits=31)
    packed = bomb.compress(label + bytes(100 << 20)) + bomb.flush()
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="not a readable NIfTI"):
            read_mask(packed, "m.nii.gz", corpus.niftis()[0], "a.nii")
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_png_masks_of_another_size_are_not_decoded() -> None:
    head, *rest = png_chunks(corpus.masks()[5])
    large = png_file([(b"IHDR", struct.pack(">II", 9000, 9000) + head[1][8:]), *rest])
    with pytest.raises(ValueError, match="9000 x 9000, the image 1 x 14 x 11"):
        read_mask(large, "m.png", corpus.pngs()[0], "a.png")


def key_file(tmp_path: Path, label: str, der: bytes) -> Path:
    """A PEM file."""
    path = tmp_path / "k"
    path.write_bytes(f"-----BEGIN {label}-----\n{base64.encodebytes(der).decode()}-----END {label}-----\n".encode())
    return path


def test_certificates_of_a_strange_version(tmp_path: Path) -> None:
    der = make_vectors.identity("cms").recipient.public_bytes()  # type: ignore[attr-defined]
    version = bytes.fromhex("a003020102")
    assert der.count(version) == 1
    der = der.replace(version, version[:-1] + b"\x07")
    with pytest.raises(ValueError, match="malformed"):
        keys.load_recipient(key_file(tmp_path, "CERTIFICATE", der))
    from monai_miadmark.recipients import decode_roster

    roster = struct.pack(">HBI", 1, 3, len(der)) + b"cms" + der
    with pytest.raises(TamperedError):
        decode_roster(roster)


def test_certificates_with_an_extension_twice(tmp_path: Path) -> None:
    key = make_vectors.identity("cms")._key  # type: ignore[attr-defined]
    old = make_vectors.identity("cms").recipient.certificate  # type: ignore[attr-defined]
    builder = x509.CertificateBuilder(old.subject, old.subject, key.public_key(), 1)
    builder = builder.not_valid_before(old.not_valid_before_utc).not_valid_after(old.not_valid_after_utc)
    for oid in ("1.2.3.4", "1.2.3.5"):
        builder = builder.add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), b"\5\0"), False)
    der = builder.sign(key, hashes.SHA256()).public_bytes(keys_encoding())
    der = der.replace(bytes.fromhex("06032a0305"), bytes.fromhex("06032a0304"))
    with pytest.raises(ValueError, match="extensions cannot be read"):
        keys.load_recipient(key_file(tmp_path, "CERTIFICATE", der))


def keys_encoding() -> Any:
    """DER."""
    from cryptography.hazmat.primitives.serialization import Encoding

    return Encoding.DER


def encrypted(oid: str, *cost: int) -> bytes:
    """EncryptedPrivateKeyInfo whose derivation asks for a cost."""
    numbers = b"".join(map(pkcs8._der_integer, cost))
    salted = pkcs8._der(0x30, pkcs8._der(0x04, bytes(16)) + numbers)
    derivation = pkcs8._der(0x30, bytes.fromhex(oid) + salted)
    scheme = pkcs8._der(0x30, pkcs8._OID_AES256_CBC + pkcs8._der(0x04, bytes(16)))
    algorithm = pkcs8._der(0x30, pkcs8._OID_PBES2 + pkcs8._der(0x30, derivation + scheme))
    return pkcs8._der(0x30, algorithm + pkcs8._der(0x04, bytes(64)))


SCRYPT, PBKDF2 = "06092b06010401da47040b", "06092a864886f70d01050c"


@pytest.mark.parametrize(
    ("oid", "cost", "allowed"),
    [
        (SCRYPT, (2**14, 8, 1), True),
        (SCRYPT, (2**40, 8, 1), False),
        (SCRYPT, (2**19, 8, 1), False),
        (SCRYPT, (2**10, 1, 2**30), False),
        (PBKDF2, (1000,), True),
        (PBKDF2, (2**31 - 1,), False),
        (PBKDF2, (2**62,), False),
    ],
)
def test_key_files_that_ask_for_too_much(oid: str, cost: tuple[int, ...], allowed: bool, tmp_path: Path) -> None:
    path = key_file(tmp_path, "ENCRYPTED PRIVATE KEY", encrypted(oid, *cost))
    begun = time.process_time()
    with pytest.raises(ValueError, match="wrong passphrase" if allowed else "more time or memory"):
        keys.load_identity(path, "pw")
    assert time.process_time() - begun < 5


def test_our_own_key_files_are_affordable(tmp_path: Path) -> None:
    made = keys.save_key_pair(keys.generate_identity("hybrid"), tmp_path / "k", "pw")
    assert keys.load_identity(made.private, "pw").kind == "hybrid"

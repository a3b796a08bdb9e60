# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""A small file does not take much memory; where memory runs out, that is said, and nothing else."""

from __future__ import annotations

import gzip
import struct
import subprocess
import sys
import tracemalloc
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import samples
from doubles import BLUNT, NoiseMarker
from test_label_maps import mha, nrrd

from monai_miadmark import seal
from monai_miadmark.errors import OutOfMemoryError, TamperedError, UnsupportedImageError, check_memory
from monai_miadmark.formats import carrier_for
from monai_miadmark.formats.limits import check_decoded, serve_within_limit
from monai_miadmark.image import pixel_digest
from monai_miadmark.keys import HpkeIdentity, generate_identity
from monai_miadmark.options import ProtectOptions
from monai_miadmark.pipeline import protect_bytes, read_record, remove_bytes
from monai_miadmark.shell import SourceShell

OPTIONS = ProtectOptions(preset=BLUNT, region="none", style="invisible")
SIDE = 9400


@pytest.fixture(scope="module")
def alice() -> HpkeIdentity:
    return generate_identity("x25519")


def deflated(size: int, wbits: int = 15) -> bytes:
    """So many zeros."""
    stream = zlib.compressobj(9, zlib.DEFLATED, wbits)
    piece = bytes(1 << 20)
    parts = [stream.compress(piece[: min(len(piece), size - at)]) for at in range(0, size, len(piece))]
    return b"".join((*parts, stream.flush()))


def bomb(name: str, protected: bytes) -> bytes:
    """A small file of very many zeros with the record of a protected file of its kind."""
    if name == "a.png":
        size = SIDE * (1 + 6 * SIDE)
        head = struct.pack(">IIBBBBB", SIDE, SIDE, 16, 2, 0, 0, 0)
        at = protected.index(b"miRc") - 4
        record = protected[at : at + 12 + int.from_bytes(protected[at : at + 4], "big")]
        return b"".join(
            (protected[:8], _chunk(b"IHDR", head), record, _chunk(b"IDAT", deflated(size)), _chunk(b"IEND", b""))
        )
    voxels = 1 << 29
    if name == "a.nii.gz":
        plain = bytearray(gzip.decompress(protected))
        struct.pack_into("<8h", plain, 40, 3, 1 << 13, 1 << 13, 1 << 2, 1, 1, 1, 1)
        start = int(struct.unpack_from("<f", plain, 108)[0])
        stream = zlib.compressobj(9, zlib.DEFLATED, 31)
        piece = bytes(1 << 20)
        parts = [stream.compress(bytes(plain[:start]))] + [stream.compress(piece) for _ in range(voxels >> 20)]
        return b"".join((*parts, stream.flush()))
    if name == "a.nrrd":
        head = protected[: protected.index(b"\n\n") + 2].replace(b"sizes: 40 48", b"sizes: 16384 32768")
        return head.replace(b"encoding: raw", b"encoding: gzip") + deflated(voxels, 31)
    packed = deflated(voxels)
    lines = b"CompressedData = True\nCompressedDataSize = %d\nElementDataFile" % len(packed)
    head = protected[: protected.index(b"LOCAL\n") + 6].replace(b"DimSize = 40 48", b"DimSize = 16384 32768")
    return head.replace(b"ElementDataFile", lines) + packed + protected[protected.index(b"MIADMRC1") :]


def _chunk(kind: bytes, body: bytes) -> bytes:
    """A PNG chunk."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


SOURCES = {
    "a.png": samples.png(),
    "a.nii.gz": samples.nifti_gz(),
    "a.nrrd": nrrd(samples.smooth()),
    "a.mha": mha(samples.smooth()),
}

PROBE = """
import resource, sys
from pathlib import Path
from monai_miadmark import pipeline
from monai_miadmark.errors import MIADMarkError
data = Path(sys.argv[1]).read_bytes()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
if len(sys.argv) > 3:
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[3]),) * 2)
said = "done"
try:
    getattr(pipeline, sys.argv[2])(data)
except MIADMarkError as error:
    said = type(error).__name__
print(said, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


def probed(path: Path, function: str, *limit: int) -> tuple[str, int]:
    """What a function of the pipeline says of a file, in a process of its own, and the MiB that it takes for it."""
    command = [sys.executable, "-c", PROBE, str(path), function, *map(str, limit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    said, taken = done.stdout.split()
    return said, int(taken)


@pytest.mark.parametrize("name", SOURCES)
def test_inspecting_takes_no_memory_for_pixels_and_opening_refuses(
    name: str, alice: HpkeIdentity, tmp_path: Path
) -> None:
    made = protect_bytes(SOURCES[name], name, [alice.recipient], NoiseMarker(), OPTIONS).data
    data = bomb(name, made)
    assert len(data) < 1 << 20
    (tmp_path / name).write_bytes(data)
    said, taken = probed(tmp_path / name, "inspect_bytes")
    assert said == "done" and taken < 64
    said, taken = probed(tmp_path / name, "verify_bytes")
    assert said == "TooLargeError" and taken < 64  # and not that somebody tampered with it


def test_records_are_found_without_pixels_in_every_format(alice: HpkeIdentity) -> None:
    sources = {**SOURCES, "a.dcm": samples.ct(), "a.jpg": samples.jpeg(), "a.nii": samples.nifti()}
    for name, data in sources.items():
        for sidecar in (False, True):
            made = protect_bytes(data, name, [alice.recipient], NoiseMarker(), OPTIONS, sidecar=sidecar).data
            carrier = carrier_for(made, name)
            held, found = carrier.open_protected(made), carrier.open_record(made)
            assert (found.envelope, found.marked) == (held.envelope, held.marked) == (held.envelope, True)
        assert carrier_for(data, name).open_record(data) == (None, False)


def test_a_sound_file_is_not_called_damaged_where_memory_runs_out(alice: HpkeIdentity, tmp_path: Path) -> None:
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (3000, 3000, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png", compress_level=1)
    made = carrier_for((tmp_path / "a.png").read_bytes()[:64], "a.png")
    data = (tmp_path / "a.png").read_bytes()
    opened = made.open_source(data, "a.png")
    envelope = protect_bytes(samples.png(), "b.png", [alice.recipient], NoiseMarker(), OPTIONS, sidecar=True).envelope
    (tmp_path / "a.png").write_bytes(made.carry(data, opened, opened.image.values, envelope))
    assert probed(tmp_path / "a.png", "verify_bytes")[0] == "TamperedError"  # another image's record
    named = set()
    for spare in (60, 120, 200):
        limit = _taken_to_start() + (spare << 20)
        named.add(probed(tmp_path / "a.png", "verify_bytes", limit)[0])
    assert "OutOfMemoryError" in named and named <= {"OutOfMemoryError", "TamperedError"}


def _taken_to_start() -> int:
    """Bytes of address space of a process that has loaded the pipeline."""
    script = "import monai_miadmark.pipeline as p\nprint(next(l for l in open('/proc/self/status') if 'VmSize' in l))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[1]) << 10


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError("image file could not be read (decoder error -9)"),
        zlib.error("Error -4 while decompressing data: insufficient memory"),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_every_way_to_say_that_memory_ran_out_is_known(error: Exception) -> None:
    for given in (error, _caused(error)):
        with pytest.raises(OutOfMemoryError, match="not enough memory"):
            check_memory(given)
    check_memory(ValueError("decoder error -9"))
    check_memory(OSError("decoder error -2"))


def _caused(cause: Exception) -> Exception:
    """Another error, of which this is the cause."""
    try:
        raise RuntimeError("the library's own") from cause
    except RuntimeError as error:
        return error


def test_limits_by_ratio_and_absolutely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MIADMARK_MEMORY_LIMIT", raising=False)  # a gateway in this process sets it
    check_decoded(1 << 28, 1)
    check_decoded(1 << 31, 1 << 24)
    for size, stored in (((1 << 28) + 1000, 1), (1 << 33, 1 << 32)):
        with pytest.raises(UnsupportedImageError, match="when decoded"):
            check_decoded(size, stored)
    monkeypatch.setenv("MIADMARK_MEMORY_LIMIT", "100")
    with pytest.raises(UnsupportedImageError, match="MIADMARK_MEMORY_LIMIT"):
        check_decoded(101 << 20, 100 << 20)
    monkeypatch.setenv("MIADMARK_MEMORY_LIMIT", "nonsense")
    check_decoded(101 << 20, 100 << 20)


def test_a_hostile_record_takes_little_memory(alice: HpkeIdentity) -> None:
    """Some kilobytes that hold a quarter of a gigabyte, sealed by whoever has the public key."""
    made = protect_bytes(samples.png(), "a.png", [alice.recipient], NoiseMarker(), OPTIONS)
    values = carrier_for(made.data, "a").open_protected(made.data).values
    held = read_record(made.envelope, values, [alice])
    for kind, blob in (("tiff", "frame"), ("png", "file"), ("nifti", "prefix")):
        shell = SourceShell(kind, "a", {}, {blob: bytes((1 << 28) - 100_000)})
        record = replace(held, shell=shell).to_bytes()
        assert len(record) < 40_000
        envelope = seal.seal(record, [alice.recipient], pixel_digest(values))
        hostile = carrier_for(made.data, "a").replace_envelope(made.data, envelope)
        tracemalloc.start()
        with pytest.raises(TamperedError, match="sizes"):
            remove_bytes(hostile, [alice])
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1 << 24


def test_servers_stop_earlier(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MIADMARK_MEMORY_LIMIT", raising=False)
    check_decoded(1025 << 20, 1 << 30)
    serve_within_limit()
    with pytest.raises(UnsupportedImageError, match="the limit"):
        check_decoded(1025 << 20, 1 << 30)
    monkeypatch.setenv("MIADMARK_MEMORY_LIMIT", "2000")  # whoever runs the server may say otherwise
    serve_within_limit()
    check_decoded(1025 << 20, 1 << 30)

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Everything that reads bytes from outside, each with valid inputs, a way to change them, and what must hold.

A target's ``check`` returns what happened in a word, or raises: one of its ``allowed`` errors, which are the documented
ones, or anything else, which is a finding. :class:`Broken` says that nothing was raised, but something wrong given out.
"""

from __future__ import annotations

import base64
import io
import json
import os
import struct
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import zstandard
from vectors import make_vectors

from fuzz import corpus
from fuzz.mutations import (
    Mutator,
    json_bytes,
    mutate,
    mutate_gzip,
    mutate_json,
    mutate_png,
    near_start,
    nested,
)
from monai_miadmark import files, keys, pipeline, seal
from monai_miadmark.envelope import peek_header
from monai_miadmark.errors import MIADMarkError, TamperedError, UnsupportedImageError, WrongKeyError
from monai_miadmark.field import Field
from monai_miadmark.formats import carrier_for
from monai_miadmark.formats.base import pack_block, unpack_block
from monai_miadmark.formats.copies import clean_description, clean_profile
from monai_miadmark.image import pixel_digest
from monai_miadmark.manifest import MANIFEST_NAME, Manifest, ManifestError, Settings
from monai_miadmark.masks import read_mask
from monai_miadmark.recipients import decode_roster, encode_roster
from monai_miadmark.record import RecoveryRecord
from monai_miadmark.sidecars import find_sidecars


class Broken(Exception):  # noqa: N818 - not an error of the code under test, but a verdict on it
    """Something wrong was given out instead of an error."""


@dataclass(frozen=True)
class Target:
    """One reader of bytes from outside.

    Attributes:
        name: for reports.
        seeds: gives the valid inputs.
        check: reads an input; what happened, in a word.
        allowed: the errors that are documented.
        mutate: changes an input.
        weight: share of the inputs of a run, relative to the other targets.
    """

    name: str
    seeds: Callable[[], Sequence[bytes]]
    check: Callable[[bytes], str]
    allowed: tuple[type[Exception], ...] = (MIADMarkError,)
    mutate: Mutator = mutate
    weight: int = 4

    def input(self, rng: Random) -> bytes:
        """A changed input."""
        seeds = self.seeds()
        return self.mutate(rng, rng.choice(seeds), seeds)

    def probe(self, data: bytes) -> str:
        """Read an input: a word for what was read, or the name of a documented error; all others go through."""
        try:
            return self.check(data)
        except self.allowed as error:
            if corpus.PATIENT in str(error) or "Canary" in str(error):
                raise Broken("the message quotes the file") from error
            return type(error).__name__


def _same(one: bytes, other: bytes, what: str) -> None:
    """Both are equal, or the code is broken."""
    if one != other:
        raise Broken(what)


@lru_cache
def _folder() -> Path:
    """A folder of this process for targets that read files; in memory where the system has such a place."""
    shared = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="miadmark-fuzz-", dir=shared if os.access(shared, os.W_OK) else None))


# --- sealed records ---------------------------------------------------------------------------------------------------


@lru_cache
def _envelopes() -> tuple[bytes, ...]:
    fixed = make_vectors.seal_fixed
    everyone = fixed("alice", "hybrid", "p256", "cms", "passphrase", signed_by="custodian mldsa65")
    return fixed("alice"), fixed("alice", "bob", signed_by="custodian"), fixed("passphrase"), everyone


def _mutate_envelope(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    action = rng.random()
    if action < 0.35:
        return mutate(rng, data, others)
    size = struct.unpack_from(">I", data, 9)[0]
    header = json.loads(data[13 : 13 + size])
    if action < 0.65:
        return make_vectors.with_header_bytes(data, json_bytes(mutate_json(rng, header)))
    if action < 0.7:
        return make_vectors.with_header_bytes(data, nested(rng))
    if action < 0.85:  # what is in base64
        entry = header["signature"] if header["signature"] and rng.random() < 0.5 else rng.choice(header["recipients"])
        name = rng.choice([name for name in ("wrapped", "public_key", "signature") if name in entry])
        raw = base64.b64decode(entry[name])
        entry[name] = base64.b64encode(mutate(rng, raw, [raw])).decode()
        return make_vectors.with_header_bytes(data, json_bytes(header))
    return make_vectors.with_checksum(mutate(rng, data, others) + bytes(32))


def _costly(header: Any) -> bool:
    """Whether opening would ask for much of Argon2id, within what is allowed: that is meant to take its time."""
    for key in header.wrapped_keys:
        if key.kind == "passphrase" and len(key.wrapped) == 82:
            memory, iterations = struct.unpack_from(">IB", key.wrapped, 16)
            if 1024 < memory <= 1 << 20 or 4 < iterations <= 16:
                return True
    return False


def _check_envelope(data: bytes) -> str:
    outcomes = set()
    for read in (seal.inspect_envelope, partial(seal.verify_envelope, protected_pixels=make_vectors.PIXELS)):
        try:
            read(data)
            outcomes.add("read")
        except MIADMarkError as error:
            outcomes.add(type(error).__name__)
    header = peek_header(io.BytesIO(data))
    if _costly(header):
        return "costly"
    opened = seal.open_envelope(data, [corpus.ALICE, corpus.PASSPHRASE], make_vectors.PIXELS)
    _same(opened.record, make_vectors.RECORD, "another record was opened")
    if data not in _envelopes():
        # The same record in other bytes: only what no key vouches for may have changed.
        raise Broken("a changed envelope was opened")
    return "same"


@lru_cache
def _rosters() -> tuple[bytes, ...]:
    who = [make_vectors.recipient(name) for name in ("alice", "hybrid", "p256", "cms", "passphrase")]
    return encode_roster(who), encode_roster(who[:1]) + bytes(40)


def _check_roster(data: bytes) -> str:
    _, offset = decode_roster(data)
    if not 0 <= offset <= len(data):
        raise Broken("the roster ends outside")
    return "read"


@lru_cache
def _wrapped() -> dict[str, bytes]:
    return dict(corpus.wrapped_keys())


def _wrapped_seeds() -> list[bytes]:
    """Kind by its place in the list, in one byte before the wrapped key."""
    return [bytes([i]) + data for i, data in enumerate(_wrapped().values())]


def _mutate_wrapped(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    return data[:1] + mutate(rng, data[1:], [other[1:] for other in others])


@lru_cache
def _identity(name: str) -> Any:
    return make_vectors.identity(name)


def _check_wrapped(data: bytes) -> str:
    name = list(_wrapped())[data[0] % len(_wrapped())]
    wrapped = data[1:]
    if name == "passphrase" and len(wrapped) == 82:
        memory, iterations = struct.unpack_from(">IB", wrapped, 16)
        if 1024 < memory <= 1 << 20 or 4 < iterations <= 16:
            return "costly"
    _same(_identity(name).unwrap(wrapped, b"c"), make_vectors.fixed("content key"), "another content key")
    return "same"


def _check_block(data: bytes) -> str:
    envelope = unpack_block(data)
    if envelope is not None and not data.startswith(pack_block(envelope)):
        raise Broken("the block is not that of its content")
    return "read"


# --- recovery records, authentic but hostile --------------------------------------------------------------------------


@lru_cache
def _records() -> tuple[tuple[bytes, Any, bytes], ...]:
    """Record, protected samples and source of each protected file."""
    made = []
    for item in corpus.protected():
        values = carrier_for(item.bare, "x").open_protected(item.bare).values
        record = seal.open_envelope(item.envelope, [corpus.ALICE], pixel_digest(values)).record
        source = carrier_for(item.source, "x")
        made.append((record, values, source.file_digest(item.source)))
    return tuple(made)


def _record_seeds() -> list[bytes]:
    return [record for record, _, _ in _records()]


def _mutate_record(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    action = rng.random()
    if action < 0.3:
        return mutate(rng, data, others)
    length = struct.unpack_from("<I", data, 10)[0]
    head, body = json.loads(data[14 : 14 + length]), data[14 + length :]
    if action < 0.35:
        text = nested(rng)
    elif action < 0.75:
        text = json_bytes(mutate_json(rng, head))
    else:
        body = _other_section(rng, head, body)
        text = json_bytes(mutate_json(rng, head) if rng.random() < 0.2 else head)
    return data[:10] + struct.pack("<I", len(text)) + text + body


def _other_section(rng: Random, head: Any, body: bytes) -> bytes:
    """Sections of which one holds something else; the table in the head fits, and so does the size if it can."""
    parts, at = [], 0
    for _, _, _, stored in head["sections"]:
        parts.append(body[at : at + stored])
        at += stored
    if not parts:
        return body
    chosen = rng.randrange(len(parts))
    row = head["sections"][chosen]
    size = min(row[2], 1 << 20)
    if row[0] == "field":  # frames of their own inside
        parts[chosen] = mutate(rng, parts[chosen], [parts[chosen]])
        row[2] = row[3] = len(parts[chosen])
        return b"".join(parts)
    content = rng.choice((bytes(size), b"\xff" * size, rng.randbytes(size), bytes(8 << 20)))
    packed = zstandard.ZstdCompressor(level=1, write_content_size=rng.random() < 0.8).compress(content)
    if rng.random() < 0.3:
        row[1:] = ["raw", len(content), len(content)]
        parts[chosen] = content
    else:
        row[1:] = ["zstd", rng.choice((size, len(content))), len(packed)]
        parts[chosen] = packed
    return b"".join(parts)


def _check_record(data: bytes) -> str:
    """For every protected file: as after unsealing, where whoever sealed it could write what they liked."""
    outcomes = set()
    for number, (record, values, digest) in enumerate(_records()):
        if data[14:60] != record[14:60] and number != len(data) % len(_records()):
            continue
        try:
            parsed: RecoveryRecord = pipeline._parsed(data, values)
            parsed.check_protected(values)
            restored = pipeline.restored_bytes(parsed, values)
        except MIADMarkError as error:
            outcomes.add(type(error).__name__)
            continue
        if parsed.original_file != digest:
            outcomes.add("another digest")  # whoever knows the digest of other bytes may claim those
            continue
        _same(carrier_for(restored.data, "x").file_digest(restored.data), digest, "a wrong file was restored")
        try:
            files.safe_name(restored.name)
        except ValueError:
            outcomes.add("refused name")
        outcomes.add("same")
    return "+".join(sorted(outcomes)) or "skipped"


def _field() -> Field:
    rng = np.random.default_rng(1)
    scales = rng.integers(0, 127, (2, 3, 4), np.uint8)
    levels = rng.integers(-2, 2, (2, 9, 14, 1), np.int8, endpoint=True)
    return Field((levels * (scales.repeat(4, 1).repeat(4, 2)[:, :9, :14, None] > 0)).astype(np.int8), scales)


def _check_field(data: bytes) -> str:
    shape = (2, 9, 14, 1)
    if Field.unpack(data, shape).shape != shape:
        raise Broken("a field of another shape")
    return "read"


# --- files ------------------------------------------------------------------------------------------------------------


def _check_file(data: bytes) -> str:
    """A source: what is opened can be rebuilt exactly, and carries changed samples and a record."""
    for head in (4, 132, 200):  # the format is looked for in what may be cut short
        try:
            carrier_for(data[:head], "x.raw").output_name("x.raw")
        except MIADMarkError:
            pass
    carrier = carrier_for(data, "x")
    held: Exception | None = None
    try:
        carrier.open_protected(data)
    except MIADMarkError as error:
        held = error
    if held is not None and "Canary" in str(held):
        raise Broken("the message quotes the file")
    opened = carrier.open_source(data, "x")
    values = opened.image.values
    rebuilt = carrier.rebuild(opened.shell, None if "file" in opened.shell.blobs else values)
    _same(carrier.file_digest(rebuilt), carrier.file_digest(data), "rebuilt bytes are not those of the source")
    changed = values ^ 1 if values.dtype.kind != "f" else values[:, ::-1].copy()
    written = carrier.carry(data, opened, changed, b"MIADMARK" * 5)
    again = carrier_for(written, "x").open_protected(written)
    if again.envelope != b"MIADMARK" * 5 or pixel_digest(again.values) != pixel_digest(changed):
        raise Broken("the written file does not read back")
    if carrier_for(written, "x").open_record(written) != (again.envelope, again.marked):
        raise Broken("the record is not found without the samples")
    if carrier_for(written, "x").display_digest(written).hex() != pipeline._display_of(carrier, data):
        raise Broken("the written file is not shown as its source")
    return "read"


def _protected_seeds() -> list[bytes]:
    return [item.data for item in corpus.protected()]


def _mutate_protected(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    if data.startswith(b"\x89PNG"):
        return mutate_png(rng, data, [other for other in others if other.startswith(b"\x89PNG")])
    if data.startswith(b"\x1f\x8b"):
        return mutate_gzip(mutate)(rng, data, [data])
    return mutate(rng, data, others)


@lru_cache
def _digests() -> frozenset[bytes]:
    return frozenset(carrier_for(item.source, "x").file_digest(item.source) for item in corpus.protected())


def _right(restored: pipeline.RestoredBytes) -> str:
    """What was restored is one of the sources (a splice may hold another's record and samples)."""
    if carrier_for(restored.data, "x").file_digest(restored.data) not in _digests():
        raise Broken("a wrong file was restored")
    return "same"


def _check_protected(data: bytes) -> str:
    """A protected file: restored exactly, or refused; the other verbs refuse it too, by name."""
    for verb in (pipeline.inspect_bytes, pipeline.verify_bytes):
        try:
            verb(data)
        except MIADMarkError:
            pass
    try:
        granted, _ = pipeline.grant_bytes(data, corpus.ALICE, [make_vectors.recipient("bob")])
    except MIADMarkError:
        pass
    else:
        _right(pipeline.remove_bytes(granted, [_identity("bob")]))
    return _right(pipeline.remove_bytes(data, [corpus.ALICE]))


def _sidecar_seeds() -> list[bytes]:
    return [item.envelope for item in corpus.protected()]


def _check_sidecar(data: bytes) -> str:
    """A sidecar beside a file without its record: found by its pixels, or by its name."""
    folder = _folder() / "sidecars"
    folder.mkdir(exist_ok=True)
    (folder / "x.miadmark").write_bytes(data)
    found = find_sidecars(folder)
    outcomes = set()
    for number, item in enumerate(corpus.protected()):
        digest = pixel_digest(carrier_for(item.bare, "x").open_protected(item.bare).values).hex()
        if digest in found or number == len(data) % len(corpus.protected()):
            try:
                outcomes.add(_right(pipeline.remove_bytes(item.bare, [corpus.ALICE], envelope=data)))
            except MIADMarkError as error:
                outcomes.add(type(error).__name__)
    return "+".join(sorted(outcomes))


# --- keys, masks, manifests -------------------------------------------------------------------------------------------


def _mutate_key(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Text; or what is in base64 between the lines."""
    if rng.random() < 0.35:
        return mutate(rng, data, others)
    blocks = [block for block in data.split(b"-----END ") if b"-----BEGIN " in block]
    chosen = rng.randrange(len(blocks))
    result = []
    for number, block in enumerate(blocks):
        begin = block[block.index(b"-----BEGIN ") :]
        label, text = begin.split(b"-----\n", 1)
        label = label.removeprefix(b"-----BEGIN ")
        der = base64.b64decode(text)
        if number == chosen:
            der = mutate(rng, der, [der])
        lines = base64.encodebytes(der)
        result.append(b"-----BEGIN %b-----\n%b-----END %b-----\n" % (label, lines, label))
    if rng.random() < 0.1:
        result *= 2
    return b"".join(result)


def _check_key(data: bytes) -> str:
    path = _folder() / "key"
    path.write_bytes(data)
    outcomes = set()
    readers: tuple[Callable[[], Any], ...] = (
        partial(keys.load_recipient, path),
        partial(keys.load_identity, path),
        partial(keys.load_identity, path, "pw"),
        partial(keys.load_signer, path),
        partial(keys.load_verifier, path),
        partial(keys.needs_passphrase, path),
    )
    for read in readers:
        try:
            key = read()
            outcomes.add("read")
            if hasattr(key, "wrap"):
                key.wrap(bytes(32), b"c")
        except ValueError:
            outcomes.add("ValueError")
    return "+".join(sorted(outcomes))


def _check_profile(data: bytes) -> str:
    clean = clean_profile(data)
    if clean is None:
        return "none"
    if clean_profile(clean) != clean or len(clean) > len(data) + 400:
        raise Broken("a profile that is not clean")
    return "read"


def _check_description(data: bytes) -> str:
    clean = clean_description(data)
    if clean_description(clean) != clean:
        raise Broken("a description that is not clean")
    return "read" if clean else "none"


def _mutate_mask(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    if data.startswith(b"\x89PNG"):
        return mutate_png(rng, data, [other for other in others if other.startswith(b"\x89PNG")])
    if data.startswith(b"\x1f\x8b"):
        return mutate_gzip(near_start(400))(rng, data, [data])
    if data.startswith(b"\x93NUMPY") and rng.random() < 0.5:
        size = struct.unpack_from("<H", data, 8)[0]
        head = rng.choice((mutate(rng, data[10 : 10 + size], [b"'|O', 99999999999, (-1,), "]), nested(rng)))
        return data[:8] + struct.pack("<H", len(head) % 65536) + head + data[10 + size :]
    return near_start(400)(rng, data, others)


def _check_mask(data: bytes) -> str:
    outcomes = set()
    for name, source in (("a.nii", corpus.niftis()[0]), ("a.png", corpus.pngs()[0])):
        try:
            mask = read_mask(data, "mask", source, name)
            shape = carrier_for(source, name).open_source(source, name).image.values.shape
            if mask.dtype != bool or mask.shape not in (shape[:3], shape[1:3]):
                raise Broken("a mask of another shape")
            outcomes.add("read")
        except (MIADMarkError, ValueError) as error:
            outcomes.add("ValueError" if isinstance(error, ValueError) else type(error).__name__)
    return "+".join(sorted(outcomes))


def _mutate_manifest(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    lines = data.split(b"\n")
    if rng.random() < 0.3:
        return mutate(rng, data, others)
    at = rng.randrange(max(1, len(lines) - 1))
    action = rng.random()
    try:
        tree = json.loads(lines[at])
    except ValueError:
        return mutate(rng, data, others)
    if action < 0.8:
        lines[at] = json_bytes(mutate_json(rng, tree))
    elif action < 0.9:
        lines[at] = lines[at][:-1] + b', "options": ' + nested(rng) + b"}"
    else:
        lines.insert(at, lines[rng.randrange(len(lines))])
    return b"\n".join(lines)


def _check_manifest(data: bytes) -> str:
    path = _folder() / MANIFEST_NAME
    found = []
    for _ in range(2):  # what the first reading cuts off, the second does not see
        if not found:
            path.write_bytes(data)
        with Manifest(path.parent, Settings("protect", {}), True) as manifest:
            found.append((manifest.finished, manifest.intended, manifest.earlier))
        path.touch()
    if found[0] != found[1]:
        raise Broken("the manifest reads differently the second time")
    finished, intended, _ = found[0]
    entries = [*finished.items(), *((source, entry) for source, several in intended.items() for entry in several)]
    for source, entry in entries:
        for name in (source, *(output for output, _ in entry.outputs)):
            if os.path.isabs(name) or ".." in Path(name).parts or "\0" in name or not name:
                raise Broken("a path that leads out of the folder")
    return "read"


TARGETS: tuple[Target, ...] = (
    Target("envelope", _envelopes, _check_envelope, mutate=_mutate_envelope, weight=10),
    Target("list of recipients", _rosters, _check_roster, (TamperedError,)),
    Target("wrapped key", _wrapped_seeds, _check_wrapped, (WrongKeyError, TamperedError), _mutate_wrapped, 6),
    Target("private block", lambda: [pack_block(b"MIADMARK" * 9), pack_block(None)], _check_block, (TamperedError,)),
    Target("recovery record", _record_seeds, _check_record, mutate=_mutate_record, weight=12),
    Target("field", lambda: [_field().pack()], _check_field, (TamperedError,)),
    Target("protected file", _protected_seeds, _check_protected, mutate=_mutate_protected, weight=12),
    Target("sidecar", _sidecar_seeds, _check_sidecar, mutate=_mutate_envelope, weight=4),
    Target("png", lambda: [*corpus.pngs(), *corpus.deep_pngs()], _check_file, mutate=mutate_png, weight=8),
    Target("jpeg", corpus.jpegs, _check_file, weight=4),
    Target("tiff", corpus.tiffs, _check_file, mutate=near_start(300), weight=6),
    Target("nifti", corpus.niftis, _check_file, mutate=near_start(420), weight=6),
    Target("nifti.gz", lambda: corpus.gzipped(corpus.niftis()), _check_file, mutate=mutate_gzip(near_start(420))),
    Target("nrrd", corpus.nrrds, _check_file, mutate=near_start(330)),
    Target("metaimage", corpus.metaimages, _check_file, mutate=near_start(330)),
    Target("dicom", corpus.dicoms, _check_file, weight=8),
    Target("compressed dicom", corpus.compressed_dicoms, _check_file, weight=8),
    Target("faulty dicom", corpus.faulty_dicoms, _check_file, weight=8),
    Target("color profile", corpus.profiles, _check_profile, (UnsupportedImageError,)),
    Target("description of axes", corpus.descriptions, _check_description),
    Target("key file", corpus.key_files, _check_key, (), _mutate_key, 6),
    Target("mask", corpus.masks, _check_mask, (), _mutate_mask, 6),
    Target("manifest", corpus.manifests, _check_manifest, (ManifestError,), _mutate_manifest),
)


def target_named(name: str) -> Target:
    """The target with a name."""
    return next(target for target in TARGETS if target.name == name)

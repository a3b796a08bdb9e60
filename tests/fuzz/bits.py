# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Every single bit of the envelope of one protected file, flipped: ``cd tests; python -m fuzz.bits [FILE]``.

Each changed envelope goes the way of ``miadmark remove`` after the file's own parser: unseal, check the pixels, read
the record, restore. It is tried as it is, and with the checksum at its end put right, as somebody would who means harm.
Exit status 1 if a single one gives an image, or ends in an error that is not one of the documented.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections import Counter
from pathlib import Path

from doubles import BLUNT, NoiseMarker
from pydicom.data import get_testdata_file
from tqdm import tqdm

from monai_miadmark import pipeline
from monai_miadmark.errors import NotProtectedError, TamperedError, WrongKeyError
from monai_miadmark.formats import carrier_for
from monai_miadmark.keys import generate_identity, generate_signer
from monai_miadmark.options import ProtectOptions

REFUSALS = (NotProtectedError, TamperedError, WrongKeyError)

_CHECKSUM = 32


def flipped(envelope: bytes, bit: int, mend: bool) -> bytes:
    """The envelope with one bit changed, and its SHA-256 put right if so wanted."""
    changed = bytearray(envelope)
    changed[bit // 8] ^= 1 << bit % 8
    if mend:
        changed[-_CHECKSUM:] = hashlib.sha256(changed[:-_CHECKSUM]).digest()
    return bytes(changed)


def main() -> int:
    """Flip them all; exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, default=Path(str(get_testdata_file("CT_small.dcm"))))
    path: Path = parser.parse_args().file
    identity, signer = generate_identity("hybrid"), generate_signer("ed25519")
    protected = pipeline.protect_bytes(
        path.read_bytes(), path.name, [identity.recipient], NoiseMarker(), ProtectOptions(preset=BLUNT), signer
    )
    values = carrier_for(protected.data, path.name).open_protected(protected.data).values
    envelope = protected.envelope
    pipeline.read_record(envelope, values, [identity]).restore(values)  # or else every refusal would mean nothing
    print(f"{path.name}: an envelope of {len(envelope)} bytes")
    ended: Counter[str] = Counter()
    wrong = []
    for mend in (False, True):
        bits = 8 * (len(envelope) - (_CHECKSUM if mend else 0))
        for bit in tqdm(range(bits), desc="checksum put right" if mend else "as it is", unit="bit", disable=None):
            try:
                pipeline.read_record(flipped(envelope, bit, mend), values, [identity]).restore(values)
                wrong.append((bit, mend, "an image"))
            except REFUSALS as error:
                ended[type(error).__name__] += 1
            except Exception as error:  # anything else is what is looked for
                wrong.append((bit, mend, repr(error)))
    print(f"{sum(ended.values())} refused ({', '.join(f'{n} {name}' for name, n in sorted(ended.items()))})")
    print(f"{len(wrong)} not refused by name")
    for bit, mend, what in wrong[:20]:
        print(f"  bit {bit}{', checksum put right' if mend else ''}: {what}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

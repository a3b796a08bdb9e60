# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""What the command ``miadmark`` can be told: its verbs and their arguments, without what they do."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

from monai_miadmark import __version__
from monai_miadmark.files import SIDECAR_SUFFIX
from monai_miadmark.keys import HPKE_KINDS, SIGNATURE_KINDS
from monai_miadmark.options import PRESETS

__all__ = ["MAX_DEFAULT_JOBS", "PASSPHRASE_ENV", "UsageError", "command_line"]

KEY_ID_BYTES = 16

PASSPHRASE_ENV = "MIADMARK_PASSPHRASE"
"""Environment variable that holds the passphrase where nobody is there to type it."""

MAX_DEFAULT_JOBS = 8
"""Most processes that are started without being asked for: each holds weights of its own."""

_ASKS = f"asks, or takes {PASSPHRASE_ENV}"


class UsageError(Exception):
    """Wrong usage: a message, and what to do instead."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class _Parser(argparse.ArgumentParser):
    """argparse that leaves printing and exit status to the command."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing usage and leaving."""
        raise UsageError(message, f"{self.prog} --help shows what is expected")


def command_line(verbs: Mapping[str, Callable[[argparse.Namespace], int]]) -> argparse.ArgumentParser:
    """The parser of the command line.

    Args:
        verbs: what does ``keygen``, ``protect``, ``remove``, ``inspect``, ``verify``, ``grant`` and ``revoke``; the one
            that was asked for is ``run`` of the parsed arguments.
    """
    about = "Removable adversarial watermarks for medical images."
    parser = _Parser(prog="miadmark", description=about, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"miadmark {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def verb(name: str, text: str) -> _Parser:
        added = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        added.add_argument("--verbose", action="store_true", help="say more, with traces of failures")
        added.set_defaults(run=verbs[name])
        return added

    _add_keygen(verb("keygen", "make a key: NAME.key (private) and NAME.pub (to be given away)"))
    _add_protect(verb("protect", "protect images for recipients"))
    _add_remove(verb("remove", "restore protected images, byte for byte"))
    _add_one_file(verb("inspect", "tell what a protected file says of itself; needs no key"))
    verify = verb("verify", "check that pixels, record and signature belong together; needs no key")
    verify.add_argument("--signer", type=Path, metavar="SIGNER.pub", help="the custodian who must have signed")
    _add_one_file(verify)
    _add_reseal(verb("grant", "let further recipients restore, without restoring"))
    revoke = verb("revoke", "seal anew without some recipients; what they copied before stays readable to them")
    _add_reseal(revoke)
    revoke.add_argument(
        "--id",
        action="append",
        default=[],
        type=_key_id,
        metavar="KEYID",
        help="a recipient by its key id, as inspect shows it (a passphrase, or a lost key); may be repeated",
    )
    return parser


def _add_keygen(parser: _Parser) -> None:
    """Arguments of ``keygen``."""
    parser.add_argument("name", metavar="NAME", help="name of the key files, without ending")
    parser.add_argument(
        "--dir", type=Path, default=Path(), metavar="DIR", help="folder for the key files (default: here)"
    )
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument(
        "--kem", choices=HPKE_KINDS, help="kind of encryption key (default: hybrid, ML-KEM-768 with X25519)"
    )
    kind.add_argument("--sign", action="store_true", help="make a key for signing instead (Ed25519)")
    kind.add_argument("--sign-with", choices=SIGNATURE_KINDS, help="the same, of this kind")
    parser.add_argument("--passphrase", action="store_true", help=f"encrypt the private key; {_ASKS}")


def _add_protect(parser: _Parser) -> None:
    """Arguments of ``protect``."""
    _add_batch(parser)
    _add_keys(parser, "-r", "--recipient", "RECIPIENT.pub", "public key or X.509 certificate; may be repeated")
    parser.add_argument("--passphrase", action="store_true", help=f"let a passphrase restore too; {_ASKS}")
    parser.add_argument("--signer", type=Path, metavar="SIGNER.key", help="sign as the custodian")
    parser.add_argument("--preset", choices=tuple(PRESETS), default="standard", help="strength (default: standard)")
    styles = ("visible", "invisible")
    parser.add_argument("--style", choices=styles, default="visible", help="with a logo (default) or without")
    parser.add_argument(
        "--logo", type=Path, metavar="FILE|emblem|banner", help="logo: an image file, or one that is built in"
    )
    parser.add_argument("--text", metavar="TEXT", help="text of the logo or of the banner (default: PROTECTED)")
    parser.add_argument(
        "--modality",
        choices=("auto", "brain_mri", "fundus", "skin"),
        default="auto",
        help="whose diagnostic models to mislead (default: auto, by what the image looks like)",
    )
    parser.add_argument(
        "--region",
        default="auto",
        metavar="auto|none|MASKFILE",
        help="what is to be spared: a salient box (default), nothing, or where a PNG, NIfTI or .npy mask is not zero",
    )
    parser.add_argument(
        "--region-budget",
        type=float,
        metavar="F",
        help="largest change inside the region, a fraction of the display window (default: 0 with a mask, else 3/255)",
    )
    record = parser.add_mutually_exclusive_group()
    record.add_argument(
        "--record",
        choices=("inside", "sidecar", "both"),
        default="inside",
        help=f"where sealed records go: into the files (default), beside them in NAME{SIDECAR_SUFFIX}, or both",
    )
    record.add_argument(
        "--sidecar", action="store_const", const="sidecar", dest="record", help="the same as --record sidecar"
    )
    parser.add_argument(
        "--ps315",
        action="append",
        default=[],
        type=Path,
        metavar="CERT.pem",
        help="DICOM: also encrypt the original attributes for this X.509 certificate (RSA) as DICOM PS3.15 has it, for "
        "software that does not know this one; doubles the files; may be repeated",
    )


def _add_remove(parser: _Parser) -> None:
    """Arguments of ``remove``."""
    _add_batch(parser)
    _add_identities(parser)
    parser.add_argument("--require-signer", type=Path, metavar="SIGNER.pub", help="accept only what this key signed")
    parser.add_argument(
        "--sidecars",
        type=Path,
        metavar="DIR",
        help="where to look for records of files that lost theirs; they are found by the pixels",
    )


def _add_reseal(parser: _Parser) -> None:
    """Arguments of ``grant`` and ``revoke``."""
    _add_batch(parser)
    _add_identities(parser)
    _add_keys(parser, "-r", "--recipient", "OTHER.pub", "public key or X.509 certificate; may be repeated")


def _add_one_file(parser: _Parser) -> None:
    """Arguments of ``inspect`` and ``verify``."""
    parser.add_argument("file", type=Path, metavar="FILE", help="a protected image; its sidecar is found by itself")
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def _add_batch(parser: _Parser) -> None:
    """Sources and output folder."""
    parser.add_argument("sources", nargs="+", type=Path, metavar="SRC", help="files, or folders that are walked")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="OUT", help="output folder; made if missing")
    parser.add_argument("--overwrite", action="store_true", help="replace existing outputs")
    parser.add_argument(
        "--jobs",
        type=_positive,
        metavar="N",
        help=f"files at a time, each in a process of its own (default: one for each core, at most {MAX_DEFAULT_JOBS})",
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with a job that was broken off: what is done and holds is left"
    )
    parser.add_argument(
        "--verify", action="store_true", help="with --resume: compare digests, not only sizes and times of change"
    )


def _add_identities(parser: _Parser) -> None:
    """Whose keys open records."""
    _add_keys(parser, "-i", "--identity", "IDENTITY.key", "private key; may be repeated")
    parser.add_argument("--passphrase", action="store_true", help=f"open by passphrase; {_ASKS}")


def _add_keys(parser: _Parser, short: str, long: str, name: str, text: str) -> None:
    """A list of key files."""
    parser.add_argument(short, long, action="append", default=[], type=Path, metavar=name, help=text)


def _positive(text: str) -> int:
    """A number of things, at least one."""
    number = int(text)
    if number < 1:
        raise ValueError("at least one is needed")
    return number


def _key_id(text: str) -> bytes:
    """A key id in hexadecimal digits."""
    identifier = bytes.fromhex(text)
    if len(identifier) != KEY_ID_BYTES:
        raise ValueError(f"a key id has {KEY_ID_BYTES} bytes")
    return identifier

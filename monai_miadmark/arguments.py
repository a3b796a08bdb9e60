# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""What the command ``miadmark`` can be told: its verbs and their arguments, without what they do."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_miadmark import __version__
from monai_miadmark.argument_types import (
    ArgumentParser,
    UsageError,
    count,
    did_you_mean,
    key_id,
    local_path,
    number,
    place,
    positive,
    word,
)
from monai_miadmark.names import MODALITIES, PASSPHRASE_ENV, PRESET_NAMES, SIDECAR_SUFFIX, SIGNATURE_KINDS
from monai_miadmark.wrapping import HPKE_KINDS

__all__ = ["MAX_DEFAULT_JOBS", "UsageError", "command_line", "place"]


MAX_DEFAULT_JOBS = 8
"""Most processes that are started without being asked for: each holds weights of its own."""

_ASKS = f"asks, or takes {PASSPHRASE_ENV}"


_GROUPS: dict[str, dict[str, tuple[str, str]]] = {
    "keys": {
        "keygen": (
            "make a key: NAME.key (private) and NAME.pub (to be given away)",
            "miadmark keygen clinic",
        ),
        "pubkey": (
            "print the public key of a private key file",
            "miadmark pubkey clinic.key -o clinic.pub",
        ),
    },
    "images": {
        "preview": (
            "show what presets and styles would make of one image",
            "miadmark preview scan.dcm -o preview.png",
        ),
        "protect": (
            "protect images for recipients",
            "miadmark protect images/ -o shared/ -r clinic.pub --report report/",
        ),
        "remove": (
            "restore protected images, byte for byte",
            "miadmark remove shared/ -o restored/ -i clinic.key",
        ),
        "inspect": (
            "tell what protected files, sidecars and key files say of themselves; needs no key",
            "miadmark inspect shared/scan.dcm",
        ),
        "verify": (
            "check that pixels, record and signature belong together; needs no key",
            "miadmark verify shared/scan.dcm --signer hospital.pub",
        ),
    },
    "recipients of protected images": {
        "grant": (
            "let further recipients restore, without restoring",
            "miadmark grant shared/ -o wider/ -i clinic.key -r university.pub",
        ),
        "revoke": (
            "seal anew without some recipients; what they copied before stays readable to them",
            "miadmark revoke wider/ -o narrower/ -i clinic.key -r university.pub",
        ),
    },
    "a node in the network": {
        "gateway": (
            "a DICOM node that protects (or restores) what it receives, and sends it on",
            "miadmark gateway --protect -r clinic.pub --queue queue/ --listen 0.0.0.0:11112 --next PACS@10.0.0.5:104",
        ),
    },
    "this installation": {
        "doctor": (
            "check that everything works here, and say what is missing",
            "miadmark doctor",
        ),
        "evaluate": (
            "measure the bundle on data sets, and write a page of tables",
            "miadmark evaluate data/ -o evaluation/ --limit 12",
        ),
        "completion": (
            "print a script that completes command lines in a shell",
            'eval "$(miadmark completion bash)"',
        ),
    },
}
"""Verbs in the order of their use: what each does, and an example of it."""


class _Commands(ArgumentParser):
    """The parser of the whole command, whose help shows the verbs in groups, each with an example."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.verbs: dict[str, ArgumentParser] = {}

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """See argparse; what is misspelled is told first, with what was meant."""
        words = sys.argv[1:] if args is None else list(args)
        if not words:
            raise UsageError("no command is given", "miadmark --help shows the commands")
        if not words[0].startswith("-"):
            if words[0] not in self.verbs:
                hint = "miadmark --help shows the commands"
                raise UsageError(f"there is no command {words[0]}{did_you_mean(words[0], self.verbs)}", hint)
            self.verbs[words[0]].check_options(words[1:])
        return super().parse_known_args(words, namespace)

    def format_help(self) -> str:
        """What ``miadmark --help`` says."""
        lines = ["usage: miadmark COMMAND ...", "", str(self.description), ""]
        for title, verbs in _GROUPS.items():
            lines += [f"{title}:", *(f"  {name:<11}{text}" for name, (text, _) in verbs.items()), ""]
        lines += ["examples:", *(f"  {example}" for verbs in _GROUPS.values() for _, example in verbs.values()), ""]
        lines += [
            "options:",
            "  -h, --help  show this text; miadmark COMMAND --help shows what a command can be told",
            "  --version   show the version",
            "",
            "exit status: 0 all done, 1 some files failed, 2 wrong usage, 130 interrupted (Ctrl-C)",
        ]
        return "\n".join(lines) + "\n"


def command_line(verbs: Mapping[str, Callable[[argparse.Namespace], int]]) -> argparse.ArgumentParser:
    """The parser of the command line.

    Args:
        verbs: what each verb does, by its name; the one that was asked for is ``run`` of the parsed arguments.
    """
    about = "Removable adversarial watermarks for medical images."
    parser = _Commands(prog="miadmark", description=about, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"miadmark {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=ArgumentParser)
    known = {name: told for verbs_of in _GROUPS.values() for name, told in verbs_of.items()}

    def verb(name: str) -> ArgumentParser:
        text, example = known[name]
        added = commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        added.add_argument("--verbose", action="store_true", help="say more, with traces of failures")
        added.set_defaults(run=verbs[name], verb=name)
        parser.verbs[name] = added
        return added

    _add_keygen(verb("keygen"))
    _add_pubkey(verb("pubkey"))
    _add_protect(verb("protect"))
    _add_remove(verb("remove"))
    _add_told(verb("inspect"))
    verify = verb("verify")
    verify.add_argument("--signer", type=local_path, metavar="SIGNER.pub", help="the custodian who must have signed")
    _add_told(verify)
    _add_reseal(verb("grant"))
    revoke = verb("revoke")
    _add_reseal(revoke)
    revoke.add_argument(
        "--yes", action="store_true", help="do not ask whether one's own key is to be taken away as well"
    )
    revoke.add_argument(
        "--id",
        action="append",
        default=[],
        type=key_id,
        metavar="KEYID",
        help="a recipient by its key id, as inspect shows it (a passphrase, or a lost key); may be repeated",
    )
    _add_gateway(verb("gateway"))
    _add_preview(verb("preview"))
    _add_doctor(verb("doctor"))
    _add_evaluate(verb("evaluate"))
    completion = verb("completion")
    completion.add_argument("shell", choices=("bash", "fish", "tcsh", "zsh"), help="for which shell")
    return parser


def _add_keygen(parser: ArgumentParser) -> None:
    """Arguments of ``keygen``."""
    parser.add_argument("name", metavar="NAME", help="name of the key files, without ending")
    parser.add_argument(
        "--dir", type=local_path, default=Path(), metavar="DIR", help="folder for the key files (default: here)"
    )
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument(
        "--kem", choices=HPKE_KINDS, help="kind of encryption key (default: hybrid, ML-KEM-768 with X25519)"
    )
    kind.add_argument("--sign", action="store_true", help="make a key for signing instead (Ed25519)")
    kind.add_argument("--sign-with", choices=SIGNATURE_KINDS, help="the same, of this kind")
    parser.add_argument("--passphrase", action="store_true", help=f"encrypt the private key; {_ASKS}")


def _add_pubkey(parser: ArgumentParser) -> None:
    """Arguments of ``pubkey``."""
    parser.add_argument("file", type=local_path, metavar="NAME.key", help="a private key file")
    parser.add_argument(
        "-o", "--out", type=local_path, metavar="NAME.pub", help="write it here; never overwrites (default: print it)"
    )


def _add_protect(parser: ArgumentParser) -> None:
    """Arguments of ``protect``."""
    _add_batch(parser)
    _add_report(parser)
    parser.add_argument("--passphrase", action="store_true", help=f"let a passphrase restore; {_ASKS}")
    _add_beside(parser)
    _add_choices(parser)
    parser.add_argument(
        "--label-maps",
        choices=("refuse", "skip", "copy", "protect"),
        default="refuse",
        help="what becomes of segmentations and masks: an error (default), left out, copied UNPROTECTED into OUT, or "
        "protected, which changes their labels until the mark is removed",
    )
    _add_record(parser)


def _add_beside(parser: argparse._ActionsContainer) -> None:
    """A passphrase stands alone unless this is given."""
    parser.add_argument(
        "--passphrase-beside-keys",
        action="store_true",
        help="protect for the passphrase and for keys (-r): whoever guesses the passphrase needs no key",
    )


def _add_choices(parser: argparse._ActionsContainer) -> None:
    """For whom, and how images are marked."""
    _add_keys(parser, "-r", "--recipient", "RECIPIENT.pub", "public key or X.509 certificate; may be repeated")
    parser.add_argument("--signer", type=local_path, metavar="SIGNER.key", help="sign as the custodian")
    parser.add_argument("--preset", choices=PRESET_NAMES, default="standard", help="strength (default: standard)")
    styles = ("visible", "invisible")
    parser.add_argument("--style", choices=styles, default="visible", help="with a logo (default) or without")
    parser.add_argument(
        "--expect-effect",
        action="store_true",
        help="refuse images on which no effect can be expected: of an unknown modality, with nothing to mark, or whose "
        "mark misleads less than half of the models that it is made against (without: a warning)",
    )
    _add_drawing(parser)


def _add_record(parser: ArgumentParser) -> None:
    """Where records of protected files go."""
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
        type=local_path,
        metavar="CERT.pem",
        help="DICOM: also encrypt the original attributes for this X.509 certificate (RSA) as DICOM PS3.15 has it, for "
        "software that does not know this one; doubles the files; may be repeated",
    )


def _add_drawing(parser: argparse._ActionsContainer) -> None:
    """What a mark says, against which models it is made, and what it spares."""
    parser.add_argument(
        "--logo", type=local_path, metavar="FILE|emblem|banner", help="logo: an image file, or one that is built in"
    )
    parser.add_argument("--text", metavar="TEXT", help="text of the logo or of the banner (default: PROTECTED)")
    parser.add_argument(
        "--modality",
        choices=MODALITIES,
        default="auto",
        help="whose diagnostic models to mislead (default: auto, by what the image looks like)",
    )
    parser.add_argument(
        "--device", type=word, metavar="cpu|cuda|cuda:N", help="where the networks run (default: a GPU if there is one)"
    )
    parser.add_argument(
        "--region",
        type=word,
        default="auto",
        metavar="auto|none|MASKFILE",
        help="what is to be spared: the lesion as far as it is found (default), nothing, or where a PNG, NIfTI or .npy "
        "mask is not zero",
    )
    parser.add_argument(
        "--region-budget",
        type=number,
        metavar="F",
        help="largest change inside the region, a fraction of the display window (default: 0 with a mask; else 3/255,"
        " up to 10/255 in regions of a quarter of the image)",
    )


def _add_report(parser: ArgumentParser) -> None:
    """A page about the job."""
    report = parser.add_argument_group("report")
    report.add_argument(
        "--report", type=local_path, metavar="DIR", help="write DIR/report.html: what was done, and pictures"
    )
    report.add_argument(
        "--report-originals", action="store_true", help="show originals and exact differences in it (without: neither)"
    )
    report.add_argument(
        "--report-images", type=count, metavar="N", help="images with pictures, at most (default: 24; 0 to 200)"
    )


def _add_remove(parser: ArgumentParser) -> None:
    """Arguments of ``remove``."""
    _add_batch(parser)
    _add_report(parser)
    _add_identities(parser)
    parser.add_argument(
        "--require-signer", type=local_path, metavar="SIGNER.pub", help="accept only what this key signed"
    )
    parser.add_argument(
        "--sidecars",
        type=local_path,
        metavar="DIR",
        help="where to look for records of files that lost theirs; they are found by the pixels",
    )


def _add_gateway(parser: ArgumentParser) -> None:
    """Arguments of ``gateway``."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--protect", action="store_true", help="protect what comes in, for recipients (-r)")
    what.add_argument("--remove", action="store_true", help="restore what comes in, with private keys (-i)")
    what.add_argument("--status", type=local_path, metavar="DIR", help="tell what is in a queue, and end")
    what.add_argument(
        "--requeue", type=local_path, metavar="DIR", help="let a queue try its dead objects again, and end"
    )
    parser.add_argument("--json", action="store_true", help="with --status: machine-readable output")
    node = parser.add_argument_group("the node")
    node.add_argument("--queue", type=local_path, metavar="DIR", help="folder of the queue; made if missing")
    node.add_argument("--listen", metavar="[HOST:]PORT", help="where to listen (without HOST: this machine only)")
    node.add_argument("--aet", default="MIADMARK", metavar="TITLE", help="own AE title (default: MIADMARK)")
    node.add_argument(
        "--allow", action="append", default=[], metavar="TITLE", help="AE title that may call; may be repeated"
    )
    node.add_argument("--next", metavar="TITLE@HOST:PORT", help="where objects are sent")
    node.add_argument(
        "--pass-unsupported",
        action="store_true",
        help="send on UNPROTECTED what cannot be protected (with --remove: what is not protected)",
    )
    tls = parser.add_argument_group("TLS (PEM files, keys not encrypted)")
    tls.add_argument("--cert", type=local_path, metavar="FILE", help="own certificate for those who call")
    tls.add_argument("--key", type=local_path, metavar="FILE", help="its key")
    tls.add_argument("--ca", type=local_path, metavar="FILE", help="who signs the certificates that callers must show")
    tls.add_argument("--next-ca", type=local_path, metavar="FILE", help="call the next node by TLS; who signs for it")
    tls.add_argument("--next-cert", type=local_path, metavar="FILE", help="own certificate for the next node")
    tls.add_argument("--next-key", type=local_path, metavar="FILE", help="its key")
    bounds = parser.add_argument_group("bounds")
    bounds.add_argument("--limit", type=number, default=20.0, metavar="GIB", help="size of the queue (default: 20)")
    bounds.add_argument(
        "--reserve", type=number, default=1.0, metavar="GIB", help="free space that is left on the disk (default: 1)"
    )
    bounds.add_argument("--max-object", type=positive, default=512, metavar="MIB", help="largest object (default: 512)")
    bounds.add_argument(
        "--associations", type=positive, default=10, metavar="N", help="callers at a time (default: 10)"
    )
    bounds.add_argument(
        "--keep", type=number, default=24.0, metavar="HOURS", help="how long sent objects are kept (default: 24)"
    )
    bounds.add_argument("--jobs", type=positive, default=1, metavar="N", help="processes that work (default: 1)")
    protecting = parser.add_argument_group("with --protect")
    _add_choices(protecting)
    restoring = parser.add_argument_group("with --remove")
    _add_keys(restoring, "-i", "--identity", "IDENTITY.key", "private key; may be repeated")
    restoring.add_argument(
        "--require-signer", type=local_path, metavar="SIGNER.pub", help="accept only what this key signed"
    )
    parser.add_argument("--passphrase", action="store_true", help=f"protect for, or open by, a passphrase; {_ASKS}")
    _add_beside(parser)
    parser.set_defaults(record="inside", overwrite=True, ps315=[], label_maps="refuse")


def _add_preview(parser: ArgumentParser) -> None:
    """Arguments of ``preview``."""
    parser.add_argument("file", type=local_path, metavar="FILE", help="an image that is not protected")
    parser.add_argument(
        "-o", "--out", type=local_path, metavar="OUT.png", help="the picture (default: FILE-preview.png here)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing picture")
    parser.add_argument("--slice", type=positive, metavar="N", help="slice of a stack, from 1 (default: the middle)")
    parser.add_argument(
        "--preset", action="append", choices=PRESET_NAMES, help="only this one; may be repeated (default: all)"
    )
    parser.add_argument(
        "--style", action="append", choices=("visible", "invisible"), help="only this one (default: both)"
    )
    _add_drawing(parser)
    parser.set_defaults(label_maps="refuse")


def _add_doctor(parser: ArgumentParser) -> None:
    """Arguments of ``doctor``."""
    parser.add_argument(
        "folder",
        nargs="?",
        type=local_path,
        metavar="FOLDER",
        help="where jobs are to write: writing and locking is tried there",
    )
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def _add_evaluate(parser: ArgumentParser) -> None:
    """Arguments of ``evaluate``."""
    parser.add_argument(
        "folder",
        nargs="?",
        type=local_path,
        metavar="FOLDER",
        help="folder of the data sets, NAME/{train,val}/CLASS/*.jpg (default: $MIADMARK_DATA)",
    )
    parser.add_argument(
        "-o", "--out", type=local_path, required=True, metavar="OUT", help="output folder; made if missing"
    )
    parser.add_argument(
        "--dataset", action="append", default=[], metavar="NAME", help="only this data set; may be repeated"
    )
    parser.add_argument("--preset", choices=PRESET_NAMES, default="standard", help="strength (default: standard)")
    parser.add_argument("--style", choices=("visible", "invisible"), default="visible", help="default: visible")
    parser.add_argument("--section", choices=("val", "tune"), default="val", help="part of the images (default: val)")
    parser.add_argument("--limit", type=positive, metavar="N", help="the first N images of each class (default: all)")
    parser.add_argument(
        "--every",
        type=positive,
        default=1,
        metavar="N",
        help="one image in N, in order of class and name, so that classes keep their shares (default: all)",
    )
    parser.add_argument(
        "--bundle", type=local_path, metavar="DIR", help="bundle folder (default: the one of the package)"
    )
    parser.add_argument("--page-only", action="store_true", help="measure nothing: the page of the results in OUT")
    parser.add_argument("--report-originals", action="store_true", help="show originals on the page")


def _add_reseal(parser: ArgumentParser) -> None:
    """Arguments of ``grant`` and ``revoke``."""
    _add_batch(parser)
    _add_identities(parser)
    _add_keys(parser, "-r", "--recipient", "OTHER.pub", "public key or X.509 certificate; may be repeated")
    parser.add_argument(
        "--signer",
        type=local_path,
        metavar="SIGNER.key",
        help="sign the new records as the custodian (else: not signed)",
    )


def _add_told(parser: ArgumentParser) -> None:
    """Arguments of ``inspect`` and ``verify``."""
    parser.add_argument(
        "files",
        nargs="+",
        type=local_path,
        metavar="FILE",
        help="protected images, or folders that are walked; sidecars are found by themselves",
    )
    _add_filters(parser)
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def _add_batch(parser: ArgumentParser) -> None:
    """Sources and output folder."""
    parser.add_argument(
        "sources", nargs="+", type=place, metavar="SRC", help="files, or folders that are walked; s3:// URLs too"
    )
    parser.add_argument(
        "-o", "--out", type=place, required=True, metavar="OUT", help="output folder; made if missing; an s3:// URL too"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace existing outputs")
    parser.add_argument(
        "--jobs",
        type=positive,
        metavar="N",
        help=f"files at a time, each in a process of its own (default: one for each core, at most {MAX_DEFAULT_JOBS})",
    )
    parser.add_argument(
        "--file-timeout",
        type=positive,
        default=21600,
        metavar="SECONDS",
        help="give a file up that takes longer, and go on with the others (default: 21600, six hours; not with Ray)",
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with a job that was broken off: what is done and holds is left"
    )
    parser.add_argument(
        "--verify", action="store_true", help="with --resume: compare digests, not only sizes and times of change"
    )
    _add_filters(parser)
    parser.add_argument(
        "--skip-unsupported",
        action="store_true",
        help="leave out what is not supported instead of calling it failed (with remove: what is not protected)",
    )
    parser.add_argument(
        "--allow-mixed",
        action="store_true",
        help="let originals and protected files lie in one folder, which may be shared by mistake",
    )
    parser.add_argument(
        "--manifest",
        type=local_path,
        metavar="DIR",
        help="folder for manifest and lock (default: OUT.miadmark-job beside OUT; needed where OUT is a URL)",
    )
    said = parser.add_argument_group("what is said")
    said.add_argument("--dry-run", action="store_true", help="say what would be done, and write nothing")
    said.add_argument("--quiet", action="store_true", help="say nothing but what went wrong")
    said.add_argument("--json", action="store_true", help="machine-readable summary (docs/automation.md)")
    where = parser.add_argument_group("many machines (docs/scale-out.md)")
    where.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="processes here (default), or actors of a Ray cluster",
    )
    where.add_argument(
        "--address", metavar="ADDR", help="of the Ray cluster, HOST:PORT or auto (default: Ray is started for the job)"
    )


def _add_filters(parser: argparse._ActionsContainer) -> None:
    """Which files of folders are meant."""
    parser.add_argument(
        "--include",
        action="append",
        default=[],
        type=word,
        metavar="GLOB",
        help="of folders, only files that match, such as '*.dcm' or 'ct/**'; may be repeated",
    )
    parser.add_argument(
        "--exclude",
        action="append",
        default=[],
        type=word,
        metavar="GLOB",
        help="of folders, no files that match; may be repeated",
    )


def _add_identities(parser: ArgumentParser) -> None:
    """Whose keys open records."""
    _add_keys(parser, "-i", "--identity", "IDENTITY.key", "private key; may be repeated")
    parser.add_argument("--passphrase", action="store_true", help=f"open by passphrase; {_ASKS}")


def _add_keys(parser: argparse._ActionsContainer, short: str, long: str, name: str, text: str) -> None:
    """A list of key files."""
    parser.add_argument(short, long, action="append", default=[], type=local_path, metavar=name, help=text)

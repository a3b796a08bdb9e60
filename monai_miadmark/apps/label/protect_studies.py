# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""``python -m monai_miadmark.apps.label.protect_studies STUDIES``: protect what lies there in the clear."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from monai_miadmark.apps.label.key_folder import KEYS_ENV, KeyFolder, KeyFolderError
from monai_miadmark.apps.label.studies import Audit
from monai_miadmark.apps.label.vault import CHOICES, Vault, chosen_options
from monai_miadmark.errors import MIADMarkError
from monai_miadmark.files import atomic_write, safe_name, sidecar_exists
from monai_miadmark.marking import Marker
from monai_miadmark.options import PRESETS, ProtectOptions
from monai_miadmark.terminal import shown

__all__ = ["main", "protect_in_place"]

_FAILED, _USAGE = 1, 2


def main(arguments: Sequence[str] | None = None, load: Callable[[], Marker] | None = None) -> int:
    """Run the command.

    Args:
        arguments: default: ``sys.argv``.
        load: gives the marker; default: the bundle's.

    Returns:
        0 all files are protected, 1 some are not, 2 wrong usage.
    """
    parser = argparse.ArgumentParser("protect_studies", description="Protect the files of a studies folder in place.")
    parser.add_argument("studies", type=Path)
    parser.add_argument("--keys", type=Path, help=f"folder with the server's keys (default: ${KEYS_ENV})")
    parser.add_argument("--preset", choices=list(PRESETS), default="standard")
    parser.add_argument("--style", choices=["visible", "invisible"], default="visible")
    parser.add_argument("--modality", default="auto")
    parser.add_argument("--text", default="PROTECTED")
    parser.add_argument("--check", action="store_true", help="only list the files that are not protected")
    given = parser.parse_args(arguments)
    if not given.studies.is_dir():
        return _said(f"{given.studies}: no such folder", _USAGE)
    unprotected = Audit().unprotected(given.studies)
    if given.check:
        for path in unprotected:
            print(shown(path))
        return _FAILED if unprotected else 0
    try:
        keys = KeyFolder(given.keys) if given.keys else KeyFolder.from_environment()
        options = chosen_options(ProtectOptions(), {name: getattr(given, name) for name in CHOICES})
    except (KeyFolderError, ValueError) as error:
        return _said(str(error), _USAGE)
    vault = Vault(keys, load or _bundle_marker, options)
    failed = 0
    for path in unprotected:
        try:
            protect_in_place(path, vault)
        except (MIADMarkError, KeyFolderError, OSError, ValueError) as error:
            failed += 1
            text = error.strerror if isinstance(error, OSError) else str(error)
            _said(f"{path}: left as it is: {type(error).__name__}: {text}", _FAILED)
    return _said(f"protected {len(unprotected) - failed} of {len(unprotected)} file(s)", _FAILED if failed else 0)


def protect_in_place(path: Path, vault: Vault) -> Path:
    """Put the protected file in the place of a plain one, in one step; the plain one is gone then.

    Returns:
        The protected file: the same path, but ``.png`` for JPEG files.

    Raises:
        MIADMarkError: it cannot be protected; it is left as it is.
        OSError: reading or writing failed, or the name is taken; it is left as it is.
    """
    if sidecar_exists(path):
        raise FileExistsError(0, "a record lies beside it that does not belong to it", str(path))
    before = path.stat()
    data = path.read_bytes()
    protected = vault.protect(data, path.name)
    target = path.with_name(safe_name(protected.name))
    now = path.stat()
    if (now.st_ino, now.st_size, now.st_mtime_ns) != (before.st_ino, before.st_size, before.st_mtime_ns):
        raise OSError(0, "the file was changed meanwhile", str(path))
    atomic_write(target, protected.data, overwrite=target == path, mode=before.st_mode & 0o777)
    if target != path:
        path.unlink()
    return target


def _bundle_marker() -> Marker:
    """The default marker; PyTorch is imported here."""
    from monai_miadmark.marker import load_marker

    return load_marker()


def _said(text: str, status: int) -> int:
    """Tell a person, and give the status back."""
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    print(f"protect_studies: {shown}", file=sys.stderr)
    return status


if __name__ == "__main__":
    raise SystemExit(main())

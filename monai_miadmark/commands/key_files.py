# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""``keygen``, and key files that command lines name."""

from __future__ import annotations

import os
import warnings
from argparse import Namespace
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from monai_miadmark import files, keys
from monai_miadmark.argument_types import did_you_mean
from monai_miadmark.arguments import UsageError
from monai_miadmark.atomic import make_folders
from monai_miadmark.commands.console import FAILED, ask_passphrase, say, shown
from monai_miadmark.errors import MIADMarkError
from monai_miadmark.key_facts import readable_by_others, weakness
from monai_miadmark.names import PASSPHRASE_ENV
from monai_miadmark.tasks import KeyFile

__all__ = ["checked", "keygen", "load_private", "new_passphrase", "opening_of", "pubkey", "recipients_of", "unlocked"]

_Key = TypeVar("_Key")


def keygen(options: Namespace) -> int:
    """Make a key pair."""
    try:
        name = files.safe_name(options.name)
    except ValueError as error:
        raise UsageError(f"{shown(options.name)} is not a plain name", "name a folder with --dir") from error
    kind = options.sign_with or ("ed25519" if options.sign else None)
    passphrase = ask_passphrase(f"Passphrase for {name}.key: ", repeat=True) if options.passphrase else None
    _warn_of_weakness(passphrase)
    key = keys.generate_signer(kind) if kind else keys.generate_identity(options.kem or "hybrid")
    try:
        make_folders(options.dir)
        paths = keys.save_key_pair(key, options.dir / name, passphrase)
    except FileExistsError as error:
        say(f"{shown(error.filename)} exists and is left as it is: choose another name")
        return FAILED
    except OSError as error:
        say(f"{shown(error.filename or options.dir)}: {error.strerror}")
        return FAILED
    except ValueError as error:
        raise UsageError(str(error), "give a passphrase that is not empty") from error
    private, public = (shown(path) for path in paths)
    say(f"wrote {private} (keep it secret and safe) and {public} ({key.kind} {key.key_id.hex()})")
    return 0


def pubkey(options: Namespace) -> int:
    """Print the public key that belongs to a private one, or write it."""
    locked = checked(keys.needs_passphrase, options.file)
    passphrase = ask_passphrase(f"Passphrase of {shown(options.file)}: ") if locked else None
    key = checked(lambda path: load_private(path, passphrase), options.file)
    try:
        if isinstance(key, keys.Signer):
            _give(key.verifier.public_pem(), options.out, lambda path: keys.save_verifier(key.verifier, path))
        else:
            _give(key.recipient.public_pem(), options.out, lambda path: keys.save_recipient(key.recipient, path))
    except FileExistsError:
        say(f"{shown(options.out)} exists and is left as it is: choose another name")
        return FAILED
    except OSError as error:
        say(f"{shown(options.out)}: {error.strerror}")
        return FAILED
    if options.out is not None:
        say(f"wrote {shown(options.out)} ({key.kind} {key.key_id.hex()})")
    return 0


def _warn_of_weakness(passphrase: str | None) -> None:
    """Say that a new passphrase is weak."""
    if passphrase and (why := weakness(passphrase)) is not None:
        say(f"warning: a weak passphrase: {why}")


def new_passphrase(prompt: str) -> str:
    """A passphrase that is chosen now."""
    passphrase = ask_passphrase(prompt, repeat=True)
    checked(keys.PassphraseIdentity, passphrase)  # an empty one is wrong usage
    _warn_of_weakness(passphrase)
    return passphrase


def _give(pem: bytes, out: Path | None, save: Callable[[Path], None]) -> None:
    """Print a public key, or write it where it was asked for."""
    if out is None:
        print(pem.decode("ascii"), end="")
    else:
        save(out)


def load_private(path: Path, passphrase: str | None) -> keys.HpkeIdentity | keys.CmsIdentity | keys.Signer:
    """A private key of either kind, of encryption or of signing; raises as :func:`keys.load_identity` does."""
    try:
        return keys.load_identity(path, passphrase)
    except ValueError:
        with suppress(ValueError):
            return keys.load_signer(path, passphrase)
        raise


def checked(load: Callable[[Any], _Key], argument: Any) -> _Key:
    """Use something that the command line named; if that fails, the usage is wrong."""
    try:
        return load(argument)
    except OSError as error:
        hint = f"check the path{_meant(argument)}" if isinstance(argument, Path) else "check the path"
        raise UsageError(f"{shown(argument)}: {error.strerror or 'not readable'}", hint) from error
    except (MIADMarkError, ValueError) as error:
        raise UsageError(shown(error), _key_hint(str(error))) from error


def _meant(path: Path) -> str:
    """Which file may have been meant by a path that leads nowhere."""
    with suppress(OSError):
        names = [found.name for found in path.parent.iterdir() if found.suffix in (".pub", ".key", ".pem", ".crt")]
        for name in (f"{path.name}.pub", f"{path.name}.key"):
            if name in names:
                return f"; did you mean {shown(path.with_name(name))}?"
        return shown(did_you_mean(path.name, names))
    return ""


def _key_hint(reason: str) -> str:
    """What to do about a key that cannot be used."""
    if "wrong passphrase" in reason:
        given = f"the one in {PASSPHRASE_ENV} was taken" if PASSPHRASE_ENV in os.environ else "type it again"
        return f"this is the passphrase that the key file was made with, not that of an image; {given}"
    if "holds a private key" in reason:
        return "miadmark pubkey NAME.key -o NAME.pub writes the public file of a private one"
    if "passphrase" in reason:
        return "give a passphrase that is not empty"
    return "miadmark inspect FILE says what a key file is; NAME.pub protects, NAME.key restores"


def unlocked(path: Path, load: Callable[[Path, str | None], object]) -> KeyFile:
    """A private key file with its passphrase, if it needs one; read once, to see that it can be."""
    locked = checked(keys.needs_passphrase, path)
    if readable_by_others(path) and keys.holds_private_key(path):
        say(f"warning: {shown(path)} can be read by others on this machine: chmod 600 {shown(path)}")
    passphrase = ask_passphrase(f"Passphrase of {shown(path)}: ") if locked else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", keys.KeyFileWarning)  # it has been said
        checked(lambda given: load(given, passphrase), path)
    return KeyFile(path, passphrase)


def recipients_of(options: Namespace) -> list[keys.Recipient]:
    """Public keys of ``-r``, each once."""
    found: dict[bytes, keys.Recipient] = {}
    for path in options.recipient:
        recipient = checked(keys.load_recipient, path)
        found.setdefault(recipient.key_id, recipient)
    return list(found.values())


def opening_of(options: Namespace) -> dict[str, Any]:
    """What tasks that open records have in common: private keys of ``-i``, and the passphrase."""
    identities = tuple(unlocked(path, keys.load_identity) for path in options.identity)
    passphrase = ask_passphrase("Passphrase: ") if options.passphrase else None
    if passphrase is not None:
        checked(keys.PassphraseIdentity, passphrase)
    if not identities and passphrase is None:
        raise UsageError("no key is given", "name a private key with -i IDENTITY.key, or use --passphrase")
    return {"identities": identities, "passphrase": passphrase, "overwrite": options.overwrite}

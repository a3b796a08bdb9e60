# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""What the app is told: keys and choices from the environment, because a packaged app is started without arguments."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai_miadmark.children import PASSPHRASE_ENV
from monai_miadmark.keys import (
    KeyIdentity,
    Recipient,
    Signer,
    Verifier,
    load_identity,
    load_recipient,
    load_signer,
    load_verifier,
    needs_passphrase,
)
from monai_miadmark.options import ProtectOptions

__all__ = [
    "IDENTITY_ENV",
    "RECIPIENTS_ENV",
    "REQUIRE_SIGNER_ENV",
    "RULES_ENV",
    "SIGNER_ENV",
    "VERBS",
    "VERB_ENV",
    "ProtectSettings",
    "RestoreSettings",
    "SettingsError",
    "protect_settings",
    "restore_settings",
    "series_rules",
]

VERBS = ("protect", "remove")
VERB_ENV = "MIADMARK_VERB"
"""One of :data:`VERBS`, where the command line names none."""
IDENTITY_ENV = "MIADMARK_IDENTITY"
"""Private key file that restores."""
RECIPIENTS_ENV = "MIADMARK_RECIPIENTS"
"""Public key file or certificate to protect for, or a folder with nothing else in it that ends in .pub or .pem."""
SIGNER_ENV = "MIADMARK_SIGNER"
"""Private signature key file of the custodian, to sign what is protected."""
REQUIRE_SIGNER_ENV = "MIADMARK_REQUIRE_SIGNER"
"""Public signature key file of the custodian who must have signed what is restored."""
RULES_ENV = "MIADMARK_SERIES_RULES"
"""File with rules of ``DICOMSeriesSelectorOperator``; without it all series are taken."""

_CHOICES = ("preset", "style", "text", "modality")
_MAX_RULES_BYTES = 1 << 20


class SettingsError(Exception):
    """The app cannot start as it was told to. Names files and variables, quotes nothing of a key."""


@dataclass(frozen=True)
class RestoreSettings:
    """What restoring needs: keys to try, and the custodian who must have signed."""

    identities: tuple[KeyIdentity, ...] = field(repr=False)
    require_signer: Verifier | None = None


@dataclass(frozen=True)
class ProtectSettings:
    """What protecting needs."""

    recipients: tuple[Recipient, ...]
    options: ProtectOptions
    signer: Signer | None = field(default=None, repr=False)


def restore_settings(environment: Mapping[str, str], package: Path) -> RestoreSettings:
    """Read :data:`IDENTITY_ENV` and :data:`REQUIRE_SIGNER_ENV`.

    Args:
        environment: variables.
        package: folder of the app; keys must not come with it, since whoever has the package would have them.

    Raises:
        SettingsError: the identity is missing, inside the package, or no private key file; or the passphrase is wrong.
    """
    path = _outside(environment, IDENTITY_ENV, package)
    if path is None:
        raise SettingsError(f"set {IDENTITY_ENV} to the private key file that restores")
    verifier = _outside(environment, REQUIRE_SIGNER_ENV, package)
    try:
        identity = load_identity(path, _passphrase(path, environment))
        return RestoreSettings((identity,), None if verifier is None else load_verifier(verifier))
    except (OSError, ValueError) as error:
        raise _unusable(error) from None


def protect_settings(environment: Mapping[str, str], package: Path) -> ProtectSettings:
    """Read :data:`RECIPIENTS_ENV`, :data:`SIGNER_ENV` and ``MIADMARK_PRESET``, ``_STYLE``, ``_TEXT``, ``_MODALITY``.

    Arguments as of :func:`restore_settings`.

    Raises:
        SettingsError: there is no recipient, a file is no key file, or a choice is none.
    """
    path = _outside(environment, RECIPIENTS_ENV, package)
    if path is None:
        raise SettingsError(f"set {RECIPIENTS_ENV} to a public key file, or to a folder of such files")
    signer = _outside(environment, SIGNER_ENV, package)
    variables = {name: f"MIADMARK_{name.upper()}" for name in _CHOICES}
    chosen: dict[str, Any] = {name: environment[v] for name, v in variables.items() if environment.get(v)}
    try:
        files = sorted(p for p in path.iterdir() if p.suffix in (".pub", ".pem")) if path.is_dir() else [path]
        recipients: dict[bytes, Recipient] = {}
        for file in files:
            recipient = load_recipient(file)
            recipients.setdefault(recipient.key_id, recipient)
        if not recipients:
            raise SettingsError(f"{RECIPIENTS_ENV}: {path} holds no public key (NAME.pub, NAME.pem)")
        loaded = None if signer is None else load_signer(signer, _passphrase(signer, environment))
        return ProtectSettings(tuple(recipients.values()), ProtectOptions(**chosen), loaded)
    except (OSError, ValueError) as error:
        raise _unusable(error) from None


def series_rules(environment: Mapping[str, str]) -> str | None:
    """The text of the file that :data:`RULES_ENV` names.

    Raises:
        SettingsError: it cannot be read, or is not JSON with ``selections``.
    """
    named = environment.get(RULES_ENV)
    if not named:
        return None
    try:
        with open(named, "rb") as stream:
            data = stream.read(_MAX_RULES_BYTES + 1)
        rules = json.loads(data) if len(data) <= _MAX_RULES_BYTES else None
    except OSError as error:
        raise _unusable(error) from None
    except (ValueError, RecursionError):
        rules = None
    if not isinstance(rules, dict) or not rules.get("selections"):
        raise SettingsError(f"{RULES_ENV}: {named} is not a JSON object with selections, or is larger than 1 MiB")
    return data.decode()


def _outside(environment: Mapping[str, str], variable: str, package: Path) -> Path | None:
    """The path that a variable names, which must lie outside the package."""
    named = environment.get(variable)
    if not named:
        return None
    # Links count for what they lead to: orchestrators mount secrets as links.
    path = Path(os.path.realpath(named))
    if path.is_relative_to(package.resolve()):
        raise SettingsError(f"{variable}: {named} lies inside the app's package, keys must be mounted from outside")
    return path


def _passphrase(path: Path, environment: Mapping[str, str]) -> str | None:
    """The passphrase for a private key file, where it is encrypted."""
    return environment.get(PASSPHRASE_ENV) if needs_passphrase(path) else None


def _unusable(error: OSError | ValueError) -> SettingsError:
    """What is wrong with a file, in words that quote nothing of it."""
    if isinstance(error, OSError):
        return SettingsError(f"{error.filename}: {error.strerror or 'cannot be read'}")
    return SettingsError(str(error))

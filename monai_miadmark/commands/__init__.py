# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""What each verb of the command line does; a verb's module is imported when the verb is asked for, not before."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from importlib import import_module

__all__ = ["VERBS"]

_MODULES = {
    "keygen": "key_files",
    "pubkey": "key_files",
    "protect": "jobs",
    "remove": "jobs",
    "inspect": "telling",
    "verify": "telling",
    "grant": "jobs",
    "revoke": "jobs",
    "preview": "tools",
    "doctor": "tools",
    "evaluate": "tools",
    "completion": "tools",
    "gateway": "nodes",
}
"""Where the function of a verb is, which has the verb's name."""


def _verb(name: str) -> Callable[[Namespace], int]:
    """The function of a verb, which is looked up when it is called: ``--help`` needs none of what it imports."""

    def run(options: Namespace) -> int:
        status: int = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)(options)
        return status

    return run


VERBS: dict[str, Callable[[Namespace], int]] = {name: _verb(name) for name in _MODULES}
"""Functions by verb; they take what the command line said and return the exit status."""

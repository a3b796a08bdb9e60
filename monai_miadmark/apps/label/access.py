# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Who asks, and which keys work for them."""

from __future__ import annotations

import os
from collections.abc import Collection
from contextvars import ContextVar
from dataclasses import dataclass

__all__ = ["ROLE_ENV", "Caller", "current_caller", "usable_key_ids"]

ROLE_ENV = "MIADMARK_LABEL_ROLE"
"""Environment variable with the name of the role that restores; default ``miadmark-restore``."""

_DEFAULT_ROLE = "miadmark-restore"


@dataclass(frozen=True)
class Caller:
    """An authenticated user.

    Attributes:
        name: as the token has it.
        roles: as the token has them.
    """

    name: str
    roles: frozenset[str]


current_caller: ContextVar[Caller | None] = ContextVar("current_caller", default=None)
"""Who sent the request that is being answered; ``None`` for nobody who could prove it, also outside requests."""


def usable_key_ids(caller: Caller | None, ids: Collection[str]) -> list[str]:
    """Those of ``ids`` that work for a caller.

    The role (:data:`ROLE_ENV`) stands for all keys, ``ROLE:ID`` for the key with that id.
    """
    if caller is None:
        return []
    role = os.environ.get(ROLE_ENV) or _DEFAULT_ROLE
    return [key_id for key_id in ids if role in caller.roles or f"{role}:{key_id}" in caller.roles]

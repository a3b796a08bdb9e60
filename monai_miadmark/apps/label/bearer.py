# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Bearer tokens of MONAI Label 0.8.5, whose own check refuses every token.

It calls ``jwt.decode`` without ``algorithms``, which PyJWT 2 does not allow. :func:`install` puts :func:`from_token` in
its place; MONAI Label looks the name up at every call.
"""

from __future__ import annotations

import logging
from typing import Any

import jwt
from monailabel.config import settings
from monailabel.endpoints.user import auth

from monai_miadmark.apps.label.access import Caller

__all__ = ["caller_of", "from_token", "install", "installed"]

_logger = logging.getLogger(__name__)


def from_token(token: str) -> auth.User:
    """The user of a token that the realm signed with RS256 and that has not expired.

    Raises:
        jwt.InvalidTokenError: it is not such a token.
        requests.RequestException: the realm does not answer.
    """
    if not settings.MONAI_LABEL_AUTH_ENABLE:
        return auth.DEFAULT_USER
    payload = jwt.decode(
        token,
        auth.get_public_key(settings.MONAI_LABEL_AUTH_REALM_URI),
        # Never what the token itself says: ``none``, or an HMAC with the public key, would let anyone in.
        algorithms=["RS256"],
        options={"verify_aud": False, "require": ["exp"]},
    )
    roles: Any = payload
    for name in settings.MONAI_LABEL_AUTH_TOKEN_ROLES.split("#"):
        roles = roles.get(name) if isinstance(roles, dict) else None
    return auth.User(
        username=str(payload.get(settings.MONAI_LABEL_AUTH_TOKEN_USERNAME) or ""),
        email=_text(payload.get(settings.MONAI_LABEL_AUTH_TOKEN_EMAIL)),
        name=_text(payload.get(settings.MONAI_LABEL_AUTH_TOKEN_NAME)),
        roles=[role for role in roles if isinstance(role, str)] if isinstance(roles, list) else [],
    )


def caller_of(token: str) -> Caller | None:
    """The user of a token; ``None`` where authentication is off: nobody can prove then to be somebody."""
    if not settings.MONAI_LABEL_AUTH_ENABLE:
        return None
    try:
        user = from_token(token)
    except jwt.InvalidTokenError:
        return None  # the endpoint says 401
    except Exception as error:  # the realm is not reached, or answers nonsense: only that is told
        _logger.warning("a token could not be checked: %s", type(error).__name__)
        return None
    return Caller(user.username, frozenset(user.roles))


def install() -> None:
    """Replace MONAI Label's check."""
    auth.from_token = from_token


def installed() -> bool:
    """Whether :func:`install` was called."""
    return auth.from_token is from_token


def _text(value: Any) -> str | None:
    """A text, if it is one."""
    return value if isinstance(value, str) else None

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Errors of this package as HTTP answers."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import HTTPException

from monai_miadmark.apps.label.dicomweb import RemoteError
from monai_miadmark.apps.label.key_folder import KeyFolderError
from monai_miadmark.errors import MIADMarkError, UnsupportedImageError, WrongKeyError

__all__ = ["http_errors"]

_logger = logging.getLogger(__name__)


@contextmanager
def http_errors() -> Iterator[None]:
    """Turn errors into answers: 415 unsupported, 403 no key, 409 not protected or tampered, 400 misuse, 502 remote."""
    try:
        yield
    except UnsupportedImageError as error:
        raise HTTPException(415, f"{type(error).__name__}: {error}") from None
    except WrongKeyError:
        raise HTTPException(403, "WrongKeyError: no key that you may use opens this image") from None
    except MIADMarkError as error:
        raise HTTPException(409, f"{type(error).__name__}: {error}") from None
    except FileExistsError:
        text = "an image with this id exists and is never replaced; an administrator can delete it"
        raise HTTPException(409, text) from None
    except RemoteError as error:
        _logger.warning("%s", error)
        raise HTTPException(502, str(error)) from None
    except KeyFolderError as error:
        _logger.error("the key folder cannot be used: %s", error)
        raise HTTPException(500, "the server's keys cannot be used; its log says why") from None
    except ValueError as error:
        raise HTTPException(400, str(error)) from None

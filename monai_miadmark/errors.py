# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""What a caller may want to catch. Messages never hold a key, a pixel or a patient value."""

import errno

__all__ = [
    "LabelMapError",
    "MIADMarkError",
    "NoEffectError",
    "NotProtectedError",
    "OutOfMemoryError",
    "SidecarsDifferError",
    "SignatureError",
    "TamperedError",
    "TooLargeError",
    "UnsupportedImageError",
    "WrongKeyError",
    "check_memory",
]

_SIGNS = {"error": "Error -4 while", "ZstdError": "llocation error", "OSError": "decoder error -9"}
"""How zlib, Zstandard and Pillow say it: name of the class, part of the message."""


class MIADMarkError(Exception):
    """Base of all errors of this package that are not plain wrong arguments."""


class UnsupportedImageError(MIADMarkError):
    """The image is of a kind that cannot be protected and restored exactly; nothing was written."""


class LabelMapError(UnsupportedImageError):
    """The file holds labels (a segmentation or a mask), not an image; nothing was written."""


class TooLargeError(UnsupportedImageError):
    """The image takes more memory when decoded than is allowed here, or than a file of its size should."""


class OutOfMemoryError(MIADMarkError):
    """There was not enough memory to work on the file; that says nothing about the file, and nothing was written."""


class NoEffectError(MIADMarkError):
    """No effect can be expected of the mark, and it was demanded (``expect_effect``); nothing was written."""


class NotProtectedError(MIADMarkError):
    """No recovery record is in the file or beside it: never protected, or the record was stripped."""


def check_memory(error: BaseException) -> None:
    """Raise OutOfMemoryError if an error says, itself or by its causes, that memory ran out.

    For places that take every error for a damaged file: libraries have several ways to say it.
    """
    seen: BaseException | None = error
    for _ in range(32):
        if seen is None:
            return
        sign = _SIGNS.get(type(seen).__name__)
        short = isinstance(seen, OSError) and seen.errno == errno.ENOMEM
        if isinstance(seen, MemoryError | OutOfMemoryError) or short or (sign is not None and sign in str(seen)):
            raise OutOfMemoryError("there is not enough memory to work on this file") from error
        seen = seen.__cause__ or seen.__context__


class WrongKeyError(MIADMarkError):
    """None of the identities given can open the recovery record."""


class TamperedError(MIADMarkError):
    """Header, record or pixels are not what was protected (changed, truncated or of another file)."""


class SidecarsDifferError(TamperedError):
    """Several records fit the pixels and restore different files; the message names them."""


class SignatureError(TamperedError):
    """The custodian's signature is missing, not valid, or not by the signer that was demanded."""

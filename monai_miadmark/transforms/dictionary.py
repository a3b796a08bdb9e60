# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The dictionary forms of the transforms in :mod:`monai_miadmark.transforms.marks`."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from monai_miadmark.errors import UnsupportedImageError
from monai_miadmark.keys import KeyIdentity, Recipient, Signer, Verifier
from monai_miadmark.marking import Marker
from monai_miadmark.options import Preset, ProtectOptions
from monai_miadmark.transforms.keyring import PASSPHRASE_ENV, KeySource
from monai_miadmark.transforms.marks import ProtectWithMIADMark, RemoveMIADMark

__all__ = [
    "ProtectWithMIADMarkD",
    "ProtectWithMIADMarkDict",
    "ProtectWithMIADMarkd",
    "RemoveMIADMarkD",
    "RemoveMIADMarkDict",
    "RemoveMIADMarkd",
]


class ProtectWithMIADMarkd(MapTransform):
    """Dictionary form of :class:`ProtectWithMIADMark`.

    Args:
        keys: images to protect.
        recipients: see :class:`ProtectWithMIADMark`.
        options: see there.
        mask_key: item with the region mask of the images; for all of ``keys``.
        record_key_postfix: the record also becomes the item ``{key}_{record_key_postfix}`` (bytes, a list of them once
            collated), and images keep their container. ``None``: it is in the meta data only, and images become
            MetaTensors.
        allow_missing_keys: do not raise for keys that are not there.
        signer: this and what follows: see :class:`ProtectWithMIADMark`.
        marker: see there.
        device: see there.
        window: see there.
        channels: see there.
        axes: see there.
        passphrase_env: see there.
        preset: see there.
        style: see there.
        text: see there.
        logo: see there.
        region: see there.
        region_budget: see there.
        modality: see there.
        expect_effect: see there.
    """

    backend = ProtectWithMIADMark.backend

    def __init__(
        self,
        keys: KeysCollection,
        recipients: KeySource[Recipient] | Sequence[KeySource[Recipient]],
        options: ProtectOptions | None = None,
        *,
        mask_key: Hashable | None = None,
        record_key_postfix: str | None = "miadmark",
        allow_missing_keys: bool = False,
        signer: KeySource[Signer] | None = None,
        marker: Marker | None = None,
        device: str | torch.device | None = None,
        window: tuple[float, float] | Sequence[tuple[float, float]] | None = None,
        channels: str = "auto",
        axes: str = "xy",
        passphrase_env: str = PASSPHRASE_ENV,
        preset: str | Preset | None = None,
        style: Literal["visible", "invisible"] | None = None,
        text: str | None = None,
        logo: str | os.PathLike[str] | None = None,
        region: Literal["auto", "none"] | None = None,
        region_budget: float | None = None,
        modality: str | None = None,
        expect_effect: bool | None = None,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.protector = ProtectWithMIADMark(
            recipients,
            options,
            signer=signer,
            marker=marker,
            device=device,
            window=window,
            channels=channels,
            axes=axes,
            passphrase_env=passphrase_env,
            preset=preset,
            style=style,
            text=text,
            logo=logo,
            region=region,
            region_budget=region_budget,
            modality=modality,
            expect_effect=expect_effect,
        )
        self.mask_key = mask_key
        self.record_key_postfix = record_key_postfix

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """A copy of ``data`` with protected images. Raises as :meth:`ProtectWithMIADMark.__call__` does."""
        out = dict(data)
        mask = None if self.mask_key is None else out[self.mask_key]
        for key in self.key_iterator(out):
            record_key = f"{key}_{self.record_key_postfix}"
            if self.record_key_postfix is None:
                out[key] = self.protector(out[key], mask)
            elif record_key in out:
                raise UnsupportedImageError(f"{key!r} is protected already, or {record_key!r} means something else")
            else:
                out[key], out[record_key] = self.protector.protect(out[key], mask)
        return out


class RemoveMIADMarkd(MapTransform):
    """Dictionary form of :class:`RemoveMIADMark`.

    Args:
        keys: images to restore.
        identities: see :class:`RemoveMIADMark`.
        require_signer: see there.
        record_key_postfix: the record is looked for in the item ``{key}_{record_key_postfix}``, which is taken out of
            the result, then in the meta data. ``None``: in the meta data only.
        allow_missing_keys: do not raise for keys that are not there.
        axes: see :class:`RemoveMIADMark`.
        passphrase_env: see there.
    """

    backend = RemoveMIADMark.backend

    def __init__(
        self,
        keys: KeysCollection,
        identities: KeySource[KeyIdentity] | Sequence[KeySource[KeyIdentity]],
        require_signer: KeySource[Verifier] | None = None,
        *,
        record_key_postfix: str | None = "miadmark",
        allow_missing_keys: bool = False,
        axes: str = "xy",
        passphrase_env: str = PASSPHRASE_ENV,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.remover = RemoveMIADMark(identities, require_signer, axes=axes, passphrase_env=passphrase_env)
        self.record_key_postfix = record_key_postfix

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """A copy of ``data`` with restored images. Raises as :meth:`RemoveMIADMark.__call__` does."""
        out = dict(data)
        for key in self.key_iterator(out):
            record = None if self.record_key_postfix is None else out.pop(f"{key}_{self.record_key_postfix}", None)
            out[key] = self.remover(out[key], record)
        return out


ProtectWithMIADMarkD = ProtectWithMIADMarkDict = ProtectWithMIADMarkd
RemoveMIADMarkD = RemoveMIADMarkDict = RemoveMIADMarkd

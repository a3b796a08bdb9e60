# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Protect and restore images inside MONAI pipelines, bit for bit.

None of these transforms is a MONAI ``InvertibleTransform``: removal happens elsewhere, later and by someone else, while
the trace stack matches transforms by ``id``, is dropped by many operations, and gives wrong pixels without a word when
something else lies on top of it. The sealed record travels beside the image instead, and digests tell whether the
voxels are still the ones that it belongs to. Nothing is ever pushed to ``applied_operations``.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from monai.utils import TransformBackends
from numpy.typing import NDArray

from monai_miadmark.errors import TamperedError, UnsupportedImageError
from monai_miadmark.image import STORED_DTYPES, Bounds, StoredImage, Window
from monai_miadmark.keys import KeyIdentity, Recipient, Signer, Verifier
from monai_miadmark.marker import load_marker
from monai_miadmark.marking import Marker
from monai_miadmark.options import ProtectOptions
from monai_miadmark.pipeline import protect_image, restore_image
from monai_miadmark.transforms.keyring import (
    PASSPHRASE_ENV,
    KeySource,
    identity_ring,
    recipient_ring,
    signer_ring,
    verifier_ring,
)
from monai_miadmark.transforms.layout import Layout, layout_of
from monai_miadmark.transforms.metadata import LAYOUT_KEY, RECORD_KEY, record_in
from monai_miadmark.transforms.shown import CHANNELS, window_of

__all__ = [
    "ProtectWithMIADMark",
    "ProtectWithMIADMarkD",
    "ProtectWithMIADMarkDict",
    "ProtectWithMIADMarkd",
    "RemoveMIADMark",
    "RemoveMIADMarkD",
    "RemoveMIADMarkDict",
    "RemoveMIADMarkd",
]

_AXES = ("xy", "ij")

ImageT = TypeVar("ImageT", bound=NDArray[Any] | torch.Tensor)


@functools.cache
def default_marker(device: str | None) -> Marker:
    """The bundle's marker, loaded once per process."""
    return load_marker(device=device)


class ProtectWithMIADMark(Transform):
    """Mark an image for recipients, so that models that nobody authorized err on it and recipients can undo it.

    Exact for samples of type uint8, int8, uint16, int16, uint32, int32 and float32. A volume is marked slice by slice
    along its last axis. Every call draws a fresh key, so two calls on one image give two different marks.

    Args:
        recipients: who may restore: paths of public key files or certificates, or recipients.
        options: the custodian's choices; default: those of :class:`~monai_miadmark.options.ProtectOptions`.
        signer: the custodian's private signature key: path or signer.
        marker: networks that make the mark; pickled with the transform. Default: the bundle's, loaded at first use,
            once per process, never pickled; on the CPU in DataLoader workers, else on a GPU if there is one.
        window: values shown as black and white, for all channels, or a pair for each. Default: the window of the file,
            as the meta data or the header of the file that they name have it (DICOM VOI, NIfTI ``cal_min`` and
            ``cal_max``), else that of the modality (CT: -160 to 240 HU; 8-bit images: 0 to 255), else the 0.5th and
            99.5th percentile. A window that the values do not fit, because they were scaled since or because it never
            was one, is not trusted: protect before scaling intensities, or give a window.
        channels: what several channels are: ``contrasts`` (each has its own window and budget), ``color`` (one window
            for all three, so that hues stay) or ``auto``: what the meta data say, else colors if they are three,
            ``uint8``, or whole numbers from 0 to 255 or shares from 0 to 1 with like ranges.
        axes: ``xy`` (default) for arrays whose first spatial axis is x, as all of MONAI's readers give them: the image
            is turned the way a viewer shows it before it is marked, so that logos are upright, and turned back
            after; where a reader found an orientation, directions follow from the MetaTensor's affine. ``ij`` for
            arrays that are rows by columns, as displayed.
        passphrase_env: environment variable with the passphrase of an encrypted ``signer`` file.
        fields: instead of ``options``, or to change some of them: ``preset``, ``style``, ``text``, ``logo``,
            ``region`` (``auto`` or ``none``; masks are given per image), ``region_budget``.

    Raises:
        ValueError: wrong options.
        TypeError: not keys or paths.
    """

    backend = [TransformBackends.NUMPY]  # noqa: RUF012 - MONAI's name and form

    def __init__(
        self,
        recipients: KeySource[Recipient] | Sequence[KeySource[Recipient]],
        options: ProtectOptions | None = None,
        *,
        signer: KeySource[Signer] | None = None,
        marker: Marker | None = None,
        window: tuple[float, float] | Sequence[tuple[float, float]] | None = None,
        channels: str = "auto",
        axes: str = "xy",
        passphrase_env: str = PASSPHRASE_ENV,
        **fields: Any,
    ) -> None:
        self.recipients = recipient_ring(recipients)
        self.options = replace(options or ProtectOptions(), **fields)
        if not isinstance(self.options.region, str):
            raise ValueError("a mask belongs to one image: give it with the image (mask=, mask_key=), not as an option")
        self.signer = None if signer is None else signer_ring(signer, passphrase_env)
        self.marker = marker
        self.window = _given_window(window)
        if channels not in CHANNELS:
            raise ValueError(f"channels must be one of {', '.join(CHANNELS)}, not {channels!r}")
        self.channels = channels
        self.axes = _checked_axes(axes)

    def __call__(self, img: NDArray[Any] | torch.Tensor, mask: NDArray[Any] | torch.Tensor | None = None) -> MetaTensor:
        """Protect one image.

        Args:
            img: ``(C, H, W)`` or ``(C, H, W, D)``, 1 to 4 channels; it is not changed.
            mask: ``(H, W[, D])`` or ``(1, H, W[, D])``, the image's spatial shape: what is not zero stays
                bit-identical (or within ``region_budget``).

        Returns:
            Always a MetaTensor, so that the record can travel: ``meta["miadmark_record"]`` (bytes) is the sealed
            record, ``meta["miadmark_layout"]`` tells how the array lies on a display. Meta data of a MetaTensor are
            kept. It does not require gradients.

        Raises:
            UnsupportedImageError: type or shape that cannot be restored exactly, or protected already.
            ValueError: a batch, a mask that does not fit, or lazy operations that are still pending.
        """
        protected, record = self.protect(img, mask)
        out = protected if isinstance(protected, MetaTensor) else MetaTensor(torch.as_tensor(protected))
        out.meta.update({RECORD_KEY: record, LAYOUT_KEY: str(layout_of(self.axes, _meta(img)))})
        return out

    def protect(self, img: ImageT, mask: NDArray[Any] | torch.Tensor | None = None) -> tuple[ImageT, bytes]:
        """As calling the transform, but the protected image comes in the same container as ``img``, the record apart.

        A MetaTensor has the record in its meta data too.
        """
        meta = _meta(img)
        if RECORD_KEY in meta:
            raise UnsupportedImageError("the image is protected already (a MIAD-MARK record is in its meta data)")
        array = _samples(img)
        layout = layout_of(self.axes, meta)
        values = layout.to_stored(array)
        image = StoredImage(values, _bounds(values), window_of(values, meta, self.window, self.channels))
        options = self.options
        if mask is not None:
            options = replace(options, region=_stored_mask(mask, array.shape, layout))
        signer = None if self.signer is None else self.signer.keys[0]
        protected, record = protect_image(image, self.recipients.keys, self._marker(), options, signer)
        out = _like(layout.to_array(protected, array.ndim), img)
        if isinstance(out, MetaTensor):
            out.meta.update({RECORD_KEY: record, LAYOUT_KEY: str(layout)})
        return out, record

    def _marker(self) -> Marker:
        """The marker given, or this process's default one."""
        if self.marker is not None:
            return self.marker
        # A forked worker cannot use CUDA once its parent has.
        return default_marker("cpu" if torch.utils.data.get_worker_info() is not None else None)


class RemoveMIADMark(Transform):
    """Undo :class:`ProtectWithMIADMark`, bit for bit.

    Args:
        identities: private keys to try: paths of key files, or identities (which cannot be sent to spawned workers).
        require_signer: custodian who must have signed: path of a public signature key, or verifier.
        axes: as of the protecting transform; only used where the meta data do not tell.
        passphrase_env: environment variable with the passphrase of encrypted key files.
    """

    backend = [TransformBackends.NUMPY]  # noqa: RUF012 - MONAI's name and form

    def __init__(
        self,
        identities: KeySource[KeyIdentity] | Sequence[KeySource[KeyIdentity]],
        require_signer: KeySource[Verifier] | None = None,
        *,
        axes: str = "xy",
        passphrase_env: str = PASSPHRASE_ENV,
    ) -> None:
        self.identities = identity_ring(identities, passphrase_env)
        self.require_signer = None if require_signer is None else verifier_ring(require_signer)
        self.axes = _checked_axes(axes)

    def __call__(self, img: ImageT, record: bytes | None = None) -> ImageT:
        """Restore one image.

        Args:
            img: protected ``(C, H, W[, D])``, exactly as it was given out; it is not changed.
            record: the sealed record; default: that in the meta data of ``img``.

        Returns:
            The original samples in the container of ``img``; the record is taken out of the meta data.

        Raises:
            NotProtectedError: there is no record.
            WrongKeyError: no identity fits.
            TamperedError: voxels, type, shape, layout or record are not what was protected.
            SignatureError: not signed by the custodian that was demanded.
        """
        meta = _meta(img)
        if record is None:
            record = record_in(meta)
        elif not isinstance(record, bytes):
            raise TypeError(f"a recovery record is bytes, not {type(record).__name__}")
        try:
            array = _samples(img)
        except UnsupportedImageError as error:
            raise TamperedError(f"this cannot be what was protected: {error}") from error
        layout = Layout.parse(meta[LAYOUT_KEY]) if LAYOUT_KEY in meta else layout_of(self.axes, meta)
        signer = None if self.require_signer is None else self.require_signer.keys[0]
        values = restore_image(layout.to_stored(array), record, self.identities.keys, signer)
        out = _like(layout.to_array(values, array.ndim), img)
        if isinstance(out, MetaTensor):
            for key in (RECORD_KEY, LAYOUT_KEY):
                out.meta.pop(key, None)
        return out


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
        kwargs: further arguments of :class:`ProtectWithMIADMark`.
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
        **kwargs: Any,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.protector = ProtectWithMIADMark(recipients, options, **kwargs)
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
        kwargs: further arguments of :class:`RemoveMIADMark`.
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
        **kwargs: Any,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.remover = RemoveMIADMark(identities, require_signer, **kwargs)
        self.record_key_postfix = record_key_postfix

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """A copy of ``data`` with restored images. Raises as :meth:`RemoveMIADMark.__call__` does."""
        out = dict(data)
        for key in self.key_iterator(out):
            record = None if self.record_key_postfix is None else out.pop(f"{key}_{self.record_key_postfix}", None)
            out[key] = self.remover(out[key], record)
        return out


def _checked_axes(axes: str) -> str:
    """The argument, if it is one of the two."""
    if axes not in _AXES:
        raise ValueError(f"axes must be one of {', '.join(_AXES)}, not {axes!r}")
    return axes


def _meta(img: object) -> Mapping[str, Any]:
    """Meta data of a MetaTensor, nothing for others."""
    return img.meta if isinstance(img, MetaTensor) else {}


def _samples(img: NDArray[Any] | torch.Tensor) -> NDArray[Any]:
    """The samples ``(C, H, W[, D])`` as numpy has them; may share memory with the image."""
    if not isinstance(img, np.ndarray | torch.Tensor):
        raise TypeError(f"expected a numpy array, tensor or MetaTensor, not {type(img).__name__}")
    if isinstance(img, MetaTensor):
        if img.is_batch:
            raise ValueError("this is a batch, in which images share one tensor: use decollate_batch first")
        if img.pending_operations:
            raise ValueError("lazy operations are pending: apply them first (Compose does)")
        img = img.as_tensor()
    name = img.dtype.name if isinstance(img, np.ndarray) else str(img.dtype).removeprefix("torch.")
    if name not in STORED_DTYPES or (isinstance(img, torch.Tensor) and img.layout != torch.strided):
        raise UnsupportedImageError(f"{name} samples are not restored exactly ({', '.join(STORED_DTYPES)} are)")
    if img.ndim not in (3, 4):
        raise UnsupportedImageError(f"expected (C, H, W) or (C, H, W, D), found {tuple(img.shape)}")
    array: NDArray[Any] = np.asarray(img) if isinstance(img, np.ndarray) else img.detach().cpu().numpy()
    return array


def _like(array: NDArray[Any], img: object) -> Any:
    """New samples in the container, on the device and with a copy of the meta data of an image."""
    if not isinstance(img, torch.Tensor):
        return array
    tensor = torch.from_numpy(np.ascontiguousarray(array)).to(img.device)
    if not isinstance(img, MetaTensor):
        return tensor
    out = MetaTensor(tensor).copy_meta_from(img)
    out.meta = copy.deepcopy(img.meta)
    return out


def _bounds(values: NDArray[Any]) -> Bounds:
    """Range of the finite samples for float32, else of the type; samples of a purely positive image stay positive."""
    if values.dtype.kind == "f":
        finite = values[np.isfinite(values)]
        return Bounds(float(finite.min()), float(finite.max())) if finite.size else Bounds(0.0, 0.0)
    info = np.iinfo(values.dtype)
    return Bounds(0 if values.size and values.min() >= 0 else int(info.min), int(info.max))


def _given_window(
    window: tuple[float, float] | Sequence[tuple[float, float]] | None,
) -> Window | tuple[Window, ...] | None:
    """The argument as one window, or as one for each channel."""
    if window is None:
        return None
    pairs = np.asarray(window, np.float64)
    if pairs.shape == (2,):
        return Window(float(pairs[0]), float(pairs[1]))
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise ValueError("a window is a pair of values, or a pair for each channel")
    return tuple(Window(float(low), float(high)) for low, high in pairs)


def _stored_mask(mask: NDArray[Any] | torch.Tensor, shape: tuple[int, ...], layout: Layout) -> NDArray[np.bool_]:
    """Region ``(N, H, W)`` from a mask in the layout of its image."""
    array = mask.detach().cpu().numpy() if isinstance(mask, torch.Tensor) else np.asarray(mask)
    if array.ndim == len(shape) - 1:
        array = array[None]
    if array.shape != (1, *shape[1:]):
        raise ValueError(
            f"the region mask has shape {tuple(mask.shape)}, the image {shape}: expected its spatial shape"
        )
    region: NDArray[np.bool_] = layout.to_stored(array != 0)[..., 0]
    return region


ProtectWithMIADMarkD = ProtectWithMIADMarkDict = ProtectWithMIADMarkd
RemoveMIADMarkD = RemoveMIADMarkDict = RemoveMIADMarkd

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
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Transform
from monai.utils import TransformBackends
from numpy.typing import NDArray

from monai_miadmark.errors import TamperedError, UnsupportedImageError
from monai_miadmark.image import MAX_CHANNELS, STORED_DTYPES, Bounds, StoredImage, Window
from monai_miadmark.keys import KeyIdentity, Recipient, Signer, Verifier
from monai_miadmark.marker import default_marker
from monai_miadmark.marking import Marker
from monai_miadmark.numerics import own_numerics
from monai_miadmark.options import Preset, ProtectOptions
from monai_miadmark.pipeline import protect_image, restore_image
from monai_miadmark.transforms.keyring import (
    PASSPHRASE_ENV,
    KeySource,
    identity_ring,
    recipient_ring,
    signer_ring,
    verifier_ring,
)
from monai_miadmark.transforms.layout import Layout, groups, layout_of
from monai_miadmark.transforms.metadata import LAYOUT_KEY, RECORD_KEY, record_in
from monai_miadmark.transforms.shown import CHANNELS, window_of

__all__ = ["ProtectWithMIADMark", "RemoveMIADMark"]

_AXES = ("xy", "ij")

ImageT = TypeVar("ImageT", bound=NDArray[Any] | torch.Tensor)


_FROM_FILES = ("original_affine", "filename_or_obj")
"""Meta data that only MONAI's readers leave: where they are, the axes are what a reader says that they are."""


class ProtectWithMIADMark(Transform):
    """Mark an image for recipients, so that models that nobody authorized err on it and recipients can undo it.

    Exact for samples of type uint8, int8, uint16, int16, uint32, int32 and float32. A volume is marked slice by slice
    along its last spatial axis. More than four channels, or a fourth spatial axis, are time points, each an image.
    Marks are made in float32, whatever autocast, default type, default device or gradient mode the caller has set.
    Every call draws a fresh key, so two calls on one image give two different marks.

    Args:
        recipients: who may restore: paths of public key files or certificates, or recipients.
        options: the custodian's choices; default: those of :class:`~monai_miadmark.options.ProtectOptions`.
        signer: the custodian's private signature key: path or signer.
        marker: networks that make the mark; pickled with the transform. Default: the bundle's, loaded at first use,
            once per process, never pickled.
        device: where the default marker's networks run, e.g. ``cpu`` or ``cuda:1``. Default: the CPU in DataLoader
            workers, else a GPU if there is one.
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
        preset: this and what follows: instead of ``options``, or to change some of them, see
            :class:`~monai_miadmark.options.ProtectOptions`; ``None`` changes nothing.
        style: see there.
        text: see there.
        logo: see there.
        region: ``auto`` or ``none``; masks are given per image.
        region_budget: see there.
        modality: see there.
        expect_effect: see there.

    Raises:
        ValueError: wrong options, or a device for a marker that was given (it has its own).
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
        self.recipients = recipient_ring(recipients)
        changed = {
            "preset": preset,
            "style": style,
            "text": text,
            "logo": None if logo is None else Path(logo),
            "region": region,
            "region_budget": region_budget,
            "modality": modality,
            "expect_effect": expect_effect,
        }
        given: dict[str, Any] = {name: value for name, value in changed.items() if value is not None}
        self.options = replace(options or ProtectOptions(), **given)
        if device is not None and marker is not None:
            raise ValueError("the marker that is given has a device of its own: leave out device")
        self.device = None if device is None else str(device)
        if not isinstance(self.options.region, str):
            raise ValueError("a mask belongs to one image: give it with the image (mask=, mask_key=), not as an option")
        self.signer = None if signer is None else signer_ring(signer, passphrase_env)
        self.marker = marker
        self.window = _given_window(window)
        if channels not in CHANNELS:
            raise ValueError(f"channels must be one of {', '.join(CHANNELS)}, not {channels!r}")
        self.channels = channels
        self.axes = _checked_axes(axes)

    @own_numerics()
    def __call__(self, img: NDArray[Any] | torch.Tensor, mask: NDArray[Any] | torch.Tensor | None = None) -> MetaTensor:
        """Protect one image.

        Args:
            img: ``(C, H, W)`` or ``(C, H, W, D)``, or ``(1, H, W, D, T)``; it is not changed.
            mask: ``(H, W[, D])`` or ``(1, H, W[, D])``, the image's spatial shape: what is not zero stays
                bit-identical (or within ``region_budget``), at all time points.

        Returns:
            Always a MetaTensor, so that the record can travel: ``meta["miadmark_record"]`` (bytes) is the sealed
            record, ``meta["miadmark_layout"]`` tells how the array lies on a display. Meta data of a MetaTensor are
            kept. It does not require gradients.

        Raises:
            UnsupportedImageError: type or shape that cannot be restored exactly, or protected already.
            ValueError: a batch, a mask that does not fit, lazy operations that are still pending, or a device that is
                not here.
        """
        protected, record = self.protect(img, mask)
        out = protected if isinstance(protected, MetaTensor) else MetaTensor(torch.as_tensor(protected))
        out.meta.update({RECORD_KEY: record, LAYOUT_KEY: str(layout_of(self.axes, _meta(img)))})
        return out

    @own_numerics()
    def protect(self, img: ImageT, mask: NDArray[Any] | torch.Tensor | None = None) -> tuple[ImageT, bytes]:
        """As calling the transform, but the protected image comes in the same container as ``img``, the record apart.

        A MetaTensor has the record in its meta data too.
        """
        meta = _meta(img)
        if RECORD_KEY in meta:
            raise UnsupportedImageError("the image is protected already (a MIAD-MARK record is in its meta data)")
        array = _samples(img)
        if not any(key in meta for key in _FROM_FILES):
            _check_no_batch(array.shape)
        layout = layout_of(self.axes, meta)
        values = layout.to_stored(array)
        window = window_of(values, meta, self.window, self.channels, groups(array.shape))
        image = StoredImage(values, _bounds(values), window)
        options = self.options
        if mask is not None:
            options = replace(options, region=_stored_mask(mask, array.shape, layout))
        signer = None if self.signer is None else self.signer.keys[0]
        protected, record = protect_image(image, self.recipients.keys, self._marker(), options, signer)
        out = _like(layout.to_array(protected, array.shape), img)
        if isinstance(out, MetaTensor):
            out.meta.update({RECORD_KEY: record, LAYOUT_KEY: str(layout)})
        return out, record

    def _marker(self) -> Marker:
        """The marker given, or this process's default one."""
        if self.marker is not None:
            return self.marker
        # A forked worker cannot use CUDA once its parent has.
        in_worker = torch.utils.data.get_worker_info() is not None
        return default_marker("cpu" if in_worker and self.device is None else self.device)


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

    @own_numerics()
    def __call__(self, img: ImageT, record: bytes | None = None) -> ImageT:
        """Restore one image.

        Args:
            img: protected ``(C, H, W[, D[, T]])``, exactly as it was given out; it is not changed.
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
            raise TypeError(f"the recovery record of an image is bytes, not {type(record).__name__}")
        try:
            array = _samples(img)
        except UnsupportedImageError as error:
            raise TamperedError(f"this cannot be what was protected: {error}") from error
        layout = Layout.parse(meta[LAYOUT_KEY]) if LAYOUT_KEY in meta else layout_of(self.axes, meta)
        signer = None if self.require_signer is None else self.require_signer.keys[0]
        values = restore_image(layout.to_stored(array), record, self.identities.keys, signer)
        out = _like(layout.to_array(values, array.shape), img)
        if isinstance(out, MetaTensor):
            for key in (RECORD_KEY, LAYOUT_KEY):
                out.meta.pop(key, None)
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
    """The samples ``(C, H, W[, D])`` or ``(1, H, W, D, T)`` as numpy has them; may share memory with the image."""
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
    shape = tuple(img.shape)
    if len(shape) not in (3, 4, 5) or (len(shape) == 5 and shape[0] != 1):
        raise UnsupportedImageError(f"expected (C, H, W), (C, H, W, D) or (1, H, W, D, T), found {shape}")
    if 0 in shape:
        raise UnsupportedImageError(f"an image of shape {shape} has no samples")
    array: NDArray[Any] = np.asarray(img) if isinstance(img, np.ndarray) else img.detach().cpu().numpy()
    return array


def _check_no_batch(shape: tuple[int, ...]) -> None:
    """Raise for shapes that are those of collated images and hardly ever of a volume, which would be far too thin."""
    if len(shape) > 3 and shape[1] <= MAX_CHANNELS < min(shape[2:4]):
        raise ValueError(
            f"an array of shape {shape} looks like a batch (B, C, H, W[, D]): protect image by image, before they are "
            "collated or after decollate_batch. (A volume that is so thin needs the meta data of a reader of MONAI.)"
        )


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
    """Region ``(N, H, W)`` from a mask in the layout of its image, the same for all groups of slices."""
    array = mask.detach().cpu().numpy() if isinstance(mask, torch.Tensor) else np.asarray(mask)
    spatial = shape[1:4]
    if array.ndim == len(spatial):
        array = array[None]
    if array.shape != (1, *spatial):
        raise ValueError(
            f"the region mask has shape {tuple(mask.shape)}, the image {shape}: expected its spatial shape"
        )
    region: NDArray[np.bool_] = layout.to_stored(array != 0)[..., 0]
    return np.tile(region, (groups(shape), 1, 1))

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""What marking needs of networks, without any, and how they are shown images of several contrasts."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from monai_miadmark.budget import SHARED
from monai_miadmark.options import Preset
from monai_miadmark.recognition import Recognition

__all__ = [
    "ByContrast",
    "MarkCritic",
    "Marker",
    "Perturber",
    "Recognizer",
    "Specialist",
    "recognized",
    "split_contrasts",
    "together",
    "upon",
]


class Perturber(Protocol):
    """Makes perturbation fields."""

    def perturb(
        self, images: NDArray[np.float32], clean: NDArray[np.float32], budget: NDArray[np.float32], latent: bytes
    ) -> NDArray[np.float32]:
        """Fields for images: gray or color ones; images of several contrasts come as a gray one each.

        Args:
            images: ``(N, C, h, w)`` in [0, 1]: what will be perturbed, logo included, as a display shows it once the
                logo is stored.
            clean: the same without the logo.
            budget: ``(N, 1, h, w)``, amplitude that a display will show at each cell, fraction of its window; zero
                where it would show none.
            latent: 32 bytes, drawn from the content key; the same latent gives the same field on one machine.

        Returns:
            ``(N, 1, h, w)``, or ``(N, C, h, w)`` for colors of their own, in [-1, 1], fraction of the budget. Whatever
            else comes back is clipped by the caller.
        """
        ...


class MarkCritic(Protocol):
    """Tells what diagnostic models look at and how far they are misled."""

    def saliency(self, images: NDArray[np.float32], quick: bool = False) -> NDArray[np.float32]:
        """Importance of each cell, ``(N, h, w)``, not negative, for ``(N, C, h, w)`` images in [0, 1].

        With ``quick`` one model's opinion is enough.
        """
        ...

    def effect(self, images: NDArray[np.float32], clean: NDArray[np.float32]) -> NDArray[np.float32]:
        """How far ``(N * K, C, h, w)`` candidates, K for each of the N clean images, mislead: ``(N * K,)``."""
        ...


class Specialist(Protocol):
    """Networks of one modality."""

    @property
    def critic(self) -> MarkCritic:
        """The ensemble as a judge."""
        ...

    def perturber(self, preset: Preset) -> Perturber:
        """The perturber that a preset asks for."""
        ...


class Marker(Protocol):
    """What :func:`monai_miadmark.marking.make_mark` needs from the network side."""

    def specialist(self, modality: str, images: NDArray[np.float32]) -> Specialist:
        """The networks for a modality, or, if it is ``auto``, for what images ``(N, C, h, w)`` in [0, 1] look like."""
        ...


class Recognizer(Protocol):
    """A :class:`Marker` that says what it takes images for."""

    def recognize(self, modality: str, images: NDArray[np.float32]) -> Recognition | None:
        """What images ``(N, C, h, w)`` in [0, 1] are taken for, given the modality that was asked for, or ``auto``."""
        ...


def recognized(marker: Marker, modality: str, images: NDArray[np.float32]) -> Recognition | None:
    """What a marker takes images for; ``None`` where it does not say (it is no :class:`Recognizer`)."""
    recognize = getattr(marker, "recognize", None)
    found: Recognition | None = None if recognize is None else recognize(modality, images)
    return found


def together(perturber: Perturber) -> Perturber:
    """A perturber that looks for one field for all images that it is given, where this one can do so; else itself."""
    joint = getattr(perturber, "together", None)
    found: Perturber = perturber if joint is None else joint()
    return found


def upon(perturber: Perturber, base: NDArray[np.float32]) -> Perturber:
    """A perturber whose fields are, to the share :data:`SHARED`, one that is given, ``(F, h, w)`` in [-1, 1].

    One that knows how (it has ``upon``) looks for the rest in view of what is given; of others the fields are mixed.
    """
    knows = getattr(perturber, "upon", None)
    found: Perturber = _Mixed(perturber, base) if knows is None else knows(base)
    return found


class _Mixed:
    """Fields of a perturber mixed with one that is given."""

    def __init__(self, perturber: Perturber, base: NDArray[np.float32]) -> None:
        self._perturber, self._base = perturber, base

    def perturb(
        self, images: NDArray[np.float32], clean: NDArray[np.float32], budget: NDArray[np.float32], latent: bytes
    ) -> NDArray[np.float32]:
        field = np.asarray(self._perturber.perturb(images, clean, budget, latent))
        if field.ndim != 4 or field.shape[2:] != self._base.shape[1:]:
            return field  # the caller says what is wrong with it
        return np.asarray(SHARED * self._base + (1 - SHARED) * field.clip(-1, 1), np.float32)


def split_contrasts(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Channels of ``(N, C, h, w)`` as slices of one channel, ``(N * C, 1, h, w)``, those of a slice together."""
    return images.reshape(-1, 1, *images.shape[2:])


class ByContrast:
    """A :class:`Specialist` for images whose channels are contrasts, not colors: its networks see each by itself.

    Nobody reads the mean of several contrasts, and a field that misleads about it hardly misleads about any of them:
    each gets a field of its own, for as many passes through the networks.

    Args:
        specialist: for gray images.
    """

    def __init__(self, specialist: Specialist) -> None:
        self._specialist = specialist

    @property
    def critic(self) -> MarkCritic:
        """See :class:`Specialist`."""
        return _CriticByContrast(self._specialist.critic)

    @property
    def ensemble(self) -> Any:
        """The ensemble that can be asked; ``None`` where there is none."""
        return getattr(self._specialist, "ensemble", None)

    def perturber(self, preset: Preset) -> Perturber:
        """See :class:`Specialist`."""
        return _PerturberByContrast(self._specialist.perturber(preset))


class _CriticByContrast:
    """What is salient, and how far candidates mislead, on the mean of the contrasts."""

    def __init__(self, critic: MarkCritic) -> None:
        self._critic = critic
        self.modality = getattr(critic, "modality", None)

    def saliency(self, images: NDArray[np.float32], quick: bool = False) -> NDArray[np.float32]:
        each = self._critic.saliency(split_contrasts(images), quick)
        mean: NDArray[np.float32] = each.reshape(images.shape[0], images.shape[1], *each.shape[1:]).mean(axis=1)
        return mean

    def lesion(self, images: NDArray[np.float32]) -> NDArray[np.float32] | None:
        ask = getattr(self._critic, "lesion", None)
        each: NDArray[np.float32] | None = None if ask is None else ask(split_contrasts(images))
        return None if each is None else each.reshape(*images.shape[:2], *each.shape[1:]).mean(axis=1)

    def effect(self, images: NDArray[np.float32], clean: NDArray[np.float32]) -> NDArray[np.float32]:
        each = [self._critic.effect(images[:, c : c + 1], clean[:, c : c + 1]) for c in range(images.shape[1])]
        mean: NDArray[np.float32] = np.mean(each, axis=0, dtype=np.float32)
        return mean


class _PerturberByContrast:
    """A field for each contrast."""

    def __init__(self, perturber: Perturber) -> None:
        self._perturber = perturber

    def perturb(
        self, images: NDArray[np.float32], clean: NDArray[np.float32], budget: NDArray[np.float32], latent: bytes
    ) -> NDArray[np.float32]:
        channels = images.shape[1]
        repeated = np.repeat(budget, channels, axis=0)
        field = np.asarray(self._perturber.perturb(split_contrasts(images), split_contrasts(clean), repeated, latent))
        # Anything else is told to the caller as it is, who expects one field for each channel.
        return field.reshape(images.shape) if field.shape == repeated.shape else field

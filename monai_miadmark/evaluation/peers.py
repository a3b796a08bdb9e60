# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""What others do with the same surrogates and as much error, as markers that stand in the same tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from monai_miadmark.budget import Visibility
from monai_miadmark.diversity import InputDiversity
from monai_miadmark.gradient_steps import GradientPerturber
from monai_miadmark.marker import EnsembleMarker
from monai_miadmark.marking import MarkCritic, Marker, Perturber
from monai_miadmark.options import PRESETS, Preset, ProtectOptions
from monai_miadmark.perturbers import random_generator
from monai_miadmark.surrogates import SurrogateEnsemble

__all__ = ["PEERS", "FixedPerturber", "Peer", "PeerMarker", "RandomPerturber", "universal_perturbation"]


class FixedPerturber:
    """One pattern for all images (or none at all).

    Args:
        pattern: ``(1 or 3, h, w)`` in [-1, 1]; resized to the images.
    """

    def __init__(self, pattern: NDArray[np.float32]) -> None:
        self.pattern = torch.from_numpy(pattern)

    def perturb(
        self, images: NDArray[np.float32], clean: NDArray[np.float32], budget: NDArray[np.float32], latent: bytes
    ) -> NDArray[np.float32]:
        """See :class:`monai_miadmark.marking.Perturber`."""
        pattern = self.pattern if images.shape[1] == 3 else self.pattern.mean(0, True)
        fitted = F.interpolate(pattern[None], images.shape[2:], mode="nearest")
        return np.repeat(fitted.numpy(), len(images), 0)


class RandomPerturber:
    """Random signs."""

    def perturb(
        self, images: NDArray[np.float32], clean: NDArray[np.float32], budget: NDArray[np.float32], latent: bytes
    ) -> NDArray[np.float32]:
        """See :class:`monai_miadmark.marking.Perturber`."""
        channels = 3 if images.shape[1] == 3 else 1
        drawn = torch.rand((len(images), channels, *images.shape[2:]), generator=random_generator(latent, "signs"))
        signs: NDArray[np.float32] = (drawn - 0.5).sign().numpy()
        return signs


@dataclass(frozen=True)
class PeerMarker:
    """A marker whose perturber is a peer's; region and logo come from an ensemble's critic."""

    critic: MarkCritic
    made: Perturber

    def specialist(self, modality: str, images: NDArray[np.float32]) -> PeerMarker:
        """This marker."""
        return self

    def perturber(self, preset: Preset) -> Perturber:
        """The peer's."""
        return self.made


@dataclass(frozen=True)
class Peer:
    """A method to compare with.

    Attributes:
        options: of the custodian, for a data set and a PSNR.
        marker: made of the bundle's marker for the data set without a victim, and of images ``(N, C, h, w)`` in [0, 1]
            to fit on.
        fits: ``marker`` looks at the images.
    """

    options: Callable[[str, float], ProtectOptions]
    marker: Callable[[EnsembleMarker, Tensor], Marker]
    fits: bool = False


def universal_perturbation(
    ensemble: SurrogateEnsemble,
    images: Tensor,
    epsilon: float,
    steps: int = 120,
    batch_size: int = 8,
    seed: int = 0,
) -> NDArray[np.float32]:
    """One perturbation that misleads an ensemble on many images (arXiv:1610.08401), by momentum sign steps.

    Args:
        ensemble: the surrogates.
        images: ``(N, C, h, w)`` in [0, 1] to fit on.
        epsilon: amplitude, fraction of the window.
        steps: sign steps.
        batch_size: images a step.
        seed: of the order.

    Returns:
        ``(C, h, w)`` in [-1, 1].
    """
    generator = torch.Generator().manual_seed(seed)
    pattern = (torch.rand(images.shape[1:], generator=generator) * 2 - 1).to(images.device)
    momentum = torch.zeros_like(pattern)
    for step in tqdm(range(steps), desc="universal", unit="step", disable=None, leave=False):
        batch = images[torch.randint(len(images), (batch_size,), generator=generator)]
        labels = ensemble.consensus(batch)
        pattern.requires_grad_()
        logits = ensemble((batch + epsilon * pattern).clamp(0, 1))
        # The gain of a right answer that is lost for good is bounded: else a few images would draw all the gradient.
        loss = torch.stack([F.cross_entropy(z, labels).clamp_max(6.0) for z in logits]).sum()
        (gradient,) = torch.autograd.grad(loss, pattern)
        momentum = 0.9 * momentum + gradient / gradient.abs().mean().clamp_min(1e-12)
        rate = 0.2 * (1 - 0.9 * step / steps)
        pattern = (pattern.detach() + rate * momentum.sign()).clamp(-1, 1)
    return pattern.detach().cpu().numpy()


def _flat(psnr: float) -> Visibility:
    """The same amplitude everywhere, as much of it as the PSNR leaves."""
    return Visibility(psnr=psnr, ssim=-1.0, region_ssim=-1.0, floor=8 / 255, contrast=0, luminance=0, dark=1e-6)


def _flat_options(steps: int) -> Callable[[str, float], ProtectOptions]:
    def options(dataset: str, psnr: float) -> ProtectOptions:
        preset = replace(PRESETS["standard"], visibility=_flat(psnr), steps=steps)
        return ProtectOptions(preset, style="invisible", region="none", modality=dataset)

    return options


def _logo_options(dataset: str, psnr: float) -> ProtectOptions:
    return ProtectOptions(replace(PRESETS["standard"], footprint=0.0), region="auto", modality=dataset)


def _mi_di_ti(steps: int = 10, robust: bool = False) -> Peer:
    return Peer(_flat_options(steps), partial(_mi_di_ti_marker, steps=steps, robust=robust))


def _mi_di_ti_marker(marker: EnsembleMarker, images: Tensor, steps: int, robust: bool) -> Marker:
    members = list(marker.ensemble.members)
    if robust:
        members += [*marker.ensemble.robust, *marker.ensemble.aside]
    made = GradientPerturber(
        SurrogateEnsemble(members),  # type: ignore[arg-type]
        steps,
        diversity=[InputDiversity()],
        views=1,
        mix=(0.0, 1.0),
        members_per_step=None,
        settling=0.0,
        persistence=0,
        coarse=0.0,
        device=marker.device,
    )
    return PeerMarker(marker.critic, made)


def _universal(marker: EnsembleMarker, images: Tensor) -> Marker:
    return PeerMarker(marker.critic, FixedPerturber(universal_perturbation(marker.ensemble, images, 8 / 255)))


def _noise(marker: EnsembleMarker, images: Tensor) -> Marker:
    return PeerMarker(marker.critic, RandomPerturber())


def _logo_alone(marker: EnsembleMarker, images: Tensor) -> Marker:
    return PeerMarker(marker.critic, FixedPerturber(np.zeros((1, 1, 1), np.float32)))


PEERS: dict[str, Peer] = {
    "MI-DI-TI-FGSM": _mi_di_ti(),
    "MI-DI-TI-FGSM, 20 steps": _mi_di_ti(steps=20),
    "MI-DI-TI-FGSM, robust surrogates as well": _mi_di_ti(robust=True),
    "universal perturbation": Peer(_flat_options(1), _universal, fits=True),
    "logo alone": Peer(_logo_options, _logo_alone),
    "random signs": Peer(_flat_options(1), _noise),
}
"""Methods by the name that tables give them. Those with a perturbation have no logo, no region and a flat amplitude."""

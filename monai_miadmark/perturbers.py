# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Perturbations by a generator in one pass, and what all perturbers draw from a latent."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from monai_miadmark.descent import Guides, enlarged
from monai_miadmark.generator import LATENT_SIZE, PerturbationGenerator
from monai_miadmark.numerics import own_numerics
from monai_miadmark.stacks import as_tensor, beside_each_other, one_or_three

__all__ = ["GeneratorPerturber", "field_channels", "latent_tensor", "random_generator"]


def random_generator(latent: bytes, purpose: str) -> torch.Generator:
    """A torch generator seeded from a latent, different for each purpose."""
    seed = hashlib.sha256(purpose.encode() + b"\0" + latent).digest()[:8]
    return torch.Generator().manual_seed(int.from_bytes(seed, "little") >> 1)


def field_channels(channels: int) -> int:
    """Planes of a field for images of so many channels: color images get a plane for each, all others share one."""
    return 3 if channels == 3 else 1


def latent_tensor(latent: bytes, count: int) -> Tensor:
    """``(count, LATENT_SIZE)`` standard normal numbers, another row for each slice."""
    return torch.randn((count, LATENT_SIZE), generator=random_generator(latent, "latent"), dtype=torch.float32)


class GeneratorPerturber:
    """A field in one pass of a :class:`PerturbationGenerator`.

    Args:
        generator: the trained network; put in evaluation mode.
        device: where it runs.
        guides: surrogates whose gradients the generator hears; see :meth:`guided_by`.
    """

    def __init__(
        self, generator: PerturbationGenerator, device: torch.device | str = "cpu", guides: Guides | None = None
    ) -> None:
        self.device = torch.device(device)
        self.generator = generator.to(self.device).eval().requires_grad_(False)
        self.generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.guides = guides

    def __repr__(self) -> str:
        return f"{type(self).__name__}(device={str(self.device)!r})"

    def guided_by(self, guides: Guides) -> GeneratorPerturber:
        """The same generator hearing surrogates; best those that it heard in training."""
        return GeneratorPerturber(self.generator, self.device, guides)

    @own_numerics()
    def perturb(
        self, images: NDArray[np.float32], clean: NDArray[np.float32], budget: NDArray[np.float32], latent: bytes
    ) -> NDArray[np.float32]:
        """See :class:`monai_miadmark.marking.Perturber`."""
        latents = latent_tensor(latent, len(images))
        told = None if self.guides is None else self.guides.led(clean, images, budget)

        @torch.inference_mode()
        def field_of(part: slice) -> NDArray[np.float32]:
            x, b = one_or_three(as_tensor(images[part], self.device)), as_tensor(budget[part], self.device)
            descent = None if told is None else enlarged(as_tensor(told[part], self.device), x)
            field = self.generator(x, b, latents[part].to(self.device), descent)
            return np.asarray(field.cpu().numpy(), np.float32)

        return np.concatenate(list(beside_each_other(field_of, len(images), self.device)))

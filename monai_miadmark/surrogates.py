# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Diagnostic networks with their bounds and preprocessing, and what is computed over an ensemble of them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "Surrogate",
    "SurrogateEnsemble",
    "attack_margin",
    "expected_margin",
    "load_ensemble",
    "load_pretrained",
    "load_weights",
    "margin",
    "plausible_margin",
    "robust_name",
    "save_weights",
    "to_square",
]


class Surrogate(nn.Module):
    """A classifier together with everything it does to an image first (a *Model with bounds*).

    Args:
        network: maps ``(B, 3, S, S)`` float32 to ``(B, classes)`` logits.
        name: what reports call it.
        input_size: side ``S`` of the square that the network was trained on, in pixels.
        mean: subtracted from images in [0, 1].
        std: divides the result.
        transposed: the network was trained on images with rows and columns swapped, as MONAI's ``PILReader`` and
            ``PydicomReader`` give them; images are swapped for it.

    Shape:
        - input: ``(B, 1 or 3, H, W)`` in display units [0, 1]; gray images are repeated to three channels.
        - output: ``(B, classes)`` logits.
    """

    def __init__(
        self,
        network: nn.Module,
        name: str = "",
        input_size: int = 128,
        mean: float = 0.5,
        std: float = 0.25,
        transposed: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        self.name = name
        self.input_size = input_size
        self.mean = mean
        self.std = std
        self.transposed = transposed

    def forward(self, images: Tensor) -> Tensor:
        """Logits of display images."""
        if images.shape[1] == 1:
            images = images.expand(-1, 3, -1, -1)
        if self.transposed:
            images = images.transpose(2, 3)
        images = to_square(images, self.input_size)
        images = ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.network(images)
        return logits


class SurrogateEnsemble(nn.Module):
    """Several surrogates of one modality that are attacked together.

    The members are frozen and kept in evaluation mode: :meth:`train` does nothing, so that no trainer that owns the
    ensemble can start to change batch statistics.

    Args:
        members: the surrogates, best of different architectures.
        robust: adversarially trained ones, which lend their gradients and are no judges: what misleads a slightly
            robust model carries over to others further (arXiv:2106.02105), and it may take more than a mark has.
        aside: nothing is made against these, and gradient steps do not ask them: they only guide a generator.
    """

    def __init__(
        self, members: Sequence[Surrogate], robust: Sequence[Surrogate] = (), aside: Sequence[Surrogate] = ()
    ) -> None:
        super().__init__()
        if not members:
            raise ValueError("an ensemble needs at least one surrogate")
        self.members = nn.ModuleList(members)
        self.robust = nn.ModuleList(robust)
        self.aside = nn.ModuleList(aside)
        self.input_size = max(member.input_size for member in members)
        self.requires_grad_(False)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        super().train(False)

    def train(self, mode: bool = True) -> SurrogateEnsemble:
        """Stay in evaluation mode whatever is asked."""
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        """Logits ``(B, classes)`` of every member for display images ``(B, C, H, W)`` in [0, 1]."""
        return [member(images) for member in self.members]

    @torch.no_grad()
    def posterior(self, images: Tensor) -> Tensor:
        """Mean class probabilities ``(B, classes)``: what the members together take the images for."""
        return torch.stack([F.softmax(z, 1) for z in self(images)]).mean(0)

    def consensus(self, images: Tensor) -> Tensor:
        """Most probable class ``(B,)``: the label when nobody gives one."""
        return self.posterior(images).argmax(1)


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Logit margin ``z_y - max_{j != y} z_j`` of Carlini and Wagner (arXiv:1608.04644), ``(B,)``.

    Positive while the model is right; scale-free gradients where cross-entropy has long vanished.
    """
    true = logits.gather(1, labels[:, None]).squeeze(1)
    other = logits.scatter(1, labels[:, None], float("-inf")).amax(1)
    return true - other


def expected_margin(logits: Tensor, posterior: Tensor, floor: float = -8.0) -> Tensor:
    """Margin of every class weighted by how probable it is that the class is right, ``(B,)``.

    Where the ensemble is sure this is the plain :func:`margin`. Where it is not, no candidate is left standing: pushing
    an image from a wrongly guessed label straight into the true one would help the model that is to be misled.

    Args:
        logits: ``(B, classes)`` of one model for the marked images.
        posterior: ``(B, classes)`` probabilities for the clean ones.
        floor: margins below it count as this: a model that errs by far is left alone.
    """
    classes = logits.shape[1]
    masked = (
        logits[:, None, :]
        .expand(-1, classes, -1)
        .masked_fill(torch.eye(classes, dtype=torch.bool, device=logits.device), float("-inf"))
    )
    margins = logits - masked.amax(2)
    return (posterior * margins.clamp_min(floor)).sum(1)


def plausible_margin(logits: Tensor, posterior: Tensor, share: float = 0.05, floor: float = -8.0) -> Tensor:
    """Best logit of the classes that may be right minus the best of those that cannot, ``(B,)``.

    Pushing an image away from the class that an ensemble takes it for often pushes it into the runner-up, and where the
    ensemble erred that is the truth. Negative values of this margin mean that no plausible class is left.

    Args:
        logits: ``(B, classes)`` of one model for the marked images.
        posterior: ``(B, classes)`` probabilities for the clean ones.
        share: classes at least so probable as this share of the most probable one are plausible; the least probable
            never is.
        floor: margins below it count as this.
    """
    plausible = (posterior >= share * posterior.amax(1, keepdim=True)) & (posterior > posterior.amin(1, keepdim=True))
    best = logits.masked_fill(~plausible, float("-inf")).amax(1)
    other = logits.masked_fill(plausible, float("-inf")).amax(1)
    return (best - other).clamp_min(floor)


def attack_margin(logits: Tensor, posterior: Tensor) -> Tensor:
    """What attacks descend on, ``(B,)``: the sum of :func:`expected_margin` and :func:`plausible_margin`.

    Either alone left more right answers on tune images of one modality.

    Args:
        logits: ``(B, classes)`` of one model for the marked images.
        posterior: ``(B, classes)`` probabilities for the clean ones.
    """
    return expected_margin(logits, posterior) + plausible_margin(logits, posterior)


def to_square(images: Tensor, size: int) -> Tensor:
    """Bring ``(B, C, H, W)`` to a square of ``size``, antialiased when it shrinks, as image loaders do."""
    if images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images, (size, size), mode="bilinear", antialias=images.shape[-1] > size)


def save_weights(network: nn.Module, path: str | Path, bits: int = 16) -> None:
    """Write the state dict rounded; what is measured is what the rounded weights do.

    Args:
        network: whose weights.
        path: file.
        bits: 16 for float16, half the size; 8 for a quarter of it: kernels and matrices become int8 with a scale for
            each output channel, everything else float16.

    Raises:
        ValueError: other bits.
    """
    if bits not in (8, 16):
        raise ValueError(f"weights are stored with 8 or 16 bits, not {bits}")
    state: dict[str, Any] = {}
    for name, value in network.state_dict().items():
        value = value.detach().cpu()
        if value.is_floating_point() and value.ndim > 1 and bits == 8:
            scale = value.float().flatten(1).abs().amax(1).clamp_min(1e-12) / 127
            state[name] = torch.round(value.float() / _beside(scale, value)).to(torch.int8), scale
        else:
            state[name] = value.half() if value.is_floating_point() else value
    torch.save(state, path)


def load_weights(network: nn.Module, path: str | Path) -> nn.Module:
    """Read what :func:`save_weights` wrote (or any plain state dict) into ``network`` and return it.

    A network on the ``meta`` device, which has no numbers yet, takes the tensors that were read.
    """
    network.load_state_dict(_read_state(path), assign=any(value.is_meta for value in network.state_dict().values()))
    return network


def _read_state(path: str | Path) -> dict[str, Tensor]:
    """A state dict in full precision."""
    stored: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    state = {k: v[0].float() * _beside(v[1], v[0]) if isinstance(v, tuple) else v for k, v in stored.items()}
    return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}


def _beside(scale: Tensor, weights: Tensor) -> Tensor:
    """A number for each output channel, shaped so that it multiplies weights of ``(out, ...)``."""
    return scale.view(-1, *[1] * (weights.ndim - 1))


def load_pretrained(network: nn.Module, given: str | Path | Mapping[str, Tensor] | None) -> list[str]:
    """Start from weights of another task: whatever has the same name and shape is taken, the rest stays random.

    Args:
        network: what will be trained.
        given: a plain state dict, or the file that holds one; ``None`` changes nothing.

    Returns:
        Names that kept their initial values: the classification head, if the architectures are the same.
    """
    if given is None:
        return []
    state = given if isinstance(given, Mapping) else _read_state(given)
    own = network.state_dict()
    fitting = {name: value for name, value in state.items() if name in own and own[name].shape == value.shape}
    network.load_state_dict(fitting, strict=False)
    return sorted(set(own) - set(fitting))


def load_ensemble(
    networks: Mapping[str, nn.Module],
    names: Sequence[str],
    dataset: str,
    models_dir: str | Path,
    robust_names: Sequence[str] = (),
    aside_names: Sequence[str] = (),
) -> SurrogateEnsemble:
    """Read the weights ``DATASET_NAME.pt`` that ``train_surrogate.yaml`` made and put the networks together.

    That configuration loads images with MONAI's readers, so the networks expect rows and columns swapped.

    Args:
        networks: architectures by name; they are copied.
        names: which of them to take.
        dataset: data set that the weights were trained on.
        models_dir: folder of the weights.
        robust_names: architectures whose adversarially trained weights ``DATASET_NAME_robust.pt`` (``robust.yaml``) are
            taken too, if the architecture is among ``names``: who is left out is left out in every form.
        aside_names: architectures of which the adversarially trained weights alone are taken, where there are any, to
            guide a generator.

    Raises:
        FileNotFoundError: weights are missing.
    """

    def read(architecture: str, name: str) -> Surrogate:
        network = copy.deepcopy(networks[architecture])
        load_weights(network, Path(models_dir) / f"{dataset}_{name}.pt")
        return Surrogate(network, name, transposed=True)

    robust = [read(name, robust_name(name)) for name in robust_names if name in names]
    made = [name for name in aside_names if (Path(models_dir) / f"{dataset}_{robust_name(name)}.pt").is_file()]
    return SurrogateEnsemble([read(name, name) for name in names], robust, [read(n, robust_name(n)) for n in made])


def robust_name(architecture: str) -> str:
    """What the adversarially trained surrogate of an architecture is called."""
    return f"{architecture}_robust"

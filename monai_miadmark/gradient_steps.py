# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Perturbations by gradient steps on a surrogate ensemble."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from monai_miadmark.budget import SHARED, Visibility
from monai_miadmark.diversity import BlockShuffle, Diversity, InputDiversity, gaussian_blur
from monai_miadmark.generator import to_mean_one
from monai_miadmark.lookalikes import Lookalikes, dither_pattern, dithered
from monai_miadmark.numerics import own_numerics
from monai_miadmark.perturbers import GeneratorPerturber, field_channels, random_generator
from monai_miadmark.soft_likeness import SoftLikeness, away_from_logo, fitted_budget
from monai_miadmark.stacks import as_tensor, batch_size, beside_each_other, three_channels
from monai_miadmark.surrogates import SurrogateEnsemble, attack_margin, to_square

__all__ = ["GradientPerturber"]

_COARSE_CELLS = 16
"""Cells of the coarse layer along the longer side: eight cells of the fine one each on images of 128."""

_REFIT = 4
"""Steps after which the amplitude is fitted to the likeness anew."""

_SMALL = 3.5 / 255
"""Budgets up to which are those of regions and of what is nearly background: these do not grow."""

_FAR = -4.0
"""Sum of the two margins below which a surrogate counts as misled by far: rounding and scaling seldom undo that."""


class GradientPerturber:
    """Momentum sign steps on the ensemble (MI-FGSM, arXiv:1710.06081) with diverse views of the image.

    Gradients as they are and gradients smoothed over 1.5 cells (TI-FGSM, arXiv:1904.02884) are added, because different
    victims are sensitive to different frequencies. A share of the field is coarse: SSIM takes what changes slowly for
    brightness and hardly counts it, and some victims see little else. Steps go against what the field uses up of the
    likeness as well: what hardly misleads and is seen is given up, and the rest may be stronger. Views are drawn from
    input diversity (DI-FGSM) or from blocks that change places (BSR), by turns at random. All steps see the field
    without what could pass for a finding (:mod:`monai_miadmark.lookalikes`) and about as large as the likeness leaves
    it, the last third of them rounded to five levels as it will be stored. The last quarter asks all surrogates about
    the image as it is: what was found on views of it then holds on the image itself. Those that still see through the
    mark are then asked some more.

    Args:
        ensemble: the surrogates.
        steps: gradient steps.
        start: perturber that gives the first field; default: small random signs.
        step_size: of the first step, as a fraction of the budget; it falls linearly to a fifth.
        decay: of the momentum.
        diversity: changes applied in front of the ensemble, of which each view goes through one; none if empty.
        views: draws of the diversity whose gradients are averaged in each step.
        mix: weights of the gradients as they are and of the smoothed ones.
        members_per_step: surrogates asked in each step, in turn and in random order: as good as all of them in as many
            steps, at a fraction of the time. ``None`` for all.
        settling: share of the steps, the last ones, in which all surrogates see the image without diversity.
        persistence: further such steps, at most, while any surrogate is not misled by far.
        coarse: share of the field, in [0, 1), that lies on a grid of 16 cells along the longer side.
        visibility: the likeness with which the field will be shown; ``None`` if steps are to know of none.
        thrift: weight of the gradient of what is used up of it, as a share of the other gradients.
        device: where it runs.

    Raises:
        ValueError: no steps, or a share that is none.
    """

    def __init__(
        self,
        ensemble: SurrogateEnsemble,
        steps: int = 10,
        start: GeneratorPerturber | None = None,
        step_size: float = 0.35,
        decay: float = 0.9,
        diversity: Sequence[Diversity] = (InputDiversity(), BlockShuffle()),  # they hold no state
        views: int = 2,
        mix: tuple[float, float] = (1.0, 0.5),
        members_per_step: int | None = 2,
        settling: float = 0.25,
        persistence: int = 16,
        coarse: float = 0.2,
        visibility: Visibility | None = None,
        thrift: float = 0.3,
        device: torch.device | str = "cpu",
    ) -> None:
        if steps < 1:
            raise ValueError(f"steps must be at least 1, not {steps}")
        if not 0 <= coarse < 1:
            raise ValueError(f"coarse must be a share in [0, 1), not {coarse}")
        self.device = torch.device(device)
        self.ensemble = ensemble.to(self.device)
        self.steps, self.start, self.step_size, self.decay = steps, start, step_size, decay
        self.diversity, self.views, self.mix, self.coarse = tuple(diversity), views, mix, coarse
        # Robust surrogates are asked about views like the others; the last steps are for those that are to be misled.
        self.asked = [*ensemble.members, *ensemble.robust]
        self.members_per_step = members_per_step or len(self.asked)
        self.visibility, self.thrift = visibility, thrift
        self.settled, self.persistence = steps - round(settling * steps), persistence
        self.view_size = ensemble.input_size
        self.joint = False
        self.base: NDArray[np.float32] | None = None

    def together(self) -> GradientPerturber:
        """The same, but looking for one field for all images that it is given (at most a batch of them)."""
        joint = copy.copy(self)
        joint.joint = True
        return joint

    def upon(self, base: NDArray[np.float32]) -> GradientPerturber:
        """The same, for fields that are to a share one that is given, ``(F, h, w)`` in [-1, 1]."""
        mixed = copy.copy(self)
        mixed.base = base
        return mixed

    def __repr__(self) -> str:
        return f"{type(self).__name__}(steps={self.steps}, start={self.start!r}, device={str(self.device)!r})"

    @own_numerics()
    def perturb(
        self, images: NDArray[np.float32], clean: NDArray[np.float32], budget: NDArray[np.float32], latent: bytes
    ) -> NDArray[np.float32]:
        """See :class:`monai_miadmark.marking.Perturber`."""
        if self.start is not None:
            first = self.start.perturb(images, clean, budget, latent)
        else:
            shape = (len(images), field_channels(images.shape[1]), *images.shape[2:])
            drawn = torch.rand(shape, generator=random_generator(latent, "start"), dtype=torch.float32)
            first = drawn.numpy() - np.float32(0.5)
        if self.joint:
            first = np.repeat(first[:1], len(images), axis=0)

        size = batch_size(self.device)

        @torch.inference_mode(False)  # protection may run inside a caller's evaluation, and needs gradients there too
        @torch.enable_grad()
        def field_of(part: slice) -> NDArray[np.float32]:
            rng = random_generator(latent, f"steps {part.start // size}")
            marked, plain, allowed, field = (as_tensor(a[part], self.device) for a in (images, clean, budget, first))
            return np.asarray(self._attack(marked, plain, allowed, field, rng).cpu().numpy(), np.float32)

        fields = beside_each_other(field_of, len(images), self.device)
        parts = -(-len(images) // size)
        hidden = True if parts < 4 else None
        watched = tqdm(fields, desc="refine", unit="batch", total=parts, leave=False, disable=hidden)
        return np.concatenate(list(watched))

    def _attack(self, images: Tensor, clean: Tensor, budget: Tensor, first: Tensor, rng: torch.Generator) -> Tensor:
        """Descend on the margin of the classes that the ensemble sees in the clean images; ``(B, 1 or 3, h, w)``."""
        posterior = self.ensemble.posterior(three_channels(clean))
        base = None if self.base is None else as_tensor(self.base, self.device)
        field = _LayeredField(first, self.coarse, self.decay, base)
        # The less of a field is rough, the more of it the likeness leaves: a tenth with the usual share.
        budget = planned = budget * (1 + 0.3 * self.coarse)
        away = away_from_logo(images, clean)
        likeness = SoftLikeness(clean, away)
        lookalikes = Lookalikes(clean, 1 - away.to(clean), self.visibility) if self.visibility is not None else None
        scaled = away & (planned > _SMALL)
        pattern = torch.from_numpy(dither_pattern(*images.shape[2:])).to(images)
        waiting: list[int] = []
        unsettled = torch.ones(len(images), dtype=torch.bool, device=images.device)
        for step in range(self.steps + self.persistence):
            whole = field.whole().requires_grad_()
            if self.visibility is not None and step and step % _REFIT == 0:
                with torch.no_grad():  # the less the limits leave of a field, the larger it will be shown
                    kept = _kept(lookalikes, whole, budget)
                    budget = fitted_budget(likeness, images, kept, planned, scaled, self.visibility)
            levels = _kept(lookalikes, whole, budget)
            # Straight-through rounding: forward sees the stored levels, backward the smooth field.
            if step >= self.steps * 2 // 3:
                levels = levels + (dithered(levels, pattern) - levels).detach()
            shown = (images + levels * budget).clamp(0, 1)
            marked = three_channels(shown)
            if step >= self.settled:
                gradient, margins = self._settling_gradient(marked, posterior, whole, unsettled)
                if step >= self.steps:
                    unsettled = margins >= _FAR
                    if not unsettled.any():
                        break
            else:
                if len(waiting) < self.members_per_step:
                    waiting += torch.randperm(len(self.asked), generator=rng).tolist()
                asked, waiting = waiting[: self.members_per_step], waiting[self.members_per_step :]
                gradient = self._gradient(asked, self._viewed(marked, rng), posterior, whole)
            plain, smoothed = self.mix
            rough = plain * to_mean_one(gradient) + smoothed * to_mean_one(gaussian_blur(gradient, 1.5))
            if self.visibility is not None:
                (seen,) = torch.autograd.grad(likeness.cost(shown, self.visibility).sum(), whole)
                seen = self.thrift * to_mean_one(seen)
                rough, gradient = rough + (plain + smoothed) * seen, to_mean_one(gradient) + seen
            if self.joint:  # equal fields that make equal steps stay equal
                rough, gradient = (each.mean(0, keepdim=True).expand_as(each) for each in (rough, gradient))
                unsettled = unsettled.any().expand_as(unsettled)
            rate = self.step_size * (1 - 0.8 * min(step / self.steps, 1.0))
            field.step(rough, gradient, rate * unsettled.to(gradient)[:, None, None, None])
        return _kept(lookalikes, field.whole(), budget)

    def _viewed(self, marked: Tensor, rng: torch.Generator) -> Tensor:
        """Views of marked images ``(B, 3, h, w)``, all of the first draw, then all of the second, as one batch.

        Views of several sizes become one batch: for one image this costs little more than a single view.
        """
        if not self.diversity:
            return marked
        chosen = torch.randint(len(self.diversity), (self.views,), generator=rng).tolist()
        return torch.cat([to_square(self.diversity[kind](marked, rng), self.view_size) for kind in chosen])

    def _gradient(self, asked: Sequence[int], views: Tensor, posterior: Tensor, field: Tensor) -> Tensor:
        """Sum of some surrogates' gradients; each counts alike, whatever the scale of its logits."""
        targets = posterior.repeat(len(views) // len(posterior), 1)
        gradient = torch.zeros_like(field)
        for number in asked:
            margins = attack_margin(self.asked[number](views), targets)
            (own,) = torch.autograd.grad(margins.sum(), field, retain_graph=True)
            gradient += to_mean_one(own)
        return gradient

    def _settling_gradient(
        self, marked: Tensor, posterior: Tensor, field: Tensor, asked: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Sum of all surrogates' gradients, image by image the more of one the less it is misled.

        Also the largest margin of each image, ``(B,)``: that of the surrogate which sees through the mark best. Images
        that are not ``asked`` (``(B,)`` bool) cost nothing: they have no gradient, and a margin below any limit.
        """
        gradient = torch.zeros_like(field)
        largest = posterior.new_full((len(marked),), float("-inf"))
        for member in self.ensemble.members:
            margins = attack_margin(member(marked[asked]), posterior[asked])
            (own,) = torch.autograd.grad(margins.sum(), field, retain_graph=True)
            weights = torch.zeros_like(largest)
            weights[asked] = torch.sigmoid(margins.detach() / 2 + 2)
            gradient += to_mean_one(own) * weights[:, None, None, None]
            largest[asked] = torch.maximum(largest[asked], margins.detach())
        return gradient, largest


def _kept(lookalikes: Lookalikes | None, whole: Tensor, budget: Tensor) -> Tensor:
    """Fractions of the budget that keep to the limits."""
    if lookalikes is None:
        return whole
    limited: Tensor = lookalikes.limited(whole * budget) / budget.clamp_min(1e-6)
    return limited.clamp(-1, 1) * (budget > 0)


class _LayeredField:
    """A field as the sum of a fine and a coarse layer, each with a momentum of its own.

    Args:
        first: ``(B, 1 or 3, h, w)`` in [-1, 1], what to start from.
        coarse: share of the coarse layer.
        decay: of the momenta.
        base: ``(1 or 3, h, w)`` in [-1, 1], a third layer that stays as it is and takes the share :data:`SHARED`.
    """

    def __init__(self, first: Tensor, coarse: float, decay: float, base: Tensor | None = None) -> None:
        self.base = base
        height, width = self.size = first.shape[2:]
        cell = max(height, width) / _COARSE_CELLS
        self.grid = max(1, round(height / cell)), max(1, round(width / cell))
        self.share, self.decay = coarse, decay
        self.fine, self.fine_momentum = first * (1 - coarse), torch.zeros_like(first)
        self.coarse = first.new_zeros(*first.shape[:2], *self.grid)
        self.coarse_momentum = torch.zeros_like(self.coarse)

    def whole(self) -> Tensor:
        """All layers together, ``(B, 1 or 3, h, w)`` in [-1, 1]."""
        own = self.fine.clone()
        if self.share:
            own = own + F.interpolate(self.coarse, self.size, mode="bilinear")
        return own if self.base is None else SHARED * self.base + (1 - SHARED) * own

    def step(self, rough: Tensor, gradient: Tensor, rate: Tensor) -> None:
        """A sign step of either layer, by so much of its share, ``(B, 1, 1, 1)``."""
        self.fine_momentum = self.decay * self.fine_momentum + rough
        most = 1 - self.share
        self.fine = (self.fine - most * rate * self.fine_momentum.sign()).clamp(-most, most)
        if self.share:
            pooled = to_mean_one(F.adaptive_avg_pool2d(gradient, self.grid))
            self.coarse_momentum = self.decay * self.coarse_momentum + pooled
            stepped = self.coarse - self.share * rate * self.coarse_momentum.sign()
            self.coarse = stepped.clamp(-self.share, self.share)

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""What was found out about an image while it was marked, and what a person should be told of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from monai_miadmark.opinions import Opinion
from monai_miadmark.recognition import Recognition
from monai_miadmark.region import Region

__all__ = ["KEPT_TO_BE_NAMED", "Findings"]

KEPT_TO_BE_NAMED = 0.5
"""Share of the ensemble's answers that stay what they were from which a mark counts as one without effect."""

_NOTHING_MARKED = (
    "nothing was marked, not one sample differs from the source: it has one value, next to nothing in its display "
    "window, or no room outside the region"
)


@dataclass(frozen=True)
class Findings:
    """What was found out about an image and its mark.

    Attributes:
        recognition: what the image was taken for; ``None`` where the marker does not say.
        opinion: what the ensemble makes of the image before and after; ``None`` where there is none that can be asked.
        changed: samples that the mark changed.
        series: name of the plan that it shares with others of its series; empty where there is none.
        region: what was spared, and how sure it is; ``None`` where nothing was marked.
    """

    recognition: Recognition | None
    opinion: Opinion | None
    changed: int
    series: str = ""
    region: Region | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """Why no effect can be expected, and what to do about it; empty where nothing speaks against one."""
        told = (self._unknown(), self._nothing() or self._without_effect())
        return tuple(text for text in told if text)

    @property
    def notes(self) -> dict[str, str | float | bool]:
        """What anybody may know, for the header of the record."""
        found = self.recognition
        if found is None:
            return {}
        notes: dict[str, str | float | bool] = {"modality": found.modality}
        if found.known is not None:
            notes["modality_known"] = found.known
        if found.confidence is not None:
            notes["modality_confidence"] = round(found.confidence, 3)
        return notes

    @property
    def facts(self) -> dict[str, Any]:
        """For a manifest; ``None`` where nothing is known."""
        found, told = self.recognition, self.opinion
        modality = effect = region = None
        if self.region is not None:
            region = {
                "basis": sorted(set(self.region.basis)),
                "sure": round(float(self.region.sure.min()), 3),
                "slices": len(self.region.cells),
                "unsure_slices": int(self.region.unsure.sum()),
            }
        if found is not None:
            modality = {
                "name": found.modality,
                "confidence": None if found.confidence is None else round(found.confidence, 3),
                "known": found.known,
                "measured": found.measured,
                "named": found.named,
            }
        if told is not None:
            effect = {name: round(value, 4) for name, value in told._asdict().items()}
        return {
            "changed": self.changed,
            "modality": modality,
            "region": region,
            "effect": effect,
            "warnings": list(self.warnings),
            "series": self.series or None,
        }

    def _unknown(self) -> str:
        """The image is of no modality that the marker knows."""
        found = self.recognition
        if found is None or found.known is not False:
            return ""
        why = f"the file says {found.contradiction}" if found.contradiction else "it does not look like one"
        if found.named:
            return (
                f"was named {found.modality}, but {why}: the effect was not measured on such images (--modality auto "
                "takes what is nearest)"
            )
        return (
            f"unknown modality, marked as {found.modality} ({why}): the effect was not measured on such images; name "
            f"it with --modality if it is one of {', '.join(found.choices)}, else do not count on an effect"
        )

    def _nothing(self) -> str:
        """There was nothing to mark."""
        return "" if self.changed else _NOTHING_MARKED

    def _without_effect(self) -> str:
        """The ensemble is not misled."""
        told = self.opinion
        if told is None or told.kept <= KEPT_TO_BE_NAMED:
            return ""
        return (
            f"{told.kept:.0%} of the answers of the models that it was marked against stay what they were: a stronger "
            "--preset may help"
        )

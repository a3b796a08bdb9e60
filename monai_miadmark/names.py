# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Words that the command line and the modules behind it share, without what stands behind them: ``--help`` is quick."""

from __future__ import annotations

__all__ = ["MODALITIES", "PASSPHRASE_ENV", "PRESET_NAMES", "SIDECAR_SUFFIX", "SIGNATURE_KINDS"]

PRESET_NAMES = ("subtle", "standard", "strong", "fast")
"""Names of :data:`monai_miadmark.options.PRESETS`."""

MODALITIES = ("auto", "brain_mri", "fundus", "skin")
"""What ``--modality`` takes: those of the default marker, and whichever the image looks like."""

PASSPHRASE_ENV = "MIADMARK_PASSPHRASE"
"""Environment variable that holds the passphrase where nobody is there to type it."""

SIGNATURE_KINDS = ("ed25519", "mldsa65")
"""Kinds of signature keys."""

SIDECAR_SUFFIX = ".miadmark"
"""``NAME.EXT.miadmark`` beside a protected file holds its sealed record where the file itself does not."""

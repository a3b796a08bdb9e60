# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Two apps: DICOM in, restored, segmented by a bundle if one is given, DICOM out; DICOM in, protected, DICOM out."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from holoscan.conditions import CountCondition
from monai.deploy.core import AppContext, Application, Image, IOType
from monai.deploy.operators.dicom_data_loader_operator import DICOMDataLoaderOperator
from monai.deploy.operators.dicom_series_selector_operator import DICOMSeriesSelectorOperator
from monai.deploy.operators.dicom_utils import ModelInfo
from monai.deploy.operators.monai_bundle_inference_operator import IOMapping, MonaiBundleInferenceOperator

from monai_miadmark.apps.deploy.inference import (
    ExactVolumeOperator,
    SegmentationBundle,
    WholeSegmentationWriterOperator,
    find_bundle,
)
from monai_miadmark.apps.deploy.operators import SERIES, MIADMarkProtectOperator, MIADMarkRemoveOperator
from monai_miadmark.apps.deploy.settings import (
    VERB_ENV,
    VERBS,
    ProtectSettings,
    RestoreSettings,
    SettingsError,
    protect_settings,
    restore_settings,
    series_rules,
)
from monai_miadmark.errors import MIADMarkError
from monai_miadmark.marking import Marker
from monai_miadmark.tasks import default_marker

__all__ = ["ProtectApp", "RestoreApp", "main"]

_FAILED, _USAGE = 1, 2
_PACKAGE_ENV = "HOLOSCAN_APPLICATION"


class _App(Application):
    """Loads DICOM and selects series."""

    def __init__(self, arguments: Sequence[str], rules: str | None = None) -> None:
        self._rules = rules
        super().__init__([sys.executable, __file__, *arguments])

    def _selected(self, context: AppContext) -> tuple[DICOMSeriesSelectorOperator, dict[str, Any]]:
        """The operator that gives the selected series, and what ours are told of the folders."""
        folder = Path(context.input_path)
        load = DICOMDataLoaderOperator(self, CountCondition(self, 1), input_folder=folder, name="load")
        select = DICOMSeriesSelectorOperator(self, rules=self._rules or "", all_matched=True, name="select")
        self.add_flow(load, select, {("dicom_study_list", "dicom_study_list")})
        return select, {"input_folder": folder, "all_files": self._rules is None}


class RestoreApp(_App):
    """DICOM in, restored, and out again; or, with a segmentation bundle, only the segmentation goes out.

    Args:
        settings: keys.
        arguments: for the SDK: ``-i``, ``-o``, ``-m``, ``-l``, ``-w``.
        rules: of the series selector; default: all series, and no file may be left out.
    """

    def __init__(self, settings: RestoreSettings, arguments: Sequence[str], rules: str | None = None) -> None:
        self._settings = settings
        super().__init__(arguments, rules)

    def compose(self) -> None:
        """Build the pipeline."""
        context = Application.init_app_context(self.argv)
        bundle = find_bundle(context)
        select, folders = self._selected(context)
        remove = MIADMarkRemoveOperator(
            self,
            identities=self._settings.identities,
            require_signer=self._settings.require_signer,
            output_folder=Path(context.output_path) if bundle is None else None,
            single_series=bundle is not None,
            name="remove",
            **folders,
        )
        self.add_flow(select, remove, {(SERIES, SERIES)})
        if bundle is not None:
            self._segment(context, bundle, remove)

    def _segment(self, context: AppContext, bundle: SegmentationBundle, remove: MIADMarkRemoveOperator) -> None:
        """Add the bundle's inference, and the DICOM segmentation of its result."""
        volume = ExactVolumeOperator(self, name="volume")
        infer = MonaiBundleInferenceOperator(
            self,
            app_context=context,
            input_mapping=[IOMapping(bundle.image, Image, IOType.IN_MEMORY)],
            output_mapping=[IOMapping(bundle.pred, Image, IOType.IN_MEMORY)],
            bundle_path=bundle.path,
            name="infer",
        )
        write = WholeSegmentationWriterOperator(
            self,
            segment_descriptions=bundle.descriptions(),
            output_folder=Path(context.output_path),
            model_info=ModelInfo(name=bundle.name, version=bundle.version),
            name="write",
        )
        self.add_flow(remove, volume, {(SERIES, SERIES)})
        self.add_flow(remove, write, {(SERIES, SERIES)})
        self.add_flow(volume, infer, {("image", bundle.image)})
        self.add_flow(infer, write, {(bundle.pred, "seg_image")})


class ProtectApp(_App):
    """DICOM in, protected, and out again.

    Args:
        settings: recipients and choices.
        arguments, rules: as of :class:`RestoreApp`; a model is not looked at.
        load_marker: gives what makes the marks.
    """

    def __init__(
        self,
        settings: ProtectSettings,
        arguments: Sequence[str],
        rules: str | None = None,
        load_marker: Callable[[], Marker] = default_marker,
    ) -> None:
        self._settings, self._load_marker = settings, load_marker
        super().__init__(arguments, rules)

    def compose(self) -> None:
        """Build the pipeline."""
        context = Application.init_app_context(self.argv)
        select, folders = self._selected(context)
        protect = MIADMarkProtectOperator(
            self,
            recipients=self._settings.recipients,
            options=self._settings.options,
            signer=self._settings.signer,
            load_marker=self._load_marker,
            output_folder=Path(context.output_path),
            name="protect",
            **folders,
        )
        self.add_flow(select, protect, {(SERIES, SERIES)})


def main(arguments: Sequence[str] | None = None, load_marker: Callable[[], Marker] = default_marker) -> int:
    """Run one of the apps: ``[protect|remove] -i IN -o OUT [-m MODEL] [-l LEVEL]``.

    Args:
        arguments: default: ``sys.argv``.
        load_marker: gives what makes the marks.

    Returns:
        0 done; 1 it failed, and no DICOM file of ours was written; 2 wrong usage or keys, nothing was read.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    verb = given.pop(0) if given and given[0] in VERBS else os.environ.get(VERB_ENV, "")
    if verb not in VERBS:
        return _said(f"say protect or remove, as the first argument or in {VERB_ENV}", _USAGE)
    # The SDK logs series descriptions and paths at its own default level.
    if not any(argument.startswith(("-l", "--log-level")) for argument in given):
        given += ["-l", "WARN"]
    package = Path(os.environ.get(_PACKAGE_ENV) or Path(__file__).parent)
    try:
        rules = series_rules(os.environ)
        app: _App
        if verb == "remove":
            app = RestoreApp(restore_settings(os.environ, package), given, rules)
        else:
            app = ProtectApp(protect_settings(os.environ, package), given, rules, load_marker)
    except SettingsError as error:
        return _said(str(error), _USAGE)
    try:
        app.run()
    except Exception as error:
        # The scheduler has told what happened where; a person wants the reason once more, alone.
        known = isinstance(error, MIADMarkError | OSError | ValueError)
        return _said(f"{type(error).__name__}: {error}" if known else f"failed: {type(error).__name__}", _FAILED)
    return 0


def _said(text: str, status: int) -> int:
    """Tell a person, and give the status back."""
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    print(f"miadmark deploy: {shown}", file=sys.stderr)
    return status

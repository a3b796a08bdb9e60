# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""How marks look on clinical images: ``python benchmarks/clinical.py`` prints the tables of docs/results.md.

A viewer's windows are taken for granted here, whatever the package thinks of them: 40/400 for CT, the percentiles of
its own samples for each contrast of MR and for images whose window is absurd. Everything is measured on what is
written: files are protected as the command line does it, arrays as ``LoadImaged`` and ``ProtectWithMIADMarkd`` do.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pydicom.data
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged
from numpy.typing import NDArray
from PIL import Image
from pydicom.uid import ExplicitVRLittleEndian

from monai_miadmark.datasets import data_list
from monai_miadmark.exact import apply_mark
from monai_miadmark.formats import carrier_for
from monai_miadmark.image import StoredImage
from monai_miadmark.keys import generate_identity
from monai_miadmark.marker import load_marker
from monai_miadmark.marking import canonical_display, make_mark
from monai_miadmark.opinions import predicted
from monai_miadmark.options import ProtectOptions
from monai_miadmark.pipeline import protect_bytes, remove_bytes
from monai_miadmark.transforms import ProtectWithMIADMarkd

Window = tuple[float, float]

MAXIMA = (300, 1500, 800, 4000)
"""Of the contrasts of a study of the brain, as scanners store them."""

SOFT_TISSUE, BRAIN = (-160.0, 240.0), (-10.0, 89.0)
"""Black and white in Hounsfield units: of CT without a window, and as the head in pydicom's wheel names it."""

_LATENT = bytes(range(32))
_LEAST = 0.05
"""Cells count as inked where a logo is planned to change them by more of the display."""


class Watch:
    """A marker that passes on to another and keeps what the perturber was shown; it can leave the field out."""

    def __init__(self, marker: Any, blank: bool) -> None:
        self.marker, self.blank = marker, blank

    def specialist(self, modality: str, images: Any) -> Watch:
        self.inner = self.marker.specialist(modality, images)
        return self

    @property
    def critic(self) -> Any:
        return self.inner.critic

    def perturber(self, preset: Any) -> Watch:
        self.maker = self.inner.perturber(preset)
        return self

    def perturb(self, images: Any, clean: Any, budget: Any, latent: bytes) -> NDArray[np.float32]:
        self.images, self.clean = images, clean
        return np.zeros_like(budget) if self.blank else self.maker.perturb(images, clean, budget, latent)


def shown(values: NDArray[Any], window: Window) -> NDArray[np.float64]:
    """Samples as a viewer shows them in a window."""
    return np.clip((values.astype(np.float64) - window[0]) / (window[1] - window[0]), 0, 1)


def own_window(values: NDArray[Any]) -> Window:
    """From the 0.5th to the 99.5th percentile."""
    low, high = np.percentile(values, (0.5, 99.5))
    return float(low), float(high)


def psnr(before: NDArray[Any], after: NDArray[Any], window: Window) -> float:
    error = float(((shown(before, window) - shown(after, window)) ** 2).mean())
    return 10 * float(np.log10(1 / error)) if error else float("inf")


def logo_row(name: str, image: StoredImage, window: Window, marker: Any, options: ProtectOptions) -> list[str]:
    """Contrast of the logo as planned and as a viewer shows it, on the canonical grid."""
    watch = Watch(marker, blank=True)
    mark = make_mark(image, options, watch, _LATENT)
    viewer = StoredImage(image.values, image.bounds, _window(window), image.padding)
    marked = StoredImage(apply_mark(image, mark), image.bounds, _window(window), image.padding)
    seen = canonical_display(marked) - canonical_display(viewer)
    planned = watch.images - watch.clean
    inked = np.abs(planned) > _LEAST
    if not inked.any():
        return [name, "none", "", "", ""]
    dark = inked & (canonical_display(viewer) < 0.02)
    unseen = f"{np.abs(seen[dark]).mean():.3f}" if dark.any() else "-"
    return [
        name,
        f"{np.abs(planned[inked]).mean():.3f}",
        f"{np.abs(seen[inked]).mean():.3f}",
        unseen,
        f"{np.abs(planned - seen).max():.3f}",
    ]


def file_row(name: str, data: bytes, window: Window, marker: Any, options: ProtectOptions) -> list[str]:
    """PSNR in a viewer's window, what is stored where it does not show, and bytes of the record."""
    identity = generate_identity("x25519")
    protected = protect_bytes(data, "a.dcm", [identity.recipient], marker, options)
    if remove_bytes(protected.data, [identity]).data != data:
        raise RuntimeError(f"{name} did not come back")
    image = carrier_for(data, "a.dcm").open_source(data, "a.dcm").image
    held = carrier_for(protected.data, "a.dcm").open_protected(protected.data).values
    change = np.abs(held.astype(np.float64) - image.values)
    reach = 0.1 * (window[1] - window[0])
    above = np.minimum(image.values, held) > window[1] + reach
    outside = above | (np.maximum(image.values, held) < window[0] - reach)
    hidden = f"{(change[outside] > 0).mean():.3f}" if outside.any() else "-"
    correlation = np.corrcoef(image.values.ravel(), held.ravel())[0, 1]
    return [
        name,
        f"{psnr(image.values, held, window):.1f}",
        hidden,
        f"{correlation:.3f}",
        f"{len(protected.envelope) / 1024:.1f}",
    ]


def loaded(path: Path) -> MetaTensor:
    """As a pipeline of MONAI has it."""
    load = Compose([LoadImaged("image"), EnsureChannelFirstd("image", channel_dim="no_channel")])
    image: MetaTensor = load({"image": path})["image"]
    return image


def transformed(image: MetaTensor, marker: Any, options: ProtectOptions) -> NDArray[Any]:
    """Marked by the transform."""
    identity = generate_identity("x25519")
    marked: MetaTensor = ProtectWithMIADMarkd("image", identity.recipient, options, marker=marker)({"image": image})[
        "image"
    ]
    return marked.numpy()


def contrasts(gray: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Four contrasts of one slice ``(H, W)`` in [0, 1]: as it is, turned round, flat and steep."""
    steep = np.clip(1.6 * gray - 0.3, 0, 1)
    return [
        top * each
        for top, each in zip(MAXIMA, (gray, np.where(gray > 0.06, 1.05 - gray, 0), gray**0.5, steep), strict=True)
    ]


def brains(count: int, side: int = 128) -> list[NDArray[np.float64]]:
    """Slices of brain images, in [0, 1]."""
    files = [str(item["image"]) for item in data_list("brain_mri", "tune")]
    chosen = files[:: max(1, len(files) // count)][:count]
    return [np.asarray(Image.open(file).convert("L").resize((side, side)), np.float64) / 255 for file in chosen]


def planes_of(volume: NDArray[np.float64]) -> NDArray[np.float32]:
    """Slices ``(N, 1, h, w)``, rows first, of ``(x, y, N)``."""
    return np.ascontiguousarray(volume.transpose(2, 1, 0)[:, None], np.float32)


def wide_window(width: int) -> bytes:
    """CT_small with its samples brought to 27 ... 300 and a window of the whole type."""
    data_set = pydicom.dcmread(io.BytesIO(_wheel("CT_small.dcm")))
    pixels = data_set.pixel_array.astype(np.float64)
    pixels = 27 + 273 * (pixels - pixels.min()) / np.ptp(pixels)
    data_set.PixelData = np.rint(pixels).astype(np.int16).tobytes()
    data_set.Modality, data_set.RescaleIntercept = "MR", 0
    data_set.WindowCenter, data_set.WindowWidth = width // 2, width
    out = io.BytesIO()
    data_set.save_as(out)
    return out.getvalue()


def decompressed(data: bytes) -> bytes:
    """The same file with its samples as they are, so that the record need not carry it whole."""
    data_set = pydicom.dcmread(io.BytesIO(data))
    data_set.PixelData = carrier_for(data, "a.dcm").open_source(data, "a.dcm").image.values.tobytes()
    data_set["PixelData"].VR = "OW"
    data_set["PixelData"].is_undefined_length = False
    data_set.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    out = io.BytesIO()
    data_set.save_as(out)
    return out.getvalue()


def _window(window: Window) -> Any:
    from monai_miadmark.image import Window as Stored

    return Stored(*window)


def _wheel(name: str) -> bytes:
    path = pydicom.data.get_testdata_file(name, download=False)
    if not isinstance(path, str):
        raise FileNotFoundError(name)
    return Path(path).read_bytes()


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table in Markdown."""
    print(f"\n{title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    sys.stdout.flush()


def windows_section(marker: Any, options: ProtectOptions, files: Sequence[Path]) -> None:
    """Logo and quality of files, in the window that a viewer takes."""
    head_ct = "J2K_pixelrep_mismatch.dcm"
    ct = {"CT_small.dcm": (_wheel("CT_small.dcm"), SOFT_TISSUE), head_ct: (_wheel(head_ct), BRAIN)}
    ct[f"{head_ct}, decompressed"] = decompressed(ct[head_ct][0]), BRAIN
    rows, quality = [], []
    for name, (data, hounsfield) in ct.items():
        image = carrier_for(data, name).open_source(data, name).image
        offset = float(pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True).get("RescaleIntercept", 0))
        window = hounsfield[0] - offset, hounsfield[1] - offset
        rows.append(logo_row(name, image, window, marker, options))
        quality.append(file_row(name, data, window, marker, options))
    head = ["image", "planned", "shown", "shown where black", "largest difference"]
    table("Logo in the window of the file (40/400 and 40/100), change as a share of the display", head, rows)
    others = {f"samples 27 to 300, Window Width {width}": wide_window(width) for width in (4096, 65536)}
    others |= {path.name: path.read_bytes() for path in files}
    for name, data in others.items():
        window = own_window(carrier_for(data, "a.dcm").open_source(data, "a.dcm").image.values)
        quality.append(file_row(name, data, window, marker, options))
    head = ["file", "PSNR, dB", "changed, of what stays out of sight", "correlation", "record, KiB"]
    table("Files in a viewer's window, logo included", head, quality)


def arrays_section(marker: Any, options: ProtectOptions, count: int) -> None:
    """A CT and four contrasts of the brain, through MONAI."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.dcm"
        path.write_bytes(_wheel("CT_small.dcm"))
        image = loaded(path)
        marked = transformed(image, marker, options)  # the reader keeps no window: the file is asked
    rows = [["CT_small.dcm, 40/400", f"{psnr(image.numpy(), marked, SOFT_TISSUE):.1f}", ""]]
    planes = [np.stack(contrasts(gray.T)) for gray in brains(count)]
    volume = MetaTensor(torch.from_numpy(np.stack(planes, -1).astype(np.float32)))
    for before, after, top in zip(volume.numpy(), transformed(volume, marker, options), MAXIMA, strict=True):
        window = own_window(before)
        kept = predicted(marker, "brain_mri", *(planes_of(shown(each, window)) for each in (before, after)))
        share = "" if kept is None else f"{100 * kept.kept:.0f} %"
        rows.append([f"contrast with maximum {top}", f"{psnr(before, after, window):.1f}", share])
    table(
        "Through LoadImaged and ProtectWithMIADMarkd, no logo", ["image", "PSNR, dB", "ensemble keeps its class"], rows
    )


def times_section(marker: Any, options: ProtectOptions) -> None:
    """Time points of alike and of differing ranges, in NIfTI files."""
    identity, rows = generate_identity("x25519"), []
    for kind, scales in (("diffusion", (2400, 500, 250)), ("functional", (900, 905, 890))):
        stack = np.stack([np.stack(brains(2), -1) * scale for scale in scales], -1).transpose(1, 0, 2, 3)
        data = nib.Nifti1Image(stack.astype(np.int16), np.diag([-2.0, -2.0, 2.0, 1.0])).to_bytes()
        protected = protect_bytes(data, "a.nii", [identity.recipient], marker, options)
        before, after = (
            np.asarray(nib.Nifti1Image.from_bytes(each).dataobj, np.float64) for each in (data, protected.data)
        )
        for at, scale in enumerate(scales):
            value = psnr(before[..., at], after[..., at], own_window(before[..., at]))
            rows.append([f"{kind}, time point {at + 1}, range {scale}", f"{value:.1f}"])
    table("4D NIfTI files, no logo", ["time point", "PSNR, dB"], rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="fast", help="strength (default: fast)")
    parser.add_argument("--brains", type=int, default=4, metavar="N", help="brain images of which contrasts are made")
    parser.add_argument("--only", choices=("windows", "arrays", "times"), help="one of the sections")
    parser.add_argument("files", nargs="*", type=Path, help="DICOM files to be shown in the window of their samples")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    marker = load_marker(device="cpu")
    options = ProtectOptions(preset=arguments.preset, modality="brain_mri")
    plain = ProtectOptions(preset=arguments.preset, modality="brain_mri", style="invisible")
    if arguments.only in (None, "windows"):
        windows_section(marker, options, arguments.files)
    if arguments.only in (None, "arrays"):
        arrays_section(marker, plain, arguments.brains)
    if arguments.only in (None, "times"):
        times_section(marker, plain)
    return 0


if __name__ == "__main__":
    sys.exit(main())

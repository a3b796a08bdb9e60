# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""``make demo``: the main job on real images that ship inside installed packages, with a picture of it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import pydicom
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import nn

from monai_miadmark.evaluation.quality import Quality, logo_mask, quality
from monai_miadmark.files import protect_file, remove_file
from monai_miadmark.formats import carrier_for
from monai_miadmark.marker import BundleMarker, bundle_root, load_config, load_marker
from monai_miadmark.options import ProtectOptions
from monai_miadmark.pipeline import read_record
from monai_miadmark.recipients import HpkeIdentity, generate_identity

__all__ = ["main"]

CLASSES = ("glioma", "meningioma", "no tumor", "pituitary")
"""What the bundle's classifiers tell apart: sorted folder names of the training images."""

_JUDGE = "efficientnet"

_TILE = 256
_SLAB = range(70, 78)


class _Story(NamedTuple):
    """One image on its way through protection and back."""

    name: str
    words: tuple[str, str, str]
    measured: Quality
    record_bytes: int
    identical: bool
    tiles: list[NDArray[np.float32]]


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; 0 if every image came back byte for byte."""
    parser = argparse.ArgumentParser(prog="python -m monai_miadmark.demo", description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path("demo-output"), help="folder for all that is made")
    parser.add_argument("--preset", default="standard", help="subtle, standard, strong or fast")
    args = parser.parse_args(arguments)
    torch.manual_seed(0)
    identity = generate_identity()
    # The judge's architecture is left out of what the marks are made with: it is a stranger to them.
    marker = load_marker(exclude=(_JUDGE,))
    judges = load_config(bundle_root(), victim_names=[_JUDGE]).get_parsed_content("victims").members
    heldout = judges[0]
    options = ProtectOptions(preset=args.preset)
    print(f"preset {args.preset}, visible logo, region auto; held-out classifier: {heldout.name}")
    print(
        "It was trained on brain MRI slices. What it says of other images means little; it shows what a mark changes.\n"
    )
    stories = []
    for source in _sources(args.output / "source"):
        story = _tell(source, args.output, identity, marker, heldout, options)
        stories.append(story)
        before, after, back = story.words
        print(f"{story.name}")
        print(f"  held-out classifier: {before}  ->  protected: {after}  ->  restored: {back}")
        print(
            f"  outside the logo: PSNR {story.measured.psnr:.1f} dB, SSIM {story.measured.ssim:.3f};"
            f" record {story.record_bytes / 1024:.1f} KB"
        )
        print(f"  restored: {'identical' if story.identical else 'DIFFERENT'}\n", flush=True)
    picture = args.output / "demo.png"
    _draw(stories).save(picture)
    print(f"original | protected | difference x8 | restored: {picture}")
    return 0 if all(story.identical for story in stories) else 1


def _sources(folder: Path) -> Iterator[Path]:
    """Copy real images out of pydicom and nilearn."""
    from nilearn import datasets

    folder.mkdir(parents=True, exist_ok=True)
    inside = Path(pydicom.__file__).parent / "data" / "test_files"
    for name in ("CT_small.dcm", "MR_small.dcm", "examples_overlay.dcm", "examples_rgb_color.dcm"):
        (folder / name).write_bytes((inside / name).read_bytes())
        yield folder / name
    # The head that nilearn ships has 189 slices; eight of them show the same in a few seconds.
    shipped = Path(datasets.__file__).parent / "data" / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
    slab = nib.load(shipped).slicer[:, :, _SLAB.start : _SLAB.stop]
    nib.save(slab, folder / "MNI152_slab.nii.gz")
    yield folder / "MNI152_slab.nii.gz"


def _tell(
    source: Path,
    output: Path,
    identity: HpkeIdentity,
    marker: BundleMarker,
    heldout: nn.Module,
    options: ProtectOptions,
) -> _Story:
    """Protect and restore one file on disk and look at all three versions."""
    protected = protect_file(source, output / "protected", [identity.recipient], marker, options, overwrite=True)
    restored = remove_file(protected, output / "restored", [identity], overwrite=True)
    data, marked = source.read_bytes(), protected.read_bytes()
    carrier = carrier_for(data, source.name)
    image = carrier.open_source(data, source.name).image
    held = carrier.open_protected(marked)
    back = carrier.open_source(restored.read_bytes(), restored.name).image.values
    if held.envelope is None:
        raise RuntimeError(f"{protected} carries no record")
    record = read_record(held.envelope, held.values, [identity])
    middle = len(image.values) // 2
    planes = [image.with_values(values).shown(middle) for values in (image.values, held.values, back)]
    logo = None if record.mark is None else logo_mask(record.mark, image.values.shape)[middle]
    difference = np.clip(0.5 + 8 * (planes[1] - planes[0]), 0, 1)
    return _Story(
        source.name,
        (_opinion(heldout, planes[0]), _opinion(heldout, planes[1]), _opinion(heldout, planes[2])),
        quality(planes[0], planes[1], logo),
        len(held.envelope),
        carrier.file_digest(data) == carrier.file_digest(restored.read_bytes()),
        [planes[0], planes[1], difference, planes[2]],
    )


@torch.inference_mode()
def _opinion(model: nn.Module, plane: NDArray[np.float32]) -> str:
    """Class and probability that a model gives a display plane ``(H, W, C)``, centered on a black square."""
    side = max(plane.shape[:2])
    square = np.zeros((side, side, plane.shape[2]), np.float32)
    top, left = (side - plane.shape[0]) // 2, (side - plane.shape[1]) // 2
    square[top : top + plane.shape[0], left : left + plane.shape[1]] = plane
    logits: Any = model(torch.from_numpy(square.transpose(2, 0, 1))[None])
    probability, label = logits.softmax(1)[0].max(0)
    return f"{CLASSES[int(label)]} {100 * float(probability):.0f} %"


def _draw(stories: list[_Story]) -> Image.Image:
    """One row an image, four tiles a row, with captions."""
    font, line = ImageFont.load_default(size=14), 22
    canvas = Image.new("RGB", (4 * _TILE, len(stories) * (_TILE + line)), "black")
    draw = ImageDraw.Draw(canvas)
    for row, story in enumerate(stories):
        captions = (
            f"{story.name}: {story.words[0]}",
            f"protected: {story.words[1]}",
            "difference x8",
            f"restored: {story.words[2]}",
        )
        for column, (tile, caption) in enumerate(zip(story.tiles, captions, strict=True)):
            pixels = np.rint(255 * tile).astype(np.uint8)
            shown = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).convert("RGB")
            scale = _TILE / max(shown.size)
            shown = shown.resize((max(1, round(shown.width * scale)), max(1, round(shown.height * scale))))
            x, y = column * _TILE, row * (_TILE + line)
            canvas.paste(shown, (x + (_TILE - shown.width) // 2, y + line + (_TILE - shown.height) // 2))
            draw.text((x + 4, y + 3), caption, fill="white", font=font)
    return canvas


if __name__ == "__main__":
    sys.exit(main())

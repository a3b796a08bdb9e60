# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Protect a DICOM series of axial brain slices file by file, and tell how much its marks have to do with each other.

    python benchmarks/series.py --preset fast --slices 20

The slices are those of the MNI template that nilearn brings along, three millimeters apart. Printed are the correlation
of the fields of neighbours (outside both logos), how far the logo moves between neighbours, and PSNR.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from pathlib import Path
from typing import Any

import nibabel as nib
import nilearn
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from monai_miadmark.batch import plan, run_jobs
from monai_miadmark.engines import SerialEngine
from monai_miadmark.files import protected_name
from monai_miadmark.formats import carrier_for
from monai_miadmark.keys import generate_identity, save_key_pair
from monai_miadmark.options import ProtectOptions
from monai_miadmark.pipeline import read_record
from monai_miadmark.tasks import ProtectTask

_TEMPLATE = Path(nilearn.__file__).parent / "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"


def write_series(folder: Path, count: int, apart: bool) -> None:
    """Axial slices as single-frame MR images, twelve bits; ``apart``: each a series of its own."""
    volume = np.asarray(nib.load(_TEMPLATE).dataobj, np.float32)
    volume = np.rint(volume / volume.max() * 1500).astype(np.uint16)
    middle, uid, study = volume.shape[2] // 2, generate_uid(), generate_uid()
    for n in range(count):
        plane = np.ascontiguousarray(volume[:, ::-1, middle + 3 * (n - count // 2)].T)
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = MRImageStorage, ExplicitVRLittleEndian
        meta.MediaStorageSOPInstanceUID = generate_uid()
        data = FileDataset("", {}, preamble=bytes(128), file_meta=meta)
        data.SOPClassUID, data.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
        uid = generate_uid() if apart else uid
        data.SeriesInstanceUID, data.StudyInstanceUID, data.Modality, data.InstanceNumber = uid, study, "MR", n + 1
        data.BodyPartExamined, data.PatientID, data.PatientName = "BRAIN", "template", "MNI"
        data.Rows, data.Columns = plane.shape
        data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
        data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
        data.WindowCenter, data.WindowWidth = 700, 1400
        data.PixelData = plane.tobytes()
        data.save_as(folder / f"{n:03}.dcm", enforce_file_format=True)


def opened(before: bytes, after: bytes, identity: Any) -> tuple[NDArray[Any], NDArray[np.bool_], NDArray[np.int32]]:
    """What was added ``(h, w)``, where the logo is not, and where it stands."""
    values = carrier_for(before, "").open_source(before, "").image.values[0, :, :, 0].astype(np.int64)
    held = carrier_for(after, "").open_protected(after)
    mark = read_record(held.envelope or b"", held.values, [identity]).mark
    if mark is None or mark.logo is None or mark.field is None:
        raise SystemExit("a slice has no logo: nothing to compare")
    h, w = mark.field.levels.shape[1:3]
    rows, columns = (np.arange(n) * m // n for n, m in zip(values.shape, (h, w), strict=True))
    free = (mark.logo.coverage(0, h, w) == 0)[rows[:, None], columns]
    return held.values[0, :, :, 0] - values, free, mark.logo.positions[0]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--slices", type=int, default=20)
    parser.add_argument("--apart", action="store_true", help="each slice is a series of its own: what sharing costs")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").mkdir()
        write_series(folder / "in", options.slices, options.apart)
        identity = generate_identity("x25519")
        save_key_pair(identity, folder / "key")
        task = ProtectTask((folder / "key.pub",), ProtectOptions(options.preset))
        report = run_jobs(plan([folder / "in"], folder / "out", protected_name), task, SerialEngine())
        if report.failures:
            raise SystemExit(str(report.failures))
        pairs = [(source.read_bytes(), result.read_bytes()) for source, result in report.done]
    found = [opened(before, after, identity) for before, after in pairs]
    correlations, moves = [], []
    for (one, free, place), (other, also_free, next_place) in itertools.pairwise(found):
        both = free & also_free
        correlations.append(np.corrcoef(one[both], other[both])[0, 1])
        moves.append(float(np.hypot(*(place - next_place).tolist())))
    psnr = [10 * np.log10(1400**2 / np.mean(np.square(added[free], dtype=np.float64))) for added, free, _ in found]
    apart = "apart, " if options.apart else ""
    print(
        f"{apart}{options.preset}, {options.slices} slices: correlation of neighbours "
        f"mean {np.mean(correlations):.2f}, least {np.min(correlations):.2f}; "
        f"the logo moves in {np.count_nonzero(moves)} of {len(moves)} steps, "
        f"{np.mean(moves):.0f} cells on average, {np.max(moves):.0f} at most; PSNR {np.mean(psnr):.1f} dB; "
        f"{report.seconds:.0f} s"
    )
    if hasattr(report, "facts"):
        kept = [facts["effect"]["kept"] for facts in report.facts.values() if facts.get("effect")]
        print(f"of the answers of the ensemble {np.mean(kept):.0%} stay what they were, at most {np.max(kept):.0%}")


if __name__ == "__main__":
    main()

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The bundle as other programs and other people use it: the model zoo's checks, protection, data of one's own."""

from __future__ import annotations

import io
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import monai
import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_copies import BUNDLE, needs_weights, tiny_bundle
from image_sets import image_set
from monai.bundle import (
    ConfigWorkflow,
    ckpt_export,
    create_workflow,
    onnx_export,
    verify_metadata,
    verify_net_in_out,
)
from monai.data import PILReader, load_net_with_metadata
from monai.engines import SupervisedTrainer
from monai.fl.client import MonaiAlgo, MonaiAlgoStats
from monai.fl.utils.constants import ExtraItems
from monai.fl.utils.exchange_object import ExchangeObject
from monai.inferers import SimpleInferer
from monai.transforms import LoadImage
from PIL import Image

from monai_miadmark.datasets import data_list
from monai_miadmark.display_reader import DisplayReader
from monai_miadmark.folder_jobs import FailedFilesError, protect_folders, restore_folders
from monai_miadmark.generator import PerturbationGenerator, PreviewGenerator
from monai_miadmark.keys import generate_identity, save_key_pair
from monai_miadmark.manifest import MANIFEST_NAME
from monai_miadmark.marker import EnsembleMarker, load_config
from monai_miadmark.options import PRESETS
from monai_miadmark.surrogates import load_weights, save_weights
from monai_miadmark.transforms import ProtectWithMIADMark, RemoveMIADMark

SCHEMA_ENV = "MIADMARK_BUNDLE_SCHEMA"
"""Environment variable that names the schema of metadata.json; it is MONAI's and no part of this repository."""

META = BUNDLE / "configs" / "metadata.json"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work in a folder that has nothing to do with the bundle, and undo what runs set for the whole process."""
    monkeypatch.chdir(tmp_path)
    torch_state, numpy_state, level = torch.get_rng_state(), np.random.get_state(), logging.getLogger().level
    deterministic, benchmark = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    yield
    monai.utils.set_determinism(None)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = deterministic, benchmark
    torch.set_rng_state(torch_state)
    np.random.set_state(numpy_state)
    logging.getLogger().setLevel(level)


def run(root: Path, run_id: str, *configs: str, **overrides: Any) -> None:
    """``python -m monai.bundle run`` in this process."""
    files = [str(root / "configs" / name) for name in configs]
    monai.bundle.run(run_id=run_id, config_file=files, bundle_root=str(root), **overrides)


def pictures(folder: Path) -> dict[str, bytes]:
    """Write a gray and a color picture, one of them in a folder of its own; the bytes of both by name."""
    rng = np.random.default_rng(3)
    (folder / "sub").mkdir(parents=True)
    Image.fromarray(rng.integers(0, 256, (24, 20), dtype=np.uint8)).save(folder / "gray.png")
    Image.fromarray(rng.integers(0, 256, (24, 20, 3), dtype=np.uint8)).save(folder / "sub" / "color.jpg")
    return contents(folder)


def contents(folder: Path) -> dict[str, bytes]:
    """Images below a folder."""
    files = (p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".") and p.name != MANIFEST_NAME)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


class TestZoo:
    """What ``ci/verify_bundle.py`` of the model zoo does, with monai.bundle alone."""

    def test_metadata_fits_its_schema(self, tmp_path: Path) -> None:
        if not os.environ.get(SCHEMA_ENV):
            pytest.skip(f"{SCHEMA_ENV} does not name the schema of metadata.json")
        schema = shutil.copy(os.environ[SCHEMA_ENV], tmp_path / "schema.json")
        verify_metadata(meta_file=str(META), filepath=str(schema))

    @pytest.mark.parametrize("side", [1, 13])
    def test_network_takes_and_gives_what_metadata_say(self, side: int) -> None:
        config = str(BUNDLE / "configs" / "inference.yaml")
        options = {"any": side, "device": "cpu", "bundle_root": str(BUNDLE)}
        verify_net_in_out("network_def", meta_file=str(META), config_file=config, **options)
        with pytest.raises(ValueError, match="output channel number"):  # the check can fail
            wrong = {"_meta_#network_data_format#outputs#pred#num_channels": 2}
            verify_net_in_out("network_def", meta_file=str(META), config_file=config, **options, **wrong)

    def test_exports_to_torchscript(self, tmp_path: Path) -> None:
        root = tiny_bundle(tmp_path, weights=True)
        config, out = root / "configs" / "inference.yaml", tmp_path / "model.ts"
        ckpt_export("network_def", filepath=str(out), config_file=str(config), bundle_root=str(root))
        scripted, meta, extra = load_net_with_metadata(str(out), more_extra_files=["inference.json"])
        assert meta["name"] == "miadmark" and extra["inference.json"]
        network = load_weights(preview(root), root / "models" / "model.pt").eval()
        for shape in ((1, 3, 1, 1), (2, 1, 13, 22), (1, 1, 9, 10, 3)):
            images = torch.rand(shape)
            with torch.inference_mode():
                torch.testing.assert_close(scripted(images), network(images))

    def test_exports_to_onnx(self, tmp_path: Path) -> None:
        onnx = pytest.importorskip("onnx")
        pytest.importorskip("onnxscript")  # both are of the extra onnx
        root = tiny_bundle(tmp_path, weights=True)
        config, out = root / "configs" / "inference.yaml", tmp_path / "model.onnx"
        onnx_export(
            "network_def",
            filepath=str(out),
            ckpt_file=str(root / "models" / "model.pt"),
            meta_file=str(root / "configs" / "metadata.json"),
            config_file=str(config),
            bundle_root=str(root),
        )
        model = onnx.load(out)
        onnx.checker.check_model(model)
        assert [len(model.graph.input), len(model.graph.output)] == [1, 1]

    def test_inference_has_all_properties(self) -> None:
        workflow = create_workflow(
            config_file=str(BUNDLE / "configs" / "inference.yaml"),
            workflow_type="inference",
            meta_file=str(META),
            logging_file=str(BUNDLE / "configs" / "logging.conf"),
            bundle_root=str(BUNDLE),
            dataset_dir=".",
        )
        assert workflow.check_properties() == []
        assert isinstance(workflow.network_def, PreviewGenerator)
        assert {"dataset_dir", "output_dir", "preprocessing", "postprocessing"} <= set(workflow.parser.config)

    def test_loads(self, tmp_path: Path) -> None:
        root = tiny_bundle(tmp_path, weights=True)
        weights = torch.load(root / "models" / "model.pt", weights_only=True)
        network = monai.bundle.load("miadmark", model=preview(root), bundle_dir=str(tmp_path), source="github")
        assert all(torch.equal(value.half(), weights[name]) for name, value in network.state_dict().items())

    @needs_weights
    def test_released_weights_are_those_of_the_network(self) -> None:
        load_weights(preview(BUNDLE), BUNDLE / "models" / "model.pt")


def preview(root: Path) -> PreviewGenerator:
    """The network that ``inference.yaml`` describes."""
    network = load_config(root, "inference.yaml").get_parsed_content("network_def")
    assert isinstance(network, PreviewGenerator)
    return network


class TestInference:
    def test_shows_fields_of_pictures_and_volumes(self, tmp_path: Path) -> None:
        root = tiny_bundle(tmp_path, weights=True)
        pictures(tmp_path / "in")
        volume = np.random.default_rng(1).integers(0, 256, (20, 16, 3)).astype(np.int16)
        nib.save(nib.Nifti1Image(volume, np.diag([2, 2, 3, 1])), tmp_path / "in" / "volume.nii.gz")
        run(root, "run", "inference.yaml", dataset_dir=str(tmp_path / "in"), output_dir=str(tmp_path / "out"))
        found = {p.relative_to(tmp_path / "out").as_posix(): nib.load(p) for p in (tmp_path / "out").rglob("*.gz")}
        shapes = {name: image.shape for name, image in found.items()}
        assert shapes == {
            "gray_field.nii.gz": (20, 24),
            "sub/color_field.nii.gz": (20, 24, 1, 3),
            "volume_field.nii.gz": (20, 16, 3),
        }
        assert np.array_equal(found["volume_field.nii.gz"].affine, np.diag([2, 2, 3, 1]))
        # The network that protection uses, with budget and latent of the preview, makes the same field.
        generator = load_config(root).get_parsed_content("generator").cpu().eval()
        rows = torch.from_numpy(volume[:, :, 1].T.astype(np.float32))[None, None] / 255
        with torch.inference_mode():
            field = generator(rows, torch.full_like(rows, 12 / 255), preview(root).latent)[0, 0].T
        np.testing.assert_allclose(found["volume_field.nii.gz"].get_fdata()[:, :, 1], field, atol=1e-5)

    def test_changed_weights_are_not_read(self, tmp_path: Path) -> None:
        root = tiny_bundle(tmp_path, weights=True)
        with (root / "models" / "model.pt").open("ab") as stream:
            stream.write(b"x")
        pictures(tmp_path / "in")
        with pytest.raises(RuntimeError) as caught:
            run(root, "run", "inference.yaml", dataset_dir=str(tmp_path / "in"), output_dir=str(tmp_path / "out"))
        assert "SHA-256" in str(caught.value.__cause__)
        assert not (tmp_path / "out").exists()


class TestProtection:
    def test_files_come_back_as_they_were(self, tmp_path: Path, keys: Path) -> None:
        root = tiny_bundle(tmp_path, weights=True)
        originals = pictures(tmp_path / "in")
        options = {"preset": "fast", "text": "NO", "signer": str(keys / "custodian.key")}
        recipients = [str(keys / "alice.pub"), str(keys / "bob.pub")]
        places = {"sources": "in", "out": "protected", "recipients": recipients}
        run(root, "protect", "protect.yaml", **places, **options)
        protected = contents(tmp_path / "protected")
        assert set(protected) == {"gray.png", "sub/color.png"}
        assert not set(protected.values()) & set(originals.values())
        signed = {"require_signer": str(keys / "custodian.pub"), "identities": str(keys / "bob.key")}
        run(root, "remove", "remove.yaml", sources="protected", out="restored", **signed)
        assert contents(tmp_path / "restored") == originals == contents(tmp_path / "in")
        # The same job again, resumed: all is done already.
        run(root, "protect", "protect.yaml", **places, **options, resume=True)
        assert contents(tmp_path / "protected") == protected

    def test_own_logo(self, tmp_path: Path, keys: Path) -> None:
        """The logo of the command line is what is drawn: a frame leaves what lies inside it alone."""
        root = tiny_bundle(tmp_path, weights=True)
        folder = tmp_path / "in"
        folder.mkdir()
        Image.fromarray(np.full((96, 96), 120, np.uint8)).save(folder / "flat.png")
        changed = {}
        for name, inner in (("frame", 255), ("block", 0)):
            drawing = np.zeros((40, 40), np.uint8)
            drawing[3:37, 3:37] = inner
            Image.fromarray(drawing).save(tmp_path / f"{name}.png")
            places = {"sources": "in", "out": name, "recipients": str(keys / "alice.pub")}
            run(root, "protect", "protect.yaml", **places, preset="fast", region="none", logo=f"{name}.png")
            marked = np.asarray(Image.open(tmp_path / name / "flat.png")).astype(int)
            changed[name] = (np.abs(marked - 120) > 36).mean()
        assert changed["block"] > 1.5 * changed["frame"] > 0, changed

    def test_failures_are_told(self, tmp_path: Path, keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
        root = tiny_bundle(tmp_path, weights=True)
        pictures(tmp_path / "in")
        (tmp_path / "in" / "notes.txt").write_text("no image")
        places = {"sources": "in", "out": "protected", "recipients": str(keys / "alice.pub")}
        with pytest.raises(RuntimeError) as caught:
            run(root, "protect", "protect.yaml", **places, preset="fast")
        errors, error = [], caught.value
        while error is not None:
            errors.append(error)
            error = error.__cause__
        (failed,) = (e for e in errors if isinstance(e, FailedFilesError))
        assert [failure.path.name for failure in failed.report.failures] == ["notes.txt"]
        assert set(contents(tmp_path / "protected")) == {"gray.png", "sub/color.png"}  # the others are done
        assert "notes.txt" in capsys.readouterr().err

    def test_what_is_missing_is_named(self, tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(ValueError, match="recipients"):
            protect_folders("in", "out", [], marker=None)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="private key files"):
            restore_folders("in", "out", [])
        (tmp_path / "in").mkdir()
        with pytest.raises(ValueError, match="no files"):
            restore_folders("in", "out", keys / "alice.key")
        save_key_pair(generate_identity("x25519"), tmp_path / "locked", "a passphrase")
        monkeypatch.delenv("MIADMARK_PASSPHRASE", raising=False)
        with pytest.raises(ValueError, match="MIADMARK_PASSPHRASE"):
            restore_folders("in", "out", tmp_path / "locked.key")
        monkeypatch.setenv("MIADMARK_PASSPHRASE", "another")
        (tmp_path / "in" / "file.png").write_bytes(b"x")
        with pytest.raises(Exception, match="passphrase"):
            restore_folders("in", "out", tmp_path / "locked.key")
        assert not list(tmp_path.glob("out/*.png"))


OWN = ("bone", "lung", "nothing")


def mixed_set(folder: Path) -> Path:
    """Images of several formats, sizes and bit depths, as departments have them."""
    data = image_set(folder, "mixed", train=22, val=2, classes=("dark", "bright"))
    for number, path in enumerate(sorted((data / "mixed").rglob("*.jpg"))):
        values = np.asarray(Image.open(path)).astype(np.int16)
        if number % 4 == 1:
            nib.Nifti1Image(np.stack([values.T] * 3, 2) * 7 - 300, np.eye(4)).to_filename(path.with_suffix(".nii.gz"))
        elif number % 4 == 2:
            Image.fromarray((values * 200).astype(np.uint16)).save(path.with_suffix(".png"))
        elif number % 4 == 3:
            Image.fromarray(np.stack([values.astype(np.uint8)] * 3, 2)).resize((40, 29)).save(path.with_suffix(".TIF"))
        if number % 4:
            path.unlink()
    (data / "mixed" / "train" / "dark" / "notes.txt").write_text("no image")
    return data


def test_images_are_read_as_a_display_shows_them(tmp_path: Path) -> None:
    data = mixed_set(tmp_path / "data")
    items = [item for section in ("fit", "tune", "val") for item in data_list("mixed", section, data)]
    assert {Path(str(item["image"])).suffix for item in items} == {".jpg", ".gz", ".png", ".TIF"} and len(items) == 48
    read = LoadImage(reader=DisplayReader(), ensure_channel_first=True)
    for item in items:
        image = read(item["image"])
        assert len(image) == (3 if str(item["image"]).endswith(".TIF") else 1)
        # The brightness is that of its class whatever stored it, and the disk is where it was.
        assert 70 < float(image.max()) <= 255 and float(image[0, 0, 0]) < 40 and float(image.mean()) > 15
    gray = next(str(item["image"]) for item in items if str(item["image"]).endswith(".jpg"))
    as_pillow = LoadImage(reader=PILReader(converter=lambda image: image.convert("RGB")), ensure_channel_first=True)
    assert torch.equal(LoadImage(reader=DisplayReader("RGB"), ensure_channel_first=True)(gray), as_pillow(gray))
    (tmp_path / "x.png").write_text("no image")
    with pytest.raises(RuntimeError, match="cannot find a suitable reader"):
        read(tmp_path / "x.png")


SURROGATE, GENERATOR = (["configs/networks.yaml", f"configs/{name}.yaml"] for name in ("train_surrogate", "train"))


class TestFederated:
    """MONAI's own clients of federated learning take the training configurations as they are."""

    @pytest.fixture(scope="class")
    def data(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return mixed_set(tmp_path_factory.mktemp("mixed"))

    @pytest.fixture(scope="class")
    def root(self, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
        made = tiny_bundle(tmp_path_factory.mktemp("federated"))
        for name in ("resnet", "plain", "resnet_robust"):
            config = load_config(made, dataset="mixed", classes={"mixed": 2})
            network = config.get_parsed_content(f"networks#{name.removesuffix('_robust')}")
            save_weights(network, made / "models" / f"mixed_{name}.pt")
        return made

    def arguments(self, root: Path, data: Path) -> dict[str, Any]:
        return {
            "bundle_root": str(root),
            "dataset_dir": str(data),
            "dataset": "mixed",
            "classes": {"mixed": 2},
            "datasets": ["mixed"],
            "generator_surrogates": ["resnet", "plain"],
            "side": 32,
            "mode": "L",
            "steps_per_epoch": 2,
            "images_per_step": 2,
            "images_per_class": 4,
            "probe_images": 4,
            "batch_size": 8,
            "num_workers": 0,
            "device": "cpu",
            "log_dir": str(root / "logs"),
        }

    @pytest.mark.slow
    @pytest.mark.parametrize("configs", [SURROGATE, GENERATOR], ids=["surrogate", "generator"])
    def test_a_client_trains(self, configs: list[str], root: Path, data: Path) -> None:
        given = self.arguments(root, data)
        algo = MonaiAlgo(
            bundle_root=str(root),
            config_train_filename=configs,
            train_kwargs=given,
            config_evaluate_filename=None if configs is GENERATOR else configs,
            eval_kwargs=given,
        )
        algo.initialize(extra={ExtraItems.CLIENT_NAME: "clinic", ExtraItems.APP_ROOT: str(root)})
        assert algo.train_workflow.check_properties() == []
        assert isinstance(algo.trainer, SupervisedTrainer) and algo.trainer.state.max_epochs == 1
        before = {name: value.clone() for name, value in algo.trainer.network.state_dict().items()}
        algo.train(ExchangeObject(weights=dict(before)))
        gained = algo.get_weights().weights
        assert gained and any(np.any(np.asarray(value)) for value in gained.values())
        if configs is SURROGATE:
            told = algo.evaluate(ExchangeObject(weights=dict(before)))
            assert 0 <= told.metrics["tune_accuracy"] <= 1

    @pytest.mark.parametrize("configs", [SURROGATE, GENERATOR], ids=["surrogate", "generator"])
    def test_a_client_tells_of_its_data(self, configs: list[str], root: Path, data: Path) -> None:
        paths = [str(root / name) for name in configs]
        workflow = ConfigWorkflow(
            config_file=paths, workflow_type="train", logging_file=False, **self.arguments(root, data)
        )
        stats = MonaiAlgoStats(bundle_root=str(root), workflow=workflow)
        stats.initialize(extra={ExtraItems.CLIENT_NAME: "clinic", ExtraItems.APP_ROOT: str(root)})
        assert stats.workflow.dataset_dir == str(data)
        assert len(stats.workflow.train_dataset_data) >= 8
        assert isinstance(stats.workflow.train_inferer, SimpleInferer)


@pytest.mark.slow
def test_data_of_ones_own(tmp_path: Path, keys: Path) -> None:
    """Classifiers, then a generator, trained on one's own images and classes, then marks made with them alone."""
    root = tiny_bundle(tmp_path)
    data = image_set(tmp_path / "data", "xray", train=22, val=2, classes=OWN)
    models = tmp_path / "models"
    models.mkdir()
    names = ["resnet", "plain"]
    own = {"dataset": "xray", "classes": {"xray": len(OWN)}, "models_dir": str(models)}
    for name in names:
        small = {"epochs": 1, "batch_size": 8, "num_workers": 0, "data_dir": str(data)}
        run(root, "train_surrogates", "networks.yaml", "train_surrogate.yaml", architecture=name, **small, **own)
    run(root, "train_surrogates", "networks.yaml", "train_surrogate.yaml", "robust.yaml", **small, **own)
    steps = {"epochs": 1, "steps_per_epoch": 3, "images_per_step": 2, "probe_images": 4, "log_dir": "logs", "side": 32}
    theirs = {"datasets": ["xray"], "generator_surrogates": names, "data_dir": str(data)}
    run(root, "run", "networks.yaml", "train.yaml", **steps, **theirs, **own)
    made = ("xray_resnet.pt", "xray_plain.pt", "xray_resnet_robust.pt", "model.pt")
    assert {path.name for path in models.iterdir()} == set(made)
    assert (tmp_path / "logs").is_dir() and not list((root / "models").iterdir())

    configs = ("networks.yaml", "protect.yaml", "one_modality.yaml")
    chosen = {**own, "victim_names": names}
    marker = load_config(root, *configs, **chosen).get_parsed_content("marker")
    assert isinstance(marker, EnsembleMarker)
    assert [member.name for member in marker.ensemble.members] == names
    assert [guide.name for guide in marker.guides.surrogates] == ["resnet_robust"]
    trained = torch.load(models / "model.pt", weights_only=True)
    used = marker.perturber(PRESETS["fast"]).generator.state_dict()
    assert all(torch.equal(used[key].cpu().half(), value) for key, value in trained.items())

    image = np.asarray(Image.open(data / "xray" / "val" / "bone" / "val_000.jpg"))[None]
    for preset in ("fast", "subtle"):  # the generator, and gradient steps on the classifiers
        protect = ProtectWithMIADMark(keys / "alice.pub", preset=preset, marker=marker)
        protected = protect(image)
        assert not np.array_equal(np.asarray(protected), image)
        assert np.array_equal(np.asarray(RemoveMIADMark(keys / "alice.key")(protected)), image)

    sources = str(data / "xray" / "val")
    places = {"sources": sources, "out": "protected", "recipients": str(keys / "alice.pub")}
    run(root, "protect", *configs, **places, **chosen, preset="fast")
    run(root, "remove", "remove.yaml", sources="protected", out="restored", identities=str(keys / "alice.key"))
    assert contents(tmp_path / "restored") == contents(Path(sources))


@pytest.mark.slow
def test_training_in_two_processes(tmp_path: Path) -> None:
    """Both end with the same weights, although each drew for itself; one of them wrote them down."""
    root = tiny_bundle(tmp_path, weights=True)
    data = image_set(tmp_path / "data", train=22, val=2)
    before = (root / "models" / "model.pt").read_bytes()
    configs = [str(root / "configs" / name) for name in ("networks.yaml", "train.yaml", "multi_gpu_train.yaml")]
    note = "$torch.save(dict(weights=@generator.state_dict(), state=@train#trainer.random.get_state(), "
    note += "seed=@batches.seed), "
    command = (
        "-m torch.distributed.run --standalone --nnodes 1 --nproc_per_node 2 -m monai.bundle run "
        f"--bundle_root {root} --dataset_dir {data} --epochs 1 --steps_per_epoch 3 --images_per_step 2 "
        "--probe_images 4 --side 32"
    ).split()
    more = ["--config_file", str(configs), "--datasets", "['brain_mri']"]
    more += ["--finalize", str([note + "'rank' + str(@rank) + '.pt')", "$dist.destroy_process_group()"])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(
        [sys.executable, *command, *more], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(value, second["weights"][name]) for name, value in first["weights"].items())
    assert first["seed"] != second["seed"] and not torch.equal(first["state"], second["state"])
    written = torch.load(root / "models" / "model.pt", weights_only=True)
    assert all(torch.equal(value.half(), written[name]) for name, value in first["weights"].items())
    untrained = torch.load(io.BytesIO(before), weights_only=True)
    assert not all(torch.equal(value, untrained[name]) for name, value in written.items())
    assert len(list((root / "eval" / "generator").glob("*.pt"))) == 1


def test_preview_shares_its_weights_with_the_generator() -> None:
    small = {"width": 8, "shallow": 2, "deep": 1}
    generator, shown = PerturbationGenerator(**small), PreviewGenerator(**small, amplitude=0.05, seed=4)
    shown.load_state_dict(generator.state_dict())
    images = torch.rand(2, 1, 9, 12)
    latent = torch.randn(1, 32, generator=torch.Generator().manual_seed(4)).expand(2, -1)
    with torch.inference_mode():
        made = generator(images, torch.full((2, 1, 9, 12), 0.05), latent)
        assert torch.equal(shown(images.transpose(2, 3)).transpose(2, 3), made)
        assert torch.equal(shown(torch.stack([images] * 2, 4))[..., 1], shown(images))

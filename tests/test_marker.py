# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The marker that a bundle makes: its weights are checked, its networks are what the presets ask for."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from bundle_copies import BUNDLE, needs_weights, tiny_bundle
from networks import ensemble, generator

from monai_miadmark import marker as marker_module
from monai_miadmark.image import Bounds, StoredImage, Window
from monai_miadmark.keys import generate_identity
from monai_miadmark.marker import EnsembleMarker, bundle_root, load_config, load_marker
from monai_miadmark.options import PRESETS, ProtectOptions
from monai_miadmark.perturbers import GeneratorPerturber, GradientPerturber
from monai_miadmark.pipeline import protect_image, restore_image


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("bundle"), weights=True)


@pytest.fixture(scope="module")
def marker(root: Path) -> EnsembleMarker:
    return load_marker(root)


def test_presets_choose_the_perturber(marker: EnsembleMarker) -> None:
    assert marker.perturber(PRESETS["subtle"]) is marker.generator
    for name in ("standard", "strong"):
        perturber = marker.perturber(PRESETS[name])
        assert isinstance(perturber, GradientPerturber)
        assert perturber.steps == PRESETS[name].steps and perturber.start is marker.generator
        assert perturber.ensemble is marker.ensemble


def test_networks_are_frozen(marker: EnsembleMarker) -> None:
    for network in (marker.ensemble, marker.generator.generator):
        assert not any(module.training for module in network.modules())
        assert not any(parameter.requires_grad for parameter in network.parameters())


def test_repr_tells_the_members(marker: EnsembleMarker) -> None:
    assert repr(marker) == "EnsembleMarker(members=['resnet', 'plain', 'densenet'], device='cpu')"
    own = EnsembleMarker(GeneratorPerturber(generator()), ensemble())
    assert repr(own) == "EnsembleMarker(members=['tiny0', 'tiny1'], device='cpu')"


def test_members_can_be_left_out(root: Path) -> None:
    left = load_marker(root, "cpu", exclude=("plain",))
    assert [member.name for member in left.ensemble.members] == ["resnet", "densenet"]


def test_protects_and_restores(marker: EnsembleMarker) -> None:
    rng = np.random.default_rng(0)
    values = (80 + 60 * rng.random((1, 40, 36, 1))).astype(np.uint8)
    image, alice = StoredImage(values, Bounds(0, 255), Window(0, 255)), generate_identity("x25519")
    for preset in ("subtle", "standard"):
        protected, envelope = protect_image(image, [alice.recipient], marker, ProtectOptions(preset))
        assert (protected != values).mean() > 0.3
        assert np.array_equal(restore_image(protected, envelope, [alice]), values)


def test_loading_twice_gives_the_same_weights(root: Path, marker: EnsembleMarker) -> None:
    again = load_marker(str(root), torch.device("cpu"))
    for one, other in ((marker.ensemble, again.ensemble), (marker.generator.generator, again.generator.generator)):
        assert all(
            torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
        )


def test_loading_touches_no_random_state(root: Path) -> None:
    torch.manual_seed(0)
    numpy_state = np.random.get_state()[1].copy()
    load_marker(root)
    assert np.array_equal(numpy_state, np.random.get_state()[1])


class TestWeights:
    @pytest.fixture
    def own(self, tmp_path: Path) -> Path:
        return tiny_bundle(tmp_path, weights=True)

    def test_a_changed_file_is_refused(self, own: Path) -> None:
        path = own / "models" / "brain_mri_plain.pt"
        data = bytearray(path.read_bytes())
        data[-100] ^= 1
        path.write_bytes(bytes(data))
        with pytest.raises(ValueError, match=r"brain_mri_plain\.pt do not have the SHA-256"):
            load_marker(own)

    def test_nothing_is_unpickled_before_the_check(self, own: Path, tmp_path: Path) -> None:
        class Evil:
            def __reduce__(self) -> tuple[object, ...]:
                return (Path.touch, (tmp_path / "was_here",))

        (own / "models" / "model.pt").write_bytes(pickle.dumps(Evil()))
        with pytest.raises(ValueError, match="SHA-256"):
            load_marker(own)
        assert not (tmp_path / "was_here").exists()

    def test_a_missing_file_is_named(self, own: Path) -> None:
        (own / "models" / "model.pt").unlink()
        with pytest.raises(FileNotFoundError, match=r"model\.pt"):
            load_marker(own)

    def test_the_list_must_be_there(self, own: Path) -> None:
        (own / "models" / "SHA256SUMS").unlink()
        with pytest.raises(FileNotFoundError, match="SHA256SUMS"):
            load_marker(own)

    def test_files_that_are_not_listed_are_refused(self, own: Path) -> None:
        """Otherwise taking a line out of the list would be all that it takes to bring in other weights."""
        path = own / "models" / "SHA256SUMS"
        path.write_text("".join(line for line in path.read_text().splitlines(True) if "model.pt" not in line))
        with pytest.raises(ValueError, match=r"SHA256SUMS does not name model\.pt"):
            load_marker(own)


class TestBundleRoot:
    def test_is_the_one_of_this_checkout_or_of_the_package(self) -> None:
        assert bundle_root().samefile(BUNDLE)

    def test_an_installed_package_carries_its_own(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(marker_module, "files", lambda name: tmp_path / "site" / name)
        with pytest.raises(FileNotFoundError, match="bundle is not installed"):
            bundle_root()
        configs = tmp_path / "site" / "monai_miadmark" / "bundle" / "configs"
        configs.mkdir(parents=True)
        (configs / "networks.yaml").touch()
        assert bundle_root() == configs.parent

    def test_overrides_reach_the_configuration(self, root: Path) -> None:
        parser = load_config(root, "networks.yaml", dataset="skin")
        assert parser.get_parsed_content("dataset") == "skin"
        assert parser.get_parsed_content("models_dir") == root / "models"


@needs_weights
@pytest.mark.slow
def test_the_shipped_marker_marks() -> None:
    shipped = load_marker()
    rng = np.random.default_rng(0)
    images = rng.random((1, 1, 64, 64)).astype(np.float32)
    field = shipped.perturber(PRESETS["subtle"]).perturb(
        images, images, np.full((1, 1, 64, 64), 0.05, np.float32), bytes(32)
    )
    assert field.shape == (1, 1, 64, 64) and np.abs(field).mean() > 0.1

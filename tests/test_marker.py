# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""The marker that a bundle makes: its weights are checked, its networks are what the presets ask for."""

from __future__ import annotations

import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bundle_copies import ASIDE, BUNDLE, GUIDES, MODALITIES, ROBUST, VICTIMS, needs_weights, tiny_bundle, write_hashes
from networks import ensemble, generator, pictures
from recognizable import blobs, checks, statistics

from monai_miadmark import marker as marker_module
from monai_miadmark.gradient_steps import GradientPerturber
from monai_miadmark.image import Bounds, StoredImage, Window
from monai_miadmark.keys import generate_identity
from monai_miadmark.marker import STATISTICS, BundleMarker, EnsembleMarker, bundle_root, load_config, load_marker
from monai_miadmark.marking import make_mark
from monai_miadmark.options import PRESETS, ProtectOptions
from monai_miadmark.perturbers import GeneratorPerturber
from monai_miadmark.pipeline import protect_image, restore_image
from monai_miadmark.recognition import Recognition
from monai_miadmark.surrogates import Surrogate, robust_name


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("bundle"), weights=True)


@pytest.fixture(scope="module")
def marker(root: Path) -> BundleMarker:
    return load_marker(root)


def names(marker: EnsembleMarker) -> list[str]:
    return [member.name for member in marker.ensemble.members]


class TestEnsembleMarker:
    def test_presets_choose_the_perturber(self) -> None:
        made = GeneratorPerturber(generator())
        own = EnsembleMarker(lambda: made, ensemble(3), guides=["tiny2"])
        fast = own.perturber(PRESETS["fast"])
        assert isinstance(fast, GeneratorPerturber) and fast.generator is made.generator
        assert fast.guides is own.guides is own.critic.guides and [g.name for g in own.guides.surrogates] == ["tiny2"]
        for name in ("subtle", "standard", "strong"):
            perturber = own.perturber(PRESETS[name])
            assert isinstance(perturber, GradientPerturber)
            assert perturber.steps == PRESETS[name].steps and perturber.ensemble is own.ensemble

    @pytest.mark.parametrize("slices", [1, 11])
    def test_fast_asks_once_what_is_salient_and_where_to_go(self, slices: int, monkeypatch: pytest.MonkeyPatch) -> None:
        own = EnsembleMarker(lambda: GeneratorPerturber(generator()), ensemble(3))
        assert own.guides.quick  # to make them, one image is passed through
        asked: list[tuple[str, int]] = []
        forward = Surrogate.forward

        def counting(surrogate: Surrogate, images: torch.Tensor) -> torch.Tensor:
            asked.append((surrogate.name, len(images)))
            return forward(surrogate, images)

        monkeypatch.setattr(Surrogate, "forward", counting)
        values = (pictures(slices, 64, 64).transpose(0, 2, 3, 1) * 255).astype(np.uint8)
        image = StoredImage(values, Bounds(0, 255), Window(0, 255))
        make_mark(image, ProtectOptions("fast"), own, bytes(32))
        # A stack shares a part of its fields, which is found on six of its slices.
        most = slices if slices == 1 else 2 * slices + 6
        assert {name for name, _ in asked} == {"tiny0"} and sum(count for _, count in asked) <= most

    def test_the_generator_is_made_when_it_is_needed(self) -> None:
        def refuse() -> GeneratorPerturber:
            raise AssertionError("not needed")

        EnsembleMarker(refuse, ensemble()).perturber(PRESETS["standard"])

    def test_without_a_generator_presets_without_steps_are_refused(self) -> None:
        own = EnsembleMarker(None, ensemble())
        with pytest.raises(ValueError, match="needs a generator"):
            own.perturber(PRESETS["fast"])
        assert isinstance(own.perturber(PRESETS["standard"]), GradientPerturber)

    def test_is_its_own_specialist(self) -> None:
        own = EnsembleMarker(None, ensemble())
        assert own.specialist("auto", pictures()) is own.specialist("skin", pictures()) is own
        assert own.critic.ensemble is own.ensemble

    def test_repr_tells_the_members(self) -> None:
        assert repr(EnsembleMarker(None, ensemble())) == "EnsembleMarker(members=['tiny0', 'tiny1'], device='cpu')"


class TestBundleMarker:
    def test_has_an_ensemble_for_each_modality(self, marker: BundleMarker) -> None:
        assert marker.modalities == list(MODALITIES)
        for modality, classes in zip(MODALITIES, (4, 4, 7), strict=True):
            specialist = marker.specialist(modality, pictures())
            assert names(specialist) == list(VICTIMS) and specialist is marker.specialist(modality, pictures())
            with torch.inference_mode():
                assert all(z.shape == (1, classes) for z in specialist.ensemble(torch.zeros(1, 3, 32, 32)))

    def test_all_share_one_generator(self, marker: BundleMarker) -> None:
        """Each with guides of its own."""
        for modality in MODALITIES:
            own = marker.specialist(modality, pictures())
            assert isinstance(own, EnsembleMarker)
            made = own.perturber(PRESETS["fast"])
            assert isinstance(made, GeneratorPerturber) and made is own.perturber(PRESETS["fast"])
            assert made.generator is marker.generator.generator
            assert tuple(guide.name for guide in made.guides.surrogates) == GUIDES
            assert [m.name for m in own.ensemble.robust] == [robust_name(name) for name in ROBUST]
            assert [m.name for m in own.ensemble.aside] == [robust_name(name) for name in ASIDE]

    def test_networks_are_frozen(self, marker: BundleMarker) -> None:
        for network in (marker.specialist("skin", pictures()).ensemble, marker.generator.generator, marker._router):
            assert not any(module.training for module in network.modules())
            assert not any(parameter.requires_grad for parameter in network.parameters())

    def test_an_unknown_modality_is_refused(self, marker: BundleMarker) -> None:
        with pytest.raises(ValueError, match="auto or one of brain_mri, fundus, skin, not 'knee'"):
            marker.specialist("knee", pictures())

    def test_a_device_that_is_not_there_is_refused(self, root: Path) -> None:
        with pytest.raises(ValueError, match="device 'meta' cannot be used here"):
            load_marker(root, "meta")

    def test_repr_tells_the_modalities(self, marker: BundleMarker) -> None:
        assert repr(marker) == "BundleMarker(modalities=['brain_mri', 'fundus', 'skin'], device='cpu')"

    def test_architectures_can_be_left_out(self, root: Path) -> None:
        left = load_marker(root, "cpu", exclude=("plain",)).specialist("fundus", pictures())
        assert names(left) == [name for name in VICTIMS if name != "plain"]

    def test_the_generator_goes_with_what_it_was_trained_against(self, root: Path) -> None:
        met = load_marker(root, exclude=("plain",)).specialist("fundus", pictures())
        with pytest.raises(ValueError, match="needs a generator"):
            met.perturber(PRESETS["fast"])
        # Guides are left out with their architectures, those that only guide as well.
        for left_out, guides in (("resnet", ["inception_robust"]), ("inception", ["resnet_robust"])):
            fewer = load_marker(root, exclude=(left_out,)).specialist("fundus", pictures())
            assert [guide.name for guide in fewer.guides.surrogates] == guides
        strange = load_marker(root, exclude=("mobilenet",)).specialist("fundus", pictures())
        assert isinstance(strange.perturber(PRESETS["fast"]), GeneratorPerturber)

    @pytest.mark.parametrize(("channels", "modality"), [(1, "brain_mri"), (3, "skin")])
    def test_protects_and_restores(self, marker: BundleMarker, channels: int, modality: str) -> None:
        rng = np.random.default_rng(0)
        values = (80 + 60 * rng.random((1, 40, 36, channels))).astype(np.uint8)
        image, alice = StoredImage(values, Bounds(0, 255), Window(0, 255)), generate_identity("x25519")
        short = replace(PRESETS["standard"], steps=2)
        for options in (ProtectOptions("fast", modality=modality), ProtectOptions(short, "invisible")):
            protected, envelope = protect_image(image, [alice.recipient], marker, options)
            assert (protected != values).mean() > 0.3
            assert np.array_equal(restore_image(protected, envelope, [alice]), values)

    def test_loading_twice_gives_the_same_weights(self, root: Path, marker: BundleMarker) -> None:
        again = load_marker(str(root), torch.device("cpu"))
        pairs = [(marker.generator.generator, again.generator.generator)]
        pairs.append((marker.specialist("skin", pictures()).ensemble, again.specialist("skin", pictures()).ensemble))
        for one, other in pairs:
            assert all(
                torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
            )

    def test_loading_touches_no_random_state(self, root: Path) -> None:
        torch.manual_seed(0)
        numpy_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()
        load_marker(root).specialist("brain_mri", pictures())
        assert np.array_equal(numpy_state, np.random.get_state()[1])
        assert torch.equal(torch_state, torch.get_rng_state())


class TestRecognition:
    @pytest.fixture
    def own(self, root: Path) -> BundleMarker:
        return load_marker(root)

    @staticmethod
    def prefer(marker: BundleMarker, *scores: float) -> None:
        """Let the router say this of every image."""
        marker._router.forward = lambda images: torch.tensor([scores]).repeat(len(images), 1)

    @staticmethod
    def taken(marker: BundleMarker, images: np.ndarray) -> str:
        return marker.recognize("auto", images).modality

    def test_gray_images_are_of_the_only_gray_modality(self, own: BundleMarker) -> None:
        self.prefer(own, -9.0, 9.0, 9.0)
        assert self.taken(own, pictures()) == "brain_mri"
        assert own.specialist("auto", pictures()) is own.specialist("brain_mri", pictures())

    def test_gray_images_in_three_equal_channels_are_gray(self, own: BundleMarker) -> None:
        """Ultrasound and scans are often stored as RGB."""
        self.prefer(own, -9.0, 9.0, 9.0)
        assert self.taken(own, pictures().repeat(3, 1)) == "brain_mri"

    def test_the_router_chooses_among_colors(self, own: BundleMarker) -> None:
        for scores, expected in (((9.0, 1.0, 0.0), "fundus"), ((9.0, 0.0, 1.0), "skin")):
            self.prefer(own, *scores)
            assert self.taken(own, pictures(channels=3)) == expected

    def test_a_stack_is_judged_as_a_whole(self, own: BundleMarker) -> None:
        own._router.forward = lambda images: torch.tensor([[0, 3.0, 0], [0, 0, 1.0], [0, 0, 1.0]])
        assert self.taken(own, pictures(3, channels=3)) == "fundus"

    def test_other_numbers_of_channels_count_as_gray(self, own: BundleMarker) -> None:
        assert self.taken(own, pictures(channels=2)) == "brain_mri"
        own.modes = {"brain_mri": "L", "fundus": "L", "skin": "RGB"}
        assert self.taken(own, pictures(channels=2)) in ("brain_mri", "fundus")

    def test_where_none_fits_all_are_asked(self, own: BundleMarker) -> None:
        own.modes = dict.fromkeys(MODALITIES, "RGB")
        self.prefer(own, 0.0, 0.0, 1.0)
        assert self.taken(own, pictures()) == "skin"

    def test_without_statistics_nobody_can_tell(self, own: BundleMarker) -> None:
        found = own.recognize("auto", pictures())
        assert found == Recognition("brain_mri", None, None, True, False, MODALITIES)
        assert own.recognize("skin", pictures(channels=3)).named
        with pytest.raises(ValueError, match="auto or one of brain_mri, fundus, skin, not 'knee'"):
            own.recognize("knee", pictures())

    def test_statistics_tell_what_is_like_the_training_images(self, root: Path, tmp_path: Path) -> None:
        own = Path(shutil.copytree(root, tmp_path / "own"))
        statistics().save(own / "models" / STATISTICS)
        with pytest.raises(ValueError, match=r"SHA256SUMS does not name recognition\.npz"):
            load_marker(own)
        write_hashes(own)
        loaded = load_marker(own)
        known, strange = (loaded.recognize("auto", images[:1]) for images in (blobs(3, 99), checks(3, 99)))
        assert known.known and known.measured and known.confidence is not None and known.confidence > 0.5
        assert strange.known is False and not strange.measured and strange.modality == "brain_mri"
        assert strange.confidence is not None and strange.confidence < 0.5
        assert loaded.recognize("brain_mri", checks(1, 99)).known is False  # a name is no proof

        with (own / "models" / STATISTICS).open("ab") as stream:
            stream.write(b"more")
        with pytest.raises(ValueError, match=r"recognition\.npz do not have the SHA-256"):
            load_marker(own).recognize("auto", pictures())


class TestWeights:
    @pytest.fixture
    def own(self, root: Path, tmp_path: Path) -> Path:
        return Path(shutil.copytree(root, tmp_path / "own"))

    def test_a_changed_file_is_refused(self, own: Path) -> None:
        path = own / "models" / "brain_mri_plain.pt"
        data = bytearray(path.read_bytes())
        data[-100] ^= 1
        path.write_bytes(bytes(data))
        with pytest.raises(ValueError, match=r"brain_mri_plain\.pt do not have the SHA-256"):
            load_marker(own).specialist("brain_mri", pictures())
        load_marker(own).specialist("fundus", pictures())  # of which nothing was changed

    def test_the_router_is_checked_first(self, own: Path) -> None:
        (own / "models" / "router.pt").write_bytes(b"other")
        with pytest.raises(ValueError, match=r"router\.pt do not have the SHA-256"):
            load_marker(own)

    def test_nothing_is_unpickled_before_the_check(self, own: Path, tmp_path: Path) -> None:
        class Evil:
            def __reduce__(self) -> tuple[object, ...]:
                return (Path.touch, (tmp_path / "was_here",))

        (own / "models" / "model.pt").write_bytes(pickle.dumps(Evil()))
        with pytest.raises(ValueError, match="SHA-256"):
            _ = load_marker(own).generator
        assert not (tmp_path / "was_here").exists()

    def test_a_missing_file_is_named(self, root: Path, own: Path) -> None:
        for name in ("model.pt", "skin_resnet.pt", "router.pt"):
            (own / "models" / name).unlink()
        with pytest.raises(FileNotFoundError, match=r"router\.pt"):
            load_marker(own)
        shutil.copy(root / "models" / "router.pt", own / "models")
        loaded = load_marker(own)
        with pytest.raises(FileNotFoundError, match=r"model\.pt"):
            _ = loaded.generator
        with pytest.raises(FileNotFoundError, match=r"skin_resnet\.pt"):
            loaded.specialist("skin", pictures())

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
@pytest.mark.parametrize(("channels", "modality"), [(1, "brain_mri"), (3, "skin")])
def test_the_shipped_marker_marks(channels: int, modality: str) -> None:
    specialist = load_marker().specialist(modality, pictures())
    images = np.random.default_rng(0).random((1, channels, 64, 64)).astype(np.float32)
    field = specialist.perturber(PRESETS["fast"]).perturb(
        images, images, np.full((1, 1, 64, 64), 0.05, np.float32), bytes(32)
    )
    assert field.shape == (1, channels, 64, 64) and np.abs(field).mean() > 0.1

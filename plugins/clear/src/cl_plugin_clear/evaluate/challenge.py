"""Challenge-style evaluation: one saved model a bucket, scored on every bucket of a hold-out set.

Also from the files of the starter kit of the CLEAR challenge (CVPR 2022): ``modelNN.pth`` with heads of any width,
``labeled_images`` as data, and an own ``evaluation_setup.py`` with ``load_models`` and ``data_transform``.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from attrs import define, frozen
from PIL import Image
from torch import nn

from cl_kernel import BadInput, BadSetting, MissingAsset, open_picture, write_json
from cl_kernel.torch import device as devices
from cl_kernel.torch import state
from cl_plugin_clear.data.labels import LABELED_IMAGES
from cl_plugin_clear.data.release import Item, Pictures
from cl_plugin_clear.evaluate import metrics
from cl_plugin_clear.evaluate.report import heat_map
from cl_plugin_clear.network.backbones import backbone

if TYPE_CHECKING:
    from types import ModuleType

    from cl_kernel import RunContext
    from cl_plugin_clear.settings import Challenge

Predict = Callable[[np.ndarray], np.ndarray]
"""Rows of the hold-out set -> class indices."""


def run(ctx: RunContext, settings: Challenge) -> dict[str, Any]:
    """Experiment ``clear10-challenge``, ``clear100-challenge``; with no models, ten untrained ones on toy data."""
    return evaluate_models(settings, ctx.folder / "clear", device=ctx.resources.device, seed=ctx.seed, tick=ctx.step)


def model_files(folder: Path) -> list[Path]:
    """``t00.safetensors`` ..., the fork's ``model_*_timeII.pth`` or the kit's ``modelNN.pth``, in order of time.

    :raises MissingAsset: when there is none. :raises BadInput: when a time is missing, or there twice.
    """
    found: dict[int, Path] = {}
    for path in sorted(folder.glob("*")):
        match = re.fullmatch(r"(?:t|model|.*_time)(\d+)\.(?:safetensors|pth|pt|pth\.tar)", path.name)
        if match and int(match[1]) in found:
            raise BadInput(f"{path.name} and {found[int(match[1])].name} are of one time", where=str(folder))
        if match:
            found[int(match[1])] = path
    if not found:
        names = "t00.safetensors, model_METHOD_MODE_time00.pth or model01.pth"
        raise MissingAsset(f"no saved models: {names}", where=str(folder), fix="or --setup FILE with load_models")
    order = sorted(found)
    if order != list(range(order[0], order[0] + len(order))):
        raise BadInput(f"models of times {order}: one is missing", where=str(folder))
    return [found[time] for time in order]


def evaluate_models(
    settings: Challenge, out: Path, *, device: str = "auto", seed: int = 0, tick: Any = lambda **v: None
) -> dict[str, Any]:
    """Matrix, the four figures and the weighted score; written to ``out`` as well.

    :raises BadInput: when there are not as many models as buckets.
    """
    where = devices.resolve(device)
    if bool(settings.models) != bool(settings.data):
        raise BadSetting("saved models need a hold-out set and the other way round", where="--models/--data")
    if settings.setup and not settings.models:
        raise BadSetting("load_models is given the folder of the models", where="--setup", fix="--models DIR")
    holdout = _holdout(settings, seed)
    rows = []
    for predict in _predictors(settings, holdout, where, seed):
        hits = predict(np.arange(len(holdout.labels))) == holdout.labels
        rows.append([float(hits[members].mean()) for members in holdout.buckets.values()])
        tick()
    if len(rows) != len(holdout.buckets):
        raise BadInput(f"{len(rows)} models for {len(holdout.buckets)} buckets", where=settings.models)
    return _write(settings, np.array(rows), list(holdout.buckets), out)


def _write(settings: Challenge, R: np.ndarray, buckets: list[str], out: Path) -> dict[str, Any]:
    scores: dict[str, Any] = dict(metrics.clear_metrics(R, compat_next=settings.compat_next))
    weights = {
        "in_domain": settings.weight_in,
        "next_domain": settings.weight_next,
        "backward_transfer": settings.weight_bwt,
        "forward_transfer": settings.weight_fwt,
    }
    scores["weighted_score"] = metrics.weighted_score(scores, weights)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "matrix.json", {"buckets": buckets, "R": R.tolist()})
    write_json(out / "metrics.json", scores)
    heat_map(out / "heatmap.png", R, buckets)
    return {**scores, "matrix": R.tolist(), "trained": bool(settings.models)}


# ---- what is scored on ------------------------------------------------------------------------


@frozen
class Holdout:
    """The hold-out set: samples, class index of each, rows of each bucket."""

    samples: Any
    labels: np.ndarray
    buckets: Mapping[str, np.ndarray]
    n_classes: int

    @classmethod
    def of_stream(cls, stream: Any) -> Holdout:
        """The test set of a stream."""
        labels = stream.test.take(np.arange(len(stream.test)), ["class"])["class"]
        return cls(stream.test, labels, stream.test_sets, len(stream.class_names))


def _holdout(settings: Challenge, seed: int) -> Holdout:
    if not settings.data:
        from cl_kernel import Resources
        from cl_plugin_clear.data.toy import build_pictures
        from cl_plugin_clear.settings import ToyPictures

        return Holdout.of_stream(build_pictures(ToyPictures(n_train=4, n_test=8, n_buckets=10), Resources(seed=seed)))
    folder = Path(settings.data).expanduser()
    images = folder if folder.name == LABELED_IMAGES else folder / LABELED_IMAGES
    if not (folder / "class_names.txt").exists() and images.is_dir() and not settings.features:
        return labeled_images(images, settings.image_size)
    from cl_plugin_clear.data.release import build_stream
    from cl_plugin_clear.settings import Released

    released = Released(protocol="streaming", features=settings.features, image_size=settings.image_size)
    return Holdout.of_stream(build_stream(released, folder, "hold-out"))


def labeled_images(folder: Path, size: int) -> Holdout:
    """``labeled_images/BUCKET/CLASS/*.jpg`` alone, as the kit reads it: classes in alphabetical order.

    :raises BadInput: when there are no buckets or pictures, or a bucket lacks a class.
    """
    buckets = sorted(
        (path for path in folder.iterdir() if path.is_dir() and path.name.isdigit()), key=lambda p: int(p.name)
    )
    names = sorted({path.name for bucket in buckets for path in bucket.iterdir() if path.is_dir()})
    items: list[Item] = []
    rows: dict[str, np.ndarray] = {}
    for bucket in buckets:
        first = len(items)
        for label, name in enumerate(names):
            pictures = sorted((bucket / name).glob("*.jpg"))
            if not pictures:
                raise BadInput(f"bucket {bucket.name} has no picture of {name}", where=str(bucket))
            items += [Item(f"{bucket.name}/{name}/{path.name}", label, path.stem, name) for path in pictures]
        rows[bucket.name] = np.arange(first, len(items))
    if not items:
        raise BadInput("no pictures: BUCKET/CLASS/*.jpg is expected, buckets numbered", where=str(folder))
    samples = Pictures([folder] * len(items), items, size, len(names))
    return Holdout(samples, np.array([item.label for item in items]), rows, len(names))


# ---- who is scored ----------------------------------------------------------------------------


def _predictors(settings: Challenge, holdout: Holdout, where: torch.device, seed: int) -> Iterator[Predict]:
    """One for each time, in order; a network is loaded when it is asked for."""
    if settings.setup:
        with own_module(Path(settings.setup).expanduser()) as module:
            yield from _own(module, Path(settings.models).expanduser(), holdout, where)
        return
    if not settings.models:
        for number in range(len(holdout.buckets)):
            yield _ours(_network("tiny", holdout.n_classes, seed + number), holdout, where)
        return
    for path in model_files(Path(settings.models).expanduser()):
        tensors = state.read_weights(path)
        network = _head(tensors, path) if settings.features else _network(settings.arch, _outputs(tensors, path), seed)
        state.assign(network, tensors, where=str(path))
        yield _ours(network, holdout, where)


def _outputs(tensors: Mapping[str, torch.Tensor], path: Path) -> int:
    """Width of the head that is saved: the kit's own example has the 1000 outputs of ImageNet.

    :raises BadInput: for weights without ``fc``.
    """
    if "fc.weight" not in tensors:
        known = "no torchvision ResNet: it has no fc.weight"
        raise BadInput(known, where=str(path), fix="--setup FILE with load_models for other networks")
    return int(tensors["fc.weight"].shape[0])


def _ours(network: nn.Module, holdout: Holdout, where: torch.device) -> Predict:
    from cl_kernel.torch.loaders import Batches

    network = network.to(where).eval()

    def predict(rows: np.ndarray) -> np.ndarray:
        found = []
        with torch.inference_mode():
            for _, inputs, _ in Batches(holdout.samples, where)(rows, 256):
                found.append(network(inputs).argmax(1).cpu().numpy())
        return np.concatenate(found)

    return predict


@contextlib.contextmanager
def own_module(path: Path) -> Iterator[ModuleType]:
    """A person's own file, run; what lies beside it can be imported by it.

    :raises MissingAsset: without the file. :raises BadInput: when it fails, or has no ``load_models``.
    """
    if not path.is_file():
        raise MissingAsset("no such file", where=str(path), fix="--setup evaluation_setup.py")
    spec = importlib.util.spec_from_file_location("evaluation_setup", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            raise BadInput(f"the file fails: {type(error).__name__}: {error}", where=str(path)) from error
        if not callable(getattr(module, "load_models", None)):
            raise BadInput("the file has no load_models(models_path)", where=str(path))
        yield module
    finally:
        sys.path.remove(str(path.parent.resolve()))


def _own(module: ModuleType, models: Path, holdout: Holdout, where: torch.device) -> Iterator[Predict]:
    """Networks by the file's ``load_models``, pictures by its ``data_transform`` where it has one."""
    networks = _networks(module, models, holdout.n_classes)
    transform = module.data_transform() if hasattr(module, "data_transform") else None
    if transform is None:
        for network in networks:
            yield _ours(network, holdout, where)
        return
    if not isinstance(holdout.samples, Pictures):
        raise BadSetting("data_transform is for pictures, --features names vectors", where="--setup/--features")
    for network in networks:
        yield _Transformed(network.to(where).eval(), transform, holdout.samples, where)


def _networks(module: ModuleType, models: Path, n_classes: int) -> Sequence[nn.Module]:
    """What ``load_models`` gives, told the classes of the data where it asks; else with its own default.

    :raises BadInput: when it fails either way, with the first reason.
    """
    asked = inspect.signature(module.load_models).parameters.get("num_classes")
    tries: list[dict[str, int]] = [{"num_classes": n_classes}] if asked else []
    if asked is None or asked.default is not inspect.Parameter.empty:
        tries.append({})
    failures = []
    for options in tries:
        try:
            return module.load_models(str(models), **options)  # type: ignore[no-any-return]
        except Exception as error:
            failures.append(error)
    reason = f"load_models fails: {type(failures[0]).__name__}: {str(failures[0])[:300]}"
    raise BadInput(reason, where=f"{module.__file__}, {models}") from failures[0]


@define
class _Transformed:
    """Predicts from pictures that a person's transform prepares, in batches."""

    network: nn.Module
    transform: Callable[[Image.Image], torch.Tensor]
    pictures: Pictures
    where: torch.device
    batch_size: int = 128

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        found = []
        with torch.inference_mode():
            for start in range(0, len(rows), self.batch_size):
                batch = torch.stack([self.transform(self._open(row)) for row in rows[start : start + self.batch_size]])
                found.append(self.network(batch.to(self.where)).argmax(1).cpu().numpy())
        return np.concatenate(found)

    def _open(self, row: int) -> Image.Image:
        return open_picture(self.pictures.folder_of[row] / self.pictures.items[row].path)


def _network(arch: str, n_classes: int, seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network, width = backbone(arch)
        network.fc = nn.Linear(width, n_classes)
    return network


def _head(tensors: Mapping[str, torch.Tensor], path: Path) -> nn.Module:
    """The empty head that these weights fill: one linear layer, or two.

    :raises BadInput: when they are neither.
    """
    shapes = {name: tuple(value.shape) for name, value in tensors.items() if value.ndim == 2}
    if set(shapes) == {"weight"}:
        return nn.Linear(shapes["weight"][1], shapes["weight"][0])
    if set(shapes) == {"0.weight", "2.weight"}:
        (hidden, width), (n_classes, _) = shapes["0.weight"], shapes["2.weight"]
        return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, n_classes))
    raise BadInput("neither a linear nor a two-layer head", where=str(path), fix="leave out --features for a network")

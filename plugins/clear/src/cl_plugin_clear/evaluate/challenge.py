"""Challenge-style evaluation: one saved model a bucket, scored on every bucket of a hold-out set."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from cl_kernel import BadInput, BadSetting, MissingAsset, write_json
from cl_kernel.torch import device as devices
from cl_kernel.torch import state
from cl_plugin_clear.evaluate import metrics
from cl_plugin_clear.evaluate.report import heat_map
from cl_plugin_clear.network.backbones import backbone

if TYPE_CHECKING:
    from cl_kernel import RunContext
    from cl_plugin_clear.settings import Challenge


def run(ctx: RunContext, settings: Challenge) -> dict[str, Any]:
    """Experiment ``clear10-challenge``, ``clear100-challenge``; with no models, ten untrained ones on toy data."""
    return evaluate_models(settings, ctx.folder / "clear", device=ctx.resources.device, seed=ctx.seed, tick=ctx.step)


def model_files(folder: Path) -> list[Path]:
    """``t00.safetensors`` ... or the fork's ``model_*_timeII.pth``, in order of time.

    :raises MissingAsset: when there is none. :raises BadInput: when a time is missing.
    """
    found: dict[int, Path] = {}
    for path in folder.glob("*"):
        match = re.fullmatch(r"(?:t|.*_time)(\d+)\.(?:safetensors|pth|pt|pth\.tar)", path.name)
        if match:
            found[int(match[1])] = path
    if not found:
        raise MissingAsset("no saved models: t00.safetensors, or model_METHOD_MODE_time00.pth", where=str(folder))
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
        raise BadSetting(
            "saved models need a hold-out set and the other way round", where="experiment.models/experiment.data"
        )
    if settings.data:
        from cl_plugin_clear.data.release import build_stream
        from cl_plugin_clear.settings import Released

        released = Released(protocol="streaming", features=settings.features, image_size=settings.image_size)
        stream = build_stream(released, Path(settings.data), "hold-out")
        models: list[Any] = list(model_files(Path(settings.models)))
    else:
        from cl_kernel import Resources
        from cl_plugin_clear.data.toy import build_pictures
        from cl_plugin_clear.settings import ToyPictures

        stream = build_pictures(ToyPictures(n_train=4, n_test=8, n_buckets=10), Resources(seed=seed))
        models = [None] * len(stream.stages)
    if len(models) != len(stream.test_sets):
        raise BadInput(f"{len(models)} models for {len(stream.test_sets)} buckets", where=settings.models)
    n_classes = len(stream.class_names)
    rows = []
    for number, path in enumerate(models):
        if path is None:
            network = _network("tiny", n_classes, seed + number)
        else:
            tensors = state.read_weights(path)
            network = _head(tensors, path) if settings.features else _network(settings.arch, n_classes, seed)
            state.assign(network, tensors, where=str(path))
        network = network.to(where).eval()
        rows.append(_accuracies(network, stream, where))
        tick()
    R = np.array(rows)
    scores: dict[str, Any] = dict(metrics.clear_metrics(R, compat_next=settings.compat_next))
    weights = {
        "in_domain": settings.weight_in,
        "next_domain": settings.weight_next,
        "backward_transfer": settings.weight_bwt,
        "forward_transfer": settings.weight_fwt,
    }
    scores["weighted_score"] = metrics.weighted_score(scores, weights)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "matrix.json", {"buckets": list(stream.test_sets), "R": R.tolist()})
    write_json(out / "metrics.json", scores)
    heat_map(out / "heatmap.png", R, list(stream.test_sets))
    return {**scores, "matrix": R.tolist(), "trained": bool(settings.models)}


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


def _accuracies(network: nn.Module, stream: Any, where: torch.device) -> list[float]:
    from cl_kernel.torch.loaders import Batches

    right = []
    with torch.inference_mode():
        for _, inputs, labels in Batches(stream.test, where)(np.arange(len(stream.test)), 256):
            right.append((network(inputs).argmax(1) == labels).cpu().numpy())
    hits = np.concatenate(right)
    return [float(hits[members].mean()) for members in stream.test_sets.values()]

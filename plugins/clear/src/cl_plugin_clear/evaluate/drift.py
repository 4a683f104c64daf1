"""Tables of methods on feature vectors, over seeds: experiments ``toy-drift`` and ``alpha-grid``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import define, evolve

from cl_kernel import BadSetting, Field, Stage, Stream, write_json, write_text
from cl_plugin_clear.evaluate import metrics
from cl_plugin_clear.evaluate.report import heat_map
from cl_plugin_clear.settings import Buckets, Released, ToyDrift

if TYPE_CHECKING:
    from cl_kernel import Resources, RunContext
    from cl_plugin_clear.settings import AlphaGrid, DriftTable

TABLE: Mapping[str, Mapping[str, Any]] = {
    "naive": {"keep": "single", "start": "finetune"},
    "reservoir 1": {"keep": "memory", "alpha": 1.0},
    "biased 2": {"keep": "memory", "alpha": 2.0},
    "biased 5": {"keep": "memory", "alpha": 5.0},
    "dynamic 0.75": {"keep": "memory", "alpha": 0.75, "dynamic": True},
    "cumulative": {"keep": "cumulative"},
}
"""Rows of the table; retrained unless said."""


@define
class Quiet:
    """The little of a run's context that a learner needs when several are trained inside one experiment."""

    resources: Resources
    stages: Sequence[Stage]
    tick: Callable[..., None]
    seed: int
    folder: None = None  # no checkpoints

    def rng(self, *names: str | int) -> np.random.Generator:
        """As the kernel's."""
        return self.resources.rng(*names, self.seed)

    def phase(self, name: str, n_steps: int = 0) -> None:
        """Nothing to say."""

    def step(self, **values: Any) -> None:
        """One step is done."""
        self.tick(**values)

    def bad_sample(self, what: str, error: Exception | str) -> None:
        """As the kernel's."""
        self.resources.bad_sample(what, error)


def train_over(
    stream: Stream,
    method: Mapping[str, Any],
    settings: Buckets,
    resources: Resources,
    seed: int,
    tick: Callable[..., None],
    capacity: int = 0,
) -> np.ndarray:
    """Accuracy matrix float64 [T, T] of one method and seed, see :func:`train_seeds`."""
    return train_seeds([stream], method, settings, [resources], [seed], tick, capacity)[0]


def train_seeds(
    streams: Sequence[Stream],
    method: Mapping[str, Any],
    settings: Buckets,
    resources: Sequence[Resources],
    seeds: Sequence[int],
    tick: Callable[..., None],
    capacity: int = 0,
) -> list[np.ndarray]:
    """Accuracy matrices float64 [T, T] of one method over streams of feature vectors, its seeds trained side by side.

    :param streams, resources: of each seed. :param method: ``keep``, ``start``, ``alpha``, ``dynamic``.
    :param capacity: of the memory; 0 for the size of the first bucket, the paper's choice.
    """
    from cl_plugin_clear.method.seeds import learn_together

    settings = evolve(settings, keep=method["keep"], start=method.get("start", "retrain"))
    learners = [
        _learner(stream, method, settings, own, seed, capacity)
        for stream, own, seed in zip(streams, resources, seeds, strict=True)
    ]
    contexts = [
        Quiet(own, stream.stages, tick, seed) for stream, own, seed in zip(streams, resources, seeds, strict=True)
    ]
    labels = [stream.test.take(np.arange(len(stream.test)), ["class"])["class"] for stream in streams]
    rows: list[list[list[float]]] = [[] for _ in streams]
    for at in range(len(streams[0].stages)):
        learn_together(learners, [stream.stages[at] for stream in streams], contexts)
        for learner, stream, expected, row in zip(learners, streams, labels, rows, strict=True):
            right = np.concatenate([output["class"] for output in learner.predict(stream.test)]) == expected
            row.append([float(right[members].mean()) for members in stream.test_sets.values()])
    return [np.array(matrix) for matrix in rows]


def _learner(
    stream: Stream, method: Mapping[str, Any], settings: Buckets, resources: Resources, seed: int, capacity: int
) -> Any:
    import torch
    from torch import nn

    from cl_kernel.library.memories.policies import BiasedReservoir
    from cl_kernel.library.memories.raw import RawCodec
    from cl_kernel.memory import Memory
    from cl_kernel.torch import device as devices
    from cl_plugin_clear.method.buckets import Classifier
    from cl_plugin_clear.method.reservoir import TwoBufferMemory

    spec: Mapping[str, Field] = stream.spec
    capacity = capacity or len(stream.stages[0].train)
    memory = None
    if settings.keep in ("memory", "two_buffer"):
        make = BiasedReservoir if settings.keep == "memory" else TwoBufferMemory
        policy = make(capacity, method.get("alpha", 1.0), dynamic=method.get("dynamic", False), by_bucket=True)
        memory = Memory(policy, RawCodec(spec), capacity, resources.rng("memory", seed))  # type: ignore[arg-type]
    device = devices.resolve(resources.device)
    with torch.random.fork_rng():
        torch.manual_seed(int(resources.rng("torch", seed).integers(2**62)))
        network = nn.Linear(int(spec["vector"].shape[0] or 0), stream.n_classes).to(device)
    return Classifier(settings, network, memory, device, stream.info.get("protocol", "iid"), len(stream.stages))


def run_drift(ctx: RunContext, settings: DriftTable) -> dict[str, Any]:
    """Experiment ``toy-drift``: six methods, several seeds, four checks."""
    from cl_plugin_clear.data.toy import build_drift

    training = Buckets(
        epochs=settings.epochs, batch_size=settings.batch_size, lr=settings.lr, lr_step=10**6, keep_best=False
    )
    resources = [evolve(ctx.resources, seed=ctx.seed + seed) for seed in range(settings.n_seeds)]
    streams = [build_drift(ToyDrift(drift=settings.drift), own) for own in resources]
    table = _table(ctx, TABLE, streams, training, resources)
    checks = drift_checks(table.mean)
    table.write(ctx.folder / "clear", checks=checks)
    table.draw(ctx.folder / "clear")
    return {
        **table.rows(),
        **{f"check {name}": text for name, (_, text) in checks.items()},
        "checks_passed": sum(good for good, _ in checks.values()),
        "checks": len(checks),
        "table": table.mean,
    }


def grid() -> dict[str, dict[str, Any]]:
    """The authors' grid of one memory: nine alphas, retrained and fine-tuned."""
    from cl_plugin_clear.experiments import DYNAMIC, FIXED

    return {
        f"{kind} {alpha:g} {start}": {"keep": "memory", "alpha": alpha, "dynamic": kind == "dynamic", "start": start}
        for start in ("retrain", "finetune")
        for kind, alphas in (("fixed", FIXED), ("dynamic", DYNAMIC))
        for alpha in alphas
    }


def run_grid(ctx: RunContext, settings: AlphaGrid) -> dict[str, Any]:
    """Experiment ``alpha-grid``: the biased reservoir's alphas on feature vectors, seeds of one setting side by side.

    Each seed has its own split of the folder, as the released ones 0 to 4.

    :raises BadSetting: for a folder without the name of a feature set.
    """
    from cl_plugin_clear.data.release import build_stream
    from cl_plugin_clear.data.toy import build_drift

    resources = [evolve(ctx.resources, seed=ctx.seed + seed) for seed in range(settings.n_seeds)]
    if settings.path and not settings.features:
        raise BadSetting("which feature set?", where="experiment.features", fix="--set experiment.features=moco_b0")
    if settings.path:
        released = Released(features=settings.features, protocol=settings.protocol, skip_buckets=settings.skip_buckets)
        streams = [
            build_stream(evolve(released, split_seed=ctx.seed + seed), Path(settings.path).expanduser(), "clear:grid")
            for seed in range(settings.n_seeds)
        ]
    else:
        streams = [build_drift(ToyDrift(protocol=settings.protocol), own) for own in resources]
    training = Buckets(epochs=settings.epochs, batch_size=settings.batch_size, lr=settings.lr, lr_step=settings.lr_step)
    table = _table(ctx, grid(), streams, training, resources)
    table.write(ctx.folder / "clear")
    return {**table.rows(), "table": table.mean}


@define
class _Scores:
    """Matrices and the five figures of methods over seeds."""

    names: tuple[str, ...]
    matrices: dict[str, list[np.ndarray]]

    @property
    def per_seed(self) -> dict[str, list[dict[str, float | None]]]:
        """The figures of each seed."""
        return {name: [metrics.clear_metrics(R) for R in found] for name, found in self.matrices.items()}

    @property
    def over_seeds(self) -> dict[str, dict[str, tuple[float, float] | None]]:
        """Mean and deviation of each figure."""
        return {name: metrics.over_seeds(found) for name, found in self.per_seed.items()}

    @property
    def mean(self) -> dict[str, dict[str, float]]:
        """Means in per cent."""
        return {
            name: {key: 100 * pair[0] for key, pair in table.items() if pair} for name, table in self.over_seeds.items()
        }

    def rows(self) -> dict[str, str]:
        """A line of text for each method."""
        return {
            f"{name}: In / Next / Acc / BwT / FwT": " / ".join(f"{table[key]:.1f}" for key in metrics.NAMES)
            for name, table in self.mean.items()
        }

    def write(self, folder: Path, **more: Any) -> None:
        """``table.json`` and ``table.tex``."""
        matrices = {name: [R.tolist() for R in found] for name, found in self.matrices.items()}
        write_json(folder / "table.json", {"per_seed": self.per_seed, "matrices": matrices, **more})
        lines = [metrics.latex_row(name, table) for name, table in self.over_seeds.items()]
        write_text(folder / "table.tex", "\n".join(lines) + "\n")

    def draw(self, folder: Path) -> None:
        """A heat map of each method."""
        for name, found in self.matrices.items():
            heat_map(folder / f"heatmap-{name.replace(' ', '-')}.png", np.mean(found, axis=0), list(self.names), name)


def _table(
    ctx: RunContext,
    methods: Mapping[str, Mapping[str, Any]],
    streams: Sequence[Stream],
    training: Buckets,
    resources: Sequence[Resources],
) -> _Scores:
    matrices = {}
    for name, method in methods.items():
        n_steps = len(streams[0].stages) * training.epochs
        ctx.phase(name, n_steps)
        matrices[name] = train_seeds(streams, method, training, resources, range(len(streams)), ctx.step)
        following = [metrics.clear_metrics(R)["next_domain"] or 0.0 for R in matrices[name]]
        ctx.note(f"{name}: next " + ", ".join(f"{value:.3f}" for value in following))
    return _Scores(tuple(streams[0].test_sets), matrices)


def drift_checks(mean: Mapping[str, Mapping[str, float]]) -> dict[str, tuple[bool, str]]:
    """The four checks on means in per cent: name -> (passed, text)."""

    def at_least(value: float, floor: float) -> tuple[bool, str]:
        return value >= floor, f"{value:.1f} (at least {floor:g}): {'passed' if value >= floor else 'FAILED'}"

    gaps = {name: table["in_domain"] - table["next_domain"] for name, table in mean.items()}
    return {
        "biased 5 - reservoir 1, Next": at_least(
            mean["biased 5"]["next_domain"] - mean["reservoir 1"]["next_domain"], 5
        ),
        "reservoir 1 - naive, BwT": at_least(
            mean["reservoir 1"]["backward_transfer"] - mean["naive"]["backward_transfer"], 8
        ),
        "cumulative - naive, BwT": at_least(
            mean["cumulative"]["backward_transfer"] - mean["naive"]["backward_transfer"], 12
        ),
        "In > Next for every method, smallest gap": (
            min(gaps.values()) > 0,
            f"{min(gaps.values()):.1f}: {'passed' if min(gaps.values()) > 0 else 'FAILED'}",
        ),
    }

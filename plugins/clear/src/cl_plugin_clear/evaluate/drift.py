"""The table of methods on drifting feature vectors, over seeds: experiment ``toy-drift``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import define, evolve

from cl_kernel import Field, Stage, Stream, write_json, write_text
from cl_plugin_clear.evaluate import metrics
from cl_plugin_clear.evaluate.report import heat_map
from cl_plugin_clear.settings import Buckets, ToyDrift

if TYPE_CHECKING:
    from cl_kernel import Resources, RunContext
    from cl_plugin_clear.settings import DriftTable

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
    """Accuracy matrix float64 [T, T] of one method over a stream of feature vectors.

    :param method: ``keep``, ``start``, ``alpha``, ``dynamic``.
    :param capacity: of the memory; 0 for the size of the first bucket, the paper's choice.
    """
    import torch
    from torch import nn

    from cl_kernel.library.memories.policies import BiasedReservoir
    from cl_kernel.library.memories.raw import RawCodec
    from cl_kernel.memory import Memory
    from cl_kernel.torch import device as devices
    from cl_plugin_clear.method.buckets import Classifier
    from cl_plugin_clear.method.reservoir import TwoBufferMemory

    spec: Mapping[str, Field] = stream.spec
    width = int(spec["vector"].shape[0] or 0)
    settings = evolve(settings, keep=method["keep"], start=method.get("start", "retrain"))
    capacity = capacity or len(stream.stages[0].train)
    memory = None
    if settings.keep in ("memory", "two_buffer"):
        alpha, dynamic = method.get("alpha", 1.0), method.get("dynamic", False)
        policy = (
            BiasedReservoir(capacity, alpha=alpha, dynamic=dynamic, by_bucket=True)
            if settings.keep == "memory"
            else TwoBufferMemory(capacity, alpha, dynamic, by_bucket=True)
        )
        memory = Memory(policy, RawCodec(spec), capacity, resources.rng("memory", seed))  # type: ignore[arg-type]
    device = devices.resolve(resources.device)
    with torch.random.fork_rng():
        torch.manual_seed(int(resources.rng("torch", seed).integers(2**62)))
        network = nn.Linear(width, stream.n_classes).to(device)
    learner = Classifier(settings, network, memory, device, stream.info.get("protocol", "iid"), len(stream.stages))
    ctx: Any = Quiet(resources, stream.stages, tick, seed)
    labels = stream.test.take(np.arange(len(stream.test)), ["class"])["class"]
    rows = []
    for stage in stream.stages:
        learner.learn(stage, ctx)
        predicted = np.concatenate([output["class"] for output in learner.predict(stream.test)])
        right = predicted == labels
        rows.append([float(right[members].mean()) for members in stream.test_sets.values()])
    return np.array(rows)


def run_drift(ctx: RunContext, settings: DriftTable) -> dict[str, Any]:
    """Experiment ``toy-drift``: six methods, several seeds, four checks."""
    from cl_plugin_clear.data.toy import build_drift

    training = Buckets(
        epochs=settings.epochs, batch_size=settings.batch_size, lr=settings.lr, lr_step=10**6, keep_best=False
    )
    runs: dict[str, list[dict[str, float | None]]] = {name: [] for name in TABLE}
    matrices: dict[str, list[Any]] = {name: [] for name in TABLE}
    ctx.phase("toy-drift", settings.n_seeds * len(TABLE))
    for seed in range(settings.n_seeds):
        resources = evolve(ctx.resources, seed=ctx.seed + seed)
        stream = build_drift(ToyDrift(drift=settings.drift), resources)
        for name, method in TABLE.items():
            R = train_over(stream, method, training, resources, seed, ctx.step)
            matrices[name].append(R.tolist())
            runs[name].append(metrics.clear_metrics(R))
        ctx.note(f"seed {seed}: " + ", ".join(f"{name} next {runs[name][-1]['next_domain']:.3f}" for name in TABLE))
    scores = {name: metrics.over_seeds(per_seed) for name, per_seed in runs.items()}
    mean = {name: {key: 100 * pair[0] for key, pair in table.items() if pair} for name, table in scores.items()}
    checks = drift_checks(mean)
    folder = ctx.folder / "clear"
    write_json(folder / "table.json", {"per_seed": runs, "matrices": matrices, "checks": checks})
    write_text(folder / "table.tex", "\n".join(metrics.latex_row(name, table) for name, table in scores.items()) + "\n")
    for name in TABLE:
        heat_map(
            folder / f"heatmap-{name.replace(' ', '-')}.png",
            np.mean(matrices[name], axis=0),
            [str(b + 1) for b in range(10)],
            name,
        )
    rows = {
        f"{name}: In / Next / Acc / BwT / FwT": " / ".join(f"{mean[name][key]:.1f}" for key in metrics.NAMES)
        for name in TABLE
    }
    return {
        **rows,
        **{f"check {name}": text for name, (_, text) in checks.items()},
        "checks_passed": sum(good for good, _ in checks.values()),
        "checks": len(checks),
        "table": mean,
    }


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


# ---- toy-yfcc ---------------------------------------------------------------------------------

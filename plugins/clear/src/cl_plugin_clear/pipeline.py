"""Experiments that are no stream: the whole pipeline on ``toy-yfcc``, and the table of methods on ``toy-drift``."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import define, evolve

from cl_kernel import BadSetting, Field, Stage, Stream, write_json, write_text
from cl_plugin_clear import evaluate
from cl_plugin_clear.report import heat_map
from cl_plugin_clear.settings import Buckets, ToyDrift

if TYPE_CHECKING:
    from cl_kernel import Resources, RunContext
    from cl_plugin_clear.settings import Build, DriftTable, Pipeline

TABLE: Mapping[str, Mapping[str, Any]] = {
    "naive": {"keep": "single", "start": "finetune"},
    "reservoir 1": {"keep": "memory", "alpha": 1.0},
    "biased 2": {"keep": "memory", "alpha": 2.0},
    "biased 5": {"keep": "memory", "alpha": 5.0},
    "dynamic 0.75": {"keep": "memory", "alpha": 0.75, "dynamic": True},
    "cumulative": {"keep": "cumulative"},
}
"""Rows of the table of sec. 4.9; retrained unless said."""


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
    from cl_plugin_clear.replay import TwoBufferMemory
    from cl_plugin_clear.train.buckets import Classifier

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
    """Experiment ``toy-drift``: six methods, several seeds, the four checks of sec. 4.9."""
    from cl_plugin_clear.standin import build_drift

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
            runs[name].append(evaluate.clear_metrics(R))
        ctx.note(f"seed {seed}: " + ", ".join(f"{name} next {runs[name][-1]['next_domain']:.3f}" for name in TABLE))
    scores = {name: evaluate.over_seeds(per_seed) for name, per_seed in runs.items()}
    mean = {name: {key: 100 * pair[0] for key, pair in table.items() if pair} for name, table in scores.items()}
    checks = drift_checks(mean)
    folder = ctx.folder / "clear"
    write_json(folder / "table.json", {"per_seed": runs, "matrices": matrices, "checks": checks})
    write_text(
        folder / "table.tex", "\n".join(evaluate.latex_row(name, table) for name, table in scores.items()) + "\n"
    )
    for name in TABLE:
        heat_map(
            folder / f"heatmap-{name.replace(' ', '-')}.png",
            np.mean(matrices[name], axis=0),
            [str(b + 1) for b in range(10)],
            name,
        )
    rows = {
        f"{name}: In / Next / Acc / BwT / FwT": " / ".join(f"{mean[name][key]:.1f}" for key in evaluate.NAMES)
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
    """The four checks of sec. 4.9 on means in per cent: name -> (passed, text)."""

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


def run(ctx: RunContext, settings: Pipeline) -> dict[str, Any]:
    """Experiment ``toy``: metadata to accuracy matrix; every stage resumes from what is already in the run folder."""
    from cl_plugin_clear.data import buckets, concepts, dataset, download, features, fetch, ingest, release
    from cl_plugin_clear.data.images import Limits
    from cl_plugin_clear.data.metadata import Filter
    from cl_plugin_clear.data.source import Source
    from cl_plugin_clear.settings import Moco, Released
    from cl_plugin_clear.standin import SHAPES, class_of, toy_clip, write_metadata

    seconds: dict[str, float] = {}
    raw, root, out = ctx.folder / "yfcc", ctx.folder / "store", ctx.folder / "TOY"

    def timed(name: str, body: Callable[[], Any]) -> Any:
        ctx.phase(name)
        started = time.monotonic()
        result = body()
        seconds[name] = round(time.monotonic() - started, 2)
        ctx.step()
        ctx.stop_if_asked()
        return result

    if not (raw / "done").exists():
        timed("generate", lambda: write_metadata(raw, settings.n_records, ctx.seed))
        write_text(raw / "done", "")
    timed(
        "metadata",
        lambda: ingest.ingest(
            root,
            Source.of_folder(raw),
            chunk_size=settings.chunk_size,
            rule=Filter(),
            n_threads=settings.n_threads,
            report=lambda rows: ctx.step(),
        ),
    )
    limits = Limits(min_size=10, min_edge=settings.min_edge, max_aspect_ratio=settings.max_aspect_ratio)
    got = timed(
        "download",
        lambda: download.download(
            root,
            fetch.Options(limits=limits, engine="threads", n_threads=settings.n_threads, retry_wait_s=0.0),
            report=lambda state: ctx.step(),
        ),
    )
    split = timed("split", lambda: buckets.make_split(root, "equal", buckets.Rule(n=settings.n_buckets)))
    clip = toy_clip()
    timed(
        "embed",
        lambda: features.embed(
            root,
            "equal",
            clip,
            shard_rows=300,
            n_threads=settings.n_threads,
            on_bad=ctx.bad_sample,
            report=lambda n: ctx.step(),
        ),
    )
    group = concepts.Concepts(
        name="TOY",
        group=tuple(f"a photo of a {shape}" for shape in SHAPES),
        split="equal",
        model="toy",
        class_size=settings.class_size,
        pool=settings.pool,
        background=True,
        negative_ratio=settings.negative_ratio,
    )
    label_map = {f"a photo of a {shape}": shape for shape in SHAPES}
    timed("retrieve", lambda: dataset.retrieve_group(root, out, group, clip, label_map=label_map))
    totals = timed("build", lambda: dataset.build_folder(root, out, save_all_metadata=True))
    timed(
        "features",
        lambda: dataset.write_features(out, "clip", lambda paths: clip.images([_open(path) for path in paths])),
    )
    timed(
        "training folder", lambda: dataset.write_training_folder(out, ratio=settings.test_ratio, feature_sets=["clip"])
    )
    _, members = dataset.members_of(out)
    positives = [
        (class_of(int(photo)), label)
        for classes in members.values()
        for label, records in classes.items()
        if label in SHAPES
        for photo in records
    ]
    precision = float(np.mean([shape == label for shape, label in positives]))
    results: dict[str, Any] = {
        "records": settings.n_records,
        "pictures": int(got.counts["ok"]),
        "buckets": len(split["buckets"]),
        "labelled": sum(totals.values()),
        "precision of the classes": precision,
        "statuses": dict(sorted(got.counts.items())),
    }

    if settings.moco_epochs:
        from cl_plugin_clear.train import moco

        pre = Moco(
            arch="tiny",
            epochs=settings.moco_epochs,
            batch_size=32,
            queue=256,
            dim=32,
            image_size=32,
            data="store:equal/0",
            root=str(root),
        )
        log = timed(
            "moco",
            lambda: moco.pretrain(
                moco.find_pictures(pre.data, pre.root),
                pre,
                ctx.folder / "moco",
                seed=ctx.seed,
                device=ctx.resources.device,
                n_workers=settings.n_threads,
                tick=ctx.step,
            ),
        )
        results["MoCo loss on bucket 0"] = log[-1].loss

    rows: dict[str, Any] = {}
    training = Buckets(epochs=settings.epochs, batch_size=64, lr=1.0, lr_step=max(1, settings.epochs * 6 // 10))
    started = time.monotonic()
    for protocol in ("iid", "streaming"):
        stream = release.build_stream(
            Released(protocol=protocol, features="clip", test_ratio=settings.test_ratio), out, f"toy {protocol}"
        )
        stream = _centred(stream)
        for name in (
            ("naive", "reservoir 1", "biased 2", "cumulative")
            if protocol == "iid"
            else ("naive", "biased 2", "cumulative")
        ):
            method = TABLE[name]
            R = train_over(stream, method, training, ctx.resources, ctx.seed, ctx.step)

            scores = evaluate.clear_metrics(R, protocol=protocol)
            rows[f"{protocol} {name}"] = {"matrix": R.tolist(), **scores}
            results[f"{protocol}, {name}: In / Next / Acc / BwT / FwT"] = " / ".join(
                "-" if scores[key] is None else f"{100 * scores[key]:.1f}" for key in evaluate.NAMES
            )  # type: ignore[operator]
            heat_map(
                ctx.folder / "clear" / f"heatmap-{protocol}-{name.replace(' ', '-')}.png",
                R,
                list(stream.test_sets),
                name,
            )
    seconds["benchmark"] = round(time.monotonic() - started, 2)
    write_json(ctx.folder / "clear" / "results.json", rows)
    return {**results, "protocols": rows, "cost": {"stage_seconds": seconds}}


def run_build(ctx: RunContext, settings: Build) -> dict[str, Any]:
    """Experiments ``build-10``, ``build-50``, ``build-100``: concept group -> labelled folder."""
    from cl_plugin_clear.data import concepts, dataset, features

    root, out = (
        Path(settings.root) if settings.root else ctx.folder / "store",
        Path(settings.out or ctx.folder / "labelled"),
    )
    label_map = concepts.read_json_object(Path(settings.label_map)) if settings.label_map else None
    if not settings.root:
        group = _small_store(ctx, root)
    elif settings.published:
        group = concepts.known_group(settings.published, split=settings.split, model=settings.model)
    elif settings.concepts:
        group = concepts.read_concepts(Path(settings.concepts))
    else:
        raise BadSetting("which concept group?", where="experiment.concepts", fix="--set experiment.concepts=FILE")
    embedder = features.open_model(group.model, device=ctx.resources.device)
    ctx.phase("retrieve")
    done = dataset.retrieve_group(
        root,
        out,
        group,
        embedder,
        label_map=label_map or {},
        label_default="slug",
        allow_short=settings.allow_short,
        report=lambda bucket: ctx.step(),
    )
    ctx.phase("build")
    totals = dataset.build_folder(root, out, report=lambda bucket: ctx.step())
    sizes = dataset.write_training_folder(out, ratio=settings.test_ratio)
    return {
        "classes": len(totals),
        "pictures": sum(totals.values()),
        "buckets": len(sizes),
        "buckets searched": len(done.made),
        "by class": totals,
    }


def _small_store(ctx: RunContext, root: Path) -> Any:
    from cl_plugin_clear.data import buckets, concepts, download, features, fetch, ingest
    from cl_plugin_clear.data.images import Limits
    from cl_plugin_clear.data.metadata import Filter
    from cl_plugin_clear.data.source import Source
    from cl_plugin_clear.standin import toy_clip, write_metadata

    raw = ctx.folder / "yfcc"
    if not (raw / "done").exists():
        write_metadata(raw, 900, ctx.seed)
        write_text(raw / "done", "")
    ingest.ingest(root, Source.of_folder(raw), chunk_size=300, rule=Filter(), n_threads=2)
    download.download(
        root,
        fetch.Options(
            limits=Limits(min_edge=50, max_aspect_ratio=2.0), engine="threads", n_threads=2, retry_wait_s=0.0
        ),
        report=lambda state: ctx.step(),
    )
    buckets.make_split(root, "equal", buckets.Rule(n=3))
    features.embed(root, "equal", toy_clip(), n_threads=2, report=lambda n: ctx.step())
    return concepts.Concepts(
        name="SMALL",
        group=("disc", "ring", "stripes"),
        split="equal",
        model="toy",
        class_size=10,
        pool=40,
        background=True,
        negative_ratio=0.2,
    )


def _open(path: Path) -> Any:
    from PIL import Image

    with Image.open(path) as image:
        return image.convert("RGB")


def _centred(stream: Stream) -> Stream:
    """The toy CLIP's raw vectors are small and off-centre: shift and scale by the first bucket's statistics."""
    from cl_kernel import ArraySamples

    first = stream.stages[0].train.take(np.arange(len(stream.stages[0].train)))["vector"]
    mean, scale = first.mean(0), first.std(0) + 1e-6

    def scaled(samples: Any) -> ArraySamples:
        arrays = dict(samples.take(np.arange(len(samples))))
        arrays["vector"] = ((arrays["vector"] - mean) / scale).astype(np.float32)
        return ArraySamples(samples.spec, arrays)

    stages = [evolve(stage, train=scaled(stage.train)) for stage in stream.stages]
    return evolve(stream, stages=stages, test=scaled(stream.test))

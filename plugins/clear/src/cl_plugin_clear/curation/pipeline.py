"""The whole pipeline on ``toy-yfcc``, metadata to matrices, and the building of one labelled folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import define, evolve, field

from cl_kernel import BadSetting, Stream, open_picture, write_json, write_text
from cl_plugin_clear.evaluate import metrics
from cl_plugin_clear.evaluate.drift import TABLE, train_over
from cl_plugin_clear.evaluate.report import heat_map
from cl_plugin_clear.settings import Buckets

if TYPE_CHECKING:
    from cl_kernel import RunContext
    from cl_plugin_clear.settings import Build, Pipeline

METHODS = {"iid": ("naive", "reservoir 1", "biased 2", "cumulative"), "streaming": ("naive", "biased 2", "cumulative")}
"""What is trained on the finished folder, by protocol; rows of :data:`TABLE`."""


@define
class Stages:
    """Runs the stages of the pipeline one after the other and keeps their seconds."""

    ctx: RunContext
    seconds: dict[str, float] = field(factory=dict)

    def __call__(self, name: str, body: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """What the stage returns; the run may stop after it."""
        self.ctx.phase(name)
        started = time.monotonic()
        result = body(*args, **options)
        self.seconds[name] = round(time.monotonic() - started, 2)
        self.ctx.step()
        self.ctx.stop_if_asked()
        return result


def run(ctx: RunContext, settings: Pipeline) -> dict[str, Any]:
    """Experiment ``toy``: metadata to accuracy matrix; every stage resumes from what is already in the run folder."""
    stage = Stages(ctx)
    raw, root, out = ctx.folder / "yfcc", ctx.folder / "store", ctx.folder / "TOY"
    results = _make_store(stage, settings, raw, root) | _make_classes(stage, settings, root, out)
    results["statuses"] = results.pop("statuses")
    if settings.moco_epochs:
        results["MoCo loss on bucket 0"] = _pretrain(stage, settings, root)
    started = time.monotonic()
    rows = {f"{protocol} {name}": row for protocol, name, row in _benchmark(ctx, settings, out)}
    stage.seconds["benchmark"] = round(time.monotonic() - started, 2)
    for name, row in rows.items():
        results[f"{name.replace(' ', ', ', 1)}: In / Next / Acc / BwT / FwT"] = " / ".join(
            "-" if row[key] is None else f"{100 * row[key]:.1f}" for key in metrics.NAMES
        )
    write_json(ctx.folder / "clear" / "results.json", rows)
    return {**results, "protocols": rows, "cost": {"stage_seconds": stage.seconds}}


def _make_store(stage: Stages, settings: Pipeline, raw: Path, root: Path) -> dict[str, Any]:
    """Metadata, pictures, buckets and features of toy data."""
    from cl_plugin_clear.curation import buckets, download, features, fetch, ingest
    from cl_plugin_clear.curation.images import Limits
    from cl_plugin_clear.curation.metadata import Filter
    from cl_plugin_clear.curation.source import Source
    from cl_plugin_clear.data.toy import toy_clip, write_metadata

    ctx, n_threads = stage.ctx, settings.n_threads

    def step(_: Any) -> None:
        ctx.step()

    if not (raw / "done").exists():
        stage("generate", write_metadata, raw, settings.n_records, ctx.seed)
        write_text(raw / "done", "")
    source, chunk_size = Source.of_folder(raw), settings.chunk_size
    stage(
        "metadata", ingest.ingest, root, source, chunk_size=chunk_size, rule=Filter(), n_threads=n_threads, report=step
    )
    limits = Limits(min_size=10, min_edge=settings.min_edge, max_aspect_ratio=settings.max_aspect_ratio)
    options = fetch.Options(limits=limits, n_threads=n_threads, retry_wait_s=0.0)
    got = stage("download", download.download, root, options, report=step)
    split = stage("split", buckets.make_split, root, "equal", buckets.Rule(n=settings.n_buckets))
    bad, clip = ctx.bad_sample, toy_clip()
    stage("embed", features.embed, root, "equal", clip, shard_rows=300, n_threads=n_threads, on_bad=bad, report=step)
    return {
        "records": settings.n_records,
        "pictures": int(got.counts["ok"]),
        "buckets": len(split["buckets"]),
        "statuses": dict(sorted(got.counts.items())),
    }


def _make_classes(stage: Stages, settings: Pipeline, root: Path, out: Path) -> dict[str, Any]:
    """A labelled folder with features and training folder, and how pure its classes are."""
    from cl_plugin_clear.curation import concepts, feature_sets, labelled, retrieve, training_folder
    from cl_plugin_clear.data.toy import SHAPES, toy_clip

    clip = toy_clip()
    label_map = {f"a photo of a {shape}": shape for shape in SHAPES}
    group = concepts.Concepts(
        name="TOY",
        group=tuple(label_map),
        split="equal",
        model="toy",
        class_size=settings.class_size,
        pool=settings.pool,
        background=True,
        negative_ratio=settings.negative_ratio,
    )

    def extract(paths: list[Path]) -> np.ndarray:
        return clip.images([open_picture(path) for path in paths])

    stage("retrieve", retrieve.retrieve_group, root, out, group, clip, label_map=label_map)
    totals = stage("build", labelled.build_folder, root, out, save_all_metadata=True)
    stage("features", feature_sets.write_features, out, "clip", extract)
    ratio = settings.test_ratio
    stage("training folder", training_folder.write_training_folder, out, ratio=ratio, feature_sets=["clip"])
    return {"labelled": sum(totals.values()), "precision of the classes": _precision(out)}


def _precision(folder: Path) -> float:
    """Part of the labelled pictures that were rendered as what their class says."""
    from cl_plugin_clear.data.members import members_of
    from cl_plugin_clear.data.toy import SHAPES, class_of

    _, members = members_of(folder)
    right = [
        class_of(int(photo)) == label
        for classes in members.values()
        for label, records in classes.items()
        if label in SHAPES
        for photo in records
    ]
    return float(np.mean(right))


def _pretrain(stage: Stages, settings: Pipeline, root: Path) -> float:
    """MoCo on the bucket that is kept for it. :return: the last epoch's loss."""
    from cl_plugin_clear.method import moco
    from cl_plugin_clear.settings import Moco

    pre = Moco(arch="tiny", epochs=settings.moco_epochs, batch_size=32, queue=256, dim=32, image_size=32,
               data="store:equal/0", root=str(root))  # fmt: skip
    ctx, pictures = stage.ctx, moco.find_pictures(pre.data, pre.root)
    log = stage("moco", moco.pretrain, pictures, pre, ctx.folder / "moco", seed=ctx.seed, device=ctx.resources.device,
                n_workers=settings.n_threads, tick=ctx.step)  # fmt: skip
    return float(log[-1].loss)


def _benchmark(ctx: RunContext, settings: Pipeline, folder: Path) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """(protocol, method, matrix and figures) of the finished folder; heat maps are drawn along."""
    from cl_plugin_clear.data import release
    from cl_plugin_clear.settings import Released

    training = Buckets(epochs=settings.epochs, batch_size=64, lr=1.0, lr_step=max(1, settings.epochs * 6 // 10))
    for protocol, names in METHODS.items():
        released = Released(protocol=protocol, features="clip", test_ratio=settings.test_ratio)
        stream = _centred(release.build_stream(released, folder, f"toy {protocol}"))
        for name in names:
            R = train_over(stream, TABLE[name], training, ctx.resources, ctx.seed, ctx.step)
            picture = ctx.folder / "clear" / f"heatmap-{protocol}-{name.replace(' ', '-')}.png"
            heat_map(picture, R, list(stream.test_sets), name)
            yield protocol, name, {"matrix": R.tolist(), **metrics.clear_metrics(R, protocol=protocol)}


def run_build(ctx: RunContext, settings: Build) -> dict[str, Any]:
    """Experiments ``build-10``, ``build-50``, ``build-100``: concept group -> labelled folder."""
    from cl_plugin_clear.curation import concepts, features, labelled, retrieve, training_folder
    from cl_plugin_clear.data.members import read_json_object

    root, out = (
        Path(settings.root) if settings.root else ctx.folder / "store",
        Path(settings.out or ctx.folder / "labelled"),
    )
    label_map = read_json_object(Path(settings.label_map)) if settings.label_map else None
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
    done = retrieve.retrieve_group(
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
    totals = labelled.build_folder(root, out, report=lambda bucket: ctx.step())
    sizes = training_folder.write_training_folder(out, ratio=settings.test_ratio)
    return {
        "classes": len(totals),
        "pictures": sum(totals.values()),
        "buckets": len(sizes),
        "buckets searched": len(done.made),
        "by class": totals,
    }


def _small_store(ctx: RunContext, root: Path) -> Any:
    from cl_plugin_clear.curation import buckets, concepts, download, features, fetch, ingest
    from cl_plugin_clear.curation.images import Limits
    from cl_plugin_clear.curation.metadata import Filter
    from cl_plugin_clear.curation.source import Source
    from cl_plugin_clear.data.toy import toy_clip, write_metadata

    raw = ctx.folder / "yfcc"
    if not (raw / "done").exists():
        write_metadata(raw, 900, ctx.seed)
        write_text(raw / "done", "")
    ingest.ingest(root, Source.of_folder(raw), chunk_size=300, rule=Filter(), n_threads=2)
    download.download(
        root,
        fetch.Options(limits=Limits(min_edge=50, max_aspect_ratio=2.0), n_threads=2, retry_wait_s=0.0),
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

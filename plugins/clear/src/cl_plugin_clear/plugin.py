"""What CLEAR offers: streams, heads, the bucket learner, the two-buffer policy, experiments and the pipeline's commands."""  # noqa: E501

from __future__ import annotations

from collections.abc import Sequence

from cl_kernel import Asset, Command, Dataset, Experiment, Learner, Model, Plugin, Replay, hookimpl
from cl_plugin_clear import experiments, settings

RELEASES = {
    "clear10": ("new", "CLEAR-10: 10 classes and a background, 10 buckets, with its own test set"),
    "clear100": ("new", "CLEAR-100: 100 classes, 10 buckets, with its own test set"),
    "clear10_neurips2021": ("old", "CLEAR-10 as of 2021, with file lists and four feature sets"),
    "clear100_cvpr2022": ("old", "CLEAR-100 as of 2022, with file lists and moco_b0 features"),
}
ORIGIN = "the CLEAR project page, or the Hugging Face data set elvishelvis6/CLEAR-Continual_Learning_Benchmark"


@hookimpl
def clk_plugin() -> Plugin:
    """CLEAR."""
    return Plugin(
        name="clear",
        summary="CLEAR: natural drift over ten years of photos, curation to streaming evaluation",
        paper="Lin et al., NeurIPS Datasets and Benchmarks 2021, arXiv 2201.06289",
    )


@hookimpl
def clk_datasets() -> Sequence[Dataset]:
    """Two toy streams, the four archives as pictures and as features, and any labelled folder."""
    found = [
        Dataset(
            name="toy-drift",
            summary="feature vectors whose class means turn from bucket to bucket",
            task="vector -> class",
            build="cl_plugin_clear.data.toy:build_drift",
            settings=settings.ToyDrift,
        ),
        Dataset(
            name="toy-pictures",
            summary="rendered shapes whose looks drift over ten years",
            task="image -> class",
            build="cl_plugin_clear.data.toy:build_pictures",
            settings=settings.ToyPictures,
        ),
        Dataset(
            name="folder",
            summary="a labelled folder of either layout, as pictures",
            task="image -> class",
            build="cl_plugin_clear.data.release:build_pictures",
            settings=settings.Released,
            argument="path",
            own=True,
            revision=2,
        ),
        Dataset(
            name="folder-features",
            summary="a labelled folder of either layout, as features",
            task="vector -> class",
            build="cl_plugin_clear.data.release:build_features",
            settings=settings.Released,
            argument="path",
            own=True,
        ),
    ]
    for name, (layout, summary) in RELEASES.items():
        files = (
            ("train/class_names.txt", "test/class_names.txt")
            if layout == "new"
            else ("class_names.txt", "labeled_metadata.json")
        )
        asset = Asset(name=name, summary=summary, files=files, origin=ORIGIN)
        found += [
            Dataset(
                name=name,
                summary=summary,
                task="image -> class",
                build=f"cl_plugin_clear.data.release:build_{name}",
                settings=settings.Released,
                assets=(asset,),
            ),
            Dataset(
                name=f"{name}-features",
                summary=f"{summary}; as features",
                task="vector -> class",
                build=f"cl_plugin_clear.data.release:build_{name}_features",
                settings=settings.Released,
                assets=(asset,),
                profiles={"*": {"features": "moco_b0"}},
            ),
        ]
    return found


@hookimpl
def clk_models() -> Sequence[Model]:
    """The three heads."""
    return [
        Model(
            name="linear",
            summary="one linear layer on features",
            framework="torch",
            takes="vector",
            build="cl_plugin_clear.network.heads:build_linear",
            settings=settings.Linear,
            requires=("torch",),
        ),
        Model(
            name="mlp",
            summary="two layers on features",
            framework="torch",
            takes="vector",
            build="cl_plugin_clear.network.heads:build_mlp",
            settings=settings.Mlp,
            requires=("torch",),
        ),
        Model(
            name="cnn",
            summary="ResNet with a new head, all of it trained",
            framework="torch",
            takes="image",
            build="cl_plugin_clear.network.heads:build_cnn",
            settings=settings.Cnn,
            requires=("torch", "torchvision"),
        ),
    ]


@hookimpl
def clk_replays() -> Sequence[Replay]:
    """The memory of the two-buffer variant; the biased reservoir itself is the kernel's."""
    return [
        Replay(
            name="two-buffer",
            kind="policy",
            summary="fed with the previous bucket, beside the present one",
            build="cl_plugin_clear.method.reservoir:build_two_buffer",
            settings=settings.TwoBuffer,
        )
    ]


@hookimpl
def clk_learners() -> Sequence[Learner]:
    """The benchmark's classifier."""
    return [
        Learner(
            name="buckets",
            summary="the paper's classifier, bucket by bucket: memory, single, cumulative; retrain or finetune",
            build="cl_plugin_clear.method.buckets:build",
            takes=("vector -> class", "image -> class"),
            framework="torch",
            accepts=("model", "memory"),
            defaults={"model": "clear:linear", "replay": "clk:biased-reservoir+clk:raw"},
            settings=settings.Buckets,
            requires=("torch",),
            profiles={"tiny": {"epochs": 30, "batch_size": 64, "lr": 0.1}},
        )
    ]


@hookimpl
def clk_experiments() -> Sequence[Experiment]:
    """Named runs of section 5."""
    return experiments.experiments()


@hookimpl
def clk_commands() -> Sequence[Command]:
    """The curation pipeline, step by step."""
    steps = (
        ("metadata", "parse and filter YFCC100M metadata into Parquet; --fetch gets the archives", "acquire:metadata"),
        ("download", "fetch the pictures, filter them, resume where it stopped", "acquire:download"),
        ("from-folder", "a store of your own dated photographs", "photographs:from_folder"),
        ("classes", "a labelled folder from photographs whose sub-folders are classes", "photographs:classes"),
        ("split", "cut the stream into buckets: equal, by year, by intervals", "store:split"),
        ("embed", "CLIP features of every picture, in shards", "store:embed"),
        ("status", "what a store holds", "store:status"),
        ("relocate", "nothing to do: stores can be moved; checks one that was", "store:relocate"),
        ("forget", "drop photos by id, everywhere in a store and its labelled folders", "store:forget"),
        ("export", "metadata of labelled and unlabelled photos as csv or parquet", "store:export"),
        (
            "import-legacy",
            "read the original's json (or pickle) download folder and buckets into a store",
            "store:legacy",
        ),
        ("explore", "look at what a prompt retrieves: one HTML page", "look:explore"),
        ("concepts", "write a concept-group file, or check one", "classes:concepts"),
        ("retrieve", "pictures of every class in every bucket, by prompt", "classes:retrieve"),
        ("build", "labelled folder in the released layout", "classes:build"),
        ("features", "feature set of the labelled pictures of a folder", "classes:features"),
        ("relabel", "rename the classes of a finished folder", "classes:relabel"),
        ("images", "all pictures of all buckets of a folder, fetched from its metadata", "classes:images"),
        ("mturk", "crowd work: task files out, votes in", "people:mturk"),
        ("collect", "labelling-service answers in: a cleaned folder", "people:collect"),
        ("holdout", "second set from later source lines, never from the first", "people:holdout"),
        ("verify", "is one set contained in another, do two overlap", "people:verify"),
        ("moco", "MoCo v1 or v2 pre-training, also under torchrun", "training:moco"),
        ("lincls", "linear classification on frozen features", "training:lincls"),
        ("adapt", "pre-training checkpoint to plain backbone weights, or Detectron2's", "training:adapt"),
        ("evaluate", "matrix of saved models: challenge-style evaluation", "training:evaluate"),
        ("results", "mean and spread over runs, LaTeX rows, import of old results", "training:results"),
    )
    return [
        Command(name=name, summary=summary, build=f"cl_plugin_clear.commands.{target}")
        for name, summary, target in steps
    ]

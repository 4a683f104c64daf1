"""What REMIND offers; light, imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cl_kernel import Asset, Command, Dataset, Experiment, Learner, Model, Plugin, Replay, hookimpl
from cl_plugin_remind import experiments, settings

TORCH = ("torch", "torchvision")
VQA = "image + question -> answer"
TINY_VQA = {"codebooks": 8, "codebook_size": 64, "longest": 12}
TORCHVISION = "https://download.pytorch.org/models"
IMAGENET = Asset(
    name="imagenet",
    summary="images in train/<class>/ and val/<class>/",
    files=("train", "val"),
    origin="ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar at https://www.image-net.org/download.php, validation "
    "images in class folders as well",
)
CORE50 = Asset(
    name="core50_128x128",
    summary="frames s<session>/o<object>/C_*.png",
    files=("s1", "s3"),
    origin="http://bias.csr.unibo.it/maltoni/download/core50/core50_128x128.zip (https://vlomonaco.github.io/core50); "
    f"profile paper begins with {TORCHVISION}/resnet18-f37072fd.pth",
)
CLEVR = Asset(
    name="CLEVR_v1.0/prepared",
    summary="questions and image codes",
    files=("LUT_clevr.json",),
    origin=f"https://dl.fbaipublicfiles.com/clevr/CLEVR_v1.0.zip, unpacked, and {TORCHVISION}/resnet101-63fe2227.pth; "
    "then: clk data prepare remind:clevr",
)
TDIUC = Asset(
    name="TDIUC/prepared",
    summary="questions and image codes",
    files=("LUT_tdiuc.json",),
    origin="TDIUC.zip and its images at https://kushalkafle.com/projects/tdiuc.html, unpacked, and "
    f"{TORCHVISION}/resnet152-394f9c45.pth; then: clk data prepare remind:tdiuc",
)


@hookimpl
def clk_plugin() -> Plugin:
    """The paper."""
    return Plugin(
        name="remind",
        summary="streaming learning with product-quantised replay, classification and VQA",
        paper="Hayes et al., REMIND Your Neural Network to Prevent Catastrophic Forgetting, ECCV 2020",
    )


@hookimpl
def clk_locate(asset: Asset, roots: Sequence[Path]) -> Path | None:
    """Prepared questions lie beside the published files, below the root or in it."""
    from cl_plugin_remind.data.places import prepared_folders

    names = {CLEVR.name: "clevr", TDIUC.name: "tdiuc"}
    if asset.name not in names:
        return None
    places = prepared_folders(names[asset.name], roots)
    return next((p for p in places if all((p / file).is_file() for file in asset.files)), None)


@hookimpl
def clk_datasets() -> Sequence[Dataset]:
    """Streams of images."""
    return [
        Dataset(
            name="tinyshapes",
            summary="toy data shaped like ImageNet: 12 classes of coloured figures, 32x32",
            task="image -> class",
            build="cl_plugin_remind.data.toy:tinyshapes",
            settings=settings.TinyShapes,
        ),
        Dataset(
            name="tinycore",
            summary="toy data shaped like CORe50: clips of four figures, four orders",
            task="image -> class",
            build="cl_plugin_remind.data.toy:tinycore",
            settings=settings.TinyCore,
            argument="order",
        ),
        Dataset(
            name="imagenet",
            summary="an image folder (train/<class>, val/<class>), class after class in any order",
            task="image -> class",
            build="cl_plugin_remind.data.folders:imagenet",
            settings=settings.ImageNet,
            assets=(IMAGENET,),
            argument="images",
        ),
        Dataset(
            name="core50",
            summary="CORe50 in the orders iid, class_iid, instance, class_instance",
            task="image -> class",
            build="cl_plugin_remind.data.core50:core50",
            settings=settings.Core50,
            assets=(CORE50,),
            argument="order",
        ),
        Dataset(
            name="tinyclevr",
            summary="toy data shaped like CLEVR: five types of questions about small scenes",
            task=VQA,
            build="cl_plugin_remind.data.toy:tinyclevr",
            settings=settings.TinyQuestions,
            profiles={"*": TINY_VQA},
            argument="order",
        ),
        Dataset(
            name="tinytdiuc",
            summary="toy data shaped like TDIUC: twelve types of questions about small scenes",
            task=VQA,
            build="cl_plugin_remind.data.toy:tinytdiuc",
            settings=settings.TinyQuestions,
            profiles={"*": {**TINY_VQA, "n_train": 100}},
            argument="order",
        ),
        Dataset(
            name="clevr",
            summary="CLEVR, as clk data prepare leaves it",
            task=VQA,
            build="cl_plugin_remind.data.vqa:clevr",
            prepare="cl_plugin_remind.data.published:clevr",
            settings=settings.Questions,
            assets=(CLEVR,),
            argument="order",
            requires=("h5py",),
        ),
        Dataset(
            name="tdiuc",
            summary="TDIUC, as clk data prepare leaves it",
            task=VQA,
            build="cl_plugin_remind.data.vqa:tdiuc",
            prepare="cl_plugin_remind.data.published:tdiuc",
            settings=settings.Questions,
            profiles={"*": {"longest": 30, "sort_batch": 512}},
            assets=(TDIUC,),
            argument="order",
            requires=("h5py",),
        ),
    ]


@hookimpl
def clk_models() -> Sequence[Model]:
    """The split residual network."""
    return [
        Model(
            name="resnet18",
            summary="ResNet-18 cut at any block into a frozen lower and a plastic upper part",
            framework="torch",
            build="cl_plugin_remind.network.resnet:build",
            settings=settings.Network,
            profiles={"tiny": experiments.TINY_NETWORK, "small": experiments.SMALL_NETWORK},
            requires=TORCH,
        ),
        Model(
            name="vqa",
            summary="S-MAC, MAC, UpDown, RAMEN, question only, question and pooled image",
            framework="torch",
            build="cl_plugin_remind.network.words:build",
            takes="question",
            settings=settings.VqaNetwork,
            profiles={"tiny": experiments.TINY_VQA_NETWORK},
            argument="network",
            requires=TORCH,
        ),
    ]


@hookimpl
def clk_replays() -> Sequence[Replay]:
    """The codec of the paper; its policy, largest-class, is the kernel's."""
    return [
        Replay(
            name="pq",
            kind="codec",
            summary="codes of a product quantiser: a byte a codebook and position",
            build="cl_plugin_remind.method.codec:build",
            framework="torch",
            settings=settings.Pq,
            profiles={"tiny": {"codebooks": 16}},
            requires=TORCH,
        )
    ]


@hookimpl
def clk_learners() -> Sequence[Learner]:
    """Streaming, and its upper bounds."""
    common = {"takes": ("image -> class", "map -> class", "vector -> class"), "framework": "torch", "requires": TORCH}
    return [
        Learner(
            name="remind",
            summary="one example at a time with replayed codes, after base initialisation",
            build="cl_plugin_remind.method.learner:build",
            accepts=("model", "memory"),
            defaults={"model": "remind:resnet18", "replay": "clk:largest-class+remind:pq"},
            metrics=("accuracy", "top5"),
            settings=settings.Streaming,
            profiles={
                "tiny": experiments.TINY_STREAMING,
                "small": experiments.SMALL_STREAMING,
                "paper": {"authors_files": True},
            },
            **common,
        ),
        Learner(
            name="remind-offline",
            summary="upper bound: trained on all data seen so far at every stage",
            build="cl_plugin_remind.method.offline:build",
            accepts=("model", "memory"),
            defaults={"model": "remind:resnet18", "replay": "clk:largest-class+remind:pq"},
            metrics=("accuracy", "top5"),
            settings=settings.Offline,
            profiles={"tiny": experiments.TINY_OFFLINE, "small": experiments.SMALL_OFFLINE},
            **common,
        ),
        Learner(
            name="remind-vqa",
            summary="questions one at a time, with replay, without, or offline",
            build="cl_plugin_remind.method.questions:build",
            takes=(VQA,),
            framework="torch",
            accepts=("model", "memory"),
            defaults={"model": "remind:vqa", "replay": "clk:largest-class+clk:raw"},
            metrics=("answers",),
            settings=settings.Vqa,
            profiles={"tiny": experiments.TINY_VQA},
            requires=("torch",),
        ),
    ]


@hookimpl
def clk_experiments() -> Sequence[Experiment]:
    """Every row of the paper's tables."""
    return experiments.all_experiments()


@hookimpl
def clk_commands() -> Sequence[Command]:
    """Preparation, base training, import, Omega."""
    table = (
        ("label-files", "write the label arrays of a class order", "images:label_files"),
        ("train-base", "train the base network, alone or under torchrun", "images:train_base"),
        ("layers", "outputs of named layers of a base network", "images:layers"),
        ("prepare", "CLEVR or TDIUC annotations to HDF5", "questions:prepare"),
        ("features", "image features of CLEVR or TDIUC", "questions:features"),
        ("encode", "these features as codes of a product quantiser", "questions:encode"),
        ("import-legacy", "the authors' buffer and classifier as safe files", "results:import_legacy"),
        ("omega", "Omega of a run beside its offline run", "results:omega"),
    )
    return [
        Command(name=name, summary=summary, build=f"cl_plugin_remind.commands.{function}")
        for name, summary, function in table
    ]

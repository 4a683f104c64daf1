"""Every setting with its default, the paper's unless a profile says otherwise. Light: no deep-learning library."""

from __future__ import annotations

from typing import Literal

from attrs import field, frozen, validators

from cl_kernel import doc

CODE_1 = "github liavassif/BU-TD"
"""Published code of arXiv 2105.05592."""
CODE_2 = "github idan-tankel/BU-TD"
"""Published code of arXiv 2311.15276 and what came before it."""
POSITIVE = validators.gt(0)
NOT_NEGATIVE = validators.ge(0)
SHARE = validators.and_(validators.ge(0), validators.le(1))


@frozen(kw_only=True)
class Patterns:
    """Toy data: rows of random patterns."""

    directions: tuple[str, ...] = field(
        default=("right", "left"), metadata=doc("stages, in order", counted="the questions of each stage")
    )
    source: Literal["patterns", "digits"] = field(
        default="patterns", metadata=doc("random patterns, or a fixed handwritten digit of scikit-learn for each class")
    )
    n_patterns: int = field(default=5, validator=validators.ge(2), metadata=doc("different patterns"))
    columns: int = field(default=3, validator=validators.ge(2), metadata=doc("patterns in a picture"))
    n_train: int = field(default=3000, validator=POSITIVE, metadata=doc("training pictures"))
    n_test: int = field(default=500, validator=POSITIVE, metadata=doc("test pictures"))
    per_picture: int = field(default=1, validator=POSITIVE, metadata=doc("questions a training picture"))


@frozen(kw_only=True)
class HeldOut:
    """Toy data for combinatorial generalisation."""

    n_patterns: int = field(default=12, validator=validators.ge(3), metadata=doc("different patterns"))
    columns: int = field(default=3, validator=validators.ge(2), metadata=doc("patterns in a picture"))
    n_train: int = field(default=4000, validator=POSITIVE, metadata=doc("training pictures"))
    n_test: int = field(default=500, validator=POSITIVE, metadata=doc("pictures of each test set"))
    n_held_out: int = field(default=8, validator=POSITIVE, metadata=doc("ordered pairs never seen side by side"))
    per_picture: int = field(default=2, validator=POSITIVE, metadata=doc("questions a training picture"))


@frozen(kw_only=True)
class GridStream:
    """Characters on a grid, a stage for each direction."""

    source: str = field(default="emnist", metadata=doc("digits, emnist, fashion, kmnist, cifar10, cifar100, omniglot"))
    directions: tuple[str, ...] = field(
        default=("right", "left", "left2", "down", "up"),
        metadata=doc("stages, in order", counted="the questions of each stage", source=CODE_2),
    )
    rows: int = field(default=4, validator=POSITIVE, metadata=doc("rows of characters", source=CODE_2))
    columns: int = field(default=4, validator=POSITIVE, metadata=doc("columns of characters", source=CODE_2))
    cell: int = field(default=28, validator=POSITIVE, metadata=doc("side of a cell", unit="px"))
    scale: tuple[float, float] = field(default=(1.0, 1.1), metadata=doc("size of a character in cells"))
    shift: float = field(default=5.6, validator=NOT_NEGATIVE, metadata=doc("largest shift", unit="px"))
    margin: tuple[int, int] = field(default=(8, 8), metadata=doc("empty border y, x", unit="px"))
    ink: tuple[float, float] = field(default=(1.0, 1.0), metadata=doc("intensity of glyphs pasted unscaled"))
    border: bool = field(default=True, metadata=doc("ask at the border, too; the answer is an extra class"))
    n_train: int = field(default=20_000, validator=POSITIVE, metadata=doc("training pictures", source=CODE_2))
    n_test: int = field(default=2_000, validator=POSITIVE, metadata=doc("test pictures"))
    per_picture: int = field(default=5, validator=POSITIVE, metadata=doc("questions a training picture"))


@frozen(kw_only=True)
class Spatial:
    """The EMNIST spatial data set, for any source of characters."""

    variant: Literal["6-sufficient", "6-extended", "24-sufficient", "24-extended", "custom"] = field(
        default="6-sufficient", metadata=doc("characters in a picture and size of the set", source=CODE_1)
    )
    source: str = field(default="emnist", metadata=doc("digits, emnist, kmnist or fashion"))
    n_characters: int = field(default=6, metadata=doc("in a picture; variant custom"))
    per_row: int = field(default=6, validator=POSITIVE, metadata=doc("characters in a row"))
    cell: int = field(default=28, validator=POSITIVE, metadata=doc("side of a cell", unit="px"))
    canvas: tuple[int, int] = field(default=(4, 8), metadata=doc("cells down and across"))
    scale: tuple[float, float] = field(
        default=(0.5, 1.0), metadata=doc("smallest and largest size of a character in cells", source=CODE_1)
    )
    n_train: int = field(default=0, metadata=doc("training pictures; 0 for the variant's"))
    n_test: int = field(default=2000, validator=POSITIVE, metadata=doc("held-out test pictures"))
    n_val: int = field(default=2000, validator=POSITIVE, metadata=doc("in-distribution test pictures"))
    n_held_strings: int = field(default=1, validator=POSITIVE, metadata=doc("strings whose pairs are held out"))
    string_seed: int = field(default=777, metadata=doc("seed of the held-out strings"))
    questions: int = field(default=0, metadata=doc("questions a training picture and direction; 0 for the variant's"))
    augment: Literal["on-the-fly", "offline", "none"] = field(
        default="on-the-fly", metadata=doc("when pictures are shifted, turned and brightened", source=CODE_1)
    )
    segmentation: bool = field(default=False, metadata=doc("keep pictures of the queried object alone"))
    raw_checksum: str = field(default="", metadata=doc("refuse raw characters of another checksum; empty for any"))
    directory: str = field(
        default="",
        metadata=doc(
            "where prepared data lies, or a folder that `clk butd import-legacy samples` wrote; empty for the cache"
        ),
    )


@frozen(kw_only=True)
class PersonsData:
    """The persons data set."""

    variant: Literal["sufficient", "extended"] = field(default="sufficient", metadata=doc("size", source=CODE_1))
    hide_many: bool = field(default=False, metadata=doc("hold out about 40 % instead of 7 %"))
    stand_in: bool = field(default=False, metadata=doc("draw procedural people instead of reading the raw file"))
    n_configurations: int = field(default=0, metadata=doc("pictures before the 80 % split; 0 for the variant's"))
    n_test: int = field(default=0, metadata=doc("test and val pictures; 0 for the published number"))
    augment: Literal["on-the-fly", "offline", "none"] = field(
        default="on-the-fly", metadata=doc("when pictures are shifted, turned and brightened", source=CODE_1)
    )
    size: int = field(default=112, validator=POSITIVE, metadata=doc("a person's side at full scale", unit="px"))
    segmentation: bool = field(default=False, metadata=doc("keep pictures of the queried person alone"))
    directory: str = field(
        default="",
        metadata=doc(
            "where prepared data lies, or a folder that `clk butd import-legacy samples` wrote; empty for the cache"
        ),
    )


@frozen(kw_only=True)
class Scenes:
    """CLEVR scenes: relations between objects."""

    n_test: int = field(default=2000, validator=POSITIVE, metadata=doc("questions kept for the test"))


@frozen(kw_only=True)
class Network:
    """Shape of a counter-stream network."""

    filters: tuple[int, ...] = field(default=(64, 96, 128, 256), metadata=doc("channels by stage", source=CODE_1))
    strides: tuple[int, ...] = field(default=(2, 2, 1, 2), metadata=doc("stride by stage", source=CODE_1))
    blocks: tuple[int, ...] = field(default=(0, 1, 1, 1), metadata=doc("blocks by stage", source=CODE_1))
    separable: bool = field(default=True, metadata=doc("depthwise-separable convolutions", source=CODE_1))
    placement: Literal["TD", "BU1", "BU2", "NOFLAG", "BU1_SIMPLE", "BU1_NOLAT"] = field(
        default="TD", metadata=doc("where the instruction enters", source=CODE_1)
    )
    variant: Literal["shared", "separate", "duplicate"] = field(
        default="shared", metadata=doc("how the two bottom-up passes relate", source=CODE_1)
    )
    bu_to_td: bool = field(default=True, metadata=doc("laterals from bottom-up to top-down"))
    td_to_bu: bool = field(default=True, metadata=doc("laterals from top-down to bottom-up"))
    td_image: bool = field(default=False, metadata=doc("draw the queried object from the top-down stream"))
    final_td_conv: bool = field(default=False, metadata=doc("a last 7x7 convolution of the top-down stream"))
    head_layers: int = field(default=1, validator=POSITIVE, metadata=doc("linear layers of a task head"))
    orig_relus: bool = field(default=False, metadata=doc("the original placement of ReLUs"))
    norm: Literal["batch", "batch-no-stats", "instance", "group", "none"] = field(
        default="batch", metadata=doc("normalisation")
    )


@frozen(kw_only=True)
class Training(Network):
    """Learning one stage with the whole network (the first paper)."""

    optimizer: Literal["adam", "sgd"] = field(default="adam", metadata=doc("optimiser", source=CODE_1))
    lr: float = field(default=1e-3, validator=POSITIVE, metadata=doc("learning rate", source=CODE_1))
    momentum: float = field(default=0.9, validator=SHARE, metadata=doc("of SGD", when={"optimizer": "sgd"}))
    weight_decay: float = field(
        default=2e-4, validator=NOT_NEGATIVE, metadata=doc("coupled weight decay", source=CODE_1)
    )
    batch_size: int = field(default=10, validator=POSITIVE, metadata=doc("questions a step", source=CODE_1))
    epochs: int = field(default=200, validator=POSITIVE, metadata=doc("passes over the data", source=CODE_1))
    schedule: Literal["constant", "cyclic", "cosine"] = field(default="constant", metadata=doc("learning rate by step"))
    cyclic_top: float = field(
        default=2e-3,
        validator=POSITIVE,
        metadata=doc("highest rate of the cyclic schedule", source=CODE_1, when={"schedule": "cyclic"}),
    )
    occurrence: bool = field(default=True, metadata=doc("train the occurrence head"))
    normalise: Literal["mean-image", "centred"] = field(
        default="mean-image", metadata=doc("subtract the mean picture (0..255), or (v - 0.25) 2 of 0..1")
    )
    augment: tuple[float, float, float, int] = field(
        default=(0.0, 0.0, 0.0, 0),
        metadata=doc("on the fly: shift x, shift y (parts), rotation (degrees), added grey levels", source=CODE_1),
    )
    scores_per_epoch: int = field(
        default=0, validator=NOT_NEGATIVE, metadata=doc("learning-curve points an epoch; 0 for only the end")
    )
    best_of: bool = field(
        default=False, metadata=doc("keep the weights of the epoch that is best on iid_val", source=CODE_1)
    )
    pictures: int = field(
        default=6,
        validator=NOT_NEGATIVE,
        metadata=doc("prediction pictures a test set, with confusion matrices; 0 for neither"),
    )
    channels_last: bool = field(
        default=True, metadata=doc("memory layout of maps; on a CPU not for stages of 8 or fewer channels")
    )
    autocast: bool = field(default=False, metadata=doc("bfloat16 where allowed"))
    compile: bool = field(default=False, metadata=doc("compile the network with torch.compile"))
    weights: str = field(
        default="",
        metadata=doc(
            "file of weights to start from, the authors' (.pt) or under this network's names; empty: random ones",
            counted="the tensors it holds",
            unseen="needs a file of weights",
        ),
    )
    warmup: int = field(
        default=1,
        validator=POSITIVE,
        metadata=doc("devices of the published warm-up: over the first five epochs the rate climbs from its n-th part"),
    )
    hyper: int = field(default=-1, metadata=doc("row of the published hyper-parameter grid; -1 for the settings"))


@frozen(kw_only=True)
class Continual(Network):
    """Learning a stream of instructions (the second paper and its baselines)."""

    filters: tuple[int, ...] = field(default=(64, 64, 96, 96), metadata=doc("channels by stage", source=CODE_2))
    strides: tuple[int, ...] = field(default=(2, 2, 1, 2), metadata=doc("stride by stage", source=CODE_2))
    blocks: tuple[int, ...] = field(default=(0, 1, 1, 1), metadata=doc("blocks by stage", source=CODE_2))
    separable: bool = field(default=False, metadata=doc("depthwise-separable convolutions", source=CODE_2))
    method: Literal[
        "modulation",
        "masks",
        "classifier",
        "naive",
        "joint",
        "ewc",
        "lwf",
        "lfl",
        "mas",
        "si",
        "imm-mean",
        "imm-mode",
        "rwalk",
        "ewc-online",
        "pi",
    ] = field(default="modulation", metadata=doc("what keeps earlier tasks, or not", only="later tasks"))
    modulation: Literal["act", "weight-mul", "weight-1m", "interp", "none"] = field(
        default="weight-mul",
        metadata=doc("generation of the modulation", only="later tasks", source=CODE_2, when={"method": "modulation"}),
    )
    factor: tuple[int, ...] = field(
        default=(8, 8, 1, 1),
        metadata=doc("shrinkage of a modulation", only="later tasks", source=CODE_2, when={"method": "modulation"}),
    )
    init_one: bool = field(
        default=False,
        metadata=doc(
            "multiplicative modulations start at 1, the unmodulated filter (not the original)",
            only="later tasks",
            when={"method": "modulation"},
        ),
    )
    top: Literal["argument", "split", "per-task"] = field(
        default="argument", metadata=doc("what enters at the top: argument alone, or task and argument")
    )
    train_argument: bool = field(
        default=False, metadata=doc("later tasks train their language's arguments, too", only="later tasks")
    )
    strength: float = field(
        default=0.0,
        validator=SHARE,
        metadata=doc(
            "weight of the penalty in the convex mix",
            only="later tasks",
            source=CODE_2,
            when={"method": ("ewc", "mas", "si", "imm-mean", "imm-mode", "rwalk", "ewc-online", "pi", "lwf", "lfl")},
        ),
    )
    compat: bool = field(
        default=False,
        metadata=doc(
            "reproduce the doubled weight of LwF and LFL",
            only="later tasks",
            source=CODE_2,
            when={"method": ("lwf", "lfl")},
        ),
    )
    temperature: float = field(
        default=2.0,
        validator=POSITIVE,
        metadata=doc("of the distillation", only="later tasks", source=CODE_2, when={"method": "lwf"}),
    )
    alpha: float = field(
        default=0.5,
        validator=SHARE,
        metadata=doc(
            "share of the old importance (MAS), of the new square (online)",
            only="later tasks",
            when={"method": ("mas", "ewc-online", "rwalk")},
        ),
    )
    walk_period: int = field(
        default=10,
        validator=POSITIVE,
        metadata=doc("steps between readings (RWalk)", only="later tasks", when={"method": "rwalk"}),
    )
    lr: float = field(default=1e-2, validator=POSITIVE, metadata=doc("of the first task", source=CODE_2))
    later_lr: float = field(
        default=1e-2,
        validator=POSITIVE,
        metadata=doc(
            "of later tasks", only="later tasks", source=CODE_2, when={"method": ("modulation", "masks", "classifier")}
        ),
    )
    weight_decay: float = field(default=0.0, validator=NOT_NEGATIVE, metadata=doc("coupled weight decay"))
    batch_size: int = field(default=64, validator=POSITIVE, metadata=doc("questions a step", source=CODE_2))
    epochs: int = field(default=70, validator=POSITIVE, metadata=doc("of the first task", source=CODE_2))
    later_epochs: int = field(
        default=30, validator=POSITIVE, metadata=doc("of later tasks", only="later tasks", source=CODE_2)
    )
    schedule: Literal["step", "cosine", "constant"] = field(default="step", metadata=doc("learning rate"))
    step_every: int = field(
        default=15,
        validator=POSITIVE,
        metadata=doc("epochs between halvings", source=CODE_2, when={"schedule": "step"}),
    )
    normalise: Literal["mean-image", "centred"] = field(
        default="mean-image", metadata=doc("subtract the mean picture (0..255), or (v - 0.25) 2 of 0..1")
    )
    augment: tuple[float, float, float, int] = field(
        default=(0.0, 0.0, 0.0, 0),
        metadata=doc("on the fly: shift x, shift y (parts), rotation (degrees), added grey levels", source=CODE_2),
    )
    pictures: int = field(
        default=6,
        validator=NOT_NEGATIVE,
        metadata=doc(
            "prediction pictures a test set, with confusion matrices; 0 for neither", harmless="only what is reported"
        ),
    )
    imported: tuple[str, ...] = field(
        default=(),
        metadata=doc("files of tasks that are taken over instead of learnt (clk butd import-task)", only="later tasks"),
    )
    compound: tuple[str, ...] = field(
        default=(),
        metadata=doc(
            "directions asked about at once at the end: one argument, a head a direction",
            harmless="only what is reported",
        ),
    )
    draws: bool = field(
        default=True,
        metadata=doc("an image head learns to draw the queried object from the top-down maps, without changing them"),
    )
    channels_last: bool = field(
        default=True, metadata=doc("memory layout of maps; on a CPU not for stages of 8 or fewer channels")
    )
    weights: str = field(
        default="",
        metadata=doc(
            "file of weights to start from, the authors' (.pt) or under this network's names; empty: random ones",
            counted="the tensors it holds",
            unseen="needs a file of weights",
        ),
    )
    reuse: bool = field(
        default=True,
        metadata=doc(
            "take the first task's network from the cache, where an equal run left it",
            harmless="the same network either way",
        ),
    )
    compose: tuple[str, ...] = field(
        default=(),
        metadata=doc(
            "chain of directions followed at the end; its sum must be a direction of the stream",
            harmless="only what is reported",
        ),
    )


_TINY = {
    "filters": (16, 24, 32),
    "strides": (2, 2, 1),
    "blocks": (0, 1, 1),
    "lr": 3e-3,
    "batch_size": 50,
    "schedule": "cosine",
    "normalise": "centred",
}
TINY_TRAINING = {**_TINY, "separable": False, "weight_decay": 0.0, "epochs": 6}
"""A network that learns the toy data in seconds."""

TINY_CONTINUAL = {**_TINY, "factor": (2, 2, 1, 1), "init_one": True, "later_lr": 2e-2, "epochs": 5, "later_epochs": 4}
"""The same for the continual learner; baselines learn later tasks at the first task's rate."""


@frozen(kw_only=True)
class Transfer:
    """Carrying a pretrained net to further data sets (the second paper's later form)."""

    net: str = field(default="resnet18", metadata=doc("resnet18/34/50/101, mobilenet_v2, resnet32, or small"))
    pretrained: bool = field(default=True, metadata=doc("start from the library's weights; else learn stage 0 fully"))
    weights: str = field(default="", metadata=doc("a weight file to start from (resnet32)"))
    method: Literal["modulation", "masks", "classifier", "full", "lwf"] = field(
        default="modulation", metadata=doc("what later stages may change", source=CODE_2)
    )
    factor: tuple[int, ...] = field(default=(4, 4), metadata=doc("shrinkage of a modulation", source=CODE_2))
    expansion: Literal["repeat", "bicubic", "nearest"] = field(
        default="bicubic", metadata=doc("how a modulation grows to the filter", source=CODE_2)
    )
    tau: float = field(default=0.005, metadata=doc("threshold of masks", source=CODE_2))
    lr: float = field(default=1e-2, validator=POSITIVE, metadata=doc("learning rate", source=CODE_2))
    weight_decay: float = field(
        default=0.0, validator=NOT_NEGATIVE, metadata=doc("coupled weight decay", source=CODE_2)
    )
    first_lr: float = field(default=1e-3, validator=POSITIVE, metadata=doc("of stage 0 when it is learnt fully"))
    batch_size: int = field(default=32, validator=POSITIVE, metadata=doc("samples a step", source=CODE_2))
    epochs: int = field(default=30, validator=POSITIVE, metadata=doc("passes over a stage", source=CODE_2))
    step_every: int = field(default=15, validator=POSITIVE, metadata=doc("epochs between tenfold drops", source=CODE_2))
    temperature: float = field(
        default=2.0, validator=POSITIVE, metadata=doc("of the distillation", when={"method": "lwf"})
    )
    strength: float = field(
        default=1.0, validator=NOT_NEGATIVE, metadata=doc("weight of the distillation", when={"method": "lwf"})
    )
    hidden: int = field(
        default=0, validator=NOT_NEGATIVE, metadata=doc("hidden units of an expanded read-out; 0 for a linear one")
    )


@frozen(kw_only=True)
class Vit:
    """Transformers that answer instructions."""

    kind: Literal[
        "multi-label", "right-of-all", "guided", "vanilla", "encoder", "encoder-decoder", "two-stream", "cct", "pit"
    ] = field(default="guided", metadata=doc("architecture", source=CODE_2))
    hidden: int = field(default=768, validator=POSITIVE, metadata=doc("width"))
    layers: int = field(default=3, validator=POSITIVE, metadata=doc("depth"))
    heads: int = field(default=2, validator=POSITIVE, metadata=doc("attention heads"))
    ffn: int = field(default=3072, validator=POSITIVE, metadata=doc("feed-forward width"))
    patch: int = field(default=16, validator=POSITIVE, metadata=doc("side of a patch", unit="px"))
    image: int = field(default=224, validator=POSITIVE, metadata=doc("pictures are resized to this square", unit="px"))
    decoder_hidden: int = field(
        default=120, validator=POSITIVE, metadata=doc("width of the decoder", when={"kind": "encoder-decoder"})
    )
    decoder_ffn: int = field(
        default=384,
        validator=POSITIVE,
        metadata=doc("feed-forward width of the decoder", when={"kind": "encoder-decoder"}),
    )
    decoder_layers: int = field(
        default=4, validator=POSITIVE, metadata=doc("depth of the decoder", when={"kind": "encoder-decoder"})
    )
    mix: Literal["q", "k", "v"] = field(
        default="v", metadata=doc("what the streams multiply (two-stream)", when={"kind": "two-stream"})
    )
    self_attention: bool = field(
        default=True, metadata=doc("self-attention before the lateral one (two-stream)", when={"kind": "two-stream"})
    )
    deepest_first: bool = field(
        default=True,
        metadata=doc("read encoder states deepest first (encoder-decoder)", when={"kind": "encoder-decoder"}),
    )
    hub: str = field(default="", metadata=doc("pretrained model of the hub, or empty"))
    weights: str = field(
        default="",
        metadata=doc(
            "file of weights to start from, the authors' (.pt) or under this network's names; empty: random ones",
            counted="the tensors it holds",
            unseen="needs a file of weights",
        ),
    )
    lr: float = field(
        default=1e-3, validator=POSITIVE, metadata=doc("learning rate", source=CODE_2, when={"cyclic": False})
    )
    cyclic: bool = field(default=True, metadata=doc("1e-4..2e-3 triangular, half period 5 epochs", source=CODE_2))
    batch_size: int = field(default=64, validator=POSITIVE, metadata=doc("questions a step"))
    epochs: int = field(default=200, validator=POSITIVE, metadata=doc("passes over the data", source=CODE_2))


TINY_TRANSFER = {
    "net": "small",
    "pretrained": False,
    "factor": [2, 2],
    "epochs": 8,
    "step_every": 5,
    "expansion": "repeat",
}
TINY_VIT = {
    "hidden": 48,
    "ffn": 96,
    "layers": 3,
    "heads": 3,
    "patch": 8,
    "image": 24,
    "decoder_hidden": 24,
    "decoder_ffn": 48,
    "decoder_layers": 3,
    "lr": 1e-3,
    "cyclic": False,
    "batch_size": 50,
    "epochs": 6,
}

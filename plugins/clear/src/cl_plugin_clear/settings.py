"""Every setting of CLEAR with its default, the paper's or the original's value. Light: attrs only."""

from __future__ import annotations

from attrs import field, frozen, validators

from cl_kernel import doc

_one_of = validators.in_
_at_least = validators.ge


@frozen(kw_only=True)
class ToyDrift:
    """Settings of the drifting feature vectors."""

    n_classes: int = field(default=6, validator=_at_least(2), metadata=doc("classes"))
    n_features: int = field(default=16, validator=_at_least(4), metadata=doc("length of a vector"))
    n_buckets: int = field(default=10, validator=_at_least(2), metadata=doc("time buckets"))
    n_train: int = field(default=60, validator=_at_least(1), metadata=doc("training vectors a class and bucket"))
    n_test: int = field(default=200, validator=_at_least(1), metadata=doc("test vectors a class and bucket"))
    drift: float = field(default=0.22, metadata=doc("turn of the class means from bucket to bucket", unit="rad"))
    noise: float = field(
        default=1.0, validator=_at_least(0.0), metadata=doc("standard deviation around the class means")
    )
    protocol: str = field(
        default="iid",
        validator=_one_of(("iid", "streaming")),
        metadata=doc("iid: own test vectors; streaming: tested on the training vectors of every bucket"),
    )


@frozen(kw_only=True)
class Released:
    """Settings of a labelled folder: a published archive, or one that ``clk clear build`` wrote."""

    path: str = field(default="", metadata=doc("folder; empty for the archive's name below a data root"))
    protocol: str = field(
        default="iid",
        validator=_one_of(("iid", "streaming")),
        metadata=doc("iid: split inside each bucket; streaming: train on all of a bucket, test on all of every bucket"),
    )
    features: str = field(default="", metadata=doc("feature set by name (moco_b0, clip, ...); empty for pictures"))
    test_ratio: float = field(
        default=0.3,
        validator=[_at_least(0.0), validators.lt(1.0)],
        metadata=doc(
            "part of each bucket that is tested on, where the folder brings no test set", source="released split"
        ),
    )
    split_seed: int = field(default=0, metadata=doc("seed of that split, 0..4 in the release"))
    stratified: bool = field(default=False, metadata=doc("split each class alone; the release does not"))
    image_size: int = field(
        default=224, validator=_at_least(8), metadata=doc("shorter side, then centre crop", unit="pixel")
    )
    skip_buckets: tuple[int, ...] = field(default=(0,), metadata=doc("buckets kept for pre-training"))


@frozen(kw_only=True)
class Linear:
    """The linear head has no settings of its own."""


@frozen(kw_only=True)
class Mlp:
    """Settings of the two-layer head."""

    hidden: int = field(default=2048, validator=_at_least(1), metadata=doc("hidden units", source="table of heads"))


@frozen(kw_only=True)
class Cnn:
    """Settings of a whole network."""

    arch: str = field(
        default="resnet50", validator=_one_of(("resnet50", "resnet18", "tiny")), metadata=doc("architecture")
    )
    weights: str = field(
        default="", metadata=doc("file of backbone weights (supervised, MoCo, BYOL, lightly); empty for none")
    )


@frozen(kw_only=True)
class TwoBuffer:
    """Settings of the memory of the two-buffer variant."""

    alpha: float = field(default=1.0, validator=_at_least(0.0), metadata=doc("preference for the present"))
    dynamic: bool = field(default=False, metadata=doc("accept with min(1, alpha) instead of min(1, alpha k / S)"))
    by_bucket: bool = field(default=False, metadata=doc("each addition is a whole time bucket, as in the paper"))


@frozen(kw_only=True)
class Buckets:
    """Settings of the bucket-by-bucket classifier; defaults are the authors' ``linear_tuned``."""

    keep: str = field(
        default="memory",
        validator=_one_of(("memory", "single", "cumulative", "two_buffer", "all", "nap")),
        metadata=doc(
            "training set of a bucket: the memory, this bucket, all so far, this bucket and the memory of the "
            "earlier ones, everything at once (upper bound), the first bucket only"
        ),
    )
    start: str = field(
        default="retrain",
        validator=_one_of(("retrain", "finetune")),
        metadata=doc("begin each bucket from fresh weights, or from the last bucket's"),
    )
    method: str = field(
        default="plain",
        validator=_one_of(("plain", "lwf", "ewc", "si", "gem", "agem", "cwr", "cope")),
        metadata=doc("what holds on to the past besides the training set", source="table of baselines"),
    )
    epochs: int = field(
        default=100, validator=_at_least(1), metadata=doc("passes over the training set", source="linear_tuned")
    )
    lr_step: int = field(default=60, validator=_at_least(1), metadata=doc("epochs between drops of the learning rate"))
    lr_gamma: float = field(default=0.1, validator=_at_least(0.0), metadata=doc("what a drop multiplies it with"))
    batch_size: int = field(default=256, validator=_at_least(1), metadata=doc("samples a step", source="linear_tuned"))
    lr: float = field(default=1.0, validator=validators.gt(0.0), metadata=doc("learning rate", source="linear_tuned"))
    momentum: float = field(default=0.9, validator=_at_least(0.0), metadata=doc("of SGD"))
    weight_decay: float = field(default=0.0, validator=_at_least(0.0), metadata=doc("of SGD"))
    keep_best: bool = field(default=True, metadata=doc("end with the weights of the epoch of lowest training loss"))
    augment: str = field(
        default="centre",
        validator=_one_of(("centre", "crop", "crop-flip")),
        metadata=doc("pictures in training: centre crop (authors), random crop (Avalanche example), with flip (fork)"),
    )
    strength: float = field(
        default=0.0,
        validator=_at_least(0.0),
        metadata=doc(
            "weight of the penalty; 0 for the method's own: EWC 0.4, SI 1e-4, GEM margin 0.5",
            when={"method": ("ewc", "si", "gem")},
        ),
    )
    lwf_alpha: float = field(
        default=2.0, metadata=doc("LwF: weight at the last bucket, growing linearly from 0", when={"method": "lwf"})
    )
    lwf_temperature: float = field(
        default=1.0, validator=validators.gt(0.0), metadata=doc("LwF: temperature", when={"method": "lwf"})
    )
    cope_temperature: float = field(
        default=0.1, validator=validators.gt(0.0), metadata=doc("CoPE: temperature", when={"method": "cope"})
    )
    cope_momentum: float = field(
        default=0.99,
        validator=_at_least(0.0),
        metadata=doc("CoPE: how slowly prototypes move", when={"method": "cope"}),
    )
    predict_batch: int = field(
        default=512,
        validator=_at_least(1),
        metadata=doc("samples scored at a time", harmless="each sample is scored by itself"),
    )


@frozen(kw_only=True)
class Pipeline:
    """Settings of the whole pipeline on ``toy-yfcc``: metadata, download, split, CLIP, classes, features, benchmark."""

    n_records: int = field(default=6000, validator=_at_least(200), metadata=doc("photo records"))
    chunk_size: int = field(default=1000, validator=_at_least(1), metadata=doc("source lines a chunk"))
    n_buckets: int = field(
        default=11, validator=_at_least(3), metadata=doc("equal buckets; bucket 0 is for pre-training")
    )
    min_edge: int = field(default=50, metadata=doc("shortest edge", unit="pixel"))
    max_aspect_ratio: float = field(default=2.0, metadata=doc("long edge over short edge"))
    class_size: int = field(default=20, validator=_at_least(1), metadata=doc("pictures a class and bucket (M)"))
    pool: int = field(default=80, validator=_at_least(2), metadata=doc("pictures looked at a prompt (K)"))
    negative_ratio: float = field(default=0.2, metadata=doc("background pictures a label, as a part of M"))
    test_ratio: float = field(default=0.3, metadata=doc("part of a bucket that is tested on"))
    epochs: int = field(default=30, validator=_at_least(1), metadata=doc("epochs of the classifiers"))
    moco_epochs: int = field(
        default=1, validator=_at_least(0), metadata=doc("epochs of MoCo on bucket 0; 0 leaves it out")
    )
    n_threads: int = field(default=2, validator=_at_least(1), metadata=doc("threads"))


@frozen(kw_only=True)
class DriftTable:
    """Settings of the table of methods on ``toy-drift``."""

    n_seeds: int = field(default=3, validator=_at_least(1), metadata=doc("seeds 0, 1, ..., averaged"))
    epochs: int = field(default=30, validator=_at_least(1), metadata=doc("epochs"))
    batch_size: int = field(default=64, validator=_at_least(1), metadata=doc("samples a step"))
    lr: float = field(default=0.1, validator=validators.gt(0.0), metadata=doc("learning rate"))
    drift: float = field(default=0.22, metadata=doc("turn of the class means from bucket to bucket", unit="rad"))


@frozen(kw_only=True)
class AlphaGrid:
    """Settings of the biased reservoir's grid on feature vectors."""

    path: str = field(default="", metadata=doc("labelled folder with features; empty for toy-drift"))
    features: str = field(default="", metadata=doc("its feature set (moco_b0, clip, ...)"))
    protocol: str = field(
        default="iid", validator=_one_of(("iid", "streaming")), metadata=doc("as of the folder's data set")
    )
    skip_buckets: tuple[int, ...] = field(default=(0,), metadata=doc("buckets kept for pre-training"))
    n_seeds: int = field(default=5, validator=_at_least(1), metadata=doc("seeds 0, 1, ..., averaged"))
    epochs: int = field(default=100, validator=_at_least(1), metadata=doc("epochs"))
    batch_size: int = field(default=256, validator=_at_least(1), metadata=doc("samples a step"))
    lr: float = field(default=1.0, validator=validators.gt(0.0), metadata=doc("learning rate"))
    lr_step: int = field(default=60, validator=_at_least(1), metadata=doc("epochs between drops to a tenth"))


@frozen(kw_only=True)
class Moco:
    """Settings of MoCo pre-training; defaults are the authors' on bucket 0 (``--mlp --aug-plus --cos``)."""

    data: str = field(
        default="", metadata=doc("ImageNet-like folder, or store:SPLIT/BUCKET of a photo store; empty for toy data")
    )
    root: str = field(default="", metadata=doc("photo store that ``store:`` refers to"))
    arch: str = field(
        default="resnet50", validator=_one_of(("resnet50", "resnet18", "tiny", "tiny-group")), metadata=doc("encoder")
    )
    epochs: int = field(default=200, validator=_at_least(1), metadata=doc("passes over the pictures"))
    batch_size: int = field(default=256, validator=_at_least(1), metadata=doc("pictures of all processes a step"))
    lr: float = field(default=0.03, validator=validators.gt(0.0), metadata=doc("learning rate at the start"))
    cosine: bool = field(default=True, metadata=doc("half a cosine instead of steps"))
    steps: tuple[int, ...] = field(default=(120, 160), metadata=doc("epochs of a tenfold drop, without cosine"))
    momentum: float = field(default=0.9, metadata=doc("of SGD"))
    weight_decay: float = field(default=1e-4, metadata=doc("of SGD"))
    dim: int = field(default=128, validator=_at_least(1), metadata=doc("embedding"))
    queue: int = field(default=65536, validator=_at_least(1), metadata=doc("negative keys"))
    key_momentum: float = field(default=0.999, metadata=doc("of the key encoder"))
    temperature: float = field(default=0.2, validator=validators.gt(0.0), metadata=doc("of the logits (v1: 0.07)"))
    mlp: bool = field(default=True, metadata=doc("two-layer head (v2)"))
    aug_plus: bool = field(default=True, metadata=doc("MoCo v2 augmentation: blur and jitter with probability"))
    image_size: int = field(default=224, validator=_at_least(16), metadata=doc("crop", unit="pixel"))
    keep_last: int = field(default=2, validator=_at_least(1), metadata=doc("newest checkpoints kept"))
    keep_every: int = field(
        default=20, validator=_at_least(0), metadata=doc("every so many epochs one is kept for good")
    )


@frozen(kw_only=True)
class Challenge:
    """Settings of challenge-style evaluation: saved models, scored bucket by bucket."""

    models: str = field(
        default="",
        metadata=doc(
            "folder of t00.safetensors ... t09.safetensors, model01.pth ..., or the fork's model_*_timeII.pth"
        ),
    )
    data: str = field(
        default="", metadata=doc("hold-out labelled folder, or labeled_images/BUCKET/CLASS/*.jpg; empty: toy data")
    )
    setup: str = field(
        default="",
        metadata=doc("own Python file with load_models(models_path) and data_transform(), as in the challenge's kit"),
    )
    arch: str = field(default="resnet18", metadata=doc("network of the saved models"))
    features: str = field(
        default="", metadata=doc("feature set of the hold-out folder, for saved heads; empty: pictures")
    )
    image_size: int = field(default=224, metadata=doc("shorter side, then centre crop", unit="pixel"))
    weight_in: float = field(default=1.0, metadata=doc("weight of In-domain in the score"))
    weight_next: float = field(default=1.0, metadata=doc("weight of Next-domain"))
    weight_bwt: float = field(default=1.0, metadata=doc("weight of backward transfer"))
    weight_fwt: float = field(default=1.0, metadata=doc("weight of forward transfer"))
    compat_next: bool = field(default=False, metadata=doc("leave out entry (0, 1), as the authors' notebook"))


@frozen(kw_only=True)
class ToyPictures:
    """Settings of the rendered pictures."""

    n_buckets: int = field(default=5, validator=_at_least(2), metadata=doc("time buckets over ten years"))
    n_train: int = field(default=12, validator=_at_least(1), metadata=doc("training pictures a class and bucket"))
    n_test: int = field(default=8, validator=_at_least(1), metadata=doc("test pictures a class and bucket"))
    image_size: int = field(default=32, validator=_at_least(16), metadata=doc("edge", unit="pixel"))
    protocol: str = field(default="iid", validator=_one_of(("iid", "streaming")), metadata=doc("as toy-drift"))


@frozen(kw_only=True)
class Build:
    """Settings of building a labelled folder from a photo store with features."""

    root: str = field(default="", metadata=doc("photo store; empty for a small toy store"))
    out: str = field(default="", metadata=doc("labelled folder; empty for one in the run folder"))
    published: str = field(
        default="",
        validator=_one_of(("", "clear10", "clear100")),
        metadata=doc("published concept group; empty for `concepts`"),
    )
    concepts: str = field(default="", metadata=doc("concept-group file (CLEAR-50's prompts are not published text)"))
    label_map: str = field(default="", metadata=doc("file prompt -> label; empty: labels are made from the prompts"))
    split: str = field(default="clear_10_time", metadata=doc("split that is searched"))
    model: str = field(default="RN101", metadata=doc("CLIP model", source="CLIP_MODEL"))
    test_ratio: float = field(default=0.3, metadata=doc("part of each bucket that is tested on"))
    allow_short: bool = field(default=False, metadata=doc("go on when a class gets fewer pictures"))

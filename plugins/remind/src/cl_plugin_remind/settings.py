"""Every setting with the paper's value. Light: imports no torch."""

from __future__ import annotations

from functools import partial

from attrs import field, frozen, validators

from cl_kernel import doc

positive = validators.gt(0)
not_negative = validators.ge(0)

of_rows = partial(doc, counted="the rows that each stage holds")
of_decoding = partial(doc, counted="what the samples say of their decoding")
of_questions = partial(doc, counted="the questions of each stage, as numbers, and the codes of their images")


@frozen(kw_only=True)
class Network:
    """The residual network and where it is cut."""

    cut: str = field(
        default="layer4.1",
        metadata=doc(
            "first block that learns while streaming: conv1, layer1.0 ... layer4.1, fc, or an authors' name such as "
            "ResNet18_StartAt_Layer4_1",
            source="sec. 5",
        ),
    )
    base_arch: str = field(
        default="ResNet18ClassifyAfterLayer4_1",
        metadata=doc("base network; ResNet18ClassifyAfterLayer4_0 ends one block earlier"),
    )
    stem: int = field(default=64, validator=positive, metadata=doc("channels of the first convolution"))
    stem_kind: str = field(
        default="auto",
        validator=validators.in_(("auto", "imagenet", "small")),
        metadata=doc("small: 3x3 without pooling; auto: small below 96 pixels"),
    )
    widths: tuple[int, ...] = field(
        default=(64, 128, 256, 512), converter=tuple, metadata=doc("channels of the four layers")
    )
    blocks: tuple[int, ...] = field(default=(2, 2, 2, 2), converter=tuple, metadata=doc("blocks of each layer"))
    strides: tuple[int, ...] = field(
        default=(1, 2, 2, 2), converter=tuple, metadata=doc("stride of each layer's first block")
    )


@frozen(kw_only=True)
class Pq:
    """Product quantiser."""

    codebooks: int = field(
        default=32, validator=positive, metadata=doc("codebooks; must divide the channels", source="sec. 5")
    )
    codebook_size: int = field(
        default=256, validator=positive, metadata=doc("centroids a codebook, a power of two", source="sec. 5")
    )
    patch: int = field(default=8, validator=positive, metadata=doc("side of the patches images are cut into"))


@frozen(kw_only=True)
class BaseTraining:
    """Offline training of the base network."""

    base: str = field(
        default="",
        metadata=doc(
            "base checkpoint, a path or a file below a data root; empty: train the base network here",
            counted="the weights that base training begins with",
        ),
    )
    new_head: bool = field(
        default=False, metadata=doc("leave the checkpoint's classifier out; a new one is trained with the base classes")
    )
    base_scope: str = field(
        default="auto",
        validator=validators.in_(("auto", "whole", "upper", "none")),
        metadata=doc(
            "what base training trains: whole network, upper part above a lower part that stays as it is, or none; "
            "auto: none for a checkpoint, upper for one with a new head or a network that comes cut, else whole",
            counted="what base training trains",
        ),
    )
    base_epochs: int = field(
        default=40, validator=not_negative, metadata=doc("epochs of base training; 0: none", source="code")
    )
    base_batch: int = field(default=256, validator=positive, metadata=doc("batch of base training", source="code"))
    base_lr: float = field(
        default=0.1, validator=positive, metadata=doc("(highest) learning rate of base training", source="code")
    )
    base_precision: str = field(
        default="float32",
        validator=validators.in_(("float32", "bfloat16")),
        metadata=doc("arithmetic of base training; bfloat16: where it is safe, weights stay float32"),
    )
    tf32: bool = field(
        default=True,
        metadata=doc(
            "on CUDA, TensorFloat-32 in convolutions and products; nothing changes on the CPU",
            unseen="arithmetic of CUDA devices",
        ),
    )
    base_momentum: float = field(
        default=0.9, validator=not_negative, metadata=doc("momentum of base training", source="code")
    )
    base_weight_decay: float = field(
        default=1e-4, validator=not_negative, metadata=doc("weight decay of base training", source="code")
    )
    base_nesterov: bool = field(default=False, metadata=doc("Nesterov momentum in base training"))
    base_schedule: str = field(
        default="step",
        validator=validators.in_(("step", "one-cycle")),
        metadata=doc("step: divide by ten every base_lr_step epochs; one-cycle: rise to the highest rate, then fall"),
    )
    base_lr_step: int = field(
        default=15,
        validator=positive,
        metadata=doc("epochs between divisions by ten", source="code", when={"base_schedule": "step"}),
    )
    base_augment: str = field(
        default="imagenet",
        validator=validators.in_(("imagenet", "shift", "none")),
        metadata=doc("imagenet: random resized crop and flip; shift: flip, shift up to an eighth, brightness; none"),
    )


@frozen(kw_only=True)
class Streaming(BaseTraining):
    """REMIND: one example at a time, replayed codes, per-class rates."""

    replay_samples: int = field(
        default=50, validator=not_negative, metadata=doc("replayed examples a step; 0 is fine-tuning", source="sec. 5")
    )
    buffer: bool = field(default=True, metadata=doc("keep codes at all; false: fine-tuning without quantisation"))
    mixup: bool = field(default=True, metadata=doc("mix pairs of replayed feature maps", source="sec. 4"))
    mixup_alpha: float = field(
        default=0.1, metadata=doc("parameter of the Beta distribution", source="sec. 5", when={"mixup": True})
    )
    crops: bool = field(default=True, metadata=doc("random resized crops of feature maps", source="sec. 4"))
    lr_mode: str = field(
        default="step_lr_per_class",
        validator=validators.in_(("step_lr_per_class", "constant")),
        metadata=doc("rate falls with each class' own examples, or stays at start_lr"),
    )
    start_lr: float = field(
        default=0.1, validator=positive, metadata=doc("rate of a class' first examples", source="sec. 5")
    )
    end_lr: float = field(
        default=0.001,
        validator=positive,
        metadata=doc(
            "rate after lr_samples examples of a class", source="sec. 5", when={"lr_mode": "step_lr_per_class"}
        ),
    )
    lr_step: int = field(
        default=100,
        validator=positive,
        metadata=doc("examples of a class between falls", source="sec. 5", when={"lr_mode": "step_lr_per_class"}),
    )
    lr_samples: int = field(
        default=1300,
        validator=positive,
        metadata=doc("examples of a class until end_lr", when={"lr_mode": "step_lr_per_class"}),
    )
    momentum: float = field(default=0.9, validator=not_negative, metadata=doc("momentum", source="code"))
    weight_decay: float = field(default=1e-5, validator=not_negative, metadata=doc("weight decay", source="code"))
    capture: bool = field(
        default=True,
        metadata=doc(
            "on CUDA, record the step as one graph and play it; nothing changes on the CPU",
            harmless="the same step, played from a recording",
        ),
    )
    grad_clip: float | None = field(
        default=None, metadata=doc("largest gradient norm of the upper part; none: no clipping")
    )
    batch_size: int = field(
        default=128, validator=positive, metadata=doc("images a pass of the frozen part", source="code")
    )
    norm: str = field(
        default="train",
        validator=validators.in_(("train", "eval")),
        metadata=doc("batch norm of the upper part uses the step's statistics, or the stored ones"),
    )
    stream_base: bool = field(
        default=False, metadata=doc("stream the first stage's examples too, after base initialisation")
    )
    start_from: str = field(
        default="", metadata=doc("folder that clk remind import-legacy wrote: buffer and classifier to go on from")
    )
    authors_files: bool = field(
        default=False,
        metadata=doc(
            "write the authors' result and weight files beside the run's own",
            harmless="only what is written beside the results",
        ),
    )


@frozen(kw_only=True)
class Offline(Streaming):
    """Upper bound: trained on all data seen so far, at every stage.

    The streaming settings are accepted, so that it can run beside a streaming run with changed settings; of them only
    ``batch_size``, ``momentum`` and ``weight_decay`` have a meaning here.
    """

    scope: str = field(
        default="upper",
        validator=validators.in_(("upper", "whole")),
        metadata=doc("upper: the plastic part on all codes, as Omega needs it; whole: the whole network on all images"),
    )
    epochs: int = field(default=12, validator=positive, metadata=doc("epochs at each stage (scope upper)"))
    lr: float = field(default=0.05, validator=positive, metadata=doc("learning rate (scope upper)"))


@frozen(kw_only=True)
class TinyShapes:
    """Toy data in place of ImageNet: figures in hues."""

    n_train: int = field(default=160, validator=positive, metadata=doc("training images a class"))
    n_test: int = field(default=30, validator=positive, metadata=doc("test images a class"))
    base: int = field(default=6, validator=positive, metadata=doc("classes of base initialisation"))
    increment: int = field(default=2, validator=positive, metadata=doc("classes of each later stage"))
    diagonal: bool = field(
        default=True, metadata=doc("base classes cover every figure and hue; false: drawn at random")
    )


@frozen(kw_only=True)
class ImageNet:
    """An image folder, class after class."""

    images: str = field(default="", metadata=of_rows("folder with train/ and val/; empty: below a data root"))
    class_order: str = field(default="", metadata=of_rows("text file with one class a line; empty: alphabetical"))
    label_dir: str = field(
        default="",
        metadata=of_rows("folder with imagenet_indices/imagenet_{train,val}_labels.npy, instead of class_order"),
    )
    min_class: int = field(default=0, validator=not_negative, metadata=of_rows("first class rank"))
    max_class: int = field(default=1000, validator=not_negative, metadata=of_rows("end of the class ranks; 0: all"))
    base_classes: int = field(
        default=100, validator=positive, metadata=of_rows("classes of base initialisation", source="sec. 5")
    )
    increment: int = field(
        default=100, validator=positive, metadata=of_rows("classes of each later stage", source="sec. 5")
    )
    resize: int = field(
        default=256, validator=positive, metadata=of_decoding("short side before the crop", unit="pixels")
    )
    side: int = field(default=224, validator=positive, metadata=of_decoding("side of the centre crop", unit="pixels"))
    reduced: bool = field(
        default=False,
        metadata=of_decoding(
            "decode JPEGs at least twice as large as needed at a half, a quarter or an eighth of their size"
        ),
    )


@frozen(kw_only=True)
class VqaNetwork:
    """One of six networks that answer questions."""

    network: str = field(
        default="smac",
        validator=validators.in_(("updown", "smac", "mac", "ramen", "q_only", "qi")),
        metadata=doc("updown, smac, mac, ramen, q_only, qi", source="sec. 6"),
    )
    word_dim: int = field(default=300, validator=positive, metadata=doc("length of word vectors"))
    lstm: int = field(default=512, validator=positive, metadata=doc("hidden units a direction of the question encoder"))
    hidden: int = field(
        default=1024, validator=positive, metadata=doc("width of the classifier (doubled in updown and ramen)")
    )
    attention: int = field(default=1024, validator=positive, metadata=doc("width of the attention"))
    attention_kind: str = field(
        default="old",
        validator=validators.in_(("old", "new")),
        metadata=doc("old: question beside region; new: question times region"),
    )
    hops: int = field(default=2, validator=positive, metadata=doc("attention hops"))
    dim: int = field(default=512, validator=positive, metadata=doc("width of MAC and S-MAC"))
    n_steps: int = field(default=12, validator=positive, metadata=doc("steps of MAC and S-MAC"))
    conv: int = field(default=512, validator=positive, metadata=doc("channels of RAMEN's convolutions"))
    mlp: int = field(default=1024, validator=positive, metadata=doc("width of RAMEN's layers"))
    gru: int = field(default=1024, validator=positive, metadata=doc("hidden units a direction of RAMEN's aggregator"))
    dropout_word: float = field(
        default=0.0, validator=not_negative, metadata=doc("dropout on word vectors (TDIUC: 0.5)")
    )
    dropout_attention: float = field(default=0.5, validator=not_negative, metadata=doc("dropout in the attention"))
    dropout_classifier: float = field(default=0.5, validator=not_negative, metadata=doc("dropout in the classifier"))


@frozen(kw_only=True)
class Vqa:
    """Streaming visual question answering."""

    mode: str = field(
        default="remind",
        validator=validators.in_(("remind", "stream", "full", "offline")),
        metadata=doc(
            "remind: replay; stream: fine-tuning; full: offline at every boundary; offline: once on the whole stream"
        ),
    )
    replay_samples: int = field(
        default=50, validator=not_negative, metadata=doc("replayed questions a step", source="sec. 6")
    )
    lr: float = field(default=3e-4, validator=positive, metadata=doc("rate of Adamax (TDIUC: 2e-3)", source="code"))
    epochs: int = field(
        default=20, validator=positive, metadata=doc("epochs of base (and offline) training", source="code")
    )
    batch_size: int = field(
        default=64, validator=positive, metadata=doc("batch of base training (TDIUC: 512)", source="code")
    )
    predict_batch: int = field(
        default=512,
        validator=positive,
        metadata=doc("questions a prediction step", harmless="each question is answered by itself"),
    )
    test_interval: int = field(
        default=8,
        validator=not_negative,
        metadata=doc("epochs between evaluations in base training; 0: none", source="code"),
    )
    insert_first: bool = field(
        default=False, metadata=doc("the current question enters the memory before the draw, as in the authors' code")
    )
    words: str = field(
        default="",
        metadata=doc("word vectors: GloVe's text, the authors' .npy table, or a .pkl word -> vector; empty: random"),
    )
    dictionary: str = field(
        default="",
        metadata=doc("the authors' dictionary_*.pkl for a .npy table; empty: the one beside it", when={"words": True}),
    )
    average: bool = field(default=False, metadata=doc("evaluate an exponential average of the weights"))
    average_decay: float = field(
        default=0.999, metadata=doc("decay of that average", source="code", when={"average": True})
    )
    authors_files: bool = field(
        default=False,
        metadata=doc(
            "write the authors' result and weight files beside the run's own",
            harmless="only what is written beside the results",
        ),
    )
    freeze_words: bool = field(
        default=True, metadata=doc("MAC and S-MAC keep their word vectors as they are", source="code")
    )


@frozen(kw_only=True)
class Questions:
    """Order and size of a question stream."""

    order: str = field(
        default="qtype",
        validator=validators.in_(("iid", "qtype")),
        metadata=of_questions("iid: shuffled, ten stages; qtype: a question type a stage"),
    )
    longest: int = field(default=45, validator=positive, metadata=of_questions("words a question keeps (TDIUC: 30)"))
    sort_batch: int = field(
        default=64,
        validator=positive,
        metadata=of_questions("questions are sorted by length within so many (TDIUC: 512)"),
    )
    across_stages: bool = field(
        default=False, metadata=of_questions("sorting batches run across stages, as the authors' loader does")
    )
    codebooks: int = field(
        default=32, validator=positive, metadata=of_questions("codebooks of the image features", source="sec. 6")
    )
    codebook_size: int = field(default=256, validator=positive, metadata=of_questions("centroids a codebook"))
    pq_images: str = field(
        default="base",
        validator=validators.in_(("base", "published")),
        metadata=of_questions(
            "images that train the quantiser: those of the first stage, or as the authors' scripts chose them"
        ),
    )
    folder: str = field(
        default="", metadata=of_questions("folder that clk remind prepare wrote; empty: below a data root")
    )


@frozen(kw_only=True)
class TinyQuestions(Questions):
    """Toy scenes with questions about them."""

    n_train: int = field(default=300, validator=positive, metadata=doc("training questions a type"))
    n_test: int = field(default=60, validator=positive, metadata=doc("test questions a type"))
    n_images: int = field(default=300, validator=positive, metadata=doc("training scenes"))


@frozen(kw_only=True)
class Core50:
    """CORe50 in one of four orders."""

    order: str = field(
        default="class_instance",
        validator=validators.in_(("iid", "class_iid", "instance", "class_instance")),
        metadata=of_rows("iid, class_iid, instance, class_instance", source="sec. 5"),
    )
    permutation: int = field(
        default=0, validator=not_negative, metadata=of_rows("number of the random order; the paper averages ten")
    )
    folder: str = field(default="", metadata=of_rows("folder with s1 ... s11; empty: below a data root"))
    every: int = field(
        default=20, validator=positive, metadata=of_rows("use one of so many frames (20 a second)", source="sec. 5")
    )
    side: int = field(
        default=224,
        validator=positive,
        metadata=of_decoding("images are resized to this side", source="CRUMB's reproduction", unit="pixels"),
    )
    base_classes: int = field(
        default=2,
        validator=positive,
        metadata=of_rows("classes of base initialisation in class orders", source="sec. 5"),
    )
    increment_classes: int = field(
        default=2, validator=positive, metadata=of_rows("classes of each later stage in class orders")
    )
    base: int = field(
        default=1200,
        validator=positive,
        metadata=of_rows("frames of base initialisation in the other orders", source="sec. 5"),
    )
    increment: int = field(
        default=1200,
        validator=positive,
        metadata=of_rows("frames of each later stage in the other orders", source="sec. 5"),
    )


@frozen(kw_only=True)
class TinyCore:
    """Toy data in place of CORe50: clips of drifting figures."""

    order: str = field(
        default="class_instance",
        validator=validators.in_(("iid", "class_iid", "instance", "class_instance")),
        metadata=doc("iid, class_iid, instance, class_instance"),
    )
    permutation: int = field(default=0, validator=not_negative, metadata=doc("number of the random order"))
    n_frames: int = field(default=25, validator=positive, metadata=doc("frames of a clip"))

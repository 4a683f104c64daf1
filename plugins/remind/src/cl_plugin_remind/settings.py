"""Every setting with the paper's value. Light: imports no torch."""

from __future__ import annotations

from attrs import field, frozen, validators

from cl_kernel import doc

positive = validators.gt(0)
not_negative = validators.ge(0)


@frozen(kw_only=True)
class Network:
    """The residual network and where it is cut."""

    cut: str = field(default="layer4.1", metadata=doc(
        "first block that learns while streaming: conv1, layer1.0 ... layer4.1, fc, or an authors' name such as "
        "ResNet18_StartAt_Layer4_1", source="sec. 5"))
    base_arch: str = field(default="ResNet18ClassifyAfterLayer4_1", metadata=doc(
        "base network; ResNet18ClassifyAfterLayer4_0 ends one block earlier"))
    stem: int = field(default=64, validator=positive, metadata=doc("channels of the first convolution"))
    stem_kind: str = field(default="auto", validator=validators.in_(("auto", "imagenet", "small")), metadata=doc(
        "small: 3x3 without pooling; auto: small below 96 pixels"))
    widths: tuple[int, ...] = field(default=(64, 128, 256, 512), converter=tuple, metadata=doc("channels of the four layers"))
    blocks: tuple[int, ...] = field(default=(2, 2, 2, 2), converter=tuple, metadata=doc("blocks of each layer"))
    strides: tuple[int, ...] = field(default=(1, 2, 2, 2), converter=tuple, metadata=doc("stride of each layer's first block"))


@frozen(kw_only=True)
class Pq:
    """Product quantiser."""

    codebooks: int = field(default=32, validator=positive, metadata=doc("codebooks; must divide the channels", source="sec. 5"))
    codebook_size: int = field(default=256, validator=positive, metadata=doc("centroids a codebook, a power of two", source="sec. 5"))
    patch: int = field(default=8, validator=positive, metadata=doc("side of the patches images are cut into"))


@frozen(kw_only=True)
class BaseTraining:
    """Offline training of the base network."""

    base: str = field(default="", metadata=doc("base checkpoint file; empty: train the base network here"))
    new_head: bool = field(default=False, metadata=doc("leave the checkpoint's classifier out and start with a random one"))
    base_epochs: int = field(default=40, validator=positive, metadata=doc("epochs of base training", source="code"))
    base_batch: int = field(default=256, validator=positive, metadata=doc("batch of base training", source="code"))
    base_lr: float = field(default=0.1, validator=positive, metadata=doc("(highest) learning rate of base training", source="code"))
    base_momentum: float = field(default=0.9, validator=not_negative, metadata=doc("momentum of base training", source="code"))
    base_weight_decay: float = field(default=1e-4, validator=not_negative, metadata=doc("weight decay of base training", source="code"))
    base_nesterov: bool = field(default=False, metadata=doc("Nesterov momentum in base training"))
    base_schedule: str = field(default="step", validator=validators.in_(("step", "one-cycle")), metadata=doc(
        "step: divide by ten every base_lr_step epochs; one-cycle: rise to the highest rate, then fall"))
    base_lr_step: int = field(default=15, validator=positive, metadata=doc("epochs between divisions by ten", source="code"))
    base_augment: str = field(default="imagenet", validator=validators.in_(("imagenet", "shift", "none")), metadata=doc(
        "imagenet: random resized crop and flip; shift: flip, shift up to an eighth, brightness; none"))


@frozen(kw_only=True)
class Streaming(BaseTraining):
    """REMIND: one example at a time, replayed codes, per-class rates."""

    replay_samples: int = field(default=50, validator=not_negative, metadata=doc("replayed examples a step; 0 is fine-tuning", source="sec. 5"))
    mixup: bool = field(default=True, metadata=doc("mix pairs of replayed feature maps", source="sec. 4"))
    mixup_alpha: float = field(default=0.1, metadata=doc("parameter of the Beta distribution", source="sec. 5"))
    crops: bool = field(default=True, metadata=doc("random resized crops of feature maps", source="sec. 4"))
    lr_mode: str = field(default="step_lr_per_class", validator=validators.in_(("step_lr_per_class", "constant")),
                         metadata=doc("rate falls with each class' own examples, or stays at start_lr"))
    start_lr: float = field(default=0.1, validator=positive, metadata=doc("rate of a class' first examples", source="sec. 5"))
    end_lr: float = field(default=0.001, validator=positive, metadata=doc("rate after lr_samples examples of a class", source="sec. 5"))
    lr_step: int = field(default=100, validator=positive, metadata=doc("examples of a class between falls", source="sec. 5"))
    lr_samples: int = field(default=1300, validator=positive, metadata=doc("examples of a class until end_lr"))
    momentum: float = field(default=0.9, validator=not_negative, metadata=doc("momentum", source="code"))
    weight_decay: float = field(default=1e-5, validator=not_negative, metadata=doc("weight decay", source="code"))
    grad_clip: float | None = field(default=None, metadata=doc("largest gradient norm of the upper part; none: no clipping"))
    batch_size: int = field(default=128, validator=positive, metadata=doc("images a pass of the frozen part", source="code"))
    norm: str = field(default="train", validator=validators.in_(("train", "eval")), metadata=doc(
        "batch norm of the upper part uses the step's statistics, or the stored ones"))
    stream_base: bool = field(default=False, metadata=doc("stream the first stage's examples too, after base initialisation"))
    authors_files: bool = field(default=False, metadata=doc("write the authors' result and weight files beside the run's own"))


@frozen(kw_only=True)
class Offline(BaseTraining):
    """Upper bound: trained on all data seen so far, at every stage."""

    scope: str = field(default="upper", validator=validators.in_(("upper", "whole")), metadata=doc(
        "upper: the plastic part on all codes, as Omega needs it; whole: the whole network on all images"))
    epochs: int = field(default=12, validator=positive, metadata=doc("epochs at each stage (scope upper)"))
    lr: float = field(default=0.05, validator=positive, metadata=doc("learning rate (scope upper)"))
    batch_size: int = field(default=128, validator=positive, metadata=doc("batch (scope upper)"))
    momentum: float = field(default=0.9, validator=not_negative, metadata=doc("momentum (scope upper)"))
    weight_decay: float = field(default=1e-5, validator=not_negative, metadata=doc("weight decay (scope upper)"))


@frozen(kw_only=True)
class TinyShapes:
    """Stand-in for ImageNet: figures in hues."""

    n_train: int = field(default=160, validator=positive, metadata=doc("training images a class"))
    n_test: int = field(default=30, validator=positive, metadata=doc("test images a class"))
    base: int = field(default=6, validator=positive, metadata=doc("classes of base initialisation"))
    increment: int = field(default=2, validator=positive, metadata=doc("classes of each later stage"))
    diagonal: bool = field(default=True, metadata=doc("base classes cover every figure and hue; false: drawn at random"))

"""Settings of the generic torch learners and networks; light, imports no torch."""

from __future__ import annotations

from typing import Any

from attrs import field, frozen, validators

from cl_kernel.contract.offers import doc

positive: Any = validators.gt(0)
not_negative: Any = validators.ge(0)


@frozen(kw_only=True)
class Naive:
    """Plain training, stage after stage."""

    lr: float = field(default=0.1, validator=positive, metadata=doc("learning rate"))
    momentum: float = field(default=0.0, validator=not_negative, metadata=doc("momentum of SGD"))
    weight_decay: float = field(default=0.0, validator=not_negative, metadata=doc("weight decay"))
    optimizer: str = field(
        default="sgd", validator=validators.in_(("sgd", "adam", "adamw")), metadata=doc("sgd, adam or adamw")
    )
    epochs: int = field(default=1, validator=positive, metadata=doc("passes over a stage"))
    batch_size: int = field(default=32, validator=positive, metadata=doc("new examples a step"))
    predict_batch: int = field(default=256, validator=positive, metadata=doc("examples a prediction step"))


@frozen(kw_only=True)
class Replay(Naive):
    """Experience replay: each step also sees remembered examples."""

    replay_batch: int = field(default=32, validator=not_negative, metadata=doc("remembered examples a step"))
    update: str = field(
        default="stage",
        validator=validators.in_(("stage", "batch")),
        metadata=doc("when the memory takes new examples: after a stage, or after every batch"),
    )


@frozen(kw_only=True)
class Joint(Naive):
    """Upper bound: training on everything seen so far."""

    restart: bool = field(default=True, metadata=doc("begin each stage with the initial weights"))


@frozen(kw_only=True)
class Mlp:
    """Multi-layer perceptron."""

    hidden: tuple[int, ...] = field(default=(128,), converter=tuple, metadata=doc("widths of the hidden layers"))
    cut: str = field(default="", metadata=doc("first layer that learns, hidden0 ... head; empty: all"))


@frozen(kw_only=True)
class Convnet:
    """Small convolutional network."""

    widths: tuple[int, ...] = field(default=(32, 64, 64), converter=tuple, metadata=doc("channels of each layer"))
    cut: str = field(default="", metadata=doc("first layer that learns, conv0 ... head; empty: all"))


@frozen(kw_only=True)
class Resnet18:
    """ResNet-18 of torchvision."""

    cut: str = field(default="", metadata=doc("first block that learns, layer1.0 ... layer4.1 or fc; empty: all"))
    stem: str = field(
        default="auto",
        validator=validators.in_(("auto", "imagenet", "small")),
        metadata=doc("small: 3x3 without pooling, for images below 96 pixels"),
    )
    weights: str = field(default="", metadata=doc("file with weights; empty: random"))
    new_head: bool = field(default=False, metadata=doc("leave the classifier of the weight file out"))
    normalise: bool = field(default=True, metadata=doc("ImageNet mean and deviation"))

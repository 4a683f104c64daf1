"""Settings of the kernel's torch networks; light, imports no torch."""

from __future__ import annotations

from attrs import field, frozen, validators

from cl_kernel.contract.offers import doc


@frozen(kw_only=True)
class Mlp:
    """Multi-layer perceptron."""

    hidden: tuple[int, ...] = field(
        default=(128,),
        converter=tuple,
        validator=validators.deep_iterable(validators.ge(1)),
        metadata=doc("widths of the hidden layers"),
    )
    cut: str = field(default="", metadata=doc("first layer that learns, hidden0 ... head; empty: all", example="head"))


@frozen(kw_only=True)
class Convnet:
    """Small convolutional network."""

    widths: tuple[int, ...] = field(
        default=(32, 64, 64),
        converter=tuple,
        validator=[validators.min_len(1), validators.deep_iterable(validators.ge(1))],
        metadata=doc("channels of each layer"),
    )
    cut: str = field(default="", metadata=doc("first layer that learns, conv0 ... head; empty: all", example="head"))


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

"""Settings; light."""

from attrs import field, frozen, validators

from cl_kernel import doc


@frozen(kw_only=True)
class Rings:
    """Settings of the stream."""

    n_classes: int = field(default=6, validator=validators.ge(2), metadata=doc("number of classes"))
    n_train: int = field(default=40, metadata=doc("training samples a class"))
    n_test: int = field(default=20, metadata=doc("test samples a class"))
    noise: float = field(default=0.4, metadata=doc("standard deviation"))


@frozen(kw_only=True)
class Train:
    """Settings of the learner."""

    lr: float = field(default=0.2, metadata=doc("learning rate", source="sec. 4"))
    n_epochs: int = field(default=2, metadata=doc("passes over a stage"))
    batch_size: int = field(default=8, metadata=doc("samples a step"))


@frozen(kw_only=True)
class Count:
    """Settings of the experiment with an own run."""

    upto: int = field(default=5, metadata=doc("how far to count"))

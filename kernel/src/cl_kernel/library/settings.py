"""Settings of the kernel's own pieces. Light: attrs only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from attrs import field, frozen, validators

from cl_kernel.contract.offers import doc

ROWS = "the samples that each stage and test set holds"


@frozen(kw_only=True)
class BiasedReservoir:
    """Settings of the biased reservoir."""

    alpha: float = field(
        default=1.0,
        validator=validators.ge(0.0),
        metadata=doc(
            "preference for the present (> 1) or the past (< 1); 1 is a plain reservoir", source="CLEAR, sec. 5"
        ),
    )
    dynamic: bool = field(
        default=False,
        metadata=doc("accept with min(1, alpha) instead of min(1, alpha capacity / n)", source="CLEAR, sec. 5"),
    )
    by_bucket: bool = field(default=False, metadata=doc("each addition is a whole time bucket, as in the paper"))


@frozen(kw_only=True)
class LargestClass:
    """Settings of largest-class eviction."""

    newcomer_may_leave: bool = field(
        default=True,
        metadata=doc(
            "count the newcomer before evicting, so that it may leave at once (REMIND's image streams); "
            "False makes room first (its VQA streams)"
        ),
    )


@frozen(kw_only=True)
class Blobs:
    """Settings of the stream of Gaussian classes."""

    n_classes: int = field(default=10, validator=validators.ge(1), metadata=doc("number of classes", example=20))
    n_stages: int = field(
        default=5, validator=validators.ge(1), metadata=doc("stages; must divide the classes", counted=ROWS, example=2)
    )
    n_train: int = field(default=60, validator=validators.ge(1), metadata=doc("training samples a class"))
    n_test: int = field(default=40, validator=validators.ge(1), metadata=doc("test samples a class"))
    n_features: int = field(default=8, validator=validators.ge(1), metadata=doc("length of a vector"))
    spread: float = field(
        default=0.6,
        validator=validators.ge(0.0),
        metadata=doc("standard deviation around class means of unit variance"),
    )
    order: tuple[int, ...] = field(
        default=(),
        metadata=doc("class order; empty for 0, 1, 2, ...", counted=ROWS, example=[9, 1, 2, 3, 4, 5, 6, 7, 8, 0]),
    )


@frozen(kw_only=True)
class Digits:
    """Settings of scikit-learn's handwritten digits."""

    n_stages: int = field(
        default=5,
        validator=validators.ge(1),
        metadata=doc("stages; must divide the ten classes", counted=ROWS, example=2),
    )
    test_share: float = field(
        default=0.25,
        validator=[validators.gt(0.0), validators.lt(1.0)],
        metadata=doc("part of each class kept for testing", counted=ROWS),
    )
    order: tuple[int, ...] = field(
        default=(),
        metadata=doc("class order; empty for 0, 1, 2, ...", counted=ROWS, example=[9, 1, 2, 3, 4, 5, 6, 7, 8, 0]),
    )


@frozen(kw_only=True)
class Linear:
    """Settings of softmax regression."""

    ONE_PASS: ClassVar[Mapping[str, Any]] = {"n_epochs": 1}

    lr: float = field(default=0.1, validator=validators.gt(0.0), metadata=doc("learning rate of plain SGD"))
    batch_size: int = field(default=16, validator=validators.ge(1), metadata=doc("new samples a step"))
    n_replayed: int = field(
        default=16, validator=validators.ge(0), metadata=doc("replayed samples a step", when={"memory": True})
    )
    n_epochs: int = field(default=5, validator=validators.ge(1), metadata=doc("passes over a stage"))

"""Section ``stream``: what is made of any data set with one class a sample. Light: attrs only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from attrs import Attribute, field, frozen, validators

from cl_kernel.contract.offers import doc

BY_CLASS = {"scenario": ("", "class", "task")}
NOT_DOMAIN = {"scenario": ("", "class", "task", "instance", "mixed")}
ROWS = "the samples that each stage and test set holds"
share = validators.and_(validators.ge(0.0), validators.lt(1.0))


def _texts(value: str | Sequence[str]) -> tuple[str, ...]:
    """One text, or several."""
    return (value,) if isinstance(value, str) else tuple(value)


@frozen(kw_only=True)
class StreamOptions:
    """What becomes of a data set's stages; by default nothing."""

    scenario: Literal["", "class", "task", "domain", "instance", "mixed"] = field(
        default="",
        metadata=doc(
            "what a stage brings: new classes; a task of new classes whose label is known; another domain of all "
            "classes; other samples of all classes; a random mix of classes; empty: as the data set says",
            counted=ROWS,
        ),
    )
    stages: int = field(
        default=0, validator=validators.ge(0), metadata=doc("number of stages; 0: the data set's", counted=ROWS)
    )
    sizes: tuple[int, ...] = field(
        default=(), metadata=doc("classes of each stage instead; must add up to all", counted=ROWS, when=BY_CLASS)
    )
    shares: tuple[float, ...] = field(
        default=(),
        metadata=doc(
            "samples of each stage, relative to each other", counted=ROWS, when={"scenario": ("instance", "mixed")}
        ),
    )
    order: tuple[int, ...] | str = field(
        default=(), metadata=doc("order of the classes, or random; empty: the data set's", counted=ROWS, when=BY_CLASS)
    )
    transform: str = field(
        default="",
        metadata=doc(
            "what makes a domain: rotation, permutation, colour, blur, or FILE.py:FUNCTION of one's own, called with "
            "samples and the number of the stage",
            counted=ROWS,
            when={"scenario": "domain"},
        ),
    )
    amount: float = field(
        default=0.0,
        validator=validators.ge(0.0),
        metadata=doc(
            "of the transform in the last stage: degrees of rotation (0: 90), pixels of blur (0: 1.5), strength of "
            "the tint (0: 0.8)",
            counted=ROWS,
            when={"scenario": "domain", "transform": ("rotation", "colour", "blur")},
        ),
    )
    mix: float = field(
        default=1.0,
        validator=validators.gt(0.0),
        metadata=doc(
            "evenness of a random mix: the parameter of a Dirichlet distribution",
            counted=ROWS,
            when={"scenario": "mixed"},
        ),
    )
    blurry: float = field(
        default=0.0,
        validator=share,
        metadata=doc("part of each stage's samples that changes places", counted=ROWS, when=NOT_DOMAIN),
    )
    long_tail: float = field(
        default=0.0,
        validator=validators.ge(0.0),
        metadata=doc("how many times more samples the first class has than the last; 0: as they are", counted=ROWS),
    )
    tail: Literal["order", "random"] = field(
        default="order", metadata=doc("which classes are frequent: the earlier ones, or at random", counted=ROWS)
    )
    shots: int = field(
        default=0,
        validator=validators.ge(0),
        metadata=doc("training samples of each class after the first stage; 0: all", counted=ROWS, when=NOT_DOMAIN),
    )
    online: int = field(
        default=0, validator=validators.ge(0), metadata=doc("one pass in batches of so many samples; 0: the learner's")
    )
    augment: tuple[str, ...] = field(
        default=(),
        converter=_texts,
        metadata=doc(
            "random views of the training pictures, the same for every learner: transforms of torchvision's v2 "
            "in order, as RandomHorizontalFlip or 'RandomCrop(32, padding=4)'",
            example=["RandomHorizontalFlip"],
        ),
    )
    validation: float = field(
        default=0.0,
        validator=share,
        metadata=doc("part of each class' training samples kept apart, the same for every learner", counted=ROWS),
    )
    scored: Literal["test", "validation"] = field(
        default="test", metadata=doc("what is scored: the test samples, or those kept apart", counted=ROWS)
    )

    @order.validator
    def _check_order(self, _: Attribute[object], value: object) -> None:
        if isinstance(value, str) and value not in ("", "random"):
            raise ValueError(f"'order' = {value!r} is neither random nor a list of classes")

    def __attrs_post_init__(self) -> None:
        if self.long_tail and self.long_tail < 1:
            raise ValueError(f"'long_tail' = {self.long_tail} is below 1")
        if any(share <= 0 for share in self.shares):
            raise ValueError(f"'shares' = {list(self.shares)} are not all positive")
        if self.scored == "validation" and not self.validation:
            raise ValueError("'scored' = validation, but 'validation' keeps nothing apart")

    @property
    def splits(self) -> bool:
        """Whether the stages are made anew."""
        return bool(self.scenario or self.stages or self.sizes or self.order)

    @property
    def changes(self) -> bool:
        """Whether anything of the stream is changed."""
        mine = StreamOptions(online=self.online, augment=self.augment, mix=self.mix, tail=self.tail)
        return self != mine

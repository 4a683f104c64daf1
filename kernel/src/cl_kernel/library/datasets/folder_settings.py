"""Settings of image folders and Hugging Face data sets. Light: attrs only."""

from __future__ import annotations

from attrs import field, frozen, validators

from cl_kernel.contract.offers import doc

ROWS = "the images that each stage and test set holds"


@frozen(kw_only=True)
class Images:
    """What both have in common: the size of an image and the split into stages."""

    size: int = field(
        default=64,
        validator=validators.ge(1),
        metadata=doc("edge of an image after resizing the shorter side and cutting the centre", unit="pixels"),
    )
    n_stages: int = field(
        default=5, validator=validators.ge(1), metadata=doc("equal stages of new classes", counted=ROWS)
    )
    stage_sizes: tuple[int, ...] = field(
        default=(), metadata=doc("classes of each stage instead; must add up to all", counted=ROWS, example=[3, 1])
    )
    order: tuple[int, ...] = field(
        default=(), metadata=doc("class order; empty for that of the data", counted=ROWS, example=[3, 2, 1, 0])
    )
    test_share: float = field(
        default=0.2,
        validator=[validators.gt(0.0), validators.lt(1.0)],
        metadata=doc("part of each class kept for testing when the data have no test split", counted=ROWS),
    )
    limit: int = field(
        default=0,
        validator=validators.ge(0),
        metadata=doc("images of a class that a side takes, the first ones; 0: all", counted=ROWS),
    )
    keep_mb: float = field(
        default=256.0,
        validator=validators.ge(0.0),
        metadata=doc(
            "decoded images are kept in memory when all of them take no more",
            unit="MB",
            harmless="only when images are decoded",
        ),
    )


@frozen(kw_only=True)
class Folder(Images):
    """A folder in the layout of torchvision's ImageFolder: ``train/<class>/*.jpg``, ``val/<class>/*.jpg``."""

    path: str = field(default="", metadata=doc("the folder", counted="the images in it"))


@frozen(kw_only=True)
class HuggingFace(Images):
    """A data set of the library ``datasets``: a name on the hub, or a folder it can read."""

    path: str = field(default="", metadata=doc("name on the hub, or a local folder", counted="the images in it"))
    config: str = field(default="", metadata=doc("configuration of the data set"))
    train: str = field(default="train", metadata=doc("name of the training split"))
    test: str = field(default="", metadata=doc("name of the test split; empty: test or validation, if there"))
    image: str = field(default="", metadata=doc("image column; empty: the first of that type"))
    label: str = field(default="", metadata=doc("label column; empty: the first of that type"))


@frozen(kw_only=True)
class Staged:
    """How samples of one's own become stages."""

    n_stages: int = field(
        default=5,
        validator=validators.ge(1),
        metadata=doc("equal stages of new classes, where the file has no stage", counted=ROWS),
    )
    stage_sizes: tuple[int, ...] = field(
        default=(), metadata=doc("classes of each stage instead; must add up to all", counted=ROWS, example=[3, 1])
    )
    order: tuple[int, ...] = field(
        default=(), metadata=doc("class order; empty for ascending", counted=ROWS, example=[3, 2, 1, 0])
    )
    test_share: float = field(
        default=0.2,
        validator=[validators.gt(0.0), validators.lt(1.0)],
        metadata=doc("part of each class kept for testing when the file has no split", counted=ROWS),
    )


@frozen(kw_only=True)
class Arrays(Staged):
    """Arrays of one's own in a file of ``numpy.savez``."""

    path: str = field(
        default="",
        metadata=doc("the .npz file with x and y, and stage and split where wanted", counted="the samples in it"),
    )


@frozen(kw_only=True)
class Own(Staged):
    """What a callable of one's own gives: arrays, a torch data set, or one of the library ``datasets``."""

    path: str = field(
        default="", metadata=doc("FILE.py:CALLABLE or package.module:CALLABLE", counted="the samples that it gives")
    )
    size: int = field(
        default=0,
        validator=validators.ge(0),
        metadata=doc(
            "pictures of Pillow: shorter side to this edge, then the centre; 0: as they are",
            unit="pixels",
            when={"piece": "module"},
        ),
    )

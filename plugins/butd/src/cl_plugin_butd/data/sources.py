"""Raw characters of a data set, looked for below the data roots."""

from __future__ import annotations

from pathlib import Path

from cl_kernel import BadInput, MissingAsset, Resources
from cl_plugin_butd.data import emnist, glyphs

RAW_FOLDER = {
    "emnist": "EMNIST",
    "fashion": "FashionMNIST",
    "kmnist": "KMNIST",
    "cifar10": "cifar-10-batches-py",
    "cifar100": "cifar-100-python",
    "omniglot": "omniglot-py",
    "digits": "",
}


def raw_root(resources: Resources, name: str, source: str) -> Path | None:
    """Folder of the raw files of a source below the data roots; None where it needs none.

    :raises MissingAsset: saying what was looked for.
    """
    if source == glyphs.DIGITS:
        return None
    for root in resources.roots:
        if lies_in(root, source):
            return root
    raise MissingAsset(
        f"no raw files of {source} ({name})",
        where=f"data roots: {', '.join(map(str, resources.roots)) or 'none given'}",
        fix="pass --data-root DIR; `clk data list` says where to get them",
    )


def lies_in(root: Path, source: str) -> bool:
    """Whether raw files of a source lie below a data root, in any form that can be read."""
    if (root / RAW_FOLDER[source]).exists():
        return True
    if source == "emnist":
        return emnist.reader(root) is not None
    return source == "omniglot" and bool(glyphs.omniglot_folders(root))


def source_of(resources: Resources, source: str) -> glyphs.Glyphs:
    """Glyphs of a source, raw files looked for below the data roots."""
    if source not in RAW_FOLDER:
        raise BadInput(
            f"unknown glyph source {source!r}", where="dataset.source", fix=f"use one of {', '.join(RAW_FOLDER)}"
        )
    return glyphs.load(source, raw_root(resources, RAW_FOLDER[source], source))

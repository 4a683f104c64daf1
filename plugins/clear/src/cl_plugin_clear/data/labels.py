"""Labelled folders in the original's layout: class index, file lists, splits. What Avalanche users read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import frozen

from cl_kernel import BadInput

LABELED_IMAGES = "labeled_images"
SEEDS = (0, 1, 2, 3, 4)


def class_names(labels: Sequence[str]) -> list[str]:
    """Labels sorted by code point; the index is the position."""
    return sorted(set(labels))


def map_labels(
    prompts: Sequence[str], label_map: Mapping[str, str] | None, *, default: str = "", prefix: str = ""
) -> list[str]:
    """Short label of each prompt.

    :param default: ``"slug"`` turns an unknown prompt into words joined by ``_``; empty refuses it.
    :raises BadInput: naming a prompt without label, or two prompts with one label.
    """
    bare = [prompt.removeprefix(prefix) if prefix else prompt for prompt in prompts]
    if label_map is None:
        labels = bare
    else:
        unknown = [prompt for prompt in bare if prompt not in label_map]
        if unknown and default != "slug":
            raise BadInput(
                f"no label for the prompt{'s' if len(unknown) > 1 else ''} {', '.join(map(repr, unknown))}",
                where="label map",
                fix="add it, or pass --label-map-default slug",
            )
        labels = [label_map.get(prompt) or slug(prompt) for prompt in bare]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise BadInput(f"two prompts share the label {', '.join(twice)}", where="label map")
    odd = [label for label in labels if not label or "/" in label or label in (".", "..")]
    if odd:
        raise BadInput(f"{odd[0]!r} cannot be a folder name", where="label map", fix="give it a label in the label map")
    return labels


def slug(prompt: str) -> str:
    """A folder name from a prompt: the part before a comma, words joined by ``_``."""
    return "_".join("".join(c if c.isalnum() else " " for c in prompt.split(",")[0]).split()).lower()


@frozen
class Listed:
    """One line of a file list."""

    path: str
    label: int
    id: str


def list_bucket(bucket: str, members: Mapping[str, Sequence[tuple[str, str]]], names: Sequence[str]) -> list[Listed]:
    """The file list of a bucket: labels in the given order, members in theirs.

    :param members: label -> (id, extension) in score order.
    """
    index = {name: i for i, name in enumerate(names)}
    return [
        Listed(f"{LABELED_IMAGES}/{bucket}/{label}/{name}.{extension}", index[label], name)
        for label, images in members.items()
        for name, extension in images
    ]

"""``clk model NAME``: layers of a network, what crosses in front of each, and what keeping that takes.

With ``--pictures`` instead what the network's own classifier says of them.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl_kernel.cli.console import Console, size
from cl_kernel.contract.errors import BadSetting, Mismatch, MissingAsset
from cl_kernel.contract.stream import Field
from cl_kernel.registry import Offer, discover, resolve
from cl_kernel.running.resources import Resources
from cl_kernel.running.session import default_cache
from cl_kernel.running.settings import Layer, parse_assignments, resolve_settings
from cl_kernel.storage.cache import Cache

if TYPE_CHECKING:
    from cl_kernel.torch.split import Split

IMAGENET_CLASSES, SHOWN = 1000, 10
Handler = Callable[[Namespace, Console], int]


def model(parser: ArgumentParser) -> Handler:
    """List a network's layers with shapes, parameters and bytes, or name pictures."""
    parser.add_argument("name", help="as in clk run --model, e.g. efficientnet-lite0 or torchvision:resnet18")
    parser.add_argument("--size", type=int, default=224, metavar="PIXELS", help="edge of the images (default: 224)")
    parser.add_argument("--channels", type=int, default=3, metavar="N", help="of the images (default: 3)")
    parser.add_argument("--classes", type=int, default=10, metavar="N", help="scores of a new head (default: 10)")
    parser.add_argument("--depth", type=int, default=2, metavar="N", help="how deep layers are listed (default: 2)")
    parser.add_argument(
        "--pictures", type=Path, metavar="DIR", help="say what the weights' own classifier sees in these"
    )
    parser.add_argument("--labels", type=Path, metavar="CSV", help="columns file and index: count which are right")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the model")

    def handle(namespace: Namespace, console: Console) -> int:
        for name, value in (
            ("--size", namespace.size),
            ("--channels", namespace.channels),
            ("--depth", namespace.depth),
        ):
            if value < 1:
                raise BadSetting(f"{value} is not positive", where=name)
        if namespace.labels is not None and namespace.pictures is None:
            raise BadSetting("labels without pictures", where="--labels", fix="--pictures DIR")
        if namespace.pictures is not None:
            return _name(namespace, console)
        split, said = _built(namespace)
        rows = _rows(split, namespace)
        total = sum(p.numel() for p in split.parameters())
        console.print(f"{namespace.name}: {total:,} parameters, images of {namespace.size}x{namespace.size}")
        for line in said:
            console.print(line)
        console.table(
            "layers, and what model.cut=LAYER keeps of an image",
            ("layer", "kind", "parameters", "crosses", "float32", "half", "cut here"),
            [_shown(row) for row in rows],
        )
        console.json({"model": namespace.name, "parameters": total, "notes": said, "layers": rows})
        return 0

    return handle


def _name(namespace: Namespace, console: Console) -> int:
    """Name pictures with the classifier that came with the weights."""
    from cl_kernel.library.backbones import naming

    pictures = naming.find_pictures(namespace.pictures)
    labels = None if namespace.labels is None else naming.read_labels(namespace.labels, pictures)
    namespace.classes = IMAGENET_CLASSES
    namespace.set = ["model.new_head=false", *namespace.set]
    split, said = _built(namespace)
    if any(line.startswith("weights: ") for line in said):
        raise MissingAsset(said[-1].removeprefix("weights: "), where="--pictures")
    rows = naming.name_pictures(split, pictures, namespace.size)
    for line in said:
        console.print(line)
    head = ("picture", "class", "probability", *(() if labels is None else ("right",)))
    shown: list[tuple[Any, ...]] = [(row["file"], row["class"], row["probability"]) for row in rows[:SHOWN]]
    if labels is not None:
        shown = [(*row, label) for row, label in zip(shown, labels, strict=False)]
    console.table(f"the first {len(shown)} of {len(rows)} pictures", head, shown)
    right = {} if labels is None else naming.shares_right(rows, labels)
    if right:
        console.print(
            f"{right['top1']:.1%} of {len(rows)} pictures named right, {right['top5']:.1%} among the five likeliest"
        )
    console.json({"model": namespace.name, "notes": said, "pictures": rows, **right})
    return 0


def _shown(row: dict[str, Any]) -> tuple[str, ...]:
    shape = "x".join(map(str, row["input"]))
    return (
        row["layer"],
        row["kind"],
        f"{row['parameters']:,}",
        shape,
        size(row["bytes"]),
        size(row["bytes"] / 2),
        {True: "yes", False: "no", None: "-"}[row["cut"]],
    )


def _built(namespace: Namespace) -> tuple[Split, list[str]]:
    """The network uncut, with its weights where they are here, and what there is to say of them."""
    offer, argument = discover().find("model", namespace.name)
    if offer.record.framework != "torch":
        raise Mismatch(
            f"{offer.name} is {offer.record.framework}; layers of torch networks are listed", where="clk model"
        )
    given = {
        key if "." in key else f"model.{key}": value for key, value in parse_assignments(namespace.set).values.items()
    }
    if argument:
        if not offer.record.argument:
            raise BadSetting(f"{offer.name} takes no argument, but {argument!r} was given", where="clk model")
        given[f"model.{offer.record.argument}"] = argument
    resources = Resources(cache=Cache(default_cache()), device="cpu")
    try:
        return _network(offer, given, namespace, resources), resources.said
    except MissingAsset as error:
        if "model.weights" in given or not _is_backbone(offer):
            raise
        split = _network(offer, {**given, "model.weights": "none"}, namespace, resources)
        return split, [f"weights: {error.what}; {error.fix}"]


def _network(offer: Offer, given: dict[str, Any], namespace: Namespace, resources: Resources) -> Split:
    from cl_kernel.torch.split import as_split

    edge, channels = namespace.size, namespace.channels
    fields = {
        "image": Field(shape=(edge, edge, channels), dtype="uint8", kind="image"),
        "class": Field(shape=(), dtype="int64", kind="class", n=namespace.classes),
    }
    settings_class = offer.record.settings
    uncut = {"model.cut": ""} if _is_backbone(offer) else {}
    settings = None
    if settings_class is not None:
        settings = resolve_settings({"model": settings_class}, [Layer("--set", {**given, **uncut})]).sections["model"]
    return as_split(resolve(offer.record.build)(settings, fields, namespace.classes, resources))


def _is_backbone(offer: Offer) -> bool:
    return str(offer.record.build).startswith("cl_kernel.library.backbones.")


def _rows(split: Split, namespace: Namespace) -> list[dict[str, Any]]:
    import torch

    from cl_kernel.library.backbones.cutting import cuts, layer_shapes

    example = torch.zeros(1, namespace.channels, namespace.size, namespace.size)
    network = split.upper.get_submodule("1") if _fronted(split) else None
    rows = []
    for row in layer_shapes(split, example):
        name = row["layer"].partition(".")[2]
        if network is not None:
            name = name.partition(".")[2] if name.startswith("1.") else ""
        if name and name.count(".") < namespace.depth:
            rows.append({**row, "layer": name, "cut": None if network is None else cuts(network, name)})
    return rows


def _fronted(split: Split) -> bool:
    """Whether it is preprocessing and a network that can be cut anywhere."""
    from cl_kernel.library.backbones.preprocessing import Preprocess

    first = next(iter(split.upper.children()), None)
    return not split.is_cut and isinstance(first, Preprocess)

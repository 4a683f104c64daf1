"""Label files of a class order, training of a base network, and what its layers say."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

Handler = Callable[[Namespace, Any], int]


def label_files(parser: ArgumentParser) -> Handler:
    """Label arrays for a class order."""
    parser.add_argument("--images", type=Path, required=True, help="folder with train/<class> and val/<class>")
    parser.add_argument("--order", type=Path, required=True, help="text file, one class a line")
    parser.add_argument("--output", type=Path, required=True, help="folder for imagenet_indices/*.npy")

    def handle(options: Namespace, console: Any) -> int:
        from cl_plugin_remind.data.folders import write_labels

        written = write_labels(options.images, options.order, options.output)
        for path in written:
            console.print(f"wrote {path}")
        console.json([str(path) for path in written])
        return 0

    return handle


def train_base(parser: ArgumentParser) -> Handler:
    """Base network on the first classes; start it with torchrun for several processes."""
    parser.add_argument("--images", required=True, help="folder with train/<class> and val/<class>")
    parser.add_argument("--order", default="", help="class-order text file")
    parser.add_argument("--label-dir", default="", help="folder with label files, instead of --order")
    parser.add_argument("--classes", type=int, default=100, help="number of base classes")
    parser.add_argument("--output", type=Path, default=Path("resnet_imagenet_ckpts"))
    parser.add_argument("--name", default="", help="checkpoint file name")
    parser.add_argument("--resume", default="", metavar="CHECKPOINT")
    parser.add_argument("--evaluate", action="store_true", help="only score the checkpoint given with --resume")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--side", type=int, default=224, help="side of the images")
    parser.add_argument("--resize", type=int, default=256, help="short side before the centre crop")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of the network or of base training, e.g. base_epochs=40 or widths=[32,64,64,64]",
    )

    def handle(options: Namespace, console: Any) -> int:
        from cl_kernel import Resources
        from cl_plugin_remind.commands import base_job
        from cl_plugin_remind.data.folders import imagenet
        from cl_plugin_remind.settings import ImageNet

        network, training = _settings(options.set)
        stream = imagenet(
            ImageNet(
                images=options.images,
                class_order=options.order,
                label_dir=options.label_dir,
                base_classes=options.classes,
                max_class=0,
                side=options.side,
                resize=options.resize,
            ),
            Resources(),
        )
        found = base_job.run(
            training,
            network,
            stream,
            options.output,
            name=options.name,
            resume=options.resume,
            only_evaluate=options.evaluate,
            device=options.device,
            seed=options.seed,
            n_workers=options.workers,
            say=console.say,
        )
        for key, value in found.items():
            console.print(f"{key}: {value}")
        console.json(found)
        return 0

    return handle


def layers(parser: ArgumentParser) -> Handler:
    """Outputs of named layers for images of a folder, from a base network."""
    parser.add_argument("--images", required=True, help="folder with train/<class> and val/<class>")
    parser.add_argument("--checkpoint", required=True, help="base checkpoint, ours or the authors'")
    parser.add_argument("--layer", action="append", required=True, metavar="NAME", help="e.g. layer4.0; repeatable")
    parser.add_argument("--output", type=Path, required=True, help=".npz: a float array a layer, and the classes")
    parser.add_argument("--split", choices=("train", "val"), default="val")
    parser.add_argument("--limit", type=int, default=0, help="only so many images; 0: all")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--side", type=int, default=224, help="side of the images")
    parser.add_argument("--resize", type=int, default=256, help="short side before the centre crop")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the network")

    def handle(options: Namespace, console: Any) -> int:
        from cl_plugin_remind.commands.base_job import layer_outputs
        from cl_plugin_remind.data.folders import ImageFiles

        files = ImageFiles.scan(Path(options.images) / options.split, options.resize, options.side)
        shapes = layer_outputs(
            files,
            _settings(options.set)[0],
            options.checkpoint,
            options.layer,
            options.output,
            limit=options.limit,
            batch_size=options.batch,
            device=options.device,
        )
        for name, shape in shapes.items():
            console.print(f"{name}: {shape}")
        console.json(shapes)
        return 0

    return handle


def _settings(assignments: list[str]) -> tuple[Any, Any]:
    """Network and base-training settings from ``name=value`` texts, values read as YAML.

    :raises BadSetting: for a name neither has, or a value out of range.
    """
    import attrs
    import yaml

    from cl_kernel import BadSetting
    from cl_plugin_remind.settings import BaseTraining, Network

    classes = (Network, BaseTraining)
    values: tuple[dict[str, Any], ...] = ({}, {})
    for text in assignments:
        name, _, value = text.partition("=")
        owner = next((k for k, cls in enumerate(classes) if name in {a.name for a in attrs.fields(cls)}), None)
        if owner is None:
            known = sorted(a.name for cls in classes for a in attrs.fields(cls))
            raise BadSetting(f"unknown setting {name!r}; known: {', '.join(known)}", where="--set")
        values[owner][name] = yaml.safe_load(value)
    try:
        return Network(**values[0]), BaseTraining(**values[1])
    except (ValueError, TypeError) as error:
        raise BadSetting(f"bad value: {error.args[0]}", where="--set") from error

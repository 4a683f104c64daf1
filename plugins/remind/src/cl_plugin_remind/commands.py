"""``clk remind ...``: label files, base-network training, VQA preparation, legacy files, Omega."""

from __future__ import annotations

import json
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
        from cl_plugin_remind.data.folders import imagenet
        from cl_plugin_remind.settings import ImageNet
        from cl_plugin_remind.train import job

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
        found = job.run(
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


def prepare(parser: ArgumentParser) -> Handler:
    """CLEVR or TDIUC annotations to HDF5."""
    _vqa_arguments(parser)
    parser.add_argument(
        "--encoder",
        default="cl_plugin_remind.data.prepare:hashed",
        help="module:function, sentences -> float32 [n, 2048]",
    )

    def handle(options: Namespace, console: Any) -> int:
        from cl_plugin_remind.data.prepare import prepare as write

        sizes = write(options.dataset, options.root, _folder(options), options.encoder)
        for name, count in sizes.items():
            console.print(f"{name}: {count} questions")
        console.json(sizes)
        return 0

    return handle


def features(parser: ArgumentParser) -> Handler:
    """Image features of CLEVR or TDIUC."""
    _vqa_arguments(parser)
    parser.add_argument("--network", default="", help="resnet18 ... resnet152; default as published")
    parser.add_argument("--stage", type=int, default=0, help="last stage, 1 to 4; default as published")
    parser.add_argument("--weights", default="torchvision", help="weight file, or torchvision for its ImageNet weights")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch", type=int, default=32)

    def handle(options: Namespace, console: Any) -> int:
        from cl_kernel.torch.device import resolve
        from cl_plugin_remind.data.features import extract

        path = extract(
            options.dataset,
            options.root,
            _folder(options),
            network=options.network,
            stage=options.stage,
            weights="" if options.weights == "random" else options.weights,
            batch_size=options.batch,
            device=resolve(options.device),
        )
        console.print(f"wrote {path}")
        console.json(str(path))
        return 0

    return handle


def encode(parser: ArgumentParser) -> Handler:
    """Image features of CLEVR or TDIUC as codes."""
    _vqa_arguments(parser)
    parser.add_argument("--order", choices=("iid", "qtype"), required=True)
    parser.add_argument("--codebooks", type=int, default=32)
    parser.add_argument("--codebook-size", type=int, default=256)
    parser.add_argument("--pq-images", choices=("base", "published"), default="base")
    parser.add_argument("--decoded", action="store_true", help="also write the authors' file of decoded floats")

    def handle(options: Namespace, console: Any) -> int:
        from cl_plugin_remind.data.features import encode as write
        from cl_plugin_remind.settings import Questions

        settings = Questions(
            order=options.order,
            codebooks=options.codebooks,
            codebook_size=options.codebook_size,
            pq_images=options.pq_images,
        )
        path = write(options.dataset, _folder(options), settings, decoded=options.decoded)
        console.print(f"wrote {path}")
        console.json(str(path))
        return 0

    return handle


def _vqa_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("dataset", choices=("clevr", "tdiuc"))
    parser.add_argument("--root", type=Path, required=True, help="folder with the published files")
    parser.add_argument("--output", type=Path, default=None, help="default: ROOT/prepared")


def _folder(options: Namespace) -> Path:
    return options.output or options.root / "prepared"


def import_legacy(parser: ArgumentParser) -> Handler:
    """The authors' replay buffer (a pickle; only arrays in it are rebuilt) as a safe file for learner.start_from."""
    parser.add_argument("buffer", type=Path, help="remind_buffer_N.pkl")
    parser.add_argument("classifier", type=Path, help="remind_classifier_F_N.pth")
    parser.add_argument("--output", type=Path, required=True, help="folder for buffer.tree and classifier.pth")

    def handle(options: Namespace, console: Any) -> int:
        from cl_plugin_remind.weights import convert_legacy

        n_items = convert_legacy(options.buffer, options.classifier, options.output)
        console.print(f"{n_items} examples; use them with --set learner.start_from={options.output}")
        console.json({"examples": n_items, "folder": str(options.output)})
        return 0

    return handle


def omega(parser: ArgumentParser) -> Handler:
    """Omega of a run, divided by its offline run."""
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--offline", type=Path, default=None, help="offline run; default: RUN/beside/offline")
    parser.add_argument("--metric", default="accuracy", help="accuracy, top5, answers")

    def handle(options: Namespace, console: Any) -> int:
        from cl_kernel import MissingAsset
        from cl_plugin_remind.evaluate import omega_of_runs

        offline = options.offline or options.run / "beside" / "offline"
        runs = {}
        for folder in (options.run, offline, *sorted((options.run / "beside").glob("*"))):
            if not (folder / "metrics.json").is_file():
                raise MissingAsset("no results of a run", where=str(folder), fix="give --offline RUN")
            runs[folder] = json.loads((folder / "metrics.json").read_text())
        rows = []
        for folder, results in runs.items():
            label = "this run" if folder == options.run else folder.name
            series = [next(iter(values.values())) for values in results["metrics"][options.metric]["seen"]]
            rows.append(
                (
                    label,
                    *(round(100 * v, 1) for v in series),
                    round(omega_of_runs(results, runs[offline], options.metric), 3),
                )
            )
        stages = [str(k + 1) for k in range(len(rows[0]) - 2)]
        console.table(f"{options.metric} over the classes seen, percent", ("run", *stages, "Omega"), rows)
        console.json({row[0]: row[-1] for row in rows})
        return 0

    return handle

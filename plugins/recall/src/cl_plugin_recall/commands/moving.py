"""Data and weights in and out: the authors' tree, other providers' encoders, TF V2 bundles, tfrecords."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cl_kernel import BadInput, BadSetting

Handler = Callable[[Namespace, Any], int]


def import_data(parser: ArgumentParser) -> Handler:
    """Check the authors' data.zip tree (or one of ours): every record's checksum, and which tests it is enough for."""
    parser.add_argument("root", type=Path, help="folder that holds data/ and maybe checkpoints/")

    def handle(namespace: Namespace, console: Any) -> int:
        from cl_plugin_recall.data.prepare import check_tree
        from cl_plugin_recall.experiments import TESTS
        from cl_plugin_recall.weights.names import Names

        files = check_tree(namespace.root)
        console.table(f"{namespace.root}: {len(files)} files, all records whole", ("file", "records"), files)
        have = {name for name, _ in files}
        rows = []
        for test in TESTS:
            row: list[Any] = [test.name]
            for protocol in ("overlapped", "disjoint", "sequential"):
                first = "overlapped" if protocol == "overlapped" else "sequential"
                names = Names(
                    test_name="",
                    test=test.index,
                    sizes=test.sizes,
                    index=(0, 0, 0, 0),
                    protocols=(first, first, protocol),
                    base="",
                )
                needs = {names.train(step).lstrip("/") for step in range(len(test.sizes))}
                needs |= {f"data/validation/val_{c}.tfrecord" for c in range(1, sum(test.sizes) + 1)}
                row.append("yes" if needs <= have else f"{len(needs - have)} missing")
            rows.append(row)
        console.table("enough for", ("test", "overlapped", "disjoint", "sequential"), rows)
        console.json({"files": [{"file": f, "records": n} for f, n in files], "tests": rows})
        console.print(
            f"use it: clk run --plugin recall --profile paper --data-root {namespace.root} --set dataset.prepared=true"
        )
        return 0

    return handle


def import_sbd(parser: ArgumentParser) -> Handler:
    """Add the SBD labels to a VOC 2012 tree: PNGs beside VOC's own, and the list ``trainaug`` (10,582 images)."""
    parser.add_argument("sbd", type=Path, help="folder of the unpacked benchmark.tgz (cls/*.mat, train.txt, val.txt)")
    parser.add_argument("--voc", type=Path, required=True, metavar="DIR", help="folder with JPEGImages, ImageSets, ...")

    def handle(namespace: Namespace, console: Any) -> int:
        from cl_plugin_recall.data.sbd import add_sbd

        listed, written, there = add_sbd(namespace.sbd, namespace.voc)
        console.print(f"{written} labels written, {there} were there; trainaug lists {listed} images")
        console.json({"listed": listed, "written": written, "there": there})
        return 0

    return handle


def import_checkpoint(parser: ArgumentParser) -> Handler:
    """Read an encoder of another provider and write it as a bundle under the reference's names."""
    parser.add_argument(
        "path", type=Path, help="checkpoint prefix, .pth or .safetensors state dict, or .npz of Keras arrays"
    )
    parser.add_argument("--format", choices=("caffe", "slim", "torchvision", "keras"), default="caffe", dest="source")
    parser.add_argument("--output", type=Path, required=True, metavar="PREFIX")
    parser.add_argument("--divisor", type=int, default=1)

    def handle(namespace: Namespace, console: Any) -> int:
        from cl_plugin_recall.network.resnet import ResNetSpec, resnet_shapes
        from cl_plugin_recall.weights import checkpoints
        from cl_plugin_recall.weights.providers import read_encoder

        values = read_encoder(namespace.path, namespace.source)
        shapes = resnet_shapes(ResNetSpec(divisor=namespace.divisor))
        checkpoints.check({name: value.shape for name, value in values.items()}, shapes, str(namespace.path))
        checkpoints.save(namespace.output, values)
        console.print(f"{len(values)} tensors, {sum(v.size for v in values.values()):,} numbers in {namespace.output}")
        console.print(f"use it: --set model.pretrained={namespace.output} --set model.weight_source={namespace.source}")
        console.json({"tensors": len(values), "output": str(namespace.output)})
        return 0

    return handle


def export_checkpoints(parser: ArgumentParser) -> Handler:
    """Copy a run's weights into a checkpoints/ tree under the reference's names; TensorFlow 1.15 reads them."""
    parser.add_argument("run", type=Path)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")

    def handle(namespace: Namespace, console: Any) -> int:
        from attrs import evolve

        from cl_plugin_recall.commands.reopening import reopen
        from cl_plugin_recall.evaluate.outputs import names_of
        from cl_plugin_recall.weights import checkpoints, saved

        if not saved.steps(namespace.run):
            raise BadInput("run saved no weights", where=str(namespace.run))
        learner, _ = reopen(namespace.run, None)
        pieces = json.loads((namespace.run / "run.json").read_text())["pieces"]
        names = names_of(learner)
        names = evolve(names, base=str(namespace.output), source=pieces.get("source", str(names.source)).split(":")[-1])
        written = []
        pairs = [
            (saved.encoder(namespace.run, k), names.encoder if k == 0 else f"{names.encoder}_S{k}")
            for k in saved.encoders(namespace.run)
        ]
        pairs += [(saved.decoder(namespace.run, step), names.decoder(step)) for step in saved.steps(namespace.run)]
        pairs += [
            (saved.helper(namespace.run, key), names.helper([int(k) for k in key.split("-")]))
            for key in saved.helpers(namespace.run)
        ]
        for source, target in pairs:
            values = checkpoints.load(source)
            checkpoints.save(Path(target), values)
            written.append((target, len(values)))
        console.table("exported", ("checkpoint", "tensors"), written)
        console.json([{"checkpoint": target, "tensors": n} for target, n in written])
        return 0

    return handle


def make_records(parser: ArgumentParser) -> Handler:
    """Build a tfrecord from a list file, or from a folder of images with or without one of labels."""
    parser.add_argument("output", type=Path, metavar="FILE.tfrecord")
    parser.add_argument("--list", type=Path, default=None, dest="listing", help="IMAGE_PATH LABEL_PATH a line")
    parser.add_argument("--images", type=Path, default=None)
    parser.add_argument("--labels", type=Path, default=None)
    parser.add_argument("--without-labels", action="store_true", help="leave the list's labels out")

    def handle(namespace: Namespace, console: Any) -> int:
        from cl_plugin_recall.data.files import pairs_of_folders, pairs_of_list
        from cl_plugin_recall.data.records import write_records

        if (namespace.listing is None) == (namespace.images is None):
            raise BadSetting("give a list file or a folder of images", where="--list, --images")
        pairs = (
            pairs_of_list(namespace.listing, labels=not namespace.without_labels)
            if namespace.listing
            else pairs_of_folders(namespace.images, namespace.labels)
        )
        n = write_records(namespace.output, pairs)
        console.print(f"{n} records in {namespace.output}")
        console.json({"records": n, "output": str(namespace.output)})
        return 0

    return handle

"""Streams over data sets on disk: VOC's layout and the tfrecords prepared from it, folders, ADE20K, Cityscapes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from attrs import frozen

from cl_kernel import Asset, BadInput, BadSetting, MissingAsset, Resources, Samples, Stage, Stream
from cl_plugin_recall.data import ade20k, cityscapes
from cl_plugin_recall.data.files import decode_png, record_fields
from cl_plugin_recall.data.folders import ImageFolder, read_classes
from cl_plugin_recall.data.orders import steps_of
from cl_plugin_recall.data.pairs import FilePairs, scan
from cl_plugin_recall.data.places import KNOWN, find
from cl_plugin_recall.data.prepare import tree_of
from cl_plugin_recall.data.records import RecordSamples, index_records
from cl_plugin_recall.data.steps import StepSamples, assemble, build_stream, check_seen, presence
from cl_plugin_recall.data.voc import both_listed, class_list, locate
from cl_plugin_recall.experiments import VOC_CLASSES
from cl_plugin_recall.settings import Ade20k, Cityscapes, Folder, Voc
from cl_plugin_recall.weights.names import Names


def build(settings: Voc, resources: Resources) -> Stream:
    """Stream over a VOC tree, or over the tfrecords prepared from one.

    :raises MissingAsset: without data; :raises BadInput: naming the bad file.
    """
    if settings.prepared:
        return build_prepared(settings, resources)
    folder = locate(settings, resources)
    train = folder.pairs(folder.training_list(settings.train_list))
    val = folder.pairs(settings.val_list)
    both_listed(train.images, val.images, folder.root)
    return _stream(folder.root.resolve().name, folder.root, train, val, folder.classes(), settings, resources)


def _stream(
    name: str,
    root: Path,
    train: FilePairs,
    val: FilePairs,
    class_names: Sequence[str],
    settings: Any,
    resources: Resources,
    *,
    background: bool = True,
) -> Stream:
    """Both sides checked, cut into steps."""
    train, train_present = scan(train, len(class_names), resources, root)
    val, val_present = scan(val, len(class_names), resources, root)
    check_seen(train_present, class_names, resources, str(root))
    return build_stream(
        name,
        train=train,
        val=val,
        train_present=train_present,
        val_present=val_present,
        class_names=class_names,
        settings=settings,
        background=background,
    )


def build_folder(settings: Folder, resources: Resources) -> Stream:
    """Stream over any images with masks."""
    if not settings.folder and not resources.roots:
        raise MissingAsset("no folder of images and masks", where="dataset.folder", fix="--dataset recall:folder:DIR")
    root = Path(settings.folder).expanduser() if settings.folder else resources.roots[0]
    if not root.is_dir():
        raise MissingAsset("the folder does not exist", where=str(root), fix="--dataset recall:folder:DIR")
    classes = read_classes(root / "classes.txt", settings.background)
    train, val = (ImageFolder(root).pairs(part, classes.reading) for part in ("train", "val"))
    both_listed(train.images, val.images, root)
    return _stream(
        root.resolve().name, root, train, val, classes.names, settings, resources, background=settings.background
    )


def _place(folder: str, asset: Asset, resources: Resources) -> Path:
    if not folder:
        return find(asset.name, resources.roots) or resources.locate(asset)
    fits, names = KNOWN[asset.name]
    root = Path(folder).expanduser()
    found = next((root / name for name in names if fits(root / name)), None)
    if found is None:
        raise MissingAsset(f"not in the layout of {asset.summary}", where=str(root), fix=f"get {asset.origin}")
    return found


def build_ade20k(settings: Ade20k, resources: Resources) -> Stream:
    """Stream over ADE20K's 150 classes."""
    root = _place(settings.folder, ade20k.ASSET, resources)
    train, val = (ade20k.pairs(root, part) for part in ("training", "validation"))
    return _stream("ade20k", root, train, val, ade20k.class_names(root), settings, resources, background=False)


def build_cityscapes(settings: Cityscapes, resources: Resources) -> Stream:
    """Stream over Cityscapes' 19 classes, or over its cities."""
    root = _place(settings.folder, cityscapes.ASSET, resources)
    if settings.by == "city":
        return _by_city(settings, root, resources)
    train, val = (cityscapes.pairs(root, (part,))[0] for part in ("train", "val"))
    return _stream("cityscapes", root, train, val, cityscapes.CLASSES, settings, resources, background=False)


def _by_city(settings: Cityscapes, root: Path, resources: Resources) -> Stream:
    """All classes in every step; the cities are parted as the structure says."""
    pairs, cities = cityscapes.pairs(root, ("train", "val"))
    names = [city for city in cityscapes.CITIES if city in cities] + sorted(set(cities) - set(cityscapes.CITIES))
    steps = steps_of(settings.order, settings.structure, names)
    n = len(cityscapes.CLASSES)
    checked, present = scan(pairs, n, resources, root)
    city_of = [path.parent.name for path in checked.images]
    check_seen(present, cityscapes.CLASSES, resources, str(root))
    spec = record_fields(n + 1)
    stages, sets = [], {}
    held: list[int] = []
    for index, step in enumerate(steps):
        wanted = [names[c - 1] for c in step]
        rows = [[row for row, city in enumerate(city_of) if city == name] for name in wanted]
        test = [row for some in rows for row in some[4::5]]
        train = [row for some in rows for k, row in enumerate(some) if k % 5 != 4]
        if not train or not test:
            raise BadInput(f"{', '.join(wanted)}: too few images", where=str(root), fix="five images a city at least")
        title = wanted[0] if len(wanted) == 1 else f"{wanted[0]}..{wanted[-1]}"
        sets[title] = np.arange(len(held), len(held) + len(test))
        held += test
        samples = StepSamples(checked, np.array(train, np.int64), None, spec)
        classes = tuple(range(1, n + 1)) if index == 0 else ()
        stages.append(Stage(index=index, name=title, train=samples, classes=classes, info={"protocol": "sequential"}))
    return Stream(
        name="cityscapes-cities",
        task="image -> mask",
        stages=stages,
        test=StepSamples(checked, np.array(held, np.int64), None, spec),
        test_sets=sets,
        class_names=("background", *cityscapes.CLASSES),
        info={
            "structure": settings.structure,
            "sizes": [n, *[0] * (len(steps) - 1)],
            "protocols": ["sequential"] * 3,
            "order": list(range(1, n + 1)),
            "background": False,
        },
    )


# ---- prepared records -------------------------------------------------------------------------------


@frozen
class FromRecords:
    """Training images of each step from its own tfrecord."""

    names: Names
    n_classes: int

    def of_step(self, step: int, classes: Sequence[int], protocol: str) -> RecordSamples:
        """The step's file, whose labels are those of the protocol."""
        return RecordSamples((Path(self.names.train(step)),), record_fields(self.n_classes + 1))

    def shown(self, step: int, classes: Sequence[int], protocol: str) -> np.ndarray:
        """Which labels occur, by decoding all of them."""
        samples = self.of_step(step, classes, protocol)
        labels = [decode_png(samples.encoded(row)[1], samples.where(row)) for row in range(len(samples))]
        return presence(labels, self.n_classes, [samples.where(row) for row in range(len(samples))])


def build_prepared(settings: Voc, resources: Resources) -> Stream:
    """Stream over prepared tfrecords, ours or those of the authors' archive."""
    root = tree_of(settings, resources)
    listing = root / "classes.txt"
    class_names = class_list(listing) if listing.is_file() else VOC_CLASSES
    n = len(class_names)
    steps = steps_of(settings.order, settings.structure, class_names)
    if [c for step in steps for c in step] != list(range(1, n + 1)):
        raise BadSetting(
            "prepared records hold the classes in the data's own order",
            where="dataset.order, dataset.prepared",
            fix="--set dataset.prepared=false, which cuts the steps when the run starts",
        )
    first = "sequential" if settings.protocol_first == "disjoint" else settings.protocol_first
    names = Names(
        test_name="",
        test="",
        sizes=tuple(len(step) for step in steps),
        index=(0, 0, 0, 0),
        protocols=(first, settings.protocol_helpers, settings.protocol),
        base=str(root),
    )
    files = [root / "data" / "validation" / f"val_{c}.tfrecord" for c in range(1, n + 1)]
    test: Samples = RecordSamples(tuple(files), record_fields(n + 1))
    top = np.concatenate([np.full(len(index_records(path)), c) for c, path in enumerate(files, 1)])
    return assemble(
        "voc",
        images=FromRecords(names, n),
        test=test,
        top=top,
        steps=steps,
        class_names=class_names,
        settings=settings,
        background=True,
    )

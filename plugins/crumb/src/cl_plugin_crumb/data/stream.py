"""Streams: images on disk or in memory, in the order that task lists give.

Shapes: N images, n a batch, S side of the square images.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from cl_kernel import ArraySamples, BadInput, MissingAsset, Resources, Samples, Stage, Stream, fingerprint, subset
from cl_plugin_crumb import settings as choices
from cl_plugin_crumb.data import dirmap, list_files, lists, toy
from cl_plugin_crumb.data.images import ImageFiles, image_fields


def of_lists(
    name: str,
    made: lists.Lists,
    images: Samples,
    rows_of: Mapping[str, int],
    class_names: Mapping[object, str],
    digest: str,
    info: Mapping[str, object],
) -> Stream:
    """A stream in the order of task lists; test set j holds the classes that task j brings.

    :param images: all images with the labels of these lists; ``rows_of``: path -> row of it.
    """
    stages, test_sets, seen = [], {}, set()
    test_labels = made.test["label"].to_numpy()
    test_rows = np.array([rows_of[path] for path in made.test["im_path"]], dtype=np.int64)
    for number, task in enumerate(made.tasks):
        new = tuple(c for c in dict.fromkeys(task["label"].tolist()) if c not in seen)
        seen |= set(new)
        rows = np.array([rows_of[path] for path in task["im_path"]], dtype=np.int64)
        own = "+".join(str(class_names[made.classes[c]]) for c in new[:3]) + ("..." if len(new) > 3 else "")
        stage_name = f"task {number}" + (f": {own}" if own else "")
        stages.append(Stage(index=number, name=stage_name, train=subset(images, rows), classes=new))
        if new:
            members = np.flatnonzero(np.isin(test_labels, new))
            if not len(members):
                raise BadInput(f"no test images of class {own}", where=f"data set {name!r}")
            test_sets[stage_name] = members
    names = tuple(str(class_names[c]) for c in made.classes)
    return Stream(
        name=name,
        task="image -> class",
        stages=stages,
        test=subset(images, test_rows),
        test_sets=test_sets,
        class_names=names,
        fingerprint=digest,
        info=dict(info),
    )


def build_toy(options: choices.Ministream, resources: Resources) -> Stream:
    """The toy stream; the class order is that of ``options.order``, or of the run's seed."""
    images = toy.stream(options.data_seed, n_objects=options.n_objects)
    order = resources.seed if options.order < 0 else options.order
    made = lists.make(
        "ministream",
        images.table,
        options.scenario,
        run=order,
        offline=options.offline,
        test_sessions=toy.TEST_SESSIONS,
        n_class=options.classes_per_task,
        n_instance=options.clips_per_task,
        task_size_iid=options.images_per_task,
    )
    label_of = {c: label for label, c in enumerate(made.classes)}
    labels = images.table["class"].map(label_of).to_numpy(np.int64)
    samples = ArraySamples(image_fields(toy.SIZE, len(made.classes)), {"image": images.pixels, "class": labels})
    rows_of = {path: row for row, path in enumerate(images.table["im_path"])}
    return of_lists(
        "ministream",
        made,
        samples,
        rows_of,
        dict(enumerate(images.names)),
        fingerprint(images.pixels, options.scenario, order, options.offline),
        {"scenario": options.scenario, "offline": options.offline, "run": order},
    )


def build_dirmap(dataset: str, options: choices.Dirmap, resources: Resources) -> Stream:
    """A prepared data set: its dirmap and images below a data root.

    :raises MissingAsset: saying what is missing and how to make it. :raises BadInput: for a dirmap that cannot be used.
    """
    root, tables = _locate(dataset, options, resources)
    table = lists.prepare(dataset, tables)
    order = resources.seed if options.order < 0 else options.order
    made = _lists(dataset, table, options, order)
    offline = options.offline and not options.lists
    everything = pd.concat([*own_rows(made, offline), made.test]).drop_duplicates("im_path")
    paths = everything["im_path"].astype(str).tolist()
    if absent := [path for path in paths if not (root / path).is_file()][:1]:
        raise MissingAsset(
            f"an image of the dirmap is missing: {absent[0]}",
            where=str(root),
            fix=f"clk crumb check {dataset} says how many",
        )
    samples = ImageFiles(
        root,
        paths,
        everything["label"].to_numpy(np.int64),
        options.size,
        len(made.classes),
        resources.n_workers,
        options.reduced,
    )
    names = dict(zip(table["class"], table.get("class_str", table["class"].astype(str)), strict=True))
    return of_lists(
        dataset,
        made,
        samples,
        {path: row for row, path in enumerate(paths)},
        names,
        fingerprint(dataset, options.scenario, order, options.offline, *paths),
        {"scenario": options.scenario, "offline": options.offline, "run": order},
    )


def _lists(dataset: str, table: pd.DataFrame, options: choices.Dirmap, order: int) -> lists.Lists:
    """The task lists that a folder holds, or those of the settings."""
    if options.lists:
        return list_files.read(Path(options.lists.replace("{run}", str(order))).expanduser(), table)
    return lists.make(
        dataset,
        table,
        options.scenario,
        run=order,
        offline=options.offline,
        test_sessions=options.test_sessions or None,
        n_class=options.classes_per_task,
        n_instance=options.clips_per_task,
        task_size_iid=options.images_per_task,
    )


def _locate(dataset: str, options: choices.Dirmap, resources: Resources) -> tuple[Path, dict[str, pd.DataFrame]]:
    """Folder the image paths are relative to, and the dirmaps."""
    names = dataset.split("+")
    places = {name: resources.locate(choices.ASSETS[name]) for name in names}
    root = Path(os.path.commonpath(places.values()))
    tables = {}
    for name, place in places.items():
        table = dirmap.read(place / f"{name}_dirmap.csv")
        below = (place / ("core50_128x128" if name == "core50" else "")).relative_to(root).as_posix()
        prefix = "" if below == "." else f"{below}/"
        tables[name] = table.assign(im_path=prefix + table["im_path"].astype(str))
    return root, tables


def own_rows(made: lists.Lists, offline: bool) -> tuple[pd.DataFrame, ...]:
    """Tables that hold every training row once."""
    return made.tasks[-1:] if offline else made.tasks


def build_core50(options: choices.Dirmap, resources: Resources) -> Stream:
    """CORe50."""
    return build_dirmap("core50", options, resources)


def build_toybox(options: choices.Dirmap, resources: Resources) -> Stream:
    """Toybox."""
    return build_dirmap("toybox", options, resources)


def build_ilab(options: choices.Dirmap, resources: Resources) -> Stream:
    """iLab-2M-Light."""
    return build_dirmap("ilab2mlight", options, resources)


def build_cifar100(options: choices.Dirmap, resources: Resources) -> Stream:
    """CIFAR-100 as a folder of images."""
    return build_dirmap("cifar100", options, resources)


def build_imagenet(options: choices.Dirmap, resources: Resources) -> Stream:
    """ImageNet."""
    return build_dirmap("imagenet", options, resources)


def build_icubworld(options: choices.Dirmap, resources: Resources) -> Stream:
    """ICubWorld Transformations."""
    return build_dirmap("icubworldtransf", options, resources)


def build_combined(options: choices.Dirmap, resources: Resources) -> Stream:
    """iLab-2M-Light, then CORe50."""
    return build_dirmap(lists.COMBINED, options, resources)

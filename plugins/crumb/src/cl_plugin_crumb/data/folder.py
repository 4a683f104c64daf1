"""Streams of a folder of images in the ImageNet layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from cl_kernel import ArraySamples, BadInput, MissingAsset, Resources, Samples, Stream, fingerprint
from cl_plugin_crumb import settings as choices
from cl_plugin_crumb.data import dirmap, lists
from cl_plugin_crumb.data.images import ImageFiles, is_image, read_image
from cl_plugin_crumb.data.stream import of_lists, own_rows


def folder_table(root: Path) -> pd.DataFrame:
    """Dirmap of the ImageNet layout ``train|val/<class>/*``: session 0 for training, 1 for test.

    :raises MissingAsset: without such folders. :raises BadInput: for a class without images on one side.
    """
    sides = {"train": 0, "val": 1}
    if not (root / "val").is_dir() and (root / "test").is_dir():
        sides = {"train": 0, "test": 1}
    if missing := [side for side in sides if not (root / side).is_dir()]:
        raise MissingAsset(
            f"no folder {' or '.join(missing)}",
            where=str(root),
            fix="lay the images out as train/CLASS/*.jpg and val/CLASS/*.jpg",
        )
    classes = sorted({path.name for side in sides for path in (root / side).iterdir() if path.is_dir()})
    rows = []
    for side, session in sides.items():
        for name in classes:
            files = sorted(p for p in (root / side / name).glob("*") if is_image(p))
            if not files:
                raise BadInput(
                    f"class {name} has no images in {side}/",
                    where=str(root / side / name),
                    fix="add images, or leave the class out on both sides",
                )
            rows += [
                (name, 0, session, number, path.relative_to(root).as_posix()) for number, path in enumerate(files, 1)
            ]
    if not rows:
        raise BadInput("no classes below train/", where=str(root))
    return pd.DataFrame(rows, columns=["class", "object", "session", "im_num", "im_path"])


def build_folder(options: choices.Folder, resources: Resources) -> Stream:
    """Any images in the ImageNet layout, below the first data root or ``--dataset crumb:folder:PATH``."""
    root = Path(options.path).expanduser() if options.path else None
    if root is None or not root.is_dir():
        candidates = [r / options.path if options.path else r for r in resources.roots]
        root = next((c for c in candidates if (c / "train").is_dir()), None)
        if root is None:
            raise MissingAsset(
                f"no folder with train/CLASS/ and val/CLASS/ in it ({options.path or 'no path given'})",
                where=", ".join(map(str, resources.roots)) or "no data root given",
                fix="--dataset crumb:folder:PATH, or --data-root DIR",
            )
    table = folder_table(root)
    dirmap.check(table, str(root))
    if options.limit:
        keep = table.groupby(["class", "session"]).cumcount() < options.limit
        table = table[keep]
    order = resources.seed if options.order < 0 else options.order
    made = lists.make(
        "folder",
        table,
        options.scenario,
        run=order,
        test_sessions=(1,),
        offline=options.offline,
        n_class=options.classes_per_task,
        task_size_iid=options.images_per_task,
    )
    everything = pd.concat([*own_rows(made, options.offline), made.test])
    paths, labels = everything["im_path"].tolist(), everything["label"].to_numpy(np.int64)
    files = ImageFiles(root, paths, labels, options.size, len(made.classes), resources.n_workers, options.reduced)
    samples: Samples = files
    if options.in_memory:
        good, images = _read_all(files, resources)
        paths = [paths[row] for row in good]
        samples = ArraySamples(files.spec, {"image": images, "class": labels[good]})
        kept = set(paths)
        made = lists.Lists(
            tasks=tuple(t[t["im_path"].isin(kept)] for t in made.tasks),
            test=made.test[made.test["im_path"].isin(kept)],
            classes=made.classes,
        )
    return of_lists(
        root.resolve().name,
        made,
        samples,
        {path: row for row, path in enumerate(paths)},
        {c: str(c) for c in made.classes},
        fingerprint(options.scenario, order, options.size, *paths),
        {"scenario": options.scenario, "offline": options.offline, "run": order},
    )


def _read_all(files: ImageFiles, resources: Resources) -> tuple[list[int], np.ndarray]:
    """All images that can be read; the others follow ``--on-bad-sample``."""
    good, images = [], []
    for row, path in enumerate(files.paths):
        try:
            images.append(read_image(files.root / path, files.size, reduced=files.reduced))
            good.append(row)
        except BadInput as error:
            resources.bad_sample(path, error.what)
    return good, np.stack(images)

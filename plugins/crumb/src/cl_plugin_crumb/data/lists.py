"""Task file lists: which images each task holds, in which order, with which label.

Orders come from NumPy's and pandas' legacy generators seeded with the run's number, so lists made by the original
are reproduced line by line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from attrs import frozen

from cl_kernel import BadInput, BadSetting
from cl_plugin_crumb.data import dirmap

SCENARIOS = ("iid", "class_iid", "instance", "class_instance")

TEST_SESSIONS: dict[str, tuple[int, ...]] = {
    "core50": (3, 7, 10),
    "toybox": (3, 6, 9),
    "ilab2mlight": (4, 8),
    "icubworldtransf": (0,),
    "cifar100": (1,),
    "imagenet": (1,),
    "ilab2mlight+core50": (3, 7, 10, 15, 19),
}
CLASSES_PER_TASK = {"cifar100": 5, "imagenet": 100}

CORE50_FRAMES = range(10, 300, 20)
"""One frame a second of CORe50's 20."""

COMBINED = "ilab2mlight+core50"
CLASS_SHIFT, SESSION_SHIFT = 15, 11

FOLDERS = {"ilab2mlight": "ilab2M/iLab-2M-Light/train_img_distributed", "core50": "Core50/core50_128x128"}
"""Part of the combined set -> folder of its images below the image root, as the authors' scripts lay them out."""

SHARED_FOLDERS = {"ilab2mlight": "iLab-2M-Light/train_img_distributed", "core50": "core50/core50_128x128"}
"""The same on the authors' cluster (their flag ``--o2``)."""


@frozen(kw_only=True)
class Lists:
    """Everything of one run: tasks, test rows with their labels, and the class of each label.

    :param tasks: rows in order, with ``task`` and ``label`` columns.
    :param keeps_rows: tasks may share rows, so rows are numbered by where they stand in the shuffled whole.
    """

    tasks: tuple[pd.DataFrame, ...]
    test: pd.DataFrame
    classes: tuple[object, ...]
    keeps_rows: bool = False


def prepare(dataset: str, tables: Mapping[str, pd.DataFrame], folders: Mapping[str, str] | None = None) -> pd.DataFrame:
    """The rows a data set uses: CORe50's one frame a second; the combined set renumbered.

    :param tables: dirmap of each part, by name.
    :param folders: part of the combined set -> folder put before its image paths; left out, paths stay as they are.
    """
    if dataset != COMBINED:
        table = tables[dataset]
        return table[table["im_num"].isin(CORE50_FRAMES)] if dataset == "core50" else table
    ilab = tables["ilab2mlight"].copy()
    ilab["session"] += SESSION_SHIFT
    core = prepare("core50", tables).copy()
    core["class"] += CLASS_SHIFT
    for name, part in (("ilab2mlight", ilab), ("core50", core)):
        if folders is not None:
            part["im_path"] = f"{folders[name]}/" + part["im_path"].astype(str)
    names = list(dirmap.COLUMNS)
    return pd.concat([ilab[names], core[names]], ignore_index=True)


def balance_clips(table: pd.DataFrame) -> pd.DataFrame:
    """Cut every class to the smallest number of clips, drawn with the class number as seed, and sort (combined set)."""
    clips = table[["class", "object", "session"]].drop_duplicates()
    n = int(clips.groupby("class").size().min())
    kept = pd.concat([mine.sample(n=n, random_state=int(c)) for c, mine in clips.groupby("class")])
    rows = table.merge(kept, on=["class", "object", "session"])
    return rows.sort_values(["class", "object", "session", "im_num"], ignore_index=True)


def class_order(table: pd.DataFrame, dataset: str, rng: np.random.RandomState) -> np.ndarray:
    """Classes in a random order; the combined set brings all of iLab before all of CORe50 (classes present)."""
    present = table["class"].unique()
    if dataset != COMBINED:
        rng.shuffle(present)
        return present
    first = np.sort(present[present <= CLASS_SHIFT])
    rng.shuffle(first)
    second = np.sort(present[present > CLASS_SHIFT])
    rng.shuffle(second)
    return np.concatenate([first[: len(first) // 2 * 2], second])


def shipped_order(class_counts: Sequence[int], rng: np.random.RandomState) -> np.ndarray:
    """The authors' order of a combined set: numbers 1, 2, ... of each part shuffled, the last dropped if they are odd.

    Numbers without images count too (iLab's 11th class is left out of the sample), so a task may bring one class only,
    and a class that has images may be the one dropped.

    :param class_counts: class numbers of each part.
    """
    parts, start = [], 1
    for count in class_counts:
        numbers = np.arange(start, start + count)
        rng.shuffle(numbers)
        parts.append(numbers[: count // 2 * 2])
        start += count
    return np.concatenate(parts)


def _clips(table: pd.DataFrame, rng: np.random.RandomState) -> list[pd.DataFrame]:
    """Clips in random order, each in temporal order."""
    groups = {
        key: rows.sort_values("im_num", kind="stable")
        for key, rows in table.groupby(["object", "session", "class"], sort=True)
    }
    keys = sorted(groups)
    rng.shuffle(keys)
    return [groups[key] for key in keys]


def _class_tasks(
    table: pd.DataFrame,
    scenario: str,
    order: np.ndarray,
    n_class: int,
    offline: bool,
    run: int,
    rng: np.random.RandomState,
) -> list[pd.DataFrame]:
    tasks = []
    for end in range(n_class, len(order) + n_class, n_class):
        if offline:
            rng.shuffle(order[:end])  # the reference draws here, in place: later orders depend on it
        rows = table[table["class"].isin(order[0 if offline else end - n_class : end])]
        if scenario == "class_iid":
            tasks.append(rows.sample(frac=1, random_state=run))
        else:
            tasks.append(pd.concat([rows.iloc[:0], *_clips(rows, rng)]))
    return tasks


def _iid_tasks(table: pd.DataFrame, size: int, offline: bool, run: int, shipped: bool) -> list[pd.DataFrame]:
    rows = table.sample(frac=1, random_state=run).reset_index(drop=True)
    extra = 1 if shipped else 0
    chunks = [rows.iloc[0 if offline else start : start + size + extra] for start in range(0, len(rows), size)]
    return [chunk.sample(frac=1, random_state=run) for chunk in chunks] if offline else chunks


def _instance_tasks(
    table: pd.DataFrame, n_instance: int, offline: bool, rng: np.random.RandomState
) -> list[pd.DataFrame]:
    clips = _clips(table, rng)
    starts = range(0, len(clips), n_instance)
    return [pd.concat(clips[0 if offline else start : start + n_instance]) for start in starts]


def make(
    dataset: str,
    table: pd.DataFrame,
    scenario: str,
    *,
    run: int = 0,
    offline: bool = False,
    test_sessions: Sequence[int] | None = None,
    n_class: int = 0,
    n_instance: int = 80,
    task_size_iid: int = 1200,
    shipped: bool = False,
    class_counts: Sequence[int] = (),
) -> Lists:
    """Lists of one run.

    :param table: as :func:`prepare` gives it.
    :param offline: task b holds everything up to b, shuffled anew (upper bound).
    :param n_class: classes per task; 0 takes the data set's.
    :param shipped: as the authors' scripts: iid tasks overlap, and classes without training images are left out.
    :param class_counts: class numbers of each part of a combined set; given, its order is :func:`shipped_order`.
    :raises BadInput: without training or test images. :raises BadSetting: for an unknown scenario.
    """
    if scenario not in SCENARIOS:
        raise BadSetting(f"unknown scenario {scenario!r}", where="--scenario", fix=f"one of {', '.join(SCENARIOS)}")
    sessions = TEST_SESSIONS.get(dataset) if test_sessions is None else tuple(test_sessions)
    if sessions is None:
        raise BadSetting(f"no test sessions known for {dataset!r}", where="--test-sessions", fix="give them")
    n_class = n_class or CLASSES_PER_TASK.get(dataset, 2)
    if min(n_class, n_instance, task_size_iid) < 1:
        raise BadSetting("a task of no classes, clips or images", where="task size")
    is_test = table["session"].isin(sessions)
    train, test = table[~is_test], table[is_test]
    if dataset == COMBINED:
        train, test = balance_clips(train), balance_clips(test)
    for side, rows in (("training", train), ("test", test)):
        if rows.empty:
            raise BadInput(
                f"no {side} images: test sessions {sorted(sessions)} of sessions "
                f"{sorted(table['session'].unique().tolist())}",
                where=f"dirmap of {dataset}",
            )
    if not shipped and (lost := sorted(set(table["class"]) - set(train["class"]), key=str)):
        raise BadInput(
            f"class {', '.join(map(str, lost))} has no training images",
            where=f"dirmap of {dataset}",
            fix="leave the class out, or choose other test sessions",
        )
    rng = np.random.RandomState(run)
    if scenario.startswith("class"):
        order = (
            shipped_order(class_counts, rng) if class_counts else class_order(train, "" if shipped else dataset, rng)
        )
        tasks = _class_tasks(train, scenario, order, n_class, offline, run, rng)
    elif scenario == "iid":
        tasks = _iid_tasks(train, task_size_iid, offline, run, shipped)
    else:
        tasks = _instance_tasks(train, n_instance, offline, rng)
    classes = tuple(pd.concat(tasks)["class"].unique())
    labels = {c: label for label, c in enumerate(classes)}
    tasks = [rows.assign(task=number, label=rows["class"].map(labels)) for number, rows in enumerate(tasks)]
    test = test[test["class"].isin(classes)]
    return Lists(
        tasks=tuple(tasks),
        test=test.assign(label=test["class"].map(labels)),
        classes=classes,
        keeps_rows=scenario == "iid",
    )


def folder(dataset: str, scenario: str, run: int, offline: bool) -> Path:
    """Where the lists of a run lie below the list root."""
    return Path(f"{dataset}_task_filelists") / scenario / f"run{run}" / ("offline" if offline else "stream")


def texts(lists: Lists) -> dict[str, str]:
    """File name -> content: one list per task, the test list, and everything in one csv."""

    def lines(rows: pd.DataFrame) -> str:
        return "".join(f"{path} {label}\n" for path, label in zip(rows["im_path"], rows["label"], strict=True))

    out = {f"train_task_{number:02d}_filelist.txt": lines(rows) for number, rows in enumerate(lists.tasks)}
    out["test_filelist.txt"] = lines(lists.test)
    everything = pd.concat(lists.tasks)
    if not lists.keeps_rows:
        everything = everything.reset_index(drop=True)
    out["train_all.txt"] = everything[
        [c for c in everything if c not in ("task", "label")] + ["task", "label"]
    ].to_csv()
    return out


def write(
    root: Path,
    dataset: str,
    table: pd.DataFrame,
    scenario: str,
    *,
    n_runs: int,
    offline: bool = False,
    shipped: bool = False,
    **options: object,
) -> list[Path]:
    """Write the lists of ``n_runs`` runs below ``root``; the options are those of :func:`make`.

    :return: the folders written.
    """
    dirmap.check(table, f"dirmap of {dataset}")
    folders = []
    for run in range(n_runs):
        lists = make(dataset, table, scenario, run=run, offline=offline, shipped=shipped, **options)  # type: ignore[arg-type]
        place = root / folder(dataset, scenario, run, offline)
        place.mkdir(parents=True, exist_ok=True)
        for name, text in texts(lists).items():
            (place / name).write_text(text)
        folders.append(place)
    return folders

"""Task file lists that exist already, the authors' or those of ``clk crumb lists``, as a stream.

``train_task_00_filelist.txt`` and so on, ``test_filelist.txt``: a line an image, ``path label``.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pandas as pd

from cl_kernel import BadInput, MissingAsset
from cl_plugin_crumb.data.lists import Lists

TRAIN, TEST = "train_task_*_filelist.txt", "test_filelist.txt"
ENDING = 3
"""Last parts of a path by which an image is known when its folder lies elsewhere than in the lists."""


def read(folder: Path, table: pd.DataFrame) -> Lists:
    """The lists of a folder, with the rows of a dirmap.

    :raises MissingAsset: for a folder without lists. :raises BadInput: naming file and line of what does not fit.
    """
    files = sorted(folder.glob(TRAIN))
    if not files or not (folder / TEST).is_file():
        raise MissingAsset(
            f"no {TRAIN} and {TEST}",
            where=str(folder),
            fix="dataset.lists names the folder of one run, as .../class_iid/run0/stream",
        )
    known = _Images(table)
    tasks = tuple(known.rows(path).assign(task=number) for number, path in enumerate(files))
    test = known.rows(folder / TEST)
    classes = _classes(pd.concat(tasks), test, folder)
    return Lists(tasks=tasks, test=test[test["label"] < len(classes)], classes=classes)


class _Images:
    """Rows of a dirmap by path, or by how the path ends."""

    def __init__(self, table: pd.DataFrame) -> None:
        self.table = table
        paths = table["im_path"].astype(str).tolist()
        ends = [_ending(path) for path in paths]
        often = Counter(ends)
        self.row_of = {end: row for row, end in enumerate(ends) if often[end] == 1}
        self.row_of |= {path: row for row, path in enumerate(paths)}

    def rows(self, path: Path) -> pd.DataFrame:
        """The dirmap's rows of a list, in its order, with its labels."""
        numbers, labels = [], []
        for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
            if not line.strip():
                continue
            name, _, label = line.strip().rpartition(" ")
            row = self.row_of.get(name, self.row_of.get(_ending(name)))
            if row is None or not label.isdigit():
                why = "is no line 'path label'" if not label.isdigit() else "names an image that the dirmap has not"
                raise BadInput(f"line {number} {why}: {line[:120]}", where=str(path))
            numbers.append(row)
            labels.append(int(label))
        if not numbers:
            raise BadInput("the list is empty", where=str(path))
        return self.table.iloc[numbers].assign(label=labels)


def _ending(path: str) -> str:
    return "/".join(path.split("/")[-ENDING:])


def _classes(train: pd.DataFrame, test: pd.DataFrame, folder: Path) -> tuple[object, ...]:
    """The class of each label.

    :raises BadInput: unless labels count from 0 in the order in which the classes come, each for one class.
    """
    both = pd.concat([train, test[test["label"].isin(train["label"])]])
    pairs = both[["label", "class"]].drop_duplicates()
    for column, other in (("label", "class"), ("class", "label")):
        if (twice := pairs[pairs[column].duplicated()][column]).size:
            found = pairs[pairs[column] == twice.iloc[0]][other].tolist()
            raise BadInput(f"{column} {twice.iloc[0]} stands for {other} {found[0]} and {found[1]}", where=str(folder))
    order = train["label"].drop_duplicates().tolist()
    if order != list(range(len(order))):
        raise BadInput(
            f"labels are not numbered as the classes come: {order[:10]}", where=str(folder), fix="write the lists anew"
        )
    return tuple(pairs.set_index("label")["class"][label] for label in order)

"""CORe50: video clips of household objects, in four orders.

Layout: ``core50_128x128/s<session>/o<object>/C_<session>_<object>_<frame>.png``; five objects a category. Sessions 3,
7 and 10 are the test; one frame of twenty is used (one a second). Shapes: N frames.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from attrs import frozen

from cl_kernel import BadInput, MissingAsset, Resources, Samples, Stage, Stream, subset
from cl_plugin_remind.data.folders import ImageFiles

if TYPE_CHECKING:
    from cl_plugin_remind.settings import Core50

ORDERS = ("iid", "class_iid", "instance", "class_instance")
CATEGORIES = (
    "plug adapter",
    "mobile phone",
    "scissors",
    "light bulb",
    "can",
    "glasses",
    "ball",
    "marker",
    "cup",
    "remote control",
)
TEST_SESSIONS = (3, 7, 10)
_FRAME = re.compile(r"C_(\d+)_(\d+)_(\d+)\.png\Z")


@frozen(kw_only=True)
class Frames:
    """What each frame shows, int64 [N] each."""

    label: np.ndarray
    instance: np.ndarray
    session: np.ndarray
    time: np.ndarray

    def clips(self) -> list[np.ndarray]:
        """Rows of each clip (one object in one session) in time order."""
        key = np.stack([self.label, self.instance, self.session], 1)
        _, clip = np.unique(key, axis=0, return_inverse=True)
        clip = clip.reshape(-1)
        return [
            rows[np.argsort(self.time[rows], kind="stable")]
            for rows in (np.flatnonzero(clip == c) for c in range(clip.max() + 1))
        ]


def order_of(kind: str, frames: Frames, rng: np.random.Generator) -> np.ndarray:
    """Rows in the order they are streamed.

    ``iid``: shuffled. ``class_iid``: classes in sequence, shuffled inside. ``instance``: clips shuffled, frames in
    time. ``class_instance``: classes in sequence, inside clips shuffled, frames in time.

    :raises BadInput: for another kind.
    """
    n_classes = int(frames.label.max()) + 1
    classes = rng.permutation(n_classes)
    if kind == "iid":
        return rng.permutation(len(frames.label))
    if kind == "class_iid":
        return np.concatenate([rng.permutation(np.flatnonzero(frames.label == c)) for c in classes])
    clips = frames.clips()
    clips = [clips[i] for i in rng.permutation(len(clips))]
    if kind == "instance":
        return np.concatenate(clips)
    if kind == "class_instance":
        return np.concatenate([clip for c in classes for clip in clips if frames.label[clip[0]] == c])
    raise BadInput(f"no order {kind!r}; there are {', '.join(ORDERS)}", where="dataset.order")


def ordered_stream(
    name: str,
    kind: str,
    train: Samples,
    frames: Frames,
    test: Samples,
    test_labels: np.ndarray,
    class_names: Sequence[str],
    rng: np.random.Generator,
    *,
    base_classes: int,
    increment_classes: int,
    base: int,
    increment: int,
) -> Stream:
    """Stages of an order: so many classes each in the class orders, so many frames each in the others.

    Class orders have a test set a stage; the others are tested on everything.
    """
    order = order_of(kind, frames, rng)
    labels = frames.label[order]
    stages: list[Stage] = []
    test_sets: dict[str, np.ndarray] = {}
    if kind.startswith("class"):
        sequence = list(dict.fromkeys(labels.tolist()))
        starts = [0, *range(base_classes, len(sequence), increment_classes), len(sequence)]
        for index, (a, b) in enumerate(pairwise(starts)):
            rows = order[np.isin(labels, sequence[a:b])]
            title = "+".join(class_names[c] for c in sequence[a:b])
            stages.append(
                Stage(
                    index=index,
                    name=title,
                    train=subset(train, rows),
                    classes=tuple(sequence[a:b]),
                    info={"items": rows},
                )
            )
            test_sets[title] = np.flatnonzero(np.isin(test_labels, sequence[a:b]))
    else:
        starts = [0, *range(base, len(order), increment), len(order)]
        seen: set[int] = set()
        for index, (a, b) in enumerate(pairwise(starts)):
            new = tuple(sorted(set(labels[a:b].tolist()) - seen))
            seen |= set(new)
            stages.append(
                Stage(
                    index=index,
                    name=f"frames {a}-{b - 1}",
                    train=subset(train, order[a:b]),
                    classes=new,
                    info={"items": order[a:b]},
                )
            )
        test_sets["all"] = np.arange(len(test))
    return Stream(
        name=name,
        task="image -> class",
        stages=stages,
        test=test,
        test_sets=test_sets,
        class_names=tuple(class_names),
        info={"file_prefix": f"core50_{kind}_"},
    )


def core50(settings: Core50, resources: Resources) -> Stream:
    """CORe50 below a data root.

    :raises MissingAsset: when it is not there. :raises BadInput: for a tree where a clip is missing.
    """
    root = find(settings.folder, resources)
    paths, rows = scan(root, settings.every)
    table = np.array(rows, np.int64)
    frames = {}
    sides = {}
    for side, wanted in (
        ("train", ~np.isin(table[:, 2], TEST_SESSIONS)),
        ("test", np.isin(table[:, 2], TEST_SESSIONS)),
    ):
        chosen = np.flatnonzero(wanted)
        if not len(chosen):
            raise BadInput(f"no {side} sessions below {root}", where=str(root), fix="sessions 3, 7 and 10 are the test")
        frames[side] = Frames(
            label=table[chosen, 0], instance=table[chosen, 1], session=table[chosen, 2], time=table[chosen, 3]
        )
        sides[side] = ImageFiles(
            root, CATEGORIES, tuple(paths[i] for i in chosen.tolist()), frames[side].label, settings.side, settings.side
        )
    return ordered_stream(
        "core50",
        settings.order,
        sides["train"],
        frames["train"],
        sides["test"],
        frames["test"].label,
        CATEGORIES,
        resources.rng("core50", settings.permutation),
        base_classes=settings.base_classes,
        increment_classes=settings.increment_classes,
        base=settings.base,
        increment=settings.increment,
    )


def find(folder: str, resources: Resources) -> Path:
    """The folder that holds ``s1`` ... ``s11``."""
    places = (
        [Path(folder).expanduser()]
        if folder
        else [
            place
            for root in resources.roots
            for place in (root / "core50_128x128", root / "core50" / "core50_128x128", root)
        ]
    )
    for place in places:
        if (place / "s1" / "o1").is_dir():
            return place
    raise MissingAsset(
        "CORe50 is missing: s1/o1/C_01_01_000.png and so on",
        where=", ".join(map(str, places)) or "no data root given",
        fix="get core50_128x128.zip from vlomonaco.github.io/core50 and pass --data-root DIR",
    )


def scan(root: Path, every: int) -> tuple[list[str], list[tuple[int, int, int, int]]]:
    """Paths and (class, object, session, frame) of every ``every``-th frame of each clip."""
    paths, rows = [], []
    for session in sorted(root.glob("s*"), key=lambda p: int(p.name[1:]) if p.name[1:].isdigit() else 0):
        for thing in sorted(session.glob("o*"), key=lambda p: int(p.name[1:]) if p.name[1:].isdigit() else 0):
            for path in sorted(thing.glob("C_*.png"))[::every]:
                if (match := _FRAME.match(path.name)) is None:
                    raise BadInput(f"{path.name} does not read C_<session>_<object>_<frame>.png", where=str(path))
                number = int(match[2])
                paths.append(path.relative_to(root).as_posix())
                rows.append(((number - 1) // 5, (number - 1) % 5, int(match[1]), int(match[3])))
    if not rows:
        raise BadInput("no frames found", where=str(root))
    _check_whole(root, rows)
    return paths, rows


def _check_whole(root: Path, rows: Sequence[tuple[int, int, int, int]]) -> None:
    """Each object was filmed in each session.

    :raises BadInput: names how many clips lack, and the first.
    """
    clips = {(session, 5 * label + thing + 1) for label, thing, session, _ in rows}
    sessions, objects = ({clip[axis] for clip in clips} for axis in (0, 1))
    if gaps := sorted({(s, o) for s in sessions for o in objects} - clips):
        raise BadInput(
            f"{len(gaps)} of {len(sessions) * len(objects)} clips are missing, the first is s%d/o%d" % gaps[0],
            where=str(root),
            fix="unpack core50_128x128.zip again; part of it does only as whole sessions and whole objects",
        )

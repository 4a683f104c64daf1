"""The eight tests and the nine configurations as data (spec 5)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from attrs import frozen

from cl_kernel.errors import BadSetting

VOC_CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
"""Class k of Pascal VOC is entry k - 1; label 0 is background."""

STRUCTURE = r"\d+(?:[-+]\d+(?:[x×]\d+)?)+"
"""What a structure string looks like: ``15-1``, ``10-5-5``, ``15-1x5``."""


@frozen(kw_only=True)
class Test:
    """One of the paper's tests: classes of step 0, then of every step."""

    index: int
    name: str
    structure: str
    sizes: tuple[int, ...]

    @property
    def steps(self) -> list[list[int]]:
        """Class numbers of each step, from 1."""
        return class_steps(self.sizes)

    @property
    def aliases(self) -> tuple[str, ...]:
        """Number and structure strings that mean this test."""
        long = "-".join(str(size) for size in self.sizes)
        return tuple(
            dict.fromkeys((str(self.index), self.structure, *((long,) if len(self.sizes) > 1 else ())))
        )


def class_steps(sizes: Sequence[int]) -> list[list[int]]:
    """Class numbers of each step, 1-based, in index order."""
    steps, first = [], 1
    for size in sizes:
        steps.append(list(range(first, first + size)))
        first += size
    return steps


def parse_structure(text: str, n_classes: int) -> tuple[int, ...]:
    """Classes a step brings: ``15-1`` on 20 classes is 15 and five times 1; ``joint`` is all at once.

    :raises BadSetting: when the text is no structure or does not use up the classes in equal increments.
    """
    where = f"structure {text!r} on {n_classes} classes"
    if text.lower() == "joint":
        return (n_classes,)
    if not re.fullmatch(r"\d+(?:[-+]\d+(?:[x×]\d+)?)*", text):
        raise BadSetting(
            f"{text!r} is no structure string", where="structure", fix="write 15-1, 10-5-5, 15-1x5 or joint"
        )
    first, *rest = re.split(r"[-+]", text)
    sizes = [int(first)]
    for part in rest:
        size, _, times = part.replace("×", "x").partition("x")
        sizes += [int(size)] * int(times or 1)
    if (
        len(rest) == 1
        and "x" not in rest[0].replace("×", "x")
        and sizes[1]
        and (n_classes - sizes[0]) > sizes[1]
    ):
        left = n_classes - sizes[0]
        if left % sizes[1]:
            raise BadSetting(
                f"{left} classes after the first {sizes[0]} do not divide into steps of {sizes[1]}",
                where=where,
                fix=f"use steps of {[k for k in range(1, left + 1) if left % k == 0]}",
            )
        sizes = [sizes[0]] + [sizes[1]] * (left // sizes[1])
    if min(sizes) < 1 or sum(sizes) != n_classes:
        raise BadSetting(
            f"steps of {sizes} classes do not add up to the {n_classes} classes of the data",
            where=where,
            fix="give a structure that uses every class once, e.g. "
            f"{max(1, n_classes // 2)}-{n_classes - max(1, n_classes // 2)}",
        )
    if len(set(sizes[1:])) > 1:
        raise BadSetting(f"incremental steps must bring equally many classes, not {sizes[1:]}", where=where)
    return tuple(sizes)


TESTS = tuple(
    Test(index=index, name=name, structure=structure, sizes=parse_structure(structure, 20))
    for index, (name, structure) in enumerate(
        (
            ("ADD_ONE_ONE_TIME", "19-1"),
            ("ADD_FIVE_ONE_TIME", "15-5"),
            ("ADD_FIVE_TWO_TIMES", "10-5-5"),
            ("ADD_ONE_FIVE_TIMES", "15-1"),
            ("ADD_TEN_ONE_TIME", "10-10"),
            ("ADD_TWO_FIVE_TIMES", "10-2"),
            ("ADD_ONE_TEN_TIMES", "10-1"),
            ("JOINT", "20"),
        )
    )
)


def helper_sets(sizes: Sequence[int], one_class: bool = False) -> list[list[int]]:
    """Class lists that need a helper decoder: every step's but the first and the last (spec 2.2)."""
    middle = class_steps(sizes)[1:-1]
    return [[c] for step in middle for c in step] if one_class else middle

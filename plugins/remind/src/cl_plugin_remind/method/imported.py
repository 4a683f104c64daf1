"""Going on from a buffer that another run, or the authors' code, filled."""

from __future__ import annotations

import numpy as np
from attrs import frozen

from cl_kernel import BadInput, Stage, Stream, Tree


@frozen
class Imported:
    """What an imported buffer holds, and how the stream goes on from there.

    :param classes: of its examples. :param items: their numbers, ascending. :param offset: added to the numbers of a
        stream that has none of its own.
    """

    classes: tuple[int, ...]
    items: np.ndarray
    offset: int

    @classmethod
    def of(cls, labels: np.ndarray, items: np.ndarray, stage: Stage, stream: Stream) -> Imported:
        """Checked against the first stage, and against every stage that it holds in part.

        :raises BadInput: for classes of the first stage that it lacks, and for stages that it knows in part.
        """
        found = cls(tuple(np.unique(labels).tolist()), np.sort(items), 0 if "items" in stage.info else _after(items))
        if missing := sorted(set(stage.classes) - set(found.classes)):
            raise BadInput(
                f"the imported buffer holds no example of the classes {', '.join(map(str, missing[:8]))} that the "
                f"first stage brings",
                where="learner.start_from",
                fix="give the class order and base classes that the buffer was made with",
            )
        for later in stream.stages[1:]:
            shared = sorted(set(later.classes) & set(found.classes))
            if shared and len(shared) < len(set(later.classes)):
                raise BadInput(
                    f"stage {later.name!r} brings {len(set(later.classes))} classes, and the imported buffer holds "
                    f"{len(shared)} of them already: {', '.join(map(str, shared[:8]))}",
                    where="learner.start_from",
                    fix="choose stages (dataset.increment) that end where the buffer ends",
                )
        return found

    def holds(self, stage: Stage) -> bool:
        """Whether a later stage was streamed already."""
        return stage.index > 0 and bool(stage.classes) and set(stage.classes) <= set(self.classes)

    def numbers(self, numbers: np.ndarray, stage: Stage) -> np.ndarray:
        """Item numbers beside those of the buffer.

        :raises BadInput: for a number that the buffer has given to another example.
        """
        numbers = numbers + self.offset
        if len(taken := np.intersect1d(numbers, self.items)):
            raise BadInput(
                f"item {taken[0]} of stage {stage.name!r} is in the imported buffer already",
                where="learner.start_from",
                fix="stream what the buffer was not made from",
            )
        return numbers

    def state(self) -> Tree:
        """As a tree."""
        return {"classes": np.array(self.classes, np.int64), "items": self.items, "offset": self.offset}

    @classmethod
    def of_state(cls, tree: Tree) -> Imported:
        """From what :meth:`state` gave."""
        return cls(tuple(np.asarray(tree["classes"]).tolist()), np.asarray(tree["items"]), int(tree["offset"]))


def _after(items: np.ndarray) -> int:
    return int(items.max()) + 1 if len(items) else 0

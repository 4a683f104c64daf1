"""Instructions put together: chains of directions, and several directions of one argument.

Shapes: n samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cl_kernel import BadInput, write_json

if TYPE_CHECKING:
    from cl_kernel import Stream, StreamContext


def compose(
    answer: Any, image: np.ndarray, argument: np.ndarray, chain: Sequence[int], border: int | None
) -> np.ndarray:
    """Follow a chain of directions: the answer to one is the argument of the next.

    Once a border is met the answer stays the border (the published code multiplied by the wrong mask).

    :param answer: ``(image, task [n], argument [n]) -> class [n]``.
    :param chain: task numbers in order.
    :return: int64 [n].
    """
    if not chain:
        raise BadInput("an empty chain of directions", where="chain", fix="name at least one direction")
    current = argument.astype(np.int64)
    gone = np.zeros(len(current), bool)
    for task in chain:
        asked = np.where(gone, 0, current)
        found = answer(image, np.full(len(current), task, np.int64), asked)
        if border is not None:
            gone |= found == border
            current = np.where(gone, border, found)
        else:
            current = found
    return current


def check_words(stream: Stream, words: Sequence[str], where: str) -> list[int]:
    """Numbers of directions by name, before anything is trained.

    :raises BadInput: when the stream lacks one.
    """
    names = [stage.name for stage in stream.stages]
    if missing := [word for word in words if word not in names]:
        raise BadInput(f"the stream has no direction {', '.join(missing)}", where=where, fix=f"use {', '.join(names)}")
    return [names.index(word) for word in words]


def check_chain(stream: Stream, words: Sequence[str]) -> tuple[list[int], int]:
    """A chain of directions by number, and the direction that it adds up to.

    :raises BadInput: when the stream lacks a direction of the chain, or their sum.
    """
    chain = check_words(stream, words, "learner.compose")
    ways = [tuple(way) for way in stream.info["directions"]]
    total = (sum(ways[t][0] for t in chain), sum(ways[t][1] for t in chain))
    if total not in ways:
        raise BadInput(
            f"{' then '.join(words)} adds up to {total}, which is no direction of the stream",
            where="learner.compose",
            fix="add that direction to dataset.directions",
        )
    return chain, ways.index(total)


def check_compound(stream: Stream, words: Sequence[str]) -> tuple[list[int], np.ndarray]:
    """Directions by number, and rows of the test samples that ask them about one character, [n, directions].

    :raises BadInput: when the stream lacks a direction, or no character has a neighbour in all of them.
    """
    tasks = check_words(stream, words, "learner.compound")
    asked: list[dict[tuple[int, int], int]] = []
    for word in words:
        rows = stream.test_sets[word]
        arguments = stream.test.take(rows, ["argument"])["argument"]
        asked.append(dict(zip(zip(stream.test.picture[rows], arguments, strict=True), rows, strict=True)))
    shared = sorted(set(asked[0]).intersection(*asked[1:]))
    if not shared:
        raise BadInput(
            f"no test picture is asked {' and '.join(words)} about one character",
            where="learner.compound",
            fix="name directions that have a place in common, or raise dataset.n_test",
        )
    return tasks, np.asarray([[found[key] for found in asked] for key in shared])


def write_composition(learner: Any, ctx: StreamContext, words: Sequence[str]) -> dict[str, Any]:
    """Follow a chain of directions on the test pictures and compare with the direction it adds up to.

    :return: and write to ``reports/compose.json``: accuracy of the chain, of the direct answer, and their agreement.
    :raises BadInput: when the stream lacks a direction of the chain, or their sum.
    """
    stream = ctx.stream
    chain, direct = check_chain(stream, words)
    names = [stage.name for stage in stream.stages]
    rows = stream.test_sets[names[direct]]
    taken = stream.test.take(rows, ["image", "argument", "class"])
    border = stream.n_classes - 1 if stream.info.get("border") else None
    found = compose(learner.classes, taken["image"], taken["argument"], chain, border)
    straight = learner.classes(taken["image"], np.full(len(rows), direct, np.int64), taken["argument"])
    result = {
        "chain": list(words),
        "equals": names[direct],
        "accuracy": float((found == taken["class"]).mean()),
        "direct": float((straight == taken["class"]).mean()),
        "agreement": float((found == straight).mean()),
    }
    write_json(ctx.folder / "reports" / "compose.json", result)
    ctx.note(f"{' then '.join(words)}: {result['accuracy']:.3f}; {names[direct]} directly: {result['direct']:.3f}")
    return result


def write_compound(learner: Any, ctx: StreamContext, words: Sequence[str]) -> dict[str, Any]:
    """Ask several directions about the same character of a test picture at once.

    :return: and write to ``reports/compound.json``: how many such questions there are, the accuracy of each direction,
        and the share of questions with every direction right.
    :raises BadInput: when the stream lacks a direction, or no character has a neighbour in all of them.
    """
    stream = ctx.stream
    tasks, rows = check_compound(stream, words)
    answers = stream.test.take(rows.flatten(), ["class"])["class"].reshape(rows.shape)
    taken = stream.test.take(rows[:, 0], ["image", "argument"])
    given = learner.compound(taken["image"], taken["argument"], tasks)
    right = given == answers
    result = {
        "directions": list(words),
        "questions": len(rows),
        "accuracy": dict(zip(words, right.mean(0).tolist(), strict=True)),
        "all": float(right.all(1).mean()),
    }
    write_json(ctx.folder / "reports" / "compound.json", result)
    ctx.note(f"{' and '.join(words)} at once, all right: {result['all']:.3f} of {len(rows)}")
    return result

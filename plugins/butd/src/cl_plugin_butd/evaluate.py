"""What is looked at after a run: pictures with the query marked, confusion matrices, curves, zero-forgetting report.

Shapes: n samples, K classes, H W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cl_kernel import BadInput, Samples, Stream, write_json

if TYPE_CHECKING:
    from pathlib import Path

    from cl_kernel import StreamContext

FEATURE_COLUMNS = (1, 3, 4, 5, 6)


def confusion(answers: np.ndarray, predicted: np.ndarray, n_classes: int) -> np.ndarray:
    """Counts, rows the right answer, columns the given one, int64 [K, K]."""
    table = np.zeros((n_classes, n_classes), np.int64)
    np.add.at(table, (answers, predicted), 1)
    return table


def person_table(
    person: np.ndarray, feature: np.ndarray, right: np.ndarray, n_people: int = 6, n_features: int = 7
) -> dict[str, Any]:
    """Accuracy of each person and feature; means are over the cells that were asked about.

    :return: ``table`` [people, features] (nan where never asked), ``features`` and ``mean``.
    """
    total, hits = np.zeros((n_people, n_features)), np.zeros((n_people, n_features))
    np.add.at(total, (person, feature), 1)
    np.add.at(hits, (person, feature), right)
    with np.errstate(invalid="ignore", divide="ignore"):
        table = hits / total
    means = np.asarray(
        [np.mean(column[~np.isnan(column)]) if (~np.isnan(column)).any() else np.nan for column in table.T]
    )
    queried = means[list(FEATURE_COLUMNS)]
    return {
        "table": table,
        "features": means,
        "mean": float(queried[~np.isnan(queried)].mean()) if (~np.isnan(queried)).any() else None,
    }


def not_border(predicted: np.ndarray, border: int) -> float:
    """Share of answers that are not the border class: a net that always says "border" learnt nothing."""
    return float((predicted != border).mean())


def zero_forgetting(rows: Sequence[Sequence[float | None]]) -> dict[str, Any]:
    """What an accuracy matrix says about forgetting.

    :param rows: R[i][j], test set j after stage i.
    :return: the final ``average``, ``forgetting`` (mean over earlier tasks of the best minus the last), and whether
        no earlier task ever moved (``exact``).
    """
    n = len(rows)
    last = [float(rows[-1][j] or 0.0) for j in range(n)]
    drops = [max(float(rows[i][j] or 0.0) for i in range(j, n)) - last[j] for j in range(n - 1)]
    exact = all(rows[i][j] == rows[j][j] for j in range(n) for i in range(j, n))
    return {"average": float(np.mean(last)), "forgetting": float(np.mean(drops)) if drops else 0.0, "exact": exact}


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


def write_composition(learner: Any, ctx: StreamContext, words: Sequence[str]) -> dict[str, Any]:
    """Follow a chain of directions on the test pictures and compare with the direction it adds up to.

    :return: and write to ``reports/compose.json``: accuracy of the chain, of the direct answer, and their agreement.
    :raises BadInput: when the stream lacks a direction of the chain, or their sum.
    """
    stream = ctx.stream
    names = [stage.name for stage in stream.stages]
    ways = [tuple(way) for way in stream.info["directions"]]
    if missing := [word for word in words if word not in names]:
        raise BadInput(
            f"the stream has no direction {', '.join(missing)}", where="learner.compose", fix=f"use {', '.join(names)}"
        )
    chain = [names.index(word) for word in words]
    total = (sum(ways[t][0] for t in chain), sum(ways[t][1] for t in chain))
    if total not in ways:
        raise BadInput(
            f"{' then '.join(words)} adds up to {total}, which is no direction of the stream",
            where="learner.compose",
            fix="add that direction to dataset.directions",
        )
    direct = ways.index(total)
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
    names = [stage.name for stage in stream.stages]
    if missing := [word for word in words if word not in names]:
        raise BadInput(
            f"the stream has no direction {', '.join(missing)}", where="learner.compound", fix=f"use {', '.join(names)}"
        )
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
    rows = np.asarray([[found[key] for found in asked] for key in shared])  # (n, directions)
    answers = stream.test.take(rows.flatten(), ["class"])["class"].reshape(rows.shape)
    taken = stream.test.take(rows[:, 0], ["image", "argument"])
    given = learner.compound(taken["image"], taken["argument"], [names.index(word) for word in words])
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


def write_reports(learner: Any, ctx: StreamContext, n_pictures: int, curve: Sequence[Sequence[float]]) -> None:
    """Write ``reports/`` in the run folder: confusion matrices, pictures with the query marked, the learning curve."""
    stream, folder = ctx.stream, ctx.folder / "reports"
    folder.mkdir(exist_ok=True)
    write_json(folder / "curve.json", {"columns": ["stage", "epoch", "loss"], "rows": [list(r) for r in curve]})
    if not n_pictures:
        return
    labels = stream.test.take(np.arange(len(stream.test)), ["class"])["class"]
    predicted = np.concatenate([out["class"] for out in learner.predict(stream.test)])
    tables = {
        name: confusion(labels[rows], predicted[rows], stream.n_classes).tolist()
        for name, rows in stream.test_sets.items()
    }
    write_json(folder / "confusion.json", {"classes": list(stream.class_names), "sets": tables})
    if "person" in stream.spec:
        taken = stream.test.take(np.arange(len(stream.test)), ["argument", "task"])
        report = person_table(taken["argument"], taken["task"], predicted == labels)
        write_json(
            folder / "persons.json",
            {
                "table": np.where(np.isnan(report["table"]), None, report["table"].astype(object)).tolist(),
                "mean": report["mean"],
            },
        )
    draw(folder, stream, tables, curve, labels, predicted, n_pictures)


def draw(
    folder: Path,
    stream: Stream,
    tables: Mapping[str, list[list[int]]],
    curve: Sequence[Sequence[float]],
    labels: np.ndarray,
    predicted: np.ndarray,
    n_pictures: int,
) -> None:
    """The same as pictures."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.plot([row[2] for row in curve], color="0.2")
    for i, row in enumerate(curve):
        if i and row[0] != curve[i - 1][0]:
            axes.axvline(i - 0.5, color="0.7", linestyle="--")
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss of the last batch")
    figure.savefig(folder / "curve.png", dpi=110)
    for name, table in tables.items():
        figure = Figure(figsize=(4.5, 4), layout="constrained")
        axes = figure.subplots()
        axes.imshow(np.asarray(table), cmap="Greys")
        axes.set_title(f"{name}: right answer down, given across")
        figure.savefig(folder / f"confusion-{safe(name)}.png", dpi=110)
    for name, rows in stream.test_sets.items():
        draw_predictions(
            folder / f"pictures-{safe(name)}.png", stream.test, rows[:n_pictures], labels, predicted, stream
        )


def draw_predictions(
    path: Path, samples: Samples, rows: np.ndarray, labels: np.ndarray, predicted: np.ndarray, stream: Stream
) -> None:
    """Pictures with what was asked, answered and right; the queried place is framed where the samples know it."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    has_box = "box" in samples.spec
    taken = samples.take(rows, ["image", "task", "argument", *(["box"] if has_box else [])])
    n = len(rows)
    figure = Figure(figsize=(3.2 * min(n, 3), 1.9 * -(-n // 3)), layout="constrained")
    axes = figure.subplots(-(-n // 3), min(n, 3), squeeze=False).flatten()
    for axis in axes:
        axis.axis("off")
    names, tasks = stream.class_names, [stage.name for stage in stream.stages]
    for i, axis in enumerate(axes[:n]):
        axis.imshow(taken["image"][i], cmap="gray", vmin=0, vmax=255)
        task = int(taken["task"][i])
        asked = tasks[task] if task < len(tasks) and len(tasks) > 1 else f"task {task}"
        argument = int(taken["argument"][i])
        about = names[argument] if argument < len(names) else str(argument)
        given, right = names[int(predicted[rows[i]])], names[int(labels[rows[i]])]
        axis.set_title(
            f"{asked} of {about}: {given}" + ("" if given == right else f" (is {right})"),
            fontsize=8,
            color="black" if given == right else "firebrick",
        )
        if has_box:
            y, x, h, w = (int(v) for v in taken["box"][i])
            axis.add_patch(Rectangle((x - 0.5, y - 0.5), w, h, fill=False, edgecolor="tab:orange"))
    figure.savefig(path, dpi=110)


def draw_methods(methods: Mapping[str, Sequence[tuple[float, float]]], path: Path) -> None:
    """A line a method, the best at the top: accuracy just after a task was learnt (open) and at the end (filled).

    :param methods: name -> (learning accuracy, final average accuracy) of each seed.
    """
    from matplotlib.figure import Figure

    means = {name: np.mean(values, 0) for name, values in methods.items()}
    order = sorted(means, key=lambda name: means[name][1])
    figure = Figure(figsize=(6.4, 0.9 + 0.32 * len(order)), layout="constrained")
    axes = figure.subplots()
    for y, name in enumerate(order):
        axes.plot(means[name], [y, y], color="0.75", zorder=1)
        for learnt, final in methods[name]:
            axes.plot(learnt, y, "o", mfc="white", mec="0.3", ms=6, zorder=2)
            axes.plot(final, y, "o", color="tab:blue", ms=6, alpha=0.8, zorder=3)
    axes.plot([], [], "o", mfc="white", mec="0.3", ls="", label="just after a direction was learnt")
    axes.plot([], [], "o", color="tab:blue", ls="", label="after the last direction")
    axes.set_yticks(range(len(order)), order)
    axes.set_xlim(0, 1.02)
    axes.set_ylim(-0.5, len(order) - 0.5)
    axes.set_xlabel("test accuracy, mean over directions")
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    figure.savefig(path, dpi=110)


def safe(name: str) -> str:
    """A name as a file name."""
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in name)

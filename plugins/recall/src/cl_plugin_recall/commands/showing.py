"""``clk recall summary``, ``validate``, ``dump``: results of finished runs."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import yaml
from attrs import frozen

from cl_kernel import BadInput, BadSetting, Cache, Resources, default_cache, write_text
from cl_plugin_recall.commands import METRIC
from cl_plugin_recall.evaluate import report
from cl_plugin_recall.experiments import TESTS

Handler = Callable[[Namespace, Any], int]


@frozen(kw_only=True)
class Row:
    """One experiment in the summary table."""

    name: str
    structure: str
    source: str
    profile: str
    summary: report.Summary


def summary(parser: ArgumentParser) -> Handler:
    """Summarise run folders (metrics.json), folders of runs, or text reports of the reference."""
    parser.add_argument("paths", nargs="+", type=Path, metavar="RUN|DIR|REPORT.txt")
    parser.add_argument("--format", choices=("table", "markdown", "latex", "text"), default="table")
    parser.add_argument("--old", type=int, default=0, help="step-0 class count where a report's name does not tell it")
    parser.add_argument(
        "--joint",
        type=float,
        default=None,
        help="joint mIoU in per cent (default: that of a joint run among the paths, else 71.0)",
    )
    parser.add_argument("--output", type=Path, default=None, metavar="FILE")

    def handle(namespace: Namespace, console: Any) -> int:
        runs = [run for path in namespace.paths for run in _runs(path)]
        reports = [path for path in namespace.paths if path.is_file()]
        if not runs and not reports:
            raise BadInput(
                "no runs and no reports found",
                where=", ".join(map(str, namespace.paths)),
                fix="give run folders of clk run",
            )
        rows = [_row(folder) for folder in runs]
        measured = [row.summary.all_with_background for row in rows if row.structure == "joint"]
        joint = (
            namespace.joint
            if namespace.joint is not None
            else float(np.mean(measured))
            if measured
            else report.JOINT_FALLBACK
        )
        text = "".join(report.summarise_report(path, n_old=namespace.old or None, joint=joint) for path in reports)
        columns = (
            "experiment",
            "structure",
            "source",
            "profile",
            "old",
            "new",
            "all without bg",
            "all with bg",
            "delta to joint",
        )
        cells = [
            (
                r.name,
                r.structure,
                r.source,
                r.profile,
                _cell(r.summary.old),
                _cell(r.summary.new),
                _cell(r.summary.all_without_background),
                _cell(r.summary.all_with_background),
                _cell(r.summary.delta(joint)),
            )
            for r in rows
        ]
        if namespace.format == "markdown":
            text += _markdown(columns, cells)
        elif namespace.format == "latex":
            text += _latex(columns, cells)
        elif namespace.format == "text":
            text += "".join(
                report.summary_text(f"{r.name} {r.source}", _iou(folder), _first(folder), joint)
                for r, folder in zip(rows, runs, strict=True)
            )
        elif cells:
            console.table(
                f"mIoU in per cent; joint {joint:.1f}{'' if measured or namespace.joint else ' (fallback)'}",
                columns,
                cells,
            )
        if text:
            console.print(text.rstrip("\n"))
        if namespace.output:
            write_text(namespace.output, text or _markdown(columns, cells))
        console.json({"joint": joint, "rows": [dict(zip(columns, row, strict=True)) for row in cells]})
        return 0

    return handle


def _runs(path: Path) -> Iterator[Path]:
    if path.is_file():
        return
    if (path / "metrics.json").is_file():
        yield path
        return
    if not path.is_dir():
        raise BadInput("no such run folder or report", where=str(path))
    yield from sorted(inner.parent for inner in path.glob("*/metrics.json"))


def _seen(folder: Path) -> dict[str, Any]:
    content = json.loads((folder / "metrics.json").read_text())
    if METRIC not in content.get("metrics", {}):
        raise BadInput(f"run has no metric {METRIC}", where=str(folder / "metrics.json"))
    seen: dict[str, Any] = content["metrics"][METRIC]["seen"][-1]
    return seen


def _iou(folder: Path) -> list[float | None]:
    return [value for name, value in _seen(folder).items() if name.startswith("iou/")]


def _first(folder: Path) -> int:
    return len(json.loads((folder / "metrics.json").read_text())["classes"][0])


def _row(folder: Path) -> Row:
    info = json.loads((folder / "run.json").read_text())
    content = json.loads((folder / "metrics.json").read_text())
    sizes = [len(classes) for classes in content["classes"]]
    structure = (
        "joint"
        if len(sizes) == 1
        else next((t.structure for t in TESTS if list(t.sizes) == sizes), "-".join(map(str, sizes[:2])))
    )
    source = info.get("pieces", {}).get("source", "-").split(":")[-1]
    return Row(
        name=folder.name,
        structure=structure,
        source={"gan": "GAN", "flickr": "Web"}.get(source, source) if len(sizes) > 1 else "-",
        profile=info.get("profile", ""),
        summary=report.summarise(_iou(folder), sizes[0]),
    )


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _markdown(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def _latex(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    body = [" & ".join(part.replace("_", r"\_") for part in row) + r" \\" for row in rows]
    return (
        "\n".join(
            [
                r"\begin{tabular}{" + "l" * 4 + "r" * (len(columns) - 4) + "}",
                " & ".join(columns) + r" \\ \hline",
                *body,
                r"\end{tabular}",
            ]
        )
        + "\n"
    )


# ---- saved steps ------------------------------------------------------------------------------------


def rebuilt(folder: Path, step: int | None) -> tuple[Any, int]:
    """The learner of a run folder with the weights it had after a step (the last one if None).

    :raises BadInput: when the run saved no such step.
    """
    from cl_kernel import Setup, discover, resolve
    from cl_plugin_recall.train import RecallLearner
    from cl_plugin_recall.weights import checkpoints, saved

    info = json.loads((folder / "run.json").read_text())
    settings = yaml.safe_load((folder / "settings.yaml").read_text())
    registry = discover()
    offers = {kind: registry.find(kind, info["pieces"][kind])[0].record for kind in ("dataset", "model", "learner")}
    chosen = {kind: _settings(record.settings, settings.get(kind) or {}) for kind, record in offers.items()}
    registry.configure({f"{kind}.{name}": value for kind in settings for name, value in (settings[kind] or {}).items()})
    roots = tuple(Path(root).resolve() for root in info["request"]["data_roots"])
    resources = Resources(seed=info["seed"], profile=info["profile"], roots=roots, cache=Cache(default_cache()))
    stream = resolve(offers["dataset"].build)(chosen["dataset"], resources)

    def model(fields: Any, n: int) -> Any:
        return resolve(offers["model"].build)(chosen["model"], fields, n, resources)

    without_replay = attrs.evolve(chosen["learner"], interleave_ratio_old=0, devices=1)
    learner = RecallLearner(without_replay, Setup(stream=stream, resources=resources, model=model), None)
    steps = saved.steps(folder)
    if not steps or (step is not None and step not in steps):
        raise BadInput(
            f"run saved no weights of step {step}" if step is not None else "run saved no weights",
            where=str(folder),
            fix=f"saved steps: {', '.join(map(str, steps)) or 'none'}",
        )
    step = max(steps) if step is None else step
    learner.encoder.assign(
        checkpoints.load(saved.encoder(folder), {n: tuple(v.shape) for n, v in learner.encoder.named.items()})
    )
    learner.decoder.assign(
        checkpoints.load(saved.decoder(folder, step), {n: tuple(v.shape) for n, v in learner.decoder.named.items()})
    )
    return learner, step


def _settings(cls: Any, values: dict[str, Any]) -> Any:
    """A settings object from plain values; lists become tuples."""
    return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def validate(parser: ArgumentParser) -> Handler:
    """Score saved steps of a run again, without training: mIoU, precision, recall and the loss, one image at a time."""
    parser.add_argument("run", type=Path)
    parser.add_argument("--step", type=int, default=None, help="default: every saved step")

    def handle(namespace: Namespace, console: Any) -> int:
        from cl_plugin_recall.evaluate import validation

        learner, step = rebuilt(namespace.run, namespace.step)
        decoders = validation.load_decoders(learner, namespace.run)
        wanted = decoders if namespace.step is None else {step: decoders[step]}
        rows, text, content = [], "", []
        for step, found in validation.validate(learner, wanted).items():
            scores, loss = found.scores, found.loss
            text += report.block(step, scores, loss=loss, old=found.old, new=found.new)
            rows.append(
                (
                    step,
                    loss,
                    scores["miou"],
                    scores["miou_old"] if step else None,
                    scores["miou_new"] if step else None,
                    scores["mean_precision"],
                    scores["pixel_accuracy"],
                )
            )
            content.append({"step": step, "loss": loss, **scores})
        write_text(namespace.run / "outputs" / "validation.txt", text)
        console.table(
            "validation of saved steps",
            ("step", "loss", "mIoU", "old (with bg)", "new", "mean precision", "pixel accuracy"),
            rows,
        )
        console.json(content)
        console.print(f"report in {namespace.run / 'outputs' / 'validation.txt'}")
        return 0

    return handle


def dump(parser: ArgumentParser) -> Handler:
    """Write input, label and prediction pictures of validation images for a saved step."""
    parser.add_argument("run", type=Path)
    parser.add_argument("--step", type=int, default=None)
    parser.add_argument("--rows", default="0-9", help="validation images, as 0-9,42")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")

    def handle(namespace: Namespace, console: Any) -> int:
        from PIL import Image

        from cl_plugin_recall.data.images import decode_image
        from cl_plugin_recall.evaluate.palette import colourise

        learner, step = rebuilt(namespace.run, namespace.step)
        test = learner.stream.test
        rows = _row_numbers(namespace.rows, len(test))
        batch = test.take(np.array(rows), ["image", "mask"])
        images = [
            decode_image(data, f"row {row}") if isinstance(data, bytes) else data
            for data, row in zip(batch["image"], rows, strict=True)
        ]
        predicted = learner.predictor(learner.decoder).arrays(images)
        for row, image, mask, guess in zip(rows, images, batch["mask"], predicted, strict=True):
            for kind, picture in (("input", image), ("label", colourise(mask)), ("prediction", colourise(guess))):
                (namespace.output / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture).save(namespace.output / kind / f"{row:05d}.png")
        console.print(f"{len(rows)} images of step {step} in {namespace.output}: input/, label/, prediction/")
        console.json({"step": step, "rows": rows, "output": str(namespace.output)})
        return 0

    return handle


def _row_numbers(text: str, n: int) -> list[int]:
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if not first.isdigit() or (last and not last.isdigit()):
            raise BadSetting(f"{part!r} is no row", where="--rows", fix="--rows 0-9,42")
        found += range(int(first), int(last or first) + 1)
    inside = [row for row in found if row < n]
    if not inside:
        raise BadSetting(f"no such validation image; there are {n}", where="--rows")
    return inside

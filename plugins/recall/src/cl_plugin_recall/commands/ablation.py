"""``clk recall ablate``: the method, what it is made of and what it is compared with, over seeds and sources."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from attrs import frozen

from cl_kernel import (
    BadSetting,
    Outcome,
    Registry,
    Request,
    discover,
    parse_assignments,
    plan,
    run_plan,
    write_json,
    write_text,
)
from cl_plugin_recall.commands import METRIC
from cl_plugin_recall.experiments import ABLATIONS, REPLAYED, SOURCES, TESTS, parse_structure

Handler = Callable[[Namespace, Any], int]
Ends = Mapping[tuple[str, str], list[dict[str, float]]]
"""(method, source) -> old, new and all of every seed after the last step."""
PARTS = ("old", "new", "all")


@frozen
class Member:
    """One run of the comparison."""

    variant: str
    source: str
    seed: int

    @property
    def kind(self) -> str:
        """The source without its path; empty for methods that do not replay."""
        return self.source.split(":")[0]

    @property
    def name(self) -> str:
        """Name of the run folder."""
        return f"{self.variant}-{self.kind}-s{self.seed}".replace("--", "-")


def ablate(parser: ArgumentParser) -> Handler:
    """Fine-tuning, with inpainting, replay only, RECALL, other methods and joint over several seeds, side by side.

    Runs that are finished are read, one that was interrupted goes on. ``ablation.md`` in the folder is the table.
    """
    parser.add_argument("--test", default="ADD_ONE_FIVE_TIMES")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--sources", default=",".join(SOURCES), help="replay sources, comma-separated; folder:PATH too")
    parser.add_argument(
        "--variants", default="fine-tuning,inpainting,replay,recall,joint", help="also lwf, ilt, mib, plop, recall-mib"
    )
    parser.add_argument("--profile", default="")
    parser.add_argument("--data-root", action="append", default=[], metavar="DIR")
    parser.add_argument("--output", required=True, metavar="DIR")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="assignments")
    return compare


def compare(namespace: Namespace, console: Any) -> int:
    """Run what is missing, and tell how all of them end."""
    members, output = list(members_of(namespace)), Path(namespace.output)
    registry = discover()
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for member in members:
        console.say(member.name)
        outcome = _run(registry, member, namespace, output / member.name)
        end = end_of(outcome.results["metrics"][METRIC]["seen"][-1], namespace.test)
        found.setdefault((member.variant, member.kind), []).append({"seed": member.seed, **end})
        write_json(
            output / "ablation.json", [{"variant": v, "source": s, "runs": runs} for (v, s), runs in found.items()]
        )
        write_text(output / "ablation.md", markdown(found))
    rows = [(variant, source or "-", *_means(runs)) for (variant, source), runs in found.items()]
    head = ("method", "source", *PARTS)
    title = f"{namespace.test}: mIoU at the end in per cent, mean and deviation over seeds {namespace.seeds}"
    console.table(title, head, rows)
    console.json([dict(zip(head, row, strict=True)) for row in rows])
    return 0


def members_of(namespace: Namespace) -> Iterator[Member]:
    """The runs that the flags ask for, seed by seed.

    :raises BadSetting: for an unknown variant or a seed that is no number.
    """
    variants, sources = (_parts(getattr(namespace, key), f"--{key}") for key in ("variants", "sources"))
    if unknown := [v for v in variants if v != "recall" and v not in ABLATIONS]:
        known = ", ".join(["recall", *ABLATIONS])
        raise BadSetting(f"unknown variant {unknown[0]!r}", where="--variants", fix=f"known: {known}")
    seeds = _parts(namespace.seeds, "--seeds")
    if wrong := [seed for seed in seeds if not seed.isdigit()]:
        raise BadSetting(f"{wrong[0]!r} is no seed", where="--seeds", fix="numbers parted by commas, as 0,1,2")
    for seed in seeds:
        for variant in variants:
            for source in sources if variant in REPLAYED else [""]:
                yield Member(variant, source, int(seed))


def _parts(text: str, flag: str) -> list[str]:
    parts = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not parts:
        raise BadSetting("nothing is named", where=flag, fix="give one or more, parted by commas")
    return parts


def _run(registry: Registry, member: Member, namespace: Namespace, folder: Path) -> Outcome:
    request = Request(
        test=namespace.test,
        plugin="recall",
        profile=namespace.profile,
        data_roots=tuple(namespace.data_root),
        overrides=(
            ("ablate", {"run.seed": member.seed, **ABLATIONS.get(member.variant, {})}),
            ("--sources", {"replay": member.source or "none"}),
            ("--set", parse_assignments(namespace.assignments).values),
        ),
    )
    return run_plan(registry, plan(registry, request), folder, resume=(folder / "run.json").exists(), comparisons=False)


def end_of(seen: Mapping[str, Any], test: str) -> dict[str, float]:
    """Old, new and all from the values of the last step; a joint run's classes are split as the test would."""
    iou = [value for name, value in seen.items() if name.startswith("iou/")]
    if "iou/background" not in seen:
        iou.insert(0, None)
    known = next((t for t in TESTS if test.upper() == t.name or test in t.aliases), None)
    first = (known.sizes if known else parse_structure(test, len(iou) - 1))[0]
    return {"old": _mean(iou[1 : first + 1]), "new": _mean(iou[first + 1 :]), "all": _mean(iou)}


def _mean(values: Sequence[float | None]) -> float:
    return float(np.mean([value for value in values if value is not None]))


def _means(runs: Sequence[Mapping[str, float]]) -> list[str]:
    values = {part: 100 * np.array([run[part] for run in runs]) for part in PARTS}
    return [f"{values[part].mean():.1f} ± {values[part].std():.1f}" for part in PARTS]


def markdown(found: Ends) -> str:
    """Old / new / all of every seed, and their means, as a table."""
    seeds = list(dict.fromkeys(int(run["seed"]) for runs in found.values() for run in runs))
    head = ["old / new / all in per cent", *(f"seed {seed}" for seed in seeds), "mean ± deviation"]
    lines = [head, ["---"] * len(head)]
    for (variant, source), runs in found.items():
        cells = {int(run["seed"]): " / ".join(f"{100 * run[part]:.1f}" for part in PARTS) for run in runs}
        name = f"{variant}, {source}" if source else variant
        lines.append([name, *(cells.get(seed, "-") for seed in seeds), " / ".join(_means(runs))])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"

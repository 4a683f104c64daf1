"""``clk recall run-all`` and ``clk recall ablate``: many runs in an order that shares what they have in common."""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from attrs import frozen

from cl_kernel import BadSetting, Request, UnknownName, discover, execute, plan, write_json
from cl_plugin_recall.commands import METRIC, assignments
from cl_plugin_recall.experiments import ABLATIONS, TESTS

Handler = Callable[[Namespace, Any], int]
CONFIGS = ("OVERLAPPED", "DISJOINT", "SEQUENTIAL")
SOURCES = ("gan", "flickr")


@frozen(kw_only=True)
class Task:
    """One experiment of the campaign."""

    test: str
    config: str
    source: str = ""

    @property
    def name(self) -> str:
        """Folder of its run."""
        return "-".join(part for part in (self.config, self.test, self.source) if part)


def tasks(tests: Sequence[str], configs: Sequence[str], sources: Sequence[str], joint: bool) -> list[Task]:
    """Joint first, then source by source, configuration by configuration, test by test: all 43 of the reference."""
    found = [Task(test="JOINT", config="JOINT")] if joint else []
    return found + [
        Task(test=test, config=config, source=source) for source in sources for config in configs for test in tests
    ]


def run_all(parser: ArgumentParser) -> Handler:
    """Run the paper's 43 experiments, or some of them; run the command again to go on where it stopped."""
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="one run folder an experiment goes here"
    )
    parser.add_argument("--profile", default="tiny")
    parser.add_argument("--data-root", action="append", default=[], metavar="DIR")
    parser.add_argument("--tests", default="0,1,2,3,4,5,6", help="names, numbers or structures, comma-separated")
    parser.add_argument("--configs", default=",".join(CONFIGS))
    parser.add_argument("--sources", default=",".join(SOURCES))
    parser.add_argument("--no-joint", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="assignments")

    def handle(namespace: Namespace, console: Any) -> int:
        names = [_test(part) for part in namespace.tests.split(",") if part]
        configs = [part.strip().upper() for part in namespace.configs.split(",") if part]
        todo = tasks(names, configs, [part for part in namespace.sources.split(",") if part], not namespace.no_joint)
        extra = assignments(namespace.assignments)
        registry = discover()
        planned = [
            (task, plan(registry, _request(task, namespace, extra))) for task in todo
        ]  # all settings are checked first
        rows: list[tuple[Any, ...]] = []
        seconds: list[float] = []
        for k, (task, one) in enumerate(planned, 1):
            folder = namespace.output / task.name
            started = (folder / "run.json").exists()
            left = (len(planned) - k + 1) * float(np.mean(seconds)) / 60 if seconds else None
            console.say(
                f"[{k}/{len(planned)}] {task.name}{' (resumed)' if started else ''}"
                f"{f', about {left:.0f} min left for all' if left else ''}"
            )
            reused: list[str] = []
            begun = time.monotonic()
            outcome = execute(
                registry,
                one,
                folder,
                resume=started,
                beside=False,
                listen=[lambda event, reused=reused: _hear(event, reused)],
            )
            if not started:
                seconds.append(time.monotonic() - begun)
            last = outcome.results["metrics"][METRIC]["seen"][-1]
            if reused:
                console.say(f"    reused {_counted(reused)}")
            rows.append((task.config, task.test, task.source or "-", last.get("old"), last.get("new"), last.get("all")))
            write_json(namespace.output / "progress.json", {"done": k, "of": len(planned), "results": rows})
        console.table("mIoU at the end", ("config", "test", "source", "old", "new", "all"), rows)
        console.json(
            {"runs": [dict(zip(("config", "test", "source", "old", "new", "all"), row, strict=True)) for row in rows]}
        )
        console.print(f"clk recall summary {namespace.output}")
        return 0

    return handle


def _test(text: str) -> str:
    for test in TESTS:
        if text.strip().upper() == test.name or text.strip() in test.aliases:
            return test.name
    raise UnknownName.of("test", text, [t.name for t in TESTS], where="--tests")


def _request(task: Task, namespace: Namespace, extra: dict[str, Any]) -> Request:
    layers: list[tuple[str, dict[str, Any]]] = [("--config", {"config": task.config})]
    if task.source:
        layers.append(("--sources", {"replay": task.source}))
    else:
        layers.append(("joint", {"replay": "none"}))
    layers += [("run-all", {"run.seed": namespace.seed}), ("--set", extra)]
    return Request(
        test=task.test,
        plugin="recall",
        profile=namespace.profile,
        data_roots=tuple(namespace.data_root),
        overrides=tuple(layers),
    )


def _hear(event: Any, reused: list[str]) -> None:
    if type(event).__name__ == "Reused":
        reused.append(event.kind)


def _counted(kinds: Sequence[str]) -> str:
    return ", ".join(f"{kinds.count(kind)} x {kind}" for kind in sorted(set(kinds)))


def ablate(parser: ArgumentParser) -> Handler:
    """Fine-tuning, with inpainting, replay only, RECALL and joint over several seeds, side by side."""
    parser.add_argument("--test", default="ADD_ONE_FIVE_TIMES")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--sources", default=",".join(SOURCES), help="replay sources, comma-separated; folder:PATH too")
    parser.add_argument("--variants", default="fine-tuning,inpainting,replay,recall,joint")
    parser.add_argument("--profile", default="")
    parser.add_argument("--data-root", action="append", default=[], metavar="DIR")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="assignments")

    def handle(namespace: Namespace, console: Any) -> int:
        variants = [part for part in namespace.variants.split(",") if part]
        if unknown := [v for v in variants if v != "recall" and v not in ABLATIONS]:
            raise BadSetting(
                f"unknown variant {unknown[0]!r}", where="--variants", fix=f"known: {', '.join(['recall', *ABLATIONS])}"
            )
        extra = assignments(namespace.assignments)
        registry = discover()
        found: dict[tuple[str, str], list[dict[str, float]]] = {}
        for seed in (int(part) for part in namespace.seeds.split(",")):
            for variant in variants:
                sources = namespace.sources.split(",") if variant in ("recall", "replay") else [""]
                for source in sources:
                    layers: list[tuple[str, dict[str, Any]]] = [
                        ("ablate", {"run.seed": seed, **ABLATIONS.get(variant, {})})
                    ]
                    layers.append(("--sources", {"replay": source or "none"}))
                    layers.append(("--set", extra))
                    request = Request(
                        test=namespace.test,
                        plugin="recall",
                        profile=namespace.profile,
                        data_roots=tuple(namespace.data_root),
                        overrides=tuple(layers),
                    )
                    name = f"{variant}-{source.split(':')[0]}-s{seed}".replace("--", "-")
                    folder = namespace.output / name
                    console.say(name)
                    outcome = execute(
                        registry, plan(registry, request), folder, resume=(folder / "run.json").exists(), beside=False
                    )
                    found.setdefault((variant, source.split(":")[0]), []).append(_end(outcome.results, namespace, seed))
                    write_json(
                        namespace.output / "ablation.json",
                        [{"variant": v, "source": s, "runs": runs} for (v, s), runs in found.items()],
                    )
        rows = []
        for (variant, source), runs in found.items():
            rows.append(
                (
                    variant,
                    source or "-",
                    *(
                        f"{100 * np.mean([r[k] for r in runs]):.1f} ± {100 * np.std([r[k] for r in runs]):.1f}"
                        for k in ("old", "new", "all")
                    ),
                )
            )
        console.table(
            f"{namespace.test}: mIoU at the end in per cent, mean and deviation over seeds {namespace.seeds}",
            ("method", "source", "old", "new", "all"),
            rows,
        )
        console.json([dict(zip(("method", "source", "old", "new", "all"), row, strict=True)) for row in rows])
        return 0

    return handle


def _end(results: Any, namespace: Namespace, seed: int) -> dict[str, float]:
    """Old, new and all at the end; a joint run's classes are split as the test would."""
    seen = results["metrics"][METRIC]["seen"][-1]
    iou = [value for name, value in seen.items() if name.startswith("iou/")]
    from cl_plugin_recall.experiments import parse_structure

    test = next((t for t in TESTS if namespace.test.upper() == t.name or namespace.test in t.aliases), None)
    first = (test.sizes if test else parse_structure(namespace.test, len(iou) - 1))[0]

    def mean(values: Sequence[float | None]) -> float:
        return float(np.mean([value for value in values if value is not None]))

    return {"seed": seed, "old": mean(iou[1 : first + 1]), "new": mean(iou[first + 1 :]), "all": mean(iou)}

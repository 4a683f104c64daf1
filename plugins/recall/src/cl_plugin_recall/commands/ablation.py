"""``clk recall ablate``: the method and what it is made of, over seeds and sources."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cl_kernel import BadSetting, Request, discover, parse_assignments, plan, run_plan, write_json
from cl_plugin_recall.commands import METRIC
from cl_plugin_recall.experiments import ABLATIONS, REPLAYED, SOURCES, TESTS

Handler = Callable[[Namespace, Any], int]


def ablate(parser: ArgumentParser) -> Handler:
    """Fine-tuning, with inpainting, replay only, RECALL and joint over several seeds, side by side."""
    parser.add_argument("--test", default="ADD_ONE_FIVE_TIMES")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--sources", default=",".join(SOURCES), help="replay sources, comma-separated; folder:PATH too")
    parser.add_argument(
        "--variants", default="fine-tuning,inpainting,replay,recall,joint", help="also lwf, ilt, mib, plop, recall-mib"
    )
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
        extra = parse_assignments(namespace.assignments).values
        registry = discover()
        found: dict[tuple[str, str], list[dict[str, float]]] = {}
        for seed in (int(part) for part in namespace.seeds.split(",")):
            for variant in variants:
                sources = namespace.sources.split(",") if variant in REPLAYED else [""]
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
                    outcome = run_plan(
                        registry,
                        plan(registry, request),
                        folder,
                        resume=(folder / "run.json").exists(),
                        comparisons=False,
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
    if "iou/background" not in seen:
        iou.insert(0, None)
    from cl_plugin_recall.experiments import parse_structure

    test = next((t for t in TESTS if namespace.test.upper() == t.name or namespace.test in t.aliases), None)
    first = (test.sizes if test else parse_structure(namespace.test, len(iou) - 1))[0]

    def mean(values: Sequence[float | None]) -> float:
        return float(np.mean([value for value in values if value is not None]))

    return {"seed": seed, "old": mean(iou[1 : first + 1]), "new": mean(iou[first + 1 :]), "all": mean(iou)}

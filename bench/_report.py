"""What every benchmark shares: alternating rounds, medians, the machine in words, results as JSON and Markdown.

Host names and paths never enter a result. A ratio is taken within one round of one process, then the median of the
rounds' ratios is reported, so that a machine that slows down slows both sides.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def rounds(
    cases: Mapping[str, Callable[[], Any]],
    n: int = 7,
    *,
    clock: Callable[[], float] = time.perf_counter,
    warm_up: bool = True,
) -> dict[str, list[float]]:
    """Seconds of each case in each of ``n`` rounds, the cases one after the other within a round."""
    if warm_up:
        for case in cases.values():
            case()
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(n):
        for name, case in cases.items():
            began = clock()
            case()
            seconds[name].append(clock() - began)
    return seconds


def ratio(seconds: Mapping[str, Sequence[float]], case: str, floor: str) -> float:
    """Median over rounds of case / floor."""
    return statistics.median(a / b for a, b in zip(seconds[case], seconds[floor], strict=True))


def machine(*distributions: str) -> dict[str, Any]:
    """The machine in words, with the versions of the named distributions."""
    info: dict[str, Any] = {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
    }
    for name in distributions:
        try:
            info[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            info[name] = "absent"
    return info


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; floats with three significant digits."""
    lines = [head, ["---"] * len(head), *[[_cell(value) for value in row] for row in rows]]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def write(
    name: str,
    title: str,
    content: Mapping[str, Any],
    sections: Sequence[str],
    *,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Store ``content`` as ``results/NAME.json`` and ``sections`` (Markdown) as ``results/NAME.md``, and print them."""
    RESULTS.mkdir(exist_ok=True)
    about = about or machine("numpy")
    words = ", ".join(f"{key} {value}" for key, value in about.items())
    text = "\n\n".join([f"# {title}", f"Machine: {words}.", *sections]) + "\n"
    (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")
    document = {"machine": dict(about), **content}
    (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(text)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")

"""Start-up, memories and hook calls: ``python bench/kernel.py``."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from _report import machine, ratio, rounds, table, write

from cl_kernel.contract.hooks import PROJECT
from cl_kernel.contract.stream import Field
from cl_kernel.library.memories.policies import (
    BiasedReservoir,
    ClassBalanced,
    GreedyBalanced,
    LargestClass,
    Reservoir,
    Ring,
)
from cl_kernel.library.memories.raw import RawCodec
from cl_kernel.memory import Memory

SIZES = (10**3, 10**4, 10**5, 10**6)
BATCH, N_GROUPS, N_FEATURES = 32, 50, 64
POLICIES: dict[str, Callable[[int], Any]] = {
    "reservoir": Reservoir,
    "ring": Ring,
    "class-balanced": ClassBalanced,
    "gdumb": GreedyBalanced,
    "largest-class": LargestClass,
    "biased-reservoir": lambda n: BiasedReservoir(n, alpha=2.0),
}


def start_up() -> dict[str, float]:
    """Seconds of whole processes, and how many times ``python -c pass`` each takes."""
    commands = {
        "python -c pass": ["-c", "pass"],
        "clk --help": ["-m", "cl_kernel.cli.main", "--help"],
        "clk plugins": ["-m", "cl_kernel.cli.main", "plugins"],
        "clk list tests": ["-m", "cl_kernel.cli.main", "list", "tests"],
    }

    def command(arguments: list[str]) -> Callable[[], None]:
        def call() -> None:
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)

        return call

    seconds = rounds({name: command(arguments) for name, arguments in commands.items()}, 15)
    return {
        name: {"seconds": statistics.median(taken), "times": ratio(seconds, name, "python -c pass")}
        for name, taken in seconds.items()
    }


def memories(policy: str) -> dict[int, dict[str, float]]:
    """Microseconds per example, capacity -> what; all sizes take turns in each round.

    Each round starts from the same full memory, which has seen twice as many examples as it holds.
    """
    fields = {
        "x": Field(shape=(N_FEATURES,), dtype="float32", kind="vector"),
        "class": Field(shape=(), dtype="int64", kind="class"),
    }
    rng = np.random.default_rng(0)
    kept, full = {}, {}
    for size in SIZES:
        kept[size] = memory = Memory(POLICIES[policy](size), RawCodec(fields), size, rng)
        for _ in range(0, 2 * size, 1000):
            groups = rng.integers(0, N_GROUPS, 1000)
            memory.add({"x": np.ones((1000, N_FEATURES), np.float32), "class": groups}, groups)
        memory.sample(BATCH, np.arange(3))
        full[size] = memory.policy.state()
    batches = [rng.integers(0, N_GROUPS, BATCH) for _ in range(10)]
    examples = np.ones((BATCH, N_FEATURES), np.float32)
    calls: dict[str, Callable[[Memory, np.ndarray], Any]] = {
        "add": lambda memory, groups: memory.add({"x": examples, "class": groups}, groups),
        "sample": lambda memory, groups: memory.sample(BATCH),
        "sample of 3 groups": lambda memory, groups: memory.sample(BATCH, groups[:3]),
    }
    taken: dict[int, dict[str, list[float]]] = {size: {what: [] for what in calls} for size in SIZES}
    for _ in range(15):
        for size, memory in kept.items():
            memory.policy.load(full[size])
            for what, call in calls.items():
                call(memory, batches[0])
                began = time.perf_counter()
                for groups in batches:
                    call(memory, groups)
                taken[size][what].append((time.perf_counter() - began) / len(batches) / BATCH)
    return {
        size: {what: 1e6 * statistics.median(seconds) for what, seconds in by_what.items()}
        for size, by_what in taken.items()
    }


def hooks(n_plugins: int = 6) -> dict[str, float]:
    """Microseconds of one event hook call that reaches every plugin, and of a plain function call each."""
    import pluggy

    from cl_kernel.contract import hooks as hookspecs

    class Hears:
        @hookspecs.hookimpl
        def clk_event(self, event: object) -> None:
            pass

    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    hearers = [Hears() for _ in range(n_plugins)]
    for i, hearer in enumerate(hearers):
        manager.register(hearer, f"p{i}")
    n = 10_000
    seconds = rounds(
        {
            "hook call": lambda: [manager.hook.clk_event(event=None, folder=None) for _ in range(n)],
            "plain calls": lambda: [[hearer.clk_event(None) for hearer in hearers] for _ in range(n)],
        },
        7,
    )
    return {name: 1e6 * statistics.median(taken) / n for name, taken in seconds.items()}


def main() -> None:
    """Measure, print and store."""
    started = start_up()
    scaling = {policy: memories(policy) for policy in POLICIES}
    called = hooks()
    rows = [
        [
            policy,
            what,
            *(scaling[policy][size][what] for size in SIZES),
            scaling[policy][SIZES[-1]][what] / scaling[policy][SIZES[0]][what],
        ]
        for policy in POLICIES
        for what in ("add", "sample", "sample of 3 groups")
    ]
    write(
        "kernel",
        "Kernel: start-up, memories, hooks",
        {"start_up": started, "memory_us_per_example": scaling, "hooks_us": called},
        [
            "## Start-up\n\nWhole processes, medians of 15 alternating rounds. Goal: `clk --help` at most 4 times.",
            table(
                ["command", "s", "times python -c pass"], [[n, v["seconds"], v["times"]] for n, v in started.items()]
            ),
            "## Memories\n\nMicroseconds per example, batches of 32, a full memory of 256-byte vectors in 50 "
            "classes that has seen twice its size. Goal: flat from 10^3 to 10^6 slots; what grows is cache misses, "
            "since 10^6 slots are 256 MB and are touched at random.",
            table(["policy", "what", *(f"10^{len(str(size)) - 1}" for size in SIZES), "10^6 / 10^3"], rows),
            "## Hook calls\n\nOne event that six plugins hear, beside calling the six functions directly. Events are "
            "emitted by the second, never by the step.",
            table(["what", "us"], list(called.items())),
        ],
        about=machine("numpy", "pluggy", "cl-kernel"),
    )


if __name__ == "__main__":
    main()

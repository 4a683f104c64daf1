"""``clk doctor``: what works here and why not."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cl_kernel.cli.console import Console
from cl_kernel.registry import Registry, discover
from cl_kernel.running.plan import distribution, importable

Handler = Callable[[Namespace, Console], int]


def doctor(parser: ArgumentParser) -> Handler:
    """Say what works here and why not."""
    parser.add_argument("--data-root", action="append", default=[], metavar="DIR")

    def handle(namespace: Namespace, console: Console) -> int:
        registry = discover()
        roots = tuple(Path(root).expanduser().resolve() for root in namespace.data_root)
        rows: list[tuple[str, str, str, str]] = []
        for owner in registry.quarantine:
            rows.append((owner.name, "plugin", "broken", owner.broken))
        for owner in registry.owners.values():
            troubles = _troubles(registry, owner.name, roots)
            rows.append(
                (owner.name, "plugin", "ok" if not troubles else "partly", f"{owner.distribution} {owner.version}")
            )
            rows += [("", name, "missing", why) for name, why in troubles]
        rows += _machine()
        console.table("", ("", "what", "status", "why, and what to do"), rows)
        console.json([dict(zip(("plugin", "what", "status", "why"), row, strict=True)) for row in rows])
        return 0

    return handle


def _troubles(registry: Registry, plugin: str, roots: tuple[Path, ...]) -> list[tuple[str, str]]:
    found: dict[str, str] = {}
    for kind, offers in registry.offers.items():
        for offer in offers:
            if offer.plugin != plugin:
                continue
            for module in getattr(offer.record, "requires", ()):
                if not importable(module):
                    found[f"{kind} {offer.record.name}"] = f"pip install {distribution(module)}"
            for asset in getattr(offer.record, "needs", ()):
                if registry.locate(asset, roots) is None:
                    found[f"{kind} {offer.record.name}"] = f"{asset.summary}; {asset.origin}; then pass --data-root DIR"
    return list(found.items())


def _machine() -> list[tuple[str, str, str, str]]:
    import os
    import shutil

    def cuda() -> str:
        return "present" if shutil.which("nvidia-smi") else "none found; everything runs on the CPU"

    rows: list[tuple[str, str, Any, str]] = [
        ("machine", "cores", str(os.cpu_count()), ""),
        ("machine", "NVIDIA GPU", cuda().split(";")[0], cuda()),
    ]
    for module, what in (
        ("torch", "PyTorch plugins"),
        ("tensorflow", "plugin recall"),
        ("matplotlib", "plots"),
        ("sklearn", "data set digits"),
        ("ray", "clk sweep --executor ray"),
        ("submitit", "clk sweep --executor slurm"),
        ("tensorboardX", "--tracker tensorboard"),
    ):
        there = importable(module)
        rows.append(
            (
                "package",
                module,
                "ok" if there else "missing",
                f"for {what}" if there else f"for {what}: pip install {distribution(module)}",
            )
        )
    return [(a, b, str(c), d) for a, b, c, d in rows]

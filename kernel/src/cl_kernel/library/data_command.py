"""``clk data list|prepare``."""

from __future__ import annotations

import contextlib
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cl_kernel.cli.console import Console
from cl_kernel.contract.errors import BadSetting
from cl_kernel.registry import Registry, discover

Handler = Callable[[Namespace, Console], int]


def data(parser: ArgumentParser) -> Handler:
    """List data sets with what is missing, or prepare one: converted once, a no-op when repeated."""
    parser.add_argument("action", choices=("list", "prepare"))
    parser.add_argument("name", nargs="?", default="", help="data set to prepare, PLUGIN:NAME")
    parser.add_argument(
        "--data-root", action="append", default=[], metavar="DIR", help="where raw data lies; repeatable"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="assignments")
    parser.add_argument("--profile", default="paper")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--n-workers", type=int, default=2)

    def handle(namespace: Namespace, console: Console) -> int:
        registry = discover()
        roots = tuple(Path(root).expanduser().resolve() for root in namespace.data_root)
        if namespace.action == "list":
            return _list(registry, roots, console)
        if not namespace.name:
            raise BadSetting(
                "no data set named", where="clk data prepare", fix="clk data prepare PLUGIN:NAME --data-root DIR"
            )
        return _prepare(registry, namespace, roots, console)

    return handle


def _list(registry: Registry, roots: tuple[Path, ...], console: Console) -> int:
    rows, content = [], []
    for offer in registry.all("dataset"):
        assets = offer.record.assets
        missing = [asset for asset in assets if registry.locate(asset, roots) is None]
        status = "embedded" if not assets else "missing" if missing else "found"
        origin = "; ".join(f"{a.name}: {a.origin or a.summary}" for a in missing)
        rows.append((offer.name, offer.record.task, status, origin, "yes" if offer.record.prepare else ""))
        content.append(
            {
                "name": offer.name,
                "task": offer.record.task,
                "status": status,
                "preparable": bool(offer.record.prepare),
                "missing": [{"asset": a.name, "files": list(a.files), "origin": a.origin} for a in missing],
            }
        )
    console.table("", ("data set", "task", "status", "missing, and where to get it", "prepare"), rows)
    console.json(content)
    return 0


def _prepare(registry: Registry, namespace: Namespace, roots: tuple[Path, ...], console: Console) -> int:
    from cl_kernel.registry import resolve
    from cl_kernel.running import session
    from cl_kernel.running import settings as config
    from cl_kernel.running.resources import Resources
    from cl_kernel.storage.cache import Cache

    def waits(kind: str, place: Path) -> None:
        console.say(f"another process prepares {offer.name}: waiting for it")

    offer, argument = registry.find("dataset", namespace.name, where=f"clk data prepare {namespace.name}")
    record = offer.record
    if not record.prepare:
        raise BadSetting(
            f"{offer.name} needs no preparation",
            where=f"clk data prepare {namespace.name}",
            fix="clk data list shows which do",
        )
    layers = [
        config.Layer(f"profile {name}", {f"dataset.{k}": v for k, v in record.profiles.get(name, {}).items()})
        for name in ("*", namespace.profile)
    ]
    if argument:
        layers.append(config.Layer(namespace.name, {f"dataset.{record.argument}": argument}))
    layers.append(config.parse_assignments(namespace.assignments))
    resolved = config.resolve_settings({"dataset": record.settings}, layers)
    resources = Resources(
        seed=namespace.seed,
        profile=namespace.profile,
        roots=roots,
        cache=Cache(session.default_cache(), on_wait=waits),
        n_workers=namespace.n_workers,
        locator=registry.locate,
    )
    with _alone(offer.name, resources):
        folder = resolve(record.prepare)(resolved.sections.get("dataset"), resources)
    console.print(f"{offer.name} is ready in {folder}")
    console.json({"dataset": offer.name, "folder": str(folder)})
    return 0


@contextlib.contextmanager
def _alone(name: str, resources: Any) -> Iterator[None]:
    """Nobody else prepares this data set below these roots meanwhile; whoever does already is waited for.

    With a cache that cannot be written nobody is kept from it: what is prepared beside the raw data needs none.
    """
    from cl_kernel.storage.cache import NotWritable

    claim = resources.cache.claimed("prepare", {"data set": name, "roots": [str(root) for root in resources.roots]})
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(NotWritable):
            stack.enter_context(claim)
        yield

"""``clk list | plugins | show | runs``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cl_kernel.cli.console import Console, duration
from cl_kernel.cli.run import add_run_arguments, request_from
from cl_kernel.contract.errors import UnknownName
from cl_kernel.registry import KINDS, describe, discover, resolve

Handler = Callable[[Namespace, Console], int]


def list_offers(parser: ArgumentParser) -> Handler:
    """List what plugins offer."""
    parser.add_argument("kind", nargs="?", default="", help=f"one of {', '.join(f'{kind}s' for kind in KINDS)}")
    parser.add_argument("--plugin", default="", metavar="NAME", help="only this plugin's")

    def handle(namespace: Namespace, console: Console) -> int:
        registry = discover()
        if namespace.plugin:
            registry.owner(namespace.plugin)
        wanted = namespace.kind.removesuffix("s")
        if wanted and wanted not in KINDS:
            raise UnknownName.of("kind", namespace.kind, [f"{kind}s" for kind in KINDS], where="clk list")
        content: dict[str, Any] = {}
        for kind in [wanted] if wanted else KINDS:
            offers = [o for o in registry.all(kind) if not namespace.plugin or o.plugin == namespace.plugin]
            content[f"{kind}s"] = [{"plugin": o.plugin, **describe(o.record)} for o in offers]
            if offers:
                console.table(
                    f"{kind}s",
                    ("name", "", "what"),
                    [(o.name, _detail(kind, o.record), o.record.summary) for o in offers],
                )
        console.json(content)
        return 0

    return handle


def _detail(kind: str, record: Any) -> str:
    match kind:
        case "dataset":
            return str(record.task) + ("" if not record.assets else ", needs data")
        case "learner":
            accepts = f", room for {', '.join(record.accepts)}" if record.accepts else ""
            return f"{' | '.join(record.takes)}{accepts}"
        case "replay":
            return str(record.kind)
        case "model":
            return str(record.framework)
        case "test":
            return ", ".join(record.aliases)
        case _:
            return ""


def plugins(parser: ArgumentParser) -> Handler:
    """List plugins, broken ones with the reason."""

    def handle(namespace: Namespace, console: Console) -> int:
        registry = discover()
        rows, content = [], []
        for owner in registry.owners.values():
            counts = {kind: sum(o.plugin == owner.name for o in offers) for kind, offers in registry.offers.items()}
            offers = ", ".join(f"{n} {kind}{'s' if n > 1 else ''}" for kind, n in counts.items() if n)
            summary = owner.about.summary if owner.about else ""
            rows.append((owner.name, f"{owner.distribution} {owner.version}", "ok", summary, offers))
            content.append(
                {
                    "name": owner.name,
                    "distribution": owner.distribution,
                    "version": owner.version,
                    "status": "ok",
                    "summary": summary,
                    "offers": counts,
                }
            )
        for owner in registry.quarantine:
            rows.append((owner.name, f"{owner.distribution} {owner.version}", "broken", owner.broken, ""))
            content.append(
                {
                    "name": owner.name,
                    "distribution": owner.distribution,
                    "version": owner.version,
                    "status": "broken",
                    "reason": owner.broken,
                }
            )
        console.table("", ("plugin", "package", "", "what", "offers"), rows)
        console.json(content)
        return 0

    return handle


def show(parser: ArgumentParser) -> Handler:
    """Show a test's settings with origins, or a run."""
    parser.add_argument("name", nargs="?", default="", help="test, run folder, or sweep file (FILE.yaml)")
    add_run_arguments(parser)

    def handle(namespace: Namespace, console: Console) -> int:
        from cl_kernel.running.plan import plan

        if namespace.name and (Path(namespace.name) / "run.json").exists():
            return _show_run(Path(namespace.name), console)
        if namespace.name.endswith((".yaml", ".yml")):
            of_sweep: Callable[[Path, Console], int] = resolve("cl_kernel.sweeps.differences:show")
            return of_sweep(Path(namespace.name), console)
        if namespace.name:
            namespace.test = namespace.name
        registry = discover()
        planned = plan(registry, request_from(namespace))
        record = planned.experiment.record if planned.experiment else None
        pieces = {section: offer.name for section, (offer, _) in planned.pieces.items()}
        flat = planned.resolved.flat()
        docs = _docs(planned)
        console.print(f"{planned.name}: {record.summary if record else 'pieces as named'}")
        console.print(
            f"profile {planned.profile}" + (f" of {', '.join(record.profiles)}" if record and record.profiles else "")
        )
        console.table("pieces", ("", "name"), [*pieces.items(), *(("metric", o.name) for o in planned.metrics)])
        console.table(
            "settings",
            ("key", "value", "from", "meaning"),
            [(key, str(value), planned.resolved.origins[key], docs.get(key, "")) for key, value in flat.items()],
        )
        if record and record.comparisons:
            console.print(f"compared with: {', '.join(record.comparisons)}")
        for expected in record.expected if record else ():
            console.print(f"published ({expected.profile}): {expected.metric} {expected.value} {expected.where}")
        console.json(
            {
                "test": planned.name,
                "profile": planned.profile,
                "pieces": pieces,
                "metrics": [o.name for o in planned.metrics],
                "comparisons": planned.comparisons,
                "settings": {
                    key: {"value": value, "from": planned.resolved.origins[key], "meaning": docs.get(key, "")}
                    for key, value in flat.items()
                },
            }
        )
        return 0

    return handle


def _docs(planned: Any) -> dict[str, str]:
    import attrs

    docs = {}
    for section, settings in planned.resolved.sections.items():
        for attribute in attrs.fields(type(settings)):
            meta = attribute.metadata
            text = meta.get("doc", "")
            text += f" [{meta['unit']}]" if meta.get("unit") else ""
            text += f" ({meta['source']})" if meta.get("source") else ""
            docs[f"{section}.{attribute.name}"] = text
    return docs


def _show_run(folder: Path, console: Console) -> int:
    from cl_kernel.cli.run import show_outcome
    from cl_kernel.running.session import Outcome
    from cl_kernel.storage.run_folder import read_json

    stored = read_json(folder / "run.json")
    console.print(
        f"{stored['test']}, profile {stored['profile']}, seed {stored['seed']}: {stored['status']}"
        + (f" ({stored['reason']})" if stored.get("reason") and stored["status"] != "finished" else "")
    )
    console.print((folder / "settings.yaml").read_text())
    if (folder / "metrics.json").exists():
        comparisons = {path.parent.name: read_json(path) for path in sorted(folder.glob("beside/*/metrics.json"))}
        show_outcome(console, Outcome(folder, read_json(folder / "metrics.json"), comparisons))
    return 0


def runs(parser: ArgumentParser) -> Handler:
    """List runs below a folder."""
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs"))

    def handle(namespace: Namespace, console: Console) -> int:
        from cl_kernel.storage.run_folder import RunFolder, read_json

        rows, content = [], []
        for path in sorted(namespace.folder.glob("**/run.json")):
            stored = read_json(path) | {"status": RunFolder(path.parent).status()}
            metrics = path.parent / "metrics.json"
            results = read_json(metrics) if metrics.exists() else {}
            first: dict[str, Any] = next(iter(results.get("metrics", {}).values()), {})
            last = (first.get("seen") or [{}])[-1]
            score = next(iter(last.values()), None)
            name = stored["test"] + (f" / {stored['label']}" if stored.get("label") else "")
            seconds = results.get("cost", {}).get("seconds")
            rows.append(
                (
                    str(path.parent),
                    name,
                    stored["profile"],
                    stored["seed"],
                    stored["status"],
                    score,
                    duration(seconds) if seconds is not None else None,
                    results.get("data", {}).get("fingerprint"),
                )
            )
            content.append(
                {
                    "folder": str(path.parent),
                    **{k: stored.get(k) for k in ("test", "label", "profile", "seed", "status")},
                    "score": score,
                    "seconds": seconds,
                    "digest": results.get("digest"),
                    "data": results.get("data"),
                }
            )
        console.table("", ("run", "test", "profile", "seed", "status", "final score", "time", "data"), rows)
        if not rows:
            console.print(f"no runs below {namespace.folder}")
        console.json(content)
        return 0

    return handle

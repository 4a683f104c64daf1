"""The command ``clk plot``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path

from cl_kernel.cli.console import Console
from cl_kernel.contract.errors import BadSetting

Handler = Callable[[Namespace, Console], int]


def plot(parser: ArgumentParser) -> Handler:
    """Draw one figure of several runs for a paper; runs that do not compare are refused with the reason."""
    from cl_kernel.reports.plot import FORMATS, KINDS

    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders, or folders of a sweep")
    parser.add_argument(
        "--kind",
        choices=KINDS,
        default="curves",
        help="curves: score over stages; forgetting over stages; matrix: after stage on test set; bytes, time: score "
        "over what it costs",
    )
    parser.add_argument("--format", choices=FORMATS, default="", help="default: by the name of --output, else pdf")
    parser.add_argument("--output", type=Path, default=None, metavar="FILE", help="default: KIND.FORMAT here")
    parser.add_argument("--width", default="single", metavar="W", help="single, double (columns of a paper), or inches")
    parser.add_argument("--metric", default="", metavar="NAME", help="metric (default: the runs' first)")
    parser.add_argument(
        "--only", action="append", default=[], metavar="ROW", help="only the method of this label; repeatable, in order"
    )
    parser.add_argument("--title", default="", help="above the figure (default: none, papers have captions)")

    def handle(namespace: Namespace, console: Console) -> int:
        from cl_kernel.reports import commands, plot

        width = plot.width_of(namespace.width)
        groups = commands.groups_of(namespace, console)
        if namespace.only:
            groups = commands.chosen(groups, namespace.only, "--only")
        plot.comparable_or_refuse(groups, namespace.kind)
        output = _output(namespace)
        plot.draw(groups, namespace.kind, output, width=width, title=namespace.title)
        console.print(f"wrote {output}")
        rows = [{"label": group.label, "seeds": sorted(group.runs)} for group in groups]
        console.json({"figure": str(output), "kind": namespace.kind, "methods": rows})
        return 0

    return handle


def _output(namespace: Namespace) -> Path:
    """The file to write.

    :raises BadSetting: for a name that says another format than ``--format``, or none that is known.
    """
    from cl_kernel.reports.plot import FORMATS

    given: Path | None = namespace.output
    if given is None:
        return Path(f"{namespace.kind}.{namespace.format or 'pdf'}")
    suffix = given.suffix.lower().lstrip(".")
    if namespace.format and suffix in FORMATS and suffix != namespace.format:
        raise BadSetting(f"{given.name} says {suffix}, --format {namespace.format}", where="--output")
    if suffix in FORMATS:
        return given
    if not namespace.format:
        raise BadSetting(f"{given.name} names no format", where="--output", fix=f"one of {', '.join(FORMATS)}")
    return given.with_name(f"{given.name}.{namespace.format}")

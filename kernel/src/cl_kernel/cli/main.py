"""The command ``clk``: parse, dispatch, turn errors into one message. No logic.

Built on argparse because ``clk --help`` has to start in a few times the interpreter's own start-up; every command
imports what it needs when it runs.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cl_kernel.commands import COMMANDS, COMPLETE

if TYPE_CHECKING:
    from cl_kernel.cli.console import Console
    from cl_kernel.contract.errors import ClkError

Handler = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    :return: exit code: 0 well, 1 a bug (with traceback), 2 something to mend, 128+n after signal n.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if "_ARGCOMPLETE" in os.environ:
        from cl_kernel.registry import resolve

        resolve(COMPLETE)()
        return 0
    if not argv or argv[0] in ("-h", "--help"):
        sys.stdout.write(_help())
        return 0
    if argv[0] in ("-V", "--version"):
        from importlib.metadata import version

        sys.stdout.write(f"clk {version('cl-kernel')}\n")
        return 0
    from cl_kernel.cli.console import Console
    from cl_kernel.contract.errors import BadInput, ClkError, Interrupted

    console = Console(as_json="--json" in argv)
    try:
        return _dispatch(argv, console)
    except ClkError as error:
        return _refused(console, error)
    except Interrupted as interrupted:
        console.say("saved; go on with: clk resume RUN")
        return 128 + interrupted.signum
    except KeyboardInterrupt:
        return 130
    except (FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        if error.filename is None:
            raise
        import logging

        logging.getLogger("cl_kernel").info("where it happened", exc_info=True)
        what = (error.strerror or type(error).__name__).lower()
        return _refused(console, BadInput(what, where=str(error.filename2 or error.filename)))
    except BrokenPipeError:
        sys.stderr.close()
        return 0


def _refused(console: Console, error: ClkError) -> int:
    """Say what has to be mended."""
    console.json({"error": type(error).__name__, "what": error.what, "where": error.where, "try": error.fix})
    console.say(f"error: {error}")
    return 2


def _dispatch(argv: list[str], console: object) -> int:
    from cl_kernel.cli.console import Console, log_to_stderr
    from cl_kernel.compatibility import renamed_flags
    from cl_kernel.registry import resolve

    assert isinstance(console, Console)
    name = argv[0]
    if name in COMMANDS:
        summary, target = COMMANDS[name]
        parser = argparse.ArgumentParser(prog=f"clk {name}", description=summary, allow_abbrev=False)
        handler = resolve(target)(parser)
    else:
        parser, handler, argv = _plugin_command(argv)
    argv = renamed_flags(argv)
    parser.add_argument("--json", action="store_true", help="print one JSON document for machines")
    parser.add_argument("--verbose", action="store_true", help="log more to stderr")
    namespace = parser.parse_args(argv[1:])
    log_to_stderr(namespace.verbose)
    return handler(namespace, console) or 0


def _plugin_command(argv: list[str]) -> tuple[argparse.ArgumentParser, Callable[..., int], list[str]]:
    from cl_kernel.contract.errors import UnknownName
    from cl_kernel.registry import discover, resolve

    registry = discover()
    owner = argv[0]
    offers = {offer.record.name: offer.record for offer in registry.offers["command"] if offer.plugin == owner}
    if not offers:
        if owner not in registry.owners:
            raise UnknownName.of(
                "command", owner, [*COMMANDS, *registry.owners], where=f"clk {owner}", fix="clk --help"
            )
        raise UnknownName(
            f"plugin {owner} has no commands of its own", where=f"clk {owner}", fix=f"clk run --plugin {owner}"
        )
    if len(argv) < 2 or argv[1] in ("-h", "--help"):
        lines = [f"usage: clk {owner} COMMAND ...", "", "commands:"]
        lines += [f"  {name:<14} {record.summary}" for name, record in offers.items()]
        sys.stdout.write("\n".join(lines) + "\n")
        raise SystemExit(0 if len(argv) >= 2 else 2)
    if argv[1] not in offers:
        raise UnknownName.of("command", argv[1], offers, where=f"clk {owner} {argv[1]}", fix=f"clk {owner} --help")
    record = offers[argv[1]]
    parser = argparse.ArgumentParser(prog=f"clk {owner} {argv[1]}", description=record.summary, allow_abbrev=False)
    return parser, resolve(record.build)(parser), argv[1:]


def _help() -> str:
    lines = ["usage: clk COMMAND ...", "", "Continual-learning experiments; every method is a plugin.", "", "commands:"]
    lines += [f"  {name:<13} {summary}" for name, (summary, _) in COMMANDS.items()]
    lines += [
        "",
        "Plugins add commands of their own: clk PLUGIN --help (installed: clk plugins).",
        "First run, with the kernel alone: clk run --dataset blobs --learner linear --replay reservoir --memory 50",
        "A plugin's default test: clk run --plugin PLUGIN.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

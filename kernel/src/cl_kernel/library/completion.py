"""``clk completion SHELL``, and the answers that the shell then asks for: commands, flags, names and settings.

Completing is argcomplete's (https://kislyuk.github.io/argcomplete/): it runs ``clk`` with ``_ARGCOMPLETE`` set and asks
the parser of the command in question, whose flags get here what plugins offer.
"""

from __future__ import annotations

import argparse
import os
import typing
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import attrs

from cl_kernel.cli.console import Console
from cl_kernel.commands import COMMANDS
from cl_kernel.contract.errors import ClkError, MissingAsset
from cl_kernel.registry import KINDS, Offer, Registry, discover, resolve
from cl_kernel.running.plan import SHORT, Request, plan
from cl_kernel.running.settings import RunOptions

Handler = Callable[[Namespace, Console], int]
Completer = Callable[..., Iterable[str]]

SHELLS = {
    "bash": 'eval "$(clk completion bash)"   # in ~/.bashrc',
    "zsh": 'eval "$(clk completion zsh)"   # in ~/.zshrc, below compinit',
    "fish": "clk completion fish > ~/.config/fish/completions/clk.fish",
}
PIECES = ("dataset", "model", "learner", "replay")


def completion(parser: ArgumentParser) -> Handler:
    """Print what a shell needs to complete clk; needs the extra ``completion``."""
    parser.add_argument("shell", choices=tuple(SHELLS), help="; ".join(f"{k}: {v}" for k, v in SHELLS.items()))

    def handle(namespace: Namespace, console: Console) -> int:
        try:
            import argcomplete
        except ImportError as error:
            raise MissingAsset(
                "clk completion needs the package argcomplete",
                where="this Python environment",
                fix="pip install argcomplete",
            ) from error
        code = argcomplete.shellcode(["clk"], shell=namespace.shell)
        console.print(code)
        console.json({"shell": namespace.shell, "code": code})
        return 0

    return handle


def answer() -> None:
    """Tell the shell how the line goes on, and end; without argcomplete it hears nothing."""
    try:
        import argcomplete
    except ImportError:
        return
    line = os.environ.get("COMP_LINE", "")
    point = int(os.environ.get("COMP_POINT", len(line)))
    words = argcomplete.split_line(line, point)[3]
    argcomplete.autocomplete(parser_for(words[1:]), default_completer=argcomplete.completers.FilesCompleter())


def parser_for(words: list[str]) -> ArgumentParser:
    """All commands by name; the one that the line begins with has its flags."""
    parser = _Parser(prog="clk", allow_abbrev=False)
    _add(parser, COMMANDS, words)
    if words[:1] and words[0] in COMMANDS:
        return parser
    registry = discover()
    for owner in registry.owners:
        offers = [offer.record for offer in registry.offers["command"] if offer.plugin == owner]
        if offers and owner != "clk":
            own = parser.commands().add_parser(owner, allow_abbrev=False)
            _add(own, {record.name: (record.summary, record.build) for record in offers}, words[1:])
    return parser


class _Parser(ArgumentParser):
    """A parser whose arguments know how they are completed."""

    _commands: argparse._SubParsersAction[_Parser] | None = None

    def commands(self) -> argparse._SubParsersAction[_Parser]:
        if self._commands is None:
            self._commands = self.add_subparsers(parser_class=_Parser)
        return self._commands

    def add_argument(self, *names: Any, **options: Any) -> argparse.Action:
        action = super().add_argument(*names, **options)
        command = self.prog.rpartition(" ")[2]
        for key in (names[0], f"{command} {names[0]}"):
            if key in COMPLETERS:
                action.completer = COMPLETERS[key]  # type: ignore[attr-defined]
        return action


def _add(parser: _Parser, commands: Mapping[str, tuple[str, str]], words: list[str]) -> None:
    for name, (summary, target) in commands.items():
        one = parser.commands().add_parser(name, help=summary, allow_abbrev=False)
        if words[:1] == [name]:
            resolve(target)(one)
            one.add_argument("--json", action="store_true", help="print one JSON document for machines")
            one.add_argument("--verbose", action="store_true", help="log more to stderr")


# ---- what may stand there ----------------------------------------------------------------------------------------


def _names(kind: str) -> Completer:
    """Pieces of a kind: by their own name where only one plugin has it, else with the plugin's."""

    def complete(prefix: str, **_: Any) -> list[str]:
        return names_of(discover(), kind, full=":" in prefix)

    return complete


def names_of(registry: Registry, kind: str, *, full: bool = False) -> list[str]:
    """Names that ``--dataset`` and others of that kind take."""
    offers = registry.all(kind)
    shared = [offer.record.name for offer in offers]
    return [offer.name if full or shared.count(offer.record.name) > 1 else offer.record.name for offer in offers]


def _plugins(**_: Any) -> list[str]:
    return list(discover().owners)


def _tests(parsed_args: Namespace, **_: Any) -> list[str]:
    wanted = getattr(parsed_args, "plugin", "")
    return [o.record.name for o in discover().all("test") if not wanted or o.plugin == wanted]


def _profiles(parsed_args: Namespace, **_: Any) -> list[str]:
    registry, test = discover(), getattr(parsed_args, "test", "")
    wanted = getattr(parsed_args, "plugin", "")
    offers = [offer for offer, _ in registry.candidates("test", test)] if test else registry.all("test")
    mine = [offer.record for offer in offers if not wanted or offer.plugin == wanted]
    return sorted({name for record in mine for name in record.profiles} | {"tiny"})


def _checks(**_: Any) -> list[str]:
    return list(resolve("cl_kernel.testing:CHECKS"))


def _settings(prefix: str, parsed_args: Namespace, **_: Any) -> list[str]:
    """``KEY=`` of the pieces that the line names, then the values of a key where they are few."""
    said = {kind: getattr(parsed_args, kind, "") or "" for kind in (*PIECES, "test", "plugin", "profile")}
    return list(assignments(discover(), said, prefix))


def _settings_of_model(prefix: str, parsed_args: Namespace, **_: Any) -> list[str]:
    registry = discover()
    found = _found(registry, "model", getattr(parsed_args, "name", None) or "")
    classes = {section: cls for offer in found for section, cls in _own("model", offer)}
    return list(_assignments(classes, prefix))


def _words(prefix: str, parsed_args: Namespace, **_: Any) -> list[str]:
    """``KEY=VALUE,VALUE`` of ``clk sweep``."""
    words = [word for word in getattr(parsed_args, "words", None) or [] if "=" in word]
    said = {key: value.split(",")[0] for key, _, value in (word.partition("=") for word in words)}
    registry, (key, equals, value) = discover(), prefix.partition("=")
    if not equals:
        keys = [f"{key}=" for key in (*PIECES, "test", "plugin", *SHORT)]
        return [*keys, *assignments(registry, said, prefix)]
    before = value.rpartition(",")[0]
    begun = f"{key}={before}," if before else f"{key}="
    if key in (*PIECES, "test"):
        return [begun + name for name in names_of(registry, key, full=":" in value.rpartition(",")[2])]
    return [begun + text.partition("=")[2] for text in assignments(registry, said, f"{key}=")]


def assignments(registry: Registry, said: Mapping[str, str], prefix: str) -> Iterator[str]:
    """Settings of the pieces named so far as ``KEY=``, or the values that the key of ``prefix`` may have."""
    yield from _assignments(_classes(registry, said), prefix)


def _assignments(classes: Mapping[str, type], prefix: str) -> Iterator[str]:
    section, _, name = prefix.partition("=")[0].partition(".")
    if "=" not in prefix:
        for part, cls in classes.items():
            yield from (f"{part}.{a.alias}=" for a in attrs.fields(cls))
    elif section in classes and name in typing.get_type_hints(classes[section]):
        yield from (f"{section}.{name}={value}" for value in _values(classes[section], name))


def _values(cls: type, name: str) -> list[Any]:
    hint, validator = typing.get_type_hints(cls)[name], getattr(attrs.fields(cls), name).validator
    if hint is bool:
        return ["true", "false"]
    return list(
        typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else getattr(validator, "options", ())
    )


def _classes(registry: Registry, said: Mapping[str, str]) -> dict[str, type]:
    """Section -> settings class: of the whole run where the line says enough for one, else of each piece named."""
    options = {key: value for key, value in said.items() if key in PIECES and value}
    try:
        whole = plan(
            registry,
            Request(
                test=said.get("test", ""),
                plugin=said.get("plugin", ""),
                profile=said.get("profile", ""),
                overrides=(("", options),) if options else (),
            ),
        )
        return {
            section: type(settings) for section, settings in whole.resolved.sections.items() if settings is not None
        }
    except ClkError:
        named = ((kind, offer) for kind, text in options.items() for offer in _found(registry, kind, text))
        return {"run": RunOptions, **{section: cls for kind, offer in named for section, cls in _own(kind, offer)}}


def _found(registry: Registry, kind: str, text: str) -> list[Offer]:
    return [offer for part in text.split("+") for offer, _ in registry.candidates(kind, part)[:1]]


def _own(kind: str, offer: Offer) -> Iterator[tuple[str, type]]:
    if (cls := offer.record.settings) is not None:
        yield (offer.record.kind if kind == "replay" else kind), cls


COMPLETERS: dict[str, Completer] = {
    **{f"--{kind}": _names(kind) for kind in (*PIECES, "metric", "tracker", "executor")},
    "model name": _names("model"),
    "data name": _names("dataset"),
    "show name": _tests,
    "list kind": lambda **_: [f"{kind}s" for kind in KINDS],
    "check-plugin name": _plugins,
    "check-plugin --only": _checks,
    "--plugin": _plugins,
    "--test": _tests,
    "--profile": _profiles,
    "--set": _settings,
    "model --set": _settings_of_model,
    "sweep words": _words,
}
"""Flag, or command and argument -> what may stand there; files where nothing else is known."""

"""Write the reference pages from the code: ``python docs/generate.py``; with ``--check`` only say what is stale.

``--changelog VERSION`` gathers the fragments of ``changelog.d`` instead.
"""

from __future__ import annotations

import argparse
import inspect
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_origin

import attrs

DOCS = Path(__file__).parent
KINDS = ("added", "changed", "fixed", "deprecated")
HEADER = "<!-- written by docs/generate.py; do not edit -->\n\n"


def hooks_page() -> str:
    """Every hook with its exact signature, then every record with its fields."""
    from cl_kernel.contract import events
    from cl_kernel.contract import hooks as hookspecs
    from cl_kernel.contract import offers as records

    parts = [
        HEADER,
        "# Hooks\n\n",
        f"Contract version {records.SPEC_VERSION}. {_paragraphs(inspect.getdoc(hookspecs) or '')}\n\n",
    ]
    for name, hook in vars(hookspecs).items():
        if not name.startswith("clk_"):
            continue
        options = hook.cl_kernel_spec
        kind = (
            "the first answer counts"
            if options["firstresult"]
            else "also heard by plugins that come later"
            if options["historic"]
            else "every plugin's answers are collected"
        )
        parts += [f"## {name}\n\n", f"```python\n{signature(name, hook)}\n```\n\n", f"*{kind}*\n\n"]
        parts.append(_paragraphs(inspect.getdoc(hook) or "") + "\n\n")
    parts.append("## Records\n\n")
    for cls in (records.Plugin, *_records(records)):
        parts += [f"### {cls.__name__}\n\n", _paragraphs(inspect.getdoc(cls) or "") + "\n\n"]
        parts.append("| field | type | default |\n| --- | --- | --- |\n")
        for attribute in attrs.fields(cls):
            kind = re.sub(r"collections\.abc\.|typing\.", "", str(attribute.type))
            parts.append(f"| `{attribute.alias}` | `{kind.replace(' | ', ' or ')}` | {_default(attribute)} |\n")
        parts.append("\n")
    parts.append("## Events\n\nHeard by `clk_event` and by trackers; none is emitted per step.\n\n")
    parts.append("| event | when | fields |\n| --- | --- | --- |\n")
    for cls in vars(events).values():
        if attrs.has(cls) and inspect.isclass(cls):
            summary = (inspect.getdoc(cls) or "").partition("\n\n")[0].replace("\n", " ")
            fields = ", ".join(f"`{attribute.name}`" for attribute in attrs.fields(cls))
            parts.append(f"| `{cls.__name__}` | {summary} | {fields} |\n")
    return "".join(parts)


def signature(name: str, hook: Callable[..., Any]) -> str:
    """A hook as a plugin writes it."""
    return re.sub(r"(: |-> )'([^']*)'", r"\1\2", f"def {name}{inspect.signature(hook)}")


def _records(module: Any) -> list[type]:
    return [
        cls
        for cls in vars(module).values()
        if inspect.isclass(cls) and attrs.has(cls) and cls.__module__ == module.__name__ and cls is not module.Plugin
    ]


def _default(attribute: attrs.Attribute[Any]) -> str:
    if attribute.default is attrs.NOTHING:
        return "required"
    if isinstance(attribute.default, attrs.Factory):
        return f"`{attribute.default.factory()!r}`"
    return f"`{attribute.default!r}`"


def _paragraphs(text: str) -> str:
    """A docstring as Markdown: double backticks single, parameters as a list."""
    text = re.sub(r":(?:class|mod|func|meth):`~?([^`]+)`", r"`\1`", text).replace("``", "`")
    text = re.sub(r"\n\s+", " ", text)
    text = re.sub(r"(?<!\n)\n(?=[^\n:])", " ", text)
    text = re.sub(r"\s*:param (\w+):", r"\n\n- `\1`:", text)
    text = re.sub(r"\s*:return:", r"\n\n- returns", text)
    text = re.sub(r"\s*:raises (\w+):", r"\n\n- raises `\1`", text)
    text = re.sub(r" (Since spec \d+\.)", r"\n\n\1", text)
    return re.sub(r"\n\n(- .*)\n\n(?=- )", r"\n\n\1\n", re.sub(r"\n\n(- .*)\n\n(?=- )", r"\n\n\1\n", text))


def cli_page() -> str:
    """Help of every command, as it is printed."""
    from cl_kernel.cli.main import COMMANDS
    from cl_kernel.registry import resolve

    os.environ["COLUMNS"] = "100"
    parts = [
        HEADER,
        "# Commands\n\n",
        "Exit codes: 0 well; 1 a task failed, or a bug with its traceback; 2 something to mend, ",
    ]
    parts.append("said in one message; 3 digests differ; 128+n after signal n, with the run saved.\n\n")
    parts.append("Every command also takes `--json` (one JSON document on stdout) and `--verbose`.\n\n")
    for name, (summary, target) in COMMANDS.items():
        parser = argparse.ArgumentParser(prog=f"clk {name}", description=summary, allow_abbrev=False)
        resolve(target)(parser)
        parts += [f"## clk {name}\n\n", f"```text\n{parser.format_help().strip()}\n```\n\n"]
    return "".join(parts)


def methods_page() -> str:
    """Every method of the library: its docstring, the file it stands in, its settings."""
    import importlib

    from cl_kernel.methods.catalogue import METHODS

    parts = [
        HEADER,
        "# Methods\n\n",
        "Every method is one file of `cl_kernel/methods`: formula, source, settings, losses and learner together. Each "
        "runs as `clk run --dataset DATA --learner clk:NAME` with any network whose last layer gives a score a class. "
        "Optimiser, rate, batch and passes mean the same and have the same defaults for all of them unless a method's "
        "own table says otherwise, so that a comparison compares methods.\n\n",
        "| method | what it is | memory |\n| --- | --- | --- |\n",
    ]
    for name, _, summary, replay in METHODS:
        parts.append(f"| [`clk:{name}`](#clk{name}) | {summary} | {f'`{replay}`' if replay else ''} |\n")
    shared: set[str] = set()
    parts.append("\n## Settings that many share\n\n")
    base = importlib.import_module("cl_kernel.methods.base")
    for cls in (base.Reading, base.Optimiser, base.Steps, base.Remembering):
        mine = [a for a in attrs.fields(cls) if a.name not in shared]
        parts.append(_settings_table(mine, inspect.getdoc(cls) or ""))
        shared |= {a.name for a in mine}
    defaults = {a.name: a.default for a in attrs.fields(base.Remembering)}
    for name, module, _, _ in METHODS:
        method = importlib.import_module(f"cl_kernel.methods.{module}")
        parts += [f"## clk:{name}\n\n", _text(inspect.getdoc(method) or "") + "\n\n"]
        parts.append(f"In `cl_kernel/methods/{module}.py`.\n\n")
        own = [a for a in attrs.fields(method.Settings) if defaults.get(a.name, attrs.NOTHING) != a.default]
        parts.append(_settings_table(own, "") if own else "")
    return "".join(parts).rstrip() + "\n"


def _text(docstring: str) -> str:
    """The paragraphs of a docstring, without that of the shapes."""
    paragraphs = [part for part in docstring.split("\n\n") if not part.startswith("Shapes:")]
    return "\n\n".join(_paragraphs(part) for part in paragraphs)


def _settings_table(fields: Sequence[attrs.Attribute[Any]], title: str) -> str:
    rows = [f"| `{a.name}` | {a.metadata['doc']} | {_default(a)} |\n" for a in fields]
    return (
        (f"{title}\n\n" if title else "")
        + "| setting | meaning | default |\n| --- | --- | --- |\n"
        + "".join(rows)
        + "\n"
    )


def interfaces_page() -> str:
    """What the kernel and the pieces expect of each other, the samples' fields, and every public name."""
    import cl_kernel
    from cl_kernel.contract import interfaces, stream

    parts = [HEADER, "# Interfaces\n\n", _paragraphs(inspect.getdoc(interfaces) or "") + "\n\n"]
    parts.append(
        "These are protocols (`typing.Protocol`): a class that has the methods is one, nothing is derived from. Those "
        "of the table below are imported as `from cl_kernel import Samples`; before contract 2 the module was called "
        "`cl_kernel.protocols`, which still works.\n\n"
    )
    for cls in _classes(interfaces):
        parts += _class(cls)
    parts.append("## Streams\n\n")
    for cls in _classes(stream):
        parts += _class(cls)
    parts.append("## Public names\n\n`from cl_kernel import NAME`; what is not here may change at any time.\n\n")
    parts.append("| name | what |\n| --- | --- |\n")
    for name in cl_kernel.__all__:
        parts.append(f"| `{name}` | {_summary(getattr(cl_kernel, name))} |\n")
    return "".join(parts)


def torch_page() -> str:
    """Every public function and class of ``cl_kernel.torch``, module by module."""
    import importlib
    import pkgutil

    import cl_kernel.torch

    parts = [HEADER, "# cl_kernel.torch\n\n", _paragraphs(inspect.getdoc(cl_kernel.torch) or "") + "\n\n"]
    for found in sorted(pkgutil.iter_modules(cl_kernel.torch.__path__), key=lambda module: module.name):
        module = importlib.import_module(f"cl_kernel.torch.{found.name}")
        parts += [f"## cl_kernel.torch.{found.name}\n\n", _paragraphs(inspect.getdoc(module) or "") + "\n\n"]
        for name, value in vars(module).items():
            if name.startswith("_") or getattr(value, "__module__", "") != module.__name__:
                continue
            if inspect.isclass(value):
                parts += _class(value)
            elif inspect.isfunction(value):
                parts += _function(name, value)
    return "".join(parts)


def _classes(module: Any) -> list[type]:
    """Public classes that a module defines, in its order."""
    found = [value for value in vars(module).values() if inspect.isclass(value)]
    return [cls for cls in found if cls.__module__ == module.__name__ and not cls.__name__.startswith("_")]


def _class(cls: type) -> list[str]:
    parts = [f"### {cls.__name__}\n\n", _paragraphs(inspect.getdoc(cls) or "") + "\n\n"]
    if attrs.has(cls):
        fields = [a for a in attrs.fields(cls) if a.init and not a.name.startswith("_")]
        parts.append("| field | type | default |\n| --- | --- | --- |\n")
        parts += [f"| `{a.name}` | `{_type(a.type)}` | {_default(a)} |\n" for a in fields] + ["\n"]
    for name, value in vars(cls).items():
        function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        shown = name in ("__init__", "__len__") or not name.startswith("_")
        written = (
            shown and inspect.isfunction(function) and inspect.getsourcefile(function) == inspect.getsourcefile(cls)
        )
        if written and not (name == "__init__" and attrs.has(cls)):
            parts += _function(name, function, "" if not isinstance(value, property) else "property ")
    return parts


def _function(name: str, function: Callable[..., Any], what: str = "") -> list[str]:
    text = _paragraphs(inspect.getdoc(function) or "") if name != "__init__" else ""
    return [f"```python\n{what}{signature(name, function)}\n```\n\n", *([text + "\n\n"] if text else [])]


def _type(kind: Any) -> str:
    return re.sub(r"collections\.abc\.|typing\.", "", str(getattr(kind, "__name__", kind))).replace(" | ", " or ")


def _summary(value: Any) -> str:
    """First sentence of what a name is, from its docstring; a constant is its value, an alias what it stands for."""
    if isinstance(value, int) or value is Any or get_origin(value) is not None:
        return f"`{_type(str(value))}`"
    first = (inspect.getdoc(value) or "").partition("\n\n")[0].replace("\n", " ")
    return re.sub(r":\w+:`~?([^`]+)`", r"`\1`", first).replace("``", "`").replace("|", "\\|")


PAGES: dict[str, Callable[[], str]] = {
    "reference/hooks.md": hooks_page,
    "reference/cli.md": cli_page,
    "reference/interfaces.md": interfaces_page,
    "reference/torch.md": torch_page,
    "methods.md": methods_page,
}


def gather_changes(version: str, root: Path) -> str:
    """Put the fragments of ``changelog.d`` at the top of the changelog and remove them.

    :return: the new section.
    """
    fragments = sorted((root / "changelog.d").glob("*.*.md"))
    if unknown := [path.name for path in fragments if path.name.split(".")[-2] not in KINDS]:
        raise SystemExit(f"fragments of an unknown kind: {', '.join(unknown)}; kinds: {', '.join(KINDS)}")
    section = f"## {version}\n"
    for kind in KINDS:
        mine = [path for path in fragments if path.name.split(".")[-2] == kind]
        if mine:
            lines = [re.sub(r"\s*\n\s*", " ", path.read_text().strip()) for path in mine]
            section += f"\n### {kind.capitalize()}\n\n" + "".join(f"- {line}\n" for line in lines)
    changelog = root / "CHANGELOG.md"
    before, _, after = changelog.read_text().partition("\n## ")
    changelog.write_text(f"{before.rstrip()}\n\n{section}" + (f"\n## {after}" if after else ""))
    for path in fragments:
        path.unlink()
    return section


def main(argv: list[str] | None = None) -> int:
    """Write, or check, the pages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--changelog", default="", metavar="VERSION")
    namespace = parser.parse_args(argv)
    if namespace.changelog:
        sys.stdout.write(gather_changes(namespace.changelog, DOCS.parent))
        return 0
    stale = []
    for name, make in PAGES.items():
        path, text = DOCS / name, make()
        if not path.exists() or path.read_text() != text:
            stale.append(name)
            if not namespace.check:
                path.parent.mkdir(exist_ok=True)
                path.write_text(text)
    if stale:
        sys.stdout.write(f"{'stale' if namespace.check else 'wrote'}: {', '.join(stale)}\n")
    return 1 if stale and namespace.check else 0


if __name__ == "__main__":
    sys.exit(main())

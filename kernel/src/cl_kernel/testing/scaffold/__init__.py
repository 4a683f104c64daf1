"""What ``clk new-plugin`` writes: a package that already runs, learns and passes the conformance kit."""

from __future__ import annotations

import re
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from cl_kernel.contract.errors import BadInput, UnknownName

_NAME = re.compile(r"cl-plugin-[a-z][a-z0-9]*(-[a-z0-9]+)*\Z")


KINDS = {"vectors": "a method in numpy on vectors", "images": "a network and a method in PyTorch on images"}
"""Folder of templates -> what the package holds."""


def write_plugin(name: str, output: Path = Path(), kind: str = "vectors") -> Path:
    """Write the package ``name`` into a folder of that name.

    :param name: ``cl-plugin-mine``, or just ``mine``.
    :param output: where the folder goes.
    :param kind: one of ``KINDS``.
    :raises BadInput: for a name that is none, or a folder that exists.
    :raises UnknownName: for a kind that is none.
    """
    if kind not in KINDS:
        raise UnknownName.of("kind of plugin", kind, KINDS, where="--kind")
    name = name if name.startswith("cl-plugin-") else f"cl-plugin-{name}"
    if not _NAME.match(name):
        raise BadInput(
            f"{name!r} is no package name: small letters, digits and single hyphens",
            where="clk new-plugin",
            fix="clk new-plugin cl-plugin-mine",
        )
    folder = output / name
    if folder.exists():
        raise BadInput(f"{folder} exists already", where="clk new-plugin", fix="choose another name or --output")
    plugin = name.removeprefix("cl-plugin-")
    words = {
        "DISTRIBUTION": name,
        "PACKAGE": name.replace("-", "_"),
        "PLUGIN": plugin,
        "TEST": plugin.replace("-", "_").upper(),
    }
    _write(resources.files(__package__) / "templates" / kind, folder, words)
    return folder


def _write(template: Traversable, target: Path, words: dict[str, str]) -> None:
    if template.is_dir():
        target.mkdir(parents=True)
        for part in sorted(template.iterdir(), key=lambda part: part.name):
            _write(part, target / _fill(part.name.removesuffix(".txt"), words), words)
        return
    target.write_text(_fill(template.read_text(encoding="utf-8"), words), encoding="utf-8")


def _fill(text: str, words: dict[str, str]) -> str:
    return re.sub("|".join(words), lambda match: words[match[0]], text)

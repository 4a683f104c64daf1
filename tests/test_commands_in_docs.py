"""Every command that the README, the pages and the plugins' READMEs show is one that works as it stands there.

With all plugins installed: `clk run` and `clk sweep` are planned whole, with `--dry-run`; commands that need somebody's
data are parsed, and what they name is looked up.
"""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pytest

from cl_kernel.cli.main import _plugin_command, main
from cl_kernel.commands import COMMANDS
from cl_kernel.registry import discover, resolve

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("plugins/*/README.md")), *sorted(ROOT.glob("docs/*.md"))]
OF_A_PAGE = ("mine", "more", "broken", "coin", "rings", "means", "COIN_ON_RINGS", "coin_on_rings", "clk:NAME")
"""Plugins and pieces that a page lets the reader write; the test of the pages runs those commands."""
ANY = re.compile(r"\b(NAME|TEST|PLUGIN|FILE|DATA)\b")


def commands_of(text: str) -> list[str]:
    """Commands in blocks of shell, continued lines joined, remarks cut; those in running text when they are whole."""
    found = []
    for block in re.findall(r"```(?:sh|bash|console)[^\n]*\n(.*?)```", text, re.DOTALL):
        lines = block.replace("\\\n", " ").splitlines()
        found += [part.strip() for line in lines for part in re.sub(r"\s#.*", "", line).split(";")]
    found += re.findall(r"`(clk (?:run|data|sweep|show|list) [^`\n]*)`", text)
    return [line.removeprefix("$ ") for line in found if line.removeprefix("$ ").startswith("clk ")]


CASES = sorted({(page.relative_to(ROOT).as_posix(), line) for page in PAGES for line in commands_of(page.read_text())})
MARKED = [case for case in CASES if not set(re.split(r"[\s:]+", case[1])) & set(OF_A_PAGE)]


def test_pages_show_commands():
    assert len(MARKED) > 80


def parsed(words: list[str]) -> argparse.Namespace:
    if words[0] in COMMANDS:
        parser = argparse.ArgumentParser(prog=f"clk {words[0]}", allow_abbrev=False)
        resolve(COMMANDS[words[0]][1])(parser)
    else:
        parser, _, words = _plugin_command(words)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(words[1:])


@pytest.mark.parametrize(("page", "line"), MARKED, ids=[f"{page}: {line}" for page, line in MARKED])
def test_a_command_of_a_page_works(page, line, tmp_path, monkeypatch):
    monkeypatch.delenv("CLK_PLUGINS", raising=False)
    monkeypatch.setenv("CLK_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(ROOT)
    words = [
        str(tmp_path) if word in ("DIR", "/data") else "0" if word == "S" else word for word in shlex.split(line)[1:]
    ]
    if words in (["run"], ["show"], ["sweep"], ["report"], ["list"], ["new-plugin"]) or (
        "..." in line and words[0] == "run"
    ):
        return
    if ANY.search(line) or words[0] not in ("run", "sweep", "show", "list", "plugins", "data"):
        if not (words[0] in COMMANDS or len(words) > 1) or "{" in line:
            return
        if not (re.search(r"`clk [^`]*`", line) or len(words) == 1):
            parsed(words)
        return
    if words[0] == "data" and "prepare" in words:
        for name in re.sub(r"butd:\{(.*)\}", lambda m: " ".join(f"butd:{n}" for n in m[1].split(",")), line).split():
            if ":" in name:
                discover().find("dataset", name)
        return
    if words[0] == "sweep" and not Path(words[1]).exists():
        parsed(words)
        return
    more = ["--dry-run"] if words[0] in ("run", "sweep") and "--dry-run" not in words else []
    assert main([*words, *more]) == 0, line

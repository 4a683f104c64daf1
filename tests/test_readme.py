"""What the README says is true: its plugin runs, its commands exist, it stays one screenful."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from cl_kernel.cli.main import COMMANDS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_it_is_at_most_150_lines():
    assert len(README.splitlines()) <= 150


def test_its_plugin_of_one_file_passes_the_kit_and_runs_as_written(clk):
    source = blocks("python")[0]
    assert len([line for line in source.splitlines() if line.strip()]) <= 27
    entry = tomllib.loads(blocks("toml")[0])["project"]["entry-points"]["cl_kernel"]
    assert entry == {"coin": "cl_plugin_coin"}
    clk.add_plugin("coin", source.replace("cl_plugin_coin:", "plugin_coin_1_0:"))
    clk("run", "--dataset", "blobs", "--learner", "linear", "--replay", "coin", "--memory", "30", CLK_PLUGINS="coin")
    clk("check-plugin", "coin", CLK_PLUGINS="coin")


@pytest.mark.parametrize("name", sorted(set(re.findall(r"^clk ([a-z-]+)", "\n".join(blocks("sh")), re.MULTILINE))))
def test_its_commands_exist(name):
    assert name in COMMANDS


def test_its_links_and_pictures_are_there():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_its_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`?make ([a-z-]+)", README):
        assert re.search(rf"^{target}[a-z -]*:", makefile, re.MULTILINE), target

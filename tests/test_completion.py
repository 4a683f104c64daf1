"""Completion: a real bash asks ``clk`` how lines go on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cl_kernel.commands import COMMANDS
from cl_kernel.library import completion
from cl_kernel.registry import discover

pytest.importorskip("argcomplete")
ASK = """
eval "$(clk completion bash)"
while read -r -u 3 line; do
    COMP_LINE="$line" COMP_POINT=${#line} COMP_TYPE=9
    COMP_LINE="${COMP_LINE/_END_/}" COMP_POINT=${#COMP_LINE}
    COMPREPLY=()
    _python_argcomplete clk
    printf '%s\\n' "$(printf '%s|' "${COMPREPLY[@]}")"
done
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose ``clk`` is this one."""
    folder = tmp_path_factory.mktemp("bin")
    clk = folder / "clk"
    clk.write_text(f"#!{sys.executable}\nimport sys\nfrom cl_kernel.cli.main import main\nsys.exit(main())\n")
    clk.chmod(0o755)
    return folder


def completed(lines: list[str], folder: Path, **environment: str) -> list[list[str]]:
    """What bash offers at the end of each line; ``_END_`` keeps a space at the end."""
    read, write = os.pipe()
    os.write(write, "".join(f"{line}_END_\n" for line in lines).encode())
    os.close(write)
    own = {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "CLK_PLUGINS": "", **environment}
    done = subprocess.run(
        ["bash", "-c", f"exec 3<&{read}\n{ASK}"],
        env=own, pass_fds=[read], capture_output=True, text=True, check=True, cwd=folder,
    )  # fmt: skip
    os.close(read)
    return [line.rstrip("|").split("|") for line in done.stdout.splitlines()]


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_offers_commands_flags_names_and_settings(folder: Path) -> None:
    lines = {
        "clk res": ["resume "],
        "clk run --dataset bl": ["blobs "],
        "clk run --dataset blobs --learner linear --set learner.": ["learner.lr=", "learner.batch_size="],
        "clk sweep learner=linear,": ["linear,linear", "linear,er"],
        "clk check-plugin cl": ["clk "],
        "clk list metr": ["metrics "],
        "clk run --learner nosuch --set run.see": ["run.seed="],
    }
    for (line, wanted), offered in zip(lines.items(), completed(list(lines), folder), strict=True):
        assert set(wanted) <= set(offered), (line, offered)
        assert len(offered) < 60


def test_values_are_offered_where_they_are_few() -> None:
    registry = discover(only=())
    said = {"dataset": "blobs", "learner": "er"}
    assert "learner.optimizer=adam" in list(completion.assignments(registry, said, "learner.optimizer="))
    assert list(completion.assignments(registry, said, "learner.lr=")) == []
    assert list(completion.assignments(registry, said, "nosuch.lr=")) == []


def test_every_command_can_be_completed() -> None:
    for name in COMMANDS:
        parser = completion.parser_for([name, ""])
        assert name in parser.commands().choices


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_the_code_for_each_shell_is_printed(shell: str, clk) -> None:
    assert "_ARGCOMPLETE" in clk("completion", shell).stdout


def test_without_its_package_it_says_what_to_install_and_shells_hear_nothing(clk, blocked) -> None:
    absent = blocked("argcomplete")
    told = json.loads(clk("completion", "bash", "--json", code=2, **absent).stdout)
    assert told["try"] == "pip install argcomplete"
    silent = clk("ru", code=0, **absent, _ARGCOMPLETE="1", COMP_LINE="clk ru", COMP_POINT="6")
    assert (silent.stdout, silent.stderr) == ("", "")

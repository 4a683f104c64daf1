"""``clk new-plugin`` writes a package that can be built and installed, learns, and passes the kit and its own tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cl_kernel.contract.errors import BadInput
from cl_kernel.testing.scaffold import write_plugin


def installed(folder: Path, resources: Path) -> dict[str, str]:
    """Environment in which the package is importable with its entry point, as an editable install leaves it."""
    name = folder.name
    info = resources / f"{name.replace('-', '_')}-0.1.0.dist-info"
    info.mkdir(parents=True)
    readme = (folder / "README.md").read_text()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n\n{readme}")
    plugin = name.removeprefix("cl-plugin-")
    (info / "entry_points.txt").write_text(f"[cl_kernel]\n{plugin} = {name.replace('-', '_')}.plugin\n")
    path = os.pathsep.join([str(resources), str(folder / "src")])
    return {**os.environ, "PYTHONPATH": path, "CLK_PLUGINS": plugin, "CLK_CACHE": str(resources / "cache")}


def test_a_new_plugin_passes_its_own_tests_and_the_kit(tmp_path: Path) -> None:
    folder = write_plugin("cl-plugin-my-idea", tmp_path)
    environment = installed(folder, tmp_path / "site")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)],
        capture_output=True, text=True, env=environment, cwd=folder, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    checked = subprocess.run(
        [sys.executable, "-m", "cl_kernel.cli.main", "check-plugin", "my-idea", "--only", "loads"],
        capture_output=True, text=True, env=environment, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout[-3000:]
    assert "0 failed" in checked.stdout


def test_a_new_plugin_is_formatted_and_leaves_no_placeholder(tmp_path: Path) -> None:
    folder = write_plugin("idea", tmp_path)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"pyproject.toml", "README.md", "plugin.py", "train.py", "test_contract.py"}
    for path in files:
        assert not [w for w in ("PACKAGE", "PLUGIN", "DISTRIBUTION", "TEST ") if w in path.read_text()], path
        assert path.suffix != ".txt"


@pytest.mark.parametrize("name", ["Mine", "cl-plugin-", "a--b", "with space", "../up", "cl_plugin_x"])
def test_a_name_that_is_none_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is no package name"):
        write_plugin(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_exists_is_not_overwritten(tmp_path: Path) -> None:
    write_plugin("idea", tmp_path)
    with pytest.raises(BadInput, match="exists already"):
        write_plugin("cl-plugin-idea", tmp_path)

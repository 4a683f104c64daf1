"""``clk new-plugin`` writes a package that can be built and installed, learns, and passes the kit and its own tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cl_kernel.contract.errors import BadInput, UnknownName
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


@pytest.mark.parametrize("kind", ["vectors", pytest.param("images", marks=pytest.mark.slow)])
def test_a_new_plugin_passes_its_own_tests_and_the_kit(kind: str, tmp_path: Path) -> None:
    folder = write_plugin("cl-plugin-my-idea", tmp_path, kind)
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


@pytest.mark.parametrize(("kind", "own"), [("vectors", {"train.py"}), ("images", {"network.py", "method.py"})])
def test_a_new_plugin_is_formatted_and_leaves_no_placeholder(kind: str, own: set[str], tmp_path: Path) -> None:
    folder = write_plugin("idea", tmp_path, kind)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"pyproject.toml", "README.md", "plugin.py", "test_contract.py", *own}
    for path in files:
        assert not [w for w in ("PACKAGE", "PLUGIN", "DISTRIBUTION", "TEST ") if w in path.read_text()], path
        assert path.suffix != ".txt"


@pytest.mark.parametrize("name", ["Mine", "cl-plugin-", "a--b", "with space", "../up", "cl_plugin_x"])
def test_a_name_that_is_none_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is no package name"):
        write_plugin(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_network_and_the_method_of_a_new_plugin_run_with_pieces_of_others(tmp_path: Path) -> None:
    environment = installed(write_plugin("pics", tmp_path, "images"), tmp_path / "site")
    short = ["--set", "dataset.n_train=20", "--set", "dataset.n_stages=2", "--memory", "20", "--no-comparisons"]
    run = [sys.executable, "-m", "cl_kernel", "run", "--json", *short]
    for words in (["--dataset", "blobs", "--learner", "pics:weighted"], ["--learner", "er", "--model", "pics:small"]):
        data = [] if "--dataset" in words else ["--dataset", "pics:stripes"]
        done = subprocess.run([*run, *data, *words], capture_output=True, text=True, env=environment, cwd=tmp_path)
        assert done.returncode == 0, done.stderr


def test_a_kind_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="did you mean images"):
        write_plugin("idea", tmp_path, "image")
    assert list(tmp_path.iterdir()) == []


def test_what_exists_is_not_overwritten(tmp_path: Path) -> None:
    write_plugin("idea", tmp_path)
    with pytest.raises(BadInput, match="exists already"):
        write_plugin("cl-plugin-idea", tmp_path)

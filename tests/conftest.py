"""Fixtures of the kernel's tests: plugins made on the fly, and the real command line in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attrs import define


@define
class CommandLine:
    """Runs ``clk`` in a fresh process with its own cache, working folder and extra plugins."""

    folder: Path
    plugins: Path
    environment: dict[str, str]

    def add_plugin(self, name: str, source: str, version: str = "1.0") -> None:
        """Install a one-file plugin with one entry point, as pip would leave it."""
        module = f"plugin_{name}_{version.replace('.', '_')}"
        (self.plugins / f"{module}.py").write_text(textwrap.dedent(source))
        info = self.plugins / f"{module}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[cl_kernel]\n{name} = {module}\n")

    def start(self, *arguments: object, **environment: str) -> subprocess.Popen[str]:
        """Start ``clk`` and return at once."""
        return subprocess.Popen(
            [sys.executable, "-m", "cl_kernel.cli.main", *map(str, arguments)],
            cwd=self.folder,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments: object, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run ``clk`` to its end and check its exit code."""
        process = self.start(*arguments, **environment)
        out, err = process.communicate(timeout=300)
        assert process.returncode == code, f"exit {process.returncode}, expected {code}\n{out}\n{err}"
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def json(self, *arguments: object, **environment: str) -> object:
        """Run ``clk ... --json`` and read what it prints."""
        return json.loads(self(*arguments, "--json", **environment).stdout)


@pytest.fixture
def clk(tmp_path: Path) -> CommandLine:
    """The command line, with only built-in pieces unless a test adds plugins."""
    plugins = tmp_path / "site"
    plugins.mkdir()
    environment = {
        **os.environ,
        "PYTHONPATH": str(plugins),
        "CLK_CACHE": str(tmp_path / "cache"),
        "CLK_PLUGINS": "mine,other,broken,late,twin",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    return CommandLine(tmp_path, plugins, environment)


@pytest.fixture
def blocked(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Environment in which importing the named packages raises."""

    def block(*names: str) -> dict[str, str]:
        folder = tmp_path / "blocked"
        folder.mkdir(exist_ok=True)
        (folder / "sitecustomize.py").write_text(
            textwrap.dedent(f"""
            import sys

            class Blocker:
                def find_spec(self, name, path=None, target=None):
                    if name.partition(".")[0] in {names!r}:
                        raise ImportError(f"{{name}} is blocked in this test")

            sys.meta_path.insert(0, Blocker())
            """)
        )
        return {"PYTHONPATH": f"{folder}{os.pathsep}{tmp_path / 'resources'}"}

    return block


@pytest.fixture(scope="session")
def of_tests() -> Callable[[str], Any]:
    """Modules of the plugins' tests by their path below ``plugins/``: they write data in the published forms."""

    def load(file: str) -> Any:
        path = Path(__file__).parent.parent / "plugins" / file
        name = f"of_{path.parts[-3]}_{path.stem}"
        if name not in sys.modules:
            spec = importlib.util.spec_from_file_location(name, path)
            assert spec is not None and spec.loader is not None
            sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules[name])
        return sys.modules[name]

    return load


@pytest.fixture(scope="session")
def finished_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of six finished runs: softmax regression with and without replay, three seeds each."""
    from cl_kernel import Request, discover, plan, run_plan

    base = tmp_path_factory.mktemp("finished")
    registry = discover(only=())
    for replay in ("none", "reservoir"):
        for seed in range(3):
            values = {
                "dataset": "blobs",
                "learner": "linear",
                "replay": replay,
                "run.memory": "1200B",
                "dataset.n_train": 30,
                "run.seed": seed,
                "run.plots": False,
            }
            planned = plan(registry, Request(overrides=(("test", values),)))
            run_plan(registry, planned, base / f"{replay}-{seed}")
    return base

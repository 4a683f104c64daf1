"""``clk data prepare`` of one data set by two processes at once: one works, the other waits and uses what it made.

Raw data in the published forms are generated; the generators are those of the plugins' own tests.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cl_kernel.cli.main import main

TWO = multiprocessing.get_context("fork")
Write = Callable[[Path, Callable[[str], Any]], object]
"""Writes raw data below a folder, with the modules of the plugins' tests."""


def nothing(root: Path, of_tests: Any) -> None:
    """For data that come along."""


def crumb(name: str) -> Write:
    return lambda root, of_tests: of_tests("crumb/tests/crumb_trees.py").TREES[name](root)


def emnist(root: Path, of_tests: Any) -> None:
    of_tests("butd/tests/test_published_forms.py").write_idx(root / "gzip", packed=True)


def omniglot(root: Path, of_tests: Any) -> None:
    of_tests("butd/tests/test_promise.py").omniglot(root, {"Small": 7, "Middle": 8, "Large": 9})


SMALL_GRID = ("dataset.n_train=40", "dataset.n_test=12", "dataset.directions=[right,left]")
CASES: dict[str, tuple[Write, tuple[str, ...]]] = {
    "butd:digits": (nothing, ("dataset.n_train=40", "dataset.n_test=12", "dataset.n_val=12")),
    "butd:digits-grid": (nothing, SMALL_GRID),
    "butd:emnist-grid": (emnist, SMALL_GRID),
    "butd:omniglot": (omniglot, ("dataset.n_train=20", "dataset.n_test=6")),
    "crumb:cifar100": (crumb("cifar100"), ()),
    "crumb:icubworldtransf": (crumb("icubworldtransf"), ()),
    "crumb:ilab2mlight": (crumb("ilab2mlight"), ()),
    "crumb:imagenet": (crumb("imagenet"), ()),
    "crumb:toybox": (crumb("toybox"), ()),
}


def prepare(words: list[str], said: Path, together: Any) -> None:
    """In a process of its own: start when the other one does, and keep what is said."""
    sys.stdout = sys.stderr = said.open("w")
    together.wait(60)
    code = main(words)
    sys.stdout.flush()
    os._exit(code)


def both(words: list[str], folder: Path) -> list[tuple[int, str]]:
    together, said = TWO.Barrier(2), [folder / f"said-{k}" for k in range(2)]
    jobs = [TWO.Process(target=prepare, args=(words, path, together)) for path in said]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(500)
    return [(job.exitcode, path.read_text()) for job, path in zip(jobs, said, strict=True)]


def contents(folder: Path) -> dict[str, bytes]:
    """What was made: everything but databases, locks and records of use."""
    left_out = (".sqlite", ".used-by", ".lock")
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and not p.name.endswith(left_out))
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_of_two_processes_one_prepares_and_the_other_uses_it(name, of_tests, tmp_path, monkeypatch, record_property):
    monkeypatch.delenv("CLK_PLUGINS", raising=False)
    write, settings = CASES[name]
    seen = []
    (tmp_path / "raw").mkdir()
    write(tmp_path / "raw", of_tests)
    for place in ("two", "one"):  # two at once, then one alone
        root, cache = tmp_path / place / "data", tmp_path / place / "cache"
        shutil.copytree(tmp_path / "raw", root)
        monkeypatch.setenv("CLK_CACHE", str(cache))
        words = ["data", "prepare", name, "--data-root", str(root)]
        words += [word for setting in settings for word in ("--set", setting)]
        if place == "two":
            ended = both(words, tmp_path)
            assert [code for code, _ in ended] == [0, 0], ended
            ready = {line for _, text in ended for line in text.splitlines() if " is ready in " in line}
            assert len(ready) == 1, ended
            waited = [text.count("another process prepares") for _, text in ended]
            assert sum(waited) <= 1
            record_property("saw", f"{name}: {'one waited' if any(waited) else 'the second found it whole'}")
        else:
            assert main(words) == 0
        assert not [p for p in (tmp_path / place).rglob("*") if p.name.endswith((".tmp", ".part", ".lock"))]
        seen.append({**contents(cache), **contents(root)})
    two, one = seen
    assert set(two) == set(one)
    named = (".json", ".h5")  # name their own folder
    assert [path for path in two if two[path] != one[path] and not path.endswith(named)] == []


def test_whoever_comes_second_is_told_and_finds_it_made(clk, tmp_path):
    clk.add_plugin(
        "mine",
        """
        import time
        from cl_kernel import Dataset, Plugin, hookimpl

        @hookimpl
        def clk_plugin():
            return Plugin(name="mine", summary="s")

        @hookimpl
        def clk_datasets():
            return [Dataset(name="slow", summary="s", build="plugin_mine_1_0:build", task="vector -> class",
                            prepare="plugin_mine_1_0:prepare")]

        def build(settings, resources):
            raise AssertionError("preparing builds no stream")

        def prepare(settings, resources):
            made = resources.roots[0] / "made"
            if not made.exists():
                (resources.roots[0] / "begun").touch()
                while not (resources.roots[0] / "go-on").exists():
                    time.sleep(0.05)
                with made.open("x") as file:
                    file.write("1")
            return made
        """,
    )
    first = clk.start("data", "prepare", "mine:slow", "--data-root", str(tmp_path))
    while not (tmp_path / "begun").exists():
        assert first.poll() is None, first.communicate()
        time.sleep(0.02)
    second = clk.start("data", "prepare", "mine:slow", "--data-root", str(tmp_path))
    assert second.stderr is not None
    assert second.stderr.readline() == "another process prepares mine:slow: waiting for it\n"
    (tmp_path / "go-on").touch()
    (made, _), (used, _) = first.communicate(timeout=120), second.communicate(timeout=120)
    assert (first.returncode, second.returncode) == (0, 0) and made == used

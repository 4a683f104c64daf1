"""``clk cache list|prune``."""

from __future__ import annotations

import os
from pathlib import Path

from cl_kernel.storage.cache import Cache


def filled(root: Path, runs: Path) -> dict[str, Path]:
    made = {}
    for kind, run in (("base", "kept"), ("base", "gone"), ("words", "gone")):
        (runs / "kept").mkdir(parents=True, exist_ok=True)
        cache = Cache(root, user=str(runs / run))
        made[f"{kind} {run}"] = cache.make(kind, {"run": run}, lambda folder: (folder / "x").write_text("12345"))
    return made


def test_artefacts_are_listed_with_bytes_and_the_runs_that_used_them(clk, tmp_path):
    made = filled(Path(clk.environment["CLK_CACHE"]), tmp_path / "r")
    found = {one["folder"]: one for one in clk.json("cache", "list")}
    assert set(found) == {str(path) for path in made.values()}
    one = found[str(made["base gone"])]
    assert one["runs"] == [str(tmp_path / "r" / "gone")] and one["inputs"] == {"run": "gone"} and one["bytes"] > 5


def test_what_no_run_uses_or_nobody_used_for_long_is_removed_and_nothing_else(clk, tmp_path):
    made = filled(Path(clk.environment["CLK_CACHE"]), tmp_path / "r")
    assert "nothing says which" in clk("cache", "prune", code=2).stderr
    clk("cache", "prune", "--unused", "--dry-run")
    assert all(path.exists() for path in made.values())
    clk("cache", "prune", "--unused", "--kind", "base")
    assert [name for name, path in made.items() if path.exists()] == ["base kept", "words gone"]
    os.utime(made["words gone"] / ".used-by", (0, 0))
    clk("cache", "prune", "--older-than", "30")
    assert [name for name, path in made.items() if path.exists()] == ["base kept"]

"""Arms and comparison runs read no picture again whose maps another run computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from crumb_trees import picture, put, weights

from cl_kernel import run
from cl_plugin_crumb.data import images

SHORT = {
    "dataset.size": 64,
    "model.size": 64,
    "dataset.in_memory": False,
    "learner.first_epochs": 1,
    "learner.start": "none",
    "learner.write_tables": False,
    "run.plots": False,
    "run.device": "cpu",
}


def test_a_second_arm_decodes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLK_CACHE", str(tmp_path / "cache"))
    for side, count in (("train", 6), ("val", 2)):
        for label, name in enumerate("abcd"):
            for number in range(count):
                put(tmp_path / "data" / side / name / f"{number}.jpg", picture(10 * label + number, (40, 40), "jpg"))
    decoded = []
    reader = images.read_image
    monkeypatch.setattr(images, "read_image", lambda path, *a, **k: decoded.append(path.name) or reader(path, *a, **k))

    def arm(name: str, **more: Any) -> int:
        decoded.clear()
        model = f"crumb:squeezenet:{weights(tmp_path)}"
        settings = {**SHORT, **more}
        pieces = {"dataset": f"crumb:folder:{tmp_path / 'data'}", "model": model, "memory": "8"}
        run(plugin="crumb", test="images", output=tmp_path / name, settings=settings, comparisons=False, **pieces)
        return len(decoded)

    assert arm("first") >= 32
    assert arm("cropped", **{"learner.crop": True}) == 0
    assert arm("other extractor", **{"learner.extractor_epochs": 1}) > 0

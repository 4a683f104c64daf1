"""Every row of the README's checklist runs as it stands there, on less data."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from crumb_trees import TREES, picture, put, weights

from cl_kernel.cli.main import main

ROOT = Path(__file__).parents[3]
TEXT = (Path(__file__).parents[1] / "README.md").read_text()
ROWS = re.findall(r"^\| (\d+) \| (.*?) \| (.*) \|$", TEXT[TEXT.index("## What the original has") :], re.MULTILINE)
LONG = "arms.yaml"  # 41 runs, for which the table of the ablation stands
STEPS = ["run.plots=false", "learner.first_epochs=1"]
LESS = ["learner.pretrain_epochs=1", "learner.batch_size=64"]
TOY = ["model.base_images=20", "model.base_epochs=1"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checklist")
    for make in TREES.values():
        make(folder / "DATA")
    weights(folder / "DATA")
    for side, count in (("train", 6), ("val", 4)):
        for label, name in enumerate("abcd"):
            for number in range(count):
                put(
                    folder / "DATA" / "photos" / side / name / f"{number}.jpg",
                    picture(10 * label + number, (40, 40), "jpg"),
                )
    (folder / "plugins").symlink_to(ROOT / "plugins")
    return folder


VARIED = re.compile(r"spatial$|ewc$|cope$|core50(?= --data-root)|class_instance")
"""What the words behind ``likewise`` stand in place of."""


def spelt_out(text: str) -> list[str]:
    """Commands of a row; an option behind ``likewise`` comes on top of the command before it."""
    found: list[str] = []
    for part in text.split(";"):
        first, *others = re.findall(r"`(.*?)`", part)
        found.append(first)
        for other in others:
            more = f"{first} {other}"
            found.append(more if other.startswith("--") else VARIED.sub(other.rpartition(":")[2], first))
    return [command for command in found if LONG not in command]


def shortened(command: str) -> list[str]:
    """The words of a command, with settings for less data behind those it has."""
    words = shlex.split(command)
    if words[:2] != ["clk", "run"]:
        return words
    given = {word.partition("=")[0] for word in words}
    baseline = "--learner" in words or any(word.endswith(("-si", "-agem", "-bound")) for word in words)
    less = STEPS if baseline else [*STEPS, *LESS]
    if "remind:remind" in words:
        less = ["run.plots=false"]
    if not any(word.startswith("crumb:folder") for word in words):
        several = any(word.startswith("arm-") for word in words)  # arms are compared over batches of 100 test images
        less = [*less, *TOY, f"dataset.n_objects={1 + several}"]
    return [
        *words,
        "--no-comparisons",
        *(part for word in less if word.partition("=")[0] not in given for part in ("--set", word)),
    ]


def test_the_table_has_every_row() -> None:
    assert [int(row) for row, _, _ in ROWS] == list(range(1, 29))


def test_likewise_is_spelt_out() -> None:
    assert spelt_out("`clk run --learner crumb:ewc`, likewise `si`, `mas`; `b`") == [
        "clk run --learner crumb:ewc",
        "clk run --learner crumb:si",
        "clk run --learner crumb:mas",
        "b",
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("row", "commands"), [(row, commands) for row, _, commands in ROWS], ids=lambda v: v[:3])
def test_row(row: str, commands: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("CLK_CACHE", str(place / "cache"))
    for command in spelt_out(commands):
        expected = 130 if "run.stop_at_step" in command else 0
        assert main(shortened(command)[1:]) == expected, command

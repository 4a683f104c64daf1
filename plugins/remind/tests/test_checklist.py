"""Every row of the README's checklist runs as it stands there, on less data."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from remind_trees import WNIDS, clevr, imagenet

from cl_kernel.cli.main import main

ROOT = Path(__file__).parents[3]
TEXT = (Path(__file__).parents[1] / "README.md").read_text()
ROWS = re.findall(r"^\| (\d+) \| (.*?) \| (.*) \|$", TEXT[TEXT.index("## Checklist") :], re.MULTILINE)
NET = re.search(r"`NET` stands for `(.*?)`", TEXT, re.DOTALL).group(1)  # type: ignore[union-attr]
BASE = ["learner.base_epochs=1", "learner.replay_samples=4"]
LESS = {
    "shapes": ["dataset.n_train=16", "dataset.n_test=4", *BASE],
    "core50": ["dataset.n_frames=6", *BASE],
    "questions": ["dataset.n_train=30", "dataset.n_test=6", "dataset.n_images=100", "learner.epochs=1"],
    "images": ["dataset.base_classes=2", "dataset.increment=2", *BASE],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checklist")
    wnids = [*WNIDS, "n01494475", "n01496331"]
    imagenet(folder, folder="DATA", sizes=(40, 8), pixels=(40, 32), wnids=wnids)
    clevr(folder)
    (folder / "order.txt").write_text("\n".join([wnids[3], *wnids[:3], *wnids[4:]]) + "\n")
    words = ["what", "is", "the", "colour", "of", "how", "many", "are", "there"]
    (folder / "glove.txt").write_text("\n".join(f"{word} {' '.join(['0.1'] * 16)}" for word in words))
    (folder / "plugins").symlink_to(ROOT / "plugins")
    return folder


def shortened(command: str) -> list[str]:
    """The words of a command, with settings for less data behind those it has."""
    words = shlex.split(command.replace("NET", NET))
    if "train-base" in words:
        return [*words, "--workers", "1", "--set", "base_epochs=1"]
    if words[:2] != ["clk", "run"]:
        return words
    test = words[words.index("--test") + 1] if "--test" in words else ""
    kind = "images" if "--data-root" in words else "core50" if "core50" in test else ""
    kind = kind or ("questions" if test.startswith(("clevr", "tdiuc")) else "shapes")
    given = {word.partition("=")[0] for word in words}
    less = [word for word in LESS[kind] if word.partition("=")[0] not in given]
    return [*words, "--no-comparisons", *(part for word in ["run.plots=false", *less] for part in ("--set", word))]


def test_the_table_has_every_row() -> None:
    assert [int(row) for row, _, _ in ROWS] == list(range(1, 32))


@pytest.mark.slow
@pytest.mark.parametrize(("row", "commands"), [(row, commands) for row, _, commands in ROWS], ids=lambda v: v[:3])
def test_row(row: str, commands: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("CLK_CACHE", str(place / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(place))
    for command in re.findall(r"`((?:clk|torchrun) .*?)`", commands):
        words = shortened(command)
        if words[0] == "torchrun":
            words = [sys.executable, "-m", "torch.distributed.run", "--master-port", "29611", *words[1:]]
            assert subprocess.run(words, timeout=600, check=False).returncode == 0
        else:
            assert main(words[1:]) == (130 if "run.stop_at_step=40" in command else 0), command

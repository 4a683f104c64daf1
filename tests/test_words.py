"""A sweep in one line: what the words mean, alone and over a file, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from cl_kernel.contract.errors import BadSetting
from cl_kernel.sweeps.words import read_words


def test_one_value_is_for_all_runs_and_several_are_varied() -> None:
    spec = read_words(["dataset=folder:photos", "learner=er,slda", "memory=1.5kB", "seed=0,1,2", "dataset.n_stages=3"])
    assert spec.base == {"dataset": "folder:photos", "memory": "1.5kB", "dataset.n_stages": 3}
    assert spec.grid == {"learner": ["er", "slda"], "seed": [0, 1, 2]}
    assert spec.name == "sweep"


@pytest.mark.parametrize(
    ("word", "values"),
    [
        ("a=[right,left]", [["right", "left"]]),
        ("a=[1,2],[3]", [[1, 2], [3]]),
        ("a='folder:my, photos'", ["folder:my, photos"]),
        ("a=x=y", ["x=y"]),
        ("a=true,no", [True, False]),
        ("a=1e-3", [0.001]),
    ],
)
def test_commas_outside_brackets_and_quotes_separate_values(word: str, values: list[object]) -> None:
    spec = read_words([word, "seed=0,1"])
    found = spec.grid.get("a") or [spec.base["a"]]
    assert [float(v) if word == "a=1e-3" else v for v in found] == values


def test_words_lie_over_a_file(tmp_path: Path) -> None:
    path = tmp_path / "table.yaml"
    path.write_text("base: {learner: linear, memory: 5}\ngrid: {seed: [0, 1], replay: [ring, none]}\n")
    spec = read_words([str(path), "memory=9,10", "seed=7"])
    assert (spec.name, read_words([str(path)], "other").name) == ("table", "other")
    assert spec.base == {"learner": "linear", "seed": 7}
    assert spec.grid == {"replay": ["ring", "none"], "memory": [9, 10]}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.yaml", "b.yaml"], "are two files"),
        (["none.yaml"], "does not exist"),
        (["seed=0,1", "seed=2"], "seed is given twice"),
        (["seed="], "does not read KEY=VALUE"),
        (["learner=[er"], "does not read KEY=VALUE"),
        (["learner=er"], "nothing to vary"),
        (["=0,1"], "does not read KEY=VALUE"),
    ],
)
def test_what_cannot_be_meant_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(BadSetting, match=message):
        read_words(words)


def test_a_word_that_the_file_would_take_back_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("grid: {kept: {some: {memory: 5}}, seed: [0]}")
    with pytest.raises(BadSetting, match="memory is set by a list or a named arm"):
        read_words([str(path), "memory=9"])


def test_the_command_takes_words_and_an_unknown_key_is_named(clk) -> None:
    found = clk.json("sweep", "dataset=blobs", "learner=linear", "seed=0,1", "--name", "both", "--dry-run")
    assert [task["values"] for task in found] == [{"seed": 0}, {"seed": 1}]
    assert "both" in found[0]["folder"]
    said = clk("sweep", "dataset=blobs", "learner=linear", "memry=5", "seed=0,1", code=2).stderr
    assert "memry" in said

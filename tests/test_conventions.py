"""Other libraries' figures, each row found by running that library on the same matrix; rules by hand beside them."""

from __future__ import annotations

import json
from fractions import Fraction as F
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cl_kernel.contract.errors import BadInput
from cl_kernel.reports.conventions import CONVENTIONS, SOURCES, Scores

R = np.array(
    [
        [0.90, 0.21, 0.16, 0.12, 0.31],
        [0.70, 0.85, 0.84, 0.19, 0.14],
        [0.95, 0.60, 0.80, 0.30, 0.22],
        [0.50, 0.64, 0.58, 0.93, 0.36],
        [0.55, 0.40, 0.83, 0.66, 0.88],
    ]
)
BEFORE = np.array([0.10, 0.12, 0.08, 0.11, 0.09])
SIZES = np.array([100, 200, 300, 100, 400])
JOINT = np.array([0.92, 0.9, 0.88, 0.94, 0.9])
ALONE = np.array([0.9, 0.8, 0.85, 0.9, 0.95])
EQUAL, UNEQUAL = "test sets of equal size", "test sets of 100, 200, 300, 100, 400"
# library, its version, test sets, what it prints; found by running it
RUN: list[tuple[str, str, str, dict[str, float]]] = [
    (
        "avalanche",
        "avalanche-lib 0.6.0",
        EQUAL,
        {"average_accuracy": 0.664, "forgetting": 0.26, "backward_transfer": -0.26, "forward_transfer": 0.3275},
    ),
    ("avalanche", "avalanche-lib 0.6.0", UNEQUAL, {"average_accuracy": 0.729091}),
    (
        "continuum",
        "continuum 1.2.7",
        EQUAL,
        {
            "average_accuracy": 0.664,
            "accuracy_A": 0.718,
            "forgetting": 0.205,
            "backward_transfer": -0.133,
            "remembering": 0.867,
            "forward_transfer": 0.641,
        },
    ),
    ("continuum", "continuum 1.2.7", UNEQUAL, {"average_accuracy": 0.729091}),
    (
        "mammoth",
        "Mammoth 0.2.2, commit e75a491",
        EQUAL,
        {"average_accuracy": 0.664, "forgetting": 0.2825, "backward_transfer": -0.26, "forward_transfer": 0.0},
    ),
    ("mammoth", "Mammoth 0.2.2, commit e75a491", UNEQUAL, {"average_accuracy": 0.664}),
    ("pycil", "PyCIL, commit 87cc411", EQUAL, {"average_accuracy": 0.75696, "forgetting": 0.28}),
    ("pycil", "PyCIL, commit 87cc411", UNEQUAL, {"average_accuracy": 0.76462}),
    (
        "clarena",
        "clarena 1.1.0",
        EQUAL,
        {
            "average_accuracy": 0.664,
            "backward_transfer": -0.26,
            "forward_transfer": -0.01,
            "forgetting_rate": -0.303357,
        },
    ),
    (
        "gmumcl",
        "gmumcl 1.1.0",
        EQUAL,
        {
            "average_accuracy": 0.664,
            "average_incremental_accuracy": 0.756967,
            "old_accuracy": 0.61,
            "new_accuracy": 0.88,
            "forgetting": 0.28,
            "backward_transfer": -0.26,
            "forward_transfer": -0.005,
        },
    ),
    (
        "renate",
        "renate 0.5.2",
        EQUAL,
        {"average_accuracy": 0.664, "forgetting": 0.2825, "backward_transfer": -0.26, "forward_transfer": 0.3275},
    ),
    ("renate", "renate 0.5.2", UNEQUAL, {"micro_average_accuracy": 0.729091, "average_accuracy": 0.664}),
    (
        "sequel",
        "sequel-core 0.0.2",
        EQUAL,
        {"average_accuracy": 0.664, "forgetting": -0.224, "backward_transfer": 0.224},
    ),
    (
        "pyclad",
        "pyclad 0.3.0",
        EQUAL,
        {"average_accuracy": 0.718, "backward_transfer": -0.104, "forward_transfer": 0.285},
    ),
]


def scores(sizes: str = EQUAL, **other: Any) -> Scores:
    of = None if sizes == EQUAL else SIZES
    return Scores(**{"R": R, "initial": BEFORE, "sizes": of, "joint": JOINT, "independent": ALONE} | other)


@pytest.mark.parametrize(("library", "version", "sizes", "printed"), RUN, ids=[f"{r[0]}, {r[2]}" for r in RUN])
def test_the_figure_of_a_library_that_was_run(
    library: str, version: str, sizes: str, printed: dict[str, float]
) -> None:
    assert SOURCES[library] == version
    values = CONVENTIONS[library](scores(sizes))
    for name, value in printed.items():
        assert values[name] == pytest.approx(value, abs=5e-7), name


def test_every_convention_has_its_row_and_its_source() -> None:
    assert {row[0] for row in RUN} == set(CONVENTIONS) == set(SOURCES)


def test_two_stages_that_share_nothing_by_continuum() -> None:
    values = CONVENTIONS["continuum"](Scores(R=np.eye(2)))
    assert (values["forgetting"], values["backward_transfer"], values["remembering"]) == (0.0, 0.0, 1.0)


# Four stages, in tenths: a column that only falls, one that dips and recovers, one never good, the last.
FOUR = np.array([[9, 1, 2, 0], [7, 5, 2, 1], [5, 3, 3, 1], [4, 6, 1, 8]]) / 10
BY_HAND = {
    "avalanche": {"forgetting": F(5 - 1 + 2, 30)},
    "mammoth": {"forgetting": F(5 + 0 + 2, 30)},
    "pycil": {"forgetting": F(5 + 0 + 2, 30)},
    "gmumcl": {"forgetting": F(5 + 0 + 2, 30), "forward_transfer": F(8 - 9, 30)},
    "renate": {"forgetting": F((9 - 4) + (5 - 6) + (3 - 1), 30)},
    "sequel": {"forgetting": -F((9 - 4) + 0 + (3 - 1) + 0, 40)},
    "continuum": {
        "forgetting": F((9 - 4) + (5 - 6), 30),
        "backward_transfer": F((5 - 9) + (4 - 9) + (6 - 5), 60),
        "forward_transfer": F(7 + 5 + 3 + 4 + 6 + 1, 60),
        "accuracy_A": F(9 + 12 + 11 + 19, 100),
    },
    "pyclad": {
        "backward_transfer": F((7 - 9) + (5 - 7) + (3 - 5) + (4 - 5) + (6 - 3) + (1 - 3), 60),
        "forward_transfer": F(1 + 2 + 0 + 2 + 1 + 1, 60),
        "average_accuracy": F(9 + 12 + 11 + 19, 100),
    },
    "clarena": {"backward_transfer": F(-5 + 1 - 2, 30)},
}


@pytest.mark.parametrize("library", CONVENTIONS)
def test_the_rule_of_a_library_worked_out_by_hand(library: str) -> None:
    values = CONVENTIONS[library](Scores(R=FOUR))
    for name, value in BY_HAND[library].items():
        assert values[name] == pytest.approx(float(value), abs=1e-12), name


def test_a_figure_that_needs_what_is_not_there_is_none_and_the_matrix_stays_as_it_was() -> None:
    lower = np.where(np.tri(4, dtype=bool), FOUR, np.nan)
    copy = lower.copy()
    for convention in CONVENTIONS.values():
        convention(Scores(R=lower))
        convention(Scores(R=np.array([[0.5]])))
    assert np.array_equal(lower, copy, equal_nan=True)
    assert CONVENTIONS["avalanche"](Scores(R=lower))["forward_transfer"] == 0.0
    assert CONVENTIONS["avalanche"](Scores(R=FOUR))["forward_transfer"] is None
    assert CONVENTIONS["pyclad"](Scores(R=lower))["forward_transfer"] is None
    assert CONVENTIONS["clarena"](Scores(R=FOUR))["forgetting_rate"] is None
    assert CONVENTIONS["clarena"](Scores(R=np.eye(2)))["backward_transfer"] is None
    for convention in CONVENTIONS.values():
        values = convention(Scores(R=np.full((3, 3), np.nan)))
        assert values["average_accuracy"] is None


def test_sizes_of_another_number_of_test_sets_are_refused() -> None:
    with pytest.raises(BadInput, match=r"sizes has shape \(3,\), but there are 5 test sets"):
        Scores(R=R, sizes=np.ones(3))


def test_the_command_reads_a_matrix_of_any_library_from_a_file(clk: Any) -> None:
    plain = {"matrix": R.tolist(), "initial": BEFORE.tolist(), "sizes": SIZES.tolist(), "joint": JOINT.tolist()}
    (clk.folder / "matrix.json").write_text(json.dumps(plain | {"independent": ALONE.tolist()}))
    content = clk.json("metrics", "matrix.json", "--convention", "all")
    assert set(CONVENTIONS) < set(content)
    assert content["pycil"]["average_accuracy"] == pytest.approx(0.76462)
    assert content["clarena"]["forward_transfer"] == pytest.approx(-0.01)
    assert content["clk"]["forgetting"] == pytest.approx(0.2725)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[1", "no JSON"),
        ("{}", "names no matrix"),
        ('{"matrix": [[1, 0]]}', "an accuracy matrix is square"),
        ('{"matrix": [[1]], "size": [3]}', "unknown key 'size'"),
        ('{"matrix": [["a"]]}', "no table of numbers"),
        ('{"matrix": [[1, 0], [0, 1]], "sizes": [3]}', "sizes has shape (1,), but there are 2 test sets"),
    ],
)
def test_a_file_that_holds_no_matrix_is_named(clk: Any, text: str, message: str) -> None:
    (clk.folder / "matrix.json").write_text(text)
    assert message in clk("metrics", "matrix.json", code=2).stderr


def test_other_runs_give_what_clarena_compares_with(clk: Any) -> None:
    quick = ["--dataset", "blobs", "--set", "run.initial_scores=true", "--set", "run.plots=false"]
    clk("run", "--learner", "linear", *quick, "--output", "mine")
    clk("run", "--learner", "linear", *quick, "--seed", "1", "--output", "other")
    plain = clk("metrics", "mine", "--convention", "clarena")
    assert "forward transfer needs --independent" in plain.stdout
    content = clk.json("metrics", "mine", "--convention", "clarena", "--joint", "other", "--independent", "other")
    other = clk.json("metrics", "other")["matrix"]
    own = content["matrix"]
    assert content["clarena"]["forward_transfer"] == pytest.approx(
        np.mean([own[j][j] - other[j][j] for j in range(1, 5)])
    )
    assert "is no run folder" in clk("metrics", "mine", "--joint", "nowhere", code=2).stderr


def test_the_table_of_the_documentation_is_what_the_functions_give() -> None:
    lines = (Path(__file__).parents[1] / "docs" / "conventions.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")]
    assert [row[0].strip("`") for row in rows] == sorted(CONVENTIONS)
    columns = ("average_accuracy", "forgetting", "backward_transfer", "forward_transfer")
    for name, version, *figures in rows:
        library = name.strip("`")
        assert version == SOURCES[library]
        values = CONVENTIONS[library](scores())
        for key, text in zip(columns, figures, strict=True):
            plain, _, weighed = text.rstrip(")").partition(" (")
            assert values.get(key) == (pytest.approx(float(plain), abs=5e-7) if plain else None), (library, key)
            if weighed:
                assert CONVENTIONS[library](scores(UNEQUAL))[key] == pytest.approx(float(weighed), abs=5e-7)

"""Tables on a terminal too narrow for them are listed row by row."""

from __future__ import annotations

import sys

import pytest

from cl_kernel.cli.console import Console

COLUMNS = ("run", "average incremental accuracy", "forgetting", "kept bytes")
ROWS = [("experience replay", "0.7631 ± 0.0362", "0.5296 ± 0.0756", 52800), ("fine-tuning", "0.4200", None, None)]


@pytest.mark.parametrize(("width", "listed"), [("40", True), ("120", False)])
def test_a_crowded_table_is_listed(width: str, listed: bool, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", width)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    Console().table("", COLUMNS, ROWS)
    out = capsys.readouterr().out
    assert ("  average incremental accuracy  0.7631 ± 0.0362\n" in out) is listed
    assert out.count("forgetting") == 1, "a value that is not there has no line"


def test_what_is_not_a_terminal_gets_the_table(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    Console().table("", COLUMNS, ROWS)
    assert "experience replay   0.7631 ± 0.0362" in capsys.readouterr().out


def test_a_table_of_very_many_columns_is_listed_in_a_file_too(capsys) -> None:
    columns = [f"setting {number}" for number in range(40)]
    Console().table("", columns, [columns, columns])
    assert "  setting 39  setting 39\n" in capsys.readouterr().out

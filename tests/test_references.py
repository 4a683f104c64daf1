"""What the sources say can be looked up by whoever reads them: no numbers of documents that are not public."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PRIVATE = re.compile(
    r"\bspec(ification)?s?,? (section |sec\. ?|§ ?)?\d|\bspec section|\bthe specification (says|marks|could)"
    r"|\b(DESIGN|HOUSE|STYLE|CONVENTIONS|ANCHORS)\.md|\bgolden manifest of"
)
PUBLIC = re.compile(r"[Ss]ince spec \d|hook contract \d")
"""Versions of the hook contract, which the reference of hooks explains."""
CLEAN = ("kernel/src/cl_kernel", *(f"plugins/{name}/src" for name in ("remind", "crumb", "clear", "recall")))


def private_references(text: str) -> list[str]:
    """Lines that cite what an outsider cannot open."""
    return [line.strip() for line in text.splitlines() if PRIVATE.search(PUBLIC.sub("", line))]


@pytest.mark.parametrize("package", CLEAN)
def test_sources_cite_only_what_a_reader_can_open(package: str) -> None:
    found = {
        f"{path.relative_to(ROOT)}: {line}"
        for path in (ROOT / package).rglob("*")
        if path.suffix in (".py", ".txt")
        for line in private_references(path.read_text())
    }
    assert not found, "\n".join(sorted(found))


@pytest.mark.parametrize("line", ["the lower bound (spec 4.2)", "see spec section 10", "spec, sec. 3", "DESIGN.md"])
def test_a_private_reference_is_noticed(line: str) -> None:
    assert private_references(line) == [line]


def test_a_version_of_the_contract_is_none() -> None:
    assert private_references("    Since spec 2.\n    spec = read(path)\n") == []

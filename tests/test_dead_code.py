"""What the sources define is used by the product: by other code, by name in a record, or by the documentation.

What only a test reaches is either no feature (it goes) or a feature without a command (it gets one). Reference cases of
the papers' own code call some functions that no run of ours needs; those stand in ``REFERENCE`` with the case.
"""

from __future__ import annotations

import ast
import functools
import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = [ROOT / "kernel/src/cl_kernel", *sorted(ROOT.glob("plugins/*/src/cl_plugin_*"))]
READERS = ("kernel/src", "plugins/*/src", "docs", "bench")
"""Where a use counts; a test is none, neither is what is generated from the sources."""
GENERATED = ("docs/reference", "docs/methods.md")
WORD = re.compile(r"\w+")
CALLED_BY_LIBRARIES = {
    "create_module": "importlib, on a loader",
    "is_leaf_module": "torch.fx.Tracer",
    "extra_repr": "torch.nn.Module",
    "pytest_generate_tests": "pytest",
    "test_contract": "pytest, in the class that plugins derive from",
    "do_GET": "http.server",
    "do_POST": "http.server",
    "configurable_reference": "gin.config.ParserDelegate",
    "macro": "gin.config.ParserDelegate",
    "persistent_load": "pickle.Unpickler",
}
REFERENCE = {
    "stage_shares": "GEM's memory as its authors divide it",
    "helper_train": "RECALL's names of files, read by getattr from the case",
    "AsPublished": "REMIND's order of random decisions",
    "merge_batch": "REMIND's collated batches of questions",
    "check_active": "CRUMB's loss over the columns seen",
    "adjacency": "BU-TD's labels of heads that answer about every character at once",
    "chosen_head_loss": "BU-TD's choice among heads by bits of the instruction",
}


@functools.cache
def definitions(path: Path) -> list[tuple[str, int]]:
    """Names of functions and classes of a file, without special methods and what a decorator hands on."""
    return [
        (node.name, node.lineno)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not node.name.startswith("__")
        and not any(_registers(one) for one in node.decorator_list)
    ]


def _registers(decorator: ast.expr) -> bool:
    """Whether a decorator puts the function into a list or a class: a hook, a check, a command, a validator."""
    return bool(re.search(r"hook|check|command|validator|default", ast.unparse(decorator)))


@pytest.fixture(scope="module")
def words() -> Counter[str]:
    """How often each word stands in what uses the sources; parts of names put together at run time count as written."""
    found: Counter[str] = Counter()
    for pattern in READERS:
        for place in ROOT.glob(pattern):
            for path in place.rglob("*"):
                inside = str(path.relative_to(ROOT))
                if path.suffix in (".py", ".md", ".gin", ".yaml", ".ipynb") and not inside.startswith(GENERATED):
                    found.update(WORD.findall(path.read_text()))
    for path in (ROOT / "README.md", *ROOT.glob("plugins/*/README.md")):
        found.update(WORD.findall(path.read_text()))
    return found


def unused(package: Path, words: Counter[str]) -> list[str]:
    """Where a name is defined that stands nowhere else."""
    known = {*CALLED_BY_LIBRARIES, *REFERENCE}
    prefixes = tuple(name for name in words if name.endswith("_") and len(name) > 3)
    return [
        f"{path.relative_to(ROOT)}:{line} {name}"
        for path in sorted(package.rglob("*.py"))
        for name, line in definitions(path)
        if words[name] == 1 and name not in known and not name.startswith(prefixes)
    ]


@pytest.mark.parametrize("package", SOURCES, ids=lambda path: path.name)
def test_what_is_defined_is_used_outside_of_tests(package: Path, words: Counter[str]) -> None:
    found = unused(package, words)
    assert not found, "only tests reach, or nobody does:\n" + "\n".join(found)


def test_an_unused_function_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.test_dead_code.ROOT", tmp_path)
    (tmp_path / "part.py").write_text("def nobody_calls_this(): ...\ndef used(): ...\n@hookimpl\ndef clk_hook(): ...\n")
    assert unused(tmp_path, Counter(nobody_calls_this=1, used=2, clk_hook=1)) == ["part.py:1 nobody_calls_this"]


@pytest.mark.parametrize("name", [*CALLED_BY_LIBRARIES, *REFERENCE])
def test_exceptions_exist(name: str) -> None:
    assert any(name == found for package in SOURCES for path in package.rglob("*.py") for found, _ in definitions(path))

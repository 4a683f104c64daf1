"""The documentation is true: its snippets run in order, generated pages are current, links lead somewhere."""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from cl_kernel.contract import hooks as hookspecs

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
FENCE = re.compile(r"^( *)```(\w+)([^\n]*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
PAGES = sorted(path.name for path in DOCS.glob("*.md"))


def snippets(page: str) -> list[tuple[str, str, str]]:
    """Language, what follows it, and text of each block."""
    found = FENCE.findall((DOCS / page).read_text())
    return [
        (language, rest.strip(), re.sub(rf"^{indent}", "", text, flags=re.M)) for indent, language, rest, text in found
    ]


def title_of(rest: str) -> str:
    match = re.search(r'title="([^"]+)"', rest)
    return match[1] if match else ""


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_page(page: str, clk) -> None:
    """Write every titled block where it belongs, and run every command in order."""
    names: list[str] = []
    source = ""
    for language, rest, text in snippets(page):
        title = title_of(rest)
        if language == "python" and title.startswith("cl_"):
            (clk.plugins / title).write_text(text)
            source = title
        elif language == "python":
            (clk.folder / title).write_text(text)
        elif language == "toml":
            project = tomllib.loads(text)["project"]
            info = clk.plugins / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
            info.mkdir()
            lines = [f"{name} = {module}" for name, module in project["entry-points"]["cl_kernel"].items()]
            assert lines == [f"{source.removeprefix('cl_plugin_').removesuffix('.py')} = {source.removesuffix('.py')}"]
            requires = "".join(f"Requires-Dist: {text}\n" for text in project.get("dependencies", ()))
            (info / "METADATA").write_text(
                f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n{requires}\n"
                f"{project.get('readme', {}).get('text', '')}\n"
            )
            (info / "entry_points.txt").write_text("[cl_kernel]\n" + "\n".join(lines) + "\n")
            names += project["entry-points"]["cl_kernel"]
        elif language == "yaml":
            (clk.folder / title).write_text(text)
        elif language == "sh" and rest != "skip":
            for line in text.splitlines():
                command, _, remark = line.partition("  #")
                code = re.match(r" exit (\d+): (.*)", remark)
                words = shlex.split(command)
                if words[0] == "python":
                    environment = {**clk.environment, "CLK_PLUGINS": ""}
                    subprocess.run([sys.executable, *words[1:]], cwd=clk.folder, env=environment, check=True)
                    continue
                assert words[0] == "clk", line
                done = clk(*words[1:], code=int(code[1]) if code else 0, CLK_PLUGINS=",".join(names))
                if page == "authoring.md" and code and "unknown hook" in code[2]:
                    assert code[2] in done.stderr, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if page not in ("results.md", "contributing.md")])
def test_every_command_and_snippet_of_a_page_runs(page: str, clk) -> None:
    run_page(page, clk)


def test_the_first_snippets_of_the_guide_run(clk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory in twenty lines, quickly; the whole guide is the slow test above."""
    first = snippets("authoring.md")[:4]
    monkeypatch.setattr(sys.modules[__name__], "snippets", lambda page: first)
    run_page("authoring.md", clk)


@pytest.mark.parametrize(("name", "limit"), [("coin_memory", 22), ("rings", 30), ("means", 50)])
def test_the_examples_keep_their_promised_length(name: str, limit: int) -> None:
    files = [f"cl_{name}.py", f"cl_plugin_{name}.py"]
    sources = [text for language, rest, text in snippets("authoring.md") if title_of(rest) in files]
    assert 0 < len([line for source in sources for line in source.splitlines() if line.strip()]) <= limit


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="argparse prints help differently from 3.13 on")
def test_generated_pages_are_current(generate: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    for name, make in generate.PAGES.items():
        assert (DOCS / name).read_text() == make(), "python docs/generate.py writes them anew"


def test_every_hook_is_in_the_reference_with_its_exact_signature(generate: ModuleType) -> None:
    page = (DOCS / "reference" / "hooks.md").read_text()
    hooks = [name for name in vars(hookspecs) if name.startswith("clk_")]
    assert len(hooks) >= 13
    for name in hooks:
        assert f"```python\n{generate.signature(name, getattr(hookspecs, name))}\n```" in page
        assert inspect.getdoc(getattr(hookspecs, name)).partition("\n")[0].split("``")[0] in page


def test_fragments_are_gathered_by_kind_and_removed(generate: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\nFor users.\n\n## 1.0.0\n\n- first\n")
    (tmp_path / "changelog.d").mkdir()
    (tmp_path / "changelog.d" / "b.fixed.md").write_text("B is\nmended.\n")
    (tmp_path / "changelog.d" / "a.added.md").write_text("A is new.\n")
    generate.gather_changes("1.1.0", tmp_path)
    text = (tmp_path / "CHANGELOG.md").read_text()
    head, rest = text.split("## 1.1.0")
    assert head == "# Changelog\n\nFor users.\n\n"
    assert rest.startswith("\n\n### Added\n\n- A is new.\n\n### Fixed\n\n- B is mended.\n\n## 1.0.0\n\n- first")
    assert not list((tmp_path / "changelog.d").iterdir())
    (tmp_path / "changelog.d" / "c.maybe.md").write_text("?")
    with pytest.raises(SystemExit, match="unknown kind"):
        generate.gather_changes("1.2.0", tmp_path)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", (DOCS / page).read_text()):
        if not target.startswith(("http", "#")):
            assert (DOCS / target.partition("#")[0]).exists(), f"{page}: {target}"


def test_the_page_on_layouts_names_every_file_and_key(clk) -> None:
    page = (DOCS / "layouts.md").read_text()
    clk(
        "sweep",
        "dataset=blobs",
        "learner=linear",
        "dataset.n_train=30",
        "memory=20",
        "replay=ring",
        "seed=0,1",
        CLK_PLUGINS="",
    )
    sweep = clk.folder / "runs" / "sweep"
    (run, _) = sorted(path.parent for path in sweep.glob("*/run.json"))
    names = {re.sub(r"\d+", "", path.name) for path in [*sweep.iterdir(), *run.rglob("*")] if path.is_file()}
    described = re.sub(r"\d+", "", page)
    assert {name for name in names if f"{name}`" not in described} == set()
    for name in ("run.json", "environment.json", "metrics.json"):
        content = json.loads((run / name).read_text())
        keys = {*content, *content.get("cost", ()), *content.get("data", ())}
        assert {key for key in keys if f"`{key}`" not in page} == set(), name


def test_the_page_on_torch_has_every_module_and_every_function(generate: ModuleType) -> None:
    page = (DOCS / "reference" / "torch.md").read_text()
    for path in (ROOT / "kernel/src/cl_kernel/torch").glob("[a-z]*.py"):
        assert f"## cl_kernel.torch.{path.stem}\n" in page
        for name in re.findall(r"^(?:def|class) ([A-Za-z]\w*)", path.read_text(), re.M):
            assert f"def {name}(" in page or f"### {name}\n" in page, f"{path.stem}.{name}"


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("material")
    subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        check=True,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert "clk_datasets" in (tmp_path / "site" / "reference" / "hooks" / "index.html").read_text()
    assert "A memory of one's own" in (tmp_path / "site" / "python-api" / "index.html").read_text().replace(
        "&#39;", "'"
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_notebook_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    monkeypatch.setenv("CLK_PLUGINS", "")
    monkeypatch.setenv("CLK_CACHE", str(tmp_path / "cache"))
    notebook = nbformat.read(DOCS / "python-api.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert (tmp_path / "report.html").stat().st_size > 10_000


def test_the_page_on_architecture_names_files_that_exist() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    kernel, plugins = ROOT / "kernel/src/cl_kernel", list(ROOT.glob("plugins/*/src/cl_plugin_*"))
    named = {path for path in re.findall(r"`([\w./]+)`", text) if "/" in path or path.endswith(".py")}
    named = {path for path in named if "NAME" not in path}
    missing = [
        path
        for path in sorted(named)
        if not any((place / path).exists() for place in (kernel, ROOT, ROOT / "tests/torch", *plugins))
    ]
    assert len(named) > 40
    assert not missing

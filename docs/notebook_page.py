"""MkDocs hook: the notebook as a page, and links to files of the repository as links to it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

REPOSITORY = "https://github.com/clk-project/clk/tree/main/"


def notebook_text(path: Path) -> str:
    """Cells of a notebook as Markdown."""
    cells = json.loads(path.read_text())["cells"]
    parts = []
    for cell in cells:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
    return "\n\n".join(parts) + "\n"


def on_files(files: Files, config: Any) -> Files:
    """Add the page."""
    path = Path(config["docs_dir"]) / "python-api.ipynb"
    files.append(File.generated(config, "python-api.md", content=notebook_text(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """``../plugins/...`` lies outside the site, the notebook is a page of it."""
    markdown = markdown.replace("(python-api.ipynb)", "(python-api.md)")
    return re.sub(r"\]\(\.\./(plugins|bench)/", rf"]({REPOSITORY}\1/", markdown)

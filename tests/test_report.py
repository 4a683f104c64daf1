"""The page: self-contained, complete, honest about profiles, and drawn by a real browser."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import zlib
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cl_kernel.registry import discover
from cl_kernel.reports import compare
from cl_kernel.reports.page import build_page, charts, forgetting_curve

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def page(finished_runs: Path) -> str:
    return build_page(compare.group_runs(compare.find_runs([finished_runs])[0]), discover(only=()), "six <runs>")


class Collector(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)


def test_the_page_is_well_formed_and_asks_nobody_for_anything(page: str) -> None:
    collector = Collector()
    collector.feed(page)
    assert collector.open == []
    assert not {"link", "iframe", "object"} & set(collector.tags)
    assert collector.tags.count("script") == page.count("<script>") == 1, "one script, inside the page"
    assert all(link.startswith("data:") for link in collector.links)
    assert not re.search(r"url\(|@import|https?://", page)


def test_the_page_holds_results_settings_with_origins_curves_and_matrices(page: str, finished_runs: Path) -> None:
    assert "six &lt;runs&gt;" in page
    assert page.count('<table class="heat">') == 2
    assert page.count('aria-label="accuracy, all seen over stages learnt"') == 1
    assert page.count('aria-label="forgetting over stages learnt"') == 1
    assert '<th scope="row">dataset.n_train</th><td class="text">30</td><td class="text">test</td>' in page
    assert '<th scope="row">dataset.n_test</th><td class="text">40</td><td class="text">default</td>' in page
    groups = compare.group_runs(compare.find_runs([finished_runs])[0])
    for cells in compare.text_rows(groups, ["score", "forgetting"]):
        assert all(cell in page for cell in cells)


def test_a_stand_in_says_so_and_another_profile_has_its_own_section(
    page: str, finished_runs: Path, tmp_path: Path
) -> None:
    assert page.count("not comparable with the papers' numbers") == 1
    shutil.copytree(finished_runs / "none-0", tmp_path / "paper")
    info = (tmp_path / "paper" / "run.json").read_text()
    (tmp_path / "paper" / "run.json").write_text(info.replace('"profile": "tiny"', '"profile": "paper"'))
    groups = compare.group_runs(compare.find_runs([finished_runs, tmp_path])[0])
    both = build_page(groups, discover(only=()), "both")
    assert re.findall(r"<h2>Profile (\w+)</h2>", both) == ["paper", "tiny"]
    paper, tiny = both.split("<h2>Profile tiny</h2>")
    assert "not comparable" not in paper
    assert "not comparable" in tiny


def test_pictures_of_a_run_are_inside_the_page(finished_runs: Path, tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    shutil.copytree(finished_runs / "none-0", tmp_path / "run")
    pixels = zlib.compress(b"\0\xff\0\0")
    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    (tmp_path / "run" / "predictions").mkdir()
    (tmp_path / "run" / "predictions" / "first.png").write_bytes(png)
    page = build_page(compare.group_runs(compare.find_runs([tmp_path])[0]), discover(only=()), "p")
    assert page.count("data:image/png;base64,iVBOR") == 1
    assert "predictions/first.png" in page


def test_the_forgetting_curve_ends_at_the_forgetting_of_the_matrix() -> None:
    from cl_kernel.running import accuracy_matrix as matrix

    R = [[0.9, 0.1, 0.2], [0.5, 0.8, 0.1], [0.6, 0.3, 0.7]]
    curve = forgetting_curve(R)
    assert curve[0] is None
    assert curve[1] == pytest.approx(0.4)
    assert curve[2] == pytest.approx(matrix.forgetting(R))
    assert forgetting_curve([[0.9, 0.1], [0.5, 0.2], [0.4, 0.2]]) == [None, None, None]


@pytest.mark.parametrize("values", [[0.5], [0.5, None, 0.7], [-0.2, 1.3], [0.0, 0.0], [1e6, 2e6]])
def test_charts_take_any_values_and_keep_inside_their_frame(values: list[float | None]) -> None:
    spread = [None if value is None else 0.1 for value in values]
    drawn = charts.lines([charts.Line(label="a<b", index=9, mean=values, spread=spread)], x_label="x", y_label="y")
    assert "a&lt;b" in drawn
    for x, y in re.findall(r"(-?[\d.]+),(-?[\d.]+)", " ".join(re.findall(r'points="([^"]*)"', drawn))):
        assert 0 <= float(x) <= charts.WIDTH
        assert 0 <= float(y) <= charts.HEIGHT
    known = [value for value in values if value is not None]
    dots = [charts.Dot(label="d", index=k, x=10.0**k, y=value) for k, value in enumerate(known)]
    assert charts.scatter(dots, x_label="x", y_label="y").count("<title>") == len(known)


def test_tables_are_read_out_and_every_chart_has_its_numbers(page: str) -> None:
    assert "<th>" not in page, "every header cell says what it is the header of"
    assert page.count("<table") == page.count("<caption>")
    n_charts = page.count('<svg class="chart"')
    assert n_charts >= 3
    assert page.count("<summary>Numbers</summary>") == page.count("data-save=") == n_charts
    assert page.count('class="scroll" tabindex="0"') == page.count('<div class="scroll"')
    assert page.count('aria-pressed="true"') == 2


def test_the_command_writes_the_page_beside_the_runs(finished_runs: Path, tmp_path: Path, clk) -> None:
    found = clk.json("report", finished_runs, "--output", tmp_path / "page.html")
    assert found["runs"] == 6
    assert (tmp_path / "page.html").stat().st_size == found["nbytes"] < 200_000


@pytest.mark.skipif(BROWSER is None, reason="no Chromium found")
@pytest.mark.slow
@pytest.mark.parametrize("width", [500, 1400])
def test_a_browser_draws_it_without_a_sideways_scroll(page: str, tmp_path: Path, width: int) -> None:
    probe = """<script>
      const wide = [...document.querySelectorAll('main > *, section > *')].filter(e => e.scrollWidth > innerWidth + 1);
      document.title = document.documentElement.scrollWidth <= innerWidth && !wide.length ? 'FITS' : 'TOO WIDE';
      document.body.textContent = document.title + ' ' + document.querySelectorAll('svg').length;
    </script>"""
    file = tmp_path / "page.html"
    file.write_text(page.replace("</body>", probe + "</body>"))
    dump = subprocess.run(
        [
            str(BROWSER),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--window-size={width},900",
            "--dump-dom",
            file.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    assert "<title>FITS</title>" in dump

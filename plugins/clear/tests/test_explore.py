"""The explorer's numbers, and its page in a real browser."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cl_kernel import BadInput
from cl_plugin_clear.curation import explore
from cl_plugin_clear.data import toy

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


@pytest.fixture
def explorer(finished_store: Path) -> explore.Explorer:
    return explore.Explorer(finished_store, "equal", toy.toy_clip())


def test_the_best_are_what_was_asked_for_and_counts_add_up(explorer: explore.Explorer) -> None:
    view = explorer.query("a ring", 1, 30)
    assert np.mean([toy.class_of(hit.id) == "ring" for hit in view.hits[:15]]) > 0.8
    assert [hit.score for hit in view.hits] == sorted((hit.score for hit in view.hits), reverse=True)
    assert sum(view.months.values()) == sum(view.years.values()) == view.histogram[0].sum() == 30
    worst = explorer.query("a ring", 1, 30, worst=True)
    assert max(hit.score for hit in worst.hits) < min(hit.score for hit in view.hits)


def test_pictures_are_queries_too(explorer: explore.Explorer) -> None:
    hit = explorer.query("a ring", 1, 1).hits[0]
    path = explorer.root / hit.rel_path
    assert explorer.query(path, 1, 1).hits[0].id == hit.id
    assert explorer.similarity(path, path) == pytest.approx(1.0, abs=1e-5)
    assert explorer.score("a ring", path) == pytest.approx(hit.score, abs=1e-5)
    with pytest.raises(BadInput, match="query picture"):
        explorer.picture(explorer.root / "clear.toml")


def test_the_page_needs_nothing_but_itself(explorer: explore.Explorer) -> None:
    page = explore.page(explorer, '<b>"ring" & co', 1, k=60, end=12, ratio=0.1, across=(0, 1, 2))
    assert "<b>" not in page
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    assert "http" not in page.replace("http-equiv", "")
    assert str(explorer.root) not in page
    assert page.count("<svg") == 3
    assert page.count('class="precision"') == 3


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
def test_the_page_works_in_a_browser(explorer: explore.Explorer, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(explore.page(explorer, "a ring", 1, k=60, end=24, ratio=0.1, across=(0, 1, 2)))
    assert CHROMIUM is not None
    browser = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={tmp_path / 'profile'}",  # noqa: E501
               "--hide-scrollbars"]  # fmt: skip
    seen = subprocess.run(
        [*browser, "--dump-dom", "--virtual-time-budget=4000", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert 'data-ready="yes"' in seen.stdout, seen.stderr[-800:]  # the script ran to its end
    assert "(24 shown)" in seen.stdout  # the slider is about the first grid
    assert seen.stdout.count("nothing judged yet") >= 3
    narrow = tmp_path / "narrow.html"
    probe = "<script>document.title='wide '+(document.documentElement.scrollWidth-innerWidth)</script></body>"
    narrow.write_text(page.read_text().replace("</body>", probe))
    for width in (1200, 500):  # nothing sticks out, on a desk or in a hand
        shot = tmp_path / f"page-{width}.png"
        command = [*browser, f"--window-size={width},1400", "--virtual-time-budget=4000"]
        seen = subprocess.run([*command, "--dump-dom", narrow.as_uri()], capture_output=True, text=True, timeout=120)
        assert re.search(r"<title>wide (-?\d+)", seen.stdout)[1] in ("0", "-0"), width  # type: ignore[index]
        subprocess.run([*command, f"--screenshot={shot}", page.as_uri()], capture_output=True, timeout=120, check=True)
        picture = np.asarray(Image.open(shot).convert("RGB"))
        assert picture.shape[1] == width
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 2000  # pictures are drawn, not only text

"""Judgements: a journal that survives kills, a server for this machine only, exports, a browser by keyboard."""

from __future__ import annotations

import asyncio
import base64
import csv
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from cl_kernel.contract.errors import BadInput
from cl_plugin_clear.curation import explore, retrieve, review, serve
from cl_plugin_clear.data import toy

from .conftest import GROUP, LABELS

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


@pytest.fixture
def served(store: Path) -> Iterator[tuple[str, serve.Review]]:
    explorer = explore.Explorer(store, "equal", toy.toy_clip())
    made = serve.Review(explorer, review.Journal(serve.journal_path(store, "equal")))
    with serve.server(made) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}", made
        httpd.shutdown()


def get(address: str, headers: dict[str, str] | None = None, data: bytes | None = None) -> Any:
    request = urllib.request.Request(address, data, headers or {})
    with urllib.request.urlopen(request, timeout=20) as answer:
        body = answer.read()
        return json.loads(body) if answer.headers["Content-Type"] == "application/json" else body


def test_the_last_word_holds_and_a_cut_line_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "review" / "equal.jsonl"
    journal = review.Journal(path)
    for answer in ("yes", "no", "yes"):
        journal.add("a ring", 7, 1, answer)
    journal.add("a ring", 8, 1, "no")
    journal.add("a ring", 9, 1, "skip")
    journal.add("a disc", 8, 2, "yes")
    journal.add("a disc", 8, 2, "")
    with path.open("a") as file:
        file.write('{"prompt": "a ring", "id": 10, "ans')  # killed while writing
    again = review.Journal(path)
    assert again.of("a ring") == {7: "yes", 8: "no", 9: "skip"}
    assert again.of("a disc") == {}
    assert again.precision("a ring", [7, 8, 9, 10]) == (1, 2)
    again.add("a ring", 10, 1, "yes")
    assert review.Journal(path).of("a ring") == {7: "yes", 8: "no", 9: "skip", 10: "yes"}
    path.write_text("nonsense\n" + path.read_text())
    with pytest.raises(BadInput, match="line 1"):
        review.Journal(path)


def test_judgements_become_a_table_a_list_and_a_group(tmp_path: Path) -> None:
    journal = review.Journal(tmp_path / "j.jsonl")
    with pytest.raises(BadInput, match="no prompt"):
        review.export(journal, tmp_path / "g.json", split="equal", model="toy")
    journal.add("a ring", 7, 1, "yes")
    journal.add("a ring", 8, 1, "no")
    assert review.export(journal, tmp_path / "all.csv", split="equal", model="toy") == 2
    assert (tmp_path / "all.csv").read_text().splitlines()[1].startswith("a ring,7,1,yes,")
    assert review.export(journal, tmp_path / "never.txt", split="equal", model="toy") == 1
    assert review.read_ids(tmp_path / "never.txt") == [8]
    review.export(journal, tmp_path / "g.json", split="equal", model="toy")
    assert json.loads((tmp_path / "g.json").read_text())["GROUP"] == ["a ring"]
    with pytest.raises(BadInput, match="unknown form"):
        review.export(journal, tmp_path / "g.xls", split="equal", model="toy")


def test_photos_that_were_judged_wrong_are_never_retrieved(store: Path, tmp_path: Path) -> None:
    retrieve.retrieve_group(store, tmp_path / "all", GROUP, toy.toy_clip(), label_map=LABELS)
    chosen = json.loads((tmp_path / "all" / "clip_result" / "1.json").read_text())
    gone = [int(hit["ID"]) for hit in chosen["ring"][:3]]
    retrieve.retrieve_group(store, tmp_path / "some", GROUP, toy.toy_clip(), label_map=LABELS, never=gone)
    left = json.loads((tmp_path / "some" / "clip_result" / "1.json").read_text())
    assert not set(gone) & {int(hit["ID"]) for hits in left.values() for hit in hits}
    assert len(left["ring"]) == len(chosen["ring"])


def test_the_server_answers_this_machine_and_its_own_page_only(served: tuple[str, serve.Review]) -> None:
    address, made = served
    assert b"127.0.0.1" not in get(address + "/")
    found = get(address + "/query?prompt=a+ring&bucket=1&k=30")
    assert len(found["hits"]) == 30
    assert found["judged"] == 0
    hit = found["hits"][0]
    assert get(f"{address}/picture?id={hit['id']}")[:2] == b"\xff\xd8"
    assert get(f"{address}/record?id={hit['id']}")["license_name"] == "Attribution License"
    assert [entry["month"] for entry in get(address + "/timeline?prompt=a+ring")] == sorted(
        {entry["month"] for entry in get(address + "/timeline?prompt=a+ring")}
    )
    places = get(address + "/places?prompt=a+ring&bucket=1&k=30")
    assert {place["id"] for place in places} <= {entry["id"] for entry in found["hits"]}
    assert all(-180 <= place["lon"] <= 180 and -90 <= place["lat"] <= 90 for place in places)
    said = json.dumps({"prompt": "a ring", "id": hit["id"], "bucket": 1, "answer": "yes"}).encode()
    for headers in ({}, {"X-Token": "guess"}):
        with pytest.raises(urllib.error.HTTPError, match="403"):
            get(address + "/judge", headers, said)
    with pytest.raises(urllib.error.HTTPError, match="403"):
        get(address + "/query?prompt=a&bucket=1&k=3", {"Host": "elsewhere.example:80"})
    with pytest.raises(urllib.error.HTTPError, match="400"):
        get(address + "/query?prompt=a&bucket=one&k=3")
    assert get(address + "/judge", {"X-Token": made.token}, said) == {"kept": True}
    again = get(address + "/query?prompt=a+ring&bucket=1&k=30")
    assert (again["right"], again["judged"], again["hits"][0]["answer"]) == (1, 1, "yes")


@pytest.mark.parametrize("token", ["9-starts-with-a-digit", "SETUP", "a_b-c"])
def test_any_word_of_a_session_leaves_the_page_a_program(store: Path, token: str) -> None:
    made = serve.Review(explore.Explorer(store, "equal", toy.toy_clip()), review.Journal(store / "j.jsonl"), token)
    head, _, rest = made.page().partition('<script type="application/json" id="setup">')
    setup, _, program = rest.partition("</script>")
    assert json.loads(setup) == {"token": token, "buckets": [0, 1, 2]}
    assert token not in head + program


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
def test_a_person_judges_by_keyboard(served: tuple[str, serve.Review], tmp_path: Path) -> None:
    address, made = served

    async def person(page: Page) -> tuple[str, list[str]]:
        await page.open(f"{address}/#prompt=a+ring&bucket=1&k=40")
        await page.press("ynsyuz")
        await page.wait_for("document.getElementById('zoom').classList.contains('open')")
        await page.reload()
        return await page.told(), await page.answers()

    told, answers = asyncio.run(browse(tmp_path, person))
    assert told == "precision 50.0 % of 2 judged, 38 not"
    assert answers[:4] == ["yes", "no", "skip", ""]
    kept = review.Journal(made.journal.path).of("a ring")
    assert sorted(kept.values()) == ["no", "skip", "yes"]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
def test_five_thousand_pictures_are_judged_by_keyboard_reloaded_exported_and_verified(tmp_path: Path) -> None:
    for line in (
        "metadata --root store --source raw --toy 6600 --chunk-size 2000",
        "download --root store --threads 2 --min-edge 50 --max-aspect-ratio 2 --retry-wait 0",
        "split --root store --buckets 1 --name one",
        "embed --root store --split one --model toy",
    ):
        clk(tmp_path, line)
    judge_five_thousand(tmp_path)


def judge_five_thousand(place: Path) -> dict[str, Any]:
    """Judge at the page of ``clk clear explore --serve`` over ``place/store``, export, and use what was exported."""
    keys = "yynsyuynnys"
    command = [*CLK, "explore", "--root", "store", "--split", "one", "--model", "toy", "--serve", "0"]
    served = subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, text=True)
    try:
        assert served.stdout is not None
        address = served.stdout.readline().split()[0]
        found = asyncio.run(browse(place, lambda page: _judge(page, address, keys)))
    finally:
        served.send_signal(signal.SIGINT)
        served.communicate(timeout=60)
    assert served.returncode == 0
    expected = ["yes", "yes", "no", "skip", "yes", "no", "no", "yes", "skip"]  # u took a yes back, y gave it again
    assert found["answers"][:9] == expected
    assert found["tiles"] == 5000
    assert found["told"] == "precision 57.1 % of 7 judged, 4993 not"
    for form in ("csv", "txt", "json"):
        clk(place, f"explore --root store --split one --model toy --export judged.{form}")
    rows = list(csv.DictReader((place / "judged.csv").read_text().splitlines()))
    assert [row["answer"] for row in rows] == expected
    assert [row["id"] for row in rows] == found["ids"][:9]
    wrong = review.read_ids(place / "judged.txt")
    assert sorted(map(str, wrong)) == sorted(row["id"] for row in rows if row["answer"] == "no")
    clk(place, "retrieve --root store --concepts judged.json --out R --never judged.txt")
    hits = json.loads((place / "R" / "clip_result" / "0.json").read_text())
    assert not {str(photo) for photo in wrong} & {hit["ID"] for hit in hits["a ring"]}
    return found


async def _judge(page: Page, address: str, keys: str) -> dict[str, Any]:
    began = time.monotonic()
    await page.open(f"{address}#prompt=a+ring&bucket=0&k=5000")
    ready = time.monotonic() - began
    await page.press(keys)
    before = await page.answers()
    await page.press(["ArrowDown", "ArrowDown", "ArrowRight"])
    await page.reload()
    assert await page.answers() == before
    for width in (1200, 480):
        await page.width(width)
        await page.shot(f"grid-{width}")
        await page.press("z")
        await page.wait_for("!!document.querySelector('#zoom p')&&document.querySelector('#zoom img').complete")
        await page.shot(f"zoom-{width}")
        await page.press(["Escape", "t", "m"])
        await page.wait_for("document.querySelectorAll('#line .tile').length>50")
        await page.wait_for("document.querySelectorAll('#world circle').length>50")
        await page.shot(f"time-and-map-{width}")
        await page.press(["t", "m"])
        await page.wait_for("!document.querySelector('#line .tile,#world circle')")
    await page.open(f"{address}#prompt=a+ring&other=a+disc&bucket=0&k=2000")
    await page.shot("two-prompts-480")
    await page.open(f"{address}#prompt=a+ring&bucket=0&k=5000")
    return {
        "answers": before,
        "told": await page.told(),
        "tiles": len(before),
        "seconds": ready,
        "ids": await page.value("[...document.querySelectorAll('#sides .tile')].map(t=>t.dataset.id)"),
    }


CLK = [sys.executable, "-m", "cl_kernel.cli.main", "clear"]


def clk(place: Path, line: str) -> None:
    """Run one command there."""
    done = subprocess.run([*CLK, *line.split()], cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


READY = "document.body && document.body.dataset.ready==='yes' && document.querySelectorAll('#sides .tile').length>0"


class Page:
    """A page of a browser, by its debugging socket."""

    def __init__(self, socket: Any, folder: Path) -> None:
        self.socket, self.folder, self.number = socket, folder, 0

    async def call(self, method: str, **options: Any) -> Any:
        """A command of Chromium's protocol."""
        self.number += 1
        await self.socket.send_json({"id": self.number, "method": method, "params": options})
        while (answer := await self.socket.receive_json(timeout=120)).get("id") != self.number:
            pass
        return answer["result"]

    async def value(self, expression: str) -> Any:
        """What an expression gives on the page."""
        found = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return found["result"].get("value")

    async def wait_for(self, expression: str) -> None:
        """Until it holds."""
        for _ in range(1200):
            if await self.value(expression):
                return
            await asyncio.sleep(0.1)
        raise AssertionError(expression)

    async def open(self, address: str) -> None:
        """A page, until its pictures are listed."""
        await self.call("Page.navigate", url="about:blank")
        await self.call("Page.navigate", url=address)
        await self.wait_for(READY)

    async def reload(self) -> None:
        """The same page anew."""
        await self.value("document.body.dataset.ready='no'")
        await self.call("Page.reload")
        await self.wait_for(READY)

    async def press(self, keys: Sequence[str]) -> None:
        """Press keys one after the other; a judgement is waited for."""
        for key in keys:
            n = await self.value("document.body.dataset.kept||0")
            for kind in ("keyDown", "keyUp"):
                await self.call("Input.dispatchKeyEvent", type=kind, key=key)
            if key in "ynsu":
                await self.wait_for(f"(document.body.dataset.kept||0)>{n}")

    async def width(self, pixels: int) -> None:
        """Give the window another width; nothing may stick out."""
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=pixels, height=900, deviceScaleFactor=1, mobile=False
        )

    async def shot(self, name: str) -> None:
        """A picture of the window, in which nothing sticks out."""
        await asyncio.sleep(1.0)
        assert await self.value("document.documentElement.scrollWidth-innerWidth") <= 0
        found = await self.call("Page.captureScreenshot", format="png")
        (self.folder / f"{name}.png").write_bytes(base64.b64decode(found["data"]))

    async def told(self) -> str:
        """The line above the pictures."""
        return str(await self.value("document.getElementById('told').textContent"))

    async def answers(self) -> list[str]:
        """Of every picture, in order."""
        return list(await self.value("[...document.querySelectorAll('#sides .tile')].map(t=>t.hit.answer)"))


async def browse(folder: Path, person: Callable[[Page], Awaitable[Any]]) -> Any:
    """Open a browser for somebody, who may use its page; pictures of the window go to ``folder``."""
    import aiohttp

    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
               "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
               "--remote-debugging-port=0", f"--user-data-dir={folder / 'profile'}", "about:blank"]  # fmt: skip
    browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port_file = folder / "profile" / "DevToolsActivePort"
        for _ in range(1800):
            if port_file.exists() and port_file.read_text().count("\n"):
                break
            await asyncio.sleep(0.1)
        port = port_file.read_text().split("\n")[0]
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                found = next(entry for entry in await answer.json() if entry["type"] == "page")
            async with session.ws_connect(found["webSocketDebuggerUrl"], max_msg_size=1 << 28) as socket:
                return await person(Page(socket, folder))
    finally:
        browser.kill()
        browser.wait()

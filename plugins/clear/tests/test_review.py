"""Judgements: a journal that survives kills, a server for this machine only, exports, a browser by keyboard."""

# ruff: noqa: E501

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
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
    assert CHROMIUM is not None
    told, answers = asyncio.run(drive(CHROMIUM, tmp_path, f"{address}/#prompt=a+ring&bucket=1&k=40", list("ynsyuz")))
    assert told == "precision 50.0 % of 2 judged, 38 not"
    assert answers[:4] == ["yes", "no", "skip", ""]
    kept = review.Journal(made.journal.path).of("a ring")
    assert sorted(kept.values()) == ["no", "skip", "yes"]


async def drive(chromium: str, folder: Path, address: str, keys: list[str]) -> tuple[str, list[str]]:
    """Open a page, press keys, reload, look: what is told after the reload, and the answers on the tiles."""
    import aiohttp

    command = [chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
               "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
               "--remote-debugging-port=0", f"--user-data-dir={folder / 'profile'}", "about:blank"]  # fmt: skip
    browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port_file = folder / "profile" / "DevToolsActivePort"
        for _ in range(600):
            if port_file.exists() and port_file.read_text().count("\n"):
                break
            await asyncio.sleep(0.1)
        port = port_file.read_text().split("\n")[0]
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                page = next(entry for entry in await answer.json() if entry["type"] == "page")
            async with session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=1 << 28) as socket:
                number = 0

                async def call(method: str, **options: Any) -> Any:
                    nonlocal number
                    number += 1
                    await socket.send_json({"id": number, "method": method, "params": options})
                    while (answer := await socket.receive_json(timeout=60)).get("id") != number:
                        pass
                    return answer["result"]

                async def value(expression: str) -> Any:
                    found = await call("Runtime.evaluate", expression=expression, returnByValue=True)
                    return found["result"].get("value")

                async def wait_for(expression: str) -> None:
                    for _ in range(300):
                        if await value(expression):
                            return
                        await asyncio.sleep(0.1)
                    raise AssertionError(expression)

                ready = "document.body && document.body.dataset.ready==='yes' && document.querySelectorAll('.tile').length>0"
                await call("Page.navigate", url=address)
                await wait_for(ready)
                n_judged = 0
                for key in keys:
                    await call("Input.dispatchKeyEvent", type="keyDown", key=key)
                    await call("Input.dispatchKeyEvent", type="keyUp", key=key)
                    if key in "yns":
                        n_judged += 1
                        await wait_for(
                            f"document.querySelectorAll('.tile.yes,.tile.no,.tile.skip').length==={n_judged}"
                        )
                await wait_for("document.getElementById('zoom').classList.contains('open')")
                await call("Page.reload")
                await wait_for(ready)
                for width in (1200, 480):
                    await call(
                        "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
                    )
                    assert await value("document.documentElement.scrollWidth-innerWidth") <= 0
                    shot = await call("Page.captureScreenshot", format="png")
                    (folder / f"review-{width}.png").write_bytes(base64.b64decode(shot["data"]))
                told = await value("document.getElementById('told').textContent")
                answers = await value("[...document.querySelectorAll('.tile')].map(t=>t.hit.answer)")
        return told, answers
    finally:
        browser.kill()
        browser.wait()

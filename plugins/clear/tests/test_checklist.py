"""Every row of the README's table of the original's programs: its commands run as they stand there, in a small world.

Capital words are files of the world under those very names, or filled in by the row (:class:`Row`); what the commands
leave behind is looked at, so that ending with 0 is not enough. Behind a command come only flags of :data:`LESS`
(smaller networks, fewer epochs, no waiting) and ``--json``.
"""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from attrs import field, frozen

from cl_kernel.cli.main import main
from cl_plugin_clear.curation import concepts, features
from cl_plugin_clear.curation.explore import Explorer
from cl_plugin_clear.curation.store import Store
from cl_plugin_clear.data import release, toy
from cl_plugin_clear.data.members import members_of

from . import checklist_world as world

TEXT = (Path(__file__).parents[1] / "README.md").read_text()
TABLE = TEXT[TEXT.index("## What the original's programs did") : TEXT.index("## Where it differs")]
ROWS = {
    number: commands for number, _, commands in re.findall(r"^\| (\d[\d, ]*) \| (.*?) \| (.*) \|$", TABLE, re.MULTILINE)
}
PROGRAMS = ("C ", "clk ", "torchrun ")
NETWORK = "--arch tiny --image-size 24 --device cpu"
LESS = {
    "clear moco": f"{NETWORK} --epochs 1 --batch-size 8 --queue 32 --dim 16 --workers 1",
    "torchrun": f"{NETWORK} --epochs 1 --batch-size 8 --queue 32 --dim 16 --workers 1",
    "clear lincls": f"{NETWORK} --epochs 2 --steps 1 --batch-size 8",
    "clear features": NETWORK,
    "clear evaluate": "--image-size 32 --device cpu",
    "clear embed": "--threads 1",
    "clear download": "--retry-wait 0",
    "clear images": "--retry-wait 0",
    "clear collect": "--num-imgs 2",
    "clear holdout": "--num-imgs 1",
    "alpha-grid": "--set experiment.epochs=1 --set experiment.n_seeds=1",
    "iid/": "--set learner.epochs=2 --set run.plots=false",
    "baselines/": "--set learner.epochs=2 --set run.plots=false",
}
"""What is put behind a command that has these words, for less work."""
OF_SPLIT = "torchvision:resnet18@32"


@frozen
class Row:
    """What a row of the table needs and leaves.

    :param stage: the stage of the world in a fresh copy of which its commands run.
    :param look: what is looked at then: the folder, and what each command said.
    :param lay: puts more files there before.
    :param fills: words of the commands that are no files of the world.
    """

    stage: str
    look: Callable[[Path, list[Any]], None]
    lay: Callable[[Path], None] = field(default=lambda place: None)
    fills: dict[str, str] = field(factory=dict)


CHECKS: dict[str, Row] = {}


def row(number: str, stage: str, lay: Callable[[Path], None] = lambda place: None, **fills: str) -> Any:
    """Put a look at what a row leaves into :data:`CHECKS`."""

    def put(look: Callable[[Path, list[Any]], None]) -> Callable[[Path, list[Any]], None]:
        CHECKS[number] = Row(stage, look, lay, fills)
        return look

    return put


def commands_of(text: str) -> list[str]:
    """The commands of a row, whole: an option by itself comes on top of the command before it."""
    found: list[str] = []
    for span in re.findall(r"`(.*?)`", text):
        if span.startswith("--"):
            found.append(f"{found[-1]} {span}")
        elif span.startswith(PROGRAMS):
            found.append(re.sub(r"^C ", "clk clear ", span))
    return found


def filled(command: str, fills: dict[str, str]) -> list[str]:
    """The words of a command, the row's placeholders and the flags for less work put in."""
    for word, value in fills.items():
        command = re.sub(rf"\b{word}\b( \.\.\.)?", value, command)
    assert "..." not in command, f"nothing says what ... is in {command!r}"
    less = [more for words, more in LESS.items() if words in command]
    return [*shlex.split(command), *shlex.split(" ".join(less))]


def placeholders(words: list[str]) -> list[str]:
    """Words of a command that are files of the reader: capitals, perhaps with an ending or a sub-folder."""
    return [word for word in words if re.fullmatch(r"[A-Z]+(/\w+|\.json)?", word)]


def call(words: list[str], capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command; :return: what it said as JSON."""
    if words[0] == "torchrun":
        program = [sys.executable, "-m", "torch.distributed.run", "--standalone", *words[1:]]
        done = subprocess.run(program, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return None
    if "--serve" in words:
        return judged_by_hand(words)
    capsys.readouterr()
    code = main([*words[1:], "--json"])
    said = capsys.readouterr()
    assert code == 0, f"{shlex.join(words)}: {said.err or said.out}"
    return json.loads(said.out)


def judged_by_hand(words: list[str]) -> Any:
    """Start the server, ask for its page and a prompt, judge the best picture, and end it as Ctrl-C does."""
    address = f"http://127.0.0.1:{words[words.index('--serve') + 1]}"
    program = [sys.executable, "-m", "cl_kernel.cli.main", *words[1:]]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as served:
        assert served.stdout is not None
        assert address in served.stdout.readline()
        page = urllib.request.urlopen(f"{address}/").read().decode()
        token = re.search(r'"token": "(.*?)"', page)
        assert token
        found = json.load(urllib.request.urlopen(f"{address}/query?prompt=a+ring&bucket=1&k=9"))
        answer = {"prompt": "a ring", "id": found["hits"][0]["id"], "bucket": 1, "answer": "yes"}
        asked = urllib.request.Request(f"{address}/judge", json.dumps(answer).encode(), {"X-Token": token[1]})
        urllib.request.urlopen(asked).read()
        served.send_signal(signal.SIGINT)
        assert served.wait(60) == 0
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[world.World]:
    base = tmp_path_factory.mktemp("world")
    (base / "web").mkdir()
    with world.serving(base / "web") as address:
        yield world.World(base, address)


def free_port() -> str:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return str(asked.getsockname()[1])


def test_the_table_has_every_row() -> None:
    assert [int(n) for numbers in ROWS for n in numbers.split(", ")] == list(range(1, 37))
    assert CHECKS.keys() == ROWS.keys()


def test_options_by_themselves_come_on_top() -> None:
    assert commands_of("`C a x`, `--b Y`; `C c`; in Python `f(x)`; `clk run`, `--d`, `--e`") == [
        "clk clear a x",
        "clk clear a x --b Y",
        "clk clear c",
        "clk run",
        "clk run --d",
        "clk run --d --e",
    ]
    assert filled("clk x RUN ... --to RUNS", {"RUN": "a b"}) == ["clk", "x", "a", "b", "--to", "RUNS"]
    words = ["clk", "--to", "OUT", "G.json", "FOLDER/train", "RN101", "a"]
    assert placeholders(words) == ["OUT", "G.json", "FOLDER/train"]


@pytest.mark.slow
@pytest.mark.parametrize("number", ROWS)
def test_row(
    number: str, made: world.World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = CHECKS[number]
    commands = commands_of(ROWS[number])
    assert commands, f"row {number} has no command"
    place = Path(shutil.copytree(made.at(asked.stage), tmp_path / "place"))
    monkeypatch.chdir(place)
    monkeypatch.setenv("CLK_CACHE", str(tmp_path / "cache"))
    torch.set_num_threads(1)
    asked.lay(place)
    fills = {"ADDRESS": made.address, "PORT": free_port()} | asked.fills
    if fills.get("URL") == "release":
        world.archives(place / "RAW", made.base / "web" / "release")
        shutil.rmtree(place / "RAW")
        fills["URL"] = f"{made.address}/release"
    said = []
    for command in commands:
        words = filled(command, fills)
        said.append(call(words, capsys))
        missing = [word for word in placeholders(words) if not (place / word).exists()]
        assert not missing, f"row {number}: nothing fills {missing} in {command!r}"
    asked.look(place, said)


# ---- what each row leaves ---------------------------------------------------------------------


@row("1", "raw", URL="release")
def _(place: Path, said: list[Any]) -> None:
    assert sum(said[0]["counts"].values()) == world.N
    assert len(list((place / "RAW").glob("yfcc100m_*"))) == 5
    assert not list((place / "RAW").glob("*.tgz"))


@row("2", "raw")
def _(place: Path, said: list[Any]) -> None:
    assert sum(said[0]["counts"].values()) == world.N
    assert said[0]["counts"]["pending"] > 0.8 * world.N
    assert said[0]["hashes"]["not_derived"] == 0


@row("3", "raw", lay=lambda place: world.other_forms(place / "RAW", place), PART="part-0.bz2 part-1.bz2")
def _(place: Path, said: list[Any]) -> None:
    parts = [Store.open(place / name) for name in ("STORE", "PARTS")]
    columns = ["id", "status", "download_url", "hash_value"]
    assert said[0]["counts"] == said[1]["counts"]
    assert sum(said[0]["counts"].values()) == world.N
    assert parts[0].read_chunk(0, columns).equals(parts[1].read_chunk(0, columns))


@row("4", "raw")
def _(place: Path, said: list[Any]) -> None:
    assert "date" not in said[0]["counts"]
    counts = said[1]["counts"]
    assert counts["ok"] > 0.8 * world.N
    assert min(counts["too_small_edge"], counts["aspect"], counts["decode"], counts["video"]) > 0


@row("5, 6", "parsed", lay=lambda place: shutil.copytree(place / "STORE", place / "COPY") and None)
def _(place: Path, said: list[Any]) -> None:
    assert said[0]["counts"] == said[1]["counts"]
    assert said[2]["reused_chunks"] == 1
    assert said[2]["chunks"] == 0
    photos = [{p.name: p.read_bytes() for p in (place / name / "images").rglob("*.*")} for name in ("STORE", "COPY")]
    assert len(photos[0]) == said[0]["counts"]["ok"] > 0.8 * world.N
    assert photos[0] == photos[1]


@row("7", "embedded")
def _(place: Path, said: list[Any]) -> None:
    assert sum(said[0]["counts"].values()) == world.N
    assert said[0]["features"] == {"toy": ["equal-11"]}
    assert "use_valid_date" in (place / "STORE" / "clear.toml").read_text()
    assert main(["clear", "metadata", "--root", "STORE", "--source", "RAW", "--keep-invalid-dates"]) == 2


@row("8", "embedded")
def _(place: Path, said: list[Any]) -> None:
    table = pq.read_table(place / "all.parquet")
    assert len(table) == said[0]["rows"] == world.good(place)
    assert set(table["status"].to_pylist()) == {"ok"}


@row("9", "embedded", lay=world.old_download)
def _(place: Path, said: list[Any]) -> None:
    assert said[0] == {"looked_at": world.good(place), "missing": 0}
    assert said[1] == {"records": world.good(place), "pictures": world.good(place), "missing": 0}
    assert len(list((place / "NEW" / "images").rglob("*.*"))) == world.good(place, "NEW") == world.good(place)


@row("10", "embedded")
def _(place: Path, said: list[Any]) -> None:
    sizes = [bucket["n"] for bucket in said[0]["buckets"]]
    assert (len(sizes), sum(sizes), max(sizes) - min(sizes) <= 1) == (11, world.good(place), True)
    assert [made["rule"]["by"] for made in said] == ["equal", "year", "time"]
    assert [len(made["buckets"]) for made in said] == [11, 11, 11]
    assert {p.stem for p in (place / "STORE" / "buckets").glob("*.json")} == {"equal-11", "year", "time"}


@row("11, 12", "embedded", MODEL=f"{OF_SPLIT} --weights none")
def _(place: Path, said: list[Any]) -> None:
    assert said[0]["pictures"] == world.good(place)
    assert said[0]["bad"] == 0
    network = features.open_model(OF_SPLIT, weights="none")
    for bucket in range(11):
        found = features.Features.open(place / "STORE", network, "equal-11", bucket)
        rows = np.concatenate(list(found.shards()))
        assert rows.shape == (len(found.ids()), 512)
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, rtol=1e-4)


@row("13", "embedded", MODEL="toy")
def _(place: Path, said: list[Any]) -> None:
    prompt = toy.toy_clip().texts(["a bus"])[0].astype(float)
    found = features.Features.open(place / "STORE", toy.toy_clip(), "equal-11", 1)
    scores = np.concatenate(list(found.shards())) @ (prompt / np.linalg.norm(prompt))
    best, worst = ([hit["score"] for hit in one["hits"]] for one in said)
    np.testing.assert_allclose(best, np.sort(scores)[::-1][: len(best)], atol=1e-5)
    np.testing.assert_allclose(worst, np.sort(scores)[: len(worst)], atol=1e-5)
    assert (place / "explore.html").read_text().startswith("<!doctype html>")


def a_picture(place: Path) -> None:
    """``bus.jpg``: a picture of bucket 1."""
    hit = Explorer(place / "STORE", "equal-11", toy.toy_clip()).query("a ring", 1, 1).hits[0]
    shutil.copy(place / "STORE" / hit.rel_path, place / "bus.jpg")


@row("14", "embedded", lay=a_picture, MODEL="toy")
def _(place: Path, said: list[Any]) -> None:
    explorer, file = Explorer(place / "STORE", "equal-11", toy.toy_clip()), place / "bus.jpg"
    assert said[0]["hits"][0]["score"] == pytest.approx(1.0, abs=1e-5)
    assert (place / "STORE" / said[0]["hits"][0]["rel_path"]).read_bytes() == file.read_bytes()
    assert explorer.similarity(file, file) == pytest.approx(1.0)
    best = explorer.query("a ring", 1, 1).hits[0].score
    assert explorer.score("a ring", file) == pytest.approx(best, abs=1e-5)


@row("15", "embedded", MODEL="toy")
def _(place: Path, said: list[Any]) -> None:
    page = (place / "bus.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "a bus" in page
    journal = (place / "STORE" / "review" / "equal-11.jsonl").read_text().splitlines()
    assert [json.loads(line)["answer"] for line in journal] == ["yes"]
    assert journal[0].count(said[1]["hits"][0]["id"]) == 1


def retrieved(place: Path) -> dict[str, dict[str, list[str]]]:
    """Bucket -> class -> ids."""
    index = json.loads((place / "NAME" / "clip_result.json").read_text())
    return {
        bucket: {label: [hit["ID"] for hit in hits] for label, hits in json.loads((place / "NAME" / path).read_text()).items()}  # noqa: E501
        for bucket, path in index.items()
    }  # fmt: skip


@row("16", "embedded", lay=lambda place: world.group(place / "G.json"))
def _(place: Path, said: list[Any]) -> None:
    assert said[0] == {"made": list(range(11)), "reused": []}
    for classes in retrieved(place).values():
        assert {label: len(ids) for label, ids in classes.items()} == {"a disc": 4, "a ring": 4, "BACKGROUND": 4}
        assert len({photo for ids in classes.values() for photo in ids}) == 12


@row("17", "raw", NAME="shapes")
def _(place: Path, said: list[Any]) -> None:
    group = concepts.read_concepts(place / "G.json")
    assert (group.name, group.group) == ("shapes", ("ring", "disc"))
    assert said[0]["GROUP"] == ["ring", "disc"]


def names_for_prompts(place: Path) -> None:
    world.group(place / "G.json")
    (place / "MAP.json").write_text(json.dumps(world.LABELS))


@row("18", "embedded", lay=names_for_prompts)
def _(place: Path, said: list[Any]) -> None:
    assert {label for classes in retrieved(place).values() for label in classes} == {"disc", "ring", "BACKGROUND"}
    assert json.loads((place / "NAME" / "label_map_dict.json").read_text()) == world.LABELS


@row("19", "built", lay=lambda place: (place / "MAP.json").write_text('{"ring": "annulus"}') and None)
def _(place: Path, said: list[Any]) -> None:
    assert said[0] == {"ring": "annulus"}
    part = release.read_release(place / "NAME").train
    assert part.class_names == ["BACKGROUND", "annulus", "disc"]
    assert all((place / "NAME" / item.path).is_file() for items in part.buckets.values() for item in items)


@row("20", "retrieved")
def _(place: Path, said: list[Any]) -> None:
    assert said[0]["classes"] == {"BACKGROUND": 44, "disc": 44, "ring": 44}
    records = [json.loads((place / "NAME" / "all_metadata" / f"{b}.json").read_text()) for b in range(11)]
    assert sum(map(len, records)) == world.good(place)
    assert said[1] == {"pictures": world.good(place), "failed": 0}
    assert len(list((place / "NAME" / "all_images").glob("[0-9]*/*"))) == world.good(place)


@row("21", "built", lay=world.votes, URL="https://host/set")
def _(place: Path, said: list[Any]) -> None:
    assert len(said[0]["files"]) == 22
    tasks = list(csv.DictReader((place / "tasks" / "original_1.csv").read_text().splitlines()))
    assert len(tasks) == 12
    assert tasks[0]["image_url"].startswith("https://host/set/labeled_images/1/")
    assert said[1]["true_pos_wrongs"] == 44  # every ring was voted a disc
    flagged = list(csv.DictReader((place / "votes" / "flagged.csv").read_text().splitlines()))
    assert len(flagged) == said[1]["flagged"] == 1


@row("22", "judged", lay=lambda place: shutil.rmtree(place / "CLEAN"), DIR="ANSWERS")
def _(place: Path, said: list[Any]) -> None:
    assert said[0] == {str(bucket): 6 for bucket in range(11)}
    assert len(list((place / "CLEAN" / "labeled_images").rglob("*.jpg"))) + len(
        list((place / "CLEAN" / "labeled_images").rglob("*.png"))) == 66  # fmt: skip


@row("23", "judged")
def _(place: Path, said: list[Any]) -> None:
    assert said[0] == {"sizes": {str(bucket): 3 for bucket in range(11)}, "overlap": {}}
    assert said[1] == {}
    photos = [{p for b in members_of(place / name)[1].values() for c in b.values() for p in c} for name in ("HOLD", "CLEAN")]  # fmt: skip  # noqa: E501
    assert [len(found) for found in photos] == [33, 66]
    assert not photos[0] & photos[1]


@row("24", "judged", SMALL="CLEAN", LARGE="NAME")
def _(place: Path, said: list[Any]) -> None:
    assert said[0] == {}
    assert main(["clear", "verify", "NAME", "CLEAN"]) == 1


@row("25", "built")
def _(place: Path, said: list[Any]) -> None:
    rows = list(csv.DictReader((place / "out.csv").read_text().splitlines()))
    assert len(rows) == said[0]["rows"] == world.good(place) - 132
    assert not any(line["label"] for line in rows)


@row("26", "embedded", N="2")
def _(place: Path, said: list[Any]) -> None:
    assert [entry["epoch"] for entry in said[0]] == [0]
    saved = [torch.load(place / name / "checkpoint_0000.pth.tar", weights_only=True)["state_dict"] for name in ("moco", "many")]  # fmt: skip  # noqa: E501
    assert all(any("encoder_q." in key for key in state) for state in saved)
    assert [len(state) for state in saved] == [len(saved[0])] * 2


@row("27", "built", lay=world.two_sides, CHECKPOINT="moco/checkpoint_0000.pth.tar")
def _(place: Path, said: list[Any]) -> None:
    import pickle

    assert said[0][0]["loss"] > 0
    assert json.loads((place / "lin" / "result.json").read_text())["classes"] == ["BACKGROUND", "disc", "ring"]
    assert 0.0 <= said[1]["top1"] <= 1.0
    arrays = pickle.loads((place / "weights.pkl").read_bytes())["model"]
    assert len(arrays) == said[2]["tensors"]
    assert any(name.startswith("stem.") for name in arrays)


def checkpoint(place: Path) -> None:
    """``CHECKPOINT``: a ResNet-18 as MoCo saves it."""
    import torchvision

    torch.manual_seed(0)
    state = {f"module.encoder_q.{k}": v for k, v in torchvision.models.resnet18().state_dict().items()}
    torch.save({"state_dict": state}, place / "CHECKPOINT")


@row("28, 29", "raw", lay=checkpoint)
def _(place: Path, said: list[Any]) -> None:
    from safetensors.torch import load_file

    saved = torch.load(place / "CHECKPOINT", weights_only=True)["state_dict"]
    plain = load_file(place / "weights.safetensors")
    assert len(plain) == said[0]["tensors"] == len(saved) - 2  # without the head
    assert all(torch.equal(value, saved[f"module.encoder_q.{name}"]) for name, value in plain.items())


def weights(place: Path) -> None:
    """``FILE``: weights of a small backbone."""
    from cl_plugin_clear.network.extract import backbone_extractor

    torch.manual_seed(1)
    torch.save(backbone_extractor("tiny", "", 24, "cpu")[1], place / "FILE")


@row("30", "built", lay=weights)
def _(place: Path, said: list[Any]) -> None:
    assert said[0] == {"pictures": 132, "name": "moco_b0"}
    part = release.read_release(place / "NAME").train
    assert [len(release.feature_rows(part, "moco_b0", bucket)) for bucket in range(11)] == [12] * 11


@row("31", "retrieved")
def _(place: Path, said: list[Any]) -> None:
    lists = place / "NAME" / "training_folder"
    assert len((lists / "filelists" / "3" / "all.txt").read_text().splitlines()) == 12
    for seed in range(5):
        sides = [
            json.loads((lists / f"testset_ratio_0.3/split_{seed}/3/{side}_indices.json").read_text())
            for side in ("train", "test")
        ]
        assert sorted([*sides[0], *sides[1]]) == list(range(12))
        assert len(sides[1]) == 3


def matrices(place: Path) -> list[np.ndarray]:
    """The accuracy matrices of the runs below a folder."""
    return [np.array(json.loads(path.read_text())["R"]) for path in sorted(place.rglob("clear/matrix.json"))]


@row("32", "raw")
def _(place: Path, said: list[Any]) -> None:
    found = matrices(place)
    assert [R.shape for R in found] == [(10, 10)]
    assert found[0].diagonal().mean() > 1 / 6  # six classes
    table = json.dumps(said[1])
    assert all(f"{alpha:g}" in table for alpha in (0.25, 0.5, 1.0, 2.0, 5.0))


@row("33", "raw")
def _(place: Path, said: list[Any]) -> None:
    found = matrices(place)
    assert [R.shape for R in found] == [(10, 10)]
    assert found[0].diagonal().mean() > 1 / 6


def two_runs(place: Path) -> None:
    """Runs of two seeds, and a text log of a third program."""
    for seed in (0, 1):
        words = f"run --plugin clear --test baselines/naive {LESS['baselines/']} --seed {seed} --output run{seed}"
        assert main(words.split()) == 0
    values = [(j, 0.5 + 0.1 * (i == j)) for i in range(3) for j in range(3)]
    text = "".join(f"  Top1_Acc_Stream/eval_phase/test_stream/Task00{j} = {v}\n" for j, v in values)
    (place / "LOG").write_text(text)


@row("34", "raw", lay=two_runs, RUN="run0 run1")
def _(place: Path, said: list[Any]) -> None:
    expected = np.mean([R.diagonal().mean() for R in matrices(place)])
    assert said[0]["mean_std"]["in_domain"][0] == pytest.approx(expected)
    assert len(said[0]["runs"]) == 2
    assert said[1]["mean_std"]["in_domain"][0] == pytest.approx(0.6)


@row("35", "raw", lay=world.released)
def _(place: Path, said: list[Any]) -> None:
    found = matrices(place)
    assert [R.shape for R in found] == [(10, 10)]
    assert found[0].diagonal().mean() > 0.5  # eleven classes, far apart


@row("36", "built", lay=world.kit)
def _(place: Path, said: list[Any]) -> None:
    assert np.array(said[0]["matrix"]).shape == (2, 2)
    assert said[0]["matrix"] == said[1]["matrix"]  # the own module does what ours does
    assert json.loads((place / "OUT" / "matrix.json").read_text())["buckets"] == ["1", "2"]
    assert "weighted_score" in json.loads((place / "OUT" / "metrics.json").read_text())

"""Every command as a person gives it, in the README's order, on toy data: what it prints and what it leaves."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from cl_kernel.cli.main import main
from cl_plugin_clear.curation import concepts
from cl_plugin_clear.curation.store import Store
from cl_plugin_clear.data import release, toy
from cl_plugin_clear.data.members import members_of

from .conftest import GROUP, LABELS, verified

Clk = Callable[..., Any]


@pytest.fixture
def clk(capsys: pytest.CaptureFixture[str]) -> Clk:
    """Run ``clk clear ...``; :return: its JSON, or its error when it ended with another code than ``code``."""

    def run(*words: object, code: int = 0) -> Any:
        torch.set_num_threads(1)
        capsys.readouterr()
        ended = main(["clear", *map(str, words), "--json"])
        said = capsys.readouterr()
        assert ended == code, said.err
        return json.loads(said.out)

    return run


def test_the_store_step_by_step(clk: Clk, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, source = tmp_path / "store", tmp_path / "yfcc"
    done = clk("metadata", "--root", root, "--source", source, "--toy", 260, "--chunk-size", 100)
    assert done["parsed"] == 3 and sum(done["counts"].values()) == 260
    limits = ("--min-edge", 50, "--max-aspect-ratio", 2, "--retry-wait", 0, "--threads", 4)
    done = clk("download", "--root", root, *limits)
    assert done["counts"]["ok"] > 200 and done["chunks"] == 3 and done["bytes"] > 0
    assert clk("download", "--root", root, *limits)["reused_chunks"] == 3
    done = clk("split", "--root", root, "--name", "halves", "--buckets", 2)
    assert abs(done["buckets"][0]["n"] - done["buckets"][1]["n"]) <= 1
    assert clk("split", "--root", root, "--by", "year")["rule"]["by"] == "year"
    assert clk("split", "--root", root, "--by", "time", "--times", "clear10")["rule"]["n"] == 11
    done = clk("embed", "--root", root, "--split", "halves", "--model", "toy", "--shard-rows", 64)
    assert done["bad"] == 0 and done["pictures"] > 200
    status = clk("status", "--root", root)
    assert status["splits"] == ["halves", "time", "year"] and status["features"] == {"toy": ["halves"]}
    assert clk("relocate", "--root", root)["missing"] == 0
    victim = next(p for p in (root / "images").rglob("*") if p.is_file())
    victim.unlink()
    assert victim.name in clk("relocate", "--root", root, code=2)["what"]
    assert clk("download", "--root", root, *limits, "--retry", "ok")["reused_pictures"] > 200
    assert clk("relocate", "--root", root)["missing"] == 0
    assert main(["clear", "status", "--root", str(root)]) == 0  # for people
    assert "rows by status" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("metadata --root s --source r --chunk-size 0", "--chunk-size: 0 is not at least 1"),
        ("metadata --root s --source r --taken-slack-hours nan", "--taken-slack-hours: nan is no finite number"),
        ("download --root s --threads 0", "--threads: 0 is not at least 1"),
        ("download --root s --per-host -1", "--per-host: -1 is not at least 0"),
        ("download --root s --deadline 0", "--deadline: 0 is not at least 0.001"),
        ("split --root s --buckets 2.5", "--buckets: '2.5' is no whole number"),
        ("embed --root s --shard-rows 0", "--shard-rows: 0 is not at least 1"),
        ("embed --root s --buckets 5-3", "--buckets: '5-3' does not read like 0,3-5"),
        ("explore --root s --across 1,b", "--across: '1,b' does not read like 0,3-5"),
        ("build --root s --out t --test-ratio 1", "--test-ratio: 1 is not at least 0 and less than 1"),
        ("export --root s --to x.csv --status bogus", "--status: no status 'bogus'; there are: pending, ok"),
        ("download --root s --retry http,htp", "--retry: no status 'htp'"),
        ("collect --folder f --feedback d --to c --num-imgs 0", "--num-imgs: 0 is not at least 1"),
        ("moco --to m --lr nan", "--lr: nan is no finite number"),
        ("moco --to m --steps many", "--steps: 'many' does not read like 0,3-5"),
    ],
)
def test_numbers_that_cannot_be_are_refused_by_their_flag(
    line: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["clear", *line.split()])
    assert said in capsys.readouterr().err


def test_settings_out_of_range_are_refused_by_their_flag(clk: Clk) -> None:
    for flag, value, what in (
        ("--epochs", 0, "must be >= 1"),
        ("--image-size", 4, "must be >= 16"),
        ("--arch", "x", "must be in"),
    ):
        said = clk("moco", "--data", "x", "--to", "y", flag, value, code=2)
        assert what in said["what"]
        assert said["where"] == flag


def test_look_for_a_prompt(clk: Clk, store: Path, tmp_path: Path) -> None:
    page = tmp_path / "bus.html"
    words = ("--root", store, "--split", "equal", "--model", "toy", "--to", page, "--retrieve", 30, "--across", "1,2")
    done = clk("explore", *words, "--prompt", "a ring", "--end", 6)
    assert len(done["hits"]) == 6 and sum(done["years"].values()) == 30
    assert page.read_text().startswith("<!doctype html>")
    picture = store / done["hits"][0]["rel_path"]
    assert clk("explore", *words, "--picture", picture)["hits"][0]["id"] == done["hits"][0]["id"]


def test_classes_by_prompt(clk: Clk, store: Path, tmp_path: Path) -> None:
    group, out = tmp_path / "g.json", tmp_path / "T"
    words = ("--name", "T", "--group", "a disc; a ring; some stripes", "--split", "equal", "--model", "toy")
    clk("concepts", "init", group, *words, "--class-size", 10, "--pool", 40, "--background", "--negative-ratio", 0.2)
    assert clk("concepts", "check", group)["GROUP"] == list(GROUP.group)
    assert concepts.read_concepts(group) == GROUP
    assert len(clk("concepts", "init", tmp_path / "p.json", "--published", "clear100")["GROUP"]) == 100
    (tmp_path / "labels.json").write_text(json.dumps(LABELS))
    find = ("retrieve", "--root", store, "--concepts", group, "--out", out, "--label-map", tmp_path / "labels.json")
    assert clk(*find, "--buckets", "1-2")["made"] == [1, 2]
    assert clk(*find) == {"made": [0], "reused": [1, 2]}
    done = clk("build", "--root", store, "--out", out, "--save-all-metadata", "--test-ratio", 0.3)
    assert done == {
        "classes": {"BACKGROUND": 18, "disc": 30, "ring": 30, "stripes": 30},
        "buckets": {"0": 36, "1": 36, "2": 36},
    }
    assert clk("features", "--folder", out, "--name", "clip", "--clip", "toy") == {"pictures": 108, "name": "clip"}
    done = clk("features", "--folder", out, "--name", "random", "--arch", "tiny", "--image-size", 24, "--device", "cpu")
    assert done["pictures"] == 108
    part = release.read_release(out).train
    assert release.feature_rows(part, "random", 1).shape == (36, 32)
    weights = torch.load(out / "features" / "random" / "state_dict.pth.tar", weights_only=True)
    torch.save(weights, tmp_path / "w.pth")  # the saved weights give the same features again
    clk(
        "features",
        "--folder",
        out,
        "--name",
        "again",
        "--arch",
        "tiny",
        "--image-size",
        24,
        "--weights",
        tmp_path / "w.pth",
    )
    np.testing.assert_array_equal(release.feature_rows(part, "random", 1), release.feature_rows(part, "again", 1))

    n = Store.open(store).counts()["ok"]
    assert clk("images", "--folder", out, "--retry-wait", 0) == {"pictures": n, "failed": 0}
    assert len(list((out / "all_images").glob("[0-9]/*"))) == n
    records = json.loads((out / "all_metadata" / "1.json").read_text())
    photo, record = next(iter(records.items()))
    (out / record["IMG_PATH"]).unlink()
    gone = {**records, photo: {**record, "DOWNLOAD_URL": "file:///nowhere/else.jpg"}}
    (out / "all_metadata" / "1.json").write_text(json.dumps(gone))
    assert clk("images", "--folder", out, "--retry-wait", 0, code=1) == {"pictures": n - 1, "failed": 1}
    assert json.loads((out / "all_images" / "failed" / "1.json").read_text()) == {
        "file:///nowhere/else.jpg": record["IMG_PATH"]
    }

    (tmp_path / "new.json").write_text(json.dumps({"ring": "annulus"}))
    assert clk("relabel", "--folder", out, "--label-map", tmp_path / "new.json") == {"ring": "annulus"}
    assert release.read_release(out).train.class_names == ["BACKGROUND", "annulus", "disc", "stripes"]


def test_people(clk: Clk, folder: Path, tmp_path: Path) -> None:
    done = clk("mturk", "out", "--folder", folder, "--to", tmp_path / "tasks", "--url-prefix", "https://host/T")
    assert len(done["files"]) == 6
    rows = list(csv.DictReader((tmp_path / "tasks" / "original_1.csv").read_text().splitlines()))
    answers = [
        {f"Input.{key}": row[key] for key in row}
        | {"Answer.taskAnswers": json.dumps([{"image": {"labels": [] if row["query"] == "BACKGROUND" else ["disc"]}}])}
        for row in rows
    ]
    with (tmp_path / "votes.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(answers[0]))
        writer.writeheader()
        writer.writerows(answers)
    done = clk("mturk", "in", "--votes", tmp_path / "votes.csv", "--to", tmp_path / "reports")
    assert done["true_pos_wrongs"] == 20 and done["true_negative_wrongs"] == 0  # every ring and stripes was voted disc
    assert "no results" in clk("mturk", "in", "--to", tmp_path / "reports", code=2)["what"]
    gone = clk("mturk", "in", "--votes", tmp_path / "none.csv", "--to", tmp_path / "reports", code=2)
    assert (gone["what"], gone["where"]) == ("no such csv file", str(tmp_path / "none.csv"))

    verified(folder, tmp_path / "answers")
    collect = ("collect", "--folder", folder, "--feedback", tmp_path / "answers", "--to", tmp_path / "clean")
    (tmp_path / "labels.csv").write_text("photo,label\n7,disc\n")
    assert "no column ID" in clk(*collect, "--never", tmp_path / "labels.csv", code=2)["what"]
    assert clk(*collect, "--num-imgs", 4) == {"0": 16, "1": 16, "2": 16}
    hold = ("holdout", "--folder", folder, "--public", tmp_path / "clean", "--to", tmp_path / "hold")
    assert clk(*hold, "--num-imgs", 2, "--after-line", 0) == {"sizes": {"0": 8, "1": 8, "2": 8}, "overlap": {}}
    assert clk("verify", tmp_path / "hold", tmp_path / "clean", "--overlap") == {}
    assert len(clk("verify", folder, tmp_path / "clean", "--overlap", code=1)) == 3
    assert clk("verify", folder, folder) == {}


def test_tables_of_metadata(clk: Clk, store: Path, folder: Path, tmp_path: Path) -> None:
    n_ok = Store.open(store).counts()["ok"]
    export = ("export", "--root", store, "--labelled", folder, "--to")
    assert clk(*export, tmp_path / "all.parquet")["rows"] == n_ok
    assert clk(*export, tmp_path / "some.csv", "--only", "labelled")["rows"] == 108
    assert clk(*export, tmp_path / "rest.csv", "--only", "unlabelled")["rows"] == n_ok - 108
    table = pq.read_table(tmp_path / "all.parquet").to_pylist()
    assert sum(row["label"] is not None for row in table) == 108
    assert len(list(csv.DictReader((tmp_path / "some.csv").read_text().splitlines()))) == 108
    assert "form" in clk(*export, tmp_path / "all.xls", code=2)["what"]


def test_photos_are_forgotten(clk: Clk, store: Path, folder: Path) -> None:
    _, members = members_of(folder)
    photo = next(iter(members["1"]["ring"]))
    done = clk("forget", "--root", store, "--ids", photo, "--labelled", folder)
    assert done == {"ids": 1, "store": 1, "labelled": 1}
    for ids in ("x7", f"7,{1 << 70}", "no/file.txt"):
        assert "not an id" in clk("forget", "--root", store, "--ids", ids, code=2)["what"]


def test_pretrain_adapt_and_read_linearly(clk: Clk, store: Path, folder: Path, tmp_path: Path) -> None:
    small = ("--arch", "tiny", "--epochs", 2, "--batch-size", 16, "--queue", 64, "--dim", 16, "--image-size", 24)
    pre = ("moco", "--data", "store:equal/0", "--root", store, "--to", tmp_path / "moco", "--device", "cpu", *small)
    log = clk(*pre)
    assert [entry["epoch"] for entry in log] == [0, 1] and log[1]["loss"] > 0
    last = tmp_path / "moco" / "checkpoint_0001.pth.tar"
    assert clk("adapt", last, tmp_path / "b.safetensors")["tensors"] == 12
    for side, bucket in (("train", 1), ("val", 2)):
        shutil.copytree(folder / "labeled_images" / str(bucket), tmp_path / "sides" / side)
    words = ("lincls", "--data", tmp_path / "sides", "--weights", last, "--arch", "tiny", "--to", tmp_path / "linear")
    done = clk(
        *words, "--epochs", 8, "--lr", 3, "--steps", "6", "--image-size", 24, "--batch-size", 18, "--device", "cpu"
    )
    assert done["top1"] > 0.4  # four classes, one of them smaller
    assert json.loads((tmp_path / "linear" / "result.json").read_text())["classes"] == [
        "BACKGROUND",
        "disc",
        "ring",
        "stripes",
    ]
    (tmp_path / "sides" / "val" / "zebra").mkdir()
    assert "other classes" in clk(*words, code=2)["what"]
    assert "which pictures" in clk("moco", "--to", tmp_path / "m2", code=2)["what"]


def test_saved_models_give_the_matrix_of_their_run(clk: Clk, folder: Path, tmp_path: Path) -> None:
    runs = []
    for seed in (0, 1):
        runs.append(tmp_path / f"run {seed}")
        words = f"run --plugin clear --test streaming/singlememory_fixed_2_finetune --dataset folder-features:{folder}"
        settings = ("dataset.features=clip", "dataset.protocol=streaming", "learner.epochs=5", "run.memory=36")
        flags = [word for setting in settings for word in ("--set", setting)]
        assert main([*words.split(), *flags, "--seed", str(seed), "--output", str(runs[-1])]) == 0
    trained = json.loads((runs[0] / "clear" / "matrix.json").read_text())
    assert [p.name for p in sorted((runs[0] / "clear" / "ckpt").iterdir())] == ["t00.safetensors", "t01.safetensors"]
    challenge = ("--models", runs[0] / "clear" / "ckpt", "--data", folder, "--features", "clip", "--device", "cpu")
    scores = clk("evaluate", *challenge, "--to", tmp_path / "scores")
    np.testing.assert_allclose(scores["matrix"], trained["R"], atol=1e-12)
    assert json.loads((tmp_path / "scores" / "metrics.json").read_text())["weighted_score"] == scores["weighted_score"]
    (runs[0] / "clear" / "ckpt" / "t01.safetensors").rename(runs[0] / "clear" / "ckpt" / "t02.safetensors")
    assert "missing" in clk("evaluate", *challenge, "--to", tmp_path / "scores", code=2)["what"]

    rows = pq.read_table(runs[1] / "clear" / "per_class.parquet").to_pylist()
    R = np.array(json.loads((runs[1] / "clear" / "matrix.json").read_text())["R"])
    for time in range(2):
        for b, bucket in enumerate(("1", "2")):
            mine = [row for row in rows if (row["time"], row["bucket"]) == (time, bucket)]
            assert sum(row["n"] for row in mine) == 36
            assert sum(row["correct"] for row in mine) / 36 == pytest.approx(R[time, b])
    figures = json.loads((runs[1] / "clear" / "metrics.json").read_text())
    kept = [row for row in rows if row["time"] == 1 and row["label"] != "BACKGROUND"]
    n_right, n_kept = (sum(row[key] for row in kept) for key in ("correct", "n"))
    assert figures["positives_accuracy"][1] == pytest.approx(n_right / n_kept)

    table = clk("results", *runs, "--protocol", "streaming", "--name", "biased_2")
    next_domain = [json.loads((run / "clear" / "metrics.json").read_text())["next_domain"] for run in runs]
    assert table["mean_std"]["next_domain"] == [pytest.approx(np.mean(next_domain)), pytest.approx(np.std(next_domain))]
    assert table["latex"].startswith(r"biased\_2 & --") and table["mean_std"]["in_domain"] is None
    log = tmp_path / "log.txt"
    values = [(j, 0.5 + 0.1 * (i == j)) for i in range(3) for j in range(3)]
    log.write_text("".join(f"  Top1_Acc_Stream/eval_phase/test_stream/Task00{j} = {v}\n" for j, v in values))
    assert clk("results", "--import", log)["mean_std"]["in_domain"][0] == pytest.approx(0.6)
    assert "no matrix" in clk("results", tmp_path / "scores", code=2)["what"]


def test_an_old_download_becomes_a_store(clk: Clk, finished_store: Path, tmp_path: Path) -> None:
    from .conftest import as_original

    n = Store.open(finished_store).counts()["ok"]
    as_original(finished_store, tmp_path / "old", "/data3/someone/yfcc")
    done = clk("import-legacy", "--root", tmp_path / "new", "--source", tmp_path / "old", "--chunk-size", 300)
    assert done == {"records": n, "pictures": n, "missing": 0}


def test_metadata_are_fetched_from_any_address(clk: Clk, tmp_path: Path) -> None:
    import tarfile

    toy.write_metadata(tmp_path / "raw", 50)
    (tmp_path / "bucket").mkdir()
    for path in (tmp_path / "raw").iterdir():
        with tarfile.open(tmp_path / "bucket" / f"{path.name}.tgz", "w:gz") as archive:
            archive.add(path, f"yfcc100m/{path.name}")
    words = (
        "metadata",
        "--root",
        tmp_path / "s",
        "--source",
        tmp_path / "got",
        "--fetch",
        (tmp_path / "bucket").as_uri(),
    )
    assert sum(clk(*words, "--delete-archives")["counts"].values()) == 50
    assert not list((tmp_path / "got").glob("*.tgz"))
    assert (
        "no dataset file"
        in clk("metadata", "--root", tmp_path / "s2", "--source", tmp_path / "x", "--fetch", "file:///none", code=2)[
            "what"
        ]
    )


@pytest.mark.parametrize("form", ["parts", "sql", "bz2"])
def test_every_form_of_the_release_is_fetched(clk: Clk, tmp_path: Path, form: str) -> None:
    import bz2
    import sqlite3

    from cl_plugin_clear.curation.records import SQLITE_COLUMNS

    there = tmp_path / "there"
    toy.write_metadata(there, 60)
    rows = (there / "yfcc100m_dataset").read_text().splitlines()
    for path in list(there.iterdir()):
        if form == "bz2":
            path.with_name(path.name + ".bz2").write_bytes(bz2.compress(path.read_bytes()))
        path.unlink()
    if form == "parts":
        for number in (0, 1):
            text = "\n".join(rows[30 * number : 30 * number + 30]) + "\n"
            (there / f"yfcc100m_dataset-{number}.bz2").write_bytes(bz2.compress(text.encode()))
    elif form == "sql":
        with sqlite3.connect(there / "yfcc100m_dataset.sql") as connection:
            connection.execute(f"create table yfcc100m_dataset ({', '.join(SQLITE_COLUMNS)})")
            values = [row.split("\t") for row in rows]
            connection.executemany(f"insert into yfcc100m_dataset values ({', '.join('?' * 23)})", values)
        connection.close()
    done = clk("metadata", "--root", tmp_path / "s", "--source", tmp_path / "raw", "--fetch", there.as_uri())
    assert sum(done["counts"].values()) == 60

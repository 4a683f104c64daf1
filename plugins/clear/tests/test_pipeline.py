"""Splits, features, retrieval, labelled folders, people: on toy data, moved, resumed, spoilt."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from attrs import evolve

from cl_kernel import BadInput, BadSetting, DiskFull, MissingAsset
from cl_plugin_clear.curation import (
    buckets,
    concepts,
    crowd,
    feature_sets,
    features,
    forgetting,
    labelled,
    relabel,
    retrieval,
    retrieve,
    training_folder,
)
from cl_plugin_clear.curation.legacy import import_folder, load_pickle
from cl_plugin_clear.curation.store import Store
from cl_plugin_clear.data import labels, release, split, toy
from cl_plugin_clear.data.members import members_of
from cl_plugin_clear.settings import Released

from .conftest import GROUP, LABELS, as_original, cut, verified


def content(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


# ---- splits -----------------------------------------------------------------------------------


def uploads(store: Path) -> tuple[np.ndarray, np.ndarray]:
    parts = [Store.open(store).read_chunk(c, ["date_uploaded", "status", "id"]) for c in Store.open(store).chunks()]
    rows = [row for part in parts for row in part.to_pylist() if row["status"] == "ok"]
    return np.array([row["date_uploaded"] for row in rows]), np.array([row["id"] for row in rows])


@pytest.mark.parametrize(
    "rule",
    [
        buckets.Rule(n=7),
        buckets.Rule(by="year"),
        buckets.Rule(by="time", intervals=concepts.INTERVALS_CLEAR10),
        buckets.Rule(by="time", intervals=concepts.INTERVALS_CLEAR10, compat_original=True),
        buckets.Rule(
            by="time", intervals=(("2005-01-01", "2006-01-01"), ("2010-01-01", "2010-02-01")), compat_original=True
        ),
    ],
)
def test_the_spilling_sort_cuts_as_the_rule_does_in_memory(store: Path, rule: buckets.Rule) -> None:
    done = buckets.make_split(store, "again", rule)
    up, ids = uploads(store)
    order, bucket = cut(up, rule)
    opened = buckets.Split.open(store, "again")
    for b, entry in enumerate(done["buckets"]):
        assert opened.rows(b)["id"].to_pylist() == ids[order[bucket == b]].tolist()
        assert entry["n"] == (bucket == b).sum()
    assert done["dropped"] == len(up) - len(order)


def test_more_buckets_than_pictures_and_odd_intervals_are_refused(store: Path) -> None:
    with pytest.raises(BadInput, match="some would be empty"):
        buckets.make_split(store, "x", buckets.Rule(n=10**6))
    with pytest.raises(BadInput, match="before it starts"):
        buckets.make_split(store, "x", buckets.Rule(by="time", intervals=(("2010-01-01", "2009-01-01"),)))
    with pytest.raises(BadInput, match="no ISO date"):
        buckets.make_split(store, "x", buckets.Rule(by="time", intervals=(("soon", "2009-01-01"),)))
    with pytest.raises(BadInput, match="has ended"):
        buckets.make_split(
            store, "x", buckets.Rule(by="time", intervals=(("2009-01-01", "2010-01-01"), ("2009-06-01", "2011-01-01")))
        )


def test_a_split_is_reused_and_another_rule_refused(store: Path) -> None:
    assert buckets.make_split(store, "equal", buckets.Rule(n=3))["reused"]
    with pytest.raises(BadSetting, match="another rule"):
        buckets.make_split(store, "equal", buckets.Rule(n=4))
    assert buckets.make_split(store, "equal", buckets.Rule(n=4), redo=True)["reused"] is False


# ---- features ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["..", "a/b", "", ".hidden"])
def test_a_split_is_one_folder_and_nothing_else_is_touched(store: Path, name: str) -> None:
    before = sorted(store.rglob("*"))
    with pytest.raises(BadSetting, match="cannot be the name of a folder"):
        buckets.make_split(store, name, buckets.Rule(n=3), redo=True)
    assert sorted(store.rglob("*")) == before


def test_memory_that_is_no_size_is_named(store: Path) -> None:
    with pytest.raises(BadSetting, match="lots"):
        buckets.make_split(store, "again", buckets.Rule(n=3), memory="lots")


def test_features_resume_by_shard_and_move_with_the_folder(finished_store: Path, store: Path) -> None:
    place = store / "features" / "toy" / "equal" / "1"
    (place / "00001.npy").unlink()
    (place / "ids.npy.tmp").write_bytes(b"left over")
    with pytest.raises(MissingAsset, match=r"shards \[1\]"):
        features.Features.open(store, toy.toy_clip(), "equal", 1)
    done = features.embed(store, "equal", toy.toy_clip(), shard_rows=90, n_threads=1)
    assert done.n_made == 1
    (place / "ids.npy.tmp").unlink()
    assert content(store / "features") == content(finished_store / "features")


def test_features_of_another_model_or_shard_size_are_refused(store: Path) -> None:
    with pytest.raises(BadSetting, match="shards"):
        features.embed(store, "equal", toy.toy_clip(), shard_rows=50)


def test_an_unreadable_picture_is_told_and_never_retrieved(store: Path) -> None:
    shutil.rmtree(store / "features")
    rows = buckets.Split.open(store, "equal").rows(0)
    victim = rows["rel_path"][5].as_py()
    (store / victim).write_bytes(b"rotten")
    told: list[str] = []
    done = features.embed(
        store, "equal", toy.toy_clip(), shard_rows=90, buckets=[0], on_bad=lambda path, error: told.append(path)
    )
    assert told == [victim]
    assert done.n_bad == 1
    found = features.Features.open(store, toy.toy_clip(), "equal", 0)
    query = retrieval.normalise(toy.toy_clip().texts(["disc"]))
    top, low = retrieval.search(query, found.shards(), 10**6, bottom=True)
    assert 5 not in top.rows[0]
    assert low is not None and 5 not in low.rows[0]
    assert top.rows.shape[1] == len(rows) - 1


@pytest.mark.parametrize(("n", "k", "block"), [(50, 50, 7), (5000, 40, 64), (5000, 4900, 333), (3000, 9000, 100)])
def test_search_in_pieces_equals_a_full_sort_ties_included(n: int, k: int, block: int) -> None:
    rng = np.random.default_rng(n + k)
    rows = rng.integers(-2, 3, (n, 6)).astype(np.float32)  # many equal scores
    queries = rng.integers(-2, 3, (3, 6)).astype(np.float32)
    top, low = retrieval.search(queries, np.array_split(rows, 4), k, bottom=True, block_rows=block)
    for p in range(3):
        scores = rows @ queries[p]
        assert top.rows[p].tolist() == np.lexsort((np.arange(n), -scores))[:k].tolist()
        assert low is not None
        assert low.rows[p].tolist() == np.lexsort((np.arange(n), scores))[:k].tolist()


# ---- classes ----------------------------------------------------------------------------------


def test_retrieval_resumes_by_bucket_and_another_group_is_refused(
    store: Path, finished_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "T"
    first = retrieve.retrieve_group(store, out, GROUP, toy.toy_clip(), label_map=LABELS, buckets=[1])
    rest = retrieve.retrieve_group(store, out, GROUP, toy.toy_clip(), label_map=LABELS)
    assert (first.made, rest.made, rest.reused) == ([1], [0, 2], [1])
    for name in ("clip_result.json", "class_names.txt", "clip_result/0.json", "clip_result/1.json"):
        assert (out / name).read_bytes() == (finished_folder / name).read_bytes()
    with pytest.raises(BadSetting, match="NUM_OF_IMAGES_PER_CLASS_PER_BUCKET"):
        retrieve.retrieve_group(store, out, evolve(GROUP, class_size=9), toy.toy_clip(), label_map=LABELS)


def test_what_a_group_cannot_be_is_said_before_anything_is_searched() -> None:
    with pytest.raises(BadSetting, match="pool"):
        evolve(GROUP, class_size=40).check()
    with pytest.raises(BadSetting, match="BACKGROUND"):
        evolve(GROUP, allow_overlap=True).check()
    with pytest.raises(BadInput, match="twice"):
        evolve(GROUP, group=("a", "a")).check()
    with pytest.raises(BadInput, match="'b c'"):
        labels.map_labels(["a", "b c"], {"a": "x"})
    assert labels.map_labels(["a", "b c, a kind"], {"a": "x"}, default="slug") == ["x", "b_c"]
    with pytest.raises(BadInput, match="share"):
        labels.map_labels(["a", "b"], {"a": "x", "b": "x"})


def test_concept_files_round_trip_and_name_their_mistakes(tmp_path: Path) -> None:
    concepts.write_concepts(tmp_path / "c.json", GROUP)
    assert concepts.read_concepts(tmp_path / "c.json") == GROUP
    broken = {**GROUP.as_json(), "NUM_OF_IMAGES_PER_CLASS_PER_BUCKET": "many"}
    (tmp_path / "d.json").write_text(json.dumps(broken))
    with pytest.raises(BadInput, match="'many'"):
        concepts.read_concepts(tmp_path / "d.json")
    (tmp_path / "e.json").write_text(json.dumps({**GROUP.as_json(), "BACKGRUOND": 1}))
    with pytest.raises(BadInput, match="BACKGRUOND"):
        concepts.read_concepts(tmp_path / "e.json")


def test_too_few_pictures_lists_the_classes(store: Path, tmp_path: Path) -> None:
    greedy = evolve(GROUP, class_size=150, pool=170)
    with pytest.raises(BadInput, match=r"disc \(\d+\)"):
        retrieve.retrieve_group(store, tmp_path / "T", greedy, toy.toy_clip(), label_map=LABELS)


def test_the_folder_is_precise_complete_and_relative(finished_folder: Path) -> None:
    names, members = members_of(finished_folder)
    assert names == ["BACKGROUND", "disc", "ring", "stripes"]
    right = total = 0
    for bucket, classes in members.items():
        for label, records in classes.items():
            assert len(records) == (10 if label != "BACKGROUND" else 6)
            for photo, record in records.items():
                assert record["IMG_PATH"] == f"labeled_images/{bucket}/{label}/{photo}.{record['EXT']}"
                assert (finished_folder / record["IMG_PATH"]).is_file()
                assert record["LICENSE_NAME"] and record["LINE_NUM"] is not None
                total += label != "BACKGROUND"
                right += toy.class_of(int(photo)) == label
    assert right / total > 0.9


def test_building_again_mends_a_folder_with_holes(finished_store: Path, folder: Path, finished_folder: Path) -> None:
    victim = sorted((folder / "labeled_images" / "1" / "ring").iterdir())[0]
    victim.unlink()
    (folder / "labeled_metadata" / "2" / "disc.json").unlink()
    labelled.build_folder(finished_store, folder)
    assert content(folder) == content(finished_folder)


def test_both_layouts_read_back_what_was_written(folder: Path, tmp_path: Path) -> None:
    old = release.read_release(folder)
    assert old.layout == "old"
    two = tmp_path / "clear"
    shutil.copytree(folder, two / "train")
    shutil.copytree(folder, two / "test")
    for part in ("train", "test"):
        shutil.rmtree(two / part / "training_folder")
    new = release.read_release(two)
    assert new.layout == "new"
    for b in (0, 1, 2):
        assert {(i.path, i.label) for i in new.train.buckets[b]} == {(i.path, i.label) for i in old.train.buckets[b]}
        listed = (folder / "training_folder" / "filelists" / str(b) / "all.txt").read_text().splitlines()
        assert [f"{i.path} {i.label}" for i in old.train.buckets[b]] == listed
        assert [i.label for i in new.train.buckets[b]] == sorted(i.label for i in new.train.buckets[b])
    (folder / "labeled_metadata.json").unlink()  # the file lists alone are enough
    assert release.read_release(folder).train.buckets == old.train.buckets


def test_every_bucket_has_its_own_pictures(folder: Path) -> None:
    stream = release.build_stream(Released(test_ratio=0.3, skip_buckets=(), image_size=32), folder, "t")
    assert [stage.name for stage in stream.stages] == ["0", "1", "2"]
    seen: set[str] = set()
    for stage, (name, rows) in zip(stream.stages, stream.test_sets.items(), strict=True):
        mine = {item.id for item in stage.train.items} | {stream.test.items[row].id for row in rows}
        assert stage.name == name
        assert len(mine) == 36
        assert not mine & seen
        seen |= mine
    assert [len(stage.train) for stage in stream.stages] == [26, 26, 26]
    stream.check()
    picture = stream.test.take(np.array([0]))["image"]
    assert picture.shape == (1, 32, 32, 3)


def test_streaming_trains_on_all_and_tests_on_all(folder: Path) -> None:
    stream = release.build_stream(Released(protocol="streaming", features="clip"), folder, "t")
    assert [stage.name for stage in stream.stages] == ["1", "2"]
    for stage, rows in zip(stream.stages, stream.test_sets.values(), strict=True):
        assert len(stage.train) == len(rows) == 36
        np.testing.assert_array_equal(stage.train.take(np.arange(36))["vector"], stream.test.take(rows)["vector"])


def test_features_by_id_and_by_list_are_the_same(folder: Path) -> None:
    part = release.read_release(folder).train
    by_id = release.feature_rows(part, "clip", 1)
    shutil.rmtree(folder / "features")
    np.testing.assert_array_equal(by_id, release.feature_rows(part, "clip", 1))
    with pytest.raises(MissingAsset, match="clip"):
        release.feature_rows(part, "moco_b0", 1)


def test_the_saved_split_is_the_one_of_the_paper(folder: Path) -> None:
    for seed in range(5):
        place = folder / "training_folder" / "testset_ratio_0.3" / f"split_{seed}" / "1"
        train, test = split.train_test(36, 0.3, seed)
        assert json.loads((place / "train_indices.json").read_text()) == train
        lines = (folder / "training_folder" / "filelists" / "1" / "all.txt").read_text().splitlines()
        assert (place / "test.txt").read_text().splitlines() == [lines[row] for row in test]


def test_contradictions_in_a_release_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingAsset, match="no labelled folder"):
        release.read_release(tmp_path)
    (folder / "class_names.txt").write_text("BACKGROUND\ndisc\nring")
    with pytest.raises(BadInput, match="'stripes'"):
        release.read_release(folder)


@pytest.mark.parametrize("at", ["built", "first rename", "second rename", "removal"])
def test_relabelling_swaps_names_everywhere_and_survives_a_kill(
    folder: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    before = release.read_release(folder).train
    old = content(folder)
    rename, remove = Path.rename, shutil.rmtree

    def killed(self: Path, target: Path) -> Path:
        if (at, self) in (("first rename", folder), ("second rename", folder.with_name(f".{folder.name}.relabelled"))):
            raise KeyboardInterrupt
        return rename(self, target)

    def kept(path: Path, **options: Any) -> None:
        if at == "removal" and path.exists():
            raise KeyboardInterrupt
        remove(path, **options)

    def unfinished(folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", killed)
    monkeypatch.setattr(relabel.shutil, "rmtree", kept)
    if at == "built":
        monkeypatch.setattr(relabel, "rewrite_training_folder", unfinished)
    plan = {"disc": "ring", "ring": "disc", "stripes": "zebra"}
    with pytest.raises(KeyboardInterrupt):
        relabel.relabel(folder, plan)
    monkeypatch.undo()
    if at in ("built", "first rename"):
        assert content(folder) == old
    relabel.relabel(folder, plan)
    after = release.read_release(folder).train
    assert after.class_names == ["BACKGROUND", "disc", "ring", "zebra"]
    for b in before.buckets:
        assert {i.id: plan.get(i.name, i.name) for i in before.buckets[b]} == {i.id: i.name for i in after.buckets[b]}
        assert all((folder / i.path).is_file() for i in after.buckets[b])
        assert release.feature_rows(after, "clip", b).shape == (36, 64)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    whole = content(folder)
    relabel.relabel(folder, plan)  # killed after all was done, and given again: not swapped back
    assert content(folder) == whole


def test_relabelling_two_classes_into_one_is_refused(folder: Path) -> None:
    with pytest.raises(BadInput, match="two classes"):
        relabel.relabel(folder, {"disc": "ring"})
    with pytest.raises(BadInput, match="'dics'"):
        relabel.relabel(folder, {"dics": "x"})


def test_forgotten_photos_are_gone_everywhere(store: Path, folder: Path) -> None:
    _, members = members_of(folder)
    photo = next(iter(members["1"]["ring"]))
    assert forgetting.forget(store, [int(photo)]) == 1
    assert relabel.forget(folder, [int(photo)]) == 1
    for root in (store, folder):
        left = [
            p
            for p in root.rglob("*")
            if p.is_file() and (photo in p.name or (p.suffix in (".json", ".txt") and photo in p.read_text()))
        ]
        assert left == []
    assert Store.open(store).counts()["forgotten"] == 1
    gone = [
        row
        for c in Store.open(store).chunks()
        for row in Store.open(store).read_chunk(c).to_pylist()
        if row["status"] == "forgotten"
    ]
    assert gone[0]["download_url"] is None and gone[0]["title"] is None
    assert buckets.make_split(store, "equal", buckets.Rule(n=3))["reused"]
    found = features.Features.open(store, toy.toy_clip(), "equal", 1)
    assert int(photo) not in found.ids()
    assert (
        sum(len(shard) for shard in found.shards())
        == len(found.ids())
        == buckets.Split.open(store, "equal").info(1)["n"]
    )
    assert len(release.read_release(folder).train.buckets[1]) == 35


# ---- people -----------------------------------------------------------------------------------


def test_task_files_hold_every_picture_with_blanks_escaped(folder: Path, tmp_path: Path) -> None:
    files = crowd.task_files(folder, tmp_path / "tasks", "https://host/a b", length=20, crop=64)
    rows = [
        row
        for path in files
        if path.name.startswith("original")
        for row in csv.DictReader(path.read_text().splitlines())
    ]
    assert len(rows) == 3 * 36
    assert len({row["ID"] for row in rows}) == 3 * 36
    assert all(" " not in row["image_url"] for row in rows)
    assert len([path for path in files if path.name.startswith("cropped_64_1")]) == 2


def test_votes_come_back_as_reports_and_bad_answers_name_their_line(tmp_path: Path) -> None:
    columns = ["Input.ID", "Input.bucket_index", "Input.query", "Input.image_url", "Answer.taskAnswers"]
    answer = json.dumps([{"image": {"labels": ["computer"]}}])
    crowd.write_csv(
        tmp_path / "v.csv", columns, [("1", "0", "laptop", "u", answer)] * 2 + [("2", "0", "bus", "u", answer)] * 2
    )
    votes = crowd.read_votes([tmp_path / "v.csv"], {"computer": "laptop"})
    sizes = crowd.write_reports(tmp_path / "out", votes, [("1", [True, False]), ("2", [False, False])])
    assert sizes["true_pos_wrongs"] == 1
    assert sizes["flagged"] == 1
    assert next(csv.DictReader((tmp_path / "out" / "true_pos_wrongs.csv").read_text().splitlines()))["ID"] == "2"
    crowd.write_csv(tmp_path / "w.csv", columns, [("1", "0", "laptop", "u", "oops")])
    with pytest.raises(BadInput, match="line 2"):
        crowd.read_votes([tmp_path / "w.csv"])


def test_confirmed_pictures_make_a_cleaned_folder(folder: Path, tmp_path: Path) -> None:
    _, members = members_of(folder)
    for bucket, classes in members.items():
        for label, records in classes.items():
            for k, photo in enumerate(records):
                value = ["Disc!"] if label == "disc" else [label] if k else ["somebody", label]
                path = tmp_path / "feedback" / bucket / label / f"{photo}.json"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps({"task_result": {"annotations": [{"input": {"value": value}}]}}))
    sizes = crowd.collect(folder, tmp_path / "feedback", tmp_path / "clean", user_labels={"Disc!": "disc"}, num_imgs=5)
    assert set(sizes.values()) == {20}
    assert release.read_release(tmp_path / "clean").train.class_names == ["BACKGROUND", "disc", "ring", "stripes"]
    with pytest.raises(BadInput, match=r"BACKGROUND \(5\)"):
        crowd.collect(folder, tmp_path / "feedback", tmp_path / "clean2", user_labels={"Disc!": "disc"}, num_imgs=10)


def test_a_hold_out_shares_nothing_with_the_first_set(store: Path, tmp_path: Path) -> None:
    big = evolve(GROUP, class_size=24, pool=120, background=False)
    retrieve.retrieve_group(store, tmp_path / "big", big, toy.toy_clip(), label_map=LABELS)
    labelled.build_folder(store, tmp_path / "big")
    small = evolve(big, class_size=8)
    retrieve.retrieve_group(store, tmp_path / "public", small, toy.toy_clip(), label_map=LABELS)
    labelled.build_folder(store, tmp_path / "public")
    assert crowd.contained(tmp_path / "public", tmp_path / "big") == {}
    assert len(crowd.contained(tmp_path / "big", tmp_path / "public")) == 9
    sizes = crowd.holdout(tmp_path / "big", tmp_path / "public", tmp_path / "hold", num_imgs=6, after_line=500)
    assert set(sizes.values()) == {18}
    assert crowd.overlap(tmp_path / "hold", tmp_path / "public") == {}
    assert crowd.contained(tmp_path / "hold", tmp_path / "big") == {}
    assert len(crowd.contained(tmp_path / "hold", tmp_path / "public")) == 9
    assert crowd.overlap(tmp_path / "big", tmp_path / "public").keys() == {"0", "1", "2"}
    with pytest.raises(BadInput, match="fewer than 24"):
        crowd.holdout(tmp_path / "big", tmp_path / "public", tmp_path / "h2", num_imgs=24)


# ---- a disk that fills ------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["metadata", "split", "embed", "retrieve", "build", "features", "collect", "moco"])
def test_a_disk_that_fills_is_named_and_nothing_is_lost(
    step: str, store: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cl_plugin_clear.curation import ingest
    from cl_plugin_clear.curation.metadata import Filter
    from cl_plugin_clear.curation.source import Source
    from cl_plugin_clear.method import moco
    from cl_plugin_clear.settings import Moco

    clip, raw = toy.toy_clip(), tmp_path / "raw"
    toy.write_metadata(raw, 300)
    small = Moco(arch="tiny", epochs=2, batch_size=16, queue=64, dim=16, image_size=24, lr=0.05)
    verified(folder, tmp_path / "answers")

    def run(out: Path) -> None:
        match step:
            case "metadata":
                ingest.ingest(out, Source.of_folder(raw), chunk_size=60, rule=Filter(), n_threads=2)
            case "split":
                shutil.copytree(store, out, dirs_exist_ok=True)
                buckets.make_split(out, "new", buckets.Rule(n=4))
            case "embed":
                if not out.exists():
                    shutil.copytree(store, out)
                    shutil.rmtree(out / "features")
                features.embed(out, "equal", clip, shard_rows=90, n_threads=1)
            case "retrieve":
                retrieve.retrieve_group(store, out, GROUP, clip, label_map=LABELS)
            case "build":
                retrieve.retrieve_group(store, out, GROUP, clip, label_map=LABELS)
                labelled.build_folder(store, out)
                training_folder.write_training_folder(out)
            case "features":
                if not out.exists():
                    shutil.copytree(folder, out)
                feature_sets.write_features(out, "second", lambda paths: np.ones((len(paths), 3), np.float32))
            case "collect":
                crowd.collect(folder, tmp_path / "answers", out, user_labels={}, num_imgs=4)
            case "moco":
                moco.pretrain(moco.toy_pictures(32, 0, 24), small, out, device="cpu")

    sync, calls = os.fsync, [0]

    def full(handle: int) -> None:
        file = stat.S_ISREG(os.fstat(handle).st_mode)
        calls[0] += file
        if file and calls[0] == {"split": 1, "build": 8}.get(step, 3):
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(handle)

    run(tmp_path / "whole")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull, match="disk is full") as told:
        run(tmp_path / "filled")
    assert told.value.fix
    monkeypatch.undo()
    run(tmp_path / "filled")

    def left(root: Path) -> dict[str, bytes]:
        clocked = ("log.json", "new.json", ".lock")
        return {k: v for k, v in content(root).items() if not k.endswith(clocked) and ".scratch" not in k}

    assert left(tmp_path / "filled") == left(tmp_path / "whole")


def test_a_sort_without_room_to_spill_is_a_full_disk(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import duckdb

    def cramped(*args: object) -> None:
        raise duckdb.IOException('Could not write file ".scratch/duckdb_temp": No space left on device')

    monkeypatch.setattr(buckets, "_cut", cramped)
    with pytest.raises(DiskFull, match="disk is full"):
        buckets.make_split(store, "new", buckets.Rule(n=4))
    monkeypatch.undo()
    assert buckets.make_split(store, "new", buckets.Rule(n=4))["reused"] is False


# ---- the original's files ---------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "/data3/someone/yfcc"])
def test_a_download_of_the_original_becomes_a_store(finished_store: Path, tmp_path: Path, prefix: str) -> None:
    as_original(finished_store, tmp_path / "old", "/data3/someone/yfcc")
    done = import_folder(tmp_path / "old", tmp_path / "new", old_prefix=prefix, chunk_size=300)
    _, ids = uploads(finished_store)
    assert (done.n_records, done.n_pictures, done.n_missing) == (len(ids), len(ids), 0)
    assert uploads(tmp_path / "new")[1].tolist() == ids.tolist()
    first = buckets.make_split(tmp_path / "new", "equal", buckets.Rule(n=3))
    theirs = json.loads((finished_store / "buckets" / "equal.json").read_text())
    assert [b["sha256"] for b in first["buckets"]] == [b["sha256"] for b in theirs["buckets"]]
    with pytest.raises(BadInput, match="/somewhere"):
        import_folder(tmp_path / "old", tmp_path / "n2", old_prefix="/somewhere")
    with pytest.raises(MissingAsset, match=f"none of the {len(ids)} pictures") as wrong:
        import_folder(tmp_path / "old", tmp_path / "n2", old_prefix="/data3")
    assert wrong.value.fix == "--old-prefix /data3/someone/yfcc"
    for picture in (tmp_path / "old").glob("*/images/*"):
        picture.unlink()
    with pytest.raises(MissingAsset) as gone:
        import_folder(tmp_path / "old", tmp_path / "n2", old_prefix=prefix)
    assert gone.value.fix == "copy the pictures there too" if prefix else "--old-prefix /data3/someone/yfcc"
    assert not (tmp_path / "n2").exists()


def test_pickles_build_records_and_run_nothing(tmp_path: Path) -> None:
    import pickle
    import sys
    import types

    module = types.ModuleType("large_scale_yfcc_download")
    kind = type("Metadata", (), {"__module__": module.__name__, "__qualname__": "Metadata"})
    module.Metadata = kind  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    try:
        one = kind()
        one.ID = "7"
        (tmp_path / "good.pickle").write_bytes(pickle.dumps([one]))
    finally:
        del sys.modules[module.__name__]
    assert load_pickle(tmp_path / "good.pickle")[0].ID == "7"

    class Evil:
        def __reduce__(self) -> object:
            return (Path.touch, (tmp_path / "ran",))

    (tmp_path / "bad.pickle").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(BadInput, match="more than photo records"):
        load_pickle(tmp_path / "bad.pickle")
    assert not (tmp_path / "ran").exists()


def test_parquet_parts_have_the_documented_columns(finished_store: Path) -> None:
    from cl_plugin_clear.curation.records import TABLE

    assert pq.read_schema(next((finished_store / "meta").glob("*.parquet"))).names == TABLE.names

"""Word and question vectors in the forms they are published in."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest

from cl_kernel import BadInput, MissingAsset
from cl_plugin_remind.data import prepare
from cl_plugin_remind.data.places import prepared_folders
from cl_plugin_remind.network.words import read_words

WORDS = ["what", "colour", "is"]
VECTORS = np.arange(8, dtype=np.float32).reshape(4, 2) + 1
DICTIONARY = [{"is": 0, "what": 1, "other": 2, "colour": 3}, ["is", "what", "other", "colour"]]
EXPECTED = VECTORS[[1, 3, 0]]


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    lines = [f"{word} {' '.join(map(str, VECTORS[row]))}" for word, row in DICTIONARY[0].items()]
    (tmp_path / "glove.txt").write_text("\n".join(lines))
    np.save(tmp_path / "glove6b_init_300d_clevr.npy", VECTORS)
    (tmp_path / "dictionary_clevr.pkl").write_bytes(pickle.dumps(DICTIONARY, protocol=2))
    table = {word: VECTORS[row] for word, row in DICTIONARY[0].items()}
    (tmp_path / "vectors.pkl").write_bytes(pickle.dumps(table))
    return tmp_path


@pytest.mark.parametrize("name", ["glove.txt", "glove6b_init_300d_clevr.npy", "vectors.pkl"])
def test_word_vectors_are_the_same_in_every_form(name: str, tables: Path) -> None:
    assert np.array_equal(read_words(tables / name, WORDS, 2).numpy(), EXPECTED)


def test_word_vectors_with_faults_are_named(tables: Path) -> None:
    with pytest.raises(BadInput, match="line 1 has 2 numbers, expected 3"):
        read_words(tables / "glove.txt", ["is"], 3)
    with pytest.raises(BadInput, match="none of the 1 words"):
        read_words(tables / "glove.txt", ["zebra"], 2)
    (tables / "dictionary_tdiuc.pkl").write_bytes(pickle.dumps(DICTIONARY))
    table = tables / "glove6b_init_300d_clevr.npy"
    with pytest.raises(BadInput, match="2 dictionaries lie beside it"):
        read_words(table, WORDS, 2)
    named = read_words(table, WORDS, 2, str(tables / "dictionary_clevr.pkl"))
    assert np.array_equal(named.numpy(), EXPECTED)
    np.save(table, VECTORS[:2])
    with pytest.raises(BadInput, match=r"for the 4 words of dictionary_clevr\.pkl"):
        read_words(table, WORDS, 2, str(tables / "dictionary_clevr.pkl"))


def test_a_pickle_that_would_run_something_is_refused(tables: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return Path(tables / "sprung").touch, ()

    (tables / "dictionary_clevr.pkl").write_bytes(pickle.dumps([Trap(), []]))
    with pytest.raises(BadInput, match="no part of a dictionary"):
        read_words(tables / "glove6b_init_300d_clevr.npy", WORDS, 2)
    assert not (tables / "sprung").exists()


def test_question_vectors_are_the_same_in_every_form(tmp_path: Path) -> None:
    qids = [7, 3, 5]
    vectors = np.random.default_rng(0).random((3, prepare.QFEAT)).astype(np.float32)
    np.save(tmp_path / "v.npy", vectors)
    (tmp_path / "v.pkl").write_bytes(pickle.dumps(dict(zip(qids, vectors, strict=True))))
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file["qids"], file["feats"] = np.array(qids[::-1]), vectors[::-1]
    for name in ("v.npy", "v.pkl", "v.h5"):
        assert np.array_equal(prepare.read_vectors(tmp_path / name, qids), vectors)
    with pytest.raises(BadInput, match=r"no vector of question 9 \(1 missing\)"):
        prepare.read_vectors(tmp_path / "v.h5", [*qids, 9])
    with pytest.raises(BadInput, match=r"vectors \[3, 2048\], expected \[2, 2048\]"):
        prepare.read_vectors(tmp_path / "v.npy", qids[:2])
    vectors[1, 0] = np.nan
    np.save(tmp_path / "v.npy", vectors)
    with pytest.raises(BadInput, match="question 3 holds values"):
        prepare.read_vectors(tmp_path / "v.npy", qids)
    with pytest.raises(MissingAsset):
        prepare.read_vectors(tmp_path / "w.npy", qids)


def test_preparing_takes_finished_vectors_from_above_the_archives_folder(tmp_path: Path) -> None:
    questions = tmp_path / "CLEVR_v1.0" / "questions"
    questions.mkdir(parents=True)
    for side in ("train", "val"):
        entry = {
            "question": "How many things are there?",
            "answer": 3,
            "image_index": 0,
            "question_index": 4,
            "program": [{"function": "count"}],
        }
        (questions / f"CLEVR_{side}_questions.json").write_text(json.dumps({"questions": [entry]}))
        np.save(tmp_path / f"{side}.npy", np.full((1, prepare.QFEAT), 2, np.float32))
    folder = prepared_folders("clevr", [tmp_path])[0]
    sizes = prepare.prepare("clevr", tmp_path, folder, vectors=str(tmp_path / "{side}.npy"))
    assert sizes == {"train_clevr.h5": 1, "val_clevr.h5": 1}
    with h5py.File(folder / "train_clevr.h5") as file:
        assert file["qfeat"][0, 0] == 2 and file["iid"][0] == 10

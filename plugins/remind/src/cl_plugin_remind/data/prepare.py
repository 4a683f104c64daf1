"""CLEVR and TDIUC from their published annotation files to the HDF5 form the networks train on.

``{train,val}_{name}.h5``: qfeat, qid, iid, q, a, ten_ans, aidx, ten_aidx, atypeidx, qtypeidx; ``LUT_{name}.json``:
a2idx, atype2idx, qtype2idx. Answers and types are numbered by falling frequency in training.
"""

from __future__ import annotations

import json
import pkgutil
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from attrs import frozen

from cl_kernel import BadInput, MissingAsset, write_json
from cl_plugin_remind.data.places import raw_folder
from cl_plugin_remind.data.questions import rank_by_frequency
from cl_plugin_remind.weights.safe_pickle import read_pickle

QFEAT = 2048
Encoder = Callable[[Sequence[str]], np.ndarray]

CLEVR_TYPE = {
    "count": "count",
    "exist": "exist",
    **{f"equal_{a}": "compare_attribute" for a in ("color", "material", "shape", "size")},
    **dict.fromkeys(("greater_than", "less_than", "equal_integer"), "compare_integer"),
    **{f"query_{a}": "query_attribute" for a in ("color", "material", "shape", "size")},
}


@frozen(kw_only=True)
class Row:
    """One question as the annotations have it; ``answers`` are the ten of VQA, or the one repeated."""

    qid: int
    iid: int
    question: str
    answer: str
    kind: str
    answers: tuple[str, ...] = ()


def read_json(path: Path) -> Any:
    """:raises MissingAsset: without the file. :raises BadInput: for a file cut short."""
    if not path.is_file():
        raise MissingAsset(f"no annotation file {path.name}", where=str(path))
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise BadInput(f"the annotation file is cut short or no JSON: {error}", where=str(path)) from error


def clevr_rows(root: Path, side: str) -> list[Row]:
    """``questions/CLEVR_{train,val}_questions.json``; image ids are "1" (train) or "2" (val) before the index."""
    path, rows = root / "questions" / f"CLEVR_{side}_questions.json", []
    digit = {"train": "1", "val": "2"}[side]
    for number, entry in enumerate(read_json(path)["questions"]):
        where = f"{path}, question {number}"
        last = entry["program"][-1]
        function = last.get("function", last.get("type", ""))
        if function not in CLEVR_TYPE:
            raise BadInput(f"the program ends with the unknown function {function!r}", where=where)
        rows.append(
            Row(
                qid=int(entry.get("question_index", number)),
                iid=int(f"{digit}{entry['image_index']}"),
                question=entry["question"],
                answer=str(entry["answer"]),
                kind=CLEVR_TYPE[function],
            )
        )
    return rows


def tdiuc_rows(root: Path, side: str) -> list[Row]:
    """``Annotations/mscoco_{train,val}2014_annotations.json`` and ``Questions/OpenEnded_mscoco_*_questions.json``."""
    path = root / "Annotations" / f"mscoco_{side}2014_annotations.json"
    asked = {
        q["question_id"]: q
        for q in read_json(root / "Questions" / f"OpenEnded_mscoco_{side}2014_questions.json")["questions"]
    }
    rows = []
    for number, entry in enumerate(read_json(path)["annotations"]):
        if (question := asked.get(entry["question_id"])) is None:
            raise BadInput(
                f"question {entry['question_id']} has an answer but no text", where=f"{path}, entry {number}"
            )
        if question["image_id"] != entry["image_id"]:
            raise BadInput(
                f"question {entry['question_id']} names image {question['image_id']}, its answer {entry['image_id']}",
                where=f"{path}, entry {number}",
            )
        answers = tuple(str(a["answer"]) for a in entry["answers"])
        if not answers:
            raise BadInput(f"question {entry['question_id']} has no answer", where=f"{path}, entry {number}")
        rows.append(
            Row(
                qid=int(entry["question_id"]),
                iid=int(entry["image_id"]),
                question=question["question"],
                answer=answers[0],
                kind=str(entry["question_type"]),
                answers=answers,
            )
        )
    return rows


READERS = {"clevr": clevr_rows, "tdiuc": tdiuc_rows}


def hashed(sentences: Sequence[str]) -> np.ndarray:
    """A question encoder that needs nothing: each word and pair of words adds a fixed random direction."""
    from cl_plugin_remind.data.questions import words_of

    table: dict[str, np.ndarray] = {}

    def direction(token: str) -> np.ndarray:
        if token not in table:
            rng = np.random.default_rng(np.frombuffer(token.encode().ljust(8, b"_"), np.uint8).astype(np.uint32))
            table[token] = rng.standard_normal(QFEAT).astype(np.float32) / np.sqrt(QFEAT)
        return table[token]

    rows = np.zeros((len(sentences), QFEAT), np.float32)
    for row, sentence in enumerate(sentences):
        words = words_of(sentence)
        for token in [*words, *(f"{a} {b}" for a, b in pairwise(words))]:
            rows[row] += direction(token)
    return rows


def prepare(
    name: str, root: Path, folder: Path, encoder: str = "cl_plugin_remind.data.prepare:hashed", vectors: str = ""
) -> dict[str, int]:
    """Write annotation and question files of both sides.

    :param encoder: ``module:function``, sentences -> float32 [n, 2048]; gensen's place, its vectors are stored but
        used by neither default network.
    :param vectors: file of finished question vectors instead, with ``{side}`` for train and val; see
        :func:`read_vectors`.
    :return: file name -> number of questions.
    """
    rows = {side: READERS[name](raw_folder(name, root), side) for side in ("train", "val")}
    if not rows["train"]:
        raise BadInput("no training questions", where=str(root))
    answers = rank_by_frequency([row.answer for row in rows["train"]])
    kinds = rank_by_frequency([row.kind for row in rows["train"]])
    features = {
        side: read_vectors(Path(vectors.replace("{side}", side)).expanduser(), [row.qid for row in entries])
        if vectors
        else _encoded(pkgutil.resolve_name(encoder), entries)
        for side, entries in rows.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {}
    for side, entries in rows.items():
        path = folder / f"{side}_{name}.h5"
        texts = folder / f"questions_{side}{'2014' if name == 'tdiuc' else ''}_{name}.h5"
        _write(path, entries, answers, kinds, features[side], texts)
        sizes[path.name] = len(entries)
    write_json(folder / f"LUT_{name}.json", {"a2idx": answers, "atype2idx": {"answer": 0}, "qtype2idx": kinds})
    return sizes


def _encoded(encode: Encoder, rows: Sequence[Row]) -> np.ndarray:
    sentences = [row.question for row in rows]
    parts = [np.asarray(encode(sentences[at : at + 512]), np.float32) for at in range(0, len(rows), 512)]
    features = np.concatenate(parts) if parts else np.zeros((0, QFEAT), np.float32)
    if features.shape != (len(rows), QFEAT):
        raise BadInput(
            f"the question encoder gave {features.shape}, expected ({len(rows)}, {QFEAT})", where="--encoder"
        )
    return features


def read_vectors(path: Path, qids: Sequence[int]) -> np.ndarray:
    """Question vectors that were computed before, in the order of the questions.

    :param path: ``.h5`` as the authors' script writes it (``feats``, ``qids``), ``.npy`` (a row a question, in the
        order of the annotations) or ``.pkl`` (question id -> vector).
    :return: float32 [n, 2048].
    :raises MissingAsset: without the file. :raises BadInput: for vectors that are missing, or of another length.
    """
    if not path.is_file():
        raise MissingAsset(f"no question vectors {path.name}", where=str(path))
    try:
        found = _by_question(path, qids)
    except (OSError, KeyError, ValueError, EOFError, TypeError) as error:
        raise BadInput(f"the question vectors cannot be read: {error}", where=str(path)) from error
    if found.shape != (len(qids), QFEAT):
        raise BadInput(f"vectors {list(found.shape)}, expected [{len(qids)}, {QFEAT}]", where=str(path))
    if not np.isfinite(found).all():
        bad = qids[int(np.flatnonzero(~np.isfinite(found).all(1))[0])]
        raise BadInput(f"the vector of question {bad} holds values that are no finite numbers", where=str(path))
    return found


def _by_question(path: Path, qids: Sequence[int]) -> np.ndarray:
    if path.suffix == ".npy":
        return np.asarray(np.load(path, allow_pickle=False), np.float32)
    if path.suffix in (".pkl", ".pickle"):
        table = {int(qid): vector for qid, vector in dict(read_pickle(path, "table of question vectors")).items()}
    else:
        import h5py

        with h5py.File(path) as file:
            table = dict(zip(file["qids"][()].tolist(), file["feats"][()], strict=True))
    if missing := [qid for qid in qids if qid not in table]:
        raise BadInput(f"no vector of question {missing[0]} ({len(missing)} missing)", where=str(path))
    return np.array([table[qid] for qid in qids], np.float32)


def _write(
    path: Path, rows: Sequence[Row], answers: dict[str, int], kinds: dict[str, int], features: np.ndarray, texts: Path
) -> None:
    import h5py

    text = h5py.string_dtype()
    sentences = [row.question for row in rows]
    ten = [tuple((row.answers or (row.answer,)) * 10)[:10] for row in rows]
    columns: dict[str, Any] = {
        "qfeat": features,
        "qid": np.array([row.qid for row in rows], np.int64),
        "iid": np.array([row.iid for row in rows], np.int64),
        "aidx": np.array([answers.get(row.answer, -1) for row in rows], np.int32),
        "ten_aidx": np.array([[answers.get(a, -1) for a in row] for row in ten], np.int32),
        "atypeidx": np.zeros(len(rows), np.int32),
        "qtypeidx": np.array([kinds.get(row.kind, -1) for row in rows], np.int32),
    }
    unknown = sorted({row.kind for row in rows} - set(kinds))
    if unknown:
        raise BadInput(f"question types {', '.join(unknown)} do not occur in training", where=str(path))
    for target, content, strings in (
        (path, columns, {"q": sentences, "a": [row.answer for row in rows], "ten_ans": ten}),
        (texts, {"feats": features, "qids": columns["qid"]}, {"questions": sentences}),
    ):
        temporary = target.with_suffix(".tmp")
        with h5py.File(temporary, "w") as file:
            for field_name, array in content.items():
                file.create_dataset(field_name, data=array)
            for field_name, values in strings.items():
                file.create_dataset(field_name, data=np.array(values, object), dtype=text)
        temporary.replace(target)

"""VQA streams: HDF5 files as ``clk remind prepare`` writes them, read as codes of images and numbers of words.

Shapes: N questions, I images, R regions, D channels, M codebooks, L words.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from attrs import define, frozen

from cl_kernel import BadInput, Field, MissingAsset, Resources, Stage, Stream, subset
from cl_plugin_remind.data import questions
from cl_plugin_remind.data.places import prepared_folders
from cl_plugin_remind.method import pq

if TYPE_CHECKING:
    from cl_plugin_remind.settings import Questions

DATASETS = {"clevr": ("train", "val"), "tdiuc": ("train2014", "val2014")}


@frozen(kw_only=True)
class Asked:
    """Questions of one side, one row each; text stays text until the vocabulary is known.

    :param image: row of the feature table, int64 [N]. :param answer: -1 for answers unknown in training.
    """

    text: Sequence[str]
    qid: np.ndarray
    image: np.ndarray
    answer: np.ndarray
    kind: np.ndarray
    ten_answers: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.text)


@define(eq=False, repr=False)
class QuestionSamples:
    """Questions with the codes of their images; images are kept once, however many questions ask about them."""

    spec: dict[str, Field]
    codes: Any  # uint8 [I, R, M], an array or an open HDF5 data set
    image: np.ndarray
    question: np.ndarray
    length: np.ndarray
    answer: np.ndarray  # int64 [N, 2]: answer, question type
    qid: np.ndarray
    centroids: np.ndarray

    def __len__(self) -> int:
        return len(self.image)

    def identify(self, files: Any, rows: np.ndarray | None = None) -> str:
        """Digest of the rows' questions and answers, and of the codes of all images."""
        rows = np.arange(len(self)) if rows is None else rows
        own = (self.image, self.question, self.length, self.answer, self.qid)
        return files.content(
            files.array(np.asarray(self.codes)), files.array(self.centroids), *(files.array(a, rows) for a in own)
        )

    def take(self, rows: np.ndarray, fields: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Fields of some rows."""
        own = {"question": self.question, "length": self.length, "answer": self.answer, "qid": self.qid}
        return {
            name: self.codes[self.image[rows]] if name == "codes" else own[name][rows]
            for name in (fields or ("codes", *own))
        }


def make_stream(
    name: str,
    settings: Questions,
    train: Asked,
    test: Asked,
    features: Any,
    *,
    n_types: int,
    type_names: Sequence[str],
    answer_names: Sequence[str],
    unit_regions: bool,
    codes: tuple[Any, np.ndarray] | None = None,
) -> Stream:
    """Stages of questions in the order of the settings, images as codes.

    :param features: float32 [I, R, D], or None when ``codes`` (codes [I, R, M], centroids) are given.
    :raises BadInput: for questions about images that are not in the table.
    """
    n_images = len(features) if codes is None else len(codes[0])
    for side, asked in (("train", train), ("test", test)):
        bad = np.flatnonzero((asked.image < 0) | (asked.image >= n_images))
        if len(bad):
            raise BadInput(
                f"question {asked.qid[bad[0]]} ({side}) asks about an image that has no features",
                where=f"data set {name!r}",
                fix="extract the features of all images again",
            )
    vocabulary = questions.Vocabulary.of(train.text)
    tokens = {
        side: vocabulary.encode(asked.text, settings.longest) for side, asked in (("train", train), ("test", test))
    }
    order, boundaries = questions.dataset_order(settings.order, train.kind, train.answer, len(answer_names))
    lengths = tokens["train"][1]
    streamed = questions.streamed_order(
        order, lengths, settings.sort_batch, () if settings.across_stages else boundaries
    )
    if codes is None:
        images = images_for_pq(settings, train, order[: boundaries[0]])
        codes = encode_features(features, images, settings.codebooks, settings.codebook_size, unit=False)
    table, centroids = codes
    region_dim = centroids.shape[0] * centroids.shape[2]
    spec = {
        "codes": Field(shape=tuple(table.shape[1:]), dtype=str(table.dtype), kind="codes", encoding=f"pq {region_dim}"),
        "question": Field(shape=(settings.longest,), dtype="int64", kind="question", n=len(vocabulary) + 1),
        "length": Field(shape=(), dtype="int64", kind="length"),
        "answer": Field(shape=(2,), dtype="int64", kind="answer", n=len(answer_names)),
        "qid": Field(shape=(), dtype="int64", kind="group"),
    }
    sides = {
        side: QuestionSamples(
            spec,
            table,
            asked.image,
            tokens[side][0],
            tokens[side][1],
            np.stack([asked.answer, asked.kind], 1).astype(np.int64),
            asked.qid,
            np.asarray(centroids, np.float32),
        )
        for side, asked in (("train", train), ("test", test))
    }
    stages, test_sets = [], {}
    for index, (start, end) in enumerate(zip([0, *boundaries], boundaries, strict=False)):
        rows = streamed[start:end]
        kinds = np.unique(train.kind[order[start:end]])
        label = type_names[int(kinds[0])] if settings.order == "qtype" and len(kinds) == 1 else f"{index + 1}"
        stages.append(Stage(index=index, name=label, train=subset(sides["train"], rows)))
        if settings.order == "qtype":
            members = np.flatnonzero(np.isin(test.kind, kinds))
            test_sets[label] = members if len(members) else np.arange(len(test))
    if settings.order == "iid":
        test_sets = {"all": np.arange(len(test))}
    info = {
        "question_types": tuple(type_names),
        "centroids": np.asarray(centroids, np.float32),
        "unit_regions": unit_regions,
        "words": vocabulary.words,
        "answers": tuple(answer_names),
        "unknown_words": tokens["test"][2],
        "n_types": n_types,
        "region_dim": region_dim,
    }
    return Stream(
        name=name, task="image + question -> answer", stages=stages, test=sides["test"], test_sets=test_sets, info=info
    )


def images_for_pq(settings: Questions, train: Asked, base_rows: np.ndarray) -> np.ndarray:
    """Rows of the feature table that train the quantiser.

    ``base``: images of the first stage. ``published``: for iid the first tenth of all used images, for qtype the
    images with a question of type 0; both reach beyond the first stage.
    """
    if settings.pq_images == "base":
        return np.unique(train.image[base_rows])
    used = np.unique(train.image)
    if settings.order == "iid":
        return used[: max(1, len(used) // 10)]
    return np.unique(train.image[train.kind == 0])


def encode_features(
    features: Any, images: np.ndarray, n_codebooks: int, n_centroids: int, *, unit: bool, chunk: int = 64
) -> tuple[np.ndarray, np.ndarray]:
    """Train a quantiser on the regions of some images and encode all images, chunk by chunk.

    :param features: float32 [I, R, D], an array or an open HDF5 data set. :param images: ascending rows.
    :return: codes [I, R, M] and centroids [M, K, d].
    """
    n_images, n_regions, dim = features.shape
    pq.check_sizes(dim, n_codebooks, n_centroids, "dataset.codebooks")

    def maps() -> Any:
        for at in range(0, len(images), chunk):
            part = np.asarray(features[np.sort(images[at : at + chunk])], np.float32)
            yield torch.from_numpy(part.transpose(0, 2, 1).copy()).unsqueeze(-1)

    rng = np.random.default_rng(0)
    quantiser = pq.Quantiser(torch.from_numpy(pq.train_maps(maps(), n_codebooks, n_centroids, rng.random)))
    codes = np.empty((n_images, n_regions, n_codebooks), np.uint8 if n_centroids <= 256 else np.int32)
    for at in range(0, n_images, chunk):
        part = np.asarray(features[at : at + chunk], np.float32)
        codes[at : at + chunk] = (
            quantiser.encode(torch.from_numpy(part.reshape(-1, dim))).numpy().reshape(len(part), n_regions, -1)
        )
    return codes, quantiser.centroids.numpy()


def read_annotations(path: Path) -> dict[str, np.ndarray]:
    """Questions of ``train_clevr.h5`` and the like.

    :raises MissingAsset: when there is none. :raises BadInput: for a file cut short.
    """
    import h5py

    if not path.is_file():
        raise MissingAsset(
            f"no question file {path.name}", where=str(path), fix="clk remind prepare clevr|tdiuc --root DIR"
        )
    try:
        with h5py.File(path) as file:
            content = {name: file[name][()] for name in ("qid", "iid", "aidx", "qtypeidx", "ten_aidx")}
            content["q"] = np.array(
                [text.decode() if isinstance(text, bytes) else text for text in file["q"][()]], object
            )
    except (OSError, KeyError) as error:
        raise BadInput(
            f"the question file cannot be read: {error}",
            where=str(path),
            fix="it may have been cut short; prepare it again",
        ) from error
    return content


def read_table(path: Path, *keys: str) -> dict[str, Any]:
    """A JSON file of look-up tables.

    :raises BadInput: for a file that is missing, cut short or lacks a table.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {key: content[key] for key in keys}
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(
            f"the look-up file cannot be read: {error}", where=str(path), fix="prepare, or extract features, again"
        ) from error


def prepared(name: str, settings: Questions, resources: Resources) -> Stream:
    """CLEVR or TDIUC from the folder that ``clk remind prepare`` wrote.

    :raises MissingAsset: for missing files. :raises BadInput: for questions about unknown images, files cut short.
    """
    folder = _folder(name, settings, resources)
    table = read_table(folder / f"LUT_{name}.json", "a2idx", "qtype2idx")
    index = read_table(folder / "map.json", "image_id_to_ix")["image_id_to_ix"]
    sides = []
    for side in ("train", "val"):
        content = read_annotations(folder / f"{side}_{name}.h5")
        images = np.array([index.get(str(iid), -1) for iid in content["iid"].tolist()], np.int64)
        sides.append(
            Asked(
                text=content["q"].tolist(),
                qid=content["qid"].astype(np.int64),
                image=images,
                answer=content["aidx"].astype(np.int64),
                kind=content["qtypeidx"].astype(np.int64),
                ten_answers=content["ten_aidx"],
            )
        )
    codes = read_codes(folder / f"codes_{settings.order}.h5", name, settings)
    return make_stream(
        name,
        settings,
        *sides,
        None,
        n_types=len(table["qtype2idx"]),
        type_names=questions.mean_types(table["qtype2idx"]),
        answer_names=questions.mean_types(table["a2idx"]),
        unit_regions=name == "tdiuc",
        codes=codes,
    )


def read_codes(path: Path, name: str, settings: Questions) -> tuple[np.ndarray, np.ndarray]:
    """Codes [I, R, M] and centroids [M, K, d].

    :raises MissingAsset: when there is none. :raises BadInput: for a file cut short, or made with other settings.
    """
    import h5py

    again = f"clk data prepare remind:{name}:{settings.order} --data-root DIR"
    if not path.is_file():
        raise MissingAsset(f"no image codes {path.name}", where=str(path), fix=again)
    try:
        with h5py.File(path) as file:
            codes, centroids = file["codes"][()], file["centroids"][()]
            images = file.attrs.get("pq_images", settings.pq_images)
    except (OSError, KeyError) as error:
        raise BadInput(
            f"the file of image codes cannot be read: {error}",
            where=str(path),
            fix=f"it may have been cut short; {again}",
        ) from error
    made = {"codebooks": centroids.shape[0], "codebook_size": centroids.shape[1], "pq_images": str(images)}
    for key, value in made.items():
        if value != (asked := getattr(settings, key)):
            raise BadInput(
                f"the image codes were made with {key} {value}, this run asks for {asked}",
                where=str(path),
                fix=f"--set dataset.{key}={value}, or encode anew: {again} --set {key}={asked}",
            )
    return codes, centroids


def clevr(settings: Questions, resources: Resources) -> Stream:
    """CLEVR."""
    return prepared("clevr", settings, resources)


def tdiuc(settings: Questions, resources: Resources) -> Stream:
    """TDIUC."""
    return prepared("tdiuc", settings, resources)


def _folder(name: str, settings: Questions, resources: Resources) -> Path:
    looked = [Path(settings.folder).expanduser()] if settings.folder else prepared_folders(name, resources.roots)
    for place in looked:
        if (place / f"LUT_{name}.json").is_file():
            return place
    raise MissingAsset(
        f"no prepared {name} questions (LUT_{name}.json)",
        where=", ".join(map(str, looked)) or "no data root given",
        fix=f"clk data prepare remind:{name} --data-root DIR, then the same --data-root here",
    )

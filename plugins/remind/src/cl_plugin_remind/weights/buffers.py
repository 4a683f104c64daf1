"""Replay buffers in the authors' form, a pickle, and as files that need none.

Shapes: n examples, H W side of their maps, M codebooks, K centroids a codebook, d channels of a sub-space.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from cl_kernel import BadInput, MissingAsset, load_tree, save_tree
from cl_kernel.torch.state import read_file
from cl_plugin_remind.weights.safe_pickle import ERRORS, read_pickle


def save_buffer(path: Path, codes: np.ndarray, labels: np.ndarray, items: np.ndarray, centroids: np.ndarray) -> None:
    """Write ``remind_buffer_*.pkl`` as the authors' code does: a pickle of dictionaries.

    :param codes: uint8 [n, H, W, M]. :param labels: int64 [n]. :param items: int64 [n], unique item numbers.
    :param centroids: float32 [M, K, d].
    """
    by_class: dict[int, list[int]] = {}
    for label, item in zip(labels.tolist(), items.tolist(), strict=True):
        by_class.setdefault(label, []).append(item)
    content = {
        "latent_dict": {
            item: [code, np.array(label)]
            for item, code, label in zip(items.tolist(), codes, labels.tolist(), strict=True)
        },
        "rehearsal_ixs": items.tolist(),
        "class_id_to_item_ix_dict": by_class,
        "pq_centroids": centroids,
    }
    with path.open("wb") as file:
        pickle.dump(content, file, protocol=4)


def read_buffer(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Read ``remind_buffer_*.pkl``, the authors' or ours; only by explicit request, and only arrays are rebuilt.

    :return: codes uint8 [n, H, W, M], labels int64 [n], item numbers int64 [n], centroids float32 [M, K, d].
    :raises BadInput: for a file of another form.
    """
    content = read_pickle(path, "buffer of REMIND")
    try:
        items = np.array([int(np.asarray(item).item()) for item in content["rehearsal_ixs"]], np.int64)
        latent = {int(np.asarray(key).item()): value for key, value in content["latent_dict"].items()}
        codes = np.stack([np.asarray(latent[item][0], np.uint8) for item in items.tolist()])
        labels = np.array([int(np.asarray(latent[item][1]).reshape(-1)[0]) for item in items.tolist()], np.int64)
        return codes, labels, items, np.asarray(content["pq_centroids"], np.float32)
    except ERRORS as error:
        raise BadInput(f"no buffer of REMIND: {type(error).__name__}: {error}", where=str(path)) from error


def convert_legacy(buffer: Path, classifier: Path, folder: Path) -> int:
    """The authors' buffer and classifier as files that need no pickle: ``buffer.tree`` and ``classifier.pth``.

    :return: number of examples.
    """
    codes, labels, items, centroids = read_buffer(buffer)
    content = read_file(classifier)
    if not isinstance(content, Mapping) or "model_state_dict" not in content:
        raise BadInput("no entry 'model_state_dict'", where=str(classifier), fix="a file remind_classifier_F_N.pth")
    folder.mkdir(parents=True, exist_ok=True)
    save_tree(folder / "buffer.tree", {"codes": codes, "labels": labels, "items": items, "centroids": centroids})
    torch.save(dict(content), folder / "classifier.pth")
    return len(items)


def check_start(folder: Path) -> None:
    """:raises MissingAsset: when :func:`convert_legacy` did not write this folder."""
    if missing := [name for name in ("buffer.tree", "classifier.pth") if not (folder / name).is_file()]:
        raise MissingAsset(
            f"no imported buffer ({missing[0]})",
            where=str(folder),
            fix="clk remind import-legacy BUFFER CLASSIFIER --output DIR",
        )


def read_start(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What :func:`convert_legacy` wrote: codes, labels, item numbers, centroids.

    :raises MissingAsset: when it did not.
    """
    check_start(folder)
    tree = load_tree(folder / "buffer.tree")
    return tree["codes"], tree["labels"], tree["items"], tree["centroids"]

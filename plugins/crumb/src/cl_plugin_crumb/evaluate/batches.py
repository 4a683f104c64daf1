"""What a finished run says about its test images one by one: accuracy in batches, and which memory blocks they use.

Shapes: N test images, S slices a location, K blocks, n classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cl_kernel import BadInput, MissingAsset

BATCH = 100
CODES = "memory_block_codes"
"""Stem of the file with the block numbers of all test images."""


def batch_order(n: int) -> np.ndarray:
    """The fixed order in which test images form batches, so that batches pair across arms."""
    return np.random.default_rng(0).permutation(n)


def batch_accuracies(right: np.ndarray, size: int = BATCH) -> np.ndarray:
    """Percent correct of each whole batch; the last partial one is dropped.

    :param right: bool [N], whether each test image was classified correctly, in the test set's order.
    """
    order = batch_order(len(right))
    whole = len(right) // size * size
    return 100.0 * right[order[:whole]].reshape(-1, size).mean(1)


def batch_table(arm: str, run: int, right: np.ndarray) -> pd.DataFrame:
    """``batchwise_accs_run<r>.csv``: ablation_name, run, batch_order_hash, batch, accuracy."""
    values = batch_accuracies(right)
    return pd.DataFrame(
        {
            "ablation_name": arm,
            "run": run,
            "batch_order_hash": _order_hash(len(right)),
            "batch": range(len(values)),
            "accuracy": values,
        }
    )


def shape_bias_table(run: int, right: np.ndarray, disturbed: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """``shape_bias_accs_run<r>_top1.csv``: batch accuracies without and with each disturbance."""
    plain = batch_accuracies(right)
    out = {"run": run, "batch": range(len(plain)), "batch_order_hash": _order_hash(len(right)), "unablated_acc": plain}
    return pd.DataFrame({**out, **{f"{kind}_perturb_acc": batch_accuracies(r) for kind, r in disturbed.items()}})


def _order_hash(n: int) -> str:
    return hashlib.sha256(batch_order(n).tobytes()).hexdigest()[:16]


def usage(indices: np.ndarray, n_blocks: int) -> np.ndarray:
    """How often each block stands for a slice, int64 [K].

    :param indices: block numbers, any shape.
    """
    return np.bincount(indices.reshape(-1), minlength=n_blocks)


def usage_shares(counts: np.ndarray) -> np.ndarray:
    """Share of each block, sorted, block 0 (all the empty slices) set to zero so that the others can be seen."""
    shares = counts / max(counts.sum(), 1)
    shares[0] = 0
    return np.sort(shares)[::-1]


def class_slots(indices: np.ndarray, labels: np.ndarray, n_classes: int, n_blocks: int) -> np.ndarray:
    """Per slice, how often images of each class use each block: [S, K, n].

    :param indices: [N, h, w, S].
    """
    n_slices = indices.shape[-1]
    out = np.zeros((n_slices, n_blocks, n_classes), np.int64)
    for s in range(n_slices):
        for c in range(n_classes):
            out[s, :, c] = usage(indices[labels == c][..., s], n_blocks)
    return out


def most_hits(codes: np.ndarray, labels: np.ndarray, block: int, n: int = 10) -> dict[int, np.ndarray]:
    """Of each class, the images with most slices that one block stands for, most first.

    :param codes: [N, h, w, S]; ``labels``: [N].
    :return: class -> numbers of images, those without a hit left out.
    """
    hits = (codes == block).reshape(len(codes), -1).sum(1)
    out = {}
    for c in np.unique(labels).tolist():
        mine = np.flatnonzero((labels == c) & (hits > 0))
        out[c] = mine[np.argsort(-hits[mine], kind="stable")[:n]]
    return out


def find_csv(folder: Path, pattern: str) -> list[Path]:
    """Files of a run or of a folder of runs.

    :raises MissingAsset: when there is none.
    """
    found = sorted(folder.rglob(pattern))
    if not found:
        raise MissingAsset(
            f"no {pattern}", where=str(folder), fix="finished CRUMB runs with learner.write_tables=true write it"
        )
    return found


def arm_runs(folders: Mapping[str, list[Path]], others: Sequence[Path] = ()) -> dict[str, list[np.ndarray]]:
    """Arm -> batch accuracies of each of its runs, in the order of the run numbers.

    :param folders: arm -> folders of its runs; ``others``: folders whose runs are told apart by the arm they name.
    :raises BadInput: when the batches of two runs were not formed alike, or an arm has the same run twice.
    """
    found = [(arm, path) for arm, places in folders.items() for place in places for path in _batch_files(place)]
    found += [("", path) for place in others for path in _batch_files(place)]
    runs: dict[str, dict[int, np.ndarray]] = {}
    hashes: dict[str, Path] = {}
    for arm, path in found:
        table = pd.read_csv(path)
        hashes.setdefault(str(table["batch_order_hash"].iloc[0]), path)
        if len(hashes) > 1:
            raise BadInput(
                "the batches of two runs were formed differently", where=" and ".join(map(str, hashes.values()))
            )
        name, run = arm or str(table["ablation_name"].iloc[0]), int(table["run"].iloc[0])
        if run in runs.setdefault(name, {}):
            raise BadInput(f"run {run} of arm {name} is there twice", where=str(path))
        runs[name][run] = table["accuracy"].to_numpy()
    return {name: [values for _, values in sorted(numbered.items())] for name, numbered in runs.items()}


def _batch_files(place: Path) -> list[Path]:
    return find_csv(place, "batchwise_accs_run*.csv")

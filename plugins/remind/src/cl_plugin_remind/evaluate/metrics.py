"""Scores of the paper: top-k, Omega, and the three accuracies of VQA.

Shapes: n examples, K classes, T evaluation points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cl_kernel import BadInput

N_TYPES = {"clevr": 5, "tdiuc": 12}


def top_k(scores: np.ndarray, labels: np.ndarray, ks: Sequence[int] = (1, 5)) -> list[float]:
    """Percent of examples whose label is among the k highest scores; k is at most the number of classes."""
    if not len(labels):
        raise BadInput("no examples to score", where="top-k accuracy")
    order = np.argsort(-scores, axis=1, kind="stable")
    hit = order == np.asarray(labels)[:, None]
    return [100.0 * float(hit[:, : min(k, scores.shape[1])].any(1).mean()) for k in ks]


def omega(alpha: Sequence[float], offline: Sequence[float]) -> float:
    """Mean over evaluation points of the learner's accuracy divided by that of offline training on the same data.

    :raises BadInput: for series of different lengths, or an offline accuracy of zero.
    """
    if len(alpha) != len(offline) or not len(alpha):
        raise BadInput(f"{len(alpha)} accuracies beside {len(offline)} offline ones", where="Omega")
    if min(offline) <= 0:
        raise BadInput("an offline accuracy is zero, Omega is undefined", where="Omega")
    return float(np.mean(np.asarray(alpha, float) / np.asarray(offline, float)))


def vqa_scores(
    predicted: np.ndarray, answers: np.ndarray, types: np.ndarray, n_types: int, ten_answers: np.ndarray | None = None
) -> dict[str, Any]:
    """Accuracy overall, per question type and in the mean over types.

    :param n_types: 5 for CLEVR, 12 for TDIUC; the mean divides by it even when a type is absent.
    :param ten_answers: int [n, 10] for the VQA accuracy, min(1, 0.3 matches); by default the answer ten times.
    :return: ``overall``, ``mean_per_type``, ``vqa`` and ``per_type`` (type -> accuracy), all in [0, 1].
    """
    right = np.asarray(predicted) == np.asarray(answers)
    per_type = {int(t): float(right[types == t].mean()) for t in np.unique(types)}
    if ten_answers is None:
        vqa = right.astype(float)
    else:
        vqa = np.minimum(1.0, 0.3 * (np.asarray(ten_answers) == np.asarray(predicted)[:, None]).sum(1))
    return {
        "overall": float(right.mean()),
        "mean_per_type": sum(per_type.values()) / n_types,
        "vqa": float(vqa.mean()),
        "per_type": per_type,
    }


def omega_of_runs(run: Mapping[str, Any], offline: Mapping[str, Any], metric: str) -> float:
    """Omega from the results of two runs: their values over all classes seen, stage by stage."""
    series = []
    for results in (run, offline):
        table = results["metrics"].get(metric)
        if table is None:
            raise BadInput(f"a run has no metric {metric!r}; it has {', '.join(results['metrics'])}", where="Omega")
        series.append([next(iter(values.values())) for values in table["seen"]])
    return omega(series[0], series[1])

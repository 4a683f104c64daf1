"""Tests of significance: paired t-test between arms, and how much shape or feature disturbances cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from attrs import frozen
from scipy import stats

from cl_kernel import BadInput

SIGNIFICANT = 0.05 / 6
"""Level of the shape-bias tests, corrected for six of them."""

Runs = Sequence[np.ndarray]
"""One array a run; rows are test batches, paired across arms."""


@frozen(kw_only=True)
class TTest:
    """Result of a paired t-test.

    :param wilcoxon: p of the signed-rank test on the same pairs.
    """

    statistic: float
    p: float
    n: int
    mean_difference: float
    wilcoxon: float


@frozen(kw_only=True)
class ShapeBias:
    """How much less a disturbance costs CRUMB than a control.

    :param advantage: mean relative drop of the control minus CRUMB's.
    :param p: Wilcoxon signed-rank over paired batches.
    :param spread: sample standard deviation over runs of the per-run mean differences.
    :param drops: mean relative drop of CRUMB and of the control.
    """

    advantage: float
    p: float
    spread: float
    drops: tuple[float, float]

    @property
    def significant(self) -> bool:
        """Below the corrected level."""
        return self.p < SIGNIFICANT


def _paired(a: Runs, b: Runs) -> None:
    if len(a) != len(b) or any(len(x) != len(y) for x, y in zip(a, b, strict=True)):
        raise BadInput(
            f"batches do not pair: {[len(x) for x in a]} against {[len(y) for y in b]}",
            where="batch accuracies",
            fix="score both arms on the same runs with the same batches",
        )


def paired_t_test(ours: Runs, arm: Runs) -> TTest:
    """Paired t-test over the batches of all runs together; ``arm`` with one run is compared with our first.

    Where all differences are the same one, t has no spread to go by: it and its p are nan.

    :raises BadInput: when the batches do not pair, or are fewer than two.
    """
    ours = ours[:1] if len(arm) == 1 else ours
    _paired(ours, arm)
    a, b = np.concatenate(ours).astype(float), np.concatenate(arm).astype(float)
    if len(a) < 2:
        raise BadInput(
            f"a paired test needs two batches of test images or more, there are {len(a)}",
            where="batch accuracies",
            fix="give several runs of each arm, or test on more images",
        )
    if np.array_equal(a, b):
        return TTest(statistic=0.0, p=1.0, n=len(a), mean_difference=0.0, wilcoxon=1.0)
    statistic, p = stats.ttest_rel(a, b) if np.ptp(a - b) else (np.nan, np.nan)
    return TTest(
        statistic=float(statistic),
        p=float(p),
        n=len(a),
        mean_difference=float((a - b).mean()),
        wilcoxon=float(stats.wilcoxon(a, b).pvalue),
    )


def relative_drop(plain: np.ndarray, disturbed: np.ndarray) -> np.ndarray:
    """``(a - a_p) / a`` per batch."""
    return (plain - disturbed) / plain


def shape_bias(
    ours: Sequence[tuple[np.ndarray, np.ndarray]], control: Sequence[tuple[np.ndarray, np.ndarray]]
) -> ShapeBias:
    """Compare what a disturbance costs.

    :param ours: per run, batch accuracies without and with the disturbance; ``control`` the same.
    :raises BadInput: when the batches do not pair.
    """
    _paired([plain for plain, _ in ours], [plain for plain, _ in control])
    mine = [relative_drop(*run) for run in ours]
    theirs = [relative_drop(*run) for run in control]
    per_run = [float(b.mean() - a.mean()) for a, b in zip(mine, theirs, strict=True)]
    a, b = np.concatenate(mine), np.concatenate(theirs)
    return ShapeBias(
        advantage=float(b.mean() - a.mean()),
        p=float(stats.wilcoxon(a, b).pvalue) if (a != b).any() else 1.0,
        spread=float(np.std(per_run, ddof=1)) if len(per_run) > 1 else 0.0,
        drops=(float(a.mean()), float(b.mean())),
    )


def t_tests(arms: Mapping[str, Runs], ours: str = "unablated") -> dict[str, TTest]:
    """Every arm against ours."""
    return {name: paired_t_test(arms[ours], runs) for name, runs in arms.items() if name != ours}

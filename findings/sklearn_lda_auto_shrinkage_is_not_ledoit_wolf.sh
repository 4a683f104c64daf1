#!/usr/bin/env bash
# scikit-learn 1.9.1: LinearDiscriminantAnalysis(shrinkage="auto") is not shrinkage by LedoitWolf().
#
# Guess: "auto" determines the shrinkage by the Ledoit-Wolf lemma, so it equals covariance_estimator=LedoitWolf(), and
#        differs from shrinkage=0.1 in nothing but the amount.
# Seen:  "auto" standardises each feature within its class first and shrinks the correlations: it keeps every variance.
#        A number, and LedoitWolf() given by hand, shrink the covariances towards one common variance. With features of
#        very different scales, as between the channels of a network, the two forms of Ledoit-Wolf answer differently on
#        a good part of the rows and one is far better than the other.
# Why it matters: streaming LDA and covariance prototypes are compared with this class as their batch reference, and a
#        shrinkage found in one form says nothing about the other.
# Way out: standardise before fitting when a number or an estimator is given, or shrink correlations in both.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check scikit-learn==1.9.1 scipy==1.17.1 numpy==2.4.2
"$place/venv/bin/python" - <<'PY'
import numpy as np
import sklearn
from sklearn.covariance import LedoitWolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

print("scikit-learn", sklearn.__version__)
rng = np.random.default_rng(0)
scales = np.logspace(-1, 2, 20)
means = 0.8 * rng.standard_normal((3, 20))


def drawn(n: int) -> tuple[np.ndarray, np.ndarray]:
    labels = rng.integers(0, 3, n)
    return scales * (means[labels] + rng.standard_normal((n, 20))), labels


(train, labels), (test, truth) = drawn(60), drawn(2000)
ways = {
    "auto": LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"),
    "LedoitWolf()": LinearDiscriminantAnalysis(solver="lsqr", covariance_estimator=LedoitWolf()),
}
answers, variances = {}, {}
for name, model in ways.items():
    model.fit(train, labels)
    answers[name], variances[name] = model.predict(test), np.diag(model.covariance_)
    print(f"{name:13} accuracy {(answers[name] == truth).mean():.3f}  variances {variances[name].min():9.4f} to {variances[name].max():9.1f}")
within = sum((labels == c).mean() * train[labels == c].var(0) for c in range(3))
assert np.allclose(variances["auto"], within), "changed: auto no longer keeps the variances"
assert variances["LedoitWolf()"].min() > 100 * within.min()
agree = (answers["auto"] == answers["LedoitWolf()"]).mean()
print(f"the two agree on {agree:.3f} of the rows")
assert agree < 0.9, "changed: both forms answer alike"
PY

#!/usr/bin/env bash
# scikit-learn 1.9.1: GaussianNB.partial_fit with one row a call predicts the first class for everything.
#
# Guess: partial_fit keeps running means and variances, so the size of the calls changes nothing but rounding.
# Seen:  the smoothing added to every variance is a share of the largest variance WITHIN the latest call. One row has
#        none, so pixels that never change within a class keep variance 0, the likelihoods are NaN and argmax takes
#        the first class: 10 % on the digits instead of 78 %, also after hundreds of rows. Two rows a call suffice.
#        Only numpy's divide warnings hint at it.
# Why it matters: a streaming learner sees one row at a time, and this is the usual streaming baseline.
# Way out: partial_fit on small groups of rows (two are enough), or fit on the rows kept so far.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check scikit-learn==1.9.1 scipy==1.17.1 numpy==2.4.2
"$place/venv/bin/python" -W ignore - <<'PY'
import numpy as np
import sklearn
from sklearn.datasets import load_digits
from sklearn.naive_bayes import GaussianNB

print("scikit-learn", sklearn.__version__)
pictures, labels = load_digits(return_X_y=True)
train = np.arange(len(labels)) % 2 == 0
rows, classes = pictures[train], labels[train]


def learnt(size: int) -> tuple[float, int, np.ndarray]:
    model = GaussianNB()
    for start in range(0, len(rows), size):
        model.partial_fit(rows[start : start + size], classes[start : start + size], classes=range(10))
    guesses = model.predict(pictures[~train])
    return float((guesses == labels[~train]).mean()), int((model.var_ == 0).sum()), np.unique(guesses)


for size in (1, 2, 10, len(rows)):
    accuracy, zeros, guessed = learnt(size)
    print(f"{size:3} rows a call: accuracy {accuracy:.3f}, variances of zero {zeros:3}, classes predicted {guessed.tolist()}")
    if size == 1:
        assert guessed.tolist() == [0] and zeros > 0, "changed: one row a call learns"
    else:
        assert accuracy > 0.75 and zeros == 0
PY

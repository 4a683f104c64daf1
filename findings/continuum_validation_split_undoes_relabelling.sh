#!/usr/bin/env bash
# continuum 1.2.7: a validation split gives the classes of later data sets the numbers of the first one's.
#
# Guess: split_train_val(taskset) parts the rows of a task in two; what a row is, label included, stays.
# Seen:  OnlineFellowship (one data set after the other, update_labels=True by default) moves the labels of the second
#        data set behind those of the first by a target transform. split_train_val, and concat likewise, keep the
#        transform of the pictures and drop that of the labels: both parts of the second task say 0 and 1, as the
#        first task does, instead of 2 and 3. No warning.
# Why it matters: two data sets share their classes' outputs as soon as a validation part is asked for, and validation
#        and training agree with each other; only the test set, not split, shows it.
# (torchvision 0.15.2 stands in for the newest: it also imports beside a CPU build of torch; only its transforms
# are used.)
# Way out: put the transform back on both parts (part.target_trsf = taskset.target_trsf).
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.2 scipy==1.17.1 pillow==12.0.0 \
    scikit-learn==1.9.1 h5py==3.14.0 ImageHash==4.3.2 requests==2.32.5 matplotlib==3.10.7 pandas==2.3.3 \
    six==1.17.0 scikit-image==0.26.0 datasets==5.2.0
"$place/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps torchvision==0.15.2 continuum==1.2.7
"$place/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import numpy as np
from continuum.datasets import InMemoryDataset
from continuum.scenarios import OnlineFellowship
from continuum.tasks import concat, split_train_val

print("continuum", version("continuum"))
pictures, labels = np.zeros((20, 8, 8, 3), np.uint8), np.tile([0, 1], 10)
stream = OnlineFellowship([InMemoryDataset(pictures, labels), InMemoryDataset(pictures, labels)])


def seen(part) -> list[int]:
    return sorted({int(part[i][1]) for i in range(len(part))})


first, second = stream[0], stream[1]
train, validation = split_train_val(second, val_split=0.4)
split, joined = (seen(train), seen(validation)), seen(concat([second]))
print("labels of task 0             ", seen(first))
print("labels of task 1             ", seen(second))
print("task 1 split: train, validation", *split)
print("task 1 through concat        ", joined)
for part in (train, validation):
    part.target_trsf = second.target_trsf
print("split, transform put back    ", seen(train), seen(validation))
assert seen(first) == [0, 1] and seen(second) == [2, 3]
assert split == ([0, 1], [0, 1]) and joined == [0, 1], "changed: the labels survive a split"
assert seen(train) == seen(validation) == [2, 3], "changed: the way out"
PY

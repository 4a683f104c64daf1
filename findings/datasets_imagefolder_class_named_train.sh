#!/usr/bin/env bash
# datasets 5.2.0 (Hugging Face): a class folder called `train`, or `test_tube`, makes all other classes vanish.
#
# Guess: load_dataset("imagefolder", data_dir=DIR) on DIR/CLASS/*.png gives one labelled example a picture.
# Seen:  when one class has the name of a split as a word of its own (Pascal VOC's class `train`; `test_tube`;
#        `valley` is fine), that folder is taken for a split. Only its pictures are loaded, the other classes are left
#        out, and there is no label column. No warning, no error.
# Way out: hand the class folders in one level below a folder named after a split (DIR/train/CLASS/*), where the names
#        of the classes are read as labels again, `train` included.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check datasets==5.2.0 pillow==12.0.0 numpy==2.4.2
HF_HUB_OFFLINE=1 HF_HOME="$place/hf" "$place/venv/bin/python" - "$place" 2>/dev/null <<'PY'
import sys
from pathlib import Path

import datasets
import numpy as np
from PIL import Image

print("datasets", datasets.__version__)


def loaded(name: str, classes: list[str], below: str = "") -> tuple[dict[str, int], list[str]]:
    root = Path(sys.argv[1]) / name
    for c in classes:
        folder = root / below / c
        folder.mkdir(parents=True)
        for i in range(3):
            Image.fromarray(np.full((8, 8, 3), 10 * i, np.uint8)).save(folder / f"{i}.png")
    made = datasets.load_dataset("imagefolder", data_dir=str(root), cache_dir=str(root) + "_cache")
    names = [n for split in made.values() for n in getattr(split.features.get("label"), "names", [])]
    return {split: len(rows) for split, rows in made.items()}, names


plain = loaded("plain", ["car", "plane", "valley"])
train = loaded("voc", ["car", "plane", "train"])
tube = loaded("lab", ["spoon", "test_tube", "valley"])
nested = loaded("nested", ["car", "plane", "train"], below="train")
for title, (rows, names) in {
    "car plane valley": plain,
    "car plane train": train,
    "spoon test_tube valley": tube,
    "train/{car plane train}": nested,
}.items():
    print(f"{title:24} 9 pictures -> rows {rows}, classes {names or 'no label column'}")
assert plain == ({"train": 9}, ["car", "plane", "valley"])
assert train == ({"train": 3}, []), "changed: a class called train no longer hides the others"
assert tube == ({"test": 3}, []), "changed: a class called test_tube no longer hides the others"
assert nested == ({"train": 9}, ["car", "plane", "train"]), "changed: the way out"
PY

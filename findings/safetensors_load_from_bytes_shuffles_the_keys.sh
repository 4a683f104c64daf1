#!/usr/bin/env bash
# safetensors 0.8.0: load(bytes) gives the tensors in another order on every call; load_file(path) in one fixed order.
#
# Guess: both readers of one format give the same dictionary, in the order of the file, as Python dictionaries do.
# Seen:  the same bytes, read twice in one process, come back with keys in different orders (load_file keeps to one).
#        PYTHONHASHSEED and the seeds of random, numpy and torch have no say in it.
# Why it matters: flattening weights, hashing a checkpoint, averaging in floating point or drawing one random number a
#        tensor while walking over load(...) differs from run to run although every seed is fixed.
# Way out: walk over sorted(tensors), or over the keys of the network they belong to.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check safetensors==0.8.0 numpy==2.4.2
PYTHONHASHSEED=0 "$place/venv/bin/python" - "$place" <<'PY'
import sys
from pathlib import Path

import numpy as np
import safetensors
from safetensors.numpy import load, load_file, save_file

print("safetensors", safetensors.__version__)
file = Path(sys.argv[1]) / "weights.safetensors"
save_file({f"layer{i}": np.full(2, i, np.float32) for i in range(8)}, file)
content = file.read_bytes()
from_bytes = [list(load(content)) for _ in range(20)]
from_file = [list(load_file(file)) for _ in range(20)]
for keys in from_bytes[:3]:
    print("load(bytes)    ", *keys)
print("load_file(path)", *from_file[0])
print("orders in 20 reads:", len(set(map(tuple, from_bytes))), "from bytes,", len(set(map(tuple, from_file))), "from the file")
values = load(content)
assert all((values[f"layer{i}"] == i).all() for i in range(8)), "the values themselves are right"
assert len(set(map(tuple, from_file))) == 1, "changed: load_file no longer keeps one order"
assert len(set(map(tuple, from_bytes))) > 1, "changed: load(bytes) keeps one order"
PY

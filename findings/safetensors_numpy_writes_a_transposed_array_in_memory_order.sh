#!/usr/bin/env bash
# safetensors 0.8.0, numpy side: a transposed array is written in the order of memory under the transposed shape.
#
# Guess: save_file(arrays) then load_file() gives equal arrays, or save_file refuses what it cannot write (the torch
#        side raises ValueError for a tensor that is not contiguous).
# Seen:  x.T, np.asfortranarray(x) and pictures turned from channels-first to channels-last come back with the right
#        shape and type and every value in another place. No warning. The docstring asks for contiguous arrays;
#        nothing checks it.
# Why it matters: features and replay pictures are often transposed views; a memory written this way is scrambled for
#        good, and a network trained on it merely looks weak.
# Way out: np.ascontiguousarray on every array before saving.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check safetensors==0.8.0 numpy==2.4.2
"$place/venv/bin/python" - "$place" <<'PY'
import sys
from pathlib import Path

import numpy as np
import safetensors
from safetensors.numpy import load_file, save_file

print("safetensors", safetensors.__version__)
file = Path(sys.argv[1]) / "memory.safetensors"


def back(array: np.ndarray) -> np.ndarray:
    save_file({"x": array}, file)
    return load_file(file)["x"]


table = np.arange(6, dtype=np.float32).reshape(2, 3)
pictures = np.arange(24, dtype=np.uint8).reshape(1, 2, 3, 4).transpose(0, 2, 3, 1)
cases = {"as made": table, "transposed": table.T, "Fortran order": np.asfortranarray(table), "channels last": pictures}
for title, array in cases.items():
    got, copied = back(array), back(np.ascontiguousarray(array))
    print(f"{title:14} equal after a round trip: {np.array_equal(got, array)!s:5}  made contiguous first: {np.array_equal(copied, array)}")
    assert got.shape == array.shape and got.dtype == array.dtype and np.array_equal(copied, array)
    assert np.array_equal(got, array) == (title == "as made"), "changed: the order of an array's memory is minded"
print("transposed, saved:", table.T.tolist())
print("transposed, read :", back(table.T).tolist())
PY
